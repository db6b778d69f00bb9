"""What an append costs with few and with many indexes, and with an expiry."""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from statistics import median
from time import perf_counter
from typing import Any

import bson
from pymongo import MongoClient
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent
from report import new_table
from rich.table import Table
from strands import Agent

from mongodb_session_manager import MongoDBSessionManager, SessionCatalog
from mongodb_session_manager.testing import ScriptedModel

MESSAGE: Any = {"role": "user", "content": [{"text": "p" * 500}]}
FIELDS = ("user", "status", "title")
AT_MOST = 1.05
FEW, FEW_AGAIN = "4 indexes", "4 indexes again (A/A)"
# How each is opened, and whether the catalog's indexes are made too.
WAYS: Mapping[str, tuple[dict[str, Any], bool]] = {
    FEW: ({}, False),
    FEW_AGAIN: ({}, False),
    "4 indexes and a ttl": ({"ttl": timedelta(days=30)}, False),
    "10 indexes": ({"metadata_fields": FIELDS}, True),
    "10 indexes and a ttl": ({"metadata_fields": FIELDS, "ttl": timedelta(days=30)}, True),
}


class _Sent(CommandListener):
    """Adds up the bytes of updates."""

    def __init__(self) -> None:
        self.bytes = 0

    def started(self, event: CommandStartedEvent) -> None:
        if event.command_name == "update":
            self.bytes += len(bson.encode(event.command))

    def succeeded(self, event: CommandSucceededEvent) -> None:
        """Nothing is asked of answers."""

    def failed(self, event: CommandFailedEvent) -> None:
        """Nothing is asked of answers."""


@dataclass(frozen=True)
class Append:
    """What one append took: the median in milliseconds, and the bytes of its update on average."""

    milliseconds: float
    bytes: float
    indexes: int

    @staticmethod
    def table(found: "Mapping[str, Append]") -> Table:
        table = new_table("Appends, one thread, in turns", ["", "indexes", "ms", "ratio", "at most", "bytes", ""])
        first, again = found[FEW].milliseconds, found[FEW_AGAIN].milliseconds
        most = max(first / again, again / first) * AT_MOST
        for name, each in found.items():
            ratio = each.milliseconds / first
            row = [f"{each.indexes}", f"{each.milliseconds:.2f}", f"{ratio:.2f}", f"{most:.2f}", f"{each.bytes:,.0f}"]
            table.add_row(name, *row, "met" if ratio <= most else "missed")
        return table


class _Way:
    def __init__(self, uri: str, options: dict[str, Any], with_all_indexes: bool) -> None:
        self.sent = _Sent()
        self.client: MongoClient[dict[str, Any]] = MongoClient(uri, event_listeners=[self.sent])
        self.database = f"benchmark_{uuid.uuid4().hex}"
        place: dict[str, Any] = {"client": self.client, "database_name": self.database}
        self.manager = MongoDBSessionManager("s-1", **place, **options)
        self.manager.update_metadata(dict.fromkeys(FIELDS, "x"))
        self.agent = Agent(model=ScriptedModel(), session_manager=self.manager, callback_handler=None)
        self.taken: list[float] = []
        if with_all_indexes:
            with SessionCatalog(**place) as catalog:
                catalog.create_indexes(metadata_fields=FIELDS)
        self.manager.append_message(MESSAGE, self.agent)
        self.sent.bytes = 0

    def append(self) -> None:
        started = perf_counter()
        self.manager.append_message(MESSAGE, self.agent)
        self.taken.append((perf_counter() - started) * 1000)

    def end(self) -> Append:
        indexes = len(self.client[self.database]["agent_sessions"].index_information())
        self.manager.close()
        self.client.drop_database(self.database)
        self.client.close()
        return Append(median(self.taken), self.sent.bytes / len(self.taken), indexes)


def measure_appends(uri: str, count: int, tick: Callable[[], None]) -> dict[str, Append]:
    """Measure them in turns, each first as often as the others."""
    ways = {name: _Way(uri, *way) for name, way in WAYS.items()}
    order = list(ways.values())
    for _ in range(count):
        for way in order:
            way.append()
        order = [*order[1:], order[0]]
        tick()
    return {name: way.end() for name, way in ways.items()}
