"""Pipelines that list the feedback of sessions, with the turns that it is about."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ..types.transcripts import FeedbackEntry
from .agent_rows import (
    chosen,
    date_expression,
    found_agents_pipeline,
    is_a,
    joined,
    let,
    mapped,
    named_by,
    number_expression,
    role_expression,
    text_expression,
    texts_expression,
)
from .catalog_filter import (
    FIRST_MS,
    LAST_MS,
    RATINGS,
    Conditions,
    Either,
    feedback_condition,
    is_rated,
    living_filter,
    milliseconds,
    time_of,
)
from .cursors import Place
from .ids import shown
from .nested import list_expression
from .summaries import text, whole_number
from .values import Pipeline, Stored, decode

logger = logging.getLogger(__name__)

SORT: Final = "feedback"
TEXT_CHARACTERS: Final = 1000

_NAME_BYTES: Final = 8 * 1024
# A turn that began before is not looked for.
_MOST_MESSAGES: Final = 100
_MOST_TEXTS: Final = 16
_HOUR_MS: Final = 3_600_000
_NEWEST_FIRST: Final = {"at": -1, "_id": -1, "n": -1}


@dataclass(frozen=True)
class FeedbackQuery:
    """Which feedback is meant, newest first.

    Attributes:
        rating: Its rating; None for any.
        since: In milliseconds since 1970; None for no limit.
        after: The entry that came last.
        limit: Entries to read.
    """

    rating: str | None
    since: int | None
    after: Place
    limit: int

    def sessions(self) -> list[Either]:
        """Return the conditions of the sessions that may have such feedback."""
        found = [feedback_condition("any" if self.rating is None or self.rating == "other" else self.rating)]
        if self.since is not None:
            # The time of a piece of feedback is that of the write that stored it. Clocks of hosts differ.
            earlier = {"$lt": time_of(max(self.since - _HOUR_MS, FIRST_MS))}
            found.append(({"updated_at": {"$not": earlier}},))
        return found

    def chosen(self, entries: Any, session_id: str) -> Stored:
        """Return those of a session's entries, ``{f, n, at}``, that are meant."""
        tests: list[Any] = [is_a("$$entry.f", "object")]
        if self.rating is not None:
            tests.append(let({"each": "$$entry.f"}, is_rated(self.rating)))
        if self.since is not None:
            tests.append({"$gte": ["$$entry.at", self.since]})
        if self.after.session_id is not None:
            tests.append(self._is_after(session_id))
        return chosen(entries, "entry", {"$and": tests})

    def _is_after(self, session_id: str) -> Stored:
        at, last = self.after.at, {"$literal": self.after.session_id}
        same = [{"$eq": [session_id, last]}, {"$lt": ["$$entry.n", self.after.number]}]
        tie = {"$and": [{"$eq": ["$$entry.at", at]}, {"$or": [{"$lt": [session_id, last]}, {"$and": same}]}]}
        return {"$or": [{"$lt": ["$$entry.at", at]}, tie]}


def rating_of(rating: object) -> str | None:
    """Return the rating that a caller asked for; None for any.

    Raises:
        TypeError: It is not a string.
        ValueError: There is no such rating.
    """
    if rating is None:
        return None
    if not isinstance(rating, str):
        raise TypeError(f"rating must be a string, got {type(rating).__name__}")
    if rating not in RATINGS:
        raise ValueError(f"rating must be one of {', '.join(map(repr, RATINGS))}, got {shown(rating)}")
    return str.__str__(rating)  # a member of an enum is formatted as its name


def query_of(rating: str | None, since: object, after: Place, limit: int) -> FeedbackQuery:
    """Return the query of arguments that a caller gave.

    Raises:
        TypeError: The time has a wrong type.
        ValueError: It has no time zone.
    """
    return FeedbackQuery(rating, None if since is None else milliseconds("since", since), after, limit)


