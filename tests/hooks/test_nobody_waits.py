"""The end of a request waits for no delivery; whoever owns the client waits for its own, and not for ever."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import boto3  # type: ignore[import-untyped]
import pytest
from botocore.config import Config  # type: ignore[import-untyped]
from strands import Agent, tool

from mongodb_session_manager import (
    MongoDBSessionManager,
    MongoDBSessionManagerFactory,
    create_metadata_sqs_hook,
)
from mongodb_session_manager._schema.limits import Limits
from mongodb_session_manager.hooks.dispatcher import THREADS, Dispatcher
from mongodb_session_manager.testing import ScriptedModel
from tests.aliases import Client
from tests.watching import eventually, until

LONG = 30.0


class Gate:
    """An SQS client whose calls do not come back before it is opened."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self.sent: list[str] = []

    def send_message(self, **message: Any) -> None:
        assert self._open.wait(LONG)
        self.sent.append(message["MessageBody"])

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.open()


def hook_on(gate: Gate, delivery: Any = "best_effort") -> Any:
    url = "https://sqs.eu-west-1.amazonaws.com/123456789012/changes"
    hook = create_metadata_sqs_hook(url, client=gate, delivery=delivery)
    hook._dispatcher = Dispatcher()
    return hook


@pytest.fixture
def factory(mongo_client: Client, database_name: str) -> Iterator[MongoDBSessionManagerFactory]:
    with MongoDBSessionManagerFactory(client=mongo_client, database_name=database_name) as made:
        yield made


@pytest.mark.parametrize("delivery", ["best_effort", "at_least_once"])
async def test_the_end_of_a_request_waits_for_none(
    factory: MongoDBSessionManagerFactory, gate: Gate, delivery: str
) -> None:
    hook = hook_on(gate, delivery)
    async with factory.session("s-1", metadata_hook=hook) as manager:
        await manager.aupdate_metadata({"a": 1})
    async with factory.session("s-2", metadata_hook=hook):
        pass
    with factory.create_session_manager("s-3", metadata_hook=hook) as made:
        made.update_metadata({"a": 1})
    async with factory.session("s-4", metadata_hook=hook) as manager:
        await manager.aclose()

    assert gate.sent == []
    assert len(hook._dispatcher) == 2


def test_the_factorys_close_waits_for_its_own(mongodb_uri: str, database_name: str, gate: Gate) -> None:
    factory = MongoDBSessionManagerFactory(mongodb_uri, database_name)
    with factory.create_session_manager("s-1", metadata_hook=hook_on(gate)) as manager:
        manager.update_metadata({"a": 1})
    threading.Timer(0.3, gate.open).start()

    factory.close()

    assert len(gate.sent) == 1


def test_a_factorys_close_does_not_wait_for_another_ones(mongodb_uri: str, database_name: str, gate: Gate) -> None:
    """Both share one client, and one hook."""
    hook = hook_on(gate)
    with MongoDBSessionManagerFactory(mongodb_uri, database_name) as busy:
        with busy.create_session_manager("s-1", metadata_hook=hook) as manager:
            manager.update_metadata({"a": 1})
        with MongoDBSessionManagerFactory(mongodb_uri, database_name) as idle:
            idle.create_session_manager("s-1", metadata_hook=hook).close()
        assert gate.sent == []
        gate.open()


def test_a_manager_with_its_own_client_waits_for_its_own(mongodb_uri: str, database_name: str, gate: Gate) -> None:
    stranger, own = hook_on(gate), Gate()
    with MongoDBSessionManager("s-2", mongodb_uri, database_name, metadata_hook=stranger) as other:
        other.update_metadata({"a": 1})
        with MongoDBSessionManager("s-1", mongodb_uri, database_name, metadata_hook=hook_on(own)) as manager:
            manager.update_metadata({"a": 1})
            threading.Timer(0.3, own.open).start()
        assert (len(own.sent), len(gate.sent)) == (1, 0)
        gate.open()
    assert len(gate.sent) == 1


async def test_aclose_waits_off_the_loop(mongodb_uri: str, database_name: str, gate: Gate) -> None:
    manager = MongoDBSessionManager("s-1", mongodb_uri, database_name, metadata_hook=hook_on(gate))
    await manager.aupdate_metadata({"a": 1})
    closing_manager = asyncio.create_task(manager.aclose())
    await asyncio.sleep(0.1)

    assert not closing_manager.done()
    gate.open()
    await closing_manager
    assert len(gate.sent) == 1
    assert manager._stores.handle.closed


@pytest.mark.parametrize("timeout", [0.2])
def test_closing_waits_no_longer_than_agreed(
    mongodb_uri: str,
    database_name: str,
    gate: Gate,
    caplog: pytest.LogCaptureFixture,
    timeout: float,
) -> None:
    limits = Limits(close_timeout=timeout)
    manager = MongoDBSessionManager("s-1", mongodb_uri, database_name, metadata_hook=hook_on(gate), _limits=limits)
    manager.update_metadata({"a": 1})
    factory = MongoDBSessionManagerFactory(mongodb_uri, database_name, _limits=limits)
    with factory.create_session_manager("s-1", metadata_hook=hook_on(gate)) as made:
        made.update_metadata({"a": 1})

    manager.close()
    factory.close()

    assert gate.sent == []
    assert [record.getMessage() for record in caplog.records] == [
        "notifications=<1> | not sent in time; the background goes on with them"
    ] * 2
    gate.open()
    assert eventually(lambda: len(gate.sent) == 2)


