"""How a session reaches the server: one verb, one MongoDB operation.

The verbs of the SDK's ``SessionRepository`` stand beside those that the session manager writes with. The latter
are guarded: they go through only where the caller's picture of the history is the stored one.
"""

import itertools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast
from weakref import WeakKeyDictionary

import bson
from bson import ObjectId
from pymongo import MongoClient, ReadPreference
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import DocumentTooLarge, DuplicateKeyError, InvalidOperation, OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern
from strands.session.session_repository import SessionRepository
from strands.types.content import Message
from strands.types.session import Session, SessionAgent, SessionMessage, SessionType

from ._client.errors import forget_values, is_too_large
from ._client.handle import CLOSE_TIMEOUT, ClientHandle
from ._client.not_copied import NotCopied
from ._client.options import check_client_arguments
from ._schema import messages as _messages
from ._schema.agents import calls_pipeline, configs_pipeline
from ._schema.blobs import (
    data_digests,
    file_digests,
    leave_unread,
    offload,
    offload_data,
    offload_edit,
    offload_state,
    put_back_data,
    put_back_state,
    put_back_values,
)
from ._schema.data import (
    CONFIG_FIELDS,
    acknowledged_update,
    bytes_pipeline,
    config_of,
    config_projection,
    config_update,
    has_message_filter,
    has_tracking_id_filter,
    little_feedback_filter,
    little_metadata_update,
    metadata_deletion_update,
    metadata_update,
    multi_agent_pipeline,
    multi_agent_projection,
    multi_agent_update,
    new_feedback_update,
    new_multi_agent_update,
    recorded_apart_update,
    recorded_update,
    without_state_file_filter,
)
from ._schema.files import WITHOUT_FILES_FILTER, has_files_update
from ._schema.histories import (
    MOST_AGENTS,
    AgentWrite,
    Guard,
    batch_command,
    guard_of,
    guarded_update,
    new_agent_beside_update,
    new_agent_update,
    unguarded_update,
)
from ._schema.ids import (
    MAX_MESSAGE_ID,
    check_id,
    check_key,
    check_message_id,
    check_name,
    ends_in_number,
    has_number,
    now,
    shown,
)
from ._schema.lease import Lease, expired_lease_update, leased_update, released_lease_update, renewed_lease_update
from ._schema.listing import Listing, Position
from ._schema.live_ids import LiveIds
from ._schema.messages import (
    AGENT_FIELDS,
    MessageEdit,
    agent_data_doc,
    aware,
    last_plain_user,
    message_doc,
    redaction,
    replacement,
    times,
)
from ._schema.multi_agents import (
    MultiAgentState,
    StoredState,
    capture_multi_agent,
    decode_multi_agent,
    encode_multi_agent,
    multi_agent_label,
)
from ._schema.reads import (
    NO_MESSAGE,
    agent_pipeline,
    count_pipeline,
    embedded_messages_pipeline,
    message_pipeline,
    page_pipeline,
    position_pipeline,
    removed_count,
    restore_pipeline,
    tail_pipeline,
    tracked_pipeline,
)
from ._schema.restorable import check_fields, restored_message
from ._schema.sessions import (
    AGENTS_BYTES,
    BROUGHT,
    OPENING_PROJECTION,
    SCHEMA_VERSION,
    new_session_doc,
    opening_projection,
    opening_update,
)
from ._schema.values import CODEC_OPTIONS, FilterAndUpdate, Pipeline, Stored, decode, encode, escape_key, unescape_key
from ._stores.all_agents import AgentsPipeline, read_agents
from ._stores.document_size import BUDGET_BYTES, METADATA_BYTES, DocumentSize, LargeMetadataError, leaving, shared_size
from ._stores.files import SessionFiles
from ._stores.indexes import ensure_indexes
from ._stores.moving import MessageMover
from ._stores.opening import HELD, SessionOpener
from ._stores.outbox import OUTBOX_BYTES, OutboxDocuments
from ._stores.restoring import restoring
from ._stores.segments import FEEDBACK_BYTES, KEPT_BYTES, FeedbackSegments, MessageSegments, RolledOver, total_size
from .errors import (
    AgentNotFoundError,
    MessageNotFoundError,
    MongoDBSessionError,
    SchemaVersionError,
    SessionConflictError,
    SessionLockedError,
    SessionNotFoundError,
    SessionTooLargeError,
    UnstorableValueError,
)

if TYPE_CHECKING:
    from strands.multiagent.base import MultiAgentBase
    from typing_extensions import Unpack

    from .types import ClientOptions

logger = logging.getLogger(__name__)

Outbox: TypeAlias = Sequence[Mapping[str, Any]]

_T = TypeVar("_T")

DEFAULT_DATABASE = "database_name"
DEFAULT_COLLECTION = "agent_sessions"

_PATH_NOT_VIABLE = 28
# Keys that an error names at most: models are told of errors too.
_MOST_NAMED = 5
# Where no message was read by which to tell.
_USUAL_MESSAGE_BYTES = 1024

# A lease may change hands between a try and the look at what was in its way.
_CREATE_TRIES = 5
_CONTENDED = "is being written by several at once; read it again before writing."
_LOST = (
    "is no longer locked by this manager: it wrote nothing for longer than its lease_duration, and somebody else took "
    "over. Make a new manager and agent to go on from what is stored."
)
_REMEDY_FOR_MESSAGE = "another message in its place with the repository's update_message()."
_REMEDY_FOR_AGENT = "another state in its place with the repository's update_agent()."
_REMEDY_FOR_STATE = "another state in its place with the repository's update_multi_agent()."
_NOTHING: Mapping[str, bytes] = {}
# How often room is made for one write: others may fill it meanwhile.
_ROOM_TRIES = 5
# Seconds to wait for others that move messages, where there are none to move.
_ROOM_PAUSES = (0.05, 0.2)
# Sessions whose sizes a repository keeps in mind.
_MOST_SIZES = 1000
_NO_CONDITION: Mapping[str, Any] = {}
# Seconds between attempts to read a value that is not there, but will be when its writer is done.
_PAUSES = (0.05, 0.2, 1.0)


# A request of a service opens those of the one before.
_collections: "WeakKeyDictionary[ClientHandle, dict[tuple[str | None, str], Collection[Stored]]]" = WeakKeyDictionary()


@dataclass(frozen=True)
class OpenedSession:
    """What opening a session told.

    Attributes:
        session: The SDK's record.
        created: Whether the session is new.
        application_name: As it was when the session was created.
        agent_ids: The agents that it surely holds; None where that was not recorded (the first version).
        outbox: Notifications that were recorded with a change and not acknowledged.
        agents: Those that were to be brought along, by id; None for one that it does not hold.
    """

    session: Session
    created: bool
    application_name: str | None
    agent_ids: frozenset[str] | None
    outbox: tuple[dict[str, Any], ...] = field(repr=False)
    agents: "Mapping[str, RestoredAgent | None]" = field(repr=False, default_factory=dict)


@dataclass(frozen=True)
class RestoredAgent:
    """An agent as it is stored, with its live messages.

    Attributes:
        agent: The SDK's record: state, conversation manager state, internal state.
        data: The same as it is stored.
        guard: Where the history is; what the next guarded write must name.
        live_count: How many messages the session document holds.
        live_bytes: About how large they are together.
        has_files: Whether messages of the session refer to offloaded values, or did once.
        live: The live set; None where none is stored.
        removed: Where none is, how many of the oldest messages were left out at most.
        messages: The live ones as (message_id, message), in live order.
    """

    agent: SessionAgent = field(repr=False)
    data: Stored = field(repr=False)
    guard: Guard
    live_count: int
    live_bytes: int
    has_files: bool
    live: LiveIds | None
    removed: int
    messages: list[tuple[int, Message]] = field(repr=False)


@dataclass(frozen=True)
class PreparedWrite:
    """A guarded write that can share a command with others.

    Attributes:
        session_id: The session.
        write: What it stores.
        change: Filter and update.
    """

    session_id: str
    write: AgentWrite = field(repr=False)
    change: FilterAndUpdate = field(repr=False)


@dataclass(frozen=True)
class AgentPosition:
    """Where an agent's history stands, for a writer whose guard missed.

    Attributes:
        guard: The stored place.
        tracking_ids: Those of the messages stored from the asked id on, by message id.
        lease: Of whoever is the only writer, for ``check_lease``; None where there is no such.
    """

    guard: Guard
    tracking_ids: dict[int, str | None]
    lease: Stored | None = None


