"""``async with factory.session(…)``: a request of a web service, whose I/O is all off the event loop."""

import asyncio
import gc
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.errors import OperationFailure
from strands import Agent
from strands.types.content import Message

from mongodb_session_manager import MongoDBSessionManagerFactory
from mongodb_session_manager._client.handle import ClientHandle
from mongodb_session_manager.errors import (
    MongoDBSessionError,
    SessionConflictError,
    SessionLockedError,
    SessionNotFoundError,
)
from mongodb_session_manager.testing import CommandCounter
from mongodb_session_manager.types import Durability
from tests.aliases import Failing, History, NewAgent, Stored
from tests.talking import LOOK, every_durability, look_up, texts
from tests.watching import eventually, ticking, until


def managers_of(client: MongoClient[dict[str, Any]]) -> int:
    """Tell how many use the client, beside the factory."""
    return len(ClientHandle.of(client)._users) - 1


# Agents that were read ahead


@every_durability
@pytest.mark.parametrize("exists", ["nothing", "session", "agents"])
async def test_making_an_agent_inside_does_no_io(
    factory: MongoDBSessionManagerFactory,
    new_agent: NewAgent,
    history: History,
    command_counter: CommandCounter,
    durability: Durability,
    exists: str,
) -> None:
    if exists != "nothing":
        manager = factory.create_session_manager("s-1")
        for agent_id in ("one", "two") if exists == "agents" else ():
            new_agent(manager, agent_id=agent_id, state={"a": 1})("Before")

    async with factory.session("s-1", agent_ids=["one", "two"], durability=durability) as manager:
        with command_counter.counting() as log:
            agents = [new_agent(manager, agent_id=agent_id, state={"b": 2}) for agent_id in ("one", "two")]
        assert log.names == []
        for agent in agents:
            assert texts(agent.messages) == (["Before", "Okay."] if exists == "agents" else [])
            assert agent.state.get() == ({"a": 1} if exists == "agents" else {"b": 2})
            await agent.invoke_async("Hi")

    for agent in agents:
        assert history(agent_id=agent.agent_id) == agent.messages


async def test_initial_messages_of_a_new_agent_are_stored_with_its_first(
    factory: MongoDBSessionManagerFactory, new_agent: NewAgent, history: History, command_counter: CommandCounter
) -> None:
    initial: list[Message] = [{"role": "user", "content": [{"text": "Hello"}]}]

    async with factory.session("s-1", agent_ids=["default"], durability="exit") as manager:
        agent = new_agent(manager, messages=initial)
        with command_counter.counting() as log:
            await agent.invoke_async("Hi")

    assert log.names == ["update"]
    assert texts(history()) == ["Hello", "Hi", "Okay."]


async def test_an_agent_that_is_never_used_is_not_stored(
    factory: MongoDBSessionManagerFactory, new_agent: NewAgent, stored: Stored
) -> None:
    async with factory.session("s-1", agent_ids=["default"]) as manager:
        new_agent(manager)

    assert stored()["agents"] == {}


async def test_an_agent_that_was_not_named_works_too(
    factory: MongoDBSessionManagerFactory, new_agent: NewAgent, history: History
) -> None:
    async with factory.session("s-1", agent_ids=["another"]) as manager:
        agent = new_agent(manager)
        await agent.invoke_async("Hi")

    assert history() == agent.messages


async def test_two_that_create_one_agent_do_not_mix(
    factory: MongoDBSessionManagerFactory, new_agent: NewAgent, history: History
) -> None:
    async with (
        factory.session("s-1", agent_ids=["default"]) as one,
        factory.session("s-1", agent_ids=["default"]) as other,
    ):
        faster, slower = new_agent(one), new_agent(other)
        await faster.invoke_async("I was faster")
        with pytest.raises(SessionConflictError) as caught:
            await slower.invoke_async("Too late")

    assert texts(caught.value.pending) == ["Too late"]
    assert history() == faster.messages


# The cost of a request


async def request(
    factory: MongoDBSessionManagerFactory, new_agent: NewAgent, durability: Durability, *turns: Any
) -> list[Message]:
    async with factory.session("s-1", agent_ids=["default"], durability=durability) as manager:
        agent = new_agent(manager, *turns, tools=[look_up])
        await agent.invoke_async("Hi")
    return agent.messages


