"""What the state cannot store never costs the message: the field is left out, and its error told once, in the end."""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.errors import PyMongoError
from strands import Agent, ToolContext, tool
from strands.agent.conversation_manager import NullConversationManager
from strands.hooks import AfterInvocationEvent

from mongodb_session_manager import MongoDBSessionManagerFactory
from mongodb_session_manager.errors import SessionTooLargeError, UnstorableValueError
from mongodb_session_manager.testing import CommandCounter
from tests.aliases import Failing, History, NewAgent, NewManager, Stored
from tests.talking import LOOK, every_durability, look_up, texts, user

LARGE = "x" * 17_000_000
every_mode = pytest.mark.parametrize("on_error", ["raise", "degrade"])


def deep(levels: int = 300) -> Any:
    """What the SDK takes as a state, and no document can hold as it is."""
    value: Any = "core"
    for _ in range(levels):
        value = [value]
    return value


class CountingManager(NullConversationManager):
    """A conversation manager of an application's own; its state is whatever it is told to be."""

    kept: Any = 0

    def get_state(self) -> dict[str, Any]:
        if isinstance(self.kept, Exception):
            raise self.kept
        return {**super().get_state(), "kept": self.kept}


def data_of(stored: Stored, agent_id: str = "default") -> dict[str, Any]:
    found: dict[str, Any] = stored()["agents"][agent_id]["agent_data"]
    return found


def spoil_state(agent: Agent, value: Any) -> None:
    agent.state.set("scores", value)


def spoil_manager(agent: Agent, value: Any) -> None:
    agent.conversation_manager.kept = value  # type: ignore[attr-defined]


def spoil_model_state(agent: Agent, value: Any) -> None:
    agent._model_state["kept"] = value


def spoil_prompt(agent: Agent, value: Any) -> None:
    agent.system_prompt = value


SPOILT: dict[str, tuple[str, Callable[[Agent, Any], None], Any, Any, type[Exception]]] = {
    "deep state": ("state", spoil_state, deep(), deep(301), UnstorableValueError),
    "large state": ("state", spoil_state, LARGE, f"{LARGE}y", SessionTooLargeError),
    "huge state": ("state", spoil_state, LARGE * 4, LARGE, SessionTooLargeError),
    "odd manager": ("conversation_manager_state", spoil_manager, {1}, Decimal(1), UnstorableValueError),
    "large manager": ("conversation_manager_state", spoil_manager, LARGE, f"{LARGE}y", SessionTooLargeError),
    "raising manager": ("conversation_manager_state", spoil_manager, KeyError("a"), OSError("b"), Exception),
    "odd model state": ("_internal_state", spoil_model_state, {1}, Decimal(1), UnstorableValueError),
    "large model state": ("_internal_state", spoil_model_state, LARGE, f"{LARGE}y", SessionTooLargeError),
    "large prompt": ("system_prompt", spoil_prompt, LARGE, f"{LARGE}y", SessionTooLargeError),
}
every_field = pytest.mark.parametrize("spoilt", SPOILT)


@every_field
@every_durability
@every_mode
def test_a_field_that_cannot_be_stored_costs_only_itself(
    new_manager: NewManager,
    new_agent: NewAgent,
    stored: Stored,
    history: History,
    spoilt: str,
    durability: str,
    on_error: str,
) -> None:
    name, spoil, value, another, error = SPOILT[spoilt]
    manager = new_manager(durability=durability, on_error=on_error)
    agent = new_agent(manager, conversation_manager=CountingManager(), system_prompt="Be brief.", state={"a": 1})
    agent("One")
    before = data_of(stored)[name]

    spoil(agent, value)
    if name != "state":
        agent.state.set("a", 2)
    with pytest.raises(error) as caught:
        agent("Two")

    assert not isinstance(caught.value, PyMongoError)
    assert texts(history()) == ["One", "Okay.", "Two", "Okay."]
    assert data_of(stored)[name] == before
    if name != "state":
        assert data_of(stored)["state"] == {"a": 2}

    agent("Three")  # it has been told
    assert manager.health["ok"]

    spoil(agent, another)
    with pytest.raises(error):
        agent("Four")

    spoil(agent, "small")
    agent("Five")
    assert "small" in str(data_of(stored)[name])
    assert texts(history())[::2] == ["One", "Two", "Three", "Four", "Five"]


