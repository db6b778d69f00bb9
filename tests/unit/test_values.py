"""Whatever the SDK can put into a message or a state comes back equal, through real BSON."""

import base64
import copy
import hashlib
import math
import re
import uuid
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Any, cast

import bson
import pytest
from bson import Binary
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from strands.types.content import Message
from strands.types.session import SessionAgent

from mongodb_session_manager._schema.blobs import Files, offload, offload_edit, put_back_values
from mongodb_session_manager._schema.limits import LIMITS, Limits
from mongodb_session_manager._schema.messages import (
    AGENT_FIELDS,
    MessageEdit,
    agent_data_doc,
    decode_message,
    message_doc,
    message_record,
    redaction,
    replacement,
    session_agent,
    session_message,
    with_blocks,
)
from mongodb_session_manager._schema.values import CODEC_OPTIONS, decode, encode
from mongodb_session_manager.errors import UnstorableValueError

AT = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=timezone.utc)
LATER = datetime(2026, 1, 2, 3, 5, tzinfo=timezone.utc)
LABEL = "Agent 'a' of session 's', message 7"

MARKS = ["%int", "%text", "%datetime", "%bson", "%file", "%empty", "%2E", "%24", "%25", "%00", "%5F", "%uD800"]
ODD_KEYS = [
    *MARKS,
    "",
    ".",
    "..",
    "a.b",
    "$",
    "$set",
    "$ref",
    "$id",
    "$db",
    "%",
    "%%",
    "%2",
    "%u",
    "%2e",
    "%ud800",
    "%uDFFF",
    "%25%25",
    "50%",
    "50%2E",
    "100%int",
    "\0",
    "a\0b",
    "\ud800",
    "\udfff x",
    "__bytes_encoded__",
    "_",
    "__",
    "%5F_bytes_encoded__",
    "data",
    "_id",
    "日本",
    "🙂",
]


def through_bson(value: Any) -> Any:
    raw = bson.encode({"value": encode(value, "here")})
    return decode(bson.decode(raw, codec_options=CODEC_OPTIONS)["value"])


def stored_through_bson(stored: Mapping[str, Any]) -> Any:
    return bson.decode(bson.encode(stored), codec_options=CODEC_OPTIONS)


def assert_same(found: Any, expected: Any) -> None:
    """Compare types and the order of keys too; not recursive, for values that are nested deeply."""
    waiting = [(found, expected)]
    while waiting:
        one, other = waiting.pop()
        assert type(one) is type(other)
        if isinstance(one, dict):
            # 1, 1.0 and True are equal, as are 0.0 and -0.0.
            assert repr(list(one)) == repr(list(other))
            waiting += zip(one.values(), other.values(), strict=True)
        elif isinstance(one, list):
            assert len(one) == len(other)
            waiting += zip(one, other, strict=True)
        elif isinstance(one, float):
            assert repr(one) == repr(other)
        elif isinstance(one, datetime):
            assert (one, one.utcoffset()) == (other, other.utcoffset())
        else:
            assert one == other


def nested(depth: int, wrap: Callable[[int, Any], Any]) -> Any:
    value: Any = "core"
    for level in range(depth):
        value = wrap(level, value)
    return value


# With lone surrogates, which Hypothesis leaves out of a plain st.text().
texts = st.text(st.characters(exclude_categories=()), max_size=8)
keys = texts | st.sampled_from(ODD_KEYS) | st.lists(st.sampled_from(ODD_KEYS), max_size=3).map("".join)
# Two NaN are two keys, which nothing could tell apart.
json_keys = (
    keys
    | st.integers(-(2**200), 2**200)
    | st.floats(allow_nan=False)
    | st.booleans()
    | st.none()
    | st.sampled_from(["%bson:1", "%bson:true", "%bson:null", "%bson:", "1", "true", "null", "1.5", "nan"])
)
# Whole seconds, the finest that time zones have: Python itself loses an offset of microseconds in ISO 8601.
offsets = st.integers(-86_399, 86_399).map(lambda seconds: timezone(timedelta(seconds=seconds)))
datetimes = (
    st.datetimes()
    | st.datetimes(timezones=st.just(timezone.utc))
    | st.datetimes(timezones=offsets)
    | st.sampled_from([AT, AT.replace(tzinfo=None), AT.replace(microsecond=1)])
)
integers = st.integers(-(2**200), 2**200) | st.sampled_from(
    [sign * 2**power + more for sign in (1, -1) for power in (31, 32, 53, 63, 64, 200) for more in (-1, 0, 1)]
)
values = st.recursive(
    st.none() | st.booleans() | integers | st.floats() | texts | st.binary(max_size=8) | datetimes,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(json_keys, inner, max_size=4),
    max_leaves=12,
)


