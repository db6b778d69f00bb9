"""Holds and ttls, as operators set them."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from bson import ObjectId

from mongodb_session_manager import SessionCatalog, SessionConflictError, SessionFilter, SessionNotFoundError
from mongodb_session_manager.testing import CommandCounter
from tests.aliases import Client, NewAgent, NewManager, Stored
from tests.conftest import COLLECTION
from tests.expiring import HOUR, expire, in_time, without_ttl_monitor
from tests.integration.catalog.sessions import session
from tests.watching import wait_for_indexes

Put = Callable[..., None]
DAY = timedelta(days=1)
EVERY = SessionFilter(everything=True)


@pytest.fixture(autouse=True)
def kept(observer: Client) -> Iterator[None]:
    with without_ttl_monitor(observer):
        yield


@pytest.fixture
def sessions(observer: Client, database: str) -> Any:
    return observer[database][COLLECTION]


def about(date: Any, span: timedelta) -> bool:
    return bool(-timedelta(seconds=20) < date - in_time(span) < timedelta(minutes=1))


def test_a_held_session_has_no_date_until_it_is_released(
    catalog: SessionCatalog, new_manager: NewManager, new_agent: NewAgent, stored: Stored
) -> None:
    agent = new_agent(new_manager(ttl=HOUR))

    catalog.hold("s-1")
    agent("Hi")
    new_manager(ttl=DAY)

    assert stored()["held"] is True
    assert "expires_at" not in stored()
    assert (catalog.get("s-1").held, catalog.get("s-1").expires_at) == (True, None)

    catalog.release("s-1")

    assert "held" not in stored()
    assert about(stored()["expires_at"], HOUR)
    assert (catalog.get("s-1").held, catalog.get("s-1").expires_at) == (False, stored()["expires_at"])


def test_holding_and_releasing_twice_is_doing_it_once(
    catalog: SessionCatalog, new_manager: NewManager, stored: Stored, sessions: Any
) -> None:
    new_manager(ttl=HOUR)
    catalog.hold("s-1")
    catalog.hold("s-1")
    assert stored()["held"] is True

    catalog.release("s-1")
    sessions.update_one({}, {"$set": {"expires_at": (soon := in_time(HOUR / 4))}})
    catalog.release("s-1")

    assert stored()["expires_at"] == soon


@pytest.mark.parametrize("odd", [None, "3600", -1, 5, 1e300, float("nan"), [60], {"a": 1}, True])
def test_a_release_without_a_valid_ttl_gives_no_date(
    catalog: SessionCatalog, put: Put, stored: Stored, odd: object
) -> None:
    more: dict[str, Any] = {} if odd is None else {"ttl_seconds": odd}
    put(session("s-1", held=True, **more))

    catalog.release("s-1")

    assert not {"held", "expires_at"} & set(stored())


def test_what_is_not_there_or_has_expired(catalog: SessionCatalog, new_manager: NewManager, sessions: Any) -> None:
    new_manager(ttl=HOUR)
    expire(sessions)

    for session_id in ("s-1", "never there"):
        calls: list[Callable[[], object]] = [
            lambda name=session_id: catalog.hold(name),  # type: ignore[misc]
            lambda name=session_id: catalog.release(name),  # type: ignore[misc]
            lambda name=session_id: catalog.set_ttl(name, HOUR),  # type: ignore[misc]
            lambda name=session_id: catalog.set_ttl(name, None),  # type: ignore[misc]
        ]
        for call in calls:
            with pytest.raises(SessionNotFoundError, match=session_id):
                call()


def test_a_ttl_can_be_made_shorter(
    catalog: SessionCatalog, new_manager: NewManager, stored: Stored, sessions: Any
) -> None:
    new_manager(ttl=DAY)

    assert catalog.set_ttl("s-1", HOUR) == 1

    assert (stored()["ttl_seconds"], about(stored()["expires_at"], HOUR)) == (3600, True)
    new_manager().update_metadata({"a": 1})
    assert about(stored()["expires_at"], HOUR)
    wait_for_indexes()
    assert "expireAfterSeconds" in sessions.index_information()["expires_at_1"]


def test_a_ttl_can_be_taken_away(catalog: SessionCatalog, new_manager: NewManager, stored: Stored) -> None:
    manager = new_manager(ttl=HOUR)

    assert catalog.set_ttl("s-1", None) == 1
    manager.update_metadata({"a": 1})

    assert not {"ttl_seconds", "expires_at"} & set(stored())


def test_ttls_of_many(
    catalog: SessionCatalog, new_manager: NewManager, stored: Stored, sessions: Any, command_counter: CommandCounter
) -> None:
    for session_id in ("a-1", "a-2", "a-held", "a-gone", "b-1"):
        new_manager(session_id, ttl=DAY)
    catalog.hold("a-held")
    expire(sessions, "a-gone")

    with command_counter.counting() as log:
        changed = catalog.set_ttl(SessionFilter(id_prefix="a-"), HOUR)

    assert (changed, log.names) == (2, ["update"])
    seconds = {name: stored(name)["ttl_seconds"] for name in ("a-1", "a-2", "a-held", "a-gone", "b-1")}
    assert seconds == {"a-1": 3600, "a-2": 3600, "a-held": 86_400, "a-gone": 86_400, "b-1": 86_400}
    assert catalog.set_ttl("a-held", HOUR) == 0
    assert catalog.set_ttl(EVERY, None) == 3


@pytest.mark.parametrize(
    ("sessions", "ttl", "kind"),
    [
        (SessionFilter(), HOUR, ValueError),
        (SessionFilter(text="Hi"), HOUR, ValueError),
        ({}, HOUR, TypeError),
        (None, HOUR, TypeError),
        (7, HOUR, TypeError),
        ("", HOUR, ValueError),
        ("a\0b", HOUR, ValueError),
        ("s-1", 3600, TypeError),
        ("s-1", timedelta(seconds=1), ValueError),
        ("s-1", timedelta(days=40_000), ValueError),
        (EVERY, "1h", TypeError),
    ],
)
def test_bad_input(
    catalog: SessionCatalog, command_counter: CommandCounter, sessions: Any, ttl: Any, kind: type[Exception]
) -> None:
    with pytest.raises(kind):
        catalog.set_ttl(sessions, ttl)

    assert command_counter.commands == []


def test_a_manager_that_is_open_learns_of_a_shorter_ttl(
    catalog: SessionCatalog, new_manager: NewManager, stored: Stored, sessions: Any
) -> None:
    new_manager(ttl=DAY)
    manager = new_manager()
    catalog.set_ttl("s-1", HOUR)
    sessions.update_one({}, {"$set": {"expires_at": in_time(HOUR / 2)}})
    # The next step of the ttl that it knows, up to an hour from now.
    manager._stores._operations.dates.lifetimes["s-1"].until = in_time(HOUR)

    manager.update_metadata({"a": 1})

    assert about(stored()["expires_at"], HOUR)
    assert stored()["ttl_seconds"] == 3600


@pytest.mark.parametrize("ttl", [HOUR, None])
def test_a_manager_that_is_open_gives_its_own_ttl_no_second_time(
    catalog: SessionCatalog, new_manager: NewManager, new_agent: NewAgent, stored: Stored, ttl: timedelta | None
) -> None:
    manager = new_manager(ttl=DAY)
    agent = new_agent(manager)
    catalog.set_ttl("s-1", ttl)

    for write in (lambda: manager.update_metadata({"a": 1}), lambda: agent("Hi"), lambda: agent("And?")):
        manager._stores._operations.dates.lifetimes["s-1"].until = None  # a date is due
        write()

    assert stored().get("ttl_seconds") == (ttl and 3600)
    assert "expires_at" not in stored() if ttl is None else about(stored()["expires_at"], HOUR)
    new_manager(ttl=DAY)
    assert stored()["ttl_seconds"] == 86_400


def test_an_id_is_not_a_query(catalog: SessionCatalog, put: Put, stored: Stored) -> None:
    put(session("$s.1", instance=ObjectId()))

    catalog.hold("$s.1")
    assert stored("$s.1")["held"] is True
    catalog.release("$s.1")
    assert catalog.set_ttl("$s.1", HOUR) == 1
    assert catalog.delete("$s.1").deleted


def test_a_fork_takes_the_place_of_a_session_that_has_expired(
    catalog: SessionCatalog, new_manager: NewManager, new_agent: NewAgent, sessions: Any
) -> None:
    new_agent(new_manager())("Hi")
    new_agent(new_manager("s-2", ttl=HOUR))("Old")
    expire(sessions, "s-2")

    fork = catalog.fork("s-1", "s-2")

    assert (fork.session_id, fork.messages) == ("s-2", 2)
    assert len(catalog.transcript("s-2", "default").messages) == 2
    with pytest.raises(SessionConflictError):
        catalog.fork("s-1", "s-2")
