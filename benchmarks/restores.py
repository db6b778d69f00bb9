"""What a restore costs whose messages have moved to segments: ``python benchmarks/restores.py --help``."""

import argparse
import uuid
from collections.abc import Sequence
from contextlib import closing
from statistics import median
from time import perf_counter
from typing import Any

from bson import ObjectId
from pymongo import MongoClient
from report import new_table
from rich.console import Console
from strands import Agent
from strands.agent.conversation_manager import NullConversationManager
from strands.types.content import Message

from mongodb_session_manager import MongoDBSessionManager
from mongodb_session_manager.mongodb_session_repository import stores_of
from mongodb_session_manager.testing import CommandCounter, ScriptedModel, running_mongodb

AT_MOST = 1.3
EMBEDDED, MOVED = "all in the document", "most in segments"


def make_agent(manager: MongoDBSessionManager, messages: list[Message] | None = None) -> Agent:
    model, keeping_all = ScriptedModel(default="Okay."), NullConversationManager()
    return Agent(
        model=model, messages=messages, conversation_manager=keeping_all, session_manager=manager, callback_handler=None
    )


def messages_of(count: int) -> list[Message]:
    return [
        {"role": "assistant" if number % 2 else "user", "content": [{"text": f"{number:06} ".ljust(500, ".")}]}
        for number in range(count)
    ]


def fill(client: MongoClient[dict[str, Any]], database: str, count: int) -> None:
    """Store the same history twice, and move most of the second one."""
    for session_id in (EMBEDDED, MOVED):
        with closing(MongoDBSessionManager(session_id, client=client, database_name=database)) as manager:
            make_agent(manager, messages_of(count))
            if session_id == MOVED:
                repository = manager.session_repository
                guard = stores_of(repository).histories.locate_agent(session_id, "default").guard
                assert stores_of(repository).histories.move_oldest(session_id, "default", guard, ObjectId())


def restore(client: MongoClient[dict[str, Any]], database: str, session_id: str, count: int) -> float:
    with closing(MongoDBSessionManager(session_id, client=client, database_name=database)) as manager:
        started = perf_counter()
        agent = make_agent(manager)
        taken = perf_counter() - started
        assert len(agent.messages) == count
    return taken


def measure(uri: str, count: int, rounds: int) -> dict[str, list[float]]:
    database, counter = f"bench_{uuid.uuid4().hex}", CommandCounter()
    client: MongoClient[dict[str, Any]] = MongoClient(uri, event_listeners=[counter])
    taken: dict[str, list[float]] = {EMBEDDED: [], MOVED: []}
    try:
        fill(client, database, count)
        for number in range(rounds):
            for session_id in sorted(taken, reverse=bool(number % 2)):
                taken[session_id].append(restore(client, database, session_id, count))
    finally:
        client.drop_database(database)
        client.close()
    return taken


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=5_000, help="of a history (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=21, help="restores of each kind (default: %(default)s)")
    chosen = parser.parse_args(arguments)
    with running_mongodb() as uri:
        taken = measure(uri, chosen.messages, chosen.rounds)
    title = f"Restoring {chosen.messages:,} messages; at most {AT_MOST}"
    table = new_table(title, ["history", "ms", "µs a message", "ratio"])
    least = median(taken[EMBEDDED])
    for name, times in taken.items():
        middle = median(times)
        table.add_row(name, f"{middle * 1000:.1f}", f"{middle / chosen.messages * 1e6:.1f}", f"{middle / least:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
