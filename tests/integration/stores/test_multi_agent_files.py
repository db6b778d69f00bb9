"""Bytes in the states of Graphs and Swarms: binary at rest, of any size, and there as long as the state is."""

import base64
import copy
import random
from collections.abc import Callable
from typing import Any

import bson
import pytest
from bson import ObjectId
from pymongo.errors import OperationFailure
from strands import Agent
from strands.multiagent import GraphBuilder, Swarm
from strands.multiagent.base import Status
from strands.multiagent.graph import Graph

from mongodb_session_manager import (
    AgentNotFoundError,
    MongoDBSessionManager,
    MongoDBSessionRepository,
    SessionConflictError,
    SessionLockedError,
    SessionNotFoundError,
)
from mongodb_session_manager._schema.blobs import STATE_BYTES
from mongodb_session_manager._schema.multi_agents import capture_multi_agent
from mongodb_session_manager._schema.values import encode
from mongodb_session_manager.errors import MongoDBSessionError
from mongodb_session_manager.mongodb_session_repository import stores_of
from mongodb_session_manager.testing import CommandCounter, ScriptedModel
from tests.aliases import Client, Everything, Failing, NewManager, Stored
from tests.talking import ASK, ask, every_durability

MB = 1_000_000
PICTURE = random.Random(0).randbytes(900)
MARK = {"__bytes_encoded__": True, "data": "aGVsbG8="}  # what the SDK makes of b"hello"


