"""The shape of a stored session, and the only place that builds dotted paths.

Functions return filters, updates and pipelines for one session each; every one names its ``_id``.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any, TypeAlias

import bson
from bson import ObjectId
from bson.int64 import Int64

from ._arguments import is_uri, shown
from ._codec import AGENT_FIELDS, MessageEdit, Stored, escape_key
from ._lease import Lease

SCHEMA_VERSION = 2
MAX_ID_BYTES = 1024
# A server takes documents of 180 levels, and reads a path of more than 255 as another one.
_MAX_KEY_LEVELS = 100
# Each number in a key is a question to the server, one inside the other.
_MAX_KEY_NUMBERS = 30
# Agents of one session; each takes about 1 kB of the document beside its messages.
MOST_AGENTS = 5_000
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
        "outbox_documents",
    ),
    1,
)

# The fields in which the agents come that an opening brings along, and how large all of them are.
BROUGHT = "brought"
AGENTS_BYTES = "agents_bytes"

CONFIG_FIELDS = ("model", "system_prompt", "prompt_metadata")

# What the SDK's conversation managers keep of what they left behind.
_MANAGER_STATE = "conversation_manager_state"
_WINDOW_STATE = frozenset({"__name__", "removed_message_count", "model_call_count"})

NO_MESSAGE = 2**31 - 1
_ALL = 2**31 - 1
_LOWEST_ID = Int64(-(2**63))


def now() -> datetime:
    """Return the time as BSON stores it: UTC, whole milliseconds."""
    at = datetime.now(timezone.utc)
    return at.replace(microsecond=at.microsecond // 1000 * 1000)


def check_id(name: str, value: object) -> str:
    """Return a session or agent id that is fit to be stored.

    Raises:
        TypeError: It is not a string.
        ValueError: It is empty, holds NUL, is no valid Unicode, is longer than 1,024 bytes in UTF-8, or is a
            connection string.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, got {type(value).__name__}")
    if is_uri(value):
        # It would be stored and logged, with its password.
        raise ValueError(f"{name} must be an id, got a connection string. Pass that as connection_string=.")
    if not value or "\0" in value:
        raise ValueError(f"{name} must not be empty and must not hold NUL, got {shown(value)}")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise ValueError(f"{name} must be valid Unicode, got {shown(value)}") from None
    if size > MAX_ID_BYTES:
        raise ValueError(f"{name} must have at most {MAX_ID_BYTES} bytes in UTF-8, got {size}: {shown(value)}")
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
        ValueError: It is not a string, is empty, has an empty segment or one that starts with ``$``, holds NUL, or has
            more than 100 levels or 30 that are numbers.
    """
    if not isinstance(key, str):
        raise ValueError(f"{name}: a key must be a string, got {type(key).__name__}")
    if not key or "\0" in key:
        raise ValueError(f"{name}: a key must not be empty and must not hold NUL, got {shown(key)}")
    if any(not segment or segment.startswith("$") for segment in key.split(".")):
        raise ValueError(
            f"{name}: key {shown(key)} has an empty segment or one that starts with '$'. A dot reaches into a nested "
            "field; put data with such keys into a value."
        )
    levels = key.split(".")
    if len(levels) > _MAX_KEY_LEVELS or sum(map(_is_number, levels)) > _MAX_KEY_NUMBERS:
        raise ValueError(
            f"{name}: key {key[:50]!r}… has {len(levels)} levels; a key has at most {_MAX_KEY_LEVELS}, of which "
            f"{_MAX_KEY_NUMBERS} may be numbers. Put what is nested deeper into a value."
        )
    return key


def _is_number(name: str) -> bool:
    """Tell whether a server takes a name for a place in a list, where it meets one."""
    return name.isascii() and name.isdigit()


def has_number(key: str) -> bool:
    """Tell whether a metadata key may reach into a list."""
    return any(map(_is_number, key.split(".")))


def ends_in_number(key: str) -> bool:
    """Tell whether a metadata key may be an element of a list."""
    return _is_number(key.split(".")[-1])


def _number(name: str) -> int:
    # No list is that long, and what is larger has no place in 4 bytes.
    return int(name[-10:]) if len(name.lstrip("0")) <= 9 else _ALL


def metadata_path(key: str) -> str:
    """Return the dotted path of a metadata field."""
    return ".".join(("metadata", *map(escape_key, key.split("."))))


def agent_path(agent_id: str, *names: str, nested: bool = False) -> str:
    """Return the dotted path of an agent, or of a field below it.

    The first version stored an agent whose id has dots ``nested``, one level for each part of the id.
    """
    return ".".join(("agents", agent_id if nested else escape_key(agent_id), *names))


# The fields of an agent that are objects, but no agents in it.
_AGENT_OBJECTS = ("agent_data", "guard", "live")


def _may_be_nested(agent_id: str) -> bool:
    parts = agent_id.split(".")
    if not 1 < len(parts) <= _MAX_KEY_LEVELS or "agent_data" in parts[1:]:
        return False
    return all(part and not part.startswith("$") for part in parts)


def nested_agents(agents: Stored) -> list[str]:
    """Return the ids of the agents that stand nested in others' fields, and nowhere else."""
    found = [agent_id for name, agent in agents.items() for agent_id in _agents_in(name, agent)]
    return [agent_id for agent_id in found if _may_be_nested(agent_id) and escape_key(agent_id) not in agents]


