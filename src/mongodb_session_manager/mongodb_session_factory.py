"""Where the pieces are put together, and the global slot."""

import asyncio
import logging
import threading
import time
import weakref
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import asynccontextmanager
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, cast

from pymongo.errors import InvalidOperation

from ._client.handle import ClientHandle
from ._client.monitor import not_initialized_stats
from ._client.not_copied import NotCopied
from ._client.off_loop import Steps, go_through, go_through_off_loop
from ._client.options import Client, check_client_arguments
from ._client.spelling import OPTIONS, spelling_hint
from ._schema.given import check_names
from ._schema.ids import check_id
from ._schema.lease import Lease
from ._schema.limits import LIMITS, Limits
from ._schema.sessions import OpenedDoc
from ._session.arguments import NotAsynchronous, check_agent_ids, with_new_spellings
from ._session.deliveries import Deliveries
from ._session.openings import Opening, OpeningLine, SharedReads
from ._session.sweeps import Sweeps
from ._stores.opening import read_sessions
from ._stores.operation import namespace_of, open_collections
from .errors import FactoryNotInitializedError, MongoDBSessionError, SessionLockedError
from .mongodb_connection_pool import MongoDBConnectionPool
from .mongodb_session_manager import MongoDBSessionManager, check_defaults
from .session_catalog import SessionCatalog

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .types import FactoryOptions, SessionOverrides

__all__ = [
    "MongoDBSessionManagerFactory",
    "close_global_factory",
    "get_global_factory",
    "initialize_global_factory",
]

logger = logging.getLogger(__name__)

_LEASE_ARGUMENTS: Final = ("exclusive", "lease_timeout", "lease_duration")

_CLOSING_THREADS: Final = 32


class _FactoryEndedError(MongoDBSessionError, RuntimeError):
    """The factory makes no more managers."""


