"""A session document that the states and prompts of agents fill: they leave it, and come back equal."""

import asyncio
from collections.abc import Callable
from typing import Any

import bson
import pytest
from pymongo.errors import PyMongoError
from strands import Agent
from strands.types.session import SessionAgent

from mongodb_session_manager import MongoDBSessionManager, MongoDBSessionManagerFactory, SessionCatalog
from mongodb_session_manager.errors import SessionTooLargeError
from mongodb_session_manager.testing import CommandCounter
from tests.aliases import Client, Failing, NewAgent, NewManager
from tests.talking import every_durability, texts, user

MIB = 1024 * 1024

Digests = Callable[[], set[str]]


@pytest.fixture
def files(observer: Client, database: str) -> Callable[[], int]:
    return lambda: int(observer[database]["agent_sessions_files.files"].count_documents({}))


@pytest.fixture
def fill(observer: Client, database: str) -> Callable[[int], None]:
    """Fill the session document with what nothing can move, until it has so many bytes left."""

    def leave(left: int) -> None:
        sessions = observer[database].agent_sessions
        sessions.update_one({}, {"$set": {"theirs": ""}})
        [found] = sessions.aggregate([{"$project": {"bytes": {"$bsonSize": "$$ROOT"}}}])
        sessions.update_one({}, {"$set": {"theirs": "x" * (16 * MIB - found["bytes"] - left)}})

    return leave


def move_fields(manager: MongoDBSessionManager) -> bool:
    """Move the fields of agents as another writer would that finds no room."""
    mover: Any = manager._stores.histories._sizes._mover
    return bool(mover._fields.move(manager.session_id))


def sync_now(manager: MongoDBSessionManager, agent: Agent) -> None:
    manager.sync_agent(agent)
    manager.flush()


def in_file(stored: Callable[[], Any], agent_id: str = "default", name: str = "state") -> bool:
    return "%file" in stored()["agents"][agent_id]["agent_data"].get(name, {})


@pytest.mark.parametrize(("durability", "ahead"), [("sync", False), ("async", True), ("exit", True)])
def test_a_state_of_ordinary_size_leaves_a_document_that_has_no_room_for_it(
    new_manager: NewManager,
    new_agent: NewAgent,
    fill: Callable[[int], None],
    files: Callable[[], int],
    durability: str,
    ahead: bool,
) -> None:
    old = new_agent(new_manager(durability=durability), agent_id="old")
    old("Hi")
    fill(60_000)

    manager = new_manager(durability=durability)
    if ahead:
        manager.prefetch(["new"])
    new = new_agent(manager, agent_id="new", state={"all": "n" * 100_000})
    new("Hi")
    old.state.set("all", "o" * 100_000)
    old("Again")
    manager.flush()

    again = new_manager()
    for agent in (new, old):
        restored = new_agent(again, agent_id=agent.agent_id)
        assert restored.state.get() == agent.state.get()
        assert restored.messages == agent.messages
    assert files() == 2


def test_a_call_of_its_own_finds_room_too(
    new_manager: NewManager, new_agent: NewAgent, fill: Callable[[int], None], files: Callable[[], int]
) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    fill(30_000)

    agent.state.set("all", "s" * 100_000)
    manager.sync_agent(agent)
    manager.append_message(user("Hi"), agent)
    manager.update_agent_config("default", system_prompt="p" * 90_000)
    record = SessionAgent(agent_id="b", state={"all": "b" * 90_000}, conversation_manager_state={})
    manager.session_repository.create_agent("s-1", record)

    assert new_agent(new_manager()).state.get("all") == "s" * 100_000
    assert new_manager().get_agent_config("default")["system_prompt"] == "p" * 90_000  # type: ignore[index]
    assert files() == 3
    agent.state.set("all", "small")
    manager.sync_agent(agent)
    manager.update_agent_config("default", system_prompt="short")
    assert files() == 1


def test_a_state_that_finds_no_room_leaves_no_file(
    new_manager: NewManager, new_agent: NewAgent, fill: Callable[[int], None], files: Callable[[], int]
) -> None:
    agent = new_agent(new_manager())
    fill(200)
    agent.state.set("all", "s" * 100_000)

    with pytest.raises(SessionTooLargeError):
        agent("Hi")

    assert files() == 0


@every_durability
def test_a_lost_answer_leaves_one_file(
    new_manager: NewManager,
    new_agent: NewAgent,
    mongodb_uri: str,
    failing: Failing,
    fill: Callable[[int], None],
    files: Callable[[], int],
    durability: str,
) -> None:
    manager = new_manager(connection_string=mongodb_uri, retryWrites=False, durability=durability)
    agent = new_agent(manager)
    agent.state.set("all", "1" * 100_000)
    agent("Hi")
    manager.flush()
    fill(90_000)
    agent.state.set("all", "2" * 200_000)
    lost = {"code": 64, "errmsg": "timed out"}
    manager.append_message(user("Before"), agent)
    agent.state.set("all", "3" * 200_000)
    with failing("update", writeConcernError=lost), pytest.raises(PyMongoError):
        sync_now(manager, agent)
    manager.flush()

    assert files() == 1
    assert new_agent(new_manager()).state.get("all") == "3" * 200_000
    agent.state.set("all", "small")
    agent("Bye")
    manager.flush()
    assert files() == 0
    assert texts(new_agent(new_manager()).messages)[-2:] == ["Bye", "Okay."]


