"""How long a session lives: which ttl counts, and which date a write sets."""

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mongodb_session_manager._schema.expiry import Lifetime, check_ttl, expiry_date, has_expired, stored_ttl

AT = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=timezone.utc)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
CENTURY = timedelta(days=36_500)

ODD: list[Any] = [True, "3600", -1, 0, 59, 1e12, float("nan"), float("inf"), [3600], {}]

ttls = st.timedeltas(MINUTE, CENTURY)
times = st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=st.just(timezone.utc))


@pytest.mark.parametrize("ttl", [None, MINUTE, timedelta(days=30), CENTURY])
def test_what_may_be_a_ttl(ttl: timedelta | None) -> None:
    assert check_ttl(ttl) == ttl


@pytest.mark.parametrize("ttl", [60, 3600.0, "1 hour", True, False, [], {"seconds": 60}, datetime.now(timezone.utc)])
def test_a_ttl_of_a_wrong_type(ttl: object) -> None:
    with pytest.raises(TypeError, match=r"ttl must be a datetime.timedelta"):
        check_ttl(ttl)


@pytest.mark.parametrize(
    "ttl", [timedelta(0), -HOUR, MINUTE - timedelta(microseconds=1), CENTURY + timedelta(seconds=1), timedelta.max]
)
def test_a_ttl_out_of_range(ttl: timedelta) -> None:
    with pytest.raises(ValueError, match="ttl must be at least 1 minute and at most 100 years"):
        check_ttl(ttl)


@given(times, ttls)
def test_a_session_lives_at_least_as_long_as_its_ttl(at: datetime, ttl: timedelta) -> None:
    step = timedelta(seconds=min(max(1, ttl.total_seconds() / 64), 3600))

    assert at + ttl <= expiry_date(at, ttl) < at + ttl + step
    assert expiry_date(at, ttl).microsecond == 0


@given(times, ttls, st.floats(0, 1))
def test_nearly_all_writes_carry_no_date(at: datetime, ttl: timedelta, part: float) -> None:
    lifetime = Lifetime(ttl)
    lifetime.begun(at)
    step = min(max(timedelta(seconds=1), ttl / 64), HOUR)
    dates = [lifetime.due(at + number * step / 16) for number in range(17)]

    assert len(set(dates)) <= 3
    due = lifetime.due(at + part * ttl)
    if due is not None:
        lifetime.reached(due)
        assert lifetime.due(at + part * ttl) is None


@pytest.mark.parametrize(
    ("own", "stored", "ttl"),
    [
        (None, None, None),
        (HOUR, None, HOUR),
        (None, 3600, HOUR),
        (MINUTE, 3600, HOUR),
        (HOUR, 60, HOUR),
        *((None, odd, None) for odd in ODD),
    ],
)
def test_the_longest_ttl_counts(own: timedelta | None, stored: Any, ttl: timedelta | None) -> None:
    assert Lifetime(own, stored).ttl == ttl


def test_a_longer_ttl_is_stored_with_the_date() -> None:
    longer, shorter = Lifetime(HOUR, 60), Lifetime(MINUTE, 3600)

    assert longer.dated(({}, {}), AT)[1] == {"$max": {"expires_at": AT, "ttl_seconds": 3600}}
    assert shorter.dated(({}, {}), AT)[1] == {"$max": {"expires_at": AT}}


def test_an_opening_leaves_a_date_alone_that_is_far_enough_away() -> None:
    lifetime = Lifetime(HOUR)
    lifetime.begun(AT)

    assert lifetime.due_when_opened(AT + HOUR / 8) is None
    assert lifetime.due_when_opened(AT + HOUR / 7) is not None


def test_a_held_session_gets_no_date() -> None:
    lifetime = Lifetime(HOUR)
    lifetime.found({"held": True, "ttl_seconds": 3600}, AT)

    assert lifetime.due(AT) is None
    assert lifetime.due_when_opened(AT) is None
    assert lifetime.due(AT + timedelta(minutes=2)) is not None


def test_without_a_ttl_one_write_an_hour_asks_for_one() -> None:
    lifetime = Lifetime()
    lifetime.found({}, AT)

    assert lifetime.due(AT + HOUR - MINUTE) is None
    due = lifetime.due(AT + HOUR)
    assert due is not None
    assert lifetime.dated(({"_id": "s-1"}, {"$set": {}}), due) == (
        {"_id": "s-1", "ttl_seconds": {"$eq": None}},
        {"$set": {}},
    )
    lifetime.reached(due)
    assert lifetime.due(AT + HOUR + MINUTE) is None
    assert lifetime.found({"ttl_seconds": 3600, "expires_at": AT + 2 * HOUR}, AT + HOUR)
    assert lifetime.due(AT + 2 * HOUR) is not None


@pytest.mark.parametrize(
    ("session", "expired"),
    [
        ({}, False),
        ({"expires_at": AT}, True),
        ({"expires_at": AT + MINUTE}, False),
        *(({"expires_at": odd}, False) for odd in (None, 0, "2020-01-01", [AT])),
        ({"expires_at": AT, "expired": False}, False),
        ({"expires_at": AT + MINUTE, "expired": True}, True),
    ],
)
def test_what_the_server_says_counts(session: dict[str, Any], expired: bool) -> None:
    assert has_expired(session, AT) is expired


def test_a_ttl_in_its_stored_form() -> None:
    assert stored_ttl(90) == timedelta(seconds=90)
    assert stored_ttl(90.5) == timedelta(seconds=90.5)
