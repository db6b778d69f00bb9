"""Cursors: where a list goes on, as text that a client may keep."""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ..errors import InvalidCursorError
from .catalog_filter import FIRST_MS, LAST_MS
from .ids import MAX_ID_BYTES, is_integer

_VERSION: Final = 1
_MOST_BYTES: Final = 16 * 1024
_NAMES: Final = {"v", "s", "f", "i", "t", "u", "n"}
_MOST_ENTRIES: Final = 2**53


@dataclass(frozen=True)
class Place:
    """A place in a list.

    Attributes:
        session_id: The session that came last; None for the beginning.
        at: The time by which it is sorted, in milliseconds since 1970; None if the list is not sorted by a time.
        until: The end of the list, in milliseconds since 1970; None if it has none.
        number: The number of the entry within the session; None in lists of sessions.
    """

    session_id: str | None = None
    at: int | None = None
    until: int | None = None
    number: int | None = None


def encode_cursor(sort: str, digest: str, place: Place) -> str:
    """Return a place in a list as text.

    Args:
        sort: The order of the list.
        digest: Of its filter.
        place: Where it goes on.
    """
    found = {"i": place.session_id, "t": place.at, "u": place.until, "n": place.number}
    fields = {"v": _VERSION, "s": sort, "f": digest, **{name: each for name, each in found.items() if each is not None}}
    text = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode_cursor(cursor: object, sort: str, digest: str, *, timed: bool, numbered: bool = False) -> Place:
    """Return the place that a cursor of this list names.

    Args:
        cursor: As a caller gave it; None for the beginning.
        sort: The order of the list.
        digest: Of its filter.
        timed: Whether the list is sorted by a time.
        numbered: Whether its items are entries of sessions.

    Raises:
        InvalidCursorError: The list gave no such cursor.
    """
    if cursor is None:
        return Place()
    fields = _fields(cursor)
    if fields.get("s") != sort:
        raise InvalidCursorError("comes from a list in another order.")
    if fields.get("f") != digest:
        raise InvalidCursorError("comes from a list with another filter.")
    place = Place(_id(fields), _time(fields, "t"), _time(fields, "u"), _number(fields))
    begins = place.session_id is None
    if (place.at is None) != (begins or not timed) or (place.number is None) != (begins or not numbered):
        raise InvalidCursorError("names no place in this list.")
    if place.until is not None and sort != "updated_at":
        raise InvalidCursorError("names an end that this list does not have.")
    return place


def _fields(cursor: object) -> Mapping[str, Any]:
    if not isinstance(cursor, str):
        raise InvalidCursorError(f"must be a string, not a {type(cursor).__name__}.")
    if len(cursor) > _MOST_BYTES:
        raise InvalidCursorError(f"is longer than {_MOST_BYTES} characters.")
    try:
        fields = json.loads(_decoded(cursor).decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError):  # of base64, UTF-8 and JSON
        raise InvalidCursorError("is not one of this library's, or was changed.") from None
    if not isinstance(fields, dict) or not fields.keys() <= _NAMES or not is_integer(fields.get("v")):
        raise InvalidCursorError("is not one of this library's, or was changed.")
    if fields["v"] != _VERSION:
        raise InvalidCursorError(f"has version {fields['v']}, which this version of the library does not read.")
    return fields


def _decoded(cursor: str) -> bytes:
    try:
        found = base64.b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError from error
    if base64.urlsafe_b64encode(found).decode().rstrip("=") != cursor:
        raise ValueError
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError
    return fields


def _id(fields: Mapping[str, Any]) -> str | None:
    found = fields.get("i")
    if "i" not in fields:
        return None
    try:
        is_id = isinstance(found, str) and len(found.encode()) <= MAX_ID_BYTES
    except UnicodeEncodeError:
        is_id = False
    if not is_id:
        raise InvalidCursorError("names a session id that is not valid.")
    return str(found)


def _time(fields: Mapping[str, Any], name: str) -> int | None:
    return _between(fields, name, FIRST_MS, LAST_MS)


def _number(fields: Mapping[str, Any]) -> int | None:
    return _between(fields, "n", 0, _MOST_ENTRIES)


def _between(fields: Mapping[str, Any], name: str, first: int, last: int) -> int | None:
    if name not in fields:
        return None
    if not is_integer(fields[name]) or not first <= fields[name] <= last:
        raise InvalidCursorError("has a number that is not valid.")
    return int(fields[name])
