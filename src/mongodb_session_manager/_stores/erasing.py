"""Deletes a session with everything that belongs to it: the document first, then its segments and files.

A deletion that ended halfway is finished by the next one. Children of the life that is there now stay, whichever life
was deleted: a child is looked at before the session is, so its life is over if the session is in another one by then.
"""

from bson import ObjectId

from .._schema.files import chunks_filter, files_by_id_filter
from .._schema.lives import (
    Life,
    children_of_lives_filter,
    children_of_session,
    ended_life_filter,
    files_of_session,
    instance_of,
    old_children_filter,
    youngest_old_id,
)
from .lives import Lives
from .operation import Collections

__all__ = ["SessionEraser"]


class SessionEraser:
    """Deletes the sessions of one repository.

    Args:
        collections: Where the sessions and their children are.
        lives: Of the sessions.
    """

    def __init__(self, collections: Collections, lives: Lives) -> None:
        self._collections, self._lives = collections, lives

    def delete(self, session_id: str) -> bool:
        """Delete a session, and what is left of its earlier lives; False if it was not there in the life meant."""
        life = self._lives.ending(session_id)
        deleted = self.delete_document(life)
        self.delete_children(life)
        return deleted

    def delete_document(self, life: Life) -> bool:
        """Delete a session document, unless the session is in another life by now."""
        # A findAndModify would leave an image of the document behind.
        return self._collections.sessions.delete_one(ended_life_filter(life)).deleted_count > 0

    def delete_children(self, ended: Life) -> None:
        """Delete the segments and files of a life that has ended, and those of every other life that is over."""
        session_id = ended.session_id
        segments = {
            instance_of(segment) for segment in self._collections.segments.find(*children_of_session(session_id))
        }
        found = self._collections.files.find(*files_of_session(session_id))
        files = {file["_id"]: instance_of(file["metadata"]) for file in found}
        over = self._over(ended, segments.union(files.values()))
        if not over.isdisjoint(segments):
            self._delete_segments(session_id, over)
        self._delete_files(session_id, [file_id for file_id, each in files.items() if _goes(file_id, each, over)])

    def _over(self, ended: Life, found: set[ObjectId | None]) -> set[ObjectId | None]:
        """Return the instances whose lives are over; None, that of older children, if there is no session."""
        over: set[ObjectId | None] = {ended.instance} - {None}
        if found <= over:
            return over
        session = self._collections.sessions.find_one({"_id": ended.session_id}, {"instance": 1})
        return over | found if session is None else (over | found) - {instance_of(session), None}

    def _delete_segments(self, session_id: str, over: set[ObjectId | None]) -> None:
        segments, instances = self._collections.segments, [each for each in over if each is not None]
        if instances:
            segments.delete_many(children_of_lives_filter(session_id, instances))
        if None in over:
            segments.delete_many(old_children_filter(session_id))

    def _delete_files(self, session_id: str, file_ids: list[ObjectId]) -> None:
        if file_ids:
            self._collections.chunks.delete_many(chunks_filter(file_ids))
            self._collections.files.delete_many(files_by_id_filter(session_id, file_ids))


def _goes(child_id: ObjectId, instance: ObjectId | None, over: set[ObjectId | None]) -> bool:
    return instance in over and (instance is not None or child_id < youngest_old_id())
