"""The example of the AWS hooks as a user runs it, on the emulator and without one."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "example_aws_hooks.py"

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(mongodb_uri: str, tmp_path: Path) -> Run:
    def run(**changes: str) -> "subprocess.CompletedProcess[str]":
        inherited = {name: value for name, value in os.environ.items() if name != "AWS_ENDPOINT_URL"}
        environment = {**inherited, "MONGODB_URI": mongodb_uri, **changes}
        return subprocess.run(
            [sys.executable, EXAMPLE], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
        )

    return run


def test_on_the_emulator(run: Run, aws: Any) -> None:
    done = run(AWS_ENDPOINT_URL=aws.url)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "SNS: [URGENT] Feedback negative on session customer-42 | That is wrong",
        "SQS: update {'status': 'open'}, id of 32 characters",
        "SQS: delete {'status': None}, id of 32 characters",
        "left in the outbox: 0",
    ]


def test_says_how_to_start_one(run: Run) -> None:
    done = run()

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("AWS_ENDPOINT_URL does not name an emulator.")
