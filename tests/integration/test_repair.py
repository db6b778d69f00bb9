"""Histories that a crash left broken are mended where they are stored, once."""

import copy
from collections.abc import Callable
from typing import Any, cast

import pytest
from pymongo import MongoClient
from strands import Agent
from strands.agent.conversation_manager import SlidingWindowConversationManager
from strands.types.content import Message

from mongodb_session_manager import MongoDBSessionManager, SessionConflictError
from mongodb_session_manager.testing import CommandCounter

NewManager = Callable[..., MongoDBSessionManager]
NewAgent = Callable[..., Agent]
History = Callable[..., list[Message]]


def say(text: str, role: str = "user") -> Message:
    return cast(Message, {"role": role, "content": [{"text": text}]})


def use(*ids: str) -> Message:
    blocks = [{"toolUse": {"toolUseId": each, "name": "add", "input": {}}} for each in ids]
    return cast(Message, {"role": "assistant", "content": blocks})


def result(*ids: str) -> Message:
    blocks = [{"toolResult": {"toolUseId": each, "status": "success", "content": [{"text": each}]}} for each in ids]
    return cast(Message, {"role": "user", "content": blocks})


def said(messages: list[Message]) -> list[Any]:
    """Without the tracking ids, which the SDK gives to messages that were appended by hand."""
    return [(message["role"], message["content"]) for message in messages]


BROKEN: dict[str, list[Message]] = {
    "use without result": [say("a"), use("1"), say("b"), say("c", "assistant"), say("d")],
    "one of two results": [say("a"), use("1", "2"), result("1"), say("c", "assistant"), say("d")],
    "a result too many": [say("a"), use("1"), result("1", "9"), say("c", "assistant"), say("d")],
    "result alone": [result("1"), say("b", "assistant"), say("c"), say("d", "assistant")],
    "result alone inside": [say("a"), say("b", "assistant"), result("1"), say("d", "assistant"), say("e")],
    "twice": [say("a"), use("1"), say("b"), use("2"), say("c"), say("d", "assistant")],
}
WHOLE = [say("a"), use("1"), result("1"), say("b", "assistant"), use("2")]


@pytest.fixture
def store(new_manager: NewManager, new_agent: NewAgent) -> Callable[[list[Message]], None]:
    def fill(messages: list[Message]) -> None:
        with new_manager() as manager:
            agent = new_agent(manager)
            for message in copy.deepcopy(messages):
                manager.append_message(message, agent)

    return fill


def is_valid(messages: list[Message]) -> bool:
    pairs = zip(messages, [*messages[1:], None], strict=True)
    answered = all(ids(message, "toolUse") == ids(after, "toolResult") for message, after in pairs if after)
    return answered and not ids(messages[0], "toolResult")


def ids(message: Message, kind: str) -> set[str]:
    blocks = cast("list[dict[str, Any]]", message["content"])
    return {block[kind]["toolUseId"] for block in blocks if kind in block}


@pytest.mark.parametrize("messages", BROKEN.values(), ids=BROKEN.keys())
def test_what_the_sdk_mends_is_what_is_stored(
    new_manager: NewManager,
    new_agent: NewAgent,
    store: Callable[[list[Message]], None],
    history: History,
    stored: Callable[[], Any],
    messages: list[Message],
) -> None:
    store(messages)

    agent = new_agent(new_manager())

    assert is_valid(agent.messages)
    assert history() == agent.messages
    document = stored()["agents"]["default"]
    assert [message["message_id"] for message in document["messages"]] == list(range(len(agent.messages)))
    assert document["guard"]["next_message_id"] == len(agent.messages)
    assert len(document["repairs"]) == 1


@pytest.mark.parametrize("messages", BROKEN.values(), ids=BROKEN.keys())
def test_the_next_restores_mend_nothing(
    new_manager: NewManager,
    new_agent: NewAgent,
    store: Callable[[list[Message]], None],
    command_counter: CommandCounter,
    messages: list[Message],
) -> None:
    store(messages)
    agent = new_agent(new_manager())

    for _ in range(3):
        manager = new_manager()
        with command_counter.counting() as log:
            again = new_agent(manager)
        assert log.names == ["aggregate"]
        assert again.messages == agent.messages


