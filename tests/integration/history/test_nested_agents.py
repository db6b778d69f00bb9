"""Agents whose ids have dots, as the first version stored them: nested, one level for each part of the id."""

from collections.abc import Callable
from typing import Any

import bson
import pytest
from bson import ObjectId
from strands.agent.conversation_manager import SlidingWindowConversationManager
from strands.types.session import SessionAgent, SessionMessage

from mongodb_session_manager import (
    AgentNotFoundError,
    MessageNotFoundError,
    MongoDBSessionManagerFactory,
    MongoDBSessionRepository,
    SessionConflictError,
)
from mongodb_session_manager._schema.values import escape_key
from mongodb_session_manager.mongodb_session_repository import stores_of
from mongodb_session_manager.testing import CommandCounter, Redaction
from tests.aliases import Client, Document, History, Insert, NewAgent, NewManager, Stored
from tests.first_version import (
    AT,
    CONTENT,
    STATE,
    WINDOW,
    element,
    legacy,
    legacy_agent,
    plain,
)
from tests.talking import texts, user
from tests.watching import wait_for_indexes

IDS = ["support-v1.2", "a.b.c.d", "v.1.0", "agent.guard", "größe.🦜", "a.messages", "a b.%.c", "a$b", "price-$.v2"]
every_id = pytest.mark.parametrize("agent_id", IDS)


def put(agents: Document, agent_id: str, agent: Document) -> Document:
    """Put an agent where the first version put it."""
    *parents, name = agent_id.split(".")
    place = agents
    for parent in parents:
        place = place.setdefault(parent, {})
    place[name] = {**agent, **place.get(name, {})}
    return agents


def session(*agent_ids: str) -> Document:
    agents: Document = {}
    for agent_id in agent_ids:
        put(agents, agent_id, legacy_agent(agent_id))
    return legacy(agents)


def at(document: Document, agent_id: str) -> Document:
    place = document["agents"]
    for name in agent_id.split("."):
        place = place[name]
    return dict(place)


@pytest.fixture
def repository(mongo_client: Client, database: str) -> MongoDBSessionRepository:
    return MongoDBSessionRepository(client=mongo_client, database_name=database)


@every_id
def test_it_goes_on_where_it_stands(
    insert: Insert,
    new_manager: NewManager,
    new_agent: NewAgent,
    stored: Callable[[], Any],
    agent_id: str,
    command_counter: CommandCounter,
) -> None:
    insert(session(agent_id))
    manager = new_manager()
    with command_counter.counting() as log:
        agent = new_agent(manager, "Four.", agent_id=agent_id)
    assert log.names == ["aggregate"]
    assert (plain(agent.messages), agent.state.get()) == (CONTENT, STATE)

    with command_counter.counting() as log:
        agent("three")
    manager.flush()

    assert set(log.names) == {"update"}
    found = stored()
    assert [message["message_id"] for message in at(found, agent_id)["messages"]] == list(range(6))
    assert at(found, agent_id)["theirs"] == [1]
    assert list(found["agents"]) == [agent_id.split(".")[0]]
    again = new_agent(new_manager(), agent_id=agent_id)
    assert plain(again.messages) == plain(agent.messages)
    assert texts(again.messages)[-2:] == ["three", "Four."]
    again("five")
    assert len(at(stored(), agent_id)["messages"]) == 8


