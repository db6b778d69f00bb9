"""Writers that are killed, on the real mongod."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from killing.victim import Victim
from pymongo import MongoClient

from mongodb_session_manager.types import Durability


@pytest.fixture(scope="session")
def client(mongodb_uri: str) -> Iterator[MongoClient[dict[str, Any]]]:
    """A client that outlives the writers."""
    client: MongoClient[dict[str, Any]] = MongoClient(mongodb_uri, tz_aware=True)
    with client:
        yield client


@pytest.fixture
def new_victim(
    client: MongoClient[dict[str, Any]], mongodb_uri: str, database_name: str
) -> Callable[[str, Durability], Victim]:
    """Make a session, by its id, that is written with a durability."""
    return lambda session_id, durability: Victim(client, mongodb_uri, database_name, session_id, durability)
