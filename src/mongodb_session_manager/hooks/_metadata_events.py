"""The event about changed metadata, for any service."""

import base64
import json
import logging
import math
import re
from collections.abc import Collection, Iterator, Mapping
from datetime import date, datetime, timezone
from typing import Any, ClassVar

from .._override import override
from ._notifying import DeliveryMode, Message, NotifyingHook

logger = logging.getLogger(__name__)

EVENT = "metadata_update"

_NEEDS_ESCAPES = re.compile("[\ud800-\udfff\ufffe\uffff]")
# Left free for the rest of the event and for characters that JSON escapes in names.
_RESERVE = 8 * 1024


class MetadataEventHook(NotifyingHook):
    """A hook that sends changed metadata as JSON.

    A subclass names its kind and its limit, and sends ``message["body"]``.

    Args:
        target: The address to send to.
        metadata_fields: The fields to send; all by default.
        delivery: See ``NotifyingHook``.

    Raises:
        ValueError: ``metadata_fields`` is not a list of names, or ``delivery`` is not one of its values.
    """

    actions = {"update": "metadata", "delete": "keys"}  # noqa: RUF012 - a class variable in the base
    given_as = "metadata_hook"
    limit: ClassVar[int]
    """Bytes that a body may have."""
    unsent: ClassVar[frozenset[str]] = frozenset()
    """Fields that are never sent."""

    def __init__(self, target: str, metadata_fields: Collection[str] | None, delivery: DeliveryMode) -> None:
        super().__init__((target,), delivery)
        self._target, self._fields = target, _checked_fields(metadata_fields)

    @override
    def _compose(self, action: str, session_id: str, stored: Any, event_id: str) -> tuple[str, Message] | None:
        changed = {
            name: value
            for name, value in _changes(stored, self._fields)
            if not any(_is_within(name, field) for field in self.unsent)
        }
        if not changed:
            return None
        event = {
            "session_id": session_id,
            "event": EVENT,
            "operation": action,
            "metadata": changed,
            "timestamp": datetime.now(timezone.utc).isoformat(),
        }
        event_id = event_id if self.at_least_once else ""
        if event_id:
            event["id"] = event_id
        return self._target, {"operation": action, "body": _fitted(event, self.limit), "event_id": event_id}


def _checked_fields(fields: Collection[str] | None) -> tuple[str, ...] | None:
    if fields is None:
        return None
    if isinstance(fields, str) or not isinstance(fields, Collection):
        raise ValueError(f"metadata_fields must be a list of names, got {type(fields).__name__}")
    if not all(isinstance(name, str) and name for name in fields):
        raise ValueError("metadata_fields must hold names, which are not empty")
    return tuple(fields)


def _changes(stored: Any, fields: tuple[str, ...] | None) -> Iterator[tuple[str, Any]]:
    """Yield the changed fields that are to be sent, deleted ones with None."""
    if isinstance(stored, Mapping):
        changed = dict(stored)
    elif isinstance(stored, Collection) and not isinstance(stored, str | bytes):
        changed = dict.fromkeys(stored)
    else:
        return  # the operation refuses it, or it is an iterator, which only the operation may use up
    for key, value in changed.items():
        if fields is None or any(_is_within(key, field) for field in fields):
            yield key, value
        else:
            yield from ((field, _nested(value, field[len(key) + 1 :])) for field in fields if _is_within(field, key))


def _is_within(name: str, field: str) -> bool:
    return name == field or name.startswith(f"{field}.")


def _nested(value: Any, path: str) -> Any:
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _fitted(event: Mapping[str, Any], limit: int) -> str:
    """Return the event as JSON, without its largest fields if it would be too large for the service."""
    text = to_json(event)
    if len(text.encode()) <= limit:
        return text
    sizes = {name: len(to_json({name: value}).encode()) for name, value in event["metadata"].items()}
    kept, room = {}, limit - _RESERVE - sum(len(to_json(name).encode()) + 2 for name in sizes)
    for name in sorted(sizes, key=sizes.__getitem__):
        room -= sizes[name]
        if room >= 0:
            kept[name] = event["metadata"][name]
    omitted = [name for name in sizes if name not in kept]
    logger.warning(
        "session_id=<%s>, bytes=<%d>, limit=<%d>, omitted=<%d> | too large for the service, sent without these fields",
        event["session_id"],
        len(text.encode()),
        limit,
        len(omitted),
    )
    return to_json({**event, "metadata": kept, "omitted": omitted})


def to_json(value: Any) -> str:
    """Return JSON: times in ISO 8601, bytes in base64, NaN and infinities as null."""
    plain = _plain(value)
    text = json.dumps(plain, ensure_ascii=False)
    # Some services do not accept these characters.
    return json.dumps(plain) if _NEEDS_ESCAPES.search(text) else text


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)
