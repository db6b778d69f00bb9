"""Requests that wait for a thread of a client, which takes all that wait at one moment together."""

import threading
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import Generic, TypeAlias, TypeVar

__all__ = ["Line", "submit"]

_T = TypeVar("_T")
Serve: TypeAlias = Callable[[list[_T], bool], None]
GiveUp: TypeAlias = Callable[[list[_T]], None]


class Line(Generic[_T]):
    """Requests in the order in which they came; a thread that is called takes the oldest.

    Args:
        most: The number of requests that a thread takes at most.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._waiting: list[_T] = []
        # Whether a thread was called for them.
        self._called = False

    def join(self, executor: Executor, request: _T, serve: Serve[_T], give_up: GiveUp[_T]) -> None:
        """Add a request, and call a thread if none is called.

        Args:
            executor: The threads.
            request: The request.
            serve: Is given the requests that the thread takes, and whether more wait, for which it calls the next.
            give_up: Is given requests that no thread will take.
        """
        with self._lock:
            self._waiting.append(request)
            called, self._called = self._called, True
        if not called:
            self.call(executor, serve, give_up)

    def call(self, executor: Executor, serve: Serve[_T], give_up: GiveUp[_T]) -> None:
        """Call a thread; the arguments are those of ``join``."""
        dismiss = partial(self.dismiss, give_up)
        try:
            submit(executor, partial(self.work, serve), dismiss)
        except RuntimeError:  # these threads have ended
            dismiss()

    def work(self, serve: Serve[_T]) -> None:
        """Serve the oldest requests, on this thread."""
        serve(*self._take(self._most))

    def dismiss(self, give_up: GiveUp[_T]) -> None:
        """Give up all requests."""
        give_up(self._take(None)[0])

    def _take(self, most: int | None) -> tuple[list[_T], bool]:
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
    executor.submit(work).add_done_callback(lambda sent: give_up() if sent.cancelled() else None)
