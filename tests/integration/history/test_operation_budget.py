"""Exact numbers of round trips: what a session costs its users on every call."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from strands import Agent
from strands.agent.conversation_manager import SlidingWindowConversationManager
from strands.hooks import AfterInvocationEvent

from mongodb_session_manager import MongoDBSessionManager
from mongodb_session_manager.testing import CommandCounter, session_ids
from tests.aliases import NewAgent, NewManager
from tests.talking import LOOK, NOTE, every_way_to_talk, look_up, take_note
from tests.watching import cost

Talk = Callable[[Agent, str], Awaitable[None]]

INITIAL = [{"role": "user", "content": [{"text": "Hi"}]}, {"role": "assistant", "content": [{"text": "Hello"}]}]


@pytest.fixture
def indexed(new_manager: NewManager) -> None:
    """The collection's indexes are there: they cost one command in a process."""
    new_manager("another session")


# Opening


@pytest.mark.usefixtures("indexed")
@pytest.mark.parametrize("times_opened_before", [0, 1, 2])
def test_opening_a_session_is_one_operation(
    new_manager: NewManager, command_counter: CommandCounter, times_opened_before: int
) -> None:
    for _ in range(times_opened_before):
        new_manager()

    with command_counter.counting() as log:
        new_manager()

    assert log.names == ["findAndModify"]


@pytest.mark.usefixtures("indexed")
def test_opening_does_not_read_the_agents(
    new_manager: NewManager, new_agent: NewAgent, command_counter: CommandCounter
) -> None:
    new_agent(new_manager())

    with command_counter.counting() as log:
        new_manager()

    projection = log.commands[0].document["fields"]
    assert projection.pop("agents_bytes") == {"$bsonSize": {"agents": "$agents"}}
    assert "$agents" not in str(projection.pop("expired"))
    assert set(projection.values()) == {1}
    assert not {name.partition(".")[0] for name in projection} & {"agents", "multi_agents", "metadata", "feedbacks"}


def test_indexes_are_made_once_for_a_namespace(new_manager: NewManager, command_counter: CommandCounter) -> None:
    for session_id in ("s-1", "s-1", "s-2"):
        new_manager(session_id)

    assert command_counter.index_builds == 1


def test_another_collection_gets_its_own_indexes(new_manager: NewManager, command_counter: CommandCounter) -> None:
    for collection in ("one", "two", "one"):
        new_manager(collection_name=collection)

    builds = [command.collection for command in command_counter.commands if command.name == "createIndexes"]
    assert builds == ["one", "two"]


@pytest.mark.usefixtures("indexed")
def test_a_new_metadata_field_is_indexed_once(new_manager: NewManager, command_counter: CommandCounter) -> None:
    with command_counter.counting() as log:
        new_manager(metadata_fields=["topic"])
        new_manager("s-2", metadata_fields=["topic"])

    assert sorted(log.names) == ["createIndexes", "findAndModify", "findAndModify"]


# Agents


@pytest.mark.parametrize("options", [{}, {"messages": INITIAL}, {"state": {"a": 1}}])
def test_a_new_agent_of_a_new_session_is_one_write(
    new_manager: NewManager, new_agent: NewAgent, command_counter: CommandCounter, options: dict[str, Any]
) -> None:
    manager = new_manager()

    with command_counter.counting() as log:
        new_agent(manager, **options)

    assert cost(log) == (1, 0, 0)


@pytest.mark.parametrize("options", [{}, {"messages": INITIAL}])
def test_a_new_agent_of_an_existing_session_is_one_write(
    new_manager: NewManager, new_agent: NewAgent, command_counter: CommandCounter, options: dict[str, Any]
) -> None:
    new_agent(new_manager(), agent_id="first")
    manager = new_manager()

    with command_counter.counting() as log:
        new_agent(manager, agent_id="second", **options)

    assert cost(log) == (1, 0, 0)


@pytest.mark.parametrize("turns", [0, 1, 3])
def test_restoring_an_agent_is_one_read(
    new_manager: NewManager, new_agent: NewAgent, command_counter: CommandCounter, turns: int
) -> None:
    agent = new_agent(new_manager())
    for turn in range(turns):
        agent(f"Turn {turn}")
    manager = new_manager()

    with command_counter.counting() as log:
        restored = new_agent(manager)

    assert cost(log) == (0, 1, 0)
    assert len(restored.messages) == 2 * turns


def test_a_second_initialize_of_the_same_agent_costs_nothing(
    new_manager: NewManager, new_agent: NewAgent, command_counter: CommandCounter
) -> None:
    manager = new_manager()
    agent = new_agent(manager)

    with command_counter.counting() as log:
        manager.initialize(agent)

    assert cost(log) == (0, 0, 0)


# Turns


@every_way_to_talk
async def test_a_plain_turn_is_two_writes(
    new_manager: NewManager, new_agent: NewAgent, command_counter: CommandCounter, talk: Talk
) -> None:
    agent = new_agent(new_manager())

    for _ in range(3):
        with command_counter.counting() as log:
            await talk(agent, "Hi")

        assert cost(log) == (2, 0, 0)


