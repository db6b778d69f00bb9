"""Group commit: what several histories have to send at one moment goes out in one command.

Under load a thread that is to send waits for its share of the interpreter. By the time that it gets on, other histories
have something to send too, and one command costs little more than each of theirs would. A history that is alone is sent
by itself.

A shared command is an attempt. Either it goes through for all, soon, or each history is sent by itself: then its guard
tells what of it has arrived, and each has its own time limits and gets its own error.
"""

import asyncio
import contextvars
import functools
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import TypeAlias
from weakref import WeakKeyDictionary

import pymongo
from pymongo.errors import NetworkTimeout, PyMongoError

from .._client.caller import may_share
from .._client.handle import ClientHandle
from .._client.line import Line, submit
from .._client.off_loop import Answer, dropped, hand_over
from .._schema.limits import Limits
from ..errors import MongoDBSessionError
from .claim import Claim
from .writer import AgentHistory

__all__ = ["begin_flush", "flush_off_loop", "send_behind"]

logger = logging.getLogger(__name__)

# Seconds without shared commands after one that was held up.
PAUSE = 10.0


@dataclass(eq=False)
class _Request:
    """A history that is to be sent.

    Attributes:
        history: The history.
        answer: The future that the caller awaits; None if no caller waits.
        context: The caller's.
    """

    history: AgentHistory
    answer: "Answer | None" = None
    context: contextvars.Context = field(default_factory=contextvars.copy_context)

    @property
    def may_share(self) -> bool:
        return may_share(self.context)

    def send(self, timeout: float | None) -> None:
        with nullcontext() if timeout is None else pymongo.timeout(timeout):
            if self.answer is None:
                self.history.send_behind()
            else:
                self.history.flush()


_Batch: TypeAlias = list[_Request]


def begin_flush(handle: ClientHandle, history: AgentHistory) -> Answer:
    """Send everything that is queued in a history, on the client's threads.

    Returns:
        A future to await; it raises what ``AgentHistory.flush`` raises. A cancelled caller does not tear the write.
    """
    answer: Answer = asyncio.get_running_loop().create_future()
    _join(handle, history.namespace, _Request(history, answer))
    return answer


async def flush_off_loop(handle: ClientHandle, history: AgentHistory, longest: float) -> None:
    """Do what ``begin_flush`` does, and wait no longer than so many seconds; what is under way then goes on behind.

    Raises:
        NetworkTimeout: It takes longer.
        Exception: What ``AgentHistory.flush`` raises.
    """
    answer = begin_flush(handle, history)
    timer = asyncio.get_running_loop().call_later(longest, _give_up, answer, history, longest)
    try:
        await answer
    finally:
        timer.cancel()


def _give_up(answer: Answer, history: AgentHistory, waited: float) -> None:
    if not answer.done():
        error = NetworkTimeout(f"no answer within {waited:g} s")
        history.hold(type(error).__name__)
        answer.set_exception(error)


def send_behind(handle: ClientHandle, history: AgentHistory) -> None:
    """Do what ``AgentHistory.send_behind`` does, on the client's threads; no caller learns the outcome."""
    _join(handle, f"{history.namespace}, behind", _Request(history, context=contextvars.Context()))


