"""The filters of the catalog: their checks, and their stored form."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any, Final

import bson
from bson.datetime_ms import DatetimeMS

from ..types import SessionFilter
from ..types.catalog import UNSET
from .ids import MAX_ID_BYTES, check_id, check_key, check_name, metadata_path, shown
from .values import Stored, encode

_MOST_TEXT: Final = 256
_FEEDBACK: Final = ("any", "up", "down")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)
# Milliseconds; times outside of them are none that Python knows.
FIRST_MS: Final = (datetime.min.replace(tzinfo=timezone.utc) - _EPOCH) // timedelta(milliseconds=1)
LAST_MS: Final = (datetime.max.replace(tzinfo=timezone.utc) - _EPOCH) // timedelta(milliseconds=1)
_LAST_CHARACTER: Final = 0x10FFFF


@dataclass(frozen=True)
class TimeRange:
    """A range of times, in milliseconds since 1970; the end is not in it."""

    since: int = FIRST_MS
    until: int = LAST_MS + 1

    def condition(self, name: str) -> Stored:
        """Return the condition that a field is a time in this range."""
        return {name: {"$gte": DatetimeMS(self.since), "$lt": DatetimeMS(self.until)}}


@dataclass(frozen=True)
class Conditions:
    """A filter in its stored form.

    Attributes:
        others: The conditions but for times and text.
        times: The ranges of times, by field.
        text: The text to search for.
        everything: Whether the filter says that no condition is meant.
    """

    others: tuple[Stored, ...] = ()
    times: Mapping[str, TimeRange] = field(default_factory=dict)
    text: str | None = None
    everything: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether every session is meant."""
        return not (self.others or self.times or self.text is not None)

    @property
    def all(self) -> list[Stored]:
        """All conditions but for text."""
        ranges = [part for name, span in self.times.items() for part in (span.condition(name), _is_time(name))]
        return [*self.others, *ranges]


def conditions_of(given: object, *, may_search: bool = False) -> Conditions:
    """Return the conditions of a filter.

    Args:
        given: The filter.
        may_search: Whether it may have a text.

    Raises:
        TypeError: It is not a ``SessionFilter``, or a field of it has a wrong type.
        ValueError: A field of it has a value that is not valid.
    """
    if not isinstance(given, SessionFilter):
        raise TypeError(f"filter must be a SessionFilter, got {type(given).__name__}")
    _check_flags(given)
    others = (*_application(given), *_metadata(given), *_agent(given), *_prefix(given), *_feedback(given))
    times = {name: span for name in ("created_at", "updated_at") if (span := _range(given, name)) is not None}
    found = Conditions((*others, *_interrupted(given)), times, _text(given, may_search), given.everything)
    if found.everything and not found.is_empty:
        raise ValueError("filter: everything=True says that no condition is meant, and there is one. Leave one out.")
    return found


def scope_of(given: object) -> Conditions:
    """Return the conditions of a filter that decides over much: to mean every session it must say so.

    Raises:
        TypeError: It is not a ``SessionFilter``, or a field of it has a wrong type.
        ValueError: A field has a value that is not valid, or there is no condition and ``everything`` is False.
    """
    found = conditions_of(given)
    if found.is_empty and not found.everything:
        raise ValueError("filter: it has no condition. Pass SessionFilter(everything=True) if every session is meant.")
    return found


def living_filter(conditions: Iterable[Conditions], *more: Stored) -> Stored:
    """Return the filter of the living sessions for which all conditions hold, but for their texts."""
    return {"$and": [*(part for each in conditions for part in each.all), *more, *_SESSIONS]}


def any_session_filter(conditions: Iterable[Conditions], *more: Stored) -> Stored:
    """Return ``living_filter`` without the condition that the session lives."""
    return {"$and": [*(part for each in conditions for part in each.all), *more, *_OF_SESSIONS]}


