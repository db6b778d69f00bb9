"""Blocking calls off the event loop: they run on a client's threads, and their outcome comes back to the loop."""

import asyncio
import contextvars
import functools
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future
from typing import Any, TypeAlias

from pymongo.errors import InvalidOperation

__all__ = ["Answer", "Outcome", "dropped", "hand_over", "run_off_loop"]

logger = logging.getLogger(__name__)

Answer: TypeAlias = "asyncio.Future[Any]"
# What a call returned, and what it raised instead.
Outcome: TypeAlias = tuple[Any, BaseException | None]


async def run_off_loop(executor: Executor, call: Callable[[], Any]) -> Any:
    """Return what a blocking call returns; a cancelled caller does not tear it."""
    # Not asyncio.wrap_future() under a shield(): those take two more turns of the loop for each message.
    answer: Answer = asyncio.get_running_loop().create_future()
    sent = executor.submit(contextvars.copy_context().run, call)
    sent.add_done_callback(functools.partial(_hand_over_one, answer))
    return await answer


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
            loop.call_soon_threadsafe(_settle, of_loop)
        except RuntimeError:  # the loop was closed meanwhile; what failed stays pending and is raised then
            logger.debug("loop=<%s> | nobody waits for a write any more", loop)


def _settle(answers: Iterable[tuple[Answer, Outcome]]) -> None:
    for answer, (result, error) in answers:
        if answer.done():  # the caller was cancelled: nobody asks for the outcome
            continue
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(result)