def _agents_in(agent_id: str, agent: Any) -> Iterator[str]:
    inner = agent.items() if isinstance(agent, dict) else ()
    for name, value in inner:
        if isinstance(value, dict) and name != "agent_data":
            if isinstance(value.get("agent_data"), dict):
                yield f"{agent_id}.{name}"
            yield from _agents_in(f"{agent_id}.{name}", value)


def _lifted(*agent_ids: str) -> Pipeline:
    """Return the stage after which nested agents stand where all others do; none for ordinary ids.

    Of a single one ``is_nested`` then tells whether it was.
    """
    fields: Stored = {}
    for agent_id in filter(_may_be_nested, agent_ids):
        own, nested = _own_and_nested(agent_id)
        is_nested = _is_nested(agent_id)
        fields |= {"is_nested": is_nested, agent_path(agent_id): {"$cond": [is_nested, nested, own]}}
    return [{"$set": fields}] if fields else []


def _own_and_nested(agent_id: str) -> tuple[str, str]:
    return f"${agent_path(agent_id)}", f"${agent_path(agent_id, nested=True)}"


def _is_nested(agent_id: str) -> Stored:
    own, nested = _own_and_nested(agent_id)
    return {"$and": [{"$not": [{"$ifNull": [own, False]}]}, _is_object(f"{nested}.agent_data")]}


def _is_object(value: str) -> Stored:
    # In the order of BSON's types objects come right before lists.
    return {"$and": [{"$gte": [value, {}]}, {"$lt": [value, []]}]}


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
        "guardrail_events": [],
        "agent_ids": [],
        "agents": {},
        "multi_agents": {},
    }


def open_session(session_id: str, session_type: str, application_name: str | None) -> tuple[Stored, Update]:
    """Return the upsert that opens a session, new or existing, and what a new one starts with."""
    fresh = new_session(session_id, session_type, application_name, now())
    return fresh, {"$setOnInsert": {"schema_version": SCHEMA_VERSION, **fresh}}


def opening_fields(agent_ids: Iterable[str]) -> Stored:
    """Return what opening a session reads: with it come agents, each as ``restore_pipeline`` reads it.

    And how large all agents are.
    """
    agents = [_brought(agent_id) for agent_id in agent_ids]
    fields = {**OPENING_FIELDS, AGENTS_BYTES: {"$bsonSize": {"agents": "$agents"}}}
    return {**fields, BROUGHT: agents} if agents else fields


def _brought(agent_id: str) -> Stored:
    """Return the expression that reads an agent where it stands: a projection cannot lift a nested one before."""
    fields: Stored = restore_pipeline("", agent_id)[-1]["$project"]
    if not _may_be_nested(agent_id):
        return fields
    nested = {**_read_elsewhere(fields, *_own_and_nested(agent_id)), "is_nested": {"$literal": True}}
    return {"$cond": [_is_nested(agent_id), nested, fields]}


def _read_elsewhere(expression: Any, path: str, other: str) -> Any:
    """Return an expression with another path in the place of one and of what is below it."""
    if isinstance(expression, dict):
        return {name: _read_elsewhere(value, path, other) for name, value in expression.items()}
    if isinstance(expression, list):
        return [_read_elsewhere(value, path, other) for value in expression]
    is_below = isinstance(expression, str) and f"{expression}.".startswith(f"{path}.")
    return other + expression[len(path) :] if is_below else expression


def upgraded(session_id: str) -> Change:
    """Return filter and update that bring a session of the first version up to date."""
    return {"_id": session_id, "schema_version": None}, {"$set": {"schema_version": SCHEMA_VERSION}}


def taken(session_id: str, update: Update, lease: Lease) -> Change:
    """Return filter and update that open a session and take its lease, where nobody has it."""
    at = now()
    free: Stored = {"_id": session_id, "$or": [{"lease": None}, {"lease.expires_at": {"$lte": at}}]}
    held = {"owner": lease.owner, "expires_at": lease.renewed(at)}
    return free, {**update, "$set": {"lease": held}}


def leased(change: Change, lease: Lease | None) -> Change:
    """Have a write go through only under the writer's lease, which it renews; without one, where nobody has one."""
    wanted, update = change
    if lease is None:
        wanted["lease"] = None
    else:
        wanted["lease.owner"] = lease.owner
        update.setdefault("$set", {})["lease.expires_at"] = lease.renewed(now())
    return change


