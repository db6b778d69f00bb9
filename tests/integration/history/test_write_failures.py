"""A write that fails loses nothing: it is told, it stays pending, and it goes out in order with the next one."""

import asyncio
import logging
import time
from contextlib import suppress
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.errors import AutoReconnect, OperationFailure, PyMongoError, WriteConcernError
from strands.agent.conversation_manager import SlidingWindowConversationManager
from strands.hooks import AfterInvocationEvent
from strands.types.content import Message

from mongodb_session_manager import MongoDBSessionManager
from mongodb_session_manager.errors import MongoDBSessionError
from mongodb_session_manager.testing import CommandCounter, Mongod, Redaction
from tests.aliases import Failing, History, NewAgent, NewManager, Stored
from tests.faults.fault import CLOSED, UNCONFIRMED
from tests.talking import NOTE, take_note, texts, user
from tests.watching import ticking, until

SECRET = "my number is 555-0199"

every_fault = pytest.mark.parametrize(
    ("fault", "error"),
    [(CLOSED, AutoReconnect), ({"errorCode": 13}, OperationFailure), (UNCONFIRMED, WriteConcernError)],
    ids=["closed", "refused", "applied"],
)


# Turns


@every_fault
@pytest.mark.parametrize("written_before", [0, 1], ids=["prompt", "answer"])
def test_a_failed_message_goes_out_with_the_next_turn(
    new_manager: NewManager,
    new_agent: NewAgent,
    history: History,
    failing: Failing,
    fault: dict[str, Any],
    error: type[PyMongoError],
    written_before: int,
) -> None:
    agent = new_agent(new_manager())

    with failing("update", mode={"skip": written_before}, **fault), pytest.raises(error):
        agent("One")
    agent("Two")

    assert history() == agent.messages
    assert texts(history()) == ["One", *["Okay."] * written_before, "Two", "Okay."]


@every_fault
@pytest.mark.parametrize("written_before", [0, 1, 2, 3])
async def test_every_message_of_a_turn_with_a_tool_may_fail(
    new_manager: NewManager,
    new_agent: NewAgent,
    history: History,
    stored: Stored,
    failing: Failing,
    fault: dict[str, Any],
    error: type[PyMongoError],
    written_before: int,
) -> None:
    agent = new_agent(new_manager(), *([NOTE] if written_before else []), tools=[take_note])

    with failing("update", mode={"skip": written_before}, **fault), pytest.raises(error):
        await agent.invoke_async("Take a note")
    await agent.invoke_async("And?")

    assert history() == agent.messages
    assert stored()["agents"]["default"]["agent_data"]["state"] == agent.state.get()
    ids = [message["message_id"] for message in stored()["agents"]["default"]["messages"]]
    assert ids == list(range(len(agent.messages)))


@pytest.mark.parametrize("written_before", [0, 1])
def test_the_error_is_the_drivers_own_and_tells_the_place(
    new_manager: NewManager, new_agent: NewAgent, failing: Failing, written_before: int
) -> None:
    agent = new_agent(new_manager())

    with failing("update", mode={"skip": written_before}, **CLOSED), pytest.raises(AutoReconnect) as caught:
        agent("Hi")

    assert type(caught.value).__module__ == "pymongo.errors"
    assert any("s-1" in note for note in caught.value.__notes__)


@pytest.mark.parametrize("fault", [CLOSED, {"errorCode": 91}], ids=["closed", "shutting down"])
def test_one_fault_is_not_noticed(
    new_manager: NewManager, new_agent: NewAgent, history: History, failing: Failing, fault: dict[str, Any]
) -> None:
    agent = new_agent(new_manager())

    with failing("update", mode={"times": 1}, **fault):
        agent("Hi")

    assert history() == agent.messages


def test_several_turns_may_fail_in_a_row(
    new_manager: NewManager, new_agent: NewAgent, history: History, failing: Failing
) -> None:
    agent = new_agent(new_manager())

    with failing("update", **UNCONFIRMED):
        for prompt in ("One", "Two", "Three"):
            with pytest.raises(WriteConcernError):
                agent(prompt)
    agent("Four")

    assert texts(history()) == ["One", "Two", "Three", "Four", "Okay."]
    assert history() == agent.messages


