"""A history that a crash left broken, mended where it is stored; pure.

The SDK mends toolUse without toolResult, and the reverse, in memory at each restore. Its conversation managers count
messages of the mended history, so an unmended stored one would lose a message at a later restore.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from strands.types.content import Message

from . import _codec
from ._codec import Stored

Numbered = Sequence[tuple[int, Message]]


@dataclass(frozen=True)
class Restored:
    """The messages of a restore as they were before the SDK mended them.

    Attributes:
        messages: With their ids.
        contents: Their lists of blocks; mending puts another list into a message.
    """

    messages: Numbered = field(repr=False)
    contents: list[object] = field(repr=False)

    @classmethod
    def of(cls, messages: Numbered) -> "Restored":
        """Remember messages before they are mended."""
        return cls(messages, [message["content"] for _, message in messages])

    def is_mended(self, mended: Sequence[Message]) -> bool:
        """Tell whether mending changed anything."""
        if len(mended) != len(self.messages):
            return True
        pairs = zip(mended, self.messages, self.contents, strict=True)
        return any(now is not then or now["content"] is not content for now, (_, then), content in pairs)

    def can_be_rewritten(self, live: Sequence[Stored]) -> bool:
        """Tell whether the session document holds all of these messages, each under an id of its own.

        Segments are never rewritten, and ids that the first version mixed up do not tell what is what.
        """
        ids = {stored["message_id"] for stored in live}
        return bool(self.messages) and len(ids) == len(live) and ids.issuperset(number for number, _ in self.messages)

    def rewritten(self, live: Sequence[Stored], mended: Sequence[Message], at: datetime, place: str) -> list[Stored]:
        """Return what the session document must hold so that it restores to the mended messages.

        Args:
            live: The messages that it holds, all of them.
            mended: What those of the restore have become; ids go on from the first of them.
            at: The time of the repair.
            place: What the agent is called in errors.
        """
        first = self.messages[0][0]
        before = [stored for stored in live if stored["message_id"] < first]
        stored = {stored["message_id"]: stored for stored in live}
        known = {id(message): (message_id, content) for (message_id, message), content in self._pairs()}
        after = []
        for number, message in enumerate(mended, start=first):
            message_id, content = known.get(id(message), (None, None))
            if message_id is None:
                after.append(_codec.encode_message(message, number, at, f"{place}, message {number}"))
                continue
            element = dict(stored[message_id])
            if message["content"] is not content:
                _codec.replacement(message, message_id, at, f"{place}, message {message_id}").apply(element)
            after.append({**element, "message_id": number})
        return before + after

    def _pairs(self) -> list[tuple[tuple[int, Message], object]]:
        return list(zip(self.messages, self.contents, strict=True))
