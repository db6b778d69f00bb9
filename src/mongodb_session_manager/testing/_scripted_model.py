"""A Strands model that replies with a script, without a network."""

import asyncio
import copy
import json
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from threading import Lock
from typing import Any, TypeVar, Union

from pydantic import BaseModel
from strands.models import Model
from strands.types.content import Messages
from strands.types.event_loop import StopReason, Usage
from strands.types.streaming import StreamEvent

from .._override import override

__all__ = ["Redaction", "ScriptExhaustedError", "ScriptedModel", "Turn"]

_Output = TypeVar("_Output", bound=BaseModel)

Block = Mapping[str, Any]
Turn = Union[str, Block, Sequence[Block], BaseModel, "Redaction", BaseException, Callable[[Messages], "Turn"]]
"""One reply of the model; see ``ScriptedModel``."""


class ScriptExhaustedError(RuntimeError):
    """The model was called more often than its script has turns."""

    def __init__(self, calls: int) -> None:
        super().__init__(
            f"ScriptedModel was called {calls} times, but its script has {calls - 1} turns. "
            "Give it another turn, default=... or cycle=True."
        )


@dataclass(frozen=True)
class Redaction:
    """A turn in which a guardrail steps in, as Bedrock reports it.

    Attributes:
        user_message: What replaces the user's message; None leaves it as it is.
        assistant_message: What replaces the model's answer; None leaves it as it is.
        text: The answer itself.
    """

    user_message: str | None = "[User input redacted.]"
    assistant_message: str | None = None
    text: str = "Blocked by the guardrail."


class ScriptedModel(Model):
    """Replies with the turns of a script, one for each call.

    A turn is a text, a content block or several (``toolUse``, ``text``, ``reasoningContent``), a
    ``Redaction``, an exception to raise, or a function that is given the messages and returns one of these.
    For ``structured_output`` a turn is the output model's data, or an instance of it.

    Args:
        turns: The script.
        model_id: Reported in the configuration.
        latency_ms: Milliseconds of a call: waited before the first content, and reported.
        usage: Reported with every call.
        default: The turn for every call after the end of the script.
        cycle: Begin again when the script is over.
        **config: More configuration, such as ``context_window_limit``.

    Attributes:
        calls: The messages of every call so far, copied at the time of the call.
        config: The configuration.
    """

    def __init__(
        self,
        turns: Sequence[Turn] = (),
        *,
        model_id: str = "scripted",
        latency_ms: int = 1,
        usage: Usage | None = None,
        default: Turn | None = None,
        cycle: bool = False,
        **config: Any,
    ) -> None:
        if isinstance(turns, str | Mapping):
            raise TypeError(f"turns must be a list of turns, got a {type(turns).__name__}; one for ever is default=")
        self.config: dict[str, Any] = {"model_id": model_id, **config}
        self.calls: list[Messages] = []
        self._turns = _script(list(turns), default, cycle)
        self._latency_ms = latency_ms
        self._usage: Usage = usage or {"inputTokens": 10, "outputTokens": 5, "totalTokens": 15}
        self._lock = Lock()

    def __repr__(self) -> str:
        return f"ScriptedModel({self.config['model_id']!r}, {len(self.calls)} calls)"

    @override
    def update_config(self, **model_config: Any) -> None:
        """Change the configuration."""
        self.config.update(model_config)

    @override
    def get_config(self) -> dict[str, Any]:
        """Give the configuration."""
        return self.config

    @override
    async def stream(self, messages: Messages, *args: Any, **kwargs: Any) -> AsyncGenerator[StreamEvent, None]:
        """Stream the next turn of the script.

        Args:
            messages: The conversation; recorded in ``calls``.
            *args: Further arguments of a model's ``stream``; not used.
            **kwargs: Not used.

        Yields:
            The events of one model call.

        Raises:
            ScriptExhaustedError: When there is no turn left.
        """
        turn = self._next_turn(messages)
        events = list(_events(turn))
        yield {"messageStart": {"role": "assistant"}}
        await asyncio.sleep(self._latency_ms / 1000)
        for event in events:
            yield event
        yield {"metadata": {"usage": {**self._usage}, "metrics": {"latencyMs": self._latency_ms}}}

    @override
    async def structured_output(
        self, output_model: type[_Output], prompt: Messages, system_prompt: str | None = None, **kwargs: Any
    ) -> AsyncGenerator[dict[str, _Output | Any], None]:
        """Give the next turn of the script as an instance of the output model.

        Args:
            output_model: The model to validate the turn with.
            prompt: The conversation; recorded in ``calls``.
            system_prompt: Not used.
            **kwargs: Not used.

        Yields:
            One event with the ``output``.
        """
        turn = self._next_turn(prompt)
        await asyncio.sleep(self._latency_ms / 1000)
        yield {"output": output_model.model_validate(turn)}

    def _next_turn(self, messages: Messages) -> Any:
        with self._lock:
            self.calls.append(copy.deepcopy(messages))
            turn = next(self._turns, _END)
        if turn is _END:
            raise ScriptExhaustedError(len(self.calls))
        if callable(turn):
            turn = turn(messages)
        if isinstance(turn, BaseException):
            raise turn
        return turn


