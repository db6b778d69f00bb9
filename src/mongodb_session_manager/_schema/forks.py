"""Forks: at which messages a history can be cut, and the copy of a session.

A history is cut between two turns: after an answer that ends one, or before a user's message that begins one.
"""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, cast

from bson import ObjectId

from ..errors import MongoDBSessionError, SchemaVersionError
from ..types import MessageDoc, SegmentReferenceDoc
from .blobs import data_digests, file_digests
from .expiry import EXPIRED_FILTER, expiry_date, stored_ttl
from .ids import is_integer, now, shown
from .interrupts import agent_name, multi_agent_name
from .lives import Life, instance_of
from .messages import decode_message
from .nested import nested_agent_ids, places_of
from .sessions import SCHEMA_VERSION, new_session_doc
from .values import VALUE_MARKS, Stored, escape_key, unescape_key

# What an agent's state tells of the end of its history.
_NO_INTERRUPT = {"interrupts": {}, "context": {}, "activated": False}
# Of this field a cut resets a part, wherever it is stored.
CUT_FIELD: Final = "conversation_manager_state"
_AT_THE_BEGINNING = {"removed_message_count": 0, "model_call_count": 0, "summary_message": None}


def source_filter(session_id: str) -> Stored:
    """Return the filter of a session that has not expired."""
    return {"_id": session_id, "$nor": [EXPIRED_FILTER]}


def end_after(message: Mapping[str, Any]) -> int | None:
    """Return the first id that is not copied in a cut at a message; None if no cut is possible there."""
    number, decoded = message.get("message_id"), _decoded(message)
    blocks = decoded.get("content")
    if not isinstance(number, int) or not isinstance(blocks, list | str):
        return None
    kinds = {kind for block in blocks if isinstance(block, dict) for kind in block}
    if decoded.get("role") == "assistant" and "toolUse" not in kinds:
        return number + 1
    if decoded.get("role") == "user" and "toolResult" not in kinds:
        return number
    return None


def _decoded(message: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        return decode_message(cast(MessageDoc, dict(message)))
    except Exception:  # noqa: BLE001 - anything may stand there; then no turn ends there
        return {}


def has_ended(messages: Iterable[Mapping[str, Any]]) -> bool:
    """Tell whether the last message ends a turn; also if there is none."""
    last: Mapping[str, Any] | None = None
    for message in messages:
        last = message
    return last is None or end_after(last) == last["message_id"] + 1


@dataclass(eq=False)
class SourceAgent:
    """An agent of a session that is forked.

    Attributes:
        agent_id: The agent.
        doc: The agent in the copy of the document.
        end: The first id that is not copied; None for a whole copy.
        message_id: The last message that is copied, if the history is cut; None if that is none.
    """

    agent_id: str
    doc: Stored
    end: int | None = None
    message_id: int | None = None

    @property
    def messages(self) -> list[MessageDoc]:
        """The embedded messages."""
        found = self.doc.get("messages")
        return [each for each in found if _is_message(each)] if isinstance(found, list) else []

    @property
    def references(self) -> list[SegmentReferenceDoc]:
        """The references to segments with older messages."""
        found = self.doc.get("segments")
        return list(found) if isinstance(found, list) else []

    @property
    def is_numbered(self) -> bool:
        """Whether it has a guard; an agent of the first version has none until its first turn."""
        return isinstance(self.doc.get("guard"), dict)

    def takes(self, message_id: int) -> bool:
        """Tell whether a message is copied."""
        return self.end is None or message_id < self.end


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("message_id"), int)


@dataclass(eq=False)
class Source:
    """A session that is forked, as it was read.

    Attributes:
        doc: Its document, which the copy is made of.
        life: Its life.
        agents: Its agents, by id.
        guards: What changes with every turn and redaction, by agent.
    """

    doc: Stored
    life: Life
    agents: dict[str, SourceAgent]
    guards: Stored

    @classmethod
    def of(cls, doc: Stored) -> "Source":
        """Return a session that was read.

        Raises:
            SchemaVersionError: A newer version of this library wrote it.
            MongoDBSessionError: It has no agents that can be read.
        """
        version, session_id = doc.get("schema_version"), doc["_id"]
        if version is not None and not (isinstance(version, int) and version <= SCHEMA_VERSION):
            raise SchemaVersionError(session_id, version, SCHEMA_VERSION)
        if not isinstance(doc.get("agents", {}), dict):
            raise MongoDBSessionError(f"Session {session_id!r} cannot be forked: its agents are not an object.")
        agents = {agent_id: SourceAgent(agent_id, found) for agent_id, found in _agents_of(doc.get("agents", {}))}
        guards = {agent_id: agent.doc.get("guard") for agent_id, agent in agents.items()}
        return cls(doc, Life(session_id, instance_of(doc)), agents, guards | _states_of(doc))

    @property
    def is_whole(self) -> bool:
        """Whether no history is cut."""
        return all(agent.end is None for agent in self.agents.values())