def noise(megabytes: float, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(int(megabytes * MB))


def document(content: bytes, name: str = "report") -> Any:
    return {"document": {"format": "pdf", "name": name, "source": {"bytes": content}}}


def secret(content: bytes) -> Any:
    """An answer with bytes in it."""
    return [{"reasoningContent": {"redactedContent": content}}, {"text": "Done."}]


def graph_of(manager: MongoDBSessionManager | None, *turns: Any, graph_id: str = "g") -> Graph:
    """A chain of agents; each says its turn and then that it is done."""
    builder = GraphBuilder()
    for number, turn in enumerate(turns):
        model = ScriptedModel([turn], default="Done.")
        builder.add_node(Agent(name=f"n{number}", model=model, callback_handler=None, tools=[ask]), f"n{number}")
        if number:
            builder.add_edge(f"n{number - 1}", f"n{number}")
    builder.set_graph_id(graph_id).set_max_node_executions(10)
    if manager is not None:
        builder.set_session_manager(manager)
    return builder.build()


def swarm_of(manager: MongoDBSessionManager, turn: Any) -> Swarm:
    model = ScriptedModel([turn], default="Done.")
    agent = Agent(name="n0", model=model, callback_handler=None, tools=[ask])
    return Swarm([agent], session_manager=manager, id="g")


def answer(result: Any) -> Any:
    return [{"interruptResponse": {"interruptId": result.interrupts[0].id, "response": "yes"}}]


@pytest.fixture
def bucket(observer: Client, database: str) -> Callable[[], list[int]]:
    """The lengths of the files in the bucket, none of which is without its chunks or the other way round."""

    def read() -> list[int]:
        files = list(observer[database]["agent_sessions_files.files"].find())
        chunks = observer[database]["agent_sessions_files.chunks"].distinct("files_id")
        assert {file["_id"] for file in files} == {*chunks}
        assert not [file for file in files if file["metadata"].get("uploading") or file["metadata"].get("removals")]
        return [file["length"] for file in files]

    return read


Bucket = Callable[[], list[int]]


# At rest


def test_bytes_are_binary_at_rest(new_manager: NewManager, stored: Stored, everything: Everything) -> None:
    answered = noise(0.001, 1)
    graph_of(new_manager(), secret(answered), ASK)([document(PICTURE), {"text": "Read it"}])

    state = stored()["multi_agents"]["g"]["state"]
    assert state["current_task"][0] == document(PICTURE)
    said = state["node_results"]["n0"]["result"]["message"]["content"]
    assert said[0] == {"reasoningContent": {"redactedContent": answered}}
    for content in (PICTURE, answered):
        assert content in everything()
        assert base64.b64encode(content) not in everything()


@pytest.mark.parametrize("build", [graph_of, swarm_of])
def test_bytes_come_back_as_they_were(new_manager: NewManager, build: Any) -> None:
    task = [document(PICTURE), {"text": "Read it"}]
    work = build(new_manager(), [{"reasoningContent": {"redactedContent": b"\0\1"}}, ASK])
    result = work(task)
    assert result.status == Status.INTERRUPTED

    manager = new_manager()
    restored = build(manager, "Thank you.")

    assert restored.state.task == task
    assert restored._interrupt_state == work._interrupt_state
    assert restored(answer(result)).status == Status.COMPLETED
    first = (restored if build is swarm_of else restored.nodes["n0"].executor and restored).nodes["n0"].executor
    assert document(PICTURE) in first.messages[0]["content"]
    assert {"reasoningContent": {"redactedContent": b"\0\1"}} in first.messages[1]["content"]


BLOCKS: dict[str, Any] = {
    "image": {"image": {"format": "png", "source": {"bytes": PICTURE}}},
    "document": document(PICTURE),
    "video": {"video": {"format": "mp4", "source": {"bytes": PICTURE}}},
    "audio, or what is to come": {"audio": {"parts": [{"bytes": PICTURE}, [b"", b"\xff"]]}},
    "redacted reasoning": {"reasoningContent": {"redactedContent": PICTURE}},
    "guarded image": {"guardContent": {"image": {"format": "png", "source": {"bytes": PICTURE}}}},
    "tool result": {
        "toolResult": {"toolUseId": "t", "status": "success", "content": [document(PICTURE), {"json": [1]}]}
    },
    "nested": {"toolResult": {"toolUseId": "t", "content": [{"json": {"a": [{"b": {"c": PICTURE}}]}}]}},
    "the SDK's mark as a text": {"text": "__bytes_encoded__"},
    "the SDK's mark as a key": {"toolUse": {"toolUseId": "t", "name": "n", "input": {"__bytes_encoded__": "x"}}},
    "a dict of somebody's own": {"toolUse": {"toolUseId": "t", "name": "n", "input": MARK}},
    "one that is no base64": {"toolResult": {"toolUseId": "t", "content": [{"json": {**MARK, "data": "!"}}]}},
    "one with more in it": {"toolResult": {"toolUseId": "t", "content": [{"json": {**MARK, "more": [PICTURE, MARK]}}]}},
    "a file's mark": {"toolUse": {"toolUseId": "t", "name": "n", "input": {"%file": {"sha256": "0"}}}},
}


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS.keys())
@pytest.mark.parametrize("size", [0, STATE_BYTES], ids=["in the document", "in a file"])
def test_every_block_comes_back(new_manager: NewManager, block: Any, size: int) -> None:
    """In the task, in a result, and in the messages of an interrupted node."""
    manager = new_manager()
    graph = graph_of(manager, "One.", ASK)
    result = graph([block, {"text": "x" * size}])
    message = graph.state.results["n0"].result.message  # type: ignore[union-attr]
    message["content"] += [copy.deepcopy(block)]
    asked = graph.nodes["n1"].executor.messages  # type: ignore[union-attr]
    asked[0]["content"].append(copy.deepcopy(block))
    manager.sync_multi_agent(graph)

    manager = new_manager()
    restored = graph_of(manager, "One.", "Two.")

    assert restored.state.task == graph.state.task
    assert restored.state.results["n0"].result.message == message  # type: ignore[union-attr]
    assert restored._interrupt_state == graph._interrupt_state
    assert manager.session_repository.read_multi_agent("s-1", "g") == graph.serialize_state()
    assert restored(answer(result)).status == Status.COMPLETED
    assert restored.nodes["n1"].executor.messages[0] == asked[0]  # type: ignore[union-attr]


def test_nothing_that_happens_later_is_stored(new_manager: NewManager, stored: Stored) -> None:
    graph = graph_of(new_manager(), "One.", ASK)
    graph([document(PICTURE), {"text": "Read it"}])
    captured = capture_multi_agent("s-1", graph)
    before = bson.encode(captured.fields)

    task: Any = graph.state.task
    task.append({"text": "later"})
    graph.state.results["n0"].result.message["content"].clear()  # type: ignore[union-attr]
    graph.state.accumulated_usage["inputTokens"] += 1
    graph.nodes["n1"].executor.messages[0]["content"].append({"text": "later"})  # type: ignore[union-attr]
    graph._interrupt_state.context["later"] = True

    assert bson.encode(captured.fields) == before


def test_a_small_state_is_read_by_queries(new_manager: NewManager, observer: Client, database: str) -> None:
    graph_of(new_manager(), "One.", "Two.")([document(PICTURE), {"text": "Read it"}])

    sessions = observer[database]["agent_sessions"]
    wanted = {"multi_agents.g.state.status": "completed", "multi_agents.g.state.completed_nodes": "n1"}
    assert sessions.count_documents(wanted) == 1
    assert sessions.count_documents({"multi_agents.g.state.current_task.document.source.bytes": PICTURE}) == 1


