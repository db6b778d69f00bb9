"""What a newcomer does wrong in the first hour, and what is said of it."""

import asyncio
import copy
import gc
import logging
import pickle
from collections.abc import AsyncGenerator, Callable
from typing import Any

import mongomock
import pymongo
import pytest
from pymongo import MongoClient
from pymongo.errors import ConfigurationError
from strands import tool
from strands.types.session import Session, SessionAgent, SessionType

from mongodb_session_manager import (
    MongoDBConnectionPool,
    MongoDBSessionError,
    MongoDBSessionManager,
    MongoDBSessionManagerFactory,
    MongoDBSessionRepository,
    SessionConflictError,
    create_metadata_sqs_hook,
    create_mongodb_session_manager,
    initialize_global_factory,
)
from mongodb_session_manager._stores import operation
from mongodb_session_manager.testing import CommandCounter, ScriptedModel
from tests.aliases import Client, NewAgent, NewManager

SECRET = "s3cr3t"
URI = f"mongodb://ada:{SECRET}@db.example:27017/shop"
URIS = [URI, URI.replace("mongodb", "MongoDB"), URI.replace("mongodb", "mongodb+srv"), f" {URI}", f"'{URI}'"]


# Swapped arguments


@pytest.mark.parametrize("uri", URIS)
def test_session_id_and_connection_string_swapped(uri: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for make in (MongoDBSessionManager, create_mongodb_session_manager):
        with pytest.raises(ValueError, match="session_id must be an id, got a connection string") as caught:
            make(uri, "customer-42")
        assert SECRET not in str(caught.value)
        assert not getattr(caught.value, "__notes__", ())
    assert SECRET not in caplog.text


@pytest.mark.parametrize("uri", URIS)
async def test_a_connection_string_as_an_id_anywhere(
    uri: str, factory: MongoDBSessionManagerFactory, command_counter: CommandCounter
) -> None:
    repository = MongoDBSessionRepository(client=factory._handle.client, database_name="test_first_contact")
    command_counter.clear()
    calls: list[Callable[[], Any]] = [
        lambda: factory.create_session_manager(uri),
        lambda: repository.create_session(Session(uri, SessionType.AGENT)),
        lambda: repository.read_session(uri),
        lambda: repository.read_agent("s", uri),
        lambda: repository.create_agent("s", SessionAgent(uri, {}, {})),
        lambda: repository.read_multi_agent("s", uri),
        lambda: repository.delete_session(uri),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="got a connection string") as caught:
            call()
        assert SECRET not in str(caught.value)
    for arguments in ((uri,), ("s", [uri]), ("s", uri)):
        with pytest.raises((TypeError, ValueError)) as refused:
            async with factory.session(*arguments):
                pass
        assert SECRET not in str(refused.value)
    assert command_counter.commands == []


@pytest.mark.parametrize(
    "name",
    [
        *("database_name", "collection_name", "application_name", "metadata_fields", "metadata_hook", "feedback_hook"),
        *("durability", "on_error", "exclusive", "lease_timeout", "lease_duration", "client"),
    ],
)
def test_a_connection_string_as_another_argument(name: str) -> None:
    uri = None if name == "client" else "mongodb://127.0.0.1:1"
    makers: list[Callable[..., Any]] = [
        lambda **wrong: MongoDBSessionManager("s", uri, **wrong),
        lambda **wrong: MongoDBSessionManagerFactory(uri, **wrong),
        lambda **wrong: initialize_global_factory(uri, **wrong),
    ]
    for make in makers:
        for wrong in (URI, [URI]):
            with pytest.raises((TypeError, ValueError)) as caught:
                make(**{name: wrong})
            assert SECRET not in str(caught.value)
            assert name in str(caught.value)


@pytest.mark.parametrize("uri", [URI.removeprefix("mongodb://"), URI.replace("mongodb", "http")])
def test_a_connection_string_without_its_scheme(uri: str) -> None:
    with pytest.raises((ConfigurationError, ValueError)) as caught:
        MongoDBSessionManager("s", uri)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "uri",
    [
        "mongodb://a:b@s3cr3t/w@h/shop",
        "mongodb://a:12?s3cr3t@h/shop",
        "mongodb+srv://a:b/s3cr3t@h",
        "mongodb://a:12/s3cr3t@h/shop",
        "mongodb://a@b:s3cr3t@h",
    ],
)
def test_a_password_that_is_not_escaped(uri: str) -> None:
    for make in (MongoDBSessionManagerFactory, MongoDBSessionRepository, MongoDBConnectionPool.initialize):
        with pytest.raises((ConfigurationError, ValueError), match=r"(?i)escaped") as caught:
            make(uri)
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "uri", ["mongodb://u:p@h:1/?ssl=true&appName=@u@", "mongodb://h:1/?appname=a@b", "mongodb://h:1"]
)
def test_an_at_sign_elsewhere_is_fine(uri: str) -> None:
    MongoDBSessionRepository(uri, connect=False).close()


