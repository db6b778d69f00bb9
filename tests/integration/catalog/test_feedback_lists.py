"""Feedback across sessions, with the turns that it is about."""

import random
from collections.abc import Callable
from datetime import timedelta
from enum import Enum
from typing import Any

import pytest
from bson import ObjectId, Regex

from mongodb_session_manager import FeedbackEntry, Page, SessionCatalog, SessionFilter
from mongodb_session_manager._stores.feedback import FEEDBACK_BYTES
from mongodb_session_manager.types import FeedbackCounts
from tests.aliases import Client, Insert, NewAgent, NewManager, Stored
from tests.conftest import COLLECTION
from tests.first_version import AT, legacy
from tests.integration.catalog.moving import move
from tests.integration.catalog.sessions import agent, at, ids, message, session, with_agent

Put = Callable[..., None]


class Rating(str, Enum):
    UP = "up"


def walk(catalog: Any, **how: Any) -> list[FeedbackEntry]:
    found, cursor = list[FeedbackEntry](), None
    while True:
        page: Page[FeedbackEntry] = catalog.feedback(cursor=cursor, **how)
        found, cursor = found + page.items, page.next_cursor
        if cursor is None:
            return found


def names(entries: list[FeedbackEntry]) -> list[Any]:
    return [entry.feedback.get("n") for entry in entries]


def test_feedback_of_a_real_session(catalog: SessionCatalog, new_manager: NewManager, new_agent: NewAgent) -> None:
    manager = new_manager()
    made = new_agent(manager, "Hello, you.", "Bye, you.", agent_id="support.v1")
    made("Hello")
    made("Bye")
    tracking_id = made.messages[3]["tracking_id"]
    manager.add_feedback({"rating": "up", "agent_id": "support.v1", "message_id": 1, "comment": "nice"})
    manager.add_feedback({"rating": "down", "tracking_id": tracking_id})
    manager.add_feedback({"rating": "up", "agent_id": "support.v1", "message_id": 2})
    manager.add_feedback({"stars": 3, "mail": {"a.b": 2**70}})

    general, prompt, tracked, first = catalog.feedback().items

    assert (first.session_id, first.agent_id, first.message_id) == ("s-1", "support.v1", 1)
    assert first.feedback == {"rating": "up", "agent_id": "support.v1", "message_id": 1, "comment": "nice"}
    assert (first.prompt, first.answer) == ("Hello", "Hello, you.")
    assert first.created_at is not None
    assert (tracked.agent_id, tracked.message_id, tracked.prompt, tracked.answer) == (
        *("support.v1", 3),
        *("Bye", "Bye, you."),
    )
    assert (prompt.message_id, prompt.prompt, prompt.answer) == (2, "Bye", None)
    assert (general.agent_id, general.message_id, general.prompt, general.answer) == (None, None, None, None)
    assert general.feedback == {"stars": 3, "mail": {"a.b": 2**70}}


def test_the_turn_begins_with_a_users_text(catalog: SessionCatalog, put: Put) -> None:
    use, result = {"toolUse": {"toolUseId": "t"}}, {"toolResult": {"toolUseId": "t", "content": []}}
    messages = [
        message(0, "user", "Old"),
        message(1, "user", "How warm", "is it? " + "x" * 2000),
        message(2, "assistant", use),
        message(3, "user", result),
        message(4, "assistant", "Warm.", "Very."),
    ]
    given = {"rating": "up", "agent_id": "a", "message_id": 4, "created_at": at(1)}
    put(with_agent("s-1", *messages, feedbacks=[given]))

    (entry,) = catalog.feedback().items

    assert entry.prompt == ("How warm\nis it? " + "x" * 2000)[:1000]
    assert entry.answer == "Warm.\nVery."


def test_a_turn_in_a_segment(catalog: SessionCatalog, new_manager: NewManager, new_agent: NewAgent) -> None:
    manager = new_manager()
    messages: list[Any] = [
        {"role": "assistant" if n % 2 else "user", "content": [{"text": f"text {n}"}], "tracking_id": f"t-{n}"}
        for n in range(120)
    ]
    new_agent(manager, agent_id="a", messages=messages)
    manager.add_feedback({"n": 0, "agent_id": "a", "message_id": 5})
    manager.add_feedback({"n": 1, "agent_id": "a", "tracking_id": "t-7"})
    manager.add_feedback({"n": 2, "tracking_id": "t-119"})
    move(manager)

    found = catalog.feedback().items

    assert [(entry.message_id, entry.prompt, entry.answer) for entry in found] == [
        (119, "text 118", "text 119"),
        (7, "text 6", "text 7"),
        (5, "text 4", "text 5"),
    ]
    assert {entry.agent_id for entry in found} == {"a"}


