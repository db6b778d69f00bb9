"""What is stored has the fields that ``types`` tells of, and no others."""

from collections.abc import Mapping
from datetime import datetime
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

import pytest
from pymongo import MongoClient
from strands import Agent, tool
from strands.agent.conversation_manager import SlidingWindowConversationManager
from strands.multiagent import GraphBuilder
from strands.types.content import ContentBlock

from mongodb_session_manager.testing import Redaction, ScriptedModel
from mongodb_session_manager.types import (
    AgentDoc,
    FeedbackDoc,
    FeedbackSegmentDoc,
    MessageDoc,
    OutboxDoc,
    SegmentDoc,
    SessionDoc,
)
from tests.aliases import NewAgent, NewManager, Stored

LOOK_UP = {"toolUse": {"toolUseId": "t-1", "name": "look_up", "input": {"number": 1}}}
KINDS = {"messages": SegmentDoc, "feedback": FeedbackSegmentDoc, "outbox": OutboxDoc}


@tool
def look_up(number: int) -> str:
    """Look something up."""
    return "found"


def misfits(value: Any, hint: Any, path: str = "") -> list[str]:
    """The places where a stored value is not what a type hint says."""
    if is_typeddict(hint):
        return _misfits_of_document(value, hint, path)
    kind, inner = get_origin(hint), get_args(hint)
    if kind in (Union, UnionType):
        return min((misfits(value, each, path) for each in inner), key=len)
    if kind is Literal:
        return [] if value in inner else [path]
    if kind is list and isinstance(value, list):
        return [each for index, item in enumerate(value) for each in misfits(item, inner[0], f"{path}[{index}]")]
    if kind is dict and isinstance(value, dict):
        return [each for name, item in value.items() for each in misfits(item, inner[1], f"{path}.{name}")]
    plain = (int, float) if hint is float else kind or hint
    return [] if hint is Any or isinstance(value, plain) else [path]


def _misfits_of_document(value: Any, hint: Any, path: str) -> list[str]:
    if not isinstance(value, Mapping):
        return [path]
    hints = get_type_hints(hint)
    named = hints.keys() | (value.keys() if hint is FeedbackDoc else set())
    missing = [f"{path}.{name} is missing" for name in hint.__required_keys__ - value.keys()]
    unknown = [f"{path}.{name} is unknown" for name in value.keys() - named]
    found = [misfits(item, hints[name], f"{path}.{name}") for name, item in value.items() if name in hints]
    return missing + unknown + [each for one in found for each in one]


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ({"message_id": 0, "content": [], "at": 1}, ".at is unknown"),
        ({"content": []}, ".message_id is missing"),
        ({"message_id": "0"}, ".message_id"),
        ({"message_id": 0, "files": ["a", 5]}, ".files[1]"),
        ({"message_id": 0, "created_at": "2026"}, ".created_at"),
        (
            {"message_id": 0, "event_loop_metrics": {"usage": {"inputTokens": None}}},
            ".event_loop_metrics.usage.inputTokens",
        ),
    ],
)
def test_a_misfit_is_found(document: dict[str, Any], path: str) -> None:
    assert misfits(document, MessageDoc) == [path]


def test_a_session_with_everything_in_it(new_manager: NewManager, new_agent: NewAgent, stored: Stored) -> None:
    manager = new_manager(exclusive=True, application_name="shop")
    turns = (LOOK_UP, "Found.", Redaction("[hidden]", text="Blocked."))
    agent = new_agent(
        manager,
        *turns,
        agent_id="a.b",
        system_prompt="Be brief.",
        state={"customer": "C-42"},
        tools=[look_up],
        conversation_manager=SlidingWindowConversationManager(window_size=4, pin_first=1),
    )
    agent("Look it up.")
    report: ContentBlock = {"document": {"format": "pdf", "name": "d", "source": {"bytes": bytes(300_000)}}}
    agent([report])
    for number in range(3):
        agent(f"Prompt {number}")
    manager.set_prompt_metadata("a.b", {"name": "brief"})
    manager.update_metadata({"topic": "pears"})
    manager.add_feedback({"rating": "up", "agent_id": "a.b", "message_id": 1})
    records = [{"id": "n-1", "text": "small"}, {"id": "n-2", "text": "x" * 300_000}]
    for record in records:
        manager.session_repository.update_metadata("s-1", {"told": record["id"]}, outbox=[record])
    manager.flush()

    document = stored()
    assert misfits(document, SessionDoc) == []
    assert {"lease", "has_files", "outbox", "outbox_documents", "feedback_bytes"} <= document.keys()
    assert {"segments", "moved_count", "moved_usage"} == AgentDoc.__annotations__.keys() - document["agents"][
        "a%2Eb"
    ].keys()


def test_what_stands_beside_a_session(
    new_manager: NewManager, new_agent: NewAgent, stored: Stored, observer: MongoClient[dict[str, Any]], database: str
) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    for _ in range(6):
        agent("x" * 200_000)
    for _ in range(3):
        manager.add_feedback({"comment": "x" * 200_000})
    manager.session_repository.update_metadata("s-1", {"told": True}, outbox=[{"id": "n", "text": "x" * 300_000}])
    manager.flush()
    manager.close()

    beside = list(observer[database].agent_sessions_segments.find())
    assert misfits(stored(), SessionDoc) == []
    assert {each["kind"] for each in beside} == KINDS.keys()
    assert [found for each in beside for found in misfits(each, KINDS[each["kind"]])] == []
    assert stored()["agents"]["default"]["segments"]
    assert stored()["feedback_segments"]


@pytest.mark.parametrize("size", [10, 2_000_000], ids=["small", "in a file"])
def test_a_graph(new_manager: NewManager, stored: Stored, size: int) -> None:
    manager = new_manager()
    builder = GraphBuilder()
    builder.add_node(Agent(name="first", model=ScriptedModel(["x" * size]), callback_handler=None), "first")
    builder.set_max_node_executions(2)
    builder.set_session_manager(manager)
    graph = builder.build()
    task: list[ContentBlock] = [{"text": "Go"}, {"image": {"format": "png", "source": {"bytes": b"png"}}}]
    graph(task)
    manager.flush()

    (state,) = stored()["multi_agents"].values()
    assert misfits(stored(), SessionDoc) == []
    assert ("files" in state) is (size > 1_000_000)
    assert isinstance(state["updated_at"], datetime)
