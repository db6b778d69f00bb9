"""Writes of several sessions that wait at the same moment: one command, and as many outcomes as sessions."""

import asyncio
import contextvars
import logging
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from datetime import datetime, timedelta, timezone
from typing import Any

import mongomock
import pymongo
import pytest
from bson import ObjectId
from pymongo.client_session import ClientSession
from pymongo.errors import InvalidOperation, OperationFailure
from pymongo.monitoring import CommandListener, CommandStartedEvent
from strands import Agent

from mongodb_session_manager import (
    MongoDBSessionManager,
    MongoDBSessionManagerFactory,
    SessionConflictError,
    SessionLockedError,
    SessionNotFoundError,
    SessionTooLargeError,
)
from mongodb_session_manager._client.handle import ClientHandle
from mongodb_session_manager._history import group_commit as _group_commit
from mongodb_session_manager._history.binding import AgentBinding
from mongodb_session_manager._schema.limits import LIMITS, Limits
from mongodb_session_manager.testing import Command, CommandCounter, CommandLog, session_ids
from tests.aliases import Client, Failing, History, NewAgent, NewManager, Stored
from tests.gathering import held_up
from tests.talking import texts, user
from tests.watching import eventually, until

SESSIONS = ["s-0", "s-1", "s-2", "s-3", "s-4"]
ODD = 2

Crowd = list[Agent]
Holding = Callable[[str], AbstractContextManager[None]]


# On a busy machine an attempt may take longer than it should.
pytestmark = pytest.mark.limits(attempt_timeout=10.0)


@pytest.fixture
def crowd(new_manager: NewManager, new_agent: NewAgent) -> Crowd:
    """Agents of as many sessions, on one client."""
    return [new_agent(new_manager(session_id)) for session_id in SESSIONS]


@pytest.fixture
def holding(observer: Client, database: str) -> Holding:
    """Let somebody else's transaction hold a session, for the time of a ``with``."""

    @contextmanager
    def hold(session_id: str) -> Iterator[None]:
        with observer.start_session() as session, session.start_transaction():
            change = {"$set": {"metadata.held": True}}
            observer[database].agent_sessions.update_one({"_id": session_id}, change, session=session)
            yield
            session.abort_transaction()

    return hold


def begin(agents: Sequence[Agent], first: int = 0) -> "list[asyncio.Task[Any]]":
    """Have agents begin to talk, from the one of this number on."""
    return [asyncio.create_task(agent.invoke_async(f"Hi {n}")) for n, agent in enumerate(agents) if n >= first]


async def talk(client: Any, agents: Sequence[Agent], each: int = 1) -> list[Any]:
    """Have all wait at one moment, each of them so many times, and return what came of the turns."""
    with held_up(client) as waiting:
        turns = begin(agents)
        assert await until(lambda: waiting() == each * len(agents))
    return await asyncio.gather(*turns, return_exceptions=True)


def failed(outcomes: Sequence[Any]) -> dict[int, type[BaseException]]:
    return {number: type(error) for number, error in enumerate(outcomes) if isinstance(error, BaseException)}


def updates(log: CommandLog) -> list[Command]:
    return [command for command in log.commands if command.name == "update"]


def sizes(log: CommandLog) -> list[int]:
    return [len(command.document["updates"]) for command in updates(log)]


def assert_stored(history: History, agents: Sequence[Agent], but: int | None = None) -> None:
    for number, agent in enumerate(agents):
        if number != but:
            assert history(SESSIONS[number]) == agent.messages
            assert texts(agent.messages) == [f"Hi {number}", "Okay."]


# What shares a command


async def test_what_waits_at_one_moment_is_one_command(
    crowd: Crowd, mongo_client: Client, history: History, command_counter: CommandCounter
) -> None:
    with command_counter.counting() as log:
        assert failed(await talk(mongo_client, crowd)) == {}

    first = updates(log)[0]
    assert session_ids(first) == SESSIONS
    assert sum(sizes(log)) == 2 * len(crowd)
    assert set(log.names) == {"update"}
    assert_stored(history, crowd)


async def test_one_that_is_alone_is_sent_as_ever(
    crowd: Crowd, mongo_client: Client, history: History, command_counter: CommandCounter
) -> None:
    with command_counter.counting() as log:
        await talk(mongo_client, crowd[:1])

    assert sizes(log) == [1, 1]
    assert_stored(history, crowd[:1])


