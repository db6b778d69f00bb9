"""Errors over stored values name session, agent and field."""

from collections.abc import Iterator
from contextlib import contextmanager

from pymongo.errors import PyMongoError

from .._schema.restorable import REMEDY_FOR_AGENT, unreadable
from ..errors import MongoDBSessionError


@contextmanager
def restoring(label: str, field: str) -> Iterator[None]:
    """Replace an error over a stored field by one that names agent and field; the error itself may quote stored values.

    Args:
        label: What the agent is called.
        field: The field.
    """
    try:
        yield
    except (MongoDBSessionError, PyMongoError):
        raise
    except Exception as error:  # noqa: BLE001 - others read it, and may raise anything
        reason = f"has another shape than is read ({type(error).__name__})"
        raise unreadable(label, field, reason, REMEDY_FOR_AGENT) from None
