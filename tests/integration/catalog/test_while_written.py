"""What lists promise while others write: nothing twice, and by id and creation nothing missing."""

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any

import pytest

from mongodb_session_manager import SessionCatalog
from tests.aliases import Client
from tests.conftest import COLLECTION
from tests.integration.catalog.sessions import ids, session

Put = Callable[..., None]
STAYING = [f"s-{n:03}" for n in range(0, 300, 3)]


@contextmanager
def writers(observer: Client, database: str) -> Iterator[None]:
    """Sessions that change, come and go, beside those that stay."""
    stop, sessions = threading.Event(), observer[database][COLLECTION]

    def write(seed: int) -> None:
        chance = random.Random(seed)
        while not stop.is_set():
            number, now = chance.randrange(300), datetime.now(timezone.utc)
            session_id = f"s-{number:03}"
            if number % 3 == 0:
                # The server's clock: a writer that waits for the processor would write a time that is over.
                sessions.update_one({"_id": session_id}, [{"$set": {"updated_at": "$$NOW"}}])
            elif number % 3 == 1:
                sessions.delete_one({"_id": session_id})
            else:
                sessions.update_one(
                    {"_id": session_id},
                    {"$setOnInsert": session(session_id, created_at=now, updated_at=now)},
                    upsert=True,
                )

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.fixture(autouse=True)
def sessions(put: Put) -> None:
    chance = random.Random(1)
    now = datetime.now(timezone.utc).replace(microsecond=0)
    put(*(session(f"s-{n:03}", created_at=now.replace(minute=chance.randrange(4)), updated_at=now) for n in range(300)))


@pytest.mark.parametrize("sort", ["session_id", "created_at", "-created_at"])
def test_what_stays_comes_exactly_once(catalog: SessionCatalog, observer: Client, database: str, sort: Any) -> None:
    with writers(observer, database):
        for _ in range(5):
            seen = Counter(walk(catalog, sort))
            assert [seen[session_id] for session_id in STAYING] == [1] * len(STAYING)
            assert set(seen.values()) == {1}


@pytest.mark.parametrize("sort", ["updated_at", "-updated_at"])
def test_what_changes_comes_at_most_once_and_the_list_ends(
    catalog: SessionCatalog, observer: Client, database: str, sort: Any
) -> None:
    with writers(observer, database):
        for _ in range(5):
            seen = Counter(walk(catalog, sort))
            assert set(seen.values()) == {1}


def test_iterate_gives_what_stays_exactly_once(catalog: SessionCatalog, observer: Client, database: str) -> None:
    with writers(observer, database):
        for _ in range(5):
            seen = Counter(ids(list(catalog.iterate(batch=7))))
            assert [seen[session_id] for session_id in STAYING] == [1] * len(STAYING)


def test_an_ascending_list_ends_at_its_first_page(catalog: SessionCatalog, observer: Client, database: str) -> None:
    first = catalog.list(sort="updated_at", limit=10)
    observer[database][COLLECTION].update_many({}, {"$set": {"updated_at": datetime.now(timezone.utc)}})

    assert catalog.list(sort="updated_at", limit=1000, cursor=first.next_cursor).items == []


def walk(catalog: SessionCatalog, sort: Any) -> list[str]:
    seen, cursor = list[str](), None
    while True:
        page = catalog.list(sort=sort, limit=7, cursor=cursor)
        seen, cursor = seen + ids(page), page.next_cursor
        if cursor is None:
            return seen
