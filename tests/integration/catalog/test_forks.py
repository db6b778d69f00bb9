"""Forks: whole, at every place of a history, and while the session is written; each goes on by itself."""

import itertools
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from typing import Any

import bson
import pytest
from bson import ObjectId
from pymongo.errors import PyMongoError
from strands import Agent
from strands.agent.conversation_manager import SlidingWindowConversationManager, SummarizingConversationManager
from strands.multiagent import GraphBuilder

from mongodb_session_manager import MongoDBSessionManager, SessionCatalog
from mongodb_session_manager.errors import (
    MongoDBSessionError,
    SchemaVersionError,
    SessionConflictError,
    SessionNotFoundError,
)
from mongodb_session_manager.testing import CommandCounter, ScriptedModel
from mongodb_session_manager.types import ForkOrigin
from tests.aliases import Client, Document, Everything, Failing, Insert, NewAgent, NewManager, Stored
from tests.first_version import CONTENT, element, legacy, legacy_agent
from tests.integration.stores.test_new_lives import Interruption
from tests.talking import ASK, LOOK, ask, look_up, user

SESSION, FORK = "s-1", "fork"
LARGE = 263_000
SECRET = "my number is 555-0199"


def document(name: str) -> Any:
    return {"document": {"format": "pdf", "name": "report", "source": {"bytes": name.encode() * LARGE}}}


@pytest.fixture
def manager(new_manager: NewManager) -> MongoDBSessionManager:
    return new_manager(application_name="shop")


@pytest.fixture
def agent(manager: MongoDBSessionManager, new_agent: NewAgent) -> Agent:
    """Three turns, the second one with a tool: user's messages 0, 2 and 6, answers 1, 5 and 7."""
    agent = new_agent(manager, "One.", LOOK, "Two.", tools=[look_up], state={"language": "en"})
    for prompt in ("first", "second", "third"):
        agent(prompt)
    return agent


Children = Callable[[str], list[Any]]


@pytest.fixture
def children(observer: Client, database: str) -> Children:
    """The instances of the segments and files of a session."""

    def read(session_id: str) -> list[Any]:
        found = observer[database]
        segments = found["agent_sessions_segments"].find({"session_id": session_id})
        files = found["agent_sessions_files.files"].find({"metadata.session_id": session_id})
        return [segment["instance"] for segment in segments] + [file["metadata"]["instance"] for file in files]

    return read


def restored(new_manager: NewManager, session_id: str = FORK, **options: Any) -> Agent:
    model = ScriptedModel(default="Okay.")
    manager = new_manager(session_id)
    return Agent(model=model, session_manager=manager, callback_handler=None, tools=[look_up], **options)


# Whole


def test_a_fork_has_everything(
    catalog: SessionCatalog, manager: MongoDBSessionManager, agent: Agent, new_manager: NewManager, stored: Stored
) -> None:
    manager.update_metadata({"user": "ann", "a.b": 1})
    manager.add_feedback({"rating": "up"})
    before = stored()

    summary = catalog.fork(SESSION, FORK, metadata={"title": "Again", "a.c": 2})

    assert stored() == before
    fork = stored(FORK)
    assert summary.session_id == FORK
    assert summary.messages == 8
    assert summary.application_name == "shop"
    assert summary.metadata == {"user": "ann", "a": {"b": 1, "c": 2}, "title": "Again"}
    assert summary.forked_from == ForkOrigin(session_id=SESSION, at=fork["forked_from"]["at"])
    assert summary == catalog.list().items[0]
    assert summary.readable
    assert fork["feedbacks"] == []
    assert "feedback_counts" not in fork
    ours, theirs = fork["agents"]["default"], before["agents"]["default"]
    assert ours["messages"] == theirs["messages"]
    assert ours["agent_data"] == theirs["agent_data"]
    assert ours["guard"]["write_id"] != theirs["guard"]["write_id"]
    assert ours["guard"]["next_message_id"] == 8
    assert fork["instance"] not in (before["instance"], None)
    assert fork["created_at"] > before["created_at"]
    copy = restored(new_manager)
    assert copy.messages == agent.messages
    assert copy.state.get() == agent.state.get()


