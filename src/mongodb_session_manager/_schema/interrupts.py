"""Which agents, Graphs and Swarms of a session wait for the answer to an interrupt: a human's, as a rule."""

from .values import Update


def agent_name(agent_id: str) -> str:
    """Return the entry of an agent."""
    return f"agent:{agent_id}"


def multi_agent_name(multi_agent_id: str) -> str:
    """Return the entry of a Graph or Swarm."""
    return f"multi:{multi_agent_id}"


def interrupted_update(name: str, interrupted: bool | None) -> Update:
    """Return the part of an update that notes whether one waits; empty if it does not change that."""
    if interrupted is None:
        return {}
    return {"$addToSet" if interrupted else "$pull": {"interrupted": name}}
