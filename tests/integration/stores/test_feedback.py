"""Feedback: stored in order, about messages that exist, and moved out of the session document where it grows."""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import bson
import mongomock
import pytest
from pymongo import MongoClient

from mongodb_session_manager import MongoDBSessionManager
from mongodb_session_manager.errors import (
    MessageNotFoundError,
    SessionNotFoundError,
    SessionTooLargeError,
    UnstorableValueError,
)
from mongodb_session_manager.testing import CommandCounter
from tests.aliases import Failing, Inject, NewAgent, NewManager, Stored

Segments = Callable[..., list[dict[str, Any]]]

AT = datetime(2024, 1, 26, 10, 30, 45, 123000, tzinfo=timezone.utc)
LIMIT = 256 * 1024


@pytest.fixture
def segments(observer: MongoClient[dict[str, Any]], database: str) -> Segments:
    """Read the segments of a session as they are in the database."""

    def read(session_id: str = "s-1", collection: str = "agent_sessions") -> list[dict[str, Any]]:
        return list(observer[database][f"{collection}_segments"].find({"session_id": session_id}).sort("_id"))

    return read


@pytest.fixture
def failing_segments(observer: MongoClient[dict[str, Any]], database: str) -> Inject:
    """Let the server refuse commands on the segments."""

    @contextmanager
    def inject(*commands: str) -> Iterator[None]:
        data = {"failCommands": commands, "namespace": f"{database}.agent_sessions_segments", "errorCode": 13}
        observer.admin.command("configureFailPoint", "failCommand", mode="alwaysOn", data=data)
        try:
            yield
        finally:
            observer.admin.command("configureFailPoint", "failCommand", mode="off")

    return inject


def comments(manager: MongoDBSessionManager) -> list[str]:
    return [feedback["comment"].strip() for feedback in manager.get_feedbacks()]


def without_time(feedbacks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in feedback.items() if name != "created_at"} for feedback in feedbacks]


# Storing


def test_there_is_none_at_first(new_manager: NewManager) -> None:
    assert new_manager().get_feedbacks() == []


@pytest.mark.parametrize("on", ["mongod", "mongomock"])
def test_feedback_comes_back_in_order(request: pytest.FixtureRequest, on: str) -> None:
    client: Any = mongomock.MongoClient()
    given: list[dict[str, Any]] = [
        {"rating": "up", "comment": "Great!", "category": "accuracy", "user_id": "user-123"},
        {"rating": "down", "comment": "x" * LIMIT},
        {"rating": None},
        {},
        {"rating": "up", "tags": ["a", {"b.c": "$d"}], "at": AT, "blob": b"\0"},
    ]
    manager = (
        MongoDBSessionManager("s-1", client=client) if on == "mongomock" else request.getfixturevalue("new_manager")()
    )

    for feedback in given:
        manager.add_feedback(feedback)

    assert without_time(manager.get_feedbacks()) == given


def test_the_time_is_added(new_manager: NewManager, stored: Stored) -> None:
    manager = new_manager()
    given = {"rating": "up"}
    before = datetime.now(timezone.utc) - timedelta(milliseconds=1)

    manager.add_feedback(given)

    (feedback,) = manager.get_feedbacks()
    assert before <= feedback["created_at"] <= datetime.now(timezone.utc)
    assert feedback["created_at"].utcoffset() == timedelta(0)
    assert stored()["feedbacks"] == [feedback]
    assert stored()["updated_at"] == feedback["created_at"]
    assert given == {"rating": "up"}


@pytest.mark.parametrize("rating", ["up", "down", None, "meh", "", 5, 4.5, True, ["a"], {"stars": 5}, b"up", 2**70])
def test_a_rating_of_any_type(new_manager: NewManager, rating: Any) -> None:
    manager = new_manager()

    manager.add_feedback({"rating": rating})

    (feedback,) = manager.get_feedbacks()
    assert feedback["rating"] == rating
    assert type(feedback["rating"]) is type(rating)


def test_a_comment_of_a_megabyte(new_manager: NewManager, stored: Stored) -> None:
    manager = new_manager()

    manager.add_feedback({"comment": "é" * 1_000_000})

    assert [len(feedback["comment"]) for feedback in manager.get_feedbacks()] == [1_000_000]
    assert len(bson.encode(stored())) < 10_000


