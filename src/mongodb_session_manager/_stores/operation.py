"""What every store uses: the collections of one repository, its leases, and timed operations.

``Operations.write_again`` is the one place where a write that misses is looked into and repeated.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, Protocol, TypeVar, cast
from weakref import WeakKeyDictionary

from pymongo import MongoClient, ReadPreference
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import DocumentTooLarge, OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern

from .._client.errors import forget_values, is_too_large
from .._client.handle import ClientHandle
from .._schema.data import bytes_pipeline
from .._schema.ids import check_id
from .._schema.lease import Lease, expired_lease_update, has_expired, leased_update
from .._schema.reads import ReadAgentDoc
from .._schema.values import CODEC_OPTIONS, FilterAndUpdate, Pipeline, Stored
from ..errors import SessionLockedError, SessionNotFoundError, SessionTooLargeError
from ..types import LeaseDoc
from .dates import ExpiryDates
from .document_size import DocumentSizes
from .lives import Lives

__all__ = [
    "CONTENDED",
    "DEFAULT_COLLECTION",
    "HELD",
    "ClientUse",
    "Collections",
    "Looked",
    "Operations",
    "Timed",
    "log_done",
    "namespace_of",
    "open_collections",
    "operation",
]

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
_Found = TypeVar("_Found")
_Seen = TypeVar("_Seen", bound="Looked")

DEFAULT_DATABASE = "database_name"
DEFAULT_COLLECTION = "agent_sessions"

CONTENDED = "is being written by several at once; read it again before writing."
HELD = (
    "is locked: another manager is its only writer for now. Let the user ask again (HTTP 409), or make the manager "
    "with exclusive=True and a lease_timeout that is long enough to wait for the other one."
)
_LOST = (
    "is no longer locked by this manager: it wrote nothing for longer than its lease_duration, and another manager "
    "took over. Make a new manager and agent to go on from what is stored."
)
# How often room is made for one write; other writers may fill it meanwhile.
_ROOM_TRIES = 5
# Seconds to wait for other movers, if there are no messages left to move.
_ROOM_PAUSES = (0.05, 0.2)
# How often a write is sent with a date of expiry; after that, without one.
_DATED_TRIES = 2


# Client and collections


class ClientUse:
    """A repository's use of a client; it lasts as long as one of the stores exists.

    Args:
        handle: The client.
        owner: Whether the client is closed when this use ends.
    """

    def __init__(self, handle: ClientHandle, *, owner: bool) -> None:
        self.handle = handle
        handle.acquire(self, owner=owner)

    def end(self, timeout: float) -> Callable[[], None] | None:
        """End the use; return a function that closes the client, if it is to be closed."""
        return self.handle.leave(self, timeout)


class Collections:
    """The collections of one namespace.

    Attributes:
        sessions: The session documents.
        segments: The segment documents.
        files: The documents of the offloaded values.
        chunks: The contents of the files.
        can_compute: Whether projections may compute; not on mongomock.
    """

    def __init__(self, client: "MongoClient[dict[str, Any]]", database_name: str | None, name: str) -> None:
        database = _database(client, database_name)
        if not database_name and database.name == DEFAULT_DATABASE:
            _log_default_database()
        names = (name, f"{name}_segments", f"{name}_files.files", f"{name}_files.chunks")
        self.sessions, self.segments, self.files, self.chunks = (_collection(database, each) for each in names)
        self.can_compute = isinstance(client, MongoClient)

    def lives(self) -> Lives:
        """Return the lives of the sessions, as one repository knows them."""
        return Lives(self.sessions, self.segments, self.files)


# The next request of a service uses the collections of the one before.
_opened: "WeakKeyDictionary[ClientHandle, dict[tuple[str | None, str], Collections]]" = WeakKeyDictionary()


def open_collections(handle: ClientHandle, database_name: str | None, collection_name: str | None) -> Collections:
    """Return the collections of a namespace, opened once for each client."""
    opened = _opened.setdefault(handle, {})
    key = (database_name, collection_name or DEFAULT_COLLECTION)
    found = opened.get(key)
    if found is None:
        found = opened[key] = Collections(handle.client, *key)
    return found


def namespace_of(client: "MongoClient[dict[str, Any]]", database_name: str | None, collection_name: str | None) -> str:
    """Return the database and collection that these arguments name."""
    return f"{_database(client, database_name).name}.{collection_name or DEFAULT_COLLECTION}"


def _database(client: "MongoClient[dict[str, Any]]", name: str | None) -> Database[Stored]:
    return client[name] if name else client.get_default_database(DEFAULT_DATABASE)


def _collection(database: Database[Stored], name: str) -> Collection[Stored]:
    return database.get_collection(
        name,
        # Whatever the client's own settings are: the codec needs plain dicts and aware datetimes, and guards need
        # reads of the primary and acknowledged writes.
        codec_options=CODEC_OPTIONS,
        read_preference=ReadPreference.PRIMARY,
        read_concern=ReadConcern("local"),
    )


@cache
def _log_default_database() -> None:
    logger.info(
        "database=<%s> | neither database_name nor the connection string names a database, so the default is used",
        DEFAULT_DATABASE,
    )


# Operations


class Looked(Protocol):
    """The result of a look at a session after a write has missed."""

    @property
    def lease(self) -> LeaseDoc | None:
        """The session's lease; None if it has none."""


