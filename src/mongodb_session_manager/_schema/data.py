"""Metadata, feedback, the outbox, the configuration of agents, Graphs and Swarms."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import bson

from ..types import OutboxReferenceDoc
from .histories import AgentWrite, without_files_filter
from .ids import agent_path, is_number, list_index, metadata_path, multi_agent_path, now
from .interrupts import interrupted_update, multi_agent_name
from .lives import Life
from .metadata_keys import one_element, ways_of
from .nested import places_of
from .values import VALUE_MARKS, FilterAndUpdate, Pipeline, Stored, Update, escape_key

_RATINGS = ("up", "down")
CONFIG_FIELDS = ("model", "system_prompt", "prompt_metadata")


def config_projection(agent_id: str) -> dict[str, int]:
    """Return the projection of one agent's configuration, nested or not."""
    paths = (path for _, path in places_of(agent_id, "agent_data"))
    return {f"{path}.{name}": 1 for path in paths for name in ("agent_id", *CONFIG_FIELDS)}


def config_of(session: Stored, agent_id: str) -> Stored | None:
    """Return the ``agent_data`` that ``config_projection`` read; None if there is no such agent."""
    for names, _ in places_of(agent_id, "agent_data"):
        found: Any = session
        for name in names:
            found = found.get(name) if isinstance(found, dict) else None
        if isinstance(found, dict):
            return found
    return None


def config_update(session_id: str, write: AgentWrite, *, nested: bool = False) -> FilterAndUpdate:
    """Return filter and update that set fields of an agent's configuration."""
    path = agent_path(write.agent_id, "agent_data", nested=nested)
    changed: Stored = {f"{path}.{name}": value for name, value in write.data.items()}
    changed["updated_at"] = now()
    if write.files:
        changed["has_files"] = True
    unchanged = without_files_filter(agent_path(write.agent_id, nested=nested), write)
    return {"_id": session_id, path: {"$exists": True}, **unchanged}, {"$set": changed}


def metadata_update(session_id: str, fields: Stored) -> FilterAndUpdate:
    """Return filter and update that set metadata fields, by dotted key, if no list would be filled with nulls.

    It goes through only if no two keys name one element of a list.
    """
    changed = {metadata_path(key): value for key, value in fields.items()}
    filled = [_elsewhere_or(path, "$gte", length) for path, length in _lengths(fields).items() if length]
    return _where(session_id, [*filled, *_apart(fields)]), {"$set": {**changed, "updated_at": now()}}


def _apart(keys: Iterable[str]) -> list[Stored]:
    """Return the conditions that keys name different values; a server of MongoDB 6.0 stops if one is set twice."""
    return [{"$or": [_elsewhere_or(path, "$lt", 0) for path in _parting(*pair)]} for pair in one_element(keys)]


def _parting(one: str, other: str) -> list[tuple[str, ...]]:
    """Return the paths below which two keys have the same number in different spellings."""
    names, others = one.split("."), other.split(".")
    return [tuple(names[:level]) for level, pair in enumerate(zip(names, others, strict=False)) if pair[0] != pair[1]]


def unmarked_filter(keys: Iterable[str]) -> Stored:
    """Return the condition that no dotted key leads into the mark of a value; empty if no key has a dot.

    A mark is an object, so a server would add to it what the key names, and the value could not be read any more.
    """
    conditions = [_at("$metadata", [escape_key(name) for name in way], _unmarked) for way in sorted(set(ways_of(keys)))]
    return {"$expr": {"$and": conditions}} if conditions else {}


def _unmarked(value: str) -> Stored:
    marks = [{"$ne": [{"$type": f"{value}.{name}"}, "missing"]} for name in VALUE_MARKS]
    return {"$not": [{"$and": [{"$eq": [{"$type": value}, "object"]}, {"$or": marks}]}]}


def unmarked_update(change: FilterAndUpdate, keys: Iterable[str]) -> FilterAndUpdate:
    """Return the change of metadata fields for values only that are not stored as marks."""
    wanted, update = change
    unmarked = unmarked_filter(keys)
    return ({**wanted, "$and": [*wanted.get("$and", ()), unmarked]} if unmarked else wanted), update


