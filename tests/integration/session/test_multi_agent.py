"""Graphs and swarms go on after a restart where they stopped."""

import gc
from collections.abc import Callable
from typing import Any

import pytest
from pymongo.errors import AutoReconnect
from strands import Agent
from strands.hooks import AfterMultiAgentInvocationEvent, BeforeNodeCallEvent
from strands.multiagent import GraphBuilder, Swarm
from strands.multiagent.base import MultiAgentBase, Status
from strands.multiagent.graph import Graph

from mongodb_session_manager import MongoDBSessionManager
from mongodb_session_manager.errors import AgentNotFoundError, SessionNotFoundError, UnstorableValueError
from mongodb_session_manager.testing import CommandCounter, ScriptedModel, session_ids
from tests.aliases import Failing, History, NewManager, Stored
from tests.talking import ASK, ask, every_durability

HAND_OFF = {
    "toolUse": {
        "toolUseId": "t-2",
        "name": "handoff_to_agent",
        "input": {"agent_name": "second", "message": "Please go on", "context": {"found": ["a.b", "$c"]}},
    }
}


class Team:
    """Two agents, the first of which leaves the rest to the second."""

    def __init__(self, *second: Any, first: Any = ("First is done.",)) -> None:
        self.models = [ScriptedModel(first, default="First again."), ScriptedModel(second, default="Second is done.")]
        self.agents = [
            Agent(name=name, model=model, callback_handler=None, tools=[ask])
            for name, model in zip(("first", "second"), self.models, strict=True)
        ]

    @property
    def calls(self) -> list[int]:
        return [len(model.calls) for model in self.models]

    def graph(self, manager: MongoDBSessionManager | None, graph_id: str = "my.graph") -> Graph:
        builder = GraphBuilder()
        for agent in self.agents:
            builder.add_node(agent, agent.name)
        builder.add_edge("first", "second")
        builder.set_entry_point("first")
        builder.set_graph_id(graph_id)
        builder.set_max_node_executions(10)
        if manager is not None:
            builder.set_session_manager(manager)
        return builder.build()

    def swarm(self, manager: MongoDBSessionManager | None, swarm_id: str = "my.swarm") -> Swarm:
        return Swarm(self.agents, session_manager=manager, id=swarm_id)


Build = Callable[[Team, MongoDBSessionManager], Any]


def a_graph(team: Team, manager: MongoDBSessionManager) -> Graph:
    return team.graph(manager)


def a_swarm(team: Team, manager: MongoDBSessionManager) -> Swarm:
    return team.swarm(manager)


both = pytest.mark.parametrize("build", [a_graph, a_swarm])


def team_of(build: Build, *second: Any) -> Team:
    """The first agent of a swarm hands the task over by a tool, that of a graph by its edge."""
    return Team(*second, first=[HAND_OFF, "Handed over."] if build is a_swarm else ["First is done."])


@both
def test_a_finished_run_is_stored(new_manager: NewManager, stored: Stored, build: Build) -> None:
    work = build(team_of(build), new_manager())

    result = work("Do it")

    (state,) = stored()["multi_agents"].values()
    assert result.status == Status.COMPLETED
    assert state["multi_agent_id"] == work.id
    assert state["state"]["status"] == "completed"
    assert set(state["state"]["node_results"]) == {"first", "second"}


@both
def test_the_stored_state_is_what_the_sdk_serialises(new_manager: NewManager, build: Build) -> None:
    manager = new_manager()
    work = build(team_of(build), manager)
    work("Do it")

    assert manager.session_repository.read_multi_agent("s-1", work.id) == work.serialize_state()


@both
def test_an_interrupted_node_resumes_after_a_restart(new_manager: NewManager, build: Build) -> None:
    result = build(team_of(build, ASK), new_manager())("Do it")
    assert result.status == Status.INTERRUPTED
    (interrupt,) = result.interrupts

    team = team_of(build, "Thank you.")
    answer = {"interruptResponse": {"interruptId": interrupt.id, "response": "yes"}}
    result = build(team, new_manager())([answer])

    assert result.status == Status.COMPLETED
    assert team.calls == [0, 1]
    assert "the answer was yes" in str(team.models[1].calls[0])