@pytest.mark.parametrize(
    ("durability", "turns", "most"),
    [("exit", [], 2), ("sync", [], 3), ("async", [], 3), ("exit", [LOOK, "A bird."], 2), ("sync", [LOOK, "A."], 5)],
)
async def test_a_request_to_an_existing_session(
    factory: MongoDBSessionManagerFactory,
    new_agent: NewAgent,
    history: History,
    command_counter: CommandCounter,
    durability: Durability,
    turns: list[Any],
    most: int,
) -> None:
    for _ in range(3):
        await request(factory, new_agent, "sync")

    with command_counter.counting() as log:
        messages = await request(factory, new_agent, durability, *turns)

    assert len(log.commands) <= most, log.names
    if durability != "async":
        assert len(log.commands) == most, log.names
    assert (log.names[0], log.reads) == ("findAndModify", 0)
    assert history() == messages


@pytest.mark.parametrize(("durability", "most"), [("exit", 2), ("sync", 3), ("async", 3)])
@pytest.mark.parametrize("exists", [False, True])
async def test_a_request_to_a_new_session_or_agent(
    factory: MongoDBSessionManagerFactory,
    new_agent: NewAgent,
    history: History,
    command_counter: CommandCounter,
    durability: Durability,
    most: int,
    exists: bool,
) -> None:
    if exists:
        factory.create_session_manager("s-1").close()

    with command_counter.counting() as log:
        messages = await request(factory, new_agent, durability)

    assert len(log.commands) <= most, log.names
    assert log.reads == 0
    assert history() == messages


async def test_a_request_that_only_reads(
    factory: MongoDBSessionManagerFactory, new_agent: NewAgent, command_counter: CommandCounter
) -> None:
    await request(factory, new_agent, "exit")

    with command_counter.counting() as log:
        async with factory.session("s-1") as manager:
            assert len(await manager.alist_messages("default")) == 2

    assert len(log.commands) == 2, log.names


# The end of a request


@every_durability
@pytest.mark.parametrize("error", [RuntimeError("a bug"), asyncio.CancelledError(), KeyError("a")])
async def test_an_error_inside(
    factory: MongoDBSessionManagerFactory,
    new_agent: NewAgent,
    history: History,
    mongo_client: MongoClient[dict[str, Any]],
    durability: Durability,
    error: BaseException,
) -> None:
    before = managers_of(mongo_client)
    agents: list[Agent] = []

    async def fail() -> None:
        async with factory.session("s-1", agent_ids=["default"], durability=durability) as manager:
            agents.append(new_agent(manager))
            await agents[0].invoke_async("Hi")
            raise error

    with pytest.raises(type(error)) as caught:
        await fail()

    assert caught.value is error
    assert history() == agents[0].messages
    assert managers_of(mongo_client) == before
    with pytest.raises(MongoDBSessionError, match="closed"):
        await agents[0].invoke_async("And now?")


@every_durability
async def test_what_is_pending_is_sent_at_the_end(
    factory: MongoDBSessionManagerFactory,
    new_agent: NewAgent,
    history: History,
    stored: Stored,
    failing: Failing,
    durability: Durability,
) -> None:
    async with factory.session("s-1", agent_ids=["default"], durability=durability) as manager:
        agent = new_agent(manager)
        with failing("update", errorCode=13), pytest.raises(OperationFailure):
            await agent.invoke_async("Hi")
        assert stored()["agents"] == {}

    assert history() == agent.messages


@every_durability
async def test_cancelled_inside(
    factory: MongoDBSessionManagerFactory,
    new_agent: NewAgent,
    history: History,
    failing: Failing,
    mongo_client: MongoClient[dict[str, Any]],
    command_counter: CommandCounter,
    durability: Durability,
) -> None:
    before = managers_of(mongo_client)

    with (
        failing("update", mode={"times": 1}, blockConnection=True, blockTimeMS=200),
        command_counter.counting() as log,
    ):
        task = asyncio.create_task(request(factory, new_agent, durability))
        assert await until(lambda: log.writes == 2)  # the session is opened, and the first write is on its way
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert texts(history())[0] == "Hi"
    assert await until(lambda: managers_of(mongo_client) == before)
    await request(factory, new_agent, durability)
    assert texts(history())[-2:] == ["Hi", "Okay."]