class Operations:
    """Reads and writes of one repository's sessions, under its leases.

    Args:
        use: Of the client.
        collections: The collections.
        sizes: The sizes of the session documents.
        lives: The lives of the sessions that are meant.

    Attributes:
        leases: The leases that are held, by session.
        dates: The dates on which the opened sessions expire.
    """

    def __init__(self, use: ClientUse, collections: Collections, sizes: DocumentSizes, lives: Lives) -> None:
        self.use, self.collections, self.sizes, self.lives = use, collections, sizes, lives
        self.sessions = collections.sessions
        self.leases: dict[str, Lease] = {}
        self.dates = ExpiryDates(self.sessions)

    @property
    def can_compute(self) -> bool:
        """Whether projections may compute."""
        return self.collections.can_compute

    def find(self, session_id: str, fields: Mapping[str, Any]) -> Stored:
        """Return fields of a session; raise if there is no such session."""
        wanted, _ = self.lives.named(session_id, ({"_id": session_id}, {}))
        return self.found(session_id, self.sessions.find_one(wanted, fields))

    def read_agent(self, verb: str, session_id: str, agent_id: str, pipeline: Any, *how: Any) -> ReadAgentDoc | None:
        """Return the result of a pipeline over one agent; None if there is no such session."""
        stages: Pipeline = pipeline(check_id("session_id", session_id), check_id("agent_id", agent_id), *how)
        with operation(verb, session_id, agent_id) as outcome:
            found = cast("ReadAgentDoc | None", next(self.sessions.aggregate(stages), None))
            outcome.read(found)
            self.lives.check(session_id, found or {})
            return found

    def bytes_of(self, session_id: str, name: str, without: Iterable[str] = ()) -> int:
        """Return the size of a field of the session; 0 if there is no such session."""
        found = next(self.sessions.aggregate(bytes_pipeline(session_id, name, without)), {})
        return int(found.get("bytes", 0))

    def found(self, session_id: str, stored: _Found | None) -> _Found:
        """Return what was read; raise if there is no such session."""
        if stored is None:
            raise SessionNotFoundError(session_id)
        return stored

    def expect_stored(self, session_id: str) -> None:
        """Look for a session after a write that did not find the fields it expects."""
        self.find(session_id, {"_id": 1})

    def update(self, session_id: str, change: FilterAndUpdate) -> bool:
        """Send a write of history or state; False if it changed nothing."""
        return self.send(session_id, leased_update(change, self.leases.get(session_id)))

    def send(self, session_id: str, change: FilterAndUpdate) -> bool:
        """Send a change of a session document; False if it changed nothing."""
        return self.send_dated(session_id, self.lives.named(session_id, change))

    def send_dated(self, session_id: str, change: FilterAndUpdate) -> bool:
        """Send a change, with the session's date of expiry if that is due; False if it changed nothing."""
        if session_id not in self.dates.lifetimes:
            return self._send(session_id, change)
        for _ in range(_DATED_TRIES):
            dated, acknowledge = self.dates.dated(session_id, change)
            if acknowledge is None:
                break
            if self._send(session_id, dated):
                acknowledge()
                return True
            # It may have missed only because the session is held, or has another ttl by now.
            if not self.dates.have_changed(session_id):
                break
        return self._send(session_id, change)

    def _send(self, session_id: str, change: FilterAndUpdate) -> bool:
        return self.with_room(session_id, lambda: self.sessions.update_one(*change).matched_count > 0)

    def write_again(
        self,
        session_id: str,
        write: Callable[[_Seen | None], bool],
        look: Callable[[], _Seen | bool],
        *,
        tries: int = 2,
        leased: bool = True,
    ) -> bool:
        """Write. If the write misses: look, check the lease, and write again.

        Args:
            session_id: The session.
            write: Is given the result of the last look, or None; returns whether it went through.
            look: Returns what is stored; True or False if this settles the answer.
            tries: How often to write at most.
            leased: Whether the writes go through only under the lease, if there is one.
        """
        seen: _Seen | None = None
        for _ in range(tries - 1):
            if write(seen):
                return True
            looked = look()
            if isinstance(looked, bool):
                return looked
            if leased:
                self.check_lease(session_id, looked.lease)
            seen = looked
        return write(seen)

    def check_lease(self, session_id: str, stored: LeaseDoc | None) -> None:
        """Raise if another manager's lease blocks our writes; clear a lease that has expired.

        Raises:
            SessionLockedError: Another manager is the only writer, or took over from this one.
        """
        own = self.leases.get(check_id("session_id", session_id))
        if own is not None:
            if stored is None or stored["owner"] != own.owner:
                raise SessionLockedError(session_id, None, _LOST)
            return
        if stored is None:
            return
        if not has_expired(stored):
            raise SessionLockedError(session_id, None, HELD)
        with operation("clear_lease", session_id):
            self.sessions.update_one(*expired_lease_update(session_id, stored))

    def with_room(self, session_id: str, write: Callable[[], _T]) -> _T:
        """Write; if the session document has no room left, make room and write again."""
        pauses = iter(_ROOM_PAUSES)
        for _ in range(_ROOM_TRIES):
            try:
                return write()
            except OperationFailure as error:
                if not is_too_large(error):
                    raise
                if not self.sizes.make_room(session_id):
                    # Another mover may be moving the same messages.
                    pause = next(pauses, None)
                    if pause is None:
                        raise
                    time.sleep(pause)
        return write()