def test_both_go_on_by_themselves(
    catalog: SessionCatalog, agent: Agent, new_manager: NewManager, stored: Stored
) -> None:
    catalog.fork(SESSION, FORK)
    copy = restored(new_manager)

    copy("Only in the fork")
    agent("Only in the session")
    copy("Again")

    assert restored(new_manager).messages == copy.messages
    assert restored(new_manager, SESSION).messages == agent.messages
    assert len(copy.messages) == len(agent.messages) + 2


def test_a_random_id(catalog: SessionCatalog, agent: Agent, stored: Stored) -> None:
    one, other = catalog.fork(SESSION), catalog.fork(SESSION)

    assert len({one.session_id, other.session_id, SESSION}) == 3
    assert stored(other.session_id)["forked_from"]["session_id"] == SESSION


async def test_off_the_event_loop(catalog: SessionCatalog, agent: Agent) -> None:
    assert (await catalog.afork(SESSION, FORK, at=1)).messages == 2


def test_a_fork_of_a_fork(catalog: SessionCatalog, agent: Agent, new_manager: NewManager, stored: Stored) -> None:
    catalog.fork(SESSION, FORK, at=5)
    catalog.fork(FORK, "second fork", at=1)

    assert stored("second fork")["forked_from"]["session_id"] == FORK
    assert restored(new_manager, "second fork").messages == agent.messages[:2]


def test_an_empty_session(catalog: SessionCatalog, manager: MongoDBSessionManager) -> None:
    assert catalog.fork(SESSION, FORK).messages == 0


# At a place

ENDS = {0: 0, 1: 2, 2: 2, 5: 6, 6: 6, 7: 8}
NEAREST = {3: (2, 5), 4: (2, 5), 8: (7,), -1: (0,), 99: (7,)}


@pytest.mark.parametrize(("place", "end"), ENDS.items())
def test_a_place_between_two_turns(
    place: int, end: int, catalog: SessionCatalog, agent: Agent, new_manager: NewManager, stored: Stored
) -> None:
    summary = catalog.fork(SESSION, FORK, at=place)

    assert summary.messages == end
    assert summary.forked_from is not None
    assert (summary.forked_from.agent_id, summary.forked_from.message_id) == ("default", end - 1 if end else None)
    copy = restored(new_manager)
    assert copy.messages == agent.messages[:end]
    assert copy.state.get() == {"language": "en"}
    copy("On another way")
    assert restored(new_manager).messages == copy.messages
    ids = [message["message_id"] for message in stored(FORK)["agents"]["default"]["messages"]]
    assert ids == list(range(end + 2))


@pytest.mark.parametrize(("place", "nearest"), NEAREST.items())
def test_another_place_names_the_nearest(
    place: int, nearest: tuple[int, ...], catalog: SessionCatalog, agent: Agent, everything: Everything
) -> None:
    before = everything()

    with pytest.raises(ValueError, match=rf"nearest places are {' and '.join(map(str, nearest))}\."):
        catalog.fork(SESSION, FORK, at=place)

    assert everything() == before


@pytest.mark.parametrize("unfinished", ["prompt", "call"])
def test_without_a_place_the_last_complete_turn(
    unfinished: str, catalog: SessionCatalog, manager: MongoDBSessionManager, agent: Agent, new_manager: NewManager
) -> None:
    complete = list(agent.messages)
    manager.append_message(user("not answered yet"), agent)
    if unfinished == "call":
        manager.append_message({"role": "assistant", "content": [LOOK]}, agent)  # type: ignore[list-item]

    summary = catalog.fork(SESSION, FORK)

    assert summary.messages == 8
    assert summary.forked_from is not None
    assert summary.forked_from.message_id == 7
    assert restored(new_manager).messages == complete


