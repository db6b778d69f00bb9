"""Expressions over the agents of any session document, of whatever shape; none of them fails on any value."""

from collections.abc import Mapping
from typing import Any, Final

from .nested import list_expression
from .values import Pipeline, Stored

# Fields of an agent that are objects but not nested agents.
_OF_AGENT: Final = ["agent_data", "guard", "live", "moved_usage"]
# The first version nested an agent whose id has dots, a level for each part.
_LEVELS: Final = 4
# The largest whole number that a double holds. A larger figure, or NaN, would spoil every sum.
_MOST: Final = 2**53
# A text with lone surrogates cannot be cut by the server.
_MARKED_BYTES: Final = 16 * 1024
_TIME_BYTES: Final = 64

# The figures of a call: their names here, and their paths in its metrics.
FIGURES: Final[Mapping[str, str]] = {
    "input": "usage.inputTokens",
    "output": "usage.outputTokens",
    "total": "usage.totalTokens",
    "cache_read": "usage.cacheReadInputTokens",
    "cache_write": "usage.cacheWriteInputTokens",
    "latency_ms": "metrics.latencyMs",
}


def is_a(value: str, kind: str) -> Stored:
    """Return the condition that a value has a type."""
    return {"$eq": [{"$type": value}, kind]}


def only_if(value: str, kind: str, otherwise: Any = None) -> Stored:
    """Return a value of a type; ``otherwise`` for a value of another type."""
    return {"$cond": [is_a(value, kind), value, otherwise]}


def text_expression(value: str, most_bytes: int) -> Stored:
    """Return a text that is not too long; null otherwise."""
    is_short = {"$cond": [is_a(value, "string"), {"$lte": [{"$strLenBytes": value}, most_bytes]}, False]}
    return {"$cond": [is_short, value, None]}


def items_expression(value: str) -> Stored:
    """Return the fields of an object; an empty list for another value."""
    return {"$cond": [is_a(value, "object"), {"$objectToArray": value}, []]}


def number_expression(value: Any) -> Stored:
    """Return a number between 0 and 2^53; 0 for what is not a number."""
    # A sum over one value would be one over the items of a list.
    return {"$max": [0, {"$min": [{"$sum": [value, 0]}, _MOST]}]}


def time_expression(value: str) -> Stored:
    """Return a time, or a text that may be one; null for another value."""
    return {"$cond": [is_a(value, "date"), value, text_expression(value, _TIME_BYTES)]}


def let(names: Mapping[str, Any], within: Any) -> Stored:
    """Return an expression with variables."""
    return {"$let": {"vars": dict(names), "in": within}}


def mapped(values: Any, name: str, each: Any) -> Stored:
    """Return what an expression gives for each item of a list."""
    return {"$map": {"input": values, "as": name, "in": each}}


def chosen(values: Any, name: str, condition: Any) -> Stored:
    """Return the items of a list for which a condition holds."""
    return {"$filter": {"input": values, "as": name, "cond": condition}}


def joined(values: Any, name: str, each: Any) -> Stored:
    """Return the lists that an expression gives for each item of a list, as one list."""
    added = {"$concatArrays": ["$$value", let({name: "$$this"}, each)]}
    return {"$reduce": {"input": values, "initialValue": [], "in": added}}


def any_of(values: Any, name: str, condition: Any) -> Stored:
    """Return whether a condition holds for an item of a list."""
    return {"$anyElementTrue": [mapped(values, name, condition)]}


# Agents


def found_agents_pipeline() -> Pipeline:
    """Return the stages that list the agents as ``found``: ``{k, v}``, ``k`` with dots for a nested one.

    ``others`` tells whether a field of ``agents`` is no object; ``bytes`` is the size of the document.
    """
    is_other = {"$ne": [{"$type": "$$each.v"}, "object"]}
    top = {"level0": items_expression("$agents"), "bytes": {"$bsonSize": "$$ROOT"}}
    stages: Pipeline = [{"$set": top}]
    for level in range(1, _LEVELS):
        stages.append({"$set": {f"level{level}": _nested_in(f"$level{level - 1}")}})
    deeper = {"$concatArrays": [f"$level{level}" for level in range(1, _LEVELS)]}
    names = mapped("$level0", "each", "$$each.k")
    own = {"$in": [{"$replaceAll": {"input": "$$each.k", "find": ".", "replacement": "%2E"}}, "$$names"]}
    nested = let(
        {"names": names}, chosen("$$deeper", "each", {"$and": [is_a("$$each.v.agent_data", "object"), {"$not": [own]}]})
    )
    direct = chosen("$level0", "each", is_a("$$each.v.agent_data", "object"))
    found = let(
        {"deeper": deeper},
        {"$concatArrays": [direct, {"$cond": [{"$eq": ["$$deeper", []]}, [], nested]}]},
    )
    others = {"$anyElementTrue": [mapped("$level0", "each", is_other)]}
    return [*stages, {"$set": {"found": found, "others": others}}]


def _nested_in(level: str) -> Stored:
    fields = chosen(
        items_expression("$$each.v"),
        "field",
        {"$and": [is_a("$$field.v", "object"), {"$not": [{"$in": ["$$field.k", _OF_AGENT]}]}]},
    )
    key = {"$concat": ["$$each.k", ".", "$$field.k"]}
    inner = mapped(fields, "field", {"k": key, "v": "$$field.v"})
    return joined(level, "each", inner)


