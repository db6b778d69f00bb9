"""A holder that lives keeps its lease, however long a tool runs; one that is gone loses it."""

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import mongomock
import pytest
from pymongo import MongoClient
from strands import Agent, tool
from strands.agent.conversation_manager import NullConversationManager
from strands.bidi import BidiAgent
from strands.hooks import AfterInvocationEvent, BeforeInvocationEvent
from strands.multiagent import GraphBuilder
from strands.types.agent import ConcurrentInvocationMode
from strands.types.content import Message

from mongodb_session_manager import MongoDBSessionManager, SessionLockedError
from mongodb_session_manager._client import heartbeat as _heartbeat
from mongodb_session_manager.testing import CommandCounter, ScriptedModel
from tests.aliases import Failing, NewAgent, NewManager, Stored
from tests.speaking import SpokenModel, text
from tests.talking import texts
from tests.watching import eventually, until

SHORT: dict[str, Any] = {"exclusive": True, "lease_timeout": 0, "lease_duration": 0.6}


WORK: dict[str, Any] = {"toolUse": {"toolUseId": "t-1", "name": "work", "input": {}}}


class Work:
    """A tool that runs until it is told to end."""

    def __init__(self) -> None:
        self.begun, self.ends = threading.Event(), threading.Event()

        @tool
        def work() -> str:
            """Work for a long time."""
            self.begun.set()
            assert self.ends.wait(30)
            return "done"

        self.tool = work

    def begin(self, agent: Agent) -> threading.Thread:
        thread = threading.Thread(target=agent, args=("Hi",))
        thread.start()
        assert self.begun.wait(10)
        return thread


@pytest.fixture
def work() -> Any:
    work = Work()
    yield work
    work.ends.set()


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == _heartbeat.THREAD_NAME]


def worker(new_agent: NewAgent, manager: MongoDBSessionManager, work: Work, **options: Any) -> Agent:
    return new_agent(manager, WORK, tools=[work.tool], **options)


def test_a_tool_that_runs_longer_than_the_lease(
    new_manager: NewManager, new_agent: NewAgent, stored: Stored, work: Work, history: Callable[..., list[Message]]
) -> None:
    manager = new_manager(**SHORT)
    agent = worker(new_agent, manager, work)
    turn = work.begin(agent)
    owner = stored()["lease"]["owner"]

    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        with pytest.raises(SessionLockedError):
            new_manager(**SHORT)
        time.sleep(0.05)

    assert stored()["lease"]["owner"] == owner
    work.ends.set()
    turn.join()
    assert texts(history()) == texts(agent.messages)
    assert len(history()) == 4


async def test_a_tool_in_an_event_loop(new_manager: NewManager, new_agent: NewAgent, stored: Stored) -> None:
    @tool
    async def work() -> str:
        """Work for a long time."""
        await asyncio.sleep(1.5)
        return "done"

    manager = new_manager(**SHORT)
    agent = new_agent(manager, WORK, tools=[work])
    turn = asyncio.create_task(agent.invoke_async("Hi"))
    await asyncio.sleep(1.2)
    with pytest.raises(SessionLockedError):
        await asyncio.to_thread(new_manager, **SHORT)
    await turn
    assert len(manager.list_messages("default")) == 4


def test_a_graph_that_runs_longer_than_the_lease(new_manager: NewManager, work: Work, stored: Stored) -> None:
    manager = new_manager(**SHORT)
    node = Agent(name="a", model=ScriptedModel([WORK], default="Okay."), tools=[work.tool], callback_handler=None)
    builder = GraphBuilder()
    builder.add_node(node, "a")
    builder.set_session_manager(manager)
    builder.set_max_node_executions(3)
    graph = builder.build()
    turn = work.begin(graph)  # type: ignore[arg-type]
    time.sleep(1)
    with pytest.raises(SessionLockedError):
        new_manager(**SHORT)
    work.ends.set()
    turn.join()
    assert not manager._is_at_work()


def test_a_tool_that_is_called_directly(
    new_manager: NewManager, new_agent: NewAgent, work: Work, history: Callable[..., list[Message]]
) -> None:
    manager = new_manager(**SHORT)
    agent = worker(new_agent, manager, work)
    call = work.begin(lambda _: agent.tool.work())  # type: ignore[arg-type]
    time.sleep(1)
    with pytest.raises(SessionLockedError):
        new_manager(**SHORT)
    work.ends.set()
    call.join()
    assert len(history()) == 4
    assert eventually(lambda: not threads())


class Refusing(NullConversationManager):
    """A conversation manager that fails at the end of each invocation."""

    def apply_management(self, agent: Agent, **kwargs: Any) -> None:
        raise RuntimeError("no")


def fail(event: BeforeInvocationEvent) -> None:
    raise RuntimeError("no")