def test_nothing_is_stored_of_a_refused_message(
    new_manager: NewManager, new_agent: NewAgent, history: History, failing: Failing
) -> None:
    agent = new_agent(new_manager())

    with failing("update", **CLOSED), pytest.raises(AutoReconnect):
        agent("Hi")

    assert history() == []
    assert texts(agent.messages) == ["Hi"]


@every_fault
def test_state_that_was_not_written_goes_out_later(
    new_manager: NewManager,
    new_agent: NewAgent,
    stored: Stored,
    failing: Failing,
    fault: dict[str, Any],
    error: type[PyMongoError],
) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    agent.state.set("a", 1)

    with failing("update", **fault), pytest.raises(error):
        manager.sync_agent(agent)
    manager.sync_agent(agent)

    assert stored()["agents"]["default"]["agent_data"]["state"] == {"a": 1}


@pytest.mark.parametrize("call", ["flush", "close"])
@every_fault
def test_what_is_pending_can_be_sent_without_a_turn(
    new_manager: NewManager,
    new_agent: NewAgent,
    history: History,
    failing: Failing,
    fault: dict[str, Any],
    error: type[PyMongoError],
    call: str,
) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    with failing("update", **fault), pytest.raises(error):
        agent("Hi")

    getattr(manager, call)()

    assert texts(history()) == ["Hi"]


def test_what_is_pending_goes_out_in_one_write(
    new_manager: NewManager,
    new_agent: NewAgent,
    history: History,
    failing: Failing,
    command_counter: CommandCounter,
) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    with failing("update", **CLOSED):
        for number in range(3):
            with pytest.raises(AutoReconnect):
                manager.append_message(user(str(number)), agent)

    with command_counter.counting() as log:
        manager.flush()

    assert log.names == ["update"]
    assert texts(history()) == ["0", "1", "2"]


@pytest.mark.limits(pending=3)
def test_the_queue_is_bounded(
    new_manager: NewManager,
    new_agent: NewAgent,
    history: History,
    failing: Failing,
) -> None:
    manager = new_manager()
    agent = new_agent(manager)

    with failing("update", errorCode=13):
        for number in range(3):
            with pytest.raises(OperationFailure):
                manager.append_message(user(str(number)), agent)
        with pytest.raises(MongoDBSessionError, match=r"3 changes.*'s-1'"):
            manager.append_message(user("3"), agent)
    manager.flush()

    assert texts(history()) == ["0", "1", "2"]


# Failures that somebody has dealt with already


def test_a_failure_outside_an_invocation_is_not_raised_again_by_the_next(
    new_manager: NewManager, new_agent: NewAgent, history: History, failing: Failing
) -> None:
    agent = new_agent(new_manager(), tools=[take_note])
    with failing("update", errorCode=13), pytest.raises(OperationFailure):
        agent.tool.take_note()

    agent("Hi")

    # Of a direct call's four messages the SDK appends no more once one has failed.
    assert history() == agent.messages


def test_a_failure_that_a_users_callback_hid_is_not_raised_again(
    new_manager: NewManager, new_agent: NewAgent, history: History, failing: Failing
) -> None:
    agent = new_agent(new_manager())
    broken = [True]

    def fail(event: AfterInvocationEvent) -> None:
        if broken:
            broken.clear()
            raise RuntimeError("a bug of the user's")

    agent.add_hook(fail)
    with failing("update", errorCode=13), pytest.raises((RuntimeError, OperationFailure)):
        agent("One")

    agent("Two")

    assert history() == agent.messages


# Redactions


@every_fault
def test_a_redaction_that_failed_is_made_up_for(
    new_manager: NewManager,
    new_agent: NewAgent,
    history: History,
    stored: Stored,
    failing: Failing,
    fault: dict[str, Any],
    error: type[PyMongoError],
) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    manager.append_message(user(SECRET), agent)

    with failing("update", **fault), pytest.raises(error):
        manager.redact_latest_message(user("…"), agent)
    manager.flush()

    assert texts(history()) == ["…"]
    assert SECRET not in str(stored())


