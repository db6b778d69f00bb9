"""Transcripts: pages of a history, and content blocks."""

import json
import secrets
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import bson
import pytest
from bson import Decimal128

from mongodb_session_manager import (
    AgentNotFoundError,
    MessageNotFoundError,
    MongoDBSessionError,
    Part,
    PartMark,
    SessionCatalog,
    SessionNotFoundError,
    TranscriptMessage,
)
from mongodb_session_manager.types import UsageFigures
from tests.aliases import Client, Document, Insert, NewAgent, NewManager
from tests.conftest import COLLECTION
from tests.first_version import AT, CONTENT, IMAGE, legacy, legacy_agent
from tests.integration.catalog.moving import move
from tests.integration.catalog.sessions import agent, at, call, message, session, with_agent

Put = Callable[..., None]
PICTURE = secrets.token_bytes(300_000)


def said(number: int) -> Any:
    return {"role": "assistant" if number % 2 else "user", "content": [{"text": f"text {number}"}]}


def walk(catalog: SessionCatalog, session_id: str, agent_id: str, **how: Any) -> list[list[int]]:
    """The ids of each page, newest page first."""
    pages, before = list[list[int]](), None
    while True:
        page = catalog.transcript(session_id, agent_id, before=before, **how)
        pages.append([each.message_id for each in page.messages])
        before = page.before
        if before is None:
            return pages


def test_messages_of_a_real_session(catalog: SessionCatalog, new_manager: NewManager, new_agent: NewAgent) -> None:
    made = new_agent(new_manager(), "Hello, you.", agent_id="support.v1")
    made("Hello")

    transcript = catalog.transcript("s-1", "support.v1")

    user, assistant = transcript.messages
    assert [(each.message_id, each.role, each.content) for each in transcript.messages] == [
        (0, "user", [{"text": "Hello"}]),
        (1, "assistant", [{"text": "Hello, you."}]),
    ]
    assert (user.usage, assistant.usage) == (None, UsageFigures(calls=1, input=10, output=5, total=15, latency_ms=1))
    assert [each.tracking_id for each in transcript.messages] == [each["tracking_id"] for each in made.messages]
    assert user.created_at is not None
    assert transcript.before is None
    assert all(each.readable and not each.redacted for each in transcript.messages)


@pytest.mark.parametrize("limit", [1, 7, 48, 60, 130, 1000])
def test_pages_reach_from_the_document_into_segments(
    catalog: SessionCatalog, new_manager: NewManager, new_agent: NewAgent, limit: int
) -> None:
    manager = new_manager()
    made = new_agent(manager, agent_id="a", messages=[said(n) for n in range(120)])
    move(manager)
    for number in range(120, 130):
        manager.append_message(said(number), made)

    pages = walk(catalog, "s-1", "a", limit=limit)

    assert [message_id for page in reversed(pages) for message_id in page] == list(range(130))
    assert all(len(page) == limit for page in pages[:-1])


def test_pages_over_several_segments(
    catalog: SessionCatalog, new_manager: NewManager, new_agent: NewAgent, observer: Client, database: str
) -> None:
    manager = new_manager()
    made = new_agent(manager, agent_id="a", messages=[said(n) for n in range(120)])
    move(manager)
    for number in range(120, 300):
        manager.append_message(said(number), made)
    manager.flush()
    move(manager)
    assert observer[database][f"{COLLECTION}_segments"].count_documents({}) == 2

    for limit in (37, 100, 200):
        pages = walk(catalog, "s-1", "a", limit=limit)
        assert [message_id for page in reversed(pages) for message_id in page] == list(range(300))
    assert [each.message_id for each in catalog.transcript("s-1", "a", before=10, limit=3).messages] == [7, 8, 9]
    assert catalog.transcript("s-1", "a", before=0).messages == []
    assert len(catalog.transcript("s-1", "a", before=10_000, limit=1000).messages) == 300


