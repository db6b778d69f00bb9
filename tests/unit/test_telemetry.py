"""What the library makes of the SDK's figures and of Bedrock's guardrail traces, without a database."""

import copy
import json
import math
from decimal import Decimal
from types import SimpleNamespace
from typing import Any, cast

import pytest
from strands.types.content import Message

from mongodb_session_manager import types
from mongodb_session_manager._history.call_metrics import call_metrics, ends_invocation
from mongodb_session_manager._schema.usage import sum_of_totals, usage_totals
from mongodb_session_manager._session.guardrail_trace import policies_triggered

SECRET = "my number is 555-0199"

TOPICS = {"topicPolicy": {"topics": [{"name": "Fiduciary Advice", "type": "DENY", "action": "BLOCKED"}]}}
CONTENT = {
    "contentPolicy": {
        "filters": [
            {"type": "HATE", "confidence": "HIGH", "filterStrength": "LOW", "action": "BLOCKED", "detected": True},
            {"type": "VIOLENCE", "confidence": "MEDIUM", "action": "BLOCKED"},
            {"type": "INSULTS", "confidence": "LOW", "action": "NONE", "detected": False},
        ]
    }
}
WORDS = {
    "wordPolicy": {
        "customWords": [{"match": SECRET, "action": "BLOCKED"}],
        "managedWordLists": [{"match": SECRET, "type": "PROFANITY", "action": "BLOCKED"}],
    }
}
SENSITIVE = {
    "sensitiveInformationPolicy": {
        "piiEntities": [
            {"match": SECRET, "type": "PHONE", "action": "ANONYMIZED"},
            {"match": SECRET, "type": "PHONE", "action": "ANONYMIZED"},
        ],
        "regexes": [{"name": "order number", "match": SECRET, "regex": "[0-9]+", "action": "BLOCKED"}],
    }
}
GROUNDING = {
    "contextualGroundingPolicy": {
        "filters": [
            {"type": "GROUNDING", "threshold": 0.7, "score": 0.1, "action": "BLOCKED"},
            {"type": "RELEVANCE", "threshold": 0.7, "score": 0.9, "action": "NONE"},
        ]
    }
}
INVOCATION = {"invocationMetrics": {"guardrailProcessingLatency": 5, "usage": {"topicPolicyUnits": 1}}}


def trace(assessment: dict[str, Any], where: str) -> dict[str, Any]:
    """A trace as Bedrock's Converse sends it."""
    if where == "input":
        return {"modelOutput": [SECRET], "inputAssessment": {"guardrail-1": assessment}}
    return {"modelOutput": [SECRET], "outputAssessments": {"guardrail-1": [assessment]}}


@pytest.mark.parametrize(
    ("assessment", "summary"),
    [
        (TOPICS, {"topicPolicy": ["Fiduciary Advice"]}),
        (CONTENT, {"contentPolicy": ["HATE/HIGH", "VIOLENCE/MEDIUM"]}),
        (WORDS, {"wordPolicy": ["customWords", "PROFANITY"]}),
        (SENSITIVE, {"sensitiveInformationPolicy": ["PHONE", "order number"]}),
        (GROUNDING, {"contextualGroundingPolicy": ["GROUNDING"]}),
        (INVOCATION, {}),
        (
            {**TOPICS, **CONTENT, **WORDS, **INVOCATION},
            {
                "topicPolicy": ["Fiduciary Advice"],
                "contentPolicy": ["HATE/HIGH", "VIOLENCE/MEDIUM"],
                "wordPolicy": ["customWords", "PROFANITY"],
            },
        ),
    ],
    ids=["topics", "content", "words", "sensitive", "grounding", "none", "several"],
)
@pytest.mark.parametrize("where", ["input", "output"])
@pytest.mark.parametrize("wrapped_in", [(), ("guardrail",), ("trace", "guardrail")], ids=str)
def test_every_policy_of_bedrock_is_summarised(
    assessment: dict[str, Any], summary: dict[str, list[str]], where: str, wrapped_in: tuple[str, ...]
) -> None:
    given = trace(assessment, where)
    for name in reversed(wrapped_in):
        given = {name: given}
    before = copy.deepcopy(given)

    found = policies_triggered(given)

    assert found == summary
    assert SECRET not in json.dumps(found)
    assert given == before


def test_automated_reasoning_is_summarised() -> None:
    findings = [{"invalid": {"translation": {"premises": [{"naturalLanguage": SECRET}]}}}, {"valid": {}}]

    found = policies_triggered(trace({"automatedReasoningPolicy": {"findings": findings}}, "output"))

    assert found.get("automatedReasoningPolicy", [])[:1] == ["invalid"]
    assert SECRET not in json.dumps(found)


