"""What goes wrong while the load runs: faults of the server, and its restarts."""

import random
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from threading import Lock
from typing import Any

from histories import SEGMENTS, SESSIONS
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from mongodb_session_manager.testing import Mongod

from .figures import Clock, Figures

COMMANDS = ("update", "findAndModify", "insert", "delete", "aggregate", "find")
WRITES = ("update", "findAndModify", "insert", "delete")

# Milliseconds: the impatient client gives up while the server blocks.
BLOCKED = 200
IMPATIENT = 150

Fault = tuple[int, tuple[str, ...], Mapping[str, Any]]

FAULTS: Mapping[str, Fault] = {
    "connection closed": (1, COMMANDS, {"closeConnection": True}),
    "connection closed twice": (2, COMMANDS, {"closeConnection": True}),
    "server shuts down (91)": (1, COMMANDS, {"errorCode": 91}),
    "server shuts down (91) twice": (2, COMMANDS, {"errorCode": 91}),
    "interrupted (11600)": (1, COMMANDS, {"errorCode": 11600}),
    "interrupted (11600) twice": (2, COMMANDS, {"errorCode": 11600}),
    "write concern error (64), applied": (1, WRITES, {"writeConcernError": {"code": 64, "errmsg": "late"}}),
    f"blocked for {BLOCKED} ms": (2, COMMANDS, {"blockConnection": True, "blockTimeMS": BLOCKED}),
}


class Injector:
    """Injects fault after fault into commands on the sessions.

    Args:
        client: A client of its own.
        database: Where the sessions are.
        choices: Decides which.
        rate: Faults a second.
        figures: Counts those that a command met.
    """

    def __init__(
        self,
        client: MongoClient[dict[str, Any]],
        database: str,
        choices: random.Random,
        rate: float,
        figures: Figures,
    ) -> None:
        self._client, self._database, self._choices = client, database, choices
        self._rate, self._figures = rate, figures

    def run(self, clock: Clock) -> None:
        while not clock.is_over():
            with suppress(PyMongoError):  # the server is being restarted
                self._inject(self._choices.choice(list(FAULTS)))
        with suppress(PyMongoError):
            self._configure("off")

    def _inject(self, name: str) -> None:
        times, commands, fault = FAULTS[name]
        collection = self._choices.choices((SESSIONS, SEGMENTS), (9, 1))[0]
        namespace = f"{self._database}.{collection}"
        before = self._configure({"times": times}, failCommands=commands, namespace=namespace, **fault)["count"]
        time.sleep(1 / self._rate)
        met = self._configure("off")["count"] - before
        if met > 0:
            self._figures.injected(name, min(met, times))

    def _configure(self, mode: Any, **data: Any) -> dict[str, Any]:
        return self._client.admin.command("configureFailPoint", "failCommand", mode=mode, data=data)


class Restarts:
    """Shuts the server down and starts it again, and later kills it.

    Args:
        mongod: The server.
        lock: Held while it is away.
        figures: Counts what was done.
    """

    def __init__(self, mongod: Mongod, lock: Lock, figures: Figures) -> None:
        self._mongod, self._lock, self._figures = mongod, lock, figures

    def run(self, clock: Clock, seconds: float) -> None:
        self._at(clock, seconds / 3, "server restarted", lambda: None)
        self._at(clock, seconds * 2 / 3, "server killed", self._mongod.kill)

    def _at(self, clock: Clock, moment: float, name: str, first: Callable[[], None]) -> None:
        while clock.elapsed < moment:
            if clock.is_over():
                return
            time.sleep(0.05)
        with self._lock:
            first()
            self._mongod.restart()
        self._figures.injected(name)
