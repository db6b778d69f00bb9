"""What a collection holds that lists cannot show, and bringing it up to date."""

from typing import Any

from pymongo import UpdateOne
from pymongo.collection import Collection
from pymongo.errors import BulkWriteError, OperationFailure

from .._client.errors import is_of_document
from .._schema.catalog_checks import checks_pipeline, count_findings, outdated_pipeline, upgrade_update
from .._schema.catalog_indexes import catalog_indexes
from .._schema.values import Stored
from ..types import Finding, UpgradeReport
from .catalog_indexes import described
from .indexes import UNAUTHORIZED
from .operation import Collections
from .reading import ESCAPING, CatalogReads, catalog_operation

__all__ = ["CatalogChecks"]

_BATCH = 500


class CatalogChecks:
    """Checks of one namespace within a scope.

    Args:
        collections: For writes.
        reads: The collections, and the scope.
    """

    def __init__(self, collections: Collections, reads: CatalogReads) -> None:
        self._sessions, self._reads = collections.sessions, reads

    def check(self) -> list[Finding]:
        """Return what is found."""
        reads = self._reads
        with catalog_operation("check"):
            counted = reads.aggregate(checks_pipeline(reads.scope), allowDiskUse=True)
            unseen = [each for each in (reads.segments, reads.files, reads.chunks) if not self._is_readable(each)]
            return [*count_findings(counted[0] if counted else {}), *self._index_findings(), *map(_unseen, unseen)]

    def _is_readable(self, collection: Collection[Stored]) -> bool:
        try:
            collection.find_one({}, {"_id": 1}, max_time_ms=self._reads.max_time_ms)
        except OperationFailure as error:
            if error.code != UNAUTHORIZED:
                raise
            return False
        return True

    def _index_findings(self) -> list[Finding]:
        try:
            found = described(self._reads.sessions)
        except OperationFailure as error:
            if error.code != UNAUTHORIZED:
                raise
            return [Finding(code="unseen", detail="The indexes cannot be seen: the user may not listIndexes.")]
        missing = [spec.name for spec in catalog_indexes() if not any(map(spec.matches, found))]
        return [
            Finding(code="missing_index", detail=f"Index {name} is missing: create_indexes() makes it.")
            for name in missing
        ]

    def upgrade(self) -> UpgradeReport:
        """Bring sessions up to date, as far as that is possible."""
        matched = upgraded = 0
        after: str | None = None
        with catalog_operation("upgrade"):
            sessions = self._sessions.with_options(ESCAPING)
            while rows := list(sessions.aggregate(outdated_pipeline(after, _BATCH), allowDiskUse=True)):
                after = rows[-1]["_id"]
                matched += len(rows)
                upgraded += self._upgrade(rows)
        return UpgradeReport(matched=matched, upgraded=upgraded, left=matched - upgraded)

    def _upgrade(self, rows: list[Stored]) -> int:
        changes = [change for row in rows if (change := upgrade_update(row)) is not None]
        updates: list[Any] = [UpdateOne(*change) for change in changes]
        try:
            return self._sessions.bulk_write(updates, ordered=False).matched_count if updates else 0
        except BulkWriteError as error:
            # One that has no room, or that a validator refuses, keeps no other one from being brought up to date.
            if not all(map(is_of_document, error.details["writeErrors"])) or error.details["writeConcernErrors"]:
                raise
            return int(error.details["nMatched"])


def _unseen(collection: Collection[Stored]) -> Finding:
    return Finding(code="unseen", detail=f"Collection {collection.name} cannot be seen: the user may not find there.")
