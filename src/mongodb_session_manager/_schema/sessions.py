"""New sessions, and how a session is opened."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

from bson import ObjectId

from ..types import SessionDoc
from .expiry import EXPIRED, IS_EXPIRED
from .ids import now
from .nested import is_nested_expression, may_be_nested, own_and_nested
from .reads import ReadAgentDoc, messages_expression, restore_pipeline
from .values import Stored, Update

SCHEMA_VERSION = 2

_NOTHING: Mapping[str, Any] = {}

# The fields that the constructor of a manager reads; never the agents, which hold the histories.
OPENING_PROJECTION = dict.fromkeys(
    (
        "session_id",
        "instance",
        "session_type",
        "schema_version",
        "application_name",
        "created_at",
        "updated_at",
        "agent_ids",
        "outbox",
        "outbox_documents",
        "expires_at",
        "ttl_seconds",
        "held",
        "has_files",
    ),
    1,
)

# The fields in which the agents come that an opening brings along, and how large all of them are.
BROUGHT: Final = "brought"
AGENTS_BYTES: Final = "agents_bytes"


class OpenedDoc(SessionDoc, total=False):
    """A session as its opening reads it.

    Attributes:
        brought: The agents that come along.
        agents_bytes: The size of all agents.
    """

    brought: list[ReadAgentDoc]
    agents_bytes: int


def new_session_doc(session_id: str, session_type: str, application_name: str | None, at: datetime) -> Stored:
    """Return the fields of a session that has no content yet (without ``_id`` and ``schema_version``)."""
    return {
        "session_id": session_id,
        "session_type": session_type,
        "instance": ObjectId(),
        "application_name": application_name,
        "created_at": at,
        "updated_at": at,
        "metadata": {},
        "feedbacks": [],
        "guardrail_events": [],
        "agent_ids": [],
        "agents": {},
        "multi_agents": {},
    }


def opening_update(
    session_id: str, session_type: str, application_name: str | None, lifetime: Mapping[str, Any] = _NOTHING
) -> tuple[Stored, Update]:
    """Return the upsert that opens a session, new or existing, and what a new one starts with."""
    fresh = new_session_doc(session_id, session_type, application_name, now()) | dict(lifetime)
    return fresh, {"$setOnInsert": {"schema_version": SCHEMA_VERSION, **fresh}}


def sessions_filter(session_ids: Iterable[str]) -> Stored:
    """Return the filter that finds several sessions."""
    return {"_id": {"$in": list(session_ids)}}


def opening_projection(agent_ids: Iterable[str]) -> Stored:
    """Return what opening a session reads: with it come agents, each as ``restore_pipeline`` reads it.

    And how large all agents are, and whether the session has expired.
    """
    agents = [_brought(agent_id) for agent_id in agent_ids]
    fields = {**OPENING_PROJECTION, EXPIRED: IS_EXPIRED, AGENTS_BYTES: {"$bsonSize": {"agents": "$agents"}}}
    return {**fields, BROUGHT: agents} if agents else fields


@lru_cache(maxsize=64)
def _brought(agent_id: str) -> Stored:
    """Return the expression that reads an agent, nested or not, since a projection cannot lift a nested one first."""
    fields: Stored = restore_pipeline("", agent_id)[-1]["$project"]
    fields["embedded_bytes"] = {"$bsonSize": {"messages": messages_expression(agent_id)}}
    if not may_be_nested(agent_id):
        return fields
    nested = {**_read_elsewhere(fields, *own_and_nested(agent_id)), "is_nested": {"$literal": True}}
    return {"$cond": [is_nested_expression(agent_id), nested, fields]}


def _read_elsewhere(expression: Any, path: str, other: str) -> Any:
    """Return an expression with another path in the place of one and of what is below it."""
    if isinstance(expression, dict):
        return {name: _read_elsewhere(value, path, other) for name, value in expression.items()}
    if isinstance(expression, list):
        return [_read_elsewhere(value, path, other) for value in expression]
    is_below = isinstance(expression, str) and f"{expression}.".startswith(f"{path}.")
    return other + expression[len(path) :] if is_below else expression