def test_a_page_has_at_most_max_bytes_and_at_least_one_message(
    catalog: SessionCatalog, new_manager: NewManager, new_agent: NewAgent
) -> None:
    messages = [{**said(n), "content": [{"text": f"{n}" * 5000}]} for n in range(120)]
    new_agent(new_manager(), agent_id="a", messages=messages)

    for max_bytes in (1, 6_000, 60_000, 200_000):
        pages, before = list[list[Any]](), None
        while not pages or before is not None:
            page = catalog.transcript("s-1", "a", limit=1000, before=before, max_bytes=max_bytes)
            pages, before = [*pages, page.messages], page.before
        assert [each.message_id for found in reversed(pages) for each in found] == list(range(120))
        brought = [block for found in pages for each in found for block in each.content if isinstance(block, dict)]
        assert len(brought) == (120 if max_bytes > 15_000 else 10 if max_bytes > 5_000 else 0)
        assert all(len(bson.encode({"": [vars_of(each) for each in found]})) < 2 * max_bytes + 1000 for found in pages)
    (tiny,) = catalog.transcript("s-1", "a", max_bytes=1).messages
    assert [(type(block), block.n) for block in tiny.content if isinstance(block, PartMark)] == [(PartMark, 0)]


def vars_of(message: TranscriptMessage) -> Document:
    return {name: value for name, value in asdict(message).items() if value is not None}


def test_a_message_that_is_larger_by_itself_is_a_mark(catalog: SessionCatalog, put: Put) -> None:
    put(with_agent("s-1", message(0, "user", *(f"{n:04}" * 100 for n in range(200)))))

    (found,) = catalog.transcript("s-1", "a", max_bytes=20_000).messages

    (mark,) = found.content
    assert isinstance(mark, PartMark)
    assert (mark.kind, mark.n, mark.size > 80_000) == ("content", 0, True)
    assert catalog.part("s-1", "a", 0, 199).data == "0199" * 100


def blocks() -> list[Any]:
    return [
        {"text": "short"},
        {"text": "long " * 10_000},
        {"image": {"format": "png", "source": {"bytes": PICTURE}}},
        {"document": {"format": "pdf", "name": "Report", "source": {"bytes": PICTURE[:100_000]}}},
        {"toolUse": {"toolUseId": "t", "name": "find", "input": {"q": "x" * 50_000, "n": 2**70}}},
        {"text": "odd \udc80"},
        {"text": "very long " * 50_000},
    ]


def test_large_blocks_are_marks_and_parts_bring_them(
    catalog: SessionCatalog, new_manager: NewManager, new_agent: NewAgent
) -> None:
    manager = new_manager()
    messages: list[Any] = [{"role": "user", "content": blocks()}, *(said(n) for n in range(1, 100))]
    new_agent(manager, agent_id="a", messages=messages)

    for moved in (False, True):
        if moved:
            move(manager)
        (found, *_) = catalog.transcript("s-1", "a", limit=1000).messages
        marks = [block if isinstance(block, PartMark) else None for block in found.content]
        assert [mark and (mark.n, mark.kind, mark.media_type, mark.name) for mark in marks] == [
            None,
            (1, "text", "text/plain", None),
            (2, "image", "image/png", None),
            (3, "document", "application/pdf", "Report"),
            (4, "toolUse", "application/json", None),
            None,
            (6, "text", "text/plain", None),
        ]
        assert (found.content[0], found.content[5]) == ({"text": "short"}, {"text": "odd \udc80"})
        parts = [catalog.part("s-1", "a", 0, n) for n in range(7)]
        assert parts[:4] == [
            Part(media_type="text/plain", data="short"),
            Part(media_type="text/plain", data="long " * 10_000),
            Part(media_type="image/png", data=PICTURE),
            Part(media_type="application/pdf", name="Report", data=PICTURE[:100_000]),
        ]
        assert json.loads(parts[4].data) == blocks()[4]
        assert [parts[5].data, parts[6].data] == ["odd \udc80", "very long " * 50_000]