def living_session_filter(session_id: str, conditions: Iterable[Conditions], *more: Stored) -> Stored:
    """Return the filter of one session, if it lives and all conditions hold."""
    return {"_id": session_id, **living_filter(conditions, *more)}


def filter_digest(conditions: Iterable[Conditions]) -> str:
    """Return the digest of filters without their times, in any order of their fields and values."""
    parts = [[_canonical(part) for part in each.others] + [repr(each.text).encode()] for each in conditions]
    return hashlib.sha256(b"\0".join(part for each in parts for part in sorted(each))).hexdigest()[:16]


def _canonical(condition: Stored) -> bytes:
    ((name, test),) = condition.items()
    if isinstance(test, Mapping) and "$in" in test:
        test = {"$in": sorted(({"": value} for value in test["$in"]), key=bson.encode)}
    return bson.encode({name: test})


# Expired sessions that the server has not removed yet are none; a list or text in the field is no time. The server's
# clock decides. Ids of other types, or longer ones, are none of sessions, and have no place in a cursor.
_NOT_EXPIRED: Final[Stored] = {"$or": [{"$ne": [{"$type": "$expires_at"}, "date"]}, {"$gt": ["$expires_at", "$$NOW"]}]}
_SHORT_ID: Final[Stored] = {
    "$cond": [{"$eq": [{"$type": "$_id"}, "string"]}, {"$lte": [{"$strLenBytes": "$_id"}, MAX_ID_BYTES]}, False]
}
_OF_SESSIONS: Final[tuple[Stored, ...]] = ({"_id": {"$gte": ""}}, {"$expr": _SHORT_ID})
_SESSIONS: Final[tuple[Stored, ...]] = ({"_id": {"$gte": ""}}, {"$expr": {"$and": [_SHORT_ID, _NOT_EXPIRED]}})


def _is_time(name: str) -> Stored:
    # A range also matches a list with a time in it.
    return {"$expr": {"$eq": [{"$type": f"${name}"}, "date"]}}


# Checks, field by field


def _check_flags(given: SessionFilter) -> None:
    for name in ("everything", "allow_missing"):
        if not isinstance(getattr(given, name), bool):
            raise TypeError(f"filter: {name} must be True or False, got {shown(getattr(given, name))}")


def _application(given: SessionFilter) -> list[Stored]:
    name: Any = given.application_name
    if name is UNSET:
        return []
    if name is not None:
        _check_unicode("application_name", check_name("application_name", name))
    return [{"application_name": {"$eq": name}}]


def _metadata(given: SessionFilter) -> list[Stored]:
    metadata: Any = given.metadata
    if not isinstance(metadata, Mapping):
        raise TypeError(f"filter: metadata must be a mapping, got {type(metadata).__name__}")
    missing = given.allow_missing
    return [{_path(key): _test(f"filter: metadata {key!r}", value, missing)} for key, value in metadata.items()]


def _path(key: object) -> str:
    if not isinstance(key, str):
        raise TypeError(f"filter: a metadata key must be a string, got {type(key).__name__}")
    return metadata_path(check_key("filter: metadata", key))


def _test(label: str, value: Any, allow_missing: bool) -> Stored:
    if isinstance(value, list | tuple | set | frozenset):
        return {"$in": [_scalar(label, each, allow_missing) for each in value]}
    return {"$eq": _scalar(label, value, allow_missing)}


def _scalar(label: str, value: Any, allow_missing: bool) -> Any:
    if value is None and allow_missing:
        return None
    if value is None:
        raise ValueError(
            f"{label}: None is every session without that field. Pass allow_missing=True if that is meant."
        )
    if isinstance(value, datetime):
        return DatetimeMS(_milliseconds(label, value))
    if not isinstance(value, str | int | float):
        raise TypeError(f"{label} must be a string, number, bool or datetime, or a list of these, got a {_kind(value)}")
    return encode(value, label, plain_dates=True)


def _kind(value: object) -> str:
    return type(value).__name__


