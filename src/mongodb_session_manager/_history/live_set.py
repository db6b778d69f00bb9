"""Which stored messages stand in ``agent.messages``, and under which ids; pure.

Conversation managers, hooks and applications change that list without an event, so it is compared with
the list that was seen last. Messages are told apart by identity and by tracking id, never by content, but for a new
object that bears the tracking id of a stored message.
"""

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from operator import attrgetter, is_, is_not, lt

from strands.types.content import Message

from .._schema.messages import is_plain_user
from .live_copies import CopiesOf, is_copy, stands_for_as_copy, with_copied
from .live_records import (
    Messages,
    Record,
    Slot,
    Snapshot,
    View,
    each_once,
    is_pinned,
    records_in,
    tracking_id_of,
)

_id_of, _message_of = attrgetter("message_id"), attrgetter("message")
_is_gone, _has_stood = attrgetter("is_gone"), attrgetter("has_stood")


class LiveMessages:
    """Follows which stored messages stand in an agent's list.

    Args:
        records: The stored messages that may stand there.

    Attributes:
        records: The messages that may stand there, or may be asked for.
        snapshot: The list when it was looked at.
    """

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self.records = sorted(records, key=_id_of)
        self._seen: list[Message] = []
        self._slots: list[Slot] = []
        # The conversation manager's own messages in the list; those of them that its state holds, or no state.
        self._own: list[Message] = []
        self._held: list[Message] = []
        self._kept: list[Message] = []
        self._kept_pins: list[bool] = []
        # Whether some have been seen there, and whether all of them have left.
        self._own_have_stood = self._own_have_left = False
        # The latest plain message of a user before the first live one.
        self._user_before: Record | None = None
        # Tracking ids that were looked up: every stored message with one of them is among the records.
        self._looked_up: set[str | None] = set()
        self.snapshot = Snapshot([])

    def begin(
        self, view: View, own: Sequence[Message] = (), kept: Sequence[Message] = (), own_have_left: bool = False
    ) -> None:
        """Take a list that was just made or restored.

        Args:
            view: The list.
            own: Messages in it that are the conversation manager's.
            kept: Those of them that no conversation manager's state holds.
            own_have_left: Whether such messages had stood there, and left.
        """
        self._own, self._kept, self._own_have_left = list(own), list(kept), own_have_left
        self.look(view._replace(with_pins=True), closely=True)

    def has_grown(self, live: Sequence[Message]) -> bool:
        """Tell quickly whether the list is the one seen last with one message more."""
        seen = self._seen
        return len(live) == len(seen) + 1 and (not seen or (live[0] is seen[0] and live[-2] is seen[-1]))

    def append(self, record: Record, view: View) -> bool:
        """Add a record, and its message if the list only grew by that; False if the list has to be compared."""
        self.records.append(record)
        stands = self.has_grown(view.messages) and record.is_same(view.messages[-1])
        if is_pinned(record.message):
            self.snapshot = self.snapshot._replace(pinned=self.snapshot.pinned | {record})
            return False
        if not stands and not self._stays_away(record, view.messages):
            return False
        if stands:
            record.has_stood = True
            self._seen.append(view.messages[-1])
            self._slots.append(Slot(view.messages[-1], record))
        self.snapshot = self.snapshot.and_then(record)
        return True

    def _stays_away(self, record: Record, live: Sequence[Message]) -> bool:
        return self.is_seen(live) and not any(record.matches(message) for message in live)

    def look(self, view: View, *, closely: bool = False) -> bool:
        """Compare the list with the one seen last; False if nothing is different.

        Args:
            view: The list.
            closely: Whether records have come meanwhile, so that the same list may mean something else.
        """
        live = view.messages
        if not closely and self.is_seen(live) and not self._holds_others(view):
            return view.with_pins and self._look_at_pins()
        slots = self._slots_left(live) if self.lost_head(live) and not closely else None
        matched = self._match(live) if slots is None else [slot.record for slot in slots]
        strangers = [message for message, record in zip(live, matched, strict=True) if record is None]
        self._note_own(strangers, view)
        slots = self._stand(live, matched) if slots is None else slots
        records = self._in_order(slots)
        self._begin_with_user(slots, records)
        pinned = self._pinned(slots, view.with_pins).intersection(records)
        at = self._place_of_own(slots, records)
        self.snapshot = Snapshot(records, len(records), pinned, at, tuple(self._kept))
        self._seen, self._slots, self._kept_pins = list(live), slots, list(map(is_pinned, self._kept))
        self._prune()
        return True

    def _holds_others(self, view: View) -> bool:
        """Tell whether the conversation manager's state holds others of its own messages, as another manager's does."""
        if not self._own:
            return False
        now, before = Messages(with_copied(view.held(), self._own)), Messages(self._held)
        return any((message in now) is not (message in before) for message in self._own)

    def is_seen(self, live: Sequence[Message]) -> bool:
        """Tell whether the list is the one seen last."""
        return len(live) == len(self._seen) and not any(map(is_not, live, self._seen))

    def lost_head(self, live: Sequence[Message]) -> bool:
        """Tell whether the list is the end of the one seen last."""
        return 0 < len(live) < len(self._seen) and not any(map(is_not, live, self._seen[-len(live) :]))

    def _slots_left(self, live: Sequence[Message]) -> list[Slot] | None:
        """Return the slots of a list that lost its oldest messages; None if one of its messages was dropped."""
        slots = self._slots[-len(live) :]
        return None if any(map(_is_gone, records_in(slots))) else slots

    def is_told_by(self, message: Message) -> bool:
        """Tell whether a message is a stored one, or stands for some."""
        return any(record.matches(message) for record in self.records) or any(
            slot.records for slot in self._slots if slot.message is message
        )

    def unknown(self, live: Sequence[Message], announced: Message | None) -> set[str]:
        """Return the tracking ids that more new messages bear than records, up to a message that was just announced."""
        objects = set(map(id, self._seen))
        bearing: Counter[str | None] = Counter()
        for record in self.records:
            objects.update((id(record.message), id(record.given or record.message)))
            bearing[tracking_id_of(record.message)] += not record.is_gone
        found = set()
        for message in live:
            if message is announced:
                break
            tracking_id = tracking_id_of(message)
            bearing[tracking_id] -= 1
            # A prompt that was sent again is stored twice, and one of both may have been forgotten.
            if tracking_id is not None and id(message) not in objects and bearing[tracking_id] < 0:
                found.add(tracking_id)
        return found - self._looked_up

    def recover(self, ids: Mapping[str, Iterable[int]], live: Sequence[Message]) -> None:
        """Add records of live messages that were looked up in storage, by tracking id; what has no id is not stored."""
        self._looked_up.update(ids)
        known = {record.message_id for record in self.records}
        for message in live:
            found = [number for number in ids.get(tracking_id_of(message) or "", ()) if number not in known]
            known.update(found)
            self.records += [Record(number, message, has_stood=True) for number in found]
        self.records.sort(key=_id_of)

    def _look_at_pins(self) -> bool:
        pinned, kept_pins = self._pinned(self._slots, with_pins=True), list(map(is_pinned, self._kept))
        if pinned == self.snapshot.pinned and kept_pins == self._kept_pins:
            return False
        self._kept_pins = kept_pins
        self.snapshot = self.snapshot._replace(pinned=pinned)
        return True

    def _pinned(self, slots: Sequence[Slot], with_pins: bool) -> frozenset[Record]:
        """Return the records with the pin flag; for those that are not in the list, the flag that they had."""
        if not with_pins:
            return self.snapshot.pinned
        # Each is looked at with each turn, and most have no metadata that may hold the flag.
        pinned = frozenset(
            slot.record
            for slot in slots
            if (metadata := slot.message.get("metadata"))
            and isinstance(metadata, dict)
            and "custom" in metadata
            and slot.record
            and is_pinned(slot.message)
        )
        if not self.snapshot.pinned:
            return pinned
        return pinned | self.snapshot.pinned.difference(slot.record for slot in slots if slot.record)

    def _match(self, live: Sequence[Message]) -> list[Record | None]:
        """Return the record of each message: from the end backward, the latest free one that is it."""
        if self._is_whole(live):
            for record in self.records:
                record.has_stood = True
            return list(self.records)
        free: dict[object, list[Record]] = defaultdict(list)
        for record in self.records:
            for key in record.keys:
                free[key].append(record)
        taken: set[Record] = set()
        matched: list[Record | None] = []
        for message in reversed(live):
            found = _latest(free[id(message)], taken) or _latest(free.get(tracking_id_of(message), []), taken)
            if found is not None:
                taken.add(found)
                found.has_stood = True
            matched.append(found)
        return matched[::-1]

    def _is_whole(self, live: Sequence[Message]) -> bool:
        """Tell whether the list holds the very messages of all records, as one that was just restored does."""
        same = len(live) == len(self.records) and all(map(is_, map(_message_of, self.records), live))
        return same and not any(map(_is_gone, self.records))

    def _note_own(self, strangers: Sequence[Message], view: View) -> None:
        """Follow the messages that are a conversation manager's own; what its state gave up is kept."""
        held = with_copied(view.held(), strangers) if strangers else []
        now, before = Messages(held), Messages([*self._kept, *self._held])
        candidates = Messages([*held, *self._own])
        self._own = [message for message in strangers if message in candidates]
        self._own_have_stood |= bool(self._own)
        # Among strangers may be copies of them that cannot be told.
        have_left = self._own_have_left or (self._own_have_stood and not strangers)
        self._own_have_left = have_left and not self._own
        self._held = [message for message in self._own if message in now]
        self._kept = [message for message in self._own if message in before and message not in now]

    def _stand(self, live: Sequence[Message], matched: Sequence[Record | None]) -> list[Slot]:
        """Return the list's slots; a new message in the place of stored ones that left stands for them.

        What left at the same moment elsewhere may be told by it too: restored is then more than live, never less.
        """
        if not self._slots:
            return list(map(Slot, live, matched))
        is_anew = set(map(id, self._seen)).isdisjoint(map(id, live))
        old = self._places_before(live, matched)
        merged: dict[Record | None, Slot] = {
            slot.record: slot for slot in self._slots if slot.stands_for and slot.record
        }
        slots = [
            Slot(
                message,
                record,
                stands_for_as_copy(message, merged.get(record)) if place is None else self._slots[place].stands_for,
            )
            for message, record, place in zip(live, matched, old, strict=True)
        ]
        slots = each_once(slots)
        present = {record for slot in slots for record in slot.records}
        present |= {record for slot in self._slots for record in slot.records if record.is_gone}
        left = {r: place for place, slot in enumerate(self._slots) for r in slot.records if r not in present}
        new = self._new_where(slots, old, sorted(left.values()), is_anew) if left else []
        for index, records in zip(new, self._shares([slots[index].message for index in new], left), strict=True):
            slots[index] = slots[index]._replace(stands_for=(*slots[index].stands_for, *records))
        return slots

    def _places_before(self, live: Sequence[Message], matched: Sequence[Record | None]) -> list[int | None]:
        """Return where each message stood; copies of messages that are not stored take their places."""
        places, now = {id(message): place for place, message in enumerate(self._seen)}, set(map(id, live))
        strangers = [
            (slot.message, place)
            for place, slot in enumerate(self._slots)
            if id(slot.message) not in now and (slot.record is None or slot.record.is_gone)
        ]
        copied = CopiesOf(strangers)
        return [
            places.pop(id(message)) if id(message) in places else None if record else copied.pop(message)
            for message, record in zip(live, matched, strict=True)
        ]

    def _shares(self, new: Sequence[Message], left: Mapping[Record, int]) -> list[list[Record]]:
        """Return what each new message stands for: from the end backward for one each, the first for all others too."""
        at: defaultdict[int, list[Record]] = defaultdict(list)
        for record, place in left.items():
            at[place].append(record)
        places, shares = sorted(at), [list[Record]() for _ in new]
        for number in range(len(new) - 1, -1, -1):
            if not places or new[number].get("role") != self._slots[places[-1]].message.get("role"):
                break
            shares[number] = at[places.pop()]
        if new and not is_copy(new[0], shares[0]):
            shares[0] = [*(record for place in places for record in at[place]), *shares[0]]
        return shares

    def _new_where(
        self, slots: Sequence[Slot], old: Sequence[int | None], left: Sequence[int], is_anew: bool
    ) -> list[int]:
        """Return which new messages stand where others left."""
        of_record = {record: place for place, slot in enumerate(self._slots) for record in slot.records}
        where = [
            place if place is not None else of_record.get(slot.record) if slot.record else None
            for place, slot in zip(old, slots, strict=True)
        ]
        own = Messages(self._own)
        before = accumulate(where, _latest_place, initial=-1)
        after = reversed([*accumulate(reversed(where), _latest_place, initial=len(self._slots))][:-1])
        return [
            index
            for index, (slot, low, high) in enumerate(zip(slots, before, after, strict=False))
            if old[index] is None and slot.message not in own and slot.tells_more(is_anew)
            if bisect_right(left, low) < bisect_left(left, high)
        ]

    def _in_order(self, slots: Sequence[Slot]) -> list[Record]:
        """Return the live records, in the order of their ids where the list has that order too."""
        found = self._with_unseen(records_in(slots))
        direct = [slot.record.message_id for slot in slots if slot.record]
        if all(map(lt, direct, direct[1:])):
            found.sort(key=_id_of)
        return found

    def _with_unseen(self, found: Sequence[Record]) -> list[Record]:
        """Add what never stood in the list: it is live until the next higher message that did leaves."""
        if all(map(_has_stood, self.records)):
            return list(found)
        live, unseen = set(found), defaultdict[Record | None, list[Record]](list)
        after: Record | None = None
        for record in reversed(self.records):
            if record.has_stood:
                after = record
            elif after is not None and after not in live:
                record.is_gone = True
            elif not record.is_gone:
                unseen[after].insert(0, record)
        return [each for record in found for each in (*unseen[record], record)] + unseen[None]

    def _begin_with_user(self, slots: Sequence[Slot], records: list[Record]) -> None:
        """Have a history whose first message is not stored restored from a user's message on, not from an answer."""
        if not any(slot.records for slot in slots):
            self._user_before = None  # the conversation begins anew
            return
        left = [record for record in records_in(self._slots) if record.message_id < records[0].message_id]
        self._user_before = next((r for r in reversed(left) if is_plain_user(r.message)), self._user_before)
        own, before = Messages(self._own), self._user_before
        first = next(slot for slot in slots if slot.records or slot.message in own)
        begins_otherwise = slots[0].record is not records[0] and first.message not in own
        if begins_otherwise and before and before not in records and not is_plain_user(records[0].message):
            records.insert(0, before)

    def _place_of_own(self, slots: Sequence[Slot], records: Sequence[Record]) -> int | None:
        if not self._own:
            return None if self._own_have_left else 0
        own = Messages(self._own)
        place = next((index for index, slot in enumerate(slots) if slot.message in own), 0)
        before = {record for slot in slots[:place] for record in slot.records}
        last = max((number for number, record in enumerate(records, start=1) if record in before), default=0)
        # What others stand for may be anywhere.
        behind = {slot.record for slot in slots[place:]}
        return next((number for number, record in enumerate(records[:last]) if record in behind), last)

    def _prune(self) -> None:
        """Forget what left; the latest stays, since it may be redacted."""
        wanted = {*self.snapshot.records, *self.records[-1:], self._user_before}
        if self._looked_up:
            forgotten = {tracking_id_of(record.message) for record in self.records if record not in wanted}
            self._looked_up &= set(map(tracking_id_of, self._seen)) - forgotten
        self.records = [record for record in self.records if record in wanted]


def _latest_place(latest: int, place: int | None) -> int:
    return latest if place is None else place


def _latest(records: list[Record], taken: set[Record]) -> Record | None:
    while records and (records[-1] in taken or records[-1].is_gone):
        records.pop()
    return records[-1] if records else None