@every_id
def test_what_is_told_of_it(insert: Insert, new_manager: NewManager, new_agent: NewAgent, agent_id: str) -> None:
    insert(session(agent_id))
    manager = new_manager()

    config = {"agent_id": agent_id, "model": None, "system_prompt": None, "prompt_metadata": None}
    assert manager.list_agents() == [config]
    assert manager.get_agent_config(agent_id) == config
    assert manager.get_message_count(agent_id) == 4
    assert [message["message_id"] for message in manager.list_messages(agent_id, 2, 1)] == [1, 2]
    assert list(manager.get_usage_summary()["agents"]) == [agent_id]
    others = {agent_id.rpartition(".")[0], agent_id.partition(".")[0], f"{agent_id}.x"} - {"", agent_id}
    for parent in others:
        assert manager.get_agent_config(parent) is None
        assert manager.list_messages(parent) == []
        assert manager.get_message_count(parent) == 0

    manager.update_agent_config(agent_id, model="m", prompt_metadata={"version": 2})
    new_agent(manager, agent_id=agent_id)("go on")

    (config_after,) = new_manager().list_agents()
    assert config_after["prompt_metadata"] == {"version": 2}
    assert new_manager().get_usage_summary()["agents"][agent_id]["model_calls"] == 2
    for parent in others:
        with pytest.raises(AgentNotFoundError):
            manager.update_agent_config(parent, model="m")


@every_id
def test_a_redaction_reaches_it(
    insert: Insert,
    new_manager: NewManager,
    new_agent: NewAgent,
    everything: Callable[[], bytes],
    agent_id: str,
) -> None:
    insert(session(agent_id))
    manager = new_manager()
    new_agent(manager, Redaction(user_message="[hidden]"), agent_id=agent_id)("my secret is 4711")

    assert b"4711" not in everything()
    assert "[hidden]" in texts(new_agent(new_manager(), agent_id=agent_id).messages)


@every_id
def test_a_stored_message_is_redacted(
    insert: Insert,
    repository: MongoDBSessionRepository,
    everything: Callable[[], bytes],
    agent_id: str,
) -> None:
    document = session(agent_id)
    at(document, agent_id)["messages"].append(element(4, "user", [{"text": "my secret is 4711"}]))
    insert(document)

    repository.update_message(
        "s-1", agent_id, SessionMessage(user("my secret is 4711"), 4, redact_message=user("[hidden]"))
    )

    assert b"4711" not in everything()
    read = repository.read_message("s-1", agent_id, 4)
    assert read is not None
    assert texts([read.to_message()]) == ["[hidden]"]


@every_id
def test_the_sdks_verbs(
    insert: Insert,
    repository: MongoDBSessionRepository,
    stored: Callable[[], Any],
    new_manager: NewManager,
    new_agent: NewAgent,
    agent_id: str,
) -> None:
    insert(session(agent_id))
    new = SessionAgent(agent_id, {"a": 1}, dict(WINDOW), _internal_state={})

    with pytest.raises(SessionConflictError, match="exists already"):
        repository.create_agent("s-1", new)
    repository.update_agent("s-1", new)
    repository.create_message("s-1", agent_id, SessionMessage(user("five"), 4))
    with pytest.raises(SessionConflictError, match="already holds a message 4"):
        repository.create_message("s-1", agent_id, SessionMessage(user("other"), 4))
    repository.update_message("s-1", agent_id, SessionMessage(user("FIVE"), 4))
    with pytest.raises(MessageNotFoundError):
        repository.update_message("s-1", agent_id, SessionMessage(user("nine"), 9))

    read = repository.read_agent("s-1", agent_id)
    assert read is not None
    assert (read.state, read.created_at) == ({"a": 1}, AT.isoformat())
    assert texts([r.to_message() for r in repository.list_messages("s-1", agent_id, offset=4)]) == ["FIVE"]
    assert list(stored()["agents"]) == [agent_id.split(".")[0]]
    agent = new_agent(new_manager(), agent_id=agent_id)
    agent("six")
    assert [m["message_id"] for m in new_manager().list_messages(agent_id)] == list(range(7))


