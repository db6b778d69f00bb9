"""What every contender is given to do: the same messages, the same agent, the same model."""

import uuid
from collections.abc import AsyncGenerator, Sequence
from typing import Any, cast

from strands import Agent, tool
from strands.agent.conversation_manager import SlidingWindowConversationManager
from strands.hooks import HookProvider
from strands.session.session_manager import SessionManager
from strands.types.content import Message, Messages
from strands.types.streaming import StreamEvent

from mongodb_session_manager.testing import ScriptedModel, Turn

WINDOW = 40
MESSAGE_BYTES = 500

# As long as the ids of Bedrock's models.
MODEL_ID = "us.anthropic.claude-sonnet-4-20250514-v1:0"

PROMPT = "p" * MESSAGE_BYTES
REPLY = "r" * MESSAGE_BYTES
TOOL_CALL = {"toolUse": {"toolUseId": "t-1", "name": "look_up", "input": {"word": "w" * (MESSAGE_BYTES // 2)}}}


@tool
def look_up(word: str) -> str:
    """Look a word up."""
    return word * 2


def new_session(count: int) -> str:
    """An id for a session with so many messages; an agent that stores nothing knows them by it."""
    return f"{count}-{uuid.uuid4().hex}"


def history_of(session_id: str) -> int:
    return int(session_id.partition("-")[0])


def history(count: int) -> list[Message]:
    """Messages as the SDK makes them in a conversation."""
    return [_message(number) for number in range(count)]


def _message(number: int) -> Message:
    tracking_id = f"00000000-0000-4000-8000-{number:012}"
    message: dict[str, Any]
    if number % 2 == 0:
        message = {"role": "user", "content": [{"text": PROMPT}], "tracking_id": tracking_id}
    else:
        message = {
            "role": "assistant",
            "content": [{"text": REPLY}],
            "tracking_id": tracking_id,
            "metadata": {
                "usage": {"inputTokens": 10, "outputTokens": 5, "totalTokens": 15},
                "metrics": {"latencyMs": 1, "timeToFirstByteMs": 1},
            },
        }
    return cast(Message, message)


class Model(ScriptedModel):
    """Says its script without a copy of what it is asked: that would cost more than the rest of a turn."""

    def stream(self, messages: Messages, *args: Any, **kwargs: Any) -> AsyncGenerator[StreamEvent, None]:
        return super().stream([], *args, **kwargs)


def removed_of(count: int) -> int:
    """How many messages of a history the sliding window has left behind."""
    return max(0, count - WINDOW)


def new_agent(
    messages: Sequence[Message] = (),
    *,
    removed: int = 0,
    with_tool: bool = False,
    latency_ms: int = 0,
    hooks: Sequence[HookProvider] = (),
    session_manager: SessionManager[Any] | None = None,
) -> Agent:
    script: list[Turn] = [TOOL_CALL, REPLY] if with_tool else [REPLY]
    window = SlidingWindowConversationManager(window_size=WINDOW)
    window.removed_message_count = removed
    return Agent(
        model=Model(script, cycle=True, latency_ms=latency_ms, model_id=MODEL_ID),
        messages=list(messages),
        tools=[look_up],
        conversation_manager=window,
        hooks=list(hooks),
        session_manager=session_manager,
        callback_handler=None,
    )
