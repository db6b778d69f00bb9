"""TLS, passwords and client certificates, on a server that lets nobody in without them."""

import asyncio
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pymongo.errors import OperationFailure, ServerSelectionTimeoutError
from strands import Agent

from mongodb_session_manager import (
    MongoDBConnectionPool,
    MongoDBSessionManager,
    MongoDBSessionManagerFactory,
    MongoDBSessionRepository,
    close_global_factory,
    get_global_factory,
    initialize_global_factory,
)
from mongodb_session_manager.mongodb_session_repository import stores_of
from mongodb_session_manager.testing import ScriptedModel

USER_NOT_FOUND, AUTHENTICATION_FAILED = 11, 18
X509 = "MONGODB-X509"
SHORT: dict[str, Any] = {"serverSelectionTimeoutMS": 400}

Connection = tuple[str, dict[str, Any]]


def by_certificate(server: Any, certificate: Path) -> dict[str, Any]:
    return {**server.tls, "tlsCertificateKeyFile": str(certificate), "authMechanism": X509}


# Each way to say the same, in a connection string and by keyword.
WAYS: dict[str, Callable[[Any], Connection]] = {
    "password, string": lambda s: (s.uri_of("app"), {}),
    "password, string with mechanism": lambda s: (
        f"{s.uri_of('app')}&authMechanism=SCRAM-SHA-256&authSource=admin",
        {},
    ),
    "password, options": lambda s: (
        s.uri,
        {**s.tls, "username": "app", "password": s.password, "authMechanism": "SCRAM-SHA-256"},
    ),
    "certificate, string": lambda s: (
        f"{s.uri}&tls=true&tlsCAFile={s.authority.path}&tlsCertificateKeyFile={s.certificate}&authMechanism={X509}",
        {},
    ),
    "certificate, options": lambda s: (s.uri, by_certificate(s, s.certificate)),
    "certificate under a password, options": lambda s: (
        s.uri,
        {**by_certificate(s, s.sealed_certificate), "tlsCertificateKeyFilePassword": s.password},
    ),
    "both, options": lambda s: (s.uri_of("app"), {"tlsCertificateKeyFile": str(s.certificate)}),
}


@pytest.fixture(params=WAYS)
def connection(request: pytest.FixtureRequest, secured: Any, witness: Any) -> Connection:
    witness.keep("password", secured.password)
    return WAYS[request.param](secured)


def talk(manager: MongoDBSessionManager) -> int:
    """Have a turn of conversation, and return how many messages there were before it."""
    agent = Agent(model=ScriptedModel(default="Okay."), agent_id="a", session_manager=manager, callback_handler=None)
    restored = len(agent.messages)
    agent("Hello")
    manager.update_metadata({"seen": True})
    return restored


def test_a_manager(connection: Connection, secured: Any, session_id: str) -> None:
    uri, options = connection
    for restored in (0, 2):
        with MongoDBSessionManager(session_id, uri, secured.database, **options) as manager:
            assert talk(manager) == restored


def test_a_repository(connection: Connection, secured: Any, session_id: str) -> None:
    uri, options = connection
    with closing(MongoDBSessionRepository(uri, secured.database, **options)) as repository:
        assert stores_of(repository).sessions.open_session(session_id).created
        assert repository.delete_session(session_id)


def test_the_pool(connection: Connection, secured: Any, session_id: str, witness: Any) -> None:
    uri, options = connection
    client = MongoDBConnectionPool.initialize(uri, **options)
    try:
        for restored in (0, 2):
            with MongoDBSessionManager(session_id, client=client, database_name=secured.database) as manager:
                assert talk(manager) == restored
        stats = MongoDBConnectionPool.get_pool_stats()
        assert stats["status"] == "connected"
        witness.hear(stats)  # the client itself tells the password of a key: that is pymongo's representation
    finally:
        MongoDBConnectionPool.close()


def test_a_factory_and_its_sessions(connection: Connection, secured: Any, session_id: str, witness: Any) -> None:
    uri, options = connection

    async def answer(factory: MongoDBSessionManagerFactory) -> int:
        async with factory.session(session_id, agent_ids=["a"]) as manager:
            agent = Agent(
                model=ScriptedModel(default="Okay."), agent_id="a", session_manager=manager, callback_handler=None
            )
            restored = len(agent.messages)
            await agent.invoke_async("Hello")
            return restored

    with MongoDBSessionManagerFactory(uri, secured.database, **options) as factory:
        with factory.create_session_manager(session_id) as manager:
            assert talk(manager) == 0
        assert asyncio.run(answer(factory)) == 2
        stats = factory.get_connection_stats()
        assert stats["status"] == "connected"
        witness.hear(stats, factory)


