"""Client options, the driver handshake, and who uses a client."""

import _thread
import logging
import math
import os
import re
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Final

import pymongo
from pymongo import MongoClient
from pymongo.driver_info import DriverInfo
from pymongo.errors import ConfigurationError, InvalidOperation, InvalidURI, PyMongoError
from pymongo.monitoring import (
    ConnectionCheckedInEvent,
    ConnectionCheckedOutEvent,
    ConnectionCheckOutFailedEvent,
    ConnectionCheckOutStartedEvent,
    ConnectionClosedEvent,
    ConnectionCreatedEvent,
    ConnectionPoolListener,
)

from .._schema.ids import is_uri
from .._version import __version__
from ..errors import MongoDBSessionError
from .spelling import spelling_hint, warn_caller

__all__ = [
    "CLOSE_TIMEOUT",
    "DEFAULT_OPTIONS",
    "Client",
    "ClientHandle",
    "check_client_arguments",
    "client_options",
    "not_initialized_stats",
]

logger = logging.getLogger(__name__)

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

CLOSE_TIMEOUT: Final = 10.0
"""Seconds that closing waits for what is pending."""

ANSWER_TIMEOUT: Final = 5.0
"""Seconds that the server has to answer a question about its health, or a farewell."""

THREAD_NAME: Final = "mongodb-session-manager"

# A client that keeps to the Stable API strictly may not ask for the version, and is told so.
_API_STRICT: Final = 323


# What a MongoClient is made of, and how to get from there to what is wanted.
_PARTS: Final = {
    "Database": "client=database.client and database_name=database.name",
    "Collection": "client=collection.database.client, database_name=collection.database.name and "
    "collection_name=collection.name",
}
_ASYNCHRONOUS: Final = frozenset({"AsyncMongoClient", "AsyncIOMotorClient", "MotorClient", "AsyncMongoMockClient"})
# A password that is not escaped ends early: what follows would be taken for a host, and be shown in errors.
_LATE_USER: Final = re.compile(r"\s*\w+(\+srv)?://[^/?]*(/[^?]*|\?[^=]*)@", re.IGNORECASE)
_NO_SERVER: Final = (
    "Neither connection_string nor client was given. Pass connection_string='mongodb://host:27017/my_database' "
    "or client=, a pymongo.MongoClient."
)


def check_client_arguments(connection_string: str | None, client: object, options: Mapping[str, Any]) -> None:
    """Refuse arguments that name no server, or that would be ignored; warn of a connection string beside a client.

    Raises:
        ValueError: Neither a connection string nor a client was given.
        TypeError: Client options were given beside a client, which has its own, or something is of the wrong type.
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
    # pymongo takes a bare name of a host too; where a user stands before it, the scheme was forgotten.
    if not is_uri(connection_string) and re.search("@|://", connection_string):
        raise InvalidURI("connection_string must begin with 'mongodb://' or 'mongodb+srv://'; it is not shown here")
    if _LATE_USER.match(connection_string):
        raise InvalidURI("connection_string: user and password must be escaped with urllib.parse.quote_plus()")


def _check_client(client: object) -> None:
    # By what it can do, not by its class: a mongomock.MongoClient is welcome. A database takes any name for one of
    # its collections, so it can be told by its class alone.
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
    _check_acknowledged(client)


def _check_acknowledged(client: Any) -> None:
    if isinstance(client, MongoClient) and not client.write_concern.acknowledged:
        raise ValueError(
            "The client's write concern is w=0: the server would acknowledge no write, so nobody would learn what is "
            "stored. Leave w out, or use w=1 or w='majority'."
        )


# Options


def client_options(connection_string: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Put the defaults under what the user passes or writes in the connection string.

    Args:
        connection_string: Only its query is looked at; no name is resolved.
        options: Keyword arguments for MongoClient, in any spelling that pymongo accepts.

    Returns:
        Keyword arguments for MongoClient. pymongo prefers them to the connection string, so a default whose
        name occurs there is left out.
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
    """Keep a default within the user's maximum. 0 is no limit, but older versions of pymongo take it for one here."""
    return min(default, int(largest)) if str(largest).isdecimal() else default


