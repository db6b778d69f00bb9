"""Sessions that are opened at one moment: read by one command, and each by itself where that is no way."""

import asyncio
import contextlib
import gc
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import thread
from typing import Any

import pymongo
import pytest
from pymongo.errors import OperationFailure

from mongodb_session_manager import (
    MongoDBSessionManager,
    MongoDBSessionManagerFactory,
    SessionNotFoundError,
)
from mongodb_session_manager._client.handle import ClientHandle
from mongodb_session_manager._schema.limits import LIMITS
from mongodb_session_manager._session import openings
from mongodb_session_manager.errors import MongoDBSessionError
from mongodb_session_manager.testing import CommandCounter
from tests.aliases import Client, Failing, NewAgent
from tests.gathering import held_up
from tests.talking import texts
from tests.watching import eventually

IDS = [f"s-{number}" for number in range(5)]


# A session that nobody holds ends.
HELD: list[Any] = []


async def enter(factory: MongoDBSessionManagerFactory, session_id: str, **options: Any) -> MongoDBSessionManager:
    session = factory.session(session_id, **options)
    HELD.append(session)
    return await session.__aenter__()


@pytest.fixture(autouse=True)
def held() -> Iterator[None]:
    yield
    HELD.clear()


@pytest.fixture(autouse=True)
def warm(factory: MongoDBSessionManagerFactory) -> None:
    """Indexes are looked for once, with the first opening."""
    factory.create_session_manager("warm").close()


@pytest.fixture
def filled(factory: MongoDBSessionManagerFactory, new_agent: NewAgent) -> list[str]:
    """Sessions whose agents have said their ids."""
    for session_id in IDS:
        with factory.create_session_manager(session_id) as manager:
            new_agent(manager)(f"I am {session_id}")
    return IDS


async def opened(
    factory: MongoDBSessionManagerFactory, client: Client, ids: Sequence[str], **options: Any
) -> list[MongoDBSessionManager | BaseException]:
    """Open sessions at one moment; they stay open until the test ends."""
    given = {"agent_ids": ["default"], **options}
    with held_up(client):
        waiting = [asyncio.ensure_future(enter(factory, session_id, **given)) for session_id in ids]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    return await asyncio.gather(*waiting, return_exceptions=True)


async def test_they_are_read_by_one_command(
    factory: MongoDBSessionManagerFactory,
    mongo_client: Client,
    filled: list[str],
    new_agent: NewAgent,
    command_counter: CommandCounter,
) -> None:
    with command_counter.counting() as log:
        managers = await opened(factory, mongo_client, filled)
        agents = [new_agent(manager) for manager in managers]

    assert log.names == ["find"]
    assert [texts(agent.messages) for agent in agents] == [[f"I am {name}", "Okay."] for name in filled]


async def test_what_is_not_there_is_created(
    factory: MongoDBSessionManagerFactory,
    mongo_client: Client,
    filled: list[str],
    new_agent: NewAgent,
    command_counter: CommandCounter,
) -> None:
    ids = [*filled, "new-1", "new-2"]
    with command_counter.counting() as log:
        managers = await opened(factory, mongo_client, ids)

    assert Counter(log.names) == {"find": 1, "findAndModify": 2}
    assert [manager.session_id for manager in managers if isinstance(manager, MongoDBSessionManager)] == ids
    for manager in managers:
        await new_agent(manager).invoke_async("Hi")
    found = mongo_client[factory._defaults["database_name"]]["agent_sessions"].distinct("_id")
    assert set(found) >= set(ids)


async def test_two_managers_of_one_session_share_no_message(
    factory: MongoDBSessionManagerFactory,
    mongo_client: Client,
    filled: list[str],
    new_agent: NewAgent,
    command_counter: CommandCounter,
) -> None:
    with command_counter.counting() as log:
        managers = await opened(factory, mongo_client, ["s-0", "s-0", "s-0"])
    one, other, another = (new_agent(manager) for manager in managers)

    assert Counter(log.names) == {"find": 1, "findAndModify": 2}
    one.messages[0]["content"][0]["text"] = "changed"
    one.messages.clear()
    assert texts(other.messages) == texts(another.messages) == ["I am s-0", "Okay."]


