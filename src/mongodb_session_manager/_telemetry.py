"""What a turn looked like: usage, metrics, tools, model id, guardrail trace. Pure functions of what the SDK reports."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from strands.telemetry.metrics import EventLoopMetrics
from strands.types.content import Message

from .types import ToolUsage, UsageTotals

if TYPE_CHECKING:
    from strands.types.agent import LocalAgent

# Where the SDK's providers keep the id of their model.
_MODEL_ID_NAMES = ("model_id", "model")


def model_id(agent: "LocalAgent") -> str | None:
    """Return the id of the agent's model as its provider keeps it, or None."""
    model: Any = agent.model
    config = getattr(model, "config", None)
    if not isinstance(config, Mapping):
        config = _called(model, "get_config")
    for name in _MODEL_ID_NAMES:
        found = config.get(name) or getattr(model, name, None)
        if isinstance(found, str):
            return found
    return None


def _called(model: Any, method: str) -> Mapping[str, Any]:
    try:
        config = getattr(model, method)()
    except Exception:  # noqa: BLE001 - a foreign provider's own method; the id is only information
        return {}
    return config if isinstance(config, Mapping) else {}


def call_metrics(message: Message, agent: "LocalAgent") -> dict[str, Any] | None:
    """Return the ``event_loop_metrics`` of a message that a model call brought, else None.

    The SDK counts a call just after it announces the message, so the call's own figures are added here. It never
    counts the time to first byte, which is therefore the call's own in both places.
    """
    metadata = message.get("metadata") or {}
    usage: Mapping[str, int] = cast("Mapping[str, int]", metadata.get("usage") or {})
    metrics: Mapping[str, int] = cast("Mapping[str, int]", metadata.get("metrics") or {})
    if message["role"] != "assistant" or not (usage or metrics):
        return None
    counted = _loop_metrics(agent)
    accumulated = _added(getattr(counted, "accumulated_metrics", {}), metrics)
    if "timeToFirstByteMs" in metrics:
        accumulated["timeToFirstByteMs"] = metrics["timeToFirstByteMs"]
    return {
        "accumulated_usage": _added(getattr(counted, "accumulated_usage", {}), usage),
        "accumulated_metrics": accumulated,
        "usage": dict(usage),
        "metrics": dict(metrics),
    }


def _loop_metrics(agent: "LocalAgent") -> EventLoopMetrics | None:
    try:
        return agent.event_loop_metrics
    except (AttributeError, NotImplementedError):  # a BidiAgent counts nothing
        return None


def _added(counted: Mapping[str, Any], call: Mapping[str, Any]) -> dict[str, Any]:
    names = dict.fromkeys([*counted, *call])
    return {name: (counted.get(name) or 0) + (call.get(name) or 0) for name in names}


class ToolUsageMeter:
    """Tells what the tools of an agent did since it was last asked; the SDK only counts totals."""

    def __init__(self, agent: "LocalAgent") -> None:
        self._counted = _tool_totals(agent)

    def since(self, agent: "LocalAgent") -> dict[str, ToolUsage]:
        """Return the calls since the last ``count``, by tool."""
        totals = _tool_totals(agent)
        used = {name: _difference(total, self._counted.get(name)) for name, total in totals.items()}
        return {name: usage for name, usage in used.items() if usage["calls"]}

    def count(self, agent: "LocalAgent") -> None:
        """Take all calls so far as counted."""
        self._counted = _tool_totals(agent)


def _tool_totals(agent: "LocalAgent") -> dict[str, ToolUsage]:
    metrics = getattr(_loop_metrics(agent), "tool_metrics", {})
    return {
        name: ToolUsage(calls=m.call_count, successes=m.success_count, errors=m.error_count, seconds=m.total_time)
        for name, m in metrics.items()
    }


def _difference(total: ToolUsage, counted: ToolUsage | None) -> ToolUsage:
    if counted is None:
        return total
    return cast(ToolUsage, {name: value - counted[name] for name, value in total.items()})  # type: ignore[literal-required]


def ends_invocation(message: Message) -> bool:
    """Tell whether a message is an answer after which no tool runs."""
    return message["role"] == "assistant" and not any("toolUse" in block for block in message["content"])


def usage_totals(calls: Iterable[Mapping[str, Any]]) -> UsageTotals:
    """Sum the ``event_loop_metrics`` of an agent's messages, in order.

    Only figures of single calls are added up. Where the first version stored accumulated ones alone, a call is
    the difference to the message before it; a smaller number than before means that the process was new.
    """
    totals = UsageTotals(model_calls=0, usage={}, metrics={}, tools={})
    before: Mapping[str, Any] = {}
    for call in calls:
        usage, metrics = call.get("usage"), call.get("metrics")
        if not (usage or metrics):
            usage, metrics = _difference_of_totals(call, before)
        before, usage, metrics = call, usage or {}, metrics or {}
        totals["model_calls"] += bool(usage or metrics)
        totals["usage"] = _added(totals["usage"], usage)
        totals["metrics"] = _added(totals["metrics"], {"latencyMs": metrics.get("latencyMs")})
        totals["tools"] = _merged_tools(totals["tools"], call.get("tool_usage") or {})
    return totals


def _difference_of_totals(call: Mapping[str, Any], before: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    usage, metrics = call.get("accumulated_usage") or {}, call.get("accumulated_metrics") or {}
    used, measured = before.get("accumulated_usage") or {}, before.get("accumulated_metrics") or {}
    if _fell(usage, used, "totalTokens") or _fell(metrics, measured, "latencyMs"):
        used = measured = {}
    return _subtracted(usage, used), _subtracted(metrics, measured)


def _fell(now: Mapping[str, Any], then: Mapping[str, Any], name: str) -> bool:
    return (now.get(name) or 0) < (then.get(name) or 0)


def _subtracted(now: Mapping[str, Any], then: Mapping[str, Any]) -> dict[str, Any]:
    return {name: (value or 0) - (then.get(name) or 0) for name, value in now.items()}


def _merged_tools(tools: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, ToolUsage]:
    return {name: _added(tools.get(name, {}), more.get(name, {})) for name in [*tools, *more]}  # type: ignore[misc]


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
