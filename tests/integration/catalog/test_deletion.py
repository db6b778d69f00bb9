"""Deletions through the catalog: receipts, many at once, holds, and what another deletion left halfway."""

from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import pytest
from bson import ObjectId
from pymongo.errors import OperationFailure

from mongodb_session_manager import (
    MongoDBSessionManager,
    SessionCatalog,
    SessionFilter,
    SessionHeldError,
    SessionNotFoundError,
)
from mongodb_session_manager.testing import CommandCounter
from mongodb_session_manager.types import DeletionReceipt, DeletionReport
from tests.aliases import Client, Document, Failing, NewAgent, NewManager
from tests.conftest import COLLECTION
from tests.expiring import HOUR, expire, without_ttl_monitor
from tests.integration.catalog.sessions import START
from tests.integration.catalog.sessions import session as older_session
from tests.integration.stores.test_new_lives import Interruption, document
from tests.watching import cost

Put = Callable[..., None]
Left = Callable[[], dict[str, int]]
EVERY = SessionFilter(everything=True)


def session(session_id: str, **more: Any) -> Document:
    return older_session(session_id, **{"instance": ObjectId(), **more})


@pytest.fixture
def left(observer: Client, database: str) -> Left:
    """The number of documents in each collection that has some."""

    def read() -> dict[str, int]:
        names = (COLLECTION, *(f"{COLLECTION}_{part}" for part in ("segments", "files.files", "files.chunks")))
        counts = {name: observer[database][name].count_documents({}) for name in names}
        return {name: count for name, count in counts.items() if count}

    return read


@pytest.fixture
def talked(new_manager: NewManager, new_agent: NewAgent) -> Callable[..., MongoDBSessionManager]:
    """Make a session with messages, feedback, a file, and a segment."""

    def talk(session_id: str = "s-1", **options: Any) -> MongoDBSessionManager:
        manager = new_manager(session_id, **options)
        agent = new_agent(manager)
        agent([{"text": "Look"}, document("d")])
        agent("And?")
        manager.add_feedback({"rating": "up", "comment": "good"})
        segments = manager._stores.collections.segments
        found = manager.session_repository.collection.find_one({"_id": session_id}) or {}
        segments.insert_one({"session_id": session_id, "instance": found["instance"], "kind": "messages"})
        return manager

    return talk


# One


def test_a_receipt_says_what_was_deleted(
    catalog: SessionCatalog,
    talked: Callable[..., Any],
    left: Left,
    command_counter: CommandCounter,
    observer: Client,
    database: str,
) -> None:
    talked()
    found = observer[database]
    stored: Any = found[COLLECTION].find_one()
    files = list(found[f"{COLLECTION}_files.files"].find())
    before = datetime.now(timezone.utc)

    with command_counter.counting() as log:
        receipt = catalog.delete("s-1")

    assert cost(log) == (4, 3, 0)
    assert left() == {}
    assert receipt.deleted
    assert receipt.session_id == "s-1"
    assert receipt.instance == str(stored["instance"])
    assert 0 <= (receipt.at - before).total_seconds() < 60
    assert (receipt.messages, receipt.feedback, receipt.segments, receipt.files, receipt.undelivered) == (4, 1, 1, 1, 0)
    assert receipt.bytes > 1000 + sum(file["length"] for file in files)
    assert "Look" not in repr(receipt)
    assert "good" not in repr(receipt)


def test_a_session_without_files_is_four_operations(
    catalog: SessionCatalog, new_manager: NewManager, new_agent: NewAgent, command_counter: CommandCounter
) -> None:
    new_agent(new_manager())("Hi")

    with command_counter.counting() as log:
        catalog.delete("s-1")

    assert log.names == ["aggregate", "delete", "aggregate", "find"]


def test_what_is_not_there(catalog: SessionCatalog) -> None:
    receipt = catalog.delete("never there")

    assert receipt == DeletionReceipt(session_id="never there", deleted=False, at=receipt.at)


@pytest.mark.parametrize("session_id", [None, 7, b"s-1", {"$ne": None}, ["s-1"]])
def test_ids_of_a_wrong_type(catalog: SessionCatalog, command_counter: CommandCounter, session_id: Any) -> None:
    for method in (catalog.delete, catalog.hold, catalog.release):
        with pytest.raises(TypeError, match="session_id"):
            method(session_id)

    assert command_counter.commands == []