def feedback_pipeline(conditions: Iterable[Conditions], query: FeedbackQuery) -> Pipeline:
    """Return the aggregation that reads feedback in session documents, and which sessions have more in segments.

    The rows with ``segments`` come last, and have the references to feedback segments, each with the number ``n`` of
    its first entry.
    """
    segments = chosen(list_expression("$feedback_segments"), "each", is_a("$$each._id", "objectId"))
    return [
        {"$match": living_filter(conditions, query.sessions())},
        *found_agents_pipeline(),
        {"$set": {"references": segments}},
        {"$set": {"moved": {"$sum": mapped("$references", "each", number_expression("$$each.count"))}}},
        {"$set": {"entries": query.chosen(_entries("$feedbacks", "$moved"), "$_id")}},
        {
            "$project": {
                "instance": "$instance",
                "references": mapped(
                    "$references", "each", {"_id": "$$each._id", "count": number_expression("$$each.count")}
                ),
                "entry": mapped("$entries", "entry", {"$mergeObjects": ["$$entry", {"turn": _turn()}]}),
            }
        },
        {
            "$facet": {
                "entries": _latest("$_id", query.limit),
                "moved": [
                    {"$match": {"references.0": {"$exists": True}}},
                    {"$project": {"instance": 1, "segments": "$references"}},
                ],
            }
        },
        *_rows("entries", "moved"),
    ]


def _latest(session_id: str, limit: int) -> Pipeline:
    """Return the stages that make the latest of all ``entry`` to rows."""
    # Hosts' clocks differ, so the entries of a session need not be in the order of their times.
    row = {"$mergeObjects": [{"_id": session_id, "instance": "$instance"}, "$entry"]}
    return [{"$unwind": "$entry"}, {"$replaceRoot": {"newRoot": row}}, {"$sort": _NEWEST_FIRST}, {"$limit": limit}]


def _rows(*facets: str) -> Pipeline:
    """Return the stages that make the results of facets to rows, which are together larger than a document may be."""
    rows = {"$concatArrays": [f"${name}" for name in facets]}
    return [{"$project": {"row": rows}}, {"$unwind": "$row"}, {"$replaceRoot": {"newRoot": "$row"}}]


def _entries(feedbacks: str, first: Any) -> Stored:
    """Return the entries of a list of feedback, with their numbers and times."""
    entry = {"f": "$$f", "n": {"$add": [first, "$$i"]}, "at": _milliseconds("$$f.created_at")}
    of_index = let({"f": {"$arrayElemAt": ["$$feedbacks", "$$i"]}}, entry)
    every = mapped({"$range": [0, {"$size": "$$feedbacks"}]}, "i", of_index)
    return let({"feedbacks": list_expression(feedbacks)}, every)


def _milliseconds(at: str) -> Stored:
    """Return a time in milliseconds since 1970; the first one there is for what is no time."""
    bounded = {"$min": [LAST_MS, {"$max": [FIRST_MS, {"$toLong": "$$at"}]}]}
    return let({"at": date_expression(at)}, {"$cond": [is_a("$$at", "date"), bounded, FIRST_MS]})


# The turn


