"""Large values of one agent's messages on their way to the server: which were sent, and which no message needs; pure.

What is sent is either used by what has arrived, or removed. Several threads that share this need a lock around each
call.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from bson import ObjectId

from .._schema.histories import AgentWrite
from .._schema.messages import MessageEdit

__all__ = ["Removal", "Uploads"]


class Removal(NamedTuple):
    """Values that are about to lose a user.

    Attributes:
        id: Tells this removal from others.
        edit: A change of a message, which takes the values out that it does not hold itself.
        unused: Digests of other values.
    """

    id: ObjectId
    edit: MessageEdit | None
    unused: set[str]


class Uploads:
    """The values in flight of one agent.

    Attributes:
        has_files: Whether stored messages may have offloaded values.
        in_flight: Whether anything is on its way, or waits to be removed; a plain write asks no more than this.
        removal: The removal that was announced and is not done.
    """

    def __init__(self) -> None:
        self.has_files = self.in_flight = False
        self.removal: ObjectId | None = None
        self._sent: set[str] = set()
        self._unused: set[str] = set()

    @property
    def has_unused(self) -> bool:
        """Whether values wait to be removed."""
        return bool(self._unused or self.removal)

    def begin(self, write: AgentWrite) -> Removal | None:
        """Take the values of a write as sent; return what is to be announced ahead of it, if anything is."""
        self._sent |= write.files.keys()
        self.has_files |= bool(write.files)
        self.in_flight |= bool(write.files)
        if not (self._unused or (write.edited and self.has_files)):
            return None
        self.removal, self.in_flight = self.removal or ObjectId(), True
        return Removal(self.removal, write.edited, set(self._unused))

    def due(self) -> Removal | None:
        """Return what is to be removed now, if anything is."""
        return None if self.removal is None else Removal(self.removal, None, set(self._unused))

    def finish(self, used: Iterable[str], done: Removal | None) -> None:
        """Take values as stored, and a removal as done."""
        self._sent.difference_update(used)
        if done is not None:
            self.removal = None
            self._unused -= done.unused
            self._sent -= done.unused
        self.in_flight = bool(self._sent or self._unused or self.removal)

    def give_up(self, files: Iterable[Mapping[str, bytes]]) -> None:
        """Note values that waiting messages hold no more; what was sent of them is to be removed."""
        for each in files:
            self._unused |= self._sent & each.keys()  # in flight still, as what was sent

    def take_back(self) -> Removal | None:
        """Return what is to be removed when nothing more will be stored, and take it as done."""
        if not (self._sent or self.removal):
            return None
        taken = Removal(self.removal or ObjectId(), None, self._sent)
        self._sent, self.removal, self.in_flight = set(), None, bool(self._unused)
        return taken
