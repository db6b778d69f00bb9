"""What an append costs in a session of many agents that all keep on writing: ``python benchmarks/sizes.py --help``."""

import argparse
import json
import sys
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from pymongo import MongoClient
from pymongo.collection import Collection
from report import new_table
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from strands import Agent

from mongodb_session_manager import MongoDBSessionManager
from mongodb_session_manager.testing import ScriptedModel, running_mongodb

SESSION = "s-1"
IN_TURN, IN_ORDER = "one message of each in turn", "one agent after the other"
RATIO_AT_MOST, BYTES_AT_MOST = 2.0, 1024 * 1024


@dataclass(frozen=True)
class Settings:
    """How much is written: ``text`` is in bytes."""

    agents: int = 200
    messages: int = 200
    text: int = 5_000

    @property
    def measured(self) -> int:
        """How many appends at the start and at the end are compared."""
        return max(1, self.agents * self.messages // 20)


def order(settings: Settings, way: str) -> Iterator[int]:
    """Give which agent writes next."""
    for outer in range(settings.messages if way == IN_TURN else settings.agents):
        yield from range(settings.agents) if way == IN_TURN else [outer] * settings.messages


def size_of(sessions: Collection[dict[str, Any]]) -> int:
    [found] = sessions.aggregate([{"$match": {"_id": SESSION}}, {"$project": {"bytes": {"$bsonSize": "$$ROOT"}}}])
    return int(found["bytes"])


def measure(client: MongoClient[dict[str, Any]], settings: Settings, way: str, progress: Progress) -> dict[str, Any]:
    database = f"benchmark_{uuid.uuid4().hex}"
    taken, largest = [], 0
    with MongoDBSessionManager(SESSION, client=client, database_name=database) as manager:
        names = [f"agent-{number}" for number in range(settings.agents)]
        options: dict[str, Any] = {"session_manager": manager, "callback_handler": None}
        agents = [Agent(agent_id=name, model=ScriptedModel(default="Okay."), **options) for name in names]
        sessions = manager.session_repository.collection
        task = progress.add_task(way, total=settings.agents * settings.messages)
        for count, number in enumerate(order(settings, way)):
            started = perf_counter()
            manager.append_message({"role": "user", "content": [{"text": "x" * settings.text}]}, agents[number])
            taken.append((perf_counter() - started) * 1000)
            progress.advance(task)
            if count % settings.agents == 0:
                largest = max(largest, size_of(sessions))
        largest = max(largest, size_of(sessions))
        counts = [manager.get_message_count(name) for name in names]
    client.drop_database(database)
    first, last = median(taken[: settings.measured]), median(taken[-settings.measured :])
    figures = {"first_ms": first, "last_ms": last, "ratio": last / first, "largest_bytes": largest}
    complete = counts == [settings.messages] * settings.agents
    met = complete and last <= RATIO_AT_MOST * first and largest <= BYTES_AT_MOST
    return {**figures, "complete": complete, "met": met}


def show(found: dict[str, dict[str, Any]], settings: Settings, console: Console) -> None:
    title = (
        f"Appends of {settings.agents} agents, {settings.messages} messages of {settings.text} bytes each, p50 in ms"
    )
    table = new_table(title, ["", "first", "last", "ratio", "at most", "largest document", "at most", ""])
    for way, each in found.items():
        table.add_row(
            way,
            f"{each['first_ms']:.1f}",
            f"{each['last_ms']:.1f}",
            f"{each['ratio']:.2f}",
            f"{RATIO_AT_MOST:.2f}",
            f"{each['largest_bytes']:,}",
            f"{BYTES_AT_MOST:,}",
            "met" if each["met"] else "missed",
        )
    console.print(table)


def parse(arguments: Sequence[str]) -> tuple[Settings, Path | None]:
    parser = argparse.ArgumentParser(description="Compare appends to a session of many agents, early and late.")
    add, default = parser.add_argument, Settings()
    add("--agents", type=int, default=default.agents, help="of the session (%(default)d)")
    add("--messages", type=int, default=default.messages, help="of each agent (%(default)d)")
    add("--text", type=int, default=default.text, help="bytes of each message (%(default)d)")
    add("--json", type=Path, metavar="FILE", help="write the results there too")
    options = vars(parser.parse_args(arguments))
    file = options.pop("json")
    return Settings(**options), file


def main(arguments: Sequence[str]) -> None:
    settings, file = parse(arguments)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with running_mongodb() as uri, Progress(*columns, console=Console(stderr=True)) as progress:
        client: MongoClient[dict[str, Any]] = MongoClient(uri)
        found = {way: measure(client, settings, way, progress) for way in (IN_TURN, IN_ORDER)}
        client.close()
    console = Console()
    show(found, settings, console if console.is_terminal else Console(width=160))
    if file:
        file.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
