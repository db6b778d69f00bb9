"""What the repository promises beyond the SDK's contract, on a real mongod and, where its dialect allows, mongomock."""

import copy
import dataclasses
import inspect
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, cast

import bson
import mongomock
import pytest
from bson import ObjectId
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymongo import MongoClient
from pymongo.collection import Collection
from pymongo.errors import DocumentTooLarge, OperationFailure, PyMongoError, ServerSelectionTimeoutError
from strands.types.content import Message
from strands.types.exceptions import SessionException
from strands.types.session import Session, SessionAgent, SessionMessage, SessionType

from mongodb_session_manager import MongoDBSessionManager, MongoDBSessionRepository
from mongodb_session_manager._schema.histories import AgentWrite, Guard
from mongodb_session_manager._schema.listing import Listing
from mongodb_session_manager._schema.messages import MessageEdit, message_doc, redaction, replacement
from mongodb_session_manager._schema.sessions import SCHEMA_VERSION
from mongodb_session_manager._schema.values import escape_key
from mongodb_session_manager.errors import (
    AgentNotFoundError,
    MessageNotFoundError,
    SchemaVersionError,
    SessionConflictError,
    SessionNotFoundError,
    SessionTooLargeError,
)
from mongodb_session_manager.mongodb_session_repository import stores_of
from mongodb_session_manager.testing import CommandCounter
from tests.all_verbs import WholeRepository

SESSION, AGENT = "s-1", "support"
MEBIBYTE = 1024 * 1024
AT = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=timezone.utc)

Sessions = Collection[dict[str, Any]]


@pytest.fixture(scope="module")
def counter() -> CommandCounter:
    return CommandCounter()


@pytest.fixture(scope="module")
def client(mongodb_uri: str, counter: CommandCounter) -> Iterator[MongoClient[dict[str, Any]]]:
    """One for all tests: connecting takes longer than most of them."""
    client: MongoClient[dict[str, Any]]
    client = MongoClient(mongodb_uri, tz_aware=True, heartbeatFrequencyMS=500, event_listeners=[counter])
    with client:
        yield client


@pytest.fixture
def on_mongod(client: MongoClient[dict[str, Any]], database: str) -> Sessions:
    return client[database]["agent_sessions"]


@pytest.fixture(params=["mongod", "mongomock"])
def sessions(request: pytest.FixtureRequest) -> Sessions:
    """The collection that ``repository`` uses."""
    if request.param == "mongod":
        found: Sessions = request.getfixturevalue("on_mongod")
        return found
    return cast("Sessions", mongomock.MongoClient(tz_aware=True)["db"]["agent_sessions"])


@pytest.fixture
def repository(sessions: Sessions) -> MongoDBSessionRepository:
    return repository_of(sessions)


@pytest.fixture
def server(on_mongod: Sessions) -> MongoDBSessionRepository:
    """A repository on the real mongod alone."""
    return repository_of(on_mongod)


def repository_of(sessions: Sessions) -> MongoDBSessionRepository:
    return MongoDBSessionRepository(client=sessions.database.client, database_name=sessions.database.name)


def a_session(session_id: Any = SESSION) -> Session:
    return Session(session_id=session_id, session_type=SessionType.AGENT)


def an_agent(agent_id: Any = AGENT, **state: Any) -> SessionAgent:
    return SessionAgent(agent_id, state, {}, {})


def a_message(message_id: int, text: str = "hi", **more: Any) -> SessionMessage:
    message = {"role": "user", "content": [{"text": text}], **more}
    return SessionMessage.from_message(cast("Message", message), message_id)


class Graph:
    """As much of a multi-agent as a repository looks at."""

    def __init__(self, multi_agent_id: Any = "graph", **state: Any) -> None:
        self.id, self.state = multi_agent_id, state

    def serialize_state(self) -> dict[str, Any]:
        return self.state


def a_graph(multi_agent_id: Any = "graph", **state: Any) -> Any:
    return Graph(multi_agent_id, **state)


def fill(repository: MongoDBSessionRepository, *message_ids: int, session_id: str = SESSION) -> None:
    repository.create_session(a_session(session_id))
    repository.create_agent(session_id, an_agent(n=1))
    for message_id in message_ids:
        repository.create_message(session_id, AGENT, a_message(message_id, f"text {message_id}"))


def stored(sessions: Sessions, session_id: str = SESSION) -> dict[str, Any]:
    found = sessions.find_one({"_id": session_id})
    assert found is not None
    return found


def stored_messages(sessions: Sessions) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = stored(sessions)["agents"][AGENT]["messages"]
    return messages


# Every verb, called for one session and one agent.

LONG_AGO = datetime(2000, 1, 1, tzinfo=timezone.utc)

