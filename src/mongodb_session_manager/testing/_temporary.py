"""Temporary folders that are removed with their owner, at the latest when the next one is made."""

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO

if os.name == "posix":
    import fcntl

__all__ = ["TemporaryFolder"]

_PREFIX = "mongod-"
# The owner holds a lock on it as long as it lives, however it ends.
_MARK = "owner"


class TemporaryFolder:
    """A new folder for this process; folders that dead processes left are removed first."""

    def __init__(self) -> None:
        _remove_abandoned()
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX))
        self._mark = _claim(self.path)

    def remove(self) -> None:
        """Remove the folder with its content."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._mark.close()


def _claim(folder: Path) -> IO[str]:
    # It gets its name once it is locked: before, another process would take it for a left one.
    unnamed = folder / f"{_MARK}.new"
    mark = unnamed.open("w")
    if os.name == "posix":
        fcntl.flock(mark, fcntl.LOCK_EX)
        unnamed.rename(folder / _MARK)
    return mark


def _remove_abandoned() -> None:
    if os.name != "posix":
        return
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_MARK}"):
        # Its owner lives, or it belongs to another user.
        with suppress(OSError), path.open() as mark:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path.parent, ignore_errors=True)
