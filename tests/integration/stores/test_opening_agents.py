"""Agents that come with the opening of their session, and what a session is known to hold."""

import logging
from collections.abc import Callable
from typing import Any

import mongomock
import pytest
from strands.agent.conversation_manager import SlidingWindowConversationManager

from mongodb_session_manager import MongoDBSessionManagerFactory, MongoDBSessionRepository
from mongodb_session_manager.mongodb_session_repository import stores_of
from mongodb_session_manager.testing import CommandCounter
from tests.aliases import Client, History, NewAgent, NewManager
from tests.first_version import legacy_agent
from tests.talking import texts

NAMES = ["default", "a.b", "$x", "%24x", "ключ", "x" * 1000]


@pytest.fixture
def repository(mongo_client: Client, database: str) -> MongoDBSessionRepository:
    return MongoDBSessionRepository(client=mongo_client, database_name=database)


def talk(new_manager: NewManager, new_agent: NewAgent, *agent_ids: str, turns: int = 1) -> None:
    with new_manager() as manager:
        for agent_id in agent_ids:
            agent = new_agent(manager, agent_id=agent_id, state={"name": agent_id})
            for turn in range(turns):
                agent(f"Turn {turn}")


def test_what_comes_with_the_opening_is_what_a_restore_reads(
    new_manager: NewManager, new_agent: NewAgent, repository: MongoDBSessionRepository, command_counter: CommandCounter
) -> None:
    talk(new_manager, new_agent, *NAMES)

    with command_counter.counting() as log:
        opened = stores_of(repository).sessions.open_session("s-1", agent_ids=[*NAMES, "unknown", "default"])

    assert log.names == ["findAndModify"]
    assert list(opened.agents) == [*NAMES, "unknown"]
    assert opened.agents["unknown"] is None
    for name in NAMES:
        brought, restored = opened.agents[name], stores_of(repository).histories.restore_agent("s-1", name)
        assert brought is not None
        assert brought == restored
        assert brought.messages == restored.messages
        assert brought.data["state"] == {"name": name}


def test_the_log_tells_how_many_messages_came(
    new_manager: NewManager,
    new_agent: NewAgent,
    repository: MongoDBSessionRepository,
    caplog: pytest.LogCaptureFixture,
) -> None:
    talk(new_manager, new_agent, "a", "a.b")
    caplog.set_level(logging.DEBUG, "mongodb_session_manager")
    caplog.clear()

    stores_of(repository).sessions.open_session("s-1", agent_ids=["a", "a.b", "unknown"])
    stores_of(repository).sessions.open_session("new", agent_ids=["a"])

    opened = [text for text in caplog.messages if "operation=<open_session>" in text]
    assert ["messages=<4>" in text for text in opened] == [True, False]
    assert ["messages=<0>" in text for text in opened] == [False, True]


@pytest.mark.parametrize("create", [True, False])
async def test_several_agents_of_a_request(
    factory: MongoDBSessionManagerFactory,
    new_manager: NewManager,
    new_agent: NewAgent,
    history: History,
    command_counter: CommandCounter,
    create: bool,
) -> None:
    talk(new_manager, new_agent, *NAMES)

    with command_counter.counting() as log:
        async with factory.session("s-1", agent_ids=NAMES, create=create) as manager:
            agents = [new_agent(manager, agent_id=name) for name in NAMES]
            assert log.names == ["findAndModify" if create else "find"]
            await agents[1].invoke_async("Go on")

    assert len(log.commands) == 3
    for name, agent in zip(NAMES, agents, strict=True):
        assert history(agent_id=name) == agent.messages
        assert agent.state.get("name") == name


@pytest.mark.parametrize("exists", [True, False])
async def test_a_request_with_a_lease(
    factory: MongoDBSessionManagerFactory,
    new_manager: NewManager,
    new_agent: NewAgent,
    command_counter: CommandCounter,
    exists: bool,
) -> None:
    if exists:
        talk(new_manager, new_agent, "default")

    with command_counter.counting() as log:
        async with factory.session("s-1", agent_ids=["default"], exclusive=True) as manager:
            await new_agent(manager).invoke_async("Go on")

    # The lease is taken, and given back.
    opening = ["update", "find"] if exists else ["update"]
    assert log.names == [*opening, "update", "update", "update"]


async def test_a_window_that_has_moved(
    factory: MongoDBSessionManagerFactory, new_agent: NewAgent, history: History, command_counter: CommandCounter
) -> None:
    def window() -> SlidingWindowConversationManager:
        return SlidingWindowConversationManager(window_size=4)

    messages: list[Any] = []
    for turn in range(6):
        with command_counter.counting() as log:
            async with factory.session("s-1", agent_ids=["default"]) as manager:
                agent = new_agent(manager, conversation_manager=window())
                assert texts(agent.messages)[-len(messages) :] == texts(messages)
                await agent.invoke_async(f"Turn {turn}")
                messages = agent.messages
        # A moved window may come later.
        assert (log.names.count("findAndModify"), log.reads) == (1, 0)
    factory.close()
    assert len(history()) == 12


@pytest.mark.limits(kept_messages=2)
async def test_a_history_in_segments(
    factory: MongoDBSessionManagerFactory,
    new_manager: NewManager,
    new_agent: NewAgent,
    history: History,
) -> None:
    with new_manager() as manager:
        agent = new_agent(manager)
        for turn in range(5):
            agent(f"Turn {turn}")
        assert manager._agents.live()[0].history.move_oldest()

    async with factory.session("s-1", agent_ids=["default"]) as manager:
        agent = new_agent(manager)
        assert len(agent.messages) == 10
        await agent.invoke_async("Go on")
    assert history() == agent.messages


