"""Sessions as a whole: opened, created, read and deleted, and the leases under which they are written."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast

from pymongo.errors import DuplicateKeyError
from strands.types.session import Session, SessionType

from .._schema.given import given_time, given_type
from .._schema.ids import check_id
from .._schema.lease import Lease, released_lease_update, renewed_lease_update
from .._schema.messages import times
from .._schema.reads import ReadAgentDoc
from .._schema.sessions import (
    AGENTS_BYTES,
    BROUGHT,
    OPENING_PROJECTION,
    SCHEMA_VERSION,
    OpenedDoc,
    new_session_doc,
    opening_update,
)
from .._schema.values import decode
from ..errors import SchemaVersionError, SessionConflictError
from .indexes import ensure_indexes
from .large_values import LargeValues, MissingValueError
from .opening import SessionOpener, opened_fields
from .operation import Operations, operation
from .outbox import OutboxStore
from .restored import AgentRestorer, RestoredAgent
from .segments import MessageSegments

__all__ = ["OpenedSession", "SessionStore"]


@dataclass(frozen=True)
class OpenedSession:
    """What opening a session told.

    Attributes:
        session: The SDK's record.
        created: Whether the session is new.
        application_name: As it was when the session was created.
        agent_ids: The agents that it surely holds; None where that was not recorded (the first version).
        outbox: Notifications that were recorded with a change and not acknowledged.
        agents: Those that were to be brought along, by id; None for one that it does not hold.
    """

    session: Session
    created: bool
    application_name: str | None
    agent_ids: frozenset[str] | None
    outbox: tuple[dict[str, Any], ...] = field(repr=False)
    agents: Mapping[str, RestoredAgent | None] = field(repr=False, default_factory=dict)


class SessionStore:
    """The sessions of one repository.

    Args:
        operations: Of the repository.
        outbox: Undelivered notifications.
        segments: Messages that have moved.
        values: Large values.
        restorer: Restores agents that are brought along.
        application_name: Of new sessions, by default.
        metadata_fields: To index.
    """

    def __init__(
        self,
        operations: Operations,
        outbox: OutboxStore,
        segments: MessageSegments,
        values: LargeValues,
        restorer: AgentRestorer,
        application_name: str | None,
        metadata_fields: tuple[str, ...],
    ) -> None:
        self._operations, self._sessions, self._leases = operations, operations.sessions, operations.leases
        self._outbox, self._segments, self._values, self._restorer = outbox, segments, values, restorer
        self._application_name, self._metadata_fields = application_name, metadata_fields
        self._opener = SessionOpener(self._sessions, self._leases)

    def open_session(
        self,
        session_id: str,
        lease: Lease | None = None,
        *,
        create: bool = True,
        agent_ids: Iterable[str] = (),
        found: OpenedDoc | None = None,
    ) -> OpenedSession:
        """Open the session, and create it where it is not there.

        Args:
            session_id: The session.
            lease: Of the later writes; waited for while another manager holds it.
            create: False: only a session that is there is opened, and nothing is written but the lease.
            agent_ids: Agents to bring along, as ``restore_agent`` gives them.
            found: What ``read_sessions`` has just read of the session with these agents; without a lease only.

        Raises:
            SchemaVersionError: A newer version of this library wrote it.
            SessionLockedError: The lease was not to be had in time.
            SessionNotFoundError: It is not there, and was not to be created.
        """
        check_id("session_id", session_id)
        wanted = [check_id("agent_id", agent_id) for agent_id in dict.fromkeys(agent_ids)]
        brought = wanted if self._operations.can_compute else []
        with operation("open_session", session_id) as outcome:
            stored, created = (found, False) if found else self._open(session_id, lease, brought, create=create)
            parts = dict(zip(brought, stored.get(BROUGHT, ()), strict=False))
            outcome.messages = sum(len(part.get("messages", ())) for part in parts.values())
            session = _session(session_id, stored)
            if create and not created and stored.get("schema_version") is None:
                self._operations.with_room(session_id, lambda: self._opener.upgrade(session_id))
        self._operations.sizes.set_document_size(session_id, stored.get(AGENTS_BYTES, 0))
        if create:
            ensure_indexes(self._sessions, self._metadata_fields)
        return OpenedSession(
            session=session,
            created=created,
            application_name=stored.get("application_name"),
            agent_ids=_recorded_ids(stored.get("agent_ids")),
            outbox=tuple(decode(record) for record in self._outbox.undelivered(session_id, stored)),
            agents={each: None if created else self._brought(session_id, each, parts.get(each)) for each in wanted},
        )

    def _open(
        self, session_id: str, lease: Lease | None, brought: list[str], *, create: bool
    ) -> tuple[OpenedDoc, bool]:
        """Return a session, and whether it is new."""
        fields = opened_fields(self._operations.collections, brought)
        with_room = self._operations.with_room
        if not create:
            return with_room(session_id, lambda: self._opener.find(session_id, lease, fields)), False
        fresh, update = opening_update(session_id, SessionType.AGENT.value, self._application_name)
        found, created = with_room(session_id, lambda: self._opener.create(session_id, update, lease, fields))
        return cast(OpenedDoc, fresh) if found is None else found, created

    def _brought(self, session_id: str, agent_id: str, stored: ReadAgentDoc | None) -> RestoredAgent | None:
        """Return an agent that came with the opening, or read it where it has not."""
        with suppress(MissingValueError):
            if stored is not None:
                return self._restorer.restored(session_id, agent_id, stored)
        return self._restorer.restore(session_id, agent_id)

    def renew_lease(self, session_id: str) -> bool:
        """Renew a lease that was taken here; False if another manager holds it by now."""
        lease = self._leases.get(check_id("session_id", session_id))
        if lease is None:
            return False
        with operation("renew_lease", session_id):
            return self._sessions.update_one(*renewed_lease_update(session_id, lease)).matched_count > 0

    def release_lease(self, session_id: str) -> None:
        """Let others write the session, if a lease of it was taken here."""
        lease = self._leases.get(check_id("session_id", session_id))
        if lease is not None:
            with operation("release_lease", session_id):
                self._sessions.update_one(*released_lease_update(session_id, lease))
            del self._leases[session_id]

    def create_session(self, session: Session) -> Session:
        """Create a session; its ``session_type`` may be any string."""
        session_id = check_id("session_id", session.session_id)
        label = f"Session {session_id!r}"
        kind = given_type(label, session.session_type)
        created_at = given_time(label, "created_at", session.created_at)
        fresh = new_session_doc(session_id, kind, self._application_name, created_at)
        fresh["updated_at"] = given_time(label, "updated_at", session.updated_at)
        with operation("create_session", session_id):
            try:
                self._sessions.insert_one({"_id": session_id, "schema_version": SCHEMA_VERSION, **fresh})
            except DuplicateKeyError as error:
                raise SessionConflictError(session_id, None, "exists already; open it instead.") from error
        return session

    def read_session(self, session_id: str) -> Session | None:
        """Return the session, or None if there is none."""
        with operation("read_session", session_id):
            stored = self._sessions.find_one({"_id": session_id}, OPENING_PROJECTION)
        return None if stored is None else _session(session_id, stored)

    def delete_session(self, session_id: str) -> bool:
        """Delete the session and everything that belongs to it; False where there was none."""
        with operation("delete_session", session_id):
            deleted = self._sessions.delete_one({"_id": session_id}).deleted_count > 0
            self._segments.delete(session_id)
            self._values.delete(session_id)
        return deleted


def _recorded_ids(recorded: Any) -> frozenset[str] | None:
    """Return the ids of the agents that a session says it holds; None where it says nothing that can be read."""
    is_list = isinstance(recorded, list) and all(isinstance(agent_id, str) for agent_id in recorded)
    return frozenset(recorded) if is_list else None


def _session(session_id: str, stored: Mapping[str, Any]) -> Session:
    version = stored.get("schema_version")
    if version is not None and not (isinstance(version, int) and version <= SCHEMA_VERSION):
        raise SchemaVersionError(session_id, version, SCHEMA_VERSION)
    return Session(session_id=session_id, session_type=_session_type(stored), **times(stored))


def _session_type(stored: Mapping[str, Any]) -> SessionType:
    # The first version left it out, or wrote "default"; it may be a name of the user's own.
    found = stored.get("session_type")
    try:
        return SessionType.AGENT if found is None else SessionType(found)
    except ValueError:
        return cast(SessionType, found)