def test_the_global_factory(connection: Connection, secured: Any, session_id: str) -> None:
    uri, options = connection
    initialize_global_factory(uri, secured.database, **options)
    try:
        with get_global_factory().create_session_manager(session_id) as manager:
            assert talk(manager) == 0
    finally:
        close_global_factory()


@pytest.fixture
def session_id(request: pytest.FixtureRequest) -> str:
    return str(request.node.name)


# Who is not let in


@pytest.fixture(scope="session")
def others(secured: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Another authority, whom the server does not trust."""
    return type(secured.authority)(tmp_path_factory.mktemp("others"), "other-ca")


REFUSED: dict[str, tuple[int | None, Callable[[Any, Any, str], Connection]]] = {
    "a wrong password": (AUTHENTICATION_FAILED, lambda s, _, wrong: (s.uri_of("app", wrong), {})),
    "a wrong password, options": (
        AUTHENTICATION_FAILED,
        lambda s, _, wrong: (s.uri, {**s.tls, "username": "app", "password": wrong}),
    ),
    "nobody's name": (AUTHENTICATION_FAILED, lambda s, _, wrong: (s.uri_of("nobody", wrong), {})),
    "a wrong database of users": (
        AUTHENTICATION_FAILED,
        lambda s, *_: (f"{s.uri_of('app')}&authSource=elsewhere", {}),
    ),
    "a certificate of nobody": (
        USER_NOT_FOUND,
        lambda s, *_: (s.uri, by_certificate(s, s.authority.issue("nobody"))),
    ),
    "a certificate of another authority": (
        None,
        lambda s, others, _: (s.uri, by_certificate(s, others.issue("app"))),
    ),
    "an authority that did not sign": (
        None,
        lambda s, others, _: (s.uri, {**by_certificate(s, s.certificate), "tlsCAFile": str(others.path)}),
    ),
    "an authority that did not sign, with a password": (
        None,
        lambda s, others, _: (s.uri, {"tls": True, "tlsCAFile": str(others.path), **password_of(s)}),
    ),
    "no authority": (None, lambda s, *_: (s.uri, {"tls": True, **password_of(s)})),
    "no TLS": (None, lambda s, *_: (s.uri, password_of(s))),
}


def password_of(server: Any) -> dict[str, Any]:
    return {"username": "app", "password": server.password}


@pytest.mark.parametrize("name", REFUSED)
def test_who_is_not_let_in(secured: Any, others: Any, witness: Any, session_id: str, name: str) -> None:
    witness.keep("password", secured.password)
    code, way = REFUSED[name]
    uri, options = way(secured, others, witness.secret("wrong password"))
    error: type[Exception] = ServerSelectionTimeoutError if code is None else OperationFailure
    started = time.monotonic()

    with witness.error(error):
        MongoDBSessionManager(session_id, uri, secured.database, **options, **SHORT)
    with MongoDBSessionManagerFactory(uri, secured.database, **options, **SHORT) as factory:
        with witness.error(error):
            factory.create_session_manager(session_id)
        witness.hear(factory.get_connection_stats())

    assert time.monotonic() - started < 30  # far from what drivers wait without the option
    assert {getattr(one, "code", None) for one in witness.errors} == {code}


def test_a_key_that_cannot_be_read(secured: Any, witness: Any) -> None:
    options = {
        **by_certificate(secured, secured.sealed_certificate),
        "tlsCertificateKeyFilePassword": witness.secret("wrong password"),
    }
    with witness.error(Exception):
        MongoDBSessionManager("s-1", secured.uri, secured.database, **options, **SHORT)

    (error,) = witness.errors
    assert type(error).__module__.split(".")[0] == "pymongo"


def test_without_a_name_nothing_is_allowed(secured: Any, witness: Any) -> None:
    with witness.error(OperationFailure):
        MongoDBSessionManager("s-1", secured.uri, secured.database, **secured.tls, **SHORT)
