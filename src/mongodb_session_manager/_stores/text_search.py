"""The search for a text in the embedded messages of sessions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from pymongo.errors import ExecutionTimeout, OperationFailure

from .._schema.catalog import Order, candidates_pipeline, lenient_search_pipeline, search_pipeline
from .._schema.catalog_filter import Conditions
from .._schema.cursors import Place
from .._schema.values import Stored
from .reading import CatalogReads, failed_on_a_value

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
        numbers = {each["_id"]: number for number, each in enumerate(taken, 1)}
        batch = max(1, len(taken) * self._batch_bytes // max(1, sum(each["bytes"] for each in taken)))
        found.after = order.beginning(taken[0], begin)
        place = begin
        if order.is_growing and len(taken) < len(candidates):
            # What is written meanwhile comes after the others, which are not looked through yet.
            place = replace(begin, until=taken[-1]["at"])
        for row in self._rows(found, (conditions, order, place, list(numbers)), batch):
            found.examined = max(found.examined, numbers[row["_id"]])
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

    def _rows(
        self, found: Found, search: tuple[Sequence[Conditions], Order, Place, list[str]], batch: int
    ) -> Iterator[Stored]:
        """Return the sessions that are looked through; only those with the text if another one is not UTF-8."""
        begin, how = found.after, {"batchSize": batch, "allowDiskUse": True}
        try:
            yield from self._reads.stream(search_pipeline(*search), **how)
        except OperationFailure as error:
            if not failed_on_a_value(error):
                raise
        else:
            return
        found.after, found.examined = begin, 0
        found.rows.clear()
        yield from self._reads.lenient(self._reads.sessions, lenient_search_pipeline(*search), **how)

    def _taken(self, candidates: list[Stored]) -> list[Stored]:
        """Return the first candidates that are together not too large, at least one."""
        taken, size = candidates[:1], candidates[0]["bytes"]
        for each in candidates[1 : self._candidates]:
            size += each["bytes"]
            if size > self._most_bytes:
                break
            taken.append(each)
        return taken