@every_id
def test_feedback_about_its_messages(
    insert: Insert, new_manager: NewManager, new_agent: NewAgent, agent_id: str
) -> None:
    insert(session(agent_id))
    manager = new_manager()
    agent = new_agent(new_manager(), agent_id=agent_id)
    agent("three")
    by_tracking_id = {"tracking_id": agent.messages[-1].get("tracking_id")}

    manager.add_feedback({"rating": "up", "agent_id": agent_id, "message_id": 1})
    manager.add_feedback({"rating": "up", "agent_id": agent_id, **by_tracking_id})
    manager.add_feedback({"rating": "up", **by_tracking_id})

    assert len(manager.get_feedbacks()) == 1 + 3
    with pytest.raises(MessageNotFoundError):
        manager.add_feedback({"rating": "up", "agent_id": agent_id, "message_id": 99})


@every_id
@pytest.mark.limits(kept_messages=4, embedded_bytes=1)
def test_its_messages_move_into_segments(
    insert: Insert,
    new_manager: NewManager,
    new_agent: NewAgent,
    stored: Callable[[], Any],
    everything: Callable[[], bytes],
    agent_id: str,
) -> None:
    insert(session(agent_id))
    keeping: Any = {"agent_id": agent_id, "conversation_manager": SlidingWindowConversationManager(1_000)}
    with new_manager() as manager:
        agent = new_agent(manager, **keeping)
        for number in range(12):
            agent(f"prompt {number}")

    found = at(stored(), agent_id)
    assert found["moved_count"] + len(found["messages"]) == 28
    assert len(found["messages"]) < 12
    manager = new_manager()
    assert plain(new_agent(manager, **keeping).messages) == plain(agent.messages)
    assert [message["message_id"] for message in manager.list_messages(agent_id)] == list(range(28))
    assert manager.get_message_count(agent_id) == 28
    assert manager.get_usage_summary()["model_calls"] == 13
    manager.add_feedback({"rating": "up", "agent_id": agent_id, "message_id": 1})
    assert manager.delete_session()
    assert everything() == b""


@every_id
def test_its_large_values_are_kept_while_they_are_used(
    insert: Insert, new_manager: NewManager, new_agent: NewAgent, agent_id: str
) -> None:
    insert(session(agent_id))
    manager = new_manager()
    agent = new_agent(manager, agent_id=agent_id)
    pictures: list[Any] = [{"image": {"format": "png", "source": {"bytes": bytes([n]) * 3_000_000}}} for n in (1, 2)]
    agent([{"text": "look"}, pictures[0]])
    agent([{"text": "and here"}, pictures[1]])
    manager.session_repository.update_message("s-1", agent_id, SessionMessage(user("gone"), 6))

    listed = new_manager().list_messages(agent_id)
    assert listed[4]["content"][1] == pictures[0]
    assert texts([listed[6]]) == ["gone"]  # type: ignore[list-item]


def test_a_family_of_agents(
    insert: Insert, new_manager: NewManager, new_agent: NewAgent, stored: Callable[[], Any]
) -> None:
    family = ["support-v1", "support-v1.2", "support-v1.3", "support-v1.3.1", "other", "x.y.z"]
    insert(session(*family))
    manager = new_manager()
    assert sorted(config["agent_id"] for config in manager.list_agents()) == sorted(family)

    agents = {agent_id: new_agent(manager, agent_id=agent_id) for agent_id in family}
    for agent_id, agent in agents.items():
        agent(f"for {agent_id}")
    manager.close()

    document = stored()
    assert sorted(document["agents"]) == ["other", "support-v1", "x"]
    again = new_manager()
    assert sorted(config["agent_id"] for config in again.list_agents()) == sorted(family)
    assert set(again.get_usage_summary()["agents"]) == set(family)
    for agent_id in family:
        assert len(at(document, agent_id)["messages"]) == 6
        assert texts(new_agent(again, agent_id=agent_id).messages)[-2:] == [f"for {agent_id}", "Okay."]


def test_very_many_of_them(insert: Insert, new_manager: NewManager) -> None:
    ids = [f"support-v{number % 7}.{number}" for number in range(1_500)]
    document = session(*ids)
    for agent_id in ids:
        at(document, agent_id)["messages"].clear()
    insert(document)

    assert sorted(config["agent_id"] for config in new_manager().list_agents()) == sorted(ids)


