"""Clients with settings of their own: a session is as safe on them as on any, or they are refused."""

from collections.abc import Callable
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.server_api import ServerApi

from mongodb_session_manager import (
    MongoDBConnectionPool,
    MongoDBSessionManager,
    MongoDBSessionManagerFactory,
    MongoDBSessionRepository,
    create_mongodb_session_manager,
    initialize_global_factory,
)
from mongodb_session_manager._schema.limits import Limits
from mongodb_session_manager.mongodb_session_repository import stores_of
from mongodb_session_manager.testing import CommandCounter
from tests.aliases import NewAgent
from tests.talking import LOOK, look_up, texts

# Write concern


def _on_the_session_manager(uri: str, **options: Any) -> object:
    return MongoDBSessionManager("s-1", uri, **options)


MAKERS: dict[str, Callable[..., object]] = {
    "manager": _on_the_session_manager,
    "function": lambda uri, **options: create_mongodb_session_manager("s-1", uri, **options),
    "repository": MongoDBSessionRepository,
    "factory": MongoDBSessionManagerFactory,
    "global factory": initialize_global_factory,
    "pool": MongoDBConnectionPool.initialize,
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("written", [{"w": 0}, {"W": 0}, {"w": "0"}, {}], ids=repr)
def test_unacknowledged_writes_are_refused(
    uri_of: Callable[[str], str], database: str, stored: Callable[..., Any], make: Callable[..., object], written: Any
) -> None:
    uri = uri_of(database)
    if not written:
        uri += f"{'&' if '?' in uri else '?'}w=0"

    with pytest.raises(ValueError, match=r"w=0.*'majority'"):
        make(uri, **written)

    assert stored() is None


@pytest.mark.parametrize(
    "make",
    [
        lambda client: MongoDBSessionManager("s-1", client=client),
        lambda client: MongoDBSessionRepository(client=client),
        lambda client: MongoDBSessionManagerFactory(client=client),
    ],
    ids=["manager", "repository", "factory"],
)
def test_a_borrowed_client_without_acknowledgement_is_refused(mongodb_uri: str, make: Callable[[Any], object]) -> None:
    with (
        MongoClient[dict[str, Any]](mongodb_uri, w=0) as client,
        pytest.raises(ValueError, match=r"w=0.*'majority'"),
    ):
        make(client)


# Read concern


def test_what_is_acknowledged_is_read(
    mongodb_uri: str, database: str, new_agent: NewAgent, command_counter: CommandCounter
) -> None:
    options: dict[str, Any] = {"w": 1, "readConcernLevel": "majority", "event_listeners": [command_counter]}
    with MongoClient[dict[str, Any]](mongodb_uri, **options) as client:

        def opened() -> MongoDBSessionManager:
            return MongoDBSessionManager("s-1", client=client, database_name=database)

        for turn in range(20):
            said = new_agent(opened())
            said(f"prompt {turn}")
            assert texts(new_agent(opened()).messages) == texts(said.messages)

    reads = [command for command in command_counter.commands if command.name in {"find", "aggregate"}]
    assert {command.document["readConcern"]["level"] for command in reads} == {"local"}


# The Stable API


def test_a_session_under_the_strict_stable_api(mongodb_uri: str, database: str, new_agent: NewAgent) -> None:
    picture: Any = {"image": {"format": "png", "source": {"bytes": b"\x89PNG" * 1_000_000}}}
    options: dict[str, Any] = {"server_api": ServerApi("1", strict=True), "database_name": database}
    options["_limits"] = Limits(kept_messages=4, embedded_bytes=1)

    with MongoDBSessionManagerFactory(mongodb_uri, metadata_fields=["plan"], **options) as factory:
        assert factory.get_connection_stats()["status"] == "connected"
        assert MongoDBConnectionPool.get_pool_stats()["status"] == "connected"
        with factory.create_session_manager("s-1", exclusive=True) as manager:
            agent = new_agent(manager, LOOK, tools=[look_up])
            for turn in range(12):
                agent([{"text": f"prompt {turn}"}, *([picture] if turn == 3 else [])])
            manager.update_metadata({"plan": "pro", "tags": ["a"]})
            manager.update_metadata({"tags.1": "b"})
            manager.delete_metadata(["plan"])
            manager.add_feedback({"rating": "up", "agent_id": "default", "message_id": 0})
            manager.redact_latest_message({"role": "assistant", "content": [{"text": "gone"}]}, agent)
            manager.flush()
        with factory.create_session_manager("s-1") as manager:
            assert texts(new_agent(manager).messages)[-1] == "gone"
            assert len(manager.list_messages("default")) == manager.get_message_count("default") == 26
            assert manager.get_usage_summary()["model_calls"] == 13
            assert [agent["agent_id"] for agent in manager.list_agents()] == ["default"]
            assert manager.get_metadata() == {"metadata": {"tags": ["a", "b"]}}
            assert len(manager.get_feedbacks()) == 1
            assert manager.delete_session()


def test_a_borrowed_client_under_the_strict_stable_api(mongodb_uri: str) -> None:
    with (
        MongoClient[dict[str, Any]](mongodb_uri, server_api=ServerApi("1", strict=True)) as client,
        MongoDBSessionManagerFactory(client=client) as factory,
    ):
        assert factory.get_connection_stats()["status"] == "external_client"


# What users reach for


def test_there_is_one_pool() -> None:
    assert MongoDBConnectionPool() is MongoDBConnectionPool()


def test_the_collection_of_the_sessions_is_public(mongo_client: MongoClient[dict[str, Any]], database: str) -> None:
    repository = MongoDBSessionRepository(
        client=mongo_client, database_name=database, collection_name="talks", application_name="shop"
    )
    stores_of(repository).sessions.open_session("s-1")

    found = repository.collection.find_one({"application_name": "shop"})

    assert found is not None
    assert (found["_id"], repository.collection.full_name) == ("s-1", f"{database}.talks")
