"""A new process goes on where the old one stopped."""

from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from pymongo import MongoClient, monitoring
from strands import ToolContext, tool
from strands.agent.conversation_manager import (
    ConversationManager,
    NullConversationManager,
    SlidingWindowConversationManager,
    SummarizingConversationManager,
)
from strands.hooks import AfterModelCallEvent
from strands.interrupt import Interrupt
from strands.types.content import Message
from strands.types.exceptions import ContextWindowOverflowException
from strands.types.interrupt import InterruptResponseContent

from mongodb_session_manager import MongoDBSessionError, UnstorableValueError
from mongodb_session_manager.testing import ScriptedModel
from tests.aliases import History, NewAgent, NewManager
from tests.talking import LOOK, look_up, texts, without_ids

DROP = {"toolUse": {"toolUseId": "t-2", "name": "drop_table", "input": {}}}


@tool(context=True)
def drop_table(tool_context: ToolContext) -> str:
    """Do something that a human must allow."""
    answer = tool_context.interrupt("approval", reason={"table": "users"})
    return f"the answer was {answer}"


def initial() -> list[Message]:
    return [
        {"role": "user", "content": [{"text": "Call me Ishmael"}]},
        {"role": "assistant", "content": [{"text": "Hello, Ishmael"}]},
    ]


def answer(interrupt: Interrupt, response: str) -> list[InterruptResponseContent]:
    return [{"interruptResponse": {"interruptId": interrupt.id, "response": response}}]


# Messages


@pytest.mark.parametrize(
    ("turns", "prompts"),
    [
        ([], []),
        (["Hello."], ["Hi"]),
        (["Hello.", "Bye."], ["Hi", "Bye"]),
        ([LOOK, "A bird."], ["What is a kiwi?"]),
        (["Blue."], [[{"text": "What is this?"}, {"image": {"format": "png", "source": {"bytes": b"\x89PNG\0"}}}]]),
    ],
)
def test_messages_come_back(
    new_manager: NewManager, new_agent: NewAgent, history: History, turns: list[Any], prompts: list[Any]
) -> None:
    agent = new_agent(new_manager(), *turns, tools=[look_up])
    for prompt in prompts:
        agent(prompt)

    restored = new_agent(new_manager(), tools=[look_up])

    assert restored.messages == agent.messages == history()


def test_a_restored_agent_remembers(new_manager: NewManager, new_agent: NewAgent, history: History) -> None:
    new_agent(new_manager(), "Nice to meet you.")("I am Ada")
    model = ScriptedModel(["You are Ada."])
    agent = new_agent(new_manager(), model=model)

    agent("Who am I?")

    assert texts(model.calls[0]) == ["I am Ada", "Nice to meet you.", "Who am I?"]
    assert history() == agent.messages


def test_message_ids_go_on_without_a_gap(
    new_manager: NewManager, new_agent: NewAgent, stored: Callable[[], dict[str, Any]]
) -> None:
    for _ in range(3):
        new_agent(new_manager())("Hi")

    messages = stored()["agents"]["default"]["messages"]
    assert [message["message_id"] for message in messages] == list(range(6))


def test_initial_messages_are_stored_with_a_new_agent(
    new_manager: NewManager, new_agent: NewAgent, history: History
) -> None:
    agent = new_agent(new_manager(), messages=initial())
    agent("Who am I?")

    restored = new_agent(new_manager())

    assert restored.messages == history() == agent.messages
    assert without_ids(agent.messages[:2]) == initial()


def test_initial_messages_of_a_stored_agent_give_way_to_what_is_stored(
    new_manager: NewManager, new_agent: NewAgent, history: History
) -> None:
    first = new_agent(new_manager())
    first("Hi")

    restored = new_agent(new_manager(), messages=initial())

    assert restored.messages == first.messages == history()


def test_agents_of_one_session_keep_apart(new_manager: NewManager, new_agent: NewAgent, history: History) -> None:
    manager = new_manager()
    names = ["planner", "a.b$c", "日本"]
    agents = [new_agent(manager, f"I am {name}.", agent_id=name, state={"name": name}) for name in names]
    for agent in agents:
        agent("Who are you?")

    manager = new_manager()
    restored = [new_agent(manager, agent_id=name) for name in names]

    for name, old, new in zip(names, agents, restored, strict=True):
        assert new.messages == old.messages == history(agent_id=name)
        assert new.state.get() == {"name": name}
        assert texts(new.messages) == ["Who are you?", f"I am {name}."]


def test_a_tool_call_without_its_result_is_mended(
    new_manager: NewManager, new_agent: NewAgent, history: History
) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    for message in (
        {"role": "user", "content": [{"text": "What is a kiwi?"}]},
        {"role": "assistant", "content": [LOOK]},
        {"role": "user", "content": [{"text": "Are you there?"}]},
    ):
        manager.append_message(cast(Message, message), agent)

    restored = new_agent(new_manager())

    results = [block for message in restored.messages for block in message["content"] if "toolResult" in block]
    assert [block["toolResult"]["toolUseId"] for block in results] == ["t-1"]


