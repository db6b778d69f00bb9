"""Agents that begin with more messages than a document takes, or than are held for an outage."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import bson
import pytest
from histories import numbering
from pymongo.errors import PyMongoError
from strands.agent.conversation_manager import NullConversationManager
from strands.types.content import Message

from mongodb_session_manager import MongoDBSessionManagerFactory, SessionConflictError
from mongodb_session_manager.testing import CommandCounter
from tests.aliases import Client, History, NewAgent, NewManager
from tests.talking import user, without_ids

BEGINNINGS = {
    "1,001 messages": (1_001, 10),
    "20 MB": (2_000, 10_000),
    "20 MB of large messages": (100, 200_000),
    "a large last one": (3, 240_000),
}
every_beginning = pytest.mark.parametrize(("count", "each"), BEGINNINGS.values(), ids=BEGINNINGS)


def messages(count: int, each: int) -> list[Message]:
    return [user(f"{number:06} " + "x" * each) for number in range(count)]


def keeping_all(**options: Any) -> dict[str, Any]:
    return {"conversation_manager": NullConversationManager(), **options}


@every_beginning
def test_a_new_agent_begins_with_them(
    new_manager: NewManager,
    new_agent: NewAgent,
    history: History,
    stored: Callable[[], Any],
    observer: Client,
    database: str,
    count: int,
    each: int,
) -> None:
    given = messages(count, each)

    agent = new_agent(new_manager(), messages=list(given), **keeping_all())

    assert without_ids(history()) == without_ids(given)
    assert list(numbering(observer[database], "s-1")) == []
    assert len(bson.encode(stored())) < 1024 * 1024
    agent("And now?")
    assert new_agent(new_manager(), **keeping_all()).messages == agent.messages
    assert len(agent.messages) == count + 2


@every_beginning
async def test_an_agent_of_a_request_begins_with_them(
    factory: MongoDBSessionManagerFactory,
    new_agent: NewAgent,
    history: History,
    observer: Client,
    database: str,
    command_counter: CommandCounter,
    count: int,
    each: int,
) -> None:
    given = messages(count, each)
    async with factory.session("s-1", agent_ids=["default"]) as manager:
        with command_counter.counting() as log:
            agent = new_agent(manager, messages=list(given), **keeping_all())
        assert log.names == []
        await agent.invoke_async("And now?")

    assert without_ids(history()) == without_ids(agent.messages)
    assert len(agent.messages) == count + 2
    assert list(numbering(observer[database], "s-1")) == []


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
def test_a_beginning_is_stored_whole_or_not_at_all(
    new_manager: NewManager,
    new_agent: NewAgent,
    failing: Callable[..., AbstractContextManager[Any]],
    stored: Callable[[], Any],
    history: History,
    durability: str,
) -> None:
    manager = new_manager(durability=durability)
    given = messages(400, 20_000)
    with failing("update", errorCode=50), pytest.raises(PyMongoError):
        new_agent(manager, messages=list(given), **keeping_all())
    assert stored()["agents"] == {}

    new_agent(new_manager(durability=durability), messages=list(given), **keeping_all())

    assert without_ids(history()) == without_ids(given)


def test_who_comes_second_leaves_no_segments(
    new_manager: NewManager, new_agent: NewAgent, observer: Client, database: str
) -> None:
    late = new_manager()
    first = new_agent(new_manager(), messages=messages(3, 10))

    second = new_agent(late, messages=messages(400, 20_000))

    assert second.messages == first.messages
    assert observer[database].agent_sessions_segments.count_documents({}) == 0


def test_a_repeated_beginning_of_an_agent_that_comes_later_is_a_conflict(
    factory: MongoDBSessionManagerFactory, new_manager: NewManager, new_agent: NewAgent, observer: Client, database: str
) -> None:
    async def request() -> None:
        async with factory.session("s-1", agent_ids=["default"]) as manager:
            agent = new_agent(manager, messages=messages(400, 20_000))
            new_agent(new_manager(), messages=messages(3, 10))
            await agent.invoke_async("Hi")

    with pytest.raises(SessionConflictError):
        asyncio.run(request())

    assert observer[database].agent_sessions_segments.count_documents({}) == 0
