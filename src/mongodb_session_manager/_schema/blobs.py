"""Large values of messages, and large states <-> files; pure functions, no I/O.

A value that is too large for the session document gives its place in the stored message to a mark,
``{"%file": {"sha256", "length", "kind"}}``, and the message lists the digests under ``files``. Both happen to what the
codec has made of a message, and are undone before the codec reads it: neither knows of the other.
"""

import hashlib
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import bson

from ..errors import SessionTooLargeError
from .messages import AGENT_FIELDS, MessageEdit
from .values import CODEC_OPTIONS, Stored

# A document is read whole with each restore, and an append to it costs about 2 ms for each MB it holds.
VALUE_BYTES = 256 * 1024
# A message of many smaller values. Segments are not larger than this either.
MESSAGE_BYTES = 4 * 1024 * 1024
SMALL_VALUE_BYTES = 16 * 1024
# The state of a Graph or Swarm, which is replaced whole with each step.
STATE_BYTES = 1024 * 1024
# MongoDB's limit for a document, less what else the session document holds at least.
MAX_BYTES = 16 * 1024 * 1024 - 64 * 1024

# Not the rest: what measures a message outlives its redaction.
_FIELDS = ("content", "extra")
_MARK = "%file"
# As long as a digest, so that the size is known before that.
_NO_DIGEST = "0" * 64
# Characters that are encoded at a time.
_PART = 1024 * 1024

Files = dict[str, bytes]


class LargeValues:
    """Values that were taken out of a message, by reference: they are immutable.

    Their digests are not known before ``hash``, which takes its time and needs no event loop; until then the marks that
    stand in their place hold none.
    """

    def __init__(self) -> None:
        # What stands in the message's ``files``.
        self.names: list[str] = []
        self.files: Files = {}
        # Whether the marks are complete.
        self.is_hashed = True
        self._taken: list[tuple[Stored, bytes | str]] = []
        self._lock = threading.Lock()

    def take(self, value: bytes | str, kind: str) -> Stored:
        """Return what stands in the place of a value."""
        mark = {"sha256": _NO_DIGEST, "length": len(value), "kind": kind}
        self._taken.append((mark, value))
        self.is_hashed = False
        self.names.append(_NO_DIGEST)
        return {_MARK: mark}

    def hash(self) -> Files:
        """Complete the marks, and return the values by their digests."""
        with self._lock:
            for mark, value in self._taken:
                content = _utf8(value) if isinstance(value, str) else value
                mark["sha256"], mark["length"] = hashlib.sha256(content).hexdigest(), len(content)
                self.files[mark["sha256"]] = content
            self.names[:] = sorted(self.files)
            self._taken, self.is_hashed = [], True
            return self.files


def _utf8(text: str) -> bytes:
    """Encode in parts: other threads have their turns in between."""
    return b"".join(text[start : start + _PART].encode() for start in range(0, len(text), _PART))


def begin_offload(fields: Stored, session_id: str, agent_id: str, message_id: int) -> tuple[int, LargeValues]:
    """Put marks in the place of a message's large values, in little time.

    Args:
        fields: The element that is to be stored, or those fields of it that are to change; changed in place, and once
            more by ``hash``.
        session_id: For the error.
        agent_id: For the error.
        message_id: For the error.

    Returns:
        The size of what remains, and the values.

    Raises:
        SessionTooLargeError: What remains is still larger than a document can be.
    """
    values = LargeValues()
    # What is large is taken out before anything encodes it.
    if _weight(fields) * 4 > VALUE_BYTES:
        _take_out(fields, VALUE_BYTES, values)
    if _weight(fields) > MESSAGE_BYTES:
        _take_out(fields, SMALL_VALUE_BYTES, values)
    size = len(bson.encode(fields))
    if size > MESSAGE_BYTES:
        size = _offload(fields, SMALL_VALUE_BYTES, values)
    if size > MESSAGE_BYTES and "content" in fields:
        values.hash()
        fields["content"] = _whole(fields["content"], values)
        size = _offload(fields, VALUE_BYTES, values)
    if size > MAX_BYTES:
        raise SessionTooLargeError(session_id, agent_id, message_id, size)
    return size, values