@pytest.mark.limits(most_shared=2)
async def test_a_command_holds_so_many_and_no_more(
    crowd: Crowd,
    mongo_client: Client,
    history: History,
    command_counter: CommandCounter,
) -> None:
    with command_counter.counting() as log:
        assert failed(await talk(mongo_client, crowd)) == {}

    assert max(sizes(log)) == 2
    assert sum(sizes(log)) == 2 * len(crowd)
    assert_stored(history, crowd)


async def test_agents_of_one_session_share_a_command_too(
    new_manager: NewManager,
    new_agent: NewAgent,
    mongo_client: Client,
    history: History,
    command_counter: CommandCounter,
) -> None:
    manager = new_manager("s-0")
    agents = [new_agent(manager, agent_id=agent_id) for agent_id in ("one", "two", "three")]
    with command_counter.counting() as log:
        assert failed(await talk(mongo_client, agents)) == {}

    assert sizes(log)[0] == len(agents)
    for agent in agents:
        assert history("s-0", agent.agent_id) == agent.messages


async def test_who_waits_for_one_history_twice_sends_it_once(
    crowd: Crowd, mongo_client: Client, stored: Stored, command_counter: CommandCounter
) -> None:
    agent, other = crowd[:2]
    agent.state.set("a", 1)
    other.state.set("a", 1)
    with command_counter.counting() as log:
        with held_up(mongo_client) as waiting:
            turns = [asyncio.create_task(capture_and_flush(agent)) for agent in (agent, agent, other)]
            assert await until(lambda: waiting() == 3)
        await asyncio.gather(*turns)

    assert sizes(log) == [2]
    assert stored("s-0")["agents"]["default"]["agent_data"]["state"] == {"a": 1}


def manager_of(agent: Agent) -> MongoDBSessionManager:
    assert isinstance(agent._session_manager, MongoDBSessionManager)
    return agent._session_manager


def binding_of(agent: Agent) -> AgentBinding:
    (binding,) = manager_of(agent)._agents.live()
    return binding


async def flushed(agent: Agent) -> None:
    sent = manager_of(agent)._sending.flush(binding_of(agent))
    if sent is not None:
        await sent


async def capture_and_flush(agent: Agent) -> None:
    binding_of(agent).capture_state(agent)
    await flushed(agent)


def test_event_loops_of_several_threads(
    crowd: Crowd, mongo_client: Client, history: History, command_counter: CommandCounter
) -> None:
    with ThreadPoolExecutor(len(crowd)) as threads, command_counter.counting() as log:
        with held_up(mongo_client) as waiting:
            turns = [threads.submit(agent, f"Hi {number}") for number, agent in enumerate(crowd)]
            assert eventually(lambda: waiting() == len(crowd))
        for turn in turns:
            turn.result()

    assert sizes(log)[0] == len(crowd)
    assert_stored(history, crowd)


async def test_on_mongomock(new_agent: NewAgent, limits: Limits) -> None:
    client: Any = mongomock.MongoClient(tz_aware=True)
    managers = [MongoDBSessionManager(session_id, client=client, _limits=limits) for session_id in SESSIONS]
    agents = [new_agent(manager) for manager in managers]

    assert failed(await talk(client, agents)) == {}

    for manager, agent in zip(managers, agents, strict=True):
        assert [record["tracking_id"] for record in manager.list_messages("default")] == [
            message["tracking_id"] for message in agent.messages
        ]


async def test_what_is_sent_behind_shares_a_command_too(
    new_manager: NewManager,
    new_agent: NewAgent,
    mongo_client: Client,
    history: History,
    command_counter: CommandCounter,
) -> None:
    agents = [new_agent(new_manager(session_id, durability="async")) for session_id in SESSIONS]
    with command_counter.counting() as log:
        # With a prompt, an answer, and the end of the invocation.
        assert failed(await talk(mongo_client, agents, each=3)) == {}

    assert sum(sizes(log)) == len(agents)
    assert_stored(history, agents)


