"""Errors about stored values name session, agent and field; the values themselves are not quoted."""

from pymongo.errors import PyMongoError

from .._override import override
from .._schema.restorable import REMEDY_FOR_AGENT, unreadable
from ..errors import MongoDBSessionError


class Reading:
    """Replaces an error about stored values that are read, and from which no agent is restored.

    Args:
        label: The label of the session or agent.
        what: What is read.
    """

    def __init__(self, label: str, what: str) -> None:
        self._label, self._what = label, what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        # Foreign code reads what is stored, and may raise anything.
        if isinstance(error, Exception) and not isinstance(error, (MongoDBSessionError, PyMongoError)):
            raise self._told(f"has another shape than is read ({type(error).__name__})") from None

    def _told(self, reason: str) -> MongoDBSessionError:
        return MongoDBSessionError(
            f"{self._label} cannot be read whole: {self._what} {reason}. Restore the document from a backup, or remove "
            "what stands there. The rest of the session can be read."
        )


class Restoring(Reading):
    """Replaces an error about a stored field from which an agent is restored."""

    @override
    def _told(self, reason: str) -> MongoDBSessionError:
        return unreadable(self._label, self._what, reason, REMEDY_FOR_AGENT)
