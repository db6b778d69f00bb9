"""What a turn looked like: usage, metrics, tools, configuration, guardrail trace.

All of it is read from objects of others: the SDK, a model's provider, an application. What is odd there costs the
figure and nothing else.
"""

import functools
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

from strands.telemetry.metrics import EventLoopMetrics
from strands.types.content import Message

from ..types import ToolUsage, UsageTotals

if TYPE_CHECKING:
    from strands.types.agent import LocalAgent

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

# Where the SDK's providers keep the id of their model.
_MODEL_ID_NAMES = ("model_id", "model")


def observed(figure: str, look: Callable[[], _T], otherwise: _T) -> _T:
    """Return what a look at somebody else's object finds; ``otherwise`` where it raises."""
    try:
        return look()
    except Exception as error:  # noqa: BLE001 - foreign code may raise anything, and a figure is only information
        logger.debug("figure=<%s>, error=<%s> | could not be observed", figure, type(error).__name__)
        return otherwise


def _mapping(value: object) -> dict[Any, Any]:
    if type(value) is dict:
        return dict(value)
    return observed("mapping", lambda: dict(value.items()) if isinstance(value, Mapping) else {}, {})


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
    metadata = _mapping(message.get("metadata"))
    usage, metrics = _mapping(metadata.get("usage")), _mapping(metadata.get("metrics"))
    if message["role"] != "assistant" or not (usage or metrics):
        return None
    accumulated = _added(_counted(agent, "accumulated_metrics") or {}, metrics)
    if (first_byte := _number(metrics.get("timeToFirstByteMs"))) is not None:
        accumulated["timeToFirstByteMs"] = first_byte
    return {
        "accumulated_usage": _added(_counted(agent, "accumulated_usage") or {}, usage),
        "accumulated_metrics": accumulated,
        "usage": usage,
        "metrics": metrics,
    }


def _counted(agent: "LocalAgent", name: str) -> dict[Any, Any] | None:
    """Return one of the SDK's counts; None where there is none to be had."""
    return observed(name, lambda: dict(getattr(_loop_metrics(agent), name, {}).items()), None)


def _loop_metrics(agent: "LocalAgent") -> EventLoopMetrics | None:
    try:
        return agent.event_loop_metrics
    except (AttributeError, NotImplementedError):  # a BidiAgent counts nothing
        return None


def _added(counted: Mapping[Any, Any], call: Mapping[Any, Any]) -> dict[str, Any]:
    then, now = _numbers(counted), _numbers(call)
    return {name: _sum(then.get(name, 0), now.get(name, 0)) for name in then | now}


def _numbers(figures: Mapping[Any, Any]) -> dict[str, Any]:
    found = {}
    for name, value in figures.items():
        if issubclass(type(name), str) and (number := _number(value)) is not None:
            found[str.__str__(name)] = number
    return found


def _number(value: object) -> int | float | None:
    """Return a finite number as a plain one; None for anything else."""
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
        return total if (added := _number(total + number)) is None else added
    except OverflowError:  # an int beyond all floats
        return total


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
    calls, successes, errors, seconds = (max(_number(value) or 0, 0) for value in counts)
    return ToolUsage(calls=cast(int, calls), successes=cast(int, successes), errors=cast(int, errors), seconds=seconds)


def _began_anew(total: ToolUsage | None, counted: ToolUsage) -> bool:
    return total is None or any(_fell(total, counted, name) for name in counted)


def _difference(total: ToolUsage, counted: ToolUsage | None) -> ToolUsage:
    return total if counted is None else cast(ToolUsage, _subtracted(total, counted))


def ends_invocation(message: Message) -> bool:
    """Tell whether a message is an answer after which no tool runs."""
    return observed("end of invocation", lambda: _ends_invocation(message), False)


def _ends_invocation(message: Message) -> bool:
    return message["role"] == "assistant" and not any("toolUse" in block for block in message["content"])


def usage_totals(calls: Iterable[Mapping[str, Any]]) -> UsageTotals:
    """Sum the ``event_loop_metrics`` of an agent's messages, in order.

    Only figures of single calls are added up. Where the first version stored accumulated ones alone, a call is
    the difference to the message before it; a smaller number than before means that the process was new.
    """
    totals = UsageTotals(model_calls=0, usage={}, metrics={}, tools={})
    before: Mapping[str, Any] = {}
    for call in map(_mapping, calls):
        usage, metrics = _mapping(call.get("usage")), _mapping(call.get("metrics"))
        if not (usage or metrics):
            usage, metrics = _difference_of_totals(call, before)
        before = call
        totals["model_calls"] += bool(usage or metrics)
        totals["usage"] = _added(totals["usage"], usage)
        totals["metrics"] = _added(totals["metrics"], {"latencyMs": _number(metrics.get("latencyMs")) or 0})
        totals["tools"] = _merged_tools(totals["tools"], _mapping(call.get("tool_usage")))
    return totals


