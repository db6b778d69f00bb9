"""Keys that JSON takes come back equal, wherever an application hands them over."""

import math
from enum import IntEnum
from typing import Any

import pytest
from strands import Agent, tool
from strands.multiagent import GraphBuilder
from strands.types.content import Message

from mongodb_session_manager.errors import UnstorableValueError
from mongodb_session_manager.testing import ScriptedModel
from tests.aliases import NewAgent, NewManager
from tests.talking import every_durability, user

SALES = {2024: 5, 2023: 4, "2024": 6, 1.5: 7, -0.0: 8, None: 9, True: 10, 2**70: 11, math.inf: 12, "%bson:1": 13}


class Quarter(IntEnum):
    SECOND = 2


@tool
def count_sales() -> dict[str, Any]:
    """Count, as a DataFrame does."""
    return {"status": "success", "content": [{"json": {"sales": SALES, "by quarter": {Quarter.SECOND: {0: 1}}}}]}


COUNT = {"toolUse": {"toolUseId": "t-1", "name": "count_sales", "input": {}}}


def same(found: Any, expected: Any) -> bool:
    """Tell whether two values are the same, with the types and the order of keys."""
    return repr(found) == repr(expected)


@every_durability
def test_results_of_tools(new_manager: NewManager, new_agent: NewAgent, durability: str) -> None:
    agent = new_agent(new_manager(durability=durability), COUNT, tools=[count_sales])
    agent("How many?")

    manager = new_manager()
    restored = new_agent(manager, tools=[count_sales])

    result: Any = restored.messages[2]["content"][0]
    assert same(result["toolResult"]["content"], [{"json": {"sales": SALES, "by quarter": {2: {0: 1}}}}])
    assert restored.messages == agent.messages
    listed = manager.list_messages("default")[2]["content"]
    assert same(listed, restored.messages[2]["content"])
    restored("And now?")


def test_states(new_manager: NewManager, new_agent: NewAgent) -> None:
    agent = new_agent(new_manager(), state={"sales": SALES})
    agent("Hi")
    agent._model_state["by"] = SALES
    agent("And?")

    restored = new_agent(new_manager())

    assert same(restored.state.get(), {"sales": SALES})
    assert same(restored._model_state, {"by": SALES})


def test_what_an_application_keeps_beside(new_manager: NewManager, new_agent: NewAgent) -> None:
    manager = new_manager()
    new_agent(manager)("Hi")

    manager.update_metadata({"sales": SALES, "of.it": [{None: {1: 2}}]})
    manager.add_feedback({"scores": SALES})
    manager.set_prompt_metadata("default", {"weights": SALES})

    manager = new_manager()
    metadata = manager.get_metadata()["metadata"]
    assert same(metadata["sales"], SALES)
    assert same(metadata["of"], {"it": [{None: {1: 2}}]})
    assert same(manager.get_feedbacks()[0]["scores"], SALES)
    config = manager.get_agent_config("default")
    assert config is not None
    assert same(config["prompt_metadata"], {"weights": SALES})


@pytest.mark.parametrize("key", [1, None, True, 1.5], ids=str)
def test_fields_of_metadata_and_feedback_are_named_by_strings(new_manager: NewManager, key: Any) -> None:
    manager = new_manager()

    with pytest.raises(ValueError, match="string"):
        manager.update_metadata({key: 1})
    with pytest.raises(UnstorableValueError, match="string"):
        manager.add_feedback({key: 1})


def test_multi_agents(new_manager: NewManager) -> None:
    manager = new_manager()
    builder = GraphBuilder()
    builder.add_node(Agent(model=ScriptedModel(default="Okay."), callback_handler=None), "one")
    builder.set_session_manager(manager)
    builder.set_max_node_executions(5)
    graph = builder.build()
    state = {**graph.serialize_state(), "sales": SALES}

    manager._stores.multi_agents.write_multi_agent("s-1", "of sales", state, create=True)

    assert same(manager.session_repository.read_multi_agent("s-1", "of sales"), state)


def test_appended_messages(new_manager: NewManager, new_agent: NewAgent) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    message: Any = {**user("Hi"), "tracking_id": "t-1", "metadata": {"custom": {"sales": SALES}}, "more": {1: 2}}

    manager.append_message(message, agent)

    found: list[Message] = new_agent(new_manager()).messages
    assert same(found, [message])
