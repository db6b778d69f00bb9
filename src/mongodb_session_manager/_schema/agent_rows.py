"""Expressions over the agents of any session document, of whatever shape; none of them fails on any value."""

from collections.abc import Mapping
from typing import Any, Final

from .ids import MAX_KEY_LEVELS
from .nested import list_expression
from .values import Pipeline, Stored

# Fields of an agent that are objects but not nested agents.
_OF_AGENT: Final = ["agent_data", "guard", "live", "moved_usage"]
# The largest whole number that a double holds. A larger number, or NaN, would spoil every sum.
_MOST: Final = 2**53
# A text with lone surrogates cannot be cut by the server.
_MARKED_BYTES: Final = 16 * 1024
_TIME_BYTES: Final = 64


def is_a(value: str, kind: str) -> Stored:
    """Return the condition that a value has a type."""
    return {"$eq": [{"$type": value}, kind]}


def only_if(value: str, kind: str, otherwise: Any = None) -> Stored:
    """Return a value of a type; ``otherwise`` for a value of another type."""
    return {"$cond": [is_a(value, kind), value, otherwise]}


def text_expression(value: str, most_bytes: int) -> Stored:
    """Return a text that is not too long; null otherwise."""
    return {"$cond": [is_short_text(value, most_bytes), value, None]}


def is_short_text(value: str, most_bytes: int) -> Stored:
    """Return the condition that a value is a text that is not too long."""
    return {"$cond": [is_a(value, "string"), {"$lte": [{"$strLenBytes": value}, most_bytes]}, False]}


def items_expression(value: str) -> Stored:
    """Return the fields of an object; an empty list for another value."""
    return {"$cond": [is_a(value, "object"), {"$objectToArray": value}, []]}


def number_expression(value: str) -> Stored:
    """Return a number between 0 and 2^53; 0 for any other value."""
    # In BSON's order, NaN is before all numbers, and values of other types are before or after them.
    return {"$cond": [is_number(value), value, 0]}


def is_number(value: str) -> Stored:
    """Return the condition that a value is a number between 0 and 2^53."""
    return {"$and": [{"$gte": [value, 0]}, {"$lte": [value, _MOST]}]}


def time_expression(value: str) -> Stored:
    """Return a time, or a text that may be one; null for another value."""
    return {"$cond": [is_a(value, "date"), value, text_expression(value, _TIME_BYTES)]}


def date_expression(value: str) -> Stored:
    """Return a time, also one from a text, as the first version could store it; null for another value."""
    of_text = {"$convert": {"input": value, "to": "date", "onError": None, "onNull": None}}
    return {"$cond": [is_a(value, "date"), value, {"$cond": [is_a(value, "string"), of_text, None]}]}


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


def found_agents_pipeline(**more: Any) -> Pipeline:
    """Return the stage that lists the agents as ``found``: ``{k, v}``, ``k`` with dots for a nested one.

    Args:
        **more: Expressions of further fields.
    """
    direct = chosen("$$level0", "each", is_a("$$each.v.agent_data", "object"))
    has_inner = any_of("$$level0", "each", any_of(items_expression("$$each.v"), "field", _IS_INNER))
    nested = {"$cond": [has_inner, _nested_agents(), []]}
    found = let({"level0": items_expression("$agents")}, {"$concatArrays": [direct, nested]})
    return [{"$set": {"found": found, **more}}]


# A value that may be an agent, or hold some.
_IS_INNER: Final = {"$and": [{"$not": [{"$in": ["$$field.k", _OF_AGENT]}]}, is_a("$$field.v", "object")]}
_LEVELS: Final = MAX_KEY_LEVELS - 1


def _nested_agents() -> Stored:
    """Return the agents below ``$$level0`` that are not stored there too."""
    key = {"$replaceAll": {"input": "$$each.k", "find": ".", "replacement": "%2E"}}
    is_own = {"$in": [key, mapped("$$level0", "other", "$$other.k")]}
    deeper = {"all": {"$concatArrays": ["$$value.all", "$$inner"]}, "level": "$$inner"}
    below = {"$cond": [{"$eq": ["$$value.level", []]}, "$$value", let({"inner": _nested_in("$$value.level")}, deeper)]}
    levels = {"$reduce": {"input": [0] * _LEVELS, "initialValue": {"all": [], "level": "$$level0"}, "in": below}}
    is_nested = {"$and": [is_a("$$each.v.agent_data", "object"), {"$not": [is_own]}]}
    return let({"levels": levels}, chosen("$$levels.all", "each", is_nested))


def _nested_in(level: str) -> Stored:
    """Return the fields of the values of a level that may be agents, with their keys joined."""
    fields = chosen(items_expression("$$each.v"), "field", _IS_INNER)
    inner = mapped(fields, "field", {"k": {"$concat": ["$$each.k", ".", "$$field.k"]}, "v": "$$field.v"})
    return joined(level, "each", inner)


def message_count(agent: str) -> Stored:
    """Return the number of an agent's messages, embedded and moved."""
    return {"$add": [{"$size": list_expression(f"{agent}.messages")}, number_expression(f"{agent}.moved_count")]}


def named_by(message_id: Any) -> Stored:
    """Return the condition that ``$$each``, a reference to a segment, names a message."""
    return {
        "$and": [
            is_a("$$each._id", "objectId"),
            {"$lte": ["$$each.first_id", message_id]},
            {"$gte": ["$$each.last_id", message_id]},
        ]
    }


# Texts


def role_expression(message: str) -> Stored:
    """Return the role of a message, also of one of the first version."""
    return {"$ifNull": [f"{message}.role", f"{message}.message.role"]}


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
