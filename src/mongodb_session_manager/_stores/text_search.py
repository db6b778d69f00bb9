"""The search for a text in the embedded messages of sessions."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from pymongo.errors import ExecutionTimeout

from .._schema.catalog import Order, candidates_pipeline, search_pipeline
from .._schema.catalog_filter import Conditions
from .._schema.cursors import Place
from .._schema.values import Stored
from .reading import CatalogReads

__all__ = ["Found", "TextSearch"]

MOST_CANDIDATES = 2000
MOST_BYTES = 64 * 1024 * 1024
BATCH_BYTES = 16 * 1024 * 1024


@dataclass
class Found:
    """The outcome of a search.

    Attributes:
        after: Where to go on; None at the end.
        rows: The sessions with the text.
        examined: The number of sessions that were looked through.
    """

    after: Place | None
    rows: list[Stored] = field(default_factory=list)
    examined: int = 0


class TextSearch:
    """Looks through a limited number of sessions.

    Args:
        reads: The collections.
        candidates: Sessions to look through at most.
        most_bytes: The size of these sessions at most.
        batch_bytes: After so many bytes, the server tells how far it has come.
    """

    def __init__(
        self,
        reads: CatalogReads,
        candidates: int = MOST_CANDIDATES,
        most_bytes: int = MOST_BYTES,
        batch_bytes: int = BATCH_BYTES,
    ) -> None:
        self._reads, self._candidates = reads, candidates
        self._most_bytes, self._batch_bytes = most_bytes, batch_bytes

    def find(self, conditions: Sequence[Conditions], order: Order, place: Place, limit: int) -> Found:
        """Return the sessions with a text after a place, as far as the limits of work and time allow."""
        found = Found(place)
        try:
            pipeline = candidates_pipeline(conditions, order, place, self._candidates + 1)
            candidates = self._reads.aggregate(pipeline, batchSize=self._candidates + 2, allowDiskUse=True)
            if candidates:
                self._look_through(found, candidates, conditions, order, limit)
            else:
                found.after = None
        except ExecutionTimeout:
            pass  # what was found until then is an answer, and says where to go on
        return found

    def _look_through(
        self, found: Found, candidates: list[Stored], conditions: Sequence[Conditions], order: Order, limit: int
    ) -> None:
        begin, taken = found.after or Place(), self._taken(candidates)
        pipeline = search_pipeline(conditions, order, begin, [each["_id"] for each in taken])
        found.after = order.beginning(taken[0], begin)
        batch = max(1, len(taken) * self._batch_bytes // max(1, sum(each["bytes"] for each in taken)))
        for row in self._reads.stream(pipeline, batchSize=batch, allowDiskUse=True):
            found.examined += 1
            found.after = order.after(row, begin)
            if row["is_found"]:
                found.rows.append(row)
            if len(found.rows) == limit:
                break
        else:
            found.after = order.after(taken[-1], begin) if len(taken) < len(candidates) else None
            found.examined = len(taken)
            return
        if row["_id"] == candidates[-1]["_id"]:
            found.after = None

    def _taken(self, candidates: list[Stored]) -> list[Stored]:
        """Return the first candidates that are together not too large, at least one."""
        taken, size = candidates[:1], candidates[0]["bytes"]
        for each in candidates[1 : self._candidates]:
            size += each["bytes"]
            if size > self._most_bytes:
                break
            taken.append(each)
        return taken
