"""Indexes, created once per client, namespace and process, in the background.

Creating one takes minutes on a large collection. A thread for each client creates them one after the other. Closing the
client, or the end of the process, does not wait for it.
"""

import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from pymongo import IndexModel, MongoClient
from pymongo.collection import Collection
from pymongo.errors import InvalidOperation, OperationFailure, PyMongoError

from .._schema.catalog_indexes import managed_indexes

__all__ = [
    "ONE_IN_THE_WAY",
    "UNAUTHORIZED",
    "Index",
    "create_together",
    "ensure_expiry_index",
    "ensure_file_indexes",
    "ensure_indexes",
    "ensure_segment_index",
]

logger = logging.getLogger(__name__)

THREAD_NAME: Final = "mongodb-session-manager-indexes"
# Seconds. The server continues a build that was not done in time, so asking again soon does not help.
PAUSE: Final = 300.0

UNAUTHORIZED: Final = 13
# One index of the list cannot be made: it exists with other options (85, 86), or the server refuses it (67).
ONE_IN_THE_WAY: Final = frozenset({67, 85, 86})
# ShutdownInProgress and InterruptedAtShutdown.
_ENDING: Final = frozenset({91, 11600})


@dataclass(frozen=True)
class Index:
    """An index to be created.

    Attributes:
        keys: Its fields, each with 1 or -1.
        unique: Whether it is unique.
        expiring: Whether the server deletes documents whose date in its field is over.
    """

    keys: tuple[tuple[str, int], ...]
    unique: bool = False
    expiring: bool = False

    def __str__(self) -> str:
        return " ".join(name for name, _ in self.keys)

    @property
    def model(self) -> IndexModel:
        """The index as the driver takes it."""
        options: dict[str, Any] = {"unique": True} if self.unique else {}
        if self.expiring:
            options = {"expireAfterSeconds": 0, "partialFilterExpression": {self.keys[0][0]: {"$exists": True}}}
        return IndexModel(list(self.keys), **options)


_EXPIRY: Final = Index((("expires_at", 1),), expiring=True)
# By these the children of one life of a session are found; a sweep reads nothing else of them.
_SEGMENTS: Final = Index((("session_id", 1), ("instance", 1)))
_FILES: Final = Index((("metadata.session_id", 1), ("metadata.instance", 1)))
# GridFS prescribes this index, and other tools expect it.
_CHUNKS: Final = Index((("files_id", 1), ("n", 1)), unique=True)


class _Namespace:
    """The indexes of one collection that this process has asked a server for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._claimed: set[Index] = set()
        # When indexes that were not made in time may be claimed again.
        self._claimed_until: dict[Index, float] = {}
        self._warned = False

    def claim(self, indexes: Iterable[Index]) -> list[Index]:
        """Claim the indexes that are not claimed yet; the caller creates them."""
        with self._lock:
            missing = [index for index in dict.fromkeys(indexes) if self._is_free(index)]
            self._claimed.update(missing)
        return missing

    def _is_free(self, index: Index) -> bool:
        return index not in self._claimed and time.monotonic() >= self._claimed_until.get(index, 0.0)

    def give_back(self, indexes: Iterable[Index], pause: float = 0.0) -> None:
        with self._lock:
            self._claimed.difference_update(indexes)
            self._claimed_until |= dict.fromkeys(indexes, time.monotonic() + pause)

    def first_warning(self) -> bool:
        with self._lock:
            warned, self._warned = self._warned, True
        return not warned


@dataclass(frozen=True)
class _Build:
    """Indexes to be created."""

    collection: Collection[dict[str, Any]]
    namespace: _Namespace
    indexes: list[Index]

    def run(self) -> None:
        try:
            create_together(self.collection, [index.model for index in self.indexes])
        except PyMongoError as error:
            _note_failure(self.collection, self.namespace, self.indexes, error)


class _Builder:
    """Creates the indexes of one client, on a thread that ends when none is left to create."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._builds: deque[_Build] = deque()
        self._at_work = False

    def add(self, build: _Build) -> None:
        with self._lock:
            self._builds.append(build)
            at_work, self._at_work = self._at_work, True
        if not at_work:
            self._start()

    def _start(self) -> None:
        try:
            # A daemon: the interpreter does not wait for it.
            threading.Thread(target=self._work, name=THREAD_NAME, daemon=True).start()
        except RuntimeError as error:
            logger.debug("error=<%s> | no thread for indexes, they are left to the next time", error)
            while build := self._next():
                build.namespace.give_back(build.indexes)

    def _work(self) -> None:
        while build := self._next():
            try:
                build.run()
            except Exception as error:  # noqa: BLE001 - the other indexes are still to be created
                _warn(build.collection, build.namespace, build.indexes, error)

    def _next(self) -> _Build | None:
        with self._lock:
            self._at_work = bool(self._builds)
            return self._builds.popleft() if self._builds else None


_lock = threading.Lock()
# By identity, since clients of the same servers are equal; the weak reference removes the entry with its client.
_clients: dict[int, tuple["weakref.ref[Any]", _Builder, dict[str, _Namespace]]] = {}


