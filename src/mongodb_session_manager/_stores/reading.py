"""How the catalog reads: its collections, its scope, its limit of time, and timed operations."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from bson.codec_options import DatetimeConversion
from pymongo.collection import Collection
from pymongo.errors import OperationFailure, PyMongoError
from pymongo.read_preferences import Nearest, Primary, PrimaryPreferred, Secondary, SecondaryPreferred

from .._client.errors import forget_values
from .._schema.catalog_filter import Conditions
from .._schema.not_utf8 import lenient_pipeline, marked
from .._schema.values import CODEC_OPTIONS, Pipeline, Stored
from .operation import Collections

__all__ = ["ESCAPING", "CatalogReads", "ReadSettings", "catalog_operation", "failed_on_a_value"]

logger = logging.getLogger(__name__)

_PREFERENCES = (Nearest, Primary, PrimaryPreferred, Secondary, SecondaryPreferred)
_MOST_MS = 2**31 - 1
# One document with a time after 9999, or with text that is not UTF-8, must not make the others unreadable.
_TOLERANT = CODEC_OPTIONS.with_options(
    datetime_conversion=DatetimeConversion.DATETIME_AUTO, unicode_decode_error_handler="replace"
)
# Such a text can be told from others, and is no valid id.
ESCAPING = _TOLERANT.with_options(unicode_decode_error_handler="surrogateescape")
# Codes from here on are of expressions that failed on a value. They are not the same in all versions of the server.
_FIRST_OF_EXPRESSIONS = 15_000


@dataclass(frozen=True)
class ReadSettings:
    """Where to read, and how long.

    Attributes:
        preference: The read preference.
        max_time_ms: Milliseconds that the server may work for one operation.
    """

    preference: Any
    max_time_ms: int

    @classmethod
    def of(cls, read_preference: object, max_time: object) -> "ReadSettings":
        """Return the settings that a caller gave.

        Raises:
            TypeError: One has a wrong type.
            ValueError: ``max_time`` is shorter than a millisecond.
        """
        if not isinstance(read_preference, _PREFERENCES):
            raise TypeError(
                "read_preference must be one of pymongo.ReadPreference, such as ReadPreference.SECONDARY_PREFERRED, "
                f"got {type(read_preference).__name__}"
            )
        if not isinstance(max_time, timedelta):
            raise TypeError(f"max_time must be a timedelta, got {type(max_time).__name__}")
        milliseconds = max_time // timedelta(milliseconds=1)
        if milliseconds < 1:
            raise ValueError(f"max_time must be a millisecond or more, got {max_time}")
        return cls(read_preference, min(milliseconds, _MOST_MS))


@dataclass(frozen=True)
class CatalogReads:
    """Reads of one namespace within a scope.

    Attributes:
        sessions: The session documents.
        segments: The segment documents.
        files: The documents of the offloaded values.
        chunks: The contents of the files.
        max_time_ms: Milliseconds that the server may work for one operation.
        scope: The conditions of the scope; all must hold.
    """

    sessions: Collection[Stored]
    segments: Collection[Stored]
    files: Collection[Stored]
    chunks: Collection[Stored]
    max_time_ms: int
    scope: tuple[Conditions, ...] = ()

    @classmethod
    def of(cls, collections: Collections, settings: ReadSettings) -> "CatalogReads":
        """Return the reads of a namespace, without a scope."""
        found = (collections.sessions, collections.segments, collections.files, collections.chunks)
        sessions, segments, files, chunks = (each.with_options(_TOLERANT, settings.preference) for each in found)
        return cls(sessions, segments, files, chunks, settings.max_time_ms)

    def within(self, conditions: Conditions) -> "CatalogReads":
        """Return the reads within a narrower scope."""
        return replace(self, scope=(*self.scope, conditions))

    def aggregate(self, pipeline: Pipeline, **options: Any) -> list[Stored]:
        """Return the result of an aggregation over the sessions."""
        return self.aggregate_in(self.sessions, pipeline, **options)

    def aggregate_in(self, collection: Collection[Stored], pipeline: Pipeline, **options: Any) -> list[Stored]:
        """Return the result of an aggregation over a collection, also if a text in it is not UTF-8."""
        try:
            return list(collection.aggregate(pipeline, maxTimeMS=self.max_time_ms, **options))
        except OperationFailure as error:
            if lenient_pipeline(pipeline) == pipeline or not failed_on_a_value(error):
                raise
        return list(self.lenient(collection, pipeline, **options))

    def lenient(self, collection: Collection[Stored], pipeline: Pipeline, **options: Any) -> Iterator[Stored]:
        """Return the result of an aggregation that does not fail on a text that is not UTF-8, and marks it."""
        escaping, stages = collection.with_options(ESCAPING), lenient_pipeline(pipeline)
        with escaping.aggregate(stages, maxTimeMS=self.max_time_ms, **options) as cursor:
            yield from map(marked, cursor)

    def find(self, collection: Collection[Stored], wanted: Stored) -> list[Stored]:
        """Return documents of a collection."""
        return list(collection.find(wanted, max_time_ms=self.max_time_ms))

    def stream(self, pipeline: Pipeline, **options: Any) -> Iterator[Stored]:
        """Return the result of an aggregation over the sessions, as far as it is asked for."""
        with self.sessions.aggregate(pipeline, maxTimeMS=self.max_time_ms, **options) as cursor:
            yield from cursor


def failed_on_a_value(error: OperationFailure) -> bool:
    """Tell whether an expression failed on a value, such as a text that is not UTF-8."""
    return (error.code or 0) >= _FIRST_OF_EXPRESSIONS


@contextmanager
def catalog_operation(verb: str) -> Iterator[None]:
    """Time one call; a driver error is raised with a note of the verb, and without what it quotes."""
    started = time.perf_counter()
    try:
        yield
    except PyMongoError as error:
        forget_values(error)
        error.__notes__ = [*getattr(error, "__notes__", ()), f"in {verb} of the catalog"]
        _log(verb, started, type(error).__name__)
        raise
    _log(verb, started, "done")


def _log(verb: str, started: float, outcome: str) -> None:
    logger.debug(
        "operation=<%s>, milliseconds=<%.2f>, outcome=<%s> | catalog",
        verb,
        (time.perf_counter() - started) * 1000,
        outcome,
    )