def test_at_least_once_is_hardly_waited_for(mongodb_uri: str, database_name: str, gate: Gate) -> None:
    with MongoDBSessionManager(
        "s-1", mongodb_uri, database_name, metadata_hook=hook_on(gate, "at_least_once")
    ) as manager:
        manager.update_metadata({"a": 1})
        started = time.monotonic()

    assert time.monotonic() - started < 8
    assert gate.sent == []


class Flushed:
    """A hook of a user's own that delivers in its own way."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def bind(self, session_manager: MongoDBSessionManager) -> None:
        self.calls.append("bind")

    def flush(self, timeout: float) -> None:
        assert 0 <= timeout <= 10
        self.calls.append("flush")

    def __call__(self, original_func: Callable[..., Any], action: str, session_id: str, **kwargs: Any) -> Any:
        return original_func()


class Slotted(Flushed):
    __slots__ = ()


def test_a_hook_of_ones_own_is_bound_and_flushed(mongo_client: Client, database_name: str) -> None:
    hook = Flushed()
    with MongoDBSessionManager("s-1", client=mongo_client, database_name=database_name, metadata_hook=hook):
        assert hook.calls == ["bind"]
    assert hook.calls == ["bind", "flush"]


async def test_a_hook_of_ones_own_is_flushed_by_the_factory(mongo_client: Client, database_name: str) -> None:
    default, passed = Flushed(), Flushed()
    with MongoDBSessionManagerFactory(
        client=mongo_client, database_name=database_name, metadata_hook=default
    ) as factory:
        for number in range(2):
            async with factory.session(f"s-{number}", feedback_hook=passed):
                pass
        assert default.calls == passed.calls == ["bind", "bind"]
    assert default.calls == passed.calls == ["bind", "bind", "flush"]


# The loop's default executor


async def test_a_request_ends_and_flushes_while_sync_tools_keep_the_loops_threads_busy(
    factory: MongoDBSessionManagerFactory,
) -> None:
    tools_may_end = threading.Event()
    loop = asyncio.get_running_loop()
    hogs = [loop.run_in_executor(None, tools_may_end.wait, LONG) for _ in range(64)]
    try:
        async with factory.session("s-1") as manager:
            await manager.aflush()
        manager = factory.create_session_manager("s-2")
        await manager.aclose()
    finally:
        tools_may_end.set()
        await asyncio.gather(*hogs)


async def test_sync_tools_may_flush(factory: MongoDBSessionManagerFactory) -> None:
    """More tools than the loop has threads, each of which waits for the loop."""
    loop = asyncio.get_running_loop()

    async with factory.session("s-1", agent_ids=["default"]) as manager:

        @tool
        def save() -> str:
            """Save."""
            asyncio.run_coroutine_threadsafe(manager.aflush(), loop).result(LONG)
            return "saved"

        uses = [{"toolUse": {"toolUseId": str(n), "name": "save", "input": {}}} for n in range(40)]
        model = ScriptedModel([uses], default="Okay.")
        agent = Agent(model=model, tools=[save], session_manager=manager, callback_handler=None)
        await agent.invoke_async("Save it")

    results = agent.messages[2]["content"]
    assert [result["toolResult"]["status"] for result in results] == ["success"] * 40


async def test_a_request_that_is_cancelled_at_its_end_is_closed(
    factory: MongoDBSessionManagerFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_end = threading.Event()
    released: list[str] = []

    def slow(*args: Any) -> None:
        assert may_end.wait(LONG)
        released.append("lease")

    monkeypatch.setattr("mongodb_session_manager.mongodb_session_manager._release_lease", slow)

    async def request() -> None:
        async with factory.session("s-1", exclusive=True) as manager:
            managers.append(manager)

    managers: list[MongoDBSessionManager] = []
    task = asyncio.create_task(request())
    assert await until(lambda: bool(managers) and managers[0]._agents.is_closed)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    use = managers[0]._stores.use
    assert id(use) in use.handle._users
    may_end.set()

    assert await until(lambda: id(use) not in use.handle._users)
    assert released == ["lease"]


# AWS that does not answer


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A server that takes connections and says nothing."""
    with closing(socket.create_server(("127.0.0.1", 0), backlog=64)) as server:
        yield server


async def test_forty_users_and_a_silent_queue(
    factory: MongoDBSessionManagerFactory, silent: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    url = f"http://127.0.0.1:{silent.getsockname()[1]}"
    client = boto3.client("sqs", "eu-west-1", endpoint_url=url, config=Config(read_timeout=LONG))
    hook = create_metadata_sqs_hook(f"{url}/000000000000/changes", client=client)
    hook._dispatcher = Dispatcher()

    async def user(number: int) -> None:
        async with factory.session(f"s-{number}", metadata_hook=hook) as manager:
            await manager.aupdate_metadata({"a": 1})

    await asyncio.gather(*(user(number) for number in range(40)))

    assert len(hook._dispatcher) == 40
    assert await until(lambda: len(hook._dispatcher._threads) == THREADS // 2)
    silent.close()
    hook.flush(LONG)
