"""The changes of one agent's history that are not acknowledged: joined, edited, renumbered and recognised; pure.

Changes leave the queue in the order in which they came. What several threads share needs a lock around each call.
"""

import itertools
from collections import deque
from collections.abc import Mapping
from dataclasses import replace

import bson
from bson import ObjectId

from .._schema.blobs import Files, LargeValues
from .._schema.histories import AgentWrite, Guard
from .._schema.limits import LIMITS, Limits
from .._schema.messages import MessageEdit
from ..errors import MongoDBSessionError, SessionTooLargeError
from .agent_state import fitting, parts
from .changes import Change, NextWrite

__all__ = ["PendingChanges"]


class PendingChanges:
    """The queue of one agent's history.

    Args:
        session_id: The session.
        agent_id: The agent.
        guard: The guard of the stored history; None if the first write creates the agent.
        limits: How much waits, and goes out together.

    Attributes:
        changes: The changes that are not acknowledged, oldest first.
        guard: The guard of the stored history after the last acknowledged write.
        is_stored: Whether the agent is stored.
        next_message_id: The id that the next message gets.
        limits: How much waits, and goes out together.
        ended: Why nothing can be stored any more: another writer changed the history, or its session is gone.
        refused: Why fields of the agent are left out, by field, until that is told.
    """

    def __init__(self, session_id: str, agent_id: str, guard: Guard | None, limits: Limits = LIMITS) -> None:
        self._session_id, self._agent_id = session_id, agent_id
        self.guard = guard or Guard(None, 0)
        self.is_stored = guard is not None
        self.next_message_id = self.guard.next_message_id
        self.limits = limits
        self.ended: MongoDBSessionError | None = None
        self.refused: dict[str, Exception] = {}
        self.changes: deque[Change] = deque()
        # How many changes the next write may join.
        self._most_joined = limits.pending
        # How many pending changes each write held whose answer is missing, by write id.
        self._unanswered: dict[ObjectId, int] = {}
        # Writes in a row that another manager's lease stopped.
        self._misses = 0

    def first(self, count: int = 1) -> list[Change]:
        """Return the changes that go out first."""
        return list(itertools.islice(self.changes, count))

    @property
    def has_only_window_state(self) -> bool:
        """Whether what is pending may come late: a moved window, and nothing else."""
        is_sure = self.guard.revision is not None and not self._unanswered
        return bool(self.changes) and is_sure and all(change.moves_window for change in self.changes)

    # Queueing

    def check_open(self) -> None:
        """Raise what ended this history, if anything did."""
        if self.ended is not None:
            raise self.ended.with_traceback(None)

    def check_room(self) -> None:
        """Refuse one more change if this has ended, or if the queue is full."""
        if self.ended is not None:
            self.check_open()
        if len(self.changes) >= self.limits.pending:
            raise MongoDBSessionError(
                f"{len(self.changes)} changes of agent {self._agent_id!r} of session {self._session_id!r} could not "
                "be written yet, and no more are held. Bring MongoDB back, then call flush()."
            )

    def expect(self, messages: int) -> None:
        """Make room for all messages that a new agent begins with."""
        self.limits = replace(self.limits, pending=self.limits.pending + messages)
        self._most_joined = self.limits.pending

    def add(self, change: Change) -> bool:
        """Queue a change; False if all of its fields are too large, and are left out."""
        if len(self.changes) >= self.limits.pending:
            self.check_room()
        if change.data and self._leave_out_large(change) and change.is_empty:
            return False
        if change.appended is not None:
            self.next_message_id += 1
        self.changes.append(change)
        return True

    def _leave_out_large(self, change: Change) -> bool:
        """Take out the fields that no document can hold; False if each fits."""
        for name, _ in parts(change.data):
            self.refused.pop(name, None)
        change.data, too_large = fitting(change.data, self._session_id, self._agent_id)
        self.refused |= too_large
        return bool(too_large)

    def edit(self, edit: MessageEdit, values: LargeValues) -> tuple[bool, list[Files]]:
        """Change a message that waits; a redaction leaves nothing of the original in the queue.

        Args:
            edit: The change.
            values: Offloaded values of the new content.

        Returns:
            Whether nothing is left to do; if not, the message may be stored already, and the server is to change it
            too. And the values that waiting changes hold no more, by their digests.
        """
        waiting = [c for c in self.changes if c.appended and c.appended["message_id"] == edit.message_id]
        given_up = [change.values.files for change in waiting]
        for change in waiting:
            if change.appended is not None:
                edit.apply(change.appended)
                change.size = len(bson.encode(change.appended))
            change.values = values
        if edit.redacts:
            given_up += self._drop_edits(edit.message_id)
        # A write without an answer may have stored the message as it was, and an edit that waits would undo this one.
        is_followed = any(c.edited is not None and c.edited.message_id == edit.message_id for c in self.changes)
        return bool(waiting) and not (self._unanswered or is_followed), given_up

    def _drop_edits(self, message_id: int) -> list[Files]:
        """Take back waiting edits of a message that is redacted: their content would be stored for a moment."""
        given_up = []
        for change in self.changes:
            if change.edited is not None and change.edited.message_id == message_id:
                given_up.append(change.values.files)
                change.edited, change.values = None, LargeValues()
        return given_up

    def invalidate(self, error: MongoDBSessionError) -> MongoDBSessionError:
        """Forget what is queued, and raise this from now on."""
        self.changes.clear()
        self._unanswered.clear()
        self.ended = error
        return error

    # Sending

    def unhashed(self) -> list[LargeValues]:
        """Return the values without digests; these are computed before a change that refers to them is sent."""
        return [change.values for change in self.changes if not change.values.is_hashed]

    def next(self) -> NextWrite | None:
        """Join as many changes as one update can hold, and take the write as sent; None if no change waits.

        Their values are to be hashed.
        """
        following = self._next()
        if following is not None and not following.write.keeps_revision:
            self._unanswered[following.write.write_id] = following.joined
        return following

    def next_plain(self) -> NextWrite | None:
        """Join all that waits, if it is messages and state of a stored agent, and nothing is in doubt; else None."""
        is_sure = (
            self.is_stored
            and self.guard.revision is not None
            and not (self.ended or self._unanswered or self.unhashed())
        )
        following = self._next() if is_sure else None
        if following is None or following.joined < len(self.changes):
            return None
        return following if _is_plain(following.write, self.limits.shared_bytes) else None

    def _next(self) -> NextWrite | None:
        changes = self._joined()
        if not changes:
            return None
        write, guard = AgentWrite(self._agent_id), self.guard
        for change in changes:
            change.put_into(write, guard.next_message_id)
        # An unanswered write may hold the same changes; then the guard has to tell which of the two arrived.
        write.keeps_revision = write.moves_window and guard.revision is not None and not self._unanswered
        return NextWrite(write, len(changes), guard, write.leads_to(guard))

    def _joined(self) -> list[Change]:
        """Return the changes of the next write: an edit begins a write, and only agent data follow it."""
        joined: list[Change] = []
        size, has_edit = 0, False
        for change in self.changes:
            if joined and (change.edited or (change.appended and has_edit)):
                break
            # A new agent comes whole: a process that stopped in between would leave a part that reads as the whole.
            is_full = self.is_stored and size + change.size > self.limits.joined_bytes
            if joined and (is_full or len(joined) >= self._most_joined):
                break
            joined.append(change)
            size, has_edit = size + change.size, has_edit or change.edited is not None
        return joined

    def await_answer(self, write_id: ObjectId, count: int = 0) -> None:
        """Note a write that is about to be sent, and how many changes it holds."""
        self._unanswered[write_id] = count

    def forget_write(self, write_id: ObjectId) -> None:
        """Note that a write did not arrive, and will not."""
        self._unanswered.pop(write_id, None)

    def acknowledge(self, count: int, after: Guard) -> list[Change]:
        """Take out the changes of a write that has arrived, and return them."""
        done = [self.changes.popleft() for _ in range(count)]
        self.guard = after
        self.is_stored = True
        self._unanswered.clear()
        self._misses = 0
        self._most_joined = self.limits.pending
        return done

    def acknowledge_edit(self, change: Change) -> None:
        """Take the edit out of a change after it was made elsewhere; keep the rest of the change."""
        self._misses = 0
        change.edited = None
        if not (change.data or change.guardrail_events):
            self.changes.popleft()
        self._unanswered.clear()

    def arrived(self, write_id: object, tracking_ids: Mapping[int, str | None]) -> int | None:
        """Return how many changes an unanswered write has stored; None if none has arrived.

        Args:
            write_id: The id of the latest stored write.
            tracking_ids: The tracking ids of stored messages, by message id.
        """
        count = self._unanswered.get(write_id) if isinstance(write_id, ObjectId) else None
        return self._recognised(tracking_ids) or None if count is None else count

    def _recognised(self, tracking_ids: Mapping[int, str | None]) -> int:
        """Count the changes up to the last message that is stored under our id and tracking id."""
        recognised = 0
        for number, change in enumerate(self.changes, start=1):
            if change.appended is None:
                continue
            tracking_id = change.appended.get("tracking_id")
            if tracking_id is None or tracking_ids.get(change.appended["message_id"]) != tracking_id:
                break
            recognised = number
        return recognised

    def missed(self) -> int:
        """Count a write that another manager's lease stopped; return how many in a row there were."""
        self._misses += 1
        return self._misses

    # What cannot be sent

    def discard(self, count: int) -> None:
        """Take out changes that are not to be stored any more."""
        for _ in range(count):
            self.changes.popleft()

    def make_smaller(self, count: int) -> bool:
        """Make the next write smaller than one that was too large, or leave a field out; False if it cannot.

        Args:
            count: The number of changes in that one.
        """
        self._most_joined = 1  # until one has arrived
        return count > 1 or self._split() or self._leave_out_field()

    def _split(self) -> bool:
        """Part the first change into its fields and the rest; False if it cannot be parted."""
        head = self.changes[0]
        parted = [] if head.is_of_fields else [replace(head, data={})]
        parted += [Change(data=data) for _, data in parts(head.data)]
        more = len(parted) - 1
        if more < 1:
            return False
        self.changes.popleft()
        self.changes.extendleft(reversed(parted))
        self._unanswered = {write: count + more if count else 0 for write, count in self._unanswered.items()}
        return True

    def _leave_out_field(self) -> bool:
        """Go on without a field that does not fit; False if the first change is not of fields alone."""
        if not self.changes[0].is_of_fields:
            return False
        head = self.changes.popleft()
        for name, _ in parts(head.data):
            self.refused[name] = SessionTooLargeError(self._session_id, self._agent_id, field=name)
        return True

    def drop_head(self) -> Change:
        """Take out a first change that no document can hold, and renumber what comes after its message.

        Returns:
            The change; of it only fields, events and live messages are still pending.
        """
        change = self.changes.popleft()
        if change.appended is None:
            return change
        self.next_message_id -= 1
        for later in self.changes:
            later.renumber_without(change.appended["message_id"])
        if change.data or change.guardrail_events or change.live:
            self.changes.appendleft(replace(change, appended=None, size=0, values=LargeValues()))
        return change


def _is_plain(write: AgentWrite, most_bytes: int) -> bool:
    """Tell whether a write holds nothing but some messages and state."""
    if write.edited or write.files or write.guardrail_events or write.keeps_revision:
        return False
    return write.size + len(bson.encode(write.data)) <= most_bytes
