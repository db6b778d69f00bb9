"""The lease: one manager's claim to be the only writer of a session."""

import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from bson import ObjectId

from ..types import LeaseDoc
from .given import check_flag
from .ids import now, shown
from .values import FilterAndUpdate, Stored, Update

LEASE_TIMEOUT = 10.0
LEASE_DURATION = 30.0
# Seconds to give back a lease whose manager could not be made.
UNUSED_LEASE_TIMEOUT = 1.0

# A waiting manager tries again after about the first number of seconds; the pauses double up to the second.
_PAUSES = 0.05, 0.5

# A longer one would end after the year 9999, which no date can name.
_LONGEST = timedelta(days=36_500)


@dataclass(eq=False)
class Lease:
    """A manager's claim to a session.

    Attributes:
        timeout: Seconds to wait for it.
        duration: Seconds until it expires without a sign of life.
        owner: Identifies this claim.
        renewed_at: When a sign of life was last made, by ``time.monotonic()``.
    """

    timeout: float
    duration: timedelta
    owner: ObjectId = field(default_factory=ObjectId)
    renewed_at: float = field(default_factory=time.monotonic)

    @classmethod
    def wanted(
        cls, exclusive: object = False, lease_timeout: object = LEASE_TIMEOUT, lease_duration: object = LEASE_DURATION
    ) -> "Lease | None":
        """Return the lease that a manager's arguments ask for; None if it is not to be the only writer.

        Raises:
            TypeError: An argument has the wrong type.
            ValueError: A number of seconds is out of range.
        """
        check_flag("exclusive", exclusive)
        timeout, seconds = _seconds("lease_timeout", lease_timeout), _seconds("lease_duration", lease_duration)
        if not 0 < seconds <= _LONGEST.total_seconds():
            raise ValueError(f"lease_duration must be more than 0 seconds and at most 100 years, got {seconds!r}")
        return cls(timeout, timedelta(seconds=seconds)) if exclusive else None

    def renewed(self, at: datetime) -> datetime:
        """Note a sign of life, and return the new time of expiry."""
        self.renewed_at = time.monotonic()
        return at + self.duration

    def pauses(self) -> Iterator[float]:
        """Yield the seconds to wait before each new try, until the time is over."""
        deadline = time.monotonic() + self.timeout
        pause, longest = _PAUSES
        while (left := deadline - time.monotonic()) > 0:
            # Waiting managers do not all try at once.
            yield min(left, pause * random.uniform(0.5, 1))  # noqa: S311 - no secret
            pause = min(2 * pause, longest)


def _seconds(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number of seconds, got {shown(value)}")
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{name} must be a finite number of seconds that is not negative, got {value!r}")
    return float(value)


def taken_lease_update(session_id: str, update: Update, lease: Lease) -> FilterAndUpdate:
    """Return filter and update that open a session and take its lease, if the lease is free."""
    at = now()
    others = [{"lease": None}, {"lease.expires_at": {"$lte": at}}]
    free: Stored = {"_id": session_id, "$or": [*others, {"lease.owner": lease.owner}]}
    held = {"owner": lease.owner, "expires_at": lease.renewed(at)}
    return free, {**update, "$set": {"lease": held}}


def leased_update(change: FilterAndUpdate, lease: Lease | None) -> FilterAndUpdate:
    """Bind a write to a lease, which it renews; a write without a lease goes through only if no lease is held."""
    wanted, update = change
    if lease is None:
        wanted["lease"] = None
    else:
        wanted["lease.owner"] = lease.owner
        update.setdefault("$set", {})["lease.expires_at"] = lease.renewed(now())
    return change


def renewed_lease_update(session_id: str, lease: Lease) -> FilterAndUpdate:
    """Return filter and update that renew a lease, if it is still held."""
    return leased_update(({"_id": session_id}, {}), lease)


def released_lease_update(session_id: str, lease: Lease) -> FilterAndUpdate:
    """Return filter and update that give up a lease."""
    return {"_id": session_id, "lease.owner": lease.owner}, {"$unset": {"lease": ""}}


def has_expired(lease: LeaseDoc) -> bool:
    """Tell whether a stored lease has expired."""
    return lease["expires_at"] <= now()


def expired_lease_update(session_id: str, lease: LeaseDoc) -> FilterAndUpdate:
    """Return filter and update that clear an expired lease, if its owner has not renewed it."""
    seen = {"lease.owner": lease["owner"], "lease.expires_at": lease["expires_at"]}
    return {"_id": session_id, **seen}, {"$unset": {"lease": ""}}
