"""The shape of a stored session, and the only place that builds dotted paths.

Functions return filters, updates and pipelines for one session each; every one names its ``_id``.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, TypeAlias

from bson import ObjectId
from bson.int64 import Int64

from ._codec import MessageEdit, Stored, escape_key
from ._lease import Lease

SCHEMA_VERSION = 2
MAX_ID_BYTES = 1024
# The number after it must have a place in 8 bytes too.
MAX_MESSAGE_ID = 2**63 - 2

Update: TypeAlias = dict[str, dict[str, Any]]
Pipeline: TypeAlias = list[dict[str, Any]]
Change: TypeAlias = tuple[Stored, Update]

# What the constructor of a manager reads of a session: never its agents, which hold the history.
OPENING_FIELDS = dict.fromkeys(
    (
        "session_id",
        "session_type",
        "schema_version",
        "application_name",
        "created_at",
        "updated_at",
        "agent_ids",
        "outbox",
    ),
    1,
)

CONFIG_FIELDS = ("model", "system_prompt", "prompt_metadata")

# What the SDK's conversation managers keep of what they left behind.
_WINDOW_STATE = frozenset({"__name__", "removed_message_count", "model_call_count"})

NO_MESSAGE = 2**31 - 1
_ALL = 2**31 - 1


def now() -> datetime:
    """Return the time as BSON stores it: UTC, whole milliseconds."""
    at = datetime.now(timezone.utc)
    return at.replace(microsecond=at.microsecond // 1000 * 1000)


def check_id(name: str, value: object) -> str:
    """Return a session or agent id that is fit to be stored.

    Raises:
        TypeError: It is not a string.
        ValueError: It is empty, holds NUL, is no valid Unicode or is longer than 1,024 bytes in UTF-8.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, got {type(value).__name__}")
    if not value or "\0" in value:
        raise ValueError(f"{name} must not be empty and must not hold NUL, got {value[:50]!r}")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise ValueError(f"{name} must be valid Unicode, got {value[:50]!r}") from None
    if size > MAX_ID_BYTES:
        raise ValueError(f"{name} must have at most {MAX_ID_BYTES} bytes in UTF-8, got {size}: {value[:50]!r}…")
    return value


def check_message_id(value: object) -> int:
    """Return the number of a message that is fit to be looked for and to be counted on from.

    Raises:
        TypeError: It is not an integer.
        ValueError: It has no place in 8 bytes.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"message_id must be an integer, got {type(value).__name__}")
    if abs(value) > MAX_MESSAGE_ID:
        raise ValueError(f"message_id must be a number of 8 bytes, got {value:#x}")
    return value


def check_key(name: str, key: object) -> str:
    """Return a metadata key, possibly dotted, that is fit to be a path.

    Raises:
        ValueError: It is not a string, is empty, has an empty segment or one that starts with ``$``, or holds NUL.
    """
    if not isinstance(key, str):
        raise ValueError(f"{name}: a key must be a string, got {type(key).__name__}")
    if not key or "\0" in key:
        raise ValueError(f"{name}: a key must not be empty and must not hold NUL, got {key!r}")
    if any(not segment or segment.startswith("$") for segment in key.split(".")):
        raise ValueError(
            f"{name}: key {key!r} has an empty segment or one that starts with '$'. A dot reaches into a nested "
            "field; put data with such keys into a value."
        )
    return key


def metadata_path(key: str) -> str:
    """Return the dotted path of a metadata field."""
    return ".".join(("metadata", *map(escape_key, key.split("."))))


def agent_path(agent_id: str, *names: str) -> str:
    """Return the dotted path of an agent, or of a field below it."""
    return ".".join(("agents", escape_key(agent_id), *names))


def multi_agent_path(multi_agent_id: str, *names: str) -> str:
    """Return the dotted path of a multi-agent, or of a field below it."""
    return ".".join(("multi_agents", escape_key(multi_agent_id), *names))


def new_session(session_id: str, session_type: str, application_name: str | None, at: datetime) -> Stored:
    """Return the fields of a session that has no content yet (without ``_id`` and ``schema_version``)."""
    return {
        "session_id": session_id,
        "session_type": session_type,
        "application_name": application_name,
        "created_at": at,
        "updated_at": at,
        "metadata": {},
        "feedbacks": [],
        "agent_ids": [],
        "agents": {},
        "multi_agents": {},
    }


def open_session(session_id: str, session_type: str, application_name: str | None) -> tuple[Stored, Update]:
    """Return the upsert that opens a session, new or existing, and what a new one starts with."""
    fresh = new_session(session_id, session_type, application_name, now())
    # $max brings sessions of the first version up to date and leaves those of a newer one alone.
    return fresh, {"$setOnInsert": fresh, "$max": {"schema_version": SCHEMA_VERSION}}


def taken(session_id: str, update: Update, lease: Lease | None) -> Change:
    """Return filter and update that open a session, and take its lease where one is wanted and nobody has it."""
    if lease is None:
        return {"_id": session_id}, update
    at = now()
    free: Stored = {"_id": session_id, "$or": [{"lease": None}, {"lease.expires_at": {"$lte": at}}]}
    held = {"owner": lease.owner, "expires_at": at + lease.duration}
    return free, {**update, "$set": {"lease": held}}


def leased(change: Change, lease: Lease | None) -> Change:
    """Have a write go through only under the writer's lease, which it renews; without one, where nobody has one."""
    wanted, update = change
    if lease is None:
        wanted["lease"] = None
    else:
        wanted["lease.owner"] = lease.owner
        update.setdefault("$set", {})["lease.expires_at"] = now() + lease.duration
    return change