Verb = Callable[[MongoDBSessionRepository, Any, Any], Any]
SESSION_VERBS: dict[str, Verb] = {
    "open_session": lambda r, s, a: stores_of(r).sessions.open_session(s),
    "create_session": lambda r, s, a: r.create_session(a_session(s)),
    "read_session": lambda r, s, a: r.read_session(s),
    "delete_session": lambda r, s, a: r.delete_session(s),
    "list_agent_configs": lambda r, s, a: r.list_agent_configs(s),
    "read_calls": lambda r, s, a: stores_of(r).configs.read_calls(s),
    "store_files": lambda r, s, a: stores_of(r).histories.store_files(s, {"0": b"0"}),
    "keep_files": lambda r, s, a: stores_of(r).histories.keep_files(s, {"0": b"0"}),
    "remove_files": lambda r, s, a: stores_of(r).histories.remove_files(s, ["0"], ObjectId()),
    "update_metadata": lambda r, s, a: r.update_metadata(s, {"k": 1}),
    "get_metadata": lambda r, s, a: r.get_metadata(s),
    "delete_metadata": lambda r, s, a: r.delete_metadata(s, ["k"]),
    "add_feedback": lambda r, s, a: r.add_feedback(s, {"rating": "up"}),
    "get_feedbacks": lambda r, s, a: r.get_feedbacks(s),
    "check_lease": lambda r, s, a: stores_of(r).histories.check_lease(
        s, {"owner": bson.ObjectId(), "expires_at": LONG_AGO}
    ),
    "release_lease": lambda r, s, a: stores_of(r).sessions.release_lease(s),
    "renew_lease": lambda r, s, a: stores_of(r).sessions.renew_lease(s),
    "acknowledge": lambda r, s, a: stores_of(r).outbox.acknowledge(s, ["n-1"]),
}
AGENT_VERBS: dict[str, Verb] = {
    "create_agent": lambda r, s, a: r.create_agent(s, an_agent(a)),
    "start_agent": lambda r, s, a: stores_of(r).histories.start_agent(s, AgentWrite(a)),
    "read_agent": lambda r, s, a: r.read_agent(s, a),
    "update_agent": lambda r, s, a: r.update_agent(s, an_agent(a)),
    "restore_agent": lambda r, s, a: stores_of(r).histories.restore_agent(s, a),
    "write_agent": lambda r, s, a: stores_of(r).histories.write_agent(
        s, AgentWrite(a, data={"state": {}}), Guard(1, 0)
    ),
    "locate_agent": lambda r, s, a: stores_of(r).histories.locate_agent(s, a),
    "move_oldest": lambda r, s, a: stores_of(r).histories.move_oldest(s, a, Guard(1, 0), bson.ObjectId()),
    "tracked_ids": lambda r, s, a: stores_of(r).histories.tracked_ids(s, a, "t-1"),
    "tracked_messages": lambda r, s, a: stores_of(r).histories.tracked_messages(s, a, ["t-1"]),
    "edit_in_segments": lambda r, s, a: stores_of(r).histories.edit_in_segments(
        s, a, MessageEdit(0, {"role": "user"}, ())
    ),
    "create_message": lambda r, s, a: r.create_message(s, a, a_message(0)),
    "read_message": lambda r, s, a: r.read_message(s, a, 0),
    "update_message": lambda r, s, a: r.update_message(s, a, a_message(0)),
    "list_messages": lambda r, s, a: r.list_messages(s, a),
    "read_page": lambda r, s, a: stores_of(r).messages.read_page(s, a),
    "read_listing": lambda r, s, a: stores_of(r).messages.read_listing(s, a, Listing(newest_first=True)),
    "mark_files": lambda r, s, a: stores_of(r).histories.mark_files(s, a, None, ["0"], ObjectId()),
    "count_messages": lambda r, s, a: r.count_messages(s, a),
    "read_agent_config": lambda r, s, a: r.read_agent_config(s, a),
    "update_agent_config": lambda r, s, a: r.update_agent_config(s, a, {"model": "m"}),
    "create_multi_agent": lambda r, s, a: r.create_multi_agent(s, a_graph(a)),
    "update_multi_agent": lambda r, s, a: r.update_multi_agent(s, a_graph(a)),
    "write_multi_agent": lambda r, s, a: stores_of(r).multi_agents.write_multi_agent(s, a, {}),
    "read_multi_agent": lambda r, s, a: r.read_multi_agent(s, a),
}
VERBS = {**SESSION_VERBS, **AGENT_VERBS}
CREATING = {"open_session", "create_session"}
SENDING_NOTHING = {"prepare_write", "is_crowded", "replaces_files", "confirm_fields"}


def test_every_verb_is_tested() -> None:
    methods = inspect.getmembers(WholeRepository, inspect.isfunction)
    about_sessions = {
        name
        for name, method in methods
        if not name.startswith("_") and {"session_id", "session"} & set(inspect.signature(method).parameters)
    }

    assert about_sessions - SENDING_NOTHING == set(VERBS)


# Opening


def named(sessions: Sessions, application_name: str) -> MongoDBSessionRepository:
    database = sessions.database
    return MongoDBSessionRepository(
        client=database.client, database_name=database.name, application_name=application_name
    )


def test_a_new_session_is_opened(sessions: Sessions) -> None:
    opened = stores_of(named(sessions, "shop")).sessions.open_session(SESSION)

    assert (opened.created, opened.application_name, opened.agent_ids) == (True, "shop", frozenset())
    assert opened.session.session_id == SESSION
    found = stored(sessions)
    assert (found["session_id"], found["application_name"]) == (SESSION, "shop")
    assert (found["session_type"], found["schema_version"]) == ("AGENT", SCHEMA_VERSION)
    assert opened.session.created_at == found["created_at"].isoformat()


@pytest.mark.parametrize("kind", ["AGENT", SessionType.AGENT, "default", "chat", "größe 🦜", "", "a.$b\0"], ids=ascii)
def test_a_session_keeps_its_type(repository: MongoDBSessionRepository, kind: Any) -> None:
    given = Session("s-1", kind)

    assert repository.create_session(given) is given
    read = repository.read_session("s-1")
    assert read is not None
    assert (read.session_type, stores_of(repository).sessions.open_session("s-1").session.session_type) == (kind, kind)
    name = repository.collection.database.name
    assert MongoDBSessionManager("s-1", client=repository.client, database_name=name).session.session_type == kind
    assert type(read.session_type) is (SessionType if kind == "AGENT" else str)


@pytest.mark.parametrize(
    ("kind", "error"), [(None, TypeError), (1, TypeError), (b"a", TypeError), ("\ud83d", ValueError)]
)
def test_what_is_no_session_type(repository: MongoDBSessionRepository, kind: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="'s-1': session_type"):
        repository.create_session(Session("s-1", kind))

    assert repository.read_session("s-1") is None


def test_a_new_session_has_no_guardrail_events(repository: MongoDBSessionRepository) -> None:
    stores_of(repository).sessions.open_session("opened")
    repository.create_session(Session("created", SessionType.AGENT))

    found = list(repository.collection.find({}, {"_id": 0, "guardrail_events": 1}))
    assert found == [{"guardrail_events": []}] * 2


