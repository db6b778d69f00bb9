"""How sessions are looked at and handled across a collection: each method one line into a store."""

import functools
import itertools
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypeAlias, TypeVar

from pymongo import MongoClient, ReadPreference

from ._client.handle import CLOSE_TIMEOUT, ClientHandle
from ._client.not_copied import NotCopied
from ._client.off_loop import run_in_thread, run_off_loop
from ._client.options import check_client_arguments
from ._schema.given import check_names
from ._stores.catalog import CatalogStores
from ._stores.operation import ClientUse
from ._stores.reading import ReadSettings
from .types import (
    DeletionReceipt,
    DeletionReport,
    FeedbackEntry,
    Finding,
    IndexReport,
    Page,
    Part,
    SessionDetails,
    SessionFilter,
    SessionSort,
    SessionSummary,
    SweepReport,
    Transcript,
    UpgradeReport,
    UsageKey,
    UsageRow,
)

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ReadOnlyCatalog", "SessionCatalog"]

_Catalog = TypeVar("_Catalog", bound="ReadOnlyCatalog")
_Args = ParamSpec("_Args")
_T = TypeVar("_T")

# In the class, ``list`` is its method.
_UsageRows: TypeAlias = list[UsageRow]
_Findings: TypeAlias = list[Finding]
_BY: tuple[UsageKey, ...] = ("application_name",)
_EVERY = SessionFilter()


