"""Redactions: nothing is left of the original, everything that measures it stays, and the event is on record."""

import asyncio
import itertools
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError
from strands import tool
from strands.agent.conversation_manager import SlidingWindowConversationManager
from strands.hooks import BeforeInvocationEvent, BeforeModelCallEvent
from strands.hooks.events import MessageUpdatedEvent
from strands.interventions import Guide, InterventionHandler, Proceed
from strands.types.content import Message

from mongodb_session_manager import MongoDBSessionManager
from mongodb_session_manager.errors import UnstorableValueError
from mongodb_session_manager.testing import CommandCounter, Redaction
from mongodb_session_manager.types import GUARDRAIL_INTERVENED
from tests.aliases import Client, Failing, History, NewAgent, NewManager, Stored
from tests.talking import texts

SECRET = "my number is 555-0199"
HIDDEN: Message = {"role": "user", "content": [{"text": "…"}]}
TRACE = {
    "guardrail": {
        "modelOutput": [SECRET],
        "inputAssessment": {
            "g-1": {
                "contentPolicy": {"filters": [{"type": "HATE", "confidence": "HIGH", "action": "BLOCKED"}]},
                "wordPolicy": {"customWords": [{"match": SECRET, "action": "BLOCKED"}]},
            }
        },
    }
}
TRIGGERED = {"contentPolicy": ["HATE/HIGH"], "wordPolicy": ["customWords"]}

every_fault = pytest.mark.parametrize(
    "fault",
    [{"closeConnection": True}, {"errorCode": 13}, {"writeConcernError": {"code": 64, "errmsg": "timed out"}}],
    ids=["closed", "refused", "applied"],
)


@tool
def read_secret() -> str:
    """Tell a secret."""
    return SECRET


def say(content: str = SECRET) -> Message:
    return {"role": "user", "content": [{"text": content}]}


def only_event(stored: Stored) -> dict[str, Any]:
    (event,) = stored()["guardrail_events"]
    assert timedelta(0) <= datetime.now(timezone.utc) - event["timestamp"] < timedelta(seconds=30)
    return {name: value for name, value in event.items() if name != "timestamp"}


@pytest.mark.parametrize(
    ("options", "event"),
    [
        ({}, {"action": "BLOCKED"}),
        ({"action": "ANONYMIZED"}, {"action": "ANONYMIZED"}),
        ({"stop_reason": GUARDRAIL_INTERVENED}, {"action": "BLOCKED", "stop_reason": "guardrail_intervened"}),
        ({"guardrail_trace": TRACE}, {"action": "BLOCKED", "policies_triggered": TRIGGERED}),
        ({"guardrail_trace": {}}, {"action": "BLOCKED", "policies_triggered": {}}),
        (
            {"guardrail_trace": TRACE["guardrail"], "action": "X", "stop_reason": "y", "unknown": 1},
            {"action": "X", "stop_reason": "y", "policies_triggered": TRIGGERED},
        ),
    ],
    ids=["nothing", "action", "stop reason", "trace", "empty trace", "all"],
)
def test_the_event_is_on_the_message_and_on_the_session(
    new_manager: NewManager,
    new_agent: NewAgent,
    stored: Stored,
    command_counter: CommandCounter,
    everything: Callable[[], bytes],
    options: dict[str, Any],
    event: dict[str, Any],
) -> None:
    manager = new_manager()
    agent = new_agent(manager, agent_id="a.b")
    manager.append_message(say("Hi"), agent)
    manager.append_message(say(), agent)
    assert SECRET.encode() in everything()

    with command_counter.counting() as log:
        manager.redact_latest_message(HIDDEN, agent, **options)

    assert [(command.name, command.collection) for command in log.commands] == [
        ("aggregate", "agent_sessions"),
        ("find", "agent_sessions_segments"),
        ("update", "agent_sessions"),
        ("update", "agent_sessions_segments"),
    ]
    first, latest = manager.list_messages("a.b")
    assert latest["content"] == HIDDEN["content"]
    assert latest["guardrail_event"].pop("timestamp").utcoffset() == timedelta(0)
    assert latest["guardrail_event"] == event
    assert "guardrail_event" not in first
    assert only_event(stored) == {**event, "agent_id": "a.b", "message_id": 1}
    assert SECRET.encode() not in everything()


