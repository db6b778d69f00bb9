"""A document of whatever shape among sessions: it is listed, and spoils nothing of the others."""

import copy
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from typing import Any

import bson
import pytest
from bson import Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.datetime_ms import DatetimeMS
from bson.raw_bson import RawBSONDocument
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymongo.errors import WriteError

from mongodb_session_manager import (
    MongoDBSessionError,
    SessionCatalog,
    SessionFilter,
    SessionNotFoundError,
    SessionSummary,
)
from mongodb_session_manager.testing import CommandCounter
from tests.aliases import Client, Document
from tests.conftest import COLLECTION
from tests.first_version import legacy, legacy_agent
from tests.integration.catalog.sessions import agent, at, call, ids, message, session, with_agent

Put = Callable[..., None]
ODD = "s-2"

SCALARS: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1).map(Int64),
    st.floats(),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.binary(max_size=8),
    st.sampled_from(["$agents", "$$NOW", "2026-01-31T00:00:00+00:00", "9999-99-99", "%int", "user", "x" * 20_000]),
    st.sampled_from(
        [
            *(DatetimeMS(ms) for ms in (-(2**62), 0, 2**62, 253_402_300_800_000)),
            *(Decimal128(text) for text in ("NaN", "Infinity", "1E+6000", "7")),
            *(ObjectId("6" * 24), MinKey(), MaxKey(), Timestamp(1, 1), Regex("x"), datetime(2026, 1, 31)),
        ]
    ),
)
NAMES = st.sampled_from(
    [
        *("agents", "a", "agent_data", "agent_id", "messages", "content", "text", "event_loop_metrics", "usage"),
        *("inputTokens", "created_at", "count", "_id", "%int", "%text", "%file", "%bson", "length", "k", "v", "x"),
        *("message_id", "role", "rating", "state", "status", "owner", "model", "metrics", "accumulated_usage", "0"),
    ]
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=12
)

