"""SDK objects <-> stored sub-documents; pure functions, no I/O.

Values are stored as plain BSON wherever BSON gives them back equal. The rest is marked with ``%``, which is
escaped in users' own keys, so every stored value has one reading:

* keys: ``.``, ``$``, NUL, lone surrogates and the empty key become ``%2E``, ``%24``, ``%00``, ``%uD800``, ``%empty``;
  numbers, true, false and null, which are keys for JSON too, ``%bson:`` with what they are: ``%bson:2024``;
* values: ``{"%int": hex}`` (over 8 bytes), ``{"%text": UTF-8 with surrogates}``, ``{"%datetime": ISO 8601}``
  (finer than a millisecond, or not in UTC), ``{"%bson": bytes}`` (a subtree nested deeper than a server takes).
  The mark ``%file`` is ``_large_values``'s; here it is only kept from meaning anything else.
"""

import base64
import functools
import logging
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any, TypeAlias, cast

import bson
from bson import Decimal128, ObjectId
from bson.dbref import DBRef
from bson.int64 import Int64
from strands.types.content import Message
from strands.types.session import SessionAgent, SessionMessage

from ..errors import UnstorableValueError

logger = logging.getLogger(__name__)

Stored: TypeAlias = dict[str, Any]

MESSAGE_FIELDS = ("role", "content", "tracking_id", "metadata")
AGENT_FIELDS = ("state", "conversation_manager_state", "_internal_state")

# Servers refuse documents nested deeper than 200 levels; the session document itself takes up to 8.
_BSON_DEPTH = 100
# What Python 3.10 still reads back within its recursion limit of 1,000.
_MAX_DEPTH = 256
_INT32, _INT64 = 2**31, 2**63
# BSON's own types among them: applications keep them in metadata.
_PLAIN = frozenset({float, bool, bytes, type(None), ObjectId, Decimal128})

_ESCAPES = {".": "%2E", "$": "%24", "%": "%25", "\0": "%00", "_": "%5F"}
_MARKS = r"2E|24|25|00|5F|u[0-9A-F]{4}|empty|int|text|datetime|bson|file"
# "__bytes_encoded__" is how the SDK's own JSON form, found in sessions of the first version, marks base64.
_SPECIAL = re.compile(rf"[.$\0\ud800-\udfff]|%(?={_MARKS})|^_(?=_bytes_encoded__$)")
_ESCAPED = re.compile(r"%(?:(2E|24|25|00|5F)|u([0-9A-F]{4}))")


@functools.lru_cache(maxsize=4096)
def escape_key(key: str) -> str:
    """Return the field name under which a key of any spelling is stored; plain keys stay as they are."""
    return _SPECIAL.sub(_escape, key) if key else "%empty"


def _escape(match: re.Match[str]) -> str:
    char = match[0]
    return _ESCAPES.get(char) or f"%u{ord(char):04X}"


@functools.lru_cache(maxsize=4096)
def unescape_key(name: str) -> str:
    """Return the key that ``escape_key`` turned into this field name."""
    return "" if name == "%empty" else _ESCAPED.sub(_unescape, name)


def _unescape(match: re.Match[str]) -> str:
    return chr(int(match[1] or match[2], 16))


# What only tells of a model call, and cannot be a figure where it is larger than this.
_FIGURES = frozenset({"usage", "metrics", "accumulated_usage", "accumulated_metrics", "tool_usage"})
_FIGURE_BYTES = 1024 * 1024

# Of a key that is no string; ``escape_key`` never lets a string begin so.
_KEY_MARK = "%bson:"
_KEY_WORDS: dict[str, bool | None] = {"true": True, "false": False, "null": None}


def _mark_key(key: Any) -> str:
    """Return the field name under which a key that is no string is stored."""
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
        with suppress(ValueError):  # else the first version's, or somebody else's
            return _unmark_key(name[len(_KEY_MARK) :])
    return unescape_key(name)


class _RefusedError(Exception):
    def __init__(self, reason: str) -> None:
        self.reason, self.path = reason, ""