def test_metadata_has_the_form_of_the_managers(repository: MongoDBSessionRepository) -> None:
    stores_of(repository).sessions.open_session("s-1")
    assert repository.get_metadata("s-1") == {}

    repository.update_metadata("s-1", {"a": 1})
    assert repository.get_metadata("s-1") == {"metadata": {"a": 1}}
    repository.delete_metadata("s-1", ["a"])
    assert repository.get_metadata("s-1") == {}


def test_opening_and_creating_store_the_same(repository: MongoDBSessionRepository, sessions: Sessions) -> None:
    stores_of(repository).sessions.open_session("opened")
    repository.create_session(a_session("created"))

    opened, created = stored(sessions, "opened"), stored(sessions, "created")
    own = dict.fromkeys(("created_at", "updated_at", "_id", "session_id", "instance"), 0)
    assert {**opened, **own} == {**created, **own}
    assert opened["instance"] != created["instance"]


def test_an_existing_session_is_opened_as_it_is(repository: MongoDBSessionRepository, sessions: Sessions) -> None:
    stores_of(named(sessions, "shop")).sessions.open_session(SESSION)
    repository.create_agent(SESSION, an_agent("a.b"))
    before = stored(sessions)

    opened = stores_of(named(sessions, "other")).sessions.open_session(SESSION)

    assert (opened.created, opened.application_name, opened.agent_ids) == (False, "shop", frozenset({"a.b"}))
    assert stored(sessions) == before


def test_the_repository_has_a_default_application_name(sessions: Sessions) -> None:
    repository = named(sessions, "mine")

    assert stores_of(repository).sessions.open_session("a").application_name == "mine"
    repository.create_session(a_session("c"))
    assert stored(sessions, "c")["application_name"] == "mine"


def test_ten_threads_open_the_same_new_session(server: MongoDBSessionRepository, on_mongod: Sessions) -> None:
    barrier = threading.Barrier(10)

    def open_it(session_id: str) -> bool:
        barrier.wait()
        return stores_of(server).sessions.open_session(session_id).created

    with ThreadPoolExecutor(10) as threads:
        for number in range(10):
            created = list(threads.map(open_it, [f"s-{number}"] * 10))
            assert sorted(created) == [False] * 9 + [True]
    assert on_mongod.count_documents({}) == 10


@pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, 2**40, 2.5], ids=repr)
@pytest.mark.parametrize("verb", ["open_session", "read_session"])
def test_a_session_of_a_newer_version_is_left_alone(
    repository: MongoDBSessionRepository, sessions: Sessions, verb: str, version: Any
) -> None:
    fill(repository, 0)
    sessions.update_one({"_id": SESSION}, {"$set": {"schema_version": version}})
    before = stored(sessions)

    with pytest.raises(SchemaVersionError) as caught:
        VERBS[verb](repository, SESSION, AGENT)

    assert (caught.value.session_id, caught.value.found) == (SESSION, version)
    assert caught.value.supported == SCHEMA_VERSION
    assert stored(sessions) == before


# What exists already


@pytest.mark.parametrize("verb", ["create_session", "create_agent", "create_multi_agent"])
def test_nothing_is_created_twice(repository: MongoDBSessionRepository, sessions: Sessions, verb: str) -> None:
    fill(repository, 0)
    repository.create_multi_agent(SESSION, a_graph(AGENT, n=1))
    before = stored(sessions)

    with pytest.raises(SessionConflictError) as caught:
        VERBS[verb](repository, SESSION, AGENT)

    assert caught.value.session_id == SESSION
    assert caught.value.agent_id == (None if verb == "create_session" else AGENT)
    assert stored(sessions) == before


def test_starting_an_agent_again_is_recognised_by_the_write(
    repository: MongoDBSessionRepository, sessions: Sessions
) -> None:
    repository.create_session(a_session())
    write = AgentWrite(AGENT, data={"state": {}})
    assert stores_of(repository).histories.start_agent(SESSION, write)
    before = stored(sessions)

    assert stores_of(repository).histories.start_agent(SESSION, write)
    assert not stores_of(repository).histories.start_agent(SESSION, AgentWrite(AGENT))
    assert stored(sessions) == before


@pytest.mark.parametrize("message_id", [0, 2])
def test_a_message_that_is_stored_already_is_recognised(
    repository: MongoDBSessionRepository, sessions: Sessions, message_id: int
) -> None:
    fill(repository)
    for number in range(3):
        repository.create_message(SESSION, AGENT, a_message(number, tracking_id=f"t-{number}"))
    before = stored(sessions)

    repository.create_message(SESSION, AGENT, a_message(message_id, tracking_id=f"t-{message_id}"))

    assert stored(sessions) == before


@pytest.mark.parametrize("message_id", [0, 1, 2, 3, 4], ids=["first", "gap", "middle", "second_gap", "last"])
@pytest.mark.parametrize("more", [{}, {"tracking_id": "other"}], ids=["unknown", "other"])
def test_a_taken_or_passed_message_id_is_a_conflict(
    repository: MongoDBSessionRepository, sessions: Sessions, message_id: int, more: dict[str, Any]
) -> None:
    fill(repository)
    for number in (0, 2, 4):
        repository.create_message(SESSION, AGENT, a_message(number, tracking_id=f"t-{number}"))
    before = stored(sessions)

    with pytest.raises(SessionConflictError) as caught:
        repository.create_message(SESSION, AGENT, a_message(message_id, "other", **more))

    assert (caught.value.session_id, caught.value.agent_id) == (SESSION, AGENT)
    assert f"message {message_id}" in str(caught.value)
    assert stored(sessions) == before


# Gaps in the ids

GAPS = (0, 2, 5, 9)