class MongoDBSessionManagerFactory(NotCopied, NotAsynchronous):
    """Makes session managers that share one client.

    A client made from ``connection_string`` is the one of ``MongoDBConnectionPool`` and of every other factory with
    the same arguments; it closes when the last of these factories closes. The factory is a context manager.

    Args:
        connection_string: A MongoDB URI; ignored when ``client`` is given.
        database_name: The database; by default the one that the URI (or the client's URI) names, else
            ``"database_name"``.
        collection_name: The collection; ``"agent_sessions"`` by default.
        client: A client to borrow; it is never closed here.
        metadata_fields: Metadata fields to index.
        application_name: Written into sessions when they are created.
        **arguments: What else ``MongoDBSessionManager`` takes (``metadata_hook``, ``feedback_hook``, ``durability``,
            ``on_error``, ``exclusive`` and so on), as a default for the managers; anything else is an option for the
            ``MongoClient`` made from ``connection_string``, which pymongo validates.

    Raises:
        ConfigurationError: pymongo does not know an option.
        TypeError: Client options were given beside ``client``.
        ValueError: Neither ``connection_string`` nor ``client`` was given.
    """

    _instead = "Make a factory in each process; within one, pass it on or call get_global_factory()."
    _instead_of_async = "Call close() off the event loop; what a request takes is 'async with factory.session(…)'."

    def __init__(
        self,
        connection_string: str | None = None,
        database_name: str | None = None,
        collection_name: str | None = None,
        client: Client | None = None,
        metadata_fields: Sequence[str] | None = None,
        application_name: str | None = None,
        *,
        _limits: Limits = LIMITS,
        **arguments: "Unpack[FactoryOptions]",
    ) -> None:
        self._limits = _limits
        given = with_new_spellings(arguments)
        client_kwargs = {name: value for name, value in given.items() if name not in OPTIONS}
        self._defaults: dict[str, Any] = {
            "database_name": database_name,
            "collection_name": collection_name,
            "metadata_fields": metadata_fields,
            "application_name": application_name,
            **{name: value for name, value in given.items() if name in OPTIONS},
        }
        check_defaults(self._defaults)
        self._lock = threading.Lock()
        self._managers: weakref.WeakSet[MongoDBSessionManager] = weakref.WeakSet()
        # Requests that are about to end, and what they left to the client's threads.
        self._left: set[Future[None]] = set()
        self._deliveries = Deliveries()
        # By what is read; a line is there as long as openings wait in it.
        self._lines: weakref.WeakValueDictionary[tuple[Any, ...], OpeningLine] = weakref.WeakValueDictionary()
        self._ended: str | None = None
        check_client_arguments(connection_string, client, client_kwargs)
        if client is None:
            self._handle = MongoDBConnectionPool._share(self, cast(str, connection_string), client_kwargs)
        else:
            self._handle = ClientHandle.of(client)
            self._handle.acquire(self, owner=True)
        self._shared_reads = SharedReads(self._handle.shortest_timeout, _limits)
        self._sweeps = Sweeps(self._handle, self._left, _limits)

    def __repr__(self) -> str:
        if "_handle" not in vars(self):  # in the traceback of a constructor that failed
            return "MongoDBSessionManagerFactory(not open)"
        state = self._handle.state if self._ended is None else self._ended
        namespace = namespace_of(
            self._handle.client, self._defaults["database_name"], self._defaults["collection_name"]
        )
        return f"MongoDBSessionManagerFactory({namespace!r}, {state})"

    @property
    def sessions(self) -> SessionCatalog:
        """The catalog of the sessions in the factory's collection, on the factory's client.

        Raises:
            MongoDBSessionError: The factory has been closed or replaced; it is a RuntimeError too.
        """
        self._check_open()
        names = self._defaults["database_name"], self._defaults["collection_name"]
        return SessionCatalog(None, *names, client=self._handle.client)

    def create_session_manager(self, session_id: str, **overrides: "Unpack[SessionOverrides]") -> MongoDBSessionManager:
        """Make a manager for one session, on the factory's client.

        Args:
            session_id: Any string of 1 to 1,024 bytes in UTF-8 without NUL.
            **overrides: Arguments of ``MongoDBSessionManager`` that do not concern the client, for this manager
                only. None leaves the factory's own.

        Raises:
            MongoDBSessionError: The factory has been closed or replaced; it is a RuntimeError too.
            SessionLockedError: Another manager was the session's only writer for all of ``lease_timeout``.
            SessionNotFoundError: The session is not there, and ``create`` is False.
            TypeError: There is no such argument.
            ValueError: ``session_id`` is not fit.
        """
        return self._make(session_id, self._arguments(with_new_spellings(overrides)))

    def _make(
        self, session_id: str, arguments: dict[str, Any], agent_ids: Sequence[str] = (), found: OpenedDoc | None = None
    ) -> MongoDBSessionManager:
        self._check_open()
        try:
            arguments = {**arguments, "_agent_ids": agent_ids, "_found": found, "_limits": self._limits}
            manager = MongoDBSessionManager(session_id, client=self._handle.client, **arguments)
        except InvalidOperation:
            self._check_open()  # closed meanwhile: that is what the caller should read
            raise
        self._keep(manager)
        if arguments.get("ttl") is not None:
            names = arguments.get("database_name"), arguments.get("collection_name")
            self._sweeps.include(open_collections(self._handle, *names))
        return manager

    def _arguments(self, overrides: dict[str, Any]) -> dict[str, Any]:
        _check_overrides(overrides)
        given = {name: value for name, value in overrides.items() if value is not None}
        return {name: value for name, value in self._defaults.items() if value is not None} | given

    @asynccontextmanager
    async def session(
        self, session_id: str, agent_ids: Iterable[str] = (), **overrides: "Unpack[SessionOverrides]"
    ) -> AsyncIterator[MongoDBSessionManager]:
        """Give a manager for one request of a web service; all of its I/O is off the event loop.

        Agents that are named in ``agent_ids`` come with the session, so that ``Agent(…)`` inside performs no I/O. At
        the end what is pending is sent and the manager is closed. A window that moved is not waited for, unless the
        manager is ``exclusive``, nor is anything that hooks deliver; ``close()`` of the factory waits for both.

        Args:
            session_id: Any string of 1 to 1,024 bytes in UTF-8 without NUL.
            agent_ids: The agents that will be made.
            **overrides: As for ``create_session_manager``.

        Raises:
            MongoDBSessionError: The factory has been closed or replaced; it is a RuntimeError too.
            SessionLockedError: Another manager was the session's only writer for all of ``lease_timeout``.
            SessionNotFoundError: The session is not there, and ``create`` is False.
            TypeError: There is no such argument, or ``agent_ids`` is a string.
            ValueError: An id is not fit; nothing was sent then.
        """
        self._check_open()
        wanted = check_agent_ids(agent_ids)
        check_id("session_id", session_id)
        manager = await self._opened(session_id, wanted, self._arguments(with_new_spellings(overrides)))
        try:
            yield manager
        finally:
            await go_through_off_loop(self._leaving(manager))

    def _leaving(self, manager: MongoDBSessionManager) -> Steps:
        """End a request; ``close()`` waits for that, and for what is left to the client's threads."""
        ended: Future[None] = Future()
        self._await(ended)
        try:
            yield from manager._leaving(self._await)
        finally:
            ended.set_result(None)

    def _await(self, left: "Future[None]") -> None:
        self._left.add(left)
        left.add_done_callback(self._left.discard)

    async def _opened(
        self, session_id: str, agent_ids: Sequence[str], arguments: dict[str, Any]
    ) -> MongoDBSessionManager:
        """Open a session on the client's threads. Waiting for a lease takes none: its holder needs them to write."""
        lease = Lease.wanted(**{name: arguments[name] for name in _LEASE_ARGUMENTS if name in arguments})
        pauses = lease.pauses() if lease else iter(())
        while True:
            try:
                return await self._open_off_loop(session_id, agent_ids, {**arguments, "lease_timeout": 0.0})
            except SessionLockedError:
                pause = next(pauses, None)
                if pause is None:
                    raise
            await asyncio.sleep(pause)

    async def _open_off_loop(
        self, session_id: str, agent_ids: Sequence[str], arguments: dict[str, Any]
    ) -> MongoDBSessionManager:
        executor = self._handle.executor
        opening = Opening(session_id, partial(self._make, session_id, arguments, agent_ids))
        try:
            if arguments.get("exclusive"):
                opening.begin(executor)
            else:
                self._line(executor, arguments, agent_ids).join(executor, opening)
            return cast(MongoDBSessionManager, await opening.answer)
        except InvalidOperation:
            self._check_open()  # closed meanwhile: that is what the caller should read
            raise
        except GeneratorExit:  # the collector may have come here, in any thread
            opening.give_up(None)
            raise
        except BaseException:
            opening.give_up(executor)
            raise

    def _line(self, executor: Executor, arguments: Mapping[str, Any], agent_ids: Sequence[str]) -> OpeningLine:
        """Return the line of those openings that can be read together."""
        namespace = arguments.get("database_name"), arguments.get("collection_name")
        check_names(*namespace, None)
        # After a fork there are other threads, which a line of the parent's never called.
        key = (executor, namespace, *agent_ids)
        line = self._lines.get(key)
        if line is None:
            read = partial(read_sessions, open_collections(self._handle, *namespace), agent_ids=agent_ids)
            line = self._lines.setdefault(key, OpeningLine(read, self._shared_reads))
        return line

    def get_connection_stats(self) -> dict[str, Any]:
        """Ask the server how it is, for at most 5 s, and count the connections; nothing in it is secret.

        Returns:
            ``status`` (``connected``, ``external_client`` for a borrowed client that answers, ``error`` when the
            server does not answer, ``not_initialized`` when the factory's client is closed), ``server_version``,
            ``pool_config`` (milliseconds; None for no limit) and ``connections`` (``created``, ``closed``, ``open``,
            ``in_use``, ``waiting``, ``checkout_failures``; None each for a borrowed client, whose pool is not counted).
        """
        return self._handle.stats() if self._ended is None else not_initialized_stats()

    def close(self) -> None:
        """Close the factory's managers, which send what is pending, and release the client. Idempotent.

        What the managers' hooks deliver is waited for too. It takes at most 10 seconds until the client is released;
        what was not sent then is told in a warning.
        """
        if not self._end("closed"):
            return
        deadline = time.monotonic() + self._limits.close_timeout
        with self._lock:
            managers = list(self._managers)
        try:
            _close_all(managers, self._limits.close_timeout)
            while (left := list(self._left)) and time.monotonic() < deadline:
                wait(left, deadline - time.monotonic())
            go_through(self._deliveries.waits(deadline))
            self._deliveries.flush_kept(max(0.0, deadline - time.monotonic()))
        finally:
            self._handle.release(self, timeout=max(0.0, deadline - time.monotonic()))

    def __enter__(self) -> "MongoDBSessionManagerFactory":
        self._check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _replace(self) -> None:
        """Make no more managers, and leave the client to those that there are."""
        if self._end("replaced by a second initialize_global_factory()"):
            self._handle.abandon(self)

    def _end(self, how: str) -> bool:
        with self._lock:
            if self._ended is not None:
                return False
            self._ended = how
        self._sweeps.stop()
        return True

    def _check_open(self) -> None:
        if self._ended is not None:
            raise _FactoryEndedError(
                f"This MongoDBSessionManagerFactory has been {self._ended}. Make a new factory, or take the one in "
                "use from get_global_factory()."
            )

    def _keep(self, manager: MongoDBSessionManager) -> None:
        """Remember a new manager for closing, unless the factory was closed while it was made."""
        manager._leave_deliveries_to(self._deliveries)
        with self._lock:
            if self._ended != "closed":
                self._managers.add(manager)
                return
        manager.close()
        self._check_open()


