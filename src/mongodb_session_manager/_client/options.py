"""The options of a client: the user's, the defaults, and the resulting ones."""

import math
import re
from collections.abc import Mapping
from typing import Any, Final

from pymongo import MongoClient
from pymongo.driver_info import DriverInfo
from pymongo.errors import ConfigurationError, InvalidURI
from pymongo.monitoring import ConnectionPoolListener

from .._schema.ids import is_uri
from .._version import __version__
from .spelling import spelling_hint, warn_caller

__all__ = [
    "DEFAULT_OPTIONS",
    "Client",
    "answer_timeout",
    "check_acknowledged",
    "check_client",
    "check_client_arguments",
    "client_options",
    "largest_pool",
    "make_client",
    "pool_config",
    "shortest_timeout",
    "with_listener",
]

Client = MongoClient[dict[str, Any]]

DEFAULT_OPTIONS: Final[Mapping[str, Any]] = {
    "maxPoolSize": 100,
    "minPoolSize": 10,
    "maxIdleTimeMS": 30_000,
    "waitQueueTimeoutMS": 5_000,
    "serverSelectionTimeoutMS": 5_000,
    "connectTimeoutMS": 10_000,
    "socketTimeoutMS": 30_000,
    "retryWrites": True,
    "retryReads": True,
}
ANSWER_TIMEOUT: Final = 5.0
"""Seconds that the server has to answer a question about its health, or a farewell."""

# Objects that are often passed instead of a client, and how to get the client from them.
_PARTS: Final = {
    "Database": "client=database.client and database_name=database.name",
    "Collection": "client=collection.database.client, database_name=collection.database.name and "
    "collection_name=collection.name",
}
_ASYNCHRONOUS: Final = frozenset({"AsyncMongoClient", "AsyncIOMotorClient", "MotorClient", "AsyncMongoMockClient"})
# An unescaped password ends early: the rest of it would be taken for a host, and be shown in errors.
_LATE_USER: Final = re.compile(r"\s*\w+(\+srv)?://[^/?]*(/[^?]*|\?[^=]*)@", re.IGNORECASE)
_NO_SERVER: Final = (
    "Neither connection_string nor client was given. Pass connection_string='mongodb://host:27017/my_database' "
    "or client=, a pymongo.MongoClient."
)


def check_client_arguments(connection_string: str | None, client: object, options: Mapping[str, Any]) -> None:
    """Refuse arguments that name no server, or that would be ignored; warn of a connection string beside a client.

    Raises:
        ValueError: Neither a connection string nor a client was given.
        TypeError: Client options were given together with a client, or an argument has the wrong type.
    """
    if client is None and not connection_string:
        raise ValueError(_NO_SERVER)
    if client is not None and options:
        raise TypeError(
            f"Client options ({', '.join(sorted(options))}) have no effect on a client that exists already. "
            "Pass them to that MongoClient, or pass connection_string instead of client. "
            f"{spelling_hint(options)}"
        )
    if client is None:
        _check_connection_string(connection_string)
    elif connection_string:
        warn_caller("connection_string is ignored, since client= was given. Pass one of them.")


def _check_connection_string(connection_string: object) -> None:
    if not isinstance(connection_string, str):
        raise TypeError(
            f"connection_string must be a string, got {type(connection_string).__name__}. Pass a MongoClient as "
            "client=."
        )
    # pymongo also takes the bare name of a host; with a user before it, the scheme was forgotten.
    if not is_uri(connection_string) and re.search("@|://", connection_string):
        raise InvalidURI("connection_string must begin with 'mongodb://' or 'mongodb+srv://'; it is not shown here")
    if _LATE_USER.match(connection_string):
        raise InvalidURI("connection_string: user and password must be escaped with urllib.parse.quote_plus()")


def check_client(client: object) -> None:
    # Checked by methods, not by class, so that a mongomock.MongoClient passes. A database reads any name as a
    # collection, so it is checked by class.
    kind = client.__name__ if isinstance(client, type) else type(client).__name__
    if kind in _PARTS:
        raise TypeError(f"client must be a pymongo.MongoClient, not a {kind}. Pass {_PARTS[kind]}.")
    if isinstance(client, type):
        raise TypeError(f"client must be a pymongo.MongoClient, not the class {kind}.")
    if kind in _ASYNCHRONOUS:
        raise TypeError(
            f"client must be a pymongo.MongoClient, not {kind}. Pass a MongoClient: its calls run off the event loop."
        )
    if not hasattr(client, "get_default_database"):
        raise TypeError(f"client must be a pymongo.MongoClient, not {kind}.")
    check_acknowledged(client)


def check_acknowledged(client: Any) -> None:
    if isinstance(client, MongoClient) and not client.write_concern.acknowledged:
        raise ValueError(
            "The client's write concern is w=0: the server would acknowledge no write, so it would be unknown what is "
            "stored. Leave w out, or use w=1 or w='majority'."
        )


