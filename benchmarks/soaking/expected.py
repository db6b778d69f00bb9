"""What must be stored, kept in plain Python; a message as eight bytes, so that the memory stays flat."""

import hashlib
import json
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from histories import Finding
from strands.types.content import Message


def digest(message: Message) -> int:
    said = (message.get("tracking_id"), message["role"], message["content"])
    return int.from_bytes(hashlib.blake2b(json.dumps(said).encode(), digest_size=8).digest(), "little")


class ExpectedHistory:
    """The messages of one agent that were acknowledged, by position, and those that must never be stored."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.messages = array("Q")
        self.refused = array("Q")

    def compare(self, live: Mapping[int, Message]) -> Iterator[Finding]:
        """Compare what an agent was restored with."""
        for number, message in live.items():
            if number >= len(self.messages) or self.messages[number] != digest(message):
                yield Finding("invalid", self.where, f"message {number} was restored as another one")
        last, wanted = max(live, default=-1), len(self.messages) - 1
        if last != wanted:
            yield Finding("lost" if last < wanted else "invalid", self.where, f"{last} is the last, not {wanted}")

    def acknowledge(self, live: Mapping[int, Message]) -> None:
        """Take over what an agent has said since; everything is stored."""
        known = len(self.messages)
        self.messages.extend(digest(live[number]) for number in sorted(live) if number >= known)

    def refuse(self, live: Mapping[int, Message]) -> None:
        """Remember what the loser of two writers said."""
        known = set(self.messages)
        self.refused.extend(number for number in map(digest, live.values()) if number not in known)

    def check(self, stored: list[Message]) -> Iterator[Finding]:
        """Compare with all that is stored."""
        found = [digest(message) for message in stored]
        wanted = list(self.messages)
        if found == wanted:
            return
        for number in sorted(set(found)):
            if found.count(number) > 1:
                yield Finding("duplicated", self.where, f"a message stands at {_positions(found, number)}")
        for position, number in enumerate(wanted):
            if number not in found:
                yield Finding("lost", self.where, f"message {position} of {len(wanted)}")
        for number in set(found) & set(self.refused):
            yield Finding("invalid", self.where, f"a refused message stands at {_positions(found, number)}")
        if set(found) == set(wanted) and len(found) == len(wanted):
            yield Finding("invalid", self.where, "messages are not in order")
        elif not set(found) <= {*wanted, *self.refused}:
            yield Finding("invalid", self.where, "there are messages that nobody was told of")


def _positions(found: list[int], number: int) -> list[int]:
    return [position for position, other in enumerate(found) if other == number]


@dataclass
class ExpectedSession:
    """Everything of one session.

    Attributes:
        session_id: The session.
        histories: By agent.
        metadata: As ``get_metadata`` must give it.
        feedback: The ids in order, each with whether it was acknowledged.
        prompts: The prompt metadata by agent.
        redacted: What must be nowhere.
    """

    session_id: str
    histories: dict[str, ExpectedHistory] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    feedback: list[tuple[int, bool]] = field(default_factory=list)
    prompts: dict[str, Any] = field(default_factory=dict)
    redacted: list[str] = field(default_factory=list)

    def history(self, agent_id: str) -> ExpectedHistory:
        return self.histories.setdefault(agent_id, ExpectedHistory(f"{self.session_id}, {agent_id}"))

    def longest(self) -> int:
        """Return how many messages the longest history has."""
        return max((len(history.messages) for history in self.histories.values()), default=0)

    def forget(self) -> None:
        """The session was deleted."""
        for kept in (self.histories, self.metadata, self.feedback, self.prompts, self.redacted):
            kept.clear()

    def check_feedback(self, stored: list[int]) -> Iterator[Finding]:
        """Compare the ids of the feedback: acknowledged ones once and in order, the others at most once."""
        for number in sorted(set(stored)):
            if stored.count(number) > 1:
                yield Finding("duplicated", self.session_id, f"feedback {number}")
        for number, acknowledged in self.feedback:
            if acknowledged and number not in stored:
                yield Finding("lost", self.session_id, f"feedback {number}")
        order = [number for number, _ in self.feedback if number in stored]
        if order != list(dict.fromkeys(stored)):
            yield Finding("invalid", self.session_id, "feedback is not in order")
