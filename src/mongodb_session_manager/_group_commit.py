"""Group commit: what several histories have to send at one moment goes out in one command.

Under load a thread that is to send waits for its share of the interpreter. By the time that it gets on, others have
something to send too, and one command costs little more than each of theirs would. Who is alone sends by itself.

A command either went through for all, or each of them sends by itself again: then its guard tells what of its own has
arrived, and each gets its own error. Only a server that is out of reach is so for all of them at once.
"""

import asyncio
import contextvars
import functools
import logging
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import TypeAlias
from weakref import WeakKeyDictionary

from pymongo import _csot
from pymongo.errors import ConnectionFailure

from ._client import ClientHandle
from ._off_loop import Answer, dropped, hand_over
from ._writer import AgentHistory, Offer

__all__ = ["flush_off_loop"]

logger = logging.getLogger(__name__)

# Who shares a command waits for all of it, and each part takes the server about 0.1 ms.
MOST_SHARED = 16


@dataclass(eq=False)
class _Waiting:
    """Somebody who waits until a history is sent."""

    history: AgentHistory
    executor: Executor
    answer: Answer
    context: contextvars.Context = field(default_factory=contextvars.copy_context)

    @property
    def has_deadline(self) -> bool:
        """Whether the caller stands in a ``pymongo.timeout()``, which is to hold for nobody else."""
        return self.context.get(_csot.TIMEOUT) is not None  # there is no public question for it


_Line: TypeAlias = list[_Waiting]


async def flush_off_loop(handle: ClientHandle, history: AgentHistory) -> None:
    """Send everything that is queued in a history, on the client's threads; a cancelled caller does not tear it.

    Raises:
        Exception: What ``AgentHistory.flush`` raises.
    """
    answer: Answer = asyncio.get_running_loop().create_future()
    _group(handle, history.namespace).join(_Waiting(history, handle.executor, answer))
    await answer


class _Group:
    """Those who have something to send to one collection."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._line: _Line = []
        # Whether a thread is on its way to those in the line.
        self._called = False

    def join(self, waiting: _Waiting) -> None:
        with self._lock:
            self._line.append(waiting)
            called, self._called = self._called, True
        if not called:
            self._call(waiting.executor)

    def _call(self, executor: Executor) -> None:
        _run(executor, self._send_next, self._leave)

    def _send_next(self) -> None:
        line = self._leave(MOST_SHARED)
        if self._called:
            self._call(line[0].executor)
        try:
            _send(line)
        except BaseException as error:
            _tell(line, error)  # nobody is to wait for ever
            raise

    def _leave(self, most: int | None = None) -> _Line:
        """Take the first of the line, or all; for the others a thread is to be called."""
        with self._lock:
            leaving, self._line = self._line[:most], self._line[len(self._line[:most]) :]
            self._called = bool(self._line)
        return leaving


# By handle and collection.
_groups: "WeakKeyDictionary[ClientHandle, dict[str, _Group]]" = WeakKeyDictionary()


def _group(handle: ClientHandle, namespace: str) -> _Group:
    groups = _groups.get(handle)
    if groups is None:
        groups = _groups.setdefault(handle, {})
    return groups.get(namespace) or groups.setdefault(namespace, _Group())


if hasattr(os, "register_at_fork"):  # not on Windows
    # Whoever waits does so in the parent.
    os.register_at_fork(after_in_child=_groups.clear)


# On a thread of the client


def _run(executor: Executor, work: Callable[[], None], waiting: Callable[[], _Line]) -> None:
    """Have a thread do something; where none comes to it, because the client is closed, tell those who wait."""

    def check(sent: "Future[None]") -> None:
        if sent.cancelled():
            _tell(waiting(), dropped())

    try:
        executor.submit(work).add_done_callback(check)
    except RuntimeError:
        _tell(waiting(), dropped())


def _send(line: _Line) -> None:
    alone = [[waiting] for waiting in line if waiting.has_deadline]
    shared: dict[AgentHistory, _Line] = {}
    for waiting in line:
        if not waiting.has_deadline:
            shared.setdefault(waiting.history, []).append(waiting)
    if len(shared) > 1:
        _send_together(shared)
    alone += shared.values()
    for others in alone[1:]:
        _run(others[0].executor, functools.partial(_send_alone, others), others.copy)
    for first in alone[:1]:
        _send_alone(first)


def _send_alone(line: _Line) -> None:
    error: BaseException | None = None
    try:
        line[0].context.run(line[0].history.flush)
    except BaseException as caught:  # noqa: BLE001 - it is raised where somebody waits
        error = caught
    _tell(line, error)


def _send_together(shared: dict[AgentHistory, _Line]) -> None:
    """Send what can share a command, and take out those who have their answer by that."""
    offers = {history: offer for history in shared if (offer := history.offer()) is not None}
    arrived, failure = False, None
    if len(offers) > 1:
        arrived, failure = shared[next(iter(offers))][0].context.run(_commit, offers)
    answers = []
    for history, offer in offers.items():
        error = history.conclude(offer, arrived, failure)
        if arrived or failure:
            answers += [(waiting.answer, (None, error)) for waiting in shared.pop(history)]
    hand_over(answers)


def _commit(offers: Mapping[AgentHistory, Offer]) -> tuple[bool, ConnectionFailure | None]:
    """Tell whether all went through, or what kept the server from all of them."""
    repository = next(iter(offers.values())).repository
    try:
        return repository.write_together([offer.change for offer in offers.values()]), None
    except ConnectionFailure as error:
        return False, error
    except Exception as error:  # noqa: BLE001 - it may be about one of them, to whom it is told when it is alone
        logger.debug("writes=<%d>, error=<%s> | not all of a group went through", len(offers), type(error).__name__)
        return False, None


def _tell(line: _Line, error: BaseException | None) -> None:
    hand_over([(waiting.answer, (None, error)) for waiting in line])