async def test_many_go_in_parts(
    factory: MongoDBSessionManagerFactory, mongo_client: Client, command_counter: CommandCounter
) -> None:
    ids = [f"many-{number}" for number in range(2 * LIMITS.most_shared + 1)]
    for session_id in ids:
        factory.create_session_manager(session_id).close()

    with command_counter.counting() as log:
        managers = await opened(factory, mongo_client, ids)

    # The last part is one session, and that is opened by itself.
    assert Counter(log.names) == {"find": 2, "findAndModify": 1}
    assert [manager.session_id for manager in managers if isinstance(manager, MongoDBSessionManager)] == ids


@pytest.mark.parametrize(
    "options",
    [{"agent_ids": ["a"]}, {"collection_name": "others"}, {"database_name": True}],
    ids=["agents", "collection", "database"],
)
async def test_what_is_read_otherwise_is_read_apart(
    factory: MongoDBSessionManagerFactory,
    mongo_client: Client,
    filled: list[str],
    new_agent: NewAgent,
    database: str,
    options: dict[str, Any],
) -> None:
    if "database_name" in options:
        options = {"database_name": f"{database}_other"}
    try:
        with factory.create_session_manager("s-0", **{k: v for k, v in options.items() if k != "agent_ids"}) as manager:
            new_agent(manager, agent_id="a")("Apart")
        with held_up(mongo_client):
            usual = [enter(factory, name, agent_ids=["default"]) for name in filled]
            other = enter(factory, "s-0", **{"agent_ids": ["a"], **options})
            waiting = [asyncio.ensure_future(each) for each in (*usual, other, enter(factory, "s-1"))]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        *managers, apart, without = await asyncio.gather(*waiting)

        said = [texts(new_agent(manager).messages) for manager in managers]
        assert said == [[f"I am {name}", "Okay."] for name in filled]
        assert texts(new_agent(apart, agent_id="a").messages) == ["Apart", "Okay."]
        assert texts(new_agent(without).messages) == ["I am s-1", "Okay."]
    finally:
        mongo_client.drop_database(f"{database}_other")


async def test_a_read_that_fails_costs_nobody_the_session(
    factory: MongoDBSessionManagerFactory,
    mongo_client: Client,
    filled: list[str],
    new_agent: NewAgent,
    failing: Failing,
    command_counter: CommandCounter,
) -> None:
    with failing("find", errorCode=2), command_counter.counting() as log:
        managers = await opened(factory, mongo_client, filled)

    assert Counter(log.names) == {"find": 1, "findAndModify": len(filled)}
    assert [texts(new_agent(m).messages) for m in managers] == [[f"I am {name}", "Okay."] for name in filled]


async def test_a_read_without_an_answer_is_left_soon_and_not_tried_again_at_once(
    factory: MongoDBSessionManagerFactory,
    mongo_client: Client,
    filled: list[str],
    failing: Failing,
    command_counter: CommandCounter,
) -> None:
    with failing("find", blockConnection=True, blockTimeMS=2_000), command_counter.counting() as log:
        managers = await opened(factory, mongo_client, filled)
        again = await opened(factory, mongo_client, filled)

    assert all(isinstance(each, MongoDBSessionManager) for each in [*managers, *again])
    assert Counter(log.names)["findAndModify"] == 2 * len(filled)
    limits = [c.document["maxTimeMS"] for c in log.commands if c.name == "find"]
    assert len(limits) == 1
    assert limits[0] <= LIMITS.attempt_timeout * 1000
    assert factory._shared_reads.begin > 0


