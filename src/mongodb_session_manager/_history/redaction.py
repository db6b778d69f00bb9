"""A redaction of an agent's latest message, step by step."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeAlias

from strands.types.content import Message

from .._schema.values import Stored
from .capture import HistoryCapture
from .writer import AgentHistory

__all__ = ["Tolerated", "redact_latest"]

Tolerated: TypeAlias = Callable[[AgentHistory], AbstractContextManager[None]]


def redact_latest(
    history: AgentHistory,
    capture: HistoryCapture,
    message: Message,
    event: Stored,
    tolerated: Tolerated,
) -> None:
    """Put another message in the place of the latest one and of its copies, and return when that is acknowledged.

    Args:
        history: The agent's.
        capture: Queues what the history sends.
        message: What stands there afterwards.
        event: Recorded on each message, and once on the session.
        tolerated: Lets the conversation go on after a failed read or write, if it is to.
    """
    history.check_open()
    copies: set[int] = set()
    try:
        # The copies that this process does not know: in the document, and in segments.
        with tolerated(history):
            copies = _stored_copies(history)
    finally:
        # A message that waits changes in place; an edit waits for each that may be stored. Without a look at the
        # server, what is known here is redacted all the same.
        capture.redact_latest(message, event, copies)
    # For each edit: its files are marked, the document changes, then segments, and the marked files are removed.
    with tolerated(history):
        history.flush()


def _stored_copies(history: AgentHistory) -> set[int]:
    """Find the messages that a prompt which was sent again is stored as; some may have left the live history."""
    latest = history.live.latest
    tracking_id = latest.message.get("tracking_id") if latest else None
    if not isinstance(tracking_id, str):
        return set()
    return history.store.tracked_ids(history.session_id, history.agent_id, tracking_id)
