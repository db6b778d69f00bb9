"""How long sessions live, as operators decide: holds, and other ttls."""

from datetime import timedelta

from .._schema.catalog_filter import Conditions, living_filter, living_session_filter
from .._schema.deletion import NOT_HELD
from .._schema.expiry import HELD, HOLD_UPDATE, RELEASE_UPDATE, new_ttl_update
from .._schema.ids import check_id
from .._schema.values import Stored, Update
from ..errors import SessionNotFoundError
from .indexes import ensure_expiry_index
from .operation import Collections
from .reading import catalog_operation

__all__ = ["LifetimeStore"]


class LifetimeStore:
    """The lifetimes of the sessions of one namespace.

    Args:
        collections: The namespace.
    """

    def __init__(self, collections: Collections) -> None:
        self._sessions = collections.sessions

    def hold(self, session_id: str) -> None:
        """Keep a session from expiring and from being deleted, until it is released."""
        with catalog_operation("hold"):
            self._update(session_id, HOLD_UPDATE)

    def release(self, session_id: str) -> None:
        """End the hold of a session; one with a ttl gets a new date."""
        with catalog_operation("release"):
            self._update(session_id, RELEASE_UPDATE, HELD)

    def set_ttl(self, session_id: str, ttl: timedelta | None) -> int:
        """Let a session live so long from now, and after each later write; return 1, or 0 if it is held."""
        with catalog_operation("set_ttl"):
            self._index(ttl)
            return self._update(session_id, new_ttl_update(ttl), NOT_HELD)

    def set_ttl_of_many(self, conditions: Conditions, ttl: timedelta | None) -> int:
        """Do the same with all sessions for which conditions hold; return how many, without those that are held."""
        with catalog_operation("set_ttl"):
            self._index(ttl)
            wanted = living_filter([conditions], NOT_HELD)
            return self._sessions.update_many(wanted, new_ttl_update(ttl)).matched_count

    def _index(self, ttl: timedelta | None) -> None:
        if ttl is not None:
            ensure_expiry_index(self._sessions)

    def _update(self, session_id: str, update: Update, *conditions: Stored) -> int:
        """Update a session; return 0 if one of the conditions does not hold."""
        check_id("session_id", session_id)
        if self._sessions.update_one(living_session_filter(session_id, (), *conditions), update).matched_count:
            return 1
        if self._sessions.find_one(living_session_filter(session_id, ()), {"_id": 1}) is None:
            raise SessionNotFoundError(session_id)
        return 0
