"""Notifications that nobody has delivered yet, beyond what a session document should hold of them.

Each is a document of its own, which only the session document refers to: one that nobody refers to (the process died
before the change that it tells of was stored) is invisible and goes with the session.
"""

import logging
from collections.abc import Iterable, Sequence

from bson import ObjectId
from pymongo.collection import Collection

from .._schema.data import outbox_documents_filter
from .._schema.files import segments_filter
from .._schema.values import Stored
from .indexes import ensure_segment_index

__all__ = ["OUTBOX_BYTES", "OutboxDocuments"]

logger = logging.getLogger(__name__)

OUTBOX_BYTES = 256 * 1024
# What one opening brings; the next one brings more when these are delivered.
MOST_READ = 100


class OutboxDocuments:
    """The notifications of sessions beyond what their documents hold.

    Args:
        segments: The collection of the segments.
    """

    def __init__(self, segments: Collection[Stored]) -> None:
        self._segments = segments

    def store(self, session_id: str, records: Sequence[Stored]) -> list[Stored]:
        """Store notifications, and return the references to them."""
        logger.warning(
            "session_id=<%s>, notifications=<%d> | nobody delivers the notifications of this session; they are kept in "
            "documents of their own",
            session_id,
            len(records),
        )
        ensure_segment_index(self._segments)
        references = [{"_id": ObjectId(), "id": record["id"]} for record in records]
        self._segments.insert_many(
            {"_id": reference["_id"], "session_id": session_id, "kind": "outbox", "record": record}
            for reference, record in zip(references, records, strict=True)
        )
        return references

    def read(self, session_id: str, references: Sequence[Stored]) -> list[Stored]:
        """Return the oldest notifications of those that are referred to."""
        wanted = references[:MOST_READ]
        if not wanted:
            return []
        found = {each["_id"]: each["record"] for each in self._segments.find(segments_filter(session_id, wanted))}
        return [found[reference["_id"]] for reference in wanted if reference["_id"] in found]

    def delete(self, session_id: str, ids: Iterable[str]) -> None:
        """Delete notifications that were delivered."""
        self._segments.delete_many(outbox_documents_filter(session_id, ids))

    def take_back(self, session_id: str, references: Sequence[Stored]) -> None:
        """Delete notifications of a change that was not stored."""
        self._segments.delete_many(segments_filter(session_id, references))
