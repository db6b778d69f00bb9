"""A live agent and its stored history: what the agent does is captured there."""

import gc
import logging
import threading
import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from pymongo.errors import PyMongoError
from strands import Agent
from strands.agent.conversation_manager import NullConversationManager
from strands.types.agent import ConcurrentInvocationMode
from strands.types.content import Message

from .._schema.live_ids import LiveIds
from .._schema.messages import with_blocks, with_tracking_id
from .._schema.values import Stored
from ..errors import MongoDBSessionError
from .agent_state import AgentStateTracker
from .call_metrics import CallMeter
from .capture import HistoryCapture
from .live_records import View, is_message, tracking_id_of
from .redaction import Tolerated, redact_latest
from .restore import OwnMessages
from .unsent import ALL_UNSENT
from .writer import AgentHistory

if TYPE_CHECKING:
    from strands.types.agent import LocalAgent

__all__ = ["AgentBinding", "Announcement", "live_view"]

logger = logging.getLogger(__name__)


@dataclass
class Announcement:
    """A message that was announced, while an application makes of it what is to be stored.

    Attributes:
        message: What was announced.
        replaces: Whether what comes takes the place of a stored message.
        is_taken: Whether something came; what comes then is that again, if it says so, or one more message.
    """

    message: Message = field(repr=False)
    replaces: bool = False
    is_taken: bool = False

    def identified(self, message: Message) -> tuple[Message, Message]:
        """Return what came, in blocks and under the tracking id by which the agent knows it; and what it is made of."""
        content: Any = message["content"]
        if not isinstance(content, list):
            message = with_blocks(message)
        tracking_id, own = self.message.get("tracking_id"), message.get("tracking_id")
        if own and own == tracking_id:
            return message, self.message
        if self.is_taken and own != tracking_id:
            return with_tracking_id(message), message
        if tracking_id is None or own == tracking_id:
            return with_tracking_id(message), self.message
        return {**message, "tracking_id": tracking_id}, self.message


