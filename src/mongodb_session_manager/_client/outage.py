"""Conversations that go on while the server is away: their changes wait, the conversations do not.

After a write that took long to fail, the next writes of its client are not tried: their changes stay pending. One
thread looks every few seconds whether the server is back, and then sends them. A write that fails at once costs no
time, so the next ones are still tried.
"""

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Final, Protocol

import pymongo
from pymongo import MongoClient
from pymongo.errors import InvalidOperation, NetworkTimeout, PyMongoError, ServerSelectionTimeoutError

from .._schema.limits import LIMITS, Limits
from .handle import ClientHandle
from .off_loop import all_done

__all__ = ["Outage", "Sender", "outage_of"]

logger = logging.getLogger(__name__)

THREAD_NAME: Final = "mongodb-session-manager-outage"
# Seconds. After a failure that took longer, the next writes are not tried. The limit is higher for a server that
# answers and fails.
SLOW = 0.02
SLOW_ANSWER = 0.15
# Seconds between two looks at most; a server that answers and refuses is asked less and less often.
LONGEST_PAUSE = 60.0
# Seconds that a write waits for a look that has just begun, if the driver sees a server.
GRACE = 0.03
# Senders tried until one shows that the server takes writes; one of them may fail for a reason of its own.
_TRIED = 3
_NO_ANSWER: Final = (ServerSelectionTimeoutError, NetworkTimeout)


class Sender(Protocol):
    """A part of a manager that has changes to send."""

    @property
    def pending(self) -> int:
        """The number of changes that are not acknowledged."""

    def hold(self, error: str) -> None:
        """Take over the name of the error because of which nothing is sent for now."""

    def send_if_idle(self) -> None:
        """Send what is pending, unless another thread is sending it."""


class Outage:
    """Whether the server of one client is away, as its writes have found.

    Args:
        handle: The client; it is held weakly.
        limits: How often the server is looked for, and for how long.
    """

    def __init__(self, handle: ClientHandle, limits: Limits) -> None:
        self._handle, self._limits = weakref.ref(handle), limits
        self.reset()
        _outages.add(self)

    def reset(self) -> None:
        """Begin anew, also after a fork: pending changes are the parent's."""
        self._lock = threading.RLock()
        self._woken = threading.Event()
        self._senders: weakref.WeakSet[Sender] = weakref.WeakSet()
        self._thread: threading.Thread | None = None
        # Only its name: the error itself would keep every frame that it passed alive.
        self._error: str | None = None
        self._is_looking, self._began = False, 0.0
        self._looked: Future[None] = Future()

    @property
    def is_on(self) -> bool:
        """Whether writes wait for the server to be back."""
        return self._error is not None

    def failed(self, sender: Sender, error: Exception, seconds: float) -> None:
        """Note that a write failed after so many seconds; its changes are sent when that is possible."""
        with self._lock:
            if seconds > (SLOW if isinstance(error, _NO_ANSWER) else SLOW_ANSWER):
                self._error = type(error).__name__
            self._look_for(sender)

    def holds(self, sender: Sender) -> bool:
        """Tell whether a write is not to be tried now; its changes are sent when the server is back."""
        with self._lock:
            if self._error is None:
                return False
            sender.hold(self._error)
            self._look_for(sender)
        if not self._is_looking and self._sees_server():
            self._woken.set()
        return True

    def forget(self, sender: Sender) -> None:
        """Send nothing more for a sender that is closed."""
        with self._lock:
            self._senders.discard(sender)
        if not self._pending():
            self._woken.set()

    async def ends_soon(self, *, patiently: bool = False) -> bool:
        """Wait a moment for a look that has just begun, and return whether the server is back.

        Args:
            patiently: Whether to wait also for a look that began earlier.
        """
        is_late = self._is_looking and patiently and self._sees_server()
        if is_late or self._woken.is_set() or time.monotonic() - self._began < GRACE:
            await all_done([self._looked], GRACE)
        return not self.is_on

    def _sees_server(self) -> bool:
        """Tell whether the driver's own monitors see a server; no I/O."""
        handle = self._handle()
        client: Any = handle and handle.client
        return isinstance(client, MongoClient) and client.topology_description.has_writable_server()

    def _look_for(self, sender: Sender) -> None:
        self._senders.add(sender)
        if self._thread is None:
            thread = threading.Thread(target=self._work, name=THREAD_NAME, daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                logger.debug(
                    "error=<%s> | no thread to look for the server can be started, the next write is tried", error
                )
                self._error = None
                return
            self._thread = thread

    # On a thread of its own

    def _work(self) -> None:
        pause = self._limits.outage_pause
        while self._has_work():
            self._woken.wait(pause)
            if self._pending():
                self._look_now()
            pause = self._limits.outage_pause if self.is_on else min(pause * 2, LONGEST_PAUSE)

    def _has_work(self) -> bool:
        # Under the lock, so that a sender that is added meanwhile is seen.
        with self._lock:
            handle = self._handle()
            if handle is not None and not handle.closed and self._pending():
                return True
            self._thread = self._error = None
            return False

    def _pending(self) -> list[Sender]:
        return [sender for sender in list(self._senders) if sender.pending]

    def _look_now(self) -> None:
        self._is_looking, self._began = True, time.monotonic()
        self._woken.clear()
        error: Exception | None = None
        handle = self._handle()
        try:
            if handle is not None:
                error = self._probe(handle)
        finally:
            with self._lock:
                self._error, self._is_looking = None if error is None else type(error).__name__, False
                looked, self._looked = self._looked, Future()
            looked.set_result(None)
        if error is None and handle is not None:
            self._send_all(handle)

    def _probe(self, handle: ClientHandle) -> Exception | None:
        """Return why the server is still away; an error that only one sender meets does not count."""
        error = self._attempt(lambda: handle.client.admin.command("ping"))
        if error is not None:
            return error
        for sender in self._pending()[:_TRIED]:
            started = time.monotonic()
            error = self._attempt(sender.send_if_idle)
            if error is None or time.monotonic() - started < SLOW_ANSWER:
                return None
        return error

    def _send_all(self, handle: ClientHandle) -> None:
        with suppress(InvalidOperation, RuntimeError):  # the client was closed
            for sender in self._pending():
                handle.executor.submit(self._send, sender)

    def _send(self, sender: Sender) -> None:
        error = self._attempt(sender.send_if_idle)
        if error is not None:
            logger.debug("error=<%s> | what was pending was not sent, the next look tries again", type(error).__name__)

    def _attempt(self, call: Callable[[], Any]) -> Exception | None:
        try:
            with pymongo.timeout(self._limits.probe_timeout):
                call()
        except PyMongoError as error:
            return error
        except Exception as error:  # noqa: BLE001 - the sender keeps its error, and the server has answered
            logger.debug("error=<%s> | what was pending was refused", type(error).__name__)
        return None


_outages: "weakref.WeakSet[Outage]" = weakref.WeakSet()
_by_handle: "weakref.WeakKeyDictionary[ClientHandle, Outage]" = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def outage_of(handle: ClientHandle, limits: Limits = LIMITS) -> Outage:
    """Return the outage of a client, which all its users share."""
    with _lock:
        found = _by_handle.get(handle)
        if found is None:
            found = _by_handle[handle] = Outage(handle, limits)
        return found


def _leave_to_parent() -> None:
    global _lock
    _lock = threading.Lock()
    for outage in list(_outages):
        outage.reset()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_leave_to_parent)