def released(session_id: str, lease: Lease) -> Change:
    """Return filter and update that give up a lease."""
    return {"_id": session_id, "lease.owner": lease.owner}, {"$unset": {"lease": ""}}


def expired(session_id: str, lease: Stored) -> Change:
    """Return filter and update that clear a stored lease, where its owner has not come back."""
    seen = {f"lease.{name}": lease[name] for name in ("owner", "expires_at")}
    return {"_id": session_id, **seen}, {"$unset": {"lease": ""}}


@dataclass(frozen=True)
class Guard:
    """Where a writer believes an agent's history to be; no write goes through that finds it elsewhere.

    Attributes:
        revision: The number of guarded writes so far; None for an agent that the first version stored.
        next_message_id: The id that the next message gets.
        write_id: The last of those writes; it tells a session apart from one that was deleted and made again.
        found: How it was stored. An agent of the first version has no counter yet after a write of the SDK's own verbs.
    """

    revision: int | None
    next_message_id: int
    write_id: object = None
    found: Stored | None = field(default=None, compare=False, repr=False)

    @property
    def stored(self) -> Stored:
        """What a session document holds of it. Compared as a whole, so the order counts."""
        return self.found or _guard(self.revision, self.next_message_id, self.write_id)

    def after(self, appended: int, write_id: object) -> "Guard":
        """Return where the history is after a write that appended so many messages."""
        return Guard((self.revision or 0) + 1, self.next_message_id + appended, write_id)

    def after_repair(self, messages: list[Stored], write_id: object) -> "Guard":
        """Return where the history is when these have become all messages of the session document."""
        next_message_id = messages[-1]["message_id"] + 1 if messages else self.next_message_id
        return Guard((self.revision or 0) + 1, next_message_id, write_id)


def _guard(revision: int | None, next_message_id: int, write_id: object) -> Stored:
    return {"revision": revision, "next_message_id": next_message_id, "write_id": write_id}


