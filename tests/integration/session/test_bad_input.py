"""What cannot work is refused early, in words that say what to do, and nothing is written of it."""

import copy
import socket
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any, cast

import pytest
from pymongo import MongoClient
from pymongo.errors import ConfigurationError, ServerSelectionTimeoutError
from strands import tool
from strands.types.content import Message
from strands.types.session import Session, SessionAgent, SessionMessage, SessionType

from mongodb_session_manager import MongoDBSessionManager
from mongodb_session_manager.errors import SchemaVersionError, SessionTooLargeError, UnstorableValueError
from mongodb_session_manager.testing import CommandCounter
from tests.aliases import History, NewAgent, NewManager, Stored
from tests.talking import texts, without_ids

BAD = {"toolUse": {"toolUseId": "t-1", "name": "bad_tool", "input": {}}}


@tool
def bad_tool() -> dict[str, Any]:
    """Give back what JSON does not know."""
    return {"status": "success", "content": [{"json": {"seen": {"a", "b"}}}]}


def user(block: Any) -> Message:
    return cast(Message, {"role": "user", "content": [block]})


# Ids, and times


@pytest.mark.parametrize("session_id", [None, 7, b"s-1", ["s-1"], {"$ne": None}, {"$gt": ""}])
def test_session_ids_of_a_wrong_type(new_manager: NewManager, command_counter: CommandCounter, session_id: Any) -> None:
    with pytest.raises(TypeError, match="session_id"):
        new_manager(session_id)

    assert command_counter.commands == []


@pytest.mark.parametrize("session_id", ["", "a\0b", "\0", "x" * 1025, "é" * 513, "\ud800"])
def test_session_ids_that_are_not_fit(
    new_manager: NewManager, command_counter: CommandCounter, session_id: str
) -> None:
    with pytest.raises(ValueError, match="session_id"):
        new_manager(session_id)

    assert command_counter.commands == []


@pytest.mark.parametrize("agent_id", ["a\0b", "x" * 1025])
def test_agent_ids_that_are_not_fit(
    new_manager: NewManager, new_agent: NewAgent, command_counter: CommandCounter, agent_id: str
) -> None:
    manager = new_manager()

    with command_counter.counting() as log, pytest.raises(ValueError, match="agent_id"):
        new_agent(manager, agent_id=agent_id)

    assert log.commands == []


@pytest.mark.parametrize("at", ["yesterday", "", 7, None])
@pytest.mark.parametrize(
    ("place", "create"),
    [
        ("Session 's-2'", lambda r, at: r.create_session(Session("s-2", SessionType.AGENT, created_at=at))),
        ("Session 's-2'", lambda r, at: r.create_session(Session("s-2", SessionType.AGENT, updated_at=at))),
        ("Agent 'b' of session 's-1'", lambda r, at: r.create_agent("s-1", SessionAgent("b", {}, {}, created_at=at))),
        (
            "Agent 'a' of session 's-1', message 0",
            lambda r, at: r.create_message("s-1", "a", SessionMessage(user({"text": "Hi"}), 0, created_at=at)),
        ),
    ],
    ids=["session", "session's update", "agent", "message"],
)
def test_what_is_no_time(
    new_manager: NewManager, command_counter: CommandCounter, place: str, create: Callable[..., None], at: Any
) -> None:
    repository = new_manager().session_repository

    with command_counter.counting() as log, pytest.raises(ValueError, match=f"^{place}.*(cre|upd)ated_at .*ISO 8601"):
        create(repository, at)

    assert log.commands == []


# Where to connect


@pytest.mark.parametrize("arguments", [{}, {"connection_string": None}, {"connection_string": ""}])
def test_neither_a_connection_string_nor_a_client(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"connection_string=.*client="):
        MongoDBSessionManager("s-1", **arguments)


@pytest.mark.parametrize("option", ["maxPoolSiez", "session_manager", "retrywrite"])
def test_an_option_that_nobody_knows(option: str) -> None:
    with pytest.raises(ConfigurationError, match=f"(?i){option}"):
        MongoDBSessionManager("s-1", "mongodb://127.0.0.1:1", **cast(Any, {option: 3}))


