"""Ties a live agent to its stored history: makes or restores it, and captures what it does from then on."""

import logging
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeAlias

from strands import Agent
from strands.agent.state import AgentState
from strands.types.content import Message

from . import _codec, _document, _large_values
from ._agent_state import AgentStateTracker
from ._codec import Stored
from ._document import AgentWrite, Guard, check_id, removed_count
from ._large_values import Files
from ._repair import Restored
from ._restoring import restoring
from ._telemetry import ToolUsageMeter, call_metrics, ends_invocation
from ._writer import AgentHistory
from .errors import MongoDBSessionError, SessionConflictError, SessionLockedError, SessionTooLargeError
from .mongodb_session_repository import MongoDBSessionRepository, RestoredAgent

if TYPE_CHECKING:
    from strands.types.agent import LocalAgent

logger = logging.getLogger(__name__)

_MOST_RESTORES = 3

# Where the history is, its messages with their ids, and whether any may have off-loaded values.
_Bound: TypeAlias = tuple[Guard, list[tuple[int, Message]], bool]


class AgentBinding:
    """One live agent and the history that it writes.

    Capturing happens in memory, on the thread that calls; ``history.flush()`` sends.

    Attributes:
        history: What is stored, and what is on its way.
        failure: What went wrong in the current invocation.
        invoked: Whether the agent is in an invocation.
    """

    def __init__(self, agent: "LocalAgent", tracker: AgentStateTracker, history: AgentHistory) -> None:
        self._agent = weakref.ref(agent)
        self._tracker = tracker
        self._tools = ToolUsageMeter(agent)
        self.history = history
        self.failure: Exception | None = None
        self.invoked = False
        # What is compared and what is queued belong together, also where two threads use one agent.
        self._capturing = threading.RLock()

    def is_of(self, agent: "LocalAgent") -> bool:
        """Tell whether this very object is bound."""
        return self._agent() is agent

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
        metrics = call_metrics(message, agent) or {}
        tools = self._tools.since(agent)
        if not ends_invocation(message):
            tools = {}
        if tools:
            metrics["tool_usage"] = tools
        with self._tracker.capturing(agent) as changed:
            self.history.append(message, changed, metrics, given)
        if tools:
            self._tools.count(agent)

    def capture_announced(self, agent: "LocalAgent", message: Message) -> None:
        """Queue a message that the SDK announced: a new one, or the latest one grown longer."""
        if self.history.is_continuation(message, agent.messages):
            self.capture_replacement(agent, message)
        else:
            self.capture_message(agent, message)

    def capture_replacement(self, agent: "LocalAgent", message: Message) -> None:
        """Queue the new content of a stored message, by its tracking id."""
        with self._capturing, self._tracker.capturing(agent) as changed:
            self.history.replace(message, changed)

    def store_new(self) -> None:
        """Store the agent now, where it would come with its first message only; else this costs nothing."""
        agent = self._agent()
        if not self.history.comes_later or (agent is None and not self.history.pending):
            return
        if agent is not None:
            self.capture_state(agent)
        self.history.create()

    def capture_state(self, agent: "LocalAgent") -> None:
        """Queue the agent's state as far as it changed."""
        with self._capturing, self._tracker.capturing(agent) as changed:
            if changed:
                self.history.change(changed)
        self.history.prune(agent.messages)

    @property
    def left_out(self) -> Exception | None:
        """Why a field of the agent is not stored, as long as nobody was told."""
        errors = self._tracker.refused | self.history.refused
        return next(iter(errors.values()), None)

    def tell_left_out(self) -> None:
        """Raise, once, why fields of the agent were left out of what is stored.

        Raises:
            Exception: The first reason as it was, with a note of the others.
        """
        with self._capturing:
            errors = self._tracker.refused | self.history.take_refused()
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
        repository: Where it is stored.
        session_id: The session.
        stored_agents: The agents that the session surely holds; None where that is not known.
        is_new: Whether this process created the session.
        mend: Makes a restored history valid for a model.
    """

    def __init__(
        self,
        repository: MongoDBSessionRepository,
        session_id: str,
        stored_agents: frozenset[str] | None,
        is_new: bool,
        mend: Callable[[list[Message]], list[Message]],
    ) -> None:
        self._repository, self._session_id = repository, session_id
        self._stored_agents, self._is_new = stored_agents, is_new
        self._mend = mend
        # What was read ahead for agents that are about to be made: None where there is no such agent yet.
        self._prefetched: dict[str, RestoredAgent | None] = {}

    def prefetch(self, agent_ids: Iterable[str]) -> None:
        """Read agents ahead of ``bind``."""
        for agent_id in agent_ids:
            check_id("agent_id", agent_id)
            # A new agent will be stored without another look, so here a list that may have gaps is not enough.
            known_new = self._is_new and agent_id not in (self._stored_agents or ())
            restored = None if known_new else self._repository.restore_agent(self._session_id, agent_id)
            self._prefetched[agent_id] = restored

    def bind(self, agent: "LocalAgent") -> AgentBinding:
        """Restore the agent, or store it as a new one with its messages; what was read ahead costs no I/O."""
        if agent.agent_id not in self._prefetched:
            return self._restore(agent, self._read(agent.agent_id)) or self._start(agent)
        restored = self._prefetched.pop(agent.agent_id)
        return self._restore(agent, restored) or self._start_later(agent)

    def place(self, agent_id: str) -> str:
        """Return what the agent is called in errors."""
        return f"Agent {agent_id!r} of session {self._session_id!r}"

    def _read(self, agent_id: str) -> RestoredAgent | None:
        if self._stored_agents is not None and agent_id not in self._stored_agents:
            return None
        return self._repository.restore_agent(self._session_id, agent_id)

    def _start(self, agent: "LocalAgent") -> AgentBinding:
        """Store a new agent; where another process was faster, go on from what that one stored."""
        agent_id, at = agent.agent_id, _document.now()
        tracker = AgentStateTracker(self.place(agent_id))
        messages = list(enumerate(agent.messages))
        appended = [_codec.encode_message(m, i, at, f"{self.place(agent_id)}, message {i}") for i, m in messages]
        with tracker.capturing(agent) as data:
            size, files = self._off_load(agent_id, appended)
            write = AgentWrite(agent_id, appended, data=data, at=at, size=size, files=files)
            created, left = self._start_fitting(write)
        if created:
            self._repository.keep_files(self._session_id, files)
            binding = self._bound(agent, tracker, Guard(1, len(messages), write.write_id), messages)
            binding.history.measure(len(messages), size, bool(files))
            if left:
                binding.history.change(left)  # what of it fits comes with the first message
            return binding
        found = self._restore(agent, self._repository.restore_agent(self._session_id, agent_id))
        if found is None:
            raise MongoDBSessionError(
                f"{self.place(agent_id)} is damaged: what is stored under its name has no agent_data. Restore the "
                "session from a backup, or remove that field from the document."
            )
        return found

    def _start_fitting(self, write: AgentWrite) -> tuple[bool, Stored]:
        """Store a new agent; where it is too large, without its fields, which are returned then."""
        try:
            return self._repository.start_agent(self._session_id, write), {}
        except SessionTooLargeError:
            left, write.data = write.data, {}
            return self._repository.start_agent(self._session_id, write), left

    def _off_load(self, agent_id: str, messages: list[Stored]) -> tuple[int, Files]:
        size, files = 0, Files()
        for stored in messages:
            part, values = _large_values.off_load(stored, self._session_id, agent_id, stored["message_id"])
            size, files = size + part, files | values
        return size, files

    def _start_later(self, agent: "LocalAgent") -> AgentBinding:
        """Bind a new agent without I/O; its first write creates it."""
        binding = self._bound(agent, AgentStateTracker(self.place(agent.agent_id)), None, [])
        for message in agent.messages:
            binding.capture_message(agent, message)
        return binding

    def _restore(self, agent: "LocalAgent", restored: RestoredAgent | None) -> AgentBinding | None:
        for _ in range(_MOST_RESTORES - 1):
            try:
                return self._restored(agent, restored)
            except SessionLockedError:
                raise
            except SessionConflictError:  # mending met another write: there is something newer to restore
                restored = self._repository.restore_agent(self._session_id, agent.agent_id)
        return self._restored(agent, restored)

    def _restored(self, agent: "LocalAgent", restored: RestoredAgent | None) -> AgentBinding | None:
        if restored is None:
            return None
        place = self.place(agent.agent_id)
        with restoring(place, "state"):
            agent.state = AgentState(restored.agent.state)
        with restoring(place, "_internal_state"):
            restored.agent.initialize_internal_state(agent)
        guard, messages, has_files = self._restore_messages(agent, restored)
        tracker = AgentStateTracker(self.place(agent.agent_id))
        tracker.adopt(agent, restored.data, rewrite=restored.guard.revision is None)
        binding = self._bound(agent, tracker, guard, messages)
        binding.history.measure(restored.live_count, restored.live_bytes, has_files)
        return binding

    def _restore_messages(self, agent: "LocalAgent", restored: RestoredAgent) -> _Bound:
        prepended: list[Message] = []
        messages = restored.messages
        if isinstance(agent, Agent):
            manager = agent.conversation_manager
            state = restored.agent.conversation_manager_state
            # One that says nothing could not be stored, or is of an agent that has no such manager.
            passing = (ValueError,) if "__name__" in state else ()
            with restoring(self.place(agent.agent_id), "conversation_manager_state", passing):
                prepended = (manager.restore_from_session(state) if state else None) or []
            with restoring(self.place(agent.agent_id), "conversation_manager_state"):
                offset = int(manager.removed_message_count)
            messages = self._from_offset(agent.agent_id, restored, offset)
        # A model that keeps the conversation on its own side gets no messages.
        if isinstance(agent, Agent) and agent.model.stateful:
            return restored.guard, messages, restored.has_files
        before = Restored.of(messages)
        agent.messages = self._mend(prepended + [message for _, message in messages])
        mended = [message for message in agent.messages if not any(message is other for other in prepended)]
        if not before.is_mended(mended):
            return restored.guard, messages, restored.has_files
        guard, messages, has_files = self._repair(agent.agent_id, restored, before, mended)
        return guard, messages, restored.has_files or has_files

    def _repair(self, agent_id: str, restored: RestoredAgent, before: Restored, mended: list[Message]) -> _Bound:
        """Store what the SDK mended, so that positions in the stored history are those in the live one."""
        guard = restored.guard
        found, live = self._repository.read_live(self._session_id, agent_id)
        if found != guard:
            raise self._conflict(agent_id)
        if not before.can_be_rewritten(live):
            # There the SDK goes on mending at each restore.
            logger.warning(
                "session_id=<%s>, agent_id=<%s> | a broken history stays as it is stored", self._session_id, agent_id
            )
            return guard, list(before.messages), False
        write = AgentWrite(agent_id)
        messages = before.rewritten(live, mended, write.at, self.place(agent_id))
        _, write.files = self._off_load(agent_id, messages)
        if not self._repository.repair_agent(self._session_id, write, guard, removed_count(restored.data), messages):
            raise self._conflict(agent_id)
        self._repository.keep_files(self._session_id, write.files)
        logger.info("session_id=<%s>, agent_id=<%s> | mended the stored history", self._session_id, agent_id)
        numbered = list(enumerate(mended, start=before.messages[0][0]))
        return guard.after_repair(messages, write.write_id), numbered, bool(write.files)

    def _conflict(self, agent_id: str) -> SessionConflictError:
        reason = "was written by somebody else while it was restored; restore it again."
        return SessionConflictError(self._session_id, agent_id, reason)

    def _from_offset(self, agent_id: str, restored: RestoredAgent, offset: int) -> list[tuple[int, Message]]:
        """The read took the stored offset; a conversation manager may have come to another one."""
        if offset >= restored.offset:
            return restored.messages[offset - restored.offset :]
        found = self._repository.list_messages(self._session_id, agent_id, offset=offset)
        return [(record.message_id, record.to_message()) for record in found]

    def _bound(
        self,
        agent: "LocalAgent",
        tracker: AgentStateTracker,
        guard: Guard | None,
        messages: list[tuple[int, Message]],
    ) -> AgentBinding:
        history = AgentHistory(self._repository, self._session_id, agent.agent_id, guard, messages)
        return AgentBinding(agent, tracker, history)
