"""What model calls used is known by day and model, also after their messages have left the session document."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from pymongo.errors import PyMongoError
from strands import Agent
from strands.models.routing import FallbackStrategy, ModelRouter

from mongodb_session_manager import MongoDBSessionManager
from mongodb_session_manager._schema.usage import moved_usage, usage_totals
from mongodb_session_manager.mongodb_session_repository import stores_of
from mongodb_session_manager.testing import ScriptedModel
from mongodb_session_manager.types import UsageTotals
from tests.aliases import Client, Document, Failing, Insert, NewManager, Stored
from tests.first_version import legacy, legacy_agent

pytestmark = pytest.mark.limits(kept_messages=2)

AT = datetime(2026, 11, 28, 23, 59, tzinfo=timezone.utc)
USAGE: Any = {"inputTokens": 10, "outputTokens": 5, "totalTokens": 15, "cacheReadInputTokens": 3}
MODEL_ID = "eu.anthropic.claude-v4.5:0"
ESCAPED = "eu%2Eanthropic%2Eclaude-v4%2E5:0"


def make_agent(manager: MongoDBSessionManager, model_id: Any = MODEL_ID, **options: Any) -> Agent:
    model = ScriptedModel(default="Okay.", model_id=model_id, usage=USAGE.copy(), latency_ms=2)
    return Agent(model=model, session_manager=manager, callback_handler=None, **options)


def talk(agent: Agent, turns: int) -> None:
    for number in range(turns):
        agent(f"Turn {number}")


def totals_of(messages: Iterable[Document]) -> UsageTotals:
    return usage_totals(message["event_loop_metrics"] for message in messages if message.get("event_loop_metrics"))


def used(agent: Mapping[str, Any], name: str) -> Any:
    """What all calls of a stored agent used, moved or not."""
    figures = [figures for day in agent.get("moved_usage", {}).values() for figures in day.values()]
    embedded = totals_of(agent["messages"])
    of_embedded = {"calls": embedded["model_calls"], "total": embedded["usage"].get("totalTokens", 0)}
    return sum(each.get(name, 0) for each in figures) + of_embedded[name]


def rollover(manager: MongoDBSessionManager) -> bool:
    return manager._agents.live()[0].history.move_oldest()


def make_room(manager: MongoDBSessionManager) -> bool:
    return bool(stores_of(manager.session_repository)._operations.sizes.make_room("s-1"))


def test_a_call_tells_its_model(new_manager: NewManager, stored: Stored) -> None:
    manager = new_manager()
    talk(make_agent(manager), 1)

    answer = stored()["agents"]["default"]["messages"][1]
    assert answer["event_loop_metrics"]["model"] == MODEL_ID
    assert answer["metadata"] == "event_loop_metrics"
    assert manager.list_messages("default")[1]["event_loop_metrics"]["model"] == MODEL_ID


def test_a_call_that_was_routed_tells_the_model_that_answered(new_manager: NewManager, stored: Stored) -> None:
    """The agent's own model is the first one of its router."""
    first = ScriptedModel([OSError("busy"), "First.", OSError("busy")], model_id="first", default="First.")
    inner = ModelRouter([ScriptedModel(default="Second.", model_id="second")], strategy=FallbackStrategy())
    manager = new_manager()
    agent = Agent(
        model=ModelRouter([first, inner], strategy=FallbackStrategy()), session_manager=manager, callback_handler=None
    )
    talk(agent, 4)

    calls = [
        (m["content"][0]["text"], m["event_loop_metrics"]["model"]) for m in manager.list_messages("default")[1::2]
    ]
    assert calls == [("Second.", "second"), ("First.", "first"), ("Second.", "second"), ("First.", "first")]


def kind_of(value: object) -> str:
    return type(value).__name__


