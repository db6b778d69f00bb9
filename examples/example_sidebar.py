"""The chats of a signed-in user: a sidebar with pages, a fork from any message, and the deletion of a person.

Run it as it is and open http://127.0.0.1:8000/?user=ada, or send it a prompt; it needs no account and no network::

    python examples/example_sidebar.py
    curl -X POST 'localhost:8000/chats?user=ada' -H 'content-type: application/json' -d '{"prompt": "Hello"}'

Every request works within the sessions of its user, whatever id it names. The owner stands in the metadata: the
service sets it when a chat begins, and no tool of the model can change it.
"""

import argparse
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import uvicorn
from fastapi import Depends, FastAPI, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, JSONResponse
from pydantic import BaseModel, Field
from pymongo.errors import PyMongoError
from strands import Agent
from strands.types.content import Messages

from mongodb_session_manager import (
    InvalidCursorError,
    MongoDBSessionManager,
    MongoDBSessionManagerFactory,
    SessionConflictError,
    SessionFilter,
    SessionNotFoundError,
)
from mongodb_session_manager.testing import MongodNotFoundError, MongodStartError, ScriptedModel, running_mongodb
from mongodb_session_manager.types import SessionSummary, TranscriptMessage

AGENT_ID, OWNER = "assistant", "user_id"
PAGE = Path(__file__).with_name("sidebar_page.html")


class Prompt(BaseModel):
    """What a user says."""

    prompt: str = Field(min_length=1, max_length=100_000)


class Place(BaseModel):
    """Where a chat is forked: after an answer, or before a user's message that is to be asked differently."""

    message_id: int = Field(ge=0)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    factory = MongoDBSessionManagerFactory(
        os.environ["MONGODB_URI"], application_name="sidebar", metadata_fields=[OWNER], durability="exit"
    )
    app.state.factory = factory
    try:
        yield
    finally:
        await run_in_threadpool(factory.close)


app = FastAPI(title="Chats", lifespan=lifespan)


# 1. Who asks. In your service this comes from the sign-in, never from something that a user may write.
def user_of(user: Annotated[str, Query(min_length=1, max_length=100)] = "ada") -> str:
    return user


def factory_of(request: Request) -> MongoDBSessionManagerFactory:
    factory: MongoDBSessionManagerFactory = request.app.state.factory
    return factory


User = Annotated[str, Depends(user_of)]
Factory = Annotated[MongoDBSessionManagerFactory, Depends(factory_of)]


def chats_of(user: str) -> SessionFilter:
    return SessionFilter(metadata={OWNER: user})


# 2. The sidebar: the newest chats first, 10 to a page. The list reads an index, and no messages cross the wire.
@app.get("/chats")
async def chats(user: User, factory: Factory, cursor: str | None = None) -> dict[str, Any]:
    page = await factory.sessions.alist(chats_of(user), limit=10, cursor=cursor)
    return {"chats": [summary(each) for each in page.items], "next": page.next_cursor}


def summary(chat: SessionSummary) -> dict[str, Any]:
    title = chat.metadata.get("title") or chat.last_text or "New chat"
    forked_from = None if chat.forked_from is None else chat.forked_from.session_id
    return {"id": chat.session_id, "title": title, "messages": chat.messages, "forked_from": forked_from}


# 3. A scope makes a chat of somebody else look as one that does not exist.
@app.get("/chats/{chat_id}")
async def transcript(chat_id: str, user: User, factory: Factory, before: int | None = None) -> dict[str, Any]:
    page = await factory.sessions.within(chats_of(user)).atranscript(chat_id, AGENT_ID, limit=50, before=before)
    return {"messages": [shown(each) for each in page.messages], "before": page.before}


def shown(message: TranscriptMessage) -> dict[str, Any]:
    blocks = [block for block in message.content if isinstance(block, dict)]
    text = "".join(str(block.get("text", "")) for block in blocks)
    return {"message_id": message.message_id, "role": message.role, "text": text}


