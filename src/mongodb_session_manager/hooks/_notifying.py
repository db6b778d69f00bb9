"""The base of the hooks: store first, then send a notification of what was really stored, once or at least once."""

import inspect
import logging
import uuid
import weakref
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, TypeAlias, get_args

import pymongo
from pymongo.errors import InvalidOperation

from .._client.not_copied import NotCopied
from .._schema.ids import shown
from .._session.deliveries import Deliveries
from ..mongodb_session_repository import stores_of
from .dispatcher import Delivery, Dispatcher, shared_dispatcher

if TYPE_CHECKING:
    from ..mongodb_session_manager import MongoDBSessionManager
    from ..mongodb_session_repository import MongoDBSessionRepository

logger = logging.getLogger(__name__)

DeliveryMode: TypeAlias = Literal["best_effort", "at_least_once"]
Message: TypeAlias = Mapping[str, Any]

# Seconds.
DATABASE_TIMEOUT: Final = 5.0


@dataclass(frozen=True)
class Notice:
    """A notification, as it is kept in memory and in the outbox.

    Attributes:
        id: Its id, by which consumers can drop duplicates.
        hook: The kind of hook that sends it.
        target: The address to send to.
        session_id: The session.
        message: The content.
    """

    id: str
    hook: str
    target: str
    session_id: str
    message: Message = field(repr=False)

    def record(self) -> dict[str, Any]:
        """Return the record for the session's outbox."""
        return {"id": self.id, "hook": self.hook, "target": self.target, "message": dict(self.message)}


