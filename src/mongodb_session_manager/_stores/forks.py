"""Forks: a session is copied, whole or up to the end of a turn, with its segments and large values.

Segments and files are written first, then the document. If there was a turn or a redaction of the source meanwhile,
the fork is taken back and made anew, so that it holds nothing that was redacted before it was there.
"""

import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, cast

import bson
from bson import ObjectId
from bson.errors import InvalidBSON
from pymongo.errors import DocumentTooLarge, DuplicateKeyError, OperationFailure, PyMongoError

from .._client.errors import is_too_large
from .._schema.blobs import Files, data_digests, fields_in_files, file_digests, offload_data, put_back_data
from .._schema.catalog import fork_look_pipeline
from .._schema.files import fork_segments_projection, lasting_files_filter, new_segment_doc, segments_filter
from .._schema.forks import (
    CUT_FIELD,
    Source,
    SourceAgent,
    check_places,
    cut_agent,
    digests_in,
    end_after,
    fork_doc,
    fork_metadata,
    has_ended,
    is_unchanged,
    places_of_agents,
    source_filter,
)
from .._schema.given import metadata_values
from .._schema.histories import usage_doc
from .._schema.ids import check_id
from .._schema.lives import Life, ended_life_filter
from .._schema.summaries import summary_of
from .._schema.usage import moved_usage
from .._schema.values import Stored
from ..errors import MongoDBSessionError, SessionConflictError, SessionNotFoundError
from ..types import MessageDoc, SegmentReferenceDoc, SessionSummary
from .children import ChildrenEraser
from .document_size import METADATA_BYTES, LargeMetadataError
from .erasing import SessionEraser
from .files import SessionFiles
from .living import insert_session
from .operation import Collections, operation
from .segments import total_size

__all__ = ["ForkStore"]

_TRIES = 5
_CONTENDED = "is being written again and again, so that no copy of it is whole. Fork it when its turn is over."
_NOT_UTF8 = "it holds something that is not BSON, such as a text that is not UTF-8."
_FULL = (
    "its document is full, and a fork's would be larger than MongoDB takes. Let it go on with one turn first, which "
    "moves its oldest messages out."
)
_EXISTS = "exists already; give the fork another id."


class _ChangedError(Exception):
    """The session was written, or deleted, while it was copied, or what it refers to is missing.

    Attributes:
        missing: What is missing, and which one; None if nothing is.
    """

    def __init__(self, what: str | None = None, which: object = None) -> None:
        self.missing = None if what is None else (what, which)
        super().__init__(what)


class ForkStore:
    """Forks the sessions of one namespace.

    Args:
        collections: The namespace.
    """

    def __init__(self, collections: Collections) -> None:
        self._collections = collections
        self._sessions, self._segments = collections.sessions, collections.segments
        self._children = ChildrenEraser(collections)
        self._eraser = SessionEraser(collections, collections.lives())

    def fork(self, session_id: str, new_session_id: object, at: object, metadata: object) -> SessionSummary:
        """Copy a session.

        Args:
            session_id: The session.
            new_session_id: The id of the copy; None for a new one.
            at: Where to cut.
            metadata: Metadata of the copy beside those of the session.
        """
        check_id("session_id", session_id)
        fork_id = str(uuid.uuid4()) if new_session_id is None else check_id("new_session_id", new_session_id)
        places, changes = check_places(at), metadata_values(fork_id, {} if metadata is None else metadata)
        with operation("fork", session_id):
            reasons = set[tuple[str, object] | None]()
            for _ in range(_TRIES):
                try:
                    return self._fork(session_id, fork_id, places, changes)
                except _ChangedError as changed:
                    reasons.add(changed.missing)
                except InvalidBSON:
                    raise MongoDBSessionError(f"Session {session_id!r} cannot be forked: {_NOT_UTF8}") from None
                except (DocumentTooLarge, OperationFailure) as error:
                    if not is_too_large(error):
                        raise
                    raise MongoDBSessionError(f"Session {session_id!r} cannot be forked: {_FULL}") from None
        # What a writer has replaced is missing once, and something else with the next try.
        missing = reasons.pop() if len(reasons) == 1 else None
        if missing is None:
            raise SessionConflictError(session_id, None, _CONTENDED)
        what, _ = missing
        raise MongoDBSessionError(f"Session {session_id!r} cannot be forked: {what} that it refers to is missing.")

    def _fork(
        self, session_id: str, fork_id: str, at: int | dict[str, int] | None, metadata: Mapping[str, Any]
    ) -> SessionSummary:
        doc = self._sessions.find_one(source_filter(session_id))
        if doc is None:
            raise SessionNotFoundError(session_id)
        source, copied = Source.of(doc), _Copied(self._collections, Life(fork_id, ObjectId()))
        places = places_of_agents(source, at)
        for agent in source.agents.values():
            _Cut(agent, copied, source.life).make(places.get(agent.agent_id), explicit=at is not None)
        fields = self._metadata(fork_id, source, metadata)
        with self._taken_back(copied.life):
            for agent in source.agents.values():
                copied.segments_of(agent, source.life)
            fork = fork_doc(source, copied.life, fields, _named(source, places))
            copied.files(source.life, digests_in(fork, source.agents.values()))
            self._insert(fork)
            return self._look(source, copied)

    def _metadata(self, fork_id: str, source: Source, changes: Mapping[str, Any]) -> Stored:
        metadata = fork_metadata(source, changes)
        size = len(bson.encode(metadata)) if changes else 0
        if size > METADATA_BYTES:
            raise LargeMetadataError(fork_id, size)
        return metadata

    def _insert(self, fork: Stored) -> None:
        try:
            insert_session(self._collections, self._eraser, fork)
        except DuplicateKeyError as error:
            raise SessionConflictError(fork["_id"], None, _EXISTS) from error

    def _look(self, source: Source, copied: "_Copied") -> SessionSummary:
        """Return the summary of the fork, if the session is as it was read."""
        if copied.is_file_removed():
            raise _ChangedError
        ids = [source.life.session_id, copied.life.session_id]
        rows = {row["_id"]: row for row in self._sessions.aggregate(fork_look_pipeline(ids))}
        if not all(each in rows for each in ids) or not is_unchanged(source, rows[ids[0]]):
            raise _ChangedError
        if copied.are_segments_changed(source.life):
            raise _ChangedError
        return summary_of(rows[ids[1]])

    @contextmanager
    def _taken_back(self, life: Life) -> Iterator[None]:
        """Delete a fork that is not to be, whatever the reason."""
        try:
            yield
        except BaseException:
            with suppress(PyMongoError):  # the reason is what the caller needs; a sweep takes what is left
                self._sessions.delete_one(ended_life_filter(life))
                self._children.delete([life])
            raise