def test_a_redacted_message_is_a_place(
    catalog: SessionCatalog, manager: MongoDBSessionManager, agent: Agent, new_manager: NewManager, stored: Stored
) -> None:
    agent.messages[-1]["content"] = [{"text": "[removed]"}]
    manager.redact_latest_message(agent.messages[-1], agent)

    catalog.fork(SESSION, FORK, at=7)
    assert len(stored(FORK)["guardrail_events"]) == 1
    assert restored(new_manager).messages == agent.messages

    catalog.fork(SESSION, "earlier", at=6)
    assert stored("earlier")["guardrail_events"] == []


# What belongs to the end


def test_a_cut_begins_with_the_whole_history(
    catalog: SessionCatalog,
    manager: MongoDBSessionManager,
    new_agent: NewAgent,
    new_manager: NewManager,
    stored: Stored,
) -> None:
    window = SlidingWindowConversationManager(window_size=4, pin_first=1)
    agent = new_agent(manager, conversation_manager=window)
    for number in range(6):
        agent(f"Turn {number}")
    manager.flush()

    catalog.fork(SESSION, FORK)
    again = SlidingWindowConversationManager(window_size=4, pin_first=1)
    assert restored(new_manager, conversation_manager=again).messages == agent.messages
    assert stored(FORK)["agents"]["default"]["live"] == stored()["agents"]["default"]["live"]

    catalog.fork(SESSION, "cut", at=3)
    found = stored("cut")["agents"]["default"]
    assert "live" not in found
    assert found["agent_data"]["conversation_manager_state"]["removed_message_count"] == 0
    wide = SlidingWindowConversationManager(window_size=40)
    texts = [message["content"][0] for message in restored(new_manager, "cut", conversation_manager=wide).messages]
    assert texts == [{"text": "Turn 0"}, {"text": "Okay."}, {"text": "Turn 1"}, {"text": "Okay."}]


def summarized(new_agent: NewAgent, manager: MongoDBSessionManager, *answers: str) -> Agent:
    """Return an agent of four turns, of which a summary stands for the older ones."""
    summarizing = SummarizingConversationManager(summary_ratio=0.5, preserve_recent_messages=2)
    agent = new_agent(manager, *answers, conversation_manager=summarizing)
    for number in range(4):
        agent(f"Turn {number}")
    summarizing.reduce_context(agent)
    manager.sync_agent(agent)
    return agent


def test_a_cut_has_no_summary(
    catalog: SessionCatalog,
    manager: MongoDBSessionManager,
    new_agent: NewAgent,
    new_manager: NewManager,
    stored: Stored,
) -> None:
    agent = summarized(new_agent, manager)
    agent._model_state["response_id"] = "r-1"
    manager.sync_agent(agent)

    catalog.fork(SESSION, FORK)
    own = SummarizingConversationManager(summary_ratio=0.5, preserve_recent_messages=2)
    assert restored(new_manager, conversation_manager=own).messages == agent.messages

    catalog.fork(SESSION, "cut", at=1)
    data = stored("cut")["agents"]["default"]["agent_data"]
    assert data["conversation_manager_state"]["summary_message"] is None
    assert data["_internal_state"]["model_state"] == {}
    own = SummarizingConversationManager()
    assert len(restored(new_manager, "cut", conversation_manager=own).messages) == 2


