"""Checks of the arguments of the catalog's methods but for filters; an error names the argument."""

from typing import Any, Final

from .catalog import SORTS
from .ids import is_integer, shown
from .transcripts import MOST_BYTES

MOST_ITEMS: Final = 1000
# The server takes no larger limit.
_MOST: Final = 2**62
_MOST_BLOCKS: Final = 2**31 - 1


def check_sort(sort: object) -> str:
    """Return the name of an order.

    Raises:
        TypeError: It is not a string.
        ValueError: There is no such order.
    """
    if not isinstance(sort, str):
        raise TypeError(f"sort must be a string, got {type(sort).__name__}")
    if sort not in SORTS:
        raise ValueError(f"sort must be one of {', '.join(map(repr, SORTS))}, got {shown(sort)}")
    return sort


def check_limit(limit: object) -> int:
    """Return the number of items of a page, at most 1,000.

    Raises:
        TypeError: It is not an integer.
        ValueError: It is negative or larger.
    """
    return _between("limit", limit, 0, MOST_ITEMS)


def check_batch(batch: object) -> int:
    """Return the number of sessions in a batch, at least 1 and at most 1,000.

    Raises:
        TypeError: It is not an integer.
        ValueError: It is smaller or larger.
    """
    return _between("batch", batch, 1, MOST_ITEMS)


def check_at_most(at_most: object) -> int:
    """Return the largest count.

    Raises:
        TypeError: It is not an integer.
        ValueError: It is negative.
    """
    if _integer("at_most", at_most) < 0:
        raise ValueError(f"at_most must not be negative, got {at_most}")
    return min(_integer("at_most", at_most), _MOST)


def check_bytes(max_bytes: object) -> int:
    """Return the size of a page in bytes; as much as one answer of a server takes, if it is larger.

    Raises:
        TypeError: It is not an integer.
        ValueError: It is not positive.
    """
    if _integer("max_bytes", max_bytes) < 1:
        raise ValueError(f"max_bytes must be positive, got {shown(max_bytes)}")
    return min(_integer("max_bytes", max_bytes), MOST_BYTES)


def check_block(n: object) -> int:
    """Return the number of a content block.

    Raises:
        TypeError: It is not an integer.
        ValueError: It is negative, or too large to be one.
    """
    return _between("n", n, 0, _MOST_BLOCKS)


def _between(name: str, value: Any, least: int, most: int) -> int:
    if not least <= _integer(name, value) <= most:
        raise ValueError(f"{name} must be between {least} and {most:,}, got {shown(value)}")
    return int(value)


def _integer(name: str, value: Any) -> int:
    if not is_integer(value):
        raise TypeError(f"{name} must be an integer, got {type(value).__name__}")
    return int(value)
