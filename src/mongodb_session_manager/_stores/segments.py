"""Segments: documents with messages that have outgrown the session document, which refers to them.

A segment is inserted under a fresh id; one guarded update of the session adds the reference. A segment is never
replaced: a message in it may be edited, and more may be appended. If the process dies in between, a segment without a
reference, or messages in it beyond the last one that its reference names, are invisible, and are deleted with the
session.
"""

import itertools
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import bson
from bson import ObjectId
from pymongo.collection import Collection
from pymongo.errors import WriteError

from .._schema.files import (
    new_segment_doc,
    segment_edit_update,
    segment_ids_projection,
    segment_messages_pipeline,
    segments_filter,
    tracked_segments_filter,
)
from .._schema.histories import Guard, guard_of, rollover_update, uncounted_update
from .._schema.lease import Lease, leased_update
from .._schema.limits import LIMITS, Limits
from .._schema.listing import Position
from .._schema.lives import Life
from .._schema.messages import MessageEdit
from .._schema.reads import ReadAgentDoc, embedded_messages_pipeline, is_numbered
from .._schema.usage import moved_usage
from .._schema.values import FilterAndUpdate, Stored
from ..errors import SessionNotFoundError
from ..types import MessageDoc, SegmentDoc, SegmentReferenceDoc
from .indexes import ensure_segment_index
from .lives import Lives
from .operation import Collections

logger = logging.getLogger(__name__)

# A path leads through what is no object, or to what is no number, or the sum is too large for a number.
_NO_SUM = frozenset({2, 14, 28})
SEGMENT_BYTES = 4 * 1024 * 1024
# The server compares each message with each span.
MOST_SPANS = 16


@dataclass(frozen=True)
class EmbeddedSize:
    """The number and bytes of an agent's messages that a move left embedded."""

    embedded_count: int
    embedded_bytes: int