# Sessions written before


def test_a_state_in_base64_is_read(new_manager: NewManager, observer: Client, database: str, stored: Stored) -> None:
    task = [document(PICTURE), {"text": "Read it"}]
    graph = graph_of(new_manager(), secret(b"\0\1\2"), ASK)
    result = graph(task)
    record = {
        "multi_agent_id": "g",
        "state": encode(graph.serialize_state(), "as it was stored"),
        **{name: stored()["multi_agents"]["g"][name] for name in ("created_at", "updated_at")},
    }
    observer[database]["agent_sessions"].update_one({}, {"$set": {"multi_agents.g": record}})
    assert base64.b64encode(PICTURE) in bson.encode(stored())

    restored = graph_of(new_manager(), "One.", "Two.")

    assert restored.state.task == task
    assert restored.state.results["n0"].result.message["content"] == secret(b"\0\1\2")  # type: ignore[union-attr]
    assert restored(answer(result)).status == Status.COMPLETED
    assert base64.b64encode(PICTURE) not in bson.encode(stored())


# Large states


@every_durability
def test_three_pdfs(
    new_manager: NewManager, stored: Stored, everything: Everything, bucket: Bucket, durability: str
) -> None:
    task = [document(noise(4.5, seed), f"report {seed}") for seed in range(3)]

    result = graph_of(new_manager(durability=durability), "One.", ASK)([*task, {"text": "Compare"}])

    # The interrupted agent's messages hold them too.
    assert [length > 27 * MB for length in bucket()] == [True]
    assert len(bson.encode(stored())) < 10_000
    restored = graph_of(new_manager(durability=durability), "One.", "Two.")
    assert restored.state.task == [*task, {"text": "Compare"}]
    assert restored(answer(result)).status == Status.COMPLETED
    assert [13 * MB < length < 14 * MB for length in bucket()] == [True]
    assert base64.b64encode(task[0]["document"]["source"]["bytes"])[:1000] not in everything()


def test_results_of_more_than_a_document(new_manager: NewManager, bucket: Bucket) -> None:
    results = [noise(6, seed) for seed in range(3)]
    graph = graph_of(new_manager(), *map(secret, results), ASK)
    result = graph("Make three")
    assert result.status == Status.INTERRUPTED

    restored = graph_of(new_manager(), "", "", "", "Two.")

    for number, content in enumerate(results):
        said = restored.state.results[f"n{number}"].result.message["content"]  # type: ignore[union-attr]
        assert said == secret(content)
    assert len(bucket()) == 1
    assert restored(answer(result)).status == Status.COMPLETED


def test_a_state_that_is_replaced_goes(new_manager: NewManager, bucket: Bucket, everything: Everything) -> None:
    manager = new_manager()
    graph = graph_of(manager, "One.", "Two.")
    for seed in range(2):
        graph([document(noise(2, seed)), {"text": "Read it"}])
        assert [2 * MB < length < 3 * MB for length in bucket()] == [True]
    assert noise(2, 0)[-1000:] not in everything()

    graph("Something short")

    assert bucket() == []


@pytest.mark.parametrize("size", [STATE_BYTES - 20_000, STATE_BYTES])
def test_where_the_document_ends(new_manager: NewManager, stored: Stored, bucket: Bucket, size: int) -> None:
    manager = new_manager()
    repository = manager.session_repository
    stores_of(repository).multi_agents.write_multi_agent("s-1", "g", {"text": "x" * size}, create=True)

    assert len(bucket()) == (size == STATE_BYTES)
    assert ("files" in stored()["multi_agents"]["g"]) == (size == STATE_BYTES)
    assert repository.read_multi_agent("s-1", "g") == {"text": "x" * size}


def test_many_states_that_are_small_each(new_manager: NewManager) -> None:
    """Together they are more than a document takes."""
    repository = new_manager().session_repository
    states = {f"g{number}": {"number": number, "text": "x" * 990_000} for number in range(18)}

    for multi_agent_id, state in states.items():
        stores_of(repository).multi_agents.write_multi_agent("s-1", multi_agent_id, state, create=True)
    for multi_agent_id, state in states.items():
        stores_of(repository).multi_agents.write_multi_agent("s-1", multi_agent_id, {**state, "again": True})

    for multi_agent_id, state in states.items():
        assert repository.read_multi_agent("s-1", multi_agent_id) == {**state, "again": True}


def test_deleting_the_session_deletes_the_states(new_manager: NewManager, bucket: Bucket) -> None:
    manager = new_manager()
    graph_of(manager, "One.")([document(noise(2))])
    assert len(bucket()) == 1

    manager.delete_session()

    assert bucket() == []


