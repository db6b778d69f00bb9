"""Conversations that go on without their server: who waits, what is told, and when the rest goes out."""

import asyncio
import logging
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from typing import Any

import pytest
from pymongo import MongoClient, common
from pymongo.errors import PyMongoError
from strands import Agent, tool
from strands.multiagent import GraphBuilder

from mongodb_session_manager import MongoDBSessionError, MongoDBSessionManager
from mongodb_session_manager._client import outage as _outage
from mongodb_session_manager._history import group_commit as _group_commit
from mongodb_session_manager._schema.limits import Limits
from mongodb_session_manager.testing import CommandCounter, Mongod, Redaction, ScriptedModel
from tests.watching import eventually

every_durability = pytest.mark.parametrize("durability", ["sync", "async", "exit"])
Open = Callable[..., MongoDBSessionManager]


pytestmark = pytest.mark.limits(outage_pause=0.3, probe_timeout=0.5)


@pytest.fixture(autouse=True)
def quick_recovery(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "MIN_HEARTBEAT_INTERVAL", 0.02)


@pytest.fixture(scope="module")
def server() -> Iterator[Mongod]:
    with Mongod(parameters={"enableTestCommands": "1"}) as server:
        yield server


@pytest.fixture
def counter() -> CommandCounter:
    return CommandCounter()


@pytest.fixture
def client(server: Mongod, counter: CommandCounter) -> Iterator[MongoClient[dict[str, Any]]]:
    limits: dict[str, Any] = {"serverSelectionTimeoutMS": 300, "socketTimeoutMS": 300, "heartbeatFrequencyMS": 50}
    with MongoClient[dict[str, Any]](server.uri, tz_aware=True, event_listeners=[counter], **limits) as client:
        yield client


@pytest.fixture
def open_manager(client: MongoClient[dict[str, Any]], request: pytest.FixtureRequest, limits: Limits) -> Iterator[Open]:
    name = f"test_{abs(hash(request.node.name))}"
    with ExitStack() as stack:

        def make(session_id: str = "s-1", **options: Any) -> MongoDBSessionManager:
            given = {"on_error": "degrade", "_limits": limits, **options}
            manager = MongoDBSessionManager(session_id, client=client, database_name=name, **given)
            return stack.enter_context(closing(manager))

        yield make


def new_agent(manager: MongoDBSessionManager, *turns: Any, **options: Any) -> Agent:
    model = ScriptedModel(turns, default="Okay.")
    return Agent(model=model, session_manager=manager, callback_handler=None, **options)


@contextmanager
def frozen(server: Mongod) -> Iterator[None]:
    server.pause()
    try:
        yield
    finally:
        server.resume()


@contextmanager
def dead(server: Mongod) -> Iterator[None]:
    server.kill()
    try:
        yield
    finally:
        server.restart()


every_outage = pytest.mark.parametrize("away", [frozen, dead])


