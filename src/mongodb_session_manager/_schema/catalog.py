"""Pipelines that list sessions of whatever shape; no expression of them fails on any value."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from .agent_rows import (
    any_of,
    chosen,
    content_expression,
    found_agents_pipeline,
    is_a,
    items_expression,
    joined,
    let,
    mapped,
    message_count,
    only_if,
    text_expression,
    texts_expression,
    time_expression,
)
from .call_rows import SUMMED, metrics_of, moved_sums_expression, quick_sums, uncounted_calls_expression
from .catalog_filter import (
    RATINGS,
    Conditions,
    Either,
    TimeRange,
    is_rated,
    living_filter,
    living_session_filter,
    time_conditions,
    time_of,
)
from .cursors import Place
from .lives import Life
from .nested import list_expression
from .sessions import sessions_filter
from .values import Pipeline, Stored

SORTS: Final = ("session_id", "created_at", "-created_at", "updated_at", "-updated_at")
MOST_AGENTS: Final = 20
METADATA_BYTES: Final = 16 * 1024
TEXT_CHARACTERS: Final = 200

# This library stores no longer ones.
_NAME_BYTES: Final = 8 * 1024
# Of an agent, from its end on.
_LATEST_MESSAGES: Final = 8
_MOST_EVENTS: Final = 1000
_PLAIN_BYTES: Final = 64 * 1024
_ALL: Final = 2**31 - 1


@dataclass(frozen=True)
class Order:
    """An order of sessions.

    Attributes:
        name: As a caller names it.
    """

    name: str

    @property
    def field(self) -> str | None:
        """The field with the time; None if the order is by the session id."""
        name = self.name.removeprefix("-")
        return None if name == "session_id" else name

    @property
    def sort(self) -> dict[str, int]:
        """The sort of a query."""
        direction = -1 if self.name.startswith("-") else 1
        return {**({self.field: direction} if self.field else {}), "_id": direction}

    @property
    def is_growing(self) -> bool:
        """Whether sessions move to its end while it is read."""
        return self.name == "updated_at"

    def conditions(self, place: Place) -> list[Either]:
        """Return the conditions that sessions are in this order, after a place in it."""
        if self.field is None:
            return [] if place.session_id is None else [({"_id": {"$gt": place.session_id}},)]
        found = time_conditions(self.field, TimeRange())
        if self.is_growing:
            found.append(({"$expr": {"$lte": ["$updated_at", _end(place)]}},))
        if place.session_id is None:
            return found
        after = "$lt" if self.name.startswith("-") else "$gt"
        at = time_of(place.at or 0)
        return [*found, ({self.field: {after: at}}, {self.field: {"$eq": at}, "_id": {after: place.session_id}})]

    def after(self, row: Stored, place: Place) -> Place:
        """Return the place after a session, in a list that began at a place."""
        return Place(row["_id"], row["at"], self._until(row, place))

    def beginning(self, row: Stored, place: Place) -> Place:
        """Return the place at which a list began, with its end, as the first row tells it."""
        return replace(place, until=self._until(row, place))

    def _until(self, row: Stored, place: Place) -> int | None:
        return (row["now"] if place.until is None else place.until) if self.is_growing else None


def _end(place: Place) -> Any:
    return "$$NOW" if place.until is None else time_of(place.until)


def page_pipeline(conditions: Iterable[Conditions], order: Order, place: Place, limit: int) -> Pipeline:
    """Return the aggregation that reads the summaries of a page."""
    match = {"$match": living_filter(conditions, order.conditions(place))}
    return [match, {"$sort": order.sort}, {"$limit": limit}, *_summary_stages(order)]


def count_pipeline(conditions: Iterable[Conditions], at_most: int) -> Pipeline:
    """Return the aggregation that counts sessions."""
    return [{"$match": living_filter(conditions)}, {"$limit": at_most}, {"$count": "count"}]


def details_pipeline(session_id: str, conditions: Iterable[Conditions]) -> Pipeline:
    """Return the aggregation that reads the summary of a session, and more of it."""
    return [
        {"$match": living_session_filter(session_id, conditions)},
        *_summary_stages(Order("session_id"), _details()),
    ]


def fork_look_pipeline(session_ids: Iterable[str]) -> Pipeline:
    """Return the aggregation that reads the summaries of a session and its fork, with what tells of turns since."""
    more = {
        "instance": "$instance",
        "guards": mapped(list_expression("$found"), "agent", {"k": "$$agent.k", "guard": "$$agent.v.guard"}),
        "states": mapped(items_expression("$multi_agents"), "each", {"k": "$$each.k", "at": "$$each.v.updated_at"}),
    }
    return [{"$match": sessions_filter(session_ids)}, *_summary_stages(Order("session_id"), more)]


def segments_size_pipeline(life: Life) -> Pipeline:
    """Return the aggregation that measures the segments of one life of a session id."""
    return [
        {"$match": life.children},
        {"$group": {"_id": None, "count": {"$sum": 1}, "bytes": {"$sum": {"$bsonSize": "$$ROOT"}}}},
    ]


def files_size_pipeline(life: Life) -> Pipeline:
    """Return the aggregation that measures the files of one life of a session id."""
    return [{"$match": life.files}, {"$group": {"_id": None, "count": {"$sum": 1}, "bytes": {"$sum": "$length"}}}]


# Search


def candidates_pipeline(conditions: Iterable[Conditions], order: Order, place: Place, limit: int) -> Pipeline:
    """Return the aggregation that reads the places and sizes of the sessions to search."""
    match = {"$match": living_filter(conditions, order.conditions(place))}
    return [
        match,
        {"$sort": order.sort},
        {"$limit": limit},
        {"$project": {"at": _at(order), "now": {"$toLong": "$$NOW"}, "bytes": {"$bsonSize": "$$ROOT"}}},
    ]


def search_pipeline(
    conditions: Sequence[Conditions], order: Order, place: Place, session_ids: Sequence[str]
) -> Pipeline:
    """Return the aggregation that tells of sessions, in their order, whether they have a text; with summaries if so."""
    wanted: Either = ({"_id": {"$in": list(session_ids)}},)
    match = {"$match": living_filter(conditions, [*order.conditions(place), wanted])}
    is_found = {"$and": [_has_text(each.text) for each in conditions if each.text is not None]}
    at = {} if order.field is None else {order.field: f"${order.field}"}
    kept = {"$cond": ["$is_found", "$$ROOT", {"_id": "$_id", "is_found": "$is_found", **at}]}
    stages: Pipeline = [match, {"$sort": order.sort}, *_FOUND]
    stages += [{"$set": {"is_found": is_found}}, {"$replaceRoot": {"newRoot": kept}}]
    return [*stages, *_tail_stages(order, {"is_found": "$is_found"})]


def lenient_search_pipeline(
    conditions: Sequence[Conditions], order: Order, place: Place, session_ids: Sequence[str]
) -> Pipeline:
    """Return the aggregation that reads the sessions with a text, also if another text in them is not UTF-8."""
    wanted: Either = ({"_id": {"$in": list(session_ids)}},)
    texts = joined("$found", "agent", joined(list_expression("$$agent.v.messages"), "message", _message_texts()))
    # In a query, a regular expression does not match a text that is not UTF-8, and does not fail on it.
    patterns = [{"texts": {"$regex": _pattern(each.text), "$options": "i"}} for each in conditions if each.text]
    stages: Pipeline = [{"$match": living_filter(conditions, [*order.conditions(place), wanted])}]
    stages += [{"$sort": order.sort}, *_FOUND, {"$set": {"texts": texts}}]
    stages += [{"$match": {"$and": patterns}}, *_tail_stages(order, {"is_found": {"$literal": True}})]
    return stages


def _message_texts() -> Stored:
    texts = mapped(list_expression("$$content"), "block", only_if("$$block.text", "string"))
    return let({"content": content_expression("$$message")}, texts)


def _pattern(text: str) -> str:
    return re.escape(text).replace("\0", r"\x00")


def _has_text(text: str) -> Stored:
    found = {"$regexMatch": {"input": "$$block.text", "regex": _pattern(text), "options": "i"}}
    has = {"$cond": [is_a("$$block.text", "string"), found, False]}
    of_message = let({"content": content_expression("$$message")}, any_of(list_expression("$$content"), "block", has))
    return any_of("$found", "agent", any_of(list_expression("$$agent.v.messages"), "message", of_message))


# Summaries


def _at(order: Order) -> Any:
    return {"$literal": None} if order.field is None else {"$toLong": f"${order.field}"}


def _summary_stages(order: Order, more: Stored | None = None) -> Pipeline:
    """Return the stages that make a document to what ``summary_of`` reads."""
    return [*_FOUND, *_tail_stages(order, more or {})]


_FOUND: Final = found_agents_pipeline(bytes={"$bsonSize": "$$ROOT"})


def _tail_stages(order: Order, more: Stored) -> Pipeline:
    now = {"now": {"$toLong": "$$NOW"}} if order.is_growing else {}
    fields = {"_id": "$_id", **_FIELDS, "at": _at(order), **now, **more}
    # A server reads the expressions of a $project twice.
    return [{"$replaceRoot": {"newRoot": let({"found": mapped(list_expression("$found"), "agent", _AGENT)}, fields)}}]


def _agent() -> Stored:
    """Return what a list tells of ``$$agent``, with what only all agents together tell."""
    row = {
        "key": text_expression("$$agent.k", _NAME_BYTES),
        "model": text_expression("$$agent.v.agent_data.model", _NAME_BYTES),
        "messages": message_count("$$agent.v"),
        **quick_sums("$$metrics"),
        "moved": moved_sums_expression("$$agent.v"),
        "uncounted": uncounted_calls_expression("$$agent.v"),
    }
    return {
        "row": let({"metrics": metrics_of("$$agent.v")}, row),
        "last": _last_text("$$agent.v.messages"),
        "messages": {"$type": "$$agent.v.messages"},
    }


# The more expressions, the longer a server takes to read the command: what is small comes as it is.
_PLAIN: Final = (
    *("application_name", "schema_version", "created_at", "updated_at", "expires_at", "held", "has_files"),
    *("interrupted", "forked_from", "feedback_counts"),
)
_TYPED: Final = ("agents", "metadata", "feedbacks", "multi_agents")


def _fields() -> Stored:
    return {
        "plain": _if_small({name: f"${name}" for name in _PLAIN}, _PLAIN_BYTES),
        "types": {name: {"$type": f"${name}"} for name in _TYPED},
        "metadata": _if_small({"metadata": "$metadata"}, METADATA_BYTES),
        "agents": {"$slice": ["$$found.row", MOST_AGENTS]},
        "agent_count": {"$size": "$$found"},
        "rest": {"$cond": [{"$gt": [{"$size": "$$found"}, MOST_AGENTS]}, _rest("$$found.row"), None]},
        "last": let({"last": _latest("$$found.last")}, "$$last.text"),
        "feedback": {"$cond": [{"$eq": ["$feedbacks", []]}, None, {each: _rated(each) for each in RATINGS}]},
        "redactions": {"$size": list_expression("$guardrail_events")},
        "bytes": "$bytes",
        "others": any_of(items_expression("$agents"), "each", {"$ne": [{"$type": "$$each.v"}, "object"]}),
        "odd_messages": {"$gt": [{"$setDifference": ["$$found.messages", _LISTS]}, []]},
    }


_LISTS: Final = ["array", "missing"]


def _rest(rows: str) -> Stored:
    """Return the sums over the agents of which a list does not tell more."""
    sums: Stored = {name: {"$sum": f"$$rest.{name}"} for name in ("messages", *SUMMED)}
    sums["moved"] = {name: {"$sum": f"$$rest.moved.{name}"} for name in SUMMED}
    return let({"rest": {"$slice": [rows, MOST_AGENTS, _ALL]}}, sums)


def _if_small(fields: Stored, most_bytes: int) -> Stored:
    return let({"fields": fields}, {"$cond": [{"$lte": [{"$bsonSize": "$$fields"}, most_bytes]}, "$$fields", None]})


def _rated(rating: str) -> Stored:
    return {"$size": chosen(list_expression("$feedbacks"), "each", is_rated(rating))}


def _last_text(messages: str) -> Stored:
    """Return the time, which may be anything, and the last text of an agent's latest message that has one."""
    latest = {"$reverseArray": {"$slice": [list_expression(messages), -_LATEST_MESSAGES]}}
    text = {"$arrayElemAt": [texts_expression("$$this", TEXT_CHARACTERS), -1]}
    found = {"$cond": [{"$gt": ["$$text", None]}, {"text": "$$text", "at": "$$this.created_at"}, None]}
    each = {"$ifNull": ["$$value", let({"text": text}, found)]}
    return {"$reduce": {"input": latest, "initialValue": None, "in": each}}


