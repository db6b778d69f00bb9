"""Processes that fill one session together, and move each other's messages out of its document."""

import os
import random
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from histories import traces
from killing.child import Moment
from killing.crowd import Speaker, Step
from killing.full_session import FullSession
from pymongo import MongoClient

from tests.talking import user

KIB = 1024
MIB = KIB * KIB

TURNS = int(os.environ.get("FULL_SESSION_TURNS", "5"))
KILLS_EACH = int(os.environ.get("FULL_SESSION_KILLS", "4"))
SEEDS = int(os.environ.get("FULL_SESSION_SEEDS", "2"))
# Seconds; a turn of all agents of a process takes about a tenth of that.
LONGEST = 0.5
# That a move takes at least where it is to find that somebody wrote meanwhile.
LONG = 0.2
# Bytes of tool results; a move of many small ones makes the last segment longer.
LARGE, SMALL = (85_000,), (20_000,)


@pytest.fixture
def session(observer: MongoClient[dict[str, Any]], mongodb_uri: str, database_name: str) -> Iterator[FullSession]:
    with FullSession(observer, mongodb_uri, database_name, "full") as made:
        yield made


def names(process: int, count: int) -> list[str]:
    return [f"{process}-{number}" for number in range(count)]


@pytest.mark.parametrize(
    ("processes", "agents", "sizes"),
    [(2, 4, (85_000,)), (3, 3, (85_000, 200, 240_000)), (2, 12, (15_000,))],
    ids=["two processes", "three and other sizes", "many agents"],
)
def test_processes_that_move_each_others_messages_lose_none(
    session: FullSession, processes: int, agents: int, sizes: Sequence[int]
) -> None:
    crowd = [session.start(str(n), names(n, agents), sizes=sizes, turns=TURNS) for n in range(processes)]

    assert [session.end(process) for process in crowd] == [True] * processes

    assert list(session.findings()) == []
    assert session.size() < MIB
    everybody = {agent_id for process in crowd for agent_id in process.plan.agent_ids}
    assert all(len(session.stored(agent_id)) == 4 * TURNS for agent_id in everybody)
    assert any((process.moved or set()) - set(process.plan.agent_ids) for process in crowd)
    assert list(session.go_on(sorted(everybody))) == []


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_process_that_is_killed_again_and_again_loses_nothing(session: FullSession, seed: int) -> None:
    choices = random.Random(seed)
    steady, others = session.start("steady", names(0, 3)), names(1, 3)
    for number in range(KILLS_EACH):
        victim = session.start(f"victim {number}", others, first=1_000 * number, linger=choices.choice((0, 0.02)))
        victim.wait_for_first()
        time.sleep(choices.uniform(0, LONGEST))
        victim.kill()
        assert not session.end(victim)
    steady.stop()
    assert session.end(steady)

    assert list(session.findings()) == []
    assert session.size() < MIB
    assert list(session.go_on(names(0, 3) + others)) == []


STEPS: list[tuple[Step, Moment]] = [
    ("inserted", "started"),
    ("inserted", "succeeded"),
    ("lengthened", "succeeded"),
    ("recorded", "started"),
    ("recorded", "succeeded"),
    ("taken back", "started"),
    ("taken back", "succeeded"),
]


@pytest.mark.parametrize(("step", "moment"), STEPS)
def test_a_process_may_be_killed_in_any_step_of_a_move(session: FullSession, step: Step, moment: Moment) -> None:
    crowd = {"sizes": SMALL if step == "lengthened" else LARGE, "linger": LONG if step == "taken back" else 0}
    steady = session.start("steady", names(0, 2), **crowd)
    victim = session.start("victim", names(1, 2), **crowd, kill_in=step, moment=moment)
    assert not session.end(victim)
    following = session.start("following", names(1, 2), turns=2 * TURNS, first=1_000)
    assert session.end(following)
    steady.stop()
    assert session.end(steady)

    assert following.moved
    assert list(session.findings()) == []
    assert session.size() < MIB
    assert list(session.go_on(names(0, 2) + names(1, 2))) == []


def test_what_a_killed_process_left_behind_is_a_copy_that_nobody_reads(session: FullSession) -> None:
    assert not session.end(session.start("victim", names(0, 3), kill_in="inserted"))

    left = session.left_over()
    assert left
    assert list(session.findings()) == []
    for agent_id, copies in left.items():
        stored = session.stored(agent_id)
        assert [copy["tracking_id"] for copy in copies] == [
            stored[copy["message_id"]]["tracking_id"] for copy in copies
        ]


def test_a_redaction_and_a_deletion_reach_what_was_left_behind(session: FullSession) -> None:
    assert not session.end(session.start("victim", names(0, 3), kill_in="inserted"))
    agent_id, copies = next(iter(session.left_over().items()))
    told: Any = {name: copies[0][name] for name in ("role", "content", "tracking_id")}

    with session.new_manager() as manager:
        agent = Speaker(manager, agent_id).agent
        manager.append_message(told, agent)  # as a client does that tries again
        manager.redact_latest_message(user("[hidden]"), agent)

    assert session.left_over()[agent_id][0]["content"] == [{"text": "[hidden]"}]
    assert session.stored(agent_id)[0]["content"] == [{"text": "[hidden]"}]
    session.delete()
    assert list(traces(session.database, agent_id)) == []


@pytest.mark.parametrize(("processes", "room"), [(2, 100 * KIB), (3, 40)], ids=["two processes", "three, no room"])
def test_a_session_at_the_limit_takes_what_several_processes_write_at_once(
    session: FullSession, processes: int, room: int
) -> None:
    everybody = [f"old-{number}" for number in range(11)]
    session.begin(everybody)
    session.crowd(everybody, 16 * MIB - room)
    assert session.size() == 16 * MIB - room

    own = [everybody[n::processes] for n in range(processes)]
    crowd = [session.start(str(n), own[n][:2] + names(n, 1), turns=2) for n in range(processes)]
    assert [session.end(process) for process in crowd] == [True] * processes

    assert list(session.findings()) == []
    assert session.size() < MIB
    assert list(session.go_on(everybody)) == []
