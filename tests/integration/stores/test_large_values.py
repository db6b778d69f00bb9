"""Values too large for the session document: PDFs, pictures, long texts. They come back byte for byte, or are gone."""

import asyncio
import hashlib
import itertools
import logging
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, cast

import bson
import gridfs
import mongomock
import pytest
from bson import ObjectId
from pymongo.errors import PyMongoError
from strands import Agent, tool
from strands.agent.conversation_manager import NullConversationManager
from strands.types.content import Message
from strands.types.session import SessionMessage

from mongodb_session_manager import (
    MongoDBSessionManager,
    MongoDBSessionManagerFactory,
    MongoDBSessionRepository,
    SessionConflictError,
    SessionNotFoundError,
)
from mongodb_session_manager._schema.histories import AgentWrite
from mongodb_session_manager._schema.limits import Limits
from mongodb_session_manager._stores import indexes as _indexes
from mongodb_session_manager._stores.files import SessionFiles
from mongodb_session_manager.errors import MongoDBSessionError
from mongodb_session_manager.testing import CommandCounter, ScriptedModel
from tests.aliases import Client, Failing, History, NewAgent, NewManager
from tests.talking import every_durability, without_ids
from tests.watching import wait_for_indexes

LARGE = 300_000
BUCKET = "agent_sessions_files"
UPLOAD = ["insert", "insert", "update"]  # the file, its chunks, and that it is whole
HIDDEN: Message = {"role": "user", "content": [{"text": "[hidden]"}]}


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def document(content: bytes) -> Any:
    return {"document": {"format": "pdf", "name": "report", "source": {"bytes": content}}}


def image(content: bytes) -> Any:
    return {"image": {"format": "png", "source": {"bytes": content}}}


def say(*blocks: dict[str, Any], tracking_id: str | None = None) -> Message:
    message = cast(Message, {"role": "user", "content": list(blocks)})
    return cast(Message, {**message, "tracking_id": tracking_id}) if tracking_id else message


@tool
def read_table() -> dict[str, Any]:
    """Read a table."""
    cell = {"json": {"$ref": "#/rows", "rows": ["ä" * LARGE, {"empty": "", "deep": [noise(10).hex()]}]}}
    return {"status": "success", "content": [cell]}


LOOK = {"toolUse": {"toolUseId": "t-1", "name": "read_table", "input": {}}}


class Bucket:
    """What is stored of large values, as anybody sees it."""

    def __init__(self, database: Any) -> None:
        self.database = database
        self.files, self.chunks = database[f"{BUCKET}.files"], database[f"{BUCKET}.chunks"]

    def contents(self, session_id: str = "s-1") -> list[bytes]:
        """Read the files of a session with the driver's own implementation."""
        bucket = gridfs.GridFSBucket(self.database, BUCKET)
        return [file.read() for file in bucket.find({"metadata.session_id": session_id})]

    def is_empty(self) -> bool:
        return bool(self.files.count_documents({}) == self.chunks.count_documents({}) == 0)

    def holds_nothing_else(self) -> bool:
        """Whether every chunk belongs to a file that is whole and there to stay."""
        states = [set(file["metadata"]) - {"removals"} for file in self.files.find()]
        marks = [mark for file in self.files.find() for mark in file["metadata"].get("removals", ())]
        ids = {file["_id"] for file in self.files.find()}
        return bool(
            all(state == {"session_id", "instance", "sha256"} for state in states)
            and not marks
            and ids.issubset(self.chunks.distinct("files_id"))
            and self.chunks.count_documents({"files_id": {"$nin": list(ids)}}) == 0
        )


@pytest.fixture
def bucket(observer: Client, database: str) -> Bucket:
    return Bucket(observer[database])


def append(manager: MongoDBSessionManager, agent: Agent, message: Message) -> None:
    """Store a message as the SDK does it: it stands in the agent too."""
    agent.messages.append(message)
    manager.append_message(message, agent)


# There and back


def test_everything_comes_back_byte_for_byte(
    new_manager: NewManager, new_agent: NewAgent, stored: Callable[[], Any], bucket: Bucket
) -> None:
    report, text, picture = noise(20_000_000), "Zeile 1 🙂\n" * 3_000_000, noise(LARGE, 1)
    manager = new_manager()
    agent = new_agent(manager, LOOK, tools=[read_table])
    agent([document(report), {"text": text}, image(picture)])

    again = new_manager()
    restored = new_agent(again)

    assert restored.messages == agent.messages
    assert list(restored.messages[2]["content"][0]["toolResult"]["content"][0]["json"]) == ["$ref", "rows"]
    assert again.list_messages("default")[0]["content"] == agent.messages[0]["content"]
    record = again.session_repository.read_message("s-1", "default", 0)
    assert record is not None
    assert record.to_message() == agent.messages[0]
    assert len(bson.encode(stored())) < 10_000
    assert sorted(map(len, bucket.contents())) == [LARGE, 2 * LARGE, 20_000_000, len(text.encode())]


