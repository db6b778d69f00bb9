"""Indexes, bringing sessions up to date, and what lists cannot show."""

import threading
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import bson
import pytest
from pymongo import IndexModel

from mongodb_session_manager import MongoDBSessionManager, SessionCatalog, SessionFilter
from mongodb_session_manager.types import Finding, UpgradeReport
from tests.aliases import Client, Insert, NewAgent, Stored
from tests.conftest import COLLECTION
from tests.first_version import AT, legacy, legacy_agent
from tests.integration.catalog.sessions import agent, at, ids, message, session
from tests.watching import wait_for_indexes

Put = Callable[..., None]

ALL = {
    "created_at_-1__id_-1",
    "updated_at_-1__id_-1",
    "application_name_1_updated_at_-1__id_-1",
    "agent_ids_1_updated_at_-1__id_-1",
    "updated_at_-1__id_-1_feedback_counts.down_1",
    "updated_at_-1__id_-1_feedbacks.rating_1",
    "updated_at_-1__id_-1_interrupted_1",
}


@pytest.fixture
def own(mongo_client: Client, observer: Client, shared_database: str) -> Any:
    """A catalog of a collection whose indexes are not those of other tests."""
    name = f"{shared_database}_maintenance"
    observer.drop_database(name)
    with SessionCatalog(client=mongo_client, database_name=name) as catalog:
        yield catalog
    observer.drop_database(name)


def indexes(observer: Client, catalog: SessionCatalog) -> set[str]:
    database, _, name = catalog._stores.namespace.partition(".")
    return {*observer[database][name].index_information()} - {"_id_"}


# Indexes


def test_indexes_are_made_once(own: SessionCatalog, observer: Client) -> None:
    first = own.create_indexes(["user", "plan.tier"])
    second = own.create_indexes(["user", "plan.tier"])

    expected = {*ALL, *(f"metadata.{name}_1_updated_at_-1__id_-1" for name in ("user", "plan.tier"))}
    assert {*first.created} == {*second.existing} == indexes(observer, own) == expected
    assert (first.existing, first.failed, first.dropped) == ([], {}, [])
    assert (second.created, second.failed, second.dropped) == ([], {}, [])


def test_indexes_of_other_names_count(own: SessionCatalog, observer: Client) -> None:
    sessions = observer[own._stores.reads.sessions.database.name][COLLECTION]
    sessions.create_index([("updated_at", -1), ("_id", -1)], name="mine")

    report = own.create_indexes()

    assert "updated_at_-1__id_-1" in report.existing
    assert report.failed == {}


def test_an_index_in_the_way_leaves_the_others(own: SessionCatalog, observer: Client) -> None:
    sessions = observer[own._stores.reads.sessions.database.name][COLLECTION]
    sessions.create_index([("updated_at", -1), ("_id", -1)], name="updated_at_-1__id_-1", unique=True)

    report = own.create_indexes()

    assert [*report.failed] == ["updated_at_-1__id_-1"]
    assert {*report.created} == ALL - {"updated_at_-1__id_-1"}


def test_nothing_is_dropped_unasked_and_only_what_is_needless(own: SessionCatalog, observer: Client) -> None:
    sessions = observer[own._stores.reads.sessions.database.name][COLLECTION]
    plain = ["created_at", "updated_at", "application_name", "metadata.user", "metadata.other", "theirs"]
    options: list[IndexModel] = [
        IndexModel([("created_at", 1)], sparse=True, name="sparse"),
        IndexModel([("updated_at", -1)], expireAfterSeconds=10**8, name="ttl"),
        IndexModel([("application_name", 1), ("theirs", 1)], name="compound"),
    ]
    sessions.create_indexes([*(IndexModel([(name, 1)]) for name in plain), *options])

    assert own.create_indexes(["user"]).dropped == []
    report = own.create_indexes(["user"], replace=True)

    assert {*report.dropped} == {"created_at_1", "updated_at_1", "application_name_1", "metadata.user_1"}
    assert {"metadata.other_1", "theirs_1", "sparse", "ttl", "compound"} <= indexes(observer, own)


def test_a_catalog_makes_no_index_unasked(own: SessionCatalog, observer: Client) -> None:
    own.list()
    own.check()
    wait_for_indexes()

    assert indexes(observer, own) == set()


# Upgrades


def test_an_upgrade_makes_lists_and_filters_find_sessions(
    catalog: SessionCatalog, insert: Insert, stored: Stored
) -> None:
    insert(legacy({"support-v1": {"2": legacy_agent("support-v1.2")}, "a": legacy_agent("a")}, at=AT.isoformat()))
    before = stored()
    assert ids(catalog.list()) == []

    assert catalog.upgrade() == UpgradeReport(matched=1, upgraded=1, left=0)

    assert ids(catalog.list()) == ids(catalog.list(SessionFilter(agent_id="support-v1.2"))) == ["s-1"]
    changed = {"created_at": AT, "updated_at": AT, "agent_ids": ["a", "support-v1.2"]}
    assert stored() == {**before, **changed}
    assert catalog.upgrade() == UpgradeReport()


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2024-05-06T07:08:09.123456+00:00", AT),
        ("2024-05-06T07:08:09.123456", AT),
        ("2024-05-06T07:08:09.123Z", AT),
        ("2024-05-06T09:08:09.123456+02:00", AT),
        ("2024-05-06T07:08:09+00:00", AT.replace(microsecond=0)),
    ],
)
def test_times_of_the_first_version(
    catalog: SessionCatalog, insert: Insert, stored: Stored, text: str, time: datetime
) -> None:
    insert(legacy(at=text))

    catalog.upgrade()

    assert (stored()["created_at"], stored()["updated_at"]) == (time, time)


