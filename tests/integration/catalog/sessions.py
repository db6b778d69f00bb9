"""Session documents for catalogs, as this version stores them."""

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

from mongodb_session_manager import Page
from mongodb_session_manager.types import SessionSummary
from tests.aliases import Document

START = datetime(2026, 1, 31, tzinfo=timezone.utc)


def at(minute: float) -> datetime:
    """A time so many minutes after the start."""
    return START + timedelta(minutes=minute)


def session(session_id: str, minute: float = 0, **more: Any) -> Document:
    return {
        "_id": session_id,
        "session_id": session_id,
        "session_type": "AGENT",
        "schema_version": 2,
        "application_name": "shop",
        "created_at": at(minute),
        "updated_at": at(minute),
        "metadata": {},
        "feedbacks": [],
        "guardrail_events": [],
        "agent_ids": [],
        "agents": {},
        "multi_agents": {},
        **more,
    }


def call(input_tokens: int, model: str | None = "haiku", **more: Any) -> Document:
    """The metrics of a model call."""
    usage = {"inputTokens": input_tokens, "outputTokens": 2, "totalTokens": input_tokens + 2, **more}
    return {"usage": usage, "metrics": {"latencyMs": 5}, **({} if model is None else {"model": model})}


def message(message_id: int, role: str, *content: Any, minute: float = 0, **more: Any) -> Document:
    blocks = [{"text": block} if isinstance(block, str) else block for block in content]
    times = {"created_at": at(minute), "updated_at": at(minute)}
    return {
        "message_id": message_id,
        "role": role,
        "content": blocks,
        "tracking_id": f"t-{message_id}",
        **times,
        **more,
    }


def agent(agent_id: str, *messages: Document, **more: Any) -> Document:
    data = {"agent_id": agent_id, "state": {}, "conversation_manager_state": {}, "model": "haiku"}
    guard = {"revision": len(messages), "next_message_id": len(messages)}
    return {
        "agent_data": data,
        "messages": [*messages],
        "guard": guard,
        "created_at": START,
        "updated_at": START,
        **more,
    }


def with_agent(session_id: str, *messages: Document, **more: Any) -> Document:
    return session(session_id, agents={"a": agent("a", *messages)}, agent_ids=["a"], **more)


def ids(found: Page[SessionSummary] | Sequence[SessionSummary]) -> list[str]:
    return [each.session_id for each in (found.items if isinstance(found, Page) else found)]