class _Encoder:
    """Copies one value into its stored form and notes whether reading it back needs ``decode``."""

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
            return self._int(value)
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
                stored[self._key(key)] = self.encode(item, depth + 1)
        except _RefusedError as refused:
            # What is no string is a value rather than a name, and values are told to nobody.
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
        if type(key) is not str:
            if not isinstance(key, str):
                self.escaped = True
                return _mark_key(key)
            key = str.__str__(key)
        name = escape_key(key)
        if name is not key and name != key:
            self.escaped = True
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
        if self._plain_dates or (value.utcoffset() == timedelta(0) and value.microsecond % 1000 == 0):
            return value
        return self._mark("%datetime", value.isoformat())

    def _uncommon(self, value: Any, depth: int) -> Any:
        if isinstance(value, str):
            return self.encode(str.__str__(value))
        if isinstance(value, int):
            return self._int(int(value))
        if isinstance(value, float):
            return float(value)
        if isinstance(value, bytearray | memoryview):
            return bytes(value)
        if isinstance(value, dict):
            return self._dict(value, depth)
        if isinstance(value, list | tuple):
            return self._list(value, depth)
        if isinstance(value, datetime):
            return self._datetime(value)
        raise _RefusedError(f"a value of type {type(value).__name__} would not come back as it was")


class _TolerantEncoder(_Encoder):
    """Leaves out what cannot be stored, wherever it stands; what is too deep costs the whole figure."""

    def __init__(self, place: str) -> None:
        super().__init__()
        self._place = place

    def fields(self, fields: Mapping[Any, Any], levels: int) -> Stored:
        """Return fields each by itself, down to so many levels, without those that are too deep or too large."""
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
            logger.debug("place=<%s> | left out a figure that is too large", self._place)
            return {}
        return stored

    def _dict(self, value: dict[Any, Any], depth: int) -> Any:
        if depth >= _BSON_DEPTH and self._is_deep(depth):
            return self._nested(value, depth)
        stored: Stored = {}
        for key, item in value.items():
            with self._leaving_out():
                stored.setdefault(self._key(key), self.encode(item, depth + 1))
        return stored

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
        except Exception as error:  # noqa: BLE001 - objects of others may raise anything
            self._log(error)

    def _log(self, error: Exception) -> None:
        logger.debug("place=<%s>, error=<%s> | left out what cannot be stored", self._place, type(error).__name__)


def encode_tolerant(fields: Mapping[Any, Any], place: str) -> tuple[Stored, bool]:
    """Return a stored copy of what only tells of a message, and whether it differs from that.

    What cannot be stored is left out: each field by itself, and in it each value.
    """
    plain = _Encoder()
    with suppress(Exception):  # objects of others may raise anything; then each value goes by itself
        stored: Stored = plain.encode(dict(fields))
        if not _FIGURES.intersection(stored) or len(bson.encode(stored)) <= _FIGURE_BYTES:
            return stored, plain.escaped
    encoder = _TolerantEncoder(place)
    return encoder.fields(fields, levels=1), encoder.escaped


def encode(value: Any, place: str, *, plain_dates: bool = False, depth: int = 0) -> Any:
    """Return a stored copy of any value that JSON, bytes and datetimes can express.

    Args:
        value: The value; tuples become lists, enums that are strings or numbers their values.
        place: What the value is, for the error message.
        plain_dates: Store every datetime as a BSON date, which queries can compare: in UTC, without microseconds,
            and a naive one as if it were in UTC. Without it a datetime comes back as it was.
        depth: How many levels its place is nested deep itself.

    Raises:
        UnstorableValueError: The value holds something that would not come back equal.
    """
    return encode_noting(value, place, plain_dates=plain_dates, depth=depth)[0]


def encode_noting(value: Any, place: str, *, plain_dates: bool = False, depth: int = 0) -> tuple[Any, bool]:
    """Do what ``encode`` does, and tell whether the stored copy differs from the value.

    Raises:
        UnstorableValueError: The value holds something that would not come back equal.
    """
    encoder = _Encoder(plain_dates)
    try:
        return encoder.encode(value, depth), encoder.escaped
    except _RefusedError as refused:
        raise UnstorableValueError(place + refused.path, refused.reason) from None
    except RecursionError:
        reason = f"it is nested deeper than {_MAX_DEPTH} levels, or holds itself"
        raise UnstorableValueError(place, reason) from None


_UNMARK: dict[str, Callable[[Any], Any]] = {
    "%int": lambda content: int(content, 16),
    "%text": lambda content: content.decode("utf-8", "surrogatepass"),
    "%datetime": datetime.fromisoformat,
    "%bson": lambda content: decode(bson.decode(content, codec_options=CODEC_OPTIONS)["value"]),
}

CODEC_OPTIONS: bson.CodecOptions[Stored] = bson.CodecOptions(dict, tz_aware=True)


def decode(value: Any) -> Any:
    """Return the value that ``encode`` stored; also reads what the first version of this system stored."""
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


