"""Sessions as a whole: opened, created, read and deleted, and the leases under which they are written."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, cast

from pymongo.errors import DuplicateKeyError
from strands.types.session import Session, SessionType

from .._schema.expiry import Lifetime, has_expired
from .._schema.given import check_flag, given_time, given_type
from .._schema.ids import check_id, now
from .._schema.lease import Lease, released_lease_update, renewed_lease_update
from .._schema.lives import instance_of
from .._schema.messages import times
from .._schema.reads import ReadAgentDoc
from .._schema.sessions import (
    AGENTS_BYTES,
    BROUGHT,
    SCHEMA_VERSION,
    OpenedDoc,
    new_session_doc,
    opening_update,
)
from .._schema.values import Stored, decode
from ..errors import SchemaVersionError, SessionConflictError
from .erasing import SessionEraser
from .indexes import ensure_indexes
from .large_values import MissingValueError
from .living import LivingSessions, insert_session
from .opening import SessionOpener, opened_fields
from .operation import Operations, operation
from .outbox import OutboxStore
from .restored import AgentRestorer, RestoredAgent

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
        restorer: Restores agents that are brought along.
        application_name: Of new sessions, by default.
        metadata_fields: To index.
    """

    def __init__(
        self,
        operations: Operations,
        outbox: OutboxStore,
        restorer: AgentRestorer,
        application_name: str | None,
        metadata_fields: tuple[str, ...],
    ) -> None:
        self._operations, self._sessions, self._leases = operations, operations.sessions, operations.leases
        self._outbox, self._restorer = outbox, restorer
        self._application_name, self._metadata_fields = application_name, metadata_fields
        self._opener = SessionOpener(self._sessions, self._leases)
        self._eraser = SessionEraser(operations.collections, operations.lives)
        self._living = LivingSessions(operations, self._eraser)

    def open_session(
        self,
        session_id: str,
        lease: Lease | None = None,
        *,
        ttl: timedelta | None = None,
        create: bool = True,
        agent_ids: Iterable[str] = (),
        found: OpenedDoc | None = None,
    ) -> OpenedSession:
        """Open the session, and create it where it is not there.

        Args:
            session_id: The session.
            lease: Of the later writes; waited for while another manager holds it.
            ttl: How long it lives after the last write; by default as long as is stored.
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
            lifetime, fields = Lifetime(ttl), opened_fields(self._operations.collections, brought)

            def opened() -> tuple[OpenedDoc, bool]:
                return self._open(session_id, lease, lifetime, fields, create=create)

            stored, created = self._living.open(session_id, lifetime, opened, found, create=create)
            parts = dict(zip(brought, stored.get(BROUGHT, ()), strict=False))
            outcome.messages = sum(len(part.get("messages", ())) for part in parts.values())
            session = _session(session_id, stored)
            self._note_life(session_id, stored, upgrade=create and not created)
        self._operations.sizes.set_document_size(session_id, stored.get(AGENTS_BYTES, 0))
        if create:
            ensure_indexes(self._sessions, self._metadata_fields, expiring=ttl is not None)
        agents = {each: None if created else self._brought(session_id, each, parts.get(each)) for each in wanted}
        outbox = tuple(decode(record) for record in self._outbox.undelivered(session_id, stored))
        ids = _recorded_ids(stored.get("agent_ids"))
        return OpenedSession(session, created, stored.get("application_name"), ids, outbox, agents)

    def _note_life(self, session_id: str, stored: OpenedDoc, *, upgrade: bool) -> None:
        """Mean the life that was opened; a session of an older version gets what it has not."""
        lives, instance = self._operations.lives, instance_of(stored)
        if upgrade and (instance is None or stored.get("schema_version") is None):
            instance = self._operations.with_room(session_id, lambda: lives.begin(session_id, stored)).instance
        lives.opened(session_id, instance)

    def _open(
        self, session_id: str, lease: Lease | None, lifetime: Lifetime, fields: Stored, *, create: bool
    ) -> tuple[OpenedDoc, bool]:
        """Return a session as it is stored, and whether it is new."""
        with_room = self._operations.with_room
        if not create:
            return with_room(session_id, lambda: self._opener.find(session_id, lease, fields)), False
        begun = lifetime.begun(now())
        fresh, update = opening_update(session_id, SessionType.AGENT.value, self._application_name, begun)
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
            return self._operations.send_dated(session_id, renewed_lease_update(session_id, lease))

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
                stored = {"_id": session_id, "schema_version": SCHEMA_VERSION, **fresh}
                insert_session(self._operations.collections, self._eraser, stored)
            except DuplicateKeyError as error:
                raise SessionConflictError(session_id, None, "exists already; open it instead.") from error
        return session

    def read_session(self, session_id: str) -> Session | None:
        """Return the session, or None if there is none."""
        with operation("read_session", session_id):
            fields = opened_fields(self._operations.collections, ())
            stored = self._sessions.find_one({"_id": session_id}, fields)
        return None if stored is None or has_expired(stored, now()) else _session(session_id, stored)

    def delete_session(self, session_id: str, *, even_held: bool = False) -> bool:
        """Delete the session and everything that belongs to it; False where there was none."""
        check_flag("even_held", even_held)
        with operation("delete_session", session_id):
            return self._eraser.delete(session_id, even_held=even_held)


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