@every_id
@pytest.mark.parametrize("is_nested", [True, False])
def test_one_that_comes_with_the_opening_costs_nothing_more(
    insert: Insert,
    repository: MongoDBSessionRepository,
    command_counter: CommandCounter,
    agent_id: str,
    is_nested: bool,
) -> None:
    document = session(agent_id) if is_nested else legacy({escape_key(agent_id): legacy_agent(agent_id)})
    insert({**document, "schema_version": 2, "instance": ObjectId()})
    stores_of(repository).sessions.open_session("another")
    wait_for_indexes()
    with command_counter.counting() as log:
        opened = stores_of(repository).sessions.open_session("s-1", agent_ids=[agent_id, f"{agent_id}.x", "support-v1"])

    assert log.names == ["findAndModify"]
    brought, restored = opened.agents[agent_id], stores_of(repository).histories.restore_agent("s-1", agent_id)
    assert brought is not None
    assert brought == restored
    assert (brought.guard.nested, len(brought.messages)) == (is_nested, 4)
    assert opened.agents[f"{agent_id}.x"] is None
    assert opened.agents["support-v1"] is None


@pytest.mark.parametrize("prefetched", [False, True])
async def test_new_agents_beside_nested_ones(
    insert: Insert,
    factory: MongoDBSessionManagerFactory,
    new_agent: NewAgent,
    stored: Callable[[], Any],
    prefetched: bool,
) -> None:
    insert(session("support-v1.2"))
    ids = ["support-v1", "support-v1.3", "support-v1.2.4", "support-v1.2"]
    for agent_id in ids:
        async with factory.session("s-1", agent_ids=[agent_id] if prefetched else []) as manager:
            await new_agent(manager, agent_id=agent_id).invoke_async(f"for {agent_id}")

    async with factory.session("s-1") as manager:
        assert sorted(config["agent_id"] for config in manager.list_agents()) == sorted(ids)
        for agent_id in ids:
            restored = new_agent(manager, agent_id=agent_id)
            assert texts(restored.messages)[-2:] == [f"for {agent_id}", "Okay."]
            assert len(restored.messages) == (6 if agent_id == "support-v1.2" else 2)
    assert plain(new_agent(factory.create_session_manager("s-1"), agent_id="support-v1.2").messages)[:4] == CONTENT


def test_one_that_stands_in_both_places_goes_on_in_ours(
    insert: Insert, new_manager: NewManager, new_agent: NewAgent, stored: Callable[[], Any]
) -> None:
    document = session("support-v1.2")
    own = legacy_agent("support-v1.2")
    own["messages"] = [element(0, "user", [{"text": "ours"}])]
    document["agents"]["support-v1%2E2"] = own
    insert(document)
    manager = new_manager()

    assert [config["agent_id"] for config in manager.list_agents()] == ["support-v1.2"]
    agent = new_agent(manager, agent_id="support-v1.2")
    assert texts(agent.messages) == ["ours"]
    agent("more")

    assert len(stored()["agents"]["support-v1%2E2"]["messages"]) == 3
    assert at(stored(), "support-v1.2") == at(document, "support-v1.2")


@pytest.mark.parametrize(
    "agent_id",
    [
        "a..b",
        ".a",
        "a.",
        ".",
        "a.$b",
        "$a.b",
        "a.b" * 300,
        ".".join("a" * 500),
        "default.agent_data.state",
        "default.messages",
    ],
    ids=lambda agent_id: agent_id[:12],
)
def test_other_ids_with_dots_are_new(
    insert: Insert,
    new_manager: NewManager,
    new_agent: NewAgent,
    stored: Callable[[], Any],
    agent_id: str,
) -> None:
    document = session("default")
    document["agents"]["default"]["agent_data"]["state"] = {"agent_data": {"agent_id": agent_id}}
    insert(document)

    new_agent(new_manager(), agent_id=agent_id)("Hi")

    assert texts(new_agent(new_manager(), agent_id=agent_id).messages) == ["Hi", "Okay."]
    assert sorted(config["agent_id"] for config in new_manager().list_agents()) == sorted([agent_id, "default"])
    assert at(stored(), "default") == at(document, "default")


