"""Ordered, guarded writes of one agent's history, and what of it is not stored yet.

``AgentHistory`` captures changes on the caller's thread (memory only) and sends them from whichever thread calls
``flush``: in order, each batch in one guarded update. A change leaves the queue when it is acknowledged, so what a
failed write held goes out first with the next one.
"""

import itertools
import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Collection, Hashable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, cast

import bson
import pymongo
from bson import ObjectId
from pymongo.errors import InvalidOperation, PyMongoError
from strands.types.content import Message

from .._schema.blobs import Files, LargeValues, begin_offload, begin_offload_edit, put_back_values
from .._schema.histories import AgentWrite, Guard, is_window_state
from .._schema.ids import now
from .._schema.live_ids import LiveIds
from .._schema.messages import MessageEdit, add_metrics, decode_message, message_doc, redaction, replacement
from .._schema.values import Stored, encode
from .._stores.document_size import LEAST_MOVE_BYTES
from .._stores.histories import AgentPosition, HistoryStore, PreparedWrite
from .._stores.segments import KEPT_BYTES, outgrown
from ..errors import (
    AgentNotFoundError,
    MessageNotFoundError,
    MongoDBSessionError,
    SessionConflictError,
    SessionLockedError,
    SessionNotFoundError,
    SessionTooLargeError,
)
from .agent_state import fitting, parts
from .live_set import MANY_RANGES, LiveMessages, Record, Snapshot, View
from .unsent import LeftBehind

logger = logging.getLogger(__name__)

MAX_PENDING = 1000
MAX_MISSES = 5
# Changes are joined into one update up to this size, so that what is joined fits where its parts fit.
JOINED_BYTES = 4 * 1024 * 1024
# Messages and state up to this size share a command with those of other histories, which wait for it.
SHARED_BYTES = 64 * 1024
# Seconds for a write that nobody waits for, and for all that is left when the interpreter ends: 10 together, with the
# attempt to send the first in company.
BEHIND_TIMEOUT = 4.0
EXIT_TIMEOUT = 5.0

# Histories with changes that are not acknowledged, kept for a while even where their managers were dropped.
_unsent = LeftBehind()
_numbers = itertools.count()
_all: "weakref.WeakSet[AgentHistory]" = weakref.WeakSet()