# State


@pytest.mark.parametrize("state", [{}, {"a.b": {"$c": [1, 2.5, None, True, "日本"]}, "e": {}}, {"big": 2**70}])
def test_state_comes_back(new_manager: NewManager, new_agent: NewAgent, state: dict[str, Any]) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    for key, value in state.items():
        agent.state.set(key, value)
    manager.sync_agent(agent)

    assert new_agent(new_manager()).state.get() == state


def test_deleted_state_stays_deleted(new_manager: NewManager, new_agent: NewAgent) -> None:
    manager = new_manager()
    agent = new_agent(manager, state={"a": 1, "b": 2})
    agent.state.delete("a")
    manager.sync_agent(agent)

    assert new_agent(new_manager()).state.get() == {"b": 2}


def test_stored_state_wins_over_the_initial_one(new_manager: NewManager, new_agent: NewAgent) -> None:
    new_agent(new_manager(), state={"visits": 7})

    assert new_agent(new_manager(), state={"visits": 0}).state.get() == {"visits": 7}


# Conversation managers


@pytest.mark.parametrize(
    "make", [NullConversationManager, SlidingWindowConversationManager, SummarizingConversationManager]
)
def test_conversation_manager_state_comes_back(
    new_manager: NewManager, new_agent: NewAgent, make: Callable[[], ConversationManager]
) -> None:
    agent = new_agent(new_manager(), conversation_manager=make())
    agent("Hi")

    restored = new_agent(new_manager(), conversation_manager=make())

    assert restored.conversation_manager.get_state() == agent.conversation_manager.get_state()
    assert restored.messages == agent.messages


def test_another_conversation_manager_goes_on_with_the_same_messages(
    new_manager: NewManager, new_agent: NewAgent, caplog: pytest.LogCaptureFixture
) -> None:
    agent = new_agent(new_manager(), conversation_manager=SlidingWindowConversationManager())
    agent("Hi")

    restored = new_agent(new_manager(), conversation_manager=NullConversationManager())

    assert restored.messages == agent.messages
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(told) == 1
    assert all(name in told[0] for name in ("s-1", "default", "SlidingWindow", "NullConversationManager"))


class Refusing(SlidingWindowConversationManager):
    def restore_from_session(self, state: dict[str, Any]) -> list[Message] | None:
        raise ValueError("this conversation manager refuses")


def test_an_agent_that_could_not_be_restored_can_be_made_again(new_manager: NewManager, new_agent: NewAgent) -> None:
    new_agent(new_manager(), conversation_manager=Refusing())("Hi")
    manager = new_manager()
    with pytest.raises(MongoDBSessionError, match="conversation_manager_state"):
        new_agent(manager, conversation_manager=Refusing())

    assert len(new_agent(manager).messages) == 2


@pytest.mark.parametrize("overflows", [1, 2])
def test_a_summary_comes_back_in_front(
    new_manager: NewManager, new_agent: NewAgent, history: History, overflows: int
) -> None:
    def summarizing() -> SummarizingConversationManager:
        return SummarizingConversationManager(summary_ratio=0.5, preserve_recent_messages=2)

    script: list[Any] = ["One.", "Two.", "Three."]
    for number in range(overflows):
        script += [ContextWindowOverflowException("too long"), f"Summary {number}.", f"Answer {number}."]
    agent = new_agent(new_manager(), *script, conversation_manager=summarizing())
    for turn in range(3 + overflows):
        agent(f"Turn {turn}")

    restored = new_agent(new_manager(), conversation_manager=summarizing())

    assert texts(agent.messages)[0] == f"Summary {overflows - 1}."
    assert restored.messages == agent.messages
    assert restored.conversation_manager.get_state() == agent.conversation_manager.get_state()
    assert len(history()) == 2 * (3 + overflows)


@pytest.mark.parametrize("turns", [1, 2, 5])
def test_a_window_comes_back(new_manager: NewManager, new_agent: NewAgent, history: History, turns: int) -> None:
    manager = new_manager()
    agent = new_agent(manager, conversation_manager=SlidingWindowConversationManager(window_size=4))
    for turn in range(turns):
        agent(f"Turn {turn}")
    manager.flush()

    restored = new_agent(new_manager(), conversation_manager=SlidingWindowConversationManager(window_size=4))

    assert restored.messages == agent.messages
    assert len(restored.messages) == min(4, 2 * turns)
    assert len(history()) == 2 * turns


# What a restore transfers


class Replies(monitoring.CommandListener):
    """Keeps the documents that the server sent in answer to aggregations."""

    def __init__(self) -> None:
        self.documents: list[dict[str, Any]] = []

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        pass

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        if event.command_name == "aggregate":
            self.documents += event.reply["cursor"]["firstBatch"]

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        pass


@pytest.fixture
def replies() -> Replies:
    return Replies()


@pytest.fixture
def heard(mongodb_uri: str, replies: Replies) -> Iterator[MongoClient[dict[str, Any]]]:
    client: MongoClient[dict[str, Any]] = MongoClient(mongodb_uri, event_listeners=[replies])
    with client:
        yield client


