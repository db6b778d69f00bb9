"""Restores one agent: its state and its live messages, embedded or in segments."""

import logging
from dataclasses import dataclass, field

import bson
from strands.types.content import Message
from strands.types.session import SessionAgent

from .._schema.histories import Guard, guard_of
from .._schema.ids import agent_label
from .._schema.live_ids import LiveIds
from .._schema.messages import last_plain_user, session_agent
from .._schema.reads import ReadAgentDoc, agent_pipeline, embedded_messages_pipeline, removed_count, restore_pipeline
from .._schema.restorable import check_fields, restored_message
from ..errors import SessionNotFoundError
from ..types import AgentDataDoc, MessageDoc
from .large_values import LargeValues
from .operation import Operations
from .restoring import Restoring
from .segments import MessageSegments

__all__ = ["AgentRestorer", "RestoredAgent"]

logger = logging.getLogger(__name__)

# The estimate if no message was read.
_USUAL_MESSAGE_BYTES = 1024


@dataclass(frozen=True)
class RestoredAgent:
    """An agent as it is stored, with its live messages.

    Attributes:
        agent: The SDK's record: state, conversation manager state, internal state.
        data: The same in its stored form.
        guard: The guard that the next write must name.
        embedded_count: How many messages the session document holds.
        embedded_bytes: About how large they are together.
        has_files: Whether messages of the session refer to offloaded values, or did once.
        live: The live set; None if none is stored.
        removed: Without a stored live set, how many of the oldest messages were left out at most.
        messages: The live messages as (message_id, message), in live order.
    """

    agent: SessionAgent = field(repr=False)
    data: AgentDataDoc = field(repr=False)
    guard: Guard
    embedded_count: int
    embedded_bytes: int
    has_files: bool
    live: LiveIds | None
    removed: int
    messages: list[tuple[int, Message]] = field(repr=False)


class AgentRestorer:
    """Restores agents of one repository's sessions.

    Args:
        operations: Of the repository.
        segments: The messages in segments.
        values: Large values.
    """

    def __init__(self, operations: Operations, segments: MessageSegments, values: LargeValues) -> None:
        self._operations, self._segments, self._values = operations, segments, values

    def read(self, session_id: str, agent_id: str) -> SessionAgent | None:
        """Return an agent's data, or None if the session holds no such agent."""
        return self._values.whole(lambda: self._read(session_id, agent_id))

    def _read(self, session_id: str, agent_id: str) -> SessionAgent | None:
        stored = self._operations.read_agent("read_agent", session_id, agent_id, agent_pipeline)
        if not (stored and stored.get("agent_data")):
            return None
        self._values.put_back_state(session_id, agent_id, stored["agent_data"])
        return session_agent(agent_id, stored)

    def restore(self, session_id: str, agent_id: str, removed: int | None = None) -> RestoredAgent | None:
        """Return an agent with its live messages, or None if there is no such agent."""
        return self._values.whole(lambda: self._restore(session_id, agent_id, removed))

    def _restore(self, session_id: str, agent_id: str, removed: int | None) -> RestoredAgent | None:
        stored = self._operations.read_agent("restore_agent", session_id, agent_id, restore_pipeline)
        if stored is None:
            raise SessionNotFoundError(session_id)
        return self.restored(session_id, agent_id, stored, removed)

    def restored(
        self, session_id: str, agent_id: str, stored: ReadAgentDoc, removed: int | None = None
    ) -> RestoredAgent | None:
        """Return an agent that was read, with its messages in segments and its large values."""
        if not stored.get("agent_data"):
            return None
        label = agent_label(session_id, agent_id)
        check_fields(label, stored["agent_data"])
        with Restoring(label, "agent_data"):
            self._values.put_back_state(session_id, agent_id, stored["agent_data"])
        live = LiveIds.of(stored.get("live"))
        if live is None and stored.get("live") is not None:  # the server could not use it either
            stored = self._with_all_messages(session_id, agent_id, stored)
        removed = removed_count(stored["agent_data"]) if removed is None else removed
        with Restoring(label, "messages"):
            messages = self._chosen(session_id, stored, live) if live else self._after(session_id, stored, removed)
        with Restoring(label, "agent_data"):
            agent = session_agent(agent_id, stored)
        with Restoring(label, "guard"):
            guard = guard_of(stored)
        embedded_bytes = _embedded_bytes(stored)  # before the large values are put back, which are stored elsewhere
        with Restoring(label, "messages"):
            self._values.put_back_messages(session_id, agent_id, messages)
        return RestoredAgent(
            agent=agent,
            data=stored["agent_data"],
            guard=guard,
            embedded_count=stored["count"],
            embedded_bytes=embedded_bytes,
            has_files=bool(stored.get("has_files")),
            live=live,
            removed=removed,
            messages=[restored_message(label, message) for message in messages],
        )

    def _with_all_messages(self, session_id: str, agent_id: str, stored: ReadAgentDoc) -> ReadAgentDoc:
        logger.warning("session_id=<%s>, agent_id=<%s> | the live set cannot be read", session_id, agent_id)
        whole = self._operations.read_agent("restore_agent", session_id, agent_id, embedded_messages_pipeline)
        if whole is None:
            raise SessionNotFoundError(session_id)  # deleted between two reads
        return {**stored, "messages": whole["messages"], "segments": whole["segments"]}

    def _chosen(self, session_id: str, stored: ReadAgentDoc, live: LiveIds) -> list[MessageDoc]:
        """Return the messages of a live set, in live order."""
        older = self._segments.read(session_id, live.holding(stored["segments"]), live.spans)
        found = {int(message["message_id"]): message for message in (*older, *stored["messages"])}
        ids = sorted(found)
        if live.missing(ids):
            logger.warning(
                "session_id=<%s>, messages=<%d> | live messages are not stored", session_id, live.missing(ids)
            )
        return [found[number] for number in live.choose(ids)]

    def _after(self, session_id: str, stored: ReadAgentDoc, removed: int) -> list[MessageDoc]:
        """Return the messages from a position on, or from the user's message before it; past the end, all messages."""
        messages, references = list(stored["messages"]), list(stored["segments"])
        first = sum(reference["count"] for reference in references)
        if removed == first + len(messages):
            return []
        start = removed if removed < first + len(messages) else 0
        while references and (first > start or last_plain_user(messages[: start - first + 1]) is None):
            needed = [references.pop()]
            while references and first - sum(r["count"] for r in needed) > start:
                needed.insert(0, references.pop())
            messages = self._segments.read(session_id, needed) + messages
            first -= sum(reference["count"] for reference in needed)
        return messages[last_plain_user(messages[: start - first + 1]) or 0 :]


def _embedded_bytes(agent: ReadAgentDoc) -> int:
    """Return the size of the embedded messages; an estimate from the read ones if the server did not tell it."""
    if "embedded_bytes" in agent:
        return int(agent["embedded_bytes"])
    messages = agent["messages"]
    if not messages:
        return int(agent["count"]) * _USUAL_MESSAGE_BYTES
    return len(bson.encode({"messages": messages})) * int(agent["count"]) // len(messages)
