"""Histories with changes that are not acknowledged, and how long those are kept that no manager holds any more.

A manager that is dropped after a failed turn leaves its history behind: it is sent when the server is back, or when the
interpreter ends. Only so many are kept, for so long, and none that a newer history of the same agent went past: who
asked again goes on from what that one stored. What a living manager holds is never given up.
"""

import _thread
import logging
import threading
import time
import weakref
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator
from contextlib import suppress
from typing import Any, Final, Protocol

__all__ = ["LeftBehind", "Unsent"]

logger = logging.getLogger(__name__)

# How many histories, and for how many seconds.
MAX_LEFT: Final = 100
LEFT_SECONDS: Final = 600.0


class Unsent(Protocol):
    """A history.

    Attributes:
        key: Tells which agent it is of: client, namespace, session and agent.
        number: Newer ones have higher numbers.
        is_passed: Whether a newer one of the same agent has stored something.
    """

    key: Hashable
    number: int
    is_passed: bool

    @property
    def pending(self) -> int:
        """The number of changes that are not acknowledged."""

    def give_up(self) -> None:
        """Forget what is not sent, and tell of it."""


class LeftBehind:
    """The histories of a process that have something to send."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all, as after a fork: what waits is the parent's."""
        self._lock = threading.Lock()
        self._unsent: defaultdict[Hashable, set[Unsent]] = defaultdict(set)
        # Since when nobody holds them.
        self._left: dict[Unsent, float] = {}
        self._is_watching = False

    def add(self, history: Unsent) -> None:
        """Keep a history, whoever drops it."""
        with self._lock:
            self._unsent[history.key].add(history)

    def discard(self, history: Unsent) -> None:
        """Keep it no longer than somebody holds it."""
        with self._lock:
            self._left.pop(history, None)
            of_agent = self._unsent[history.key]
            of_agent.discard(history)
            if not of_agent:
                del self._unsent[history.key]

    def __iter__(self) -> Iterator[Any]:
        with self._lock:
            return iter([history for of_agent in self._unsent.values() for history in of_agent])

    def held_by(self, history: Unsent, holder: object) -> None:
        """Note who holds a history; when that is gone, nobody does."""
        weakref.finalize(holder, self._leave, weakref.ref(history)).atexit = False

    def _leave(self, of: "Callable[[], Unsent | None]") -> None:
        # The garbage collector calls, in any thread, which may hold any lock.
        history = of()
        if history is not None and history.pending:
            with suppress(RuntimeError):  # the interpreter ends, and what is left is sent
                _thread.start_new_thread(self._watch, (of,))

    def passed_by(self, history: Unsent) -> None:
        """A history has stored something: older ones of its agent are not sent any more once nobody holds them."""
        with self._lock:
            older = [other for other in self._unsent.get(history.key, ()) if other.number < history.number]
            for other in older:
                other.is_passed = True
            left = [other for other in older if other in self._left]
        for other in left:
            other.give_up()

    # On a thread of its own

    def _watch(self, of: "Callable[[], Unsent | None]") -> None:
        self._note(of())
        self._look()
        with self._lock:
            is_watching, self._is_watching = self._is_watching, True
        while not is_watching and (pause := self._pause()) is not None:
            time.sleep(pause)
            self._look()

    def _note(self, history: Unsent | None) -> None:
        with self._lock:
            if history is not None and history in self._unsent.get(history.key, ()):
                self._left[history] = time.monotonic()

    def _pause(self) -> float | None:
        """Return the seconds to the next look; None where there is nothing to look after any more."""
        with self._lock:
            if not self._left:
                self._is_watching = False
                return None
            return max(min(self._left.values()) + LEFT_SECONDS - time.monotonic(), 0.0) + 0.01

    def _look(self) -> None:
        with self._lock:
            too_old = time.monotonic() - LEFT_SECONDS
            oldest = sorted(self._left, key=self._left.__getitem__)
            too_many = oldest[: max(len(oldest) - MAX_LEFT, 0)]
            given_up = {h for h in oldest if h.is_passed or self._left[h] <= too_old} | set(too_many)
        for history in given_up:  # not under the lock: it takes locks of its own
            history.give_up()
