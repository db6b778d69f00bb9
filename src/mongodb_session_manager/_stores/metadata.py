"""The metadata of sessions."""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import bson
from pymongo.errors import OperationFailure

from .._client.errors import forget_values
from .._schema.data import (
    little_metadata_update,
    metadata_deletion_update,
    metadata_update,
    unmarked_filter,
    unmarked_update,
)
from .._schema.given import Outbox, held_values, metadata_keys, metadata_values, named, outbox_records
from .._schema.ids import ends_in_number, has_number
from .._schema.metadata_keys import one_element
from .._schema.values import FilterAndUpdate, Stored, decode, escape_key
from ..errors import SessionConflictError, UnstorableValueError
from .document_size import METADATA_BYTES, LargeMetadataError
from .operation import CONTENDED, Operations, operation
from .outbox import OutboxStore
from .restoring import Reading

__all__ = ["MetadataStore"]

_PATH_NOT_VIABLE = 28
_TWO_READINGS = 16746
_FIELDS = {"metadata": 1}


class MetadataStore:
    """The metadata of one repository's sessions.

    Args:
        operations: Of the repository.
        outbox: The notifications recorded with a change.
    """

    def __init__(self, operations: Operations, outbox: OutboxStore) -> None:
        self._operations, self._outbox = operations, outbox

    def update_metadata(self, session_id: str, metadata: Mapping[str, Any], outbox: Outbox = ()) -> None:
        """Set metadata fields; the others stay. A dotted key reaches into a nested field."""
        fields = metadata_values(session_id, metadata)
        if not fields:
            return
        change, records = self._update(session_id, fields), outbox_records(session_id, outbox)
        with operation("update_metadata", session_id), _unreachable_fields(session_id, fields):
            if not self._send(session_id, fields, change, records):
                self._operations.expect_stored(session_id)
                if self._leads_into_a_mark(session_id, fields):
                    raise _unreachable(session_id, fields)
                if not any(map(has_number, fields)):
                    raise SessionConflictError(session_id, None, CONTENDED)
                raise _not_in_list(session_id, fields)

    def _update(self, session_id: str, fields: Stored) -> FilterAndUpdate:
        change = metadata_update(session_id, fields)
        return unmarked_update(change, fields) if self._operations.can_compute else change

    def _leads_into_a_mark(self, session_id: str, keys: Iterable[str]) -> bool:
        unmarked = unmarked_filter(keys) if self._operations.can_compute else {}
        return (
            bool(unmarked) and self._operations.sessions.find_one({"_id": session_id, **unmarked}, {"_id": 1}) is None
        )

    def _send(self, session_id: str, fields: Stored, change: FilterAndUpdate, records: list[Stored]) -> bool:
        """Send a change of metadata, if it leaves room for the rest of the document."""
        added = len(bson.encode({escape_key(key): value for key, value in fields.items()}))
        if not self._operations.can_compute:
            return self._outbox.send(session_id, change, records)
        fitting = little_metadata_update(change, METADATA_BYTES - added)
        if self._outbox.send(session_id, fitting, records):
            return True
        if self._operations.bytes_of(session_id, "metadata") + added <= METADATA_BYTES:
            return False  # the size is not the reason
        size = self._operations.bytes_of(session_id, "metadata", without=fields) + added
        if size > METADATA_BYTES:
            raise LargeMetadataError(session_id, size)
        return self._outbox.send(session_id, change, records)

    def get_metadata(self, session_id: str) -> dict[str, Any]:
        """Return ``{"metadata": {…}}``, or ``{}`` if there is none."""
        with operation("get_metadata", session_id):
            metadata = self._operations.find(session_id, _FIELDS).get("metadata")
        with Reading(f"Session {session_id!r}", "metadata"):
            return {"metadata": decode(metadata)} if metadata else {}

    def delete_metadata(self, session_id: str, keys: Iterable[str], outbox: Outbox, held: Mapping[str, Any]) -> bool:
        """Remove metadata fields, if the metadata holds the values in ``held``; return whether it did."""
        names = metadata_keys(session_id, keys)
        if not names:
            return True
        change = metadata_deletion_update(session_id, names, held_values(session_id, held))
        records = outbox_records(session_id, outbox)
        with operation("delete_metadata", session_id):
            found = self._outbox.send(session_id, change, records)
            if not (found or held):
                self._operations.expect_stored(session_id)
                raise ValueError(
                    f"Metadata of session {session_id!r}, {named(names, ends_in_number)}: an element of "
                    "a list cannot be removed by its number, since a null would stay there. Set the list without it."
                )
        return found


@contextmanager
def _unreachable_fields(session_id: str, fields: Stored) -> Iterator[None]:
    try:
        yield
    except OperationFailure as error:
        if error.code not in (_PATH_NOT_VIABLE, _TWO_READINGS):
            raise
        forget_values(error)
        made = _unreachable if error.code == _PATH_NOT_VIABLE else _read_in_two_ways
        raise made(session_id, fields) from None


def _not_in_list(session_id: str, fields: Stored) -> UnstorableValueError:
    reason = (
        "a number in the key lies beyond the end of the list there, which would be filled with nulls. Set the next "
        "element of the list, or the whole list"
    )
    for one, other in itertools.islice(one_element(fields), 1):
        reason = f"{one!r} and {other!r} overlap if there is a list; give one of them. Or {reason}"
    return UnstorableValueError(f"Metadata of session {session_id!r}, {named(fields, has_number)}", reason)


def _unreachable(session_id: str, fields: Stored) -> UnstorableValueError:
    return UnstorableValueError(
        f"Metadata of session {session_id!r}, {named(fields, lambda key: '.' in key)}",
        "the dotted key leads through a value that is not an object; delete that field first",
    )


def _read_in_two_ways(session_id: str, fields: Stored) -> UnstorableValueError:
    return UnstorableValueError(
        f"Metadata of session {session_id!r}, {named(fields, lambda _: True)}",
        "a list in it has an object with a number as a key, and an index on metadata has that number in its path, "
        "which would mean both. Store the object under other keys, or drop that index",
    )
