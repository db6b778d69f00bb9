"""One client for many managers: who shares it, who closes it, and what is left to whom."""

import gc
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pymongo.errors import ConfigurationError, InvalidOperation

from mongodb_session_manager import MongoDBSessionManager, mongodb_session_factory
from mongodb_session_manager._client.handle import ClientHandle
from mongodb_session_manager.errors import FactoryNotInitializedError, MongoDBSessionError
from mongodb_session_manager.mongodb_connection_pool import MongoDBConnectionPool
from mongodb_session_manager.mongodb_session_factory import (
    MongoDBSessionManagerFactory,
    close_global_factory,
    get_global_factory,
    initialize_global_factory,
)
from tests.aliases import Client
from tests.watching import answers, eventually, wait_for_indexes

MakeFactory = Callable[..., MongoDBSessionManagerFactory]


@pytest.fixture(autouse=True)
def _nothing_global() -> Iterator[None]:
    yield
    close_global_factory()
    MongoDBConnectionPool.close()


@pytest.fixture
def make_factory(mongodb_uri: str, database_name: str) -> Iterator[MakeFactory]:
    made: list[MongoDBSessionManagerFactory] = []

    def make(**arguments: Any) -> MongoDBSessionManagerFactory:
        defaults = {} if "client" in arguments else {"connection_string": mongodb_uri}
        made.append(MongoDBSessionManagerFactory(**(defaults | {"database_name": database_name} | arguments)))
        return made[-1]

    yield make
    for factory in made:
        factory.close()


def client_of(owner: MongoDBSessionManager | MongoDBSessionManagerFactory) -> Client:
    if isinstance(owner, MongoDBSessionManagerFactory):
        return owner._handle.client
    return owner.session_repository.client


class TestArguments:
    def test_defaults_reach_the_session(self, make_factory: MakeFactory, mongo_client: Client) -> None:
        factory = make_factory(collection_name="chats", metadata_fields=["tier"], application_name="shop")
        factory.create_session_manager("s1")
        wait_for_indexes()
        database = mongo_client[factory._defaults["database_name"]]
        stored = database.chats.find_one({"_id": "s1"})
        assert stored is not None
        assert stored["application_name"] == "shop"
        assert "metadata.tier_1_updated_at_-1__id_-1" in database.chats.index_information()

    def test_overrides_win_for_one_manager(
        self, make_factory: MakeFactory, mongo_client: Client, database_name: str
    ) -> None:
        factory = make_factory(collection_name="chats", application_name="shop")
        factory.create_session_manager("s1", collection_name="others", application_name="desk")
        factory.create_session_manager("s2", collection_name=None)
        database = mongo_client[database_name]
        assert database.others.distinct("application_name") == ["desk"]
        assert database.chats.distinct("application_name") == ["shop"]

    def test_the_collection_has_the_managers_default_name(
        self, make_factory: MakeFactory, mongo_client: Client, database_name: str
    ) -> None:
        make_factory().create_session_manager("s1")
        assert mongo_client[database_name].agent_sessions.count_documents({"_id": "s1"}) == 1

    def test_the_database_named_in_the_connection_string(
        self, make_factory: MakeFactory, mongodb_uri: str, mongo_client: Client, database_name: str
    ) -> None:
        base, _, query = mongodb_uri.partition("?")
        uri = f"{base.rstrip('/')}/{database_name}?{query}"
        make_factory(connection_string=uri, database_name=None).create_session_manager("s1")
        assert mongo_client[database_name].agent_sessions.count_documents({}) == 1

    def test_an_unknown_override_is_named_with_those_that_exist(self, make_factory: MakeFactory) -> None:
        with pytest.raises(TypeError, match=r"maxPoolSize.*database_name.*application_name"):
            make_factory().create_session_manager("s1", maxPoolSize=5)  # type: ignore[call-arg]

    def test_a_connection_string_beside_a_client_is_ignored(
        self, make_factory: MakeFactory, mongo_client: Client
    ) -> None:
        with pytest.warns(UserWarning, match="client="):
            factory = make_factory(client=mongo_client, connection_string="mongodb://127.0.0.1:1/")
        assert client_of(factory.create_session_manager("s1")) is mongo_client

    def test_options_beside_a_client_are_refused(self, make_factory: MakeFactory, mongo_client: Client) -> None:
        with pytest.raises(TypeError, match="maxPoolSize"):
            make_factory(client=mongo_client, maxPoolSize=5)

    def test_neither_connection_string_nor_client(self) -> None:
        with pytest.raises(ValueError, match=r"connection_string=.*client="):
            MongoDBSessionManagerFactory(database_name="shop")

    def test_a_typo_in_an_option(self, mongodb_uri: str) -> None:
        with pytest.raises(ConfigurationError, match="maxPolSize"):
            MongoDBSessionManagerFactory(mongodb_uri, maxPolSize=5)  # type: ignore[call-arg]