class Raising:
    def __str__(self) -> str:
        raise RuntimeError("no")

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    "odd", ["\ud800", "x" * 5_000, 7, None, "", {"$ne": 1}, Raising()], ids=lambda odd: type(odd).__name__
)
def test_an_odd_model_id_costs_only_that_figure(odd: Any, new_manager: NewManager, stored: Stored) -> None:
    manager = new_manager()
    agent = make_agent(manager)
    agent.model.config["model_id"] = odd  # type: ignore[attr-defined]

    talk(agent, 3)
    assert rollover(manager)

    found = stored()["agents"]["default"]
    metrics = found["messages"][1]["event_loop_metrics"]
    assert "model" not in metrics
    assert metrics["usage"] == USAGE
    assert [list(day) for day in found["moved_usage"].values()] == [["%empty"]]
    assert used(found, "calls") == 3


@pytest.mark.parametrize("move", [rollover, make_room])
def test_what_has_moved_is_summed_up_by_day_and_model(move: Any, new_manager: NewManager, stored: Stored) -> None:
    manager = new_manager()
    agent = make_agent(manager)
    for number in range(3):
        talk(agent, 2)
        assert move(manager)
        found = stored()["agents"]["default"]
        assert used(found, "calls") == 2 * (number + 1)
        assert used(found, "total") == 30 * (number + 1)

    (day,) = found["moved_usage"]
    assert abs(datetime.fromisoformat(day).replace(tzinfo=timezone.utc) - datetime.now(timezone.utc)) < timedelta(2)
    moved = found["moved_usage"][day][ESCAPED]
    calls = moved["calls"]
    assert moved == {
        "calls": calls,
        "input": 10 * calls,
        "output": 5 * calls,
        "total": 15 * calls,
        "cache_read": 3 * calls,
        "latency_ms": 2 * calls,
    }


@pytest.mark.parametrize("move", [rollover, make_room])
@pytest.mark.parametrize("odd", ["text", 7, [], {"2099-01-01": 7}, None])
def test_sums_that_are_none_cost_only_the_sums(
    move: Any, odd: Any, new_manager: NewManager, stored: Stored, observer: Client, database: str
) -> None:
    manager = new_manager()
    talk(make_agent(manager), 3)
    field = "agents.default.moved_usage"
    observer[database]["agent_sessions"].update_one({}, {"$set": {field: odd}})

    assert move(manager)

    found = stored()["agents"]["default"]
    assert found["moved_count"]
    assert found["moved_usage"] == odd or isinstance(odd, dict)


def test_a_model_that_changed(new_manager: NewManager, stored: Stored) -> None:
    manager = new_manager()
    agent = make_agent(manager)
    talk(agent, 2)
    agent.model.config["model_id"] = "other"  # type: ignore[attr-defined]
    talk(agent, 2)

    assert rollover(manager)

    (models,) = stored()["agents"]["default"]["moved_usage"].values()
    assert {model: figures["calls"] for model, figures in models.items()} == {ESCAPED: 2, "other": 1}


@pytest.mark.parametrize("move", [rollover, make_room])
@pytest.mark.parametrize("lost", [{"writeConcernError": {"code": 64, "errmsg": "late"}}, {"closeConnection": True}])
def test_a_move_whose_answer_was_lost_counts_once(
    move: Any, lost: Any, new_manager: NewManager, failing: Failing, stored: Stored
) -> None:
    manager = new_manager()
    agent = make_agent(manager)
    talk(agent, 4)

    for _ in range(2):
        with failing("update", mode={"times": 2}, **lost), suppress(PyMongoError):
            move(manager)
        talk(agent, 1)
        move(manager)

    found = stored()["agents"]["default"]
    assert used(found, "calls") == 6
    assert used(found, "total") == 90


def test_two_movers_at_once_count_once(new_manager: NewManager, mongo_client: Client, stored: Stored) -> None:
    manager, other = new_manager(), new_manager()
    agent = make_agent(manager)
    talk(agent, 4)
    repository = stores_of(other.session_repository)
    sessions = repository.collections.sessions
    mover: Any = repository._operations.sizes._mover
    record = mover._record

    def after_the_other(*args: Any) -> Any:
        assert rollover(manager)
        return record(*args)

    mover._record = after_the_other
    make_room(other)

    assert sessions.count_documents({}) == 1
    assert used(stored()["agents"]["default"], "calls") == 4


