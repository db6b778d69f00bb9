"""Moves messages away, as a long conversation does."""

import bson

from mongodb_session_manager import MongoDBSessionManager
from mongodb_session_manager.mongodb_session_repository import stores_of


def move(manager: MongoDBSessionManager, agent_id: str = "a") -> None:
    """Move all but the latest messages of an agent into a segment."""
    histories = stores_of(manager.session_repository).histories
    guard = histories.locate_agent(manager.session_id, agent_id).guard
    assert histories.move_oldest(manager.session_id, agent_id, guard, bson.ObjectId(), kept_bytes=10**6)
