"""The messages of an agent as they are told apart, and what stood in its list at one moment; pure."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter, lt
from typing import NamedTuple

from strands.types.content import Message

from .._schema.live_ids import LiveIds
from .._schema.values import Stored, encode
from ..errors import UnstorableValueError

logger = logging.getLogger(__name__)

__all__ = [
    "Messages",
    "Record",
    "Slot",
    "Snapshot",
    "View",
    "each_once",
    "is_message",
    "is_pinned",
    "records_in",
    "tracking_id_of",
]


@dataclass(eq=False, slots=True)
class Record:
    """A message and the id under which it is stored, or will be.

    Attributes:
        message_id: The id; it follows where a message before it turns out to be too large.
        message: What was announced, given or restored.
        given: What the caller gave, where the message was made of that.
        has_stood: Whether it has been seen in ``agent.messages``.
        is_gone: Whether it will not be live again: dropped, or it never stood and what came after it has left.
    """

    message_id: int
    message: Message = field(repr=False)
    given: Message | None = field(default=None, repr=False)
    has_stood: bool = False
    is_gone: bool = False

    def matches(self, message: Message) -> bool:
        """Tell whether a message is this one, or bears its tracking id."""
        tracking_id = tracking_id_of(message)
        return self.is_same(message) or (tracking_id is not None and tracking_id_of(self.message) == tracking_id)

    def is_same(self, message: Message) -> bool:
        """Tell whether this very object was stored."""
        return self.message is message or self.given is message

    @property
    def keys(self) -> set[object]:
        """What a live message may be recognised by."""
        found: set[object] = {id(self.message), id(self.given or self.message), tracking_id_of(self.message)}
        return found - {None}


class Snapshot(NamedTuple):
    """What stands in a live history at one moment.

    Attributes:
        listed: The stored messages, in live order, and maybe others behind: later snapshots share the list.
        length: How many of them are its own.
        pinned: Those of them that carry the pin flag.
        at: How many stand before the conversation manager's own messages; None where those have left.
        kept: Own messages that no conversation manager's state holds.
    """

    listed: list[Record]
    length: int = 0
    pinned: frozenset[Record] = frozenset()
    at: int | None = 0
    kept: tuple[Message, ...] = ()

    @property
    def records(self) -> list[Record]:
        """The stored messages, in live order."""
        return self.listed[: self.length]

    def and_then(self, record: Record) -> "Snapshot":
        """Return what stands there when one more message does."""
        # Ten thousand are not copied with each message: what stood there before is never changed.
        listed = self.listed if len(self.listed) == self.length else self.records
        listed.append(record)
        return self._replace(listed=listed, length=len(listed))

    def ids(self, next_id: int) -> LiveIds:
        """Return the set in its stored form.

        Args:
            next_id: The id of the next message; what gets it is live.
        """
        ranges = _ranges([record.message_id for record in self.records if not record.is_gone])
        start = next_id
        if ranges and ranges[-1][1] == next_id - 1:
            start = ranges.pop()[0]
        pinned = tuple(sorted(record.message_id for record in self.pinned if not record.is_gone))
        at = None if self.at is None else sum(not record.is_gone for record in self.records[: self.at])
        return LiveIds(start, tuple(ranges), pinned, at, tuple(_stored(self.kept)))

    def only_lost_head(self, before: "Snapshot") -> bool:
        """Tell whether this is what was before, less some of the first messages: restoring either is equivalent."""
        if not self.length or self.kept or before.kept or self.at != 0:
            return False
        records = self.records
        return before.records[-self.length :] == records and self.pinned == before.pinned.intersection(records)


def _stored(kept: Iterable[Message]) -> Iterator[Stored]:
    """Encode messages that are a conversation manager's own; one that cannot be stored costs nothing but itself."""
    for message in kept:
        try:
            yield encode(message, "A kept message")
        except UnstorableValueError as error:
            logger.warning("error=<%s> | a message that its conversation manager gave up is not kept", error)


