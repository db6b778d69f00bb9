"""Moves fields of agents, such as their states, out of a session document that is full.

A move changes neither guards nor what is restored, so live agents are not disturbed: a write that replaces a field
which has moved meanwhile misses, finds that, and is sent again. An agent of the first version has no guard, and its
fields stay.
"""

import logging
from datetime import datetime, timezone
from typing import Any

from bson import ObjectId
from pymongo import UpdateOne

from .._schema.blobs import fields_in_files
from .._schema.limits import Limits
from .._schema.moved_fields import field_sizes_pipeline, fields_projection, moved_fields_update
from .._schema.values import Stored, unescape_key
from .large_values import LargeValues
from .lives import Lives
from .operation import Collections

__all__ = ["FieldMover"]

logger = logging.getLogger(__name__)

# Fields that move at once: a file takes about four operations, for which a write waits.
_MOST_FIELDS = 100

_LONG_AGO = datetime.min.replace(tzinfo=timezone.utc)


class FieldMover:
    """Moves the fields of a session's agents into files.

    Args:
        collections: The collections of the sessions.
        lives: Of the sessions.
        values: Stores the files.
    """

    def __init__(self, collections: Collections, lives: Lives, values: LargeValues) -> None:
        self._sessions, self._lives, self._values = collections.sessions, lives, values

    def move(self, session_id: str) -> bool:
        """Move fields of the least recently written agents, as much as one write can need; False if none moved."""
        with self._lives.held(session_id):
            fields = _leaving(self._look(session_id), self._values.limits)
            found = self._read(session_id, fields) if fields else {}
            if not found:
                return False
            moves = {agent_id: moved_fields_update(session_id, agent_id, *held) for agent_id, held in found.items()}
            files = {digest: value for _, values in moves.values() for digest, value in values.items()}
            changes = [UpdateOne(*self._lives.named(session_id, change)) for change, _ in moves.values()]
            moved = 0

            def record() -> bool:
                nonlocal moved
                moved = self._sessions.bulk_write(changes, ordered=False).matched_count
                return moved > 0

            self._values.around(session_id, files, record)
            for agent_id, (_, data) in found.items():
                self._values.note_in_files(session_id, agent_id, data)
            if 0 < moved < len(changes):  # other agents were written meanwhile
                self._values.remove(session_id, files, ObjectId())
        logger.info("session_id=<%s>, agents=<%d> | fields moved out of a document that was full", session_id, moved)
        return moved > 0

    def _look(self, session_id: str) -> list[Stored]:
        session = next(self._sessions.aggregate(field_sizes_pipeline(session_id)), {})
        agents = session.get("agents", ())
        return [agent for agent in agents if agent["is_agent"] and agent["revision"] is not None]

    def _read(self, session_id: str, fields: dict[str, list[str]]) -> dict[str, tuple[Stored, Stored]]:
        """Return guard and fields of agents."""
        session = self._sessions.find_one({"_id": session_id}, fields_projection(fields)) or {}
        held = {}
        for key, agent in session.get("agents", {}).items():
            data = agent.get("agent_data", {})
            # Another mover may have been faster.
            data = {name: value for name, value in data.items() if name not in fields_in_files(data)}
            if data and "guard" in agent:
                held[unescape_key(key)] = (agent["guard"], data)
        return held


def _leaving(agents: list[Stored], limits: Limits) -> dict[str, list[str]]:
    """Return which fields of which agents leave the document."""
    fields: dict[str, list[str]] = {}
    size = count = 0
    for agent in sorted(agents, key=lambda each: _written_at(each["updated_at"])):
        large = {name: each for name, each in agent["sizes"].items() if each > limits.least_field_bytes}
        if size >= limits.joined_bytes or count >= _MOST_FIELDS:
            break
        if large:
            fields[unescape_key(agent["key"])] = list(large)
            size, count = size + sum(large.values()), count + len(large)
    return fields


def _written_at(found: Any) -> datetime:
    return found if isinstance(found, datetime) else _LONG_AGO