def ensure_indexes(
    collection: Collection[dict[str, Any]], metadata_fields: Iterable[str] | None = None, *, expiring: bool = False
) -> None:
    """Have missing indexes created, in one command; a failure is a warning, since everything works without them.

    The caller does not wait. After a lasting failure (no privilege, another index in its place) an index is not tried
    again; after a timeout a call some minutes later tries it again, and after another failure the next call.

    Args:
        collection: The collection of the sessions.
        metadata_fields: Metadata fields to index too; a dot reaches into a nested field.
        expiring: Whether the server is to delete sessions that have expired.
    """
    _ensure(collection, (*_of_sessions(tuple(metadata_fields or ())), *((_EXPIRY,) if expiring else ())))


@lru_cache(maxsize=16)
def _of_sessions(metadata_fields: tuple[str, ...]) -> tuple[Index, ...]:
    return tuple(Index(spec.keys) for spec in managed_indexes(metadata_fields))


def ensure_expiry_index(collection: Collection[dict[str, Any]]) -> None:
    """Have the index created by which the server deletes sessions that have expired, as ``ensure_indexes`` does."""
    _ensure(collection, (_EXPIRY,))


def ensure_segment_index(collection: Collection[dict[str, Any]]) -> None:
    """Have the index created by which the segments of one life of a session are found, as ``ensure_indexes`` does."""
    _ensure(collection, (_SEGMENTS,))


def ensure_file_indexes(files: Collection[dict[str, Any]], chunks: Collection[dict[str, Any]]) -> None:
    """Have the indexes created by which a session's files and chunks are found, as ``ensure_indexes`` does."""
    _ensure(files, (_FILES,))
    _ensure(chunks, (_CHUNKS,))


def _ensure(collection: Collection[dict[str, Any]], indexes: Iterable[Index]) -> None:
    builder, namespace = _entry(collection)
    missing = namespace.claim(indexes)
    if not missing:
        return
    build = _Build(collection, namespace, missing)
    client: Any = collection.database.client
    if isinstance(client, MongoClient):
        builder.add(build)
    else:  # mongomock: there is nothing to wait for
        build.run()


def create_together(collection: Collection[dict[str, Any]], models: list[IndexModel]) -> None:
    """Create indexes by one command, which reads the collection once, and wait for them."""
    try:
        # By default all members must vote: while one is down, the command would wait for it.
        collection.create_indexes(models, commitQuorum="majority")
    except (PyMongoError, TypeError) as error:  # TypeError: mongomock
        # The error of a missing privilege quotes the whole command.
        if "commitQuorum" not in str(error) or getattr(error, "code", None) == UNAUTHORIZED:
            raise
        # A standalone server refuses a commit quorum, and others do not know it.
        collection.create_indexes(models)


def _note_failure(
    collection: Collection[dict[str, Any]], namespace: _Namespace, indexes: list[Index], error: PyMongoError
) -> None:
    code = error.code if isinstance(error, OperationFailure) else None
    if isinstance(error, InvalidOperation) or code in _ENDING:  # the client was closed meanwhile, or the server ends
        namespace.give_back(indexes)
        return
    _warn(collection, namespace, indexes, error)
    if code in ONE_IN_THE_WAY and len(indexes) > 1:
        _create_singly(collection, namespace, indexes)
    elif code != UNAUTHORIZED and code not in ONE_IN_THE_WAY:
        namespace.give_back(indexes, PAUSE if error.timeout else 0.0)


def _create_singly(collection: Collection[dict[str, Any]], namespace: _Namespace, indexes: list[Index]) -> None:
    """Create the indexes one by one: because of one of them, the server has refused the whole list."""
    for index in indexes:
        try:
            create_together(collection, [index.model])
        except PyMongoError as error:
            _note_failure(collection, namespace, [index], error)


def _warn(
    collection: Collection[dict[str, Any]], namespace: _Namespace, indexes: list[Index], error: Exception
) -> None:
    """Log only the kind of failure: the server's words quote the command with its signature."""
    if namespace.first_warning():
        logger.warning(
            "namespace=<%s> fields=<%s> error=<%s> code=<%s> | an index was not created, queries on it may be slow",
            collection.full_name,
            ", ".join(map(str, indexes)),
            type(error).__name__,
            getattr(error, "code", None),
        )


def _entry(collection: Collection[dict[str, Any]]) -> tuple[_Builder, _Namespace]:
    client = collection.database.client
    with _lock:
        entry = _clients.get(id(client))
        if entry is None:
            # The callback takes no lock: it may run in a thread that holds the lock.
            entry = _clients[id(client)] = (_forget_with(client), _Builder(), {})
        _, builder, namespaces = entry
        return builder, namespaces.setdefault(collection.full_name, _Namespace())


def _forget_with(client: Any) -> "weakref.ref[Any]":
    key = id(client)

    def forget(_: "weakref.ref[Any]") -> None:
        _clients.pop(key, None)

    return weakref.ref(client, forget)


def _forget_all() -> None:
    """Begin anew after a fork: the threads are the parent's, and copied locks may never be released."""
    global _lock
    _lock = threading.Lock()
    _clients.clear()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forget_all)
