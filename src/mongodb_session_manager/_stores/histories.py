"""Agents and their histories: created, restored, written and moved.

The session manager's writes are guarded: they go through only if nothing was written since the manager's agent was
restored or last wrote. The SDK's verbs know only message ids.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from bson import ObjectId
from strands.types.session import SessionAgent

from .._client.handle import ClientHandle
from .._schema.blobs import file_digests
from .._schema.files import has_files_update
from .._schema.given import given_time
from .._schema.histories import AgentWrite, Guard, batch_command, guarded_update, unguarded_update
from .._schema.ids import agent_label, check_id, check_message_id
from .._schema.lease import leased_update
from .._schema.messages import MessageEdit, agent_data_doc
from .._schema.reads import NO_MESSAGE
from .._schema.values import FilterAndUpdate, Stored
from ..errors import SessionConflictError
from ..types import LeaseDoc
from .agents import AgentPosition, AgentReader
from .dates import Acknowledge
from .large_values import LargeValues
from .new_agents import NewAgents
from .operation import CONTENDED, Operations, Timed, log_done, operation
from .restored import AgentRestorer, RestoredAgent
from .segments import EmbeddedSize, MessageSegments

if TYPE_CHECKING:
    from pymongo import MongoClient

__all__ = ["AgentPosition", "HistoryStore", "PreparedWrite", "RestoredAgent"]

_NO_CONDITION: Mapping[str, Any] = {}
_NOTHING: Mapping[str, bytes] = {}


@dataclass(frozen=True)
class PreparedWrite:
    """A guarded write that can share a command with others.

    Attributes:
        session_id: The session.
        write: The write.
        change: Filter and update.
        acknowledge: Notes the session's new date of expiry; None if it sets none.
    """

    session_id: str
    write: AgentWrite = field(repr=False)
    change: FilterAndUpdate = field(repr=False)
    acknowledge: Acknowledge | None = field(default=None, repr=False)


class HistoryStore:
    """The agents of one repository's sessions.

    Args:
        operations: Of the repository.
        segments: The messages in segments.
        values: Large values.
        reader: Reads one agent.
        restorer: Restores one agent.
    """

    def __init__(
        self,
        operations: Operations,
        segments: MessageSegments,
        values: LargeValues,
        reader: AgentReader,
        restorer: AgentRestorer,
    ) -> None:
        self._operations, self._segments, self._values = operations, segments, values
        self._reader, self._restorer = reader, restorer
        self._sizes = operations.sizes
        self._new = NewAgents(operations, segments, values, reader)

    @property
    def client(self) -> "MongoClient[dict[str, Any]]":
        """The client in use."""
        return self.handle.client

    @property
    def handle(self) -> ClientHandle:
        """The client with the worker threads that belong to it."""
        return self._operations.use.handle

    @property
    def namespace(self) -> str:
        """Database and collection of the sessions."""
        return self._operations.sessions.full_name

    # The SDK's verbs

    def create_agent(self, session_id: str, session_agent: SessionAgent) -> None:
        """Create an agent without messages."""
        agent_id = check_id("agent_id", session_agent.agent_id)
        label = agent_label(session_id, agent_id)
        data, at = agent_data_doc(session_agent, label), given_time(label, "created_at", session_agent.created_at)
        if not self.start_agent(session_id, AgentWrite(agent_id, data=data, at=at)):
            raise SessionConflictError(session_id, agent_id, "exists already; update it instead.")

    def read_agent(self, session_id: str, agent_id: str) -> SessionAgent | None:
        """Return an agent's data, or None if the session holds no such agent."""
        return self._restorer.read(session_id, agent_id)

    def update_agent(self, session_id: str, session_agent: SessionAgent) -> None:
        """Replace an agent's data; its messages and its time of creation stay."""
        agent_id = check_id("agent_id", session_agent.agent_id)
        write = AgentWrite(agent_id, data=agent_data_doc(session_agent, agent_label(session_id, agent_id)))

        def update(seen: AgentPosition | None) -> bool:
            def send(apart: AgentWrite) -> bool:
                return self.write_unguarded("update_agent", session_id, apart, seen)

            looked = replace(write, replaces_files=seen is not None)
            return self._values.with_fields(session_id, looked, send, is_sent_again=False)

        if not self._operations.write_again(session_id, update, lambda: self.locate_agent(session_id, agent_id)):
            raise SessionConflictError(session_id, agent_id, CONTENDED)

    def write_unguarded(
        self,
        verb: str,
        session_id: str,
        write: AgentWrite,
        seen: AgentPosition | None = None,
        condition: Mapping[str, Any] = _NO_CONDITION,
    ) -> bool:
        """Send a write that knows only message ids; False if it changed nothing."""
        is_nested = seen is not None and seen.guard.nested
        check_id("agent_id", write.agent_id)
        wanted, update = unguarded_update(check_id("session_id", session_id), write, nested=is_nested)
        with operation(verb, session_id, write.agent_id) as outcome:
            written = outcome.of(self._operations.update(session_id, ({**wanted, **condition}, update)))
        if written:
            self._sizes.grew(session_id, write.size)
        return written

    # What the session manager restores and writes

    def start_agent(self, session_id: str, write: AgentWrite) -> bool:
        """Create an agent with its first messages; False if the session holds it already.

        The caller must call ``keep_files`` afterwards, for the values of the messages.
        """
        check_id("agent_id", write.agent_id)
        values = write.files
        return self._values.with_fields(
            session_id, write, lambda apart: self._new.start(session_id, values, apart), is_sent_again=False
        )

    def restore_agent(self, session_id: str, agent_id: str, removed: int | None = None) -> RestoredAgent | None:
        """Return an agent with its live messages, or None if there is no such agent.

        Args:
            session_id: The session.
            agent_id: The agent.
            removed: How many of the oldest messages are not live, for an agent without a stored live set; by default
                as its conversation manager's state says.
        """
        return self._restorer.restore(session_id, agent_id, removed)

    def locate_agent(self, session_id: str, agent_id: str, from_message_id: int = NO_MESSAGE) -> AgentPosition:
        """Return the end of an agent's history, with the tracking ids of the messages from an id on."""
        position = self._reader.locate(session_id, agent_id, from_message_id)
        self._values.note_in_files(session_id, agent_id, position.in_files)
        return position

    def check_lease(self, session_id: str, stored: LeaseDoc | None) -> None:
        """Raise if another manager's lease blocks our writes; clear a lease that has expired."""
        self._operations.check_lease(session_id, stored)

    def write_agent(self, session_id: str, write: AgentWrite, guard: Guard) -> bool:
        """Send one guarded write; False if the history is at another revision.

        Values of messages are uploaded before it; the caller keeps or removes them afterwards.
        """
        if write.files:
            check_id("agent_id", write.agent_id)
            self._values.store(session_id, write.files)
        if not write.data:
            return self._send(session_id, write, guard)
        return self._values.with_fields(session_id, write, lambda apart: self._send(session_id, apart, guard))

    def _send(self, session_id: str, write: AgentWrite, guard: Guard) -> bool:
        change = self._change(session_id, write, guard)
        with Timed("write_agent", session_id, write.agent_id, len(write.appended)) as outcome:
            written = outcome.of(self._operations.send_dated(session_id, change))
        if written:
            self._sizes.grew(session_id, write.size)
        return written

    def prepare_write(self, session_id: str, write: AgentWrite, guard: Guard) -> PreparedWrite:
        """Return the command of ``write_agent`` for ``write_together``; only for a write without files."""
        change = self._change(session_id, write, guard)
        return PreparedWrite(session_id, write, *self._operations.dates.dated(session_id, change))

    def confirm_fields(self, session_id: str, agent_id: str, data: Stored) -> None:
        """See to the files around a write of fields that has arrived although its answer was lost."""
        self._values.confirm_fields(check_id("session_id", session_id), check_id("agent_id", agent_id), data)

    def replaces_files(self, session_id: str, write: AgentWrite) -> bool:
        """Tell whether a write replaces fields that are known to be in files."""
        check_id("agent_id", write.agent_id)
        return self._values.replaces_files(check_id("session_id", session_id), write)

    def _change(self, session_id: str, write: AgentWrite, guard: Guard) -> FilterAndUpdate:
        """Return a write under its guard, the life that is meant, and the lease."""
        check_id("session_id", session_id)
        check_id("agent_id", write.agent_id)
        change = self._operations.lives.named(session_id, guarded_update(session_id, write, guard))
        return leased_update(change, self._operations.leases.get(session_id))

    def write_together(self, prepared: Sequence[PreparedWrite]) -> bool:
        """Send guarded writes of several agents in one command, which the driver does not retry.

        Returns:
            Whether all are acknowledged. If not, or after an error, any of them may still have gone through.
        """
        started = time.perf_counter()
        collection = self._operations.sessions
        changes = (one.change for one in prepared)
        command = batch_command(collection.name, changes, collection.write_concern.document)
        answer = collection.database.command(command)
        if answer["n"] < len(prepared) or answer.get("writeErrors") or answer.get("writeConcernError"):
            return False
        for one in prepared:
            log_done("write_agent", one.session_id, one.write.agent_id, len(one.write.appended), started)
            self._sizes.grew(one.session_id, one.write.size)
            if one.acknowledge is not None:
                one.acknowledge()
        return True

    # Segments

    def index_segments(self) -> None:
        """Have the segments indexed in the background."""
        self._segments.index()

    def is_crowded(self, session_id: str) -> bool:
        """Tell whether a session's writers should move their own agents' messages out of its document."""
        return self._sizes.is_crowded(session_id)

    def move_oldest(
        self, session_id: str, agent_id: str, guard: Guard, write_id: ObjectId, kept_bytes: int | None = None
    ) -> EmbeddedSize | None:
        """Move an agent's oldest messages into segments, as one guarded write.

        Args:
            session_id: The session.
            agent_id: The agent.
            guard: The revision that the history must have.
            write_id: Identifies this write if the answer to it is lost.
            kept_bytes: Bytes of the latest messages that stay at most; by default as the limits say.

        Returns:
            What stays; None if nothing was moved.
        """
        check_id("agent_id", agent_id)
        with operation("rollover", session_id, agent_id):
            lease = self._operations.leases.get(session_id)
            return self._segments.move_oldest(session_id, agent_id, guard, write_id, kept_bytes, lease)

    def edit_in_segments(
        self, session_id: str, agent_id: str, edit: MessageEdit, files: Mapping[str, bytes] = _NOTHING
    ) -> bool:
        """Change a message in segments; False if no segment holds it."""
        check_id("agent_id", agent_id)
        check_message_id(edit.message_id)
        self.store_files(session_id, files)
        with operation("edit_in_segments", session_id, agent_id):
            if files:
                self._operations.send(session_id, has_files_update(session_id))
            return self._segments.edit(session_id, agent_id, edit)

    def tracked_ids(self, session_id: str, agent_id: str, tracking_id: str) -> set[int]:
        """Return the ids of all stored messages with a tracking id; a prompt that was sent again has several."""
        # A segment without a reference may still hold a copy.
        found = self._reader.tracked(session_id, agent_id, [tracking_id], everywhere=True)
        return set(found.get(tracking_id, ()))

    def tracked_messages(self, session_id: str, agent_id: str, tracking_ids: Iterable[str]) -> dict[str, list[int]]:
        """Return the ids of the stored messages that have one of some tracking ids, ascending, by tracking id."""
        return self._reader.tracked(session_id, agent_id, tracking_ids)

    # Large values of messages, for a caller that sends the writes itself

    def store_files(self, session_id: str, files: Mapping[str, bytes]) -> None:
        """Upload the values that the session does not hold yet, ahead of the write that refers to them."""
        if files:
            self._values.store(session_id, files)

    def keep_files(self, session_id: str, files: Mapping[str, bytes]) -> None:
        """Upload again those values of a message that were removed while it was stored."""
        if files:
            self._values.keep(session_id, files)

    def mark_files(
        self, session_id: str, agent_id: str, edit: MessageEdit | None, digests: Iterable[str], removal: ObjectId
    ) -> None:
        """Announce that values are about to lose a use.

        Args:
            session_id: The session.
            agent_id: The agent.
            edit: A change of a message; the values that it removes are looked up.
            digests: Other values.
            removal: Identifies this removal.
        """
        unused = set(digests)
        if edit is not None:
            found = self._reader.find_message(session_id, agent_id, edit.message_id)
            unused |= file_digests(found) - file_digests([edit.fields])
        self._values.mark(session_id, agent_id, unused, removal)

    def remove_files(self, session_id: str, digests: Iterable[str], removal: ObjectId) -> None:
        """Remove values without a use: these, and values whose removal was announced."""
        self._values.remove(session_id, digests, removal)
