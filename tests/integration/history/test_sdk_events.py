"""What the SDK announces is what is stored; a change in the SDK is noticed here first."""

import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Any, cast

import pytest
from strands import Agent
from strands.agent import _continuation
from strands.bidi.hooks.events import BidiAgentStopEvent
from strands.hooks import AfterInvocationEvent, AgentInitializedEvent, BeforeModelCallEvent, MessageUpdatedEvent
from strands.hooks.registry import HookRegistry
from strands.session.session_manager import SessionManager
from strands.types.content import Message
from strands.types.session import SessionAgent

from mongodb_session_manager._history.agent_state import AgentStateTracker
from mongodb_session_manager.testing import CommandCounter, Redaction, ScriptedModel
from tests.aliases import History, NewAgent, NewManager, Stored
from tests.talking import LOOK, look_up, texts

SECRET = "my number is 555-0199"


# The events


def registered(register: Callable[[HookRegistry], None]) -> dict[type, list[Any]]:
    registry = HookRegistry()
    register(registry)
    return {event: [entry.callback for entry in entries] for event, entries in registry._registered_callbacks.items()}


def test_every_event_of_the_sdk_is_handled(new_manager: NewManager) -> None:
    manager = new_manager()

    theirs = registered(lambda registry: SessionManager.register_hooks(manager, registry))
    ours = registered(manager.register_hooks)

    assert set(theirs) | {MessageUpdatedEvent, BidiAgentStopEvent} <= set(ours)


def test_nothing_but_the_initialization_is_handled_on_the_event_loop(new_manager: NewManager) -> None:
    handlers = registered(new_manager().register_hooks)

    blocking = {event for event, found in handlers.items() if not all(map(inspect.iscoroutinefunction, found))}
    assert blocking == {AgentInitializedEvent}


def test_every_field_of_the_sdks_record_is_stored(new_manager: NewManager, new_agent: NewAgent, stored: Stored) -> None:
    agent = new_agent(new_manager(), state={"a": 1})
    record = SessionAgent.from_agent(agent)
    names = {field.name for field in fields(SessionAgent)} - {"agent_id", "created_at", "updated_at"}

    with AgentStateTracker("here").capturing(agent) as captured:
        assert {name: captured.get(name) for name in names} == {name: getattr(record, name) for name in names}
    assert stored()["agents"]["default"]["agent_data"] == {"agent_id": "default", **captured}


def test_an_agent_that_has_more_to_store_is_noticed(new_manager: NewManager, new_agent: NewAgent) -> None:
    agent = new_agent(new_manager())
    record = SessionAgent.from_agent(agent)

    with AgentStateTracker("here").capturing(agent) as captured:
        assert set(captured["_internal_state"]) == set(record._internal_state)
        assert set(captured["conversation_manager_state"]) == set(record.conversation_manager_state)


@pytest.mark.parametrize("order", [-1000, 0, 100, None])
def test_what_a_users_callback_changes_at_the_end_is_captured(
    new_manager: NewManager, new_agent: NewAgent, stored: Stored, order: int | None
) -> None:
    agent = new_agent(new_manager())

    async def note(event: AfterInvocationEvent) -> None:
        event.agent.state.set("asked", True)

    agent.hooks.add_callback(AfterInvocationEvent, note, **({} if order is None else {"order": order}))
    agent("Hi")

    assert stored()["agents"]["default"]["agent_data"]["state"] == {"asked": True}


def test_a_users_callback_that_raises_costs_no_message(
    new_manager: NewManager, new_agent: NewAgent, history: History
) -> None:
    agent = new_agent(new_manager())

    def fail(event: AfterInvocationEvent) -> None:
        raise RuntimeError("a bug of the user's")

    agent.add_hook(fail)

    with pytest.raises(RuntimeError, match="a bug of the user's"):
        agent("Hi")
    assert texts(history()) == ["Hi", "Okay."]


# Continuations


def go_on_with(text: str, event: Any) -> None:
    """Contribute input the way the SDK's own plugins do."""
    message = {"role": "user", "content": [{"text": text}]}
    _continuation.add_input(event, _continuation._ContinuationInput(args=cast(Any, [message])))


def once(event_type: type, act: Callable[[Any], None]) -> Callable[[Agent], None]:
    """Make something that adds a callback which acts on the first event only."""
    done: list[bool] = []

    def callback(event: Any) -> None:
        if not done:
            done.append(True)
            act(event)

    return lambda agent: agent.hooks.add_callback(event_type, callback)


def test_a_merged_continuation_is_stored_once(
    new_manager: NewManager, new_agent: NewAgent, history: History, command_counter: CommandCounter
) -> None:
    agent = new_agent(new_manager())
    once(BeforeModelCallEvent, lambda event: go_on_with("and be quick", event))(agent)

    with command_counter.counting() as log:
        agent("Hi")

    assert history() == agent.messages
    assert texts(history()) == ["Hi", "and be quick", "Okay."]
    assert len(history()) == 2
    assert (log.writes, log.reads) == (3, 0)


def test_a_continuation_merged_into_a_tool_result_is_stored_once(
    new_manager: NewManager, new_agent: NewAgent, history: History
) -> None:
    agent = new_agent(new_manager(), LOOK, "A bird.", tools=[look_up])

    def on_second_call(event: BeforeModelCallEvent) -> None:
        if len(event.agent.messages) == 3:
            go_on_with("and be quick", event)

    agent.add_hook(on_second_call)
    agent("Hi")

    assert history() == agent.messages
    assert len(history()) == 4


