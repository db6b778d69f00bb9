"""A conversation that goes on while things go wrong, and what has to be true of it afterwards."""

import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import pytest
from pymongo.errors import PyMongoError
from strands import Agent, ToolContext, tool
from strands.agent.conversation_manager import NullConversationManager
from strands.types.content import Message

from mongodb_session_manager import MongoDBSessionManager
from mongodb_session_manager.testing import ScriptedModel

LONGEST_WAIT = 60.0

# Messages move often, so that this too meets what happens.
moving_often = pytest.mark.limits(kept_messages=8, embedded_bytes=1)

_Result = TypeVar("_Result")


@tool(context=True)
def look_up(tool_context: ToolContext) -> str:
    """Look something up, and note that it was."""
    count = tool_context.agent.state.get("looked_up") or 0
    tool_context.agent.state.set("looked_up", count + 1)
    return "found"


class Conversation:
    """One agent that talks, and what it was told of each turn.

    Args:
        open_manager: Makes a manager of the session; tried again while the server is away.
        reopen: Makes one for a look at what is stored.
        degrades: Whether the manager does not raise: then a turn is acknowledged when nothing is pending.
    """

    def __init__(
        self,
        open_manager: Callable[[], MongoDBSessionManager],
        reopen: Callable[[], MongoDBSessionManager],
        *,
        degrades: bool = False,
    ) -> None:
        self.open, self._reopen, self.degrades = open_manager, reopen, degrades
        self.errors: list[PyMongoError] = []
        self.acknowledged: list[str] = []
        self.turns = self.acknowledged_turns = 0
        self.manager = eventually(open_manager)
        self.agent = eventually(lambda: make_agent(self.manager))

    def turn(self, *, with_tool: bool = False) -> PyMongoError | None:
        """Talk once, and return what went wrong."""
        self.turns += 1
        try:
            self.agent(f"{'Look up' if with_tool else 'Say'} {self.turns}")
        except PyMongoError as error:
            self.errors.append(error)
            return error
        if not (self.degrades and self.manager.health["pending"]):
            self.acknowledged = tracking_ids(self.agent.messages)
            self.acknowledged_turns += 1
        return None

    def talk_until_acknowledged(self, *, with_tool: bool = False) -> None:
        """Talk until a turn is stored."""
        deadline = time.monotonic() + LONGEST_WAIT
        while self.turn(with_tool=with_tool) or len(self.acknowledged) < len(self.agent.messages):
            assert time.monotonic() < deadline, self.errors[-1:]
            time.sleep(0.05)

    def check(self) -> None:
        """Nothing lost, nothing doubled, nothing mixed: what a new process finds is what is live."""
        live = self.agent.messages
        with eventually(self._reopen) as manager:
            records = manager.list_messages("default")
            restored = make_agent(manager)
            assert manager.list_messages("default") == records, "the restored history had to be mended"
        assert restored.messages == live
        assert restored.state.get() == self.agent.state.get()
        assert [record["message_id"] for record in records] == list(range(len(live)))
        ids = [record["tracking_id"] for record in records]
        assert len(set(ids)) == len(ids)
        assert ids == tracking_ids(live)
        assert ids[: len(self.acknowledged)] == self.acknowledged
        assert_pairs(live)
        assert self.manager.health == {"ok": True, "pending": 0, "last_error": None}


Converse = Callable[..., Conversation]


def make_agent(manager: MongoDBSessionManager) -> Agent:
    return Agent(
        model=ScriptedModel(default=_reply),
        tools=[look_up],
        # So that what is live can be compared with all that is stored.
        conversation_manager=NullConversationManager(),
        session_manager=manager,
        callback_handler=None,
    )


def _reply(messages: list[Message]) -> Any:
    prompted = messages[-1]["content"][-1].get("text", "")
    if prompted.startswith("Look up"):
        return {"toolUse": {"toolUseId": f"t-{len(messages)}", "name": "look_up", "input": {}}}
    return "Okay."


def tracking_ids(messages: Iterable[Message]) -> list[str]:
    return [message["tracking_id"] for message in messages]


def assert_pairs(messages: list[Message]) -> None:
    """Every tool call has its result in the next message, and no result stands alone."""
    called: set[str] = set()
    for message in messages:
        answered = {block["toolResult"]["toolUseId"] for block in message["content"] if "toolResult" in block}
        assert answered == called
        called = {block["toolUse"]["toolUseId"] for block in message["content"] if "toolUse" in block}
    assert not called


def eventually(act: Callable[[], _Result]) -> _Result:
    """Return what comes of it as soon as the server takes it."""
    deadline = time.monotonic() + LONGEST_WAIT
    while True:
        try:
            return act()
        except PyMongoError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
