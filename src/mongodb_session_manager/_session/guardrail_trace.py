"""The findings of a Bedrock guardrail, without the text."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .._schema.ids import now
from .._schema.usage import observed
from .._schema.values import encode

# Bedrock's policies, the lists of their findings, and the fields that name a finding. Unlike "match", these fields
# do not quote the conversation.
_FINDINGS: dict[str, dict[str, tuple[str, ...]]] = {
    "topicPolicy": {"topics": ("name",)},
    "contentPolicy": {"filters": ("type", "confidence")},
    "wordPolicy": {"customWords": (), "managedWordLists": ("type",)},
    "sensitiveInformationPolicy": {"piiEntities": ("type",), "regexes": ("name",)},
    "contextualGroundingPolicy": {"filters": ("type",)},
    "automatedReasoningPolicy": {"findings": ()},
}


def guardrail_event(
    action: str, stop_reason: str | None, trace: Mapping[str, Any] | None, label: str
) -> dict[str, Any]:
    """Return what is recorded of a redaction, as it is stored.

    Args:
        action: What the guardrail did.
        stop_reason: Why the model stopped, if that is known.
        trace: Amazon Bedrock's trace, if there is one.
        label: What the agent is called in errors.

    Raises:
        UnstorableValueError: ``action`` or ``stop_reason`` would not come back equal.
    """
    event: dict[str, Any] = {"action": action, "timestamp": now()}
    if stop_reason is not None:
        event["stop_reason"] = stop_reason
    if trace is not None:
        event["policies_triggered"] = policies_triggered(trace)
    stored: dict[str, Any] = encode(event, f"{label}, guardrail event")
    return stored


def policies_triggered(trace: object) -> dict[str, list[str]]:
    """Summarise a Bedrock guardrail trace as ``{policy: ["HATE/HIGH", …]}``, without the text.

    Args:
        trace: ``{"inputAssessment": …, "outputAssessments": …}``, also inside ``{"guardrail": …}`` or
            ``{"trace": …}``. Another form is ignored.
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
        return "/".join(map(str, finding))  # each is an object with one key, which names the finding
    return "/".join(str(value) for name in fields if (value := _get(finding, name))) or kind
