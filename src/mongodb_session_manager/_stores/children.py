"""Deletes what belongs to lives that are over: segments and files, of many sessions at once.

A child is looked at before its session is. So its life is over if the session is in another one by then, or is gone.
A fork alone stores its children first. So the removal of children whose end nobody has seen is announced before the
last look, and a fork looks at its children once it is there: at least one of the two sees the other.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from bson import ObjectId

from .._schema.deletion import (
    FILE_PROJECTION,
    SEGMENT_LIFE,
    added_up,
    announced_removal_update,
    announced_segments_update,
    files_by_ids_filter,
    files_of_sessions_filter,
    segment_sizes_pipeline,
    segments_of_lives_filter,
    segments_of_sessions_filter,
    withdrawn_removal_update,
    withdrawn_segments_update,
)
from .._schema.files import chunks_filter
from .._schema.lives import Life, instance_of, youngest_old_id
from .._schema.sessions import sessions_filter
from .._schema.values import Stored
from .operation import Collections

__all__ = ["Children", "ChildrenEraser", "life_of"]

# Ids in one command; the server takes 16 MiB.
_AT_A_TIME = 100_000
# Rows in one answer.
_ROWS = 10_000


@dataclass
class Children:
    """Segments and files that were found, or deleted.

    Attributes:
        segments: The size of segments, by life.
        files: Their lives and sizes, by id.
        deleted: The number of segments that were deleted.
    """

    segments: dict[Life, int] = field(default_factory=dict)
    files: dict[ObjectId, tuple[Life, int]] = field(default_factory=dict)
    deleted: int = 0

    @property
    def lives(self) -> set[Life]:
        """The lives to which they belong."""
        return {*self.segments, *(life for life, _ in self.files.values())}

    @property
    def counts(self) -> dict[str, int]:
        """How many were deleted."""
        return {"segments": self.deleted, "files": len(self.files)}

    @property
    def bytes(self) -> int:
        """Their size."""
        return sum(self.segments.values()) + sum(size for _, size in self.files.values())

    def of(self, lives: Collection[Life]) -> "Children":
        """Return those of some lives that may go."""
        old = youngest_old_id()
        return Children(
            {life: size for life, size in self.segments.items() if life in lives},
            {
                file_id: file
                for file_id, file in self.files.items()
                if file[0] in lives and (file[0].instance is not None or file_id < old)
            },
        )


class ChildrenEraser:
    """Deletes the segments and files of one namespace.

    Args:
        collections: The namespace.
    """

    def __init__(self, collections: Collections) -> None:
        self._collections = collections

    def delete(self, ended: Collection[Life]) -> Children:
        """Delete the children of lives that have ended, and those of their sessions' other lives that are over.

        Children without an instance go only if there is no session with that id, and if they were not written just now.

        Returns:
            What was deleted.
        """
        found = self._find({life.session_id for life in ended})
        over = {life for life in ended if life.instance is not None}
        others = found.lives - over
        gone = found.of(over | self._ended(others))
        if gone.segments:
            gone.deleted = self._collections.segments.delete_many(segments_of_lives_filter(gone.segments)).deleted_count
        self.delete_files(list(gone.files))
        return gone

    def delete_files(self, file_ids: list[ObjectId]) -> None:
        """Delete files, with their contents before."""
        for first in range(0, len(file_ids), _AT_A_TIME):
            some = file_ids[first : first + _AT_A_TIME]
            self._collections.chunks.delete_many(chunks_filter(some))
            self._collections.files.delete_many(files_by_ids_filter(some))

    def _ended(self, lives: set[Life]) -> set[Life]:
        """Return which of the lives are over, when their removal is announced."""
        over = self.over(lives) if lives else lives
        # No fork has children without an instance.
        new = {life for life in over if life.instance is not None}
        if not new:
            return over
        removal = ObjectId()
        self._collections.segments.update_many(*announced_segments_update(new, removal))
        self._collections.files.update_many(*announced_removal_update(new, None, removal))

        def withdraw(living: set[Life]) -> None:
            self._collections.segments.update_many(*withdrawn_segments_update(living, removal))
            self._collections.files.update_many(*withdrawn_removal_update(living, None, removal))

        return (over - new) | self.still_over(new, withdraw)

    def still_over(self, lives: set[Life], withdraw: Callable[[set[Life]], None]) -> set[Life]:
        """Look again at lives whose children's removal is announced, and return which are over.

        Args:
            lives: The lives.
            withdraw: Takes the announcement back for those that are not.
        """
        over = self.over(lives)
        if living := lives - over:
            withdraw(living)
        return over

    def over(self, lives: Iterable[Life]) -> set[Life]:
        """Return which of the lives are over."""
        wanted = sessions_filter({life.session_id for life in lives})
        found = self._collections.sessions.find(wanted, {"instance": 1}, batch_size=_ROWS)
        living = {session["_id"]: instance_of(session) for session in found}
        return {life for life in lives if _is_over(life, living)}

    def _find(self, session_ids: Collection[str]) -> Children:
        found = Children()
        for row in self._segments_of(session_ids):
            if life := life_of(row["_id"]):
                found.segments[life] = row["bytes"]
        wanted = files_of_sessions_filter(session_ids)
        for file in self._collections.files.find(wanted, FILE_PROJECTION, batch_size=_ROWS):
            if life := life_of(file.get("metadata")):
                found.files[file["_id"]] = life, added_up([file.get("length")])
        return found

    def _segments_of(self, session_ids: Collection[str]) -> Iterable[Stored]:
        segments = self._collections.segments
        if self._collections.can_compute:
            return segments.aggregate(segment_sizes_pipeline(session_ids), batchSize=_ROWS)
        found = segments.find(segments_of_sessions_filter(session_ids), SEGMENT_LIFE)
        return [{"_id": segment, "bytes": 0} for segment in found]


def _is_over(life: Life, living: dict[str, Any]) -> bool:
    """Tell whether a life is over, from the instances of the sessions that are there."""
    if life.session_id not in living:
        return True
    # A session without an instance, and children without one, are of an older version.
    return None not in (life.instance, living[life.session_id]) and living[life.session_id] != life.instance


def life_of(child: Any) -> Life | None:
    """Return the life that a segment, or the metadata of a file, belongs to; None if it belongs to no session."""
    session_id = child.get("session_id") if isinstance(child, dict) else None
    return Life(session_id, instance_of(child)) if isinstance(session_id, str) and session_id else None
