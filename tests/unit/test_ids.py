"""Ids and field names: what may be one, and how it is stored."""

from datetime import datetime, timedelta, timezone

import bson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mongodb_session_manager._schema.ids import agent_path, check_id, multi_agent_path, now
from mongodb_session_manager._schema.values import escape_key, unescape_key

# Pieces of the marks, so that keys which look like something escaped come up often.
PIECES = ["%", "%%", ".", "$", "\0", "\ud800", "2E", "24", "25", "00", "5F", "u", "D800", "empty", "int", "bson"]
PIECES += ["text", "datetime", "_", "__bytes_encoded__", "_bytes_encoded__", "a", "é"]
marked = st.lists(st.sampled_from(PIECES), max_size=6).map("".join)
keys = st.text(st.characters(exclude_categories=()), max_size=10) | marked


# Field names


@settings(deadline=None, max_examples=400)
@given(keys)
@example("")
@example("%empty")
@example("%25empty")
@example("__bytes_encoded__")
@example("%5F_bytes_encoded__")
def test_escaping_is_reversible(key: str) -> None:
    assert unescape_key(escape_key(key)) == key


@settings(deadline=None, max_examples=400)
@given(marked, marked)
def test_no_two_keys_share_a_field_name(one: str, other: str) -> None:
    assert (escape_key(one) == escape_key(other)) == (one == other)


@settings(deadline=None, max_examples=400)
@given(keys)
@example("")
def test_a_field_name_is_fit_for_a_path(key: str) -> None:
    name = escape_key(key)

    assert name
    assert not set(name) & {".", "$", "\0"}
    assert bson.decode(bson.encode({name: 1})) == {name: 1}


@settings(deadline=None)
@given(keys)
def test_a_field_name_escapes_to_another(key: str) -> None:
    """What was escaped once and is escaped again by mistake must not look right."""
    name = escape_key(key)

    assert (escape_key(name) == name) == (name == key)


@pytest.mark.parametrize(
    "key", ["a", "50%", "%", "snake_case", "_id", "日本", "a b", "%2e", "UPPER", "0", "__x__", "-"]
)
def test_plain_keys_stay_readable(key: str) -> None:
    assert escape_key(key) == key


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("a.b", "a%2Eb"),
        ("$x", "%24x"),
        ("%2E", "%252E"),
        ("\0", "%00"),
        ("", "%empty"),
        ("\ud800", "%uD800"),
        ("%int", "%25int"),
        ("__bytes_encoded__", "%5F_bytes_encoded__"),
    ],
    ids=ascii,
)
def test_escaped_names_are_stable(key: str, name: str) -> None:
    """They are stored: a change would lose sight of them."""
    assert (escape_key(key), unescape_key(name)) == (name, key)


@settings(deadline=None)
@given(marked.filter(bool))
def test_a_path_has_one_segment_for_an_id(agent_id: str) -> None:
    assert agent_path(agent_id, "messages").split(".") == ["agents", escape_key(agent_id), "messages"]
    assert multi_agent_path(agent_id, "state").split(".") == ["multi_agents", escape_key(agent_id), "state"]


# Ids


@pytest.mark.parametrize(
    "value", ["a", " ", "a.b", "$where", "%", "日本", "🙂", "a/b\\c", "\n", "x" * 1024, "é" * 512, "0", "\ufeff"]
)
def test_an_id_is_any_short_text(value: str) -> None:
    assert check_id("session_id", value) == value


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("", "empty"),
        ("\0", "NUL"),
        ("a\0b", "NUL"),
        ("\ud800", "Unicode"),
        ("a\udfffb", "Unicode"),
        ("x" * 1025, "1,?024 bytes"),
        ("é" * 513, "1,?024 bytes"),
        ("x" * 1_000_000, "1,?024 bytes"),
    ],
    ids=["empty", "nul", "nul_inside", "surrogate", "surrogate_inside", "long", "long_in_utf8", "very_long"],
)
def test_other_text_is_a_value_error(value: str, reason: str) -> None:
    with pytest.raises(ValueError, match=rf"^session_id must .*{reason}") as caught:
        check_id("session_id", value)

    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("value", [None, 1, b"a", {"$ne": None}, ["a"], ("a",), ..., True], ids=repr)
def test_an_id_that_is_no_text_is_a_type_error(value: object) -> None:
    with pytest.raises(TypeError, match=f"^agent_id must be a string, got {type(value).__name__}$"):
        check_id("agent_id", value)


def test_now_is_a_time_that_bson_keeps() -> None:
    at = now()

    assert bson.decode(bson.encode({"at": at}), codec_options=bson.CodecOptions(tz_aware=True)) == {"at": at}
    assert abs(datetime.now(timezone.utc) - at) < timedelta(minutes=1)
