import gc
import logging
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote_plus

import mongomock
import pytest
from pymongo import MongoClient
from pymongo.collection import Collection
from pymongo.errors import OperationFailure

from mongodb_session_manager import _indexes
from mongodb_session_manager._indexes import ensure_indexes
from mongodb_session_manager.testing import CommandCounter, find_mongod
from mongodb_session_manager.testing._watchdog import Watchdog

Client = MongoClient[dict[str, Any]]
Sessions = Collection[dict[str, Any]]

ALWAYS = {"created_at", "updated_at", "application_name"}


@pytest.fixture
def sessions(mongo_client: Client, database_name: str) -> Sessions:
    return mongo_client[database_name].agent_sessions


def indexed(collection: Any) -> set[str]:
    return {key for index in collection.index_information().values() for key, _ in index["key"]} - {"_id"}


@contextmanager
def failing(client: Client, **data: Any) -> Iterator[None]:
    """Let the server refuse ``createIndexes``."""
    fail_point = {"configureFailPoint": "failCommand", "data": {"failCommands": ["createIndexes"], **data}}
    client.admin.command({**fail_point, "mode": "alwaysOn"})
    try:
        yield
    finally:
        client.admin.command({**fail_point, "mode": "off"})


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == _indexes.__name__ and r.levelno >= logging.WARNING]


def test_one_command_for_all_of_them(sessions: Sessions, command_counter: CommandCounter) -> None:
    ensure_indexes(sessions, ["priority", "customer.tier", "priority"])
    assert indexed(sessions) == ALWAYS | {"metadata.priority", "metadata.customer.tier"}
    assert command_counter.index_builds == 1


def test_never_again_in_this_process(sessions: Sessions, command_counter: CommandCounter) -> None:
    for fields in (None, [], ["priority"], ["priority"], None):
        ensure_indexes(sessions, fields)
    assert command_counter.index_builds == 2
    last = [c for c in command_counter.commands if c.name == "createIndexes"][-1]
    assert [index["key"] for index in last.document["indexes"]] == [{"metadata.priority": 1}]


def test_each_namespace_and_each_client_of_its_own(
    sessions: Sessions, mongodb_uri: str, command_counter: CommandCounter
) -> None:
    ensure_indexes(sessions)
    ensure_indexes(sessions.database.other_sessions)
    assert indexed(sessions.database.other_sessions) == ALWAYS
    with Client(mongodb_uri, event_listeners=[command_counter]) as twin:
        assert twin == sessions.database.client
        ensure_indexes(twin[sessions.database.name][sessions.name])
    assert command_counter.index_builds == 3


def test_threads_at_once_send_one_command(sessions: Sessions, command_counter: CommandCounter) -> None:
    start = threading.Barrier(16)

    def run(_: int) -> None:
        start.wait()
        ensure_indexes(sessions, ["priority"])

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(run, range(16)))
    assert command_counter.index_builds == 1
    assert indexed(sessions) == ALWAYS | {"metadata.priority"}


def test_nobody_waits_for_anothers_slow_server(sessions: Sessions, mongo_client: Client) -> None:
    with (
        failing(mongo_client, blockConnection=True, blockTimeMS=1000, namespace=sessions.full_name),
        ThreadPoolExecutor(1) as threads,
    ):
        slow = threads.submit(ensure_indexes, sessions)
        while sessions.full_name not in _indexes._clients[id(mongo_client)][1]:
            pass
        ensure_indexes(sessions)
        ensure_indexes(sessions.database.other_sessions)
        assert not slow.done()
    slow.result()


def test_lack_of_privilege_is_a_warning_and_final(
    sessions: Sessions,
    mongo_client: Client,
    command_counter: CommandCounter,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with failing(mongo_client, errorCode=13):
        ensure_indexes(sessions)
    ensure_indexes(sessions)
    assert command_counter.index_builds == 1
    (text,) = warnings_of(caplog)
    assert sessions.full_name in text
    assert "code=<13>" in text


def test_a_passing_failure_is_tried_again_and_told_once(
    sessions: Sessions, mongo_client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    with failing(mongo_client, closeConnection=True):
        ensure_indexes(sessions)
        ensure_indexes(sessions, ["priority"])
    assert len(warnings_of(caplog)) == 1
    ensure_indexes(sessions)
    assert indexed(sessions) == ALWAYS
    ensure_indexes(sessions, ["priority"])
    assert indexed(sessions) == ALWAYS | {"metadata.priority"}


@pytest.mark.parametrize("name", ["created_at_1", "expiry"])
def test_an_index_of_the_users_own_does_not_cost_the_others(
    name: str, sessions: Sessions, command_counter: CommandCounter, caplog: pytest.LogCaptureFixture
) -> None:
    sessions.create_index("created_at", name=name, expireAfterSeconds=86_400)
    ensure_indexes(sessions)
    assert indexed(sessions) == ALWAYS
    assert len(sessions.index_information()) == 4
    assert len(warnings_of(caplog)) == 1
    sent = command_counter.index_builds
    ensure_indexes(sessions)
    assert command_counter.index_builds == sent


def test_a_field_that_cannot_be_indexed_does_not_cost_the_others(sessions: Sessions) -> None:
    with pytest.raises(OperationFailure):
        sessions.create_index("metadata.")
    ensure_indexes(sessions, ["", "priority"])
    assert indexed(sessions) == ALWAYS | {"metadata.priority"}


def test_a_server_that_is_not_there_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with Client("mongodb://reader:s3cr3t@127.0.0.1:1/", serverSelectionTimeoutMS=50) as client:
        ensure_indexes(client.shop.agent_sessions)
    (text,) = warnings_of(caplog)
    assert "s3cr3t" not in text


def test_clients_are_not_kept_alive() -> None:
    client: Client = MongoClient("mongodb://127.0.0.1:1/", serverSelectionTimeoutMS=1)
    ensure_indexes(client.shop.agent_sessions)
    key = id(client)
    assert key in _indexes._clients
    client.close()
    del client
    gc.collect()
    assert key not in _indexes._clients


@pytest.mark.skipif(find_mongod() is None, reason="there is no mongod to run")
def test_on_a_server_that_stands_alone(caplog: pytest.LogCaptureFixture) -> None:
    with server_alone() as client:
        ensure_indexes(client.shop.agent_sessions)
        assert indexed(client.shop.agent_sessions) == ALWAYS
    assert not warnings_of(caplog)


@contextmanager
def server_alone() -> Iterator[Client]:
    """Run a mongod that is no replica set, on a socket in its folder: the path of one has 107 bytes at most."""
    with tempfile.TemporaryDirectory() as folder:
        socket = f"{folder}/mongod.sock"
        words = [str(find_mongod()), "--dbpath", folder, "--bind_ip", socket]
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        watchdog = Watchdog(process.pid)
        try:
            with Client(f"mongodb://{quote_plus(socket)}/") as client:
                yield client
        finally:
            process.kill()
            process.wait()
            watchdog.dismiss()


def test_on_mongomock() -> None:
    collection: Any = mongomock.MongoClient().shop.agent_sessions
    ensure_indexes(collection, ["priority"])
    assert indexed(collection) == ALWAYS | {"metadata.priority"}
