"""The next write of one history, lent to a group that sends it together with others."""

from dataclasses import dataclass, field

from .._stores.histories import HistoryStore, PreparedWrite
from .changes import NextWrite

__all__ = ["Claim"]


@dataclass
class Claim:
    """A history's next write, which may share a command with those of others.

    Attributes:
        store: Where it goes.
        prepared: What is sent.
        following: The changes that it holds, which are all.
        sent: Whether it is acknowledged; None if it was not sent.
        error: The error of the end of the claim: the session was deleted meanwhile.
    """

    store: HistoryStore
    prepared: PreparedWrite
    following: NextWrite = field(repr=False)
    sent: bool | None = None
    error: Exception | None = None

    def finish(self, *, sent: bool) -> None:
        """Note that it was sent; a write without an acknowledgement may have arrived all the same.

        Args:
            sent: Whether it is acknowledged.
        """
        self.sent = sent
