"""MongoDB keeps the SDK's contract, on a real server and on mongomock."""

import uuid
from collections.abc import Iterator
from typing import Any

import mongomock
import pytest
from pymongo import MongoClient

from mongodb_session_manager import MongoDBSessionRepository
from mongodb_session_manager.testing import SessionRepositoryContract


@pytest.fixture(scope="module")
def on_mongod(mongodb_uri: str) -> Iterator[MongoDBSessionRepository]:
    name = f"test_{uuid.uuid4().hex}"
    client: MongoClient[dict[str, Any]] = MongoClient(mongodb_uri)
    with client:
        yield MongoDBSessionRepository(client=client, database_name=name)
        client.drop_database(name)


class TestOnMongod(SessionRepositoryContract):
    @pytest.fixture
    def repository(self, on_mongod: MongoDBSessionRepository) -> MongoDBSessionRepository:
        return on_mongod


class TestOnMongomock(SessionRepositoryContract):
    @pytest.fixture
    def repository(self) -> MongoDBSessionRepository:
        client: Any = mongomock.MongoClient()
        return MongoDBSessionRepository(client=client)