class AgentBinding:
    """One live agent and the history that it writes.

    Capturing happens in memory, on the thread that calls; ``history.flush()`` sends.

    Attributes:
        agent: Returns the agent; None once it is collected.
        history: What is stored, and what is on its way.
        failure: What went wrong in the current invocation.
        invoked: Whether the agent is in an invocation.
        syncs_apart: Whether the state is captured by itself only, not along with messages.
    """

    def __init__(
        self, agent: "LocalAgent", tracker: AgentStateTracker, history: AgentHistory, *, syncs_apart: bool = False
    ) -> None:
        self.agent = weakref.ref(agent)
        self._tracker = tracker
        self._meter = CallMeter(agent)
        self.history = history
        self._capture = HistoryCapture(history)
        ALL_UNSENT.held_by(history, self)
        self.failure: Exception | None = None
        self.invoked = False
        # The event on which callbacks of others still work.
        self._ending: Callable[[], object] = _none
        self.syncs_apart = syncs_apart
        self._state_along = _no_state if syncs_apart else tracker.capturing
        # What is compared and what is queued belong together, also where two threads use one agent.
        self._capturing = threading.RLock()

    def begin(self, agent: "LocalAgent", own: OwnMessages | None = None, stored: LiveIds | None = None) -> None:
        """Take the live messages as they were made or restored.

        Args:
            agent: The agent.
            own: The conversation manager's own messages among them.
            stored: The live set that is stored.
        """
        view, own = live_view(agent), own or OwnMessages()
        if view is not None:
            self._capture.begin(view, own.messages, own.kept, stored)

    def set_document_size(self, count: int, size: int, has_files: bool) -> None:
        """Take over how many messages, of how many bytes, the session document holds, and if any are offloaded."""
        self.history.rollover.set_document_size(count, size)
        self.history.transfers.uploads.has_files |= has_files

    def is_left(self) -> bool:
        """Tell whether the agent is gone."""
        if self.agent() is not None:
            gc.collect()  # one that refers to itself, as through a tool, goes late
        return self.agent() is None

    @property
    def at_work(self) -> bool:
        """Whether the agent is in an invocation, ends one, or is in a call of one of its tools, and still there."""
        agent = self.agent()
        locked = None if agent is None else _is_locked(agent)
        is_invoked = self.invoked or self._ending() is not None
        return agent is not None and (is_invoked if locked is None else locked)

    def end_invocation(self, event: object = None) -> None:
        """Leave the invocation, as soon as the callbacks of others are done with the event, if one is given."""
        # One that raises keeps the others from being called: then the event is gone soon.
        self.invoked, self._ending = False, _none if event is None else weakref.ref(event)

    def capture_message(self, agent: "LocalAgent", message: Message, given: Message | None = None) -> None:
        """Queue a message with what it tells of its model call, and the agent's state as far as it changed.

        Args:
            agent: The agent.
            message: The message.
            given: What the caller gave, where the message was made of that.
        """
        with self._capturing:
            self._capture_message(agent, message, given)

    def _capture_message(self, agent: "LocalAgent", message: Message, given: Message | None) -> None:
        view = live_view(agent)
        metrics = self._meter.figures(message, agent, given)
        with self._state_along(agent) as changed:
            self._capture.append(message, changed, metrics, given, view)
        if "tool_usage" in metrics:
            self._meter.count(agent)

    def capture_announced(self, agent: "LocalAgent", message: Message, announced: Announcement) -> None:
        """Queue what is to be stored of an announced message: a new one, or the latest one grown longer."""
        with self._capturing:
            message, given = announced.identified(message)
            replaces = announced.replaces and given is announced.message
            if replaces or self.history.live.is_continuation(given, agent.messages):
                self.capture_replacement(agent, message, given)
            else:
                self._capture_message(agent, message, given)
            announced.is_taken = announced.replaces = True

    def capture_replacement(self, agent: "LocalAgent", message: Message, given: Message | None = None) -> None:
        """Queue the new content of a stored message, by its tracking id."""
        with self._capturing, self._state_along(agent) as changed:
            self._capture.replace(message, changed, given, live_view(agent))

    def store_new(self) -> None:
        """Store the agent now, where it would come with its first message only; else this costs nothing."""
        agent = self.agent()
        if not self._capture.comes_later or (agent is None and not self.history.pending):
            return
        if agent is not None and not self.syncs_apart:
            self.capture_state(agent)
        self._capture.create()
        self.history.flush()

    def capture_state(self, agent: "LocalAgent") -> None:
        """Queue the agent's state, and which messages are live, as far as they changed."""
        view = live_view(agent)
        with self._capturing, self._tracker.capturing(agent) as changed:
            self._capture.change(changed, view)
        if view is None:
            self._capture.prune(agent.messages)

    def capture_fields(self, fields: Stored) -> None:
        """Queue changed fields of ``agent_data``."""
        self._capture.change(fields)

    def redact_latest(self, agent: "LocalAgent", message: Message, event: Stored, tolerated: Tolerated) -> None:
        """Redact the latest message and its copies; the arguments are those of ``redact_latest`` of a history.

        What stands in the list and is not stored, such as guidance, leaves the stored messages as they are.
        """
        self.look(agent)
        if not self.history.live.is_not_latest(message, agent.messages):
            redact_latest(self.history, self._capture, message, event, tolerated)
            return
        self._capture.note_redaction(event)
        with tolerated(self.history):
            self.history.flush()

    def is_pending(self, message: Message) -> bool:
        """Tell whether this very message waits to be sent."""
        return self._capture.is_pending(message)

    def look(self, agent: "LocalAgent") -> set[str]:
        """Note which messages are live, before others take the place of those that left; return what is unknown."""
        view = live_view(agent)
        if view is None:
            return set()
        with self.history.lock:
            return self.history.live.look(view, self.history.queue.next_message_id)

    def unknown(self, agent: "LocalAgent", announced: Message | None = None) -> set[str]:
        """Return the tracking ids of live messages that may be stored, but are not known here."""
        if self.history.live.knows_all(self.history.queue.next_message_id) or live_view(agent) is None:
            return set()
        with self.history.lock:
            return self.history.live.unknown(agent.messages, announced, self.history.queue.next_message_id)

    def look_up(self, tracking_ids: Collection[str], live: Sequence[Message]) -> None:
        """Find in storage which messages bear these tracking ids; where that fails, the next capture tries again."""
        history = self.history
        # First, since what is sent meanwhile waits no longer.
        pending = self._capture.pending_messages()
        try:
            found = history.store.tracked_messages(history.session_id, history.agent_id, tracking_ids)
        except (PyMongoError, MongoDBSessionError) as error:
            about = "session_id=<%s>, agent_id=<%s>, error=<%s> | live messages were not looked up"
            logger.warning(about, history.session_id, history.agent_id, type(error).__name__)
            return
        with history.lock:
            ids = {each: {*found.get(each, ())} for each in tracking_ids}
            for message in pending:
                if (tracking_id := tracking_id_of(cast(Message, message))) in ids:
                    ids[tracking_id].add(message["message_id"])
            history.live.recover(ids, live)

    @property
    def left_out(self) -> Exception | None:
        """Why a field of the agent is not stored, until that is told."""
        errors = self._tracker.refused | self.history.queue.refused
        return next(iter(errors.values()), None)

    def tell_left_out(self) -> None:
        """Raise, once, why fields of the agent were left out of what is stored.

        Raises:
            Exception: The first reason as it was, with a note of the others.
        """
        with self._capturing:
            errors = self._tracker.refused | self._capture.take_refused()
            self._tracker.refused = {}
        if not errors:
            return
        first, *others = errors.values()
        if others:
            first.__notes__ = [*getattr(first, "__notes__", ()), *(f"left out too: {error}" for error in others)]
        raise first.with_traceback(None)

    def tell_outside(self) -> None:
        """Do what ``tell_left_out`` does outside of an invocation: the end of one does it there."""
        if not self.invoked:
            self.tell_left_out()