def _latest(texts: str) -> Stored:
    is_later = {"$and": [{"$ne": ["$$this", None]}, {"$gte": ["$$this.at", "$$value.at"]}]}
    return {"$reduce": {"input": texts, "initialValue": None, "in": {"$cond": [is_later, "$$this", "$$value"]}}}


_AGENT: Final = _agent()
_FIELDS: Final = _fields()

# Details


def _details() -> Stored:
    return {
        "instance": "$instance",
        "lease": {"owner": only_if("$lease.owner", "objectId"), "expires_at": only_if("$lease.expires_at", "date")},
        "multi_agents": mapped(
            items_expression("$multi_agents"),
            "each",
            {
                "key": text_expression("$$each.k", _NAME_BYTES),
                "status": text_expression("$$each.v.state.status", _NAME_BYTES),
                "updated_at": time_expression("$$each.v.updated_at"),
            },
        ),
        "redaction_events": mapped(
            {"$slice": [list_expression("$guardrail_events"), -_MOST_EVENTS]},
            "each",
            {
                "agent_id": text_expression("$$each.agent_id", _NAME_BYTES),
                "message_id": only_if("$$each.message_id", "int", only_if("$$each.message_id", "long")),
                "action": text_expression("$$each.action", _NAME_BYTES),
                "at": time_expression("$$each.timestamp"),
            },
        ),
    }
