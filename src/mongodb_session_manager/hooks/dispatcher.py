"""Sends notifications in the background: a few threads for all hooks of the process, each session in order."""

import atexit
import heapq
import itertools
import logging
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import Final, TypeAlias

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
# A full queue may overflow thousands of times a second.
_SECONDS_BETWEEN_WARNINGS = 1.0

_Key: TypeAlias = tuple[Hashable, str]


class DeliveryError(Exception):
    """A delivery failed; the message holds no content and no credentials. Another attempt may succeed."""


class DeliveryRefusedError(DeliveryError):
    """A delivery failed, and every further attempt would fail too."""


@dataclass(frozen=True, eq=False)
class Delivery:
    """One notification that is to be sent.

    Attributes:
        id: Its id; a second delivery with an id that is in its lane, or has just left its outbox, is ignored.
        session_id: The session, for the log.
        lane: Deliveries of one lane are sent one after the other, in order.
        send: Sends it; raises ``DeliveryRefusedError`` if another attempt would fail too.
        acknowledge: Removes it from the outbox; None for best effort.
        target: Its address; one target takes at most half of the threads.
        tried: Is done when it was sent, has failed once, or waits in the outbox behind one that has failed.
        ended: Is done when the dispatcher has finished with it.
    """

    id: str
    session_id: str
    lane: Hashable
    send: Callable[[], None]
    acknowledge: Callable[[], None] | None = None
    target: Hashable = None
    tried: "Future[None]" = field(default_factory=Future, repr=False)
    ended: "Future[None]" = field(default_factory=Future, repr=False)

    @property
    def durable(self) -> bool:
        """Whether another process sends it if this one does not."""
        return self.acknowledge is not None

    @property
    def key(self) -> _Key:
        """Identifies the notification."""
        return self.lane, self.id

    def note_tried(self) -> None:
        """Resolve ``tried``."""
        if not self.tried.done():
            self.tried.set_result(None)

    def end(self) -> None:
        """Resolve ``ended``, then ``tried``."""
        self.ended.set_result(None)
        self.note_tried()


class _Lane:
    """The deliveries of one lane; the first of them may be on its way."""

    def __init__(self, target: Hashable) -> None:
        self.target = target
        self.deliveries: deque[Delivery] = deque()
        # Attempts at the first delivery.
        self.attempts = 0
        # Whether the first delivery waits for another attempt.
        self.held = False


