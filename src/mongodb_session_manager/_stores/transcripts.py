"""Pages of a history, and single content blocks of its messages."""

import bson

from .._schema.blobs import Files
from .._schema.catalog_arguments import check_block, check_bytes, check_limit
from .._schema.files import chunks_filter, values_of_files, whole_files_filter
from .._schema.ids import agent_label, check_id, check_message_id
from .._schema.lives import Life, instance_of
from .._schema.transcript_messages import marks_in, part_of, transcript_message
from .._schema.transcripts import (
    part_pipeline,
    references_of,
    segment_part_pipeline,
    segments_pipeline,
    transcript_pipeline,
)
from .._schema.values import Stored
from ..errors import AgentNotFoundError, MessageNotFoundError, MongoDBSessionError, SessionNotFoundError
from ..types import Part, Transcript
from .large_values import REMEDY_FOR_MESSAGE, MissingValueError
from .reading import CatalogReads, catalog_operation

__all__ = ["Transcripts"]


class Transcripts:
    """The histories of the sessions in a scope.

    Args:
        reads: The collections, and the scope.
    """

    def __init__(self, reads: CatalogReads) -> None:
        self._reads = reads

    def page(
        self, session_id: object, agent_id: object, limit: object, before: object, max_bytes: object
    ) -> Transcript:
        """Return a page of a history, its latest messages before an id."""
        ids = check_id("session_id", session_id), check_id("agent_id", agent_id)
        most, most_bytes = check_limit(limit), check_bytes(max_bytes)
        end = None if before is None else check_message_id(before, "before: message_id")
        if most == 0:
            return Transcript(messages=[], before=end)
        with catalog_operation("transcript"):
            rows, has_older = self._read(*ids, most, end, most_bytes)
        messages = [transcript_message(row) for row in rows]
        return Transcript(messages=messages, before=messages[0].message_id if messages and has_older else None)

    def _read(
        self, session_id: str, agent_id: str, limit: int, before: int | None, most_bytes: int
    ) -> tuple[list[Stored], bool]:
        """Return the messages of a page, and whether there are older ones."""
        pipeline = transcript_pipeline(session_id, agent_id, self._reads.scope, limit, before, most_bytes)
        agent = self._agent(session_id, agent_id, self._reads.aggregate(pipeline))
        page: list[Stored] = agent["page"]
        is_cut = len(page) < agent["length"]
        if is_cut or agent["start"] > 0 or not agent["segments"] or len(page) == limit:
            return page, bool(is_cut or agent["start"] > 0 or agent["segments"])
        size = sum(map(_size, page))
        ids = session_id, agent_id
        older, has_older = self._moved(ids, agent, limit - len(page), before, most_bytes - size, bool(page))
        return older + page, has_older

    def _moved(
        self, ids: tuple[str, str], agent: Stored, limit: int, before: int | None, most_bytes: int, has_later: bool
    ) -> tuple[list[Stored], bool]:
        """Return the latest messages of segments, and whether there are older ones."""
        references = references_of(agent, limit, before)
        children = Life(ids[0], instance_of(agent)).children
        pipeline = segments_pipeline(children, references, limit, before, max(most_bytes, 1))
        found = {each["_id"]: each for each in self._reads.aggregate_in(self._reads.segments, pipeline)}
        if len(found) < len(references):
            self._look_again(*ids, agent)
            raise MongoDBSessionError(
                f"{agent_label(*ids)} cannot be read whole: a segment that it refers to is not stored any more. "
                "Restore it from a backup; the messages after it can be read with a smaller limit."
            )
        rows, left = list[Stored](), most_bytes
        for reference in references:
            segment = found[reference["_id"]]
            for row in reversed(segment["page"]):
                left -= _size(row)
                if len(rows) == limit or (left < 0 and (rows or has_later)):
                    return rows[::-1], True
                rows.append(row)
            if len(segment["page"]) < segment["length"]:
                return rows[::-1], True
        return rows[::-1], len(references) < len(agent["segments"])

    def part(self, session_id: object, agent_id: object, message_id: object, n: object) -> Part:
        """Return one content block of a message, whole."""
        ids = check_id("session_id", session_id), check_id("agent_id", agent_id), check_message_id(message_id)
        number = check_block(n)
        with catalog_operation("part"):
            agent, row = self._block(*ids, number)
            found = part_of(row, number, self._values(ids, agent, row))
        if found is None:
            raise ValueError(
                f"Message {ids[2]} of agent {ids[1]!r} of session {ids[0]!r} has no content block {number}; its blocks "
                "are numbered from 0."
            )
        return found

    def _block(self, session_id: str, agent_id: str, message_id: int, n: int) -> tuple[Stored, Stored]:
        """Return the agent, and the message with one of its blocks."""
        pipeline = part_pipeline(session_id, agent_id, self._reads.scope, message_id, n)
        agent = self._agent(session_id, agent_id, self._reads.aggregate(pipeline))
        rows = [agent]
        if agent["message"] is None and agent["segments"]:
            children = Life(session_id, instance_of(agent)).children
            moved = segment_part_pipeline(children, agent["segments"], message_id, n)
            rows = self._reads.aggregate_in(self._reads.segments, moved)
        found = next((row["message"] for row in rows if row["message"] is not None), None)
        if found is None:
            raise MessageNotFoundError(session_id, agent_id, message_id)
        return agent, found

    def _values(self, ids: tuple[str, str, int], agent: Stored, row: Stored) -> Files:
        """Return the large values of a block, by their digests."""
        digests = {mark["sha256"] for mark in marks_in(row)}
        if not digests:
            return {}
        wanted = whole_files_filter(Life(ids[0], instance_of(agent)), digests)
        files = self._reads.find(self._reads.files, wanted)
        chunks = self._reads.find(self._reads.chunks, chunks_filter(file["_id"] for file in files))
        values = values_of_files(files, chunks)
        if not digests <= values.keys():
            self._look_again(*ids[:2], agent)
            raise MissingValueError(agent_label(*ids), REMEDY_FOR_MESSAGE)
        return values

    def _look_again(self, session_id: str, agent_id: str, seen: Stored) -> None:
        """Raise if what an agent refers to is not there because the session was deleted between two reads."""
        pipeline = part_pipeline(session_id, agent_id, self._reads.scope, 0, 0)
        agent = self._agent(session_id, agent_id, self._reads.aggregate(pipeline))
        if instance_of(agent) != instance_of(seen):
            raise SessionNotFoundError(session_id)

    def _agent(self, session_id: str, agent_id: str, rows: list[Stored]) -> Stored:
        if not rows:
            raise SessionNotFoundError(session_id)
        if not rows[0]["is_there"]:
            raise AgentNotFoundError(session_id, agent_id)
        return rows[0]


def _size(row: Stored) -> int:
    return len(bson.encode(row))
