"""Ordered, guarded writes of one agent's history: sending, what to do when one misses, and how the writes are doing.

``AgentHistory.flush`` sends from whichever thread calls it: in order, each batch in one guarded update. A change leaves
the queue when it is acknowledged, so what a failed write held goes out first with the next one.
"""

import logging
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

import pymongo
from strands.types.content import Message

from .._schema.histories import Guard
from .._schema.ids import agent_label
from .._schema.limits import LIMITS, Limits
from .._stores.histories import AgentPosition, HistoryStore
from ..errors import (
    AgentNotFoundError,
    MessageNotFoundError,
    MongoDBSessionError,
    SessionLockedError,
    SessionNotFoundError,
    SessionTooLargeError,
)
from .changes import Change, NextWrite
from .claim import Claim
from .endings import conflict, gone, locked, lost_in, tell_given_up
from .live_tracking import LiveTracking
from .pending import PendingChanges
from .rollover import Rollover
from .transfers import Transfers
from .unsent import ALL_UNSENT, Entry, is_behind, note

__all__ = ["MAX_MISSES", "AgentHistory"]

logger = logging.getLogger(__name__)

MAX_MISSES = 5


class AgentHistory:
    """The stored history of one agent as this process knows it, and the changes on their way to it.

    Args:
        store: Where it is stored.
        session_id: The session.
        agent_id: The agent.
        guard: Where the stored history stands; None where the agent is not stored yet and comes with the first write.
        messages: The stored messages that were restored or given, with their ids, oldest first.
        limits: How much of it waits, stays embedded, and goes out together.

    Attributes:
        store: Where it is stored.
        session_id: The session.
        agent_id: The agent.
        namespace: Database and collection that it is stored in.
        queue: The changes that are not acknowledged.
        live: Which messages are live.
        transfers: Large values on their way.
        rollover: How much of it the session document holds.
        entry: What it is known by among the histories of this process.
        lock: Is held while one of these is read or changed. Sending has its own, so capturing never waits for it.
        error: The name of what went wrong with the latest write; None when it succeeded.
    """

    def __init__(
        self,
        store: HistoryStore,
        session_id: str,
        agent_id: str,
        guard: Guard | None,
        messages: Iterable[tuple[int, Message]] = (),
        limits: Limits = LIMITS,
    ) -> None:
        self.store = store
        self.session_id, self.agent_id, self.namespace = session_id, agent_id, store.namespace
        self.queue = PendingChanges(session_id, agent_id, guard, limits)
        self.live = LiveTracking(session_id, agent_id, messages)
        self.transfers = Transfers(store, session_id, agent_id)
        self.rollover = Rollover(store, session_id, agent_id, limits)
        self.entry = Entry((id(store.client), self.namespace, session_id, agent_id))
        # Its name alone: the error itself would keep every frame that it passed alive.
        self.error: str | None = None
        self.make_locks()
        note(self)

    def make_locks(self) -> None:
        """Start with new locks."""
        self._sending = threading.RLock()
        self.lock = self.transfers.lock = threading.RLock()

    @property
    def pending(self) -> int:
        """The number of changes that are not acknowledged."""
        return len(self.queue.changes)

    @property
    def has_only_window_state(self) -> bool:
        """Whether what is pending may come late: a moved window, and nothing else."""
        with self.lock:
            return self.queue.has_only_window_state

    def check_open(self) -> None:
        """Raise what ended this binding, if anything did."""
        if self.queue.ended is not None:
            self.queue.check_open()

    # Its end

    def invalidate(self, error: MongoDBSessionError) -> MongoDBSessionError:
        """Forget what is queued, and raise this from now on."""
        with self.lock:
            self.queue.invalidate(error)
            self.unregister()
        return error

    def unregister(self) -> None:
        """Keep what is queued no longer than this object is referenced."""
        ALL_UNSENT.discard(self)

    def give_up(self) -> None:
        """Forget the unsent changes of a history that no manager holds any more, and tell of them."""
        with self.lock:
            lost = lost_in(self.queue.changes)
            is_lost = self.queue.ended is None and not all(change.is_of_window for change in self.queue.changes)
            label = agent_label(self.session_id, self.agent_id)
            self.invalidate(MongoDBSessionError(f"{label} was given up: no manager held it any more."))
        if is_lost:
            tell_given_up(self, *lost)

    # Sending

    def flush(self) -> None:
        """Send everything that is queued, in order, and return when it is acknowledged.

        Raises:
            PyMongoError: A write failed; what it held stays queued.
            SessionConflictError: The history moved on without us; this binding is over.
            SessionNotFoundError: The session was deleted.
            SessionTooLargeError: The write would pass MongoDB's limit.
        """
        with self._sending:
            try:
                while self._send_next():
                    pass
                self.error = None
            except (AgentNotFoundError, SessionNotFoundError) as error:
                self.error = type(error).__name__
                raise self._end_gone(error) from None
            except Exception as error:
                self.error = type(error).__name__
                if isinstance(error, SessionLockedError):
                    self._end_locked(error)
                raise
            finally:
                if self.queue.ended is not None:
                    self.transfers.take_back()
        self.rollover.begin_if_due(self.move_oldest)

    def send_behind(self) -> None:
        """Do what ``flush`` does, but give up soon: no caller waits, and an interpreter that ends waits for threads."""
        with pymongo.timeout(self.queue.limits.behind_timeout):
            self.flush()

    def send_if_idle(self) -> None:
        """Do what ``flush`` does, unless another thread does already, or a newer history has gone past this one."""
        if self.entry.is_left and is_behind(self, idle=True):
            return
        if self._sending.acquire(blocking=False):
            try:
                self.flush()
            finally:
                self._sending.release()

    def send_until(self, deadline: float) -> None:
        """Do what ``flush`` does, but no longer than until then, by the monotonic clock."""
        if not self._sending.acquire(timeout=max(deadline - time.monotonic(), 0.001)):
            raise TimeoutError("a write that is under way has no answer")
        try:
            with pymongo.timeout(max(deadline - time.monotonic(), 0.001)):
                self.flush()
        finally:
            self._sending.release()

    def hold(self, error: str) -> None:
        """Take over the name of the error because of which nothing is sent for now."""
        self.error = error

    @contextmanager
    def claim(self) -> Iterator[Claim | None]:
        """Give all that is queued as one write that may share a command; until the end, nothing else is sent.

        The sender calls ``finish``; without that it counts as not sent. It is None if another thread sends already, if
        the next write is not plain (messages and state of a stored agent), or if an earlier write is in doubt.
        """
        claimed = self._begin_claim()
        if claimed is None:
            yield None
            return
        try:
            yield claimed
        finally:
            self._end_claim(claimed)
        if claimed.sent:
            self.rollover.begin_if_due(self.move_oldest)

    def _begin_claim(self) -> Claim | None:
        if not self._sending.acquire(blocking=False):
            return None
        claimed = None
        try:
            # A write that fails here is sent alone, and that raises its error.
            with suppress(Exception), self.lock:
                following = None if self.transfers.uploads.has_unused else self.queue.next_plain()
                if following is not None and not self.store.replaces_files(self.session_id, following.write):
                    write, guard = following.write, following.guard
                    prepared = self.store.prepare_write(self.session_id, write, guard)
                    self.queue.await_answer(write.write_id, following.joined)
                    claimed = Claim(self.store, prepared, following)
        finally:
            if claimed is None:
                self._sending.release()
        return claimed

    def _end_claim(self, claimed: Claim) -> None:
        """Go on from a claim; what was sent without an answer stays in doubt."""
        try:
            if claimed.sent:
                self._acknowledge(claimed.following.joined, claimed.following.after)
                self.error = None
            elif claimed.sent is None:
                with self.lock:
                    self.queue.forget_write(claimed.following.write.write_id)
        except Exception as error:  # noqa: BLE001 - the others that shared the command go on too
            claimed.error, self.error = error, type(error).__name__
        finally:
            self._sending.release()

    def _send_next(self) -> bool:
        """Send one write; False where nothing is left to be sent or seen to."""
        with self.lock:
            self.check_open()
            if not self.queue.changes:
                self.unregister()
                return False
            values = self.queue.unhashed()
            following = None if values else self.queue.next()
        for each in values:  # meanwhile messages are captured, and edited
            each.hash()
        if following is None:
            return True
        has_files = bool(following.write.files or following.write.edited or self.transfers.uploads.in_flight)
        try:
            arrived = self._send(following, has_files)
        except SessionTooLargeError:
            if not self._make_smaller(following):
                raise
            return True
        if not arrived:
            return self._discard_stale_window(following.joined) if following.write.keeps_revision else self._reconcile()
        if has_files:
            self._confirm(following.joined, following.after)
        else:
            self._acknowledge(following.joined, following.after)
        return bool(self.queue.changes)

    def _send(self, following: NextWrite, has_files: bool) -> bool:
        write = following.write
        if has_files:
            self.transfers.announce(write)
        if self.queue.is_stored:
            return self.store.write_agent(self.session_id, write, following.guard)
        return self.store.start_agent(self.session_id, write)

    def _confirm(self, count: int, after: Guard) -> None:
        """A write has arrived: what it redacted is redacted in segments too, and its files are seen to."""
        with self.lock:
            changes = self.queue.first(count)
        for edit in [change.edited for change in changes if change.edited]:
            if edit.redacts:
                # A copy may have moved, or be left in a segment without a reference.
                self.store.edit_in_segments(self.session_id, self.agent_id, edit)
        self.transfers.complete(changes)
        self._acknowledge(count, after)

    def _acknowledge(self, count: int, after: Guard) -> None:
        with self.lock:
            self.check_open()  # the session may have been deleted meanwhile
            stored = self.queue.acknowledge(count, after)
            passed = ALL_UNSENT.has_stored(self)
            self.rollover.grew(stored)
        for other in passed:
            other.give_up()

    # What did not go through

    def _make_smaller(self, following: NextWrite) -> bool:
        """See to it that less is sent at a time; False where what is too large had to be dropped."""
        with self.lock:
            self.queue.forget_write(following.write.write_id)
        if self.queue.is_stored and self.move_oldest(kept_bytes=0):
            return True
        with self.lock:
            self.check_open()
            if self.queue.make_smaller(following.joined):
                return True
            captured = [change.live for change in self.queue.changes if change.live]
            dropped = self.queue.drop_head()
            if dropped.appended is None:
                self.live.forget()
            else:
                self.transfers.uploads.give_up([dropped.values.files])
                self.live.drop(dropped.appended["message_id"], captured)
            return False

    def _discard_stale_window(self, count: int) -> bool:
        """Forget a moved window that came too late; False where nothing can follow it.

        Another writer has gone on from an older one, is the only writer now, or has deleted the session. The next
        message, if one comes, raises the error.
        """
        logger.debug("session_id=<%s>, agent_id=<%s> | a moved window came too late", self.session_id, self.agent_id)
        with self.lock:
            if self.queue.ended is not None:
                return False
            self.queue.discard(count)
            self.live.forget()
            return True

    def _reconcile(self) -> bool:
        """Look why a guard missed: an unanswered write of ours had arrived, or another writer wrote, or may write."""
        position = self._locate()
        stored = position.guard.write_id
        with self.lock:
            self.check_open()
            arrived = self.queue.arrived(stored, position.tracking_ids)
            changes = self.queue.first(arrived or 0)
            appended = sum(change.appended is not None for change in changes)
        if arrived is None:
            self._retry_or_conflict(position)
            return True
        about = "session_id=<%s>, agent_id=<%s>, changes=<%d> | an unanswered write had arrived"
        logger.debug(about, self.session_id, self.agent_id, arrived)
        data = {name: value for change in changes for name, value in change.data.items()}
        self.store.confirm_fields(self.session_id, self.agent_id, data)
        # After a foreign write the place is another one, and the next write of ours conflicts.
        self._confirm(arrived, self.queue.guard.after(appended, stored))
        return True

    def _locate(self) -> AgentPosition:
        with self.lock:
            self.check_open()
            edits = [change.edited.message_id for change in self.queue.first() if change.edited]
            first = min([self.queue.guard.next_message_id, *edits])
        try:
            return self.store.locate_agent(self.session_id, self.agent_id, first)
        except (AgentNotFoundError, SessionNotFoundError) as error:
            raise self._end_gone(error) from None

    def _retry_or_conflict(self, position: AgentPosition) -> None:
        """Let a write that had not arrived be sent again; raise if another writer has changed the history."""
        self.store.check_lease(self.session_id, position.lease)
        with self.lock:
            self.check_open()
            if self.queue.missed() > MAX_MISSES or position.guard != self.queue.guard:
                raise self.invalidate(conflict(self, position.guard))
            head = self.queue.first()[0]
        if head.edited is not None and head.edited.message_id not in position.tracking_ids:
            self._edit_in_segments(head)

    def _edit_in_segments(self, change: Change) -> None:
        """The history is where it should be, so the message to edit has moved into a segment, or is gone."""
        edit = change.edited
        found = edit is None or self.store.edit_in_segments(self.session_id, self.agent_id, edit, change.values.files)
        self.transfers.complete([change])
        with self.lock:
            self.check_open()
            self.queue.acknowledge_edit(change)
        if edit is not None and not found:
            raise MessageNotFoundError(self.session_id, self.agent_id, edit.message_id)

    def _end_gone(self, error: MongoDBSessionError) -> MongoDBSessionError:
        with self.lock:
            return self.invalidate(gone(self, error))

    def _end_locked(self, error: SessionLockedError) -> None:
        with self.lock:
            if self.queue.ended is None:
                self.invalidate(locked(self, error))

    # Moving

    def move_oldest(self, kept_bytes: int | None = None) -> bool:
        """Move the oldest messages out of the session document; True if any moved."""
        self.store.index_segments()
        with self._sending:
            return self.rollover.move(self.queue, self.lock, kept_bytes)