@pytest.mark.parametrize("wrong", [5, b"mongodb://h", ["mongodb://h"], {}.keys(), MongoClient(connect=False)])
def test_something_else_as_connection_string(wrong: Any) -> None:
    makers: list[Callable[..., Any]] = [
        lambda: MongoDBSessionManager("s", wrong),
        lambda: MongoDBSessionManagerFactory(wrong),
        lambda: MongoDBSessionRepository(wrong),
        lambda: MongoDBConnectionPool.initialize(wrong),
    ]
    for make in makers:
        with pytest.raises((TypeError, ValueError), match="connection_string"):
            make()


# Options


@pytest.mark.parametrize(("typo", "meant"), [("durabilty", "durability"), ("on_eror", "on_error")])
def test_a_misspelt_option(typo: str, meant: str, mongo_client: Client) -> None:
    wrong: dict[str, Any] = {typo: "exit"}
    of_a_new_client: list[Callable[..., Any]] = [
        lambda: MongoDBSessionManager("s", "mongodb://127.0.0.1:1", **wrong),
        lambda: create_mongodb_session_manager("s", "mongodb://127.0.0.1:1", **wrong),
        lambda: MongoDBSessionManagerFactory("mongodb://127.0.0.1:1", **wrong),
        lambda: initialize_global_factory("mongodb://127.0.0.1:1", **wrong),
    ]
    for make in of_a_new_client:
        with pytest.raises(ConfigurationError, match=rf"{typo}.*Did you mean {meant}\?.*exclusive"):
            make()
    with MongoDBSessionManagerFactory(client=mongo_client) as factory:
        of_a_client: list[Callable[..., Any]] = [
            lambda: MongoDBSessionManager("s", client=mongo_client, **wrong),
            lambda: MongoDBSessionManagerFactory(client=mongo_client, **wrong),
            lambda: factory.create_session_manager("s", **wrong),
        ]
        for make in of_a_client:
            with pytest.raises(TypeError, match=rf"{typo}.*Did you mean {meant}\?.*exclusive"):
                make()


@pytest.mark.parametrize("name", ["database_name", "collection_name", "application_name"])
def test_a_name_with_half_a_character(name: str, mongo_client: Client) -> None:
    wrong: dict[str, Any] = {name: "half \ud83d"}
    for make in (
        lambda: MongoDBSessionManager("s", client=mongo_client, **wrong),
        lambda: MongoDBSessionManagerFactory(client=mongo_client, **wrong),
        lambda: MongoDBSessionManagerFactory(client=mongo_client).create_session_manager("s", **wrong),
    ):
        with pytest.raises(ValueError, match=f"{name} must be valid Unicode"):
            make()


def test_a_factory_refuses_what_no_manager_would_take() -> None:
    for wrong in (
        *({"durability": "exiit"}, {"on_error": "ignore"}, {"exclusive": "yes"}, {"lease_timeout": -1}),
        *({"database_name": 5}, {"metadata_hook": 5}, {"metadata_fields": "status"}, {"metadata_fields": 5}),
    ):
        with pytest.raises((TypeError, ValueError), match=next(iter(wrong))):
            MongoDBSessionManagerFactory("mongodb://127.0.0.1:1", **wrong)


def test_what_is_no_client(mongo_client: Client) -> None:
    wrongs: list[tuple[Any, str]] = [
        (mongo_client["shop"], "client=database.client and database_name=database.name"),
        (mongo_client["shop"]["sessions"], "collection_name=collection.name"),
        (mongomock.MongoClient()["shop"], "client=database.client"),
        (mongomock.MongoClient()["shop"]["sessions"], "client=collection.database.client"),
        (MongoClient, "the class MongoClient"),
        (pymongo.AsyncMongoClient(connect=False), "off the event loop"),
        (URI, "str"),
    ]
    for wrong, remedy in wrongs:
        for make in (MongoDBSessionManagerFactory, MongoDBSessionRepository):
            with pytest.raises(TypeError, match=rf"client must be a pymongo.MongoClient.*{remedy}") as caught:
                make(client=wrong)
            assert SECRET not in str(caught.value)


