"""One notification that is to be sent, and how sending it fails."""

import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TypeAlias

__all__ = ["Delivery", "DeliveryError", "DeliveryRefusedError", "Key"]

Key: TypeAlias = tuple[Hashable, str]


class DeliveryError(Exception):
    """A delivery failed; the message holds no content and no credentials. Another attempt may succeed."""


class DeliveryRefusedError(DeliveryError):
    """A delivery failed, and every further attempt would fail too."""


@dataclass(frozen=True, eq=False)
class Delivery:
    """One notification that is to be sent.

    Attributes:
        id: Its id; a second delivery with an id that is in its lane, or has just left its outbox, is ignored.
        session_id: The session, for the log.
        lane: Deliveries of one lane are sent one after the other, in order.
        send: Sends it; raises ``DeliveryRefusedError`` if another attempt would fail too.
        acknowledge: Removes it from the outbox; None for best effort.
        target: Its address; one target takes at most half of the threads.
        made_at: When it was made, in seconds of the monotonic clock.
        tried: Is done when it was sent, has failed once, or waits in the outbox behind one that has failed.
        ended: Is done when the dispatcher has finished with it.
    """

    id: str
    session_id: str
    lane: Hashable
    send: Callable[[], None]
    acknowledge: Callable[[], None] | None = None
    target: Hashable = None
    made_at: float = field(default_factory=time.monotonic)
    tried: "Future[None]" = field(default_factory=Future, repr=False)
    ended: "Future[None]" = field(default_factory=Future, repr=False)

    @property
    def durable(self) -> bool:
        """Whether another process sends it if this one does not."""
        return self.acknowledge is not None

    @property
    def key(self) -> Key:
        """Identifies the notification."""
        return self.lane, self.id

    def note_tried(self) -> None:
        """Resolve ``tried``."""
        if not self.tried.done():
            self.tried.set_result(None)

    def end(self) -> None:
        """Resolve ``ended``, then ``tried``."""
        self.ended.set_result(None)
        self.note_tried()
