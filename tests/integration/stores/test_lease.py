"""One manager at a time as the only writer of a session: taken, waited for, given back, lost."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from typing import Any

import mongomock
import pytest
from pymongo import MongoClient
from pymongo.errors import AutoReconnect, OperationFailure, PyMongoError, WriteConcernError
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent
from strands import Agent
from strands.multiagent import GraphBuilder
from strands.types.content import Message
from strands.types.session import SessionAgent, SessionMessage

from mongodb_session_manager import MongoDBSessionManager, SessionConflictError, SessionLockedError
from mongodb_session_manager._schema import ids
from mongodb_session_manager.errors import SchemaVersionError
from mongodb_session_manager.testing import CommandCounter, ScriptedModel
from tests.aliases import Failing, History, NewAgent, NewManager, Stored
from tests.faults.fault import CLOSED, UNCONFIRMED
from tests.integration.history.writes import WRITES, Act, every_write
from tests.talking import every_durability, texts, user
from tests.watching import eventually

EXCLUSIVE: dict[str, Any] = {"exclusive": True, "lease_timeout": 0}

every_doubt = pytest.mark.parametrize(
    ("fault", "error"), [(CLOSED, AutoReconnect), (UNCONFIRMED, WriteConcernError)], ids=["closed", "applied"]
)


class Clock:
    """The library's clock, which a test sets forward."""

    def __init__(self) -> None:
        self._ahead = timedelta()

    def now(self, zone: timezone = timezone.utc) -> datetime:
        return datetime.now(zone) + self._ahead

    def forward(self, seconds: float) -> None:
        self._ahead += timedelta(seconds=seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(ids, "datetime", clock)
    return clock


@pytest.fixture
def holder(new_manager: NewManager) -> MongoDBSessionManager:
    return new_manager(**EXCLUSIVE)


# Taking and giving back


def test_a_session_says_whose_it_is(new_manager: NewManager, stored: Stored) -> None:
    before = ids.now()
    manager = new_manager(exclusive=True, lease_duration=60)

    lease = stored()["lease"]
    assert set(lease) == {"owner", "expires_at"}
    assert before + timedelta(seconds=60) <= lease["expires_at"] <= ids.now() + timedelta(seconds=60)

    manager.close()
    assert "lease" not in stored()


def test_an_ordinary_session_has_no_lease(new_manager: NewManager, new_agent: NewAgent, stored: Stored) -> None:
    manager = new_manager()
    new_agent(manager)("Hi")

    assert "lease" not in stored()


@pytest.mark.parametrize("exists", [True, False])
def test_a_second_one_is_refused(
    new_manager: NewManager, new_agent: NewAgent, stored: Stored, command_counter: CommandCounter, exists: bool
) -> None:
    if exists:
        with new_manager() as manager:
            new_agent(manager)("Before")
    new_manager(**EXCLUSIVE)
    before = stored()

    with command_counter.counting() as log, pytest.raises(SessionLockedError, match=r"'s-1'.*lease_timeout") as caught:
        new_manager(**EXCLUSIVE)

    assert isinstance(caught.value, SessionConflictError)
    assert (caught.value.session_id, caught.value.agent_id, caught.value.pending) == ("s-1", None, [])
    # The second try is for two first requests at once, which the server answers in the same way.
    assert log.names == ["update"] * 2
    assert stored() == before


def test_a_second_one_gets_it_when_the_first_has_closed(new_manager: NewManager, stored: Stored) -> None:
    new_manager(**EXCLUSIVE).close()

    second = new_manager(**EXCLUSIVE)

    assert "lease" in stored()
    second.close()
    assert "lease" not in stored()


def test_a_second_one_waits(
    new_manager: NewManager, new_agent: NewAgent, history: History, command_counter: CommandCounter
) -> None:
    first = new_manager(**EXCLUSIVE)
    agent = new_agent(first)

    def wait() -> None:
        with new_manager(exclusive=True, lease_timeout=60) as manager:
            new_agent(manager)("Second")

    with ThreadPoolExecutor(1) as threads, command_counter.counting() as log:
        waiting = threads.submit(wait)
        assert eventually(lambda: log.names.count("update") >= 3)
        agent("First")
        first.close()
        waiting.result()

    assert texts(history()) == ["First", "Okay.", "Second", "Okay."]


def test_waiting_ends(holder: MongoDBSessionManager, new_manager: NewManager) -> None:
    started = time.monotonic()

    with pytest.raises(SessionLockedError):
        new_manager(exclusive=True, lease_timeout=0.3)

    assert time.monotonic() - started >= 0.3


def test_other_sessions_are_free(holder: MongoDBSessionManager, new_manager: NewManager, stored: Stored) -> None:
    new_manager("s-2", **EXCLUSIVE)

    assert stored("s-2")["lease"]["owner"] != stored()["lease"]["owner"]


def test_closing_twice_is_closing_once(new_manager: NewManager, stored: Stored) -> None:
    first = new_manager(**EXCLUSIVE)
    first.close()
    new_manager(**EXCLUSIVE)

    first.close()

    assert "lease" in stored()


def test_what_is_pending_is_sent_before_it_is_given_back(
    new_manager: NewManager, new_agent: NewAgent, history: History, stored: Stored, failing: Failing
) -> None:
    manager = new_manager(**EXCLUSIVE)
    agent = new_agent(manager)
    with failing("update", errorCode=13), pytest.raises(OperationFailure):
        agent("Hi")

    manager.close()

    assert texts(history()) == ["Hi"]
    assert "lease" not in stored()


def test_one_that_cannot_be_given_back_expires(
    new_manager: NewManager, failing: Failing, caplog: pytest.LogCaptureFixture, clock: Clock
) -> None:
    manager = new_manager(**EXCLUSIVE)
    with failing("update", errorCode=13):
        manager.close()

    assert "session_id=<s-1>, error=<OperationFailure> | the lease was not released" in caplog.text
    with pytest.raises(SessionLockedError):
        new_manager(**EXCLUSIVE)
    clock.forward(31)
    new_manager(**EXCLUSIVE)


@pytest.mark.limits(close_timeout=0.2)
def test_closing_waits_no_longer_than_it_has(
    new_manager: NewManager, failing: Failing, caplog: pytest.LogCaptureFixture
) -> None:
    manager = new_manager(**EXCLUSIVE)

    with failing("update", blockConnection=True, blockTimeMS=2500):
        started = time.monotonic()
        manager.close()
        elapsed = time.monotonic() - started

    assert "the lease was not released" in caplog.text
    assert elapsed < 2.4


@every_doubt
def test_a_manager_that_was_not_made_leaves_no_lease(
    new_manager: NewManager, stored: Stored, failing: Failing, fault: dict[str, Any], error: type[PyMongoError]
) -> None:
    new_manager().close()

    # The driver tries once more; giving the lease back goes through, or is applied too.
    with failing("update", mode={"times": 2}, **fault), pytest.raises(error):
        new_manager(**EXCLUSIVE)

    assert "lease" not in stored()
    new_manager(**EXCLUSIVE)


def test_a_hook_that_fails_leaves_no_lease(new_manager: NewManager, stored: Stored) -> None:
    class Hook:
        def __call__(self, original_func: Callable[..., Any], action: str, session_id: str, **kwargs: Any) -> Any:
            return original_func()

        def bind(self, manager: MongoDBSessionManager) -> None:
            assert "lease" in stored()
            raise KeyError("a bug")

    with pytest.raises(KeyError):
        new_manager(metadata_hook=Hook(), **EXCLUSIVE)

    assert "lease" not in stored()


def test_a_session_of_a_newer_version_gets_no_lease(
    new_manager: NewManager, stored: Stored, observer: MongoClient[dict[str, Any]], database: str
) -> None:
    observer[database].agent_sessions.insert_one({"_id": "s-1", "schema_version": 99})

    with pytest.raises(SchemaVersionError):
        new_manager(**EXCLUSIVE)

    assert stored() == {"_id": "s-1", "schema_version": 99}


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"exclusive": 1}, TypeError),
        ({"exclusive": "yes"}, TypeError),
        ({"lease_timeout": True}, TypeError),
        ({"lease_timeout": "10"}, TypeError),
        ({"lease_timeout": None}, TypeError),
        ({"lease_timeout": -1}, ValueError),
        ({"lease_timeout": float("nan")}, ValueError),
        ({"lease_timeout": float("inf")}, ValueError),
        ({"lease_duration": False}, TypeError),
        ({"lease_duration": timedelta(seconds=1)}, TypeError),
        ({"lease_duration": 0}, ValueError),
        ({"lease_duration": -0.5}, ValueError),
        ({"lease_duration": 1e12}, ValueError),
    ],
)
@pytest.mark.parametrize("exclusive", [True, False])
def test_bad_arguments_reach_no_server(
    new_manager: NewManager,
    command_counter: CommandCounter,
    options: dict[str, Any],
    error: type[Exception],
    exclusive: bool,
) -> None:
    with pytest.raises(error, match=next(iter(options))):
        new_manager(**{"exclusive": exclusive, **options})

    assert command_counter.names == []


