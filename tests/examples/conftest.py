"""Examples as a user runs them."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from tests.examples.browser import Browser, browser_of_tests
from tests.examples.service import EXAMPLES, Service


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


@pytest.fixture(scope="module")
def service(
    request: pytest.FixtureRequest,
    uri_of: Callable[[str], str],
    mongodb_uri: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Service]:
    """The example that the module names in ``EXAMPLE``."""
    name: str = request.module.EXAMPLE
    database = f"test_{Path(name).stem}_{os.getpid()}"
    service = Service(name, uri_of(database), tmp_path_factory.mktemp("service"))
    try:
        service.start()
        yield service
    finally:
        service.stop()
        service.client.close()
        with MongoClient[dict[str, Any]](mongodb_uri) as client:
            client.drop_database(database)


@pytest.fixture(scope="module")
def browser(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser_of_tests(pytestconfig, tmp_path_factory.mktemp("browser")) as running:
        yield running
