"""The size of a session document over all of its agents, on the real mongod."""

import itertools
from collections.abc import Callable
from typing import Any

import bson
import pytest
from histories import numbering
from pymongo.errors import PyMongoError
from strands import Agent
from strands.agent.conversation_manager import NullConversationManager
from strands.types.content import Message
from strands.types.session import Session, SessionAgent, SessionMessage, SessionType

from mongodb_session_manager import MongoDBSessionManager, MongoDBSessionRepository, SessionTooLargeError
from mongodb_session_manager._schema import histories as _histories
from mongodb_session_manager._stores import document_size as _document_size
from mongodb_session_manager._stores import moving as _moving
from mongodb_session_manager._stores.document_size import BUDGET_BYTES
from mongodb_session_manager.testing import CommandCounter
from tests.aliases import Client, Failing, History, NewAgent, NewManager
from tests.talking import texts, user
from tests.watching import cost, eventually

KIB = 1024
MIB = KIB * KIB


@pytest.fixture
def size(stored: Callable[..., Any]) -> Callable[[], int]:
    return lambda: len(bson.encode(stored()))


@pytest.fixture
def embedded(stored: Callable[..., Any]) -> Callable[..., list[int]]:
    """Give the ids of the messages that the document holds of an agent."""

    def read(agent_id: str) -> list[int]:
        return [message["message_id"] for message in stored()["agents"][agent_id]["messages"]]

    return read


@pytest.fixture
def crew(new_manager: NewManager, new_agent: NewAgent) -> Callable[..., tuple[MongoDBSessionManager, list[Agent]]]:
    def make(count: int, **options: Any) -> tuple[MongoDBSessionManager, list[Agent]]:
        manager = new_manager(**options)
        kept = {"conversation_manager": NullConversationManager()}
        return manager, [new_agent(manager, agent_id=f"a-{number}", **kept) for number in range(count)]

    return make


def settle(manager: MongoDBSessionManager) -> None:
    """Wait for what is done behind."""
    manager.flush()
    size = manager._stores.histories._sizes._size(manager.session_id)
    assert eventually(lambda: size._looking.acquire(blocking=False))
    size._looking.release()


def _mover(manager: MongoDBSessionManager) -> Any:
    return manager._stores.histories._sizes._mover


def numbers(messages: list[Message]) -> list[int]:
    return [int(text[:6]) for text in texts(messages)]


def fill(manager: MongoDBSessionManager, agents: list[Agent], messages: int, size: int) -> None:
    for number in range(messages):
        for agent in agents:
            manager.append_message(user(f"{number:06} " + "x" * (size - 7)), agent)


@pytest.mark.parametrize(
    ("count", "messages", "each"),
    [(11, 20, 85_000), (9, 8, 240_000), (40, 30, 5_000), (1, 60, 30_000)],
    ids=["tool results", "texts", "a crew", "one agent"],
)
def test_no_number_of_agents_fills_a_document(
    crew: Callable[..., Any],
    size: Callable[[], int],
    observer: Client,
    database: str,
    history: History,
    count: int,
    messages: int,
    each: int,
) -> None:
    manager, agents = crew(count)

    fill(manager, agents, messages, each)
    settle(manager)

    assert size() < MIB
    assert list(numbering(observer[database], "s-1")) == []
    assert numbers(history(agent_id="a-0")) == list(range(messages))
    manager.update_metadata({"topic": "pears"})
    manager.add_feedback({"rating": "up"})


def test_who_was_written_last_keeps_its_messages(crew: Callable[..., Any], embedded: Callable[..., list[int]]) -> None:
    manager, agents = crew(6)
    for agent in agents:
        fill(manager, [agent], 4, 30 * KIB)

    settle(manager)

    assert embedded("a-0") == []
    assert embedded("a-5") == [0, 1, 2, 3]


