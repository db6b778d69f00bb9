import gc
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from urllib.parse import quote_plus

import mongomock
import pytest
from pymongo import IndexModel, MongoClient
from pymongo.collection import Collection

from mongodb_session_manager import MongoDBSessionManager
from mongodb_session_manager._schema.limits import Limits
from mongodb_session_manager._stores import indexes as _indexes
from mongodb_session_manager._stores.indexes import ensure_segment_index
from mongodb_session_manager.testing import CommandCounter, find_mongod
from mongodb_session_manager.testing._watchdog import Watchdog
from tests.aliases import Client
from tests.watching import eventually, wait_for_indexes

Sessions = Collection[dict[str, Any]]

ALWAYS = {"created_at", "updated_at", "application_name"}


@pytest.fixture
def sessions(mongo_client: Client, database_name: str) -> Sessions:
    return mongo_client[database_name].agent_sessions


def ensure_indexes(collection: Any, metadata_fields: Any = None) -> None:
    """Have the indexes made, and wait for them."""
    _indexes.ensure_indexes(collection, metadata_fields)
    wait_for_indexes()


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


def slow(client: Client, collection: Sessions, seconds: float) -> AbstractContextManager[None]:
    """Let the server take its time for each command."""
    return failing(client, blockConnection=True, blockTimeMS=int(seconds * 1000), namespace=collection.full_name)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == _indexes.__name__ and r.levelno >= logging.WARNING]


def test_one_command_for_all_of_them(sessions: Sessions, command_counter: CommandCounter) -> None:
    ensure_indexes(sessions, ["priority", "customer.tier", "priority"])
    assert indexed(sessions) == ALWAYS | {"metadata.priority", "metadata.customer.tier"}
    assert command_counter.index_builds == 1


def test_a_list_in_the_order_of_a_time_reads_an_index_in_its_order(sessions: Sessions) -> None:
    ensure_indexes(sessions, ["priority"])
    by_update = [("updated_at", -1), ("_id", -1)]
    indexes = [index["key"] for index in sessions.index_information().values()]
    assert indexes == [
        [("_id", 1)],
        [("created_at", -1), ("_id", -1)],
        by_update,
        [("application_name", 1), *by_update],
        [("metadata.priority", 1), *by_update],
    ]
    plan = sessions.find({"metadata.priority": "high"}).sort(by_update).explain()["queryPlanner"]["winningPlan"]
    assert "SORT" not in str(plan)


def test_the_indexes_of_an_earlier_version_stay(sessions: Sessions) -> None:
    sessions.create_index("updated_at")
    ensure_indexes(sessions)
    assert {"updated_at_1", "updated_at_-1__id_-1"} <= sessions.index_information().keys()


def test_never_again_in_this_process(sessions: Sessions, command_counter: CommandCounter) -> None:
    for fields in (None, [], ["priority"], ["priority"], None):
        ensure_indexes(sessions, fields)
    assert command_counter.index_builds == 2
    last = [c for c in command_counter.commands if c.name == "createIndexes"][-1]
    keys = [index["key"] for index in last.document["indexes"]]
    assert keys == [{"metadata.priority": 1, "updated_at": -1, "_id": -1}]


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


# Slow ones


def test_nobody_waits(sessions: Sessions, mongo_client: Client, command_counter: CommandCounter) -> None:
    with slow(mongo_client, sessions, seconds=1), command_counter.counting() as log:
        started = time.monotonic()
        _indexes.ensure_indexes(sessions, ["priority"])
        _indexes.ensure_indexes(sessions, ["priority"])
        ensure_segment_index(sessions.database.agent_sessions_segments)
        assert time.monotonic() - started < 0.5
        assert eventually(lambda: log.index_builds == 1)
        wait_for_indexes()
    assert indexed(sessions) == ALWAYS | {"metadata.priority"}
    assert indexed(sessions.database.agent_sessions_segments) == {"session_id", "instance"}
    assert log.index_builds == 2


@pytest.mark.parametrize("limits", [{"socketTimeoutMS": 200}, {"timeoutMS": 200}], ids=["sockets", "operations"])
def test_what_was_not_done_in_time_is_not_asked_for_again_soon(
    sessions: Sessions,
    mongodb_uri: str,
    mongo_client: Client,
    command_counter: CommandCounter,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    limits: dict[str, Any],
) -> None:
    with Client(mongodb_uri, event_listeners=[command_counter], **limits) as hurried:
        collection = hurried[sessions.database.name][sessions.name]
        with slow(mongo_client, sessions, seconds=0.5):
            for _ in range(3):
                ensure_indexes(collection, ["priority"])
        assert command_counter.index_builds == 1
        assert len(warnings_of(caplog)) == 1
        # What was not asked for yet does not wait as long.
        ensure_indexes(collection, ["priority", "topic"])
        assert command_counter.index_builds == 2

        now = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: now + 3600)
        ensure_indexes(collection, ["priority", "topic"])
        assert command_counter.index_builds == 3
    assert indexed(sessions) == ALWAYS | {"metadata.priority", "metadata.topic"}


