"""How a session reaches the server: one verb, one MongoDB operation.

The verbs of the SDK's ``SessionRepository`` stand beside those that the session manager writes with. The latter
are guarded: they go through only where the caller's picture of the history is the stored one.
"""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from pymongo import MongoClient, ReadPreference
from pymongo.collection import Collection
from pymongo.errors import DocumentTooLarge, DuplicateKeyError, OperationFailure, PyMongoError
from strands.session.session_repository import SessionRepository
from strands.types.content import Message
from strands.types.session import Session, SessionAgent, SessionMessage, SessionType

from . import _codec, _document
from ._client import ClientHandle, check_client_arguments
from ._codec import CODEC_OPTIONS, Stored
from ._document import AgentWrite, Guard, Pipeline, Update, check_id
from ._indexes import ensure_indexes
from .errors import (
    AgentNotFoundError,
    MessageNotFoundError,
    SchemaVersionError,
    SessionConflictError,
    SessionNotFoundError,
    SessionTooLargeError,
)

if TYPE_CHECKING:
    from strands.multiagent.base import MultiAgentBase

logger = logging.getLogger(__name__)

DEFAULT_DATABASE = "database_name"
DEFAULT_COLLECTION = "agent_sessions"

# BSONObjectTooLarge, "Resulting document after update is larger than …", and what inserts answer.
_TOO_LARGE = {10334, 17419, 17420}


@dataclass(frozen=True)
class OpenedSession:
    """What opening a session told.

    Attributes:
        session: The SDK's record.
        created: Whether the session is new.
        application_name: As it was when the session was created.
        agent_ids: The agents that it surely holds; None where that was not recorded (the first version).
    """

    session: Session
    created: bool
    application_name: str | None
    agent_ids: frozenset[str] | None


@dataclass(frozen=True)
class RestoredAgent:
    """An agent as it is stored, with the messages that its conversation manager kept.

    Attributes:
        agent: The SDK's record: state, conversation manager state, internal state.
        data: The same as it is stored.
        guard: Where the history is; what the next guarded write must name.
        offset: How many of the oldest messages were left out.
        messages: The others as (message_id, message), oldest first.
    """

    agent: SessionAgent
    data: Stored
    guard: Guard
    offset: int
    messages: list[tuple[int, Message]]


@dataclass(frozen=True)
class AgentPosition:
    """Where an agent's history stands, for a writer whose guard missed.

    Attributes:
        guard: The stored place.
        write_id: The last guarded write.
        tracking_ids: Those of the messages stored from the asked id on, by message id.
    """

    guard: Guard
    write_id: object
    tracking_ids: dict[int, str | None]