class MongoDBSessionRepository(NotCopied, SessionRepository):
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
        TypeError: Client options were given beside ``client``, ``metadata_fields`` is a string, or
            ``application_name`` is none.
        ValueError: Neither ``connection_string`` nor ``client`` was given, the write concern is ``w=0``, or a metadata
            field is not fit.
    """

    _instead = "Make another repository from the same arguments; client= shares the connections within a process."

    def __init__(
        self,
        connection_string: str | None = None,
        database_name: str | None = None,
        collection_name: str | None = None,
        client: "MongoClient[dict[str, Any]] | None" = None,
        metadata_fields: Sequence[str] | None = None,
        application_name: str | None = None,
        **client_options: "Unpack[ClientOptions]",
    ) -> None:
        check_names(database_name, collection_name, application_name)
        self.application_name = application_name
        self.metadata_fields = index_fields(metadata_fields)
        self._handle = _open_handle(connection_string, client, client_options)
        self._handle.acquire(self, owner=client is None)
        name = collection_name or DEFAULT_COLLECTION
        self._collection = self._open_collection(database_name, name)
        segments = self._open_collection(database_name, f"{name}_segments")
        files = [self._open_collection(database_name, f"{name}_files.{part}") for part in ("files", "chunks")]
        self._feedback = FeedbackSegments(self._collection, segments)
        self._segments = MessageSegments(self._collection, segments)
        self._outbox = OutboxDocuments(segments)
        self._mover = MessageMover(self._collection, segments)
        self._sizes: dict[str, DocumentSize] = {}
        # Sessions and agents whose state was seen to be in files.
        self._states_apart: set[tuple[str, str]] = set()
        self._leases: dict[str, Lease] = {}
        self._opener = SessionOpener(self._collection, self._leases)
        self._files = SessionFiles(self._collection, segments, *files)

    def _open_collection(self, database_name: str | None, name: str) -> Collection[Stored]:
        opened = _collections.setdefault(self._handle, {})
        found = opened.get((database_name, name))
        if found is None:
            found = opened[database_name, name] = self._new_collection(database_name, name)
        return found

    def _new_collection(self, database_name: str | None, name: str) -> Collection[Stored]:
        database = _database(self._handle.client, database_name)
        if not database_name and database.name == DEFAULT_DATABASE:
            _log_default_database()
        return database.get_collection(
            name,
            # The codec relies on plain dicts and aware datetimes, and guards on all that the primary holds and has
            # acknowledged, whatever the client's own settings are.
            codec_options=CODEC_OPTIONS,
            read_preference=ReadPreference.PRIMARY,
            read_concern=ReadConcern("local"),
        )

    def __repr__(self) -> str:
        return f"MongoDBSessionRepository({self.namespace!r}, {self._handle.state})"

    @property
    def client(self) -> "MongoClient[dict[str, Any]]":
        """The client in use, borrowed or owned."""
        return self._handle.client

    @property
    def collection(self) -> Collection[Stored]:
        """The collection of the session documents: to query it, and not to write histories or states."""
        return self._collection

    @property
    def namespace(self) -> str:
        """Database and collection of the sessions."""
        return self._collection.full_name

    @property
    def handle(self) -> ClientHandle:
        """The client with the worker threads that belong to it."""
        return self._handle

    def close(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Release the client; one that was made from a connection string is closed. Idempotent.

        Args:
            timeout: Seconds to wait at most for work that its threads still do.
        """
        self._handle.release(self, timeout=timeout)

    # Sessions

    def open_session(
        self,
        session_id: str,
        application_name: str | None = None,
        lease: Lease | None = None,
        *,
        create: bool = True,
        agent_ids: Iterable[str] = (),
    ) -> OpenedSession:
        """Open the session, and create it where it is not there.

        Args:
            session_id: The session.
            application_name: Stored if the session is new; the repository's by default.
            lease: What this repository then writes the session under; waited for while it is somebody else's.
            create: False: only a session that is there is opened, and nothing is written but the lease.
            agent_ids: Agents to bring along, as ``restore_agent`` gives them.

        Raises:
            SchemaVersionError: A newer version of this library wrote it.
            SessionLockedError: The lease was not to be had in time.
            SessionNotFoundError: It is not there, and was not to be created.
        """
        fresh, update = opening_update(
            check_id("session_id", session_id),
            SessionType.AGENT.value,
            check_name("application_name", application_name) or self.application_name,
        )
        wanted = [check_id("agent_id", agent_id) for agent_id in dict.fromkeys(agent_ids)]
        brought = wanted if self._projects_expressions else []
        fields = opening_projection(brought) if self._projects_expressions else OPENING_PROJECTION
        with _operation("open_session", session_id) as outcome:
            if create:
                opening = (session_id, update, lease, fields)
                found, created = self._with_room(session_id, lambda: self._opener.create(*opening))
            else:
                claim = (session_id, lease, fields)
                found, created = self._with_room(session_id, lambda: self._opener.find(*claim)), False
            stored = fresh if found is None else found
            parts = dict(zip(brought, stored.get(BROUGHT, ()), strict=False))
            outcome.messages = sum(len(part.get("messages", ())) for part in parts.values())
            session = _session(session_id, stored)
            if create and not created and stored.get("schema_version") is None:
                self._with_room(session_id, lambda: self._opener.upgrade(session_id))
        self._size(session_id).found(stored.get(AGENTS_BYTES, 0))
        if create:
            ensure_indexes(self._collection, self.metadata_fields)
        return OpenedSession(
            session=session,
            created=created,
            application_name=stored.get("application_name"),
            agent_ids=_recorded_ids(stored.get("agent_ids")),
            outbox=tuple(decode(record) for record in self._undelivered(session_id, stored)),
            agents={name: None if created else self._brought(session_id, name, parts.get(name)) for name in wanted},
        )

    def _undelivered(self, session_id: str, stored: Stored) -> list[Stored]:
        apart = stored.get("outbox_documents")
        if not apart:
            return list(stored.get("outbox", ()))
        with _operation("read_outbox", session_id):
            return [*stored.get("outbox", ()), *self._outbox.read(session_id, apart)]

    @property
    def _projects_expressions(self) -> bool:
        """Whether the server computes in a projection; mongomock does not."""
        return isinstance(self._handle.client, MongoClient)

    def _brought(self, session_id: str, agent_id: str, stored: Stored | None) -> "RestoredAgent | None":
        """Return an agent that came with the opening, or read it where it has not."""
        with suppress(_MissingValueError):
            if stored is not None:
                return self._restored(session_id, agent_id, stored)
        return self.restore_agent(session_id, agent_id)

    def check_lease(self, session_id: str, stored: Stored | None) -> None:
        """Raise where a stored lease is in the way of our writes; clear one that nobody renews any more.

        Args:
            session_id: The session.
            stored: What a look at the session found after a write had missed.

        Raises:
            SessionLockedError: Somebody else is the only writer, or took over from us.
        """
        own = self._leases.get(check_id("session_id", session_id))
        if own is not None:
            if stored is None or stored["owner"] != own.owner:
                raise SessionLockedError(session_id, None, _LOST)
            return
        if stored is None:
            return
        if stored["expires_at"] > now():
            raise SessionLockedError(session_id, None, HELD)
        with _operation("clear_lease", session_id):
            self._collection.update_one(*expired_lease_update(session_id, stored))

    def renew_lease(self, session_id: str) -> bool:
        """Show that the holder of a lease that was taken here lives; False where it is somebody else's by now."""
        lease = self._leases.get(check_id("session_id", session_id))
        if lease is None:
            return False
        with _operation("renew_lease", session_id):
            return self._collection.update_one(*renewed_lease_update(session_id, lease)).matched_count > 0

    def release_lease(self, session_id: str) -> None:
        """Let others write the session, if a lease of it was taken here."""
        lease = self._leases.get(check_id("session_id", session_id))
        if lease is not None:
            with _operation("release_lease", session_id):
                self._collection.update_one(*released_lease_update(session_id, lease))
            del self._leases[session_id]

    def _update(self, session_id: str, change: FilterAndUpdate) -> bool:
        """Send a write of history or state; False where it found something else than it expects."""
        return self._send(session_id, self._under_lease(session_id, change))

    def _send(self, session_id: str, change: FilterAndUpdate) -> bool:
        """Send a change of a session document; False where it found something else than it expects."""
        return self._with_room(session_id, lambda: self._collection.update_one(*change).matched_count > 0)

    def _send_recorded(self, session_id: str, change: FilterAndUpdate, outbox: list[Stored]) -> bool:
        """Send a change with the notifications that tell of it; those that nobody delivers do not fill the document."""
        if not outbox:
            return self._send(session_id, change)
        most = OUTBOX_BYTES if self._projects_expressions else None
        if self._send(session_id, recorded_update(change, outbox, most)):
            return True
        if most is None or self._bytes_of(session_id, "outbox") + len(bson.encode({"outbox": outbox})) <= most:
            return False
        references = self._outbox.store(session_id, outbox)
        written = self._send(session_id, recorded_apart_update(change, references))
        if not written:
            self._outbox.take_back(session_id, references)
        return written

    def _bytes_of(self, session_id: str, name: str, without: Iterable[str] = ()) -> int:
        """Return how large a field of the session is; 0 where there is no such session."""
        found = next(self._collection.aggregate(bytes_pipeline(session_id, name, without)), {})
        return int(found.get("bytes", 0))

    # The size of session documents

    def _with_room(self, session_id: str, write: Callable[[], _T]) -> _T:
        """Write; where the session document has no room left, make some and write again."""
        pauses = iter(_ROOM_PAUSES)
        for _ in range(_ROOM_TRIES):
            try:
                return write()
            except OperationFailure as error:
                if not is_too_large(error):
                    raise
                if not self._make_room(session_id):
                    # Others may be moving the same messages just now.
                    pause = next(pauses, None)
                    if pause is None:
                        raise
                    time.sleep(pause)
        return write()

    def _make_room(self, session_id: str) -> bool:
        """Move messages out of a document that is full, in the end all; False where there are none to move.

        Those of first-version agents only where there are no others.
        """
        if not self._projects_expressions:
            return False
        agents = self._mover.look(session_id)
        is_over = sum(agent.size for agent in agents) > BUDGET_BYTES
        goal = BUDGET_BYTES // 2 if is_over else 0
        moved = self._mover.move(session_id, leaving(agents, goal) or leaving(agents, goal, numbered=False))
        logger.info("session_id=<%s>, bytes=<%d> | moved out of a document that was full", session_id, moved)
        return moved > 0

    def _size(self, session_id: str) -> DocumentSize:
        if session_id not in self._sizes:
            if len(self._sizes) >= _MOST_SIZES:
                self._sizes.clear()
            self._sizes[session_id] = shared_size(self._handle, self.namespace, session_id)
        return self._sizes[session_id]

    def is_crowded(self, session_id: str) -> bool:
        """Tell whether a session's writers should move their own agents' messages out of its document."""
        return self._size(check_id("session_id", session_id)).is_crowded

    def _grew(self, session_id: str, added: int) -> None:
        """Count what was stored, and have somebody look, where it may be much by now; nobody waits for that."""
        if not self._projects_expressions:
            return
        size = self._size(session_id)
        if size.grew(added):
            try:
                self._handle.executor.submit(self._keep_small, session_id, size)
            except (InvalidOperation, RuntimeError):
                size.looked()
                logger.debug("session_id=<%s> | closing, the next process looks how large it is", session_id)

    def _keep_small(self, session_id: str, size: DocumentSize) -> None:
        """Move messages out of a document where all agents' together are over the budget."""
        found, moved = None, 0
        try:
            with _operation("keep_small", session_id):
                agents = self._mover.look(session_id)
                found = sum(agent.size for agent in agents)
                if found > BUDGET_BYTES:
                    moved = self._mover.move(session_id, leaving(agents, BUDGET_BYTES // 2))
        except (PyMongoError, MongoDBSessionError) as error:
            # Nothing is lost: the messages are where they were.
            name = type(error).__name__
            logger.warning("session_id=<%s>, error=<%s> | old messages were not moved", session_id, name)
        finally:
            size.looked(found, moved)
        self._grew(session_id, 0)  # much may have come meanwhile

    def _under_lease(self, session_id: str, change: FilterAndUpdate) -> FilterAndUpdate:
        return leased_update(change, self._leases.get(session_id))

    def create_session(self, session: Session, **kwargs: Any) -> Session:
        """Create a session; its ``session_type`` may be any string.

        Raises:
            SessionConflictError: It exists already.
            TypeError: Its type is not a string.
            ValueError: Its type is not valid Unicode, or one of its times is none.
        """
        session_id = check_id("session_id", session.session_id)
        place = f"Session {session_id!r}"
        kind = _given_type(place, session.session_type)
        created_at = _given_time(place, "created_at", session.created_at)
        fresh = new_session_doc(session_id, kind, self.application_name, created_at)
        fresh["updated_at"] = _given_time(place, "updated_at", session.updated_at)
        with _operation("create_session", session_id):
            try:
                self._collection.insert_one({"_id": session_id, "schema_version": SCHEMA_VERSION, **fresh})
            except DuplicateKeyError as error:
                raise SessionConflictError(session_id, None, "exists already; open it instead.") from error
        return session

    def read_session(self, session_id: str, **kwargs: Any) -> Session | None:
        """Return the session, or None where there is none.

        Raises:
            SchemaVersionError: A newer version of this library wrote it.
        """
        with _operation("read_session", session_id):
            stored = self._collection.find_one({"_id": session_id}, OPENING_PROJECTION)
        return None if stored is None else _session(session_id, stored)

    def delete_session(self, session_id: str, **kwargs: Any) -> bool:
        """Delete the session and everything that belongs to it; False where there was none."""
        with _operation("delete_session", session_id):
            deleted = self._collection.delete_one({"_id": session_id}).deleted_count > 0
            self._feedback.delete(session_id)
            self._files.delete(session_id)
        return deleted

    # Agents

    def create_agent(self, session_id: str, session_agent: SessionAgent, **kwargs: Any) -> None:
        """Create an agent without messages.

        Raises:
            SessionConflictError: The session holds it already.
            SessionNotFoundError: There is no such session.
            ValueError: Its time of creation is none.
        """
        agent_id = check_id("agent_id", session_agent.agent_id)
        place = _place(session_id, agent_id)
        data, at = agent_data_doc(session_agent, place), _given_time(place, "created_at", session_agent.created_at)
        if not self.start_agent(session_id, AgentWrite(agent_id, data=data, at=at)):
            raise SessionConflictError(session_id, agent_id, "exists already; update it instead.")

    def start_agent(self, session_id: str, write: AgentWrite) -> bool:
        """Create an agent with its first messages; False where the session holds it already.

        Raises:
            SessionLockedError: The session is another manager's.
            SessionNotFoundError: There is no such session.
        """
        apart = self._with_state_apart(session_id, write)
        created = self._or_take_back(session_id, apart.files, lambda: self._start_whole_agent(session_id, apart))
        if created:
            self._settle_state(session_id, write, apart)
        return created

    def _start_whole_agent(self, session_id: str, write: AgentWrite) -> bool:
        """Create an agent in one write, also with more messages than a document should hold."""
        if write.size <= BUDGET_BYTES:
            return self._start_agent(session_id, write)
        with _operation("store_segments", session_id, check_id("agent_id", write.agent_id), len(write.appended)):
            moved, kept = self._segments.store(session_id, write.agent_id, write.appended)
        created = False
        try:
            size = total_size(kept)
            created = self._start_agent(session_id, replace(write, appended=kept, moved=moved, size=size))
        except MongoDBSessionError:
            self._segments.take_back(session_id, moved)
            raise
        if not created:
            self._segments.take_back(session_id, moved)
        return created

    def _start_agent(self, session_id: str, write: AgentWrite) -> bool:
        shape = new_agent_update
        for _ in range(_CREATE_TRIES):
            if self._create_agent(session_id, write, shape):
                return True
            stored = self._read_tail(session_id, write.agent_id)
            if stored.get("agent_data"):
                # A retry of our own write, whose first answer was lost, finds the agent as it made it.
                return guard_of(stored).write_id == write.write_id
            if stored["agents"] >= MOST_AGENTS:
                raise UnstorableValueError(
                    _place(session_id, write.agent_id),
                    f"the session has {MOST_AGENTS} agents, which is the most that one has. Take another "
                    "session_id for the conversations of new agents",
                )
            self.check_lease(session_id, stored.get("lease"))  # one that went meanwhile is in the way no longer
            shape = new_agent_beside_update if stored["is_there"] else new_agent_update
        if stored.get("lease") is None:
            return False
        raise SessionConflictError(session_id, write.agent_id, _CONTENDED)

    def _create_agent(
        self, session_id: str, write: AgentWrite, shape: Callable[[str, AgentWrite], FilterAndUpdate]
    ) -> bool:
        check_id("agent_id", write.agent_id)
        self.store_files(session_id, write.files)
        with _operation("create_agent", session_id, write.agent_id) as outcome:
            created = outcome.of(self._update(session_id, shape(session_id, write)))
        if created:
            self._grew(session_id, write.size)
        return created

    def read_agent(self, session_id: str, agent_id: str, **kwargs: Any) -> SessionAgent | None:
        """Return an agent's data, or None where the session holds no such agent."""
        return self._with_values(lambda: self._read_state(session_id, agent_id))

    def _read_state(self, session_id: str, agent_id: str) -> SessionAgent | None:
        stored = self._read_agent("read_agent", session_id, agent_id, agent_pipeline)
        if not (stored and stored.get("agent_data")):
            return None
        self._put_state_back(session_id, agent_id, stored["agent_data"])
        return _messages.session_agent(agent_id, stored)

    def update_agent(self, session_id: str, session_agent: SessionAgent, **kwargs: Any) -> None:
        """Replace an agent's data; its messages and its time of creation stay.

        Raises:
            AgentNotFoundError: The session holds no such agent.
            SessionNotFoundError: There is no such session.
        """
        agent_id = check_id("agent_id", session_agent.agent_id)
        data = agent_data_doc(session_agent, _place(session_id, agent_id))
        write = AgentWrite(agent_id, data=data)
        if self._write_unguarded("update_agent", session_id, write):
            return
        position = self.locate_agent(session_id, agent_id)
        self.check_lease(session_id, position.lease)
        if not self._write_unguarded("update_agent", session_id, write, nested=position.guard.nested):
            raise SessionConflictError(session_id, agent_id, _CONTENDED)

    def restore_agent(self, session_id: str, agent_id: str, removed: int | None = None) -> RestoredAgent | None:
        """Return an agent with its live messages, or None where there is no such agent.

        Args:
            session_id: The session.
            agent_id: The agent.
            removed: Where no live set is stored, how many of the oldest messages are not live; what the stored state
                of the conversation manager says by default.

        Raises:
            SessionNotFoundError: There is no such session.
        """
        return self._with_values(lambda: self._restore_agent(session_id, agent_id, removed))

    def _restore_agent(self, session_id: str, agent_id: str, removed: int | None) -> RestoredAgent | None:
        stored = self._read_agent("restore_agent", session_id, agent_id, restore_pipeline)
        if stored is None:
            raise SessionNotFoundError(session_id)
        return self._restored(session_id, agent_id, stored, removed)

    def _restored(
        self, session_id: str, agent_id: str, stored: Stored, removed: int | None = None
    ) -> RestoredAgent | None:
        if not stored.get("agent_data"):
            return None
        place = _place(session_id, agent_id)
        check_fields(place, stored["agent_data"])
        self._put_state_back(session_id, agent_id, stored["agent_data"])
        live = LiveIds.of(stored.get("live"))
        if live is None and stored.get("live") is not None:  # what the server made of it is no help
            logger.warning("session_id=<%s>, agent_id=<%s> | the live set cannot be read", session_id, agent_id)
            whole = self._read_agent("restore_agent", session_id, agent_id, embedded_messages_pipeline)
            stored = stored | {name: (whole or {})[name] for name in ("messages", "segments")}
        removed = removed_count(stored["agent_data"]) if removed is None else removed
        with restoring(place, "messages"):
            messages = self._chosen(session_id, stored, live) if live else self._after(session_id, stored, removed)
        with restoring(place, "agent_data"):
            agent = _messages.session_agent(agent_id, stored)
        with restoring(place, "guard"):
            guard = guard_of(stored)
        live_bytes = _live_bytes(stored)  # before the large values are back, which are stored elsewhere
        self._put_values_back(session_id, agent_id, messages)
        return RestoredAgent(
            agent=agent,
            data=stored["agent_data"],
            guard=guard,
            live_count=stored["count"],
            live_bytes=live_bytes,
            has_files=bool(stored.get("has_files")),
            live=live,
            removed=removed,
            messages=[restored_message(place, message) for message in messages],
        )

    def _chosen(self, session_id: str, stored: Stored, live: LiveIds) -> list[Stored]:
        """Return the messages of a live set, in live order."""
        older = self._segments.read(session_id, live.holding(stored["segments"]), live.spans)
        found = {int(message["message_id"]): message for message in (*older, *stored["messages"])}
        ids = sorted(found)
        if live.missing(ids):
            logger.warning(
                "session_id=<%s>, messages=<%d> | live messages are not stored", session_id, live.missing(ids)
            )
        return [found[number] for number in live.choose(ids)]

    def _after(self, session_id: str, stored: Stored, removed: int) -> list[Stored]:
        """Return the messages from a position on, or from the user's message before it; past the end, all."""
        messages, references = list(stored["messages"]), list(stored["segments"])
        first = sum(reference["count"] for reference in references)
        if removed == first + len(messages):
            return []
        start = removed if removed < first + len(messages) else 0
        while references and (first > start or last_plain_user(messages[: start - first + 1]) is None):
            needed = [references.pop()]
            while references and first - sum(r["count"] for r in needed) > start:
                needed.insert(0, references.pop())
            messages = self._segments.read(session_id, needed) + messages
            first -= sum(reference["count"] for reference in needed)
        return messages[last_plain_user(messages[: start - first + 1]) or 0 :]

    def write_agent(self, session_id: str, write: AgentWrite, guard: Guard) -> bool:
        """Send one guarded write; False when the history is not where the guard says."""
        check_id("agent_id", write.agent_id)
        apart = self._with_state_apart(session_id, write)
        self.store_files(session_id, apart.files)
        with _operation("write_agent", session_id, write.agent_id, messages=len(write.appended)) as outcome:
            written = outcome.of(self._update(session_id, guarded_update(session_id, apart, guard)))
        if written:
            self._grew(session_id, write.size)
            self._settle_state(session_id, write, apart)
        return written

    def prepare_write(self, session_id: str, write: AgentWrite, guard: Guard) -> PreparedWrite:
        """Return what ``write_agent`` would send, for ``write_together``; for a write that has no files."""
        check_id("session_id", session_id)
        check_id("agent_id", write.agent_id)
        change = self._under_lease(session_id, guarded_update(session_id, write, guard))
        return PreparedWrite(session_id, write, change)

    def write_together(self, prepared: Sequence[PreparedWrite]) -> bool:
        """Try to send guarded writes of several agents in one command, which the driver does not retry.

        Returns:
            Whether all are acknowledged. If not, any of them may have gone through all the same.

        Raises:
            PyMongoError: The command failed. Any of them may have gone through all the same.
        """
        started = time.perf_counter()
        collection = self._collection
        changes = (one.change for one in prepared)
        command = batch_command(collection.name, changes, collection.write_concern.document)
        answer = collection.database.command(command)
        if answer["n"] < len(prepared) or answer.get("writeErrors") or answer.get("writeConcernError"):
            return False
        for one in prepared:
            _log_done("write_agent", one.session_id, one.write.agent_id, len(one.write.appended), started)
            self._grew(one.session_id, one.write.size)
        return True

    def index_segments(self) -> None:
        """See to the index of the segments, which nobody waits for."""
        self._segments.index()

    def roll_over(
        self, session_id: str, agent_id: str, guard: Guard, write_id: ObjectId, kept_bytes: int = KEPT_BYTES
    ) -> RolledOver | None:
        """Move an agent's oldest messages into segments, as one guarded write.

        Args:
            session_id: The session.
            agent_id: The agent.
            guard: Where the history must stand.
            write_id: Tells this write when its answer was lost.
            kept_bytes: How much of the latest messages stays at most.

        Returns:
            What stays; None where nothing was moved.
        """
        check_id("agent_id", agent_id)
        with _operation("roll_over", session_id, agent_id):
            lease = self._leases.get(session_id)
            return self._segments.roll(session_id, agent_id, guard, write_id, kept_bytes, lease)

    def tracked_ids(self, session_id: str, agent_id: str, tracking_id: str) -> set[int]:
        """Return the ids of all stored messages with a tracking id: a prompt that was sent again has several.

        Raises:
            SessionNotFoundError: There is no such session.
            TypeError: ``tracking_id`` is not a string.
        """
        # A copy may be left in a segment that nobody refers to.
        found = self.tracked_messages(session_id, agent_id, [tracking_id], everywhere=True)
        return set(found.get(tracking_id, ()))

    def tracked_messages(
        self, session_id: str, agent_id: str, tracking_ids: Iterable[str], *, everywhere: bool = False
    ) -> dict[str, list[int]]:
        """Return the ids of the stored messages that have one of some tracking ids, ascending, by tracking id.

        Args:
            session_id: The session.
            agent_id: The agent.
            tracking_ids: What to look for.
            everywhere: Whether also segments are meant that nobody refers to.

        Raises:
            SessionNotFoundError: There is no such session.
            TypeError: A tracking id is not a string.
        """
        stored = [_stored_tracking_id(session_id, each) for each in tracking_ids]
        agent = self._read_agent("tracked_messages", session_id, agent_id, tracked_pipeline, stored)
        found = list(self._found(session_id, agent)["messages"])
        if everywhere or (agent and agent["segments"]):
            found += self._segments.tracked(session_id, agent_id, stored)
        ids: dict[str, list[int]] = {}
        for number, message in sorted({int(m["message_id"]): m for m in found}.items()):
            ids.setdefault(decode(message["tracking_id"]), []).append(number)
        return ids

    def edit_moved(
        self, session_id: str, agent_id: str, edit: MessageEdit, files: Mapping[str, bytes] = _NOTHING
    ) -> bool:
        """Change a message that has moved into a segment; False where it is in none."""
        check_id("agent_id", agent_id)
        check_message_id(edit.message_id)
        self.store_files(session_id, files)
        with _operation("edit_moved", session_id, agent_id):
            if files:
                self._send(session_id, has_files_update(session_id))
            return self._segments.edit(session_id, agent_id, edit)

    # Large values of messages and states

    def store_files(self, session_id: str, files: Mapping[str, bytes]) -> None:
        """Upload the values that the session does not hold yet, ahead of the write that refers to them."""
        if files:
            with _operation("store_files", session_id):
                self._files.store(session_id, files)

    def keep_files(self, session_id: str, files: Mapping[str, bytes]) -> None:
        """See that the values of a message that was stored just now are stored still; no I/O where there are none."""
        if files:
            with _operation("keep_files", session_id):
                self._files.keep(session_id, files)

    def mark_files(
        self, session_id: str, agent_id: str, edit: MessageEdit | None, digests: Iterable[str], removal: ObjectId
    ) -> None:
        """Announce that values are about to lose a user.

        Args:
            session_id: The session.
            agent_id: The agent.
            edit: What changes in a message; the values that it takes out are looked up.
            digests: Other values.
            removal: Tells this removal from others.
        """
        unused = set(digests)
        if edit is not None:
            found = self._find_message(session_id, agent_id, edit.message_id)
            unused |= file_digests(found) - file_digests([edit.fields])
        with _operation("mark_files", session_id, check_id("agent_id", agent_id)):
            self._files.mark(session_id, unused, removal)

    def remove_files(self, session_id: str, digests: Iterable[str], removal: ObjectId) -> None:
        """Remove the values that no message uses: these, and those whose removal was announced."""
        with _operation("remove_files", session_id):
            self._files.remove_unused(session_id, digests, removal)

    def _with_state_apart(self, session_id: str, write: AgentWrite) -> AgentWrite:
        """Have the large fields of an agent's state stored as files."""
        data, files = offload_data(write.data)
        return replace(write, data=data, files={**write.files, **files}) if files else write

    def _settle_state(self, session_id: str, write: AgentWrite, apart: AgentWrite) -> None:
        """See that the files of a state that was stored just now are there, and that those before them go."""
        is_apart = apart is not write
        knows_files = (session_id, write.agent_id) in self._states_apart and not write.data.keys().isdisjoint(
            AGENT_FIELDS
        )
        if not (is_apart or knows_files):
            return
        self._states_apart.add((session_id, write.agent_id))
        with _operation("keep_files", session_id, write.agent_id):
            self._files.keep(session_id, {d: v for d, v in apart.files.items() if d not in write.files})
            self._files.remove_all_unused(session_id)

    def _put_state_back(self, session_id: str, agent_id: str, data: Stored) -> None:
        wanted = data_digests(data)
        if not wanted:
            return
        self._states_apart.add((session_id, agent_id))
        with _operation("read_files", session_id, agent_id):
            files = self._files.read(session_id, wanted)
        if not files.keys() >= wanted:
            raise _MissingValueError(_place(session_id, agent_id), _REMEDY_FOR_AGENT)
        put_back_data(data, files)

    def _or_take_back(self, session_id: str, files: Mapping[str, bytes], write: Callable[[], bool]) -> bool:
        """Write; where that stores nothing, remove the values again that were uploaded ahead of it.

        Not after an error of the driver: the write may arrive yet, and whoever repeats it needs them.
        """
        try:
            written = write()
        except MongoDBSessionError:
            self._take_back(session_id, files)
            raise
        if not written:
            self._take_back(session_id, files)
        return written

    def _take_back(self, session_id: str, files: Mapping[str, bytes]) -> None:
        if files:
            with suppress(PyMongoError):  # what became of the write is what the caller is to know
                self.remove_files(session_id, files, ObjectId())

    def _with_values(self, read: Callable[[], _T]) -> _T:
        """Read; once more, a little later, where a writer and a remover of the same value have just met."""
        for pause in _PAUSES:
            try:
                return read()
            except _MissingValueError:
                time.sleep(pause)
        return read()

    def _put_values_back(self, session_id: str, agent_id: str, messages: Sequence[Stored]) -> None:
        wanted = file_digests(messages)
        if not wanted:
            return
        with _operation("read_files", session_id, agent_id, messages=len(messages)):
            files = self._files.read(session_id, wanted)
        for message in messages:
            if not files.keys() >= file_digests([message]):
                raise _MissingValueError(_place(session_id, agent_id, message["message_id"]), _REMEDY_FOR_MESSAGE)
            put_back_values(message, files)

    def locate_agent(self, session_id: str, agent_id: str, from_message_id: int = NO_MESSAGE) -> AgentPosition:
        """Return where an agent's history stands.

        Args:
            session_id: The session.
            agent_id: The agent.
            from_message_id: The first message whose tracking id is wanted; none by default.

        Raises:
            AgentNotFoundError: The session holds no such agent.
            SessionNotFoundError: There is no such session.
            TypeError: ``from_message_id`` is not an integer.
        """
        stored = self._read_tail(session_id, agent_id, from_message_id)
        if not stored.get("agent_data"):
            raise AgentNotFoundError(session_id, agent_id)
        tracking_ids = {int(m["message_id"]): decode(m.get("tracking_id")) for m in stored["messages"]}
        return AgentPosition(guard_of(stored), tracking_ids, stored.get("lease"))

    def _read_tail(self, session_id: str, agent_id: str, from_message_id: int = NO_MESSAGE) -> Stored:
        wanted = (tail_pipeline, from_message_id)
        return self._found(session_id, self._read_agent("locate_agent", session_id, agent_id, *wanted))

    # Messages

    def create_message(self, session_id: str, agent_id: str, session_message: SessionMessage, **kwargs: Any) -> None:
        """Append a message under an id that is higher than those stored. A repeated call is recognised.

        Raises:
            AgentNotFoundError: The session holds no such agent.
            SessionConflictError: The id is taken, or lies before the end of the history.
            SessionNotFoundError: There is no such session.
            TypeError: The id of the message is not an integer.
            UnstorableValueError: The message holds something that would not come back equal.
            ValueError: Its time of creation is none.
        """
        message_id, message = check_message_id(session_message.message_id), session_message.to_message()
        place = _place(session_id, agent_id, message_id)
        created_at = _given_time(place, "created_at", session_message.created_at)
        stored = message_doc(message, message_id, created_at, place)
        size, files = offload(stored, session_id, agent_id, message_id)
        write = AgentWrite(agent_id, [stored], size=size, files=files)
        if self._or_take_back(session_id, files, lambda: self._append(session_id, write, message.get("tracking_id"))):
            self.keep_files(session_id, files)

    def _append(self, session_id: str, write: AgentWrite, tracking_id: str | None) -> bool:
        """Append a message; False where it is stored already, perhaps redacted since."""
        if self._write_unguarded("create_message", session_id, write):
            return True
        agent_id, message_id = write.agent_id, write.appended[0]["message_id"]
        position = self.locate_agent(session_id, agent_id, message_id)
        if tracking_id is not None and position.tracking_ids.get(message_id) == tracking_id:
            return False
        self.check_lease(session_id, position.lease)
        nested = position.guard.nested
        if position.tracking_ids or not self._write_unguarded("create_message", session_id, write, nested=nested):
            raise SessionConflictError(
                session_id,
                agent_id,
                f"already holds a message {message_id} or later; read it again before writing.",
            )
        return True

    def read_message(self, session_id: str, agent_id: str, message_id: int, **kwargs: Any) -> SessionMessage | None:
        """Return one message, or None where there is no such message, agent or session.

        Raises:
            TypeError: ``message_id`` is not an integer.
        """

        def read() -> list[Stored]:
            found = self._find_message(session_id, agent_id, message_id)
            self._put_values_back(session_id, agent_id, found)
            return found

        found = self._with_values(read)
        return _messages.session_message(found[0]) if found else None

    def _find_message(self, session_id: str, agent_id: str, message_id: int) -> list[Stored]:
        stored = self._read_agent("read_message", session_id, agent_id, message_pipeline, message_id)
        if not stored or stored["messages"]:
            return stored["messages"][:1] if stored else []
        moved = self._segments.read_message(session_id, stored["segments"], message_id)
        return [] if moved is None else [moved]

    def update_message(self, session_id: str, agent_id: str, session_message: SessionMessage, **kwargs: Any) -> None:
        """Replace a message, or redact it: of a message with ``redact_message`` only that is kept.

        Raises:
            MessageNotFoundError: The agent holds no such message.
            AgentNotFoundError: The session holds no such agent.
            SessionNotFoundError: There is no such session.
            TypeError: The id of the message is not an integer.
            UnstorableValueError: The message holds something that would not come back equal.
        """
        message_id = check_message_id(session_message.message_id)
        edit = replacement if session_message.redact_message is None else redaction
        place = _place(session_id, agent_id, message_id)
        edited = edit(session_message.to_message(), message_id, now(), place)
        edited, files = offload_edit(edited, session_id, agent_id)
        write = AgentWrite(agent_id, edited=edited, files=files)
        fileless = not files and self._write_unguarded("update_message", session_id, write, WITHOUT_FILES_FILTER)
        if not self._or_take_back(session_id, files, lambda: self._edit(session_id, write, edited, fileless)):
            raise MessageNotFoundError(session_id, agent_id, message_id)
        if fileless:
            return
        with _operation("keep_files", session_id, agent_id):
            self._files.keep(session_id, files)
            self._files.remove_all_unused(session_id)

    def _edit(self, session_id: str, write: AgentWrite, edit: MessageEdit, written: bool) -> bool:
        """Change a message wherever it is, in the session document unless that is done; False where it is nowhere."""
        written = written or self._edit_live(session_id, write, edit.message_id)
        # A redaction also reaches copies that segments hold.
        moved = (edit.redacts or not written) and self.edit_moved(session_id, write.agent_id, edit, write.files)
        return written or moved

    def _edit_live(self, session_id: str, write: AgentWrite, message_id: int) -> bool:
        """Change a message in the session document; False where it is not there."""
        if self._write_unguarded("update_message", session_id, write):
            return True
        position = self.locate_agent(session_id, write.agent_id, message_id)
        self.check_lease(session_id, position.lease)
        is_live = message_id in position.tracking_ids
        nested = position.guard.nested
        return is_live and self._write_unguarded("update_message", session_id, write, nested=nested)

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
        return [_messages.session_message(stored) for stored in self.read_page(session_id, agent_id, limit, offset)]

    def read_page(
        self, session_id: str, agent_id: str, limit: int | None = None, offset: int = 0, *, sizes_only: bool = False
    ) -> list[Stored]:
        """Return an agent's messages as the codec stores them; arguments and errors as of ``list_messages``.

        With ``sizes_only`` large bytes tell their number alone, and are not read where that is stored beside them.
        """

        def read() -> list[Stored]:
            messages = self._read_page(session_id, agent_id, limit, offset)
            for message in messages if sizes_only else ():
                leave_unread(message)
            self._put_values_back(session_id, agent_id, messages)
            return messages

        return self._with_values(read)

    def read_listing(
        self, session_id: str, agent_id: str, listing: Listing, *, sizes_only: bool = False
    ) -> list[Stored]:
        """Return the messages that a listing names, in its order, as the codec stores them; bytes as ``read_page``.

        Raises:
            AgentNotFoundError: The session holds no such agent.
            SessionNotFoundError: There is no such session.
        """
        if listing.begins_at_start:
            return self.read_page(session_id, agent_id, listing.limit, listing.offset, sizes_only=sizes_only)
        offset, limit = listing.page(self._position(session_id, agent_id, listing.after))
        messages = self.read_page(session_id, agent_id, limit, offset, sizes_only=sizes_only)
        return messages[::-1] if listing.newest_first else messages

    def _position(self, session_id: str, agent_id: str, message_id: int | None) -> Position:
        """Return where a message stands among all of its agent's; the end where there is no id."""
        read = (position_pipeline, message_id)
        stored = self._found(session_id, self._read_agent("list_messages", session_id, agent_id, *read))
        if not stored.get("agent_data"):
            raise AgentNotFoundError(session_id, agent_id)
        moved = stored.get("moved_count") or 0
        if message_id is not None and stored["upto"] == 0 and moved:
            with _operation("list_messages", session_id, agent_id):
                found = self._segments.position(session_id, stored["segments"], message_id)
            if found is not None:
                return found
        return Position(moved + stored["before"], moved + stored["upto"])

    def _read_page(self, session_id: str, agent_id: str, limit: int | None = None, offset: int = 0) -> list[Stored]:
        _check_numbers(limit=limit, offset=offset)
        if offset < 0 or (limit is not None and limit < 0):
            raise ValueError(f"limit and offset must not be negative, got limit={limit!r}, offset={offset!r}")

        start = min(offset, MAX_MESSAGE_ID)
        end = None if limit is None else min(offset + limit, MAX_MESSAGE_ID)
        page = (page_pipeline, start, end)
        agent = self._found(session_id, self._read_agent("list_messages", session_id, agent_id, *page))
        if not agent.get("agent_data"):
            raise AgentNotFoundError(session_id, agent_id)
        return self._segments.page(session_id, agent, start, end)

    def count_messages(self, session_id: str, agent_id: str) -> int:
        """Return the number of an agent's messages; 0 where there is no such agent.

        Raises:
            SessionNotFoundError: There is no such session.
        """
        stored = self._read_agent("count_messages", session_id, agent_id, count_pipeline)
        return int(self._found(session_id, stored)["count"])

    # Agents' configuration and usage

    def read_agent_config(self, session_id: str, agent_id: str) -> Stored | None:
        """Return ``model``, ``system_prompt`` and ``prompt_metadata`` of an agent, or None where there is none.

        Raises:
            SessionNotFoundError: There is no such session.
        """
        wanted = config_projection(check_id("agent_id", agent_id))
        with _operation("read_agent_config", session_id, agent_id):
            session = self._found(session_id, self._collection.find_one({"_id": session_id}, wanted))
        data = config_of(session, agent_id)
        return None if data is None else _config(agent_id, data)

    def update_agent_config(self, session_id: str, agent_id: str, config: Mapping[str, Any]) -> None:
        """Set some of ``model``, ``system_prompt`` and ``prompt_metadata``.

        Raises:
            AgentNotFoundError: The session holds no such agent.
            SessionNotFoundError: There is no such session.
            UnstorableValueError: The metadata holds something that would not come back equal.
        """
        check_id("agent_id", agent_id)
        encoded = encode(dict(config), _place(session_id, agent_id), plain_dates=True)
        if not self._write_config(session_id, agent_id, encoded):
            position = self.locate_agent(session_id, agent_id)
            if position.guard.nested:
                self._write_config(session_id, agent_id, encoded, nested=True)

    def _write_config(self, session_id: str, agent_id: str, config: Stored, *, nested: bool = False) -> bool:
        wanted, update = config_update(session_id, agent_id, config, nested=nested)
        with _operation("update_agent_config", session_id, agent_id) as outcome:
            return outcome.of(self._send(session_id, (wanted, update)))

    def list_agent_configs(self, session_id: str) -> list[Stored]:
        """Return the configuration of every agent of the session.

        Raises:
            SessionNotFoundError: There is no such session.
        """
        agents = self._read_agents("list_agents", session_id, configs_pipeline)
        return [_config(unescape_key(agent["key"]), agent) for agent in agents]

    def _read_agents(self, verb: str, session_id: str, pipeline: AgentsPipeline) -> list[Stored]:
        with _operation(verb, session_id):
            found = read_agents(self._collection, session_id, pipeline)
        self._expect_session(session_id, found is not None)
        return [agent for agent in found or () if agent["is_agent"]]

    def read_calls(self, session_id: str) -> dict[str, list[Stored]]:
        """Return the ``event_loop_metrics`` of the messages that have some, in order, by agent.

        Raises:
            SessionNotFoundError: There is no such session.
        """
        agents = self._read_agents("read_calls", session_id, calls_pipeline)
        return {unescape_key(agent["key"]): self._calls(session_id, agent) for agent in agents}

    def _calls(self, session_id: str, agent: Stored) -> list[Stored]:
        moved = self._segments.read(session_id, agent["segments"])
        calls = [*(message.get("event_loop_metrics") for message in moved), *agent["calls"]]
        return [decode(call) for call in calls if call]

    # Metadata

    def update_metadata(self, session_id: str, metadata: Mapping[str, Any], outbox: Outbox = ()) -> None:
        """Set metadata fields; the others stay. A dotted key reaches into a nested field.

        Args:
            session_id: The session.
            metadata: Values by key.
            outbox: Notifications to record in the same write; each has an ``id``.

        Raises:
            SessionNotFoundError: There is no such session.
            TypeError: ``metadata`` is not a mapping.
            UnstorableValueError: A value would not come back equal, a field cannot be reached, or a number in a key
                lies beyond the end of a list, which would be filled with nulls.
            ValueError: A key is not fit, or two keys overlap.
        """
        fields = _metadata_fields(session_id, metadata)
        if not fields:
            return
        change, records = metadata_update(session_id, fields), _outbox(session_id, outbox)
        with _operation("update_metadata", session_id), _unreachable_fields(session_id, fields):
            if not self._send_metadata(session_id, fields, change, records):
                self._expect_stored(session_id)
                raise UnstorableValueError(
                    f"Metadata of session {session_id!r}, {_named(fields, has_number)}",
                    "a number in the key lies beyond the end of the list there, which would be filled with nulls. "
                    "Set the next element of the list, or the whole list",
                )

    def _send_metadata(self, session_id: str, fields: Stored, change: FilterAndUpdate, records: list[Stored]) -> bool:
        """Send a change of metadata that leaves room for what else is in the document."""
        added = len(bson.encode(fields))
        if not self._projects_expressions:
            return self._send_recorded(session_id, change, records)
        fitting = little_metadata_update(change, METADATA_BYTES - added)
        if self._send_recorded(session_id, fitting, records):
            return True
        if self._bytes_of(session_id, "metadata") + added <= METADATA_BYTES:
            return False  # something else is in the way
        size = self._bytes_of(session_id, "metadata", without=fields) + added
        if size > METADATA_BYTES:
            raise LargeMetadataError(session_id, size)
        return self._send_recorded(session_id, change, records)

    def get_metadata(self, session_id: str) -> dict[str, Any]:
        """Return ``{"metadata": {…}}``, or ``{}`` where there is none.

        Raises:
            SessionNotFoundError: There is no such session.
        """
        with _operation("get_metadata", session_id):
            stored = self._found(session_id, self._collection.find_one({"_id": session_id}, {"metadata": 1}))
        metadata = stored.get("metadata")
        return {"metadata": decode(metadata)} if metadata else {}

    def delete_metadata(
        self, session_id: str, keys: Iterable[str], outbox: Outbox = (), held: Mapping[str, Any] = _NO_CONDITION
    ) -> bool:
        """Remove metadata fields; dotted keys reach into nested ones. Fields that are not there are passed over.

        Args:
            session_id: The session.
            keys: The fields.
            outbox: Notifications to record in the same write; each has an ``id``.
            held: Values by key that the metadata must hold, or nothing is removed.

        Returns:
            Whether the metadata held them.

        Raises:
            SessionNotFoundError: There is no such session.
            TypeError: ``keys`` is a string, or nothing that can be gone through.
            ValueError: A key is not fit, two keys overlap, or one is an element of a list, of which a null would stay.
        """
        names = _metadata_keys(session_id, keys)
        if not names:
            return True
        change = metadata_deletion_update(session_id, names, _metadata_fields(session_id, held))
        records = _outbox(session_id, outbox)
        with _operation("delete_metadata", session_id):
            found = self._send_recorded(session_id, change, records)
            if not (found or held):
                self._expect_stored(session_id)
                raise ValueError(
                    f"Metadata of session {session_id!r}, {_named(names, ends_in_number)}: an element of "
                    "a list cannot be removed by its number, since a null would stay there. Set the list without it."
                )
        return found

    # Feedback

    def add_feedback(
        self,
        session_id: str,
        feedback: Mapping[str, Any],
        agent_ids: Iterable[str] = (),
        outbox: Outbox = (),
    ) -> None:
        """Append feedback; ``created_at`` is added.

        Args:
            session_id: The session.
            feedback: Any fields. With ``message_id`` and ``agent_id``, or with ``tracking_id``, it is about a message.
            agent_ids: The agents whose messages a ``tracking_id`` is looked for in.
            outbox: Notifications to record in the same write; each has an ``id``.

        Raises:
            MessageNotFoundError: The message that it is about is not stored.
            SessionNotFoundError: There is no such session.
            TypeError: ``feedback`` is not a mapping.
            UnstorableValueError: A value would not come back equal.
            ValueError: It has a ``created_at`` of its own, or points at a message badly.
        """
        stored = _feedback(session_id, feedback)
        target = _FeedbackTarget.of(session_id, feedback)
        agent_ids = [check_id("agent_id", agent_id) for agent_id in agent_ids]
        records = _outbox(session_id, outbox)
        if self._push_feedback(session_id, stored, target.condition(agent_ids), records):
            return
        if self._has_moved(session_id, target, agent_ids):
            self._push_feedback(session_id, stored, {}, records)
            return
        # An agent may have come since the caller learnt of them; this also tells whether the session is there.
        others = {config["agent_id"] for config in self.list_agent_configs(session_id)} - set(agent_ids)
        if not (target.anywhere and self._push_feedback(session_id, stored, target.condition(others), records)):
            raise MessageNotFoundError(session_id, target.agent_id, target.message or "")

    def _has_moved(self, session_id: str, target: "_FeedbackTarget", agent_ids: Iterable[str]) -> bool:
        if isinstance(target.message, str):
            agents = agent_ids if target.agent_id is None else [target.agent_id]
            return self._segments.holds_tracked(session_id, agents, target.stored)
        if target.agent_id is None or target.message is None or abs(target.message) > MAX_MESSAGE_ID:
            return False
        return self.read_message(session_id, target.agent_id, target.message) is not None

    def _push_feedback(self, session_id: str, stored: Stored, about: Stored | None, records: list[Stored]) -> bool:
        if about is None:
            return False
        size = len(bson.encode(stored))
        wanted, update = new_feedback_update(session_id, stored, size, about)
        with _operation("add_feedback", session_id):
            # Asking for the size afterwards would leave an image of the document, which no redaction reaches.
            fitting = little_feedback_filter(wanted, FEEDBACK_BYTES - size)
            if size <= FEEDBACK_BYTES and self._send_recorded(session_id, (fitting, update), records):
                return True
            added = self._send_recorded(session_id, (wanted, update), records)
        if added:
            self._feedback.move(session_id)
        return added

    def acknowledge_outbox(self, session_id: str, ids: Iterable[str]) -> None:
        """Remove notifications that were delivered.

        Raises:
            SessionNotFoundError: There is no such session; its notifications went with it.
        """
        delivered = list(ids)
        with _operation("acknowledge_outbox", session_id):
            result = self._collection.update_one(*acknowledged_update(session_id, delivered))
            self._expect_session(session_id, result.matched_count)
            if not result.modified_count:
                self._collection.update_one(*acknowledged_update(session_id, delivered, apart=True))
                self._outbox.delete(session_id, delivered)

    def get_feedbacks(self, session_id: str) -> list[dict[str, Any]]:
        """Return all feedback of the session in the order in which it came.

        Raises:
            SessionNotFoundError: There is no such session.
        """
        wanted = {"feedbacks": 1, "feedback_segments": 1}
        with _operation("get_feedbacks", session_id):
            session = self._found(session_id, self._collection.find_one({"_id": session_id}, wanted))
            return [cast("dict[str, Any]", decode(stored)) for stored in self._feedback.read(session)]

    def _found(self, session_id: str, stored: Stored | None) -> Stored:
        self._expect_session(session_id, stored is not None)
        return stored or {}

    def _expect_session(self, session_id: str, found: bool | int) -> None:
        if not found:
            raise SessionNotFoundError(session_id)

    def _expect_stored(self, session_id: str) -> None:
        """Look for a session whose fields were not as a write expects them."""
        self._found(session_id, self._collection.find_one({"_id": session_id}, {"_id": 1}))

    # Multi-agents

    def create_multi_agent(self, session_id: str, multi_agent: "MultiAgentBase", **kwargs: Any) -> None:
        """Store the state of a Graph or Swarm for the first time.

        Raises:
            SessionConflictError: The session holds it already.
            SessionLockedError: The session is another manager's.
            SessionNotFoundError: There is no such session.
            UnstorableValueError: The state holds something that would not come back equal.
        """
        captured = capture_multi_agent(session_id, multi_agent)
        self.write_multi_agent(session_id, multi_agent.id, captured, create=True)

    def update_multi_agent(self, session_id: str, multi_agent: "MultiAgentBase", **kwargs: Any) -> None:
        """Replace the stored state of a Graph or Swarm.

        Raises:
            AgentNotFoundError: The session holds no such multi-agent.
            SessionLockedError: The session is another manager's.
            SessionNotFoundError: There is no such session.
            UnstorableValueError: The state holds something that would not come back equal.
        """
        self.write_multi_agent(session_id, multi_agent.id, capture_multi_agent(session_id, multi_agent))

    def write_multi_agent(
        self, session_id: str, multi_agent_id: str, state: Mapping[str, Any] | MultiAgentState, *, create: bool = False
    ) -> None:
        """Store a serialised or captured state; see ``create_multi_agent`` and ``update_multi_agent``."""
        check_id("multi_agent_id", multi_agent_id)
        if not isinstance(state, MultiAgentState):
            state = encode_multi_agent(session_id, multi_agent_id, state)
        fields, files = offload_state(state.fields)
        try:
            self._store_multi_agent(session_id, multi_agent_id, fields, files, create=create)
        except SessionTooLargeError:
            if files:
                raise
            # The session document has no room left, whatever takes it.
            fields, files = offload_state(state.fields, limit=0)
            self._store_multi_agent(session_id, multi_agent_id, fields, files, create=create)

    def _store_multi_agent(
        self, session_id: str, multi_agent_id: str, fields: Stored, files: Mapping[str, bytes], *, create: bool
    ) -> None:
        is_in_place = not files
        if is_in_place and self._write_multi_agent(session_id, multi_agent_id, fields, create=create):
            return
        try:
            is_in_place &= not self._check_multi_agent(session_id, multi_agent_id, create=create)
            self.store_files(session_id, files)
            if not self._write_multi_agent(
                session_id, multi_agent_id, fields, create=create, over_files=not is_in_place
            ):
                raise SessionConflictError(session_id, multi_agent_id, _CONTENDED)
        except MongoDBSessionError:
            self._take_back(session_id, files)
            raise
        if not is_in_place:
            with _operation("keep_files", session_id, multi_agent_id):
                self._files.keep(session_id, files)
                self._files.remove_all_unused(session_id)

    def _write_multi_agent(
        self, session_id: str, multi_agent_id: str, fields: Stored, *, create: bool, over_files: bool = False
    ) -> bool:
        """Write a state; False where there is something else than expected, or a file that is to go unless told."""
        shape = new_multi_agent_update if create else multi_agent_update
        condition = {} if create or over_files else without_state_file_filter(multi_agent_id)
        wanted, update = shape(session_id, multi_agent_id, fields)
        with _operation("write_multi_agent", session_id, multi_agent_id):
            return self._update(session_id, ({**wanted, **condition}, update))

    def _check_multi_agent(self, session_id: str, multi_agent_id: str, *, create: bool) -> bool:
        """Raise why a state cannot be written; return whether the stored one is in a file."""
        fields = multi_agent_projection(multi_agent_id)
        with _operation("read_multi_agent", session_id, multi_agent_id):
            session = self._found(session_id, self._collection.find_one({"_id": session_id}, fields))
        stored = session.get("multi_agents", {}).get(escape_key(multi_agent_id))
        if stored is not None and create:
            raise SessionConflictError(session_id, multi_agent_id, "exists already; update it instead.")
        if stored is None and not create:
            raise AgentNotFoundError(session_id, multi_agent_id)
        self.check_lease(session_id, session.get("lease"))
        return bool(stored and stored.get("files"))

    def read_multi_agent(self, session_id: str, multi_agent_id: str, **kwargs: Any) -> StoredState | None:
        """Return the stored state of a Graph or Swarm, or None where there is none.

        Its ``inner`` has the states of what was interrupted inside of it.
        """
        check_id("multi_agent_id", multi_agent_id)
        return self._with_values(lambda: self._read_multi_agent(session_id, multi_agent_id))

    def _read_multi_agent(self, session_id: str, multi_agent_id: str) -> StoredState | None:
        pipeline = multi_agent_pipeline(session_id, multi_agent_id)
        with _operation("read_multi_agent", session_id, multi_agent_id):
            stored = next(self._collection.aggregate(pipeline), {})
        if "state" not in stored:
            return None
        place = multi_agent_label(session_id, multi_agent_id)
        with restoring(place, "state"):
            wanted = file_digests([stored])
            if not wanted:
                return decode_multi_agent(stored)
            with _operation("read_files", session_id, multi_agent_id):
                files = self._files.read(session_id, wanted)
            if not files.keys() >= wanted:
                raise _MissingValueError(place, _REMEDY_FOR_STATE)
            return decode_multi_agent(put_back_state(stored, files))

    # One read and one write, which the verbs share

    def _read_agent(self, verb: str, session_id: str, agent_id: str, pipeline: Any, *how: Any) -> Stored | None:
        stages: Pipeline = pipeline(check_id("session_id", session_id), check_id("agent_id", agent_id), *how)
        with _operation(verb, session_id, agent_id) as outcome:
            found = next(self._collection.aggregate(stages), None)
            outcome.read(found)
            return found

    def _write_unguarded(
        self,
        verb: str,
        session_id: str,
        write: AgentWrite,
        condition: Mapping[str, Any] = _NO_CONDITION,
        *,
        nested: bool = False,
    ) -> bool:
        check_id("agent_id", write.agent_id)
        apart = self._with_state_apart(session_id, write)
        wanted, update = unguarded_update(check_id("session_id", session_id), apart, nested=nested)
        self.store_files(session_id, apart.files)
        with _operation(verb, session_id, write.agent_id) as outcome:
            written = outcome.of(self._update(session_id, ({**wanted, **condition}, update)))
        if written:
            self._grew(session_id, write.size)
            self._settle_state(session_id, write, apart)
        return written


def namespace_of(client: "MongoClient[dict[str, Any]]", database_name: str | None, collection_name: str | None) -> str:
    """Return the database and collection that these arguments lead to."""
    return f"{_database(client, database_name).name}.{collection_name or DEFAULT_COLLECTION}"


def _database(client: "MongoClient[dict[str, Any]]", name: str | None) -> Database[Stored]:
    return client[name] if name else client.get_default_database(DEFAULT_DATABASE)


@cache
def _log_default_database() -> None:
    logger.info(
        "database=<%s> | neither database_name nor the connection string names a database, so the default is used",
        DEFAULT_DATABASE,
    )


def _open_handle(
    connection_string: str | None, client: "MongoClient[dict[str, Any]] | None", options: "ClientOptions"
) -> ClientHandle:
    check_client_arguments(connection_string, client, options)
    if client is not None:
        return ClientHandle.of(client)
    return ClientHandle.open(cast(str, connection_string), **options)


def check_names(database_name: object, collection_name: object, application_name: object) -> None:
    """Refuse what is no name.

    Raises:
        TypeError: One is not a string.
        ValueError: One is a connection string.
    """
    check_name("database_name", database_name)
    check_name("collection_name", collection_name)
    check_name("application_name", application_name)


def index_fields(metadata_fields: Sequence[str] | None) -> tuple[str, ...]:
    """Return the metadata fields to index.

    Raises:
        TypeError: It is a string, or nothing that can be gone through.
        ValueError: A field is not fit.
    """
    if isinstance(metadata_fields, str):
        raise TypeError(f"metadata_fields must be a list of names, not a string: {shown(metadata_fields)}")
    if not isinstance(metadata_fields, Iterable | None):
        raise TypeError(f"metadata_fields must be a list of names, got {type(metadata_fields).__name__}")
    fields = tuple(check_key("metadata_fields", field) for field in metadata_fields or ())
    for field_name in fields:
        check_name("metadata_fields", field_name)
    return fields


def _stored_tracking_id(session_id: str, tracking_id: object) -> Any:
    place = f"Tracking id of session {session_id!r}"
    if not isinstance(tracking_id, str):
        raise TypeError(f"{place} must be a string, got {type(tracking_id).__name__}")
    return encode(tracking_id, place)


def _check_numbers(**numbers: object) -> None:
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | None):
            raise TypeError(f"{name} must be a number, got {type(value).__name__}")


def _recorded_ids(recorded: Any) -> frozenset[str] | None:
    """Return the ids of the agents that a session says it holds; None where it says nothing that can be read."""
    is_list = isinstance(recorded, list) and all(isinstance(agent_id, str) for agent_id in recorded)
    return frozenset(recorded) if is_list else None


def _live_bytes(agent: Stored) -> int:
    """Return how large the messages are that the session document holds; else an estimate from those that were read."""
    if "embedded_bytes" in agent:
        return int(agent["embedded_bytes"])
    messages = agent["messages"]
    if not messages:
        return int(agent["count"]) * _USUAL_MESSAGE_BYTES
    return len(bson.encode({"messages": messages})) * int(agent["count"]) // len(messages)


def _given_time(place: str, name: str, at: Any) -> datetime:
    try:
        return aware(at)
    except (AttributeError, TypeError, ValueError):
        raise ValueError(
            f"{place}: {name} must be a time in ISO 8601, such as '2026-01-31T12:00:00+00:00', or a datetime."
        ) from None


def _given_type(place: str, session_type: object) -> str:
    if not isinstance(session_type, str):
        raise TypeError(f"{place}: session_type must be a string, got {type(session_type).__name__}")
    name = session_type.value if isinstance(session_type, SessionType) else str.__str__(session_type)
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{place}: session_type must be valid Unicode, got {name[:50]!r}") from None
    return name


def _place(session_id: str, agent_id: str, message_id: int | None = None) -> str:
    where = f"Agent {agent_id!r} of session {session_id!r}"
    return where if message_id is None else f"{where}, message {message_id}"


def _config(agent_id: str, data: Mapping[str, Any]) -> Stored:
    return {"agent_id": agent_id, **{name: decode(data.get(name)) for name in CONFIG_FIELDS}}


def _metadata_fields(session_id: str, metadata: object) -> Stored:
    place = f"Metadata of session {session_id!r}"
    if not isinstance(metadata, Mapping):
        raise TypeError(f"{place} must be given as a mapping, got {type(metadata).__name__}")
    _check_overlaps(place, [check_key(place, key) for key in metadata])
    return {
        key: encode(value, f"{place}, {key}", plain_dates=True, depth=key.count(".")) for key, value in metadata.items()
    }


def _metadata_keys(session_id: str, keys: object) -> list[str]:
    place = f"Metadata of session {session_id!r}"
    if isinstance(keys, str | bytes | Mapping) or not isinstance(keys, Iterable):
        raise TypeError(f"{place}: the keys to delete must be a list of strings, got {type(keys).__name__}")
    names = list(dict.fromkeys(check_key(place, key) for key in keys))
    _check_overlaps(place, names)
    return names


def _check_overlaps(place: str, keys: Iterable[str]) -> None:
    names = sorted(key.split(".") for key in keys)
    for shorter, longer in itertools.pairwise(names):
        if longer[: len(shorter)] == shorter:
            raise ValueError(f"{place}: {'.'.join(shorter)!r} and {'.'.join(longer)!r} overlap; give one of them")


def _named(keys: Iterable[str], at_fault: Callable[[str], bool]) -> str:
    """Name the keys that may be at fault, some of them where they are many."""
    names = [key for key in keys if at_fault(key)]
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return f"one of {names[:_MOST_NAMED]}{more}" if len(names) > 1 else repr(names[0])


@contextmanager
def _unreachable_fields(session_id: str, fields: Stored) -> Iterator[None]:
    try:
        yield
    except OperationFailure as error:
        if error.code != _PATH_NOT_VIABLE:
            raise
        forget_values(error)
        raise UnstorableValueError(
            f"Metadata of session {session_id!r}, {_named(fields, lambda key: '.' in key)}",
            "a value that is no object stands where the dotted key goes through; delete that field first",
        ) from None


def _outbox(session_id: str, records: Outbox) -> list[Stored]:
    return [encode(dict(record), f"Outbox of session {session_id!r}", plain_dates=True) for record in records]


def _feedback(session_id: str, feedback: object) -> Stored:
    place = f"Feedback on session {session_id!r}"
    if not isinstance(feedback, Mapping):
        raise TypeError(f"{place} must be a mapping, got {type(feedback).__name__}")
    if "created_at" in feedback:
        raise ValueError(f"{place}: 'created_at' is set here; give a time of your own another name")
    # Its fields are queried by name, unlike keys inside values.
    odd = next((type(key).__name__ for key in feedback if not isinstance(key, str)), None)
    if odd is not None:
        raise UnstorableValueError(place, f"it has a key of type {odd}; use strings as names of fields")
    stored: Stored = encode(dict(feedback), place, plain_dates=True)
    return {**stored, "created_at": now()}


@dataclass(frozen=True)
class _FeedbackTarget:
    """The message that feedback is about: by id or tracking id; ``message`` is None where it is about none."""

    agent_id: str | None
    message: int | str | None

    @classmethod
    def of(cls, session_id: str, feedback: Mapping[str, Any]) -> "_FeedbackTarget":
        agent_id, message_id, tracking_id = (feedback.get(name) for name in ("agent_id", "message_id", "tracking_id"))
        by_number = agent_id is not None and message_id is not None
        found = message_id if by_number else tracking_id
        if found is None:
            return cls(None, None)
        if not isinstance(found, int if by_number else str) or isinstance(found, bool):
            raise ValueError(
                f"Feedback on session {session_id!r}: message_id must be the number of a message and tracking_id a "
                f"string, got {type(found).__name__}"
            )
        return cls(None if agent_id is None else check_id("agent_id", agent_id), found)

    @property
    def stored(self) -> Any:
        """The tracking id in its stored form."""
        return encode(self.message, "tracking_id")

    @property
    def anywhere(self) -> bool:
        """Whether the message may be any agent's."""
        return self.agent_id is None and self.message is not None

    def condition(self, agent_ids: Iterable[str]) -> Stored | None:
        """Return what must hold for the session; None where no agent can have the message."""
        if self.message is None:
            return {}
        if isinstance(self.message, int) and abs(self.message) > MAX_MESSAGE_ID:
            return None  # no BSON number, so no message has it
        if isinstance(self.message, int):
            return has_message_filter(cast(str, self.agent_id), self.message)
        agents = list(agent_ids) if self.agent_id is None else [self.agent_id]
        return has_tracking_id_filter(agents, self.stored) if agents else None


def _session(session_id: str, stored: Mapping[str, Any]) -> Session:
    version = stored.get("schema_version")
    if version is not None and not (isinstance(version, int) and version <= SCHEMA_VERSION):
        raise SchemaVersionError(session_id, version, SCHEMA_VERSION)
    return Session(session_id=session_id, session_type=_session_type(stored), **times(stored))


def _session_type(stored: Mapping[str, Any]) -> SessionType:
    # The first version left it out, or wrote "default"; it may be anybody's own name.
    found = stored.get("session_type")
    try:
        return SessionType.AGENT if found is None else SessionType(found)
    except ValueError:
        return cast(SessionType, found)


class _MissingValueError(MongoDBSessionError):
    """A message or state refers to a value that is not in the bucket."""

    def __init__(self, place: str, remedy: str) -> None:
        super().__init__(
            f"{place} has a large value that is not stored any more, or not whole. Restore the bucket, or put {remedy}"
        )


@dataclass
class _Outcome:
    """What an operation came to, for the log."""

    messages: int
    text: str = "done"

    def read(self, found: Stored | None) -> None:
        """Note what a read of an agent found."""
        self.messages = len((found or {}).get("messages") or ())
        if found is None:
            self.text = "found no such session"

    def of(self, found: bool) -> bool:
        """Note whether a write found what it was to change."""
        if not found:
            self.messages, self.text = 0, "missed: nothing was changed"
        return found


@contextmanager
def _operation(verb: str, session_id: str, agent_id: str | None = None, messages: int = 0) -> Iterator[_Outcome]:
    """Time one operation; a driver error passes through with a note of where it happened.

    Ids are checked before any operation: one of another type would be a query.
    """
    check_id("session_id", session_id)
    outcome = _Outcome(messages)
    started = time.perf_counter()
    try:
        yield outcome
    except (PyMongoError, DocumentTooLarge) as error:
        _log_failed(verb, session_id, agent_id, started, error)
        forget_values(error)
        if is_too_large(error):
            raise SessionTooLargeError(session_id, agent_id) from error
        error.__notes__ = [*getattr(error, "__notes__", ()), f"in {verb} of session {session_id!r}"]
        raise
    _log_done(verb, session_id, agent_id, outcome.messages, started, outcome.text)


def _log_done(
    verb: str, session_id: str, agent_id: str | None, messages: int, started: float, text: str = "done"
) -> None:
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
