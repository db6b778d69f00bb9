"""Pipelines that read one agent."""

from collections.abc import Iterable, Mapping
from typing import Any

from bson.int64 import Int64

from ..types import AgentDoc, LeaseDoc
from .ids import agent_path, check_message_id
from .nested import is_object_expression, lifted_pipeline, list_expression
from .values import Pipeline, Stored

NO_MESSAGE = 2**31 - 1
_LOWEST_ID = Int64(-(2**63))
_AGENT_COUNTERS = ("guard", "moved_count", "created_at", "updated_at")


class ReadAgentDoc(AgentDoc, total=False):
    """An agent as one of these pipelines reads it; each computes what its reader needs.

    Attributes:
        count: The number of its embedded messages.
        embedded_bytes: Their size.
        last_message_id: The highest id of them.
        before: The number of embedded messages before a message.
        upto: The same with this message.
        has_files: Whether a large value of a message of the session was ever stored as a file.
        is_nested: Whether the agent is nested, see ``agent_path``.
        is_there: Whether its field is an object.
        agents: The number of the session's agents.
        lease: The session's lease.
    """

    count: int
    embedded_bytes: int
    last_message_id: int | None
    before: int
    upto: int
    has_files: bool
    is_nested: bool
    is_there: bool
    agents: int
    lease: LeaseDoc


def agent_pipeline(session_id: str, agent_id: str, messages: Any = None) -> Pipeline:
    """Return the aggregation that reads one agent: data, counters and the messages that an expression picks."""
    path = f"${agent_path(agent_id)}"
    fields = {name: f"{path}.{name}" for name in ("agent_data", *_AGENT_COUNTERS)}
    fields["last_message_id"] = {"$max": f"{path}.messages.message_id"}  # type: ignore[assignment]
    fields |= {name: f"${name}" for name in ("has_files", "is_nested", "instance")}
    if messages is not None:
        fields["messages"] = messages
    return [{"$match": {"_id": session_id}}, *lifted_pipeline(agent_id), {"$project": fields}]


def restore_pipeline(session_id: str, agent_id: str) -> Pipeline:
    """Return the aggregation that reads an agent with the messages from its lowest live id on.

    The reader picks the live messages out of these, since a server is slow at that if the live set has many ranges.
    Without a live set, the aggregation reads all embedded messages.
    """
    path = f"${agent_path(agent_id)}"
    firsts = {"$map": {"input": list_expression(f"{path}.live.ranges"), "as": "ends", "in": _first_of("$$ends")}}
    lowest = {"$ifNull": [{"$min": [f"{path}.live.from", {"$min": firsts}]}, _LOWEST_ID]}
    # A message without an id is not left out unseen; null is no message.
    number = {"$ifNull": ["$$message.message_id", {"$cond": ["$$message", _LOWEST_ID, None]}]}
    stages = agent_pipeline(session_id, agent_id, _let(lowest, _chosen(agent_id, _from_lowest(number))))
    moved = {"$ifNull": [f"{path}.segments", []]}
    needed = {"$filter": {"input": moved, "as": "segment", "cond": _from_lowest("$$segment.last_id")}}
    stages[-1]["$project"] |= {"live": f"{path}.live", "segments": _let(lowest, needed)}
    stages[-1]["$project"]["count"] = {"$size": messages_expression(agent_id)}
    return stages


def _first_of(pair: str) -> Stored:
    return {"$cond": [{"$isArray": pair}, {"$arrayElemAt": [pair, 0]}, None]}


def _let(lowest: Stored, within: Stored) -> Stored:
    return {"$let": {"vars": {"lowest": lowest}, "in": within}}


def _from_lowest(number: Any) -> Stored:
    return {"$gte": [number, "$$lowest"]}


def page_pipeline(session_id: str, agent_id: str, start: int, end: int | None) -> Pipeline:
    """Return the aggregation that reads the messages from position ``start`` on, up to ``end``.

    If the counter says so, ids are positions. If not (the first version; ids of a caller's own), it reads all embedded
    messages, and the references to all segments.
    """
    path = f"${agent_path(agent_id)}"
    count = {"$size": messages_expression(agent_id)}
    moved = {"$ifNull": [f"{path}.moved_count", 0]}
    others = {"$ne": [f"{path}.guard.next_message_id", {"$add": [count, moved]}]}

    def within(first: str, last: str) -> Stored:
        bounds = [{"$gte": [last, start]}] + ([] if end is None else [{"$lt": [first, end]}])
        return {"$or": [others, {"$and": bounds}]}

    stages = _message_stages(session_id, agent_id, within("$$message.message_id", "$$message.message_id"))
    references = {"$ifNull": [f"{path}.segments", []]}
    needed = {
        "$filter": {"input": references, "as": "segment", "cond": within("$$segment.first_id", "$$segment.last_id")}
    }
    stages[-1]["$project"] |= {"segments": needed, "count": count}
    return stages