@pytest.mark.parametrize(
    "damage", [{"$set": {"data": "text"}}, {"$set": {"data": b"other"}}, [{"$set": {"files_id": "$_id"}}]]
)
def test_a_value_that_is_missing_or_damaged(
    catalog: SessionCatalog,
    new_manager: NewManager,
    new_agent: NewAgent,
    observer: Client,
    database: str,
    damage: Any,
) -> None:
    new_agent(new_manager(), agent_id="a", messages=[{"role": "user", "content": blocks()}])
    observer[database][f"{COLLECTION}_files.chunks"].update_many({}, damage)

    with pytest.raises(MongoDBSessionError, match="Agent 'a' of session 's-1', message 0 has a large value") as caught:
        catalog.part("s-1", "a", 0, 2)

    assert not isinstance(caught.value, SessionNotFoundError)
    assert catalog.part("s-1", "a", 0, 0).data == "short"


def test_a_segment_that_is_missing(
    catalog: SessionCatalog, new_manager: NewManager, new_agent: NewAgent, observer: Client, database: str
) -> None:
    manager = new_manager()
    new_agent(manager, agent_id="a", messages=[said(n) for n in range(100)])
    move(manager)
    observer[database][f"{COLLECTION}_segments"].delete_many({})

    with pytest.raises(MongoDBSessionError, match="of session 's-1' cannot be read whole: a segment") as caught:
        catalog.transcript("s-1", "a", limit=1000)

    assert not isinstance(caught.value, SessionNotFoundError)
    assert len(catalog.transcript("s-1", "a", limit=5).messages) == 5


def test_a_content_that_is_stored_as_one_value(
    catalog: SessionCatalog, new_manager: NewManager, new_agent: NewAgent
) -> None:
    content = [{"text": f"{n}" * 1000} for n in range(2000)]
    new_agent(new_manager(), agent_id="a", messages=[{"role": "user", "content": content}])

    (found,) = catalog.transcript("s-1", "a").messages

    (mark,) = found.content
    assert isinstance(mark, PartMark)
    assert (mark.kind, mark.size > 4_000_000) == ("content", True)
    assert catalog.part("s-1", "a", 0, 1999) == Part(media_type="text/plain", data="1999" * 1000)
    with pytest.raises(ValueError, match="no content block 2000"):
        catalog.part("s-1", "a", 0, 2000)


