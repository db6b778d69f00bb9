"""Ties a live agent to its stored history: makes or restores it, and captures what it does from then on."""

import gc
import logging
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, TypeAlias

from strands import Agent
from strands.agent.state import AgentState
from strands.types.content import Message

from . import _codec, _document, _large_values
from ._agent_state import AgentStateTracker
from ._codec import Stored
from ._contents import SessionContents
from ._document import AgentWrite, Guard, removed_count
from ._large_values import Files
from ._repair import Restored
from ._telemetry import ToolUsageMeter, call_metrics, ends_invocation
from ._writer import AgentHistory
from .errors import MongoDBSessionError, SessionConflictError, SessionLockedError
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

    def is_left(self) -> bool:
        """Tell whether nobody holds the agent any more."""
        if self._agent() is not None:
            gc.collect()  # one that refers to itself, as through a tool, goes late
        return self._agent() is None

    @property
    def at_work(self) -> bool:
        """Whether the agent is in an invocation, and still there."""
        return self.invoked and self._agent() is not None

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
        tools = self._tools.since(agent) if ends_invocation(message) else {}
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

    def capture_state(self, agent: "LocalAgent") -> None:
        """Queue the agent's state as far as it changed."""
        with self._capturing, self._tracker.capturing(agent) as changed:
            if changed:
                self.history.change(changed)
        self.history.prune(agent.messages)


class AgentBinder:
    """Makes the bindings of one session.

    Args:
        repository: Where it is stored.
        session_id: The session.
        contents: What the session is known to hold.
        prefetched: What was read ahead for agents that are about to be made; None where there is no such agent yet.
        mend: Makes a restored history valid for a model.
    """

    def __init__(
        self,
        repository: MongoDBSessionRepository,
        session_id: str,
        contents: SessionContents,
        prefetched: Mapping[str, RestoredAgent | None],
        mend: Callable[[list[Message]], list[Message]],
    ) -> None:
        self._repository, self._session_id = repository, session_id
        self._contents, self._prefetched = contents, dict(prefetched)
        self._mend = mend

    def prefetch(self, agent_ids: Iterable[str]) -> None:
        """Read agents ahead of ``bind``."""
        for agent_id in agent_ids:
            # A new agent will be stored without another look, and others may have added it since the opening.
            self._prefetched[agent_id] = self._repository.restore_agent(self._session_id, agent_id)

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

    def place(self, agent_id: str) -> str:
        """Return what the agent is called in errors."""
        return f"Agent {agent_id!r} of session {self._session_id!r}"

    def _read(self, agent_id: str) -> RestoredAgent | None:
        if self._contents.seems_new_agent(agent_id):
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
            created = self._repository.start_agent(self._session_id, write)
        if created:
            self._repository.keep_files(self._session_id, files)
            binding = self._bound(agent, tracker, Guard(1, len(messages), write.write_id), messages)
            binding.history.measure(len(messages), size, bool(files))
            return binding
        found = self._restore(agent, self._repository.restore_agent(self._session_id, agent_id))
        if found is None:
            raise MongoDBSessionError(
                f"{self.place(agent_id)} is damaged: what is stored under its name has no agent_data. Restore the "
                "session from a backup, or remove that field from the document."
            )
        return found

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
        agent.state = AgentState(restored.agent.state)
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
            prepended = manager.restore_from_session(restored.agent.conversation_manager_state) or []
            messages = self._from_offset(agent.agent_id, restored, int(manager.removed_message_count))
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
