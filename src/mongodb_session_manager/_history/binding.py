"""Ties a live agent to its stored history: makes or restores it, and captures what it does from then on."""

import gc
import logging
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from strands import Agent
from strands.agent.state import AgentState
from strands.types.agent import ConcurrentInvocationMode
from strands.types.content import Message

from .._schema.blobs import Files, offload
from .._schema.histories import AgentWrite, Guard
from .._schema.ids import agent_label, now
from .._schema.live_ids import LiveIds
from .._schema.messages import message_doc, with_blocks, with_tracking_id
from .._schema.values import Stored
from .._stores.histories import HistoryStore, RestoredAgent
from .._stores.restoring import restoring
from ..errors import MongoDBSessionError, SessionConflictError, SessionLockedError, SessionTooLargeError
from .agent_state import AgentStateTracker
from .call_metrics import ToolUsageMeter, call_metrics, ends_invocation
from .capture import HistoryCapture
from .changes import LIMITS, Limits
from .contents import SessionContents
from .live_records import is_pinned
from .restore import OwnMessages, live_messages, live_view, restore_manager
from .unsent import ALL_UNSENT
from .writer import AgentHistory

if TYPE_CHECKING:
    from strands.types.agent import LocalAgent

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
        """Return what came under the tracking id by which the agent knows it, and what it was made of."""
        tracking_id = self.message.get("tracking_id")
        if self.is_taken and message.get("tracking_id") != tracking_id:
            return with_tracking_id(message), message
        if tracking_id is None or message.get("tracking_id") == tracking_id:
            return with_tracking_id(message), self.message
        return {**message, "tracking_id": tracking_id}, self.message


class AgentBinding:
    """One live agent and the history that it writes.

    Capturing happens in memory, on the thread that calls; ``history.flush()`` sends.

    Attributes:
        history: What is stored, and what is on its way.
        failure: What went wrong in the current invocation.
        invoked: Whether the agent is in an invocation.
        syncs_apart: Whether the state is captured by itself only, not along with messages.
    """

    def __init__(
        self, agent: "LocalAgent", tracker: AgentStateTracker, history: AgentHistory, *, syncs_apart: bool = False
    ) -> None:
        self._agent = weakref.ref(agent)
        self._tracker = tracker
        self._tools = ToolUsageMeter(agent)
        self.history = history
        self._capture = HistoryCapture(history)
        ALL_UNSENT.held_by(history, self)
        self.failure: Exception | None = None
        self.invoked = False
        # The event on which callbacks of others still work.
        self._ending: Callable[[], object] = _none
        self.syncs_apart = syncs_apart
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

    def matches(self, agent: "LocalAgent") -> bool:
        """Tell whether this very object is bound."""
        return self._agent() is agent

    def is_left(self) -> bool:
        """Tell whether nobody holds the agent any more."""
        if self._agent() is not None:
            gc.collect()  # one that refers to itself, as through a tool, goes late
        return self._agent() is None

    @property
    def at_work(self) -> bool:
        """Whether the agent is in an invocation, ends one, or is in a call of one of its tools, and still there."""
        agent = self._agent()
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
        metrics = call_metrics(given or message, agent) or {}
        tools = self._tools.since(agent)
        if not ends_invocation(message):
            tools = {}
        if tools:
            metrics["tool_usage"] = tools
        with self._state_along(agent) as changed:
            self._capture.append(message, changed, metrics, given, live_view(agent))
        if tools:
            self._tools.count(agent)

    def _state_along(self, agent: "LocalAgent") -> AbstractContextManager[Stored]:
        return nullcontext({}) if self.syncs_apart else self._tracker.capturing(agent)

    def capture_announced(self, agent: "LocalAgent", message: Message, announced: Announcement) -> None:
        """Queue what is to be stored of an announced message: a new one, or the latest one grown longer."""
        with self._capturing:
            message, given = announced.identified(with_blocks(message))
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
        agent = self._agent()
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

    def redact_latest(self, message: Message, event: Stored, copies: Iterable[int]) -> None:
        """Queue the redaction of the latest message and of its copies, as ``HistoryCapture`` says."""
        self._capture.redact_latest(message, event, copies)

    def is_pending(self, message: Message) -> bool:
        """Tell whether this very message waits to be sent."""
        return self._capture.is_pending(message)

    def look(self, agent: "LocalAgent") -> None:
        """Note which messages are live, before somebody puts others in the place of those that left."""
        view = live_view(agent)
        if view is not None:
            with self.history.lock:
                self.history.live.look(view)

    def unknown(self, agent: "LocalAgent", announced: Message | None = None) -> set[str]:
        """Return the tracking ids of live messages that may be stored, but are not known here."""
        if live_view(agent) is None:
            return set()
        with self.history.lock:
            return self.history.live.unknown(agent.messages, announced, self.history.queue.next_message_id)

    @property
    def left_out(self) -> Exception | None:
        """Why a field of the agent is not stored, as long as nobody was told."""
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