@pytest.mark.parametrize("mode", list(ConcurrentInvocationMode))
@pytest.mark.parametrize("options", [{"conversation_manager": Refusing()}, {"hooks": [fail]}])
def test_an_invocation_that_ends_without_an_event(
    new_manager: NewManager, new_agent: NewAgent, options: dict[str, Any], mode: ConcurrentInvocationMode
) -> None:
    manager = new_manager(**SHORT)
    agent = new_agent(manager, concurrent_invocation_mode=mode, **options)
    with pytest.raises(RuntimeError, match="no"):
        agent("Hi")
    if mode is ConcurrentInvocationMode.THROW:
        assert not manager._is_at_work()
        assert eventually(lambda: not threads())
        time.sleep(0.7)
        new_manager(**SHORT)
    else:  # nothing tells that it has ended: it holds the lease until it is dropped
        assert manager._is_at_work()
        del agent
        gc.collect()
        assert not manager._is_at_work()


def test_a_callback_at_the_end_that_runs_longer_than_the_lease(
    new_manager: NewManager, new_agent: NewAgent, stored: Stored
) -> None:
    agent = new_agent(new_manager(**SHORT))

    def evaluate(event: AfterInvocationEvent) -> None:
        deadline = time.monotonic() + 1.5
        while time.monotonic() < deadline:
            with pytest.raises(SessionLockedError):
                new_manager(**SHORT)
            time.sleep(0.05)
        event.agent.state.set("grade", "good")

    agent.add_hook(evaluate)
    agent("Hi")

    assert stored()["agents"]["default"]["agent_data"]["state"] == {"grade": "good"}


def test_one_whose_callback_at_the_end_raised_is_idle(new_manager: NewManager, new_agent: NewAgent) -> None:
    agent = new_agent(new_manager(**SHORT))

    def fail(event: AfterInvocationEvent) -> None:
        raise RuntimeError("mine")

    agent.add_hook(fail)
    with pytest.raises(RuntimeError, match="mine"):
        agent("Hi")

    assert eventually(lambda: not threads())


def test_an_idle_holder_loses_it(new_manager: NewManager, new_agent: NewAgent, command_counter: CommandCounter) -> None:
    manager = new_manager(**SHORT)
    new_agent(manager)("Hi")
    assert eventually(lambda: not threads())

    with command_counter.counting() as log:
        time.sleep(0.7)
    assert log.names == []
    new_manager(**SHORT)


def test_one_that_was_dropped_loses_it(
    mongo_client: MongoClient[dict[str, Any]], database: str, new_manager: NewManager, new_agent: NewAgent
) -> None:
    manager = MongoDBSessionManager("s-1", client=mongo_client, database_name=database, **SHORT)
    agent = new_agent(manager)
    assert agent._concurrency.try_acquire_lock()
    manager._show_life()
    assert threads()
    del manager, agent
    gc.collect()

    assert eventually(lambda: not threads())
    time.sleep(0.7)
    new_manager(**SHORT)


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs signals")
def test_one_that_hangs_loses_it(mongodb_uri: str, database: str, new_manager: NewManager, stored: Stored) -> None:
    script = (
        "import sys, time\nfrom strands import Agent, tool\n"
        "from mongodb_session_manager import MongoDBSessionManager\n"
        "from mongodb_session_manager.testing import ScriptedModel\n"
        "@tool\ndef work() -> str:\n    'Work.'\n    print('working', flush=True)\n    time.sleep(60)\n    return ''\n"
        "manager = MongoDBSessionManager('s-1', sys.argv[1], sys.argv[2], exclusive=True, lease_duration=1)\n"
        "turn = {'toolUse': {'toolUseId': 't', 'name': 'work', 'input': {}}}\n"
        "Agent(model=ScriptedModel([turn]), tools=[work], session_manager=manager, callback_handler=None)('Hi')"
    )
    words = [sys.executable, "-c", script, mongodb_uri, database]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "working\n"
            time.sleep(1.5)
            with pytest.raises(SessionLockedError):
                new_manager(**SHORT)
            process.send_signal(signal.SIGSTOP)
            new_manager(exclusive=True, lease_timeout=10)
        finally:
            process.kill()


def test_no_beat_while_writes_renew(
    new_manager: NewManager, new_agent: NewAgent, command_counter: CommandCounter
) -> None:
    manager = new_manager(exclusive=True)
    agent = new_agent(manager)

    with command_counter.counting() as log:
        for _ in range(5):
            agent("Hi")

    assert log.names == ["update"] * 10


def test_a_lease_for_a_hundred_years(new_manager: NewManager, new_agent: NewAgent, work: Work) -> None:
    manager = new_manager(exclusive=True, lease_duration=36_500 * 86_400)
    turn = work.begin(worker(new_agent, manager, work))
    time.sleep(0.1)
    assert len(threads()) == 1
    work.ends.set()
    turn.join()


def test_it_is_one_update_that_names_the_owner(
    new_manager: NewManager, new_agent: NewAgent, command_counter: CommandCounter, stored: Stored, work: Work
) -> None:
    manager = new_manager(**SHORT)
    turn = work.begin(worker(new_agent, manager, work))
    owner = stored()["lease"]["owner"]

    with command_counter.counting() as log:
        assert eventually(lambda: len(log.names) >= 2)

    (update,) = log.commands[0].document["updates"]
    assert update["q"] == {"_id": "s-1", "lease.owner": owner}
    assert list(update["u"]) == ["$set"]
    assert list(update["u"]["$set"]) == ["lease.expires_at"]
    work.ends.set()
    turn.join()


