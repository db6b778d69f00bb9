"""Writes of one agent's history: the guard, new agents, guarded and unguarded updates, rollover."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, TypeAlias

from bson import ObjectId

from ..types import GuardDoc, LiveDoc, MessageDoc, SegmentReferenceDoc
from .ids import agent_path, now
from .interrupts import agent_name, interrupted_update
from .messages import OFFLOADED_FIELDS, MessageEdit
from .nested import may_be_nested
from .values import FilterAndUpdate, Stored, Update

# Figures by ``<UTC day>.<escaped model>``.
Usage: TypeAlias = Mapping[str, Mapping[str, float]]
_NO_USAGE: Usage = {}
_USAGE: Final = ".moved_usage."

# Agents of one session; each takes about 1 kB of the document beside its messages.
MOST_AGENTS = 5_000

# What the SDK's conversation managers keep of messages that left the list.
_MANAGER_STATE = "conversation_manager_state"
_INTERNAL_STATE = "_internal_state"
_WINDOW_STATE = frozenset({"__name__", "removed_message_count", "model_call_count"})


@dataclass(frozen=True)
class Guard:
    """The revision of an agent's history that a writer knows. A write goes through only at this revision.

    Attributes:
        revision: The number of guarded writes so far; None for an agent that the first version stored.
        next_message_id: The id that the next message gets.
        write_id: The last guarded write; it differs in a session that was deleted and created again.
        found: The guard as it was read. An agent of the first version has no counter after a write by the SDK's verbs.
        nested: Whether the agent is nested, see ``agent_path``.
    """

    revision: int | None
    next_message_id: int
    write_id: object = None
    found: GuardDoc | None = field(default=None, compare=False, repr=False)
    nested: bool = field(default=False, compare=False)

    @property
    def stored(self) -> GuardDoc:
        """The stored form. It is compared as a whole, so the order of its fields matters."""
        return self.found or _guard(self.revision, self.next_message_id, self.write_id)

    def after(self, appended: int, write_id: object) -> "Guard":
        """Return the guard after a write that appended so many messages."""
        return Guard((self.revision or 0) + 1, self.next_message_id + appended, write_id, nested=self.nested)


def _guard(revision: int | None, next_message_id: int, write_id: object) -> GuardDoc:
    return {"revision": revision, "next_message_id": next_message_id, "write_id": write_id}


def is_window_state(data: Stored) -> bool:
    """Tell whether agent data holds only a conversation manager's count of the messages that left its window."""
    return data.keys() == {_MANAGER_STATE} and _WINDOW_STATE.issuperset(data[_MANAGER_STATE])


def is_interrupted(internal_state: object) -> bool:
    """Tell whether an agent with this state waits for the answer to an interrupt."""
    found = internal_state.get("interrupt_state") if isinstance(internal_state, Mapping) else None
    return isinstance(found, Mapping) and found.get("activated") is True


def usage_doc(usage: Usage) -> Stored:
    """Return figures as an agent holds them, by day and model."""
    days: Stored = {}
    for key, figures in usage.items():
        day, _, model = key.partition(".")
        days.setdefault(day, {})[model] = dict(figures)
    return days


@dataclass
class AgentWrite:
    """One atomic change of one agent: messages, state, live set and files.

    Attributes:
        agent_id: The agent.
        appended: Elements of ``messages`` to append, with their ids.
        edited: A change of one stored message.
        data: Changed fields of ``agent_data``.
        live: The live set to store, in its stored form.
        live_may_wait: Whether the live set only lost its oldest messages.
        guardrail_events: Entries to add to the session's redactions.
        size: The bytes of the appended messages.
        files: Values that it refers to, by digest; they are uploaded before it.
        moved: Of a new agent: references to segments with its older messages.
        moved_usage: Of a new agent: what the calls of these messages used.
        interrupted: The same as ``waits`` if the state is in a file; otherwise None.
        replaces_files: Whether the stored fields that it replaces may be in files.
        keeps_revision: Whether agents that were restored before this write may go on; only for a moved window.
        write_id: Identifies this write if the answer to it is lost.
        at: The time of the write.
    """

    agent_id: str
    appended: list[MessageDoc] = field(default_factory=list, repr=False)
    edited: MessageEdit | None = None
    data: Stored = field(default_factory=dict, repr=False)
    live: LiveDoc | None = field(default=None, repr=False)
    live_may_wait: bool = True
    guardrail_events: list[Stored] = field(default_factory=list, repr=False)
    size: int = 0
    files: dict[str, bytes] = field(default_factory=dict, repr=False)
    moved: list[SegmentReferenceDoc] = field(default_factory=list, repr=False)
    moved_usage: Usage = field(default_factory=dict, repr=False)
    interrupted: bool | None = None
    replaces_files: bool = False
    keeps_revision: bool = False
    write_id: ObjectId = field(default_factory=ObjectId)
    at: datetime = field(default_factory=now)

    @property
    def waits(self) -> bool | None:
        """Whether the agent waits for the answer to an interrupt; None if the write does not change it."""
        if self.interrupted is None and _INTERNAL_STATE in self.data:
            return is_interrupted(self.data[_INTERNAL_STATE])
        return self.interrupted

    @property
    def moves_window(self) -> bool:
        """Whether it only moves the window: a restore from the older state gives the same messages.

        This does not hold for a conversation manager that keeps more, such as a summary.
        """
        if self.appended or self.edited or self.guardrail_events or not self.live_may_wait:
            return False
        return is_window_state(self.data) if self.data else self.live is not None

    def leads_to(self, guard: Guard) -> Guard:
        """Return the guard after this write."""
        return guard if self.keeps_revision else guard.after(len(self.appended), self.write_id)