@dataclass
class AgentWrite:
    """One atomic change of one agent: messages, state, and what goes with them.

    Attributes:
        agent_id: The agent.
        appended: Elements to append to ``messages``, with their ids.
        edited: A change of one stored message.
        data: Changed fields of ``agent_data``.
        guardrail_events: What to add to the session's record of redactions.
        size: The bytes of what is appended.
        files: Values that it refers to, by digest; they are uploaded ahead.
        leaves_guard: Whether who restored the history before it may go on after it; for a moved window alone.
        write_id: Tells this very write when its answer was lost.
        at: When it was made.
    """

    agent_id: str
    appended: list[Stored] = field(default_factory=list, repr=False)
    edited: MessageEdit | None = None
    data: Stored = field(default_factory=dict, repr=False)
    guardrail_events: list[Stored] = field(default_factory=list, repr=False)
    size: int = 0
    files: dict[str, bytes] = field(default_factory=dict, repr=False)
    leaves_guard: bool = False
    write_id: ObjectId = field(default_factory=ObjectId)
    at: datetime = field(default_factory=now)

    @property
    def moves_window(self) -> bool:
        """Whether all that it tells is how far the window has moved: an older one gives the same conversation.

        A conversation manager that keeps more than that, such as a summary, is not meant.
        """
        window = self.data.get("conversation_manager_state")
        if window is None or len(self.data) > 1 or self.appended or self.edited or self.guardrail_events:
            return False
        return _WINDOW_STATE.issuperset(window)

    def leads_to(self, guard: Guard) -> Guard:
        """Return where the history is when this was written there."""
        return guard if self.leaves_guard else guard.after(len(self.appended), self.write_id)


def new_agent(session_id: str, write: AgentWrite) -> tuple[Stored, Update]:
    """Return filter and update that create an agent with its first messages, where it does not exist yet."""
    agent = {
        "agent_data": {"agent_id": write.agent_id, **write.data},
        "messages": write.appended,
        "guard": _guard(1, write.appended[-1]["message_id"] + 1 if write.appended else 0, write.write_id),
        "created_at": write.at,
        "updated_at": write.at,
    }
    path = agent_path(write.agent_id)
    update: Update = {
        "$set": {path: agent, "updated_at": write.at},
        "$addToSet": {"agent_ids": write.agent_id},
    }
    if write.files:
        update["$set"]["has_files"] = True
    if write.guardrail_events:
        update["$push"] = {"guardrail_events": {"$each": write.guardrail_events}}
    return {"_id": session_id, path: {"$exists": False}}, update


def guarded(session_id: str, write: AgentWrite, guard: Guard) -> tuple[Stored, Update]:
    """Return filter and update of a write that goes through only at the place that its guard names."""
    path = agent_path(write.agent_id)
    wanted: Stored = {"_id": session_id, f"{path}.guard": None if guard.revision is None else guard.stored}
    if guard.revision is None:
        wanted |= _unnumbered(path, guard.next_message_id)
    update = _change(path, write)
    if write.edited is not None:
        wanted |= _edited(f"{path}.messages", write.edited)
    after = write.leads_to(guard)
    if after is not guard:
        update["$set"][f"{path}.guard"] = after.stored
    return wanted, update


def together(collection: str, changes: Iterable[Change], write_concern: Stored) -> Stored:
    """Return one command of several updates, none of which keeps the others from being tried."""
    updates = [{"q": wanted, "u": update} for wanted, update in changes]
    command: Stored = {"update": collection, "updates": updates, "ordered": False}
    return {**command, "writeConcern": write_concern} if write_concern else command


def _unnumbered(path: str, next_message_id: int) -> Stored:
    # The first version kept no counters: its agents are guarded by the ids of their messages.
    return {
        f"{path}.agent_data": {"$exists": True},
        "$nor": [{f"{path}.messages.message_id": {"$gte": next_message_id}}],
    }


def _change(path: str, write: AgentWrite) -> Update:
    changed = {f"{path}.agent_data.{name}": value for name, value in write.data.items()}
    changed |= {f"{path}.updated_at": write.at, "updated_at": write.at}
    update: Update = {"$set": changed}
    if write.files:
        changed["has_files"] = True
    if write.edited is not None:
        changed |= {f"{path}.messages.$.{name}": value for name, value in write.edited.fields.items()}
        update["$unset"] = {f"{path}.messages.$.{name}": "" for name in write.edited.dropped}
    pushed = {f"{path}.messages": write.appended, "guardrail_events": write.guardrail_events}
    if any(pushed.values()):
        update["$push"] = {name: _all_of(items) for name, items in pushed.items() if items}
    return update


def _all_of(items: list[Stored]) -> Stored:
    return items[0] if len(items) == 1 else {"$each": items}