def offload(fields: Stored, session_id: str, agent_id: str, message_id: int) -> tuple[int, Files]:
    """Do what ``begin_offload`` and ``hash`` do, and return the size of what remains, and the values by their digests.

    Raises:
        SessionTooLargeError: What remains is still larger than a document can be.
    """
    size, values = begin_offload(fields, session_id, agent_id, message_id)
    files = values.hash()
    return len(bson.encode(fields)) if files else size, files


def begin_offload_edit(edit: MessageEdit, session_id: str, agent_id: str) -> tuple[MessageEdit, LargeValues]:
    """Do what ``begin_offload`` does to what an edit puts into a message."""
    _, values = begin_offload(edit.fields, session_id, agent_id, edit.message_id)
    return replace(edit, dropped=tuple(name for name in edit.dropped if name not in edit.fields)), values


def offload_edit(edit: MessageEdit, session_id: str, agent_id: str) -> tuple[MessageEdit, Files]:
    """Do what ``offload`` does to what an edit puts into a message."""
    edit, values = begin_offload_edit(edit, session_id, agent_id)
    return edit, values.hash()


def offload_state(fields: Stored, limit: int = STATE_BYTES) -> tuple[Stored, Files]:
    """Put a state with all that stands beside it into one file, where together they are over the limit.

    Returns:
        The fields to store, and the value by its digest.
    """
    files: Files = {}
    document = bson.encode({"value": fields})
    if len(document) <= limit:
        return fields, files
    return {"state": _mark(document, "bson", files), "files": sorted(files)}, files


def put_back_state(stored: Stored, files: Mapping[str, bytes]) -> Stored:
    """Return the fields of a state that is in a file."""
    fields: Stored = _value(stored["state"][_MARK], files)
    return fields


def offload_data(data: Stored) -> tuple[Stored, Files]:
    """Put each large field of an agent's state into a file of its own.

    One that is larger than a document can be is left to the server to refuse.

    Returns:
        The fields to store, and the values by their digests.
    """
    files: Files = {}
    stored = dict(data)
    for name in AGENT_FIELDS:
        document = bson.encode({"value": data[name]}) if name in data else b""
        if VALUE_BYTES < len(document) <= MAX_BYTES:
            stored[name] = _mark(document, "bson", files)
    return stored, files


def data_digests(data: Mapping[str, Any]) -> set[str]:
    """Return the digests of the fields of an agent's state that are in files."""
    return {data[name][_MARK]["sha256"] for name in _fields_in_files(data)}


def put_back_data(data: Stored, files: Mapping[str, bytes]) -> None:
    """Put the fields of an agent's state in the place of their marks again."""
    for name in _fields_in_files(data):
        data[name] = _value(data[name][_MARK], files)


def _fields_in_files(data: Mapping[str, Any]) -> list[str]:
    found = {name: data.get(name) for name in AGENT_FIELDS}
    return [name for name, value in found.items() if isinstance(value, dict) and value.keys() == {_MARK}]


def _weight(fields: Stored) -> int:
    """Return how many bytes and characters there are in values that may be taken out."""
    weight, left = 0, [fields[name] for name in _FIELDS if name in fields]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            left += value.values()
        elif isinstance(value, list):
            left += value
        elif isinstance(value, bytes | str):
            weight += len(value)
    return weight


def _offload(fields: Stored, limit: int, values: LargeValues) -> int:
    _take_out(fields, limit, values)
    return len(bson.encode(fields))


def _take_out(fields: Stored, limit: int, values: LargeValues) -> None:
    for name in _FIELDS:
        if name in fields:
            fields[name] = _without_large(fields[name], limit, values)
    if values.names:
        fields["files"] = values.names