def renewed(session_id: str, lease: Lease) -> Change:
    """Return filter and update that renew a lease, where it is still held."""
    return leased(({"_id": session_id}, {}), lease)


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
        nested: Whether the agent stands nested, as ``agent_path`` says.
    """

    revision: int | None
    next_message_id: int
    write_id: object = None
    found: Stored | None = field(default=None, compare=False, repr=False)
    nested: bool = field(default=False, compare=False)

    @property
    def stored(self) -> Stored:
        """What a session document holds of it. Compared as a whole, so the order counts."""
        return self.found or _guard(self.revision, self.next_message_id, self.write_id)

    def after(self, appended: int, write_id: object) -> "Guard":
        """Return where the history is after a write that appended so many messages."""
        return self._moved(self.next_message_id + appended, write_id)

    def _moved(self, next_message_id: int, write_id: object) -> "Guard":
        revision = (self.revision or 0) + 1
        return replace(self, revision=revision, next_message_id=next_message_id, write_id=write_id, found=None)


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
        live: Which stored messages are live, in its stored form, where that is to be stored.
        live_may_wait: Whether that only lost its head.
        guardrail_events: What to add to the session's record of redactions.
        size: The bytes of what is appended.
        files: Values that it refers to, by digest; they are uploaded ahead.
        moved: Of a new agent, references to segments with the messages before those that are appended.
        leaves_guard: Whether who restored the history before it may go on after it; for a moved window alone.
        write_id: Tells this very write when its answer was lost.
        at: When it was made.
    """

    agent_id: str
    appended: list[Stored] = field(default_factory=list, repr=False)
    edited: MessageEdit | None = None
    data: Stored = field(default_factory=dict, repr=False)
    live: Stored | None = field(default=None, repr=False)
    live_may_wait: bool = True
    guardrail_events: list[Stored] = field(default_factory=list, repr=False)
    size: int = 0
    files: dict[str, bytes] = field(default_factory=dict, repr=False)
    moved: list[Stored] = field(default_factory=list, repr=False)
    leaves_guard: bool = False
    write_id: ObjectId = field(default_factory=ObjectId)
    at: datetime = field(default_factory=now)

    @property
    def moves_window(self) -> bool:
        """Whether all that it tells is how far the window has moved: an older one gives the same conversation.

        A conversation manager that keeps more than that, such as a summary, is not meant.
        """
        if self.appended or self.edited or self.guardrail_events or not self.live_may_wait:
            return False
        if not self.data:
            return self.live is not None
        return self.data.keys() == {_MANAGER_STATE} and _WINDOW_STATE.issuperset(self.data[_MANAGER_STATE])

    def leads_to(self, guard: Guard) -> Guard:
        """Return where the history is when this was written there."""
        return guard if self.leaves_guard else guard.after(len(self.appended), self.write_id)


def new_agent(session_id: str, write: AgentWrite) -> tuple[Stored, Update]:
    """Return filter and update that create an agent with its first messages, where it does not exist yet."""
    agent = {
        "agent_data": {"agent_id": write.agent_id, **write.data},
        "messages": write.appended,
        "guard": _guard(1, _next_id_of_new(write), write.write_id),
        "created_at": write.at,
        "updated_at": write.at,
    }
    if write.moved:
        agent |= {"segments": write.moved, "moved_count": sum(reference["count"] for reference in write.moved)}
    if write.live is not None:
        agent["live"] = write.live
    path = agent_path(write.agent_id)
    update: Update = {
        "$set": {path: agent, "updated_at": write.at},
        "$addToSet": {"agent_ids": write.agent_id},
    }
    if write.files:
        update["$set"]["has_files"] = True
    if write.guardrail_events:
        update["$push"] = {"guardrail_events": {"$each": write.guardrail_events}}
    wanted: Stored = {"_id": session_id, path: {"$exists": False}, f"agent_ids.{MOST_AGENTS - 1}": {"$exists": False}}
    if _may_be_nested(write.agent_id):
        wanted[agent_path(write.agent_id, "agent_data", nested=True)] = {"$exists": False}
    return wanted, update


def _next_id_of_new(write: AgentWrite) -> int:
    last = [message["message_id"] for message in write.appended[-1:]] or [each["last_id"] for each in write.moved[-1:]]
    return last[0] + 1 if last else 0


def new_agent_beside(session_id: str, write: AgentWrite) -> tuple[Stored, Update]:
    """Return what ``new_agent`` does, for an agent in whose field nested ones stand already."""
    wanted, update = new_agent(session_id, write)
    path = agent_path(write.agent_id)
    agent = update["$set"].pop(path)
    update["$set"] |= {f"{path}.{name}": value for name, value in agent.items()}
    wanted[path] = {"$type": "object", "$ne": {}}
    wanted |= {f"{path}.{name}": {"$exists": False} for name in ("agent_data", "messages")}
    return wanted, update


def guarded(session_id: str, write: AgentWrite, guard: Guard) -> tuple[Stored, Update]:
    """Return filter and update of a write that goes through only at the place that its guard names."""
    path = agent_path(write.agent_id, nested=guard.nested)
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


def at_once(session_id: str, changes: Iterable[Change]) -> Change:
    """Return one change that goes through where each of several of one document would, which touch different fields."""
    update: Update = {}
    conditions = []
    for wanted, part in changes:
        conditions.append(wanted)
        for operator, fields in part.items():
            update.setdefault(operator, {}).update(fields)
    return {"_id": session_id, "$and": conditions}, update


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
    if write.live is not None:
        changed[f"{path}.live"] = write.live
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


