"""A session that was deleted is gone: nobody who still holds it brings back half of it."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from pymongo.errors import OperationFailure
from strands import Agent
from strands.multiagent import GraphBuilder
from strands.types.content import Message

from mongodb_session_manager import MongoDBSessionManager
from mongodb_session_manager.errors import SessionNotFoundError
from mongodb_session_manager.testing import CommandCounter
from tests.aliases import Failing, History, NewAgent, NewManager
from tests.integration.history.writes import WRITES, Act
from tests.watching import until


def build_graph(manager: MongoDBSessionManager, agent: Agent) -> None:
    builder = GraphBuilder()
    builder.add_node(Agent(model=agent.model, callback_handler=None), "only")
    builder.set_session_manager(manager)
    builder.set_max_node_executions(5)
    builder.build()


ACTS: dict[str, Act] = {
    **WRITES,
    "new agent": lambda manager, agent: manager.initialize(Agent(agent_id="new", callback_handler=None)),
    "stored agent": lambda manager, agent: manager.initialize(Agent(agent_id="idle", callback_handler=None)),
    "graph": build_graph,
}
every_act = pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)


@pytest.fixture
def manager(new_manager: NewManager, new_agent: NewAgent) -> MongoDBSessionManager:
    new_agent(new_manager(), agent_id="idle")
    return new_manager()


@pytest.fixture
def agent(manager: MongoDBSessionManager, new_agent: NewAgent) -> Agent:
    agent = new_agent(manager)
    agent("First")
    return agent


def test_everything_goes(manager: MongoDBSessionManager, agent: Agent, stored: Callable[[], Any]) -> None:
    assert manager.delete_session() is True
    assert stored() is None


@pytest.mark.usefixtures("agent")
def test_other_sessions_stay(
    manager: MongoDBSessionManager, new_manager: NewManager, stored: Callable[..., Any]
) -> None:
    new_manager("s-2")

    manager.delete_session()

    assert stored("s-2")["session_id"] == "s-2"


def test_deleting_twice_is_false(manager: MongoDBSessionManager) -> None:
    manager.delete_session()

    assert manager.delete_session() is False


def test_deleting_what_was_never_there_is_false(manager: MongoDBSessionManager) -> None:
    assert manager.session_repository.delete_session("never there") is False


@every_act
def test_a_session_that_another_client_deleted_stays_deleted(
    manager: MongoDBSessionManager, agent: Agent, new_manager: NewManager, stored: Callable[[], Any], act: Act
) -> None:
    new_manager().delete_session()

    with pytest.raises(SessionNotFoundError, match="'s-1'"):
        act(manager, agent)

    assert stored() is None


@every_act
def test_a_session_that_its_manager_deleted_stays_deleted(
    manager: MongoDBSessionManager, agent: Agent, stored: Callable[[], Any], act: Act
) -> None:
    manager.delete_session()

    with pytest.raises(SessionNotFoundError, match="'s-1'"):
        act(manager, agent)

    assert stored() is None


def test_syncing_an_unchanged_agent_of_a_deleted_session_is_refused(
    manager: MongoDBSessionManager, agent: Agent
) -> None:
    manager.delete_session()

    with pytest.raises(SessionNotFoundError):
        manager.sync_agent(agent)


@every_act
def test_every_later_call_is_refused(
    manager: MongoDBSessionManager, agent: Agent, new_manager: NewManager, stored: Callable[[], Any], act: Act
) -> None:
    new_manager().delete_session()

    for _ in range(2):
        with pytest.raises(SessionNotFoundError):
            act(manager, agent)

    assert stored() is None


@pytest.mark.usefixtures("agent")
def test_closing_after_the_deletion_is_quiet(
    manager: MongoDBSessionManager, stored: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    manager.delete_session()

    with caplog.at_level(logging.WARNING):
        manager.close()

    assert caplog.records == []
    assert stored() is None


def test_what_was_pending_goes_with_the_session(
    manager: MongoDBSessionManager, agent: Agent, failing: Failing, stored: Callable[[], Any]
) -> None:
    with failing("update", errorCode=13), pytest.raises(OperationFailure):
        agent("Pending")

    manager.delete_session()
    with pytest.raises(SessionNotFoundError):
        manager.flush()
    manager.close()

    assert stored() is None


def test_a_deletion_in_the_middle_of_a_turn(
    manager: MongoDBSessionManager, new_agent: NewAgent, new_manager: NewManager, stored: Callable[[], Any]
) -> None:
    def meanwhile(messages: list[Message]) -> str:
        new_manager().delete_session()
        return "Too late."

    with pytest.raises(SessionNotFoundError) as caught:
        new_agent(manager, meanwhile)("Hi")

    assert type(caught.value) is SessionNotFoundError
    assert stored() is None


@pytest.mark.parametrize("deleted_by", ["its own manager", "another one"])
async def test_a_deletion_while_a_write_is_on_its_way(
    manager: MongoDBSessionManager,
    agent: Agent,
    new_manager: NewManager,
    failing: Failing,
    command_counter: CommandCounter,
    stored: Callable[[], Any],
    deleted_by: str,
) -> None:
    deleting = manager if deleted_by == "its own manager" else new_manager()

    with (
        failing("update", mode={"times": 1}, blockConnection=True, blockTimeMS=200),
        command_counter.counting() as log,
    ):
        turn = asyncio.create_task(agent.invoke_async("Second"))
        assert await until(lambda: log.writes >= 1)
        assert await asyncio.to_thread(deleting.delete_session) is True
        with pytest.raises(SessionNotFoundError):
            await turn

    assert stored() is None


def test_a_new_manager_starts_the_session_afresh(
    manager: MongoDBSessionManager, agent: Agent, new_manager: NewManager, new_agent: NewAgent, history: History
) -> None:
    manager.delete_session()
    with suppress(SessionNotFoundError):
        agent("Too late")

    fresh = new_agent(new_manager())
    fresh("Hi")

    assert history() == fresh.messages
    assert len(fresh.messages) == 2


def test_the_old_agent_cannot_write_into_the_new_session(
    manager: MongoDBSessionManager, agent: Agent, new_manager: NewManager, new_agent: NewAgent, history: History
) -> None:
    manager.delete_session()
    fresh = new_agent(new_manager())
    fresh("Hi")

    with pytest.raises(Exception, match="'s-1'"):
        agent("I come from the old one")

    assert history() == fresh.messages
