"""Deletes the sessions for which a filter holds, in batches in the order of their ids: each is met once."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

from pymongo.errors import PyMongoError

from .._schema.catalog_arguments import check_at_most
from .._schema.catalog_filter import any_session_filter, living_filter, scope_of
from .._schema.deletion import (
    LIFE_PROJECTION,
    NOT_HELD,
    held_counts_pipeline,
    lives_after_filter,
)
from .._schema.expiry import EXPIRED
from .._schema.given import check_flag
from .._schema.ids import shown
from .._schema.lives import Life
from .._schema.values import Stored
from ..types.reports import DeletionReport
from .children import ChildrenEraser
from .erasing import again_if_cut, delete_lives
from .operation import Collections
from .reading import catalog_operation

__all__ = ["ManyDeletions", "Progress"]

# Is told after each batch what is done by then.
Progress: TypeAlias = Callable[[DeletionReport], object]

_AT_A_TIME = 500
# Batches; a server that refuses is not asked for every one.
_MOST_FAILURES = 3


class ManyDeletions:
    """Deletes many sessions of one namespace.

    Args:
        collections: The namespace.
        max_time_ms: Milliseconds that the server may work for one read.
    """

    def __init__(self, collections: Collections, max_time_ms: int) -> None:
        self._sessions, self._max_time_ms = collections.sessions, max_time_ms
        self._eraser = ChildrenEraser(collections)

    def delete(
        self, given: object, *, dry_run: bool = False, at_most: int | None = None, on_progress: Progress | None = None
    ) -> DeletionReport:
        """Delete the sessions for which a filter holds, and that are not held.

        Args:
            given: The filter.
            dry_run: Whether they are only counted.
            at_most: If more match, none is deleted.
            on_progress: What it raises ends the deletion.

        Raises:
            TypeError: An argument has a wrong type.
            ValueError: The filter has no condition, or more sessions match than ``at_most``.
        """
        conditions = scope_of(given)
        _check(dry_run, at_most, on_progress)
        living, wanted = living_filter([conditions]), any_session_filter([conditions], [(NOT_HELD,)])
        with catalog_operation("delete_many"):
            matched, held = self._count(living)
            if at_most is not None and matched > at_most:
                raise ValueError(f"filter: it matches {matched} sessions, and at_most is {at_most}. None was deleted.")
            report = DeletionReport(matched=matched, held=held, remaining=matched)
            if dry_run:
                return report
            report = self._delete_all(wanted, report, at_most, on_progress)
            remaining, held = self._count(living)
            return replace(report, remaining=remaining, held=held)

    def _count(self, wanted: Stored) -> tuple[int, int]:
        """Return how many sessions match that are not held, and how many that are."""
        rows = self._sessions.aggregate(held_counts_pipeline(wanted), maxTimeMS=self._max_time_ms)
        counts = {row["_id"]: row["sessions"] for row in rows}
        return counts.get(False, 0), counts.get(True, 0)

    def _delete_all(
        self, wanted: Stored, report: DeletionReport, at_most: int | None, on_progress: Progress | None
    ) -> DeletionReport:
        last, failures = "", 0
        while failures < _MOST_FAILURES:
            found = self._next(wanted, last, None if at_most is None else at_most - report.deleted)
            if not found:
                break
            last = found[-1]["_id"]
            try:
                report = self._delete_batch(wanted, found, report)
            except PyMongoError as error:
                failures += 1
                report = _failed(report, found, error)
            if on_progress is not None:
                on_progress(report)
            if len(found) < _AT_A_TIME:
                break
        return report

    def _next(self, wanted: Stored, last: str, most: int | None) -> list[Stored]:
        """Return the following sessions: no more living ones than may be deleted."""
        following = lives_after_filter(last, wanted)
        how: dict[str, Any] = {"limit": _AT_A_TIME, "batch_size": _AT_A_TIME, "max_time_ms": self._max_time_ms}
        found = list(self._sessions.find(following, LIFE_PROJECTION, sort=[("_id", 1)], **how))
        living = [number for number, session in enumerate(found) if not session[EXPIRED]]
        return found if most is None or len(living) <= most else found[: living[max(most, 0)]]

    def _delete_batch(self, wanted: Stored, found: list[Stored], report: DeletionReport) -> DeletionReport:
        lives = [Life(session["_id"], session["instance"]) for session in found]
        # Those that changed meanwhile and do not match any more stay.
        _, gone = delete_lives(self._sessions, lives, wanted)
        if gone:
            again_if_cut(lambda: self._eraser.delete(gone))
        # One that had expired was there for nobody, and is not counted.
        deleted = sum(life in gone and not session[EXPIRED] for life, session in zip(lives, found, strict=True))
        return replace(report, deleted=report.deleted + deleted, remaining=max(report.remaining - deleted, 0))


def _check(dry_run: object, at_most: object, on_progress: object) -> None:
    check_flag("dry_run", dry_run)
    if at_most is not None:
        check_at_most(at_most)
    if on_progress is not None and not callable(on_progress):
        raise TypeError(f"on_progress must be a function that takes a DeletionReport, got {shown(on_progress)}")


def _failed(report: DeletionReport, found: list[Stored], error: PyMongoError) -> DeletionReport:
    errors = {**report.errors, **{session["_id"]: type(error).__name__ for session in found}}
    return replace(report, failed=len(errors), errors=errors)