@pytest.mark.parametrize(
    "value",
    ["\ud800" * LARGE, "é" * (LARGE // 2), noise(LARGE), bytearray(LARGE), 7 ** (LARGE * 2)],
    ids=["surrogates", "UTF-8", "bytes", "bytearray", "integer"],
)
def test_whatever_the_codec_marks(new_manager: NewManager, new_agent: NewAgent, history: History, value: Any) -> None:
    message = say({"toolUse": {"toolUseId": "1", "name": "n", "input": {"a.b": [value], "%file": {"sha256": "0"}}}})
    manager = new_manager()

    append(manager, new_agent(manager), message)

    assert without_ids(history()) == [message]


@pytest.mark.parametrize("depth", [90, 150, 240])
def test_a_value_far_down(new_manager: NewManager, new_agent: NewAgent, history: History, depth: int) -> None:
    nested: Any = "x" * LARGE
    for _ in range(depth):
        nested = [nested]
    message = say({"toolUse": {"toolUseId": "1", "name": "n", "input": {"nested": nested}}})
    manager = new_manager()

    append(manager, new_agent(manager), message)

    assert without_ids(history()) == [message]


@pytest.mark.parametrize(
    ("blocks", "files"),
    [
        ([{"text": "x" * 256 * 1024}], 0),
        ([{"text": "x" * (256 * 1024 + 1)}], 1),
        ([{"text": chr(97 + n) * 200_000} for n in range(20)], 0),
        ([{"text": chr(97 + n) * 250_000} for n in range(20)], 20),
        ([{"text": f"{n:010}" * 1000} for n in range(300)], 0),
        ([{"text": f"{n:010}" * 1000} for n in range(2000)], 1),
    ],
    ids=["at the threshold", "over it", "under 4 MiB", "over 4 MiB", "many small ones", "very many small ones"],
)
def test_what_is_large(
    new_manager: NewManager,
    new_agent: NewAgent,
    history: History,
    bucket: Bucket,
    stored: Callable[[], Any],
    blocks: list[dict[str, Any]],
    files: int,
) -> None:
    manager = new_manager()

    append(manager, new_agent(manager), say(*blocks))

    assert without_ids(history()) == [say(*blocks)]
    assert bucket.files.count_documents({}) == files
    assert ("has_files" in stored()) == (files > 0)


def test_initial_messages(new_manager: NewManager, new_agent: NewAgent, bucket: Bucket) -> None:
    first = new_agent(new_manager(), messages=[say(document(noise(LARGE)))])

    assert new_agent(new_manager()).messages == first.messages
    assert bucket.contents() == [noise(LARGE)]


def test_a_session_that_is_read_ahead(observer: Client, database: str) -> None:
    def make_agent(manager: MongoDBSessionManager) -> Agent:
        return Agent(model=ScriptedModel(default="Okay."), session_manager=manager, callback_handler=None)

    async def chat() -> list[Message]:
        async with factory.session("s-1", agent_ids=["default"]) as manager:
            agent = make_agent(manager)
            await agent.invoke_async([document(noise(LARGE))])
        async with factory.session("s-1", agent_ids=["default"]) as manager:
            assert make_agent(manager).messages == agent.messages
            return agent.messages

    with MongoDBSessionManagerFactory(client=observer, database_name=database) as factory:
        assert asyncio.run(chat())[0]["content"] == [document(noise(LARGE))]


@every_durability
def test_under_each_durability(
    new_manager: NewManager, new_agent: NewAgent, history: History, bucket: Bucket, durability: str
) -> None:
    agent = new_agent(new_manager(durability=durability), LOOK, tools=[read_table])

    agent([document(noise(LARGE))])
    agent([document(noise(LARGE, 1))])

    assert history() == agent.messages
    assert bucket.files.count_documents({}) == 3
    assert bucket.holds_nothing_else()


def test_on_mongomock() -> None:
    client: Any = mongomock.MongoClient()

    def new_agent() -> tuple[MongoDBSessionManager, Agent]:
        manager = MongoDBSessionManager("s-1", client=client)
        return manager, Agent(model=ScriptedModel(default="Okay."), session_manager=manager, callback_handler=None)

    manager, agent = new_agent()
    agent([document(noise(LARGE))])
    again, restored = new_agent()
    assert restored.messages == agent.messages
    bucket = Bucket(client["database_name"])

    restored.messages[0]["content"] = [{"text": "…"}]
    repository = again.session_repository
    repository.update_message("s-1", "default", SessionMessage.from_message(restored.messages[0], 0))
    assert bucket.is_empty()

    manager, agent = new_agent()
    append(manager, agent, say(document(noise(LARGE))))
    assert not bucket.is_empty()
    assert manager.delete_session()
    assert bucket.is_empty()


# What it costs


def test_operations(
    new_manager: NewManager, new_agent: NewAgent, command_counter: CommandCounter, bucket: Bucket
) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    agent([document(noise(LARGE))])  # with the indexes

    with command_counter.counting() as ordinary:
        agent("Hello")
    with command_counter.counting() as new:
        append(manager, agent, say(document(noise(LARGE, 1)), image(noise(LARGE, 2))))
    with command_counter.counting() as known:
        append(manager, agent, say(document(noise(LARGE, 1))))
    again = new_manager()
    with command_counter.counting() as restoring:
        new_agent(again)
    with command_counter.counting() as listing:
        again.list_messages("default", limit=1, offset=1)

    assert ordinary.names == ["update", "update"]
    assert new.names == ["find", *UPLOAD, *UPLOAD, "update", "find"]
    assert known.names == ["find", "update", "find"]
    assert restoring.names == ["aggregate", "find", "find"]
    assert listing.names == ["aggregate"]
    assert len(bucket.contents()) == 3


def test_an_ordinary_redaction_looks_at_no_files(
    new_manager: NewManager, new_agent: NewAgent, command_counter: CommandCounter
) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    agent("Hello")

    with command_counter.counting() as log:
        manager.redact_latest_message(HIDDEN, agent)

    assert [c for c in log.commands if BUCKET in str(c.document)] == []


# Shared within a session, and not beyond


def test_one_file_for_the_same_content(new_manager: NewManager, new_agent: NewAgent, bucket: Bucket) -> None:
    manager = new_manager()
    agent, other = new_agent(manager), new_agent(manager, agent_id="other")
    agent([document(noise(LARGE))])
    agent([{"text": "And page 2?"}, document(noise(LARGE))])
    other([document(noise(LARGE))])

    assert bucket.contents() == [noise(LARGE)]
    assert new_agent(new_manager()).messages == agent.messages


def test_text_and_bytes_of_the_same_content(new_manager: NewManager, new_agent: NewAgent, history: History) -> None:
    manager = new_manager()
    message = say({"text": "x" * LARGE}, document(b"x" * LARGE))

    append(manager, new_agent(manager), message)

    assert without_ids(history()) == [message]


def test_another_session_has_its_own(new_manager: NewManager, new_agent: NewAgent, bucket: Bucket) -> None:
    for session_id in ("s-1", "s-2"):
        new_agent(new_manager(session_id))([document(noise(LARGE))])

    new_manager("s-1").delete_session()

    assert bucket.contents("s-1") == []
    assert bucket.contents("s-2") == [noise(LARGE)]
    assert new_agent(new_manager("s-2")).messages[0]["content"] == [document(noise(LARGE))]


@pytest.mark.limits(read_pauses=())
def test_nobody_reads_a_strangers_file(
    new_manager: NewManager,
    new_agent: NewAgent,
    history: History,
    observer: Client,
    database: str,
) -> None:
    new_agent(new_manager("s-1"))([document(noise(LARGE))])
    sessions = observer[database].agent_sessions
    theirs = cast(Any, sessions.find_one("s-1"))["agents"]["default"]["messages"][0]
    mark = theirs["content"][0]["document"]["source"]["bytes"]
    assert mark["%file"]["sha256"] == hashlib.sha256(noise(LARGE)).hexdigest()

    manager = new_manager("s-2")
    agent = new_agent(manager)
    crafted = say({"toolUse": {"toolUseId": "1", "name": "n", "input": {"x": mark, "files": theirs["files"]}}})
    append(manager, agent, cast(Message, {**crafted, "files": theirs["files"]}))
    assert history("s-2")[0]["content"] == crafted["content"]

    sessions.update_one({"_id": "s-2"}, {"$push": {"agents.default.messages": {**theirs, "message_id": 1}}})
    with pytest.raises(MongoDBSessionError, match="message 1 has a large value that is not stored"):
        history("s-2")


# Redaction and deletion


def redact(manager: MongoDBSessionManager, agent: Agent) -> None:
    tracking_id = agent.messages[-1].get("tracking_id")
    hidden = cast(Message, {**HIDDEN, "tracking_id": tracking_id}) if tracking_id else HIDDEN
    manager.redact_latest_message(hidden, agent)


@pytest.mark.parametrize("tracking_id", [None, "t-1"])
@pytest.mark.parametrize("restored", [False, True])
def test_a_redaction_removes_the_value(
    new_manager: NewManager, new_agent: NewAgent, bucket: Bucket, tracking_id: str | None, restored: bool
) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    append(manager, agent, say({"text": "before"}, image(noise(LARGE, 1)), tracking_id="t-0"))
    append(manager, agent, say(document(noise(LARGE)), {"text": "x" * LARGE}, tracking_id=tracking_id))
    if restored:
        manager = new_manager()
        agent = new_agent(manager)

    redact(manager, agent)

    assert bucket.contents() == [noise(LARGE, 1)]
    assert bucket.holds_nothing_else()
    assert new_agent(new_manager()).messages[1]["content"] == HIDDEN["content"]


def test_a_value_goes_with_its_last_user(new_manager: NewManager, new_agent: NewAgent, bucket: Bucket) -> None:
    manager = new_manager()
    agent, other = new_agent(manager), new_agent(manager, agent_id="other")
    append(manager, agent, say(document(noise(LARGE)), tracking_id="t-1"))
    append(manager, agent, say(document(noise(LARGE)), tracking_id="t-2"))
    append(manager, other, say(document(noise(LARGE)), tracking_id="t-3"))

    redact(manager, agent)
    assert bucket.contents() == [noise(LARGE)]
    assert bucket.holds_nothing_else()
    assert new_agent(new_manager()).messages[0]["content"] == [document(noise(LARGE))]

    repository = manager.session_repository
    repository.update_message("s-1", "default", SessionMessage(say({"text": "…"}), 0, redact_message=HIDDEN))
    assert bucket.contents() == [noise(LARGE)]
    redact(manager, other)

    assert bucket.is_empty()


def test_a_copy_is_redacted_with_it(new_manager: NewManager, new_agent: NewAgent, bucket: Bucket) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    prompt = say(document(noise(LARGE)), tracking_id="t-1")
    append(manager, agent, prompt)
    append(manager, agent, say({"text": "Sorry?"}))
    append(manager, agent, prompt)

    redact(manager, agent)

    assert bucket.is_empty()


@pytest.mark.parametrize("restored", [False, True])
def test_a_message_that_is_replaced(
    new_manager: NewManager, new_agent: NewAgent, bucket: Bucket, history: History, restored: bool
) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    append(manager, agent, say(document(noise(LARGE)), image(noise(LARGE, 1)), tracking_id="t-1"))
    if restored:
        manager = new_manager()
        agent = new_agent(manager)

    grown = say(document(noise(LARGE)), {"text": "x" * LARGE}, tracking_id="t-1")
    manager._agents.live()[0].capture_replacement(agent, grown)
    manager.flush()

    assert history() == [grown]
    assert sorted(bucket.contents()) == sorted([noise(LARGE), b"x" * LARGE])
    assert bucket.holds_nothing_else()


def test_a_pending_message_that_was_never_sent_uploads_nothing(
    new_manager: NewManager, new_agent: NewAgent, bucket: Bucket, command_counter: CommandCounter, history: History
) -> None:
    manager = new_manager(durability="exit")
    agent = new_agent(manager)
    binding = manager._agents.live()[0]
    message = say(document(noise(LARGE)), tracking_id="t-1")
    agent.messages.append(message)
    binding.capture_message(agent, message)

    with command_counter.counting() as log:
        redact(manager, agent)

    assert log.writes == 1
    assert [c for c in log.commands if BUCKET in str(c.document)] == []
    assert history()[0]["content"] == HIDDEN["content"]
    assert bucket.is_empty()


@pytest.mark.parametrize(
    "fault",
    [{"errorCode": 50}, {"closeConnection": True}, {"writeConcernError": {"code": 64, "errmsg": "late"}}],
    ids=["refused", "closed", "applied"],
)
def test_a_pending_message_that_was_sent_leaves_nothing(
    new_manager: NewManager,
    new_agent: NewAgent,
    failing: Failing,
    bucket: Bucket,
    history: History,
    everything: Callable[[], bytes],
    fault: dict[str, Any],
) -> None:
    secret = "my number is 4711 " * 20_000
    manager = new_manager()
    agent = new_agent(manager)
    append(manager, agent, say({"text": "before"}))
    with failing("update", **fault), pytest.raises(PyMongoError):
        append(manager, agent, say({"text": secret}, tracking_id="t-1"))
    assert b"4711" in everything()

    redact(manager, agent)

    assert b"4711" not in everything()
    assert bucket.is_empty()
    assert history()[-1]["content"] == HIDDEN["content"]


@pytest.mark.parametrize("moved", [True, False])
@pytest.mark.limits(kept_messages=1)
def test_a_redaction_by_the_sdks_verb(
    new_manager: NewManager, new_agent: NewAgent, bucket: Bucket, moved: bool
) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    append(manager, agent, say(document(noise(LARGE))))
    append(manager, agent, say(document(noise(LARGE, 1))))
    if moved:
        assert manager._agents.live()[0].history.move_oldest()
    repository = manager.session_repository

    repository.update_message("s-1", "default", SessionMessage(say(image(noise(LARGE, 2))), 0))
    assert sorted(bucket.contents()) == sorted([noise(LARGE, 1), noise(LARGE, 2)])
    assert new_agent(new_manager()).messages[0]["content"] == [image(noise(LARGE, 2))]
    repository.update_message("s-1", "default", SessionMessage(say({"text": "…"}), 0, redact_message=HIDDEN))

    assert bucket.contents() == [noise(LARGE, 1)]
    assert bucket.holds_nothing_else()


@pytest.mark.parametrize(("commands", "part"), [(("delete",), "files"), (("delete",), "chunks"), (("find",), "files")])
def test_a_removal_that_fails_is_made_up_for(
    new_manager: NewManager,
    new_agent: NewAgent,
    failing: Failing,
    bucket: Bucket,
    database: str,
    commands: tuple[str, ...],
    part: str,
) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    append(manager, agent, say(document(noise(LARGE)), tracking_id="t-1"))
    with failing(*commands, namespace=f"{database}.{BUCKET}.{part}", errorCode=50), pytest.raises(PyMongoError):
        redact(manager, agent)

    manager.flush()

    assert bucket.is_empty()


def test_a_redaction_goes_on_where_a_process_died(
    new_manager: NewManager, new_agent: NewAgent, failing: Failing, bucket: Bucket, database: str
) -> None:
    dying = new_manager()
    agent = new_agent(dying)
    append(dying, agent, say(document(noise(LARGE)), tracking_id="t-1"))
    with failing("delete", namespace=f"{database}.{BUCKET}.chunks", errorCode=50), pytest.raises(PyMongoError):
        redact(dying, agent)
    dying._agents.live()[0].history.invalidate(MongoDBSessionError("killed"))

    manager = new_manager()
    redact(manager, new_agent(manager))

    assert bucket.is_empty()


def test_a_deleted_session_leaves_nothing(
    new_manager: NewManager, new_agent: NewAgent, failing: Failing, bucket: Bucket, database: str
) -> None:
    manager = new_manager()
    new_agent(manager)([document(noise(LARGE)), image(noise(LARGE, 1))])
    repository = manager.session_repository
    with failing("delete", namespace=f"{database}.{BUCKET}.files", errorCode=50), pytest.raises(PyMongoError):
        repository.delete_session("s-1")
    assert not bucket.is_empty()

    assert repository.delete_session("s-1") is False

    assert bucket.is_empty()


def test_what_was_uploaded_for_a_deleted_session_goes(
    new_manager: NewManager, new_agent: NewAgent, bucket: Bucket
) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    agent("Hello")
    new_manager().delete_session()

    with pytest.raises(SessionNotFoundError):
        agent([document(noise(LARGE))])

    assert bucket.is_empty()


def test_a_conflict_hands_the_values_back_and_leaves_none(
    new_manager: NewManager, new_agent: NewAgent, bucket: Bucket
) -> None:
    first, second = new_agent(new_manager()), new_agent(new_manager())
    first("I was faster.")

    with pytest.raises(SessionConflictError) as conflict:
        second([document(noise(LARGE)), {"text": "x" * LARGE}])

    assert conflict.value.pending[0]["content"] == [document(noise(LARGE)), {"text": "x" * LARGE}]
    assert bucket.is_empty()


@pytest.mark.parametrize("verb", ["create_message", "update_message"])
@pytest.mark.parametrize("session_id", ["s-1", "no such session"])
def test_a_verb_that_stores_nothing_leaves_no_value(
    new_manager: NewManager, new_agent: NewAgent, bucket: Bucket, verb: str, session_id: str
) -> None:
    manager = new_manager()
    new_agent(manager)("Hello")
    taken, missing = 0, 7
    message_id = taken if verb == "create_message" else missing

    with pytest.raises(MongoDBSessionError):
        getattr(manager.session_repository, verb)(
            session_id, "default", SessionMessage(say(document(noise(LARGE))), message_id)
        )

    assert bucket.is_empty()


def test_a_verb_that_is_repeated(new_manager: NewManager, new_agent: NewAgent, bucket: Bucket) -> None:
    """The value stays as long as the message has it, and does not come back after its redaction."""
    manager = new_manager()
    new_agent(manager)
    repository = manager.session_repository
    record = SessionMessage(say(document(noise(LARGE)), tracking_id="t-1"), 0)
    for _ in range(2):
        repository.create_message("s-1", "default", record)
    assert bucket.contents() == [noise(LARGE)]
    assert bucket.holds_nothing_else()

    repository.update_message("s-1", "default", SessionMessage(record.message, 0, redact_message=HIDDEN))
    repository.create_message("s-1", "default", record)

    assert bucket.is_empty()


def test_a_verb_whose_write_the_driver_gave_up_keeps_the_value(
    new_manager: NewManager, new_agent: NewAgent, bucket: Bucket, failing: Failing, history: History, database: str
) -> None:
    """It may have arrived, or be sent again."""
    repository = new_manager().session_repository
    new_agent(new_manager())
    record = SessionMessage(say(document(noise(LARGE)), tracking_id="t-1"), 0)
    sessions = f"{database}.agent_sessions"
    with failing("update", namespace=sessions, **APPLIED), pytest.raises(PyMongoError):
        repository.create_message("s-1", "default", record)

    assert bucket.contents() == [noise(LARGE)]
    assert history()[0]["content"] == [document(noise(LARGE))]


@pytest.mark.parametrize("why", ["deleted", "locked", "overtaken"])
@pytest.mark.parametrize("prefetched", [False, True])
def test_a_new_agent_that_is_not_stored_leaves_no_value(
    new_manager: NewManager, new_agent: NewAgent, bucket: Bucket, why: str, prefetched: bool
) -> None:
    manager = new_manager()
    if prefetched:
        manager.prefetch(["default"])
    if why == "deleted":
        new_manager().delete_session()
    elif why == "locked":
        new_manager(exclusive=True)
    else:
        new_agent(new_manager())("I was faster.")

    with suppress(MongoDBSessionError):
        agent = new_agent(manager, messages=[say(document(noise(LARGE)))])
        assert prefetched or agent.messages[0]["content"] == [{"text": "I was faster."}]
        manager.flush()

    assert bucket.is_empty()


@pytest.mark.parametrize("exclusive", [True, False])
def test_a_redaction_that_is_refused_takes_its_mark_back(
    new_manager: NewManager, new_agent: NewAgent, bucket: Bucket, exclusive: bool
) -> None:
    """Or the next writer of the same value would upload it once more."""
    first = new_manager()
    append(first, new_agent(first), say(document(noise(LARGE)), tracking_id="t-1"))
    manager = new_manager()
    agent = new_agent(manager)
    other = new_manager(exclusive=exclusive)
    append(other, new_agent(other), say({"text": "I was faster."}))

    with pytest.raises(SessionConflictError):
        redact(manager, agent)

    assert bucket.contents() == [noise(LARGE)]
    assert bucket.holds_nothing_else()


def test_a_write_does_not_show_its_values() -> None:
    assert "4711" not in repr(AgentWrite("default", files={"digest": b"my number is 4711"}))


# Faults


REFUSED, CLOSED = {"errorCode": 50}, {"closeConnection": True}
APPLIED = {"writeConcernError": {"code": 64, "errmsg": "late"}}


@pytest.mark.parametrize(
    ("command", "part", "fault"),
    [
        ("find", "files", REFUSED),
        ("find", "files", CLOSED),
        *itertools.product(["insert"], ["files", "chunks"], [REFUSED, CLOSED, APPLIED]),
    ],
)
def test_a_failed_upload_leaves_the_message_pending(
    new_manager: NewManager,
    new_agent: NewAgent,
    failing: Failing,
    bucket: Bucket,
    history: History,
    database: str,
    command: str,
    part: str,
    fault: dict[str, Any],
) -> None:
    agent = new_agent(new_manager())
    agent("Hello")

    with failing(command, namespace=f"{database}.{BUCKET}.{part}", **fault), pytest.raises(PyMongoError):
        agent([document(noise(1_000_000))])
    assert len(history()) == 2
    agent("Are you there?")

    assert history() == agent.messages
    assert bucket.contents() == [noise(1_000_000)]
    assert bucket.holds_nothing_else()


@pytest.mark.parametrize("taken_back", [True, False])
def test_an_upload_that_broke_off_is_not_taken_for_the_value(
    new_manager: NewManager,
    new_agent: NewAgent,
    failing: Failing,
    bucket: Bucket,
    history: History,
    database: str,
    taken_back: bool,
) -> None:
    """Also where the server was gone when it should have been taken back."""
    broken = ("insert",) if taken_back else ("insert", "delete")
    manager = new_manager()
    agent = new_agent(manager)
    with failing(*broken, namespace=f"{database}.{BUCKET}.chunks", errorCode=50), pytest.raises(PyMongoError):
        append(manager, agent, say(document(noise(LARGE)), tracking_id="t-1"))
    assert bucket.files.count_documents({}) == (0 if taken_back else 1)

    manager.flush()

    assert history() == agent.messages
    redact(manager, agent)
    assert bucket.is_empty()


@pytest.mark.parametrize("redacted", [False, True])
def test_a_crash_between_upload_and_append(
    new_manager: NewManager, new_agent: NewAgent, failing: Failing, bucket: Bucket, history: History, redacted: bool
) -> None:
    dying = new_manager()
    agent = new_agent(dying)
    with failing("update", errorCode=50), pytest.raises(PyMongoError):
        append(dying, agent, say(document(noise(LARGE)), tracking_id="t-1"))
    dying._agents.live()[0].history.invalidate(MongoDBSessionError("killed"))
    assert bucket.contents() == [noise(LARGE)]
    assert history() == []

    manager = new_manager()
    agent = new_agent(manager)
    append(manager, agent, say(document(noise(LARGE)), tracking_id="t-1"))
    assert bucket.contents() == [noise(LARGE)]
    if redacted:
        redact(manager, agent)
    else:
        manager.delete_session()

    assert bucket.is_empty()


def test_an_answer_that_was_lost(
    new_manager: NewManager, new_agent: NewAgent, failing: Failing, bucket: Bucket, history: History
) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    with failing("update", writeConcernError={"code": 64, "errmsg": "late"}), pytest.raises(PyMongoError):
        append(manager, agent, say(document(noise(LARGE)), tracking_id="t-1"))

    manager.flush()

    assert bucket.contents() == [noise(LARGE)]
    assert history() == agent.messages


def test_a_value_that_was_removed_before_the_answer_was_lost_is_stored_again(
    new_manager: NewManager, new_agent: NewAgent, failing: Failing, bucket: Bucket, history: History
) -> None:
    """The look at the file comes with the acknowledgement, however late that is."""
    manager = new_manager()
    agent = new_agent(manager)
    with failing("update", writeConcernError={"code": 64, "errmsg": "late"}), pytest.raises(PyMongoError):
        append(manager, agent, say(document(noise(LARGE)), tracking_id="t-1"))
    bucket.files.delete_many({})
    bucket.chunks.delete_many({})

    manager.flush()

    assert bucket.holds_nothing_else()
    assert history() == agent.messages


@pytest.mark.limits(read_pauses=())
def test_a_value_that_is_gone_is_told(new_manager: NewManager, new_agent: NewAgent, bucket: Bucket) -> None:
    new_agent(new_manager())([document(noise(LARGE * 2))])
    bucket.chunks.delete_one({"n": 1})

    manager = new_manager()
    with pytest.raises(MongoDBSessionError, match=r"Agent 'default' of session 's-1', message 0 has a large value"):
        new_agent(manager)
    repository = manager.session_repository
    repository.update_message("s-1", "default", SessionMessage(say({"text": "lost"}), 0))

    assert new_agent(manager).messages[0]["content"] == [{"text": "lost"}]
    assert bucket.is_empty()


def test_a_reader_waits_for_a_value_that_is_stored_again(
    new_manager: NewManager, new_agent: NewAgent, bucket: Bucket
) -> None:
    new_agent(new_manager())([document(noise(LARGE))])
    files = list(bucket.files.find())
    bucket.files.delete_many({})

    def pauses() -> Iterator[float]:
        yield 0.0
        bucket.files.insert_many(files)
        yield 0.0
        pytest.fail("read a third time")

    limits = Limits(read_pauses=cast(Any, pauses()))

    assert new_agent(new_manager(_limits=limits)).messages[0]["content"] == [document(noise(LARGE))]


def test_without_the_privilege_to_create_indexes(
    new_manager: NewManager,
    new_agent: NewAgent,
    observer: Client,
    history: History,
    caplog: pytest.LogCaptureFixture,
) -> None:
    agent = new_agent(new_manager())
    fail_point = {"configureFailPoint": "failCommand", "data": {"failCommands": ["createIndexes"], "errorCode": 13}}
    observer.admin.command({**fail_point, "mode": "alwaysOn"})
    try:
        with caplog.at_level(logging.WARNING):
            agent([document(noise(LARGE)), image(noise(LARGE, 1))])
            agent([document(noise(LARGE, 2))])
            wait_for_indexes()
    finally:
        observer.admin.command({**fail_point, "mode": "off"})

    assert history() == agent.messages
    warned = [r.getMessage() for r in caplog.records if r.name == _indexes.__name__ and BUCKET in r.getMessage()]
    assert len(warned) == 2  # one for each collection of the bucket
    assert all("code=<13>" in text for text in warned)


def test_the_indexes_are_those_that_gridfs_asks_for(
    new_manager: NewManager, new_agent: NewAgent, bucket: Bucket, command_counter: CommandCounter
) -> None:
    agent = new_agent(new_manager())
    with command_counter.counting() as log:
        agent([document(noise(LARGE))])
        agent([document(noise(LARGE, 1))])
        wait_for_indexes()

    chunks = bucket.chunks.index_information()["files_id_1_n_1"]
    assert chunks["unique"]
    assert "metadata.session_id_1_metadata.instance_1" in bucket.files.index_information()
    assert log.names.count("createIndexes") == 2


# Segments


@pytest.mark.limits(kept_messages=4)
def test_a_long_history_with_large_values(
    new_manager: NewManager,
    new_agent: NewAgent,
    bucket: Bucket,
    history: History,
    command_counter: CommandCounter,
) -> None:
    manager = new_manager()
    agent = new_agent(manager, conversation_manager=NullConversationManager())
    for number in range(12):
        append(manager, agent, say(document(noise(LARGE, number)), tracking_id=f"t-{number}"))
    assert manager._agents.live()[0].history.move_oldest()

    assert history() == agent.messages
    again = new_manager()
    restored = new_agent(again, conversation_manager=NullConversationManager())
    assert restored.messages == agent.messages
    with command_counter.counting() as log:
        page = again.list_messages("default", limit=2, offset=7)
    assert [message["content"] for message in page] == [[document(noise(LARGE, n))] for n in (7, 8)]
    read = [c for c in log.commands if c.name == "find" and c.document["find"] == f"{BUCKET}.files"]
    assert [len(c.document["filter"]["metadata.sha256"]["$in"]) for c in read] == [2]

    again.append_message(say(document(noise(LARGE, 0)), tracking_id="t-0"), restored)
    again.redact_latest_message(cast(Message, {**HIDDEN, "tracking_id": "t-0"}), restored)

    assert sorted(bucket.contents()) == sorted(noise(LARGE, n) for n in range(1, 12))
    assert bucket.holds_nothing_else()


@pytest.mark.parametrize("by_verb", [True, False])
@pytest.mark.limits(kept_messages=1)
def test_a_moved_message_that_gets_its_first_value(
    new_manager: NewManager, new_agent: NewAgent, bucket: Bucket, by_verb: bool
) -> None:
    """The session says so, or a later redaction would not look for it."""
    manager = new_manager()
    agent = new_agent(manager)
    for tracking_id in ("t-0", "t-1"):
        append(manager, agent, say({"text": "Hello"}, tracking_id=tracking_id))
    binding = manager._agents.live()[0]
    assert binding.history.move_oldest()
    grown = say(document(noise(LARGE)), tracking_id="t-0")
    if by_verb:
        manager.session_repository.update_message("s-1", "default", SessionMessage(grown, 0))
    else:
        binding.capture_replacement(agent, grown)
        manager.flush()
    assert bucket.contents() == [noise(LARGE)]

    manager = new_manager()
    agent = new_agent(manager)
    append(manager, agent, say({"text": "Again"}, tracking_id="t-0"))
    redact(manager, agent)

    assert bucket.is_empty()


@pytest.mark.parametrize("is_live", [True, False])
def test_a_moved_message_that_got_its_first_value_from_another_process(
    new_manager: NewManager, new_agent: NewAgent, bucket: Bucket, observer: Client, database: str, is_live: bool
) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    for tracking_id in ("t-0", "t-1"):
        append(manager, agent, say({"text": "Hello"}, tracking_id=tracking_id))
    history = manager._agents.live()[0].history
    assert history.move_oldest(kept_bytes=0)
    if not is_live:
        history.live.prune([])
    other = MongoDBSessionRepository(client=observer, database_name=database)
    other.update_message("s-1", "default", SessionMessage(say(document(noise(LARGE)), tracking_id="t-0"), 0))

    append(manager, agent, say({"text": "Again"}, tracking_id="t-0"))
    redact(manager, agent)

    assert bucket.is_empty()


def test_a_mended_history_keeps_its_values(
    new_manager: NewManager, new_agent: NewAgent, history: History, bucket: Bucket
) -> None:
    blocks: list[dict[str, Any]] = [
        {"toolResult": {"toolUseId": each, "status": "success", "content": [document(noise(LARGE))]}} for each in "12"
    ]
    broken = [
        say(image(noise(LARGE, 1))),
        cast(Message, {"role": "assistant", "content": [{"toolUse": {"toolUseId": "1", "name": "n", "input": {}}}]}),
        say(*blocks),
        say({"text": "x" * LARGE}),
    ]
    manager = new_manager()
    agent = new_agent(manager)
    for message in broken:
        manager.append_message(message, agent)

    mended = new_agent(new_manager()).messages

    assert [message["content"] for message in mended] == [
        broken[0]["content"],
        broken[1]["content"],
        blocks[:1],
        broken[3]["content"],
    ]
    assert [message["content"] for message in history()] == [message["content"] for message in broken]
    assert len(bucket.contents()) == 3


# Two at once


class Stepper(CommandCounter):
    """Lets the commands of one thread through one by one."""

    def __init__(self, act: Callable[[], None]) -> None:
        super().__init__()
        self._cond, self._allowed = threading.Condition(), 0
        self.then(act)

    def then(self, act: Callable[[], None]) -> None:
        self._waiting = self.done = False
        self._allowed = 0
        self._thread = threading.Thread(target=self._run, args=(act,))
        self.failure: BaseException | None = None

    def _run(self, act: Callable[[], None]) -> None:
        try:
            act()
        except BaseException as error:  # noqa: BLE001 - the test tells
            self.failure = error
        with self._cond:
            self.done = True
            self._cond.notify_all()

    def started(self, event: Any) -> None:
        if threading.current_thread() is not self._thread:
            return
        with self._cond:
            self._waiting = True
            self._cond.notify_all()
            assert self._cond.wait_for(lambda: self._allowed > 0, timeout=60)
            self._allowed -= 1
            self._waiting = False

    def run(self, commands: int = 1000) -> None:
        """Let that many more commands through, and return when the thread stands before the next, or has ended."""
        if not self._thread.ident:
            self._thread.start()
        with self._cond:
            self._allowed += commands
            self._cond.notify_all()
            assert self._cond.wait_for(lambda: self.done or (self._waiting and not self._allowed), timeout=60)
        if self.done:
            self._thread.join()
            if self.failure is not None:
                raise self.failure


class Meeting:
    """A remover and a writer of the same value, agents of one session, each under the test's thumb."""

    def __init__(self, uri: str, database: str, session_id: str) -> None:
        self.remover, self.writer = Stepper(self._remove), Stepper(self.write)
        self._steppers = [self.remover, self.writer]
        self._clients = [Client(uri, tz_aware=True, event_listeners=[stepper]) for stepper in self._steppers]
        self._managers = [
            MongoDBSessionManager(session_id, client=client, database_name=database) for client in self._clients
        ]
        self._agents = [
            Agent(model=ScriptedModel(), agent_id=name, session_manager=manager, callback_handler=None)
            for name, manager in zip(("remover", "writer"), self._managers, strict=True)
        ]
        append(self._managers[0], self._agents[0], say(document(noise(LARGE)), tracking_id="t-1"))

    def _remove(self) -> None:
        redact(self._managers[0], self._agents[0])

    def write(self) -> None:
        append(self._managers[1], self._agents[1], say(document(noise(LARGE)), tracking_id="t-2"))

    def redact_written(self) -> None:
        redact(self._managers[1], self._agents[1])

    def __enter__(self) -> "Meeting":
        return self

    def __exit__(self, *_: object) -> None:
        for manager, client in zip(self._managers, self._clients, strict=True):
            manager.close()
            client.close()


# As many commands as each sends before it has nothing to do with the other any more.
REMOVING, WRITING = 12, 4


@pytest.mark.parametrize("ahead", range(WRITING))
def test_a_remover_and_a_writer_at_every_interleaving(
    mongodb_uri: str, database: str, bucket: Bucket, history: History, ahead: int
) -> None:
    """The writer goes ahead, then the remover so far, the writer on, the remover to its end, the writer to its own."""
    for removed, written in itertools.product(range(REMOVING), range(WRITING - ahead)):
        session_id = f"s-{removed}-{written}"
        with Meeting(mongodb_uri, database, session_id) as meeting:
            meeting.writer.run(ahead)
            meeting.remover.run(removed)
            meeting.writer.run(written)
            meeting.remover.run()
            meeting.writer.run()
            assert history(session_id, "writer")[0]["content"] == [document(noise(LARGE))], session_id
            assert history(session_id, "remover")[0]["content"] == HIDDEN["content"], session_id
            assert bucket.contents(session_id)[-1] == noise(LARGE), session_id
            meeting.redact_written()
            assert bucket.is_empty(), session_id


@pytest.mark.parametrize("ahead", range(REMOVING))
def test_two_removers_at_every_interleaving(mongodb_uri: str, database: str, bucket: Bucket, ahead: int) -> None:
    """Both messages that use a value are redacted: the last one removes it, whoever that is."""
    for second in range(REMOVING):
        with Meeting(mongodb_uri, database, f"s-{second}") as meeting:
            meeting.write()
            meeting.writer.then(meeting.redact_written)
            meeting.remover.run(ahead)
            meeting.writer.run(second)
            meeting.remover.run()
            meeting.writer.run()
            assert bucket.is_empty(), second


def test_a_file_that_is_removed_while_it_is_uploaded(
    new_manager: NewManager, bucket: Bucket, observer: Client, database: str, command_counter: CommandCounter
) -> None:
    """The upload notices, and takes its own chunks with it."""
    manager = new_manager()
    files = manager._stores.histories._values._files
    digest = hashlib.sha256(noise(LARGE)).hexdigest()
    other = SessionFiles(manager._stores.collections, manager._stores.collections.lives())
    chunks = files._chunks

    class Watched:
        def insert_many(self, documents: Any) -> None:
            other.remove_unused("s-1", [digest], ObjectId())
            chunks.insert_many(documents)

        def __getattr__(self, name: str) -> Any:
            return getattr(chunks, name)

    files._chunks = cast(Any, Watched())
    files.store("s-1", {digest: noise(LARGE)})

    assert bucket.is_empty()
    files._chunks = chunks
    files.keep("s-1", {digest: noise(LARGE)})
    assert bucket.is_empty()  # no message of the session uses it


def test_a_session_that_is_deleted_right_after_the_append(
    mongodb_uri: str, database: str, bucket: Bucket, new_manager: NewManager
) -> None:
    for written in range(WRITING):
        session_id = f"s-{written}"
        with Meeting(mongodb_uri, database, session_id) as meeting:
            meeting.writer.run(written)
            new_manager(session_id).delete_session()
            with suppress(SessionNotFoundError):
                meeting.writer.run()
        assert bucket.is_empty(), written


# The size of what the session document holds


def test_large_values_do_not_make_messages_move(
    new_manager: NewManager, new_agent: NewAgent, observer: Client, database: str
) -> None:
    agent = new_agent(new_manager())
    for _ in range(28):
        agent("Hello")
    agent([document(noise(3_000_000)), {"text": "What does it say?"}])

    again = new_manager()
    new_agent(again)("Go on")
    again.close()

    assert observer[database]["agent_sessions_segments"].count_documents({}) == 0
    history = again._agents.live()[0].history
    assert history.rollover.size < 100_000
