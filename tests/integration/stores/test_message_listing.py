"""Listing and counting an agent's messages."""

import itertools
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from bson import ObjectId
from pymongo import MongoClient
from strands.types.content import Message
from strands.types.session import SessionAgent, SessionMessage

from mongodb_session_manager import MongoDBSessionManager
from mongodb_session_manager._schema.limits import LIMITS, Limits
from mongodb_session_manager.errors import SessionNotFoundError
from mongodb_session_manager.mongodb_session_repository import stores_of
from mongodb_session_manager.testing import CommandCounter
from tests.aliases import NewAgent, NewManager

AT = datetime(2024, 1, 26, 10, 30, 45, 123000, tzinfo=timezone.utc)


@pytest.fixture
def talked(new_manager: NewManager, new_agent: NewAgent) -> MongoDBSessionManager:
    """A manager whose agent "a.b" has six messages."""
    manager = new_manager()
    agent = new_agent(manager, agent_id="a.b")
    for number in range(3):
        agent(str(number))
    return manager


def ids(messages: list[dict[str, Any]]) -> list[int]:
    return [message["message_id"] for message in messages]


def test_what_is_told_of_a_message(new_manager: NewManager, new_agent: NewAgent) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    before = datetime.now(timezone.utc) - timedelta(milliseconds=1)
    agent("Hi")

    asked, answered = manager.list_messages("default")

    assert set(asked) == {"message_id", "role", "content", "tracking_id", "created_at", "updated_at"}
    assert set(answered) == {*asked, "metadata", "event_loop_metrics"}
    for number, (listed, live) in enumerate(zip((asked, answered), agent.messages, strict=True)):
        assert {name: listed[name] for name in live} == live
        assert listed["message_id"] == number
        for name in ("created_at", "updated_at"):
            assert before <= listed[name] <= datetime.now(timezone.utc)
            assert listed[name].utcoffset() == timedelta(0)


def test_content_is_told_as_the_agent_has_it(new_manager: NewManager, new_agent: NewAgent) -> None:
    manager = new_manager()
    content: list[dict[str, Any]] = [
        {"image": {"format": "png", "source": {"bytes": b"\0\xff"}}},
        {"toolUse": {"toolUseId": "t", "name": "x", "input": {"a.b": {"$c": 2**40}}}},
    ]
    manager.append_message({"role": "assistant", "content": content}, new_agent(manager))  # type: ignore[typeddict-item]

    (message,) = manager.list_messages("default")

    assert message["content"] == content
    assert "escaped" not in message


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"limit": None}, [0, 1, 2, 3, 4, 5]),
        ({"limit": 2}, [0, 1]),
        ({"limit": 0}, []),
        ({"limit": 0, "offset": 2}, []),
        ({"offset": 4}, [4, 5]),
        ({"limit": 2, "offset": 1}, [1, 2]),
        ({"limit": 9, "offset": 5}, [5]),
        ({"offset": 6}, []),
        ({"offset": 600, "limit": 1}, []),
        ({"limit": 2**40, "offset": 3}, [3, 4, 5]),
        ({"offset": 2**40}, []),
    ],
    ids=str,
)
def test_pages(
    talked: MongoDBSessionManager, command_counter: CommandCounter, arguments: dict[str, Any], expected: list[int]
) -> None:
    with command_counter.counting() as log:
        found = talked.list_messages("a.b", **arguments)

    assert ids(found) == expected
    assert log.names == ["aggregate"]


WRONG: list[tuple[dict[str, Any], type[Exception]]] = [
    ({"limit": 1.5}, TypeError),
    ({"limit": "1"}, TypeError),
    ({"limit": True}, TypeError),
    ({"offset": None}, TypeError),
    ({"offset": 0.0}, TypeError),
    ({"offset": False}, TypeError),
    ({"after": "1"}, TypeError),
    ({"after": 1.0}, TypeError),
    ({"after": True}, TypeError),
    ({"after": 2**70}, ValueError),
    ({"after": {"$gt": 1}}, TypeError),
    ({"newest_first": 1}, TypeError),
    ({"newest_first": "yes"}, TypeError),
    ({"newest_first": None}, TypeError),
    ({"json_safe": True}, ValueError),
    ({"json_safe": "hex"}, ValueError),
    ({"json_safe": ""}, ValueError),
    ({"json_safe": None}, TypeError),
    ({"json_safe": ["note"]}, TypeError),
]


