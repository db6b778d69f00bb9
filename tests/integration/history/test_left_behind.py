"""What becomes of histories whose managers were dropped after a failed turn."""

import gc
import logging
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from mongodb_session_manager import MongoDBSessionManager, SessionConflictError
from mongodb_session_manager._history.unsent import ALL_UNSENT, flush_unsent
from tests.aliases import Failing, History, NewAgent
from tests.talking import user
from tests.watching import eventually

Drop = Callable[..., None]
SECRET = "my number is 555-0199"


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Other tests' histories are none of ours."""
    gc.collect()
    for history in ALL_UNSENT:
        history.give_up()
    ALL_UNSENT.reset()  # and nobody sleeps until what those had left is too old
    yield
    for history in ALL_UNSENT:
        history.give_up()
    ALL_UNSENT.reset()


@pytest.fixture
def drop(mongo_client: MongoClient[dict[str, Any]], database: str, new_agent: NewAgent, failing: Failing) -> Drop:
    """Have a turn fail, and drop whoever has said it."""

    def drop(session_id: str = "s-1", said: str = SECRET) -> None:
        manager = MongoDBSessionManager(session_id, client=mongo_client, database_name=database)
        agent = new_agent(manager)
        with failing("update", errorCode=13), pytest.raises(OperationFailure):
            agent(said)
        del manager, agent
        gc.collect()

    return drop


def settled(condition: Callable[[], object], *seconds: float) -> bool:
    """Wait until it holds; threads that have just ended may have held the manager when it was dropped."""
    return eventually(lambda: bool((gc.collect(), condition())[1]), *seconds)


def open_manager(client: MongoClient[dict[str, Any]], database: str, session_id: str = "s-1") -> MongoDBSessionManager:
    return MongoDBSessionManager(session_id, client=client, database_name=database)


def left() -> list[Any]:
    return list(ALL_UNSENT)


def test_it_is_sent_in_the_end(drop: Drop, history: History) -> None:
    drop()
    assert len(left()) == 1

    flush_unsent()

    assert [message["content"] for message in history()] == [[{"text": SECRET}]]
    assert left() == []


def test_it_is_never_sent_when_the_user_has_asked_again(
    drop: Drop,
    mongo_client: MongoClient[dict[str, Any]],
    database: str,
    new_agent: NewAgent,
    history: History,
    caplog: pytest.LogCaptureFixture,
) -> None:
    drop()
    assert settled(lambda: ALL_UNSENT._left)

    with caplog.at_level(logging.WARNING), open_manager(mongo_client, database) as manager:
        agent = new_agent(manager)
        agent("Again")

    assert left() == []
    flush_unsent()
    assert history() == agent.messages
    told = [record.getMessage() for record in caplog.records if "given up" in record.getMessage()]
    assert len(told) == 1
    assert "session_id=<s-1>, agent_id=<default>, messages=<1>" in told[0]
    assert SECRET not in caplog.text


@pytest.mark.parametrize("dropped", [True, False])
def test_a_redaction_that_is_lost_with_it_is_told(
    mongo_client: MongoClient[dict[str, Any]],
    database: str,
    new_agent: NewAgent,
    failing: Failing,
    caplog: pytest.LogCaptureFixture,
    dropped: bool,
) -> None:
    manager = open_manager(mongo_client, database)
    agent = new_agent(manager, SECRET)
    agent("Hi")
    with failing("update", errorCode=13), pytest.raises(OperationFailure):
        manager.redact_latest_message(user("[removed]"), agent)
    if dropped:
        del manager, agent
        assert settled(lambda: ALL_UNSENT._left)

    with open_manager(mongo_client, database) as other:
        new_agent(other)("Again")
    if not dropped:
        with pytest.raises(SessionConflictError, match=r"1 redaction\(s\) failed: the original is still stored"):
            manager.flush()

    told = [record for record in caplog.records if "original is still stored" in record.getMessage()]
    assert [record.levelname for record in told] == ["ERROR"]
    assert "session_id=<s-1>, agent_id=<default>, redactions=<1>" in told[0].getMessage()
    assert SECRET not in caplog.text


