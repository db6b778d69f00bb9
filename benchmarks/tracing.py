"""Which functions run while an agent's answer is stored."""

import asyncio
import sys
import threading
import uuid
from pathlib import Path
from types import FrameType
from typing import Any

from pymongo import MongoClient
from strands import Agent
from strands.hooks import MessageAddedEvent

from mongodb_session_manager import MongoDBSessionManager
from mongodb_session_manager.testing import ScriptedModel, running_mongodb

# So that the window is full, and the answer is nothing special.
TURNS_BEFORE = 30


class Tracer:
    """Notes each call of a function of a package, on all threads, in order."""

    def __init__(self, package: Path) -> None:
        self._package, self._testing = str(package.resolve()), str(package.resolve() / "testing")
        self.passed: list[tuple[str, str]] = []
        self.is_on = False

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        if not self.is_on or event != "call":
            return
        code = frame.f_code
        # A comprehension or a lambda is a part of the function that it stands in.
        is_ours = code.co_filename.startswith(self._package) and not code.co_filename.startswith(self._testing)
        if is_ours and not code.co_name.startswith("<"):
            self.passed.append((code.co_filename, f"{code.co_name}:{code.co_firstlineno}"))


def traced_answer(package: Path) -> list[tuple[str, str]]:
    """Return file and name of each function that ran from the announcement of an answer until it was acknowledged."""
    with running_mongodb() as server:
        return asyncio.run(_traced(server if isinstance(server, str) else server.uri, Tracer(package)))


async def _traced(uri: str, tracer: Tracer) -> list[tuple[str, str]]:
    threading.setprofile(tracer)
    client: MongoClient[dict[str, Any]] = MongoClient(uri)
    database = f"benchmark_{uuid.uuid4().hex}"
    manager = MongoDBSessionManager("session", client=client, database_name=database)
    try:
        model = ScriptedModel(default="answer")
        agent = Agent(model=model, session_manager=manager, callback_handler=None)
        for _ in range(TURNS_BEFORE):
            await agent.invoke_async("prompt")
        await manager.aflush()
        switch = _Switch(tracer)
        agent.hooks.add_callback(MessageAddedEvent, switch.end, order=1_000)
        agent.hooks.add_callback(MessageAddedEvent, switch.begin, order=-1_000)
        sys.setprofile(tracer)
        await agent.invoke_async("prompt")
        return tracer.passed
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
        manager.close()
        client.drop_database(database)
        client.close()


class _Switch:
    """Has only the answer traced, from before the manager's own callback to after it."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    async def begin(self, event: MessageAddedEvent) -> None:
        self._tracer.is_on = event.message["role"] == "assistant"

    async def end(self, event: MessageAddedEvent) -> None:
        self._tracer.is_on = False