class _ReadyLanes:
    """The lanes that may be served, by target, in turns, so that a slow target does not hold up another."""

    def __init__(self) -> None:
        self._by_target: dict[Hashable, deque[_Lane]] = {}
        self._busy: Counter[Hashable] = Counter()

    def add(self, lane: _Lane) -> None:
        self._by_target.setdefault(lane.target, deque()).append(lane)

    def begin(self) -> _Lane | None:
        """Return the lane that a free thread is to serve; None if each must wait for its target."""
        for target in list(self._by_target):
            lanes = self._by_target[target]
            while lanes and not lanes[0].deliveries:  # dropped meanwhile
                lanes.popleft()
            if lanes and self._has_room(target):
                self._busy[target] += 1
                lane = lanes.popleft()
                self._to_the_end(target)
                return lane
            if not lanes:
                del self._by_target[target]
        return None

    def end(self, lane: _Lane) -> None:
        self._busy[lane.target] -= 1
        if not self._busy[lane.target]:
            del self._busy[lane.target]

    def any_may_begin(self) -> bool:
        return any(self._has_room(target) for target in self._by_target)

    def _has_room(self, target: Hashable) -> bool:
        # Half of the threads that other targets leave, so that one is free for the next target.
        own = self._busy[target]
        return not own or own < (THREADS - (self._busy.total() - own)) // 2

    def _to_the_end(self, target: Hashable) -> None:
        lanes = self._by_target.pop(target)
        if lanes:
            self._by_target[target] = lanes


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
        self.reset()

    def reset(self) -> None:
        """Begin anew, also in a forked child: the parent sends queued deliveries, and its threads do not exist here."""
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        # The number of threads that wait for work or are about to look for it.
        self._idle = 0
        self._lanes: dict[Hashable, _Lane] = {}
        self._ready = _ReadyLanes()
        # Deliveries that no thread is sending, oldest first, by whether they are at-least-once.
        self._waiting: dict[bool, dict[_Key, Delivery]] = {False: {}, True: {}}
        self._deliveries: dict[_Key, Delivery] = {}
        self._due: list[tuple[float, int, _Lane]] = []
        self._numbers = itertools.count()  # keep entries of the heap in order
        # Deliveries that have left their outbox, by hash, oldest first: a manager that read it earlier may submit them.
        self._acknowledged: dict[int, None] = {}
        self._warned_at = -_SECONDS_BETWEEN_WARNINGS

    def __len__(self) -> int:
        """Return the number of deliveries that are queued, being sent, or waiting for another attempt."""
        with self._changed:
            return len(self._deliveries)

    def submit(self, delivery: Delivery) -> None:
        """Queue a delivery and return at once."""
        with self._changed:
            if delivery.key in self._deliveries or hash(delivery.key) in self._acknowledged:
                delivery.end()
                return
            if len(self._deliveries) >= self._capacity:
                self._drop_oldest()
            self._deliveries[delivery.key] = self._waiting[delivery.durable][delivery.key] = delivery
            lane = self._lanes.get(delivery.lane)
            if lane is None:
                lane = self._lanes[delivery.lane] = _Lane(delivery.target)
                self._ready.add(lane)
            lane.deliveries.append(delivery)
            if lane.held and delivery.durable:
                delivery.note_tried()
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
            chosen = [delivery.tried for delivery in self._deliveries.values()] if waited is None else list(waited)
            works = not self._deliveries or self._has_thread()
        if not works:
            self._empty_here(timeout)
        return len(wait(chosen, timeout if works else 0).not_done)

    # Threads

    def _call_a_thread(self) -> None:
        """Call a thread if a lane may be served or a retry is due; a thread that begins to serve calls the next."""
        if not (self._due or self._ready.any_may_begin()):
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
            self._serve(self._next(wait=True))

    def _empty_here(self, timeout: float | None) -> None:
        deadline = None if timeout is None else time.monotonic() + timeout
        while deadline is None or time.monotonic() < deadline:
            lane = self._next(wait=False)
            if lane is None:
                return
            self._serve(lane)

    def _next(self, *, wait: bool) -> _Lane | None:
        """Return the lane to serve next; without ``wait``, None if there is none now."""
        with self._changed:
            while True:
                self._wake_due_lanes()
                lane = self._ready.begin()
                if lane is not None:
                    self._idle -= 1
                    self._begin(lane)
                    self._call_a_thread()
                    return lane
                if not wait:
                    return None
                self._changed.wait(self._seconds_to_next())

    def _wake_due_lanes(self) -> None:
        while self._due and self._due[0][0] <= time.monotonic():
            lane = heapq.heappop(self._due)[2]
            lane.held = False
            if lane.deliveries:
                self._ready.add(lane)

    def _seconds_to_next(self) -> float | None:
        return max(self._due[0][0] - time.monotonic(), 0.0) if self._due else None

    def _begin(self, lane: _Lane) -> None:
        delivery = lane.deliveries[0]
        del self._waiting[delivery.durable][delivery.key]

    # One delivery

    def _serve(self, lane: _Lane | None) -> None:
        if lane is None:
            return
        delivery = lane.deliveries[0]
        again = self._failed_for_now(delivery)
        with self._changed:
            self._idle += 1
            self._ready.end(lane)
            if again:
                self._hold(lane, delivery)
            else:
                self._finish(lane, delivery)
            self._call_a_thread()

    def _failed_for_now(self, delivery: Delivery) -> bool:
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
        self._acknowledge(delivery)
        return False

    def _acknowledge(self, delivery: Delivery) -> None:
        if delivery.acknowledge is None:
            return
        try:
            delivery.acknowledge()
        except Exception as error:  # noqa: BLE001 - the next process that opens the session sends it again
            _log(logging.WARNING, delivery, error, "a notification was delivered but could not leave the outbox")
            return
        with self._changed:
            self._acknowledged[hash(delivery.key)] = None
            if len(self._acknowledged) > self._capacity:
                del self._acknowledged[next(iter(self._acknowledged))]

    def _finish(self, lane: _Lane, delivery: Delivery) -> None:
        lane.attempts = 0
        lane.deliveries.popleft()
        self._end(delivery)
        if lane.deliveries:
            self._ready.add(lane)
        else:
            del self._lanes[delivery.lane]

    def _hold(self, lane: _Lane, delivery: Delivery) -> None:
        lane.attempts += 1
        if lane.attempts > len(self._retry_delays):
            self._leave_to_outbox(lane, delivery)
            return
        lane.held = True
        self._waiting[delivery.durable][delivery.key] = delivery
        for behind in lane.deliveries:
            if behind.durable:
                behind.note_tried()
        due = time.monotonic() + self._retry_delays[lane.attempts - 1]
        heapq.heappush(self._due, (due, next(self._numbers), lane))

    def _leave_to_outbox(self, lane: _Lane, delivery: Delivery) -> None:
        logger.error(
            "session_id=<%s>, notifications=<%d>, attempts=<%d> | left in the outbox, the next opening sends them",
            delivery.session_id,
            len(lane.deliveries),
            lane.attempts,
        )
        for left in lane.deliveries:
            self._end(left)
        lane.deliveries.clear()
        del self._lanes[delivery.lane]

    def _end(self, delivery: Delivery) -> None:
        self._waiting[delivery.durable].pop(delivery.key, None)
        del self._deliveries[delivery.key]
        delivery.end()

    # A full queue

    def _drop_oldest(self) -> None:
        waiting = self._waiting[False] or self._waiting[True]
        if not waiting:  # all are being sent
            return
        delivery = next(iter(waiting.values()))
        lane = self._lanes[delivery.lane]
        lane.deliveries.remove(delivery)
        self._end(delivery)
        if not lane.deliveries:
            del self._lanes[delivery.lane]
        self.dropped += 1
        self._warn_of_full_queue(delivery.session_id)

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
        """Send queued deliveries before the interpreter ends, and log how many are left."""
        started = time.monotonic()
        for durable, seconds in ((True, min(timeout, OUTBOX_TIMEOUT)), (False, timeout)):
            with self._changed:
                waited = [each.tried for each in self._deliveries.values() if each.durable is durable]
            self.flush(max(started + seconds - time.monotonic(), 0.0), waited)
        with self._changed:
            kept = sum(delivery.durable for delivery in self._deliveries.values())
            lost = len(self._deliveries) - kept
        if lost or kept:
            logger.warning(
                "dropped=<%d>, in_outbox=<%d> | the interpreter ends before all notifications are sent", lost, kept
            )


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
