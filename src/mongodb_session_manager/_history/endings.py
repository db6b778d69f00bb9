"""Why a history writes no more: the error that carries what is not stored, and what the log tells of it."""

import logging
from collections.abc import Iterable
from typing import Protocol

from strands.types.content import Message

from .._schema.blobs import put_back_values
from .._schema.histories import Guard
from .._schema.messages import decode_message
from ..errors import MongoDBSessionError, SessionConflictError, SessionLockedError
from .changes import Change
from .pending import PendingChanges

__all__ = ["conflict", "gone", "locked", "tell_given_up"]

logger = logging.getLogger(__name__)


class _Ended(Protocol):
    session_id: str
    agent_id: str
    queue: PendingChanges


def conflict(history: _Ended, stored: Guard) -> SessionConflictError:
    """Return the error of a history that another writer has changed; the caller holds its lock.

    Args:
        history: The history.
        stored: Where it stands now.
    """
    expected, messages = history.queue.guard.revision, _messages(history.queue.changes)
    logger.warning(
        "session_id=<%s>, agent_id=<%s>, stored_revision=<%s>, expected_revision=<%s>, pending=<%d> | another "
        "writer changed the history, this agent writes no more",
        history.session_id,
        history.agent_id,
        stored.revision,
        expected,
        len(messages),
    )
    return SessionConflictError(
        history.session_id,
        history.agent_id,
        f"was changed by another writer: revision {stored.revision} is stored, {expected} was expected. "
        f"{len(messages)} message(s) of this process are not stored (see .pending). Make a new manager and agent to "
        "go on from what is stored.",
        messages,
    )


def locked(history: _Ended, error: SessionLockedError) -> SessionLockedError:
    """Have the error of a history whose lease is another manager's carry what is not stored."""
    error.pending = _messages(history.queue.changes)
    logger.warning(
        "session_id=<%s>, agent_id=<%s>, revision=<%s>, pending=<%d> | another manager has the lease, this agent "
        "writes no more",
        history.session_id,
        history.agent_id,
        history.queue.guard.revision,
        len(error.pending),
    )
    return error


def gone(history: _Ended, error: MongoDBSessionError) -> MongoDBSessionError:
    """Tell in the log of messages whose session or agent was deleted; the caller holds the history's lock."""
    messages = sum(change.appended is not None for change in history.queue.changes)
    if messages:
        logger.warning(
            "session_id=<%s>, agent_id=<%s>, pending=<%d>, error=<%s> | deleted before these messages were stored, "
            "this agent writes no more",
            history.session_id,
            history.agent_id,
            messages,
            type(error).__name__,
        )
    return error


def _messages(changes: Iterable[Change]) -> list[Message]:
    """Return the messages that wait, as they were given."""
    whole = [put_back_values(each.appended, each.values.hash()) for each in changes if each.appended]
    return [decode_message(message) for message in whole]


def tell_given_up(history: _Ended, messages: int) -> None:
    """Tell in the log of messages that are lost."""
    logger.warning(
        "session_id=<%s>, agent_id=<%s>, messages=<%d> | given up: they were not stored, and their manager was "
        "dropped or a newer one went on",
        history.session_id,
        history.agent_id,
        messages,
    )
