"""Waiting for what happens in other threads and tasks, and watching what it costs."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from pymongo import MongoClient
from pymongo.errors import InvalidOperation

from mongodb_session_manager._stores.indexes import THREAD_NAME
from mongodb_session_manager.testing import CommandLog


def eventually(condition: Callable[[], Any], seconds: float = 15) -> bool:
    """Wait until something holds, and tell whether it does."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def wait_for_indexes() -> None:
    """Wait until the indexes are made that were asked for."""
    assert eventually(lambda: THREAD_NAME not in {thread.name for thread in threading.enumerate()}, 30)


async def until(condition: Callable[[], bool], seconds: float = 10) -> bool:
    """Wait as ``eventually()`` does, while the event loop goes on."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.005)
    return True


@asynccontextmanager
async def ticking() -> AsyncIterator[list[float]]:
    """Give the times at which a task got its turn."""
    ticks: list[float] = []

    async def tick() -> None:
        while True:
            ticks.append(time.monotonic())
            await asyncio.sleep(0.01)

    task = asyncio.create_task(tick())
    try:
        yield ticks
    finally:
        task.cancel()


def cost(log: CommandLog) -> tuple[int, int, int]:
    """Tell writes, reads and everything else."""
    return log.writes, log.reads, len(log.commands) - log.writes - log.reads


def answers(client: MongoClient[dict[str, Any]]) -> bool:
    """Tell whether the client is still open."""
    try:
        return bool(client.admin.command("ping")["ok"])
    except InvalidOperation:
        return False
