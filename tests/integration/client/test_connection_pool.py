"""Who may close a client, and when; on a real server, with real threads."""

import gc
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from pymongo.errors import ConfigurationError

from mongodb_session_manager._client.handle import ClientHandle
from mongodb_session_manager.mongodb_connection_pool import MongoDBConnectionPool as Pool
from tests.aliases import Client
from tests.watching import answers, eventually


class User:
    """Somebody who uses a client."""


@pytest.fixture(autouse=True)
def _empty_pool() -> Iterator[None]:
    Pool.close()
    yield
    Pool.close()


@pytest.fixture
def owned(mongodb_uri: str) -> Iterator[ClientHandle]:
    handle = ClientHandle.open(mongodb_uri, minPoolSize=0)
    yield handle
    handle.close()


@pytest.fixture(autouse=True)
def no_workers_of_others() -> None:
    """Collect what earlier tests dropped without closing: its threads end behind."""
    gc.collect()
    eventually(lambda: not workers())


def workers() -> set[str]:
    """The threads of executors; that of the hooks' dispatcher has another name."""
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("mongodb-session-manager_")}


class TestPool:
    def test_same_arguments_again_give_the_same_client(self, mongodb_uri: str) -> None:
        client = Pool.initialize(mongodb_uri, maxPoolSize=20)
        assert Pool.initialize(mongodb_uri, maxpoolsize=20) is client  # type: ignore[call-arg]
        assert Pool.get_client() is client
        assert answers(client)

    def test_a_default_that_is_spelt_out_is_the_same_argument(self, mongodb_uri: str) -> None:
        assert Pool.initialize(mongodb_uri, retryWrites=True) is Pool.initialize(mongodb_uri)

    def test_other_arguments_replace_a_client_that_nobody_holds(self, mongodb_uri: str) -> None:
        first = Pool.initialize(mongodb_uri)
        second = Pool.initialize(mongodb_uri, maxPoolSize=20)
        assert Pool.get_client() is second
        assert answers(second)
        assert not answers(first)

    def test_other_arguments_leave_a_client_to_its_users_until_the_last_one(self, mongodb_uri: str) -> None:
        one, other = User(), User()
        first = Pool.initialize(mongodb_uri)
        handle = ClientHandle.of(first)
        handle.acquire(one)
        handle.acquire(other)
        Pool.initialize(mongodb_uri, maxPoolSize=20)
        handle.release(one)
        assert answers(first)
        handle.release(other)
        assert not answers(first)

    def test_a_replaced_client_can_come_back(self, mongodb_uri: str) -> None:
        user = User()
        first = Pool.initialize(mongodb_uri)
        handle = ClientHandle.of(first)
        handle.acquire(user)
        Pool.initialize(mongodb_uri, maxPoolSize=20)
        assert Pool.initialize(mongodb_uri) is first
        handle.release(user)
        assert answers(first)

    def test_close_is_at_once_and_idempotent(self, mongodb_uri: str) -> None:
        user = User()
        client = Pool.initialize(mongodb_uri)
        ClientHandle.of(client).acquire(user)
        Pool.close()
        assert not answers(client)
        assert Pool.get_client() is None
        Pool.close()
        assert Pool.initialize(mongodb_uri) is not client

    def test_what_pymongo_refuses_leaves_the_pool_as_it_was(self, mongodb_uri: str) -> None:
        client = Pool.initialize(mongodb_uri)
        with pytest.raises(ConfigurationError, match="maxPolSize"):
            Pool.initialize(mongodb_uri, maxPolSize=3)  # type: ignore[call-arg]
        with pytest.raises(ValueError, match="connection_string"):
            Pool.initialize("")
        assert Pool.get_client() is client

    def test_many_threads_get_one_client(self, mongodb_uri: str) -> None:
        start = threading.Barrier(16)

        def initialize(_: int) -> Client:
            start.wait()
            return Pool.initialize(mongodb_uri, minPoolSize=0)

        with ThreadPoolExecutor(16) as threads:
            clients = list(threads.map(initialize, range(16)))
        assert {id(client) for client in clients} == {id(Pool.get_client())}
        assert answers(clients[0])

    def test_threads_that_replace_each_other_leave_one_open_client(self, mongodb_uri: str) -> None:
        made: list[Client] = []

        def initialize(size: int) -> None:
            for _ in range(20):
                made.append(Pool.initialize(mongodb_uri, minPoolSize=0, maxPoolSize=size))

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(initialize, [20, 21, 20, 21]))
        current = Pool.get_client()
        assert current is not None
        assert answers(current)
        assert not any(answers(client) for client in made if client is not current)

    def test_a_factory_shares_the_client_and_the_pool_keeps_it(self, mongodb_uri: str) -> None:
        factory = User()
        client = Pool.initialize(mongodb_uri)
        handle = Pool._share(factory, mongodb_uri, {})
        assert handle.client is client
        handle.release(factory)
        assert answers(client)

    def test_without_initialize_the_client_ends_with_the_last_factory(self, mongodb_uri: str) -> None:
        one, other, manager = User(), User(), User()
        handle = Pool._share(one, mongodb_uri, {})
        assert Pool._share(other, mongodb_uri, {}) is handle
        assert Pool.get_client() is handle.client
        handle.acquire(manager)
        handle.release(one)
        assert answers(handle.client)
        handle.release(other)
        assert not answers(handle.client)
        assert Pool.get_client() is None

    def test_a_factory_does_not_take_the_place_of_an_initialized_client(self, mongodb_uri: str) -> None:
        factory = User()
        client = Pool.initialize(mongodb_uri)
        handle = Pool._share(factory, mongodb_uri, {"maxPoolSize": 20})
        assert handle.client is not client
        assert Pool.get_client() is client
        handle.release(factory)

    def test_the_newest_factory_gives_the_client_where_nobody_called_initialize(self, mongodb_uri: str) -> None:
        one, other = User(), User()
        older = Pool._share(one, mongodb_uri, {})
        newer = Pool._share(other, mongodb_uri, {"maxPoolSize": 20})
        assert Pool.get_client() is newer.client
        assert answers(older.client)
        older.release(one)
        assert Pool.get_client() is newer.client
        newer.release(other)

    def test_nothing_tells_the_connection_string(self, mongodb_uri: str) -> None:
        Pool.initialize("mongodb://reader:s3cr3t@127.0.0.1:1/", connect=False)
        parts = [vars(Pool), Pool._slot, *Pool._made.values(), Pool.get_client()]
        assert "s3cr3t" not in repr(parts)


