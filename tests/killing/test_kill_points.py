"""A writer that is killed between any two of its commands, and at each of them."""

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import get_args

import pytest
from histories import Finding
from killing.child import Moment
from killing.victim import Victim

from mongodb_session_manager.types import Durability

NewVictim = Callable[[str, Durability], Victim]

# So many commands the conversation takes at least; a writer that is never killed would show nothing.
FEWEST = {"sync": 35, "async": 28, "exit": 22}
AT_ONCE = 2
# A number that no command has.
WHOLE = 1_000_000


@pytest.mark.parametrize("moment", get_args(Moment))
@pytest.mark.parametrize("durability", get_args(Durability))
def test_what_was_acknowledged_is_there_after_a_kill_at_any_command(
    new_victim: NewVictim, durability: Durability, moment: Moment
) -> None:
    def kill_at(number: int) -> tuple[bool, list[Finding]]:
        victim = new_victim(f"killed at {number}", durability)
        killed = victim.run(number, moment)
        return killed, [*victim.findings(), *victim.go_on()]

    kills = 0
    with ThreadPoolExecutor(AT_ONCE) as threads:
        for first in itertools.count(1, 2 * AT_ONCE):
            outcomes = list(threads.map(kill_at, range(first, first + 2 * AT_ONCE)))
            assert [finding for _, findings in outcomes for finding in findings] == []
            kills += sum(killed for killed, _ in outcomes)
            if not any(killed for killed, _ in outcomes):
                break

    assert kills >= FEWEST[durability]


@pytest.mark.parametrize("moment", get_args(Moment))
def test_a_deletion_can_be_finished_after_a_kill_at_any_command(new_victim: NewVictim, moment: Moment) -> None:
    for number in itertools.count(1):
        victim = new_victim(f"deleted at {number}", "sync")
        victim.run(WHOLE, moment)
        if not victim.run_deletion(number, moment):
            break
        victim.delete()
        assert list(victim.remains()) == []

    assert list(victim.remains()) == []
    assert number > 3