@pytest.mark.parametrize(("arguments", "error"), WRONG, ids=str)
@pytest.mark.parametrize("agent_id", ["a.b", "stranger"])
async def test_wrong_arguments_are_refused_before_anything_is_sent(
    talked: MongoDBSessionManager,
    command_counter: CommandCounter,
    agent_id: str,
    arguments: dict[str, Any],
    error: type[Exception],
) -> None:
    (name,) = arguments
    with command_counter.counting() as log:
        with pytest.raises(error, match="message_id" if name == "after" else name):
            talked.list_messages(agent_id, **arguments)
        with pytest.raises(error):
            await talked.alist_messages(agent_id, **arguments)

    assert log.commands == []


# Other orders

NUMBERS = [0, 1, 2, 5, 6, 9, 10, 11, 12, 13, 20, 21, 22, 30]
AFTER = [None, -1, 0, 3, 5, 10, 13, 19, 21, 30, 2**40]


@pytest.fixture(params=["live", "moved", "all but the last moved"])
def numbered(request: pytest.FixtureRequest, new_manager: NewManager) -> MongoDBSessionManager:
    """A manager with the messages ``NUMBERS``, some of which are in segments."""
    moving = {"moved": (4, 10), "all but the last moved": (1, 1)}.get(request.param)
    manager = new_manager(_limits=Limits(kept_messages=moving[0]) if moving else LIMITS)
    repository = manager.session_repository
    repository.create_agent("s-1", SessionAgent("a", {}, {}))
    for count, number in enumerate(NUMBERS):
        message: Message = {"role": "user", "content": [{"text": str(number)}]}
        repository.create_message("s-1", "a", SessionMessage(message, number))
        if moving and (count % 5 == 4 or number == NUMBERS[-1]):
            guard = stores_of(repository).histories.locate_agent("s-1", "a").guard
            assert stores_of(repository).histories.move_oldest("s-1", "a", guard, ObjectId()) or count < moving[0]
    if moving:
        assert repository.collection.find_one({}, {"agents.a.moved_count": 1})["agents"]["a"]["moved_count"] >= 10  # type: ignore[index]
    return manager


def expected(after: int | None, newest_first: bool, limit: int | None, offset: int) -> list[int]:
    if newest_first:
        found = [number for number in reversed(NUMBERS) if after is None or number < after]
    else:
        found = [number for number in NUMBERS if after is None or number > after]
    return found[offset:][:limit]


@pytest.mark.parametrize("newest_first", [False, True])
async def test_every_page_in_every_order(numbered: MongoDBSessionManager, newest_first: bool) -> None:
    for after, limit, offset in itertools.product(AFTER, [None, 3], [0, 1, 6]):
        order: dict[str, Any] = {"newest_first": newest_first, "after": after}
        found = numbered.list_messages("a", limit, offset, **order)
        assert ids(found) == expected(after, newest_first, limit, offset), (after, limit, offset)
    for limit, offset in [(0, 0), (1, 2**40), (2**40, 2)]:
        found = numbered.list_messages("a", limit, offset, newest_first=newest_first)
        assert ids(found) == expected(None, newest_first, limit, offset)
    assert await numbered.alist_messages("a", 3, after=5, newest_first=newest_first) == numbered.list_messages(
        "a", 3, after=5, newest_first=newest_first
    )


def test_a_whole_history_page_by_page(numbered: MongoDBSessionManager) -> None:
    for newest_first in (False, True):
        seen: list[int] = []
        while page := ids(numbered.list_messages("a", 4, newest_first=newest_first, after=seen[-1] if seen else None)):
            seen += page
        assert seen == (NUMBERS[::-1] if newest_first else NUMBERS)


def test_behind_a_redacted_message(numbered: MongoDBSessionManager) -> None:
    redacted: Message = {"role": "user", "content": [{"text": "…"}]}
    for number in (1, 21):
        numbered.session_repository.update_message("s-1", "a", SessionMessage(redacted, number, redacted))

    assert ids(numbered.list_messages("a", 2, after=1)) == [2, 5]
    assert ids(numbered.list_messages("a", 2, after=21, newest_first=True)) == [20, 13]


@pytest.mark.parametrize(
    "arguments", [{"newest_first": True}, {"after": 1}, {"after": 1, "newest_first": True}], ids=str
)
def test_an_unknown_agent_has_none_in_any_order(
    talked: MongoDBSessionManager, command_counter: CommandCounter, arguments: dict[str, Any]
) -> None:
    assert talked.list_messages("stranger", **arguments) == []
    with command_counter.counting() as log:
        talked.list_messages("a.b", 2, **arguments)
    assert log.names == ["aggregate", "aggregate"]
    talked.delete_session()
    with pytest.raises(SessionNotFoundError, match="'s-1'"):
        talked.list_messages("a.b", **arguments)


