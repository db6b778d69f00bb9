"""Sessions that the first version of this system wrote open, go on, and lose nothing of what is in them."""

from collections.abc import Callable
from typing import Any

import bson
import pytest
from pymongo import MongoClient
from strands.types.content import Message

from mongodb_session_manager import MongoDBSessionRepository, SessionConflictError
from mongodb_session_manager._schema.sessions import SCHEMA_VERSION
from mongodb_session_manager.errors import MongoDBSessionError
from mongodb_session_manager.mongodb_session_repository import stores_of
from tests.aliases import Document, Insert, NewAgent, NewManager, Stored
from tests.first_version import (
    AGENT,
    AT,
    CONTENT,
    INTERNAL,
    SESSION,
    STATE,
    WINDOW,
    element,
    legacy,
    legacy_agent,
    plain,
)

SECRET = "a secret that was redacted"

DOCUMENTS: dict[str, Document] = {
    "no type": legacy(),
    "default type": legacy(session_type="default"),
    "agent type": legacy(session_type="AGENT"),
    "text dates": legacy(at="2024-05-06T07:08:09.123456+00:00"),
    "naive text dates": legacy(at="2024-05-06T07:08:09"),
    "application": legacy(application_name="old shop"),
    "nothing else": {
        key: value for key, value in legacy().items() if key not in ("metadata", "feedbacks", "theirs", "updated_at")
    },
}


@pytest.fixture
def repository(observer: MongoClient[dict[str, Any]], database: str) -> MongoDBSessionRepository:
    return MongoDBSessionRepository(client=observer, database_name=database)


def answers(*texts: str) -> list[tuple[str, list[Any]]]:
    roles = ("user", "assistant")
    return [(roles[number % 2], [{"text": text}]) for number, text in enumerate(texts)]


# Opening and going on


@pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS.keys())
def test_a_session_is_restored(
    insert: Insert, new_manager: NewManager, new_agent: NewAgent, document: Document
) -> None:
    insert(document)

    manager = new_manager()
    agent = new_agent(manager)

    assert plain(agent.messages) == CONTENT
    assert agent.state.get() == STATE
    assert agent._model_state == INTERNAL["model_state"]
    assert manager.get_application_name() == document.get("application_name")


@pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS.keys())
def test_a_session_goes_on_and_is_restored_again(
    insert: Insert, new_manager: NewManager, new_agent: NewAgent, document: Document
) -> None:
    insert(document)
    agent = new_agent(new_manager(), "one", "two", "three")
    for prompt in ("1", "2", "3"):
        agent.state.set("turn", prompt)
        agent(prompt)

    again = new_agent(new_manager(), "four")
    again("4")
    last = new_agent(new_manager())

    said = answers("1", "one", "2", "two", "3", "three", "4", "four")
    assert plain(last.messages) == CONTENT + said
    assert last.state.get() == {**STATE, "turn": "3"}


def test_what_was_stored_stays_as_it_was(
    insert: Insert, new_manager: NewManager, new_agent: NewAgent, stored: Stored
) -> None:
    document = legacy(session_type="default")
    insert(document)
    agent = new_agent(new_manager(), "one")
    agent.state.set("new", 1)
    agent("1")

    found = stored()
    for name in ("_id", "session_id", "session_type", "created_at", "metadata", "feedbacks", "theirs"):
        assert found[name] == document[name]
    before, after = document["agents"][AGENT], found["agents"][AGENT]
    assert after["messages"][: len(CONTENT)] == before["messages"]
    assert (after["theirs"], after["created_at"]) == (before["theirs"], before["created_at"])
    data = {name: after["agent_data"][name] for name in before["agent_data"].keys() - {"state"}}
    assert {**data, "state": 0} == {**before["agent_data"], "state": 0} | {
        name: data[name] for name in ("conversation_manager_state", "_internal_state")
    }


def test_what_is_new_has_the_new_shape(
    insert: Insert, new_manager: NewManager, new_agent: NewAgent, stored: Stored
) -> None:
    insert(legacy())
    new_agent(new_manager(), "one")("1")

    found = stored()
    agent = found["agents"][AGENT]
    assert found["schema_version"] == SCHEMA_VERSION
    assert agent["guard"]["next_message_id"] == 6
    assert [message["message_id"] for message in agent["messages"]] == list(range(6))
    assert agent["messages"][4]["content"] == [{"text": "1"}]
    assert "message" not in agent["messages"][4]