def _agent(given: SessionFilter) -> list[Stored]:
    if given.agent_id is None:
        return []
    return [{"agent_ids": {"$eq": check_id("agent_id", given.agent_id)}}]


def _prefix(given: SessionFilter) -> list[Stored]:
    if given.id_prefix is None:
        return []
    prefix = check_id("id_prefix", given.id_prefix)
    after = _after(prefix)
    return [{"_id": {"$gte": prefix} if after is None else {"$gte": prefix, "$lt": after}}]


def _after(prefix: str) -> str | None:
    """Return the first text after all that begin so; None if there is none."""
    kept = prefix.rstrip(chr(_LAST_CHARACTER))
    if not kept:
        return None
    following = ord(kept[-1]) + 1
    return kept[:-1] + chr(0xE000 if 0xD800 <= following < 0xE000 else following)


def _feedback(given: SessionFilter) -> list[Stored]:
    wanted: Any = given.feedback
    if wanted is None:
        return []
    if not isinstance(wanted, str):
        raise TypeError(f"filter: feedback must be a string, got {type(wanted).__name__}")
    if wanted not in _FEEDBACK:
        raise ValueError(f"filter: feedback must be one of {', '.join(map(repr, _FEEDBACK))}, got {shown(wanted)}")
    return [{"$or": _ANY_FEEDBACK if wanted == "any" else _rated(wanted)}]


def _rated(rating: str) -> list[Stored]:
    # The counts survive a move; sessions from before there were counts have only the entries.
    return [{f"feedback_counts.{rating}": {"$gt": 0}}, {"feedbacks.rating": rating}]


_ANY_FEEDBACK: Final[list[Stored]] = [
    {"feedbacks.0": {"$exists": True}},
    {"feedback_segments.0": {"$exists": True}},
]


def _interrupted(given: SessionFilter) -> list[Stored]:
    if given.interrupted is None:
        return []
    if not isinstance(given.interrupted, bool):
        raise TypeError(f"filter: interrupted must be True, False or None, got {shown(given.interrupted)}")
    return [{"interrupted.0": {"$exists": given.interrupted}}]


def _text(given: SessionFilter, may_search: bool) -> str | None:
    text: Any = given.text
    if text is None:
        return None
    if not isinstance(text, str):
        raise TypeError(f"filter: text must be a string, got {type(text).__name__}")
    if not may_search:
        raise ValueError("filter: only list() and iterate() take a text.")
    if not 1 <= len(text) <= _MOST_TEXT:
        raise ValueError(f"filter: text must have 1 to {_MOST_TEXT} characters, got {len(text)}")
    return _check_unicode("text", text)


def _check_unicode(name: str, text: Any) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"filter: {name} must be valid Unicode, got {shown(text)}") from None
    return str(text)


def _range(given: SessionFilter, name: str) -> TimeRange | None:
    """Return the range of one time; None if the filter has none."""
    prefix = name.removesuffix("at")
    since, until = (getattr(given, f"{prefix}{end}") for end in ("since", "until"))
    if since is None and until is None:
        return None
    label = f"filter: {prefix}"
    found = TimeRange(
        FIRST_MS if since is None else _milliseconds(f"{label}since", since),
        LAST_MS + 1 if until is None else _milliseconds(f"{label}until", until),
    )
    if found.since >= found.until:
        raise ValueError(f"{label}since must be before {prefix}until, got {since} and {until}")
    return found


def _milliseconds(label: str, at: object) -> int:
    """Return a time in milliseconds since 1970, the next whole one."""
    if not isinstance(at, datetime):
        raise TypeError(f"{label} must be a datetime, got {type(at).__name__}")
    if at.utcoffset() is None:
        raise ValueError(f"{label} must have a time zone, such as datetime.timezone.utc, got {at.isoformat()}")
    return -(-(at - _EPOCH) // timedelta(milliseconds=1))
