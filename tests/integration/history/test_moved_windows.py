"""A write that only moves the window comes behind the answer, and is in nobody's way."""

import asyncio
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.errors import WriteConcernError
from strands import Agent
from strands.agent.conversation_manager import SlidingWindowConversationManager
from strands.hooks import AfterInvocationEvent

from mongodb_session_manager import MongoDBSessionManager, MongoDBSessionManagerFactory, SessionConflictError
from mongodb_session_manager._client.handle import ClientHandle
from mongodb_session_manager.errors import SessionTooLargeError
from mongodb_session_manager.testing import CommandCounter
from tests.aliases import Failing, History, NewAgent, NewManager, Stored
from tests.talking import texts
from tests.watching import until

NextRequest = Callable[[MongoDBSessionManagerFactory, NewAgent], Any]

# Milliseconds; longer than a request on a busy machine.
SLOW = 2_000
MOVED = ["Fill the window", "Okay.", "Move it", "Okay."]


def slow_windows(agent: Agent, failing: Failing, stack: ExitStack) -> None:
    """Have the server take its time for the next write after the agent's last message."""

    def slow(event: AfterInvocationEvent) -> None:
        stack.enter_context(failing("update", mode={"times": 1}, blockConnection=True, blockTimeMS=SLOW))

    agent.add_hook(slow, AfterInvocationEvent)


def window_of(session: dict[str, Any]) -> int:
    state = session["agents"]["default"]["agent_data"]["conversation_manager_state"]
    return int(state["removed_message_count"])


def windowed(new_agent: NewAgent, manager: MongoDBSessionManager) -> Agent:
    return new_agent(manager, conversation_manager=SlidingWindowConversationManager(window_size=2))


async def move_window(
    factory: MongoDBSessionManagerFactory, new_agent: NewAgent, failing: Failing, stack: ExitStack
) -> None:
    """Move the window to 2 in a request whose last write, that of the window, is on its way for a while."""
    for prompt in ("Fill the window", "Move it"):
        async with factory.session("s-1", agent_ids=["default"]) as manager:
            agent = windowed(new_agent, manager)
            if prompt == "Move it":
                slow_windows(agent, failing, stack)
            await agent.invoke_async(prompt)


async def test_a_request_does_not_wait_for_a_moved_window(
    factory: MongoDBSessionManagerFactory,
    new_agent: NewAgent,
    stored: Stored,
    failing: Failing,
    command_counter: CommandCounter,
) -> None:
    async with factory.session("s-1") as manager:
        await windowed(new_agent, manager).invoke_async("Fill the window")

    with ExitStack() as stack, command_counter.counting() as log:
        async with factory.session("s-1", agent_ids=["default"]) as manager:
            agent = windowed(new_agent, manager)
            slow_windows(agent, failing, stack)
            await agent.invoke_async("Move it")
        assert window_of(stored()) == 0
        assert await until(lambda: window_of(stored()) == 2)

    assert len(log.commands) == 4


async def test_a_window_that_moves_after_the_next_request_has_begun_disturbs_nobody(
    factory: MongoDBSessionManagerFactory, new_agent: NewAgent, stored: Stored, history: History, failing: Failing
) -> None:
    with ExitStack() as stack:
        await move_window(factory, new_agent, failing, stack)
        async with factory.session("s-1", agent_ids=["default"]) as manager:
            agent = windowed(new_agent, manager)
            assert window_of(stored()) == 0
            assert await until(lambda: window_of(stored()) == 2)
            await agent.invoke_async("Go on")

    assert texts(history()) == ["Fill the window", "Okay.", "Move it", "Okay.", "Go on", "Okay."]
    assert await until(lambda: window_of(stored()) == 4)


async def delete(factory: MongoDBSessionManagerFactory, new_agent: NewAgent) -> None:
    async with factory.session("s-1") as manager:
        await asyncio.to_thread(manager.delete_session)


async def write_alone(factory: MongoDBSessionManagerFactory, new_agent: NewAgent) -> None:
    manager = await asyncio.to_thread(factory.create_session_manager, "s-1", exclusive=True)
    windowed(new_agent, manager)


async def go_on(factory: MongoDBSessionManagerFactory, new_agent: NewAgent) -> None:
    async with factory.session("s-1", agent_ids=["default"]) as manager:
        await windowed(new_agent, manager).invoke_async("Go on")


@pytest.mark.parametrize(("meanwhile", "window"), [(delete, None), (write_alone, 0), (go_on, 4)])
async def test_a_window_that_comes_too_late_is_left_out(
    factory: MongoDBSessionManagerFactory,
    new_agent: NewAgent,
    stored: Stored,
    failing: Failing,
    mongo_client: MongoClient[dict[str, Any]],
    caplog: pytest.LogCaptureFixture,
    meanwhile: NextRequest,
    window: int | None,
) -> None:
    with ExitStack() as stack:
        await move_window(factory, new_agent, failing, stack)
        await meanwhile(factory, new_agent)
        assert stored() is None or window_of(stored()) != 2
        await asyncio.to_thread(ClientHandle.of(mongo_client).executor.shutdown)

    assert (window_of(stored()) if stored() else None) == window
    assert caplog.records == []


