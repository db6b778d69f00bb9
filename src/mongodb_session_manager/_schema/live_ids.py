"""The live set: the ids of live messages, as a few ranges."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..types import LiveDoc, SegmentReferenceDoc
from .values import Stored


@dataclass(frozen=True)
class LiveIds:
    """A live set as it is stored.

    Attributes:
        start: Every stored message with this id or a higher one is live.
        ranges: First and last ids of the others, in live order.
        pinned: The ids that carry the pin flag.
        at: How many messages precede the conversation manager's own; None if its own have left the list.
        kept: Messages made by a conversation manager whose state no longer holds them, in their stored form.
    """

    start: int
    ranges: tuple[tuple[int, int], ...] = ()
    pinned: tuple[int, ...] = ()
    at: int | None = 0
    kept: tuple[Stored, ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, stored: Any) -> "LiveIds | None":
        """Return the stored live set; None if there is none that can be read."""
        try:
            ranges = tuple((_number(first), _number(last)) for first, last in stored.get("ranges", ()))
            pinned = tuple(map(_number, stored.get("pinned", ())))
            at = stored.get("at", 0)
            kept = tuple(stored.get("kept", ()))
            return cls(_number(stored["from"]), ranges, pinned, None if at is None else _number(at), kept)
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
            return None

    @property
    def stored(self) -> LiveDoc:
        """The stored form, without empty fields."""
        stored: LiveDoc = {"from": self.start}
        if self.ranges:
            stored["ranges"] = [list(ends) for ends in self.ranges]
        if self.pinned:
            stored["pinned"] = list(self.pinned)
        if self.kept:
            stored["kept"] = list(self.kept)
        if self.at != 0:
            stored["at"] = self.at
        return stored

    @property
    def spans(self) -> tuple[tuple[int, int | None], ...]:
        """First and last ids of all live messages; None for "and all later ones"."""
        return (*self.ranges, (self.start, None))

    def holding(self, references: Iterable[SegmentReferenceDoc]) -> list[SegmentReferenceDoc]:
        """Return the references to segments that hold live messages."""
        return [r for r in references if any(_meet(r["first_id"], r["last_id"], *span) for span in self.spans)]

    def choose(self, ids: Sequence[int]) -> list[int]:
        """Return the live ids among these, which are ascending, in live order."""
        chosen: list[int] = []
        for first, last in self.ranges:
            chosen += ids[bisect_left(ids, first) : bisect_right(ids, last)]
        return chosen + list(ids[bisect_left(ids, self.start) :])

    def missing(self, ids: Sequence[int]) -> int:
        """Return how many of the live messages that the set names are not among the ids."""
        return sum(last - first + 1 - _count(ids, first, last) for first, last in self.ranges)


def _number(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(type(value).__name__)
    return int(value)


def _count(ids: Sequence[int], first: int, last: int) -> int:
    return bisect_right(ids, last) - bisect_left(ids, first)


def _meet(first: int, last: int, start: int, end: int | None) -> bool:
    return last >= start and (end is None or first <= end)
