"""Reads one agent: the end of its history, one of its messages, and which messages have a tracking id."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from .._schema.blobs import fields_in_files
from .._schema.histories import Guard, guard_of
from .._schema.ids import agent_label
from .._schema.reads import NO_MESSAGE, ReadAgentDoc, message_pipeline, tail_pipeline, tracked_pipeline
from .._schema.values import decode, encode
from ..errors import AgentNotFoundError
from ..types import LeaseDoc, MessageDoc
from .operation import Operations
from .restoring import Reading
from .segments import MessageSegments

__all__ = ["AgentPosition", "AgentReader"]


@dataclass(frozen=True)
class AgentPosition:
    """The end of an agent's history, for a writer whose guard missed.

    Attributes:
        guard: The stored guard.
        tracking_ids: The tracking ids of the messages from an id on, by message id.
        lease: The session's lease, for ``check_lease``; None if it has none.
        in_files: The names of the fields of its data that are in files.
    """

    guard: Guard
    tracking_ids: dict[int, str | None]
    lease: LeaseDoc | None = None
    in_files: Collection[str] = ()


class AgentReader:
    """Reads agents of one repository's sessions.

    Args:
        operations: Of the repository.
        segments: The messages in segments.
    """

    def __init__(self, operations: Operations, segments: MessageSegments) -> None:
        self._operations, self._segments = operations, segments

    def tail(self, session_id: str, agent_id: str, from_message_id: int = NO_MESSAGE) -> ReadAgentDoc:
        """Return the end of a history; without ``agent_data`` if the session holds no such agent."""
        wanted = (tail_pipeline, from_message_id)
        stored = self._operations.read_agent("locate_agent", session_id, agent_id, *wanted)
        return self._operations.found(session_id, stored)

    def locate(self, session_id: str, agent_id: str, from_message_id: int = NO_MESSAGE) -> AgentPosition:
        """Return the end of a history, with the tracking ids of the messages from an id on."""
        stored = self.tail(session_id, agent_id, from_message_id)
        if not stored.get("agent_data"):
            raise AgentNotFoundError(session_id, agent_id)
        tracking_ids = {int(m["message_id"]): decode(m.get("tracking_id")) for m in stored["messages"]}
        in_files = fields_in_files(stored["agent_data"])
        return AgentPosition(guard_of(stored), tracking_ids, stored.get("lease"), in_files)

    def find_message(self, session_id: str, agent_id: str, message_id: int) -> list[MessageDoc]:
        """Return one message as it is stored; an empty list if the message, its agent or the session is missing."""
        stored = self._operations.read_agent("read_message", session_id, agent_id, message_pipeline, message_id)
        if not stored or stored["messages"]:
            return stored["messages"][:1] if stored else []
        with Reading(agent_label(session_id, agent_id), "a segment"):
            moved = self._segments.read_message(session_id, stored["segments"], message_id)
        return [] if moved is None else [moved]

    def tracked(
        self, session_id: str, agent_id: str, tracking_ids: Iterable[str], *, everywhere: bool = False
    ) -> dict[str, list[int]]:
        """Return the ids of the messages that have one of some tracking ids, ascending, by tracking id."""
        wanted = [_stored_tracking_id(session_id, each) for each in tracking_ids]
        agent = self._operations.read_agent("tracked_messages", session_id, agent_id, tracked_pipeline, wanted)
        found = list(self._operations.found(session_id, agent)["messages"])
        if everywhere or (agent and agent["segments"]):
            found += self._segments.tracked(session_id, agent_id, wanted)
        ids: dict[str, list[int]] = {}
        for number, message in sorted({int(m["message_id"]): m for m in found}.items()):
            ids.setdefault(decode(message["tracking_id"]), []).append(number)
        return ids


def _stored_tracking_id(session_id: str, tracking_id: object) -> Any:
    label = f"Tracking id of session {session_id!r}"
    if not isinstance(tracking_id, str):
        raise TypeError(f"{label} must be a string, got {type(tracking_id).__name__}")
    return encode(tracking_id, label)
