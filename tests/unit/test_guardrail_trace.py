"""What is kept of Bedrock's guardrail traces."""

import copy
import json
from typing import Any

import pytest

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