@pytest.mark.parametrize("removed", range(6))
def test_without_a_live_set_the_conversation_managers_count_tells(
    repository: MongoDBSessionRepository, removed: int
) -> None:
    """It counts messages, whatever ids these have; past the end it cannot be right."""
    fill(repository, *GAPS)
    agent = SessionAgent(AGENT, {}, {"removed_message_count": removed})
    repository.update_agent(SESSION, agent)

    restored = stores_of(repository).histories.restore_agent(SESSION, AGENT)

    assert restored is not None
    left_out = removed if removed <= len(GAPS) else 0
    assert [message_id for message_id, _ in restored.messages] == list(GAPS)[left_out:]
    assert restored.live is None
    assert restored.agent.conversation_manager_state == agent.conversation_manager_state


def test_pages_go_by_position_where_ids_have_gaps(repository: MongoDBSessionRepository) -> None:
    fill(repository, *GAPS)

    listed = repository.list_messages(SESSION, AGENT, limit=2, offset=1)

    assert [message.message_id for message in listed] == [2, 5]


def test_a_writer_goes_on_after_the_last_id(repository: MongoDBSessionRepository, sessions: Sessions) -> None:
    fill(repository, *GAPS)
    restored = stores_of(repository).histories.restore_agent(SESSION, AGENT)
    assert restored is not None
    assert restored.guard.next_message_id == 10
    element = message_doc(a_message(10).to_message(), 10, AT, "here")

    assert stores_of(repository).histories.write_agent(SESSION, AgentWrite(AGENT, [element]), restored.guard)
    assert [message["message_id"] for message in stored_messages(sessions)] == [*GAPS, 10]


@pytest.mark.parametrize(
    "moved",
    [
        {"revision": 0, "next_message_id": 0},
        {"revision": 99},
        {"next_message_id": 0},
        {"next_message_id": 2},
        {"revision": None},
        {"write_id": "another"},
    ],
    ids=str,
)
def test_a_guard_that_misses_writes_nothing(
    repository: MongoDBSessionRepository, sessions: Sessions, moved: dict[str, Any]
) -> None:
    fill(repository, 0)
    guard = stores_of(repository).histories.locate_agent(SESSION, AGENT).guard
    assert (guard.revision, guard.next_message_id) == (2, 1)
    before = stored(sessions)
    write = AgentWrite(AGENT, data={"state": {"n": 2}})

    assert not stores_of(repository).histories.write_agent(
        SESSION, write, dataclasses.replace(guard, found=None, **moved)
    )
    assert stored(sessions) == before


@pytest.mark.parametrize(
    ("change", "next_message_id"),
    [
        (lambda r: r.create_message(SESSION, AGENT, a_message(1)), 2),
        (lambda r: r.update_message(SESSION, AGENT, a_message(0)), 1),
        (lambda r: r.update_agent(SESSION, an_agent(n=2)), 1),
    ],
    ids=["create_message", "update_message", "update_agent"],
)
def test_every_write_of_history_or_state_moves_the_guard(
    repository: MongoDBSessionRepository, change: Callable[[Any], None], next_message_id: int
) -> None:
    fill(repository, 0)
    before = stores_of(repository).histories.locate_agent(SESSION, AGENT)

    change(repository)

    after = stores_of(repository).histories.locate_agent(SESSION, AGENT)
    assert (after.guard.revision, after.guard.next_message_id) == ((before.guard.revision or 0) + 1, next_message_id)
    assert after.guard.write_id != before.guard.write_id


@pytest.mark.parametrize("verb", ["update_metadata", "add_feedback", "update_agent_config", "create_multi_agent"])
def test_other_writes_do_not_move_the_guard(repository: MongoDBSessionRepository, verb: str) -> None:
    fill(repository, 0)
    before = stores_of(repository).histories.locate_agent(SESSION, AGENT)

    VERBS[verb](repository, SESSION, AGENT)

    assert stores_of(repository).histories.locate_agent(SESSION, AGENT) == before


# Redaction and replacement. mongomock loses an update of a field within a field of an array's element, such as
# metadata.custom, so what hangs on it runs on mongod only.

SECRET = "the secret of the user"
SOURCE = {"bytes": SECRET.encode()}
USAGE = {"inputTokens": 1, "outputTokens": 2, "totalTokens": 3}
ORIGINALS: dict[str, dict[str, Any]] = {
    "text": {"content": [{"text": SECRET}]},
    "tracked": {"content": [{"text": SECRET}], "tracking_id": "t-1"},
    "bytes": {"content": [{"document": {"format": "txt", "name": SECRET, "source": SOURCE}}]},
    "tool": {"content": [{"toolUse": {"toolUseId": "t", "name": "n", "input": {f"$ {SECRET}": {SECRET: 2**70}}}}]},
    "deep": {"content": [{"toolUse": {"input": {"a": [[[SECRET]]]}}}]},
    "extra": {"content": [], "note": SECRET, "a.b": {"c": SECRET}},
    "metadata": {"content": [{"text": SECRET}], "metadata": {"usage": USAGE, "custom": {"quote": SECRET}}},
    "surrogate": {"content": [{"text": f"{SECRET}\ud800"}]},
}
REPLACEMENTS: dict[str, dict[str, Any]] = {
    "plain": {"content": [{"text": "new"}]},
    "marked": {"content": [{"$new": 2**63}]},
    "metadata": {"content": [{"text": "new"}], "metadata": {"custom": {"why": "asked"}}},
}


def as_record(fields: dict[str, Any]) -> SessionMessage:
    return SessionMessage.from_message(cast("Message", {"role": "user", **fields}), 1)


def store_between(repository: MongoDBSessionRepository, fields: dict[str, Any]) -> None:
    """Store it as message 1 of three."""
    fill(repository, 0)
    repository.create_message(SESSION, AGENT, as_record(fields))
    repository.create_message(SESSION, AGENT, a_message(2, "text 2"))


def redacted(original: dict[str, Any], new: dict[str, Any]) -> SessionMessage:
    record = as_record(original)
    record.redact_message = cast("Message", {"role": "user", **new})
    return record


