"""The Graphs and Swarms of one session: when their states are stored, and how they are restored."""

import functools
import sys
import weakref
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from strands.hooks.events import (
    AfterMultiAgentInvocationEvent,
    AfterNodeCallEvent,
    MultiAgentInitializedEvent,
)

from .._client.failures import Failures
from .._schema.multi_agents import MultiAgentState, StoredState, capture_multi_agent, restore_multi_agent
from .._stores.contents import SessionContents
from .._stores.stores import Stores
from ..errors import SessionConflictError, SessionLockedError
from .multi_agent_writer import MultiAgentWriter

if TYPE_CHECKING:
    from strands.multiagent.base import MultiAgentBase

__all__ = ["MultiAgents"]


class MultiAgents:
    """Stores the states of Graphs and Swarms.

    Args:
        session_id: The session.
        stores: The stores of the session.
        contents: The known content of the session.
        failures: Handles writes that fail.
        off_loop: Runs a blocking call off the event loop.
        steps: Whether a state is stored after each node; otherwise only at the end.
    """

    def __init__(
        self,
        session_id: str,
        stores: Stores,
        contents: SessionContents,
        failures: Failures,
        off_loop: Callable[[Callable[[], Any]], Awaitable[Any]],
        *,
        steps: bool,
    ) -> None:
        self._session_id, self._stores, self._contents = session_id, stores, contents
        self._failures, self._off_loop, self._steps = failures, off_loop, steps
        self._writers: dict[str, MultiAgentWriter] = {}
        # The running ones, by id, and for those that end the event on which callbacks of others still work.
        self._running: dict[str, Callable[[], object]] = {}

    @property
    def is_running(self) -> bool:
        """Whether any of them runs."""
        return any(at_work() is not None for at_work in [*self._running.values()])

    @property
    def writers(self) -> list[MultiAgentWriter]:
        """The writers of their states."""
        return list(self._writers.values())

    @property
    def unsent(self) -> list[MultiAgentWriter]:
        """The writers with a state that waits to be stored."""
        return [writer for writer in self.writers if writer.pending]

    @property
    def pending(self) -> int:
        """The number of states that wait to be stored."""
        return len(self.unsent)

    # Restored, or stored as new

    def restore(self, source: "MultiAgentBase") -> None:
        """Restore a Graph or Swarm, or store it as new."""
        stored = self._stored(capture_multi_agent(self._session_id, source))
        if stored is not None:
            restore_multi_agent(self._session_id, source, stored)

    async def on_initialized(self, event: MultiAgentInitializedEvent) -> None:
        """Do what ``restore`` does, off the event loop."""
        state = capture_multi_agent(self._session_id, event.source)
        stored = await self._off_loop(functools.partial(self._stored, state))
        if stored is not None:
            restore_multi_agent(self._session_id, event.source, stored)

    def _stored(self, state: MultiAgentState) -> StoredState | None:
        """Return the stored state; if there is none, store the given one and return None."""
        store, multi_agent_id = self._stores.multi_agents, state.multi_agent_id
        if not self._contents.seems_new_multi_agent(multi_agent_id):
            stored = store.read_multi_agent(self._session_id, multi_agent_id)
            if stored is not None:
                return stored
        self._contents.add_multi_agent(multi_agent_id)
        try:
            store.write_multi_agent(self._session_id, multi_agent_id, state, create=True)
        except SessionLockedError:
            raise
        except SessionConflictError:  # another process was faster
            return store.read_multi_agent(self._session_id, multi_agent_id)
        return None

    # Running

    def begin(self, source: "MultiAgentBase") -> None:
        """Note that a Graph or Swarm runs."""
        self._running[source.id] = _at_work
        self._writer(source).begin()

    async def on_step(self, event: AfterNodeCallEvent) -> None:
        """Store its state after a node."""
        if not self._steps:
            return
        writer = self._writer(event.source)
        try:
            await self._write(writer, writer.capture(event.source, ends=False))
        except Exception as error:
            writer.failure = error
            raise

    async def on_ending(self, event: AfterMultiAgentInvocationEvent) -> None:
        """Store its state when it ends, before the callbacks of others, any of which may raise."""
        self._running[event.source.id] = weakref.ref(event)
        writer = self._writer(event.source)
        if writer.failure is None:
            try:
                await self._write(writer, writer.capture(event.source, ends=True, may_change=_has_others(event)))
            except Exception as error:  # noqa: BLE001 - told at the end, when the others have had their turn
                writer.failure, writer.has_failed_at_end = error, True

    async def on_end(self, event: AfterMultiAgentInvocationEvent) -> None:
        """Store what the callbacks of others have changed in it, and tell what failed."""
        self._running.pop(event.source.id, None)
        writer = self._writer(event.source)
        if writer.failure is None:
            await self._write(writer, writer.capture_changed(event.source))
        elif writer.has_failed_at_end or sys.exc_info()[1] is None:  # a Swarm has kept it to itself
            raise writer.failure

    def _writer(self, source: "MultiAgentBase") -> MultiAgentWriter:
        writer = MultiAgentWriter(self._stores.multi_agents, self._session_id)
        return self._writers.setdefault(source.id, writer)

    async def _write(self, writer: MultiAgentWriter, write: "functools.partial[None] | None") -> None:
        if write is None:
            return
        if self._failures.are_tolerated:
            writer.keep(write)  # as long as it is not stored
        if not await self._failures.holds_back(writer):
            with self._failures.tolerated(writer):
                await self._off_loop(write)


def _at_work() -> object:
    return True


def _has_others(event: AfterMultiAgentInvocationEvent) -> bool:
    """Tell whether an event has other callbacks than our two."""
    hooks = getattr(event.source, "hooks", None)
    return hooks is None or len([*hooks.get_callbacks_for(event)]) > 2
