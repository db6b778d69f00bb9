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
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TypeAlias
from weakref import WeakKeyDictionary

import pymongo
from pymongo import _csot
from pymongo.errors import ConnectionFailure

from ._client import ClientHandle
from ._off_loop import Answer, dropped, hand_over
from ._writer import BEHIND_TIMEOUT, AgentHistory, Offer

__all__ = ["flush_behind", "flush_off_loop"]

logger = logging.getLogger(__name__)

# Who shares a command waits for all of it, and each part takes the server about 0.1 ms.
MOST_SHARED = 16


@dataclass(eq=False)
class _Waiting:
    """Somebody who has a history sent.

    Attributes:
        history: The history.
        executor: The threads that send it.
        answer: What the caller waits for; None where nobody waits.
        context: The caller's.
    """

    history: AgentHistory
    executor: Executor
    answer: "Answer | None" = None
    context: contextvars.Context = field(default_factory=contextvars.copy_context)

    @property
    def is_behind(self) -> bool:
        """Whether nobody waits."""
        return self.answer is None

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


def flush_behind(handle: ClientHandle, history: AgentHistory) -> None:
    """Do what ``AgentHistory.flush_behind`` does, on the client's threads; nobody is told what came of it."""
    waiting = _Waiting(history, handle.executor, context=contextvars.Context())
    _group(handle, f"{history.namespace}, behind").join(waiting)


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
        _run(executor, self._send_next, self._dismiss)

    def _send_next(self) -> None:
        with self._lock:
            line, self._line = self._line[:MOST_SHARED], self._line[MOST_SHARED:]
            more = self._called = bool(self._line)
        if more:
            self._call(line[0].executor)
        try:
            _send(line)
        except BaseException as error:
            _tell(line, error)  # nobody is to wait for ever
            raise

    def _dismiss(self) -> _Line:
        with self._lock:
            line, self._line, self._called = self._line, [], False
        return line


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
    if not line:  # dismissed meanwhile
        return
    shared: dict[AgentHistory, _Line] = {}
    for waiting in line:
        if not waiting.has_deadline:
            shared.setdefault(waiting.history, []).append(waiting)
    offers = _offers(shared) if len(shared) > 1 else {}
    alone = [[waiting] for waiting in line if waiting.has_deadline]
    alone += [waiting for history, waiting in shared.items() if history not in offers]
    own = None if offers else alone.pop()
    for others in alone:
        _call_for(others)
    if own:
        _send_alone(own)
    else:
        _send_together({history: (offer, shared[history]) for history, offer in offers.items()})


def _offers(histories: Iterable[AgentHistory]) -> dict[AgentHistory, Offer]:
    return {history: offer for history in histories if (offer := history.offer()) is not None}


def _call_for(line: _Line) -> None:
    _run(line[0].executor, functools.partial(_send_alone, line), line.copy)


def _send_alone(line: _Line) -> None:
    history = line[0].history
    error: BaseException | None = None
    try:
        line[0].context.run(history.flush_behind if line[0].is_behind else history.flush)
    except BaseException as caught:  # noqa: BLE001 - it is raised where somebody waits
        error = caught
    _tell(line, error)


def _send_together(sharing: Mapping[AgentHistory, tuple[Offer, _Line]]) -> None:
    first = next(iter(sharing.values()))[1][0]
    offers = [offer for offer, _ in sharing.values()]
    arrived, failure = first.context.run(_commit, offers, BEHIND_TIMEOUT if first.is_behind else None)
    answers = []
    for history, (offer, line) in sharing.items():
        error = history.conclude(offer, arrived, failure)
        if arrived or failure:
            answers += [(waiting, error) for waiting in line]
        elif not first.is_behind:  # who does not wait comes again at the end of the invocation
            _call_for(line)
    _tell_all(answers)


def _commit(offers: Sequence[Offer], timeout: float | None) -> tuple[bool, ConnectionFailure | None]:
    """Tell whether all went through, or what kept the server from all of them."""
    limit = nullcontext() if timeout is None else pymongo.timeout(timeout)
    try:
        with limit:
            return offers[0].repository.write_together([offer.change for offer in offers]), None
    except ConnectionFailure as error:
        return False, error
    except Exception as error:  # noqa: BLE001 - it may be about one of them, to whom it is told when it is alone
        logger.debug("writes=<%d>, error=<%s> | not all of a group went through", len(offers), type(error).__name__)
        return False, None


def _tell(line: _Line, error: BaseException | None) -> None:
    _tell_all((waiting, error) for waiting in line)


def _tell_all(told: Iterable[tuple[_Waiting, BaseException | None]]) -> None:
    hand_over([(waiting.answer, (None, error)) for waiting, error in told if waiting.answer is not None])
