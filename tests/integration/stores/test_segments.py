"""Histories that outgrow the session document, on the real mongod."""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from pymongo.errors import PyMongoError
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent
from strands import Agent
from strands.agent.conversation_manager import NullConversationManager, SlidingWindowConversationManager

from mongodb_session_manager import MongoDBSessionManager, SessionConflictError, SessionTooLargeError
from mongodb_session_manager.testing import CommandCounter
from tests.aliases import Client, Failing, History, NewAgent, NewManager
from tests.talking import user
from tests.watching import wait_for_indexes

SECRET = "my number is 4711"


# Messages move as soon as a document holds more than eight.
pytestmark = pytest.mark.limits(kept_messages=4, embedded_bytes=1)


@pytest.fixture
def document(stored: Callable[..., Any]) -> Callable[[], Any]:
    return lambda: stored()["agents"]["default"]


@pytest.fixture
def segments(observer: Client, database: str) -> Any:
    return observer[database].agent_sessions_segments


def talk(manager: MongoDBSessionManager, agent: Agent, turns: int, start: int = 0) -> None:
    for number in range(start, start + turns):
        agent(f"prompt {number}")
    settle(manager)


def settle(manager: MongoDBSessionManager) -> None:
    """Wait for what is done behind: once all of the handle's threads are here, none of them is at work."""
    manager.flush()
    executor = manager._stores.handle.executor
    gathered = threading.Barrier(executor._max_workers + 1)
    for _ in range(executor._max_workers):
        executor.submit(gathered.wait)
    gathered.wait(30)


def keeping_all(**options: Any) -> dict[str, Any]:
    return {"conversation_manager": NullConversationManager(), **options}


def test_an_ordinary_session_stays_one_document(
    new_manager: NewManager, new_agent: NewAgent, document: Callable[[], Any], segments: Any
) -> None:
    manager = new_manager()
    talk(manager, new_agent(manager), 4)

    assert len(document()["messages"]) == 8
    assert "segments" not in document()
    assert segments.count_documents({}) == 0


def test_a_long_history_moves_and_reads_as_one(
    new_manager: NewManager, new_agent: NewAgent, document: Callable[[], Any], segments: Any, history: History
) -> None:
    manager = new_manager()
    agent = new_agent(manager, **keeping_all())
    talk(manager, agent, 30)

    stored = document()
    assert len(stored["messages"]) <= 10
    assert stored["moved_count"] + len(stored["messages"]) == stored["guard"]["next_message_id"] == 60
    assert [r["_id"] for r in stored["segments"]] == [s["_id"] for s in segments.find().sort("messages.message_id")]
    assert history() == agent.messages
    assert manager.get_message_count("default") == 60
    assert manager.get_usage_summary()["model_calls"] == 30


@pytest.mark.parametrize("offset", [0, 1, 9, 30, 55, 59, 60, 70])
@pytest.mark.parametrize("limit", [None, 0, 1, 7, 40, 100])
def test_pages_cross_the_boundary(new_manager: NewManager, new_agent: NewAgent, offset: int, limit: int | None) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    for number in range(60):
        manager.append_message(user(str(number)), agent)
    settle(manager)

    page = [message["message_id"] for message in manager.list_messages("default", limit, offset)]

    assert page == list(range(60))[offset : None if limit is None else offset + limit]


def test_a_window_restores_in_one_read(
    new_manager: NewManager, new_agent: NewAgent, command_counter: CommandCounter
) -> None:
    manager = new_manager()
    agent = new_agent(manager, conversation_manager=SlidingWindowConversationManager(window_size=4))
    talk(manager, agent, 20)

    again = new_manager()
    with command_counter.counting() as log:
        restored = new_agent(again, conversation_manager=SlidingWindowConversationManager(window_size=4))

    assert log.names == ["aggregate"]
    assert restored.messages == agent.messages


def test_a_whole_history_restores_across_the_boundary(new_manager: NewManager, new_agent: NewAgent) -> None:
    manager = new_manager()
    agent = new_agent(manager, **keeping_all())
    talk(manager, agent, 20)

    restored = new_agent(new_manager(), **keeping_all())
    assert restored.messages == agent.messages

    restored("and on")
    assert new_agent(new_manager(), **keeping_all()).messages == restored.messages


def test_moving_is_behind_the_append_and_costs_no_more_writes(
    new_manager: NewManager, new_agent: NewAgent, command_counter: CommandCounter
) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    talk(manager, agent, 4)

    with command_counter.counting() as log:
        talk(manager, agent, 1, start=4)
        wait_for_indexes()

    appended = [c for c in log.commands if "$push" in str(c.document) and "segments" not in str(c.document)]
    assert len(appended) == 2
    assert sorted(set(log.names) - {"update"}) == ["aggregate", "createIndexes", "insert"]