def test_an_option_of_a_wrong_value() -> None:
    with pytest.raises((TypeError, ValueError), match=r"(?i)maxPoolSize"):
        MongoDBSessionManager("s-1", "mongodb://127.0.0.1:1", maxPoolSize=cast(Any, "many"))


@pytest.mark.parametrize("connection_string", ["http://localhost", "mongodb://"])
def test_something_that_is_no_connection_string(connection_string: str) -> None:
    with pytest.raises(ConfigurationError):
        MongoDBSessionManager("s-1", connection_string)


def test_client_options_beside_a_client(
    mongo_client: MongoClient[dict[str, Any]], command_counter: CommandCounter
) -> None:
    with pytest.raises(TypeError, match="maxPoolSize"):
        MongoDBSessionManager("s-1", client=mongo_client, maxPoolSize=3)

    assert command_counter.commands == []


def test_a_connection_string_beside_a_client_is_ignored(
    mongo_client: MongoClient[dict[str, Any]], database: str, stored: Callable[[], Any]
) -> None:
    with (
        pytest.warns(UserWarning, match="client=") as caught,
        MongoDBSessionManager("s-1", "mongodb://127.0.0.1:1", database, client=mongo_client),
    ):
        pass

    assert [warning.filename for warning in caught] == [__file__]

    assert stored() is not None


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port on which somebody listens who never says a word."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


@pytest.mark.parametrize("port_of", ["nobodys_port", "silent_port"])
def test_a_server_that_is_not_there(request: pytest.FixtureRequest, port_of: str) -> None:
    port = request.getfixturevalue(port_of)
    started = time.monotonic()

    with pytest.raises(ServerSelectionTimeoutError) as caught:
        MongoDBSessionManager("s-1", f"mongodb://user:s3cret@127.0.0.1:{port}", serverSelectionTimeoutMS=300)

    assert time.monotonic() - started < 3
    assert "s3cret" not in f"{caught.value} {caught.value.__notes__}"


def test_the_timeout_may_be_in_the_connection_string(nobodys_port: int) -> None:
    started = time.monotonic()

    with pytest.raises(ServerSelectionTimeoutError):
        MongoDBSessionManager("s-1", f"mongodb://127.0.0.1:{nobodys_port}/?serverSelectionTimeoutMS=300")

    assert time.monotonic() - started < 3


# Versions


@pytest.mark.parametrize("version", [3, 99, 2.5, "next"])
def test_a_session_of_a_newer_version_is_left_alone(
    new_manager: NewManager,
    observer: MongoClient[dict[str, Any]],
    database: str,
    stored: Callable[[], Any],
    version: Any,
) -> None:
    document = {"_id": "s-1", "schema_version": version, "agents": {}, "something": ["new"]}
    observer[database]["agent_sessions"].insert_one(document)

    with pytest.raises(SchemaVersionError, match=r"'s-1'.*Upgrade"):
        new_manager()

    assert stored() == document


# Messages


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({1, 2}, r"content\[0\]\.toolResult\.content\[0\]\.json\.value"),
        ({"deep": [0, {"er": Decimal("1.5")}]}, r"content\[0\]\.toolResult\.content\[0\]\.json\.value\.deep\[1\]\.er"),
        ({b"1": "one"}, r"content\[0\]\.toolResult\.content\[0\]\.json\.value"),
        (object(), r"content\[0\]\.toolResult\.content\[0\]\.json\.value"),
    ],
)
def test_a_message_that_would_not_come_back_equal(
    new_manager: NewManager,
    new_agent: NewAgent,
    command_counter: CommandCounter,
    value: Any,
    path: str,
) -> None:
    manager = new_manager()
    agent = new_agent(manager, messages=[user({"text": "Hi"})])
    message = user({"toolResult": {"toolUseId": "t", "status": "success", "content": [{"json": {"value": value}}]}})

    with (
        command_counter.counting() as log,
        pytest.raises(UnstorableValueError, match=rf"'default' of session 's-1', message 1\.{path}"),
    ):
        manager.append_message(message, agent)

    assert log.commands == []


def test_a_refused_message_is_not_in_the_way(new_manager: NewManager, new_agent: NewAgent, history: History) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    with pytest.raises(UnstorableValueError):
        manager.append_message(user({"text": {1, 2}}), agent)

    manager.append_message(user({"text": "Hi"}), agent)

    assert without_ids(history()) == [user({"text": "Hi"})]


