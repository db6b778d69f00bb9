"""The conversation in which a writer is killed."""

import dataclasses
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from strands import Agent, ToolContext, tool
from strands.agent.conversation_manager import SlidingWindowConversationManager
from strands.types.content import Message, Messages

from mongodb_session_manager import MongoDBSessionManager
from mongodb_session_manager._schema.limits import Limits
from mongodb_session_manager.testing import Redaction, ScriptedModel, Turn

WINDOW = 6
# Messages move as soon as a document holds more than eight.
SMALL_DOCUMENTS = Limits(kept_messages=4, embedded_bytes=1)
HIDDEN = "[hidden]"
SECRET = "secret-"


@dataclass(frozen=True)
class Step:
    """One turn.

    Attributes:
        prompt: What the user says.
        replies: What the model says, call after call.
        redacts: What a guardrail takes out of the history in this turn.
        reopened: Whether another manager and another agent go on from what is stored.
    """

    prompt: str | Messages
    replies: tuple[Turn, ...] = ("Very well.",)
    redacts: str | None = None
    reopened: bool = False


@tool(context=True)
def count(number: int, tool_context: ToolContext) -> str:
    """Keep a number in the agent's state.

    Args:
        number: The number.
        tool_context: Names the agent.
    """
    tool_context.agent.state.set("number", number)
    return str(number)


def counting(number: int) -> Step:
    """A turn with a tool call that changes the agent's state."""
    call = {"toolUse": {"toolUseId": f"t-{number}", "name": "count", "input": {"number": number}}}
    return Step(f"Count {number}", (call, f"Counted {number}."))


def telling(number: int) -> Step:
    """A turn with a prompt that must not stay."""
    return Step([secret(number)])


def secret(number: int) -> Message:
    """Sent again it is the same message, as of a client that repeats a request."""
    text = f"{SECRET}{number}"
    return {"role": "user", "content": [{"text": f"{text}."}], "tracking_id": text}


def blocked(message: Message) -> Step:
    """A turn in which a guardrail steps in."""
    prompt: Message = {
        "role": "user",
        "content": message["content"],
        "tracking_id": message["tracking_id"],
    }
    redaction = Redaction(user_message=HIDDEN, assistant_message=HIDDEN)
    return Step([prompt], (redaction,), redacts=message["content"][0]["text"])


def every_kind() -> Sequence[Step]:
    """Each thing that a writer does, once; in small documents old messages move, and the first with them."""
    return (
        dataclasses.replace(telling(2), reopened=True),
        counting(1),
        Step("Hello"),
        Step("Anything else?"),
        blocked(secret(2)),
        dataclasses.replace(counting(3), reopened=True),
    )


def endless(first: int) -> Iterator[Step]:
    """Turns of all kinds, as long as they last; ``first`` makes what is said in them unique."""
    number = first
    while True:
        yield dataclasses.replace(counting(number), reopened=True)
        yield Step(f"Hello {number}")
        yield telling(number)
        yield counting(number + 1)
        yield blocked(secret(number))
        number += 2


class Conversation:
    """A manager and an agent that hold one turn after the other.

    Args:
        manager: The manager; closed by ``close``.
    """

    def __init__(self, manager: MongoDBSessionManager) -> None:
        self._manager = manager
        self._replies: deque[Turn] = deque()
        self.agent = Agent(
            model=ScriptedModel(default=lambda _: self._replies.popleft(), latency_ms=0),
            tools=[count],
            conversation_manager=SlidingWindowConversationManager(window_size=WINDOW),
            session_manager=manager,
            callback_handler=None,
        )

    def hold(self, step: Step) -> None:
        self._replies.extend(step.replies)
        self.agent(step.prompt)

    def messages(self) -> dict[int, Message]:
        """What the agent holds, by the position in the whole history, which is the id."""
        return dict(enumerate(self.agent.messages, start=self.agent.conversation_manager.removed_message_count))

    def close(self) -> None:
        self._manager.close()
