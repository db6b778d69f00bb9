"""Protocols, dictionaries and constants that users' own code can name."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, Final, Literal, Protocol, TypeAlias, TypedDict

__all__ = [
    "CONTENT_FILTERED",
    "GUARDRAIL_INTERVENED",
    "GUARDRAIL_STOP_REASONS",
    "AgentConfig",
    "Durability",
    "FeedbackHook",
    "GuardrailEvent",
    "Health",
    "JsonSafe",
    "MetadataHook",
    "OnError",
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
        ok: Whether the latest write of every agent succeeded.
        pending: The number of changes that are not acknowledged.
        last_error: The name of what went wrong with the latest write, None when it succeeded.
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
