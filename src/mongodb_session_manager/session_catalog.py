"""How sessions are looked at and handled across a collection: each method one line into a store."""

import functools
from collections.abc import Callable, Coroutine
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from pymongo import MongoClient, ReadPreference

from ._client.handle import CLOSE_TIMEOUT, ClientHandle
from ._client.not_copied import NotCopied
from ._client.off_loop import run_in_thread, run_off_loop
from ._client.options import check_client_arguments
from ._schema.given import check_names
from ._stores.catalog import CatalogStores
from ._stores.operation import ClientUse
from ._stores.reading import ReadSettings

if TYPE_CHECKING:
    from typing_extensions import Self

    from .types import SessionFilter

__all__ = ["ReadOnlyCatalog", "SessionCatalog"]

_Catalog = TypeVar("_Catalog", bound="ReadOnlyCatalog")
_Args = ParamSpec("_Args")
_T = TypeVar("_T")


def _twin(
    method: "Callable[Concatenate[_Catalog, _Args], _T]",
) -> "Callable[Concatenate[_Catalog, _Args], Coroutine[Any, Any, _T]]":
    """Return the method that does the same on the client's threads."""

    async def twin(self: _Catalog, /, *args: _Args.args, **kwargs: _Args.kwargs) -> _T:
        call = functools.partial(method, self, *args, **kwargs)
        result: _T = await run_off_loop(self._stores.handle.executor, call)
        return result

    functools.update_wrapper(twin, method)
    twin.__name__ = f"a{method.__name__}"
    twin.__qualname__ = f"{method.__qualname__.rpartition('.')[0]}.{twin.__name__}"
    twin.__doc__ = f"Do what ``{method.__name__}`` does, off the event loop."
    return twin


class ReadOnlyCatalog(NotCopied):
    """Reads the sessions of a collection that are in a scope; ``SessionCatalog.within()`` makes it.

    Every method adds the scope to its own conditions. A session outside of it counts as missing.

    Methods whose names begin with ``a`` do the same off the event loop.
    """

    _instead = "Make another catalog from the same arguments; client= shares the connections within a process."
    _stores: CatalogStores

    def __init__(self, _stores: CatalogStores) -> None:
        self._stores = _stores

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._stores.namespace!r}, {self._stores.handle.state})"

    # Scopes

    def within(self, filter: "SessionFilter") -> "ReadOnlyCatalog":
        """Return a catalog that only reads, and only the sessions for which a filter holds.

        It uses the same client. A scope is as safe as the fields that it names: metadata that a model's tool may
        write is no basis for one.

        Args:
            filter: The scope; without a condition it must say ``everything=True``.

        Raises:
            TypeError: A field of the filter has a wrong type.
            ValueError: The filter has no condition, or one that is not valid here.
        """
        return ReadOnlyCatalog(self._stores.within(filter))


class SessionCatalog(ReadOnlyCatalog):
    """Lists, reads and handles the sessions of a collection. It opens no session, and makes no index unasked.

    Its reading methods need a database user who may ``find``, and no more. It needs a MongoDB server of version 4.4 or
    later; mongomock does not run its aggregations. The constructor performs no I/O. Making several is cheap with
    ``client=``, or with a factory's ``sessions``. It is a context manager, in two forms.

    Methods whose names begin with ``a`` do the same off the event loop.

    Args:
        connection_string: A MongoDB URI; ignored when ``client`` is given.
        database_name: The database; by default the one that the URI (or the client's URI) names, else
            ``"database_name"``.
        collection_name: The collection; ``"agent_sessions"`` by default.
        client: A client to borrow; the catalog never closes it.
        read_preference: Where to read. A secondary may not know the latest writes.
        max_time: How long the server may work for one operation.
        **client_options: Options for the ``MongoClient`` made from ``connection_string``; pymongo validates them.

    Raises:
        TypeError: Client options were given together with ``client``, the client is not a ``MongoClient``, or another
            argument has a wrong type.
        ValueError: Neither ``connection_string`` nor ``client`` was given, the write concern is ``w=0``, or
            ``max_time`` is shorter than a millisecond.
    """

    def __init__(
        self,
        connection_string: str | None = None,
        database_name: str | None = None,
        collection_name: str | None = None,
        client: "MongoClient[dict[str, Any]] | None" = None,
        *,
        read_preference: Any = ReadPreference.PRIMARY,
        max_time: timedelta = timedelta(seconds=30),
        **client_options: Any,
    ) -> None:
        check_names(database_name, collection_name, None)
        check_client_arguments(connection_string, client, client_options)
        settings = ReadSettings.of(read_preference, max_time)
        if client is None:
            handle = ClientHandle.open(connection_string or "", **client_options)
        else:
            handle = ClientHandle.of(client)
        use = ClientUse(handle, owner=client is None)
        super().__init__(CatalogStores.open(use, database_name, collection_name, settings))

    def close(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Release the client; one that was made from a connection string is closed. Idempotent.

        Args:
            timeout: Seconds to wait at most for queued work.
        """
        self._stores.handle.release(self._stores.use, timeout=timeout)

    async def aclose(self) -> None:
        """Do what ``close`` does, off the event loop."""
        await run_in_thread(self.close)

    def __enter__(self) -> "Self":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> "Self":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()
