"""Deletion: first the session document, then what belongs to that life of its id.

If the process dies in between, the rest is invisible, and a sweep removes it.
"""

from .._schema.expiry import EXPIRED, expired_filter
from .._schema.ids import now
from .._schema.values import Stored
from .large_values import LargeValues
from .operation import Collections, operation
from .segments import MessageSegments

__all__ = ["SessionRemover"]


class SessionRemover:
    """Deletes sessions of one repository.

    Args:
        collections: Where they are.
        segments: Their segments.
        values: Their large values.
    """

    def __init__(self, collections: Collections, segments: MessageSegments, values: LargeValues) -> None:
        self._sessions, self._segments, self._values = collections.sessions, segments, values

    def remove_expired(self, session_id: str, stored: Stored) -> None:
        """Delete a session that was read when it had expired, unless it lives again, or is another one by now."""
        at = None if EXPIRED in stored else now()
        with operation("remove_expired", session_id):
            if self._sessions.delete_one(expired_filter(session_id, at)).deleted_count:
                self._segments.delete(session_id)
                if stored.get("has_files"):
                    self._values.delete(session_id)
