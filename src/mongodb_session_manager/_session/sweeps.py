"""The sweeps of one factory: of every namespace in which its managers gave sessions a ttl."""

import random
import threading
from concurrent.futures import Future

from pymongo.errors import OperationFailure

from .._client.handle import ClientHandle
from .._client.recurring import Recurring
from .._schema.limits import Limits
from .._stores.operation import Collections
from .._stores.sweeping import Sweeper

__all__ = ["Sweeps"]


class Sweeps:
    """Sweeps from time to time, on the threads of a client.

    Args:
        handle: The client.
        under_way: Holds what is under way.
        limits: How often.
    """

    def __init__(self, handle: ClientHandle, under_way: "set[Future[None]]", limits: Limits) -> None:
        first = random.uniform(*limits.first_sweep)  # noqa: S311 - no secret
        self._sweepers: dict[Collections, Sweeper] = {}
        self._interval = limits.sweep_interval
        self._recurring = Recurring(
            "sweep", self._sweep, lambda: handle.executor, first, limits.sweep_interval, under_way
        )

    def include(self, collections: Collections) -> None:
        """Sweep a namespace too."""
        if collections.can_compute:
            self._sweepers.setdefault(collections, Sweeper(collections, self._interval))
            self._recurring.begin()

    def stop(self) -> None:
        """Sweep no more; a sweep that is under way ends after its batch."""
        self._recurring.stop()

    def _sweep(self, stop: threading.Event) -> None:
        refused: OperationFailure | None = None
        for sweeper in list(self._sweepers.values()):
            if stop.is_set():
                break
            try:
                sweeper.sweep_if_due(stop)
            except OperationFailure as error:  # of this namespace, as a rule
                refused = error
        if refused is not None:
            raise refused
