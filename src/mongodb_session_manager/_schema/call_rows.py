"""Expressions over the figures of model calls in any session document; none of them fails on any value."""

from collections.abc import Mapping
from typing import Any, Final

from .agent_rows import chosen, is_a, is_number, items_expression, joined, let, mapped, number_expression
from .nested import list_expression
from .usage import CALL_FIGURES
from .values import Stored

# The paths of the figures of a call in its metrics.
FIGURES: Final[Mapping[str, str]] = {name: ".".join(place) for name, place in CALL_FIGURES.items()}
SUMMED: Final = ("calls", *FIGURES)

_ONE: Final = {"$literal": 1}
_YES: Final = {"$literal": True}
_CALLS_BYTES: Final = 1024 * 1024


def metrics_of(agent: str) -> str:
    """Return the expression of the metrics of an agent's embedded messages."""
    return f"{agent}.messages.event_loop_metrics"


def quick_sums(metrics: str) -> Stored:
    """Return the sums of the figures of calls, without those that have accumulated figures only.

    With a figure that is not a number, a sum may be no number either.
    """
    # Along paths, it takes a tenth of the time that an expression for each message would take.
    sums: Stored = {name: {"$sum": f"{metrics}.{path}"} for name, path in FIGURES.items()}
    return {"calls": {"$size": list_expression(f"{metrics}.usage")}, **sums}


def moved_sums_expression(agent: str) -> Stored:
    """Return the sums of the figures of an agent's moved calls; null if there are none."""
    return {"$cond": [is_a(f"{agent}.moved_usage", "object"), sums_expression(_moved(agent, {})), None]}


def uncounted_calls_expression(agent: str) -> Stored:
    """Return the metrics of all calls of an agent, if some have accumulated figures only; null if not, or too large."""
    names = ("usage", "metrics", "accumulated_usage", "accumulated_metrics")
    of_call = {name: f"$$message.event_loop_metrics.{name}" for name in names}
    calls = mapped(list_expression(f"{agent}.messages"), "message", of_call)
    is_small = {"$lte": [{"$bsonSize": {"calls": "$$calls"}}, _CALLS_BYTES]}
    found = let({"calls": calls}, {"$cond": [is_small, "$$calls", None]})
    return {"$cond": [_has_first_version(agent), found, None]}


def usage_expression(agent: str) -> Stored:
    """Return the sums of the figures of an agent's calls; a figure that is not a number counts as 0."""
    is_exact = {"$and": [{"$not": [_has_first_version(agent)]}, *(is_number(f"$$quick.{name}") for name in FIGURES)]}
    exact = sums_expression({"$concatArrays": [_embedded(agent, {}), _moved(agent, {})]})
    parts = {"metrics": metrics_of(agent), "moved": moved_sums_expression(agent)}
    quick = let(parts, {name: {"$sum": [each, f"$$moved.{name}"]} for name, each in quick_sums("$$metrics").items()})
    return let({"quick": quick}, {"$cond": [is_exact, "$$quick", exact]})


def _has_first_version(agent: str) -> Stored:
    return {"$ne": [{"$ifNull": [f"{agent}.messages.message", []]}, []]}


def sums_expression(rows: Any) -> Stored:
    """Return the sums of the figures in a list of objects."""
    return let({"rows": rows}, {name: {"$sum": f"$$rows.{name}"} for name in SUMMED})


def calls_expression(agent: str, call: Mapping[str, Any], moved: Mapping[str, Any]) -> Stored:
    """Return the model calls of an agent's embedded messages, and the sums of moved ones.

    Each is an object with ``calls``, the figures and ``model``, with ``escaped`` if the model is a field name; null if
    it has no figures.

    Args:
        agent: The agent.
        call: Expressions of further fields of a call, over ``$$call``, its message.
        moved: Expressions of further fields of moved calls, over ``$$day``, their day.
    """
    embedded = _embedded(agent, {"model": "$$call.event_loop_metrics.model", **call})
    return {"$concatArrays": [embedded, _moved(agent, {"model": "$$model.k", "escaped": _YES, **moved})]}


def _embedded(agent: str, more: Mapping[str, Any]) -> Stored:
    calls = chosen(list_expression(f"{agent}.messages"), "message", is_a("$$message.event_loop_metrics", "object"))
    own = own_figures("$$call.event_loop_metrics", more)
    rows = {"$cond": [_has_first_version(agent), _counted_again(own, more), mapped("$$calls", "call", own)]}
    return let({"calls": calls}, rows)


def own_figures(metrics: str, more: Mapping[str, Any]) -> Stored:
    """Return the figures of a single call, and further fields; null if there are no figures."""
    places = ("usage", "metrics")
    own = {name: number_expression(f"$${path}") for name, path in FIGURES.items()}
    is_counted = {"$or": [_is_filled(f"$${place}") for place in places]}
    found = {"$cond": [is_counted, {"calls": _ONE, **own, **more}, None]}
    return let({place: f"{metrics}.{place}" for place in places}, found)


def _is_filled(value: str) -> Stored:
    return {"$and": [is_a(value, "object"), {"$ne": [value, {}]}]}


# The first version


def _counted_again(own: Stored, more: Mapping[str, Any]) -> Stored:
    """Return the figures of ``$$calls`` of which some have accumulated figures only.

    There a call is the difference to the message before it; a smaller figure means that a new process began to count.
    """
    metrics = "$$call.event_loop_metrics"
    is_accumulated = {"$or": [_is_filled(f"{metrics}.accumulated_{name}") for name in ("usage", "metrics")]}
    counted = {"$mergeObjects": [{"calls": _ONE, **more}, _differences()]}
    difference = {"$cond": [is_accumulated, counted, None]}
    before = {"$cond": [{"$gt": ["$$n", 0]}, {"$arrayElemAt": ["$$calls", {"$subtract": ["$$n", 1]}]}, None]}
    names = {"call": {"$arrayElemAt": ["$$calls", "$$n"]}, "before": before}
    return mapped({"$range": [0, {"$size": "$$calls"}]}, "n", let(names, {"$ifNull": [own, difference]}))


def _differences() -> Stored:
    fell = [{"$lt": [f"$$now.{name}", f"$$then.{name}"]} for name in ("total", "latency_ms")]
    since = {name: {"$max": [0, {"$subtract": [f"$$now.{name}", f"$$then.{name}"]}]} for name in FIGURES}
    figures = {"now": _accumulated("$$call"), "then": _accumulated("$$before")}
    return let(figures, {"$cond": [{"$or": fell}, "$$now", since]})


def _accumulated(message: str) -> Stored:
    metrics = f"{message}.event_loop_metrics.accumulated_"
    return {name: number_expression(f"{metrics}{path}") for name, path in FIGURES.items()}


# Moved calls


def _moved(agent: str, more: Mapping[str, Any]) -> Stored:
    figures = {"$arrayToObject": chosen(items_expression("$$model.v"), "figure", is_number("$$figure.v"))}
    of_day = mapped(items_expression("$$day.v"), "model", {"$mergeObjects": [figures, more]} if more else figures)
    return joined(items_expression(f"{agent}.moved_usage"), "day", of_day)
