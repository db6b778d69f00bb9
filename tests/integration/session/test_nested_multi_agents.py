"""A human is asked inside a Graph or Swarm that is a node of a Graph, and answers after a restart."""

import base64
import itertools
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import pytest
from pymongo.errors import AutoReconnect, PyMongoError
from strands import Agent
from strands.hooks import AfterNodeCallEvent, BeforeNodeCallEvent
from strands.interrupt import Interrupt
from strands.multiagent import GraphBuilder, Swarm
from strands.multiagent.base import MultiAgentBase, MultiAgentResult, Status
from strands.multiagent.graph import Graph
from strands.types.exceptions import EventLoopException

from mongodb_session_manager import MongoDBSessionManager, MongoDBSessionRepository
from mongodb_session_manager.errors import MongoDBSessionError
from mongodb_session_manager.mongodb_session_repository import stores_of
from mongodb_session_manager.testing import CommandCounter, ScriptedModel
from tests.aliases import Client, Failing, NewManager, Stored
from tests.talking import ASK, ask, every_durability

ODD_IDS = ["g", "a.b", "$set", "a/b", "%2E", "日本", "\0", "__bytes_encoded__", "\ud800", " "]


def asker(name: str, *turns: Any) -> Agent:
    """An agent that asks a human, and is done when it has the answer, unless it has something else to say."""

    def say(messages: Any) -> Any:
        return f"{name} is done." if "the answer was" in str(messages) else ASK

    model = ScriptedModel(turns, default=say)
    return Agent(name=name, model=model, callback_handler=None, tools=[ask])


def graph(graph_id: str, *nodes: Any, manager: MongoDBSessionManager | None = None, chain: bool = True) -> Graph:
    """Its nodes, as (id, agent or multi-agent), one after the other or side by side."""
    builder = GraphBuilder()
    for node_id, executor in nodes:
        builder.add_node(executor, node_id)
    for (before, _), (after, _) in itertools.pairwise(nodes):
        if chain:
            builder.add_edge(before, after)
    builder.set_graph_id(graph_id)
    builder.set_max_node_executions(20)
    if manager is not None:
        builder.set_session_manager(manager)
    return builder.build()


def answers(interrupts: Sequence[Interrupt], response: str = "yes") -> Any:
    return [{"interruptResponse": {"interruptId": one.id, "response": response}} for one in interrupts]


def resumed(
    build: Callable[[MongoDBSessionManager], Any], new_manager: NewManager, **options: Any
) -> tuple[MultiAgentResult, Any]:
    """Run until a human is asked, answer in a new process, and return the result and what ran then."""
    work = build(new_manager(**options))
    result = work("Do it")
    assert result.status == Status.INTERRUPTED
    work = build(new_manager(**options))
    return work(answers(result.interrupts)), work


# Shapes: each builds the same work once more, with agents that do not remember anything


def graph_in_graph(manager: MongoDBSessionManager) -> Graph:
    inner = graph("inner", ("first", asker("first", "First.")), ("second", asker("second")))
    return graph("outer", ("inside", inner), ("last", asker("last", "Last.")), manager=manager)


def swarm_in_graph(manager: MongoDBSessionManager) -> Graph:
    swarm = Swarm([asker("one"), asker("two", "Two.")], id="inner")
    return graph("outer", ("inside", swarm), ("last", asker("last", "Last.")), manager=manager)


def four_levels(manager: MongoDBSessionManager) -> Graph:
    inner: Any = Swarm([asker("deep")], id="outer")
    for _ in range(3):  # all with the id of the outermost, and node ids of each other
        inner = graph("outer", ("n", inner), ("m", asker("m", "M.")))
    return graph("outer", ("n", inner), manager=manager)


def side_by_side(manager: MongoDBSessionManager) -> Graph:
    twins = [(name, graph("twin", ("n", asker("n")))) for name in ("left", "right")]
    return graph("outer", *twins, ("agent", asker("agent")), manager=manager, chain=False)


def siblings_inside(manager: MongoDBSessionManager) -> Graph:
    inside = [(name, graph("n", ("n", Swarm([asker("n")], id="n")))) for name in ("n", "m")]
    return graph("n", ("n", graph("n", *inside, chain=False)), manager=manager)