def test_an_agent_without_messages_goes_on(insert: Insert, new_manager: NewManager, new_agent: NewAgent) -> None:
    insert(legacy({AGENT: legacy_agent(messages=[])}))

    new_agent(new_manager(), "one")("1")

    assert plain(new_agent(new_manager()).messages) == answers("1", "one")


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("number", [{}, {"message_id": None}], ids=str)
def test_a_message_without_an_id_is_not_left_out_unseen(
    insert: Insert, new_manager: NewManager, new_agent: NewAgent, stored: Stored, number: Document, ahead: bool
) -> None:
    flat: Document = {"role": "user", "content": "Hello", "created_at": AT, **number}
    insert(legacy({AGENT: legacy_agent() | {"messages": [flat, element(1, *CONTENT[3])]}}))
    manager = new_manager()
    before = stored()["agents"]

    def restore() -> None:
        if ahead:
            manager.prefetch([AGENT])
        new_agent(manager)

    with pytest.raises(MongoDBSessionError, match=r"restored: a message without a number .* its message_id"):
        restore()

    assert stored()["agents"] == before
    assert [message["content"] for message in manager.list_messages(AGENT, offset=1)] == [CONTENT[3][1]]


def test_an_element_that_was_unset_by_hand_is_no_message(
    insert: Insert, new_manager: NewManager, new_agent: NewAgent
) -> None:
    insert(legacy({AGENT: legacy_agent() | {"messages": [None, element(1, *CONTENT[3])]}}))

    agent = new_agent(new_manager())
    agent("Hi")

    assert plain(new_agent(new_manager()).messages) == [CONTENT[3], *answers("Hi", "Okay.")]


@pytest.mark.parametrize("agent_id", ["50%", "a%20b", "100% sure"])
def test_an_agent_id_with_percent_is_found(
    insert: Insert, new_manager: NewManager, new_agent: NewAgent, stored: Stored, agent_id: str
) -> None:
    """The first version used agent ids as field names as they were."""
    insert(legacy({agent_id: legacy_agent(agent_id)}))

    agent = new_agent(new_manager(), "one", agent_id=agent_id)
    agent("1")

    assert plain(agent.messages) == CONTENT + answers("1", "one")
    assert list(stored()["agents"]) == [agent_id]


@pytest.mark.parametrize("key", ["a%20b", "50%", "100%25", "%2E", "%int"])
def test_percent_in_the_keys_of_a_state_is_plain_text(
    insert: Insert, new_manager: NewManager, new_agent: NewAgent, key: str
) -> None:
    document = legacy()
    document["agents"][AGENT]["agent_data"]["state"] = {key: "0x1"}
    insert(document)

    assert new_agent(new_manager()).state.get() == {key: "0x1"}


def test_old_and_new_agents_live_side_by_side(insert: Insert, new_manager: NewManager, new_agent: NewAgent) -> None:
    insert(legacy({"old": legacy_agent("old"), "older": legacy_agent("older")}))
    new_agent(new_manager(), "one", agent_id="new")("1")

    manager = new_manager()
    agents = {agent_id: new_agent(manager, "two", agent_id=agent_id) for agent_id in ("old", "new")}
    for agent in agents.values():
        agent("2")

    manager = new_manager()
    restored = {name: plain(new_agent(manager, agent_id=name).messages) for name in ("old", "new", "older")}
    assert restored["old"] == CONTENT + answers("2", "two")
    assert restored["new"] == answers("1", "one", "2", "two")
    assert restored["older"] == CONTENT


@pytest.mark.parametrize("removed", [0, 2, 4])
def test_what_the_window_removed_stays_removed(
    insert: Insert, new_manager: NewManager, new_agent: NewAgent, removed: int
) -> None:
    document = legacy()
    document["agents"][AGENT]["messages"] = [element(n, role, [{"text": f"{n}"}]) for n, role in enumerate(ROLES)]
    document["agents"][AGENT]["agent_data"]["conversation_manager_state"]["removed_message_count"] = removed
    insert(document)
    agent = new_agent(new_manager(), "one")
    kept = [(role, [{"text": f"{n}"}]) for n, role in enumerate(ROLES)][removed:]
    assert plain(agent.messages) == kept

    agent("1")

    assert plain(new_agent(new_manager()).messages) == kept + answers("1", "one")


