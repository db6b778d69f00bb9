"""An agent that was read ahead comes with its first message; what needs it earlier stores it."""

from collections.abc import Callable
from typing import Any

import pytest
from strands import Agent

from mongodb_session_manager import MongoDBSessionManager, MongoDBSessionManagerFactory
from mongodb_session_manager.errors import AgentNotFoundError, MessageNotFoundError
from mongodb_session_manager.testing import CommandCounter
from mongodb_session_manager.types import Durability
from tests.aliases import History, NewAgent
from tests.talking import every_durability, texts, user

CONFIG = {"agent_id": "a", "model": "scripted", "system_prompt": "Be brief.", "prompt_metadata": None}

EARLY: dict[str, tuple[Callable[[MongoDBSessionManager], Any], dict[str, Any]]] = {
    "prompt metadata": (lambda m: m.set_prompt_metadata("a", {"version": 3}), {"prompt_metadata": {"version": 3}}),
    "config": (lambda m: m.update_agent_config("a", system_prompt="Be kind."), {"system_prompt": "Be kind."}),
    "reading": (lambda m: m.get_agent_config("a"), {}),
    "listing": (lambda m: m.list_agents(), {}),
    "feedback": (lambda m: m.add_feedback({"agent_id": "a", "message_id": 0, "rating": "up"}), {}),
    "feedback by tracking": (lambda m: m.add_feedback({"tracking_id": "t-0", "rating": "up"}), {}),
    "feedback of the agent": (lambda m: m.add_feedback({"agent_id": "a", "rating": "up"}), {}),
}


def new(new_agent: NewAgent, manager: MongoDBSessionManager, **options: Any) -> Agent:
    before: Any = {**user("Before"), "tracking_id": "t-0"}
    return new_agent(manager, agent_id="a", system_prompt="Be brief.", messages=[before], **options)


@pytest.mark.parametrize("early", EARLY)
@pytest.mark.parametrize("agent_ids", [["a"], []], ids=["ahead", "not ahead"])
@every_durability
async def test_what_needs_the_agent_before_the_first_prompt(
    factory: MongoDBSessionManagerFactory,
    new_agent: NewAgent,
    history: History,
    early: str,
    agent_ids: list[str],
    durability: Durability,
) -> None:
    do, changed = EARLY[early]
    async with factory.session("s-1", agent_ids=agent_ids, durability=durability) as manager:
        agent = new(new_agent, manager, state={"a": 1})

        do(manager)

        assert manager.get_agent_config("a") == {**CONFIG, **changed}
        assert manager.list_agents() == [{**CONFIG, **changed}]
        assert len(manager.get_feedbacks()) == early.startswith("feedback")
        await agent.invoke_async("Hi")
        assert manager.get_agent_config("a") == {**CONFIG, **changed}

    assert texts(history("s-1", "a")) == ["Before", "Hi", "Okay."]


async def test_feedback_off_the_loop(factory: MongoDBSessionManagerFactory, new_agent: NewAgent) -> None:
    async with factory.session("s-1", agent_ids=["a"]) as manager:
        agent = new(new_agent, manager)
        await manager.aadd_feedback({"agent_id": "a", "message_id": 0})
        await agent.invoke_async("Hi")

        assert [feedback["message_id"] for feedback in await manager.aget_feedbacks()] == [0]


async def test_an_agent_without_messages(factory: MongoDBSessionManagerFactory, new_agent: NewAgent) -> None:
    async with factory.session("s-1", agent_ids=["a", "b"]) as manager:
        agent = new_agent(manager, agent_id="a")
        manager.set_prompt_metadata("a", {"version": 3})

        with pytest.raises(AgentNotFoundError):
            manager.set_prompt_metadata("b", {"version": 3})
        with pytest.raises(MessageNotFoundError):
            manager.add_feedback({"agent_id": "a", "message_id": 0})
        assert manager.get_agent_config("b") is None
        assert [config["agent_id"] for config in manager.list_agents()] == [agent.agent_id]


async def test_it_costs_one_write_and_no_more(
    factory: MongoDBSessionManagerFactory, new_agent: NewAgent, command_counter: CommandCounter
) -> None:
    async with factory.session("s-1", agent_ids=["a"]) as manager:
        agent = new(new_agent, manager)
        with command_counter.counting() as log:
            manager.set_prompt_metadata("a", {"version": 3})
        assert log.names == ["update", "update"]
        with command_counter.counting() as log:
            manager.set_prompt_metadata("a", {"version": 4})
            manager.get_agent_config("a")
            manager.list_agents()
            manager.add_feedback({"agent_id": "a", "message_id": 0})
        assert log.names == ["update", "find", "aggregate", "update"]
        with command_counter.counting() as log:
            await agent.invoke_async("Hi")
        assert log.names == ["update", "update"]