def unguarded(session_id: str, write: AgentWrite, *, nested: bool = False) -> tuple[Stored, Update]:
    """Return filter and update of a write by a caller who knows message ids only, as the SDK's interface does."""
    path = agent_path(write.agent_id, nested=nested)
    wanted: Stored = {"_id": session_id, f"{path}.agent_data": {"$exists": True}}
    update = _change(path, write)
    if write.data:
        # The SDK's own verbs know the conversation manager's count instead.
        update.setdefault("$unset", {})[f"{path}.live"] = ""
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
    fields["has_files"], fields["is_nested"] = "$has_files", "$is_nested"
    if messages is not None:
        fields["messages"] = messages
    return [{"$match": {"_id": session_id}}, *_lifted(agent_id), {"$project": fields}]


def restore_pipeline(session_id: str, agent_id: str) -> Pipeline:
    """Return the aggregation that reads an agent with the messages from its lowest live id on.

    The live set itself is taken by the reader: where it has many ranges, the server would be slow at that. Without a
    live set all messages are read that the session document holds.
    """
    path = f"${agent_path(agent_id)}"
    firsts = {"$map": {"input": _list(f"{path}.live.ranges"), "as": "ends", "in": _first_of("$$ends")}}
    lowest = {"$ifNull": [{"$min": [f"{path}.live.from", {"$min": firsts}]}, _LOWEST_ID]}
    stages = agent_pipeline(session_id, agent_id, _let(lowest, _chosen(agent_id, _from_lowest("$$message.message_id"))))
    moved = {"$ifNull": [f"{path}.segments", []]}
    needed = {"$filter": {"input": moved, "as": "segment", "cond": _from_lowest("$$segment.last_id")}}
    stages[-1]["$project"] |= {"live": f"{path}.live", "segments": _let(lowest, needed)}
    stages[-1]["$project"]["count"] = {"$size": _messages(agent_id)}
    return stages


def _first_of(pair: str) -> Stored:
    return {"$cond": [{"$isArray": pair}, {"$arrayElemAt": [pair, 0]}, None]}


def _let(lowest: Stored, within: Stored) -> Stored:
    return {"$let": {"vars": {"lowest": lowest}, "in": within}}


def _from_lowest(number: str) -> Stored:
    return {"$gte": [number, "$$lowest"]}


def page_pipeline(session_id: str, agent_id: str, start: int, end: int | None) -> Pipeline:
    """Return the aggregation that reads the messages from position ``start`` on, up to ``end``.

    Ids are positions where the counter tells so; elsewhere (the first version; ids of a caller's own) all messages of
    the session document are read, with the references of all segments.
    """
    path = f"${agent_path(agent_id)}"
    count = {"$size": _messages(agent_id)}
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
    """Tell whether the ids of an agent that a page was read of are positions."""
    guard = agent.get("guard")
    counted = guard.get("next_message_id") if isinstance(guard, Mapping) else None
    return bool(counted == agent["count"] + (agent.get("moved_count") or 0))


def position_pipeline(session_id: str, agent_id: str, message_id: int | None) -> Pipeline:
    """Return the aggregation that counts the messages in the session document ``before`` one and ``upto`` it.

    Those before the end where there is no id. An id that is not there stands where it would.
    """
    stages = _with_segments(agent_pipeline(session_id, agent_id), agent_id)
    count = {"$size": _messages(agent_id)}
    if message_id is None:
        stages[-1]["$project"] |= {"before": count, "upto": count}
        return stages
    ids = _list(f"${agent_path(agent_id, 'messages', 'message_id')}")
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
    """Return the aggregation that reads the ids of the messages from one on, and whose the session is."""
    chosen = _chosen(agent_id, {"$gte": ["$$message.message_id", check_message_id(message_id)]})
    ids = {name: f"$$message.{name}" for name in ("message_id", "tracking_id")}
    stages = agent_pipeline(session_id, agent_id, {"$map": {"input": chosen, "as": "message", "in": ids}})
    stages[-1]["$project"] |= {"lease": "$lease", "is_there": _is_object(f"${agent_path(agent_id)}")}
    stages[-1]["$project"]["agents"] = {"$size": _list("$agent_ids")}
    return stages


def tracked_pipeline(session_id: str, agent_id: str, tracking_ids: Iterable[Any]) -> Pipeline:
    """Return the aggregation that reads which messages in the session document have one of some tracking ids."""
    # Literals, since whoever sends a message chooses it: "$role" would be read as a field.
    wanted = {"$in": ["$$message.tracking_id", [{"$literal": tracking_id} for tracking_id in tracking_ids]]}
    ids = {name: f"$$message.{name}" for name in ("message_id", "tracking_id")}
    found = {"$map": {"input": _chosen(agent_id, wanted), "as": "message", "in": ids}}
    return _with_segments(agent_pipeline(session_id, agent_id, found), agent_id)


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
    return _list(f"${agent_path(agent_id, 'messages')}")


def _list(value: str) -> dict[str, Any]:
    # Where no agent stands but others do, a name of one of theirs may be that of an agent's field.
    return {"$cond": [{"$isArray": value}, value, []]}


