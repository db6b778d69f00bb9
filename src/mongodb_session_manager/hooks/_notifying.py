"""What the hooks have in common: store first, then tell somebody of what was really stored, once or at least once."""

import inspect
import logging
import uuid
import weakref
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, get_args

from .dispatcher import Delivery, Dispatcher, shared_dispatcher

if TYPE_CHECKING:
    from ..mongodb_session_manager import MongoDBSessionManager
    from ..mongodb_session_repository import MongoDBSessionRepository

logger = logging.getLogger(__name__)

DeliveryMode: TypeAlias = Literal["best_effort", "at_least_once"]
Message: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class Notice:
    """What is to be told, as it is kept in memory and in the outbox.

    Attributes:
        id: Lets consumers drop duplicates.
        hook: The kind of hook that sends it.
        target: Where to.
        session_id: The session.
        message: What the hook made of the change.
    """

    id: str
    hook: str
    target: str
    session_id: str
    message: Message = field(repr=False)

    def record(self) -> dict[str, Any]:
        """Return it for the session's outbox."""
        return {"id": self.id, "hook": self.hook, "target": self.target, "message": dict(self.message)}


class NotifyingHook(ABC):
    """A hook that has the dispatcher tell somebody of what was stored.

    A subclass says which actions it tells of, makes a message of what was stored, and sends it.

    Args:
        targets: Where this hook sends to.
        delivery: ``"best_effort"``: what cannot be sent is logged and gone. ``"at_least_once"``: it is recorded in
            the session by the write that it tells of, and removed when it was sent.

    Raises:
        ValueError: ``delivery`` is none of these.
    """

    kind: ClassVar[str]
    actions: ClassVar[Mapping[str, str]]
    """The actions that are told of, each with the name of its argument."""

    def __init__(self, targets: tuple[str, ...], delivery: DeliveryMode) -> None:
        if delivery not in get_args(DeliveryMode):
            raise ValueError(
                f"delivery must be one of {', '.join(map(repr, get_args(DeliveryMode)))}, got {delivery!r}"
            )
        self._targets, self._delivery = targets, delivery
        self._dispatcher: Dispatcher = shared_dispatcher()
        # Weak: one hook may serve a factory that makes a manager for each request.
        self._repositories: weakref.WeakValueDictionary[str, MongoDBSessionRepository] = weakref.WeakValueDictionary()

    @abstractmethod
    def _compose(self, action: str, session_id: str, stored: Any, event_id: str) -> tuple[str, Message] | None:
        """Return target and message for what was stored; None where nobody is to be told."""

    @abstractmethod
    def _send(self, notice: Notice, repository: "MongoDBSessionRepository | None") -> None:
        """Send; raise ``DeliveryRefusedError`` where another attempt makes no sense."""

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
        repository = self._repository(session_id, kwargs.get("session_manager"))
        if not _takes_on_store(original_func):
            return self._call_plain(original_func, action, session_id, given, repository)
        recorded = self._records(session_id, repository)
        notices: list[Notice] = []

        def on_store(stored: Any) -> Mapping[str, Any] | None:
            notice = self._notice(action, session_id, stored)
            if notice is None:
                return None
            notices.append(notice)
            return notice.record() if recorded else None

        result = original_func(**given, on_store=on_store)
        return self._after(result, lambda: self._submit(notices, repository, recorded))

    def _call_plain(
        self,
        original_func: Callable[..., Any],
        action: str,
        session_id: str,
        given: Mapping[str, Any],
        repository: "MongoDBSessionRepository | None",
    ) -> Any:
        """Call a function that somebody else put in the place of the manager's: what was given is what is stored."""
        values = list(given.values())
        made = [notice for value in values if (notice := self._notice(action, session_id, value)) is not None]
        return self._after(original_func(*values), lambda: self._submit(made, repository, recorded=False))

    def _after(self, result: Any, then: Callable[[], None]) -> Any:
        if not inspect.isawaitable(result):
            then()
            return result

        async def finished(waiting: Awaitable[Any]) -> Any:
            value = await waiting
            then()
            return value

        return finished(result)

    def _repository(
        self, session_id: str, manager: "MongoDBSessionManager | None"
    ) -> "MongoDBSessionRepository | None":
        found = getattr(manager, "session_repository", None)
        return self._repositories.get(session_id) if found is None else found

    def _records(self, session_id: str, repository: "MongoDBSessionRepository | None") -> bool:
        if self.at_least_once and repository is None:
            # Nobody could ever remove the record.
            logger.warning("session_id=<%s> | no bind() was called: delivered as best effort", session_id)
        return self.at_least_once and repository is not None

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

    def _submit(self, notices: list[Notice], repository: "MongoDBSessionRepository | None", recorded: bool) -> None:
        for notice in notices:
            acknowledge = None
            if recorded and repository is not None:
                acknowledge = partial(repository.acknowledge_outbox, notice.session_id, [notice.id])
            lane = (self.kind, self._targets, notice.session_id)
            send = partial(self._send, notice, repository)
            self._dispatcher.submit(Delivery(notice.id, notice.session_id, lane, send, acknowledge))

    def bind(self, session_manager: "MongoDBSessionManager") -> None:
        """Learn of a session, and send what another process recorded for it and did not deliver."""
        repository = session_manager.session_repository
        self._repositories[session_manager.session_id] = repository
        mine = [record for record in session_manager.undelivered if self._is_mine(record)]
        notices = [
            Notice(record["id"], self.kind, record["target"], session_manager.session_id, record["message"])
            for record in mine
        ]
        self._submit(notices, repository, recorded=True)

    def _is_mine(self, record: Mapping[str, Any]) -> bool:
        well_formed = isinstance(record.get("id"), str) and isinstance(record.get("message"), Mapping)
        return well_formed and record.get("hook") == self.kind and record.get("target") in self._targets

    def flush(self, timeout: float | None = None) -> None:
        """Wait until what is queued was sent; say so when that takes longer than the time given."""
        left = self._dispatcher.flush(timeout)
        if left:
            logger.warning("notifications=<%d> | not sent in time; the background goes on with them", left)


def _takes_on_store(function: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False
    return "on_store" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
