"""Ids and names as users pass them, and what an error may quote of them."""

import re

__all__ = ["check_name", "is_uri", "shown"]

# A blank or a quote before it is a slip of the same kind.
_URI = re.compile(r"[\s'\"]*mongodb(\+srv)?://", re.IGNORECASE)
# A user and a password may stand before the first, also where the scheme is missing or another one.
_MAY_BE_URI = re.compile("://|@")
_SHOWN = 50


def is_uri(value: object) -> bool:
    """Tell whether a value is a connection string, which is in the wrong place wherever this is asked."""
    return isinstance(value, str) and _URI.match(value) is not None


def shown(value: object) -> str:
    """Return a value as an error may quote it: shortened, and not at all where it may hold a password."""
    text = repr(value[:_SHOWN]) if isinstance(value, str) else repr(value)
    if _MAY_BE_URI.search(value if isinstance(value, str) else text):
        return "what looks like a connection string"
    return f"{text[:_SHOWN]}…" if len(text) > _SHOWN + 2 else text


def check_name(name: str, value: object) -> str | None:
    """Return the name of an application, a database or a collection; None where there is none.

    Raises:
        TypeError: It is not a string.
        ValueError: It is a connection string.
    """
    if not isinstance(value, str | None):
        raise TypeError(f"{name} must be a string, got {type(value).__name__}")
    if is_uri(value):
        raise ValueError(f"{name} must be a name, got a connection string. Pass that as connection_string=.")
    return value
