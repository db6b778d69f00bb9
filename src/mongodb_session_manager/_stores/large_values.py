"""Large values of messages and states, around the writes that refer to them.

Values are uploaded before the write. After it, they are uploaded again if they were removed meanwhile, and the values
that it replaced are removed. If the write stores nothing, its own values are removed again.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar

from bson import ObjectId
from pymongo.errors import PyMongoError

from .._schema.blobs import Files, data_digests, file_digests, offload_data, put_back_data, put_back_values
from .._schema.histories import AgentWrite
from .._schema.ids import agent_label, check_id
from .._schema.messages import AGENT_FIELDS
from .._schema.values import Stored
from ..errors import MongoDBSessionError
from .files import SessionFiles
from .operation import operation

__all__ = ["LargeValues", "MissingValueError"]

_T = TypeVar("_T")

_REMEDY_FOR_MESSAGE = "another message in its place with the repository's update_message()."
_REMEDY_FOR_AGENT = "another state in its place with the repository's update_agent()."
# Seconds between attempts to read a value that is not there, but will be when its writer is done.
_PAUSES = (0.05, 0.2, 1.0)


class MissingValueError(MongoDBSessionError):
    """A message or state refers to a value that is not in the bucket."""

    def __init__(self, label: str, remedy: str) -> None:
        super().__init__(
            f"{label} has a large value that is not stored any more, or not whole. Restore the bucket, or put {remedy}"
        )


class LargeValues:
    """The offloaded values of one repository's sessions.

    Args:
        files: Where they are.
    """

    def __init__(self, files: SessionFiles) -> None:
        self._files = files
        # Sessions and agents whose state was seen to be in files.
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
        """Write what refers to values.

        Args:
            session_id: The session.
            values: What is uploaded ahead, by digest.
            write: Tells whether it stored something.
            replaces: Whether all values that nothing uses afterwards are removed.
            is_sent_again: Whether the caller may send the write again, so that the values stay where it stores nothing.

        Returns:
            Whether that stored something.
        """
        if not (values or replaces):
            return write()
        if is_sent_again and values:
            self.store(session_id, values)
        if not (write() if is_sent_again else self.ahead(session_id, values, write)):
            return False
        with operation("keep_files", session_id):
            self._files.keep(session_id, values)
            if replaces:
                self._files.remove_all_unused(session_id)
        return True

    def ahead(self, session_id: str, values: Mapping[str, bytes], write: Callable[[], bool]) -> bool:
        """Upload values and write; if that stores nothing, remove them again.

        Not after an error of the driver: the write may arrive yet, and a repeated one needs them.
        """
        if not values:
            return write()
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
        """Upload again what was removed of the values of what was just stored."""
        with operation("keep_files", session_id):
            self._files.keep(session_id, values)

    def mark(self, session_id: str, agent_id: str, digests: Iterable[str], removal: ObjectId) -> None:
        """Announce that values are about to lose a use."""
        with operation("mark_files", session_id, check_id("agent_id", agent_id)):
            self._files.mark(session_id, digests, removal)

    def remove(self, session_id: str, digests: Iterable[str], removal: ObjectId) -> None:
        """Remove the values that nothing uses: these, and those whose removal was announced."""
        with operation("remove_files", session_id):
            self._files.remove_unused(session_id, digests, removal)

    def delete(self, session_id: str) -> None:
        """Delete all values of a session."""
        self._files.delete(session_id)

    def _take_back(self, session_id: str, values: Mapping[str, bytes]) -> None:
        with suppress(PyMongoError):  # what became of the write is what the caller is to know
            self.remove(session_id, values, ObjectId())

    def with_state(
        self, session_id: str, write: AgentWrite, send: Callable[[AgentWrite], bool], *, is_sent_again: bool = True
    ) -> bool:
        """Send a write; large fields of its state are stored as files, and files that they replace are removed."""
        data, files = offload_data(write.data)
        if not (files or self._replaces_files(session_id, write)):
            return send(write)
        apart = replace(write, data=data, files={**write.files, **files})
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
        """Read; again, a little later, if a writer and a remover of the same value have just met."""
        for pause in _PAUSES:
            try:
                return read()
            except MissingValueError:
                time.sleep(pause)
        return read()

    def read(self, session_id: str, of: str, digests: Iterable[str], messages: int = 0) -> Files:
        """Return those of the values that are stored; ``of`` is the agent or multi-agent that they belong to."""
        with operation("read_files", session_id, of, messages=messages):
            return self._files.read(session_id, digests)

    def put_back_messages(self, session_id: str, agent_id: str, messages: Sequence[Stored]) -> None:
        """Put the values of messages in their places."""
        wanted = file_digests(messages)
        if not wanted:
            return
        files = self.read(session_id, agent_id, wanted, len(messages))
        for message in messages:
            if not files.keys() >= file_digests([message]):
                raise MissingValueError(agent_label(session_id, agent_id, message["message_id"]), _REMEDY_FOR_MESSAGE)
            put_back_values(message, files)

    def put_back_state(self, session_id: str, agent_id: str, data: Stored) -> None:
        """Put the fields of an agent's state in their places."""
        wanted = data_digests(data)
        if not wanted:
            return
        self._states.add((session_id, agent_id))
        files = self.read(session_id, agent_id, wanted)
        if not files.keys() >= wanted:
            raise MissingValueError(agent_label(session_id, agent_id), _REMEDY_FOR_AGENT)
        put_back_data(data, files)