def _difference_of_totals(call: Mapping[str, Any], before: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    usage, metrics = _mapping(call.get("accumulated_usage")), _mapping(call.get("accumulated_metrics"))
    used, measured = _mapping(before.get("accumulated_usage")), _mapping(before.get("accumulated_metrics"))
    if _fell(usage, used, "totalTokens") or _fell(metrics, measured, "latencyMs"):
        used = measured = {}
    return _subtracted(usage, used), _subtracted(metrics, measured)


def _fell(now: Mapping[str, Any], then: Mapping[str, Any], name: str) -> bool:
    return (_number(now.get(name)) or 0) < (_number(then.get(name)) or 0)


def _subtracted(now: Mapping[str, Any], then: Mapping[str, Any]) -> dict[str, Any]:
    before = _numbers(then)
    return {name: _sum(value, -before.get(name, 0)) for name, value in _numbers(now).items()}


def _merged_tools(tools: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, ToolUsage]:
    added = {name: _added(_mapping(tools.get(name)), _mapping(more.get(name))) for name in [*tools, *more]}
    return {name: cast(ToolUsage, usage) for name, usage in added.items() if usage}


def sum_of_totals(totals: Sequence[UsageTotals]) -> UsageTotals:
    """Return the totals of several agents together."""
    joined = UsageTotals(model_calls=0, usage={}, metrics={}, tools={})
    for each in totals:
        joined["model_calls"] += each["model_calls"]
        joined["usage"] = _added(joined["usage"], each["usage"])
        joined["metrics"] = _added(joined["metrics"], each["metrics"])
        joined["tools"] = _merged_tools(joined["tools"], each["tools"])
    return joined


# Bedrock's policies, where each keeps its findings, and the fields that say what a finding is. None of these
# quotes the conversation, as "match" does.
_FINDINGS: dict[str, dict[str, tuple[str, ...]]] = {
    "topicPolicy": {"topics": ("name",)},
    "contentPolicy": {"filters": ("type", "confidence")},
    "wordPolicy": {"customWords": (), "managedWordLists": ("type",)},
    "sensitiveInformationPolicy": {"piiEntities": ("type",), "regexes": ("name",)},
    "contextualGroundingPolicy": {"filters": ("type",)},
    "automatedReasoningPolicy": {"findings": ()},
}


def policies_triggered(trace: object) -> dict[str, list[str]]:
    """Summarise a Bedrock guardrail trace as ``{policy: ["HATE/HIGH", …]}``, without what was said.

    Args:
        trace: ``{"inputAssessment": …, "outputAssessments": …}``, also inside ``{"guardrail": …}`` or
            ``{"trace": …}``. What has another form is passed over.
    """
    return observed("policies_triggered", lambda: _policies_triggered(trace), {})


def _policies_triggered(trace: object) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for assessment in _assessments(trace):
        for policy, kinds in _FINDINGS.items():
            for kind, fields in kinds.items():
                labels = [_label(kind, fields, f) for f in _items(_get(_get(assessment, policy), kind)) if _acted(f)]
                if labels:
                    found[policy] = list(dict.fromkeys(found.get(policy, []) + labels))
    return found


def _assessments(trace: object) -> list[object]:
    for wrapper in ("trace", "guardrail"):
        trace = _get(trace, wrapper) or trace
    of_input = list(_get_all(_get(trace, "inputAssessment")))
    of_output = [item for items in _get_all(_get(trace, "outputAssessments")) for item in _items(items)]
    return of_input + of_output


def _get(value: object, name: str) -> object:
    return value.get(name) if isinstance(value, Mapping) else None


def _get_all(value: object) -> Iterable[object]:
    return value.values() if isinstance(value, Mapping) else ()


def _items(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else ()


def _acted(finding: object) -> bool:
    return isinstance(finding, Mapping) and finding.get("action") != "NONE" and finding.get("detected") is not False


def _label(kind: str, fields: Sequence[str], finding: object) -> str:
    if kind == "findings" and isinstance(finding, Mapping):
        return "/".join(map(str, finding))  # each is an object with one key, which says what was found
    return "/".join(str(value) for name in fields if (value := _get(finding, name))) or kind
