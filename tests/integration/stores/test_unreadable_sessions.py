"""What another version or a hand has put into a session is refused by name, and the rest of the session is readable."""

from collections.abc import Callable
from typing import Any

import pytest
from pymongo import MongoClient
from strands.agent.conversation_manager import SummarizingConversationManager

from mongodb_session_manager import MongoDBSessionManager
from mongodb_session_manager.errors import MongoDBSessionError
from tests.aliases import NewAgent, NewManager
from tests.talking import ASK, ask, texts

SECRET = "my number is 555-0199"
DATA = "agents.a.agent_data"
INTERRUPTS = f"{DATA}._internal_state.interrupt_state"
MESSAGE = "agents.a.messages.1"

# What is stored in which place, and what the error calls it.
ODD: list[tuple[str, Any, str]] = [
    (f"{DATA}.state", [SECRET], "state"),
    (f"{DATA}.state", SECRET, "state"),
    (f"{DATA}.state", {"blob": b"no JSON"}, "state"),
    (f"{DATA}.state", {"a": {"%int": SECRET}}, "agent_data"),
    (f"{DATA}.state", {"%file": {"id": SECRET}}, "agent_data"),
    ("agents.a.guard", [SECRET], "guard"),
    (f"{DATA}.conversation_manager_state", [SECRET], "conversation_manager_state"),
    (f"{DATA}.conversation_manager_state", {"removed_message_count": 0}, "conversation_manager_state"),
    (
        f"{DATA}.conversation_manager_state",
        {"__name__": "SlidingWindowConversationManager"},
        "conversation_manager_state",
    ),
    (f"{DATA}.conversation_manager_state.removed_message_count", SECRET, "conversation_manager_state"),
    (f"{DATA}.conversation_manager_state.removed_message_count", [SECRET], "conversation_manager_state"),
    (f"{DATA}._internal_state", [SECRET], "_internal_state"),
    (INTERRUPTS, {}, "_internal_state"),
    (INTERRUPTS, [SECRET], "_internal_state"),
    (INTERRUPTS, None, "_internal_state"),
    (f"{INTERRUPTS}.interrupts", {"i-1": {"id": "i-1", "kind": SECRET}}, "_internal_state"),
    (f"{INTERRUPTS}.interrupts", {"i-1": SECRET}, "_internal_state"),
    (f"{INTERRUPTS}.pending_tool_execution", {"results": [SECRET]}, "_internal_state"),
    (f"{MESSAGE}.content", None, "message 1"),
    (f"{MESSAGE}.content", 5, "message 1"),
    (f"{MESSAGE}.content", [SECRET], "message 1"),
    (f"{MESSAGE}.content", [{"toolUse": SECRET}], "messages"),
    (f"{MESSAGE}.content", [{"toolUse": {}}], "messages"),
    (f"{MESSAGE}.role", None, "message 1"),
    (f"{MESSAGE}.role", {"a": SECRET}, "message 1"),
]


def restore(manager: MongoDBSessionManager, new_agent: NewAgent, ahead: bool) -> None:
    if ahead:
        manager.prefetch(["a"])
    new_agent(manager, agent_id="a")


@pytest.mark.parametrize(("field", "value", "name"), ODD, ids=[f"{field}-{value}" for field, value, _ in ODD])
@pytest.mark.parametrize("ahead", [False, True])
def test_what_cannot_be_restored_is_named(
    new_manager: NewManager,
    new_agent: NewAgent,
    observer: MongoClient[dict[str, Any]],
    database: str,
    field: str,
    value: Any,
    name: str,
    ahead: bool,
) -> None:
    manager = new_manager()
    manager.update_metadata({"a": 1})
    for agent_id in ("a", "b"):
        new_agent(manager, agent_id=agent_id)("Hi")
    change = {"$unset": {field: ""}} if value is None and "interrupt" not in field else {"$set": {field: value}}
    observer[database].agent_sessions.update_one({}, change)

    manager = new_manager()
    with pytest.raises(MongoDBSessionError, match="Agent 'a' of session 's-1'") as caught:
        restore(manager, new_agent, ahead)

    assert name in str(caught.value)
    assert "backup" in str(caught.value)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    assert len(manager.list_messages("a")) == 2
    assert manager.get_metadata() == {"metadata": {"a": 1}}
    assert [config["agent_id"] for config in manager.list_agents()] == ["a", "b"]
    assert manager.get_usage_summary()["model_calls"] == 2
    other = new_agent(manager, agent_id="b")
    other("And?")
    assert texts(other.messages) == ["Hi", "Okay.", "And?", "Okay."]


