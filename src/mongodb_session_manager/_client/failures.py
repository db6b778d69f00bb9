"""What becomes of the writes of one session that fail: they are raised, or the conversation goes on without them."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pymongo.errors import PyMongoError

from .outage import Outage, Sender

__all__ = ["Failures"]

logger = logging.getLogger(__name__)


class Failures:
    """Takes failed writes as ``on_error`` says.

    Args:
        session_id: For the log.
        outage: What is known of the server.
        are_tolerated: Whether the conversation goes on without the server.
        pending: Returns how many changes of the session are not stored.

    Attributes:
        session_id: The session.
        are_tolerated: Whether the conversation goes on without the server.
    """

    def __init__(self, session_id: str, outage: Outage, are_tolerated: bool, pending: Callable[[], int]) -> None:
        self.session_id, self._outage, self._pending = session_id, outage, pending
        self.are_tolerated = are_tolerated

    @property
    def pending(self) -> int:
        """How many changes of the session are not stored."""
        return self._pending()

    @property
    def is_away(self) -> bool:
        """Whether the server is away, and the conversation goes on without it."""
        return self.are_tolerated and self._outage.is_on

    def holds(self, sender: Sender) -> bool:
        """Tell whether nothing is sent for now, since the server is away and the conversation goes on without it."""
        return self.are_tolerated and self._outage.holds(sender)

    async def holds_back(self, sender: Sender, *, patiently: bool = False) -> bool:
        """Do what ``holds`` does, after a moment for a server that may just be back.

        Args:
            sender: Whose write it is.
            patiently: Whether to wait also for a look at the server that began before.
        """
        return self.holds(sender) and not await self._outage.ends_soon(patiently=patiently)

    @contextmanager
    def tolerated(self, sender: Sender) -> Iterator[None]:
        """Let the conversation go on after a write that fails, where that was asked for."""
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
        """Send nothing more of a sender that is closed."""
        self._outage.forget(sender)

    def log(self, error: BaseException) -> None:
        """Tell of a write that failed, and is sent again."""
        self._log(error, "a write failed, its changes stay pending")

    def log_unstored(self, error: BaseException) -> None:
        """Tell of what closing leaves unsent."""
        self._log(error, "closed with changes that are not stored")

    def _log(self, error: BaseException, told: str) -> None:
        about = "session_id=<%s>, pending=<%d>, error=<%s> | %s"
        logger.warning(about, self.session_id, self.pending, type(error).__name__, told)
