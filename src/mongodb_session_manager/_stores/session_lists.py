"""Lists of sessions, their number, and one of them."""

from collections.abc import Iterator
from typing import Any

from pymongo.errors import ExecutionTimeout

from .._schema.catalog import (
    Order,
    count_pipeline,
    details_pipeline,
    files_size_pipeline,
    page_pipeline,
    segments_size_pipeline,
)
from .._schema.catalog_arguments import check_at_most, check_batch, check_limit, check_sort
from .._schema.catalog_filter import Conditions, conditions_of, filter_digest
from .._schema.cursors import Place, decode_cursor, encode_cursor
from .._schema.ids import check_id
from .._schema.lives import Life, instance_of
from .._schema.summaries import details_of, summary_of
from .._schema.values import Stored
from ..errors import SessionNotFoundError
from ..types import Page, SessionDetails, SessionSummary
from .reading import CatalogReads, catalog_operation
from .text_search import TextSearch

__all__ = ["SessionLists"]


class SessionLists:
    """Lists of the sessions in a scope.

    Args:
        reads: The collections, and the scope.
        search: Searches in them for a text.
    """

    def __init__(self, reads: CatalogReads, search: TextSearch) -> None:
        self._reads, self._search = reads, search

    def page(self, given: object, sort: object, limit: object, cursor: object) -> Page[SessionSummary]:
        """Return a page of summaries."""
        order, most = Order(check_sort(sort)), check_limit(limit)
        conditions = self._conditions(given, may_search=True)
        digest = filter_digest(conditions)
        place = decode_cursor(cursor, order.name, digest, timed=order.field is not None)
        if most == 0:
            return Page(items=[], next_cursor=None if cursor is None else str(cursor))
        with catalog_operation("list"):
            items, after, examined = self._read(conditions, order, place, most)
        return Page(
            items=items,
            next_cursor=None if after is None else encode_cursor(order.name, digest, after),
            examined=examined,
        )

    def _read(
        self, conditions: list[Conditions], order: Order, place: Place, limit: int
    ) -> tuple[list[SessionSummary], Place | None, int]:
        """Return summaries, the place after them (None at the end), and the number of sessions looked at."""
        if any(each.text is not None for each in conditions):
            found = self._search.find(conditions, order, place, limit)
            return [summary_of(row) for row in found.rows], found.after, found.examined
        rows = self._reads.aggregate(page_pipeline(conditions, order, place, limit + 1), batchSize=limit + 2)
        after = order.after(rows[limit - 1], place) if len(rows) > limit else None
        items = [summary_of(row) for row in rows[:limit]]
        return items, after, len(items)

    def batches(self, given: object, batch: object) -> Iterator[list[SessionSummary]]:
        """Return an iterator over the summaries of all sessions, many at a time."""
        return self._batches(self._conditions(given, may_search=True), check_batch(batch))

    def _batches(self, conditions: list[Conditions], batch: int) -> Iterator[list[SessionSummary]]:
        order, place = Order("session_id"), Place()
        while True:
            with catalog_operation("iterate"):
                items, after, examined = self._read(conditions, order, place, batch)
            yield items
            if after is None:
                return
            if not examined:
                raise ExecutionTimeout("The server looked through no session within max_time; give it more.", 50)
            place = after

    def count(self, given: object, at_most: object) -> int:
        """Return the number of sessions, at most a given one."""
        conditions, most = self._conditions(given), check_at_most(at_most)
        if most == 0:
            return 0
        with catalog_operation("count"):
            found = self._reads.aggregate(count_pipeline(conditions, most))
        return int(found[0]["count"]) if found else 0

    def get(self, session_id: str) -> SessionDetails:
        """Return the details of a session."""
        check_id("session_id", session_id)
        with catalog_operation("get"):
            row = next(iter(self._reads.aggregate(details_pipeline(session_id, self._reads.scope))), None)
            if row is None:
                raise SessionNotFoundError(session_id)
            life = Life(session_id, instance_of(row))
            segments = self._reads.aggregate_in(self._reads.segments, segments_size_pipeline(life))
            files = self._reads.aggregate_in(self._reads.files, files_size_pipeline(life))
        return details_of(row, _first(segments), _first(files))

    def _conditions(self, given: object, *, may_search: bool = False) -> list[Conditions]:
        return [*self._reads.scope, conditions_of(given, may_search=may_search)]


def _first(rows: list[Stored]) -> dict[str, Any]:
    return rows[0] if rows else {}
