"""Temporary folders that go with their owner, at the latest when the next one is made."""

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
# Locked by the owner as long as it lives, however it ends.
_MARK = "owner"


class TemporaryFolder:
    """A new folder for this process; those that dead ones left are removed first."""

    def __init__(self) -> None:
        _remove_abandoned()
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX))
        self._mark = _claim(self.path)

    def remove(self) -> None:
        """Remove it with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._mark.close()


def _claim(folder: Path) -> IO[str]:
    # It gets its name when it is locked: before, somebody else would take it for one that was left.
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
        # Somebody holds it, or it is another user's.
        with suppress(OSError), path.open() as mark:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path.parent, ignore_errors=True)
