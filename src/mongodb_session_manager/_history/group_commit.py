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
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias
from weakref import WeakKeyDictionary

import pymongo
from pymongo.client_session import ClientSession
from pymongo.errors import NetworkTimeout, PyMongoError

from .._client.handle import ClientHandle
from .._client.off_loop import Answer, dropped, hand_over
from ..errors import MongoDBSessionError
from .writer import AgentHistory, Offer

__all__ = ["flush_behind", "flush_off_loop"]

logger = logging.getLogger(__name__)

# Who shares a command waits for all of it, and each part takes the server about 0.1 ms.
MOST_SHARED = 16
# Seconds. One session that is held up holds up no others longer than this, and then not for so long.
ATTEMPT_TIMEOUT = 0.5
PAUSE = 10.0

_Variables: TypeAlias = tuple[contextvars.ContextVar[Any], ...]


def _of_caller() -> _Variables | None:
    """Return where the driver keeps a caller's pymongo.timeout(), and a session that the caller has bound.

    Both are for the caller alone, and there is no public question for either; None where one is not to be found.
    """
    wanted = [(getattr(pymongo, "_csot", None), "TIMEOUT")]
    if hasattr(ClientSession, "bind"):  # not in each version
        wanted.append((sys.modules[ClientSession.__module__], "_SESSION"))
    found = [getattr(module, name, None) for module, name in wanted]
    variables = tuple(variable for variable in found if isinstance(variable, contextvars.ContextVar))
    return variables if len(variables) == len(wanted) else None


# Without it nothing is shared.
_OF_CALLER: Final = _of_caller()


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
        return _OF_CALLER is not None and all(self.context.get(variable) is None for variable in _OF_CALLER)

    def send(self, timeout: float | None) -> None:
        self.context.run(self._send, timeout)

    def _send(self, timeout: float | None) -> None:
        with nullcontext() if timeout is None else pymongo.timeout(timeout):
            if self.answer is None:
                self.history.flush_behind()
            else:
                self.history.flush()


_Line: TypeAlias = list[_Waiting]


async def flush_off_loop(handle: ClientHandle, history: AgentHistory, longest: float | None = None) -> None:
    """Send everything that is queued in a history, on the client's threads; a cancelled caller does not tear it.

    Args:
        handle: The client.
        history: The history.
        longest: Seconds to wait; what is under way then goes on behind. None for as long as it takes.

    Raises:
        NetworkTimeout: It takes longer.
        Exception: What ``AgentHistory.flush`` raises.
    """
    loop = asyncio.get_running_loop()
    answer: Answer = loop.create_future()
    _join(handle, history.namespace, _Waiting(history, answer))
    patience = None if longest is None else loop.call_later(longest, _give_up, answer, history, longest)
    try:
        await answer
    finally:
        if patience is not None:
            patience.cancel()


def _give_up(answer: Answer, history: AgentHistory, waited: float) -> None:
    if not answer.done():
        error = NetworkTimeout(f"no answer within {waited:g} s")
        history.hold(type(error).__name__)
        answer.set_exception(error)


def flush_behind(handle: ClientHandle, history: AgentHistory) -> None:
    """Do what ``AgentHistory.flush_behind`` does, on the client's threads; nobody is told what came of it."""
    _join(handle, f"{history.namespace}, behind", _Waiting(history, context=contextvars.Context()))