def unguarded(session_id: str, write: AgentWrite) -> tuple[Stored, Update]:
    """Return filter and update of a write by a caller who knows message ids only, as the SDK's interface does."""
    path = agent_path(write.agent_id)
    wanted: Stored = {"_id": session_id, f"{path}.agent_data": {"$exists": True}}
    update = _change(path, write)
    update["$inc"] = {f"{path}.guard.revision": 1}
    update["$set"][f"{path}.guard.write_id"] = write.write_id
    if write.appended:
        message_id = write.appended[0]["message_id"]
        wanted["$nor"] = [
            {f"{path}.guard.next_message_id": {"$gt": message_id}},
            {f"{path}.messages.message_id": {"$gte": message_id}},
        ]
        update["$set"][f"{path}.guard.next_message_id"] = message_id + 1
    if write.edited is not None:
        wanted |= _edited(f"{path}.messages", write.edited)
    return wanted, update


def _edited(messages: str, edit: MessageEdit) -> Stored:
    if edit.tracking_id is None:
        return {f"{messages}.message_id": edit.message_id}
    return {messages: {"$elemMatch": {"message_id": edit.message_id, "tracking_id": edit.tracking_id}}}


_AGENT_COUNTERS = ("guard", "moved_count", "created_at", "updated_at")


def agent_pipeline(session_id: str, agent_id: str, messages: Any = None) -> Pipeline:
    """Return the aggregation that reads one agent: data, counters and, by an expression, some messages."""
    path = f"${agent_path(agent_id)}"
    fields = {name: f"{path}.{name}" for name in ("agent_data", *_AGENT_COUNTERS)}
    fields["last_message_id"] = {"$max": f"{path}.messages.message_id"}  # type: ignore[assignment]
    fields["has_files"] = "$has_files"
    if messages is not None:
        fields["messages"] = messages
    return [{"$match": {"_id": session_id}}, {"$project": fields}]


def restore_pipeline(session_id: str, agent_id: str) -> Pipeline:
    """Return the aggregation that reads an agent with the messages that its conversation manager kept.

    What that removed is a number of messages. It is an id too where ids are the positions, which the counter tells;
    else (the first version; ids of a caller's own) all messages are read, and ``kept_messages`` leaves out the rest.
    """
    state = agent_path(agent_id, "agent_data", "conversation_manager_state", "removed_message_count")
    count = {"$size": _messages(agent_id)}
    kept = {"$gte": ["$$message.message_id", {"$ifNull": [f"${state}", 0]}]}
    moved = {"$ifNull": [f"${agent_path(agent_id, 'moved_count')}", 0]}
    numbered = {"$eq": [f"${agent_path(agent_id, 'guard', 'next_message_id')}", {"$add": [count, moved]}]}
    stages = _message_stages(session_id, agent_id, {"$or": [{"$not": [numbered]}, kept]})
    stages[-1]["$project"]["count"] = count
    return stages


def page_pipeline(session_id: str, agent_id: str, offset: int, limit: int | None) -> Pipeline:
    """Return the aggregation that reads ``limit`` messages from ``offset`` on."""
    if limit == 0:
        return _with_segments(agent_pipeline(session_id, agent_id, {"$literal": []}), agent_id)
    count = _ALL if limit is None else min(limit, _ALL)
    page = {"$slice": [_messages(agent_id), min(offset, _ALL), count]}
    return _with_segments(agent_pipeline(session_id, agent_id, page), agent_id)


def message_pipeline(session_id: str, agent_id: str, message_id: int) -> Pipeline:
    """Return the aggregation that reads one message."""
    condition = {"$eq": ["$$message.message_id", check_message_id(message_id)]}
    return _with_segments(_message_stages(session_id, agent_id, condition), agent_id)


def tail_pipeline(session_id: str, agent_id: str, message_id: int) -> Pipeline:
    """Return the aggregation that reads the ids of the messages from one on, and whose the session is."""
    chosen = _chosen(agent_id, {"$gte": ["$$message.message_id", check_message_id(message_id)]})
    ids = {name: f"$$message.{name}" for name in ("message_id", "tracking_id")}
    stages = agent_pipeline(session_id, agent_id, {"$map": {"input": chosen, "as": "message", "in": ids}})
    stages[-1]["$project"]["lease"] = "$lease"
    return stages


