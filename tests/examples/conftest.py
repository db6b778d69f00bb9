"""Examples as a user runs them."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def root() -> Path:
    return EXAMPLES.parent


@pytest.fixture
def output(
    uri_of: Callable[[str], str], observer: MongoClient[dict[str, Any]], database_name: str, tmp_path: Path
) -> Callable[[str], list[str]]:
    """Run an example to its good end; the lines of its output. It must leave no session and no file."""
    environment = {**os.environ, "MONGODB_URI": uri_of(database_name)}

    def run(name: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, EXAMPLES / name],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert (done.returncode, done.stderr) == (0, "")
        collections = observer[database_name].list_collection_names()
        assert "agent_sessions" in collections
        assert [name for name in collections if observer[database_name][name].find_one()] == []
        assert list(tmp_path.iterdir()) == []
        return done.stdout.splitlines()

    return run
