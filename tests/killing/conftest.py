"""Writers that are killed, on the real mongod."""

from collections.abc import Callable
from typing import Any

import pytest
from killing.victim import Victim
from pymongo import MongoClient

from mongodb_session_manager.types import Durability


@pytest.fixture
def new_victim(
    observer: MongoClient[dict[str, Any]], mongodb_uri: str, database_name: str
) -> Callable[[str, Durability], Victim]:
    """Make a session, by its id, that is written with a durability."""
    return lambda session_id, durability: Victim(observer, mongodb_uri, database_name, session_id, durability)