def is_numbered(agent: Mapping[str, Any]) -> bool:
    """Tell whether message ids are positions, from what ``page_pipeline`` read."""
    guard = agent.get("guard")
    counted = guard.get("next_message_id") if isinstance(guard, Mapping) else None
    return bool(counted == agent["count"] + (agent.get("moved_count") or 0))


def position_pipeline(session_id: str, agent_id: str, message_id: int | None) -> Pipeline:
    """Return the aggregation that counts the embedded messages ``before`` an id and ``upto`` it.

    Without an id, both count all messages. An id that is not stored has the position that it would have.
    """
    stages = _with_segments(agent_pipeline(session_id, agent_id), agent_id)
    count = {"$size": messages_expression(agent_id)}
    if message_id is None:
        stages[-1]["$project"] |= {"before": count, "upto": count}
        return stages
    ids = list_expression(f"${agent_path(agent_id, 'messages', 'message_id')}")
    older = {"$size": {"$filter": {"input": ids, "as": "id", "cond": {"$lt": ["$$id", message_id]}}}}
    index = {"$indexOfArray": [ids, message_id]}
    is_there = {"$gte": [index, 0]}
    upto = {"$cond": [is_there, {"$add": [index, 1]}, older]}
    stages[-1]["$project"] |= {"before": {"$cond": [is_there, index, older]}, "upto": upto}
    return stages


def message_pipeline(session_id: str, agent_id: str, message_id: int) -> Pipeline:
    """Return the aggregation that reads one message."""
    condition = {"$eq": ["$$message.message_id", check_message_id(message_id)]}
    return _with_segments(_message_stages(session_id, agent_id, condition), agent_id)


def tail_pipeline(session_id: str, agent_id: str, message_id: int) -> Pipeline:
    """Return the aggregation that reads the ids of the messages from one on, and the session's lease."""
    chosen = _chosen(agent_id, {"$gte": ["$$message.message_id", check_message_id(message_id)]})
    ids = {name: f"$$message.{name}" for name in ("message_id", "tracking_id")}
    stages = agent_pipeline(session_id, agent_id, {"$map": {"input": chosen, "as": "message", "in": ids}})
    stages[-1]["$project"] |= {"lease": "$lease", "is_there": is_object_expression(f"${agent_path(agent_id)}")}
    stages[-1]["$project"]["agents"] = {"$size": list_expression("$agent_ids")}
    return stages


def tracked_pipeline(session_id: str, agent_id: str, tracking_ids: Iterable[Any]) -> Pipeline:
    """Return the aggregation that finds the embedded messages with one of some tracking ids."""
    # Literals: the sender of a message chooses its tracking id, and "$role" would be read as a field.
    wanted = {"$in": ["$$message.tracking_id", [{"$literal": tracking_id} for tracking_id in tracking_ids]]}
    ids = {name: f"$$message.{name}" for name in ("message_id", "tracking_id")}
    found = {"$map": {"input": _chosen(agent_id, wanted), "as": "message", "in": ids}}
    return _with_segments(agent_pipeline(session_id, agent_id, found), agent_id)


def embedded_messages_pipeline(session_id: str, agent_id: str) -> Pipeline:
    """Return the aggregation that reads all embedded messages."""
    return _with_segments(agent_pipeline(session_id, agent_id, messages_expression(agent_id)), agent_id)


def _with_segments(stages: Pipeline, agent_id: str) -> Pipeline:
    stages[-1]["$project"]["segments"] = {"$ifNull": [f"${agent_path(agent_id, 'segments')}", []]}
    return stages


def _message_stages(session_id: str, agent_id: str, condition: Stored) -> Pipeline:
    return agent_pipeline(session_id, agent_id, _chosen(agent_id, condition))


def _chosen(agent_id: str, condition: Stored) -> Stored:
    return {"$filter": {"input": messages_expression(agent_id), "as": "message", "cond": condition}}


def messages_expression(agent_id: str) -> dict[str, Any]:
    return list_expression(f"${agent_path(agent_id, 'messages')}")


def count_pipeline(session_id: str, agent_id: str) -> Pipeline:
    """Return the aggregation that counts an agent's messages."""
    moved = {"$ifNull": [f"${agent_path(agent_id, 'moved_count')}", 0]}
    count = {"$add": [{"$size": messages_expression(agent_id)}, moved]}
    return [{"$match": {"_id": session_id}}, *lifted_pipeline(agent_id), {"$project": {"count": count}}]


def removed_count(data: Mapping[str, Any]) -> int:
    """Return how many messages a conversation manager has removed, by its state; 0 if that is not a number."""
    state = data.get("conversation_manager_state")
    count = state.get("removed_message_count") if isinstance(state, Mapping) else None
    return int(count) if isinstance(count, int) and not isinstance(count, bool) and count > 0 else 0
