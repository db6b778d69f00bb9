"""One step of an agent's history that is not acknowledged, and the steps that go out together; pure."""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

from .._schema.blobs import LargeValues
from .._schema.histories import AgentWrite, Guard, is_window_state
from .._schema.messages import MessageEdit
from .._schema.values import Stored
from ..types import MessageDoc
from .live_records import Snapshot

__all__ = ["Change", "NextWrite"]


@dataclass
class Change:
    """One step of a history that is not acknowledged yet.

    Attributes:
        appended: A new message in its stored form.
        edited: A change of a message that may be stored already.
        data: Changed fields of ``agent_data``.
        guardrail_events: Events to record on the session.
        live: The live messages when this was captured; None if they are not to be stored.
        lost_head: Whether the live list has only lost its oldest messages, which may be stored late.
        size: The bytes of the appended message.
        values: Offloaded values of the appended or edited message.
    """

    appended: MessageDoc | None = field(default=None, repr=False)
    edited: MessageEdit | None = None
    data: Stored = field(default_factory=dict, repr=False)
    guardrail_events: list[Stored] = field(default_factory=list, repr=False)
    live: Snapshot | None = field(default=None, repr=False)
    lost_head: bool = False
    size: int = 0
    values: LargeValues = field(default_factory=LargeValues, repr=False)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left to be stored."""
        return self.is_of_fields and not self.data

    @property
    def is_of_fields(self) -> bool:
        """Whether it is of agent data alone."""
        others = (self.appended, self.edited, self.live)
        return all(each is None for each in others) and not self.guardrail_events

    @property
    def moves_window(self) -> bool:
        """Whether it may be stored late: it only tells how far a window has moved."""
        if self.appended or self.edited or self.guardrail_events or (self.live is not None and not self.lost_head):
            return False
        return is_window_state(self.data) if self.data else self.live is not None

    @property
    def is_of_window(self) -> bool:
        """Whether it only tells of a moved window, which may be lost."""
        return self.lost_head and replace(self, live=None).is_empty

    def put_into(self, write: AgentWrite, next_message_id: int) -> None:
        """Join it with the changes that a write holds already.

        Args:
            write: The write.
            next_message_id: The id of the first message that the write appends.
        """
        write.edited = write.edited or self.edited
        if self.appended:
            write.appended.append(self.appended.copy())  # an edit may change the queued one meanwhile
        write.data |= self.data
        if self.live is not None:
            write.live = self.live.ids(next_message_id + len(write.appended)).stored
            write.live_may_wait &= self.lost_head
        write.guardrail_events += self.guardrail_events
        write.size += self.size
        write.files |= self.values.files

    def renumber_without(self, dropped: int) -> None:
        """Adapt message numbers after one message was taken out."""
        if self.appended is not None:
            self.appended["message_id"] -= 1
        if self.edited is not None and self.edited.message_id > dropped:
            self.edited = replace(self.edited, message_id=self.edited.message_id - 1)
        elif self.edited is not None and self.edited.message_id == dropped:
            self.edited = None


class NextWrite(NamedTuple):
    """The changes that go out next, as one write.

    Attributes:
        write: The write.
        joined: The number of changes in it.
        guard: The guard that the stored history must have.
        after: The guard after the write.
    """

    write: AgentWrite
    joined: int
    guard: Guard
    after: Guard