@pytest.mark.parametrize("absent", ["pending_tool_execution.assistant_message", "context", "activated", "interrupts"])
def test_a_pending_interrupt_of_another_version(
    new_manager: NewManager, new_agent: NewAgent, observer: MongoClient[dict[str, Any]], database: str, absent: str
) -> None:
    agent = new_agent(new_manager(), ASK, agent_id="a", tools=[ask])
    assert agent("Hi").stop_reason == "interrupt"
    observer[database].agent_sessions.update_one({}, {"$unset": {f"{INTERRUPTS}.{absent}": ""}})

    with pytest.raises(MongoDBSessionError, match=r"'a' of session 's-1'.*_internal_state"):
        new_agent(new_manager(), agent_id="a", tools=[ask])


SUMMARY: dict[str, Any] = {"role": "user", "content": [{"text": "In short"}]}


@pytest.mark.parametrize(
    "summary",
    [True, SECRET, [SECRET], {"role": "user"}, SUMMARY | {"role": 5}, SUMMARY | {"content": [SECRET]}],
    ids=str,
)
def test_a_summary_that_is_no_message(
    new_manager: NewManager, new_agent: NewAgent, observer: MongoClient[dict[str, Any]], database: str, summary: Any
) -> None:
    new_agent(new_manager(), agent_id="a", conversation_manager=SummarizingConversationManager())("Hi")
    path = f"{DATA}.conversation_manager_state.summary_message"
    observer[database].agent_sessions.update_one({}, {"$set": {path: summary}})

    with pytest.raises(MongoDBSessionError, match=r"'a' of session 's-1'.*: conversation_manager_state") as caught:
        new_agent(new_manager(), agent_id="a", conversation_manager=SummarizingConversationManager())

    assert SECRET not in str(caught.value)
    assert texts(new_agent(new_manager(), agent_id="a").messages) == ["Hi", "Okay."]


@pytest.mark.parametrize("kept", [[5], [{"%int": SECRET}], [{"role": "user", "content": SECRET}]], ids=str)
def test_a_kept_message_that_is_none(
    new_manager: NewManager, new_agent: NewAgent, observer: MongoClient[dict[str, Any]], database: str, kept: Any
) -> None:
    new_agent(new_manager(), agent_id="a")("Hi")
    observer[database].agent_sessions.update_one({}, {"$set": {"agents.a.live": {"from": 0, "kept": kept}}})

    with pytest.raises(MongoDBSessionError, match="'a' of session 's-1' cannot be restored: live") as caught:
        new_agent(new_manager(), agent_id="a")

    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("value", [None, {}])
def test_without_a_state_of_its_own_the_conversation_manager_starts_anew(
    new_manager: NewManager, new_agent: NewAgent, observer: MongoClient[dict[str, Any]], database: str, value: Any
) -> None:
    agent = new_agent(new_manager(), agent_id="a")
    agent("Hi")
    path = f"{DATA}.conversation_manager_state"
    observer[database].agent_sessions.update_one({}, {"$unset": {path: ""}} if value is None else {"$set": {path: {}}})

    restored = new_agent(new_manager(), agent_id="a", conversation_manager=SummarizingConversationManager())
    assert restored.messages == agent.messages
    restored("And?")
    assert (
        len(new_agent(new_manager(), agent_id="a", conversation_manager=SummarizingConversationManager()).messages) == 4
    )