class TestClient:
    def test_all_managers_share_one(self, make_factory: MakeFactory) -> None:
        factory = make_factory(maxPoolSize=20)
        one, other = factory.create_session_manager("s1"), factory.create_session_manager("s2")
        assert client_of(one) is client_of(other) is MongoDBConnectionPool.get_client()
        assert one._stores.handle.executor is other._stores.handle.executor

    def test_it_closes_with_the_last_factory_even_if_managers_were_never_closed(
        self, make_factory: MakeFactory
    ) -> None:
        one, other = make_factory(), make_factory()
        client = client_of(one)
        assert client_of(other) is client
        left_open = other.create_session_manager("s1")
        one.close()
        assert answers(client)
        other.close()
        other.close()
        assert not answers(client)
        assert left_open.session_id == "s1"

    def test_closing_takes_the_threads_along(self, make_factory: MakeFactory) -> None:
        others = set(threading.enumerate())  # of tests whose clients were not collected yet
        factory = make_factory()
        manager = factory.create_session_manager("s1")
        manager._stores.handle.executor.submit(print).result()
        factory.close()
        left = set(threading.enumerate()) - others
        assert not [thread.name for thread in left if thread.name.startswith("mongodb-session-manager_")]

    def test_a_pool_that_was_initialized_keeps_it(self, make_factory: MakeFactory, mongodb_uri: str) -> None:
        client = MongoDBConnectionPool.initialize(mongodb_uri)
        with make_factory() as factory:
            assert client_of(factory) is client
        assert answers(client)

    def test_a_borrowed_one_stays_open(self, make_factory: MakeFactory, mongo_client: Client) -> None:
        with make_factory(client=mongo_client) as factory:
            factory.create_session_manager("s1")
        assert answers(mongo_client)

    def test_replacing_the_pool_leaves_it_to_factories_and_managers(
        self, make_factory: MakeFactory, mongodb_uri: str
    ) -> None:
        first = MongoDBConnectionPool.initialize(mongodb_uri)
        factory = make_factory()
        manager = MongoDBSessionManager("s1", client=first, database_name=factory._defaults["database_name"])
        MongoDBConnectionPool.initialize(mongodb_uri, maxPoolSize=20)
        assert client_of(factory.create_session_manager("s2")) is first
        factory.close()
        assert answers(first)
        manager.close()
        assert not answers(first)

    def test_a_factory_that_was_dropped_leaves_it_to_its_managers(self, mongodb_uri: str, database_name: str) -> None:
        manager = MongoDBSessionManagerFactory(mongodb_uri, database_name, minPoolSize=0).create_session_manager("s1")
        client = client_of(manager)
        gc.collect()
        assert answers(client)
        del manager
        gc.collect()
        assert eventually(lambda: not answers(client))

    def test_stats(self, make_factory: MakeFactory, mongo_client: Client) -> None:
        factory = make_factory(maxPoolSize=7)
        stats = factory.get_connection_stats()
        assert (stats["status"], stats["pool_config"]["maxPoolSize"]) == ("connected", 7)
        assert make_factory(client=mongo_client).get_connection_stats()["status"] == "external_client"
        factory.close()
        assert factory.get_connection_stats()["status"] == "not_initialized"


