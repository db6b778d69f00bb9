"""Protocols, dictionaries and constants that users' own code can name."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any, Final, Literal, Protocol, TypeAlias, TypedDict

from .catalog import (
    UNSET,
    AgentSummary,
    FeedbackCounts,
    ForkOrigin,
    LeaseSummary,
    MultiAgentSummary,
    Page,
    Redaction,
    Scalar,
    SessionDetails,
    SessionFilter,
    SessionSort,
    SessionSummary,
    Unset,
    UsageFigures,
    UsageKey,
    UsageRow,
)
from .documents import (
    AgentDataDoc,
    AgentDoc,
    CallMetricsDoc,
    FeedbackCountsDoc,
    FeedbackDoc,
    FeedbackReferenceDoc,
    FeedbackSegmentDoc,
    ForkDoc,
    GuardDoc,
    GuardrailEvent,
    InnerStateDoc,
    LeaseDoc,
    LiveDoc,
    MessageDoc,
    MovedUsageDoc,
    MultiAgentDoc,
    OutboxDoc,
    OutboxReferenceDoc,
    SegmentDoc,
    SegmentReferenceDoc,
    SessionDoc,
    ToolUsage,
)
from .reports import DeletionReceipt, DeletionReport, Finding, IndexReport, SweepReport, UpgradeReport
from .transcripts import FeedbackEntry, Part, PartMark, Transcript, TranscriptMessage

__all__ = [
    "CONTENT_FILTERED",
    "GUARDRAIL_INTERVENED",
    "GUARDRAIL_STOP_REASONS",
    "UNSET",
    "AgentConfig",
    "AgentDataDoc",
    "AgentDoc",
    "AgentSummary",
    "CallMetricsDoc",
    "ClientOptions",
    "DeletionReceipt",
    "DeletionReport",
    "Durability",
    "FactoryOptions",
    "FeedbackCounts",
    "FeedbackCountsDoc",
    "FeedbackDoc",
    "FeedbackEntry",
    "FeedbackHook",
    "FeedbackReferenceDoc",
    "FeedbackSegmentDoc",
    "Finding",
    "ForkDoc",
    "ForkOrigin",
    "GuardDoc",
    "GuardrailEvent",
    "Health",
    "IndexReport",
    "InnerStateDoc",
    "JsonSafe",
    "LeaseDoc",
    "LeaseSummary",
    "LiveDoc",
    "ManagerOptions",
    "MessageDoc",
    "MetadataHook",
    "MovedUsageDoc",
    "MultiAgentDoc",
    "MultiAgentSummary",
    "OldSpellings",
    "OnError",
    "OtherOptions",
    "OutboxDoc",
    "OutboxReferenceDoc",
    "Page",
    "Part",
    "PartMark",
    "Redaction",
    "Scalar",
    "SegmentDoc",
    "SegmentReferenceDoc",
    "SessionDetails",
    "SessionDoc",
    "SessionFilter",
    "SessionOptions",
    "SessionOverrides",
    "SessionSort",
    "SessionSummary",
    "SweepReport",
    "ToolUsage",
    "Transcript",
    "TranscriptMessage",
    "Unset",
    "UpgradeReport",
    "UsageFigures",
    "UsageKey",
    "UsageRow",
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
"""The stop reasons that say that content was blocked, masked or filtered."""


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
    ttl: timedelta | None
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
    ttl: timedelta | None
    create: bool | None