@every_way_to_talk
async def test_a_turn_with_a_tool_call_is_four_writes(
    new_manager: NewManager, new_agent: NewAgent, command_counter: CommandCounter, talk: Talk
) -> None:
    agent = new_agent(new_manager(), LOOK, "A bird.", tools=[look_up])

    with command_counter.counting() as log:
        await talk(agent, "Hi")

    assert len(agent.messages) == 4
    assert cost(log) == (4, 0, 0)


def test_a_restored_agent_pays_the_same(
    new_manager: NewManager, new_agent: NewAgent, command_counter: CommandCounter
) -> None:
    new_agent(new_manager())("Hi")
    agent = new_agent(new_manager())

    with command_counter.counting() as log:
        agent("Are you there?")

    assert cost(log) == (2, 0, 0)


def test_state_that_a_tool_changed_rides_on_the_next_message(
    new_manager: NewManager,
    new_agent: NewAgent,
    command_counter: CommandCounter,
    stored: Callable[[], dict[str, Any]],
) -> None:
    agent = new_agent(new_manager(), NOTE, "Done.", tools=[take_note])

    with command_counter.counting() as log:
        agent("Take a note")

    assert cost(log) == (4, 0, 0)
    assert stored()["agents"]["default"]["agent_data"]["state"] == {"noted": True}


def test_state_that_changed_after_the_last_message_is_one_write_more(
    new_manager: NewManager, new_agent: NewAgent, command_counter: CommandCounter
) -> None:
    agent = new_agent(new_manager())

    def note(event: AfterInvocationEvent) -> None:
        event.agent.state.set("asked", True)

    agent.add_hook(note)

    with command_counter.counting() as log:
        agent("Hi")

    assert cost(log) == (3, 0, 0)


def test_a_moved_window_is_one_write_more(
    new_manager: NewManager, new_agent: NewAgent, command_counter: CommandCounter
) -> None:
    manager = new_manager()
    agent = new_agent(manager, conversation_manager=SlidingWindowConversationManager(window_size=2))
    agent("Fill the window")
    manager.flush()

    with command_counter.counting() as log:
        agent("Move it")
        manager.flush()

    assert agent.conversation_manager.removed_message_count == 2
    assert cost(log) == (3, 0, 0)


def test_a_direct_tool_call_is_four_writes(
    new_manager: NewManager, new_agent: NewAgent, command_counter: CommandCounter
) -> None:
    agent = new_agent(new_manager(), tools=[look_up])

    with command_counter.counting() as log:
        agent.tool.look_up(word="kiwi")

    assert len(agent.messages) == 4
    assert cost(log) == (4, 0, 0)


def test_a_direct_tool_call_that_is_not_recorded_costs_nothing(
    new_manager: NewManager, new_agent: NewAgent, command_counter: CommandCounter
) -> None:
    agent = new_agent(new_manager(), tools=[look_up])

    with command_counter.counting() as log:
        agent.tool.look_up(word="kiwi", record_direct_tool_call=False)

    assert cost(log) == (0, 0, 0)


# Syncing


@pytest.mark.parametrize("turns", [0, 1])
@pytest.mark.parametrize("restored", [False, True])
def test_syncing_an_unchanged_agent_costs_nothing(
    new_manager: NewManager, new_agent: NewAgent, command_counter: CommandCounter, turns: int, restored: bool
) -> None:
    manager = new_manager()
    agent = new_agent(manager, state={"a": 1})
    for _ in range(turns):
        agent("Hi")
    if restored:
        manager = new_manager()
        agent = new_agent(manager)

    with command_counter.counting() as log:
        manager.sync_agent(agent)
        manager.flush()

    assert cost(log) == (0, 0, 0)


def test_syncing_a_changed_agent_is_one_write(
    new_manager: NewManager, new_agent: NewAgent, command_counter: CommandCounter
) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    agent.state.set("a", 1)

    with command_counter.counting() as log:
        manager.sync_agent(agent)
        manager.sync_agent(agent)

    assert cost(log) == (1, 0, 0)


def test_state_that_was_set_to_the_same_value_is_not_written(
    new_manager: NewManager, new_agent: NewAgent, command_counter: CommandCounter
) -> None:
    manager = new_manager()
    agent = new_agent(manager, state={"a": 1})
    agent.state.set("a", 1)

    with command_counter.counting() as log:
        manager.sync_agent(agent)

    assert cost(log) == (0, 0, 0)


# One shard


def test_every_command_names_its_session(
    new_manager: NewManager, new_agent: NewAgent, command_counter: CommandCounter
) -> None:
    def use(manager: MongoDBSessionManager) -> None:
        window = SlidingWindowConversationManager(window_size=2)
        agent = new_agent(manager, LOOK, "A bird.", tools=[look_up], conversation_manager=window)
        agent("Hi")
        agent("Hi")
        agent.tool.look_up(word="kiwi")
        agent.state.set("a", 1)
        manager.sync_agent(agent)
        manager.redact_latest_message({"role": "assistant", "content": [{"text": "…"}]}, agent)

    for _ in range(2):
        use(new_manager())
    new_manager().delete_session()

    sent = [command for command in command_counter.commands if command.name != "createIndexes"]
    on_sessions = [command for command in sent if command.collection == "agent_sessions"]
    assert [(command.name, session_ids(command)) for command in on_sessions] == [
        (command.name, ["s-1"]) for command in on_sessions
    ]
    # What else belongs to a session carries its id.
    assert all("'s-1'" in str(command.document) for command in sent)