def test_only_the_kept_messages_are_transferred(
    new_manager: NewManager, new_agent: NewAgent, heard: MongoClient[dict[str, Any]], replies: Replies
) -> None:
    manager = new_manager()
    agent = new_agent(manager, conversation_manager=SlidingWindowConversationManager(window_size=4))
    new_agent(manager, agent_id="another", messages=initial())
    for turn in range(5):
        agent(f"Turn {turn}")
    manager.flush()

    restored = new_agent(
        new_manager(client=heard), conversation_manager=SlidingWindowConversationManager(window_size=4)
    )

    (document,) = replies.documents
    assert [message["message_id"] for message in document["messages"]] == [6, 7, 8, 9]
    assert "Ishmael" not in str(document)
    assert len(restored.messages) == 4


# Interrupts


def test_an_interrupt_survives_the_process(new_manager: NewManager, new_agent: NewAgent, history: History) -> None:
    result = new_agent(new_manager(), DROP, tools=[drop_table])("Clean up")
    assert result.stop_reason == "interrupt"

    agent = new_agent(new_manager(), "Done.", tools=[drop_table])
    (interrupt,) = result.interrupts or ()
    result = agent(answer(interrupt, "yes"))

    assert result.stop_reason == "end_turn"
    assert interrupt.reason == {"table": "users"}
    results = [
        block["toolResult"] for message in agent.messages for block in message["content"] if "toolResult" in block
    ]
    assert [result["content"] for result in results] == [[{"text": "the answer was yes"}]]
    assert history() == agent.messages


def test_an_answered_interrupt_does_not_come_back(new_manager: NewManager, new_agent: NewAgent) -> None:
    agent = new_agent(new_manager(), DROP, "Done.", tools=[drop_table])
    (interrupt,) = agent("Clean up").interrupts or ()
    agent(answer(interrupt, "no"))

    restored = new_agent(new_manager(), "Hello.", tools=[drop_table])

    assert restored("Hi").stop_reason == "end_turn"
    assert not restored._interrupt_state.activated


# Models that keep the conversation on their own side


class StatefulModel(ScriptedModel):
    @property
    def stateful(self) -> bool:
        return True


def remember_response(event: AfterModelCallEvent) -> None:
    event.agent._model_state["response_id"] = f"r-{len(event.agent._model_state)}"


def test_model_state_comes_back_without_messages(
    new_manager: NewManager, new_agent: NewAgent, history: History
) -> None:
    agent = new_agent(new_manager(), model=StatefulModel(default="Okay."), hooks=[remember_response])
    agent("Hi")

    restored = new_agent(new_manager(), model=StatefulModel(default="Okay."))

    assert restored._model_state == agent._model_state == {"response_id": "r-0"}
    assert restored.messages == []
    assert texts(history()) == ["Hi", "Okay."]


def test_a_stateful_model_goes_on_after_a_restart(
    new_manager: NewManager, new_agent: NewAgent, history: History
) -> None:
    for prompt in ("One", "Two"):
        new_agent(new_manager(), model=StatefulModel(default="Okay."))(prompt)

    assert texts(history()) == ["One", "Okay.", "Two", "Okay."]


@pytest.mark.parametrize("damaged", [{}, "text", {"messages": []}], ids=str)
def test_a_damaged_agent_is_told_and_left_as_it_is(
    new_manager: NewManager,
    new_agent: NewAgent,
    observer: MongoClient[dict[str, Any]],
    database: str,
    stored: Callable[..., Any],
    damaged: Any,
) -> None:
    manager = new_manager()
    observer[database].agent_sessions.update_one({"_id": "s-1"}, {"$set": {"agents.default": damaged}})

    with pytest.raises(MongoDBSessionError, match=r"'default' of session 's-1' is damaged"):
        new_agent(manager)
    assert stored()["agents"]["default"] == damaged


@pytest.mark.parametrize("kind", ["toolUse", "toolResult"])
@pytest.mark.parametrize("odd", [None, {}, "t-1", [], {"toolUseId": ["t-1"]}, {"name": "look_up"}], ids=str)
def test_a_tools_block_that_has_no_id_is_refused_and_the_session_stays_readable(
    new_manager: NewManager, new_agent: NewAgent, kind: str, odd: Any
) -> None:
    message: Any = {"role": "user", "content": [{"text": "Look"}, {kind: odd}]}
    manager = new_manager()
    agent = new_agent(manager, LOOK, tools=[look_up])
    agent("Hi")

    with pytest.raises(UnstorableValueError, match="message 4 cannot be stored: a toolUse or toolResult block"):
        manager.append_message(message, agent)
    with pytest.raises(UnstorableValueError, match="message 0 cannot be stored: a toolUse or toolResult block"):
        new_agent(manager, agent_id="other", messages=[message])
    manager.close()

    assert new_agent(new_manager(), tools=[look_up]).messages == agent.messages