SHAPES = [graph_in_graph, swarm_in_graph, four_levels, side_by_side, siblings_inside]
every_shape = pytest.mark.parametrize("build", SHAPES)


def tools_said(result: MultiAgentResult) -> int:
    """How many nodes, at any depth, ended after a human had answered."""
    return sum(
        str(one.message).count("is done.") for node in result.results.values() for one in node.get_agent_results()
    )


@every_shape
@every_durability
def test_an_interrupt_inside_goes_on_in_a_new_process(
    new_manager: NewManager, stored: Stored, build: Any, durability: str
) -> None:
    asked = {graph_in_graph: 1, swarm_in_graph: 1, four_levels: 1, side_by_side: 3, siblings_inside: 2}[build]

    result, work = resumed(build, new_manager, durability=durability)

    assert result.status == Status.COMPLETED
    assert tools_said(result) == asked
    record = stored()["multi_agents"][work.id]
    assert record["state"]["status"] == "completed"
    assert "inner" not in record


@every_shape
def test_it_goes_on_as_without_a_restart(new_manager: NewManager, build: Any) -> None:
    """The same work, answered by the process that asked."""
    work = build(new_manager("unbroken"))
    asked = work("Do it")
    unbroken = work(answers(asked.interrupts))

    result, _ = resumed(build, new_manager)

    said = [[one.message["content"] for one in node.get_agent_results()] for node in unbroken.results.values()]
    assert [[one.message["content"] for one in node.get_agent_results()] for node in result.results.values()] == said
    assert {*result.results} == {*unbroken.results}


def test_what_was_done_inside_is_not_done_again(new_manager: NewManager) -> None:
    _, work = resumed(graph_in_graph, new_manager)

    inner = work.nodes["inside"].executor
    calls = [len(inner.nodes[name].executor.model.calls) for name in ("first", "second")]
    assert calls == [0, 1]
    assert "the answer was yes" in str(inner.nodes["second"].executor.model.calls)


def test_some_are_answered_before_others(new_manager: NewManager, stored: Stored) -> None:
    """Of two that ask, one asks again: the other's answer is not asked for twice."""

    def build(manager: MongoDBSessionManager, *left: Any) -> Graph:
        inner = [("left", graph("i", ("n", asker("n", *left)))), ("right", graph("i", ("n", asker("n"))))]
        return graph("outer", *inner, manager=manager, chain=False)

    again = {"toolUse": {**ASK["toolUse"], "toolUseId": "t-11"}}  # after the first answer
    first = build(new_manager())("Do it")
    assert len(first.interrupts) == 2
    second = build(new_manager(), again)(answers(first.interrupts))
    assert len(second.interrupts) == 1
    assert [one["path"] for one in stored()["multi_agents"]["outer"]["inner"]] == [["left"]]

    last = build(new_manager(), "n is done.")(answers(second.interrupts))

    assert last.status == Status.COMPLETED
    assert tools_said(last) == 2


@pytest.mark.parametrize("odd", ODD_IDS)
def test_ids_of_any_spelling(new_manager: NewManager, odd: str) -> None:
    outer = "outer" if odd in ("\0", "\ud800") else odd

    def build(manager: MongoDBSessionManager) -> Graph:
        inner = graph(odd, (odd, Swarm([asker("n")], id=odd)), ("x", asker("x")), chain=False)
        return graph(outer, (odd, inner), ("inner", graph(odd, (odd, asker("x")))), manager=manager, chain=False)

    result, _ = resumed(build, new_manager)

    assert result.status == Status.COMPLETED
    assert tools_said(result) == 3


def test_a_path_is_not_its_spelling(new_manager: NewManager, stored: Stored) -> None:
    """Paths a, b/c and a/b, c read alike when they are joined."""

    def build(manager: MongoDBSessionManager) -> Graph:
        one = graph("o", ("b/c", graph("i", ("n", asker("one")))))
        two = graph("o", ("c", graph("i", ("n", asker("two")))))
        return graph("outer", ("a", one), ("a/b", two), manager=manager, chain=False)

    build(new_manager())("Do it")
    inner = stored()["multi_agents"]["outer"]["inner"]
    assert sorted(one["path"] for one in inner) == [["a"], ["a", "b/c"], ["a/b"], ["a/b", "c"]]

    result, _ = resumed(build, new_manager, session_id="s-2")

    assert "one is done." in str(result.results["a"])
    assert "two is done." in str(result.results["a/b"])