def test_the_default_database_is_logged_once(
    mongodb_uri: str, caplog: pytest.LogCaptureFixture, nobodys_port: int
) -> None:
    caplog.set_level(logging.INFO, "mongodb_session_manager")
    operation._log_default_database.cache_clear()
    for database in ("", "shop", ""):
        MongoDBSessionRepository(f"mongodb://127.0.0.1:{nobodys_port}/{database}", connect=False).close()

    (record,) = caplog.records
    assert "database=<database_name>" in record.getMessage()


# Two requests at once


@pytest.mark.parametrize("lease", [False, True], ids=["without a lease", "with a lease"])
async def test_a_retry_in_the_middle_of_a_turn(
    lease: bool, factory: MongoDBSessionManagerFactory, new_agent: NewAgent
) -> None:
    """What README and the guide say of it: the earlier one loses, and a tool ran twice; with a lease neither is so."""
    bought: list[str] = []
    answering, retried = asyncio.Event(), asyncio.Event()

    @tool
    def buy(what: str) -> str:
        """Buy something."""
        bought.append(what)
        return "bought"

    class Waiting(ScriptedModel):
        async def stream(self, messages: Any, *args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
            if len(messages) == 3:
                answering.set()
                await retried.wait()
            async for event in super().stream(messages, *args, **kwargs):
                yield event

    async def request(model: ScriptedModel) -> Any:
        options: Any = {"exclusive": True, "lease_timeout": 0} if lease else {}
        async with factory.session("s-1", agent_ids=["default"], **options) as manager:
            return await new_agent(manager, model=model, tools=[buy]).invoke_async("Buy a ticket")

    script: list[Any] = [{"toolUse": {"toolUseId": "t", "name": "buy", "input": {"what": "a ticket"}}}, "Bought."]
    earlier = asyncio.create_task(request(Waiting(script)))
    await answering.wait()
    retry = await asyncio.gather(request(ScriptedModel(script)), return_exceptions=True)
    retried.set()
    outcomes = [*await asyncio.gather(earlier, return_exceptions=True), *retry]

    refused = [isinstance(outcome, SessionConflictError) for outcome in outcomes]
    assert refused == ([False, True] if lease else [True, False])
    assert len(bought) == (1 if lease else 2)


# What things say of themselves


def test_reprs(new_manager: NewManager, mongo_client: Client, database: str, mongodb_uri: str) -> None:
    manager = new_manager("customer-42", collection_name="chats")
    assert repr(manager) == f"MongoDBSessionManager('customer-42', '{database}.chats', open)"
    assert repr(manager.session_repository) == f"MongoDBSessionRepository('{database}.chats', open)"
    manager.close()
    assert repr(manager).endswith(", closed)")

    uri = mongodb_uri.replace("mongodb://", f"mongodb://ada:{SECRET}@") if "@" not in mongodb_uri else mongodb_uri
    factory = MongoDBSessionManagerFactory(uri, "shop", password=SECRET, username="ada")
    assert repr(factory) == "MongoDBSessionManagerFactory('shop.agent_sessions', open)"
    assert repr(MongoDBConnectionPool()) == "MongoDBConnectionPool(open)"
    factory.close()
    assert repr(factory) == "MongoDBSessionManagerFactory('shop.agent_sessions', closed)"
    assert repr(MongoDBConnectionPool()) == "MongoDBConnectionPool(not initialized)"
    assert repr(MongoDBSessionManager.__new__(MongoDBSessionManager)) == "MongoDBSessionManager(not open)"
    assert repr(ScriptedModel(["Yes."], default="No.")) == "ScriptedModel('scripted', 0 calls)"


@pytest.mark.parametrize("how", [pickle.dumps, copy.copy, copy.deepcopy], ids=["pickle", "copy", "deepcopy"])
def test_what_cannot_be_copied_says_what_to_do(
    how: Callable[[Any], Any], new_manager: NewManager, factory: MongoDBSessionManagerFactory
) -> None:
    manager = new_manager()
    for thing, remedy in (
        (manager, "from the session id"),
        (manager.session_repository, "client="),
        (factory, "get_global_factory"),
        (MongoDBConnectionPool(), "initialize"),
        (create_metadata_sqs_hook("http://localhost/1/q"), "in each process"),
    ):
        with pytest.raises(TypeError, match=rf"{type(thing).__name__} cannot be pickled or copied.*{remedy}"):
            how(thing)


# Pages


@pytest.mark.parametrize("wrong", ["5", 1.5, True, b"5"])
def test_a_page_of_no_number(wrong: Any, new_manager: NewManager, new_agent: NewAgent) -> None:
    manager = new_manager()
    new_agent(manager)
    for page in ({"limit": wrong}, {"offset": wrong}):
        with pytest.raises(TypeError, match=f"{next(iter(page))} must be a number, got {type(wrong).__name__}"):
            manager.list_messages("default", **page)


# The wrong kind of with


async def test_async_with(new_manager: NewManager, factory: MongoDBSessionManagerFactory) -> None:
    things: list[Any] = [new_manager(), factory]
    for thing in things:
        with pytest.raises(TypeError, match=r"async with factory\.session"):
            async with thing:
                pass
        assert not hasattr(thing, "__aenter__")


async def test_agent_ids_that_are_none(factory: MongoDBSessionManagerFactory) -> None:
    wrongs: list[Any] = ["support", 5, None]
    for wrong in wrongs:
        with pytest.raises(TypeError, match="agent_ids must be a list of ids"):
            async with factory.session("s-1", wrong):
                pass
        with pytest.raises(TypeError, match="agent_ids must be a list of ids"):
            factory.create_session_manager("s-1").prefetch(wrong)


# Closed things


async def test_closed_things_raise_one_family(
    factory: MongoDBSessionManagerFactory, new_agent: NewAgent, mongodb_uri: str, database: str
) -> None:
    manager = MongoDBSessionManager("s-1", mongodb_uri, database)
    agent = new_agent(manager)
    manager.close()
    factory.close()

    calls: list[Callable[[], Any]] = [
        lambda: factory.create_session_manager("s-2"),
        lambda: manager.append_message({"role": "user", "content": [{"text": "x"}]}, agent),
        lambda: manager.sync_agent(agent),
        lambda: new_agent(manager, agent_id="other"),
        *(manager.get_metadata, manager.get_feedbacks, manager.list_agents, manager.get_usage_summary),
        lambda: manager.list_messages("default"),
        lambda: manager.update_metadata({"a": 1}),
        lambda: agent("Hello?"),
        manager.__enter__,
        factory.__enter__,
        manager.delete_session,
    ]
    for call in calls:
        with pytest.raises(MongoDBSessionError, match="closed"):
            call()
    for started in (
        *(manager.aget_metadata(), manager.aget_feedbacks(), manager.alist_messages("default")),
        *(manager.aadd_feedback({}), manager.aupdate_metadata({"a": 1}), manager.adelete_metadata(["a"])),
    ):
        with pytest.raises(MongoDBSessionError, match="closed"):
            await started
    with pytest.raises(MongoDBSessionError, match="closed"):
        async with factory.session("s-2"):
            pass


# Messages


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ("Hello", TypeError),
        (None, TypeError),
        (["Hello"], TypeError),
        ({"content": "Hello"}, ValueError),
        ({"role": "system", "content": "Hello"}, ValueError),
        ({"role": ["user"], "content": "Hello"}, ValueError),
        ({"role": "user"}, ValueError),
        ({"role": "user", "content": None}, ValueError),
        ({"role": "user", "content": 5}, TypeError),
        ({"role": "user", "content": {"text": "Hello"}}, TypeError),
        ({"role": "user", "content": ["Hello"]}, TypeError),
        ({"role": "user", "content": b"Hello"}, TypeError),
        ({}, ValueError),
    ],
)
def test_what_is_no_message(
    message: Any, error: type[Exception], new_manager: NewManager, new_agent: NewAgent, stored: Callable[[], Any]
) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    agent("Hi")
    before = stored()

    for refused in (manager.append_message, manager.redact_latest_message):
        with pytest.raises(error, match=r"the role 'user' or 'assistant'|content of a message must be .* \[\{'text'"):
            refused(message, agent)

    assert stored() == before
    assert manager.health["pending"] == 0
    manager.append_message({"role": "user", "content": "Hello"}, agent)  # type: ignore[typeddict-item]
    assert manager.get_message_count("default") == 3


