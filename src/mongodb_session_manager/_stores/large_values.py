"""Large values of messages and states, around the writes that refer to them.

Values are uploaded before the write. After it, values that were removed meanwhile are uploaded again, and the values
that the write has replaced are removed. If the write stores nothing, its own values are removed.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar, cast

from bson import ObjectId
from pymongo.errors import PyMongoError

from .._schema.blobs import (
    Files,
    data_digests,
    fields_in_files,
    file_digests,
    offload_data,
    put_back_data,
    put_back_values,
)
from .._schema.histories import AgentWrite
from .._schema.ids import agent_label, check_id
from .._schema.limits import LIMITS, Limits
from .._schema.messages import AGENT_FIELDS
from .._schema.values import Stored
from ..errors import MongoDBSessionError, SessionTooLargeError
from ..types import AgentDataDoc, MessageDoc
from .files import SessionFiles
from .operation import operation

__all__ = ["LargeValues", "MissingValueError"]

_T = TypeVar("_T")

_NONE: frozenset[str] = frozenset()

# Agents, and sessions, of which a repository notes something at most. A write to another one finds it out.
MOST_NOTED = 10_000

REMEDY_FOR_MESSAGE = "another message in its place with the repository's update_message()."
_REMEDY_FOR_AGENT = "another state in its place with the repository's update_agent()."


class MissingValueError(MongoDBSessionError):
    """A message or state refers to a value that is not stored."""

    def __init__(self, label: str, remedy: str) -> None:
        super().__init__(
            f"{label} has a large value that is not stored any more, or not whole. Restore the bucket, or put {remedy}"
        )


class LargeValues:
    """The offloaded values of one repository's sessions.

    Args:
        files: Where they are.
        limits: Above which size a value is offloaded, and how often a missing one is read.

    Attributes:
        limits: The same.
    """

    def __init__(self, files: SessionFiles, limits: Limits = LIMITS) -> None:
        self._files, self.limits = files, limits
        # By session and agent: the fields that may be in files.
        self._in_files: dict[tuple[str, str], frozenset[str]] = {}
        # Sessions whose documents had no room for a field.
        self._full: set[str] = set()

    # Around a write

    def around(
        self,
        session_id: str,
        values: Mapping[str, bytes],
        write: Callable[[], bool],
        *,
        replaces: bool = False,
        is_sent_again: bool = False,
    ) -> bool:
        """Send a write that refers to values.

        Args:
            session_id: The session.
            values: The values, by digest; they are uploaded first.
            write: Sends the write, and returns whether it stored something.
            replaces: Whether values that have no use afterwards are removed.
            is_sent_again: Whether the caller may send the write again, so that the values stay if it stores nothing.

        Returns:
            Whether the write stored something.
        """
        if not (values or replaces):
            return write()
        with self._files.lives.held(session_id):
            if is_sent_again and values:
                self.store(session_id, values)
            if not (write() if is_sent_again else self.ahead(session_id, values, write)):
                if is_sent_again and values and self._files.lives.is_over(session_id):
                    self._take_back(session_id, values)
                return False
            with operation("keep_files", session_id):
                self._files.keep(session_id, values)
                if replaces:
                    self._files.remove_all_unused(session_id)
            return True

    def ahead(self, session_id: str, values: Mapping[str, bytes], write: Callable[[], bool]) -> bool:
        """Upload values and write; if the write stores nothing, remove the values again.

        After an error of the driver they stay: the write may still arrive, and a repeated one needs them.
        """
        if not values:
            return write()
        with self._files.lives.held(session_id):
            try:
                self.store(session_id, values)
                written = write()
            except MongoDBSessionError:
                self._take_back(session_id, values)
                raise
            if not written:
                self._take_back(session_id, values)
            return written

    def store(self, session_id: str, values: Mapping[str, bytes]) -> None:
        """Upload the values that the session does not hold yet."""
        with operation("store_files", session_id):
            self._files.store(session_id, values)

    def keep(self, session_id: str, values: Mapping[str, bytes]) -> None:
        """Upload again those values of a finished write that were removed meanwhile."""
        with operation("keep_files", session_id):
            self._files.keep(session_id, values)

    def mark(self, session_id: str, agent_id: str, digests: Iterable[str], removal: ObjectId) -> None:
        """Announce that values are about to lose a use."""
        with operation("mark_files", session_id, check_id("agent_id", agent_id)):
            self._files.mark(session_id, digests, removal)

    def remove(self, session_id: str, digests: Iterable[str], removal: ObjectId) -> None:
        """Remove values without a use: these, and values whose removal was announced."""
        with operation("remove_files", session_id):
            self._files.remove_unused(session_id, digests, removal)

    def _take_back(self, session_id: str, values: Mapping[str, bytes]) -> None:
        with suppress(PyMongoError):  # the caller needs the outcome of the write, not of this
            self.remove(session_id, values, ObjectId())

    # Fields of agents

    def with_fields(
        self, session_id: str, write: AgentWrite, send: Callable[[AgentWrite], bool], *, is_sent_again: bool = True
    ) -> bool:
        """Send a write; large fields of the agent are stored as files, and files that these replace are removed.

        If the session document has no room, smaller fields are stored as files too.
        """
        limit = self._limit(session_id)
        try:
            return self._with_fields(session_id, write, limit, send, is_sent_again)
        except SessionTooLargeError:
            least = self.limits.least_field_bytes
            if len(offload_data(write.data, least)[1]) == len(offload_data(write.data, limit)[1]):
                raise
        written = self._with_fields(session_id, write, least, send, is_sent_again)
        if len(self._full) >= MOST_NOTED:
            self._full.clear()
        self._full.add(session_id)
        return written

    def _limit(self, session_id: str) -> int:
        is_full = bool(self._full) and check_id("session_id", session_id) in self._full
        return self.limits.least_field_bytes if is_full else self.limits.value_bytes

    def _with_fields(
        self, session_id: str, write: AgentWrite, limit: int, send: Callable[[AgentWrite], bool], is_sent_again: bool
    ) -> bool:
        data, files = offload_data(write.data, limit)
        if not (files or self.replaces_files(session_id, write)):
            return send(write)
        apart = replace(write, data=data, files={**write.files, **files}, interrupted=write.waits, replaces_files=True)
        self.note_in_files(session_id, write.agent_id, fields_in_files(data))  # the answer may be lost
        try:
            if not self.around(session_id, files, lambda: send(apart), replaces=True, is_sent_again=is_sent_again):
                return False
        except SessionTooLargeError:
            if files:
                self._take_back(session_id, files)
            raise
        known = self._known(session_id, write.agent_id)
        self._note(session_id, write.agent_id, known - write.data.keys() | set(fields_in_files(data)))
        return True

    def replaces_files(self, session_id: str, write: AgentWrite) -> bool:
        """Tell whether a write replaces fields that are known to be in files."""
        if not self._in_files or not write.data:
            return False
        return not self._known(session_id, write.agent_id).isdisjoint(write.data)

    def confirm_fields(self, session_id: str, agent_id: str, data: Stored) -> None:
        """See to the files around a write of fields that has arrived although its answer was lost."""
        if self.replaces_files(session_id, AgentWrite(agent_id, data=data)):
            self.keep(session_id, offload_data(data, self.limits.least_field_bytes)[1])
            with operation("remove_files", session_id, agent_id):
                self._files.remove_all_unused(session_id)

    def note_in_files(self, session_id: str, agent_id: str, names: Iterable[str]) -> None:
        """Note fields of an agent that may be in files."""
        found = frozenset(names)
        if found:
            self._note(session_id, agent_id, self._known(session_id, agent_id) | found)

    def _known(self, session_id: str, agent_id: str) -> frozenset[str]:
        return self._in_files.get((session_id, agent_id), _NONE)

    def _note(self, session_id: str, agent_id: str, names: frozenset[str]) -> None:
        if not names:
            self._in_files.pop((session_id, agent_id), None)
            return
        if len(self._in_files) >= MOST_NOTED:
            self._in_files.clear()
        self._in_files[session_id, agent_id] = names

    # Reading

    def whole(self, read: Callable[[], _T]) -> _T:
        """Read; again a little later, if a remover was faster than a writer that uploads the value again."""
        for pause in self.limits.read_pauses:
            try:
                return read()
            except MissingValueError:
                time.sleep(pause)
        return read()

    def read(self, session_id: str, of: str, digests: Iterable[str], messages: int = 0) -> Files:
        """Return the stored ones of the values; ``of`` labels the agent or multi-agent that they belong to."""
        with operation("read_files", session_id, of, messages=messages):
            return self._files.read(session_id, digests)

    def put_back_messages(self, session_id: str, agent_id: str, messages: Sequence[MessageDoc]) -> None:
        """Replace the marks in messages by their values."""
        wanted = file_digests(messages)
        if not wanted:
            return
        files = self.read(session_id, agent_id, wanted, len(messages))
        for message in messages:
            if not files.keys() >= file_digests([message]):
                raise MissingValueError(agent_label(session_id, agent_id, message["message_id"]), REMEDY_FOR_MESSAGE)
            put_back_values(message, files)

    def put_back_state(self, session_id: str, agent_id: str, data: AgentDataDoc) -> None:
        """Replace the marks in an agent's state by the fields."""
        self.put_back_fields(session_id, {agent_id: cast(Stored, data)}, AGENT_FIELDS)

    def put_back_fields(self, session_id: str, agents: Mapping[str, Stored], names: Sequence[str]) -> None:
        """Replace the marks in some fields of agents' data by the fields."""
        found = {}
        for agent_id, data in agents.items():
            in_files = fields_in_files(data)
            self.note_in_files(session_id, agent_id, in_files)
            found[agent_id] = {name: data[name] for name in names if name in in_files}
        wanted = {agent_id: data_digests(fields) for agent_id, fields in found.items() if fields}
        if not wanted:
            return
        files = self.read(session_id, ", ".join(wanted), set().union(*wanted.values()))
        for agent_id, digests in wanted.items():
            if not files.keys() >= digests:
                raise MissingValueError(agent_label(session_id, agent_id), _REMEDY_FOR_AGENT)
            put_back_data(found[agent_id], files)
            agents[agent_id].update(found[agent_id])
