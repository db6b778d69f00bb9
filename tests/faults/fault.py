"""What can go wrong with one command."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pymongo.errors import PyMongoError

ALWAYS = 1_000_000
LOST_REPLY = "lostReply"

CLOSED = {"closeConnection": True}
LOST = {LOST_REPLY: True}


@dataclass(frozen=True)
class Fault:
    """What goes wrong with a command, and what comes of it.

    Attributes:
        name: What it is called in the documents.
        how: What is injected: ``failCommand`` does it, or a proxy where it is the reply that gets lost.
        error: What the user is told; None where the driver deals with it itself.
        times: How many commands meet it.
        applied: Whether a write that reports the error is stored all the same.
        options: Of the client.
    """

    name: str
    how: Mapping[str, Any]
    error: type[PyMongoError] | None = None
    times: int = ALWAYS
    applied: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name

    @property
    def loses_replies(self) -> bool:
        """Whether it takes a proxy."""
        return LOST_REPLY in self.how


def unconfirmed(code: int) -> dict[str, Any]:
    """Return the fault of a write that is applied and whose write concern then fails."""
    return {"writeConcernError": {"code": code, "errmsg": "not replicated", "errorLabels": []}}


UNCONFIRMED = unconfirmed(64)