def _check_overrides(overrides: Collection[str]) -> None:
    unknown = sorted(set(overrides).difference(OPTIONS))
    if unknown:
        raise TypeError(
            f"create_session_manager() has no argument {', '.join(unknown)}; whatever concerns the client is an "
            f"argument of the factory. {spelling_hint(unknown)}"
        )


def _close_all(managers: Sequence[MongoDBSessionManager], timeout: float) -> None:
    """Close side by side, so that one that hangs does not take the time of the others."""
    threads = ThreadPoolExecutor(_CLOSING_THREADS, thread_name_prefix="mongodb-session-manager-close")
    try:
        closing = {threads.submit(manager.close): manager.session_id for manager in managers}
    except RuntimeError:  # the interpreter is ending and starts no more threads
        for manager in managers:
            manager.close()
        return
    done, late = wait(closing, timeout)
    for failed in (future for future in done if future.exception()):
        # By its kind only: what a hook's flush() raises may say anything.
        logger.warning(
            "session_id=<%s>, error=<%s> | a manager did not close", closing[failed], type(failed.exception()).__name__
        )
    threads.shutdown(wait=not late, cancel_futures=True)
    if late:
        logger.warning("managers=<%d>, seconds=<%s> | closed with managers that were not done", len(late), timeout)


_global_lock = threading.Lock()
_global_factory: MongoDBSessionManagerFactory | None = None


