"""What the catalog costs in a collection of very many sessions: ``python benchmarks/catalog.py --help``."""

import argparse
import json
import sys
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter
from typing import Any

from appends import Append, measure_appends
from many_sessions import LONG, Document, Sizes, fill, in_place, orphans, with_expiry_index
from pymongo import MongoClient
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent
from report import new_table
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mongodb_session_manager import SessionCatalog, SessionFilter
from mongodb_session_manager.testing import running_mongodb

LIMIT, FAR, ROUNDS_OF_PAGES = 50, 1_000, 20
DELETED, SWEPT = 5_000, 3_000
SCAN_AT_MOST, SWEEP_AT_MOST_MS = 1 / 50, 100.0


@dataclass(frozen=True)
class Settings(Sizes):
    """How much is measured."""

    rounds: int = 3
    appends: int = 300


KINDS = {
    "newest": SessionFilter(),
    "newest again (A/A)": SessionFilter(),
    "by application": SessionFilter(application_name="app-3"),
    "by user": SessionFilter(metadata={"user": "u7"}),
    "by agent": SessionFilter(agent_id="a3"),
    "down-votes": SessionFilter(feedback="down"),
}


def milliseconds(call: Callable[[], Any]) -> float:
    started = perf_counter()
    call()
    return (perf_counter() - started) * 1000


class _LastList(CommandListener):
    """Keeps the aggregation that was sent last, so that it can be run without an index."""

    def __init__(self) -> None:
        self.pipeline: list[Document] = []

    def started(self, event: CommandStartedEvent) -> None:
        if event.command_name == "aggregate":
            self.pipeline = event.command["pipeline"]

    def succeeded(self, event: CommandSucceededEvent) -> None:
        """Nothing is asked of answers."""

    def failed(self, event: CommandFailedEvent) -> None:
        """Nothing is asked of answers."""


class Lists:
    """Measures first and far pages, and beside them the same aggregation as a collection scan, in turns."""

    def __init__(self, catalog: SessionCatalog, client: MongoClient[Document], database: str, last: _LastList) -> None:
        self._catalog, self._sessions, self._last = catalog, client[database]["agent_sessions"], last
        self.found: dict[str, dict[str, list[float]]] = {name: {} for name in KINDS}
        self._far = {name: self._walk(wanted) for name, wanted in KINDS.items()}

    def _walk(self, wanted: SessionFilter) -> tuple[int, str | None]:
        """Return the number and the cursor of the page 1,000, or of the last one."""
        page, number, cursor = self._catalog.list(wanted, limit=LIMIT), 1, None
        while page.next_cursor is not None and number < FAR:
            cursor, number = page.next_cursor, number + 1
            page = self._catalog.list(wanted, limit=LIMIT, cursor=cursor)
        return number, cursor

    def measure(self) -> None:
        for _ in range(ROUNDS_OF_PAGES):
            for name, wanted in KINDS.items():
                self._note(name, "first", partial(self._catalog.list, wanted, limit=LIMIT))
                cursor = self._far[name][1]
                self._note(name, "far", partial(self._catalog.list, wanted, limit=LIMIT, cursor=cursor))
        for name, wanted in KINDS.items():
            self._catalog.list(wanted, limit=LIMIT)
            self._note(name, "scan", partial(self._scan, self._last.pipeline))

    def _scan(self, pipeline: list[Document]) -> None:
        list(self._sessions.aggregate(pipeline, hint={"$natural": 1}, allowDiskUse=True))

    def _note(self, name: str, what: str, call: Callable[[], Any]) -> None:
        self.found[name].setdefault(what, []).append(milliseconds(call))

    def figures(self) -> dict[str, Document]:
        return {name: self._of(name, times) for name, times in self.found.items()}

    def _of(self, name: str, times: dict[str, list[float]]) -> Document:
        figures = {f"{what}_{at}": value for what in ("first", "far") for at, value in spread(times[what]).items()}
        scan = median(times["scan"])
        ratio = max(figures["first_p50"], figures["far_p50"]) / scan
        return {**figures, "far_page": self._far[name][0], "scan": scan, "ratio": ratio, "met": ratio <= SCAN_AT_MOST}


def spread(times: Sequence[float]) -> dict[str, float]:
    return {"p50": median(times), "p99": quantiles(times, n=100, method="inclusive")[98]}


def calls(catalog: SessionCatalog, some: str) -> dict[str, Callable[[], Any]]:
    """Return what is measured beside the lists and changes nothing."""
    today = datetime.now(timezone.utc).replace(hour=0, minute=0, second=0, microsecond=0)
    app, week = SessionFilter(application_name="app-3"), today - timedelta(days=7)
    return {
        "count, by application": lambda: catalog.count(app, at_most=1_000_000),
        "usage, all, by model": lambda: catalog.usage(by=["model"]),
        "usage, a week, by day": lambda: catalog.usage(by=["day"], since=week),
        "text, in an application": lambda: catalog.list(SessionFilter(application_name="app-3", text="journeys")),
        "get": lambda: catalog.get(some),
        "transcript, newest 50 of a very long session": lambda: catalog.transcript(LONG, "default"),
    }