def _driver_info() -> DriverInfo:
    return DriverInfo("mongodb-session-manager", __version__)


def _with_listener(options: dict[str, Any], listener: ConnectionPoolListener) -> dict[str, Any]:
    """Add a listener to the user's own, unless those are something that pymongo will refuse."""
    name = next((name for name in options if name.lower() == "event_listeners"), "event_listeners")
    listeners = options.get(name)
    if listeners is None or isinstance(listeners, list | tuple):
        return {**options, name: [*(listeners or ()), listener]}
    return options


def _make_client(connection_string: str, options: dict[str, Any]) -> Client:
    """Make the client; pymongo may quote a badly escaped password in its error, so that is cleaned."""
    try:
        return MongoClient(connection_string, **options)
    except (ConfigurationError, ValueError) as error:
        text = _with_own_options(_without_credentials(str(error), connection_string), options)
        if text == str(error):
            raise
        failure = type(error) if isinstance(error, ConfigurationError) else ValueError
    raise failure(text)  # out here, so that the original does not travel along as the context


def _with_own_options(text: str, options: Mapping[str, Any]) -> str:
    """Add to pymongo's words on an option that it does not know: it may be one of ours, misspelt."""
    unknown = [name for name in options if re.match(rf"unknown option\W+{re.escape(name)}\b", text, re.I)]
    return f"{text} {spelling_hint(unknown)}" if unknown else text


def _without_credentials(text: str, connection_string: str) -> str:
    userinfo = connection_string.rpartition("@")[0].rpartition("://")[2]
    for secret in filter(None, re.split(r"\W+", userinfo)):
        text = re.sub(rf"\b{secret}\b", "***", text)
    return text


# What the pool of connections does


class _PoolMonitor(ConnectionPoolListener):
    """Counts what happens in the connection pools of one client."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def connections(self) -> dict[str, int]:
        """Count over all servers of the client; ``open``, ``in_use`` and ``waiting`` are of this moment."""
        with self._lock:
            counts = self._counts.copy()
        return {
            "created": counts["created"],
            "closed": counts["closed"],
            "open": counts["created"] - counts["closed"],
            "in_use": counts["in_use"],
            "waiting": counts["waiting"],
            "checkout_failures": counts["checkout_failures"],
        }

    def _count(self, **changes: int) -> None:
        with self._lock:
            self._counts.update(changes)

    def connection_created(self, event: ConnectionCreatedEvent) -> None:
        self._count(created=1)

    def connection_closed(self, event: ConnectionClosedEvent) -> None:
        self._count(closed=1)

    def connection_check_out_started(self, event: ConnectionCheckOutStartedEvent) -> None:
        self._count(waiting=1)

    def connection_checked_out(self, event: ConnectionCheckedOutEvent) -> None:
        self._count(waiting=-1, in_use=1)

    def connection_check_out_failed(self, event: ConnectionCheckOutFailedEvent) -> None:
        self._count(waiting=-1, checkout_failures=1)

    def connection_checked_in(self, event: ConnectionCheckedInEvent) -> None:
        self._count(in_use=-1)

    def _ignore(self, event: object) -> None:
        pass

    connection_ready = pool_created = pool_ready = pool_cleared = pool_closed = _ignore


def _pool_config(client: object) -> dict[str, Any]:
    """Read the options in effect, under pymongo's names; milliseconds, and None for "no limit"."""
    if not isinstance(client, MongoClient):
        return {}
    options, pool = client.options, client.options.pool_options
    return {
        "maxPoolSize": _largest_pool(client),
        "minPoolSize": pool.min_pool_size,
        "maxIdleTimeMS": _milliseconds(pool.max_idle_time_seconds),
        "waitQueueTimeoutMS": _milliseconds(pool.wait_queue_timeout),
        "serverSelectionTimeoutMS": _milliseconds(options.server_selection_timeout),
        "connectTimeoutMS": _milliseconds(pool.connect_timeout),
        "socketTimeoutMS": _milliseconds(pool.socket_timeout),
        "retryWrites": options.retry_writes,
        "retryReads": options.retry_reads,
    }


