"""Values as JSON and UTF-8 carry them."""

import base64
import json
import math
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from bson import Decimal128, ObjectId
from bson.int64 import Int64
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mongodb_session_manager._schema.parts import json_form

forms = pytest.mark.parametrize("form", ["note", "base64", "sentence"])

HALVES = ("\ud83d", "\udc00", "\ufffd")
FINE = {"a": [1, -2.5, None, True, "ß 🦜", {"": {}}, []], "big": 2**70, "text": "\0 \ufffd"}


def carried(value: Any) -> Any:
    """Send a value the way a web framework does."""
    return json.loads(json.dumps(value, allow_nan=False, ensure_ascii=False).encode())


@forms
def test_what_json_carries_stays(form: str) -> None:
    found = json_form(FINE, form)

    assert found == carried(found) == FINE
    assert found is not FINE


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (math.nan, "NaN"),
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
        ("half \ud83d", "half \ufffd"),
        ("\udc00\ud83d\ude00", "\ufffd\U0001f600"),
        (datetime(2024, 5, 6, 7, 8, 9, 123000, timezone.utc), "2024-05-06T07:08:09.123000+00:00"),
        (datetime(2024, 5, 6, tzinfo=timezone(timedelta(hours=2))), "2024-05-06T00:00:00+02:00"),
        (ObjectId("0123456789abcdef01234567"), "0123456789abcdef01234567"),
        (Decimal128("1.10"), "1.10"),
        (Int64(5), 5),
        (2**64, 2**64),
        ((1, (2,)), [1, [2]]),
        ({1: "a", 2.5: "b", None: "d"}, {"1": "a", "2.5": "b", "null": "d"}),
        ({True: 0, False: 1, math.nan: 2, math.inf: 3}, {"true": 0, "false": 1, "NaN": 2, "Infinity": 3}),
        ({1: "number", "1": "text"}, {"1'": "number", "1": "text"}),
        ({"1": "text", 1: "number"}, {"1": "text", "1'": "number"}),
        ({None: 1, "null": 2, "null'": 3}, {"null''": 1, "null": 2, "null'": 3}),
        (dict(zip(HALVES, (1, 2, 3), strict=True)), {"\ufffd'": 1, "\ufffd''": 2, "\ufffd": 3}),
    ],
)
@forms
def test_what_json_does_not_carry(form: str, value: Any, expected: Any) -> None:
    found = json_form(value, form)

    assert found == expected
    assert carried(found) == expected


def test_numbers_that_python_does_not_write() -> None:
    assert json_form([16**5000, -(16**5000)], "note") == ["0x1" + "0" * 5000, "-0x1" + "0" * 5000]


@pytest.mark.parametrize(
    ("block", "media_type"),
    [
        ({"image": {"format": "png"}}, "image/png"),
        ({"image": {"format": "jpeg"}}, "image/jpeg"),
        ({"video": {"format": "mp4"}}, "video/mp4"),
        ({"audio": {"format": "wav"}}, "audio/wav"),
        ({"document": {"format": "pdf"}}, "application/pdf"),
        ({"document": {"format": "md"}}, "text/markdown"),
        ({"document": {"format": "other"}}, "application/octet-stream"),
        ({"image": {"format": None}}, "application/octet-stream"),
        ({"image": {}}, "application/octet-stream"),
        ({"mine": {"format": "png"}}, "application/octet-stream"),
    ],
    ids=repr,
)
def test_bytes_in_a_block(block: dict[str, Any], media_type: str) -> None:
    ((kind, media),) = block.items()
    content = [{"toolResult": {"content": [{kind: {**media, "source": {"bytes": b"\0" * 12_345}}}]}}]

    (note,) = json_form(content, "note")[0]["toolResult"]["content"]
    (text,) = json_form(content, "base64")[0]["toolResult"]["content"]

    assert note == {kind: {**media, "source": {"bytes": {"type": media_type, "size": 12_345}}}}
    assert base64.b64decode(text[kind]["source"]["bytes"]) == b"\0" * 12_345


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_of_any_kind(kind: type) -> None:
    assert json_form([kind(b"abc")], "note") == [{"type": "application/octet-stream", "size": 3}]
    assert json_form([kind(b"abc")], "base64") == ["YWJj"]
    assert json_form([kind(b"abc")], "sentence") == ["<3 bytes>"]


@st.composite
def anything(draw: st.DrawFn) -> Any:
    text = st.text()
    surrogates = st.text(st.sampled_from("a\ud800\udfff🦜"))
    leaves = st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), text, surrogates, st.binary(), st.datetimes()
    )
    keys = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), text, surrogates)
    return draw(st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(keys, inner), max_leaves=20))


def size(value: Any) -> int:
    """Count the entries of all mappings and lists."""
    if isinstance(value, dict):
        return len(value) + sum(map(size, value.values()))
    return len(value) + sum(map(size, value)) if isinstance(value, list) else 0


# Other processes may hold the machine up; how long a value takes to make is not tested here.
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(value=anything())
def test_anything_is_carried_and_nothing_is_lost(value: Any) -> None:
    found = json_form(value, "base64")

    assert carried(found) == found
    assert size(found) == size(value)
