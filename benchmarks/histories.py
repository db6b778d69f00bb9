"""Whether stored histories are whole: read straight from the collections, and compared with what must be there."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import bson
from pymongo.database import Database
from strands.types.content import Message

Document = dict[str, Any]
Kind = Literal["lost", "duplicated", "invalid"]

SESSIONS = "agent_sessions"
SEGMENTS = "agent_sessions_segments"


class Finding(NamedTuple):
    """Something that is not as it must be."""

    kind: Kind
    where: str
    what: str


def numbering(database: Database[Document], session_id: str) -> Iterator[Finding]:
    """Look through the ids of all messages of a session: each one once, in order, in segments or in the document."""
    session = database[SESSIONS].find_one({"_id": session_id}) or {}
    found = database[SEGMENTS].find({"session_id": session_id, "kind": "messages"}, {"messages.message_id": 1})
    segments = {segment["_id"]: _ids(segment) for segment in found}
    for key, agent in session.get("agents", {}).items():
        references = agent.get("segments", [])
        # More may be on their way to a segment, or be left there of a move that somebody killed.
        moved = [
            number
            for reference in references
            for number in segments.get(reference["_id"], ())
            if number <= reference["last_id"]
        ]
        where = f"{session_id}, {key}"
        yield from _in_order(where, moved + _ids(agent), agent["guard"]["next_message_id"])
        if agent.get("moved_count", 0) != len(moved):
            yield Finding("invalid", where, f"moved_count is {agent.get('moved_count')}, of {len(moved)} moved")


def _ids(holder: Document) -> list[int]:
    return [message["message_id"] for message in holder.get("messages", ())]


def _in_order(where: str, ids: Sequence[int], count: int) -> Iterator[Finding]:
    twice = sorted(number for number, times in Counter(ids).items() if times > 1)
    if twice:
        yield Finding("duplicated", where, f"messages {twice}")
    missing = sorted(set(range(count)) - set(ids))
    if missing:
        yield Finding("lost", where, f"messages {missing} of {count}")
    elif not twice and list(ids) != list(range(count)):
        yield Finding("invalid", where, f"ids are not in order: {ids}")


def pairing(where: str, messages: Sequence[Message]) -> Iterator[Finding]:
    """Look whether a model would take a history: each tool call is answered by the next message, and no other is."""
    asked: set[str] = set()
    for number, message in enumerate(messages):
        answered = set(tool_ids(message, "toolResult"))
        if answered != asked:
            yield Finding("invalid", where, f"message {number} answers {sorted(answered)}, not {sorted(asked)}")
        asked = set(tool_ids(message, "toolUse"))
    if asked:
        yield Finding("invalid", where, f"nothing answers {sorted(asked)}")


def tool_ids(message: Message, kind: str) -> list[str]:
    """Return the ids of the tool calls, or of the results, in a message."""
    blocks: Iterable[Mapping[str, Any]] = message["content"]
    return [block[kind]["toolUseId"] for block in blocks if kind in block]


def traces(database: Database[Document], text: str, wanted: Document | None = None) -> Iterator[Finding]:
    """Look for what must not be anywhere, in each collection."""
    for name in database.list_collection_names():
        for document in database[name].find(wanted or {}):
            if text.encode() in bson.encode(document):
                yield Finding("invalid", f"{name}, {document['_id']}", "holds what was redacted or deleted")