@pytest.mark.parametrize("original", ORIGINALS.values(), ids=ORIGINALS.keys())
@pytest.mark.parametrize("new", REPLACEMENTS.values(), ids=REPLACEMENTS.keys())
def test_a_redaction_leaves_no_trace_of_the_original(
    server: MongoDBSessionRepository, on_mongod: Sessions, original: dict[str, Any], new: dict[str, Any]
) -> None:
    store_between(server, original)
    assert SECRET.encode() in bson.encode(stored(on_mongod))

    server.update_message(SESSION, AGENT, redacted(original, new))

    assert SECRET.encode() not in bson.encode(stored(on_mongod))
    read = server.read_message(SESSION, AGENT, 1)
    assert read is not None
    assert read.to_message()["content"] == new["content"]
    texts = [message.to_message()["content"] for message in server.list_messages(SESSION, AGENT)]
    assert texts[::2] == [[{"text": "text 0"}], [{"text": "text 2"}]]


@pytest.mark.parametrize("original", ORIGINALS.values(), ids=ORIGINALS.keys())
@pytest.mark.parametrize("new", REPLACEMENTS.values(), ids=REPLACEMENTS.keys())
def test_a_replacement_leaves_only_the_new_message(
    repository: MongoDBSessionRepository, sessions: Sessions, original: dict[str, Any], new: dict[str, Any]
) -> None:
    store_between(repository, original)

    repository.update_message(SESSION, AGENT, as_record(new))

    assert SECRET.encode() not in bson.encode(stored(sessions))
    read = repository.read_message(SESSION, AGENT, 1)
    assert read is not None
    assert (read.to_message(), read.redact_message) == ({"role": "user", **new}, None)


@pytest.mark.parametrize("build", [replacement, redaction], ids=["replacement", "redaction"])
@pytest.mark.parametrize("original", ORIGINALS.values(), ids=ORIGINALS.keys())
@pytest.mark.parametrize("new", REPLACEMENTS.values(), ids=REPLACEMENTS.keys())
def test_an_edit_of_a_pending_message_is_what_the_update_does(
    server: MongoDBSessionRepository,
    on_mongod: Sessions,
    original: dict[str, Any],
    new: dict[str, Any],
    build: Callable[..., MessageEdit],
) -> None:
    store_between(server, original)
    pending = copy.deepcopy(stored_messages(on_mongod)[1])
    edit = build(as_record(new).to_message(), 1, AT, "here")

    edit.apply(pending)
    assert stores_of(server).histories.write_agent(
        SESSION, AgentWrite(AGENT, edited=edit), stores_of(server).histories.locate_agent(SESSION, AGENT).guard
    )

    assert stored_messages(on_mongod)[1] == pending


def test_a_redaction_keeps_identity_times_and_metrics(server: MongoDBSessionRepository, on_mongod: Sessions) -> None:
    original = {**ORIGINALS["metadata"], "tracking_id": "t-1"}
    store_between(server, original)
    on_mongod.update_one({"_id": SESSION}, {"$set": {f"agents.{AGENT}.messages.1.event_loop_metrics": {"cycles": 2}}})
    before = stored_messages(on_mongod)[1]

    server.update_message(SESSION, AGENT, redacted(original, REPLACEMENTS["plain"]))

    after = stored_messages(on_mongod)[1]
    assert after["metadata"] == {"usage": USAGE}
    for name in ("message_id", "tracking_id", "created_at", "event_loop_metrics"):
        assert after[name] == before[name]


# Deleting


def test_deleting_tells_whether_there_was_one(repository: MongoDBSessionRepository) -> None:
    fill(repository, 0)

    assert repository.delete_session(SESSION) is True
    assert repository.delete_session(SESSION) is False
    assert repository.read_session(SESSION) is None


@pytest.mark.parametrize("other", ["s-", "s-11", "s-1.", "s-1 ", "S-1", "s-1.messages"])
def test_deleting_leaves_other_sessions(repository: MongoDBSessionRepository, sessions: Sessions, other: str) -> None:
    fill(repository, 0)
    fill(repository, 0, session_id=other)
    before = stored(sessions, other)

    repository.delete_session(SESSION)

    assert [session["_id"] for session in sessions.find()] == [other]
    assert stored(sessions, other) == before


@pytest.mark.parametrize("name", sorted(VERBS.keys() - CREATING))
def test_no_verb_brings_a_deleted_session_back(
    repository: MongoDBSessionRepository, sessions: Sessions, name: str
) -> None:
    fill(repository, 0)
    repository.delete_session(SESSION)

    with suppress(SessionNotFoundError):
        VERBS[name](repository, SESSION, AGENT)

    assert sessions.count_documents({}) == 0


READING_NONE = {"read_session", "read_agent", "read_message", "read_multi_agent"}
TELLING = {
    "delete_session",
    "write_agent",
    "edit_in_segments",
    "check_lease",
    "release_lease",
    "renew_lease",
    "mark_files",
    "remove_files",
}
# Whether there is a session is told by the write that they go with.
BESIDE = {"store_files", "keep_files"}


@pytest.mark.parametrize("name", sorted(VERBS.keys() - CREATING - READING_NONE - TELLING - BESIDE))
def test_a_missing_session_is_named(repository: MongoDBSessionRepository, name: str) -> None:
    with pytest.raises(SessionNotFoundError) as caught:
        VERBS[name](repository, "no such $session", AGENT)

    assert caught.value.session_id == "no such $session"


@pytest.mark.parametrize("name", sorted(READING_NONE | TELLING))
def test_a_missing_session_is_nothing_to_the_others(repository: MongoDBSessionRepository, name: str) -> None:
    assert not VERBS[name](repository, "no such session", AGENT)


# Errors


