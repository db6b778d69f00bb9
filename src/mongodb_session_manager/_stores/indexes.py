"""Indexes, once per client, namespace and process, made while nobody waits.

On a large collection that takes minutes. A thread of each client asks for one after the other; closing the client, or
the end of the process, leaves it to itself.
"""

import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from pymongo import IndexModel, MongoClient
from pymongo.collection import Collection
from pymongo.errors import InvalidOperation, OperationFailure, PyMongoError

__all__ = ["ensure_file_indexes", "ensure_indexes", "ensure_segment_index"]

logger = logging.getLogger(__name__)

THREAD_NAME: Final = "mongodb-session-manager-indexes"
# Seconds. The server goes on with what was not done in time, so asking again soon would be no use.
PAUSE: Final = 300.0

_ALWAYS: Final = ("created_at", "updated_at", "application_name")
# The one that GridFS prescribes, and other tools expect.
_CHUNKS: Final = "files_id, n"
_UNAUTHORIZED: Final = 13
# One index of the list cannot be made: it exists with other options (85, 86), or the server refuses it (67).
_ONE_IN_THE_WAY: Final = frozenset({67, 85, 86})


class _Namespace:
    """What this process has asked one server to index in one collection."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._claimed: set[str] = set()
        # When those may be claimed again that were not made in time.
        self._claimed_until: dict[str, float] = {}
        self._warned = False

    def claim(self, fields: Iterable[str]) -> list[str]:
        """Take the fields that nobody has taken yet; the caller is the one who indexes them."""
        with self._lock:
            missing = [field for field in dict.fromkeys(fields) if self._is_free(field)]
            self._claimed.update(missing)
        return missing

    def _is_free(self, field: str) -> bool:
        return field not in self._claimed and time.monotonic() >= self._claimed_until.get(field, 0.0)

    def give_back(self, fields: Iterable[str], pause: float = 0.0) -> None:
        with self._lock:
            self._claimed.difference_update(fields)
            self._claimed_until |= dict.fromkeys(fields, time.monotonic() + pause)

    def first_warning(self) -> bool:
        with self._lock:
            warned, self._warned = self._warned, True
        return not warned


@dataclass(frozen=True)
class _Build:
    """Some indexes to be made."""

    collection: Collection[dict[str, Any]]
    namespace: _Namespace
    fields: list[str]

    def run(self) -> None:
        try:
            _create(self.collection, self.fields)
        except PyMongoError as error:
            _note_failure(self.collection, self.namespace, self.fields, error)


class _Builder:
    """Makes the indexes of one client, on a thread that is there as long as there is something to make."""

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
                build.namespace.give_back(build.fields)

    def _work(self) -> None:
        while build := self._next():
            try:
                build.run()
            except Exception as error:  # noqa: BLE001 - those of others are to be made too
                _warn(build.collection, build.namespace, build.fields, error)

    def _next(self) -> _Build | None:
        with self._lock:
            self._at_work = bool(self._builds)
            return self._builds.popleft() if self._builds else None


_lock = threading.Lock()
# By identity, since clients of the same servers are equal; the reference ends the entry with its client.
_clients: dict[int, tuple["weakref.ref[Any]", _Builder, dict[str, _Namespace]]] = {}


def ensure_indexes(collection: Collection[dict[str, Any]], metadata_fields: Iterable[str] | None = None) -> None:
    """Have the indexes made that are not yet asked for, in one command; an index helps, so failing is a warning.

    Nobody waits for it. What failed for good (no privilege, another index in its place) is left; what was not done in
    time is asked for again by a call some minutes later, and anything else by the next call.

    Args:
        collection: Holds the sessions.
        metadata_fields: Fields of the metadata to index besides, dotted where they are nested.
    """
    _ensure(collection, (*_ALWAYS, *(f"metadata.{field}" for field in metadata_fields or ())))


def ensure_segment_index(collection: Collection[dict[str, Any]]) -> None:
    """Have the index made by which the segments of a session are found, as ``ensure_indexes`` does."""
    _ensure(collection, ("session_id",))


def ensure_file_indexes(files: Collection[dict[str, Any]], chunks: Collection[dict[str, Any]]) -> None:
    """Have the indexes made by which the files of a session and their chunks are found, as ``ensure_indexes`` does."""
    _ensure(files, ("metadata.session_id",))
    _ensure(chunks, (_CHUNKS,))


def _ensure(collection: Collection[dict[str, Any]], fields: Iterable[str]) -> None:
    builder, namespace = _entry(collection)
    missing = namespace.claim(fields)
    if not missing:
        return
    build = _Build(collection, namespace, missing)
    client: Any = collection.database.client
    if isinstance(client, MongoClient):
        builder.add(build)
    else:  # mongomock: there is nothing to wait for
        build.run()


def _create(collection: Collection[dict[str, Any]], fields: list[str]) -> None:
    models = [_model(field) for field in fields]
    try:
        # All members have to be there otherwise: while one is down, who asks waits until it is back.
        collection.create_indexes(models, commitQuorum="majority")
    except (PyMongoError, TypeError) as error:  # TypeError: mongomock
        # Who lacks the privilege is told the whole command.
        if "commitQuorum" not in str(error) or getattr(error, "code", None) == _UNAUTHORIZED:
            raise
        # A server that stands alone refuses one, and others do not know it.
        collection.create_indexes(models)


def _model(field: str) -> IndexModel:
    if field == _CHUNKS:
        return IndexModel([("files_id", 1), ("n", 1)], unique=True)
    return IndexModel([(field, 1)])


def _note_failure(
    collection: Collection[dict[str, Any]], namespace: _Namespace, fields: list[str], error: PyMongoError
) -> None:
    if isinstance(error, InvalidOperation):  # the client was closed meanwhile
        namespace.give_back(fields)
        return
    _warn(collection, namespace, fields, error)
    code = error.code if isinstance(error, OperationFailure) else None
    if code in _ONE_IN_THE_WAY and len(fields) > 1:
        _create_singly(collection, namespace, fields)
    elif code != _UNAUTHORIZED and code not in _ONE_IN_THE_WAY:
        namespace.give_back(fields, PAUSE if error.timeout else 0.0)


def _create_singly(collection: Collection[dict[str, Any]], namespace: _Namespace, fields: list[str]) -> None:
    """Go round the one that cannot be made: the server had refused the whole list because of it."""
    for field in fields:
        try:
            _create(collection, [field])
        except PyMongoError as error:
            _note_failure(collection, namespace, [field], error)


def _warn(collection: Collection[dict[str, Any]], namespace: _Namespace, fields: list[str], error: Exception) -> None:
    """Tell the kind of failure only: the server's own words quote the command with its signature."""
    if namespace.first_warning():
        logger.warning(
            "namespace=<%s> fields=<%s> error=<%s> code=<%s> | an index was not created, queries on it may be slow",
            collection.full_name,
            ", ".join(fields),
            type(error).__name__,
            getattr(error, "code", None),
        )


def _entry(collection: Collection[dict[str, Any]]) -> tuple[_Builder, _Namespace]:
    client = collection.database.client
    with _lock:
        entry = _clients.get(id(client))
        if entry is None:
            # The callback takes no lock: it may run in a thread that holds it.
            entry = _clients[id(client)] = (_forget_with(client), _Builder(), {})
        _, builder, namespaces = entry
        return builder, namespaces.setdefault(collection.full_name, _Namespace())


def _forget_with(client: Any) -> "weakref.ref[Any]":
    key = id(client)

    def forget(_: "weakref.ref[Any]") -> None:
        _clients.pop(key, None)

    return weakref.ref(client, forget)


def _forget_all() -> None:
    """After a fork: the threads are the parent's, and the child may hold locks that nobody gives back."""
    global _lock
    _lock = threading.Lock()
    _clients.clear()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forget_all)
