"""Renews leases while their holders have nothing to write: a tool may run longer than a lease lasts.

One thread watches all sessions of a process, and the threads of each client send the renewals that are due. It refers
to the holders weakly, and runs only while one of them is at work. After a fork the thread is the parent's.
"""

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Final, Protocol

import pymongo
from pymongo.errors import InvalidOperation, PyMongoError

from .._schema.lease import Lease

__all__ = ["Heartbeat", "Tended", "watch"]

logger = logging.getLogger(__name__)

THREAD_NAME: Final = "mongodb-session-manager-leases"
# If one renewal is lost, there is time for another.
_BEATS_PER_LEASE: Final = 3
# Seconds; threads and sockets cannot wait as long as a lease may last.
_LONGEST_INTERVAL: Final = 3600.0


class Tended(Protocol):
    """Something that has to be done from time to time."""

    def tend(self) -> float | None:
        """Do it if it is due; return the seconds until the next look, or None if there is none."""


class Heartbeat:
    """Renews one lease while its holder is at work and writes nothing.

    Args:
        lease: The lease.
        is_at_work: A method of the holder; it is held weakly.
        renew: Renews the lease; False if another manager has taken it over.
        executor: Returns the threads that renew.
    """

    def __init__(
        self,
        lease: Lease,
        is_at_work: Callable[[], bool],
        renew: Callable[[], bool],
        executor: Callable[[], Executor],
    ) -> None:
        self._lease, self._renew, self._executor = lease, renew, executor
        self._is_at_work = weakref.WeakMethod(is_at_work)
        self._interval = min(lease.duration.total_seconds() / _BEATS_PER_LEASE, _LONGEST_INTERVAL)
        self._sent: Future[None] | None = None
        self._lost = False
        self._process = os.getpid()

    def begin(self) -> None:
        """Watch the lease from now on, as long as the holder is at work."""
        if not self._lost and self._process == os.getpid():
            _heart.add(self)

    def tend(self) -> float | None:
        """Have the lease renewed if it is due.

        Returns:
            Seconds until the next look; None if the watch is over.
        """
        is_at_work = self._is_at_work()
        if self._lost or is_at_work is None or not is_at_work():
            return None
        left = self._lease.renewed_at + self._interval - time.monotonic()
        if left > 0:
            return left
        if self._sent is None or self._sent.done():
            try:
                self._sent = self._executor().submit(self._beat)
            except (InvalidOperation, RuntimeError):  # the client was closed
                return None
        return self._interval

    def _beat(self) -> None:
        try:
            with pymongo.timeout(self._interval):
                self._lost = not self._renew()
        except PyMongoError as error:
            logger.debug("error=<%s> | a lease was not renewed, the next look tries again", type(error).__name__)


class _Heart:
    """The thread, and the heartbeats that it tends."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        # Reentrant: a collected object may call this again, in the thread that holds the lock.
        self._lock, self._woken = threading.RLock(), threading.Event()
        self._heartbeats: weakref.WeakSet[Tended] = weakref.WeakSet()
        self._thread: threading.Thread | None = None

    def add(self, heartbeat: Tended) -> None:
        with self._lock:
            self._heartbeats.add(heartbeat)
            if self._thread is None:
                self._start()
        self._woken.set()

    def _start(self) -> None:
        thread = threading.Thread(target=self._work, name=THREAD_NAME, daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            logger.debug("error=<%s> | no thread can be started, leases are renewed by writes only", error)
            return
        self._thread = thread

    def _work(self) -> None:
        while (pause := self._tend()) is not None:
            self._woken.wait(pause)
            self._woken.clear()

    def _tend(self) -> float | None:
        # Under the lock, so that a holder that begins to work meanwhile is seen.
        with self._lock:
            pauses = [pause for pause in map(self._tend_one, list(self._heartbeats)) if pause is not None]
            if not pauses:
                self._thread = None
            return min(pauses, default=None)

    def _tend_one(self, heartbeat: Tended) -> float | None:
        pause = heartbeat.tend()
        if pause is None:
            self._heartbeats.discard(heartbeat)
        return pause


_heart = _Heart()


def watch(tended: Tended) -> None:
    """Have the thread look after something else too, for as long as it lives; it is held weakly."""
    _heart.add(tended)


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_heart.reset)