def test_adding_and_reading_is_one_operation_each(new_manager: NewManager, command_counter: CommandCounter) -> None:
    manager = new_manager()

    with command_counter.counting() as log:
        manager.add_feedback({"rating": "up"})
    assert log.names == ["update"]

    with command_counter.counting() as log:
        manager.get_feedbacks()
    assert log.names == ["find"]


# What is refused


@pytest.mark.parametrize("feedback", [None, "up", 5, [("rating", "up")], {"up"}], ids=repr)
def test_feedback_must_be_a_mapping(new_manager: NewManager, command_counter: CommandCounter, feedback: Any) -> None:
    manager = new_manager()

    with command_counter.counting() as log, pytest.raises(TypeError, match=r"'s-1'.*mapping"):
        manager.add_feedback(feedback)

    assert log.commands == []


@pytest.mark.parametrize(
    ("feedback", "error", "told"),
    [
        ({"created_at": AT}, ValueError, "created_at"),
        ({"created_at": None}, ValueError, "created_at"),
        ({"rating": {"up"}}, UnstorableValueError, r"'s-1'\.rating"),
        ({"tags": [Decimal(1)]}, UnstorableValueError, r"'s-1'\.tags\[0\]"),
        ({5: "up"}, UnstorableValueError, "'s-1'.*int"),
        ({"message_id": "0", "agent_id": "default"}, ValueError, "message_id"),
        ({"message_id": 1.5, "agent_id": "default"}, ValueError, "message_id"),
        ({"message_id": 0, "agent_id": ""}, ValueError, "agent_id"),
        ({"message_id": 0, "agent_id": 5}, TypeError, "agent_id"),
        ({"tracking_id": 5}, ValueError, "tracking_id"),
        ({"tracking_id": {"$ne": None}}, ValueError, "tracking_id"),
        ({"message_id": {"$ne": None}, "agent_id": "default"}, ValueError, "message_id"),
    ],
    ids=str,
)
def test_bad_feedback_is_refused_before_anything_is_sent(
    new_manager: NewManager,
    command_counter: CommandCounter,
    feedback: Any,
    error: type[Exception],
    told: str,
) -> None:
    manager = new_manager()

    with command_counter.counting() as log, pytest.raises(error, match=told):
        manager.add_feedback(feedback)

    assert log.commands == []


def test_too_much_at_once(new_manager: NewManager) -> None:
    manager = new_manager()

    with pytest.raises(SessionTooLargeError, match="'s-1'"):
        manager.add_feedback({"comment": "x" * 17_000_000})

    assert manager.get_feedbacks() == []


@pytest.mark.parametrize(
    "call",
    [
        lambda manager: manager.add_feedback({"rating": "up"}),
        lambda manager: manager.add_feedback({"rating": "up", "agent_id": "default", "message_id": 0}),
        lambda manager: manager.add_feedback({"rating": "up", "tracking_id": "t"}),
        lambda manager: manager.get_feedbacks(),
    ],
    ids=["add", "by id", "by tracking id", "get"],
)
def test_a_deleted_session_is_told(
    new_manager: NewManager, stored: Stored, segments: Segments, call: Callable[[MongoDBSessionManager], Any]
) -> None:
    manager = new_manager()
    manager.add_feedback({"comment": "x" * LIMIT})
    new_manager().delete_session()

    with pytest.raises(SessionNotFoundError, match="'s-1'"):
        call(manager)

    assert stored() is None
    assert segments() == []


# Pointing at a message


@pytest.fixture
def talked(new_manager: NewManager, new_agent: NewAgent) -> MongoDBSessionManager:
    """A manager of a session in which two agents have said something."""
    manager = new_manager()
    for agent_id in ("first", "se.cond$"):
        new_agent(manager, agent_id=agent_id)("Hi")
    return manager


