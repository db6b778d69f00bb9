"""The measures of the house can be taken, and see what they are about."""

import subprocess
import sys
from pathlib import Path

RUN = Path(__file__).parents[2] / "benchmarks" / "house.py"


def test_it_runs(mongodb_uri: str) -> None:
    done = subprocess.run([sys.executable, str(RUN)], capture_output=True, text=True, timeout=300)

    assert done.returncode == 0, done.stderr
    found = {line.split("│")[1].strip(): line.split("│")[2].strip() for line in done.stdout.splitlines() if "│" in line}
    assert int(found["files that it passes"]) >= 5
    assert int(found["functions that a message passes"]) >= 30
    assert int(found["public members of the repository"]) >= 12
