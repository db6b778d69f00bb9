"""Blocking calls off the event loop: they run on a client's threads, and their outcome comes back to the loop."""

import asyncio
import contextvars
import functools
import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, wait
from contextlib import suppress
from typing import Any, TypeAlias

from pymongo.errors import InvalidOperation

__all__ = [
    "Answer",
    "Outcome",
    "Run",
    "Steps",
    "all_done",
    "dropped",
    "go_through",
    "go_through_off_loop",
    "hand_over",
    "here",
    "in_thread",
    "run_in_thread",
    "run_off_loop",
]

logger = logging.getLogger(__name__)

Answer: TypeAlias = "asyncio.Future[Any]"
# What a call returned, and what it raised instead.
Outcome: TypeAlias = tuple[Any, BaseException | None]
# How a blocking call is made.
Run: TypeAlias = "Callable[[Callable[[], Any]], Future[Any]]"
# Work that goes on each time when what it yields is done, or the seconds beside are over (None: there is no limit).
Steps: TypeAlias = "Iterator[tuple[Sequence[Future[Any]], float | None]]"


async def run_off_loop(executor: Executor, call: Callable[[], Any]) -> Any:
    """Return what a blocking call returns; a cancelled caller does not tear it."""
    # Not asyncio.wrap_future() under a shield(): those take two more turns of the loop for each message.
    return await _answer_of(executor.submit(contextvars.copy_context().run, call))


async def run_in_thread(call: Callable[[], Any]) -> Any:
    """Return what a blocking call returns, from a thread of its own: it may wait for others."""
    return await _answer_of(in_thread(call))


def _answer_of(sent: "Future[Any]") -> Answer:
    answer: Answer = asyncio.get_running_loop().create_future()
    sent.add_done_callback(functools.partial(_hand_over_one, answer))
    return answer


def _hand_over_one(answer: Answer, sent: "Future[Any]") -> None:
    if sent.cancelled():  # which is not the caller's cancellation
        outcome: Outcome = None, dropped()
    elif error := sent.exception():
        outcome = None, error
    else:
        outcome = sent.result(), None
    hand_over([(answer, outcome)])


def dropped() -> InvalidOperation:
    """Return what is raised for a call that a client's threads did not come to."""
    return InvalidOperation("This was not sent: the MongoClient was closed meanwhile, or no thread can be started.")


def hand_over(answers: Iterable[tuple[Answer, Outcome]]) -> None:
    """Take outcomes from the thread of their calls to the loops that wait for them; each loop is woken once."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Answer, Outcome]]] = defaultdict(list)
    for answer, outcome in answers:
        by_loop[answer.get_loop()].append((answer, outcome))
    for loop, of_loop in by_loop.items():
        try:
            loop.call_soon_threadsafe(_resolve, of_loop)
        except RuntimeError:  # the loop was closed meanwhile; what failed stays pending and is raised then
            logger.debug("loop=<%s> | nobody waits for a write any more", loop)


def _resolve(answers: Iterable[tuple[Answer, Outcome]]) -> None:
    for answer, (result, error) in answers:
        if answer.done():  # the caller was cancelled: nobody asks for the outcome
            continue
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(result)


# Work in several steps


def here(call: Callable[[], Any]) -> "Future[Any]":
    """Make a blocking call, and return its outcome."""
    done: Future[Any] = Future()
    try:
        done.set_result(call())
    except Exception as error:  # noqa: BLE001 - raised where it is asked for
        done.set_exception(error)
    return done


def in_thread(call: Callable[[], Any]) -> "Future[Any]":
    """Make a blocking call in a thread that is started for it; where none can start, make it here."""
    done: Future[Any] = Future()

    def make() -> None:
        try:
            done.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised where it is asked for
            done.set_exception(error)

    try:
        threading.Thread(
            target=contextvars.copy_context().run, args=(make,), name="mongodb-session-manager-call"
        ).start()
    except RuntimeError:
        make()
    return done


def go_through(steps: Steps) -> None:
    """Go through all steps, waiting in this thread."""
    for futures, timeout in steps:
        wait(futures, timeout)


async def go_through_off_loop(steps: Steps) -> None:
    """Do the same without a thread that waits; when nobody waits here any more, one goes on with it."""
    for futures, timeout in steps:
        try:
            await all_done(futures, timeout)
        except BaseException:  # cancelled, or the loop ends
            in_thread(functools.partial(_go_on, futures, timeout, steps))
            raise


def _go_on(futures: "Sequence[Future[Any]]", timeout: float | None, steps: Steps) -> None:
    wait(futures, timeout)
    go_through(steps)


async def all_done(futures: "Sequence[Future[Any]]", timeout: float | None) -> None:
    """Return when all are done, or the time is over; nothing is raised of what they raise."""
    left = {future for future in futures if not future.done()}
    if not left:
        return
    answer: Answer = asyncio.get_running_loop().create_future()

    def note(done: "Future[Any]") -> None:
        left.discard(done)
        if not left:
            hand_over([(answer, (None, None))])

    for future in tuple(left):
        future.add_done_callback(note)
    with suppress(asyncio.TimeoutError):
        await asyncio.wait_for(answer, timeout)
