"""Lists: what is in them, in which order, page by page."""

import asyncio
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import bson
import pytest
from pymongo.errors import InvalidOperation

from mongodb_session_manager import (
    MongoDBSessionManagerFactory,
    Page,
    SessionCatalog,
    SessionFilter,
    SessionNotFoundError,
    SessionSummary,
)
from mongodb_session_manager.types import (
    UNSET,
    AgentSummary,
    FeedbackCounts,
    ForkOrigin,
    MultiAgentSummary,
    Redaction,
    UsageFigures,
)
from tests.aliases import Client, Insert, NewAgent, NewManager, Stored
from tests.first_version import AT, legacy, legacy_agent
from tests.integration.catalog.sessions import START, agent, at, call, ids, message, session, with_agent

Put = Callable[..., None]


def pages(catalog: Any, limit: int, filter: SessionFilter | None = None, **how: Any) -> Iterator[Page[SessionSummary]]:
    cursor = None
    while True:
        page = catalog.list(filter or SessionFilter(), limit=limit, cursor=cursor, **how)
        yield page
        cursor = page.next_cursor
        if cursor is None:
            return


def paged(catalog: Any, limit: int, filter: SessionFilter | None = None, **how: Any) -> list[str]:
    return [session_id for page in pages(catalog, limit, filter, **how) for session_id in ids(page)]


# What is in a summary


def test_a_summary_of_a_real_session(
    catalog: SessionCatalog, new_manager: NewManager, new_agent: NewAgent, stored: Stored
) -> None:
    manager = new_manager(application_name="shop")
    made = new_agent(manager, "Hello, you.", agent_id="support.v1")
    made("Hello")
    manager.update_metadata({"user": "u-1", "plan.tier": "gold"})
    manager.add_feedback({"rating": "up", "agent_id": "support.v1", "message_id": 1})
    manager.add_feedback({"comment": "hm"})

    (summary,) = catalog.list().items

    document = stored()
    usage = UsageFigures(calls=1, input=10, output=5, total=15, latency_ms=1)
    assert summary == SessionSummary(
        session_id="s-1",
        application_name="shop",
        created_at=document["created_at"],
        updated_at=document["updated_at"],
        metadata={"user": "u-1", "plan": {"tier": "gold"}},
        agents=[AgentSummary(agent_id="support.v1", model="scripted", messages=2, usage=usage)],
        agent_count=1,
        messages=2,
        usage=usage,
        feedback=FeedbackCounts(up=1, other=1),
        document_bytes=len(bson.encode(document)),
        last_text="Hello, you.",
        schema_version=2,
    )


def test_a_summary_of_everything_else(catalog: SessionCatalog, put: Put) -> None:
    origin = {"session_id": "s-0", "agent_id": "a", "message_id": 3, "at": START}
    events = [{"action": "redacted", "timestamp": START, "agent_id": "a", "message_id": 1}]
    multi = {"multi_agent_id": "g.1", "state": {"status": "interrupted"}, "created_at": START, "updated_at": START}
    put(
        session(
            "s-1",
            application_name=None,
            interrupted=["agent:a", "multi:g.1"],
            held=True,
            expires_at=None,
            has_files=True,
            forked_from=origin,
            guardrail_events=events,
            multi_agents={"g%2E1": multi},
            feedback_counts={"up": 7, "down": 2, "other": 1},
            feedback_segments=[{"_id": bson.ObjectId(), "count": 10}],
            lease={"owner": bson.ObjectId("6" * 24), "expires_at": at(1)},
        )
    )

    details = catalog.get("s-1")

    assert (details.application_name, details.interrupted, details.held) == (None, ["agent:a", "multi:g.1"], True)
    assert (details.expires_at, details.has_files, details.redactions) == (None, True, 1)
    assert details.forked_from == ForkOrigin(session_id="s-0", agent_id="a", message_id=3, at=START)
    assert details.feedback == FeedbackCounts(up=7, down=2, other=1)
    assert details.multi_agents == [MultiAgentSummary(multi_agent_id="g.1", status="interrupted", updated_at=START)]
    assert details.redaction_events == [Redaction(agent_id="a", message_id=1, action="redacted", at=START)]
    assert details.lease is not None
    assert (details.lease.owner, details.lease.expires_at) == ("6" * 24, at(1))
    assert details.readable