def tracked_pipeline(session_id: str, agent_id: str, tracking_id: Any) -> Pipeline:
    """Return the aggregation that reads the messages in the session document that have a tracking id, as stored."""
    # A literal, since whoever sends a message chooses it: "$role" would be read as a field.
    return _message_stages(session_id, agent_id, {"$eq": ["$$message.tracking_id", {"$literal": tracking_id}]})


def live_pipeline(session_id: str, agent_id: str) -> Pipeline:
    """Return the aggregation that reads all messages that the session document holds."""
    return _with_segments(agent_pipeline(session_id, agent_id, _messages(agent_id)), agent_id)


def _with_segments(stages: Pipeline, agent_id: str) -> Pipeline:
    stages[-1]["$project"]["segments"] = {"$ifNull": [f"${agent_path(agent_id, 'segments')}", []]}
    return stages


def _message_stages(session_id: str, agent_id: str, condition: Stored) -> Pipeline:
    return agent_pipeline(session_id, agent_id, _chosen(agent_id, condition))


def _chosen(agent_id: str, condition: Stored) -> Stored:
    return {"$filter": {"input": _messages(agent_id), "as": "message", "cond": condition}}


def _messages(agent_id: str) -> dict[str, Any]:
    return {"$ifNull": [f"${agent_path(agent_id, 'messages')}", []]}


def count_pipeline(session_id: str, agent_id: str) -> Pipeline:
    """Return the aggregation that counts an agent's messages."""
    moved = {"$ifNull": [f"${agent_path(agent_id, 'moved_count')}", 0]}
    count = {"$add": [{"$size": _messages(agent_id)}, moved]}
    return [{"$match": {"_id": session_id}}, {"$project": {"count": count}}]


def agents_pipeline(session_id: str, field_name: str, **wanted: Any) -> Pipeline:
    """Return the aggregation that lists all agents, each as its ``key`` and expressions over ``$$agent``."""
    each = {
        "$map": {
            "input": {"$objectToArray": {"$ifNull": ["$agents", {}]}},
            "as": "agent",
            "in": {"key": "$$agent.k", **wanted},
        }
    }
    return [{"$match": {"_id": session_id}}, {"$project": {field_name: each}}]


def configs_pipeline(session_id: str) -> Pipeline:
    """Return the aggregation that reads how each agent is configured."""
    wanted = {name: {"$ifNull": [f"$$agent.v.agent_data.{name}", None]} for name in ("agent_id", *CONFIG_FIELDS)}
    return agents_pipeline(session_id, "agents", **wanted)


def calls_pipeline(session_id: str) -> Pipeline:
    """Return the aggregation that reads the metrics of all messages of each agent, and nothing else of them."""
    metrics = {
        "$map": {
            "input": {"$ifNull": ["$$agent.v.messages", []]},
            "as": "message",
            "in": {"$ifNull": ["$$message.event_loop_metrics", None]},
        }
    }
    segments = {"$ifNull": ["$$agent.v.segments", []]}
    return agents_pipeline(session_id, "agents", calls=metrics, segments=segments)


def config_fields(agent_id: str) -> dict[str, int]:
    """Return the projection of one agent's configuration."""
    return {agent_path(agent_id, "agent_data", name): 1 for name in ("agent_id", *CONFIG_FIELDS)}


def changed_config(session_id: str, agent_id: str, config: Stored) -> tuple[Stored, Update]:
    """Return filter and update that set fields of an agent's configuration; history and state are not touched."""
    changed: Stored = {agent_path(agent_id, "agent_data", name): value for name, value in config.items()}
    changed["updated_at"] = now()
    return {"_id": session_id, agent_path(agent_id, "agent_data"): {"$exists": True}}, {"$set": changed}


def changed_metadata(session_id: str, fields: Stored) -> tuple[Stored, Update]:
    """Return filter and update that set metadata fields, by dotted key."""
    changed = {metadata_path(key): value for key, value in fields.items()}
    return {"_id": session_id}, {"$set": {**changed, "updated_at": now()}}