def test_an_idle_agent_restores_in_two_reads(
    crew: Callable[..., Any], new_manager: NewManager, new_agent: NewAgent, command_counter: CommandCounter
) -> None:
    manager, agents = crew(6)
    for agent in agents:
        fill(manager, [agent], 4, 30 * KIB)
    settle(manager)

    again = new_manager()
    for agent_id, reads in (("a-0", 2), ("a-5", 1)):
        with command_counter.counting() as log:
            restored = new_agent(again, agent_id=agent_id, conversation_manager=NullConversationManager())
        assert cost(log) == (0, reads, 0)
        assert len(restored.messages) == 4


def test_an_agent_whose_messages_left_goes_on(
    crew: Callable[..., Any], new_manager: NewManager, new_agent: NewAgent, history: History, stored: Callable[[], Any]
) -> None:
    manager, agents = crew(6)
    for agent in agents:
        fill(manager, [agent], 4, 30 * KIB)
    settle(manager)

    agents[0]("I was idle")
    manager.redact_latest_message(user("[hidden]"), agents[0])

    assert history(agent_id="a-0")[-1]["content"] == [{"text": "[hidden]"}]
    assert len(history(agent_id="a-0")) == 6
    assert stored()["agents"]["a-0"]["guard"]["next_message_id"] == 6


def test_a_turn_costs_what_it_did(crew: Callable[..., Any], command_counter: CommandCounter) -> None:
    manager, agents = crew(6)
    for agent in agents:
        fill(manager, [agent], 4, 30 * KIB)
    settle(manager)

    with command_counter.counting() as log:
        agents[0]("Hi")

    assert cost(log) == (2, 0, 0)


def test_small_parts_of_a_history_share_a_segment(
    crew: Callable[..., Any], stored: Callable[[], Any], observer: Client, database: str, history: History
) -> None:
    manager, agents = crew(100)

    fill(manager, agents, 12, 6 * KIB)
    settle(manager)

    segments = observer[database].agent_sessions_segments.count_documents({})
    references = [len(agent.get("segments", ())) for agent in stored()["agents"].values()]
    assert max(references) <= 2
    assert segments == sum(references)
    assert numbers(history(agent_id="a-7")) == list(range(12))
    assert list(numbering(observer[database], "s-1")) == []


# What is not to be disturbed, and what others do meanwhile


def old_agent(count: int, each: int) -> dict[str, Any]:
    messages = [{"message_id": n, "message": user("x" * each), "redact_message": None} for n in range(count)]
    window = {"__name__": "NullConversationManager", "removed_message_count": 0}
    data = {"agent_id": "old", "state": {}, "conversation_manager_state": window}
    return {"agent_data": data, "messages": messages}


def test_a_foreign_agent_of_the_first_version_stays(
    crew: Callable[..., Any],
    new_manager: NewManager,
    new_agent: NewAgent,
    observer: Client,
    database: str,
    embedded: Callable[..., list[int]],
) -> None:
    observer[database].agent_sessions.insert_one(
        {"_id": "s-1", "session_id": "s-1", "agents": {"old": old_agent(5, 90_000)}}
    )
    another = new_manager()
    restored = new_agent(another, agent_id="old", conversation_manager=NullConversationManager())
    manager, crowd = crew(3)

    fill(manager, crowd, 8, 30 * KIB)
    settle(manager)

    assert embedded("old") == [0, 1, 2, 3, 4]
    assert 0 not in embedded("a-0")
    restored("I go on")
    # Its own writer may move what it knows.
    assert [message["message_id"] for message in another.list_messages("old")] == list(range(7))


LAST_RESORT: dict[str, Callable[[MongoDBSessionManager], Any]] = {
    "metadata": lambda manager: manager.update_metadata({"large": "x" * 100 * KIB}),
    "feedback": lambda manager: manager.add_feedback({"comment": "x" * 100 * KIB}),
    "another agent": lambda manager: Agent(
        session_manager=manager, agent_id="b", messages=[user("x" * 100 * KIB)], callback_handler=None
    ),
}