def test_the_newer_one_goes_first_when_both_wait(
    drop: Drop, history: History, caplog: pytest.LogCaptureFixture
) -> None:
    drop(said="One")
    drop(said="Two")

    flush_unsent()

    assert [message["content"] for message in history()] == [[{"text": "Two"}]]
    assert "messages=<1>" in caplog.text


def test_another_session_or_agent_passes_nobody(
    drop: Drop, mongo_client: MongoClient[dict[str, Any]], database: str, new_agent: NewAgent, history: History
) -> None:
    drop("s-1")

    with open_manager(mongo_client, database, "s-2") as manager:
        new_agent(manager)("Hi")
    with open_manager(mongo_client, database, "s-1") as manager:
        new_agent(manager, agent_id="another")("Hi")
    flush_unsent()

    assert len(history("s-1")) == 1


def test_only_so_many_are_kept(drop: Drop, caplog: pytest.LogCaptureFixture) -> None:
    ALL_UNSENT.reset(most=2)

    for number in range(4):
        drop(f"s-{number}")
        assert settled(lambda: not ALL_UNSENT._left or left())

    assert settled(lambda: len(left()) == 2)
    assert settled(lambda: caplog.text.count("given up") == 2)
    assert SECRET not in caplog.text


def test_only_so_long_and_with_them_goes_the_client(
    mongodb_uri: str, database: str, new_agent: NewAgent, failing: Failing
) -> None:
    ALL_UNSENT.reset(seconds=0.2)
    manager = MongoDBSessionManager("s-1", mongodb_uri, database)
    handle = manager._stores.handle
    agent = new_agent(manager)
    with failing("update", errorCode=13), pytest.raises(OperationFailure):
        agent("Hi")
    del agent

    assert not settled(lambda: not left(), 0.6), "a living manager holds it"
    del manager
    gc.collect()

    def is_gone() -> bool:
        gc.collect()
        return not left() and handle.closed

    assert eventually(is_gone)


def test_what_is_left_keeps_its_client(
    mongodb_uri: str, database: str, new_agent: NewAgent, failing: Failing, history: History
) -> None:
    manager = MongoDBSessionManager("s-1", mongodb_uri, database)
    handle = manager._stores.handle
    agent = new_agent(manager)
    with failing("update", errorCode=13), pytest.raises(OperationFailure):
        agent("Hi")
    del agent, manager
    gc.collect()

    assert not settled(lambda: handle.closed, 0.3)
    flush_unsent()
    assert len(history("s-1")) == 1
    assert eventually(lambda: gc.collect() >= 0 and handle.closed)


def test_a_living_manager_is_not_given_up(
    mongo_client: MongoClient[dict[str, Any]], database: str, new_agent: NewAgent, failing: Failing, history: History
) -> None:
    manager = open_manager(mongo_client, database)
    agent = new_agent(manager)
    with failing("update", errorCode=13), pytest.raises(OperationFailure):
        agent("One")
    del agent
    gc.collect()

    ALL_UNSENT._look()
    assert manager.health["pending"] == 1
    manager.close()

    assert len(history()) == 1


ENDING = """
    import logging, sys
    from pymongo import MongoClient
    from strands import Agent
    from mongodb_session_manager import MongoDBSessionManager
    from mongodb_session_manager.testing import ScriptedModel

    client = MongoClient(sys.argv[1])

    def ask(text, fails):
        manager = MongoDBSessionManager("s-1", client=client, database_name=sys.argv[2])
        agent = Agent(model=ScriptedModel(default="Okay."), session_manager=manager, callback_handler=None)
        if fails:
            data = {"failCommands": ["update"], "errorCode": 13, "namespace": sys.argv[2] + ".agent_sessions"}
            client.admin.command("configureFailPoint", "failCommand", mode="alwaysOn", data=data)
        try:
            agent(text)
        except Exception:
            pass
        client.admin.command("configureFailPoint", "failCommand", mode="off")

    ask("One", fails=True)
    ask("Two", fails=False)
"""


def test_the_end_of_the_interpreter(mongodb_uri: str, database: str, history: History) -> None:
    code = [sys.executable, "-c", textwrap.dedent(ENDING), mongodb_uri, database]
    ended = subprocess.run(code, capture_output=True, text=True, timeout=60, env={**os.environ}, check=True)

    assert [message["content"][0]["text"] for message in history()] == ["Two", "Okay."]
    assert ended.stderr.count("given up") == 1