@every_fault
def test_a_pending_message_can_be_redacted(
    new_manager: NewManager,
    new_agent: NewAgent,
    history: History,
    stored: Stored,
    failing: Failing,
    fault: dict[str, Any],
    error: type[PyMongoError],
) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    with failing("update", **fault), pytest.raises(error):
        manager.append_message(user(SECRET), agent)

    manager.redact_latest_message(user("…"), agent)

    assert texts(history()) == ["…"]
    assert SECRET not in str(stored())


@pytest.mark.parametrize("written_before", [1, 2])
def test_a_guardrail_steps_in_while_writes_fail(
    new_manager: NewManager,
    new_agent: NewAgent,
    history: History,
    stored: Stored,
    failing: Failing,
    written_before: int,
) -> None:
    agent = new_agent(new_manager(), Redaction())

    with failing("update", mode={"skip": written_before}, **CLOSED), pytest.raises(AutoReconnect):
        agent(SECRET)
    agent("Hi")

    assert SECRET not in str(stored())
    assert history() == agent.messages


# Opening and restoring


@every_fault
def test_a_session_that_could_not_be_opened_can_be_opened_later(
    new_manager: NewManager, stored: Stored, failing: Failing, fault: dict[str, Any], error: type[PyMongoError]
) -> None:
    with failing("findAndModify", **fault), pytest.raises(error):
        new_manager()

    new_manager()

    assert stored()["agents"] == {}


@every_fault
def test_an_agent_that_could_not_be_started_can_be_made_again(
    new_manager: NewManager,
    new_agent: NewAgent,
    history: History,
    failing: Failing,
    fault: dict[str, Any],
    error: type[PyMongoError],
) -> None:
    manager = new_manager()
    with failing("update", **fault), pytest.raises(error):
        new_agent(manager, messages=[user("One")])

    agent = new_agent(manager, messages=[user("One")])
    agent("Two")

    assert texts(history()) == texts(agent.messages) == ["One", "Two", "Okay."]


def test_an_outage_is_not_taken_for_an_empty_history(
    new_manager: NewManager, new_agent: NewAgent, history: History, failing: Failing
) -> None:
    first = new_agent(new_manager())
    first("Hi")
    manager = new_manager()

    with failing("aggregate", **CLOSED), pytest.raises(AutoReconnect):
        new_agent(manager)

    assert new_agent(manager).messages == first.messages == history()


# Waiting


def test_flush_gives_up_in_time(
    new_manager: NewManager, new_agent: NewAgent, history: History, failing: Failing
) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    with failing("update", errorCode=13), pytest.raises(OperationFailure):
        manager.append_message(user("Hi"), agent)

    with (
        failing("update", blockConnection=True, blockTimeMS=600),
        pytest.raises(TimeoutError, match=r"1 changes.*'s-1'"),
    ):
        manager.flush(timeout=0.05)
    manager.flush()

    assert texts(history()) == ["Hi"]


def test_flush_raises_what_failed(new_manager: NewManager, new_agent: NewAgent, failing: Failing) -> None:
    manager = new_manager()
    agent = new_agent(manager)

    with failing("update", errorCode=13):
        with pytest.raises(OperationFailure):
            manager.append_message(user("Hi"), agent)
        with pytest.raises(OperationFailure):
            manager.flush()


def test_closing_on_a_server_that_refuses_tells_what_is_left(
    new_manager: NewManager, new_agent: NewAgent, failing: Failing, caplog: pytest.LogCaptureFixture
) -> None:
    manager = new_manager()
    agent = new_agent(manager)

    with failing("update", errorCode=13), caplog.at_level(logging.WARNING):
        for text in (SECRET, "Two"):
            with pytest.raises(OperationFailure):
                manager.append_message(user(text), agent)
        manager.close()

    (warning,) = [record.getMessage() for record in caplog.records if record.name.startswith("mongodb_session")]
    assert "session_id=<s-1>" in warning
    assert "pending=<2>" in warning
    assert SECRET not in warning