def pointer(manager: MongoDBSessionManager, agent_id: str, message_id: int, by: str) -> dict[str, Any]:
    """Tell a message by its id, its tracking id, or the latter and its agent."""
    tracking_id = manager.list_messages(agent_id)[message_id]["tracking_id"]
    return {
        "id": {"agent_id": agent_id, "message_id": message_id},
        "tracking id": {"tracking_id": tracking_id},
        "tracking id and agent": {"agent_id": agent_id, "tracking_id": tracking_id},
        "everything": {"agent_id": agent_id, "message_id": message_id, "tracking_id": tracking_id},
    }[by]


@pytest.mark.parametrize("by", ["id", "tracking id", "tracking id and agent", "everything"])
@pytest.mark.parametrize("agent_id", ["first", "se.cond$"])
@pytest.mark.parametrize("restarted", [False, True], ids=["same process", "restarted"])
def test_feedback_about_a_message(
    talked: MongoDBSessionManager,
    new_manager: NewManager,
    command_counter: CommandCounter,
    by: str,
    agent_id: str,
    restarted: bool,
) -> None:
    about = pointer(talked, agent_id, 1, by)
    manager = new_manager() if restarted else talked

    with command_counter.counting() as log:
        manager.add_feedback({"rating": "up", **about})

    assert log.names == ["update"]
    assert without_time(manager.get_feedbacks()) == [{"rating": "up", **about}]


@pytest.mark.parametrize(
    "about",
    [
        {"agent_id": "first", "message_id": 2},
        {"agent_id": "first", "message_id": -1},
        {"agent_id": "first", "message_id": 2**40},
        {"agent_id": "first", "message_id": 2**70},
        {"agent_id": "stranger", "message_id": 0},
        {"tracking_id": "unknown"},
        {"tracking_id": ""},
        {"agent_id": "first", "tracking_id": "unknown"},
        {"agent_id": "stranger", "tracking_id": "unknown"},
    ],
    ids=str,
)
def test_feedback_about_no_message_is_refused(
    talked: MongoDBSessionManager, command_counter: CommandCounter, stored: Stored, about: dict[str, Any]
) -> None:
    before = stored()

    with pytest.raises(MessageNotFoundError, match="'s-1'") as caught:
        talked.add_feedback({"rating": "up", **about})

    assert str(caught.value.message) == str(about.get("message_id", about.get("tracking_id")))
    assert stored() == before


def test_a_tracking_id_of_another_agent_is_no_message_of_this_one(talked: MongoDBSessionManager) -> None:
    about = pointer(talked, "se.cond$", 0, "tracking id and agent")

    with pytest.raises(MessageNotFoundError, match="'first'"):
        talked.add_feedback({**about, "agent_id": "first"})


@pytest.mark.parametrize("by", ["id", "tracking id"])
@pytest.mark.parametrize("agents_before", [0, 1])
def test_feedback_about_an_agent_that_another_manager_made(
    new_manager: NewManager, new_agent: NewAgent, by: str, agents_before: int
) -> None:
    manager = new_manager()
    for _ in range(agents_before):
        new_agent(manager, agent_id="before")("Hi")
    other = new_manager()
    new_agent(other, agent_id="later")("Hi")

    manager.add_feedback(pointer(other, "later", 1, by))

    assert len(manager.get_feedbacks()) == 1


@pytest.mark.parametrize(
    "fields", [{"agent_id": "stranger"}, {"message_id": 99}, {"agent_id": "first", "message_id": None}]
)
def test_half_a_pointer_is_a_field_like_any_other(talked: MongoDBSessionManager, fields: dict[str, Any]) -> None:
    talked.add_feedback(fields)

    assert without_time(talked.get_feedbacks()) == [fields]


def test_feedback_on_a_session_of_the_first_version(
    new_manager: NewManager, observer: MongoClient[dict[str, Any]], database: str
) -> None:
    message = {"message_id": 0, "message": {"role": "user", "content": [{"text": "Hi"}]}, "created_at": AT}
    old = {"rating": "down", "comment": "Old", "created_at": AT}
    observer[database].agent_sessions.insert_one(
        {
            "_id": "s-1",
            "session_id": "s-1",
            "feedbacks": [old],
            "agents": {"default": {"agent_data": {"agent_id": "default"}, "messages": [message]}},
        }
    )
    manager = new_manager()

    manager.add_feedback({"rating": "up", "agent_id": "default", "message_id": 0})
    manager.add_feedback({"comment": "x" * LIMIT})

    found = manager.get_feedbacks()
    assert found[0] == old
    assert len(found) == 3
    with pytest.raises(MessageNotFoundError):
        manager.add_feedback({"agent_id": "default", "message_id": 1})


