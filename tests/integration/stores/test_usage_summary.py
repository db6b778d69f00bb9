"""Totals of a session: sums over single model calls, whatever restarts, retries and the first version did."""

from collections.abc import Callable
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.errors import PyMongoError
from strands.agent.conversation_manager import SlidingWindowConversationManager

from mongodb_session_manager.errors import SessionNotFoundError
from mongodb_session_manager.testing import CommandCounter, ScriptedModel
from tests.aliases import Failing, NewAgent, NewManager
from tests.talking import look, look_up

StoreOld = Callable[..., None]

NOTHING: dict[str, Any] = {"model_calls": 0, "usage": {}, "metrics": {}, "tools": {}}


def model(*turns: Any, tokens: int = 15, latency_ms: int = 1, **more: int) -> ScriptedModel:
    usage: Any = {"inputTokens": tokens - 5, "outputTokens": 5, "totalTokens": tokens, **more}
    return ScriptedModel(turns, default="Okay.", usage=usage, latency_ms=latency_ms)


def totals(calls: int, tokens: int, latency_ms: int, **more: int) -> dict[str, Any]:
    """What so many calls of ``model()`` come to, with ``tokens`` in all."""
    usage = {"inputTokens": tokens - 5 * calls, "outputTokens": 5 * calls, "totalTokens": tokens, **more}
    return {"model_calls": calls, "usage": usage, "metrics": {"latencyMs": latency_ms}, "tools": {}}


def without_seconds(summary: dict[str, Any]) -> dict[str, Any]:
    for part in (summary, *summary["agents"].values()):
        for used in part["tools"].values():
            assert used.pop("seconds") >= 0
    return summary


@pytest.mark.parametrize("agents", [{}, {"default": NOTHING}], ids=["no agent", "silent agent"])
def test_nothing_was_said_yet(new_manager: NewManager, new_agent: NewAgent, agents: dict[str, Any]) -> None:
    manager = new_manager()
    for _ in agents:
        new_agent(manager)

    assert manager.get_usage_summary() == {**NOTHING, "agents": agents}


def test_a_long_lived_agent(new_manager: NewManager, new_agent: NewAgent, command_counter: CommandCounter) -> None:
    manager = new_manager()
    agent = new_agent(manager, model=model(latency_ms=2))
    for _ in range(4):
        agent("Hi")

    with command_counter.counting() as log:
        summary = manager.get_usage_summary()

    assert summary == {**totals(4, 60, 8), "agents": {"default": totals(4, 60, 8)}}
    assert summary["usage"] == agent.event_loop_metrics.accumulated_usage
    assert log.names == ["aggregate"]


def test_tokens_of_the_cache(new_manager: NewManager, new_agent: NewAgent) -> None:
    manager = new_manager()
    agent = new_agent(manager, model=model(cacheReadInputTokens=7, cacheWriteInputTokens=3))
    agent("Hi")
    agent.model = model()
    agent("Hi")

    assert manager.get_usage_summary()["usage"] == {
        **totals(2, 30, 2)["usage"],
        "cacheReadInputTokens": 7,
        "cacheWriteInputTokens": 3,
    }


def test_two_agents(new_manager: NewManager, new_agent: NewAgent) -> None:
    manager = new_manager()
    new_agent(manager, agent_id="a.b", model=model(tokens=20, latency_ms=3))("Hi")
    other = new_agent(manager, agent_id="$c", model=model(tokens=100))
    other("Hi")
    other("Hi")

    assert manager.get_usage_summary() == {
        **totals(3, 220, 5),
        "agents": {"a.b": totals(1, 20, 3), "$c": totals(2, 200, 2)},
    }


def test_restarts(new_manager: NewManager, new_agent: NewAgent) -> None:
    for turns in (2, 1, 3):
        agent = new_agent(new_manager(), model=model())
        for _ in range(turns):
            agent("Hi")

    assert new_manager().get_usage_summary() == {**totals(6, 90, 6), "agents": {"default": totals(6, 90, 6)}}


def test_tools(new_manager: NewManager, new_agent: NewAgent) -> None:
    manager = new_manager()
    for agent_id in ("one", "two"):
        turns = [[look("kiwi", 1), look("unknown", 2)], look("fig", 3), "Done.", look("fig", 4), "Done."]
        agent = new_agent(manager, agent_id=agent_id, model=model(*turns), tools=[look_up])
        agent("Hi")
        agent("Hi")

    summary = without_seconds(manager.get_usage_summary())

    used = {"look_up": {"calls": 4, "successes": 3, "errors": 1}}
    agents = {agent_id: {**totals(5, 75, 5), "tools": used} for agent_id in ("one", "two")}
    both = {"look_up": {"calls": 8, "successes": 6, "errors": 2}}
    assert summary == {**totals(10, 150, 10), "tools": both, "agents": agents}