def test_closing_on_a_dead_server_ends(new_agent: NewAgent, caplog: pytest.LogCaptureFixture) -> None:
    with Mongod() as server:
        manager = MongoDBSessionManager("s-1", server.uri, serverSelectionTimeoutMS=300, heartbeatFrequencyMS=500)
        agent = new_agent(manager)
        server.kill()
        with pytest.raises(PyMongoError):
            agent("Hi")

        started = time.monotonic()
        manager.close()

    assert time.monotonic() - started < 5
    assert "pending=<1>" in caplog.text


@pytest.mark.limits(close_timeout=0.2)
def test_closing_on_a_server_that_hangs_waits_no_longer_than_its_timeout(
    new_manager: NewManager,
    new_agent: NewAgent,
    mongodb_uri: str,
    failing: Failing,
    caplog: pytest.LogCaptureFixture,
) -> None:
    manager = new_manager(connection_string=mongodb_uri, heartbeatFrequencyMS=500)
    agent = new_agent(manager)
    with failing("update", errorCode=13), pytest.raises(OperationFailure):
        manager.append_message(user("Hi"), agent)

    with failing("update", blockConnection=True, blockTimeMS=3000):
        started = time.monotonic()
        manager.close()
        elapsed = time.monotonic() - started

    assert "pending=<1>" in caplog.text
    assert elapsed < 2.5


def test_a_moved_window_that_could_not_be_written_fails_nobody(
    new_manager: NewManager, new_agent: NewAgent, failing: Failing, history: History
) -> None:
    def window() -> SlidingWindowConversationManager:
        return SlidingWindowConversationManager(window_size=2)

    manager = new_manager()
    agent = new_agent(manager, conversation_manager=window())
    agent("One")

    with failing("update", mode={"skip": 2}, errorCode=13):
        agent("Two")
        with suppress(OperationFailure):
            manager.flush()
    manager.flush()

    assert new_agent(new_manager(), conversation_manager=window()).messages == agent.messages
    assert len(history()) == 4


# Cancellation, and the event loop


