"""The keys of one change of metadata: which name the same, and how many a server can check at once."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Final, TypeAlias

from .ids import is_number, shown

Way: TypeAlias = tuple[str, ...]

# A condition for each nested field that keys lead through; with more, a server works for seconds.
_MOST_BYTES: Final = 2**20
_MOST_PAIRS: Final = 100


def ways_of(keys: Iterable[str]) -> Iterator[Way]:
    """Yield the paths of the fields that dotted keys lead through, also several times."""
    return (path[:level] for path in map(_names, keys) for level in range(1, len(path)))


def numbered_fields(keys: Iterable[str]) -> Iterator[Way]:
    """Yield the paths of the fields of which keys name an element by its number, also several times."""
    return (path[:-1] for path in map(_names, keys) if is_number(path[-1]))


def _names(key: str) -> Way:
    return tuple(key.split("."))


def one_element(keys: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Return the pairs of keys of which one names what the other does, or holds it, if there is a list.

    In a list, 1 and 01 are one element, and elsewhere they are two names.
    """
    spelled: dict[Way, list[str]] = {}
    for key in keys:
        spelled.setdefault(_in_lists(key), []).append(key)
    for path, alike in spelled.items():
        yield from itertools.combinations(alike, 2)
        for level in range(1, len(path)):
            yield from itertools.product(spelled.get(path[:level], ()), alike)


def _in_lists(key: str) -> Way:
    return tuple((name.lstrip("0") or "0") if is_number(name) else name for name in key.split("."))


def check_ways(label: str, ways: Iterable[Way]) -> None:
    """Raise unless a server can check in one change what stands on the ways.

    Raises:
        ValueError: There are too many, or they are too long.
    """
    known, left = set[Way](), _MOST_BYTES
    for way in ways:
        left -= 0 if way in known else _bytes_of_condition(way)
        known.add(way)
        if left < 0:
            raise ValueError(
                f"{label}: the keys lead through too many nested fields for one change, or have too long names, such "
                f"as {shown('.'.join(way))}. Give them in several changes, or give objects as values."
            )


def check_spellings(label: str, keys: Iterable[str]) -> None:
    """Raise if very many keys differ only in how a number is written.

    Raises:
        ValueError: There are more than 100 pairs of such keys.
    """
    for one, other in itertools.islice(one_element(keys), _MOST_PAIRS, _MOST_PAIRS + 1):
        raise ValueError(
            f"{label}: very many keys name one element if there is a list, such as {shown(one)} and {shown(other)}. "
            "Write each number in one way."
        )


def _bytes_of_condition(way: Way) -> int:
    # About what a condition has; it names the way several times, and nests once for each number.
    return 5 * sum(len(name) + 1 for name in way) + 200 * (1 + sum(map(is_number, way)))