def initialize_global_factory(
    connection_string: str | None = None,
    database_name: str | None = None,
    collection_name: str | None = None,
    client: Client | None = None,
    metadata_fields: Sequence[str] | None = None,
    application_name: str | None = None,
    **arguments: "Unpack[FactoryOptions]",
) -> MongoDBSessionManagerFactory:
    """Make the factory that ``get_global_factory()`` gives; the arguments are those of the factory.

    A second call replaces the first: the former factory makes no more managers, those that it made go on, and its
    client closes with the last of them. When the new factory cannot be made, the former stays.
    """
    global _global_factory
    given = with_new_spellings(arguments)
    factory = MongoDBSessionManagerFactory(
        connection_string, database_name, collection_name, client, metadata_fields, application_name, **given
    )
    with _global_lock:
        previous, _global_factory = _global_factory, factory
    if previous is not None:
        previous._replace()
    return factory


def get_global_factory() -> MongoDBSessionManagerFactory:
    """Return the global factory; it may be called from any thread.

    Raises:
        FactoryNotInitializedError: There is none, or it has been closed.
    """
    factory = _global_factory
    if factory is None or factory._ended is not None:
        raise FactoryNotInitializedError
    return factory


def close_global_factory() -> None:
    """Close the global factory, if there is one, as its ``close()`` does. Idempotent."""
    global _global_factory
    with _global_lock:
        factory, _global_factory = _global_factory, None
    if factory is not None:
        factory.close()