class MessageSegments:
    """The messages of agents that are in segments.

    Args:
        collections: Where they are.
        lives: Of the sessions.
        limits: How much of a history stays embedded.
    """

    def __init__(self, collections: Collections, lives: Lives, limits: Limits = LIMITS) -> None:
        self._sessions, self._segments = collections.sessions, collections.segments
        self._lives, self._limits = lives, limits

    def index(self) -> None:
        """Have the segments indexed by their session, in the background."""
        ensure_segment_index(self._segments)

    def move_oldest(
        self,
        session_id: str,
        agent_id: str,
        guard: Guard,
        write_id: ObjectId,
        kept_bytes: int | None,
        lease: Lease | None,
    ) -> EmbeddedSize | None:
        """Move an agent's oldest messages; None if there are none to move, or another writer was faster."""
        with self._lives.held(session_id) as life:
            return self._move_oldest(life, agent_id, guard, write_id, kept_bytes, lease)

    def _move_oldest(
        self, life: Life, agent_id: str, guard: Guard, write_id: ObjectId, kept_bytes: int | None, lease: Lease | None
    ) -> EmbeddedSize | None:
        session_id = life.session_id
        agent = next(self._sessions.aggregate(embedded_messages_pipeline(session_id, agent_id)), None)
        if agent is None:
            raise SessionNotFoundError(session_id)
        if not agent.get("agent_data") or guard_of(agent) != guard:
            return None
        moved, kept = self._split(agent["messages"], self._limits.kept_bytes if kept_bytes is None else kept_bytes)
        if not moved or not is_ordered(agent["messages"]):
            return None
        pairs = new_segments(life, agent_id, moved)
        self._segments.insert_many([cast(Stored, segment) for segment, _ in pairs])
        references = [reference for _, reference in pairs]
        moved_count = agent.get("moved_count") or 0
        change = rollover_update(
            session_id, agent_id, guard, moved_count, references, write_id, moved_usage(moved, kept)
        )
        if record_move(self._sessions, leased_update(self._lives.named(session_id, change), lease)):
            return EmbeddedSize(len(kept), total_size(kept))
        self._segments.delete_many(segments_filter(life, references))
        return None

    def store(
        self, session_id: str, agent_id: str, messages: list[MessageDoc]
    ) -> tuple[list[SegmentReferenceDoc], list[MessageDoc]]:
        """Store the older messages of a new agent; return the references to them, and the latest messages."""
        moved, kept = self._split(messages, self._limits.embedded_bytes)
        pairs = new_segments(self._lives.of(session_id), agent_id, moved)
        if pairs:
            self.index()
            self._segments.insert_many([cast(Stored, segment) for segment, _ in pairs])
        return [reference for _, reference in pairs], kept

    def _split(self, messages: list[MessageDoc], kept_bytes: int) -> tuple[list[MessageDoc], list[MessageDoc]]:
        """Divide messages into older ones, which move, and the latest, which stay."""
        count, size = 0, 0
        for message in reversed(messages[-self._limits.kept_messages :]):
            size += message_size(message)
            if size > kept_bytes:
                break
            count += 1
        border = len(messages) - count
        return messages[:border], messages[border:]

    def take_back(self, session_id: str, references: Sequence[SegmentReferenceDoc]) -> None:
        """Delete segments whose references were not stored."""
        self._segments.delete_many(segments_filter(self._lives.read(session_id), references))

    def page(self, session_id: str, agent: ReadAgentDoc, start: int, end: int | None) -> list[MessageDoc]:
        """Return the messages between two positions.

        Args:
            session_id: The session.
            agent: The result of ``page_pipeline`` for these positions.
            start: The position of the first.
            end: The position after the last one; None for all that follow.
        """
        embedded: list[MessageDoc] = agent["messages"]
        references: list[SegmentReferenceDoc] = agent["segments"]
        if is_numbered(agent):
            last = None if end is None else end - 1
            return self.read(session_id, references, [(start, last)] if start or end is not None else ()) + embedded
        # Positions before the embedded messages are counted by the references.
        ends = list(itertools.accumulate(reference["count"] for reference in references))
        wanted = [
            (border - reference["count"], reference)
            for reference, border in zip(references, ends, strict=True)
            if border > start and (end is None or border - reference["count"] < end)
        ]
        moved = self.read(session_id, [reference for _, reference in wanted])
        first = wanted[0][0] if wanted else 0
        older = moved[max(start - first, 0) : None if end is None else max(end - first, 0)]
        border = ends[-1] if ends else 0
        return older + embedded[max(start - border, 0) : None if end is None else max(end - border, 0)]

    def read(
        self, session_id: str, references: Sequence[SegmentReferenceDoc], spans: Sequence[tuple[int, int | None]] = ()
    ) -> list[MessageDoc]:
        """Return the messages of segments in the order of their references; with spans, only ids in one of them."""
        found = self._find(session_id, references, spans)
        return [message for reference in references for message in _named(found[reference["_id"]], reference)]

    def read_message(
        self, session_id: str, references: Iterable[SegmentReferenceDoc], message_id: int
    ) -> MessageDoc | None:
        """Return one message by its id, or None."""
        holding = [r for r in references if r["first_id"] <= message_id <= r["last_id"]]
        return next((m for m in self.read(session_id, holding) if m["message_id"] == message_id), None)

    def position(self, session_id: str, references: Sequence[SegmentReferenceDoc], message_id: int) -> Position | None:
        """Return the position of a message id in these segments; None if it is higher than all their ids."""
        before = 0
        for reference in references:
            if message_id < reference["first_id"]:
                return Position(before, before)
            if message_id <= reference["last_id"]:
                return self._position_within(session_id, reference, message_id, before)
            before += reference["count"]
        return None

    def _position_within(
        self, session_id: str, reference: SegmentReferenceDoc, message_id: int, before: int
    ) -> Position:
        segment = self._segments.find_one(*segment_ids_projection(self._lives.read(session_id), reference))
        if segment is None:
            raise SessionNotFoundError(session_id)  # deleted between two reads
        ids = [message["message_id"] for message in _named(cast(SegmentDoc, segment), reference)]
        before += sum(each < message_id for each in ids)
        return Position(before, before + (message_id in ids))

    def _find(
        self, session_id: str, references: Sequence[SegmentReferenceDoc], spans: Sequence[tuple[int, int | None]]
    ) -> dict[ObjectId, SegmentDoc]:
        if not references:
            return {}
        if len(spans) > MOST_SPANS:
            spans = [(min(first for first, _ in spans), None)]
        life = self._lives.read(session_id)
        read: Iterable[Stored] = self._segments.find(segments_filter(life, references))
        if spans:
            read = self._segments.aggregate(segment_messages_pipeline(life, references, spans))
        found = {segment["_id"]: cast(SegmentDoc, segment) for segment in read}
        if len(found) < len(references):
            raise SessionNotFoundError(session_id)  # deleted between two reads
        return found

    def edit(self, session_id: str, agent_id: str, edit: MessageEdit) -> bool:
        """Change a message in every segment that holds it; False if none does."""
        change = segment_edit_update(self._lives.read(session_id), agent_id, edit)
        return self._segments.update_many(*change).matched_count > 0

    def tracked(self, session_id: str, agent_id: str, tracking_ids: Sequence[Any]) -> list[MessageDoc]:
        """Return the messages with one of some tracking ids, as stored, in segments with or without a reference."""
        found = self._segments.find(tracked_segments_filter(self._lives.read(session_id), [agent_id], tracking_ids))
        return [m for segment in found for m in segment["messages"] if m.get("tracking_id") in tracking_ids]

    def holds_tracked(self, session_id: str, agent_ids: Iterable[str], tracking_id: Any) -> bool:
        """Tell whether a segment holds a message with this tracking id, as stored."""
        wanted = tracked_segments_filter(self._lives.read(session_id), agent_ids, [tracking_id])
        return self._segments.find_one(wanted, {"_id": 1}) is not None