def count_pipeline(session_id: str, agent_id: str) -> Pipeline:
    """Return the aggregation that counts an agent's messages."""
    moved = {"$ifNull": [f"${agent_path(agent_id, 'moved_count')}", 0]}
    count = {"$add": [{"$size": _messages(agent_id)}, moved]}
    return [{"$match": {"_id": session_id}}, *_lifted(agent_id), {"$project": {"count": count}}]


def agents_pipeline(session_id: str, nested: Iterable[str], **wanted: Any) -> Pipeline:
    """Return the aggregation that lists what stands under ``agents``, as ``key`` and expressions over ``$$agent``.

    Beside them it tells whether that is an agent, and whether it may hold others, of which ``nested`` are known.
    """
    is_agent = _is_object("$$agent.v.agent_data")
    kind = {"is_agent": is_agent, "holds_others": {"$or": [{"$not": [is_agent]}, _holds_objects("$$agent.v")]}}
    each = {
        "$map": {
            "input": {"$objectToArray": {"$ifNull": ["$agents", {}]}},
            "as": "agent",
            "in": {"key": "$$agent.k", **kind, **wanted},
        }
    }
    return [{"$match": {"_id": session_id}}, *_lifted(*nested), {"$project": {"agents": each}}]


def _holds_objects(agent: str) -> Stored:
    fields = {"$cond": [_is_object(agent), {"$objectToArray": agent}, []]}
    others = [*({"$ne": ["$$field.k", name]} for name in _AGENT_OBJECTS), _is_object("$$field.v")]
    found = {"$filter": {"input": fields, "as": "field", "cond": {"$and": others}}}
    return {"$gt": [{"$size": found}, 0]}


def configs_pipeline(session_id: str, nested: Iterable[str] = ()) -> Pipeline:
    """Return the aggregation that reads how each agent is configured."""
    wanted = {name: {"$ifNull": [f"$$agent.v.agent_data.{name}", None]} for name in ("agent_id", *CONFIG_FIELDS)}
    return agents_pipeline(session_id, nested, **wanted)


def calls_pipeline(session_id: str, nested: Iterable[str] = ()) -> Pipeline:
    """Return the aggregation that reads the metrics of all messages of each agent, and nothing else of them."""
    metrics = {
        "$map": {
            "input": _list("$$agent.v.messages"),
            "as": "message",
            "in": {"$ifNull": ["$$message.event_loop_metrics", None]},
        }
    }
    segments = _list("$$agent.v.segments")
    return agents_pipeline(session_id, nested, calls=metrics, segments=segments)


def config_fields(agent_id: str) -> dict[str, int]:
    """Return the projection of one agent's configuration, wherever it stands."""
    paths = (path for _, path in _places(agent_id, "agent_data"))
    return {f"{path}.{name}": 1 for path in paths for name in ("agent_id", *CONFIG_FIELDS)}


def config_of(session: Stored, agent_id: str) -> Stored | None:
    """Return the ``agent_data`` that was read by ``config_fields``; None where there is no such agent."""
    for names, _ in _places(agent_id, "agent_data"):
        found: Any = session
        for name in names:
            found = found.get(name) if isinstance(found, dict) else None
        if isinstance(found, dict):
            return found
    return None


def _places(agent_id: str, *names: str) -> list[tuple[list[str], str]]:
    """Return where a field of an agent may stand, as names and as a path."""
    nested = [False, True] if _may_be_nested(agent_id) else [False]
    paths = [agent_path(agent_id, *names, nested=each) for each in nested]
    return [(path.split("."), path) for path in paths]


def changed_config(session_id: str, agent_id: str, config: Stored, *, nested: bool = False) -> tuple[Stored, Update]:
    """Return filter and update that set fields of an agent's configuration; history and state are not touched."""
    path = agent_path(agent_id, "agent_data", nested=nested)
    changed: Stored = {f"{path}.{name}": value for name, value in config.items()}
    changed["updated_at"] = now()
    return {"_id": session_id, path: {"$exists": True}}, {"$set": changed}


def changed_metadata(session_id: str, fields: Stored) -> tuple[Stored, Update]:
    """Return filter and update that set metadata fields, by dotted key, where none would fill a list with nulls."""
    changed = {metadata_path(key): value for key, value in fields.items()}
    filled = [_elsewhere_or(path, "$gte", length) for path, length in _lengths(fields).items() if length]
    return _where(session_id, filled), {"$set": {**changed, "updated_at": now()}}


def deleted_metadata(session_id: str, keys: Collection[str], held: Mapping[str, Any]) -> tuple[Stored, Update]:
    """Return filter and update that remove metadata fields, by dotted key, where none is an element of a list.

    And only where fields hold values, as stored.
    """
    removed = {metadata_path(key): "" for key in keys}
    paths = [tuple(key.split(".")) for key in keys]
    kept = [_elsewhere_or(path[:-1], "$lte", _number(path[-1])) for path in paths if _is_number(path[-1])]
    wanted = _where(session_id, kept) | {metadata_path(key): value for key, value in held.items()}
    return wanted, {"$unset": removed, "$set": {"updated_at": now()}}


def _where(session_id: str, conditions: list[Stored]) -> Stored:
    return {"_id": session_id, "$expr": {"$and": conditions}} if conditions else {"_id": session_id}


