"""Expiry: how long a session lives after its last write, and the conditions on its date."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from .ids import shown
from .values import FilterAndUpdate, Pipeline, Stored, Update

SHORTEST_TTL = timedelta(minutes=1)
LONGEST_TTL = timedelta(days=36_500)

# Dates are rounded up to a multiple of this part of the ttl, so that nearly all writes leave the date as it is.
_STEPS_PER_TTL = 64
_SHORTEST_STEP, _LONGEST_STEP = 1, 3600
# An opening moves the date if less than this part of the ttl is left.
_LEFT = 7 / 8
# So long a session without a ttl is taken to have none.
_UNTIL_LOOK = timedelta(seconds=_LONGEST_STEP)

# A write that sets one of these fields moves the date.
_SIGNS_OF_LIFE = frozenset({"updated_at", "lease.expires_at"})

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)

# The name under which an opening reads whether the session has expired, by the server's clock.
EXPIRED = "expired"
# A date that is missing would be before every date; so would numbers and texts.
IS_EXPIRED: Stored = {"$and": [{"$eq": [{"$type": "$expires_at"}, "date"]}, {"$lte": ["$expires_at", "$$NOW"]}]}
EXPIRED_FILTER: Stored = {"$expr": IS_EXPIRED}
HELD: Stored = {"held": True}
LIFETIME_PROJECTION = {"expires_at": 1, "ttl_seconds": 1, "held": 1}


def check_ttl(ttl: object) -> timedelta | None:
    """Return a ttl if it is a valid one, or None.

    Raises:
        TypeError: It is not a ``timedelta``.
        ValueError: It is shorter than a minute or longer than 100 years.
    """
    if ttl is None:
        return None
    if not isinstance(ttl, timedelta):
        raise TypeError(f"ttl must be a datetime.timedelta, such as timedelta(days=30), or None; got {shown(ttl)}")
    if not SHORTEST_TTL <= ttl <= LONGEST_TTL:
        raise ValueError(f"ttl must be at least 1 minute and at most 100 years (36,500 days), got {ttl}")
    return ttl


def ttl_seconds(ttl: timedelta) -> int:
    """Return the stored form of a ttl."""
    return math.ceil(ttl.total_seconds())


def stored_ttl(seconds: Any) -> timedelta | None:
    """Return the ttl in its stored form; None if there is none, or not a valid one."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        return None
    is_valid = SHORTEST_TTL.total_seconds() <= seconds <= LONGEST_TTL.total_seconds()
    return timedelta(seconds=seconds) if is_valid else None


def expiry_date(at: datetime, ttl: timedelta) -> datetime:
    """Return the date on which a session expires that was last written at a time, rounded up."""
    seconds = int(ttl.total_seconds()) // _STEPS_PER_TTL
    step = timedelta(seconds=min(max(seconds, _SHORTEST_STEP), _LONGEST_STEP))
    return _EPOCH - (_EPOCH - at - ttl) // step * step


