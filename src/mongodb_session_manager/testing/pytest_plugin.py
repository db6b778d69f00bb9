"""Pytest fixtures for a real MongoDB.

Add to the top ``conftest.py``::

    pytest_plugins = ["mongodb_session_manager.testing.pytest_plugin"]

The tests that need a MongoDB are skipped where there is none; with ``--require-mongod`` they fail.
"""

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from pymongo import MongoClient

from . import CommandCounter, MongodNotFoundError, running_mongodb

__all__ = ["command_counter", "database_name", "mongo_client", "mongodb_uri"]

pytest.register_assert_rewrite("mongodb_session_manager.testing._contract")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option ``--require-mongod``."""
    parser.addoption(
        "--require-mongod",
        action="store_true",
        help="fail, instead of skipping, the tests that need a MongoDB when there is none",
    )


@pytest.fixture(scope="session")
def mongodb_uri(pytestconfig: pytest.Config) -> Iterator[str]:
    """Connection string of a MongoDB: ``MONGODB_URI``, else a private replica set that has fail points."""
    try:
        with running_mongodb(parameters={"enableTestCommands": "1"}) as uri:
            yield uri
    except MongodNotFoundError as error:
        if pytestconfig.getoption("--require-mongod"):
            raise
        pytest.skip(str(error))


@pytest.fixture
def command_counter() -> CommandCounter:
    """Counts the commands of ``mongo_client``, and of any client that has it as an event listener."""
    return CommandCounter()


@pytest.fixture
def mongo_client(mongodb_uri: str, command_counter: CommandCounter) -> Iterator[MongoClient[dict[str, Any]]]:
    """A client of the test's own, watched by ``command_counter``."""
    client: MongoClient[dict[str, Any]] = MongoClient(
        mongodb_uri,
        tz_aware=True,
        # After an injected "not primary" the driver waits for the next heartbeat, 10 s away by default.
        heartbeatFrequencyMS=500,
        event_listeners=[command_counter],
    )
    with client:
        yield client


@pytest.fixture
def database_name(mongodb_uri: str) -> Iterator[str]:
    """Name of a database that is the test's own; dropped afterwards."""
    name = f"test_{uuid.uuid4().hex}"
    yield name
    # With another client: the test may have closed or broken its own, or count its commands.
    with MongoClient[dict[str, Any]](mongodb_uri) as client:
        client.drop_database(name)