def test_the_error_names_the_field(new_manager: NewManager, new_agent: NewAgent) -> None:
    agent = new_agent(new_manager())
    agent.state.set("scores", {"a": deep()})
    with pytest.raises(UnstorableValueError, match=r"'default' of session 's-1', state"):
        agent("Hi")

    agent.state.set("scores", LARGE)
    with pytest.raises(SessionTooLargeError, match=r"state of agent 'default'.* session 's-1'") as caught:
        agent("Hi")
    assert (caught.value.field, caught.value.agent_id, caught.value.message_id) == ("state", "default", None)


def test_what_json_takes_is_no_error(new_manager: NewManager, new_agent: NewAgent) -> None:
    agent = new_agent(new_manager())
    agent.state.set("scores", {1: 0.5, "1": 2, None: [{True: {1.5: 0}}]})

    agent("Hi")

    assert new_agent(new_manager()).state.get() == agent.state.get()


@every_durability
def test_several_fields_each_stand_for_themselves(
    new_manager: NewManager, new_agent: NewAgent, stored: Stored, history: History, durability: str
) -> None:
    agent = new_agent(new_manager(durability=durability), conversation_manager=CountingManager())
    spoil_state(agent, deep())
    spoil_manager(agent, {1})
    agent._model_state["response"] = "r-1"

    with pytest.raises(UnstorableValueError, match="state") as caught:
        agent("Hi")

    assert any("conversation_manager_state" in note for note in caught.value.__notes__)
    assert texts(history()) == ["Hi", "Okay."]
    assert data_of(stored)["_internal_state"]["model_state"] == {"response": "r-1"}
    agent("And?")


@pytest.fixture
def leave(observer: MongoClient[dict[str, Any]], database: str) -> Callable[[int], None]:
    """Fill the session document until it has so many bytes left."""

    def fill(left: int) -> None:
        sessions = observer[database].agent_sessions
        sessions.update_one({"_id": "s-1"}, {"$set": {"padding": ""}})
        [found] = sessions.aggregate([{"$project": {"bytes": {"$bsonSize": "$$ROOT"}}}])
        padding = "x" * (16 * 1024 * 1024 - found["bytes"] - left)
        sessions.update_one({"_id": "s-1"}, {"$set": {"padding": padding}})

    return fill


@every_durability
def test_fields_that_do_not_fit_together(
    new_manager: NewManager,
    new_agent: NewAgent,
    stored: Stored,
    history: History,
    durability: str,
    leave: Callable[[int], None],
) -> None:
    manager = new_manager(durability=durability)
    agent = new_agent(manager, conversation_manager=CountingManager())
    leave(6_500)
    spoil_state(agent, "x" * 3_900)
    spoil_manager(agent, "x" * 3_900)

    with pytest.raises(SessionTooLargeError) as caught:
        agent("Hi")

    assert texts(history()) == ["Hi", "Okay."]
    kept = data_of(stored)
    left_out = caught.value.field
    assert {left_out} <= {"state", "conversation_manager_state"}
    assert {name for name in ("state", "conversation_manager_state") if "xxx" in str(kept[name])} == {
        "state",
        "conversation_manager_state",
    } - {left_out}
    agent("And?")
    assert manager.health == {"ok": True, "pending": 0, "last_error": None}
    leave(10_000_000)
    agent.state.set("scores", "x" * 200_001)
    agent.conversation_manager.kept = "x" * 200_001  # type: ignore[attr-defined]
    agent("Now?")
    assert len(data_of(stored)["state"]["scores"]) == 200_001


def test_a_turn_costs_what_it_did(
    new_manager: NewManager, new_agent: NewAgent, command_counter: CommandCounter, history: History
) -> None:
    agent = new_agent(new_manager())
    agent("Hi")
    agent.state.set("scores", deep())

    with command_counter.counting() as log, pytest.raises(UnstorableValueError):
        agent("And?")
    assert log.names == ["update", "update"]
    with command_counter.counting() as log:
        agent("Now?")
    assert log.names == ["update", "update"]