def test_a_failed_node_of_a_graph_runs_again_after_a_restart(new_manager: NewManager) -> None:
    with pytest.raises(ConnectionError):
        Team(ConnectionError("away")).graph(new_manager())("Do it")

    team = Team("Now it works.")
    result = team.graph(new_manager())("Do it")

    # The SDK goes on calling the graph failed, since it keeps the node among the failed ones.
    assert team.calls == [0, 1]
    assert "First is done." in str(team.models[1].calls[0])
    assert "Now it works." in str(result.results["second"].result)


def test_a_swarm_goes_on_with_the_agent_that_it_was_handed_to(
    new_manager: NewManager, observer: Any, database: str
) -> None:
    swarm = team_of(a_swarm).swarm(new_manager())
    crashed: list[dict[str, Any]] = []

    def note(event: BeforeNodeCallEvent) -> None:
        if event.node_id == "second":
            crashed.append(observer[database]["agent_sessions"].find_one({"_id": "s-1"}))

    swarm.add_hook(note, BeforeNodeCallEvent)
    swarm("Do it")
    # The process ends right before the second agent begins.
    observer[database]["agent_sessions"].replace_one({"_id": "s-1"}, crashed[0])

    team = team_of(a_swarm)
    result = team.swarm(new_manager())("Do it")

    assert result.status == Status.COMPLETED
    assert team.calls == [0, 1]
    assert "Please go on" in str(team.models[1].calls[0])


@both
def test_a_finished_run_starts_afresh(new_manager: NewManager, build: Build) -> None:
    build(team_of(build), new_manager())("Do it")

    team = team_of(build)
    result = build(team, new_manager())("Do it again")

    assert result.status == Status.COMPLETED
    assert all(calls > 0 for calls in team.calls)


@both
def test_opening_is_one_write_or_one_read(
    new_manager: NewManager, command_counter: CommandCounter, build: Build
) -> None:
    manager = new_manager()
    with command_counter.counting() as log:
        build(team_of(build), manager)
    assert (log.writes, log.reads) == (1, 0)

    manager = new_manager()
    with command_counter.counting() as log:
        build(team_of(build), manager)
    assert (log.writes, log.reads) == (0, 1)


@both
def test_every_command_names_its_session(
    new_manager: NewManager, command_counter: CommandCounter, build: Build
) -> None:
    build(team_of(build), new_manager())("Do it")

    sent = [command for command in command_counter.commands if command.collection == "agent_sessions"]
    sent = [command for command in sent if command.name != "createIndexes"]
    assert [session_ids(command) for command in sent] == [["s-1"]] * len(sent)


def test_several_of_them_in_one_session(new_manager: NewManager, stored: Stored) -> None:
    manager = new_manager()
    ids = ["one", "a.b$c", "日本"]

    for graph_id in ids:
        Team().graph(manager, graph_id)("Do it")

    assert sorted(state["multi_agent_id"] for state in stored()["multi_agents"].values()) == sorted(ids)


def test_an_agent_beside_a_graph(new_manager: NewManager, history: History) -> None:
    manager = new_manager()
    agent = Agent(model=ScriptedModel(default="Okay."), session_manager=manager, callback_handler=None)
    Team().graph(manager)("Do it")
    agent("Hi")

    restored = Agent(model=ScriptedModel(), session_manager=new_manager(), callback_handler=None)

    assert restored.messages == agent.messages == history()


async def test_a_graph_in_an_event_loop(new_manager: NewManager, stored: Stored) -> None:
    graph = Team().graph(new_manager())

    await graph.invoke_async("Do it")

    (state,) = stored()["multi_agents"].values()
    assert state["state"]["status"] == "completed"


# Refusals


