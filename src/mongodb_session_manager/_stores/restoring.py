"""Errors about stored values name session, agent and field."""

from collections.abc import Iterator
from contextlib import contextmanager

from pymongo.errors import PyMongoError

from .._schema.restorable import REMEDY_FOR_AGENT, unreadable
from ..errors import MongoDBSessionError


@contextmanager
def restoring(label: str, field: str) -> Iterator[None]:
    """Replace an error about a stored field by one that names agent and field, since the error may quote stored values.

    Args:
        label: The label of the agent.
        field: The field.
    """
    try:
        yield
    except (MongoDBSessionError, PyMongoError):
        raise
    except Exception as error:  # noqa: BLE001 - foreign code reads it, and may raise anything
        reason = f"has another shape than is read ({type(error).__name__})"
        raise unreadable(label, field, reason, REMEDY_FOR_AGENT) from None


@contextmanager
def reading(label: str, what: str) -> Iterator[None]:
    """Replace an error about stored values that are read, and from which no agent is restored.

    Args:
        label: The label of the session or agent.
        what: What is read.
    """
    try:
        yield
    except (MongoDBSessionError, PyMongoError):
        raise
    except Exception as error:  # noqa: BLE001 - anything may be stored there
        raise MongoDBSessionError(
            f"{label} cannot be read whole: {what} has another shape than is read ({type(error).__name__}). Restore "
            "the document from a backup, or remove what stands there. The rest of the session can be read."
        ) from None
