"""Nothing that a session holds, and no credential, is told by logs, errors, warnings, figures or representations.

Every test puts random words where secrets go; the witness heard everything else, and looks for them in the end.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId
from pymongo.errors import BulkWriteError, ConfigurationError, OperationFailure, PyMongoError, WriteError
from strands import Agent, tool
from strands.types.session import Session, SessionAgent, SessionMessage, SessionType

import mongodb_session_manager
from mongodb_session_manager import (
    AgentNotFoundError,
    MessageNotFoundError,
    MongoDBConnectionPool,
    MongoDBSessionError,
    MongoDBSessionManager,
    MongoDBSessionManagerFactory,
    MongoDBSessionRepository,
    SchemaVersionError,
    SessionConflictError,
    SessionNotFoundError,
    SessionTooLargeError,
    UnstorableValueError,
    close_global_factory,
    create_feedback_sns_hook,
    create_metadata_sqs_hook,
    create_metadata_websocket_hook,
    get_global_factory,
    initialize_global_factory,
)
from mongodb_session_manager._schema.histories import AgentWrite
from mongodb_session_manager.mongodb_session_repository import stores_of
from tests.aliases import Client, Failing, NewAgent, NewManager
from tests.talking import every_durability
from tests.watching import wait_for_indexes

PACKAGE = Path(mongodb_session_manager.__file__).parent


class Confidential:
    """A session full of secrets, and what an application does with it."""

    def __init__(self, witness: Any, new_manager: NewManager, new_agent: NewAgent) -> None:
        self.witness, self._new_manager, self._new_agent = witness, new_manager, new_agent

    def manager(self, **options: Any) -> MongoDBSessionManager:
        return self._new_manager("s-1", **options)

    def agent(self, manager: MongoDBSessionManager, *turns: Any, **options: Any) -> Agent:
        secret = self.witness.secret
        replies = turns or (self.tool_call(), secret("reply"))
        options = {"agent_id": "a", "tools": [look_up], "state": {"pin": secret("state")}, **options}
        return self._new_agent(manager, *replies, system_prompt=secret("prompt"), **options)

    def tool_call(self) -> Any:
        name = look_up.tool_name
        return {"toolUse": {"toolUseId": "t-1", "name": name, "input": {"query": self.witness.secret("tool input")}}}

    def message(self, kind: str = "text") -> Any:
        return {"role": "user", "content": [{"text": self.witness.secret(kind)}], "tracking_id": f"t-{ObjectId()}"}

    def metadata(self) -> dict[str, Any]:
        return {"mail": self.witness.secret("metadata"), "nested.mail": [{"of": self.witness.secret("nested")}]}

    def feedback(self) -> dict[str, Any]:
        return {"rating": "up", "comment": self.witness.secret("comment"), "by": [self.witness.secret("by")]}

    def use(self, manager: MongoDBSessionManager, agent: Agent) -> None:
        """Do what writes something of each kind."""
        agent(self.message()["content"])
        agent.state.set("pin", self.witness.secret("later state"))
        manager.sync_agent(agent)
        manager.update_metadata(self.metadata())
        manager.add_feedback(self.feedback())
        manager.update_agent_config("a", system_prompt=self.witness.secret("later prompt"))
        manager.set_prompt_metadata("a", {"author": self.witness.secret("prompt metadata")})
        trace = {"inputAssessment": {"g": {"wordPolicy": {"customWords": [{"match": self.witness.secret("trace")}]}}}}
        manager.redact_latest_message(self.message("redacted"), agent, stop_reason="s", guardrail_trace=trace)


@tool
def look_up(query: str) -> str:
    """Look something up.

    Args:
        query: What.
    """
    return f"found {query}"


@pytest.fixture
def confidential(witness: Any, new_manager: NewManager, new_agent: NewAgent) -> Confidential:
    return Confidential(witness, new_manager, new_agent)


def test_a_witness_hears_secrets(witness: Any) -> None:
    try:
        raise KeyError(witness.secret("cause"))
    except KeyError as cause:
        error = ValueError("plain")
        error.__cause__ = cause
    logging.getLogger("mongodb_session_manager.x").debug("a=<%s>", witness.secret("argument"))
    witness.hear_error(error)
    witness.hear({"b": witness.secret("returned")})

    assert sorted(leak.partition(":")[0] for leak in witness.leaks()) == ["argument", "cause", "returned"]
    witness.told.clear()


# Ordinary life


@every_durability
def test_a_conversation(witness: Any, confidential: Confidential, durability: str) -> None:
    manager = confidential.manager(durability=durability, metadata_fields=["mail"])
    agent = confidential.agent(manager)
    confidential.use(manager, agent)
    witness.hear(manager, manager.session_repository, manager.health, manager.get_usage_summary(), manager.undelivered)
    manager.close()
    again = confidential.manager()
    restored = confidential.agent(again)
    restored("And now?")
    again.list_messages("a")
    again.delete_metadata(["mail"])
    again.delete_session()

    told = [record.getMessage() for record in witness.records]
    assert [text for text in told if "operation=<write_agent>" in text]
    assert [text for text in told if "operation=<delete_session>" in text]


def test_a_long_conversation(witness: Any, confidential: Confidential) -> None:
    manager = confidential.manager()
    agent = confidential.agent(manager, messages=[confidential.message() for _ in range(120)])
    repository = manager.session_repository
    guard = stores_of(repository).histories.locate_agent("s-1", "a").guard
    witness.hear(stores_of(repository).histories.move_oldest("s-1", "a", guard, ObjectId(), kept_bytes=0), guard)
    manager.list_messages("a")
    restored = stores_of(repository).histories.restore_agent("s-1", "a")
    witness.hear(
        restored,
        stores_of(repository).histories.locate_agent("s-1", "a"),
        stores_of(repository).sessions.open_session("s-1"),
    )
    assert len(agent.messages) == len(restored.messages) if restored else False


def test_a_history_that_is_mended(witness: Any, confidential: Confidential) -> None:
    manager = confidential.manager()
    call = {"role": "assistant", "content": [confidential.tool_call()]}
    confidential.agent(manager, messages=[confidential.message(), call, confidential.message()])
    manager.close()

    assert len(confidential.agent(confidential.manager()).messages) == 4


def test_figures_and_representations(
    witness: Any, confidential: Confidential, mongodb_uri: str, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = confidential.manager()
    agent = confidential.agent(manager)
    confidential.use(manager, agent)
    repository = manager.session_repository
    with closing(MongoDBSessionManagerFactory(mongodb_uri, database, password=witness.secret("password"))) as factory:
        witness.hear(factory, factory.get_connection_stats(), repository.client, stores_of(repository).handle)
        initialize_global_factory(mongodb_uri, database, password=witness.secret("password"))
        witness.hear(get_global_factory(), vars(MongoDBConnectionPool), MongoDBConnectionPool.get_client())
        witness.hear(MongoDBConnectionPool.get_pool_stats())
        close_global_factory()
    binding = manager._agents.by_id["a"]
    assert binding is not None
    manager.append_message(confidential.message(), agent)
    monkeypatch.setattr(manager._stores.histories, "write_agent", lambda *_: False)
    with witness.error(SessionConflictError):
        manager.append_message(confidential.message(), agent)
    witness.hear(binding, binding.history, *binding.history.queue.changes, *binding.history.live._messages.records)


def test_no_spans_are_made() -> None:
    assert [path for path in PACKAGE.rglob("*.py") if "opentelemetry" in path.read_text("utf-8")] == []


# Faults

FAULTS: list[dict[str, Any]] = [
    {"errorCode": 50},
    {"errorCode": 112},
    {"errorCode": 13},
    {"errorCode": 10334},
    {"errorCode": 11000},
    {"errorCode": 8000},
    {"closeConnection": True},
    {"errorCode": 91, "errorLabels": ["RetryableWriteError"]},
    {"writeConcernError": {"code": 64, "errmsg": "waiting for replication timed out"}},
]


@pytest.mark.parametrize("fault", FAULTS, ids=repr)
@pytest.mark.parametrize("on_error", ["raise", "degrade"])
def test_writes_that_fail(
    witness: Any, confidential: Confidential, failing: Failing, fault: dict[str, Any], on_error: str
) -> None:
    manager = confidential.manager(on_error=on_error)
    agent = confidential.agent(manager)
    failed = (PyMongoError, SessionTooLargeError, SessionConflictError)
    with failing("update", "findAndModify", **fault):
        with suppress_and_hear(witness):
            agent(confidential.message()["content"])
        with witness.error(failed):
            manager.append_message(confidential.message(), agent)
        with suppress_and_hear(witness):
            manager.redact_latest_message(confidential.message("redacted"), agent)
        with witness.error(failed):
            manager.update_metadata(confidential.metadata())
        with witness.error(failed):
            manager.add_feedback(confidential.feedback())
        with witness.error(failed):
            manager.update_agent_config("a", system_prompt=witness.secret("later prompt"))
        witness.hear(manager.get_metadata_tool()(action="update", metadata=confidential.metadata()))
        witness.hear(manager.health)
        manager.close()


class suppress_and_hear:  # noqa: N801 - reads as a statement
    """Note an error, if there is one."""

    def __init__(self, witness: Any) -> None:
        self._witness = witness

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if isinstance(error, Exception):
            self._witness.hear_error(error)
        return isinstance(error, Exception)


@pytest.mark.parametrize("command", ["aggregate", "find", "findAndModify", "delete", "createIndexes"])
def test_reads_and_openings_that_fail(witness: Any, confidential: Confidential, failing: Failing, command: str) -> None:
    first = confidential.manager()
    confidential.use(first, confidential.agent(first))
    with failing(command, errorCode=8000):
        for attempt in (
            lambda: confidential.agent(confidential.manager()),
            lambda: first.list_messages("a"),
            first.get_metadata,
            first.get_feedbacks,
            first.list_agents,
            first.delete_session,
        ):
            with suppress_and_hear(witness):
                attempt()


def test_a_write_behind_that_fails(witness: Any, confidential: Confidential, failing: Failing) -> None:
    manager = confidential.manager(durability="async")
    agent = confidential.agent(manager)
    with failing("update", errorCode=8000), suppress_and_hear(witness):
        asyncio.run(agent.invoke_async(confidential.message()["content"]))
    with failing("update", errorCode=8000):
        manager.close()

    assert [record for record in witness.records if "not stored" in record.getMessage()]


# What the server says of a document that it refuses


def a_unique_key(sessions: Any) -> None:
    sessions.create_index("metadata.mail", unique=True, partialFilterExpression={"metadata.mail": {"$exists": True}})


def a_validator(sessions: Any) -> None:
    rule = {"metadata.mail": {"$exists": False}, "feedbacks": {"$size": 0}, "agents.a.messages": {"$size": 0}}
    sessions.database.command("collMod", sessions.name, validator=rule)


def a_schema(sessions: Any) -> None:
    number = {"bsonType": "int"}
    comments = {"items": {"properties": {"comment": number}}}
    texts = {"items": {"properties": {"content": number}}}
    of_agent = {"properties": {"a": {"properties": {"messages": texts}}}}
    properties = {"metadata": {"properties": {"mail": number}}, "feedbacks": comments, "agents": of_agent}
    rule = {"$jsonSchema": {"properties": properties}}
    sessions.database.command("collMod", sessions.name, validator=rule)


def places_on_a_sphere(sessions: Any) -> None:
    sessions.create_index([("metadata.mail", "2dsphere"), ("feedbacks.comment", "2dsphere")])


def a_text(sessions: Any) -> None:
    sessions.create_index([("metadata.mail", "text")], language_override="mail")


@pytest.mark.parametrize("restrict", [a_unique_key, a_validator, a_schema, places_on_a_sphere, a_text])
def test_what_the_server_quotes_is_left_out(
    witness: Any,
    confidential: Confidential,
    new_manager: NewManager,
    observer: Client,
    database_name: str,
    restrict: Callable[[Any], None],
) -> None:
    sessions = observer[database_name]["agent_sessions"]
    with (
        MongoDBSessionManager("s-1", client=observer, database_name=database_name) as manager,
        MongoDBSessionManager("s-2", client=observer, database_name=database_name) as other,
    ):
        agent = confidential.agent(manager, "Okay.")
        other.session_repository.update_metadata("s-2", {"before": 1})
        if restrict is a_unique_key:
            other.update_metadata(confidential.metadata())
        wait_for_indexes()  # while one is built, the server changes no collection
        restrict(sessions)

        with witness.error(OperationFailure):
            manager.update_metadata({"language": "x", **confidential.metadata()})
        with suppress_and_hear(witness):
            manager.add_feedback(confidential.feedback())
        with suppress_and_hear(witness):
            manager.append_message(confidential.message(), agent)
        for error in witness.errors:
            assert isinstance(error, OperationFailure)
            assert error.code
            assert "own words are left out" in str(error)
        observer[database_name].command("collMod", sessions.name, validator={})


def test_a_segment_that_the_server_refuses(
    witness: Any, confidential: Confidential, observer: Client, database_name: str
) -> None:
    observer[database_name].create_collection("agent_sessions_segments", validator={"kind": "none"})
    with MongoDBSessionManager("s-1", client=observer, database_name=database_name) as manager:
        confidential.agent(manager, messages=[confidential.message() for _ in range(60)])
        repository = manager.session_repository
        guard = stores_of(repository).histories.locate_agent("s-1", "a").guard

        with witness.error(BulkWriteError):
            stores_of(repository).histories.move_oldest("s-1", "a", guard, ObjectId(), kept_bytes=0)

        (error,) = witness.errors
        assert error.details["writeErrors"][0]["code"] == 121
        assert "op" not in error.details["writeErrors"][0]


def test_what_stands_in_the_way(witness: Any, confidential: Confidential, observer: Client, database: str) -> None:
    manager = confidential.manager()
    manager.update_metadata({"mail": witness.secret("metadata")})
    with witness.error(UnstorableValueError):
        manager.update_metadata({"mail.of": 1})
    observer[database]["agent_sessions"].update_one({}, {"$set": {"agents": witness.secret("in the way")}})
    with witness.error(WriteError):
        confidential.agent(manager)


# Two writers, sessions that went, newer versions


def test_conflicts(witness: Any, confidential: Confidential) -> None:
    first, second = confidential.manager(), confidential.manager()
    one, other = confidential.agent(first), confidential.agent(second)
    one(confidential.message()["content"])
    with witness.error(SessionConflictError):
        other(confidential.message()["content"])
    with witness.error(SessionConflictError):
        second.append_message(confidential.message(), other)
    with witness.error(SessionConflictError):
        second.flush()

    (error, *_) = witness.errors
    assert error.pending
    witness.hear(second.health)


def test_what_is_not_there(witness: Any, confidential: Confidential, observer: Client, database: str) -> None:
    manager = confidential.manager()
    agent = confidential.agent(manager)
    with witness.error(MessageNotFoundError):
        manager.add_feedback({**confidential.feedback(), "agent_id": "a", "message_id": 99})
    with witness.error(MessageNotFoundError):
        manager.add_feedback({**confidential.feedback(), "tracking_id": "none"})
    with witness.error(AgentNotFoundError):
        manager.update_agent_config("b", system_prompt=witness.secret("prompt"))
    observer[database]["agent_sessions"].update_one({}, {"$set": {"schema_version": 99}})
    with witness.error(SchemaVersionError):
        confidential.manager()
    manager.session_repository.delete_session("s-1")
    with witness.error(SessionNotFoundError):
        manager.update_metadata(confidential.metadata())
    with witness.error(SessionNotFoundError):
        manager.add_feedback(confidential.feedback())
    with witness.error(SessionNotFoundError):
        manager.append_message(confidential.message(), agent)


def test_closed_managers(witness: Any, confidential: Confidential) -> None:
    manager = confidential.manager()
    agent = confidential.agent(manager)
    manager.close()
    for attempt in (
        lambda: manager.update_metadata(confidential.metadata()),
        lambda: manager.add_feedback(confidential.feedback()),
        lambda: manager.append_message(confidential.message(), agent),
        lambda: agent(confidential.message()["content"]),
    ):
        with witness.error(MongoDBSessionError):
            attempt()


def test_a_second_agent_object(witness: Any, confidential: Confidential) -> None:
    manager = confidential.manager()
    first = confidential.agent(manager)
    with witness.error(MongoDBSessionError):
        confidential.agent(manager)
    assert first.messages == []


def test_the_repository_refuses(witness: Any, confidential: Confidential) -> None:
    manager = confidential.manager()
    confidential.agent(manager)
    repository = manager.session_repository
    state = {"pin": witness.secret("state")}
    agent = SessionAgent(agent_id="a", state=state, conversation_manager_state={})
    message = SessionMessage(message=confidential.message(), message_id=0)
    with witness.error(SessionConflictError):
        repository.create_session(Session(session_id="s-1", session_type=SessionType.AGENT))
    with witness.error(SessionConflictError):
        repository.create_agent("s-1", agent)
    with witness.error(AgentNotFoundError):
        repository.update_agent("s-1", SessionAgent(agent_id="b", state=state, conversation_manager_state={}))
    with witness.error(MessageNotFoundError):
        repository.update_message("s-1", "a", message)
    repository.create_message("s-1", "a", message)
    with witness.error(SessionConflictError):
        repository.create_message("s-1", "a", SessionMessage(message=confidential.message(), message_id=0))
    stores_of(repository).multi_agents.write_multi_agent("s-1", "m", state, create=True)
    with witness.error(SessionConflictError):
        stores_of(repository).multi_agents.write_multi_agent("s-1", "m", state, create=True)
    with witness.error(AgentNotFoundError):
        stores_of(repository).multi_agents.write_multi_agent("s-1", "n", state)
    write = AgentWrite("a", [{"message_id": 0, "content": witness.secret("text")}], data=state)
    witness.hear(write, agent.agent_id, repository.read_session("s-1"))


# What cannot be stored


def unstorable(secret: str) -> list[Any]:
    holding_itself: dict[str, Any] = {"said": secret}
    holding_itself["again"] = holding_itself
    return [
        {secret, "in a set"},
        {"deep": [{"er": Decimal(1)}, secret]},
        {(secret, 1): secret},
        {secret.encode(): secret},
        [secret, object()],
        {"text": [secret, {(5,): secret}]},
        holding_itself,
        type("Odd", (), {"__repr__": lambda _: secret})(),
    ]


@pytest.mark.parametrize("number", range(len(unstorable(""))))
def test_values_that_cannot_be_stored(witness: Any, confidential: Confidential, number: int) -> None:
    manager = confidential.manager()
    agent = confidential.agent(manager)
    value = unstorable(witness.secret("unstorable"))[number]
    message = confidential.message()
    message["content"].append({"json": value})
    attempts: list[Callable[[], object]] = [
        lambda: manager.append_message(message, agent),
        lambda: manager.redact_latest_message(message, agent),
        lambda: manager.update_metadata({"mail": value}),
        lambda: manager.add_feedback({"comment": value}),
        lambda: manager.set_prompt_metadata("a", {"of": value}),
        lambda: manager._stores.multi_agents.write_multi_agent("s-1", "m", {"of": value}, create=True),
        lambda: confidential.agent(manager, agent_id="b", messages=[message]),
        lambda: confidential.agent(manager, {"toolUse": {"toolUseId": "t", "name": "odd", "input": {"of": value}}})(
            "Go"
        ),
    ]
    manager.append_message(confidential.message(), agent)
    for attempt in attempts[:-1]:
        with witness.error(UnstorableValueError):
            attempt()
    with suppress_and_hear(witness):
        attempts[-1]()
    witness.hear(manager.get_metadata_tool()(action="update", metadata={"mail": value}))


def test_arguments_of_a_wrong_type(witness: Any, confidential: Confidential) -> None:
    manager = confidential.manager()
    secret = witness.secret("argument")
    for wrong in ([secret], {secret}, (secret,), secret.encode(), 5):
        with witness.error((TypeError, ValueError)):
            manager.update_metadata(wrong)  # type: ignore[arg-type]
        with witness.error((TypeError, ValueError)):
            manager.add_feedback(wrong)  # type: ignore[arg-type]
        with witness.error((TypeError, ValueError)):
            manager.set_prompt_metadata("a", wrong)  # type: ignore[arg-type]
        with witness.error((TypeError, ValueError)):
            manager.delete_metadata([wrong])  # type: ignore[list-item]
        with witness.error((TypeError, ValueError)):
            manager.add_feedback({"message_id": wrong if wrong != 5 else secret, "agent_id": "a"})
        with witness.error((TypeError, ValueError)):
            manager.add_feedback({"tracking_id": wrong})
        with witness.error((TypeError, ValueError)):
            manager.update_agent_config("a", system_prompt=wrong)  # type: ignore[arg-type]
    for mapping in ({"mail": secret}, {(secret,): 1}):
        with witness.error((TypeError, ValueError)):
            manager.delete_metadata(mapping)  # type: ignore[arg-type]
        with witness.error((TypeError, ValueError)):
            manager.delete_metadata([mapping])  # type: ignore[list-item]
    with witness.error(ValueError):
        manager.update_metadata({(secret,): 1})  # type: ignore[dict-item]
    with witness.error(ValueError):
        manager.update_metadata({"a": secret, "a.b": secret})
    with witness.error(ValueError):
        manager.add_feedback({"created_at": secret})
    witness.hear(manager.get_metadata_tool()(action="update", metadata=f'{{"mail": "{secret}"'))


@pytest.mark.parametrize("size", [17_000_000, 60_000_000])
def test_values_that_are_too_large(witness: Any, confidential: Confidential, size: int) -> None:
    manager = confidential.manager()
    agent = confidential.agent(manager)
    secret = witness.secret("large")
    large = secret * (size // len(secret))
    with witness.error(SessionTooLargeError):
        manager.update_metadata({"mail": large})
    with witness.error(SessionTooLargeError):
        manager.add_feedback({"comment": large})
    with suppress_and_hear(witness):
        manager.append_message({"role": "user", "content": [{"text": large}]}, agent)


# Where to connect


def test_a_server_that_is_not_there(witness: Any, confidential: Confidential, nobodys_port: int) -> None:
    uri = f"mongodb://user:{witness.secret('password')}@127.0.0.1:{nobodys_port}/?serverSelectionTimeoutMS=50"
    with witness.error(PyMongoError):
        MongoDBSessionManager("s-1", uri)
    with MongoDBSessionManagerFactory(uri) as factory:
        with witness.error(PyMongoError):
            factory.create_session_manager("s-1")
        with witness.error(PyMongoError):
            asyncio.run(entered(factory))
        witness.hear(factory, factory.get_connection_stats())
    MongoDBConnectionPool.initialize(uri)
    try:
        witness.hear(MongoDBConnectionPool.get_pool_stats(), MongoDBConnectionPool.get_client())
    finally:
        MongoDBConnectionPool.close()
    with closing(MongoDBSessionRepository(uri)) as repository, witness.error(PyMongoError):
        repository.update_metadata("s-1", confidential.metadata())
    with witness.error(TypeError):
        MongoDBSessionManager("s-1", client=object(), password=witness.secret("password"))  # type: ignore[arg-type]


async def entered(factory: MongoDBSessionManagerFactory) -> None:
    async with factory.session("s-1"):
        pass


BAD_STRINGS = [
    "mongodb://user:{}@host:notaport",
    "mongodb://user:{}/x@host",
    "mongodb://user:{}%@host",
    "mongodb://user:a:{}@host",
    "mongodb://user:a@{}@host",
    "mongodb://user:{}@",
    "mongodb://user:{}@host/a b.c",
    "mongodb://user:{}@/tmp/x.sock",
    "mongodb://user:{}@host/?tls=true&ssl=false",
    "mongodb+srv://user:{}@host:1/",
    "http://user:{}@host",
    "user:{}@host:1",
    "mongodb://host/?authMechanismProperties={}",
    "mongodb://host/?authMechanism=MONGODB-AWS&authMechanismProperties=FOO:{}",
    "mongodb://host/?tls=true&tlsCertificateKeyFile=/none&tlsCertificateKeyFilePassword={}",
    "mongodb://host/?tls=perhaps&tlsCertificateKeyFilePassword={}",
]


@pytest.mark.parametrize("uri", BAD_STRINGS)
def test_connection_strings_that_are_not_fit(witness: Any, uri: str) -> None:
    filled = uri.format(witness.secret("password"))
    for make in (MongoDBSessionManagerFactory, MongoDBConnectionPool.initialize, repository_of):
        with suppress_and_hear(witness):
            made: Any = make(filled)
            made.close()
    MongoDBConnectionPool.close()


def repository_of(uri: str) -> MongoDBSessionRepository:
    return MongoDBSessionRepository(uri)


BAD_OPTIONS: list[Callable[[str], dict[str, Any]]] = [
    lambda secret: {"passwrod": secret},
    lambda secret: {"password": secret.encode(), "username": "user"},
    lambda secret: {"password": [secret], "username": "user"},
    lambda secret: {"password": secret, "username": "user", "authMechanism": "X"},
    lambda secret: {"password": secret, "username": "user", "maxPoolSize": "many"},
    lambda secret: {"authMechanismProperties": secret},
    lambda secret: {"authMechanism": "MONGODB-OIDC", "authMechanismProperties": {"FOO": secret}},
    lambda secret: {"tls": True, "tlsCertificateKeyFile": "/none", "tlsCertificateKeyFilePassword": secret},
    lambda secret: {"tlsCertificateKeyFilePassword": [secret]},
    lambda secret: {"auto_encryption_opts": {"kms": secret}},
]


@pytest.mark.parametrize("options", BAD_OPTIONS)
def test_options_that_are_not_fit(witness: Any, options: Callable[[str], dict[str, Any]]) -> None:
    with witness.error((TypeError, ValueError, ConfigurationError, OSError)):
        MongoDBSessionManager("s-1", "mongodb://127.0.0.1:1", **options(witness.secret("password")))


HOOKS: list[tuple[Callable[..., Any], dict[str, Any]]] = [
    (create_feedback_sns_hook, dict.fromkeys(("topic_arn_good", "topic_arn_bad", "topic_arn_neutral"), "none")),
    (create_metadata_sqs_hook, {"queue_url": "http://localhost/1/q"}),
    (create_metadata_websocket_hook, {"api_gateway_endpoint": "http://localhost/prod"}),
]
# As much of a connection string as may be given.
PARTS = ["mongodb://user:{}@host/shop", "user:{}@host", "https://user:{}/x@host", "ftp://user:{}/x@host"]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(("make", "arguments"), HOOKS)
def test_a_connection_string_as_an_argument_of_a_hook(
    witness: Any, make: Callable[..., Any], arguments: dict[str, Any], part: str
) -> None:
    uri = part.format(witness.secret("password"))
    of_prefixes = {f"{kind}_prefix_{name}" for kind in ("subject", "body") for name in ("good", "bad", "neutral")}
    for name in {*arguments, "region", "delivery", "endpoint_url", *of_prefixes}:
        for wrong in (uri, [uri], {uri: 1}):
            with suppress_and_hear(witness):
                make(**{**arguments, name: wrong})


def test_a_connection_string_as_an_argument_of_a_call(witness: Any, confidential: Confidential) -> None:
    manager = confidential.manager()
    uri = PARTS[0].format(witness.secret("password"))
    with witness.error(ValueError):
        manager.list_messages("a", json_safe=uri)  # type: ignore[arg-type]
    witness.hear(manager.get_metadata_tool()(action=uri))
    repository: Any = manager.session_repository
    for call in (repository.update_metadata, repository.delete_metadata, repository.add_feedback):
        with witness.error(ValueError):
            call(uri, "swapped")


# Hooks


class Hook:
    """A hook that cannot deliver what it was told, and says what that was."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def __call__(self, original_func: Callable[..., Any], action: str, session_id: str, **kwargs: Any) -> Any:
        self.told.append(repr(kwargs))
        return original_func()

    def flush(self, timeout: float | None = None) -> None:
        raise ConnectionError(f"not delivered: {self.told}")