def test_a_tool_that_spoils_the_state(new_manager: NewManager, new_agent: NewAgent, history: History) -> None:
    @tool(context=True)
    def take_deep_note(tool_context: ToolContext) -> str:
        """Put into the state what cannot be stored."""
        tool_context.agent.state.set("noted", deep())
        return "noted"

    call = {"toolUse": {"toolUseId": "t-1", "name": "take_deep_note", "input": {}}}
    agent = new_agent(new_manager(), call, LOOK, tools=[take_deep_note, look_up])

    with pytest.raises(UnstorableValueError):
        agent("Hi")

    assert history() == agent.messages
    assert len(agent.messages) == 6


# New agents


@every_field
@pytest.mark.parametrize("lazily", [False, True])
async def test_a_new_agent(
    factory: MongoDBSessionManagerFactory,
    new_agent: NewAgent,
    stored: Stored,
    history: History,
    spoilt: str,
    lazily: bool,
) -> None:
    name, spoil, value, _, error = SPOILT[spoilt]
    options: dict[str, Any] = {"state": {"scores": value}} if name == "state" else {}
    conversation_manager = CountingManager()
    if name == "conversation_manager_state":
        conversation_manager.kept = value
    if name == "system_prompt":
        options["system_prompt"] = value
    async with factory.session("s-1", agent_ids=["default"] if lazily else []) as manager:
        agent = new_agent(manager, conversation_manager=conversation_manager, messages=[user("Before")], **options)
        if name == "_internal_state":
            spoil(agent, value)

        with pytest.raises(error):
            await agent.invoke_async("Hi")
        await agent.invoke_async("And?")

    assert texts(history()) == ["Before", "Hi", "Okay.", "And?", "Okay."]
    assert name == "_internal_state" or name not in data_of(stored)
    async with factory.session("s-1", agent_ids=["default"]) as manager:
        restored = new_agent(manager, conversation_manager=CountingManager())
        assert texts(restored.messages) == texts(agent.messages)
        await restored.invoke_async("Again")


def test_a_new_agent_in_a_session_with_little_room(
    new_manager: NewManager, new_agent: NewAgent, stored: Stored, history: History, leave: Callable[[int], None]
) -> None:
    manager = new_manager()
    leave(4_000)

    agent = new_agent(manager, state={"blob": "x" * 3_900}, messages=[user("Before")], system_prompt="Be brief.")

    with pytest.raises(SessionTooLargeError):
        agent("Hi")
    assert texts(history()) == ["Before", "Hi", "Okay."]
    assert data_of(stored)["system_prompt"] == "Be brief."
    assert "state" not in data_of(stored)


def test_what_nobody_was_told_is_logged_when_the_manager_is_closed(
    new_manager: NewManager, new_agent: NewAgent, caplog: pytest.LogCaptureFixture
) -> None:
    manager = new_manager()
    new_agent(manager, state={"deep": deep()})
    assert manager.health["last_error"] == "UnstorableValueError"

    manager.close()

    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "UnstorableValueError" in record.getMessage()


# Outside of an invocation


@every_field
def test_a_call_of_its_own_tells_after_the_rest_is_stored(
    new_manager: NewManager, new_agent: NewAgent, history: History, spoilt: str
) -> None:
    _, spoil, value, another, error = SPOILT[spoilt]
    manager = new_manager()
    agent = new_agent(manager, conversation_manager=CountingManager())
    spoil(agent, value)

    with pytest.raises(error):
        manager.append_message(user("Hi"), agent)
    manager.append_message(user("And?"), agent)
    spoil(agent, another)
    with pytest.raises(error):
        manager.sync_agent(agent)
    manager.sync_agent(agent)

    assert texts(history()) == ["Hi", "And?"]


@every_durability
def test_a_direct_tool_call(new_manager: NewManager, new_agent: NewAgent, history: History, durability: str) -> None:
    agent = new_agent(new_manager(durability=durability), tools=[look_up])
    agent.state.set("scores", deep())

    with pytest.raises(UnstorableValueError):
        agent.tool.look_up(word="kiwi")

    assert len(history()) == 4
    assert history() == agent.messages
    agent.tool.look_up(word="fig")
    assert len(history()) == 8