def test_what_identifies_and_measures_the_message_stays(new_manager: NewManager, new_agent: NewAgent) -> None:
    manager = new_manager()
    agent = new_agent(manager, SECRET)
    agent("Hi")
    before = manager.list_messages("default")[-1]

    manager.redact_latest_message({"role": "assistant", "content": [{"text": "…"}]}, agent)

    after = manager.list_messages("default")[-1]
    for name in ("message_id", "role", "created_at", "tracking_id", "event_loop_metrics", "metadata"):
        assert after[name] == before[name]
    assert after["updated_at"] >= before["updated_at"]
    assert after["content"] == [{"text": "…"}]


def test_plain_text_may_stand_in_its_place(new_manager: NewManager, new_agent: NewAgent) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    manager.append_message(say(), agent)

    manager.redact_latest_message({"role": "user", "content": "[removed]"}, agent)  # type: ignore[typeddict-item]

    assert manager.list_messages("default")[0]["content"] == [{"text": "[removed]"}]


@pytest.mark.parametrize(
    "content",
    [
        [{"text": SECRET}],
        [{"image": {"format": "png", "source": {"bytes": SECRET.encode()}}}],
        [{"toolUse": {"toolUseId": "t", "name": "x", "input": {SECRET: {"a.b": SECRET}}}}],
        [{"text": f"{SECRET} \ud800"}],
        [{"reasoningContent": {"reasoningText": {"text": SECRET, "signature": SECRET}}}],
    ],
    ids=["text", "image", "tool", "surrogate", "reasoning"],
)
def test_nothing_is_left_of_any_content(
    new_manager: NewManager, new_agent: NewAgent, everything: Callable[[], bytes], content: Any
) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    message: Any = {"role": "assistant", "content": content, "metadata": {"custom": {"said": SECRET}}, "more": SECRET}
    manager.append_message(message, agent)
    assert SECRET.encode() in everything()

    manager.redact_latest_message({"role": "assistant", "content": [{"text": "…"}]}, agent)

    assert SECRET.encode() not in everything()
    (restored,) = new_agent(new_manager()).messages
    assert (restored["role"], restored["content"]) == ("assistant", [{"text": "…"}])


def test_nothing_is_left_of_a_message_of_the_first_version(
    new_manager: NewManager,
    new_agent: NewAgent,
    observer: MongoClient[dict[str, Any]],
    database: str,
    everything: Callable[[], bytes],
) -> None:
    window = {"__name__": "SlidingWindowConversationManager", "removed_message_count": 0}
    data = {"agent_id": "default", "state": {}, "conversation_manager_state": window}
    message = {"message_id": 0, "message": say(), "redact_message": say(SECRET + "!"), "created_at": "2024-01-26"}
    observer[database].agent_sessions.insert_one(
        {"_id": "s-1", "session_id": "s-1", "agents": {"default": {"agent_data": data, "messages": [message]}}}
    )
    manager = new_manager()
    agent = new_agent(manager)

    manager.redact_latest_message(HIDDEN, agent)

    assert SECRET.encode() not in everything()
    assert new_agent(new_manager()).messages == [HIDDEN]


def test_each_redaction_is_on_record(new_manager: NewManager, new_agent: NewAgent, stored: Stored) -> None:
    manager = new_manager()
    for agent_id in ("one", "two"):
        agent = new_agent(manager, agent_id=agent_id)
        for number in range(2):
            manager.append_message(say(), agent)
            manager.redact_latest_message(HIDDEN, agent, stop_reason=str(number))

    events = [(event["agent_id"], event["message_id"], event["stop_reason"]) for event in stored()["guardrail_events"]]
    assert events == [("one", 0, "0"), ("one", 1, "1"), ("two", 0, "0"), ("two", 1, "1")]


@pytest.mark.parametrize("options", [{"action": {"x"}}, {"stop_reason": ...}], ids=str)
def test_an_event_that_cannot_be_stored_changes_nothing(
    new_manager: NewManager, new_agent: NewAgent, stored: Stored, options: dict[str, Any]
) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    manager.append_message(say(), agent)
    before = stored()

    with pytest.raises(UnstorableValueError, match="'s-1'"):
        manager.redact_latest_message(HIDDEN, agent, **options)
    manager.flush()

    assert stored() == before


