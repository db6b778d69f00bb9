"""The settings of the driver that hold for one caller only."""

import contextvars
import sys
from typing import Any, Final, TypeAlias

import pymongo
from pymongo.client_session import ClientSession

__all__ = ["may_share"]

_Variables: TypeAlias = tuple[contextvars.ContextVar[Any], ...]


def _of_caller() -> _Variables | None:
    """Return the driver's context variables for a caller's pymongo.timeout() and bound session.

    There is no public way to read them; None if one is not found.
    """
    wanted = [(getattr(pymongo, "_csot", None), "TIMEOUT")]
    if hasattr(ClientSession, "bind"):  # not in each version
        wanted.append((sys.modules[ClientSession.__module__], "_SESSION"))
    found = [getattr(module, name, None) for module, name in wanted]
    variables = tuple(variable for variable in found if isinstance(variable, contextvars.ContextVar))
    return variables if len(variables) == len(wanted) else None


_OF_CALLER: Final = _of_caller()


def may_share(context: contextvars.Context) -> bool:
    """Tell whether a caller's write may share a command; always False if the driver's variables are not found."""
    return _OF_CALLER is not None and all(context.get(variable) is None for variable in _OF_CALLER)
