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

__all__ = ["conflict", "gone", "locked", "lost_in", "tell_given_up"]

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
    _, redactions = lost_in(history.queue.changes)
    logger.warning(
        "session_id=<%s>, agent_id=<%s>, stored_revision=<%s>, expected_revision=<%s>, pending=<%d> | another "
        "writer changed the history, this agent writes no more",
        history.session_id,
        history.agent_id,
        stored.revision,
        expected,
        len(messages),
    )
    _tell_not_redacted(history, redactions)
    still_there = f"{redactions} redaction(s) failed: the original is still stored. " if redactions else ""
    return SessionConflictError(
        history.session_id,
        history.agent_id,
        f"was changed by another writer: revision {stored.revision} is stored, {expected} was expected. "
        f"{len(messages)} message(s) of this process are not stored (see .pending). {still_there}Make a new manager "
        "and agent to go on from what is stored.",
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
    _tell_not_redacted(history, lost_in(history.queue.changes)[1])
    return error


def gone(history: _Ended, error: MongoDBSessionError) -> MongoDBSessionError:
    """Tell in the log of messages whose session or agent was deleted; the caller holds the history's lock."""
    messages, _ = lost_in(history.queue.changes)
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


def lost_in(changes: Iterable[Change]) -> tuple[int, int]:
    """Return the numbers of the messages and of the redactions that are lost with some changes."""
    found = list(changes)
    redactions = sum(change.edited is not None and change.edited.redacts for change in found)
    return sum(change.appended is not None for change in found), redactions


def tell_given_up(history: _Ended, messages: int, redactions: int) -> None:
    """Tell in the log of messages and redactions that are lost."""
    logger.warning(
        "session_id=<%s>, agent_id=<%s>, messages=<%d> | given up: they were not stored, and their manager was "
        "dropped or a newer one went on",
        history.session_id,
        history.agent_id,
        messages,
    )
    _tell_not_redacted(history, redactions)


def _tell_not_redacted(history: _Ended, redactions: int) -> None:
    if redactions:
        logger.error(
            "session_id=<%s>, agent_id=<%s>, redactions=<%d> | not carried out: the original is still stored. Redact "
            "it again, with a new manager or the repository's update_message()",
            history.session_id,
            history.agent_id,
            redactions,
        )
