"""The ways in which an agent's session is written."""

from collections.abc import Callable
from typing import Any

import pytest
from strands import Agent

from mongodb_session_manager import MongoDBSessionManager
from tests.talking import user

Act = Callable[[MongoDBSessionManager, Agent], Any]


def sync_changed(manager: MongoDBSessionManager, agent: Agent) -> None:
    agent.state.set("changed", True)
    manager.sync_agent(agent)


WRITES: dict[str, Act] = {
    "turn": lambda manager, agent: agent("Hi"),
    "append": lambda manager, agent: manager.append_message(user("Hi"), agent),
    "sync": sync_changed,
    "redact": lambda manager, agent: manager.redact_latest_message(user("…"), agent),
}
every_write = pytest.mark.parametrize("act", WRITES.values(), ids=WRITES)
