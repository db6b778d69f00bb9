"""The errors, whose messages name the session, the field and the remedy."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from strands.types.exceptions import SessionException

if TYPE_CHECKING:
    from strands.types.content import Message

__all__ = [
    "AgentNotFoundError",
    "FactoryNotInitializedError",
    "InvalidCursorError",
    "MessageNotFoundError",
    "MongoDBSessionError",
    "SchemaVersionError",
    "SessionConflictError",
    "SessionHeldError",
    "SessionLockedError",
    "SessionNotFoundError",
    "SessionTooLargeError",
    "UnstorableValueError",
]


class MongoDBSessionError(SessionException):
    """Base of every error that this library raises itself; errors of pymongo are raised as they are."""

    def __reduce__(self) -> tuple[Any, ...]:
        # By default the text would be given to the constructor again, which takes ids. A worker process whose error
        # cannot be read by its parent looks as if it had died.
        return _copied, (type(self), self.args, vars(self))


def _copied(kind: type[MongoDBSessionError], args: tuple[object, ...], fields: dict[str, Any]) -> MongoDBSessionError:
    error = kind.__new__(kind, *args)
    vars(error).update(fields)
    return error


class SessionNotFoundError(MongoDBSessionError, ValueError):
    """The session is not stored: it was deleted, has expired, or was never created."""

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        super().__init__(
            f"Session {session_id!r} is not stored. It was deleted, has expired, or was never created; "
            "create a new MongoDBSessionManager to start it again."
        )


class AgentNotFoundError(MongoDBSessionError, ValueError):
    """The session exists, but holds no such agent (or multi-agent)."""

    def __init__(self, session_id: str, agent_id: str) -> None:
        self.session_id, self.agent_id = session_id, agent_id
        super().__init__(
            f"Session {session_id!r} holds no agent {agent_id!r}. "
            "Pass the agent_id that the conversation was started with, or create the agent first."
        )


class MessageNotFoundError(MongoDBSessionError, ValueError):
    """The agent exists, but holds no such message."""

    def __init__(self, session_id: str, agent_id: str | None, message: int | str) -> None:
        self.session_id, self.agent_id, self.message = session_id, agent_id, message
        whose = f"Session {session_id!r}" if agent_id is None else f"Agent {agent_id!r} of session {session_id!r}"
        super().__init__(f"{whose} holds no message {message!r}. list_messages() tells the ids that are stored.")


class UnstorableValueError(MongoDBSessionError, ValueError):
    """A value that MongoDB would not give back equal; it is refused before anything is written.

    Attributes:
        label: Where the value is: the session, the agent or message, and the path to it.
        reason: Why it cannot be stored.
    """

    def __init__(self, label: str, reason: str) -> None:
        self.label, self.reason = label, reason
        super().__init__(f"{label} cannot be stored: {reason}")


class SessionConflictError(MongoDBSessionError):
    """This agent's history was written by another manager since it was restored; nothing was overwritten (HTTP 409).

    Attributes:
        session_id: The session.
        agent_id: The agent whose history was written; None if the conflict concerns the session itself.
        pending: The messages that only this process holds, oldest first.
    """

    def __init__(self, session_id: str, agent_id: str | None, reason: str, pending: Sequence["Message"] = ()) -> None:
        self.session_id, self.agent_id, self.pending = session_id, agent_id, list(pending)
        whose = f"Session {session_id!r}" if agent_id is None else f"Agent {agent_id!r} of session {session_id!r}"
        super().__init__(f"{whose} {reason}")


class SessionLockedError(SessionConflictError):
    """Another manager holds the session's lease, or has taken it over from this one."""


class SessionHeldError(MongoDBSessionError):
    """The session is held, so it is not deleted."""

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        super().__init__(
            f"Session {session_id!r} is held and was not deleted. Call the catalog's release() first, or pass "
            "even_held=True to its delete()."
        )


class SessionTooLargeError(MongoDBSessionError, ValueError):
    """The write would take a document over MongoDB's limit of 16 MiB.

    Attributes:
        session_id: The session.
        agent_id: The agent; None if the write was not for one.
        message_id: The message that is too large by itself; None in other cases.
        size: Its bytes, without values that are stored as files.
        field: The field of the agent, such as ``"state"``, that was left out; None in other cases.
    """

    def __init__(
        self,
        session_id: str,
        agent_id: str | None,
        message_id: int | None = None,
        size: int | None = None,
        field: str | None = None,
    ) -> None:
        self.session_id, self.agent_id = session_id, agent_id
        self.message_id, self.size, self.field = message_id, size, field
        writer = "A write" if agent_id is None else f"A write for agent {agent_id!r}"
        outcome = "Nothing was written; keep large data outside the conversation."
        if message_id is not None:
            writer = f"Message {message_id} of agent {agent_id!r}, {size} bytes beside its large values,"
        elif field is not None:
            writer = f"Field {field} of agent {agent_id!r}" + (f", {size} bytes," if size is not None else "")
            outcome = "It is not stored, all else is; keep large data outside of it. It is tried again when it changes."
        super().__init__(
            f"{writer} would take session {session_id!r} over MongoDB's limit of 16 MiB a document. {outcome}"
        )


class SchemaVersionError(MongoDBSessionError):
    """The session was written by a newer version of this library."""

    def __init__(self, session_id: str, found: object, supported: int) -> None:
        self.session_id, self.found, self.supported = session_id, found, supported
        super().__init__(
            f"Session {session_id!r} has schema_version {found!r}; this version of mongodb-session-manager reads "
            f"up to {supported}. Upgrade the library to open it."
        )


class InvalidCursorError(MongoDBSessionError, ValueError):
    """A cursor is not one that this list gave."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(
            f"The cursor {reason} Pass next_cursor of a page of the same list as it is, or None to begin at the start."
        )


class FactoryNotInitializedError(MongoDBSessionError, RuntimeError):
    """The global factory is not initialized."""

    def __init__(self) -> None:
        super().__init__(
            "There is no global session factory. Call initialize_global_factory(connection_string=...) "
            "when the application starts, for example in FastAPI's lifespan."
        )