async def test_a_deleted_sessions_window_is_no_failure(
    factory: MongoDBSessionManagerFactory,
    new_agent: NewAgent,
    stored: Stored,
    failing: Failing,
    command_counter: CommandCounter,
) -> None:
    with ExitStack() as stack:
        manager = factory.create_session_manager("s-1")
        agent = windowed(new_agent, manager)
        await agent.invoke_async("Fill the window")
        slow_windows(agent, failing, stack)
        with command_counter.counting() as log:
            await agent.invoke_async("Move it")
            assert await until(lambda: log.writes == 3)
        assert await asyncio.to_thread(manager.delete_session)

    await asyncio.to_thread(manager.close)
    assert stored() is None
    assert manager.health == {"ok": True, "pending": 0, "last_error": None}


class Notebook(SlidingWindowConversationManager):
    """A conversation manager that keeps something of its own."""

    def __init__(self) -> None:
        super().__init__(window_size=2)
        self.notes: list[str] = []

    def get_state(self) -> dict[str, Any]:
        return {**super().get_state(), "notes": list(self.notes)}

    def restore_from_session(self, state: dict[str, Any]) -> list[Any] | None:
        self.notes = state["notes"]
        return super().restore_from_session(state)


async def test_what_a_conversation_manager_keeps_besides_is_guarded_and_waited_for(
    new_manager: NewManager, new_agent: NewAgent, stored: Stored
) -> None:
    new_agent(new_manager(), conversation_manager=Notebook())("Hello")
    manager, mine, others = new_manager(), Notebook(), Notebook()
    first = new_agent(new_manager(), conversation_manager=mine)
    second = new_agent(manager, conversation_manager=others)
    first.add_hook(lambda event: mine.notes.append("one"), AfterInvocationEvent)

    await first.invoke_async("Go on")

    state = stored()["agents"]["default"]["agent_data"]["conversation_manager_state"]
    assert (state["notes"], state["removed_message_count"]) == (["one"], 2)
    others.notes.append("two")
    with pytest.raises(SessionConflictError):
        manager.sync_agent(second)


@pytest.mark.parametrize("others", [0, 1])
async def test_a_factory_that_closes_waits_for_a_moved_window(
    mongodb_uri: str, database: str, new_agent: NewAgent, stored: Stored, failing: Failing, others: int
) -> None:
    with ExitStack() as stack:
        for _ in range(others):  # who use the same client
            stack.enter_context(MongoDBSessionManagerFactory(mongodb_uri))
        with MongoDBSessionManagerFactory(mongodb_uri, database_name=database) as factory:
            await move_window(factory, new_agent, failing, stack)
            assert window_of(stored()) == 0
        assert window_of(stored()) == 2


async def test_who_alone_may_write_waits_for_a_moved_window(
    factory: MongoDBSessionManagerFactory,
    new_agent: NewAgent,
    stored: Stored,
    mongo_client: MongoClient[dict[str, Any]],
) -> None:
    def keep_threads_busy(event: AfterInvocationEvent) -> None:
        executor = ClientHandle.of(mongo_client).executor
        for _ in range(executor._max_workers):
            executor.submit(time.sleep, 0.2)

    for prompt in ("Fill the window", "Move it"):
        async with factory.session("s-1", agent_ids=["default"], exclusive=True) as manager:
            agent = windowed(new_agent, manager)
            agent.add_hook(keep_threads_busy)
            await agent.invoke_async(prompt)

    assert window_of(stored()) == 2
    assert "lease" not in stored()


async def test_a_factory_that_closes_waits_for_a_request_that_is_about_to_end(
    factory: MongoDBSessionManagerFactory,
    new_agent: NewAgent,
    history: History,
    failing: Failing,
    mongo_client: MongoClient[dict[str, Any]],
) -> None:
    async def request() -> None:
        async with factory.session("s-1", agent_ids=["default"]) as manager:
            agent = new_agent(manager)
            manager._agents.live()[0].capture_message(agent, {"role": "user", "content": [{"text": "Hi"}]})

    with failing("update", mode={"times": 1}, blockConnection=True, blockTimeMS=SLOW // 4):
        task = asyncio.create_task(request())
        assert await until(lambda: bool(factory._left))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(factory.close)
        assert texts(history()) == ["Hi"]


def test_a_window_and_messages_that_had_no_answer_are_parted(
    new_manager: NewManager, new_agent: NewAgent, mongodb_uri: str, failing: Failing, history: History
) -> None:
    manager = new_manager(connection_string=mongodb_uri, retryWrites=False)
    agent = windowed(new_agent, manager)
    binding = manager._agents.live()[0]
    binding.capture_message(agent, {"role": "user", "content": [{"text": "0"}]})
    manager.flush()
    agent.conversation_manager.removed_message_count = 1
    binding.capture_state(agent)
    binding.capture_message(agent, {"role": "user", "content": [{"text": "1"}]})
    with failing("update", writeConcernError={"code": 64, "errmsg": "timed out"}), pytest.raises(WriteConcernError):
        manager.flush()

    binding.capture_message(agent, {"role": "user", "content": [{"text": "2"}]})
    agent.state.set("large", "x" * 17_000_000)
    binding.capture_state(agent)
    with pytest.raises(SessionTooLargeError):
        manager.flush()
    manager.flush()

    assert texts(history()) == ["0", "1", "2"]