def test_a_large_metadata_is_left_out_and_marked(catalog: SessionCatalog, put: Put) -> None:
    put(session("s-1", metadata={"a": "x" * 17_000}), session("s-2", metadata={"a": "x" * 15_000}))

    large, small = catalog.list(sort="session_id").items

    assert (large.metadata, large.metadata_left_out) == ({}, True)
    assert (len(small.metadata["a"]), small.metadata_left_out) == (15_000, False)


def test_metadata_come_back_as_they_were_given(catalog: SessionCatalog, new_manager: NewManager) -> None:
    given = {"mail": {"a.b": 1, "$c": 2**70, "%2E": "\udc80", "": None}, "n": 2**40}
    new_manager().update_metadata(given)

    assert catalog.list().items[0].metadata == given
    assert catalog.get("s-1").metadata == given


def test_at_most_20_agents_and_their_number(catalog: SessionCatalog, put: Put) -> None:
    agents = {f"a{n}": agent(f"a{n}", message(0, "user", "Hi", event_loop_metrics=call(1))) for n in range(25)}
    put(session("s-1", agents=agents))

    (summary,) = catalog.list().items

    assert [each.agent_id for each in summary.agents] == [f"a{n}" for n in range(20)]
    assert (summary.agent_count, summary.messages, summary.usage.input) == (25, 25, 25)


def test_moved_messages_and_their_usage_count(catalog: SessionCatalog, put: Put) -> None:
    moved = {
        "2026-01-30": {"us%2Ehaiku": {"calls": 3, "input": 30, "latency_ms": 7}, "opus": {"calls": 1, "output": 4}}
    }
    own = agent("a", message(50, "assistant", "Hi", event_loop_metrics=call(1)), moved_count=50, moved_usage=moved)
    put(session("s-1", agents={"a": own}))

    (summary,) = catalog.list().items

    assert summary.messages == 51
    assert summary.usage == UsageFigures(calls=5, input=31, output=6, total=3, latency_ms=12)
    assert summary.agents[0].usage == summary.usage


@pytest.mark.parametrize(
    ("messages", "shown"),
    [
        ([message(0, "user", "first"), message(1, "assistant", "one", "two")], "two"),
        ([message(0, "user", "first"), message(1, "assistant", {"toolUse": {"name": "n"}})], "first"),
        ([message(0, "user", "x" * 300)], "x" * 200),
        ([message(0, "user", "\N{GRINNING FACE}" * 300)], "\N{GRINNING FACE}" * 200),
        ([message(0, "user", {"text": {"%text": "a\udc80b".encode("utf-8", "surrogatepass")}})], "a\udc80b"),
        ([message(0, "user", {"text": {"%file": {"sha256": "0", "length": 9, "kind": "text"}}})], None),
        ([message(0, "user")], None),
        ([], None),
    ],
)
def test_the_last_text(catalog: SessionCatalog, put: Put, messages: list[Any], shown: str | None) -> None:
    put(with_agent("s-1", *messages))

    assert catalog.list().items[0].last_text == shown


def test_the_last_text_is_that_of_the_latest_agent(catalog: SessionCatalog, put: Put) -> None:
    late, early = message(0, "user", "late", minute=9), message(0, "user", "early", minute=1)
    put(session("s-1", agents={"b": agent("b", early), "a": agent("a", late), "c": agent("c", early)}))

    assert catalog.list().items[0].last_text == "late"