# The model's own guardrail


@pytest.mark.parametrize("assistant", [None, "Sorry."])
def test_a_model_redacts_the_prompt(
    new_manager: NewManager,
    new_agent: NewAgent,
    stored: Stored,
    everything: Callable[[], bytes],
    assistant: str | None,
) -> None:
    manager = new_manager()
    agent = new_agent(manager, Redaction("[hidden]", assistant, text="Blocked."))

    agent(SECRET)

    asked, answered = manager.list_messages("default")
    assert asked["content"] == [{"text": "[hidden]"}]
    assert answered["content"] == [{"text": assistant or "Blocked."}]
    assert asked["guardrail_event"]["action"] == "BLOCKED"
    assert "guardrail_event" not in answered
    assert only_event(stored) == {"action": "BLOCKED", "agent_id": "default", "message_id": 0}
    assert answered["event_loop_metrics"]["usage"]["totalTokens"] == 15
    assert SECRET.encode() not in everything()


def test_a_model_redacts_a_tool_result(
    new_manager: NewManager, new_agent: NewAgent, everything: Callable[[], bytes]
) -> None:
    manager = new_manager()
    use = {"toolUse": {"toolUseId": "t-1", "name": "read_secret", "input": {}}}
    agent = new_agent(manager, use, Redaction("[hidden]"), tools=[read_secret])

    agent("Tell me")

    assert SECRET.encode() not in everything()
    assert manager.list_messages("default")[2]["content"][0]["toolResult"]["toolUseId"] == "t-1"


# Writes that fail


@every_fault
def test_a_pending_message_that_was_redacted_never_reaches_the_database(
    new_manager: NewManager,
    new_agent: NewAgent,
    stored: Stored,
    failing: Failing,
    command_counter: CommandCounter,
    everything: Callable[[], bytes],
    fault: dict[str, Any],
) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    with failing("update", **fault):
        with pytest.raises(PyMongoError):
            manager.append_message(say(), agent)
        with pytest.raises(PyMongoError):
            manager.redact_latest_message(HIDDEN, agent, stop_reason="x", guardrail_trace=TRACE)

    with command_counter.counting() as log:
        manager.flush()

    assert SECRET not in str([command.document for command in log.commands])
    assert SECRET.encode() not in everything()
    (message,) = manager.list_messages("default")
    event = {"action": "BLOCKED", "stop_reason": "x", "policies_triggered": TRIGGERED}
    assert message["content"] == HIDDEN["content"]
    assert {**message["guardrail_event"], "timestamp": None} == {**event, "timestamp": None}
    assert only_event(stored) == {**event, "agent_id": "default", "message_id": 0}


@every_fault
@pytest.mark.parametrize("recover", ["flush", "append", "sync", "turn", "close"])
def test_every_way_to_recover_sends_the_redaction(
    new_manager: NewManager,
    new_agent: NewAgent,
    stored: Stored,
    failing: Failing,
    everything: Callable[[], bytes],
    fault: dict[str, Any],
    recover: str,
) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    manager.append_message(say(), agent)
    with failing("update", **fault), pytest.raises(PyMongoError):
        manager.redact_latest_message(HIDDEN, agent)

    if recover == "append":
        manager.append_message(say("Next"), agent)
    elif recover == "sync":
        manager.sync_agent(agent)
    elif recover == "turn":
        agent("Next")
    else:
        getattr(manager, recover)()

    assert SECRET.encode() not in everything()
    assert only_event(stored) == {"action": "BLOCKED", "agent_id": "default", "message_id": 0}


@every_fault
def test_a_pending_message_keeps_its_metrics(
    new_manager: NewManager, new_agent: NewAgent, failing: Failing, fault: dict[str, Any]
) -> None:
    manager = new_manager()
    agent = new_agent(manager, SECRET)
    with failing("update", mode={"skip": 1}, **fault), pytest.raises(PyMongoError):
        agent("Hi")

    manager.redact_latest_message({"role": "assistant", "content": [{"text": "…"}]}, agent)

    message = manager.list_messages("default")[-1]
    assert message["content"] == [{"text": "…"}]
    assert message["event_loop_metrics"]["usage"]["totalTokens"] == 15
    assert message["tracking_id"] == agent.messages[-1]["tracking_id"]