def test_two_merged_continuations_are_stored_once(
    new_manager: NewManager, new_agent: NewAgent, history: History
) -> None:
    agent = new_agent(new_manager())

    def twice(event: BeforeModelCallEvent) -> None:
        go_on_with("one", event)
        go_on_with("two", event)

    once(BeforeModelCallEvent, twice)(agent)
    agent("Hi")

    assert history() == agent.messages
    assert texts(history()) == ["Hi", "one", "two", "Okay."]


def test_a_continuation_after_the_answer_is_a_message(
    new_manager: NewManager, new_agent: NewAgent, history: History
) -> None:
    agent = new_agent(new_manager(), "One.", "Two.")
    once(AfterInvocationEvent, lambda event: go_on_with("Go on", event))(agent)

    agent("Hi")

    assert history() == agent.messages
    assert texts(history()) == ["Hi", "One.", "Go on", "Two."]


def test_a_resumed_invocation_is_stored(new_manager: NewManager, new_agent: NewAgent, history: History) -> None:
    agent = new_agent(new_manager(), "One.", "Two.")
    once(AfterInvocationEvent, lambda event: setattr(event, "resume", "Go on"))(agent)

    agent("Hi")

    assert history() == agent.messages
    assert texts(history()) == ["Hi", "One.", "Go on", "Two."]


def test_a_restored_agent_grows_its_last_message(
    new_manager: NewManager, new_agent: NewAgent, history: History
) -> None:
    with pytest.raises(ConnectionError):
        new_agent(new_manager(), ConnectionError("away"))("Hi")
    agent = new_agent(new_manager())
    once(BeforeModelCallEvent, lambda event: go_on_with("and be quick", event))(agent)

    agent()

    assert history() == agent.messages
    assert texts(history()) == ["Hi", "and be quick", "Okay."]


# Prompts that are sent again


def sent_twice(agent: Agent, text: str) -> None:
    """Send one message again, as the same object, after the model has failed."""
    prompt: Message = {"role": "user", "content": [{"text": text}]}
    with pytest.raises(ConnectionError):
        agent([prompt])
    agent([prompt])


def test_a_prompt_that_is_sent_again_is_stored_twice(
    new_manager: NewManager, new_agent: NewAgent, history: History
) -> None:
    agent = new_agent(new_manager(), ConnectionError("away"), "Hello.")

    sent_twice(agent, "Hi")

    assert history() == agent.messages
    assert texts(history()) == ["Hi", "Hi", "Hello."]


def test_a_redaction_reaches_both_copies(
    new_manager: NewManager, new_agent: NewAgent, history: History, stored: Stored
) -> None:
    agent = new_agent(new_manager(), ConnectionError("away"), Redaction())

    sent_twice(agent, SECRET)

    assert SECRET not in str(stored())
    assert history() == agent.messages
    assert texts(history())[:2] == ["[User input redacted.]"] * 2


def test_a_redaction_reaches_the_copy_of_an_earlier_process(
    new_manager: NewManager, new_agent: NewAgent, stored: Stored
) -> None:
    prompt: Message = {"role": "user", "content": [{"text": SECRET}]}
    with pytest.raises(ConnectionError):
        new_agent(new_manager(), ConnectionError("away"))([prompt])

    new_agent(new_manager(), Redaction())([prompt])

    assert SECRET not in str(stored())


def test_a_continuation_merged_into_a_prompt_that_was_sent_again_is_stored_once(
    new_manager: NewManager, new_agent: NewAgent, history: History
) -> None:
    agent = new_agent(new_manager(), ConnectionError("away"), "Hello.")

    def on_second_prompt(event: BeforeModelCallEvent) -> None:
        if len(event.agent.messages) == 2:
            go_on_with("and be quick", event)

    agent.add_hook(on_second_prompt)
    sent_twice(agent, "Hi")

    assert history() == agent.messages


# Guardrails


@pytest.mark.parametrize("earlier_turns", [0, 1])
def test_a_guardrail_leaves_no_trace_of_the_prompt(
    new_manager: NewManager, new_agent: NewAgent, history: History, stored: Stored, earlier_turns: int
) -> None:
    agent = new_agent(new_manager(), *["Hello."] * earlier_turns, Redaction())
    for _ in range(earlier_turns):
        agent("Hi")

    agent(SECRET)

    assert SECRET not in str(stored())
    assert history() == agent.messages
    assert texts(history())[-2:] == ["[User input redacted.]", "Blocked by the guardrail."]


def test_times_and_tracking_id_survive_a_redaction(
    new_manager: NewManager, new_agent: NewAgent, stored: Stored
) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    agent("Hi")
    before = stored()["agents"]["default"]["messages"][1]

    manager.redact_latest_message({"role": "assistant", "content": [{"text": "…"}]}, agent)

    after = stored()["agents"]["default"]["messages"][1]
    assert after["content"] == [{"text": "…"}]
    for field in ("message_id", "role", "created_at", "tracking_id", "metadata"):
        assert after[field] == before[field]


def test_a_redacted_prompt_comes_back_redacted(new_manager: NewManager, new_agent: NewAgent) -> None:
    new_agent(new_manager(), Redaction())(SECRET)

    model = ScriptedModel(["Hello."])
    new_agent(new_manager(), model=model)("Hi")

    assert SECRET not in str(model.calls)
    assert texts(model.calls[0])[0] == "[User input redacted.]"


@pytest.mark.parametrize("content", ["…", [{"text": "…"}]])
def test_a_redaction_by_hand(
    new_manager: NewManager, new_agent: NewAgent, history: History, stored: Stored, content: Any
) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    manager.append_message({"role": "user", "content": [{"text": SECRET}]}, agent)

    manager.redact_latest_message({"role": "user", "content": content}, agent)

    assert [(message["role"], message["content"]) for message in history()] == [("user", [{"text": "…"}])]
    assert SECRET not in str(stored())
