"""The benchmark runs, says what it should, and counts exactly. How fast anything is, is not asked here."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

RUN = Path(__file__).parents[2] / "benchmarks" / "run.py"
REFERENCES = {"floor", "floor async", "agent alone", "floor async in agent"}
CHOSEN = {"document per message", "ours sync", "ours exit", "ours in service"}

# Writes and reads of one turn; a request also opens the session and restores. A moved window, though behind, counts.
OPERATIONS = {
    "floor": {"steady": (2, 0), "full window": (2, 0), "tool call": (4, 0), "request": (2, 1)},
    "floor async": {"steady": (2, 0), "full window": (2, 0), "tool call": (4, 0), "request": (2, 1)},
    "floor async in agent": {"steady": (2, 0), "full window": (2, 0), "tool call": (4, 0), "request": (2, 1)},
    "document per message": {"steady": (4, 0), "full window": (4, 0), "tool call": (8, 0), "request": (4, 1)},
    "ours sync": {"steady": (2, 0), "full window": (3, 0), "tool call": (4, 0), "request": (4, 1)},
    "ours exit": {"steady": (1, 0), "full window": (1, 0), "tool call": (1, 0), "request": (2, 1)},
    "ours in service": {"steady": (2, 0), "full window": (3, 0), "tool call": (4, 0), "request": (4, 0)},
}


@pytest.fixture(scope="module")
def results(mongodb_uri: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    file = tmp_path_factory.mktemp("benchmark") / "results.json"
    command = [sys.executable, str(RUN), "--quick", "--json", str(file), "--only", *sorted(CHOSEN)]
    done = subprocess.run(
        command, env={**os.environ, "MONGODB_URI": mongodb_uri}, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert "Goals" in done.stdout
    found: dict[str, Any] = json.loads(file.read_text())
    return found


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations(results: dict[str, Any], name: str) -> None:
    counted = results["traffic"][name]

    assert {each: (traffic["writes"], traffic["reads"]) for each, traffic in counted.items()} == OPERATIONS[name]


def test_bytes_are_counted(results: dict[str, Any]) -> None:
    for traffic in results["traffic"].values():
        # A prompt and an answer of 500 bytes each go to the server, and come back as part of the history.
        assert traffic["steady"]["bytes_sent"] > 1_000
        assert traffic["request"]["bytes_received"] > 40 * 500


@pytest.mark.parametrize(("measure", "histories"), [("turn", "0 100"), ("request", "0 100"), ("restore", "10 100")])
def test_times(results: dict[str, Any], measure: str, histories: str) -> None:
    found = results[measure]

    assert set(found) == (REFERENCES | CHOSEN) - {"agent alone"}
    assert all(list(times) == histories.split() for times in found.values())


@pytest.mark.parametrize("where", ["direct", "delayed"])
def test_many_agents(results: dict[str, Any], where: str) -> None:
    found = results["fleet"][where]

    assert set(found) == (REFERENCES | CHOSEN) - {"floor", "floor async"}
    assert all(set(figures) == {"total", "lag_p50", "lag_p99"} for figures in found.values())


def test_openings(results: dict[str, Any]) -> None:
    assert set(results["opening"]) == {"floor async", "floor async in agent", "ours in service"}


def test_resources(results: dict[str, Any]) -> None:
    found = results["resources"]

    assert set(found) == REFERENCES | CHOSEN
    assert all(figures["cpu_ms"] > 0 and figures["peak_rss_mb"] > 0 for figures in found.values())


def test_goals(results: dict[str, Any]) -> None:
    goals = {goal["measure"]: goal for goal in results["goals"]}

    assert set(results["machine"]) == {"cores", "system", "python", "mongodb", "pymongo"}
    assert goals["operations, steady turn"] == {
        "measure": "operations, steady turn",
        "value": 2,
        "reference": 2,
        "ratio": 1,
        "at_most": 1,
        "met": True,
    }
