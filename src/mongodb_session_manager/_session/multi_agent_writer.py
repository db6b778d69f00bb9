"""Stores the states of one Graph or Swarm while it runs."""

import functools
import itertools
import threading
from typing import TYPE_CHECKING

from pymongo.errors import PyMongoError

from .._schema.multi_agents import MultiAgentState, capture_multi_agent
from .._stores.multi_agents import MultiAgentStore

if TYPE_CHECKING:
    from strands.multiagent.base import MultiAgentBase


class MultiAgentWriter:
    """Stores the states of one Graph or Swarm; an older state never replaces a newer one.

    Args:
        store: The store of these states.
        session_id: The session.

    Attributes:
        failure: The error at a step of the present invocation. The SDK takes it for a failure of the node: the state
            that it has then must not replace the stored one, from which a run can continue.
        has_failed_at_end: Whether it is the error at the end of the invocation instead, of which the SDK knows nothing.
    """

    def __init__(self, store: MultiAgentStore, session_id: str) -> None:
        self.failure: Exception | None = None
        self.has_failed_at_end = False
        self._store, self._session_id = store, session_id
        self._lock = threading.Lock()
        self._stamps = itertools.count(1)
        self._written = 0
        # The latest state that could not be stored, if the run goes on all the same.
        self._held: functools.partial[None] | None = None
        self.error: str | None = None
        # The state with which the run has ended, while others may still change it.
        self._ended: MultiAgentState | None = None

    def begin(self) -> None:
        """Forget the former run."""
        self.failure = self._ended = None
        self.has_failed_at_end = False

    @property
    def pending(self) -> int:
        """The number of states that wait to be stored: 0 or 1."""
        return int(self._held is not None)

    def keep(self, write: "functools.partial[None]") -> None:
        """Have a state stored later, instead of one that waits already."""
        self._held = write

    def hold(self, error: str) -> None:
        """Take over the name of the error because of which nothing is stored for now."""
        self.error = error

    def send_if_idle(self) -> None:
        """Store the state that waits."""
        held = self._held
        try:
            if held is not None:
                held()
        except PyMongoError:
            raise
        except Exception:  # it can never be stored; the next step raises the error
            self._forget(held)
            raise

    def _forget(self, done: "functools.partial[None] | None") -> None:
        if self._held is done:
            self._held = None

    def capture(
        self, source: "MultiAgentBase", *, ends: bool, may_change: bool = False
    ) -> "functools.partial[None] | None":
        """Return a function that writes the present state; None if a run can continue only from the stored one.

        From an interrupt to the end of the run that its answer starts, the SDK's state does not tell the next nodes.

        Args:
            source: The Graph or Swarm.
            ends: Whether the run ends.
            may_change: Whether ``capture_changed`` follows.
        """
        stamp, state = next(self._stamps), capture_multi_agent(self._session_id, source)
        self._ended = state if may_change else None
        if state.is_activated and not (ends and state.waits):
            return None
        return functools.partial(self._write, stamp, state)

    def capture_changed(self, source: "MultiAgentBase") -> "functools.partial[None] | None":
        """Return a function that writes the state with which the run ended; None if that has not changed since."""
        ended = self._ended
        if ended is None:
            return None
        write = self.capture(source, ends=True, may_change=True)
        is_same, self._ended = self._ended == ended, None
        return None if is_same else write

    def _write(self, stamp: int, state: MultiAgentState) -> None:
        with self._lock:
            if stamp > self._written:
                self._store.write_multi_agent(self._session_id, state.multi_agent_id, state)
                self._written = stamp
                self.error = None
        held = self._held
        if held is not None and held.args[0] <= self._written:
            self._forget(held)
