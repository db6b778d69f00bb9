"""Messages, edits and redactions <-> elements of a stored history; the SDK's records."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, cast

from strands.types.content import Message
from strands.types.session import SessionAgent, SessionMessage

from ..errors import UnstorableValueError
from ..types import MessageDoc
from .values import Stored, decode, decode_first_version, encode, encode_noting, encode_tolerant

MESSAGE_FIELDS = ("role", "content", "tracking_id", "metadata")
AGENT_FIELDS = ("state", "conversation_manager_state", "_internal_state")
# The fields of an agent's data that may be in files.
OFFLOADED_FIELDS = (*AGENT_FIELDS, "system_prompt", "prompt_metadata")


def message_doc(
    message: Message, message_id: int, at: datetime, label: str, metrics: Stored | None = None
) -> MessageDoc:
    """Return the array element that stores a message.

    Args:
        message: As the SDK has it.
        message_id: Its number in the agent's history.
        at: When it was created and last updated.
        label: Its label in an error.
        metrics: Its ``event_loop_metrics``, which are stored as far as they can be.

    Raises:
        UnstorableValueError: The message holds something that would not come back equal.
    """
    fields = {"message_id": message_id, **_body(message, label, metrics), "created_at": at, "updated_at": at}
    return cast(MessageDoc, fields)


# Stored as the metadata of a message that are its call's own figures, which its event_loop_metrics hold anyway.
_METADATA_IN_METRICS = "event_loop_metrics"
_METADATA_FIELDS = ("usage", "metrics")


_DICT = frozenset({dict})


def is_complete(message: object) -> bool:
    """Tell whether an agent can be restored with a message: it has a role, and a content of blocks or of plain text."""
    # Each restored message comes by here: plain dicts are told at once.
    if not (isinstance(message, (dict, Mapping)) and isinstance(message.get("role"), str)):
        return False
    content = message.get("content")
    if not isinstance(content, (list, tuple)):
        return isinstance(content, str)
    return _DICT.issuperset(map(type, content)) or all(isinstance(block, dict) for block in content)


def check_complete(message: object, label: str) -> None:
    """Raise unless an agent can be restored with a message.

    Raises:
        UnstorableValueError: It cannot.
    """
    if not is_complete(message):
        raise UnstorableValueError(label, "a message is a dict with a role and a content, which is a list of blocks")


def check_calls(message: Mapping[str, object], label: str) -> None:
    """Raise unless the calls of tools in a complete message can be paired with their results when it is restored.

    Raises:
        UnstorableValueError: They cannot.
    """
    content = message["content"]
    blocks = () if isinstance(content, str) else cast(Sequence[Mapping[str, Any]], content)
    if not all(map(_names_its_call, [block[kind] for block in blocks for kind in _OF_TOOLS if kind in block])):
        raise UnstorableValueError(label, "a toolUse or toolResult block is a dict with a toolUseId")


_OF_TOOLS = ("toolUse", "toolResult")


def _names_its_call(block: object) -> bool:
    """Tell whether a tool's block has an id to be paired by."""
    return isinstance(block, Mapping) and isinstance(block.get("toolUseId", ()), str | int | None)


def _body(message: Message, label: str, metrics: Stored | None = None) -> Stored:
    check_complete(message, label)
    known = {key: value for key, value in message.items() if key in MESSAGE_FIELDS and key != "metadata"}
    extra = {key: value for key, value in message.items() if key not in MESSAGE_FIELDS}
    is_counted = metrics is not None and _is_counted(message, metrics)
    figures, is_marked = encode_tolerant(metrics, f"{label}, metrics") if metrics else ({}, True)
    body: Stored
    body, escaped = encode_noting({**known, "extra": extra} if extra else known, label)
    # Metadata with marks stay: reading the reference must be cheap.
    if is_counted and not is_marked:
        body["metadata"] = _METADATA_IN_METRICS
    elif "metadata" in message:
        metadata, differs = _metadata(message["metadata"], f"{label}, metadata")
        is_same = (
            not is_marked and isinstance(metadata.get("metadata"), dict) and _is_equal(metadata["metadata"], figures)
        )
        body |= {"metadata": _METADATA_IN_METRICS} if is_same else metadata
        escaped = escaped or differs
    if escaped:
        body["escaped"] = True
    return {**body, "event_loop_metrics": figures} if metrics else body