def test_findings_of_several_assessments_are_joined() -> None:
    given = {
        "inputAssessment": {"one": CONTENT, "two": TOPICS},
        "outputAssessments": {
            "one": [CONTENT, GROUNDING],
            "two": [{"contentPolicy": {"filters": [{"type": "SEXUAL"}]}}],
        },
    }

    assert policies_triggered(given) == {
        "contentPolicy": ["HATE/HIGH", "VIOLENCE/MEDIUM", "SEXUAL"],
        "topicPolicy": ["Fiduciary Advice"],
        "contextualGroundingPolicy": ["GROUNDING"],
    }


MALFORMED: list[Any] = [
    None,
    "text",
    5,
    [],
    [CONTENT],
    {},
    {"guardrail": None},
    {"guardrail": "text"},
    {"trace": [1]},
    {"inputAssessment": None},
    {"inputAssessment": [CONTENT]},
    {"inputAssessment": {"g": None}},
    {"inputAssessment": {"g": [CONTENT]}},
    {"outputAssessments": {"g": CONTENT}},
    {"outputAssessments": {"g": [None, 5, "text"]}},
    trace({"contentPolicy": None}, "input"),
    trace({"contentPolicy": []}, "input"),
    trace({"contentPolicy": {"filters": None}}, "input"),
    trace({"contentPolicy": {"filters": {"type": "HATE"}}}, "input"),
    trace({"contentPolicy": {"filters": [None, 5, "HATE", []]}}, "input"),
    trace({"unknownPolicy": {"filters": [{"type": "HATE", "action": "BLOCKED"}]}}, "input"),
    trace({"contentPolicy": {"unknown": [{"type": "HATE", "action": "BLOCKED"}]}}, "input"),
]


@pytest.mark.parametrize("given", MALFORMED, ids=str)
def test_a_trace_of_another_form_is_passed_over(given: Any) -> None:
    assert policies_triggered(given) == {}


@pytest.mark.parametrize("finding", [{}, {"type": None}, {"confidence": ""}, {"action": "BLOCKED"}], ids=str)
def test_a_finding_without_a_name_is_told_by_its_kind(finding: dict[str, Any]) -> None:
    assert policies_triggered(trace({"contentPolicy": {"filters": [finding]}}, "input")) == {
        "contentPolicy": ["filters"]
    }


# Metrics


def answer(**metadata: Any) -> Message:
    content = [{"text": "Okay."}]
    return cast(Message, {"role": "assistant", "content": content, **({"metadata": metadata} if metadata else {})})


def agent(usage: Any = None, metrics: Any = None) -> Any:
    counted = SimpleNamespace(
        accumulated_usage=usage or {"inputTokens": 0, "outputTokens": 0, "totalTokens": 0},
        accumulated_metrics=metrics or {"latencyMs": 0},
    )
    return SimpleNamespace(event_loop_metrics=counted)


USAGE = {"inputTokens": 10, "outputTokens": 5, "totalTokens": 15}


@pytest.mark.parametrize(
    ("live", "metadata", "usage", "metrics"),
    [
        (agent(), {"usage": USAGE, "metrics": {"latencyMs": 3}}, USAGE, {"latencyMs": 3}),
        (
            agent({**USAGE, "cacheReadInputTokens": 1}, {"latencyMs": 7}),
            {"usage": {**USAGE, "cacheWriteInputTokens": 2}, "metrics": {"latencyMs": 3, "timeToFirstByteMs": 2}},
            {
                "inputTokens": 20,
                "outputTokens": 10,
                "totalTokens": 30,
                "cacheReadInputTokens": 1,
                "cacheWriteInputTokens": 2,
            },
            {"latencyMs": 10, "timeToFirstByteMs": 2},
        ),
        (
            agent(USAGE, {"latencyMs": 7}),
            {"usage": USAGE},
            {name: 2 * n for name, n in USAGE.items()},
            {"latencyMs": 7},
        ),
        (SimpleNamespace(), {"usage": USAGE, "metrics": {"latencyMs": 3}}, USAGE, {"latencyMs": 3}),
    ],
    ids=["first call", "second call", "no metrics", "an agent that does not count"],
)
def test_the_call_is_added_to_what_was_counted(live: Any, metadata: Any, usage: Any, metrics: Any) -> None:
    found = call_metrics(answer(**metadata), live)

    assert found == {
        "accumulated_usage": usage,
        "accumulated_metrics": metrics,
        "usage": metadata["usage"],
        "metrics": metadata.get("metrics", {}),
    }


@pytest.mark.parametrize(
    "message",
    [
        answer(),
        answer(custom={"a": 1}),
        answer(usage={}, metrics={}),
        {"role": "user", "content": [], "metadata": {"usage": USAGE, "metrics": {"latencyMs": 3}}},
    ],
    ids=["no metadata", "custom", "empty", "user"],
)
def test_messages_that_no_call_brought_have_none(message: Message) -> None:
    assert call_metrics(message, agent()) is None


