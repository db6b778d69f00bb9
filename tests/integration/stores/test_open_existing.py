"""Opening without creating: a read of what is there, and an error where nothing is."""

import threading
from collections.abc import Awaitable, Callable
from typing import Any

import mongomock
import pytest

from mongodb_session_manager import (
    MongoDBSessionManager,
    MongoDBSessionManagerFactory,
    MongoDBSessionRepository,
    SessionLockedError,
    SessionNotFoundError,
    create_mongodb_session_manager,
)
from mongodb_session_manager.mongodb_session_repository import stores_of
from mongodb_session_manager.testing import CommandCounter
from tests.aliases import Client, NewAgent, NewManager
from tests.first_version import legacy_agent
from tests.talking import texts

Open = Callable[..., Awaitable[MongoDBSessionManager]]

EXCLUSIVE: dict[str, Any] = {"exclusive": True, "lease_timeout": 0}
every_claim = pytest.mark.parametrize("claim", [{}, EXCLUSIVE, {"exclusive": True}], ids=["plain", "lease", "waiting"])


def contents(client: Client, database: str) -> dict[str, list[Any]]:
    return {name: list(client[database][name].find()) for name in client[database].list_collection_names()}


async def _by_constructor(client: Client, database: str, session_id: str, **options: Any) -> MongoDBSessionManager:
    return MongoDBSessionManager(session_id, client=client, database_name=database, **options)


async def _by_function(client: Client, database: str, session_id: str, **options: Any) -> MongoDBSessionManager:
    return create_mongodb_session_manager(session_id, client=client, database_name=database, **options)


async def _by_factory(client: Client, database: str, session_id: str, **options: Any) -> MongoDBSessionManager:
    factory = MongoDBSessionManagerFactory(client=client, database_name=database)
    return factory.create_session_manager(session_id, **options)


async def _by_default(client: Client, database: str, session_id: str, **options: Any) -> MongoDBSessionManager:
    return MongoDBSessionManagerFactory(client=client, database_name=database, **options).create_session_manager(
        session_id
    )


async def _by_request(client: Client, database: str, session_id: str, **options: Any) -> MongoDBSessionManager:
    factory = MongoDBSessionManagerFactory(client=client, database_name=database)
    async with factory.session(session_id, agent_ids=["default"], **options) as manager:
        return manager


every_way_to_open = pytest.mark.parametrize(
    "open_by", [_by_constructor, _by_function, _by_factory, _by_default, _by_request], ids=lambda way: way.__name__[4:]
)


@every_claim
@every_way_to_open
async def test_a_session_that_is_not_there_is_an_error_and_stays_away(
    mongo_client: Client, database_name: str, observer: Client, open_by: Open, claim: dict[str, Any]
) -> None:
    with pytest.raises(SessionNotFoundError, match="'mistyped' is not stored") as caught:
        await open_by(mongo_client, database_name, "mistyped", create=False, metadata_fields=["topic"], **claim)

    assert isinstance(caught.value, ValueError)
    # Neither a document nor a collection, which an index would make.
    assert database_name not in observer.list_database_names()


@every_way_to_open
async def test_one_that_is_there_is_read(
    mongo_client: Client,
    database: str,
    observer: Client,
    new_manager: NewManager,
    new_agent: NewAgent,
    command_counter: CommandCounter,
    open_by: Open,
) -> None:
    with new_manager(application_name="shop") as first:
        new_agent(first)("Hi")
    before = contents(observer, database)

    with command_counter.counting() as log:
        manager = await open_by(mongo_client, database, "s-1", create=False)

    assert manager.get_application_name() == "shop"
    assert (log.writes, log.index_builds) == (0, 0)
    assert contents(observer, database) == before


def test_it_is_one_operation(new_manager: NewManager, command_counter: CommandCounter) -> None:
    new_manager().close()

    with command_counter.counting() as log:
        new_manager(create=False)

    assert log.names == ["find"]


def test_the_conversation_goes_on(new_manager: NewManager, new_agent: NewAgent, history: Any) -> None:
    with new_manager() as first:
        new_agent(first)("Hi")

    with new_manager(create=False) as second:
        agent = new_agent(second)
        agent("Still there?")

    assert texts(history()) == texts(agent.messages)
    assert len(history()) == 4


def test_an_agent_can_be_added(new_manager: NewManager, new_agent: NewAgent, history: Any) -> None:
    new_manager().close()

    with new_manager(create=False) as manager:
        new_agent(manager, agent_id="new")("Hi")

    assert len(history(agent_id="new")) == 2


def test_a_lease_of_a_session_that_is_there_is_taken(
    new_manager: NewManager, stored: Any, command_counter: CommandCounter
) -> None:
    new_manager().close()
    before = stored()

    with command_counter.counting() as log, new_manager(create=False, **EXCLUSIVE):
        assert set(stored()) == {*before, "lease"}
        assert log.names == ["update", "find"]
        with pytest.raises(SessionLockedError):
            new_manager(create=False, **EXCLUSIVE)

    assert stored() == before


def test_a_lease_is_waited_for(new_manager: NewManager) -> None:
    holder = new_manager(**EXCLUSIVE)
    closing = threading.Timer(0.1, holder.close)
    closing.start()
    new_manager(create=False, exclusive=True, lease_timeout=10)
    closing.join()


def test_one_that_is_deleted_while_its_lease_is_waited_for_is_an_error(new_manager: NewManager) -> None:
    holder = new_manager(**EXCLUSIVE)
    deleting = threading.Timer(0.1, holder.delete_session)
    deleting.start()
    with pytest.raises(SessionNotFoundError):
        new_manager(create=False, exclusive=True, lease_timeout=10)
    deleting.join()


@every_claim
def test_a_session_of_the_first_version_is_not_touched_by_a_read(
    new_manager: NewManager,
    new_agent: NewAgent,
    observer: Client,
    database: str,
    stored: Any,
    history: Any,
    claim: dict[str, Any],
) -> None:
    document = {"_id": "s-1", "session_id": "s-1", "agents": {"default": legacy_agent()}}
    observer[database].agent_sessions.insert_one(document)
    before = stored()

    with new_manager(create=False, **claim) as reader:
        assert len(reader.list_messages("default")) == 4
    assert stored() == before

    with new_manager(create=False, **claim) as writer:
        new_agent(writer)("Go on")
        writer.update_metadata({"topic": "shoes"})
    assert len(history()) == 6
    assert stored()["metadata"] == {"topic": "shoes"}
    with new_manager():
        assert stored()["schema_version"] == 2


@pytest.mark.parametrize("create", [None, 0, "no"])
def test_what_is_no_choice_is_refused(new_manager: NewManager, create: Any) -> None:
    with pytest.raises(TypeError, match="create must be True or False"):
        new_manager(create=create)


def test_a_repository_without_the_session(mongo_client: Client, database: str) -> None:
    repository = MongoDBSessionRepository(client=mongo_client, database_name=database)
    with pytest.raises(SessionNotFoundError):
        stores_of(repository).sessions.open_session("s-1", create=False)


@every_claim
def test_on_mongomock(claim: dict[str, Any]) -> None:
    client: Any = mongomock.MongoClient()
    with pytest.raises(SessionNotFoundError):
        MongoDBSessionManager("s-1", client=client, create=False, **claim)
    MongoDBSessionManager("s-1", client=client).close()
    MongoDBSessionManager("s-1", client=client, create=False, **claim).close()
