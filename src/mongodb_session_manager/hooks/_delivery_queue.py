"""The deliveries that wait or are being sent, in lanes; memory only, and no lock."""

import heapq
import itertools
import time
from collections import Counter, deque
from collections.abc import Hashable, Iterator

from ._delivery import Delivery, Key


class Lane:
    """The deliveries of one lane; the first of them may be on its way."""

    def __init__(self, target: Hashable) -> None:
        self.target = target
        self.deliveries: deque[Delivery] = deque()
        # Attempts at the first delivery.
        self.attempts = 0
        # Whether the first delivery waits for another attempt.
        self.held = False

    @property
    def first(self) -> Delivery:
        return self.deliveries[0]


class _ReadyLanes:
    """The lanes that may be served, by target, in turns, so that a slow target does not hold up another."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._by_target: dict[Hashable, deque[Lane]] = {}
        self._busy: Counter[Hashable] = Counter()

    def add(self, lane: Lane) -> None:
        self._by_target.setdefault(lane.target, deque()).append(lane)

    def begin(self) -> Lane | None:
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

    def end(self, lane: Lane) -> None:
        self._busy[lane.target] -= 1
        if not self._busy[lane.target]:
            del self._busy[lane.target]

    def any_may_begin(self) -> bool:
        return any(self._has_room(target) for target in self._by_target)

    def _has_room(self, target: Hashable) -> bool:
        # Half of the threads that other targets leave, so that one is free for the next target.
        own = self._busy[target]
        return not own or own < (self._threads - (self._busy.total() - own)) // 2

    def _to_the_end(self, target: Hashable) -> None:
        lanes = self._by_target.pop(target)
        if lanes:
            self._by_target[target] = lanes


class DeliveryQueue:
    """Deliveries by lane, and which of them a free thread is to send next. Its user holds a lock around each call.

    Args:
        capacity: Deliveries at most. Beyond, the oldest best-effort one is dropped; if there is none, the oldest, which
            stays in its outbox.
        retry_delays: Seconds before each further attempt.
        threads: Deliveries that are being sent at the same time at most.
    """

    def __init__(self, capacity: int, retry_delays: tuple[float, ...], threads: int) -> None:
        self._capacity, self._retry_delays = capacity, retry_delays
        self._deliveries: dict[Key, Delivery] = {}
        self._lanes: dict[Hashable, Lane] = {}
        self._ready = _ReadyLanes(threads)
        # Deliveries that no thread is sending, oldest first, by whether they are at-least-once.
        self._waiting: dict[bool, dict[Key, Delivery]] = {False: {}, True: {}}
        self._due: list[tuple[float, int, Lane]] = []
        self._numbers = itertools.count()  # keep entries of the heap in order
        # Deliveries that have left their outbox, by hash, oldest first: a manager that read it earlier may submit them.
        self._acknowledged: dict[int, None] = {}

    def __iter__(self) -> Iterator[Delivery]:
        """Give all that have not ended."""
        return iter(self._deliveries.values())

    def __len__(self) -> int:
        return len(self._deliveries)

    def add(self, delivery: Delivery) -> Delivery | None:
        """Put a delivery at the end of its lane, unless it is known; return the one that a full queue drops for it."""
        if delivery.key in self._deliveries or hash(delivery.key) in self._acknowledged:
            delivery.end()
            return None
        dropped = self._drop_oldest() if len(self._deliveries) >= self._capacity else None
        self._deliveries[delivery.key] = self._waiting[delivery.durable][delivery.key] = delivery
        lane = self._lanes.get(delivery.lane)
        if lane is None:
            lane = self._lanes[delivery.lane] = Lane(delivery.target)
            self._ready.add(lane)
        lane.deliveries.append(delivery)
        if lane.held and delivery.durable:
            delivery.note_tried()
        return dropped

    def has_work(self) -> bool:
        """Return whether a thread could serve a lane, or wait for the next attempt at one."""
        return bool(self._due) or self._ready.any_may_begin()

    def begin(self) -> Lane | None:
        """Return the lane whose first delivery is to be sent now; None if there is none."""
        self._wake_due_lanes()
        lane = self._ready.begin()
        if lane is not None:
            del self._waiting[lane.first.durable][lane.first.key]
        return lane

    def seconds_to_next(self) -> float | None:
        """Return the seconds until a held lane is due; None if no lane is held."""
        return max(self._due[0][0] - time.monotonic(), 0.0) if self._due else None

    def finish(self, lane: Lane, *, acknowledged: bool) -> None:
        """End the first delivery of a lane that was begun."""
        self._ready.end(lane)
        delivery = lane.deliveries.popleft()
        lane.attempts = 0
        if acknowledged:
            self._remember(delivery)
        self._end(delivery)
        if lane.deliveries:
            self._ready.add(lane)
        else:
            del self._lanes[delivery.lane]

    def hold(self, lane: Lane) -> list[Delivery]:
        """Hold a lane that was begun until its next attempt; after the last, return what is left to the outbox."""
        self._ready.end(lane)
        lane.attempts += 1
        if lane.attempts > len(self._retry_delays):
            return self._leave(lane)
        lane.held = True
        self._waiting[lane.first.durable][lane.first.key] = lane.first
        for delivery in lane.deliveries:
            if delivery.durable:
                delivery.note_tried()
        due = time.monotonic() + self._retry_delays[lane.attempts - 1]
        heapq.heappush(self._due, (due, next(self._numbers), lane))
        return []

    def _wake_due_lanes(self) -> None:
        while self._due and self._due[0][0] <= time.monotonic():
            lane = heapq.heappop(self._due)[2]
            lane.held = False
            if lane.deliveries:
                self._ready.add(lane)

    def _remember(self, delivery: Delivery) -> None:
        self._acknowledged[hash(delivery.key)] = None
        if len(self._acknowledged) > self._capacity:
            del self._acknowledged[next(iter(self._acknowledged))]

    def _leave(self, lane: Lane) -> list[Delivery]:
        left = list(lane.deliveries)
        for delivery in left:
            self._end(delivery)
        lane.deliveries.clear()
        del self._lanes[left[0].lane]
        return left

    def _drop_oldest(self) -> Delivery | None:
        waiting = self._waiting[False] or self._waiting[True]
        if not waiting:  # all are being sent
            return None
        delivery = next(iter(waiting.values()))
        lane = self._lanes[delivery.lane]
        if delivery is lane.first:
            lane.attempts = 0
        lane.deliveries.remove(delivery)
        self._end(delivery)
        if not lane.deliveries:
            del self._lanes[delivery.lane]
        return delivery

    def _end(self, delivery: Delivery) -> None:
        self._waiting[delivery.durable].pop(delivery.key, None)
        del self._deliveries[delivery.key]
        delivery.end()
