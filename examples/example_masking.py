"""Card numbers are masked before they are stored, while the agent continues with the plain text until its process ends.

The subclass overrides the three methods through which messages and states go. Run it as it is: it needs no account and
no network.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any
from uuid import uuid4

from pymongo import MongoClient
from strands import Agent
from strands.types.content import Message, Messages

from mongodb_session_manager import MongoDBSessionManager
from mongodb_session_manager.testing import MongodNotFoundError, MongodStartError, ScriptedModel, running_mongodb

CARD = re.compile(r"\b\d{12}(\d{4})\b")


def masked(value: Any) -> Any:
    """Return a copy with the last four digits of each card number; the given value stays as it is."""
    if isinstance(value, str):
        return CARD.sub(r"[card \1]", value)
    if isinstance(value, dict):
        return {key: masked(item) for key, item in value.items()}
    return [masked(item) for item in value] if isinstance(value, list) else value


class MaskingSessionManager(MongoDBSessionManager):
    """Stores masked messages and a masked state."""

    def append_message(self, message: Message, agent: Any, **kwargs: Any) -> None:
        """Store a masked copy; the agent keeps its own message."""
        super().append_message(masked(message), agent, **kwargs)

    def redact_latest_message(self, redact_message: Message, agent: Any, **kwargs: Any) -> None:
        """Mask also what a guardrail puts in the place of a message."""
        super().redact_latest_message(masked(redact_message), agent, **kwargs)

    def sync_agent(self, agent: Any, **kwargs: Any) -> None:
        """Store the state as it is for a moment, then put the plain values back."""
        plain = agent.state.get()
        set_state(agent, masked(plain))
        try:
            super().sync_agent(agent, **kwargs)
        finally:
            set_state(agent, plain)


def set_state(agent: Agent, state: dict[str, Any]) -> None:
    for key, value in state.items():
        agent.state.set(key, value)


def main() -> None:
    session_id = f"masking-{uuid4()}"
    with running_mongodb() as uri, MongoClient[dict[str, Any]](uri) as client:
        # 1. The model and the agent see the number. The database never does.
        with MaskingSessionManager(session_id, client=client) as manager:
            agent = make_agent(manager, state={"card": "4111111111111111"})
            agent("My card is 4111111111111111.")
            show("in memory", agent.messages)
            show("stored", manager.list_messages("shop"))
            print(f"state:     {agent.state.get()}")

        # 2. After a restart there is only the masked text.
        with MaskingSessionManager(session_id, client=client) as manager:
            agent = make_agent(manager)
            show("restored", agent.messages)
            print(f"state:     {agent.state.get()}")
            print(f"goes on:   {str(agent('Which card do I have?')).strip()}")
            manager.delete_session()


def make_agent(manager: MongoDBSessionManager, **options: Any) -> Agent:
    model = ScriptedModel(default=answer)
    return Agent(model=model, agent_id="shop", session_manager=manager, callback_handler=None, **options)


def answer(messages: Messages) -> str:
    """Make an answer from the conversation alone, as a model does."""
    said = " ".join(block["text"] for message in messages for block in message["content"])
    found = re.search(r"\d{16}|\[card \d{4}\]", said)
    return f"Your card is {found.group()}." if found else "I know no card."


def show(title: str, messages: Iterable[Mapping[str, Any]]) -> None:
    print(f"{title + ':':<10}", *(message["content"][0]["text"] for message in messages))


if __name__ == "__main__":
    try:
        main()
    except (MongodNotFoundError, MongodStartError) as error:
        raise SystemExit(str(error)) from None
