"""CPU time and peak memory of each contender, in a process of its own."""

import asyncio
import resource
import tracemalloc
from collections.abc import Iterable
from multiprocessing.connection import Connection
from pathlib import Path
from time import process_time
from typing import Any, cast

from contender import Contender, open_place
from contenders import CONTENDERS
from measures import Tick
from processes import CONTEXT, warm_up
from workload import new_session

HISTORY = 1_000
WARM_UP_TURNS = 5


async def measure_resources(
    contenders: Iterable[Contender], uri: str, turns: int, tick: Tick
) -> dict[str, dict[str, float]]:
    """Return ``cpu_ms`` of a turn, ``peak_rss_mb`` of the process and ``peak_python_kb`` of a request."""
    found = {}
    for contender in contenders:
        session_id = new_session(HISTORY)
        await contender.fill(session_id, HISTORY)
        place = contender.place
        found[contender.name] = _in_child(contender.name, uri, place.database, place.folder, session_id, turns)
        tick()
    return found


def _in_child(*task: Any) -> dict[str, float]:
    warm_up("contenders")
    ours, theirs = CONTEXT.Pipe()
    child = CONTEXT.Process(target=_child, args=(theirs, *task))
    child.start()
    theirs.close()
    try:
        return cast("dict[str, float]", ours.recv())
    finally:
        child.join()


def _child(answer: "Connection[dict[str, float], None]", *task: Any) -> None:
    answer.send(asyncio.run(_measure(*task)))


async def _measure(name: str, uri: str, database: str, folder: Path, session_id: str, turns: int) -> dict[str, float]:
    async with open_place(uri, database, folder) as place:
        contender = next(kind(place) for kind in CONTENDERS if kind.name == name)
        cpu = await _cpu_of_turn(contender, session_id, turns)
        rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {"cpu_ms": cpu * 1000, "peak_rss_mb": rss / 1024, "peak_python_kb": await _peak(contender, session_id)}


async def _cpu_of_turn(contender: Contender, session_id: str, turns: int) -> float:
    conversation = await contender.open(session_id)
    for _ in range(WARM_UP_TURNS):
        await conversation.turn()
    await conversation.settle()
    started = process_time()
    for _ in range(turns):
        await conversation.turn()
    await conversation.settle()
    used = process_time() - started
    await conversation.close()
    return used / turns


async def _peak(contender: Contender, session_id: str) -> float:
    tracemalloc.start()
    conversation = await contender.open(session_id)
    await conversation.turn()
    await conversation.settle()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    await conversation.close()
    return peak / 1024
