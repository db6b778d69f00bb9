"""The operating system's side of a mongod: its command line, its log, its end."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ._replica_set import REPLICA_SET
from ._watchdog import Watchdog

__all__ = ["HOST", "MongodProcess", "MongodStartError", "PortTakenError"]

HOST = "127.0.0.1"

_LOG_NAME = "mongod.log"
_START_TIMEOUT = 60.0
_STOP_TIMEOUT = 20.0
_POLL_INTERVAL = 0.01
_ADDRESS_IN_USE = 48

# A test database writes little and starts often: no preallocated journal files (315 MB otherwise), an oplog that
# cannot grow to 5 % of the disk, and no diagnostics, which only MongoDB's support reads.
_OPTIONS = (
    *("--bind_ip", HOST),
    *("--replSet", REPLICA_SET),
    *("--oplogSize", "128"),
    *("--wiredTigerEngineConfigString", "log=(prealloc=false,file_max=1MB)"),
    *(() if os.name == "nt" else ("--nounixsocket",)),
)
_PARAMETERS = {"diagnosticDataCollectionEnabled": "false"}


class MongodStartError(RuntimeError):
    """mongod could not be started; the message quotes its log."""


class PortTakenError(MongodStartError):
    """Another process listens on the port."""


class MongodProcess:
    """One run of mongod, from its start to its end.

    Args:
        binary: The executable.
        data_path: An existing folder for the data; the log is appended to ``mongod.log`` in it.
        port: Port to listen on.
        parameters: Server parameters.
        arguments: Further arguments of the command line.
        is_temporary: Whether the folder is removed when this process dies.
    """

    def __init__(
        self,
        binary: Path,
        data_path: Path,
        port: int,
        parameters: Mapping[str, str],
        arguments: Sequence[str] = (),
        *,
        is_temporary: bool = False,
    ) -> None:
        self._data_path = data_path
        self._port = port
        words = [str(binary), "--dbpath", str(data_path), "--port", str(port), *_OPTIONS, *arguments]
        for name, value in {**_PARAMETERS, **parameters}.items():
            words += ["--setParameter", f"{name}={value}"]
        self._log_start = 0
        self._process = self._spawn(words)
        self._watchdog = Watchdog(self.pid, data_path if is_temporary else None)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def is_running(self) -> bool:
        """Tell whether the process has not ended."""
        return self._process.poll() is None

    def freeze(self) -> None:
        """Stop the process (SIGSTOP) and wait until all its threads stand still."""
        self._process.send_signal(signal.SIGSTOP)
        # All threads stop only some time after the signal; a ping could still be answered.
        if hasattr(os, "waitid"):  # on macOS since Python 3.13
            os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def thaw(self) -> None:
        """Let a frozen process go on (SIGCONT)."""
        self._process.send_signal(signal.SIGCONT)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for a step of the start; an end of the process or a long silence is an error."""
        deadline = time.monotonic() + _START_TIMEOUT
        while not condition():
            if not self.is_running():
                raise self._exit_error()
            if time.monotonic() > deadline:
                raise MongodStartError(f"mongod was not ready in {_START_TIMEOUT:.0f} s.\n{self._log()}")
            time.sleep(_POLL_INTERVAL)

    def end(self, *, cleanly: bool) -> None:
        """End the process and wait for it: cleanly, if it reacts in time, or at once."""
        if cleanly and self.is_running():
            self._terminate()
        self._process.kill()
        self._process.wait()
        self._watchdog.dismiss()

    def _terminate(self) -> None:
        self._process.terminate()
        if os.name == "posix":
            # A frozen server sees the SIGTERM only when it goes on.
            self._process.send_signal(signal.SIGCONT)
        try:
            self._process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            return

    def _spawn(self, words: list[str]) -> "subprocess.Popen[bytes]":
        with (self._data_path / _LOG_NAME).open("ab") as log:
            self._log_start = log.tell()
            return subprocess.Popen(  # noqa: S603 - the caller chose the binary
                words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C in a terminal reaches the whole group: the server must outlive the tests' clean-up.
                start_new_session=True,
            )

    def _exit_error(self) -> MongodStartError:
        log = self._log()
        if self._process.returncode == _ADDRESS_IN_USE:
            return PortTakenError(f"Port {self._port} of {HOST} is in use.\n{log}")
        if "DBPathInUse" in log:
            return MongodStartError(
                f"Another mongod is running on the data folder {self._data_path}. Stop it, connect to it, or "
                f"give another folder.\n{log}"
            )
        return MongodStartError(f"mongod ended with code {self._process.returncode} at its start.\n{log}")

    def _log(self) -> str:
        """The errors that this run logged, or its last lines when it logged none."""
        with (self._data_path / _LOG_NAME).open("rb") as log:
            log.seek(self._log_start)
            lines = log.read().decode(errors="replace").splitlines()
        errors = [line for line in lines if '"s":"E"' in line or '"s":"F"' in line]
        return "\n".join((errors or lines)[-10:])
