"""Where features meet on the real mongod: overrides, live sets, redactions, merged messages, callbacks that raise."""

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any, cast

import pytest
from pymongo import MongoClient
from strands import Agent
from strands.agent import _continuation
from strands.agent.conversation_manager import (
    ConversationManager,
    NullConversationManager,
    SlidingWindowConversationManager,
    SummarizingConversationManager,
)
from strands.hooks import (
    AfterInvocationEvent,
    AfterModelCallEvent,
    AfterToolCallEvent,
    BeforeInvocationEvent,
    BeforeModelCallEvent,
    BeforeToolCallEvent,
    MessageAddedEvent,
)
from strands.types.content import Message

from mongodb_session_manager import MongoDBSessionManager
from mongodb_session_manager.testing import Redaction
from tests.aliases import Everything, History, NewAgent
from tests.talking import LOOK, every_durability, look, look_up, texts

if TYPE_CHECKING:
    from strands.types.agent import LocalAgent


SECRET = "555-0199"


class Masking(MongoDBSessionManager):
    """Stores messages without telephone numbers; the live agent keeps them."""

    def append_message(self, message: Message, agent: "LocalAgent", **kwargs: Any) -> None:
        masked = copy.deepcopy(message)
        for block in masked["content"]:
            if "text" in block:
                block["text"] = block["text"].replace(SECRET, "[number]")
        super().append_message(masked, agent, **kwargs)


class Bare(Masking):
    """Leaves of a message what was said alone: neither ids nor what a model call cost."""

    def append_message(self, message: Message, agent: "LocalAgent", **kwargs: Any) -> None:
        bare = {"role": message["role"], "content": message["content"]}
        super().append_message(cast(Message, bare), agent, **kwargs)


@pytest.fixture
def new(mongo_client: MongoClient[dict[str, Any]], database: str) -> Iterator[Callable[..., Any]]:
    with ExitStack() as stack:

        def make(kind: type[MongoDBSessionManager] = MongoDBSessionManager, **options: Any) -> MongoDBSessionManager:
            manager = kind("s-1", client=mongo_client, database_name=database, **options)
            return stack.enter_context(closing(manager))

        yield make


def masked(messages: list[Message]) -> list[str]:
    return [text.replace(SECRET, "[number]") for text in texts(messages)]


def go_on_with(text: str, event: Any) -> None:
    """Contribute input the way the SDK's own plugins do."""
    message = {"role": "user", "content": [{"text": text}]}
    _continuation.add_input(event, _continuation._ContinuationInput(args=cast(Any, [message])))


def going_on(agent: Agent, text: str) -> None:
    """Contribute input before the first call of a model in an invocation."""

    def go_on(event: BeforeModelCallEvent) -> None:
        if text not in str(event.agent.messages[-1]):
            go_on_with(text, event)

    agent.add_hook(go_on)


# An override and the live set

MANAGERS: dict[str, Callable[[], ConversationManager]] = {
    "null": NullConversationManager,
    "sliding": lambda: SlidingWindowConversationManager(window_size=4),
    "pins": lambda: SlidingWindowConversationManager(window_size=6, pin_first=2),
    "summarising": lambda: SummarizingConversationManager(summary_ratio=0.5, preserve_recent_messages=2),
}


@every_durability
@pytest.mark.parametrize("kind", [Masking, Bare])
@pytest.mark.parametrize("make", MANAGERS.values(), ids=MANAGERS)
def test_what_an_override_stored_is_live_as_the_agents_own_is(
    new: Callable[..., Any],
    new_agent: NewAgent,
    kind: type[MongoDBSessionManager],
    make: Callable[[], ConversationManager],
    durability: str,
) -> None:
    for number in range(4):
        manager = new(kind, durability=durability)
        manager.prefetch(["default"] * (number % 2))
        agent = new_agent(manager, [look("kiwi", number)], tools=[look_up], conversation_manager=make())
        agent(f"{number}: {SECRET}")
        undone = copy.deepcopy(agent.messages)
        agent("A mistake")
        agent.messages = undone
        manager.sync_agent(agent)
        if isinstance(agent.conversation_manager, SummarizingConversationManager) and number == 2:
            agent.conversation_manager.reduce_context(agent)
            manager.sync_agent(agent)
        manager.close()

        restored = new_agent(new(kind), tools=[look_up], conversation_manager=make())
        assert masked(restored.messages) == masked(agent.messages)
        assert [m["role"] for m in restored.messages] == [m["role"] for m in agent.messages]