def test_the_calls_of_a_large_beginning(new_manager: NewManager, stored: Stored) -> None:
    first = make_agent(new_manager("s-0"))
    talk(first, 3)
    for message in first.messages:
        message["content"].append({"text": "x" * 200_000})

    make_agent(new_manager(), messages=first.messages)

    found = stored()["agents"]["default"]
    assert found["moved_count"]
    metrics = [message.get("event_loop_metrics") for message in found["messages"]]
    assert ("moved_usage" in found) is any(metrics)


# The first version stored accumulated figures only


def call(total: int, at: Any = AT) -> Document:
    metrics = {"accumulated_usage": {"totalTokens": total}, "accumulated_metrics": {"latencyMs": total}}
    return {"created_at": at, "event_loop_metrics": metrics}


FIRST_VERSION = [
    [call(1), call(3), call(9)],
    [call(1), call(5), call(2), call(4)],
    [call(3), call(1), call(2), call(1)],
    [call(2), {"created_at": AT}, call(2), call(8)],
]


def summed(messages: list[Document], kept: list[Document]) -> tuple[float, float]:
    rows = moved_usage(messages, kept).values()
    left = totals_of(kept)
    figures = [sum(row.get(name, 0) for row in rows) for name in ("calls", "total")]
    return figures[0] + left["model_calls"], figures[1] + left["usage"].get("totalTokens", 0)


@pytest.mark.parametrize("messages", FIRST_VERSION)
def test_accumulated_figures_are_counted_once_wherever_a_move_ends(messages: list[Document]) -> None:
    whole = totals_of(messages)
    for border in range(len(messages) + 1):
        assert summed(messages[:border], messages[border:]) == (whole["model_calls"], whole["usage"]["totalTokens"])
        for first in range(border):
            parts = [messages[:first], messages[first:border]]
            once = [moved_usage(parts[0], messages[first:]), moved_usage(parts[1], messages[border:])]
            total = sum(row.get("total", 0) for rows in once for row in rows.values())
            left = totals_of(messages[border:])
            assert total + left["usage"].get("totalTokens", 0) == whole["usage"]["totalTokens"]


@pytest.mark.parametrize("at", ["2026-11-28T23:59:00", "2026-11-29T00:59:00+01:00", AT])
def test_the_day_is_that_of_utc(at: Any) -> None:
    assert list(moved_usage([call(1, at)], [])) == ["2026-11-28.%empty"]


@pytest.mark.parametrize("at", [None, "yesterday", 7, {}])
def test_a_message_without_a_valid_time_counts_today(at: Any) -> None:
    (key,) = moved_usage([call(1, at)], [])

    assert key.endswith(".%empty")


@pytest.mark.parametrize("odd", [None, "many", [], {}, float("nan"), float("inf"), -5, True, 2**80])
def test_an_odd_figure_spoils_no_sum(odd: Any) -> None:
    figures = {"usage": {"totalTokens": odd, "inputTokens": 1}, "metrics": {"latencyMs": odd}}
    (row,) = moved_usage([{"created_at": AT, "event_loop_metrics": figures}], []).values()

    assert (row["calls"], row["input"]) == (1, 1)
    assert 0 <= row.get("total", 0) <= 2**53


@pytest.mark.parametrize("odd", [None, "text", [], {"usage": "text"}, {"model": {"%text": b"\xff"}}])
def test_odd_metrics_are_no_call(odd: Any) -> None:
    assert moved_usage([{"created_at": AT, "event_loop_metrics": odd}], []) == {}


def test_messages_of_the_first_version_that_move(new_manager: NewManager, insert: Insert, stored: Stored) -> None:
    agent = legacy_agent()
    element = agent["messages"][1]
    agent["messages"] = [
        {**element, "message_id": number, "event_loop_metrics": call(number + 1)["event_loop_metrics"]}
        for number in range(6)
    ]
    insert(legacy({"default": agent}))
    manager = new_manager()

    for _ in range(2):
        talk(make_agent(new_manager()), 1)
        make_room(manager)

    found = stored()["agents"]["default"]
    assert found["moved_count"]
    assert used(found, "calls") == 8
    assert used(found, "total") == 6 + 30