class _Group:
    """The histories with something to send to one collection.

    Args:
        timeout: Seconds that the client gives an operation, if it limits them.
        shortest_timeout: Seconds that it waits for anything.
        limits: How many share a command, and for how long.
    """

    def __init__(self, timeout: float | None, shortest_timeout: float, limits: Limits) -> None:
        self._timeout = timeout
        # Something is left of the time to send alone.
        self._attempt_timeout = min(limits.attempt_timeout, shortest_timeout / 2)
        self._line: Line[_Request] = Line(limits.most_shared)
        # When they may share a command again.
        self._sharing_from = 0.0

    def join(self, executor: Executor, request: _Request) -> None:
        self._line.join(executor, request, functools.partial(self._send, executor), _cancel)

    # On a thread of the client

    def _send(self, executor: Executor, batch: _Batch, more: bool) -> None:
        if len(batch) == 1 and not more:
            _send_alone(batch)
            return
        with _Helpers(executor) as helpers:
            if more:
                work = functools.partial(self._line.work, functools.partial(self._send, executor))
                helpers.run(work, functools.partial(self._line.dismiss, _cancel))
            try:
                self._send_batch(helpers, batch)
            except Exception as error:
                _resolve((request, MongoDBSessionError(f"Not sent: {type(error).__name__}")) for request in batch)
                raise

    def _send_batch(self, helpers: "_Helpers", batch: _Batch) -> None:
        if len(batch) == 1:
            _send_alone(batch)
            return
        started = time.monotonic()
        shared = _by_history(request for request in batch if request.may_share)
        with ExitStack() as claiming:
            claims = self._claims(claiming, shared)
            alone = [[request] for request in batch if not request.may_share]
            alone += [requests for history, requests in shared.items() if history not in claims]
            here = alone.pop() if alone and not claims else None
            for others in alone:
                helpers.run(functools.partial(_send_alone, others), functools.partial(_cancel, others))
            arrived = self._send_together(list(claims.values()))
        if here:
            _send_alone(here)
        elif arrived:
            _resolve((request, claim.error) for history, claim in claims.items() for request in shared[history])
        else:
            self._send_each(helpers, [shared[history] for history in claims], started)

    def _send_each(self, helpers: "_Helpers", batches: Sequence[_Batch], started: float) -> None:
        """Send what an attempt left, in what is left of the time."""
        timeout = self._timeout and max(self._timeout - (time.monotonic() - started), 0.001)
        for batch in batches[1:]:
            helpers.run(functools.partial(_send_alone, batch, timeout), functools.partial(_cancel, batch))
        _send_alone(batches[0], timeout)

    def _claims(self, claiming: ExitStack, shared: Iterable[AgentHistory]) -> dict[AgentHistory, Claim]:
        """Claim the next writes of several histories; none where it would be one alone."""
        histories = list(shared)
        if len(histories) < 2 or time.monotonic() < self._sharing_from:
            return {}
        found = {history: claiming.enter_context(history.claim()) for history in histories}
        claims = {history: claim for history, claim in found.items() if claim is not None}
        if len(claims) > 1:
            return claims
        claiming.close()
        return {}

    def _send_together(self, claims: Sequence[Claim]) -> bool:
        """Send what is claimed in one command; False where not all of it is acknowledged, or nothing is claimed."""
        if not claims:
            return False
        arrived = False
        try:
            arrived = contextvars.Context().run(self._attempt, claims)
        finally:
            for claim in claims:
                claim.finish(sent=arrived)
        return arrived

    def _attempt(self, claims: Sequence[Claim]) -> bool:
        """Tell whether all went through; if not, some of them may have."""
        started, failed = time.monotonic(), False
        try:
            with pymongo.timeout(self._attempt_timeout):
                return claims[0].store.write_together([claim.prepared for claim in claims])
        except Exception as error:  # noqa: BLE001 - it is told to whom it is about, when that is alone
            logger.debug("writes=<%d>, error=<%s> | not all of a group went through", len(claims), type(error).__name__)
            failed = isinstance(error, PyMongoError)
            return False
        finally:
            if failed or time.monotonic() - started > self._attempt_timeout:
                self._sharing_from = time.monotonic() + PAUSE


# By threads and collection. After a fork, and after the last user of a client has left, there are other threads.
_groups: "WeakKeyDictionary[Executor, dict[str, _Group]]" = WeakKeyDictionary()


def _join(handle: ClientHandle, name: str, request: _Request) -> None:
    executor = handle.executor
    groups = _groups.get(executor)
    if groups is None:
        groups = _groups.setdefault(executor, {})
    group = groups.get(name)
    if group is None:
        limits = request.history.queue.limits
        group = groups.setdefault(name, _Group(handle.timeout, handle.shortest_timeout, limits))
    group.join(executor, request)


def _by_history(requests: Iterable[_Request]) -> dict[AgentHistory, _Batch]:
    batches: dict[AgentHistory, _Batch] = {}
    for request in requests:
        batches.setdefault(request.history, []).append(request)
    return batches


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
            submit(self._executor, work, give_up)
        except RuntimeError:
            try:
                thread = threading.Thread(target=work)
                thread.start()
                self._own.append(thread)
            except RuntimeError:
                give_up()


def _send_alone(batch: _Batch, timeout: float | None = None) -> None:
    """Send one history, for all requests that wait for it."""
    error: BaseException | None = None
    try:
        batch[0].context.run(batch[0].send, timeout)
    except BaseException as caught:  # noqa: BLE001 - the requests that wait raise it
        error = caught
    _resolve((request, error) for request in batch)


def _cancel(batch: _Batch) -> None:
    _resolve((request, dropped()) for request in batch)


def _resolve(outcomes: Iterable[tuple[_Request, BaseException | None]]) -> None:
    hand_over([(request.answer, (None, error)) for request, error in outcomes if request.answer is not None])