# Values


@settings(deadline=None, max_examples=400)
@given(values)
@example({"$ref": "#/$defs/x", "$id": 1, "$db": "d", "more": 2})
@example({"__bytes_encoded__": True, "data": "aGVsbG8="})
@example({"%int": "0x1"})
@example({"%text": b"x", "b": {"%bson": b"y"}})
def test_any_value_comes_back_the_same(value: Any) -> None:
    assert_same(through_bson(value), value)


@settings(deadline=None)
@given(values)
def test_encoding_leaves_the_value_alone(value: Any) -> None:
    before = copy.deepcopy(value)

    encode(value, "here")

    assert_same(value, before)


@pytest.mark.parametrize("key", ODD_KEYS, ids=ascii)
def test_any_key_comes_back(key: str) -> None:
    value = {key: 1, "other": {key: [{key: None}]}}

    assert_same(through_bson(value), value)


@pytest.mark.parametrize("key", ODD_KEYS, ids=ascii)
def test_an_only_key_is_never_taken_for_a_mark(key: str) -> None:
    for content in ("0x1", b"x", "2026-01-01", True, {"data": "aGVsbG8="}):
        assert_same(through_bson({key: content}), {key: content})


def test_all_odd_keys_live_side_by_side() -> None:
    value = {key: number for number, key in enumerate(ODD_KEYS)}

    assert_same(through_bson(value), value)


@pytest.mark.parametrize(
    "number",
    [0, 1, -1, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**200, -(2**200)],
)
def test_any_integer_comes_back_as_an_int(number: int) -> None:
    assert_same(through_bson([number, {"n": number}]), [number, {"n": number}])


@pytest.mark.parametrize("value", [True, False, 1, 0, 1.0, 0.0, -0.0, math.inf, -math.inf, math.nan, 5e-324])
def test_a_number_keeps_its_type(value: float) -> None:
    assert_same(through_bson({"v": value}), {"v": value})


@pytest.mark.parametrize(
    "at",
    [
        datetime(1, 1, 1),
        datetime(1, 1, 1, tzinfo=timezone.utc),
        datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))),
        datetime(9999, 12, 31, 23, 59, 59, 999_999),
        datetime(9999, 12, 31, 23, 59, 59, 999_000, tzinfo=timezone.utc),
        datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=timezone.utc),
        datetime(9999, 12, 31, 23, 59, 59, tzinfo=timezone(timedelta(hours=-12))),
        datetime(1969, 12, 31, 23, 59, 59, 1, tzinfo=timezone.utc),
        datetime(2026, 1, 2, 3, 4, 5, 6),
        datetime(2026, 1, 2, 3, 4, 5, 6_000, tzinfo=timezone(timedelta(hours=5, minutes=30))),
        datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(seconds=-3601))),
    ],
    ids=str,
)
def test_any_datetime_comes_back(at: datetime) -> None:
    assert_same(through_bson({"at": [at]}), {"at": [at]})


@pytest.mark.parametrize("at", [AT, AT.replace(year=1), AT.replace(year=9999)], ids=str)
def test_a_plain_utc_datetime_is_stored_as_a_date(at: datetime) -> None:
    assert encode(at, "here") == at


@pytest.mark.parametrize("text", ["", "日本 🙂", "a\0b", "\ud800", "x\udfff y", "%int", "$x"], ids=ascii)
def test_any_text_comes_back(text: str) -> None:
    assert_same(through_bson({"t": [text]}), {"t": [text]})


@pytest.mark.parametrize("depth", [99, 100, 101, 150, 199, 200, 201, 250])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda level, inner: {"k": inner},
        lambda level, inner: [inner],
        lambda level, inner: [inner] if level % 2 else {"k": inner, "$n": 2**63, "b": b"x"},
    ],
    ids=["dicts", "lists", "mixed"],
)
def test_deep_nesting_comes_back(depth: int, wrap: Callable[[int, Any], Any]) -> None:
    value = nested(depth, wrap)

    assert_same(through_bson(value), value)


@pytest.mark.parametrize("depth", [260, 400, 5000])
def test_nesting_that_could_not_be_read_back_is_refused(depth: int) -> None:
    with pytest.raises(UnstorableValueError, match=r"^here cannot be stored: .*nested deeper than 256 levels"):
        encode(nested(depth, lambda level, inner: [inner]), "here")


def test_deep_nesting_is_stored_flat_enough_for_a_server() -> None:
    stored: Any = encode(nested(250, lambda level, inner: {"k": inner}), "here")
    depth = 0
    while isinstance(stored, dict):
        stored = next(iter(stored.values()))
        depth += 1

    assert depth < 180


