"""The stores of one repository, tied together."""

from .._client.handle import ClientHandle
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
from .multi_agents import MultiAgentStore
from .operation import Collections, Operations
from .outbox import OutboxStore
from .restored import AgentRestorer
from .segments import MessageSegments
from .sessions import SessionStore

__all__ = ["Stores"]


class Stores:
    """What a repository consists of.

    Args:
        handle: The client.
        collections: Where the sessions are.
        application_name: Of new sessions, by default.
        metadata_fields: To index.

    Attributes:
        handle: The client with the worker threads that belong to it.
        sessions: Sessions as a whole, and leases.
        histories: Agents, restored and written.
        messages: Messages one by one and in pages.
        metadata: Metadata.
        feedback: Feedback.
        configs: Agents' configuration, and what their calls used.
        multi_agents: States of Graphs and Swarms.
        outbox: Undelivered notifications.
    """

    def __init__(
        self,
        handle: ClientHandle,
        collections: Collections,
        application_name: str | None,
        metadata_fields: tuple[str, ...],
    ) -> None:
        self.handle, self.collections = handle, collections
        mover = MessageMover(collections) if collections.can_compute else None
        operations = Operations(handle, collections, DocumentSizes(handle, collections.sessions.full_name, mover))
        segments, values = MessageSegments(collections), LargeValues(SessionFiles(collections))
        reader, restorer = AgentReader(operations, segments), AgentRestorer(operations, segments, values)
        self.outbox = OutboxStore(operations)
        self.sessions = SessionStore(
            operations, self.outbox, segments, values, restorer, application_name, metadata_fields
        )
        self.histories = HistoryStore(operations, segments, values, reader, restorer)
        self.messages = MessageStore(operations, segments, values, reader, self.histories)
        self.metadata = MetadataStore(operations, self.outbox)
        self.configs = AgentConfigStore(operations, segments, reader)
        self.feedback = FeedbackStore(operations, self.outbox, segments, self.messages, self.configs)
        self.multi_agents = MultiAgentStore(operations, values)
