"""Graphs and Swarms as the SDK expects them of a repository."""
# ruff: noqa: S101 - these are tests, although they are shipped

from typing import Any

import pytest
from strands.session import SessionRepository
from strands.types.exceptions import SessionException

from .stored import (
    AWKWARD_VALUES,
    IDS,
    MultiAgentStub,
    Stored,
    an_agent,
    as_multi_agent,
    assert_identical,
    assert_same_agent,
)


class MultiAgentContract(Stored):
    """Tests of Graphs and Swarms."""

    def test_a_multi_agent_comes_back(self, repository: SessionRepository, session_id: str) -> None:
        graph = MultiAgentStub("graph", {"type": "graph", "completed_nodes": ["a"], "status": "executing"})

        repository.create_multi_agent(session_id, as_multi_agent(graph))

        assert repository.read_multi_agent(session_id, "graph") == graph.state

    def test_a_missing_multi_agent_reads_as_none(self, repository: SessionRepository, session_id: str) -> None:
        assert repository.read_multi_agent(session_id, "nobody") is None

    def test_an_update_replaces_a_multi_agents_state(self, repository: SessionRepository, session_id: str) -> None:
        repository.create_multi_agent(session_id, as_multi_agent(MultiAgentStub("graph", {"a": {"b": 1}})))

        repository.update_multi_agent(session_id, as_multi_agent(MultiAgentStub("graph", {"a": {"c": 2}})))

        assert repository.read_multi_agent(session_id, "graph") == {"a": {"c": 2}}

    def test_a_missing_multi_agent_cannot_be_updated(self, repository: SessionRepository, session_id: str) -> None:
        with pytest.raises(SessionException):
            repository.update_multi_agent(session_id, as_multi_agent(MultiAgentStub("nobody", {})))
        assert repository.read_multi_agent(session_id, "nobody") is None

    @pytest.mark.parametrize("multi_agent_id", IDS)
    def test_multi_agent_ids_are_plain_text(
        self, repository: SessionRepository, session_id: str, multi_agent_id: str
    ) -> None:
        repository.create_multi_agent(session_id, as_multi_agent(MultiAgentStub(multi_agent_id, {"n": 1})))
        repository.update_multi_agent(session_id, as_multi_agent(MultiAgentStub(multi_agent_id, {"n": 2})))

        assert repository.read_multi_agent(session_id, multi_agent_id) == {"n": 2}

    @pytest.mark.parametrize("value", AWKWARD_VALUES.values(), ids=AWKWARD_VALUES.keys())
    def test_multi_agent_state_comes_back_exactly(
        self, repository: SessionRepository, session_id: str, value: Any
    ) -> None:
        repository.create_multi_agent(session_id, as_multi_agent(MultiAgentStub("graph", {"value": value})))

        assert_identical(repository.read_multi_agent(session_id, "graph"), {"value": value})

    def test_an_agent_and_a_multi_agent_may_share_an_id(self, repository: SessionRepository, session_id: str) -> None:
        repository.create_agent(session_id, an_agent("same", state={"kind": "agent"}))
        repository.create_multi_agent(session_id, as_multi_agent(MultiAgentStub("same", {"kind": "graph"})))

        assert_same_agent(repository.read_agent(session_id, "same"), an_agent("same", state={"kind": "agent"}))
        assert repository.read_multi_agent(session_id, "same") == {"kind": "graph"}

    # The SDK passes arguments by name, so the names are part of the interface.

    def test_multi_agent_calls_take_the_sdks_names(self, repository: SessionRepository, session_id: str) -> None:
        before, after = (as_multi_agent(MultiAgentStub("graph", {"n": number})) for number in (1, 2))

        repository.create_multi_agent(session_id=session_id, multi_agent=before)
        repository.update_multi_agent(session_id=session_id, multi_agent=after)

        assert repository.read_multi_agent(session_id=session_id, multi_agent_id="graph") == {"n": 2}