def test_plain_values_stay_readable() -> None:
    value = {"city": "Köln", "50%": 1, "a_b": [1, 1.5, None, True, b"x"], "at": AT, "_id": "x"}

    assert_same(encode(value, "here"), value)


class Colour(str, Enum):
    RED = "red"


class Size(IntEnum):
    BIG = 3


class Ratio(float, Enum):
    HALF = 0.5


class Name(str):
    __slots__ = ()


class Digest(bytes):
    __slots__ = ()


class Stamp(datetime):
    """Writes itself in another way, as those of data frames do."""

    def isoformat(self, *args: Any, **options: Any) -> str:
        return "a stamp"


class NoTime(Stamp):
    """Takes the place of a missing time in a data frame."""

    def __ne__(self, other: object) -> bool:
        return True

    __hash__ = datetime.__hash__


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Colour.RED, "red"),
        (Size.BIG, 3),
        (Ratio.HALF, 0.5),
        ({Colour.RED: 1}, {"red": 1}),
        (Name("a.b"), "a.b"),
        ({Name("a.b"): 1}, {"a.b": 1}),
        (Name("\ud800"), "\ud800"),
        ((1, (2, "x")), [1, [2, "x"]]),
        (bytearray(b"\0x"), b"\0x"),
        (Digest(b"\0x"), b"\0x"),
        (Stamp(2026, 1, 2, 3, 4, 5, 6, timezone.utc), datetime(2026, 1, 2, 3, 4, 5, 6, timezone.utc)),
        pytest.param(memoryview(b"\0x"), b"\0x", id="memoryview"),
        (defaultdict(int, {"a.b": 2**40}), {"a.b": 2**40}),
        (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
    ],
    ids=str,
)
def test_relatives_of_plain_types_come_back_plain(value: Any, expected: Any) -> None:
    assert_same(through_bson({"v": value}), {"v": expected})


# What is refused


class Opaque:
    def __repr__(self) -> str:
        return "SECRET"


UNSTORABLE = [
    {1, 2},
    frozenset({1}),
    Decimal("1.5"),
    date(2026, 1, 1),
    time(1, 2),
    timedelta(1),
    uuid.UUID(int=1),
    1j,
    Opaque(),
    Opaque,
    range(3),
    re.compile("x"),
    iter([1]),
    NoTime(1, 1, 1),
    Binary(b"\0" * 16, 4),
]


@pytest.mark.parametrize("value", UNSTORABLE, ids=lambda value: type(value).__name__)
def test_what_would_not_come_back_is_refused_with_its_place(value: Any) -> None:
    with pytest.raises(UnstorableValueError) as caught:
        encode({"first": [1, {"sec.ond": value}]}, "Agent 'a' of session 's', state")

    assert str(caught.value).startswith("Agent 'a' of session 's', state.first[1].sec.ond cannot be stored: ")
    assert type(value).__name__ in str(caught.value)
    assert "SECRET" not in str(caught.value)


KEYS = [
    0,
    1,
    -1,
    2024,
    2**31,
    -(2**63),
    2**63 - 1,
    2**63,
    10**4000,
    True,
    False,
    None,
    0.0,
    -0.0,
    1.0,
    1.5,
    5e-324,
    1e300,
    math.inf,
    -math.inf,
]


@pytest.mark.parametrize("key", KEYS, ids=lambda key: type(key).__name__)
def test_a_key_that_json_takes_comes_back(key: Any) -> None:
    assert_same(through_bson({key: [{key: key}]}), {key: [{key: key}]})
    assert_same(through_bson({"a": 1, key: 2, "b": 3}), {"a": 1, key: 2, "b": 3})


def test_keys_of_all_types_live_side_by_side() -> None:
    value = {
        key: number for number, key in enumerate([1, "1", 1.5, "1.5", None, "null", "None", False, "false", *MARKS])
    }

    assert_same(through_bson(value), value)


def test_a_key_that_is_not_a_number_comes_back() -> None:
    ((key, value),) = through_bson({math.nan: 1}).items()

    assert math.isnan(key)
    assert value == 1


def test_two_keys_that_would_become_one_are_refused() -> None:
    with pytest.raises(UnstorableValueError, match=r"^here\.a cannot be stored: .*keys"):
        encode({"a": {float("nan"): 1, float("nan"): 2}}, "here")


def test_keys_that_are_relatives_of_plain_types_come_back_plain() -> None:
    value = {Size.BIG: 1, Ratio.HALF: 2, Colour.RED: 3, Name("x"): 4}

    found = through_bson(value)

    assert_same(found, {int(Size.BIG): 1, float(Ratio.HALF): 2, Colour.RED.value: 3, "x": 4})


