"""A role for operators, as the page gives it: they delete, hold and sweep, and create nothing."""

import ast
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId
from pymongo import MongoClient
from pymongo.errors import OperationFailure
from strands import Agent

from mongodb_session_manager import MongoDBSessionManager, SessionCatalog, SessionFilter
from mongodb_session_manager.testing import ScriptedModel
from mongodb_session_manager.types import SweepReport
from tests.aliases import Client
from tests.integration.catalog.sessions import session
from tests.integration.stores.test_new_lives import document
from tests.security.conftest import NewUser
from tests.watching import wait_for_indexes

PAGE = Path(__file__).parents[2] / "docs/user-guide/security.md"
HOUR = timedelta(hours=1)
UNAUTHORIZED = 13


def documented_role() -> dict[str, list[str]]:
    block = re.search(r"^operator = (\{.*?^\})$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert block
    return dict(ast.literal_eval(block[1]))


NEEDED = documented_role()
PARTS = [(collection, action) for collection, actions in NEEDED.items() for action in actions]


@pytest.fixture
def database(secured: Any, secured_database: str) -> str:
    with secured.root() as root:
        fill(root, secured_database)
    return secured_database


def fill(root: Client, name: str) -> None:
    """Sessions with files, one of an older version, and what belongs to none."""
    for session_id in ("s-1", "s-2"):
        with MongoDBSessionManager(session_id, client=root, database_name=name, ttl=HOUR) as manager:
            agent = Agent(model=ScriptedModel(default="Okay."), session_manager=manager, callback_handler=None)
            agent([document("d"), {"text": "Hi"}])
    wait_for_indexes()
    found, long_ago = root[name], ObjectId("5e0be1000000000000000000")
    found["agent_sessions"].insert_one(session("older"))
    found["agent_sessions_segments"].insert_one({"session_id": "older", "kind": "messages"})
    found["agent_sessions_segments"].insert_one({"_id": long_ago, "session_id": "gone", "instance": ObjectId()})
    lost = {"session_id": "gone", "instance": ObjectId()}
    found["agent_sessions_files.files"].insert_one({"_id": long_ago, "length": 1, "metadata": lost})


@pytest.fixture
def connected(secured: Any, database: str, new_user: NewUser) -> Iterator[Callable[..., SessionCatalog]]:
    """Connect as a user with these actions."""
    made: list[SessionCatalog] = []

    def connect(actions: dict[str, list[str]] = NEEDED) -> SessionCatalog:
        client: Client = MongoClient(secured.uri, **new_user(actions))
        made.append(SessionCatalog(client=client, database_name=database))
        return made[-1]

    yield connect
    for catalog in made:
        catalog.close()
        catalog._stores.handle.client.close()


def operate(catalog: SessionCatalog) -> None:
    assert catalog.sweep() == SweepReport(segments=1, files=1)
    catalog.hold("s-1")
    catalog.release("s-1")
    assert catalog.set_ttl("s-1", HOUR) == 1
    assert catalog.delete("older").segments == 1
    assert catalog.delete("s-1").files == 1
    assert catalog.delete_many(SessionFilter(everything=True)).deleted == 1


def test_everything_works(connected: Callable[..., SessionCatalog], secured: Any, database: str) -> None:
    operate(connected())

    wait_for_indexes()
    with secured.root() as root:
        for collection in NEEDED:
            assert root[database][collection].count_documents({}) == 0


@pytest.mark.parametrize(("collection", "action"), PARTS)
def test_each_part_is_needed(connected: Callable[..., SessionCatalog], collection: str, action: str) -> None:
    less = {
        name: [each for each in actions if (name, each) != (collection, action)] for name, actions in NEEDED.items()
    }

    with pytest.raises((OperationFailure, AssertionError)) as caught:
        operate(connected(less))

    if isinstance(caught.value, OperationFailure):
        assert caught.value.code == UNAUTHORIZED


def test_nothing_is_created(connected: Callable[..., SessionCatalog], database: str) -> None:
    client = connected()._stores.handle.client

    with pytest.raises(OperationFailure):
        MongoDBSessionManager("new", client=client, database_name=database)