async def test_who_is_behind_alone_has_so_long_whatever_the_caller_has(
    new_manager: NewManager, new_agent: NewAgent, mongo_client: Client, command_counter: CommandCounter
) -> None:
    agent = new_agent(new_manager("s-0", durability="async"))
    with command_counter.counting() as log:
        with held_up(mongo_client) as waiting, pymongo.timeout(1):
            turn = asyncio.create_task(agent.invoke_async("Hi 0"))
            assert await until(lambda: waiting() == 3)
        await turn

    assert 1000 < max(command.document["maxTimeMS"] for command in updates(log)) <= 1000 * LIMITS.behind_timeout


# What does not


async def test_values_in_files_go_alone(
    crowd: Crowd, mongo_client: Client, history: History, command_counter: CommandCounter
) -> None:
    prompts = ["x" * 300_000, "Hi", "Hi", "Hi", "Hi"]
    with command_counter.counting() as log:
        with held_up(mongo_client) as waiting:
            turns = [asyncio.create_task(a.invoke_async(p)) for a, p in zip(crowd, prompts, strict=True)]
            assert await until(lambda: waiting() == len(turns))
        await asyncio.gather(*turns)

    assert sizes(log)[0] == len(turns) - 1
    for session_id, agent in zip(SESSIONS, crowd, strict=True):
        assert history(session_id) == agent.messages


async def test_a_callers_deadline_is_nobody_elses(
    crowd: Crowd, mongo_client: Client, history: History, command_counter: CommandCounter
) -> None:
    with command_counter.counting() as log:
        with held_up(mongo_client) as waiting:
            with pymongo.timeout(30):
                turns = [asyncio.create_task(crowd[0].invoke_async("Hi 0"))]
            turns += begin(crowd, 1)
            assert await until(lambda: waiting() == len(crowd))
        await asyncio.gather(*turns)

    limited, others = (next(c for c in updates(log) if session_id in session_ids(c)) for session_id in SESSIONS[:2])
    assert session_ids(limited) == SESSIONS[:1]
    assert session_ids(others) == SESSIONS[1:]
    assert limited.document["maxTimeMS"] > 1000 * 10 >= others.document["maxTimeMS"]
    assert_stored(history, crowd)


@pytest.mark.limits(attempt_timeout=30)
async def test_a_callers_deadline_does_not_wait_for_the_others(
    crowd: Crowd, mongo_client: Client, history: History, holding: Holding
) -> None:
    with holding(SESSIONS[ODD]):
        with held_up(mongo_client) as waiting:
            with pymongo.timeout(30):
                turn = asyncio.create_task(crowd[0].invoke_async("Hi 0"))
            others = begin(crowd, 1)
            assert await until(lambda: waiting() == len(crowd))
        await turn
        assert not any(other.done() for other in others)
    await asyncio.gather(*others)

    assert_stored(history, crowd)


request_id = contextvars.ContextVar("request_id", default="nobody's")