def test_a_first_version_session_is_readable(catalog: SessionCatalog, insert: Insert) -> None:
    insert(legacy({"support-v1": {"2": legacy_agent("support-v1.2")}, "default": legacy_agent()}))

    (summary,) = catalog.list().items

    assert (summary.created_at, summary.schema_version, summary.readable) == (AT, None, True)
    assert [each.agent_id for each in summary.agents] == ["default", "support-v1.2"]
    assert (summary.messages, summary.last_text) == (8, "found")
    assert summary.usage == UsageFigures(calls=2, input=6, latency_ms=8)
    assert summary.feedback == FeedbackCounts(up=1)
    assert summary.metadata == {"priority": "high", "theirs": {"x": 1}}


def test_a_nested_agent_that_was_stored_again_counts_once(catalog: SessionCatalog, put: Put) -> None:
    nested = {"v1": {"2": legacy_agent("v1.2")}, "v1%2E2": agent("v1.2", message(0, "user", "Hi"))}
    put(session("s-1", agents=nested))

    assert [(each.agent_id, each.messages) for each in catalog.list().items[0].agents] == [("v1.2", 1)]


@pytest.mark.parametrize("parts", [2, 4, 5, 9, 90])
def test_an_agent_is_found_however_many_dots_its_id_has(catalog: SessionCatalog, insert: Insert, parts: int) -> None:
    names = [f"p{number}" for number in range(parts)]
    agent_id = ".".join(names)
    agents: Any = legacy_agent(agent_id)
    for name in reversed(names):
        agents = {name: agents}
    insert(legacy(agents))

    assert [each.agent_id for each in catalog.get("s-1").agents] == [agent_id]
    assert [row.agent_id for row in catalog.usage(by=["agent_id"])] == [agent_id]
    assert catalog.fork("s-1", "s-2").messages == 4
    assert catalog.upgrade().left == 0
    assert ids(catalog.list(SessionFilter(agent_id=agent_id))) == ["s-2", "s-1"]


def test_accumulated_figures_of_the_first_version_are_counted_as_differences(
    catalog: SessionCatalog, insert: Insert
) -> None:
    own = legacy_agent()
    totals = [(10, 100), None, (25, 180), (4, 30)]  # a new process began to count at the end
    for element, total in zip(own["messages"], totals, strict=True):
        element.pop("event_loop_metrics", None)
        if total:
            usage = {"inputTokens": total[0], "totalTokens": total[0]}
            element["event_loop_metrics"] = {"accumulated_usage": usage, "accumulated_metrics": {"latencyMs": total[1]}}
    insert(legacy({"default": own}))

    assert catalog.list().items[0].usage == UsageFigures(calls=3, input=29, total=29, latency_ms=210)


# Orders and pages


@pytest.mark.parametrize("sort", ["session_id", "created_at", "-created_at", "updated_at", "-updated_at"])
@pytest.mark.parametrize("limit", [1, 2, 3, 7, 50])
def test_each_order_page_by_page(catalog: SessionCatalog, put: Put, sort: Any, limit: int) -> None:
    """Half of them have equal times."""
    made = [session(f"s-{n}", minute=(n * 7) % 5, updated_at=at((n * 3) % 4)) for n in range(12)]
    put(*made)

    name, backwards = sort.removeprefix("-"), sort.startswith("-")
    expected = sorted(made, key=lambda each: (each.get(name), each["_id"]), reverse=backwards)
    assert paged(catalog, limit, sort=sort) == [each["_id"] for each in expected]


def test_ids_are_ordered_as_their_bytes(catalog: SessionCatalog, put: Put) -> None:
    names = ["a", "Z", "\N{GRINNING FACE}", "\uffff", "é", "10", "9", "a\x01", "x" * 1024]
    put(*names)

    assert paged(catalog, 2, sort="session_id") == sorted(names)
    assert paged(catalog, 2) == sorted(names, reverse=True)
    assert ids(list(catalog.iterate(batch=2))) == sorted(names)


