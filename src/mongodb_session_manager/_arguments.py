"""What users pass: old spellings, names that are not quite right, and what must not be quoted."""

import difflib
import re
import sys
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Final, NoReturn

from .types import OldSpellings, SessionOverrides

__all__ = [
    "OPTIONS",
    "NotAsynchronous",
    "NotCopied",
    "check_message",
    "check_name",
    "is_uri",
    "shown",
    "spelling_hint",
    "warn_caller",
    "with_new_spellings",
]

_OLD_SPELLINGS = {"metadataHook": "metadata_hook", "feedbackHook": "feedback_hook"}

# The library's own, in the order of the documentation.
OPTIONS: Final = tuple(name for name in SessionOverrides.__annotations__ if name not in OldSpellings.__annotations__)
_NAMES: Final = ("session_id", "connection_string", "client", *OPTIONS)

# A blank or a quote before it is a slip of the same kind.
_URI = re.compile(r"[\s'\"]*mongodb(\+srv)?://", re.IGNORECASE)
# A user and a password may stand before the first, also where the scheme is missing or another one.
_MAY_BE_URI = re.compile("://|@")
_SHOWN = 50

_ROLES = ("user", "assistant")
# What would be stored as the text by which Python shows it.
_NO_CONTENT = (Mapping, tuple, set, frozenset, bytes, bytearray, int, float)
_MESSAGE = "a dict with the role 'user' or 'assistant' and a content, such as {'role': 'user', 'content': 'Hello'}"


def with_new_spellings(arguments: Mapping[str, Any], *, stacklevel: int = 3) -> dict[str, Any]:
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


def warn_caller(text: str) -> None:
    """Warn of what was passed, at the line that called the library."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] == __name__.split(".")[0]:
        frame, level = frame.f_back, level + 1
    warnings.warn(text, stacklevel=level)


def spelling_hint(unknown: Iterable[str]) -> str:
    """Return what to say of names that are no options: those of the library, the likeliest first."""
    likely = [name for given in unknown for name in _similar(given)]
    question = f"Did you mean {' or '.join(dict.fromkeys(likely))}? " if likely else ""
    return f"{question}The library's own options are {', '.join(OPTIONS)}."


def _similar(given: str) -> list[str]:
    plain = {name.replace("_", ""): name for name in _NAMES}
    found = difflib.get_close_matches(given.replace("_", "").lower(), plain, n=1, cutoff=0.75)
    return [plain[name] for name in found if plain[name] != given]


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


def check_message(value: object) -> None:
    """Refuse what is no message.

    Raises:
        TypeError: It is no mapping, or its content is none.
        ValueError: Its role is none, or it has no content.
    """
    if not isinstance(value, Mapping):
        raise TypeError(f"A message must be {_MESSAGE}, got {type(value).__name__}")
    if value.get("role") not in _ROLES:
        role = f"the role {shown(value['role'])}" if "role" in value else "no role"
        raise ValueError(f"A message must be {_MESSAGE}; this one has {role}")
    if value.get("content") is None:
        raise ValueError(f"A message must be {_MESSAGE}; this one has no content")
    _check_content(value["content"])


def _check_content(content: object) -> None:
    if isinstance(content, list):
        wrong = next((block for block in content if not isinstance(block, Mapping)), None)
        if wrong is not None:
            raise TypeError(
                "The content of a message must be a list of blocks, such as [{'text': 'Hello'}]; this one holds a "
                f"{type(wrong).__name__}"
            )
    elif isinstance(content, _NO_CONTENT):
        raise TypeError(
            f"The content of a message must be a string, an AgentResult or a list of blocks, such as [{{'text': "
            f"'Hello'}}], got {type(content).__name__}"
        )


class NotCopied:
    """Refuses to be pickled or copied, since it holds connections, threads and locks of this process."""

    _instead: ClassVar[str]

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(
            f"A {type(self).__name__} cannot be pickled or copied: it holds connections, threads and locks of this "
            f"process. {self._instead}"
        )


class _NotAsynchronousError(TypeError, AttributeError):
    """There is no such method, which is what ``hasattr`` asks."""


class _NoAsyncWith:
    """Stands for a method of ``async with``, and is missing wherever it is looked for."""

    def __get__(self, instance: "NotAsynchronous | None", owner: type) -> Any:
        if instance is None:
            return self
        raise _NotAsynchronousError(f"A {owner.__name__} has no 'async with'. {instance._instead_of_async}")


class NotAsynchronous:
    """Refuses ``async with``, which looks as if nothing of it blocked."""

    _instead_of_async: ClassVar[str]
    __aenter__: ClassVar[Any] = _NoAsyncWith()
    __aexit__: ClassVar[Any] = _NoAsyncWith()