# Beside messages


def test_a_redaction_leaves_the_state(new_manager: NewManager, bucket: Bucket) -> None:
    """The same PDF in a message, which is redacted, and in a Graph."""
    manager, pdf = new_manager(), document(noise(2))
    result = graph_of(manager, "One.", ASK)([pdf, {"text": "Read it"}])
    agent = Agent(model=ScriptedModel(default="Okay."), session_manager=manager, callback_handler=None)
    manager.append_message({"role": "user", "content": [pdf]}, agent)
    assert len(bucket()) == 2

    manager.redact_latest_message({"role": "user", "content": [{"text": "[hidden]"}]}, agent)

    assert len(bucket()) == 1
    restored = graph_of(new_manager(), "One.", "Two.")
    assert restored.state.task == [pdf, {"text": "Read it"}]
    assert restored(answer(result)).status == Status.COMPLETED


def test_a_step_leaves_the_values_of_messages(new_manager: NewManager, bucket: Bucket) -> None:
    manager, pdf = new_manager(), document(noise(2))
    agent = Agent(model=ScriptedModel(default="Okay."), session_manager=manager, callback_handler=None)
    agent([pdf, {"text": "Read it"}])
    graph = graph_of(manager, "One.")

    graph([pdf, {"text": "Read it"}])
    graph("Something short")

    assert bucket() == [2 * MB]
    restored = Agent(model=ScriptedModel(), session_manager=new_manager(), callback_handler=None)
    assert restored.messages == agent.messages


def test_a_replaced_message_leaves_the_state(new_manager: NewManager, bucket: Bucket) -> None:
    manager, pdf = new_manager(), document(noise(2))
    agent = Agent(model=ScriptedModel(default="Okay."), session_manager=manager, callback_handler=None)
    manager.append_message({"role": "user", "content": [pdf]}, agent)
    graph_of(manager, "One.", ASK)([pdf])
    repository = manager.session_repository
    message = repository.read_message("s-1", "default", 0)
    assert message is not None
    message.message = {"role": "user", "content": [{"text": "another"}]}

    repository.update_message("s-1", "default", message)

    assert len(bucket()) == 1
    assert graph_of(new_manager(), "One.", "Two.").state.task == [pdf]


# What costs how much, and what fails


def test_a_small_state_costs_one_operation(new_manager: NewManager, command_counter: CommandCounter) -> None:
    graph = graph_of(new_manager(), "One.", "Two.")

    with command_counter.counting() as log:
        graph([document(PICTURE), {"text": "Read it"}])

    assert (log.writes, log.reads) == (3, 0)
    with command_counter.counting() as log:
        graph_of(new_manager(), "One.", "Two.")
    assert (log.writes, log.reads) == (1, 1)  # the session, and the state


def test_a_refused_state_leaves_nothing_in_the_bucket(new_manager: NewManager, bucket: Bucket) -> None:
    repository = new_manager().session_repository
    large = {"text": "x" * 2 * MB}
    stores_of(repository).multi_agents.write_multi_agent("s-1", "g", {}, create=True)

    with pytest.raises(SessionConflictError):
        stores_of(repository).multi_agents.write_multi_agent("s-1", "g", large, create=True)
    with pytest.raises(AgentNotFoundError):
        stores_of(repository).multi_agents.write_multi_agent("s-1", "other", large)
    with pytest.raises(SessionNotFoundError):
        stores_of(repository).multi_agents.write_multi_agent("s-2", "g", large)

    assert bucket() == []
    assert repository.read_multi_agent("s-1", "g") == {}


def test_a_large_state_is_under_the_lease(new_manager: NewManager, bucket: Bucket) -> None:
    owner = new_manager(exclusive=True)
    owner._stores.multi_agents.write_multi_agent("s-1", "g", {"text": "x" * 2 * MB}, create=True)
    other = new_manager().session_repository

    with pytest.raises(SessionLockedError):
        stores_of(other).multi_agents.write_multi_agent("s-1", "g", {"text": "y" * 2 * MB})

    assert other.read_multi_agent("s-1", "g") == {"text": "x" * 2 * MB}
    assert len(bucket()) == 1


def test_a_session_that_is_deleted_in_a_run(new_manager: NewManager, bucket: Bucket, stored: Callable[[], Any]) -> None:
    graph = graph_of(new_manager(), "One.", "Two.")
    new_manager().delete_session()

    with pytest.raises(SessionNotFoundError):
        graph([document(noise(2))])

    assert bucket() == []
    assert stored() is None