class Requests(CommandListener):
    """Notes for whom updates are sent."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, str]] = []

    def started(self, event: CommandStartedEvent) -> None:
        if event.command_name == "update":
            self.seen.append((len(event.command["updates"]), request_id.get()))

    def succeeded(self, event: Any) -> None:
        """Nothing to note."""

    def failed(self, event: Any) -> None:
        """Nothing to note."""


async def test_a_shared_command_is_sent_for_nobody_alone(
    mongodb_uri: str, database: str, new_agent: NewAgent, limits: Limits
) -> None:
    requests = Requests()
    with Client(mongodb_uri, tz_aware=True, event_listeners=[requests]) as client:
        place: dict[str, Any] = {"client": client, "database_name": database, "_limits": limits}
        managers = [MongoDBSessionManager(session_id, **place) for session_id in SESSIONS]
        agents = [new_agent(manager) for manager in managers]
        requests.seen.clear()

        async def turn(agent: Agent, number: int) -> None:
            request_id.set(f"request {number}")
            await agent.invoke_async("Hi")

        with held_up(client) as waiting:
            turns = [asyncio.create_task(turn(agent, number)) for number, agent in enumerate(agents)]
            assert await until(lambda: waiting() == len(agents))
        await asyncio.gather(*turns)

    assert requests.seen[0] == (len(agents), "nobody's")
    for size, whose in requests.seen:
        assert (whose == "nobody's") == (size > 1)


@pytest.mark.skipif(not hasattr(ClientSession, "bind"), reason="this version of pymongo binds no sessions")
async def test_a_callers_transaction_is_nobody_elses(
    new_manager: NewManager, new_agent: NewAgent, mongo_client: Client, history: History
) -> None:
    """Where it is given up, it is for the caller alone."""
    agents = [new_agent(new_manager(session_id, durability="exit")) for session_id in SESSIONS]
    with mongo_client.start_session() as session, session.start_transaction():
        with held_up(mongo_client) as waiting:
            with session.bind(end_session=False):
                turns = [asyncio.create_task(agents[0].invoke_async("Hi 0"))]
            turns += begin(agents, 1)
            assert await until(lambda: waiting() == len(agents))
        await asyncio.gather(*turns)
        session.abort_transaction()

    assert history(SESSIONS[0]) == []
    for session_id, agent in list(zip(SESSIONS, agents, strict=True))[1:]:
        assert history(session_id) == agent.messages


def edit(agent: Agent) -> None:
    binding_of(agent).capture_replacement(agent, {**agent.messages[-1], "content": [{"text": "Better."}]})


def move_window(agent: Agent) -> None:
    agent.conversation_manager.removed_message_count += 1
    binding_of(agent).capture_state(agent)


def set_state(agent: Agent, length: int) -> None:
    agent.state.set("note", "x" * length)
    binding_of(agent).capture_state(agent)


def say(agent: Agent, length: int) -> None:
    binding_of(agent).capture_message(agent, user("x" * length))


@pytest.mark.parametrize(
    ("capture", "shares"),
    [
        (lambda agent: say(agent, 1), True),
        (lambda agent: say(agent, 70_000), False),
        (lambda agent: set_state(agent, 1), True),
        (lambda agent: set_state(agent, 70_000), False),
        (edit, False),
        (move_window, False),
        (lambda agent: None, False),
    ],
    ids=["message", "large message", "state", "large state", "edit", "window", "nothing"],
)
def test_what_may_share(
    new_manager: NewManager, new_agent: NewAgent, history: History, capture: Callable[[Agent], None], shares: bool
) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    agent("Hi")
    capture(agent)

    with binding_of(agent).history.claim() as claimed:
        assert (claimed is not None) == shares
    with binding_of(agent).history.claim() as claimed:
        assert (claimed is not None) == shares, "nobody has sent it"
        if claimed is not None:
            claimed.finish(sent=False)
    with binding_of(agent).history.claim() as claimed:
        assert claimed is None, "it may have arrived"
    manager.flush()
    assert manager.health == {"ok": True, "pending": 0, "last_error": None}


@pytest.mark.parametrize(
    ("options", "most"),
    [({"timeoutMS": 600}, 300), ({"socketTimeoutMS": 400}, 200), ({"serverSelectionTimeoutMS": 200}, 100), ({}, 500)],
    ids=str,
)
async def test_an_attempt_leaves_time_to_send_alone(
    mongodb_uri: str,
    database: str,
    new_agent: NewAgent,
    command_counter: CommandCounter,
    options: dict[str, Any],
    most: int,
) -> None:
    with Client(mongodb_uri, tz_aware=True, event_listeners=[command_counter], **options) as client:
        managers = [MongoDBSessionManager(s, client=client, database_name=database) for s in SESSIONS]
        agents = [new_agent(manager) for manager in managers]
        with command_counter.counting() as log:
            await talk(client, agents)

    together = [command for command in updates(log) if not command.document["ordered"]]
    assert together
    assert max(command.document["maxTimeMS"] for command in together) <= most


async def test_an_attempt_is_made_once(
    crowd: Crowd, mongo_client: Client, history: History, failing: Failing, command_counter: CommandCounter
) -> None:
    """The driver would repeat it until its time is over."""
    with command_counter.counting() as log, failing("update", errorCode=262):
        assert failed(await talk(mongo_client, crowd)) == dict.fromkeys(range(len(crowd)), OperationFailure)

    # Two for each prompt that is alone, as ever, and for the end of its invocation.
    assert sizes(log)[0] == len(crowd)
    assert sizes(log)[1:] == [1] * (len(log.commands) - 1)
    assert len(sizes(log)) <= 1 + 4 * len(crowd)
    await asyncio.gather(*(agent.invoke_async("Go on") for agent in crowd))
    for session_id, agent in zip(SESSIONS, crowd, strict=True):
        assert history(session_id) == agent.messages


# One of them fails, the others do not notice


async def test_a_conflict_is_told_to_the_loser_alone(
    crowd: Crowd, new_manager: NewManager, new_agent: NewAgent, mongo_client: Client, history: History
) -> None:
    winner = new_agent(new_manager(SESSIONS[ODD]))
    winner("I was faster")

    outcomes = await talk(mongo_client, crowd)

    assert failed(outcomes) == {ODD: SessionConflictError}
    assert texts(outcomes[ODD].pending) == [f"Hi {ODD}"]
    assert history(SESSIONS[ODD]) == winner.messages
    assert_stored(history, crowd, but=ODD)


async def test_a_conflict_behind_is_told_by_the_end_of_the_invocation(
    new_manager: NewManager, new_agent: NewAgent, mongo_client: Client, history: History
) -> None:
    agents = [new_agent(new_manager(session_id, durability="async")) for session_id in SESSIONS]
    winner = new_agent(new_manager(SESSIONS[ODD]))
    winner("I was faster")

    outcomes = await talk(mongo_client, agents, each=3)

    assert failed(outcomes) == {ODD: SessionConflictError}
    assert history(SESSIONS[ODD]) == winner.messages
    assert_stored(history, agents, but=ODD)


async def test_a_session_that_was_deleted_meanwhile(
    crowd: Crowd, observer: Client, database: str, mongo_client: Client, history: History, stored: Stored
) -> None:
    observer[database].agent_sessions.delete_one({"_id": SESSIONS[ODD]})

    assert failed(await talk(mongo_client, crowd)) == {ODD: SessionNotFoundError}

    assert stored(SESSIONS[ODD]) is None
    assert_stored(history, crowd, but=ODD)


async def test_a_session_that_is_deleted_while_it_waits(
    crowd: Crowd, mongo_client: Client, history: History, stored: Stored
) -> None:
    manager = manager_of(crowd[ODD])
    with held_up(mongo_client) as waiting:
        turns = begin(crowd)
        assert await until(lambda: waiting() == len(crowd))
        await asyncio.to_thread(manager.delete_session)
    outcomes = await asyncio.gather(*turns, return_exceptions=True)

    assert failed(outcomes) == {ODD: SessionNotFoundError}
    assert stored(SESSIONS[ODD]) is None
    assert_stored(history, crowd, but=ODD)


async def test_a_session_that_somebody_else_may_write_alone(
    crowd: Crowd, observer: Client, database: str, mongo_client: Client, history: History
) -> None:
    lease = {"owner": ObjectId(), "expires_at": datetime.now(timezone.utc) + timedelta(minutes=1)}
    observer[database].agent_sessions.update_one({"_id": SESSIONS[ODD]}, {"$set": {"lease": lease}})

    assert failed(await talk(mongo_client, crowd)) == {ODD: SessionLockedError}

    assert history(SESSIONS[ODD]) == []
    assert_stored(history, crowd, but=ODD)


async def test_a_lease_is_renewed_in_company(
    crowd: Crowd,
    new_manager: NewManager,
    new_agent: NewAgent,
    mongo_client: Client,
    stored: Stored,
    command_counter: CommandCounter,
) -> None:
    alone = new_manager("s-5", exclusive=True)
    agents = [*crowd, new_agent(alone)]
    before = stored("s-5")["lease"]["expires_at"]
    await asyncio.sleep(0.01)
    with command_counter.counting() as log:
        assert failed(await talk(mongo_client, agents)) == {}

    assert sizes(log)[0] == len(agents)
    assert stored("s-5")["lease"]["expires_at"] > before


@pytest.mark.limits(attempt_timeout=0.3)
async def test_a_session_that_is_held_holds_up_the_others_once_and_not_for_long(
    crowd: Crowd, mongo_client: Client, history: History, holding: Holding, command_counter: CommandCounter
) -> None:
    with holding(SESSIONS[ODD]):
        with held_up(mongo_client) as waiting:
            turns = begin(crowd)
            assert await until(lambda: waiting() == len(crowd))
        await asyncio.gather(*(turn for n, turn in enumerate(turns) if n != ODD))
        assert not turns[ODD].done()
        assert_stored(history, crowd, but=ODD)
        with command_counter.counting() as log:
            await asyncio.gather(*(agent.invoke_async("Go on") for n, agent in enumerate(crowd) if n != ODD))
        assert set(sizes(log)) == {1}
    await turns[ODD]

    for session_id, agent in zip(SESSIONS, crowd, strict=True):
        assert history(session_id) == agent.messages


async def test_who_is_behind_with_one_that_cannot_be_stored_is_stored(
    new_manager: NewManager, new_agent: NewAgent, mongo_client: Client, history: History
) -> None:
    agents = [new_agent(new_manager(session_id, durability="async")) for session_id in SESSIONS]
    agents[ODD].state.set("blob", "x" * 17_000_000)
    handle = ClientHandle.of(mongo_client)
    with held_up(mongo_client):
        for number, agent in enumerate(agents):
            binding_of(agent).capture_message(agent, user(f"Hi {number}"))
            _group_commit.send_behind(handle, binding_of(agent).history)

    others = [n for n in range(len(agents)) if n != ODD]
    assert await until(lambda: all(texts(history(SESSIONS[n])) == [f"Hi {n}"] for n in others))
    assert await until(lambda: not manager_of(agents[ODD]).health["ok"])
    assert all(manager_of(agents[n]).health["ok"] for n in others)


async def test_a_state_that_no_document_can_hold(crowd: Crowd, mongo_client: Client, history: History) -> None:
    crowd[ODD].state.set("blob", "x" * 17_000_000)

    assert failed(await talk(mongo_client, crowd)) == {ODD: SessionTooLargeError}

    assert_stored(history, crowd, but=ODD)


async def test_one_that_is_cancelled_while_it_waits(crowd: Crowd, mongo_client: Client, history: History) -> None:
    with held_up(mongo_client) as waiting:
        turns = begin(crowd)
        assert await until(lambda: waiting() == len(crowd))
        turns[ODD].cancel()
    outcomes = await asyncio.gather(*turns, return_exceptions=True)

    assert failed(outcomes) == {ODD: asyncio.CancelledError}
    assert eventually(lambda: texts(history(SESSIONS[ODD])) == [f"Hi {ODD}"])
    assert_stored(history, crowd, but=ODD)
    await crowd[ODD].invoke_async("Go on")
    assert history(SESSIONS[ODD]) == crowd[ODD].messages


def test_one_whose_event_loop_has_ended(crowd: Crowd, mongo_client: Client, history: History) -> None:
    async def give_up(waiting: Callable[[], int]) -> None:
        turn = asyncio.create_task(crowd[ODD].invoke_async(f"Hi {ODD}"))
        assert await until(lambda: waiting() == 1)
        turn.cancel()

    with ThreadPoolExecutor(len(crowd)) as threads:
        with held_up(mongo_client) as waiting:
            asyncio.run(give_up(waiting))
            others = {n: threads.submit(agent, f"Hi {n}") for n, agent in enumerate(crowd) if n != ODD}
            # Who was cancelled stands in the line with its prompt, and with the end of its invocation.
            assert eventually(lambda: waiting() == len(crowd) + 1)
        for turn in others.values():
            turn.result()

    assert texts(history(SESSIONS[ODD])) == [f"Hi {ODD}"]
    assert_stored(history, crowd, but=ODD)


# What became of them


@pytest.mark.limits(kept_messages=1, embedded_bytes=1)
async def test_old_messages_move_behind_it(
    crowd: Crowd,
    observer: Client,
    database: str,
    mongo_client: Client,
    history: History,
) -> None:
    for agent in crowd:
        await agent.invoke_async("Before")

    await talk(mongo_client, crowd)

    moved = observer[database].agent_sessions_segments
    assert eventually(lambda: set(moved.distinct("session_id")) == set(SESSIONS))
    for session_id, agent in zip(SESSIONS, crowd, strict=True):
        assert history(session_id) == agent.messages


async def prompt_at_once(agents: Sequence[Agent]) -> list[Any]:
    """Store a prompt of each, and no answer."""
    for number, agent in enumerate(agents):
        binding_of(agent).capture_message(agent, user(f"Hi {number}"))
    flushes = (flushed(agent) for agent in agents)
    return await asyncio.gather(*flushes, return_exceptions=True)


@pytest.mark.parametrize("many", [5, 20])
async def test_a_client_that_closes_sends_what_waits(
    mongodb_uri: str, database: str, new_agent: NewAgent, observer: Client, history: History, many: int
) -> None:
    """Its threads take nothing new any more, so those that are there see to it."""
    factory = MongoDBSessionManagerFactory(mongodb_uri, database)
    session_ids = [f"s-{number}" for number in range(many)]
    agents = [new_agent(factory.create_session_manager(session_id)) for session_id in session_ids]
    observer[database].agent_sessions.delete_one({"_id": SESSIONS[ODD]})
    handle = factory._handle
    with held_up(handle.client) as waiting:
        prompts = asyncio.create_task(prompt_at_once(agents))
        assert await until(lambda: waiting() == many)
        executor, closing = handle.executor, asyncio.create_task(asyncio.to_thread(handle.close))
        assert await until(lambda: executor._shutdown)
    outcomes = await prompts
    await closing

    assert failed(outcomes) == {ODD: SessionNotFoundError}
    for number, session_id in enumerate(session_ids):
        if number != ODD:
            assert texts(history(session_id)) == [f"Hi {number}"]


async def test_a_client_that_closes_sends_the_others_while_one_is_held(
    mongodb_uri: str, database: str, new_agent: NewAgent, history: History, holding: Holding
) -> None:
    factory = MongoDBSessionManagerFactory(mongodb_uri, database)
    agents = [new_agent(factory.create_session_manager(session_id)) for session_id in SESSIONS]
    handle = factory._handle
    with holding(SESSIONS[0]):
        with held_up(handle.client) as waiting:
            prompts = asyncio.create_task(prompt_at_once(agents))
            assert await until(lambda: waiting() == len(agents))
            executor, closing = handle.executor, asyncio.create_task(asyncio.to_thread(handle.close))
            assert await until(lambda: executor._shutdown)
        assert await until(lambda: all(texts(history(s)) == [f"Hi {n}"] for n, s in enumerate(SESSIONS) if n))
    assert failed(await prompts) == {}
    await closing

    assert texts(history(SESSIONS[0])) == ["Hi 0"]


async def test_a_client_that_has_waited_for_long_enough_tells_those_who_wait(
    mongodb_uri: str, database: str, new_agent: NewAgent, history: History
) -> None:
    factory = MongoDBSessionManagerFactory(mongodb_uri, database)
    agents = [new_agent(factory.create_session_manager(session_id)) for session_id in SESSIONS]
    with held_up(factory._handle.client) as waiting:
        prompts = asyncio.create_task(prompt_at_once(agents))
        assert await until(lambda: waiting() == len(agents))
        await asyncio.to_thread(factory._handle.release, factory, timeout=0.1)
        outcomes = await asyncio.wait_for(prompts, 20)

    assert failed(outcomes) == dict.fromkeys(range(len(agents)), InvalidOperation)
    assert [history(session_id) for session_id in SESSIONS] == [[]] * len(SESSIONS)
    for agent in agents:
        binding_of(agent).history.unregister()


async def test_who_comes_after_the_last_user_of_a_client_does_not_wait_for_that_ones_threads(
    mongodb_uri: str, database: str, new_agent: NewAgent, history: History
) -> None:
    with Client(mongodb_uri, tz_aware=True, maxPoolSize=2) as client:
        first = MongoDBSessionManager("s-0", client=client, database_name=database)
        left = new_agent(first)
        with held_up(client) as waiting:
            prompts = asyncio.create_task(prompt_at_once([left]))
            assert await until(lambda: waiting() == 1)
            leaving = asyncio.create_task(asyncio.to_thread(first.session_repository.close, 5.0))
            handle, threads = ClientHandle.of(client), ClientHandle.of(client).executor
            assert await until(lambda: threads._shutdown)
            with closing(MongoDBSessionManager("s-1", client=client, database_name=database)) as second:
                agent = new_agent(second)
                await agent.invoke_async("Hi")
                assert history("s-1") == agent.messages
                assert handle.executor is not threads
        assert await prompts == [None]
        await leaving

    assert texts(history("s-0")) == ["Hi 0"]


async def test_each_write_is_told_in_the_log(
    crowd: Crowd, mongo_client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="mongodb_session_manager")

    await talk(mongo_client, crowd)

    lines = [record.getMessage() for record in caplog.records if "operation=<write_agent>" in record.getMessage()]
    assert Counter(session_id for session_id in SESSIONS for line in lines if f"<{session_id}>" in line) == (
        dict.fromkeys(SESSIONS, 2)
    )
    assert all("messages=<1>" in line and "milliseconds=<" in line for line in lines)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_process_finds_no_lock_of_its_parents_threads(crowd: Crowd) -> None:
    """Also of a history that has nothing to send."""
    history = binding_of(crowd[0]).history
    binding_of(crowd[0]).capture_message(crowd[0], user("Hi"))
    claim = history.claim()
    with ThreadPoolExecutor(1) as threads:
        claimed = threads.submit(claim.__enter__).result()
        assert claimed is not None
        history.unregister()
        if (child := os.fork()) == 0:
            os._exit(0 if history._sending.acquire(timeout=5) else 1)
        _, status = os.waitpid(child, 0)
        claimed.finish(sent=False)
        threads.submit(claim.__exit__, None, None, None).result()
        manager_of(crowd[0]).flush()

    assert os.waitstatus_to_exitcode(status) == 0


async def test_the_event_loop_sends_nothing_itself(
    crowd: Crowd, mongo_client: Client, command_counter: CommandCounter, monkeypatch: pytest.MonkeyPatch
) -> None:
    senders = set()
    started = command_counter.started

    def note(event: CommandStartedEvent) -> None:
        senders.add(threading.get_ident())
        started(event)

    monkeypatch.setattr(command_counter, "started", note)
    await talk(mongo_client, crowd)

    assert senders
    assert threading.get_ident() not in senders


@pytest.fixture(autouse=True)
def nobody_is_left() -> Iterator[None]:
    yield
    groups = [group for of_threads in list(_group_commit._groups.values()) for group in of_threads.values()]
    assert [(group._line._waiting, group._line._called) for group in groups] == [([], False)] * len(groups)


# Another driver

HIDDEN = """
import asyncio, sys, types
import pymongo
from pymongo.synchronous import client_session

