"""Sums of the figures of model calls and tools.

The figures come from foreign objects: of the SDK, of a model's provider, of an application. A figure that is not a
number is left out, and has no other effect.
"""

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timezone
from typing import Any, Final, TypeVar, cast

from ..types import ToolUsage, UsageTotals
from .ids import MAX_ID_BYTES, now
from .messages import aware
from .values import decode, escape_key

logger = logging.getLogger(__name__)

_T = TypeVar("_T")


def observed(figure: str, look: Callable[[], _T], otherwise: _T) -> _T:
    """Return what a look at a foreign object returns; ``otherwise`` if it raises."""
    try:
        return look()
    except Exception as error:  # noqa: BLE001 - foreign code may raise anything, and a figure is only information
        not_observed(figure, error)
        return otherwise


def not_observed(figure: str, error: Exception) -> None:
    """Tell in the log of a figure that could not be looked at."""
    logger.debug("figure=<%s>, error=<%s> | could not be observed", figure, type(error).__name__)


def as_mapping(value: object) -> dict[Any, Any]:
    if type(value) is dict:
        return dict(value)
    return observed("mapping", lambda: dict(value.items()) if isinstance(value, Mapping) else {}, {})


def call_figures(metadata: object, counted: Mapping[str, Mapping[Any, Any]]) -> dict[str, Any] | None:
    """Return the ``event_loop_metrics`` of a message by its metadata; None if it holds no figures of a call.

    The call is not in ``counted`` yet. The time to first byte is never added up: both places have the call's own.

    Args:
        metadata: The metadata of the message.
        counted: ``accumulated_usage`` and ``accumulated_metrics`` before the call; empty if the agent does not count.
    """
    of_message = as_mapping(metadata)
    usage, metrics = as_mapping(of_message.get("usage")), as_mapping(of_message.get("metrics"))
    if not (usage or metrics):
        return None
    accumulated = added_up(counted.get("accumulated_metrics", {}), metrics)
    if (first_byte := as_number(metrics.get("timeToFirstByteMs"))) is not None:
        accumulated["timeToFirstByteMs"] = first_byte
    return {
        "accumulated_usage": added_up(counted.get("accumulated_usage", {}), usage),
        "accumulated_metrics": accumulated,
        "usage": usage,
        "metrics": metrics,
    }


def added_up(counted: Mapping[Any, Any], call: Mapping[Any, Any]) -> dict[str, Any]:
    then, now = _numbers(counted), _numbers(call)
    return {name: _sum(then.get(name, 0), now.get(name, 0)) for name in then | now}


def _numbers(figures: Mapping[Any, Any]) -> dict[str, Any]:
    found = {}
    for name, value in figures.items():
        number = value if type(value) is int else as_number(value)
        if number is not None and issubclass(type(name), str):
            found[str.__str__(name)] = number
    return found


def as_number(value: object) -> int | float | None:
    """Return a finite number as a plain int or float; None for any other value."""
    kind = type(value)
    if kind is int:
        return cast(int, value)
    if kind is bool:
        return None
    if issubclass(kind, int):
        return int.__int__(cast(int, value))
    if issubclass(kind, float) and math.isfinite(number := float.__float__(cast(float, value))):
        return number
    return None


def _sum(total: float, number: float) -> int | float:
    try:
        return total if (added := as_number(total + number)) is None else added
    except OverflowError:  # an int beyond all floats
        return total


def usage_totals(calls: Iterable[Mapping[str, Any]]) -> UsageTotals:
    """Sum the ``event_loop_metrics`` of an agent's messages, in order.

    Only figures of single calls are added up. The first version stored only accumulated figures: there a call is the
    difference to the message before it, and a smaller figure means that a new process began to count.
    """
    totals = UsageTotals(model_calls=0, usage={}, metrics={}, tools={})
    before: Mapping[str, Any] = {}
    for call in map(as_mapping, calls):
        usage, metrics = as_mapping(call.get("usage")), as_mapping(call.get("metrics"))
        if not (usage or metrics):
            usage, metrics = _difference_of_totals(call, before)
        before = call
        totals["model_calls"] += bool(usage or metrics)
        totals["usage"] = added_up(totals["usage"], usage)
        totals["metrics"] = added_up(totals["metrics"], {"latencyMs": as_number(metrics.get("latencyMs")) or 0})
        totals["tools"] = _merged_tools(totals["tools"], as_mapping(call.get("tool_usage")))
    return totals