def test_a_write_that_failed_leaves_nothing_once_it_is_made_up_for(
    new_manager: NewManager, bucket: Bucket, failing: Failing
) -> None:
    graph = graph_of(new_manager(), "One.", "Two.")
    with failing("update", errorCode=13), pytest.raises(OperationFailure):
        graph([document(noise(2)), {"text": "Read it"}])

    graph([document(noise(2)), {"text": "Read it"}])

    assert len(bucket()) == 1


def test_two_that_replace_the_same_state(new_manager: NewManager, bucket: Bucket) -> None:
    one, two = (new_manager().session_repository for _ in range(2))
    stores_of(one).multi_agents.write_multi_agent("s-1", "g", {"text": "0" * 2 * MB}, create=True)

    for number in range(1, 4):
        for repository in (one, two):
            stores_of(repository).multi_agents.write_multi_agent("s-1", "g", {"text": str(number) * 2 * MB})

    assert len(bucket()) == 1
    assert two.read_multi_agent("s-1", "g") == {"text": "3" * 2 * MB}


@pytest.mark.limits(read_pauses=())
def test_a_state_whose_file_is_gone_says_so(new_manager: NewManager, observer: Client, database: str) -> None:
    graph_of(new_manager(), "One.", ASK)([document(noise(2))])
    observer[database]["agent_sessions_files.chunks"].delete_many({})

    with pytest.raises(MongoDBSessionError, match=r"'g' of session 's-1'.*update_multi_agent"):
        graph_of(new_manager(), "One.", "Two.")


def test_a_reader_meets_a_writer(new_manager: NewManager, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state is replaced between the two reads of it."""
    repository = new_manager().session_repository
    stores_of(repository).multi_agents.write_multi_agent("s-1", "g", {"text": "0" * 2 * MB}, create=True)
    reader = new_manager().session_repository
    write = stores_of(repository).multi_agents.write_multi_agent
    files, writes = stores_of(reader).multi_agents._values._files, [lambda: write("s-1", "g", {"text": "1" * 2 * MB})]
    read = files.read

    def meet(*args: Any) -> Any:
        while writes:
            writes.pop()()
        return read(*args)

    monkeypatch.setattr(files, "read", meet)

    assert reader.read_multi_agent("s-1", "g") == {"text": "1" * 2 * MB}


def test_a_remover_meets_a_writer(new_manager: NewManager, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody removes what nothing uses between the upload of a state and its write."""
    repository = new_manager().session_repository
    other = new_manager().session_repository
    multi_agents = stores_of(repository).multi_agents
    files = multi_agents._values._files
    store = files.store

    def meet(session_id: str, values: Any) -> set[str]:
        stored = store(session_id, values)
        stores_of(other).histories.remove_files(session_id, list(values), ObjectId())
        return stored

    monkeypatch.setattr(files, "store", meet)
    write = multi_agents._write

    def write_once(*args: Any, **options: Any) -> bool:
        monkeypatch.setattr(files, "store", store)
        return write(*args, **options)

    monkeypatch.setattr(multi_agents, "_write", write_once)
    multi_agents.write_multi_agent("s-1", "g", {"text": "0" * 2 * MB}, create=True)

    assert len(bucket()) == 1
    assert other.read_multi_agent("s-1", "g") == {"text": "0" * 2 * MB}


def test_a_repository_of_its_own(mongo_client: Client, database: str, bucket: Bucket, new_manager: NewManager) -> None:
    """The verbs of the SDK, without a manager."""
    new_manager()
    repository = MongoDBSessionRepository(client=mongo_client, database_name=database)
    graph = graph_of(None, "One.", "Two.")
    repository.create_multi_agent("s-1", graph)
    graph([document(noise(2)), {"text": "Read it"}])

    repository.update_multi_agent("s-1", graph)

    assert repository.read_multi_agent("s-1", "g") == graph.serialize_state()
    assert len(bucket()) == 1


def test_what_a_step_of_a_large_state_costs(new_manager: NewManager, command_counter: CommandCounter) -> None:
    repository = new_manager().session_repository
    stores_of(repository).multi_agents.write_multi_agent("s-1", "g", {"text": "0" * 2 * MB}, create=True)

    with command_counter.counting() as log:
        stores_of(repository).multi_agents.write_multi_agent("s-1", "g", {"text": "1" * 2 * MB})
    assert (log.writes, log.reads) == (8, 9)

    with command_counter.counting() as log:
        repository.read_multi_agent("s-1", "g")
    assert (log.writes, log.reads) == (0, 3)
