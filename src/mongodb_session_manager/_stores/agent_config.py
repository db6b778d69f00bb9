"""The configuration of agents, and the figures of their model calls."""

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .._schema.agents import calls_pipeline, configs_pipeline
from .._schema.data import CONFIG_FIELDS, config_of, config_projection, config_update
from .._schema.histories import AgentWrite
from .._schema.ids import agent_label, check_id
from .._schema.usage import observed
from .._schema.values import Stored, decode, encode, unescape_key
from ..errors import SessionConflictError
from .agents import AgentPosition, AgentReader
from .all_agents import AgentsPipeline, read_session_agents
from .large_values import LargeValues
from .operation import CONTENDED, Operations, operation
from .restoring import Reading
from .segments import MessageSegments

__all__ = ["AgentConfigStore"]


class AgentConfigStore:
    """The agents' configuration in one repository's sessions.

    Args:
        operations: Of the repository.
        segments: The messages in segments.
        reader: Reads one agent.
        values: Large values.
    """

    def __init__(
        self, operations: Operations, segments: MessageSegments, reader: AgentReader, values: LargeValues
    ) -> None:
        self._operations, self._segments, self._reader = operations, segments, reader
        self._values = values

    def read_agent_config(self, session_id: str, agent_id: str) -> Stored | None:
        """Return ``model``, ``system_prompt`` and ``prompt_metadata`` of an agent; None if there is no such agent."""
        wanted = config_projection(check_id("agent_id", agent_id))

        def read() -> Stored | None:
            with operation("read_agent_config", session_id, agent_id):
                session = self._operations.find(session_id, wanted)
            data = config_of(session, agent_id)
            return None if data is None else self._configs(session_id, {agent_id: data})[0]

        return self._values.whole(read)

    def update_agent_config(self, session_id: str, agent_id: str, config: Mapping[str, Any]) -> None:
        """Set some of ``model``, ``system_prompt`` and ``prompt_metadata``."""
        check_id("agent_id", agent_id)
        encoded = encode(dict(config), agent_label(session_id, agent_id), plain_dates=True)
        write = AgentWrite(agent_id, data=encoded)

        def update(seen: AgentPosition | None) -> bool:
            is_nested = seen is not None and seen.guard.nested

            def send(apart: AgentWrite) -> bool:
                change = config_update(session_id, apart, nested=is_nested)
                with operation("update_agent_config", session_id, agent_id) as outcome:
                    return outcome.of(self._operations.send(session_id, change))

            looked = replace(write, replaces_files=seen is not None)
            return self._values.with_fields(session_id, looked, send, is_sent_again=False)

        def look() -> AgentPosition:
            position = self._reader.locate(session_id, agent_id)
            self._values.note_in_files(session_id, agent_id, position.in_files)
            return position

        if not self._operations.write_again(session_id, update, look, leased=False):
            raise SessionConflictError(session_id, agent_id, CONTENDED)

    def list_agent_configs(self, session_id: str) -> list[Stored]:
        """Return the configuration of every agent of the session."""

        def read() -> list[Stored]:
            agents = self._read_agents("list_agents", session_id, configs_pipeline)
            return self._configs(session_id, {unescape_key(agent["key"]): agent for agent in agents})

        return self._values.whole(read)

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
        with Reading(agent_label(session_id, unescape_key(agent["key"])), "a segment"):
            moved = self._segments.read(session_id, agent["segments"])
            calls = [*(message.get("event_loop_metrics") for message in moved), *agent["calls"]]
        return [observed("event_loop_metrics", functools.partial(decode, call), {}) for call in calls if call]

    def _configs(self, session_id: str, agents: Mapping[str, Stored]) -> list[Stored]:
        self._values.put_back_fields(session_id, agents, CONFIG_FIELDS)
        return [_config(session_id, agent_id, data) for agent_id, data in agents.items()]


def _config(session_id: str, agent_id: str, data: Mapping[str, Any]) -> Stored:
    with Reading(agent_label(session_id, agent_id), "its configuration"):
        return {"agent_id": agent_id, **{name: decode(data.get(name)) for name in CONFIG_FIELDS}}
