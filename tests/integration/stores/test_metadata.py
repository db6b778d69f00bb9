"""Metadata: partial updates by dotted keys, one operation a call, and nothing sent when a key is not valid."""

import types
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import mongomock
import pytest
from bson import Decimal128, ObjectId
from pymongo import MongoClient

from mongodb_session_manager import MongoDBSessionManager
from mongodb_session_manager.errors import SessionNotFoundError, SessionTooLargeError, UnstorableValueError
from mongodb_session_manager.testing import CommandCounter
from tests.aliases import NewManager, Stored

Call = Callable[[MongoDBSessionManager], Any]

AT = datetime(2024, 1, 26, 10, 30, 45, 123000, tzinfo=timezone.utc)
SELF: list[Any] = []
SELF.append(SELF)

BAD_KEYS = [7, None, b"a", ("a",), "", ".", "a.", ".a", "a..b", "$a", "a.$b", "$", "a\0b", "\0"]


@pytest.fixture(params=["mongod", "mongomock"])
def manager(request: pytest.FixtureRequest) -> MongoDBSessionManager:
    if request.param == "mongod":
        made: MongoDBSessionManager = request.getfixturevalue("new_manager")()
        return made
    client: Any = mongomock.MongoClient()
    return MongoDBSessionManager("s-1", client=client, database_name="d")


# Updates


@pytest.mark.parametrize(
    ("updates", "expected"),
    [
        ([{"a": 1, "b": 2}, {"b": 3}], {"a": 1, "b": 3}),
        ([{"a": 1}, {"b.c": 2}], {"a": 1, "b": {"c": 2}}),
        ([{"a": {"x": 1, "y": 2}}, {"a.x": 5}], {"a": {"x": 5, "y": 2}}),
        ([{"a.b.c": 1}, {"a.b.d": 2, "a.e": 3}], {"a": {"b": {"c": 1, "d": 2}, "e": 3}}),
        ([{"a": {"x": 1}}, {"a": {"y": 2}}], {"a": {"y": 2}}),
        ([{"a": 1}, {"a": None}], {"a": None}),
        ([{"a": 1}, {}], {"a": 1}),
        ([{"a": 1, "ab": 2, "a-b.c": 3, "a b": 4}], {"a": 1, "ab": 2, "a-b": {"c": 3}, "a b": 4}),
        ([{"clé": "été", "鍵.值": "値"}], {"clé": "été", "鍵": {"值": "値"}}),
        ([types.MappingProxyType({"a": 1}), OrderedDict(b=2)], {"a": 1, "b": 2}),
    ],
)
def test_an_update_changes_only_what_it_names(
    manager: MongoDBSessionManager, updates: list[dict[str, Any]], expected: dict[str, Any]
) -> None:
    for update in updates:
        manager.update_metadata(update)

    assert manager.get_metadata() == {"metadata": expected}


@pytest.mark.parametrize(
    "value",
    [
        {"a.b": 1, "$set": {"": None}, "nul\0": [1, {"x.y": "z"}], "%2E": 0, "__bytes_encoded__": True, "data": "eA=="},
        {"$ref": "#/definitions/a", "$id": "x"},
        [[], {}, [{}], "", 0, False, None],
        [2**31, 2**63, -(2**70), 1.5],
        b"\0\xff",
        "emoji 🦜, lone \ud800",
        [ObjectId(b"x" * 12), Decimal128("1.10")],
        AT,
    ],
    ids=["keys", "reference", "empty", "numbers", "bytes", "text", "bson", "datetime"],
)
@pytest.mark.parametrize("key", ["field", "nested.field", "half \ud83d", "nested.\ud83d"], ids=ascii)
def test_values_come_back_as_they_were(new_manager: NewManager, key: str, value: Any) -> None:
    new_manager().update_metadata({key: value})

    found: Any = new_manager().get_metadata()["metadata"]
    for name in key.split("."):
        found = found[name]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("given", "date"),
    [
        (AT, AT),
        (AT.astimezone(timezone(timedelta(hours=5))), AT),
        (AT.replace(tzinfo=None), AT),
        (AT.replace(microsecond=123999), AT),
    ],
    ids=["utc", "elsewhere", "naive", "microseconds"],
)
def test_datetimes_are_dates_that_queries_can_compare(
    new_manager: NewManager, stored: Stored, given: datetime, date: datetime
) -> None:
    manager = new_manager()
    manager.update_metadata({"due": given, "plan.due": [{"at": given}]})

    metadata = stored()["metadata"]
    assert [metadata["due"], metadata["plan"]["due"][0]["at"]] == [date, date]
    assert manager.get_metadata()["metadata"]["due"].utcoffset() == timedelta(0)


