"""What is not valid is refused, with a clear error, before anything is sent."""

import re
from collections.abc import Callable, Collection, Mapping
from datetime import date, datetime, timedelta, timezone
from typing import Any

import mongomock
import pytest
from bson import ObjectId
from pymongo import MongoClient, ReadPreference

from mongodb_session_manager import SessionCatalog, SessionFilter
from mongodb_session_manager.testing import CommandCounter
from tests.aliases import Client

NAIVE, UTC = datetime(2026, 1, 1), timezone.utc
SINCE = datetime(2026, 1, 1, tzinfo=UTC)
# In UTC, these are times that a datetime cannot hold.
BEYOND = [
    datetime.min.replace(tzinfo=timezone(timedelta(hours=14))),
    datetime.max.replace(tzinfo=timezone(-timedelta(hours=12))),
    datetime(9999, 12, 31, 12, tzinfo=timezone(-timedelta(hours=12))),
]

WRONG_TYPES: list[dict[str, Any]] = [
    *({"metadata": {"user": value}} for value in ({"$ne": 1}, {"a": 1}, re.compile("x"), object(), b"x", ObjectId())),
    *({"metadata": {"user": [value]}} for value in ({"$ne": 1}, re.compile("x"), ["x"], object(), date(2026, 1, 1))),
    *({"metadata": metadata} for metadata in (None, "user", [("user", 1)], {1: "x"}, {None: 1})),
    *({"application_name": name} for name in (1, {"$ne": None}, ["shop"], re.compile("x"))),
    *({"agent_id": value} for value in (1, {"$ne": None}, re.compile("x"), ["a"])),
    *({"id_prefix": value} for value in (1, {"$gt": ""}, re.compile("x"), b"s")),
    *({name: value} for name in ("created_since", "updated_until") for value in ("2026-01-01", 0, date(2026, 1, 1))),
    *({"feedback": value} for value in (1, True, ["up"], {"$ne": 1})),
    *({"interrupted": value} for value in ("yes", 1, 0, {"$ne": 1})),
    *({"text": value} for value in (1, {"$regex": "x"}, re.compile("x"), b"x", ["x"])),
    *({"everything": value} for value in (1, None, "yes")),
    {"allow_missing": 1},
]
WRONG_VALUES: list[dict[str, Any]] = [
    {"metadata": {"user": None}},
    {"metadata": {"user": ["x", None]}},
    *({"metadata": {key: 1}} for key in ("", "a..b", "$where", "a.$b", "a\0", ".".join("a" * 101))),
    {"metadata": {"at": NAIVE}},
    *({"metadata": {"user": value}} for value in ("x" * 2**24, ["x" * 2**21, "y" * 2**21])),
    {"application_name": "x" * 2**23},
    *({"agent_id": value} for value in ("", "a\0", "\udc80", "x" * 1025, "mongodb://u:p@h/")),
    *({"id_prefix": value} for value in ("", "a\0", "\udc80", "x" * 1025)),
    *({"application_name": value} for value in ("\udc80", "mongodb://u:p@h/")),
    *({name: NAIVE} for name in ("created_since", "created_until", "updated_since", "updated_until")),
    {"created_since": SINCE, "created_until": SINCE},
    {"updated_since": SINCE, "updated_until": SINCE - timedelta(days=1)},
    {"updated_since": SINCE, "updated_until": SINCE + timedelta(microseconds=0)},
    {"feedback": "sideways"},
    *({"text": value} for value in ("", "x" * 257, "\udc80")),
    {"everything": True, "agent_id": "a"},
]


def reads(catalog: SessionCatalog) -> Mapping[str, Callable[[SessionFilter], Any]]:
    """Everything that takes a filter."""
    return {
        "list": catalog.list,
        "iterate": catalog.iterate,
        "aiterate": catalog.aiterate,
        "count": catalog.count,
        "feedback": catalog.feedback,
        "usage": catalog.usage,
        "within": catalog.within,
    }


@pytest.mark.parametrize("fields", WRONG_TYPES, ids=range(len(WRONG_TYPES)))
def test_a_filter_with_a_wrong_type(
    catalog: SessionCatalog, command_counter: CommandCounter, fields: dict[str, Any]
) -> None:
    refused(catalog, command_counter, TypeError, fields)


@pytest.mark.parametrize("fields", WRONG_VALUES, ids=range(len(WRONG_VALUES)))
def test_a_filter_with_a_value_that_is_not_valid(
    catalog: SessionCatalog, command_counter: CommandCounter, fields: dict[str, Any]
) -> None:
    refused(catalog, command_counter, ValueError, fields)


