"""A chat service that sends the answer word by word, as server-sent events, and a page for it.

Run it as it is, open http://localhost:8000/ or read its stream; it needs no account and no network::

    python examples/example_fastapi_streaming.py
    curl -N -X POST localhost:8000/sessions/s-1/chat -H 'content-type: application/json' -d '{"prompt": "Hello"}'

A client that leaves in the middle ends the invocation. The prompt is stored, and so are the calls and results of tools
that had ended; the unfinished answer is not. The next request continues from there.

With ``--data FOLDER`` the private server keeps its data: stop the service, start it again and reload the page, and the
conversation is there. Open the address of the page in two tabs and ask in both: one of them is refused, politely. If
the service is killed in the middle of an answer, the conversation refuses requests for up to 30 seconds: the killed
process still has the lease.
"""

import argparse
import asyncio
import json
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import fastapi
import uvicorn
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from pydantic import BaseModel, Field
from pymongo.errors import PyMongoError
from strands import Agent
from strands.types.content import Messages
from strands.types.streaming import StreamEvent

from mongodb_session_manager import (
    MessageNotFoundError,
    MongoDBSessionManager,
    MongoDBSessionManagerFactory,
    SessionConflictError,
    SessionNotFoundError,
)
from mongodb_session_manager.testing import MongodNotFoundError, MongodStartError, ScriptedModel, running_mongodb

AGENT_ID = "assistant"
PAGE = Path(__file__).with_name("chat_page.html")
# Bytes that are not UTF-8 all arrive as U+FFFD: two such ids would be one conversation.
SessionId: TypeAlias = Annotated[str, fastapi.Path(max_length=200, pattern=r"^[^\x00-\x1f\ufffd]+$")]


class Prompt(BaseModel):
    """What a user says."""

    prompt: str = Field(min_length=1, max_length=100_000)
    # How many words the answer has, and how many milliseconds the model takes for each.
    words: int = Field(11, ge=1, le=1000)
    word_ms: int = Field(50, ge=0, le=10_000)


class Feedback(BaseModel):
    """What a user thinks of an answer."""

    rating: Literal["up", "down"]
    message_id: int = Field(ge=0)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    # 1. "async": messages are written while the model works, and are acknowledged before the stream ends.
    factory = MongoDBSessionManagerFactory(os.environ["MONGODB_URI"], durability="async")
    app.state.factory = factory
    try:
        yield
    finally:
        await run_in_threadpool(factory.close)


app = FastAPI(title="Streaming chat", lifespan=lifespan)


@app.get("/")
async def page() -> FileResponse:
    return FileResponse(PAGE)


@app.post("/sessions/{session_id}/chat")
async def chat(session_id: SessionId, body: Prompt, request: Request) -> StreamingResponse:
    events = answer_events(request.app.state.factory, session_id, body)
    # 2. Wait until the session is open: a refused request gets its status, which is sent before the first word.
    await anext(events)
    return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})


@app.get("/sessions/{session_id}/history")
async def history(session_id: SessionId, request: Request) -> list[dict[str, Any]]:
    async with request.app.state.factory.session(session_id, create=False) as manager:
        # Pictures and documents become short notes, so that every history can be sent as JSON.
        messages = await manager.alist_messages(AGENT_ID, json_safe="note")
        feedbacks = await manager.aget_feedbacks()
    # Of several ratings of an answer the last one counts.
    ratings = {each.get("message_id"): each.get("rating") for each in feedbacks if each.get("agent_id") == AGENT_ID}
    shown = [{key: message[key] for key in ("message_id", "role", "content")} for message in messages]
    return [{**message, "rating": ratings.get(message["message_id"])} for message in shown]


@app.post("/sessions/{session_id}/feedback", status_code=201)
async def feedback(session_id: SessionId, body: Feedback, request: Request) -> None:
    async with request.app.state.factory.session(session_id, create=False) as manager:
        # With agent_id the library checks that the message exists.
        await manager.aadd_feedback({**body.model_dump(), "agent_id": AGENT_ID})


# 3. The session is opened inside the generator, so that it stays open as long as the stream. The request is the only
# writer meanwhile: a retry is refused before its model is called.
async def answer_events(factory: MongoDBSessionManagerFactory, session_id: str, body: Prompt) -> AsyncIterator[str]:
    lease: Any = {"exclusive": True, "lease_timeout": 0}
    async with factory.session(session_id, agent_ids=[AGENT_ID], **lease) as manager:
        yield "opened"
        agent = make_agent(manager, body)
        # aclosing() ends the invocation before the session closes, also when the client has left.
        stream: Any = agent.stream_async(body.prompt)
        try:
            async with aclosing(stream):
                async for event in stream:
                    if "data" in event:
                        yield server_sent("word", event["data"])
        except (SessionConflictError, SessionNotFoundError, PyMongoError) as error:
            # The status was sent before: the error goes into the stream.
            yield server_sent("failed", f"The answer may not be stored ({type(error).__name__}). Ask again.")
            return
    # 4. The end is sent after the session has closed: then everything is stored.
    yield server_sent("done", "")


@app.exception_handler(SessionConflictError)
async def conflict(request: Request, error: SessionConflictError) -> JSONResponse:
    return JSONResponse({"detail": "Another request of this conversation is being answered. Ask again."}, 409)


@app.exception_handler(SessionNotFoundError)
async def not_found(request: Request, error: SessionNotFoundError) -> JSONResponse:
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


def server_sent(event: str, data: str) -> str:
    return f"event: {event}\ndata: {json.dumps(data)}\n\n"


class TalkingModel(ScriptedModel):
    """Sends its answer word by word, as a real model does."""

    def __init__(self, words: int, word_ms: int) -> None:
        super().__init__(default=lambda messages: f"I can see {len(messages)} messages." + " And so on." * words)
        self._words, self._seconds = words, word_ms / 1000

    async def stream(self, messages: Messages, *args: Any, **kwargs: Any) -> AsyncGenerator[StreamEvent, None]:
        """Split the texts of the script into words."""
        async for event in super().stream(messages, *args, **kwargs):
            text = event.get("contentBlockDelta", {}).get("delta", {}).get("text")
            if text is None:
                yield event
                continue
            for word in text.split()[: self._words]:
                await asyncio.sleep(self._seconds)
                yield {"contentBlockDelta": {"delta": {"text": f"{word} "}}}


def make_agent(manager: MongoDBSessionManager, body: Prompt) -> Agent:
    # Your own model, tools and system prompt go here.
    model = TalkingModel(body.words, body.word_ms)
    return Agent(model=model, agent_id=AGENT_ID, session_manager=manager, callback_handler=None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8000, help="port on 127.0.0.1 (default: %(default)s)")
    parser.add_argument("--data", type=Path, help="folder of the private server's data (default: nothing is kept)")
    arguments, _ = parser.parse_known_args()
    # The server in MONGODB_URI, or a private server that ends with this program.
    with running_mongodb(arguments.data) as uri:
        os.environ["MONGODB_URI"] = uri
        uvicorn.run(app, host="127.0.0.1", port=arguments.port)


if __name__ == "__main__":
    try:
        main()
    except (MongodNotFoundError, MongodStartError) as error:
        raise SystemExit(str(error)) from None
