"""Cursors: what they name comes back, and anything else is refused."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mongodb_session_manager._schema.catalog_filter import FIRST_MS, LAST_MS
from mongodb_session_manager._schema.cursors import Place, decode_cursor, encode_cursor
from mongodb_session_manager.errors import InvalidCursorError

IDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=256)
TIMES = st.integers(FIRST_MS, LAST_MS)
GOOD = {"v": 1, "s": "-updated_at", "f": "d", "i": "s-1", "t": 5}


def encoded(fields: Any, **how: Any) -> str:
    text = fields if isinstance(fields, str) else json.dumps(fields, **how)
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decoded(cursor: Any, sort: str = "-updated_at") -> Place:
    return decode_cursor(cursor, sort, "d", timed=sort != "session_id", numbered=sort == "feedback")


@given(IDS, TIMES)
def test_a_place_comes_back(session_id: str, at: int) -> None:
    place = Place(session_id, at)

    assert decoded(encode_cursor("-updated_at", "d", place)) == place


@given(IDS, TIMES, TIMES)
def test_an_end_comes_back(session_id: str, at: int, until: int) -> None:
    place = Place(session_id, at, until)

    assert decoded(encode_cursor("updated_at", "d", place), "updated_at") == place


@given(IDS, TIMES, st.integers(0, 2**53))
def test_an_entry_comes_back(session_id: str, at: int, number: int) -> None:
    place = Place(session_id, at, None, number)

    assert decoded(encode_cursor("feedback", "d", place), "feedback") == place


def test_the_longest_id_fits() -> None:
    for character in ("\x01", "x", "\U0010ffff"):
        place = Place(character * (1024 // len(character.encode())), FIRST_MS, LAST_MS)
        assert decoded(encode_cursor("updated_at", "d", place), "updated_at") == place


def test_no_cursor_is_the_beginning() -> None:
    assert decoded(None) == Place()
    assert decoded(encode_cursor("-updated_at", "d", Place())) == Place()


@given(st.text() | st.binary() | st.integers() | st.floats() | st.booleans())
def test_anything_else_is_refused(cursor: Any) -> None:
    with pytest.raises(InvalidCursorError):
        decoded(cursor)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_other_json_is_refused(fields: Any) -> None:
    with pytest.raises(InvalidCursorError):
        decoded(encoded(fields))


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2},
        {"v": True},
        {"v": 1.0},
        {"v": "1"},
        {"v": None},
        {"s": "session_id"},
        {"s": None},
        {"f": "e"},
        {"f": 1},
        {"i": 1},
        {"i": None},
        {"i": {"$gt": ""}},
        {"i": "x" * 1025},
        {"i": "\udc80"},
        {"t": None},
        {"t": "5"},
        {"t": 5.0},
        {"t": True},
        {"t": {"$gt": 0}},
        {"t": LAST_MS + 1},
        {"t": FIRST_MS - 1},
        {"t": 10**30},
        {"t": float("nan")},
        {"u": 5},
        {"n": 5},
        {"x": 1},
    ],
    ids=repr,
)
def test_a_changed_cursor_is_refused(change: dict[str, Any]) -> None:
    assert decoded(encoded(GOOD)) == Place("s-1", 5)
    with pytest.raises(InvalidCursorError):
        decoded(encoded({**GOOD, **change}))


@pytest.mark.parametrize("name", GOOD)
def test_a_cursor_that_lacks_a_field_is_refused(name: str) -> None:
    with pytest.raises(InvalidCursorError):
        decoded(encoded({key: value for key, value in GOOD.items() if key != name}))


@pytest.mark.parametrize(
    "cursor",
    [
        encoded(GOOD) + "=",
        encoded(GOOD) + "\n",
        " " + encoded(GOOD),
        encoded(GOOD)[:-1] + ("A" if encoded(GOOD)[-1] != "A" else "B"),
        encoded("[" * 10_000),
        encoded('{"v": 1' + "1" * 5_000 + "}"),
        encoded('{"v": 1, "v": 1, "s": "-updated_at", "f": "d", "i": "s", "t": 5}'),
        encoded({**GOOD, "i": "x" * 20_000}),
        base64.urlsafe_b64encode(b"\xff\xfe{}").decode().rstrip("="),
        "",
        "é",
    ],
    ids=range(11),
)
def test_a_text_that_is_no_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidCursorError) as caught:
        decoded(cursor)
    assert len(str(caught.value)) < 300


def test_a_cursor_is_safe_in_an_address() -> None:
    cursor = encode_cursor("-updated_at", "d", Place("\U0010ffff\xff?>~", 5))

    assert set(cursor) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
