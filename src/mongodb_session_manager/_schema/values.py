"""Values <-> BSON; pure functions, no I/O.

A value that BSON gives back equal is stored as plain BSON. Any other value is marked with ``%``. Users' own keys that
look like a mark are escaped, so every stored value has one reading:

* keys: ``.``, ``$``, NUL, lone surrogates and the empty key become ``%2E``, ``%24``, ``%00``, ``%uD800``, ``%empty``;
  numbers, true, false and null, which JSON also takes as keys, become ``%bson:`` and their text: ``%bson:2024``;
* values: ``{"%int": hex}`` (over 8 bytes), ``{"%text": UTF-8 with surrogates}``, ``{"%datetime": ISO 8601}``
  (finer than a millisecond, or not in UTC), ``{"%bson": bytes}`` (a subtree nested deeper than a server takes).
  The mark ``%file`` belongs to ``blobs``; here it is only escaped in users' keys.
"""

import base64
import functools
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from typing import Any, TypeAlias

import bson
from bson import Binary, Decimal128, ObjectId
from bson.dbref import DBRef
from bson.int64 import Int64

from .._override import override
from ..errors import UnstorableValueError

logger = logging.getLogger(__name__)

Stored: TypeAlias = dict[str, Any]

# Servers refuse documents nested deeper than 200 levels; the session document itself takes up to 8.
_BSON_DEPTH = 100
# The depth that Python 3.10 can decode within its recursion limit of 1,000.
_MAX_DEPTH = 256
_INT32, _INT64 = 2**31, 2**63
# With BSON's own types, which applications keep in metadata.
_PLAIN = frozenset({float, bool, bytes, type(None), ObjectId, Decimal128})

_ESCAPES = {".": "%2E", "$": "%24", "%": "%25", "\0": "%00", "_": "%5F"}
_MARKS = r"2E|24|25|00|5F|u[0-9A-F]{4}|empty|int|text|datetime|bson|file"
# "__bytes_encoded__" marks base64 in the SDK's JSON form, which the first version stored.
_SPECIAL = re.compile(rf"[.$\0\ud800-\udfff]|%(?={_MARKS})|^_(?=_bytes_encoded__$)")
_ESCAPED = re.compile(r"%(?:(2E|24|25|00|5F)|u([0-9A-F]{4}))")


@functools.lru_cache(maxsize=4096)
def escape_key(key: str) -> str:
    """Return the field name that stores a key; plain keys stay as they are."""
    return _SPECIAL.sub(_escape, key) if key else "%empty"


def _escape(match: re.Match[str]) -> str:
    char = match[0]
    return _ESCAPES.get(char) or f"%u{ord(char):04X}"


@functools.lru_cache(maxsize=4096)
def unescape_key(name: str) -> str:
    """Return the key that ``escape_key`` turned into this field name."""
    if "%" not in name:
        return name
    return "" if name == "%empty" else _ESCAPED.sub(_unescape, name)


def _unescape(match: re.Match[str]) -> str:
    return chr(int(match[1] or match[2], 16))


# Figures of a model call. A larger value is not a figure.
_FIGURES = frozenset({"usage", "metrics", "accumulated_usage", "accumulated_metrics", "tool_usage"})
_FIGURE_BYTES = 1024 * 1024

# Begins the name of a key that is not a string; ``escape_key`` gives no string such a name.
_KEY_MARK = "%bson:"
_KEY_WORDS: dict[str, bool | None] = {"true": True, "false": False, "null": None}


def _mark_key(key: Any) -> str:
    """Return the field name that stores a key that is not a string."""
    for word, value in _KEY_WORDS.items():
        if key is value:
            return _KEY_MARK + word
    if isinstance(key, int):
        number = int.__int__(key)
        return _KEY_MARK + (str(number) if -_INT64 <= number < _INT64 else hex(number))
    if isinstance(key, float):
        return _KEY_MARK + float.__repr__(key).replace(".", _ESCAPES["."])
    raise _RefusedError(f"it has a key of type {type(key).__name__}; JSON and MongoDB know no such keys")