def test_a_hook_asks_inside(new_manager: NewManager) -> None:
    """Before the node runs: it has no state of its own yet."""

    def build(manager: MongoDBSessionManager) -> Graph:
        inner = graph("inner", ("n", asker("n", "n is done.")))
        inner.add_hook(lambda event: event.interrupt("gate", reason="may it?"), BeforeNodeCallEvent)
        return graph("outer", ("inside", inner), manager=manager)

    result, _ = resumed(build, new_manager)

    assert result.status == Status.COMPLETED


def test_a_hook_asks_before_the_inner_one_begins(new_manager: NewManager, stored: Stored) -> None:
    def build(manager: MongoDBSessionManager) -> Graph:
        outer = graph("outer", ("inside", graph("inner", ("n", asker("n", "n is done.")))), manager=manager)
        outer.add_hook(lambda event: event.interrupt("gate", reason="may it?"), BeforeNodeCallEvent)
        return outer

    build(new_manager())("Do it")
    assert "inner" not in stored()["multi_agents"]["outer"]

    result, _ = resumed(build, new_manager, session_id="s-2")

    assert result.status == Status.COMPLETED
    assert tools_said(result) == 1


def test_the_inner_one_has_a_manager_too(new_manager: NewManager) -> None:
    def build(manager: MongoDBSessionManager) -> Graph:
        return graph("outer", ("inside", graph("inner", ("n", asker("n")), manager=manager)), manager=manager)

    result, _ = resumed(build, new_manager)

    assert result.status == Status.COMPLETED


def test_a_node_that_asks_at_its_second_visit(new_manager: NewManager) -> None:
    """A loop: the node counts among the completed ones already."""

    def build(manager: MongoDBSessionManager, *turns: Any) -> Graph:
        builder = GraphBuilder()
        builder.add_node(graph("inner", ("n", asker("n", *turns))), "writer")
        builder.add_node(asker("reviewer", "Again."), "reviewer")
        builder.add_edge("writer", "reviewer")
        builder.add_edge("reviewer", "writer", condition=lambda state: len(state.execution_order) < 3)
        builder.set_entry_point("writer").set_max_node_executions(10).set_session_manager(manager)
        return builder.build()

    result = build(new_manager(), "Draft.", ASK)("Do it")
    assert result.status == Status.INTERRUPTED
    work = build(new_manager(), "n is done.")

    result = work(answers(result.interrupts))

    assert result.status == Status.COMPLETED
    assert "n is done." in str(result.results["writer"])


def test_opening_and_steps_cost_what_they_did(new_manager: NewManager, command_counter: CommandCounter) -> None:
    work = graph_in_graph(new_manager())
    with command_counter.counting() as log:
        result = work("Do it")
    assert (log.writes, log.reads) == (1, 0)  # interrupted nodes are no steps to the SDK

    with command_counter.counting() as log:
        work = graph_in_graph(new_manager())
    assert (log.writes, log.reads) == (1, 1)  # the session, and all states

    with command_counter.counting() as log:
        work(answers(result.interrupts))
    assert log.reads == 0
    assert log.writes <= 3


# What is not answered stays answerable


def test_a_node_that_fails_on_the_answer_can_be_answered_again(new_manager: NewManager, stored: Stored) -> None:
    asked = graph_in_graph(new_manager())("Do it")
    before = stored()["multi_agents"]["outer"]

    def failing(manager: MongoDBSessionManager) -> Graph:
        inner = graph(
            "inner", ("first", asker("first", "First.")), ("second", asker("second", ConnectionError("away")))
        )
        return graph("outer", ("inside", inner), ("last", asker("last", "Last.")), manager=manager)

    with pytest.raises(EventLoopException, match="away"):
        failing(new_manager())(answers(asked.interrupts))
    assert stored()["multi_agents"]["outer"] == before

    result = graph_in_graph_done(new_manager())(answers(asked.interrupts))

    assert result.status == Status.COMPLETED


