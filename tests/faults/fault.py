"""What can go wrong with one command."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pymongo.errors import (
    AutoReconnect,
    ExecutionTimeout,
    NetworkTimeout,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
    WriteConcernError,
)

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

HANGS = {"blockConnection": True, "blockTimeMS": 700}
HANGS_LONGER = {"blockConnection": True, "blockTimeMS": 1600}
NO_RETRIES = {"retryWrites": False}

# What the driver repeats once: the primary steps down, is not one any more, shuts down or is out of reach.
RETRIED = (91, 11600, 11602, 10107, 13435, 13436, 189, 262, 6, 7, 89, 9001)
# What it does not: a time limit on the server, a write conflict, no privilege, a killed operation.
NOT_RETRIED = {50: ExecutionTimeout, 112: OperationFailure, 13: OperationFailure, 11601: OperationFailure}

# What a single write can meet.
FAULTS = [
    Fault("connection dropped, once", CLOSED, times=1),
    Fault("connection dropped, twice", CLOSED, AutoReconnect, times=2),
    Fault("connection dropped, until lifted", CLOSED, AutoReconnect),
    Fault("connection dropped, once, no retries", CLOSED, AutoReconnect, times=1, options=NO_RETRIES),
    *(Fault(f"code {code}, once", {"errorCode": code}, times=1) for code in RETRIED),
    Fault("not primary, twice", {"errorCode": 10107}, NotPrimaryError, times=2),
    Fault("shutting down, until lifted", {"errorCode": 91}, AutoReconnect),
    Fault("stepping down, until lifted", {"errorCode": 189}, NotPrimaryError),
    *(Fault(f"code {code}, until lifted", {"errorCode": code}, error) for code, error in NOT_RETRIED.items()),
    Fault("authenticate again, once", {"errorCode": 391}, times=1),
    Fault("write concern 64, once", UNCONFIRMED, WriteConcernError, times=1, applied=True),
    Fault("write concern 64, until lifted", UNCONFIRMED, WriteConcernError, applied=True),
    Fault("write concern 100, until lifted", unconfirmed(100), WriteConcernError, applied=True),
    Fault("write concern 91, once", unconfirmed(91), times=1),
    Fault("write concern 11602, until lifted", unconfirmed(11602), WriteConcernError, applied=True),
    Fault("reply lost, once", LOST, times=1),
    Fault("reply lost, until lifted", LOST, AutoReconnect, applied=True),
    Fault("reply lost, once, no retries", LOST, AutoReconnect, times=1, applied=True, options=NO_RETRIES),
    Fault("server blocked, timeoutMS", HANGS, NetworkTimeout, options={"timeoutMS": 200}),
    Fault("server blocked once, socketTimeoutMS", HANGS_LONGER, times=1, options={"socketTimeoutMS": 800}),
    Fault(
        "server blocked, socketTimeoutMS, no retries",
        HANGS,
        NetworkTimeout,
        applied=True,
        options={"socketTimeoutMS": 200, **NO_RETRIES},
    ),
]
TOLD = [fault for fault in FAULTS if fault.error]