def _turn() -> Stored:
    """Return the turn that ``$$entry`` is about, from the agents in ``$found``; or where it may be."""
    message_id, tracking_id = "$$entry.f.message_id", "$$entry.f.tracking_id"
    is_named = {"$eq": [{"$type": "$$entry.f.agent_id"}, "string"]}
    by_number = {"$and": [is_named, {"$isNumber": message_id}]}
    has_tracking_id = {"$not": [{"$in": [{"$type": tracking_id}, ["missing", "null"]]}]}
    agents = chosen(
        "$found",
        "agent",
        {"$or": [{"$not": [is_named]}, {"$eq": ["$$agent.v.agent_data.agent_id", "$$entry.f.agent_id"]}]},
    )
    index = {
        "$switch": {
            "branches": [
                {"case": by_number, "then": _index("message_id", message_id)},
                {"case": has_tracking_id, "then": _index("tracking_id", tracking_id)},
            ],
            "default": -1,
        }
    }
    found = let(
        {"messages": list_expression("$$agent.v.messages")},
        let({"index": index}, _turn_at("$$agent.v.agent_data.agent_id")),
    )
    turns = chosen(mapped(agents, "agent", found), "turn", {"$ne": ["$$turn", None]})
    segments = chosen(list_expression("$$agent.v.segments"), "each", named_by(message_id))
    references = mapped(segments, "each", "$$each._id")
    elsewhere = {"$cond": [by_number, joined(agents, "agent", references), []]}
    is_about_one = {"$or": [by_number, has_tracking_id]}
    return {
        "$cond": [
            is_about_one,
            let(
                {"turns": turns},
                {"$cond": [{"$ne": ["$$turns", []]}, {"$arrayElemAt": ["$$turns", 0]}, {"references": elsewhere}]},
            ),
            None,
        ]
    }


def _index(name: str, wanted: str) -> Stored:
    ids = mapped("$$messages", "message", {"$ifNull": [f"$$message.{name}", None]})
    return {"$indexOfArray": [ids, wanted]}


def _turn_at(agent_id: Any) -> Stored:
    """Return the turn of the message at ``$$index`` of ``$$messages``; null if there is none."""
    upto = {"$slice": ["$$messages", {"$add": ["$$index", 1]}]}
    latest = {"$reverseArray": {"$slice": [upto, -_MOST_MESSAGES]}}
    role = role_expression("$$message")
    texts = {"$slice": [texts_expression("$$message", TEXT_CHARACTERS), _MOST_TEXTS]}
    prompts = chosen(
        mapped(chosen(latest, "message", {"$eq": [role, "user"]}), "message", texts), "texts", {"$ne": ["$$texts", []]}
    )
    turn = {
        "agent_id": text_expression("$$agent_id", _NAME_BYTES),
        "message_id": {"$ifNull": ["$$message.message_id", None]},
        "tracking_id": {"$ifNull": ["$$message.tracking_id", None]},
        "prompt": {"$arrayElemAt": [prompts, 0]},
        "answer": {"$cond": [{"$eq": [role, "assistant"]}, texts, []]},
    }
    names = {"message": {"$arrayElemAt": ["$$messages", "$$index"]}, "agent_id": agent_id}
    return {"$cond": [{"$gte": ["$$index", 0]}, let(names, turn), None]}


# Segments


def moved_pipeline(feedback: Sequence[Stored], entries: Sequence[Stored], query: FeedbackQuery) -> Pipeline:
    """Return the aggregation that reads feedback and turns in segments; a row has ``turns``, or is an entry.

    Args:
        feedback: The rows of sessions with references to segments of feedback.
        entries: The rows of entries whose turn is not in the session document.
        query: Which feedback is meant.
    """
    ids = [each["_id"] for row in feedback for each in row["segments"]]
    ids += [each for row in entries for each in row["turn"]["references"]]
    wanted: list[Stored] = [{"_id": {"$in": ids}}]
    tracked = [row for row in entries if isinstance(row["f"].get("tracking_id"), str)]
    if tracked:
        sessions = {"$in": [row["_id"] for row in tracked]}
        tracking_ids = {"$in": [row["f"]["tracking_id"] for row in tracked]}
        wanted.append({"session_id": sessions, "messages.tracking_id": tracking_ids})
    entries_of = query.chosen(_entries("$items", _first(feedback)), "$session_id")
    fields = {"session_id": "$session_id", "instance": "$instance"}
    return [
        {"$match": {"$or": wanted}},
        {
            "$facet": {
                "entries": [
                    {"$match": {"kind": "feedback"}},
                    {"$project": {**fields, "entry": entries_of}},
                    *_latest("$session_id", query.limit),
                ],
                "turns": [{"$match": {"kind": "messages"}}, {"$project": {**fields, "turns": _turns(entries)}}],
            }
        },
        *_rows("entries", "turns"),
    ]


