"""The search for a text."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from pymongo.errors import ExecutionTimeout

from mongodb_session_manager import SessionCatalog, SessionFilter
from mongodb_session_manager._stores.session_lists import SessionLists
from mongodb_session_manager._stores.text_search import TextSearch
from tests.aliases import Client, Failing, Insert, NewAgent, NewManager
from tests.conftest import COLLECTION
from tests.first_version import legacy
from tests.integration.catalog.sessions import agent, at, ids, message, session, with_agent
from tests.integration.stores.test_new_lives import Interruption

Put = Callable[..., None]


def found(catalog: Any, text: str, **more: Any) -> list[str]:
    given = SessionFilter(text=text, **more)
    listed = ids(catalog.list(given, sort="session_id"))
    assert ids(list(catalog.iterate(given, batch=1))) == listed
    return listed


def test_a_text_of_a_real_session(catalog: SessionCatalog, new_manager: NewManager, new_agent: NewAgent) -> None:
    for number in range(3):
        new_agent(new_manager(f"s-{number}"), f"The answer is {number}.")(f"Question {number}?")

    assert found(catalog, "ANSWER is 1") == ["s-1"]
    assert found(catalog, "question") == ["s-0", "s-1", "s-2"]
    assert found(catalog, "nothing of this") == []


@pytest.mark.parametrize(
    "text",
    [
        "a.c",
        "(",
        "[x",
        "\\",
        "^a$",
        "a|b",
        ".*",
        "{2}",
        "a b",
        "\\E",
        "(?i)",
        "#",
        "é",
        "\N{GRINNING FACE}",
        "\0",
        "\n",
        "-",
        "~&",
    ],
)
def test_a_text_is_literal(catalog: SessionCatalog, put: Put, text: str) -> None:
    put(with_agent("s-1", message(0, "user", f"<{text}>")), with_agent("s-2", message(0, "user", "abc aac 2 xx E i")))

    assert found(catalog, f"<{text}>") == ["s-1"]
    assert found(catalog, text) == [each for each in ["s-1", "s-2"] if re.escape(text) and holds(each, text)]


def holds(session_id: str, text: str) -> bool:
    return session_id == "s-1" or text in "abc aac 2 xx E i"


def test_case_is_that_of_unicode(catalog: SessionCatalog, put: Put) -> None:
    put(with_agent("s-1", message(0, "user", "ÜBER ΣΟΦΙΑ")))

    assert found(catalog, "über σοφια") == ["s-1"]


def test_every_live_message_of_every_agent(catalog: SessionCatalog, put: Put) -> None:
    messages = [message(n, "user", f"text {n}", f"more {n}") for n in range(20)]
    put(session("s-1", agents={"a": agent("a", message(0, "user", "x")), "b%2Ec": agent("b.c", *messages)}))

    assert found(catalog, "text 0") == found(catalog, "more 19") == ["s-1"]


def test_a_first_version_session_is_searched(catalog: SessionCatalog, insert: Insert) -> None:
    insert(legacy())

    assert found(catalog, "LOOKING") == ["s-1"]


def test_what_is_not_searched(catalog: SessionCatalog, put: Put) -> None:
    mark = {"text": {"%text": "hidden\udc80".encode("utf-8", "surrogatepass")}}
    put(with_agent("s-1", message(0, "user", mark, {"text": {"%file": {"length": 3, "kind": "text"}}})))

    assert found(catalog, "hidden") == []


def test_a_redacted_text_is_not_found(catalog: SessionCatalog, new_manager: NewManager, new_agent: NewAgent) -> None:
    manager = new_manager()
    made = new_agent(manager)
    made("My secret")
    manager.append_message({"role": "user", "content": [{"text": "another secret"}]}, made)
    manager.redact_latest_message({"role": "user", "content": [{"text": "redacted"}]}, made)

    assert found(catalog, "another secret") == []
    assert found(catalog, "redacted") == ["s-1"]


@pytest.mark.parametrize("sort", ["session_id", "-updated_at", "updated_at", "created_at"])
def test_pages_of_a_search(catalog: SessionCatalog, put: Put, sort: Any) -> None:
    put(*(with_agent(f"s-{n:02}", message(0, "user", f"needle {n}" if n % 3 else "hay")) for n in range(30)))
    given, cursor, seen, examined = SessionFilter(text="needle"), None, list[str](), 0
    while True:
        page = catalog.list(given, sort=sort, limit=4, cursor=cursor)
        seen, examined, cursor = seen + ids(page), examined + page.examined, page.next_cursor
        if cursor is None:
            break

    assert sorted(seen) == [f"s-{n:02}" for n in range(30) if n % 3]
    assert examined == 30


def limited(catalog: SessionCatalog, **limits: int) -> SessionCatalog:
    """Give a catalog a search with other limits."""
    reads = catalog._stores.reads
    catalog._stores.lists = SessionLists(reads, TextSearch(reads, **limits))
    return catalog


def test_a_search_is_limited_and_goes_on(catalog: SessionCatalog, put: Put) -> None:
    put(*(with_agent(f"s-{n:02}", message(0, "user", "needle" if n == 25 else "hay")) for n in range(30)))
    limited(catalog, candidates=10)
    given = SessionFilter(text="needle")

    first = catalog.list(given, sort="session_id")
    second = catalog.list(given, sort="session_id", cursor=first.next_cursor)
    third = catalog.list(given, sort="session_id", cursor=second.next_cursor)

    assert [(ids(page), page.examined) for page in (first, second, third)] == [([], 10), ([], 10), (["s-25"], 10)]
    assert third.next_cursor is None
    assert ids(list(catalog.iterate(given, batch=3))) == ["s-25"]


def test_a_search_is_limited_by_bytes(catalog: SessionCatalog, put: Put) -> None:
    put(*(with_agent(f"s-{n}", message(0, "user", "x" * 10_000)) for n in range(9)))

    page = limited(catalog, most_bytes=25_000).list(SessionFilter(text="needle"))

    assert (page.examined, page.next_cursor is None) == (2, False)
    assert limited(catalog, most_bytes=1).list(SessionFilter(text="needle")).examined == 1


@pytest.mark.parametrize("limit", [1, 2, 9])
def test_a_session_that_is_written_during_a_search_comes_last_and_hides_no_other(
    interrupted: SessionCatalog,
    interruption: Interruption,
    put: Put,
    observer: Client,
    database: str,
    limit: int,
) -> None:
    put(*(with_agent(f"s-{n}", message(0, "user", "needle"), minute=n) for n in range(5)))
    limited(interrupted, candidates=2)
    written = {"$set": {"updated_at": at(9)}}
    seen, cursor = list[str](), None

    with interruption.before(2, lambda: observer[database][COLLECTION].update_one({"_id": "s-0"}, written)):
        for _ in range(9):
            page = interrupted.list(SessionFilter(text="needle"), sort="updated_at", limit=limit, cursor=cursor)
            seen, cursor = seen + ids(page), page.next_cursor
            if cursor is None:
                break

    assert seen == ["s-1", "s-2", "s-3", "s-4", "s-0"]


@pytest.mark.parametrize("skipped", [0, 1])
def test_a_search_that_takes_too_long_says_so_and_goes_on(
    catalog: SessionCatalog, put: Put, failing: Failing, skipped: int
) -> None:
    put(*(with_agent(f"s-{n}", message(0, "user", "needle")) for n in range(3)))
    given = SessionFilter(text="needle")
    with failing("aggregate", mode={"skip": skipped}, errorCode=50):
        page = catalog.list(given, sort="session_id")
        with pytest.raises(ExecutionTimeout):
            list(catalog.iterate(given))

    assert (page.items, page.examined) == ([], 0)
    assert ids(catalog.list(given, sort="session_id", cursor=page.next_cursor)) == ["s-0", "s-1", "s-2"]


def test_a_search_that_takes_too_long_later_keeps_what_was_found(
    catalog: SessionCatalog, put: Put, failing: Failing
) -> None:
    put(*(with_agent(f"s-{n}", message(0, "user", "needle")) for n in range(9)))
    limited(catalog, batch_bytes=1000)
    given = SessionFilter(text="needle")
    with failing("getMore", errorCode=50):
        page = catalog.list(given, sort="session_id")

    assert 0 < page.examined == len(page.items) < 9
    rest = catalog.list(given, sort="session_id", cursor=page.next_cursor)
    assert ids(page) + ids(rest) == [f"s-{n}" for n in range(9)]


def test_a_scope_holds_for_a_search(catalog: SessionCatalog, put: Put) -> None:
    put(*(with_agent(f"s-{n}", message(0, "user", "needle"), metadata={"tenant": n}) for n in (1, 2)))

    assert found(catalog.within(SessionFilter(metadata={"tenant": 1})), "needle") == ["s-1"]
    assert found(catalog, "needle", metadata={"tenant": 2}) == ["s-2"]
