"""Old spellings of arguments, in one place for the manager and the factory."""

import warnings
from typing import Any

_OLD_SPELLINGS = {"metadataHook": "metadata_hook", "feedbackHook": "feedback_hook"}


def with_new_spellings(arguments: dict[str, Any], *, stacklevel: int = 3) -> dict[str, Any]:
    """Return the arguments with ``metadataHook`` and ``feedbackHook`` renamed.

    Args:
        arguments: By keyword, as the user gave them; None counts as not given.
        stacklevel: Of the DeprecationWarning; by default it names the caller of the caller.

    Raises:
        TypeError: Both spellings of one argument were given.
    """
    renamed = dict(arguments)
    for old, new in _OLD_SPELLINGS.items():
        if old not in renamed:
            continue
        if renamed.get(new) is not None:
            raise TypeError(f"{new} was given twice: also under its old spelling {old}")
        warnings.warn(f"{old} is the old spelling of {new}", DeprecationWarning, stacklevel=stacklevel)
        renamed[new] = renamed.pop(old)
    return renamed
