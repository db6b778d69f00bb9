"""Sends notifications in the background: a few threads for all hooks of the process, each session in order."""

import atexit
import logging
import os
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future, wait
from typing import Final

from ._delivery import Delivery, DeliveryError, DeliveryRefusedError
from ._delivery_queue import DeliveryQueue, Lane

__all__ = [
    "CAPACITY",
    "OUTBOX_TIMEOUT",
    "THREADS",
    "Delivery",
    "DeliveryError",
    "DeliveryRefusedError",
    "Dispatcher",
    "shared_dispatcher",
]

logger = logging.getLogger(__name__)

CAPACITY: Final = 10_000
"""Deliveries that are held in memory at most."""

THREADS: Final = 16
"""Deliveries that are being sent at the same time at most."""

EXIT_TIMEOUT: Final = 10.0
OUTBOX_TIMEOUT: Final = 2.0
"""Seconds that an end waits for what is at-least-once: the outbox has it, so this only spares sending it later."""

# Seconds between the attempts at one at-least-once delivery; after the last it is left to the outbox.
RETRY_DELAYS: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
# Seconds that a delivery waits for the request that made it: a call of boto3 takes a millisecond of the interpreter,
# which that request would feel.
START_DELAY: Final = 0.01
# A full queue may overflow thousands of times a second.
_SECONDS_BETWEEN_WARNINGS = 1.0


