"""Group commit: what several histories have to send at one moment goes out in one command.

Under load a thread that is to send waits for its share of the interpreter. By the time that it gets on, others have
something to send too, and one command costs little more than each of theirs would. Who is alone sends by itself.

A shared command is an attempt. Either it goes through for all, soon, or each of them sends by itself: then its guard
tells what of its own has arrived, and each has its own time limits and gets its own error.
"""

import asyncio
import contextvars
import functools
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import TypeAlias
from weakref import WeakKeyDictionary

import pymongo
from pymongo.errors import PyMongoError

from ._client import ClientHandle
from ._off_loop import Answer, dropped, hand_over
from ._writer import AgentHistory, Offer

__all__ = ["flush_behind", "flush_off_loop"]

logger = logging.getLogger(__name__)

# Who shares a command waits for all of it, and each part takes the server about 0.1 ms.
MOST_SHARED = 16
# Seconds. One session that is held up holds up no others longer than this, and those only once in so long.
ATTEMPT_TIMEOUT = 1.0
PAUSE = 10.0

# The driver's context variables for pymongo.timeout() and a bound session with its transaction: what they hold is for
# the caller alone. There is no public question for either.
_OF_CALLER = frozenset({"TIMEOUT", "SESSION"})


@dataclass(eq=False)
class _Waiting:
    """Somebody who has a history sent.

    Attributes:
        history: The history.
        answer: What the caller waits for; None where nobody waits.
        context: The caller's.
    """

    history: AgentHistory
    answer: "Answer | None" = None
    context: contextvars.Context = field(default_factory=contextvars.copy_context)

    @property
    def may_share(self) -> bool:
        return not any(variable.name in _OF_CALLER and value is not None for variable, value in self.context.items())

    def send(self) -> None:
        self.context.run(self.history.flush_behind if self.answer is None else self.history.flush)


_Line: TypeAlias = list[_Waiting]


async def flush_off_loop(handle: ClientHandle, history: AgentHistory) -> None:
    """Send everything that is queued in a history, on the client's threads; a cancelled caller does not tear it.

    Raises:
        Exception: What ``AgentHistory.flush`` raises.
    """
    answer: Answer = asyncio.get_running_loop().create_future()
    _group(handle, history.namespace).join(handle.executor, _Waiting(history, answer))
    await answer


def flush_behind(handle: ClientHandle, history: AgentHistory) -> None:
    """Do what ``AgentHistory.flush_behind`` does, on the client's threads; nobody is told what came of it."""
    waiting = _Waiting(history, context=contextvars.Context())
    _group(handle, f"{history.namespace}, behind").join(handle.executor, waiting)


