"""When a message is stored under each durability, what that costs, and how failures are told."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.errors import AutoReconnect, OperationFailure, PyMongoError
from strands import Agent
from strands.agent.conversation_manager import SlidingWindowConversationManager
from strands.hooks import AfterInvocationEvent, BeforeModelCallEvent, MessageAddedEvent
from strands.multiagent import GraphBuilder
from strands.multiagent.base import Status
from strands.multiagent.graph import Graph
from strands.types.content import Message
from strands.types.exceptions import ContextWindowOverflowException, EventLoopException

from mongodb_session_manager import (
    MongoDBSessionManager,
    MongoDBSessionManagerFactory,
    create_mongodb_session_manager,
)
from mongodb_session_manager.errors import (
    MongoDBSessionError,
    SessionConflictError,
    SessionNotFoundError,
    UnstorableValueError,
)
from mongodb_session_manager.testing import CommandCounter, Redaction, ScriptedModel
from tests.aliases import Failing, History, NewAgent, NewManager, Stored
from tests.faults.fault import CLOSED
from tests.talking import (
    ASK,
    LOOK,
    NOTE,
    ask,
    by_calling,
    by_streaming,
    every_durability,
    every_way_to_talk,
    look_up,
    take_note,
    texts,
    user,
)
from tests.watching import cost, eventually, until

Talk = Callable[[Agent, str], Awaitable[None]]

SECRET = "my number is 555-0199"
REFUSED = {"errorCode": 13}

in_and_outside_a_loop = pytest.mark.parametrize("talk", [by_calling, by_streaming])


def once_stored(number: int, history: History) -> list[Message]:
    """Wait until so many messages are stored."""
    eventually(lambda: len(history()) >= number)
    return history()


# What is stored when


@every_durability
@every_way_to_talk
async def test_what_is_stored_when_the_model_is_called(
    new_manager: NewManager, new_agent: NewAgent, history: History, durability: str, talk: Talk
) -> None:
    seen: list[int] = []

    def looking(answer: Any) -> Callable[[list[Message]], Any]:
        def turn(messages: list[Message]) -> Any:
            # With "async" the write is on its way; that it arrives while the model is at work is what is promised.
            seen.append(len(once_stored(len(messages), history) if durability == "async" else history()))
            return answer

        return turn

    agent = new_agent(new_manager(durability=durability), looking(LOOK), looking("A bird."), tools=[look_up])

    await talk(agent, "What is a kiwi?")

    assert seen == ([0, 0] if durability == "exit" else [1, 3])
    assert history() == agent.messages
    assert len(agent.messages) == 4


@pytest.mark.parametrize(("durability", "stored_at_the_call"), [("sync", 1), ("async", 0), ("exit", 0)])
async def test_who_waits_for_a_slow_write(
    new_manager: NewManager,
    new_agent: NewAgent,
    history: History,
    failing: Failing,
    durability: str,
    stored_at_the_call: int,
) -> None:
    seen: list[int] = []

    def turn(messages: list[Message]) -> str:
        seen.append(len(history()))
        return "Okay."

    agent = new_agent(new_manager(durability=durability), turn)

    with failing("update", mode={"times": 1}, blockConnection=True, blockTimeMS=700):
        await agent.invoke_async("Hi")

    assert seen == [stored_at_the_call]
    assert history() == agent.messages


@every_durability
@in_and_outside_a_loop
async def test_everything_is_acknowledged_after_an_invocation(
    new_manager: NewManager,
    new_agent: NewAgent,
    history: History,
    stored: Stored,
    failing: Failing,
    durability: str,
    talk: Talk,
) -> None:
    manager = new_manager(durability=durability)
    agent = new_agent(manager, NOTE, "Done.", tools=[take_note])

    with failing("update", blockConnection=True, blockTimeMS=30):
        for turn in range(3):
            await talk(agent, f"Turn {turn}")

            assert history() == agent.messages
            assert manager.health == {"ok": True, "pending": 0, "last_error": None}

    assert stored()["agents"]["default"]["agent_data"]["state"] == {"noted": True}
    ids = [message["message_id"] for message in stored()["agents"]["default"]["messages"]]
    assert ids == list(range(8))


@every_durability
def test_metrics_are_the_same(new_manager: NewManager, new_agent: NewAgent, durability: str) -> None:
    manager = new_manager(durability=durability)
    agent = new_agent(manager, LOOK, "A bird.", tools=[look_up])
    agent("What is a kiwi?")

    measured = [message.get("event_loop_metrics") for message in manager.list_messages("default")]

    assert [each and each["usage"]["totalTokens"] for each in measured] == [None, 15, None, 15]
    assert [each and each["accumulated_usage"]["totalTokens"] for each in measured] == [None, 15, None, 30]
    assert manager.get_usage_summary()["tools"]["look_up"]["calls"] == 1


@every_durability
@pytest.mark.parametrize("answers", [[], [LOOK]], ids=["first", "second"])
def test_a_model_that_fails_leaves_what_was_said(
    new_manager: NewManager, new_agent: NewAgent, history: History, durability: str, answers: list[Any]
) -> None:
    manager = new_manager(durability=durability)
    agent = new_agent(manager, *answers, ConnectionError("away"), tools=[look_up])

    with pytest.raises((ConnectionError, EventLoopException), match="away"):
        agent("Hi")

    assert len(agent.messages) == 1 + 2 * len(answers)
    assert history() == agent.messages
    assert manager.health["pending"] == 0


@every_durability
def test_what_a_users_callback_changes_at_the_end_is_stored(
    new_manager: NewManager, new_agent: NewAgent, stored: Stored, durability: str
) -> None:
    agent = new_agent(new_manager(durability=durability))

    def note(event: AfterInvocationEvent) -> None:
        event.agent.state.set("asked", True)

    agent.add_hook(note)
    agent("Hi")

    assert stored()["agents"]["default"]["agent_data"]["state"] == {"asked": True}


@every_durability
def test_a_context_overflow_loses_nothing(
    new_manager: NewManager, new_agent: NewAgent, history: History, durability: str
) -> None:
    overflow = ContextWindowOverflowException("too long")

    def agent_with(*turns: Any) -> Agent:
        window = SlidingWindowConversationManager(window_size=4)
        return new_agent(new_manager(durability=durability), *turns, conversation_manager=window)

    agent = agent_with("One.", "Two.", overflow, "Three.")
    for turn in range(3):
        agent(f"Turn {turn}")

    assert texts(history()) == ["Turn 0", "One.", "Turn 1", "Two.", "Turn 2", "Three."]
    assert agent_with().messages == agent.messages


# What it costs


@every_durability
@in_and_outside_a_loop
@pytest.mark.parametrize(
    ("answers", "sync_writes"),
    [([], 2), ([LOOK, NOTE], 6), ([[LOOK, NOTE]], 4)],
    ids=["plain", "two-tools", "parallel-tools"],
)
async def test_writes_of_an_invocation(
    new_manager: NewManager,
    new_agent: NewAgent,
    history: History,
    command_counter: CommandCounter,
    durability: str,
    talk: Talk,
    answers: list[Any],
    sync_writes: int,
) -> None:
    agent = new_agent(new_manager(durability=durability), *answers, tools=[look_up, take_note])

    with command_counter.counting() as log:
        await talk(agent, "Hi")

    writes, reads, others = cost(log)
    assert (reads, others) == (0, 0)
    assert len(history()) == sync_writes
    if durability == "async":
        assert 1 <= writes <= sync_writes
    else:
        assert writes == {"sync": sync_writes, "exit": 1}[durability]


def test_state_changed_at_the_end_costs_one_write_more(
    new_manager: NewManager, new_agent: NewAgent, command_counter: CommandCounter, stored: Stored
) -> None:
    agent = new_agent(new_manager(durability="exit"), NOTE, "Done.", tools=[take_note])

    def note(event: AfterInvocationEvent) -> None:
        event.agent.state.set("asked", True)

    agent.add_hook(note)

    with command_counter.counting() as log:
        agent("Hi")

    assert cost(log) == (2, 0, 0)
    assert stored()["agents"]["default"]["agent_data"]["state"] == {"noted": True, "asked": True}


def test_a_moved_window_rides_on_the_one_write(
    new_manager: NewManager, new_agent: NewAgent, command_counter: CommandCounter
) -> None:
    manager = new_manager(durability="exit")
    agent = new_agent(manager, conversation_manager=SlidingWindowConversationManager(window_size=2))
    agent("Fill the window")

    with command_counter.counting() as log:
        agent("Move it")
        manager.flush()

    assert agent.conversation_manager.removed_message_count == 2
    assert cost(log) == (1, 0, 0)


@pytest.mark.parametrize("owned", [False, True])
async def test_a_manager_that_is_closed_right_after_a_turn_writes_the_moved_window(
    new_manager: NewManager, new_agent: NewAgent, mongodb_uri: str, stored: Stored, owned: bool
) -> None:
    unexpected: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unexpected.append(context))
    manager = new_manager(**({"connection_string": mongodb_uri} if owned else {}))
    agent = new_agent(manager, conversation_manager=SlidingWindowConversationManager(window_size=2))
    await agent.invoke_async("Fill the window")

    await agent.invoke_async("Move it")
    manager.close()
    await asyncio.sleep(0.01)

    data = stored()["agents"]["default"]["agent_data"]
    assert data["conversation_manager_state"]["removed_message_count"] == 2
    assert unexpected == []


def test_what_is_captured_while_the_manager_closes_is_sent(
    new_manager: NewManager, new_agent: NewAgent, history: History
) -> None:
    manager = new_manager(durability="exit")
    agent = new_agent(manager)
    binding = manager._agents.live()[0]
    closing = manager._agents._lock

    class Capturing:
        def __enter__(self) -> None:  # as another thread may, just before
            manager._agents._lock = closing
            binding.capture_message(agent, user("Hi"))
            closing.acquire()

        def __exit__(self, *exc: object) -> None:
            closing.release()

    manager._agents._lock = Capturing()  # type: ignore[assignment]
    manager.close()

    assert texts(history()) == ["Hi"]


@every_durability
@pytest.mark.parametrize("restored", [False, True])
def test_an_agent_that_was_read_ahead(
    new_manager: NewManager,
    new_agent: NewAgent,
    history: History,
    command_counter: CommandCounter,
    durability: str,
    restored: bool,
) -> None:
    if restored:
        new_agent(new_manager())("Before")
    manager = new_manager(durability=durability)
    manager.prefetch(["default"])

    with command_counter.counting() as log:
        agent = new_agent(manager)
    assert cost(log) == (0, 0, 0)

    with command_counter.counting() as log:
        agent("Hi")

    assert log.writes == {"sync": 2, "exit": 1}.get(durability, log.writes) <= 2
    assert log.reads == 0
    assert history() == agent.messages
    assert len(history()) == 2 + 2 * restored


# Redactions are stored at once


@every_durability
async def test_a_models_redaction_is_stored_at_once(
    new_manager: NewManager, new_agent: NewAgent, history: History, stored: Stored, durability: str
) -> None:
    agent = new_agent(new_manager(durability=durability), Redaction("[removed]"))
    seen: list[tuple[str, bool]] = []

    def look(event: MessageAddedEvent) -> None:
        if event.message["role"] == "assistant":
            seen.append((texts(history())[0], SECRET in str(stored())))

    agent.add_hook(look)
    await agent.invoke_async(SECRET)

    assert seen == [("[removed]", False)]
    assert history() == agent.messages
    assert texts(history()) == ["[removed]", "Blocked by the guardrail."]


@every_durability
def test_a_redaction_by_hand_is_stored_at_once(
    new_manager: NewManager, new_agent: NewAgent, history: History, stored: Stored, durability: str
) -> None:
    manager = new_manager(durability=durability)
    seen: list[tuple[list[str], bool]] = []

    def redact(messages: list[Message]) -> str:
        agent.messages[-1]["content"] = [{"text": "[removed]"}]
        manager.redact_latest_message(agent.messages[-1], agent)
        seen.append((texts(history()), SECRET in str(stored())))
        return "Done."

    agent = new_agent(manager, "Hello.", redact)
    agent("Hi")
    agent(SECRET)

    assert seen == [(["Hi", "Hello.", "[removed]"], False)]
    assert history() == agent.messages
    assert [event["message_id"] for event in stored()["guardrail_events"]] == [2]


def test_what_was_pending_never_reaches_the_database(
    new_manager: NewManager, new_agent: NewAgent, command_counter: CommandCounter
) -> None:
    agent = new_agent(new_manager(durability="exit"), Redaction("[removed]"))

    agent(SECRET)

    assert SECRET not in str([command.document for command in command_counter.commands])


@every_durability
def test_a_redaction_of_the_answer(
    new_manager: NewManager, new_agent: NewAgent, history: History, stored: Stored, durability: str
) -> None:
    agent = new_agent(new_manager(durability=durability), Redaction(None, "[answer removed]", SECRET))

    agent("Hi")

    assert history() == agent.messages
    assert SECRET not in str(stored())


# Failures


@every_durability
@in_and_outside_a_loop
@pytest.mark.parametrize(("fault", "error"), [(REFUSED, OperationFailure), (CLOSED, AutoReconnect)])
async def test_a_failure_is_told_by_the_end_of_the_invocation(
    new_manager: NewManager,
    new_agent: NewAgent,
    history: History,
    failing: Failing,
    durability: str,
    talk: Talk,
    fault: dict[str, Any],
    error: type[PyMongoError],
) -> None:
    manager = new_manager(durability=durability)
    agent = new_agent(manager, LOOK, "A bird.", tools=[look_up])

    with failing("update", **fault):
        with pytest.raises(error) as caught:
            await talk(agent, "One")
        # What nobody waits for may go out as soon as it can.
        found, health = history(), manager.health

    assert type(caught.value) is error
    assert "s-1" in "".join(getattr(caught.value, "__notes__", ["s-1"]))
    assert found == []
    # With "sync" the invocation ends at the first message, with the others it runs to its end.
    assert len(agent.messages) == (1 if durability == "sync" else 4)
    # A write that nobody waits for may be the last to fail, and is repeated until its time is over.
    errors = {error.__name__, "ServerSelectionTimeoutError"} if durability == "async" else {error.__name__}
    assert health["last_error"] in errors
    assert (health["ok"], health["pending"]) == (False, len(agent.messages))


@every_durability
@pytest.mark.parametrize("fault", [REFUSED, CLOSED], ids=["refused", "closed"])
def test_what_failed_goes_out_first_next_time(
    new_manager: NewManager,
    new_agent: NewAgent,
    history: History,
    failing: Failing,
    command_counter: CommandCounter,
    durability: str,
    fault: dict[str, Any],
) -> None:
    manager = new_manager(durability=durability)
    agent = new_agent(manager)
    with failing("update", **fault), pytest.raises(PyMongoError):
        agent("One")

    with command_counter.counting() as log:
        agent("Two")

    assert history() == agent.messages
    assert texts(history())[0] == "One"
    assert texts(history())[-2:] == ["Two", "Okay."]
    assert "'One'" in str(log.commands[0].document)
    assert log.writes <= (1 if durability == "exit" else 2)
    assert manager.health == {"ok": True, "pending": 0, "last_error": None}


@pytest.mark.parametrize("durability", ["async", "exit"])
def test_a_failure_of_the_last_write_is_told(
    new_manager: NewManager, new_agent: NewAgent, history: History, failing: Failing, durability: str
) -> None:
    def break_it(messages: list[Message]) -> str:
        if durability == "async":
            once_stored(1, history)
        fault.__enter__()
        return "Okay."

    fault = failing("update", **REFUSED)
    agent = new_agent(new_manager(durability=durability), break_it)

    with pytest.raises(OperationFailure):
        agent("Hi")
    fault.__exit__(None, None, None)

    assert texts(history()) == (["Hi"] if durability == "async" else [])


def test_a_failure_that_was_made_up_for_is_not_told(
    new_manager: NewManager, new_agent: NewAgent, history: History, failing: Failing
) -> None:
    manager = new_manager(durability="async")
    agent = new_agent(manager, LOOK, "A bird.", tools=[look_up])

    with failing("update", mode={"times": 1}, **REFUSED):
        agent("Hi")

    assert history() == agent.messages
    assert manager.health == {"ok": True, "pending": 0, "last_error": None}


class Unstorable:
    """A conversation manager's state that nobody can store."""