def test_an_append_within_an_invocation_leaves_it_to_the_end(
    new_manager: NewManager, new_agent: NewAgent, history: History
) -> None:
    manager = new_manager()

    @tool(context=True)
    def remember(tool_context: ToolContext) -> str:
        """Store a message of its own."""
        tool_context.agent.state.set("scores", deep())
        manager.append_message(user("Remembered"), tool_context.agent)
        manager.sync_agent(tool_context.agent)
        return "done"

    agent = new_agent(manager, {"toolUse": {"toolUseId": "t", "name": "remember", "input": {}}}, tools=[remember])

    with pytest.raises(UnstorableValueError):
        agent("Hi")
    assert texts(history()) == ["Hi", "Remembered", "Okay."]


# Beside other errors


@every_durability
def test_a_refused_message_comes_first(
    new_manager: NewManager, new_agent: NewAgent, history: History, durability: str
) -> None:
    @tool
    def odd() -> dict[str, Any]:
        """Give back what JSON does not know."""
        return {"status": "success", "content": [{"json": {"seen": {"a"}}}]}

    manager = new_manager(durability=durability)
    agent = new_agent(manager, {"toolUse": {"toolUseId": "t", "name": "odd", "input": {}}}, tools=[odd])
    agent.state.set("scores", deep())

    with pytest.raises(UnstorableValueError, match="message 2"):
        agent("Hi")
    with pytest.raises(UnstorableValueError, match="state"):
        manager.flush()
    assert history() == agent.messages[:2]


@every_mode
def test_an_outage_at_the_same_time(
    new_manager: NewManager, new_agent: NewAgent, failing: Failing, history: History, on_error: str
) -> None:
    manager = new_manager(on_error=on_error)
    agent = new_agent(manager)
    agent("Hi")
    agent.state.set("scores", LARGE)

    with failing(errorCode=50), pytest.raises(PyMongoError if on_error == "raise" else SessionTooLargeError):
        agent("And?")
    if on_error == "raise":
        with pytest.raises(SessionTooLargeError):
            manager.flush()
    manager.flush()

    assert history() == agent.messages


def test_a_field_and_messages_without_an_answer(
    new_manager: NewManager,
    new_agent: NewAgent,
    mongodb_uri: str,
    failing: Failing,
    history: History,
    stored: Stored,
    leave: Callable[[int], None],
) -> None:
    manager = new_manager(connection_string=mongodb_uri, retryWrites=False)
    agent = new_agent(manager, conversation_manager=CountingManager())
    leave(3_800)
    binding = manager._agents.live()[0]
    with failing("update", writeConcernError={"code": 64, "errmsg": "timed out"}), pytest.raises(PyMongoError):
        manager.append_message(user("0"), agent)
    spoil_state(agent, "x" * 3_900)
    spoil_manager(agent, "small")
    binding.capture_message(agent, user("1"))
    binding.capture_message(agent, user("2"))

    with pytest.raises(SessionTooLargeError):
        manager.flush()

    assert texts(history()) == ["0", "1", "2"]
    assert data_of(stored)["conversation_manager_state"]["kept"] == "small"


def test_a_message_that_is_too_large_beside_a_field(
    new_manager: NewManager, new_agent: NewAgent, history: History, stored: Stored
) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    agent.state.set("a", 1)
    message: Any = {**user("Hi"), "metadata": {"custom": {"large": LARGE}}}

    with pytest.raises(SessionTooLargeError) as caught:
        manager.append_message(message, agent)
    assert caught.value.message_id == 0
    manager.append_message(user("And?"), agent)

    assert texts(history()) == ["And?"]
    assert data_of(stored)["state"] == {"a": 1}


