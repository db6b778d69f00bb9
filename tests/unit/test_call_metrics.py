"""The figures of a model call, as the SDK tells them."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from strands.types.content import Message

from mongodb_session_manager._history.call_metrics import call_metrics, ends_invocation


def answer(**metadata: Any) -> Message:
    content = [{"text": "Okay."}]
    return cast(Message, {"role": "assistant", "content": content, **({"metadata": metadata} if metadata else {})})


def agent(usage: Any = None, metrics: Any = None) -> Any:
    counted = SimpleNamespace(
        accumulated_usage=usage or {"inputTokens": 0, "outputTokens": 0, "totalTokens": 0},
        accumulated_metrics=metrics or {"latencyMs": 0},
    )
    return SimpleNamespace(event_loop_metrics=counted)


USAGE = {"inputTokens": 10, "outputTokens": 5, "totalTokens": 15}


@pytest.mark.parametrize(
    ("live", "metadata", "usage", "metrics"),
    [
        (agent(), {"usage": USAGE, "metrics": {"latencyMs": 3}}, USAGE, {"latencyMs": 3}),
        (
            agent({**USAGE, "cacheReadInputTokens": 1}, {"latencyMs": 7}),
            {"usage": {**USAGE, "cacheWriteInputTokens": 2}, "metrics": {"latencyMs": 3, "timeToFirstByteMs": 2}},
            {
                "inputTokens": 20,
                "outputTokens": 10,
                "totalTokens": 30,
                "cacheReadInputTokens": 1,
                "cacheWriteInputTokens": 2,
            },
            {"latencyMs": 10, "timeToFirstByteMs": 2},
        ),
        (
            agent(USAGE, {"latencyMs": 7}),
            {"usage": USAGE},
            {name: 2 * n for name, n in USAGE.items()},
            {"latencyMs": 7},
        ),
        (SimpleNamespace(), {"usage": USAGE, "metrics": {"latencyMs": 3}}, USAGE, {"latencyMs": 3}),
    ],
    ids=["first call", "second call", "no metrics", "an agent that does not count"],
)
def test_the_call_is_added_to_what_was_counted(live: Any, metadata: Any, usage: Any, metrics: Any) -> None:
    found = call_metrics(answer(**metadata), live)

    assert found == {
        "accumulated_usage": usage,
        "accumulated_metrics": metrics,
        "usage": metadata["usage"],
        "metrics": metadata.get("metrics", {}),
    }


@pytest.mark.parametrize(
    "message",
    [
        answer(),
        answer(custom={"a": 1}),
        answer(usage={}, metrics={}),
        {"role": "user", "content": [], "metadata": {"usage": USAGE, "metrics": {"latencyMs": 3}}},
    ],
    ids=["no metadata", "custom", "empty", "user"],
)
def test_messages_that_no_call_brought_have_none(message: Message) -> None:
    assert call_metrics(message, agent()) is None


@pytest.mark.parametrize(
    ("role", "content", "expected"),
    [
        ("assistant", [{"text": "Done."}], True),
        ("assistant", [], True),
        ("assistant", [{"text": "Let me see."}, {"toolUse": {}}], False),
        ("user", [{"text": "Hi"}], False),
    ],
)
def test_what_ends_an_invocation(role: str, content: Any, expected: bool) -> None:
    assert ends_invocation(cast(Message, {"role": role, "content": content})) is expected
