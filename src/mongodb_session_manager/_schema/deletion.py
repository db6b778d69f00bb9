"""Deletion: what is counted of a session before, and the filters of what belongs to lives that are over.

An instance belongs to one session only. So the children of several lives are found by their sessions and instances,
each in a list.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from bson import ObjectId

from .agent_rows import items_expression, mapped, only_if
from .expiry import EXPIRED, EXPIRED_FILTER, IS_EXPIRED
from .ids import is_integer
from .lives import Life, youngest_old_id
from .nested import list_expression
from .values import FilterAndUpdate, Pipeline, Stored

NOT_HELD: Stored = {"held": {"$ne": True}}

# An instance, and nothing else that the field may hold.
_INSTANCE = only_if("$instance", "objectId")
LIFE_PROJECTION: Stored = {"instance": _INSTANCE, EXPIRED: IS_EXPIRED}


def receipt_pipeline(session_id: str) -> Pipeline:
    """Return the aggregation that counts what a session document holds, whatever is stored in it."""
    agents = items_expression("$agents")
    embedded = mapped(agents, "agent", _size("$$agent.v.messages"))
    moved = mapped(agents, "agent", "$$agent.v.moved_count")
    nested = mapped(items_expression("$$agent.v"), "field", _size("$$field.v.messages"))
    counted = {
        "instance": _INSTANCE,
        "held": {"$eq": ["$held", True]},
        "messages": {"$concatArrays": [embedded, moved]},
        "nested": mapped(agents, "agent", {"$sum": nested}),
        "feedback": {"$concatArrays": [[_size("$feedbacks")], _counts("$feedback_segments")]},
        "undelivered": [_size("$outbox"), _size("$outbox_documents")],
        "bytes": {"$bsonSize": "$$ROOT"},
    }
    return [{"$match": {"_id": session_id}}, {"$project": counted}]


def _size(value: str) -> Stored:
    return {"$size": list_expression(value)}


def _counts(references: str) -> Stored:
    return mapped(list_expression(references), "reference", "$$reference.count")


def added_up(counts: Iterable[Any]) -> int:
    """Return the sum of those of some stored values that are counts."""
    return sum(count for count in counts if is_integer(count) and count > 0)


def ended_lives_filter(lives: Iterable[Life], wanted: Iterable[Stored] = ()) -> Stored:
    """Return the filter of the sessions that are still in one of some lives, and for which conditions hold."""
    found = list(lives)
    ids, instances = [life.session_id for life in found], [life.instance for life in found]
    return {"$and": [{"_id": {"$in": ids}, "instance": {"$in": instances}}, *wanted]}


def lives_after_filter(last: str, wanted: Stored) -> Stored:
    """Return the filter of the sessions with higher ids that match a filter."""
    return {"$and": [wanted, {"_id": {"$gt": last}}]}


def held_counts_pipeline(wanted: Stored) -> Pipeline:
    """Return the aggregation that counts sessions: those that are held, and the others."""
    return [{"$match": wanted}, {"$group": {"_id": {"$eq": ["$held", True]}, "sessions": {"$sum": 1}}}]


# Children


def segments_of_sessions_filter(session_ids: Iterable[str]) -> Stored:
    """Return the filter of the segments of some sessions, in all lives."""
    return {"session_id": {"$in": list(session_ids)}}


def segment_sizes_pipeline(session_ids: Iterable[str]) -> Pipeline:
    """Return the aggregation that measures the segments of some sessions, life by life."""
    life = {"session_id": "$session_id", "instance": "$instance"}
    size = {"$sum": {"$bsonSize": "$$ROOT"}}
    return [{"$match": segments_of_sessions_filter(session_ids)}, {"$group": {"_id": life, "bytes": size}}]


def files_of_sessions_filter(session_ids: Iterable[str]) -> Stored:
    """Return the filter of the files of some sessions, in all lives."""
    return {"metadata.session_id": {"$in": list(session_ids)}}


FILE_PROJECTION = {"metadata.session_id": 1, "metadata.instance": 1, "length": 1}


def files_by_ids_filter(file_ids: Iterable[ObjectId]) -> Stored:
    """Return the filter of files of any sessions."""
    return {"_id": {"$in": list(file_ids)}}


def segments_of_lives_filter(lives: Iterable[Life], before: ObjectId | None = None) -> Stored:
    """Return the filter of the segments of some lives; with a bound only those with lower ids.

    Those without an instance are always bound: a process of an older version may be writing them.
    """
    return _children_filter("", lives, before)


def files_of_lives_filter(lives: Iterable[Life], before: ObjectId | None = None) -> Stored:
    """Return the filter of the files of some lives, as ``segments_of_lives_filter`` does."""
    return _children_filter("metadata.", lives, before)


def _children_filter(of: str, lives: Iterable[Life], before: ObjectId | None) -> Stored:
    numbered: list[Life] = []
    others: list[Life] = []
    for life in lives:
        (others if life.instance is None else numbered).append(life)
    bound = {} if before is None else {"_id": {"$lt": before}}
    old = {"_id": {"$lt": youngest_old_id() if before is None else min(before, youngest_old_id())}}
    instances = {"$in": [life.instance for life in numbered]}
    any_of = [{**_sessions_of(of, numbered), f"{of}instance": instances, **bound}] if numbered else []
    any_of += [{**_sessions_of(of, others), f"{of}instance": None, **old}] if others else []
    return {"$or": any_of}


def _sessions_of(of: str, lives: Iterable[Life]) -> Stored:
    return {f"{of}session_id": {"$in": [life.session_id for life in lives]}}


# Sweeps

SEGMENT_LIFE = {"_id": 0, "session_id": 1, "instance": 1}
FILE_LIFE = {"_id": 0, "metadata.session_id": 1, "metadata.instance": 1}
# Indexes hold these, so that no segment is read.
SEGMENTS_BY_LIFE = [("session_id", 1), ("instance", 1)]
FILES_BY_LIFE = [("metadata.session_id", 1), ("metadata.instance", 1)]

# It has the id of no session, and stands where the segments of one would.
_CLAIM: Mapping[str, Any] = {"_id": "sweep", "session_id": ""}


def sweep_claim_update(at: datetime, interval: timedelta) -> FilterAndUpdate:
    """Return the upsert that claims a sweep; if the last one began within the interval, it inserts a duplicate."""
    # A clock that was set back must not end all sweeps.
    long_ago = {"$or": [{"at": {"$lt": at - interval}}, {"at": {"$gt": at}}]}
    return {**_CLAIM, **long_ago}, {"$set": {"at": at}}


def long_expired_filter(before: datetime) -> Stored:
    """Return the filter of the sessions that expired before a time."""
    return {"expires_at": {"$lt": before}, **EXPIRED_FILTER}  # a range alone also matches a list with a date in it


def announced_segments_update(
    lives: Iterable[Life], removal: ObjectId, before: ObjectId | None = None
) -> FilterAndUpdate:
    """Return filter and update that announce the removal of segments of some lives."""
    return segments_of_lives_filter(lives, before), {"$addToSet": {"removals": removal}}


def withdrawn_segments_update(
    lives: Iterable[Life], removal: ObjectId, before: ObjectId | None = None
) -> FilterAndUpdate:
    """Return filter and update that take the announcement back."""
    return segments_of_lives_filter(lives, before), {"$pull": {"removals": removal}}


def announced_removal_update(lives: Iterable[Life], before: ObjectId | None, removal: ObjectId) -> FilterAndUpdate:
    """Return filter and update that announce the removal of files of some lives."""
    return files_of_lives_filter(lives, before), {"$addToSet": {"metadata.removals": removal}}


def withdrawn_removal_update(lives: Iterable[Life], before: ObjectId | None, removal: ObjectId) -> FilterAndUpdate:
    """Return filter and update that take the announcement back."""
    return files_of_lives_filter(lives, before), {"$pull": {"metadata.removals": removal}}


def announced_files_filter(lives: Iterable[Life], before: ObjectId, removal: ObjectId) -> Stored:
    """Return the filter of the files whose removal was announced."""
    return {**files_of_lives_filter(lives, before), "metadata.removals": removal}