# Timing


class Timed:
    """Times one operation on a known session, and logs its outcome; a driver error gets a note of session and agent.

    Args:
        verb: What is done.
        session_id: The session.
        agent_id: The agent; None if it is about the session.
        messages: How many messages are written.

    Attributes:
        messages: How many messages were written or read.
        text: What came of it.
    """

    def __init__(self, verb: str, session_id: str, agent_id: str | None = None, messages: int = 0) -> None:
        self._about = verb, session_id, agent_id
        self.messages, self.text = messages, "done"

    def __enter__(self) -> "Timed":
        self._started = time.perf_counter()
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is None:
            log_done(*self._about, self.messages, self._started, self.text)
        elif isinstance(error, (PyMongoError, DocumentTooLarge)):
            self._fail(error)

    def _fail(self, error: PyMongoError | DocumentTooLarge) -> None:
        verb, session_id, agent_id = self._about
        _log_failed(verb, session_id, agent_id, self._started, error)
        too_large = is_too_large(error)
        forget_values(error)
        if too_large:
            raise SessionTooLargeError(session_id, agent_id) from error
        error.__notes__ = [*getattr(error, "__notes__", ()), f"in {verb} of session {session_id!r}"]

    def read(self, found: ReadAgentDoc | None) -> None:
        """Note the result of a read of an agent."""
        self.messages = len((found and found.get("messages")) or ())
        if found is None:
            self.text = "found no such session"

    def of(self, found: bool) -> bool:
        """Note whether a write changed anything."""
        if not found:
            self.messages, self.text = 0, "missed: nothing was changed"
        return found


def operation(verb: str, session_id: str, agent_id: str | None = None, messages: int = 0) -> Timed:
    """Time an operation on an id that a caller gave: a value of another type would act as a query."""
    return Timed(verb, check_id("session_id", session_id), agent_id, messages)


def log_done(
    verb: str, session_id: str, agent_id: str | None, messages: int, started: float, text: str = "done"
) -> None:
    """Log an operation that began at a time of ``perf_counter``."""
    logger.debug(
        "operation=<%s>, session_id=<%s>, agent_id=<%s>, messages=<%d>, milliseconds=<%.2f> | %s",
        verb,
        session_id,
        agent_id,
        messages,
        (time.perf_counter() - started) * 1000,
        text,
    )


def _log_failed(verb: str, session_id: str, agent_id: str | None, started: float, error: Exception) -> None:
    logger.debug(
        "operation=<%s>, session_id=<%s>, agent_id=<%s>, milliseconds=<%.2f>, error=<%s> | failed",
        verb,
        session_id,
        agent_id,
        (time.perf_counter() - started) * 1000,
        type(error).__name__,
    )
