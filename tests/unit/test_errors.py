"""The error tree: what can be caught as what, and that each message names who is meant and what to do."""

import copy
import inspect
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from strands.types.content import Message
from strands.types.exceptions import SessionException

import mongodb_session_manager
from mongodb_session_manager import errors
from mongodb_session_manager.errors import (
    AgentNotFoundError,
    FactoryNotInitializedError,
    InvalidCursorError,
    MessageNotFoundError,
    MongoDBSessionError,
    SchemaVersionError,
    SessionConflictError,
    SessionHeldError,
    SessionLockedError,
    SessionNotFoundError,
    SessionTooLargeError,
    UnstorableValueError,
)

SESSION, AGENT = "s'1\n", 'a."b"'
PENDING: Message = {"role": "user", "content": [{"text": "SECRET"}]}

# One of each kind, with who it names and words of its remedy or reason.
SAMPLES: dict[str, tuple[MongoDBSessionError, list[object], str]] = {
    "SessionNotFoundError": (SessionNotFoundError(SESSION), [SESSION], "create a new MongoDBSessionManager"),
    "AgentNotFoundError": (AgentNotFoundError(SESSION, AGENT), [SESSION, AGENT], "create the agent first"),
    "MessageNotFoundError": (MessageNotFoundError(SESSION, AGENT, 7), [SESSION, AGENT, 7], "list_messages()"),
    "UnstorableValueError": (
        UnstorableValueError("state.x", "use strings"),
        [],
        "state.x cannot be stored: use strings",
    ),
    "SessionConflictError": (
        SessionConflictError(SESSION, AGENT, "moved; read it again.", [PENDING]),
        [SESSION, AGENT],
        "read it again",
    ),
    "SessionHeldError": (SessionHeldError(SESSION), [SESSION], "release()"),
    "SessionLockedError": (SessionLockedError(SESSION, None, "is held; wait."), [SESSION], "is held; wait."),
    "SessionTooLargeError": (
        SessionTooLargeError(SESSION, AGENT, 7, 17_000_000),
        [SESSION, AGENT, 7, 17_000_000],
        "keep large data outside",
    ),
    "SchemaVersionError": (SchemaVersionError(SESSION, 9, 2), [SESSION, 9, 2], "Upgrade the library"),
    "InvalidCursorError": (InvalidCursorError("is not base64."), [], "next_cursor of a page"),
    "FactoryNotInitializedError": (FactoryNotInitializedError(), [], "initialize_global_factory("),
}
ALSO: dict[type[Exception], list[type[Exception]]] = {
    ValueError: [
        SessionNotFoundError,
        AgentNotFoundError,
        MessageNotFoundError,
        UnstorableValueError,
        InvalidCursorError,
    ],
    RuntimeError: [FactoryNotInitializedError],
    SessionConflictError: [SessionLockedError],
}


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("how", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy])
def test_an_error_comes_out_of_a_worker_process_as_it_was(name: str, how: Callable[[Any], Any]) -> None:
    error, _, _ = SAMPLES[name]

    copied = how(error)

    assert type(copied) is type(error)
    assert (str(copied), copied.args, vars(copied)) == (str(error), error.args, vars(error))


def test_every_error_has_a_sample() -> None:
    assert {*SAMPLES, "MongoDBSessionError"} == set(errors.__all__)


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_is_a_session_exception(name: str) -> None:
    kind = getattr(errors, name)

    assert issubclass(kind, MongoDBSessionError)
    assert issubclass(kind, SessionException)


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_is_at_the_front_door(name: str) -> None:
    assert getattr(mongodb_session_manager, name) is getattr(errors, name)
    assert name in mongodb_session_manager.__all__


@pytest.mark.parametrize(
    ("kind", "base"), [(kind, base) for base, kinds in ALSO.items() for kind in kinds], ids=lambda kind: kind.__name__
)
def test_an_error_can_be_caught_as_the_documents_promise(kind: type[Exception], base: type[Exception]) -> None:
    assert issubclass(kind, base)


@pytest.mark.parametrize(
    "kind", [SessionConflictError, SessionHeldError, SessionLockedError, SchemaVersionError, MongoDBSessionError]
)
def test_an_error_that_is_no_bad_argument_is_no_value_error(kind: type[Exception]) -> None:
    """Or ``except ValueError`` around bad input would swallow a conflict."""
    assert not issubclass(kind, ValueError | RuntimeError)


@pytest.mark.parametrize(("error", "named", "remedy"), SAMPLES.values(), ids=SAMPLES.keys())
def test_a_message_names_who_is_meant_and_the_remedy(
    error: MongoDBSessionError, named: list[object], remedy: str
) -> None:
    for value in named:
        assert repr(value) in str(error)
    assert remedy in str(error)


@pytest.mark.parametrize(("error", "named", "remedy"), SAMPLES.values(), ids=SAMPLES.keys())
def test_what_a_message_names_can_be_read_by_a_program(
    error: MongoDBSessionError, named: list[object], remedy: str
) -> None:
    attributes = vars(error).values()

    for value in named:
        assert value in attributes


@pytest.mark.parametrize(("error", "named", "remedy"), SAMPLES.values(), ids=SAMPLES.keys())
def test_a_message_is_one_line_without_content(error: MongoDBSessionError, named: list[object], remedy: str) -> None:
    assert "\n" not in str(error)
    assert "SECRET" not in str(error)


def test_a_conflict_hands_over_what_is_pending() -> None:
    pending = [PENDING]

    error = SessionConflictError(SESSION, AGENT, "moved.", pending)
    pending.clear()

    assert error.pending == [PENDING]
    assert SessionConflictError(SESSION, AGENT, "moved.").pending == []


def test_a_conflict_over_the_session_itself_names_no_agent() -> None:
    assert str(SessionConflictError(SESSION, None, "exists already.")) == f"Session {SESSION!r} exists already."


def test_a_session_that_is_too_large_by_itself_names_no_agent() -> None:
    assert "agent" not in str(SessionTooLargeError(SESSION, None))


def test_nothing_else_is_raised_from_here() -> None:
    own = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if kind.__module__ == errors.__name__]

    assert {kind.__name__ for kind in own} == set(errors.__all__)
