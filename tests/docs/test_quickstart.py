"""The quickstart as a user runs it: a process of its own, in a folder of its own."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mongodb_session_manager.testing import find_mongod

Quickstart = Callable[..., str]


@pytest.fixture
def quickstart(root: Path, tmp_path: Path) -> Quickstart:
    """Run it with these arguments and these changes of the environment; its output."""

    def run(*arguments: str, **environment: str) -> str:
        inherited = {name: value for name, value in os.environ.items() if name != "MONGODB_URI"}
        done = subprocess.run(
            [sys.executable, root / "examples/quickstart.py", *arguments],
            cwd=tmp_path,
            env=inherited | environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    return run


@pytest.mark.skipif(
    find_mongod() is None and "MONGODB_URI" in os.environ, reason="there is a MongoDB, but no mongod to start"
)
@pytest.mark.usefixtures("mongodb_uri")
def test_the_second_run_remembers_the_first(quickstart: Quickstart, tmp_path: Path) -> None:
    first, second = quickstart(), quickstart()

    assert "Session: new, 0 messages restored" in first
    assert "Session: resumed, 4 messages restored" in second
    assert "Agent: Your name is Ada. I can see 5 messages" in second
    assert "'next_message_id': 6" in second
    assert [folder.name for folder in tmp_path.iterdir()] == ["quickstart-data"]


def test_uses_the_server_of_mongodb_uri(quickstart: Quickstart, database_uri: str, tmp_path: Path) -> None:
    quickstart("My name is Grace.", MONGODB_URI=database_uri)
    second = quickstart("Who am I?", MONGODB_URI=database_uri)

    assert "Agent: Your name is Grace. I can see 3 messages" in second
    assert database_uri not in second
    assert list(tmp_path.iterdir()) == []


def test_a_session_of_its_own(quickstart: Quickstart, database_uri: str) -> None:
    quickstart(MONGODB_URI=database_uri)

    assert "Session: new" in quickstart("--session", "another", MONGODB_URI=database_uri)


def test_without_a_server_nothing_survives_and_it_says_so(quickstart: Quickstart) -> None:
    for _ in range(2):
        output = quickstart("--mongomock")
        assert "mongomock, in memory: nothing of this conversation survives" in output
        assert "Session: new, 0 messages restored" in output


def test_a_mongod_that_does_not_run_is_no_obstacle(quickstart: Quickstart, tmp_path: Path) -> None:
    broken = tmp_path / "bin" / "mongod"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)

    output = quickstart(PATH=f"{broken.parent}{os.pathsep}{os.environ['PATH']}")

    assert output.startswith("mongod ended with code 1 at its start.\nMongoDB: mongomock")
    assert "Agent: Your name is Ada." in output


def test_an_empty_address_is_as_if_there_was_none(quickstart: Quickstart, tmp_path: Path) -> None:
    assert "a private server" in quickstart(MONGODB_URI="")
    assert [folder.name for folder in tmp_path.iterdir()] == ["quickstart-data"]


@pytest.mark.parametrize("reader", ["head -n 1", "true"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_who_reads_may_have_seen_enough(
    root: Path, tmp_path: Path, database_uri: str, reader: str, unbuffered: str
) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", f'"$0" "$1" | {reader}', sys.executable, root / "examples/quickstart.py"],
        cwd=tmp_path,
        env={**os.environ, "MONGODB_URI": database_uri, "PYTHONUNBUFFERED": unbuffered},
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout in {"MongoDB: MONGODB_URI\n", ""}