def _lengths(keys: Iterable[str]) -> dict[tuple[str, ...], int]:
    """Return how long what stands at each path must be, should it be a list, so that it gets no gaps."""
    numbers: dict[tuple[str, ...], set[int]] = {}
    for path in (tuple(key.split(".")) for key in keys):
        for level, name in enumerate(path):
            if _is_number(name):
                numbers.setdefault(path[:level], set()).add(_number(name))
    return {path: _first_of_last_run(sorted(found)) for path, found in numbers.items()}


def _first_of_last_run(numbers: list[int]) -> int:
    """Return where the elements begin that the last one of these follows without a gap."""
    first = numbers[-1]
    for number in reversed(numbers[:-1]):
        if number < first - 1:
            break
        first = number
    return first


def _elsewhere_or(path: tuple[str, ...], comparison: str, length: int) -> Stored:
    """Return the condition that no list stands at a metadata path, or one whose length compares so."""

    def compared(value: str) -> Stored:
        return {"$cond": [{"$isArray": value}, {comparison: [{"$size": value}, length]}, True]}

    return _at("$metadata", [escape_key(name) for name in path], compared)


def _at(place: str, path: list[str], condition: Callable[[str], Stored]) -> Stored:
    """Return a condition on what an update finds at a path: a number in it is an index in lists, else a name.

    A path in a filter has more readings: there a number is also a name in each element of a list.
    """
    level = next((level for level, name in enumerate(path) if _is_number(name)), None)
    if level is None:
        return condition(".".join((place, *path)))
    value, name = ".".join((place, *path[:level])), path[level]
    found = {"$cond": [{"$isArray": value}, {"$arrayElemAt": [value, _number(name)]}, f"{value}.{name}"]}
    return {"$let": {"vars": {"found": found}, "in": _at("$$found", path[level + 1 :], condition)}}


def new_feedback(session_id: str, feedback: Stored, size: int, about: Stored) -> tuple[Stored, Update]:
    """Return filter and update that append feedback, where the message that it is about exists."""
    return {"_id": session_id, **about}, {
        "$push": {"feedbacks": feedback},
        "$inc": {"feedback_bytes": size},
        "$set": {"updated_at": feedback["created_at"]},
    }


def with_little_feedback(wanted: Stored, size: int) -> Stored:
    """Return a filter that also wants the feedback in the session document to have no more bytes than that."""
    return {**wanted, "feedback_bytes": {"$not": {"$gt": size}}}


def recorded(change: Change, outbox: list[Stored], most: int | None = None) -> Change:
    """Have a change record notifications too, where the outbox then has no more than so many bytes."""
    wanted, update = change
    pushed = {**update.get("$push", {}), "outbox": {"$each": outbox}}
    if most is not None:
        wanted = _holding_less(wanted, "outbox", most - sum(len(bson.encode(record)) for record in outbox))
    return wanted, {**update, "$push": pushed}


def recorded_apart(change: Change, references: list[Stored]) -> Change:
    """Have a change refer to notifications that are documents of their own."""
    wanted, update = change
    return wanted, {**update, "$push": {**update.get("$push", {}), "outbox_documents": {"$each": references}}}


def with_little_metadata(change: Change, most: int) -> Change:
    """Have a change go through only where the metadata have no more than so many bytes."""
    wanted, update = change
    return _holding_less(wanted, "metadata", most), update


def _holding_less(wanted: Stored, name: str, most: int) -> Stored:
    return {**wanted, "$and": [*wanted.get("$and", ()), {"$expr": {"$lte": [_bytes_of(name), most]}}]}


def _bytes_of(name: str) -> Stored:
    return {"$bsonSize": {name: f"${name}"}}


def bytes_pipeline(session_id: str, name: str, without: Iterable[str] = ()) -> Pipeline:
    """Return the aggregation that measures a field of the session, without some metadata fields, by dotted key."""
    left_out: Pipeline = [{"$unset": [metadata_path(key) for key in without]}] if without else []
    return [{"$match": {"_id": session_id}}, *left_out, {"$project": {"bytes": _bytes_of(name)}}]


def acknowledged(session_id: str, ids: Iterable[str], *, apart: bool = False) -> tuple[Stored, Update]:
    """Return filter and update that remove notifications from the outbox, or the references to those kept apart."""
    return {"_id": session_id}, {"$pull": {"outbox_documents" if apart else "outbox": {"id": {"$in": list(ids)}}}}


def outbox_documents(session_id: str, ids: Iterable[str]) -> Stored:
    """Return the filter of notifications that are documents of their own."""
    return {"session_id": session_id, "kind": "outbox", "record.id": {"$in": list(ids)}}


def has_message(agent_id: str, message_id: int) -> Stored:
    """Return the condition that an agent holds a message with an id."""
    places = [{path: message_id} for _, path in _places(agent_id, "messages", "message_id")]
    return places[0] if len(places) == 1 else {"$or": places}


def has_tracking_id(agent_ids: Iterable[str], tracking_id: Any) -> Stored:
    """Return the condition that one of the agents holds a message with a tracking id, as stored."""
    places = (place for agent_id in agent_ids for place in _places(agent_id, "messages", "tracking_id"))
    return {"$or": [{path: tracking_id} for _, path in places]}


