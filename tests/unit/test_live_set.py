"""Which stored messages are live is followed through whatever happens to a list."""

import os

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.live_lists import ACTS, Lists

# Some hundred examples each time; LIVE_SET_EXAMPLES=10000 for all that one has time for.
EXAMPLES = int(os.environ.get("LIVE_SET_EXAMPLES", "300"))


@settings(deadline=None, max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**16), st.booleans(), st.lists(st.sampled_from(sorted(ACTS)), max_size=25))
def test_what_stood_in_the_list_comes_back(seed: int, gives_copies: bool, acts: list[str]) -> None:
    lists = Lists(seed)
    for act in acts:
        ACTS[act](lists)
        if act in ("look", "restart"):
            lists.check()
    lists.look()
    lists.check()
    lists.restart()
    lists.check()
