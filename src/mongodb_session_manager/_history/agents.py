"""The agents of one session that live in this process, each bound to its history."""

import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from .._schema.ids import agent_label, check_id
from .._stores.contents import SessionContents
from ..errors import MongoDBSessionError
from .binder import AgentBinder
from .binding import AgentBinding
from .writer import AgentHistory

if TYPE_CHECKING:
    from strands.types.agent import LocalAgent

__all__ = ["LiveAgents"]


class LiveAgents:
    """The bindings of one session, as long as its manager is open.

    Args:
        session_id: The session.
        binder: Makes the bindings.
        contents: What the session is known to hold.

    Attributes:
        by_id: The bindings by agent id; None for an agent that is just being bound.
        is_closed: Whether the manager is closed.
    """

    def __init__(self, session_id: str, binder: AgentBinder, contents: SessionContents) -> None:
        self._session_id, self._binder, self._contents = session_id, binder, contents
        self.by_id: dict[str, AgentBinding | None] = {}
        self.is_closed = False
        self._lock = threading.Lock()

    @property
    def known(self) -> set[str]:
        """The agents that the session surely holds, or is about to."""
        return self._contents.agent_ids

    # The manager is open, or closed

    def check_open(self) -> None:
        """Raise an error if the manager is closed."""
        if self.is_closed:
            raise MongoDBSessionError(
                f"The manager of session {self._session_id!r} is closed; make a new one to go on with the session."
            )

    def close(self) -> bool:
        """Take no more agents; False if it was closed already."""
        with self._lock:
            was_closed, self.is_closed = self.is_closed, True
            return not was_closed

    # Agents come

    def add(self, agent: "LocalAgent") -> None:
        """Bind an agent, restored or new; a bound one stays as it is.

        Raises:
            MongoDBSessionError: Another agent object has its id, or the manager is closed.
        """
        agent_id = check_id("agent_id", _agent_id(agent))
        if not self._reserve(agent_id, agent):
            return
        try:
            self.by_id[agent_id] = self._binder.bind(agent)
        except BaseException:
            del self.by_id[agent_id]
            raise

    def _reserve(self, agent_id: str, agent: "LocalAgent") -> bool:
        """Take an id for an agent; False if it is this agent's already."""
        with self._lock:
            bound = self.by_id.get(agent_id)
            if bound is not None and bound.agent() is agent:
                return False
            self.check_open()
            if agent_id in self.by_id and (bound is None or not bound.is_left()):
                raise self._in_use(agent_id)
            self.by_id[agent_id] = None
        if bound is not None:
            self._send_what_is_left(agent_id, bound)
        return True

    def _send_what_is_left(self, agent_id: str, bound: AgentBinding) -> None:
        """Send what a lost agent has left, so that its successor restores all that it said."""
        try:
            if bound.history.pending:
                bound.history.flush()
        except BaseException:
            self.by_id[agent_id] = bound
            raise

    def _in_use(self, agent_id: str) -> MongoDBSessionError:
        return MongoDBSessionError(
            f"Session {self._session_id!r} is in use by another agent object with agent_id {agent_id!r}. Give each "
            "agent of a session its own agent_id, or make a new manager for the new object. In a notebook, drop the "
            "former agent first (del agent)."
        )

    def prefetch(self, agent_ids: Iterable[str]) -> None:
        """Read agents ahead of ``add``; what is read of one that is bound would be old when it is bound again."""
        self.check_open()
        self._binder.prefetch(agent_id for agent_id in agent_ids if self.by_id.get(agent_id) is None)

    def store_new(self, agent_id: str | None = None) -> None:
        """Store one agent, or all, that would come with its first message only; the others cost nothing."""
        self.check_open()
        for binding in self.live():
            if agent_id in (None, binding.history.agent_id):
                binding.store_new()

    # Agents that are there

    def bound(self, agent: "LocalAgent") -> AgentBinding:
        """Return the binding of an agent.

        Raises:
            MongoDBSessionError: It is not bound here, or the manager is closed.
            TypeError: It is not an agent.
        """
        if self.is_closed:
            self.check_open()
        binding = self.by_id.get(agent.agent_id if hasattr(agent, "agent_id") else _agent_id(agent))
        if binding is None or binding.agent() is not agent:
            raise MongoDBSessionError(
                f"{agent_label(self._session_id, agent.agent_id)} is not bound to this manager. Pass "
                "session_manager=… when making the Agent, or call initialize(agent)."
            )
        return binding

    def live(self) -> list[AgentBinding]:
        """Return the bindings of all agents that are bound."""
        return [binding for binding in list(self.by_id.values()) if binding is not None]

    def unsent(self) -> list[AgentHistory]:
        """Return the histories with changes that are not acknowledged."""
        return [binding.history for binding in self.live() if binding.history.pending]

    @property
    def pending(self) -> int:
        """The number of changes that are not acknowledged."""
        return sum(binding.history.pending for binding in self.live())

    @property
    def at_work(self) -> bool:
        """Whether any of them is in an invocation, or in a call of one of its tools."""
        return any(binding.at_work for binding in self.live())

    @property
    def errors(self) -> list[str]:
        """The names of the latest writes' errors, and of the errors because of which fields are left out."""
        each = (binding.history.error or binding.left_out for binding in self.live())
        return [error if isinstance(error, str) else type(error).__name__ for error in each if error is not None]

    def check_flushed(self) -> None:
        """Raise what ended a history, or why fields of an agent are left out."""
        for binding in self.live():
            binding.history.check_open()
            binding.tell_outside()

    def invalidate(self, error: MongoDBSessionError) -> None:
        """Forget what is queued, and raise this from now on."""
        for binding in self.live():
            binding.history.invalidate(error)


def _agent_id(agent: object) -> Any:
    try:
        return agent.agent_id  # type: ignore[attr-defined]
    except AttributeError:
        raise TypeError(f"agent must be a strands.Agent, got {type(agent).__name__}") from None
