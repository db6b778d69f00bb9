"""How a session is reached in the database: the SDK's verbs and those for users, each one line into a store."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from pymongo import MongoClient
from pymongo.collection import Collection
from strands.session.session_repository import SessionRepository
from strands.types.session import Session, SessionAgent, SessionMessage

from ._client.handle import CLOSE_TIMEOUT, ClientHandle
from ._client.not_copied import NotCopied
from ._client.options import check_client_arguments
from ._override import override
from ._schema.given import Outbox, check_names, index_fields
from ._schema.limits import LIMITS, Limits
from ._schema.multi_agents import StoredState
from ._schema.values import Stored
from ._stores.operation import ClientUse, open_collections
from ._stores.stores import Stores

if TYPE_CHECKING:
    from strands.multiagent.base import MultiAgentBase
    from typing_extensions import Unpack

    from .types import ClientOptions

__all__ = ["MongoDBSessionRepository", "stores_of"]

_NOTHING: Mapping[str, Any] = {}


class MongoDBSessionRepository(NotCopied, SessionRepository):
    """Stores Strands sessions in one MongoDB collection, one nested document for each session.

    Args:
        connection_string: A MongoDB URI; ignored when ``client`` is given.
        database_name: The database; by default the one that the URI (or the client's URI) names, else
            ``"database_name"``.
        collection_name: The collection; ``"agent_sessions"`` by default.
        client: A client to borrow; the repository never closes it.
        metadata_fields: Metadata fields to index.
        application_name: The name that new sessions get.
        **client_options: Options for the ``MongoClient`` made from ``connection_string``; pymongo validates them.

    Raises:
        TypeError: Client options were given together with ``client``, ``metadata_fields`` is a string, or
            ``application_name`` is not a string.
        ValueError: Neither ``connection_string`` nor ``client`` was given, the write concern is ``w=0``, or a metadata
            field is not a valid name.
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
        *,
        _limits: Limits = LIMITS,
        **client_options: "Unpack[ClientOptions]",
    ) -> None:
        check_names(database_name, collection_name, application_name)
        fields = index_fields(metadata_fields)
        use = ClientUse(_open_handle(connection_string, client, client_options), owner=client is None)
        collections = open_collections(use.handle, database_name, collection_name)
        self._stores = Stores(use, collections, application_name, fields, _limits)

    def __repr__(self) -> str:
        return f"MongoDBSessionRepository({self.namespace!r}, {self._stores.handle.state})"

    @property
    def client(self) -> "MongoClient[dict[str, Any]]":
        """The client in use, borrowed or owned."""
        return self._stores.handle.client

    @property
    def collection(self) -> Collection[Stored]:
        """The collection of the session documents, for queries; do not write histories or states to it."""
        return self._stores.collections.sessions

    @property
    def namespace(self) -> str:
        """Database and collection of the sessions."""
        return self.collection.full_name

    def close(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Release the client; one that was made from a connection string is closed. Idempotent.

        Args:
            timeout: Seconds to wait at most for queued work.
        """
        self._stores.handle.release(self._stores.use, timeout=timeout)

    # Sessions

    @override
    def create_session(self, session: Session, **kwargs: Any) -> Session:
        """Create a session; its ``session_type`` may be any string.

        Raises:
            SessionConflictError: It exists already.
            TypeError: Its type is not a string.
            ValueError: Its type is not valid Unicode, or one of its times is not a valid time.
        """
        return self._stores.sessions.create_session(session)

    @override
    def read_session(self, session_id: str, **kwargs: Any) -> Session | None:
        """Return the session, or None if there is none.

        Raises:
            SchemaVersionError: A newer version of this library wrote it.
        """
        return self._stores.sessions.read_session(session_id)

    def delete_session(self, session_id: str, *, even_held: bool = False, **kwargs: Any) -> bool:
        """Delete the session and everything that belongs to it; False if there was none.

        Args:
            session_id: The session.
            even_held: Whether it is deleted also if it is held.
            **kwargs: Ignored.

        Raises:
            SessionHeldError: It is held, and ``even_held`` is False; nothing was deleted.
            TypeError: ``even_held`` is not a bool.
        """
        return self._stores.sessions.delete_session(session_id, even_held=even_held)

    # Agents

    @override
    def create_agent(self, session_id: str, session_agent: SessionAgent, **kwargs: Any) -> None:
        """Create an agent without messages.

        Raises:
            SessionConflictError: The session holds it already.
            SessionNotFoundError: There is no such session.
            ValueError: Its time of creation is not a valid time.
        """
        self._stores.histories.create_agent(session_id, session_agent)

    @override
    def read_agent(self, session_id: str, agent_id: str, **kwargs: Any) -> SessionAgent | None:
        """Return an agent's data, or None if the session holds no such agent."""
        return self._stores.histories.read_agent(session_id, agent_id)

    @override
    def update_agent(self, session_id: str, session_agent: SessionAgent, **kwargs: Any) -> None:
        """Replace an agent's data; its messages and its time of creation stay.

        Raises:
            AgentNotFoundError: The session holds no such agent.
            SessionNotFoundError: There is no such session.
        """
        self._stores.histories.update_agent(session_id, session_agent)

    def read_agent_config(self, session_id: str, agent_id: str) -> Stored | None:
        """Return ``model``, ``system_prompt`` and ``prompt_metadata`` of an agent, or None if there is none.

        Raises:
            SessionNotFoundError: There is no such session.
        """
        return self._stores.configs.read_agent_config(session_id, agent_id)

    def update_agent_config(self, session_id: str, agent_id: str, config: Mapping[str, Any]) -> None:
        """Set some of ``model``, ``system_prompt`` and ``prompt_metadata``.

        Raises:
            AgentNotFoundError: The session holds no such agent.
            SessionConflictError: The agent is being written by several at once.
            SessionNotFoundError: There is no such session.
            UnstorableValueError: The metadata holds something that would not come back equal.
        """
        self._stores.configs.update_agent_config(session_id, agent_id, config)

    def list_agent_configs(self, session_id: str) -> list[Stored]:
        """Return the configuration of every agent of the session.

        Raises:
            SessionNotFoundError: There is no such session.
        """
        return self._stores.configs.list_agent_configs(session_id)

    # Messages

    @override
    def create_message(self, session_id: str, agent_id: str, session_message: SessionMessage, **kwargs: Any) -> None:
        """Append a message under an id that is higher than all stored ones. A repeated call has no effect.

        Raises:
            AgentNotFoundError: The session holds no such agent.
            SessionConflictError: The id is taken, or lies before the end of the history.
            SessionNotFoundError: There is no such session.
            TypeError: The id of the message is not an integer.
            UnstorableValueError: The message holds something that would not come back equal.
            ValueError: Its time of creation is not a valid time.
        """
        self._stores.messages.create_message(session_id, agent_id, session_message)

    @override
    def read_message(self, session_id: str, agent_id: str, message_id: int, **kwargs: Any) -> SessionMessage | None:
        """Return one message, or None if there is no such message, agent or session.

        Raises:
            TypeError: ``message_id`` is not an integer.
        """
        return self._stores.messages.read_message(session_id, agent_id, message_id)

    @override
    def update_message(self, session_id: str, agent_id: str, session_message: SessionMessage, **kwargs: Any) -> None:
        """Replace a message, or redact it: of a message with ``redact_message``, only this one is stored.

        Raises:
            MessageNotFoundError: The agent holds no such message.
            AgentNotFoundError: The session holds no such agent.
            SessionNotFoundError: There is no such session.
            TypeError: The id of the message is not an integer.
            UnstorableValueError: The message holds something that would not come back equal.
        """
        self._stores.messages.update_message(session_id, agent_id, session_message)

    @override
    def list_messages(
        self, session_id: str, agent_id: str, limit: int | None = None, offset: int = 0, **kwargs: Any
    ) -> list[SessionMessage]:
        """Return an agent's messages, oldest first.

        Args:
            session_id: The session.
            agent_id: The agent.
            limit: Messages at most; all by default.
            offset: The number of the oldest messages to skip.
            **kwargs: Ignored.

        Raises:
            AgentNotFoundError: The session holds no such agent.
            SessionNotFoundError: There is no such session.
            ValueError: ``limit`` or ``offset`` is negative.
        """
        return self._stores.messages.list_messages(session_id, agent_id, limit, offset)

    def count_messages(self, session_id: str, agent_id: str) -> int:
        """Return the number of an agent's messages; 0 if there is no such agent.

        Raises:
            SessionNotFoundError: There is no such session.
        """
        return self._stores.messages.count_messages(session_id, agent_id)

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
            ValueError: A key is not valid, or two keys overlap.
        """
        self._stores.metadata.update_metadata(session_id, metadata, outbox)

    def get_metadata(self, session_id: str) -> dict[str, Any]:
        """Return ``{"metadata": {…}}``, or ``{}`` if there is none.

        Raises:
            SessionNotFoundError: There is no such session.
        """
        return self._stores.metadata.get_metadata(session_id)

    def delete_metadata(
        self, session_id: str, keys: Iterable[str], outbox: Outbox = (), held: Mapping[str, Any] = _NOTHING
    ) -> bool:
        """Remove metadata fields; dotted keys reach into nested ones. A missing field is ignored.

        Args:
            session_id: The session.
            keys: The fields.
            outbox: Notifications to record in the same write; each has an ``id``.
            held: Values by key; nothing is removed unless the metadata holds them.

        Returns:
            Whether the metadata held them.

        Raises:
            SessionNotFoundError: There is no such session.
            TypeError: ``keys`` is a string, or is not iterable.
            ValueError: A key is not valid, two keys overlap, or one is an element of a list, which would leave a null.
        """
        return self._stores.metadata.delete_metadata(session_id, keys, outbox, held)

    # Feedback

    def add_feedback(
        self, session_id: str, feedback: Mapping[str, Any], agent_ids: Iterable[str] = (), outbox: Outbox = ()
    ) -> None:
        """Append feedback; ``created_at`` is added.

        Args:
            session_id: The session.
            feedback: Any fields. With ``message_id`` and ``agent_id``, or with ``tracking_id``, it is about a message.
            agent_ids: The agents among whose messages a ``tracking_id`` is looked up.
            outbox: Notifications to record in the same write; each has an ``id``.

        Raises:
            MessageNotFoundError: The message that it is about is not stored.
            SessionNotFoundError: There is no such session.
            TypeError: ``feedback`` is not a mapping.
            UnstorableValueError: A value would not come back equal.
            ValueError: It has a ``created_at``, or its ``message_id`` or ``tracking_id`` has a wrong type.
        """
        self._stores.feedback.add_feedback(session_id, feedback, agent_ids, outbox)

    def get_feedbacks(self, session_id: str) -> list[dict[str, Any]]:
        """Return all feedback of the session, oldest first.

        Raises:
            SessionNotFoundError: There is no such session.
        """
        return self._stores.feedback.get_feedbacks(session_id)

    # Multi-agents

    @override
    def create_multi_agent(self, session_id: str, multi_agent: "MultiAgentBase", **kwargs: Any) -> None:
        """Store the state of a Graph or Swarm for the first time.

        Raises:
            SessionConflictError: The session holds it already.
            SessionLockedError: Another manager holds the session's lease.
            SessionNotFoundError: There is no such session.
            UnstorableValueError: The state holds something that would not come back equal.
        """
        self._stores.multi_agents.create_multi_agent(session_id, multi_agent)

    @override
    def read_multi_agent(self, session_id: str, multi_agent_id: str, **kwargs: Any) -> StoredState | None:
        """Return the stored state of a Graph or Swarm, or None if there is none.

        Its ``inner`` has the states of orchestrators that were interrupted inside of it.
        """
        return self._stores.multi_agents.read_multi_agent(session_id, multi_agent_id)

    @override
    def update_multi_agent(self, session_id: str, multi_agent: "MultiAgentBase", **kwargs: Any) -> None:
        """Replace the stored state of a Graph or Swarm.

        Raises:
            AgentNotFoundError: The session holds no such multi-agent.
            SessionLockedError: Another manager holds the session's lease.
            SessionNotFoundError: There is no such session.
            UnstorableValueError: The state holds something that would not come back equal.
        """
        self._stores.multi_agents.update_multi_agent(session_id, multi_agent)


def stores_of(repository: MongoDBSessionRepository) -> Stores:
    """Return the stores of a repository, for the rest of the package."""
    return repository._stores


def _open_handle(
    connection_string: str | None, client: "MongoClient[dict[str, Any]] | None", options: "ClientOptions"
) -> ClientHandle:
    check_client_arguments(connection_string, client, options)
    if client is not None:
        return ClientHandle.of(client)
    return ClientHandle.open(cast(str, connection_string), **options)