def test_agents_that_are_not_listed_are_added(catalog: SessionCatalog, put: Put, stored: Stored) -> None:
    agents = {name: agent(name) for name in ("a", "b%2Ec", "%zz")}
    put(session("s-1", agents=agents, agent_ids=["a"]))

    assert catalog.upgrade().upgraded == 1
    assert stored()["agent_ids"] == ["a", "b.c", "%zz"]


def test_what_cannot_be_upgraded_is_left(catalog: SessionCatalog, put: Put, observer: Client, database: str) -> None:
    put(
        session("s-1", created_at="yesterday"),
        session("s-2", agents={"a": agent("a")}, agent_ids="a"),
        session("s-3", schema_version=3, created_at=AT.isoformat()),
        session("s-4", agents=[], created_at=AT.isoformat()),
        session("s-5", created_at="x" * 100_000),
        {**session("s-6", created_at=AT.isoformat()), "_id": 6},
        session("s-7", created_at=AT.isoformat(), updated_at=5),
    )
    before = {each["_id"]: each for each in observer[database][COLLECTION].find()}

    assert catalog.upgrade() == UpgradeReport(matched=4, upgraded=1, left=3)
    after = {each["_id"]: each for each in observer[database][COLLECTION].find()}
    assert [key for key in before if before[key] != after[key]] == ["s-7"]


def test_a_session_without_room_keeps_no_other_one_from_its_upgrade(catalog: SessionCatalog, put: Put) -> None:
    full = session("s-2", agents={"a": agent("a")}, theirs="")
    full["theirs"] = "x" * (16 * 1024 * 1024 - len(bson.encode(full)) - 5)
    put(*(session(f"s-{n}", agents={"a": agent("a")}) for n in (1, 3)), full)

    assert catalog.upgrade() == UpgradeReport(matched=3, upgraded=2, left=1)
    assert ids(catalog.list(SessionFilter(agent_id="a"), sort="session_id")) == ["s-1", "s-3"]


def test_a_session_that_a_validator_refuses_keeps_no_other_one_from_its_upgrade(
    catalog: SessionCatalog, put: Put, observer: Client, database: str
) -> None:
    put(*(session(f"s-{n}", agents={"a": agent("a")}) for n in (1, 2, 3)))
    validator = {"$or": [{"_id": {"$ne": "s-2"}}, {"agent_ids": []}]}
    observer[database].command("collMod", COLLECTION, validator=validator)
    try:
        assert catalog.upgrade() == UpgradeReport(matched=3, upgraded=2, left=1)
    finally:
        observer[database].command("collMod", COLLECTION, validator={})


def test_an_upgrade_goes_through_many(catalog: SessionCatalog, put: Put) -> None:
    put(*(session(f"s-{n:04}", created_at=AT.isoformat()) for n in range(1200)))

    assert catalog.upgrade() == UpgradeReport(matched=1200, upgraded=1200, left=0)


def test_an_upgrade_disturbs_no_writer(
    catalog: SessionCatalog, insert: Insert, new_manager: Callable[..., MongoDBSessionManager], new_agent: NewAgent
) -> None:
    insert(legacy(at=AT.isoformat()))
    made = new_agent(new_manager(), agent_id="default")
    stop = threading.Event()

    def upgrade() -> None:
        while not stop.is_set():
            catalog.upgrade()

    thread = threading.Thread(target=upgrade)
    thread.start()
    try:
        for number in range(10):
            made(f"Hello {number}")
    finally:
        stop.set()
        thread.join()

    (summary,) = catalog.list().items
    assert (summary.messages, summary.created_at) == (24, AT)


# Checks


def counts(findings: list[Finding]) -> dict[str, int]:
    return {finding.code: finding.count for finding in findings if finding.count is not None}


def test_a_check_tells_what_lists_cannot_show(catalog: SessionCatalog, put: Put) -> None:
    past = datetime(2000, 1, 1, tzinfo=timezone.utc)
    put(
        session("s-1", updated_at=AT.isoformat()),
        session("s-2", created_at=5),
        session("s-3", schema_version=3),
        session("s-4", agents=[]),
        session("s-5", agents={"a": agent("a", message(0, "user", "Hi"))}),
        session("s-6", expires_at=past),
        {**session("s-7"), "_id": 7},
        session("s-8"),
    )

    found = catalog.check()

    assert counts(found) == {
        "text_times": 1,
        "no_times": 1,
        "newer_versions": 1,
        "unreadable": 1,
        "unlisted_agents": 1,
        "left_behind": 1,
        "foreign_ids": 1,
    }
    assert all(finding.detail for finding in found)


def test_a_check_of_a_scope_is_about_its_sessions(catalog: SessionCatalog, put: Put) -> None:
    put(*(session(f"s-{n}", updated_at=AT.isoformat(), metadata={"tenant": n}) for n in range(3)))

    assert counts(catalog.within(SessionFilter(metadata={"tenant": [0, 1]})).check()) == {"text_times": 2}
    assert counts(catalog.check()) == {"text_times": 3}


def test_a_check_names_missing_indexes(own: SessionCatalog) -> None:
    missing = {finding.detail.split()[1] for finding in own.check() if finding.code == "missing_index"}
    own.create_indexes()

    assert missing == ALL
    assert own.check() == []


def test_a_clean_collection_has_no_findings_but_indexes(catalog: SessionCatalog, put: Put) -> None:
    put(session("s-1", at(1).minute))

    assert {finding.code for finding in catalog.check()} <= {"missing_index"}