def _unmark_key(text: str) -> Any:
    if text in _KEY_WORDS:
        return _KEY_WORDS[text]
    if "0x" in text:
        return int(text, 16)
    return int(text) if text.removeprefix("-").isdecimal() else float(unescape_key(text))


@functools.lru_cache(maxsize=4096)
def decode_key(name: str) -> Any:
    """Return the key that is stored under a field name inside a value; it need not be a string."""
    if name.startswith(_KEY_MARK):
        with suppress(ValueError):  # otherwise the key is the first version's, or foreign
            return _unmark_key(name[len(_KEY_MARK) :])
    return unescape_key(name)


class _RefusedError(Exception):
    def __init__(self, reason: str) -> None:
        self.reason, self.path = reason, ""


def _plain_datetime(value: datetime) -> datetime:
    """Return the datetime of a subclass, whose own methods may write it in another way."""
    if value != value:
        raise _RefusedError(f"a value of type {type(value).__name__} is no time")
    return datetime.combine(datetime.date(value), datetime.timetz(value))


def _storable_date(value: datetime) -> datetime:
    try:
        _ = value - (value.utcoffset() or timedelta(0))
    except OverflowError:
        raise _RefusedError("in UTC, the time lies before the year 1 or after the year 9999") from None
    return value


class _Encoder:
    """Copies one value into its stored form, and notes whether the copy differs."""

    def __init__(self, plain_dates: bool = False) -> None:
        self.escaped = False
        self._plain_dates = plain_dates

    def encode(self, value: Any, depth: int = 0) -> Any:
        kind = type(value)
        if kind is str:
            return value if value.isascii() else self._text(value)
        if kind is dict:
            return self._dict(value, depth)
        if kind is list:
            return self._list(value, depth)
        if kind is int:
            return value if -_INT32 <= value < _INT32 else self._int(value)
        if kind in _PLAIN:
            return value
        return self._uncommon(value, depth)

    def _dict(self, value: dict[Any, Any], depth: int) -> Any:
        if depth >= _BSON_DEPTH and self._is_deep(depth):
            return self._nested(value, depth)
        stored: Stored = {}
        key = None
        try:
            for key, item in value.items():
                is_plain = type(key) is str and escape_key(key) == key
                stored[key if is_plain else self._key(key)] = self.encode(item, depth + 1)
        except _RefusedError as refused:
            # A key that is not a string is a value, and errors quote no values.
            refused.path = f".{key}{refused.path}" if isinstance(key, str) else refused.path
            raise
        if len(stored) < len(value):
            raise _RefusedError("it has several keys that would be stored as one, such as two NaN")
        return stored

    def _list(self, value: Any, depth: int) -> Any:
        if depth >= _BSON_DEPTH and self._is_deep(depth):
            return self._nested(list(value), depth)
        stored: list[Any] = []
        try:
            for item in value:
                stored.append(self.encode(item, depth + 1))
        except _RefusedError as refused:
            refused.path = f"[{len(stored)}]{refused.path}"
            raise
        return stored

    def _key(self, key: Any) -> str:
        if not isinstance(key, str):
            self.escaped = True
            return _mark_key(key)
        plain = str.__str__(key)
        self.escaped |= (name := escape_key(plain)) != plain
        return name

    def _mark(self, name: str, content: Any) -> Stored:
        self.escaped = True
        return {name: content}

    def _is_deep(self, depth: int) -> bool:
        if depth > _MAX_DEPTH:
            raise RecursionError
        return depth % _BSON_DEPTH == 0

    def _nested(self, value: Any, depth: int) -> Stored:
        return self._mark("%bson", bson.encode({"value": self.encode(value, depth + 1)}))

    def _int(self, value: int) -> Any:
        if -_INT32 <= value < _INT32:
            return value
        if -_INT64 <= value < _INT64:
            self.escaped = True  # comes back as bson.Int64, which decode() makes an int again
            return value
        return self._mark("%int", hex(value))

    def _text(self, value: str) -> Any:
        try:
            value.encode()
        except UnicodeEncodeError:
            return self._mark("%text", value.encode("utf-8", "surrogatepass"))
        return value

    def _datetime(self, value: datetime) -> Any:
        self.escaped = True  # as a BSON date it would be the same as one of another zone, or with other microseconds
        if self._plain_dates:
            return _storable_date(value)
        if value.utcoffset() == timedelta(0) and value.microsecond % 1000 == 0:
            return value
        return self._mark("%datetime", value.isoformat())

    def _uncommon(self, value: Any, depth: int) -> Any:
        if isinstance(value, str):
            return self.encode(str.__str__(value))
        if isinstance(value, int):
            return self._int(int(value))
        if isinstance(value, float):
            return float(value)
        if isinstance(value, bytes | bytearray | memoryview) and not isinstance(value, Binary):
            return bytes(value)
        if isinstance(value, dict):
            return self._dict(value, depth)
        if isinstance(value, list | tuple):
            return self._list(value, depth)
        if isinstance(value, datetime):
            return self._datetime(value if type(value) is datetime else _plain_datetime(value))
        raise _RefusedError(f"a value of type {type(value).__name__} would not come back as it was")


