"""The size of all embedded messages of a session document, and which of them are to leave it.

A process knows the size at the opening of the session, and what it has added itself; other processes add to it too. So
it looks again, in the background, before they can add much. A late look does no harm: a write that finds no room in
the document makes room.
"""

import logging
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Protocol
from weakref import WeakValueDictionary

from pymongo.errors import InvalidOperation

from .._client.handle import ClientHandle
from .._schema.ids import check_id
from ..errors import MongoDBSessionError, SessionTooLargeError

__all__ = [
    "BUDGET_BYTES",
    "LEAST_MOVE_BYTES",
    "METADATA_BYTES",
    "AgentSize",
    "DocumentSize",
    "DocumentSizes",
    "LargeMetadataError",
    "Mover",
    "leaving",
]

logger = logging.getLogger(__name__)

# An append takes 1.6 ms with an empty document, 2.6 with one of 250 kB, and 5.7 with one of 2 MB.
BUDGET_BYTES = 512 * 1024
# Each move leaves a reference in the document, and a smaller one does not pay for it.
LEAST_MOVE_BYTES = 32 * 1024
# Bytes that one process adds before it looks again; a look costs about as much as an append.
LOOK_BYTES = 128 * 1024
# The same after a look that did not bring the messages below the budget.
AGAIN_BYTES = 32 * 1024
# Agents whose messages move at once.
MOST_AGENTS = 100

# Sessions whose sizes a repository keeps in memory.
_MOST_SIZES = 1000

# The limit for all metadata of a session together.
METADATA_BYTES = 4 * 1024 * 1024

_LONG_AGO = datetime.min.replace(tzinfo=timezone.utc)


class LargeMetadataError(SessionTooLargeError):
    """The metadata of a session would leave too little room for the rest of its document."""

    def __init__(self, session_id: str, size: int) -> None:
        super().__init__(session_id, None, size=size)
        MongoDBSessionError.__init__(
            self,
            f"Metadata of session {session_id!r} would have {size} bytes with this change; all of them together have "
            f"at most {METADATA_BYTES}. Nothing was written. Delete fields that are not needed, or keep large values "
            "elsewhere and only refer to them here.",
        )


@dataclass(frozen=True)
class AgentSize:
    """The size of one agent's embedded messages.

    Attributes:
        agent_id: The agent.
        messages: How many messages.
        size: Their bytes.
        is_numbered: Whether it has counters; agents of the first version have none.
        written_at: The time of the last write.
    """

    agent_id: str
    messages: int
    size: int
    is_numbered: bool
    written_at: Any

    @property
    def last_written(self) -> datetime:
        return self.written_at if isinstance(self.written_at, datetime) else _LONG_AGO


def leaving(agents: Iterable[AgentSize], goal: int, *, numbered: bool = True) -> dict[str, int]:
    """Return how many bytes of which agents' oldest messages leave the document, so that ``goal`` bytes stay.

    Agents whose last write is oldest come first, and may keep no message. Agents of the first version are left to their
    own writers, unless ``numbered`` is False.
    """
    found = list(agents)
    excess = sum(agent.size for agent in found) - goal
    movable = (agent for agent in found if agent.messages and agent.is_numbered is numbered)
    shares: dict[str, int] = {}
    for agent in sorted(movable, key=lambda each: each.last_written):
        if excess <= 0 or len(shares) == MOST_AGENTS:
            break
        shares[agent.agent_id] = min(agent.size, max(excess, LEAST_MOVE_BYTES))
        excess -= shares[agent.agent_id]
    return shares


class DocumentSize:
    """How much may be added to a session before the next look at its size.

    Attributes:
        is_crowded: Whether the messages are over the budget, and agents that are being written hold them: then each
            writer moves its own.
    """

    def __init__(self) -> None:
        self.is_crowded = False
        self._left, self._meanwhile = LOOK_BYTES, 0
        self.make_lock()

    def make_lock(self) -> None:
        """Make a new lock, which is free."""
        self._looking = threading.Lock()

    def found(self, size: int, least: int = 0) -> None:
        """Take over the size that was found.

        Args:
            size: In bytes.
            least: Bytes that may be added at least before the next look.
        """
        self._left = min(max(BUDGET_BYTES - size, least), LOOK_BYTES)

    def grew(self, size: int) -> bool:
        """Count what was added, and return whether the caller is to look; ``looked`` must follow then."""
        self._left -= size
        self._meanwhile += size
        if self._left > 0 or not self._looking.acquire(blocking=False):
            return False
        self._meanwhile = 0
        return True

    def looked(self, size: int | None = None, moved: int = 0) -> None:
        """Take over the size that a look found, and how much has moved; None if the look failed."""
        left = BUDGET_BYTES if size is None else size - moved
        self.is_crowded = not moved and left + self._meanwhile > BUDGET_BYTES
        self.found(left + self._meanwhile, 0 if moved else AGAIN_BYTES)
        self._looking.release()


# Shared by all in this process that write a session by the same client.
_sizes: "WeakValueDictionary[tuple[ClientHandle, str, str], DocumentSize]" = WeakValueDictionary()


class Mover(Protocol):
    """Moves messages and fields of agents out of session documents."""

    def make_room(self, session_id: str) -> bool:
        """Move something out of a document that is full; False if there is nothing to move."""

    def keep_small(self, session_id: str, size: DocumentSize) -> None:
        """Move messages out of a document that is over the budget, and note the size that was found."""


class DocumentSizes:
    """The sizes of the documents that one repository writes.

    Args:
        handle: The client, whose threads look in the background.
        namespace: Database and collection of the sessions.
        mover: Moves messages; None if the server cannot measure.
    """

    def __init__(self, handle: ClientHandle, namespace: str, mover: Mover | None) -> None:
        self._handle, self._namespace, self._mover = handle, namespace, mover
        self._sizes: dict[str, DocumentSize] = {}

    def set_document_size(self, session_id: str, size: int) -> None:
        """Take over the bytes of messages that a document was found to hold."""
        self._size(session_id).found(size)

    def is_crowded(self, session_id: str) -> bool:
        """Tell whether each writer of a session should move its own agent's messages out of the document."""
        return self._size(check_id("session_id", session_id)).is_crowded

    def grew(self, session_id: str, added: int) -> None:
        """Count what was stored. If it may be much by now, a thread of the client looks; no caller waits for this."""
        if self._mover is None:
            return
        size = self._size(session_id)
        if size.grew(added):
            try:
                self._handle.executor.submit(self._keep_small, self._mover, session_id, size)
            except (InvalidOperation, RuntimeError):
                size.looked()
                logger.debug("session_id=<%s> | closing, the next process looks at the size", session_id)

    def make_room(self, session_id: str) -> bool:
        """Move something out of a document that is full; False if there is nothing to move."""
        return self._mover is not None and self._mover.make_room(session_id)

    def _keep_small(self, mover: Mover, session_id: str, size: DocumentSize) -> None:
        mover.keep_small(session_id, size)
        self.grew(session_id, 0)  # other processes may have added much meanwhile

    def _size(self, session_id: str) -> DocumentSize:
        size = self._sizes.get(session_id)
        if size is None:  # other threads may empty it meanwhile
            if len(self._sizes) >= _MOST_SIZES:
                self._sizes.clear()
            key = (self._handle, self._namespace, session_id)
            size = self._sizes[session_id] = _sizes.setdefault(key, DocumentSize())
        return size


def _make_locks() -> None:
    """Make new locks after a fork: the thread that held one is the parent's."""
    for size in list(_sizes.values()):
        size.make_lock()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_make_locks)
