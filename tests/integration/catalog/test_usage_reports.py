"""Usage across sessions."""

from collections.abc import Callable, Collection
from datetime import date, datetime, timedelta, timezone
from typing import Any

import pytest

from mongodb_session_manager import SessionCatalog, SessionFilter, UsageRow
from mongodb_session_manager.types import UsageKey
from tests.aliases import Insert, NewAgent, NewManager
from tests.first_version import legacy, legacy_agent
from tests.integration.catalog.sessions import START, agent, at, call, message, session

Put = Callable[..., None]
DAY = 24 * 60


@pytest.fixture
def used(put: Put) -> None:
    """Two days, two models, two applications, three agents; a part was moved."""

    def calls(*given: tuple[int, float, str | None]) -> list[Any]:
        return [
            message(n, "assistant", "x", minute=minute, event_loop_metrics=call(tokens, model))
            for n, (tokens, minute, model) in enumerate(given)
        ]

    moved = {"2026-01-30": {"us%2Ehaiku": {"calls": 10, "input": 1000, "output": 5, "latency_ms": 3}}}
    put(
        session(
            "s-1",
            DAY,
            agents={
                "a%2Eb": agent("a.b", *calls((1, 0, "us.haiku"), (2, DAY - 0.01, "opus")), moved_usage=moved),
                "c": agent("c", *calls((4, DAY, "opus"))),
            },
        ),
        session("s-2", DAY, application_name=None, agents={"c": agent("c", *calls((8, DAY, None)))}),
    )


def inputs(catalog: Any, *by: UsageKey, **how: Any) -> dict[Any, int]:
    rows: list[UsageRow] = catalog.usage(by=by, **how)
    return {tuple(getattr(row, name) for name in by) if len(by) > 1 else getattr(row, by[0]): row.input for row in rows}


def test_usage_by_each_key(catalog: SessionCatalog, used: None) -> None:
    assert inputs(catalog, "application_name") == {None: 8, "shop": 1007}
    assert inputs(catalog, "agent_id") == {"a.b": 1003, "c": 12}
    assert inputs(catalog, "model") == {None: 8, "us.haiku": 1001, "opus": 6}
    assert inputs(catalog, "day") == {"2026-01-30": 1000, "2026-01-31": 3, "2026-02-01": 12}
    assert inputs(catalog, "month") == {"2026-01": 1003, "2026-02": 12}
    assert inputs(catalog, "session_id") == {"s-1": 1007, "s-2": 8}


def test_usage_by_several_keys(catalog: SessionCatalog, used: None) -> None:
    assert inputs(catalog, "day", "model") == {
        ("2026-01-30", "us.haiku"): 1000,
        ("2026-01-31", "opus"): 2,
        ("2026-01-31", "us.haiku"): 1,
        ("2026-02-01", None): 8,
        ("2026-02-01", "opus"): 4,
    }


def test_usage_by_nothing_is_one_row(catalog: SessionCatalog, used: None) -> None:
    assert catalog.usage(by=()) == [
        UsageRow(calls=14, input=1015, output=13, total=23, latency_ms=23),
    ]
    assert catalog.usage(SessionFilter(id_prefix="t"), by=()) == []


def test_rows_come_in_the_order_of_their_keys(catalog: SessionCatalog, used: None) -> None:
    assert [row.application_name for row in catalog.usage()] == [None, "shop"]
    assert list(inputs(catalog, "day")) == ["2026-01-30", "2026-01-31", "2026-02-01"]


def test_usage_between_days(catalog: SessionCatalog, used: None) -> None:
    assert inputs(catalog, "day", since=date(2026, 1, 31)) == {"2026-01-31": 3, "2026-02-01": 12}
    assert inputs(catalog, "day", until=date(2026, 1, 31)) == {"2026-01-30": 1000}
    assert inputs(catalog, "session_id", since=START, until=START + timedelta(days=1)) == {"s-1": 3}
    there = START.astimezone(timezone(timedelta(hours=14)))
    assert inputs(catalog, "session_id", since=there, until=date(2026, 2, 1)) == {"s-1": 3}
    assert inputs(catalog, "day", since=date.min, until=date.max) == inputs(catalog, "day")
    assert inputs(catalog, "day", since=datetime.min.replace(tzinfo=timezone.utc)) == inputs(catalog, "day")
    assert inputs(catalog, "day", since=date(2027, 1, 1)) == {}


def test_usage_of_filtered_sessions(catalog: SessionCatalog, used: None) -> None:
    assert inputs(catalog, "session_id", filter=SessionFilter(application_name=None)) == {"s-2": 8}


def test_usage_of_a_real_session(catalog: SessionCatalog, new_manager: NewManager, new_agent: NewAgent) -> None:
    made = new_agent(new_manager(application_name="shop"), agent_id="support.v1")
    made("Hello")
    made("Hello again")

    (row,) = catalog.usage(by=["application_name", "agent_id", "day"])

    today = datetime.now(timezone.utc).date().isoformat()
    assert row in [
        UsageRow(
            calls=2,
            input=20,
            output=10,
            total=30,
            latency_ms=2,
            application_name="shop",
            agent_id="support.v1",
            day=each,
        )
        for each in (today, row.day)
    ]


def test_a_session_whose_time_nobody_knows_counts(catalog: SessionCatalog, insert: Insert) -> None:
    insert(legacy(at="2024-05-06T07:08:09.123456+00:00"))

    assert inputs(catalog, "day", since=date(2024, 5, 6), until=date(2024, 5, 7)) == {"2024-05-06": 3}
    assert inputs(catalog, "day", since=date(2024, 5, 7)) == {}


def test_nested_agents_of_the_first_version(catalog: SessionCatalog, insert: Insert) -> None:
    insert(legacy({"support-v1": {"2": legacy_agent("support-v1.2")}, "default": legacy_agent()}))

    assert inputs(catalog, "agent_id") == {"default": 3, "support-v1.2": 3}


@pytest.mark.parametrize(
    "figure", [float("nan"), float("inf"), -float("inf"), -5, 2**62, "7", None, {"%int": "0xff"}, [1], True], ids=repr
)
def test_a_figure_that_is_none_spoils_no_sum(catalog: SessionCatalog, put: Put, figure: Any) -> None:
    good = message(0, "assistant", event_loop_metrics=call(3))
    metrics = {"usage": {"inputTokens": figure, "outputTokens": 1}, "metrics": {"latencyMs": figure}}
    bad = message(1, "assistant", event_loop_metrics=metrics)
    moved = {"2026-01-31": {"m": {"calls": figure, "input": figure}, "n": figure}, "x": figure}
    put(session("s-1", agents={"a": agent("a", good, bad, moved_usage=moved)}), session("s-2"))

    (row,) = catalog.usage(by=())

    assert row.output == 3
    assert row.input == 3
    assert catalog.list(sort="session_id").items[0].usage.output == 3


def test_expired_sessions_are_not_counted(catalog: SessionCatalog, put: Put) -> None:
    own = agent("a", message(0, "assistant", event_loop_metrics=call(3)))
    put(session("s-1", agents={"a": own}, expires_at=at(0).replace(year=2000)))

    assert catalog.usage() == []


@pytest.mark.parametrize("by", [["model", "day"], ("day", "model"), {"day", "model"}, {"day": 1, "model": 2}])
def test_by_may_be_any_collection(catalog: SessionCatalog, used: None, by: Collection[Any]) -> None:
    assert len(catalog.usage(by=by)) == 5
