"""Agents that the first version stored under their ids as they are, and expressions that find them.

It escaped no ids: one with dots stands nested in others, one with ``$`` under another name than ours.
"""

from collections.abc import Iterator
from typing import Any

from .ids import MAX_KEY_LEVELS, MAX_SOUGHT_NUMBERS, agent_path, is_number
from .values import Pipeline, Stored, escape_key, unescape_key


def may_be_nested(agent_id: str) -> bool:
    parts = agent_id.split(".")
    if len(parts) > MAX_KEY_LEVELS or "agent_data" in parts[1:]:
        return False
    if len(parts) == 1 and (escape_key(agent_id) == agent_id or unescape_key(agent_id) != agent_id):
        return False
    if sum(map(is_number, parts)) > MAX_SOUGHT_NUMBERS:
        return False
    return all(part and not part.startswith("$") for part in parts)


def nested_agent_ids(agents: Stored) -> list[str]:
    """Return the ids of the agents that are stored only nested in others' fields."""
    found = [agent_id for name, agent in agents.items() for agent_id in _agents_in(name, agent)]
    return [agent_id for agent_id in found if may_be_nested(agent_id) and escape_key(agent_id) not in agents]


def _agents_in(agent_id: str, agent: Any) -> Iterator[str]:
    inner = agent.items() if isinstance(agent, dict) else ()
    for name, value in inner:
        if isinstance(value, dict) and name != "agent_data":
            if isinstance(value.get("agent_data"), dict):
                yield f"{agent_id}.{name}"
            yield from _agents_in(f"{agent_id}.{name}", value)


def lifted_pipeline(*agent_ids: str) -> Pipeline:
    """Return the stage that lifts nested agents to where all others are; an empty pipeline for ids without dots.

    For a single agent, ``is_nested`` then tells whether it was nested.
    """
    fields: Stored = {}
    for agent_id in filter(may_be_nested, agent_ids):
        own, nested = own_and_nested(agent_id)
        is_nested = is_nested_expression(agent_id)
        fields |= {"is_nested": is_nested, agent_path(agent_id): {"$cond": [is_nested, nested, own]}}
    return [{"$set": fields}] if fields else []


def own_and_nested(agent_id: str) -> tuple[str, str]:
    return f"${agent_path(agent_id)}", f"${agent_path(agent_id, nested=True)}"


def is_nested_expression(agent_id: str) -> Stored:
    own, nested = own_and_nested(agent_id)
    return {"$and": [{"$not": [{"$ifNull": [own, False]}]}, is_object_expression(f"{nested}.agent_data")]}


def is_object_expression(value: str) -> Stored:
    # In BSON's order of types, objects come right before lists.
    return {"$and": [{"$gte": [value, {}]}, {"$lt": [value, []]}]}


def list_expression(value: str) -> dict[str, Any]:
    # In a field that only holds nested agents, a part of their ids may look like an agent's field.
    return {"$cond": [{"$isArray": value}, value, []]}


def places_of(agent_id: str, *names: str) -> list[tuple[list[str], str]]:
    """Return the paths that a field of an agent may have, nested or not."""
    nested = [False, True] if may_be_nested(agent_id) else [False]
    paths = [agent_path(agent_id, *names, nested=each) for each in nested]
    return [(path.split("."), path) for path in paths]