@pytest.mark.parametrize("odd", [1, "yes", None])
def test_flags_of_a_wrong_type(
    catalog: SessionCatalog, new_manager: NewManager, command_counter: CommandCounter, odd: Any
) -> None:
    manager = new_manager()
    calls: list[Callable[[], object]] = [
        lambda: catalog.delete("s-1", even_held=odd),
        lambda: catalog.delete_many(EVERY, dry_run=odd),
        lambda: manager.delete_session(even_held=odd),
        lambda: manager.session_repository.delete_session("s-1", even_held=odd),
    ]

    with command_counter.counting() as log:
        for call in calls:
            with pytest.raises(TypeError, match="must be True or False"):
                call()

    assert log.commands == []


def test_a_writer_recreates_nothing(
    catalog: SessionCatalog, talked: Callable[..., MongoDBSessionManager], new_agent: NewAgent, left: Left
) -> None:
    manager = talked()
    agent = new_agent(manager, agent_id="other")

    catalog.delete("s-1")

    for act in (lambda: agent("Hi"), lambda: manager.update_metadata({"a": 1})):
        with pytest.raises(SessionNotFoundError):
            act()
    assert left() == {}


def test_counts_of_a_document_that_is_odd(catalog: SessionCatalog, put: Put, left: Left) -> None:
    odd = {"agents": [1], "feedbacks": "x", "feedback_segments": {"a": 1}, "outbox": 5, "instance": "x", "held": "yes"}
    agents = {"a": {"messages": "x", "moved_count": "9"}, "b": [1, 2], "c": {"moved_count": 3, "messages": [{}, {}]}}
    put(session("s-1", **odd), session("s-2", agents={**agents, "d": {"e": {"messages": [{}] * 4}}}))

    first, second = catalog.delete("s-1"), catalog.delete("s-2")

    assert (first.deleted, first.messages, first.feedback, first.undelivered) == (True, 0, 0, 0)
    assert (second.deleted, second.messages) == (True, 9)
    assert left() == {}


@pytest.mark.parametrize("through", ["catalog", "repository"])
def test_a_deletion_that_ended_halfway_is_finished(
    catalog: SessionCatalog,
    talked: Callable[..., MongoDBSessionManager],
    left: Left,
    observer: Client,
    database: str,
    through: str,
) -> None:
    repository = talked().session_repository
    observer[database][COLLECTION].delete_one({"_id": "s-1"})  # killed before the children
    assert set(left()) == {f"{COLLECTION}_{part}" for part in ("segments", "files.files", "files.chunks")}

    deleted = catalog.delete("s-1").deleted if through == "catalog" else repository.delete_session("s-1")

    assert not deleted
    assert left() == {}


def test_what_an_earlier_life_left_goes_with_the_next(
    catalog: SessionCatalog,
    talked: Callable[..., MongoDBSessionManager],
    new_manager: NewManager,
    left: Left,
    observer: Client,
    database: str,
) -> None:
    talked()
    observer[database][COLLECTION].delete_one({"_id": "s-1"})
    new_manager()

    receipt = catalog.delete("s-1")

    assert (receipt.segments, receipt.files) == (1, 1)
    assert left() == {}


# A new life of the id, between any two operations


@pytest.mark.parametrize("number", range(1, 9))
def test_a_new_life_keeps_what_is_its_own(
    mongodb_uri: str, database: str, talked: Callable[..., Any], new_agent: NewAgent, number: int, left: Left
) -> None:
    talked()
    interruption = Interruption()
    with (
        Client(mongodb_uri, tz_aware=True, event_listeners=[interruption]) as client,
        SessionCatalog(client=client, database_name=database) as catalog,
    ):

        def act() -> None:
            first.delete_session()
            talked()

        first = talked("s-1")
        with interruption.before(number, act):
            catalog.delete("s-1")
        if not interruption.happened:
            assert number > 7
        found = left()
        # Whoever was deleted, the new life is there whole, or gone whole.
        assert found in (
            {},
            {
                COLLECTION: 1,
                f"{COLLECTION}_segments": 1,
                f"{COLLECTION}_files.files": 1,
                f"{COLLECTION}_files.chunks": 2,
            },
        )
        if found:
            assert len(catalog.transcript("s-1", "default").messages) == 4


# Held


def test_what_is_held_is_not_deleted(
    catalog: SessionCatalog, talked: Callable[..., MongoDBSessionManager], new_agent: NewAgent, left: Left
) -> None:
    manager = talked()
    agent = new_agent(manager, agent_id="other")
    catalog.hold("s-1")
    before = left()

    for delete in (
        lambda: catalog.delete("s-1"),
        lambda: manager.session_repository.delete_session("s-1"),
        manager.delete_session,
    ):
        with pytest.raises(SessionHeldError, match=r"'s-1'.*even_held=True"):
            delete()

    assert left() == before
    agent("It goes on")  # the manager is as it was
    assert catalog.delete("s-1", even_held=True).deleted
    assert left() == {}


