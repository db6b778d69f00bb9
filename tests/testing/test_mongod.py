import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pymongo
import pytest
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from mongodb_session_manager.testing import (
    Mongod,
    MongodNotFoundError,
    MongodStartError,
    find_mongod,
    running_mongodb,
)
from mongodb_session_manager.testing._temporary import TemporaryFolder
from tests.watching import eventually

pytestmark = pytest.mark.skipif(find_mongod() is None, reason="there is no mongod to run")


@pytest.fixture(scope="module")
def mongod() -> Iterator[Mongod]:
    with Mongod() as mongod:
        yield mongod


def insert(uri: str, value: str) -> None:
    with MongoClient[dict[str, Any]](uri, tz_aware=True) as client:
        client.get_database("test").things.insert_one({"_id": value})


def stored(uri: str) -> list[str]:
    with MongoClient[dict[str, Any]](uri) as client:
        return [thing["_id"] for thing in client.get_database("test").things.find()]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A child whose parent died and whom nobody has waited for yet is dead as well.
    return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()


def run_python(code: str, *arguments: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_takes_majority_writes_as_a_replica_set(mongod: Mongod) -> None:
    with MongoClient[dict[str, Any]](mongod.uri, w="majority") as client:
        with client.start_session() as session, session.start_transaction():
            client.get_database("test").majority.insert_one({"_id": 1}, session=session)

        assert client.get_database("test").majority.count_documents({}) == 1


def test_a_temporary_folder_goes_with_the_server() -> None:
    with Mongod() as mongod:
        folder, pid = mongod.data_path, mongod.pid
        assert (folder / "mongod.log").stat().st_size > 0

    assert not folder.exists()
    assert not is_alive(pid)


def test_uses_little_disk(mongod: Mongod) -> None:
    used = sum(file.stat().st_blocks * 512 for file in mongod.data_path.rglob("*"))

    assert used < 5_000_000


def test_a_given_folder_is_kept_and_moves_to_another_port(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "data"
    with Mongod(folder) as first:
        insert(first.uri, "first run")
    with Mongod(folder, port=free_port()) as second:
        assert second.port != first.port
        insert(second.uri, "second run")
        assert stored(second.uri) == ["first run", "second run"]


def test_one_folder_serves_one_mongod(tmp_path: Path) -> None:
    with Mongod(tmp_path) as first:
        with pytest.raises(MongodStartError, match="Another mongod is running on the data folder"):
            Mongod(tmp_path).start()
        insert(first.uri, "the first one is unharmed")


def test_a_port_in_use_is_named(mongod: Mongod) -> None:
    with pytest.raises(MongodStartError, match=f"Port {mongod.port} of 127.0.0.1 is in use"):
        Mongod(port=mongod.port).start()


def test_what_mongod_says_at_its_start_is_in_the_error() -> None:
    broken = Mongod(parameters={"noSuchParameter": "1"})

    with pytest.raises(MongodStartError, match="noSuchParameter"):
        broken.start()
    with pytest.raises(RuntimeError, match="not started"):
        _ = broken.data_path


def test_another_binary_that_does_not_serve_is_an_error() -> None:
    with pytest.raises(MongodStartError, match="ended with code"):
        Mongod(binary=Path("/bin/false")).start()


def test_survives_a_kill_with_its_data() -> None:
    with Mongod() as mongod:
        uri, pid = mongod.uri, mongod.pid
        with MongoClient[dict[str, Any]](uri, w="majority") as client:
            things = client.get_database("test").things
            things.insert_one({"_id": "before"})
            mongod.kill()
            assert not is_alive(pid)
            with pytest.raises(RuntimeError, match="not running"):
                _ = mongod.pid

            mongod.restart()

            assert mongod.uri == uri
            things.insert_one({"_id": "after"})
            assert stored(uri) == ["before", "after"]


def test_restarts_while_it_runs() -> None:
    with Mongod() as mongod:
        uri, pid = mongod.uri, mongod.pid
        insert(uri, "before")

        mongod.restart()

        assert (mongod.uri, stored(uri)) == (uri, ["before"])
        assert mongod.pid != pid


def test_a_frozen_server_answers_when_it_goes_on(mongod: Mongod) -> None:
    with MongoClient[dict[str, Any]](mongod.uri, timeoutMS=5_000) as client:
        client.admin.command("ping")
        mongod.pause()
        mongod.pause()
        try:
            with pytest.raises(PyMongoError), pymongo.timeout(0.2):
                client.admin.command("ping")
        finally:
            mongod.resume()
        assert client.admin.command("ping")["ok"] == 1


def test_two_may_freeze_it(mongod: Mongod) -> None:
    with ThreadPoolExecutor(2) as threads:
        for frozen in [threads.submit(mongod.pause) for _ in range(2)]:
            frozen.result(10)
    try:
        with pymongo.timeout(0.2), pytest.raises(PyMongoError):
            stored(mongod.uri)
    finally:
        mongod.resume()


def test_one_that_ended_is_not_frozen() -> None:
    with Mongod() as mongod:
        os.kill(mongod.pid, signal.SIGKILL)
        with pytest.raises(RuntimeError, match="not running"):
            mongod.pause()


def test_stops_while_it_is_frozen(tmp_path: Path) -> None:
    mongod = Mongod(tmp_path)
    mongod.start()
    pid = mongod.pid
    mongod.pause()

    mongod.stop()

    assert not is_alive(pid)


def test_starting_twice_and_stopping_twice_is_harmless() -> None:
    mongod = Mongod()
    mongod.start()
    pid = mongod.pid
    mongod.start()
    assert mongod.pid == pid

    mongod.stop()
    mongod.stop()
    mongod.start()
    try:
        insert(mongod.uri, "a new life")
    finally:
        mongod.stop()


def test_parameters_reach_the_server() -> None:
    enabled = Mongod(parameters={"enableTestCommands": "1"})
    with enabled as mongod, MongoClient[dict[str, Any]](mongod.uri) as client:
        assert client.admin.command("configureFailPoint", "failCommand", mode="off")["ok"] == 1


FORGETFUL = """
    import sys
    from mongodb_session_manager.testing import Mongod
    mongod = Mongod()
    mongod.start()
    print(mongod.pid, mongod.data_path, flush=True)
    if sys.argv[1] == "wait":
        sys.stdin.read()
"""


def test_is_stopped_when_the_user_forgets() -> None:
    with run_python(FORGETFUL, "end") as process:
        assert process.stdout is not None
        pid, folder = process.stdout.read().split()
        assert process.wait() == 0

    assert not is_alive(int(pid))
    assert not Path(folder).exists()


def test_is_stopped_when_the_process_is_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    command = [sys.executable, "-c", textwrap.dedent(FORGETFUL), "wait"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        words = process.stdout.readline().split()
        pid, folder = int(words[0]), Path(words[1])
        assert is_alive(pid)
        assert folder.parent == tmp_path
        process.send_signal(signal.SIGKILL)

    assert eventually(lambda: not is_alive(pid), 20)
    assert eventually(lambda: not folder.exists(), 20)


def test_a_folder_that_nobody_could_remove_goes_at_the_next_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left, strange = TemporaryFolder(), tmp_path / "mongod-strange"
    strange.mkdir()
    left._mark.close()  # as the end of its process does
    (left.path / "WiredTiger.wt").touch()

    used = TemporaryFolder()
    other = TemporaryFolder()
    assert {*tmp_path.iterdir()} == {strange, used.path, other.path}
    used.remove()
    other.remove()
    assert [*tmp_path.iterdir()] == [strange]


@pytest.mark.parametrize("empty", ["", " "])
def test_an_empty_address_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, empty: str) -> None:
    monkeypatch.setenv("MONGODB_URI", empty)

    with running_mongodb(tmp_path) as uri:
        assert uri.startswith("mongodb://127.0.0.1:")


def test_a_forked_child_leaves_the_server_alone() -> None:
    code = """
        import os, sys
        from mongodb_session_manager.testing import Mongod
        with Mongod() as mongod:
            child = os.fork()
            if child == 0:
                sys.exit(0)
            os.waitpid(child, 0)
            mongod.restart()
            assert (mongod.data_path / "mongod.log").exists()
    """
    with run_python(code) as process:
        assert process.wait() == 0


def test_the_environment_names_another_mongodb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONGODB_URI", "mongodb://elsewhere.example")

    with running_mongodb() as uri:
        assert uri == "mongodb://elsewhere.example"


def test_runs_a_private_mongodb_otherwise(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MONGODB_URI", raising=False)

    with running_mongodb(tmp_path) as uri:
        insert(uri, "here")
        assert stored(uri) == ["here"]


def test_a_mongod_on_path_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mine = tmp_path / "mongod"
    mine.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    assert find_mongod() == mine


NOWHERE = """
    import importlib.metadata, sys
    from mongodb_session_manager.testing import Mongod, find_mongod
    sys.path[:] = [folder for folder in sys.path if "site-packages" not in folder]
    assert find_mongod() is None
    Mongod()
"""


def test_no_mongod_anywhere_says_what_to_do() -> None:
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(NOWHERE)],
        env={**os.environ, "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )

    assert MongodNotFoundError.__name__ in result.stderr
    assert "MONGODB_URI" in result.stderr
    assert "'embedded'" in result.stderr


def test_importing_the_package_needs_neither_pytest_nor_mongomock() -> None:
    code = """
        import sys
        from mongodb_session_manager import testing
        assert not {"pytest", "mongomock"} & set(sys.modules)
        testing.SessionRepositoryContract
        assert "pytest" in sys.modules
        assert not hasattr(testing, "nothing")
        assert all(hasattr(testing, name) for name in testing.__all__)
    """
    with run_python(code) as process:
        assert process.wait() == 0


USED_DATABASES: list[str] = []

PLUGIN = 'pytest_plugins = ["mongodb_session_manager.testing.pytest_plugin"]'
USES_MONGODB = "def test_it(mongodb_uri): pass"


@pytest.mark.parametrize(
    ("options", "code", "outcome"),
    [([], 0, "1 skipped"), (["--require-mongod"], 1, "MongodNotFoundError: No MongoDB")],
    ids=["skips", "fails"],
)
def test_without_a_mongod_the_fixture(tmp_path: Path, options: list[str], code: int, outcome: str) -> None:
    (tmp_path / "conftest.py").write_text(PLUGIN)
    hide = "from importlib import metadata\ndef none(name): raise metadata.PackageNotFoundError(name)\n"
    (tmp_path / "test_it.py").write_text(f"{hide}metadata.distribution = none\n{USES_MONGODB}")
    environment = {key: value for key, value in os.environ.items() if key != "MONGODB_URI"}

    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, str(tmp_path)],
        cwd=tmp_path,
        env={**environment, "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )

    assert result.returncode == code, result.stdout + result.stderr
    assert outcome in result.stdout


def test_a_test_has_a_database_of_its_own(mongo_client: MongoClient[dict[str, Any]], database_name: str) -> None:
    assert database_name not in mongo_client.list_database_names()
    mongo_client[database_name].things.insert_one({"_id": 1})
    assert mongo_client[database_name].things.find_one() == {"_id": 1}
    USED_DATABASES.append(database_name)


def test_the_databases_of_earlier_tests_are_dropped(mongo_client: MongoClient[dict[str, Any]]) -> None:
    assert not set(USED_DATABASES) & set(mongo_client.list_database_names())
