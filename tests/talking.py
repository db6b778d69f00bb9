"""What tests say to agents, in which ways, and how they read what was said."""

from collections.abc import Iterable
from typing import Any

import pytest
from strands import Agent, ToolContext, tool
from strands.types.content import Message

every_durability = pytest.mark.parametrize("durability", ["sync", "async", "exit"])


# Tools, and a model's calls of them


@tool
def look_up(word: str) -> str:
    """Look a word up."""
    if word == "unknown":
        raise LookupError(word)
    return f"{word}: a fruit, or a bird"


@tool(context=True)
def take_note(tool_context: ToolContext) -> str:
    """Change the agent's state."""
    tool_context.agent.state.set("noted", True)
    return "noted"


@tool(context=True)
def ask(tool_context: ToolContext) -> str:
    """Ask a human."""
    return f"the answer was {tool_context.interrupt('approval', reason='may I?')}"


def look(word: str, number: int = 1) -> dict[str, Any]:
    return {"toolUse": {"toolUseId": f"t-{number}", "name": "look_up", "input": {"word": word}}}


LOOK = look("kiwi")
# Their numbers are none that a call of look() has.
NOTE = {"toolUse": {"toolUseId": "t-9", "name": "take_note", "input": {}}}
ASK = {"toolUse": {"toolUseId": "t-10", "name": "ask", "input": {}}}


# Messages


def user(text: str) -> Message:
    return {"role": "user", "content": [{"text": text}]}


def without_ids(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """What was said; messages that the SDK does not append itself get their tracking ids from the library."""
    return [{name: part for name, part in message.items() if name != "tracking_id"} for message in messages]


def texts(messages: Iterable[Message]) -> list[str]:
    return [block["text"] for message in messages for block in message["content"] if "text" in block]


# Ways to talk


async def by_calling(agent: Agent, prompt: str) -> None:
    agent(prompt)


async def by_invoking(agent: Agent, prompt: str) -> None:
    await agent.invoke_async(prompt)


async def by_streaming(agent: Agent, prompt: str) -> None:
    async for _ in agent.stream_async(prompt):
        pass


every_way_to_talk = pytest.mark.parametrize("talk", [by_calling, by_invoking, by_streaming])
