"""What type checkers say of users' queries: mypy checks this file with the others, and nobody runs it."""

from datetime import datetime

from bson import ObjectId
from pymongo import MongoClient
from pymongo.collection import Collection

from mongodb_session_manager.types import (
    AgentDoc,
    FeedbackDoc,
    MessageDoc,
    SegmentDoc,
    SegmentReferenceDoc,
    SessionDoc,
)

URI = "mongodb://localhost:27017/shop"


def accepted(segments: Collection[SegmentDoc]) -> None:
    client: MongoClient[SessionDoc] = MongoClient(URI)
    sessions: Collection[SessionDoc] = client["shop"]["agent_sessions"]
    session = sessions.find_one({"_id": "s"})
    if session is None:
        return
    agent: AgentDoc = session["agents"]["support"]
    messages: list[MessageDoc] = agent["messages"]
    revision: int | None = agent["guard"]["revision"]
    first_live: int = agent["live"]["from"]
    reference: SegmentReferenceDoc = agent["segments"][0]
    segment_id: ObjectId = reference["_id"]
    tokens: int = messages[0]["event_loop_metrics"]["usage"]["totalTokens"]
    feedback: FeedbackDoc = session["feedbacks"][0]
    rated_at: datetime = feedback["created_at"]
    ends: datetime = session["lease"]["expires_at"]
    for segment in segments.find({"session_id": "s"}):
        messages += segment["messages"]
    assert all((revision, first_live, segment_id, tokens, rated_at, ends))


def refused(session: SessionDoc) -> None:
    session["agent"]  # type: ignore[typeddict-item]
    session["agents"]["support"]["mesages"]  # type: ignore[typeddict-item]
    number: str = session["agents"]["support"]["messages"][0]["message_id"]  # type: ignore[assignment]
    assert number
