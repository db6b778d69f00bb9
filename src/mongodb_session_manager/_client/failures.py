"""Failed writes of one session: they are raised, or the conversation goes on without them."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pymongo.errors import PyMongoError

from .outage import Outage, Sender

__all__ = ["Failures"]

logger = logging.getLogger(__name__)


class Failures:
    """Handles failed writes as ``on_error`` says.

    Args:
        session_id: The session, for the log.
        outage: Knows whether the server is away.
        are_tolerated: Whether the conversation goes on without the server.
        pending: Returns the number of changes of the session that are not stored.

    Attributes:
        session_id: The session.
        are_tolerated: Whether the conversation goes on without the server.
    """

    def __init__(self, session_id: str, outage: Outage, are_tolerated: bool, pending: Callable[[], int]) -> None:
        self.session_id, self._outage, self._pending = session_id, outage, pending
        self.are_tolerated = are_tolerated

    @property
    def pending(self) -> int:
        """The number of changes of the session that are not stored."""
        return self._pending()

    @property
    def is_away(self) -> bool:
        """Whether the server is away, and the conversation goes on without it."""
        return self.are_tolerated and self._outage.is_on

    def holds(self, sender: Sender) -> bool:
        """Tell whether nothing is sent for now, because the server is away and the conversation goes on."""
        return self.are_tolerated and self._outage.holds(sender)

    async def holds_back(self, sender: Sender, *, patiently: bool = False) -> bool:
        """Do what ``holds`` does, after a moment in which the server may come back.

        Args:
            sender: The sender of the write.
            patiently: Whether to wait also for a look at the server that began earlier.
        """
        return self.holds(sender) and not await self._outage.ends_soon(patiently=patiently)

    @contextmanager
    def tolerated(self, sender: Sender) -> Iterator[None]:
        """Let the conversation go on after a failed write, if it is to."""
        started = time.monotonic()
        try:
            yield
        except PyMongoError as error:
            if not self.are_tolerated:
                raise
            sender.hold(type(error).__name__)
            self._outage.failed(sender, error, time.monotonic() - started)
            self.log(error)

    def forget(self, sender: Sender) -> None:
        """Send nothing more for a sender that is closed."""
        self._outage.forget(sender)

    def log(self, error: BaseException) -> None:
        """Log a failed write that will be sent again."""
        self._log(error, "a write failed, its changes stay pending")

    def log_unstored(self, error: BaseException) -> None:
        """Log the changes that closing leaves unsent."""
        self._log(error, "closed with changes that are not stored")

    def _log(self, error: BaseException, told: str) -> None:
        about = "session_id=<%s>, pending=<%d>, error=<%s> | %s"
        logger.warning(about, self.session_id, self.pending, type(error).__name__, told)