class AgentBinder:
    """Makes the bindings of one session.

    Args:
        store: Where it is stored.
        session_id: The session.
        contents: What the session is known to hold.
        prefetched: What was read ahead for agents that are about to be made; None where there is no such agent yet.
        mend: Makes a restored history valid for a model.
        announce: Captures messages of a new agent in the application's own way; None where it has none.
        syncs_apart: Whether the state is captured by itself only.

    Attributes:
        limits: How much of each agent's history waits, and goes out together.
    """

    limits: Limits = LIMITS

    def __init__(
        self,
        store: HistoryStore,
        session_id: str,
        contents: SessionContents,
        prefetched: Mapping[str, RestoredAgent | None],
        mend: Callable[[list[Message]], list[Message]],
        announce: Callable[..., None] | None = None,
        *,
        syncs_apart: bool = False,
    ) -> None:
        self._announce, self._syncs_apart = announce, syncs_apart
        self._store, self._session_id = store, session_id
        self._contents, self._prefetched = contents, dict(prefetched)
        self._mend = mend

    def prefetch(self, agent_ids: Iterable[str]) -> None:
        """Read agents ahead of ``bind``."""
        for agent_id in agent_ids:
            # A new agent will be stored without another look, and others may have added it since the opening.
            self._prefetched[agent_id] = self._store.restore_agent(self._session_id, agent_id)

    def bind(self, agent: "LocalAgent") -> AgentBinding:
        """Restore the agent, or store it as a new one with its messages; what was read ahead costs no I/O."""
        binding = self._bind(agent)
        self._contents.add_agent(agent.agent_id)
        return binding

    def _bind(self, agent: "LocalAgent") -> AgentBinding:
        if agent.agent_id not in self._prefetched:
            return self._restore(agent, self._read(agent.agent_id)) or self._start(agent)
        restored = self._prefetched.pop(agent.agent_id)
        return self._restore(agent, restored) or self._start_later(agent)

    def label(self, agent_id: str) -> str:
        """Return what the agent is called in errors."""
        return agent_label(self._session_id, agent_id)

    def _read(self, agent_id: str) -> RestoredAgent | None:
        if self._contents.seems_new_agent(agent_id):
            return None
        return self._store.restore_agent(self._session_id, agent_id)

    def _start(self, agent: "LocalAgent") -> AgentBinding:
        """Store a new agent; where another process was faster, go on from what that one stored."""
        if self._announce is not None:
            return self._start_announced(agent)
        agent_id, at = agent.agent_id, now()
        tracker = AgentStateTracker(self.label(agent_id))
        _identify(agent.messages)
        messages = list(enumerate(agent.messages))
        appended = [message_doc(m, i, at, f"{self.label(agent_id)}, message {i}") for i, m in messages]
        with tracker.capturing(agent) as data:
            size, files = self._offload(agent_id, appended)
            write = AgentWrite(agent_id, appended, data=data, at=at, size=size, files=files)
            pinned = tuple(number for number, message in messages if is_pinned(message))
            live = None if live_view(agent) is None else LiveIds(0, pinned=pinned)
            write.live = live.stored if live else None
            created, left = self._start_fitting(write)
        if created:
            self._store.keep_files(self._session_id, files)
            binding = self._bound(agent, tracker, Guard(1, len(messages), write.write_id), messages)
            binding.begin(agent, stored=live)
            binding.set_document_size(len(messages), size, bool(files))
            if left:
                binding.capture_fields(left)  # what of it fits comes with the first message
            return binding
        found = self._restore(agent, self._store.restore_agent(self._session_id, agent_id))
        if found is None:
            raise MongoDBSessionError(
                f"{self.label(agent_id)} is damaged: what is stored under its name has no agent_data. Restore the "
                "session from a backup, or remove that field from the document."
            )
        return found

    def _start_fitting(self, write: AgentWrite) -> tuple[bool, Stored]:
        """Store a new agent; where it is too large, without its fields, which are returned then."""
        try:
            return self._store.start_agent(self._session_id, write), {}
        except SessionTooLargeError:
            left, write.data = write.data, {}
            return self._store.start_agent(self._session_id, write), left

    def _offload(self, agent_id: str, messages: list[Stored]) -> tuple[int, Files]:
        size, files = 0, Files()
        for stored in messages:
            part, values = offload(stored, self._session_id, agent_id, stored["message_id"])
            size, files = size + part, files | values
        return size, files

    def _start_later(self, agent: "LocalAgent") -> AgentBinding:
        """Bind a new agent without I/O; its first write creates it."""
        binding = self._bound(agent, AgentStateTracker(self.label(agent.agent_id)), None, [])
        binding.history.queue.expect(len(agent.messages))
        _identify(agent.messages)
        if self._announce is not None:
            self._announce(binding, agent, *agent.messages)
            return binding
        for message in agent.messages:
            binding.capture_message(agent, message)
        return binding

    def _start_announced(self, agent: "LocalAgent") -> AgentBinding:
        binding = self._start_later(agent)
        try:
            binding.store_new()
        except SessionLockedError:
            raise
        except SessionConflictError:  # another process was faster
            found = self._restore(agent, self._store.restore_agent(self._session_id, agent.agent_id))
            if found is None:
                raise
            return found
        return binding

    def _restore(self, agent: "LocalAgent", restored: RestoredAgent | None) -> AgentBinding | None:
        if restored is None:
            return None
        label = self.label(agent.agent_id)
        with restoring(label, "state"):
            agent.state = AgentState(restored.agent.state)
        with restoring(label, "_internal_state"):
            restored.agent.initialize_internal_state(agent)
        own = OwnMessages()
        if isinstance(agent, Agent):
            own = restore_manager(agent, restored, label)
            restored = self._recounted(agent, restored, own.removed)
        # A model that keeps the conversation on its own side gets no messages.
        if not (isinstance(agent, Agent) and agent.model.stateful):
            agent.messages = live_messages(restored, own, self._mend)
        tracker = AgentStateTracker(label)
        tracker.adopt(agent, restored.data, rewrite=restored.guard.revision is None)
        binding = self._bound(agent, tracker, restored.guard, restored.messages)
        binding.begin(agent, own, restored.live)
        binding.set_document_size(restored.embedded_count, restored.embedded_bytes, restored.has_files)
        return binding

    def _recounted(self, agent: Agent, restored: RestoredAgent, removed: int) -> RestoredAgent:
        """Read again where no live set is stored, and the conversation manager has come to another count."""
        if restored.live is not None or removed == restored.removed:
            return restored
        return self._store.restore_agent(self._session_id, agent.agent_id, removed) or restored

    def _bound(
        self,
        agent: "LocalAgent",
        tracker: AgentStateTracker,
        guard: Guard | None,
        messages: list[tuple[int, Message]],
    ) -> AgentBinding:
        history = AgentHistory(self._store, self._session_id, agent.agent_id, guard, messages, self.limits)
        return AgentBinding(agent, tracker, history, syncs_apart=self._syncs_apart)


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


def _identify(messages: list[Message]) -> None:
    """Give messages the tracking id that the SDK would give them at the next prompt."""
    for message in messages:
        message.update(with_tracking_id(message))
