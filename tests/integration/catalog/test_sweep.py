"""Sweeps remove what belongs to no session, and nothing else."""

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from bson import ObjectId

from mongodb_session_manager import MongoDBSessionManagerFactory, SessionCatalog
from mongodb_session_manager._schema.limits import LIMITS
from mongodb_session_manager._stores import sweeping
from mongodb_session_manager.testing import CommandCounter
from mongodb_session_manager.types import SweepReport
from tests.aliases import Client, Failing, NewAgent, NewManager
from tests.conftest import COLLECTION
from tests.expiring import HOUR, expire, in_time, without_ttl_monitor
from tests.integration.catalog.sessions import session
from tests.integration.stores.test_new_lives import Interruption
from tests.watching import eventually

Put = Callable[..., None]
MINUTE = timedelta(minutes=1)
SOON = replace(LIMITS, first_sweep=(0.0, 0.0), sweep_interval=0.05)


@pytest.fixture(autouse=True)
def kept(observer: Client) -> Iterator[None]:
    with without_ttl_monitor(observer):
        yield


@pytest.fixture
def parts(observer: Client, database: str) -> dict[str, Any]:
    found = observer[database]
    return {
        "sessions": found[COLLECTION],
        "segments": found[f"{COLLECTION}_segments"],
        "files": found[f"{COLLECTION}_files.files"],
        "chunks": found[f"{COLLECTION}_files.chunks"],
    }


@pytest.fixture
def child(parts: dict[str, Any]) -> Callable[..., None]:
    """Put a segment and a file with a chunk there, so old."""

    def insert(session_id: str, instance: ObjectId | None, age: timedelta = 2 * HOUR) -> None:
        life: dict[str, Any] = {"session_id": session_id}
        life |= {} if instance is None else {"instance": instance}
        segment_id, file_id = (aged(age) for _ in range(2))
        parts["segments"].insert_one({"_id": segment_id, **life, "kind": "messages", "messages": []})
        parts["files"].insert_one({"_id": file_id, "length": 3, "metadata": {**life, "sha256": "x"}})
        parts["chunks"].insert_one({"files_id": file_id, "n": 0, "data": b"abc"})

    return insert


def aged(age: timedelta) -> ObjectId:
    """An id as it was made so long ago."""
    seconds = int((datetime.now(timezone.utc) - age).timestamp())
    return ObjectId(seconds.to_bytes(4, "big") + ObjectId().binary[4:])


def owners(parts: dict[str, Any]) -> tuple[list[str], list[str]]:
    """The sessions of all segments and files; every chunk has its file."""
    files = list(parts["files"].find())
    chunks = set(parts["chunks"].distinct("files_id"))
    assert chunks <= {file["_id"] for file in files}
    segments = [segment["session_id"] for segment in parts["segments"].find({"session_id": {"$ne": ""}})]
    return sorted(segments), sorted(file["metadata"]["session_id"] for file in files)


def test_children_without_a_session_go(
    catalog: SessionCatalog, put: Put, child: Callable[..., None], parts: dict[str, Any]
) -> None:
    living, gone = ObjectId(), ObjectId()
    put(session("living", instance=living), session("older version"))
    child("living", living)
    child("living", gone)  # of an earlier life
    child("living", None)  # of an older version, which may not be closed
    child("older version", None)
    child("older version", gone)
    child("gone", gone)
    child("gone", None)
    child("young", gone, age=59 * MINUTE)
    child("young", None, age=59 * MINUTE)

    report = catalog.sweep()

    kept = ["living", "living", "older version", "older version", "young", "young"]
    assert report == SweepReport(segments=3, files=3)
    assert owners(parts) == (kept, kept)
    assert parts["files"].count_documents({"metadata.removals": {"$exists": True}}) == 0


