"""The stored documents, as they stand in the collections."""

from datetime import datetime
from typing import Any, Literal, TypedDict

from bson import ObjectId

__all__ = [
    "AgentDataDoc",
    "AgentDoc",
    "CallMetricsDoc",
    "FeedbackCountsDoc",
    "FeedbackDoc",
    "FeedbackReferenceDoc",
    "FeedbackSegmentDoc",
    "ForkDoc",
    "GuardDoc",
    "GuardrailEvent",
    "InnerStateDoc",
    "LeaseDoc",
    "LiveDoc",
    "MessageDoc",
    "MovedUsageDoc",
    "MultiAgentDoc",
    "OutboxDoc",
    "OutboxReferenceDoc",
    "SegmentDoc",
    "SegmentReferenceDoc",
    "SessionDoc",
    "ToolUsage",
]


class GuardrailEvent(TypedDict, total=False):
    """A redaction, as it is recorded on the message and, with the last two fields, in the session."""

    action: str
    timestamp: datetime
    stop_reason: str
    policies_triggered: dict[str, list[str]]
    agent_id: str
    message_id: int


class ToolUsage(TypedDict):
    """The figures of one tool's calls.

    Attributes:
        calls: The number of calls.
        successes: Calls that succeeded.
        errors: Calls that failed.
        seconds: Time spent in it.
    """

    calls: int
    successes: int
    errors: int
    seconds: float


class CallMetricsDoc(TypedDict, total=False):
    """``event_loop_metrics`` of a stored message: the figures of its model call.

    Attributes:
        usage: Tokens of this call.
        metrics: ``latencyMs`` and ``timeToFirstByteMs`` of this call, milliseconds.
        accumulated_usage: Tokens of the agent so far.
        accumulated_metrics: Milliseconds of the agent so far; ``timeToFirstByteMs`` is this call's.
        tool_usage: Calls of tools in the turn, by name; on the message that ends it.
        model: The id of the model that was called.
    """

    usage: dict[str, int]
    metrics: dict[str, float]
    accumulated_usage: dict[str, int]
    accumulated_metrics: dict[str, float]
    tool_usage: dict[str, ToolUsage]
    model: str


class _EveryMessageDoc(TypedDict):
    message_id: int


class MessageDoc(_EveryMessageDoc, total=False):
    """An element of an agent's ``messages``.

    Attributes:
        message_id: Its number; an agent's messages count from 0.
        role: ``"user"`` or ``"assistant"``.
        content: The blocks of Strands, bytes as binary; a large value is a mark, ``{"%file": …}``.
        tracking_id: The SDK's id of the message.
        metadata: The metadata of Strands; ``"event_loop_metrics"`` if that field holds all of it.
        created_at: When it was first stored.
        updated_at: When it was last stored, redacted or replaced.
        event_loop_metrics: Figures of the model call.
        redacted: Whether its content was replaced by a redaction.
        guardrail_event: The redaction.
        escaped: Whether a key or value in it is stored in another form.
        files: The digests of its large values.
        extra: Its other fields.
        message: The message, as the first version stored it.
        redact_message: The redaction, as the first version stored it.
    """

    role: str
    content: Any
    tracking_id: Any
    metadata: Any
    created_at: datetime
    updated_at: datetime
    event_loop_metrics: CallMetricsDoc
    redacted: bool
    guardrail_event: GuardrailEvent
    escaped: bool
    files: list[str]
    extra: dict[str, Any]
    message: dict[str, Any]
    redact_message: dict[str, Any] | None


class AgentDataDoc(TypedDict, total=False):
    """The data of an agent beside its messages.

    Attributes:
        agent_id: The agent.
        state: Its state; a mark, ``{"%file": …}``, if it is large; as are the fields below except for the model.
        conversation_manager_state: The state of its conversation manager.
        _internal_state: Further state of the SDK, such as interrupts.
        model: The model id.
        system_prompt: The system prompt.
        prompt_metadata: The origin of the prompt.
        captured: The model and prompt that an agent stored last; the prompt as a digest.
    """

    agent_id: str
    state: dict[str, Any]
    conversation_manager_state: dict[str, Any]
    _internal_state: dict[str, Any]
    model: str | None
    system_prompt: str | None
    prompt_metadata: dict[str, Any] | None
    captured: dict[str, Any]


class GuardDoc(TypedDict, total=False):
    """The revision of an agent's history, which its next write must find.

    Attributes:
        revision: The number of guarded writes so far.
        next_message_id: The number of the next message.
        write_id: The last guarded write.
    """

    revision: int | None
    next_message_id: int
    write_id: object


