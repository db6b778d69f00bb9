"""Tools for tests: a private mongod, a command counter, a scripted model, a contract suite.

The pytest fixtures for these are in ``mongodb_session_manager.testing.pytest_plugin``. Only
``SessionRepositoryContract`` needs pytest; importing this package does not.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._binary import MongodNotFoundError, find_mongod
from ._commands import Command, CommandCounter, CommandLog, session_ids
from ._mongod import Mongod, running_mongodb
from ._mongod_process import MongodStartError
from ._mongod_set import MongodSet
from ._scripted_model import Redaction, ScriptedModel, ScriptExhaustedError, Turn

if TYPE_CHECKING:
    from ._contract import SessionRepositoryContract

__all__ = [
    "Command",
    "CommandCounter",
    "CommandLog",
    "Mongod",
    "MongodNotFoundError",
    "MongodSet",
    "MongodStartError",
    "Redaction",
    "ScriptExhaustedError",
    "ScriptedModel",
    "SessionRepositoryContract",
    "Turn",
    "find_mongod",
    "running_mongodb",
    "session_ids",
]


def __getattr__(name: str) -> Any:
    # The suite needs pytest, which is not a dependency of the library, so it is imported on demand.
    if name == "SessionRepositoryContract":
        return import_module("._contract", __name__).SessionRepositoryContract
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
