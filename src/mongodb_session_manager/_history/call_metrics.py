"""What a model call and its tools took, as an agent's own objects tell."""

from typing import TYPE_CHECKING, Any, cast

from strands.middleware import InvokeModelStage
from strands.types.content import Message

from .._schema.ids import MAX_ID_BYTES
from .._schema.usage import as_number, call_figures, fell, not_observed, observed, subtracted
from ..types import ToolUsage
from .agent_state import model_id

if TYPE_CHECKING:
    from strands.middleware.stages import InvokeModelContext
    from strands.types.agent import LocalAgent


def call_metrics(message: Message, agent: "LocalAgent", called: Any = None) -> dict[str, Any] | None:
    """Return the ``event_loop_metrics`` of a message that a model call brought, else None.

    The SDK counts a call just after it announces the message, so the call's own figures are added here.

    Args:
        message: The message.
        agent: The agent.
        called: The model that was called, where that need not be the agent's.
    """
    try:
        if message["role"] != "assistant":
            return None
        counts = {name: _counted(agent, name) or {} for name in ("accumulated_usage", "accumulated_metrics")}
        figures = call_figures(message.get("metadata"), counts)
        return figures and {**figures, **_model(agent, called)}
    except Exception as error:  # noqa: BLE001 - foreign code may raise anything, and a figure is only information
        not_observed("event_loop_metrics", error)
        return None


def _model(agent: "LocalAgent", called: Any) -> dict[str, str]:
    """Return the model that the call was made to, if its id can be a field name of sums."""
    try:
        found = model_id(agent.model if called is None else called)
        return {"model": found} if found and len(found.encode()) <= MAX_ID_BYTES else {}
    except Exception as error:  # noqa: BLE001 - foreign code may raise anything, and a figure is only information
        not_observed("model", error)
        return {}


def _counted(agent: "LocalAgent", name: str) -> dict[Any, Any] | None:
    """Return one of the SDK's counts; None if the agent has no such count."""
    try:
        try:
            counts = agent.event_loop_metrics
        except (AttributeError, NotImplementedError):  # a BidiAgent counts nothing
            return {}
        return dict(getattr(counts, name, {}).items())
    except Exception as error:  # noqa: BLE001 - foreign code may raise anything, and a figure is only information
        not_observed(name, error)
        return None


class CallMeter:
    """Computes the figures of a model call, and of the tools since the last answer; the SDK only counts totals."""

    def __init__(self, agent: "LocalAgent") -> None:
        self._counted = _tool_totals(agent) or {}
        self._called: Any = None
        # A router gives each call a model, and the agent has the first one.
        if getattr(agent, "_model_router", None) is not None:
            cast(Any, agent).add_middleware(InvokeModelStage.Input, self._note_model)

    def _note_model(self, context: "InvokeModelContext") -> "InvokeModelContext":
        self._called = context.model
        return context

    def figures(self, message: Message, agent: "LocalAgent", given: Message | None = None) -> dict[str, Any]:
        """Return the ``event_loop_metrics`` of a message, with the tools of the invocation that it ends.

        Args:
            message: The message.
            agent: The agent.
            given: The announced message, if the message was made of another one.
        """
        tools = self._since(agent)
        metrics = call_metrics(given or message, agent, self._called) or {}
        if tools and ends_invocation(message):
            metrics["tool_usage"] = tools
        return metrics

    def _since(self, agent: "LocalAgent") -> dict[str, ToolUsage]:
        """Return the calls since the last ``count``, by tool. A total that fell began anew."""
        totals = _tool_totals(agent)
        if totals is None or not (totals or self._counted):
            return {}
        self._counted = {name: then for name, then in self._counted.items() if not _began_anew(totals.get(name), then)}
        used = {name: _difference(total, self._counted.get(name)) for name, total in totals.items()}
        return {name: usage for name, usage in used.items() if usage["calls"]}

    def count(self, agent: "LocalAgent") -> None:
        """Take all calls so far as counted."""
        totals = _tool_totals(agent)
        self._counted = self._counted if totals is None else totals


def _tool_totals(agent: "LocalAgent") -> dict[str, ToolUsage] | None:
    counted = _counted(agent, "tool_metrics")
    if not counted:
        return None if counted is None else {}
    tools = {str.__str__(name): metrics for name, metrics in counted.items() if issubclass(type(name), str)}
    usages = {name: _observed_usage(metrics) for name, metrics in tools.items()}
    return {name: usage for name, usage in usages.items() if usage is not None}


def _observed_usage(metrics: Any) -> ToolUsage | None:
    return observed("tool_usage", lambda: _tool_usage(metrics), None)


def _tool_usage(metrics: Any) -> ToolUsage:
    counts = (metrics.call_count, metrics.success_count, metrics.error_count, metrics.total_time)
    calls, successes, errors, seconds = (max(as_number(value) or 0, 0) for value in counts)
    return ToolUsage(calls=cast(int, calls), successes=cast(int, successes), errors=cast(int, errors), seconds=seconds)


def _began_anew(total: ToolUsage | None, counted: ToolUsage) -> bool:
    return total is None or any(fell(total, counted, name) for name in counted)


def _difference(total: ToolUsage, counted: ToolUsage | None) -> ToolUsage:
    return total if counted is None else cast(ToolUsage, subtracted(total, counted))


def ends_invocation(message: Message) -> bool:
    """Tell whether a message is an answer after which no tool runs."""
    try:
        return message["role"] == "assistant" and not any("toolUse" in block for block in message["content"])
    except Exception as error:  # noqa: BLE001 - foreign code may raise anything
        not_observed("end of invocation", error)
        return False
