"""The queue behind the hooks, without any service."""

import asyncio
import functools
import logging
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mongodb_session_manager.hooks import dispatcher as dispatcher_module
from mongodb_session_manager.hooks.dispatcher import (
    START_DELAY,
    THREADS,
    Delivery,
    DeliveryError,
    DeliveryRefusedError,
    Dispatcher,
    shared_dispatcher,
)
from tests.watching import eventually


class Sink:
    """Takes deliveries, and fails those that it was told to fail so many times."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.acknowledged: list[str] = []
        self.failures: dict[str, list[Exception]] = {}
        self.gate = threading.Event()
        self.gate.set()

    def delivery(self, name: str, lane: str = "s-1", durable: bool = False, target: str = "") -> Delivery:
        def send() -> None:
            assert self.gate.wait(10)
            if self.failures.get(name):
                raise self.failures[name].pop(0)
            self.sent.append(name)

        acknowledge = (lambda: self.acknowledged.append(name)) if durable else None
        return Delivery(name, lane, lane, send, acknowledge, target)


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture
def dispatcher() -> Dispatcher:
    return Dispatcher(retry_delays=(0.02, 0.02))


def test_keeps_the_order_of_each_lane_and_uses_a_few_threads(dispatcher: Dispatcher, sink: Sink) -> None:
    before = workers()
    names = [f"{number}" for number in range(1000)]

    for number, name in enumerate(names):
        dispatcher.submit(sink.delivery(name, f"s-{number % 70}"))

    assert workers() <= before + THREADS // 2
    assert dispatcher.flush(10) == 0
    for lane in range(70):
        assert [name for name in sink.sent if int(name) % 70 == lane] == names[lane::70]
    assert len(sink.sent) == 1000
    assert len(dispatcher) == 0


def test_a_delivery_leaves_the_interpreter_to_the_request_that_made_it(dispatcher: Dispatcher) -> None:
    begun: list[float] = []
    delivery = Delivery("1", "s", "s", lambda: begun.append(time.monotonic()))

    dispatcher.submit(delivery)
    dispatcher.flush(10)

    assert begun[0] - delivery.made_at >= START_DELAY


def test_a_lane_sends_one_at_a_time(dispatcher: Dispatcher) -> None:
    busy, overlaps = threading.Lock(), []

    def send() -> None:
        if not busy.acquire(blocking=False):
            overlaps.append(1)
            return
        time.sleep(0.001)
        busy.release()

    for number in range(50):
        dispatcher.submit(Delivery(str(number), "s-1", "s-1", send, target=number))

    assert dispatcher.flush(10) == 0
    assert overlaps == []


class Held:
    """Deliveries that hold their threads until they are let go."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher, self._gate = dispatcher, threading.Event()
        self.begun: list[str] = []

    def submit(self, target: str, count: int) -> None:
        for number in range(count):
            lane = f"{target} {number}"
            self._dispatcher.submit(Delivery("1", lane, lane, functools.partial(self._send, target), target=target))

    def _send(self, target: str) -> None:
        self.begun.append(target)
        assert self._gate.wait(20)

    def __enter__(self) -> "Held":
        return self

    def __exit__(self, *exc: object) -> None:
        self._gate.set()
        assert self._dispatcher.flush(10) == 0

    def holds(self, threads: int) -> bool:
        return eventually(lambda: len(self.begun) == threads)


