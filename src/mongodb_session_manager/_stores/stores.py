"""The stores of one repository."""

from functools import cached_property

from .._schema.limits import LIMITS, Limits
from .agent_config import AgentConfigStore
from .agents import AgentReader
from .document_size import DocumentSizes
from .feedback import FeedbackStore
from .files import SessionFiles
from .histories import HistoryStore
from .large_values import LargeValues
from .messages import MessageStore
from .metadata import MetadataStore
from .moving import MessageMover
from .moving_fields import FieldMover
from .multi_agents import MultiAgentStore
from .operation import ClientUse, Collections, Operations
from .outbox import OutboxStore
from .restored import AgentRestorer
from .segments import MessageSegments
from .sessions import SessionStore

__all__ = ["Stores"]


class Stores:
    """The stores of one repository.

    Args:
        use: Of the client.
        collections: The collections of the sessions.
        application_name: The name in new sessions, by default.
        metadata_fields: The metadata fields to index.
        limits: How much a document holds, and so on.

    Attributes:
        use: Of the client.
        limits: The same.
        handle: The client with the worker threads that belong to it.
        sessions: Sessions as a whole, and leases.
        histories: Agents, restored and written.
        outbox: Undelivered notifications.
    """

    def __init__(
        self,
        use: ClientUse,
        collections: Collections,
        application_name: str | None,
        metadata_fields: tuple[str, ...],
        limits: Limits = LIMITS,
    ) -> None:
        self.use, self.handle, self.collections, self.limits = use, use.handle, collections, limits
        lives = collections.lives()
        self._values = values = LargeValues(SessionFiles(collections, lives), limits)
        mover = (
            MessageMover(collections, lives, FieldMover(collections, lives, values))
            if collections.can_compute
            else None
        )
        sizes = DocumentSizes(use.handle, collections.sessions.full_name, mover)
        self._operations = operations = Operations(use, collections, sizes, lives)
        self._segments = segments = MessageSegments(collections, lives, limits)
        self._reader, restorer = AgentReader(operations, segments), AgentRestorer(operations, segments, values)
        self.outbox = OutboxStore(operations)
        self.sessions = SessionStore(operations, self.outbox, restorer, application_name, metadata_fields)
        self.histories = HistoryStore(operations, segments, values, self._reader, restorer)

    # Created when they are first used: a turn needs none of them.

    @cached_property
    def messages(self) -> MessageStore:
        """Messages, one by one and in pages."""
        return MessageStore(self._operations, self._segments, self._values, self._reader, self.histories)

    @cached_property
    def metadata(self) -> MetadataStore:
        """Metadata."""
        return MetadataStore(self._operations, self.outbox)

    @cached_property
    def feedback(self) -> FeedbackStore:
        """Feedback."""
        return FeedbackStore(self._operations, self.outbox, self._segments, self.messages, self.configs)

    @cached_property
    def configs(self) -> AgentConfigStore:
        """Agents' configuration, and the figures of their calls."""
        return AgentConfigStore(self._operations, self._segments, self._reader, self._values)

    @cached_property
    def multi_agents(self) -> MultiAgentStore:
        """The states of Graphs and Swarms."""
        return MultiAgentStore(self._operations, self._values)
