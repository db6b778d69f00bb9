"""The message that feedback is about."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from .data import has_message_filter, has_tracking_id_filter
from .ids import MAX_MESSAGE_ID, check_id
from .values import Stored, encode


@dataclass(frozen=True)
class FeedbackTarget:
    """The message that feedback is about, by id or tracking id; ``message`` is None if feedback is not about one."""

    agent_id: str | None
    message: int | str | None

    @classmethod
    def of(cls, session_id: str, feedback: Mapping[str, Any]) -> "FeedbackTarget":
        """Return the target of a feedback.

        Raises:
            ValueError: Its ``message_id`` or ``tracking_id`` has a wrong type.
        """
        agent_id, message_id, tracking_id = (feedback.get(name) for name in ("agent_id", "message_id", "tracking_id"))
        by_number = agent_id is not None and message_id is not None
        found = message_id if by_number else tracking_id
        if found is None:
            return cls(None, None)
        if not isinstance(found, int if by_number else str) or isinstance(found, bool):
            raise ValueError(
                f"Feedback on session {session_id!r}: message_id must be the number of a message and tracking_id a "
                f"string, got {type(found).__name__}"
            )
        return cls(None if agent_id is None else check_id("agent_id", agent_id), found)

    @property
    def stored(self) -> Any:
        """The tracking id in its stored form."""
        return encode(self.message, "tracking_id")

    @property
    def anywhere(self) -> bool:
        """Whether the message may belong to any agent."""
        return self.agent_id is None and self.message is not None

    def session_filter(self, agent_ids: Iterable[str]) -> Stored | None:
        """Return the filter of the session; None if no agent can have the message."""
        if self.message is None:
            return {}
        if isinstance(self.message, int) and abs(self.message) > MAX_MESSAGE_ID:
            return None  # too large for BSON, so no message has it
        if isinstance(self.message, int):
            return has_message_filter(cast(str, self.agent_id), self.message)
        agents = list(agent_ids) if self.agent_id is None else [self.agent_id]
        return has_tracking_id_filter(agents, self.stored) if agents else None