@pytest.mark.parametrize(
    "name",
    [
        "update_agent",
        "locate_agent",
        "create_message",
        "update_message",
        "list_messages",
        "read_page",
        "read_listing",
        "update_agent_config",
        "update_multi_agent",
    ],
)
def test_a_missing_agent_is_named(repository: MongoDBSessionRepository, sessions: Sessions, name: str) -> None:
    fill(repository, 0)
    before = stored(sessions)

    with pytest.raises(AgentNotFoundError) as caught:
        VERBS[name](repository, SESSION, "no.body")

    assert (caught.value.session_id, caught.value.agent_id) == (SESSION, "no.body")
    assert stored(sessions) == before


@pytest.mark.parametrize("stays", [True, False])
def test_a_configuration_is_stored_or_refused(
    repository: MongoDBSessionRepository, sessions: Sessions, monkeypatch: pytest.MonkeyPatch, stays: bool
) -> None:
    """The agent comes between the first write and the look, and goes before the second one."""
    fill(repository, 0)
    reader, agents = stores_of(repository).configs._reader, stored(sessions)["agents"]
    locate = reader.locate

    def meanwhile(*args: Any) -> Any:
        sessions.update_one({"_id": SESSION}, {"$set": {"agents": agents}})
        position = locate(*args)
        sessions.update_one({"_id": SESSION}, {"$set": {"agents": agents if stays else {}}})
        return position

    sessions.update_one({"_id": SESSION}, {"$set": {"agents": {}}})
    monkeypatch.setattr(reader, "locate", meanwhile)
    with nullcontext() if stays else pytest.raises(SessionConflictError, match="several at once"):
        repository.update_agent_config(SESSION, AGENT, {"model": "m"})

    config = repository.read_agent_config(SESSION, AGENT)
    assert (config or {}).get("model") == ("m" if stays else None)


@pytest.mark.parametrize("message_id", [1, -1, 2**40])
def test_a_missing_message_is_named(repository: MongoDBSessionRepository, sessions: Sessions, message_id: int) -> None:
    fill(repository, 0)
    before = stored(sessions)

    with pytest.raises(MessageNotFoundError) as caught:
        repository.update_message(SESSION, AGENT, a_message(message_id, "SECRET"))

    assert (caught.value.session_id, caught.value.agent_id, caught.value.message) == (SESSION, AGENT, message_id)
    assert stored(sessions) == before


COMMANDS = {
    "findAndModify": ["open_session"],
    "insert": ["create_session"],
    "find": ["read_session", "get_metadata", "get_feedbacks", "read_agent_config"],
    "delete": ["delete_session"],
    "aggregate": [
        "read_agent",
        "restore_agent",
        "locate_agent",
        "read_message",
        "list_messages",
        "count_messages",
        "list_agent_configs",
        "read_multi_agent",
    ],
    "update": [
        "add_feedback",
        "create_agent",
        "start_agent",
        "update_agent",
        "write_agent",
        "create_message",
        "update_message",
        "update_metadata",
        "delete_metadata",
        "update_agent_config",
        "create_multi_agent",
        "update_multi_agent",
    ],
}

SENT_AS = {
    "start_agent": "create_agent",
    "list_agent_configs": "list_agents",
    "create_multi_agent": "write_multi_agent",
    "update_multi_agent": "write_multi_agent",
}


@pytest.mark.parametrize(
    ("command", "name"), [(command, name) for command, names in COMMANDS.items() for name in names]
)
def test_a_driver_error_passes_through_with_a_note(
    server: MongoDBSessionRepository,
    failing: Callable[..., AbstractContextManager[None]],
    command: str,
    name: str,
) -> None:
    with failing(command, errorCode=13), pytest.raises(OperationFailure) as caught:
        VERBS[name](server, SESSION, AGENT)

    assert caught.value.code == 13
    assert not isinstance(caught.value, SessionException)
    (note,) = caught.value.__notes__
    assert note == f"in {SENT_AS.get(name, name)} of session {SESSION!r}"


def test_an_outage_is_never_read_as_nothing_there() -> None:
    client: MongoClient[dict[str, Any]]
    client = MongoClient("mongodb://127.0.0.1:1", serverSelectionTimeoutMS=20, connectTimeoutMS=20)
    sending = VERBS.keys() - {"release_lease", "renew_lease"}  # nothing to send, without a lease
    with client, ThreadPoolExecutor(len(VERBS)) as threads:
        repository = MongoDBSessionRepository(client=client)
        raised = {name: threads.submit(VERBS[name], repository, SESSION, AGENT).exception for name in sending}
        errors = {name: exception() for name, exception in raised.items()}

    assert {type(error) for error in errors.values()} == {ServerSelectionTimeoutError}
    assert [name for name, error in errors.items() if repr(SESSION) not in str(getattr(error, "__notes__", ""))] == []


# Ids


def odd_ids() -> list[str]:
    scripts = ["日本", "ключ", "🙂", "é", "e\u0301", "עברית", "with space", " ", "\n", "a/b\\c", "'\"`"]
    return [
        "a",
        "a.b",
        "a.messages",
        "agents.a",
        ".",
        "..",
        "$",
        "$a",
        "$set",
        "%",
        "%2E",
        "a%2Eb",
        "a%252Eb",
        *scripts,
    ]


@pytest.fixture
def crowd(repository: MongoDBSessionRepository) -> list[str]:
    """Agents of many ids, and multi-agents of the same ids, in one session."""
    repository.create_session(a_session())
    for agent_id in odd_ids():
        repository.create_agent(SESSION, an_agent(agent_id, name=agent_id))
        repository.create_message(SESSION, agent_id, a_message(0, f"of {agent_id}"))
        repository.create_multi_agent(SESSION, a_graph(agent_id, name=agent_id))
    return odd_ids()


