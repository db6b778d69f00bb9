"""Subclasses that override what stores messages and state, to mask or encrypt, on the real mongod."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any, cast

import pytest
from pymongo import MongoClient
from strands.hooks import AfterInvocationEvent, MessageAddedEvent
from strands.types.content import Message

from mongodb_session_manager import MongoDBSessionManager
from mongodb_session_manager.testing import CommandCounter, Redaction
from tests.aliases import Everything, History, NewAgent, NewManager, Stored
from tests.talking import LOOK, every_durability, every_way_to_talk, look_up, texts

if TYPE_CHECKING:
    from strands.types.agent import LocalAgent


SECRET = "555-0199"


def masked(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace(SECRET, "[number]")
    if isinstance(value, dict):
        return {key: masked(item) for key, item in value.items()}
    return [masked(item) for item in value] if isinstance(value, list) else value


class Masking(MongoDBSessionManager):
    """Stores messages without telephone numbers; the live agent keeps them."""

    def append_message(self, message: Message, agent: "LocalAgent", **kwargs: Any) -> None:
        self.__dict__.setdefault("seen", []).append(message)
        super().append_message(masked(message), agent, **kwargs)


class Forgetful(Masking):
    """Makes a message of its own instead of a copy."""

    def append_message(self, message: Message, agent: "LocalAgent", **kwargs: Any) -> None:
        own = {"role": message["role"], "content": masked(message["content"])}
        MongoDBSessionManager.append_message(self, cast(Message, own), agent)


class Sealing(Masking):
    """Stores the agent's state without telephone numbers, too."""

    def sync_agent(self, agent: "LocalAgent", **kwargs: Any) -> None:
        state = agent.state.get()
        for key, value in masked(state).items():
            agent.state.set(key, value)
        super().sync_agent(agent, **kwargs)
        for key, value in state.items():
            agent.state.set(key, value)


class Redacting(MongoDBSessionManager):
    """Has a word of its own for what is redacted."""

    def redact_latest_message(self, redact_message: Message, agent: "LocalAgent", **kwargs: Any) -> None:
        super().redact_latest_message({"role": "user", "content": [{"text": "[mine]"}]}, agent, **kwargs)


@pytest.fixture
def new(mongo_client: MongoClient[dict[str, Any]], database: str) -> Iterator[Callable[..., Any]]:
    with ExitStack() as stack:

        def make(kind: type[MongoDBSessionManager], **options: Any) -> MongoDBSessionManager:
            manager = kind("s-1", client=mongo_client, database_name=database, **options)
            return stack.enter_context(closing(manager))

        yield make


@every_durability
@every_way_to_talk
@pytest.mark.parametrize("kind", [Masking, Forgetful, Sealing])
async def test_no_copy_of_the_plain_text_is_stored(
    new: Callable[..., Any],
    new_agent: NewAgent,
    everything: Everything,
    history: History,
    durability: str,
    talk: Any,
    kind: type[MongoDBSessionManager],
) -> None:
    manager = new(kind, durability=durability)
    agent = new_agent(manager, [LOOK], f"I call {SECRET}.", tools=[look_up])

    await talk(agent, f"My number is {SECRET}")
    manager.flush()

    assert SECRET.encode() not in everything()
    assert texts(agent.messages)[0] == f"My number is {SECRET}"
    assert texts(history()) == ["My number is [number]", "I call [number]."]
    assert [message["role"] for message in history()] == [message["role"] for message in agent.messages]
    assert [m.get("tracking_id") for m in history()] == [m.get("tracking_id") for m in agent.messages]
    assert manager.get_usage_summary()["model_calls"] == 2


def test_it_is_called_once_for_each_message(new: Callable[..., Any], new_agent: NewAgent, history: History) -> None:
    manager = new(Masking)
    agent = new_agent(manager, [LOOK], tools=[look_up], messages=[{"role": "user", "content": [{"text": SECRET}]}])

    agent("Hi")
    agent.tool.look_up(word="kiwi")

    assert manager.seen == agent.messages
    assert len(history()) == len(agent.messages)


def test_a_plain_turn_costs_two_writes_all_the_same(
    new: Callable[..., Any], new_agent: NewAgent, command_counter: CommandCounter
) -> None:
    agent = new_agent(new(Masking))
    agent("Hi")

    with command_counter.counting() as log:
        agent("Again")

    assert log.names == ["update", "update"]


