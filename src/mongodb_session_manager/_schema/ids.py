"""Ids, keys and paths, and how an error quotes them."""

import re
from datetime import datetime, timezone
from functools import lru_cache
from typing import TypeGuard

from .values import escape_key

# A blank or a quote may stand before it by mistake.
_URI = re.compile(r"[\s'\"]*mongodb(\+srv)?://", re.IGNORECASE)
# A user and a password may stand before "@", also if the scheme is missing or another one.
_MAY_BE_URI = re.compile("://|@")
_SHOWN = 50


def is_uri(value: object) -> bool:
    """Tell whether a value is a connection string, which is not valid as an id or name."""
    return isinstance(value, str) and _URI.match(value) is not None


def shown(value: object) -> str:
    """Return a value as an error quotes it: shortened, and hidden if it may hold a password."""
    text = repr(value[:_SHOWN]) if isinstance(value, str) else _repr(value)
    if _MAY_BE_URI.search(value if isinstance(value, str) else text):
        return "what looks like a connection string"
    return f"{text[:_SHOWN]}…" if len(text) > _SHOWN + 2 else text


def _repr(value: object) -> str:
    # Python writes no integer of more than 4,300 digits as a decimal number.
    return hex(value) if isinstance(value, int) and value.bit_length() > 64 else repr(value)


def check_name(name: str, value: object) -> str | None:
    """Return the name of an application, a database or a collection; None stays None.

    Raises:
        TypeError: It is not a string.
        ValueError: It is a connection string.
    """
    if not isinstance(value, str | None):
        raise TypeError(f"{name} must be a string, got {type(value).__name__}")
    if is_uri(value):
        raise ValueError(f"{name} must be a name, got a connection string. Pass that as connection_string=.")
    return value


MAX_ID_BYTES = 1024
# A server takes documents of 180 levels, and misreads a path of more than 255.
MAX_KEY_LEVELS = 100
# A condition on a key nests one level for each number in it.
_MAX_KEY_NUMBERS = 30
# In a filter or an index, a number is an index and also a name in each element: each one may double the work.
MAX_SOUGHT_NUMBERS = 8

# The number after it must fit in 8 bytes too.
MAX_MESSAGE_ID = 2**63 - 2
_ALL = 2**31 - 1


def now() -> datetime:
    """Return the time as BSON stores it: UTC, whole milliseconds."""
    at = datetime.now(timezone.utc)
    return at.replace(microsecond=at.microsecond // 1000 * 1000)


def check_id(name: str, value: object) -> str:
    """Return a session or agent id that can be stored.

    Raises:
        TypeError: It is not a string.
        ValueError: It is empty, holds NUL, is not valid Unicode, is longer than 1,024 bytes in UTF-8, or is a
            connection string.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, got {type(value).__name__}")
    if _URI.match(value):
        # An id is stored and logged, and this one has a password.
        raise ValueError(f"{name} must be an id, got a connection string. Pass that as connection_string=.")
    if not value or "\0" in value:
        raise ValueError(f"{name} must not be empty and must not hold NUL, got {shown(value)}")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise ValueError(f"{name} must be valid Unicode, got {shown(value)}") from None
    if size > MAX_ID_BYTES:
        raise ValueError(f"{name} must have at most {MAX_ID_BYTES} bytes in UTF-8, got {size}: {shown(value)}")
    return value


def is_integer(value: object) -> TypeGuard[int]:
    """Tell whether a value is an integer, which a bool is not."""
    return isinstance(value, int) and not isinstance(value, bool)


def check_message_id(value: object, name: str = "message_id") -> int:
    """Return a message id that fits in BSON, with room for the next one.

    Args:
        value: The message id.
        name: The argument that it was given as.

    Raises:
        TypeError: It is not an integer.
        ValueError: It does not fit in 8 bytes.
    """
    if not is_integer(value):
        raise TypeError(f"{name} must be an integer, got {type(value).__name__}")
    if abs(value) > MAX_MESSAGE_ID:
        raise ValueError(f"{name} must be a number of 8 bytes, got {shown(hex(value))}")
    return value


def check_key(name: str, key: object) -> str:
    """Return a metadata key, possibly dotted, that can be a path.

    Raises:
        ValueError: It is not a string, is empty, has an empty segment or one that starts with ``$``, holds NUL, or has
            more than 100 levels or 30 that are numbers.
    """
    if not isinstance(key, str):
        raise ValueError(f"{name}: a key must be a string, got {type(key).__name__}")
    if not key or "\0" in key:
        raise ValueError(f"{name}: a key must not be empty and must not hold NUL, got {shown(key)}")
    if any(not segment or segment.startswith("$") for segment in key.split(".")):
        raise ValueError(
            f"{name}: key {shown(key)} has an empty segment or one that starts with '$'. A dot reaches into a nested "
            "field; put data with such keys into a value."
        )
    levels = key.split(".")
    if len(levels) > MAX_KEY_LEVELS or sum(map(is_number, levels)) > _MAX_KEY_NUMBERS:
        raise ValueError(
            f"{name}: key {key[:50]!r}… has {len(levels)} levels; a key has at most {MAX_KEY_LEVELS}, of which "
            f"{_MAX_KEY_NUMBERS} may be numbers. Put what is nested deeper into a value."
        )
    return key


def check_sought_key(name: str, key: object) -> str:
    """Return a metadata key by which sessions can be found.

    Raises:
        ValueError: ``check_key`` refuses it, or more than 8 of its levels are numbers.
    """
    found = check_key(name, key)
    if sum(map(is_number, found.split("."))) > MAX_SOUGHT_NUMBERS:
        raise ValueError(
            f"{name}: key {shown(found)} has more than {MAX_SOUGHT_NUMBERS} levels that are numbers, and takes a "
            "server too long to find. Keep what is sought less deep in lists."
        )
    return found


def is_number(name: str) -> bool:
    """Tell whether a server reads a name as an index in a list."""
    return name.isascii() and name.isdigit()


def has_number(key: str) -> bool:
    """Tell whether a metadata key may reach into a list."""
    return any(map(is_number, key.split(".")))


def ends_in_number(key: str) -> bool:
    """Tell whether a metadata key may be an element of a list."""
    return is_number(key.split(".")[-1])


def list_index(name: str) -> int:
    # Lists are shorter, and a larger number does not fit in 4 bytes.
    return int(name[-10:]) if len(name.lstrip("0")) <= 9 else _ALL


def metadata_path(key: str) -> str:
    """Return the dotted path of a metadata field."""
    return ".".join(("metadata", *map(escape_key, key.split("."))))


@lru_cache(maxsize=1024)
def agent_path(agent_id: str, *names: str, nested: bool = False) -> str:
    """Return the dotted path of an agent, or of a field below it.

    The first version stored an agent whose id has dots as ``nested``: one level for each part of the id.
    """
    return ".".join(("agents", agent_id if nested else escape_key(agent_id), *names))


def multi_agent_path(multi_agent_id: str, *names: str) -> str:
    """Return the dotted path of a multi-agent, or of a field below it."""
    return ".".join(("multi_agents", escape_key(multi_agent_id), *names))


def agent_label(session_id: str, agent_id: str, message_id: int | None = None) -> str:
    """Return the label of an agent, or of one of its messages, for an error."""
    label = f"Agent {agent_id!r} of session {session_id!r}"
    return label if message_id is None else f"{label}, message {message_id}"