def test_how_a_key_that_is_no_string_is_stored() -> None:
    stored = encode({2024: 5, 1.5: 6, True: 7, None: 8, 2**64: 9, "%bson:2024": 10}, "here")

    assert stored == {
        "%bson:2024": 5,
        "%bson:1%2E5": 6,
        "%bson:true": 7,
        "%bson:null": 8,
        "%bson:0x10000000000000000": 9,
        "%25bson:2024": 10,
    }


def test_a_name_that_no_key_is_stored_as_is_read_as_text() -> None:
    assert decode({"%bson:x": 1, "%bson:": 2}) == {"%bson:x": 1, "%bson:": 2}


@pytest.mark.parametrize("key", [b"SECRET", ("SECRET",), AT, 1j, Decimal(1), frozenset(), Opaque], ids=repr)
def test_a_key_that_json_does_not_take_is_refused_with_its_place(key: Any) -> None:
    with pytest.raises(UnstorableValueError) as caught:
        encode({"config": [{key: "SECRET"}]}, "here")

    assert str(caught.value).startswith("here.config[0] cannot be stored: ")
    assert type(key).__name__ in str(caught.value)
    assert "SECRET" not in str(caught.value)


def holding_itself() -> list[Any]:
    as_list: list[Any] = ["SECRET"]
    as_list.append(as_list)
    as_dict: dict[str, Any] = {"text": "SECRET"}
    as_dict["inner"] = [as_dict]
    return [as_list, as_dict]


@pytest.mark.parametrize("value", holding_itself(), ids=["list", "dict"])
def test_a_value_that_holds_itself_is_refused(value: Any) -> None:
    with pytest.raises(UnstorableValueError, match=r"^here cannot be stored: .*holds itself") as caught:
        encode(value, "here")

    assert "SECRET" not in str(caught.value)


def test_a_refusal_below_the_marked_depth_names_the_whole_path() -> None:
    value = nested(150, lambda level, inner: {"k": {1, 2} if level == 0 else inner})

    with pytest.raises(UnstorableValueError) as caught:
        encode(value, "here")

    assert caught.value.label == "here" + ".k" * 150


def test_a_refusal_hides_the_machinery() -> None:
    with pytest.raises(UnstorableValueError) as caught:
        encode({b"1": 2}, "here")

    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


# Messages

SOURCE = {"bytes": bytes(range(256))}
S3 = {"location": {"type": "s3", "uri": "s3://b/k", "bucketOwner": "1"}}
LOCATION = {"documentChar": {"documentIndex": 0, "start": 1, "end": 2}}
CITATION = {"location": LOCATION, "sourceContent": [{"text": "s"}], "title": "t"}
BLOCKS: dict[str, dict[str, Any]] = {
    "text": {"text": "hello"},
    "image": {"image": {"format": "png", "source": SOURCE}},
    "image_s3": {"image": {"format": "png", "source": S3}},
    "document": {
        "document": {"format": "pdf", "name": "n", "source": SOURCE, "citations": {"enabled": True}, "context": None}
    },
    "video": {"video": {"format": "mp4", "source": SOURCE}},
    "audio": {"audio": {"format": "mp3", "source": SOURCE}},
    "toolUse": {"toolUse": {"toolUseId": "t", "name": "n", "input": {"$ref": "#/x", "a.b": [2**70], "": None}}},
    "toolResult": {
        "toolResult": {
            "toolUseId": "t",
            "status": "success",
            "content": [
                {"json": {"$ref": "x", "$id": 1, "n": 2**40, "f": 1.0}},
                {"text": "ok"},
                {"image": {"format": "png", "source": SOURCE}},
                {"document": {"format": "txt", "name": "n", "source": SOURCE}},
            ],
        }
    },
    "reasoning": {"reasoningContent": {"reasoningText": {"text": "r", "signature": "s"}}},
    "redacted_reasoning": {"reasoningContent": {"redactedContent": b"\0\xff"}},
    "cachePoint": {"cachePoint": {"type": "default", "ttl": "5m"}},
    "guardContent": {"guardContent": {"text": {"qualifiers": ["query"], "text": "g"}}},
    "citations": {"citationsContent": {"citations": [CITATION], "content": [{"text": "c"}]}},
    "future": {"somethingNew": {"a": 1}, "%int": "x"},
}
METADATA = {
    "usage": {"inputTokens": 1, "outputTokens": 2, "totalTokens": 3},
    "metrics": {"latencyMs": 4, "timeToFirstByteMs": 5},
}


def a_message(*blocks: dict[str, Any], **more: Any) -> Message:
    return cast(Message, {"role": "user", "content": list(blocks), **more})


