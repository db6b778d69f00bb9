"""A Graph and a Swarm in one session: both ask a person in one process, and get the answer in another.

The Graph asks before one of its nodes begins, the Swarm asks in a tool of one of its agents. Run it as it is: it needs
no account and no network.
"""

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any
from uuid import uuid4

from strands import Agent, ToolContext, tool
from strands.hooks import BeforeNodeCallEvent
from strands.multiagent import GraphBuilder, Swarm
from strands.multiagent.base import MultiAgentResult
from strands.multiagent.graph import Graph
from strands.types.content import Messages
from strands.types.interrupt import InterruptResponseContent

from mongodb_session_manager import MongoDBSessionManager
from mongodb_session_manager.testing import MongodNotFoundError, MongodStartError, ScriptedModel, running_mongodb

HAND_OVER = {"agent_name": "refunds", "message": "One chair is broken."}


def main() -> None:
    session_id = f"multi-agent-{uuid4()}"
    with running_mongodb() as uri:
        # Only the ids of the questions go from one process to the other, as through a browser.
        question_ids = in_a_process(ask, uri, session_id)
        in_a_process(answer, uri, session_id, question_ids)


def in_a_process(step: Callable[..., Any], *arguments: Any) -> Any:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(step, *arguments).result()


def ask(uri: str, session_id: str) -> list[str]:
    """Begin both, until each of them waits for a person."""
    print(f"process {os.getpid()}")
    with MongoDBSessionManager(session_id, uri) as manager:
        results: list[MultiAgentResult] = [
            make_graph(manager)("Offer 20 chairs."),
            make_swarm(manager)("A chair is broken."),
        ]
        show(manager)
    return [question.id for result in results for question in result.interrupts]


def answer(uri: str, session_id: str, question_ids: list[str]) -> None:
    """Make both again, with the same ids, and give them the answers."""
    print(f"process {os.getpid()}")
    with MongoDBSessionManager(session_id, uri) as manager:
        for_graph, for_swarm = question_ids
        make_graph(manager)([yes(for_graph)])
        make_swarm(manager)([yes(for_swarm)])
        show(manager)
        manager.delete_session()


def yes(question_id: str) -> InterruptResponseContent:
    return {"interruptResponse": {"interruptId": question_id, "response": "yes"}}


def make_graph(manager: MongoDBSessionManager) -> Graph:
    # The Graph gets the session manager; its agents get none.
    builder = GraphBuilder()
    builder.add_node(make_agent("writer", lambda messages: "20 chairs for 900 EUR."), "writer")
    builder.add_node(make_agent("sender", lambda messages: "The offer is on its way."), "sender")
    builder.add_edge("writer", "sender")
    builder.set_graph_id("offer").set_session_manager(manager).set_max_node_executions(5)
    graph = builder.build()
    graph.add_hook(approve, BeforeNodeCallEvent)
    return graph


def approve(event: BeforeNodeCallEvent) -> None:
    if event.node_id == "sender":
        event.interrupt("approval", reason="May the offer be sent?")


def make_swarm(manager: MongoDBSessionManager) -> Swarm:
    agents = [
        make_agent("desk", lambda messages: call("handoff_to_agent", HAND_OVER, messages) or "Handed over."),
        make_agent("refunds", lambda messages: call("pay_back", {"amount": 45}, messages) or "Paid.", tools=[pay_back]),
    ]
    return Swarm(agents, id="complaint", session_manager=manager)


@tool(context=True)
def pay_back(amount: int, tool_context: ToolContext) -> str:
    """Pay money back, if a person agrees.

    Args:
        amount: How much, in EUR.
        tool_context: From the SDK.
    """
    decision = tool_context.interrupt("refund", reason=f"May {amount} EUR be paid back?")
    return f"{amount} EUR: {decision}"


def call(name: str, arguments: dict[str, Any], messages: Messages) -> Any:
    """Call a tool, or return None when its result is there."""
    if any("toolResult" in block for block in messages[-1]["content"]):
        return None
    return {"toolUse": {"toolUseId": f"{name}-1", "name": name, "input": arguments}}


def make_agent(name: str, says: Callable[[Messages], Any], **options: Any) -> Agent:
    def speak(messages: Messages) -> Any:
        print(f"  the model of {name} is called")
        return says(messages)

    return Agent(name=name, model=ScriptedModel(default=speak), callback_handler=None, **options)


def show(manager: MongoDBSessionManager) -> None:
    session = manager.session_repository.collection.find_one({"_id": manager.session_id}) or {}
    for name, stored in session["multi_agents"].items():
        state = stored["state"]  # as the SDK serialises it
        nodes = {node: result["status"] for node, result in state["node_results"].items()}
        questions = state["_internal_state"]["interrupt_state"]["interrupts"].values()
        print(f"  stored: {name} {state['status']}, {nodes}, {[question['reason'] for question in questions]}")


if __name__ == "__main__":
    try:
        main()
    except (MongodNotFoundError, MongodStartError) as error:
        raise SystemExit(str(error)) from None