def test_agents_of_all_ids_are_apart(
    repository: MongoDBSessionRepository, sessions: Sessions, crowd: list[str]
) -> None:
    for agent_id in crowd:
        before = stored(sessions)
        repository.update_agent(SESSION, an_agent(agent_id, name=f"new {agent_id}"))
        repository.create_message(SESSION, agent_id, a_message(1, "second"))
        repository.update_message(SESSION, agent_id, a_message(0, "edited"))
        repository.update_multi_agent(SESSION, a_graph(agent_id, name=f"new {agent_id}"))

        after = stored(sessions)
        key = escape_key(agent_id)
        for kind in ("agents", "multi_agents"):
            assert after[kind].pop(key) != before[kind].pop(key)
        assert {**after, "updated_at": 0} == {**before, "updated_at": 0}


def test_agents_of_all_ids_are_read_back(repository: MongoDBSessionRepository, crowd: list[str]) -> None:
    for agent_id in crowd:
        restored = stores_of(repository).histories.restore_agent(SESSION, agent_id)
        assert restored is not None
        assert (restored.agent.agent_id, restored.agent.state) == (agent_id, {"name": agent_id})
        assert [message["content"] for _, message in restored.messages] == [[{"text": f"of {agent_id}"}]]
        assert repository.read_multi_agent(SESSION, agent_id) == {"name": agent_id}


def test_opening_tells_the_ids_of_all_agents(repository: MongoDBSessionRepository, crowd: list[str]) -> None:
    assert stores_of(repository).sessions.open_session(SESSION).agent_ids == frozenset(crowd)


@pytest.mark.parametrize("session_id", odd_ids(), ids=ascii)
def test_a_session_may_have_any_id(repository: MongoDBSessionRepository, sessions: Sessions, session_id: str) -> None:
    fill(repository, 0, session_id=session_id)

    assert stored(sessions, session_id)["session_id"] == session_id
    assert stores_of(repository).sessions.open_session(session_id).created is False


NO_STRINGS: list[Any] = [{"$ne": None}, {}, ["s-1"], None, 1, b"s-1"]
BAD_STRINGS = ["", "s-1\0", "x" * 1025, "é" * 513, "s-1\udfff"]
BAD_STRING_NAMES = ["empty", "nul", "long", "long_in_utf8", "surrogate"]


Refusal = Callable[[type[Exception], str, Callable[[MongoDBSessionRepository], Any]], None]


@pytest.fixture(scope="module")
def refused(client: MongoClient[dict[str, Any]], shared_database: str, counter: CommandCounter) -> Refusal:
    """Make sure that a call raises this very error, which names the argument, and sends nothing."""
    repository = repository_of(client[shared_database]["agent_sessions"])

    def check(kind: type[Exception], named: str, call: Callable[[MongoDBSessionRepository], Any]) -> None:
        with counter.counting() as commands, pytest.raises(kind) as caught:
            call(repository)
        assert commands.names == []
        assert type(caught.value) is kind
        assert named in str(caught.value)

    return check


@pytest.mark.parametrize("session_id", NO_STRINGS, ids=repr)
@pytest.mark.parametrize("name", VERBS)
def test_a_session_id_that_is_no_string_reaches_no_server(refused: Refusal, name: str, session_id: Any) -> None:
    refused(TypeError, "session_id must be", lambda repository: VERBS[name](repository, session_id, AGENT))


@pytest.mark.parametrize("session_id", BAD_STRINGS, ids=BAD_STRING_NAMES)
@pytest.mark.parametrize("name", VERBS)
def test_an_unfit_session_id_reaches_no_server(refused: Refusal, name: str, session_id: str) -> None:
    refused(ValueError, "session_id must", lambda repository: VERBS[name](repository, session_id, AGENT))


@pytest.mark.parametrize("agent_id", NO_STRINGS, ids=repr)
@pytest.mark.parametrize("name", AGENT_VERBS)
def test_an_agent_id_that_is_no_string_reaches_no_server(refused: Refusal, name: str, agent_id: Any) -> None:
    refused(TypeError, "agent_id must be", lambda repository: VERBS[name](repository, SESSION, agent_id))


@pytest.mark.parametrize("agent_id", BAD_STRINGS, ids=BAD_STRING_NAMES)
@pytest.mark.parametrize("name", AGENT_VERBS)
def test_an_unfit_agent_id_reaches_no_server(refused: Refusal, name: str, agent_id: str) -> None:
    refused(ValueError, "agent_id must", lambda repository: VERBS[name](repository, SESSION, agent_id))


@pytest.mark.parametrize(("limit", "offset"), [(-1, 0), (None, -1), (-1, -1)])
def test_a_negative_page_reaches_no_server(refused: Refusal, limit: int | None, offset: int) -> None:
    refused(ValueError, "negative", lambda repository: repository.list_messages(SESSION, AGENT, limit, offset))


# Size


@dataclass(frozen=True)
class Large:
    """A write, and how many MiB must be stored before it to make it too large."""

    write: Callable[[MongoDBSessionRepository], Any]
    before: int = 0


def a_heavy(message_id: int, size: int) -> SessionMessage:
    """A message that no file makes lighter: what measures a message stays with it."""
    return a_message(message_id, metadata={"custom": {"large": "x" * size}})


BIG = "x" * (17 * MEBIBYTE)
HALF = "x" * (9 * MEBIBYTE)
LARGE = {
    "message": Large(lambda r: r.create_message(SESSION, AGENT, a_heavy(2, len(BIG)))),
    "message at the limit": Large(lambda r: r.create_message(SESSION, AGENT, a_heavy(2, 16 * MEBIBYTE - 400))),
    "edited message": Large(lambda r: r.update_message(SESSION, AGENT, a_heavy(0, len(BIG)))),
    "agent": Large(lambda r: r.create_agent(SESSION, an_agent("other", text=BIG))),
    "state": Large(lambda r: r.update_agent(SESSION, an_agent(text=BIG))),
}
OVER_THE_REST: dict[str, Callable[[MongoDBSessionRepository], object]] = {
    "message": lambda r: r.create_message(SESSION, AGENT, a_heavy(2, len(HALF))),
    "edit": lambda r: r.update_message(SESSION, AGENT, a_heavy(0, len(HALF))),
    "agent": lambda r: r.create_agent(SESSION, an_agent("other", text=HALF)),
}