def _is_counted(message: Message, metrics: Stored) -> bool:
    """Tell whether the metadata of a message are its call's own figures, before anything of them is encoded."""
    metadata: Any = message.get("metadata")
    try:
        plain = type(metadata) is dict and all(type(metadata.get(name)) is dict for name in _METADATA_FIELDS)
        return plain and _is_equal(metadata, metrics)
    except Exception:  # noqa: BLE001 - objects of others may raise anything
        return False


def _is_equal(metadata: Stored, metrics: Stored) -> bool:
    own = {name: metrics.get(name) for name in _METADATA_FIELDS}
    return metadata == own and list(metadata) == list(own)


def _metadata(metadata: Any, label: str) -> tuple[Stored, bool]:
    if not issubclass(type(metadata), dict):
        return encode_tolerant({"metadata": metadata}, label)
    stored, differs = encode_tolerant(metadata, label)
    return {"metadata": stored}, differs


# What a state says of model calls, and how deep it may stand there.
_FIGURES_IN_STATES = ("accumulated_usage", "accumulated_metrics")
_FIGURES_DEPTH = 100


def without_odd_figures(state: Any, label: str, depth: int = 0) -> Any:
    """Return a state, of an interrupt or of a Graph, without those figures of model calls that cannot be stored."""
    if depth > _FIGURES_DEPTH:
        return state
    if isinstance(state, list | tuple):
        return [without_odd_figures(item, label, depth + 1) for item in state]
    if not isinstance(state, dict):
        return state
    names = (*_FIGURES_IN_STATES, "metadata") if "role" in state and "content" in state else _FIGURES_IN_STATES
    figures = {name: state[name] for name in names if name in state}
    kept = decode(encode_tolerant(figures, label)[0]) if figures else {}
    others = {name: item for name, item in state.items() if name not in figures}
    return {**{name: without_odd_figures(item, label, depth + 1) for name, item in others.items()}, **kept}


@dataclass(frozen=True)
class MessageEdit:
    """A change of a stored message; its ``created_at`` and metrics stay.

    Attributes:
        message_id: The message.
        fields: Fields of the element to set.
        dropped: Fields of the element to remove.
        tracking_id: The message's own, as stored, if its id may belong to another message by now; None if the id is
            enough.
    """

    message_id: int
    fields: Stored = field(repr=False)
    dropped: tuple[str, ...]
    tracking_id: Any = None

    @property
    def redacts(self) -> bool:
        """Whether the old content must be removed everywhere."""
        return "redacted" in self.fields

    def apply(self, message: MessageDoc | Stored) -> None:
        """Make the same change in an element that is not sent yet."""
        stored = cast(Stored, message)
        stored.update(self.fields)
        for name in self.dropped:
            parent, _, child = name.rpartition(".")
            if not parent:
                stored.pop(child, None)
            elif isinstance(stored.get(parent), dict):
                stored[parent] = {key: value for key, value in stored[parent].items() if key != child}


# The fields of an element that hold content or describe it; two of them are the first version's.
_BODY_FIELDS = (*MESSAGE_FIELDS, "extra", "escaped", "files", "message", "redact_message")


def replacement(message: Message, message_id: int, at: datetime, label: str) -> MessageEdit:
    """Return the edit that replaces a stored message by another."""
    fields = {**_body(message, label), "updated_at": at}
    return MessageEdit(message_id, fields, tuple(name for name in _BODY_FIELDS if name not in fields))


def redaction(message: Message, message_id: int, at: datetime, label: str) -> MessageEdit:
    """Return the edit that removes all content of a message; its ids and figures stay."""
    fields = {**_body(message, label), "redacted": True, "updated_at": at}
    kept = {*fields, "tracking_id"}
    if "metadata" not in fields:
        kept |= {"metadata", "escaped"}  # the metrics that stay may hold marks
    dropped = [name for name in _BODY_FIELDS if name not in kept]
    if "metadata" not in fields:
        dropped.append("metadata.custom")
    return MessageEdit(message_id, fields, tuple(dropped))


