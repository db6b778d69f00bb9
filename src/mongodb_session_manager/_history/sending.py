"""When the histories of one session go out, as its durability says."""

import functools
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Final, Protocol

import pymongo
from pymongo.errors import InvalidOperation
from strands import Agent

from .._client.failures import Failures
from .._client.handle import ClientHandle
from .._client.off_loop import Steps
from .._client.outage import Sender
from .._schema.limits import LIMITS, Limits
from ..types import Durability
from .agents import LiveAgents
from .binding import AgentBinding
from .group_commit import begin_flush, flush_off_loop, send_behind
from .writer import AgentHistory

if TYPE_CHECKING:
    from strands.types.agent import LocalAgent

__all__ = ["Sending", "States"]

# Seconds that a conversation waits for the server before it goes on without it.
LONGEST_WAIT: Final = 10.0


class States(Protocol):
    """The states of Graphs and Swarms, which a session has to send too."""

    @property
    def writers(self) -> Sequence[Sender]:
        """The senders of states."""

    @property
    def unsent(self) -> Sequence[Sender]:
        """The senders with a state that waits."""

    @property
    def pending(self) -> int:
        """The number of states that wait."""


class Sending:
    """Sends captured changes, off the event loop.

    Args:
        handle: The client.
        agents: The agents of the histories.
        states: States to be sent too.
        failures: Handles failed writes.
        durability: Says when they are sent.
        limits: How long closing takes.
    """

    def __init__(
        self,
        handle: ClientHandle,
        agents: LiveAgents,
        states: States,
        failures: Failures,
        durability: Durability,
        limits: Limits = LIMITS,
    ) -> None:
        self._handle, self._agents, self._states = handle, agents, states
        self._failures, self._durability, self._limits = failures, durability, limits

    # One history

    def as_agreed(self, binding: AgentBinding, agent: "LocalAgent") -> Awaitable[None] | None:
        """Send, or leave it to the end of the invocation; a message outside of one is sent at once.

        Returns:
            An awaitable; None if the caller does not wait.
        """
        ends_later = binding.invoked or not isinstance(agent, Agent)
        if self._durability == "sync" or not ends_later:
            return self.flush(binding)
        history = binding.history
        is_due = self._durability == "async" or history.pending >= history.queue.limits.pending // 2
        # A failure is raised by the flush at the end of the invocation.
        if is_due and not self._failures.holds(history):
            send_behind(self._handle, history)
        return None

    def flush(self, binding: AgentBinding, *, ends: bool = False) -> Awaitable[None] | None:
        """Send all that is queued.

        Args:
            binding: The agent.
            ends: Whether its invocation ends.

        Returns:
            An awaitable; None if nothing is queued.
        """
        queue = binding.history.queue
        if queue.ended is not None:
            queue.check_open()
        if not queue.changes:
            return None
        if self._failures.are_tolerated:
            return self._flush_tolerantly(binding.history, ends)
        return begin_flush(self._handle, binding.history)

    async def _flush_tolerantly(self, history: AgentHistory, ends: bool) -> None:
        if not await self._failures.holds_back(history, patiently=ends):
            with self._failures.tolerated(history):
                await flush_off_loop(self._handle, history, LONGEST_WAIT)

    def send_left(self, history: AgentHistory) -> "Future[None] | None":
        """Send a moved window in the background; None if it is not sent.

        By now ``close()``, or the next message, may have taken it along.
        """
        if not history.pending or self._agents.is_closed or self._failures.holds(history):
            return None
        try:
            sent = self._handle.executor.submit(history.send_behind)
        except (InvalidOperation, RuntimeError) as error:  # the client was closed
            self._failures.log(error)
            return None
        sent.add_done_callback(self._log_failure)
        return sent

    def _log_failure(self, sent: "Future[None]") -> None:
        if not sent.cancelled() and (error := sent.exception()) is not None:
            (self._failures.log_unstored if self._agents.is_closed else self._failures.log)(error)

    # All of them

    def all(self) -> "list[Future[None]]":
        """Send all that waits."""
        return self._all(self._agents.unsent(), AgentHistory.flush)

    def _all(self, histories: Iterable[AgentHistory], send: Callable[[AgentHistory], None]) -> "list[Future[None]]":
        calls = [functools.partial(send, history) for history in histories]
        calls += [functools.partial(self._send_state, writer) for writer in self._states.unsent]
        return self._handle.call_each(calls)

    def _send_state(self, writer: Sender) -> None:
        with pymongo.timeout(self._limits.close_timeout):
            writer.send_if_idle()

    def check_flushed(self, sent: "Sequence[Future[None]]") -> None:
        """Raise what failed, what ended a history, or why fields of an agent are left out.

        Raises:
            TimeoutError: Not all was acknowledged in time.
        """
        self._check_sent(sent)
        self._agents.check_flushed()

    def _check_sent(self, sent: "Sequence[Future[None]]") -> None:
        done = [future for future in sent if future.done()]
        for future in done:
            future.result()
        if len(done) < len(sent):
            raise TimeoutError(
                f"{self._failures.pending} changes of session {self._failures.session_id!r} are not stored yet"
            )

    def leave_windows(self, leave: "Callable[[Future[None]], None]") -> list[AgentHistory]:
        """Leave moved windows to the client's threads, and return the histories that have nothing else to send.

        Args:
            leave: Is given the future of each write.
        """
        left = [history for history in self._agents.unsent() if history.has_only_window_state]
        for history in left:
            sent = self.send_left(history)
            if sent is not None:
                leave(sent)
        return left

    def last(self, left: Collection[AgentHistory], deadline: float) -> Steps:
        """Send all that waits for the last time; failures are logged.

        Args:
            left: Histories whose moved windows are left to the client's threads.
            deadline: The latest time, by the monotonic clock.
        """
        unsent = self._agents.unsent()
        waiting = [history for history in unsent if not (history in left and history.has_only_window_state)]
        until = functools.partial(AgentHistory.send_until, deadline=deadline)
        try:
            sent = self._all(waiting, until if self._failures.are_tolerated else AgentHistory.flush)
            yield sent, max(deadline - time.monotonic(), 0.0)
            self._check_sent(sent)
        except Exception as error:  # noqa: BLE001 - closing must not keep the client
            self._failures.log_unstored(error)
        for writer in self._states.writers:
            self._failures.forget(writer)
        for binding in self._agents.live():
            self._failures.forget(binding.history)
            binding.history.unregister()
            if binding.left_out is not None:
                self._failures.log_unstored(binding.left_out)
