"""Large values of messages: what is done with them on the event loop, and what on other threads."""

import asyncio
import hashlib
import os
import threading
from collections.abc import Callable
from typing import Any

import bson
import pytest

from mongodb_session_manager._schema.blobs import LargeValues
from mongodb_session_manager.testing import Redaction
from tests.aliases import History, NewAgent, NewManager

MB = 1024 * 1024

every_durability = pytest.mark.parametrize("durability", ["sync", "async", "exit"])


def pdf(size: int = 2 * MB) -> list[Any]:
    return [{"text": "Read"}, {"document": {"name": "a", "format": "pdf", "source": {"bytes": os.urandom(size)}}}]


def pictures() -> list[Any]:
    return [{"image": {"format": "png", "source": {"bytes": os.urandom(200 * 1024)}}} for _ in range(30)]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes this thread hashes or encodes at a time."""
    found: list[int] = [0]
    this = threading.get_ident()
    sha256, encode = hashlib.sha256, bson.encode

    def note(size: int) -> None:
        if threading.get_ident() == this:
            found.append(size)

    def hashing(content: bytes = b"", **how: Any) -> Any:
        note(len(content))
        return sha256(content, **how)

    def encoding(*what: Any, **how: Any) -> bytes:
        encoded = encode(*what, **how)
        note(len(encoded))
        return encoded

    monkeypatch.setattr(hashlib, "sha256", hashing)
    monkeypatch.setattr(bson, "encode", encoding)
    return found


@every_durability
@pytest.mark.parametrize("content", [pdf, pictures, lambda: [{"text": "x" * MB}]])
async def test_nothing_large_is_hashed_or_encoded_on_the_loop(
    new_manager: NewManager,
    new_agent: NewAgent,
    history: History,
    here: list[int],
    durability: str,
    content: Callable[[], Any],
) -> None:
    agent = new_agent(new_manager(durability=durability))

    await agent.invoke_async(content())
    most = max(here)
    await agent.invoke_async("Go on")

    assert most < 64 * 1024
    assert history() == agent.messages


async def test_mutable_bytes_are_copied_at_once(new_manager: NewManager, new_agent: NewAgent, history: History) -> None:
    content = bytearray(os.urandom(MB))
    wanted = bytes(content)
    manager = new_manager(durability="exit")
    agent = new_agent(manager)

    def change(**event: Any) -> None:
        if "data" in event:  # the model answers, so the prompt was captured
            content[:4] = b"gone"

    agent.callback_handler = change
    prompt: Any = [{"document": {"name": "a", "format": "pdf", "source": {"bytes": content}}}]
    await agent.invoke_async(prompt)

    assert bytes(content[:4]) == b"gone"
    assert history()[0]["content"][0]["document"]["source"]["bytes"] == wanted


@every_durability
async def test_a_redaction_while_values_are_hashed(
    new_manager: NewManager,
    new_agent: NewAgent,
    history: History,
    everything: Callable[[], bytes],
    monkeypatch: pytest.MonkeyPatch,
    durability: str,
) -> None:
    """What is redacted meanwhile is never sent."""
    manager = new_manager(durability=durability)
    agent = new_agent(manager, Redaction("[removed]"))
    begun, go_on = threading.Event(), threading.Event()
    hash_values = LargeValues.hash

    def slow(self: Any) -> Any:
        if not self.is_hashed:
            begun.set()
            go_on.wait(10)
        return hash_values(self)

    monkeypatch.setattr(LargeValues, "hash", slow)
    secret = pdf()
    turn = asyncio.create_task(agent.invoke_async(secret)) if durability == "sync" else None
    if turn is not None:
        while not begun.is_set():
            await asyncio.sleep(0.005)
        event = {"action": "BLOCKED"}
        binding = manager._agents.by_id["default"]
        assert binding is not None
        binding._capture.redact_latest({"role": "user", "content": [{"text": "[removed]"}]}, event, ())
        go_on.set()
        await turn
    else:
        go_on.set()
        await agent.invoke_async(secret)
    manager.flush()

    assert history()[0]["content"] == [{"text": "[removed]"}]
    assert secret[1]["document"]["source"]["bytes"][:1000] not in everything()


async def test_order_is_kept_where_a_large_message_comes_first(
    new_manager: NewManager, new_agent: NewAgent, history: History
) -> None:
    manager = new_manager(durability="async")
    agent = new_agent(manager)

    for number in range(4):
        await agent.invoke_async(pdf() if number % 2 == 0 else f"{number}")

    assert history() == agent.messages


def test_equal_values_of_one_message_are_one_file(
    new_manager: NewManager, new_agent: NewAgent, history: History, stored: Callable[..., Any]
) -> None:
    agent = new_agent(new_manager())
    block = pdf()[1]

    agent([{"text": "Twice"}, block, block])

    first = stored()["agents"]["default"]["messages"][0]
    assert first["files"] == [hashlib.sha256(block["document"]["source"]["bytes"]).hexdigest()]
    assert history() == agent.messages
