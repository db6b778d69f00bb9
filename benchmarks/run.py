"""Compare ways of storing conversations: ``python benchmarks/run.py --help``."""

import argparse
import asyncio
import gc
import json
import os
import platform
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pymongo
from contender import Contender, Place, open_place
from contenders import CONTENDERS, chosen
from fleet import time_fleets, time_openings
from goals import judge
from managers import BareAgent
from measures import Tick, added_milliseconds, time_requests, time_restores, time_turns
from proxy import running_proxy
from report import show
from resources import measure_resources
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from traffic import Meter, count_traffic

from mongodb_session_manager.testing import CommandCounter, running_mongodb


@dataclass(frozen=True)
class Settings:
    """How much is measured; ``repeat`` is the number of rounds of each timed measure."""

    repeat: int = 60
    histories: tuple[int, ...] = (0, 100, 1_000, 10_000)
    restored: tuple[int, ...] = (10, 100, 1_000, 10_000)
    agents: int = 50
    agent_turns: int = 4
    agent_runs: int = 11
    agent_latency_ms: int = 20
    delay_ms: float = 5.0
    cpu_turns: int = 200


QUICK = Settings(
    repeat=2,
    histories=(0, 100),
    restored=(10, 100),
    agents=3,
    agent_turns=1,
    agent_runs=1,
    agent_latency_ms=1,
    cpu_turns=3,
)


class Benchmark:
    """All measures on one server.

    Args:
        uri: The server.
        kinds: The contenders.
        settings: How much.
        progress: What to show while it lasts.
    """

    def __init__(self, uri: str, kinds: Sequence[type[Contender]], settings: Settings, progress: Progress) -> None:
        self._uri, self._kinds, self._settings, self._progress = uri, kinds, settings, progress
        self._database = f"benchmark_{uuid.uuid4().hex}"

    async def run(self) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            async with open_place(self._uri, self._database, Path(folder)) as place:
                try:
                    return await self._measure(place)
                finally:
                    place.client.drop_database(self._database)

    async def _measure(self, place: Place) -> dict[str, Any]:
        server = place.client.server_info()["version"]
        contenders = [kind(place) for kind in self._kinds]
        # What is there now lives as long as the run: no need to look through it again and again.
        gc.collect()
        gc.freeze()
        found: dict[str, Any] = {"machine": machine(server), "settings": asdict(self._settings)}
        found["traffic"] = await self._traffic(place)
        found["turn"] = await self._times("turn", time_turns, contenders, self._settings.histories)
        found["request"] = await self._times("request", time_requests, contenders, self._settings.histories)
        found["restore"] = await self._times("restore", time_restores, contenders, self._settings.restored)
        found["fleet"] = {
            "direct": await self._fleet(place, 0.0),
            "delayed": await self._fleet(place, self._settings.delay_ms),
        }
        found["opening"] = await self._openings(place, self._settings.delay_ms)
        with self._task("CPU and memory", len(contenders)) as tick:
            found["resources"] = await measure_resources(contenders, self._uri, self._settings.cpu_turns, tick)
        return {**found, "goals": judge(found)}

    async def _times(
        self, name: str, measure: Callable[..., Any], contenders: Sequence[Contender], histories: Sequence[int]
    ) -> dict[str, dict[str, float]]:
        added: dict[str, dict[str, float]] = {}
        for history in histories:
            with self._task(f"{name}, history {history:,}", self._settings.repeat + 3) as tick:
                samples = await measure(contenders, history, self._settings.repeat, tick)
            for contender, time in added_milliseconds(contenders, samples, BareAgent.name).items():
                added.setdefault(contender, {})[str(history)] = time
        return added

    async def _traffic(self, place: Place) -> dict[str, Any]:
        counter = CommandCounter()
        async with AsyncExitStack() as stack:
            proxy = stack.enter_context(running_proxy(server_address(place)))
            counted = await stack.enter_async_context(open_place(proxy.uri, place.database, place.folder, counter))
            with self._task("operations and bytes", len(self._kinds)) as tick:
                return await count_traffic([kind(counted) for kind in self._kinds], Meter(counter, proxy), tick)

    async def _fleet(self, place: Place, delay_ms: float) -> dict[str, Any]:
        settings, latency = self._settings, self._settings.agent_latency_ms
        async with AsyncExitStack() as stack:
            uri = self._uri
            if delay_ms:
                uri = stack.enter_context(running_proxy(server_address(place), delay_ms / 1000)).uri
            there = await stack.enter_async_context(open_place(uri, place.database, place.folder, latency_ms=latency))
            kinds = [kind for kind in self._kinds if kind.has_agent]
            name = f"{settings.agents} agents, {delay_ms:g} ms each way"
            with self._task(name, len(kinds) * settings.agent_runs) as tick:
                return await time_fleets(
                    [kind(place) for kind in kinds],
                    [kind(there) for kind in kinds],
                    settings.agents,
                    settings.agent_turns,
                    settings.agent_runs,
                    tick,
                )

    async def _openings(self, place: Place, delay_ms: float) -> dict[str, float]:
        settings = self._settings
        kinds = [kind for kind in self._kinds if kind.enter is not Contender.enter]
        async with AsyncExitStack() as stack:
            proxy = stack.enter_context(running_proxy(server_address(place), delay_ms / 1000))
            there = await stack.enter_async_context(open_place(proxy.uri, place.database, place.folder))
            with self._task(f"{settings.agents} openings, {delay_ms:g} ms each way", settings.agent_runs + 1) as tick:
                return await time_openings(
                    [kind(place) for kind in kinds],
                    [kind(there) for kind in kinds],
                    settings.agents,
                    settings.agent_runs,
                    tick,
                )

    @contextmanager
    def _task(self, name: str, total: int) -> Iterator[Tick]:
        task = self._progress.add_task(name, total=total)
        yield lambda: self._progress.advance(task)
        self._progress.update(task, completed=total)


def server_address(place: Place) -> tuple[str, int]:
    address = place.client.address
    assert address is not None
    return address


def machine(server: str) -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "mongodb": server,
        "pymongo": pymongo.version,
    }


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare ways of storing conversations in MongoDB.")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: whether it runs, not how fast")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")
    parser.add_argument("--repeat", type=int, metavar="N", help="rounds of each timed measure")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="NAME",
        choices=[kind.name for kind in CONTENDERS],
        help="contenders beside the floors: " + ", ".join(f'"{kind.name}"' for kind in CONTENDERS),
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    options = parse(arguments)
    settings = QUICK if options.quick else Settings()
    if options.repeat:
        settings = Settings(**{**asdict(settings), "repeat": options.repeat})
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with running_mongodb() as uri, Progress(*columns, console=Console(stderr=True)) as progress:
        results = asyncio.run(Benchmark(uri, chosen(options.only), settings, progress).run())
    console = Console()
    show(results, console if console.is_terminal else Console(width=160))
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
