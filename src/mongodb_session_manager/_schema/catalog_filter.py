"""The filters of the catalog: their checks, and their stored form."""

import hashlib
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any, Final, TypeAlias

import bson

from ..types import SessionFilter
from ..types.catalog import UNSET
from .agent_rows import is_short_text
from .expiry import IS_EXPIRED
from .given import check_flag
from .ids import MAX_ID_BYTES, check_id, check_name, check_sought_key, metadata_path, shown
from .values import Stored, encode

_MOST_TEXT: Final = 256
_FEEDBACK: Final = ("any", "up", "down")
RATINGS: Final = ("up", "down", "other")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)
# Milliseconds; Python has no times outside of them.
FIRST_MS: Final = (datetime.min.replace(tzinfo=timezone.utc) - _EPOCH) // timedelta(milliseconds=1)
LAST_MS: Final = (datetime.max.replace(tzinfo=timezone.utc) - _EPOCH) // timedelta(milliseconds=1)
_LAST_CHARACTER: Final = 0x10FFFF


def time_of(ms: int) -> datetime:
    """Return the time that is so many milliseconds after 1970; the first or last one for one beyond."""
    return _EPOCH + timedelta(milliseconds=max(FIRST_MS, min(ms, LAST_MS)))


@dataclass(frozen=True)
class TimeRange:
    """A range of times, in milliseconds since 1970; the end is not in it."""

    since: int | None = None
    until: int | None = None

    def condition(self, name: str) -> Stored:
        """Return the condition that a field is a time in this range."""
        first = time_of(FIRST_MS if self.since is None else self.since)
        return {
            name: {"$gte": first, "$lte": time_of(LAST_MS)}
            | ({} if self.until is None else {"$lt": time_of(self.until)})
        }


# The alternatives of one condition.
Either: TypeAlias = tuple[Stored, ...]