class TestStats:
    def test_before_initialize(self) -> None:
        stats = Pool.get_pool_stats()
        assert stats["status"] == "not_initialized"
        assert set(stats["connections"].values()) == {0}

    def test_live_figures(self, mongodb_uri: str, mongo_client: Client) -> None:
        client = Pool.initialize(mongodb_uri, minPoolSize=0, maxPoolSize=7)
        stats = Pool.get_pool_stats()
        assert stats["status"] == "connected"
        assert stats["server_version"] == mongo_client.server_info()["version"]
        assert stats["pool_config"]["maxPoolSize"] == 7
        assert stats["connections"] == {
            "created": 1,
            "closed": 0,
            "open": 1,
            "in_use": 0,
            "waiting": 0,
            "checkout_failures": 0,
        }
        assert json.loads(json.dumps(stats)) == stats
        Pool.close()
        assert not answers(client)

    def test_used_waiting_and_refused_connections(self, mongodb_uri: str, database_name: str) -> None:
        handle = ClientHandle.open(mongodb_uri, maxPoolSize=1, waitQueueTimeoutMS=200, retryReads=False)
        try:
            collection = handle.client[database_name].slow
            collection.insert_one({})
            with ThreadPoolExecutor(2) as threads:
                sleeping = threads.submit(collection.find_one, {"$where": "sleep(800) || true"})
                assert eventually(lambda: handle._connections()["in_use"] == 1)
                waiting = threads.submit(collection.find_one)
                assert eventually(lambda: handle._connections()["waiting"] == 1)
                assert "timed out" in str(waiting.exception()).lower()
                sleeping.result()
            figures = handle._connections()
            assert (figures["in_use"], figures["waiting"], figures["checkout_failures"]) == (0, 0, 1)
        finally:
            handle.close()
        assert handle._connections()["open"] == 0

    def test_a_server_that_is_not_there(self) -> None:
        Pool.initialize("mongodb://reader:s3cr3t@127.0.0.1:1/", serverSelectionTimeoutMS=100)
        stats = Pool.get_pool_stats()
        assert (stats["status"], stats["server_version"]) == ("error", None)
        assert "s3cr3t" not in str(stats)
        assert "reader" not in str(stats)

    def test_a_borrowed_client(self, mongo_client: Client) -> None:
        stats = ClientHandle.of(mongo_client).stats()
        assert stats["status"] == "external_client"
        assert stats["pool_config"]["maxPoolSize"] == 100


