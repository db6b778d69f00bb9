"""Deletes a session with everything that belongs to it: the document first, then its segments and files.

A deletion that ended halfway is finished by the next one, or by a sweep.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from pymongo.collection import Collection as MongoCollection
from pymongo.errors import ConnectionFailure

from .._schema.deletion import NOT_HELD, ended_lives_filter, segments_of_lives_filter
from .._schema.expiry import EXPIRED, expired_filter
from .._schema.ids import now
from .._schema.lives import Life, ended_life_filter, instance_of
from .._schema.values import Stored
from ..errors import SessionConflictError, SessionHeldError
from .children import ChildrenEraser
from .lives import Lives
from .operation import CONTENDED, Collections

__all__ = ["SessionEraser", "again_if_cut", "delete_lives"]

_T = TypeVar("_T")

# How often a session is looked at that is held and released meanwhile.
_TRIES = 5


class SessionEraser:
    """Deletes the sessions of one repository.

    Args:
        collections: Where the sessions and their children are.
        lives: Of the sessions.
    """

    def __init__(self, collections: Collections, lives: Lives) -> None:
        self._sessions, self._segments, self._lives = collections.sessions, collections.segments, lives
        self._children = ChildrenEraser(collections)

    def delete(self, session_id: str, *, even_held: bool = False) -> bool:
        """Delete a session, and what is left of its earlier lives; False if it was not there in the life meant.

        Raises:
            SessionHeldError: It is held, and ``even_held`` is False.
        """
        life = self._lives.ending(session_id)
        deleted = self._delete_document(life, even_held)
        self._children.delete([life])
        return deleted

    def _delete_document(self, life: Life, even_held: bool) -> bool:
        """Delete a session document, unless the session is in another life by now."""
        conditions = () if even_held else (NOT_HELD,)
        for _ in range(_TRIES):
            # A findAndModify would leave an image of the document behind.
            if self._sessions.delete_one(ended_lives_filter([life], conditions)).deleted_count:
                return True
            found = self._sessions.find_one(ended_life_filter(life), {"held": 1})
            if found is None:
                return False
            if found.get("held") is True and not even_held:
                raise SessionHeldError(life.session_id)
        raise SessionConflictError(life.session_id, None, CONTENDED)

    def remove_expired(self, session_id: str, stored: Mapping[str, Any]) -> None:
        """Delete a session that had expired when it was read, unless it lives again, or is in another life by now."""
        at, life = None if EXPIRED in stored else now(), Life(session_id, instance_of(stored))
        wanted = {**expired_filter(session_id, at), **ended_life_filter(life)}
        if not self._sessions.delete_one(wanted).deleted_count:
            return
        # Whoever opens it waits for this, so it takes no look at what there may be; a sweep takes it.
        if stored.get("has_files") or life.instance is None:
            self._children.delete([life])
        else:
            self._segments.delete_many(segments_of_lives_filter([life]))


def delete_lives(sessions: "MongoCollection[Stored]", lives: Collection[Life], wanted: Stored) -> tuple[int, set[Life]]:
    """Delete the documents of lives that match a filter; return how many, and which of the lives are over."""
    deleted = again_if_cut(lambda: sessions.delete_many(ended_lives_filter(lives, [wanted])).deleted_count)
    if deleted == len(lives):
        return deleted, set(lives)
    left = {session["_id"] for session in sessions.find(ended_lives_filter(lives), {"_id": 1})}
    return deleted, {life for life in lives if life.session_id not in left}


def again_if_cut(call: Callable[[], _T]) -> _T:
    """Repeat a call whose connection was cut: the driver does not repeat a deletion of several documents."""
    try:
        return call()
    except ConnectionFailure:
        return call()
