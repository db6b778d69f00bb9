"""Sessions that have expired are gone: opening one deletes it and begins it anew. Opening others moves their dates."""

from collections.abc import Callable
from typing import TypeAlias

from pymongo.errors import DuplicateKeyError

from .._schema.expiry import Lifetime, has_expired
from .._schema.ids import now
from .._schema.sessions import OpenedDoc
from .._schema.values import Stored
from ..errors import SessionConflictError, SessionNotFoundError
from .erasing import SessionEraser
from .opening import opened_fields
from .operation import CONTENDED, Collections, Operations

__all__ = ["LivingSessions", "insert_session"]

# Opens a session, and returns its fields, and whether it is new.
Open: TypeAlias = Callable[[], tuple[OpenedDoc, bool]]

# How often a session is opened that others delete, hold or give another ttl meanwhile.
_TRIES = 5


class LivingSessions:
    """The sessions of one repository that have not expired.

    Args:
        operations: Of the repository.
        eraser: Deletes those that have.
    """

    def __init__(self, operations: Operations, eraser: SessionEraser) -> None:
        self._operations, self._eraser = operations, eraser

    def open(
        self, session_id: str, lifetime: Lifetime, open_one: Open, found: OpenedDoc | None, *, create: bool
    ) -> tuple[OpenedDoc, bool]:
        """Return the fields of a session that has not expired, and whether it is new.

        Args:
            session_id: The session.
            lifetime: How long it is to live; what is stored of it is noted.
            open_one: Opens it.
            found: What was read of it just now; None if it is to be opened.
            create: Whether it is created if it is not there.

        Raises:
            SessionNotFoundError: It has expired, and is not to be created.
        """
        for attempt in range(_TRIES):
            stored, created = (found, False) if found and not attempt else open_one()
            if created or self._is_living(session_id, stored, lifetime, create=create):
                self._operations.dates.opened(session_id, lifetime)
                return stored, created
        raise SessionConflictError(session_id, None, CONTENDED)

    def _is_living(self, session_id: str, stored: OpenedDoc, lifetime: Lifetime, *, create: bool) -> bool:
        """Tell whether a session can be used as it was read; one that has expired is deleted."""
        if not has_expired(stored, now()):
            lifetime.found(stored, now())
            return not create or self._move_date(session_id, stored, lifetime)
        if not create:
            raise SessionNotFoundError(session_id)
        self._eraser.remove_expired(session_id, stored)
        return False

    def _move_date(self, session_id: str, stored: OpenedDoc, lifetime: Lifetime) -> bool:
        """Move the date along if that is due; False if the session is not as it was read."""
        until = lifetime.due_when_opened(now())
        if until is None:
            return True
        opened = {"_id": session_id, "instance": stored.get("instance")}
        moved = self._operations.send_dated(session_id, lifetime.dated((opened, {}), until))
        if moved:
            lifetime.reached(until)
        return moved


def insert_session(collections: Collections, eraser: SessionEraser, session: Stored) -> None:
    """Insert a session, also in the place of one that has expired.

    Raises:
        DuplicateKeyError: There is one that has not.
    """
    sessions, session_id = collections.sessions, session["_id"]
    try:
        sessions.insert_one(session)
    except DuplicateKeyError:
        stored = sessions.find_one({"_id": session_id}, opened_fields(collections, ()))
        if stored is None or not has_expired(stored, now()):
            raise
        eraser.remove_expired(session_id, stored)
        sessions.insert_one(session)