# Operations


def test_it_costs_one_operation_at_the_end_and_one_where_the_session_exists(
    new_manager: NewManager, new_agent: NewAgent, command_counter: CommandCounter
) -> None:
    new_manager("another session")
    for restored in (False, True):
        command_counter.clear()
        manager = new_manager(**EXCLUSIVE)
        agent = new_agent(manager)
        agent("Hi")
        manager.sync_agent(agent)
        manager.close()
        opened = ["update", "find", "aggregate"] if restored else ["update", "update"]
        assert command_counter.names == [*opened, "update", "update", "update"]


def test_an_ordinary_one_costs_nothing_more(
    new_manager: NewManager, new_agent: NewAgent, command_counter: CommandCounter
) -> None:
    new_manager("another session")
    command_counter.clear()

    with new_manager() as manager:
        new_agent(manager)("Hi")

    assert command_counter.names == ["findAndModify", "update", "update", "update"]


# Renewal


@every_write
def test_a_write_renews(new_manager: NewManager, new_agent: NewAgent, stored: Stored, clock: Clock, act: Act) -> None:
    manager = new_manager(**EXCLUSIVE)
    agent = new_agent(manager)
    agent("First")
    before = stored()["lease"]
    clock.forward(20)

    act(manager, agent)

    after = stored()["lease"]
    assert after["owner"] == before["owner"]
    assert after["expires_at"] - before["expires_at"] >= timedelta(seconds=20)


