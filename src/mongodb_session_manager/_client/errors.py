"""Errors of the driver: they are raised as they are, without the text in which the server quotes a session."""

from collections.abc import Mapping
from typing import Any, Final

from pymongo.errors import BulkWriteError, DocumentTooLarge, OperationFailure, WriteError

__all__ = ["forget_values", "is_of_document", "is_too_large"]

# BSONObjectTooLarge, "Resulting document after update is larger than …", and what inserts answer.
_TOO_LARGE: Final = frozenset({10334, 17419, 17420})
# An insert has no code of its own.
_BAD_VALUE: Final = 2
_TO_INSERT: Final = "object to insert too large"
_NOT_VALID: Final = 121
# Unauthorized (quotes the command), PathNotViable, DocumentValidationFailure.
_QUOTING: Final = frozenset({13, 28, _NOT_VALID})
# Names and numbers; other fields of an error (errmsg, keyValue, errInfo) may hold values.
_KEPT: Final = ("ok", "index", "code", "codeName", "keyPattern", "errorLabels", "operationTime")


def is_too_large(error: Exception) -> bool:
    """Tell whether a document would have become larger than MongoDB takes."""
    if not isinstance(error, OperationFailure):
        return isinstance(error, DocumentTooLarge)
    told = (error.details or {}).get("errmsg")
    return error.code in _TOO_LARGE or (error.code == _BAD_VALUE and _TO_INSERT in str(told))


def is_of_document(error: Mapping[str, Any]) -> bool:
    """Tell whether one of several writes was refused for what its document would be, as another one would not be."""
    return error.get("code") in _TOO_LARGE | {_NOT_VALID}


def forget_values(error: Exception) -> None:
    """Remove the server's words from an error that may quote a document or a command (of validators, indexes, roles).

    The error keeps its class, code and labels.
    """
    if isinstance(error, BulkWriteError):
        BulkWriteError.__init__(error, _named(error.details) | {"writeErrors": _all_named(error.details)})
    elif isinstance(error, OperationFailure) and _may_quote(error):
        details = _named(error.details or {})
        text = "refused by the server; its own words are left out, since they may quote what is stored"
        OperationFailure.__init__(error, text, error.code, details, error._max_wire_version)


def _may_quote(error: OperationFailure) -> bool:
    # findAndModify reports as a failed command what an update reports as a write error. An error about a value in an
    # index or a language has a number as its only name.
    name = str((error.details or {}).get("codeName", ""))
    return isinstance(error, WriteError) or error.code in _QUOTING or name.startswith("Location")


def _named(details: Mapping[str, Any]) -> dict[str, Any]:
    return {name: details[name] for name in _KEPT if name in details}


def _all_named(details: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [_named(one) for one in details.get("writeErrors", ())]
