"""A server that freezes, or dies and comes back, in the middle of conversations of every kind."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mongodb_session_manager.testing import Mongod
from tests.faults.conversation import Converse, moving_often
from tests.faults.stream import Stream, stream_of

# Messages move in between.
pytestmark = moving_often


MINUTE = 60.0


@pytest.fixture(scope="module")
def server() -> Iterator[Mongod]:
    with Mongod() as server:
        yield server


@contextmanager
def frozen(server: Mongod) -> Iterator[None]:
    server.pause()
    try:
        yield
    finally:
        server.resume()


@contextmanager
def dead(server: Mongod) -> Iterator[None]:
    server.kill()
    try:
        yield
    finally:
        server.restart()


def test_a_frozen_server_with_a_time_limit(converse: Converse, server: Mongod) -> None:
    stream = stream_of(converse, uri=server.uri, timeoutMS=500)

    with stream.talking():
        stream.wait_for_turns()
        with frozen(server):
            stream.wait_for_trouble()
        stream.wait_for_turns()

    stream.check()


def test_a_frozen_server_without_one_is_waited_for(converse: Converse, server: Mongod) -> None:
    stream = stream_of(converse, uri=server.uri, serverSelectionTimeoutMS=30_000)

    with stream.talking():
        stream.wait_for_turns()
        with frozen(server):
            time.sleep(1.5)
        stream.wait_for_turns()

    assert not any(conversation.errors for conversation in stream.conversations)
    stream.check()


def test_a_server_that_was_killed(converse: Converse, server: Mongod) -> None:
    stream = stream_of(converse, uri=server.uri, w="majority")

    with stream.talking():
        for _ in range(2):
            stream.wait_for_turns()
            with dead(server):
                stream.wait_for_trouble()
        stream.wait_for_turns()

    stream.check()


@pytest.mark.limits(pending=100_000)  # whoever goes on without waiting says much in a minute
def test_a_server_that_comes_back_after_a_minute(converse: Converse, server: Mongod) -> None:
    stream = stream_of(converse, uri=server.uri, w="majority", serverSelectionTimeoutMS=2_000)

    with stream.talking():
        stream.wait_for_turns()
        with dead(server):
            turns = turns_of(stream)
            time.sleep(MINUTE)
            went_on = [now > before + 1 for now, before in zip(turns_of(stream), turns, strict=True)]
            pending = [conversation.manager.health["pending"] for conversation in stream.conversations]
        stream.wait_for_turns()

    assert all(went_on)
    assert all(pending)
    stream.check()


def turns_of(stream: Stream) -> list[int]:
    return [conversation.turns for conversation in stream.conversations]