def test_a_page_says_what_it_looked_at_and_ends(catalog: SessionCatalog, put: Put) -> None:
    put("s-1", "s-2", "s-3")

    first, second = pages(catalog, 2)

    assert (len(first.items), first.examined, len(second.items), second.next_cursor) == (2, 2, 1, None)
    assert catalog.list(limit=3).next_cursor is None
    assert SessionCatalog.list(catalog, SessionFilter(id_prefix="x")).items == []


def test_a_limit_of_0_gives_none(catalog: SessionCatalog, put: Put) -> None:
    put("s-1", "s-2", "s-3")
    cursor = catalog.list(limit=1).next_cursor

    assert catalog.list(limit=0) == Page(items=[], next_cursor=None)
    assert catalog.list(limit=0, cursor=cursor).next_cursor == cursor


def test_a_page_may_have_1000(catalog: SessionCatalog, put: Put) -> None:
    put(*(session(f"s-{n:04}") for n in range(1100)))

    assert ids(catalog.list(sort="session_id", limit=1000)) == [f"s-{n:04}" for n in range(1000)]


def test_times_that_are_text_come_by_id_only(catalog: SessionCatalog, put: Put) -> None:
    put("s-1", legacy(at="2024-05-06T07:08:09.123456+00:00") | {"_id": "s-0"}, session("s-2", updated_at=[at(0)]))

    assert paged(catalog, 1, sort="session_id") == ["s-0", "s-1", "s-2"]
    assert paged(catalog, 1) == ["s-1"]
    assert paged(catalog, 1, sort="updated_at") == ["s-1"]
    assert paged(catalog, 1, sort="created_at") == ["s-1", "s-2"]
    assert catalog.count(SessionFilter(created_since=START - timedelta(days=10_000))) == 2
    assert catalog.get("s-0").created_at == AT.replace(microsecond=123_456)


def test_the_times_of_a_filter_may_move_between_pages(catalog: SessionCatalog, put: Put) -> None:
    put(*(session(f"s-{n}", minute=n) for n in range(5)))
    first = catalog.list(SessionFilter(updated_since=at(0)), limit=2)

    second = catalog.list(SessionFilter(updated_since=at(1)), limit=5, cursor=first.next_cursor)

    assert ids(first) + ids(second) == ["s-4", "s-3", "s-2", "s-1"]


def test_iterate_goes_through_all(catalog: SessionCatalog, put: Put) -> None:
    put(*(session(f"s-{n}", application_name=f"app-{n % 2}") for n in range(11)))

    assert ids(list(catalog.iterate(batch=3))) == sorted(f"s-{n}" for n in range(11))
    assert len(list(catalog.iterate(SessionFilter(application_name="app-1"), batch=2))) == 5


def test_count_stops(catalog: SessionCatalog, put: Put) -> None:
    put(*(f"s-{n}" for n in range(7)))

    assert [catalog.count(at_most=most) for most in (0, 3, 7, 10_000, 2**70)] == [0, 3, 7, 7, 7]
    assert catalog.count(SessionFilter(id_prefix="t")) == 0


# Filters


def filtered(catalog: Any, **fields: Any) -> str:
    """The last characters of the ids, in order."""
    given = SessionFilter(**fields)
    found = ids(list(catalog.iterate(given, batch=2)))
    assert sorted(paged(catalog, 2, given, sort="session_id")) == found
    assert catalog.count(given) == len(found)
    return "".join(session_id[-1] for session_id in found)


def test_filter_by_application(catalog: SessionCatalog, put: Put) -> None:
    nameless = session("s-4")
    del nameless["application_name"]
    put("s-1", session("s-2", application_name="Shop"), session("s-3", application_name=None), nameless)

    assert filtered(catalog) == "1234"
    assert filtered(catalog, application_name=UNSET) == "1234"
    assert filtered(catalog, application_name="shop") == "1"
    assert filtered(catalog, application_name=None) == "34"