def _agents_of(agents: Stored) -> list[tuple[str, Stored]]:
    own = [(unescape_key(key), agent) for key, agent in agents.items() if _has_data(agent)]
    return own + [(agent_id, _nested(agents, agent_id)) for agent_id in nested_agent_ids(agents)]


def _nested(agents: Stored, agent_id: str) -> Stored:
    names, _ = places_of(agent_id)[-1]
    found: Any = {"agents": agents}
    for name in names:
        found = found[name]
    return cast(Stored, found)


def _has_data(agent: Any) -> bool:
    return isinstance(agent, dict) and isinstance(agent.get("agent_data"), dict)


def _states_of(doc: Stored) -> Stored:
    states = doc.get("multi_agents")
    found = states if isinstance(states, dict) else {}
    return {multi_agent_name(key): state.get("updated_at") for key, state in found.items() if isinstance(state, dict)}


def is_unchanged(source: Source, found: Stored) -> bool:
    """Tell whether there was no turn and no redaction since a session was read.

    Args:
        source: The session as it was read.
        found: The row of the session as ``fork_look_pipeline`` gives it.
    """
    if instance_of(found) != source.life.instance:
        return False
    guards = {unescape_key(agent["k"]): agent.get("guard") for agent in found["guards"]}
    states = {multi_agent_name(state["k"]): state.get("at") for state in found["states"]}
    return guards | states == source.guards


# The copy


def cut_agent(agent: SourceAgent, references: list[SegmentReferenceDoc], usage: Stored | None) -> None:
    """Make an agent of the copy: its messages in segments have been copied, and the embedded ones are as they were.

    Args:
        agent: The agent.
        references: The references to the copied segments.
        usage: What the calls of the messages in them used, if a segment was cut; None to keep what is stored.
    """
    doc, messages = agent.doc, [each for each in agent.messages if agent.takes(each["message_id"])]
    for name, value in (("segments", references), ("moved_count", sum(each["count"] for each in references))):
        if references:
            doc[name] = value
        else:
            doc.pop(name, None)
    if usage is not None or not references:
        doc.pop("moved_usage", None)
    if usage:
        doc["moved_usage"] = usage
    doc["messages"] = messages
    last = [each["message_id"] for each in messages[-1:]] or [each["last_id"] for each in references[-1:]]
    agent.message_id = last[0] if last else None
    if agent.is_numbered:
        end = 0 if agent.message_id is None else agent.message_id + 1
        next_id = doc["guard"].get("next_message_id") if agent.end is None else end
        counter = {} if next_id is None else {"next_message_id": next_id}
        doc["guard"] = {"revision": 1, **counter, "write_id": ObjectId()}
    if agent.end is not None:
        _forget_end(doc)


def _forget_end(doc: Stored) -> None:
    """Reset what belongs to the end of a history that was cut."""
    doc.pop("live", None)
    data = doc["agent_data"]
    managed, internal = data.get(CUT_FIELD), data.get("_internal_state")
    if isinstance(managed, dict):
        data[CUT_FIELD] = managed | {name: value for name, value in _AT_THE_BEGINNING.items() if name in managed}
    if isinstance(internal, dict) and internal:
        data["_internal_state"] = {"interrupt_state": copy.deepcopy(_NO_INTERRUPT), "model_state": {}}


