"""Real managers, agents and faults on the real mongod, for the tests of every folder."""

import copy
import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any
from urllib.parse import urlsplit

import bson
import pytest
from pymongo import MongoClient, common
from strands import Agent
from strands.types.content import Message

from mongodb_session_manager import MongoDBSessionManager, MongoDBSessionManagerFactory, MongoDBSessionRepository
from mongodb_session_manager._schema.limits import Limits
from mongodb_session_manager.testing import CommandCounter, ScriptedModel
from tests.aliases import Client, Document, Everything, Failing, History, Insert, NewAgent, NewManager
from tests.watching import wait_for_indexes

pytest_plugins = ["mongodb_session_manager.testing.pytest_plugin"]

COLLECTION = "agent_sessions"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "limits(**smaller): the limits of the test's managers")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--require-browser", action="store_true", help="fail, and do not skip, where there is no Chromium")


@pytest.fixture
def mongo_client(
    mongodb_uri: str, command_counter: CommandCounter, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Client]:
    """A client of the test's own, watched by ``command_counter``, that is soon back after an injected fault."""
    # The driver looks for a lost server again after 0.5 s at the earliest, and these tests lose many.
    monkeypatch.setattr(common, "MIN_HEARTBEAT_INTERVAL", 0.02)
    client: Client = MongoClient(mongodb_uri, tz_aware=True, heartbeatFrequencyMS=20, event_listeners=[command_counter])
    with client:
        yield client


@pytest.fixture(scope="session")
def uri_of(mongodb_uri: str) -> Callable[[str], str]:
    """The server's connection string with a database in it."""
    parts = urlsplit(mongodb_uri)
    query = parts.query
    if "@" in parts.netloc and "authsource=" not in query.lower():
        # Credentials are looked up in the database of the path, unless this says otherwise.
        query = f"{query}&authSource={parts.path.strip('/') or 'admin'}".lstrip("&")
    return lambda database: parts._replace(path=f"/{database}", query=query).geturl()


@pytest.fixture(scope="session")
def observer(mongodb_uri: str) -> Iterator[Client]:
    """A client that nobody counts, breaks or closes."""
    client: Client = MongoClient(mongodb_uri, tz_aware=True)
    with client:
        yield client


@pytest.fixture(scope="session")
def shared_database(observer: Client) -> Iterator[str]:
    name = f"test_{uuid.uuid4().hex}"
    yield name
    observer.drop_database(name)


@pytest.fixture
def database(observer: Client, shared_database: str) -> Iterator[str]:
    """Name of a database that is empty but for indexes: making and dropping these takes 0.2 s a test."""
    yield shared_database
    for name in observer[shared_database].list_collection_names():
        observer[shared_database][name].delete_many({})


@pytest.fixture
def limits(request: pytest.FixtureRequest) -> Limits:
    """The limits of the test's managers; its ``limits`` marks make them smaller, so that little is much."""
    marks = reversed([*request.node.iter_markers("limits")])
    return Limits(**{name: value for mark in marks for name, value in mark.kwargs.items()})


@pytest.fixture
def new_manager(mongo_client: Client, database: str, limits: Limits) -> Iterator[NewManager]:
    """Make managers in the test's database, on the counted client unless told otherwise; closed in the end."""
    with ExitStack() as stack:

        def make(session_id: str = "s-1", **options: Any) -> MongoDBSessionManager:
            if "connection_string" not in options:
                options.setdefault("client", mongo_client)
            manager = MongoDBSessionManager(session_id, database_name=database, **{"_limits": limits, **options})
            wait_for_indexes()
            return stack.enter_context(closing(manager))

        yield make


@pytest.fixture
def factory(mongo_client: Client, database: str, limits: Limits) -> Iterator[MongoDBSessionManagerFactory]:
    """On the counted client; the collection's indexes are there."""
    with MongoDBSessionManagerFactory(client=mongo_client, database_name=database, _limits=limits) as made:
        made.create_session_manager("another session").close()
        wait_for_indexes()
        yield made


@pytest.fixture
def new_agent() -> NewAgent:
    """Make a real agent whose model says the given turns, then "Okay." for ever."""

    def make(manager: MongoDBSessionManager, *turns: Any, **options: Any) -> Agent:
        options.setdefault("model", ScriptedModel(turns, default="Okay."))
        return Agent(session_manager=manager, callback_handler=None, **options)

    return make


@pytest.fixture
def stored(observer: Client, database: str) -> Callable[..., Any]:
    """Read a session's document as it is in the database; None where there is none."""

    def read(session_id: str = "s-1") -> dict[str, Any] | None:
        return observer[database][COLLECTION].find_one({"_id": session_id})

    return read


@pytest.fixture
def insert(observer: Client, database: str) -> Insert:
    """Put a session's document there as it is given."""

    def put(document: Document) -> None:
        observer[database][COLLECTION].insert_one(copy.deepcopy(document))

    return put


@pytest.fixture
def history(observer: Client, database: str) -> History:
    """Read an agent's stored messages, all of them, as the SDK has them."""
    repository = MongoDBSessionRepository(client=observer, database_name=database)

    def read(session_id: str = "s-1", agent_id: str = "default") -> list[Message]:
        return [record.to_message() for record in repository.list_messages(session_id, agent_id)]

    return read


@pytest.fixture
def everything(observer: Client, database: str) -> Everything:
    """All documents of all collections, as they are stored."""

    def read() -> bytes:
        found = observer[database]
        names = found.list_collection_names()
        return b"".join(bson.encode(document) for name in names for document in found[name].find())

    return read


@pytest.fixture
def nobodys_port() -> Iterator[int]:
    """A port on which nobody listens."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield reserved.getsockname()[1]


@pytest.fixture
def failing(observer: Client, database: str) -> Failing:
    """Inject faults into commands on the sessions of this test, for the time of a ``with``.

    The list that it gives holds in the end how many commands met the fault.
    """

    def configure(mode: Any, **data: Any) -> int:
        configured = observer.admin.command("configureFailPoint", "failCommand", mode=mode, **data)
        return int(configured["count"])

    @contextmanager
    def inject(
        *commands: str, mode: Any = "alwaysOn", collection: str = COLLECTION, **fault: Any
    ) -> Iterator[list[int]]:
        namespace = f"{database}.{collection}"
        before = configure(mode, data={"failCommands": commands or ("update",), "namespace": namespace, **fault})
        met: list[int] = []
        try:
            yield met
        finally:
            met.append(configure("off") - before)

    return inject