def graph_in_graph_done(manager: MongoDBSessionManager) -> Graph:
    inner = graph("inner", ("first", asker("first", "First.")), ("second", asker("second", "second is done.")))
    return graph("outer", ("inside", inner), ("last", asker("last", "Last.")), manager=manager)


def test_an_answer_whose_step_cannot_be_stored_can_be_given_again(
    new_manager: NewManager, stored: Stored, failing: Failing
) -> None:
    asked = graph_in_graph(new_manager())("Do it")
    before = stored()["multi_agents"]["outer"]

    work = graph_in_graph_done(new_manager())
    with failing("update", closeConnection=True), pytest.raises(AutoReconnect):
        work(answers(asked.interrupts))
    assert stored()["multi_agents"]["outer"] == before

    assert graph_in_graph_done(new_manager())(answers(asked.interrupts)).status == Status.COMPLETED


def test_our_own_failure_leaves_no_failed_state(new_manager: NewManager, stored: Stored, failing: Failing) -> None:
    """One step of three cannot be stored, and what comes after it could."""
    work = graph("g", *[(name, asker(name, f"{name} is done.")) for name in "abc"], manager=new_manager())
    with failing("update", mode={"times": 2}, closeConnection=True), pytest.raises(AutoReconnect):
        work("Do it")

    assert stored()["multi_agents"]["g"]["state"]["status"] == "pending"


def test_a_swarm_tells_what_could_not_be_stored(new_manager: NewManager, stored: Stored, failing: Failing) -> None:
    """The SDK keeps to itself what fails at a step of a swarm."""
    swarm = Swarm([asker("one", "One.", "One again.")], id="s", session_manager=new_manager())

    with failing("update", mode={"times": 2}, closeConnection=True), pytest.raises(AutoReconnect):
        swarm("Do it")
    assert swarm("Again").status == Status.COMPLETED

    assert stored()["multi_agents"]["s"]["state"]["status"] == "completed"


async def test_a_stream_that_is_left_on_the_answer_can_be_answered_again(
    new_manager: NewManager, stored: Stored
) -> None:
    asked = await graph_in_graph(new_manager()).invoke_async("Do it")
    before = stored()["multi_agents"]["outer"]

    stream: Any = graph_in_graph_done(new_manager()).stream_async(answers(asked.interrupts))
    await anext(stream)
    await stream.aclose()
    assert stored()["multi_agents"]["outer"] == before

    result = await graph_in_graph_done(new_manager()).invoke_async(answers(asked.interrupts))
    assert result.status == Status.COMPLETED


def test_a_node_fails_beside_one_that_asks(new_manager: NewManager, stored: Stored) -> None:
    """Nobody has heard of the interrupt, so nobody can answer it: the nodes run again."""

    def build(manager: MongoDBSessionManager, *broken: Any) -> Graph:
        nodes = [("broken", asker("broken", *broken)), ("inside", graph("inner", ("n", asker("n"))))]
        return graph("outer", ("first", asker("first", "First.")), *fan_out(nodes), manager=manager)

    def fan_out(nodes: list[Any]) -> list[Any]:
        return [("both", graph("both", *nodes, chain=False))]

    with suppress(ConnectionError):
        build(new_manager(), ConnectionError("away"))("Do it")

    result = build(new_manager(), "broken is done.")("Do it")

    assert result.status == Status.INTERRUPTED


def test_a_process_ends_while_a_node_beside_the_one_that_asks_still_runs(
    new_manager: NewManager, observer: Client, database: str, stored: Stored
) -> None:
    crashed: list[dict[str, Any]] = []

    def build(manager: MongoDBSessionManager) -> Graph:
        slow = Agent(name="slow", model=ScriptedModel(["Slow."], latency_ms=300), callback_handler=None)
        inside = graph("inner", ("n", asker("n")))
        work = graph("outer", ("inside", inside), ("slow", slow), manager=manager, chain=False)
        work.add_hook(lambda event: crashed.append(stored()), AfterNodeCallEvent)
        return work

    build(new_manager())("Do it")
    # The process ends right after the slow node has.
    observer[database]["agent_sessions"].replace_one({"_id": "s-1"}, crashed[0])

    asked = build(new_manager())("Do it")
    assert asked.status == Status.INTERRUPTED
    result = build(new_manager())(answers(asked.interrupts))

    assert result.status == Status.COMPLETED
    assert {*result.results} == {"inside", "slow"}


