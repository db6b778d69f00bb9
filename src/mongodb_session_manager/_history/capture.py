"""What is captured of one agent on its own thread: in memory only, and sent by its history."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from strands.types.content import Message

from .._schema.blobs import begin_offload, begin_offload_edit
from .._schema.ids import agent_label, now
from .._schema.live_ids import LiveIds
from .._schema.messages import MessageEdit, check_calls, message_doc, redaction, replacement
from .._schema.values import Stored, encode
from ..errors import MongoDBSessionError
from ..types import MessageDoc
from .changes import Change
from .live_records import Record, View
from .unsent import ALL_UNSENT
from .writer import AgentHistory

__all__ = ["HistoryCapture"]


class HistoryCapture:
    """Turns what an agent does into changes of its history.

    Args:
        history: Where they wait, and who sends them.
    """

    def __init__(self, history: AgentHistory) -> None:
        self._history = history
        self._queue, self._live = history.queue, history.live

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
        history = self._history
        with history.lock:
            self._queue.check_room()
            message_id = self._queue.next_message_id
            label = agent_label(history.session_id, history.agent_id, message_id)
            stored = message_doc(message, message_id, now(), label, metrics)
            check_calls(message, label)
            # What is too large is refused here: queued, it could never be sent, and all after it would wait for ever.
            size, values = begin_offload(stored, history.session_id, history.agent_id, message_id, history.queue.limits)
            live, lost_head = self._live.capture(view, message_id, Record(message_id, message, given))
            self._add(Change(stored, data=data, live=live, lost_head=lost_head, size=size, values=values))

    def replace(self, message: Message, data: Stored, given: Message | None = None, view: View | None = None) -> None:
        """Queue the new content of the stored message with the same tracking id.

        Raises:
            MessageNotFoundError: No live message has that tracking id.
            SessionConflictError: The history moved on without us; this binding is over.
            UnstorableValueError: The message holds something that would not come back equal.
        """
        with self._history.lock:
            self._queue.check_open()
            record = self._live.record_of(message)
            label = self._label(record.message_id)
            edit = replacement(message, record.message_id, now(), label)
            check_calls(message, label)
            self._edit(edit, Change(data=data))
            record.message, record.given = message, given
            self._capture_live(view)

    def change(self, data: Stored, view: View | None = None) -> None:
        """Queue a change of agent data and of the live set alone, as far as there is any.

        Raises:
            SessionConflictError: The history moved on without us; this binding is over.
        """
        with self._history.lock:
            if not data:
                self._capture_live(view)
                return
            self._queue.check_room()
            live, lost_head = self._live.capture(view, self._queue.next_message_id)
            self._add(Change(data=data, live=live, lost_head=lost_head))

    def _capture_live(self, view: View | None) -> None:
        live, lost_head = self._live.capture(view, self._queue.next_message_id)
        if live is not None:
            self._queue.check_open()
            self._add(Change(live=live, lost_head=lost_head))

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
        with self._history.lock:
            self._queue.check_open()
            latest = self._live.latest
            if latest is None:
                raise MongoDBSessionError(f"{self._label()} has no message to redact.")
            tracking_id = encode(latest.message.get("tracking_id"), self._label(latest.message_id))
            # A live one is known by its id; what is stored elsewhere may be another message by now.
            tracking_ids = dict.fromkeys(copies, tracking_id) | dict.fromkeys(self._live.copies(latest, message))
            edits = [
                replace(self._redaction(message, number, event), tracking_id=tracking_ids[number])
                for number in sorted(tracking_ids)
            ]
            # What has moved somebody else may edit unnoticed, and so give the session its first file.
            self._history.transfers.uploads.has_files |= len(edits) > 1
            about = {"agent_id": self._history.agent_id, "message_id": latest.message_id}
            for edit in edits:
                of_session = [{**event, **about}] if edit.message_id == latest.message_id else []
                self._edit(edit, Change(guardrail_events=of_session))
            live, _ = self._live.redact_kept(latest, message, self._queue.next_message_id)
            if live is not None:
                self._add(Change(live=live))

    def note_redaction(self, event: Stored) -> None:
        """Queue the record of a redaction that is of no stored message."""
        with self._history.lock:
            self._queue.check_open()
            self._add(Change(guardrail_events=[{**event, "agent_id": self._history.agent_id}]))

    def _redaction(self, message: Message, message_id: int, event: Stored) -> MessageEdit:
        edit = redaction(message, message_id, now(), self._label(message_id))
        edit.fields["guardrail_event"] = event
        return edit

    def _edit(self, edit: MessageEdit, along: Change) -> None:
        """Change a message that waits to be sent, and have the server change it where it may be stored already."""
        history = self._history
        edit, values = begin_offload_edit(edit, history.session_id, history.agent_id, history.queue.limits)
        is_done, given_up = self._queue.edit(edit, values)
        history.transfers.uploads.give_up(given_up)
        if not is_done:
            self._add(replace(along, edited=edit, values=values))
        elif not along.is_empty:
            self._add(along)

    @property
    def comes_later(self) -> bool:
        """Whether the agent is not stored yet, and comes with the first write."""
        return not self._queue.is_stored and self._queue.ended is None

    def create(self) -> None:
        """Queue the agent itself, where nothing waits that would bring it."""
        with self._history.lock:
            self._queue.check_open()
            if not (self._queue.is_stored or self._queue.changes):
                self._add(Change())

    def take_refused(self) -> dict[str, Exception]:
        """Return why fields are left out, by field, and take it as told."""
        with self._history.lock:
            refused, self._queue.refused = self._queue.refused, {}
            return refused

    def _add(self, change: Change) -> None:
        """Queue a change, and keep the history until it is stored."""
        if self._queue.add(change):
            ALL_UNSENT.add(self._history)

    # Live messages

    def begin(self, view: View, own: Sequence[Message], kept: Sequence[Message], stored: LiveIds | None) -> None:
        """Take the live messages of an agent that was just made or restored, as ``LiveTracking.begin`` says."""
        with self._history.lock:
            self._live.begin(view, own, kept, stored, self._queue.next_message_id)

    def prune(self, live: Sequence[Message]) -> None:
        """Forget the messages that left the live history, as soon as there are more than that has."""
        with self._history.lock:
            self._live.prune(live)

    def is_pending(self, message: Message) -> bool:
        """Tell whether this very message waits to be sent."""
        with self._history.lock:
            waiting = {change.appended["message_id"] for change in self._queue.changes if change.appended}
            return self._live.is_among(message, waiting)

    def pending_messages(self) -> list[MessageDoc]:
        """Return the messages that wait to be sent; until they are, their ids may change."""
        with self._history.lock:
            return [change.appended for change in self._queue.changes if change.appended]

    def _label(self, message_id: int | None = None) -> str:
        return agent_label(self._history.session_id, self._history.agent_id, message_id)