def test_what_the_caller_passed_stays_as_it_was(new_manager: NewManager) -> None:
    given = {"a.b": {"$x": [1]}}

    new_manager().update_metadata(given)

    assert given == {"a.b": {"$x": [1]}}


def test_an_update_moves_the_time_and_touches_nothing_else(new_manager: NewManager, stored: Stored) -> None:
    manager = new_manager()
    before = stored()

    manager.update_metadata({"a": 1})

    after = stored()
    assert after["updated_at"] >= before["updated_at"]
    assert {**after, "updated_at": None} == {**before, "updated_at": None, "metadata": {"a": 1}}


def test_updates_from_many_threads_lose_nothing(new_manager: NewManager) -> None:
    managers = [new_manager(), new_manager()]

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: managers[n % 2].update_metadata({f"field.{n}": n}), range(40)))

    assert new_manager().get_metadata() == {"metadata": {"field": {str(n): n for n in range(40)}}}


# Reading and deleting


def test_there_is_none_at_first(manager: MongoDBSessionManager) -> None:
    assert manager.get_metadata() == {}


@pytest.mark.parametrize(
    ("keys", "left"),
    [
        (["a"], {"b": {"c": 2, "d": 3}, "x y": {"k.l": 4}}),
        (["b.c"], {"a": 1, "b": {"d": 3}, "x y": {"k.l": 4}}),
        (["b.c", "b.d"], {"a": 1, "b": {}, "x y": {"k.l": 4}}),
        (["a", "b", "a"], {"x y": {"k.l": 4}}),
        (["unknown", "b.unknown", "a.below.a.number"], {"a": 1, "b": {"c": 2, "d": 3}, "x y": {"k.l": 4}}),
        (["x y.k.l"], {"a": 1, "b": {"c": 2, "d": 3}, "x y": {"k.l": 4}}),
        ([], {"a": 1, "b": {"c": 2, "d": 3}, "x y": {"k.l": 4}}),
        (("a", "b", "x y"), None),
        ({"a", "b", "x y"}, None),
        (types.MappingProxyType(dict.fromkeys(["a", "b", "x y"])).keys(), None),
    ],
)
def test_a_deletion_removes_only_what_it_names(manager: MongoDBSessionManager, keys: Any, left: Any) -> None:
    manager.update_metadata({"a": 1, "b": {"c": 2, "d": 3}, "x y": {"k.l": 4}})

    manager.delete_metadata(keys)

    assert manager.get_metadata() == ({} if left is None else {"metadata": left})


@pytest.mark.parametrize("metadata", [{}, {"metadata": {}}], ids=["missing", "empty"])
def test_sessions_of_the_first_version(
    new_manager: NewManager,
    observer: MongoClient[dict[str, Any]],
    database: str,
    metadata: dict[str, Any],
) -> None:
    observer[database].agent_sessions.insert_one({"_id": "s-1", "session_id": "s-1", **metadata})
    manager = new_manager()
    assert manager.get_metadata() == {}

    manager.update_metadata({"a.b": 1})

    assert manager.get_metadata() == {"metadata": {"a": {"b": 1}}}


# What is refused


@pytest.mark.parametrize("key", BAD_KEYS, ids=repr)
def test_a_bad_key_is_refused_before_anything_is_sent(
    new_manager: NewManager, command_counter: CommandCounter, key: Any
) -> None:
    manager = new_manager()
    calls: list[Call] = [
        lambda manager: manager.update_metadata({"good": 1, key: 2}),
        lambda manager: manager.delete_metadata(["good", key]),
    ]

    for call in calls:
        with command_counter.counting() as log, pytest.raises(ValueError, match=r"'s-1'.*key"):
            call(manager)
        assert log.commands == []


@pytest.mark.parametrize("metadata", [None, "a", 5, [("a", 1)], {"a"}], ids=repr)
def test_metadata_must_be_a_mapping(new_manager: NewManager, command_counter: CommandCounter, metadata: Any) -> None:
    manager = new_manager()

    with command_counter.counting() as log, pytest.raises(TypeError, match="mapping"):
        manager.update_metadata(metadata)

    assert log.commands == []