@pytest.mark.parametrize(
    ("role", "content", "expected"),
    [
        ("assistant", [{"text": "Done."}], True),
        ("assistant", [], True),
        ("assistant", [{"text": "Let me see."}, {"toolUse": {}}], False),
        ("user", [{"text": "Hi"}], False),
    ],
)
def test_what_ends_an_invocation(role: str, content: Any, expected: bool) -> None:
    assert ends_invocation(cast(Message, {"role": role, "content": content})) is expected


# Totals


def test_totals_of_no_calls() -> None:
    assert usage_totals([]) == sum_of_totals([]) == {"model_calls": 0, "usage": {}, "metrics": {}, "tools": {}}


def test_totals_of_mixed_calls() -> None:
    old = {"accumulated_usage": {"totalTokens": 20}, "accumulated_metrics": {"latencyMs": 3}}
    older = {"accumulated_usage": {"totalTokens": 50}, "accumulated_metrics": {"latencyMs": 4}}
    new = {"usage": {"totalTokens": 15}, "metrics": {"latencyMs": 1}, "accumulated_usage": {"totalTokens": 15}}
    tools = {"tool_usage": {"look_up": {"calls": 2, "successes": 1, "errors": 1, "seconds": 0.5}}}

    found = usage_totals([old, older, {**new, **tools}, {**new, "accumulated_usage": {"totalTokens": 30}}, tools])

    assert found == {
        "model_calls": 4,
        "usage": {"totalTokens": 80},
        "metrics": {"latencyMs": 6},
        "tools": {"look_up": {"calls": 4, "successes": 2, "errors": 2, "seconds": 1.0}},
    }
    assert sum_of_totals([found, found])["usage"] == {"totalTokens": 160}


@pytest.mark.parametrize(
    "call", [{}, {"usage": None, "metrics": None}, {"accumulated_usage": {}}, {"unknown": 1}], ids=str
)
def test_metrics_without_figures_are_no_call(call: dict[str, Any]) -> None:
    assert usage_totals([call])["model_calls"] == 0


# Constants


def test_the_stop_reasons_are_those_of_the_sdk() -> None:
    from typing import get_args

    from strands.types.event_loop import StopReason

    assert types.GUARDRAIL_INTERVENED == "guardrail_intervened"
    assert types.CONTENT_FILTERED == "content_filtered"
    assert {types.GUARDRAIL_INTERVENED, types.CONTENT_FILTERED} == types.GUARDRAIL_STOP_REASONS
    assert set(get_args(StopReason)) >= types.GUARDRAIL_STOP_REASONS


# Figures that are none


DETAILS = [{"ttl": "5m", "inputTokens": 8}]


@pytest.mark.parametrize("odd", [None, True, "5", DETAILS, {"a": "b"}, math.nan, math.inf, 1j, Decimal(1)], ids=str)
def test_only_finite_numbers_are_added_up(odd: Any) -> None:
    calls = [
        {"usage": {"inputTokens": 1, "odd": 2}, "metrics": {"latencyMs": 1.5}, "tool_usage": {"t": {"calls": 1}}},
        {"usage": {"inputTokens": 2, "odd": odd, "x": odd}, "metrics": {"latencyMs": odd}, "tool_usage": {"t": odd}},
        {"usage": odd, "metrics": odd, "tool_usage": odd},
        odd,
    ]

    totals = usage_totals(cast(Any, calls))

    assert totals["usage"] == {"inputTokens": 3, "odd": 2}
    assert totals["metrics"] == {"latencyMs": 1.5}
    assert totals["tools"] == {"t": {"calls": 1}}
    assert sum_of_totals([totals, totals])["usage"] == {"inputTokens": 6, "odd": 4}


@pytest.mark.parametrize("odd", [None, True, "5", DETAILS, {"a": "b"}, math.nan, math.inf], ids=str)
def test_only_finite_numbers_of_the_first_version_are_added_up(odd: Any) -> None:
    calls = [
        {"accumulated_usage": {"totalTokens": 10, "cacheDetails": DETAILS, "x": odd}, "accumulated_metrics": odd},
        {"accumulated_usage": {"totalTokens": 30, "cacheDetails": DETAILS * 2, "x": 5}, "accumulated_metrics": odd},
        {"accumulated_usage": {"totalTokens": odd, "cacheDetails": odd, "x": odd}},
        {"accumulated_usage": odd},
    ]

    totals = usage_totals(cast(Any, calls))

    assert totals["usage"] == {"totalTokens": 30, "x": 5}


def test_sums_stay_finite() -> None:
    calls = [{"usage": {"a": 1.7e308, "b": 10**400, "c": 10**400}}, {"usage": {"a": 1.7e308, "b": 1, "c": 0.5}}]

    assert usage_totals(calls)["usage"] == {"a": 1.7e308, "b": 10**400 + 1, "c": 10**400}
