"""What stood in an agent's list stands there again after a restart, and nothing else."""

import os
import uuid

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.aliases import NewManager
from tests.integration.history.live_agents import ACTS, KINDS, Conversation

EXAMPLES = int(os.environ.get("LIVE_AGENT_EXAMPLES", "30"))
ANY_ACT = st.sampled_from(sorted(ACTS)) | st.sampled_from(["talk", "talk_at_length", "restart"])


@settings(deadline=None, max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(sorted(KINDS)),
    st.sampled_from(["sync", "async", "exit"]),
    st.integers(0, 2**16),
    st.lists(ANY_ACT, max_size=10),
)
@pytest.mark.filterwarnings("ignore")
def test_what_is_live_comes_back(
    new_manager: NewManager, kind: str, durability: str, seed: int, acts: list[str]
) -> None:
    session_id = uuid.uuid4().hex
    conversation = Conversation(lambda how: new_manager(session_id, durability=how), kind, durability, seed)
    for act in [*acts, "restart", "talk", "restart"]:
        ACTS[act](conversation)