def test_filter_by_metadata(catalog: SessionCatalog, new_manager: NewManager) -> None:
    values: list[dict[str, Any]] = [
        {"user": "u-1", "n": 1, "plan.tier": "gold"},
        {"user": "u-2", "n": 1.5, "on": True},
        {"user": "u-1", "n": True, "at": START},
        {"user": ["u-1", "u-3"], "big": 2**70, "odd": "\udc80"},
        {"user": None, "$a": "x"},
    ]
    for number, metadata in enumerate(values):
        new_manager(f"s-{number}").update_metadata({k.replace("$", "a"): v for k, v in metadata.items()})

    assert filtered(catalog, metadata={"user": "u-1"}) == "023"
    assert filtered(catalog, metadata={"user": ["u-2", "u-3"]}) == "13"
    assert filtered(catalog, metadata={"user": {"u-1"}, "n": 1}) == "0"
    assert filtered(catalog, metadata={"n": (1, 1.5)}) == "01"
    assert filtered(catalog, metadata={"n": True}) == "2"
    assert filtered(catalog, metadata={"plan.tier": "gold"}) == "0"
    assert filtered(catalog, metadata={"at": START.astimezone(timezone(timedelta(hours=5)))}) == "2"
    assert filtered(catalog, metadata={"big": 2**70}) == "3"
    assert filtered(catalog, metadata={"odd": "\udc80"}) == "3"
    assert filtered(catalog, metadata={"user": []}) == ""
    assert filtered(catalog, metadata={"user": None}, allow_missing=True) == "4"
    assert filtered(catalog, metadata={"n": [None, 1]}, allow_missing=True) == "034"
    assert filtered(catalog, metadata={"user": [f"u-{n}" for n in range(2, 200)]}) == "13"


@pytest.mark.parametrize("micros", [1, 500, 123_456, 999_999])
@pytest.mark.parametrize("year", [1969, 2026, 9999])
def test_a_time_in_metadata_is_found_by_the_time_that_was_given(
    catalog: SessionCatalog, new_manager: NewManager, micros: int, year: int
) -> None:
    given = datetime(year, 12, 31, 23, 59, 59, micros, tzinfo=timezone.utc)
    new_manager("s-1").update_metadata({"at": given})

    assert filtered(catalog, metadata={"at": given}) == "1"
    assert filtered(catalog, metadata={"at": [given, START]}) == "1"
    assert filtered(catalog, metadata={"at": given - timedelta(milliseconds=1)}) == ""


def test_a_cursor_does_not_depend_on_the_order_of_many_values(catalog: SessionCatalog, put: Put) -> None:
    put(*(session(f"s-{n}", metadata={"user": f"u-{n}"}) for n in range(4)))
    users = [f"u-{n}" for n in range(100)]
    cursor = catalog.list(SessionFilter(metadata={"user": users}), sort="session_id", limit=2).next_cursor

    for other in (users[::-1], {*users}, frozenset(users)):
        found = catalog.list(SessionFilter(metadata={"user": other}), sort="session_id", cursor=cursor)
        assert ids(found) == ["s-2", "s-3"]


def test_a_filter_may_have_many_values_beside_alternatives(catalog: SessionCatalog, put: Put) -> None:
    put(session("s-1", metadata={"user": "u-1", "plan": "a"}, feedbacks=[{"rating": "up"}]), "s-2")
    users, plans = [f"u-{n}" for n in range(100_000)], list("abcdefgh")
    wanted = SessionFilter(metadata={"user": users, "plan": plans}, feedback="up")

    assert ids(catalog.list(wanted)) == ["s-1"]
    assert ids(catalog.within(wanted).list(wanted)) == ["s-1"]
    assert catalog.within(wanted).count(wanted) == 1


def test_filter_by_escaped_metadata_keys(catalog: SessionCatalog, new_manager: NewManager) -> None:
    new_manager().update_metadata({"50%int": "x"})

    assert filtered(catalog, metadata={"50%int": "x"}) == "1"


