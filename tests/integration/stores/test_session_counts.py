"""What a session document tells of its feedback and of its interrupts, without a look at the rest."""

from typing import Any

import pytest
from strands import Agent
from strands.multiagent import GraphBuilder
from strands.types.session import SessionAgent

from mongodb_session_manager.mongodb_session_repository import stores_of
from mongodb_session_manager.testing import ScriptedModel
from tests.aliases import NewAgent, NewManager, Stored
from tests.talking import ASK, ask


@pytest.mark.parametrize("large", [False, True], ids=["small", "moved"])
def test_feedback_is_counted_by_rating(large: bool, new_manager: NewManager, stored: Stored) -> None:
    manager = new_manager()
    comment = "x" * (200_000 if large else 1)
    for rating in ("up", "down", "up", "so so", None, 7, ["up"], {"$inc": 1}, "UP"):
        manager.add_feedback({"rating": rating, "comment": comment})
    manager.add_feedback({"comment": comment})

    assert stored()["feedback_counts"] == {"up": 2, "down": 1, "other": 7}
    assert ("feedback_segments" in stored()) is large
    assert len(manager.get_feedbacks()) == 10


def answer(result: Any) -> list[Any]:
    return [{"interruptResponse": {"interruptId": each.id, "response": "yes"}} for each in result.interrupts]


def test_an_interrupt_of_an_agent(new_manager: NewManager, new_agent: NewAgent, stored: Stored) -> None:
    manager = new_manager()
    agent = new_agent(manager, ASK, tools=[ask], agent_id="a.b")
    assert not stored().get("interrupted")

    result = agent("Go")
    assert stored()["interrupted"] == ["agent:a.b"]

    agent(answer(result))
    assert stored()["interrupted"] == []


def test_an_interrupt_that_another_process_answers(
    new_manager: NewManager, new_agent: NewAgent, stored: Stored
) -> None:
    result = new_agent(new_manager(), ASK, tools=[ask])("Go")
    assert stored()["interrupted"] == ["agent:default"]

    new_agent(new_manager(), tools=[ask])(answer(result))

    assert stored()["interrupted"] == []


def test_an_interrupt_in_a_state_that_is_a_file(new_manager: NewManager, new_agent: NewAgent, stored: Stored) -> None:
    agent = new_agent(new_manager(), ASK, tools=[ask])
    agent._model_state["large"] = "x" * 300_000

    result = agent("Go")
    assert "%file" in stored()["agents"]["default"]["agent_data"]["_internal_state"]
    assert stored()["interrupted"] == ["agent:default"]

    agent(answer(result))
    assert stored()["interrupted"] == []


def test_an_agent_that_is_interrupted_when_it_is_made(new_manager: NewManager, stored: Stored) -> None:
    agent = Agent(model=ScriptedModel(default="Okay."), callback_handler=None)
    agent._interrupt_state.activate()

    new_manager().initialize(agent)

    assert stored()["interrupted"] == ["agent:default"]


def test_an_interrupt_by_the_sdks_verbs(new_manager: NewManager, stored: Stored) -> None:
    repository = new_manager().session_repository
    record = SessionAgent("a", {}, {})
    record._internal_state = {"interrupt_state": {"activated": True}}
    repository.create_agent("s-1", record)
    repository.create_agent("s-1", SessionAgent("b", {}, {}))
    assert stored()["interrupted"] == ["agent:a"]

    record._internal_state = {}
    repository.update_agent("s-1", record)

    assert stored()["interrupted"] == []


@pytest.mark.parametrize("size", [1, 1_200_000], ids=["in the document", "in a file"])
def test_an_interrupt_of_a_graph(size: int, new_manager: NewManager, stored: Stored) -> None:
    builder = GraphBuilder()
    model = ScriptedModel([ASK], default="x" * size)
    builder.add_node(Agent(name="first", model=model, tools=[ask], callback_handler=None), "first")
    builder.set_graph_id("g")
    builder.set_session_manager(new_manager())
    builder.set_max_node_executions(9)
    graph = builder.build()

    result = graph("Go")
    assert stored()["interrupted"] == ["multi:g"]

    graph(answer(result))
    assert stored()["interrupted"] == []


def test_a_serialised_state_that_waits(new_manager: NewManager, stored: Stored) -> None:
    states = stores_of(new_manager().session_repository).multi_agents
    states.write_multi_agent("s-1", "a.b", {"type": "graph", "status": "interrupted"}, create=True)
    assert stored()["interrupted"] == ["multi:a.b"]

    states.write_multi_agent("s-1", "a.b", {"type": "graph", "status": "completed"})

    assert stored()["interrupted"] == []


def test_a_new_session_can_be_counted(new_manager: NewManager, stored: Stored) -> None:
    new_manager()

    assert stored()["guardrail_events"] == []
    assert "interrupted" not in stored()
    assert "feedback_counts" not in stored()
