"""Checks of users' arguments: old spellings, invalid messages, and ``async with`` where it is not supported."""

import warnings
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, get_args

from .._schema.given import check_flag
from .._schema.ids import check_id, shown
from ..types import Durability, OnError

__all__ = ["NotAsynchronous", "check_agent_ids", "check_choices", "check_message", "with_new_spellings"]

_OLD_SPELLINGS = {"metadataHook": "metadata_hook", "feedbackHook": "feedback_hook"}
_ROLES = ("user", "assistant")
# Values that would be stored as their Python repr.
_NO_CONTENT = (Mapping, set, frozenset, bytes, bytearray, int, float)
_MESSAGE = "a dict with the role 'user' or 'assistant' and a content, such as {'role': 'user', 'content': 'Hello'}"


def with_new_spellings(arguments: Mapping[str, Any], *, stacklevel: int = 3) -> dict[str, Any]:
    """Return the arguments with ``metadataHook`` and ``feedbackHook`` renamed.

    Args:
        arguments: The keyword arguments; None counts as not given.
        stacklevel: The level of the DeprecationWarning; by default the caller's caller.

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


def check_agent_ids(agent_ids: object) -> list[str]:
    """Return the ids of agents.

    Raises:
        TypeError: They are not in a list, but for instance one string.
        ValueError: One is not valid.
    """
    if isinstance(agent_ids, str) or not isinstance(agent_ids, Iterable):
        raise TypeError(f"agent_ids must be a list of ids, got the {type(agent_ids).__name__} {shown(agent_ids)}")
    return [check_id("agent_id", agent_id) for agent_id in agent_ids]


def check_message(value: object) -> None:
    """Raise if a value is not a valid message.

    Raises:
        TypeError: It is not a mapping, or its content has a wrong type.
        ValueError: Its role is not a valid one, or it has no content.
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
    if isinstance(content, list | tuple):
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


def check_choices(durability: object, on_error: object, create: object) -> None:
    """Refuse values that are not choices of a manager.

    Raises:
        TypeError: ``create`` is not a bool.
        ValueError: ``durability`` or ``on_error`` is not a choice.
    """
    for name, value, choices in (
        ("durability", durability, get_args(Durability)),
        ("on_error", on_error, get_args(OnError)),
    ):
        if value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {shown(value)}")
    check_flag("create", create)


class _NotAsynchronousError(TypeError, AttributeError):
    """Also an AttributeError, so that ``hasattr`` is False."""


class _NoAsyncWith:
    """A descriptor for a method of ``async with`` that raises as if the method were missing."""

    def __get__(self, instance: "NotAsynchronous | None", owner: type) -> Any:
        if instance is None:
            return self
        raise _NotAsynchronousError(f"A {owner.__name__} has no 'async with'. {instance._instead_of_async}")


class NotAsynchronous:
    """Refuses ``async with``, which would block the event loop."""

    _instead_of_async: ClassVar[str]
    __aenter__: ClassVar[Any] = _NoAsyncWith()
    __aexit__: ClassVar[Any] = _NoAsyncWith()
