"""How long sessions live, as operators decide: holds, and other ttls."""

from datetime import timedelta

from .._schema.catalog_filter import living_filter, living_session_filter, scope_of
from .._schema.deletion import NOT_HELD
from .._schema.expiry import HELD, HOLD_UPDATE, RELEASE_UPDATE, check_ttl, new_ttl_update
from .._schema.ids import check_id
from .._schema.values import Pipeline, Stored, Update
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

    def set_ttl(self, target: object, ttl: timedelta | None) -> int:
        """Let sessions live so long from now, and after each later write.

        Args:
            target: A session id, or a filter.
            ttl: None: they live until they are deleted.

        Returns:
            The number of sessions, without those that are held.
        """
        update = new_ttl_update(check_ttl(ttl))
        wanted = None if isinstance(target, str) else living_filter([scope_of(target)], [(NOT_HELD,)])
        with catalog_operation("set_ttl"):
            if wanted is None:
                changed = self._update(str(target), update, NOT_HELD)
            else:
                changed = self._sessions.update_many(wanted, update).matched_count
        if ttl is not None:
            ensure_expiry_index(self._sessions)
        return changed

    def _update(self, session_id: str, update: Update | Pipeline, condition: Stored | None = None) -> int:
        """Update a session; return 0 if a condition does not hold."""
        check_id("session_id", session_id)
        living = living_session_filter(session_id, ())
        wanted = living if condition is None else living_session_filter(session_id, (), [(condition,)])
        if self._sessions.update_one(wanted, update).matched_count:
            return 1
        if self._sessions.find_one(living, {"_id": 1}) is None:
            raise SessionNotFoundError(session_id)
        return 0