@dataclass(frozen=True)
class Conditions:
    """A filter in its stored form.

    Attributes:
        others: The conditions but for times and text, each as its alternatives.
        times: The ranges of times, by field.
        text: The text to search for.
        everything: Whether the filter says that no condition is meant.
    """

    others: tuple[Either, ...] = ()
    times: Mapping[str, TimeRange] = field(default_factory=dict)
    text: str | None = None
    everything: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether every session is meant."""
        return not (self.others or self.times or self.text is not None)

    @property
    def all(self) -> list[Either]:
        """All conditions but for text, each as its alternatives."""
        return [*self.others, *(each for name, span in self.times.items() for each in time_conditions(name, span))]


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
    large = (*_sized("application_name", _application(given)), *_sized("metadata", _metadata(given)))
    others = (*large, *_agent(given), *_prefix(given), *_feedback(given))
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


def living_filter(conditions: Iterable[Conditions], more: Iterable[Either] = ()) -> Stored:
    """Return the filter of the living sessions for which all conditions hold, but for their texts.

    A server uses an index that fits one alternative, and merges what is sorted, only if the alternatives stand at the
    top of the filter and hold all other conditions each.
    """
    parts = [*(part for each in conditions for part in each.all), *more, *_SESSIONS]
    split, count = list[Either](), 1
    most = min(_MOST_ALTERNATIVES, _MOST_SPLIT_BYTES // _size(parts))
    for part in sorted(parts, key=len):
        if len(part) > 1 and count * len(part) <= most:
            split.append(part)
            count *= len(part)
    kept = [part[0] if len(part) == 1 else {"$or": [*part]} for part in parts if part not in split]
    if not split:
        return {"$and": kept}
    return {"$or": [{"$and": [*kept, *each]} for each in itertools.product(*split)]}


def any_session_filter(conditions: Iterable[Conditions], more: Iterable[Either] = ()) -> Stored:
    """Return the filter of the sessions for which all conditions hold, also of those that have expired."""
    parts = [*(part for each in conditions for part in each.all), *more, *_SESSIONS_EVEN_EXPIRED]
    return {"$and": [part[0] if len(part) == 1 else {"$or": [*part]} for part in parts]}


def living_session_filter(session_id: str, conditions: Iterable[Conditions], more: Iterable[Either] = ()) -> Stored:
    """Return the filter of one session, if it lives and all conditions hold."""
    return living_filter(conditions, [({"_id": check_id("session_id", session_id)},), *more])


def time_conditions(name: str, span: TimeRange) -> list[Either]:
    """Return the conditions that a field is a time in a range; a range alone also matches a list with one in it."""
    return [(span.condition(name),), ({"$expr": {"$eq": [{"$type": f"${name}"}, "date"]}},)]


def filter_digest(conditions: Iterable[Conditions]) -> str:
    """Return the digest of filters without their times, in any order of their fields and values."""
    parts = [[_canonical(part) for part in each.others] + [repr(each.text).encode()] for each in conditions]
    return hashlib.sha256(b"\0".join(part for each in parts for part in sorted(each))).hexdigest()[:16]


def _canonical(condition: Either) -> bytes:
    return b"".join(sorted(bson.encode(each) for each in condition))


# Expired sessions that the server has not removed yet are gone. An id of another type, or a longer one, is not that of
# a session, and has no place in a cursor.
_NOT_EXPIRED: Final[Stored] = {"$not": [IS_EXPIRED]}
IS_ID: Final[Stored] = is_short_text("$_id", MAX_ID_BYTES)
# In a query, a regular expression matches no text that is not UTF-8: such an id has no place in a cursor either.
_TEXT_ID: Final[Either] = ({"_id": {"$gte": "", "$regex": ""}},)
_SESSIONS: Final[tuple[Either, ...]] = (
    _TEXT_ID,
    ({"$expr": {"$and": [IS_ID, _NOT_EXPIRED]}},),
)
_SESSIONS_EVEN_EXPIRED: Final[tuple[Either, ...]] = (_TEXT_ID, ({"$expr": IS_ID},))
_MOST_ALTERNATIVES: Final = 32
# Each alternative repeats the other conditions, and the server takes a command of 16 MiB.
_MOST_SPLIT_BYTES: Final = 2**20
_MOST_BYTES: Final = 4 * 2**20


# Checks, field by field


def _check_flags(given: SessionFilter) -> None:
    for name in ("everything", "allow_missing"):
        check_flag(f"filter: {name}", getattr(given, name))


def _sized(name: str, parts: list[Either]) -> list[Either]:
    if (size := _size(parts)) > _MOST_BYTES:
        raise ValueError(f"filter: {name} has {size:,} bytes, and at most 4 MiB are possible. Give fewer values.")
    return parts


def _size(parts: Iterable[Either]) -> int:
    return sum(len(bson.encode(each)) for part in parts for each in part)


def _application(given: SessionFilter) -> list[Either]:
    name: Any = given.application_name
    if name is UNSET:
        return []
    if name is not None:
        _check_unicode("application_name", check_name("application_name", name))
    return [_equal("application_name", name)]


def _metadata(given: SessionFilter) -> list[Either]:
    metadata: Any = given.metadata
    if not isinstance(metadata, Mapping):
        raise TypeError(f"filter: metadata must be a mapping, got {type(metadata).__name__}")
    return [_any_of(_path(key), f"filter: metadata {key!r}", value, given) for key, value in metadata.items()]


def _path(key: object) -> str:
    if not isinstance(key, str):
        raise TypeError(f"filter: a metadata key must be a string, got {type(key).__name__}")
    return metadata_path(check_sought_key("filter: metadata", key))


def _any_of(path: str, label: str, value: Any, given: SessionFilter) -> Either:
    if not isinstance(value, list | tuple | set | frozenset):
        return _equal(path, _scalar(label, value, given.allow_missing))
    # A set has another order in another process, and a cursor goes on there.
    values = sorted((_scalar(label, each, given.allow_missing) for each in value), key=_bson)
    if 1 <= len(values) <= _MOST_ALTERNATIVES:
        return tuple(each for value in values for each in _equal(path, value))
    return ({path: {"$in": values}},)


def _bson(value: Any) -> bytes:
    return bson.encode({"": value})


def _equal(path: str, value: Any) -> Either:
    """Return the condition that a field has a value; None also if the field is missing."""
    # Compared with null, an index has two places, which are not sorted together.
    return ({path: {"$exists": False}}, {path: {"$type": "null"}}) if value is None else ({path: {"$eq": value}},)


def _scalar(label: str, value: Any, allow_missing: bool) -> Any:
    if value is None and allow_missing:
        return None
    if value is None:
        raise ValueError(
            f"{label}: None is every session without that field. Pass allow_missing=True if that is meant."
        )
    if isinstance(value, datetime):
        return _stored_time(label, value)
    if not isinstance(value, str | int | float):
        raise TypeError(
            f"{label} must be a string, number, bool or datetime, or a list of these, got a {type(value).__name__}"
        )
    return encode(value, label, plain_dates=True)


def _agent(given: SessionFilter) -> list[Either]:
    if given.agent_id is None:
        return []
    return [_equal("agent_ids", check_id("agent_id", given.agent_id))]


def _prefix(given: SessionFilter) -> list[Either]:
    if given.id_prefix is None:
        return []
    prefix = check_id("id_prefix", given.id_prefix)
    after = _after(prefix)
    return [({"_id": {"$gte": prefix} if after is None else {"$gte": prefix, "$lt": after}},)]


def _after(prefix: str) -> str | None:
    """Return the first text after all that begin so; None if there is none."""
    kept = prefix.rstrip(chr(_LAST_CHARACTER))
    if not kept:
        return None
    following = ord(kept[-1]) + 1
    return kept[:-1] + chr(0xE000 if 0xD800 <= following < 0xE000 else following)


def _feedback(given: SessionFilter) -> list[Either]:
    wanted: Any = given.feedback
    if wanted is None:
        return []
    if not isinstance(wanted, str):
        raise TypeError(f"filter: feedback must be a string, got {type(wanted).__name__}")
    if wanted not in _FEEDBACK:
        raise ValueError(f"filter: feedback must be one of {', '.join(map(repr, _FEEDBACK))}, got {shown(wanted)}")
    return [feedback_condition(str.__str__(wanted))]


def feedback_condition(rating: str) -> Either:
    """Return the condition that a session has feedback, with a rating or ``"any"``."""
    if rating == "any":
        return {"feedbacks.0": {"$exists": True}}, {"feedback_segments.0": {"$exists": True}}
    # The counts survive a move; sessions from before there were counts have only the entries.
    return {f"feedback_counts.{rating}": {"$gt": 0}}, {"feedbacks.rating": rating}


def is_rated(rating: str) -> Stored:
    """Return the condition that ``$$each`` is feedback with a rating; ``"other"`` is another one, or none."""
    if rating != "other":
        return {"$eq": ["$$each.rating", rating]}
    return {"$not": [{"$in": ["$$each.rating", [name for name in RATINGS if name != rating]]}]}


def _interrupted(given: SessionFilter) -> list[Either]:
    if given.interrupted is None:
        return []
    if not isinstance(given.interrupted, bool):
        raise TypeError(f"filter: interrupted must be True, False or None, got {shown(given.interrupted)}")
    return [({"interrupted.0": {"$exists": given.interrupted}},)]


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
    found = TimeRange(_given_ms(f"{label}since", since), _given_ms(f"{label}until", until))
    if found.since is not None and found.until is not None and found.since >= found.until:
        raise ValueError(f"{label}since must be before {prefix}until, got {since} and {until}")
    return found


def _given_ms(label: str, at: object) -> int | None:
    return None if at is None else milliseconds(label, at)


def milliseconds(label: str, at: object) -> int:
    """Return a time in milliseconds since 1970, the next whole one."""
    return -(-_since_epoch(label, at) // timedelta(milliseconds=1))


def _stored_time(label: str, at: object) -> datetime:
    """Return a time as BSON stores it: in milliseconds, the last whole one."""
    return time_of(_since_epoch(label, at) // timedelta(milliseconds=1))


def _since_epoch(label: str, at: object) -> timedelta:
    if not isinstance(at, datetime):
        raise TypeError(f"{label} must be a datetime, got {type(at).__name__}")
    if at.utcoffset() is None:
        raise ValueError(f"{label} must have a time zone, such as datetime.timezone.utc, got {at.isoformat()}")
    return at - _EPOCH