@pytest.mark.limits(value_bytes=1_000)
def test_what_a_cut_takes_away_is_no_part_of_a_state_in_a_file(
    catalog: SessionCatalog,
    manager: MongoDBSessionManager,
    new_agent: NewAgent,
    new_manager: NewManager,
    stored: Stored,
) -> None:
    agent = summarized(new_agent, manager, *["Okay."] * 4, SECRET * 100)
    assert "%file" in stored()["agents"]["default"]["agent_data"]["conversation_manager_state"]

    catalog.fork(SESSION, FORK)
    own = SummarizingConversationManager(summary_ratio=0.5, preserve_recent_messages=2)
    assert restored(new_manager, conversation_manager=own).messages == agent.messages

    catalog.fork(SESSION, "cut", at=3)
    own = SummarizingConversationManager()
    copy = restored(new_manager, "cut", conversation_manager=own)
    assert [message["content"][0].get("text") for message in copy.messages[::2]] == ["Turn 0", "Turn 1"]
    assert (own.removed_message_count, own.get_state()["summary_message"]) == (0, None)
    copy("Go on")
    again = restored(new_manager, "cut", conversation_manager=SummarizingConversationManager())
    assert again.messages == copy.messages


def test_an_interrupt_stays_with_the_session(
    catalog: SessionCatalog,
    manager: MongoDBSessionManager,
    new_agent: NewAgent,
    new_manager: NewManager,
    stored: Stored,
) -> None:
    agent = new_agent(manager, "Hello.", ASK, tools=[ask])
    agent("Hi")
    assert agent("Go").stop_reason == "interrupt"

    summary = catalog.fork(SESSION, FORK)

    assert summary.messages == 2
    assert summary.interrupted == []
    assert stored()["interrupted"] == ["agent:default"]
    copy = restored(new_manager)
    assert not copy._interrupt_state.activated
    assert str(copy("Something else")).strip() == "Okay."


def build_graph(manager: MongoDBSessionManager) -> Any:
    builder = GraphBuilder()
    builder.add_node(Agent(name="first", model=ScriptedModel(default="x" * 600_000), callback_handler=None), "first")
    builder.set_graph_id("g")
    builder.set_session_manager(manager)
    builder.set_max_node_executions(9)
    return builder.build()


def test_graphs_go_with_whole_histories(
    catalog: SessionCatalog, manager: MongoDBSessionManager, agent: Agent, new_manager: NewManager, stored: Stored
) -> None:
    build_graph(manager)("Go")

    catalog.fork(SESSION, FORK)
    ours = new_manager(FORK).session_repository.read_multi_agent(FORK, "g")
    assert ours == manager.session_repository.read_multi_agent(SESSION, "g")

    catalog.fork(SESSION, "cut", at=1)
    assert stored("cut")["multi_agents"] == {}


def test_several_agents(
    catalog: SessionCatalog, manager: MongoDBSessionManager, agent: Agent, new_manager: NewManager, stored: Stored
) -> None:
    other = restored(new_manager, SESSION, agent_id="a.b")
    other("Hi")
    with pytest.raises(ValueError, match=r"2 agents .*'a\.b'"):
        catalog.fork(SESSION, FORK, at=1)
    with pytest.raises(ValueError, match="no agent 'nobody'; its agents are"):
        catalog.fork(SESSION, FORK, at={"nobody": 1})
    assert stored(FORK) is None

    summary = catalog.fork(SESSION, FORK, at={"default": 1})

    assert summary.messages == 4
    assert restored(new_manager).messages == agent.messages[:2]
    assert restored(new_manager, agent_id="a.b").messages == other.messages
    assert set(stored(FORK)["agent_ids"]) == {"default", "a.b"}
    assert catalog.fork(SESSION, at={"default": 1, "a.b": 0}).messages == 2


# Segments and files


@pytest.fixture
def long(manager: MongoDBSessionManager, new_agent: NewAgent) -> Agent:
    """A history in three segments and in the document, with large values."""
    agent = new_agent(manager, state={"large": "s" * LARGE})
    for number in range(4):
        agent([document("same"), document(str(number)), {"text": f"Turn {number}"}])
        agent("And?")
        manager._agents.live()[0].history.move_oldest()
    return agent