def test_the_sdks_own_storage_is_no_concern_of_ours(
    new_manager: NewManager, new_agent: NewAgent, recwarn: pytest.WarningsRecorder, tmp_path: Any
) -> None:
    from strands.storage import LocalFileStorage

    new_agent(new_manager(), storage=LocalFileStorage(str(tmp_path)))("Hi")

    assert not [warning for warning in recwarn if "storage" in str(warning.message)]


@pytest.mark.parametrize("value", [None, 5, "x", [], {}, {"usage": 5}, {"usage": {}, "metrics": SECRET}])
def test_odd_figures_cost_themselves_alone(
    new_manager: NewManager,
    new_agent: NewAgent,
    observer: MongoClient[dict[str, Any]],
    database: str,
    value: Any,
) -> None:
    manager = new_manager()
    agent = new_agent(manager, agent_id="a")
    agent("Hi")
    observer[database].agent_sessions.update_one({}, {"$set": {f"{MESSAGE}.event_loop_metrics": value}})

    restored = new_agent(new_manager(), agent_id="a")
    restored("Again")

    assert texts(restored.messages) == ["Hi", "Okay.", "Again", "Okay."]
    assert texts(manager.list_messages("a")) == texts(restored.messages)  # type: ignore[arg-type]
    assert manager.get_usage_summary()["model_calls"] == 1


@pytest.mark.parametrize("value", [5, {}, [], "soon", True])
def test_an_odd_time_is_listed_as_it_is(
    new_manager: NewManager, new_agent: NewAgent, observer: MongoClient[dict[str, Any]], database: str, value: Any
) -> None:
    manager = new_manager()
    new_agent(manager, agent_id="a")("Hi")
    observer[database].agent_sessions.update_one({}, {"$set": {f"{MESSAGE}.created_at": value}})

    listed = manager.list_messages("a")

    assert listed[1]["created_at"] == value
    assert [message["message_id"] for message in listed] == [0, 1]
    assert texts(new_agent(new_manager(), agent_id="a").messages) == ["Hi", "Okay."]


@pytest.mark.parametrize("value", [[SECRET], [[1, 2]]])
def test_what_is_no_message_cannot_be_listed_and_the_others_can(
    new_manager: NewManager, new_agent: NewAgent, observer: MongoClient[dict[str, Any]], database: str, value: Any
) -> None:
    manager = new_manager()
    new_agent(manager, agent_id="a")("Hi")
    observer[database].agent_sessions.update_one({}, {"$set": {MESSAGE: value}})

    with pytest.raises(MongoDBSessionError, match=r"'a' of session 's-1' cannot be listed whole: a message") as caught:
        manager.list_messages("a")

    assert SECRET not in str(caught.value)
    assert texts(manager.list_messages("a", 1)) == ["Hi"]  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [5, {}, [None], "a", {"a": 1}])
def test_without_a_readable_list_of_agents_each_is_looked_up(
    new_manager: NewManager, new_agent: NewAgent, observer: MongoClient[dict[str, Any]], database: str, value: Any
) -> None:
    new_agent(new_manager(), agent_id="a")("Hi")
    observer[database].agent_sessions.update_one({}, {"$set": {"agent_ids": value}})

    assert texts(new_agent(new_manager(), agent_id="a").messages) == ["Hi", "Okay."]


@pytest.mark.parametrize("value", [True, 5, [SECRET], SECRET])
def test_a_state_of_a_graph_that_is_none(
    new_manager: NewManager, observer: MongoClient[dict[str, Any]], database: str, value: Any
) -> None:
    manager = new_manager()
    manager.update_metadata({"a": 1})
    observer[database].agent_sessions.update_one({}, {"$set": {"multi_agents.g.state": value}})

    with pytest.raises(MongoDBSessionError, match="'g' of session 's-1' cannot be restored: state has") as caught:
        new_manager().session_repository.read_multi_agent("s-1", "g")

    assert SECRET not in str(caught.value)


