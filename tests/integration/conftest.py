"""A client whose commands are counted, and that soon is back after an injected fault."""

from collections.abc import Iterator
from typing import Any

import pytest
from pymongo import MongoClient, common

from mongodb_session_manager.testing import CommandCounter


@pytest.fixture
def mongo_client(
    mongodb_uri: str, command_counter: CommandCounter, monkeypatch: pytest.MonkeyPatch
) -> Iterator[MongoClient[dict[str, Any]]]:
    """A client of the test's own, watched by ``command_counter``, that is soon back after an injected fault."""
    # The driver looks for a lost server again after 0.5 s at the earliest, and these tests lose many.
    monkeypatch.setattr(common, "MIN_HEARTBEAT_INTERVAL", 0.02)
    client: MongoClient[dict[str, Any]] = MongoClient(
        mongodb_uri, tz_aware=True, heartbeatFrequencyMS=20, event_listeners=[command_counter]
    )
    with client:
        yield client
