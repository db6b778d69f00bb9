"""Protocols, dictionaries and constants that users' own code can name."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, Final, Literal, Protocol, TypeAlias, TypedDict

__all__ = [
    "CONTENT_FILTERED",
    "GUARDRAIL_INTERVENED",
    "GUARDRAIL_STOP_REASONS",
    "AgentConfig",
    "ClientOptions",
    "Durability",
    "FactoryOptions",
    "FeedbackHook",
    "GuardrailEvent",
    "Health",
    "JsonSafe",
    "ManagerOptions",
    "MetadataHook",
    "OldSpellings",
    "OnError",
    "OtherOptions",
    "SessionOptions",
    "SessionOverrides",
    "ToolUsage",
    "UsageTotals",
]

Durability: TypeAlias = Literal["sync", "async", "exit"]
"""When a message is acknowledged: before the agent goes on, by the end of the invocation while the agent goes on, or
in one write at the end of the invocation."""

OnError: TypeAlias = Literal["raise", "degrade"]
"""Whether a failed write fails the invocation, or the conversation goes on and the write is made up for."""

JsonSafe: TypeAlias = Literal[False, "note", "base64"]
"""Values as they are, or as JSON carries them: bytes as a note of their type and size, or as base64."""

GUARDRAIL_INTERVENED: Final = "guardrail_intervened"
"""Stop reason of a model whose guardrail blocked or masked content (Amazon Bedrock)."""

CONTENT_FILTERED: Final = "content_filtered"
"""Stop reason of a model whose provider filtered the answer."""

GUARDRAIL_STOP_REASONS: Final = frozenset({GUARDRAIL_INTERVENED, CONTENT_FILTERED})


class MetadataHook(Protocol):
    """Stands around ``update_metadata``, ``get_metadata`` and ``delete_metadata``; may be a coroutine function."""

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
    """Stands around ``add_feedback``; may be a coroutine function."""

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
    """How an agent of the session is configured.

    Attributes:
        agent_id: The agent.
        model: The model id, None where it is not known.
        system_prompt: The system prompt, None where there is none.
        prompt_metadata: Where the prompt came from, as ``set_prompt_metadata`` stored it.
    """

    agent_id: str
    model: str | None
    system_prompt: str | None
    prompt_metadata: dict[str, Any] | None


class Health(TypedDict):
    """How the writes of a manager are doing.

    Attributes:
        ok: Whether the latest write of every agent succeeded, and left out no field of it that nobody was told of.
        pending: The number of changes that are not acknowledged.
        last_error: The name of what went wrong with it, None when nothing did.
    """

    ok: bool
    pending: int
    last_error: str | None


class GuardrailEvent(TypedDict, total=False):
    """A redaction, as it is recorded on the message and, with the last two fields, on the session."""

    action: str
    timestamp: datetime
    stop_reason: str
    policies_triggered: dict[str, list[str]]
    agent_id: str
    message_id: int


class ToolUsage(TypedDict):
    """What the calls of one tool came to.

    Attributes:
        calls: How often it was called.
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
        model_calls: How many there were.
        usage: Tokens: ``inputTokens``, ``outputTokens``, ``totalTokens``, and those of the prompt cache.
        metrics: ``latencyMs``, milliseconds.
        tools: By the name of the tool.
    """

    model_calls: int
    usage: dict[str, int]
    metrics: dict[str, int]
    tools: dict[str, ToolUsage]


class ClientOptions(TypedDict, total=False):
    """Options of ``pymongo.MongoClient``, which explains them. At run time upper and lower case are the same."""

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
    """What hooks were called in the first version."""

    metadataHook: MetadataHook | Sequence[MetadataHook] | None
    feedbackHook: FeedbackHook | Sequence[FeedbackHook] | None


class OtherOptions(ClientOptions, OldSpellings, total=False):
    """What a session manager takes beside the arguments that its signature names."""


class SessionOptions(TypedDict, total=False):
    """How a session manager writes; ``MongoDBSessionManager`` explains them."""

    durability: Durability
    on_error: OnError
    exclusive: bool
    lease_timeout: float
    lease_duration: float
    create: bool


class ManagerOptions(SessionOptions, OtherOptions, total=False):
    """What ``create_mongodb_session_manager`` takes beside the arguments that its signature names."""


class FactoryOptions(ManagerOptions, total=False):
    """What a factory takes beside the arguments that its signature names."""

    metadata_hook: MetadataHook | Sequence[MetadataHook] | None
    feedback_hook: FeedbackHook | Sequence[FeedbackHook] | None


class SessionOverrides(OldSpellings, total=False):
    """What a factory's defaults give way to for one manager; None leaves them."""

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