def test_the_other_doors_delete_what_is_held_if_told_so(
    catalog: SessionCatalog, new_manager: NewManager, left: Left
) -> None:
    first, second = new_manager(), new_manager("s-2")
    catalog.hold("s-1")
    catalog.hold("s-2")

    assert first.session_repository.delete_session("s-1", even_held=True)
    assert second.delete_session(even_held=True)

    assert left() == {}


@pytest.mark.parametrize("number", [1, 2])
def test_a_hold_that_comes_just_before(
    mongodb_uri: str, database: str, catalog: SessionCatalog, new_manager: NewManager, number: int
) -> None:
    new_manager()
    interruption = Interruption()
    with (
        Client(mongodb_uri, tz_aware=True, event_listeners=[interruption]) as client,
        SessionCatalog(client=client, database_name=database) as other,
        interruption.before(number, lambda: catalog.hold("s-1")),
        pytest.raises(SessionHeldError),
    ):
        other.delete("s-1")

    assert catalog.get("s-1").held


# Many


def test_many_are_deleted(
    catalog: SessionCatalog, talked: Callable[..., Any], new_manager: NewManager, left: Left
) -> None:
    for number in range(3):
        talked(f"user-1:{number}")
    new_manager("user-2:0")
    new_manager("user-1:held")
    catalog.hold("user-1:held")
    one = SessionFilter(id_prefix="user-1:")

    assert catalog.delete_many(one, dry_run=True) == DeletionReport(matched=3, held=1, remaining=3)
    report = catalog.delete_many(one)

    assert report == DeletionReport(matched=3, deleted=3, held=1)
    assert left() == {COLLECTION: 2}
    assert {found.session_id for found in catalog.iterate()} == {"user-2:0", "user-1:held"}


def test_without_a_condition_it_must_be_said(catalog: SessionCatalog, put: Put, left: Left) -> None:
    put("s-1", "s-2")

    for wrong, kind in ((SessionFilter(), ValueError), (None, TypeError), ({}, TypeError), ("s-1", TypeError)):
        with pytest.raises(kind, match="filter"):
            catalog.delete_many(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="text"):
        catalog.delete_many(SessionFilter(text="Hi"))
    assert left() == {COLLECTION: 2}

    assert catalog.delete_many(EVERY).deleted == 2


def test_more_than_at_most(catalog: SessionCatalog, put: Put, left: Left) -> None:
    put("s-1", "s-2")

    with pytest.raises(ValueError, match=r"2 sessions.*at_most is 1"):
        catalog.delete_many(EVERY, at_most=1)
    for wrong, kind in ((-1, ValueError), ("1", TypeError), (True, TypeError), (1.0, TypeError)):
        with pytest.raises(kind, match="at_most"):
            catalog.delete_many(EVERY, at_most=wrong)  # type: ignore[arg-type]
    assert left() == {COLLECTION: 2}

    assert catalog.delete_many(EVERY, at_most=2).deleted == 2
    assert catalog.delete_many(EVERY, at_most=0).deleted == 0


