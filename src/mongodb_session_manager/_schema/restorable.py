"""Checks of stored values before they are used: another version may have written them, or a hand.

A value that does not fit raises an error that names session, agent and field, and says what to do.
"""

from collections.abc import Mapping
from typing import Any

from ..errors import MongoDBSessionError
from .messages import AGENT_FIELDS, decode_message, is_complete, message_record
from .values import Stored

REMEDY_FOR_AGENT = (
    "Go on with the versions of strands-agents and of this library that wrote it, restore the document from a backup, "
    "or remove the field, which gives up what it holds."
)
_OF_MESSAGE = (
    "Restore the document from a backup, or put another message in its place with the repository's update_message()."
)
_OF_MESSAGE_WITHOUT_ID = "Restore the document from a backup, or give the message its message_id, which no other has."


def unreadable(label: str, what: str, reason: str, remedy: str) -> MongoDBSessionError:
    return MongoDBSessionError(
        f"{label} cannot be restored: {what} {reason}. {remedy} The rest of the session can be read."
    )


def check_fields(label: str, data: Any) -> None:
    """Raise unless ``agent_data`` can be restored from.

    Raises:
        MongoDBSessionError: It, or one of the fields that an agent is restored from, is not an object.
    """
    fields = {"agent_data": data}
    if isinstance(data, Mapping):
        fields |= {name: data[name] for name in AGENT_FIELDS if data.get(name) is not None}
    for name, value in fields.items():
        if not isinstance(value, Mapping):
            raise unreadable(label, name, f"is not an object but of type {type(value).__name__}", REMEDY_FOR_AGENT)


def restored_message(label: str, stored: Mapping[str, Any]) -> tuple[int, Any]:
    """Return the id of a stored message and the message.

    Raises:
        MongoDBSessionError: It is not a message that an agent can have.
    """
    try:
        message_id, message = int(stored["message_id"]), decode_message(stored)
        reason = None if is_complete(message) else "is not a message"
    except Exception as error:  # noqa: BLE001 - anything may stand there
        reason = f"has another shape than is read ({type(error).__name__})"
    if reason is not None:
        raise unreadable(label, _name_of(stored), reason, _remedy_for(stored))
    return message_id, message


def listed_message(label: str, stored: Mapping[str, Any]) -> Stored:
    """Return a stored message as ``list_messages`` shows it.

    Raises:
        MongoDBSessionError: It is not a message.
    """
    try:
        return message_record(stored)
    except Exception as error:  # noqa: BLE001 - anything may stand there
        reason = f"has another shape than is read ({type(error).__name__})"
    raise MongoDBSessionError(
        f"{label} cannot be listed whole: {_name_of(stored)} {reason}. {_remedy_for(stored)} limit and offset list the "
        "others."
    )


def _name_of(stored: Any) -> str:
    found = stored.get("message_id") if isinstance(stored, Mapping) else None
    return f"message {found}" if isinstance(found, int) else "a message without a number"


def _remedy_for(stored: Any) -> str:
    without_id = isinstance(stored, Mapping) and stored.get("message_id") is None
    return _OF_MESSAGE_WITHOUT_ID if without_id else _OF_MESSAGE
