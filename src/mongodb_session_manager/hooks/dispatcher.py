"""Sends notifications behind the caller's back: one thread for all hooks of the process, one queue, in order."""

import atexit
import heapq
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final, TypeAlias

__all__ = ["CAPACITY", "Delivery", "DeliveryError", "DeliveryRefusedError", "Dispatcher", "shared_dispatcher"]

logger = logging.getLogger(__name__)

CAPACITY: Final = 10_000
"""Deliveries that are held in memory at most."""

EXIT_TIMEOUT: Final = 10.0
# Seconds between the attempts at one at-least-once delivery; after the last it is left to the outbox.
RETRY_DELAYS: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
# A queue that overflows does so thousands of times a second.
_SECONDS_BETWEEN_WARNINGS = 1.0

Lane: TypeAlias = Hashable


class DeliveryError(Exception):
    """A delivery failed; the message holds no content and no credentials. Another attempt may succeed."""


class DeliveryRefusedError(DeliveryError):
    """A delivery failed in a way in which every further attempt would fail too."""


@dataclass(frozen=True, eq=False)
class Delivery:
    """One notification that is to be sent.

    Attributes:
        id: Its own; a second one with an id that is still queued is not taken.
        session_id: For the log.
        lane: Deliveries of one lane are sent one after the other, in the order in which they came.
        send: Sends it; raises ``DeliveryRefusedError`` where another attempt makes no sense.
        acknowledge: Removes it from the outbox; None where it is in none (best effort).
    """

    id: str
    session_id: str
    lane: Lane
    send: Callable[[], None]
    acknowledge: Callable[[], None] | None = None

    @property
    def durable(self) -> bool:
        """Whether somebody else sends it when this process does not."""
        return self.acknowledge is not None


