"""A role that may only ``find`` lists and reads everything, and changes nothing."""

import secrets
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.errors import OperationFailure
from strands import Agent

from mongodb_session_manager import MongoDBSessionManager, SessionCatalog, SessionFilter
from mongodb_session_manager._stores.feedback import FEEDBACK_BYTES
from mongodb_session_manager.testing import ScriptedModel
from tests.aliases import Client
from tests.security.conftest import NewUser
from tests.watching import wait_for_indexes

UNAUTHORIZED = 13
COLLECTIONS = ("agent_sessions", "agent_sessions_segments", "agent_sessions_files.files", "agent_sessions_files.chunks")


@pytest.fixture
def database(secured: Any, secured_database: str) -> str:
    with secured.root() as root:
        fill(root, secured_database)
    return secured_database


def fill(client: Client, database: str) -> None:
    """Sessions with segments and files, written by somebody who may."""
    picture = {"image": {"format": "png", "source": {"bytes": secrets.token_bytes(300_000)}}}
    messages: list[Any] = [
        {"role": "assistant" if n % 2 else "user", "content": [{"text": f"text {n} ".ljust(8000, "x")}]}
        for n in range(120)
    ]
    messages[0]["content"].append(picture)
    with MongoDBSessionManager("s-1", client=client, database_name=database) as manager:
        agent = Agent(
            model=ScriptedModel(default="Okay."),
            session_manager=manager,
            callback_handler=None,
            agent_id="a",
            messages=messages,
        )
        agent("Hello")
        for number in range(3):
            manager.add_feedback(
                {"n": number, "agent_id": "a", "message_id": 1, "comment": "x" * (FEEDBACK_BYTES // 2)}
            )
    wait_for_indexes()


@pytest.fixture
def reader(secured: Any, database: str, new_user: NewUser) -> Callable[..., Client]:
    """Connect as a user who may only find, in some collections."""

    def connect(collections: tuple[str, ...] = COLLECTIONS) -> Client:
        return MongoClient(secured.uri, **new_user({name: ["find"] for name in collections}))

    return connect


def test_everything_is_read(reader: Callable[..., Client], database: str) -> None:
    with reader() as client, SessionCatalog(client=client, database_name=database) as catalog:
        for each in (catalog, catalog.within(SessionFilter(id_prefix="s-"))):
            read_everything(each)


def read_everything(catalog: Any) -> None:
    (summary,) = catalog.list().items
    assert (summary.session_id, summary.messages) == ("s-1", 122)
    assert [found.session_id for found in catalog.iterate()] == ["s-1"]
    assert [found.session_id for found in catalog.list(SessionFilter(text="hello")).items] == ["s-1"]
    assert catalog.count() == 1
    details = catalog.get("s-1")
    assert (details.segments > 0, details.files) == (True, 1)
    assert len(catalog.transcript("s-1", "a", limit=1000, max_bytes=2**23).messages) == 122
    assert len(catalog.part("s-1", "a", 0, 1).data) == 300_000
    assert [entry.feedback["n"] for entry in catalog.feedback().items] == [2, 1, 0]
    assert [row.calls for row in catalog.usage(by=["day"])] == [1]


def test_a_check_says_what_it_could_not_see(reader: Callable[..., Client], database: str) -> None:
    with reader(("agent_sessions",)) as client, SessionCatalog(client=client, database_name=database) as catalog:
        findings = [finding.detail for finding in catalog.check() if finding.code == "unseen"]
        assert [finding.split()[1] for finding in findings] == ["indexes", *COLLECTIONS[1:]]
        assert catalog.count() == 1
    with reader() as client, SessionCatalog(client=client, database_name=database) as catalog:
        assert [finding.code for finding in catalog.check()] == ["unseen"]


@pytest.mark.parametrize("write", [lambda catalog: catalog.create_indexes(), lambda catalog: catalog.upgrade()])
def test_nothing_is_changed(
    reader: Callable[..., Client], database: str, secured: Any, write: Callable[[SessionCatalog], Any]
) -> None:
    old = {"_id": "old", "agents": {}, "created_at": "2024-05-06T07:08:09+00:00"}
    with secured.root() as root:
        root[database]["agent_sessions"].insert_one(old)
    with (
        reader() as client,
        SessionCatalog(client=client, database_name=database, max_time=timedelta(seconds=5)) as catalog,
        pytest.raises(OperationFailure) as caught,
    ):
        write(catalog)

    assert caught.value.code == UNAUTHORIZED
    with secured.root() as root:
        assert root[database]["agent_sessions"].find_one({"_id": "old"}) == old
