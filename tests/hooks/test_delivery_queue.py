"""The queue of notifications, by random walks without a thread."""

import random
from collections import Counter

import pytest

from mongodb_session_manager.hooks._delivery import Delivery
from mongodb_session_manager.hooks._delivery_queue import DeliveryQueue, Lane

STEPS = 10_000
THREADS = 4
CAPACITY = 12
# So many failed attempts at one delivery leave its lane to the outbox.
ATTEMPTS = 3


class Walk:
    """Adds, begins, finishes and fails deliveries at random, and knows what is to come of each."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.queue = DeliveryQueue(CAPACITY, (0.0,) * (ATTEMPTS - 1), THREADS)
        self.busy: list[Lane] = []
        self.given: list[Delivery] = []
        self.sent: list[Delivery] = []
        self.gone: list[Delivery] = []
        self.failures: Counter[str] = Counter()

    def add(self) -> None:
        lane = self.dice.randrange(6)
        acknowledge = (lambda: None) if self.dice.random() < 0.5 else None
        delivery = Delivery(str(len(self.given)), "s", lane, lambda: None, acknowledge, target=lane % 3)
        dropped = self.queue.add(delivery)
        self.given.append(delivery)
        if dropped is not None:
            best_effort = [each for each in self.waiting() if not each.durable and each is not delivery]
            assert not dropped.durable or not best_effort
            self.gone.append(dropped)

    def waiting(self) -> list[Delivery]:
        on_their_way = {lane.first.id for lane in self.busy}
        return [each for each in self.queue if each.id not in on_their_way]

    def begin(self) -> None:
        if len(self.busy) == THREADS:
            return
        lane = self.queue.begin()
        if lane is not None:
            assert lane not in self.busy
            self.busy.append(lane)
            assert self.leaves_a_thread(lane)

    def leaves_a_thread(self, lane: Lane) -> bool:
        """Whether a target that has more than one thread takes at most half of what others leave it."""
        own = sum(each.target == lane.target for each in self.busy)
        return own == 1 or own <= (THREADS - (len(self.busy) - own)) // 2

    def take(self) -> Lane:
        return self.busy.pop(self.dice.randrange(len(self.busy)))

    def finish(self) -> None:
        if self.busy:
            lane = self.take()
            self.sent.append(lane.first)
            self.queue.finish(lane, acknowledged=lane.first.durable)

    def fail(self) -> None:
        durable = [lane for lane in self.busy if lane.first.durable]
        if durable:
            lane = self.dice.choice(durable)
            self.busy.remove(lane)
            first = lane.first
            self.failures[first.id] += 1
            left = self.queue.hold(lane)
            assert bool(left) == (self.failures[first.id] == ATTEMPTS)
            assert first.tried.done()
            self.gone.extend(left)

    def step(self) -> None:
        (act,) = self.dice.choices([self.add, self.begin, self.finish, self.fail], [5, 6, 4, 2])
        act()
        assert len(self.queue) <= CAPACITY

    def end(self) -> None:
        while self.busy or len(self.queue):
            self.begin()
            self.finish()


@pytest.mark.parametrize("seed", range(5))
def test_each_delivery_is_sent_or_left_and_each_lane_is_in_order(seed: int) -> None:
    walk = Walk(seed)
    for _ in range(STEPS // 5):
        walk.step()
    walk.end()

    assert Counter(each.id for each in walk.sent + walk.gone) == Counter(each.id for each in walk.given)
    assert all(each.ended.done() and each.tried.done() for each in walk.given)
    assert len(walk.sent) > STEPS / 5 / 10
    assert walk.gone
    for lane in range(6):
        numbers = [int(each.id) for each in walk.sent if each.lane == lane]
        assert numbers == sorted(numbers)


def test_what_is_sent_and_acknowledged_is_not_taken_again() -> None:
    queue = DeliveryQueue(CAPACITY, (), THREADS)
    for _ in range(2):
        delivery = Delivery("1", "s", "lane", lambda: None, lambda: None)
        queue.add(delivery)
        lane = queue.begin()
        if lane is not None:
            queue.finish(lane, acknowledged=True)
        assert delivery.ended.done()

    assert (len(queue), queue.begin(), queue.has_work()) == (0, None, False)


def test_a_target_that_holds_its_threads_leaves_one_for_the_next() -> None:
    queue = DeliveryQueue(CAPACITY, (), THREADS)
    for number in range(6):
        queue.add(Delivery(str(number), "s", number, lambda: None, target="slow"))
    begun = [queue.begin() for _ in range(4)]
    assert [lane is not None for lane in begun] == [True, True, False, False]

    queue.add(Delivery("7", "s", 7, lambda: None, target="other"))
    assert queue.has_work()
    assert queue.begin() is not None
