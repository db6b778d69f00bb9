"""An agent with a tool: how calls are stored, what the next process sees, and how many calls and tokens were used.

Run it as it is: it needs no account and no network.
"""

from typing import Any
from uuid import uuid4

from pymongo import MongoClient
from strands import Agent, tool
from strands.types.content import Messages

from mongodb_session_manager import MongoDBSessionManager
from mongodb_session_manager.testing import MongodNotFoundError, MongodStartError, ScriptedModel, running_mongodb


@tool
def divide(dividend: float, divisor: float) -> float:
    """Divide one number by another.

    Args:
        dividend: The number to divide.
        divisor: The number to divide it by.
    """
    return dividend / divisor


def main() -> None:
    session_id = f"calculator-{uuid4()}"
    with running_mongodb() as uri, MongoClient[dict[str, Any]](uri) as client:
        # 1. One call succeeds and one fails. The model gets the error, and the conversation continues.
        with MongoDBSessionManager(session_id, client=client) as manager:
            agent = make_agent(manager, [call(84, 2), tool_answer, call(1, 0), tool_answer])
            talk(agent, "What is 84 divided by 2?")
            talk(agent, "What is 1 divided by 0?")

        # 2. The next process restores the conversation, with the calls and their results.
        with MongoDBSessionManager(session_id, client=client) as manager:
            agent = make_agent(manager, [lambda messages: f"You asked {len(questions(messages))} questions."])
            print(f"\nrestored: {len(agent.messages)} messages")
            talk(agent, "How many questions did I ask?")
            show(manager)
            manager.delete_session()


def make_agent(manager: MongoDBSessionManager, script: list[Any]) -> Agent:
    return Agent(
        model=ScriptedModel(script),
        agent_id="calculator",
        tools=[divide],
        session_manager=manager,
        callback_handler=None,
    )


def call(dividend: float, divisor: float) -> dict[str, Any]:
    numbers = {"dividend": dividend, "divisor": divisor}
    return {"toolUse": {"toolUseId": str(uuid4()), "name": "divide", "input": numbers}}


def tool_answer(messages: Messages) -> str:
    return messages[-1]["content"][0]["toolResult"]["content"][0]["text"]


def questions(messages: Messages) -> list[str]:
    said = [block.get("text", "") for message in messages if message["role"] == "user" for block in message["content"]]
    return [text for text in said if text.endswith("?")]


def talk(agent: Agent, prompt: str) -> None:
    print(f"user:  {prompt}")
    print(f"agent: {str(agent(prompt)).strip()}")


def show(manager: MongoDBSessionManager) -> None:
    print("\nstored:")
    for message in manager.list_messages("calculator"):
        print(f"  {message['message_id']} {message['role']:9} {', '.join(map(describe, message['content']))}")
    usage = manager.get_usage_summary()
    divided = usage["tools"]["divide"]
    print(f"\nused: {usage['model_calls']} model calls, {usage['usage']['totalTokens']} tokens")
    print(f"divide: {divided['calls']} calls, {divided['successes']} succeeded, {divided['errors']} failed")


def describe(block: dict[str, Any]) -> str:
    if "toolUse" in block:
        return f"calls {block['toolUse']['name']}"
    return f"{block['toolResult']['status']} of a tool" if "toolResult" in block else block["text"]


if __name__ == "__main__":
    try:
        main()
    except (MongodNotFoundError, MongodStartError) as error:
        raise SystemExit(str(error)) from None
