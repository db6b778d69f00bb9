"""The server's own monitor deletes what has expired; it looks every second here."""

import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from pymongo import MongoClient
from strands import Agent

from mongodb_session_manager import MongoDBSessionManager, SessionCatalog, SessionNotFoundError
from mongodb_session_manager.testing import ScriptedModel, running_mongodb
from tests.aliases import Client
from tests.conftest import COLLECTION
from tests.expiring import expire, in_time
from tests.integration.stores.test_new_lives import document
from tests.watching import eventually, wait_for_indexes

MINUTE, LEFT = timedelta(minutes=1), timedelta(seconds=4)
HOUR = timedelta(hours=1)

pytestmark = pytest.mark.limits(kept_messages=1)


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """A server of its own, whose monitor looks every second."""
    with running_mongodb(parameters={"ttlMonitorSleepSecs": "1"}) as uri, MongoClient[Any](uri, tz_aware=True) as made:
        yield made


@pytest.fixture
def found(client: Client, request: pytest.FixtureRequest) -> Any:
    return client[f"test_{abs(hash(request.node.name))}"]


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of this host is late, so that a ttl of a minute ends after some seconds."""
    for module in ("dates", "living", "sessions"):
        monkeypatch.setattr(f"mongodb_session_manager._stores.{module}.now", lambda: in_time(LEFT - MINUTE))


def opened(found: Any, session_id: str = "s-1", **options: Any) -> MongoDBSessionManager:
    manager = MongoDBSessionManager(session_id, client=found.client, database_name=found.name, **options)
    wait_for_indexes()
    return manager


def make_agent(manager: MongoDBSessionManager) -> Agent:
    return Agent(model=ScriptedModel(default="Okay."), session_manager=manager, callback_handler=None)


def parts(found: Any) -> list[int]:
    names = (COLLECTION, *(f"{COLLECTION}_{part}" for part in ("segments", "files.files", "files.chunks")))
    return [found[name].count_documents({"session_id": {"$ne": ""}}) for name in names]


@pytest.mark.usefixtures("late")
def test_a_session_that_is_written_keeps_its_first_message(found: Any) -> None:
    """Written every half ttl for five ttls, with segments and files, by one manager after the other."""
    with opened(found, ttl=MINUTE) as manager:
        agent = make_agent(manager)
        agent([document("d"), {"text": "First"}])
        manager._stores._operations.sizes.make_room("s-1")
    assert parts(found)[1] > 0
    assert parts(found)[2] > 0

    begun = time.monotonic()
    turns = 0
    while time.monotonic() - begun < 5 * LEFT.total_seconds():
        with opened(found) as manager:
            make_agent(manager)(f"Turn {turns}")
        turns += 1
        time.sleep(LEFT.total_seconds() / 2)

    with opened(found) as manager:
        messages = manager.list_messages("default")
    assert len(messages) == 2 + 2 * turns
    assert messages[0]["content"][1] == {"text": "First"}
    assert len(messages[0]["content"][0]["document"]["source"]["bytes"]) > 200_000
    assert eventually(lambda: parts(found)[0] == 0)


def test_a_held_session_outlives_its_ttl(found: Any) -> None:
    manager = opened(found, ttl=HOUR)
    opened(found, "s-2", ttl=HOUR)
    with SessionCatalog(client=found.client, database_name=found.name) as catalog:
        catalog.hold("s-1")
        manager._stores._operations.dates.lifetimes["s-1"].until = None
        manager.update_metadata({"a": 1})
        expire(found[COLLECTION], "s-2")

        assert eventually(lambda: parts(found)[0] == 1)
        assert catalog.get("s-1").held


def test_what_the_monitor_leaves_is_swept(found: Any) -> None:
    with opened(found, ttl=HOUR) as manager:
        make_agent(manager)([document("d"), {"text": "First"}])
        manager._stores._operations.sizes.make_room("s-1")
        agent = make_agent(opened(found, create=False))
    expire(found[COLLECTION])

    assert eventually(lambda: parts(found)[0] == 0)
    assert min(parts(found)[1:]) > 0
    with pytest.raises(SessionNotFoundError):
        agent("Too late")
    with opened(found, ttl=HOUR) as manager:
        assert make_agent(manager).messages == []  # a new life, with nothing of the one before
    with SessionCatalog(client=found.client, database_name=found.name) as catalog:
        report = catalog.sweep(older_than=timedelta(0))

    time.sleep(1.1)  # ids count seconds
    with SessionCatalog(client=found.client, database_name=found.name) as catalog:
        again = catalog.sweep(older_than=timedelta(0))
    assert report.segments + again.segments > 0
    assert report.files + again.files > 0
    assert parts(found) == [1, 0, 0, 0]