def client_options(connection_string: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the user's options with the defaults.

    Args:
        connection_string: Only its query is read; no name is resolved.
        options: Keyword arguments for MongoClient, in any spelling that pymongo accepts.

    Returns:
        Keyword arguments for MongoClient. pymongo prefers them to the connection string, so a default that the
        string names is left out.
    """
    written = _written_options(connection_string)
    passed = {name.lower(): value for name, value in options.items()}
    defaults = {**DEFAULT_OPTIONS, "driver": _driver_info()}
    largest = passed.get("maxpoolsize", written.get("maxpoolsize"))
    defaults["minPoolSize"] = _at_most(defaults["minPoolSize"], largest)
    given = written.keys() | passed.keys()
    return {name: value for name, value in defaults.items() if name.lower() not in given} | dict(options)


def _written_options(connection_string: str) -> dict[str, str]:
    query = connection_string.partition("?")[2]
    pairs = (pair.partition("=") for pair in re.split("[&;]", query))
    return {name.lower(): value for name, _, value in pairs if name}


def _at_most(default: int, largest: Any) -> int:
    """Return a default within the user's maximum. 0 means no limit, but older pymongo takes it as one here."""
    return min(default, int(largest)) if str(largest).isdecimal() else default


def _driver_info() -> DriverInfo:
    return DriverInfo("mongodb-session-manager", __version__)


def with_listener(options: dict[str, Any], listener: ConnectionPoolListener) -> dict[str, Any]:
    """Add a listener to the user's own, unless these are not a list, which pymongo refuses."""
    name = next((name for name in options if name.lower() == "event_listeners"), "event_listeners")
    listeners = options.get(name)
    if listeners is None or isinstance(listeners, list | tuple):
        return {**options, name: [*(listeners or ()), listener]}
    return options


def make_client(connection_string: str, options: dict[str, Any]) -> Client:
    """Make the client; a quote of a badly escaped password is removed from pymongo's error."""
    try:
        return MongoClient(connection_string, **options)
    except (ConfigurationError, ValueError) as error:
        text = _with_own_options(_without_credentials(str(error), connection_string), options)
        if text == str(error):
            raise
        failure = type(error) if isinstance(error, ConfigurationError) else ValueError
    raise failure(text)  # outside of the handler, so that the original is not the context


def _with_own_options(text: str, options: Mapping[str, Any]) -> str:
    """Add the library's own options to pymongo's error about an unknown one, which may be misspelt."""
    unknown = [name for name in options if re.match(rf"unknown option\W+{re.escape(name)}\b", text, re.I)]
    return f"{text} {spelling_hint(unknown)}" if unknown else text


def _without_credentials(text: str, connection_string: str) -> str:
    userinfo = connection_string.rpartition("@")[0].rpartition("://")[2]
    for secret in filter(None, re.split(r"\W+", userinfo)):
        text = re.sub(rf"\b{secret}\b", "***", text)
    return text


def pool_config(client: object) -> dict[str, Any]:
    """Return the resulting options, under pymongo's names; milliseconds, None for "no limit"."""
    if not isinstance(client, MongoClient):
        return {}
    options, pool = client.options, client.options.pool_options
    return {
        "maxPoolSize": largest_pool(client),
        "minPoolSize": pool.min_pool_size,
        "maxIdleTimeMS": _milliseconds(pool.max_idle_time_seconds),
        "waitQueueTimeoutMS": _milliseconds(pool.wait_queue_timeout),
        "serverSelectionTimeoutMS": _milliseconds(options.server_selection_timeout),
        "connectTimeoutMS": _milliseconds(pool.connect_timeout),
        "socketTimeoutMS": _milliseconds(pool.socket_timeout),
        "retryWrites": options.retry_writes,
        "retryReads": options.retry_reads,
    }


def answer_timeout(client: object) -> float:
    """Return the seconds to wait for an answer: less for a client with shorter limits, but at least 1 s."""
    if not isinstance(client, MongoClient):
        return ANSWER_TIMEOUT
    # pymongo.timeout() replaces serverSelectionTimeoutMS, even if that is shorter.
    return min(ANSWER_TIMEOUT, max(1.0, client.options.server_selection_timeout))


def shortest_timeout(client: object) -> float:
    if not isinstance(client, MongoClient):
        return math.inf
    options = client.options
    limits = (options.server_selection_timeout, options.pool_options.socket_timeout, options.timeout)
    return min((limit for limit in limits if limit), default=math.inf)


def largest_pool(client: object) -> int | None:
    """Return maxPoolSize; None if there is no limit, or if the client has no pool."""
    if not isinstance(client, MongoClient):
        return None
    size = client.options.pool_options.max_pool_size
    return None if size in (None, 0, float("inf")) else int(size)


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)
