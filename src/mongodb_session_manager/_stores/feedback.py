"""The feedback of sessions, in their documents and in segments."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any, cast

import bson
from bson import ObjectId
from pymongo.errors import PyMongoError

from .._schema.data import little_feedback_filter, new_feedback_update
from .._schema.feedback import FeedbackTarget
from .._schema.files import moved_feedback_update, segments_filter
from .._schema.given import Outbox, feedback_values, outbox_records
from .._schema.ids import MAX_MESSAGE_ID, check_id
from .._schema.values import Stored, decode
from ..errors import MessageNotFoundError, SessionNotFoundError
from ..types import FeedbackDoc, FeedbackReferenceDoc
from .agent_config import AgentConfigStore
from .indexes import ensure_segment_index
from .messages import MessageStore
from .operation import Operations, operation
from .outbox import OutboxStore
from .restoring import Reading
from .segments import MessageSegments

__all__ = ["FEEDBACK_BYTES", "FeedbackStore"]

logger = logging.getLogger(__name__)

FEEDBACK_BYTES = 256 * 1024

_FIELDS = {"feedbacks": 1, "feedback_segments": 1}


class FeedbackStore:
    """The feedback in one repository's sessions.

    Args:
        operations: Of the repository.
        outbox: The notifications recorded with feedback.
        segments: The messages in segments.
        messages: The messages that feedback may be about.
        configs: Tells which agents a session holds.
    """

    def __init__(
        self,
        operations: Operations,
        outbox: OutboxStore,
        segments: MessageSegments,
        messages: MessageStore,
        configs: AgentConfigStore,
    ) -> None:
        self._operations, self._outbox = operations, outbox
        self._messages, self._configs = messages, configs
        self._moved, self._segments = segments, operations.collections.segments

    def add_feedback(
        self, session_id: str, feedback: Mapping[str, Any], agent_ids: Iterable[str] = (), outbox: Outbox = ()
    ) -> None:
        """Append feedback; ``created_at`` is added."""
        stored = feedback_values(session_id, feedback)
        target = FeedbackTarget.of(session_id, feedback)
        agent_ids = [check_id("agent_id", agent_id) for agent_id in agent_ids]
        records = outbox_records(session_id, outbox)
        if self._push(session_id, stored, target.session_filter(agent_ids), records):
            return
        if self._has_moved(session_id, target, agent_ids):
            if not self._push(session_id, stored, {}, records):
                raise SessionNotFoundError(session_id)  # deleted meanwhile
            return
        # Another process may have added agents; this also tells whether the session exists.
        others = {config["agent_id"] for config in self._configs.list_agent_configs(session_id)} - set(agent_ids)
        if not (target.anywhere and self._push(session_id, stored, target.session_filter(others), records)):
            raise MessageNotFoundError(session_id, target.agent_id, "" if target.message is None else target.message)

    def get_feedbacks(self, session_id: str) -> list[dict[str, Any]]:
        """Return all feedback of the session, oldest first."""
        with operation("get_feedbacks", session_id):
            session = self._operations.find(session_id, _FIELDS)
            with Reading(f"Session {session_id!r}", "feedback"):
                return [cast("dict[str, Any]", decode(stored)) for stored in self._read(session)]

    def _has_moved(self, session_id: str, target: FeedbackTarget, agent_ids: Iterable[str]) -> bool:
        if isinstance(target.message, str):
            agents = agent_ids if target.agent_id is None else [target.agent_id]
            return self._moved.holds_tracked(session_id, agents, target.stored)
        if target.agent_id is None or target.message is None or abs(target.message) > MAX_MESSAGE_ID:
            return False
        return self._messages.read_message(session_id, target.agent_id, target.message) is not None

    def _push(self, session_id: str, stored: Stored, about: Stored | None, records: list[Stored]) -> bool:
        if about is None:
            return False
        size = len(bson.encode(stored))
        wanted, update = new_feedback_update(session_id, stored, size, about)
        with operation("add_feedback", session_id):
            # A findAndModify that returns the size would leave an image of the document, which no redaction reaches.
            fitting = little_feedback_filter(wanted, FEEDBACK_BYTES - size)
            if size <= FEEDBACK_BYTES and self._outbox.send(session_id, (fitting, update), records):
                return True
            added = self._outbox.send(session_id, (wanted, update), records)
        if added:
            self._move(session_id)
        return added

    def _move(self, session_id: str) -> None:
        """Move the feedback in the session document into a segment; later, if more is added meanwhile."""
        try:
            session = self._operations.sessions.find_one({"_id": session_id}, _FIELDS) or {}
            if session.get("feedbacks"):
                self._move_into_segment(session_id, session["feedbacks"], len(session.get("feedback_segments", ())))
        except PyMongoError as error:
            # The feedback is stored; the next one moves it.
            logger.warning("session_id=<%s>, error=<%s> | feedback was not moved", session_id, type(error).__name__)

    def _move_into_segment(self, session_id: str, feedbacks: list[FeedbackDoc], segments: int) -> None:
        segment_id, lives = ObjectId(), self._operations.lives
        reference: FeedbackReferenceDoc = {"_id": segment_id, "count": len(feedbacks)}
        ensure_segment_index(self._segments)
        with lives.held(session_id) as life:
            self._segments.insert_one({"_id": segment_id, **life.fields, "kind": "feedback", "items": feedbacks})
            change = moved_feedback_update(session_id, feedbacks, segments, reference)
            if not self._operations.sessions.update_one(*lives.named(session_id, change)).matched_count:
                self._segments.delete_one(segments_filter(life, [reference]))

    def _read(self, session: Stored) -> list[FeedbackDoc]:
        """Return all feedback of a session whose feedback fields were read."""
        references: list[FeedbackReferenceDoc] = session.get("feedback_segments", [])
        moved: dict[ObjectId, list[FeedbackDoc]] = {}
        if references:
            life = self._operations.lives.read(session["_id"])
            found = self._segments.find(segments_filter(life, references))
            moved = {segment["_id"]: segment["items"] for segment in found}
        if len(moved) < len(references):
            raise SessionNotFoundError(session["_id"])  # deleted between the two reads
        older = [feedback for reference in references for feedback in moved[reference["_id"]]]
        return older + list(session.get("feedbacks", ()))