@every_durability
def test_what_cannot_be_stored_takes_nothing_along(
    new_manager: NewManager, new_agent: NewAgent, history: History, durability: str
) -> None:
    manager = new_manager(durability=durability)
    agent = new_agent(manager, LOOK, tools=[look_up])

    def spoil(event: MessageAddedEvent) -> None:
        if "toolResult" in event.message["content"][0]:
            event.message["content"].append({"text": Unstorable()})  # type: ignore[typeddict-item]

    # Ours were registered first; these are called before them.
    agent.hooks.add_callback(MessageAddedEvent, spoil, order=-100)
    with pytest.raises(UnstorableValueError):
        agent("Hi")

    # The rest of the invocation is stored when it has ended, whatever the durability is.
    assert history() == agent.messages[:2]


@every_durability
@pytest.mark.parametrize("rival_comes", ["before", "meanwhile"])
@in_and_outside_a_loop
async def test_a_conflict_is_told_by_the_end_of_the_invocation(
    new_manager: NewManager,
    new_agent: NewAgent,
    history: History,
    durability: str,
    rival_comes: str,
    talk: Talk,
) -> None:
    def rival() -> None:
        new_agent(new_manager())("I was faster")

    def turn(messages: list[Message]) -> Any:
        if rival_comes == "meanwhile":
            if durability == "async":
                once_stored(1, history)
            rival()
        return LOOK

    loser = new_agent(new_manager(durability=durability), turn, "A bird.", tools=[look_up])
    if rival_comes == "before":
        rival()

    with pytest.raises(SessionConflictError) as caught:
        await talk(loser, "Hi")

    assert type(caught.value) is SessionConflictError
    of_loser = ["Hi"] if rival_comes == "meanwhile" and durability != "exit" else []
    assert texts(history()) == [*of_loser, "I was faster", "Okay."]
    assert caught.value.pending
    if not of_loser:
        assert texts(caught.value.pending)[0] == "Hi"
    with pytest.raises(SessionConflictError) as again:
        await talk(loser, "Hi")
    assert again.value is caught.value