class MongoDBSessionRepository(SessionRepository):
    """Stores Strands sessions in one MongoDB collection, one nested document a session.

    Args:
        connection_string: A MongoDB URI; ignored when ``client`` is given.
        database_name: The database; by default the one that the URI (or the client's URI) names, else
            ``"database_name"``.
        collection_name: The collection; ``"agent_sessions"`` by default.
        client: A client to borrow; it is never closed here.
        metadata_fields: Metadata fields to index.
        application_name: Written into sessions when they are created.
        **client_options: Options for the ``MongoClient`` made from ``connection_string``; pymongo validates them.

    Raises:
        TypeError: Client options were given beside ``client``.
        ValueError: Neither ``connection_string`` nor ``client`` was given.
    """

    def __init__(
        self,
        connection_string: str | None = None,
        database_name: str | None = None,
        collection_name: str | None = None,
        client: "MongoClient[dict[str, Any]] | None" = None,
        metadata_fields: Sequence[str] | None = None,
        application_name: str | None = None,
        **client_options: Any,
    ) -> None:
        self.application_name = application_name
        self.metadata_fields = tuple(metadata_fields or ())
        self._handle = _open_handle(connection_string, client, client_options)
        self._handle.acquire(self)
        self._collection = self._open_collection(database_name, collection_name)

    def _open_collection(self, database_name: str | None, name: str | None) -> Collection[Stored]:
        client = self._handle.client
        database = client[database_name] if database_name else client.get_default_database(DEFAULT_DATABASE)
        return database.get_collection(
            name or DEFAULT_COLLECTION,
            # The codec relies on plain dicts and aware datetimes, and guards on what the primary holds,
            # whatever the client's own settings are.
            codec_options=CODEC_OPTIONS,
            read_preference=ReadPreference.PRIMARY,
        )

    @property
    def client(self) -> "MongoClient[dict[str, Any]]":
        """The client in use, borrowed or owned."""
        return self._handle.client

    @property
    def handle(self) -> ClientHandle:
        """The client with the worker threads that belong to it."""
        return self._handle

    def close(self) -> None:
        """Release the client; one that was made from a connection string is closed. Idempotent."""
        self._handle.release(self)

    # Sessions

    def open_session(self, session_id: str, application_name: str | None = None) -> OpenedSession:
        """Create the session, or open it where it exists already.

        Args:
            session_id: The session.
            application_name: Stored if the session is new; the repository's by default.

        Raises:
            SchemaVersionError: A newer version of this library wrote it.
        """
        update = _document.open_session(
            check_id("session_id", session_id),
            SessionType.AGENT.value,
            application_name or self.application_name,
        )
        with _operation("open_session", session_id):
            before = self._upsert(session_id, update)
        ensure_indexes(self._collection, self.metadata_fields)
        stored = before if before is not None else update["$setOnInsert"]
        agent_ids = stored.get("agent_ids")
        return OpenedSession(
            session=_session(session_id, stored),
            created=before is None,
            application_name=stored.get("application_name"),
            agent_ids=None if agent_ids is None else frozenset(agent_ids),
        )

    def _upsert(self, session_id: str, update: Update) -> Stored | None:
        # Two first requests at once: the server may answer one with a duplicate key; it then exists.
        for last_try in (False, True):
            try:
                return self._collection.find_one_and_update(
                    {"_id": session_id}, update, projection=_document.OPENING_FIELDS, upsert=True
                )
            except DuplicateKeyError:
                if last_try:
                    raise
        raise AssertionError("unreachable")

    def create_session(self, session: Session, **kwargs: Any) -> Session:
        """Create a session.

        Raises:
            SessionConflictError: It exists already.
        """
        session_id = check_id("session_id", session.session_id)
        kind = SessionType(session.session_type).value
        fresh = _document.new_session(session_id, kind, self.application_name, _document.now())
        with _operation("create_session", session_id):
            try:
                self._collection.insert_one({"_id": session_id, "schema_version": _document.SCHEMA_VERSION, **fresh})
            except DuplicateKeyError as error:
                raise SessionConflictError(session_id, None, "exists already; open it instead.") from error
        return session

    def read_session(self, session_id: str, **kwargs: Any) -> Session | None:
        """Return the session, or None where there is none.

        Raises:
            SchemaVersionError: A newer version of this library wrote it.
        """
        check_id("session_id", session_id)
        with _operation("read_session", session_id):
            stored = self._collection.find_one({"_id": session_id}, _document.OPENING_FIELDS)
        return None if stored is None else _session(session_id, stored)

    def delete_session(self, session_id: str, **kwargs: Any) -> bool:
        """Delete the session and everything that belongs to it; False where there was none."""
        check_id("session_id", session_id)
        with _operation("delete_session", session_id):
            return self._collection.delete_one({"_id": session_id}).deleted_count > 0

    # Agents

    def create_agent(self, session_id: str, session_agent: SessionAgent, **kwargs: Any) -> None:
        """Create an agent without messages.

        Raises:
            SessionConflictError: The session holds it already.
            SessionNotFoundError: There is no such session.
        """
        agent_id = check_id("agent_id", session_agent.agent_id)
        data = _codec.encode_agent(session_agent, _place(session_id, agent_id))
        if not self.start_agent(session_id, AgentWrite(agent_id, data=data)):
            raise SessionConflictError(session_id, agent_id, "exists already; update it instead.")

    def start_agent(self, session_id: str, write: AgentWrite) -> bool:
        """Create an agent with its first messages; False where the session holds it already.

        Raises:
            SessionNotFoundError: There is no such session.
        """
        wanted, update = _document.new_agent(check_id("session_id", session_id), write)
        with _operation("create_agent", session_id, write.agent_id):
            if self._collection.update_one(wanted, update).matched_count:
                return True
        position = self._locate(session_id, write.agent_id)
        # A retry of our own write, whose first answer was lost, finds the agent as it made it.
        return position is not None and position.write_id == write.write_id

    def read_agent(self, session_id: str, agent_id: str, **kwargs: Any) -> SessionAgent | None:
        """Return an agent's data, or None where the session holds no such agent."""
        stored = self._read_agent("read_agent", session_id, agent_id, _document.agent_pipeline)
        return _codec.session_agent(agent_id, stored) if stored and stored.get("agent_data") else None

    def update_agent(self, session_id: str, session_agent: SessionAgent, **kwargs: Any) -> None:
        """Replace an agent's data; its messages and its time of creation stay.

        Raises:
            AgentNotFoundError: The session holds no such agent.
            SessionNotFoundError: There is no such session.
        """
        agent_id = check_id("agent_id", session_agent.agent_id)
        data = _codec.encode_agent(session_agent, _place(session_id, agent_id))
        if not self._write_unguarded("update_agent", session_id, AgentWrite(agent_id, data=data)):
            self.locate_agent(session_id, agent_id)

    def restore_agent(self, session_id: str, agent_id: str) -> RestoredAgent | None:
        """Return an agent with the messages that are to be used, or None where there is no such agent.

        Raises:
            SessionNotFoundError: There is no such session.
        """
        stored = self._read_agent("restore_agent", session_id, agent_id, _document.restore_pipeline)
        if stored is None:
            raise SessionNotFoundError(session_id)
        if not stored.get("agent_data"):
            return None
        removed, messages = _document.kept_messages(stored)
        return RestoredAgent(
            agent=_codec.session_agent(agent_id, stored),
            data=stored["agent_data"],
            guard=_document.guard_of(stored),
            offset=removed,
            messages=[(int(m["message_id"]), _codec.decode_message(m)) for m in messages],
        )

    def write_agent(self, session_id: str, write: AgentWrite, guard: Guard) -> bool:
        """Send one guarded write; False when the history is not where the guard says."""
        wanted, update = _document.guarded(session_id, write, guard)
        with _operation("write_agent", session_id, write.agent_id, messages=len(write.appended)):
            return self._collection.update_one(wanted, update).matched_count > 0

    def locate_agent(
        self, session_id: str, agent_id: str, from_message_id: int = _document.NO_MESSAGE
    ) -> AgentPosition:
        """Return where an agent's history stands.

        Args:
            session_id: The session.
            agent_id: The agent.
            from_message_id: The first message whose tracking id is wanted; none by default.

        Raises:
            AgentNotFoundError: The session holds no such agent.
            SessionNotFoundError: There is no such session.
        """
        position = self._locate(session_id, agent_id, from_message_id)
        if position is None:
            raise AgentNotFoundError(session_id, agent_id)
        return position

    def _locate(
        self, session_id: str, agent_id: str, from_message_id: int = _document.NO_MESSAGE
    ) -> AgentPosition | None:
        stored = self._read_agent(
            "locate_agent", session_id, agent_id, _document.message_pipeline, from_message_id, "$gte"
        )
        if stored is None:
            raise SessionNotFoundError(session_id)
        if not stored.get("agent_data"):
            return None
        tracking_ids = {int(m["message_id"]): m.get("tracking_id") for m in stored["messages"]}
        return AgentPosition(_document.guard_of(stored), stored.get("write_id"), tracking_ids)

    # Messages

    def create_message(self, session_id: str, agent_id: str, session_message: SessionMessage, **kwargs: Any) -> None:
        """Append a message under an id that is higher than those stored. A repeated call is recognised.

        Raises:
            AgentNotFoundError: The session holds no such agent.
            SessionConflictError: The id is taken, or lies before the end of the history.
            SessionNotFoundError: There is no such session.
            UnstorableValueError: The message holds something that would not come back equal.
        """
        message_id, message = session_message.message_id, session_message.to_message()
        place = _place(session_id, agent_id, message_id)
        stored = _codec.encode_message(message, message_id, _document.now(), place)
        if self._write_unguarded("create_message", session_id, AgentWrite(agent_id, [stored])):
            return
        position = self.locate_agent(session_id, agent_id, message_id)
        tracking_id = message.get("tracking_id")
        if tracking_id is None or position.tracking_ids.get(message_id) != tracking_id:
            raise SessionConflictError(
                session_id,
                agent_id,
                f"already holds a message {message_id} or later; read it again before writing.",
            )

    def read_message(self, session_id: str, agent_id: str, message_id: int, **kwargs: Any) -> SessionMessage | None:
        """Return one message, or None where there is no such message, agent or session."""
        stored = self._read_agent("read_message", session_id, agent_id, _document.message_pipeline, message_id)
        found = stored["messages"] if stored else []
        return _codec.session_message(found[0]) if found else None

    def update_message(self, session_id: str, agent_id: str, session_message: SessionMessage, **kwargs: Any) -> None:
        """Replace a message, or redact it: of a message with ``redact_message`` only that is kept.

        Raises:
            MessageNotFoundError: The agent holds no such message.
            AgentNotFoundError: The session holds no such agent.
            SessionNotFoundError: There is no such session.
            UnstorableValueError: The message holds something that would not come back equal.
        """
        message_id = session_message.message_id
        edit = _codec.replacement if session_message.redact_message is None else _codec.redaction
        place = _place(session_id, agent_id, message_id)
        edited = edit(session_message.to_message(), message_id, _document.now(), place)
        if not self._write_unguarded("update_message", session_id, AgentWrite(agent_id, edited=edited)):
            self.locate_agent(session_id, agent_id)
            raise MessageNotFoundError(session_id, agent_id, message_id)

    def list_messages(
        self, session_id: str, agent_id: str, limit: int | None = None, offset: int = 0, **kwargs: Any
    ) -> list[SessionMessage]:
        """Return an agent's messages, oldest first.

        Args:
            session_id: The session.
            agent_id: The agent.
            limit: How many at most; all by default.
            offset: How many of the oldest to leave out.
            **kwargs: Ignored.

        Raises:
            AgentNotFoundError: The session holds no such agent.
            SessionNotFoundError: There is no such session.
            ValueError: ``limit`` or ``offset`` is negative.
        """
        if offset < 0 or (limit is not None and limit < 0):
            raise ValueError(f"limit and offset must not be negative, got limit={limit!r}, offset={offset!r}")
        stored = self._read_agent("list_messages", session_id, agent_id, _document.page_pipeline, offset, limit)
        if stored is None:
            raise SessionNotFoundError(session_id)
        if not stored.get("agent_data"):
            raise AgentNotFoundError(session_id, agent_id)
        return [_codec.session_message(message) for message in stored["messages"]]

    # Multi-agents

    def create_multi_agent(self, session_id: str, multi_agent: "MultiAgentBase", **kwargs: Any) -> None:
        """Store the state of a Graph or Swarm for the first time.

        Raises:
            SessionConflictError: The session holds it already.
            SessionNotFoundError: There is no such session.
            UnstorableValueError: The state holds something that would not come back equal.
        """
        self.write_multi_agent(session_id, multi_agent.id, multi_agent.serialize_state(), create=True)

    def update_multi_agent(self, session_id: str, multi_agent: "MultiAgentBase", **kwargs: Any) -> None:
        """Replace the stored state of a Graph or Swarm.

        Raises:
            AgentNotFoundError: The session holds no such multi-agent.
            SessionNotFoundError: There is no such session.
            UnstorableValueError: The state holds something that would not come back equal.
        """
        self.write_multi_agent(session_id, multi_agent.id, multi_agent.serialize_state())

    def write_multi_agent(
        self, session_id: str, multi_agent_id: str, state: Mapping[str, Any], *, create: bool = False
    ) -> None:
        """Store a serialised state; see ``create_multi_agent`` and ``update_multi_agent``."""
        check_id("session_id", session_id)
        check_id("multi_agent_id", multi_agent_id)
        encoded = _codec.encode(dict(state), f"Multi-agent {multi_agent_id!r} of session {session_id!r}, state")
        shape = _document.new_multi_agent if create else _document.changed_multi_agent
        wanted, update = shape(session_id, multi_agent_id, encoded)
        with _operation("write_multi_agent", session_id, multi_agent_id):
            if self._collection.update_one(wanted, update).matched_count:
                return
        if self.read_session(session_id) is None:
            raise SessionNotFoundError(session_id)
        if create:
            raise SessionConflictError(session_id, multi_agent_id, "exists already; update it instead.")
        raise AgentNotFoundError(session_id, multi_agent_id)

    def read_multi_agent(self, session_id: str, multi_agent_id: str, **kwargs: Any) -> dict[str, Any] | None:
        """Return the stored state of a Graph or Swarm, or None where there is none."""
        check_id("session_id", session_id)
        check_id("multi_agent_id", multi_agent_id)
        pipeline = _document.multi_agent_pipeline(session_id, multi_agent_id)
        with _operation("read_multi_agent", session_id, multi_agent_id):
            stored = next(self._collection.aggregate(pipeline), {})
        return None if "state" not in stored else cast("dict[str, Any]", _codec.decode(stored["state"]))

    # One read and one write, which the verbs share

    def _read_agent(self, verb: str, session_id: str, agent_id: str, pipeline: Any, *how: Any) -> Stored | None:
        stages: Pipeline = pipeline(check_id("session_id", session_id), check_id("agent_id", agent_id), *how)
        with _operation(verb, session_id, agent_id):
            return next(self._collection.aggregate(stages), None)

    def _write_unguarded(self, verb: str, session_id: str, write: AgentWrite) -> bool:
        check_id("agent_id", write.agent_id)
        wanted, update = _document.unguarded(check_id("session_id", session_id), write)
        with _operation(verb, session_id, write.agent_id):
            return self._collection.update_one(wanted, update).matched_count > 0


