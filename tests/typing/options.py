"""What type checkers say of users' calls: mypy checks this file with the others, and nobody runs it.

The lines with an ignore must be errors: ``warn_unused_ignores`` makes an error of an ignore that is not needed.
"""

from datetime import timedelta
from typing import Any

from pymongo import MongoClient

from mongodb_session_manager import (
    MongoDBConnectionPool,
    MongoDBSessionManager,
    MongoDBSessionManagerFactory,
    MongoDBSessionRepository,
    create_mongodb_session_manager,
    initialize_global_factory,
)

URI = "mongodb://localhost:27017/shop"


def hook(original_func: Any, action: str, session_id: str, **kwargs: Any) -> Any:
    return original_func()


def accepted(client: MongoClient[dict[str, Any]], options: dict[str, Any]) -> None:
    MongoDBSessionManager("s", URI)
    MongoDBSessionManager("s", client=client, durability="exit", on_error="degrade", exclusive=True, lease_timeout=0)
    MongoDBSessionManager("s", URI, tls=True, replicaSet="rs0", maxPoolSize=5, w="majority", appname="shop")
    MongoDBSessionManager("s", URI, serverSelectionTimeoutMS=100, username="u", password="p", tlsCAFile="ca.pem")
    MongoDBSessionManager("s", URI, metadataHook=hook, feedbackHook=[hook])
    MongoDBSessionManager("s", client=client, ttl=timedelta(days=30))
    MongoDBSessionManager("s", **options)
    create_mongodb_session_manager("s", URI, "shop", "sessions", metadata_hook=hook, durability="async", tls=True)
    create_mongodb_session_manager("s", client=client, feedbackHook=hook, lease_duration=5.5, ttl=None)
    MongoDBSessionRepository(URI, maxPoolSize=5, socketTimeoutMS=None)
    MongoDBConnectionPool.initialize(URI, maxPoolSize=5, retryWrites=False, event_listeners=[])
    initialize_global_factory(URI, durability="exit", metadata_hook=[hook], maxPoolSize=5, directConnection=True)


async def accepted_of_a_factory(client: MongoClient[dict[str, Any]], options: dict[str, Any]) -> None:
    factory = MongoDBSessionManagerFactory(URI, durability="exit", exclusive=True, lease_timeout=0, maxPoolSize=5)
    MongoDBSessionManagerFactory(client=client, feedback_hook=hook, metadataHook=hook, **options)
    factory.create_session_manager("s", database_name="shop", durability="sync", metadata_hook=None, create=False)
    factory.create_session_manager("s", ttl=timedelta(hours=1), **options)
    async with factory.session("s", agent_ids=["a"], exclusive=True, lease_timeout=0.0) as manager:
        manager.get_metadata()


def refused(client: MongoClient[dict[str, Any]]) -> None:
    MongoDBSessionManager("s", URI, durabilty="exit")  # type: ignore[call-arg]
    MongoDBSessionManager("s", URI, durability="exiit")  # type: ignore[arg-type]
    MongoDBSessionManager("s", URI, lease_timeout="10")  # type: ignore[arg-type]
    MongoDBSessionManager("s", URI, ttl=3600)  # type: ignore[arg-type]
    MongoDBSessionManager("s", URI, maxPoolSiez=5)  # type: ignore[call-arg]
    MongoDBSessionManager("s", URI, maxPoolSize="many")  # type: ignore[arg-type]
    MongoDBSessionManager("s", client=client["shop"])  # type: ignore[arg-type]
    create_mongodb_session_manager("s", URI, durabilty="exit")  # type: ignore[call-arg]
    create_mongodb_session_manager("s", URI, durability="exiit")  # type: ignore[arg-type]
    MongoDBSessionRepository(URI, durability="exit")  # type: ignore[call-arg]
    MongoDBConnectionPool.initialize(URI, maxPoolSiez=5)  # type: ignore[call-arg]
    initialize_global_factory(URI, durabilty="exit")  # type: ignore[call-arg]
    initialize_global_factory(URI, exclusive="yes")  # type: ignore[arg-type]


async def refused_of_a_factory(client: MongoClient[dict[str, Any]]) -> None:
    factory = MongoDBSessionManagerFactory(URI, durabilty="exit")  # type: ignore[call-arg]
    MongoDBSessionManagerFactory(URI, on_error="ignore")  # type: ignore[arg-type]
    factory.create_session_manager("s", durabilty="exit")  # type: ignore[call-arg]
    factory.create_session_manager("s", ttl="1h")  # type: ignore[arg-type]
    factory.create_session_manager("s", client=client)  # type: ignore[call-arg]
    factory.create_session_manager("s", maxPoolSize=5)  # type: ignore[call-arg]
    async with factory.session("s", exclusiv=True) as manager:  # type: ignore[call-arg]
        manager.get_metadata()
    with factory.session("s"):  # type: ignore[attr-defined]
        pass
