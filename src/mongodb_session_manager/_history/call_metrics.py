"""What a model call and its tools took, and how an agent is configured, as its own objects tell."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

from strands.telemetry.metrics import EventLoopMetrics
from strands.types.content import Message

from .._schema.usage import added_up, as_mapping, as_number, fell, observed, subtracted
from ..types import ToolUsage

if TYPE_CHECKING:
    from strands.types.agent import LocalAgent

# Where the SDK's providers keep the id of their model.
_MODEL_ID_NAMES = ("model_id", "model")
_UNKNOWN: Any = object()


def configuration(agent: "LocalAgent") -> dict[str, str | None]:
    """Return ``model`` (its id, or None) and ``system_prompt``, without what cannot be told."""
    try:
        return {"model": _model_id(agent.model), "system_prompt": _text(agent.system_prompt)}
    except Exception:  # noqa: BLE001 - each by itself then
        return _told_configuration(agent)


def _told_configuration(agent: "LocalAgent") -> dict[str, str | None]:
    looks: dict[str, Callable[[], str | None]] = {
        "model": lambda: _model_id(agent.model),
        "system_prompt": lambda: _text(agent.system_prompt),
    }
    found = {name: observed(name, look, _UNKNOWN) for name, look in looks.items()}
    return {name: value for name, value in found.items() if value is not _UNKNOWN}


def _text(value: Any) -> str | None:
    # What looks like a string may be a subclass whose own methods do otherwise.
    return None if value is None else str.__str__(value)


def _model_id(model: Any) -> str | None:
    try:
        found = _first_text(_configured_ids(model))
    except Exception:
        found = _first_text(_own_ids(model))
        if found is None:
            raise
    return found or _first_text(_own_ids(model))


def _own_ids(model: Any) -> list[Any]:
    return [observed("model", functools.partial(getattr, model, name, None), None) for name in _MODEL_ID_NAMES]


def _configured_ids(model: Any) -> list[Any]:
    config = observed("config", lambda: getattr(model, "config", None), None)
    if not isinstance(config, Mapping):
        config = model.get_config() if hasattr(model, "get_config") else {}
    return [config.get(name) for name in _MODEL_ID_NAMES] if isinstance(config, Mapping) else []


def _first_text(values: Iterable[Any]) -> str | None:
    for value in values:
        if issubclass(type(value), str) and (text := str.__str__(value)):
            return text
    return None


def call_metrics(message: Message, agent: "LocalAgent") -> dict[str, Any] | None:
    """Return the ``event_loop_metrics`` of a message that a model call brought, else None.

    The SDK counts a call just after it announces the message, so the call's own figures are added here. It never
    counts the time to first byte, which is therefore the call's own in both places.
    """
    return observed("event_loop_metrics", lambda: _call_metrics(message, agent), None)


def _call_metrics(message: Message, agent: "LocalAgent") -> dict[str, Any] | None:
    metadata = as_mapping(message.get("metadata"))
    usage, metrics = as_mapping(metadata.get("usage")), as_mapping(metadata.get("metrics"))
    if message["role"] != "assistant" or not (usage or metrics):
        return None
    accumulated = added_up(_counted(agent, "accumulated_metrics") or {}, metrics)
    if (first_byte := as_number(metrics.get("timeToFirstByteMs"))) is not None:
        accumulated["timeToFirstByteMs"] = first_byte
    return {
        "accumulated_usage": added_up(_counted(agent, "accumulated_usage") or {}, usage),
        "accumulated_metrics": accumulated,
        "usage": usage,
        "metrics": metrics,
    }


def _counted(agent: "LocalAgent", name: str) -> dict[Any, Any] | None:
    """Return one of the SDK's counts; None where the agent has no such count."""
    return observed(name, lambda: dict(getattr(_loop_metrics(agent), name, {}).items()), None)


def _loop_metrics(agent: "LocalAgent") -> EventLoopMetrics | None:
    try:
        return agent.event_loop_metrics
    except (AttributeError, NotImplementedError):  # a BidiAgent counts nothing
        return None


class ToolUsageMeter:
    """Tells what the tools of an agent did since it was last asked; the SDK only counts totals."""

    def __init__(self, agent: "LocalAgent") -> None:
        self._counted = _tool_totals(agent) or {}

    def since(self, agent: "LocalAgent") -> dict[str, ToolUsage]:
        """Return the calls since the last ``count``, by tool. A total that fell began anew."""
        totals = _tool_totals(agent)
        if totals is None:
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
    if counted is None:
        return None
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
    return observed("end of invocation", lambda: _ends_invocation(message), False)


def _ends_invocation(message: Message) -> bool:
    return message["role"] == "assistant" and not any("toolUse" in block for block in message["content"])
