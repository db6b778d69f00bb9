"""Misspelt options: the library's own names, and hints at them."""

import difflib
import sys
import warnings
from collections.abc import Iterable
from typing import Final

from ..types import OldSpellings, SessionOverrides

__all__ = ["OPTIONS", "spelling_hint", "warn_caller"]

# The library's own options, in the order of the documentation.
OPTIONS: Final = tuple(name for name in SessionOverrides.__annotations__ if name not in OldSpellings.__annotations__)
_NAMES: Final = ("session_id", "connection_string", "client", *OPTIONS)


def warn_caller(text: str) -> None:
    """Warn about an argument, at the line that called the library."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] == __name__.split(".")[0]:
        frame, level = frame.f_back, level + 1
    warnings.warn(text, stacklevel=level)


def spelling_hint(unknown: Iterable[str]) -> str:
    """Return a hint for unknown options: the most similar of the library's own, then all of them."""
    likely = [name for given in unknown for name in _similar(given)]
    question = f"Did you mean {' or '.join(dict.fromkeys(likely))}? " if likely else ""
    return f"{question}The library's own options are {', '.join(OPTIONS)}."


def _similar(given: str) -> list[str]:
    plain = {name.replace("_", ""): name for name in _NAMES}
    found = difflib.get_close_matches(given.replace("_", "").lower(), plain, n=1, cutoff=0.75)
    return [plain[name] for name in found if plain[name] != given]