@pytest.mark.parametrize("write", LAST_RESORT.values(), ids=LAST_RESORT)
def test_agents_of_the_first_version_make_room_where_no_others_can(
    new_manager: NewManager,
    new_agent: NewAgent,
    observer: Client,
    database: str,
    size: Callable[[], int],
    stored: Callable[[], Any],
    history: History,
    write: Callable[[MongoDBSessionManager], Any],
) -> None:
    agents = {f"old-{number}": old_agent(5, 40_000) for number in range(4)}
    observer[database].agent_sessions.insert_one({"_id": "s-1", "session_id": "s-1", "agents": agents})
    another = new_manager()
    kept = {"conversation_manager": NullConversationManager()}
    restored = new_agent(another, agent_id="old-0", **kept)
    before = history(agent_id="old-1")
    pad(observer, database, 16 * MIB - size() - 40)

    write(new_manager())

    found = stored()["agents"]
    assert "guard" not in found["old-0"]
    assert [len(found[f"old-{number}"]["messages"]) for number in range(4)] == [1, 1, 1, 5]
    assert history(agent_id="old-1") == before
    assert len(another.list_messages("old-1", limit=2, offset=2)) == 2
    restored("I go on")
    assert [message["message_id"] for message in another.list_messages("old-0")] == list(range(7))
    assert len(new_agent(new_manager(), agent_id="old-0", **kept).messages) == 7
    new_agent(new_manager(), agent_id="old-2", **kept)("I too")
    assert [message["message_id"] for message in another.list_messages("old-2")] == list(range(7))


def test_agents_of_the_first_version_stay_where_others_make_room(
    crew: Callable[..., Any],
    observer: Client,
    database: str,
    size: Callable[[], int],
    embedded: Callable[..., list[int]],
) -> None:
    observer[database].agent_sessions.insert_one(
        {"_id": "s-1", "session_id": "s-1", "agents": {"old": old_agent(5, 90_000)}}
    )
    manager, agents = crew(1)
    fill(manager, agents, 2, 80 * KIB)
    pad(observer, database, 16 * MIB - size() - 40)

    manager.update_metadata({"large": "x" * 100 * KIB})

    assert embedded("old") == [0, 1, 2, 3, 4]
    assert embedded("a-0") == []


def test_a_lease_is_in_the_way_of_no_metadata(
    crew: Callable[..., Any], new_manager: NewManager, observer: Client, database: str
) -> None:
    manager, agents = crew(2, exclusive=True)
    fill(manager, agents, 4, 30 * KIB)
    settle(manager)
    pad(observer, database, 15 * KIB * KIB + 700 * KIB)

    new_manager().update_metadata({"large": "x" * 200 * KIB})

    agents[0]("I have the lease")
    assert manager.get_metadata()["metadata"]["large"]


def pad(observer: Client, database: str, size: int) -> None:
    """Leave little room in the document."""
    observer[database].agent_sessions.update_one({"_id": "s-1"}, {"$set": {"padding": "x" * size}})


ROOM = 16 * KIB * KIB - 200 * KIB

WRITES: dict[str, Callable[[MongoDBSessionManager, Agent], Any]] = {
    "metadata": lambda manager, agent: manager.update_metadata({"large": "x" * 150 * KIB}),
    "feedback": lambda manager, agent: manager.add_feedback({"comment": "x" * 150 * KIB}),
    "a message": lambda manager, agent: manager.append_message(user("x" * 150 * KIB), agent),
    "configuration": lambda manager, agent: manager.update_agent_config("a-0", system_prompt="x" * 150 * KIB),
    "another agent": lambda manager, agent: Agent(
        session_manager=manager, agent_id="b", messages=[user("x" * 150 * KIB)], callback_handler=None
    ),
    "the repository": lambda manager, agent: manager.session_repository.create_message(
        "s-1", "a-0", _session_message(2, "x" * 150 * KIB)
    ),
}