def test_message_and_agent_swapped(new_manager: NewManager, new_agent: NewAgent) -> None:
    manager = new_manager()
    agent, message = new_agent(manager), {"role": "user", "content": [{"text": "Hello"}]}
    wrong: Any = manager
    swapped: list[tuple[Any, Any]] = [(agent, message), (message, "default")]
    for arguments in swapped:
        with pytest.raises(TypeError, match=r"message must be|agent must be a strands\.Agent"):
            wrong.append_message(*arguments)
    with pytest.raises(TypeError, match=r"agent must be a strands\.Agent, got str"):
        wrong.sync_agent("default")
    with pytest.raises(TypeError, match=r"agent must be a strands\.Agent, got NoneType"):
        wrong.initialize(None)


# A cell of a notebook that is run again


def test_an_agent_that_was_dropped_gives_its_id_back(new_manager: NewManager, new_agent: NewAgent) -> None:
    manager = new_manager()
    for turn in range(3):
        agent = new_agent(manager)
        assert len(agent.messages) == 2 * turn
        agent("Hi")
        with pytest.raises(MongoDBSessionError, match="in use by another agent object"):
            new_agent(manager)
        del agent
    assert manager.get_message_count("default") == 6


def test_a_dropped_agent_that_refers_to_itself(new_manager: NewManager, new_agent: NewAgent) -> None:
    manager = new_manager()
    gc.disable()
    try:
        agent: Any = new_agent(manager)
        agent.myself = agent
        agent("Hi")
        del agent
        assert len(new_agent(manager).messages) == 2
    finally:
        gc.enable()


