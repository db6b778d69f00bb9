"""Copies of messages in a live list, as snapshots, applications and conversation managers make them; pure."""

from collections.abc import Iterable, Sequence

from strands.types.content import Message

from .live_records import Record, Slot, tracking_id_of

__all__ = ["CopiesOf", "is_copy", "stands_for_as_copy", "with_copied"]


class CopiesOf:
    """Places of messages that left, to be found by copies: by tracking id, and without one by what they say."""

    def __init__(self, left: Iterable[tuple[Message, int]]) -> None:
        left = list(left)
        self._tracked = {tracking_id: place for message, place in left if (tracking_id := tracking_id_of(message))}
        self._others = [(message, place) for message, place in left if tracking_id_of(message) is None]

    def pop(self, message: Message) -> int | None:
        tracking_id = tracking_id_of(message)
        if tracking_id is not None:
            return self._tracked.pop(tracking_id, None)
        # Copies of several come in their order, so that the first is the one, as a rule.
        index = next((index for index, (other, _) in enumerate(self._others) if _says(message, other)), None)
        return None if index is None else self._others.pop(index)[1]


def stands_for_as_copy(message: Message, slot: Slot | None) -> tuple[Record, ...]:
    """Return what a message stands for if it is a copy of one that others were merged into."""
    is_copy = slot is not None and slot.message.get("content") == message.get("content")
    return slot.stands_for if slot is not None and is_copy else ()


def with_copied(held: Sequence[Message], messages: Sequence[Message]) -> list[Message]:
    """Add the messages of which a conversation manager's state holds copies that bear no tracking id."""
    copies = [message for message in held if tracking_id_of(message) is None]
    return [*held, *(message for message in messages if any(_says(message, other) for other in copies))]


def _says(message: Message, other: Message) -> bool:
    return message.get("role") == other.get("role") and message.get("content") == other.get("content")


def is_copy(message: Message, records: Sequence[Record]) -> bool:
    return len(records) == 1 and records[0].message.get("content") == message.get("content")
