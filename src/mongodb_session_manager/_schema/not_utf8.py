"""Texts that are not UTF-8, as other drivers can store them: pipelines that no such text ends, and marks of them."""

from typing import Any, Final

from .agent_rows import let
from .values import Pipeline, Stored

# Where a text may be cut without a look at its characters: before one of these.
_BREAKS: Final = (" ", "\n", ",", ".", "\u3001", "\u3002", "\uff0c")
_BYTES_OF_CHARACTER: Final = 4
NOT_UTF8: Final = "is_not_utf8"


def lenient_pipeline(pipeline: Pipeline) -> Pipeline:
    """Return a pipeline that cuts texts by bytes: at a break, or not at all; a long text without a break is null."""
    return [_lenient(stage) for stage in pipeline]


def _lenient(value: Any) -> Any:
    if isinstance(value, list):
        return [_lenient(each) for each in value]
    if not isinstance(value, dict):
        return value
    if "$substrCP" in value:
        text, _, most = value["$substrCP"]
        return _cut(text, most * _BYTES_OF_CHARACTER)
    return {name: _lenient(each) for name, each in value.items()}


def _cut(text: str, most_bytes: int) -> Stored:
    ends = [{"$indexOfBytes": [text, each, most_bytes, 2 * most_bytes]} for each in _BREAKS]
    # A text that begins with a continuation byte cannot be cut.
    begins_inside = {"$and": [{"$gte": [text, "\x7f"]}, {"$lt": [text, "\x80"]}]}
    can_cut = {"$and": [{"$gt": ["$$end", 0]}, {"$not": [begins_inside]}]}
    beginning = {"$cond": [can_cut, {"$substrBytes": [text, 0, "$$end"]}, None]}
    is_short = {"$lte": [{"$strLenBytes": text}, most_bytes]}
    return {"$cond": [is_short, text, let({"end": {"$max": ends}}, beginning)]}


def marked(row: Stored) -> Stored:
    """Return a row with U+FFFD in place of bytes that came as lone surrogates, and a mark if there are some."""
    replaced: Stored = _replaced(row)
    return row if replaced == row else {**replaced, NOT_UTF8: True}


def _replaced(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    if isinstance(value, dict):
        return {_replaced(name): _replaced(each) for name, each in value.items()}
    return [_replaced(each) for each in value] if isinstance(value, list) else value