def test_filter_by_agent(catalog: SessionCatalog, put: Put) -> None:
    put(session("s-1", agent_ids=["a.b", "c"]), session("s-2", agent_ids=["a"]))

    assert filtered(catalog, agent_id="a.b") == "1"
    assert filtered(catalog, agent_id="a") == "2"


def test_filter_by_prefix(catalog: SessionCatalog, put: Put) -> None:
    last = "\U0010ffff"
    put(
        "user-4:1",
        "user-42:2",
        "user-42:3",
        "user-43:4",
        "User-42:5",
        f"{last}6",
        f"{last}{last}7",
        "\ud7ff8",
        "\ue0009",
    )

    assert filtered(catalog, id_prefix="user-42:") == "23"
    assert filtered(catalog, id_prefix="user-4") == "2341"  # a digit comes before a colon
    assert filtered(catalog, id_prefix=last) == "67"
    assert filtered(catalog, id_prefix="\ud7ff") == "8"
    assert filtered(catalog, id_prefix=".*") == ""


def test_filter_by_times_half_open(catalog: SessionCatalog, put: Put) -> None:
    put(*(session(f"s-{n}", minute=n, updated_at=at(n + 10)) for n in range(5)))

    assert filtered(catalog, created_since=at(1), created_until=at(3)) == "12"
    assert filtered(catalog, updated_since=at(13)) == "34"
    assert filtered(catalog, updated_until=at(11), created_since=at(0)) == "0"
    assert filtered(catalog, created_since=at(1) + timedelta(microseconds=1)) == "234"
    assert filtered(catalog, created_until=at(1) + timedelta(microseconds=1)) == "01"
    assert filtered(catalog, created_since=at(1).astimezone(timezone(timedelta(hours=-9)))) == "1234"


@pytest.mark.parametrize("hours", [-12, 0, 14])
def test_filter_by_the_first_and_last_times_of_any_zone(catalog: SessionCatalog, put: Put, hours: int) -> None:
    put("s-1")
    zone = timezone(timedelta(hours=hours))
    first, last = datetime.min.replace(tzinfo=zone), datetime.max.replace(tzinfo=zone)

    assert filtered(catalog, created_since=first, created_until=last) == "1"
    assert filtered(catalog, updated_since=first) == filtered(catalog, updated_until=last) == "1"
    assert filtered(catalog, created_since=last) == filtered(catalog, created_until=first) == ""
    assert filtered(catalog, metadata={"at": first}) == filtered(catalog, metadata={"at": last}) == ""


def test_filter_by_feedback(catalog: SessionCatalog, put: Put) -> None:
    put(
        session("s-1", feedbacks=[{"rating": "up"}]),
        session("s-2", feedbacks=[{"rating": "up"}, {"rating": "down"}], feedback_counts={"up": 1, "down": 1}),
        session("s-3", feedback_counts={"down": 3}, feedback_segments=[{"_id": bson.ObjectId(), "count": 3}]),
        session("s-4", feedbacks=[{"comment": "hm"}], feedback_counts={"other": 1}),
        "s-5",
    )

    assert filtered(catalog, feedback="any") == "1234"
    assert filtered(catalog, feedback="up") == "12"
    assert filtered(catalog, feedback="down") == "23"


def test_filter_by_interrupt(catalog: SessionCatalog, put: Put) -> None:
    put(session("s-1", interrupted=["agent:a"]), session("s-2", interrupted=[]), "s-3")

    assert filtered(catalog, interrupted=True) == "1"
    assert filtered(catalog, interrupted=False) == "23"


def test_all_fields_of_a_filter_must_hold(catalog: SessionCatalog, put: Put) -> None:
    fields: dict[str, Any] = {
        "metadata": {"u": 1},
        "agent_ids": ["a"],
        "feedbacks": [{"rating": "down"}],
        "interrupted": ["agent:a"],
    }
    put(session("s-0", **fields), *(session(f"s-{n}", **{**fields, name: []}) for n, name in enumerate(fields, 1)))
    whole = {"metadata": {"u": [1, 2]}, "agent_id": "a", "feedback": "down", "interrupted": True}

    assert filtered(catalog, **whole, application_name="shop", id_prefix="s-", created_since=START) == "0"
    assert filtered(catalog, **whole, application_name=None) == ""


