"""Indexes, once per client, namespace and process."""

import logging
import threading
import weakref
from collections.abc import Iterable
from typing import Any, Final

from pymongo import IndexModel
from pymongo.collection import Collection
from pymongo.errors import OperationFailure, PyMongoError

__all__ = ["ensure_file_indexes", "ensure_indexes", "ensure_segment_index"]

logger = logging.getLogger(__name__)

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
        self._warned = False

    def claim(self, fields: Iterable[str]) -> list[str]:
        """Take the fields that nobody has taken yet; the caller is the one who indexes them."""
        with self._lock:
            missing = [field for field in dict.fromkeys(fields) if field not in self._claimed]
            self._claimed.update(missing)
        return missing

    def give_back(self, fields: Iterable[str]) -> None:
        with self._lock:
            self._claimed.difference_update(fields)

    def first_warning(self) -> bool:
        with self._lock:
            warned, self._warned = self._warned, True
        return not warned


_lock = threading.Lock()
# By identity, since clients of the same servers are equal; the reference ends the entry with its client.
_clients: dict[int, tuple["weakref.ref[Any]", dict[str, _Namespace]]] = {}


def ensure_indexes(collection: Collection[dict[str, Any]], metadata_fields: Iterable[str] | None = None) -> None:
    """Create the indexes that are not yet asked for, in one command; an index helps, so failing is a warning.

    Of two threads at once, one creates them and the other goes on without waiting. What failed for good (no
    privilege, another index in its place) is left; anything else is tried again at the next call.

    Args:
        collection: Holds the sessions.
        metadata_fields: Fields of the metadata to index besides, dotted where they are nested.
    """
    _ensure(collection, (*_ALWAYS, *(f"metadata.{field}" for field in metadata_fields or ())))


def ensure_segment_index(collection: Collection[dict[str, Any]]) -> None:
    """Create the index by which the segments of a session are found, as ``ensure_indexes`` does."""
    _ensure(collection, ("session_id",))


def ensure_file_indexes(files: Collection[dict[str, Any]], chunks: Collection[dict[str, Any]]) -> None:
    """Create the indexes by which the files of a session and their chunks are found, as ``ensure_indexes`` does."""
    _ensure(files, ("metadata.session_id",))
    _ensure(chunks, (_CHUNKS,))


def _ensure(collection: Collection[dict[str, Any]], fields: Iterable[str]) -> None:
    namespace = _namespace(collection)
    missing = namespace.claim(fields)
    if not missing:
        return
    try:
        _create(collection, missing)
    except PyMongoError as error:
        _note_failure(collection, namespace, missing, error)


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
    _warn(collection, namespace, fields, error)
    code = error.code if isinstance(error, OperationFailure) else None
    if code in _ONE_IN_THE_WAY and len(fields) > 1:
        _create_singly(collection, namespace, fields)
    elif code != _UNAUTHORIZED and code not in _ONE_IN_THE_WAY:
        namespace.give_back(fields)


def _create_singly(collection: Collection[dict[str, Any]], namespace: _Namespace, fields: list[str]) -> None:
    """Go round the one that cannot be made: the server had refused the whole list because of it."""
    for field in fields:
        try:
            _create(collection, [field])
        except PyMongoError as error:
            _note_failure(collection, namespace, [field], error)


def _warn(
    collection: Collection[dict[str, Any]], namespace: _Namespace, fields: list[str], error: PyMongoError
) -> None:
    """Tell the kind of failure only: the server's own words quote the command with its signature."""
    if namespace.first_warning():
        logger.warning(
            "namespace=<%s> fields=<%s> error=<%s> code=<%s> | an index was not created, queries on it may be slow",
            collection.full_name,
            ", ".join(fields),
            type(error).__name__,
            getattr(error, "code", None),
        )


def _namespace(collection: Collection[dict[str, Any]]) -> _Namespace:
    client = collection.database.client
    with _lock:
        entry = _clients.get(id(client))
        if entry is None:
            # The callback takes no lock: it may run in a thread that holds it.
            entry = _clients[id(client)] = (_forget_with(client), {})
        return entry[1].setdefault(collection.full_name, _Namespace())


def _forget_with(client: Any) -> "weakref.ref[Any]":
    key = id(client)

    def forget(_: "weakref.ref[Any]") -> None:
        _clients.pop(key, None)

    return weakref.ref(client, forget)