def decode_message(stored: Mapping[str, Any]) -> Message:
    """Return the message of an array element; for a redacted one, the redaction."""
    if "message" in stored:
        return cast(Message, decode_first_version(stored.get("redact_message") or stored["message"]))
    body = {name: stored[name] for name in MESSAGE_FIELDS if name in stored}
    extra = stored.get("extra")
    if "escaped" in stored:
        body, extra = decode(body), decode(extra)
    if body.get("metadata") == _METADATA_IN_METRICS and "event_loop_metrics" in stored:
        body["metadata"] = _metadata_in(stored["event_loop_metrics"])
    return cast(Message, {**body, **extra} if extra else body)


def _metadata_in(metrics: Any) -> Stored:
    """Return the metadata that the metrics hold; only a part if the document was changed by hand."""
    return {name: metrics[name] for name in _METADATA_FIELDS if name in metrics} if isinstance(metrics, dict) else {}


def is_plain_user(message: Message) -> bool:
    """Tell whether a history may begin with a message: it is a user's and not a tool's result."""
    return message.get("role") == "user" and not any("toolResult" in block for block in message.get("content") or ())


def last_plain_user(messages: Sequence[Mapping[str, Any]]) -> int | None:
    """Return the index of the last array element with which a history may begin."""
    places = range(len(messages) - 1, -1, -1)
    return next((place for place in places if is_plain_user(decode_message(messages[place]))), None)


def message_record(stored: Mapping[str, Any]) -> Stored:
    """Return an array element as ``list_messages`` shows it: the message, its id, times, metrics and events."""
    message = decode_message(stored)
    others = {name: value for name, value in stored.items() if name not in _BODY_FIELDS and value is not None}
    kept = {name: decode(value) for name, value in others.items()}
    at: Stored = {name: _listed_time(others[name]) for name in ("created_at", "updated_at") if name in others}
    return {"message_id": stored["message_id"], **message, **kept, **at}


def _listed_time(at: Any) -> Any:
    """Return a time as it is listed; another value, put there by hand, stays as it is."""
    try:
        return aware(at)
    except (AttributeError, TypeError, ValueError):
        return decode(at)


def aware(at: str | datetime) -> datetime:
    """Return a datetime from one, or from ISO 8601 text as the SDK and the first version have it."""
    found = datetime.fromisoformat(at.replace("Z", "+00:00")) if isinstance(at, str) else at
    return found.replace(tzinfo=timezone.utc) if found.tzinfo is None else found


def session_message(stored: Mapping[str, Any]) -> SessionMessage:
    """Return the SDK's record of an array element."""
    message = decode_message(stored)
    redacted = "redacted" in stored or stored.get("redact_message") is not None
    return SessionMessage(
        message=message,
        message_id=int(stored["message_id"]),
        redact_message=message if redacted else None,
        **times(stored),
    )


def agent_data_doc(agent: SessionAgent, label: str) -> Stored:
    """Return the stored ``agent_data`` of an SDK record."""
    fields = {name: encode(getattr(agent, name), f"{label}, {name}") for name in AGENT_FIELDS}
    return {"agent_id": agent.agent_id, **fields}


def session_agent(agent_id: str, stored: Mapping[str, Any]) -> SessionAgent:
    """Return the SDK's record of a stored agent: ``agent_data`` and times."""
    data = stored["agent_data"]
    read = decode_first_version if stored.get("guard") is None else decode
    fields = {name: read(data.get(name) or {}) for name in AGENT_FIELDS}
    return SessionAgent(agent_id=agent_id, **fields, **times(stored))


def times(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the stored ones of ``created_at`` and ``updated_at`` in the SDK's form, ISO 8601."""
    found = {name: stored[name] for name in ("created_at", "updated_at") if stored.get(name) is not None}
    return {name: at.isoformat() if isinstance(at, datetime) else str(at) for name, at in found.items()}


def with_tracking_id(message: Message, tracking_id: str | None = None) -> Message:
    """Return a message with a tracking id; the SDK gives one only to messages that it appends itself."""
    if message.get("tracking_id"):
        return message
    return cast(Message, {**message, "tracking_id": tracking_id or str(uuid.uuid4())})


def with_blocks(message: Message) -> Message:
    """Return a message whose ``content`` is a list of blocks: plain text, or a result's, becomes one text block."""
    content: Any = message["content"]
    if isinstance(content, list):
        return message
    if isinstance(content, tuple):
        return cast(Message, {**message, "content": list(content)})
    return cast(Message, {**message, "content": [{"text": str(content)}]})