@pytest.fixture
def full(new_manager: NewManager, new_agent: NewAgent, observer: Client, database: str, stored: Any) -> None:
    """Store as many agents with states of 200 kB as a document holds."""
    new_agent(new_manager(), agent_id="a-0", state={"all": "0"})
    sessions, agent = observer[database].agent_sessions, stored()["agents"]["a-0"]
    for some in (range(42), range(42, 83)):
        changed: dict[str, Any] = {}
        for number in some:
            data = {**agent["agent_data"], "agent_id": f"a-{number}", "state": {"all": f"{number} " + "x" * 200_000}}
            changed[f"agents.a-{number}"] = {**agent, "agent_data": data}
        ids = {"$addToSet": {"agent_ids": {"$each": [f"a-{number}" for number in some]}}}
        sessions.update_one({}, {"$set": changed, **ids})


@pytest.mark.usefixtures("full")
def test_a_document_full_of_states_has_room(
    new_manager: NewManager, new_agent: NewAgent, fill: Callable[[int], None], files: Callable[[], int]
) -> None:
    manager = new_manager()
    agents = [new_agent(manager, agent_id=f"a-{number}") for number in (0, 82)]
    fill(1_000)

    agents[0]("Is there room? " + "m" * 10_000)
    assert 20 < files() < 30
    fill(1_000)
    agents[1].state.set("all", "y" * 250_000)
    agents[1]("And now?")
    fill(1_000)
    manager.update_metadata({"topic": "x" * 100_000})
    fill(1_000)
    manager.add_feedback({"rating": "up", "comment": "x" * 2_000})
    new = new_agent(manager, agent_id="new", state={"all": "z" * 200_000})
    new("Hi")

    again = new_manager()
    for agent in (*agents, new):
        restored = new_agent(again, agent_id=agent.agent_id)
        assert restored.state.get() == agent.state.get()
        assert restored.messages == agent.messages
    assert new_agent(again, agent_id="a-1").state.get("all") == "1 " + "x" * 200_000


@pytest.mark.parametrize("value", ["small", "y" * 5_000, "y" * 300_000])
@every_durability
def test_a_live_agent_goes_on_after_its_state_moved(
    new_manager: NewManager,
    new_agent: NewAgent,
    stored: Callable[[], Any],
    files: Callable[[], int],
    command_counter: CommandCounter,
    durability: str,
    value: str,
) -> None:
    manager = new_manager(durability=durability)
    agent = new_agent(manager, state={"all": "x" * 100_000})
    agent("Hi")
    manager.flush()
    assert move_fields(new_manager())
    assert in_file(stored)

    agent("No change")
    manager.flush()
    assert in_file(stored)
    agent.state.set("all", value)
    agent("A change")
    manager.flush()

    assert in_file(stored) is (len(value) > 256 * 1024)
    assert files() == int(in_file(stored))
    restored = new_agent(new_manager())
    assert restored.state.get("all") == value
    assert restored.messages == agent.messages
    agent.state.set("all", "small")
    agent("Again")
    manager.flush()
    assert files() == 0
    agent.state.set("all", "other")
    with command_counter.counting() as log:
        agent("As ever")
        manager.flush()
    # "async" may send both messages of a turn in one write.
    assert (
        log.names in {"sync": [["update"] * 2], "async": [["update"], ["update"] * 2], "exit": [["update"]]}[durability]
    )


async def test_agents_that_share_commands_go_on_after_their_states_moved(
    factory: MongoDBSessionManagerFactory, new_manager: NewManager, new_agent: NewAgent, files: Callable[[], int]
) -> None:
    names = [f"a-{n}" for n in range(6)]
    async with factory.session("s-1") as manager:
        agents = [new_agent(manager, agent_id=name, state={"all": "x" * 20_000}) for name in names]
        assert move_fields(new_manager())
        for value in ("one", "two"):
            for agent in agents:
                agent.state.set("all", value)
            await asyncio.gather(*(agent.invoke_async("Hi") for agent in agents))

    again = new_manager()
    for agent in agents:
        restored = new_agent(again, agent_id=agent.agent_id)
        assert restored.state.get("all") == "two"
        assert texts(restored.messages) == ["Hi", "Okay."] * 2
    assert files() == 0


def test_a_state_that_is_written_during_a_move_stays(
    new_manager: NewManager, new_agent: NewAgent, stored: Callable[[], Any], files: Callable[[], int]
) -> None:
    agents = [new_agent(new_manager(), agent_id=name, state={"all": name * 100_000}) for name in ("a", "b")]
    other = new_manager()
    mover: Any = other._stores.histories._sizes._mover
    around = other._stores.histories._values.around

    def late(*given: Any) -> bool:
        agents[0].state.set("all", "new")
        agents[0]("Faster")
        return around(*given)

    mover._fields._values.around = late
    assert move_fields(other)

    assert not in_file(stored, "a")
    assert in_file(stored, "b")
    assert files() == 1
    assert [new_agent(new_manager(), agent_id=n).state.get("all") for n in "ab"] == ["new", "b" * 100_000]


