"""Reads all agents of a session, also those that the first version nested in one another."""

from collections.abc import Callable
from typing import TypeAlias

from pymongo.collection import Collection

from .._schema.nested import nested_agent_ids
from .._schema.values import Pipeline, Stored

AgentsPipeline: TypeAlias = Callable[..., Pipeline]


def read_agents(sessions: Collection[Stored], session_id: str, pipeline: AgentsPipeline) -> list[Stored] | None:
    """Return the agents that a pipeline over all agents gives; None if there is no such session."""
    session = read_session_agents(sessions, session_id, pipeline)
    return None if session is None else list(session["agents"])


def read_session_agents(sessions: Collection[Stored], session_id: str, pipeline: AgentsPipeline) -> Stored | None:
    """Return the result of a pipeline over all agents; None if there is no such session.

    If agents may be nested in others, all agents are read once to find these, and the pipeline runs again.
    """
    session = next(sessions.aggregate(pipeline(session_id)), None)
    if session is None or not any(agent["holds_others"] for agent in session["agents"]):
        return session
    found = sessions.find_one({"_id": session_id}, {"agents": 1}) or {}
    nested = nested_agent_ids(found.get("agents", {}))
    return next(sessions.aggregate(pipeline(session_id, nested)), None) if nested else session
