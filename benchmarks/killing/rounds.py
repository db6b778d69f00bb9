"""Writers of one session that are killed one after the other, each in the midst of its turns."""

import random
from collections.abc import Callable, Iterator
from typing import get_args

from histories import Finding

from mongodb_session_manager.types import Durability

from .victim import Victim

KILLS_EACH = 5
# Seconds; a turn takes a few milliseconds.
LONGEST = 0.15


def kill_at_random(
    choices: random.Random, new_victim: Callable[[str, Durability], Victim], kills: int
) -> Iterator[Finding]:
    """Kill the writers of one session, resume after each, and tell what was lost or doubled.

    Args:
        choices: Decides when.
        new_victim: Makes a session, by its id and the durability of its writers.
        kills: How many.
    """
    victim = new_victim(f"killed {choices.getrandbits(64):x}", choices.choice(get_args(Durability)))
    for _ in range(kills):
        victim.run_for(choices.uniform(0, LONGEST))
        yield from victim.findings()
        yield from victim.go_on()
