"""Blocking calls off the event loop: they run on a client's threads, and the outcome is passed to the loop."""

import asyncio
import contextvars
import functools
import logging
import sys
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
# The result of a call, and the exception that it raised instead.
Outcome: TypeAlias = tuple[Any, BaseException | None]
# Runs a blocking call.
Run: TypeAlias = "Callable[[Callable[[], Any]], Future[Any]]"
# Work in steps: each yields futures to wait for, and the seconds to wait at most (None: no limit).
Steps: TypeAlias = "Iterator[tuple[Sequence[Future[Any]], float | None]]"


async def run_off_loop(executor: Executor, call: Callable[[], Any]) -> Any:
    """Return the result of a blocking call, which goes on if the caller is cancelled."""
    # asyncio.wrap_future() under a shield() would take two more turns of the loop for each message.
    return await _answer_of(executor.submit(contextvars.copy_context().run, call))


async def run_in_thread(call: Callable[[], Any]) -> Any:
    """Return the result of a blocking call that may wait for the client's threads, so it gets a new thread."""
    return await _answer_of(in_thread(call))


def _answer_of(sent: "Future[Any]") -> Answer:
    answer: Answer = asyncio.get_running_loop().create_future()
    sent.add_done_callback(functools.partial(_hand_over_one, answer))
    return answer


def _hand_over_one(answer: Answer, sent: "Future[Any]") -> None:
    if sent.cancelled():  # the call was cancelled, not the caller
        outcome: Outcome = None, dropped()
    elif error := sent.exception():
        outcome = None, error
    else:
        outcome = sent.result(), None
    hand_over([(answer, outcome)])


def dropped() -> InvalidOperation:
    """Return the error for a call that a client's threads never began."""
    return InvalidOperation("This was not sent: the MongoClient was closed meanwhile, or no thread can be started.")


def hand_over(answers: Iterable[tuple[Answer, Outcome]]) -> None:
    """Pass outcomes to the event loops that wait for them; each loop is woken once."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Answer, Outcome]]] = defaultdict(list)
    for answer, outcome in answers:
        by_loop[answer.get_loop()].append((answer, outcome))
    for loop, of_loop in by_loop.items():
        try:
            loop.call_soon_threadsafe(_resolve, of_loop)
        except RuntimeError:  # the loop was closed meanwhile; what failed stays pending and is raised then
            logger.debug("loop=<%s> | the event loop that waited for a write is closed", loop)


def _resolve(answers: Iterable[tuple[Answer, Outcome]]) -> None:
    for answer, (result, error) in answers:
        if answer.done():  # the caller was cancelled and needs no outcome
            continue
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(result)


# Work in several steps


def here(call: Callable[[], Any]) -> "Future[Any]":
    """Run a blocking call in this thread, and return its outcome."""
    done: Future[Any] = Future()
    try:
        done.set_result(call())
    except Exception as error:  # noqa: BLE001 - raised where it is asked for
        done.set_exception(error)
    return done


def in_thread(call: Callable[[], Any]) -> "Future[Any]":
    """Run a blocking call in a new thread; in this one, if no thread can be started."""
    done: Future[Any] = Future()
    if sys.is_finalizing():  # a thread would never begin, and whoever starts it would wait for ever
        done.set_exception(dropped())
        return done

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
    """Run all steps, and wait in this thread."""
    for futures, timeout in steps:
        wait(futures, timeout)


async def go_through_off_loop(steps: Steps) -> None:
    """Run all steps without blocking a thread; if the caller is cancelled, a thread continues with them.

    Also if the loop is closed meanwhile, since the caller may be collected much later, or never.
    """
    for futures, timeout in steps:
        if not futures:
            continue
        rest: list[Callable[[], Any]] = [functools.partial(_go_on, futures, timeout, steps)]
        go_on = functools.partial(_in_thread_once, rest)
        try:
            await all_done(futures, timeout, lost=go_on)
        except BaseException:  # cancelled, or the loop ends
            go_on()
            raise


def _in_thread_once(calls: list[Callable[[], Any]]) -> None:
    with suppress(IndexError):  # another thread has taken it
        in_thread(calls.pop())


def _go_on(futures: "Sequence[Future[Any]]", timeout: float | None, steps: Steps) -> None:
    wait(futures, timeout)
    go_through(steps)


async def all_done(
    futures: "Sequence[Future[Any]]", timeout: float | None, lost: Callable[[], None] | None = None
) -> None:
    """Return when all are done, or the time is over; their exceptions are not raised.

    Args:
        futures: What to wait for.
        timeout: Seconds; None for no limit.
        lost: Is called when all are done, if the loop is closed by then, so that this never returns.
    """
    left = {future for future in futures if not future.done()}
    if not left:
        return
    answer: Answer = asyncio.get_running_loop().create_future()

    def note(done: "Future[Any]") -> None:
        left.discard(done)
        if not left:
            hand_over([(answer, (None, None))])
            if lost is not None and answer.get_loop().is_closed():
                lost()

    for future in tuple(left):
        future.add_done_callback(note)
    with suppress(asyncio.TimeoutError):
        await asyncio.wait_for(answer, timeout)