def _decode_first_version(value: Any) -> Any:
    if type(value) is DBRef:
        return _decode_first_version(dict(value.as_doc()))
    if isinstance(value, list):
        return [_decode_first_version(item) for item in value]
    if not isinstance(value, dict):
        return int(value) if type(value) is Int64 else value
    if value.get("__bytes_encoded__") is True and "data" in value:
        return base64.b64decode(value["data"])
    return {key: _decode_first_version(item) for key, item in value.items()}


def encode_message(message: Message, message_id: int, at: datetime, place: str) -> Stored:
    """Return the array element that stores a message.

    Args:
        message: As the SDK has it.
        message_id: Its number in the agent's history.
        at: When it was created and last updated.
        place: What to call it in an error.

    Raises:
        UnstorableValueError: The message holds something that would not come back equal.
    """
    return {"message_id": message_id, **_body(message, place), "created_at": at, "updated_at": at}


# Stands for the metadata of a message that are its call's own figures: those are in its event_loop_metrics anyway.
_METADATA_IN_METRICS = "event_loop_metrics"
_METADATA_FIELDS = ("usage", "metrics")


def add_metrics(stored: Stored, metrics: Stored, place: str) -> None:
    """Put the ``event_loop_metrics`` of a message into the array element that stores it, as far as they can be."""
    encoded, differs = encode_tolerant(metrics, f"{place}, metrics")
    stored["event_loop_metrics"] = encoded
    metadata = stored.get("metadata")
    own = {name: encoded.get(name) for name in _METADATA_FIELDS}
    # What is stored with marks stays where it is: reading the reference is to cost next to nothing.
    if not differs and isinstance(metadata, dict) and metadata == own and list(metadata) == list(own):
        stored["metadata"] = _METADATA_IN_METRICS


def _body(message: Message, place: str) -> Stored:
    known = {key: value for key, value in message.items() if key in MESSAGE_FIELDS and key != "metadata"}
    extra = {key: value for key, value in message.items() if key not in MESSAGE_FIELDS}
    body: Stored
    body, escaped = encode_noting({**known, "extra": extra} if extra else known, place)
    if "metadata" in message:
        metadata, differs = _metadata(message["metadata"], f"{place}, metadata")
        body |= metadata
        escaped = escaped or differs
    if escaped:
        body["escaped"] = True
    return body


def _metadata(metadata: Any, place: str) -> tuple[Stored, bool]:
    if not issubclass(type(metadata), dict):
        return encode_tolerant({"metadata": metadata}, place)
    stored, differs = encode_tolerant(metadata, place)
    return {"metadata": stored}, differs


@dataclass(frozen=True)
class MessageEdit:
    """What changes in a stored message; its times of creation and metrics stay.

    Attributes:
        message_id: The message.
        fields: Fields of the element to set.
        dropped: Fields of the element to remove.
        tracking_id: The message's own, as stored, where its id may be another message's by now; None where that is
            enough.
    """

    message_id: int
    fields: Stored = field(repr=False)
    dropped: tuple[str, ...]
    tracking_id: Any = None

    @property
    def redacts(self) -> bool:
        """Whether nothing of the old content may be left anywhere."""
        return "redacted" in self.fields

    def apply(self, stored: Stored) -> None:
        """Make the same change in an element that was not sent yet."""
        stored.update(self.fields)
        for name in self.dropped:
            parent, _, child = name.rpartition(".")
            if not parent:
                stored.pop(child, None)
            elif isinstance(stored.get(parent), dict):
                stored[parent] = {key: value for key, value in stored[parent].items() if key != child}


# Where an element may hold content, or say of it how it is stored; two are the first version's.
_BODY_FIELDS = (*MESSAGE_FIELDS, "extra", "escaped", "files", "message", "redact_message")


def replacement(message: Message, message_id: int, at: datetime, place: str) -> MessageEdit:
    """Return the edit that puts another message in the place of a stored one."""
    fields = {**_body(message, place), "updated_at": at}
    return MessageEdit(message_id, fields, tuple(name for name in _BODY_FIELDS if name not in fields))


def redaction(message: Message, message_id: int, at: datetime, place: str) -> MessageEdit:
    """Return the edit that leaves nothing of a message's content; what identifies and measures it stays."""
    fields = {**_body(message, place), "redacted": True, "updated_at": at}
    kept = {*fields, "tracking_id"}
    if "metadata" not in fields:
        kept |= {"metadata", "escaped"}  # the metrics that stay may hold marks
    dropped = [name for name in _BODY_FIELDS if name not in kept]
    if "metadata" not in fields:
        dropped.append("metadata.custom")
    return MessageEdit(message_id, fields, tuple(dropped))