class _TolerantEncoder(_Encoder):
    """Leaves out values that cannot be stored; a figure that is nested too deep is left out as a whole."""

    def __init__(self, label: str) -> None:
        super().__init__()
        self._label = label

    def fields(self, fields: Mapping[Any, Any], levels: int) -> Stored:
        """Encode each field by itself, and leave out fields that are nested too deep or too large."""
        stored: Stored = {}
        with self._leaving_out():
            for key, item in fields.items():
                stored |= self._field(key, item, levels)
        return stored

    def _field(self, key: Any, item: Any, levels: int) -> Stored:
        try:
            stored: Stored = self.encode({key: item})
        except RecursionError as error:
            self._log(error)
            parted = levels > 0 and issubclass(type(item), dict)
            stored = self.encode({key: {}}) if parted else {}
            for name in stored:
                stored[name] = self.fields(item, levels - 1)
        if stored and key in _FIGURES and len(bson.encode(stored)) > _FIGURE_BYTES:
            logger.debug("label=<%s> | left out a figure that is too large", self._label)
            return {}
        return stored

    @override
    def _dict(self, value: dict[Any, Any], depth: int) -> Any:
        if depth >= _BSON_DEPTH and self._is_deep(depth):
            return self._nested(value, depth)
        stored: Stored = {}
        for key, item in value.items():
            with self._leaving_out():
                stored.setdefault(self._key(key), self.encode(item, depth + 1))
        return stored

    @override
    def _list(self, value: Any, depth: int) -> Any:
        if depth >= _BSON_DEPTH and self._is_deep(depth):
            return self._nested(list(value), depth)
        stored: list[Any] = []
        for item in value:
            with self._leaving_out():
                stored.append(self.encode(item, depth + 1))
        return stored

    @contextmanager
    def _leaving_out(self) -> Iterator[None]:
        try:
            yield
        except RecursionError:
            raise
        except Exception as error:  # noqa: BLE001 - a foreign object may raise anything
            self._log(error)

    def _log(self, error: Exception) -> None:
        logger.debug("label=<%s>, error=<%s> | left out what cannot be stored", self._label, type(error).__name__)


