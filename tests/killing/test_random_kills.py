"""Writers that are killed at any time."""

import random
from collections.abc import Callable

import pytest
from killing.rounds import KILLS_EACH, kill_at_random
from killing.victim import Victim

from mongodb_session_manager.types import Durability

NewVictim = Callable[[str, Durability], Victim]


@pytest.mark.parametrize("seed", range(6))
def test_what_was_acknowledged_is_there_after_kill_upon_kill(new_victim: NewVictim, seed: int) -> None:
    assert list(kill_at_random(random.Random(seed), new_victim, KILLS_EACH)) == []