@pytest.mark.parametrize("arguments", [{"limit": -1}, {"offset": -1}, {"limit": -5, "offset": -5}], ids=str)
@pytest.mark.parametrize("agent_id", ["a.b", "stranger"])
def test_negative_numbers_are_refused_before_anything_is_sent(
    talked: MongoDBSessionManager, command_counter: CommandCounter, agent_id: str, arguments: dict[str, Any]
) -> None:
    with command_counter.counting() as log, pytest.raises(ValueError, match="negative"):
        talked.list_messages(agent_id, **arguments)

    assert log.commands == []


def test_counting(talked: MongoDBSessionManager, new_agent: NewAgent, command_counter: CommandCounter) -> None:
    new_agent(talked, agent_id="silent")

    with command_counter.counting() as log:
        assert talked.get_message_count("a.b") == 6
    assert log.names == ["aggregate"]
    assert talked.get_message_count("silent") == 0


@pytest.mark.parametrize("agent_id", ["stranger", "a", "b"])
def test_an_unknown_agent_has_none(talked: MongoDBSessionManager, agent_id: str) -> None:
    assert talked.list_messages(agent_id) == []
    assert talked.get_message_count(agent_id) == 0


@pytest.mark.parametrize("agent_id", ["", "a\0b", 5])
def test_bad_agent_ids(talked: MongoDBSessionManager, command_counter: CommandCounter, agent_id: Any) -> None:
    with command_counter.counting() as log:
        with pytest.raises((TypeError, ValueError), match="agent_id"):
            talked.list_messages(agent_id)
        with pytest.raises((TypeError, ValueError), match="agent_id"):
            talked.get_message_count(agent_id)

    assert log.commands == []


def test_a_deleted_session_is_told(talked: MongoDBSessionManager) -> None:
    talked.delete_session()

    with pytest.raises(SessionNotFoundError, match="'s-1'"):
        talked.list_messages("a.b")
    with pytest.raises(SessionNotFoundError, match="'s-1'"):
        talked.get_message_count("a.b")


@pytest.mark.parametrize(
    "date",
    ["2024-01-26T10:30:45.123000+00:00", "2024-01-26T10:30:45.123000", "2024-01-26T10:30:45.123Z", AT],
    ids=["aware text", "naive text", "Z", "date"],
)
def test_messages_of_the_first_version(
    new_manager: NewManager, observer: MongoClient[dict[str, Any]], database: str, date: Any
) -> None:
    times = {"created_at": date, "updated_at": date}
    metrics = {"accumulated_usage": {"totalTokens": 15}, "accumulated_metrics": {"latencyMs": 3}}
    event = {"action": "BLOCKED", "timestamp": AT}
    user, answer = (
        {"role": "user", "content": [{"text": "Hi"}]},
        {"role": "assistant", "content": [{"text": "Hello"}]},
    )
    redacted = {"role": "user", "content": [{"text": "…"}]}
    messages = [
        {"message_id": 0, "message": user, "redact_message": None, **times},
        {"message_id": 1, "message": answer, "redact_message": None, "event_loop_metrics": metrics, **times},
        {"message_id": 2, "message": user, "redact_message": redacted, "guardrail_event": event, **times},
    ]
    observer[database].agent_sessions.insert_one(
        {"_id": "s-1", "session_id": "s-1", "agents": {"a": {"agent_data": {"agent_id": "a"}, "messages": messages}}}
    )
    manager = new_manager()

    dates = {"created_at": AT, "updated_at": AT}
    assert manager.list_messages("a") == [
        {"message_id": 0, **user, **dates},
        {"message_id": 1, **answer, "event_loop_metrics": metrics, **dates},
        {"message_id": 2, **redacted, "guardrail_event": event, **dates},
    ]
    assert manager.get_message_count("a") == 3


def test_what_is_stored_as_null_is_left_out(
    new_manager: NewManager, observer: MongoClient[dict[str, Any]], database: str
) -> None:
    nothing = {"event_loop_metrics": None, "guardrail_event": None, "redact_message": None}
    message = {"message_id": 0, "message": {"role": "user", "content": []}, "created_at": AT, "updated_at": AT}
    observer[database].agent_sessions.insert_one(
        {"_id": "s-1", "agents": {"a": {"agent_data": {"agent_id": "a"}, "messages": [message | nothing]}}}
    )

    (listed,) = new_manager().list_messages("a")

    assert set(listed) == {"message_id", "role", "content", "created_at", "updated_at"}