@pytest.mark.parametrize("sessions", [500, 501, 1100])
def test_ten_operations_for_five_hundred(
    catalog: SessionCatalog,
    put: Put,
    left: Left,
    observer: Client,
    database: str,
    command_counter: CommandCounter,
    sessions: int,
) -> None:
    documents = [session(f"s-{number:04}") for number in range(sessions)]
    put(*documents)
    found = observer[database]
    found[f"{COLLECTION}_segments"].insert_many(child(each) for each in documents)
    found[f"{COLLECTION}_files.files"].insert_many({"length": 1, "metadata": child(each)} for each in documents)
    seen: list[DeletionReport] = []

    with command_counter.counting() as log:
        report = catalog.delete_many(EVERY, on_progress=seen.append)

    assert report == DeletionReport(matched=sessions, deleted=sessions)
    assert left() == {}
    assert len(log.commands) <= 10 * -(-sessions // 500)
    assert [each.deleted for each in seen] == [*range(500, sessions, 500), sessions]


def child(of: Document) -> Document:
    return {"session_id": of["_id"], "instance": of["instance"]}


def test_a_callback_that_raises_ends_it(catalog: SessionCatalog, put: Put, left: Left) -> None:
    put(*(f"s-{number:04}" for number in range(501)))

    def refuse(report: DeletionReport) -> None:
        raise KeyError(report.deleted)

    with pytest.raises(KeyError, match="500"):
        catalog.delete_many(EVERY, on_progress=refuse)

    assert left() == {COLLECTION: 1}
    with pytest.raises(TypeError, match="on_progress"):
        catalog.delete_many(EVERY, on_progress="print")  # type: ignore[arg-type]


def test_failures_are_collected(catalog: SessionCatalog, put: Put, failing: Failing, left: Left) -> None:
    put(*(f"s-{number:04}" for number in range(700)))

    with failing("delete", mode={"times": 1}, errorCode=13):
        report = catalog.delete_many(EVERY)

    assert (report.matched, report.deleted, report.failed, report.remaining) == (700, 200, 500, 500)
    assert report.errors["s-0000"] == "OperationFailure"
    assert catalog.delete_many(EVERY).deleted == 500
    assert left() == {}


def test_a_server_that_refuses_is_not_asked_for_ever(catalog: SessionCatalog, put: Put, failing: Failing) -> None:
    put(*(f"s-{number:04}" for number in range(2100)))

    with failing("delete", errorCode=13) as met:
        report = catalog.delete_many(EVERY)

    assert met == [3]
    assert (report.deleted, report.failed, report.remaining) == (0, 1500, 2100)


def test_a_connection_that_is_cut(catalog: SessionCatalog, put: Put, failing: Failing, left: Left) -> None:
    put(*(f"s-{number}" for number in range(20)))

    with failing("delete", mode={"times": 1}, closeConnection=True):
        report = catalog.delete_many(EVERY)

    assert report == DeletionReport(matched=20, deleted=20)
    assert left() == {}


def test_what_fails_altogether_is_raised(catalog: SessionCatalog, put: Put, failing: Failing) -> None:
    put("s-1")

    with failing("aggregate", errorCode=13), pytest.raises(OperationFailure):
        catalog.delete_many(EVERY)


@pytest.mark.parametrize("number", range(1, 8))
def test_a_session_that_changes_meanwhile_stays(
    mongodb_uri: str, database: str, observer: Client, new_manager: NewManager, number: int, left: Left
) -> None:
    manager = new_manager()
    manager.update_metadata({"status": "closed"})
    interruption = Interruption()
    with (
        Client(mongodb_uri, tz_aware=True, event_listeners=[interruption]) as client,
        SessionCatalog(client=client, database_name=database) as catalog,
        interruption.before(
            number, lambda: observer[database][COLLECTION].update_one({}, {"$set": {"metadata.status": "open"}})
        ),
    ):
        report = catalog.delete_many(SessionFilter(metadata={"status": "closed"}))

    if number <= 3:
        assert left() == {COLLECTION: 1}
        assert report.deleted == 0
    assert report.remaining == 0


def test_expired_sessions_go_too_and_are_not_counted(
    catalog: SessionCatalog, talked: Callable[..., Any], left: Left, observer: Client, database: str
) -> None:
    talked("s-1", ttl=HOUR)
    talked("s-2", ttl=HOUR)
    with without_ttl_monitor(observer):
        expire(observer[database][COLLECTION], "s-2")
        report = catalog.delete_many(SessionFilter(id_prefix="s-"))

    assert report == DeletionReport(matched=1, deleted=1)
    assert left() == {}


def test_sessions_and_children_of_an_older_version(
    catalog: SessionCatalog, put: Put, left: Left, observer: Client, database: str, command_counter: CommandCounter
) -> None:
    put(*(older_session(f"s-{number:03}") for number in range(500)))
    segments, long_ago = observer[database][f"{COLLECTION}_segments"], ObjectId.from_datetime(START)
    segments.insert_many({"session_id": session_id, "kind": "messages"} for session_id in ("s-001", "s-002"))
    segments.insert_one({"_id": long_ago, "session_id": "s-002", "kind": "messages"})

    assert catalog.delete("s-001").segments == 1
    with command_counter.counting() as log:
        assert catalog.delete_many(EVERY).deleted == 499

    # A process of an older version may be writing those that are young.
    assert left() == {f"{COLLECTION}_segments": 1}
    assert len(log.commands) <= 10


async def test_the_twins(catalog: SessionCatalog, put: Put, left: Left) -> None:
    put("s-1", "s-2", "s-3")

    await catalog.ahold("s-3")
    await catalog.arelease("s-3")
    assert (await catalog.adelete("s-1")).deleted
    assert await catalog.aset_ttl("s-3", HOUR) == 1
    assert (await catalog.adelete_many(EVERY)).deleted == 2
    assert (await catalog.asweep()).sessions == 0
    assert left() == {}


def test_a_bound_does_not_count_what_has_expired(
    catalog: SessionCatalog, put: Put, left: Left, observer: Client
) -> None:
    with without_ttl_monitor(observer):
        put(*(session(f"a-{number}", expires_at=START) for number in range(5)), "b-1", "b-2", "b-3")

        assert catalog.delete_many(EVERY, at_most=3) == DeletionReport(matched=3, deleted=3)
        assert left() == {}
