"""The methods whose names begin with "a": the same results, and the event loop goes on meanwhile."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from pymongo import monitoring

from mongodb_session_manager import MongoDBSessionManager
from mongodb_session_manager.errors import MongoDBSessionError, SessionNotFoundError
from tests.aliases import Failing, NewAgent, NewManager

Later = Callable[[MongoDBSessionManager], Awaitable[Any]]

BLOCK_MS = 300

CALLS: dict[str, tuple[str, Later]] = {
    "aupdate_metadata": ("update", lambda manager: manager.aupdate_metadata({"b.c": 2})),
    "aget_metadata": ("find", lambda manager: manager.aget_metadata()),
    "adelete_metadata": ("update", lambda manager: manager.adelete_metadata(["a"])),
    "aadd_feedback": ("update", lambda manager: manager.aadd_feedback({"rating": "up"})),
    "aget_feedbacks": ("find", lambda manager: manager.aget_feedbacks()),
    "alist_messages": ("aggregate", lambda manager: manager.alist_messages("default", 1, offset=1)),
}

every_call = pytest.mark.parametrize(("command", "call"), CALLS.values(), ids=CALLS.keys())


@pytest.fixture
def manager(new_manager: NewManager, new_agent: NewAgent) -> MongoDBSessionManager:
    made = new_manager()
    new_agent(made)("Hi")
    made.update_metadata({"a": 1})
    made.add_feedback({"rating": "down"})
    return made


async def longest_pause(work: Awaitable[Any]) -> float:
    """Await the work, and tell for how long the event loop stood still meanwhile, in seconds."""
    longest, last, done = 0.0, time.perf_counter(), False

    async def tick() -> None:
        nonlocal longest, last
        while not done:
            await asyncio.sleep(0.005)
            now = time.perf_counter()
            longest, last = max(longest, now - last), now

    ticker = asyncio.create_task(tick())
    await work
    done = True
    await ticker
    return longest


async def test_they_do_what_the_others_do(manager: MongoDBSessionManager) -> None:
    await manager.aupdate_metadata({"b.c": 2})
    assert await manager.aget_metadata() == manager.get_metadata() == {"metadata": {"a": 1, "b": {"c": 2}}}

    await manager.adelete_metadata(["a"])
    assert await manager.aget_metadata() == manager.get_metadata() == {"metadata": {"b": {"c": 2}}}

    await manager.aadd_feedback({"rating": "up"})
    assert await manager.aget_feedbacks() == manager.get_feedbacks()
    assert [feedback["rating"] for feedback in manager.get_feedbacks()] == ["down", "up"]

    for arguments in ((), (1,), (None, 1), (0,)):
        assert await manager.alist_messages("default", *arguments) == manager.list_messages("default", *arguments)
    assert await manager.alist_messages("default", limit=1, offset=1) == manager.list_messages("default")[1:]


@every_call
async def test_the_event_loop_goes_on(
    manager: MongoDBSessionManager, failing: Failing, command: str, call: Later
) -> None:
    started = time.perf_counter()
    with failing(command, mode={"times": 1}, blockConnection=True, blockTimeMS=BLOCK_MS):
        pause = await longest_pause(call(manager))

    assert time.perf_counter() - started > BLOCK_MS / 1000
    assert pause < BLOCK_MS / 1000 / 2


@every_call
async def test_nothing_is_sent_from_the_event_loop(
    manager: MongoDBSessionManager, command_counter: Any, monkeypatch: pytest.MonkeyPatch, command: str, call: Later
) -> None:
    threads: list[threading.Thread] = []

    def started(self: Any, event: monitoring.CommandStartedEvent) -> None:
        threads.append(threading.current_thread())

    monkeypatch.setattr(type(command_counter), "started", started)

    await call(manager)

    assert threads
    assert threading.current_thread() not in threads


@every_call
async def test_a_deleted_session_is_told(manager: MongoDBSessionManager, command: str, call: Later) -> None:
    manager.delete_session()

    with pytest.raises(SessionNotFoundError, match="'s-1'"):
        await call(manager)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda manager: manager.aupdate_metadata({"$a": 1}), ValueError),
        (lambda manager: manager.aupdate_metadata(None), TypeError),
        (lambda manager: manager.adelete_metadata("a"), TypeError),
        (lambda manager: manager.aadd_feedback("up"), TypeError),
        (lambda manager: manager.alist_messages("default", -1), ValueError),
    ],
    ids=["key", "metadata", "keys", "feedback", "limit"],
)
async def test_bad_input_is_refused(manager: MongoDBSessionManager, call: Later, error: type[Exception]) -> None:
    with pytest.raises(error):
        await call(manager)


async def test_many_at_once(manager: MongoDBSessionManager) -> None:
    await asyncio.gather(*(manager.aupdate_metadata({f"n.{number}": number}) for number in range(50)))
    await asyncio.gather(*(manager.aadd_feedback({"number": number}) for number in range(50)))

    assert (await manager.aget_metadata())["metadata"]["n"] == {str(number): number for number in range(50)}
    assert sorted(each["number"] for each in (await manager.aget_feedbacks())[1:]) == list(range(50))


async def test_flushing_and_closing(
    new_manager: NewManager, new_agent: NewAgent, failing: Failing, history: Callable[..., Any]
) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    with failing("update", errorCode=13), pytest.raises(Exception, match="refused by the server"):
        await agent.invoke_async("Hi")
    assert history() == []

    with failing("update", mode={"times": 1}, blockConnection=True, blockTimeMS=BLOCK_MS):
        pause = await longest_pause(manager.aflush())
    assert len(history()) == 1
    assert pause < BLOCK_MS / 1000 / 2

    with failing("update", errorCode=13), pytest.raises(Exception, match="refused by the server"):
        await agent.invoke_async("Hi again")
    with failing("update", mode={"times": 1}, blockConnection=True, blockTimeMS=BLOCK_MS):
        pause = await longest_pause(manager.aclose())
    assert len(history()) == 2
    assert pause < BLOCK_MS / 1000 / 2
    await manager.aclose()
    with pytest.raises(MongoDBSessionError, match="closed"):
        manager.sync_agent(agent)


async def test_flushing_gives_up_in_time(new_manager: NewManager, new_agent: NewAgent, failing: Failing) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    with failing("update", errorCode=13), pytest.raises(Exception, match="refused by the server"):
        await agent.invoke_async("Hi")

    with (
        failing("update", mode={"times": 1}, blockConnection=True, blockTimeMS=BLOCK_MS),
        pytest.raises(TimeoutError, match="'s-1'"),
    ):
        await manager.aflush(timeout=0.05)


@every_call
async def test_a_closed_manager_is_told(manager: MongoDBSessionManager, command: str, call: Later) -> None:
    await manager.aclose()

    with pytest.raises(MongoDBSessionError, match="closed"):
        await call(manager)
