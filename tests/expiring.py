"""Sessions whose time is over, for the tests of expiry, deletion and sweeps."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import Any

from tests.aliases import Client

HOUR = timedelta(hours=1)


def in_time(span: timedelta) -> datetime:
    """Return a time from now, as it is stored."""
    at = datetime.now(timezone.utc) + span
    return at.replace(microsecond=at.microsecond // 1000 * 1000)


def expire(collection: Any, session_id: str = "s-1", ago: timedelta = timedelta(seconds=1)) -> None:
    """Let the date of a session be over."""
    assert collection.update_one({"_id": session_id}, {"$set": {"expires_at": in_time(-ago)}}).matched_count


@contextmanager
def without_ttl_monitor(client: Client) -> Iterator[None]:
    """Have the server delete no session that has expired."""
    client.admin.command("setParameter", 1, ttlMonitorEnabled=False)
    try:
        yield
    finally:
        client.admin.command("setParameter", 1, ttlMonitorEnabled=True)