def _without_large(value: Any, limit: int, values: LargeValues) -> Any:
    if isinstance(value, dict) and value.keys() != {_MARK}:
        for name, item in value.items():
            value[name] = _without_large(item, limit, values)
    elif isinstance(value, list):
        value[:] = [_without_large(item, limit, values) for item in value]
    elif isinstance(value, bytes) and len(value) > limit:
        return values.take(value, "bytes")
    elif isinstance(value, str) and _is_larger(value, limit):
        return values.take(value, "text")
    return value


def _is_larger(text: str, limit: int) -> bool:
    return len(text) > limit or (len(text) * 4 > limit and len(text.encode()) > limit)


def _whole(content: Any, values: LargeValues) -> Any:
    """Offload a content of very many small values as one."""
    document = bson.encode({"value": content})
    return values.take(document, "bson") if len(document) > SMALL_VALUE_BYTES else content


def _mark(content: bytes, kind: str, files: Files) -> Stored:
    digest = hashlib.sha256(content).hexdigest()
    files[digest] = content
    return {_MARK: {"sha256": digest, "length": len(content), "kind": kind}}


def file_digests(messages: Iterable[Stored]) -> set[str]:
    """Return the digests of the values that stored messages have offloaded."""
    readable = (message for message in messages if isinstance(message, Mapping))
    return {digest for message in readable for digest in message.get("files", ())}


def put_back_values(stored: Stored, files: Mapping[str, bytes]) -> Stored:
    """Put the values of a message in the place of their marks again, in the element itself, and return it."""
    if "files" in stored:
        for name in _FIELDS:
            if name in stored:
                stored[name] = _with_large(stored[name], files)
    return stored


class Unread(bytes):
    """Stands for bytes that were not read; it has their number."""

    length: int

    def __len__(self) -> int:
        """Return how many there are where they are stored."""
        return self.length


def leave_unread(stored: Stored) -> None:
    """Put ``Unread`` in the place of a message's offloaded bytes, where only their number is wanted."""
    # In what the codec has escaped, bytes may be a text; in a content that is offloaded as one, anything.
    if "files" not in stored or "escaped" in stored:
        return
    fields = [name for name in _FIELDS if name in stored]
    kinds = {
        mark["sha256"]: mark["kind"] for name in fields for mark in _marks(stored[name]) if mark["kind"] != "bytes"
    }
    if "bson" not in kinds.values():
        stored |= {name: _with_unread(stored[name]) for name in fields}
        stored["files"] = sorted(kinds)


def _with_unread(value: Any) -> Any:
    if isinstance(value, list):
        value[:] = [_with_unread(item) for item in value]
    elif isinstance(value, dict) and value.keys() == {_MARK}:
        return _unread(value[_MARK]) if value[_MARK]["kind"] == "bytes" else value
    elif isinstance(value, dict):
        for name, item in value.items():
            value[name] = _with_unread(item)
    return value


def _unread(mark: Stored) -> Unread:
    value = Unread()
    value.length = int(mark["length"])
    return value


def _marks(value: Any) -> Iterator[Stored]:
    if isinstance(value, list):
        for item in value:
            yield from _marks(item)
    elif isinstance(value, dict) and value.keys() == {_MARK}:
        yield value[_MARK]
    elif isinstance(value, dict):
        yield from _marks(list(value.values()))


def _with_large(value: Any, files: Mapping[str, bytes]) -> Any:
    if isinstance(value, list):
        value[:] = [_with_large(item, files) for item in value]
    elif isinstance(value, dict):
        if value.keys() == {_MARK}:
            return _value(value[_MARK], files)
        for name, item in value.items():
            value[name] = _with_large(item, files)
    return value


def _value(mark: Stored, files: Mapping[str, bytes]) -> Any:
    content = files[mark["sha256"]]
    if mark["kind"] == "text":
        return content.decode()
    if mark["kind"] == "bson":
        return _with_large(bson.decode(content, codec_options=CODEC_OPTIONS)["value"], files)
    return content