def test_initial_messages_go_the_same_way(
    new: Callable[..., Any], new_agent: NewAgent, everything: Everything, history: History
) -> None:
    agent = new_agent(new(Masking), messages=[{"role": "user", "content": [{"text": SECRET}]}], state={"a": 1})

    assert SECRET.encode() not in everything()
    assert texts(history()) == ["[number]"]
    assert texts(agent.messages) == [SECRET]
    assert new_agent(new(Masking)).state.get() == {"a": 1}


@every_durability
def test_state_is_stored_as_the_override_has_it(
    new: Callable[..., Any], new_agent: NewAgent, everything: Everything, durability: str
) -> None:
    manager = new(Sealing, durability=durability)
    agent = new_agent(manager, state={"number": SECRET})
    assert SECRET.encode() not in everything()

    agent("Hi")
    agent.state.set("other", SECRET)
    agent("Again")
    manager.flush()

    assert SECRET.encode() not in everything()
    assert agent.state.get() == {"number": SECRET, "other": SECRET}
    assert new_agent(new(Sealing)).state.get() == {"number": "[number]", "other": "[number]"}


def test_what_is_stored_is_what_comes_back(new: Callable[..., Any], new_agent: NewAgent, history: History) -> None:
    new_agent(new(Masking))(f"My number is {SECRET}")

    restored = new_agent(new(Masking))
    restored("Go on")

    assert restored.messages == history()
    assert len(history()) == 4


def test_a_redaction_reaches_what_an_override_stored(
    new: Callable[..., Any], new_agent: NewAgent, history: History
) -> None:
    manager = new(Forgetful)
    agent = new_agent(manager)
    agent(f"My number is {SECRET}")

    manager.redact_latest_message({"role": "assistant", "content": [{"text": "[gone]"}]}, agent)

    assert texts(history()) == ["My number is [number]", "[gone]"]


def test_an_overridden_redaction_is_called_by_the_agent(
    new: Callable[..., Any], new_agent: NewAgent, history: History
) -> None:
    agent = new_agent(new(Redacting), Redaction("[theirs]"))

    agent("Forbidden")

    assert "[mine]" in texts(history())


def test_an_override_may_leave_a_message_out(new: Callable[..., Any], new_agent: NewAgent, history: History) -> None:
    class Choosy(MongoDBSessionManager):
        def append_message(self, message: Message, agent: "LocalAgent", **kwargs: Any) -> None:
            if message["role"] == "user":
                super().append_message(message, agent, **kwargs)

    agent = new_agent(new(Choosy))
    agent("Hi")
    agent("Again")

    assert texts(history()) == ["Hi", "Again"]
    assert texts(new_agent(new(Choosy)).messages) == ["Hi", "Again"]


# Callbacks of users


@every_durability
def test_a_callback_that_raises_leaves_nothing_unwritten(
    new_manager: NewManager, new_agent: NewAgent, history: History, stored: Stored, durability: str
) -> None:
    manager = new_manager(durability=durability)
    agent = new_agent(manager)

    def fail(event: AfterInvocationEvent) -> None:
        raise RuntimeError("mine")

    def note(event: MessageAddedEvent) -> None:
        event.agent.state.set("noted", len(event.agent.messages))

    agent.add_hook(fail)
    agent.add_hook(note)
    with pytest.raises(RuntimeError, match="mine"):
        agent("Hi")

    assert history() == agent.messages
    assert stored()["agents"]["default"]["agent_data"]["state"] == {"noted": 2}


@pytest.mark.parametrize(("changes", "writes"), [(False, 1), (True, 2)])
def test_an_invocation_of_exit_is_one_write_or_two_where_a_callback_changed_the_state(
    new_manager: NewManager,
    new_agent: NewAgent,
    command_counter: CommandCounter,
    stored: Stored,
    changes: bool,
    writes: int,
) -> None:
    agent = new_agent(new_manager(durability="exit"))

    def change(event: AfterInvocationEvent) -> None:
        if changes:
            event.agent.state.set("last", "word")

    agent.add_hook(change)
    with command_counter.counting() as log:
        agent("Hi")

    assert log.names == ["update"] * writes
    assert stored()["agents"]["default"]["agent_data"]["state"] == ({"last": "word"} if changes else {})