@pytest.mark.parametrize("written_before", [0, 1], ids=["prompt", "answer"])
async def test_a_cancelled_task_does_not_tear(
    new_manager: NewManager,
    new_agent: NewAgent,
    history: History,
    failing: Failing,
    command_counter: CommandCounter,
    written_before: int,
) -> None:
    agent = new_agent(new_manager())

    with (
        failing("update", mode={"skip": written_before}, blockConnection=True, blockTimeMS=300),
        command_counter.counting() as log,
    ):
        task = asyncio.create_task(agent.invoke_async("One"))
        assert await until(lambda: log.writes >= written_before + 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await agent.invoke_async("Two")

    assert history() == agent.messages
    assert texts(history()) == ["One", *["Okay."] * written_before, "Two", "Okay."]


async def test_a_cancelled_task_whose_write_fails_loses_nothing(
    new_manager: NewManager,
    new_agent: NewAgent,
    history: History,
    failing: Failing,
    command_counter: CommandCounter,
) -> None:
    agent = new_agent(new_manager())

    with (
        failing("update", blockConnection=True, blockTimeMS=200, errorCode=13),
        command_counter.counting() as log,
    ):
        task = asyncio.create_task(agent.invoke_async("One"))
        assert await until(lambda: log.writes >= 1)
        task.cancel()
        with pytest.raises((asyncio.CancelledError, OperationFailure)):
            await task
    await agent.invoke_async("Two")

    assert history() == agent.messages


async def test_an_abandoned_stream_loses_nothing(
    new_manager: NewManager, new_agent: NewAgent, history: History
) -> None:
    agent = new_agent(new_manager(), NOTE, tools=[take_note])

    stream = agent.stream_async("Take a note")
    async for event in stream:
        if "message" in event:
            break
    await stream.aclose()  # type: ignore[attr-defined]
    await agent.invoke_async("And?")

    assert history() == agent.messages


async def test_the_event_loop_goes_on_while_a_write_is_blocked(
    new_manager: NewManager, new_agent: NewAgent, failing: Failing, history: History
) -> None:
    agent = new_agent(new_manager())

    with failing("update", blockConnection=True, blockTimeMS=300):
        async with ticking() as ticks:
            await agent.invoke_async("Hi")

    # Two writes of 300 ms: 60 ticks if nothing blocks, 3 or so if the writes do.
    assert len(ticks) >= 20
    assert history() == agent.messages


async def test_agents_write_side_by_side(
    new_manager: NewManager, new_agent: NewAgent, failing: Failing, history: History
) -> None:
    manager = new_manager()
    agents = [new_agent(manager, agent_id=f"a-{number}") for number in range(8)]

    with failing("update", blockConnection=True, blockTimeMS=200):
        started = time.monotonic()
        await asyncio.gather(*(agent.invoke_async("Hi") for agent in agents))
        elapsed = time.monotonic() - started

    # One after the other they would take 3.2 s.
    assert elapsed < 2.4
    assert all(history(agent_id=agent.agent_id) == agent.messages for agent in agents)


def test_the_fault_injection_works(failing: Failing, new_manager: NewManager, new_agent: NewAgent) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    with failing("update", **CLOSED), pytest.raises(AutoReconnect):
        manager.append_message(user("Hi"), agent)
    client: MongoClient[dict[str, Any]] = manager.session_repository.client
    assert client.admin.command("ping")["ok"] == 1


# What was queued while nothing could be sent


@pytest.mark.parametrize("content", ["Hello", [{"text": "Hello"}]], ids=["text", "blocks"])
def test_a_call_that_is_repeated_stores_its_message_once(
    new_manager: NewManager, new_agent: NewAgent, failing: Failing, history: History, content: Any
) -> None:
    manager = new_manager()
    agent, message = new_agent(manager), {"role": "user", "content": content}
    with failing("update", errorCode=13), pytest.raises(OperationFailure):
        manager.append_message(message, agent)  # type: ignore[arg-type]

    manager.append_message(message, agent)  # type: ignore[arg-type]
    assert texts(history()) == ["Hello"]

    manager.append_message(dict(message), agent)  # type: ignore[arg-type]
    assert texts(history()) == ["Hello", "Hello"]


def test_messages_that_grew_while_they_waited_are_sent_in_parts(
    new_manager: NewManager, new_agent: NewAgent, history: History
) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    binding = manager._agents.live()[0]
    short: list[Message] = [{**user("…"), "tracking_id": f"t-{number}"} for number in range(6)]
    # 3 MB each, in blocks that are not large enough to be stored elsewhere.
    blocks: list[Any] = [{"text": "y" * 200_000} for _ in range(15)]
    long: list[Message] = [{"role": "user", "content": blocks, "tracking_id": f"t-{number}"} for number in range(6)]
    for message in short:
        binding.capture_message(agent, message)
    for message in long:
        binding.capture_replacement(agent, message)

    manager.flush()

    assert history() == long


async def test_a_client_that_is_closed_cancels_nobody(
    new_manager: NewManager, new_agent: NewAgent, mongodb_uri: str, failing: Failing, caplog: pytest.LogCaptureFixture
) -> None:
    manager = new_manager(connection_string=mongodb_uri, maxPoolSize=1)
    agent, other = new_agent(manager), new_agent(manager, agent_id="other")
    with failing("update", blockConnection=True, blockTimeMS=1500):
        first = asyncio.create_task(agent.invoke_async("Hello"))
        second = asyncio.create_task(other.invoke_async("Hello"))
        while sum(binding.history.pending for binding in manager._agents.live()) < 2:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(manager._stores.handle.close, 0.1)
        outcomes = await asyncio.gather(first, second, return_exceptions=True)

    assert not [outcome for outcome in outcomes if isinstance(outcome, asyncio.CancelledError)]
    assert any(isinstance(outcome, PyMongoError) for outcome in outcomes)
    assert not [record for record in caplog.records if record.name == "concurrent.futures"]


async def test_a_moved_window_that_meets_a_closed_client_is_told_in_the_log(
    new_manager: NewManager, new_agent: NewAgent, mongodb_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    unexpected: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unexpected.append(context))
    manager = new_manager(connection_string=mongodb_uri)
    agent = new_agent(manager, conversation_manager=SlidingWindowConversationManager(window_size=2))
    await agent.invoke_async("Fill the window")

    await agent.invoke_async("Move it")
    manager._stores.handle.close()
    await asyncio.sleep(0.01)

    assert unexpected == []
    assert "a write failed, its changes stay pending" in caplog.text