LiveDoc = TypedDict(
    "LiveDoc",
    {
        "from": int,
        "ranges": list[list[int]],
        "pinned": list[int],
        "at": int | None,
        "kept": list[dict[str, Any]],
    },
    total=False,
)
"""The live set: the stored messages that are in ``agent.messages``. These are all from the id ``from`` on, and those in
``ranges``, pairs of a first and a last id. ``pinned`` lists ids with the SDK's pin flag; ``at`` and ``kept`` describe
messages that the conversation manager made."""


class SegmentReferenceDoc(TypedDict):
    """An agent's reference to a segment with older messages.

    Attributes:
        _id: The segment.
        count: The number of its messages.
        bytes: Their size.
        first_id: The id of the first one.
        last_id: The id of the last one; later messages in the segment do not count.
    """

    _id: ObjectId
    count: int
    bytes: int
    first_id: int
    last_id: int


class MovedUsageDoc(TypedDict, total=False):
    """The sums of model calls whose messages have moved; a figure that was always 0 is missing.

    Attributes:
        calls: The number of calls.
        input: Tokens sent.
        output: Tokens received.
        total: Tokens of both.
        cache_read: Tokens read from the provider's cache.
        cache_write: Tokens written to it.
        latency_ms: Milliseconds.
    """

    calls: int
    input: int
    output: int
    total: int
    cache_read: int
    cache_write: int
    latency_ms: float


class AgentDoc(TypedDict, total=False):
    """An agent in ``agents`` of a session.

    Attributes:
        agent_data: Its data beside the messages.
        messages: Its latest messages, oldest first.
        guard: The revision that its next write must find.
        live: Its live set.
        segments: References to its older messages, oldest first.
        moved_count: The number of older messages.
        moved_usage: The figures of their model calls, by UTC day and by the id of the model, escaped as a field name;
            an empty id if it is not known.
        created_at: When it was first stored.
        updated_at: When its history or state last changed.
    """

    agent_data: AgentDataDoc
    messages: list[MessageDoc]
    guard: GuardDoc
    live: LiveDoc
    segments: list[SegmentReferenceDoc]
    moved_count: int
    moved_usage: dict[str, dict[str, MovedUsageDoc]]
    created_at: datetime
    updated_at: datetime


class InnerStateDoc(TypedDict):
    """The state of a Graph or Swarm that was interrupted inside of another one.

    Attributes:
        path: The ids of the nodes that lead to it.
        state: What its ``serialize_state()`` gives.
    """

    path: list[str]
    state: dict[str, Any]


class _EveryMultiAgentDoc(TypedDict):
    multi_agent_id: str
    state: dict[str, Any]
    created_at: datetime
    updated_at: datetime


class MultiAgentDoc(_EveryMultiAgentDoc, total=False):
    """A Graph or Swarm in ``multi_agents`` of a session.

    Attributes:
        multi_agent_id: The Graph or Swarm.
        state: The result of its ``serialize_state()``; a mark, ``{"%file": …}``, if it is large.
        created_at: When it was first stored.
        updated_at: When its state last changed.
        encoded: Which of its bytes Strands had as base64, as numbers in the order of the fields.
        inner: The states of orchestrators that were interrupted inside of it.
        files: The digest of the file with the whole state.
    """

    encoded: list[int]
    inner: list[InnerStateDoc]
    files: list[str]


class FeedbackDoc(TypedDict, total=False):
    """An entry of ``feedbacks``; it also has the fields that the application gave.

    Attributes:
        created_at: When it was stored.
        agent_id: The agent with the message that it is about.
        message_id: That message.
        tracking_id: That message, by its tracking id.
    """

    created_at: datetime
    agent_id: str
    message_id: int
    tracking_id: str


class FeedbackReferenceDoc(TypedDict):
    """A session's reference to a segment with older feedback.

    Attributes:
        _id: The segment.
        count: The number of its entries.
    """

    _id: ObjectId
    count: int


class FeedbackCountsDoc(TypedDict, total=False):
    """The number of pieces of feedback; without those that an older version has stored.

    Attributes:
        up: With the rating ``"up"``.
        down: With the rating ``"down"``.
        other: With another rating, or without one.
    """

    up: int
    down: int
    other: int