@pytest.mark.parametrize("command", ["aggregate", "update"])
def test_a_redaction_that_fails_stays_queued(
    new_manager: NewManager,
    new_agent: NewAgent,
    failing: Callable[..., Any],
    everything: Callable[[], bytes],
    command: str,
) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    agent(SECRET)
    manager.append_message({**say(), "tracking_id": "t-1"}, agent)

    with failing(command, errorCode=13), pytest.raises(OperationFailure):
        manager.redact_latest_message({**HIDDEN, "tracking_id": "t-1"}, agent)
    manager.flush()

    assert manager.list_messages("default")[-1]["content"] == HIDDEN["content"]
    assert everything().count(SECRET.encode()) == 1  # the prompt, which was not redacted


@every_fault
def test_a_redaction_of_two_copies_is_repeated(
    new_manager: NewManager,
    new_agent: NewAgent,
    failing: Failing,
    everything: Callable[[], bytes],
    fault: dict[str, Any],
) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    prompt: Message = {**say(), "tracking_id": "t-1"}
    for _ in range(2):
        agent.messages.append(prompt)
        manager.append_message(prompt, agent)

    with failing("update", **fault), pytest.raises(PyMongoError):
        manager.redact_latest_message(HIDDEN, agent)
    manager.redact_latest_message(HIDDEN, agent)

    assert SECRET.encode() not in everything()
    assert [message["content"] for message in manager.list_messages("default")] == [HIDDEN["content"]] * 2
    manager.append_message(say("Go on"), agent)


async def test_a_redaction_while_its_message_grows(
    new_manager: NewManager, new_agent: NewAgent, failing: Callable[..., Any], everything: Callable[[], bytes]
) -> None:
    manager = new_manager(durability="async")
    agent = new_agent(manager)
    await agent.hooks.invoke_callbacks_async(BeforeInvocationEvent(agent=agent))
    prompt: Message = {**say("My number"), "tracking_id": "t-1"}
    agent.messages.append(prompt)
    manager.append_message(prompt, agent)
    grown = MessageUpdatedEvent(agent=agent, tracking_id="t-1", message={**say(), "tracking_id": "t-1"})

    with failing("update", mode={"times": 1}, blockConnection=True, blockTimeMS=500) as met:
        await agent.hooks.invoke_callbacks_async(grown)
        await asyncio.sleep(0.1)
        manager.redact_latest_message(HIDDEN, agent)

    assert met == [1]
    assert SECRET.encode() not in everything()
    assert manager.list_messages("default")[0]["content"] == HIDDEN["content"]


@every_fault
@pytest.mark.parametrize("moved", [False, True])
def test_a_redaction_after_an_edit_that_had_no_answer(
    new_manager: NewManager,
    new_agent: NewAgent,
    mongodb_uri: str,
    failing: Failing,
    everything: Callable[[], bytes],
    fault: dict[str, Any],
    moved: bool,
) -> None:
    manager = new_manager(connection_string=mongodb_uri, retryWrites=False, heartbeatFrequencyMS=500)
    window = SlidingWindowConversationManager(window_size=4)
    agent = new_agent(manager, conversation_manager=window)
    manager.append_message({**say("My number"), "tracking_id": "t-1"}, agent)
    window.removed_message_count += moved
    manager._agents.live()[0].capture_replacement(agent, {**say(), "tracking_id": "t-1"})
    with failing("update", mode={"times": 1}, **fault), pytest.raises(PyMongoError):
        manager.flush()

    manager.redact_latest_message(HIDDEN, agent)

    assert SECRET.encode() not in everything()
    assert manager.list_messages("default")[0]["content"] == HIDDEN["content"]
    manager.append_message(say("Go on"), agent)