METRICS = {**call(3), "accumulated_usage": {"inputTokens": 3}}
TURN = [message(0, "user", "Hi"), message(1, "assistant", "needle", event_loop_metrics=METRICS)]
WHOLE: Document = session(
    ODD,
    agents={
        "a": agent(
            "a",
            *TURN,
            moved_count=3,
            moved_usage={"2026-01-31": {"haiku": {"calls": 1, "input": 2}}},
            segments=[{"_id": ObjectId(), "count": 3, "bytes": 9, "first_id": -3, "last_id": -1}],
        )
    },
    feedbacks=[{"rating": "up", "agent_id": "a", "message_id": 1, "created_at": at(1)}],
    feedback_segments=[{"_id": ObjectId(), "count": 1}],
    feedback_counts={"up": 1},
    guardrail_events=[{"agent_id": "a", "message_id": 1, "action": "redacted", "timestamp": at(1)}],
    multi_agents={"g": {"multi_agent_id": "g", "state": {"status": "completed"}}},
    forked_from={"session_id": "s-0", "agent_id": "a", "message_id": 1, "at": at(1)},
    lease={"owner": ObjectId(), "expires_at": at(1)},
    interrupted=["agent:a"],
    has_files=True,
    held=False,
    expires_at=None,
    instance=ObjectId(),
    metadata={"a": 1},
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of everything in a value but itself."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in inside:
        if (*path, name) != ("_id",):
            yield (*path, name)
            yield from places(item, (*path, name))


PLACES = list(places(WHOLE))


def changed(place: tuple[Any, ...], value: Any, more: Any = None) -> Document:
    """A whole session with another value at one place."""
    document = copy.deepcopy(WHOLE)
    inside: Any = document
    for name in place[:-1]:
        inside = inside[name]
    inside[place[-1]] = value
    if isinstance(more, dict):
        document |= {name: each for name, each in more.items() if name != "_id"}
    return document


@pytest.fixture
def good(put: Put) -> None:
    feedback = [{"n": 1, "rating": "up", "agent_id": "a", "message_id": 1, "created_at": at(1)}]
    put(*(with_agent(session_id, *TURN, feedbacks=feedback) for session_id in ("s-1", "s-3")))


@pytest.fixture
def odd(observer: Client, database: str) -> Callable[[Document], bool]:
    """Put a document of any shape there; False if the server takes it not."""

    def replace(document: Any) -> bool:
        sessions = observer[database][COLLECTION]
        sessions.delete_one({"_id": ODD})
        # An index holds no two lists of one document.
        with suppress(bson.errors.InvalidDocument, WriteError):
            sessions.insert_one(document)
            return True
        return False

    return replace


SETTINGS = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@SETTINGS
@given(place=st.sampled_from(PLACES), value=VALUES)
def test_another_value_at_one_place(
    catalog: SessionCatalog, good: None, odd: Callable[[Document], bool], place: Any, value: Any
) -> None:
    if odd(changed(place, value)):
        everything_works(catalog)


@SETTINGS
@given(
    value=st.dictionaries(
        st.sampled_from(sorted(WHOLE.keys() - {"_id"})) | NAMES.filter("_id".__ne__), VALUES, max_size=5
    )
)
def test_a_document_of_any_shape(
    catalog: SessionCatalog, good: None, odd: Callable[[Document], bool], value: Document
) -> None:
    if odd({**value, "_id": ODD}):
        everything_works(catalog)


def nested(depth: int) -> Any:
    value: Any = 1
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


PIPELINES_OWN = (
    "usage",
    "feedback",
    "found",
    "rows",
    "level0",
    "bytes",
    "last",
    "entry",
    "row",
    "page",
    "others",
    "now",
)

EXAMPLES: dict[str, Document] = {
    "nothing": {"_id": ODD},
    "a newer version": {**WHOLE, "schema_version": 3},
    "a much newer version": {**WHOLE, "schema_version": "4.0-beta"},
    "the first version": legacy({"a": legacy_agent("a"), "b": {"c": {"d": legacy_agent("b.c.d")}}}) | {"_id": ODD},
    "agents as a list": {**WHOLE, "agents": [agent("a")]},
    "messages as text": {**WHOLE, "agents": {"a": {"agent_data": {}, "messages": "text"}}},
    "names of the pipeline": {
        **WHOLE,
        **{name: [{"a": 1}] for name in PIPELINES_OWN},
    },
    "deep metadata": {**WHOLE, "metadata": nested(160)},
    "a deep message": {**WHOLE, "agents": {"a": agent("a", message(0, "user", nested(160)))}},
    "deep feedback": {**WHOLE, "feedbacks": [{"deep": nested(160)}]},
    "a date that Python does not know": {**WHOLE, "created_at": DatetimeMS(2**60), "updated_at": DatetimeMS(-(2**60))},
    "a message at such a date": {
        **WHOLE,
        "agents": {"a": agent("a", {**TURN[1], "created_at": DatetimeMS(2**60)})},
        "feedbacks": [{"created_at": DatetimeMS(2**60)}, {"created_at": DatetimeMS(-(2**60))}],
    },
    "long keys": {**WHOLE, "agents": {"k" * 100_000: agent("a", *TURN)}},
    "an escaped key that is none": {**WHOLE, "agents": {"%zz%2E%uD800": agent("a", *TURN)}},
    "many agents": {**WHOLE, "agents": {f"a{n}": 5 for n in range(5000)}},
    "much text": {**WHOLE, "application_name": "x" * 5_000_000, "interrupted": ["x" * 1_000_000] * 3},
    "many blocks": {**WHOLE, "agents": {"a": agent("a", message(0, "user", *["x"] * 50_000))}},
}


@pytest.mark.parametrize("document", EXAMPLES.values(), ids=EXAMPLES.keys())
def test_examples(catalog: SessionCatalog, good: None, odd: Callable[[Document], bool], document: Document) -> None:
    assert odd(document)

    everything_works(catalog)


MARKER = "(this is not UTF-8)"
BAD = st.sampled_from([b"\xff", b"\x80", b"a\xf0", b"\xed\xa0\x80", b"\xc0\xaf", b"needle \xe9 "]).map(
    lambda bad: (bad * len(MARKER))[: len(MARKER)]
)


def not_utf_8(document: Document, bad: bytes = b"\xff" * len(MARKER)) -> RawBSONDocument:
    """The document with other bytes in place of each marker."""
    return RawBSONDocument(bson.encode(document).replace(MARKER.encode(), bad))


@SETTINGS
@given(
    place=st.sampled_from(PLACES),
    value=st.sampled_from([MARKER, MARKER * 500, {MARKER: 1}, [MARKER], {"text": MARKER}, {"usage": {MARKER: 1}}]),
    bad=BAD,
)
def test_a_text_that_is_not_utf_8_at_one_place(
    catalog: SessionCatalog, good: None, odd: Callable[[Any], bool], place: Any, value: Any, bad: bytes
) -> None:
    assert odd(not_utf_8(changed(place, value), bad))
    everything_works(catalog)


NOT_UTF_8: dict[str, Document] = {
    "a message": {"agents": {"a": agent("a", TURN[0], message(1, "assistant", MARKER))}},
    "a long message": {"agents": {"a": agent("a", message(0, "user", MARKER * 5000), message(1, "assistant", "x"))}},
    "beside a good text": {"agents": {"a": agent("a", *TURN[:1], message(1, "assistant", MARKER, "needle"))}},
    "a tool's input": {
        "agents": {
            "a": agent(
                "a", message(0, "assistant", {"toolUse": {"toolUseId": "t", "name": "n", "input": {MARKER: MARKER}}})
            )
        }
    },
    "a message of the first version": legacy({"a": legacy_agent("a", MARKER)}),
    "feedback": {"feedbacks": [{"rating": MARKER, "comment": MARKER, "agent_id": "a", "message_id": 1}]},
    "an agent": {"agents": {MARKER: agent(MARKER, *TURN)}, "agent_ids": [MARKER]},
    "a nested agent": {"agents": {"a": {MARKER: {MARKER: agent("a", *TURN)}}}},
    "a model": {"agents": {"a": agent("a", message(1, "assistant", "x", event_loop_metrics=call(1, MARKER)))}},
    "a day": {"agents": {"a": agent("a", *TURN, moved_usage={"2026-0\u00e9": {"m": {"calls": 1}}})}},
    "metadata": {"metadata": {MARKER: MARKER}},
    "a multi-agent": {"multi_agents": {MARKER: {"multi_agent_id": MARKER, "state": {"status": MARKER}}}},
    "everything else": dict.fromkeys(
        ("application_name", "session_id", "schema_version", "created_at", "held"), MARKER
    ),
}


@pytest.mark.parametrize("fields", NOT_UTF_8.values(), ids=NOT_UTF_8.keys())
@pytest.mark.parametrize("bad", [b"\xff", b"\x80", b"\xed"])
def test_text_that_is_not_utf_8(
    catalog: SessionCatalog, good: None, odd: Callable[[Any], bool], fields: Document, bad: bytes
) -> None:
    document = {**WHOLE, **fields, "_id": ODD}
    assert odd(not_utf_8(document, bad * len(MARKER)))

    everything_works(catalog)
    with suppress(MongoDBSessionError):
        catalog.fork(ODD, "fork")
    catalog.delete_many(SessionFilter(id_prefix="fork"))
    assert catalog.delete(ODD).deleted
    assert odd(not_utf_8(document, bad * len(MARKER)))
    assert catalog.delete_many(SessionFilter(id_prefix=ODD)).remaining == 0
    assert ids(list(catalog.iterate())) == ["s-1", "s-3"]


def test_the_page_is_read_once_more(
    catalog: SessionCatalog, good: None, put: Put, odd: Callable[[Any], bool], command_counter: CommandCounter
) -> None:
    texts = ["word " * 1000, "\u6f22\u5b57\u3002" * 1000, "\u6f22" * 5000]
    put(*(with_agent(f"long-{n}", message(0, "user", text)) for n, text in enumerate(texts)))
    assert odd(not_utf_8({**WHOLE, "agents": {"a": agent("a", message(0, "user", "Hi " + MARKER))}}))

    with command_counter.counting() as log:
        found = {each.session_id: each for each in catalog.list().items}

    assert len(log.commands) == 2
    assert [found[f"long-{n}"].last_text for n in range(3)] == [texts[0][:200], texts[1][:200], None]
    assert (found[ODD].last_text, found[ODD].readable) == ("Hi " + "\ufffd" * len(MARKER), False)
    assert all(each.readable for name, each in found.items() if name != ODD)


def test_a_text_is_found_beside_one_that_is_not_utf_8(
    catalog: SessionCatalog, good: None, put: Put, odd: Callable[[Any], bool], command_counter: CommandCounter
) -> None:
    put(with_agent("s-4", message(0, "user", "\u00c9t\u00e9")), "s-5")
    assert odd(not_utf_8({**WHOLE, "agents": {"a": agent("a", *TURN, message(2, "user", MARKER))}}))

    with command_counter.counting() as log:
        page = catalog.list(SessionFilter(text="NEEDLE"), sort="session_id")

    assert (ids(page), page.examined, len(log.commands)) == (["s-1", "s-2", "s-3"], 5, 3)
    assert ids(catalog.list(SessionFilter(text="\u00e9T\u00c9"), sort="session_id")) == ["s-4"]
    first = catalog.list(SessionFilter(text="needle"), sort="session_id", limit=2)
    rest = catalog.list(SessionFilter(text="needle"), sort="session_id", limit=2, cursor=first.next_cursor)
    assert (ids(first), ids(rest), rest.next_cursor) == (["s-1", "s-2"], ["s-3"], None)


def test_an_id_that_is_not_utf_8_is_in_no_list(catalog: SessionCatalog, good: None, odd: Callable[[Any], bool]) -> None:
    assert odd(not_utf_8({**WHOLE, "_id": f"s-2{MARKER}"}))

    assert walk(catalog, "session_id") == ids(list(catalog.iterate(batch=1))) == ["s-1", "s-3"]
    assert sorted(walk(catalog, "-updated_at")) == ["s-1", "s-3"]
    catalog.usage(by=["session_id"])
    catalog.check()
    catalog.upgrade()
    catalog.sweep()
    assert catalog.delete_many(SessionFilter(id_prefix="s-")).deleted == 2


def test_a_sweep_passes_by_what_is_not_utf_8(
    catalog: SessionCatalog, observer: Client, database: str, odd: Callable[[Any], bool]
) -> None:
    long_ago = datetime(2020, 1, 1)
    segments = observer[database][f"{COLLECTION}_segments"]
    lost = {MARKER: ObjectId("5" * 24), "z": ObjectId("4" * 24)}
    for session_id in lost:
        segments.insert_one(not_utf_8({"_id": lost[session_id], "session_id": session_id}))
        assert odd(not_utf_8({**WHOLE, "_id": f"s-2{session_id}", "expires_at": long_ago}))

    assert (catalog.sweep().segments, segments.count_documents({})) == (1, 1)
    assert observer[database][COLLECTION].count_documents({}) == 1


def test_a_session_that_is_not_utf_8_is_not_forked(catalog: SessionCatalog, odd: Callable[[Any], bool]) -> None:
    assert odd(not_utf_8({**WHOLE, "metadata": {"a": MARKER}}))

    with pytest.raises(MongoDBSessionError, match=r"'s-2' cannot be forked: .* UTF-8"):
        catalog.fork(ODD)


@pytest.mark.parametrize(
    "session_id", [5, ObjectId(), None, {"a": 1}, 2.5, "x" * 2000, b"x"], ids=lambda each: str(type(each))
)
def test_an_id_that_is_none_is_in_no_list(catalog: SessionCatalog, good: None, put: Put, session_id: Any) -> None:
    put({**WHOLE, "_id": session_id})

    for sort in ("session_id", "updated_at", "-updated_at", "created_at", "-created_at"):
        assert sorted(walk(catalog, sort)) == ["s-1", "s-3"]
    assert catalog.count() == 2
    assert [finding.count for finding in catalog.check() if finding.code == "foreign_ids"] == [1]


@pytest.mark.parametrize("session_id", ["", "a\0b", "mongodb://u:p@h/", "x" * 1024])
def test_an_odd_text_as_an_id_is_listed(catalog: SessionCatalog, good: None, put: Put, session_id: str) -> None:
    put(session(session_id))

    for sort in ("session_id", "updated_at", "-updated_at"):
        assert sorted(walk(catalog, sort)) == sorted(["s-1", "s-3", session_id])


@pytest.mark.parametrize(
    ("document", "readable"),
    [
        ({}, True),
        ({"schema_version": 1}, True),
        ({"schema_version": None}, True),
        ({"schema_version": 3}, False),
        ({"schema_version": "2"}, False),
        ({"schema_version": 2.0}, False),
        ({"agents": []}, False),
        ({"agents": {"a": 5}}, False),
        ({"agents": {"a": {"agent_data": {}, "messages": 5}}}, False),
        ({"created_at": 5}, False),
        ({"created_at": "yesterday"}, False),
        ({"updated_at": DatetimeMS(2**60)}, False),
        ({"metadata": []}, False),
        ({"feedbacks": {}}, False),
    ],
)
def test_readable(catalog: SessionCatalog, put: Put, document: Document, readable: bool) -> None:
    put({**session("s-1"), **document})

    assert catalog.list(sort="session_id").items[0].readable is readable


def everything_works(catalog: SessionCatalog) -> None:
    """Call everything that reads, and see that the good sessions are as they are without the other one."""
    found = {each.session_id: each for each in catalog.list(sort="session_id").items}
    assert found.keys() - {ODD} == {"s-1", "s-3"}
    assert all(expected(found[session_id]) for session_id in ("s-1", "s-3"))
    assert {"s-1", "s-3"} <= {*ids(list(catalog.iterate(batch=1)))}
    assert catalog.count() == len(found)
    for sort in ("updated_at", "-updated_at", "created_at", "-created_at"):
        seen = walk(catalog, sort)
        assert len(seen) == len({*seen})
        assert {"s-1", "s-3"} <= {*seen} <= found.keys()
    assert {"s-1", "s-3"} <= {*ids(catalog.list(SessionFilter(text="NEEDLE")))}
    for wanted in (SessionFilter(feedback="up"), SessionFilter(feedback="any"), SessionFilter(interrupted=False)):
        assert {"s-1", "s-3"} <= {*ids(list(catalog.iterate(wanted)))}
    rows = {row.session_id: row for row in catalog.usage(by=["session_id", "model", "day"]) if row.session_id != ODD}
    assert {session_id: row.input for session_id, row in rows.items()} == {"s-1": 3, "s-3": 3}
    catalog.usage(by=["agent_id", "month", "application_name"], since=at(0).date())
    entries = [entry for limit in (1, 50) for entry in feedback(catalog, limit) if entry.session_id != ODD]
    assert [(entry.session_id, entry.prompt, entry.answer) for entry in entries] == [
        ("s-3", "Hi", "needle"),
        ("s-1", "Hi", "needle"),
    ] * 2
    catalog.check()
    with suppress(SessionNotFoundError):
        assert catalog.get(ODD).session_id == ODD
    with suppress(MongoDBSessionError):
        catalog.transcript(ODD, "a")
    with suppress(MongoDBSessionError, ValueError):
        catalog.part(ODD, "a", 1, 0)


def expected(summary: SessionSummary) -> bool:
    return (summary.messages, summary.usage.input, summary.last_text, summary.readable) == (2, 3, "needle", True)


def feedback(catalog: SessionCatalog, limit: int) -> Iterator[Any]:
    cursor = None
    while True:
        page = catalog.feedback(limit=limit, cursor=cursor)
        yield from page.items
        cursor = page.next_cursor
        if cursor is None:
            return


def walk(catalog: SessionCatalog, sort: Any) -> list[str]:
    seen, cursor = list[str](), None
    while True:
        page = catalog.list(sort=sort, limit=1, cursor=cursor)
        seen, cursor = seen + ids(page), page.next_cursor
        if cursor is None:
            return seen