def refused(catalog: SessionCatalog, counter: CommandCounter, kind: type[Exception], fields: dict[str, Any]) -> None:
    with counter.counting() as log:
        for read in reads(catalog).values():
            with pytest.raises(kind) as caught:
                read(SessionFilter(**fields))
            assert next(iter(fields)).split("_")[0] in str(caught.value)
            assert "u:p@h" not in str(caught.value)
    assert log.commands == []


@pytest.mark.parametrize("given", [None, {}, {"metadata": {"a": 1}}, "x", SessionFilter])
def test_a_filter_is_a_session_filter(catalog: SessionCatalog, command_counter: CommandCounter, given: Any) -> None:
    with command_counter.counting() as log:
        for read in reads(catalog).values():
            with pytest.raises(TypeError, match="SessionFilter"):
                read(given)
    assert log.commands == []


@pytest.mark.parametrize("name", ["count", "feedback", "usage", "within"])
def test_only_lists_take_a_text(catalog: SessionCatalog, command_counter: CommandCounter, name: str) -> None:
    with command_counter.counting() as log, pytest.raises(ValueError, match=r"only list\(\) and iterate\(\)"):
        reads(catalog)[name](SessionFilter(text="x"))
    assert log.commands == []


def test_a_scope_without_a_condition_must_say_so(catalog: SessionCatalog) -> None:
    with pytest.raises(ValueError, match="everything=True"):
        catalog.within(SessionFilter())

    assert catalog.within(SessionFilter(everything=True)).count() == 0


Call = Callable[[SessionCatalog], Any]

