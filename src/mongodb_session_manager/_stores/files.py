"""The large values of a session's messages and states, in GridFS: by digest, shared within a session only.

The layout is that of GridFS; the order of writes is stricter than a ``GridFSBucket``'s. A file's document is written
before its first chunk and deleted after its last, so that every stored chunk belongs to a session.

A value is removed when no message, no agent's state and no state of a Graph or Swarm uses it. A remover marks the file,
then looks for uses, then deletes the file or takes the mark back. A writer stores the use, then looks at the file once
more. So at least one of the two sees the other.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress

import pymongo
from bson import ObjectId
from pymongo.errors import PyMongoError

from .._schema.agents import used_files_pipeline
from .._schema.blobs import Files, file_digests
from .._schema.files import (
    chunks_filter,
    files_by_id_filter,
    files_filter,
    kept_files_update,
    lasting_files_filter,
    marked_files_filter,
    marked_files_update,
    new_file_doc,
    segments_with_files_projection,
    uploaded_file_update,
    values_of_files,
    whole_files_filter,
)
from .._schema.lives import Life, instance_of
from .._schema.values import Stored
from .all_agents import read_session_agents
from .indexes import ensure_file_indexes
from .lives import Lives
from .operation import Collections

# The default of GridFS: a chunk with its document is a little smaller than 256 KiB.
CHUNK_BYTES = 255 * 1024
# Chunks in one command. All other threads, the event loop's too, wait while it is encoded.
AT_A_TIME = 4
# Seconds to take a failed upload back; the server may not answer.
ABORT_TIMEOUT = 1.0


class SessionFiles:
    """The offloaded values of sessions.

    Args:
        collections: Where they are.
        lives: Of the sessions.
    """

    def __init__(self, collections: Collections, lives: Lives) -> None:
        self.lives = lives
        self._sessions, self._segments = collections.sessions, collections.segments
        self._files, self._chunks = collections.files, collections.chunks

    def store(self, session_id: str, values: Mapping[str, bytes]) -> set[str]:
        """Upload the values that the session does not hold yet, and return their digests."""
        if not values:
            return set()
        life = self.lives.of(session_id)
        held = self._digests(lasting_files_filter(life, values))
        missing = values.keys() - held
        for digest in sorted(missing):
            self._upload(life, digest, values[digest])
        return missing

    def keep(self, session_id: str, values: Mapping[str, bytes]) -> None:
        """Upload again those values of a finished write that were removed meanwhile."""
        again = self.store(session_id, values)
        if again:  # removed meanwhile, perhaps with the message or the whole session
            self.remove_unused(session_id, again, ObjectId())

    def read(self, session_id: str, digests: Iterable[str]) -> Files:
        """Return those of the values that the session holds."""
        whole = self._files.find(whole_files_filter(self.lives.read(session_id), digests))
        found = {_digest(file): file for file in sorted(whole, key=_is_lasting)}.values()
        return values_of_files(found, self._chunks.find(chunks_filter(file["_id"] for file in found)))

    def mark(self, session_id: str, digests: Iterable[str], removal: ObjectId) -> None:
        """Announce that values may be removed soon, so that no writer relies on them."""
        self._files.update_many(*marked_files_update(self.lives.read(session_id), digests, removal))

    def remove_unused(self, session_id: str, digests: Iterable[str], removal: ObjectId) -> None:
        """Remove values without a use: these, and values whose removal was announced."""
        life = self.lives.read(session_id)
        self._files.update_many(*marked_files_update(life, digests, removal))
        marked = list(self._files.find(marked_files_filter(life, removal)))
        if not marked:
            return
        used = self._used(life)
        self._delete(session_id, [file["_id"] for file in marked if _digest(file) not in used])
        kept = {_digest(file) for file in marked} & used
        if kept:
            self._files.update_many(*kept_files_update(life, kept, removal))

    def remove_all_unused(self, session_id: str) -> None:
        """Remove every value of a session that nothing uses."""
        life = self.lives.read(session_id)
        held = self._digests(files_filter(life))
        unused = held - self._used(life) if held else held
        if unused:
            self.remove_unused(session_id, unused, ObjectId())

    def _digests(self, wanted: Stored) -> set[str]:
        return {_digest(file) for file in self._files.find(wanted, {"metadata.sha256": 1})}

    def _used(self, life: Life) -> set[str]:
        # In this order a message that moves meanwhile is seen: for a moment it is in both.
        session = read_session_agents(self._sessions, life.session_id, used_files_pipeline) or {}
        if instance_of(session) != life.instance:
            return set()  # deleted, and perhaps created again
        used = file_digests(session.get("states", ()))
        for agent in session.get("agents", ()):
            used |= file_digests(agent["messages"]) | set(agent["data"].values())
        for segment in self._segments.find(*segments_with_files_projection(life)):
            used |= file_digests(segment["messages"])
        return used

    def _upload(self, life: Life, digest: str, value: bytes) -> None:
        ensure_file_indexes(self._files, self._chunks)
        file = new_file_doc(life, digest, len(value), CHUNK_BYTES)
        try:
            self._files.insert_one(file)
            for first in range(0, len(value), AT_A_TIME * CHUNK_BYTES):
                self._chunks.insert_many(_chunks(file["_id"], value, first))
            whole = self._files.update_one(*uploaded_file_update(file["_id"])).matched_count
        except PyMongoError:
            with suppress(PyMongoError), pymongo.timeout(ABORT_TIMEOUT):
                self._delete(life.session_id, [file["_id"]])
            raise
        if not whole:  # being removed already; ``keep`` will find that it is missing
            self._delete(life.session_id, [file["_id"]])

    def _delete(self, session_id: str, file_ids: list[ObjectId]) -> None:
        if file_ids:
            self._chunks.delete_many(chunks_filter(file_ids))
            self._files.delete_many(files_by_id_filter(session_id, file_ids))


def _chunks(file_id: ObjectId, value: bytes, first: int) -> list[Stored]:
    last = min(first + AT_A_TIME * CHUNK_BYTES, len(value))
    starts = range(first, last, CHUNK_BYTES)
    return [{"files_id": file_id, "n": s // CHUNK_BYTES, "data": value[s : s + CHUNK_BYTES]} for s in starts]


def _is_lasting(file: Stored) -> bool:
    return not file["metadata"].get("removals")


def _digest(file: Stored) -> str:
    return str(file["metadata"]["sha256"])
