import threading
import traceback
from typing import Any

import mongomock
import pymongo
import pytest
from pymongo.driver_info import DriverInfo
from pymongo.errors import ConfigurationError, InvalidOperation, InvalidURI
from pymongo.monitoring import CommandListener

from mongodb_session_manager import __version__
from mongodb_session_manager._client.handle import ClientHandle
from mongodb_session_manager._client.options import (
    DEFAULT_OPTIONS,
    Client,
    check_client_arguments,
    client_options,
    pool_config,
)

URI = "mongodb://127.0.0.1:1/"


def effective(uri: str = URI, /, **options: Any) -> dict[str, object]:
    """What pymongo makes of the options, as ``stats()`` tells it; no server is needed for that."""
    handle = ClientHandle.open(uri, connect=False, **options)
    try:
        return pool_config(handle.client)
    finally:
        handle.close()


def test_defaults_take_effect() -> None:
    assert effective() == DEFAULT_OPTIONS


@pytest.mark.parametrize("name", ["maxPoolSize", "maxpoolsize", "MAXPOOLSIZE"])
def test_the_users_option_wins_in_any_spelling(name: str) -> None:
    assert effective(**{name: 50})["maxPoolSize"] == 50


@pytest.mark.parametrize(
    ("query", "name", "value"),
    [
        ("maxPoolSize=50", "maxPoolSize", 50),
        ("MAXPOOLSIZE=50", "maxPoolSize", 50),
        ("retryWrites=false", "retryWrites", False),
        ("w=1&retryreads=false", "retryReads", False),
        ("w=1;socketTimeoutMS=77", "socketTimeoutMS", 77),
        ("maxIdleTimeMS=77", "maxIdleTimeMS", 77),
        ("waitQueueTimeoutMS=77", "waitQueueTimeoutMS", 77),
        ("connectTimeoutMS=77", "connectTimeoutMS", 77),
        ("minPoolSize=0", "minPoolSize", 0),
    ],
)
def test_the_connection_string_wins_over_the_defaults(query: str, name: str, value: object) -> None:
    assert effective(f"{URI}?{query}")[name] == value


def test_an_argument_wins_over_the_connection_string() -> None:
    assert effective(f"{URI}?maxPoolSize=50", maxPoolSize=60)["maxPoolSize"] == 60


@pytest.mark.parametrize("options", [{"maxPoolSize": 5}, {"maxpoolsize": "5"}])
def test_a_small_pool_lowers_the_default_minimum(options: dict[str, object]) -> None:
    assert effective(**options)["minPoolSize"] == 5
    assert effective(f"{URI}?maxPoolSize=5")["minPoolSize"] == 5


@pytest.mark.parametrize("unlimited", [0, None])
def test_a_pool_without_limit_is_told_as_none(unlimited: object) -> None:
    assert effective(maxPoolSize=unlimited)["maxPoolSize"] is None


def test_the_name_of_an_srv_address_is_not_resolved() -> None:
    options = client_options("mongodb+srv://u:p@cluster.invalid/db?maxPoolSize=5", {})
    assert "maxPoolSize" not in options
    assert options["minPoolSize"] == 5