def test_how_old_they_must_be_can_be_said(
    catalog: SessionCatalog, child: Callable[..., None], parts: dict[str, Any]
) -> None:
    child("gone", ObjectId(), age=30 * MINUTE)
    child("gone", None, age=30 * MINUTE)

    assert catalog.sweep(older_than=timedelta(days=36_500)) == SweepReport()
    assert catalog.sweep(older_than=2 * HOUR) == SweepReport()
    assert catalog.sweep(older_than=20 * MINUTE) == SweepReport(segments=1, files=1)
    assert catalog.sweep(older_than=timedelta(0)) == SweepReport()  # one without an instance is never younger
    assert owners(parts) == (["gone"], ["gone"])


@pytest.mark.parametrize("older_than", [3600, "1h", None, -HOUR, timedelta.max])
def test_bad_input(catalog: SessionCatalog, command_counter: CommandCounter, older_than: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="older_than"):
        catalog.sweep(older_than=older_than)

    assert command_counter.commands == []


def test_expired_sessions_go_if_the_server_has_left_them(
    catalog: SessionCatalog,
    new_manager: NewManager,
    new_agent: NewAgent,
    child: Callable[..., None],
    parts: dict[str, Any],
) -> None:
    instances = {}
    for session_id in ("long", "just now", "held", "living"):
        new_agent(new_manager(session_id, ttl=HOUR))("Hi")
        instances[session_id] = parts["sessions"].find_one({"_id": session_id})["instance"]
        child(session_id, instances[session_id], age=MINUTE)
    catalog.hold("held")
    expire(parts["sessions"], "long", ago=6 * MINUTE)
    expire(parts["sessions"], "just now", ago=4 * MINUTE)

    report = catalog.sweep()

    assert report == SweepReport(sessions=1, segments=1, files=1)
    kept = ["held", "just now", "living"]
    assert sorted(found["_id"] for found in parts["sessions"].find()) == kept
    assert owners(parts) == (kept, kept)


@pytest.mark.parametrize("odd", [0, "2020-01-01", None, [], [in_time(-HOUR)], {}, True])
def test_what_is_not_a_date_stays(catalog: SessionCatalog, put: Put, parts: dict[str, Any], odd: object) -> None:
    put(session("s-1", expires_at=odd))

    assert catalog.sweep() == SweepReport()
    assert parts["sessions"].count_documents({}) == 1


def test_odd_documents_stay(catalog: SessionCatalog, parts: dict[str, Any], child: Callable[..., None]) -> None:
    odd: list[dict[str, Any]] = [{"session_id": 7}, {"session_id": None}, {}, {"session_id": ["a"]}, {"session_id": ""}]
    parts["segments"].insert_many({"_id": aged(2 * HOUR), **each} for each in odd)
    parts["files"].insert_many({"_id": aged(2 * HOUR), "metadata": each} for each in [*odd, None, 5])
    child("gone", ObjectId())

    assert catalog.sweep() == SweepReport(segments=1, files=1)
    assert (parts["segments"].count_documents({}), parts["files"].count_documents({})) == (5, 7)


def test_a_session_that_lives_again_stays(
    mongodb_uri: str, database: str, new_manager: NewManager, parts: dict[str, Any]
) -> None:
    manager = new_manager(ttl=HOUR)
    expire(parts["sessions"], ago=6 * MINUTE)
    manager._stores._operations.dates.lifetimes["s-1"].until = in_time(-HOUR)
    interruption = Interruption()
    with (
        Client(mongodb_uri, tz_aware=True, event_listeners=[interruption]) as client,
        SessionCatalog(client=client, database_name=database) as catalog,
        interruption.before(2, lambda: manager.update_metadata({"a": 1})),
    ):
        report = catalog.sweep()

    assert interruption.happened
    assert report == SweepReport()
    assert parts["sessions"].count_documents({}) == 1


