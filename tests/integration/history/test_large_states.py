"""Agents' states that are too large for the session document: they are files, and come back equal."""

from collections.abc import Callable
from typing import Any

import bson
import pytest
from strands.types.session import SessionAgent

from mongodb_session_manager import MongoDBSessionManagerFactory
from mongodb_session_manager.testing import CommandCounter
from tests.aliases import Client, NewAgent, NewManager
from tests.talking import every_durability, user

MIB = 1024 * 1024
STATE = {"large": "x" * MIB, "%file": {"sha256": "mine"}, "a.b": [1, 2.0, None, {"$ref": "z"}]}


@pytest.fixture
def files(observer: Client, database: str) -> Callable[[], int]:
    return lambda: int(observer[database]["agent_sessions_files.files"].count_documents({}))


@every_durability
def test_a_large_state_comes_back_equal(
    new_manager: NewManager, new_agent: NewAgent, stored: Callable[[], Any], files: Callable[[], int], durability: str
) -> None:
    agent = new_agent(new_manager(durability=durability), state=STATE)
    agent("Hi")
    assert len(bson.encode(stored())) < 100_000
    assert files() == 1

    restored = new_agent(new_manager(durability=durability))
    assert restored.state.get() == STATE
    restored.state.set("large", "y" * MIB)
    restored("Again")

    assert files() == 1
    assert new_agent(new_manager()).state.get("large") == "y" * MIB


def test_a_state_that_becomes_small_again_leaves_no_file(
    new_manager: NewManager, new_agent: NewAgent, stored: Callable[[], Any], files: Callable[[], int]
) -> None:
    new_agent(new_manager(), state=STATE)("Hi")
    agent = new_agent(new_manager())

    agent.state.set("large", "small")
    agent("Again")

    assert files() == 0
    assert stored()["agents"]["default"]["agent_data"]["state"]["large"] == "small"
    assert new_agent(new_manager()).state.get("large") == "small"


def test_an_unchanged_state_costs_nothing(
    new_manager: NewManager, new_agent: NewAgent, command_counter: CommandCounter
) -> None:
    new_agent(new_manager(), state=STATE)("Hi")
    agent = new_agent(new_manager())

    with command_counter.counting() as log:
        agent("Again")

    assert log.names == ["update"] * 2


def test_a_state_of_ordinary_size_stays_in_the_document(
    new_manager: NewManager, new_agent: NewAgent, stored: Callable[[], Any], command_counter: CommandCounter
) -> None:
    manager = new_manager()
    with command_counter.counting() as log:
        new_agent(manager, state={"text": "x" * 200_000})

    assert log.names == ["update"]
    assert stored()["agents"]["default"]["agent_data"]["state"] == {"text": "x" * 200_000}


async def test_a_state_comes_with_the_opening(factory: MongoDBSessionManagerFactory, new_agent: NewAgent) -> None:
    for _ in range(2):
        async with factory.session("s-1", agent_ids=["default"]) as manager:
            agent = new_agent(manager)
            agent.state.set("large", agent.state.get("large") or STATE["large"])
            await agent.invoke_async("Hi")

    async with factory.session("s-1", agent_ids=["default"]) as manager:
        assert new_agent(manager).state.get("large") == STATE["large"]


def test_many_agents_with_large_states_leave_room(
    new_manager: NewManager, new_agent: NewAgent, stored: Callable[[], Any]
) -> None:
    manager = new_manager()
    agents = [
        new_agent(manager, agent_id=f"a-{number}", state={"large": f"{number} " + "x" * 3 * MIB}) for number in range(6)
    ]
    agents[0]("Is there room?")

    assert len(bson.encode(stored())) < 100_000


def test_values_of_messages_stay_when_states_change(
    new_manager: NewManager, new_agent: NewAgent, files: Callable[[], int]
) -> None:
    manager = new_manager()
    agent = new_agent(manager, state=STATE)
    manager.append_message(user("z" * MIB), agent)
    agent.state.set("large", "y" * MIB)
    agent("Again")

    assert files() == 2
    assert manager.list_messages("default")[0]["content"] == [{"text": "z" * MIB}]
    manager.redact_latest_message(user("[hidden]"), agent)
    assert new_agent(new_manager()).state.get("large") == "y" * MIB


def test_the_verbs_of_the_sdk_do_it_too(new_manager: NewManager, files: Callable[[], int]) -> None:
    repository = new_manager().session_repository
    record = SessionAgent(agent_id="a", state=dict(STATE), conversation_manager_state={})
    repository.create_agent("s-1", record)
    found = repository.read_agent("s-1", "a")
    assert found is not None
    assert found.state == STATE

    record.state["large"] = "y" * MIB
    repository.update_agent("s-1", record)

    found = repository.read_agent("s-1", "a")
    assert found is not None
    assert found.state["large"] == "y" * MIB
    assert files() == 1
    repository.delete_session("s-1")
    assert files() == 0
