"""A role with what is needed and nothing else: everything works with it, and something breaks without each part."""

import ast
import asyncio
import logging
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId
from pymongo import MongoClient
from pymongo.errors import OperationFailure
from strands import Agent

from mongodb_session_manager import (
    MongoDBSessionManager,
    MongoDBSessionManagerFactory,
    MongoDBSessionRepository,
    SessionCatalog,
    SessionConflictError,
)
from mongodb_session_manager._stores.feedback import FEEDBACK_BYTES
from mongodb_session_manager._stores.indexes import ensure_file_indexes, ensure_segment_index
from mongodb_session_manager.mongodb_session_repository import stores_of
from mongodb_session_manager.testing import ScriptedModel
from tests.aliases import Client
from tests.security.conftest import NewUser
from tests.watching import wait_for_indexes

UNAUTHORIZED = 13

PAGE = Path(__file__).parents[2] / "docs/user-guide/security.md"


def documented_role() -> dict[str, tuple[str, ...]]:
    """Read the actions that the page gives, by collection."""
    block = re.search(r"^needed = (\{.*?^\})$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert block
    return {collection: tuple(actions) for collection, actions in ast.literal_eval(block[1]).items()}


NEEDED = documented_role()
PARTS = [(collection, action) for collection, actions in NEEDED.items() for action in actions]

Actions = Mapping[str, tuple[str, ...]]


@pytest.fixture
def database(secured_database: str) -> str:
    return secured_database


@pytest.fixture
def connected(secured: Any, new_user: NewUser) -> Iterator[Callable[..., Client]]:
    """Connect as a user with these actions."""
    clients: list[Client] = []

    def connect(actions: Actions = NEEDED) -> Client:
        clients.append(MongoClient(secured.uri, **new_user(actions)))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


@pytest.fixture
def index_warnings(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.WARNING, logger="mongodb_session_manager")
    return lambda: [
        record.getMessage() for record in caplog.records if record.name == "mongodb_session_manager._stores.indexes"
    ]


def test_a_catalog(connected: Callable[..., Client], database: str) -> None:
    of_indexes = {"agent_sessions": (*NEEDED["agent_sessions"], "listIndexes", "createIndex")}
    with MongoDBSessionManager("s-1", client=connected(), database_name=database) as manager:
        make_agent(manager)("Hello")
    with SessionCatalog(client=connected(), database_name=database) as catalog:
        assert catalog.fork("s-1", "s-2").messages == 2
        assert catalog.upgrade().matched == 0
        with pytest.raises(OperationFailure):
            catalog.create_indexes()
    with SessionCatalog(client=connected(of_indexes), database_name=database) as catalog:
        assert catalog.create_indexes().failed == {}


def test_the_documented_indexes_are_those_of_the_library(secured: Any, database: str) -> None:
    with secured.root() as root:
        for block in re.findall(r"^```python\n([^`]*create_index\([^`]*)```$", PAGE.read_text("utf-8"), re.MULTILINE):
            exec(block, {"database": root[database]})
        documented = index_keys(root, database)
        root.drop_database(database)
        with MongoDBSessionManager(
            "s-1", client=root, database_name=database, metadata_fields=["priority"], ttl=timedelta(hours=1)
        ):
            _, segments, files, chunks = (root[database][name] for name in NEEDED)
            ensure_segment_index(segments)
            ensure_file_indexes(files, chunks)
            wait_for_indexes()
        assert index_keys(root, database) == documented


def index_keys(client: Client, database: str) -> dict[str, Any]:
    """The indexes of each collection, as the server describes them."""
    collections = client[database].list_collection_names()
    return {name: client[database][name].index_information() for name in collections}


# Everything that the library does


def text(number: int, size: int = 20) -> Any:
    return {"role": "user", "content": [{"text": f"{number} ".ljust(size, "x")}], "tracking_id": f"t-{number}"}


def make_agent(manager: MongoDBSessionManager, **options: Any) -> Agent:
    options.setdefault("agent_id", "a")
    return Agent(model=ScriptedModel(default="Okay."), session_manager=manager, callback_handler=None, **options)


def converse(client: Client, database: str) -> None:
    """Create, go on, restore; state, metadata, feedback, configuration, figures."""
    for restored in (0, 2):
        with MongoDBSessionManager("s-1", client=client, database_name=database, metadata_fields=["mail"]) as manager:
            agent = make_agent(manager, state={"pin": 1})
            assert len(agent.messages) == restored
            agent("Hello")
            manager.update_metadata({"mail": "m", "seen": True})
            manager.delete_metadata(["seen"])
            manager.add_feedback({"rating": "up", "agent_id": "a", "message_id": 0})
            manager.update_agent_config("a", system_prompt="Be kind.")
            assert manager.get_metadata() == {"metadata": {"mail": "m"}}
            assert manager.get_feedbacks()
            assert manager.list_agents()
            assert manager.get_usage_summary()["model_calls"] == restored // 2 + 1
            assert manager.list_messages("a")


def move(client: Client, database: str) -> None:
    """Move messages and feedback into segments, read them there, and redact one of them there."""
    with MongoDBSessionManager("s-2", client=client, database_name=database) as manager:
        messages = [text(number) for number in range(60)]
        agent = make_agent(manager, messages=[*messages, text(0)])
        repository = manager.session_repository
        guard = stores_of(repository).histories.locate_agent("s-2", "a").guard
        assert stores_of(repository).histories.move_oldest("s-2", "a", guard, ObjectId(), kept_bytes=10_000)
        assert [found["content"] for found in manager.list_messages("a", limit=60)] == [m["content"] for m in messages]
        moved = repository.read_message("s-2", "a", 0)
        assert moved is not None
        moved.redact_message = text(99)
        repository.update_message("s-2", "a", moved)
        assert "99" in str(manager.list_messages("a", limit=1))
        assert agent.messages


def move_feedback(client: Client, database: str) -> None:
    with MongoDBSessionManager("s-3", client=client, database_name=database) as manager:
        for _ in range(2):
            manager.add_feedback({"comment": "x" * FEEDBACK_BYTES})
        assert len(manager.get_feedbacks()) == 2


def conflict(client: Client, database: str) -> None:
    """Two writers, of whom the second is told."""
    with (
        MongoDBSessionManager("s-4", client=client, database_name=database) as first,
        MongoDBSessionManager("s-4", client=client, database_name=database) as second,
    ):
        one, other = make_agent(first), make_agent(second)
        one("Hello")
        with pytest.raises(SessionConflictError):
            other("Hello")


def compose(client: Client, database: str) -> None:
    """Several agents, multi-agents, redactions."""
    with MongoDBSessionManager("s-5", client=client, database_name=database) as manager:
        agent = make_agent(manager)
        agent("Hello")
        manager.redact_latest_message(text(1), agent)
        repository = manager.session_repository
        stores_of(repository).multi_agents.write_multi_agent("s-5", "m", {"at": 1}, create=True)
        stores_of(repository).multi_agents.write_multi_agent("s-5", "m", {"at": 2})
        assert repository.read_multi_agent("s-5", "m") == {"at": 2}


def mend(client: Client, database: str) -> None:
    call = {"role": "assistant", "content": [{"toolUse": {"toolUseId": "t", "name": "n", "input": {}}}]}
    with MongoDBSessionManager("s-6", client=client, database_name=database) as manager:
        make_agent(manager, messages=[text(0), call, text(1)])
    with MongoDBSessionManager("s-6", client=client, database_name=database) as manager:
        make_agent(manager)
        assert manager.get_message_count("a") == 3


def serve(client: Client, database: str) -> None:
    """A web service's way in."""

    async def answer(factory: MongoDBSessionManagerFactory) -> None:
        async with factory.session("s-7", agent_ids=["a"]) as manager:
            await make_agent(manager).invoke_async("Hello")

    with MongoDBSessionManagerFactory(client=client, database_name=database, durability="async") as factory:
        asyncio.run(answer(factory))
        assert factory.get_connection_stats()["status"] == "external_client"


def attach(client: Client, database: str) -> None:
    """Store a picture that has no place in a document, restore it, and redact one."""
    pictures = [{"image": {"format": "png", "source": {"bytes": secrets.token_bytes(size)}}} for size in (2**20, 2**19)]
    messages: list[Any] = [
        {"role": "user", "content": [picture], "tracking_id": f"t-{number}"} for number, picture in enumerate(pictures)
    ]
    with MongoDBSessionManager("s-8", client=client, database_name=database) as manager:
        agent = make_agent(manager)
        for message in messages:
            manager.append_message(message, agent)
        manager.redact_latest_message(text(1), agent)
    with MongoDBSessionManager("s-8", client=client, database_name=database) as manager:
        assert make_agent(manager).messages == [messages[0], {**text(1)}]


def delete(client: Client, database: str) -> None:
    for session_id in ("s-1", "s-2", "s-3", "s-8"):
        with MongoDBSessionManager(session_id, client=client, database_name=database) as manager:
            assert manager.delete_session()
    assert MongoDBSessionRepository(client=client, database_name=database).read_session("s-2") is None


USES = (converse, move, move_feedback, conflict, compose, mend, serve, attach, delete)


def use(client: Client, database: str) -> None:
    for one in USES:
        one(client, database)
    wait_for_indexes()


# With it, and with less


def test_everything_works(
    connected: Callable[..., Client], database: str, index_warnings: Callable[[], list[str]]
) -> None:
    use(connected(), database)

    warned = index_warnings()
    assert all("an index was not created" in text for text in warned), warned
    # Once for each collection, however many managers there were.
    assert sorted(text.partition(" ")[0] for text in warned) == sorted(
        f"namespace=<{database}.{name}>" for name in NEEDED
    )


def test_nothing_is_deleted_by_halves(connected: Callable[..., Client], secured: Any, database: str) -> None:
    use(connected(), database)

    with secured.root() as root:
        left = {name: root[database][name].count_documents({}) for name in NEEDED}
    assert left == {**dict.fromkeys(NEEDED, 0), "agent_sessions": 4}


@pytest.mark.parametrize(("collection", "action"), PARTS)
def test_each_part_is_needed(connected: Callable[..., Client], database: str, collection: str, action: str) -> None:
    allowed = tuple(one for one in NEEDED[collection] if one != action)

    with pytest.raises((OperationFailure, AssertionError)) as caught:
        use(connected({**NEEDED, collection: allowed}), database)

    error: Any = caught.value
    assert isinstance(error, AssertionError) or error.code == UNAUTHORIZED


def test_an_index_is_made_by_whoever_may(
    connected: Callable[..., Client], secured: Any, database: str, index_warnings: Callable[[], list[str]]
) -> None:
    with_indexes = {name: (*actions, "createIndex") for name, actions in NEEDED.items()}
    use(connected(with_indexes), database)

    assert index_warnings() == []
    with secured.root() as root:
        assert len(root[database]["agent_sessions"].index_information()) == 5


def test_the_role_reaches_no_other_collection(connected: Callable[..., Client], database: str) -> None:
    client = connected()
    for name, collection in ((database, "other_sessions"), ("other", "agent_sessions")):
        with pytest.raises(OperationFailure) as caught:
            MongoDBSessionManager("s-1", client=client, database_name=name, collection_name=collection)
        assert caught.value.code == UNAUTHORIZED


def test_what_is_not_allowed_is_told_without_content(
    connected: Callable[..., Client], database: str, witness: Any
) -> None:
    reader = connected({**NEEDED, "agent_sessions": ("find",)})
    writer = connected()
    MongoDBSessionManager("s-1", client=writer, database_name=database).close()
    with witness.error(OperationFailure):
        MongoDBSessionManager("s-1", client=reader, database_name=database)
    repository = MongoDBSessionRepository(client=reader, database_name=database)
    with witness.error(OperationFailure):
        repository.update_metadata("s-1", {"mail": witness.secret("metadata")})
    with witness.error(OperationFailure):
        repository.add_feedback("s-1", {"comment": witness.secret("comment")})