@pytest.mark.parametrize("number", range(1, 12))
def test_a_session_that_comes_meanwhile_keeps_its_files(
    mongodb_uri: str, database: str, child: Callable[..., None], parts: dict[str, Any], put: Put, number: int
) -> None:
    """As a fork: its children are there before it is."""
    instance = ObjectId()
    child("fork", instance)
    interruption = Interruption()
    with (
        Client(mongodb_uri, tz_aware=True, event_listeners=[interruption]) as client,
        SessionCatalog(client=client, database_name=database) as catalog,
        interruption.before(number, lambda: put(session("fork", instance=instance))),
    ):
        catalog.sweep()

    segments, files = owners(parts)
    if number <= 3:  # before the sweep has looked at the sessions
        assert segments == ["fork"]
    if number <= 7:
        assert files == ["fork"]
        assert parts["files"].count_documents({"metadata.removals.0": {"$exists": True}}) == 0


@pytest.mark.parametrize("number", range(1, 7))
def test_a_fork_that_comes_while_young_segments_are_swept_keeps_them_or_sees_it(
    interrupted: SessionCatalog,
    interruption: Interruption,
    child: Callable[..., None],
    parts: dict[str, Any],
    put: Put,
    number: int,
) -> None:
    instance = ObjectId()
    child("fork", instance, age=MINUTE)
    seen: list[Any] = []

    def come() -> None:
        put(session("fork", instance=instance))
        seen.extend(segment.get("removals") for segment in parts["segments"].find({"session_id": "fork"}))

    with interruption.before(number, come):
        interrupted.sweep(older_than=timedelta(0))

    assert interruption.happened
    segments = list(parts["segments"].find({"session_id": "fork"}))
    if seen == [None]:  # to the fork, all is as it has written it
        assert len(segments) == 1
    assert not any(segment.get("removals") for segment in segments)


def test_three_thousand_segments_are_not_read(
    catalog: SessionCatalog, put: Put, parts: dict[str, Any], new_manager: NewManager, command_counter: CommandCounter
) -> None:
    living = [(f"s-{number:04}", ObjectId()) for number in range(1500)]
    put(*(session(session_id, instance=instance) for session_id, instance in living))
    parts["segments"].drop_indexes()  # an index that ever had a list in it answers no query by itself
    parts["segments"].create_index([("session_id", 1), ("instance", 1)])
    parts["segments"].insert_many(
        {"_id": aged(2 * HOUR), "session_id": name, "instance": instance} for name, instance in living * 2
    )

    with command_counter.counting() as log:
        assert catalog.sweep() == SweepReport()

    (listing,) = [each for each in log.commands if each.name == "find" and each.collection.endswith("_segments")]
    plan = parts["segments"].find(
        listing.document["filter"], listing.document["projection"], sort=list(listing.document["sort"].items())
    )
    assert plan.explain()["executionStats"]["totalDocsExamined"] == 0
    assert len(log.commands) <= 10


# In the background


@pytest.fixture
def sweeping_factory(mongo_client: Client, database: str) -> Iterator[MongoDBSessionManagerFactory]:
    with MongoDBSessionManagerFactory(client=mongo_client, database_name=database, ttl=HOUR, _limits=SOON) as factory:
        yield factory


def test_a_factory_with_a_ttl_sweeps(
    sweeping_factory: MongoDBSessionManagerFactory, child: Callable[..., None], parts: dict[str, Any]
) -> None:
    child("gone", ObjectId())

    sweeping_factory.create_session_manager("s-1").close()

    assert eventually(lambda: owners(parts)[0] == [])
    assert eventually(lambda: parts["files"].count_documents({}) == 0)
    child("gone again", ObjectId())
    assert eventually(lambda: parts["files"].count_documents({}) == 0)


def test_every_namespace_that_it_uses_is_swept(
    sweeping_factory: MongoDBSessionManagerFactory, observer: Client, database: str
) -> None:
    tenant = observer[database]["tenant_segments"]
    tenant.insert_one({"_id": aged(2 * HOUR), "session_id": "gone", "instance": ObjectId()})

    sweeping_factory.create_session_manager("s-1", collection_name="tenant").close()

    assert eventually(lambda: tenant.count_documents({"session_id": "gone"}) == 0)