ROLES = ("user", "assistant", "user", "assistant")


# Redaction


def test_a_redacted_message_is_restored_redacted(
    insert: Insert,
    new_manager: NewManager,
    new_agent: NewAgent,
    repository: MongoDBSessionRepository,
) -> None:
    document = legacy()
    redaction = {"role": "assistant", "content": [{"text": "[redacted]"}]}
    document["agents"][AGENT]["messages"][3]["redact_message"] = redaction
    insert(document)

    assert plain(new_agent(new_manager()).messages) == [*CONTENT[:3], ("assistant", redaction["content"])]
    record = repository.read_message(SESSION, AGENT, 3)
    assert record is not None
    assert record.redact_message == redaction


@pytest.mark.parametrize("turns", [0, 1])
def test_a_redaction_takes_the_original_out_of_an_old_element(
    insert: Insert, new_manager: NewManager, new_agent: NewAgent, stored: Stored, turns: int
) -> None:
    document = legacy()
    messages = document["agents"][AGENT]["messages"]
    messages[3] = element(3, "assistant", [{"text": SECRET}], guardrail_event={"action": "BLOCKED"})
    insert(document)
    manager = new_manager()
    agent = new_agent(manager)
    new: Message = {"role": "assistant", "content": [{"text": "[redacted]"}]}

    manager.redact_latest_message(new, agent)
    for number in range(turns):
        agent(f"{number}")

    assert SECRET.encode() not in bson.encode(stored())
    after = stored()["agents"][AGENT]["messages"]
    assert after[:3] == messages[:3]
    assert (after[3]["content"], after[3]["created_at"]) == (new["content"], AT)
    assert plain(new_agent(new_manager()).messages)[3] == ("assistant", new["content"])


# Two writers


def test_of_two_managers_one_goes_on(
    insert: Insert, new_manager: NewManager, new_agent: NewAgent, stored: Stored
) -> None:
    insert(legacy())
    winner, loser = new_agent(new_manager(), "one", "two"), new_agent(new_manager(), "never")

    winner("1")
    with pytest.raises(SessionConflictError) as caught:
        loser("lost")
    winner("2")

    assert (caught.value.session_id, caught.value.agent_id) == (SESSION, AGENT)
    assert [message["content"] for message in caught.value.pending] == [[{"text": "lost"}]]
    assert plain(new_agent(new_manager()).messages) == CONTENT + answers("1", "one", "2", "two")


def test_the_loser_goes_on_with_a_new_manager(insert: Insert, new_manager: NewManager, new_agent: NewAgent) -> None:
    insert(legacy())
    winner, loser = new_agent(new_manager(), "one"), new_agent(new_manager())
    winner("1")
    with pytest.raises(SessionConflictError):
        loser("lost")

    again = new_agent(new_manager(), "two")
    again("2")

    assert plain(again.messages) == CONTENT + answers("1", "one", "2", "two")


def test_an_old_process_that_wrote_meanwhile_is_a_conflict(
    insert: Insert,
    new_manager: NewManager,
    new_agent: NewAgent,
    observer: MongoClient[dict[str, Any]],
    database: str,
) -> None:
    """During a rolling upgrade the first version may append without counters."""
    insert(legacy())
    agent = new_agent(new_manager())
    late = element(4, "user", [{"text": "from the old process"}])
    observer[database]["agent_sessions"].update_one({"_id": SESSION}, {"$push": {f"agents.{AGENT}.messages": late}})

    with pytest.raises(SessionConflictError):
        agent("1")