class ForkDoc(TypedDict):
    """The origin of a fork.

    Attributes:
        session_id: The session that was copied.
        agent_id: The agent whose history was cut; None if it was copied whole.
        message_id: The last message of that agent that was copied; None if it was copied whole.
        at: When.
    """

    session_id: str
    agent_id: str | None
    message_id: int | None
    at: datetime


class LeaseDoc(TypedDict):
    """The claim of one manager to be the only writer of a session.

    Attributes:
        owner: The id of the claim.
        expires_at: When it ends, unless it is renewed.
    """

    owner: ObjectId
    expires_at: datetime


class OutboxReferenceDoc(TypedDict):
    """A session's reference to a notification that is a document of its own.

    Attributes:
        _id: The document.
        id: The notification.
    """

    _id: ObjectId
    id: str


class _EverySessionDoc(TypedDict):
    _id: str
    session_id: str
    session_type: str
    instance: ObjectId
    schema_version: int
    application_name: str | None
    created_at: datetime
    updated_at: datetime
    metadata: dict[str, Any]
    feedbacks: list[FeedbackDoc]
    guardrail_events: list[GuardrailEvent]
    agent_ids: list[str]
    agents: dict[str, AgentDoc]
    multi_agents: dict[str, MultiAgentDoc]


class SessionDoc(_EverySessionDoc, total=False):
    """A session document. One of the first version may have fewer fields.

    Attributes:
        _id: The session id.
        session_id: The session id.
        session_type: ``"AGENT"``, or another type that the SDK gave.
        instance: Tells this session from earlier and later ones with its id.
        schema_version: The version of this shape.
        application_name: None if none was given.
        created_at: When the session was created.
        updated_at: When it last changed, except for its lease.
        metadata: The application's metadata.
        feedbacks: The latest feedback, oldest first.
        guardrail_events: Redactions, each with ``agent_id`` and ``message_id``.
        agent_ids: The agents.
        agents: The agents, by id, escaped as a field name.
        multi_agents: Graphs and Swarms, by id, escaped as a field name.
        feedback_bytes: The size of ``feedbacks``.
        feedback_segments: References to older feedback, oldest first.
        feedback_counts: How much feedback there is, by rating.
        interrupted: What waits for the answer to an interrupt: ``"agent:<id>"`` or ``"multi:<id>"``.
        forked_from: The origin of a fork.
        has_files: Whether a large value of a message was ever stored as a file.
        lease: The claim to be the only writer.
        outbox: Notifications of hooks that are not delivered yet; each has an ``id``.
        outbox_documents: References to further ones.
        ttl_seconds: How long it lives after its last write; absent if it does not expire.
        expires_at: When it expires; absent if it does not, or is held.
        held: True while it is held: then it does not expire.
    """

    feedback_bytes: int
    feedback_segments: list[FeedbackReferenceDoc]
    feedback_counts: FeedbackCountsDoc
    interrupted: list[str]
    forked_from: ForkDoc
    has_files: bool
    lease: LeaseDoc
    outbox: list[dict[str, Any]]
    outbox_documents: list[OutboxReferenceDoc]
    ttl_seconds: int
    expires_at: datetime
    held: bool


class _EverySegmentDoc(TypedDict):
    _id: ObjectId
    session_id: str
    instance: ObjectId
    kind: Literal["messages"]
    agent_id: str
    messages: list[MessageDoc]


class SegmentDoc(_EverySegmentDoc, total=False):
    """A document of the segments' collection with messages.

    Attributes:
        _id: The segment.
        session_id: The session.
        instance: The session's ``instance``.
        kind: ``"messages"``.
        agent_id: The agent.
        messages: Its messages, oldest first.
        move_id: The last move that appended to it.
        removals: Deletions that have announced its removal.
    """

    move_id: ObjectId
    removals: list[ObjectId]


class FeedbackSegmentDoc(TypedDict):
    """A document of the segments' collection with feedback.

    Attributes:
        _id: The segment.
        session_id: The session.
        instance: The session's ``instance``.
        kind: ``"feedback"``.
        items: The entries, oldest first.
    """

    _id: ObjectId
    session_id: str
    instance: ObjectId
    kind: Literal["feedback"]
    items: list[FeedbackDoc]


class OutboxDoc(TypedDict):
    """A document of the segments' collection with a notification.

    Attributes:
        _id: The document.
        session_id: The session.
        instance: The session's ``instance``.
        kind: ``"outbox"``.
        record: The notification.
    """

    _id: ObjectId
    session_id: str
    instance: ObjectId
    kind: Literal["outbox"]
    record: dict[str, Any]