def test_a_tools_result_with_a_picture(catalog: SessionCatalog, new_manager: NewManager, new_agent: NewAgent) -> None:
    picture = {"image": {"format": "png", "source": {"bytes": PICTURE}}}
    result = {"toolResult": {"toolUseId": "t", "status": "success", "content": [{"text": "see"}, picture]}}
    use = {"toolUse": {"toolUseId": "t", "name": "n", "input": {}}}
    messages: list[Any] = [said(0), {"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]
    new_agent(new_manager(), agent_id="a", messages=messages)

    (mark,) = catalog.transcript("s-1", "a").messages[2].content

    assert mark == PartMark(n=0, kind="toolResult", media_type="application/json", size=len(PICTURE))
    part = catalog.part("s-1", "a", 2, 0)
    assert (part.media_type, "see" in str(part.data), len(part.data) > len(PICTURE)) == ("application/json", True, True)


def test_a_redacted_message(catalog: SessionCatalog, new_manager: NewManager, new_agent: NewAgent) -> None:
    manager = new_manager()
    made = new_agent(manager, agent_id="a")
    made("A secret")
    manager.append_message(said(2), made)
    manager.redact_latest_message({"role": "user", "content": [{"text": "redacted"}]}, made)

    last = catalog.transcript("s-1", "a").messages[-1]

    assert (last.redacted, last.content) == (True, [{"text": "redacted"}])


def test_the_first_version(catalog: SessionCatalog, insert: Insert) -> None:
    redacted = legacy_agent("support-v1.2")
    redacted["messages"][0]["redact_message"] = {"role": "user", "content": [{"text": "gone"}]}
    insert(legacy({"support-v1": {"2": redacted}, "default": legacy_agent()}))

    transcript = catalog.transcript("s-1", "default")

    assert [(each.role, each.content) for each in transcript.messages] == CONTENT
    assert {each.created_at for each in transcript.messages} == {AT}
    assert catalog.part("s-1", "default", 0, 1) == Part(media_type="image/png", data=IMAGE)
    first = catalog.transcript("s-1", "support-v1.2").messages[0]
    assert (first.content, first.redacted) == ([{"text": "gone"}], True)
    assert [len(page) for page in walk(catalog, "s-1", "support-v1.2", limit=1)] == [1, 1, 1, 1]


def test_ids_in_no_order(catalog: SessionCatalog, put: Put) -> None:
    put(with_agent("s-1", *(message(n, "user", f"{n}") for n in (5, 3, 9, 1))))

    assert walk(catalog, "s-1", "a", limit=1) == [[1], [9], [3], [5]]


def test_messages_that_are_none(catalog: SessionCatalog, put: Put) -> None:
    odd: list[Any] = [None, 5, "x", {}, {"message_id": "x"}, {"message_id": 3, "role": "user", "content": [5]}]
    odd += [
        {"message_id": 4, "role": "user", "content": "plain"},
        {"message_id": 5, "role": "user", "content": {"a": 1}},
    ]
    mark = {"text": {"%int": 5}}
    odd += [{"message_id": 6, "role": "user", "content": [mark], "escaped": True}, message(7, "user", "fine")]
    put(session("s-1", agents={"a": agent("a", *odd)}))

    found = catalog.transcript("s-1", "a").messages

    assert [each.message_id for each in found] == [-1, -1, -1, -1, -1, 3, 4, 5, 6, 7]
    assert [each.readable for each in found[5:]] == [False, True, True, False, True]
    assert (found[6].content, found[9].content) == ([{"text": "plain"}], [{"text": "fine"}])


@pytest.mark.parametrize("document", [{"agents": []}, {"agents": {"a": 5}}, {"agents": {"a": {"agent_data": 5}}}, {}])
def test_an_agent_that_is_none(catalog: SessionCatalog, insert: Insert, document: Document) -> None:
    insert({"_id": "s-1", **document})

    for read in (lambda: catalog.transcript("s-1", "a"), lambda: catalog.part("s-1", "a", 0, 0)):
        with pytest.raises(AgentNotFoundError):
            read()


@pytest.mark.parametrize("number", [Decimal128("7"), float("nan"), 7.5, "7", None])
def test_references_that_are_none(catalog: SessionCatalog, put: Put, number: Any) -> None:
    good = {"_id": bson.ObjectId(), "count": 3, "first_id": -3, "last_id": -1}
    references = [5, *({**good, name: number} for name in ("_id", "count", "last_id"))]
    put(session("s-1", agents={"a": agent("a", message(0, "user", "Hi"), segments=references)}))

    assert [each.message_id for each in catalog.transcript("s-1", "a").messages] == [0]


def test_what_is_not_there(catalog: SessionCatalog, put: Put) -> None:
    put(with_agent("s-1", message(0, "user", "Hi")), with_agent("s-2", expires_at=at(0).replace(year=2000)))

    for session_id in ("s-0", "s-2"):
        for read in (lambda i=session_id: catalog.transcript(i, "a"), lambda i=session_id: catalog.part(i, "a", 0, 0)):
            with pytest.raises(SessionNotFoundError, match=session_id):
                read()
    with pytest.raises(AgentNotFoundError, match="'b'"):
        catalog.transcript("s-1", "b")
    with pytest.raises(MessageNotFoundError, match="7"):
        catalog.part("s-1", "a", 7, 0)
    with pytest.raises(ValueError, match="no content block 1"):
        catalog.part("s-1", "a", 0, 1)
    assert catalog.transcript("s-1", "a", limit=0).messages == []


def test_model_and_usage_of_a_message(catalog: SessionCatalog, put: Put) -> None:
    own, cached = call(3, "us.haiku"), call(4, None, cacheReadInputTokens=7, cacheWriteInputTokens=8)
    messages = [
        message(0, "assistant", "a", event_loop_metrics=own),
        message(1, "assistant", event_loop_metrics=cached),
    ]
    put(with_agent("s-1", *messages, message(2, "user")))

    found = catalog.transcript("s-1", "a").messages

    assert [each.model for each in found] == ["us.haiku", None, None]
    assert found[1].usage == UsageFigures(
        calls=1, input=4, output=2, total=6, cache_read=7, cache_write=8, latency_ms=5
    )
    assert found[2].usage is None
