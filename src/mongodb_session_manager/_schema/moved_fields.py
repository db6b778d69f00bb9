"""Fields of agents that move from the session document to files."""

from collections.abc import Iterable, Mapping
from typing import Any

from .agents import agents_pipeline
from .blobs import offload_data
from .ids import agent_path
from .messages import OFFLOADED_FIELDS
from .values import FilterAndUpdate, Pipeline, Stored

# By agent, the names of fields.
Fields = Mapping[str, Iterable[str]]


def field_sizes_pipeline(session_id: str) -> Pipeline:
    """Return the aggregation that measures the fields of each agent that may be in files."""
    sizes = {name: {"$bsonSize": {"value": f"$$agent.v.agent_data.{name}"}} for name in OFFLOADED_FIELDS}
    wanted: Stored = {"sizes": sizes, "revision": {"$ifNull": ["$$agent.v.guard.revision", None]}}
    wanted |= {"updated_at": {"$ifNull": ["$$agent.v.updated_at", None]}}
    return agents_pipeline(session_id, (), **wanted)


def fields_projection(fields: Fields) -> dict[str, int]:
    """Return the projection of fields of agents, and of the agents' guards."""
    projection = {agent_path(agent_id, "agent_data", name): 1 for agent_id, names in fields.items() for name in names}
    return projection | {agent_path(agent_id, "guard"): 1 for agent_id in fields}


def moved_fields_update(
    session_id: str, agent_id: str, guard: Stored, data: Stored
) -> tuple[FilterAndUpdate, dict[str, bytes]]:
    """Return filter and update that replace fields by marks, if they and the guard are as they were read.

    Args:
        session_id: The session.
        agent_id: The agent.
        guard: Its guard.
        data: The fields.

    Returns:
        Filter and update, and the values by their digests.
    """
    marks, files = offload_data(data, 0)
    held: dict[str, Any] = {agent_path(agent_id, "guard"): guard}
    held |= {agent_path(agent_id, "agent_data", name): value for name, value in data.items()}
    wanted = {"_id": session_id, **{path: {"$eq": value} for path, value in held.items()}}
    changed = {agent_path(agent_id, "agent_data", name): mark for name, mark in marks.items()}
    return (wanted, {"$set": {**changed, "has_files": True}}), files
