"""Which messages of one agent are live, as far as that is stored or on its way to be."""

import itertools
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from strands.types.content import Message

from .._schema.live_ids import LiveIds
from .._schema.messages import is_plain_user
from ..errors import MessageNotFoundError
from .live_records import Record, Snapshot, View, tracking_id_of
from .live_set import LiveMessages

__all__ = ["MANY_RANGES", "LiveChange", "LiveTracking"]

logger = logging.getLogger(__name__)

# A set of more ranges than this is told in the log: each costs 22 bytes whenever the set changes.
MANY_RANGES = 5_000


class LiveChange(NamedTuple):
    """What of the live messages is to be stored.

    Attributes:
        live: What stood in the list.
        lost_head: Whether the list has only lost its head, which may be stored late.
    """

    live: Snapshot | None = None
    lost_head: bool = False


_NOTHING = LiveChange()


class LiveTracking:
    """Tells what of the live messages is to be stored with what is captured.

    Args:
        session_id: The session.
        agent_id: The agent.
        messages: The stored messages that were restored or given, with their ids.
    """

    def __init__(self, session_id: str, agent_id: str, messages: Iterable[tuple[int, Message]] = ()) -> None:
        self._session_id, self._agent_id = session_id, agent_id
        self._messages = LiveMessages(itertools.starmap(Record, messages))
        # The live set that is stored, or on its way; None where there is none, or where that is not sure.
        self._ids: LiveIds | None = None
        # What an agent without a live set was restored from; that alone is not worth a write.
        self._restored_ids: LiveIds | None = None
        # Whether a look found a difference that nothing captured yet, and whether a look would mistake messages.
        self._has_looked = self._is_unsure = False
        # Whether ids do not tell the messages apart: the first version could mix them up.
        self._is_mixed_up = False

    def begin(
        self, view: View, own: Sequence[Message], kept: Sequence[Message], stored: LiveIds | None, next_id: int
    ) -> None:
        """Take the live messages of an agent that was just made or restored.

        Args:
            view: The messages.
            own: Those that are the conversation manager's, not stored ones.
            kept: Those of them that no conversation manager's state holds.
            stored: The live set that is stored.
            next_id: The id of the next message.
        """
        ids = [record.message_id for record in self._messages.records]
        self._is_mixed_up = stored is None and any(one >= other for one, other in itertools.pairwise(ids))
        self._messages.begin(view, own, kept, stored is not None and stored.at is None)
        self._ids, self._restored_ids = stored, self._messages.snapshot.ids(next_id)
        self._has_looked = stored is not None and stored != self._restored_ids

    # Messages

    @property
    def latest(self) -> Record | None:
        """The message appended last, as far as it is known here."""
        return self._messages.records[-1] if self._messages.records else None

    def record_of(self, message: Message) -> Record:
        """Return the latest message that is this one, or bears its tracking id.

        Raises:
            MessageNotFoundError: There is none.
        """
        for record in reversed(self._messages.records):
            if record.matches(message):
                return record
        raise MessageNotFoundError(self._session_id, self._agent_id, str(message.get("tracking_id")))

    def is_not_latest(self, message: Message, live: Sequence[Message]) -> bool:
        """Tell whether a message in the list is not stored, and cannot be taken for the latest stored one either."""
        tracking_id = tracking_id_of(message)
        same = [m for m in live if m is message or (tracking_id is not None and tracking_id_of(m) == tracking_id)]
        if not same or self._is_unsure or any(self._messages.is_told_by(each) for each in (message, *same)):
            return False
        latest = self.latest
        return latest is None or _kind(latest.message) != _kind(message)

    def is_among(self, message: Message, message_ids: Iterable[int]) -> bool:
        """Tell whether this very message is stored, or will be, under one of some ids."""
        return any(r.message_id in message_ids and r.is_same(message) for r in self._messages.records)

    def copies(self, record: Record, redacted: Message) -> list[int]:
        """Return the ids of a message and of those that have its tracking id, or the one of its redaction."""
        same = (record.message, record.given or redacted, redacted)
        return [other.message_id for other in self._messages.records if any(map(other.matches, same))]

    def is_continuation(self, message: Message, live: Sequence[Message]) -> bool:
        """Tell whether an announced message is the latest one grown longer, not a new one.

        The SDK announces a merged continuation a second time under its tracking id, as a new dict that took the
        place of the old one; a prompt that is sent again stands in the history once more.
        """
        tracking_id, records = message.get("tracking_id"), self._messages.records
        latest = records[-1] if records else None
        if tracking_id is None or latest is None or latest.message.get("tracking_id") != tracking_id:
            return False
        if latest.is_same(message):
            return False
        stored = sum(record.message.get("tracking_id") == tracking_id for record in records)
        return sum(other.get("tracking_id") == tracking_id for other in live) <= stored

    def prune(self, live: Sequence[Message]) -> None:
        """Forget the messages that left the live history, as soon as there are more than that has."""
        records = self._messages.records
        if len(records) <= len(live):
            return
        tracking_ids = {message.get("tracking_id") for message in live} - {None}
        objects = {id(message) for message in live}
        self._messages.records = [
            record
            for record in records
            if record is records[-1]
            or record.message.get("tracking_id") in tracking_ids
            or id(record.message) in objects
        ]

    # Looking

    def look(self, view: View, next_id: int) -> set[str]:
        """Note how the live messages have changed since the last look; what is captured next tells it.

        Returns:
            What ``unknown`` gives; where that is anything, nothing is noted.
        """
        found = self.unknown(view.messages, None, next_id)
        self._has_looked |= not self._is_unsure and self._has_changed(view, None)
        return found

    def knows_all(self, next_id: int) -> bool:
        """Tell whether all that is stored is known here."""
        return len(self._messages.records) >= next_id

    def unknown(self, live: Sequence[Message], announced: Message | None, next_id: int) -> set[str]:
        """Return the tracking ids of live messages that may be stored, but are not known here: to be looked up."""
        messages = self._messages
        if self.knows_all(next_id) or (messages.has_grown(live) and live[-1] is announced):
            return set()
        if messages.is_seen(live) or messages.lost_head(live):
            return set()
        try:
            found = messages.unknown(live, announced)
        except Exception as error:  # noqa: BLE001 - what stands in the list is anybody's, and never costs a message
            self._warn("error", type(error).__name__, "the live messages could not be told")
            return set()
        self._is_unsure = bool(found)
        return found

    def recover(self, ids: Mapping[str, Iterable[int]], live: Sequence[Message]) -> None:
        """Take live messages that were found in storage, by tracking id."""
        self._messages.recover(ids, live)
        self._is_unsure = False

    def _has_changed(self, view: View, record: Record | None) -> bool:
        """Look at the live messages; a list that cannot be gone through leaves the live set as it was."""
        try:
            if record is None:
                return self._messages.look(view)
            live = view.messages
            if not (live and (live[-1] is record.message or live[-1] is record.given)):
                view = view.until(record)
            return not self._messages.append(record, view) and self._messages.look(view, closely=True)
        except Exception as error:  # noqa: BLE001 - what stands in the list is anybody's, and never costs a message
            self._warn("error", type(error).__name__, "the live messages could not be told")
            return False

    # Capturing

    def capture(self, view: View | None, next_id: int, record: Record | None = None) -> LiveChange:
        """Return what is to be stored with what is captured now.

        Args:
            view: The live messages; None where no live set is stored.
            next_id: The id of the next message, or of the one that is captured.
            record: The message that is captured.
        """
        if view is None or self._is_unsure or self._is_mixed_up:
            self._messages.records += [] if record is None else [record]
            return _NOTHING
        before, has_looked = self._messages.snapshot, self._has_looked
        changed = self._has_changed(view, record) or has_looked
        if not changed and (self._ids is not None or record is None):
            return _NOTHING
        ids = self._messages.snapshot.ids(next_id + (record is not None))
        self._has_looked = False
        self._tell_of_many(ids)
        if ids == self._ids or (record is None and self._ids is None and ids == self._restored_ids):
            return _NOTHING
        lost_head = self._ids is not None and not has_looked and self._messages.snapshot.only_lost_head(before)
        self._ids = ids
        return LiveChange(self._messages.snapshot, lost_head)

    def redact_kept(self, record: Record, message: Message, next_id: int) -> LiveChange:
        """Redact what is kept of a message beside the stored ones, and return what is to be stored then."""
        kept = [other for other in self._messages.snapshot.kept if record.matches(other)]
        for other in kept:
            other["content"] = message["content"]
        if not kept:
            return _NOTHING
        self._ids = self._messages.snapshot.ids(next_id)
        return LiveChange(self._messages.snapshot)

    def forget(self) -> None:
        """Have the next capture store the live set, whatever was captured of it."""
        self._ids = self._restored_ids = None
        self._has_looked = True

    def drop(self, message_id: int, captured: Iterable[Snapshot]) -> None:
        """Take out a message that no document can hold, and renumber what comes after it.

        Args:
            message_id: The message.
            captured: What changes hold that wait to be sent.
        """
        records = itertools.chain.from_iterable(snapshot.records for snapshot in captured)
        for record in {*self._messages.records, *records}:
            record.is_gone |= record.message_id == message_id
            record.message_id -= record.message_id > message_id
        self._messages.records = [record for record in self._messages.records if not record.is_gone]
        self.forget()

    def _tell_of_many(self, ids: LiveIds) -> None:
        if len(ids.ranges) > MANY_RANGES >= (len(self._ids.ranges) if self._ids else 0):
            self._warn("ranges", len(ids.ranges), "live messages lie far apart, which makes writes large")

    def _warn(self, name: str, value: Any, told: str) -> None:
        about = "session_id=<%s>, agent_id=<%s>, %s=<%s> | %s"
        logger.warning(about, self._session_id, self._agent_id, name, value, told)


def _kind(message: Message) -> tuple[str, bool]:
    """What a message and its redaction have in common."""
    return message["role"], is_plain_user(message)