async def test_large_values(
    factory: MongoDBSessionManagerFactory,
    new_manager: NewManager,
    new_agent: NewAgent,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    size = 2 * 1024 * 1024
    picture = {"image": {"format": "png", "source": {"bytes": b"\x89" * size}}}
    with new_manager() as manager:
        new_agent(manager)([picture, {"text": "Look"}])  # type: ignore[arg-type]

    async with factory.session("s-1", agent_ids=["default"]) as manager:
        assert new_agent(manager).messages[0]["content"][0] == picture


async def test_a_session_of_the_first_version(
    factory: MongoDBSessionManagerFactory,
    new_agent: NewAgent,
    observer: Client,
    database: str,
    history: History,
    command_counter: CommandCounter,
) -> None:
    observer[database].agent_sessions.insert_one({"_id": "s-1", "agents": {"default": legacy_agent()}})

    with command_counter.counting() as log:
        async with factory.session("s-1", agent_ids=["default"]) as manager:
            agent = new_agent(manager)
            assert len(agent.messages) == 4
            # Its schema_version is written once.
            assert log.names == ["findAndModify", "update"]
            await agent.invoke_async("Go on")
    with command_counter.counting() as log:
        async with factory.session("s-1", agent_ids=["default"]) as manager:
            assert len(new_agent(manager).messages) == 6
    assert log.names == ["findAndModify"]


def test_a_damaged_agent_is_an_error_that_leaves_nothing(
    new_manager: NewManager, observer: Client, database: str, stored: Callable[..., Any]
) -> None:
    new_manager().close()
    broken = {"agent_data": {"agent_id": "default"}, "messages": [{"message_id": 0, "files": [{"sha256": "0"}]}]}
    observer[database].agent_sessions.update_one({"_id": "s-1"}, {"$set": {"agents.default": broken}})

    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever tells it
        new_manager(exclusive=True, _agent_ids=["default"])
    assert "lease" not in stored()


async def test_on_mongomock_it_is_read_after_the_opening(new_agent: NewAgent) -> None:
    client: Any = mongomock.MongoClient()
    with MongoDBSessionManagerFactory(client=client, database_name="shop") as factory:
        for turn in range(3):
            claims: list[dict[str, Any]] = [{}, {"exclusive": True}, {"create": turn == 0}]
            for options in claims:
                async with factory.session("s-1", agent_ids=["default", "a.b"], **options) as manager:
                    agents = [new_agent(manager), new_agent(manager, agent_id="a.b")]
                    await agents[0].invoke_async("Hi")
        assert len(agents[0].messages) == 18


# What a session is known to hold


@pytest.mark.parametrize("opened", ["new", "existing"])
def test_a_late_prefetch_sees_what_others_have_added(
    new_manager: NewManager, new_agent: NewAgent, history: History, opened: str
) -> None:
    if opened == "existing":
        new_manager().close()
    late = new_manager()
    with new_manager() as other:
        new_agent(other, agent_id="x")("From another process")

    late.prefetch(["x"])
    agent = new_agent(late, agent_id="x")
    assert texts(agent.messages) == ["From another process", "Okay."]
    agent("Go on")

    assert history(agent_id="x") == agent.messages
    assert len(agent.messages) == 4


@pytest.mark.parametrize("opened", ["new", "existing"])
def test_an_agent_made_late_without_prefetch_too(
    new_manager: NewManager, new_agent: NewAgent, history: History, opened: str
) -> None:
    if opened == "existing":
        new_manager().close()
    late = new_manager()
    with new_manager() as other:
        new_agent(other, agent_id="x")("From another process")

    agent = new_agent(late, agent_id="x")
    agent("Go on")

    assert history(agent_id="x") == agent.messages
    assert len(agent.messages) == 4


def test_a_prefetch_of_an_agent_that_is_there_is_not_what_it_is_made_from_later(
    new_manager: NewManager, new_agent: NewAgent, history: History
) -> None:
    manager = new_manager()
    agent = new_agent(manager, agent_id="x")
    agent("Hi")

    manager.prefetch(["x"])
    agent("And?")
    said = agent.messages
    del agent
    again = new_agent(manager, agent_id="x")
    again("Go on")

    assert again.messages[:4] == said
    assert history(agent_id="x") == again.messages


async def test_a_prefetch_inside_a_request(
    factory: MongoDBSessionManagerFactory, new_manager: NewManager, new_agent: NewAgent, history: History
) -> None:
    async with factory.session("s-1", agent_ids=["default"]) as manager:
        with new_manager() as other:
            new_agent(other, agent_id="x")("From another process")
        manager.prefetch(["x"])
        agent = new_agent(manager, agent_id="x")
        await agent.invoke_async("Go on")
    assert history(agent_id="x") == agent.messages
    assert len(agent.messages) == 4


def test_feedback_finds_the_messages_of_agents_that_came_since(
    new_manager: NewManager, new_agent: NewAgent, command_counter: CommandCounter
) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    agent("Hi")
    tracking_id = agent.messages[-1]["tracking_id"]

    with command_counter.counting() as log:
        manager.add_feedback({"rating": "up", "tracking_id": tracking_id})
    assert log.names == ["update"]
