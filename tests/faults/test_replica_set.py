"""What a replica set of three members goes through, in the middle of conversations of every kind."""

import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.errors import WriteConcernError

from mongodb_session_manager import SessionConflictError
from mongodb_session_manager._stores.indexes import ensure_segment_index
from mongodb_session_manager.testing import Mongod, MongodSet
from tests.faults.conversation import Converse, moving_often
from tests.faults.stream import stream_of
from tests.watching import wait_for_indexes

# Messages move in between.
pytestmark = moving_often


MAJORITY = {"w": "majority"}


@pytest.fixture(scope="module")
def replica_set() -> Iterator[MongodSet]:
    with MongodSet(parameters={"enableTestCommands": "1"}) as replica_set:
        yield replica_set


@contextmanager
def frozen(replica_set: MongodSet, members: list[Mongod]) -> Iterator[None]:
    """Freeze members for the time of a ``with``, after which the set is complete again."""
    with ExitStack() as stack:
        stack.callback(replica_set.wait_until_complete)
        for member in members:
            member.pause()
            stack.callback(member.resume)
        yield


@contextmanager
def dead(replica_set: MongodSet, member: Mongod) -> Iterator[None]:
    """Kill a member; it comes back at the end of a ``with``, after which the set is complete again."""
    member.kill()
    try:
        yield
    finally:
        member.restart()
        replica_set.wait_until_complete()


@contextmanager
def not_replicating(members: list[Mongod]) -> Iterator[None]:
    """Keep members from copying what the primary writes; they go on voting for it."""
    try:
        for member in members:
            stop_producer(member, "alwaysOn")
        yield
    finally:
        for member in members:
            stop_producer(member, "off")


def stop_producer(member: Mongod, mode: str) -> None:
    with MongoClient[dict[str, Any]]("127.0.0.1", member.port, directConnection=True) as client:
        entered = client.admin.command("configureFailPoint", "stopReplProducer", mode=mode)["count"]
        if mode != "off":
            # What is on its way to it already is still copied.
            wanted = {"timesEntered": entered + 1, "maxTimeMS": 30_000}
            client.admin.command("waitForFailPoint", "stopReplProducer", **wanted)


@pytest.mark.parametrize("times", [{}, {"timeoutMS": 2_000}], ids=["no time limit", "timeoutMS"])
def test_a_killed_primary(converse: Converse, replica_set: MongodSet, times: dict[str, Any]) -> None:
    stream = stream_of(converse, uri=replica_set.uri, **MAJORITY, **times)

    with stream.talking():
        stream.wait_for_turns()
        with dead(replica_set, replica_set.primary()):
            stream.wait_for_turns()
        stream.wait_for_turns()

    stream.check()


@pytest.mark.parametrize(
    "times",
    [{"timeoutMS": 1_000}, {"socketTimeoutMS": 1_000, "connectTimeoutMS": 1_000}],
    ids=["timeoutMS", "sockets"],
)
def test_a_frozen_primary(converse: Converse, replica_set: MongodSet, times: dict[str, Any]) -> None:
    stream = stream_of(converse, uri=replica_set.uri, **MAJORITY, **times)

    with stream.talking():
        stream.wait_for_turns()
        with frozen(replica_set, [replica_set.primary()]):
            stream.wait_for_turns()
        stream.wait_for_turns()

    stream.check()


def test_an_index_does_not_wait_for_a_member_that_is_down(
    replica_set: MongodSet, caplog: pytest.LogCaptureFixture
) -> None:
    """An index on documents does by itself, and with it the move of old messages that asked for it."""
    with MongoClient[dict[str, Any]](replica_set.uri, socketTimeoutMS=5_000) as client:
        segments = client[uuid.uuid4().hex].agent_sessions_segments
        segments.insert_one({"session_id": "s-1"})
        with dead(replica_set, replica_set.secondaries()[0]):
            ensure_segment_index(segments)
            wait_for_indexes()
            segments.drop_index("session_id_1_instance_1")

    assert not caplog.records


def test_both_secondaries_frozen(converse: Converse, replica_set: MongodSet) -> None:
    stream = stream_of(converse, uri=replica_set.uri, **MAJORITY)

    with stream.talking():
        stream.wait_for_turns()
        with frozen(replica_set, replica_set.secondaries()):
            stream.wait_for_trouble()
        stream.wait_for_turns()

    stream.check()


@pytest.mark.parametrize("comes_true", [True, False], ids=["replicated later", "rolled back"])
def test_what_was_applied_counts_only_once_the_majority_has_it(
    converse: Converse, replica_set: MongodSet, comes_true: bool
) -> None:
    """The second attempt finds the first one's messages on the primary; it must not take them for safe."""
    stream = stream_of(converse, uri=replica_set.uri, **MAJORITY, wtimeoutMS=100)
    primary = replica_set.primary()
    for conversation in stream.conversations:
        conversation.talk_until_acknowledged()

    with not_replicating(replica_set.secondaries()):
        for conversation in stream.conversations:
            for _ in range(2):
                error = conversation.turn(with_tool=True)
                assert isinstance(error, type(None) if conversation.degrades else WriteConcernError)
        assert not any(conversation.manager.health["ok"] for conversation in stream.conversations)
        if not comes_true:
            primary.kill()
    if not comes_true:
        primary.restart()
    replica_set.wait_until_complete()

    stream.check()


def test_without_majority_a_failover_takes_back_what_was_acknowledged(
    converse: Converse, replica_set: MongodSet
) -> None:
    conversation = converse(uri=replica_set.uri, session_id="w-1", **MAJORITY)
    conversation.talk_until_acknowledged()
    stored = [*conversation.acknowledged]
    primary = replica_set.primary()
    careless = converse(uri=replica_set.uri, session_id="w-1", w=1)
    with not_replicating(replica_set.secondaries()):
        assert careless.turn() is None
        primary.kill()
    primary.restart()
    replica_set.wait_until_complete()

    # It is told all the same: the live conversation does not go on as if nothing had happened.
    with pytest.raises(SessionConflictError) as caught:
        careless.turn()

    assert [message["role"] for message in caught.value.pending] == ["user"]
    with conversation.open() as again:
        assert [record["tracking_id"] for record in again.list_messages("default")] == stored