@pytest.mark.parametrize("name", ["maxPolSize", "max_pool_size", "metadata_hok"])
def test_a_typo_raises(name: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        ClientHandle.open(URI, **{name: 5})


@pytest.mark.parametrize(
    ("options", "error"),
    [({"maxPoolSize": "many"}, ValueError), ({"event_listeners": 3}, TypeError), ({"tls": "perhaps"}, ValueError)],
)
def test_a_bad_value_raises_as_in_pymongo(options: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error):
        ClientHandle.open(URI, **options)


def test_an_option_without_default_takes_effect() -> None:
    handle = ClientHandle.open(URI, connect=False, replicaSet="rs7", appName="shop", tz_aware=True)
    try:
        options = handle.client.options
        assert options.replica_set_name == "rs7"
        assert options.pool_options.appname == "shop"
        assert options.codec_options.tz_aware
    finally:
        handle.close()


def test_the_driver_names_itself_unless_the_user_does() -> None:
    assert client_options(URI, {})["driver"] == DriverInfo("mongodb-session-manager", __version__)
    own = DriverInfo("shop", "1")
    assert [v for k, v in client_options(URI, {"Driver": own}).items() if k.lower() == "driver"] == [own]


class Listener(CommandListener):
    def started(self, event: object) -> None: ...

    succeeded = failed = started


@pytest.mark.parametrize("name", ["event_listeners", "Event_Listeners"])
@pytest.mark.parametrize("kind", [list, tuple])
def test_the_users_listeners_stay_and_their_list_is_left_alone(name: str, kind: type) -> None:
    mine = kind([Listener()])
    handle = ClientHandle.open(URI, connect=False, **{name: mine})
    try:
        (listeners,) = [handle.client.options.pool_options._event_listeners]
        assert listeners is not None
        assert mine[0] in listeners.event_listeners()
        assert len(mine) == 1
    finally:
        handle.close()


@pytest.mark.parametrize(
    "uri",
    [
        "mongodb://reader:s3/cr3t@127.0.0.1:1/db",
        "mongodb://reader:s3@cr3t@127.0.0.1:1/",
        "mongodb://reader:s3cr3t@127.0.0.1:999999/",
        "mongodb://reader:s3:cr3t@127.0.0.1/",
        "mongodb://reader:s3/cr3t/pä55@127.0.0.1/",
    ],
)
def test_an_error_does_not_quote_the_password(uri: str) -> None:
    with pytest.raises((InvalidURI, ValueError)) as caught:
        ClientHandle.open(uri)
    text = "".join(traceback.format_exception_only(caught.value))
    assert not {"s3", "cr3t", "s3cr3t", "pä55"} & set(text.replace("@", '"').replace("/", '"').split('"'))
    assert caught.value.__context__ is None or "cr3t" not in str(caught.value.__context__)


def test_arguments_that_name_no_server_say_what_to_pass() -> None:
    for nothing in (None, ""):
        with pytest.raises(ValueError, match=r"connection_string=.* or client="):
            check_client_arguments(nothing, None, {})


def test_options_beside_a_client_are_refused_without_their_values() -> None:
    with pytest.raises(TypeError, match="password") as caught:
        check_client_arguments(None, object(), {"password": "s3cr3t"})
    assert "s3cr3t" not in str(caught.value)
    check_client_arguments(None, object(), {})


@pytest.mark.parametrize("wrong", ["mongodb://127.0.0.1", 3, object()])
def test_something_that_is_no_client_is_refused(wrong: object) -> None:
    with pytest.raises(TypeError, match=type(wrong).__name__):
        ClientHandle.of(wrong)  # type: ignore[arg-type]


async def test_an_asynchronous_client_is_refused() -> None:
    client: pymongo.AsyncMongoClient[dict[str, object]] = pymongo.AsyncMongoClient(URI, connect=False)
    with pytest.raises(TypeError, match="AsyncMongoClient"):
        ClientHandle.of(client)  # type: ignore[arg-type]
    await client.close()


def test_a_handle_belongs_to_a_client_object_not_to_its_address() -> None:
    with Client(URI, connect=False) as one, Client(URI, connect=False) as other:
        assert one == other
        handle = ClientHandle.of(one)
        assert ClientHandle.of(one) is handle
        assert ClientHandle.of(other) is not handle


def test_a_mongomock_client_is_borrowed() -> None:
    handle = ClientHandle.of(mongomock.MongoClient())
    stats = handle.stats()
    assert (stats["status"], stats["pool_config"]) == ("external_client", {})
    assert set(stats["connections"].values()) == {None}
    assert handle.executor.submit(threading.get_ident).result() != threading.get_ident()
    handle.close()


def test_a_closed_handle_takes_nobody_and_starts_no_threads() -> None:
    handle = ClientHandle.open(URI, connect=False)
    handle.close()
    with pytest.raises(InvalidOperation, match="closed"):
        handle.acquire(object)
    with pytest.raises(InvalidOperation, match="closed"):
        _ = handle.executor
    assert handle.stats()["status"] == "not_initialized"