def metadata_deletion_update(session_id: str, keys: Collection[str], held: Mapping[str, Any]) -> FilterAndUpdate:
    """Return filter and update that remove metadata fields, by dotted key, if no key names an element of a list.

    The fields in ``held`` must also have the stored values given there.
    """
    removed = {metadata_path(key): "" for key in keys}
    paths = [tuple(key.split(".")) for key in keys]
    kept = [_elsewhere_or(path[:-1], "$lte", list_index(path[-1])) for path in paths if is_number(path[-1])]
    wanted = _where(session_id, kept) | {metadata_path(key): value for key, value in held.items()}
    return wanted, {"$unset": removed, "$set": {"updated_at": now()}}


def _where(session_id: str, conditions: list[Stored]) -> Stored:
    return {"_id": session_id, "$expr": {"$and": conditions}} if conditions else {"_id": session_id}


def _lengths(keys: Iterable[str]) -> dict[tuple[str, ...], int]:
    """Return, for each path that may be a list, how long the list must be so that it gets no gaps."""
    numbers: dict[tuple[str, ...], set[int]] = {}
    for path in (tuple(key.split(".")) for key in keys):
        for level, name in enumerate(path):
            if is_number(name):
                numbers.setdefault(path[:level], set()).add(list_index(name))
    return {path: _first_of_last_run(sorted(found)) for path, found in numbers.items()}


def _first_of_last_run(numbers: list[int]) -> int:
    """Return the first index of the last run of indexes without a gap."""
    first = numbers[-1]
    for number in reversed(numbers[:-1]):
        if number < first - 1:
            break
        first = number
    return first


def _elsewhere_or(path: tuple[str, ...], comparison: str, length: int) -> Stored:
    """Return the condition that a metadata path is not a list, or is a list whose length compares so."""

    def compared(value: str) -> Stored:
        return {"$cond": [{"$isArray": value}, {comparison: [{"$size": value}, length]}, True]}

    return _at("$metadata", [escape_key(name) for name in path], compared)


def _at(place: str, path: list[str], condition: Callable[[str], Stored]) -> Stored:
    """Return a condition on a path as an update reads it: a number is an index in a list, and a name elsewhere.

    A filter reads a path in more ways: there a number is also a name in each element of a list.
    """
    level = next((level for level, name in enumerate(path) if is_number(name)), None)
    if level is None:
        return condition(".".join((place, *path)))
    value, name = ".".join((place, *path[:level])), path[level]
    found = {"$cond": [{"$isArray": value}, {"$arrayElemAt": [value, list_index(name)]}, f"{value}.{name}"]}
    return {"$let": {"vars": {"found": found}, "in": _at("$$found", path[level + 1 :], condition)}}


def new_feedback_update(session_id: str, feedback: Stored, size: int, about: Stored) -> FilterAndUpdate:
    """Return filter and update that append feedback, if the message that it is about exists."""
    return {"_id": session_id, **about}, {
        "$push": {"feedbacks": feedback},
        "$inc": {"feedback_bytes": size, f"feedback_counts.{_rating_of(feedback)}": 1},
        "$set": {"updated_at": feedback["created_at"]},
    }


def feedback_counts(feedbacks: Iterable[Any]) -> dict[str, int]:
    """Return how many pieces of feedback have each rating."""
    return dict(Counter(map(_rating_of, feedbacks)))


def _rating_of(feedback: Any) -> str:
    found = feedback.get("rating") if isinstance(feedback, dict) else None
    return found if isinstance(found, str) and found in _RATINGS else "other"


def little_feedback_filter(wanted: Stored, size: int) -> Stored:
    """Return the filter with a limit for the bytes of feedback in the session document."""
    return {**wanted, "feedback_bytes": {"$not": {"$gt": size}}}


def recorded_update(change: FilterAndUpdate, outbox: list[Stored], most: int | None = None) -> FilterAndUpdate:
    """Return the change with notifications to record, if the outbox then has at most so many bytes."""
    wanted, update = change
    pushed = {**update.get("$push", {}), "outbox": {"$each": outbox}}
    if most is not None:
        wanted = _holding_less(wanted, "outbox", most - sum(len(bson.encode(record)) for record in outbox))
    return wanted, {**update, "$push": pushed}


def recorded_apart_update(change: FilterAndUpdate, references: list[OutboxReferenceDoc]) -> FilterAndUpdate:
    """Return the change with references to notifications in documents of their own."""
    wanted, update = change
    return wanted, {**update, "$push": {**update.get("$push", {}), "outbox_documents": {"$each": references}}}


