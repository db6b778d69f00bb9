"""Times that are no dates in UTC are refused with a clear error, and nothing is sent."""

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from strands.types.session import Session, SessionAgent, SessionMessage, SessionType

from mongodb_session_manager import MongoDBSessionManager, UnstorableValueError
from mongodb_session_manager.testing import CommandCounter
from tests.aliases import NewManager

BEYOND = [
    datetime.min.replace(tzinfo=timezone(timedelta(hours=14))),
    datetime.max.replace(tzinfo=timezone(timedelta(hours=-14))),
]


@pytest.mark.parametrize("at", BEYOND, ids=str)
@pytest.mark.parametrize(
    "write",
    [
        lambda manager, at: manager.update_metadata({"due": at}),
        lambda manager, at: manager.add_feedback({"due": at}),
        lambda manager, at: manager.session_repository.update_metadata(
            "s-1", {"a": 1}, outbox=[{"id": "n", "due": at}]
        ),
    ],
    ids=["metadata", "feedback", "outbox"],
)
def test_a_time_beyond_the_years_is_not_stored(
    new_manager: NewManager,
    command_counter: CommandCounter,
    write: Callable[[MongoDBSessionManager, datetime], Any],
    at: datetime,
) -> None:
    manager = new_manager()
    manager.flush()

    with command_counter.counting() as log, pytest.raises(UnstorableValueError, match=r"'s-1'.*in UTC, the time"):
        write(manager, at)

    assert log.commands == []
    assert manager.get_metadata() == {}
    assert manager.get_feedbacks() == []


@pytest.mark.parametrize("at", BEYOND, ids=str)
def test_a_record_of_such_a_time_is_refused(
    new_manager: NewManager, command_counter: CommandCounter, at: datetime
) -> None:
    repository = new_manager().session_repository
    repository.create_agent("s-1", SessionAgent("a", {}, {}))
    message = SessionMessage({"role": "user", "content": [{"text": "x"}]}, 0, created_at=at.isoformat())

    with command_counter.counting() as log:
        for create in (
            lambda: repository.create_session(Session("s-2", SessionType.AGENT, created_at=at.isoformat())),
            lambda: repository.create_agent("s-1", SessionAgent("b", {}, {}, created_at=at.isoformat())),
            lambda: repository.create_message("s-1", "a", message),
        ):
            with pytest.raises(ValueError, match="created_at must be a time in ISO 8601"):
                create()

    assert log.commands == []
