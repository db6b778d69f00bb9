"""The end: everything that is stored against everything that must be."""

from collections.abc import Iterator

from histories import SEGMENTS, SESSIONS, Document, Finding, numbering, pairing
from pymongo.database import Database
from strands.types.content import Message

from mongodb_session_manager import MongoDBSessionManager, MongoDBSessionManagerFactory

from .expected import ExpectedHistory, ExpectedSession
from .talks import Talk


def judge(
    factory: MongoDBSessionManagerFactory, database: Database[Document], session: ExpectedSession
) -> Iterator[Finding]:
    """Go on with each agent of a session by one turn, then compare all that is stored."""
    for agent_id, history in session.histories.items():
        yield from _go_on(factory, session.session_id, agent_id, history)
    yield from numbering(database, session.session_id)
    with factory.create_session_manager(session.session_id) as manager:
        if manager.get_metadata().get("metadata", {}) != session.metadata:
            yield Finding("lost", session.session_id, f"metadata is not {session.metadata}")
        yield from session.check_feedback([feedback["number"] for feedback in manager.get_feedbacks()])
        stored = {config["agent_id"]: config["prompt_metadata"] for config in manager.list_agents()}
        wanted = {agent_id: session.prompts.get(agent_id) for agent_id in session.histories}
        if stored != wanted:
            yield Finding("lost", session.session_id, f"prompt metadata is {stored}, not {wanted}")
    yield from _traces(database, session)


def _go_on(
    factory: MongoDBSessionManagerFactory, session_id: str, agent_id: str, history: ExpectedHistory
) -> Iterator[Finding]:
    with factory.create_session_manager(session_id) as manager:
        before = _messages(manager, agent_id)
        yield from history.check(before)
        talk = Talk(manager, agent_id)
        yield from history.compare(talk.live())
        talk.replies.append("Farewell.")
        talk.agent("Goodbye")
        history.acknowledge(talk.live())
        after = _messages(manager, agent_id)
        if after[: len(before)] != before or after[-2:] != talk.agent.messages[-2:]:
            yield Finding("invalid", history.where, "the last turn did not go on from what was stored")
        yield from pairing(history.where, after)


def _messages(manager: MongoDBSessionManager, agent_id: str) -> list[Message]:
    records = manager.session_repository.list_messages(manager.session_id, agent_id)
    return [record.to_message() for record in records]


def _traces(database: Database[Document], session: ExpectedSession) -> Iterator[Finding]:
    if not session.redacted:
        return
    for name, wanted in ((SESSIONS, {"_id": session.session_id}), (SEGMENTS, {"session_id": session.session_id})):
        stored = str(list(database[name].find(wanted)))
        for secret in session.redacted:
            if secret in stored:
                yield Finding("invalid", session.session_id, f"{name} holds what was redacted: {secret}")