def new_agent_update(session_id: str, write: AgentWrite) -> FilterAndUpdate:
    """Return filter and update that create an agent with its first messages, if it does not exist yet."""
    agent = {
        "agent_data": {"agent_id": write.agent_id, **write.data},
        "messages": write.appended,
        "guard": _guard(1, _next_id_of_new(write), write.write_id),
        "created_at": write.at,
        "updated_at": write.at,
    }
    if write.moved:
        agent |= {"segments": write.moved, "moved_count": sum(reference["count"] for reference in write.moved)}
        agent |= {"moved_usage": usage_doc(write.moved_usage)} if write.moved_usage else {}
    if write.live is not None:
        agent["live"] = write.live
    path = agent_path(write.agent_id)
    update: Update = {
        "$set": {path: agent, "updated_at": write.at},
        "$addToSet": {"agent_ids": write.agent_id},
    }
    if write.waits:
        update["$addToSet"]["interrupted"] = agent_name(write.agent_id)
    if write.files:
        update["$set"]["has_files"] = True
    if write.guardrail_events:
        update["$push"] = {"guardrail_events": {"$each": write.guardrail_events}}
    wanted: Stored = {"_id": session_id, path: {"$exists": False}, f"agent_ids.{MOST_AGENTS - 1}": {"$exists": False}}
    if may_be_nested(write.agent_id):
        wanted[agent_path(write.agent_id, "agent_data", nested=True)] = {"$exists": False}
    return wanted, update


def _next_id_of_new(write: AgentWrite) -> int:
    last = [message["message_id"] for message in write.appended[-1:]] or [each["last_id"] for each in write.moved[-1:]]
    return last[0] + 1 if last else 0


def new_agent_beside_update(session_id: str, write: AgentWrite) -> FilterAndUpdate:
    """Return ``new_agent_update`` for an agent in whose field nested agents are stored already."""
    wanted, update = new_agent_update(session_id, write)
    path = agent_path(write.agent_id)
    agent = update["$set"].pop(path)
    update["$set"] |= {f"{path}.{name}": value for name, value in agent.items()}
    wanted[path] = {"$type": "object", "$ne": {}}
    wanted |= {f"{path}.{name}": {"$exists": False} for name in ("agent_data", "messages")}
    return wanted, update


def guarded_update(session_id: str, write: AgentWrite, guard: Guard) -> FilterAndUpdate:
    """Return filter and update of a write that goes through only at the revision of its guard."""
    path = agent_path(write.agent_id, nested=guard.nested)
    wanted: Stored = {"_id": session_id, f"{path}.guard": None if guard.revision is None else guard.stored}
    if guard.revision is None:
        wanted |= _unnumbered(path, guard.next_message_id)
    elif not write.keeps_revision:
        wanted |= without_files_filter(path, write)
    update = _change(path, write)
    if write.edited is not None:
        wanted |= edited_message_filter(f"{path}.messages", write.edited)
    after = write.leads_to(guard)
    if after is not guard:
        update["$set"][f"{path}.guard"] = after.stored
    return wanted, update


def without_files_filter(path: str, write: AgentWrite) -> Stored:
    """Return the condition that no field that the write replaces is in a file, unless the write expects some."""
    names = () if write.replaces_files else write.data.keys() & OFFLOADED_FIELDS
    return {f"{path}.agent_data.{name}.%file": {"$exists": False} for name in names}


def batch_command(collection: str, changes: Iterable[FilterAndUpdate], write_concern: Stored) -> Stored:
    """Return one command of several updates; the server tries each, also after one has failed."""
    updates = [{"q": wanted, "u": update} for wanted, update in changes]
    command: Stored = {"update": collection, "updates": updates, "ordered": False}
    return {**command, "writeConcern": write_concern} if write_concern else command


def combined_update(session_id: str, changes: Iterable[FilterAndUpdate]) -> FilterAndUpdate:
    """Return several changes of one document, which touch different fields, as one: it goes through if each would."""
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
    waits = write.waits
    if waits is not None:
        update |= interrupted_update(agent_name(write.agent_id), waits)
    if write.live is not None:
        changed[f"{path}.live"] = write.live
    if write.files:
        changed["has_files"] = True
    if write.edited is not None:
        changed |= {f"{path}.messages.$.{name}": value for name, value in write.edited.fields.items()}
        update["$unset"] = {f"{path}.messages.$.{name}": "" for name in write.edited.dropped}
    pushed: dict[str, list[Any]] = {f"{path}.messages": write.appended, "guardrail_events": write.guardrail_events}
    if any(pushed.values()):
        update["$push"] = {name: _all_of(items) for name, items in pushed.items() if items}
    return update