@dataclass
class Lifetime:
    """How long a session lives, as one manager knows it.

    Attributes:
        own: The manager's own ttl; None if it has none, or the session has got another one since it was opened.
        stored: The session's ``ttl_seconds``.
        until: A date that is acknowledged, or need not be tried again; without a ttl, when a write asks for one again.
    """

    own: timedelta | None = None
    stored: Any = None
    until: datetime | None = None

    @property
    def ttl(self) -> timedelta | None:
        """The longer one of both."""
        if self.stored is None:
            return self.own
        return max(filter(None, (self.own, stored_ttl(self.stored))), default=None)

    @property
    def _lengthened(self) -> Stored:
        """The session's new ttl, if the manager's own is longer."""
        own = self.own  # another thread may take it back
        return {"ttl_seconds": ttl_seconds(own)} if own is not None and _is_longer(own, self.stored) else {}

    def missed(self, session: Mapping[str, Any], at: datetime) -> bool:
        """Do what ``found`` does, after a date that missed."""
        own = self.own
        if own is not None and not self._lengthened and _is_longer(own, session.get("ttl_seconds")):
            self.own = None  # an operator has given the session a shorter one, and the next opening gives this again
        return self.found(session, at)

    def found(self, session: Mapping[str, Any], at: datetime) -> bool:
        """Take over what is stored; False if a date that missed is not to be tried again."""
        known, date = self.stored, session.get("expires_at")
        self.stored, self.until = session.get("ttl_seconds"), date if isinstance(date, datetime) else None
        is_held = session.get("held") is True
        if self.ttl is None:
            self.until = at + _UNTIL_LOOK
        elif is_held:
            # A held session has no date. A look for the end of the hold is due with the next step.
            self.until = expiry_date(at, self.ttl)
        return not is_held and self.stored != known

    def begun(self, at: datetime) -> Stored:
        """Return the fields of a session that begins at a time."""
        if self.own is None:
            self.stored, self.until = None, at + _UNTIL_LOOK
            return {}
        self.stored, self.until = ttl_seconds(self.own), expiry_date(at, self.own)
        return {"ttl_seconds": self.stored, "expires_at": self.until}

    def due(self, at: datetime) -> datetime | None:
        """Return the date that a write at a time is to set; None if the stored one is not earlier.

        Without a ttl, this is when a write asks for one again, and None if that is not due.
        """
        if self.ttl is None:
            return at + _UNTIL_LOOK if self.until is None or at >= self.until else None
        date = expiry_date(at, self.ttl)
        return None if self.until is not None and date <= self.until else date

    def due_when_opened(self, at: datetime) -> datetime | None:
        """Return the date that an opening is to set; None if most of the ttl is left."""
        ttl = self.ttl
        is_far = ttl is not None and self.until is not None and self.until - at >= ttl * _LEFT
        return None if is_far and not self._lengthened else self.due(at)

    def dated(self, change: FilterAndUpdate, until: datetime) -> FilterAndUpdate:
        """Return the change with a date that is never earlier than the stored one.

        It goes through only if the session is not held, and its ttl is the one that is known. Without a ttl, it has no
        date, and goes through only if the session has got none meanwhile.
        """
        wanted, update = change
        known: Stored = {"ttl_seconds": {"$eq": self.stored}}
        if self.ttl is None:
            return {**wanted, **known}, update
        known["held"] = {"$ne": True}
        latest = {"expires_at": until, **self._lengthened}
        return {**wanted, **known}, {**update, "$max": latest}

    def reached(self, until: datetime) -> None:
        """Note that a date is acknowledged."""
        self.stored = self._lengthened.get("ttl_seconds", self.stored)
        self.until = until if self.until is None else max(self.until, until)


def _is_longer(ttl: timedelta, stored: Any) -> bool:
    return ttl > (stored_ttl(stored) or timedelta())


def shows_life(change: FilterAndUpdate) -> bool:
    """Tell whether a change of a session moves its date of expiry."""
    return not _SIGNS_OF_LIFE.isdisjoint(change[1].get("$set", ()))


def has_expired(session: Mapping[str, Any], at: datetime) -> bool:
    """Tell whether a session that an opening read had expired; the time is that of a server that does not compute."""
    if EXPIRED in session:
        return bool(session[EXPIRED])
    date = session.get("expires_at")
    return isinstance(date, datetime) and date <= at


def expired_filter(session_id: str, at: datetime | None = None) -> Stored:
    """Return the filter of a session that has expired: by the server's clock, or at a time."""
    return {"_id": session_id, **(EXPIRED_FILTER if at is None else {"expires_at": {"$lte": at}})}


# The updates of operators


def _from_now(seconds: Any) -> Stored:
    return {"$add": ["$$NOW", {"$toLong": {"$multiply": [seconds, 1000]}}]}


HOLD_UPDATE: Stored = {"$set": {"held": True}, "$unset": {"expires_at": ""}}
_HAS_TTL = {
    "$and": [
        {"$isNumber": "$ttl_seconds"},
        {"$gte": ["$ttl_seconds", SHORTEST_TTL.total_seconds()]},
        {"$lte": ["$ttl_seconds", LONGEST_TTL.total_seconds()]},
    ]
}
RELEASE_UPDATE: Pipeline = [
    {"$set": {"expires_at": {"$cond": [_HAS_TTL, _from_now("$ttl_seconds"), "$$REMOVE"]}}},
    {"$unset": "held"},
]


def new_ttl_update(ttl: timedelta | None) -> Update | Pipeline:
    """Return the update that lets a session live so long, from now by the server's clock; None: for ever."""
    if ttl is None:
        return {"$unset": {"ttl_seconds": "", "expires_at": ""}}
    seconds = ttl_seconds(ttl)
    return [{"$set": {"ttl_seconds": seconds, "expires_at": _from_now(seconds)}}]
