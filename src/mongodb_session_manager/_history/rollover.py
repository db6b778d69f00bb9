"""When an agent's oldest messages leave the session document, and the move in the background."""

import logging
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

from bson import ObjectId
from pymongo.errors import InvalidOperation, PyMongoError

from .._schema.limits import LIMITS, Limits
from .._stores.document_size import LEAST_MOVE_BYTES
from .._stores.histories import HistoryStore
from ..errors import MongoDBSessionError
from .changes import Change
from .pending import PendingChanges

__all__ = ["Rollover"]

logger = logging.getLogger(__name__)


class Rollover:
    """Follows how much of one agent's history the session document holds.

    Args:
        store: Where it is stored.
        session_id: The session.
        agent_id: The agent.
        limits: How much of it the document may hold.

    Attributes:
        count: How many messages are embedded in the session document.
        size: Their bytes.
    """

    def __init__(self, store: HistoryStore, session_id: str, agent_id: str, limits: Limits = LIMITS) -> None:
        self._store, self._limits = store, limits
        self._session_id, self._agent_id = session_id, agent_id
        self.count = self.size = 0

    def set_document_size(self, count: int, size: int) -> None:
        """Take over how many messages, of how many bytes, the session document holds."""
        self.count, self.size = count, size

    def grew(self, changes: Iterable[Change]) -> None:
        """Count what was stored."""
        for change in changes:
            self.count += change.appended is not None
            self.size += change.size

    def move(self, queue: PendingChanges, lock: AbstractContextManager[object], kept_bytes: int | None) -> bool:
        """Move all but the latest messages of so many bytes; True if any moved. Nothing else is sent meanwhile.

        Args:
            queue: The agent's.
            lock: Its lock, held to read and change it, and not while the server is asked.
            kept_bytes: What stays; by default as the limits say.
        """
        write_id = ObjectId()
        with lock:
            queue.check_open()
            queue.await_answer(write_id)
            guard = queue.guard
        rolled = self._store.move_oldest(self._session_id, self._agent_id, guard, write_id, kept_bytes)
        with lock:
            queue.check_open()
            queue.forget_write(write_id)
            if rolled is None:
                self.set_document_size(0, 0)  # not again before as much has come again
                return False
            if guard.revision is None:  # of the first version; it has counters now
                queue.guard = guard.after(0, write_id)
            self.set_document_size(rolled.embedded_count, rolled.embedded_bytes)
            return True

    @property
    def kept_bytes(self) -> int | None:
        """How much of the latest messages stays where the others should move; None where they need not."""
        limits = self._limits
        is_long = self.count > 2 * limits.kept_messages and self.size > limits.embedded_bytes
        if is_long or (self.count > 1 and self.size > 2 * limits.kept_bytes):
            return limits.kept_bytes
        is_large = self.size >= LEAST_MOVE_BYTES
        return self.size // 2 if is_large and self._store.is_crowded(self._session_id) else None

    def begin_if_due(self, move: Callable[[int], bool]) -> None:
        """Have the client's threads move the oldest messages, if any are due.

        Args:
            move: Moves all but the latest messages of so many bytes.
        """
        if self.kept_bytes is None:
            return
        try:
            self._store.handle.executor.submit(self.move_quietly, move)
        except (InvalidOperation, RuntimeError):
            logger.debug("session_id=<%s> | closing, the next process moves old messages", self._session_id)

    def move_quietly(self, move: Callable[[int], bool]) -> None:
        """Do it here and now; nothing is lost where it fails.

        The messages are where they were, or the next write finds that they moved.
        """
        try:
            kept_bytes = self.kept_bytes
            if kept_bytes is not None:
                move(kept_bytes)
        except InvalidOperation:  # the client was closed
            logger.debug("session_id=<%s> | closed, the next process moves old messages", self._session_id)
        except (PyMongoError, MongoDBSessionError) as error:
            logger.warning(
                "session_id=<%s>, agent_id=<%s>, error=<%s> | old messages were not moved",
                self._session_id,
                self._agent_id,
                type(error).__name__,
            )
