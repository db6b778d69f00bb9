"""The load test runs, counts, and finds what is lost or doubled."""

import copy
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from histories import SESSIONS, Document
from pymongo import MongoClient, common
from rich.console import Console
from rich.progress import Progress
from soaking.load import Load, Settings
from soaking.verdict import judge

from mongodb_session_manager import MongoDBSessionManagerFactory

SOAK = Path(__file__).parents[2] / "benchmarks" / "soak.py"
SMALL = Settings(seconds=2, operations=100, sessions=6, threads=1, tasks=2, faults=0, kills=0, history=0)


def test_the_command_runs_under_faults_and_kills() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "MONGODB_URI"}
    sizes = "--minutes 0.05 --operations 300 --sessions 8 --threads 2 --tasks 2 --faults 8 --kills 2 --history 200"
    done = subprocess.run(
        [sys.executable, str(SOAK), *sizes.split()], env=environment, capture_output=True, text=True, timeout=600
    )

    assert done.returncode == 0, done.stdout + done.stderr
    cells = [[cell.strip() for cell in line.split("|")] for line in done.stdout.splitlines() if line.count("|") == 3]
    found = {name: figure for _, name, figure, _ in cells}
    assert int(found["MongoDB commands"].replace(",", "")) >= 300
    assert (found["writers killed"], found["server restarted"], found["server killed"]) == ("2", "1", "1")
    assert (found["lost"], found["duplicated"], found["otherwise wrong"]) == ("0", "0", "0")


@pytest.fixture(scope="module")
def client(mongodb_uri: str) -> Iterator[MongoClient[Document]]:
    with MongoClient[Document](mongodb_uri, tz_aware=True) as client:
        yield client


@pytest.fixture(scope="module")
def load(mongodb_uri: str) -> Iterator[Load]:
    """A small load that has ended, and what it must have stored."""
    load = Load(mongodb_uri, SMALL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(common, "MIN_HEARTBEAT_INTERVAL", common.MIN_HEARTBEAT_INTERVAL)  # put back afterwards
        load.run(Progress(console=Console(quiet=True)))
    yield load
    load.drop()


def pull_message(sessions: Any, session: Document, key: str) -> None:
    sessions.update_one({"_id": session["_id"]}, {"$pull": {f"agents.{key}.messages": {"message_id": 1}}})


def swap_for_another(sessions: Any, session: Document, key: str) -> None:
    message = {**session["agents"][key]["messages"][1], "content": [{"text": "Nobody said this."}]}
    sessions.update_one({"_id": session["_id"]}, {"$set": {f"agents.{key}.messages.1": message}})


def push_again(sessions: Any, session: Document, key: str) -> None:
    message = session["agents"][key]["messages"][0]
    sessions.update_one({"_id": session["_id"]}, {"$push": {f"agents.{key}.messages": message}})


def append_again(sessions: Any, session: Document, key: str) -> None:
    agent = session["agents"][key]
    message = {**agent["messages"][-2], "message_id": agent["guard"]["next_message_id"]}
    change = {"$push": {f"agents.{key}.messages": message}, "$inc": {f"agents.{key}.guard.next_message_id": 1}}
    sessions.update_one({"_id": session["_id"]}, change)


def pull_feedback(sessions: Any, session: Document, key: str) -> None:
    sessions.update_one({"_id": session["_id"]}, {"$pop": {"feedbacks": 1}})


def push_feedback(sessions: Any, session: Document, key: str) -> None:
    sessions.update_one({"_id": session["_id"]}, {"$push": {"feedbacks": session["feedbacks"][0]}})


def drop_metadata(sessions: Any, session: Document, key: str) -> None:
    sessions.update_one({"_id": session["_id"]}, {"$set": {"metadata": {"other": 1}}})


PLANTED = {
    pull_message: "lost",
    swap_for_another: "lost",
    push_again: "duplicated",
    append_again: "duplicated",
    pull_feedback: "lost",
    push_feedback: "duplicated",
    drop_metadata: "lost",
}


def test_a_whole_load_has_no_findings(load: Load) -> None:
    assert load.figures.findings == []
    assert load.messages > 20
    assert load.figures.operations["request"] > 0


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_what_is_lost_or_doubled_is_found(load: Load, client: MongoClient[Document], plant: Any) -> None:
    sessions = client[load.name][SESSIONS]
    # Its own copy of the richest session, under the same id, as ids are part of what is compared.
    session = max(sessions.find({"feedbacks.0": {"$exists": True}}), key=lambda each: len(str(each)))
    expected = next(each for each in load.sessions if each.session_id == session["_id"])
    key = max(session["agents"], key=lambda each: len(session["agents"][each]["messages"]))
    with MongoDBSessionManagerFactory(client=client, database_name=load.name) as factory:
        assert list(judge(factory, client[load.name], copy.deepcopy(expected))) == []
        sessions.replace_one({"_id": session["_id"]}, session)
        try:
            plant(sessions, session, key)
            found = {finding.kind for finding in judge(factory, client[load.name], copy.deepcopy(expected))}
        finally:
            sessions.replace_one({"_id": session["_id"]}, session)

    assert PLANTED[plant] in found
