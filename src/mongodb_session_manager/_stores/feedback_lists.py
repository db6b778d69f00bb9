"""The feedback of sessions, newest first."""

from typing import Any

from .._schema.catalog_arguments import check_limit
from .._schema.catalog_filter import Conditions, conditions_of, filter_digest
from .._schema.cursors import decode_cursor, encode_cursor
from .._schema.feedback_entries import (
    SORT,
    FeedbackQuery,
    entry_of,
    feedback_pipeline,
    is_of,
    moved_pipeline,
    newest_first,
    place_of,
    query_of,
    rating_of,
)
from .._schema.lives import instance_of
from .._schema.values import Stored
from ..types import FeedbackEntry, Page
from .reading import CatalogReads, catalog_operation

__all__ = ["FeedbackLists"]

_BATCH = 100_000


class FeedbackLists:
    """The feedback of the sessions in a scope.

    Args:
        reads: The collections, and the scope.
    """

    def __init__(self, reads: CatalogReads) -> None:
        self._reads = reads

    def page(self, given: object, rating: object, since: object, limit: object, cursor: object) -> Page[FeedbackEntry]:
        """Return a page of feedback."""
        most, conditions = check_limit(limit), [*self._reads.scope, conditions_of(given)]
        digest = filter_digest(conditions)
        wanted = rating_of(rating)
        sort = SORT if wanted is None else f"{SORT}:{wanted}"
        query = query_of(wanted, since, decode_cursor(cursor, sort, digest, timed=True, numbered=True), most + 1)
        if most == 0:
            return Page(items=[], next_cursor=None if cursor is None else str(cursor))
        with catalog_operation("feedback"):
            rows = self._read(conditions, query)
        after = encode_cursor(sort, digest, place_of(rows[most - 1])) if len(rows) > most else None
        items = [entry_of(row) for row in rows[:most]]
        return Page(items=items, next_cursor=after, examined=len(items))

    def _read(self, conditions: list[Conditions], query: FeedbackQuery) -> list[Stored]:
        pipeline = feedback_pipeline(conditions, query)
        found = self._reads.aggregate(pipeline, batchSize=_BATCH, allowDiskUse=True)
        rows = [row for row in found if "segments" not in row]
        moved = [row for row in found if "segments" in row]
        elsewhere = [row for row in rows if _is_elsewhere(row)]
        if not (moved or elsewhere):
            return rows
        pipeline = moved_pipeline(moved, elsewhere, query)
        read = self._reads.aggregate_in(self._reads.segments, pipeline, batchSize=_BATCH, allowDiskUse=True)
        instances = {row["_id"]: instance_of(row) for row in found}
        for row in elsewhere:
            segments = [each for each in read if "turns" in each and each["session_id"] == row["_id"]]
            turns = (turn for each in segments if _is_own(each, instances) for turn in each["turns"])
            row["turn"] = next((turn for turn in turns if is_of(turn, row)), row["turn"])
        rows += [
            each for each in read if "turns" not in each and _is_own({**each, "session_id": each["_id"]}, instances)
        ]
        return newest_first(rows)[: query.limit]


def _is_own(segment: Stored, instances: dict[str, Any]) -> bool:
    """Tell whether a segment belongs to the life of the session that was read."""
    return segment.get("instance") in (None, instances.get(segment["session_id"]))


def _is_elsewhere(row: Stored) -> bool:
    turn = row.get("turn") or {}
    return bool(turn.get("references")) or ("references" in turn and isinstance(row["f"].get("tracking_id"), str))
