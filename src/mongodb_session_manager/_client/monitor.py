"""Counts of the connection pools of a client."""

import threading
from collections import Counter
from typing import Any

from pymongo.monitoring import (
    ConnectionCheckedInEvent,
    ConnectionCheckedOutEvent,
    ConnectionCheckOutFailedEvent,
    ConnectionCheckOutStartedEvent,
    ConnectionClosedEvent,
    ConnectionCreatedEvent,
    ConnectionPoolListener,
)

from .._override import override

__all__ = ["PoolMonitor", "not_initialized_stats"]


class PoolMonitor(ConnectionPoolListener):
    """Counts the events in the connection pools of one client."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def connections(self) -> dict[str, int]:
        """Return the counts over all servers of the client; ``open``, ``in_use`` and ``waiting`` are present ones."""
        with self._lock:
            counts = self._counts.copy()
        return {
            "created": counts["created"],
            "closed": counts["closed"],
            "open": counts["created"] - counts["closed"],
            "in_use": counts["in_use"],
            "waiting": counts["waiting"],
            "checkout_failures": counts["checkout_failures"],
        }

    def _count(self, **changes: int) -> None:
        with self._lock:
            for name, change in changes.items():  # faster than update(), and each operation runs this
                self._counts[name] += change

    @override
    def connection_created(self, event: ConnectionCreatedEvent) -> None:
        self._count(created=1)

    @override
    def connection_closed(self, event: ConnectionClosedEvent) -> None:
        self._count(closed=1)

    @override
    def connection_check_out_started(self, event: ConnectionCheckOutStartedEvent) -> None:
        self._count(waiting=1)

    @override
    def connection_checked_out(self, event: ConnectionCheckedOutEvent) -> None:
        self._count(waiting=-1, in_use=1)

    @override
    def connection_check_out_failed(self, event: ConnectionCheckOutFailedEvent) -> None:
        self._count(waiting=-1, checkout_failures=1)

    @override
    def connection_checked_in(self, event: ConnectionCheckedInEvent) -> None:
        self._count(in_use=-1)

    def _ignore(self, event: object) -> None:
        pass

    connection_ready = pool_created = pool_ready = pool_cleared = pool_closed = _ignore


def not_initialized_stats() -> dict[str, Any]:
    """Return the stats when there is no open client."""
    return {
        "status": "not_initialized",
        "server_version": None,
        "pool_config": {},
        "connections": PoolMonitor().connections(),
    }