def message_through_bson(message: Message) -> Message:
    stored = message_doc(message, 7, AT, LABEL)
    return decode_message(stored_through_bson(stored))


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS.keys())
def test_a_content_block_comes_back(block: dict[str, Any]) -> None:
    message = a_message({"text": "before"}, block)

    assert_same(message_through_bson(message), message)


def test_a_message_keeps_what_the_sdk_adds() -> None:
    message = a_message({"text": "hi"}, tracking_id="t-1", metadata={**METADATA, "custom": {"a.b": {"$ref": 1}}})

    assert_same(message_through_bson(message), message)


COLLIDING = [
    "message_id",
    "created_at",
    "updated_at",
    "escaped",
    "extra",
    "redacted",
    "message",
    "redact_message",
    "event_loop_metrics",
    "guardrail_event",
    "name",
    "_id",
    "$set",
    "a.b",
    "%int",
]


@pytest.mark.parametrize("name", COLLIDING)
@pytest.mark.parametrize("value", ["theirs", {"a.b": 2**40}, None], ids=["plain", "escaped", "none"])
def test_a_key_of_the_users_own_does_not_touch_the_bookkeeping(name: str, value: Any) -> None:
    message = a_message({"text": "hi"}, **{name: value})
    stored = stored_through_bson(message_doc(message, 7, AT, LABEL))

    assert_same(decode_message(stored), message)
    assert (stored["message_id"], stored["created_at"], stored["updated_at"]) == (7, AT, AT)
    assert session_message(stored).redact_message is None


@settings(deadline=None)
@given(
    st.lists(st.dictionaries(keys, values, max_size=3), max_size=3),
    st.dictionaries(st.sampled_from([*COLLIDING, "tracking_id", "metadata"]), values, max_size=4),
)
def test_any_message_comes_back(blocks: list[dict[str, Any]], more: dict[str, Any]) -> None:
    message = a_message(*blocks, **more)

    found = message_through_bson(message)

    assert found.keys() == message.keys()
    for name, value in message.items():
        assert_same(cast("dict[str, Any]", found)[name], value)


def test_a_plain_message_is_stored_readable() -> None:
    message = a_message({"text": "hi"}, tracking_id="t-1", metadata=METADATA)

    stored = message_doc(message, 7, AT, LABEL)

    assert_same(stored, {"message_id": 7, **message, "created_at": AT, "updated_at": AT})


def with_metrics(message: Message) -> dict[str, Any]:
    metadata = cast("dict[str, Any]", message["metadata"])
    call = {name: dict(metadata.get(name) or {}) for name in METADATA}
    metrics = {"accumulated_usage": {"inputTokens": 9}, **call}
    return cast("dict[str, Any]", stored_through_bson(message_doc(message, 7, AT, LABEL, metrics)))


def test_the_figures_of_a_call_are_stored_once() -> None:
    message = a_message({"text": "hi"}, metadata=METADATA)

    stored = with_metrics(message)

    assert stored["metadata"] == "event_loop_metrics"
    assert stored["event_loop_metrics"].items() >= METADATA.items()
    assert_same(decode_message(stored), message)
    assert_same(message_record(stored)["metadata"], METADATA)


@pytest.mark.parametrize(
    "metadata",
    [
        {**METADATA, "custom": {"a": 1}},
        {"usage": METADATA["usage"]},
        {"metrics": METADATA["metrics"], "usage": METADATA["usage"]},
        {"usage": None, "metrics": METADATA["metrics"]},
        {"usage": {"inputTokens": 2**40, "a.b": 2**70}, "metrics": {"$ref": 1}},
    ],
    ids=["custom", "usage", "order", "none", "marked"],
)
def test_metadata_of_any_form_come_back_beside_metrics(metadata: dict[str, Any]) -> None:
    message = a_message({"text": "hi"}, metadata=metadata)

    assert_same(decode_message(with_metrics(message)), message)


@pytest.mark.parametrize("more", [{}, {"metadata": METADATA}], ids=["without", "with"])
def test_a_message_with_metrics_that_is_replaced_has_only_the_new_metadata(more: dict[str, Any]) -> None:
    stored, new = with_metrics(a_message({"text": "hi"}, metadata=METADATA)), a_message({"text": "new"}, **more)

    replacement(new, 7, LATER, LABEL).apply(stored)

    assert_same(decode_message(stored_through_bson(stored)), new)


def test_a_redaction_keeps_metadata_that_are_in_the_metrics() -> None:
    stored = with_metrics(a_message({"text": "hi"}, metadata=METADATA))

    redaction(a_message({"text": "-"}), 7, LATER, LABEL).apply(stored)

    assert_same(cast("dict[str, Any]", decode_message(stored_through_bson(stored)))["metadata"], METADATA)