@every_durability
def test_a_session_that_was_deleted_meanwhile(
    new_manager: NewManager, new_agent: NewAgent, stored: Stored, durability: str
) -> None:
    agent = new_agent(new_manager(durability=durability))
    new_manager().delete_session()

    with pytest.raises(SessionNotFoundError, match="'s-1'"):
        agent("Hi")

    assert stored() is None


# flush() and close()


async def by_flush(manager: MongoDBSessionManager) -> None:
    manager.flush()


async def by_close(manager: MongoDBSessionManager) -> None:
    manager.close()


async def by_leaving(manager: MongoDBSessionManager) -> None:
    with manager:
        pass


async def by_aflush(manager: MongoDBSessionManager) -> None:
    await manager.aflush()


async def by_aclose(manager: MongoDBSessionManager) -> None:
    await manager.aclose()


@every_durability
@pytest.mark.parametrize("drain", [by_flush, by_close, by_leaving, by_aflush, by_aclose])
async def test_draining_what_is_pending(
    new_manager: NewManager,
    new_agent: NewAgent,
    history: History,
    failing: Failing,
    durability: str,
    drain: Callable[[MongoDBSessionManager], Awaitable[None]],
) -> None:
    manager = new_manager(durability=durability)
    agents = [new_agent(manager, agent_id=agent_id) for agent_id in ("one", "two")]
    with failing("update", **REFUSED):
        for agent in agents:
            with pytest.raises(OperationFailure):
                await agent.invoke_async("Hi")

    await drain(manager)

    assert all(history(agent_id=agent.agent_id) == agent.messages for agent in agents)
    assert manager.health == {"ok": True, "pending": 0, "last_error": None}


