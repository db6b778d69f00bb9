"""Requests that wait for a thread of a client; those that wait at one moment are taken together."""

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Generic, TypeVar

__all__ = ["Line", "submit"]

_T = TypeVar("_T")


class Line(Generic[_T]):
    """Requests in the order in which they came."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[_T] = []
        # Whether a thread is on its way to them.
        self._called = False

    def join(self, request: _T) -> bool:
        """Add a request; True where a thread is to be called for it."""
        with self._lock:
            self._waiting.append(request)
            called, self._called = self._called, True
        return not called

    def take(self, most: int | None = None) -> tuple[list[_T], bool]:
        """Take some of those that wait, or all, and tell whether there are more, for which a thread is to be called."""
        with self._lock:
            taken = self._waiting[:most]
            self._waiting = self._waiting[len(taken) :]
            more = self._called = bool(self._waiting)
        return taken, more


def submit(executor: Executor, work: Callable[[], None], give_up: Callable[[], None]) -> None:
    """Have a thread do something; ``give_up`` is called where it was cancelled before it began.

    Raises:
        RuntimeError: The threads have ended.
    """

    def check(sent: "Future[None]") -> None:
        if sent.cancelled():
            give_up()

    executor.submit(work).add_done_callback(check)
