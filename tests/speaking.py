"""The model of bidirectional agents, and the events that it sends."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from strands.bidi.models.model import BidiModel
from strands.bidi.types import (
    BidiOutputEvent,
    BidiResponseStartEvent,
    BidiResponseStopEvent,
    BidiTextDeltaEvent,
    BidiTextStartEvent,
    BidiTextStopEvent,
    BidiTranscriptDeltaEvent,
    BidiTranscriptStartEvent,
    BidiTranscriptStopEvent,
)
from strands.types.content import Messages


class SpokenModel(BidiModel):
    """Says what it was told to say, once something was sent to it, until it is stopped."""

    def __init__(self, events: Sequence[Any] = ()) -> None:
        self.events = [BidiResponseStartEvent("r-1"), *events, BidiResponseStopEvent("r-1")]
        self.started_with: Messages | None = None
        self.sent: list[Any] = []
        self._heard = asyncio.Event()

    def update_config(self, **model_config: Any) -> None:
        pass

    def get_config(self) -> dict[str, Any]:
        return {"model_id": "spoken"}

    async def start(
        self, system_prompt: str | None = None, tools: Any = None, messages: Messages | None = None, **kwargs: Any
    ) -> None:
        self.started_with = [*(messages or [])]

    async def stop(self) -> None:
        pass

    async def send(self, content: Any) -> None:
        self.sent.append(content)
        self._heard.set()

    async def receive(self) -> AsyncIterator[BidiOutputEvent]:
        await self._heard.wait()
        for event in self.events:
            yield event
        await asyncio.Event().wait()


def transcript(role: Any, text: str, content_id: str) -> list[Any]:
    return [
        BidiTranscriptStartEvent(role, content_id),
        *(BidiTranscriptDeltaEvent(word, role, content_id) for word in text.split(" ")),
        BidiTranscriptStopEvent(role, content_id),
    ]


def text(said: str, content_id: str) -> list[Any]:
    return [BidiTextStartEvent(content_id), BidiTextDeltaEvent(said, content_id), BidiTextStopEvent(content_id)]
