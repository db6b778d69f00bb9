"""Copies of messages in a live list, as snapshots, applications and conversation managers make them; pure."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from strands.types.content import Message

from .live_records import Record, Slot, tracking_id_of

__all__ = ["CopiesOf", "is_copy", "stands_for_as_copy", "with_copied"]


class CopiesOf:
    """Places of messages that left, to be found by copies: by tracking id, and without one by what they say."""

    def __init__(self, left: Iterable[tuple[Message, int]]) -> None:
        left = list(left)
        self._tracked = {tracking_id: place for message, place in left if (tracking_id := tracking_id_of(message))}
        # Ten thousand are not compared with each of as many others.
        self._others: defaultdict[tuple[str, ...], list[tuple[Message, int]]] = defaultdict(list)
        for message, place in left:
            if tracking_id_of(message) is None:
                self._others[_texts(message)].append((message, place))

    def pop(self, message: Message) -> int | None:
        tracking_id = tracking_id_of(message)
        if tracking_id is not None:
            return self._tracked.pop(tracking_id, None)
        # Copies of several come in their order, so that the first is the one, as a rule.
        others = self._others.get(_texts(message), [])
        index = next((index for index, (other, _) in enumerate(others) if _says(message, other)), None)
        return None if index is None else others.pop(index)[1]


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


def _texts(message: Message) -> tuple[str, ...]:
    """Return texts that are the same in messages that say the same, and in few others."""
    return tuple(sorted(_texts_in(message.get("content"))))


def _texts_in(content: object) -> Iterator[str]:
    for block in content if isinstance(content, list | tuple) else ():
        for value in block.values() if isinstance(block, dict) else ():
            text = value.get("toolUseId") if isinstance(value, dict) else value
            if isinstance(text, str):
                yield str.__str__(text)


def is_copy(message: Message, records: Sequence[Record]) -> bool:
    return len(records) == 1 and records[0].message.get("content") == message.get("content")