@pytest.mark.parametrize("times", [1, 2])
async def test_cancelled_while_it_closes(
    factory: MongoDBSessionManagerFactory,
    new_agent: NewAgent,
    history: History,
    failing: Failing,
    mongo_client: MongoClient[dict[str, Any]],
    times: int,
) -> None:
    await request(factory, new_agent, "sync")
    before = managers_of(mongo_client)

    async def fail_and_leave() -> None:
        async with factory.session("s-1", agent_ids=["default"]) as manager:
            with failing("update", errorCode=13), suppress(OperationFailure):
                await new_agent(manager).invoke_async("Hi")
            fault.__enter__()

    fault = failing("update", mode={"times": 1}, blockConnection=True, blockTimeMS=300)
    task = asyncio.create_task(fail_and_leave())
    try:
        await asyncio.sleep(0.15)
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0.02)
        with suppress(asyncio.CancelledError):
            await task
        assert await until(lambda: texts(history()) == ["Hi", "Okay.", "Hi"])
    finally:
        fault.__exit__(None, None, None)
    assert await until(lambda: managers_of(mongo_client) == before)


@pytest.mark.parametrize("times", [1, 2])
async def test_cancelled_while_it_opens(
    factory: MongoDBSessionManagerFactory,
    new_agent: NewAgent,
    mongo_client: MongoClient[dict[str, Any]],
    command_counter: CommandCounter,
    failing: Failing,
    times: int,
) -> None:
    await request(factory, new_agent, "sync")
    before = managers_of(mongo_client)
    entered = False

    async def enter() -> None:
        nonlocal entered
        async with factory.session("s-1", agent_ids=["default"]):
            entered = True

    with (
        failing("findAndModify", mode={"times": 1}, blockConnection=True, blockTimeMS=250),
        command_counter.counting() as log,
    ):
        task = asyncio.create_task(enter())
        assert await until(lambda: "findAndModify" in log.names)
        for _ in range(times):
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert not entered
    # What was opened is closed by whoever finishes last.
    await asyncio.sleep(0.3)
    assert await until(lambda: managers_of(mongo_client) == before)
    await request(factory, new_agent, "sync")


def test_a_loop_that_ends_while_a_session_opens(
    factory: MongoDBSessionManagerFactory,
    mongo_client: MongoClient[dict[str, Any]],
    command_counter: CommandCounter,
    failing: Failing,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def enter() -> None:
        async with factory.session("s-1"):
            pass

    async def leave() -> None:
        with command_counter.counting() as log:
            task = asyncio.create_task(enter())
            assert await until(lambda: "findAndModify" in log.names)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    with failing("findAndModify", mode={"times": 1}, blockConnection=True, blockTimeMS=250):
        asyncio.run(leave())
        time.sleep(0.4)

    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []
    factory.close()
    assert not ClientHandle.of(mongo_client)._users


async def test_a_session_that_cannot_be_opened(
    factory: MongoDBSessionManagerFactory,
    new_agent: NewAgent,
    mongo_client: MongoClient[dict[str, Any]],
    failing: Failing,
) -> None:
    await request(factory, new_agent, "sync")
    before = managers_of(mongo_client)

    with failing("findAndModify", errorCode=13), pytest.raises(OperationFailure):
        await request(factory, new_agent, "sync")

    assert await until(lambda: managers_of(mongo_client) == before)
    await request(factory, new_agent, "sync")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"session_id": ""}, ValueError),
        ({"session_id": 7}, TypeError),
        ({"agent_ids": [""]}, ValueError),
        ({"agent_ids": ["a\0b"]}, ValueError),
        ({"agent_ids": [7]}, TypeError),
        ({"durability": "never"}, ValueError),
        ({"exclusive": True, "lease_timeout": -1}, ValueError),
        ({"exclusive": "yes"}, TypeError),
        ({"maxPoolSize": 5}, TypeError),
    ],
)
async def test_bad_input(
    factory: MongoDBSessionManagerFactory,
    mongo_client: MongoClient[dict[str, Any]],
    arguments: dict[str, Any],
    error: type[Exception],
) -> None:
    before = managers_of(mongo_client)
    with pytest.raises(error):
        async with factory.session(**{"session_id": "s-1", **arguments}):
            pass

    assert managers_of(mongo_client) == before


