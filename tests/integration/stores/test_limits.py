"""Limits that leave a session room for messages: of metadata, agents, and notifications that are not delivered."""

from collections.abc import Callable
from typing import Any

import bson
import pytest
from strands.types.content import Message

from mongodb_session_manager import MongoDBSessionManager, SessionTooLargeError, UnstorableValueError
from mongodb_session_manager._schema.histories import MOST_AGENTS
from mongodb_session_manager.mongodb_session_repository import stores_of
from mongodb_session_manager.testing import CommandCounter
from tests.aliases import Client, NewAgent, NewManager

MIB = 1024 * 1024


def notices(manager: MongoDBSessionManager, count: int, size: int) -> None:
    repository = manager.session_repository
    for number in range(count):
        record = {"id": f"n-{number}", "hook": "test", "target": "nowhere", "message": {"text": "x" * size}}
        repository.update_metadata(manager.session_id, {"number": number}, [record])


def ids(manager: MongoDBSessionManager) -> list[str]:
    return [record["id"] for record in manager.undelivered]


# Notifications


def test_an_outbox_that_nobody_drains_does_not_fill_the_session(
    new_manager: NewManager,
    new_agent: NewAgent,
    stored: Callable[[], Any],
    history: Callable[..., list[Message]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    manager = new_manager()
    agent = new_agent(manager)

    notices(manager, 110, 150_000)
    agent("Is there room?")

    assert len(bson.encode(stored())) < MIB
    assert len(history()) == 2
    assert manager.get_metadata() == {"metadata": {"number": 109}}
    assert "notifications of this session are not delivered" in caplog.text
    assert ids(new_manager()) == [f"n-{number}" for number in range(101)]


def test_what_is_apart_is_acknowledged_like_the_rest(
    new_manager: NewManager, stored: Callable[[], Any], observer: Client, database: str, command_counter: CommandCounter
) -> None:
    manager = new_manager()
    notices(manager, 5, 150_000)
    repository = manager.session_repository

    with command_counter.counting() as log:
        stores_of(repository).outbox.acknowledge("s-1", ["n-0"])
    assert log.names == ["update"]
    for number in (3, 1, 1):
        stores_of(repository).outbox.acknowledge("s-1", [f"n-{number}"])

    assert ids(new_manager()) == ["n-2", "n-4"]
    stores_of(repository).outbox.acknowledge("s-1", ["n-2", "n-4"])
    assert stored()["outbox"] == stored()["outbox_documents"] == []
    assert observer[database].agent_sessions_segments.count_documents({}) == 0


def test_notifications_of_feedback_and_of_deletions_too(new_manager: NewManager, stored: Callable[[], Any]) -> None:
    manager = new_manager()
    notices(manager, 3, 150_000)
    repository, record = manager.session_repository, {"id": "later", "message": {"text": "x" * 150_000}}

    repository.add_feedback("s-1", {"rating": "up"}, outbox=[record])
    repository.delete_metadata("s-1", ["number"], outbox=[{**record, "id": "last"}])

    assert ids(new_manager())[-2:] == ["later", "last"]
    assert manager.get_metadata() == {}
    assert manager.get_feedbacks()[0]["rating"] == "up"


def test_a_change_that_is_refused_leaves_no_notification(
    new_manager: NewManager, observer: Client, database: str
) -> None:
    manager = new_manager()
    notices(manager, 3, 150_000)
    manager.update_metadata({"tags": ["a"]})
    before = observer[database].agent_sessions_segments.count_documents({})
    record = {"id": "later", "message": {"text": "x" * 150_000}}

    with pytest.raises(UnstorableValueError):
        manager.session_repository.update_metadata("s-1", {"tags.9": "b"}, [record])

    assert observer[database].agent_sessions_segments.count_documents({}) == before
    assert manager.delete_session()
    assert observer[database].agent_sessions_segments.count_documents({}) == 0


def test_a_notification_costs_no_more_than_before(new_manager: NewManager, command_counter: CommandCounter) -> None:
    manager = new_manager()

    with command_counter.counting() as log:
        notices(manager, 1, 100)

    assert log.names == ["update"]


# Metadata


def test_metadata_are_refused_over_4_mb_in_all(new_manager: NewManager, new_agent: NewAgent) -> None:
    manager = new_manager()
    for number in range(3):
        manager.update_metadata({f"large_{number}": "x" * MIB})

    with pytest.raises(SessionTooLargeError, match=r"Metadata of session 's-1'.* 4194304\. .*Delete fields"):
        manager.update_metadata({"large_3": "x" * MIB})

    assert sorted(manager.get_metadata()["metadata"]) == ["large_0", "large_1", "large_2"]
    manager.update_metadata({"small": True})
    new_agent(manager)("Is there room?")


def test_metadata_that_take_the_place_of_others_count_once(new_manager: NewManager) -> None:
    manager = new_manager()

    for mark in "abc":
        manager.update_metadata({"large": mark * 3 * MIB, "nested.large": "x"})

    assert manager.get_metadata()["metadata"]["large"][0] == "c"
    manager.delete_metadata(["large"])
    manager.update_metadata({"other": "x" * 3 * MIB})


def test_an_ordinary_update_is_one_write(new_manager: NewManager, command_counter: CommandCounter) -> None:
    manager = new_manager()

    with command_counter.counting() as log:
        manager.update_metadata({"topic": "pears", "tags": ["a"]})
        manager.update_metadata({"tags.1": "b"})

    assert log.names == ["update"] * 2


# Agents


def leave_room(manager: MongoDBSessionManager, count: int) -> None:
    """Have a session hold as many agents as one takes, less some."""
    others = [f"other-{number}" for number in range(MOST_AGENTS - count)]
    manager.session_repository.collection.update_one({"_id": manager.session_id}, {"$set": {"agent_ids": others}})


def test_more_agents_than_a_session_takes_are_refused(new_manager: NewManager, new_agent: NewAgent) -> None:
    manager = new_manager()
    leave_room(manager, 3)
    agents = [new_agent(manager, agent_id=f"a-{number}") for number in range(3)]

    with pytest.raises(UnstorableValueError, match=r"Agent 'a-3' of session 's-1'.*Take another session_id"):
        new_agent(manager, agent_id="a-3")

    agents[2]("I am one of them")
    new_agent(new_manager(), agent_id="a-1")("So am I")
    assert len(manager.list_agents()) == 3


async def test_an_agent_that_comes_later_is_refused_too(factory: Any, new_agent: NewAgent) -> None:
    async with factory.session("s-1", agent_ids=["a-0", "a-1", "a-2", "a-3"]) as manager:
        leave_room(manager, 3)
        agents = [new_agent(manager, agent_id=f"a-{number}") for number in range(4)]
        for agent in agents[:3]:
            await agent.invoke_async("Hi")
        with pytest.raises(Exception, match="Take another session_id"):
            await agents[3].invoke_async("Hi")
        manager._agents.by_id.pop("a-3").history.queue.changes.clear()