def deleted_metadata(session_id: str, keys: Iterable[str], held: Mapping[str, Any]) -> tuple[Stored, Update]:
    """Return filter and update that remove metadata fields, by dotted key, where fields hold values, as stored."""
    removed = {metadata_path(key): "" for key in keys}
    return {"_id": session_id, **{metadata_path(key): value for key, value in held.items()}}, {
        "$unset": removed,
        "$set": {"updated_at": now()},
    }


def new_feedback(session_id: str, feedback: Stored, size: int, about: Stored) -> tuple[Stored, Update]:
    """Return filter and update that append feedback, where the message that it is about exists."""
    return {"_id": session_id, **about}, {
        "$push": {"feedbacks": feedback},
        "$inc": {"feedback_bytes": size},
        "$set": {"updated_at": feedback["created_at"]},
    }


def record(update: Update, outbox: list[Stored]) -> None:
    """Have an update record notifications too."""
    if outbox:
        update.setdefault("$push", {})["outbox"] = {"$each": outbox}


def acknowledged(session_id: str, ids: Iterable[str]) -> tuple[Stored, Update]:
    """Return filter and update that remove notifications from the outbox."""
    return {"_id": session_id}, {"$pull": {"outbox": {"id": {"$in": list(ids)}}}}


def has_message(agent_id: str, message_id: int) -> Stored:
    """Return the condition that an agent holds a message with an id."""
    return {agent_path(agent_id, "messages", "message_id"): message_id}


def has_tracking_id(agent_ids: Iterable[str], tracking_id: Any) -> Stored:
    """Return the condition that one of the agents holds a message with a tracking id, as stored."""
    return {"$or": [{agent_path(agent_id, "messages", "tracking_id"): tracking_id} for agent_id in agent_ids]}


def segments(session_id: str, references: Iterable[Stored]) -> Stored:
    """Return the filter of the segments of a session that are referred to."""
    return {"_id": {"$in": [reference["_id"] for reference in references]}, "session_id": session_id}


def moved_feedback(session_id: str, count: int, segments: int, reference: Stored) -> tuple[Stored, Update]:
    """Return filter and update that replace feedback by the reference to the segment that holds it now.

    Feedback is only ever appended or moved, so the numbers of entries and of segments tell that nothing happened
    since it was read.
    """
    wanted = {"_id": session_id, "feedbacks": {"$size": count}}
    if segments:
        wanted["feedback_segments"] = {"$size": segments}
    else:
        wanted["feedback_segments"] = {"$exists": False}
    return wanted, {"$set": {"feedbacks": [], "feedback_bytes": 0}, "$push": {"feedback_segments": reference}}


def guard_of(agent: Mapping[str, Any]) -> Guard:
    """Return the place of an agent that one of the pipelines read."""
    found, last = agent.get("guard"), agent.get("last_message_id")
    revision, next_id = (None if found is None else found.get(name) for name in ("revision", "next_message_id"))
    if next_id is None:
        next_id = 0 if last is None else last + 1
    write_id = None if found is None else found.get("write_id")
    return Guard(None if revision is None else int(revision), int(next_id), write_id, found)


def removed_count(data: Mapping[str, Any]) -> Any:
    """Return how many messages a conversation manager had removed, as it is stored; None where it is not."""
    return (data.get("conversation_manager_state") or {}).get("removed_message_count")


def kept_messages(agent: Mapping[str, Any]) -> tuple[int, list[Stored] | None]:
    """Return how many messages a conversation manager had removed, and those that it kept.

    None instead of the messages where some of them are in segments.
    """
    removed = int(removed_count(agent["agent_data"]) or 0)
    kept = max(agent["count"] + (agent.get("moved_count") or 0) - removed, 0)
    if kept > agent["count"]:
        return removed, None
    messages: list[Stored] = agent["messages"]
    return removed, messages[len(messages) - kept :]


