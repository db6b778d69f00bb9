"""How a session is opened: created where it is not there, and claimed where a lease is wanted.

What changes an existing session is an ``update_one``. A ``find_one_and_update`` that the driver may retry has the
server keep the whole document as it was, in a collection of its own that no redaction reaches; it stands here where it
changes nothing but to create a session.
"""

import itertools
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

from pymongo.collection import Collection
from pymongo.errors import DuplicateKeyError

from .._schema.lease import Lease, taken_lease_update
from .._schema.sessions import OPENING_PROJECTION, OpenedDoc, opening_projection, sessions_filter
from .._schema.values import Stored, Update
from ..errors import SessionLockedError, SessionNotFoundError
from .operation import HELD, Collections

logger = logging.getLogger(__name__)

__all__ = ["SessionOpener", "opened_fields", "read_sessions"]


def opened_fields(collections: Collections, agent_ids: Iterable[str]) -> Stored:
    """Return what an opening reads of a session; agents come with it where the server computes in a projection."""
    return opening_projection(dict.fromkeys(agent_ids)) if collections.can_compute else OPENING_PROJECTION


def read_sessions(
    collections: Collections, session_ids: Sequence[str], agent_ids: Iterable[str]
) -> dict[str, OpenedDoc]:
    """Read several sessions as their openings would, by one command.

    Args:
        collections: Where they are.
        session_ids: Which.
        agent_ids: Agents that come with each of them.

    Returns:
        Those that are there, by id.
    """
    started = time.perf_counter()
    cursor = collections.sessions.find(sessions_filter(session_ids), opened_fields(collections, agent_ids))
    found = {stored["_id"]: cast(OpenedDoc, stored) for stored in cursor}
    milliseconds = (time.perf_counter() - started) * 1000
    logger.debug(
        "operation=<read_sessions>, sessions=<%d>, found=<%d>, milliseconds=<%.2f> | done",
        len(session_ids),
        len(found),
        milliseconds,
    )
    return found


class SessionOpener:
    """Opens the sessions of a collection.

    Args:
        sessions: The collection.
        leases: By session, those that are held; what is taken here is noted here.
    """

    def __init__(self, sessions: Collection[Stored], leases: dict[str, Lease]) -> None:
        self._sessions, self._leases = sessions, leases

    def create(
        self, session_id: str, update: Update, lease: Lease | None, fields: Mapping[str, Any]
    ) -> tuple[OpenedDoc | None, bool]:
        """Open a session, and create it where it is not there.

        Returns:
            The fields as they are stored, None where they are the new session's own; and whether it is new.
        """
        if lease is None:
            before = self._upsert(session_id, update, fields)
            return before, before is None
        while True:
            if self._claim(session_id, update, lease, create=True):
                return None, True
            with suppress(SessionNotFoundError):  # deleted since; it is made again
                return self._read(session_id, fields), False

    def find(self, session_id: str, lease: Lease | None, fields: Mapping[str, Any]) -> OpenedDoc:
        """Open a session that is there, and write nothing but the lease.

        Raises:
            SessionNotFoundError: It is not there.
        """
        if lease is not None:
            self._claim(session_id, {}, lease, create=False)
        return self._read(session_id, fields)

    def _upsert(self, session_id: str, update: Update, fields: Mapping[str, Any]) -> OpenedDoc | None:
        def upsert() -> OpenedDoc | None:
            found = self._sessions.find_one_and_update({"_id": session_id}, update, fields, upsert=True)
            return cast("OpenedDoc | None", found)

        try:
            return upsert()
        except DuplicateKeyError:  # two first requests at once; by now it exists
            return upsert()

    def _read(self, session_id: str, fields: Mapping[str, Any]) -> OpenedDoc:
        stored = self._sessions.find_one({"_id": session_id}, fields)
        if stored is None:
            self._leases.pop(session_id, None)
            raise SessionNotFoundError(session_id)
        return cast(OpenedDoc, stored)

    def _claim(self, session_id: str, update: Update, lease: Lease, *, create: bool) -> bool:
        """Take the lease, and wait for it while another manager holds it; True if that created the session."""
        # The first pause is for two first requests at once: the server answers one of them as if it were too late.
        for pause in itertools.chain([0.0, 0.0] if create else [0.0], lease.pauses()):
            time.sleep(pause)
            taken = self._take(session_id, update, lease, create=create)
            if taken is not None:
                return taken
            if not create:
                self._read(session_id, {"_id": 1})
        raise SessionLockedError(session_id, None, HELD)

    def _take(self, session_id: str, update: Update, lease: Lease, *, create: bool) -> bool | None:
        """Tell whether that created the session; None if another manager has the lease."""
        # Known before it is sent: what got no answer may be ours, and must be released then.
        self._leases[session_id] = lease
        try:
            result = self._sessions.update_one(*taken_lease_update(session_id, update, lease), upsert=create)
        except DuplicateKeyError:
            result = None
        if result is not None and (result.upserted_id is not None or result.matched_count):
            return result.upserted_id is not None
        del self._leases[session_id]
        return None
