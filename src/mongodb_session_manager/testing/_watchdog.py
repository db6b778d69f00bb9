"""Stops a child process when this process dies without a chance to do it itself."""

import os
import subprocess

__all__ = ["Watchdog"]

# The shell waits on a pipe whose other end only this process holds: it closes however this process ends.
# CONT as well, because a frozen process does not see TERM.
_SCRIPT = 'read -r _; kill -TERM "$1"; kill -CONT "$1"'


class Watchdog:
    """Watches over one child process, on POSIX systems; elsewhere it does nothing.

    Linux could have the kernel do it (``PR_SET_PDEATHSIG``), but that fires when the *thread* ends which
    started the child.

    Args:
        pid: The child to stop.
    """

    def __init__(self, pid: int) -> None:
        self._process = self._start(pid) if os.name == "posix" else None

    @staticmethod
    def _start(pid: int) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(  # noqa: S603 - a script of our own and a number
            ["/bin/sh", "-c", _SCRIPT, "watchdog", str(pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def dismiss(self) -> None:
        """End the watch; call it as soon as the child has ended, before its id can be given to another."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
