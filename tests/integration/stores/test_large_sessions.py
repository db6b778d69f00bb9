"""One session of 100,000 messages and 200 MB; the tests run in this order, the last one deletes it."""

from collections.abc import Iterator
from typing import Any

import bson
import pytest
from histories import SEGMENTS, SESSIONS, numbering
from pymongo import MongoClient
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent
from strands import Agent
from strands.agent.conversation_manager import SlidingWindowConversationManager
from strands.types.content import Message
from workload import Model

from mongodb_session_manager import MongoDBSessionManager
from mongodb_session_manager.testing import Command, CommandCounter, Redaction, Turn
from mongodb_session_manager.types import Durability
from tests.aliases import Client

DATABASE = "test_large_sessions"
SESSION = "large"
AGENT = "default"
MESSAGES = 100_000
TEXT = "x" * 1_970
# Messages of one invocation: prompts and an answer.
BATCH = 250
WINDOW = 40
MIB = 1024 * 1024
TURNS = 10
# A full window moves at the end of each turn, which is one write more than the two messages.
WRITES_EACH = 3


class Received(CommandListener):
    """Adds up how large the server's replies are."""

    def __init__(self) -> None:
        self.bytes = 0

    def started(self, event: CommandStartedEvent) -> None:
        pass

    def succeeded(self, event: CommandSucceededEvent) -> None:
        self.bytes += len(bson.encode(event.reply))

    def failed(self, event: CommandFailedEvent) -> None:
        pass


@pytest.fixture(scope="module")
def counter() -> CommandCounter:
    return CommandCounter()


@pytest.fixture(scope="module")
def received() -> Received:
    return Received()


@pytest.fixture(scope="module")
def client(mongodb_uri: str, counter: CommandCounter, received: Received) -> Iterator[Client]:
    client: Client = MongoClient(mongodb_uri, tz_aware=True, event_listeners=[counter, received])
    with client:
        yield client
        client.drop_database(DATABASE)


@pytest.fixture(scope="module")
def writes(client: Client, counter: CommandCounter) -> dict[str, int]:
    """Fill the session; tell how many writes ordinary turns took at its beginning and at its end."""
    with open_manager(client) as manager:
        agent = new_agent(manager)
        agent(prompts(0, BATCH - 1))
        early = hold_turns(manager, agent, counter)
    with open_manager(client, "exit") as manager:
        agent, last = new_agent(manager), MESSAGES - 2 * TURNS
        for first in range(BATCH + 2 * TURNS, last, BATCH):
            agent(prompts(first, min(BATCH, last - first) - 1))
            counter.clear()  # it keeps what was sent
        settle(manager)
    with open_manager(client) as manager:
        late = hold_turns(manager, new_agent(manager), counter)
        settle(manager)
    return {"early": early, "late": late}


def open_manager(client: Client, durability: Durability = "sync") -> MongoDBSessionManager:
    return MongoDBSessionManager(SESSION, client=client, database_name=DATABASE, durability=durability)


def new_agent(manager: MongoDBSessionManager, *turns: Turn) -> Agent:
    return Agent(
        model=Model(turns or [TEXT], cycle=True, latency_ms=0),
        conversation_manager=SlidingWindowConversationManager(window_size=WINDOW),
        session_manager=manager,
        callback_handler=None,
    )


def prompts(first: int, count: int) -> list[Message]:
    return [{"role": "user", "content": [{"text": f"{number:06} {TEXT}"}]} for number in range(first, first + count)]


def hold_turns(manager: MongoDBSessionManager, agent: Agent, counter: CommandCounter) -> int:
    manager.flush()  # what the turns before left to be sent behind
    with counter.counting() as log:
        for _ in range(TURNS):
            agent(TEXT)
            manager.flush()  # or the moved window may ride on the next message
    return sum(is_append(command) for command in log.commands)


def is_append(command: Command) -> bool:
    """Tell a write of the turn from the moves that go on behind it."""
    return command.name == "update" and "$pull" not in str(command.document["updates"][0]["u"].keys())


def settle(manager: MongoDBSessionManager) -> None:
    """Wait for what is done behind."""
    manager.flush()
    for binding in manager._agents.live():
        binding.history.move_oldest()


def test_a_turn_takes_as_many_writes_as_at_the_beginning(writes: dict[str, int]) -> None:
    assert writes == {"early": WRITES_EACH * TURNS, "late": WRITES_EACH * TURNS}


@pytest.mark.usefixtures("writes")
def test_all_messages_are_there_once_and_in_order(client: Client) -> None:
    with open_manager(client) as manager:
        assert manager.get_message_count(AGENT) == MESSAGES

    assert list(numbering(client[DATABASE], SESSION)) == []


@pytest.mark.usefixtures("writes")
def test_the_session_document_stays_small(client: Client) -> None:
    stages: list[dict[str, Any]] = [
        {"$match": {"session_id": SESSION}},
        {"$group": {"_id": None, "bytes": {"$sum": {"$bsonSize": "$$ROOT"}}}},
    ]
    [document], [segments] = (list(client[DATABASE][name].aggregate(stages)) for name in (SESSIONS, SEGMENTS))

    assert document["bytes"] < MIB
    assert document["bytes"] + segments["bytes"] > 200_000_000


@pytest.mark.usefixtures("writes")
@pytest.mark.parametrize("limit", [1, 25, 1_000])
@pytest.mark.parametrize("offset", [0, 49_990, MESSAGES - 100, MESSAGES - 1, MESSAGES])
def test_pages_are_read_anywhere(client: Client, received: Received, offset: int, limit: int) -> None:
    with open_manager(client) as manager:
        before = received.bytes
        page = manager.list_messages(AGENT, limit, offset)

    assert [message["message_id"] for message in page] == list(range(MESSAGES))[offset : offset + limit]
    assert received.bytes - before < 6 * MIB


@pytest.mark.usefixtures("writes")
def test_a_restore_reads_only_what_is_used(client: Client, counter: CommandCounter, received: Received) -> None:
    before = received.bytes
    with open_manager(client) as manager, counter.counting() as log:
        agent = new_agent(manager)

    # Two where the window reaches into segments: how much the document keeps depends on when others looked.
    assert log.names in (["aggregate"], ["aggregate"] * 2)
    assert len(agent.messages) == WINDOW
    assert received.bytes - before < 2 * WINDOW * len(TEXT)


@pytest.mark.usefixtures("writes")
@pytest.mark.parametrize("number", [3, 50_000])
def test_an_old_message_is_redacted(client: Client, number: int) -> None:
    with open_manager(client) as manager:
        [old] = manager.list_messages(AGENT, 1, number)
        blocked = new_agent(manager, Redaction(user_message="[hidden]"))
        again: Message = {"role": "user", "content": old["content"], "tracking_id": old["tracking_id"]}
        blocked([again])  # a client that sends it once more
        [redacted] = manager.list_messages(AGENT, 1, number)

    assert redacted["content"] == [{"text": "[hidden]"}]
    said = {"$regex": f"^{number:06} "}
    for name, path in ((SESSIONS, f"agents.{AGENT}.messages.content.text"), (SEGMENTS, "messages.content.text")):
        assert client[DATABASE][name].find_one({path: said}, {"_id": 1}) is None


@pytest.mark.usefixtures("writes")
def test_a_deletion_removes_all(client: Client) -> None:
    with open_manager(client) as manager:
        assert manager.delete_session()

    assert [client[DATABASE][name].count_documents({}) for name in (SESSIONS, SEGMENTS)] == [0, 0]