def test_what_somebody_else_took_is_not_renewed(
    new_manager: NewManager,
    new_agent: NewAgent,
    observer: MongoClient[dict[str, Any]],
    database: str,
    stored: Stored,
    work: Work,
) -> None:
    manager = new_manager(**SHORT)
    agent = worker(new_agent, manager, work)
    outcome: list[BaseException] = []

    def talk(prompt: str) -> None:
        try:
            agent(prompt)
        except SessionLockedError as error:
            outcome.append(error)

    turn = work.begin(talk)  # type: ignore[arg-type]
    theirs = {**stored()["lease"], "owner": "theirs"}
    observer[database].agent_sessions.update_one({"_id": "s-1"}, {"$set": {"lease": theirs}})

    assert eventually(lambda: not threads())
    assert stored()["lease"] == theirs
    work.ends.set()
    turn.join()
    assert len(outcome) == 1


def test_a_beat_that_fails_is_tried_again(
    new_manager: NewManager, new_agent: NewAgent, failing: Failing, work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    manager = new_manager(**{**SHORT, "lease_duration": 1.5})
    turn = work.begin(worker(new_agent, manager, work))
    with failing("update", mode={"times": 1}, errorCode=13) as met:
        time.sleep(2.5)
    assert met == [1]
    with pytest.raises(SessionLockedError):
        new_manager(**SHORT)
    work.ends.set()
    turn.join()


def test_one_thread_for_all_sessions_which_ends_with_the_last(
    new_manager: NewManager, new_agent: NewAgent, stored: Stored
) -> None:
    works = [Work() for _ in range(5)]
    managers = [new_manager(f"s-{number}", **SHORT) for number in range(5)]
    turns = [one.begin(worker(new_agent, manager, one)) for one, manager in zip(works, managers, strict=True)]
    time.sleep(1)
    assert len(threads()) == 1
    for number in range(5):
        with pytest.raises(SessionLockedError):
            new_manager(f"s-{number}", **SHORT)
    for one, turn in zip(works, turns, strict=True):
        one.ends.set()
        turn.join()
    assert eventually(lambda: not threads())


def test_a_manager_that_is_closed_in_mid_turn_stops(
    new_manager: NewManager, new_agent: NewAgent, stored: Stored, work: Work
) -> None:
    manager = new_manager(**SHORT)
    agent = worker(new_agent, manager, work)
    turn = work.begin(lambda prompt: _quietly(agent, prompt))  # type: ignore[arg-type]
    manager.close()
    assert eventually(lambda: not threads())
    assert "lease" not in stored()
    work.ends.set()
    turn.join()


def _quietly(agent: Agent, prompt: str) -> None:
    try:
        agent(prompt)
    except Exception:  # noqa: BLE001 - its manager is closed
        return


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork()")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_forked_child_has_none_until_it_opens_a_session(
    mongodb_uri: str, database: str, new_manager: NewManager, new_agent: NewAgent, work: Work
) -> None:
    manager = new_manager(**SHORT)
    turn = work.begin(worker(new_agent, manager, work))
    assert threads()
    child = os.fork()
    if not child:
        code = 1
        try:
            manager._show_life()
            none = not threads() and not list(_heartbeat._heart._heartbeats)
            with MongoDBSessionManager("s-2", mongodb_uri, database, **SHORT) as own:
                agent = new_agent(own)
                agent._concurrency.try_acquire_lock()
                own._show_life()
                time.sleep(1)
                kept = own._stores.sessions.renew_lease("s-2") and len(threads()) == 1
            code = 0 if none and kept and agent else 1
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    with pytest.raises(SessionLockedError):
        new_manager(**SHORT)
    work.ends.set()
    turn.join()


async def test_a_bidirectional_agent_holds_it_until_it_stops(new_manager: NewManager) -> None:
    manager = new_manager(**SHORT)
    agent = BidiAgent(model=SpokenModel(text("Hello", "c-1")), session_manager=manager)
    async with agent:
        await agent.send("Hi")
        assert await until(lambda: bool(threads()))
        await asyncio.sleep(1)
        with pytest.raises(SessionLockedError):
            await asyncio.to_thread(new_manager, **SHORT)
    assert not manager._is_at_work()


def test_on_mongomock(new_agent: NewAgent, work: Work) -> None:
    client: Any = mongomock.MongoClient()
    manager = MongoDBSessionManager("s-1", client=client, **SHORT)
    turn = work.begin(worker(new_agent, manager, work))
    time.sleep(1)
    with pytest.raises(SessionLockedError):
        MongoDBSessionManager("s-1", client=client, **SHORT)
    work.ends.set()
    turn.join()
    manager.close()