@pytest.mark.limits(kept_messages=2)
def test_a_long_history(
    catalog: SessionCatalog,
    manager: MongoDBSessionManager,
    long: Agent,
    new_manager: NewManager,
    stored: Stored,
    children: Children,
) -> None:
    for place in (*range(len(long.messages)), None):
        summary = catalog.fork(SESSION, FORK, at=place)

        fork = stored(FORK)
        end = len(long.messages) if place is None else place + place % 2
        assert summary.messages == end
        assert summary.usage.calls == end // 2
        assert set(children(FORK)) <= {fork["instance"]}
        listed = new_manager(FORK).list_messages("default")
        assert [message["content"] for message in listed] == [m["content"] for m in long.messages[:end]]
        copy = restored(new_manager)
        assert copy.messages == long.messages[:end]
        assert copy.state.get() == long.state.get()
        copy("More")
        assert restored(new_manager).messages == copy.messages
        assert catalog.delete(FORK).deleted
        assert children(FORK) == []

    assert manager.list_messages("default")[0]["content"][0] == document("same")


@pytest.mark.limits(kept_messages=2)
def test_a_place_in_a_segment_that_is_none(
    catalog: SessionCatalog, manager: MongoDBSessionManager, new_agent: NewAgent
) -> None:
    agent = new_agent(manager, *[LOOK, "Done."] * 6, tools=[look_up])
    for number in range(6):
        agent(f"Turn {number}")
        manager._agents.live()[0].history.move_oldest()

    with pytest.raises(ValueError, match=r"nearest places are 4 and 7\."):
        catalog.fork(SESSION, FORK, at=5)


@pytest.mark.limits(kept_messages=2)
def test_a_redaction_in_one_does_not_touch_the_other(
    catalog: SessionCatalog, manager: MongoDBSessionManager, long: Agent, new_manager: NewManager, children: Children
) -> None:
    before = list(long.messages)
    catalog.fork(SESSION, FORK)
    repository = manager.session_repository
    for number, message in enumerate(repository.list_messages(SESSION, "default")):
        message.redact_message = user(f"[removed {number}]")
        repository.update_message(SESSION, "default", message)

    assert restored(new_manager).messages == before
    assert len(children(FORK)) > len([each for each in children(SESSION) if each])

    new_manager().delete_session()
    assert restored(new_manager).messages == before


# While it is written


@pytest.mark.limits(kept_messages=2)
@pytest.mark.parametrize("write", ["turn", "redaction", "redaction of what moved"])
def test_a_turn_or_redaction_at_each_step(
    write: str,
    interrupted: SessionCatalog,
    new_manager: NewManager,
    new_agent: NewAgent,
    interruption: Interruption,
    stored: Stored,
    children: Children,
    everything: Everything,
) -> None:
    for number in itertools.count(1):
        manager = new_manager()
        agent = new_agent(manager)
        agent([document("same"), {"text": SECRET}])
        agent("And?")
        if write == "redaction of what moved":
            manager._agents.live()[0].history.move_oldest()

        def change() -> None:
            if write == "turn":
                agent("Meanwhile")  # noqa: B023 - called in this round
                return
            repository = manager.session_repository  # noqa: B023
            (message, *_) = repository.list_messages(SESSION, "default")
            message.redact_message = user("[removed]")
            repository.update_message(SESSION, "default", message)

        with interruption.before(number, change):
            interrupted.fork(SESSION, FORK)

        copied = [message["content"] for message in new_manager(FORK).list_messages("default")]
        whole = [message["content"] for message in new_manager().list_messages("default")]
        assert copied == whole
        assert set(children(FORK)) <= {stored(FORK)["instance"]}
        if write != "turn" and interruption.happened:
            assert SECRET.encode() not in everything()
        for session_id in (SESSION, FORK):
            new_manager(session_id).delete_session()
        if not interruption.happened:
            break

    assert number > 3