class Dispatcher:
    """A bounded queue and the daemon thread that empties it; the thread starts with the first delivery.

    A failed best effort delivery is gone. A failed at-least-once delivery holds back its lane until another attempt
    succeeds; after the last attempt the lane's deliveries are left to the outbox that they are recorded in.

    Args:
        capacity: Deliveries in memory at most. Beyond, the oldest best effort one is dropped; where there is none,
            the oldest, which stays in its outbox.
        retry_delays: Seconds before each further attempt.
    """

    def __init__(self, capacity: int = CAPACITY, retry_delays: tuple[float, ...] = RETRY_DELAYS) -> None:
        self._capacity, self._retry_delays = capacity, retry_delays
        self.dropped = 0
        self._reset()

    def _reset(self) -> None:
        """Begin anew, also in a forked child: what is queued is sent by the parent, whose thread is not here."""
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._queue: deque[tuple[int, Delivery]] = deque()
        self._submitted = 0
        self._sending: tuple[int, Delivery] | None = None
        self._ids: set[str] = set()
        # Lanes whose first delivery failed, with the attempts made, and when they are due again.
        self._held: dict[Lane, deque[Delivery]] = {}
        self._attempts: dict[Lane, int] = {}
        self._due: list[tuple[float, int, Lane]] = []
        self._warned_at = -_SECONDS_BETWEEN_WARNINGS

    def __len__(self) -> int:
        """Return the number of deliveries that are queued, being sent or waiting for another attempt."""
        with self._changed:
            return len(self._ids)

    def submit(self, delivery: Delivery) -> None:
        """Queue a delivery and return at once."""
        with self._changed:
            if delivery.id in self._ids:
                return
            if len(self._ids) >= self._capacity:
                self._drop_oldest()
            self._submitted += 1
            self._ids.add(delivery.id)
            self._queue.append((self._submitted, delivery))
            self._start()
            self._changed.notify_all()

    def flush(self, timeout: float | None = None) -> int:
        """Wait until everything queued so far was sent or failed.

        At-least-once deliveries that failed are not waited for: they are safe in their outbox.

        Args:
            timeout: Seconds to wait at most; without end by default.

        Returns:
            The number of deliveries that were not tried in time.
        """
        with self._changed:
            last = self._submitted
            works = not self._queue or self._start()
        if not works:
            self._empty_here(timeout)
        with self._changed:
            if works:
                self._changed.wait_for(lambda: self._all_tried(last), timeout)
            return 0 if self._all_tried(last) else sum(number <= last for number, _ in self._unsent())

    def _all_tried(self, last: int) -> bool:
        # Numbers only grow along the queue.
        return all(entry[0] > last for entry in (self._sending, self._queue[0] if self._queue else None) if entry)

    def _unsent(self) -> list[tuple[int, Delivery]]:
        return [*([self._sending] if self._sending else []), *self._queue]

    def _start(self) -> bool:
        """Start the thread; False where the interpreter is ending and lets none start."""
        if self._thread is None or not self._thread.is_alive():
            thread = threading.Thread(target=self._work, name="mongodb-session-manager-hooks", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                return False
            self._thread = thread
        return True

    def _work(self) -> None:
        while True:
            self._step(self._take(None))

    def _empty_here(self, timeout: float | None) -> None:
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._queue and (deadline is None or time.monotonic() < deadline):
            self._step(self._take(0.0))

    def _take(self, patience: float | None) -> Delivery | None:
        """Return what is to be sent next, as soon as there is something or the patience is over."""
        with self._changed:
            self._changed.wait_for(self._is_ready, self._wait(patience))
            if self._due and self._due[0][0] <= time.monotonic():
                lane = heapq.heappop(self._due)[2]
                return self._held[lane][0] if lane in self._held else None
            if not self._queue:
                return None
            number, delivery = self._queue.popleft()
            if delivery.lane in self._held:
                self._held[delivery.lane].append(delivery)
                self._changed.notify_all()
                return None
            self._sending = (number, delivery)
            return delivery

    def _is_ready(self) -> bool:
        return bool(self._queue) or (bool(self._due) and self._due[0][0] <= time.monotonic())

    def _wait(self, patience: float | None) -> float | None:
        if patience is not None or not self._due:
            return patience
        return max(self._due[0][0] - time.monotonic(), 0.0)

    def _step(self, delivery: Delivery | None) -> None:
        if delivery is None:
            return
        again = self._failed_for_now(delivery)
        with self._changed:
            self._sending = None
            if again:
                self._hold(delivery)
            else:
                self._settle(delivery)
            self._changed.notify_all()

    def _failed_for_now(self, delivery: Delivery) -> bool:
        """Send; whether it is to be tried again."""
        try:
            delivery.send()
        except DeliveryRefusedError as error:
            _log(logging.ERROR, delivery, error, "a notification can never be delivered and was dropped")
        except Exception as error:  # noqa: BLE001 - the thread serves all hooks
            if delivery.durable:
                _log(logging.WARNING, delivery, error, "a notification failed and stays in the outbox")
                return True
            _log(logging.WARNING, delivery, error, "a notification failed and was dropped")
        self._acknowledge(delivery)
        return False

    def _acknowledge(self, delivery: Delivery) -> None:
        if delivery.acknowledge is None:
            return
        try:
            delivery.acknowledge()
        except Exception as error:  # noqa: BLE001 - it is sent again by whoever opens the session next
            _log(logging.WARNING, delivery, error, "a notification was delivered but could not leave the outbox")

    def _settle(self, delivery: Delivery) -> None:
        self._ids.discard(delivery.id)
        held = self._held.get(delivery.lane)
        if held is None or held[0] is not delivery:
            return
        held.popleft()
        self._attempts[delivery.lane] = 0
        if held:
            self._try_again_in(0.0, delivery.lane)
        else:
            self._forget(delivery.lane)

    def _hold(self, delivery: Delivery) -> None:
        lane = delivery.lane
        if lane not in self._held:
            self._held[lane] = deque([delivery])
            self._ids.add(delivery.id)  # a full queue may have let go of it meanwhile
        attempts = self._attempts[lane] = self._attempts.get(lane, 0) + 1
        if attempts <= len(self._retry_delays):
            self._try_again_in(self._retry_delays[attempts - 1], lane)
            return
        left = self._forget(lane)
        logger.error(
            "session_id=<%s>, notifications=<%d>, attempts=<%d> | left in the outbox for the next that opens it",
            delivery.session_id,
            left,
            attempts,
        )

    def _try_again_in(self, seconds: float, lane: Lane) -> None:
        self._submitted += 1  # makes the entries of the heap differ
        heapq.heappush(self._due, (time.monotonic() + seconds, self._submitted, lane))

    def _forget(self, lane: Lane) -> int:
        held = self._held.pop(lane)
        self._attempts.pop(lane, None)
        self._ids.difference_update(delivery.id for delivery in held)
        return len(held)

    def _drop_oldest(self) -> None:
        if self._queue:
            index = next((i for i, (_, queued) in enumerate(self._queue) if not queued.durable), 0)
            session_id, number = self._queue[index][1].session_id, 1
            self._ids.discard(self._queue[index][1].id)
            del self._queue[index]
        elif self._held:
            lane = next(iter(self._held))
            session_id, number = self._held[lane][0].session_id, self._forget(lane)
        else:
            return
        self.dropped += number
        self._warn_of_full_queue(session_id)

    def _warn_of_full_queue(self, session_id: str) -> None:
        if time.monotonic() - self._warned_at < _SECONDS_BETWEEN_WARNINGS:
            return
        self._warned_at = time.monotonic()
        logger.warning(
            "session_id=<%s>, capacity=<%d>, dropped=<%d> | the queue is full, the oldest notification is dropped",
            session_id,
            self._capacity,
            self.dropped,
        )

    def drain_at_exit(self, timeout: float = EXIT_TIMEOUT) -> None:
        """Send what is queued before the interpreter ends, and say what was not."""
        self.flush(timeout)
        with self._changed:
            lost = sum(not delivery.durable for _, delivery in self._unsent())
            kept = len(self._ids) - lost
        if lost or kept:
            logger.warning(
                "dropped=<%d>, in_outbox=<%d> | the interpreter ends before all notifications are sent", lost, kept
            )


def _log(level: int, delivery: Delivery, error: Exception, text: str) -> None:
    # What other exceptions say may quote the content.
    reason = str(error) if isinstance(error, DeliveryError) else type(error).__name__
    logger.log(level, "session_id=<%s>, id=<%s>, error=<%s> | %s", delivery.session_id, delivery.id, reason, text)


_shared = Dispatcher()


def shared_dispatcher() -> Dispatcher:
    """Return the dispatcher of all hooks of this process."""
    return _shared


atexit.register(_shared.drain_at_exit)
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_shared._reset)
