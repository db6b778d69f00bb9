"""Protocols, dictionaries and constants that users' own code can name."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, Final, Literal, Protocol, TypeAlias, TypedDict

from bson import ObjectId

__all__ = [
    "CONTENT_FILTERED",
    "GUARDRAIL_INTERVENED",
    "GUARDRAIL_STOP_REASONS",
    "AgentConfig",
    "AgentDataDoc",
    "AgentDoc",
    "CallMetricsDoc",
    "ClientOptions",
    "Durability",
    "FactoryOptions",
    "FeedbackDoc",
    "FeedbackHook",
    "FeedbackReferenceDoc",
    "FeedbackSegmentDoc",
    "GuardDoc",
    "GuardrailEvent",
    "Health",
    "InnerStateDoc",
    "JsonSafe",
    "LeaseDoc",
    "LiveDoc",
    "ManagerOptions",
    "MessageDoc",
    "MetadataHook",
    "MultiAgentDoc",
    "OldSpellings",
    "OnError",
    "OtherOptions",
    "OutboxDoc",
    "OutboxReferenceDoc",
    "SegmentDoc",
    "SegmentReferenceDoc",
    "SessionDoc",
    "SessionOptions",
    "SessionOverrides",
    "ToolUsage",
    "UsageTotals",
]

Durability: TypeAlias = Literal["sync", "async", "exit"]
"""When a message is acknowledged: before the agent continues (``"sync"``), in the background by the end of the
invocation (``"async"``), or in one write at the end of the invocation (``"exit"``)."""

OnError: TypeAlias = Literal["raise", "degrade"]
"""Whether a failed write fails the invocation, or the conversation continues and the write is sent later."""

JsonSafe: TypeAlias = Literal[False, "note", "base64"]
"""Values as they are, or for JSON: bytes as a note of their type and size, or as base64."""

GUARDRAIL_INTERVENED: Final = "guardrail_intervened"
"""Stop reason of a model whose guardrail blocked or masked content (Amazon Bedrock)."""

CONTENT_FILTERED: Final = "content_filtered"
"""Stop reason of a model whose provider filtered the answer."""

GUARDRAIL_STOP_REASONS: Final = frozenset({GUARDRAIL_INTERVENED, CONTENT_FILTERED})


class MetadataHook(Protocol):
    """A hook around ``update_metadata``, ``get_metadata`` and ``delete_metadata``; may be a coroutine function."""

    def __call__(
        self, original_func: Callable[..., Any], action: str, session_id: str, **kwargs: Any
    ) -> Any | Awaitable[Any]:
        """Handle one call; what is returned is what the method returns.

        Args:
            original_func: Does the work. It takes no argument (goes on with the caller's own), one positional
                argument, ``metadata=`` or ``keys=``, or both by position with one of them None.
            action: ``"update"``, ``"get"`` or ``"delete"``.
            session_id: The session.
            **kwargs: ``metadata`` (of an update) or ``keys`` (of a delete): copies that may be changed.
        """


class FeedbackHook(Protocol):
    """A hook around ``add_feedback``; may be a coroutine function."""

    def __call__(
        self, original_func: Callable[..., Any], action: str, session_id: str, **kwargs: Any
    ) -> Any | Awaitable[Any]:
        """Handle one call; what is returned is what the method returns.

        Args:
            original_func: Stores the feedback. It takes no argument (goes on with the caller's own), one positional
                argument, or ``feedback=``.
            action: ``"add"``.
            session_id: The session.
            **kwargs: ``feedback``, a copy that may be changed, and ``session_manager``.
        """


class AgentConfig(TypedDict):
    """The configuration of an agent.

    Attributes:
        agent_id: The agent.
        model: The model id, None if it is not known.
        system_prompt: The system prompt, None if there is none.
        prompt_metadata: The origin of the prompt, as ``set_prompt_metadata`` stored it.
    """

    agent_id: str
    model: str | None
    system_prompt: str | None
    prompt_metadata: dict[str, Any] | None


class Health(TypedDict):
    """The state of a manager's writes.

    Attributes:
        ok: Whether the latest write of every agent succeeded, and no field was left out without an error.
        pending: The number of changes that are not acknowledged.
        last_error: The name of the latest error; None if there was none.
    """

    ok: bool
    pending: int
    last_error: str | None


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


class UsageTotals(TypedDict):
    """Sums over single model calls.

    Attributes:
        model_calls: The number of calls.
        usage: Tokens: ``inputTokens``, ``outputTokens``, ``totalTokens``, and tokens of the prompt cache.
        metrics: ``latencyMs``, milliseconds.
        tools: Figures by the name of the tool.
    """

    model_calls: int
    usage: dict[str, int]
    metrics: dict[str, int]
    tools: dict[str, ToolUsage]


class ClientOptions(TypedDict, total=False):
    """Options of ``pymongo.MongoClient``, which explains them. At run time, upper and lower case do not differ."""

    appName: str | None
    appname: str | None
    authMechanism: str
    authMechanismProperties: Any
    authOIDCAllowedHosts: Sequence[str]
    authSource: str
    auto_encryption_opts: Any
    compressors: str | Sequence[str]
    connect: bool
    connectTimeoutMS: int | None
    datetime_conversion: Any
    directConnection: bool
    document_class: type
    driver: Any
    enable_overload_retargeting: bool
    event_listeners: Sequence[Any]
    fsync: bool
    heartbeatFrequencyMS: int
    host: str | Sequence[str]
    journal: bool
    loadBalanced: bool
    localThresholdMS: int
    max_adaptive_retries: int
    maxConnecting: int
    maxIdleTimeMS: int | None
    maxPoolSize: int | None
    maxStalenessSeconds: int
    minPoolSize: int
    password: str
    port: int
    read_preference: Any
    readConcernLevel: str
    readPreference: Any
    readPreferenceTags: Any
    replicaSet: str | None
    retryReads: bool
    retryWrites: bool
    server_api: Any
    server_selector: Callable[..., Any] | None
    serverMonitoringMode: str
    serverSelectionTimeoutMS: int
    socketTimeoutMS: int | None
    srv_host_validator: Callable[..., Any] | None
    srvAllowedHostsSuffix: str
    srvMaxHosts: int
    srvServiceName: str
    ssl: bool
    timeoutMS: int | None
    tls: bool
    tlsAllowInvalidCertificates: bool
    tlsAllowInvalidHostnames: bool
    tlsCAFile: Any
    tlsCertificateKeyFile: Any
    tlsCertificateKeyFilePassword: str
    tlsCRLFile: Any
    tlsDisableOCSPEndpointCheck: bool
    tlsInsecure: bool
    type_registry: Any
    tz_aware: bool
    tzinfo: Any
    unicode_decode_error_handler: str
    username: str
    uuidRepresentation: str
    w: int | str
    waitQueueMultiple: int | None
    waitQueueTimeoutMS: int | None
    wTimeoutMS: int
    zlibCompressionLevel: int


class OldSpellings(TypedDict, total=False):
    """The names of the hook arguments in the first version."""

    metadataHook: MetadataHook | Sequence[MetadataHook] | None
    feedbackHook: FeedbackHook | Sequence[FeedbackHook] | None


class OtherOptions(ClientOptions, OldSpellings, total=False):
    """Further arguments of a session manager, which its signature does not name."""


class SessionOptions(TypedDict, total=False):
    """Options of how a session manager writes; ``MongoDBSessionManager`` explains them."""

    durability: Durability
    on_error: OnError
    exclusive: bool
    lease_timeout: float
    lease_duration: float
    create: bool


class ManagerOptions(SessionOptions, OtherOptions, total=False):
    """Further arguments of ``create_mongodb_session_manager``, which its signature does not name."""


class FactoryOptions(ManagerOptions, total=False):
    """Further arguments of a factory, which its signature does not name."""

    metadata_hook: MetadataHook | Sequence[MetadataHook] | None
    feedback_hook: FeedbackHook | Sequence[FeedbackHook] | None


class SessionOverrides(OldSpellings, total=False):
    """Options for one manager, instead of the factory's defaults; None keeps the default."""

    database_name: str | None
    collection_name: str | None
    metadata_fields: Sequence[str] | None
    metadata_hook: MetadataHook | Sequence[MetadataHook] | None
    feedback_hook: FeedbackHook | Sequence[FeedbackHook] | None
    application_name: str | None
    durability: Durability | None
    on_error: OnError | None
    exclusive: bool | None
    lease_timeout: float | None
    lease_duration: float | None
    create: bool | None


# The stored documents


class CallMetricsDoc(TypedDict, total=False):
    """``event_loop_metrics`` of a stored message: the figures of its model call.

    Attributes:
        usage: Tokens of this call.
        metrics: ``latencyMs`` and ``timeToFirstByteMs`` of this call, milliseconds.
        accumulated_usage: Tokens of the agent so far.
        accumulated_metrics: Milliseconds of the agent so far; ``timeToFirstByteMs`` is this call's.
        tool_usage: Calls of tools in the turn, by name; on the message that ends it.
    """

    usage: dict[str, int]
    metrics: dict[str, float]
    accumulated_usage: dict[str, int]
    accumulated_metrics: dict[str, float]
    tool_usage: dict[str, ToolUsage]


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
        state: Its state; a mark, ``{"%file": …}``, if it is large.
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


class AgentDoc(TypedDict, total=False):
    """An agent in ``agents`` of a session.

    Attributes:
        agent_data: Its data beside the messages.
        messages: Its latest messages, oldest first.
        guard: The revision that its next write must find.
        live: Its live set.
        segments: References to its older messages, oldest first.
        moved_count: The number of older messages.
        created_at: When it was first stored.
        updated_at: When its history or state last changed.
    """

    agent_data: AgentDataDoc
    messages: list[MessageDoc]
    guard: GuardDoc
    live: LiveDoc
    segments: list[SegmentReferenceDoc]
    moved_count: int
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
        has_files: Whether a large value of a message was ever stored as a file.
        lease: The claim to be the only writer.
        outbox: Notifications of hooks that are not delivered yet; each has an ``id``.
        outbox_documents: References to further ones.
    """

    feedback_bytes: int
    feedback_segments: list[FeedbackReferenceDoc]
    has_files: bool
    lease: LeaseDoc
    outbox: list[dict[str, Any]]
    outbox_documents: list[OutboxReferenceDoc]


class _EverySegmentDoc(TypedDict):
    _id: ObjectId
    session_id: str
    kind: Literal["messages"]
    agent_id: str
    messages: list[MessageDoc]


class SegmentDoc(_EverySegmentDoc, total=False):
    """A document of the segments' collection with messages.

    Attributes:
        _id: The segment.
        session_id: The session.
        kind: ``"messages"``.
        agent_id: The agent.
        messages: Its messages, oldest first.
        move_id: The last move that appended to it.
    """

    move_id: ObjectId


class FeedbackSegmentDoc(TypedDict):
    """A document of the segments' collection with feedback.

    Attributes:
        _id: The segment.
        session_id: The session.
        kind: ``"feedback"``.
        items: The entries, oldest first.
    """

    _id: ObjectId
    session_id: str
    kind: Literal["feedback"]
    items: list[FeedbackDoc]


class OutboxDoc(TypedDict):
    """A document of the segments' collection with a notification.

    Attributes:
        _id: The document.
        session_id: The session.
        kind: ``"outbox"``.
        record: The notification.
    """

    _id: ObjectId
    session_id: str
    kind: Literal["outbox"]
    record: dict[str, Any]