@app.post("/chats", status_code=201)
async def begin(user: User, body: Prompt, factory: Factory) -> dict[str, Any]:
    chat_id = str(uuid4())
    async with factory.session(chat_id, agent_ids=[AGENT_ID]) as manager:
        # The owner stands there before the first message does.
        await manager.aupdate_metadata({OWNER: user, "title": body.prompt[:60]})
        await make_agent(manager).invoke_async(body.prompt)
    return {"id": chat_id}


@app.post("/chats/{chat_id}/messages")
async def say(chat_id: str, user: User, body: Prompt, factory: Factory) -> dict[str, Any]:
    await factory.sessions.within(chats_of(user)).aget(chat_id)
    async with factory.session(chat_id, agent_ids=[AGENT_ID], create=False, exclusive=True) as manager:
        answer = await make_agent(manager).invoke_async(body.prompt)
    return {"answer": str(answer).strip()}


# 4. A fork is a session of its own. It has the metadata of the first one, and so its owner.
@app.post("/chats/{chat_id}/fork", status_code=201)
async def fork(chat_id: str, user: User, body: Place, factory: Factory) -> dict[str, Any]:
    await factory.sessions.within(chats_of(user)).aget(chat_id)
    return summary(await factory.sessions.afork(chat_id, at={AGENT_ID: body.message_id}))


@app.delete("/chats/{chat_id}")
async def delete(chat_id: str, user: User, factory: Factory) -> dict[str, Any]:
    await factory.sessions.within(chats_of(user)).aget(chat_id)
    receipt = await factory.sessions.adelete(chat_id)
    return {"deleted": receipt.deleted, "messages": receipt.messages}


# 5. All chats of a person, forks too. ``remaining`` tells of chats that began meanwhile: then do it again.
@app.delete("/chats")
async def delete_all(user: User, factory: Factory) -> dict[str, int]:
    report = await factory.sessions.adelete_many(chats_of(user))
    return {"deleted": report.deleted, "held": report.held, "remaining": report.remaining}


@app.get("/")
async def page() -> FileResponse:
    return FileResponse(PAGE)


@app.exception_handler(SessionNotFoundError)
async def no_chat(request: Request, error: SessionNotFoundError) -> JSONResponse:
    return JSONResponse({"detail": "There is no such chat."}, 404)


@app.exception_handler(SessionConflictError)
async def conflict(request: Request, error: SessionConflictError) -> JSONResponse:
    return JSONResponse({"detail": "This chat is being answered. Ask again."}, 409)


@app.exception_handler(InvalidCursorError)
async def no_cursor(request: Request, error: InvalidCursorError) -> JSONResponse:
    return JSONResponse({"detail": "This is no cursor of this list."}, 422)


@app.exception_handler(ValueError)
async def not_valid(request: Request, error: ValueError) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 422)


@app.exception_handler(PyMongoError)
async def no_database(request: Request, error: PyMongoError) -> JSONResponse:
    return JSONResponse({"detail": "The chats cannot be reached. Ask again later."}, 503)


def make_agent(manager: MongoDBSessionManager) -> Agent:
    # Your own model, tools and system prompt go here.
    return Agent(model=ScriptedModel(default=answer), agent_id=AGENT_ID, session_manager=manager, callback_handler=None)


def answer(messages: Messages) -> str:
    """Make an answer from the conversation alone, as a model does."""
    asked = [message for message in messages if message["role"] == "user"]
    return f"This is my answer to question {len(asked)}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8000, help="port on 127.0.0.1 (default: %(default)s)")
    arguments, _ = parser.parse_known_args()
    # The server in MONGODB_URI, or a private server that ends with this program.
    with running_mongodb() as uri:
        os.environ["MONGODB_URI"] = uri
        uvicorn.run(app, host="127.0.0.1", port=arguments.port)


if __name__ == "__main__":
    try:
        main()
    except (MongodNotFoundError, MongodStartError) as error:
        raise SystemExit(str(error)) from None
