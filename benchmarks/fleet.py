"""Many agents in one event loop: how long all take, and how late the loop gets."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from statistics import median, quantiles
from time import perf_counter

from contender import Contender, Conversation
from measures import Tick
from workload import new_session

HISTORY = 10
TICK_SECONDS = 0.001


@dataclass(frozen=True)
class Run:
    total: float
    lags: list[float]


async def time_fleets(
    filling: Sequence[Contender], working: Sequence[Contender], size: int, turns: int, count: int, tick: Tick
) -> dict[str, dict[str, float]]:
    """Return milliseconds by contender: ``total``, ``lag_p50``, ``lag_p99``; medians of some runs.

    Args:
        filling: The contenders where they fill sessions without delay.
        working: The same where they work.
        size: How many agents.
        turns: How many turns each of them holds.
        count: How many runs.
        tick: Called after each run.
    """
    runs: dict[str, list[Run]] = {contender.name: [] for contender in working}
    for _ in range(count):
        for filler, worker in zip(filling, working, strict=True):
            conversations = await _prepare(filler, worker, size)
            runs[worker.name].append(await _run(conversations, turns))
            for conversation in conversations:
                await conversation.settle()
                await conversation.close()
            tick()
    return {name: _medians(found) for name, found in runs.items()}


async def time_openings(
    filling: Sequence[Contender], working: Sequence[Contender], size: int, count: int, tick: Tick
) -> dict[str, float]:
    """Return milliseconds by contender until so many sessions are open, with what an agent needs of each."""
    times: dict[str, list[float]] = {contender.name: [] for contender in working}
    session_ids = {filler.name: [new_session(HISTORY) for _ in range(size)] for filler in filling}
    for filler in filling:
        for session_id in session_ids[filler.name]:
            await filler.fill(session_id, HISTORY)
    for number in range(count + 1):
        for worker in working:
            started = perf_counter()
            entered = await asyncio.gather(*map(worker.enter, session_ids[worker.name]))
            if number:  # connections and threads are there
                times[worker.name].append(perf_counter() - started)
            await asyncio.gather(*(each.close() for each in entered if each is not None))
        tick()
    return {name: median(found) * 1000 for name, found in times.items()}


async def _prepare(filler: Contender, worker: Contender, size: int) -> list[Conversation]:
    session_ids = [new_session(HISTORY) for _ in range(size)]
    for session_id in session_ids:
        await filler.fill(session_id, HISTORY)
    conversations = [await worker.open(session_id) for session_id in session_ids]
    # Connections and threads are there before the clock starts.
    await asyncio.gather(*(conversation.turn() for conversation in conversations))
    await asyncio.gather(*(conversation.settle() for conversation in conversations))
    return conversations


async def _run(conversations: Sequence[Conversation], turns: int) -> Run:
    async def talk(conversation: Conversation) -> None:
        for _ in range(turns):
            await conversation.turn()

    async with _lags() as lags:
        started = perf_counter()
        await asyncio.gather(*map(talk, conversations))
        total = perf_counter() - started
        # A loop that was never free has not let the watcher in.
        await asyncio.sleep(5 * TICK_SECONDS)
        return Run(total, lags)


@asynccontextmanager
async def _lags() -> AsyncIterator[list[float]]:
    """Measure how much later than asked a sleeping task goes on."""
    found: list[float] = []

    async def watch() -> None:
        while True:
            asked = perf_counter() + TICK_SECONDS
            await asyncio.sleep(TICK_SECONDS)
            found.append(perf_counter() - asked)

    watching = asyncio.create_task(watch())
    try:
        yield found
    finally:
        watching.cancel()


def _medians(runs: Sequence[Run]) -> dict[str, float]:
    percentiles = [quantiles(run.lags, n=100) for run in runs]
    return {
        "total": median(run.total for run in runs) * 1000,
        "lag_p50": median(each[49] for each in percentiles) * 1000,
        "lag_p99": median(each[98] for each in percentiles) * 1000,
    }
