"""Stops a child process when this process dies without a chance to stop it."""

import os
import subprocess
from pathlib import Path

__all__ = ["Watchdog"]

# The shell waits on a pipe whose other end only this process holds: it closes however this process ends.
# CONT as well, because a frozen process does not see TERM. A temporary folder is deleted, so its process need not end
# cleanly; the folder is removed several times, since the process may still write to it.
_SCRIPT = 'read -r _; kill -TERM "$1"; kill -CONT "$1"'
_REMOVING_SCRIPT = 'read -r _; kill -KILL "$1"; for _ in 1 2 3 4 5; do rm -rf -- "$2"; sleep 0.2; done'


class Watchdog:
    """Watches over one child process, on POSIX systems; elsewhere it does nothing.

    Linux could have the kernel do it (``PR_SET_PDEATHSIG``), but that fires when the *thread* ends which
    started the child.

    Args:
        pid: The child to stop.
        folder: Its temporary folder, which is then removed; None if it has none.
    """

    def __init__(self, pid: int, folder: Path | None = None) -> None:
        self._process = self._start(pid, folder) if os.name == "posix" else None

    @staticmethod
    def _start(pid: int, folder: Path | None) -> "subprocess.Popen[bytes]":
        script, arguments = (_SCRIPT, []) if folder is None else (_REMOVING_SCRIPT, [str(folder)])
        return subprocess.Popen(  # noqa: S603 - a script of our own, a number and a folder of our own
            ["/bin/sh", "-c", script, "watchdog", str(pid), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def dismiss(self) -> None:
        """End the watch; call it as soon as the child has ended, before its id can belong to another process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