def changes(catalog: SessionCatalog, client: MongoClient[Document], database: str, some: str) -> Document:
    """Measure what changes something."""
    found: Document = {"fork": milliseconds(lambda: catalog.fork(some))}
    in_place(client, database, SWEPT)
    found["the same sweep without an index by the date of expiry"] = milliseconds(catalog.sweep)
    with_expiry_index(client, database)
    found[f"sweep that looks at {SWEPT:,} segments"] = milliseconds(catalog.sweep)
    orphans(client, database, SWEPT)
    found[f"sweep that deletes {SWEPT:,} segments"] = milliseconds(catalog.sweep)
    oldest = client[database]["agent_sessions"].find({}, {"created_at": 1}).sort("created_at", 1).skip(DELETED)
    until = next(oldest)["created_at"].replace(tzinfo=timezone.utc)
    deleted: list[int] = []
    before = SessionFilter(created_until=until)
    name = f"delete_many, {DELETED:,} sessions"
    found[name] = milliseconds(lambda: deleted.append(catalog.delete_many(before).deleted))
    assert deleted[0] >= DELETED * 0.99, deleted
    return found


def measure(uri: str, settings: Settings, progress: Progress) -> Document:
    database = f"benchmark_{uuid.uuid4().hex}"
    last = _LastList()
    client: MongoClient[Document] = MongoClient(uri, event_listeners=[last])
    filling = progress.add_task("sessions", total=settings.sessions + settings.large_sessions)
    fill(client, database, settings, lambda count: progress.advance(filling, count))
    with SessionCatalog(client=client, database_name=database, max_time=timedelta(minutes=5)) as catalog:
        catalog.create_indexes(metadata_fields=("user",))
        some = next(client[database]["agent_sessions"].find({"application_name": "app-3"}, {"_id": 1}))["_id"]
        lists, others = Lists(catalog, client, database, last), {name: list[float]() for name in calls(catalog, some)}
        rounds = progress.add_task("rounds", total=settings.rounds)
        for _ in range(settings.rounds):
            lists.measure()
            for name, call in calls(catalog, some).items():
                others[name].append(milliseconds(call))
            progress.advance(rounds)
        changed = changes(catalog, client, database, some)
    client.drop_database(database)
    appending = progress.add_task("appends", total=settings.appends)
    appended = measure_appends(uri, settings.appends, lambda: progress.advance(appending))
    client.close()
    return {
        "lists": lists.figures(),
        "calls": {name: median(times) for name, times in others.items()} | changed,
        "appends": {name: vars(each) for name, each in appended.items()},
    }


def show(found: Document, settings: Settings, console: Console) -> None:
    title = f"Lists of {LIMIT} among {settings.sessions:,} sessions of {settings.small:,} bytes, milliseconds"
    columns = ["", "first, p50", "p99", "far, p50", "p99", "page", "collection scan", "ratio", "at most", ""]
    table = new_table(title, columns)
    for name, each in found["lists"].items():
        times = [f"{each[key]:.1f}" for key in ("first_p50", "first_p99", "far_p50", "far_p99")]
        scan = [f"{each['scan']:.0f}", f"{each['ratio']:.3f}", f"{SCAN_AT_MOST:.3f}"]
        table.add_row(name, *times, f"{each['far_page']:,}", *scan, "met" if each["met"] else "missed")
    console.print(table)
    table = new_table("Other calls, milliseconds", ["", "p50", "at most"])
    for name, taken in found["calls"].items():
        table.add_row(name, f"{taken:,.1f}", f"{SWEEP_AT_MOST_MS:.0f}" if name.startswith("sweep") else "")
    console.print(table)
    console.print(Append.table({name: Append(**each) for name, each in found["appends"].items()}))


def parse(arguments: Sequence[str]) -> tuple[Settings, Path | None]:
    parser = argparse.ArgumentParser(description="Measure the catalog in a collection of very many sessions.")
    default = Settings()
    for each in fields(Settings):
        name = f"--{each.name.replace('_', '-')}"
        parser.add_argument(name, type=int, default=getattr(default, each.name), help="(%(default)d)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")
    options = vars(parser.parse_args(arguments))
    file = options.pop("json")
    return Settings(**options), file


def main(arguments: Sequence[str]) -> None:
    settings, file = parse(arguments)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with running_mongodb() as uri, Progress(*columns, console=Console(stderr=True)) as progress:
        found = measure(uri, settings, progress)
    console = Console()
    show(found, settings, console if console.is_terminal else Console(width=160))
    if file:
        file.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
