"""Which life of a session is meant: a session id that was deleted and created again has several.

A manager means the life that it has opened. The verbs of a repository mean the life that is there; during a verb that
writes children, segments or files, it stays the same one.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from bson import ObjectId
from pymongo.collection import Collection
from pymongo.errors import OperationFailure

from .._client.errors import is_too_large
from .._schema.lives import Life, adopted_files_update, adopted_segments_update, instance_of, new_instance_update
from .._schema.sessions import SCHEMA_VERSION
from .._schema.values import FilterAndUpdate, Stored
from ..errors import SessionNotFoundError

__all__ = ["Lives"]

_FIELDS = {"instance": 1, "schema_version": 1}


class Lives:
    """The lives of the sessions that one repository reads and writes.

    Args:
        sessions: The session documents.
        segments: Their segments.
        files: Their files.
    """

    def __init__(self, sessions: Collection[Stored], segments: Collection[Stored], files: Collection[Stored]) -> None:
        self._sessions, self._segments, self._files = sessions, segments, files
        self._opened: dict[str, ObjectId] = {}
        self._held = threading.local()

    def opened(self, session_id: str, instance: ObjectId | None) -> None:
        """Note which life was opened: later reads and writes mean no other one."""
        if instance is not None:
            self._opened[session_id] = instance

    def known(self, session_id: str) -> ObjectId | None:
        """Return the instance that is meant; None if it is the one that is there."""
        return self._opened.get(session_id) or vars(self._held).get(session_id)

    def named(self, session_id: str, change: FilterAndUpdate) -> FilterAndUpdate:
        """Bind a change of a session document to the life that is meant."""
        instance = self.known(session_id)
        if instance is not None:
            change[0]["instance"] = instance
        return change

    def check(self, session_id: str, stored: Mapping[str, Any]) -> None:
        """Raise if a session that was read is in another life than the one that is meant."""
        known = self.known(session_id)
        if known is not None and instance_of(stored) not in (known, None):
            raise SessionNotFoundError(session_id)

    def is_over(self, session_id: str) -> bool:
        """Tell whether the life that is meant has ended."""
        return instance_of(self._find(session_id)) != self.known(session_id)

    def read(self, session_id: str) -> Life:
        """Return the life that is meant, to read its children."""
        return Life(session_id, self.known(session_id) or instance_of(self._find(session_id)))

    def of(self, session_id: str) -> Life:
        """Return the life that is meant, to write its children.

        Raises:
            SessionNotFoundError: There is no such session.
        """
        known = self.known(session_id)
        if known is not None:
            return Life(session_id, known)
        stored = self._find(session_id)
        if stored is None:
            raise SessionNotFoundError(session_id)
        try:
            return self.begin(session_id, stored)
        except OperationFailure as error:
            if not is_too_large(error):
                raise
            return Life(session_id, None)  # no room for an instance; the next opening finds some

    def ending(self, session_id: str) -> Life:
        """Return the life that is to be deleted; without an instance if there is no such session."""
        with suppress(SessionNotFoundError):
            return self.of(session_id)
        return Life(session_id, None)

    @contextmanager
    def held(self, session_id: str) -> Iterator[Life]:
        """Mean one life during a verb that writes children first and the session afterwards."""
        life = self.of(session_id)
        is_new = self.known(session_id) is None
        if is_new:
            vars(self._held)[session_id] = life.instance
        try:
            yield life
        finally:
            if is_new:
                del vars(self._held)[session_id]

    def begin(self, session_id: str, stored: Mapping[str, Any]) -> Life:
        """Return the life of a session that was read, which gets an instance if an older version has stored it.

        Raises:
            SessionNotFoundError: It was deleted meanwhile.
        """
        while instance_of(stored) is None or stored.get("schema_version") is None:
            life = Life(session_id, ObjectId())
            if self._sessions.update_one(*new_instance_update(life, stored, SCHEMA_VERSION)).matched_count:
                if stored.get("schema_version") is not None:  # the first version had no children
                    self._adopt(life)
                return life
            found = self._find(session_id)
            if found is None:
                raise SessionNotFoundError(session_id)
            stored = found
        return Life(session_id, instance_of(stored))

    def _adopt(self, life: Life) -> None:
        self._segments.update_many(*adopted_segments_update(life))
        self._files.update_many(*adopted_files_update(life))

    def _find(self, session_id: str) -> Stored | None:
        return self._sessions.find_one({"_id": session_id}, _FIELDS)
