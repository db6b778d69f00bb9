"""Large values of messages, and large states <-> files; pure functions, no I/O.

A value that is too large for the session document is replaced in the stored message by a mark,
``{"%file": {"sha256", "length", "kind"}}``, and the message lists the digests under ``files``. This works on a message
that the codec has encoded, and is undone before the codec decodes it; the codec does not know of marks.
"""

import hashlib
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, cast

import bson

from .._override import override
from ..errors import SessionTooLargeError
from ..types import MessageDoc, MultiAgentDoc
from .limits import LIMITS, Limits
from .messages import OFFLOADED_FIELDS, MessageEdit
from .values import CODEC_OPTIONS, Stored

# The limit for the state of a Graph or Swarm: each step writes all of it.
STATE_BYTES = 1024 * 1024
# MongoDB's limit for a document, less what else the session document holds at least.
MAX_BYTES = 16 * 1024 * 1024 - 64 * 1024

# Only these fields: figures stay in the document, since they outlive a redaction.
_FIELDS = ("content", "extra")
_MARK = "%file"
# As long as a digest, so that the size is known before the digest is.
_NO_DIGEST = "0" * 64
# Characters encoded at a time.
_PART = 1024 * 1024

Files = dict[str, bytes]


class LargeValues:
    """Values that were taken out of a message, by reference: they are immutable.

    ``hash`` computes their digests; it takes long and can run on any thread. Until then the marks have no digest.
    """

    def __init__(self) -> None:
        # The same list as the message's ``files``.
        self.names: list[str] = []
        self.files: Files = {}
        # Whether the marks are complete.
        self.is_hashed = True
        self._taken: list[tuple[Stored, bytes | str]] = []
        self._lock = threading.Lock()

    def take(self, value: bytes | str, kind: str) -> Stored:
        """Take a value, and return its mark."""
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
    """Encode in parts, between which other threads can run."""
    return b"".join(text[start : start + _PART].encode() for start in range(0, len(text), _PART))


def begin_offload(
    element: MessageDoc | Stored, session_id: str, agent_id: str, message_id: int, limits: Limits = LIMITS
) -> tuple[int, LargeValues]:
    """Replace a message's large values by marks; fast, since nothing is hashed.

    Args:
        element: The element to store, or the fields of it to change. They are changed in place, and again by ``hash``.
        session_id: For the error.
        agent_id: For the error.
        message_id: For the error.
        limits: How large values and messages may be.

    Returns:
        The size of what remains, and the values.

    Raises:
        SessionTooLargeError: What remains is still larger than a document can be.
    """
    values, fields = LargeValues(), cast(Stored, element)
    # Large values leave before anything encodes the message.
    if _weight(fields) * 4 > limits.value_bytes:
        _take_out(fields, limits.value_bytes, values)
        if _weight(fields) > limits.message_bytes:
            _take_out(fields, limits.small_value_bytes, values)
    size = len(bson.encode(fields))
    if size > limits.message_bytes:
        size = _offload(fields, limits.small_value_bytes, values)
    if size > limits.message_bytes and "content" in fields:
        values.hash()
        fields["content"] = _whole(fields["content"], limits.small_value_bytes, values)
        size = _offload(fields, limits.value_bytes, values)
    if size > MAX_BYTES:
        raise SessionTooLargeError(session_id, agent_id, message_id, size)
    return size, values


def offload(
    message: MessageDoc, session_id: str, agent_id: str, message_id: int, limits: Limits = LIMITS
) -> tuple[int, Files]:
    """Replace large values by complete marks; return the size of what remains, and the values by digest.

    Raises:
        SessionTooLargeError: What remains is still larger than a document can be.
    """
    size, values = begin_offload(message, session_id, agent_id, message_id, limits)
    files = values.hash()
    return len(bson.encode(message)) if files else size, files


def begin_offload_edit(
    edit: MessageEdit, session_id: str, agent_id: str, limits: Limits = LIMITS
) -> tuple[MessageEdit, LargeValues]:
    """Do what ``begin_offload`` does, for an edit of a message."""
    _, values = begin_offload(edit.fields, session_id, agent_id, edit.message_id, limits)
    return replace(edit, dropped=tuple(name for name in edit.dropped if name not in edit.fields)), values


def offload_edit(
    edit: MessageEdit, session_id: str, agent_id: str, limits: Limits = LIMITS
) -> tuple[MessageEdit, Files]:
    """Do what ``offload`` does, for an edit of a message."""
    edit, values = begin_offload_edit(edit, session_id, agent_id, limits)
    return edit, values.hash()


