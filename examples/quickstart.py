"""Talk to an agent whose conversation is stored in MongoDB. Run it again, and the conversation continues.

The scripted model needs no network and knows only the messages that it is given, so what it remembers was stored.
``--model bedrock:MODEL_ID`` uses a real model.
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from pprint import pp
from typing import Any

import mongomock
from pymongo.errors import PyMongoError
from strands import Agent
from strands.models import BedrockModel, Model
from strands.types.content import Messages

from mongodb_session_manager import MongoDBConnectionPool, MongoDBSessionManager
from mongodb_session_manager.testing import MongodNotFoundError, MongodStartError, ScriptedModel, running_mongodb

DATA_FOLDER = Path("quickstart-data")
FIRST_TIME = ["Hello, my name is Ada.", "What is my name?"]
NEXT_TIME = ["Hello again! Do you still know my name?"]


def main() -> None:
    arguments = parse_arguments()
    with ExitStack() as stack:
        uri = None if arguments.mongomock else start_server(stack)
        try:
            converse(connect(stack, uri), arguments)
        except PyMongoError as error:
            raise SystemExit(f"MongoDB: {type(error).__name__}: {error}") from None


def converse(client: Any, arguments: argparse.Namespace) -> None:
    database = client.get_default_database("quickstart")
    with MongoDBSessionManager(arguments.session, client=client, database_name=database.name) as manager:
        agent = Agent(model=arguments.model, agent_id="assistant", session_manager=manager, callback_handler=None)
        talk(agent, arguments.message)
    show(database["agent_sessions"].find_one({"_id": arguments.session}))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("message", nargs="*", help="what to say instead of the prepared messages")
    parser.add_argument("--model", type=make_model, default="scripted", help="scripted (default) or bedrock:MODEL_ID")
    parser.add_argument("--session", default="quickstart", help="id of the session (default: %(default)s)")
    parser.add_argument("--mongomock", action="store_true", help="keep the session in memory only")
    return parser.parse_args()


def make_model(name: str) -> Model:
    provider, _, model_id = name.partition(":")
    if provider == "bedrock" and model_id:
        return BedrockModel(model_id=model_id)
    if name == "scripted":
        return ScriptedModel(default=answer)
    raise argparse.ArgumentTypeError(f"{name!r} is neither 'scripted' nor 'bedrock:MODEL_ID'")


def answer(messages: Messages) -> str:
    """Make an answer from the conversation alone, as a model does."""
    said = [block.get("text", "") for message in messages if message["role"] == "user" for block in message["content"]]
    names = [name for text in said for name in re.findall(r"my name is (\w+)", text, re.IGNORECASE)]
    known = f"Your name is {names[-1]}." if names else "You have not told me your name."
    return f"{known} I can see {len(messages)} messages of our conversation."


def start_server(stack: ExitStack) -> str | None:
    """Return the address in MONGODB_URI, or that of a private mongod, or None if there is no mongod to run."""
    try:
        uri = stack.enter_context(running_mongodb(DATA_FOLDER))
    except (MongodNotFoundError, MongodStartError) as error:
        print(str(error).splitlines()[0])
        return None
    is_private = not os.environ.get("MONGODB_URI", "").strip()
    print("MongoDB: " + (f"a private server, data in {DATA_FOLDER}/" if is_private else "MONGODB_URI"))
    return uri


def connect(stack: ExitStack, uri: str | None) -> Any:
    if uri is None:
        print("MongoDB: mongomock, in memory: nothing of this conversation survives the end of this run")
        return mongomock.MongoClient(tz_aware=True)
    stack.callback(MongoDBConnectionPool.close)
    return MongoDBConnectionPool.initialize(uri, tz_aware=True)


def talk(agent: Agent, prompts: Sequence[str]) -> None:
    restored = len(agent.messages)
    print(f"Session: {'resumed' if restored else 'new'}, {restored} messages restored\n")
    for prompt in prompts or (NEXT_TIME if restored else FIRST_TIME):
        print(f"You:   {prompt}")
        print(f"Agent: {str(agent(prompt)).strip()}")


def show(session: dict[str, Any] | None) -> None:
    document = json.loads(json.dumps(session, default=str))
    messages = document["agents"]["assistant"]["messages"]
    print(f"\nStored session, with the last two of {len(messages)} messages:")
    del messages[:-2]
    pp(document, width=120, compact=True)


if __name__ == "__main__":
    try:
        main()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has closed the pipe, as in `quickstart.py | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
