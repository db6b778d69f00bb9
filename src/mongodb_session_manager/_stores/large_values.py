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

from .._schema.blobs import Files, data_digests, file_digests, offload_data, put_back_data, put_back_values
from .._schema.histories import AgentWrite
from .._schema.ids import agent_label, check_id
from .._schema.limits import LIMITS, Limits
from .._schema.messages import AGENT_FIELDS
from .._schema.values import Stored
from ..errors import MongoDBSessionError
from ..types import AgentDataDoc, MessageDoc
from .files import SessionFiles
from .operation import operation

__all__ = ["LargeValues", "MissingValueError"]

_T = TypeVar("_T")

_REMEDY_FOR_MESSAGE = "another message in its place with the repository's update_message()."
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
        # Sessions and agents with a state that is known to be in files.
        self._states: set[tuple[str, str]] = set()

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

    def with_state(
        self, session_id: str, write: AgentWrite, send: Callable[[AgentWrite], bool], *, is_sent_again: bool = True
    ) -> bool:
        """Send a write; large fields of its state are stored as files, and files that these replace are removed."""
        data, files = offload_data(write.data, self.limits)
        if not (files or self._replaces_files(session_id, write)):
            return send(write)
        apart = replace(write, data=data, files={**write.files, **files}, interrupted=write.waits)
        if not self.around(session_id, files, lambda: send(apart), replaces=True, is_sent_again=is_sent_again):
            return False
        self._states.add((session_id, write.agent_id))
        return True

    def _replaces_files(self, session_id: str, write: AgentWrite) -> bool:
        if not self._states or write.data.keys().isdisjoint(AGENT_FIELDS):
            return False
        return (check_id("session_id", session_id), write.agent_id) in self._states

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
                raise MissingValueError(agent_label(session_id, agent_id, message["message_id"]), _REMEDY_FOR_MESSAGE)
            put_back_values(message, files)

    def put_back_state(self, session_id: str, agent_id: str, data: AgentDataDoc) -> None:
        """Replace the marks in an agent's state by the fields."""
        wanted = data_digests(data)
        if not wanted:
            return
        self._states.add((session_id, agent_id))
        files = self.read(session_id, agent_id, wanted)
        if not files.keys() >= wanted:
            raise MissingValueError(agent_label(session_id, agent_id), _REMEDY_FOR_AGENT)
        put_back_data(cast(Stored, data), files)