async def test_a_bad_agent_id_is_found_before_anything_is_sent(
    factory: MongoDBSessionManagerFactory, command_counter: CommandCounter
) -> None:
    with command_counter.counting() as log, pytest.raises(ValueError, match="agent_id"):
        async with factory.session("s-1", agent_ids=["fine", ""]):
            pass

    assert log.names == []


async def test_one_string_is_not_a_list_of_agents(
    factory: MongoDBSessionManagerFactory, new_agent: NewAgent, command_counter: CommandCounter
) -> None:
    """``agent_ids="default"`` must not be taken for seven agents with one letter each."""
    with pytest.raises(TypeError, match="agent_ids"):
        async with factory.session("s-1", agent_ids="default"):
            pass


async def test_a_closed_factory(factory: MongoDBSessionManagerFactory) -> None:
    factory.close()

    with pytest.raises(RuntimeError, match="closed"):
        async with factory.session("s-1"):
            pass


async def test_a_session_that_was_deleted_meanwhile(
    factory: MongoDBSessionManagerFactory, new_agent: NewAgent, stored: Stored
) -> None:
    async with factory.session("s-1", agent_ids=["default"]) as manager:
        agent = new_agent(manager)
        factory.create_session_manager("s-1").delete_session()
        with pytest.raises(SessionNotFoundError):
            await agent.invoke_async("Hi")

    assert stored() is None


# Many at once


@every_durability
async def test_fifty_sessions_in_one_loop(
    factory: MongoDBSessionManagerFactory,
    new_agent: NewAgent,
    history: History,
    failing: Failing,
    durability: Durability,
) -> None:
    async def serve(number: int) -> tuple[str, list[Message]]:
        session_id = f"s-{number}"
        for _ in range(2):
            async with factory.session(session_id, agent_ids=["default"], durability=durability) as manager:
                agent = new_agent(manager)
                await agent.invoke_async(f"I am number {number}")
        return session_id, agent.messages

    with failing("findAndModify", "aggregate", "update", blockConnection=True, blockTimeMS=100):
        async with ticking() as ticks:
            served = await asyncio.gather(*(serve(number) for number in range(50)))

    # Each request of the fifty waits for the server 0.3 s at least; a loop that waited too would stand still.
    assert len(ticks) >= 5
    for session_id, messages in served:
        assert history(session_id) == messages
        assert len(messages) == 4


class Meeting:
    """Lets those who come wait for each other."""

    def __init__(self, number: int) -> None:
        self._missing, self._complete = number, asyncio.Event()

    async def wait(self) -> None:
        self._missing -= 1
        if not self._missing:
            self._complete.set()
        await self._complete.wait()


@every_durability
async def test_of_two_requests_to_one_session_one_is_refused(
    factory: MongoDBSessionManagerFactory, new_agent: NewAgent, history: History, durability: Durability
) -> None:
    await request(factory, new_agent, "sync")
    meeting = Meeting(2)

    async def serve(prompt: str) -> str:
        async with factory.session("s-1", agent_ids=["default"], durability=durability) as manager:
            agent = new_agent(manager)
            await meeting.wait()  # both have read the same history now
            await agent.invoke_async(prompt)
        return prompt

    first, second = await asyncio.gather(serve("One"), serve("Two"), return_exceptions=True)

    (winner,) = [each for each in (first, second) if isinstance(each, str)]
    (loser,) = [each for each in (first, second) if not isinstance(each, str)]
    assert type(loser) is SessionConflictError
    assert loser.session_id == "s-1"
    assert texts(history()) == ["Hi", "Okay.", winner, "Okay."]


async def test_two_agents_of_one_session_are_not_in_each_others_way(
    factory: MongoDBSessionManagerFactory, new_agent: NewAgent, history: History
) -> None:
    meeting = Meeting(2)

    async def serve(agent_id: str) -> list[Message]:
        async with factory.session("s-1", agent_ids=[agent_id]) as manager:
            agent = new_agent(manager, agent_id=agent_id)
            await meeting.wait()
            await agent.invoke_async("Hi")
        return agent.messages

    one, two = await asyncio.gather(serve("one"), serve("two"))

    assert history(agent_id="one") == one
    assert history(agent_id="two") == two


