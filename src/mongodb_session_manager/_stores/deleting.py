"""Deletes one session for the catalog, with a receipt."""

from collections.abc import Sequence
from typing import Any

from .._schema.deletion import NOT_HELD, added_up, ended_lives_filter, receipt_pipeline
from .._schema.given import check_flag
from .._schema.ids import check_id, now
from .._schema.lives import Life
from .._schema.values import Stored
from ..errors import SessionConflictError, SessionHeldError, SessionNotFoundError
from ..types.reports import DeletionReceipt
from .children import Children, ChildrenEraser
from .operation import CONTENDED, Collections
from .reading import catalog_operation

__all__ = ["DeletionStore"]

# How often a session is looked at that others delete and create again, or hold, meanwhile.
_TRIES = 5


class DeletionStore:
    """Deletes sessions of one namespace, one by one.

    Args:
        collections: The namespace.
        max_time_ms: Milliseconds that the server may work for one read.
    """

    def __init__(self, collections: Collections, max_time_ms: int) -> None:
        self._sessions, self._max_time_ms = collections.sessions, max_time_ms
        self._eraser, self._lives = ChildrenEraser(collections), collections.lives()

    def delete(self, session_id: str, *, even_held: bool = False) -> DeletionReceipt:
        """Delete a session with everything that belongs to it; what is left of it is removed also if it is not there.

        Raises:
            SessionHeldError: It is held, and ``even_held`` is False.
        """
        check_id("session_id", session_id)
        check_flag("even_held", even_held)
        with catalog_operation("delete"):
            counted = self._delete_document(session_id, () if even_held else (NOT_HELD,))
            children = self._eraser.delete([Life(session_id, counted.get("instance"))])
        return _receipt(session_id, counted, children)

    def _delete_document(self, session_id: str, conditions: Sequence[Stored]) -> Stored:
        """Delete a session document, and return what was counted of it; nothing if there is none.

        A life of the id that begins meanwhile is not meant.
        """
        life: Life | None = None
        for _ in range(_TRIES):
            counted = self._count(session_id)
            if not counted or (life and counted["instance"] != life.instance):
                return {}
            if counted["held"] and conditions:
                raise SessionHeldError(session_id)
            life = self._ending(session_id, counted["instance"])
            # A findAndModify would leave an image of the document behind.
            if life and self._sessions.delete_one(ended_lives_filter([life], conditions)).deleted_count:
                return {**counted, "instance": life.instance}
        raise SessionConflictError(session_id, None, CONTENDED)

    def _count(self, session_id: str) -> Stored:
        found = self._sessions.aggregate(receipt_pipeline(session_id), maxTimeMS=self._max_time_ms)
        return next(found, {})

    def _ending(self, session_id: str, instance: Any) -> Life | None:
        """Return the life that is to end; one of an older version gets an instance. None if it has ended."""
        try:
            return self._lives.of(session_id) if instance is None else Life(session_id, instance)
        except SessionNotFoundError:
            return None


def _receipt(session_id: str, counted: Stored, children: Children) -> DeletionReceipt:
    instance = counted.get("instance")
    return DeletionReceipt(
        session_id=session_id,
        deleted=bool(counted),
        instance=None if instance is None else str(instance),
        at=now(),
        messages=added_up((*counted.get("messages", ()), *counted.get("nested", ()))),
        feedback=added_up(counted.get("feedback", ())),
        undelivered=added_up(counted.get("undelivered", ())),
        bytes=added_up([counted.get("bytes")]) + children.bytes,
        **children.counts,
    )