def test_a_whole_history_is_not_touched(
    new_manager: NewManager,
    new_agent: NewAgent,
    store: Callable[[list[Message]], None],
    command_counter: CommandCounter,
) -> None:
    store(WHOLE)

    manager = new_manager()
    with command_counter.counting() as log:
        new_agent(manager)

    assert log.names == ["aggregate"]


def test_the_agent_goes_on_and_the_window_counts_right(
    new_manager: NewManager, new_agent: NewAgent, store: Callable[[list[Message]], None], history: History
) -> None:
    store(BROKEN["twice"])
    window = {"conversation_manager": SlidingWindowConversationManager(window_size=4)}
    for number in range(4):
        with new_manager() as manager:
            agent = new_agent(manager, **window)
            agent(f"prompt {number}")
            live = said(agent.messages)
        window = {"conversation_manager": SlidingWindowConversationManager(window_size=4)}
        with new_manager() as manager:
            assert said(new_agent(manager, **window).messages) == live
        window = {"conversation_manager": SlidingWindowConversationManager(window_size=4)}

    assert is_valid(history())
    assert said(history())[-len(live) :] == live


def test_metrics_and_times_of_the_others_stay(
    new_manager: NewManager, new_agent: NewAgent, stored: Callable[[], Any]
) -> None:
    with new_manager() as manager:
        agent = new_agent(manager, "Hello.")
        agent("Hi")
        for message in (use("1"), say("b")):
            manager.append_message(message, agent)
    before = stored()["agents"]["default"]["messages"][:3]

    new_agent(new_manager())

    assert stored()["agents"]["default"]["messages"][:3] == before


def test_a_write_in_between_is_a_conflict(
    new_manager: NewManager,
    new_agent: NewAgent,
    store: Callable[[list[Message]], None],
    observer: MongoClient[dict[str, Any]],
    database: str,
) -> None:
    store(BROKEN["twice"])
    manager = new_manager()
    mend = manager._binder._mend

    def slow(messages: list[Message]) -> list[Message]:
        observer[database].agent_sessions.update_one({"_id": "s-1"}, {"$inc": {"agents.default.guard.revision": 1}})
        return mend(messages)

    manager._binder._mend = slow
    with pytest.raises(SessionConflictError):
        new_agent(manager)


def test_a_window_that_moves_in_between(new_manager: NewManager, new_agent: NewAgent) -> None:
    """What it counts is the history as it was before the repair, which begins anew."""
    first = new_manager()
    agent = new_agent(first, conversation_manager=SlidingWindowConversationManager(window_size=2))
    for message in copy.deepcopy(BROKEN["result alone inside"]):
        agent.messages.append(message)
        first.append_message(message, agent)
    second = new_manager()
    mend = second._binder._mend

    def slow(messages: list[Message]) -> list[Message]:
        agent.conversation_manager.apply_management(agent)
        first.sync_agent(agent)
        return mend(messages)

    second._binder._mend = slow
    windows = [SlidingWindowConversationManager(window_size=2) for _ in range(2)]

    restored = new_agent(second, conversation_manager=windows[0])

    assert said(restored.messages) == said(agent.messages)
    restored("Go on")
    assert said(new_agent(new_manager(), conversation_manager=windows[1]).messages) == said(restored.messages)


@pytest.mark.parametrize("messages", [[result("1")], [result("1"), result("2")]], ids=["one", "two"])
def test_a_history_of_which_nothing_is_left_goes_on(
    store: Callable[[list[Message]], None],
    new_manager: NewManager,
    new_agent: NewAgent,
    history: History,
    messages: list[Message],
) -> None:
    store(messages)
    agent = new_agent(new_manager())
    assert agent.messages == []

    agent("Hello")

    assert history() == agent.messages
    assert new_agent(new_manager()).messages == agent.messages