def _all_of(items: list[Any]) -> Any:
    return items[0] if len(items) == 1 else {"$each": items}


def unguarded_update(session_id: str, write: AgentWrite, *, nested: bool = False) -> FilterAndUpdate:
    """Return filter and update of a write that knows only message ids, as the SDK's verbs do."""
    path = agent_path(write.agent_id, nested=nested)
    wanted: Stored = {"_id": session_id, f"{path}.agent_data": {"$exists": True}}
    wanted |= without_files_filter(path, write)
    update = _change(path, write)
    if write.data:
        # The SDK's verbs know no live set, only the conversation manager's count.
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
        wanted |= edited_message_filter(f"{path}.messages", write.edited)
    return wanted, update


def edited_message_filter(messages: str, edit: MessageEdit) -> Stored:
    if edit.tracking_id is None:
        return {f"{messages}.message_id": edit.message_id}
    return {messages: {"$elemMatch": {"message_id": edit.message_id, "tracking_id": edit.tracking_id}}}


def guard_of(agent: Mapping[str, Any]) -> Guard:
    """Return the guard of an agent as a pipeline read it."""
    found, last = agent.get("guard"), agent.get("last_message_id")
    revision, next_id = (None if found is None else found.get(name) for name in ("revision", "next_message_id"))
    if next_id is None:
        next_id = 0 if last is None else last + 1
    write_id = None if found is None else found.get("write_id")
    is_nested = bool(agent.get("is_nested"))
    return Guard(None if revision is None else int(revision), int(next_id), write_id, found, is_nested)


def rollover_update(
    session_id: str,
    agent_id: str,
    guard: Guard,
    moved_count: int,
    references: list[SegmentReferenceDoc],
    write_id: ObjectId,
    usage: Usage = _NO_USAGE,
) -> FilterAndUpdate:
    """Return filter and update that replace the oldest messages by references to their segments.

    Args:
        session_id: The session.
        agent_id: The agent.
        guard: The revision that the history must have.
        moved_count: The number of messages that had moved before.
        references: The references to new segments, oldest first.
        write_id: Identifies this write.
        usage: What the calls of the messages used, as ``moved_usage`` gives it.
    """
    wanted, update = guarded_update(session_id, AgentWrite(agent_id, write_id=write_id), guard)
    path = agent_path(agent_id, nested=guard.nested)
    # Two movers may have read the same messages; the second must not refer to them again.
    wanted[f"{path}.moved_count"] = moved_count or {"$in": [0, None]}
    if guard.revision is not None:
        # The history does not change, so an agent that was restored before the move may go on.
        del update["$set"]
    update["$pull"] = {f"{path}.messages": {"message_id": {"$lte": references[-1]["last_id"]}}}
    update["$push"] = {f"{path}.segments": {"$each": references}}
    moved = sum(reference["count"] for reference in references)
    # The condition on ``moved_count`` also keeps a write that is tried again from counting twice.
    update["$inc"] = {f"{path}.moved_count": moved, **_usage_fields(path, usage)}
    return wanted, update


def _usage_fields(path: str, usage: Usage) -> Stored:
    return {f"{path}{_USAGE}{key}.{name}": value for key, figures in usage.items() for name, value in figures.items()}


def uncounted_update(change: FilterAndUpdate) -> FilterAndUpdate:
    """Return a rollover without what the moved calls used."""
    wanted, update = change
    return wanted, {**update, "$inc": {path: value for path, value in update["$inc"].items() if _USAGE not in path}}


def agent_rollover_update(
    session_id: str,
    agent_id: str,
    agent: Stored,
    references: list[SegmentReferenceDoc],
    longer: SegmentReferenceDoc | None = None,
    usage: Usage = _NO_USAGE,
) -> FilterAndUpdate:
    """Return ``rollover_update`` for an agent that ``embedded_agents_pipeline`` read.

    The guard stays: only the agent's own writer changes it.

    Args:
        session_id: The session.
        agent_id: The agent.
        agent: The agent as it was read.
        references: The references to new segments, oldest first.
        longer: Instead of these, the new form of the last reference.
        usage: What the calls of the messages used.
    """
    moved_count, guard = int(agent.get("moved_count") or 0), guard_of(agent)
    written = references if longer is None else [longer]
    wanted, update = rollover_update(session_id, agent_id, guard, moved_count, written, ObjectId(), usage)
    update.pop("$set", None)
    if longer is not None:
        path = agent_path(agent_id, nested=guard.nested)
        last = len(agent["segments"]) - 1
        update["$set"] = {f"{path}.segments.{last}": longer}
        update["$inc"][f"{path}.moved_count"] = longer["count"] - agent["segments"][last]["count"]
        del update["$push"]
    return wanted, update