# State compares as it is stored


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (1, True),
        (True, 1),
        (1, 1.0),
        (1.0, 1),
        (0.0, -0.0),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ([{"a": 0}], [{"a": False}]),
        ({1: "a"}, {True: "a"}),
        ({1: "a"}, {1.0: "a"}),
        ({1: "a"}, {"1": "a"}),
        (2**40, float(2**40)),
        ("a", ["a"]),
    ],
    ids=str,
)
@pytest.mark.parametrize("spoil", [spoil_state, spoil_manager, spoil_model_state])
@pytest.mark.parametrize("restart", [False, True])
def test_what_is_stored_otherwise_is_a_change(
    new_manager: NewManager, new_agent: NewAgent, spoil: Any, before: Any, after: Any, restart: bool
) -> None:
    manager = new_manager()
    agent = new_agent(manager, conversation_manager=CountingManager())
    spoil(agent, before)
    manager.sync_agent(agent)
    if restart:
        manager = new_manager()
        agent = new_agent(manager, conversation_manager=CountingManager())

    spoil(agent, after)
    manager.sync_agent(agent)

    data = manager.session_repository.read_agent("s-1", "default")
    assert data is not None
    found = {
        spoil_state: data.state.get("scores"),
        spoil_manager: data.conversation_manager_state.get("kept"),
        spoil_model_state: data._internal_state["model_state"].get("kept"),
    }[spoil]
    assert repr(found) == repr(after)


AT = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    "after",
    [AT + timedelta(microseconds=1), AT.astimezone(timezone(timedelta(hours=1))), AT.replace(tzinfo=None)],
    ids=["microseconds", "zone", "naive"],
)
@pytest.mark.parametrize("spoil", [spoil_manager, spoil_model_state])
def test_a_time_that_is_the_same_to_mongodb_is_a_change(
    new_manager: NewManager, new_agent: NewAgent, spoil: Any, after: datetime
) -> None:
    manager = new_manager()
    agent = new_agent(manager, conversation_manager=CountingManager())
    spoil(agent, AT)
    manager.sync_agent(agent)
    manager.sync_agent(agent)

    spoil(agent, after)
    manager.sync_agent(agent)

    data = manager.session_repository.read_agent("s-1", "default")
    assert data is not None
    found = data.conversation_manager_state.get("kept") or data._internal_state["model_state"].get("kept")
    assert found.isoformat() == after.isoformat()


@pytest.mark.parametrize(
    "value",
    [float("nan"), [float("nan"), {"a": float("inf")}], 2**40, 2**100, -0.0, {1: {None: 2}}, "\ud800", b"bytes"],
    ids=str,
)
@pytest.mark.parametrize("restart", [False, True])
def test_what_is_the_same_is_no_change(
    new_manager: NewManager, new_agent: NewAgent, command_counter: CommandCounter, value: Any, restart: bool
) -> None:
    manager = new_manager()
    agent = new_agent(manager, conversation_manager=CountingManager())
    spoil_manager(agent, value)
    spoil_model_state(agent, value)
    if not isinstance(value, bytes):
        spoil_state(agent, value)
    manager.sync_agent(agent)
    if restart:
        manager = new_manager()
        model_state = agent._model_state
        agent = new_agent(manager, conversation_manager=CountingManager())
        spoil_manager(agent, value)
        assert repr(agent._model_state) == repr(model_state)

    with command_counter.counting() as log:
        manager.sync_agent(agent)
        manager.sync_agent(agent)
    assert log.names == []


def test_what_nobody_was_told_holds_no_agent(new_manager: NewManager, new_agent: NewAgent) -> None:
    manager = new_manager()

    def fail(event: AfterInvocationEvent) -> None:
        raise RuntimeError("mine")

    agent = new_agent(manager, hooks=[fail])
    agent._model_state = {"bad": object()}
    with pytest.raises(RuntimeError, match="mine"):
        agent("Hi")
    assert not manager.health["ok"]
    del agent

    assert texts(new_agent(manager).messages) == ["Hi", "Okay."]


@every_durability
def test_the_error_of_the_invocation_itself_comes_first(
    new_manager: NewManager, new_agent: NewAgent, durability: str
) -> None:
    manager = new_manager(durability=durability)
    agent = new_agent(manager, ConnectionError("the model"))
    agent._model_state = {"bad": object()}

    with pytest.raises(ConnectionError, match="the model"):
        agent("Hi")
    assert manager.health["last_error"] == "UnstorableValueError"
    with pytest.raises(UnstorableValueError):
        agent("Again")
    agent("Once is enough")


async def test_a_call_while_another_error_is_handled(new_manager: NewManager, new_agent: NewAgent) -> None:
    agent = new_agent(new_manager())
    agent._model_state = {"bad": object()}

    try:
        raise ConnectionError("somebody else's")
    except ConnectionError:
        with pytest.raises(UnstorableValueError):
            await agent.invoke_async("Hi")
