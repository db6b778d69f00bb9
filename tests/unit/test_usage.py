"""Figures added up."""

import math
from decimal import Decimal
from typing import Any, cast

import pytest

from mongodb_session_manager._schema.usage import sum_of_totals, usage_totals


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


# Figures that are not numbers


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
