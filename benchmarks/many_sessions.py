"""A collection of very many sessions, made of a few that the library has written."""

import copy
import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from bson import ObjectId
from pymongo import MongoClient
from strands import Agent

from mongodb_session_manager import MongoDBSessionManager
from mongodb_session_manager.testing import ScriptedModel

APPLICATIONS, USERS, AGENTS, DAYS = 20, 2_000, 10, 90
DOWN_VOTES = 0.02
LONG = "long"
MESSAGE_BYTES = 500
# Amazon Bedrock's ids have this length.
MODEL_ID = "anthropic.claude-sonnet-4-20250514-v1:0-eu"

Document = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """How many sessions there are: ``small`` and ``large`` are in bytes of a document."""

    sessions: int = 100_000
    small: int = 8_000
    large_sessions: int = 1_000
    large: int = 200_000
    long_messages: int = 100_000


def fill(client: MongoClient[Document], database: str, sizes: Sizes, tick: Callable[[int], None]) -> None:
    """Write the sessions, and one with a very long conversation."""
    sessions = client[database]["agent_sessions"]
    small = _template(client, database, sizes.small)
    large = _template(client, database, sizes.large)
    _write_long(client, database, sizes.long_messages)
    dice = random.Random(13)
    for count, template in ((sizes.sessions, small), (sizes.large_sessions, large)):
        batch = 1_000 if template is small else 50
        for start in range(0, count, batch):
            numbers = range(start, min(start + batch, count))
            sessions.insert_many([_varied(template, dice) for _ in numbers], ordered=False)
            tick(len(numbers))


def _template(client: MongoClient[Document], database: str, size: int) -> Document:
    session_id = f"template-{size}"
    with MongoDBSessionManager(session_id, client=client, database_name=database) as manager:
        model = ScriptedModel(default="r" * MESSAGE_BYTES, model_id=MODEL_ID)
        agent = Agent(agent_id="a0", model=model, session_manager=manager, callback_handler=None)
        manager.update_metadata({"user": "u0", "status": "open", "title": "A conversation about a journey"})
        manager.add_feedback({"rating": "up", "comment": "Helpful."})
        text = "p" * MESSAGE_BYTES
        turns = 4 if size < 50_000 else 20
        padding = "p" * max(MESSAGE_BYTES, size // turns - 2 * MESSAGE_BYTES)
        for _ in range(turns):
            agent(text if size < 50_000 else padding)
    sessions = client[database]["agent_sessions"]
    found = sessions.find_one({"_id": session_id})
    assert found is not None
    sessions.delete_one({"_id": session_id})
    return found


def _varied(template: Document, dice: random.Random) -> Document:
    session_id, agent_id = str(uuid.UUID(int=dice.getrandbits(128))), f"a{dice.randrange(AGENTS)}"
    created = datetime.now(timezone.utc) - timedelta(days=DAYS * dice.random())
    updated = created + timedelta(minutes=60 * dice.random())
    document = {**template, "_id": session_id, "session_id": session_id, "instance": ObjectId()}
    document |= {
        "created_at": created,
        "updated_at": updated,
        "application_name": f"app-{dice.randrange(APPLICATIONS)}",
    }
    document["metadata"] = {**template["metadata"], "user": f"u{dice.randrange(USERS)}"}
    agent = copy.deepcopy(template["agents"]["a0"])
    agent["agent_data"]["agent_id"] = agent_id
    for message in agent["messages"]:
        message["created_at"] = message["updated_at"] = updated
    document |= {"agent_ids": [agent_id], "agents": {agent_id: agent}}
    if dice.random() < DOWN_VOTES:
        document["feedbacks"] = [{**template["feedbacks"][0], "rating": "down"}]
        document["feedback_counts"] = {"down": 1}
    return document


def _write_long(client: MongoClient[Document], database: str, count: int) -> None:
    messages: list[Any] = [
        {"role": "assistant" if number % 2 else "user", "content": [{"text": f"{number} ".ljust(200, ".")}]}
        for number in range(count)
    ]
    with MongoDBSessionManager(LONG, client=client, database_name=database) as manager:
        Agent(model=ScriptedModel(), messages=messages, session_manager=manager, callback_handler=None)


def with_expiry_index(client: MongoClient[Document], database: str) -> None:
    """Make the index that the library makes where a session gets a ttl."""
    dated = {"expires_at": {"$exists": True}}
    client[database]["agent_sessions"].create_index("expires_at", expireAfterSeconds=0, partialFilterExpression=dated)


def orphans(client: MongoClient[Document], database: str, count: int) -> None:
    """Leave segments whose sessions are gone for hours, six of each."""
    lives = [(f"gone-{number}", ObjectId()) for number in range(count // 6)]
    _insert_segments(client, database, count, lives)


def in_place(client: MongoClient[Document], database: str, count: int) -> None:
    """Give sessions segments that are hours old, six to each."""
    found = client[database]["agent_sessions"].find({}, {"instance": 1}).limit(count // 6)
    _insert_segments(client, database, count, [(session["_id"], session["instance"]) for session in found])


def _insert_segments(
    client: MongoClient[Document], database: str, count: int, lives: list[tuple[str, ObjectId]]
) -> None:
    old = ObjectId.from_datetime(datetime.now(timezone.utc) - timedelta(hours=3)).binary[:4]
    segments = []
    for number in range(count):
        session_id, instance = lives[number % len(lives)]
        segment_id = ObjectId(old + ObjectId().binary[4:])
        segments.append({"_id": segment_id, "session_id": session_id, "instance": instance, "messages": []})
    client[database]["agent_sessions_segments"].insert_many(segments)
