"""The benchmark of large sessions runs and says what it should. How fast anything is, is not asked here."""

import json
import os
import subprocess
import sys
from pathlib import Path

RUN = Path(__file__).parents[2] / "benchmarks" / "sizes.py"


def test_it_runs(mongodb_uri: str, tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    sizes = ["--agents", "3", "--messages", "40", "--text", "20000"]
    command = [sys.executable, str(RUN), *sizes, "--json", str(file)]
    environment = {**os.environ, "MONGODB_URI": mongodb_uri}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)

    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())
    assert list(found) == ["one message of each in turn", "one agent after the other"]
    for figures in found.values():
        assert set(figures) == {"first_ms", "last_ms", "ratio", "largest_bytes", "complete", "met"}
        assert figures["complete"]
        assert figures["largest_bytes"] < 1024 * 1024