def encode_tolerant(fields: Mapping[Any, Any], label: str) -> tuple[Stored, bool]:
    """Return a stored copy of a message's figures, and whether it differs from them.

    A field that cannot be stored is left out, and so is a value inside a field.
    """
    plain = _Encoder()
    with suppress(Exception):  # a foreign object may raise anything; then each value is encoded by itself
        stored: Stored = plain.encode(dict(fields))
        if not _FIGURES.intersection(stored) or len(bson.encode(stored)) <= _FIGURE_BYTES:
            return stored, plain.escaped
    encoder = _TolerantEncoder(label)
    return encoder.fields(fields, levels=1), encoder.escaped


def encode(value: Any, label: str, *, plain_dates: bool = False, depth: int = 0) -> Any:
    """Return a stored copy of any value that JSON, bytes and datetimes can express.

    Args:
        value: The value; tuples become lists, and enums of strings or numbers their values.
        label: The label of the value in an error.
        plain_dates: Store every datetime as a BSON date, which queries can compare: in UTC, without microseconds,
            and a naive one as if it were in UTC. If False, a datetime is restored as it was.
        depth: How many levels deep the value itself is nested.

    Raises:
        UnstorableValueError: The value holds something that would not come back equal.
    """
    return encode_noting(value, label, plain_dates=plain_dates, depth=depth)[0]


def encode_noting(value: Any, label: str, *, plain_dates: bool = False, depth: int = 0) -> tuple[Any, bool]:
    """Do what ``encode`` does, and return also whether the stored copy differs from the value.

    Raises:
        UnstorableValueError: The value holds something that would not come back equal.
    """
    encoder = _Encoder(plain_dates)
    try:
        return encoder.encode(value, depth), encoder.escaped
    except _RefusedError as refused:
        raise UnstorableValueError(label + refused.path, refused.reason) from None
    except RecursionError:
        reason = f"it is nested deeper than {_MAX_DEPTH} levels, or holds itself"
        raise UnstorableValueError(label, reason) from None


_UNMARK: dict[str, Callable[[Any], Any]] = {
    "%int": lambda content: int(content, 16),
    "%text": lambda content: content.decode("utf-8", "surrogatepass"),
    "%datetime": datetime.fromisoformat,
    "%bson": lambda content: decode(bson.decode(content, codec_options=CODEC_OPTIONS)["value"]),
}

VALUE_MARKS = tuple(_UNMARK)

CODEC_OPTIONS: bson.CodecOptions[Stored] = bson.CodecOptions(dict, tz_aware=True)


def decode(value: Any) -> Any:
    """Return the value that ``encode``, or the first version of this system, stored."""
    kind = type(value)
    if kind is dict:
        return _decode_dict(value)
    if kind is list:
        return _decode_list(value)
    if kind is Int64:
        return int(value)
    if kind is DBRef:  # how pymongo reads the {"$ref": …} of an unescaped tool schema
        return decode(dict(value.as_doc()))
    return value


def _decode_list(value: list[Any]) -> list[Any]:
    decoded = []
    for item in value:  # a comprehension would take a stack frame for every level
        decoded.append(decode(item))
    return decoded


def _decode_dict(value: Stored) -> Any:
    if len(value) == 1:
        ((name, content),) = value.items()
        if name in _UNMARK:
            return _UNMARK[name](content)
    if value.get("__bytes_encoded__") is True and "data" in value:
        return base64.b64decode(value["data"])
    decoded = {}
    for name, item in value.items():
        decoded[decode_key(name)] = decode(item)
    return decoded


def decode_first_version(value: Any) -> Any:
    if type(value) is DBRef:
        return decode_first_version(dict(value.as_doc()))
    if isinstance(value, list):
        return [decode_first_version(item) for item in value]
    if not isinstance(value, dict):
        return int(value) if type(value) is Int64 else value
    if value.get("__bytes_encoded__") is True and "data" in value:
        return base64.b64decode(value["data"])
    return {key: decode_first_version(item) for key, item in value.items()}


Update: TypeAlias = dict[str, dict[str, Any]]
Pipeline: TypeAlias = list[dict[str, Any]]
FilterAndUpdate: TypeAlias = tuple[Stored, Update]
