"""Guardrails: what is stored before a message is blocked and afterwards, and what is recorded of the event.

A check of yours blocks an answer, then the guardrail of the model blocks a prompt. A message is stored before it can be
blocked, so backups and the oplog of the replica set may hold it for a while; to store nothing at all of it, see
``example_masking.py``. Run it as it is: it needs no account and no network.
"""

from typing import Any
from uuid import uuid4

from pymongo import MongoClient
from strands import Agent
from strands.types.content import Messages

from mongodb_session_manager import MongoDBSessionManager
from mongodb_session_manager.testing import (
    MongodNotFoundError,
    MongodStartError,
    Redaction,
    ScriptedModel,
    Turn,
    running_mongodb,
)
from mongodb_session_manager.types import GUARDRAIL_INTERVENED

SECRETS = ("swordfish", "mellon")


def main() -> None:
    session_id = f"guardrails-{uuid4()}"
    with running_mongodb() as uri, MongoClient[dict[str, Any]](uri) as client:
        with MongoDBSessionManager(session_id, client=client) as manager:

            def guardrail(messages: Messages) -> Redaction:
                show(manager, "before the model has looked at the prompt")
                # Amazon Bedrock reports this to the SDK, which calls redact_latest_message.
                return Redaction("[prompt removed]", "[answer removed]")

            agent = make_agent(manager, "Welcome to the house.", "The password of the door is swordfish.", guardrail)
            agent("Hello")

            # 1. A check of yours finds a secret in an answer. Change the agent's own message too.
            answer = agent("How do I get in?")
            show(manager, "before the check")
            if trace := check(str(answer)):
                agent.messages[-1]["content"] = [{"text": "[removed]"}]
                manager.redact_latest_message(
                    agent.messages[-1], agent, stop_reason=GUARDRAIL_INTERVENED, guardrail_trace=trace
                )
            show(manager, "after the check")

            # 2. The guardrail of the model blocks a prompt. There is nothing for you to do.
            agent("My own password is mellon.")
            show(manager, "after the guardrail of the model")

        # 3. The next process knows nothing else. The session has the events, without what was said.
        with MongoDBSessionManager(session_id, client=client) as manager:
            print("restored:", [message["content"][0]["text"] for message in make_agent(manager).messages])
            report(manager)
            manager.delete_session()


def make_agent(manager: MongoDBSessionManager, *script: Turn) -> Agent:
    return Agent(model=ScriptedModel(script), agent_id="concierge", session_manager=manager, callback_handler=None)


def check(text: str) -> dict[str, Any] | None:
    """Look for secrets, and answer as Bedrock's ApplyGuardrail does: with a trace that quotes them."""
    found = [{"name": "password", "match": secret, "action": "BLOCKED"} for secret in SECRETS if secret in text]
    if not found:
        return None
    return {"outputAssessments": {"guardrail-1": [{"sensitiveInformationPolicy": {"regexes": found}}]}}


def show(manager: MongoDBSessionManager, title: str) -> None:
    print(f"{title}:")
    for message in manager.list_messages("concierge"):
        blocked = "(blocked)" if "guardrail_event" in message else ""
        print(f"  {message['message_id']} {message['role']}: {message['content'][0]['text']} {blocked}".rstrip())
    # Nowhere in the session, and not only in this message.
    print(f"  secrets in the session: {[secret for secret in SECRETS if secret in str(stored(manager))]}")


def report(manager: MongoDBSessionManager) -> None:
    for event in stored(manager)["guardrail_events"]:
        print(f"event {event['action']} on {event['agent_id']} {event['message_id']}:", end=" ")
        print(event.get("stop_reason"), event.get("policies_triggered"))


def stored(manager: MongoDBSessionManager) -> dict[str, Any]:
    return manager.session_repository.collection.find_one({"_id": manager.session_id}) or {}


if __name__ == "__main__":
    try:
        main()
    except (MongodNotFoundError, MongodStartError) as error:
        raise SystemExit(str(error)) from None
