"""Sessions that are opened off the event loop; those that wait at one moment are read by one command.

A shared read is an attempt. What it does not find, or where it fails, a session is opened by itself, with its own time
limits and its own error.
"""

import asyncio
import contextvars
import functools
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, Generic, Protocol, TypeVar

import pymongo

from .._client.caller import may_share
from .._client.handle import in_background
from .._client.line import Line, submit
from .._client.off_loop import Answer, Outcome, dropped, hand_over
from .._schema.limits import LIMITS, Limits
from .._schema.sessions import OpenedDoc

__all__ = ["Opening", "OpeningLine", "SharedReads"]

logger = logging.getLogger(__name__)

# Seconds without shared reads after one that failed.
PAUSE = 10.0


class _Closable(Protocol):
    def close(self) -> None: ...


_Manager = TypeVar("_Manager", bound=_Closable)


class Opening(Generic[_Manager]):
    """A manager that is made on a thread, for a request that may have gone when it is there.

    The last to finish closes it, on a thread of the client: the end of the interpreter waits for those.

    Args:
        session_id: The session.
        make: Makes the manager from what was read of the session; None where that is to be read.

    Attributes:
        answer: What the request waits for.
        may_share: Whether the session may be read together with others.
    """

    def __init__(self, session_id: str, make: Callable[[OpenedDoc | None], _Manager]) -> None:
        self.session_id = session_id
        self._make = make
        self._loop = asyncio.get_running_loop()
        self.answer: Answer = self._loop.create_future()
        self._context = contextvars.copy_context()
        self.may_share = may_share(self._context)
        self._made: _Manager | None = None
        self._given_up = False

    def begin(self, executor: Executor, found: OpenedDoc | None = None, until: float = math.inf) -> None:
        """Have a thread make the manager; the arguments are those of ``run``."""
        try:
            submit(executor, functools.partial(self.run, found, until), self.cancel)
        except RuntimeError:  # these threads have ended
            self.cancel()

    def run(self, found: OpenedDoc | None = None, until: float = math.inf) -> None:
        """Make the manager, and hand it over.

        Args:
            found: What was read of the session.
            until: How long that is good enough, by the monotonic clock.
        """
        try:
            outcome: Outcome = self._context.run(self._run, found if time.monotonic() < until else None), None
        except BaseException as error:  # noqa: BLE001 - raised where the request waits
            outcome = None, error
        hand_over([(self.answer, outcome)])

    def _run(self, found: OpenedDoc | None) -> _Manager:
        if self._given_up:
            raise dropped()
        # ``give_up`` does the same in the other order, so that one of both sees the other.
        self._made = manager = self._make(found)
        if self._given_up or self._loop.is_closed():
            manager.close()
        return manager

    def cancel(self) -> None:
        """Tell the request that no thread came to it."""
        hand_over([(self.answer, (None, dropped()))])

    def give_up(self, executor: Executor | None) -> None:
        """Note that the request waits no more, without a lock: a collector may call in a thread that holds any.

        Args:
            executor: Closes the manager if it is made already; None for a new thread, which takes no lock either.
        """
        self._given_up = True
        made = self._made
        if made is None:
            return
        if executor is None:
            in_background(made.close)
            return
        try:
            executor.submit(made.close)
        except RuntimeError:  # these threads have ended
            made.close()


class SharedReads:
    """Whether the reads of one client are shared now; lines come and go, and this stays.

    Args:
        shortest_timeout: Seconds that the client waits for anything.
        limits: How many sessions are read together, for how long, and how long that is good.

    Attributes:
        limits: The same.
        timeout: Seconds for a shared read; something is left of the time to open alone.
        begin: When they are shared again, by the monotonic clock.
    """

    def __init__(self, shortest_timeout: float, limits: Limits = LIMITS) -> None:
        self.limits = limits
        self.timeout = min(limits.attempt_timeout, shortest_timeout / 2)
        self.begin = 0.0


class OpeningLine:
    """Openings that wait for a thread of the client.

    Args:
        read: Reads sessions together, by id; what it leaves out is opened by itself.
        shared: Of the client.
    """

    def __init__(self, read: Callable[[Sequence[str]], Mapping[str, OpenedDoc]], shared: SharedReads) -> None:
        self._read, self._shared = read, shared
        self._line: Line[Opening[Any]] = Line(shared.limits.most_shared)

    def join(self, executor: Executor, opening: Opening[Any]) -> None:
        """Have a session opened; ``opening.answer`` tells when it is."""
        if opening.may_share:
            self._line.join(executor, opening, functools.partial(self._open, executor), _cancel)
        else:
            opening.begin(executor)

    # On a thread of the client

    def _open(self, executor: Executor, openings: list[Opening[Any]], more: bool) -> None:
        if more:
            self._line.call(executor, functools.partial(self._open, executor), _cancel)
        try:
            found = self._read_together([opening.session_id for opening in openings]) if len(openings) > 1 else {}
            until = time.monotonic() + self._shared.limits.fresh_seconds
            while len(openings) > 1:
                # Each has what was read for itself: two managers of one session share no message.
                opening = openings[0]
                opening.begin(executor, found.pop(opening.session_id, None), until)
                del openings[0]
            for opening in openings:
                opening.run(found.pop(opening.session_id, None))
        except BaseException:
            _cancel(openings)  # no request waits for ever
            raise

    def _read_together(self, session_ids: Sequence[str]) -> dict[str, OpenedDoc]:
        if time.monotonic() < self._shared.begin:
            return {}
        try:
            with pymongo.timeout(self._shared.timeout):
                return dict(self._read(session_ids))
        except Exception as error:  # noqa: BLE001 - each opening finds out by itself, and tells
            logger.debug("sessions=<%d>, error=<%s> | were not read together", len(session_ids), type(error).__name__)
            self._shared.begin = time.monotonic() + PAUSE
            return {}


def _cancel(openings: Sequence[Opening[Any]]) -> None:
    for opening in openings:
        opening.cancel()