class TestUsers:
    def test_the_last_user_closes_the_client_and_ends_the_threads(self, owned: ClientHandle) -> None:
        one, other = User(), User()
        owned.acquire(one)
        owned.acquire(other)
        assert owned.executor.submit(answers, owned.client).result()
        owned.release(one)
        owned.release(one)
        assert answers(owned.client)
        owned.release(other)
        assert not answers(owned.client)
        assert not workers()

    def test_a_user_that_is_dropped_counts_as_gone(self, owned: ClientHandle) -> None:
        user = User()
        owned.acquire(user)
        owned.executor.submit(answers, owned.client).result()
        assert answers(owned.client)
        del user
        gc.collect()
        assert eventually(lambda: not answers(owned.client) and not workers())

    def test_a_borrowed_client_stays_open_and_loses_only_its_threads(self, mongo_client: Client) -> None:
        user = User()
        handle = ClientHandle.of(mongo_client)
        handle.acquire(user)
        handle.executor.submit(answers, mongo_client).result()
        handle.release(user)
        assert not workers()
        assert answers(mongo_client)
        handle.acquire(user)
        assert handle.executor.submit(answers, mongo_client).result()
        handle.close()

    def test_a_borrowed_handle_is_forgotten_with_its_users(self, mongo_client: Client) -> None:
        user = User()
        ClientHandle.of(mongo_client).acquire(user)
        assert id(mongo_client) in ClientHandle._registry
        del user
        gc.collect()
        assert eventually(lambda: gc.collect() >= 0 and id(mongo_client) not in ClientHandle._registry)

    def test_owners_take_the_client_from_users_who_are_none(self, owned: ClientHandle) -> None:
        owner, user = User(), User()
        owned.acquire(user)
        owned.acquire(owner, owner=True)
        owned.release(owner)
        assert not answers(owned.client)

    def test_an_owner_that_is_dropped_leaves_the_client_to_the_users(self, owned: ClientHandle) -> None:
        owner, user = User(), User()
        owned.acquire(user)
        owned.acquire(owner, owner=True)
        del owner
        gc.collect()
        assert answers(owned.client)
        owned.release(user)
        assert not answers(owned.client)

    def test_heirs_of_a_replaced_owner_outlast_another_owner(self, owned: ClientHandle) -> None:
        replaced, other, heir = User(), User(), User()
        owned.acquire(replaced, owner=True)
        owned.acquire(other, owner=True)
        owned.acquire(heir)
        owned.abandon(replaced)
        owned.release(other)
        assert answers(owned.client)
        owned.release(heir)
        assert not answers(owned.client)

    def test_somebody_who_is_no_user_closes_nothing(self, owned: ClientHandle) -> None:
        owned.release(User())
        assert answers(owned.client)

    def test_users_that_come_and_go_in_many_threads(self, owned: ClientHandle) -> None:
        keeper = User()
        owned.acquire(keeper)

        def come_and_go(number: int) -> None:
            for _ in range(300):
                user = User()
                owned.acquire(user, owner=bool(number % 2))
                if number % 3:
                    owned.release(user)

        owned.acquire(keeper, owner=True)
        with ThreadPoolExecutor(6) as threads:
            list(threads.map(come_and_go, range(6)))
        gc.collect()
        assert len(owned._users) == 1
        assert answers(owned.client)
        owned.release(keeper)
        assert not answers(owned.client)

    def test_a_user_may_be_collected_by_a_thread_that_is_inside_the_handle(self, owned: ClientHandle) -> None:
        user = User()
        user.itself = user  # type: ignore[attr-defined]
        owned.acquire(user)
        done = threading.Event()

        def collect() -> None:
            nonlocal user
            with owned._lock, threading._active_limbo_lock:  # type: ignore[attr-defined]
                del user
                gc.collect()
            done.set()

        threading.Thread(target=collect, daemon=True).start()
        assert done.wait(5)
        assert eventually(lambda: not answers(owned.client))


class TestClosing:
    def test_queued_work_is_finished(self, owned: ClientHandle, database_name: str) -> None:
        collection = owned.client[database_name].queue
        executor = owned.executor
        executor._max_workers = 1  # so that most of it waits
        written = [executor.submit(collection.insert_one, {"_id": number}) for number in range(50)]
        owned.close()
        assert all(future.result().acknowledged for future in written)
        assert not workers()

    def test_what_does_not_finish_in_time_is_cancelled(self, owned: ClientHandle) -> None:
        owned.executor._max_workers = 1
        blocked = threading.Event()
        running = owned.executor.submit(blocked.wait, 10)
        queued = owned.executor.submit(print)
        begun = time.monotonic()
        owned.close(timeout=0.1)
        assert time.monotonic() - begun < 5
        assert queued.cancelled()
        assert not answers(owned.client)
        blocked.set()
        running.result()
        assert eventually(lambda: not workers())

    def test_closing_from_a_thread_of_its_own_does_not_wait_for_itself(self, owned: ClientHandle) -> None:
        owned.executor.submit(owned.close).result(timeout=5)
        assert eventually(lambda: not answers(owned.client) and not workers())

    def test_closing_twice_at_once(self, owned: ClientHandle) -> None:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda _: owned.close(), range(8)))
        assert not answers(owned.client)

    def test_work_is_spread_over_threads_up_to_the_size_of_the_pool(self, mongodb_uri: str) -> None:
        handle = ClientHandle.open(mongodb_uri, maxPoolSize=3)
        together = threading.Barrier(3)
        assert {handle.executor.submit(together.wait, 5).result for _ in range(3)}
        assert handle.executor._max_workers == 3
        handle.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning", "ignore:.*fork:UserWarning")
def test_a_forked_child_goes_on_with_threads_of_its_own(mongodb_uri: str) -> None:
    client = Pool.initialize(mongodb_uri, minPoolSize=0)
    handle = ClientHandle.of(client)
    user = User()
    handle.acquire(user)
    assert handle.executor.submit(answers, client).result()
    child = os.fork()
    if child == 0:
        good = False
        try:
            good = handle.executor.submit(answers, client).result(timeout=10)
            good = good and handle._connections()["created"] == 1
        finally:
            sys.stderr.flush()
            os._exit(0 if good else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert answers(client)
