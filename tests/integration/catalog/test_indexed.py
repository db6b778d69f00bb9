"""What the table in the docs calls indexed: a page examines at most twice its limit, or no more than matches."""

import random
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from mongodb_session_manager import SessionCatalog, SessionFilter
from mongodb_session_manager.testing import CommandCounter
from tests.aliases import Client
from tests.conftest import COLLECTION
from tests.integration.catalog.sessions import START, at, session

LIMIT = 20
COUNT = 4000
TIED = at(500)


def skewed() -> Iterator[dict[str, Any]]:
    """Sessions of one large application and some small ones; half of them changed at the same moment."""
    chance = random.Random(7)
    for number in range(COUNT):
        changed = TIED if number % 2 else at(chance.randrange(1000))
        down = number % 40 == 0
        yield session(
            f"user-{number % 97:02}:{number:04}",
            minute=chance.randrange(1000),
            updated_at=changed,
            application_name="small" if number % 50 == 0 else "large",
            metadata={"user": f"u-{number % 200}", "tags": ["x"] if number % 60 == 0 else []},
            agent_ids=["rare", "common"] if number % 70 == 0 else ["common"],
            feedback_counts={"up": 1, "down": int(down)},
            feedbacks=[{"rating": "down"}] if number % 90 == 0 else [],
            **({"interrupted": ["agent:common"]} if number % 80 == 0 else {}),
        )


@pytest.fixture(scope="module")
def full(observer: Client, shared_database: str) -> Iterator[str]:
    """A database with the sessions, apart from that of other tests, and all indexes."""
    name = f"{shared_database}_indexed"
    observer[name][COLLECTION].insert_many(skewed())
    with SessionCatalog(client=observer, database_name=name) as catalog:
        catalog.create_indexes(["user", "tags"])
    yield name
    observer.drop_database(name)


BY_UPDATE: dict[str, SessionFilter] = {
    "all": SessionFilter(),
    "large application": SessionFilter(application_name="large"),
    "small application": SessionFilter(application_name="small"),
    "no such application": SessionFilter(application_name="none"),
    "user": SessionFilter(metadata={"user": "u-3"}),
    "one of some users": SessionFilter(metadata={"user": ["u-3", "u-50", "u-120"]}),
    "tag": SessionFilter(metadata={"tags": "x"}),
    "rare agent": SessionFilter(agent_id="rare"),
    "common agent": SessionFilter(agent_id="common"),
    "down-votes": SessionFilter(feedback="down"),
    "interrupted": SessionFilter(interrupted=True),
    "since": SessionFilter(updated_since=at(900)),
    "between": SessionFilter(updated_since=at(400), updated_until=at(501)),
}
ROWS = [
    *((name, given, sort) for name, given in BY_UPDATE.items() for sort in ("-updated_at", "updated_at")),
    *(("all", SessionFilter(), sort) for sort in ("session_id", "-created_at", "created_at")),
    *(("created since", SessionFilter(created_since=at(900)), sort) for sort in ("-created_at", "created_at")),
    ("prefix", SessionFilter(id_prefix="user-42:"), "session_id"),
]


@pytest.mark.parametrize(("name", "given", "sort"), ROWS, ids=[f"{name} {sort}" for name, _, sort in ROWS])
def test_a_page_examines_little(
    mongo_client: Client, command_counter: CommandCounter, full: str, name: str, given: SessionFilter, sort: Any
) -> None:
    catalog = SessionCatalog(client=mongo_client, database_name=full)
    cursor: str | None = None
    for number in range(8):
        with command_counter.counting() as log:
            page = catalog.list(given, sort=sort, limit=LIMIT, cursor=cursor)
        examined = docs_examined(mongo_client, full, log.commands[0].document)
        assert examined <= 2 * LIMIT, f"page {number} examines {examined}"
        cursor = page.next_cursor
        if cursor is None:
            break


def test_every_page_of_a_tie_examines_little(mongo_client: Client, command_counter: CommandCounter, full: str) -> None:
    catalog, seen, cursor = SessionCatalog(client=mongo_client, database_name=full), 0, None
    while True:
        with command_counter.counting() as log:
            page = catalog.list(SessionFilter(application_name="large"), limit=500, cursor=cursor)
        assert docs_examined(mongo_client, full, log.commands[0].document) <= 1000
        seen, cursor = seen + len(page.items), page.next_cursor
        if cursor is None:
            break
    assert seen == COUNT - COUNT // 50


def test_usage_of_a_week_examines_what_changed_since(
    mongo_client: Client, command_counter: CommandCounter, full: str
) -> None:
    catalog = SessionCatalog(client=mongo_client, database_name=full)
    with command_counter.counting() as log:
        catalog.usage(since=(START + timedelta(days=1)).date())

    assert docs_examined(mongo_client, full, log.commands[0].document) == 0


def docs_examined(client: Client, database: str, command: Any) -> int:
    aggregate = {name: command[name] for name in ("aggregate", "pipeline", "cursor")}
    explained = client[database].command("explain", aggregate, verbosity="executionStats")
    stage = explained["stages"][0]["$cursor"] if "stages" in explained else explained
    return int(stage["executionStats"]["totalDocsExamined"])