_END: Any = object()


def _script(turns: list[Turn], default: Turn | None, cycle: bool) -> Iterator[Any]:
    if cycle:
        if not turns:
            raise ValueError("cycle=True needs turns to begin again with")
        return chain.from_iterable(repeat(turns))
    return chain(turns, () if default is None else repeat(default))


def _events(turn: Any) -> Iterator[StreamEvent]:
    if isinstance(turn, Redaction):
        yield from _redaction_events(turn)
        return
    blocks = _blocks(turn)
    for block in blocks:
        yield from _block_events(block)
    yield _stop("tool_use" if any("toolUse" in block for block in blocks) else "end_turn")


def _blocks(turn: Any) -> list[Block]:
    if isinstance(turn, str):
        return [{"text": turn}]
    return [turn] if isinstance(turn, Mapping) else list(turn)


def _block_events(block: Block) -> Iterator[StreamEvent]:
    tool_use = block.get("toolUse")
    started = {"toolUse": {"toolUseId": tool_use["toolUseId"], "name": tool_use["name"]}} if tool_use else {}
    yield _event("contentBlockStart", {"start": started})
    for delta in _deltas(block):
        yield _event("contentBlockDelta", {"delta": delta})
    yield _event("contentBlockStop", {})


def _deltas(block: Block) -> list[dict[str, Any]]:
    if "text" in block:
        return [{"text": block["text"]}]
    if "toolUse" in block:
        return [{"toolUse": {"input": json.dumps(block["toolUse"].get("input", {}))}}]
    if "reasoningContent" in block:
        return _reasoning_deltas(block["reasoningContent"])
    raise TypeError(f"ScriptedModel cannot say {sorted(block)}: use text, toolUse or reasoningContent blocks")


def _reasoning_deltas(reasoning: Block) -> list[dict[str, Any]]:
    if "redactedContent" in reasoning:
        return [{"reasoningContent": {"redactedContent": reasoning["redactedContent"]}}]
    said = reasoning["reasoningText"]
    return [{"reasoningContent": {key: said[key]}} for key in ("text", "signature") if key in said]


def _redaction_events(redaction: Redaction) -> Iterator[StreamEvent]:
    yield from _block_events({"text": redaction.text})
    yield _stop("guardrail_intervened")
    # Bedrock's model sends one event for each of the two, after the end of the message.
    if redaction.user_message is not None:
        yield {"redactContent": {"redactUserContentMessage": redaction.user_message}}
    if redaction.assistant_message is not None:
        yield {"redactContent": {"redactAssistantContentMessage": redaction.assistant_message}}


def _stop(reason: StopReason) -> StreamEvent:
    return {"messageStop": {"stopReason": reason}}


def _event(name: str, value: dict[str, Any]) -> Any:
    return {name: value}
