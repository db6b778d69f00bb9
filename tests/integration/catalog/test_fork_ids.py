"""The id of a fork, that others delete, fork onto or had before: nothing of the fork is lost."""

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from mongodb_session_manager import SessionCatalog
from mongodb_session_manager.errors import SessionConflictError
from tests.aliases import Client, History, NewAgent, NewManager, Stored
from tests.conftest import COLLECTION
from tests.expiring import HOUR, expire, without_ttl_monitor
from tests.integration.stores.test_new_lives import Interruption

SESSION, FORK = "s-1", "fork"
LARGE: Any = {"document": {"format": "pdf", "name": "report", "source": {"bytes": b"d" * 300_000}}}

pytestmark = pytest.mark.limits(kept_messages=2)


@pytest.fixture
def texts(new_manager: NewManager, new_agent: NewAgent) -> list[Any]:
    """The messages of a session with segments and files."""
    manager = new_manager()
    agent = new_agent(manager, state={"large": "s" * 300_000})
    for text in ("One", "Two"):
        agent([LARGE, {"text": text}])
        agent("And?")
        manager._agents.live()[0].history.move_oldest()
    return [message["content"] for message in agent.messages]


@pytest.fixture
def is_whole(new_manager: NewManager, history: History, texts: list[Any]) -> Callable[[str], bool]:
    """Whether a session can be read, and has every message."""

    def read(session_id: str) -> bool:
        listed = [message["content"] for message in new_manager(session_id).list_messages("default")]
        return listed == texts

    return read


def rest_of(observer: Client, database: str, session_id: str) -> int:
    found = observer[database]
    return int(
        found[f"{COLLECTION}_segments"].count_documents({"session_id": session_id})
        + found[f"{COLLECTION}_files.files"].count_documents({"metadata.session_id": session_id})
    )


@pytest.mark.parametrize("verb", ["delete", "delete_session"])
def test_a_deletion_of_what_is_not_there_yet(
    verb: str,
    interrupted: SessionCatalog,
    catalog: SessionCatalog,
    new_manager: NewManager,
    interruption: Interruption,
    is_whole: Callable[[str], bool],
    stored: Stored,
    observer: Client,
    database: str,
) -> None:
    repository = new_manager().session_repository
    delete: Any = {"delete": catalog.delete, "delete_session": repository.delete_session}[verb]
    for number in itertools.count(1):
        with interruption.before(number, lambda: delete(FORK)):
            interrupted.fork(SESSION, FORK)
        if stored(FORK) is None:  # deleted after it was there
            assert rest_of(observer, database, FORK) == 0
        else:
            assert is_whole(FORK)
            catalog.delete(FORK)
        if not interruption.happened:
            break

    assert number > 6


def test_a_deletion_that_waits_until_the_fork_is_made(
    mongodb_uri: str,
    database: str,
    interrupted: SessionCatalog,
    catalog: SessionCatalog,
    interruption: Interruption,
    is_whole: Callable[[str], bool],
    stored: Stored,
    observer: Client,
) -> None:
    """The deletion begins at a step of the fork, and stops at one of its own until the fork is over."""
    waiting = Interruption()
    with (
        Client(mongodb_uri, tz_aware=True, event_listeners=[waiting]) as client,
        SessionCatalog(client=client, database_name=database) as other,
        ThreadPoolExecutor() as threads,
    ):
        for number, step in itertools.product(range(4, 12), range(1, 9)):
            stopped, is_over = threading.Event(), threading.Event()
            deletions: list[Future[Any]] = []

            def stop() -> None:
                stopped.set()  # noqa: B023 - called in this round
                is_over.wait(10)  # noqa: B023

            def delete() -> None:
                future = threads.submit(other.delete, FORK)
                future.add_done_callback(lambda _: stopped.set())  # noqa: B023
                deletions.append(future)  # noqa: B023
                stopped.wait(10)  # noqa: B023

            with waiting.before(step, stop):
                with interruption.before(number, delete):
                    interrupted.fork(SESSION, FORK)
                is_over.set()
                for deletion in deletions:
                    deletion.result(10)
            if stored(FORK) is not None:
                assert is_whole(FORK)
            catalog.delete(FORK)
            assert rest_of(observer, database, FORK) == 0


@pytest.mark.parametrize("there", [False, True])
def test_a_fork_at_each_step_of_a_deletion(
    there: bool,
    interrupted: SessionCatalog,
    catalog: SessionCatalog,
    interruption: Interruption,
    is_whole: Callable[[str], bool],
    observer: Client,
    database: str,
    stored: Stored,
) -> None:
    def fork() -> None:
        with suppress(SessionConflictError):
            catalog.fork(SESSION, FORK)

    for number in itertools.count(1):
        if there:
            catalog.fork(SESSION, FORK)
        with interruption.before(number, fork):
            interrupted.delete(FORK)
        if stored(FORK) is not None:
            assert is_whole(FORK)
        catalog.delete(FORK)
        assert rest_of(observer, database, FORK) == 0
        if not interruption.happened:
            break

    assert number > 2


def test_two_forks_onto_one_id(
    interrupted: SessionCatalog,
    catalog: SessionCatalog,
    interruption: Interruption,
    is_whole: Callable[[str], bool],
    observer: Client,
    database: str,
) -> None:
    def fork() -> None:
        with suppress(SessionConflictError):
            catalog.fork(SESSION, FORK)

    for number in itertools.count(1):
        with suppress(SessionConflictError), interruption.before(number, fork):
            interrupted.fork(SESSION, FORK)
        assert is_whole(FORK)
        catalog.delete(FORK)
        assert rest_of(observer, database, FORK) == 0
        if not interruption.happened:
            break

    assert number > 6


def test_an_id_that_has_expired(
    catalog: SessionCatalog,
    new_manager: NewManager,
    new_agent: NewAgent,
    is_whole: Callable[[str], bool],
    observer: Client,
    database: str,
    stored: Stored,
) -> None:
    with without_ttl_monitor(observer):
        new_agent(new_manager(FORK, ttl=HOUR))([LARGE])
        old = stored(FORK)["instance"]
        expire(observer[database][COLLECTION], FORK)

        catalog.fork(SESSION, FORK)

    assert is_whole(FORK)
    assert catalog.get(FORK).forked_from is not None
    assert observer[database][f"{COLLECTION}_files.files"].count_documents({"metadata.instance": old}) == 0