@pytest.mark.limits(kept_messages=2)
def test_a_deletion_at_each_step(
    interrupted: SessionCatalog,
    new_manager: NewManager,
    new_agent: NewAgent,
    interruption: Interruption,
    stored: Stored,
    children: Children,
) -> None:
    """Whoever erases a person leaves no copy that was being made."""
    for number in itertools.count(1):
        agent = new_agent(new_manager())
        agent([document("same")])
        agent("And?")
        with suppress(SessionNotFoundError), interruption.before(number, new_manager().delete_session):
            interrupted.fork(SESSION, FORK)
        if not interruption.happened:
            break
        assert stored(FORK) is None
        assert children(FORK) == []

    assert number > 3


@pytest.mark.limits(kept_messages=2)
def test_an_error_at_each_step_leaves_nothing(
    catalog: SessionCatalog,
    manager: MongoDBSessionManager,
    new_agent: NewAgent,
    failing: Failing,
    stored: Stored,
    children: Children,
) -> None:
    agent = new_agent(manager)
    agent([document("same")])
    agent("And?")
    manager._agents.live()[0].history.move_oldest()
    places = [("find", ""), ("insert", ""), ("aggregate", ""), ("find", "_segments"), ("insert", "_segments")]
    for command, part in [*places, ("find", "_files.files"), ("insert", "_files.files"), ("insert", "_files.chunks")]:
        fault = failing(command, mode={"times": 1}, errorCode=13, collection=f"agent_sessions{part}")
        with fault as met, pytest.raises(PyMongoError):
            catalog.fork(SESSION, FORK)
        assert met == [1]
        assert stored(FORK) is None
        assert children(FORK) == []

    assert catalog.fork(SESSION, FORK).messages == 4


def test_a_session_that_never_rests(
    interrupted: SessionCatalog, agent: Agent, interruption: Interruption, stored: Stored
) -> None:
    def again() -> None:
        agent("Once more")
        interruption._left, interruption._act = 2, again

    with interruption.before(2, again), pytest.raises(SessionConflictError, match="again and again"):
        interrupted.fork(SESSION, FORK)

    assert stored(FORK) is None


# What there is already, and what there is not


@pytest.mark.limits(kept_messages=2)
def test_an_id_that_is_taken(
    catalog: SessionCatalog, long: Agent, new_manager: NewManager, stored: Stored, children: Children
) -> None:
    taken = restored(new_manager)
    taken([document("mine")])
    before, theirs = stored(FORK), children(FORK)

    with pytest.raises(SessionConflictError, match="'fork' exists already"):
        catalog.fork(SESSION, FORK)

    assert stored(FORK) == before
    assert children(FORK) == theirs
    with pytest.raises(SessionConflictError):
        catalog.fork(SESSION, SESSION)


def test_a_session_that_is_not_there(catalog: SessionCatalog) -> None:
    with pytest.raises(SessionNotFoundError):
        catalog.fork("nobody", FORK)


def test_a_session_that_has_expired(catalog: SessionCatalog, agent: Agent, observer: Client, database: str) -> None:
    past = datetime.now(timezone.utc) - timedelta(seconds=1)
    observer[database]["agent_sessions"].update_one({}, {"$set": {"expires_at": past}})

    with pytest.raises(SessionNotFoundError):
        catalog.fork(SESSION, FORK)


def test_a_session_that_is_held_and_has_a_ttl(
    catalog: SessionCatalog, new_manager: NewManager, new_agent: NewAgent, stored: Stored
) -> None:
    new_agent(new_manager(ttl=timedelta(days=30)))("Hi")
    catalog.hold(SESSION)

    summary = catalog.fork(SESSION, FORK)

    assert not summary.held
    assert summary.expires_at is not None
    begin: datetime = stored(FORK)["created_at"]
    assert abs(summary.expires_at - begin - timedelta(days=30)) < timedelta(hours=13)
    assert catalog.delete(FORK).deleted