def test_a_target_that_hangs_holds_up_no_other(dispatcher: Dispatcher, sink: Sink) -> None:
    with Held(dispatcher) as held:
        held.submit("a", 100)
        assert eventually(lambda: len(held.begun) == THREADS // 2)
        for number in range(200):
            dispatcher.submit(sink.delivery(str(number), f"s-{number}", target="b"))
        assert eventually(lambda: len(sink.sent) == 200)

        assert held.begun == ["a"] * (THREADS // 2)


def test_each_target_that_hangs_leaves_threads_to_the_others(dispatcher: Dispatcher, sink: Sink) -> None:
    with Held(dispatcher) as held:
        for target, threads in {"a": 8, "b": 12, "c": 14, "d": 15}.items():
            held.submit(target, 100)
            assert held.holds(threads)
        dispatcher.submit(sink.delivery("still sent", target="e"))
        assert eventually(lambda: sink.sent == ["still sent"])

        assert [held.begun.count(target) for target in "abcd"] == [8, 4, 2, 1]


def test_a_target_that_hangs_holds_up_no_further_attempt(dispatcher: Dispatcher, sink: Sink) -> None:
    sink.failures = {"again": [DeliveryError("down"), DeliveryError("down")]}
    with Held(dispatcher) as held:
        for number in range(3):  # threads that wait for work
            dispatcher.submit(sink.delivery(f"early {number}", f"s-{number}", target="b"))
        assert dispatcher.flush(5) == 0
        dispatcher.submit(sink.delivery("again", durable=True, target="b"))
        held.submit("a", THREADS)

        assert eventually(lambda: "again" in sink.sent)
        assert held.holds(THREADS // 2)


def test_flush_waits_for_those_that_are_asked_for(dispatcher: Dispatcher, sink: Sink) -> None:
    with Held(dispatcher) as held:
        held.submit("a", 3)
        mine = sink.delivery("mine", target="b")
        dispatcher.submit(mine)

        assert dispatcher.flush(10, [mine.tried]) == 0
        assert dispatcher.flush(0.05) == 3


def test_equal_ids_of_two_lanes_are_two_deliveries(dispatcher: Dispatcher, sink: Sink) -> None:
    for lane in ("database a", "database b"):
        dispatcher.submit(sink.delivery("1", lane))
    assert dispatcher.flush(5) == 0

    assert sink.sent == ["1", "1"]


def test_whoever_waits_is_told_of_what_is_dropped_or_not_taken(sink: Sink) -> None:
    dispatcher = Dispatcher(capacity=2)
    with Held(dispatcher) as held:
        held.submit("a", 1)
        assert eventually(lambda: held.begun == ["a"])
        one, again, two = (sink.delivery(name, lane="a 0") for name in ("x", "x", "y"))
        for delivery in (one, again, two):
            dispatcher.submit(delivery)

        assert [each.ended.done() for each in (one, again, two)] == [True, True, False]
        assert one.tried.done()
    assert sink.sent == ["y"]


def workers() -> int:
    return sum(thread.name == "mongodb-session-manager-hooks" for thread in threading.enumerate())


def test_submit_never_waits(dispatcher: Dispatcher, sink: Sink) -> None:
    sink.gate.clear()
    started = time.perf_counter()

    for number in range(1000):
        dispatcher.submit(sink.delivery(str(number)))

    assert time.perf_counter() - started < 2
    assert dispatcher.flush(0.05) == 1000
    sink.gate.set()
    assert dispatcher.flush(10) == 0


def test_a_full_queue_drops_the_oldest_best_effort_one(sink: Sink, caplog: pytest.LogCaptureFixture) -> None:
    dispatcher = Dispatcher(capacity=4)
    with Held(dispatcher) as held:
        held.submit("first", 1)
        assert eventually(lambda: held.begun == ["first"])
        for name in ("a", "b", "c", "d", "e"):
            dispatcher.submit(sink.delivery(name, "first 0", durable=name == "a"))
        assert (len(dispatcher), dispatcher.dropped) == (4, 2)

    assert sink.sent == ["a", "d", "e"]
    assert [record.getMessage() for record in caplog.records] == [
        "session_id=<first 0>, capacity=<4>, dropped=<1> | the queue is full, the oldest notification is dropped"
    ]


def test_a_full_queue_leaves_at_least_once_ones_to_their_outbox(sink: Sink) -> None:
    dispatcher = Dispatcher(capacity=3, retry_delays=(30.0,))
    names = [str(number) for number in range(10)]
    sink.failures = {name: [DeliveryError("down")] for name in names}

    for name in names:
        dispatcher.submit(sink.delivery(name, lane=name, durable=True))
        dispatcher.flush(5)

    assert len(dispatcher) <= 3
    assert (sink.sent, sink.acknowledged) == ([], [])


def test_a_failure_is_logged_without_what_others_say(
    dispatcher: Dispatcher, sink: Sink, caplog: pytest.LogCaptureFixture
) -> None:
    sink.failures = {"a": [ValueError("secret")], "b": [DeliveryError("publish: Throttling (HTTP 400)")]}

    for name in ("a", "b", "c"):
        dispatcher.submit(sink.delivery(name))
    dispatcher.flush(5)

    assert sink.sent == ["c"]
    assert [record.getMessage() for record in caplog.records] == [
        "session_id=<s-1>, id=<a>, error=<ValueError> | a notification failed and was dropped",
        "session_id=<s-1>, id=<b>, error=<publish: Throttling (HTTP 400)> | a notification failed and was dropped",
    ]


def test_at_least_once_holds_back_its_lane_only(dispatcher: Dispatcher, sink: Sink) -> None:
    sink.failures = {"a1": [DeliveryError("down"), OSError()]}

    for name in ("a1", "b1", "a2", "b2", "a3"):
        dispatcher.submit(sink.delivery(name, lane=name[0], durable=True))

    assert dispatcher.flush(5) == 0  # does not wait for what is safe in the outbox
    assert eventually(lambda: len(sink.sent) == 5)
    assert sink.sent == ["b1", "b2", "a1", "a2", "a3"]
    assert eventually(lambda: len(dispatcher) == 0)
    assert sink.acknowledged == sink.sent


def test_after_the_last_attempt_the_lane_is_left_to_the_outbox(
    dispatcher: Dispatcher, sink: Sink, caplog: pytest.LogCaptureFixture
) -> None:
    sink.failures = {"a1": [DeliveryError("down")] * 3}

    for name in ("a1", "a2"):
        dispatcher.submit(sink.delivery(name, durable=True))
    assert eventually(lambda: len(dispatcher) == 0)

    assert (sink.sent, sink.acknowledged) == ([], [])
    assert "notifications=<2>, attempts=<3>" in caplog.records[-1].getMessage()
    assert caplog.records[-1].levelno == logging.ERROR

    dispatcher.submit(sink.delivery("a1", durable=True))  # by whoever opens the session next
    dispatcher.flush(5)
    assert sink.acknowledged == ["a1"]


def test_what_is_refused_is_acknowledged(dispatcher: Dispatcher, sink: Sink, caplog: pytest.LogCaptureFixture) -> None:
    sink.failures = {"a": [DeliveryRefusedError("too large")]}

    dispatcher.submit(sink.delivery("a", durable=True))
    dispatcher.submit(sink.delivery("b", durable=True))
    dispatcher.flush(5)

    assert (sink.sent, sink.acknowledged) == (["b"], ["a", "b"])
    assert "can never be delivered" in caplog.text


def test_an_id_is_queued_once(dispatcher: Dispatcher, sink: Sink) -> None:
    sink.gate.clear()
    for _ in range(3):
        dispatcher.submit(sink.delivery("a"))
    sink.gate.set()
    dispatcher.flush(5)

    assert sink.sent == ["a"]


def test_what_has_just_left_its_outbox_is_not_sent_again(dispatcher: Dispatcher, sink: Sink) -> None:
    """Whoever opened the session a moment earlier still knows of it."""
    dispatcher.submit(sink.delivery("a", durable=True))
    assert dispatcher.flush(10) == 0
    late = sink.delivery("a", durable=True)
    dispatcher.submit(late)
    dispatcher.submit(sink.delivery("a", "s-2", durable=True))
    assert dispatcher.flush(10) == 0
    assert late.ended.done()
    assert sink.sent == ["a", "a"]


def test_few_of_those_are_remembered(sink: Sink) -> None:
    dispatcher = Dispatcher(capacity=2)
    for name in "abc":
        dispatcher.submit(sink.delivery(name, durable=True))
        assert dispatcher.flush(10) == 0
    assert eventually(lambda: len(dispatcher) == 0)
    assert len(dispatcher._queue._acknowledged) == 2


def test_an_acknowledgement_that_fails_does_no_harm(
    dispatcher: Dispatcher, sink: Sink, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise OSError

    dispatcher.submit(Delivery("a", "s-1", "s-1", lambda: sink.sent.append("a"), fail))
    dispatcher.submit(sink.delivery("b"))
    dispatcher.flush(5)

    assert sink.sent == ["a", "b"]
    assert "could not leave the outbox" in caplog.text


def test_sends_from_the_caller_where_no_thread_can_start(
    dispatcher: Dispatcher, sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    dispatcher.submit(sink.delivery("a"))

    assert dispatcher.flush(5) == 0
    assert sink.sent == ["a"]


FOLDER = str(Path(dispatcher_module.__file__).parent)
CHILD = """
import logging, os, sys, time, types
sys.modules["hooks"] = types.ModuleType("hooks")  # the package around it takes seconds to import
sys.modules["hooks"].__path__ = [FOLDER]
from hooks.dispatcher import Delivery, shared_dispatcher
logging.basicConfig(format="%(message)s", stream=sys.stdout)
dispatcher = shared_dispatcher()

def deliver(name, seconds, durable=False):
    def send():
        time.sleep(seconds)
        print("sent", name, flush=True)
    dispatcher.submit(Delivery(name, "s", "s", send, (lambda: None) if durable else None))
"""


def child(script: str) -> tuple[list[str], float]:
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", f"FOLDER = {FOLDER!r}\n{CHILD}{script}"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines(), time.perf_counter() - started


def test_the_end_of_the_interpreter_waits_for_what_is_queued() -> None:
    lines, _ = child("for number in range(20): deliver(number, 0.02)")

    assert lines == [f"sent {number}" for number in range(20)]


def test_the_end_of_the_interpreter_waits_no_longer_than_agreed() -> None:
    lines, seconds = child(
        "import atexit, functools; atexit.unregister(dispatcher.drain_at_exit)\n"
        "atexit.register(dispatcher.drain_at_exit, 0.5)\n"
        "for number in range(5): deliver(number, 60, durable=number > 2)"
    )

    assert lines == ["dropped=<3>, in_outbox=<2> | the interpreter ends before all notifications are sent"]
    assert seconds < 20


@pytest.mark.skipif(not hasattr(sys, "abiflags"), reason="there is no fork on Windows")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_sends_its_own_and_not_its_parents() -> None:
    lines, _ = child(
        "import warnings; warnings.simplefilter('ignore')\n"
        "for number in range(3): deliver(f'parent {number}', 0.1)\n"
        "if os.fork() == 0:\n"
        "    deliver('child', 0)\n"
        "    dispatcher.flush(5)\n"
        "    os._exit(0)\n"
        "os.wait()\n"
    )

    assert sorted(lines) == ["sent child", "sent parent 0", "sent parent 1", "sent parent 2"]


def test_all_hooks_share_one_dispatcher() -> None:
    assert shared_dispatcher() is shared_dispatcher()


def test_an_event_loop_is_not_held_up(dispatcher: Dispatcher, sink: Sink) -> None:
    async def main() -> float:
        longest = 0.0
        for number in range(200):
            before = time.perf_counter()
            dispatcher.submit(sink.delivery(str(number)))
            await asyncio.sleep(0)
            longest = max(longest, time.perf_counter() - before)
        return longest

    sink.gate.clear()
    assert asyncio.run(main()) < 0.5
    sink.gate.set()
    assert dispatcher.flush(5) == 0


def test_the_worker_outlives_whatever_is_raised(dispatcher: Dispatcher, sink: Sink) -> None:
    sink.failures = {"a": [RecursionError()]}
    for name in ("a", "b"):
        dispatcher.submit(sink.delivery(name))
    dispatcher.flush(5)

    assert sink.sent == ["b"]
