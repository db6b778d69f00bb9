"""Has the writes of several histories wait at one moment, so that they go out together."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mongodb_session_manager._client.handle import ClientHandle
from mongodb_session_manager._history import group_commit as _group_commit


@contextmanager
def held_up(client: Any) -> Iterator[Callable[[], int]]:
    """Keep a client's threads from beginning anything for the time of a ``with``; gives how many wait to be sent."""
    handle = ClientHandle.of(client)
    executor, released = handle.executor, threading.Event()
    present = threading.Barrier(executor._max_workers + 1)

    def stand_by() -> None:
        present.wait()
        released.wait()

    for _ in range(executor._max_workers):
        executor.submit(stand_by)
    present.wait()
    try:
        yield lambda: sum(len(group._line._waiting) for group in _group_commit._groups.get(executor, {}).values())
    finally:
        released.set()
