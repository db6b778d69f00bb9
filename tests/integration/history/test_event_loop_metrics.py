"""What an answer cost, stored with it: as the agent counts it, and as the one model call had it."""

from collections.abc import Callable
from typing import Any

import pytest
from strands import Agent
from strands.types.event_loop import Usage
from strands.types.exceptions import EventLoopException

from mongodb_session_manager import MongoDBSessionManager
from mongodb_session_manager.testing import CommandCounter, Redaction, ScriptedModel
from tests.aliases import NewAgent, NewManager
from tests.talking import NOTE, look, look_up, take_note

CACHED: Usage = {
    "inputTokens": 10,
    "outputTokens": 5,
    "totalTokens": 15,
    "cacheReadInputTokens": 7,
    "cacheWriteInputTokens": 3,
}


def measured(manager: MongoDBSessionManager, agent_id: str = "default") -> list[dict[str, Any]]:
    """The metrics of an agent's messages, as far as they have some."""
    found = manager.list_messages(agent_id)
    return [message["event_loop_metrics"] for message in found if "event_loop_metrics" in message]


def counted(agent: Agent) -> tuple[dict[str, Any], dict[str, Any]]:
    metrics = agent.event_loop_metrics
    return dict(metrics.accumulated_usage), dict(metrics.accumulated_metrics)


def without_first_byte(metrics: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metrics.items() if name != "timeToFirstByteMs"}