def _named(source: Source, places: Mapping[str, int]) -> SourceAgent | None:
    """Return the agent whose history was cut."""
    cut = [agent for agent in source.agents.values() if agent.agent_id in places or agent.end is not None]
    return cut[0] if cut else None


class _Cut:
    """Finds out where an agent's history is cut; reads segments only if the place is in them.

    Args:
        agent: The agent.
        copied: Reads segments.
        life: The session's.
    """

    def __init__(self, agent: SourceAgent, copied: "_Copied", life: Life) -> None:
        self._agent, self._copied, self._life = agent, copied, life

    def make(self, place: int | None, *, explicit: bool) -> None:
        """Set the end of the history.

        Raises:
            ValueError: No turn ends or begins at the place.
        """
        if place is None:
            # Of several agents, those that are not named are copied whole.
            self._agent.end = None if explicit else self._last_end()
            self._check_numbered()
            return
        found = next((message for message in self._around(place) if message["message_id"] == place), None)
        end = None if found is None else end_after(found)
        if end is None:
            raise ValueError(self._refusal(place))
        self._agent.end = None if self._is_end(end) else end
        self._check_numbered()

    def _check_numbered(self) -> None:
        """Raise if the agent would not know how long its history is: by its guard, or by the last embedded message."""
        agent, end = self._agent, self._agent.end
        if end is None or agent.is_numbered or not agent.references:
            return
        if not any(agent.takes(message["message_id"]) for message in agent.messages):
            raise ValueError(
                f"Agent {agent.agent_id!r} of session {self._life.session_id!r} cannot be forked there: an older "
                "version stored it, and these messages have moved. Let it go on with one turn first."
            )

    def _last_end(self) -> int | None:
        if has_ended(self._agent.messages or self._around_last()):
            return None
        return next((end for message in self._backwards() if (end := end_after(message)) is not None), 0)

    def _is_end(self, end: int) -> bool:
        last = max((message["message_id"] for message in self._agent.messages or self._around_last()), default=-1)
        return end > last

    def _around(self, place: int) -> list[MessageDoc]:
        """Return the messages among which a place is."""
        for reference in self._agent.references:
            if reference["first_id"] <= place <= reference["last_id"]:
                return self._copied.read(self._life, reference)
        return self._agent.messages

    def _around_last(self) -> list[MessageDoc]:
        references = self._agent.references
        return self._copied.read(self._life, references[-1]) if references else []

    def _backwards(self) -> Iterator[MessageDoc]:
        yield from reversed(self._agent.messages)
        for reference in reversed(self._agent.references):
            yield from reversed(self._copied.read(self._life, reference))

    def _forwards(self, place: int) -> Iterator[MessageDoc]:
        for reference in self._agent.references:
            if reference["last_id"] > place:
                yield from self._copied.read(self._life, reference)
        yield from self._agent.messages

    def _refusal(self, place: int) -> str:
        before = next((n for n in self._places(self._backwards()) if n < place), None)
        after = next((n for n in self._places(self._forwards(place)) if n > place), None)
        nearest = [str(each) for each in (before, after) if each is not None]
        return (
            f"Agent {self._agent.agent_id!r} of session {self._life.session_id!r} cannot be forked at message {place}: "
            f"no turn ends or begins there. The nearest places are {' and '.join(nearest) or 'none'}."
        )

    @staticmethod
    def _places(messages: Iterable[MessageDoc]) -> Iterator[int]:
        return (message["message_id"] for message in messages if end_after(message) is not None)