@every_durability
def test_flushing_in_the_middle_of_an_invocation(
    new_manager: NewManager, new_agent: NewAgent, history: History, durability: str
) -> None:
    manager = new_manager(durability=durability)
    seen: list[list[str]] = []

    def flush(messages: list[Message]) -> str:
        manager.flush()
        seen.append(texts(history()))
        return "Okay."

    agent = new_agent(manager, flush)
    agent("Hi")

    assert seen == [["Hi"]]
    assert history() == agent.messages


@every_durability
async def test_flushing_in_a_callback(
    new_manager: NewManager, new_agent: NewAgent, history: History, durability: str
) -> None:
    manager = new_manager(durability=durability)
    agent = new_agent(manager, LOOK, "A bird.", tools=[look_up])
    seen: list[int] = []

    async def flush(event: BeforeModelCallEvent) -> None:
        await manager.aflush()
        seen.append(len(history()))

    agent.add_hook(flush)
    await agent.invoke_async("Hi")

    assert seen == [1, 3]
    assert history() == agent.messages


@pytest.mark.parametrize("durability", ["async", "exit"])
def test_syncing_in_the_middle_of_an_invocation_sends_what_is_pending(
    new_manager: NewManager, new_agent: NewAgent, history: History, durability: str
) -> None:
    manager = new_manager(durability=durability)
    seen: list[list[str]] = []

    def sync(messages: list[Message]) -> str:
        manager.sync_agent(agent)
        seen.append(texts(history()))
        return "Okay."

    agent = new_agent(manager, sync)
    agent("Hi")

    assert seen == [["Hi"]]