def _session_message(number: int, text: str) -> Any:
    return SessionMessage(user(text), number)


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_every_write_that_finds_no_room_makes_some(
    crew: Callable[..., Any],
    observer: Client,
    database: str,
    size: Callable[[], int],
    write: Callable[[MongoDBSessionManager, Agent], Any],
) -> None:
    manager, agents = crew(1)
    fill(manager, agents, 2, 80 * KIB)
    pad(observer, database, ROOM - 160 * KIB + 20 * KIB)
    assert size() > 16 * KIB * KIB - 200 * KIB

    write(manager, agents[0])

    assert list(numbering(observer[database], "s-1")) == []


@pytest.mark.parametrize(("disturbed", "updates"), [(0, 3), (2, 6)])
def test_many_agents_leave_a_full_document_in_one_write(
    crew: Callable[..., Any],
    observer: Client,
    database: str,
    size: Callable[[], int],
    monkeypatch: pytest.MonkeyPatch,
    command_counter: CommandCounter,
    disturbed: int,
    updates: int,
) -> None:
    manager, agents = crew(30)
    fill(manager, agents, 2, 4 * KIB)
    pad(observer, database, 16 * MIB - size() - KIB)
    record = _moving.MessageMover._record

    def meanwhile(self: Any, *given: Any) -> Any:
        for agent in agents[:disturbed]:
            manager.append_message(user(""), agent)
        return record(self, *given)

    monkeypatch.setattr(_moving.MessageMover, "_record", meanwhile)
    monkeypatch.delattr(_moving.MessageMover, "_record_each")
    with command_counter.counting() as log:
        manager.update_metadata({"large": "x" * 50 * KIB})

    assert log.names.count("update") == updates
    assert list(numbering(observer[database], "s-1")) == []


def test_an_opening_with_a_lease_makes_room(
    crew: Callable[..., Any], new_manager: NewManager, observer: Client, database: str, size: Callable[[], int]
) -> None:
    manager, agents = crew(1)
    fill(manager, agents, 2, 80 * KIB)
    pad(observer, database, 16 * KIB * KIB - size() - 40)

    new_manager(exclusive=True)

    assert list(numbering(observer[database], "s-1")) == []


def test_what_never_fits_is_told(crew: Callable[..., Any], observer: Client, database: str) -> None:
    manager, agents = crew(1)
    fill(manager, agents, 2, 80 * KIB)
    pad(observer, database, ROOM - 160 * KIB)

    with pytest.raises(SessionTooLargeError):
        manager.update_metadata({"large": "x" * 3 * KIB * KIB})

    agents[0]("I go on")


def test_a_move_that_nobody_records_is_invisible(
    crew: Callable[..., Any],
    failing: Failing,
    observer: Client,
    database: str,
    history: History,
    caplog: pytest.LogCaptureFixture,
) -> None:
    manager, agents = crew(2)
    fill(manager, agents, 3, 30 * KIB)
    mover = _mover(manager)
    everybody = {"a-0": 40 * KIB, "a-1": 40 * KIB}
    assert mover.move("s-1", everybody) > 0
    with failing("update", closeConnection=True), pytest.raises(PyMongoError):
        mover.move("s-1", {"a-0": 1})
    assert observer[database].agent_sessions_segments.find_one({"agent_id": "a-0", "messages.2": {"$exists": True}})

    assert numbers(history(agent_id="a-0")) == [0, 1, 2]
    assert list(numbering(observer[database], "s-1")) == []
    assert mover.move("s-1", everybody) > 0
    fill(manager, agents, 1, 30 * KIB)
    assert [len(history(agent_id=f"a-{n}")) for n in range(2)] == [4, 4]
    assert list(numbering(observer[database], "s-1")) == []