def _difference_of_totals(call: Mapping[str, Any], before: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    usage, metrics = as_mapping(call.get("accumulated_usage")), as_mapping(call.get("accumulated_metrics"))
    used, measured = as_mapping(before.get("accumulated_usage")), as_mapping(before.get("accumulated_metrics"))
    if fell(usage, used, "totalTokens") or fell(metrics, measured, "latencyMs"):
        used = measured = {}
    return subtracted(usage, used), subtracted(metrics, measured)


def fell(now: Mapping[str, Any], then: Mapping[str, Any], name: str) -> bool:
    return (as_number(now.get(name)) or 0) < (as_number(then.get(name)) or 0)


def subtracted(now: Mapping[str, Any], then: Mapping[str, Any]) -> dict[str, Any]:
    before = _numbers(then)
    return {name: _sum(value, -before.get(name, 0)) for name, value in _numbers(now).items()}


def _merged_tools(tools: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, ToolUsage]:
    added = {name: added_up(as_mapping(tools.get(name)), as_mapping(more.get(name))) for name in [*tools, *more]}
    return {name: cast(ToolUsage, usage) for name, usage in added.items() if usage}


# The figures of a call by their names in sums, and where the call has them.
CALL_FIGURES: Final[Mapping[str, tuple[str, str]]] = {
    "input": ("usage", "inputTokens"),
    "output": ("usage", "outputTokens"),
    "total": ("usage", "totalTokens"),
    "cache_read": ("usage", "cacheReadInputTokens"),
    "cache_write": ("usage", "cacheWriteInputTokens"),
    "latency_ms": ("metrics", "latencyMs"),
}
# The largest whole number that a double holds; a larger figure would spoil every sum.
_MOST: Final = 2**53
# Larger sums are added up as doubles, which do not overflow.
_MOST_INT: Final = 2**40


def moved_usage(
    messages: Iterable[Mapping[str, Any]], kept: Iterable[Mapping[str, Any]]
) -> dict[str, dict[str, float]]:
    """Return what the calls of messages used that leave the session document.

    Args:
        messages: The messages, oldest first.
        kept: The messages after them.

    Returns:
        Figures above zero by ``<UTC day>.<escaped model>``; a model that is not known has the empty id.
    """
    sums: dict[str, dict[str, float]] = {}
    for key, figures in _moved_calls(messages, kept):
        found = sums.setdefault(key, {})
        for name, value in {"calls": 1, **figures}.items():
            if value:
                found[name] = min(found.get(name, 0) + value, _MOST)
    return {
        key: {name: value if value < _MOST_INT else float(value) for name, value in figures.items()}
        for key, figures in sums.items()
    }


def _moved_calls(
    messages: Iterable[Mapping[str, Any]], kept: Iterable[Mapping[str, Any]]
) -> list[tuple[str, dict[str, float]]]:
    """Return the calls of messages, with the figures of each.

    The first version stored only accumulated figures. The first call that stays counts those of all calls before it
    in its process, so they are left out here.
    """
    calls: list[tuple[str, dict[str, float]]] = []
    before: Mapping[str, Any] = {}
    first_of_run = 0
    for message in messages:
        call = as_mapping(message.get("event_loop_metrics"))
        if not call:
            continue
        usage, metrics = as_mapping(call.get("usage")), as_mapping(call.get("metrics"))
        if usage or metrics or _begins(call, before):
            first_of_run = len(calls)
        if not (usage or metrics):
            usage, metrics = _difference_of_totals(call, before)
        before = call
        if usage or metrics:
            calls.append((_key(message, call), _moved_figures(usage, metrics)))
    following = next((call for message in kept if (call := as_mapping(message.get("event_loop_metrics")))), {})
    if following and not (following.get("usage") or following.get("metrics") or _begins(following, before)):
        calls[first_of_run:] = [(key, {}) for key, _ in calls[first_of_run:]]
    return calls


def _begins(call: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    """Tell whether a process began to count at a call of the first version."""
    figures = [as_mapping(each.get(f"accumulated_{name}")) for name in ("usage", "metrics") for each in (call, before)]
    return fell(figures[0], figures[1], "totalTokens") or fell(figures[2], figures[3], "latencyMs")


def _moved_figures(usage: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, float]:
    places = {"usage": usage, "metrics": metrics}
    found = {name: as_number(places[place].get(figure)) or 0 for name, (place, figure) in CALL_FIGURES.items()}
    return {name: min(max(value, 0), _MOST) for name, value in found.items()}


def _key(message: Mapping[str, Any], call: Mapping[str, Any]) -> str:
    model = observed("model", lambda: decode(call.get("model")), None)
    known = model if isinstance(model, str) and len(model.encode("utf-8", "surrogatepass")) <= MAX_ID_BYTES else ""
    at = observed("day", lambda: aware(message["created_at"]).astimezone(timezone.utc), None) or now()
    return f"{at:%Y-%m-%d}.{escape_key(known)}"


def sum_of_totals(totals: Sequence[UsageTotals]) -> UsageTotals:
    """Return the totals of several agents together."""
    joined = UsageTotals(model_calls=0, usage={}, metrics={}, tools={})
    for each in totals:
        joined["model_calls"] += each["model_calls"]
        joined["usage"] = added_up(joined["usage"], each["usage"])
        joined["metrics"] = added_up(joined["metrics"], each["metrics"])
        joined["tools"] = _merged_tools(joined["tools"], each["tools"])
    return joined