def little_metadata_update(change: FilterAndUpdate, most: int) -> FilterAndUpdate:
    """Return the change with a limit for the bytes of metadata."""
    wanted, update = change
    return _holding_less(wanted, "metadata", most), update


def _holding_less(wanted: Stored, name: str, most: int) -> Stored:
    return {**wanted, "$and": [*wanted.get("$and", ()), {"$expr": {"$lte": [_bytes_of(name), most]}}]}


def _bytes_of(name: str) -> Stored:
    return {"$bsonSize": {name: f"${name}"}}


def bytes_pipeline(session_id: str, name: str, without: Iterable[str] = ()) -> Pipeline:
    """Return the aggregation that measures a field of the session without some metadata fields, by dotted key."""
    left_out: Pipeline = [{"$unset": [metadata_path(key) for key in without]}] if without else []
    return [{"$match": {"_id": session_id}}, *left_out, {"$project": {"bytes": _bytes_of(name)}}]


def acknowledged_update(session_id: str, ids: Iterable[str], *, apart: bool = False) -> FilterAndUpdate:
    """Return filter and update that remove notifications, or the references to them, from the outbox."""
    return {"_id": session_id}, {"$pull": {"outbox_documents" if apart else "outbox": {"id": {"$in": list(ids)}}}}


def outbox_documents_filter(life: Life, ids: Iterable[str]) -> Stored:
    """Return the filter of notifications that are documents of their own."""
    return {**life.children, "kind": "outbox", "record.id": {"$in": list(ids)}}


def has_message_filter(agent_id: str, message_id: int) -> Stored:
    """Return the condition that an agent holds a message with an id."""
    places = [{path: message_id} for _, path in places_of(agent_id, "messages", "message_id")]
    return places[0] if len(places) == 1 else {"$or": places}


def has_tracking_id_filter(agent_ids: Iterable[str], tracking_id: Any) -> Stored:
    """Return the condition that one of the agents holds a message with a tracking id, as stored."""
    places = (place for agent_id in agent_ids for place in places_of(agent_id, "messages", "tracking_id"))
    return {"$or": [{path: tracking_id} for _, path in places]}


# The optional fields beside the ``state`` of a multi-agent.
_BESIDE_STATE = ("inner", "encoded", "files")


def new_multi_agent_update(
    session_id: str, multi_agent_id: str, fields: Stored, *, interrupted: bool = False
) -> FilterAndUpdate:
    """Return filter and update that store a multi-agent if it does not exist yet."""
    at = now()
    path = multi_agent_path(multi_agent_id)
    stored = {"multi_agent_id": multi_agent_id, **fields, "created_at": at, "updated_at": at}
    update: Update = {"$set": {path: stored, "updated_at": at}}
    if interrupted:
        update |= interrupted_update(multi_agent_name(multi_agent_id), interrupted)
    return {"_id": session_id, path: {"$exists": False}}, update


def multi_agent_update(
    session_id: str, multi_agent_id: str, fields: Stored, *, interrupted: bool = False
) -> FilterAndUpdate:
    """Return filter and update that replace the state of a stored multi-agent."""
    at = now()
    path = multi_agent_path(multi_agent_id)
    changed = {f"{path}.{name}": value for name, value in fields.items()}
    changed |= {f"{path}.updated_at": at, "updated_at": at}
    dropped = {f"{path}.{name}": "" for name in _BESIDE_STATE if name not in fields}
    waits = interrupted_update(multi_agent_name(multi_agent_id), interrupted)
    return {"_id": session_id, path: {"$exists": True}}, {"$set": changed, "$unset": dropped, **waits}


def without_state_file_filter(multi_agent_id: str) -> Stored:
    """Return the condition that the state of a multi-agent is not in a file."""
    return {multi_agent_path(multi_agent_id, "files"): None}


def multi_agent_projection(multi_agent_id: str) -> dict[str, int]:
    """Return the projection of whether a multi-agent is stored, its file, and the session's lease."""
    return {multi_agent_path(multi_agent_id, name): 1 for name in ("multi_agent_id", "files")} | {"lease": 1}


def multi_agent_pipeline(session_id: str, multi_agent_id: str) -> Pipeline:
    """Return the aggregation that reads all fields of one multi-agent."""
    path = f"${multi_agent_path(multi_agent_id)}"
    fields = {name: f"{path}.{name}" for name in ("state", *_BESIDE_STATE)} | {"instance": "$instance"}
    return [{"$match": {"_id": session_id}}, {"$project": fields}]
