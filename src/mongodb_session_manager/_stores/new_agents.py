"""Creates agents with their first messages."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from .._schema.histories import MOST_AGENTS, AgentWrite, guard_of, new_agent_beside_update, new_agent_update
from .._schema.ids import agent_label
from .._schema.usage import moved_usage
from ..errors import MongoDBSessionError, SessionConflictError, UnstorableValueError
from ..types import LeaseDoc
from .agents import AgentReader
from .document_size import BUDGET_BYTES
from .large_values import LargeValues
from .operation import CONTENDED, Operations, operation
from .segments import MessageSegments, total_size

__all__ = ["NewAgents"]

# A lease may change hands between a try and the look after it.
_TRIES = 5


@dataclass(frozen=True)
class _AgentTail:
    """The result of a look at an agent that was to be created."""

    lease: LeaseDoc | None
    is_there: bool


class NewAgents:
    """Creates agents in one repository's sessions.

    Args:
        operations: Of the repository.
        segments: The messages in segments.
        values: Large values.
        reader: Reads one agent.
    """

    def __init__(
        self, operations: Operations, segments: MessageSegments, values: LargeValues, reader: AgentReader
    ) -> None:
        self._operations, self._segments, self._values, self._reader = operations, segments, values, reader

    def start(self, session_id: str, values: Mapping[str, bytes], write: AgentWrite) -> bool:
        """Create an agent; its messages' values are uploaded first, and removed if that stores nothing."""
        return self._values.ahead(session_id, values, lambda: self._start_whole(session_id, write))

    def _start_whole(self, session_id: str, write: AgentWrite) -> bool:
        """Create an agent in one write; with many messages, the older ones go to segments first."""
        if write.size <= BUDGET_BYTES:
            return self._start(session_id, write)
        with self._operations.lives.held(session_id):
            return self._start_in_parts(session_id, write)

    def _start_in_parts(self, session_id: str, write: AgentWrite) -> bool:
        with operation("store_segments", session_id, write.agent_id, len(write.appended)):
            moved, kept = self._segments.store(session_id, write.agent_id, write.appended)
        created = False
        try:
            size, usage = total_size(kept), moved_usage(write.appended[: len(write.appended) - len(kept)], kept)
            created = self._start(session_id, replace(write, appended=kept, moved=moved, moved_usage=usage, size=size))
        except MongoDBSessionError:
            self._segments.take_back(session_id, moved)
            raise
        if not created:
            self._segments.take_back(session_id, moved)
        return created

    def _start(self, session_id: str, write: AgentWrite) -> bool:
        seen: _AgentTail | None = None

        def look() -> _AgentTail | bool:
            nonlocal seen
            looked = self._look(session_id, write)
            seen = None if isinstance(looked, bool) else looked
            return looked

        created = self._operations.write_again(
            session_id, lambda tail: self._create(session_id, write, tail), look, tries=_TRIES
        )
        if not created and seen is not None and seen.lease is not None:
            raise SessionConflictError(session_id, write.agent_id, CONTENDED)
        return created

    def _look(self, session_id: str, write: AgentWrite) -> _AgentTail | bool:
        """Look for the agent; if it is stored, return whether this very write has stored it."""
        stored = self._reader.tail(session_id, write.agent_id)
        if stored.get("agent_data"):
            # After a lost answer, a retry of our own write finds the agent that the first try stored.
            return guard_of(stored).write_id == write.write_id
        if stored["agents"] >= MOST_AGENTS:
            raise UnstorableValueError(
                agent_label(session_id, write.agent_id),
                f"the session has {MOST_AGENTS} agents, which is the most that one has. Take another "
                "session_id for the conversations of new agents",
            )
        return _AgentTail(stored.get("lease"), stored["is_there"])

    def _create(self, session_id: str, write: AgentWrite, tail: _AgentTail | None) -> bool:
        shape = new_agent_beside_update if tail is not None and tail.is_there else new_agent_update
        with operation("create_agent", session_id, write.agent_id) as outcome:
            created = outcome.of(self._operations.update(session_id, shape(session_id, write)))
        if created:
            self._operations.sizes.grew(session_id, write.size)
        return created
