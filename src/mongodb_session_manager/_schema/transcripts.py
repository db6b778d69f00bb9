"""Pipelines that read pages of a history, and single content blocks, from sessions of whatever shape."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from .agent_rows import (
    chosen,
    content_expression,
    is_a,
    items_expression,
    let,
    mapped,
    named_by,
    only_if,
    role_expression,
    text_expression,
    time_expression,
)
from .call_rows import own_figures
from .catalog_filter import Conditions, living_session_filter
from .ids import agent_path
from .nested import lifted_pipeline, list_expression
from .values import Pipeline, Stored

# A larger block is a mark in a transcript.
PART_BYTES: Final = 32 * 1024
MOST_BYTES: Final = 8 * 1024 * 1024
_NAME_BYTES: Final = 8 * 1024
# Of one block; a block of Strands has one.
_MOST_KEYS: Final = 8
# How the content of ``$$message`` is stored.
_FORM: Final[Stored] = {
    "escaped": {"$ne": [{"$type": "$$message.escaped"}, "missing"]},
    "is_first_version": is_a("$$message.message", "object"),
    "has_files": {"$ne": [{"$type": "$$message.files"}, "missing"]},
}


def transcript_pipeline(
    session_id: str,
    agent_id: str,
    conditions: Iterable[Conditions],
    limit: int,
    before: int | None,
    most_bytes: int,
) -> Pipeline:
    """Return the aggregation that reads the latest embedded messages before an id, and what else there is.

    ``is_there`` tells whether the session holds the agent, ``older`` how many embedded messages come before the page,
    ``segments`` are the references to segments with messages before the id.
    """
    path = f"${agent_path(agent_id)}"
    messages = list_expression(f"{path}.messages")
    start = {"$max": [0, {"$subtract": ["$end", limit]}]}
    page = {
        "$cond": [
            {"$gt": ["$end", 0]},
            {"$slice": ["$messages", "$start", {"$max": [1, {"$subtract": ["$end", "$start"]}]}]},
            [],
        ]
    }
    return [
        {"$match": living_session_filter(session_id, conditions)},
        *lifted_pipeline(agent_id),
        {
            "$project": {
                "instance": "$instance",
                "is_there": is_a(f"{path}.agent_data", "object"),
                "segments": _references(path, before),
                "messages": messages,
            }
        },
        {"$set": {"end": _end(before)}},
        {"$set": {"start": start}},
        {"$project": {**dict.fromkeys(("instance", "is_there", "segments", "start"), 1), "page": page}},
        *_page_stages("$page", most_bytes),
    ]


def _end(before: int | None) -> Any:
    """Return the number of embedded messages before an id; their ids may be in any order."""
    count = {"$size": "$messages"}
    if before is None:
        return count
    ids = mapped("$messages", "message", {"$ifNull": ["$$message.message_id", None]})
    older = {"$size": chosen("$$ids", "id", {"$and": [{"$isNumber": "$$id"}, {"$lt": ["$$id", before]}]})}
    found = {"$indexOfArray": ["$$ids", before]}
    return let({"ids": ids}, {"$cond": [{"$gte": [found, 0]}, found, older]})


def _references(path: str, before: int | None) -> Stored:
    is_older: list[Any] = [
        is_a("$$each._id", "objectId"),
        _is_whole("$$each.last_id"),
        _is_whole("$$each.count"),
    ]
    if before is not None:
        is_older.append({"$lt": ["$$each.first_id", before]})
    return chosen(list_expression(f"{path}.segments"), "each", {"$and": is_older})


def _is_whole(value: str) -> Stored:
    return {"$in": [{"$type": value}, ["int", "long"]]}


def segments_pipeline(
    children: Stored, references: Sequence[Stored], limit: int, before: int | None, most_bytes: int
) -> Pipeline:
    """Return the aggregation that reads the latest messages of segments before an id, and one more if there is.

    It gives a document for each segment.
    """
    last = {"$switch": {"branches": _last_ids(references), "default": -1}}
    is_wanted: list[Any] = [{"$isNumber": "$$message.message_id"}, {"$lte": ["$$message.message_id", last]}]
    if before is not None:
        is_wanted.append({"$lt": ["$$message.message_id", before]})
    messages = chosen(list_expression("$messages"), "message", {"$and": is_wanted})
    ids = [reference["_id"] for reference in references]
    return [
        {"$match": {"_id": {"$in": ids}, **children}},
        {"$project": {"page": {"$slice": [messages, -limit - 1]}}},
        *_page_stages("$page", most_bytes),
    ]


def _last_ids(references: Iterable[Stored]) -> list[Stored]:
    """Return the cases of the last message of a segment that its reference names; it may hold more."""
    return [{"case": {"$eq": ["$_id", each["_id"]]}, "then": each["last_id"]} for each in references]


def _page_stages(page: str, most_bytes: int) -> Pipeline:
    """Return the stages that mark the large blocks of a page, and cut it from its beginning to a size."""
    message = {
        "message_id": "$$message.message_id",
        "role": text_expression("$$role", _NAME_BYTES),
        "created_at": time_expression("$$message.created_at"),
        "updated_at": time_expression("$$message.updated_at"),
        "redacted": {
            "$or": [{"$eq": ["$$message.redacted", True]}, is_a("$$message.redact_message", "object")],
        },
        "tracking_id": _small("$$message.tracking_id"),
        **_FORM,
        "call": own_figures("$$message.event_loop_metrics", {}),
        "model": text_expression("$$message.event_loop_metrics.model", _NAME_BYTES),
        "content": _content(min(PART_BYTES, most_bytes)),
    }
    marked = let({"role": role_expression("$$message"), "content": content_expression("$$message")}, message)
    whole = {"$mergeObjects": ["$$message", {"content": {"whole": {"$bsonSize": "$$message"}}}]}
    bounded = {"$cond": [{"$gt": [{"$bsonSize": "$$message"}, most_bytes]}, whole, "$$message"]}
    return [
        {"$set": {"page": mapped(page, "message", marked)}},
        {"$set": {"page": mapped("$page", "message", bounded)}},
        {"$set": {"fits": _fits(most_bytes), "length": {"$size": "$page"}}},
        {
            "$set": {
                "page": {
                    "$cond": [
                        {"$gt": ["$fits", 0]},
                        {"$slice": ["$page", {"$subtract": [0, {"$max": [1, "$fits"]}]}]},
                        [],
                    ]
                }
            }
        },
    ]


def _fits(most_bytes: int) -> Stored:
    """Return how many of the latest messages are together not too large, at least one."""
    sizes = mapped({"$reverseArray": "$page"}, "message", {"$bsonSize": "$$message"})
    size = {"$add": ["$$value.size", "$$this"]}
    fits = {"$or": [{"$eq": ["$$value.count", 0]}, {"$lte": [size, most_bytes]}]}
    more = {"count": {"$add": ["$$value.count", 1]}, "size": size, "is_full": False}
    full = {"$mergeObjects": ["$$value", {"is_full": True}]}
    counted = {
        "$reduce": {
            "input": sizes,
            "initialValue": {"count": 0, "size": 0, "is_full": False},
            "in": {"$cond": [{"$and": [{"$not": ["$$value.is_full"]}, fits]}, more, full]},
        }
    }
    return let({"counted": counted}, "$$counted.count")


def _small(value: str) -> Stored:
    is_small = {"$lte": [{"$bsonSize": {"value": value}}, _NAME_BYTES]}
    return {"$cond": [is_small, {"$ifNull": [value, None]}, None]}


def _content(part_bytes: int) -> Stored:
    """Return ``blocks``, each whole (``b``) or as its description; or ``whole``, the size of another content."""
    size = {"$bsonSize": {"block": "$$block"}}
    block = {"$cond": [{"$gt": [size, part_bytes]}, _described("$$block", size), {"b": "$$block"}]}
    other = {"$bsonSize": {"content": "$$content"}}
    is_text = {"$and": [is_a("$$content", "string"), {"$lte": [other, part_bytes]}]}
    return {
        "$switch": {
            "branches": [
                {"case": {"$isArray": "$$content"}, "then": {"blocks": mapped("$$content", "block", block)}},
                {"case": is_text, "then": {"blocks": [{"b": {"text": "$$content"}}]}},
                {"case": {"$eq": [{"$type": "$$content.%file.length"}, "missing"]}, "then": {"whole": other}},
            ],
            "default": {"whole": "$$content.%file.length"},
        }
    }


def _described(block: str, size: Any) -> Stored:
    """Return the description of a block: its size, its keys, and format and name of the file in it."""
    keys = {"$slice": [mapped(items_expression(block), "field", text_expression("$$field.k", _NAME_BYTES)), _MOST_KEYS]}
    kinds = {
        kind: {name: text_expression(f"{block}.{kind}.{name}", _NAME_BYTES) for name in ("format", "name")}
        for kind in _MEDIA
    }
    return {"size": size, "keys": keys, **kinds}


_MEDIA: Final = ("image", "document", "video", "audio")


# Parts


def part_pipeline(
    session_id: str, agent_id: str, conditions: Iterable[Conditions], message_id: int, n: int
) -> Pipeline:
    """Return the aggregation that reads one content block of a message, or references to segments that may hold it."""
    path = f"${agent_path(agent_id)}"
    found = chosen(list_expression(f"{path}.messages"), "message", {"$eq": ["$$message.message_id", message_id]})
    return [
        {"$match": living_session_filter(session_id, conditions)},
        *lifted_pipeline(agent_id),
        {
            "$project": {
                "instance": "$instance",
                "is_there": is_a(f"{path}.agent_data", "object"),
                "segments": chosen(list_expression(f"{path}.segments"), "each", named_by(message_id)),
                "message": {"$arrayElemAt": [found, 0]},
            }
        },
        *_block_stages(n),
    ]


def segment_part_pipeline(children: Stored, references: Sequence[Stored], message_id: int, n: int) -> Pipeline:
    """Return the aggregation that reads one content block of a message in a segment."""
    found = chosen(list_expression("$messages"), "message", {"$eq": ["$$message.message_id", message_id]})
    return [
        {"$match": {"_id": {"$in": [each["_id"] for each in references]}, **children}},
        {"$project": {"message": {"$arrayElemAt": [found, 0]}}},
        {"$match": {"message": {"$type": "object"}}},
        *_block_stages(n),
    ]


def _block_stages(n: int) -> Pipeline:
    block = {"$cond": [{"$isArray": "$$content"}, {"$arrayElemAt": ["$$content", n]}, only_if("$$content", "string")]}
    part = {
        **_FORM,
        "block": {"$ifNull": [block, None]},
        "whole": {"$cond": [is_a("$$content", "object"), {"$ifNull": ["$$content.%file", None]}, None]},
    }
    read = let({"message": "$message"}, let({"content": content_expression("$$message")}, part))
    return [{"$set": {"message": {"$cond": [is_a("$message", "object"), read, None]}}}]


def references_of(agent: Mapping[str, Any], wanted: int, before: int | None) -> list[Stored]:
    """Return the references to the segments with the latest messages, as many as are wanted and one more."""
    found, count = list[Stored](), 0
    for reference in sorted(agent["segments"], key=lambda each: each["last_id"], reverse=True):
        found.append(reference)
        # A segment that reaches beyond ``before`` may hold any number of messages below it.
        count += reference["count"] if before is None or reference["last_id"] < before else 0
        if count > wanted:
            break
    return found
