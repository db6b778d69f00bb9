"""Counts the commands that reach the server, for tests of round trips."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Any

from pymongo.monitoring import (
    CommandFailedEvent,
    CommandListener,
    CommandStartedEvent,
    CommandSucceededEvent,
)

from .._override import override

__all__ = ["Command", "CommandCounter", "CommandLog", "session_ids"]

_WRITES = frozenset({"insert", "update", "delete", "findAndModify", "bulkWrite"})
_READS = frozenset({"find", "aggregate", "getMore", "count", "distinct"})

# Commands that the driver sends by itself, when it connects and when it closes.
_HOUSEKEEPING = frozenset(
    {
        "hello",
        "ismaster",
        "isMaster",
        "saslStart",
        "saslContinue",
        "authenticate",
        "getnonce",
        "logout",
        "endSessions",
    }
)


@dataclass(frozen=True)
class Command:
    """One command as it was sent.

    Attributes:
        name: Name of the command, such as ``update``.
        database: The database that it went to.
        collection: The collection, or an empty string for a command that has none.
        document: The whole command; its values are not copied.
    """

    name: str
    database: str
    collection: str
    document: Mapping[str, Any]


class CommandLog:
    """Commands in the order in which they were sent; thread-safe."""

    def __init__(self) -> None:
        self._commands: list[Command] = []
        self._lock = Lock()

    @property
    def commands(self) -> list[Command]:
        """All commands, with retries of the driver."""
        with self._lock:
            return list(self._commands)

    @property
    def names(self) -> list[str]:
        """The names of the commands, for failure messages."""
        return [command.name for command in self.commands]

    @property
    def writes(self) -> int:
        """The number of commands that changed documents."""
        return self._count(_WRITES)

    @property
    def reads(self) -> int:
        """The number of commands that read documents."""
        return self._count(_READS)

    @property
    def index_builds(self) -> int:
        """The number of ``createIndexes`` commands."""
        return self._count({"createIndexes"})

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._commands.clear()

    def record(self, command: Command) -> None:
        """Add a command that was sent."""
        with self._lock:
            self._commands.append(command)

    def _count(self, names: "frozenset[str] | set[str]") -> int:
        return sum(command.name in names for command in self.commands)


class CommandCounter(CommandLog, CommandListener):
    """Records the commands of every client that has it among its ``event_listeners``.

    Handshakes, heartbeats, authentication and the end of driver sessions are left out.
    """

    def __init__(self) -> None:
        super().__init__()
        self._views: list[CommandLog] = []

    @contextmanager
    def counting(self) -> Iterator[CommandLog]:
        """Give a log of the commands that are sent inside the block; it can be read afterwards too."""
        view = CommandLog()
        with self._lock:
            self._views.append(view)
        try:
            yield view
        finally:
            with self._lock:
                self._views.remove(view)

    @override
    def started(self, event: CommandStartedEvent) -> None:
        """Record a command; called by pymongo."""
        if event.command_name in _HOUSEKEEPING:
            return
        document = dict(event.command)
        command = Command(event.command_name, event.database_name, _collection(document), document)
        with self._lock:
            views = list(self._views)
        for log in (self, *views):
            log.record(command)

    @override
    def succeeded(self, event: CommandSucceededEvent) -> None:
        """Nothing to record; called by pymongo."""

    @override
    def failed(self, event: CommandFailedEvent) -> None:
        """Nothing to record; called by pymongo."""


def session_ids(command: Command) -> list[Any]:
    """Return the ``_id`` values that a command names, so that a test can check that it concerns one session.

    Args:
        command: A recorded command.

    Returns:
        The values named by each filter, first ``$match`` or inserted document, ``$in`` giving several;
        None for one that names no ``_id`` by its value. Empty for a command that has no filter, such as
        ``getMore``.
    """
    return [value for query in _filters(command) for value in _named_ids(query)]


def _filters(command: Command) -> Sequence[Mapping[str, Any]]:
    document = command.document
    if command.name in {"find", "findAndModify", "count", "distinct", "aggregate"}:
        return [_single_filter(command)]
    if command.name in {"update", "delete"}:
        return [statement["q"] for statement in document.get("updates", document.get("deletes", ()))]
    if command.name == "insert":
        return list(document.get("documents", ()))
    return [operation.get("filter", operation.get("document", {})) for operation in document.get("ops", ())]


def _single_filter(command: Command) -> Mapping[str, Any]:
    document = command.document
    if command.name == "aggregate":
        pipeline = document.get("pipeline") or [{}]
        return pipeline[0].get("$match") or {}
    return document.get("filter") or document.get("query") or {}


def _named_ids(query: Mapping[str, Any]) -> list[Any]:
    if "_id" not in query:
        parts = [_named_ids(part) for part in query.get("$and", ())]
        return next((ids for ids in parts if ids != [None]), [None])
    condition = query["_id"]
    if isinstance(condition, Mapping) and any(str(key).startswith("$") for key in condition):
        return list(condition.get("$in", [condition.get("$eq")]))
    return [condition]


def _collection(document: Mapping[str, Any]) -> str:
    # A getMore has the cursor where other commands have their collection.
    value = document.get("collection") or next(iter(document.values()), "")
    return value if isinstance(value, str) else ""