class Dispatcher:
    """A bounded queue and the daemon threads that empty it; a thread starts when it is needed.

    A failed best effort delivery is gone. A failed at-least-once delivery holds back its lane until another attempt
    succeeds; after the last attempt the lane's deliveries are left to the outbox.

    Args:
        capacity: Deliveries in memory at most. Beyond, the oldest best-effort one is dropped; if there is none, the
            oldest, which stays in its outbox.
        retry_delays: Seconds before each further attempt.
    """

    def __init__(self, capacity: int = CAPACITY, retry_delays: tuple[float, ...] = RETRY_DELAYS) -> None:
        self._capacity, self._retry_delays = capacity, retry_delays
        self.dropped = 0
        self._warned_at = -_SECONDS_BETWEEN_WARNINGS
        self.reset()

    def reset(self) -> None:
        """Begin anew, also in a forked child: the parent sends queued deliveries, and its threads do not exist here."""
        self._changed = threading.Condition()
        self._queue = DeliveryQueue(self._capacity, self._retry_delays, THREADS)
        self._threads: list[threading.Thread] = []
        # The number of threads that wait for work or are about to look for it.
        self._idle = 0

    def __len__(self) -> int:
        """Return the number of deliveries that are queued, being sent, or waiting for another attempt."""
        with self._changed:
            return len(self._queue)

    def submit(self, delivery: Delivery) -> None:
        """Queue a delivery and return at once."""
        with self._changed:
            dropped = self._queue.add(delivery)
            if dropped is not None:
                self._count_dropped(dropped)
            self._call_a_thread()

    def flush(self, timeout: float | None = None, waited: "Iterable[Future[None]] | None" = None) -> int:
        """Wait until all deliveries queued so far were sent or have failed.

        It does not wait for at-least-once deliveries that have failed: they are safe in their outbox.

        Args:
            timeout: Seconds to wait at most; no limit by default.
            waited: The ``tried`` of the deliveries to wait for; by default of all.

        Returns:
            The number of deliveries that were not tried in time.
        """
        with self._changed:
            chosen = [delivery.tried for delivery in self._queue] if waited is None else list(waited)
            works = not self._queue or self._has_thread()
        if not works:
            self._empty_here(timeout)
        return len(wait(chosen, timeout if works else 0).not_done)

    def drain_at_exit(self, timeout: float = EXIT_TIMEOUT) -> None:
        """Send queued deliveries before the interpreter ends, and log how many are left."""
        started = time.monotonic()
        for durable, seconds in ((True, min(timeout, OUTBOX_TIMEOUT)), (False, timeout)):
            with self._changed:
                waited = [each.tried for each in self._queue if each.durable is durable]
            self.flush(max(started + seconds - time.monotonic(), 0.0), waited)
        with self._changed:
            kept = sum(delivery.durable for delivery in self._queue)
            lost = len(self._queue) - kept
        if lost or kept:
            logger.warning(
                "dropped=<%d>, in_outbox=<%d> | the interpreter ends before all notifications are sent", lost, kept
            )

    # Threads

    def _call_a_thread(self) -> None:
        """Call a thread if a lane may be served or a retry is due; a thread that begins to serve calls the next."""
        if not self._queue.has_work():
            return
        if self._idle > 0:
            self._changed.notify()
        else:
            self._start()

    def _has_thread(self) -> bool:
        return any(thread.is_alive() for thread in self._threads) or self._start()

    def _start(self) -> bool:
        """Start a thread, unless there are enough; False if the interpreter is ending and starts no thread."""
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        if len(self._threads) < THREADS:
            thread = threading.Thread(target=self._work, name="mongodb-session-manager-hooks", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                return False
            self._threads.append(thread)
            self._idle += 1
        return True

    def _work(self) -> None:
        while True:
            lane = self._next(wait=True)
            if lane is not None:
                time.sleep(max(lane.first.made_at + START_DELAY - time.monotonic(), 0.0))
            self._serve(lane)

    def _empty_here(self, timeout: float | None) -> None:
        deadline = None if timeout is None else time.monotonic() + timeout
        while deadline is None or time.monotonic() < deadline:
            lane = self._next(wait=False)
            if lane is None:
                return
            self._serve(lane)

    def _next(self, *, wait: bool) -> Lane | None:
        """Return the lane to serve next; without ``wait``, None if there is none now."""
        with self._changed:
            while True:
                lane = self._queue.begin()
                if lane is not None:
                    self._idle -= 1
                    self._call_a_thread()
                    return lane
                if not wait:
                    return None
                self._changed.wait(self._queue.seconds_to_next())

    def _serve(self, lane: Lane | None) -> None:
        if lane is None:
            return
        again = _failed_for_now(lane.first)
        acknowledged = not again and _acknowledge(lane.first)
        with self._changed:
            self._idle += 1
            if again:
                self._hold(lane)
            else:
                self._queue.finish(lane, acknowledged=acknowledged)
            self._call_a_thread()

    # What is left, and what is dropped

    def _hold(self, lane: Lane) -> None:
        left = self._queue.hold(lane)
        if left:
            logger.error(
                "session_id=<%s>, notifications=<%d>, attempts=<%d> | left in the outbox, the next opening sends them",
                left[0].session_id,
                len(left),
                lane.attempts,
            )

    def _count_dropped(self, delivery: Delivery) -> None:
        self.dropped += 1
        if time.monotonic() - self._warned_at < _SECONDS_BETWEEN_WARNINGS:
            return
        self._warned_at = time.monotonic()
        logger.warning(
            "session_id=<%s>, capacity=<%d>, dropped=<%d> | the queue is full, the oldest notification is dropped",
            delivery.session_id,
            self._capacity,
            self.dropped,
        )


def _failed_for_now(delivery: Delivery) -> bool:
    """Send; return whether it is to be tried again."""
    try:
        delivery.send()
    except DeliveryRefusedError as error:
        _log(logging.ERROR, delivery, error, "a notification can never be delivered and was dropped")
    except Exception as error:  # noqa: BLE001 - the thread serves all hooks
        if delivery.durable:
            _log(logging.WARNING, delivery, error, "a notification failed and stays in the outbox")
            return True
        _log(logging.WARNING, delivery, error, "a notification failed and was dropped")
    return False


def _acknowledge(delivery: Delivery) -> bool:
    """Remove it from its outbox; return whether it has left one."""
    if delivery.acknowledge is None:
        return False
    try:
        delivery.acknowledge()
    except Exception as error:  # noqa: BLE001 - the next process that opens the session sends it again
        _log(logging.WARNING, delivery, error, "a notification was delivered but could not leave the outbox")
        return False
    return True


def _log(level: int, delivery: Delivery, error: Exception, text: str) -> None:
    # The text of other exceptions may quote the content.
    reason = str(error) if isinstance(error, DeliveryError) else type(error).__name__
    logger.log(level, "session_id=<%s>, id=<%s>, error=<%s> | %s", delivery.session_id, delivery.id, reason, text)


_shared = Dispatcher()


def shared_dispatcher() -> Dispatcher:
    """Return the dispatcher of all hooks of this process."""
    return _shared


atexit.register(_shared.drain_at_exit)
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_shared.reset)
