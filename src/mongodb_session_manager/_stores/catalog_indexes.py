"""The indexes of the catalog: made when they are asked for, while the caller waits."""

from collections.abc import Sequence
from typing import Any

from pymongo import IndexModel
from pymongo.collection import Collection
from pymongo.errors import OperationFailure

from .._schema.catalog_indexes import IndexSpec, catalog_indexes
from .._schema.given import check_flag, index_fields
from .._schema.values import Stored
from ..types import IndexReport
from .indexes import ONE_IN_THE_WAY, create_together
from .operation import Collections
from .reading import catalog_operation

__all__ = ["CatalogIndexes", "described"]


class CatalogIndexes:
    """The indexes of one namespace.

    Args:
        collections: Where they are.
    """

    def __init__(self, collections: Collections) -> None:
        self._sessions = collections.sessions

    def create(self, metadata_fields: Any, replace: object) -> IndexReport:
        """Make the indexes that are not there; drop single-field ones that these replace, if that is asked for."""
        check_flag("replace", replace)
        specs = catalog_indexes(index_fields(metadata_fields))
        with catalog_operation("create_indexes"):
            found = described(self._sessions)
            missing = [spec for spec in specs if not any(map(spec.matches, found))]
            failed = self._make(missing)
            there = [spec for spec in specs if spec.name not in failed]
            needless = [str(each["name"]) for each in found if any(spec.replaces(each) for spec in there)]
            dropped = needless if replace else []
            for name in dropped:
                self._sessions.drop_index(name)
        return IndexReport(
            created=[spec.name for spec in missing if spec.name not in failed],
            existing=[spec.name for spec in specs if spec not in missing],
            dropped=dropped,
            failed=failed,
        )

    def _make(self, specs: Sequence[IndexSpec]) -> dict[str, str]:
        """Make indexes; return the failures by name."""
        if not specs:
            return {}
        try:
            create_together(self._sessions, [IndexModel([*spec.keys], **spec.options) for spec in specs])
        except OperationFailure as error:
            if error.code not in ONE_IN_THE_WAY:
                raise
            if len(specs) == 1:
                return {specs[0].name: f"{type(error).__name__} {error.code}"}
            return {name: why for spec in specs for name, why in self._make([spec]).items()}
        return {}


def described(collection: Collection[Stored]) -> list[dict[str, Any]]:
    """Return the descriptions of a collection's indexes."""
    return [dict(each) for each in collection.list_indexes()]