@contextmanager
def counting_waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Note who of the conversations waits for a write."""
    waits: list[str] = []
    flush = _group_commit.flush_off_loop

    async def noting(handle: Any, history: Any, *how: Any) -> None:
        waits.append(history.agent_id)
        await flush(handle, history, *how)

    with monkeypatch.context() as patch:
        patch.setattr("mongodb_session_manager._history.sending.flush_off_loop", noting)
        yield waits


@tool
def look_up(word: str) -> str:
    """Look a word up."""
    return word


CALL = {"toolUse": {"toolUseId": "t-1", "name": "look_up", "input": {"word": "kiwi"}}}


def new_graph(manager: MongoDBSessionManager) -> Any:
    builder = GraphBuilder()
    builder.add_node(Agent(model=ScriptedModel(default="Okay."), callback_handler=None), "node")
    builder.set_session_manager(manager)
    builder.set_graph_id("g")
    builder.set_max_node_executions(5)
    return builder.build()


def is_stored(manager: MongoDBSessionManager) -> bool:
    return manager.health == {"ok": True, "pending": 0, "last_error": None}


@every_durability
@every_outage
def test_only_the_first_turn_waits_and_all_goes_out_without_another(
    open_manager: Open,
    server: Mongod,
    monkeypatch: pytest.MonkeyPatch,
    away: Callable[[Mongod], Any],
    durability: str,
) -> None:
    manager = open_manager(durability=durability)
    agent = new_agent(manager, "Hello.", "First.", CALL, tools=[look_up])
    agent("Hi")

    with away(server):
        agent("One")
        with counting_waits(monkeypatch) as waits:
            agent("Two, with a tool")
            agent("Three")
        assert waits == []
        assert manager.health["ok"] is False
        assert manager.health["pending"] >= 6
        assert manager.health["last_error"]

    assert eventually(lambda: is_stored(manager))
    assert new_agent(open_manager()).messages == agent.messages


@every_outage
def test_one_looks_for_all_sessions_of_a_client(
    open_manager: Open, server: Mongod, away: Callable[[Mongod], Any]
) -> None:
    managers = [open_manager(f"s-{number}") for number in range(8)]
    agents = [new_agent(manager) for manager in managers]

    with away(server):
        for agent in agents * 2:
            agent("Hi")
        names = [thread.name for thread in threading.enumerate()]
        assert names.count(_outage.THREAD_NAME) == 1
        assert [manager.health["ok"] for manager in managers] == [False] * 8

    assert eventually(lambda: all(map(is_stored, managers)))
    assert eventually(lambda: _outage.THREAD_NAME not in {thread.name for thread in threading.enumerate()})
    assert [len(manager.list_messages("default")) for manager in managers] == [4] * 8


def test_a_server_that_goes_away_again_before_the_rest_is_sent(open_manager: Open, server: Mongod) -> None:
    managers = [open_manager(f"s-{number}") for number in range(3)]
    agents = [new_agent(manager) for manager in managers]

    for _ in range(3):
        with frozen(server):
            for agent in agents:
                agent("Hi")

    assert eventually(lambda: all(map(is_stored, managers)))
    for manager, agent in zip(managers, agents, strict=True):
        assert [message["content"] for message in manager.list_messages("default")] == [
            message["content"] for message in agent.messages
        ]


def test_a_server_that_is_no_primary_for_a_while(open_manager: Open, server: Mongod) -> None:
    manager = open_manager()
    agent = new_agent(manager)
    with MongoClient[dict[str, Any]](server.uri) as other:
        namespace = manager.session_repository.namespace
        data = {"failCommands": ["update"], "errorCode": 10107, "namespace": namespace}
        other.admin.command("configureFailPoint", "failCommand", mode="alwaysOn", data=data)
        agent("One")
        agent("Two")
        assert manager.health["pending"] == 4
        other.admin.command("configureFailPoint", "failCommand", mode="off")

    assert eventually(lambda: is_stored(manager))
    assert len(manager.list_messages("default")) == 4


@every_durability
def test_a_session_that_was_deleted_meanwhile(
    open_manager: Open, server: Mongod, caplog: pytest.LogCaptureFixture, durability: str
) -> None:
    manager = open_manager(durability=durability)
    agent = new_agent(manager)
    agent("Hi")
    collection = manager.session_repository.collection
    with MongoClient[dict[str, Any]](server.uri) as other:
        data = {"failCommands": ["update"], "errorCode": 10107, "namespace": collection.full_name}
        other.admin.command("configureFailPoint", "failCommand", mode="alwaysOn", data=data)
        agent("One")
        agent("Two")
        other[collection.database.name][collection.name].delete_one({"_id": "s-1"})
        other.admin.command("configureFailPoint", "failCommand", mode="off")

    assert eventually(lambda: manager.health["last_error"] == "SessionNotFoundError")
    assert manager.health == {"ok": False, "pending": 0, "last_error": "SessionNotFoundError"}
    told = [record.getMessage() for record in caplog.records if "deleted before" in record.getMessage()]
    assert told == [
        "session_id=<s-1>, agent_id=<default>, pending=<4>, error=<SessionNotFoundError> | deleted before these "
        "messages were stored, this agent writes no more"
    ]


@every_durability
def test_a_redaction_is_tried_at_once(
    open_manager: Open, server: Mongod, client: MongoClient[dict[str, Any]], durability: str
) -> None:
    manager = open_manager(durability=durability)
    agent = new_agent(manager, "One.", Redaction("[removed]"))
    agent("Hi")
    with dead(server):
        agent("Before")
    assert eventually(lambda: is_stored(manager))
    outage = _outage.outage_of(manager._stores.handle)
    outage._error = "NetworkTimeout"  # nobody has looked again yet

    manager.redact_latest_message({"role": "assistant", "content": [{"text": "[gone]"}]}, agent)

    assert manager.list_messages("default")[-1]["content"] == [{"text": "[gone]"}]


@pytest.mark.limits(pending=5)
def test_a_full_queue_still_raises(open_manager: Open, server: Mongod) -> None:
    manager = open_manager()
    agent = new_agent(manager)

    with dead(server):
        agent("One")
        agent("Two")
        with pytest.raises(MongoDBSessionError, match="5 changes"):
            agent("Three")

    assert eventually(lambda: is_stored(manager))


def test_opening_and_restoring_raise(open_manager: Open, server: Mongod) -> None:
    manager = open_manager()
    agent = new_agent(manager)
    open_manager("s-2").close()

    with dead(server):
        agent("One")
        with pytest.raises(PyMongoError):
            open_manager("s-2")
        with pytest.raises(PyMongoError):
            new_agent(manager, agent_id="another", messages=[{"role": "user", "content": [{"text": "Hi"}]}])
        with pytest.raises(PyMongoError):
            manager.flush()


def test_others_are_not_held_back(open_manager: Open, server: Mongod, counter: CommandCounter) -> None:
    raising, going_on = open_manager("s-1", on_error="raise"), open_manager("s-2")
    agents = [new_agent(raising), new_agent(going_on)]

    with dead(server):
        agents[1]("One")
        for _ in range(2):
            with pytest.raises(PyMongoError):
                agents[0]("One")


def test_a_graph_goes_on_and_is_stored_in_the_end(open_manager: Open, server: Mongod) -> None:
    manager = open_manager()
    graph = new_graph(manager)
    graph("One")

    with dead(server):
        graph("Two")
        graph("Three")

    def task() -> Any:
        stored = manager.session_repository.collection.find_one({"_id": "s-1"})
        return stored and stored["multi_agents"]["g"]["state"]["current_task"]

    assert eventually(lambda: task() == "Three")


@pytest.mark.limits(outage_pause=600.0)
def test_the_state_of_a_graph_is_sent_when_closing(open_manager: Open, server: Mongod) -> None:
    manager = open_manager()
    graph = new_graph(manager)
    graph("One")
    with dead(server):
        graph("Two")
        assert manager.health["pending"] == 1

    manager.close()

    stored = manager.session_repository.collection.find_one({"_id": "s-1"})
    assert stored is not None
    assert stored["multi_agents"]["g"]["state"]["current_task"] == "Two"


def test_what_was_closed_is_sent_no_more(
    open_manager: Open, server: Mongod, caplog: pytest.LogCaptureFixture, client: MongoClient[dict[str, Any]]
) -> None:
    manager = open_manager()
    agent = new_agent(manager)
    with dead(server), caplog.at_level(logging.WARNING):
        agent("One")
        agent("Two")
        manager.close()
    assert "pending=<4>" in caplog.text
    assert "closed with changes that are not stored" in caplog.text

    assert eventually(lambda: _outage.THREAD_NAME not in {thread.name for thread in threading.enumerate()})
    with nullcontext(open_manager()) as later:
        assert new_agent(later).messages == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_child_sends_nothing_of_it(open_manager: Open, server: Mongod) -> None:
    manager = open_manager()
    agent = new_agent(manager)
    with dead(server):
        agent("One")
        pid = os.fork()
        if pid == 0:
            outage = _outage.outage_of(manager._stores.handle)
            os._exit(0 if not outage.is_on and outage._thread is None else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        agent("Two")

    assert eventually(lambda: is_stored(manager))
    assert len(manager.list_messages("default")) == 4


ENDING = """
    import logging, sys
    from strands import Agent
    from mongodb_session_manager import MongoDBSessionManager
    from mongodb_session_manager.testing import ScriptedModel

    manager = MongoDBSessionManager("s-1", sys.argv[1], "ending", on_error="degrade", timeoutMS=1000)
    agent = Agent(model=ScriptedModel(default="Okay."), session_manager=manager, callback_handler=None)
    print("ready", flush=True)
    sys.stdin.readline()
    agent("One")
    agent("Two")
    if sys.argv[2] == "close":
        manager.close()
"""


@pytest.mark.parametrize("how", ["close", "exit"])
def test_the_end_of_the_interpreter_is_bounded_and_tells(server: Mongod, how: str) -> None:
    code = [sys.executable, "-c", textwrap.dedent(ENDING), server.uri, how]
    with subprocess.Popen(code, stdin=-1, stdout=-1, stderr=-1, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        server.pause()
        try:
            _, told = child.communicate("go\n", timeout=20)
        finally:
            server.resume()

    assert child.returncode == 0
    assert "pending=<4>" in told
    assert "that are not stored" in told


async def test_many_at_once_on_one_loop(open_manager: Open, server: Mongod) -> None:
    managers = [open_manager(f"s-{number}") for number in range(5)]
    agents = [new_agent(manager) for manager in managers]

    with frozen(server):
        await asyncio.gather(*(agent.invoke_async("One") for agent in agents))
        await asyncio.gather(*(agent.invoke_async("Two") for agent in agents))

    assert await asyncio.to_thread(lambda: eventually(lambda: all(map(is_stored, managers))))
    assert [len(manager.list_messages("default")) for manager in managers] == [4] * 5