@pytest.mark.parametrize("durability", ["async", "exit"])
def test_flush_tells_what_failed_behind(
    new_manager: NewManager, new_agent: NewAgent, failing: Failing, durability: str
) -> None:
    manager = new_manager(durability=durability)
    errors: list[BaseException] = []

    def flush(messages: list[Message]) -> str:
        with failing("update", **REFUSED):
            try:
                manager.flush()
            except OperationFailure as error:
                errors.append(error)
        return "Okay."

    agent = new_agent(manager, flush)
    # The prompt may have been sent before the fault came.
    with failing("update", mode={"times": 1}, blockConnection=True, blockTimeMS=100, **REFUSED):
        agent("Hi")

    assert [type(error) for error in errors] == [OperationFailure]


# Messages outside an invocation


@every_durability
def test_a_direct_tool_call_is_stored_at_once(
    new_manager: NewManager, new_agent: NewAgent, history: History, durability: str
) -> None:
    manager = new_manager(durability=durability)
    agent = new_agent(manager, tools=[look_up])

    agent.tool.look_up(word="kiwi")
    assert len(history()) == 4
    agent("Hi")
    agent.tool.look_up(word="emu")

    assert len(history()) == 10
    assert history() == agent.messages
    assert manager.health["pending"] == 0


@every_durability
def test_a_message_by_hand_is_stored_at_once(
    new_manager: NewManager, new_agent: NewAgent, history: History, durability: str
) -> None:
    manager = new_manager(durability=durability)
    agent = new_agent(manager)

    manager.append_message(user("One"), agent)
    assert texts(history()) == ["One"]
    agent("Two")
    manager.append_message(user("Three"), agent)

    assert texts(history()) == ["One", "Two", "Okay.", "Three"]


@every_durability
def test_a_message_by_hand_in_the_middle_of_an_invocation_keeps_the_order(
    new_manager: NewManager, new_agent: NewAgent, history: History, durability: str
) -> None:
    manager = new_manager(durability=durability)

    def append(messages: list[Message]) -> str:
        manager.append_message(user("By hand"), agent)
        return "Okay."

    agent = new_agent(manager, append)
    agent("Hi")

    assert texts(history()) == ["Hi", "By hand", "Okay."]


@every_durability
def test_initial_messages_are_stored_at_once(
    new_manager: NewManager, new_agent: NewAgent, history: History, durability: str
) -> None:
    agent = new_agent(new_manager(durability=durability), messages=[user("One"), user("Two")])

    assert history() == agent.messages
    assert texts(history()) == ["One", "Two"]


@every_durability
@pytest.mark.parametrize("end", ["refused", "model"])
def test_a_direct_tool_call_after_an_invocation_that_failed(
    new_manager: NewManager, new_agent: NewAgent, history: History, failing: Failing, durability: str, end: str
) -> None:
    turns = [ConnectionError("away")] if end == "model" else []
    agent = new_agent(new_manager(durability=durability), *turns, tools=[look_up])
    mode = "alwaysOn" if end == "refused" else "off"
    with failing("update", mode=mode, **REFUSED), pytest.raises((OperationFailure, ConnectionError)):
        agent("Hi")

    agent.tool.look_up(word="kiwi")

    assert history() == agent.messages