@pytest.mark.parametrize("node_id", ["completed_nodes", "responses"])
def test_a_node_whose_name_the_sdk_uses(new_manager: NewManager, stored: Stored, node_id: str) -> None:
    """The SDK mixes these up when they are answered; storing them is no fault of ours."""
    result = graph("outer", (node_id, graph("inner", ("n", asker("n")))), manager=new_manager())("Do it")

    assert result.status == Status.INTERRUPTED
    assert stored()["multi_agents"]["outer"]["inner"][0]["path"] == [node_id]


# What does not fit


def missing_in_outer(manager: MongoDBSessionManager) -> Graph:
    return graph("outer", ("last", asker("last", "Last.")), manager=manager)


def missing_inside(manager: MongoDBSessionManager) -> Graph:
    inner = graph("inner", ("first", asker("first", "First.")))
    return graph("outer", ("inside", inner), ("last", asker("last", "Last.")), manager=manager)


def an_agent_now(manager: MongoDBSessionManager) -> Graph:
    return graph("outer", ("inside", asker("inside")), ("last", asker("last", "Last.")), manager=manager)


def a_swarm_now(manager: MongoDBSessionManager) -> Graph:
    swarm = Swarm([asker("first"), asker("second")], id="inner")
    return graph("outer", ("inside", swarm), ("last", asker("last", "Last.")), manager=manager)


def outer_is_a_swarm(manager: MongoDBSessionManager) -> Swarm:
    return Swarm([asker("inside"), asker("last")], id="outer", session_manager=manager)


@pytest.mark.parametrize("build", [missing_in_outer, missing_inside, an_agent_now, a_swarm_now, outer_is_a_swarm])
def test_another_structure_is_refused(new_manager: NewManager, stored: Stored, build: Any) -> None:
    asked = graph_in_graph(new_manager())("Do it")
    before = stored()

    with pytest.raises(MongoDBSessionError, match=r"'outer' of session 's-1'.*sync_multi_agent") as caught:
        build(new_manager())

    assert not isinstance(caught.value, PyMongoError)
    assert stored() == before
    assert graph_in_graph_done(new_manager())(answers(asked.interrupts)).status == Status.COMPLETED


def test_an_agent_that_has_become_a_graph_is_refused(new_manager: NewManager) -> None:
    graph("outer", ("inside", asker("inside")), manager=new_manager())("Do it")

    with pytest.raises(MongoDBSessionError, match="inside node 'inside'"):
        graph("outer", ("inside", graph("inner", ("n", asker("n")))), manager=new_manager())


def test_what_was_refused_can_be_given_up(new_manager: NewManager) -> None:
    graph_in_graph(new_manager())("Do it")
    new = ("new", asker("new", "New."))
    with pytest.raises(MongoDBSessionError):
        graph("outer", new, manager=new_manager())

    new_manager().sync_multi_agent(graph("outer", ("new", asker("new", "New."))))

    result = graph("outer", ("new", asker("new", "New.")), manager=new_manager())("Do it")
    assert result.status == Status.COMPLETED


def test_nodes_that_were_added_are_no_hindrance(new_manager: NewManager) -> None:
    asked = graph_in_graph(new_manager())("Do it")
    inner = graph(
        "inner", ("first", asker("first")), ("second", asker("second", "second is done.")), ("third", asker("t", "3"))
    )
    nodes = [("inside", inner), ("last", asker("last", "Last.")), ("more", asker("more", "More."))]

    result = graph("outer", *nodes, manager=new_manager())(answers(asked.interrupts))

    assert result.status == Status.COMPLETED
    assert {*result.results} == {"inside", "last", "more"}


def test_a_finished_run_asks_for_no_structure(new_manager: NewManager) -> None:
    graph("outer", ("old", asker("old", "Old.")), manager=new_manager())("Do it")

    result = graph("outer", ("new", asker("new", "New.")), manager=new_manager())("Do it")

    assert result.status == Status.COMPLETED


