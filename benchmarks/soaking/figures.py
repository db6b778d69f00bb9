"""What is counted while the load runs."""

import threading
import time
from collections import Counter
from pathlib import Path
from statistics import median

from histories import Finding
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

_STATM = Path("/proc/self/statm")
_PAGE_MB = 4096 / 2**20


class CommandTally(CommandListener):
    """Counts the commands that clients send."""

    def __init__(self) -> None:
        self.sent = 0
        self.failed_count = 0
        self._lock = threading.Lock()

    def started(self, event: CommandStartedEvent) -> None:
        with self._lock:
            self.sent += 1

    def succeeded(self, event: CommandSucceededEvent) -> None:
        pass

    def failed(self, event: CommandFailedEvent) -> None:
        with self._lock:
            self.failed_count += 1


class Figures:
    """Operations by kind, errors that callers saw, faults by kind, and findings; used by all threads."""

    def __init__(self) -> None:
        self.commands = CommandTally()
        self.operations: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.findings: list[Finding] = []
        self._lock = threading.Lock()

    def did(self, operation: str) -> None:
        with self._lock:
            self.operations[operation] += 1

    def failed(self, error: BaseException) -> None:
        with self._lock:
            self.errors[type(error).__name__] += 1

    def injected(self, fault: str, times: int = 1) -> None:
        with self._lock:
            self.faults[fault] += times

    def found(self, findings: list[Finding]) -> None:
        with self._lock:
            self.findings += findings


class Memory:
    """Samples the resident memory of this process, where the system tells it in ``/proc``."""

    def __init__(self, interval: float = 0.5) -> None:
        self.samples: list[float] = []
        self._interval = interval
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="memory")

    def __enter__(self) -> "Memory":
        if _STATM.exists():
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        if self._thread.is_alive():
            self._thread.join()

    def _sample(self) -> None:
        while not self._done.wait(self._interval):
            self.samples.append(int(_STATM.read_text().split()[1]) * _PAGE_MB)

    def quarters(self) -> list[float]:
        """Return the medians of the four quarters of the time, in MB."""
        count = len(self.samples) // 4
        return [median(self.samples[part * count : (part + 1) * count]) for part in range(4)] if count else [0.0] * 4


class Clock:
    """Until when the load runs: for some time, and until there were enough operations, but not for ever.

    Args:
        seconds: At least so long, and at most three times that.
        commands: At least so many.
        tally: Counts them.
    """

    def __init__(self, seconds: float, commands: int, tally: CommandTally) -> None:
        self._seconds, self._commands, self._tally = seconds, commands, tally
        self._started = time.monotonic()
        self._stopped = threading.Event()

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._started

    def is_over(self) -> bool:
        enough = self._tally.sent >= self._commands or self.elapsed >= 3 * self._seconds
        return self._stopped.is_set() or (self.elapsed >= self._seconds and enough)

    @property
    def stopped(self) -> bool:
        """Whether something ended it before its time."""
        return self._stopped.is_set()

    def stop(self) -> None:
        """End it now: something failed that nobody expected."""
        self._stopped.set()