def test_a_newer_version(catalog: SessionCatalog, agent: Agent, observer: Client, database: str) -> None:
    observer[database]["agent_sessions"].update_one({}, {"$set": {"schema_version": 99}})

    with pytest.raises(SchemaVersionError):
        catalog.fork(SESSION, FORK)


def test_a_lease_and_notifications_stay(
    catalog: SessionCatalog, new_manager: NewManager, new_agent: NewAgent, stored: Stored
) -> None:
    manager = new_manager(exclusive=True)
    new_agent(manager)("Hi")
    manager.session_repository.update_metadata(SESSION, {"a": 1}, [{"id": "n-1"}])

    catalog.fork(SESSION, FORK)

    assert not {"lease", "outbox", "outbox_documents"} & stored(FORK).keys()
    assert new_manager(FORK).undelivered == ()


# Sessions of the first version


@pytest.mark.parametrize("place", [None, 0, 3])
def test_a_session_of_the_first_version(
    place: int | None, catalog: SessionCatalog, insert: Insert, new_manager: NewManager
) -> None:
    insert(legacy())

    assert catalog.fork(SESSION, FORK, at=place).messages == (0 if place == 0 else len(CONTENT))

    copy = restored(new_manager)
    assert [message["role"] for message in copy.messages] == ([] if place == 0 else [role for role, _ in CONTENT])
    copy("More")
    contents = [message["content"] for message in restored(new_manager).messages]
    assert contents == [message["content"] for message in copy.messages]


def test_a_nested_agent(catalog: SessionCatalog, insert: Insert, new_manager: NewManager, stored: Stored) -> None:
    insert(legacy({"support-v1": {"2": legacy_agent("support-v1.2")}}))

    with pytest.raises(ValueError, match=r"nearest places are 0 and 3\."):
        catalog.fork(SESSION, FORK, at={"support-v1.2": 2})
    summary = catalog.fork(SESSION, FORK, at={"support-v1.2": 0})

    assert summary.messages == 0
    assert restored(new_manager, agent_id="support-v1.2").messages == []
    assert catalog.fork(SESSION).messages == len(CONTENT)


# Budget, and bad input


def test_three_operations(catalog: SessionCatalog, agent: Agent, command_counter: CommandCounter) -> None:
    for at in (None, 1):
        with command_counter.counting() as log:
            catalog.fork(SESSION, at=at)
        assert [command.name for command in log.commands] == ["find", "insert", "aggregate"]


@pytest.mark.limits(kept_messages=2)
def test_segments_cost_two_operations_each(
    catalog: SessionCatalog, manager: MongoDBSessionManager, agent: Agent, command_counter: CommandCounter
) -> None:
    assert manager._agents.live()[0].history.move_oldest()

    with command_counter.counting() as log:
        catalog.fork(SESSION)

    names = [command.name for command in log.commands]
    assert sorted(names) == sorted(["find", "insert", "aggregate", "find", "insert", "find"])


@pytest.mark.parametrize(
    "arguments",
    [
        {"at": True},
        {"at": "1"},
        {"at": 1.0},
        {"at": [1]},
        {"at": {"a": "1"}},
        {"at": {1: 1}},
        {"at": {"a": True}},
        {"metadata": ["a"]},
        {"new_session_id": 7},
        {"new_session_id": {"$ne": None}},
        {"session_id": None},
    ],
    ids=str,
)
def test_wrong_types(arguments: Any, catalog: SessionCatalog, command_counter: CommandCounter) -> None:
    with command_counter.counting() as log, pytest.raises(TypeError):
        catalog.fork(**{"session_id": SESSION, **arguments})

    assert log.commands == []


@pytest.mark.parametrize(
    "arguments",
    [{"new_session_id": ""}, {"new_session_id": "a\0b"}, {"session_id": ""}, {"metadata": {"$set": 1, "$set.a": 1}}],
    ids=str,
)
def test_values_that_are_not_valid(arguments: Any, catalog: SessionCatalog, command_counter: CommandCounter) -> None:
    with command_counter.counting() as log, pytest.raises(ValueError, match=r"new_session_id|session_id|fork|Metadata"):
        catalog.fork(**{"session_id": SESSION, **arguments})

    assert log.commands == []