Change = Callable[[dict[str, Any]], Any]
OTHER_VERSIONS: dict[str, Change] = {
    "no status": lambda record: record["state"].pop("status"),
    "an unknown status": lambda record: record["state"].update(status="pondering"),
    "a result of another shape": lambda record: record["state"]["node_results"].update(first={"result": {"type": "x"}}),
    "an interrupt of another shape": lambda record: [
        one.update(who="me") for one in record["state"]["_internal_state"]["interrupt_state"]["interrupts"].values()
    ],
    "no interrupts": lambda record: record["state"]["_internal_state"]["interrupt_state"].pop("interrupts"),
    "no context": lambda record: record["state"]["_internal_state"]["interrupt_state"].pop("context"),
    "inside, no interrupts": lambda record: record["inner"][0]["state"]["_internal_state"]["interrupt_state"].pop(
        "interrupts"
    ),
    "interrupts of another shape": lambda record: record["state"]["_internal_state"].update(
        interrupt_state={"activated": True, "context": [1], "interrupts": {}}
    ),
    "nodes of another shape": lambda record: record["state"].update(interrupted_nodes=[{"id": "inside"}]),
    "inside, no status": lambda record: record["inner"][0]["state"].pop("status"),
}


@pytest.mark.parametrize("change", OTHER_VERSIONS.values(), ids=OTHER_VERSIONS.keys())
def test_a_state_of_another_version_is_refused(
    new_manager: NewManager, observer: Client, database: str, stored: Stored, change: Change
) -> None:
    def build(manager: MongoDBSessionManager) -> Graph:
        inner = graph("inner", ("n", asker("n")))
        return graph("outer", ("first", asker("first", "First.")), ("inside", inner), manager=manager)

    build(new_manager())("Do it")
    session = stored()
    change(session["multi_agents"]["outer"])
    observer[database]["agent_sessions"].replace_one({"_id": "s-1"}, session)

    with pytest.raises(MongoDBSessionError, match="'outer' of session 's-1'"):
        build(new_manager())

    assert stored()["multi_agents"] == session["multi_agents"]


def _context(record: dict[str, Any]) -> dict[str, Any]:
    """What a state keeps of the node that was interrupted."""
    state = record["inner"][0]["state"] if "inner" in record else record["state"]
    context: dict[str, Any] = state["_internal_state"]["interrupt_state"]["context"]["n"]
    return context


OTHER_CONTEXTS: dict[str, Change] = {
    "a pending call of another shape": lambda kept: kept["interrupt_state"]["pending_tool_execution"].update(more=1),
    "an interrupt of another shape": lambda kept: [
        one.update(who="me") for one in kept["interrupt_state"]["interrupts"].values()
    ],
    "no interrupt": lambda kept: kept.pop("interrupt_state"),
    "no messages": lambda kept: kept.update(messages=None),
    "a message without content": lambda kept: kept.update(messages=[{"role": "user"}]),
    "no state": lambda kept: kept.pop("state"),
    "nothing": lambda kept: kept.clear(),
}


def alone_in_graph(manager: MongoDBSessionManager) -> Graph:
    return graph("outer", ("n", asker("n")), manager=manager)


def alone_in_swarm(manager: MongoDBSessionManager) -> Swarm:
    return Swarm([asker("n")], id="outer", session_manager=manager)


def alone_inside(manager: MongoDBSessionManager) -> Graph:
    return graph("outer", ("inside", Swarm([asker("n")], id="inner")), manager=manager)


@pytest.mark.parametrize("build", [alone_in_graph, alone_in_swarm, alone_inside])
@pytest.mark.parametrize("change", OTHER_CONTEXTS.values(), ids=OTHER_CONTEXTS.keys())
def test_an_interrupted_agent_of_another_version_is_refused(
    new_manager: NewManager, observer: Client, database: str, stored: Stored, build: Any, change: Change
) -> None:
    """The SDK reads it when it is answered: a bare error then, or a Swarm that failed."""
    build(new_manager())("Do it")
    session = stored()
    change(_context(session["multi_agents"]["outer"]))
    observer[database]["agent_sessions"].replace_one({"_id": "s-1"}, session)

    with pytest.raises(MongoDBSessionError, match=r"'outer' of session 's-1'.*node 'n'.*to go on"):
        build(new_manager())

    assert stored()["multi_agents"] == session["multi_agents"]