def segment_messages_pipeline(
    session_id: str, references: Iterable[Stored], spans: Sequence[tuple[int, int | None]]
) -> Pipeline:
    """Return the aggregation that reads the messages of segments whose ids lie in one of some spans, ends included."""
    wanted = {"$or": [_in_span(*span) for span in spans]}
    messages = {"$filter": {"input": "$messages", "as": "message", "cond": wanted}}
    return [{"$match": segments(session_id, references)}, {"$project": {"messages": messages}}]


def _in_span(first: int, last: int | None) -> Stored:
    bounds = [{"$gte": ["$$message.message_id", first]}]
    return {"$and": bounds if last is None else [*bounds, {"$lte": ["$$message.message_id", last]}]}


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
    is_nested = bool(agent.get("is_nested"))
    return Guard(None if revision is None else int(revision), int(next_id), write_id, found, is_nested)


def removed_count(data: Mapping[str, Any]) -> int:
    """Return how many messages a conversation manager says it had removed; 0 where that is no number."""
    state = data.get("conversation_manager_state")
    count = state.get("removed_message_count") if isinstance(state, Mapping) else None
    return int(count) if isinstance(count, int) and not isinstance(count, bool) and count > 0 else 0


def new_segment(session_id: str, agent_id: str, messages: list[Stored], size: int) -> tuple[Stored, Stored]:
    """Return a segment of messages, of so many bytes, and the reference to it."""
    segment_id = ObjectId()
    segment = {"_id": segment_id, "session_id": session_id, "kind": "messages", "agent_id": agent_id}
    ids = {"first_id": messages[0]["message_id"], "last_id": messages[-1]["message_id"]}
    return {**segment, "messages": messages}, {"_id": segment_id, "count": len(messages), "bytes": size, **ids}


def longer_segment(session_id: str, reference: Stored, messages: list[Stored], move_id: ObjectId) -> Change:
    """Return filter and update that append messages to a segment, where it ends as its reference says.

    Until a reference names them, they are invisible; the segment tells by whom it was appended to.
    """
    wanted = {**segments(session_id, [reference]), "messages": {"$size": reference["count"]}}
    return wanted, {"$push": {"messages": {"$each": messages}}, "$set": {"move_id": move_id}}


def lengthened(session_id: str, references: Iterable[Stored], move_id: ObjectId) -> Stored:
    """Return the filter of the segments that a move has appended to."""
    return {**segments(session_id, references), "move_id": move_id}


def shorter_segment(session_id: str, reference: Stored) -> Change:
    """Return filter and update that take out of a segment again what its reference does not name."""
    return segments(session_id, [reference]), {"$pull": {"messages": {"message_id": {"$gt": reference["last_id"]}}}}


def sizes_pipeline(session_id: str, nested: Iterable[str] = ()) -> Pipeline:
    """Return the aggregation that reads how large the messages of each agent in the document are."""
    messages = _list("$$agent.v.messages")
    wanted: Stored = {"bytes": {"$bsonSize": {"messages": messages}}, "messages": {"$size": messages}}
    wanted |= {"revision": {"$ifNull": ["$$agent.v.guard.revision", None]}}
    wanted |= {"updated_at": {"$ifNull": ["$$agent.v.updated_at", None]}}
    return agents_pipeline(session_id, nested, **wanted)


def embedded_pipeline(session_id: str, agent_ids: Iterable[str], *, with_messages: bool) -> Pipeline:
    """Return the aggregation that reads some agents, in order: counters, references, perhaps all messages."""
    agents = [_embedded(agent_id, with_messages) for agent_id in agent_ids]
    return [{"$match": {"_id": session_id}}, {"$project": {"agents": agents}}]


def _embedded(agent_id: str, with_messages: bool) -> Stored:
    path = f"${agent_path(agent_id)}"
    fields: Stored = {name: f"{path}.{name}" for name in ("guard", "moved_count")}
    fields["segments"] = _list(f"{path}.segments")
    fields["last_message_id"] = {"$max": f"{path}.messages.message_id"}
    return {**fields, "messages": _messages(agent_id)} if with_messages else fields


def rolled_over(
    session_id: str, agent_id: str, guard: Guard, moved_count: int, references: list[Stored], write_id: ObjectId
) -> tuple[Stored, Update]:
    """Return filter and update that replace the oldest messages by references to the segments that hold them now."""
    wanted, update = guarded(session_id, AgentWrite(agent_id, write_id=write_id), guard)
    path = agent_path(agent_id, nested=guard.nested)
    # Two movers may have read the same messages; the second one must not refer to them again.
    wanted[f"{path}.moved_count"] = moved_count or {"$in": [0, None]}
    if guard.revision is not None:
        # The history stays what it is, so who goes on from it, restored before the move, is not disturbed.
        del update["$set"]
    update["$pull"] = {f"{path}.messages": {"message_id": {"$lte": references[-1]["last_id"]}}}
    update["$push"] = {f"{path}.segments": {"$each": references}}
    update["$inc"] = {f"{path}.moved_count": sum(reference["count"] for reference in references)}
    return wanted, update