class _Copied:
    """The segments and files of a fork.

    Args:
        collections: Where they are.
        life: The fork's.

    Attributes:
        life: The fork's.
    """

    def __init__(self, collections: Collections, life: Life) -> None:
        self.life = life
        self._segments, self._collections = collections.segments, collections
        self._digests: set[str] = set()
        # Values that the source does not have.
        self._made: Files = {}
        self._seen: dict[ObjectId, list[tuple[Any, Any]]] = {}
        self._read: list[SegmentReferenceDoc] = []
        self._written: list[SegmentReferenceDoc] = []
        self._last: tuple[Any, list[MessageDoc]] = (None, [])

    def read(self, life: Life, reference: SegmentReferenceDoc) -> list[MessageDoc]:
        """Return the messages of a segment that its reference names."""
        if self._last[0] != reference["_id"]:
            segment = self._segments.find_one(segments_filter(life, [reference]))
            if segment is None:
                raise _ChangedError("a segment", reference["_id"])
            self._last = reference["_id"], segment["messages"]
        return [each for each in self._last[1] if each["message_id"] <= reference["last_id"]]

    def segments_of(self, agent: SourceAgent, life: Life) -> None:
        """Copy the segments of an agent, and make the agent of the copy."""
        references, figures, is_cut = list[SegmentReferenceDoc](), dict[str, dict[str, float]](), False
        for reference in agent.references:
            messages = [each for each in self.read(life, reference) if agent.takes(each["message_id"])]
            is_cut = is_cut or len(messages) < reference["count"]
            if not messages:
                break
            self._seen[reference["_id"]] = _marks_of(self._last[1])
            self._read.append(reference)
            references.append(self._copy(agent, messages))
            _add(figures, moved_usage(messages, ()))
        with self._state_in_place(agent, life):
            cut_agent(agent, references, usage_doc(figures) if is_cut else None)

    @contextmanager
    def _state_in_place(self, agent: SourceAgent, life: Life) -> Iterator[None]:
        """Put the state that a cut changes into the document meanwhile, if it is in a file."""
        data = agent.doc["agent_data"]
        if agent.end is None or CUT_FIELD not in fields_in_files(data):
            yield
            return
        state = {CUT_FIELD: data[CUT_FIELD]}
        digests = data_digests(state)
        values = self._values(life).read(life.session_id, digests)
        if not values:
            raise _ChangedError("a large value", frozenset(digests))
        put_back_data(state, values)
        data |= state
        yield
        stored, made = offload_data({CUT_FIELD: data[CUT_FIELD]})
        data |= stored
        self._made |= made

    def _copy(self, agent: SourceAgent, messages: list[MessageDoc]) -> SegmentReferenceDoc:
        segment, reference = new_segment_doc(self.life, agent.agent_id, messages, total_size(messages))
        self._segments.insert_one(cast(Stored, segment))
        self._written.append(reference)
        self._digests |= file_digests(messages)
        return reference

    def files(self, life: Life, digests: set[str]) -> None:
        """Copy the large values that the fork uses, one after the other."""
        values = self._values(life)
        self._digests |= digests
        for digest in sorted(self._digests):
            made = {digest: self._made[digest]} if digest in self._made else {}
            found = made or values.read(life.session_id, [digest])
            if digest not in found:
                raise _ChangedError("a large value", digest)
            values.store(self.life.session_id, found)

    def _values(self, life: Life) -> SessionFiles:
        lives = self._collections.lives()
        lives.opened(self.life.session_id, self.life.instance)
        lives.opened(life.session_id, life.instance)
        return SessionFiles(self._collections, lives)

    def are_segments_changed(self, life: Life) -> bool:
        """Tell whether a message in the segments that were copied was redacted since, or a copy is being removed."""
        if not self._seen:
            return False
        wanted = fork_segments_projection(life, self._read, self.life, self._written)
        found = {each["_id"]: each for each in self._segments.find(*wanted)}
        if any(each["_id"] not in found or found[each["_id"]].get("removals") for each in self._written):
            return True
        marks = {segment_id: _marks_of(each.get("messages", ())) for segment_id, each in found.items()}
        # More may have been appended meanwhile.
        return any(marks.get(each, [])[: len(seen)] != seen for each, seen in self._seen.items())

    def is_file_removed(self) -> bool:
        """Tell whether a large value of the fork was removed, or is being removed."""
        wanted = lasting_files_filter(self.life, self._digests)
        return bool(self._digests) and self._collections.files.count_documents(wanted) < len(self._digests)


def _marks_of(messages: Iterable[MessageDoc]) -> list[tuple[Any, Any]]:
    return [(message["message_id"], message.get("updated_at")) for message in messages]


def _add(sums: dict[str, dict[str, float]], more: Mapping[str, Mapping[str, float]]) -> None:
    for key, figures in more.items():
        found = sums.setdefault(key, {})
        for name, value in figures.items():
            found[name] = found.get(name, 0) + value