@pytest.mark.parametrize("in_the_way", ["text", 2**70, "half \ud83d", [1]], ids=ascii)
def test_metadata_that_lead_nowhere(
    catalog: SessionCatalog, manager: MongoDBSessionManager, agent: Agent, everything: Everything, in_the_way: Any
) -> None:
    manager.update_metadata({"a": in_the_way})
    before = everything()

    with pytest.raises(ValueError, match=rf"{SESSION}.*'a\.b'"):
        catalog.fork(SESSION, FORK, metadata={"a.b": 1})

    assert everything() == before


@pytest.mark.parametrize(
    "odd",
    [
        {"agents": []},
        {"agents": "text"},
        {"metadata": []},
        {"guardrail_events": {}},
        {"multi_agents": []},
        {"agent_ids": 7},
        {"interrupted": "text"},
        {"session_type": 7},
        {"ttl_seconds": "text"},
        {"agents": {"x": 7, "y": {"agent_data": {}, "messages": "text", "segments": 7, "guard": []}}},
        {"agents": {"x": {"agent_data": {}, "messages": [7, {}, {"message_id": 1, "content": 7}]}}},
    ],
    ids=str,
)
def test_odd_documents(odd: Document, catalog: SessionCatalog, insert: Insert, stored: Stored) -> None:
    insert({"_id": SESSION, "instance": ObjectId(), **odd})

    with suppress(MongoDBSessionError):
        catalog.fork(SESSION, FORK)
        assert stored(FORK)["metadata"] == {}


def test_a_value_that_is_missing(
    catalog: SessionCatalog, manager: MongoDBSessionManager, new_agent: NewAgent, observer: Client, database: str
) -> None:
    new_agent(manager)([document("same")])
    observer[database]["agent_sessions_files.files"].delete_many({})

    with pytest.raises(MongoDBSessionError, match="a large value that it refers to is missing"):
        catalog.fork(SESSION, FORK)


@pytest.mark.parametrize("left", [20, -15_000])
def test_a_document_that_is_full(
    left: int, catalog: SessionCatalog, insert: Insert, new_manager: NewManager, new_agent: NewAgent, stored: Stored
) -> None:
    messages = [element(n, ("user", "assistant")[n % 2], [{"text": "x" * 20_000}]) for n in range(700)]
    session = {**legacy({"default": {**legacy_agent(), "messages": messages}}), "metadata": {"theirs": ""}}
    session["metadata"]["theirs"] = "x" * (16 * 1024 * 1024 - len(bson.encode(session)) - max(left, 0))
    insert(session)
    metadata = {"more": "x" * max(-left, 0)}

    with pytest.raises(MongoDBSessionError, match=f"'{SESSION}' cannot be forked: its document is full") as raised:
        catalog.fork(SESSION, FORK, metadata=metadata)

    assert "x" * 100 not in str(raised.value)
    assert stored(FORK) is None
    new_agent(new_manager(), agent_id="default")("Hi")
    assert catalog.fork(SESSION, FORK).messages == 702


@pytest.mark.limits(value_bytes=1000)
def test_a_state_that_is_replaced_in_each_attempt_is_not_missing(
    interrupted: SessionCatalog,
    interruption: Interruption,
    manager: MongoDBSessionManager,
    agent: Agent,
) -> None:
    def replace_state() -> None:
        agent.state.set("language", f"{ObjectId()}" * 100)
        manager.sync_agent(agent)
        interruption._left = 2  # after the next attempt has read the session

    replace_state()
    with interruption.before(2, replace_state), pytest.raises(SessionConflictError, match="again and again"):
        interrupted.fork(SESSION, FORK)