class TestClosed:
    def test_it_makes_no_more_managers(self, make_factory: MakeFactory) -> None:
        factory = make_factory()
        factory.close()
        with pytest.raises(RuntimeError, match="closed"):
            factory.create_session_manager("s1")

    def test_a_pool_closed_underneath_says_so(self, make_factory: MakeFactory) -> None:
        factory = make_factory()
        MongoDBConnectionPool.close()
        with pytest.raises(InvalidOperation, match="closed"):
            factory.create_session_manager("s1")

    def test_its_managers_are_closed_with_it(self, make_factory: MakeFactory, mongo_client: Client) -> None:
        factory = make_factory(client=mongo_client)
        managers = [factory.create_session_manager(f"s{number}") for number in range(40)]
        handle = ClientHandle.of(mongo_client)
        assert handle._users
        factory.close()
        assert not handle._users
        assert len(managers) == 40

    def test_making_managers_while_it_closes(self, make_factory: MakeFactory) -> None:
        factory = make_factory()
        client = client_of(factory)
        errors: list[BaseException] = []

        def make(number: int) -> None:
            try:
                while True:
                    factory.create_session_manager(f"s{number}")
            except (RuntimeError, InvalidOperation) as error:
                errors.append(error)

        with ThreadPoolExecutor(4) as threads:
            running = [threads.submit(make, number) for number in range(4)]
            time.sleep(0.2)
            factory.close()
            for future in running:
                future.result(timeout=20)
        assert all(isinstance(error, RuntimeError) and isinstance(error, MongoDBSessionError) for error in errors)
        assert not answers(client)

    def test_closed_just_before_the_manager_takes_the_client(
        self, make_factory: MakeFactory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        factory = make_factory()

        def close_first(*args: Any, **kwargs: Any) -> MongoDBSessionManager:
            factory.close()
            return MongoDBSessionManager(*args, **kwargs)

        monkeypatch.setattr(mongodb_session_factory, "MongoDBSessionManager", close_first)
        with pytest.raises(RuntimeError, match="closed"):
            factory.create_session_manager("s1")

    def test_closed_just_after_the_manager_took_the_client(
        self, make_factory: MakeFactory, mongo_client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        factory = make_factory(client=mongo_client)
        made: list[MongoDBSessionManager] = []

        def close_then(*args: Any, **kwargs: Any) -> MongoDBSessionManager:
            made.append(MongoDBSessionManager(*args, **kwargs))
            factory.close()
            return made[0]

        monkeypatch.setattr(mongodb_session_factory, "MongoDBSessionManager", close_then)
        with pytest.raises(RuntimeError, match="closed"):
            factory.create_session_manager("s1")
        assert made
        assert not ClientHandle.of(mongo_client)._users


class TestGlobal:
    def test_none(self) -> None:
        with pytest.raises(FactoryNotInitializedError, match="initialize_global_factory"):
            get_global_factory()
        close_global_factory()

    def test_initialize_get_close(self, mongodb_uri: str, database_name: str) -> None:
        factory = initialize_global_factory(mongodb_uri, database_name, application_name="shop", maxPoolSize=7)
        assert get_global_factory() is factory
        assert factory.create_session_manager("s1").session_id == "s1"
        close_global_factory()
        close_global_factory()
        assert not answers(client_of(factory))
        with pytest.raises(FactoryNotInitializedError):
            get_global_factory()

    def test_one_that_was_closed_directly_is_none(self, mongodb_uri: str) -> None:
        with initialize_global_factory(mongodb_uri):
            pass
        with pytest.raises(FactoryNotInitializedError):
            get_global_factory()

    @pytest.mark.parametrize("options", [{}, {"maxPoolSize": 20}], ids=["same arguments", "other arguments"])
    def test_a_second_call_leaves_the_client_to_the_managers(
        self, mongodb_uri: str, database_name: str, options: dict[str, Any]
    ) -> None:
        first = initialize_global_factory(mongodb_uri, database_name)
        one, other = first.create_session_manager("s1"), first.create_session_manager("s2")
        client = client_of(one)
        second = initialize_global_factory(mongodb_uri, database_name, **options)
        assert get_global_factory() is second
        assert (client_of(second) is client) == (not options)
        with pytest.raises(RuntimeError, match=r"replaced.*get_global_factory"):
            first.create_session_manager("s3")
        close_global_factory()
        one.close()
        assert answers(client)
        other.close()
        assert not answers(client)

    def test_a_second_call_closes_a_client_that_nobody_holds(self, mongodb_uri: str) -> None:
        first = initialize_global_factory(mongodb_uri)
        initialize_global_factory(mongodb_uri, maxPoolSize=20)
        assert not answers(client_of(first))

    def test_a_second_call_that_fails_leaves_the_first(self, mongodb_uri: str) -> None:
        first = initialize_global_factory(mongodb_uri)
        with pytest.raises(ConfigurationError):
            initialize_global_factory(mongodb_uri, maxPolSize=20)  # type: ignore[call-arg]
        assert get_global_factory() is first
        assert answers(client_of(first))

    def test_requests_go_on_while_it_is_replaced(self, mongodb_uri: str, database_name: str) -> None:
        initialize_global_factory(mongodb_uri, database_name, minPoolSize=0)
        stop = threading.Event()

        def serve(number: int) -> int:
            served = 0
            while not stop.is_set():
                try:
                    manager = get_global_factory().create_session_manager(f"s{number}")
                except RuntimeError:
                    continue  # it was replaced between the two calls; the next request finds the new one
                assert answers(client_of(manager))
                served += 1
            return served

        with ThreadPoolExecutor(4) as threads:
            serving = [threads.submit(serve, number) for number in range(4)]
            for size in range(20, 30):
                initialize_global_factory(mongodb_uri, database_name, minPoolSize=0, maxPoolSize=size)
                time.sleep(0.05)
            stop.set()
            assert all(future.result() > 0 for future in serving)
        gc.collect()


SCRIPT = """
import atexit, sys
from mongodb_session_manager.mongodb_session_factory import close_global_factory, initialize_global_factory
factory = initialize_global_factory(sys.argv[1], sys.argv[2])
manager = factory.create_session_manager("s1")
manager._stores.handle.executor.submit(print, "worked").result()
if sys.argv[3] == "atexit":
    atexit.register(close_global_factory)
"""


@pytest.mark.parametrize("how", ["atexit", "never"])
def test_the_interpreter_ends_without_noise(how: str, mongodb_uri: str, database_name: str) -> None:
    command = [sys.executable, "-W", "ignore::ResourceWarning", "-c", SCRIPT, mongodb_uri, database_name, how]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "worked\n", "")