def test_metadata_that_look_like_the_reference_come_back() -> None:
    message = a_message({"text": "hi"}, metadata="event_loop_metrics")

    assert_same(message_through_bson(message), message)


def test_an_unstorable_message_is_refused_with_its_place() -> None:
    with pytest.raises(UnstorableValueError, match=re.escape(f"{LABEL}.content[0].text cannot be stored: ")):
        message_doc(a_message({"text": {1}}), 7, AT, LABEL)


def test_the_record_of_a_message_has_its_id_and_times() -> None:
    record = session_message(stored_through_bson(message_doc(a_message(), 7, AT, LABEL)))

    assert (record.message_id, type(record.message_id)) == (7, int)
    assert (record.created_at, record.updated_at) == (AT.isoformat(), AT.isoformat())


# Edits

PLAIN = a_message({"text": "SECRET"}, tracking_id="t-1", metadata=METADATA)
ORIGINALS: dict[str, Message] = {
    "plain": PLAIN,
    "bare": a_message({"text": "SECRET"}),
    "escaped": a_message({"text": "SECRET", "a.b": "SECRET"}, tracking_id="t-1"),
    "extra": a_message({"text": "SECRET"}, name="SECRET", note={"$x": "SECRET"}),
    "custom": a_message({"text": "SECRET"}, metadata={**METADATA, "custom": {"quote": "SECRET"}}),
    "only_custom": a_message({"text": "SECRET"}, metadata={"custom": {"quote": "SECRET"}}),
    "no_metadata": a_message({"text": "SECRET"}, metadata=None),
}
EDITED: dict[str, Message] = {
    "plain": a_message({"text": "new"}),
    "escaped": a_message({"$new": 2**63}),
    "extra": a_message({"text": "new"}, name="new"),
    "tracking": a_message({"text": "new"}, tracking_id="t-2"),
    "metadata": a_message({"text": "new"}, metadata={"custom": {"why": "asked"}}),
}
EDITS = {"replacement": replacement, "redaction": redaction}
V1_ELEMENT = {
    "message": {"role": "user", "content": [{"text": "SECRET"}]},
    "message_id": 7,
    "redact_message": None,
    "created_at": AT,
    "updated_at": AT,
    "event_loop_metrics": {"accumulated_metrics": {"latencyMs": 1}},
}


def elements() -> dict[str, Any]:
    new: dict[str, Any] = {name: message_doc(message, 7, AT, LABEL) for name, message in ORIGINALS.items()}
    guarded = {**message_doc(PLAIN, 7, AT, LABEL), "guardrail_event": {"action": "BLOCKED"}}
    return {**new, "guarded": guarded, "v1": V1_ELEMENT}


ELEMENTS = elements()


@pytest.mark.parametrize("new", EDITED.values(), ids=EDITED.keys())
@pytest.mark.parametrize("stored", ELEMENTS.values(), ids=ELEMENTS.keys())
def test_a_replacement_reads_as_the_new_message(stored: dict[str, Any], new: Message) -> None:
    edited = copy.deepcopy(stored)
    replacement(new, 7, LATER, LABEL).apply(edited)

    assert_same(decode_message(stored_through_bson(edited)), new)
    assert (edited["created_at"], edited["updated_at"]) == (AT, LATER)


@pytest.mark.parametrize("new", EDITED.values(), ids=EDITED.keys())
@pytest.mark.parametrize("stored", ELEMENTS.values(), ids=ELEMENTS.keys())
def test_a_redaction_leaves_nothing_of_the_original(stored: dict[str, Any], new: Message) -> None:
    edited = copy.deepcopy(stored)
    redaction(new, 7, LATER, LABEL).apply(edited)

    assert b"SECRET" not in bson.encode(edited)
    record = session_message(stored_through_bson(edited))
    assert record.to_message()["content"] == new["content"]
    assert record.redact_message is not None


def test_a_redaction_keeps_identity_times_and_metrics() -> None:
    edited = copy.deepcopy(ELEMENTS["guarded"])

    redaction(EDITED["plain"], 7, LATER, LABEL).apply(edited)

    kept = {name: edited[name] for name in ("message_id", "tracking_id", "metadata", "created_at", "guardrail_event")}
    assert kept == {name: ELEMENTS["guarded"][name] for name in kept}
    assert edited["updated_at"] == LATER