# Expiry


def test_an_expired_session_is_in_no_list(catalog: SessionCatalog, put: Put) -> None:
    now = at(0).replace(year=2000)
    put(
        session("s-1", expires_at=now),
        session("s-2", expires_at=now.replace(year=2100)),
        session("s-3", expires_at=None),
        session("s-4", expires_at="2000-01-01"),
    )

    assert filtered(catalog) == "234"
    assert [each.expires_at for each in catalog.list(sort="session_id").items] == [now.replace(year=2100), None, None]
    with pytest.raises(SessionNotFoundError, match="'s-1'"):
        catalog.get("s-1")


# One session


def test_get_of_a_session_that_is_not_there(catalog: SessionCatalog) -> None:
    with pytest.raises(SessionNotFoundError) as caught:
        catalog.get("s-1")

    assert caught.value.session_id == "s-1"


def test_get_measures_segments_and_files_of_this_life(
    catalog: SessionCatalog, put: Put, observer: Client, database: str
) -> None:
    mine, other = bson.ObjectId(), bson.ObjectId()
    put(session("s-1", instance=mine))
    segments: list[Any] = [
        {"session_id": "s-1", "instance": mine},
        {"session_id": "s-1"},
        {"session_id": "s-1", "instance": other},
    ]
    observer[database]["agent_sessions_segments"].insert_many(segments)
    lives = [other, mine, mine]
    lives = [other, mine, mine]
    files = [{"length": 10 * n, "metadata": {"session_id": "s-1", "instance": life}} for n, life in enumerate(lives)]
    observer[database]["agent_sessions_files.files"].insert_many(files)

    details = catalog.get("s-1")

    assert (details.segments, details.segment_bytes) == (2, sum(len(bson.encode(each)) for each in segments[:2]))
    assert (details.files, details.file_bytes) == (2, 30)


# Scopes


def test_a_scope_holds_for_every_method(catalog: SessionCatalog, put: Put) -> None:
    turn = [message(0, "user", "Hi"), message(1, "assistant", "Ho", event_loop_metrics=call(3))]
    given = {"feedbacks": [{"rating": "up", "created_at": at(1)}]}
    put(*(with_agent(f"s-{n}", *turn, metadata={"tenant": n}, **given) for n in (1, 2)))
    scope = catalog.within(SessionFilter(metadata={"tenant": 1}))

    assert ids(scope.list()) == ids(list(scope.iterate())) == ["s-1"]
    assert (scope.count(), scope.get("s-1").session_id) == (1, "s-1")
    assert [entry.session_id for entry in scope.feedback().items] == ["s-1"]
    assert [row.input for row in scope.usage()] == [3]
    assert len(scope.transcript("s-1", "a").messages) == 2
    assert scope.part("s-1", "a", 0, 0).data == "Hi"
    for read in (
        lambda: scope.get("s-2"),
        lambda: scope.transcript("s-2", "a"),
        lambda: scope.part("s-2", "a", 0, 0),
    ):
        with pytest.raises(SessionNotFoundError):
            read()
    assert not hasattr(scope, "upgrade")
    assert not hasattr(scope, "create_indexes")


@pytest.mark.parametrize(
    "inner",
    [
        SessionFilter(metadata={"tenant": 2}),
        SessionFilter(metadata={"tenant": [1, 2], "x": 1}),
        SessionFilter(id_prefix="s-2"),
    ],
)
def test_a_filter_never_replaces_a_scope(catalog: SessionCatalog, put: Put, inner: SessionFilter) -> None:
    put(*(session(f"s-{n}", metadata={"tenant": n, "x": 1}) for n in (1, 2)))
    scope = catalog.within(SessionFilter(metadata={"tenant": 1}, id_prefix="s-1"))

    assert "s-2" not in ids(scope.list(inner))
    assert "s-2" not in ids(scope.within(inner).list())
    assert "s-2" not in ids(list(scope.iterate(inner)))