hidden = sys.argv[3]
if hidden == "timeout":
    pymongo._csot = types.SimpleNamespace(_TimeoutContext=pymongo._csot._TimeoutContext)
    sys.modules["pymongo._csot"] = pymongo._csot
elif hidden == "session":
    client_session.ClientSession.bind = None
    vars(client_session).pop("_SESSION", None)

from strands import Agent
from mongodb_session_manager import MongoDBSessionManagerFactory
from mongodb_session_manager.testing import CommandCounter, ScriptedModel

counter = CommandCounter()
client = pymongo.MongoClient(sys.argv[1], event_listeners=[counter])
factory = MongoDBSessionManagerFactory(client=client, database_name=sys.argv[2])


async def request(number):
    async with factory.session(f"s-{number}", agent_ids=["default"]) as manager:
        agent = Agent(model=ScriptedModel(default="Okay."), session_manager=manager, callback_handler=None)
        for turn in range(5):
            await agent.invoke_async(f"Hi {turn}")
            with pymongo.timeout(5):
                await manager.aflush()


async def main():
    await asyncio.gather(*(request(number) for number in range(10)))


asyncio.run(main())
factory.close()
print(max(len(command.document["updates"]) for command in counter.commands if command.name == "update"))
"""


@pytest.mark.parametrize("hidden", ["timeout", "session", "nothing"])
def test_without_the_drivers_own_names_nothing_is_shared_and_all_is_stored(
    hidden: str, mongodb_uri: str, database: str, history: History
) -> None:
    words = [sys.executable, "-c", HIDDEN, mongodb_uri, database, hidden]
    ran = subprocess.run(words, capture_output=True, text=True, check=False)

    assert ran.returncode == 0, ran.stderr
    assert (int(ran.stdout) == 1) or hidden == "nothing"
    for number in range(10):
        assert texts(history(f"s-{number}")) == [text for turn in range(5) for text in (f"Hi {turn}", "Okay.")]