def accumulated(metrics: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """As the agent counts, which leaves the time to the first byte out."""
    return metrics["accumulated_usage"], without_first_byte(metrics["accumulated_metrics"])


@pytest.mark.parametrize("usage", [None, CACHED], ids=["plain", "cached"])
def test_an_answer_has_what_the_agent_counts_after_it(
    new_manager: NewManager, new_agent: NewAgent, usage: Usage | None
) -> None:
    manager = new_manager()
    agent = new_agent(manager, model=ScriptedModel(default="Okay.", usage=usage, latency_ms=3))

    after: list[Any] = []
    for _ in range(3):
        agent("Hi")
        after.append(counted(agent))

    assert [accumulated(metrics) for metrics in measured(manager)] == after
    tokens = [metrics["accumulated_usage"]["totalTokens"] for metrics in measured(manager)]
    assert tokens == [15, 30, 45]


def test_each_call_of_a_turn_has_its_own(new_manager: NewManager, new_agent: NewAgent) -> None:
    manager = new_manager()
    agent = new_agent(manager, look("kiwi"), look("fig", 2), "A fruit.", tools=[look_up])

    agent("What is a kiwi?")

    metrics = measured(manager)
    assert [each["accumulated_usage"]["totalTokens"] for each in metrics] == [15, 30, 45]
    assert [each["accumulated_metrics"]["latencyMs"] for each in metrics] == [1, 2, 3]
    assert accumulated(metrics[-1]) == counted(agent)


@pytest.mark.parametrize("usage", [None, CACHED], ids=["plain", "cached"])
def test_the_figures_of_the_one_call_stand_beside_them(
    new_manager: NewManager, new_agent: NewAgent, usage: Usage | None
) -> None:
    manager = new_manager()
    agent = new_agent(manager, look("kiwi"), tools=[look_up])
    agent.model = ScriptedModel([look("kiwi")], default="Okay.", usage=usage, latency_ms=20)

    agent("Hi")

    for metrics in measured(manager):
        assert metrics["usage"] == (usage or {"inputTokens": 10, "outputTokens": 5, "totalTokens": 15})
        assert without_first_byte(metrics["metrics"]) == {"latencyMs": 20}
        assert 15 <= metrics["metrics"]["timeToFirstByteMs"] < 2000
        assert metrics["accumulated_metrics"]["timeToFirstByteMs"] == metrics["metrics"]["timeToFirstByteMs"]
        assert isinstance(metrics["metrics"]["timeToFirstByteMs"], int)


def test_they_are_those_of_the_message(new_manager: NewManager, new_agent: NewAgent) -> None:
    manager = new_manager()
    agent = new_agent(manager, look("kiwi"), tools=[look_up])
    agent("Hi")

    live = [message["metadata"] for message in agent.messages if message["role"] == "assistant"]

    assert [{name: metrics[name] for name in ("usage", "metrics")} for metrics in measured(manager)] == live


def test_only_answers_have_some(new_manager: NewManager, new_agent: NewAgent) -> None:
    manager = new_manager()
    agent = new_agent(manager, look("kiwi"), tools=[look_up])
    agent("Hi")
    manager.append_message({"role": "assistant", "content": [{"text": "By hand."}]}, agent)
    agent.tool.look_up(word="fig")

    messages = manager.list_messages("default")

    assert ["event_loop_metrics" in message for message in messages] == [False, True, False, True] + [False] * 5


def test_initial_messages_have_none(new_manager: NewManager, new_agent: NewAgent) -> None:
    manager = new_manager()

    new_agent(manager, messages=[{"role": "assistant", "content": [{"text": "Hello"}]}])

    assert measured(manager) == []


def test_a_new_process_counts_from_zero(new_manager: NewManager, new_agent: NewAgent) -> None:
    for _ in range(2):
        agent = new_agent(new_manager())
        agent("Hi")
        agent("Hi")

    tokens = [metrics["accumulated_usage"]["totalTokens"] for metrics in measured(new_manager())]
    assert tokens == [15, 30, 15, 30]


def test_a_model_that_reports_nothing(new_manager: NewManager, new_agent: NewAgent) -> None:
    class Silent(ScriptedModel):
        async def stream(self, *args: Any, **kwargs: Any) -> Any:
            async for event in super().stream(*args, **kwargs):
                if "metadata" not in event:
                    yield event

    manager = new_manager()
    agent = new_agent(manager, model=Silent(default="Okay."))

    agent("Hi")

    assert [accumulated(metrics) for metrics in measured(manager)] in ([], [counted(agent)])


def test_a_guardrails_answer_has_some(new_manager: NewManager, new_agent: NewAgent) -> None:
    manager = new_manager()

    new_agent(manager, Redaction(assistant_message="Sorry."))("Secret")

    assert [metrics["usage"]["totalTokens"] for metrics in measured(manager)] == [15]


# Tools


def usage_of_tools(manager: MongoDBSessionManager) -> list[dict[str, Any]]:
    """Calls, successes and errors by tool, of each message that has metrics."""
    found = []
    for metrics in measured(manager):
        tools = metrics.get("tool_usage", {})
        assert all(used["seconds"] >= 0 for used in tools.values())
        found.append({name: (used["calls"], used["successes"], used["errors"]) for name, used in tools.items()})
    return found


def test_the_message_that_ends_an_invocation_tells_of_its_tools(new_manager: NewManager, new_agent: NewAgent) -> None:
    manager = new_manager()
    turns = [
        [look("kiwi", 1), look("unknown", 2), NOTE],
        look("fig", 3),
        "Fruits.",
        "Nothing to look up.",
        look("unknown", 4),
        "Sorry.",
    ]
    agent = new_agent(manager, *turns, tools=[look_up, take_note])

    for _ in range(3):
        agent("Hi")

    assert usage_of_tools(manager) == [
        {},
        {},
        {"look_up": (3, 2, 1), "take_note": (1, 1, 0)},
        {},
        {},
        {"look_up": (1, 0, 1)},
    ]


def test_tools_of_a_restored_agent_are_counted_once(new_manager: NewManager, new_agent: NewAgent) -> None:
    for _ in range(2):
        new_agent(new_manager(), look("kiwi"), "A fruit.", tools=[look_up])("Hi")

    assert usage_of_tools(new_manager()) == [{}, {"look_up": (1, 1, 0)}] * 2


def test_tools_of_an_invocation_that_broke_are_told_by_the_next(new_manager: NewManager, new_agent: NewAgent) -> None:
    manager = new_manager()
    agent = new_agent(manager, look("kiwi"), RuntimeError("the model is down"), "Okay.", tools=[look_up])
    with pytest.raises(EventLoopException, match="down"):
        agent("Hi")

    agent("Hi again")

    assert usage_of_tools(manager) == [{}, {"look_up": (1, 1, 0)}]


def test_two_agents_keep_their_tools_apart(new_manager: NewManager, new_agent: NewAgent) -> None:
    manager = new_manager()
    for agent_id in ("one", "two"):
        new_agent(manager, look("kiwi"), "A fruit.", agent_id=agent_id, tools=[look_up])("Hi")

    for agent_id in ("one", "two"):
        assert measured(manager, agent_id)[-1]["tool_usage"]["look_up"]["calls"] == 1


# Costs


@pytest.mark.parametrize(
    ("turns", "writes"), [(["Okay."], 2), ([look("kiwi"), "A fruit."], 4)], ids=["plain", "with a tool"]
)
async def test_metrics_cost_no_write_of_their_own(
    new_manager: NewManager,
    new_agent: NewAgent,
    command_counter: CommandCounter,
    turns: list[Any],
    writes: int,
) -> None:
    async def hook(original_func: Callable[..., Any], action: str, session_id: str, **kwargs: Any) -> Any:
        return await original_func()

    manager = new_manager(metadata_fields=["a"], metadata_hook=hook, feedback_hook=hook, application_name="shop")
    tools = [look_up, manager.get_metadata_tool()]
    agent = new_agent(manager, *turns, system_prompt="Be kind.", state={"a": 1}, tools=tools)

    with command_counter.counting() as log:
        await agent.invoke_async("Hi")

    assert log.names == ["update"] * writes
    manager.sync_agent(agent)
    assert len(measured(manager)) == writes // 2