def test_what_is_no_history_does_not_renew(
    new_manager: NewManager, new_agent: NewAgent, stored: Stored, clock: Clock
) -> None:
    manager = new_manager(**EXCLUSIVE)
    new_agent(manager)
    before = stored()["lease"]
    clock.forward(20)

    manager.update_metadata({"a": 1})
    manager.delete_metadata(["a"])
    manager.add_feedback({"rating": "up"})
    manager.update_agent_config("default", model="m")
    manager.list_messages("default")

    assert stored()["lease"] == before


@every_write
def test_an_expired_lease_that_nobody_took_goes_on(
    new_manager: NewManager, new_agent: NewAgent, stored: Stored, clock: Clock, act: Act
) -> None:
    manager = new_manager(**EXCLUSIVE)
    agent = new_agent(manager)
    agent("First")
    clock.forward(3600)

    act(manager, agent)

    assert stored()["lease"]["expires_at"] > clock.now()


# Fencing


@pytest.fixture
def late(new_manager: NewManager, new_agent: NewAgent) -> tuple[MongoDBSessionManager, Agent]:
    """A holder that has stored one turn, and will be away for longer than its lease lasts."""
    manager = new_manager(**EXCLUSIVE)
    agent = new_agent(manager)
    agent("First")
    return manager, agent


@every_write
@pytest.mark.parametrize("exclusive", [True, False])
def test_who_was_away_too_long_is_refused(
    late: tuple[MongoDBSessionManager, Agent],
    new_manager: NewManager,
    new_agent: NewAgent,
    history: History,
    clock: Clock,
    act: Act,
    exclusive: bool,
) -> None:
    clock.forward(31)
    winner = new_agent(new_manager(exclusive=exclusive, lease_timeout=0))
    winner("Second")

    with pytest.raises(SessionLockedError, match=r"'s-1'.*lease_duration"):
        act(*late)

    assert history() == winner.messages
    winner("Third")
    assert history() == winner.messages


