"""The usage of models across sessions."""

from .._schema.catalog_filter import conditions_of
from .._schema.usage_report import UsageReport
from ..types import UsageRow
from .reading import CatalogReads, catalog_operation

__all__ = ["UsageReports"]

_BATCH = 100_000


class UsageReports:
    """The usage in the sessions of a scope.

    Args:
        reads: The collections, and the scope.
    """

    def __init__(self, reads: CatalogReads) -> None:
        self._reads = reads

    def usage(self, given: object, by: object, since: object, until: object) -> list[UsageRow]:
        """Return the usage of the sessions for which a filter holds, a row for each combination of keys."""
        report = UsageReport.of(by, since, until)
        conditions = [*self._reads.scope, conditions_of(given)]
        with catalog_operation("usage"):
            return report.rows(self._reads.aggregate(report.pipeline(conditions), batchSize=_BATCH, allowDiskUse=True))