def test_two_movers_at_once(
    new_manager: NewManager, new_agent: NewAgent, stored: Callable[[], Any], files: Callable[[], int]
) -> None:
    agent = new_agent(new_manager(), state={"all": "x" * 100_000})
    one, two = new_manager(), new_manager()
    for late in ("_read", "around"):
        agent.state.set("all", late + "x" * 100_000)
        agent(late)
        mover: Any = one._stores.histories._sizes._mover._fields  # type: ignore[union-attr]
        owner = mover if late == "_read" else mover._values
        slow = getattr(owner, late)

        def second(*given: Any, slow: Any = slow) -> Any:
            assert move_fields(two)
            return slow(*given)

        setattr(owner, late, second)
        move_fields(one)
        setattr(owner, late, slow)

        assert files() == 1
        assert new_agent(new_manager()).state.get("all") == late + "x" * 100_000


def test_a_first_version_agent_keeps_its_state_in_the_document(
    new_manager: NewManager, new_agent: NewAgent, observer: Client, database: str, stored: Callable[[], Any]
) -> None:
    new_agent(new_manager(), state={"all": "x" * 100_000})
    observer[database].agent_sessions.update_one({}, {"$unset": {"agents.default.guard": ""}})

    assert not move_fields(new_manager())
    assert not in_file(stored)


def test_the_verbs_of_another_repository_remove_what_they_replace(
    new_manager: NewManager, new_agent: NewAgent, files: Callable[[], int]
) -> None:
    new_agent(new_manager(), state={"all": "x" * 100_000}, system_prompt="p" * 100_000)
    assert move_fields(new_manager())
    assert files() == 2

    record = SessionAgent(agent_id="default", state={"all": "small"}, conversation_manager_state={})
    new_manager().session_repository.update_agent("s-1", record)
    new_manager().update_agent_config("default", system_prompt="short")

    assert files() == 0


# Prompts


def test_large_prompts_and_lineages_leave_room(
    new_manager: NewManager,
    new_agent: NewAgent,
    stored: Callable[[], Any],
    files: Callable[[], int],
    command_counter: CommandCounter,
) -> None:
    manager = new_manager()
    prompt, lineage = "p" * 900_000, {"source": "l" * 900_000, "a.b": [1, {"%file": {"sha256": "mine"}}]}
    for number in range(20):
        name = f"a-{number}"
        new_agent(manager, agent_id=name, system_prompt=prompt + name)
        manager.set_prompt_metadata(name, lineage)
    assert len(bson.encode(stored())) < 100_000
    assert files() == 21

    with command_counter.counting() as log:
        configs = new_manager().list_agents()
    assert len(log.names) < 8
    assert [config["system_prompt"] for config in configs] == [f"{prompt}a-{n}" for n in range(20)]
    assert manager.get_agent_config("a-3")["prompt_metadata"] == lineage  # type: ignore[index]
    restored = new_agent(new_manager(), agent_id="a-3", system_prompt=prompt + "a-3")
    with command_counter.counting() as log:
        restored("Hi")
    assert log.names == ["update", "update"]
    restored.system_prompt = "short"
    restored("Again")
    assert files() == 20
    assert manager.get_agent_config("a-3")["system_prompt"] == "short"  # type: ignore[index]


def test_prompts_of_ordinary_size_move_too(
    new_manager: NewManager, new_agent: NewAgent, stored: Callable[[], Any], files: Callable[[], int]
) -> None:
    manager = new_manager()
    agent = new_agent(manager, system_prompt="p" * 9_000, state={"all": "x" * 9_000})
    manager.set_prompt_metadata("default", {"$from": "l" * 9_000})
    assert move_fields(new_manager())
    assert files() == 3

    config = new_manager().get_agent_config("default")
    assert config == {
        "agent_id": "default",
        "model": agent.model.get_config().get("model_id"),
        "system_prompt": "p" * 9_000,
        "prompt_metadata": {"$from": "l" * 9_000},
    }
    agent("Nothing changed")
    agent.system_prompt = "new"
    agent("The prompt changed")
    assert files() == 2
    manager.set_prompt_metadata("default", {"from": "elsewhere"})
    assert files() == 1


def test_a_fork_has_what_moved(new_manager: NewManager, new_agent: NewAgent, mongodb_uri: str, database: str) -> None:
    agent = new_agent(new_manager(), system_prompt="p" * 9_000, state={"all": "x" * 9_000})
    agent("Hi")
    assert move_fields(new_manager())
    with SessionCatalog(mongodb_uri, database_name=database) as catalog:
        catalog.fork("s-1", "s-2")
        catalog.delete("s-1")

    manager = new_manager("s-2")
    assert new_agent(manager).state.get() == agent.state.get()
    assert manager.get_agent_config("default")["system_prompt"] == "p" * 9_000  # type: ignore[index]