@pytest.mark.parametrize(
    "fault",
    [{"errorCode": 13}, {"closeConnection": True}, {"writeConcernError": {"code": 64, "errmsg": "timed out"}}],
    ids=["refused", "closed", "applied"],
)
@pytest.mark.parametrize("written_before", [0, 1])
def test_a_write_that_was_made_up_for_counts_once(
    new_manager: NewManager, new_agent: NewAgent, failing: Failing, fault: dict[str, Any], written_before: int
) -> None:
    manager = new_manager()
    agent = new_agent(manager, model=model())

    with failing("update", mode={"skip": written_before}, **fault), pytest.raises(PyMongoError):
        agent("Hi")
    agent("Hi again")

    calls = 1 + written_before
    assert manager.get_usage_summary()["agents"] == {"default": totals(calls, 15 * calls, calls)}


def test_a_redaction_keeps_the_figures(new_manager: NewManager, new_agent: NewAgent) -> None:
    manager = new_manager()
    agent = new_agent(manager, model=model())
    agent("Hi")

    manager.redact_latest_message({"role": "assistant", "content": [{"text": "…"}]}, agent)

    assert manager.get_usage_summary()["agents"] == {"default": totals(1, 15, 1)}


def test_messages_that_left_the_window_count(new_manager: NewManager, new_agent: NewAgent) -> None:
    manager = new_manager()
    agent = new_agent(manager, model=model(), conversation_manager=SlidingWindowConversationManager(window_size=2))
    for _ in range(4):
        agent("Hi")

    assert manager.get_usage_summary()["usage"]["totalTokens"] == 60


def test_a_deleted_session_is_told(new_manager: NewManager) -> None:
    manager = new_manager()
    manager.delete_session()

    with pytest.raises(SessionNotFoundError, match="'s-1'"):
        manager.get_usage_summary()


# The first version stored accumulated figures alone


@pytest.fixture
def store_old(observer: MongoClient[dict[str, Any]], database: str) -> StoreOld:
    """Store a session of the first version, whose answers have the given (tokens, latency); None for no metrics."""

    def store(*figures: tuple[int, int] | None) -> None:
        messages: list[dict[str, Any]] = []
        for number, figure in enumerate(figures):
            for role in ("user", "assistant"):
                message: dict[str, Any] = {"role": role, "content": [{"text": "Hi"}]}
                messages.append({"message_id": len(messages), "message": message, "redact_message": None})
            if figure is not None:
                tokens, latency = figure
                usage = {"inputTokens": tokens - 5, "outputTokens": 5, "totalTokens": tokens}
                messages[2 * number + 1]["event_loop_metrics"] = {
                    "accumulated_usage": usage,
                    "accumulated_metrics": {"latencyMs": latency},
                }
        window = {"__name__": "SlidingWindowConversationManager", "removed_message_count": 0}
        data = {"agent_id": "default", "state": {}, "conversation_manager_state": window}
        agent = {"agent_data": data, "messages": messages}
        observer[database].agent_sessions.insert_one({"_id": "s-1", "session_id": "s-1", "agents": {"default": agent}})

    return store


@pytest.mark.parametrize(
    ("figures", "calls", "tokens", "latency_ms"),
    [
        ([], 0, 0, 0),
        ([(20, 3)], 1, 20, 3),
        ([(20, 3), (50, 7), (51, 8)], 3, 51, 8),
        ([(20, 3), None, (50, 7)], 2, 50, 7),
        ([(20, 3), (50, 7), (15, 2), (40, 4)], 4, 90, 11),
        ([(50, 3), (20, 2), (10, 1)], 3, 80, 6),
        ([(50, 3), (20, 9)], 2, 70, 12),
        ([(20, 9), (50, 3)], 2, 70, 12),
    ],
    ids=[
        "none",
        "one",
        "one process",
        "a gap",
        "a restart",
        "two restarts",
        "a restart with a slow call",
        "a restart with a large call",
    ],
)
def test_calls_are_the_differences(
    new_manager: NewManager,
    store_old: StoreOld,
    figures: list[tuple[int, int] | None],
    calls: int,
    tokens: int,
    latency_ms: int,
) -> None:
    store_old(*figures)

    summary = new_manager().get_usage_summary()

    found = (
        summary["model_calls"],
        summary["usage"].get("totalTokens", 0),
        summary["metrics"].get("latencyMs", 0),
    )
    assert found == (calls, tokens, latency_ms)


def test_a_session_of_the_first_version_that_went_on(
    new_manager: NewManager, new_agent: NewAgent, store_old: StoreOld
) -> None:
    store_old((20, 3), (50, 7))
    for _ in range(2):
        agent = new_agent(new_manager(), model=model())
        agent("Hi")
        agent("Hi")

    summary = new_manager().get_usage_summary()

    assert (summary["model_calls"], summary["usage"]["totalTokens"], summary["metrics"]["latencyMs"]) == (6, 110, 11)