def test_a_move_that_misses_is_taken_back(
    crew: Callable[..., Any], observer: Client, database: str, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager, agents = crew(3)
    fill(manager, agents, 3, 30 * KIB)
    mover = _mover(manager)
    assert mover.move("s-1", {"a-0": 1})
    record = _moving.MessageMover._record

    def meanwhile(self: Any, session_id: str, moves: Any) -> Any:
        manager.append_message(user("meanwhile"), agents[0])
        manager.append_message(user("meanwhile"), agents[1])
        return record(self, session_id, moves)

    monkeypatch.setattr(_moving.MessageMover, "_record", meanwhile)
    moved = mover.move("s-1", {"a-0": 1, "a-1": 1, "a-2": 1})

    assert 30 * KIB < moved < 31 * KIB
    held = {s["agent_id"]: len(s["messages"]) for s in observer[database].agent_sessions_segments.find()}
    assert held == {"a-0": 1, "a-2": 1}
    assert [len(history(agent_id=f"a-{n}")) for n in range(3)] == [4, 4, 3]
    assert list(numbering(observer[database], "s-1")) == []


@pytest.mark.parametrize("count", [1, 2, _moving.TRIES_AT_ONCE, _moving.TRIES_AT_ONCE + 1])
def test_moves_that_are_disturbed_again_and_again_are_taken_back(
    crew: Callable[..., Any], observer: Client, database: str, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    manager, agents = crew(count)
    fill(manager, agents, 3, 5 * KIB)
    waiting, at_once = iter(agents), _histories.combined_update

    def meanwhile(*given: Any) -> Any:
        manager.append_message(user("meanwhile"), next(waiting))
        return at_once(*given)

    monkeypatch.setattr(_moving, "combined_update", meanwhile)
    moved = _mover(manager).move("s-1", dict.fromkeys([f"a-{n}" for n in range(count)], 1))

    left = max(count - _moving.TRIES_AT_ONCE, 0)
    assert 5 * KIB * left <= moved < 6 * KIB * left + 1
    assert observer[database].agent_sessions_segments.count_documents({}) == left
    assert list(numbering(observer[database], "s-1")) == []


def test_a_redaction_meanwhile_is_not_undone(
    crew: Callable[..., Any], everything: Callable[[], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    manager, agents = crew(2)
    secret = "my number is 4711"
    manager.append_message(user(secret), agents[0])
    mover = _mover(manager)
    record = _moving.MessageMover._record

    def meanwhile(self: Any, session_id: str, moves: Any) -> Any:
        manager.redact_latest_message(user("[hidden]"), agents[0])
        return record(self, session_id, moves)

    monkeypatch.setattr(_moving.MessageMover, "_record", meanwhile)
    assert mover.move("s-1", {"a-0": 1}) == 0

    assert secret.encode() not in everything()


def test_what_is_written_by_a_bare_repository_counts_too(
    mongo_client: Client, database: str, size: Callable[[], int]
) -> None:
    repository = MongoDBSessionRepository(client=mongo_client, database_name=database)
    repository.create_session(Session(session_id="s-1", session_type=SessionType.AGENT))
    for number in range(3):
        agent = SessionAgent(agent_id=f"a-{number}", state={}, conversation_manager_state={})
        repository.create_agent("s-1", agent)

    for message in range(10):
        for number in range(3):
            repository.create_message("s-1", f"a-{number}", _session_message(message, "x" * 40 * KIB))

    more = itertools.count(10)

    def is_small() -> bool:
        # A move that others disturbed comes again with what is written next.
        repository.create_message("s-1", "a-0", _session_message(next(more), "x" * 40 * KIB))
        return size() < MIB

    assert eventually(is_small)
    assert [m.message_id for m in repository.list_messages("s-1", "a-1")] == list(range(10))


def test_the_next_process_learns_the_size_from_its_opening(
    crew: Callable[..., Any],
    new_manager: NewManager,
    new_agent: NewAgent,
    size: Callable[[], int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(_document_size.DocumentSize, "grew", lambda *_: False)
        manager, agents = crew(4)
        fill(manager, agents, 6, 40 * KIB)
    assert size() > BUDGET_BYTES
    _document_size._sizes.clear()

    again = new_manager()
    new_agent(again, agent_id="a-0")("Hi")
    settle(again)

    assert size() < BUDGET_BYTES