def test_a_hook_that_does_not_deliver(witness: Any, confidential: Confidential, mongo_client: Client) -> None:
    hook = Hook()
    factory = MongoDBSessionManagerFactory(client=mongo_client, metadata_hook=hook, feedback_hook=hook)
    manager = factory.create_session_manager(f"s-{ObjectId()}")
    manager.update_metadata(confidential.metadata())
    manager.add_feedback(confidential.feedback())
    manager.delete_session()
    factory.close()

    assert [record for record in witness.records if "did not close" in record.getMessage()]


@pytest.fixture
def no_aws(monkeypatch: pytest.MonkeyPatch, nobodys_port: int) -> str:
    """An endpoint at which no AWS answers."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return f"http://127.0.0.1:{nobodys_port}"


def test_notifications_that_do_not_arrive(witness: Any, confidential: Confidential, no_aws: str) -> None:
    topic = "arn:aws:sns:eu-west-1:123456789012:topic"
    feedback_hook = create_feedback_sns_hook(topic, topic, topic, endpoint_url=no_aws)
    metadata_hook = create_metadata_sqs_hook(f"{no_aws}/123456789012/queue", region="eu-west-1", endpoint_url=no_aws)
    manager = confidential.manager(feedback_hook=feedback_hook, metadata_hook=metadata_hook)
    manager.update_metadata(confidential.metadata())
    manager.add_feedback(confidential.feedback())
    manager.close()

    warned = [record for record in witness.records if record.levelno >= logging.WARNING]
    assert {record.name.rpartition(".")[2] for record in warned} == {"dispatcher"}
    witness.hear(feedback_hook, metadata_hook)
