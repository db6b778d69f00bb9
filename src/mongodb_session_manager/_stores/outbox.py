"""Notifications: recorded together with the change that they tell of, and kept until they are delivered.

The session document holds them up to a size. Beyond this size, each is a document of its own, and the session document
refers to it. A document without a reference (the process died before the change was stored) is invisible, and is
deleted with the session.
"""

import logging
from collections.abc import Iterable, Sequence

import bson
from bson import ObjectId

from .._schema.data import acknowledged_update, outbox_documents_filter, recorded_apart_update, recorded_update
from .._schema.files import segments_filter
from .._schema.lives import Life
from .._schema.sessions import OpenedDoc
from .._schema.values import FilterAndUpdate, Stored
from ..errors import SessionNotFoundError
from ..types import OutboxReferenceDoc
from .indexes import ensure_segment_index
from .operation import Operations, operation

__all__ = ["OUTBOX_BYTES", "OutboxStore"]

logger = logging.getLogger(__name__)

OUTBOX_BYTES = 256 * 1024
# Notifications that one opening reads; a later one reads more, once these are delivered.
MOST_READ = 100


class OutboxStore:
    """The undelivered notifications of one repository's sessions.

    Args:
        operations: Of the repository.
    """

    def __init__(self, operations: Operations) -> None:
        self._operations, self._segments = operations, operations.collections.segments

    def send(self, session_id: str, change: FilterAndUpdate, records: list[Stored]) -> bool:
        """Send a change with its notifications; undelivered ones never fill the document."""
        if not records:
            return self._operations.send(session_id, change)
        most = OUTBOX_BYTES if self._operations.can_compute else None
        if self._operations.send(session_id, recorded_update(change, records, most)):
            return True
        if most is None or self._fits(session_id, records, most):
            return False
        with self._operations.lives.held(session_id) as life:
            references = self._store(life, records)
            written = self._operations.send(session_id, recorded_apart_update(change, references))
            if not written:
                self._segments.delete_many(segments_filter(life, references))
                self._operations.expect_stored(session_id)
            return written

    def undelivered(self, session_id: str, session: OpenedDoc) -> list[Stored]:
        """Return the undelivered notifications of a session that was read."""
        embedded, apart = list(session.get("outbox", ())), session.get("outbox_documents")
        if not apart:
            return embedded
        with operation("read_outbox", session_id):
            return [*embedded, *self._read(session_id, apart)]

    def acknowledge(self, session_id: str, ids: Iterable[str]) -> None:
        """Remove notifications that were delivered.

        Raises:
            SessionNotFoundError: There is no such session; its notifications were deleted with it.
        """
        delivered, sessions = list(ids), self._operations.sessions
        with operation("acknowledge_outbox", session_id):
            named = self._operations.lives.named
            result = sessions.update_one(*named(session_id, acknowledged_update(session_id, delivered)))
            if not result.matched_count:
                raise SessionNotFoundError(session_id)
            if not result.modified_count:
                sessions.update_one(*named(session_id, acknowledged_update(session_id, delivered, apart=True)))
                life = self._operations.lives.read(session_id)
                self._segments.delete_many(outbox_documents_filter(life, delivered))

    def _fits(self, session_id: str, records: list[Stored], most: int) -> bool:
        return self._operations.bytes_of(session_id, "outbox") + len(bson.encode({"outbox": records})) <= most

    def _store(self, life: Life, records: Sequence[Stored]) -> list[OutboxReferenceDoc]:
        """Store notifications as documents, and return the references to them."""
        logger.warning(
            "session_id=<%s>, notifications=<%d> | the notifications of this session are not delivered; they are kept "
            "in documents of their own",
            life.session_id,
            len(records),
        )
        ensure_segment_index(self._segments)
        references: list[OutboxReferenceDoc] = [{"_id": ObjectId(), "id": record["id"]} for record in records]
        self._segments.insert_many(
            {"_id": reference["_id"], **life.fields, "kind": "outbox", "record": record}
            for reference, record in zip(references, records, strict=True)
        )
        return references

    def _read(self, session_id: str, references: Sequence[OutboxReferenceDoc]) -> list[Stored]:
        """Return the oldest notifications that are referred to."""
        wanted = references[:MOST_READ]
        life = self._operations.lives.read(session_id)
        found = {each["_id"]: each["record"] for each in self._segments.find(segments_filter(life, wanted))}
        return [found[reference["_id"]] for reference in wanted if reference["_id"] in found]
