"""Sessions as the first version of this system stored them."""

import base64
import copy
from datetime import datetime, timezone
from typing import Any

from strands.types.content import Message

from tests.aliases import Document

AT = datetime(2024, 5, 6, 7, 8, 9, 123_000, tzinfo=timezone.utc)
SESSION, AGENT = "s-1", "default"

IMAGE = b"\x89PNG\0\xff"
CONTENT: list[tuple[str, list[Any]]] = [
    ("user", [{"text": "hello"}, {"image": {"format": "png", "source": {"bytes": IMAGE}}}]),
    ("assistant", [{"text": "looking"}, {"toolUse": {"toolUseId": "t", "name": "find", "input": {"a": {"n": 2**40}}}}]),
    ("user", [{"toolResult": {"toolUseId": "t", "status": "success", "content": [{"json": {"$ref": "#/x"}}]}}]),
    ("assistant", [{"text": "found"}]),
]
STATE = {"language": "en", "nested": {"visits": [1, 2.5, None]}}
WINDOW = {"__name__": "SlidingWindowConversationManager", "removed_message_count": 0, "model_call_count": 0}
INTERNAL = {
    "interrupt_state": {"interrupts": {}, "context": {}, "activated": False},
    "model_state": {"response_id": "r"},
}


def as_v1(value: Any) -> Any:
    """The SDK's JSON form, in which the first version stored messages and state."""
    if isinstance(value, bytes):
        return {"__bytes_encoded__": True, "data": base64.b64encode(value).decode()}
    if isinstance(value, dict):
        return {key: as_v1(item) for key, item in value.items()}
    return [as_v1(item) for item in value] if isinstance(value, list) else value


def element(message_id: int, role: str, content: list[Any], at: Any = AT, **more: Any) -> Document:
    message = {"role": role, "content": as_v1(content), "theirs": message_id}
    times = {"created_at": at, "updated_at": at}
    return {"message": message, "message_id": message_id, "redact_message": None, **times, **more}


def legacy_agent(agent_id: str = AGENT, at: Any = AT, **more: Any) -> Document:
    metrics = {"accumulated_usage": {"inputTokens": 3}, "accumulated_metrics": {"latencyMs": 4}}
    messages = [element(number, role, content, at) for number, (role, content) in enumerate(CONTENT)]
    messages[1]["event_loop_metrics"] = metrics
    data = {
        "agent_id": agent_id,
        "state": as_v1(STATE),
        "conversation_manager_state": dict(WINDOW),
        "_internal_state": copy.deepcopy(INTERNAL),
        "created_at": "2024-05-06T07:08:09.123456+00:00",
        "updated_at": "2024-05-06T07:08:09.123456+00:00",
        "theirs": {"a": 1},
    }
    return {
        "agent_data": data,
        "created_at": at,
        "updated_at": at,
        "messages": messages,
        "theirs": [1],
        **more,
    }


def legacy(agents: Document | None = None, at: Any = AT, **more: Any) -> Document:
    return {
        "_id": SESSION,
        "session_id": SESSION,
        "created_at": at,
        "updated_at": at,
        "agents": {AGENT: legacy_agent(at=at)} if agents is None else agents,
        "metadata": {"priority": "high", "theirs": {"x": 1}},
        "feedbacks": [{"rating": "up", "comment": "good", "created_at": at}],
        "theirs": {"since": at},
        **more,
    }


def plain(messages: list[Message]) -> list[tuple[str, list[Any]]]:
    return [(message["role"], list(message["content"])) for message in messages]
