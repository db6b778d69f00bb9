"""What a hook's deliveries add to the requests of a service: ``python benchmarks/hooks.py --help``."""

import argparse
import asyncio
import json
import logging
import os
import random
import sys
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter
from typing import Any

from processes import CONTEXT, warm_up
from pymongo import MongoClient
from report import new_table
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from stub_aws import running_sqs

from mongodb_session_manager import MongoDBSessionManagerFactory, create_metadata_sqs_hook
from mongodb_session_manager.testing import running_mongodb

NO_HOOK = "no hook"
# Requests of each user that are not counted: boto3 takes its time to make its first client.
WARM_UP = 3
MEDIAN_AT_MOST, P99_AT_MOST, P99_ALLOWANCE = 1.2, 1.2, 20.0


@dataclass(frozen=True)
class Settings:
    """How much is measured: ``pause`` is what a user takes between two requests, in seconds on average."""

    users: int = 40
    requests: int = 20
    pause: float = 1.0
    runs: int = 5
    delay_ms: float = 30.0
    delivery: Any = "best_effort"


Figures = dict[str, float]
Found = dict[str, list[Figures]]


async def _serve(uri: str, database: str, queue: str | None, settings: Settings) -> list[float]:
    """Return the milliseconds that each request took."""
    hook = queue and create_metadata_sqs_hook(queue, delivery=settings.delivery)
    with_hook: dict[str, Any] = {"metadata_hook": hook} if hook else {}
    factory = MongoDBSessionManagerFactory(uri, database, **with_hook)
    taken: list[float] = []

    async def request(session_id: str) -> float:
        started = perf_counter()
        async with factory.session(session_id) as manager:
            await manager.aupdate_metadata({"status": "open"})
        return (perf_counter() - started) * 1000

    async def user(number: int) -> None:
        pauses = random.Random(number)
        await asyncio.sleep(pauses.uniform(0, settings.pause))
        for count in range(WARM_UP + settings.requests):
            milliseconds = await request(f"s-{number}")
            if count >= WARM_UP:
                taken.append(milliseconds)
            await asyncio.sleep(pauses.uniform(0.5, 1.5) * settings.pause)

    await asyncio.gather(*(user(number) for number in range(settings.users)))
    return taken


def _measure(answer: "Connection[Any, Any]", *task: Any) -> None:
    os.environ |= {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
    logging.disable()  # what a silent queue makes the hook say
    answer.send(asyncio.run(_serve(*task)))
    answer.recv()


def measure(*task: Any) -> Figures:
    """Serve requests in a process of its own, so that what one run leaves queued is not in the way of the next."""
    ours, theirs = CONTEXT.Pipe()
    process = CONTEXT.Process(target=_measure, args=(theirs, *task), daemon=True)
    process.start()
    theirs.close()
    try:
        taken = ours.recv()
    finally:
        process.kill()
        process.join()
    return {"p50": median(taken), "p99": quantiles(taken, n=100)[98]}


def compare(uri: str, settings: Settings, progress: Progress) -> Found:
    warm_up("mongodb_session_manager", "boto3")
    with ExitStack() as stack:
        queues: dict[str, str | None] = {
            NO_HOOK: None,
            f"AWS at {settings.delay_ms:g} ms": stack.enter_context(running_sqs(settings.delay_ms / 1000)),
            "AWS silent": stack.enter_context(running_sqs(None)),
        }
        client: MongoClient[dict[str, Any]] = stack.enter_context(MongoClient(uri))
        database = f"benchmark_{uuid.uuid4().hex}"
        stack.callback(client.drop_database, database)
        task = progress.add_task("runs", total=settings.runs * len(queues))
        found: Found = {name: [] for name in queues}
        for number in range(settings.runs):
            names = list(queues)
            first = number % len(names)
            for name in [*names[first:], *names[:first]]:
                found[name].append(measure(uri, database, queues[name], settings))
                progress.advance(task)
    return found


def judge(found: Found) -> dict[str, dict[str, Any]]:
    figures = {
        name: {each: median(run[each] for run in runs) for each in ("p50", "p99")} for name, runs in found.items()
    }
    reference = figures[NO_HOOK]
    return {
        name: {
            **of_name,
            "p50_ratio": of_name["p50"] / reference["p50"],
            "p99_at_most": P99_AT_MOST * reference["p99"] + P99_ALLOWANCE,
            "met": of_name["p50"] <= MEDIAN_AT_MOST * reference["p50"]
            and of_name["p99"] <= P99_AT_MOST * reference["p99"] + P99_ALLOWANCE,
        }
        for name, of_name in figures.items()
    }


def show(verdicts: dict[str, dict[str, Any]], settings: Settings, console: Console) -> None:
    title = f"Milliseconds of a request with one update, {settings.users} users, {settings.delivery}"
    table = new_table(title, ["", "p50", "ratio", "at most", "p99", "at most", ""])
    for name, each in verdicts.items():
        table.add_row(
            name,
            f"{each['p50']:.1f}",
            f"{each['p50_ratio']:.2f}",
            f"{MEDIAN_AT_MOST:.2f}",
            f"{each['p99']:.1f}",
            f"{each['p99_at_most']:.1f}",
            "met" if each["met"] else "missed",
        )
    console.print(table)


def parse(arguments: Sequence[str]) -> tuple[Settings, Path | None]:
    parser = argparse.ArgumentParser(description="Compare requests with and without a hook that tells AWS.")
    add, default = parser.add_argument, Settings()
    add("--users", type=int, default=default.users, help="who are there at the same time (%(default)d)")
    add("--requests", type=int, default=default.requests, help="of each user in a run (%(default)d)")
    add("--pause", type=float, default=default.pause, help="seconds between a user's requests (%(default)g)")
    add("--runs", type=int, default=default.runs, help="whose median is told (%(default)d)")
    add("--delay-ms", type=float, default=default.delay_ms, help="that AWS takes to answer (%(default)g)")
    add("--delivery", default=default.delivery, choices=["best_effort", "at_least_once"], help="(%(default)s)")
    add("--json", type=Path, metavar="FILE", help="write the results there too")
    options = vars(parser.parse_args(arguments))
    file = options.pop("json")
    return Settings(**options), file


def main(arguments: Sequence[str]) -> None:
    settings, file = parse(arguments)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with running_mongodb() as uri, Progress(*columns, console=Console(stderr=True)) as progress:
        verdicts = judge(compare(uri, settings, progress))
    console = Console()
    show(verdicts, settings, console if console.is_terminal else Console(width=160))
    if file:
        file.write_text(json.dumps(verdicts, indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