def test_a_conflict_is_met_there_too(insert: Insert, new_manager: NewManager, new_agent: NewAgent) -> None:
    insert(session("support-v1.2"))
    one, other = (new_agent(new_manager(), agent_id="support-v1.2") for _ in range(2))
    one("first")

    with pytest.raises(SessionConflictError, match=r"support-v1\.2"):
        other("second")
    assert "second" not in texts(new_agent(new_manager(), agent_id="support-v1.2").messages)


def test_an_ordinary_session_is_listed_in_one_operation(
    new_manager: NewManager, new_agent: NewAgent, command_counter: CommandCounter
) -> None:
    manager = new_manager()
    for agent_id in ("one", "v1.2"):
        new_agent(manager, agent_id=agent_id, state={"nested": {"a": {"b": 1}}})("Hi")

    with command_counter.counting() as log:
        manager.list_agents()
        manager.get_usage_summary()

    assert log.names == ["aggregate", "aggregate"]


# A document that is full


def chatty(agent_id: str, messages: int, size: int) -> Document:
    said = [element(n, ("user", "assistant")[n % 2], [{"text": f"{n} ".ljust(size, "x")}]) for n in range(messages)]
    return {**legacy_agent(agent_id), "messages": said}


@pytest.mark.parametrize("agents", [{"2": chatty("support-v1.2", 200, 80_000)}, None], ids=["alone", "beside"])
def test_a_full_session_of_a_nested_agent_is_opened_and_written(
    new_manager: NewManager, new_agent: NewAgent, insert: Insert, history: History, agents: Document | None
) -> None:
    beside = {**legacy_agent("support-v1"), "2": chatty("support-v1.2", 200, 80_000)}
    session = {**legacy({"support-v1": agents or beside}), "theirs": ""}
    session["theirs"] = "x" * (16 * 1024 * 1024 - len(bson.encode(session)) - 20)
    insert(session)
    before = [message["content"] for message in history(agent_id="support-v1.2")]

    manager = new_manager()
    manager.update_metadata({"a": "b" * 1000})
    new_agent(manager, agent_id="other")("Hi")
    agent = new_agent(manager, agent_id="support-v1.2")
    agent("Hi")

    after = [message["content"] for message in history(agent_id="support-v1.2")]
    assert after == [*before, *(message["content"] for message in agent.messages[-2:])]
    assert len(history(agent_id="other")) == 2


def test_the_messages_of_a_nested_agent_move_again_and_again(
    new_manager: NewManager, new_agent: NewAgent, insert: Insert, history: History, stored: Stored
) -> None:
    insert(legacy({"support-v1": {**legacy_agent("support-v1"), "2": chatty("support-v1.2", 20, 2_000)}}))
    agent = new_agent(new_manager(), agent_id="support-v1.2")
    agent("Hi")
    before = history(agent_id="support-v1.2")
    mover: Any = new_manager()._stores.histories._sizes._mover

    assert [mover.move("s-1", {"support-v1.2": 8_000, "support-v1": 1}) > 8_000 for _ in range(3)] == [True] * 3

    nested = stored()["agents"]["support-v1"]["2"]
    assert [each["count"] for each in nested["segments"]] == [nested["moved_count"]]
    assert history(agent_id="support-v1.2") == before
    agent("And?")
    assert len(history(agent_id="support-v1.2")) == len(before) + 2
    assert len(history(agent_id="support-v1")) == len(CONTENT)