def _ranges(numbers: Sequence[int]) -> list[tuple[int, int]]:
    if numbers and numbers[-1] - numbers[0] == len(numbers) - 1 and all(map(lt, numbers, numbers[1:])):
        return [(numbers[0], numbers[-1])]
    ranges: list[tuple[int, int]] = []
    for number in numbers:
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1] = (ranges[-1][0], number)
        else:
            ranges.append((number, number))
    return ranges


class View(NamedTuple):
    """An agent's live messages, and what is asked of them only when they changed.

    Attributes:
        messages: ``agent.messages``.
        held: Returns the messages that the conversation manager's state holds.
        with_pins: Whether anything may heed the pin flag.
    """

    messages: Sequence[Message]
    held: Callable[[], Sequence[Message]]
    with_pins: bool

    def until(self, record: Record) -> "View":
        """Return the view without what stands behind a message: that is not announced yet."""
        last = len(self.messages) - 1
        if last >= 0 and record.is_same(self.messages[last]):
            return self
        place = next((place for place in range(last, -1, -1) if record.is_same(self.messages[place])), last)
        return self if place == last else self._replace(messages=self.messages[: place + 1])


class Slot(NamedTuple):
    """A place in the list that was seen last: its message is stored, stands for stored ones, or neither."""

    message: Message
    record: Record | None
    stands_for: tuple[Record, ...] = ()

    @property
    def records(self) -> tuple[Record, ...]:
        return self.stands_for if self.record is None else (self.record, *self.stands_for)

    def tells_more(self, is_anew: bool) -> bool:
        """Tell whether the message may hold what others said; in a list that was made anew, copies do not."""
        if self.record is None:
            return True
        return not (is_anew or self.record.is_same(self.message)) and (
            self.record.message.get("content") != self.message.get("content")
        )


_record_of, _stands_for = attrgetter("record"), attrgetter("stands_for")


def records_in(slots: Sequence[Slot]) -> list[Record]:
    """Return what the messages in some places are stored as, and stand for."""
    if not any(map(_stands_for, slots)):
        return list(filter(None, map(_record_of, slots)))
    return [record for slot in slots for record in slot.records]


def each_once(slots: Sequence[Slot]) -> list[Slot]:
    """Have no message stand for a stored one that is back in the list, or that another one stands for."""
    taken = set(map(_record_of, slots))
    each = []
    for slot in slots:
        stands_for = tuple(record for record in slot.stands_for if record not in taken)
        taken.update(stands_for)
        each.append(slot._replace(stands_for=stands_for) if slot.stands_for else slot)
    return each


class Messages:
    """A few messages, found by identity or by tracking id."""

    def __init__(self, messages: Iterable[Message]) -> None:
        found = list(messages)
        self._objects = {id(message) for message in found}
        self._tracking_ids = {tracking_id_of(message) for message in found} - {None}

    def __contains__(self, message: Message) -> bool:
        return id(message) in self._objects or tracking_id_of(message) in self._tracking_ids


def tracking_id_of(message: Message) -> str | None:
    """Return what tells a message apart; a caller may have given anything else under that name."""
    tracking_id: object = message.get("tracking_id")
    return tracking_id if isinstance(tracking_id, str) else None


def is_pinned(message: Message) -> bool:
    """Tell whether a message carries the SDK's pin flag."""
    metadata = message.get("metadata")
    if not isinstance(metadata, dict):
        return False
    custom = metadata.get("custom")
    return isinstance(custom, dict) and custom.get("pinned") is True


def is_message(value: object) -> bool:
    """Tell whether a value that a conversation manager holds is a message."""
    if not (isinstance(value, dict) and isinstance(value.get("role"), str)):
        return False
    content = value.get("content")
    return isinstance(content, list) and all(isinstance(block, dict) for block in content)
