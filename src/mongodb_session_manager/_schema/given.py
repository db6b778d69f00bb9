"""Checks of arguments, and their stored form; an error names the argument."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, TypeAlias

from strands.types.session import SessionType

from ..errors import UnstorableValueError
from .ids import check_id, check_key, check_name, check_sought_key, now, shown
from .messages import aware
from .metadata_keys import check_spellings, check_ways, numbered_fields, ways_of
from .values import Stored, encode

__all__ = [
    "Outbox",
    "check_flag",
    "check_names",
    "check_numbers",
    "feedback_values",
    "given_time",
    "given_type",
    "held_values",
    "index_fields",
    "metadata_keys",
    "metadata_values",
    "named",
    "outbox_records",
]

Outbox: TypeAlias = Sequence[Mapping[str, Any]]

# An error names at most so many keys: models read errors too.
_MOST_NAMED = 5


def check_names(database_name: object, collection_name: object, application_name: object) -> None:
    """Raise unless every value is a valid name or None.

    Raises:
        TypeError: One is not a string.
        ValueError: One is a connection string, or is not valid Unicode.
    """
    names = {"database_name": database_name, "collection_name": collection_name, "application_name": application_name}
    for name, value in names.items():
        try:
            (check_name(name, value) or "").encode()
        except UnicodeEncodeError:
            raise ValueError(f"{name} must be valid Unicode, got {shown(value)}") from None


def check_flag(name: str, value: object) -> None:
    """Raise unless a value is True or False.

    Raises:
        TypeError: It is something else.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {shown(value)}")


def index_fields(metadata_fields: Sequence[str] | None) -> tuple[str, ...]:
    """Return the metadata fields to index.

    Raises:
        TypeError: It is a string, or is not iterable.
        ValueError: A field is not a valid name.
    """
    if isinstance(metadata_fields, str):
        raise TypeError(f"metadata_fields must be a list of names, not a string: {shown(metadata_fields)}")
    if not isinstance(metadata_fields, Iterable | None):
        raise TypeError(f"metadata_fields must be a list of names, got {type(metadata_fields).__name__}")
    fields = tuple(check_sought_key("metadata_fields", field) for field in metadata_fields or ())
    for field_name in fields:
        check_name("metadata_fields", field_name)
    return fields


def check_numbers(**numbers: object) -> None:
    """Raise unless every value is a number or None.

    Raises:
        TypeError: A value is neither.
    """
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | None):
            raise TypeError(f"{name} must be a number, got {type(value).__name__}")


def given_time(label: str, name: str, at: Any) -> datetime:
    """Return a time that a caller gave.

    Raises:
        ValueError: It is not a valid time.
    """
    try:
        found = aware(at)
        found.astimezone(timezone.utc)  # where it is a time of the years 1 to 9999 too
    except (AttributeError, OverflowError, TypeError, ValueError):
        raise ValueError(
            f"{label}: {name} must be a time in ISO 8601, such as '2026-01-31T12:00:00+00:00', or a datetime."
        ) from None
    return found


def given_type(label: str, session_type: object) -> str:
    """Return the type of a session that a caller gave.

    Raises:
        TypeError: It is not a string.
        ValueError: It is not valid Unicode.
    """
    if not isinstance(session_type, str):
        raise TypeError(f"{label}: session_type must be a string, got {type(session_type).__name__}")
    name = session_type.value if isinstance(session_type, SessionType) else str.__str__(session_type)
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{label}: session_type must be valid Unicode, got {name[:50]!r}") from None
    return name


def metadata_values(session_id: str, metadata: object) -> Stored:
    """Return metadata values in their stored form, by dotted key."""
    label = f"Metadata of session {check_id('session_id', session_id)!r}"
    if not isinstance(metadata, Mapping):
        raise TypeError(f"{label} must be given as a mapping, got {type(metadata).__name__}")
    keys = [check_key(label, key) for key in metadata]
    _check_overlaps(label, keys)
    check_ways(label, ways_of(keys))
    check_spellings(label, keys)
    return {
        key: encode(value, f"{label}, {key}", plain_dates=True, depth=key.count(".")) for key, value in metadata.items()
    }


def held_values(session_id: str, held: Mapping[str, Any]) -> Stored:
    """Return the metadata values that a session must hold, in their stored form, by dotted key."""
    values = metadata_values(session_id, held)
    for key in values:
        check_sought_key(f"Metadata of session {session_id!r}", key)
    return values


def metadata_keys(session_id: str, keys: object) -> list[str]:
    """Return the metadata keys that a caller gave, each once."""
    label = f"Metadata of session {check_id('session_id', session_id)!r}"
    if isinstance(keys, str | bytes | Mapping) or not isinstance(keys, Iterable):
        raise TypeError(f"{label}: the keys to delete must be a list of strings, got {type(keys).__name__}")
    names = list(dict.fromkeys(check_key(label, key) for key in keys))
    _check_overlaps(label, names)
    check_ways(label, numbered_fields(names))
    return names


def _check_overlaps(label: str, keys: Iterable[str]) -> None:
    names = sorted(key.split(".") for key in keys)
    for shorter, longer in itertools.pairwise(names):
        if longer[: len(shorter)] == shorter:
            raise ValueError(f"{label}: {'.'.join(shorter)!r} and {'.'.join(longer)!r} overlap; give one of them")


def named(keys: Iterable[str], at_fault: Callable[[str], bool]) -> str:
    """Return the keys that may be wrong, as text; only some if there are many."""
    names = [key for key in keys if at_fault(key)]
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return f"one of {names[:_MOST_NAMED]}{more}" if len(names) > 1 else repr(names[0])


def outbox_records(session_id: str, records: Outbox) -> list[Stored]:
    """Return notifications in their stored form."""
    return [encode(dict(record), f"Outbox of session {session_id!r}", plain_dates=True) for record in records]


def feedback_values(session_id: str, feedback: object) -> Stored:
    """Return feedback in its stored form, with its ``created_at``."""
    label = f"Feedback on session {check_id('session_id', session_id)!r}"
    if not isinstance(feedback, Mapping):
        raise TypeError(f"{label} must be a mapping, got {type(feedback).__name__}")
    if "created_at" in feedback:
        raise ValueError(f"{label}: 'created_at' is set here; give a time of your own another name")
    # Its fields are queried by name, so they are strings, unlike keys inside values.
    odd = next((type(key).__name__ for key in feedback if not isinstance(key, str)), None)
    if odd is not None:
        raise UnstorableValueError(label, f"it has a key of type {odd}; use strings as names of fields")
    stored: Stored = encode(dict(feedback), label, plain_dates=True)
    return {**stored, "created_at": now()}