def new_segment(session_id: str, agent_id: str, messages: list[Stored]) -> tuple[Stored, Stored]:
    """Return a segment of messages and the reference to it."""
    segment_id = ObjectId()
    segment = {"_id": segment_id, "session_id": session_id, "kind": "messages", "agent_id": agent_id}
    ids = {"first_id": messages[0]["message_id"], "last_id": messages[-1]["message_id"]}
    return {**segment, "messages": messages}, {"_id": segment_id, "count": len(messages), **ids}


def rolled_over(
    session_id: str, agent_id: str, guard: Guard, moved_count: int, references: list[Stored], write_id: ObjectId
) -> tuple[Stored, Update]:
    """Return filter and update that replace the oldest messages by references to the segments that hold them now."""
    wanted, update = guarded(session_id, AgentWrite(agent_id, write_id=write_id), guard)
    path = agent_path(agent_id)
    # Two movers may have read the same messages; the second one must not refer to them again.
    wanted[f"{path}.moved_count"] = moved_count or {"$in": [0, None]}
    if guard.revision is not None:
        # The history stays what it is, so who goes on from it, restored before the move, is not disturbed.
        del update["$set"]
    update["$pull"] = {f"{path}.messages": {"message_id": {"$lte": references[-1]["last_id"]}}}
    update["$push"] = {f"{path}.segments": {"$each": references}}
    update["$inc"] = {f"{path}.moved_count": sum(reference["count"] for reference in references)}
    return wanted, update


def repaired(
    session_id: str, agent_id: str, guard: Guard, removed: Any, messages: list[Stored], write: AgentWrite
) -> tuple[Stored, Update]:
    """Return filter and update that put a mended history in the place of the one in the session document."""
    wanted, update = guarded(session_id, write, guard)
    path = agent_path(agent_id)
    if messages:
        # Or some have moved since they were read, and must not come back.
        wanted[f"{path}.messages.0.message_id"] = messages[0]["message_id"]
    # A window may move without the guard, and what it counts is the history as it was before.
    wanted[f"{path}.agent_data.conversation_manager_state.removed_message_count"] = {"$eq": removed}
    after = guard.after_repair(messages, write.write_id)
    update["$set"] |= {f"{path}.messages": messages, f"{path}.guard": after.stored}
    update["$push"] = {f"{path}.repairs": {"repaired_at": write.at, "revision": guard.revision}}
    return wanted, update


def moved_message(session_id: str, agent_id: str, edit: MessageEdit) -> tuple[Stored, Update]:
    """Return filter and update that change a message in whatever segments hold it, referred to or not."""
    update: Update = {"$set": {f"messages.$.{name}": value for name, value in edit.fields.items()}}
    if edit.dropped:
        update["$unset"] = {f"messages.$.{name}": "" for name in edit.dropped}
    return {"session_id": session_id, "agent_id": agent_id, **_edited("messages", edit)}, update


def tracked(session_id: str, agent_ids: Iterable[str], tracking_id: Any) -> Stored:
    """Return the filter of the segments that hold a message with a tracking id, as stored."""
    return {"session_id": session_id, "agent_id": {"$in": list(agent_ids)}, "messages.tracking_id": tracking_id}


def used_files_pipeline(session_id: str) -> Pipeline:
    """Return the aggregation that reads which off-loaded values the messages in a session document refer to."""
    used = {"$map": {"input": {"$ifNull": ["$$agent.v.messages", []]}, "as": "message", "in": _FILES_OF_MESSAGE}}
    return agents_pipeline(session_id, "agents", messages=used)


_FILES_OF_MESSAGE = {"files": {"$ifNull": ["$$message.files", []]}}


def new_file(session_id: str, digest: str, length: int, chunk_bytes: int) -> Stored:
    """Return the document of a file whose chunks are about to come."""
    metadata = {"session_id": session_id, "sha256": digest, "uploading": True}
    sizes = {"length": Int64(length), "chunkSize": chunk_bytes}
    return {"_id": ObjectId(), "filename": digest, **sizes, "uploadDate": now(), "metadata": metadata}


def uploaded(file_id: ObjectId) -> tuple[Stored, Update]:
    """Return filter and update that make a file whole, unless it is being removed already."""
    return {"_id": file_id, **_NOT_REMOVED}, {"$unset": {"metadata.uploading": ""}}