@pytest.mark.parametrize("moved", [False, True])
def test_a_redaction_after_an_edit_that_is_still_on_its_way(
    new_manager: NewManager,
    new_agent: NewAgent,
    mongodb_uri: str,
    failing: Failing,
    everything: Callable[[], bytes],
    monkeypatch: pytest.MonkeyPatch,
    moved: bool,
) -> None:
    """The driver gave it up, and the server stores it later than what follows it."""
    manager = new_manager(connection_string=mongodb_uri, retryWrites=False, socketTimeoutMS=500)
    window = SlidingWindowConversationManager(window_size=4)
    agent = new_agent(manager, conversation_manager=window)
    manager.append_message({**say("My number"), "tracking_id": "t-1"}, agent)
    window.removed_message_count += moved
    manager._agents.live()[0].capture_replacement(agent, {**say(), "tracking_id": "t-1"})
    write, writes = manager._stores.histories.write_agent, itertools.count()

    def second_comes_late(*arguments: Any) -> bool:
        if next(writes) == 2:
            time.sleep(1.5)
        return write(*arguments)

    monkeypatch.setattr(manager._stores.histories, "write_agent", second_comes_late)
    with failing("update", mode={"times": 1}, blockConnection=True, blockTimeMS=1_200):
        with pytest.raises(PyMongoError):
            manager.flush()
        manager.redact_latest_message(HIDDEN, agent)

    assert next(writes) == 3
    assert SECRET.encode() not in everything()
    assert manager.list_messages("default")[0]["content"] == HIDDEN["content"]


@pytest.mark.parametrize("tracking_id", [None, "t-1"])
def test_a_redaction_of_a_copy_that_is_older_than_the_live_history(
    new_manager: NewManager,
    new_agent: NewAgent,
    failing: Failing,
    everything: Callable[[], bytes],
    tracking_id: str | None,
) -> None:
    manager = new_manager(on_error="degrade")
    agent = new_agent(manager)
    prompt = say() if tracking_id is None else Message(**say(), tracking_id=tracking_id)
    for _ in range(2):
        manager.append_message(prompt, agent)
    agent.messages.append(prompt)
    manager.sync_agent(agent)

    with failing("aggregate", errorCode=50):
        manager.redact_latest_message(HIDDEN, agent)
    manager.flush()

    assert SECRET.encode() not in everything()


class OnlyAnswers(MongoDBSessionManager):
    def append_message(self, message: Message, agent: Any, **kwargs: Any) -> None:
        if message["role"] == "assistant":
            super().append_message(message, agent, **kwargs)


class Guidance(InterventionHandler):
    name = "guidance"

    def before_model_call(self, event: Any, **kwargs: Any) -> Any:
        return Guide(feedback=SECRET) if "toolResult" in event.agent.messages[-1]["content"][0] else Proceed()


def test_a_prompt_that_an_override_left_out_costs_no_other_message(
    mongo_client: Client, database: str, new_agent: NewAgent, stored: Stored, history: History
) -> None:
    with OnlyAnswers("s-1", client=mongo_client, database_name=database) as manager:
        agent = new_agent(manager, Redaction(), "One.", Redaction())
        for prompt in (SECRET, "Hello", SECRET):
            agent(prompt)
        answers = texts(history())

    assert answers == ["Blocked by the guardrail.", "One.", "Blocked by the guardrail."]
    assert [set(event) for event in stored()["guardrail_events"]] == [{"action", "timestamp", "agent_id"}] * 2


def test_a_message_that_nobody_announced_costs_no_other_message(
    new_manager: NewManager, new_agent: NewAgent, history: History
) -> None:
    agent = new_agent(new_manager(), "One.", Redaction())
    agent("Hello")
    agent.messages.append(say())
    agent()

    assert texts(agent.messages) == ["Hello", "One.", "[User input redacted.]", "Blocked by the guardrail."]
    assert texts(history()) == ["Hello", "One.", "Blocked by the guardrail."]


def test_guidance_behind_the_result_of_a_tool_costs_no_result(new_manager: NewManager, new_agent: NewAgent) -> None:
    call = {"toolUse": {"toolUseId": "t-1", "name": "read_secret", "input": {}}}
    agent = new_agent(new_manager(), call, Redaction(), tools=[read_secret], interventions=[Guidance()])
    agent("Hello")

    restored = new_agent(new_manager()).messages
    assert restored == agent.messages[:3] + agent.messages[4:]
    assert "toolResult" in restored[2]["content"][0]


def test_guidance_behind_a_prompt_has_the_prompt_redacted(
    new_manager: NewManager, new_agent: NewAgent, history: History
) -> None:
    agent = new_agent(new_manager(), Redaction())
    agent.hooks.add_callback(BeforeModelCallEvent, lambda event: event.agent.messages.append(say("Be kind.")))
    agent(SECRET)

    assert texts(history())[0] == "[User input redacted.]"
