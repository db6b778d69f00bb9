"""What one client for the process and one write for each message save, counted and measured on your machine.

The times are ratios of two runs, one after the other. They depend on the machine and on the distance to the server.
``benchmarks/`` has the full comparison. Run it as it is: it needs no account and no network.
"""

import time
from collections.abc import Callable
from uuid import uuid4

from pymongo import MongoClient
from strands import Agent

from mongodb_session_manager import MongoDBSessionManager, MongoDBSessionManagerFactory
from mongodb_session_manager.testing import (
    CommandCounter,
    MongodNotFoundError,
    MongodStartError,
    ScriptedModel,
    running_mongodb,
)
from mongodb_session_manager.types import Durability

REQUESTS = 10


def main() -> None:
    session_id = f"performance-{uuid4()}"
    # The server in MONGODB_URI, or a private server that ends with this program.
    with running_mongodb() as uri:
        counter = CommandCounter()
        client: MongoClient[dict[str, object]] = MongoClient(uri, event_listeners=[counter])
        with client, MongoDBSessionManagerFactory(client=client) as factory:
            # 1. The cost of a request: open the session, restore the agent, one turn.
            print("operations of a request")
            modes: tuple[Durability, ...] = ("sync", "async", "exit")
            for durability in modes:
                talk(factory.create_session_manager(f"{session_id}-{durability}"))
                with counter.counting() as log:
                    talk(factory.create_session_manager(f"{session_id}-{durability}", durability=durability))
                print(f"  {durability + ':':<6} {log.reads} read, {log.writes} writes")

            # 2. The cost with a longer history: the same, and one write when the window of the conversation manager
            # moves. The turn does not wait for that write.
            talk(factory.create_session_manager(session_id), turns=25)
            with counter.counting() as log:
                talk(factory.create_session_manager(session_id))
            print(f"  after 25 turns: {log.reads} read, {log.writes} writes")

            # 3. The cost of a client for each request: connections, and the time to open them.
            shared = seconds(lambda: talk(factory.create_session_manager(session_id)))
        with MongoDBSessionManagerFactory(uri) as factory:
            factory.create_session_manager(session_id)
            opened = factory.get_connection_stats()["connections"]["created"]
        own = seconds(lambda: with_own_client(session_id, uri))
        print(f"{REQUESTS} requests")
        print(f"  one client:            1.0 times the time, {opened} connections or so")
        print(f"  a client each:         {own / shared:.1f} times the time, {REQUESTS} clients")

        with MongoDBSessionManagerFactory(uri) as factory:
            for suffix in ("", *(f"-{durability}" for durability in modes)):
                factory.create_session_manager(session_id + suffix).delete_session()


def talk(manager: MongoDBSessionManager, turns: int = 1) -> None:
    with manager:
        agent = Agent(model=ScriptedModel(default="Okay."), session_manager=manager, callback_handler=None)
        for _ in range(turns):
            agent("Hello")


def with_own_client(session_id: str, uri: str) -> None:
    talk(MongoDBSessionManager(session_id, uri))


def seconds(request: Callable[[], None]) -> float:
    request()  # the first request opens connections that the others share
    started = time.perf_counter()
    for _ in range(REQUESTS):
        request()
    return time.perf_counter() - started


if __name__ == "__main__":
    try:
        main()
    except (MongodNotFoundError, MongodStartError) as error:
        raise SystemExit(str(error)) from None
