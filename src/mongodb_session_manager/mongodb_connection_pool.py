"""The client that a process shares, and its owners."""

import threading
import weakref
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pymongo.errors import InvalidOperation

from ._client.handle import ClientHandle
from ._client.monitor import not_initialized_stats
from ._client.not_copied import NotCopied
from ._client.options import Client, check_client_arguments, client_options

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .types import ClientOptions

__all__ = ["MongoDBConnectionPool"]


class MongoDBConnectionPool(NotCopied):
    """The one MongoClient that a process shares, with its pool of connections.

    ``MongoDBConnectionPool()`` is always the same object. Factories that are made with the same
    arguments use its client too. After a fork the child goes on with the same client, whose connections pymongo
    makes anew.
    """

    _instead = "Call initialize() in the other process; within one process, the client is shared."
    _lock = threading.Lock()
    _instance: ClassVar["MongoDBConnectionPool | None"] = None
    _slot: "_Slot | None" = None
    _made: ClassVar["weakref.WeakKeyDictionary[ClientHandle, _Arguments]"] = weakref.WeakKeyDictionary()

    def __new__(cls) -> "MongoDBConnectionPool":
        """Return the one pool."""
        with cls._lock:
            if cls._instance is None:
                cls._instance = super().__new__(cls)
            return cls._instance

    def __repr__(self) -> str:
        return f"MongoDBConnectionPool({'not initialized' if self.get_client() is None else 'open'})"

    @classmethod
    def initialize(cls, connection_string: str, **kwargs: "Unpack[ClientOptions]") -> Client:
        """Make the shared client, or return the one that was made with the same arguments.

        Other arguments replace it: session managers and factories that use the former client keep it, and it closes
        with the last of them. Without users, it closes now.

        Args:
            connection_string: A ``mongodb://`` or ``mongodb+srv://`` address. The options in it win over the defaults.
            **kwargs: Options for MongoClient, which win over both. Milliseconds where the name ends in ``MS``.

        Returns:
            The client, which connects in the background.

        Raises:
            ValueError: The connection string is empty, or asks for ``w=0``.
            pymongo.errors.ConfigurationError: pymongo does not know an option.
        """
        check_client_arguments(connection_string, None, kwargs)
        holder = _Holder()
        handle = cls._use(holder, _Arguments(connection_string, dict(kwargs)))
        with cls._lock:
            previous, cls._slot = cls._slot, _Slot(handle, holder)
        if previous is not None:
            previous.give_way_to(handle)
        return handle.client

    @classmethod
    def get_client(cls) -> Client | None:
        """Return the shared client; None before ``initialize()`` and after ``close()``.

        A factory made from a connection string also puts its client here, unless ``initialize()`` was called.
        """
        slot = cls._slot
        return None if slot is None or slot.handle.closed else slot.handle.client

    @classmethod
    def close(cls) -> None:
        """Close the shared client now, also for its users; idempotent.

        It waits for queued work, for at most 10 s.
        """
        with cls._lock:
            slot, cls._slot = cls._slot, None
        if slot is not None:
            slot.handle.close()

    @classmethod
    def get_pool_stats(cls) -> dict[str, Any]:
        """Ask the server for its state, for at most 5 s, and count the connections; nothing returned is secret.

        Returns:
            ``status`` (``connected``, ``error`` when the server does not answer, ``not_initialized``),
            ``server_version``, ``pool_config`` (milliseconds; None for no limit) and ``connections`` (``created``,
            ``closed``, ``open``, ``in_use``, ``waiting``, ``checkout_failures``).
        """
        slot = cls._slot
        return not_initialized_stats() if slot is None else slot.handle.stats()

    @classmethod
    def _share(cls, factory: object, connection_string: str, options: dict[str, Any]) -> ClientHandle:
        """Make a factory an owner of the client for these arguments; the last owner that releases it closes it."""
        handle = cls._use(factory, _Arguments(connection_string, options))
        with cls._lock:
            if cls._slot is None or cls._slot.holder is None or cls._slot.handle.closed:
                cls._slot = _Slot(handle, None)
        return handle

    @classmethod
    def _use(cls, owner: object, arguments: "_Arguments") -> ClientHandle:
        with cls._lock:
            handle = cls._find(owner, arguments)
        if handle is not None:
            return handle
        made = arguments.open()  # may ask the DNS, so outside of the lock; another thread may be first
        with cls._lock:
            handle = cls._find(owner, arguments)
            if handle is None:
                made.acquire(owner, owner=True)
                cls._made[made] = arguments
                return made
        made.close()
        return handle

    @classmethod
    def _find(cls, owner: object, arguments: "_Arguments") -> ClientHandle | None:
        for handle, made_from in cls._made.items():
            if made_from == arguments:
                with suppress(InvalidOperation):  # it has been closed
                    handle.acquire(owner, owner=True)
                    return handle
        return None


class _Arguments:
    """The arguments of a client. They hold credentials: keep them out of every repr, log and error."""

    def __init__(self, connection_string: str, options: dict[str, Any]) -> None:
        self._connection_string, self._options = connection_string, options
        effective = client_options(connection_string, options)
        self._effective = {name.lower(): value for name, value in effective.items()}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Arguments):
            return NotImplemented
        return (self._connection_string, self._effective) == (other._connection_string, other._effective)

    __hash__ = None  # type: ignore[assignment]

    def open(self) -> ClientHandle:
        return ClientHandle.open(self._connection_string, **self._options)


class _Holder:
    """The pool as a user of a client; each ``initialize()`` makes a new one, so that two at once do not mix."""


@dataclass(frozen=True)
class _Slot:
    """The shared client; ``holder`` is None if a factory put the client here, and closes it."""

    handle: ClientHandle
    holder: _Holder | None

    def give_way_to(self, handle: ClientHandle) -> None:
        if self.holder is None:
            return
        if self.handle is handle:
            self.handle.release(self.holder)
        else:
            self.handle.abandon(self.holder)