class _Group:
    """Those who have something to send to one collection.

    Args:
        timeout: Seconds that an attempt to send them together may take.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._lock = threading.Lock()
        self._line: _Line = []
        # Whether a thread is on its way to those in the line.
        self._called = False
        # When they may share again.
        self._sharing_from = 0.0

    def join(self, executor: Executor, waiting: _Waiting) -> None:
        with self._lock:
            self._line.append(waiting)
            called, self._called = self._called, True
        if not called and not self._call(executor):
            self._dismiss()

    def _call(self, executor: Executor) -> bool:
        return _run(executor, functools.partial(self._send, executor), self._dismiss)

    def _dismiss(self) -> None:
        with self._lock:
            line, self._line, self._called = self._line, [], False
        _tell(line, dropped())

    # On a thread of the client

    def _send(self, executor: Executor) -> None:
        others_wait = True
        while others_wait:
            with self._lock:
                line, self._line = self._line[:MOST_SHARED], self._line[MOST_SHARED:]
                others_wait = self._called = bool(self._line)
            if others_wait and self._call(executor):
                others_wait = False
            try:
                self._send_line(executor, line)
            except BaseException as error:  # noqa: BLE001 - nobody is to wait for ever
                _tell(line, error)

    def _send_line(self, executor: Executor, line: _Line) -> None:
        shared = _by_history(waiting for waiting in line if waiting.may_share)
        offers = self._offers(shared)
        alone = [[waiting] for waiting in line if not waiting.may_share]
        alone += [waiting for history, waiting in shared.items() if history not in offers]
        here = [alone.pop()] if alone and not offers else []
        here += [others for others in alone if not _call_for(executor, others)]
        if not self._send_together(offers, shared):
            here += [shared[history] for history in offers if not _call_for(executor, shared[history])]
        # Not while anything is offered: who is alone may have to wait for another thread, and that one for us.
        for others in here:
            _send_alone(others)

    def _offers(self, shared: Mapping[AgentHistory, _Line]) -> dict[AgentHistory, Offer]:
        if len(shared) < 2 or time.monotonic() < self._sharing_from:
            return {}
        return {history: offer for history in shared if (offer := history.offer()) is not None}

    def _send_together(self, offers: Mapping[AgentHistory, Offer], shared: Mapping[AgentHistory, _Line]) -> bool:
        if not offers:
            return True
        arrived = False
        try:
            arrived = contextvars.Context().run(self._commit, list(offers.values()))
        finally:
            concluded = {history: history.conclude(offer, arrived) for history, offer in offers.items()}
        if arrived:
            _tell_all((waiting, error) for history, error in concluded.items() for waiting in shared[history])
        return arrived

    def _commit(self, offers: Sequence[Offer]) -> bool:
        """Tell whether all went through; if not, some of them may have."""
        try:
            with pymongo.timeout(self._timeout):
                return offers[0].repository.write_together([offer.prepared for offer in offers])
        except Exception as error:  # noqa: BLE001 - it is told to whom it is about, when that is alone
            if isinstance(error, PyMongoError) and error.timeout:
                self._sharing_from = time.monotonic() + PAUSE
            logger.debug("writes=<%d>, error=<%s> | not all of a group went through", len(offers), type(error).__name__)
            return False


# By threads and collection. After a fork, and after the last user of a client has left, there are other threads.
_groups: "WeakKeyDictionary[Executor, dict[str, _Group]]" = WeakKeyDictionary()


def _group(handle: ClientHandle, name: str) -> _Group:
    executor = handle.executor
    groups = _groups.get(executor)
    if groups is None:
        groups = _groups.setdefault(executor, {})
    found = groups.get(name)
    # Of what the client gives an operation, half is left to who is alone afterwards.
    return found or groups.setdefault(name, _Group(min(ATTEMPT_TIMEOUT, (handle.timeout or 60.0) / 2)))


def _by_history(line: Iterable[_Waiting]) -> dict[AgentHistory, _Line]:
    lines: dict[AgentHistory, _Line] = {}
    for waiting in line:
        lines.setdefault(waiting.history, []).append(waiting)
    return lines


def _call_for(executor: Executor, line: _Line) -> bool:
    return _run(executor, functools.partial(_send_alone, line), lambda: _tell(line, dropped()))


def _run(executor: Executor, work: Callable[[], None], give_up: Callable[[], None]) -> bool:
    """Have a thread do something, or give up if that is cancelled; False where no thread takes anything any more."""

    def check(sent: "Future[None]") -> None:
        if sent.cancelled():
            give_up()

    try:
        executor.submit(work).add_done_callback(check)
    except RuntimeError:
        return False
    return True


def _send_alone(line: _Line) -> None:
    error: BaseException | None = None
    try:
        line[0].send()
    except BaseException as caught:  # noqa: BLE001 - it is raised where somebody waits
        error = caught
    _tell(line, error)


def _tell(line: _Line, error: BaseException | None) -> None:
    _tell_all((waiting, error) for waiting in line)


def _tell_all(told: Iterable[tuple[_Waiting, BaseException | None]]) -> None:
    hand_over([(waiting.answer, (None, error)) for waiting, error in told if waiting.answer is not None])