@pytest.mark.limits(fresh_seconds=0.0)
async def test_what_was_read_a_while_ago_is_read_again(
    factory: MongoDBSessionManagerFactory,
    mongo_client: Client,
    filled: list[str],
    command_counter: CommandCounter,
) -> None:
    with command_counter.counting() as log:
        managers = await opened(factory, mongo_client, filled)

    assert all(isinstance(each, MongoDBSessionManager) for each in managers)
    # The thread that has read opens one of them at once.
    assert Counter(log.names) == {"find": 1, "findAndModify": len(filled) - 1}


@pytest.mark.parametrize(
    ("options", "most"),
    [({"timeoutMS": 600}, 0.3), ({"socketTimeoutMS": 400}, 0.2), ({"serverSelectionTimeoutMS": 200}, 0.1)],
    ids=str,
)
def test_a_shared_read_leaves_time_to_open_alone(mongodb_uri: str, options: dict[str, Any], most: float) -> None:
    with MongoDBSessionManagerFactory(mongodb_uri, "unused", **options) as factory:
        assert factory._shared_reads.timeout == most


@pytest.mark.parametrize("session_id", [["s-1"], {"a": 1}, None, "", "mongodb://user:secret@host/", "a\0b", "\ud800"])
async def test_an_id_that_is_not_valid_costs_no_other_request_anything(
    factory: MongoDBSessionManagerFactory,
    mongo_client: Client,
    filled: list[str],
    command_counter: CommandCounter,
    session_id: Any,
) -> None:
    with command_counter.counting() as log:
        one, bad, *others = await opened(factory, mongo_client, ["s-0", session_id, "s-1", "s-2"])

    assert all(isinstance(each, MongoDBSessionManager) for each in (one, *others))
    assert isinstance(bad, TypeError | ValueError)
    assert log.names == ["find"]
    assert log.commands[0].document["filter"] == {"_id": {"$in": ["s-0", "s-1", "s-2"]}}


async def test_a_namespace_that_is_not_valid_is_refused_as_ever(factory: MongoDBSessionManagerFactory) -> None:
    names: list[Any] = [["a"], 5, "mongodb://user:secret@host/"]
    for name in names:
        with pytest.raises((TypeError, ValueError)):
            await enter(factory, "s-1", collection_name=name)


