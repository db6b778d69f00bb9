"""Conversations of every kind that go on side by side while something happens to their servers."""

import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import product
from typing import Any

from tests.faults.conversation import LONGEST_WAIT, Conversation, Converse

DURABILITIES = ("sync", "async", "exit")
CHOICES = ("raise", "degrade")
# Between two turns, so that not everything that the machine can do goes into them.
PAUSE = 0.05


class Stream:
    """Conversations that talk, each on a thread of its own.

    Args:
        conversations: They belong to the threads until those have ended.
    """

    def __init__(self, conversations: Sequence[Conversation]) -> None:
        self.conversations = conversations
        self._threads: list[Future[None]] = []
        self._stopped = threading.Event()

    @contextmanager
    def talking(self) -> Iterator[None]:
        """Let them talk for the time of a ``with``; what is no error of the driver's ends it."""
        with ThreadPoolExecutor(len(self.conversations)) as executor:
            self._threads = [executor.submit(self._talk, conversation) for conversation in self.conversations]
            try:
                yield
            finally:
                self._stopped.set()
        for thread in self._threads:
            thread.result()

    def _talk(self, conversation: Conversation) -> None:
        while not self._stopped.wait(PAUSE):
            conversation.turn(with_tool=conversation.turns % 2 == 0)

    def wait_for_turns(self, number: int = 3) -> None:
        """Wait until each was acknowledged so many turns more."""
        wanted = [conversation.acknowledged_turns + number for conversation in self.conversations]
        self._wait(lambda: all(c.acknowledged_turns >= n for c, n in zip(self.conversations, wanted, strict=True)))

    def wait_for_trouble(self) -> None:
        """Wait until each has noticed that something is wrong."""
        known = [len(conversation.errors) for conversation in self.conversations]

        def noticed(conversation: Conversation, errors: int) -> bool:
            if conversation.degrades:
                return not conversation.manager.health["ok"]
            return len(conversation.errors) > errors

        self._wait(lambda: all(noticed(c, n) for c, n in zip(self.conversations, known, strict=True)))

    def _wait(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + LONGEST_WAIT
        while not condition():
            for thread in self._threads:
                if thread.done():
                    thread.result()
            assert time.monotonic() < deadline, [
                (c.turns, c.acknowledged_turns, c.errors[-1:]) for c in self.conversations
            ]
            time.sleep(0.02)

    def check(self) -> None:
        """Once each was stored again, nothing is lost, doubled or mixed."""
        for conversation in self.conversations:
            conversation.talk_until_acknowledged()
            conversation.check()


def stream_of(converse: Converse, **options: Any) -> Stream:
    """Begin a conversation for each durability and each choice of what an error does."""
    name = uuid.uuid4().hex[:8]
    options = {"heartbeatFrequencyMS": 500, "serverSelectionTimeoutMS": 500, **options}
    kinds = product(DURABILITIES, CHOICES)
    return Stream([converse(*kind, session_id="-".join((name, *kind)), **options) for kind in kinds])
