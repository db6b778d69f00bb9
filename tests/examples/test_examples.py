"""Each example as a user runs it: a process of its own, on a real MongoDB."""

import os
import re
import runpy
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = sorted(path.name for path in EXAMPLES.glob("example_*.py"))

Output = Callable[[str], list[str]]


def test_metadata_tool(output: Output) -> None:
    lines = output("example_metadata_tool.py")

    assert "agent:  Successfully updated metadata fields: ['city', 'preferences.language']" in lines
    assert "stored: {'plan': 'basic', 'preferences': {'language': 'pt', 'theme': 'dark'}, 'city': 'Lisbon'}" in lines
    assert "agent:  Error: no access to ['plan']; allowed: ['preferences', 'city']" in lines
    assert "plan:   basic" in lines
    assert 'get:    Metadata retrieved: {"city": "Lisbon", "preferences.language": "pt"}' in lines
    assert lines[-1].startswith("delete: Error: ")


def test_metadata_hook(output: Output) -> None:
    assert output("example_metadata_hook.py") == [
        "audit:      [\"update ['status', 'priority']\", \"delete ['priority']\"]",
        "validation: status must be one of ['open', 'solved', 'waiting'], got 'forgotten'",
        "validation: {'status': 'solved'}",
        "all three:  [\"update ['status']\"], {'status': 'waiting'}",
        "caching:    3 calls of get_metadata, 1 read",
    ]


def test_feedback_hook(output: Output) -> None:
    assert output("example_feedback_hook.py") == [
        "pager:  'That is wrong' on 'Your suitcase may weigh 50 kg.'",
        "check:  rating must be 'up', 'down' or None, got 'five stars'",
        "stale:  there is no message 99",
        "stored: up, Quick, UTC",
        "stored: down, That is wrong, UTC",
        "stored: None, No opinion, UTC",
    ]


def test_agent_config(output: Output) -> None:
    lines = output("example_agent_config.py")
    support = [line.strip() for line in lines if line.startswith("  support: ")]

    assert support == [
        "support: small-1, You help customers., None",
        "support: small-1, You help customers., {'prompt': 'support/de', 'version': 7}",
        "support: large-1, You help customers quickly., {'prompt': 'support/de', 'version': 7}",
        "support: large-1, You help customers quickly., 6 messages",
    ]
    assert lines.count("  reviewer: large-1, You review answers., None") == 3
    assert lines[-1] == "an unknown agent: None"


def test_calculator_tool(output: Output) -> None:
    lines = output("example_calculator_tool.py")

    assert "agent: 42.0" in lines
    assert "restored: 8 messages" in lines
    assert "agent: You asked 3 questions." in lines
    assert [line.split()[:2] for line in lines if line.startswith("  ")] == [
        [str(number), "assistant" if number % 2 else "user"] for number in range(10)
    ]
    assert "  6 user      error of a tool" in lines
    assert lines[-2:] == ["used: 5 model calls, 75 tokens", "divide: 2 calls, 1 succeeded, 1 failed"]


@pytest.mark.parametrize("name", NAMES)
def test_says_so_where_there_is_no_server(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mongod = tmp_path / "mongod"
    mongod.write_text("#!/bin/sh\nexit 1\n")
    mongod.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("MONGODB_URI", raising=False)

    with pytest.raises(SystemExit, match=r"^mongod ended with code 1"):
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")

    assert capsys.readouterr().out == ""


COMMAND = re.compile(r"^    (?:AWS_ENDPOINT_URL=\S+ )?(python examples/\S+|curl .+)$", re.MULTILINE)
SERVICES = ("example_fastapi.py", "example_fastapi_streaming.py", "example_sidebar.py")


@pytest.mark.parametrize("name", sorted({*NAMES} - {"example_aws_hooks.py", *SERVICES}))
def test_runs_as_its_docstring_says(name: str, tmp_path: Path) -> None:
    assert COMMAND.findall((EXAMPLES / name).read_text("utf-8")) == []  # it needs none but the one that runs it
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MONGODB", "AWS_"))}

    done = subprocess.run(
        [sys.executable, EXAMPLES / name],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_runs_as_its_docstring_says(name: str, root: Path, tmp_path: Path) -> None:
    start, ask = COMMAND.findall((EXAMPLES / name).read_text("utf-8"))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MONGODB", "AWS_"))}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, *start.split()[1:], "--port", port]
    with (tmp_path / "log").open("wb") as log:
        service = subprocess.Popen(command, cwd=root, env=environment, stdout=log, stderr=log)
    try:
        # localhost may also be an address of the other family, where nobody listens.
        asked = f"{ask.replace('localhost:8000', f'127.0.0.1:{port}')} --silent --show-error --fail-with-body"
        retried = f"{asked} --retry 60 --retry-delay 1 --retry-connrefused"
        done = subprocess.run(["/bin/sh", "-c", retried], capture_output=True, text=True, timeout=120)
    finally:
        service.terminate()
        service.wait(30)

    assert done.returncode == 0, (tmp_path / "log").read_text() + done.stderr
    answered = '"id":"' if name == "example_sidebar.py" else "I can see 1 messages"
    assert answered in done.stdout.replace('"\n\nevent: word\ndata: "', "")
