"""The indexes by which sessions are listed, and what they replace."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from .ids import metadata_path
from .values import Stored

# What the server adds to the description of an index that has no options.
_NO_OPTIONS: Final = frozenset({"v", "key", "name", "ns"})
# A list of sessions is sorted by a time and then by the id; an index that ends in the same is read in its order.
_BY_UPDATE: Final = (("updated_at", -1), ("_id", -1))


@dataclass(frozen=True)
class IndexSpec:
    """An index.

    Attributes:
        keys: The fields and their directions.
        options: Such as ``partialFilterExpression``.
        replaced: The field whose own index it makes needless; None if there is none.
    """

    keys: tuple[tuple[str, int], ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    replaced: str | None = None

    @property
    def name(self) -> str:
        """The name that MongoDB's drivers give it."""
        return "_".join(f"{name}_{direction}" for name, direction in self.keys)

    def matches(self, found: Mapping[str, Any]) -> bool:
        """Tell whether a description of an index is that of this one, whatever its name."""
        return _keys(found) == self.keys and _options(found) == self.options

    def replaces(self, found: Mapping[str, Any]) -> bool:
        """Tell whether an index has only the field that this one begins with, and no options."""
        return _keys(found) in {((self.replaced, 1),), ((self.replaced, -1),)} and not _options(found)


def _keys(found: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    keys = found.get("key")
    return tuple(keys.items()) if isinstance(keys, Mapping) else ()


def _options(found: Mapping[str, Any]) -> Stored:
    return {name: value for name, value in found.items() if name not in _NO_OPTIONS}


def managed_indexes(metadata_fields: Iterable[str] = ()) -> Sequence[IndexSpec]:
    """Return the indexes that session managers make."""
    return [
        IndexSpec((("created_at", -1), ("_id", -1)), replaced="created_at"),
        IndexSpec(_BY_UPDATE, replaced="updated_at"),
        IndexSpec((("application_name", 1), *_BY_UPDATE), replaced="application_name"),
        *(IndexSpec(((path, 1), *_BY_UPDATE), replaced=path) for path in map(metadata_path, metadata_fields)),
    ]


def catalog_indexes(metadata_fields: Iterable[str] = ()) -> Sequence[IndexSpec]:
    """Return the indexes for the lists of a catalog."""
    return [
        *managed_indexes(metadata_fields),
        IndexSpec((("agent_ids", 1), *_BY_UPDATE)),
        # Servers before 5.0 take no two partial indexes on the same fields, so each names what it is about.
        _partial("feedback_counts.down", {"feedback_counts.down": {"$gt": 0}}),
        _partial("feedbacks.rating", {"feedbacks.rating": "down"}),
        _partial("interrupted", {"interrupted.0": {"$exists": True}}),
    ]


def _partial(name: str, condition: Stored) -> IndexSpec:
    return IndexSpec((*_BY_UPDATE, (name, 1)), {"partialFilterExpression": condition})