BROKEN = {"%int": SECRET}


@pytest.mark.parametrize(
    ("field", "value", "read"),
    [
        ("metadata.a", BROKEN, lambda manager: manager.get_metadata()),
        ("feedbacks.0.comment", BROKEN, lambda manager: manager.get_feedbacks()),
        ("feedbacks", 5, lambda manager: manager.get_feedbacks()),
        (f"{DATA}.prompt_metadata", BROKEN, lambda manager: manager.list_agents()),
        (f"{DATA}.system_prompt", BROKEN, lambda manager: manager.get_agent_config("a")),
        (f"{MESSAGE}.message_id", SECRET, lambda manager: manager.session_repository.list_messages("s-1", "a")),
    ],
)
def test_what_cannot_be_read_is_named(
    new_manager: NewManager,
    new_agent: NewAgent,
    observer: MongoClient[dict[str, Any]],
    database: str,
    field: str,
    value: Any,
    read: Callable[[MongoDBSessionManager], Any],
) -> None:
    manager = new_manager()
    new_agent(manager, agent_id="a")("Hi")
    manager.update_metadata({"a": 1})
    manager.add_feedback({"rating": "up"})
    observer[database].agent_sessions.update_one({}, {"$set": {field: value}})

    with pytest.raises(MongoDBSessionError, match=r"'s-1' cannot be read whole.*backup") as caught:
        read(manager)

    assert SECRET not in str(caught.value)
    assert manager.get_usage_summary()["model_calls"] == 1


@pytest.mark.parametrize("value", [[{"message_id": SECRET}], None], ids=str)
def test_a_segment_that_cannot_be_read_is_named(
    new_manager: NewManager, new_agent: NewAgent, observer: MongoClient[dict[str, Any]], database: str, value: Any
) -> None:
    manager = new_manager()
    manager.update_metadata({"a": 1})
    said: Any = [{"role": role, "content": [{"text": "m" * 3_000}]} for role in ("user", "assistant") * 100]
    new_agent(manager, agent_id="a", messages=said)
    change = {"$unset": {"messages": ""}} if value is None else {"$set": {"messages": value}}
    assert observer[database].agent_sessions_segments.update_one({}, change).matched_count

    for read in (
        lambda: manager.list_messages("a"),
        lambda: manager.list_messages("a", after=5),
        lambda: manager.session_repository.list_messages("s-1", "a"),
        lambda: manager.session_repository.read_message("s-1", "a", 1),
        manager.get_usage_summary,
        lambda: new_agent(new_manager(), agent_id="a"),
    ):
        with pytest.raises(MongoDBSessionError, match="Agent 'a' of session 's-1' cannot be") as caught:
            read()
        assert SECRET not in str(caught.value)

    assert len(manager.list_messages("a", newest_first=True, limit=10)) == 10
    assert manager.get_metadata() == {"metadata": {"a": 1}}


def test_a_part_of_a_file_that_cannot_be_read(
    new_manager: NewManager, new_agent: NewAgent, observer: MongoClient[dict[str, Any]], database: str
) -> None:
    manager = new_manager()
    picture: Any = {"image": {"format": "png", "source": {"bytes": b"p" * 400_000}}}
    new_agent(manager, agent_id="a")([picture])
    observer[database]["agent_sessions_files.chunks"].update_one({}, {"$set": {"data": ["p"]}})

    with pytest.raises(MongoDBSessionError, match="'a' of session 's-1', message 0"):
        manager.list_messages("a")
    with pytest.raises(MongoDBSessionError, match="'a' of session 's-1', message 0"):
        new_agent(new_manager(), agent_id="a")
