"""Sessions as the SDK expects them of a repository."""
# ruff: noqa: S101 - these are tests, although they are shipped

import pytest
from strands.session import SessionRepository
from strands.types.exceptions import SessionException
from strands.types.session import Session, SessionType

from .stored import (
    AGENT,
    IDS,
    Stored,
    an_agent,
    assert_same_time,
    new_session_id,
)


class SessionContract(Stored):
    """Tests of sessions."""

    def test_a_session_comes_back(self, repository: SessionRepository) -> None:
        session = Session(session_id=new_session_id(), session_type=SessionType.AGENT)

        created = repository.create_session(session)
        read = repository.read_session(session.session_id)

        assert created.session_id == session.session_id
        assert read is not None
        assert (read.session_id, read.session_type) == (session.session_id, SessionType.AGENT)
        assert_same_time(read.created_at, session.created_at)
        assert_same_time(read.updated_at, session.updated_at)

    def test_a_missing_session_reads_as_none(self, repository: SessionRepository) -> None:
        assert repository.read_session(new_session_id()) is None

    def test_a_session_is_created_once(self, repository: SessionRepository, session_id: str) -> None:
        with pytest.raises(SessionException):
            repository.create_session(Session(session_id=session_id, session_type=SessionType.AGENT))

    @pytest.mark.parametrize("suffix", IDS)
    def test_session_ids_are_plain_text(self, repository: SessionRepository, suffix: str) -> None:
        session_id = new_session_id() + suffix

        repository.create_session(Session(session_id=session_id, session_type=SessionType.AGENT))
        repository.create_agent(session_id, an_agent(AGENT))

        read = repository.read_session(session_id)
        assert read is not None
        assert read.session_id == session_id
        assert repository.read_agent(session_id, AGENT) is not None

    def test_sessions_are_separate(self, repository: SessionRepository, session_id: str, agent_id: str) -> None:
        other = new_session_id()
        repository.create_session(Session(session_id=other, session_type=SessionType.AGENT))

        assert repository.read_agent(other, agent_id) is None