def test_one_that_was_stored_without_what_is_inside_is_refused(
    new_manager: NewManager, observer: Client, database: str, stored: Stored
) -> None:
    """As it was before: to answer it raised a bare ValueError and left the stored state failed."""
    graph_in_graph(new_manager())("Do it")
    observer[database]["agent_sessions"].update_one({}, {"$unset": {"multi_agents.outer.inner": ""}})
    before = stored()

    with pytest.raises(MongoDBSessionError, match="inside node 'inside'"):
        graph_in_graph(new_manager())

    assert stored() == before


def test_one_that_comes_back_by_itself_needs_no_state_beside_the_outers(
    new_manager: NewManager, observer: Client, database: str
) -> None:
    """As it could be done before: the inner one has the manager too."""

    def build(manager: MongoDBSessionManager) -> Graph:
        return graph("outer", ("inside", graph("inner", ("n", asker("n")), manager=manager)), manager=manager)

    asked = build(new_manager())("Do it")
    observer[database]["agent_sessions"].update_one({}, {"$unset": {"multi_agents.outer.inner": ""}})

    result = build(new_manager())(answers(asked.interrupts))

    assert result.status == Status.COMPLETED


# Orchestrators of somebody's own


class Relay(MultiAgentBase):
    """Runs one agent, and keeps what it has said in a form of its own."""

    def __init__(self, manager: MongoDBSessionManager | None = None) -> None:
        super().__init__()
        self.id, self.log = "relay", [{"said": b"\x00" * 40, "as the SDK": encoded(b"\x01\x02")}]
        if manager is not None:
            manager.initialize_multi_agent(self)

    async def invoke_async(self, task: Any, invocation_state: Any = None, **kwargs: Any) -> MultiAgentResult:
        return MultiAgentResult(status=Status.COMPLETED)

    def serialize_state(self) -> dict[str, Any]:
        return {"type": "relay", "log": self.log}

    def deserialize_state(self, payload: dict[str, Any]) -> None:
        self.log = payload["log"]


def encoded(content: bytes) -> dict[str, Any]:
    return {"__bytes_encoded__": True, "data": base64.b64encode(content).decode()}


def test_an_orchestrator_of_somebodys_own_gets_its_state_as_it_gave_it(
    new_manager: NewManager, mongo_client: Client, database: str
) -> None:
    manager = new_manager()
    relay = Relay(manager)
    relay.log.append({"more": encoded(b"\xff"), "no base64": {"__bytes_encoded__": True, "data": "!"}})
    manager.sync_multi_agent(relay)

    restored = Relay(new_manager())

    assert restored.log == relay.log
    repository = MongoDBSessionRepository(client=mongo_client, database_name=database)
    assert repository.read_multi_agent("s-1", "relay") == relay.serialize_state()


class Stateless(Relay):
    """Asks, and has nothing to store."""

    async def invoke_async(self, task: Any, invocation_state: Any = None, **kwargs: Any) -> MultiAgentResult:
        asked = [Interrupt("i-1", "approval")]
        return MultiAgentResult(status=Status.INTERRUPTED, interrupts=asked)

    def serialize_state(self) -> dict[str, Any]:
        raise NotImplementedError


def test_one_that_has_no_state_is_stored_without(new_manager: NewManager, stored: Stored) -> None:
    result = graph("outer", ("inside", Stateless()), manager=new_manager())("Do it")

    assert result.status == Status.INTERRUPTED
    assert stored()["multi_agents"]["outer"]["state"]["status"] == "interrupted"
    restored = graph("outer", ("inside", Stateless()), manager=new_manager())
    assert restored.state.status == Status.INTERRUPTED  # it may know by itself where it was


def test_a_state_that_is_read_can_be_written(new_manager: NewManager, stored: Stored) -> None:
    """With what is inside of it: to another session, say."""
    repository = new_manager().session_repository
    asked = four_levels(new_manager())("Do it")
    state = repository.read_multi_agent("s-1", "outer")
    assert state is not None
    new_manager("s-2")

    stores_of(repository).multi_agents.write_multi_agent("s-2", "outer", state, create=True)

    assert stored("s-2")["multi_agents"]["outer"]["inner"] == stored()["multi_agents"]["outer"]["inner"]
    assert four_levels(new_manager("s-2"))(answers(asked.interrupts)).status == Status.COMPLETED