@every_write
@pytest.mark.parametrize("released", [True, False])
def test_who_was_away_too_long_is_refused_though_nothing_was_written(
    late: tuple[MongoDBSessionManager, Agent], new_manager: NewManager, clock: Clock, act: Act, released: bool
) -> None:
    clock.forward(31)
    other = new_manager(**EXCLUSIVE)
    if released:
        other.close()

    with pytest.raises(SessionLockedError):
        act(*late)


def test_the_error_holds_what_is_not_stored(
    late: tuple[MongoDBSessionManager, Agent],
    new_manager: NewManager,
    command_counter: CommandCounter,
    clock: Clock,
) -> None:
    manager, agent = late
    clock.forward(31)
    new_manager(**EXCLUSIVE)

    with pytest.raises(SessionLockedError) as caught:
        agent("Too late")
    assert texts(caught.value.pending) == ["Too late"]
    assert manager.health == {"ok": False, "pending": 0, "last_error": "SessionLockedError"}

    with command_counter.counting() as log:
        for act in WRITES.values():
            with pytest.raises(SessionLockedError) as again:
                act(manager, agent)
            assert again.value is caught.value
    assert log.names == []
    assert texts(caught.value.pending) == ["Too late"]


def test_who_was_away_too_long_does_not_release_what_is_anothers(
    late: tuple[MongoDBSessionManager, Agent], new_manager: NewManager, stored: Stored, clock: Clock
) -> None:
    clock.forward(31)
    new_manager(**EXCLUSIVE)
    before = stored()

    late[0].close()

    assert stored() == before


@every_durability
@pytest.mark.parametrize("on_error", ["raise", "degrade"])
def test_a_lock_is_raised_under_each_durability(
    new_manager: NewManager,
    new_agent: NewAgent,
    history: History,
    clock: Clock,
    durability: str,
    on_error: str,
) -> None:
    options = {"durability": durability, "on_error": on_error}
    late = new_agent(new_manager(**EXCLUSIVE, **options))
    late("First")
    clock.forward(31)
    winner = new_agent(new_manager(**EXCLUSIVE))
    winner("Second")

    with pytest.raises(SessionLockedError) as caught:
        late("Too late")

    assert type(caught.value) is SessionLockedError  # not wrapped by the SDK
    assert history() == winner.messages


def test_a_lease_that_is_lost_in_mid_turn_is_raised_raw(
    new_manager: NewManager, new_agent: NewAgent, history: History, clock: Clock
) -> None:
    def meanwhile(messages: list[Message]) -> str:
        clock.forward(31)
        new_agent(new_manager(**EXCLUSIVE))("I took over")
        return "Too late."

    loser = new_agent(new_manager(**EXCLUSIVE), meanwhile)

    with pytest.raises(SessionLockedError) as caught:
        loser("Hi")

    assert type(caught.value) is SessionLockedError
    assert texts(caught.value.pending) == ["Too late."]
    assert texts(history()) == ["Hi", "I took over", "Okay."]


