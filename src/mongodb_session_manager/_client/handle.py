"""The handle of a client: its users, its threads, and when it closes."""

import _thread
import logging
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Final

import pymongo
from pymongo import MongoClient
from pymongo.errors import InvalidOperation, PyMongoError

from .._schema.limits import LIMITS
from ..errors import MongoDBSessionError
from .monitor import PoolMonitor, not_initialized_stats
from .off_loop import here
from .options import (
    DEFAULT_OPTIONS,
    Client,
    answer_timeout,
    check_acknowledged,
    check_client,
    client_options,
    largest_pool,
    make_client,
    pool_config,
    shortest_timeout,
    with_listener,
)

__all__ = ["CLOSE_TIMEOUT", "ClientHandle", "in_background"]

logger = logging.getLogger(__name__)

CLOSE_TIMEOUT: Final = LIMITS.close_timeout
"""Seconds that closing waits for what is pending."""
THREAD_NAME: Final = "mongodb-session-manager"

# A client under the strict Stable API may not ask for the version, and gets this error.
_API_STRICT: Final = 323


class _ClientClosedError(MongoDBSessionError, InvalidOperation):
    """The client was closed by this library."""

    def __init__(self) -> None:
        super().__init__("This MongoClient has been closed. Make a new factory or session manager to go on.")


@dataclass
class _Use:
    finalizer: "weakref.finalize[Any, Any]"
    owner: bool


