"""Agents as the SDK expects them of a repository."""
# ruff: noqa: S101 - these are tests, although they are shipped

from typing import Any

import pytest
from strands.session import SessionRepository
from strands.types.exceptions import SessionException
from strands.types.session import Session, SessionType

from .stored import (
    AGENT,
    AWKWARD_VALUES,
    IDS,
    Stored,
    an_agent,
    assert_identical,
    assert_same_agent,
    assert_same_time,
    new_session_id,
    text_message,
    texts,
)


class AgentContract(Stored):
    """Tests of agents."""

    def test_an_agent_comes_back(self, repository: SessionRepository, session_id: str) -> None:
        agent = an_agent(AGENT, state={"language": "en", "visits": 3})

        repository.create_agent(session_id, agent)
        read = repository.read_agent(session_id, AGENT)

        assert_same_agent(read, agent)
        assert read is not None
        assert_same_time(read.created_at, agent.created_at)

    def test_a_missing_agent_reads_as_none(self, repository: SessionRepository, session_id: str) -> None:
        assert repository.read_agent(session_id, "nobody") is None

    def test_an_agent_of_a_missing_session_reads_as_none(self, repository: SessionRepository) -> None:
        assert repository.read_agent(new_session_id(), AGENT) is None

    def test_an_update_replaces_all_state(self, repository: SessionRepository, session_id: str) -> None:
        repository.create_agent(session_id, an_agent(AGENT, state={"old": {"a": 1}, "kept": 1}))
        changed = an_agent(AGENT, state={"kept": 2, "old": {"b": 2}})
        changed.conversation_manager_state = {"removed_message_count": 7}
        changed._internal_state = {"model_state": {"response_id": "r-1"}}

        repository.update_agent(session_id, changed)

        assert_same_agent(repository.read_agent(session_id, AGENT), changed)

    def test_an_update_keeps_the_time_of_creation(self, repository: SessionRepository, session_id: str) -> None:
        agent = an_agent(AGENT)
        created_at = agent.created_at = "2024-01-02T03:04:05.678000+00:00"
        repository.create_agent(session_id, agent)

        repository.update_agent(session_id, an_agent(AGENT, state={"changed": True}))

        read = repository.read_agent(session_id, AGENT)
        assert read is not None
        assert_same_time(read.created_at, created_at)

    def test_a_missing_agent_cannot_be_updated(self, repository: SessionRepository, session_id: str) -> None:
        with pytest.raises(SessionException):
            repository.update_agent(session_id, an_agent("nobody"))
        assert repository.read_agent(session_id, "nobody") is None

    def test_an_agent_of_a_missing_session_cannot_be_updated(self, repository: SessionRepository) -> None:
        session_id = new_session_id()
        with pytest.raises(SessionException):
            repository.update_agent(session_id, an_agent(AGENT))
        assert repository.read_session(session_id) is None

    @pytest.mark.parametrize("agent_id", IDS)
    def test_agent_ids_are_plain_text(self, repository: SessionRepository, session_id: str, agent_id: str) -> None:
        repository.create_agent(session_id, an_agent(agent_id, state={"id": agent_id}))
        repository.create_message(session_id, agent_id, text_message(0, "first"))
        repository.update_agent(session_id, an_agent(agent_id, state={"id": agent_id, "updated": True}))
        repository.update_message(session_id, agent_id, text_message(0, "edited"))

        read = repository.read_agent(session_id, agent_id)
        assert_same_agent(read, an_agent(agent_id, state={"id": agent_id, "updated": True}))
        assert texts(repository.list_messages(session_id, agent_id)) == ["edited"]

    def test_all_odd_agent_ids_live_side_by_side(self, repository: SessionRepository, session_id: str) -> None:
        for agent_id in IDS:
            repository.create_agent(session_id, an_agent(agent_id, state={"id": agent_id}))

        for agent_id in IDS:
            assert_same_agent(repository.read_agent(session_id, agent_id), an_agent(agent_id, state={"id": agent_id}))

    @pytest.mark.parametrize("value", AWKWARD_VALUES.values(), ids=AWKWARD_VALUES.keys())
    def test_state_comes_back_exactly(self, repository: SessionRepository, session_id: str, value: Any) -> None:
        repository.create_agent(session_id, an_agent(AGENT, state={"value": value}))
        created = repository.read_agent(session_id, AGENT)
        repository.update_agent(session_id, an_agent(AGENT, state={"updated": value}))
        updated = repository.read_agent(session_id, AGENT)

        assert created is not None
        assert updated is not None
        assert_identical(created.state, {"value": value})
        assert_identical(updated.state, {"updated": value})

    def test_bytes_in_state_come_back_exactly(self, repository: SessionRepository, session_id: str) -> None:
        state = {"blob": bytes(range(256)), "list": [b"", {"inner": b"\x00"}]}

        repository.create_agent(session_id, an_agent(AGENT, state=state))

        read = repository.read_agent(session_id, AGENT)
        assert read is not None
        assert read.state == state

    def test_a_stored_agent_does_not_follow_its_object(self, repository: SessionRepository, session_id: str) -> None:
        agent = an_agent(AGENT, state={"list": [1]})
        repository.create_agent(session_id, agent)
        agent.state["list"].append(2)
        read = repository.read_agent(session_id, AGENT)
        assert read is not None
        read.state["list"].append(3)

        assert_same_agent(repository.read_agent(session_id, AGENT), an_agent(AGENT, state={"list": [1]}))

    # The SDK passes arguments by name, so the names are part of the interface.

    def test_session_and_agent_calls_take_the_sdks_names(self, repository: SessionRepository) -> None:
        session_id = new_session_id()

        repository.create_session(session=Session(session_id=session_id, session_type=SessionType.AGENT))
        repository.create_agent(session_id=session_id, session_agent=an_agent(AGENT))
        repository.update_agent(session_id=session_id, session_agent=an_agent(AGENT, state={"n": 1}))

        assert repository.read_session(session_id=session_id) is not None
        assert_same_agent(repository.read_agent(session_id=session_id, agent_id=AGENT), an_agent(AGENT, state={"n": 1}))