async def test_what_fails_on_the_way_is_told_to_all_that_wait(
    factory: MongoDBSessionManagerFactory, mongo_client: Client, filled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin(opening: openings.Opening[Any], *given: Any) -> None:
        raise LookupError

    monkeypatch.setattr(openings.Opening, "begin", begin)

    told = await opened(factory, mongo_client, ["s-0", "s-1", "s-2"])
    assert [type(each) for each in told] == [pymongo.errors.InvalidOperation] * 3


async def test_other_threads_are_called_after_a_fork(
    factory: MongoDBSessionManagerFactory, mongo_client: Client, filled: list[str]
) -> None:
    with held_up(mongo_client):
        lost = asyncio.ensure_future(enter(factory, "s-0", agent_ids=["default"]))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        ClientHandle.of(mongo_client).begin_anew()  # as the child of a fork does, whose threads are gone
        manager = await asyncio.wait_for(enter(factory, "s-1", agent_ids=["default"]), 20)
    await lost

    assert manager.session_id == "s-1"


async def test_each_gets_its_own_error(
    factory: MongoDBSessionManagerFactory, mongo_client: Client, filled: list[str], failing: Failing
) -> None:
    missing = await opened(factory, mongo_client, ["s-0", "not-there", "s-1"], create=False)
    assert [type(each) for each in missing] == [MongoDBSessionManager, SessionNotFoundError, MongoDBSessionManager]

    with failing("find", "findAndModify", errorCode=2):
        failed = await opened(factory, mongo_client, ["s-0", "s-1"])
    assert [type(each) for each in failed] == [OperationFailure] * 2
    assert failed[0] is not failed[1]


@pytest.mark.parametrize("kind", ["exclusive", "timeout", "session"])
async def test_what_is_for_one_caller_alone_is_not_shared(
    factory: MongoDBSessionManagerFactory,
    mongo_client: Client,
    filled: list[str],
    command_counter: CommandCounter,
    kind: str,
) -> None:
    with contextlib.ExitStack() as stack, command_counter.counting() as log:
        if kind == "timeout":
            stack.enter_context(pymongo.timeout(20))
        elif kind == "session":
            session = stack.enter_context(mongo_client.start_session())
            if not hasattr(session, "bind"):
                pytest.skip("this driver binds no session")
            stack.enter_context(session.bind())
        managers = await opened(factory, mongo_client, filled, **({"exclusive": True} if kind == "exclusive" else {}))

    assert all(isinstance(each, MongoDBSessionManager) for each in managers)
    filters = [command.document["filter"] for command in log.commands if command.name == "find"]
    assert all(not isinstance(each["_id"], dict) for each in filters)
    for each in managers:
        if isinstance(each, MongoDBSessionManager):
            each.close()


async def test_a_request_that_goes_takes_nothing_from_the_others(
    factory: MongoDBSessionManagerFactory, mongo_client: Client, filled: list[str], new_agent: NewAgent
) -> None:
    before = len(ClientHandle.of(mongo_client)._users)
    with held_up(mongo_client):
        waiting = [asyncio.ensure_future(enter(factory, name, agent_ids=["default"])) for name in filled]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        waiting[0].cancel()
        waiting[2].cancel()
    found = await asyncio.gather(*waiting, return_exceptions=True)

    assert [isinstance(each, asyncio.CancelledError) for each in found] == [True, False, True, False, False]
    assert [texts(new_agent(found[n]).messages) for n in (1, 3, 4)] == [[f"I am s-{n}", "Okay."] for n in (1, 3, 4)]
    assert eventually(lambda: len(ClientHandle.of(mongo_client)._users) == before + 3)


async def test_a_client_that_is_closed_meanwhile_is_told_to_all(
    mongodb_uri: str, database: str, filled: list[str]
) -> None:
    factory = MongoDBSessionManagerFactory(mongodb_uri, database)
    client = factory._handle.client
    with held_up(client):
        waiting = [asyncio.ensure_future(enter(factory, name)) for name in filled]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        closing = asyncio.get_running_loop().run_in_executor(None, factory._handle.close, 0.0)
        await asyncio.sleep(0.2)
    found = await asyncio.gather(*waiting, return_exceptions=True)
    await closing

    assert all(isinstance(each, MongoDBSessionError | pymongo.errors.InvalidOperation) for each in found)


def test_the_collector_may_come_while_threads_are_called(
    factory: MongoDBSessionManagerFactory, mongo_client: Client, filled: list[str]
) -> None:
    """It ends what is left behind in any thread, also in one that holds a lock of the client's threads."""
    gc.collect()

    def managers() -> int:
        return len(ClientHandle.of(mongo_client)._users)

    before = managers()
    executor = ClientHandle.of(mongo_client).executor
    loop = asyncio.new_event_loop()

    async def begin() -> None:
        opening = factory._opened("s-0", ["default"], factory._arguments({}))
        waiting.append(asyncio.get_running_loop().create_task(opening))
        await asyncio.sleep(0)

    waiting: list[asyncio.Task[MongoDBSessionManager]] = []
    loop.run_until_complete(begin())
    (task,) = waiting
    coroutine: Any = task.get_coro()
    assert eventually(lambda: managers() == before + 1)
    ended = threading.Event()

    def collect() -> None:
        with executor._shutdown_lock, thread._global_shutdown_lock:
            coroutine.close()
        ended.set()

    threading.Thread(target=collect, daemon=True).start()

    assert ended.wait(20)
    assert eventually(lambda: managers() == before), (managers(), before)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, RuntimeError):
        loop.run_until_complete(task)
    loop.close()