@dataclass
class _Change:
    """One step of a history that is not acknowledged yet."""

    appended: Stored | None = field(default=None, repr=False)
    edited: MessageEdit | None = None
    data: Stored = field(default_factory=dict, repr=False)
    guardrail_events: list[Stored] = field(default_factory=list, repr=False)
    # What stood in the live history when this was captured, where that is to be stored; and whether it may come late.
    live: Snapshot | None = field(default=None, repr=False)
    lost_head: bool = False
    size: int = 0
    # Offloaded values of what is appended or edited.
    values: LargeValues = field(default_factory=LargeValues, repr=False)

    @property
    def files(self) -> Files:
        """These, as far as they are hashed."""
        return self.values.files

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left to be stored."""
        return self.is_of_fields and not self.data

    @property
    def is_of_fields(self) -> bool:
        """Whether it is of agent data alone."""
        others = (self.appended, self.edited, self.live)
        return all(each is None for each in others) and not self.guardrail_events

    @property
    def moves_window(self) -> bool:
        """Whether it may come late: it tells how far a window has moved, and nothing else."""
        if self.appended or self.edited or self.guardrail_events or (self.live is not None and not self.lost_head):
            return False
        return is_window_state(self.data) if self.data else self.live is not None

    @property
    def is_of_window(self) -> bool:
        """Whether it tells of a moved window alone, which may be lost."""
        return self.lost_head and replace(self, live=None).is_empty

    def renumber_without(self, dropped: int) -> None:
        """Follow the numbers of the messages when one of them is taken out."""
        if self.appended is not None:
            self.appended["message_id"] -= 1
        if self.edited is not None and self.edited.message_id > dropped:
            self.edited = replace(self.edited, message_id=self.edited.message_id - 1)
        elif self.edited is not None and self.edited.message_id == dropped:
            self.edited = None


@dataclass(frozen=True)
class Offer:
    """A history's next write, ready to share a command with those of others.

    Attributes:
        repository: Where it goes.
        prepared: What is sent.
        count: How many queued changes it holds, which are all.
        after: Where the history stands when it has arrived.
    """

    repository: HistoryStore
    prepared: PreparedWrite
    count: int
    after: Guard


class AgentHistory:
    """The stored history of one agent as this process knows it, and the changes on their way to it.

    Args:
        repository: Where it is stored.
        session_id: The session.
        agent_id: The agent.
        guard: Where the stored history stands; None where the agent is not stored yet and comes with the first write.
        messages: The stored messages that were restored or given, with their ids, oldest first.
    """

    def __init__(
        self,
        repository: HistoryStore,
        session_id: str,
        agent_id: str,
        guard: Guard | None,
        messages: Iterable[tuple[int, Message]] = (),
    ) -> None:
        self._repository = repository
        self._session_id, self._agent_id = session_id, agent_id
        self._guard = guard or Guard(None, 0)
        self._stored = guard is not None
        self.key: Hashable = (id(repository.client), repository.namespace, session_id, agent_id)
        self.number, self.is_passed = next(_numbers), False
        # Who is to be there as long as it is of use, and whether it has stored anything.
        self._holder: weakref.ref[object] | None = None
        self._has_stored = False
        self._live = LiveMessages(itertools.starmap(Record, messages))
        # The live set that is stored, or on its way; None where there is none, or where that is not sure.
        self._live_ids: LiveIds | None = None
        # What an agent without a live set was restored from; that alone is not worth a write.
        self._restored_ids: LiveIds | None = None
        # Whether a look found a difference that nothing captured yet, and whether a look would mistake messages.
        self._has_looked = self._is_unsure = False
        # Whether ids do not tell the messages apart: the first version could mix them up.
        self._is_mixed_up = False
        self._pending: deque[_Change] = deque()
        # What the session document holds of the history.
        self._live_count = self._live_bytes = 0
        # How many pending changes each write held whose answer is missing, by write id.
        self._unanswered: dict[ObjectId, int] = {}
        # Writes in a row that others' leases were in the way of.
        self._misses = 0
        # How many changes the next write may join, and how many are held.
        self._most_joined = self._most_pending = MAX_PENDING
        # Whether stored messages may have offloaded values; which values were sent, and which of those nobody needs.
        self._has_files = False
        self._sent_files: set[str] = set()
        self._unused_files: set[str] = set()
        self._removal: ObjectId | None = None
        # Why nothing can be written any more: somebody else wrote, or what was to be written to is gone.
        self._ended: MongoDBSessionError | None = None
        # Its name alone: the error itself would keep all who it came through.
        self._error: str | None = None
        # Why fields of the agent are left out, by field, as long as nobody was told.
        self.refused: dict[str, Exception] = {}
        self.make_locks()
        _all.add(self)

    def make_locks(self) -> None:
        """Start with locks that nobody holds."""
        # Sending may take long; capturing never waits for it.
        self._sending = threading.RLock()
        self._state = threading.RLock()

    @property
    def namespace(self) -> str:
        """Database and collection that it is stored in."""
        return self._repository.namespace

    @property
    def agent_id(self) -> str:
        """The agent."""
        return self._agent_id

    @property
    def pending(self) -> int:
        """The number of changes that are not acknowledged."""
        return len(self._pending)

    def held_by(self, holder: object) -> None:
        """Be sent and kept as agreed for as long as this is there, and then for a while."""
        self._holder = weakref.ref(holder)
        _unsent.held_by(self, holder)

    @property
    def is_left(self) -> bool:
        """Whether nobody holds it any more."""
        return self._holder is not None and self._holder() is None

    @property
    def only_window_moved(self) -> bool:
        """Whether what is pending may come late: a moved window, and nothing else."""
        with self._state:
            is_sure = self._guard.revision is not None and not self._unanswered
            return bool(self._pending) and is_sure and all(change.moves_window for change in self._pending)

    def measure(self, live_count: int, live_bytes: int, has_files: bool = False) -> None:
        """Take over how many messages, of how many bytes, the session document holds, and if any are offloaded."""
        self._live_count, self._live_bytes = live_count, live_bytes
        self._has_files |= has_files

    def expect(self, messages: int) -> None:
        """Have room for the messages that a new agent begins with, however many."""
        self._most_joined = self._most_pending = MAX_PENDING + messages

    @property
    def error(self) -> str | None:
        """The name of what went wrong with the latest write; None when it succeeded."""
        return self._error

    # Capturing

    def append(
        self,
        message: Message,
        data: Stored,
        metrics: Stored | None = None,
        given: Message | None = None,
        view: View | None = None,
    ) -> None:
        """Queue a message with the metrics of the call that brought it, and the agent data that changed with it.

        Args:
            message: The message.
            data: Changed fields of ``agent_data``.
            metrics: Its ``event_loop_metrics``.
            given: What the caller gave, where the message was made of that.
            view: The agent's live messages; None where no live set is stored.

        Raises:
            SessionConflictError: The history moved on without us; this binding is over.
            SessionTooLargeError: The message is larger than a document can be, even without its large values.
            UnstorableValueError: The message holds something that would not come back equal.
        """
        with self._state:
            self.check_open()
            message_id = self._next_message_id()
            stored = message_doc(message, message_id, now(), self._place(message_id))
            if metrics:
                add_metrics(stored, metrics, self._place(message_id))
            # What is too large is refused here: queued, it could never be sent, and all after it would wait for ever.
            size, values = begin_offload(stored, self._session_id, self._agent_id, message_id)
            self._check_room()
            live = self._live_change(view, Record(message_id, message, given))
            self._queue(_Change(appended=stored, data=data, size=size, values=values, **live))

    def replace(self, message: Message, data: Stored, given: Message | None = None, view: View | None = None) -> None:
        """Queue the new content of the stored message with the same tracking id.

        Raises:
            MessageNotFoundError: No live message has that tracking id.
            SessionConflictError: The history moved on without us; this binding is over.
            UnstorableValueError: The message holds something that would not come back equal.
        """
        with self._state:
            self.check_open()
            record = self._find(message)
            place = self._place(record.message_id)
            edit = replacement(message, record.message_id, now(), place)
            self._edit(edit, data=data)
            record.message, record.given = message, given
            self._queue_live(view)

    def latest(self) -> Message | None:
        """Return the message appended last, as far as it is in the live history."""
        return self._live.records[-1].message if self._live.records else None

    def is_pending(self, message: Message) -> bool:
        """Tell whether this very message waits to be sent."""
        with self._state:
            waiting = {change.appended["message_id"] for change in self._pending if change.appended}
            return any(record.message_id in waiting and record.is_same(message) for record in self._live.records)

    def redact_latest(self, message: Message, event: Stored, copies: Iterable[int] = ()) -> None:
        """Queue the redaction of the latest message and of its copies.

        Args:
            message: What stands there afterwards.
            event: Recorded on each of them, and once on the session.
            copies: Stored messages, by id, that have its tracking id.

        Raises:
            MongoDBSessionError: Nothing was appended yet.
            SessionConflictError: The history moved on without us; this binding is over.
            UnstorableValueError: The new message holds something that would not come back equal.
        """
        with self._state:
            self.check_open()
            if not self._live.records:
                raise MongoDBSessionError(
                    f"Agent {self._agent_id!r} of session {self._session_id!r} has no message to redact."
                )
            latest = self._live.records[-1]
            same = (latest.message, latest.given or message, message)
            live = [r.message_id for r in self._live.records if any(map(r.matches, same))]
            tracking_id = encode(latest.message.get("tracking_id"), self._place(latest.message_id))
            tracking_ids = dict.fromkeys(copies, tracking_id) | dict.fromkeys(live)
            edits = [self._redaction(message, number, event, tracking_ids[number]) for number in sorted(tracking_ids)]
            # What has moved somebody else may edit unnoticed, and so give the session its first file.
            self._has_files |= len(edits) > 1
            about = {"agent_id": self._agent_id, "message_id": latest.message_id}
            for edit in edits:
                of_session = [{**event, **about}] if edit.message_id == latest.message_id else []
                self._edit(edit, guardrail_events=of_session)
            self._redact_kept(message, latest)

    def _redact_kept(self, message: Message, latest: Record) -> None:
        kept = [other for other in self._live.snapshot.kept if latest.matches(other)]
        for other in kept:
            other["content"] = message["content"]
        if kept:
            self._live_ids = self._ids(self._next_message_id())
            self._queue(_Change(live=self._live.snapshot))

    def _redaction(self, message: Message, message_id: int, event: Stored, tracking_id: Any) -> MessageEdit:
        edit = redaction(message, message_id, now(), self._place(message_id))
        edit.fields["guardrail_event"] = event
        return replace(edit, tracking_id=tracking_id)

    def change(self, data: Stored, view: View | None = None) -> None:
        """Queue a change of agent data and of the live set alone, as far as there is any.

        Raises:
            SessionConflictError: The history moved on without us; this binding is over.
        """
        with self._state:
            if data:
                self.check_open()
                self._check_room()
                self._queue(_Change(data=data, **self._live_change(view)))
            else:
                self._queue_live(view)

    @property
    def comes_later(self) -> bool:
        """Whether the agent is not stored yet, and comes with the first write."""
        return not self._stored and self._ended is None

    def create(self) -> None:
        """Store the agent, if it is not yet, with what is queued; errors are those of ``flush``."""
        with self._state:
            self.check_open()
            if not (self._stored or self._pending):
                self._queue(_Change())
        self.flush()

    def end(self, error: MongoDBSessionError) -> MongoDBSessionError:
        """Forget what is queued, and raise this from now on."""
        with self._state:
            self._pending.clear()
            self._unanswered.clear()
            self._ended = error
            self.let_go()
        return error

    def let_go(self) -> None:
        """Keep what is queued no longer than somebody holds this history."""
        _unsent.discard(self)

    def give_up(self) -> None:
        """Forget what is not sent, which nobody holds any more, and tell of it."""
        with self._state:
            messages = sum(change.appended is not None for change in self._pending)
            is_lost = self._ended is None and not all(change.is_of_window for change in self._pending)
            self.end(MongoDBSessionError(f"{self._place_of_agent()} was given up: no manager held it any more."))
        if is_lost:
            logger.warning(
                "session_id=<%s>, agent_id=<%s>, messages=<%d> | given up: they were not stored, and their manager was "
                "dropped or a newer one went on",
                self._session_id,
                self._agent_id,
                messages,
            )

    def _is_behind(self, *, idle: bool) -> bool:
        """Tell whether a newer history of the agent went past it, or might; ``idle``: also one that did nothing yet."""
        newer = [other for other in list(_all) if other.key == self.key and other.number > self.number]
        return self.is_passed or any(
            idle or other._has_stored or other.pending or (other._guard.revision or 0) > (self._guard.revision or 0)
            for other in newer
        )

    def is_continuation(self, message: Message, live: Sequence[Message]) -> bool:
        """Tell whether an announced message is the latest one grown longer, not a new one.

        The SDK announces a merged continuation a second time under its tracking id, as a new dict that took the
        place of the old one; a prompt that is sent again stands in the history once more.
        """
        tracking_id = message.get("tracking_id")
        latest = self._live.records[-1] if self._live.records else None
        if tracking_id is None or latest is None or latest.is_same(message):
            return False
        if latest.message.get("tracking_id") != tracking_id:
            return False
        stored = sum(record.message.get("tracking_id") == tracking_id for record in self._live.records)
        return sum(other.get("tracking_id") == tracking_id for other in live) <= stored

    def prune(self, live: Sequence[Message]) -> None:
        """Forget the messages that left the live history, as soon as there are more than that has."""
        records = self._live.records
        if len(records) <= len(live):
            return
        tracking_ids = {message.get("tracking_id") for message in live} - {None}
        objects = {id(message) for message in live}
        with self._state:
            self._live.records = [
                record
                for record in records
                if record is records[-1]
                or record.message.get("tracking_id") in tracking_ids
                or id(record.message) in objects
            ]

    # The live set

    def begin(self, view: View, own: Sequence[Message], kept: Sequence[Message], stored: LiveIds | None) -> None:
        """Take the live messages of an agent that was just made or restored.

        Args:
            view: The messages.
            own: Those that are the conversation manager's, not stored ones.
            kept: Those of them that no conversation manager's state holds.
            stored: The live set that is stored.
        """
        with self._state:
            ids = [record.message_id for record in self._live.records]
            self._is_mixed_up = stored is None and any(one >= other for one, other in itertools.pairwise(ids))
            self._live.begin(view, own, kept, stored is not None and stored.at is None)
            self._live_ids, self._restored_ids = stored, self._ids(self._next_message_id())
            self._has_looked = stored is not None and stored != self._restored_ids

    def look(self, view: View) -> None:
        """Note how the live messages have changed since the last look; what is captured next tells it."""
        with self._state:
            self._has_looked |= not self._is_unsure and self._has_changed(view, None)

    def unknown(self, live: Sequence[Message], announced: Message | None = None) -> set[str]:
        """Return the tracking ids of live messages that may be stored, but are not known here: to be looked up."""
        with self._state:
            grew = self._live.has_grown(live) and live[-1] is announced
            is_known = grew or self._live.is_seen(live) or self._live.lost_head(live)
            if is_known or len(self._live.records) >= self._next_message_id():
                return set()
            found = self._live.unknown(live, announced)
            self._is_unsure = bool(found)
            return found

    def look_up(self, tracking_ids: Collection[str], live: Sequence[Message]) -> None:
        """Find in storage which messages bear these tracking ids; where that fails, the next capture tries again."""
        try:
            found = self._repository.tracked_messages(self._session_id, self._agent_id, tracking_ids)
        except (PyMongoError, MongoDBSessionError) as error:
            logger.warning(
                "session_id=<%s>, agent_id=<%s>, error=<%s> | live messages were not looked up",
                self._session_id,
                self._agent_id,
                type(error).__name__,
            )
            return
        with self._state:
            self._live.recover(found, live)
            self._is_unsure = False

    def _queue_live(self, view: View | None) -> None:
        live = self._live_change(view)
        if live:
            self.check_open()
            self._queue(_Change(**live))

    def _live_change(self, view: View | None, record: Record | None = None) -> dict[str, Any]:
        """Return what of the live set is to be stored with what is captured now, as fields of a change."""
        before, has_looked = self._live.snapshot, self._has_looked
        if view is None or self._is_unsure or self._is_mixed_up:
            self._live.records += [] if record is None else [record]
            return {}
        changed = self._has_changed(view, record) or has_looked
        if not changed and (self._live_ids is not None or record is None):
            return {}
        ids = self._ids(self._next_message_id() + (record is not None))
        self._has_looked = False
        self._tell_of_many(ids)
        if ids == self._live_ids or (record is None and self._live_ids is None and ids == self._restored_ids):
            return {}
        lost_head = self._live_ids is not None and not has_looked and self._live.snapshot.only_lost_head(before)
        self._live_ids = ids
        return {"live": self._live.snapshot, "lost_head": lost_head}

    def _has_changed(self, view: View, record: Record | None) -> bool:
        """Look at the live messages; a list that cannot be gone through leaves the live set as it was."""
        try:
            if record is None:
                return self._live.look(view)
            view = view.until(record)
            return not self._live.append(record, view) and self._live.look(view, closely=True)
        except Exception as error:  # noqa: BLE001 - what stands in the list is anybody's, and never costs a message
            logger.warning(
                "session_id=<%s>, agent_id=<%s>, error=<%s> | the live messages could not be told",
                self._session_id,
                self._agent_id,
                type(error).__name__,
            )
            return False

    def _tell_of_many(self, ids: LiveIds) -> None:
        if len(ids.ranges) > MANY_RANGES >= (len(self._live_ids.ranges) if self._live_ids else 0):
            logger.warning(
                "session_id=<%s>, agent_id=<%s>, ranges=<%d> | live messages lie far apart, which makes writes large",
                self._session_id,
                self._agent_id,
                len(ids.ranges),
            )

    def _ids(self, next_id: int, of: Snapshot | None = None) -> LiveIds:
        snapshot = self._live.snapshot if of is None else of
        return snapshot.ids(next_id, lambda message: encode(message, "A kept message"))

    def _forget_live(self) -> None:
        """Have the next capture store the live set, whatever was captured of it."""
        self._live_ids = self._restored_ids = None
        self._has_looked = True

    def _next_message_id(self) -> int:
        return self._guard.next_message_id + sum(change.appended is not None for change in self._pending)

    def _find(self, message: Message) -> Record:
        for record in reversed(self._live.records):
            if record.matches(message):
                return record
        raise MessageNotFoundError(self._session_id, self._agent_id, str(message.get("tracking_id")))

    def _edit(self, edit: MessageEdit, **along: Any) -> None:
        """Change a message that waits to be sent, and have the server change it where it may be stored already."""
        edit, values = begin_offload_edit(edit, self._session_id, self._agent_id)
        waiting = [c for c in self._pending if c.appended and c.appended["message_id"] == edit.message_id]
        for change in waiting:
            stored = cast(Stored, change.appended)
            edit.apply(stored)
            change.size = len(bson.encode(stored))
            self._give_up_files(change, values)
        if edit.redacts:
            self._drop_edits(edit.message_id)
        # A write without an answer may have stored the message as it was before.
        if not waiting or self._unanswered:
            self._queue(_Change(edited=edit, values=values, **along))
        elif any(along.values()):
            self._queue(_Change(**along))

    def _drop_edits(self, message_id: int) -> None:
        """Take back what waits to be put into a message that is redacted: it would be stored for a moment."""
        for change in self._pending:
            if change.edited is not None and change.edited.message_id == message_id:
                change.edited = None
                self._give_up_files(change, LargeValues())

    def _give_up_files(self, change: _Change, instead: LargeValues) -> None:
        """Let a change that is not stored have other values; what was sent of its own is to be removed."""
        self._unused_files |= self._sent_files & change.files.keys()
        change.values = instead

    def _queue(self, change: _Change) -> None:
        self._check_room()
        for name, _ in parts(change.data):
            self.refused.pop(name, None)
        change.data, too_large = fitting(change.data, self._session_id, self._agent_id)
        self.refused |= too_large
        if too_large and change.is_empty:
            return
        self._pending.append(change)
        _unsent.add(self)

    def _check_room(self) -> None:
        if len(self._pending) >= self._most_pending:
            raise MongoDBSessionError(
                f"{len(self._pending)} changes of agent {self._agent_id!r} of session {self._session_id!r} could not "
                "be written yet, and no more are held. Bring MongoDB back, then call flush()."
            )

    def check_open(self) -> None:
        """Raise what ended this binding, if anything did."""
        if self._ended is not None:
            raise self._ended.with_traceback(None)

    def _place(self, message_id: int) -> str:
        return f"{self._place_of_agent()}, message {message_id}"

    def _place_of_agent(self) -> str:
        return f"Agent {self._agent_id!r} of session {self._session_id!r}"

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
            except (AgentNotFoundError, SessionNotFoundError) as error:
                self._error = type(error).__name__
                raise self.end(error) from None
            except SessionLockedError as error:
                self._error = type(error).__name__
                self._end_locked(error)
                raise
            except Exception as error:
                self._error = type(error).__name__
                raise
            finally:
                self._take_files_back()
            self._error = None
        if self._kept_bytes is not None:
            self._roll_behind()

    def flush_behind(self) -> None:
        """Do what ``flush`` does, but give up soon: nobody waits, and an interpreter that ends waits for threads."""
        with pymongo.timeout(BEHIND_TIMEOUT):
            self.flush()

    def flush_if_idle(self) -> None:
        """Do what ``flush`` does, unless somebody else does already, or it would be in a newer history's way."""
        if self.is_left and self._is_behind(idle=True):
            return
        if self._sending.acquire(blocking=False):
            try:
                self.flush()
            finally:
                self._sending.release()

    def flush_until(self, deadline: float) -> None:
        """Do what ``flush`` does, but no longer than until then, by the monotonic clock."""
        if not self._sending.acquire(timeout=max(deadline - time.monotonic(), 0.001)):
            raise TimeoutError("a write that is under way has no answer")
        try:
            with pymongo.timeout(max(deadline - time.monotonic(), 0.001)):
                self.flush()
        finally:
            self._sending.release()

    def hold(self, error: str) -> None:
        """Take over why what is queued is not sent for now."""
        self._error = error

    def offer(self) -> Offer | None:
        """Give all that is queued as one write that may share a command; until then, nothing else is sent.

        ``conclude`` or ``withdraw`` has to follow on the same thread. None where somebody else sends already, where the
        next write is not of the plain kind (messages and state of a stored agent), or where anything is in doubt.
        """
        if not self._sending.acquire(blocking=False):
            return None
        offer = None
        try:
            with suppress(Exception), self._state:  # what cannot be sent is told to who sends it alone
                offer = self._offer() if self._is_steady() else None
        finally:
            if offer is None:
                self._sending.release()
        return offer

    def withdraw(self, offer: Offer) -> None:
        """Take back an offer that nobody sent."""
        with self._state:
            self._unanswered.pop(offer.prepared.write.write_id, None)
        self._sending.release()

    def _is_steady(self) -> bool:
        in_doubt = self._ended or self._unanswered or self._removal or self._unused_files
        if not self._pending or not self._pending[0].values.is_hashed:
            return False
        return self._stored and self._guard.revision is not None and not in_doubt

    def _offer(self) -> Offer | None:
        count, write, guard = self._next_write()
        special = write.edited or write.files or write.guardrail_events or write.keeps_revision
        if special or count < len(self._pending) or write.size + len(bson.encode(write.data)) > SHARED_BYTES:
            return None
        prepared = self._repository.prepare_write(self._session_id, write, guard)
        self._unanswered[write.write_id] = count
        return Offer(self._repository, prepared, count, write.leads_to(guard))

    def conclude(self, offer: Offer, arrived: bool) -> Exception | None:
        """End what ``offer`` began; where it is not acknowledged it may have arrived all the same.

        Returns:
            What is to be told nevertheless: the session was deleted meanwhile.
        """
        error: Exception | None = None
        try:
            if arrived:
                self._acknowledge(offer.count, offer.after)
                self._error = None
        except Exception as ended:  # noqa: BLE001 - the others that shared the command are to be concluded too
            error, self._error = ended, type(ended).__name__
        finally:
            self._sending.release()
        if arrived and self._kept_bytes is not None:
            self._roll_behind()
        return error

    def _hash_values(self) -> None:
        """Hash large values; meanwhile messages are captured, and edited."""
        with self._state:
            waiting = [change.values for change in self._pending if not change.values.is_hashed]
        for values in waiting:
            values.hash()

    def _send_next(self) -> bool:
        self._hash_values()
        with self._state:
            self.check_open()
            if not self._pending:
                self.let_go()
                return False
            if not self._pending[0].values.is_hashed:  # it came just now
                return True
            count, write, guard = self._next_write()
            if not write.keeps_revision:
                self._unanswered[write.write_id] = count
        try:
            arrived = self._send(write, guard)
        except SessionTooLargeError:
            self._unanswered.pop(write.write_id, None)
            if self._stored and self.roll(kept_bytes=0):
                return True
            if not (self._part(count) or self._split() or self._leave_out_field()):
                self._drop_too_large()
                raise
            return True
        if arrived:
            self._confirm(count, write.leads_to(guard))
        elif write.keeps_revision:
            return self._leave_out(count)
        else:
            self._settle()
        return True

    def _leave_out(self, count: int) -> bool:
        """Forget a moved window that came too late; False where nothing can follow it.

        Others have gone on from an older one, or may write alone, or have deleted the session. Who was in its way is
        told to the next message, if one comes.
        """
        logger.debug("session_id=<%s>, agent_id=<%s> | a moved window came too late", self._session_id, self._agent_id)
        with self._state:
            if self._ended is not None:
                return False
            for _ in range(count):
                self._pending.popleft()
            self._forget_live()
            return True

    def _part(self, count: int) -> bool:
        """Send one change at a time from now on, until one has arrived; False where it was one alone already."""
        self._most_joined = 1
        return count > 1

    def _split(self) -> bool:
        """Send the fields of a change that is too large each by itself; False where there is nothing to part."""
        with self._state:
            head = self._pending[0]
            parted = [] if head.is_of_fields else [replace(head, data={})]
            parted += [_Change(data=data) for _, data in parts(head.data)]
            more = len(parted) - 1
            if more < 1:
                return False
            self._pending.popleft()
            self._pending.extendleft(reversed(parted))
            self._unanswered = {write: count + more if count else 0 for write, count in self._unanswered.items()}
            return True

    def _leave_out_field(self) -> bool:
        """Go on without a field that does not fit; False where the change is something else."""
        with self._state:
            head = self._pending[0]
            if not head.is_of_fields:
                return False
            self._pending.popleft()
            for name, _ in parts(head.data):
                self.refused[name] = SessionTooLargeError(self._session_id, self._agent_id, field=name)
            return True

    def take_refused(self) -> dict[str, Exception]:
        """Return why fields are left out, by field, and take it as told."""
        with self._state:
            refused, self.refused = self.refused, {}
            return refused

    def _drop_too_large(self) -> None:
        """Take out a change that no document can hold, so that it is not in the way of what comes after it."""
        with self._state:
            change = self._pending.popleft()
            if change.appended is None:
                self._forget_live()
                return
            dropped = change.appended["message_id"]
            self._give_up_files(change, LargeValues())
            self._drop_record(dropped, change)
            for later in self._pending:
                later.renumber_without(dropped)
            if change.data or change.guardrail_events or change.live:
                self._pending.appendleft(replace(change, appended=None, size=0))

    def _drop_record(self, dropped: int, change: _Change) -> None:
        captured = [other.live.records for other in (change, *self._pending) if other.live]
        for record in {*self._live.records, *itertools.chain(*captured)}:
            record.is_gone |= record.message_id == dropped
            record.message_id -= record.message_id > dropped
        self._live.records = [record for record in self._live.records if not record.is_gone]
        self._forget_live()

    def _send(self, write: AgentWrite, guard: Guard) -> bool:
        self._prepare_files(write)
        if self._stored:
            return self._repository.write_agent(self._session_id, write, guard)
        return self._repository.start_agent(self._session_id, write)

    def _prepare_files(self, write: AgentWrite) -> None:
        """Note what is about to be uploaded, and announce the removal of the values that an edit takes out."""
        with self._state:
            self._sent_files |= write.files.keys()
            self._has_files |= bool(write.files)
            edit, unused = write.edited, set(self._unused_files)
        if unused or (edit is not None and self._has_files):
            self._removal = self._removal or ObjectId()
            self._repository.mark_files(self._session_id, self._agent_id, edit, unused, self._removal)

    def _settle_files(self, changes: Iterable[_Change]) -> None:
        """Changes have arrived: what they refer to must be there still, and what they took out must go."""
        files = {digest: value for change in changes for digest, value in change.files.items()}
        self._repository.keep_files(self._session_id, files)
        unused: set[str] = set()
        if self._removal is not None:
            unused = set(self._unused_files)
            self._repository.remove_files(self._session_id, unused, self._removal)
            self._removal = None
        with self._state:
            self._unused_files -= unused
            self._sent_files -= unused | files.keys()

    def _take_files_back(self) -> None:
        """Remove what was uploaded for changes that will never be stored: nobody else may know of it.

        And end a removal that was announced for such a change: what is used still loses its mark.
        """
        if self._ended is not None and (self._sent_files or self._removal):
            with suppress(PyMongoError):
                self._repository.remove_files(self._session_id, self._sent_files, self._removal or ObjectId())
            self._sent_files, self._removal = set(), None

    def _next_write(self) -> tuple[int, AgentWrite, Guard]:
        """Join as many queued changes as one update can hold: an edit stands alone, with data."""
        write, count = AgentWrite(self._agent_id), 0
        for change in self._pending:
            if count and (change.edited or (change.appended and write.edited) or not change.values.is_hashed):
                break
            # A new agent comes whole: who stopped in between would leave a part that is taken for all of it.
            is_full = self._stored and write.size + change.size > JOINED_BYTES
            if count and (is_full or count >= self._most_joined):
                break
            write.edited = write.edited or change.edited
            if change.appended:
                write.appended.append(dict(change.appended))  # an edit may change the queued one meanwhile
            write.data |= change.data
            if change.live is not None:
                next_id = self._guard.next_message_id + len(write.appended)
                write.live = self._ids(next_id, change.live).stored
                write.live_may_wait &= change.lost_head
            write.guardrail_events += change.guardrail_events
            write.size += change.size
            write.files |= change.files
            count += 1
        # What is still unanswered may hold the same changes; then the guard has to tell which of the two arrived.
        write.keeps_revision = write.moves_window and self._guard.revision is not None and not self._unanswered
        return count, write, self._guard

    def _confirm(self, count: int, after: Guard) -> None:
        """A write has arrived: what it redacted is redacted in segments too, and it leaves the queue."""
        with self._state:
            changes = list(itertools.islice(self._pending, count))
        for edit in [change.edited for change in changes if change.edited]:
            if edit.redacts:
                # A copy may have moved, or be left in a segment that nobody refers to.
                self._repository.edit_moved(self._session_id, self._agent_id, edit)
        self._settle_files(changes)
        self._acknowledge(count, after)

    def _acknowledge(self, count: int, after: Guard) -> None:
        with self._state:
            self.check_open()  # the session may have been deleted meanwhile
            done = [self._pending.popleft() for _ in range(count)]
            self._guard = after
            self._live_count += sum(change.appended is not None for change in done)
            self._live_bytes += sum(change.size for change in done)
            self._unanswered.clear()
            self._misses = 0
            self._most_joined = MAX_PENDING
            self._stored = self._has_stored = True
            if not self._pending:
                self.let_go()
        _unsent.passed_by(self)

    def _settle(self) -> None:
        """A guard missed: a write of ours had arrived without an answer, or somebody else wrote, or may write."""
        position = self._look()
        with self._state:
            self.check_open()
            head = self._pending[0]
            written = position.guard.write_id
            arrived = self._unanswered.get(written) if isinstance(written, ObjectId) else None
            if arrived is None:
                arrived = self._recognised(position.tracking_ids) or None
        if arrived is None:
            self._make_way(position, head)
            return
        logger.debug(
            "session_id=<%s>, agent_id=<%s>, changes=<%d> | an unanswered write had arrived",
            self._session_id,
            self._agent_id,
            arrived,
        )
        with self._state:
            appended = sum(change.appended is not None for change in itertools.islice(self._pending, arrived))
        # After a foreign write the place is another one, and the next write of ours conflicts.
        self._confirm(arrived, self._guard.after(appended, written))

    def _look(self) -> AgentPosition:
        with self._state:
            self.check_open()
            edit = self._pending[0].edited
        first = self._guard.next_message_id
        if edit is not None:
            first = min(first, edit.message_id)
        try:
            return self._repository.locate_agent(self._session_id, self._agent_id, first)
        except (AgentNotFoundError, SessionNotFoundError) as error:
            raise self.end(error) from None

    def _make_way(self, position: AgentPosition, head: _Change) -> None:
        """See to it that a write that had not arrived can go through when it is sent again."""
        self._repository.check_lease(self._session_id, position.lease)
        with self._state:
            self.check_open()
            self._misses += 1
            if position.guard != self._guard or self._misses > MAX_MISSES:
                raise self.end(self._conflict(position.guard))
            moved = head.edited is not None and head.edited.message_id not in position.tracking_ids
        if moved:
            self._edit_moved(head)

    def _edit_moved(self, change: _Change) -> None:
        """The history is where it should be, so the message to edit has moved into a segment, or is gone."""
        edit = change.edited
        found = edit is None or self._repository.edit_moved(self._session_id, self._agent_id, edit, change.files)
        self._settle_files([change])
        with self._state:
            self.check_open()
            self._misses = 0
            change.edited = None
            if not (change.data or change.guardrail_events):
                self._pending.popleft()
            self._unanswered.clear()
        if edit is not None and not found:
            raise MessageNotFoundError(self._session_id, self._agent_id, edit.message_id)

    # Moving

    def roll(self, kept_bytes: int = KEPT_BYTES) -> bool:
        """Move the oldest messages out of the session document; True if any moved."""
        write_id = ObjectId()
        self._repository.index_segments()
        with self._sending:
            with self._state:
                self.check_open()
                self._unanswered[write_id], guard = 0, self._guard
            rolled = self._repository.roll_over(self._session_id, self._agent_id, guard, write_id, kept_bytes)
            with self._state:
                self.check_open()
                self._unanswered.pop(write_id, None)
                if rolled is None:
                    self._live_count = self._live_bytes = 0  # not again before as much has come again
                    return False
                if guard.revision is None:  # of the first version; it has counters now
                    self._guard = guard.after(0, write_id)
                self.measure(rolled.live_count, rolled.live_bytes)
                return True

    @property
    def _kept_bytes(self) -> int | None:
        """How much of the latest messages stays where the others should move; None where they need not."""
        if outgrown(self._live_count, self._live_bytes):
            return KEPT_BYTES
        is_large = self._live_bytes >= LEAST_MOVE_BYTES
        return self._live_bytes // 2 if is_large and self._repository.is_crowded(self._session_id) else None

    def _roll_behind(self) -> None:
        try:
            self._repository.handle.executor.submit(self._roll_quietly)
        except (InvalidOperation, RuntimeError):
            logger.debug("session_id=<%s> | closing, the next process moves old messages", self._session_id)

    def _roll_quietly(self) -> None:
        try:
            kept_bytes = self._kept_bytes
            if kept_bytes is not None:
                self.roll(kept_bytes)
        except (PyMongoError, MongoDBSessionError) as error:
            # Nothing is lost: the messages are where they were, or the next write finds that they moved.
            logger.warning(
                "session_id=<%s>, agent_id=<%s>, error=<%s> | old messages were not moved",
                self._session_id,
                self._agent_id,
                type(error).__name__,
            )

    def _recognised(self, tracking_ids: dict[int, str | None]) -> int:
        """Count the queued changes up to the last message that is stored under our id and tracking id."""
        recognised = 0
        for index, change in enumerate(self._pending):
            if change.appended is None:
                continue
            tracking_id = change.appended.get("tracking_id")
            if tracking_id is None or tracking_ids.get(change.appended["message_id"]) != tracking_id:
                break
            recognised = index + 1
        return recognised

    def _end_locked(self, error: SessionLockedError) -> None:
        with self._state:
            if self._ended is None:
                error.pending = self._pending_messages()
                logger.warning(
                    "session_id=<%s>, agent_id=<%s>, revision=<%s>, pending=<%d> | another manager has the lease, this "
                    "agent writes no more",
                    self._session_id,
                    self._agent_id,
                    self._guard.revision,
                    len(error.pending),
                )
                self.end(error)

    def _pending_messages(self) -> list[Message]:
        whole = [put_back_values(c.appended, c.values.hash()) for c in self._pending if c.appended]
        return [decode_message(message) for message in whole]

    def _conflict(self, stored: Guard) -> SessionConflictError:
        messages = self._pending_messages()
        logger.warning(
            "session_id=<%s>, agent_id=<%s>, stored_revision=<%s>, expected_revision=<%s>, pending=<%d> | somebody "
            "else wrote the history, this agent writes no more",
            self._session_id,
            self._agent_id,
            stored.revision,
            self._guard.revision,
            len(messages),
        )
        return SessionConflictError(
            self._session_id,
            self._agent_id,
            f"was written by somebody else: revision {stored.revision} is stored, {self._guard.revision} was "
            f"expected. {len(messages)} message(s) of this process are not stored (see .pending). Make a new "
            "manager and agent to go on from what is stored.",
            messages,
        )


def flush_unsent() -> None:
    """Send what all histories hold, from the thread that ends the interpreter: the others have ended."""
    deadline = time.monotonic() + EXIT_TIMEOUT
    # The newer ones first: they go past the older ones of their agents.
    for history in sorted(_unsent, key=lambda history: -history.number):
        try:
            if history._is_behind(idle=False):
                history.give_up()
            history.flush_until(deadline)
        except Exception as error:  # noqa: BLE001 - the others are to be sent too
            logger.warning(
                "session_id=<%s>, pending=<%d>, agent_id=<%s>, error=<%s> | ended with changes that are not stored",
                history._session_id,
                history.pending,
                history._agent_id,
                type(error).__name__,
            )


def _leave_to_parent() -> None:
    """After a fork: what waits is the parent's to send, and threads that the child lacks may hold its locks."""
    for history in list(_all):
        history.make_locks()
    _unsent.reset()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_leave_to_parent)
