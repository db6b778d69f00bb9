"""Requests that wait for a thread of a client, which takes all that wait at one moment together."""

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
        # Whether a thread was called for them.
        self._called = False

    def join(self, request: _T) -> bool:
        """Add a request; return whether the caller must call a thread for it."""
        with self._lock:
            self._waiting.append(request)
            called, self._called = self._called, True
        return not called

    def take(self, most: int | None = None) -> tuple[list[_T], bool]:
        """Take the oldest requests, or all; return also whether more wait, for which the caller must call a thread."""
        with self._lock:
            taken = self._waiting[:most]
            self._waiting = self._waiting[len(taken) :]
            more = self._called = bool(self._waiting)
        return taken, more


def submit(executor: Executor, work: Callable[[], None], give_up: Callable[[], None]) -> None:
    """Have a thread do some work; ``give_up`` is called if the work is cancelled before it begins.

    Raises:
        RuntimeError: The threads have ended.
    """

    def check(sent: "Future[None]") -> None:
        if sent.cancelled():
            give_up()

    executor.submit(work).add_done_callback(check)