def _patience(client: object) -> float:
    """Seconds to wait for an answer: a client that is set to give up on a server earlier does, but not under 1 s."""
    if not isinstance(client, MongoClient):
        return ANSWER_TIMEOUT
    # pymongo.timeout() takes the place of serverSelectionTimeoutMS, even where that is shorter.
    return min(ANSWER_TIMEOUT, max(1.0, client.options.server_selection_timeout))


def _shortest_limit(client: object) -> float:
    if not isinstance(client, MongoClient):
        return math.inf
    options = client.options
    limits = (options.server_selection_timeout, options.pool_options.socket_timeout, options.timeout)
    return min((limit for limit in limits if limit), default=math.inf)


def _largest_pool(client: object) -> int | None:
    """Read maxPoolSize; None when there is no limit, or when the client has no pool."""
    if not isinstance(client, MongoClient):
        return None
    size = client.options.pool_options.max_pool_size
    return None if size in (None, 0, float("inf")) else int(size)


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)


def not_initialized_stats() -> dict[str, Any]:
    """Answer for stats when there is no open client."""
    return {
        "status": "not_initialized",
        "server_version": None,
        "pool_config": {},
        "connections": _PoolMonitor().connections(),
    }


# Who uses a client


class _ClientClosedError(MongoDBSessionError, InvalidOperation):
    """The client was closed, by us."""

    def __init__(self) -> None:
        super().__init__("This MongoClient has been closed. Make a new factory or session manager to go on.")


@dataclass
class _Use:
    finalizer: "weakref.finalize[Any, Any]"
    owner: bool


