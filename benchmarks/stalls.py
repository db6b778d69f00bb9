"""How long a prompt with large values stops the event loop: ``python benchmarks/stalls.py --help``."""

import argparse
import asyncio
import os
import uuid
from collections.abc import Awaitable, Callable, Sequence
from statistics import median
from time import perf_counter
from typing import Any

from report import new_table
from rich.console import Console
from strands import Agent

from mongodb_session_manager import MongoDBSessionManagerFactory
from mongodb_session_manager.testing import ScriptedModel, running_mongodb

# Milliseconds.
AT_MOST = 10.0
MB = 1024 * 1024


def pdf(size: int) -> list[Any]:
    return [{"document": {"name": "report", "format": "pdf", "source": {"bytes": os.urandom(size)}}}]


def pictures(size: int) -> list[Any]:
    each = 200 * 1024
    return [{"image": {"format": "png", "source": {"bytes": os.urandom(each)}}} for _ in range(max(size // each, 1))]


def text(size: int) -> list[Any]:
    return [{"text": "x" * size}]


KINDS: dict[str, Callable[[int], list[Any]]] = {"a PDF": pdf, "pictures": pictures, "text": text}


async def longest_gap(run: Callable[[], Awaitable[Any]]) -> float:
    """Return the milliseconds by which a task that wakes each millisecond was late at most."""
    gaps: list[float] = []

    async def tick() -> None:
        last = perf_counter()
        while True:
            await asyncio.sleep(0.001)
            now = perf_counter()
            gaps.append(now - last - 0.001)
            last = now

    ticking = asyncio.create_task(tick())
    await asyncio.sleep(0.05)
    await run()
    await asyncio.sleep(0.05)
    ticking.cancel()
    return max(gaps) * 1000


def agent_of(**options: Any) -> Agent:
    return Agent(model=ScriptedModel(default="Okay."), callback_handler=None, **options)


async def measure(uri: str, size: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    found: dict[str, dict[str, list[float]]] = {kind: {"alone": [], "stored": []} for kind in KINDS}
    with MongoDBSessionManagerFactory(uri, f"bench_{uuid.uuid4().hex}") as factory:
        for number in range(rounds):
            for kind, make in KINDS.items():
                content = make(size)
                alone = agent_of()
                found[kind]["alone"].append(await longest_gap(lambda: alone.invoke_async(content)))  # noqa: B023
                async with factory.session(f"{kind} {number}", agent_ids=["default"]) as manager:
                    agent = agent_of(session_manager=manager)
                    found[kind]["stored"].append(await longest_gap(lambda: agent.invoke_async(content)))  # noqa: B023
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, default=20.0, help="of a prompt (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=11, help="prompts of each kind (default: %(default)s)")
    chosen = parser.parse_args(arguments)
    with running_mongodb() as uri:
        found = asyncio.run(measure(uri, int(chosen.megabytes * MB), chosen.rounds))
    title = f"Longest gap of the event loop in ms, {chosen.megabytes:g} MB; at most {AT_MOST:g} for a PDF"
    table = new_table(title, ["prompt", "agent alone", "stored", "stored, most"])
    for kind, gaps in found.items():
        table.add_row(
            kind, *(f"{value:.1f}" for value in (median(gaps["alone"]), median(gaps["stored"]), max(gaps["stored"])))
        )
    Console().print(table)


if __name__ == "__main__":
    main()