@pytest.mark.parametrize("ids", [[0, 1, 1, 2], [0, 1, 3, 2], [0, 0, 1, 1], [0, 2, 4, 6]], ids=str)
def test_ids_that_two_old_processes_mixed_up_are_no_obstacle(
    insert: Insert, new_manager: NewManager, new_agent: NewAgent, stored: Stored, ids: list[int]
) -> None:
    """The first version counted in process memory: two processes gave the same ids, in any order."""
    document = legacy()
    for message, message_id in zip(document["agents"][AGENT]["messages"], ids, strict=True):
        message["message_id"] = message_id
    insert(document)

    agent = new_agent(new_manager(), "one")
    agent("1")

    assert plain(agent.messages) == CONTENT + answers("1", "one")
    assert stored()["agents"][AGENT]["messages"][4]["message_id"] > max(ids)


@pytest.mark.parametrize("ids", [[0, 1, 1, 2], [0, 0, 1, 1], [0, 2, 4, 6]], ids=str)
@pytest.mark.parametrize("removed", [0, 1, 2, 3, 4])
def test_mixed_up_ids_lose_no_message_behind_the_window(
    insert: Insert, repository: MongoDBSessionRepository, ids: list[int], removed: int
) -> None:
    document = legacy()
    agent = document["agents"][AGENT]
    agent["messages"] = [
        element(i, role, [{"text": f"{n}"}]) for n, (i, role) in enumerate(zip(ids, ROLES, strict=True))
    ]
    agent["agent_data"]["conversation_manager_state"]["removed_message_count"] = removed
    insert(document)

    restored = stores_of(repository).histories.restore_agent(SESSION, AGENT)

    assert restored is not None
    texts = [message["content"][0]["text"] for _, message in restored.messages]
    # Back to a user's message, where the count lands at an answer.
    assert texts == ["0", "1", "2", "3"][removed - removed % 2 :]


# The SDK's own interface on an old session

UNGUARDED: dict[str, Callable[[MongoDBSessionRepository], object]] = {
    "nothing": lambda repository: None,
    "update_agent": lambda repository: repository.update_agent(SESSION, _read_agent(repository)),
    "update_message": lambda repository: repository.update_message(SESSION, AGENT, _read_message(repository, 3)),
    "create_message": lambda repository: repository.create_message(SESSION, AGENT, _next_message(repository)),
    "open_session": lambda repository: stores_of(repository).sessions.open_session(SESSION),
}


def _read_agent(repository: MongoDBSessionRepository) -> Any:
    return repository.read_agent(SESSION, AGENT)


def _read_message(repository: MongoDBSessionRepository, message_id: int) -> Any:
    return repository.read_message(SESSION, AGENT, message_id)


def _next_message(repository: MongoDBSessionRepository) -> Any:
    record = _read_message(repository, 3)
    record.message_id = 4
    return record


@pytest.mark.parametrize("change", UNGUARDED.values(), ids=UNGUARDED.keys())
def test_an_agent_goes_on_after_the_sdks_verbs(
    insert: Insert,
    new_manager: NewManager,
    new_agent: NewAgent,
    repository: MongoDBSessionRepository,
    change: Callable[[MongoDBSessionRepository], object],
) -> None:
    insert(legacy())
    change(repository)
    agent = new_agent(new_manager(), "one", "two")
    before = plain(agent.messages)
    assert before[: len(CONTENT)] == CONTENT

    agent("1")
    agent("2")

    assert plain(new_agent(new_manager()).messages) == before + answers("1", "one", "2", "two")


def test_the_sdks_verbs_read_an_old_session(insert: Insert, repository: MongoDBSessionRepository) -> None:
    insert(legacy(session_type="default"))

    session, agent = repository.read_session(SESSION), repository.read_agent(SESSION, AGENT)
    listed = repository.list_messages(SESSION, AGENT, limit=2, offset=1)

    assert session is not None
    assert agent is not None
    assert (session.session_type, session.created_at) == ("default", AT.isoformat())
    assert (agent.state, agent._internal_state) == (STATE, INTERNAL)
    assert agent.conversation_manager_state == WINDOW
    assert plain([record.to_message() for record in listed]) == CONTENT[1:3]
    assert [record.created_at for record in listed] == [AT.isoformat()] * 2


def test_an_old_session_is_deleted_whole(insert: Insert, new_manager: NewManager, stored: Stored) -> None:
    insert(legacy())

    assert new_manager().delete_session()
    assert stored() is None