def moved_out(
    session_id: str, agent_id: str, agent: Stored, references: list[Stored], longer: Stored | None = None
) -> Change:
    """Return what ``rolled_over`` does for an agent that ``embedded_pipeline`` read; counters are for its own writer.

    Args:
        session_id: The session.
        agent_id: The agent.
        agent: What was read.
        references: Those to new segments, oldest first.
        longer: Instead of them, the last one there was, as it is now.
    """
    moved_count = int(agent.get("moved_count") or 0)
    written = references if longer is None else [longer]
    wanted, update = rolled_over(session_id, agent_id, guard_of(agent), moved_count, written, ObjectId())
    update.pop("$set", None)
    if longer is not None:
        path = agent_path(agent_id)
        last = len(agent["segments"]) - 1
        update["$set"] = {f"{path}.segments.{last}": longer}
        update["$inc"] = {f"{path}.moved_count": longer["count"] - agent["segments"][last]["count"]}
        del update["$push"]
    return wanted, update


def moved_message(session_id: str, agent_id: str, edit: MessageEdit) -> tuple[Stored, Update]:
    """Return filter and update that change a message in whatever segments hold it, referred to or not."""
    update: Update = {"$set": {f"messages.$.{name}": value for name, value in edit.fields.items()}}
    if edit.dropped:
        update["$unset"] = {f"messages.$.{name}": "" for name in edit.dropped}
    return {"session_id": session_id, "agent_id": agent_id, **_edited("messages", edit)}, update


def segment_ids(session_id: str, reference: Stored) -> tuple[Stored, dict[str, int]]:
    """Return filter and projection of the message ids in one segment."""
    return segments(session_id, [reference]), {"messages.message_id": 1}


def tracked(session_id: str, agent_ids: Iterable[str], tracking_ids: Iterable[Any]) -> Stored:
    """Return the filter of the segments that hold a message with one of some tracking ids, as stored."""
    wanted = {"session_id": session_id, "agent_id": {"$in": list(agent_ids)}}
    return {**wanted, "messages.tracking_id": {"$in": list(tracking_ids)}}


def used_files_pipeline(session_id: str, nested: Iterable[str] = ()) -> Pipeline:
    """Return the aggregation that reads which off-loaded values the messages of agents in a document refer to."""
    used = {"$map": {"input": _list("$$agent.v.messages"), "as": "message", "in": _FILES_OF_MESSAGE}}
    data = {name: {"$ifNull": [f"$$agent.v.agent_data.{name}.%file.sha256", None]} for name in AGENT_FIELDS}
    stages = agents_pipeline(session_id, nested, messages=used, data=data)
    states = {"$objectToArray": {"$ifNull": ["$multi_agents", {}]}}
    stages[-1]["$project"]["states"] = {"$map": {"input": states, "as": "state", "in": _FILES_OF_STATE}}
    return stages


_FILES_OF_MESSAGE = {"files": {"$ifNull": ["$$message.files", []]}}
_FILES_OF_STATE = {"files": {"$ifNull": ["$$state.v.files", []]}}


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


# What stands beside the ``state`` of a multi-agent, where there is any.
_BESIDE_STATE = ("inner", "encoded", "files")


def new_multi_agent(session_id: str, multi_agent_id: str, fields: Stored) -> tuple[Stored, Update]:
    """Return filter and update that store a multi-agent, where it does not exist yet."""
    at = now()
    path = multi_agent_path(multi_agent_id)
    stored = {"multi_agent_id": multi_agent_id, **fields, "created_at": at, "updated_at": at}
    return {"_id": session_id, path: {"$exists": False}}, {"$set": {path: stored, "updated_at": at}}


def changed_multi_agent(session_id: str, multi_agent_id: str, fields: Stored) -> tuple[Stored, Update]:
    """Return filter and update that replace the state of a stored multi-agent."""
    at = now()
    path = multi_agent_path(multi_agent_id)
    changed = {f"{path}.{name}": value for name, value in fields.items()}
    changed |= {f"{path}.updated_at": at, "updated_at": at}
    dropped = {f"{path}.{name}": "" for name in _BESIDE_STATE if name not in fields}
    return {"_id": session_id, path: {"$exists": True}}, {"$set": changed, "$unset": dropped}


def without_state_file(multi_agent_id: str) -> Stored:
    """Return the condition that the state of a multi-agent is not in a file."""
    return {multi_agent_path(multi_agent_id, "files"): None}


def multi_agent_fields(multi_agent_id: str) -> dict[str, int]:
    """Return the projection that tells whether a multi-agent is stored and in which file, and whose the session is."""
    return {multi_agent_path(multi_agent_id, name): 1 for name in ("multi_agent_id", "files")} | {"lease": 1}


def multi_agent_pipeline(session_id: str, multi_agent_id: str) -> Pipeline:
    """Return the aggregation that reads the state of one multi-agent, and what stands beside it."""
    path = f"${multi_agent_path(multi_agent_id)}"
    fields = {name: f"{path}.{name}" for name in ("state", *_BESIDE_STATE)}
    return [{"$match": {"_id": session_id}}, {"$project": fields}]
