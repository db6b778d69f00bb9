"""A history as JSON: with every kind of content block, and with all that the SDK takes and JSON does not."""

import base64
import json
from typing import Any, get_args, get_type_hints

import pytest
from pymongo import MongoClient
from strands.types import citations
from strands.types.content import ContentBlock, Message

from mongodb_session_manager.testing import CommandCounter
from tests.aliases import NewAgent, NewManager
from tests.talking import texts

DATA = b"\x89PNG\0\xff"
HALF = "half an emoji \ud83d"
ODD = {"nan": float("nan"), "inf": -float("inf"), "big": 2**70, "a.b": {"$c": HALF}, HALF: [None, True]}


def media(kind: str, form: str, **more: Any) -> dict[str, Any]:
    return {kind: {"format": form, "source": {"bytes": DATA}, **more}}


def cited(**location: Any) -> dict[str, Any]:
    return {"location": location, "title": HALF, "sourceContent": [{"text": "source"}]}


LOCATIONS: list[dict[str, Any]] = [
    {"documentChar": {"documentIndex": 0, "start": 1, "end": 2}},
    {"documentPage": {"documentIndex": 0, "start": 1, "end": 2}},
    {"documentChunk": {"documentIndex": 0, "start": 1, "end": 2}},
    {"searchResultLocation": {"searchResultIndex": 0, "start": 1, "end": 2}},
    {"web": {"url": "https://example.com", "domain": "example.com"}},
]
BLOCKS: dict[str, list[dict[str, Any]]] = {
    "text": [{"text": HALF}],
    "image": [media("image", form) for form in ("png", "jpeg", "gif", "webp")],
    "video": [
        media("video", "mp4"),
        {"video": {"format": "mov", "source": {"location": {"type": "s3", "uri": "s3://b/k"}}}},
    ],
    "audio": [media("audio", "mp3")],
    "document": [media("document", form, name="a") for form in ("pdf", "csv", "docx", "md")],
    "cachePoint": [{"cachePoint": {"type": "default", "ttl": "5m"}}],
    "guardContent": [{"guardContent": {"text": {"text": "ask", "qualifiers": ["query"]}}}],
    "reasoningContent": [
        {"reasoningContent": {"reasoningText": {"text": "so", "signature": "s"}}},
        {"reasoningContent": {"redactedContent": DATA}},
    ],
    "toolUse": [{"toolUse": {"toolUseId": "t", "name": "look", "input": ODD}}],
    "toolResult": [
        {
            "toolResult": {
                "toolUseId": "t",
                "status": "success",
                "content": [{"json": ODD}, {"text": "t"}, media("image", "png"), media("document", "pdf", name="b")],
            }
        }
    ],
    "citationsContent": [
        {"citationsContent": {"content": [{"text": "generated"}], "citations": [cited(**place) for place in LOCATIONS]}}
    ],
}


def carried(value: Any) -> Any:
    return json.loads(json.dumps(value, allow_nan=False, ensure_ascii=False).encode())


def test_there_is_a_block_of_every_kind() -> None:
    assert BLOCKS.keys() == get_type_hints(ContentBlock).keys()
    assert len(LOCATIONS) == len(get_args(citations.CitationLocation))


@pytest.mark.parametrize("kind", BLOCKS)
async def test_every_block(new_manager: NewManager, new_agent: NewAgent, kind: str) -> None:
    manager = new_manager()
    content: Any = BLOCKS[kind]
    manager.append_message({"role": "user", "content": content}, new_agent(manager))

    (plain,) = manager.list_messages("default")
    (noted,) = manager.list_messages("default", json_safe="note")
    (encoded,) = await manager.alist_messages("default", json_safe="base64")

    assert repr(plain["content"]) == repr(content)
    for found in (noted, encoded):
        assert carried(found) == found
        assert found.keys() == plain.keys()
        assert found["created_at"] == plain["created_at"].isoformat()
        assert [block.keys() for block in found["content"]] == [block.keys() for block in content]
    notes, data = str(noted["content"]).count("'size': 6}"), base64.b64encode(DATA).decode()
    assert notes == str(encoded["content"]).count(data) == str(content).count(repr(DATA))


def test_a_picture_in_both_forms(new_manager: NewManager, new_agent: NewAgent) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    large: Any = media("image", "png")
    large["image"]["source"]["bytes"] = DATA * 500_000
    agent([{"text": "look"}, large])

    asked = manager.list_messages("default", json_safe="note")[0]
    assert asked["content"][1]["image"]["source"]["bytes"] == {"type": "image/png", "size": 3_000_000}
    asked = manager.list_messages("default", json_safe="base64")[0]
    assert base64.b64decode(asked["content"][1]["image"]["source"]["bytes"]) == DATA * 500_000


def test_a_note_costs_no_download(
    new_manager: NewManager, new_agent: NewAgent, command_counter: CommandCounter
) -> None:
    manager = new_manager()
    picture: Any = media("image", "png")
    picture["image"]["source"]["bytes"] = DATA * 500_000
    long: Any = {"text": "long " * 100_000}
    odd: Any = {"text": HALF * 100_000}
    agent = new_agent(manager)
    for content in (
        [picture],
        [picture, long],
        [picture, odd],
        [picture, *[{"text": f"{n:0200}"} for n in range(40_000)]],
    ):
        manager.append_message({"role": "user", "content": content}, agent)
    size = {"type": "image/png", "size": 3_000_000}

    for number, collections in enumerate([[], ["files", "chunks"], ["files", "chunks"], ["files", "chunks"]]):
        with command_counter.counting() as log:
            (noted,) = manager.list_messages("default", 1, number, json_safe="note")
        assert noted["content"][0]["image"]["source"]["bytes"] == size
        assert log.names == ["aggregate", *("find" for _ in collections)]
        assert carried(noted) == noted
    assert manager.list_messages("default", 1, 1, json_safe="note")[0]["content"][1] == long
    assert [m["content"] for m in manager.list_messages("default", 3)] == [[picture], [picture, long], [picture, odd]]


def test_what_stands_beside_the_content(
    new_manager: NewManager, new_agent: NewAgent, observer: MongoClient[dict[str, Any]], database: str
) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    custom: Message = {"role": "user", "content": [{"text": "a"}], "metadata": {"custom": {"odd": ODD, "raw": DATA}}}
    manager.append_message(custom, agent)
    agent("Hi")
    manager.redact_latest_message({"role": "assistant", "content": [{"text": "…"}]}, agent)
    observer[database].agent_sessions.update_one(
        {"_id": "s-1"}, {"$set": {"agents.default.messages.0.theirs": {"id": observer["x"].name, "raw": DATA}}}
    )

    found = manager.list_messages("default", json_safe="note")

    assert carried(found) == found
    assert found[0]["metadata"]["custom"]["odd"]["nan"] == "NaN"
    assert isinstance(found[2]["guardrail_event"]["timestamp"], str)
    assert texts(found) == ["a", "Hi", "…"]  # type: ignore[arg-type]