async def test_metadata_and_feedback_beside_a_request(
    factory: MongoDBSessionManagerFactory, new_agent: NewAgent, history: History
) -> None:
    async with (
        factory.session("s-1", agent_ids=["default"]) as chatting,
        factory.session("s-1") as other,
    ):
        agent = new_agent(chatting)
        await asyncio.gather(
            agent.invoke_async("Hi"),
            *(other.aupdate_metadata({f"n.{number}": number}) for number in range(20)),
            *(other.aadd_feedback({"rating": "up"}) for _ in range(20)),
        )
        assert len((await chatting.aget_metadata())["metadata"]["n"]) == 20
        assert len(await chatting.aget_feedbacks()) == 20

    assert history() == agent.messages


# One request at a time


@every_durability
async def test_requests_wait_for_each_other_and_not_on_the_clients_threads(
    mongodb_uri: str, database: str, new_agent: NewAgent, history: History, durability: Durability
) -> None:
    async def serve(factory: MongoDBSessionManagerFactory, number: int) -> None:
        options: dict[str, Any] = {"exclusive": True, "lease_timeout": 120, "lease_duration": 120}
        async with factory.session("s-1", agent_ids=["default"], durability=durability, **options) as manager:
            await new_agent(manager).invoke_async(f"Prompt {number}")

    # Whoever has the session needs the two threads that the others would wait on.
    with MongoDBSessionManagerFactory(mongodb_uri, database_name=database, maxPoolSize=2, minPoolSize=0) as shared:
        await asyncio.gather(*(serve(shared, number) for number in range(8)))

    said = texts(history())
    assert sorted(said[::2]) == sorted(f"Prompt {number}" for number in range(8))
    assert said[1::2] == ["Okay."] * 8


async def test_the_loop_goes_on_while_a_request_waits(
    factory: MongoDBSessionManagerFactory, stored: Stored, command_counter: CommandCounter
) -> None:
    async def wait() -> Any:
        async with factory.session("s-1", exclusive=True, lease_timeout=60):
            return stored()["lease"]

    with command_counter.counting() as log, factory.create_session_manager("s-1", exclusive=True):
        before = stored()["lease"]
        async with ticking() as ticks:
            waiting = asyncio.create_task(wait())
            # Five tries: between them are pauses of 0.4 s at least.
            assert await until(lambda: log.names.count("update") >= 11)
        assert len(ticks) >= 5
        assert not waiting.done()

    assert (await waiting)["owner"] != before["owner"]


async def test_a_request_waits_as_long_as_it_may(factory: MongoDBSessionManagerFactory) -> None:
    with factory.create_session_manager("s-1", exclusive=True):
        started = time.monotonic()
        with pytest.raises(SessionLockedError):
            async with factory.session("s-1", exclusive=True, lease_timeout=0.3):
                pass

    assert time.monotonic() - started >= 0.3


async def test_the_factory_has_defaults_for_the_lease(
    mongo_client: MongoClient[dict[str, Any]], database: str, stored: Stored
) -> None:
    with MongoDBSessionManagerFactory(
        client=mongo_client, database_name=database, exclusive=True, lease_timeout=0, lease_duration=1000
    ) as factory:
        async with factory.session("s-1"):
            assert (stored()["lease"]["expires_at"] - stored()["created_at"]).total_seconds() > 900
            with pytest.raises(SessionLockedError):
                factory.create_session_manager("s-1")
            factory.create_session_manager("s-1", exclusive=False)
            with pytest.raises(SessionLockedError):
                async with factory.session("s-1"):
                    pass

    assert "lease" not in stored()


@pytest.mark.parametrize("times", [1, 2])
async def test_a_request_that_is_cancelled_while_it_waits_leaves_no_lease(
    factory: MongoDBSessionManagerFactory,
    mongo_client: MongoClient[dict[str, Any]],
    command_counter: CommandCounter,
    stored: Stored,
    times: int,
) -> None:
    before = managers_of(mongo_client)

    async def wait() -> None:
        async with factory.session("s-1", exclusive=True, lease_timeout=60):
            pass

    with command_counter.counting() as log, factory.create_session_manager("s-1", exclusive=True):
        waiting = asyncio.create_task(wait())
        assert await until(lambda: log.names.count("update") >= 4)
        for _ in range(times):
            waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    assert await until(lambda: managers_of(mongo_client) == before)
    assert "lease" not in stored()