@pytest.mark.parametrize("large", LARGE.values(), ids=LARGE.keys())
def test_a_write_over_the_limit_is_refused_whole(
    server: MongoDBSessionRepository, on_mongod: Sessions, large: Large
) -> None:
    fill(server, 0)
    server.create_message(SESSION, AGENT, a_heavy(1, large.before * MEBIBYTE))
    before = bson.encode(stored(on_mongod))

    with pytest.raises(SessionTooLargeError) as caught:
        large.write(server)

    assert caught.value.session_id == SESSION
    assert caught.value.agent_id in (AGENT, "other")
    # What is too large by itself reaches no server.
    by_itself = caught.value.size is not None and caught.value.size > 15 * MEBIBYTE
    assert by_itself or isinstance(caught.value.__cause__, PyMongoError | DocumentTooLarge)
    assert bson.encode(stored(on_mongod)) == before


@pytest.mark.parametrize("write", OVER_THE_REST.values(), ids=OVER_THE_REST.keys())
def test_a_write_that_is_too_large_beside_others_finds_room(
    server: MongoDBSessionRepository, write: Callable[[MongoDBSessionRepository], object]
) -> None:
    fill(server, 0)
    server.create_message(SESSION, AGENT, a_heavy(1, len(HALF)))

    write(server)

    assert [record.message_id for record in server.list_messages(SESSION, AGENT)][:2] == [0, 1]


def test_a_refused_write_does_not_end_the_session(server: MongoDBSessionRepository) -> None:
    fill(server, 0)
    with pytest.raises(SessionTooLargeError):
        server.create_message(SESSION, AGENT, a_heavy(1, len(BIG)))

    server.create_message(SESSION, AGENT, a_message(1, "shorter"))

    assert len(server.list_messages(SESSION, AGENT)) == 2


# What is in the database


def test_times_are_dates_and_bytes_are_binary(repository: MongoDBSessionRepository, sessions: Sessions) -> None:
    fill(repository, 0)
    content = [{"image": {"format": "png", "source": {"bytes": b"\0\xff"}}}]
    repository.create_message(SESSION, AGENT, as_record({"content": content}))
    repository.create_multi_agent(SESSION, a_graph())
    repository.update_agent(SESSION, an_agent(at=AT, data=b"\0"))

    found = stored(sessions)
    agent = found["agents"][AGENT]
    for holder in (found, agent, *agent["messages"], found["multi_agents"]["graph"]):
        assert isinstance(holder["created_at"], datetime)
        assert isinstance(holder["updated_at"], datetime)
    assert agent["messages"][1]["content"] == content
    assert agent["agent_data"]["state"] == {"at": AT, "data": b"\0"}


def test_dates_and_binary_have_their_bson_types(server: MongoDBSessionRepository, on_mongod: Sessions) -> None:
    fill(server)
    server.update_agent(SESSION, an_agent(at=AT, data=b"\0", naive="text"))
    state = f"agents.{AGENT}.agent_data.state"

    for path, kind in {f"{state}.at": "date", f"{state}.data": "binData", "created_at": "date"}.items():
        assert on_mongod.count_documents({path: {"$type": kind}}) == 1


def test_the_order_of_fields_is_kept(repository: MongoDBSessionRepository, sessions: Sessions) -> None:
    """Prompt caches depend on it."""
    fields = {"z": 1, "a": {"y": 1, "b": 2}, "m": [{"d": 1, "c": 2}]}
    use = {"toolUse": {"name": "n", "toolUseId": "t", "input": fields}}
    fill(repository)
    repository.create_message(SESSION, AGENT, SessionMessage({"role": "assistant", "content": [use]}, 0))  # type: ignore[list-item]
    repository.update_agent(SESSION, an_agent(**fields))

    agent = stored(sessions)["agents"][AGENT]
    restored = stores_of(repository).histories.restore_agent(SESSION, AGENT)
    assert restored is not None
    assert str(agent["messages"][0]["content"]) == str([use])
    assert str(restored.messages[0][1]["content"]) == str([use])
    assert str(restored.agent.state) == str(agent["agent_data"]["state"]) == str(fields)


def test_unknown_fields_survive_every_write(repository: MongoDBSessionRepository, sessions: Sessions) -> None:
    fill(repository, 0)
    paths = [
        "theirs",
        f"agents.{AGENT}.theirs",
        f"agents.{AGENT}.agent_data.theirs",
        f"agents.{AGENT}.messages.0.theirs",
    ]
    sessions.update_one({"_id": SESSION}, {"$set": {path: {"x": 1} for path in paths}})

    stores_of(repository).sessions.open_session(SESSION)
    repository.update_agent(SESSION, an_agent(n=2))
    repository.create_message(SESSION, AGENT, a_message(1))
    repository.update_message(SESSION, AGENT, a_message(0, "edited"))

    found = stored(sessions)
    agent = found["agents"][AGENT]
    for holder in (found, agent, agent["agent_data"], agent["messages"][0]):
        assert holder["theirs"] == {"x": 1}


names = st.sampled_from(["", ".", "$", "$ref", "$id", "a.b", "%2E", "\0", "\ud800", "_id", "__bytes_encoded__", "é"])
leaves = st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.floats(allow_nan=False) | names | st.binary()
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names | st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture
def stateful(server: MongoDBSessionRepository) -> MongoDBSessionRepository:
    fill(server)
    return server


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(names, values, max_size=3))
def test_a_server_takes_and_gives_back_any_state(stateful: MongoDBSessionRepository, state: dict[str, Any]) -> None:
    stateful.update_agent(SESSION, SessionAgent(AGENT, state, {}))

    read = stateful.read_agent(SESSION, AGENT)

    assert read is not None
    assert repr(read.state) == repr(state)
