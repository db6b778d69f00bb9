"""What is stored of the state of a Graph or Swarm, without a server."""

from typing import Any

import bson
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strands.types.session import encode_bytes_values

from mongodb_session_manager._schema.multi_agents import decode_multi_agent, encode_multi_agent
from mongodb_session_manager._schema.values import CODEC_OPTIONS

MARK = {"__bytes_encoded__": True, "data": "aGVsbG8="}  # what the SDK makes of b"hello"

leaves = st.none() | st.integers() | st.text(max_size=3) | st.binary(max_size=3) | st.just(MARK)
keys = st.sampled_from(["a", "message", "type", "current_task", "__bytes_encoded__", "data", "%file", "$x", ""])
values = st.recursive(
    leaves | st.just("agent_result") | st.just(True),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.dictionaries(keys, values, max_size=4), st.booleans())
def test_any_state_comes_back(state: dict[str, Any], encoded: bool) -> None:
    """Also one that the SDK has not made, and one that is made by its encoding."""
    state = encode_bytes_values(state) if encoded else state

    fields = encode_multi_agent("s-1", "g", state).fields
    fields = bson.decode(bson.encode(fields), codec_options=CODEC_OPTIONS)

    assert decode_multi_agent(fields) == state


def test_what_is_nested_deep_comes_back() -> None:
    state: Any = b"deep"
    for _ in range(80):
        state = [{"a": state}]
    state = encode_bytes_values({"state": state})

    fields = encode_multi_agent("s-1", "g", state).fields

    assert b"deep" in bson.encode(fields)
    assert decode_multi_agent(fields) == state


def test_ordinary_states_are_stored_as_they_are() -> None:
    state = {"type": "graph", "node_results": {"a": {"result": {"type": "agent_result", "message": {"role": "user"}}}}}

    assert encode_multi_agent("s-1", "g", state).fields == {"state": state}