async def test_a_request_that_is_cancelled_while_it_takes_the_lease_leaves_none(
    factory: MongoDBSessionManagerFactory,
    mongo_client: MongoClient[dict[str, Any]],
    command_counter: CommandCounter,
    stored: Stored,
    failing: Failing,
) -> None:
    before = managers_of(mongo_client)

    async def enter() -> None:
        async with factory.session("s-1", exclusive=True, lease_timeout=60):
            pass

    with (
        failing("update", mode={"times": 1}, blockConnection=True, blockTimeMS=250),
        command_counter.counting() as log,
    ):
        entering = asyncio.create_task(enter())
        assert await until(lambda: "update" in log.names)
        entering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await entering
        assert await until(lambda: log.names.count("update") == 2)  # it was taken, and is given back

    assert await until(lambda: managers_of(mongo_client) == before)
    assert "lease" not in stored()


@pytest.mark.parametrize("how", ["cancelled", "left behind"])
@pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_loop_that_ends_while_the_lease_is_taken_leaves_none(
    factory: MongoDBSessionManagerFactory,
    mongo_client: MongoClient[dict[str, Any]],
    command_counter: CommandCounter,
    stored: Stored,
    failing: Failing,
    how: str,
) -> None:
    before = managers_of(mongo_client)

    async def enter() -> None:
        async with factory.session("s-1", exclusive=True, agent_ids=["default"]):
            pass

    async def begin() -> None:
        with command_counter.counting() as log:
            entering.append(asyncio.get_running_loop().create_task(enter()))
            assert await until(lambda: "update" in log.names)

    entering: list[Any] = []
    with failing("update", mode={"times": 1}, blockConnection=True, blockTimeMS=400):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(begin())
        if how == "cancelled":
            entering[0].cancel()
            loop.run_until_complete(asyncio.gather(*entering, return_exceptions=True))
        loop.close()
        entering.clear()
        gc.collect()
        assert eventually(lambda: managers_of(mongo_client) == before)

    assert eventually(lambda: "lease" not in (stored() or {}))
    assert stored() is not None
    factory.create_session_manager("s-1", exclusive=True, lease_timeout=0).close()


def test_an_opening_that_is_over_before_anybody_takes_it_is_closed(
    factory: MongoDBSessionManagerFactory, mongo_client: MongoClient[dict[str, Any]], stored: Stored
) -> None:
    before = managers_of(mongo_client)

    async def enter() -> None:
        async with factory.session("s-1", exclusive=True):
            pass

    async def leave() -> None:
        task = asyncio.create_task(enter())
        await asyncio.sleep(0)
        # The loop stands still until the session is open, and then hears of the cancellation first.
        assert eventually(lambda: "lease" in (stored() or {}))
        time.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(leave())
    assert eventually(lambda: managers_of(mongo_client) == before)
    assert eventually(lambda: "lease" not in stored())


LEFT_REQUEST = """
import asyncio, sys
from mongodb_session_manager import MongoDBSessionManagerFactory

factory = MongoDBSessionManagerFactory(sys.argv[1], database_name=sys.argv[2])

async def request(entered):
    async with factory.session("s", agent_ids=["a"], exclusive=True):
        entered.set()
        await asyncio.sleep(0 if sys.argv[3] == "ending" else 60)

async def main():
    global task
    entered = asyncio.Event()
    task = asyncio.ensure_future(request(entered))
    await entered.wait()

loop = asyncio.new_event_loop()
loop.run_until_complete(main())
if sys.argv[3] == "closed":
    loop.close()
print("ends", flush=True)
"""

LEFT_STREAM = """
import asyncio, sys
from mongodb_session_manager import MongoDBSessionManager

def stream():
    with MongoDBSessionManager("s", sys.argv[1], sys.argv[2]) as manager:
        asyncio.run(manager.aget_metadata())
        yield

left = stream()
next(left)
print("ends", flush=True)
"""


@pytest.mark.parametrize(
    ("script", "left"),
    [(LEFT_REQUEST, "ending"), (LEFT_REQUEST, "inside"), (LEFT_REQUEST, "closed"), (LEFT_STREAM, "")],
    ids=["ending", "inside", "closed", "stream"],
)
def test_the_interpreter_ends_though_a_request_does_not(
    mongodb_uri: str, database: str, script: str, left: str
) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", script, mongodb_uri, database, left],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (ended.returncode, ended.stdout) == (0, "ends\n")
