"""Agents of the load, and what to do until everything they said is stored."""

import time
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from killing.script import count
from pymongo.errors import PyMongoError
from strands import Agent
from strands.agent.conversation_manager import SlidingWindowConversationManager
from strands.types.content import Message
from workload import Model

from mongodb_session_manager import MongoDBSessionManager
from mongodb_session_manager.testing import Turn

from .figures import Figures

PATIENCE = 120.0
PAUSE = 0.02

_T = TypeVar("_T")


def until_done(call: Callable[[], _T], figures: Figures) -> _T:
    """Repeat a call that may be repeated until no fault meets it."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return call()
        except PyMongoError as error:
            figures.failed(error)
            if time.monotonic() > deadline:
                raise
            time.sleep(PAUSE)


class Talk:
    """A manager and an agent that say what they are given."""

    def __init__(self, manager: MongoDBSessionManager, agent_id: str) -> None:
        self.manager = manager
        self.replies: deque[Turn] = deque()
        self.agent = Agent(
            model=Model(default=lambda _: self.replies.popleft(), latency_ms=0),
            agent_id=agent_id,
            tools=[count],
            conversation_manager=SlidingWindowConversationManager(window_size=40),
            session_manager=manager,
            callback_handler=None,
        )

    def live(self) -> dict[int, Message]:
        """What the agent holds, by the position in the whole history."""
        return dict(enumerate(self.agent.messages, start=self.agent.conversation_manager.removed_message_count))


def tool_call(number: int) -> dict[str, object]:
    return {"toolUse": {"toolUseId": f"t-{number}", "name": "count", "input": {"number": number}}}
