"""A chat service: one factory for the process, one session for each request, and no I/O on the event loop.

Run it as it is and send it a prompt; it needs no account and no network::

    python examples/example_fastapi.py
    curl -X POST localhost:8000/sessions/s-1/chat -H 'content-type: application/json' -d '{"prompt": "Hello"}'

Anyone who knows a session id can open the session: check in your service that it belongs to the user who asks.
"""

import argparse
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal, TypeAlias

import uvicorn
from fastapi import FastAPI, Path, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from pymongo.errors import PyMongoError
from strands import Agent
from strands.types.content import Messages

from mongodb_session_manager import (
    MessageNotFoundError,
    MongoDBSessionManager,
    MongoDBSessionManagerFactory,
    SessionConflictError,
    SessionNotFoundError,
)
from mongodb_session_manager.testing import MongodNotFoundError, MongodStartError, ScriptedModel, running_mongodb

AGENT_ID = "assistant"
# The library accepts any string of up to 1,024 bytes. Decide what your ids look like, and refuse others (422). Bytes
# that are not UTF-8 all arrive as U+FFFD: two such ids would be one conversation.
SessionId: TypeAlias = Annotated[str, Path(max_length=200, pattern=r"^[^\x00-\x1f\ufffd]+$")]


class Prompt(BaseModel):
    """What a user says."""

    prompt: str = Field(min_length=1, max_length=100_000)
    # Seconds that the model takes for its answer, so that you can send a second request meanwhile.
    thinking_ms: int = Field(1, ge=0, le=60_000)
    # Seconds to wait while another request of this conversation is answered; with 0 the request does not wait.
    wait_seconds: float = Field(0, ge=0, le=60)


class Feedback(BaseModel):
    """What a user thinks of an answer."""

    rating: Literal["up", "down"] | None = None
    comment: str = Field("", max_length=10_000)
    # The message_id of an answer, from /history. Without it the feedback is about the whole conversation.
    message_id: int | None = Field(None, ge=0)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    # 1. One factory, and with it one client, for the whole process. It closes when the server stops.
    factory = MongoDBSessionManagerFactory(os.environ["MONGODB_URI"], application_name="chat", durability="exit")
    app.state.factory = factory
    try:
        yield
    finally:
        await run_in_threadpool(factory.close)


app = FastAPI(title="Chat", lifespan=lifespan)


def factory_of(request: Request) -> MongoDBSessionManagerFactory:
    factory: MongoDBSessionManagerFactory = request.app.state.factory
    return factory


# 2. A request that continues a conversation. Opening and reading run off the event loop, and Agent(…) does no I/O.
# The request is the only writer: a retry or a double click is refused before its model is called.
@app.post("/sessions/{session_id}/chat")
async def chat(session_id: SessionId, body: Prompt, request: Request) -> dict[str, Any]:
    async with factory_of(request).session(
        session_id, agent_ids=[AGENT_ID], exclusive=True, lease_timeout=body.wait_seconds
    ) as manager:
        result = await make_agent(manager, body.thinking_ms).invoke_async(body.prompt)
        return {"answer": str(result).strip()}


# 3. A request that only reads, or adds feedback, opens the session with create=False: an unknown id creates nothing.
@app.get("/sessions/{session_id}/history")
async def history(
    session_id: SessionId,
    request: Request,
    limit: Annotated[int, Query(ge=0, le=1000)] = 50,
    offset: Annotated[int, Query(ge=0)] = 0,
) -> list[dict[str, Any]]:
    async with factory_of(request).session(session_id, create=False) as manager:
        # Pictures and documents become short notes, so that every history can be sent as JSON.
        messages = await manager.alist_messages(AGENT_ID, limit, offset, json_safe="note")
    return [{key: message[key] for key in ("message_id", "role", "content", "created_at")} for message in messages]


@app.post("/sessions/{session_id}/feedback", status_code=201)
async def feedback(session_id: SessionId, body: Feedback, request: Request) -> None:
    # With agent_id the library checks that the message exists.
    about = {} if body.message_id is None else {"agent_id": AGENT_ID}
    async with factory_of(request).session(session_id, create=False) as manager:
        await manager.aadd_feedback(body.model_dump(exclude_none=True) | about)


@app.delete("/sessions/{session_id}", status_code=204)
async def delete(session_id: SessionId, request: Request) -> None:
    async with factory_of(request).session(session_id, create=False) as manager:
        await run_in_threadpool(manager.delete_session)


@app.get("/health")
async def health(request: Request) -> JSONResponse:
    stats = await run_in_threadpool(factory_of(request).get_connection_stats)
    return JSONResponse(stats, 200 if stats["status"] in {"connected", "external_client"} else 503)


# 4. Two requests at once to one conversation: one is answered, the other is refused or waits. Nothing is overwritten.
@app.exception_handler(SessionConflictError)
async def conflict(request: Request, error: SessionConflictError) -> JSONResponse:
    return JSONResponse({"detail": "Another request of this conversation is being answered. Ask again."}, 409)


@app.exception_handler(SessionNotFoundError)
async def no_conversation(request: Request, error: SessionNotFoundError) -> JSONResponse:
    return JSONResponse({"detail": "There is no such conversation."}, 404)


@app.exception_handler(MessageNotFoundError)
async def no_message(request: Request, error: MessageNotFoundError) -> JSONResponse:
    return JSONResponse({"detail": "There is no such message in this conversation."}, 404)


@app.exception_handler(RequestValidationError)
async def not_valid(request: Request, error: RequestValidationError) -> JSONResponse:
    # What was sent is not quoted: half a character or NaN cannot stand in an answer.
    return JSONResponse({"detail": [{key: each[key] for key in ("loc", "msg")} for each in error.errors()]}, 422)


@app.exception_handler(PyMongoError)
async def no_database(request: Request, error: PyMongoError) -> JSONResponse:
    return JSONResponse({"detail": "The conversations cannot be reached. Ask again later."}, 503)


def make_agent(manager: MongoDBSessionManager, thinking_ms: int) -> Agent:
    # Your own model, tools and system prompt go here.
    model = ScriptedModel(default=answer, latency_ms=thinking_ms)
    return Agent(model=model, agent_id=AGENT_ID, session_manager=manager, callback_handler=None)


def answer(messages: Messages) -> str:
    """Make an answer from the conversation alone, as a model does."""
    return f"I can see {len(messages)} messages of our conversation."


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
