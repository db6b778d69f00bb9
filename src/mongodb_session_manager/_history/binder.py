"""Makes an agent's binding: restores it from what is stored, or stores it as a new one."""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from strands import Agent
from strands.agent.state import AgentState
from strands.types.content import Message

from .._schema.blobs import Files, offload
from .._schema.histories import AgentWrite, Guard
from .._schema.ids import agent_label, now
from .._schema.limits import LIMITS, Limits
from .._schema.live_ids import LiveIds
from .._schema.messages import check_calls, check_complete, message_doc, with_tracking_id
from .._schema.values import Stored
from .._stores.contents import SessionContents
from .._stores.histories import HistoryStore, RestoredAgent
from .._stores.restoring import Restoring
from ..errors import MongoDBSessionError, SessionConflictError, SessionLockedError, SessionTooLargeError
from ..types import MessageDoc
from .agent_state import AgentStateTracker
from .binding import AgentBinding, live_view
from .live_records import is_pinned
from .restore import OwnMessages, live_messages, restore_manager
from .writer import AgentHistory

if TYPE_CHECKING:
    from strands.types.agent import LocalAgent

__all__ = ["AgentBinder"]


class AgentBinder:
    """Makes the bindings of one session.

    Args:
        store: The store of its agents.
        session_id: The session.
        contents: The known contents of the session.
        prefetched: Agents that were read ahead, by id; None for one that the session does not hold yet.
        mend: Makes a restored history valid for a model.
        announce: Captures messages of a new agent in the application's own way; None if it has none.
        syncs_apart: Whether the state is captured by itself only.
        limits: How much of each agent's history waits, stays embedded, and goes out together.
    """

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
        limits: Limits = LIMITS,
    ) -> None:
        self._limits = limits
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
        """Return the agent's label in errors."""
        return agent_label(self._session_id, agent_id)

    def _read(self, agent_id: str) -> RestoredAgent | None:
        if self._contents.seems_new_agent(agent_id):
            return None
        return self._store.restore_agent(self._session_id, agent_id)

    def _start(self, agent: "LocalAgent") -> AgentBinding:
        """Store a new agent; if another process was faster, go on from the stored agent."""
        if self._announce is not None:
            return self._start_announced(agent)
        agent_id, at = agent.agent_id, now()
        tracker = AgentStateTracker(self.label(agent_id))
        _identify(agent.messages, self.label(agent_id))
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
                binding.capture_fields(left)  # the fields that fit come with the first message
            return binding
        found = self._restore(agent, self._store.restore_agent(self._session_id, agent_id))
        if found is None:
            raise MongoDBSessionError(
                f"{self.label(agent_id)} is damaged: what is stored under its name has no agent_data. Restore the "
                "session from a backup, or remove that field from the document."
            )
        return found

    def _start_fitting(self, write: AgentWrite) -> tuple[bool, Stored]:
        """Store a new agent; if it is too large, without its fields, which are returned then."""
        try:
            return self._store.start_agent(self._session_id, write), {}
        except SessionTooLargeError:
            left, write.data = write.data, {}
            return self._store.start_agent(self._session_id, write), left

    def _offload(self, agent_id: str, messages: list[MessageDoc]) -> tuple[int, Files]:
        size, files = 0, Files()
        for stored in messages:
            part, values = offload(stored, self._session_id, agent_id, stored["message_id"], self._limits)
            size, files = size + part, files | values
        return size, files

    def _start_later(self, agent: "LocalAgent") -> AgentBinding:
        """Bind a new agent without I/O; its first write creates it."""
        binding = self._bound(agent, AgentStateTracker(self.label(agent.agent_id)), None, [])
        binding.history.queue.expect(len(agent.messages))
        _identify(agent.messages, self.label(agent.agent_id))
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
        with Restoring(label, "state"):
            agent.state = AgentState(restored.agent.state)
        with Restoring(label, "_internal_state"):
            restored.agent.initialize_internal_state(agent)
        own = OwnMessages()
        if isinstance(agent, Agent):
            own = restore_manager(agent, restored, label)
            restored = self._recounted(agent, restored, own.removed)
        # A model that keeps the conversation on its own side gets no messages.
        if not (isinstance(agent, Agent) and agent.model.stateful):
            with Restoring(label, "messages"):
                agent.messages = live_messages(restored, own, self._mend)
        tracker = AgentStateTracker(label)
        tracker.adopt(agent, restored.data, rewrite=restored.guard.revision is None)
        binding = self._bound(agent, tracker, restored.guard, restored.messages)
        binding.begin(agent, own, restored.live)
        binding.set_document_size(restored.embedded_count, restored.embedded_bytes, restored.has_files)
        return binding

    def _recounted(self, agent: Agent, restored: RestoredAgent, removed: int) -> RestoredAgent:
        """Read again if no live set is stored and the conversation manager has come to another count."""
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
        history = AgentHistory(self._store, self._session_id, agent.agent_id, guard, messages, self._limits)
        return AgentBinding(agent, tracker, history, syncs_apart=self._syncs_apart)


def _identify(messages: list[Message], label: str) -> None:
    """Give messages the tracking id that the SDK would give them at the next prompt."""
    for number, message in enumerate(messages):
        about = f"{label}, message {number}"
        check_complete(message, about)
        check_calls(message, about)
        message.update(with_tracking_id(message))