HOLD = """
import os, signal, sys
from mongodb_session_manager import MongoDBSessionManager
from mongodb_session_manager.testing import ScriptedModel
from strands import Agent
manager = MongoDBSessionManager("s-1", sys.argv[1], sys.argv[2], exclusive=True, lease_duration=1.5)
Agent(model=ScriptedModel(["Okay."]), session_manager=manager, callback_handler=None)("From a child")
print("held", flush=True)
if sys.argv[3] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("how", ["killed", "forgotten"])
def test_a_process_that_is_gone_leaves_the_session_when_its_lease_expires(
    how: str, mongodb_uri: str, database: str, new_manager: NewManager, new_agent: NewAgent, history: History
) -> None:
    command = [sys.executable, "-W", "ignore", "-c", HOLD, mongodb_uri, database, how]
    child = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (child.returncode == 0, child.stdout) == (how == "forgotten", "held\n"), child.stderr

    manager = new_manager(exclusive=True, lease_timeout=60)
    new_agent(manager)("Taken over")

    assert texts(history()) == ["From a child", "Okay.", "Taken over", "Okay."]


# Managers without a lease


@every_write
def test_others_are_refused_while_it_is_held(
    new_manager: NewManager, new_agent: NewAgent, history: History, stored: Stored, act: Act
) -> None:
    other = new_manager()
    agent = new_agent(other)
    agent("First")
    owner = new_agent(new_manager(**EXCLUSIVE))
    before = stored()

    with pytest.raises(SessionLockedError, match=r"'s-1'.*exclusive=True") as caught:
        act(other, agent)

    assert stored() == before
    with pytest.raises(SessionLockedError) as again:
        agent("And now?")
    assert again.value is caught.value
    owner("Second")
    assert history() == owner.messages


@every_durability
@pytest.mark.parametrize("on_error", ["raise", "degrade"])
def test_others_are_refused_under_each_durability(
    new_manager: NewManager, new_agent: NewAgent, stored: Stored, durability: str, on_error: str
) -> None:
    agent = new_agent(new_manager(durability=durability, on_error=on_error))
    new_manager(**EXCLUSIVE)
    before = stored()

    with pytest.raises(SessionLockedError) as caught:
        agent("Hi")

    assert type(caught.value) is SessionLockedError
    assert texts(caught.value.pending)[0] == "Hi"
    assert stored() == before


@pytest.mark.parametrize("ahead", [True, False])
def test_a_new_agent_of_others_is_refused(
    holder: MongoDBSessionManager, new_manager: NewManager, new_agent: NewAgent, stored: Stored, ahead: bool
) -> None:
    before = stored()
    manager = new_manager()

    def make() -> None:
        if ahead:
            manager.prefetch(["default"])
        new_agent(manager)("Hi")

    with pytest.raises(SessionLockedError) as caught:
        make()

    assert texts(caught.value.pending) == (["Hi"] if ahead else [])
    assert stored() == before


def test_others_read_and_write_what_is_no_history(
    new_manager: NewManager, new_agent: NewAgent, stored: Stored, history: History
) -> None:
    owner = new_agent(new_manager(**EXCLUSIVE))
    owner("Hi")
    lease = stored()["lease"]

    other = new_manager()
    other.update_metadata({"a": 1, "b": 2})
    other.delete_metadata(["b"])
    other.add_feedback({"rating": "up", "agent_id": "default", "message_id": 1})
    other.update_agent_config("default", model="m")
    reader = new_agent(other)

    assert reader.messages == owner.messages
    assert (other.get_metadata(), len(other.get_feedbacks())) == ({"metadata": {"a": 1}}, 1)
    assert (other.get_message_count("default"), len(other.list_messages("default"))) == (2, 2)
    other.close()
    assert stored()["lease"] == lease
    owner("Goes on")
    assert history() == owner.messages


@pytest.mark.parametrize("exclusive", [True, False])
def test_anybody_may_delete_the_session(
    holder: MongoDBSessionManager, new_manager: NewManager, stored: Stored, exclusive: bool
) -> None:
    manager = holder if exclusive else new_manager()

    assert manager.delete_session()
    assert stored() is None
    holder.close()
    assert stored() is None


@every_write
def test_an_expired_lease_stops_nobody(
    new_manager: NewManager, new_agent: NewAgent, history: History, stored: Stored, clock: Clock, act: Act
) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    agent("First")
    owner = new_agent(new_manager(**EXCLUSIVE))
    clock.forward(31)

    act(manager, agent)

    assert "lease" not in stored()
    with pytest.raises(SessionLockedError):
        owner("Too late")
    agent("Goes on")
    assert texts(history())[-2:] == ["Goes on", "Okay."]


def test_an_expired_lease_is_no_way_around_the_guard(
    new_manager: NewManager, new_agent: NewAgent, history: History, clock: Clock
) -> None:
    agent = new_agent(new_manager())
    owner = new_agent(new_manager(**EXCLUSIVE))
    owner("First")
    clock.forward(31)

    with pytest.raises(SessionConflictError) as caught:
        agent("Too late")

    assert type(caught.value) is SessionConflictError
    assert texts(caught.value.pending) == ["Too late"]
    assert history() == owner.messages


def test_a_lease_that_was_given_back_stops_nobody(
    new_manager: NewManager, new_agent: NewAgent, history: History
) -> None:
    agent = new_agent(new_manager())
    new_manager(**EXCLUSIVE).close()

    agent("Hi")

    assert history() == agent.messages


class Meanwhile(CommandListener):
    """Does something once: after the next write, and just before the driver sends the look that follows it."""

    def __init__(self, act: Callable[[], None] | None = None) -> None:
        self._wrote = False
        self.act = act

    def do(self, act: Callable[[], None]) -> None:
        self._wrote, self.act = False, act

    def started(self, event: CommandStartedEvent) -> None:
        if self.act and self._wrote and event.command_name == "aggregate":
            self.act()
            self.act = None
        self._wrote = event.command_name == "update"

    def succeeded(self, event: CommandSucceededEvent) -> None: ...

    def failed(self, event: CommandFailedEvent) -> None: ...


@pytest.mark.parametrize("act", [WRITES["append"], WRITES["sync"], WRITES["redact"]], ids=["append", "sync", "redact"])
def test_a_lease_that_is_given_back_while_the_writer_looks(
    new_manager: NewManager, new_agent: NewAgent, stored: Stored, mongodb_uri: str, act: Act
) -> None:
    listener = Meanwhile()
    with MongoClient[dict[str, Any]](mongodb_uri, event_listeners=[listener]) as client:
        manager = new_manager(client=client)
        agent = new_agent(manager)
        agent("First")
        listener.do(new_manager(**EXCLUSIVE).close)
        revision = stored()["agents"]["default"]["guard"]["revision"]

        act(manager, agent)

    assert listener.act is None
    agents = stored()["agents"]["default"]
    assert agents["guard"]["revision"] == revision + 1
    if act is WRITES["redact"]:
        assert agents["messages"][-1]["content"] == [{"text": "…"}]


VERBS: dict[str, Callable[[Any, str], Any]] = {
    "create_agent": lambda repository, text: repository.create_agent("s-1", SessionAgent(text, {}, {}, {})),
    "update_agent": lambda repository, _: repository.update_agent("s-1", SessionAgent("default", {"b": 1}, {}, {})),
    "create_message": lambda repository, text: repository.create_message(
        "s-1", "default", SessionMessage.from_message(user(text), 2)
    ),
    "update_message": lambda repository, text: repository.update_message(
        "s-1", "default", SessionMessage.from_message(user(text), 0)
    ),
    "redact_message": lambda repository, text: repository.update_message(
        "s-1", "default", SessionMessage(user(text), 0, user("…"))
    ),
}


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_the_verbs_of_the_sdk_are_under_the_lease(
    new_manager: NewManager, new_agent: NewAgent, stored: Stored, clock: Clock, verb: Callable[[Any, str], Any]
) -> None:
    owner = new_manager(**EXCLUSIVE)
    new_agent(owner)("Hi")
    other = new_manager()
    before = stored()

    with pytest.raises(SessionLockedError):
        verb(other.session_repository, "One")
    assert stored() == before

    clock.forward(20)
    verb(owner.session_repository, "Two")
    assert stored()["agents"] != before["agents"]
    assert stored()["lease"]["expires_at"] - before["lease"]["expires_at"] >= timedelta(seconds=20)


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_an_expired_lease_does_not_stop_the_verbs_of_the_sdk(
    new_manager: NewManager, new_agent: NewAgent, stored: Stored, clock: Clock, verb: Callable[[Any, str], Any]
) -> None:
    with new_manager() as manager:
        new_agent(manager)("Hi")
    owner = new_manager(**EXCLUSIVE)
    before = stored()
    clock.forward(31)

    verb(new_manager().session_repository, "One")

    assert stored()["agents"] != before["agents"]
    assert "lease" not in stored()
    with pytest.raises(SessionLockedError):
        verb(owner.session_repository, "Two")


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_a_lease_that_is_given_back_while_a_verb_of_the_sdk_looks(
    new_manager: NewManager, new_agent: NewAgent, stored: Stored, mongodb_uri: str, verb: Callable[[Any, str], Any]
) -> None:
    with new_manager() as manager:
        new_agent(manager)("Hi")
    before = stored()
    holder = new_manager(**EXCLUSIVE)

    with MongoClient[dict[str, Any]](mongodb_uri, event_listeners=[Meanwhile(holder.close)]) as client:
        verb(new_manager(client=client).session_repository, "One")

    assert stored()["agents"] != before["agents"]


def test_a_message_that_was_stored_is_recognised_under_anothers_lease(
    new_manager: NewManager, history: History
) -> None:
    message = SessionMessage.from_message({**user("Hi"), "tracking_id": "t-1"}, 0)
    repository = new_manager().session_repository
    repository.create_agent("s-1", SessionAgent("default", {}, {}, {}))
    repository.create_message("s-1", "default", message)
    new_manager(**EXCLUSIVE)

    repository.create_message("s-1", "default", message)

    assert texts(history()) == ["Hi"]


# Graphs


def a_graph(manager: MongoDBSessionManager | None = None) -> Any:
    builder = GraphBuilder().set_execution_timeout(60)
    builder.add_node(Agent(name="first", model=ScriptedModel(default="Done."), callback_handler=None), "first")
    if manager is not None:
        builder.set_session_manager(manager)
    return builder.build()


def test_the_state_of_a_graph_is_under_the_lease(new_manager: NewManager, stored: Stored, clock: Clock) -> None:
    owner, other, graph = new_manager(**EXCLUSIVE), new_manager(), a_graph()
    with pytest.raises(SessionLockedError):
        other.initialize_multi_agent(graph)

    clock.forward(20)
    owner.initialize_multi_agent(graph)
    owner.sync_multi_agent(graph)
    before = stored()
    assert before["lease"]["expires_at"] >= clock.now() + timedelta(seconds=29)

    other.initialize_multi_agent(a_graph())  # reads
    with pytest.raises(SessionLockedError):
        other.sync_multi_agent(graph)
    assert stored() == before

    clock.forward(31)
    other.sync_multi_agent(graph)
    assert "lease" not in stored()
    with pytest.raises(SessionLockedError):
        owner.sync_multi_agent(graph)


@pytest.mark.parametrize("on_error", ["raise", "degrade"])
def test_a_running_graph_of_others_is_refused(new_manager: NewManager, stored: Stored, on_error: str) -> None:
    graph = a_graph(new_manager(on_error=on_error))
    new_manager(**EXCLUSIVE)
    before = stored()

    with pytest.raises(SessionLockedError):
        graph("Hi")

    assert stored() == before


# Moving and mending


@pytest.mark.limits(kept_messages=4)
def test_old_messages_move_under_the_lease_only(
    new_manager: NewManager,
    new_agent: NewAgent,
    stored: Stored,
    history: History,
    observer: MongoClient[dict[str, Any]],
    database: str,
) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    for turn in range(4):
        agent(f"Turn {turn}")
    owner = new_manager(**EXCLUSIVE)
    owners = new_agent(owner)

    assert not manager._agents.live()[0].history.move_oldest()
    assert observer[database].agent_sessions_segments.count_documents({}) == 0
    assert owner._agents.live()[0].history.move_oldest()

    assert stored()["agents"]["default"]["moved_count"] == 4
    owners("Goes on")
    assert history() == owners.messages


def broken(manager: MongoDBSessionManager, new_agent: NewAgent) -> None:
    """Leave a tool call without its result, as a holder does that is in the middle of a turn."""
    agent = new_agent(manager)
    manager.append_message(user("Hi"), agent)
    block: Any = {"toolUse": {"toolUseId": "t-1", "name": "look_up", "input": {}}}
    manager.append_message({"role": "assistant", "content": [block]}, agent)
    manager.append_message(user("And?"), agent)


def test_a_broken_history_is_mended_in_memory_whoever_holds_the_lease(
    new_manager: NewManager, new_agent: NewAgent, stored: Stored
) -> None:
    broken(new_manager(**EXCLUSIVE), new_agent)
    before = stored()

    assert len(new_agent(new_manager()).messages) == 4
    assert stored() == before


# Writes without an answer


@every_doubt
@every_durability
def test_a_doubtful_write_under_the_lease_loses_nothing(
    new_manager: NewManager,
    new_agent: NewAgent,
    history: History,
    failing: Failing,
    fault: dict[str, Any],
    error: type[PyMongoError],
    durability: str,
) -> None:
    manager = new_manager(**EXCLUSIVE, durability=durability)
    agent = new_agent(manager)
    with failing("update", **fault), pytest.raises(error):
        agent("One")

    agent("Two")

    assert history() == agent.messages
    assert texts(history())[-2:] == ["Two", "Okay."]


@pytest.mark.parametrize("act", [WRITES["append"], WRITES["sync"]], ids=["append", "sync"])
@pytest.mark.parametrize("exclusive", [True, False])
def test_a_write_of_our_own_that_had_arrived_is_recognised_under_anothers_lease(
    new_manager: NewManager,
    new_agent: NewAgent,
    stored: Stored,
    failing: Failing,
    clock: Clock,
    act: Act,
    exclusive: bool,
) -> None:
    manager = new_manager(exclusive=exclusive)
    agent = new_agent(manager)
    with failing("update", **UNCONFIRMED), pytest.raises(WriteConcernError):
        act(manager, agent)
    clock.forward(31)
    new_manager(**EXCLUSIVE)
    before = stored()

    manager.flush()

    assert manager.health["pending"] == 0
    assert stored() == before
    with pytest.raises(SessionLockedError) as caught:
        agent("Too late")
    assert texts(caught.value.pending) == ["Too late"]


# mongomock speaks the same dialect


def test_on_mongomock(new_agent: NewAgent, clock: Clock) -> None:
    client: Any = mongomock.MongoClient()

    def manager(**options: Any) -> MongoDBSessionManager:
        return MongoDBSessionManager("s-1", client=client, **options)

    first = manager(**EXCLUSIVE)
    agent = new_agent(first)
    agent("First")
    with pytest.raises(SessionLockedError):
        manager(**EXCLUSIVE)
    with pytest.raises(SessionLockedError):
        new_agent(manager())("Refused")
    clock.forward(31)
    other = new_agent(manager())
    other("Second")
    with pytest.raises(SessionLockedError):
        agent("Too late")
    clock.forward(31)
    third = manager(**EXCLUSIVE)
    assert texts(new_agent(third).messages) == ["First", "Okay.", "Second", "Okay."]
    third.close()
    manager(**EXCLUSIVE)


# All at once


def test_twenty_at_once_take_turns(new_manager: NewManager, new_agent: NewAgent, history: History) -> None:
    inside: set[int] = set()
    most = 0

    def converse(number: int) -> None:
        nonlocal most
        with new_manager(exclusive=True, lease_timeout=120, lease_duration=120) as manager:
            inside.add(number)
            most = max(most, len(inside))
            new_agent(manager)(f"Prompt {number}")
            inside.remove(number)

    with ThreadPoolExecutor(20) as threads:
        list(threads.map(converse, range(20)))

    assert most == 1
    said = texts(history())
    assert sorted(said[::2]) == sorted(f"Prompt {number}" for number in range(20))
    assert said[1::2] == ["Okay."] * 20


def test_of_many_first_requests_at_once_one_gets_it(new_manager: NewManager, stored: Stored) -> None:
    barrier = threading.Barrier(10)

    def take(session_id: str) -> bool:
        barrier.wait()
        with suppress(SessionLockedError):
            new_manager(session_id, **EXCLUSIVE)
            return True
        return False

    with ThreadPoolExecutor(10) as threads:
        for round_number in range(5):
            taken = list(threads.map(take, [f"s-{round_number}"] * 10))
            assert taken.count(True) == 1


class HandOver(CommandListener):
    """Has a lease change hands around the first look: its holder gives it back before, the next one takes it after."""

    def __init__(self) -> None:
        self.before: list[Callable[[], object]] = []
        self.after: list[Callable[[], object]] = []

    def started(self, event: CommandStartedEvent) -> None:
        if event.command_name == "aggregate" and self.before:
            self.before.pop()()

    def succeeded(self, event: CommandSucceededEvent) -> None:
        if event.command_name == "aggregate" and self.after:
            self.after.pop()()

    def failed(self, event: CommandFailedEvent) -> None: ...


@pytest.mark.parametrize("ahead", [False, True], ids=["made", "read ahead"])
def test_a_lease_that_changes_hands_while_an_agent_is_made(
    new_manager: NewManager, new_agent: NewAgent, mongodb_uri: str, ahead: bool
) -> None:
    listener = HandOver()
    with MongoClient[dict[str, Any]](mongodb_uri, event_listeners=[listener]) as client:
        manager = new_manager(client=client)
        if ahead:
            manager.prefetch(["default"])
        listener.before = [new_manager(**EXCLUSIVE).close]
        listener.after = [lambda: new_manager(**EXCLUSIVE)]

        with pytest.raises(SessionLockedError):
            new_agent(manager)("Hello")

    assert listener.after == []