class BrokenWindow(SlidingWindowConversationManager):
    """Raises once. The SDK does not announce the end of an invocation when this happens."""

    raised = False

    def apply_management(self, agent: Agent, **kwargs: Any) -> None:
        if not self.raised:
            self.raised = True
            raise RuntimeError("a bug of the user's")


@every_durability
def test_a_conversation_manager_that_raises_loses_nothing(
    new_manager: NewManager, new_agent: NewAgent, history: History, durability: str
) -> None:
    manager = new_manager(durability=durability)
    agent = new_agent(manager, conversation_manager=BrokenWindow(), tools=[look_up])
    with pytest.raises(RuntimeError, match="a bug of the user's"):
        agent("Hi")

    manager.close()

    assert history() == agent.messages
    assert len(history()) == 2


@pytest.mark.parametrize("durability", ["sync", "async"])  # in "exit" nobody tells that the invocation has ended
def test_a_direct_tool_call_after_a_conversation_manager_that_raised_is_stored_at_once(
    new_manager: NewManager, new_agent: NewAgent, history: History, durability: str
) -> None:
    agent = new_agent(new_manager(durability=durability), conversation_manager=BrokenWindow(), tools=[look_up])
    with pytest.raises(RuntimeError, match="a bug of the user's"):
        agent("Hi")

    agent.tool.look_up(word="kiwi")

    if durability == "async":
        once_stored(len(agent.messages), history)  # may be on their way
    assert history() == agent.messages


# Graphs


def graph_of(manager: MongoDBSessionManager, *second: Any, first: Any = ("First is done.",)) -> Graph:
    builder = GraphBuilder()
    for name, turns in (("first", first), ("second", second)):
        model = ScriptedModel(turns, default=f"{name} is done.")
        builder.add_node(Agent(name=name, model=model, callback_handler=None, tools=[ask]), name)
    builder.add_edge("first", "second")
    builder.set_entry_point("first")
    builder.set_graph_id("g")
    builder.set_max_node_executions(10)
    builder.set_session_manager(manager)
    return builder.build()


@every_durability
async def test_when_the_state_of_a_graph_is_stored(
    new_manager: NewManager, stored: Stored, command_counter: CommandCounter, durability: str
) -> None:
    seen: list[set[str]] = []

    def look(messages: list[Message]) -> str:
        seen.append({*stored()["multi_agents"]["g"]["state"]["node_results"]})
        return "Second is done."

    graph = graph_of(new_manager(durability=durability), look)

    with command_counter.counting() as log:
        await graph.invoke_async("Do it")

    (state,) = stored()["multi_agents"].values()
    assert seen == [set() if durability == "exit" else {"first"}]
    assert {*state["state"]["node_results"]} == {"first", "second"}
    assert state["state"]["status"] == "completed"
    assert log.reads == 0
    assert log.writes == (1 if durability == "exit" else 3)


@every_durability
def test_an_interrupted_graph_goes_on_after_a_restart(new_manager: NewManager, durability: str) -> None:
    result = graph_of(new_manager(durability=durability), ASK)("Do it")
    assert result.status == Status.INTERRUPTED
    (interrupt,) = result.interrupts

    graph = graph_of(new_manager(durability=durability), "Thank you.", first=[])
    answer: Any = [{"interruptResponse": {"interruptId": interrupt.id, "response": "yes"}}]
    result = graph(answer)

    assert result.status == Status.COMPLETED


@every_durability
def test_a_graph_whose_node_failed_goes_on_after_a_restart(
    new_manager: NewManager, stored: Stored, durability: str
) -> None:
    with pytest.raises(ConnectionError):
        graph_of(new_manager(durability=durability), ConnectionError("away"))("Do it")
    assert {*stored()["multi_agents"]["g"]["state"]["node_results"]} >= {"first"}

    result = graph_of(new_manager(durability=durability), "Now it works.", first=[ValueError("again")])("Do it")

    assert "Now it works." in str(result.results["second"].result)


@every_durability
def test_a_graph_whose_state_cannot_be_written_says_so(
    new_manager: NewManager, stored: Stored, failing: Failing, durability: str
) -> None:
    manager = new_manager(durability=durability)
    graph = graph_of(manager)
    graph("One")

    with failing("update", **REFUSED), pytest.raises(OperationFailure):
        graph("Two")
    result = graph("Three")

    assert result.status == Status.COMPLETED
    assert stored()["multi_agents"]["g"]["state"]["status"] == "completed"


# Interrupts


@every_durability
def test_an_interrupt_survives_the_process(
    new_manager: NewManager, new_agent: NewAgent, history: History, durability: str
) -> None:
    result = new_agent(new_manager(durability=durability), ASK, tools=[ask])("Hi")
    assert result.stop_reason == "interrupt"
    (interrupt,) = result.interrupts or ()

    agent = new_agent(new_manager(durability=durability), "Thank you.", tools=[ask])
    answer: Any = [{"interruptResponse": {"interruptId": interrupt.id, "response": "yes"}}]
    result = agent(answer)

    assert result.stop_reason == "end_turn"
    assert "the answer was yes" in str(agent.messages)
    assert history() == agent.messages


