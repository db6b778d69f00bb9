"""Sweeps: they remove what a deletion that ended halfway has left, and what the server leaves of expired sessions."""

import itertools
import logging
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any

from bson import ObjectId
from pymongo.collection import Collection as MongoCollection
from pymongo.errors import DuplicateKeyError

from .._schema.deletion import (
    FILE_LIFE,
    FILES_BY_LIFE,
    LIFE_PROJECTION,
    SEGMENT_LIFE,
    SEGMENTS_BY_LIFE,
    announced_files_filter,
    announced_removal_update,
    announced_segments_update,
    long_expired_filter,
    segments_of_lives_filter,
    sweep_claim_update,
    withdrawn_removal_update,
    withdrawn_segments_update,
)
from .._schema.expiry import EXPIRED_FILTER, LONGEST_TTL
from .._schema.ids import shown
from .._schema.limits import LIMITS
from .._schema.lives import FIRST_ID_TIME, OLDER_THAN, Life, youngest_old_id
from .._schema.values import CODEC_OPTIONS, Stored
from ..types.reports import SweepReport
from .children import ChildrenEraser, life_of
from .erasing import delete_lives
from .operation import Collections
from .reading import TOLERANT, catalog_operation

__all__ = ["Sweeper"]

logger = logging.getLogger(__name__)

# The server's own monitor goes first.
_LONG_EXPIRED = timedelta(minutes=5)
_AT_A_TIME = 1000


class Sweeper:
    """Sweeps one namespace.

    Args:
        collections: The namespace.
        interval: Seconds from one sweep of a process to the next.
    """

    def __init__(self, collections: Collections, interval: float = LIMITS.sweep_interval) -> None:
        self._collections, self._eraser = collections, ChildrenEraser(collections)
        # A little less, or the only process would come too early every second time.
        self._interval = timedelta(seconds=interval * 0.9)

    def _claim(self) -> bool:
        """Tell whether a sweep is due, and no other process has claimed it."""
        change = sweep_claim_update(self._server_time(), self._interval)
        try:
            self._collections.segments.update_one(*change, upsert=True)
        except DuplicateKeyError:
            return False
        return True

    def sweep(self, older_than: timedelta = OLDER_THAN, stop: threading.Event | None = None) -> SweepReport:
        """Remove sessions that have expired, and children of lives that are over.

        Args:
            older_than: How old such children are at least; a fork stores them before its session.
            stop: Ends the sweep after a batch.

        Raises:
            TypeError: ``older_than`` is not a ``timedelta``.
            ValueError: It is negative, or longer than 100 years.
        """
        _check_age(older_than)
        with catalog_operation("sweep"):
            return self._sweep(self._server_time(), older_than, stop)

    def sweep_if_due(self, stop: threading.Event) -> None:
        """Sweep, if no process has done so for a while."""
        if self._claim():
            report = self.sweep(stop=stop)
            logger.debug("namespace=<%s>, removed=<%s> | swept", self._collections.sessions.full_name, report)

    def _sweep(self, at: datetime, older_than: timedelta, stop: threading.Event | None) -> SweepReport:
        before = ObjectId.from_datetime(max(at - older_than, FIRST_ID_TIME))
        removed: Counter[str] = Counter()
        steps = self._expired(at - _LONG_EXPIRED), self._lost_segments(before), self._lost_files(before)
        for batch in itertools.chain(*steps):
            removed.update(batch)
            if stop is not None and stop.is_set():
                break
        return SweepReport(**removed)

    def _server_time(self) -> datetime:
        answer = self._collections.sessions.database.command("hello", codec_options=CODEC_OPTIONS)
        at: datetime = answer["localTime"]
        return at

    def _expired(self, before: datetime) -> Iterator[dict[str, int]]:
        """Delete sessions that expired before a time, with their children."""
        sessions = self._collections.sessions.with_options(TOLERANT)
        seen: list[Life] = []
        while True:
            found = sessions.find(long_expired_filter(before), LIFE_PROJECTION, limit=_AT_A_TIME)
            lives = [Life(session["_id"], session["instance"]) for session in found]
            if lives == seen:  # none, or such as cannot be deleted: an id that is not UTF-8
                return
            removed, over = delete_lives(sessions, lives, EXPIRED_FILTER)
            yield {"sessions": removed, **self._eraser.delete(over).counts}
            seen = lives

    def _lost_segments(self, before: ObjectId) -> Iterator[dict[str, int]]:
        segments = self._collections.segments
        for lives in _lives_in(segments, SEGMENT_LIFE, SEGMENTS_BY_LIFE):
            over = self._eraser.over(lives)
            if before > youngest_old_id():
                over = self._announced(over, before)
            wanted = segments_of_lives_filter(over, before)
            yield {"segments": segments.delete_many(wanted).deleted_count if over else 0}

    def _announced(self, lives: set[Life], before: ObjectId) -> set[Life]:
        """Announce the removal of segments that may be a fork's, which looks at them once it is there; look again."""
        if not lives:
            return lives
        removal, segments = ObjectId(), self._collections.segments

        def withdraw(living: set[Life]) -> None:
            segments.update_many(*withdrawn_segments_update(living, removal, before))

        segments.update_many(*announced_segments_update(lives, removal, before))
        return self._eraser.still_over(lives, withdraw)

    def _lost_files(self, before: ObjectId) -> Iterator[dict[str, int]]:
        for lives in _lives_in(self._collections.files, FILE_LIFE, FILES_BY_LIFE):
            over = self._eraser.over(lives)
            yield {"files": self._remove_files(over, before) if over else 0}

    def _remove_files(self, lives: set[Life], before: ObjectId) -> int:
        """Announce the removal, look again, and remove; a writer that has stored a use looks at the file once more."""
        removal, files = ObjectId(), self._collections.files

        def withdraw(living: set[Life]) -> None:
            files.update_many(*withdrawn_removal_update(living, before, removal))

        files.update_many(*announced_removal_update(lives, before, removal))
        over = self._eraser.still_over(lives, withdraw)
        wanted = announced_files_filter(over, before, removal)
        found = [file["_id"] for file in files.find(wanted, {"_id": 1})] if over else []
        self._eraser.delete_files(found)
        return len(found)


def _check_age(older_than: object) -> None:
    if not isinstance(older_than, timedelta):
        raise TypeError(f"older_than must be a datetime.timedelta, got {shown(older_than)}")
    if not timedelta() <= older_than <= LONGEST_TTL:
        raise ValueError(f"older_than must be 0 or more, and at most 100 years, got {older_than}")


def _lives_in(
    collection: "MongoCollection[Stored]", fields: Stored, order: list[tuple[str, int]]
) -> Iterator[list[Life]]:
    """Yield the lives of the children in a collection, some at a time."""
    how: dict[str, Any] = {"sort": order, "batch_size": _AT_A_TIME, "allow_disk_use": True}
    found: Iterable[Any] = collection.with_options(TOLERANT).find({}, fields, **how)
    children = itertools.groupby(child.get("metadata", child) for child in found)
    lives = (life for child, _ in children if (life := life_of(child)))
    while some := list(itertools.islice(lives, _AT_A_TIME)):
        yield some