def test_a_scope_is_fixed_when_it_is_made(catalog: SessionCatalog, put: Put) -> None:
    put(*(session(f"s-{n}", metadata={"tenant": n}) for n in (1, 2)))
    metadata = {"tenant": 1}
    scope = catalog.within(SessionFilter(metadata=metadata))
    metadata["tenant"] = 2

    assert ids(scope.list()) == ["s-1"]


def test_a_cursor_of_another_scope_is_refused(catalog: SessionCatalog, put: Put) -> None:
    put(*(session(f"s-{n}", metadata={"tenant": n % 2}) for n in range(4)))
    cursor = catalog.list(limit=1).next_cursor

    with pytest.raises(ValueError, match="another filter"):
        catalog.within(SessionFilter(metadata={"tenant": 1})).list(limit=1, cursor=cursor)


# Doors


def test_twins_do_the_same(catalog: SessionCatalog, put: Put) -> None:
    turn = [message(0, "user", "Hi"), message(1, "assistant", "Ho", event_loop_metrics=call(3))]
    put(*(with_agent(f"s-{n}", *turn, feedbacks=[{"rating": "up", "created_at": at(n)}]) for n in range(3)))

    async def read() -> list[Any]:
        return [
            await catalog.alist(SessionFilter(id_prefix="s"), limit=2),
            [each async for each in catalog.aiterate(batch=2)],
            await catalog.acount(),
            await catalog.aget("s-1"),
            await catalog.atranscript("s-1", "a"),
            await catalog.apart("s-1", "a", 0, 0),
            await catalog.afeedback(limit=1),
            await catalog.ausage(by=["model"]),
            await catalog.acheck(),
            await catalog.aupgrade(),
        ]

    assert asyncio.run(read()) == [
        catalog.list(SessionFilter(id_prefix="s"), limit=2),
        list(catalog.iterate()),
        3,
        catalog.get("s-1"),
        catalog.transcript("s-1", "a"),
        catalog.part("s-1", "a", 0, 0),
        catalog.feedback(limit=1),
        catalog.usage(by=["model"]),
        catalog.check(),
        catalog.upgrade(),
    ]


def test_each_public_method_has_a_twin() -> None:
    no_twin = {"within", "close"}
    names = {name for name in dir(SessionCatalog) if not name.startswith("_")}
    methods = {name for name in names if not (name.startswith("a") and name[1:] in names)}

    assert {f"a{name}" for name in methods - no_twin} <= names
    assert all(getattr(SessionCatalog, f"a{name}").__doc__.startswith("Do what") for name in methods - no_twin)


def test_the_catalog_of_a_factory(factory: MongoDBSessionManagerFactory, put: Put) -> None:
    put("s-1")

    assert "s-1" in ids(factory.sessions.list())
    factory.close()
    with pytest.raises(RuntimeError, match="has been closed"):
        _ = factory.sessions


def test_a_catalog_with_a_client_of_its_own_closes_it(uri_of: Callable[[str], str], database: str, put: Put) -> None:
    put("s-1")
    with SessionCatalog(uri_of(database)) as catalog:
        assert (ids(catalog.list()), repr(catalog)) == (["s-1"], f"SessionCatalog('{database}.agent_sessions', open)")
        scope = catalog.within(SessionFilter(everything=True))
    catalog.close()
    with pytest.raises(InvalidOperation):
        scope.list()
    with pytest.raises(InvalidOperation):
        asyncio.run(catalog.alist())


def test_a_catalog_is_an_async_context_manager(uri_of: Callable[[str], str], database: str, put: Put) -> None:
    put("s-1")

    async def read() -> list[str]:
        async with SessionCatalog(uri_of(database)) as catalog:
            return ids(await catalog.alist())

    assert asyncio.run(read()) == ["s-1"]
