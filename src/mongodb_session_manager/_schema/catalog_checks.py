"""What a collection of sessions holds that lists cannot show, and how it is brought up to date."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from ..types.reports import Finding
from .agent_rows import found_agents_pipeline, is_a, text_expression
from .catalog_filter import IS_ID, Conditions
from .ids import check_id
from .nested import list_expression
from .sessions import SCHEMA_VERSION
from .summaries import time
from .values import FilterAndUpdate, Pipeline, Stored, unescape_key

_TIMES: Final = ("created_at", "updated_at")
_KEY_BYTES: Final = 8 * 1024
_TIME_BYTES: Final = 64
_TTL_DELAY_MS: Final = 5 * 60 * 1000

_IS_KNOWN: Final = {
    "$or": [
        {"$in": [{"$type": "$schema_version"}, ["missing", "null"]]},
        {
            "$cond": [
                {"$in": [{"$type": "$schema_version"}, ["int", "long"]]},
                {"$lte": ["$schema_version", SCHEMA_VERSION]},
                False,
            ]
        },
    ]
}
_HAS_TEXT_TIME: Final = {"$or": [is_a(f"${name}", "string") for name in _TIMES]}
_HAS_NO_TIME: Final = {"$or": [{"$not": [{"$in": [{"$type": f"${name}"}, ["date", "string"]]}]} for name in _TIMES]}
_LACKS_AGENT_IDS: Final = {"$lt": [{"$size": list_expression("$agent_ids")}, {"$size": "$found"}]}
_IS_LEFT_BEHIND: Final = {
    "$cond": [is_a("$expires_at", "date"), {"$lt": ["$expires_at", {"$subtract": ["$$NOW", _TTL_DELAY_MS]}]}, False]
}

# By the code of the finding: which documents are counted, and what is said of them.
_COUNTED: Final[Mapping[str, tuple[Any, str]]] = {
    "foreign_ids": (
        {"$not": [IS_ID]},
        "documents have an _id that is not a session id, so they are in no list. Move them to another collection.",
    ),
    "newer_versions": (
        {"$not": [_IS_KNOWN]},
        "sessions have a schema_version that this version of the library does not read. Upgrade the library.",
    ),
    "unreadable": (
        {"$not": [is_a("$agents", "object")]},
        "documents do not have the shape of a session. Move them to another collection.",
    ),
    "text_times": (
        _HAS_TEXT_TIME,
        "sessions have times that are text, so they come only in lists by session_id. upgrade() makes them dates.",
    ),
    "no_times": (
        _HAS_NO_TIME,
        "sessions have times that are no times, so they come only in lists by session_id. Set created_at and "
        "updated_at to dates.",
    ),
    "unlisted_agents": (
        _LACKS_AGENT_IDS,
        "sessions do not list all their agents in agent_ids, so filters by agent do not find them. upgrade() does it.",
    ),
    "left_behind": (
        _IS_LEFT_BEHIND,
        "sessions expired more than 5 minutes ago and are still stored. sweep() removes them; see whether the TTL "
        "index is there.",
    ),
}


def checks_pipeline(conditions: Iterable[Conditions]) -> Pipeline:
    """Return the aggregation that counts what lists cannot show, among the documents for which all conditions hold."""
    wanted = [{"$or": [*part]} for each in conditions for part in each.all]
    counts = {code: {"$sum": {"$cond": [test, 1, 0]}} for code, (test, _) in _COUNTED.items()}
    match: Pipeline = [{"$match": {"$and": wanted}}] if wanted else []
    return [*match, *found_agents_pipeline(), {"$group": {"_id": None, **counts}}]


def count_findings(row: Mapping[str, Any]) -> list[Finding]:
    """Return what the counts of ``checks_pipeline`` tell."""
    found = ((code, int(row.get(code, 0)), detail) for code, (_, detail) in _COUNTED.items())
    return [Finding(code=code, count=count, detail=f"{count} {detail}") for code, count, detail in found if count]


# Upgrades


def outdated_pipeline(after: str | None, limit: int) -> Pipeline:
    """Return the aggregation that reads what is out of date in sessions of known versions, by session id."""
    is_outdated = {"$and": [IS_ID, _IS_KNOWN, is_a("$agents", "object"), {"$or": [_HAS_TEXT_TIME, _LACKS_AGENT_IDS]}]}
    keys = {"$map": {"input": "$found", "as": "each", "in": text_expression("$$each.k", _KEY_BYTES)}}
    times = {name: text_expression(f"${name}", _TIME_BYTES) for name in _TIMES}
    return [
        {"$match": {"_id": {"$gte": "", "$regex": "", **({} if after is None else {"$gt": after})}}},
        {"$sort": {"_id": 1}},
        *found_agents_pipeline(),
        {"$match": {"$expr": is_outdated}},
        {"$limit": limit},
        {"$project": {**times, "keys": keys, "agent_ids": "$agent_ids", "lacks": _LACKS_AGENT_IDS}},
    ]


def upgrade_update(row: Mapping[str, Any]) -> FilterAndUpdate | None:
    """Return filter and update that bring a session up to date, if it is as it was read; None if it cannot be."""
    wanted: Stored = {"_id": row["_id"]}
    texts = {name: row[name] for name in _TIMES if row[name] is not None}
    dates = {name: _milliseconds(at) for name, at in texts.items()}
    if None in dates.values():
        return None
    update: dict[str, Stored] = {"$set": dates} if dates else {}
    if row["lacks"]:
        if not isinstance(row.get("agent_ids", []), list):
            return None
        update["$addToSet"] = {"agent_ids": {"$each": _agent_ids(row["keys"])}}
    return ({**wanted, **texts}, update) if update else None


def _milliseconds(at: object) -> datetime | None:
    found = time(at)
    return None if found is None else found - timedelta(microseconds=found.microsecond % 1000)


def _agent_ids(keys: Iterable[Any]) -> list[str]:
    found = []
    for key in keys:
        try:
            found.append(check_id("agent_id", unescape_key(key)))
        except (TypeError, ValueError):  # put there by hand
            continue
    return found
