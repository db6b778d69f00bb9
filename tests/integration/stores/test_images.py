"""No operation has the server keep an image of a session: a redaction could not reach it."""

import uuid
from collections.abc import Callable
from typing import Any

import bson
import pytest
from strands import Agent
from strands.types.content import Message

from tests.aliases import Client, NewAgent, NewManager
from tests.first_version import legacy_agent

Step = Callable[[NewManager, Agent], Any]

HIDDEN: Message = {"role": "user", "content": [{"text": "…"}]}


@pytest.fixture
def secret() -> str:
    # What the server kept of earlier tests stays.
    return f"my number is {uuid.uuid4()}"


def everywhere(client: Client) -> bytes:
    """All documents of all databases but ``local``, whose oplog forgets by itself."""
    databases = [client[name] for name in client.list_database_names() if name != "local"]
    found = [database[name] for database in databases for name in database.list_collection_names()]
    return b"".join(bson.encode(document) for collection in found for document in collection.find())


def _lease(new_manager: NewManager, agent: Agent) -> None:
    new_manager(exclusive=True).close()


def _lease_only(new_manager: NewManager, agent: Agent) -> None:
    new_manager(exclusive=True, create=False).close()


def _opening(new_manager: NewManager, agent: Agent) -> None:
    new_manager(application_name="another", metadata_fields=["topic"]).close()


def _feedback(new_manager: NewManager, agent: Agent) -> None:
    with new_manager() as manager:
        manager.add_feedback({"rating": "up"})
        manager.add_feedback({"agent_id": "default", "message_id": 0})
        manager.add_feedback({"comment": "x" * 300_000})


def _session_data(new_manager: NewManager, agent: Agent) -> None:
    with new_manager() as manager:
        manager.update_metadata({"a": {"b": 1}})
        manager.delete_metadata(["a.b"])
        manager.update_agent_config("default", prompt_metadata={"version": 1})


def _another_agent(new_manager: NewManager, agent: Agent) -> None:
    with new_manager() as manager:
        Agent(agent_id="another", session_manager=manager, callback_handler=None)


every_step = pytest.mark.parametrize(
    "step",
    [_lease, _lease_only, _opening, _feedback, _session_data, _another_agent],
    ids=lambda step: step.__name__[1:],
)


@every_step
def test_nothing_is_left_of_what_is_redacted_afterwards(
    new_manager: NewManager, new_agent: NewAgent, observer: Client, secret: str, step: Step
) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    manager.append_message({"role": "user", "content": [{"text": secret}]}, agent)
    assert secret.encode() in everywhere(observer)

    step(new_manager, agent)
    manager.redact_latest_message(HIDDEN, agent)

    assert secret.encode() not in everywhere(observer)


@every_step
def test_nor_of_a_session_of_the_first_version(
    new_manager: NewManager, observer: Client, database: str, secret: str, step: Step
) -> None:
    agent = legacy_agent()
    agent["messages"][-1]["message"]["content"] = [{"text": secret}]
    observer[database].agent_sessions.insert_one({"_id": "s-1", "agents": {"default": agent}})

    step(new_manager, Agent())
    with new_manager() as manager:
        live = Agent(session_manager=manager, callback_handler=None)
        manager.redact_latest_message(HIDDEN, live)

    assert secret.encode() not in everywhere(observer)
