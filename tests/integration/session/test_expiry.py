"""Sessions with a ttl: their date moves along while they are used, and one that has expired is gone."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any, cast

import mongomock
import pytest
from strands import Agent
from strands.types.session import Session, SessionType

from mongodb_session_manager import (
    MongoDBSessionManager,
    MongoDBSessionManagerFactory,
    SessionNotFoundError,
    create_mongodb_session_manager,
)
from mongodb_session_manager.errors import SessionLockedError
from mongodb_session_manager.testing import CommandCounter
from tests.aliases import Client, Document, NewAgent, NewManager
from tests.conftest import COLLECTION
from tests.expiring import HOUR, expire, in_time, without_ttl_monitor
from tests.talking import texts
from tests.watching import cost, wait_for_indexes

DAY = timedelta(days=1)
Act = Callable[[MongoDBSessionManager, Agent], object]


@pytest.fixture(autouse=True)
def kept(observer: Client) -> Iterator[None]:
    """What has expired stays until somebody opens it."""
    with without_ttl_monitor(observer):
        yield


@pytest.fixture
def sessions(observer: Client, database: str) -> Any:
    return observer[database][COLLECTION]


def about(date: datetime, ttl: timedelta) -> bool:
    """Tell whether a date is a ttl away, rounded up."""
    return in_time(ttl) - timedelta(seconds=20) <= date <= in_time(ttl) + min(max(ttl / 64, timedelta(seconds=1)), HOUR)


# What is stored


def test_a_new_session_has_its_ttl_and_date(new_manager: NewManager, stored: Callable[[], Any]) -> None:
    new_manager(ttl=HOUR)

    assert stored()["ttl_seconds"] == 3600
    assert about(stored()["expires_at"], HOUR)


def test_a_session_without_ttl_has_nothing_of_it(new_manager: NewManager, stored: Callable[[], Any]) -> None:
    new_manager().update_metadata({"a": 1})

    assert not {"ttl_seconds", "expires_at", "held"} & set(stored())


def test_every_way_to_a_manager_takes_a_ttl(mongo_client: Client, database: str, stored: Callable[..., Any]) -> None:
    where: Any = {"client": mongo_client, "database_name": database}
    with MongoDBSessionManagerFactory(**where, ttl=DAY) as factory:
        factory.create_session_manager("default").close()
        factory.create_session_manager("none", ttl=None).close()
        factory.create_session_manager("own", ttl=HOUR).close()
    create_mongodb_session_manager("function", **where, ttl=2 * HOUR).close()

    found = {name: stored(name)["ttl_seconds"] for name in ("default", "none", "own", "function")}
    assert found == {"default": 86_400, "none": 86_400, "own": 3600, "function": 7200}


@pytest.mark.parametrize("ttl", [3600, "1h", timedelta(seconds=59), timedelta(0), timedelta(days=40_000), True])
def test_a_bad_ttl_is_refused_before_any_command(
    mongo_client: Client, database: str, command_counter: CommandCounter, ttl: Any
) -> None:
    where: Any = {"client": mongo_client, "database_name": database}
    with MongoDBSessionManagerFactory(**where) as factory:
        makers: list[Callable[[], object]] = [
            lambda: MongoDBSessionManager("s-1", **where, ttl=ttl),
            lambda: create_mongodb_session_manager("s-1", **where, ttl=ttl),
            lambda: MongoDBSessionManagerFactory(**where, ttl=ttl),
            lambda: factory.create_session_manager("s-1", ttl=ttl),
        ]
        for make in makers:
            with pytest.raises((TypeError, ValueError), match="ttl must be"):
                make()

    assert command_counter.commands == []


def test_the_ttl_index_comes_with_the_others(new_manager: NewManager, command_counter: CommandCounter) -> None:
    new_manager(ttl=HOUR, collection_name="with_ttl")
    new_manager(collection_name="without_ttl")

    builds = {
        each.collection: each.document["indexes"] for each in command_counter.commands if each.name != "findAndModify"
    }
    dated = [index for index in builds["with_ttl"] if "expireAfterSeconds" in index]
    assert [(index["key"], index["expireAfterSeconds"], index["partialFilterExpression"]) for index in dated] == [
        ({"expires_at": 1}, 0, {"expires_at": {"$exists": True}})
    ]
    assert not [index for index in builds["without_ttl"] if "expireAfterSeconds" in index]


def test_the_longest_ttl_stays(new_manager: NewManager, stored: Callable[[], Any]) -> None:
    new_manager(ttl=HOUR)
    new_manager(ttl=DAY)
    assert (stored()["ttl_seconds"], about(stored()["expires_at"], DAY)) == (86_400, True)

    new_manager(ttl=HOUR).update_metadata({"a": 1})
    new_manager().update_metadata({"a": 2})

    assert (stored()["ttl_seconds"], about(stored()["expires_at"], DAY)) == (86_400, True)


def test_an_existing_session_gets_the_ttl_of_the_next_opening(
    new_manager: NewManager, stored: Callable[[], Any], command_counter: CommandCounter
) -> None:
    new_manager()

    with command_counter.counting() as log:
        new_manager(ttl=HOUR)
        new_manager(ttl=HOUR)

    assert sorted(log.names) == ["createIndexes", "findAndModify", "findAndModify", "update"]
    assert (stored()["ttl_seconds"], about(stored()["expires_at"], HOUR)) == (3600, True)


# Moving along


def change_state(manager: MongoDBSessionManager, agent: Agent) -> None:
    agent.state.set("a", 1)
    manager.sync_agent(agent)


WRITES: dict[str, Act] = {
    "turn": lambda manager, agent: agent("Hi"),
    "metadata": lambda manager, agent: manager.update_metadata({"a": 1}),
    "deleted metadata": lambda manager, agent: manager.delete_metadata(["a"]),
    "feedback": lambda manager, agent: manager.add_feedback({"rating": "up"}),
    "new agent": lambda manager, agent: manager.initialize(Agent(agent_id="new", callback_handler=None)),
    "state": lambda manager, agent: change_state(manager, agent),
}
every_write = pytest.mark.parametrize("act", WRITES.values(), ids=WRITES)


@every_write
@pytest.mark.parametrize("ttl", [HOUR, None], ids=["own", "stored"])
def test_every_write_moves_a_date_that_is_due(
    new_manager: NewManager,
    new_agent: NewAgent,
    sessions: Any,
    stored: Callable[[], Any],
    command_counter: CommandCounter,
    act: Act,
    ttl: timedelta | None,
) -> None:
    new_manager(ttl=HOUR)
    # As far away as an opening leaves it.
    sessions.update_one({}, {"$set": {"expires_at": in_time(HOUR - timedelta(minutes=5))}})
    manager = new_manager(ttl=ttl)
    agent = new_agent(manager)
    sessions.update_one({}, {"$set": {"expires_at": in_time(HOUR / 2)}})
    manager._stores._operations.dates.lifetimes["s-1"].until = in_time(HOUR / 2)

    with command_counter.counting() as log:
        act(manager, agent)

    assert about(stored()["expires_at"], HOUR)
    assert cost(log) == (2 if act is WRITES["turn"] else 1, 0, 0)


def test_nearly_all_writes_carry_no_date(
    new_manager: NewManager, new_agent: NewAgent, command_counter: CommandCounter
) -> None:
    agent = new_agent(new_manager(ttl=30 * DAY))

    with command_counter.counting() as log:
        for _ in range(5):
            agent("Hi")

    assert cost(log) == (10, 0, 0)
    dated = [update for each in log.commands for update in each.document["updates"] if "$max" in update["u"]]
    assert len(dated) <= 1  # the hour may strike meanwhile


def test_an_opening_moves_the_date_only_if_an_eighth_is_over(
    new_manager: NewManager, sessions: Any, stored: Callable[[], Any], command_counter: CommandCounter
) -> None:
    new_manager(ttl=DAY)
    sessions.update_one({}, {"$set": {"expires_at": (fresh := in_time(DAY * 0.9))}})
    with command_counter.counting() as log:
        new_manager()
    assert (log.names, stored()["expires_at"]) == (["findAndModify"], fresh)

    sessions.update_one({}, {"$set": {"expires_at": in_time(DAY * 0.8)}})
    with command_counter.counting() as log:
        new_manager()

    assert log.names == ["findAndModify", "update"]
    assert about(stored()["expires_at"], DAY)


def test_reading_never_moves_the_date(
    new_manager: NewManager, new_agent: NewAgent, sessions: Any, stored: Callable[[], Any]
) -> None:
    new_agent(new_manager(ttl=HOUR))("Hi")
    sessions.update_one({}, {"$set": {"expires_at": (soon := in_time(HOUR / 4))}})

    reader = new_manager(create=False, ttl=HOUR)
    new_agent(reader)
    reader.get_metadata()
    reader.get_feedbacks()
    reader.list_messages("default")

    assert stored()["expires_at"] == soon


async def test_a_request_is_three_operations(
    mongo_client: Client, database: str, new_agent: NewAgent, command_counter: CommandCounter
) -> None:
    with MongoDBSessionManagerFactory(client=mongo_client, database_name=database, ttl=DAY) as factory:

        async def request() -> None:
            async with factory.session("s-1", agent_ids=["default"]) as manager:
                await new_agent(manager).invoke_async("Hi")

        await request()
        wait_for_indexes()
        with command_counter.counting() as log:
            await request()

    assert cost(log) == (3, 0, 0)


def test_writes_that_share_a_command_move_their_dates(
    new_manager: NewManager, new_agent: NewAgent, sessions: Any, stored: Callable[..., Any]
) -> None:
    managers = [new_manager(f"s-{number}", ttl=HOUR) for number in range(4)]
    agents = [new_agent(manager) for manager in managers]
    sessions.update_many({}, {"$set": {"expires_at": in_time(HOUR / 2)}})
    for manager in managers:
        manager._stores._operations.dates.lifetimes[manager.session_id].until = in_time(HOUR / 2)

    async def talk() -> None:
        await asyncio.gather(*(agent.invoke_async("Hi") for agent in agents))

    asyncio.run(talk())

    assert all(about(stored(manager.session_id)["expires_at"], HOUR) for manager in managers)
    assert [len(agent.messages) for agent in agents] == [2, 2, 2, 2]


def test_a_holder_of_the_lease_at_work_moves_the_date(
    new_manager: NewManager, sessions: Any, stored: Callable[[], Any]
) -> None:
    manager = new_manager(ttl=HOUR, exclusive=True)
    sessions.update_one({}, {"$set": {"expires_at": in_time(HOUR / 2)}})
    manager._stores._operations.dates.lifetimes["s-1"].until = in_time(HOUR / 2)

    assert manager._stores.sessions.renew_lease("s-1") is True

    assert about(stored()["expires_at"], HOUR)


# While it is held


@every_write
def test_a_write_to_a_session_that_is_held_gives_it_no_date(
    new_manager: NewManager, new_agent: NewAgent, sessions: Any, stored: Callable[[], Any], act: Act
) -> None:
    manager = new_manager(ttl=HOUR)
    agent = new_agent(manager)
    manager._stores._operations.dates.lifetimes["s-1"].until = None
    sessions.update_one({}, {"$set": {"held": True}, "$unset": {"expires_at": ""}})
    before = stored()["updated_at"]

    act(manager, agent)

    assert stored()["updated_at"] > before
    assert "expires_at" not in stored()


def test_a_message_to_a_session_that_is_held_costs_one_look(
    new_manager: NewManager, new_agent: NewAgent, sessions: Any, command_counter: CommandCounter
) -> None:
    manager = new_manager(ttl=HOUR)
    agent = new_agent(manager)
    manager._stores._operations.dates.lifetimes["s-1"].until = None
    sessions.update_one({}, {"$set": {"held": True}, "$unset": {"expires_at": ""}})

    with command_counter.counting() as log:
        agent("Hi")
        agent("And now?")

    # The first write misses with its date, and goes through without it.
    assert log.names == ["update", "find", "update", "update", "update", "update"]


def test_opening_a_session_that_is_held_gives_it_no_date(
    new_manager: NewManager, sessions: Any, stored: Callable[[], Any], command_counter: CommandCounter
) -> None:
    new_manager(ttl=HOUR)
    sessions.update_one({}, {"$set": {"held": True}, "$unset": {"expires_at": ""}})

    with command_counter.counting() as log:
        manager = new_manager(ttl=DAY)
        manager.update_metadata({"a": 1})

    assert log.names == ["findAndModify", "update"]
    assert "expires_at" not in stored()


@pytest.mark.parametrize("seconds", [None, 600], ids=["never", "sooner"])
def test_a_ttl_that_was_changed_meanwhile_stays(
    new_manager: NewManager, sessions: Any, stored: Callable[[], Any], seconds: int | None
) -> None:
    manager = new_manager(ttl=HOUR)
    other = new_manager()
    manager._stores._operations.dates.lifetimes["s-1"].until = None
    other._stores._operations.dates.lifetimes["s-1"].until = None
    change = {"$set": {"ttl_seconds": seconds}} if seconds else {"$unset": {"ttl_seconds": "", "expires_at": ""}}
    sessions.update_one({}, change)
    sessions.update_one({}, {"$unset": {"expires_at": ""}})

    other.update_metadata({"a": 1})

    assert stored().get("ttl_seconds") == seconds
    assert "expires_at" not in stored() if seconds is None else about(stored()["expires_at"], timedelta(minutes=10))


@pytest.mark.parametrize("by_operator", [True, False])
def test_an_open_manager_learns_within_an_hour_that_a_session_has_got_a_ttl(
    new_manager: NewManager,
    new_agent: NewAgent,
    sessions: Any,
    stored: Callable[[], Any],
    monkeypatch: pytest.MonkeyPatch,
    command_counter: CommandCounter,
    by_operator: bool,
) -> None:
    manager = new_manager()
    agent = new_agent(manager)
    agent("Hi")
    if by_operator:
        sessions.update_one({}, {"$set": {"ttl_seconds": 86_400, "expires_at": in_time(DAY)}})
    else:
        new_manager(ttl=DAY)

    for hours in (1, 2):
        late = in_time(hours * HOUR + timedelta(minutes=1))
        monkeypatch.setattr("mongodb_session_manager._stores.dates.now", lambda late=late: late)
        agent(f"{hours} hours later")

    assert late + DAY <= stored()["expires_at"] <= late + DAY + HOUR
    assert [message["content"][0]["text"] for message in new_agent(new_manager()).messages[2::2]] == [
        "1 hours later",
        "2 hours later",
    ]


def test_a_session_that_gets_no_ttl_costs_no_look(
    new_manager: NewManager, stored: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, command_counter: CommandCounter
) -> None:
    manager = new_manager()

    for hours in (1, 2, 3):
        late = in_time(hours * HOUR + timedelta(minutes=1))
        monkeypatch.setattr("mongodb_session_manager._stores.dates.now", lambda late=late: late)
        with command_counter.counting() as log:
            manager.update_metadata({"a": hours})
            manager.update_metadata({"b": hours})
        assert log.names == ["update", "update"]

    assert "expires_at" not in stored()


# Expired


def test_opening_a_session_that_has_expired_begins_it_anew(
    new_manager: NewManager, new_agent: NewAgent, sessions: Any, command_counter: CommandCounter
) -> None:
    new_agent(new_manager(ttl=HOUR))("Old")
    expire(sessions)

    with command_counter.counting() as log:
        manager = new_manager()

    assert log.names == ["findAndModify", "delete", "delete", "findAndModify"]
    agent = new_agent(manager)
    assert agent.messages == []
    agent("New")
    assert texts(agent.messages) == ["New", "Okay."]
    assert "expires_at" not in sessions.find_one()


def test_what_belonged_to_it_is_gone(
    new_manager: NewManager, new_agent: NewAgent, observer: Client, database: str
) -> None:
    manager = new_manager(ttl=HOUR)
    image: Any = {"image": {"format": "png", "source": {"bytes": b"\x89PNG" + bytes(400_000)}}}
    new_agent(
        manager, messages=[{"role": "user", "content": [image]}, {"role": "assistant", "content": [{"text": "A"}]}]
    )
    found = observer[database]
    found[f"{COLLECTION}_segments"].insert_one({"session_id": "s-1", "kind": "messages", **instance_of(manager)})
    assert found[f"{COLLECTION}_files.chunks"].count_documents({}) > 1
    expire(found[COLLECTION])

    new_manager(ttl=HOUR)

    assert [
        found[f"{COLLECTION}_{name}"].count_documents({}) for name in ("segments", "files.files", "files.chunks")
    ] == [0, 0, 0]


def instance_of(manager: MongoDBSessionManager) -> Document:
    found = manager.session_repository.collection.find_one({"_id": manager.session_id}, {"instance": 1}) or {}
    return {"instance": found["instance"]} if "instance" in found else {}


def test_a_session_that_has_expired_is_not_found_by_create_false(
    new_manager: NewManager, sessions: Any, stored: Callable[[], Any]
) -> None:
    new_manager(ttl=HOUR)
    expire(sessions)

    for exclusive in (False, True):
        with pytest.raises(SessionNotFoundError):
            new_manager(create=False, exclusive=exclusive)

    assert stored()["ttl_seconds"] == 3600
    assert stored().get("lease") is None


def test_an_exclusive_opening_begins_it_anew(
    new_manager: NewManager, new_agent: NewAgent, sessions: Any, stored: Callable[[], Any]
) -> None:
    new_agent(new_manager(ttl=HOUR))("Old")
    expire(sessions)

    manager = new_manager(exclusive=True, ttl=HOUR)

    assert stored()["lease"]["owner"] == manager._stores._operations.leases["s-1"].owner
    assert new_agent(manager).messages == []
    with pytest.raises(SessionLockedError):
        new_manager(exclusive=True, lease_timeout=0)


async def test_sessions_that_are_read_together(
    factory: MongoDBSessionManagerFactory, new_manager: NewManager, new_agent: NewAgent, sessions: Any
) -> None:
    names = [f"s-{number}" for number in range(6)]
    for name in names:
        new_agent(new_manager(name, ttl=HOUR))(f"I am {name}")
    for name in names[::2]:
        expire(sessions, name)

    async def opened(name: str) -> list[str]:
        async with factory.session(name, agent_ids=["default"]) as manager:
            return texts(new_agent(manager).messages)

    found = await asyncio.gather(*map(opened, names))

    assert found == [[], ["I am s-1", "Okay."], [], ["I am s-3", "Okay."], [], ["I am s-5", "Okay."]]


@pytest.mark.parametrize("round_number", range(5))
def test_two_openings_at_once_begin_one_new_life(
    new_manager: NewManager, new_agent: NewAgent, sessions: Any, stored: Callable[[], Any], round_number: int
) -> None:
    new_agent(new_manager(ttl=HOUR))("Old")
    expire(sessions)

    with ThreadPoolExecutor(8) as threads:
        managers = list(threads.map(lambda _: new_manager(ttl=HOUR), range(8)))

    assert len(stored()["agent_ids"]) == 0
    agents = [new_agent(manager, agent_id=f"a-{number}") for number, manager in enumerate(managers)]
    for agent in agents:
        agent("Hi")
    assert sorted(stored()["agents"]) == sorted(agent.agent_id for agent in agents)


def test_a_living_writer_revives_a_session_that_is_still_there(
    new_manager: NewManager, new_agent: NewAgent, sessions: Any, stored: Callable[[], Any]
) -> None:
    agent = new_agent(manager := new_manager(ttl=HOUR))
    agent("First")
    expire(sessions)
    manager._stores._operations.dates.lifetimes["s-1"].until = in_time(-HOUR)

    agent("Second")

    assert about(stored()["expires_at"], HOUR)
    assert texts(new_agent(new_manager()).messages) == ["First", "Okay.", "Second", "Okay."]


@pytest.mark.parametrize("days", [-2, 2], ids=["behind", "ahead"])
def test_the_clock_of_the_server_counts(
    new_manager: NewManager, new_agent: NewAgent, sessions: Any, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    new_agent(new_manager(ttl=HOUR))("Living")
    new_agent(new_manager("s-2", ttl=HOUR))("Expired")
    expire(sessions, "s-2")
    for module in ("living", "erasing"):
        monkeypatch.setattr(f"mongodb_session_manager._stores.{module}.now", lambda: in_time(timedelta(days=days)))

    found = [texts(new_agent(new_manager(name)).messages) for name in ("s-1", "s-2")]

    assert found == [["Living", "Okay."], []]


@pytest.mark.parametrize("odd", [None, 0, -1, "2020-01-01", [], {}, True, 1.5])
def test_what_is_not_a_date_never_expires(
    new_manager: NewManager, new_agent: NewAgent, sessions: Any, odd: object
) -> None:
    new_agent(new_manager())("Hi")
    sessions.update_one({}, {"$set": {"expires_at": odd, "ttl_seconds": odd}})

    assert len(new_agent(new_manager()).messages) == 2
    assert len(new_agent(new_manager(ttl=HOUR)).messages) == 2


def test_the_verbs_of_the_sdk(new_manager: NewManager, sessions: Any) -> None:
    repository = new_manager(ttl=HOUR).session_repository
    expire(sessions)

    assert repository.read_session("s-1") is None
    repository.create_session(Session("s-1", SessionType.AGENT))

    assert cast(Session, repository.read_session("s-1")).session_id == "s-1"
    assert "expires_at" not in sessions.find_one()


# In memory


def test_it_works_in_memory(new_agent: NewAgent) -> None:
    client: Any = mongomock.MongoClient(tz_aware=True)
    sessions = client.shop[COLLECTION]

    def opened(**options: Any) -> MongoDBSessionManager:
        return MongoDBSessionManager("s-1", client=client, database_name="shop", **options)

    new_agent(opened(ttl=HOUR))("Hi")
    assert about(sessions.find_one()["expires_at"], HOUR)
    assert len(new_agent(opened()).messages) == 2

    expire(sessions)
    with pytest.raises(SessionNotFoundError):
        opened(create=False)
    assert new_agent(opened(ttl=HOUR)).messages == []
    assert about(sessions.find_one()["expires_at"], HOUR)