class NotifyingHook(NotCopied, ABC):
    """A hook that has the dispatcher send a notification of what was stored.

    A subclass names its actions, makes a message of the stored values, and sends it.

    Args:
        targets: The addresses that this hook sends to.
        delivery: ``"best_effort"``: a notification that cannot be sent is logged and dropped. ``"at_least_once"``: it
            is recorded in the session by the write that it is about, and removed when it was sent.

    Raises:
        ValueError: ``delivery`` is not one of these.
    """

    kind: ClassVar[str]
    actions: ClassVar[Mapping[str, str]]
    """The actions that are told of, each with the name of its argument."""
    given_as: ClassVar[str]
    """The argument of a manager that takes the hook."""
    tells_of_deliveries: ClassVar[bool] = True
    """Managers are told of each delivery, and wait for their own without ``flush``."""
    _instead = "Make a hook in each process; within one, managers share it."

    def __init__(self, targets: tuple[str, ...], delivery: DeliveryMode) -> None:
        if delivery not in get_args(DeliveryMode):
            raise ValueError(
                f"delivery must be one of {', '.join(map(repr, get_args(DeliveryMode)))}, got {shown(delivery)}"
            )
        self._targets, self._delivery = targets, delivery
        self._dispatcher: Dispatcher = shared_dispatcher()
        self._deliveries = Deliveries()
        # Weak references: a hook may serve a factory that makes a manager for each request.
        self._managers: weakref.WeakValueDictionary[int, MongoDBSessionManager] = weakref.WeakValueDictionary()

    @abstractmethod
    def _compose(self, action: str, session_id: str, stored: Any, event_id: str) -> tuple[str, Message] | None:
        """Return target and message for the stored values; None if nothing is to be sent."""

    @abstractmethod
    def _send(self, notice: Notice, repository: "MongoDBSessionRepository | None") -> None:
        """Send; raise ``DeliveryRefusedError`` if another attempt would fail too."""

    def __repr__(self) -> str:
        # An address may hold a user, a password or a token.
        targets = [target.partition("?")[0].rpartition("@")[2] for target in self._targets]
        return f"{type(self).__name__}({', '.join(targets)}, {self._delivery})"

    @property
    def at_least_once(self) -> bool:
        """Whether notifications are recorded until they are sent."""
        return self._delivery == "at_least_once"

    def __call__(self, original_func: Callable[..., Any], action: str, session_id: str, **kwargs: Any) -> Any:
        """Store, then queue the notification."""
        name = self.actions.get(action)
        if name is None:
            return original_func()
        given = {name: kwargs[name]} if name in kwargs else {}
        manager = kwargs.get("session_manager")
        if getattr(manager, "session_repository", None) is None:
            manager = self._bound_manager(session_id)
        if not _takes_on_store(original_func):
            return self._call_plain(original_func, action, session_id, given, manager)
        recorded = self._records(session_id, manager)
        notices: list[Notice] = []

        def on_store(stored: Any) -> Mapping[str, Any] | None:
            notice = self._notice(action, session_id, stored)
            if notice is None:
                return None
            notices.append(notice)
            return notice.record() if recorded else None

        result = original_func(**given, on_store=on_store)
        return self._after(result, lambda: self._submit(notices, manager, recorded))

    def _call_plain(
        self,
        original_func: Callable[..., Any],
        action: str,
        session_id: str,
        given: Mapping[str, Any],
        manager: "MongoDBSessionManager | None",
    ) -> Any:
        """Call an ``original_func`` that is not the manager's, and take its arguments as the stored values."""
        values = list(given.values())
        made = [notice for value in values if (notice := self._notice(action, session_id, value)) is not None]
        return self._after(original_func(*values), lambda: self._submit(made, manager, recorded=False))

    def _after(self, result: Any, then: Callable[[], None]) -> Any:
        if not inspect.isawaitable(result):
            then()
            return result

        async def finished(waiting: Awaitable[Any]) -> Any:
            value = await waiting
            then()
            return value

        return finished(result)

    def _bound_manager(self, session_id: str) -> "MongoDBSessionManager | None":
        """Return the bound manager of a session whose ``session_manager=`` was not passed on, if it is unambiguous."""
        found = [reference() for reference in self._managers.valuerefs()]
        mine = [manager for manager in found if manager is not None and manager.session_id == session_id]
        places = {_place(manager.session_repository) for manager in mine}
        return mine[-1] if len(places) == 1 else None

    def _records(self, session_id: str, manager: "MongoDBSessionManager | None") -> bool:
        if self.at_least_once and manager is None:
            # The record could never be removed.
            logger.warning(
                "session_id=<%s> | no session_manager= was passed on, and no bind() was called or several places have "
                "such a session: delivered as best effort",
                session_id,
            )
        return self.at_least_once and manager is not None

    def _notice(self, action: str, session_id: str, stored: Any) -> Notice | None:
        event_id = uuid.uuid4().hex
        try:
            composed = self._compose(action, session_id, stored, event_id)
        except Exception as error:  # noqa: BLE001 - a notification never fails the call
            logger.warning(
                "session_id=<%s>, error=<%s> | no notification could be made", session_id, type(error).__name__
            )
            return None
        return None if composed is None else Notice(event_id, self.kind, composed[0], session_id, composed[1])

    def _submit(self, notices: list[Notice], manager: "MongoDBSessionManager | None", recorded: bool) -> None:
        repository = getattr(manager, "session_repository", None)
        waiting = [self._deliveries, getattr(manager, "_deliveries", None)]
        for notice in notices:
            delivery = self._new_delivery(notice, repository, recorded)
            if repository is not None:
                _hold(repository, delivery)
            for deliveries in waiting:
                if deliveries is not None:
                    deliveries.add(delivery.tried, delivery.durable)
            self._dispatcher.submit(delivery)

    def _new_delivery(self, notice: Notice, repository: "MongoDBSessionRepository | None", recorded: bool) -> Delivery:
        place = None if repository is None else _place(repository)
        return Delivery(
            notice.id,
            notice.session_id,
            lane=(self.kind, self._targets, place, notice.session_id),
            send=partial(self._send, notice, repository),
            acknowledge=partial(_acknowledge, notice, repository) if recorded and repository is not None else None,
            target=(self.kind, notice.target),
        )

    def bind(self, session_manager: "MongoDBSessionManager") -> None:
        """Take up a manager, and send the notifications that another process recorded and did not deliver."""
        self._managers[id(session_manager)] = session_manager
        mine = [record for record in session_manager.undelivered if self._is_mine(record)]
        notices = [
            Notice(record["id"], self.kind, record["target"], session_manager.session_id, record["message"])
            for record in mine
        ]
        self._submit(notices, session_manager, recorded=True)

    def _is_mine(self, record: Mapping[str, Any]) -> bool:
        well_formed = isinstance(record.get("id"), str) and isinstance(record.get("message"), Mapping)
        return well_formed and record.get("hook") == self.kind and record.get("target") in self._targets

    def flush(self, timeout: float | None = None) -> None:
        """Wait until this hook's notifications are sent; log a warning if that takes longer than the timeout."""
        left = self._dispatcher.flush(timeout, self._deliveries.tried)
        if left:
            logger.warning("notifications=<%d> | not sent in time; the background goes on with them", left)


def _place(repository: "MongoDBSessionRepository") -> tuple[Any, str]:
    """Return the client and namespace of a session; clients of the same servers are equal."""
    return repository.client, repository.namespace


class _Hold:
    """A user of a client for the time of one delivery."""


def _hold(repository: "MongoDBSessionRepository", delivery: Delivery) -> None:
    """Keep the client open until a delivery has ended, also if its users close it meanwhile."""
    handle, hold = stores_of(repository).handle, _Hold()
    with suppress(InvalidOperation):  # it is closed already; the delivery may not need it
        handle.acquire(hold, owner=True)
        delivery.ended.add_done_callback(lambda ended: handle.release_behind(hold))


def _acknowledge(notice: Notice, repository: "MongoDBSessionRepository") -> None:
    with database_time():
        stores_of(repository).outbox.acknowledge(notice.session_id, [notice.id])


def database_time() -> AbstractContextManager[object]:
    """Limit the database operations of a delivery, which occupies one of the few threads."""
    return pymongo.timeout(DATABASE_TIMEOUT)


def _takes_on_store(function: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False
    return "on_store" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
