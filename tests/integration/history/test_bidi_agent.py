"""Bidirectional agents: transcripts arrive after their messages, and the conversation ends with its connection."""

from collections.abc import Sequence
from typing import Any

import pytest
from pymongo.errors import OperationFailure
from strands.bidi import BidiAgent
from strands.bidi.hooks import BidiAgentStopEvent
from strands.bidi.types import (
    BidiBargeInEvent,
    BidiResponseStopEvent,
    BidiToolUseBlocksEvent,
)

from mongodb_session_manager import MongoDBSessionManager
from mongodb_session_manager.errors import SessionConflictError
from mongodb_session_manager.testing import CommandCounter
from tests.aliases import Failing, History, NewManager
from tests.speaking import SpokenModel, text, transcript
from tests.talking import every_durability, take_note, texts


async def converse(agent: BidiAgent, said: str = "Hi") -> None:
    """Say something and hear the whole response."""
    async with agent:
        await agent.send(said)
        async for event in agent.receive():
            if isinstance(event, BidiResponseStopEvent):
                break


def new_agent(manager: MongoDBSessionManager, events: Sequence[Any] = (), **options: Any) -> BidiAgent:
    return BidiAgent(model=SpokenModel(events), session_manager=manager, **options)


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([], ["Hi"]),
        (text("Hello.", "c-1"), ["Hi", "Hello."]),
        (transcript("assistant", "Hello", "c-1"), ["Hi", "Hello"]),
        ([*transcript("user", "Ahoy", "c-1"), *transcript("assistant", "Hello", "c-2")], ["Hi", "Ahoy", "Hello"]),
        ([*transcript("user", "Ahoy", "c-1"), BidiBargeInEvent(), *text("Yes?", "c-2")], ["Hi", "Ahoy", "Yes?"]),
    ],
)
async def test_what_was_said_comes_back(
    new_manager: NewManager, history: History, events: list[Any], expected: list[str]
) -> None:
    agent = new_agent(new_manager(), events)
    await converse(agent)

    restored = new_agent(new_manager())

    assert texts(restored.messages) == expected
    assert restored.messages == agent.messages == history()


async def test_transcripts_that_overlap(new_manager: NewManager, history: History) -> None:
    first, second = transcript("user", "I was first", "c-1"), transcript("assistant", "I was second", "c-2")
    mixed = [first[0], second[0], *first[1:-1], *second[1:], first[-1]]
    agent = new_agent(new_manager(), mixed)

    await converse(agent)

    assert texts(history()) == ["Hi", "Iwasfirst", "Iwassecond"]
    assert history() == agent.messages


async def test_a_transcript_that_was_cut_off(new_manager: NewManager, history: History) -> None:
    agent = new_agent(new_manager(), transcript("assistant", "Hello there", "c-1")[:-1])

    await converse(agent)

    assert history() == agent.messages
    assert texts(history()) == ["Hi", "[Transcript unavailable.]"]


async def test_a_model_goes_on_with_what_was_said(new_manager: NewManager, history: History) -> None:
    await converse(new_agent(new_manager(), text("Hello.", "c-1")))
    agent = new_agent(new_manager(), text("Bye.", "c-1"))

    await converse(agent, "Bye")

    assert isinstance(agent.model, SpokenModel)
    assert texts(agent.model.started_with or []) == ["Hi", "Hello."]
    assert texts(history()) == ["Hi", "Hello.", "Bye", "Bye."]
    assert history() == agent.messages


async def test_one_write_for_each_message_and_update(new_manager: NewManager, command_counter: CommandCounter) -> None:
    agent = new_agent(new_manager(), text("Hello.", "c-1"))

    with command_counter.counting() as log:
        await converse(agent)

    assert (log.writes, log.reads) == (3, 0)


# State


async def test_a_tool_call_and_the_state_that_it_changed(new_manager: NewManager, history: History) -> None:
    call = BidiToolUseBlocksEvent([{"toolUseId": "t-1", "name": "take_note", "input": {}}])
    agent = new_agent(new_manager(), [call], tools=[take_note])

    async with agent:
        await agent.send("Take a note")
        async for _ in agent.receive():
            if len(agent.messages) == 5:
                break

    restored = new_agent(new_manager())
    assert restored.state.get() == {"noted": True}
    assert restored.messages == agent.messages == history()


async def test_stopping_stores_the_state(new_manager: NewManager) -> None:
    agent = new_agent(new_manager(), state={"a": 1})

    async with agent:
        agent.state.set("b", 2)

    assert new_agent(new_manager()).state.get() == {"a": 1, "b": 2}


async def test_stopping_an_unchanged_agent_costs_nothing(
    new_manager: NewManager, command_counter: CommandCounter
) -> None:
    agent = new_agent(new_manager())

    with command_counter.counting() as log:
        async with agent:
            pass

    assert log.commands == []


@every_durability
async def test_a_callback_that_raises_leaves_nothing_unwritten(
    new_manager: NewManager, history: History, durability: str
) -> None:
    def fail(event: BidiAgentStopEvent) -> None:
        raise LookupError("a callback of an application")

    agent = new_agent(new_manager(durability=durability), text("Hello.", "c-1"))
    agent.hooks.add_callback(BidiAgentStopEvent, fail)
    with pytest.raises(LookupError):
        await converse(agent)

    assert texts(history()) == ["Hi", "Hello."]


def test_syncing_by_hand(new_manager: NewManager, command_counter: CommandCounter) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    agent.state.set("a", 1)

    with command_counter.counting() as log:
        manager.sync_agent(agent)
        manager.sync_agent(agent)

    assert log.names == ["update"]
    assert new_agent(new_manager()).state.get() == {"a": 1}


# Failures


@pytest.mark.parametrize("written_before", [0, 1, 2], ids=["prompt", "placeholder", "text"])
async def test_a_failed_write_is_told_and_made_up_for(
    new_manager: NewManager, history: History, failing: Failing, written_before: int
) -> None:
    manager = new_manager()
    agent = new_agent(manager, text("Hello.", "c-1"))

    with failing("update", mode={"skip": written_before}, errorCode=13), pytest.raises(OperationFailure):
        await converse(agent)
    manager.flush()

    assert history() == agent.messages


async def test_a_conflict_is_told(new_manager: NewManager, history: History) -> None:
    loser = new_agent(new_manager())
    winner = new_agent(new_manager(), text("Hello.", "c-1"))
    await converse(winner)

    with pytest.raises(SessionConflictError):
        await converse(loser)

    assert history() == winner.messages