def _named(segment: SegmentDoc, reference: SegmentReferenceDoc) -> list[MessageDoc]:
    """Return the messages of a segment that its reference names; it may hold more, whose move is not recorded yet."""
    return [message for message in segment["messages"] if message["message_id"] <= reference["last_id"]]


def record_move(sessions: Collection[Stored], change: FilterAndUpdate) -> bool:
    """Send a rollover; False if it changed nothing. A sum that cannot be added to costs only the sum."""
    try:
        return sessions.update_one(*change).matched_count > 0
    except WriteError as error:
        if error.code not in _NO_SUM:
            raise
        logger.debug("session_id=<%s>, code=<%s> | moved usage could not be added up", change[0]["_id"], error.code)
        return sessions.update_one(*uncounted_update(change)).matched_count > 0


def new_segments(life: Life, agent_id: str, messages: list[MessageDoc]) -> list[tuple[SegmentDoc, SegmentReferenceDoc]]:
    """Return segments of messages, each well below MongoDB's limit, each with its reference."""
    return [new_segment_doc(life, agent_id, part, total_size(part)) for part in _parts(messages)]


def total_size(messages: Iterable[MessageDoc]) -> int:
    """Return the size of messages together, in bytes."""
    return sum(map(message_size, messages))


def _parts(messages: list[MessageDoc]) -> list[list[MessageDoc]]:
    """Divide messages into parts for segments well below MongoDB's limit."""
    parts: list[list[MessageDoc]] = []
    size = SEGMENT_BYTES
    for message in messages:
        size += message_size(message)
        if size > SEGMENT_BYTES:
            parts.append([])
            size = message_size(message)
        parts[-1].append(message)
    return parts


def message_size(message: MessageDoc) -> int:
    """Return the size of a stored message, in bytes."""
    return len(bson.encode(message))


def is_ordered(messages: list[MessageDoc]) -> bool:
    """Tell whether the ids of messages ascend, so that they can move."""
    # The first version could mix up ids; such a history stays in the document.
    return all(one["message_id"] < other["message_id"] for one, other in itertools.pairwise(messages))
