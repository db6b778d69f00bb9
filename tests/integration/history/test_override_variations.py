"""What subclasses make of a message before it is stored: in other ways than by a copy, on the real mongod."""

import copy
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any, cast

import pytest
from pymongo import MongoClient
from strands.hooks import AfterInvocationEvent
from strands.types.content import Message

from mongodb_session_manager import MongoDBSessionManager, UnstorableValueError
from mongodb_session_manager.testing import Redaction
from tests.aliases import History, NewAgent
from tests.talking import LOOK, every_durability, look_up, texts

if TYPE_CHECKING:
    from strands.types.agent import LocalAgent


class Twice(MongoDBSessionManager):
    """Says it again, as who tries again does."""

    def append_message(self, message: Message, agent: "LocalAgent", **kwargs: Any) -> None:
        super().append_message(copy.deepcopy(message), agent, **kwargs)
        super().append_message(copy.deepcopy(message), agent, **kwargs)


class Cleaning(MongoDBSessionManager):
    """Stores something else where a message is refused."""

    def append_message(self, message: Message, agent: "LocalAgent", **kwargs: Any) -> None:
        refused: Any = {**message, "content": [*message["content"], {"text": {1, 2}}]}
        try:
            super().append_message(refused, agent, **kwargs)
        except UnstorableValueError:
            clean = {"role": message["role"], "content": message["content"]}
            super().append_message(cast(Message, clean), agent, **kwargs)


class Renaming(MongoDBSessionManager):
    """Has tracking ids of its own."""

    def append_message(self, message: Message, agent: "LocalAgent", **kwargs: Any) -> None:
        super().append_message({**copy.deepcopy(message), "tracking_id": str(uuid.uuid4())}, agent, **kwargs)


class InAThread(MongoDBSessionManager):
    """Has another thread do it, and waits for that."""

    def append_message(self, message: Message, agent: "LocalAgent", **kwargs: Any) -> None:
        with ThreadPoolExecutor(1) as threads:
            store = super().append_message
            threads.submit(store, copy.deepcopy(message), agent, **kwargs).result(10)


class Adding(MongoDBSessionManager):
    """Stores a note after each message."""

    def append_message(self, message: Message, agent: "LocalAgent", **kwargs: Any) -> None:
        super().append_message(copy.deepcopy(message), agent, **kwargs)
        super().append_message({"role": "user", "content": [{"text": "note"}]}, agent, **kwargs)


class Failing(MongoDBSessionManager):
    """Cannot store answers, nor the state."""

    def append_message(self, message: Message, agent: "LocalAgent", **kwargs: Any) -> None:
        if message["role"] == "assistant":
            raise KeyError("the message")
        super().append_message(message, agent, **kwargs)

    def sync_agent(self, agent: "LocalAgent", **kwargs: Any) -> None:
        if texts(agent.messages)[-1:] == ["Okay."]:
            raise RuntimeError("the state")
        super().sync_agent(agent, **kwargs)


@pytest.fixture
def new(mongo_client: MongoClient[dict[str, Any]], database: str) -> Iterator[Callable[..., Any]]:
    with ExitStack() as stack:

        def make(kind: type[MongoDBSessionManager], **options: Any) -> MongoDBSessionManager:
            manager = kind("s-1", client=mongo_client, database_name=database, **options)
            return stack.enter_context(closing(manager))

        yield make


@every_durability
@pytest.mark.parametrize("kind", [Twice, Cleaning, Renaming, InAThread])
def test_each_message_is_stored_once_and_known_by_its_tracking_id(
    new: Callable[..., Any], new_agent: NewAgent, history: History, kind: type[MongoDBSessionManager], durability: str
) -> None:
    manager = new(kind, durability=durability)
    agent = new_agent(manager, [LOOK], tools=[look_up])

    agent("Hi")
    agent("Again")
    manager.flush()

    said = [(m["role"], m["content"], m.get("tracking_id")) for m in agent.messages]
    assert [(m["role"], m["content"], m.get("tracking_id")) for m in history()] == said
    assert new_agent(new(kind)).messages == history()


def test_a_message_of_the_overrides_own_is_one_more(
    new: Callable[..., Any], new_agent: NewAgent, history: History
) -> None:
    new_agent(new(Adding))("Hi")

    assert texts(history()) == ["Hi", "note", "Okay.", "note"]


@pytest.mark.parametrize("kind", [Cleaning, Renaming])
def test_what_is_undone_stays_undone(
    new: Callable[..., Any], new_agent: NewAgent, kind: type[MongoDBSessionManager]
) -> None:
    agent = new_agent(new(kind))
    agent("Hi")
    before = copy.deepcopy(agent.messages)
    agent("A mistake")

    agent.messages = before
    agent("Again")

    assert texts(new_agent(new(kind)).messages) == texts(agent.messages) == ["Hi", "Okay.", "Again", "Okay."]


@pytest.mark.parametrize("kind", [Cleaning, Renaming, InAThread])
def test_a_redaction_finds_it(
    new: Callable[..., Any],
    new_agent: NewAgent,
    everything: Callable[[], bytes],
    kind: type[MongoDBSessionManager],
) -> None:
    new_agent(new(kind), Redaction("[gone]"))("A secret")

    assert b"A secret" not in everything()


@every_durability
def test_what_an_override_raises_reaches_the_caller_and_costs_that_message_alone(
    new: Callable[..., Any], new_agent: NewAgent, history: History, durability: str
) -> None:
    manager = new(Failing, durability=durability)
    agent = new_agent(manager)

    with pytest.raises(KeyError, match="the message"):
        agent("Hi")

    assert manager.health["pending"] == 0
    assert texts(history()) == ["Hi"]


def test_a_message_that_was_refused_and_a_callback_that_raises_leave_nothing_unwritten(
    new: Callable[..., Any], new_agent: NewAgent, history: History
) -> None:
    class Choosy(MongoDBSessionManager):
        def append_message(self, message: Message, agent: "LocalAgent", **kwargs: Any) -> None:
            if message["role"] == "assistant":
                raise KeyError("the message")
            super().append_message(message, agent, **kwargs)

    def fail(event: AfterInvocationEvent) -> None:
        raise RuntimeError("mine")

    manager = new(Choosy, durability="exit")
    agent = new_agent(manager, hooks=[fail])

    with pytest.raises(RuntimeError, match="mine"):
        agent("Hi")

    assert manager.health["pending"] == 0
    assert texts(history()) == ["Hi"]
