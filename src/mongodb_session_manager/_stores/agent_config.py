"""The configuration of agents, and the figures of their model calls."""

import functools
from collections.abc import Mapping
from typing import Any

from .._schema.agents import calls_pipeline, configs_pipeline
from .._schema.data import CONFIG_FIELDS, config_of, config_projection, config_update
from .._schema.ids import agent_label, check_id
from .._schema.usage import observed
from .._schema.values import Stored, decode, encode, unescape_key
from ..errors import SessionConflictError
from .agents import AgentPosition, AgentReader
from .all_agents import AgentsPipeline, read_session_agents
from .operation import CONTENDED, Operations, operation
from .restoring import reading
from .segments import MessageSegments

__all__ = ["AgentConfigStore"]


class AgentConfigStore:
    """The agents' configuration in one repository's sessions.

    Args:
        operations: Of the repository.
        segments: The messages in segments.
        reader: Reads one agent.
    """

    def __init__(self, operations: Operations, segments: MessageSegments, reader: AgentReader) -> None:
        self._operations, self._segments, self._reader = operations, segments, reader

    def read_agent_config(self, session_id: str, agent_id: str) -> Stored | None:
        """Return ``model``, ``system_prompt`` and ``prompt_metadata`` of an agent; None if there is no such agent."""
        wanted = config_projection(check_id("agent_id", agent_id))
        with operation("read_agent_config", session_id, agent_id):
            session = self._operations.find(session_id, wanted)
        data = config_of(session, agent_id)
        return None if data is None else _config(session_id, agent_id, data)

    def update_agent_config(self, session_id: str, agent_id: str, config: Mapping[str, Any]) -> None:
        """Set some of ``model``, ``system_prompt`` and ``prompt_metadata``."""
        check_id("agent_id", agent_id)
        encoded = encode(dict(config), agent_label(session_id, agent_id), plain_dates=True)

        def write(seen: AgentPosition | None) -> bool:
            is_nested = seen is not None and seen.guard.nested
            with operation("update_agent_config", session_id, agent_id) as outcome:
                change = config_update(session_id, agent_id, encoded, nested=is_nested)
                return outcome.of(self._operations.send(session_id, change))

        def look() -> AgentPosition:
            return self._reader.locate(session_id, agent_id)

        if not self._operations.write_again(session_id, write, look, leased=False):
            raise SessionConflictError(session_id, agent_id, CONTENDED)

    def list_agent_configs(self, session_id: str) -> list[Stored]:
        """Return the configuration of every agent of the session."""
        agents = self._read_agents("list_agents", session_id, configs_pipeline)
        return [_config(session_id, unescape_key(agent["key"]), agent) for agent in agents]

    def read_calls(self, session_id: str) -> dict[str, list[Stored]]:
        """Return the ``event_loop_metrics`` of the messages that have some, in order, by agent."""
        agents = self._read_agents("read_calls", session_id, calls_pipeline)
        return {unescape_key(agent["key"]): self._calls(session_id, agent) for agent in agents}

    def _read_agents(self, verb: str, session_id: str, pipeline: AgentsPipeline) -> list[Stored]:
        with operation(verb, session_id):
            found = read_session_agents(self._operations.sessions, session_id, pipeline)
            session = self._operations.found(session_id, found)
            self._operations.lives.check(session_id, session)
        return [agent for agent in session["agents"] if agent["is_agent"]]

    def _calls(self, session_id: str, agent: Stored) -> list[Stored]:
        with reading(agent_label(session_id, unescape_key(agent["key"])), "a segment"):
            moved = self._segments.read(session_id, agent["segments"])
            calls = [*(message.get("event_loop_metrics") for message in moved), *agent["calls"]]
        return [observed("event_loop_metrics", functools.partial(decode, call), {}) for call in calls if call]


def _config(session_id: str, agent_id: str, data: Mapping[str, Any]) -> Stored:
    with reading(agent_label(session_id, agent_id), "its configuration"):
        return {"agent_id": agent_id, **{name: decode(data.get(name)) for name in CONFIG_FIELDS}}
