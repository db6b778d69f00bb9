"""Histories with changes that are not acknowledged, and how long those are kept that no manager holds any more.

A manager that is dropped after a failed turn leaves its history behind: it is sent when the server is back, or when the
interpreter ends. Only so many are kept, for so long, and none that a newer history of the same agent went past: who
asked again goes on from what that one stored. What a living manager holds is never given up.

After a fork the child sends none of them.
"""

import _thread
import itertools
import logging
import os
import threading
import time
import weakref
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Protocol

from .pending import PendingChanges

__all__ = ["ALL_UNSENT", "Entry", "LeftBehind", "Unsent", "flush_unsent", "is_behind", "note"]

logger = logging.getLogger(__name__)

# The number of histories without a holder that are kept, and for how many seconds.
MAX_LEFT: Final = 100
LEFT_SECONDS: Final = 600.0
# Seconds for all that is left when the interpreter ends: 10 together with a write that no caller waits for, and with
# the attempt to send the first in a shared command.
EXIT_TIMEOUT = 5.0

_numbers = itertools.count()


@dataclass(eq=False)
class Entry:
    """The entry of one history among those of a process.

    Attributes:
        key: Identifies its agent: client, namespace, session and agent.
        number: Newer ones have higher numbers.
        has_stored: Whether it has stored anything.
        is_passed: Whether a newer one of the same agent has stored something.
        holder: The object that uses it.
    """

    key: Hashable
    number: int = field(default_factory=lambda: next(_numbers))
    has_stored: bool = False
    is_passed: bool = False
    holder: "weakref.ref[object] | None" = None

    @property
    def is_left(self) -> bool:
        """Whether no object uses the history any more."""
        return self.holder is not None and self.holder() is None


class Unsent(Protocol):
    """A history.

    Attributes:
        session_id: The session.
        agent_id: The agent.
        entry: Its entry.
        queue: Its changes.
    """

    session_id: str
    agent_id: str
    entry: Entry
    queue: PendingChanges

    @property
    def pending(self) -> int:
        """The number of changes that are not acknowledged."""

    def make_locks(self) -> None:
        """Start with new locks."""

    def send_until(self, deadline: float) -> None:
        """Send what is pending, but no longer than until then, by the monotonic clock."""

    def give_up(self) -> None:
        """Forget what is not sent, and tell of it."""


class LeftBehind:
    """The histories of a process that have something to send."""

    def __init__(self) -> None:
        self.reset()

    def reset(self, most: int = MAX_LEFT, seconds: float = LEFT_SECONDS) -> None:
        """Forget all, as after a fork: what waits is the parent's.

        Args:
            most: The number of histories without a holder that are kept from now on.
            seconds: The time for which they are kept.
        """
        self._most, self._seconds = most, seconds
        self._lock = threading.Lock()
        self._unsent: defaultdict[Hashable, set[Unsent]] = defaultdict(set)
        # The time at which each lost its holder.
        self._left: dict[Unsent, float] = {}
        self._is_watching = False

    def add(self, history: Unsent) -> None:
        """Keep a history, also when its holder is gone."""
        with self._lock:
            self._unsent[history.entry.key].add(history)

    def discard(self, history: Unsent) -> None:
        """Keep it no longer than it is referenced."""
        with self._lock:
            self._discard(history)

    def _discard(self, history: Unsent) -> None:
        self._left.pop(history, None)
        of_agent = self._unsent[history.entry.key]
        of_agent.discard(history)
        if not of_agent:
            del self._unsent[history.entry.key]

    def __iter__(self) -> Iterator[Unsent]:
        with self._lock:
            return iter([history for of_agent in self._unsent.values() for history in of_agent])

    def held_by(self, history: Unsent, holder: object) -> None:
        """Note the holder of a history; when that is gone, the history is kept for a while."""
        history.entry.holder = weakref.ref(holder)
        weakref.finalize(holder, self._leave, weakref.ref(history)).atexit = False

    def _leave(self, of: "Callable[[], Unsent | None]") -> None:
        # The garbage collector calls, in any thread, which may hold any lock.
        history = of()
        if history is not None and history.pending:
            with suppress(RuntimeError):  # the interpreter ends, and what is left is sent
                _thread.start_new_thread(self._watch, (of,))

    def has_stored(self, history: Unsent) -> list[Unsent]:
        """Drop a history that has stored all, and note that it went past older ones of its agent.

        Returns:
            Those of them without a holder, to be given up.
        """
        with self._lock:
            if not history.queue.changes:
                self._discard(history)
            history.entry.has_stored = True
            older = [o for o in self._unsent.get(history.entry.key, ()) if o.entry.number < history.entry.number]
            for other in older:
                other.entry.is_passed = True
            return [other for other in older if other in self._left]

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
            if history is not None and history in self._unsent.get(history.entry.key, ()):
                self._left[history] = time.monotonic()

    def _pause(self) -> float | None:
        """Return the seconds to the next look; None if no history is left."""
        with self._lock:
            if not self._left:
                self._is_watching = False
                return None
            return max(min(self._left.values()) + self._seconds - time.monotonic(), 0.0) + 0.01

    def _look(self) -> None:
        with self._lock:
            too_old = time.monotonic() - self._seconds
            oldest = sorted(self._left, key=self._left.__getitem__)
            too_many = oldest[: max(len(oldest) - self._most, 0)]
            given_up = {h for h in oldest if h.entry.is_passed or self._left[h] <= too_old} | set(too_many)
        for history in given_up:  # not under the lock: it takes locks of its own
            history.give_up()


ALL_UNSENT: Final = LeftBehind()
_all: "weakref.WeakSet[Unsent]" = weakref.WeakSet()


def note(history: Unsent) -> None:
    """Note a history as long as it exists."""
    _all.add(history)


def is_behind(history: Unsent, *, idle: bool) -> bool:
    """Tell whether a newer history of the agent went past one, or might.

    Args:
        history: The history.
        idle: Whether a newer one that did nothing yet counts too.
    """
    entry, revision = history.entry, history.queue.guard.revision or 0
    newer = [other for other in list(_all) if other.entry.key == entry.key and other.entry.number > entry.number]
    return entry.is_passed or any(
        idle or other.entry.has_stored or other.pending or (other.queue.guard.revision or 0) > revision
        for other in newer
    )


def flush_unsent() -> None:
    """Send what all histories hold, from the thread that ends the interpreter: the others have ended."""
    deadline = time.monotonic() + EXIT_TIMEOUT
    # The newer ones first: they go past the older ones of their agents.
    for history in sorted(ALL_UNSENT, key=lambda history: -history.entry.number):
        try:
            if is_behind(history, idle=False):
                history.give_up()
            history.send_until(deadline)
        except Exception as error:  # noqa: BLE001 - the others are to be sent too
            logger.warning(
                "session_id=<%s>, pending=<%d>, agent_id=<%s>, error=<%s> | ended with changes that are not stored",
                history.session_id,
                history.pending,
                history.agent_id,
                type(error).__name__,
            )


def _leave_to_parent() -> None:
    """After a fork: the parent sends what waits, and locks may be held by threads that the child does not have."""
    for history in list(_all):
        history.make_locks()
    ALL_UNSENT.reset()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_leave_to_parent)