@pytest.mark.parametrize("keys", ["a", b"a", None, 5, {"a": 1}], ids=repr)
def test_the_keys_to_delete_must_be_a_list(new_manager: NewManager, command_counter: CommandCounter, keys: Any) -> None:
    manager = new_manager()

    with command_counter.counting() as log, pytest.raises(TypeError, match="list"):
        manager.delete_metadata(keys)

    assert log.commands == []


@pytest.mark.parametrize("keys", [["a", "a.b"], ["a.b.c", "z", "a.b"], ["a", "ab", "a.b.c"]], ids=str)
def test_overlapping_keys_are_refused(
    new_manager: NewManager, command_counter: CommandCounter, keys: list[str]
) -> None:
    manager = new_manager()
    calls: list[Call] = [
        lambda manager: manager.update_metadata(dict.fromkeys(keys, 1)),
        lambda manager: manager.delete_metadata(keys),
    ]

    for call in calls:
        with command_counter.counting() as log, pytest.raises(ValueError, match="overlap"):
            call(manager)
        assert log.commands == []


# A server of MongoDB 6.0 stops when one update sets an element of a list under two numbers.
@pytest.mark.parametrize(
    "keys",
    [
        ["tags.1", "tags.01"],
        ["tags.2", "b", "tags.002"],
        ["rows.0.x", "rows.00"],
        ["rows.00.x.y", "rows.0.x"],
        ["rows.0", "rows.01", "rows.001", "rows.1"],
        ["deep.a.0.b.1", "deep.a.00.b.01"],
    ],
    ids=str,
)
def test_an_element_of_a_list_is_not_set_twice(new_manager: NewManager, keys: list[str]) -> None:
    manager = new_manager()
    metadata = {"tags": ["a", "b"], "rows": [{"x": {"y": 1}}, {}], "deep": {"a": [{"b": [1, 2]}]}}
    manager.update_metadata(metadata)

    with pytest.raises(UnstorableValueError, match="overlap if there is a list; give one of them"):
        manager.update_metadata(dict.fromkeys(keys, 1))

    assert manager.get_metadata()["metadata"] == metadata


def test_numbers_with_zeros_before_them(new_manager: NewManager) -> None:
    manager = new_manager()
    manager.update_metadata({"tags": ["a", "b"], "rows": [{"x": 1}], "codes": {"1": "one"}, "deep": {"a": [{"b": {}}]}})

    manager.update_metadata({"tags.01": "B", "tags.2": "c", "rows.0.x": 2, "rows.00.y": 3, "0": "name", "00": "other"})
    manager.update_metadata({"codes.01": "first", "codes.1": "second", "new.0.x": 1, "new.00": 2})
    manager.update_metadata({"deep.a.0.b.1": 1, "deep.a.00.b.01": 2})

    assert manager.get_metadata()["metadata"] == {
        "tags": ["a", "B", "c"],
        "rows": [{"x": 2, "y": 3}],
        "codes": {"1": "second", "01": "first"},
        "deep": {"a": [{"b": {"1": 1, "01": 2}}]},
        "0": "name",
        "00": "other",
        "new": {"0": {"x": 1}, "00": 2},
    }


@pytest.mark.parametrize(
    "value", [{1}, Decimal("1"), object(), print, {(1, 2): 3}, AT.date(), SELF], ids=lambda v: type(v).__name__
)
def test_a_value_that_cannot_be_stored_is_named(
    new_manager: NewManager, command_counter: CommandCounter, value: Any
) -> None:
    manager = new_manager()

    with (
        command_counter.counting() as log,
        pytest.raises(UnstorableValueError, match=r"'s-1', bad\.field") as caught,
    ):
        manager.update_metadata({"good": 1, "bad.field": {"x": [value]}})

    assert isinstance(caught.value, ValueError)
    assert log.commands == []


def test_the_error_tells_the_way_to_the_value(new_manager: NewManager) -> None:
    with pytest.raises(UnstorableValueError, match=r"plan\.steps\[1\]\.due"):
        new_manager().update_metadata({"plan": {"steps": [1, {"due": Decimal(1)}]}})


@pytest.mark.parametrize("in_the_way", [1, "text", None, [1]], ids=repr)
def test_a_dotted_key_does_not_go_through_a_value(new_manager: NewManager, in_the_way: Any) -> None:
    manager = new_manager()
    manager.update_metadata({"a": in_the_way})

    with pytest.raises(UnstorableValueError, match=r"'s-1'.*'a\.b'.*delete that field"):
        manager.update_metadata({"a.b": 1, "c": 2})

    assert manager.get_metadata() == {"metadata": {"a": in_the_way}}