def test_sessions_are_opened_written_and_closed_meanwhile(
    mongo_client: Client, database_name: str, sessions: Sessions, new_agent: Any
) -> None:
    started = time.monotonic()
    with slow(mongo_client, sessions, seconds=3):
        for number in range(3):
            options: dict[str, Any] = {"metadata_fields": ["topic"], "database_name": database_name}
            with MongoDBSessionManager(f"s-{number}", client=mongo_client, **options) as manager:
                new_agent(manager)("Hi")
                manager.update_metadata({"topic": "shoes"})
        assert time.monotonic() - started < 2
        assert sessions.count_documents({"metadata.topic": "shoes"}) == 3
        wait_for_indexes()
    assert indexed(sessions) == ALWAYS | {"metadata.topic"}


def test_old_messages_move_meanwhile(mongo_client: Client, database_name: str, new_agent: Any) -> None:
    limits = Limits(kept_messages=2)
    manager = MongoDBSessionManager("s-1", client=mongo_client, database_name=database_name, _limits=limits)
    agent = new_agent(manager)
    for _ in range(3):
        agent("Hi")
    wait_for_indexes()
    segments = mongo_client[database_name].agent_sessions_segments
    with slow(mongo_client, segments, seconds=2):
        started = time.monotonic()
        assert manager._agents.live()[0].history.move_oldest()
        agent("Hi")
        assert time.monotonic() - started < 1
        assert segments.count_documents({}) == 1
        wait_for_indexes()
    assert indexed(segments) == {"session_id", "instance"}
    manager.close()


def test_closing_a_client_of_our_own_waits_for_none(
    mongodb_uri: str, mongo_client: Client, database_name: str, sessions: Sessions, caplog: pytest.LogCaptureFixture
) -> None:
    with slow(mongo_client, sessions, seconds=2):
        started = time.monotonic()
        MongoDBSessionManager("s-1", mongodb_uri, database_name=database_name).close()
        assert time.monotonic() - started < 1
        wait_for_indexes()


def test_the_end_of_the_process_waits_for_none(
    mongodb_uri: str, mongo_client: Client, database_name: str, sessions: Sessions
) -> None:
    script = (
        "import sys\nfrom mongodb_session_manager import MongoDBSessionManager\n"
        "MongoDBSessionManager('s-1', sys.argv[1], database_name=sys.argv[2])\nprint('opened', flush=True)"
    )
    with slow(mongo_client, sessions, seconds=10):
        words = [sys.executable, "-c", script, mongodb_uri, database_name]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "opened\n"
            started = time.monotonic()
            assert process.wait() == 0
            assert time.monotonic() - started < 8


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork()")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_forked_child_makes_its_own(sessions: Sessions, mongo_client: Client) -> None:
    with slow(mongo_client, sessions, seconds=1):
        _indexes.ensure_indexes(sessions)
        child = os.fork()
        if not child:
            _indexes.ensure_indexes(sessions, ["priority"])
            wait_for_indexes()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        wait_for_indexes()
    assert indexed(sessions) == ALWAYS | {"metadata.priority"}


def test_where_no_thread_can_be_started_it_is_left_to_the_next_time(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        _indexes.ensure_indexes(sessions)
    assert indexed(sessions) == set()
    ensure_indexes(sessions)
    assert indexed(sessions) == ALWAYS


# Failures


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


@pytest.mark.parametrize("name", ["created_at_-1__id_-1", "newest"])
def test_an_index_of_the_users_own_does_not_cost_the_others(
    name: str, sessions: Sessions, command_counter: CommandCounter, caplog: pytest.LogCaptureFixture
) -> None:
    sessions.create_index([("created_at", -1), ("_id", -1)], name=name, unique=name != "newest")
    ensure_indexes(sessions)
    assert indexed(sessions) == ALWAYS
    assert len(sessions.index_information()) == 4
    assert len(warnings_of(caplog)) == 1
    sent = command_counter.index_builds
    ensure_indexes(sessions)
    assert command_counter.index_builds == sent


def test_a_field_is_indexed_where_its_values_stand(sessions: Sessions) -> None:
    ensure_indexes(sessions, ["", "a$b.c", "priority"])
    assert indexed(sessions) == ALWAYS | {"metadata.%empty", "metadata.a%24b.c", "metadata.priority"}


def test_an_index_that_is_refused_does_not_cost_the_others(sessions: Sessions) -> None:
    # With _id these are 63, and a collection has 64 at most.
    sessions.create_indexes([IndexModel(f"field_{number}") for number in range(62)])
    ensure_indexes(sessions)
    assert len(ALWAYS & indexed(sessions)) == 1


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