class ClientHandle:
    """A MongoClient with what belongs to it: its threads, its figures and its users.

    There is one handle for a client object at any time. Users are known weakly: one that is dropped without
    ``release()`` counts as gone when it is collected. A client of our own is closed with its last user, or with
    its last owner; a borrowed one is never closed, only the threads that worked for it end.

    After a fork the child starts with threads and figures of its own, on the client that pymongo resets.
    """

    _registry: ClassVar["weakref.WeakValueDictionary[int, ClientHandle]"] = weakref.WeakValueDictionary()
    _registry_lock = threading.Lock()

    def __init__(self, client: Client, monitor: _PoolMonitor | None = None) -> None:
        self.client: Final = client
        self.owned: Final = monitor is not None
        self._monitor = monitor
        self._thread_token = object()
        self._users: dict[int, _Use] = {}
        self._closed = False
        self._reset()
        # Keyed by identity: two clients of the same servers are equal. The handle keeps its client alive, so
        # that no other object can have the id while the entry is there.
        self._registry[id(client)] = self

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None

    @classmethod
    def open(cls, connection_string: str, **options: Any) -> "ClientHandle":
        """Make a client that this library owns. It does no network I/O, but for the DNS of ``mongodb+srv://``.

        Raises:
            pymongo.errors.ConfigurationError: For an option that pymongo does not know.
            ValueError: Its write concern is ``w=0``.
        """
        monitor = _PoolMonitor()
        client = _make_client(connection_string, _with_listener(client_options(connection_string, options), monitor))
        try:
            _check_acknowledged(client)
        except ValueError:
            client.close()
            raise
        with cls._registry_lock:
            return cls(client, monitor)

    @classmethod
    def of(cls, client: Client) -> "ClientHandle":
        """Find the handle of this very client object, or borrow the client.

        Raises:
            TypeError: For an asynchronous client, or something that is no client at all.
            ValueError: Its write concern is ``w=0``.
        """
        _check_client(client)
        with cls._registry_lock:
            return cls._registry.get(id(client)) or cls(client)

    @property
    def closed(self) -> bool:
        """Whether the client has been closed by this handle; never so for a borrowed one."""
        return self._closed

    @property
    def state(self) -> str:
        """``"open"`` or ``"closed"``, for a repr."""
        return "closed" if self._closed else "open"

    @property
    def timeout(self) -> float | None:
        """Seconds that the client gives an operation (``timeoutMS``); None where it has no such limit."""
        return self.client.options.timeout if isinstance(self.client, MongoClient) else None

    @property
    def patience(self) -> float:
        """Seconds that the client waits for a server or an answer at most, by whichever of its limits."""
        return _shortest_limit(self.client)

    @property
    def executor(self) -> ThreadPoolExecutor:
        """The threads that work for this client, at most as many as it may have connections.

        Raises:
            pymongo.errors.InvalidOperation: When the client has been closed.
        """
        with self._lock:
            self._check_open()
            if self._executor is None:
                self._executor = ThreadPoolExecutor(
                    max_workers=_largest_pool(self.client) or DEFAULT_OPTIONS["maxPoolSize"],
                    thread_name_prefix=THREAD_NAME,
                    initializer=_enter_thread,
                    initargs=(self._thread_token,),
                )
            return self._executor

    def acquire(self, user: object, *, owner: bool = False) -> None:
        """Note that somebody uses the client; a second time for the same user can only make it an owner.

        Args:
            user: Is known by its identity, and weakly.
            owner: Whether the client is to be closed when this user, and every other owner, has released it,
                even if users are left who are no owners.

        Raises:
            pymongo.errors.InvalidOperation: When the client has been closed.
        """
        with self._lock:
            self._check_open()
            use = self._users.get(id(user))
            if use is None:
                finalizer = weakref.finalize(user, self._collected, id(user))
                finalizer.atexit = False
                self._users[id(user)] = _Use(finalizer, owner)
            elif owner:
                use.owner = True

    def release(self, user: object, timeout: float = CLOSE_TIMEOUT) -> None:
        """Note that a user is done; the last owner and the last user take the client with them.

        Args:
            user: Somebody who is no user has no effect.
            timeout: Seconds to wait for queued work if that closes the client.
        """
        finish = self.leave(user, timeout)
        if finish:
            finish()

    def release_behind(self, user: object) -> None:
        """Do what ``release`` does, but close the client in the background where that is to be done."""
        finish = self.leave(user)
        if finish:
            _in_background(finish)

    def leave(self, user: object, timeout: float = CLOSE_TIMEOUT) -> Callable[[], None] | None:
        """Do what ``release`` does, but return what closes the client, which takes its time; None if nothing does."""
        with self._lock:
            use = self._forget(user)
            if use is None:
                return None
            orphaned = use.owner and self.owned and not self._has_owner()
            return self._end(timeout) if orphaned or not self._users else None

    def abandon(self, user: object) -> None:
        """Note that a user has been replaced: the client stays open for all who still use it.

        Those become its owners, so that it closes with the last of them.
        """
        with self._lock:
            self._forget(user)
            for use in self._users.copy().values():
                use.owner = True
            finish = self._end() if not self._users else None
        if finish:
            finish()

    def close(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Close at once, whoever uses it: let queued work finish, end the threads, close the client.

        A borrowed client stays open. Called from one of the handle's own threads, it returns at once and the
        rest is done in the background.

        Args:
            timeout: Seconds to wait for queued work. What has not begun then is cancelled, and what still runs
                ends by the client's own timeouts.
        """
        with self._lock:
            finish = self._end(timeout)
        finish()

    def stats(self) -> dict[str, Any]:
        """Ask the server how it is, for at most 5 s, and count the connections.

        Returns:
            ``status`` (``connected``, ``external_client`` for a borrowed client that answers, ``error`` when the server
            does not answer, ``not_initialized`` after closing), ``server_version`` (None also under the strict Stable
            API, which does not tell it), ``pool_config`` (milliseconds; None for no limit) and ``connections``
            (None for a borrowed client, whose pool nobody counts).
        """
        if self._closed:
            return not_initialized_stats()
        answers, version = self._server_version()
        healthy = "connected" if self.owned else "external_client"
        return {
            "status": healthy if answers else "error",
            "server_version": version,
            "pool_config": _pool_config(self.client),
            "connections": self._connections(),
        }

    def _server_version(self) -> tuple[bool, str | None]:
        """Tell whether the server answers, and its version as far as it tells that."""
        try:
            with pymongo.timeout(_patience(self.client)):
                return True, str(self.client.server_info()["version"])
        except PyMongoError as error:
            if getattr(error, "code", None) == _API_STRICT:
                return True, None
            logger.debug("error=<%s> | the server does not answer", type(error).__name__)
            return False, None

    def _connections(self) -> dict[str, int] | dict[str, None]:
        if self._monitor is None:
            return dict.fromkeys(_PoolMonitor().connections())
        return self._monitor.connections()

    def _check_open(self) -> None:
        if self._closed:
            raise _ClientClosedError

    def _forget(self, user: object) -> _Use | None:
        use = self._users.pop(id(user), None)
        if use is not None:
            use.finalizer.detach()
        return use

    def _has_owner(self) -> bool:
        # A copy, since a user may be collected at any moment, in this very thread.
        return any(use.owner for use in self._users.copy().values())

    def _collected(self, key: int) -> None:
        """Forget a user that the garbage collector took.

        It may run in any thread at any time, even in one that holds a lock of ours, of ``threading`` or of
        pymongo: it takes none, and leaves what has to be closed to a thread that was started without one.
        """
        self._users.pop(key, None)
        if not self._users:
            _in_background(self._close_if_unused)

    def _close_if_unused(self) -> None:
        with self._lock:
            finish = self._end() if not self._users else None
        if finish:
            finish()

    def _end(self, timeout: float = CLOSE_TIMEOUT) -> Callable[[], None]:
        """Decide to close, under the lock; what is returned does it, outside."""
        executor, self._executor = self._executor, None
        closes_client = self.owned and not self._closed
        self._closed = self.owned
        finish = partial(self._finish, executor, closes_client, timeout)
        if getattr(_current_thread, "token", None) is self._thread_token:
            return partial(_in_background, finish)  # a thread cannot wait for itself
        return finish

    def _finish(self, executor: ThreadPoolExecutor | None, closes_client: bool, timeout: float) -> None:
        if executor is not None:
            _drain(executor, timeout)
        if closes_client:
            with pymongo.timeout(_patience(self.client)):  # it tells the server which of its sessions end
                self.client.close()

    @classmethod
    def _after_fork(cls) -> None:
        cls._registry_lock = threading.Lock()
        for handle in list(cls._registry.values()):
            handle._reset()
            if handle._monitor is not None:
                handle._monitor.reset()


_current_thread = threading.local()


def _enter_thread(token: object) -> None:
    """Mark a thread of an executor, without a reference that would keep the executor alive."""
    _current_thread.token = token


def _drain(executor: ThreadPoolExecutor, timeout: float) -> None:
    """Let queued work finish; in the end what has not begun is cancelled, and what runs is left to its own timeouts."""
    try:
        waiter = threading.Thread(target=executor.shutdown, daemon=True)
        waiter.start()
        waiter.join(timeout)
    except RuntimeError as error:  # the interpreter is ending and starts no threads; it has waited for ours
        logger.debug("error=<%s> | nothing is left to wait for", error)
    executor.shutdown(wait=False, cancel_futures=True)


def _in_background(work: Callable[[], None]) -> None:
    """Run in a thread of its own; unlike threading.Thread this takes no lock and does not wait for it to begin."""
    try:
        _thread.start_new_thread(work, ())
    except RuntimeError as error:
        logger.debug("error=<%s> | no thread to close in, the process is ending", error)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=ClientHandle._after_fork)