@every_durability
def test_a_restart_goes_on_with_the_same_conversation(
    new_manager: NewManager, new_agent: NewAgent, history: History, durability: str
) -> None:
    for turn in range(3):
        agent = new_agent(new_manager(durability=durability), NOTE, "Done.", tools=[take_note])
        assert len(agent.messages) == 4 * turn
        assert agent.state.get("noted") == (True if turn else None)
        agent(f"Turn {turn}")

    assert history() == agent.messages
    assert len(history()) == 12


# Choices


@pytest.mark.parametrize("choice", ["durability", "on_error"])
@pytest.mark.parametrize("value", ["", "SYNC", "always", None, 1, True])
def test_a_choice_that_there_is_not(
    mongo_client: MongoClient[dict[str, Any]],
    database: str,
    command_counter: CommandCounter,
    choice: str,
    value: Any,
) -> None:
    for make in (MongoDBSessionManager, create_mongodb_session_manager):
        with pytest.raises(ValueError, match=rf"^{choice} must be one of '(sync|raise)'.*got {value!r}$"):
            make("s-1", client=mongo_client, database_name=database, **{choice: value})
    assert command_counter.commands == []


@pytest.mark.parametrize("where", ["default", "override"])
@pytest.mark.parametrize("choice", ["durability", "on_error"])
def test_a_choice_that_there_is_not_in_a_factory(
    mongo_client: MongoClient[dict[str, Any]],
    database: str,
    command_counter: CommandCounter,
    choice: str,
    where: str,
) -> None:
    wrong: dict[str, Any] = {choice: "always"}
    defaults, overrides = (wrong, {}) if where == "default" else ({}, wrong)

    def make() -> None:
        with MongoDBSessionManagerFactory(client=mongo_client, database_name=database, **defaults) as factory:
            factory.create_session_manager("s-1", **overrides)

    with pytest.raises(ValueError, match=rf"^{choice} must be one of"):
        make()
    assert command_counter.commands == []


@pytest.mark.parametrize(
    ("default", "override", "writes"),
    [(None, None, 2), ("exit", None, 1), ("exit", "sync", 2), (None, "exit", 1), ("sync", "exit", 1)],
)
def test_the_factorys_durability(
    mongo_client: MongoClient[dict[str, Any]],
    database: str,
    new_agent: NewAgent,
    command_counter: CommandCounter,
    default: Any,
    override: Any,
    writes: int,
) -> None:
    with MongoDBSessionManagerFactory(client=mongo_client, database_name=database, durability=default) as factory:
        agent = new_agent(factory.create_session_manager("s-1", durability=override))

        with command_counter.counting() as log:
            agent("Hi")

    assert cost(log) == (writes, 0, 0)


@pytest.mark.parametrize(("default", "override"), [("degrade", None), ("raise", "degrade"), (None, "degrade")])
def test_the_factorys_choice_for_errors(
    mongo_client: MongoClient[dict[str, Any]],
    database: str,
    new_agent: NewAgent,
    history: History,
    failing: Failing,
    default: Any,
    override: Any,
) -> None:
    with MongoDBSessionManagerFactory(client=mongo_client, database_name=database, on_error=default) as factory:
        agent = new_agent(factory.create_session_manager("s-1", on_error=override))
        with failing("update", **REFUSED):
            agent("Hi")

    assert history() == agent.messages


# Going on without the database


@every_durability
@in_and_outside_a_loop
@pytest.mark.parametrize(("fault", "error"), [(REFUSED, "OperationFailure"), (CLOSED, "AutoReconnect")])
async def test_the_conversation_goes_on(
    new_manager: NewManager,
    new_agent: NewAgent,
    history: History,
    stored: Stored,
    failing: Failing,
    caplog: pytest.LogCaptureFixture,
    durability: str,
    talk: Talk,
    fault: dict[str, Any],
    error: str,
) -> None:
    manager = new_manager(durability=durability, on_error="degrade")
    agent = new_agent(manager, NOTE, "Done.", tools=[take_note])

    with failing("update", **fault), caplog.at_level(logging.WARNING, "mongodb_session_manager"):
        await talk(agent, SECRET)
        await talk(agent, "Two")

        assert texts(agent.messages) == [SECRET, "Done.", "Two", "Okay."]
        assert history() == []
        # A write that nobody waits for is repeated until its time is over, which is another error.
        errors = {error, "ServerSelectionTimeoutError"} if durability == "async" else {error}
        assert manager.health["last_error"] in errors
        assert (manager.health["ok"], manager.health["pending"]) == (False, 6)
    warnings = [record.getMessage() for record in caplog.records if record.name.startswith("mongodb_session_manager")]
    assert "session_id=<s-1>" in warnings[-1]
    assert any(name in warnings[-1] for name in errors)
    assert SECRET not in "".join(warnings)

    await talk(agent, "Three")

    if (durability, error) == ("async", "AutoReconnect"):  # which took too long for the next turn to wait
        assert await until(lambda: not manager.health["pending"])
    assert history() == agent.messages
    assert len(history()) == 8
    assert stored()["agents"]["default"]["agent_data"]["state"] == {"noted": True}
    assert manager.health == {"ok": True, "pending": 0, "last_error": None}