def test_a_tool_result_that_would_not_come_back_equal(
    new_manager: NewManager, new_agent: NewAgent, history: History
) -> None:
    agent = new_agent(new_manager(), BAD, tools=[bad_tool])

    with pytest.raises(UnstorableValueError, match=r"'default' of session 's-1', message 2\..*\.json\.seen"):
        agent("Use the tool")

    assert history() == agent.messages[:2]


def test_a_redaction_that_would_not_come_back_equal(
    new_manager: NewManager, new_agent: NewAgent, history: History, command_counter: CommandCounter
) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    manager.append_message(user({"text": "Hi"}), agent)

    with command_counter.counting() as log, pytest.raises(UnstorableValueError):
        manager.redact_latest_message(user({"text": {1, 2}}), agent)

    assert log.writes == 0
    assert without_ids(history()) == [user({"text": "Hi"})]


def test_initial_messages_that_would_not_come_back_equal(
    new_manager: NewManager, new_agent: NewAgent, command_counter: CommandCounter
) -> None:
    manager = new_manager()

    with command_counter.counting() as log, pytest.raises(UnstorableValueError, match="message 0"):
        new_agent(manager, messages=[user({"text": {1, 2}})])

    assert log.commands == []


def heavy(size: int) -> Message:
    """A message that cannot be offloaded: what measures it stays with it."""
    message = user({"text": "Hi"})
    message["metadata"] = {"custom": {"large": "x" * size}}
    return message


@pytest.mark.parametrize("size", [17_000_000, 60_000_000])
def test_a_message_that_is_too_large(
    new_manager: NewManager, new_agent: NewAgent, command_counter: CommandCounter, size: int
) -> None:
    manager = new_manager()
    agent = new_agent(manager)

    with command_counter.counting() as log, pytest.raises(SessionTooLargeError, match="'s-1'") as caught:
        manager.append_message(heavy(size), agent)

    assert log.commands == []
    assert (caught.value.agent_id, caught.value.message_id) == ("default", 0)
    assert size < (caught.value.size or 0) < size + 1000
    assert f"{caught.value.size} bytes" in str(caught.value)


def test_a_message_that_is_too_large_is_not_in_the_way(
    new_manager: NewManager, new_agent: NewAgent, history: History
) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    with pytest.raises(SessionTooLargeError):
        manager.append_message(heavy(17_000_000), agent)

    manager.append_message(user({"text": "Hi"}), agent)

    assert without_ids(history()) == [user({"text": "Hi"})]


# What an agent could not be restored with
INCOMPLETE: list[Any] = [
    None,
    "Hi",
    {"content": [{"text": "Hi"}]},
    {"role": "user"},
    {"role": "user", "content": None},
    {"role": "user", "content": ["Hi"]},
    {"role": "user", "content": {"text": "Hi"}},
    {"role": None, "content": [{"text": "Hi"}]},
]


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("message", INCOMPLETE, ids=str)
def test_a_new_agent_does_not_begin_with_what_is_no_message(
    new_manager: NewManager, new_agent: NewAgent, stored: Stored, message: Any, ahead: bool
) -> None:
    manager = new_manager()
    if ahead:
        manager.prefetch(["default"])

    with pytest.raises(UnstorableValueError, match="'default' of session 's-1', message 1 cannot be stored: a message"):
        new_agent(manager, messages=[{"role": "user", "content": [{"text": "Hi"}]}, copy.deepcopy(message)])

    assert not stored().get("agents")


@pytest.mark.parametrize(
    "prompt", [{"role": "user", "content": ["Hi"]}, {"role": None, "content": [{"text": "Hi"}]}], ids=str
)
def test_a_prompt_that_is_no_message_does_not_shut_the_session(
    new_manager: NewManager, new_agent: NewAgent, prompt: Any
) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    agent("Hi")

    with pytest.raises(UnstorableValueError, match="message 2 cannot be stored: a message"):
        agent([prompt])
    agent.messages.pop(2)
    agent("Again")

    assert texts(new_agent(new_manager()).messages) == ["Hi", "Okay.", "Again", "Okay."]
