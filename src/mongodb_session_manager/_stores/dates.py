"""The dates on which sessions expire: writes move them along."""

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from pymongo.collection import Collection

from .._schema.expiry import LIFETIME_PROJECTION, Lifetime, shows_life
from .._schema.ids import now
from .._schema.values import FilterAndUpdate, Stored

__all__ = ["Acknowledge", "ExpiryDates"]

Acknowledge: TypeAlias = Callable[[], None]


class ExpiryDates:
    """The dates of the sessions that one repository has opened.

    Args:
        sessions: The collection.

    Attributes:
        lifetimes: How long each of them lives, by session.
    """

    def __init__(self, sessions: Collection[Stored]) -> None:
        self._sessions = sessions
        self.lifetimes: dict[str, Lifetime] = {}

    def opened(self, session_id: str, lifetime: Lifetime) -> None:
        """Note how long a session lives."""
        self.lifetimes[session_id] = lifetime

    def dated(self, session_id: str, change: FilterAndUpdate) -> tuple[FilterAndUpdate, Acknowledge | None]:
        """Return a change with the date that is due, and what to call when it is acknowledged.

        If no date is due, this is the change as it is, and None.
        """
        lifetime = self.lifetimes.get(session_id)
        if lifetime is None or not shows_life(change):
            return change, None
        until = lifetime.due(now())
        return (change, None) if until is None else (lifetime.dated(change, until), partial(lifetime.reached, until))

    def have_changed(self, session_id: str) -> bool:
        """Look at what is stored, and tell whether the session is held now, or has another ttl."""
        lifetime = self.lifetimes[session_id]
        found = self._sessions.find_one({"_id": session_id}, LIFETIME_PROJECTION) or {}
        return lifetime.missed(found, now())
