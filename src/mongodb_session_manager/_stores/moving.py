"""Moves messages of several agents out of a session document at once, which keeps the whole document small.

A move changes neither message ids nor guards, so agents that were restored before it are not disturbed. It needs no
lease, since no history changes. An agent of the first version has no guard and gets none here; its last message stays
in the document, because its writers tell the end of the history by it.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import cast

from bson import ObjectId
from pymongo import UpdateOne
from pymongo.errors import PyMongoError

from .._schema.agents import embedded_agents_pipeline, sizes_pipeline
from .._schema.files import extended_segment_update, extended_segments_filter, segments_filter, shortened_segment_update
from .._schema.histories import agent_rollover_update, batch_command, combined_update, guard_of
from .._schema.lives import Life
from .._schema.usage import moved_usage
from .._schema.values import FilterAndUpdate, Stored, unescape_key
from ..errors import MongoDBSessionError
from ..types import MessageDoc, SegmentReferenceDoc
from .all_agents import read_agents
from .document_size import BUDGET_BYTES, AgentSize, DocumentSize, leaving
from .indexes import ensure_segment_index
from .lives import Lives
from .moving_fields import FieldMover
from .operation import Collections, operation
from .segments import is_ordered, message_size, new_segments, record_move, total_size

__all__ = ["MessageMover"]

logger = logging.getLogger(__name__)

# How often one write is tried that records all moves; each write takes longer the larger the document is. It goes
# through only if all agents are as they were read; the next try leaves out agents that were written meanwhile.
TRIES_AT_ONCE = 3
# Small parts are appended to the last segment up to this size, so that few references are needed.
GROWN_SEGMENT_BYTES = 256 * 1024


@dataclass(eq=False)
class _Move:
    """Messages of one agent that leave the document.

    Attributes:
        agent_id: The agent.
        agent: The agent as it was read.
        messages: Its oldest messages, which move.
        references: The references to the new segments that hold them.
        longer: Instead of these, the new form of the last reference, if the last segment takes them up.
        size: Their bytes.
        usage: What their model calls used.
    """

    agent_id: str
    agent: Stored = field(repr=False)
    messages: list[MessageDoc] = field(repr=False)
    references: list[SegmentReferenceDoc] = field(default_factory=list)
    longer: SegmentReferenceDoc | None = None

    def __post_init__(self) -> None:
        self.size = total_size(self.messages)
        self.usage = moved_usage(self.messages, self.agent["messages"][len(self.messages) :])

    @property
    def last(self) -> SegmentReferenceDoc:
        """The last reference before the move; empty if there is none."""
        found: list[SegmentReferenceDoc] = self.agent["segments"]
        return found[-1] if found else cast(SegmentReferenceDoc, {})

    @property
    def may_lengthen(self) -> bool:
        """Whether the last segment is small enough to take the messages up."""
        return bool(self.last.get("bytes", GROWN_SEGMENT_BYTES) + self.size <= GROWN_SEGMENT_BYTES)

    def lengthened(self) -> SegmentReferenceDoc:
        """Return the new form of the last reference, with the messages in its segment."""
        count, size = self.last["count"] + len(self.messages), self.last["bytes"] + self.size
        return {**self.last, "count": count, "bytes": size, "last_id": self.messages[-1]["message_id"]}

    def change(self, session_id: str) -> FilterAndUpdate:
        return agent_rollover_update(session_id, self.agent_id, self.agent, self.references, self.longer, self.usage)

    def is_undisturbed(self, agent: Stored) -> bool:
        """Tell whether an agent, read again, is as it was."""
        return all(agent.get(name) == value for name, value in self.agent.items() if name != "messages")

    def is_in(self, agent: Stored) -> bool:
        """Tell whether an agent, read again, refers to the messages; other movers may have moved more since."""
        written = self.longer or self.references[-1]
        return any(
            reference["_id"] == written["_id"] and reference["last_id"] >= written["last_id"]
            for reference in agent["segments"]
        )


class MessageMover:
    """Moves the messages of a session's agents.

    Args:
        collections: The collections of the sessions.
        lives: Of the sessions.
        fields: Moves the fields of agents.
    """

    def __init__(self, collections: Collections, lives: Lives, fields: FieldMover) -> None:
        self._fields = fields
        self._sessions, self._segments, self._lives = collections.sessions, collections.segments, lives

    def make_room(self, session_id: str) -> bool:
        """Move something out of a document that is full; False if there is nothing to move.

        Messages over the budget go first, then fields of agents, then all messages. Messages of first-version agents
        move only if there are no others.
        """
        agents = self.look(session_id)
        is_over = sum(agent.size for agent in agents) > BUDGET_BYTES
        if not is_over and self._fields.move(session_id):
            return True
        goal = BUDGET_BYTES // 2 if is_over else 0
        moved = self.move(session_id, leaving(agents, goal) or leaving(agents, goal, numbered=False))
        logger.info("session_id=<%s>, bytes=<%d> | moved out of a document that was full", session_id, moved)
        return moved > 0

    def keep_small(self, session_id: str, size: DocumentSize) -> None:
        """Move messages out of a document that is over the budget, and note the size that was found."""
        found, moved = None, 0
        try:
            with operation("keep_small", session_id):
                agents = self.look(session_id)
                found = sum(agent.size for agent in agents)
                if found > BUDGET_BYTES:
                    moved = self.move(session_id, leaving(agents, BUDGET_BYTES // 2))
        except (PyMongoError, MongoDBSessionError) as error:
            # Nothing is lost: the messages stay where they were.
            name = type(error).__name__
            logger.warning("session_id=<%s>, error=<%s> | old messages were not moved", session_id, name)
        finally:
            size.looked(found, moved)

    def look(self, session_id: str) -> list[AgentSize]:
        """Return the size of each agent's embedded messages; an empty list if there is no such session."""
        agents = read_agents(self._sessions, session_id, sizes_pipeline) or []
        return [
            AgentSize(
                unescape_key(agent["key"]),
                agent["messages"],
                agent["bytes"],
                agent["revision"] is not None,
                agent["updated_at"],
            )
            for agent in agents
            if agent["is_agent"]
        ]

    def move(self, session_id: str, shares: Mapping[str, int]) -> int:
        """Move so many bytes of agents' oldest messages, except for agents that are written meanwhile.

        Returns:
            The bytes that have moved.
        """
        with self._lives.held(session_id) as life:
            moves = self._planned(session_id, shares)
            if not moves:
                return 0
            ensure_segment_index(self._segments)
            self._lengthen(life, [move for move in moves if move.may_lengthen])
            self._insert(life, [move for move in moves if move.longer is None])
            done = self._record(session_id, moves)
            self._take_back(life, [move for move in moves if move not in done])
            return sum(move.size for move in done)

    def _planned(self, session_id: str, shares: Mapping[str, int]) -> list[_Move]:
        agents = self._read(session_id, shares, with_messages=True)
        moves = [_Move(name, agent, _oldest(_movable(agent), shares[name])) for name, agent in agents.items()]
        return [move for move in moves if move.messages and is_ordered(move.agent["messages"])]

    def _read(self, session_id: str, agent_ids: Iterable[str], *, with_messages: bool) -> dict[str, Stored]:
        pipeline = embedded_agents_pipeline(session_id, agent_ids, with_messages=with_messages)
        session = next(self._sessions.aggregate(pipeline), None)
        return dict(zip(agent_ids, session["agents"] if session else (), strict=False))

    def _lengthen(self, life: Life, moves: list[_Move]) -> None:
        """Append to the last segments, unless another mover is appending to them."""
        move_id = ObjectId()
        lengthen = [UpdateOne(*extended_segment_update(life, move.last, move.messages, move_id)) for move in moves]
        if not lengthen:
            return
        if self._segments.bulk_write(lengthen, ordered=False).matched_count < len(moves):
            wanted = extended_segments_filter(life, [move.last for move in moves], move_id)
            found = {segment["_id"] for segment in self._segments.find(wanted, {"_id": 1})}
            moves = [move for move in moves if move.last["_id"] in found]
        for move in moves:
            move.longer = move.lengthened()

    def _insert(self, life: Life, moves: list[_Move]) -> None:
        segments = []
        for move in moves:
            pairs = new_segments(life, move.agent_id, move.messages)
            move.references = [reference for _, reference in pairs]
            segments += [cast(Stored, segment) for segment, _ in pairs]
        if segments:
            self._segments.insert_many(segments)

    def _record(self, session_id: str, moves: list[_Move]) -> list[_Move]:
        """Replace the messages in the session document by references; return the moves that went through."""
        for _ in range(TRIES_AT_ONCE):
            if not moves or self._record_at_once(session_id, moves):
                return moves
            agents = self._read(session_id, [move.agent_id for move in moves], with_messages=False)
            moves = [move for move in moves if move.is_undisturbed(agents.get(move.agent_id, {}))]
        return self._record_each(session_id, moves) if moves else []

    def _record_at_once(self, session_id: str, moves: list[_Move]) -> bool:
        changes = [move.change(session_id) for move in moves]
        change = self._lives.named(session_id, combined_update(session_id, changes))
        return record_move(self._sessions, change)

    def _record_each(self, session_id: str, moves: list[_Move]) -> list[_Move]:
        sessions = self._sessions
        changes = [self._lives.named(session_id, move.change(session_id)) for move in moves]
        command = batch_command(sessions.name, changes, sessions.write_concern.document)
        answer = sessions.database.command(command)
        if answer["n"] == len(moves):
            return moves
        agents = self._read(session_id, [move.agent_id for move in moves], with_messages=False)
        return [move for move in moves if move.agent_id in agents and move.is_in(agents[move.agent_id])]

    def _take_back(self, life: Life, moves: list[_Move]) -> None:
        references = [reference for move in moves for reference in move.references]
        if references:
            self._segments.delete_many(segments_filter(life, references))
        shorten = [UpdateOne(*shortened_segment_update(life, move.last)) for move in moves if move.longer]
        if shorten:
            self._segments.bulk_write(shorten, ordered=False)


def _movable(agent: Stored) -> list[MessageDoc]:
    """Return the messages that may move."""
    messages: list[MessageDoc] = agent["messages"]
    return messages if guard_of(agent).revision is not None else messages[:-1]


def _oldest(messages: list[MessageDoc], share: int) -> list[MessageDoc]:
    """Return the oldest messages, of so many bytes or a little more."""
    size = 0
    for number, message in enumerate(messages):
        if size >= share:
            return messages[:number]
        size += message_size(message)
    return messages
