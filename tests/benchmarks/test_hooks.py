"""The benchmark of the hooks runs and says what it should. How fast anything is, is not asked here."""

import json
import os
import subprocess
import sys
from pathlib import Path

RUN = Path(__file__).parents[2] / "benchmarks" / "hooks.py"


def test_it_runs(mongodb_uri: str, tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    sizes = ["--users", "3", "--requests", "2", "--pause", "0.05", "--runs", "1", "--delay-ms", "1"]
    command = [sys.executable, str(RUN), *sizes, "--json", str(file)]
    environment = {**os.environ, "MONGODB_URI": mongodb_uri}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)

    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())
    assert list(found) == ["no hook", "AWS at 1 ms", "AWS silent"]
    assert all({"p50", "p99", "p50_ratio", "p99_at_most", "met"} == set(figures) for figures in found.values())
    assert found["no hook"]["p50_ratio"] == 1
