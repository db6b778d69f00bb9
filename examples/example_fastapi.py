"""A chat service: one factory for the process, one session for each request, nothing of it on the event loop.

Run it as it is and ask it something; it needs no account and no network::

    python examples/example_fastapi.py
    curl -X POST localhost:8000/sessions/s-1/chat -H 'content-type: application/json' -d '{"prompt": "Hello"}'

Anyone who knows a session id can open the session: check in your service that it belongs to the user who asks.
"""

import argparse
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from strands import Agent
from strands.types.content import Messages

from mongodb_session_manager import (
    MongoDBSessionManager,
    MongoDBSessionManagerFactory,
    SessionConflictError,
    SessionNotFoundError,
)
from mongodb_session_manager.testing import MongodNotFoundError, MongodStartError, ScriptedModel, running_mongodb

AGENT_ID = "assistant"


class Prompt(BaseModel):
    """What a user says."""

    prompt: str
    # How long the model takes for its answer, so that you can try what happens meanwhile.
    thinking_ms: int = 1
    # How long to wait while another request of this conversation is answered; 0 does not wait.
    wait_seconds: float = Field(0, ge=0, le=60)


class Feedback(BaseModel):
    """What a user thinks of an answer."""

    rating: str | None = None
    comment: str = ""
    message_id: int | None = None


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


# 2. A request to go on with a conversation: opening and reading are off the event loop, Agent(…) does no I/O.
@app.post("/sessions/{session_id}/chat")
async def chat(session_id: str, body: Prompt, request: Request) -> dict[str, Any]:
    lease: dict[str, Any] = {"exclusive": body.wait_seconds > 0, "lease_timeout": body.wait_seconds}
    async with factory_of(request).session(session_id, agent_ids=[AGENT_ID], **lease) as manager:
        result = await make_agent(manager, body.thinking_ms).invoke_async(body.prompt)
        return {"answer": str(result).strip()}


@app.get("/sessions/{session_id}/history")
async def history(session_id: str, request: Request, limit: int = 50, offset: int = 0) -> list[dict[str, Any]]:
    async with factory_of(request).session(session_id) as manager:
        # Pictures and documents as a note of what they are, so that JSON can carry the answer whatever was said.
        messages = await manager.alist_messages(AGENT_ID, limit, offset, json_safe="note")
    return [{key: message[key] for key in ("message_id", "role", "content", "created_at")} for message in messages]


@app.post("/sessions/{session_id}/feedback", status_code=201)
async def feedback(session_id: str, body: Feedback, request: Request) -> None:
    async with factory_of(request).session(session_id) as manager:
        await manager.aadd_feedback(body.model_dump(exclude_none=True))


@app.delete("/sessions/{session_id}", status_code=204)
async def delete(session_id: str, request: Request) -> None:
    async with factory_of(request).session(session_id) as manager:
        await run_in_threadpool(manager.delete_session)


@app.get("/health")
async def health(request: Request) -> JSONResponse:
    stats = await run_in_threadpool(factory_of(request).get_connection_stats)
    return JSONResponse(stats, 200 if stats["status"] in {"connected", "external_client"} else 503)


# 3. Two requests at once to one conversation: one is answered, the other is told, or both wait. Nothing is overwritten.
@app.exception_handler(SessionConflictError)
async def conflict(request: Request, error: SessionConflictError) -> JSONResponse:
    return JSONResponse({"detail": "Another request of this conversation is being answered. Ask again."}, 409)


@app.exception_handler(SessionNotFoundError)
async def not_found(request: Request, error: SessionNotFoundError) -> JSONResponse:
    return JSONResponse({"detail": "This conversation was deleted."}, 404)


def make_agent(manager: MongoDBSessionManager, thinking_ms: int) -> Agent:
    # Your own model, tools and system prompt go here.
    model = ScriptedModel(default=answer, latency_ms=thinking_ms)
    return Agent(model=model, agent_id=AGENT_ID, session_manager=manager, callback_handler=None)


def answer(messages: Messages) -> str:
    """Answer from the conversation alone, as a model does."""
    return f"I can see {len(messages)} messages of our conversation."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8000, help="port on 127.0.0.1 (default: %(default)s)")
    arguments, _ = parser.parse_known_args()
    # MONGODB_URI where it is set, else a private server that ends with this program.
    with running_mongodb() as uri:
        os.environ["MONGODB_URI"] = uri
        uvicorn.run(app, host="127.0.0.1", port=arguments.port)


if __name__ == "__main__":
    try:
        main()
    except (MongodNotFoundError, MongodStartError) as error:
        raise SystemExit(str(error)) from None