CALLS: Collection[tuple[type[Exception], str, Call]] = [
    (ValueError, "sort", lambda catalog: catalog.list(sort="-session_id")),  # type: ignore[arg-type]
    (ValueError, "sort", lambda catalog: catalog.list(sort="metadata.user")),  # type: ignore[arg-type]
    (TypeError, "sort", lambda catalog: catalog.list(sort=None)),  # type: ignore[arg-type]
    (TypeError, "sort", lambda catalog: catalog.list(sort={"_id": 1})),  # type: ignore[arg-type]
    (ValueError, "limit", lambda catalog: catalog.list(limit=-1)),
    (ValueError, "limit", lambda catalog: catalog.list(limit=1001)),
    (ValueError, "limit", lambda catalog: catalog.list(limit=10**5000)),
    (TypeError, "limit", lambda catalog: catalog.list(limit=True)),
    (TypeError, "limit", lambda catalog: catalog.list(limit=2.0)),  # type: ignore[arg-type]
    (TypeError, "limit", lambda catalog: catalog.list(limit="2")),  # type: ignore[arg-type]
    (ValueError, "batch", lambda catalog: catalog.iterate(batch=0)),
    (ValueError, "batch", lambda catalog: catalog.iterate(batch=1001)),
    (TypeError, "batch", lambda catalog: catalog.aiterate(batch=None)),  # type: ignore[arg-type]
    (ValueError, "at_most", lambda catalog: catalog.count(at_most=-1)),
    (TypeError, "at_most", lambda catalog: catalog.count(at_most=1.5)),  # type: ignore[arg-type]
    (TypeError, "session_id", lambda catalog: catalog.get({"$ne": None})),  # type: ignore[arg-type]
    (TypeError, "session_id", lambda catalog: catalog.get(None)),  # type: ignore[arg-type]
    (ValueError, "session_id", lambda catalog: catalog.get("")),
    (ValueError, "session_id", lambda catalog: catalog.get("\udc80")),
    (TypeError, "session_id", lambda catalog: catalog.transcript({"$ne": 1}, "a")),  # type: ignore[arg-type]
    (TypeError, "agent_id", lambda catalog: catalog.transcript("s", None)),  # type: ignore[arg-type]
    (ValueError, "agent_id", lambda catalog: catalog.transcript("s", "a\0")),
    (ValueError, "limit", lambda catalog: catalog.transcript("s", "a", limit=1001)),
    (TypeError, "before", lambda catalog: catalog.transcript("s", "a", before="9")),  # type: ignore[arg-type]
    (ValueError, "before", lambda catalog: catalog.transcript("s", "a", before=2**63)),
    (ValueError, "max_bytes", lambda catalog: catalog.transcript("s", "a", max_bytes=0)),
    (TypeError, "max_bytes", lambda catalog: catalog.transcript("s", "a", max_bytes=2.5)),  # type: ignore[arg-type]
    (TypeError, "message_id", lambda catalog: catalog.part("s", "a", "0", 0)),  # type: ignore[arg-type]
    (TypeError, "n must", lambda catalog: catalog.part("s", "a", 0, None)),  # type: ignore[arg-type]
    (ValueError, "n must", lambda catalog: catalog.part("s", "a", 0, -1)),
    (ValueError, "n must", lambda catalog: catalog.part("s", "a", 0, 2**40)),
    (ValueError, "rating", lambda catalog: catalog.feedback(rating="good")),  # type: ignore[arg-type]
    (TypeError, "rating", lambda catalog: catalog.feedback(rating={"$ne": 1})),  # type: ignore[arg-type]
    (ValueError, "since", lambda catalog: catalog.feedback(since=NAIVE)),
    (TypeError, "since", lambda catalog: catalog.feedback(since="today")),  # type: ignore[arg-type]
    (ValueError, "limit", lambda catalog: catalog.feedback(limit=-1)),
    (ValueError, "by must", lambda catalog: catalog.usage(by=["user"])),  # type: ignore[list-item]
    (ValueError, "by must", lambda catalog: catalog.usage(by=["day", "day"])),
    (ValueError, "by must", lambda catalog: catalog.usage(by=[{}])),  # type: ignore[list-item]
    (TypeError, "by must", lambda catalog: catalog.usage(by="day")),  # type: ignore[arg-type]
    (TypeError, "by must", lambda catalog: catalog.usage(by=None)),  # type: ignore[arg-type]
    (ValueError, "since", lambda catalog: catalog.usage(since=SINCE + timedelta(hours=1))),
    (ValueError, "until", lambda catalog: catalog.usage(until=SINCE.replace(tzinfo=timezone(timedelta(hours=1))))),
    *((ValueError, "since", lambda catalog, at=at: catalog.usage(since=at)) for at in BEYOND),
    (ValueError, "since", lambda catalog: catalog.usage(since=SINCE + timedelta(microseconds=1))),
    (ValueError, "time zone", lambda catalog: catalog.usage(since=NAIVE)),
    (ValueError, "since", lambda catalog: catalog.usage(since=SINCE, until=SINCE)),
    (ValueError, "since", lambda catalog: catalog.usage(since=date(2026, 1, 2), until=SINCE)),
    (TypeError, "since", lambda catalog: catalog.usage(since="2026-01-01")),  # type: ignore[arg-type]
    (TypeError, "metadata_fields", lambda catalog: catalog.create_indexes("user")),
    (ValueError, "metadata_fields", lambda catalog: catalog.create_indexes(["$x"])),
    (TypeError, "replace", lambda catalog: catalog.create_indexes(replace=1)),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(
    ("kind", "named", "call"), CALLS, ids=[f"{number}-{case[1]}" for number, case in enumerate(CALLS)]
)
def test_an_argument_that_is_not_valid(
    catalog: SessionCatalog, command_counter: CommandCounter, kind: type[Exception], named: str, call: Call
) -> None:
    with command_counter.counting() as log, pytest.raises(kind, match=named) as caught:
        call(catalog)

    assert type(caught.value) is kind
    assert log.commands == []


# Constructors


def test_a_catalog_needs_a_client() -> None:
    with pytest.raises(ValueError, match="connection_string"):
        SessionCatalog()


def test_mongomock_is_refused() -> None:
    with pytest.raises(TypeError, match="mongomock"):
        SessionCatalog(client=mongomock.MongoClient())


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"read_preference": "secondary"}, TypeError),
        ({"read_preference": None}, TypeError),
        ({"max_time": 30}, TypeError),
        ({"max_time": None}, TypeError),
        ({"max_time": timedelta(0)}, ValueError),
        ({"max_time": timedelta(seconds=-1)}, ValueError),
        ({"database_name": 1}, TypeError),
        ({"collection_name": "mongodb://u:p@h/"}, ValueError),
        ({"maxPoolSize": 3}, TypeError),
    ],
)
def test_arguments_of_the_constructor(mongo_client: Client, options: dict[str, Any], kind: type[Exception]) -> None:
    with pytest.raises(kind, match="|".join(options)):
        SessionCatalog(client=mongo_client, **options)


def test_the_constructor_does_no_io_and_can_read_elsewhere() -> None:
    counter = CommandCounter()
    client: Client = MongoClient("mongodb://127.0.0.1:1", serverSelectionTimeoutMS=1, event_listeners=[counter])
    with client, counter.counting() as log:
        catalog = SessionCatalog(
            client=client,
            database_name="d",
            read_preference=ReadPreference.SECONDARY_PREFERRED,
            max_time=timedelta(days=100_000),
        )
        catalog.within(SessionFilter(agent_id="a"))
        catalog.close()
    assert log.commands == []


def test_a_catalog_is_not_copied(catalog: SessionCatalog) -> None:
    import copy

    with pytest.raises(TypeError, match="cannot be pickled or copied"):
        copy.copy(catalog)
