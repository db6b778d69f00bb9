"""What outgrows the session document moves to segment documents, which only it refers to.

A segment is inserted under a fresh id and never changed; the session takes up the reference in one guarded update.
A segment that nobody refers to (the process died in between) is invisible and goes with the session.
"""

import logging
from typing import Any

from bson import ObjectId
from pymongo.collection import Collection
from pymongo.errors import PyMongoError

from . import _document
from ._codec import Stored
from .errors import SessionNotFoundError

logger = logging.getLogger(__name__)

FEEDBACK_BYTES = 256 * 1024


class FeedbackSegments:
    """The feedback of sessions beyond what their documents hold.

    Args:
        sessions: The collection of the session documents.
        segments: The collection of the segments.
    """

    def __init__(self, sessions: Collection[Stored], segments: Collection[Stored]) -> None:
        self._sessions, self._segments = sessions, segments

    def move(self, session_id: str) -> None:
        """Move the feedback in the session document into a segment; another time, if somebody adds to it meanwhile."""
        fields = {"feedbacks": 1, "feedback_segments": 1}
        try:
            session = self._sessions.find_one({"_id": session_id}, fields) or {}
            if session.get("feedbacks"):
                self._move(session_id, session["feedbacks"], len(session.get("feedback_segments", ())))
        except PyMongoError as error:
            # The feedback is stored; only its move waits for the next one.
            logger.warning("session_id=<%s>, error=<%s> | feedback was not moved", session_id, type(error).__name__)

    def _move(self, session_id: str, feedbacks: list[Stored], segments: int) -> None:
        segment_id = ObjectId()
        segment = {"_id": segment_id, "session_id": session_id, "kind": "feedback", "items": feedbacks}
        self._segments.insert_one(segment)
        reference = {"_id": segment_id, "count": len(feedbacks)}
        wanted, update = _document.moved_feedback(session_id, len(feedbacks), segments, reference)
        if not self._sessions.update_one(wanted, update).matched_count:
            self._segments.delete_one({"_id": segment_id, "session_id": session_id})

    def read(self, session: Stored) -> list[Stored]:
        """Return all feedback of a session of which ``feedbacks`` and ``feedback_segments`` were read."""
        references = [reference["_id"] for reference in session.get("feedback_segments", ())]
        moved: dict[Any, list[Stored]] = {}
        if references:
            found = self._segments.find(_document.segments(session, references))
            moved = {segment["_id"]: segment["items"] for segment in found}
        if len(moved) < len(references):
            raise SessionNotFoundError(session["_id"])  # deleted between the two reads
        older = [feedback for reference in references for feedback in moved[reference]]
        return older + list(session.get("feedbacks", ()))

    def delete(self, session_id: str) -> None:
        """Delete all segments of a session, whether referred to or not."""
        self._segments.delete_many({"session_id": session_id})