class ClientHandle:
    """A MongoClient with its threads, its figures and its users.

    A client object has one handle at any time. Users are held weakly: a user that is dropped without ``release()``
    counts as released when it is collected. A client that this library made is closed with its last user, or with
    its last owner; a borrowed client is never closed, only its threads here end.

    After a fork the child begins with new threads and figures, on the client that pymongo resets.
    """

    _registry: ClassVar["weakref.WeakValueDictionary[int, ClientHandle]"] = weakref.WeakValueDictionary()
    _registry_lock = threading.Lock()

    def __init__(self, client: Client, monitor: PoolMonitor | None = None) -> None:
        self.client: Final = client
        self.owned: Final = monitor is not None
        self._monitor = monitor
        self._thread_token = object()
        self._users: dict[int, _Use] = {}
        self._closed = False
        self._reset()
        # Keyed by identity, since two clients of the same servers are equal. The handle keeps its client alive, so
        # the id belongs to no other object as long as the entry exists.
        self._registry[id(client)] = self

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None

    @classmethod
    def open(cls, connection_string: str, **options: Any) -> "ClientHandle":
        """Make a client that this library owns. No network I/O, except the DNS look-up of ``mongodb+srv://``.

        Raises:
            pymongo.errors.ConfigurationError: For an option that pymongo does not know.
            ValueError: Its write concern is ``w=0``.
        """
        monitor = PoolMonitor()
        client = make_client(connection_string, with_listener(client_options(connection_string, options), monitor))
        try:
            check_acknowledged(client)
        except ValueError:
            client.close()
            raise
        with cls._registry_lock:
            return cls(client, monitor)

    @classmethod
    def of(cls, client: Client) -> "ClientHandle":
        """Return the handle of this client object; a new one borrows the client.

        Raises:
            TypeError: For an asynchronous client, or a value that is not a client.
            ValueError: Its write concern is ``w=0``.
        """
        check_client(client)
        with cls._registry_lock:
            return cls._registry.get(id(client)) or cls(client)

    @property
    def closed(self) -> bool:
        """Whether this handle has closed the client; False for a borrowed one."""
        return self._closed

    @property
    def state(self) -> str:
        """``"open"`` or ``"closed"``, for a repr."""
        return "closed" if self._closed else "open"

    @property
    def timeout(self) -> float | None:
        """Seconds that the client gives an operation (``timeoutMS``); None if it has no such limit."""
        return self.client.options.timeout if isinstance(self.client, MongoClient) else None

    @property
    def shortest_timeout(self) -> float:
        """The shortest of the client's limits for a server or an answer, in seconds."""
        return shortest_timeout(self.client)

    @property
    def executor(self) -> ThreadPoolExecutor:
        """The threads that work for this client; at most as many as its connections.

        Raises:
            pymongo.errors.InvalidOperation: When the client has been closed.
        """
        with self._lock:
            self._check_open()
            if self._executor is None:
                self._executor = ThreadPoolExecutor(
                    max_workers=largest_pool(self.client) or DEFAULT_OPTIONS["maxPoolSize"],
                    thread_name_prefix=THREAD_NAME,
                    initializer=_enter_thread,
                    initargs=(self._thread_token,),
                )
            return self._executor

    def acquire(self, user: object, *, owner: bool = False) -> None:
        """Add a user of the client; a second call for the same user can only make it an owner.

        Args:
            user: Any object; it is held weakly, by its identity.
            owner: Whether the client closes when this user and every other owner have released it, even if other
                users are left.

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
        """Remove a user; the client closes with its last owner, and with its last user.

        Args:
            user: An object that is not a user has no effect.
            timeout: Seconds to wait for queued work if this closes the client.
        """
        finish = self.leave(user, timeout)
        if finish:
            finish()

    def release_behind(self, user: object) -> None:
        """Do what ``release`` does; if this closes the client, close it in the background."""
        finish = self.leave(user)
        if finish:
            in_background(finish)

    def leave(self, user: object, timeout: float = CLOSE_TIMEOUT) -> Callable[[], None] | None:
        """Remove a user; return a function that closes the client, which takes time; None if the client stays open."""
        with self._lock:
            use = self._forget(user)
            if use is None:
                return None
            orphaned = use.owner and self.owned and not self._has_owner()
            return self._end(timeout) if orphaned or not self._users else None

    def abandon(self, user: object) -> None:
        """Remove a user that was replaced: the client stays open for its other users.

        These become its owners, so that it closes with the last of them.
        """
        with self._lock:
            self._forget(user)
            for use in self._users.copy().values():
                use.owner = True
            finish = self._end() if not self._users else None
        if finish:
            finish()

    def close(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Close now, also if the client has users: finish queued work, end the threads, close the client.

        A borrowed client stays open. If one of the handle's own threads calls this, it returns immediately and closes
        in the background.

        Args:
            timeout: Seconds to wait for queued work. After it, work that has not begun is cancelled, and work that
                runs ends by the client's own timeouts.
        """
        with self._lock:
            finish = self._end(timeout)
        finish()

    def stats(self) -> dict[str, Any]:
        """Ask the server for its state, for at most 5 s, and count the connections.

        Returns:
            ``status`` (``connected``, ``external_client`` for a borrowed client that answers, ``error`` when the server
            does not answer, ``not_initialized`` after closing), ``server_version`` (None also under the strict Stable
            API, which does not tell it), ``pool_config`` (milliseconds; None for no limit) and ``connections``
            (None for a borrowed client, whose pool is not counted).
        """
        if self._closed:
            return not_initialized_stats()
        answers, version = self._server_version()
        healthy = "connected" if self.owned else "external_client"
        return {
            "status": healthy if answers else "error",
            "server_version": version,
            "pool_config": pool_config(self.client),
            "connections": self._connections(),
        }

    def _server_version(self) -> tuple[bool, str | None]:
        """Return whether the server answers, and its version, if it tells it."""
        try:
            with pymongo.timeout(answer_timeout(self.client)):
                return True, str(self.client.server_info()["version"])
        except PyMongoError as error:
            if getattr(error, "code", None) == _API_STRICT:
                return True, None
            logger.debug("error=<%s> | the server does not answer", type(error).__name__)
            return False, None

    def _connections(self) -> dict[str, int] | dict[str, None]:
        if self._monitor is None:
            return dict.fromkeys(PoolMonitor().connections())
        return self._monitor.connections()

    def call_each(self, calls: Iterable[Callable[[], Any]]) -> "list[Future[Any]]":
        """Have blocking calls made by the threads; on one of these, which could wait for ever, they are made here."""
        if threading.current_thread().name.startswith(f"{THREAD_NAME}_"):
            return [here(call) for call in calls]
        return [self.executor.submit(call) for call in calls]

    def _check_open(self) -> None:
        if self._closed:
            raise _ClientClosedError

    def _forget(self, user: object) -> _Use | None:
        use = self._users.pop(id(user), None)
        if use is not None:
            use.finalizer.detach()
        return use

    def _has_owner(self) -> bool:
        # A copy, since a user may be collected at any moment, also in this thread.
        return any(use.owner for use in self._users.copy().values())

    def _collected(self, key: int) -> None:
        """Remove a user that was collected.

        This may run in any thread at any time, also in a thread that holds a lock of this library, of ``threading`` or
        of pymongo. So it takes no lock, and closes in a thread that it starts without one.
        """
        self._users.pop(key, None)
        if not self._users:
            in_background(self._close_if_unused)

    def _close_if_unused(self) -> None:
        with self._lock:
            finish = self._end() if not self._users else None
        if finish:
            finish()

    def _end(self, timeout: float = CLOSE_TIMEOUT) -> Callable[[], None]:
        """Decide under the lock to close; the caller then calls the returned function without the lock."""
        executor, self._executor = self._executor, None
        closes_client = self.owned and not self._closed
        self._closed = self.owned
        finish = partial(self._finish, executor, closes_client, timeout)
        if getattr(_current_thread, "token", None) is self._thread_token:
            return partial(in_background, finish)  # a thread cannot wait for itself
        return finish

    def _finish(self, executor: ThreadPoolExecutor | None, closes_client: bool, timeout: float) -> None:
        if executor is not None:
            _drain(executor, timeout)
        if closes_client:
            with pymongo.timeout(answer_timeout(self.client)):  # closing tells the server which driver sessions end
                self.client.close()

    @classmethod
    def begin_all_anew(cls) -> None:
        """Begin anew in a forked child, whose parent keeps the threads and the figures."""
        cls._registry_lock = threading.Lock()
        for handle in list(cls._registry.values()):
            handle.begin_anew()

    def begin_anew(self) -> None:
        self._reset()
        if self._monitor is not None:
            self._monitor.reset()


_current_thread = threading.local()


def _enter_thread(token: object) -> None:
    """Mark a thread of an executor, by a token that does not keep the executor alive."""
    _current_thread.token = token


def _drain(executor: ThreadPoolExecutor, timeout: float) -> None:
    """Finish queued work; after the timeout, cancel what has not begun and leave running work to its own timeouts."""
    if sys.is_finalizing():  # a thread would never begin, and no work is left
        return
    try:
        waiter = threading.Thread(target=executor.shutdown, daemon=True)
        waiter.start()
        waiter.join(timeout)
    except RuntimeError as error:  # the interpreter is ending and starts no threads; it has waited for these
        logger.debug("error=<%s> | the interpreter is ending, no work is left", error)
    executor.shutdown(wait=False, cancel_futures=True)


def in_background(work: Callable[[], None]) -> None:
    """Run in a new thread; unlike threading.Thread, this takes no lock and does not wait for the thread to begin."""
    try:
        _thread.start_new_thread(work, ())
    except RuntimeError as error:
        logger.debug("error=<%s> | no thread to close in, the process is ending", error)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=ClientHandle.begin_all_anew)