def test_a_factory_without_a_ttl_does_not(
    mongo_client: Client, database: str, child: Callable[..., None], command_counter: CommandCounter
) -> None:
    with MongoDBSessionManagerFactory(client=mongo_client, database_name=database, _limits=SOON) as factory:
        factory.create_session_manager("s-1").close()
        assert not eventually(lambda: "delete" in command_counter.names, 0.5)


def test_one_process_of_several_does_it(catalog: SessionCatalog, parts: dict[str, Any]) -> None:
    sweepers = [sweeping.Sweeper(catalog._stores.collections) for _ in range(5)]

    assert [sweeper._claim() for sweeper in sweepers] == [True, False, False, False, False]

    parts["segments"].update_one({"_id": "sweep"}, {"$set": {"at": in_time(-16 * MINUTE)}})
    threads = [threading.Thread(target=lambda s=sweeper: found.append(s._claim())) for sweeper in sweepers]
    found: list[bool] = []
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [False, False, False, False, True]


def test_a_clock_that_was_set_back_ends_no_sweeps(catalog: SessionCatalog, parts: dict[str, Any]) -> None:
    parts["segments"].insert_one({"_id": "sweep", "session_id": "", "at": in_time(timedelta(days=400))})

    assert sweeping.Sweeper(catalog._stores.collections)._claim()


def test_closing_ends_it(
    sweeping_factory: MongoDBSessionManagerFactory,
    child: Callable[..., None],
    failing: Failing,
    parts: dict[str, Any],
    command_counter: CommandCounter,
) -> None:
    child("gone", ObjectId())
    with failing("find", collection=f"{COLLECTION}_segments", blockConnection=True, blockTimeMS=300, mode={"times": 1}):
        sweeping_factory.create_session_manager("s-1").close()
        assert eventually(lambda: any(each.collection.endswith("_segments") for each in command_counter.commands))
        sweeping_factory.close()

    sent = len(command_counter.commands)
    assert not eventually(lambda: len(command_counter.commands) > sent, 0.3)
    assert owners(parts)[1] == ["gone"]


def test_a_sweep_that_fails_costs_only_itself(
    sweeping_factory: MongoDBSessionManagerFactory,
    child: Callable[..., None],
    failing: Failing,
    parts: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    child("gone", ObjectId())
    with (
        caplog.at_level(logging.WARNING),
        failing("delete", collection=f"{COLLECTION}_segments", mode={"times": 1}, errorCode=13),
    ):
        sweeping_factory.create_session_manager("s-1").close()
        assert eventually(lambda: "sweep" in caplog.text)

    assert "OperationFailure" in caplog.text
    assert eventually(lambda: owners(parts) == ([], []))


def test_a_namespace_that_refuses_keeps_no_other_from_being_swept(
    sweeping_factory: MongoDBSessionManagerFactory,
    failing: Failing,
    observer: Client,
    database: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tenant = observer[database]["tenant_segments"]
    with (
        caplog.at_level(logging.WARNING),
        failing("update", collection=f"{COLLECTION}_segments", errorCode=13) as met,
    ):
        sweeping_factory.create_session_manager("s-1").close()
        assert eventually(lambda: "sweep" in caplog.text)
        tenant.insert_one({"_id": aged(2 * HOUR), "session_id": "gone", "instance": ObjectId()})
        sweeping_factory.create_session_manager("s-1", collection_name="tenant").close()
        assert eventually(lambda: tenant.count_documents({"session_id": "gone"}) == 0)

    assert met[0] > 1
    assert all(record.levelno < logging.ERROR for record in caplog.records)


def test_in_memory_nothing_is_swept() -> None:
    import mongomock

    client: Any = mongomock.MongoClient(tz_aware=True)
    with MongoDBSessionManagerFactory(client=client, database_name="shop", ttl=HOUR, _limits=SOON) as factory:
        factory.create_session_manager("s-1").close()

        assert factory._sweeps._sweepers == {}
