"""What README promises beside the code that it shows."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

RunBlocks = Callable[[str], dict[str, Any]]


@pytest.fixture
def readme(run_blocks: RunBlocks) -> dict[str, Any]:
    """What the blocks of README defined."""
    return run_blocks("README.md")


def test_the_service_goes_on_with_a_conversation(readme: dict[str, Any]) -> None:
    with TestClient(readme["app"]) as service:
        replies = [service.post("/sessions/s-1", params={"prompt": "Hello"}) for _ in range(2)]

    assert [reply.status_code for reply in replies] == [200, 200]
    assert [reply.json().strip() for reply in replies] == ["I can see 1 messages.", "I can see 3 messages."]


def test_the_shown_test_passes(readme: dict[str, Any], mongodb_uri: str, database_name: str) -> None:
    readme["test_the_conversation_goes_on"](mongodb_uri, database_name)


def test_the_two_commands_come_first(root: Path) -> None:
    quickstart, tests = _commands(root)[:2]

    assert quickstart.endswith("&& .venv/bin/python examples/quickstart.py")
    assert tests.endswith("&& .venv/bin/pytest -n 4")


def test_ci_runs_the_command_for_the_tests(root: Path) -> None:
    assert _commands(root)[1] in (root / ".ci/run").read_text("utf-8")


def _commands(root: Path) -> list[str]:
    return re.findall(r"```sh\n(.*?)\n```", (root / "README.md").read_text("utf-8"), re.DOTALL)