@pytest.mark.parametrize(
    "metrics",
    [{"latencyMs": 2**40}, {"a.b": 1}, {"$ref": 1}, {"latencyMs": 2**70}],
    ids=["int64", "dot", "dollar", "big"],
)
def test_a_redaction_keeps_metrics_that_were_marked(metrics: dict[str, Any]) -> None:
    """What stays of a marked message is still read with its marks."""
    original = a_message({"text": "SECRET"}, metadata={"metrics": metrics})
    edited = message_doc(original, 7, AT, LABEL)

    redaction(EDITED["plain"], 7, LATER, LABEL).apply(edited)

    found = decode_message(stored_through_bson(edited))
    assert_same(found["metadata"]["metrics"], metrics)


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS.keys())
def test_an_unstorable_edit_is_refused_with_its_place(edit: Callable[..., MessageEdit]) -> None:
    with pytest.raises(UnstorableValueError, match=re.escape(f"{LABEL}.content[0].text cannot be stored: ")):
        edit(a_message({"text": object()}), 7, LATER, LABEL)


# What the first version stored


@pytest.mark.parametrize(
    ("message", "redacted", "expected"),
    [
        ({"role": "user", "content": [{"text": "hi"}]}, None, [{"text": "hi"}]),
        ({"role": "user", "content": [{"text": "hi"}]}, {"role": "user", "content": [{"text": "-"}]}, [{"text": "-"}]),
        (
            {
                "role": "user",
                "content": [
                    {
                        "image": {
                            "format": "png",
                            "source": {
                                "bytes": {"__bytes_encoded__": True, "data": base64.b64encode(b"\0\xff").decode()}
                            },
                        }
                    }
                ],
            },
            None,
            [{"image": {"format": "png", "source": {"bytes": b"\0\xff"}}}],
        ),
        (
            {"role": "assistant", "content": [{"toolUse": {"input": {"$ref": "#/x", "$id": 1, "n": 2**40}}}]},
            None,
            [{"toolUse": {"input": {"$ref": "#/x", "$id": 1, "n": 2**40}}}],
        ),
        (
            {"role": "user", "content": [{"text": "hi", "50%": 1, "a%20b": 2}]},
            None,
            [{"text": "hi", "50%": 1, "a%20b": 2}],
        ),
    ],
    ids=["plain", "redacted", "bytes", "reference", "percent"],
)
def test_an_element_of_the_first_version_is_read(message: Any, redacted: Any, expected: Any) -> None:
    element = stored_through_bson({**V1_ELEMENT, "message": message, "redact_message": redacted, "unknown": 1})

    record = session_message(element)

    assert_same(record.to_message()["content"], expected)
    assert record.to_message()["role"] == message["role"]
    assert (record.redact_message is None) == (redacted is None)
    assert (record.message_id, record.created_at) == (7, AT.isoformat())


@pytest.mark.parametrize("text", ["%2E", "100%25", "snake%5Fcase"])
def test_percent_codes_in_keys_of_the_first_version_are_plain_text(text: str) -> None:
    """The first version escaped nothing, so nothing of it is to be unescaped."""
    content = [{"toolUse": {"toolUseId": "t", "name": "n", "input": {text: 1}}}]
    element = stored_through_bson({**V1_ELEMENT, "message": {"role": "assistant", "content": content}})

    assert_same(decode_message(element)["content"], content)


@pytest.mark.parametrize("at", [AT, AT.isoformat(), "2026-01-02T03:04:05"], ids=["date", "iso", "naive"])
def test_times_of_the_first_version_are_read(at: Any) -> None:
    element = stored_through_bson({**V1_ELEMENT, "created_at": at, "updated_at": at})

    expected = at if isinstance(at, str) else at.isoformat()
    assert session_message(element).created_at == expected


@pytest.mark.parametrize("missing", [{}, {"created_at": None, "updated_at": None}], ids=["absent", "null"])
def test_missing_times_are_not_fatal(missing: dict[str, Any]) -> None:
    element = {"message": V1_ELEMENT["message"], "message_id": 7, **missing}

    assert session_message(element).message_id == 7


# Agents


@settings(deadline=None)
@given(st.dictionaries(keys, values, max_size=3))
def test_any_agent_comes_back(state: dict[str, Any]) -> None:
    agent = SessionAgent("a.b", state, {"removed_message_count": 3, "more": state}, {"model_state": state})
    stored = stored_through_bson(agent_data_doc(agent, "Agent 'a.b'"))

    found = session_agent(
        "a.b", {"agent_data": stored, "guard": {"revision": 1}, "created_at": AT, "updated_at": LATER}
    )

    assert found.agent_id == "a.b"
    assert_same(found.state, agent.state)
    assert_same(found.conversation_manager_state, agent.conversation_manager_state)
    assert_same(found._internal_state, agent._internal_state)
    assert (found.created_at, found.updated_at) == (AT.isoformat(), LATER.isoformat())