def _twin(
    method: "Callable[Concatenate[_Catalog, _Args], _T]",
) -> "Callable[Concatenate[_Catalog, _Args], Coroutine[Any, Any, _T]]":
    """Return the method that does the same on the client's threads."""

    async def twin(self: _Catalog, /, *args: _Args.args, **kwargs: _Args.kwargs) -> _T:
        call = functools.partial(method, self, *args, **kwargs)
        return await self._off_loop(call)

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

    # Lists

    def list(
        self,
        filter: SessionFilter = _EVERY,
        *,
        sort: SessionSort = "-updated_at",
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[SessionSummary]:
        """Return a page of the living sessions for which a filter holds.

        Sorted by ``session_id`` or ``created_at``, a session that exists the whole time comes exactly once, whatever
        is written meanwhile. Sorted by ``updated_at``, it comes at most once: descending, a session that is written
        meanwhile moves to an earlier page; ascending, the list ends at the time of its first page. A session whose
        time is not a date (the first version could store text) comes by ``session_id`` only; ``check()`` counts these.

        Args:
            filter: Which sessions; all by default. With a ``text``, a call looks through at most 2,000 sessions of 64
                MiB together, and for as long as ``max_time`` allows: a page may have fewer items than ``limit``, or
                none, and still a ``next_cursor``. It searches the text blocks of the messages in the session
                documents; it does not find what is in segments, in files or beside lone surrogates.
            sort: The order. Equal times are ordered by the session id.
            limit: Items at most, up to 1,000; 0 for none.
            cursor: ``next_cursor`` of the page before, of the same list. The times of the filter may differ.

        Raises:
            InvalidCursorError: The cursor is not one of this list.
            TypeError: An argument has a wrong type; nothing was sent.
            ValueError: An argument has a value that is not valid; nothing was sent.
        """
        return self._stores.lists.page(filter, sort, limit, cursor)

    def iterate(self, filter: SessionFilter = _EVERY, *, batch: int = 500) -> Iterator[SessionSummary]:
        """Return an iterator over the living sessions for which a filter holds, by session id.

        It keeps nothing open on the server between two batches, so it may take any time.

        Args:
            filter: Which sessions; all by default.
            batch: Sessions in one operation, 1 to 1,000.

        Raises:
            TypeError: An argument has a wrong type; nothing was sent.
            ValueError: An argument has a value that is not valid; nothing was sent.
        """
        return itertools.chain.from_iterable(self._stores.lists.batches(filter, batch))

    def count(self, filter: SessionFilter = _EVERY, *, at_most: int = 10_000) -> int:
        """Return the number of living sessions for which a filter holds.

        Args:
            filter: Which sessions; all by default.
            at_most: Where counting stops; never more is returned.

        Raises:
            TypeError: An argument has a wrong type; nothing was sent.
            ValueError: An argument has a value that is not valid, or the filter has a ``text``; nothing was sent.
        """
        return self._stores.lists.count(filter, at_most)

    def get(self, session_id: str) -> SessionDetails:
        """Return the summary of a session, with the size of its segments and files, and more.

        Raises:
            SessionNotFoundError: There is no such session, it has expired, or it is out of scope.
            TypeError: ``session_id`` is not a string.
            ValueError: ``session_id`` is not valid.
        """
        return self._stores.lists.get(session_id)

    # Contents

    def transcript(
        self, session_id: str, agent_id: str, *, limit: int = 50, before: int | None = None, max_bytes: int = 2**20
    ) -> Transcript:
        """Return a page of an agent's history: the latest messages, in order of time.

        A content block of more than 32 KiB, and one that is stored as a file, is a ``PartMark`` in it.

        Args:
            session_id: The session.
            agent_id: The agent.
            limit: Messages at most, up to 1,000; 0 for none.
            before: Only messages before the one with this id; ``before`` of the page that came last.
            max_bytes: The size of the page, at most 8 MiB. It has at least one message; one that is larger by itself
                has a ``PartMark`` for all of its content.

        Raises:
            AgentNotFoundError: The session holds no such agent.
            MongoDBSessionError: A segment that the agent refers to is missing.
            SessionNotFoundError: There is no such session, it has expired, or it is out of scope.
            TypeError: An argument has a wrong type.
            ValueError: An argument has a value that is not valid.
        """
        return self._stores.transcripts.page(session_id, agent_id, limit, before, max_bytes)

    def part(self, session_id: str, agent_id: str, message_id: int, n: int) -> Part:
        """Return one content block of a message, whole.

        Args:
            session_id: The session.
            agent_id: The agent.
            message_id: The message.
            n: The number of the block, from 0.

        Raises:
            AgentNotFoundError: The session holds no such agent.
            MessageNotFoundError: The agent holds no such message.
            MongoDBSessionError: The block is in a file that is missing or damaged.
            SessionNotFoundError: There is no such session, it has expired, or it is out of scope.
            TypeError: An argument has a wrong type.
            ValueError: The message has no such block, or an argument has a value that is not valid.
        """
        return self._stores.transcripts.part(session_id, agent_id, message_id, n)

    def feedback(
        self,
        filter: SessionFilter = _EVERY,
        *,
        rating: Literal["up", "down", "other"] | None = None,
        since: datetime | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[FeedbackEntry]:
        """Return a page of the feedback of living sessions, newest first, with the turns that it is about.

        It looks at all feedback of the sessions for which the filter holds, since feedback is no document of its own.

        Args:
            filter: Of which sessions; all by default.
            rating: Only this rating; ``"other"`` is another one, or none.
            since: Only feedback of this time or later; with a time zone.
            limit: Entries at most, up to 1,000; 0 for none.
            cursor: ``next_cursor`` of the page before, of the same list.

        Raises:
            InvalidCursorError: The cursor is not one of this list.
            TypeError: An argument has a wrong type; nothing was sent.
            ValueError: An argument has a value that is not valid, or the filter has a ``text``; nothing was sent.
        """
        return self._stores.feedback.page(filter, rating, since, limit, cursor)

    def usage(
        self,
        filter: SessionFilter = _EVERY,
        *,
        by: Collection[UsageKey] = _BY,
        since: date | None = None,
        until: date | None = None,
    ) -> _UsageRows:
        """Return the usage of models in living sessions, a row for each combination of keys, in their order.

        Calls whose time or model was not recorded have None as day, month or model; with a bound, calls without a time
        are left out.

        Args:
            filter: Of which sessions; all by default.
            by: What the rows are made by: some of ``"application_name"``, ``"agent_id"``, ``"model"``, ``"day"``,
                ``"month"`` and ``"session_id"``; with none of them, there is one row.
            since: The first day, in UTC; a datetime must be at midnight.
            until: The day after the last one, in UTC; a datetime must be at midnight.

        Raises:
            TypeError: An argument has a wrong type; nothing was sent.
            ValueError: An argument has a value that is not valid, or the filter has a ``text``; nothing was sent.
        """
        return self._stores.reports.usage(filter, by, since, until)

    def check(self) -> _Findings:
        """Return what the collection holds that lists cannot show, which indexes are missing, and what is not seen.

        It reads the whole collection.
        """
        return self._stores.checks.check()

    # On the client's threads

    atranscript, apart, afeedback, ausage = _twin(transcript), _twin(part), _twin(feedback), _twin(usage)
    alist, acount, aget = _twin(list), _twin(count), _twin(get)  # noqa: A003 - the method is meant

    def aiterate(self, filter: SessionFilter = _EVERY, *, batch: int = 500) -> AsyncIterator[SessionSummary]:
        """Do what ``iterate`` does, off the event loop."""
        return self._each(self._stores.lists.batches(filter, batch))

    async def _each(self, batches: Iterator[Sequence[SessionSummary]]) -> AsyncIterator[SessionSummary]:
        while (batch := await self._off_loop(functools.partial(next, batches, None))) is not None:
            for session in batch:
                yield session

    acheck = _twin(check)

    async def _off_loop(self, call: Callable[[], _T]) -> _T:
        result: _T = await run_off_loop(self._stores.handle.executor, call)
        return result

    # Scopes

    def within(self, filter: SessionFilter) -> "ReadOnlyCatalog":
        """Return a catalog that only reads, and only the sessions for which a filter holds.

        It uses the same client. A scope is as safe as the fields that it names: do not use metadata that a model's
        tool may write.

        Args:
            filter: The scope; without a condition it must say ``everything=True``.

        Raises:
            TypeError: A field of the filter has a wrong type.
            ValueError: The filter has no condition, or one that is not valid here.
        """
        return ReadOnlyCatalog(self._stores.within(filter))


class SessionCatalog(ReadOnlyCatalog):
    """Lists, reads, forks and deletes the sessions of a collection. It opens no session, and makes no index unasked.

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
        max_time: How long the server may work for one operation of a reading method.
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

    # Deletions

    def delete(self, session_id: str, *, even_held: bool = False) -> DeletionReceipt:
        """Delete a session with everything that belongs to it; what is left of an earlier one is removed too.

        A manager that has the session open raises ``SessionNotFoundError`` with its next write, and brings nothing
        back. The receipt holds no content. A deletion does not reach the server's journal, oplog and backups, forks of
        the session, and what hooks have sent.

        Args:
            session_id: The session.
            even_held: Whether it is deleted also if it is held.

        Returns:
            What was deleted; ``deleted`` is False if there was no such session.

        Raises:
            SessionHeldError: It is held, and ``even_held`` is False; nothing was deleted.
            TypeError: An argument has a wrong type.
            ValueError: ``session_id`` is not valid.
        """
        return self._stores.deletions.delete(session_id, even_held=even_held)

    def delete_many(
        self,
        filter: SessionFilter,
        *,
        dry_run: bool = False,
        at_most: int | None = None,
        on_progress: "Callable[[DeletionReport], object] | None" = None,
    ) -> DeletionReport:
        """Delete the sessions for which a filter holds, with everything that belongs to them.

        Held sessions are left out. A session for which the filter does not hold any more when its turn comes stays.
        If a batch fails, the deletion goes on with the next; the third that fails ends it. ``errors`` names the
        sessions of failed batches, and a sweep removes what was left halfway.

        Args:
            filter: Which sessions; without a condition it must say ``everything=True``.
            dry_run: Whether they are only counted.
            at_most: If more sessions match, none is deleted.
            on_progress: Is called after each batch of 500 with what is done by then. What it raises ends the
                deletion; what was deleted before is gone.

        Raises:
            TypeError: An argument has a wrong type.
            ValueError: The filter has no condition or a ``text``, or more sessions match than ``at_most``.
        """
        return self._stores.many_deletions.delete(filter, dry_run=dry_run, at_most=at_most, on_progress=on_progress)

    # Lifetimes

    def hold(self, session_id: str) -> None:
        """Keep a session: until it is released it does not expire, and only ``even_held=True`` deletes it.

        Raises:
            SessionNotFoundError: There is no such session, or it has expired.
            TypeError: ``session_id`` is not a string.
            ValueError: ``session_id`` is not valid.
        """
        self._stores.lifetimes.hold(session_id)

    def release(self, session_id: str) -> None:
        """End the hold of a session. One with a ttl expires that long from now, unless it is written before.

        Raises:
            SessionNotFoundError: There is no such session.
            TypeError: ``session_id`` is not a string.
            ValueError: ``session_id`` is not valid.
        """
        self._stores.lifetimes.release(session_id)

    def set_ttl(self, sessions: "str | SessionFilter", ttl: timedelta | None) -> int:
        """Give sessions another ttl, longer or shorter, which counts from now and from each later write.

        Held sessions are left out. Managers with a longer ``ttl`` of their own give it to the session again with the
        next opening. A manager that is open learns of the new ttl within an hour.

        Args:
            sessions: A session id, or a filter; without a condition it must say ``everything=True``.
            ttl: 1 minute to 100 years; None: they live until they are deleted.

        Returns:
            The number of sessions.

        Raises:
            SessionNotFoundError: There is no session with this id, or it has expired.
            TypeError: An argument has a wrong type.
            ValueError: ``ttl`` is out of range, or the id or the filter is not valid.
        """
        return self._stores.lifetimes.set_ttl(sessions, ttl)

    def sweep(self, *, older_than: timedelta = timedelta(hours=1)) -> SweepReport:
        """Remove sessions that have expired and that the server has not removed, and what belongs to no session.

        Factories with a ``ttl`` do this every 15 minutes. It is also safe while sessions are written.

        Args:
            older_than: The age of segments and files without a session that are removed. A fork writes its own before
                its session, so this must be longer than a fork takes.

        Raises:
            TypeError: ``older_than`` is not a ``timedelta``.
            ValueError: It is negative, or longer than 100 years.
        """
        return self._stores.sweeper.sweep(older_than)

    def fork(
        self,
        session_id: str,
        new_session_id: str | None = None,
        *,
        at: int | Mapping[str, int] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> SessionSummary:
        """Copy a session, up to the end of a turn, into a new one that goes on by itself.

        An agent is cut at a message: with it if it is an answer that ends a turn, before it if it is a user's message
        that begins one (so that it can be edited and sent again). Without a place each agent is copied up to its last
        complete turn. At a cut the agent's state stays as it is at the end; interrupts, the state on the model's side,
        a summary and the live set begin anew. Graphs and Swarms are copied with whole histories only. The metadata and
        the ttl are copied; feedback, notifications, a lease and a hold are not.

        Args:
            session_id: The session.
            new_session_id: The id of the fork; a random one by default.
            at: The id of a message, or such ids by agent; agents that are not named are then copied whole. With
                several agents it must name one.
            metadata: Metadata fields to set in the fork; the others are those of the session. A dotted key reaches
                into a nested field.

        Raises:
            MongoDBSessionError: Something that it refers to is missing or not BSON, or its document is full.
            SessionConflictError: There is a session with the new id, or the session was written again and again.
            SessionNotFoundError: There is no such session, or it has expired.
            SchemaVersionError: A newer version of this library wrote it.
            TypeError: An argument has a wrong type.
            UnstorableValueError: The metadata hold something that would not come back equal.
            ValueError: No turn ends or begins at the message (the error names the nearest places), the session holds
                no such agent, or an id is not valid.
        """
        return self._stores.forks.fork(session_id, new_session_id, at, metadata)

    afork = _twin(fork)
    adelete, adelete_many, asweep = _twin(delete), _twin(delete_many), _twin(sweep)
    ahold, arelease, aset_ttl = _twin(hold), _twin(release), _twin(set_ttl)

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

    # Maintenance

    def create_indexes(self, metadata_fields: Collection[str] = (), *, replace: bool = False) -> IndexReport:
        """Make the indexes for lists that are not there, and wait for them.

        Session managers make some of them; these make all: by the times, by application, by agent, by down-votes, by
        interrupts, and by metadata fields. Reads and writes go on while they are built.

        Args:
            metadata_fields: The metadata fields to index; a dot reaches into a nested one.
            replace: Whether to drop single-field indexes that these make needless, as versions before 0.6.0 made them.
                Only an index without options is dropped.

        Raises:
            TypeError: An argument has a wrong type.
            ValueError: A metadata field is not a valid name.
        """
        return self._stores.indexes.create(metadata_fields, replace)

    def upgrade(self) -> UpgradeReport:
        """Bring sessions of the first version up to date, so that lists and filters find them.

        Times that are text become dates, and agents that are not listed in ``agent_ids`` are. Nothing else changes,
        and managers may write meanwhile. It may be called again at any time.
        """
        return self._stores.checks.upgrade()

    acreate_indexes, aupgrade = _twin(create_indexes), _twin(upgrade)