def offload_state(fields: Stored, limit: int = STATE_BYTES) -> tuple[Stored, Files]:
    """Put the fields of a state into one file if they are larger together than the limit.

    Returns:
        The fields to store, and the value by its digest.
    """
    files: Files = {}
    document = bson.encode({"value": fields})
    if len(document) <= limit:
        return fields, files
    return {"state": _mark(document, "bson", files), "files": sorted(files)}, files


def put_back_state(stored: MultiAgentDoc, files: Mapping[str, bytes]) -> Stored:
    """Return the fields of a state that is in a file."""
    fields: Stored = _value(stored["state"][_MARK], files)
    return fields


def offload_data(data: Stored, limit: int = LIMITS.value_bytes) -> tuple[Stored, Files]:
    """Put each large field of an agent's data into a file of its own.

    A field that is larger than a document can be stays, and the server refuses it.

    Args:
        data: The fields.
        limit: A field of more bytes is a large one.

    Returns:
        The fields to store, and the values by their digests.
    """
    files: Files = {}
    stored = dict(data)
    for name in OFFLOADED_FIELDS:
        document = bson.encode({"value": data[name]}) if name in data else b""
        if limit < len(document) <= MAX_BYTES:
            stored[name] = _mark(document, "bson", files)
    return stored, files


def data_digests(data: Mapping[str, Any]) -> set[str]:
    """Return the digests of the fields of an agent's data that are in files."""
    return {data[name][_MARK]["sha256"] for name in fields_in_files(data)}


def put_back_data(data: Stored, files: Mapping[str, bytes]) -> None:
    """Replace the marks in an agent's data by the fields they stand for."""
    for name in fields_in_files(data):
        data[name] = _value(data[name][_MARK], files)


def fields_in_files(data: Mapping[str, Any]) -> list[str]:
    """Return the names of the fields of an agent's data that are in files."""
    found = {name: data.get(name) for name in OFFLOADED_FIELDS}
    return [name for name, value in found.items() if isinstance(value, dict) and value.keys() == {_MARK}]


def _weight(fields: Stored) -> int:
    """Return the number of bytes and characters in the values that can be offloaded."""
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


def _whole(content: Any, limit: int, values: LargeValues) -> Any:
    """Offload a content of very many small values as one value."""
    document = bson.encode({"value": content})
    return values.take(document, "bson") if len(document) > limit else content


def _mark(content: bytes, kind: str, files: Files) -> Stored:
    digest = hashlib.sha256(content).hexdigest()
    files[digest] = content
    return {_MARK: {"sha256": digest, "length": len(content), "kind": kind}}


def file_digests(messages: Iterable[Mapping[str, Any]]) -> set[str]:
    """Return the digests of the offloaded values of stored messages."""
    readable = (message for message in messages if isinstance(message, Mapping))
    return {digest for message in readable for digest in message.get("files", ())}


def put_back_values(message: MessageDoc, files: Mapping[str, bytes]) -> MessageDoc:
    """Replace the marks in a stored message by their values, in place, and return it."""
    stored = cast(Stored, message)
    if "files" in stored:
        for name in _FIELDS:
            if name in stored:
                stored[name] = _with_large(stored[name], files)
    return message


class Unread(bytes):
    """Stands for bytes that were not read; its length is theirs."""

    length: int

    @override
    def __len__(self) -> int:
        """Return the number of the stored bytes."""
        return self.length


def leave_unread(message: MessageDoc) -> None:
    """Replace the marks of a message's offloaded bytes by ``Unread``, for a caller who needs only their size."""
    stored = cast(Stored, message)
    # In an escaped message, bytes may be a text; a content offloaded as one value may hold anything.
    if "files" not in stored or "escaped" in stored:
        return
    fields = [name for name in _FIELDS if name in stored]
    kinds = {
        mark["sha256"]: mark["kind"]
        for name in fields
        for mark in stored_marks(stored[name])
        if mark["kind"] != "bytes"
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


def stored_marks(value: Any) -> Iterator[Stored]:
    """Return the marks of the large values in a part of a stored message."""
    if isinstance(value, list):
        for item in value:
            yield from stored_marks(item)
    elif isinstance(value, dict) and value.keys() == {_MARK}:
        yield value[_MARK]
    elif isinstance(value, dict):
        yield from stored_marks(list(value.values()))


def put_back(value: Any, files: Mapping[str, bytes]) -> Any:
    """Replace the marks in a part of a stored message by their values, in place, and return it."""
    return _with_large(value, files)


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