# A redaction and a merged message


@every_durability
@pytest.mark.parametrize("kind", [MongoDBSessionManager, Masking, Bare])
def test_a_redaction_reaches_a_merged_message(
    new: Callable[..., Any],
    new_agent: NewAgent,
    everything: Everything,
    history: History,
    kind: type[MongoDBSessionManager],
    durability: str,
) -> None:
    agent = new_agent(new(kind, durability=durability), "Fine.", Redaction("[gone]"))
    agent("Hello")
    going_on(agent, "and a second secret")

    agent("A first secret")

    assert b"secret" not in everything()
    assert texts(history()) == ["Hello", "Fine.", "[gone]", "Blocked by the guardrail."]
    assert texts(new_agent(new(kind)).messages) == texts(agent.messages)


@every_durability
@pytest.mark.parametrize("kind", [MongoDBSessionManager, Masking, Bare])
def test_a_merged_message_is_one_and_lives_as_one(
    new: Callable[..., Any],
    new_agent: NewAgent,
    history: History,
    kind: type[MongoDBSessionManager],
    durability: str,
) -> None:
    manager = new(kind, durability=durability)
    window = {"conversation_manager": SlidingWindowConversationManager(window_size=4)}
    agent = new_agent(manager, [LOOK], tools=[look_up], **window)
    going_on(agent, f"and call {SECRET}")

    for number in range(4):
        agent(f"{number}")
    manager.flush()

    told = SECRET if kind is MongoDBSessionManager else "[number]"
    assert texts(history())[:2] == ["0", f"and call {told}"]
    assert len(history()) == 10
    restored = new_agent(new(kind), conversation_manager=SlidingWindowConversationManager(window_size=4))
    assert masked(restored.messages) == masked(agent.messages)


# Callbacks that raise

EVENTS = [
    BeforeInvocationEvent,
    MessageAddedEvent,
    BeforeModelCallEvent,
    AfterModelCallEvent,
    BeforeToolCallEvent,
    AfterToolCallEvent,
    AfterInvocationEvent,
]


@every_durability
@pytest.mark.parametrize("event", EVENTS, ids=[event.__name__ for event in EVENTS])
@pytest.mark.parametrize("kind", [MongoDBSessionManager, Masking])
def test_a_callback_that_raises_leaves_stored_what_is_live(
    new: Callable[..., Any],
    new_agent: NewAgent,
    history: History,
    kind: type[MongoDBSessionManager],
    event: Any,
    durability: str,
) -> None:
    manager = new(kind, durability=durability)
    window = {"conversation_manager": SlidingWindowConversationManager(window_size=4)}
    agent = new_agent(manager, "Fine.", "Fine.", [LOOK], tools=[look_up], **window)
    agent("Fill")
    agent("the window")

    def fail(_: Any) -> None:
        agent.state.set("failed", True)
        raise ValueError("mine")

    agent.hooks.add_callback(event, fail)
    said = ""
    try:
        agent("Look")
    except Exception as error:  # noqa: BLE001 - the SDK makes a tool's result of some, and wraps others
        said = str(error)

    assert "mine" in said + str(agent.messages)
    assert manager.health["ok"]
    assert texts(history()[-1:]) == texts(agent.messages[-1:])
    manager.close()
    restored = new_agent(new(kind), conversation_manager=SlidingWindowConversationManager(window_size=4))
    assert restored.messages == agent.messages
