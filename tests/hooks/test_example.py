"""The example of the AWS hooks as a user runs it, on the emulator and without one."""

import ast
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "example_aws_hooks.py"
EMULATOR = "http://127.0.0.1:4566"

Run = Callable[[str], "subprocess.CompletedProcess[str]"]


def commands() -> list[str]:
    """The commands that the example's docstring gives, without their comments."""
    text = ast.get_docstring(ast.parse(EXAMPLE.read_text())) or ""
    return [shlex.join(shlex.split(line, comments=True)) for line in re.findall(r"^ {4}(.+)$", text, re.MULTILINE)]


@pytest.fixture
def run(mongodb_uri: str, tmp_path: Path) -> Run:
    """Run a command in the repository, as somebody who never heard of AWS."""

    def run(command: str) -> "subprocess.CompletedProcess[str]":
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        path = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
        environment |= {"MONGODB_URI": mongodb_uri, "PATH": path, "HOME": str(tmp_path)}
        return subprocess.run(
            command, shell=True, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
        )

    return run


SENT = [
    "SNS: [URGENT] Feedback negative on session customer-42 | That is wrong",
    "SQS: update {'status': 'open'}, id of 32 characters",
    "SQS: delete {'status': None}, id of 32 characters",
    "left in the outbox: 0",
]


def test_on_the_emulator_as_the_docstring_says(run: Run, aws: Any) -> None:
    install, start, command = commands()
    assert re.search(r"pip install -q ministack==[\d.]+$", install)
    assert start.startswith("BIND_HOST=127.0.0.1 ")  # without it the emulator answers the whole network
    assert EMULATOR in command

    done = run(command.replace(EMULATOR, aws.url))

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["AWS: an emulator", *SENT]


def test_the_regions_of_the_environment_do_not_matter(run: Run, aws: Any) -> None:
    command = commands()[-1].replace(EMULATOR, aws.url)

    done = run(f"AWS_REGION=us-west-2 AWS_DEFAULT_REGION=ap-south-1 {command}")

    assert "left in the outbox: 0" in done.stdout
    assert "SQS: update" in done.stdout


def test_runs_at_once_without_an_emulator(run: Run) -> None:
    done = run("python examples/example_aws_hooks.py")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["AWS: a recorder in its place", *SENT]
