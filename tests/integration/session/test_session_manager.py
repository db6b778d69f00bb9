"""One manager: what it stores when it is called by hand, by several agents, from several threads."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pymongo import MongoClient
from pymongo.errors import InvalidOperation
from strands import Agent
from strands.types.content import Message

from mongodb_session_manager import MongoDBSessionManager, create_mongodb_session_manager
from mongodb_session_manager.errors import MongoDBSessionError
from mongodb_session_manager.testing import CommandCounter
from tests.aliases import History, NewAgent, NewManager, Stored
from tests.talking import look_up, without_ids


def user(content: Any) -> Message:
    return cast(Message, {"role": "user", "content": content})


# The session


def test_the_session_exists_once_the_constructor_has_returned(new_manager: NewManager, stored: Stored) -> None:
    new_manager(application_name="shop")

    session = stored()
    assert (session["_id"], session["session_id"], session["application_name"]) == ("s-1", "s-1", "shop")
    assert session["agents"] == {}


def test_the_application_name_never_changes(new_manager: NewManager, stored: Stored) -> None:
    new_manager(application_name="shop")

    assert new_manager(application_name="bank").get_application_name() == "shop"
    assert stored()["application_name"] == "shop"


def test_opening_again_changes_nothing(new_manager: NewManager, new_agent: NewAgent, stored: Stored) -> None:
    new_agent(new_manager())("Hi")
    before = stored()

    new_agent(new_manager())

    assert stored() == before


@pytest.mark.parametrize("session_id", ["a b/c", "a.b$c", "日本", "x" * 1024, "{'$ne': None}"])
def test_any_session_id(new_manager: NewManager, new_agent: NewAgent, history: History, session_id: str) -> None:
    agent = new_agent(new_manager(session_id))
    agent("Hi")

    assert new_agent(new_manager(session_id)).messages == agent.messages == history(session_id)


def test_the_function_makes_the_same_manager(
    mongo_client: MongoClient[dict[str, Any]], database: str, stored: Stored
) -> None:
    with create_mongodb_session_manager("s-1", None, database, client=mongo_client) as manager:
        assert isinstance(manager, MongoDBSessionManager)

    assert stored()["session_id"] == "s-1"


def test_the_database_of_the_connection_string_is_used(mongodb_uri: str, database: str, stored: Stored) -> None:
    with MongoDBSessionManager("s-1", mongodb_uri.replace("/?", f"/{database}?")):
        pass

    assert stored() is not None


def test_the_database_argument_wins(mongodb_uri: str, database: str, stored: Stored) -> None:
    with MongoDBSessionManager("s-1", mongodb_uri.replace("/?", "/elsewhere?"), database):
        pass

    assert stored() is not None


# Messages by hand


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("Hi", [{"text": "Hi"}]),
        ("", [{"text": ""}]),
        ([{"text": "Hi"}], [{"text": "Hi"}]),
        ([{"text": "Hi"}, {"text": "there"}], [{"text": "Hi"}, {"text": "there"}]),
    ],
)
def test_content_of_an_appended_message(
    new_manager: NewManager, new_agent: NewAgent, history: History, content: Any, expected: list[Any]
) -> None:
    manager = new_manager()

    manager.append_message(user(content), new_agent(manager))

    assert without_ids(history()) == [{"role": "user", "content": expected}]


def test_a_result_is_stored_as_text(new_manager: NewManager, new_agent: NewAgent, history: History) -> None:
    manager = new_manager()
    agent = new_agent(manager, "The answer.")
    result = agent("Hi")

    manager.append_message(cast(Message, {"role": "assistant", "content": result}), agent)

    assert without_ids(history())[-1] == {"role": "assistant", "content": [{"text": str(result)}]}


def test_equal_messages_by_hand_are_two_messages(
    new_manager: NewManager, new_agent: NewAgent, history: History
) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    message = user([{"text": "Hi"}])

    manager.append_message(message, agent)
    manager.append_message(message, agent)
    manager.append_message(user([{"text": "Hi"}]), agent)

    assert len(history()) == 3


def test_an_appended_message_carries_the_state_that_changed(
    new_manager: NewManager, new_agent: NewAgent, stored: Stored, command_counter: CommandCounter
) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    agent.state.set("a", 1)

    with command_counter.counting() as log:
        manager.append_message(user("Hi"), agent)

    assert log.names == ["update"]
    assert stored()["agents"]["default"]["agent_data"]["state"] == {"a": 1}


def test_a_message_is_stored_as_it_was_when_it_was_appended(
    new_manager: NewManager, new_agent: NewAgent, history: History
) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    message = user([{"text": "Hi"}])
    manager.append_message(message, agent)

    message["content"][0]["text"] = "changed behind its back"
    manager.append_message(user("Next"), agent)

    assert history()[0]["content"] == [{"text": "Hi"}]


def test_direct_tool_calls_are_stored(new_manager: NewManager, new_agent: NewAgent, history: History) -> None:
    agent = new_agent(new_manager(), tools=[look_up])

    agent.tool.look_up(word="kiwi")
    agent("And now?")

    assert history() == agent.messages
    assert len(agent.messages) == 6


# Binding


def test_initializing_the_same_agent_again_does_nothing(
    new_manager: NewManager, new_agent: NewAgent, history: History
) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    agent("Hi")

    manager.initialize(agent)
    agent("Hi again")

    assert history() == agent.messages
    assert len(agent.messages) == 4


def test_an_agent_may_be_initialized_by_hand(new_manager: NewManager, new_agent: NewAgent, history: History) -> None:
    first = new_agent(new_manager())
    first("Hi")
    bare = Agent(callback_handler=None)
    manager = new_manager()

    manager.initialize(bare)
    manager.append_message(user("Next"), bare)

    assert bare.messages == first.messages
    assert len(history()) == 3


def test_another_object_with_the_same_id_is_refused(
    new_manager: NewManager, new_agent: NewAgent, history: History
) -> None:
    manager = new_manager()
    agent = new_agent(manager)

    with pytest.raises(MongoDBSessionError, match="'default'"):
        new_agent(manager)

    agent("I am still here")
    assert history() == agent.messages


@pytest.mark.parametrize(
    "call",
    [
        lambda manager, agent: manager.append_message(user("Hi"), agent),
        lambda manager, agent: manager.sync_agent(agent),
        lambda manager, agent: manager.redact_latest_message(user("Hi"), agent),
    ],
    ids=["append", "sync", "redact"],
)
def test_an_unbound_agent_is_refused(
    new_manager: NewManager, new_agent: NewAgent, call: Callable[..., None], stored: Stored
) -> None:
    manager = new_manager()
    new_agent(manager, agent_id="bound")
    before = stored()

    with pytest.raises(MongoDBSessionError, match=r"'stranger'.*'s-1'"):
        call(manager, Agent(agent_id="stranger", callback_handler=None))

    assert stored() == before


def test_nothing_can_be_redacted_before_the_first_message(new_manager: NewManager, new_agent: NewAgent) -> None:
    manager = new_manager()

    with pytest.raises(MongoDBSessionError, match="no message"):
        manager.redact_latest_message(user("…"), new_agent(manager))


@pytest.mark.parametrize("agent_id", ["", "a\0b", "x" * 1025, 7])
def test_bad_agent_ids_are_refused_before_anything_is_sent(
    new_manager: NewManager, command_counter: CommandCounter, agent_id: Any
) -> None:
    manager = new_manager()

    with command_counter.counting() as log, pytest.raises((TypeError, ValueError), match="agent_id"):
        manager.initialize(cast(Agent, SimpleNamespace(agent_id=agent_id)))

    assert log.commands == []


# Closing


def test_a_manager_is_a_context_manager(new_manager: NewManager, new_agent: NewAgent, history: History) -> None:
    with new_manager() as manager:
        agent = new_agent(manager)
        agent("Hi")

    assert history() == agent.messages
    with pytest.raises(MongoDBSessionError, match="closed"):
        agent("Too late")


def test_closing_twice_is_fine(new_manager: NewManager) -> None:
    manager = new_manager()

    manager.close()
    manager.close()


def test_a_borrowed_client_stays_open(new_manager: NewManager, mongo_client: MongoClient[dict[str, Any]]) -> None:
    new_manager().close()

    assert mongo_client.admin.command("ping")["ok"] == 1


def test_an_owned_client_is_closed(new_manager: NewManager, mongodb_uri: str) -> None:
    manager = new_manager(connection_string=mongodb_uri)
    client = manager.session_repository.client

    manager.close()

    with pytest.raises(InvalidOperation):
        client.admin.command("ping")


@pytest.mark.parametrize("call", ["flush", "close"])
def test_nothing_pending_is_no_work(
    new_manager: NewManager, new_agent: NewAgent, command_counter: CommandCounter, call: str
) -> None:
    manager = new_manager()
    new_agent(manager)("Hi")

    with command_counter.counting() as log:
        getattr(manager, call)()

    assert log.commands == []


# Threads


def test_eight_agents_in_eight_threads(new_manager: NewManager, new_agent: NewAgent, history: History) -> None:
    manager = new_manager()

    def converse(number: int) -> Agent:
        agent = new_agent(manager, agent_id=f"a-{number}")
        for turn in range(4):
            agent.state.set("turn", turn)
            agent(f"Turn {turn} of {number}")
        return agent

    with ThreadPoolExecutor(8) as threads:
        agents = list(threads.map(converse, range(8)))

    for agent in agents:
        assert history(agent_id=agent.agent_id) == agent.messages
        assert len(agent.messages) == 8


def test_one_agent_is_appended_to_from_eight_threads(
    new_manager: NewManager, new_agent: NewAgent, history: History, stored: Stored
) -> None:
    manager = new_manager()
    agent = new_agent(manager)

    def append(number: int) -> None:
        for part in range(4):
            manager.append_message(user(f"{number}.{part}"), agent)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(append, range(8)))

    said = [message["content"][0]["text"] for message in history()]
    assert sorted(said) == [f"{number}.{part}" for number in range(8) for part in range(4)]
    assert all([text for text in said if text[0] == str(n)] == [f"{n}.{part}" for part in range(4)] for n in range(8))
    ids = [message["message_id"] for message in stored()["agents"]["default"]["messages"]]
    assert ids == list(range(32))


def test_a_pool_of_one_connection_is_enough(
    new_manager: NewManager, new_agent: NewAgent, history: History, mongodb_uri: str
) -> None:
    manager = new_manager(connection_string=mongodb_uri, maxPoolSize=1)
    agents = [new_agent(manager, agent_id=f"a-{number}") for number in range(3)]

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda agent: agent("Hi"), agents))
    manager.flush(timeout=5)

    assert all(history(agent_id=agent.agent_id) == agent.messages for agent in agents)


def test_eight_threads_open_a_session_at_once(new_manager: NewManager, stored: Stored) -> None:
    with ThreadPoolExecutor(8) as threads:
        managers = list(threads.map(lambda _: new_manager(), range(8)))

    assert {manager.session.created_at for manager in managers} == {managers[0].session.created_at}
    assert stored()["agents"] == {}


def test_updated_at_moves_and_created_at_stays(new_manager: NewManager, new_agent: NewAgent, stored: Stored) -> None:
    agent = new_agent(new_manager())
    before = stored()
    time.sleep(0.005)

    agent("Hi")

    after = stored()
    assert after["created_at"] == before["created_at"]
    assert after["updated_at"] > before["updated_at"]
    assert after["agents"]["default"]["updated_at"] > before["agents"]["default"]["updated_at"]