def test_what_a_dropped_agent_could_not_send_is_sent_first(
    new_manager: NewManager, new_agent: NewAgent, failing: Callable[..., Any]
) -> None:
    manager = new_manager(on_error="degrade")
    agent = new_agent(manager)
    with failing("update", errorCode=50):
        agent("Hi")
        pending = manager.health["pending"]
        del agent
        with pytest.raises(pymongo.errors.OperationFailure):
            new_agent(manager)
        assert manager.health["pending"] == pending > 0

    assert [message["role"] for message in new_agent(manager).messages] == ["user", "assistant"]
    assert manager.health["pending"] == 0


# Logs


def test_a_conflict_is_logged_once(
    new_manager: NewManager, new_agent: NewAgent, caplog: pytest.LogCaptureFixture
) -> None:
    agent, other = new_agent(new_manager()), new_agent(new_manager())
    other("I was first")
    for _ in range(2):
        with pytest.raises(SessionConflictError):
            agent("SECRET")

    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    words = ("session_id=<s-1>", "agent_id=<default>", "stored_revision=<3>", "expected_revision=<1>")
    assert all(word in record.getMessage() for word in words)
    assert "SECRET" not in record.getMessage()


def test_debug_tells_what_happened(
    new_manager: NewManager, new_agent: NewAgent, caplog: pytest.LogCaptureFixture
) -> None:
    agent, other = new_agent(new_manager()), new_agent(new_manager())
    other("I was first")
    caplog.set_level(logging.DEBUG, "mongodb_session_manager")
    with pytest.raises(SessionConflictError):
        agent("Hi")
    writes = [text for text in caplog.messages if "operation=<write_agent>" in text]
    assert [text.partition(" | ")[2] for text in writes] == ["missed: nothing was changed"]
    assert "messages=<0>" in writes[0]

    caplog.clear()
    new_agent(new_manager())
    (restored,) = [text for text in caplog.messages if "operation=<restore_agent>" in text]
    assert "messages=<2>" in restored
    assert restored.endswith("| done")


def test_debug_tells_what_failed(
    new_manager: NewManager, failing: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    manager = new_manager()
    caplog.set_level(logging.DEBUG, "mongodb_session_manager")
    with failing("update", errorCode=50), pytest.raises(pymongo.errors.OperationFailure):
        manager.update_metadata({"a": 1})
    assert [text.partition(" | ")[2] for text in caplog.messages if "update_metadata" in text] == ["failed"]
