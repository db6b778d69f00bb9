"""Work that comes back: on the threads of a client, in no request, for as long as its owner lives."""

import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future

from pymongo.errors import InvalidOperation

from .heartbeat import watch

__all__ = ["Recurring"]

logger = logging.getLogger(__name__)


class Recurring:
    """Does some work again and again, from a first time on.

    Args:
        name: Of the work, for the log.
        work: Is given an event that tells it to end.
        executor: Returns the threads.
        first: Seconds until the first time.
        interval: Seconds from one time to the next.
        under_way: Holds what is under way.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[threading.Event], None],
        executor: Callable[[], Executor],
        first: float,
        interval: float,
        under_way: "set[Future[None]]",
    ) -> None:
        self._name, self._work, self._executor, self._under_way = name, work, executor, under_way
        self._first, self._interval = first, interval
        self._stopped = threading.Event()
        self._process: int | None = None
        self._sent: Future[None] | None = None

    def begin(self) -> None:
        """Begin, unless it has begun; after a fork it begins anew."""
        if self._process != os.getpid():
            self._process, self._due = os.getpid(), time.monotonic() + self._first
            watch(self)

    def stop(self) -> None:
        """Do the work no more; what is under way ends soon."""
        self._stopped.set()

    def tend(self) -> float | None:
        """Have the work done if it is due.

        Returns:
            Seconds until the next look; None if there is none.
        """
        if self._stopped.is_set():
            return None
        left = self._due - time.monotonic()
        if left > 0:
            return left
        self._due = time.monotonic() + self._interval
        if self._sent is None or self._sent.done():
            try:
                self._sent = self._executor().submit(self._do)
            except (InvalidOperation, RuntimeError):  # the client was closed
                return None
            self._under_way.add(self._sent)
            self._sent.add_done_callback(self._under_way.discard)
        return self._interval

    def _do(self) -> None:
        if self._stopped.is_set():
            return
        try:
            self._work(self._stopped)
        except Exception as error:  # noqa: BLE001 - the next time tries again
            logger.warning(
                "work=<%s>, error=<%s> | failed, the next time tries again", self._name, type(error).__name__
            )