def _open_handle(
    connection_string: str | None, client: "MongoClient[dict[str, Any]] | None", options: dict[str, Any]
) -> ClientHandle:
    check_client_arguments(connection_string, client, options)
    if client is not None:
        return ClientHandle.of(client)
    return ClientHandle.open(cast(str, connection_string), **options)


def _place(session_id: str, agent_id: str, message_id: int | None = None) -> str:
    where = f"Agent {agent_id!r} of session {session_id!r}"
    return where if message_id is None else f"{where}, message {message_id}"


def _session(session_id: str, stored: Mapping[str, Any]) -> Session:
    version = stored.get("schema_version")
    if version is not None and not (isinstance(version, int) and version <= _document.SCHEMA_VERSION):
        raise SchemaVersionError(session_id, version, _document.SCHEMA_VERSION)
    # The first version left the type out, or wrote "default".
    return Session(session_id=session_id, session_type=SessionType.AGENT, **_codec.times(stored))


@contextmanager
def _operation(verb: str, session_id: str, agent_id: str | None = None, messages: int = 0) -> Iterator[None]:
    """Time one operation; a driver error passes through with a note of where it happened."""
    started = time.perf_counter()
    try:
        yield
    except PyMongoError as error:
        if _is_too_large(error):
            raise SessionTooLargeError(session_id, agent_id) from error
        error.__notes__ = [*getattr(error, "__notes__", ()), f"in {verb} of session {session_id!r}"]
        raise
    logger.debug(
        "operation=<%s>, session_id=<%s>, agent_id=<%s>, messages=<%d>, milliseconds=<%.2f> | done",
        verb,
        session_id,
        agent_id,
        messages,
        (time.perf_counter() - started) * 1000,
    )


def _is_too_large(error: PyMongoError) -> bool:
    return isinstance(error, DocumentTooLarge) or (isinstance(error, OperationFailure) and error.code in _TOO_LARGE)