def test_a_state_that_was_never_stored_cannot_be_replaced(new_manager: NewManager, stored: Stored) -> None:
    manager = new_manager()
    stranger: MultiAgentBase = Team().graph(None, "stranger")

    with pytest.raises(AgentNotFoundError, match="'stranger'"):
        manager.sync_multi_agent(stranger)

    assert stored()["multi_agents"] == {}


@both
def test_a_session_that_was_deleted_meanwhile(new_manager: NewManager, stored: Callable[[], Any], build: Build) -> None:
    work = build(team_of(build), new_manager())
    new_manager().delete_session()

    with pytest.raises(SessionNotFoundError):
        work("Do it")

    assert stored() is None


@both
def test_agents_inside_have_no_manager_of_their_own(new_manager: NewManager, build: Build) -> None:
    manager = new_manager()
    team = Team()
    team.agents[0] = Agent(name="first", model=team.models[0], session_manager=manager, callback_handler=None)

    with pytest.raises(ValueError, match="Session persistence is not supported"):
        build(team, manager)


def test_a_failed_write_is_told_and_made_up_for(new_manager: NewManager, failing: Failing, stored: Stored) -> None:
    graph = Team().graph(new_manager())

    with failing("update", closeConnection=True), pytest.raises(AutoReconnect):
        graph("Do it")
    graph("Do it")

    (state,) = stored()["multi_agents"].values()
    assert state["state"]["status"] == "completed"


# Callbacks of others at the end


def run_failing(work: Any) -> None:
    """Run it with a callback that raises when it ends."""

    def fail(event: AfterMultiAgentInvocationEvent) -> None:
        raise LookupError("a callback of an application")

    work.hooks.add_callback(AfterMultiAgentInvocationEvent, fail)
    with pytest.raises(LookupError):
        work("Do it")


@both
@every_durability
def test_a_callback_that_raises_at_the_end_leaves_nothing_unwritten(
    new_manager: NewManager, build: Build, durability: str
) -> None:
    manager = new_manager(durability=durability)
    work = build(team_of(build), manager)
    run_failing(work)

    assert manager.session_repository.read_multi_agent("s-1", work.id) == work.serialize_state()
    assert work.serialize_state()["status"] == "completed"
    gc.collect()  # the event goes with its traceback
    assert not manager._multi_agents.is_running


@both
@every_durability
def test_an_interrupt_is_stored_though_a_callback_raises(
    new_manager: NewManager, build: Build, durability: str
) -> None:
    work = build(team_of(build, ASK), new_manager(durability=durability))
    run_failing(work)

    again = build(team_of(build), new_manager(durability=durability))
    (one,) = again._interrupt_state.interrupts
    assert again([{"interruptResponse": {"interruptId": one, "response": "yes"}}]).status == Status.COMPLETED


@pytest.mark.parametrize(("changes", "writes"), [(False, 1), (True, 2)])
def test_what_a_callback_changes_at_the_end_is_stored(
    new_manager: NewManager, command_counter: CommandCounter, changes: bool, writes: int
) -> None:
    manager = new_manager(durability="exit")
    graph = Team().graph(manager)

    def change(event: AfterMultiAgentInvocationEvent) -> None:
        graph.state.execution_count += changes

    graph.hooks.add_callback(AfterMultiAgentInvocationEvent, change)
    with command_counter.counting() as log:
        graph("Do it")

    assert log.writes == writes
    assert manager.session_repository.read_multi_agent("s-1", graph.id) == graph.serialize_state()


@both
def test_a_state_that_cannot_be_stored_at_the_end_is_told_though_the_run_fails(
    new_manager: NewManager, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = new_manager(durability="exit")
    work = build(Team(first=[ConnectionError("away")]), manager)
    serialize = work.serialize_state
    monkeypatch.setattr(work, "serialize_state", lambda: {**serialize(), "odd": {1, 2}})

    with pytest.raises(UnstorableValueError, match="odd"):
        work("Do it")
