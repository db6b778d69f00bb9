"""Stream an answer, leave a stream in the middle, and stream for several users in one event loop.

Run it as it is: it needs no account and no network.
"""

import asyncio
from uuid import uuid4

from strands import Agent
from strands.types.content import Messages

from mongodb_session_manager import MongoDBSessionManager, MongoDBSessionManagerFactory
from mongodb_session_manager.testing import MongodNotFoundError, MongodStartError, ScriptedModel, running_mongodb

USERS = ("Ada", "Grace", "Edsger")


def main() -> None:
    # The server in MONGODB_URI, or a private server that ends with this program.
    with running_mongodb() as uri, MongoDBSessionManagerFactory(uri, durability="async") as factory:
        asyncio.run(converse(factory, str(uuid4())))


async def converse(factory: MongoDBSessionManagerFactory, prefix: str) -> None:
    # 1. A complete answer. It is stored when the stream has ended.
    print(f"answer:    {await stream(factory, f'{prefix}-Ada', 'My name is Ada.')}")

    # 2. A stream that is left in the middle. The prompt is stored, with a note of the SDK in place of the answer.
    async with factory.session(f"{prefix}-Ada", agent_ids=["assistant"]) as manager:
        agent = make_agent(manager)
        async for event in agent.stream_async("Tell me a long story."):
            if "data" in event:
                agent.cancel()  # then the SDK ends the stream in order
        stored = await manager.alist_messages("assistant")
        print(f"left:      {len(stored)} messages, the last one: {stored[-1]['content'][0]['text']!r}")

    # 3. The conversation continues.
    print(f"goes on:   {await stream(factory, f'{prefix}-Ada', 'Are you still there?')}")

    # 4. Several users at once in one event loop, each in a session of its own.
    answers = await asyncio.gather(*(stream(factory, f"{prefix}-{user}", f"I am {user}.") for user in USERS))
    for user, answer in zip(USERS, answers, strict=True):
        print(f"{user + ':':<10} {answer}")

    for user in USERS:
        async with factory.session(f"{prefix}-{user}") as manager:
            await asyncio.to_thread(manager.delete_session)


async def stream(factory: MongoDBSessionManagerFactory, session_id: str, prompt: str) -> str:
    """Return the streamed text as one string."""
    said = []
    async with factory.session(session_id, agent_ids=["assistant"]) as manager:
        async for event in make_agent(manager).stream_async(prompt):
            if "data" in event:
                said.append(event["data"])
    return "".join(said)


def make_agent(manager: MongoDBSessionManager) -> Agent:
    model = ScriptedModel(default=answer)
    return Agent(model=model, agent_id="assistant", session_manager=manager, callback_handler=None)


def answer(messages: Messages) -> str:
    """Make an answer from the conversation alone, as a model does."""
    said = [block["text"] for message in messages if message["role"] == "user" for block in message["content"]]
    return f"You said {len(said)} things, first {said[0]!r}."


if __name__ == "__main__":
    try:
        main()
    except (MongodNotFoundError, MongodStartError) as error:
        raise SystemExit(str(error)) from None