def _is_locked(agent: "LocalAgent") -> bool | None:
    """Whether the SDK runs an agent; None where it does not tell.

    The event at its end is missing where a callback at its beginning raises, or a conversation manager does.
    """
    is_locked = getattr(getattr(getattr(agent, "_concurrency", None), "_invocation_lock", None), "locked", None)
    if is_locked is None:
        return None
    tells = getattr(agent, "concurrent_invocation_mode", None) is ConcurrentInvocationMode.THROW
    return True if is_locked() else (False if tells else None)


def _none() -> None:
    return None


def _no_state(agent: "LocalAgent") -> AbstractContextManager[Stored]:
    """Stands for the state where that is captured by itself only."""
    return nullcontext({})


def live_view(agent: "LocalAgent") -> View | None:
    """Return an agent's live messages; None where no live set is stored.

    A model that keeps the conversation on its own side has the list cleared after each invocation.
    """
    if not isinstance(agent, Agent) or getattr(agent.model, "stateful", False):
        return None
    manager = agent.conversation_manager
    heeds_pins = agent.context_manager is not None or not isinstance(manager, NullConversationManager)
    return View(agent.messages, lambda: _held(manager), heeds_pins)


# How deep a conversation manager's state may hold its messages.
_HELD_DEPTH = 8


def _held(manager: Any) -> list[Message]:
    """Return the messages that a conversation manager's state holds."""
    try:
        return list(_messages_in(manager.get_state()))
    except Exception:  # noqa: BLE001 - a foreign object; what it may hold is only a help
        return []


def _messages_in(state: Any, depth: int = 0) -> Iterator[Message]:
    if is_message(state):
        yield cast(Message, state)
    elif depth < _HELD_DEPTH and isinstance(state, dict | list | tuple):
        for value in state.values() if isinstance(state, dict) else state:
            yield from _messages_in(value, depth + 1)