@pytest.mark.parametrize("name", AGENT_FIELDS)
def test_an_unstorable_agent_field_is_refused_by_name(name: str) -> None:
    agent = SessionAgent("a", {}, {})
    setattr(agent, name, {"x": {1}})

    with pytest.raises(UnstorableValueError, match=rf"^Agent 'a', {name}\.x cannot be stored: "):
        agent_data_doc(agent, "Agent 'a'")


@pytest.mark.parametrize("data", [{}, dict.fromkeys(AGENT_FIELDS)], ids=["absent", "null"])
def test_agent_fields_may_be_missing(data: dict[str, Any]) -> None:
    found = session_agent("a", {"agent_data": {"unknown": 1, **data}})

    assert (found.state, found.conversation_manager_state, found._internal_state) == ({}, {}, {})


# Content that is no list of blocks


class Result:
    def __str__(self) -> str:
        return "the answer"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("hi", [{"text": "hi"}]),
        (Result(), [{"text": "the answer"}]),
        ([{"text": "x"}], [{"text": "x"}]),
        (({"text": "x"},), [{"text": "x"}]),
    ],
    ids=["text", "result", "blocks", "tuple"],
)
def test_content_becomes_blocks(content: Any, expected: list[Any]) -> None:
    message = cast(Message, {"role": "user", "content": content, "tracking_id": "t"})

    assert with_blocks(message) == {"role": "user", "content": expected, "tracking_id": "t"}
    assert message["content"] is content


# Large values, here all above a few bytes


SMALL = Limits(value_bytes=6, small_value_bytes=2, message_bytes=500)


def offloaded(message: Message, limits: Limits = SMALL) -> tuple[Any, Files]:
    stored = message_doc(message, 7, AT, LABEL)
    size, files = offload(stored, "s", "a", 7, limits)
    assert size == len(bson.encode(stored))
    return stored, files


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.dictionaries(keys, values | st.binary(max_size=40) | st.text(max_size=40), max_size=3), max_size=4),
    st.dictionaries(st.sampled_from(["tracking_id", "metadata", "files", "%file", "more"]), values, max_size=3),
)
@example([{"%file": {"sha256": "0", "length": 1, "kind": "text"}}, {"text": "\ud800" * 9}, {"x": 2**200}], {})
@example([{"a": "x" * 9, "b": b"x" * 9}, {"a": "x" * 9}], {"files": ["0"], "%file": "x" * 9})
def test_any_message_comes_back_from_files(blocks: list[dict[str, Any]], more: dict[str, Any]) -> None:
    message = a_message(*blocks, **more)
    stored, files = offloaded(message)

    again = put_back_values(stored_through_bson(stored), files)

    assert_same(dict(decode_message(again)), dict(decode_message(stored_through_bson(again))))
    for name, value in message.items():
        assert_same(cast("dict[str, Any]", decode_message(again))[name], value)
    assert sorted(files) == stored.get("files", [])
    assert all(hashlib.sha256(value).hexdigest() == digest for digest, value in files.items())


def test_only_values_over_the_threshold_are_offloaded() -> None:
    message = a_message({"text": "123456", "é": "ééé", "n": 2**40}, {"text": "1234567", "b": b"1" * 7})
    stored, files = offloaded(message, replace(SMALL, message_bytes=1000))

    assert stored["content"][0] == {"text": "123456", "é": "ééé", "n": 2**40}
    assert [stored["content"][1][name]["%file"]["kind"] for name in ("text", "b")] == ["text", "bytes"]
    assert [stored["content"][1][name]["%file"]["length"] for name in ("text", "b")] == [7, 7]
    assert set(files.values()) == {b"1234567", b"1111111"}


def test_what_measures_a_message_stays_with_it() -> None:
    metadata = {"usage": {"inputTokens": 10}, "custom": {"large": "x" * 20}}

    stored, files = offloaded(a_message({"text": "x" * 9}, metadata=metadata))

    assert stored["metadata"] == metadata
    assert files.keys() == {hashlib.sha256(b"x" * 9).hexdigest()}


def test_a_message_below_the_threshold_is_not_looked_through() -> None:
    stored, files = offloaded(a_message({"text": "x" * 200_000}), LIMITS)

    assert "files" not in stored
    assert files == {}


@pytest.mark.parametrize("edit", [replacement, redaction])
def test_an_edit_sets_or_drops_the_files_of_a_message(edit: Any) -> None:
    stored, _ = offloaded(a_message({"text": "x" * 9}))

    large, files = offload_edit(edit(a_message({"text": "y" * 9}), 7, LATER, LABEL), "s", "a", SMALL)
    large.apply(stored)
    assert stored["files"] == list(files)
    assert "files" not in large.dropped
    small, files = offload_edit(edit(a_message({"t": "y"}), 7, LATER, LABEL), "s", "a", SMALL)
    small.apply(stored)

    assert files == {}
    assert "files" not in stored
