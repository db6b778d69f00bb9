"""Two writers of one history: the second one is told, and nothing is mixed or overwritten."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.errors import WriteConcernError
from strands import Agent
from strands.types.content import Message

from mongodb_session_manager import MongoDBSessionManager
from mongodb_session_manager._history.writer import MAX_MISSES
from mongodb_session_manager.errors import SessionConflictError
from mongodb_session_manager.testing import CommandCounter
from tests.aliases import Failing, History, NewAgent, NewManager
from tests.integration.history.writes import WRITES, Act, every_write, sync_changed
from tests.talking import texts, user


@pytest.fixture
def winner(new_manager: NewManager, new_agent: NewAgent) -> Agent:
    """An agent whose history somebody else is about to read."""
    agent = new_agent(new_manager())
    agent("First")
    return agent


@pytest.fixture
def losers_manager(new_manager: NewManager, winner: Agent) -> MongoDBSessionManager:
    return new_manager()


@pytest.fixture
def loser(losers_manager: MongoDBSessionManager, new_agent: NewAgent, winner: Agent) -> Agent:
    """An agent that was restored before the winner wrote on."""
    agent = new_agent(losers_manager)
    winner("Second")
    return agent


@every_write
def test_the_second_writer_is_told(
    winner: Agent, loser: Agent, losers_manager: MongoDBSessionManager, history: History, act: Act
) -> None:
    with pytest.raises(SessionConflictError, match=r"'default' of session 's-1'") as caught:
        act(losers_manager, loser)

    assert type(caught.value) is SessionConflictError
    assert (caught.value.session_id, caught.value.agent_id) == ("s-1", "default")
    assert history() == winner.messages


async def test_the_second_writer_is_told_in_a_stream(winner: Agent, loser: Agent, history: History) -> None:
    with pytest.raises(SessionConflictError):
        async for _ in loser.stream_async("Hi"):
            pass

    assert history() == winner.messages


def test_a_conflict_in_mid_turn_is_raised_raw(new_manager: NewManager, new_agent: NewAgent, history: History) -> None:
    def meanwhile(messages: list[Message]) -> str:
        new_agent(new_manager())("I was faster")
        return "Too late."

    loser = new_agent(new_manager(), meanwhile)

    with pytest.raises(SessionConflictError) as caught:
        loser("Hi")

    assert type(caught.value) is SessionConflictError
    assert texts(caught.value.pending) == ["Too late."]
    assert texts(history()) == ["Hi", "I was faster", "Okay."]


def test_the_error_holds_what_is_not_stored(loser: Agent) -> None:
    with pytest.raises(SessionConflictError) as caught:
        loser("Hi")

    assert caught.value.pending == [loser.messages[-1]]
    assert texts(caught.value.pending) == ["Hi"]


def test_the_error_holds_everything_that_was_pending(
    new_manager: NewManager, new_agent: NewAgent, history: History, failing: Failing
) -> None:
    manager = new_manager()
    loser = new_agent(manager)
    with failing("update", closeConnection=True):
        for text in ("One", "Two"):
            with pytest.raises(Exception, match="connection"):
                manager.append_message(user(text), loser)
    new_agent(new_manager())("I was faster")

    with pytest.raises(SessionConflictError) as caught:
        manager.append_message(user("Three"), loser)

    assert texts(caught.value.pending) == ["One", "Two", "Three"]
    assert texts(history()) == ["I was faster", "Okay."]


@every_write
@pytest.mark.parametrize("first", WRITES.values(), ids=WRITES)
def test_later_calls_raise_the_same_at_once(
    loser: Agent, losers_manager: MongoDBSessionManager, command_counter: CommandCounter, first: Act, act: Act
) -> None:
    with pytest.raises(SessionConflictError) as caught:
        first(losers_manager, loser)

    with command_counter.counting() as log, pytest.raises(SessionConflictError) as again:
        act(losers_manager, loser)

    assert again.value is caught.value
    assert log.commands == []


@pytest.mark.parametrize(
    "act",
    [lambda manager, agent: manager.flush(), lambda manager, agent: manager.sync_agent(agent)],
    ids=["flush", "sync unchanged"],
)
def test_nothing_pretends_that_all_is_well_afterwards(
    loser: Agent, losers_manager: MongoDBSessionManager, act: Act
) -> None:
    with pytest.raises(SessionConflictError) as caught:
        loser("Hi")

    with pytest.raises(SessionConflictError) as again:
        act(losers_manager, loser)

    assert again.value is caught.value


def test_the_loser_goes_on_with_a_new_manager(
    winner: Agent, loser: Agent, new_manager: NewManager, new_agent: NewAgent, history: History
) -> None:
    with pytest.raises(SessionConflictError):
        loser("Hi")

    agent = new_agent(new_manager())
    agent("Hi")

    assert history() == agent.messages
    assert agent.messages[:4] == winner.messages


def test_a_write_that_never_matches_is_given_up(
    new_manager: NewManager,
    new_agent: NewAgent,
    observer: MongoClient[dict[str, Any]],
    database: str,
    command_counter: CommandCounter,
) -> None:
    agent = new_agent(new_manager())
    # Reads as 1, and is not found by it.
    observer[database].agent_sessions.update_one({"_id": "s-1"}, {"$set": {"agents.default.guard.revision": True}})

    with command_counter.counting() as log, pytest.raises(SessionConflictError):
        agent("Hi")

    assert len(log.commands) <= 2 * (MAX_MISSES + 1)


def test_a_manager_that_lost_can_be_closed(loser: Agent, losers_manager: MongoDBSessionManager) -> None:
    with pytest.raises(SessionConflictError):
        loser("Hi")

    losers_manager.close()


def test_the_winner_does_not_notice(winner: Agent, loser: Agent, history: History) -> None:
    with pytest.raises(SessionConflictError):
        loser("Hi")

    winner("Third")

    assert history() == winner.messages


def test_another_agent_of_the_same_manager_goes_on(
    loser: Agent, losers_manager: MongoDBSessionManager, new_agent: NewAgent, history: History
) -> None:
    with pytest.raises(SessionConflictError):
        loser("Hi")

    other = new_agent(losers_manager, agent_id="other")
    other("Hi")
    losers_manager.sync_agent(other)

    assert history(agent_id="other") == other.messages


def test_agents_of_two_managers_do_not_disturb_each_other(
    new_manager: NewManager, new_agent: NewAgent, history: History
) -> None:
    agents = [new_agent(new_manager(), agent_id=agent_id) for agent_id in ("one", "two")]

    for turn in range(3):
        for agent in agents:
            agent(f"Turn {turn}")

    assert all(history(agent_id=agent.agent_id) == agent.messages for agent in agents)


def test_reading_is_no_writing(winner: Agent, new_manager: NewManager, new_agent: NewAgent, history: History) -> None:
    for _ in range(2):
        new_agent(new_manager())

    winner("Second")

    assert history() == winner.messages


# Doubtful writes


def test_our_own_doubtful_message_is_recognised_behind_a_rivals(
    new_manager: NewManager, new_agent: NewAgent, history: History, failing: Failing
) -> None:
    loser = new_agent(new_manager())
    with failing("update", writeConcernError={"code": 64, "errmsg": "timed out"}), pytest.raises(WriteConcernError):
        loser("One")  # was stored all the same
    new_agent(new_manager())("I have read One")

    with pytest.raises(SessionConflictError) as caught:
        loser("Two")

    assert texts(caught.value.pending) == ["Two"]
    assert texts(history()) == ["One", "I have read One", "Okay."]


def test_a_doubtful_state_change_is_recognised(
    new_manager: NewManager, new_agent: NewAgent, history: History, failing: Failing
) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    with failing("update", writeConcernError={"code": 64, "errmsg": "timed out"}), pytest.raises(WriteConcernError):
        sync_changed(manager, agent)

    agent("Hi")

    assert history() == agent.messages


# Starting at once


def test_two_threads_create_one_agent(new_manager: NewManager, new_agent: NewAgent, history: History) -> None:
    managers = [new_manager(), new_manager()]
    barrier = threading.Barrier(2)

    def create(manager: MongoDBSessionManager) -> Agent:
        barrier.wait()
        return new_agent(manager, messages=[user("Hello")])

    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(create, managers)
    assert texts(history()) == ["Hello"]

    first("I write first")
    with pytest.raises(SessionConflictError):
        second("I write second")

    assert texts(history()) == texts(first.messages) == ["Hello", "I write first", "Okay."]


def test_an_agent_that_somebody_created_since_is_restored(
    new_manager: NewManager, new_agent: NewAgent, history: History
) -> None:
    manager = new_manager()
    first = new_agent(new_manager(), messages=[user("Hello")])
    first("Hi")

    second = new_agent(manager, messages=[user("Something else")])

    assert texts(second.messages) == texts(history()) == ["Hello", "Hi", "Okay."]


def test_two_threads_of_one_manager_cannot_create_one_agent(new_manager: NewManager, new_agent: NewAgent) -> None:
    manager = new_manager()
    barrier = threading.Barrier(2)

    def create(_: int) -> Agent | Exception:
        barrier.wait()
        try:
            return new_agent(manager)
        except Exception as error:  # noqa: BLE001 - looked at below
            return error

    with ThreadPoolExecutor(2) as threads:
        results = list(threads.map(create, range(2)))

    assert sorted(type(result).__name__ for result in results) == ["Agent", "MongoDBSessionError"]