def test_newest_first_page_by_page(catalog: SessionCatalog, put: Put) -> None:
    """Many have equal times, some have none."""
    chance, made = random.Random(3), list[tuple[Any, str, int]]()
    for session_id in ("s-1", "s-2", "s-3"):
        entries = [{"n": f"{session_id}/{n}", "created_at": at(chance.randrange(4))} for n in range(9)]
        entries[4]["created_at"] = "no time"
        put(session(session_id, feedbacks=entries))
        made += [(entry["created_at"], session_id, n) for n, entry in enumerate(entries)]
    made.sort(key=lambda each: (at(-1) if isinstance(each[0], str) else each[0], *each[1:]), reverse=True)

    for limit in (1, 2, 5, 50):
        assert names(walk(catalog, limit=limit)) == [f"{session_id}/{n}" for _, session_id, n in made]
    assert [entry.created_at for entry in catalog.feedback().items][-3:] == [None] * 3


def test_moved_feedback_comes_in_its_place(catalog: SessionCatalog, put: Put, observer: Client, database: str) -> None:
    segments = [ObjectId(), ObjectId()]
    references = [{"_id": segment_id, "count": 4} for segment_id in segments]
    entries = [{"n": n, "rating": "down" if n % 2 else "up", "created_at": at(n // 3)} for n in range(11)]
    put(
        session("s-1", feedbacks=entries[8:], feedback_segments=references, feedback_counts={"up": 6, "down": 5}),
        session("s-2", feedbacks=[{"n": "other", "created_at": at(1)}]),
    )
    observer[database][f"{COLLECTION}_segments"].insert_many(
        {"_id": segment_id, "session_id": "s-1", "kind": "feedback", "items": entries[4 * n : 4 * n + 4]}
        for n, segment_id in enumerate(segments)
    )

    for limit in (1, 2, 3, 50):
        assert names(walk(catalog, limit=limit)) == [10, 9, 8, 7, 6, "other", 5, 4, 3, 2, 1, 0]
    assert names(walk(catalog, limit=2, rating="down")) == [9, 7, 5, 3, 1]
    assert names(walk(catalog, limit=2, since=at(3))) == [10, 9]


def test_feedback_that_has_really_moved(catalog: SessionCatalog, new_manager: NewManager) -> None:
    manager = new_manager()
    for number in range(5):
        manager.add_feedback({"n": number, "rating": "up", "comment": "x" * (FEEDBACK_BYTES // 2)})

    assert names(walk(catalog, limit=2)) == [4, 3, 2, 1, 0]
    assert names(walk(catalog.within(SessionFilter(id_prefix="s-1")), limit=2)) == [4, 3, 2, 1, 0]


def test_feedback_that_moves_between_two_pages(catalog: SessionCatalog, new_manager: NewManager) -> None:
    manager = new_manager()
    for number in range(4):
        manager.add_feedback({"n": number})
    first = catalog.feedback(limit=2)
    manager.add_feedback({"n": 4, "comment": "x" * FEEDBACK_BYTES})

    assert names(first.items + catalog.feedback(limit=9, cursor=first.next_cursor).items) == [3, 2, 1, 0]


def test_ratings_and_times(catalog: SessionCatalog, put: Put) -> None:
    ratings = ["up", "down", None, "fine", 5]
    entries = [{"n": n, "rating": rating, "created_at": at(n)} for n, rating in enumerate(ratings)]
    put(session("s-1", minute=9, feedbacks=[*entries, {"n": 5, "created_at": at(5)}]))

    assert names(catalog.feedback(rating="up").items) == [0]
    assert names(catalog.feedback(rating="down").items) == [1]
    assert names(catalog.feedback(rating="other").items) == [5, 4, 3, 2]
    assert names(catalog.feedback(since=at(4)).items) == [5, 4]
    assert names(catalog.feedback(since=at(4) + timedelta(microseconds=1)).items) == [5]
    assert names(catalog.feedback(SessionFilter(feedback="down"), rating="up").items) == [0]
    assert names(catalog.feedback(SessionFilter(id_prefix="t")).items) == []


def test_a_rating_may_be_a_member_of_an_enum(
    catalog: SessionCatalog, put: Put, observer: Client, database: str
) -> None:
    entries = [{"rating": rating, "n": n, "created_at": at(n)} for n, rating in enumerate(("up", "down", "up"))]
    put(session("s-1", feedbacks=entries, feedback_counts={"up": 2, "down": 1}))
    rating: Any = Rating.UP

    first = catalog.feedback(rating=rating, limit=1)
    assert names(first.items) == [2]
    assert names(catalog.feedback(rating="up", cursor=first.next_cursor).items) == [0]
    assert names(walk(catalog, rating=rating, limit=1)) == [2, 0]

    observer[database][COLLECTION].update_one({"_id": "s-1"}, {"$set": {"feedbacks": []}})
    assert ids(catalog.list(SessionFilter(feedback=rating))) == ["s-1"]


def test_a_cursor_of_another_rating_is_refused(catalog: SessionCatalog, put: Put) -> None:
    put(session("s-1", feedbacks=[{"rating": "up", "created_at": at(n)} for n in range(3)]))
    cursor = catalog.feedback(limit=1).next_cursor

    for read in (
        lambda: catalog.feedback(rating="up", cursor=cursor),
        lambda: catalog.feedback(SessionFilter(agent_id="a"), cursor=cursor),
        lambda: catalog.list(cursor=cursor),
    ):
        with pytest.raises(ValueError, match="another"):
            read()


def test_the_first_version(catalog: SessionCatalog, insert: Insert) -> None:
    insert(legacy(at=AT.isoformat()))

    (entry,) = catalog.feedback(since=AT).items

    assert (entry.feedback, entry.created_at) == ({"rating": "up", "comment": "good"}, AT)


def test_feedback_that_is_none(catalog: SessionCatalog, put: Put) -> None:
    odd: list[Any] = [
        5,
        "x",
        None,
        {"mark": {"%int": 5}},
        {"message_id": "x", "agent_id": 5},
        {"tracking_id": {"a": 1}},
    ]
    odd += [{"message_id": 2**40, "agent_id": "a"}, {"tracking_id": "$role"}]
    odd += [{"tracking_id": Regex("(")}, {"tracking_id": {"$gt": ""}}, {"n": 1, "created_at": at(1)}]
    put(
        session("s-1", feedbacks=odd, agents={"a": agent("a", message(0, "user", "Hi"))}),
        session("s-2", feedbacks={"0": {"n": 2}}, feedback_segments="x"),
        session(
            "s-3", feedbacks=[{"n": 3}], feedback_segments=[{"_id": 5, "count": "x"}, {"_id": ObjectId(), "count": 2}]
        ),
    )

    found = catalog.feedback().items

    assert names(found)[0] == 1
    assert (len(found), {entry.session_id for entry in found}) == (9, {"s-1", "s-3"})


def test_expired_sessions_have_no_feedback(catalog: SessionCatalog, put: Put) -> None:
    put(session("s-1", feedbacks=[{"n": 1, "created_at": at(1)}], expires_at=at(0).replace(year=2000)))

    assert catalog.feedback().items == []


def test_feedback_that_an_older_version_did_not_count_is_counted_when_it_moves(
    catalog: SessionCatalog, put: Put, new_manager: NewManager, stored: Stored
) -> None:
    ratings = ["up", "up", "down", 5, None]
    put(session("s-1", feedbacks=[{"rating": rating, "created_at": at(0)} for rating in ratings]))
    manager = new_manager()

    for _ in range(2):
        manager.add_feedback({"rating": "up", "comment": "x" * 300_000})

    assert (stored()["feedbacks"], len(stored()["feedback_segments"])) == ([], 2)
    assert catalog.get("s-1").feedback == FeedbackCounts(up=4, down=1, other=2)
    assert ids(catalog.list(SessionFilter(feedback="down"))) == ["s-1"]