def decode_message(stored: Stored) -> Message:
    """Return the message of an array element: the redacted one, where it was redacted."""
    if "message" in stored:
        return cast(Message, _decode_first_version(stored.get("redact_message") or stored["message"]))
    body = {name: stored[name] for name in MESSAGE_FIELDS if name in stored}
    extra = stored.get("extra", {})
    if "escaped" in stored:
        body, extra = decode(body), decode(extra)
    if body.get("metadata") == _METADATA_IN_METRICS and "event_loop_metrics" in stored:
        body["metadata"] = _metadata_in(stored["event_loop_metrics"])
    return cast(Message, {**body, **extra} if extra else body)


def _metadata_in(metrics: Any) -> Stored:
    """Return the metadata that stand among the metrics; where a hand has changed those, what is left of it."""
    return {name: metrics[name] for name in _METADATA_FIELDS if name in metrics} if isinstance(metrics, dict) else {}


def is_plain_user(message: Message) -> bool:
    """Tell whether a history may begin with a message: a user's, and no tool's result."""
    return message.get("role") == "user" and not any("toolResult" in block for block in message.get("content") or ())


def last_plain_user(messages: Sequence[Stored]) -> int | None:
    """Return the place of the last array element with which a history may begin."""
    places = range(len(messages) - 1, -1, -1)
    return next((place for place in places if is_plain_user(decode_message(messages[place]))), None)


def message_record(stored: Stored) -> Stored:
    """Return an array element as ``list_messages`` shows it: the message, its id, times, metrics and events."""
    message = decode_message(stored)
    others = {name: value for name, value in stored.items() if name not in _BODY_FIELDS and value is not None}
    kept = {name: decode(value) for name, value in others.items()}
    at: Stored = {name: _listed_time(others[name]) for name in ("created_at", "updated_at") if name in others}
    return {"message_id": stored["message_id"], **message, **kept, **at}


def _listed_time(at: Any) -> Any:
    """Return a time as it is listed; what a hand has put there instead is shown as it is."""
    try:
        return aware(at)
    except (AttributeError, TypeError, ValueError):
        return decode(at)


def aware(at: str | datetime) -> datetime:
    """Return a time that may be given in ISO 8601, as the SDK and the first version have it."""
    found = datetime.fromisoformat(at.replace("Z", "+00:00")) if isinstance(at, str) else at
    return found.replace(tzinfo=timezone.utc) if found.tzinfo is None else found


def session_message(stored: Stored) -> SessionMessage:
    """Return the SDK's record of an array element."""
    message = decode_message(stored)
    redacted = "redacted" in stored or stored.get("redact_message") is not None
    return SessionMessage(
        message=message,
        message_id=int(stored["message_id"]),
        redact_message=message if redacted else None,
        **times(stored),
    )


def encode_agent(agent: SessionAgent, place: str) -> Stored:
    """Return the stored ``agent_data`` of an SDK record."""
    fields = {name: encode(getattr(agent, name), f"{place}, {name}") for name in AGENT_FIELDS}
    return {"agent_id": agent.agent_id, **fields}


def session_agent(agent_id: str, stored: Mapping[str, Any]) -> SessionAgent:
    """Return the SDK's record of a stored agent (``agent_data`` and times)."""
    data = stored["agent_data"]
    read = _decode_first_version if stored.get("guard") is None else decode
    fields = {name: read(data.get(name) or {}) for name in AGENT_FIELDS}
    return SessionAgent(agent_id=agent_id, **fields, **times(stored))


def times(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``created_at`` and ``updated_at`` in the SDK's form, ISO 8601, as far as they are stored."""
    found = {name: stored[name] for name in ("created_at", "updated_at") if stored.get(name) is not None}
    return {name: at.isoformat() if isinstance(at, datetime) else str(at) for name, at in found.items()}


def with_tracking_id(message: Message, tracking_id: str | None = None) -> Message:
    """Return a message that can be told apart; the SDK gives those an id that it appends itself."""
    if message.get("tracking_id"):
        return message
    return cast(Message, {**message, "tracking_id": tracking_id or str(uuid.uuid4())})


def with_blocks(message: Message) -> Message:
    """Return a message whose ``content`` is a list of blocks: plain text, or a result's, becomes one text block."""
    content: Any = message["content"]
    if isinstance(content, list):
        return message
    return cast(Message, {**message, "content": [{"text": str(content)}]})