def fork_doc(source: Source, life: Life, metadata: Stored, named: SourceAgent | None) -> Stored:
    """Return the document of a fork, from a session whose agents are made.

    Args:
        source: The session.
        life: The fork's.
        metadata: Its metadata.
        named: The agent whose history was cut.
    """
    at, doc = now(), source.doc
    kind, application_name = doc.get("session_type"), doc.get("application_name")
    fork = {"_id": life.session_id, "schema_version": SCHEMA_VERSION}
    fork |= new_session_doc(life.session_id, kind if isinstance(kind, str) else "AGENT", application_name, at)
    fork |= {"instance": life.instance, "agents": doc.get("agents", {}), "metadata": metadata}
    fork["agent_ids"] = list(source.agents)
    events = doc.get("guardrail_events")
    fork["guardrail_events"] = [each for each in events if _is_copied(source, each)] if isinstance(events, list) else []
    if source.is_whole and isinstance(doc.get("multi_agents"), dict):
        fork["multi_agents"] = doc["multi_agents"]
    interrupted = _interrupted(source)
    if interrupted:
        fork["interrupted"] = interrupted
    if doc.get("has_files"):
        fork["has_files"] = True
    origin = (None, None) if named is None else (named.agent_id, named.message_id)
    fork["forked_from"] = {"session_id": doc["_id"], "agent_id": origin[0], "message_id": origin[1], "at": at}
    return fork | _lifetime(doc, at)


def fork_metadata(source: Source, changes: Mapping[str, Any]) -> Stored:
    """Return the metadata of a session with some fields set, by dotted key in their stored form.

    Raises:
        ValueError: A dotted key leads through a value that is not an object.
    """
    stored = source.doc.get("metadata")
    metadata = stored if isinstance(stored, dict) else {}
    for key, value in changes.items():
        *path, last = map(escape_key, key.split("."))
        place: Any = metadata
        for name in path:
            place = place.setdefault(name, {})
            if not isinstance(place, dict) or not place.keys().isdisjoint(VALUE_MARKS):
                raise ValueError(
                    f"Metadata of a fork of session {source.life.session_id!r}: {key!r} leads through a value that is "
                    f"not an object. Give {key.split('.')[0]!r} itself a value."
                )
        place[last] = value
    return metadata


def _is_copied(source: Source, event: Any) -> bool:
    if not isinstance(event, dict):
        return False
    agent, number = source.agents.get(str(event.get("agent_id"))), event.get("message_id")
    return agent is not None and isinstance(number, int) and agent.takes(number)


def _interrupted(source: Source) -> list[str]:
    stored = source.doc.get("interrupted")
    found = [each for each in stored if isinstance(each, str)] if isinstance(stored, list) else []
    cut = {agent_name(agent.agent_id) for agent in source.agents.values() if agent.end is not None}
    return [each for each in found if each not in cut and (source.is_whole or each.startswith(agent_name("")))]


def _lifetime(doc: Stored, at: datetime) -> Stored:
    ttl = stored_ttl(doc.get("ttl_seconds"))
    return {} if ttl is None else {"ttl_seconds": doc["ttl_seconds"], "expires_at": expiry_date(at, ttl)}


def digests_in(fork: Stored, agents: Iterable[SourceAgent]) -> set[str]:
    """Return the digests of the large values that the document of a fork refers to."""
    states = fork["multi_agents"].values()
    found = file_digests(states)
    for agent in agents:
        found |= file_digests(agent.messages) | data_digests(agent.doc["agent_data"])
    return found


# Arguments


def check_places(at: object) -> int | dict[str, int] | None:
    """Return the places at which to cut.

    Raises:
        TypeError: They are no message id, and no message ids by agent.
    """
    if at is None or is_integer(at):
        return at
    if isinstance(at, Mapping) and all(isinstance(name, str) and is_integer(each) for name, each in at.items()):
        return dict(at)
    raise TypeError(f"at must be a message id, or message ids by agent, got {shown(at)}")


def places_of_agents(source: Source, at: int | dict[str, int] | None) -> dict[str, int]:
    """Return the place for each agent whose history is to be cut.

    Raises:
        ValueError: It does not say which of several agents, or the session holds no such agent.
    """
    known = ", ".join(map(repr, source.agents)) or "none"
    if isinstance(at, int):
        if len(source.agents) != 1:
            raise ValueError(
                f"Session {source.life.session_id!r} has {len(source.agents)} agents ({known}), so at must name one: "
                "at={agent_id: message_id}."
            )
        return dict.fromkeys(source.agents, at)
    missing = [name for name in at or {} if name not in source.agents]
    if missing:
        raise ValueError(
            f"Session {source.life.session_id!r} holds no agent {shown(missing[0])}; its agents are {known}."
        )
    return at or {}
