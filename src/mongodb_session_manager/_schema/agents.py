"""Pipelines that read all agents of a session."""

from collections.abc import Iterable
from typing import Any

from .data import CONFIG_FIELDS
from .ids import agent_path
from .messages import OFFLOADED_FIELDS
from .nested import (
    is_nested_expression,
    is_object_expression,
    lifted_pipeline,
    list_expression,
    may_be_nested,
    own_and_nested,
)
from .values import Pipeline, Stored

# Fields of an agent that are objects but not nested agents.
_AGENT_OBJECTS = ("agent_data", "guard", "live", "moved_usage")


def agents_pipeline(session_id: str, nested: Iterable[str], **wanted: Any) -> Pipeline:
    """Return the aggregation that lists the fields of ``agents``, as ``key`` and expressions over ``$$agent``.

    ``is_agent`` tells whether a field is an agent, ``holds_others`` whether agents may be nested in it. Nested agents
    whose ids are in ``nested`` are listed as agents of their own.
    """
    is_agent = is_object_expression("$$agent.v.agent_data")
    kind = {"is_agent": is_agent, "holds_others": {"$or": [{"$not": [is_agent]}, _holds_objects("$$agent.v")]}}
    each = {
        "$map": {
            "input": {"$objectToArray": {"$ifNull": ["$agents", {}]}},
            "as": "agent",
            "in": {"key": "$$agent.k", **kind, **wanted},
        }
    }
    return [
        {"$match": {"_id": session_id}},
        *lifted_pipeline(*nested),
        {"$project": {"agents": each, "instance": "$instance"}},
    ]


def _holds_objects(agent: str) -> Stored:
    fields = {"$cond": [is_object_expression(agent), {"$objectToArray": agent}, []]}
    others = [*({"$ne": ["$$field.k", name]} for name in _AGENT_OBJECTS), is_object_expression("$$field.v")]
    found = {"$filter": {"input": fields, "as": "field", "cond": {"$and": others}}}
    return {"$gt": [{"$size": found}, 0]}


def configs_pipeline(session_id: str, nested: Iterable[str] = ()) -> Pipeline:
    """Return the aggregation that reads the configuration of each agent."""
    wanted = {name: {"$ifNull": [f"$$agent.v.agent_data.{name}", None]} for name in ("agent_id", *CONFIG_FIELDS)}
    return agents_pipeline(session_id, nested, **wanted)


def calls_pipeline(session_id: str, nested: Iterable[str] = ()) -> Pipeline:
    """Return the aggregation that reads, of each agent's messages, the metrics only."""
    metrics = {
        "$map": {
            "input": list_expression("$$agent.v.messages"),
            "as": "message",
            "in": {"$ifNull": ["$$message.event_loop_metrics", None]},
        }
    }
    segments = list_expression("$$agent.v.segments")
    return agents_pipeline(session_id, nested, calls=metrics, segments=segments)


def sizes_pipeline(session_id: str, nested: Iterable[str] = ()) -> Pipeline:
    """Return the aggregation that measures the embedded messages of each agent."""
    messages = list_expression("$$agent.v.messages")
    wanted: Stored = {"bytes": {"$bsonSize": {"messages": messages}}, "messages": {"$size": messages}}
    wanted |= {"revision": {"$ifNull": ["$$agent.v.guard.revision", None]}}
    wanted |= {"updated_at": {"$ifNull": ["$$agent.v.updated_at", None]}}
    return agents_pipeline(session_id, nested, **wanted)


def embedded_agents_pipeline(session_id: str, agent_ids: Iterable[str], *, with_messages: bool) -> Pipeline:
    """Return the aggregation that reads the counters, references and perhaps messages of some agents, in this order."""
    agents = [_embedded(agent_id, with_messages) for agent_id in agent_ids]
    return [{"$match": {"_id": session_id}}, {"$project": {"agents": agents}}]


def _embedded(agent_id: str, with_messages: bool) -> Stored:
    if not may_be_nested(agent_id):
        return _embedded_in(f"${agent_path(agent_id)}", with_messages)
    own, nested = own_and_nested(agent_id)
    is_nested = is_nested_expression(agent_id)
    fields = {**_embedded_in("$$agent", with_messages), "is_nested": is_nested}
    return {"$let": {"vars": {"agent": {"$cond": [is_nested, nested, own]}}, "in": fields}}


def _embedded_in(agent: str, with_messages: bool) -> Stored:
    fields: Stored = {name: f"{agent}.{name}" for name in ("guard", "moved_count")}
    fields["segments"] = list_expression(f"{agent}.segments")
    fields["last_message_id"] = {"$max": f"{agent}.messages.message_id"}
    return {**fields, "messages": list_expression(f"{agent}.messages")} if with_messages else fields


def used_files_pipeline(session_id: str, nested: Iterable[str] = ()) -> Pipeline:
    """Return the aggregation that reads which offloaded values a session document refers to."""
    used = {"$map": {"input": list_expression("$$agent.v.messages"), "as": "message", "in": _FILES_OF_MESSAGE}}
    data = {name: {"$ifNull": [f"$$agent.v.agent_data.{name}.%file.sha256", None]} for name in OFFLOADED_FIELDS}
    stages = agents_pipeline(session_id, nested, messages=used, data=data)
    states = {"$objectToArray": {"$ifNull": ["$multi_agents", {}]}}
    stages[-1]["$project"]["states"] = {"$map": {"input": states, "as": "state", "in": _FILES_OF_STATE}}
    return stages


_FILES_OF_MESSAGE = {"files": {"$ifNull": ["$$message.files", []]}}
_FILES_OF_STATE = {"files": {"$ifNull": ["$$state.v.files", []]}}