@every_durability
def test_flush_and_calls_by_hand_still_tell_what_failed(
    new_manager: NewManager, new_agent: NewAgent, history: History, failing: Failing, durability: str
) -> None:
    manager = new_manager(durability=durability, on_error="degrade")
    agent = new_agent(manager)

    with failing("update", **REFUSED):
        agent("Hi")
        with pytest.raises(OperationFailure):
            manager.flush()
        with pytest.raises(OperationFailure):
            manager.append_message(user("By hand"), agent)
    manager.flush()

    assert texts(history()) == ["Hi", "Okay.", "By hand"]


@every_durability
def test_a_direct_tool_call_goes_on(
    new_manager: NewManager, new_agent: NewAgent, history: History, failing: Failing, durability: str
) -> None:
    manager = new_manager(durability=durability, on_error="degrade")
    agent = new_agent(manager, tools=[look_up])

    with failing("update", **REFUSED):
        agent.tool.look_up(word="kiwi")
    assert manager.health["pending"] == 4
    manager.flush()

    assert history() == agent.messages


@every_durability
def test_a_guardrail_steps_in_without_the_database(
    new_manager: NewManager, new_agent: NewAgent, history: History, stored: Stored, failing: Failing, durability: str
) -> None:
    """The SDK calls ``redact_latest_message`` in the turn; a failure must not end the conversation."""
    manager = new_manager(durability=durability, on_error="degrade")
    agent = new_agent(manager, Redaction("[removed]"))

    with failing("update", **REFUSED):
        agent(SECRET)
    assert manager.health["ok"] is False
    agent("Two")

    assert history() == agent.messages
    assert SECRET not in str(stored())


@every_durability
def test_a_context_overflow_without_the_database(
    new_manager: NewManager, new_agent: NewAgent, history: History, failing: Failing, durability: str
) -> None:
    """The SDK calls ``sync_agent`` in the turn; a failure must not end the conversation."""
    manager = new_manager(durability=durability, on_error="degrade")
    agent = new_agent(
        manager,
        *("One.", "Two.", ContextWindowOverflowException("too long"), "Three."),
        conversation_manager=SlidingWindowConversationManager(window_size=4),
    )
    for turn in range(2):
        agent(f"Turn {turn}")

    with failing("update", **REFUSED):
        agent("Turn 2")
    manager.flush()

    assert texts(history()) == ["Turn 0", "One.", "Turn 1", "Two.", "Turn 2", "Three."]


@every_durability
def test_a_graph_goes_on_without_the_database(
    new_manager: NewManager, stored: Stored, failing: Failing, durability: str
) -> None:
    graph = graph_of(new_manager(durability=durability, on_error="degrade"))
    graph("One")

    with failing("update", **REFUSED):
        result = graph("Two")
    assert result.status == Status.COMPLETED
    graph("Three")

    assert stored()["multi_agents"]["g"]["state"]["current_task"] == "Three"


@every_durability
def test_a_conflict_is_raised_all_the_same(
    new_manager: NewManager, new_agent: NewAgent, history: History, durability: str
) -> None:
    loser = new_agent(new_manager(durability=durability, on_error="degrade"))
    winner = new_agent(new_manager())
    winner("I was faster")

    with pytest.raises(SessionConflictError):
        loser("Hi")

    assert history() == winner.messages


@every_durability
def test_a_conflict_after_an_outage_is_raised_with_all_that_is_pending(
    new_manager: NewManager, new_agent: NewAgent, history: History, failing: Failing, durability: str
) -> None:
    manager = new_manager(durability=durability, on_error="degrade")
    loser = new_agent(manager)
    with failing("update", **REFUSED):
        loser("One")
    winner = new_agent(new_manager())
    winner("I was faster")

    with pytest.raises(SessionConflictError) as caught:
        loser("Two")

    assert texts(caught.value.pending)[:3] == ["One", "Okay.", "Two"]
    assert history() == winner.messages
    assert manager.health["last_error"] == "SessionConflictError"


@every_durability
def test_a_deleted_session_is_raised_all_the_same(
    new_manager: NewManager, new_agent: NewAgent, durability: str
) -> None:
    agent = new_agent(new_manager(durability=durability, on_error="degrade"))
    new_manager().delete_session()

    with pytest.raises(SessionNotFoundError):
        agent("Hi")


@every_durability
@pytest.mark.limits(pending=5)
def test_the_queue_is_bounded(
    new_manager: NewManager,
    new_agent: NewAgent,
    history: History,
    failing: Failing,
    durability: str,
) -> None:
    manager = new_manager(durability=durability, on_error="degrade")
    agent = new_agent(manager)

    with failing("update", **REFUSED):
        agent("One")
        agent("Two")
        with pytest.raises(MongoDBSessionError, match=r"5 changes.*'s-1'"):
            agent("Three")
        assert manager.health["pending"] == 5
    manager.flush()

    assert texts(history()) == ["One", "Okay.", "Two", "Okay.", "Three"]