# The condition that no message of a session has, or ever had, off-loaded values.
WITHOUT_FILES = {"has_files": {"$ne": True}}


def with_files(session_id: str) -> tuple[Stored, Update]:
    """Return filter and update that say of a session that its messages have off-loaded values."""
    return {"_id": session_id}, {"$set": {"has_files": True}}


_NOT_REMOVED = {"metadata.removals.0": {"$exists": False}}
_WHOLE = {"metadata.uploading": {"$exists": False}}


def files(session_id: str, digests: Iterable[str] | None = None) -> Stored:
    """Return the filter of a session's files in whatever state: all, or those of some values."""
    wanted: Stored = {"metadata.session_id": session_id}
    return wanted if digests is None else {**wanted, "metadata.sha256": {"$in": list(digests)}}


def whole_files(session_id: str, digests: Iterable[str]) -> Stored:
    """Return the filter of files that can be read."""
    return {**files(session_id, digests), **_WHOLE}


def lasting_files(session_id: str, digests: Iterable[str]) -> Stored:
    """Return the filter of files that can be read, and that nobody is about to remove."""
    return {**whole_files(session_id, digests), **_NOT_REMOVED}


def marked_files(session_id: str, digests: Iterable[str], removal: ObjectId) -> tuple[Stored, Update]:
    """Return filter and update that announce the removal of files: of some values, and of those announced before."""
    any_of = [files(session_id, digests), {**files(session_id), "metadata.removals.0": {"$exists": True}}]
    return {"$or": any_of}, {"$addToSet": {"metadata.removals": removal}}


def files_of_removal(session_id: str, removal: ObjectId) -> Stored:
    """Return the filter of the files that a removal has marked."""
    return {**files(session_id), "metadata.removals": removal}


def kept_files(session_id: str, digests: Iterable[str], removal: ObjectId) -> tuple[Stored, Update]:
    """Return filter and update that take a removal's mark back."""
    return files(session_id, digests), {"$pull": {"metadata.removals": removal}}


def files_by_id(session_id: str, file_ids: Iterable[ObjectId]) -> Stored:
    """Return the filter of some of a session's files."""
    return {"_id": {"$in": list(file_ids)}, "metadata.session_id": session_id}


def chunks(file_ids: Iterable[ObjectId]) -> Stored:
    """Return the filter of the chunks of files."""
    return {"files_id": {"$in": list(file_ids)}}


def segments_with_files(session_id: str) -> tuple[Stored, dict[str, int]]:
    """Return filter and projection of the segments' messages that refer to off-loaded values."""
    return {"session_id": session_id, "messages.files": {"$exists": True}}, {"messages.files": 1}


def new_multi_agent(session_id: str, multi_agent_id: str, state: Stored) -> tuple[Stored, Update]:
    """Return filter and update that store a multi-agent, where it does not exist yet."""
    at = now()
    path = multi_agent_path(multi_agent_id)
    stored = {"multi_agent_id": multi_agent_id, "state": state, "created_at": at, "updated_at": at}
    return {"_id": session_id, path: {"$exists": False}}, {"$set": {path: stored, "updated_at": at}}


def changed_multi_agent(session_id: str, multi_agent_id: str, state: Stored) -> tuple[Stored, Update]:
    """Return filter and update that replace the state of a stored multi-agent."""
    at = now()
    path = multi_agent_path(multi_agent_id)
    changed = {f"{path}.state": state, f"{path}.updated_at": at, "updated_at": at}
    return {"_id": session_id, path: {"$exists": True}}, {"$set": changed}


def multi_agent_fields(multi_agent_id: str) -> dict[str, int]:
    """Return the projection that tells whether a multi-agent is stored, and whose the session is."""
    return {multi_agent_path(multi_agent_id, "multi_agent_id"): 1, "lease": 1}


def multi_agent_pipeline(session_id: str, multi_agent_id: str) -> Pipeline:
    """Return the aggregation that reads the state of one multi-agent."""
    state = f"${multi_agent_path(multi_agent_id, 'state')}"
    return [{"$match": {"_id": session_id}}, {"$project": {"state": state}}]
