"""Deliveries of hooks in the background, and the wait for them on closing."""

import atexit
import logging
import os
import time
import weakref
from collections.abc import Iterable
from concurrent.futures import Future
from typing import Any, Final

from .._client.off_loop import Steps

__all__ = ["OUTBOX_TIMEOUT", "Deliveries", "flush_hooks", "flushed_by_call"]

logger = logging.getLogger(__name__)

OUTBOX_TIMEOUT: Final = 2.0
"""Seconds to wait for deliveries that are also in the outbox, so that none is lost."""

_EXIT_TIMEOUT = 10.0


class Deliveries:
    """The deliveries that closing waits for, until each was tried; and the hooks that keep their own."""

    def __init__(self) -> None:
        self.reset()
        _all.add(self)

    def reset(self) -> None:
        """Begin anew, also in a forked child: the parent delivers."""
        self._in_outbox: dict[Future[None], bool] = {}
        self._hooks = _Hooks()

    def add(self, tried: "Future[None]", in_outbox: bool) -> None:
        """Add a delivery to wait for.

        Args:
            tried: Is done after the first attempt.
            in_outbox: Whether it is recorded, so that another process delivers it if this one does not.
        """
        self._in_outbox[tried] = in_outbox
        tried.add_done_callback(self._forget)

    def _forget(self, tried: "Future[None]") -> None:
        self._in_outbox.pop(tried, None)

    def keep(self, hooks: Iterable[Any]) -> None:
        """Keep hooks whose ``flush`` is called on closing."""
        for hook in hooks:
            self._hooks.add(hook)
            _all_kept.add(hook)

    def hand_to(self, other: "Deliveries") -> None:
        """Have other deliveries wait for these."""
        for tried, in_outbox in list(self._in_outbox.items()):
            other.add(tried, in_outbox)

    @property
    def tried(self) -> "list[Future[None]]":
        """The deliveries that were not tried yet."""
        return list(self._in_outbox)

    def flush_kept(self, timeout: float) -> None:
        """Call the ``flush`` of the kept hooks; an exception is logged."""
        _flush_quietly(self._hooks.living(), timeout)

    def waits(self, deadline: float) -> Steps:
        """Yield the deliveries to wait for and the seconds to wait, up to a ``time.monotonic()``."""
        found = list(self._in_outbox.items())
        yield [tried for tried, in_outbox in found if in_outbox], min(OUTBOX_TIMEOUT, deadline - time.monotonic())
        yield [tried for tried, in_outbox in found if not in_outbox], deadline - time.monotonic()
        left = sum(not tried.done() for tried, _ in found)
        if left:
            logger.warning("notifications=<%d> | not sent in time; the background goes on with them", left)


def flushed_by_call(hooks: Iterable[Any]) -> list[Any]:
    """Return the hooks whose ``flush`` is to be called; this library's hooks report each delivery instead."""
    return [hook for hook in hooks if hasattr(hook, "flush") and getattr(hook, "tells_of_deliveries", None) is not True]


def flush_hooks(hooks: Iterable[Any], timeout: float) -> None:
    """Let hooks deliver what they keep."""
    deadline = time.monotonic() + timeout
    for hook in hooks:
        hook.flush(max(deadline - time.monotonic(), 0.0))


class _Hooks:
    """Hooks by identity, since a hook may not be hashable; held weakly, since a hook may belong to one request."""

    def __init__(self) -> None:
        self._weakly: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        self._others: dict[int, Any] = {}

    def add(self, hook: Any) -> None:
        try:
            self._weakly[id(hook)] = hook
        except TypeError:  # has slots and cannot be referred to weakly
            self._others[id(hook)] = hook

    def discard(self, hook: Any) -> None:
        self._weakly.pop(id(hook), None)
        self._others.pop(id(hook), None)

    def living(self) -> list[Any]:
        found = [reference() for reference in self._weakly.valuerefs()]
        return [*(hook for hook in found if hook is not None), *list(self._others.values())]


_all: "weakref.WeakSet[Deliveries]" = weakref.WeakSet()
# Of all factories, since a factory that is dropped or replaced is not closed.
_all_kept = _Hooks()


def _flush_quietly(hooks: Iterable[Any], timeout: float) -> None:
    deadline = time.monotonic() + timeout
    for hook in hooks:
        _all_kept.discard(hook)
        try:
            flush_hooks([hook], deadline - time.monotonic())
        except Exception as error:  # noqa: BLE001 - the other hooks are still to deliver
            # Only its class: the text may hold anything.
            logger.warning(
                "error=<%s> | a hook did not close: it could not deliver what it keeps", type(error).__name__
            )


@atexit.register
def _flush_at_exit() -> None:
    _flush_quietly(_all_kept.living(), _EXIT_TIMEOUT)


def _leave_to_parent() -> None:
    global _all_kept
    _all_kept = _Hooks()
    for deliveries in list(_all):
        deliveries.reset()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_leave_to_parent)