def _first(feedback: Iterable[Stored]) -> Any:
    """Return the number of the first entry of a segment, among all entries of its session."""
    branches = [
        {"case": {"$eq": ["$_id", each["_id"]]}, "then": first}
        for row in feedback
        for each, first in zip(row["segments"], _starts(row["segments"]), strict=True)
        if first
    ]
    return {"$switch": {"branches": branches, "default": 0}} if branches else {"$literal": 0}


def _starts(references: Iterable[Stored]) -> list[int]:
    starts, count = list[int](), 0
    for reference in references:
        starts.append(count)
        count += int(reference["count"])
    return starts


def _turns(entries: Iterable[Stored]) -> Stored:
    numbers = {row["f"]["message_id"] for row in entries if isinstance(row["f"].get("message_id"), int)}
    named = {row["f"]["tracking_id"] for row in entries if isinstance(row["f"].get("tracking_id"), str)}
    tracking_ids = [{"$literal": tracking_id} for tracking_id in sorted(named)]
    is_wanted = {
        "$or": [{"$in": ["$$message.message_id", sorted(numbers)]}, {"$in": ["$$message.tracking_id", tracking_ids]}]
    }
    of_index = let(
        {"message": {"$arrayElemAt": ["$$messages", "$$index"]}}, {"$cond": [is_wanted, _turn_at("$agent_id"), None]}
    )
    every = mapped({"$range": [0, {"$size": "$$messages"}]}, "index", of_index)
    return let({"messages": list_expression("$messages")}, chosen(every, "turn", {"$ne": ["$$turn", None]}))


# Entries


def newest_first(rows: Iterable[Stored]) -> list[Stored]:
    """Return rows of entries in the order of the list."""
    return sorted(
        rows, key=lambda row: (row["at"], row["_id"].encode("utf-8", "surrogatepass"), row["n"]), reverse=True
    )


def place_of(row: Stored) -> Place:
    """Return the place of an entry in the list."""
    return Place(row["_id"], int(row["at"]), None, int(row["n"]))


def entry_of(row: Stored) -> FeedbackEntry:
    """Return an entry; what cannot be read is left out of it."""
    given: Mapping[str, Any] = row["f"]
    turn = row.get("turn") or {}
    agent_id = turn.get("agent_id") or given.get("agent_id")
    at = int(row["at"])
    return FeedbackEntry(
        session_id=row["_id"],
        agent_id=agent_id if isinstance(agent_id, str) else None,
        message_id=whole_number(turn.get("message_id", given.get("message_id"))),
        feedback=_feedback(given),
        created_at=None if at == FIRST_MS else time_of(at),
        prompt=_joined(turn.get("prompt")),
        answer=_joined(turn.get("answer")),
    )


def _feedback(given: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return {name: value for name, value in decode(dict(given)).items() if name != "created_at"}
    except Exception as error:  # noqa: BLE001 - put there by hand, it may be anything
        logger.debug("error=<%s> | feedback cannot be read", type(error).__name__)
        return {}


def _joined(texts: Sequence[Any] | None) -> str | None:
    found = [part for part in (text(each, TEXT_CHARACTERS) for each in texts or ()) if part]
    return "\n".join(found)[:TEXT_CHARACTERS] if found else None


def is_of(turn: Stored, row: Stored) -> bool:
    """Tell whether a turn is that of an entry."""
    given = row["f"]
    if given.get("agent_id") is not None and given.get("message_id") is not None:
        return bool((turn["agent_id"], turn["message_id"]) == (given["agent_id"], given["message_id"]))
    is_agent = given.get("agent_id") in (None, turn["agent_id"])
    return is_agent and turn["tracking_id"] is not None and turn["tracking_id"] == given.get("tracking_id")