def message_count(agent: str) -> Stored:
    """Return the number of an agent's messages, embedded and moved."""
    return {"$add": [{"$size": list_expression(f"{agent}.messages")}, number_expression(f"{agent}.moved_count")]}


# Figures


def calls_expression(agent: str, day: Mapping[str, Any] | None = None) -> Stored:
    """Return the model calls of an agent's embedded messages, and the sums of moved ones.

    Each is an object with ``calls``, the figures and ``model``, with ``escaped`` if the model is a field name. The
    first version stored only accumulated figures: there a call is the difference to the message before it, and a
    smaller figure means that a new process began to count.

    Args:
        agent: The agent.
        day: The expressions of further fields, over ``$$call`` for the message of a call, and over ``$$day`` for the
            day of moved calls; by ``"call"`` and ``"moved"``.
    """
    more = day or {"call": {}, "moved": {}}
    calls = chosen(list_expression(f"{agent}.messages"), "message", is_a("$$message.event_loop_metrics", "object"))
    one = let(
        {"call": {"$arrayElemAt": ["$$calls", "$$n"]}, "before": _before()},
        {"$mergeObjects": [_figures_of_call(), {"model": "$$call.event_loop_metrics.model"}, more["call"]]},
    )
    embedded = let({"calls": calls}, mapped({"$range": [0, {"$size": "$$calls"}]}, "n", one))
    return {"$concatArrays": [embedded, _moved(agent, more["moved"])]}


def _before() -> Stored:
    return {"$cond": [{"$gt": ["$$n", 0]}, {"$arrayElemAt": ["$$calls", {"$subtract": ["$$n", 1]}]}, None]}


def _figures_of_call() -> Stored:
    metrics = "$$call.event_loop_metrics"
    is_accumulated = {"$or": [_is_filled(f"{metrics}.accumulated_{name}") for name in ("usage", "metrics")]}
    differences = {"$cond": [is_accumulated, {"calls": {"$literal": 1}, **_differences()}, None]}
    return {"$ifNull": [own_figures(metrics), {"$ifNull": [differences, {"calls": {"$literal": 0}}]}]}


def own_figures(metrics: str) -> Stored:
    """Return the figures of a single call; null if there are none."""
    own = {name: number_expression(f"{metrics}.{path}") for name, path in FIGURES.items()}
    is_counted = {"$or": [_is_filled(f"{metrics}.usage"), _is_filled(f"{metrics}.metrics")]}
    return {"$cond": [is_counted, {"calls": {"$literal": 1}, **own}, None]}


def _is_filled(value: str) -> Stored:
    return {"$and": [is_a(value, "object"), {"$ne": [value, {}]}]}


def _differences() -> Stored:
    def accumulated(message: str, path: str) -> Stored:
        return number_expression(f"{message}.event_loop_metrics.accumulated_{path}")

    def fell(name: str) -> Stored:
        return {"$lt": [accumulated("$$call", FIGURES[name]), accumulated("$$before", FIGURES[name])]}

    begins = {"$or": [fell("total"), fell("latency_ms")]}

    def difference(path: str) -> Stored:
        then = {"$cond": [begins, 0, accumulated("$$before", path)]}
        return number_expression({"$subtract": [accumulated("$$call", path), then]})

    return {name: difference(path) for name, path in FIGURES.items()}


def _moved(agent: str, more: Stored) -> Stored:
    figures = {name: number_expression(f"$$model.v.{name}") for name in ("calls", *FIGURES)}
    row = {**figures, "model": "$$model.k", "escaped": {"$literal": True}, **more}
    of_day = mapped(items_expression("$$day.v"), "model", row)
    return joined(items_expression(f"{agent}.moved_usage"), "day", of_day)


def sums_expression(rows: str) -> Stored:
    """Return the sums of the figures of calls."""
    return {name: {"$sum": f"{rows}.{name}"} for name in ("calls", *FIGURES)}


# Texts


def content_expression(message: str) -> Stored:
    """Return the content of a message, also of one of the first version; of a redacted one, the redaction."""
    first_version = {"$ifNull": [f"{message}.redact_message.content", f"{message}.message.content"]}
    return {"$ifNull": [f"{message}.content", first_version]}


def texts_expression(message: str, most: int) -> Stored:
    """Return the beginnings of the texts of a message; a text with lone surrogates as the binary of its mark."""
    texts = mapped(list_expression("$$content"), "block", _text(most))
    return let({"content": content_expression(message)}, chosen(texts, "text", {"$ne": ["$$text", None]}))


def _text(most: int) -> Stored:
    mark = "$$block.text.%text"
    is_short = {"$cond": [is_a(mark, "binData"), {"$lte": [{"$binarySize": mark}, _MARKED_BYTES]}, False]}
    branches = [
        {"case": is_a("$$block.text", "string"), "then": {"$substrCP": ["$$block.text", 0, most]}},
        {"case": is_short, "then": mark},
    ]
    return {"$switch": {"branches": branches, "default": None}}