class _Group:
    """Those who have something to send to one collection.

    Args:
        timeout: Seconds that the client gives an operation, if it limits them.
        patience: Seconds that it waits for anything.
    """

    def __init__(self, timeout: float | None, patience: float) -> None:
        self._timeout = timeout
        # Something is left of the time to send alone.
        self._attempt_timeout = min(ATTEMPT_TIMEOUT, patience / 2)
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
        if not called:
            try:
                _submit(executor, functools.partial(self._send, executor), self._dismiss)
            except RuntimeError:
                self._dismiss()

    def _dismiss(self) -> None:
        _drop(self._take(None)[0])

    def _take(self, most: int | None) -> tuple[_Line, bool]:
        """Take some from the line, or all, and tell whether there are more, for whom a thread is to be called."""
        with self._lock:
            line = self._line[:most]
            self._line = self._line[len(line) :]
            more = self._called = bool(self._line)
        return line, more

    # On a thread of the client

    def _send(self, executor: Executor) -> None:
        line, more = self._take(MOST_SHARED)
        with _Helpers(executor) as helpers:
            if more:
                helpers.run(functools.partial(self._send, executor), self._dismiss)
            try:
                self._send_line(helpers, line)
            except Exception as error:
                _tell((waiting, MongoDBSessionError(f"Not sent: {type(error).__name__}")) for waiting in line)
                raise

    def _send_line(self, helpers: "_Helpers", line: _Line) -> None:
        started = time.monotonic()
        shared = _by_history(waiting for waiting in line if waiting.may_share)
        offers = self._offers(shared)
        alone = [[waiting] for waiting in line if not waiting.may_share]
        alone += [waiting for history, waiting in shared.items() if history not in offers]
        here = alone.pop() if alone and not offers else None
        for others in alone:
            helpers.run(functools.partial(_send_alone, others), functools.partial(_drop, others))
        if here:
            _send_alone(here)
        elif not self._send_together(offers, shared):
            self._send_each(helpers, [shared[history] for history in offers], started)

    def _send_each(self, helpers: "_Helpers", lines: Sequence[_Line], started: float) -> None:
        """Send those whom an attempt left, in what is left of the time."""
        timeout = self._timeout and max(self._timeout - (time.monotonic() - started), 0.001)
        for line in lines[1:]:
            helpers.run(functools.partial(_send_alone, line, timeout), functools.partial(_drop, line))
        _send_alone(lines[0], timeout)

    def _offers(self, shared: Mapping[AgentHistory, _Line]) -> dict[AgentHistory, Offer]:
        if len(shared) < 2 or time.monotonic() < self._sharing_from:
            return {}
        offers = {history: offer for history in shared if (offer := history.offer()) is not None}
        if len(offers) == 1:
            for history, offer in offers.items():
                history.withdraw(offer)
            return {}
        return offers

    def _send_together(self, offers: Mapping[AgentHistory, Offer], shared: Mapping[AgentHistory, _Line]) -> bool:
        if not offers:
            return True
        arrived = False
        try:
            arrived = contextvars.Context().run(self._attempt, list(offers.values()))
        finally:
            errors = {history: history.conclude(offer, arrived) for history, offer in offers.items()}
        if arrived:
            _tell((waiting, error) for history, error in errors.items() for waiting in shared[history])
        return arrived

    def _attempt(self, offers: Sequence[Offer]) -> bool:
        """Tell whether all went through; if not, some of them may have."""
        started, failed = time.monotonic(), False
        try:
            with pymongo.timeout(self._attempt_timeout):
                return offers[0].repository.write_together([offer.prepared for offer in offers])
        except Exception as error:  # noqa: BLE001 - it is told to whom it is about, when that is alone
            logger.debug("writes=<%d>, error=<%s> | not all of a group went through", len(offers), type(error).__name__)
            failed = isinstance(error, PyMongoError)
            return False
        finally:
            if failed or time.monotonic() - started > self._attempt_timeout:
                self._sharing_from = time.monotonic() + PAUSE


# By threads and collection. After a fork, and after the last user of a client has left, there are other threads.
_groups: "WeakKeyDictionary[Executor, dict[str, _Group]]" = WeakKeyDictionary()


def _join(handle: ClientHandle, name: str, waiting: _Waiting) -> None:
    executor = handle.executor
    groups = _groups.get(executor)
    if groups is None:
        groups = _groups.setdefault(executor, {})
    group = groups.get(name) or groups.setdefault(name, _Group(handle.timeout, handle.shortest_timeout))
    group.join(executor, waiting)


def _by_history(line: Iterable[_Waiting]) -> dict[AgentHistory, _Line]:
    lines: dict[AgentHistory, _Line] = {}
    for waiting in line:
        lines.setdefault(waiting.history, []).append(waiting)
    return lines


class _Helpers:
    """Threads that work at the same time: the client's, and where those take nothing any more, some of our own.

    These are waited for, since closing waits for the one that they help.
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._own: list[threading.Thread] = []

    def __enter__(self) -> "_Helpers":
        return self

    def __exit__(self, *exc: object) -> None:
        for thread in self._own:
            thread.join()

    def run(self, work: Callable[[], None], give_up: Callable[[], None]) -> None:
        """Have something done, or give up where there can be no thread: what is pending is sent when all ends."""
        try:
            _submit(self._executor, work, give_up)
        except RuntimeError:
            try:
                thread = threading.Thread(target=work)
                thread.start()
                self._own.append(thread)
            except RuntimeError:
                give_up()


def _submit(executor: Executor, work: Callable[[], None], give_up: Callable[[], None]) -> None:
    def check(sent: "Future[None]") -> None:
        if sent.cancelled():
            give_up()

    executor.submit(work).add_done_callback(check)


def _send_alone(line: _Line, timeout: float | None = None) -> None:
    error: BaseException | None = None
    try:
        line[0].send(timeout)
    except BaseException as caught:  # noqa: BLE001 - it is raised where somebody waits
        error = caught
    _tell((waiting, error) for waiting in line)


def _drop(line: _Line) -> None:
    _tell((waiting, dropped()) for waiting in line)


def _tell(told: Iterable[tuple[_Waiting, BaseException | None]]) -> None:
    hand_over([(waiting.answer, (None, error)) for waiting, error in told if waiting.answer is not None])