def test_nothing_waits_for_the_index_of_a_first_move(
    new_manager: NewManager, new_agent: NewAgent, failing: Failing
) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    history = manager._agents.live()[0].history
    slow = {"blockConnection": True, "blockTimeMS": 2_000, "collection": "agent_sessions_segments"}
    talk(manager, agent, 3)
    with failing("createIndexes", **slow) as met:
        started = time.monotonic()
        assert history.move_oldest()
        talk(manager, agent, 1, start=3)
        assert time.monotonic() - started < 1
        wait_for_indexes()

    assert met == [1]


@pytest.mark.parametrize("fault", [{"errorCode": 50}, {"writeConcernError": {"code": 64, "errmsg": "late"}}], ids=str)
def test_a_move_without_an_answer_loses_and_doubles_nothing(
    new_manager: NewManager,
    new_agent: NewAgent,
    history: History,
    failing: Failing,
    fault: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    manager = new_manager()
    agent = new_agent(manager, **keeping_all())
    talk(manager, agent, 4)
    with failing("update", **fault):
        agent_history = manager._agents.live()[0].history
        agent_history.rollover.set_document_size(100, 1_000)  # so that eight messages are too many
        agent_history.rollover.move_quietly(agent_history.move_oldest)

    talk(manager, agent, 6, start=4)

    assert history() == agent.messages
    assert new_agent(new_manager(), **keeping_all()).messages == agent.messages
    assert "old messages were not moved" in caplog.text


def test_a_move_that_meets_a_closed_client_is_no_warning(
    mongodb_uri: str, database: str, new_agent: NewAgent, caplog: pytest.LogCaptureFixture
) -> None:
    manager = MongoDBSessionManager("s-1", mongodb_uri, database)
    agent = new_agent(manager, **keeping_all())
    talk(manager, agent, 4)
    history = manager._agents.live()[0].history
    manager.close()
    history.rollover.set_document_size(100, 1_000_000)

    with caplog.at_level(logging.DEBUG, logger="mongodb_session_manager"):
        history.rollover.move_quietly(history.move_oldest)

    told = [record for record in caplog.records if "moves old messages" in record.getMessage()]
    assert [record.levelno for record in told] == [logging.DEBUG]
    assert all(record.levelno < logging.WARNING for record in caplog.records)


def test_a_segment_that_nobody_refers_to_is_invisible_and_goes_with_the_session(
    new_manager: NewManager, new_agent: NewAgent, history: History, failing: Failing, segments: Any
) -> None:
    manager = new_manager()
    agent = new_agent(manager, **keeping_all())
    talk(manager, agent, 4)
    with failing("update", errorCode=50), pytest.raises(PyMongoError):
        manager._agents.live()[0].history.move_oldest()
    assert segments.count_documents({"session_id": "s-1"}) == 1
    assert history() == agent.messages

    assert manager.delete_session()

    assert segments.count_documents({}) == 0


class Meanwhile(CommandListener):
    """Has something happen once, just before a command of some name is sent."""

    def __init__(self, name: str, act: Callable[[], object]) -> None:
        self._name, self._acts = name, [act]

    def started(self, event: CommandStartedEvent) -> None:
        if event.command_name == self._name and self._acts:
            self._acts.pop()()

    def succeeded(self, event: CommandSucceededEvent) -> None:
        pass

    def failed(self, event: CommandFailedEvent) -> None:
        pass


def test_of_two_movers_one_wins_and_the_other_cleans_up(
    new_manager: NewManager,
    new_agent: NewAgent,
    mongodb_uri: str,
    segments: Any,
    document: Callable[[], Any],
) -> None:
    first = new_manager()
    agent = new_agent(first, **keeping_all())
    for number in range(8):
        first.append_message(user(str(number)), agent)
    # Both have read the messages when the first of them moves these.
    listener = Meanwhile("insert", lambda: first._agents.live()[0].history.move_oldest())
    second = new_manager(connection_string=mongodb_uri, event_listeners=[listener])
    other = new_agent(second, **keeping_all())

    assert not second._agents.live()[0].history.move_oldest()

    assert segments.count_documents({}) == len(document()["segments"]) == 1
    other("I go on")
    assert [message["message_id"] for message in first.list_messages("default")] == list(range(10))


def test_who_was_restored_before_a_move_goes_on(new_manager: NewManager, new_agent: NewAgent, history: History) -> None:
    first = new_manager()
    agent = new_agent(first, **keeping_all())
    for number in range(8):
        first.append_message(user(str(number)), agent)
    second = new_manager()
    other = new_agent(second, **keeping_all())
    assert first._agents.live()[0].history.move_oldest()

    other("I was restored before")
    second.redact_latest_message(user("[hidden]"), other)

    assert [message["content"] for message in history()][:9] == [m["content"] for m in other.messages][:9]
    assert history()[-1]["content"] == [{"text": "[hidden]"}]
    with pytest.raises(SessionConflictError):
        agent("I am late")


def test_a_reader_in_between_sees_everything(new_manager: NewManager, new_agent: NewAgent) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    reader = new_manager()
    seen: list[list[int]] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.append([message["message_id"] for message in reader.list_messages("default")])

    thread = threading.Thread(target=read)
    thread.start()
    for number in range(100):
        manager.append_message(user(str(number)), agent)
    done.set()
    thread.join()

    assert len(seen) > 5
    assert all(ids == list(range(len(ids))) for ids in seen)


@pytest.mark.parametrize("moved", [False, True])
def test_a_redaction_reaches_segments_and_copies(
    new_manager: NewManager, new_agent: NewAgent, failing: Failing, everything: Callable[[], bytes], moved: bool
) -> None:
    manager = new_manager()
    agent = new_agent(manager, **keeping_all())
    prompt = user(SECRET)
    prompt["tracking_id"] = "t-1"
    agent.messages.append(prompt)
    manager.append_message(prompt, agent)
    for number in range(12 if moved else 6):
        manager.append_message(user(str(number)), agent)
    settle(manager)
    if not moved:  # a copy in a segment that nobody refers to
        with failing("update", errorCode=50), suppress(PyMongoError):
            manager._agents.live()[0].history.move_oldest()
    manager.append_message(prompt, agent)
    assert SECRET.encode() in everything()

    manager.redact_latest_message({**user("[hidden]"), "tracking_id": "t-1"}, agent)

    assert SECRET.encode() not in everything()
    found = [message["content"][0]["text"] for message in manager.list_messages("default")]
    assert found.count("[hidden]") == 2


def test_feedback_may_be_about_a_message_that_moved(new_manager: NewManager, new_agent: NewAgent) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    talk(manager, agent, 10)
    moved = manager.list_messages("default", 1)[0]

    manager.add_feedback({"rating": "up", "agent_id": "default", "message_id": moved["message_id"]})
    manager.add_feedback({"rating": "down", "tracking_id": moved["tracking_id"]})

    assert [feedback["rating"] for feedback in manager.get_feedbacks()] == ["up", "down"]


def test_a_moved_message_can_be_read_and_updated(new_manager: NewManager, new_agent: NewAgent) -> None:
    manager = new_manager()
    talk(manager, new_agent(manager), 10)
    repository = manager.session_repository
    record = repository.read_message("s-1", "default", 2)
    assert record is not None
    record.message = user("corrected")

    repository.update_message("s-1", "default", record)

    updated = repository.read_message("s-1", "default", 2)
    assert updated is not None
    assert updated.to_message()["content"] == [{"text": "corrected"}]
    assert repository.read_message("s-1", "default", 99) is None


@pytest.mark.limits(value_bytes=2**24, message_bytes=2**24)
def test_a_session_grows_beyond_the_limit_of_a_document(
    new_manager: NewManager, new_agent: NewAgent, history: History
) -> None:
    manager = new_manager()
    agent = new_agent(manager)

    for number in range(5):
        manager.append_message(user(str(number) * 7_000_000), agent)

    assert [message["content"][0]["text"][0] for message in history()] == list("01234")
    with pytest.raises(SessionTooLargeError):
        manager.append_message({**user("Hi"), "metadata": {"custom": {"large": "x" * 17_000_000}}}, agent)
    manager.append_message(user("small"), agent)
    assert len(history()) == 6


def test_a_history_of_the_first_version_moves_too(
    new_manager: NewManager, new_agent: NewAgent, observer: Client, database: str, document: Callable[[], Any]
) -> None:
    messages = [{"message_id": n, "message": user(str(n)), "redact_message": None} for n in range(20)]
    window = {"__name__": "SlidingWindowConversationManager", "removed_message_count": 0}
    data = {"agent_id": "default", "state": {}, "conversation_manager_state": window}
    agents = {"default": {"agent_data": data, "messages": messages}}
    observer[database].agent_sessions.insert_one({"_id": "s-1", "session_id": "s-1", "agents": agents})
    manager = new_manager()

    talk(manager, new_agent(manager), 1)

    assert len(document()["messages"]) <= 10
    assert [message["message_id"] for message in manager.list_messages("default")] == list(range(22))
