"""The usage of models across sessions, by application, agent, model, day, month or session."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from typing import Any, Final, get_args

from ..types.catalog import UsageKey, UsageRow
from .agent_rows import date_expression, found_agents_pipeline, joined, let, mapped, text_expression
from .call_rows import SUMMED, calls_expression, usage_expression
from .catalog_filter import Conditions, Either, living_filter, milliseconds, time_of
from .ids import shown
from .summaries import number
from .values import Pipeline, Stored, unescape_key

KEYS: Final[tuple[str, ...]] = get_args(UsageKey)

_NAME_BYTES: Final = 8 * 1024
_MIDNIGHT: Final = datetime.min.time()
# Clocks of hosts differ: a call's time is one host's, that of the session's latest write may be another's.
_SKEW: Final = timedelta(hours=1)
_DAY_FORMAT: Final = "%Y-%m-%d"


@dataclass(frozen=True)
class UsageReport:
    """What a usage report is about.

    Attributes:
        by: What its rows are made by.
        since: The first day; None for no limit.
        until: The day after the last one; None for no limit.
    """

    by: tuple[str, ...]
    since: date | None
    until: date | None

    @classmethod
    def of(cls, by: object, since: object, until: object) -> "UsageReport":
        """Return the report that a caller asked for.

        Raises:
            TypeError: An argument has a wrong type.
            ValueError: ``by`` has an unknown or a repeated name, a bound is inside of a day or has no time zone, or
                ``since`` is not before ``until``.
        """
        first, end = _day("since", since), _day("until", until)
        if first is not None and end is not None and first >= end:
            raise ValueError(f"since must be before until, got {first} and {end}")
        return cls(_names(by), first, end)

    def pipeline(self, conditions: Iterable[Conditions]) -> Pipeline:
        """Return the aggregation that adds up the calls."""
        keys = {name: self._key(name) for name in self.by}
        return [
            {"$match": living_filter(conditions, self._written_since())},
            *found_agents_pipeline(),
            {"$project": {"application_name": 1, "row": self._calls()}},
            {"$unwind": "$row"},
            {"$match": {"row.calls": {"$gt": 0}, **self._within()}},
            {"$group": {"_id": keys, **{name: {"$sum": f"$row.{name}"} for name in SUMMED}}},
        ]

    def rows(self, found: Iterable[Stored]) -> list[UsageRow]:
        """Return the rows of the report, in the order of their keys."""
        sums: dict[tuple[str | None, ...], dict[str, int]] = {}
        for each in found:
            # A model, or an agent, may be there as it is and as the name of a field.
            key = tuple(_name(name, each["_id"].get(name)) for name in self.by)
            added = sums.setdefault(key, dict.fromkeys(SUMMED, 0))
            for name in added:
                added[name] += number(each[name])
        return [self._row(key, sums[key]) for key in sorted(sums, key=lambda key: [part or "" for part in key])]

    def _row(self, key: Sequence[str | None], figures: Mapping[str, int]) -> UsageRow:
        fields: dict[str, Any] = {**dict(zip(self.by, key, strict=True)), **figures}
        return UsageRow(**fields)

    def _written_since(self) -> list[Either]:
        """Return the condition that a session was written since the first day, or nobody knows when."""
        if self.since is None:
            return []
        at = datetime.combine(self.since, _MIDNIGHT, timezone.utc)
        earlier = {"$lt": at - _SKEW if at - datetime.min.replace(tzinfo=timezone.utc) > _SKEW else at}
        return [({"updated_at": {"$not": earlier}},)]

    def _calls(self) -> Stored:
        """Return the calls of all agents; their sums, if nothing is asked for that calls differ in."""
        agent: Stored = {"agent": "$$agent.k"} if "agent_id" in self.by else {}
        if not self._needs_day() and "model" not in self.by:
            return mapped("$found", "agent", {"$mergeObjects": [usage_expression("$$agent.v"), agent]})
        call, moved = ({"day": _DAY_OF_CALL}, {"day": "$$day.k"}) if self._needs_day() else ({}, {})
        return joined("$found", "agent", calls_expression("$$agent.v", {**agent, **call}, {**agent, **moved}))

    def _needs_day(self) -> bool:
        return bool({"day", "month"} & {*self.by}) or self.since is not None or self.until is not None

    def _within(self) -> Stored:
        bounds = {"$gte": self.since, "$lt": self.until}
        found = {test: day.isoformat() for test, day in bounds.items() if day is not None}
        return {"row.day": found} if found else {}

    def _key(self, name: str) -> Any:
        texts = {"application_name": "$application_name", "agent_id": "$row.agent", "session_id": "$_id"}
        if name in texts:
            return text_expression(texts[name], _NAME_BYTES)
        if name == "model":
            model = text_expression("$row.model", _NAME_BYTES)
            return {"name": model, "is_escaped": {"$eq": ["$row.escaped", True]}}
        day = text_expression("$row.day", len("2026-01-31"))
        # A text put there by hand may have a character across the place where it would be cut.
        parts = [{"$arrayElemAt": [{"$split": [day, "-"]}, n]} for n in range(2)]
        return day if name == "day" else {"$concat": [parts[0], "-", parts[1]]}


def _day_of_call() -> Stored:
    # The server knows no names of days before the year 0 and after 9999.
    is_known = {"$and": [{"$gte": ["$$at", time_of(0)]}, {"$lte": ["$$at", _LAST]}]}
    named = {"$dateToString": {"date": "$$at", "format": _DAY_FORMAT}}
    return let({"at": date_expression("$$call.created_at")}, {"$cond": [is_known, named, None]})


_LAST: Final = datetime(9999, 12, 31, tzinfo=timezone.utc)
_DAY_OF_CALL: Final = _day_of_call()


def _name(key: str, value: Any) -> str | None:
    if key == "model":
        model, is_escaped = value.get("name"), value.get("is_escaped")
        return (unescape_key(model) or None) if is_escaped and model is not None else model
    return unescape_key(value) if key == "agent_id" and value is not None else value


def _names(by: Any) -> tuple[str, ...]:
    if isinstance(by, str) or not isinstance(by, Collection):
        raise TypeError(f"by must be a list of names, got {type(by).__name__}")
    names = tuple(by)
    wrong = next((name for name in names if name not in KEYS), None)
    if wrong is not None or len(set(names)) < len(names):
        raise ValueError(f"by must have some of {', '.join(map(repr, KEYS))}, each once, got {shown(list(names))}")
    return names


def _day(name: str, at: Any) -> date | None:
    """Return the day that a bound names; a datetime is one at midnight in UTC."""
    if at is None:
        return None
    if not isinstance(at, date):
        raise TypeError(f"{name} must be a date, or a datetime at midnight in UTC, got {type(at).__name__}")
    if not isinstance(at, datetime):
        return at
    day = time_of(milliseconds(name, at))
    if day != at or day.time() != _MIDNIGHT:
        raise ValueError(f"{name} must be midnight in UTC, since usage is kept by day, got {at.isoformat()}")
    return day.date()