@pytest.mark.parametrize(
    ("value", "key"),
    [
        (2**70, "a.b"),
        ("half \ud83d", "a.b"),
        ({"b": -(2**64)}, "a.b.c.d"),
        ([1, {"b": 2**70}], "a.1.b.c"),
        ([2**70], "a.0.b"),
        ({"0": 2**70}, "a.0.b"),
        (2**70, ".".join(["a", *"bc" * 30, *"0" * 30, "d"])),
    ],
    ids=repr,
)
def test_a_dotted_key_does_not_go_into_a_mark(
    new_manager: NewManager, command_counter: CommandCounter, value: Any, key: str
) -> None:
    manager = new_manager()
    manager.update_metadata({"a": value})

    with command_counter.counting() as log, pytest.raises(UnstorableValueError, match="delete that field") as caught:
        manager.update_metadata({key: 1, "c": 2})

    assert key in str(caught.value)
    assert (log.names[0], "update" in log.names[1:]) == ("update", False)
    assert manager.get_metadata() == {"metadata": {"a": value}}
    manager.update_metadata({"e.f": {"g": value}, "e.h": 1})
    assert manager.get_metadata() == {"metadata": {"a": value, "e": {"f": {"g": value}, "h": 1}}}


@pytest.mark.parametrize("name", ["%int", "%text", "%bson"])
def test_a_name_like_a_mark_is_no_mark(new_manager: NewManager, name: str) -> None:
    manager = new_manager()
    manager.update_metadata({"a": {name: "ab"}})
    manager.update_metadata({"a.b": 1})

    assert manager.get_metadata() == {"metadata": {"a": {name: "ab", "b": 1}}}


def test_too_much_metadata(new_manager: NewManager) -> None:
    manager = new_manager()

    with pytest.raises(SessionTooLargeError, match="'s-1'"):
        manager.update_metadata({"a": "x" * 17_000_000})

    assert manager.get_metadata() == {}


every_call = pytest.mark.parametrize(
    ("call", "commands"),
    [
        (lambda manager: manager.update_metadata({"a": 1, "b.c": 2}), ["update"]),
        (lambda manager: manager.get_metadata(), ["find"]),
        (lambda manager: manager.delete_metadata(["a", "b.c"]), ["update"]),
    ],
    ids=["update", "get", "delete"],
)


@every_call
def test_a_deleted_session_is_told(new_manager: NewManager, stored: Stored, call: Call, commands: list[str]) -> None:
    manager = new_manager()
    new_manager().delete_session()

    with pytest.raises(SessionNotFoundError, match="'s-1'"):
        call(manager)

    assert stored() is None


# Costs


@every_call
def test_a_call_is_one_operation(
    new_manager: NewManager, command_counter: CommandCounter, call: Call, commands: list[str]
) -> None:
    manager = new_manager(metadata_fields=["a"])

    with command_counter.counting() as log:
        call(manager)

    assert log.names == commands


@pytest.mark.parametrize(
    "call", [lambda manager: manager.update_metadata({}), lambda manager: manager.delete_metadata([])]
)
def test_nothing_costs_nothing(
    new_manager: NewManager, stored: Stored, command_counter: CommandCounter, call: Call
) -> None:
    manager = new_manager()
    before = stored()

    with command_counter.counting() as log:
        call(manager)

    assert log.commands == []
    assert stored() == before


@pytest.mark.parametrize(
    ("asked", "builds"),
    [
        ([["a", "b.c"], ["a", "b.c"], ["b.c", "a"], ["a"], None], 1),
        ([["a"], ["b.c"], ["a", "b.c"]], 2),
        ([("a", "b.c", "a")], 1),
    ],
)
def test_fields_are_indexed_once_and_nothing_is_written_for_them(
    new_manager: NewManager,
    stored: Stored,
    command_counter: CommandCounter,
    observer: MongoClient[dict[str, Any]],
    database: str,
    asked: list[Any],
    builds: int,
) -> None:
    name = f"indexed_{ObjectId()}"

    for fields in asked:
        new_manager(collection_name=name, metadata_fields=fields)

    firsts = [index["key"][0][0] for index in observer[database][name].index_information().values()]
    assert sorted(firsts) == ["_id", "application_name", "created_at", "metadata.a", "metadata.b.c", "updated_at"]
    assert command_counter.index_builds == builds
    assert observer[database][name].find_one({}, {"metadata": 1}) == {"_id": "s-1", "metadata": {}}