# Growing


def test_much_feedback_moves_out_of_the_session(
    new_manager: NewManager, stored: Stored, segments: Segments, command_counter: CommandCounter
) -> None:
    manager = new_manager()
    sizes = []

    for number in range(50):
        manager.add_feedback({"comment": f"{number}".ljust(20_000)})
        sizes.append(len(bson.encode(stored())))

    assert comments(manager) == comments(new_manager()) == [str(number) for number in range(50)]
    assert max(sizes) < LIMIT + 30_000
    assert len(segments()) == 3
    assert sum(len(segment["items"]) for segment in segments()) + len(stored()["feedbacks"]) == 50
    with command_counter.counting() as log:
        manager.get_feedbacks()
    assert log.names == ["find", "find"]


def test_the_segments_are_beside_their_collection(new_manager: NewManager, segments: Segments) -> None:
    for collection in ("one", "two"):
        new_manager(collection_name=collection).add_feedback({"comment": collection.ljust(LIMIT)})

    assert [segment["items"][0]["comment"].strip() for segment in segments("s-1", "one")] == ["one"]
    assert comments(new_manager(collection_name="two")) == ["two"]


def test_two_threads_at_once_lose_nothing(new_manager: NewManager, segments: Segments) -> None:
    managers = [new_manager(), new_manager(), new_manager(), new_manager()]

    def add(writer: int) -> None:
        for number in range(40):
            managers[writer].add_feedback({"writer": writer, "number": number, "comment": "x" * 20_000})

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(add, range(4)))

    found = new_manager().get_feedbacks()
    for writer in range(4):
        assert [feedback["number"] for feedback in found if feedback["writer"] == writer] == list(range(40))
    assert len(found) == 160
    assert len(segments()) >= 4


def test_feedback_that_could_not_be_moved_is_stored(
    new_manager: NewManager, segments: Segments, failing_segments: Inject, caplog: pytest.LogCaptureFixture
) -> None:
    manager = new_manager()

    with failing_segments("insert"), caplog.at_level(logging.WARNING):
        manager.add_feedback({"comment": "one".ljust(LIMIT)})
        manager.add_feedback({"comment": "two"})
    assert comments(manager) == ["one", "two"]
    assert segments() == []
    assert "s-1" in caplog.text

    manager.add_feedback({"comment": "three"})
    assert comments(manager) == ["one", "two", "three"]
    assert len(segments()) == 1


@pytest.mark.parametrize(
    "fault",
    [{"errorCode": 13}, {"writeConcernError": {"code": 64, "errmsg": "timed out"}}],
    ids=["refused", "applied"],
)
def test_a_reference_that_could_not_be_written_loses_nothing(
    new_manager: NewManager, failing: Failing, fault: dict[str, Any]
) -> None:
    manager = new_manager()

    with failing("update", mode={"skip": 1}, **fault):
        manager.add_feedback({"comment": "one".ljust(LIMIT)})
    manager.add_feedback({"comment": "two"})
    manager.add_feedback({"comment": "three"})

    assert comments(manager) == ["one", "two", "three"]


@pytest.mark.parametrize("fault", [{"errorCode": 91}, {"closeConnection": True}], ids=["shutting down", "closed"])
def test_a_retried_write_adds_feedback_once(new_manager: NewManager, failing: Failing, fault: dict[str, Any]) -> None:
    manager = new_manager()

    with failing("update", mode={"times": 1}, **fault):
        manager.add_feedback({"comment": "one"})

    assert comments(manager) == ["one"]


def test_segments_go_with_their_session(new_manager: NewManager, segments: Segments, stored: Stored) -> None:
    for session_id in ("s-1", "s-2"):
        for _ in range(3):
            new_manager(session_id).add_feedback({"comment": session_id.ljust(LIMIT)})

    assert new_manager().delete_session() is True

    assert stored() is None
    assert segments() == []
    assert comments(new_manager("s-2")) == ["s-2"] * 3
    assert new_manager().get_feedbacks() == []
