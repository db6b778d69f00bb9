"""Metadata keys that reach into lists: none fills a list with nulls, none leaves one behind."""

from typing import Any

import mongomock
import pytest

from mongodb_session_manager import MongoDBSessionManager, SessionNotFoundError, UnstorableValueError
from mongodb_session_manager.testing import CommandCounter
from tests.aliases import NewManager

LISTS: dict[str, Any] = {
    "tags": ["a", "b"],
    "none": [],
    "rows": [["x"], [["y", "z"]]],
    "people": [{"name": "Ann", "pets": ["cat"]}, {"0": {"899999": 1}, "pets": []}],
    "crafted": [[], {"0": {"4": 1}}, {"pets": {"8": 1}}],
    "dict": {"5": {"deep": [1]}, "007": 1},
}


@pytest.fixture
def manager(new_manager: NewManager) -> MongoDBSessionManager:
    made = new_manager()
    made.update_metadata(LISTS)
    return made


BEYOND = [
    "tags.3",
    "tags.900000",
    "tags.1500001",
    "tags.2000000",
    "tags.3000000000",
    "tags.9" + "9" * 30,
    "tags.9" + "9" * 5000,
    "tags.007",
    "tags.0003",
    "tags.+5",
    "tags.-1",
    "tags.5.x",
    "tags.5.6.7",
    "none.1",
    "none.01",
    "rows.0.2",
    "rows.3.0",
    "rows.1.0.3",
    "rows.00.0900000",
    "people.0.pets.2",
    "people.1.pets.1",
    "people.3.name",
    "people.0.pets.900000.x",
    "people.pets.1",
    "crafted.0.5",
    "crafted.0.1",
    "dict.5.deep.2",
    "dict.5.deep.900000",
]


@pytest.mark.parametrize("key", BEYOND, ids=lambda key: key[:30])
def test_a_key_that_would_fill_a_list_is_refused(manager: MongoDBSessionManager, key: str) -> None:
    before = manager.get_metadata()

    with pytest.raises(UnstorableValueError, match="'s-1'") as refused:
        manager.update_metadata({key: "v", "other": 1})

    assert key[:20] in str(refused.value)
    assert manager.get_metadata() == before


REACHED = {
    "tags.0": ["v", "b"],
    "tags.1": ["a", "v"],
    "tags.2": ["a", "b", "v"],
    "tags.02": ["a", "b", "v"],
    "none.0": ["v"],
    "none.00": ["v"],
    "rows.0.1": [["x", "v"], [["y", "z"]]],
    "rows.1.0.2": [["x"], [["y", "z", "v"]]],
    "rows.2": [["x"], [["y", "z"]], "v"],
    "rows.2.900000": [["x"], [["y", "z"]], {"900000": "v"}],
    "people.0.name": [{"name": "v", "pets": ["cat"]}, {"0": {"899999": 1}, "pets": []}],
    "people.1.pets.0": [{"name": "Ann", "pets": ["cat"]}, {"0": {"899999": 1}, "pets": ["v"]}],
    "people.1.0.900000": [{"name": "Ann", "pets": ["cat"]}, {"0": {"899999": 1, "900000": "v"}, "pets": []}],
    "dict.900000": {"5": {"deep": [1]}, "007": 1, "900000": "v"},
    "dict.007": {"5": {"deep": [1]}, "007": "v"},
    "dict.-1": {"5": {"deep": [1]}, "007": 1, "-1": "v"},
    "dict.5.deep.1": {"5": {"deep": [1, "v"]}, "007": 1},
    "fresh.900000.7": {"900000": {"7": "v"}},
}


@pytest.mark.parametrize("key", REACHED)
def test_a_key_that_fills_nothing_goes_through(
    manager: MongoDBSessionManager, command_counter: CommandCounter, key: str
) -> None:
    with command_counter.counting() as log:
        manager.update_metadata({key: "v"})

    assert (log.writes, len(log.commands)) == (1, 1)
    assert manager.get_metadata()["metadata"][key.split(".")[0]] == REACHED[key]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["tags.3", "tags.2"], ["a", "b", "v", "v"]),
        ([f"tags.{number}" for number in range(12)], ["v"] * 12),
        (["tags.2.x", "tags.3.x"], ["a", "b", {"x": "v"}, {"x": "v"}]),
        (["tags.0", "tags.2"], ["v", "b", "v"]),
        (["tags.2", "tags.4"], None),
        (["tags.0", "tags.3"], None),
        (["tags.2", "none.1"], None),
        (["tags.4", "tags.3"], None),
    ],
    ids=str,
)
def test_several_keys(manager: MongoDBSessionManager, keys: list[str], expected: list[Any] | None) -> None:
    if expected is None:
        with pytest.raises(UnstorableValueError, match=r"one of \["):
            manager.update_metadata(dict.fromkeys(keys, "v"))
    else:
        manager.update_metadata(dict.fromkeys(keys, "v"))

    assert manager.get_metadata()["metadata"]["tags"] == (expected or LISTS["tags"])


@pytest.mark.parametrize("key", ["tags.0", "tags.01", "rows.0.0", "rows.1.0.1", "people.0.pets.0", "people.1"])
def test_an_element_is_not_deleted(manager: MongoDBSessionManager, key: str) -> None:
    before = manager.get_metadata()

    with pytest.raises(ValueError, match=rf"'s-1', '{key}'.*Set the list without it"):
        manager.delete_metadata(["dict", key])

    assert manager.get_metadata() == before


@pytest.mark.parametrize(
    "key", ["tags.2", "tags.900000", "tags.x", "tags.-1", "nowhere.5", "none.0", "people.7", "rows.0.5"]
)
def test_what_is_not_there_is_passed_over(manager: MongoDBSessionManager, key: str) -> None:
    before = manager.get_metadata()

    manager.delete_metadata([key])

    assert manager.get_metadata() == before


def test_a_field_of_an_element_is_deleted(manager: MongoDBSessionManager) -> None:
    manager.delete_metadata(["people.0.name", "dict.5", "dict.007"])

    found = manager.get_metadata()["metadata"]
    assert found["people"][0] == {"pets": ["cat"]}
    assert found["dict"] == {}


@pytest.mark.parametrize("levels", [101, 150, 255, 256, 300, 5_000])
@pytest.mark.parametrize("name", ["a", "1"])
def test_a_key_of_too_many_levels_is_refused(manager: MongoDBSessionManager, levels: int, name: str) -> None:
    before = manager.get_metadata()
    key = ".".join([name] * levels)

    with pytest.raises(ValueError, match=rf"'s-1'.*{levels} levels"):
        manager.update_metadata({key: 1})
    with pytest.raises(ValueError, match=rf"'s-1'.*{levels} levels"):
        manager.delete_metadata([key])

    assert manager.get_metadata() == before


@pytest.mark.parametrize(
    "key", [".".join(["a"] * 100), ".".join(["1"] * 30), "a." * 70 + ".".join(["1"] * 30)], ids=len
)
@pytest.mark.parametrize("depth", [0, 50, 100, 150])
def test_deep_keys_hold_deep_values(manager: MongoDBSessionManager, key: str, depth: int) -> None:
    value: Any = "v"
    for _ in range(depth):
        value = {"n": value}
    manager.update_metadata({key: value})

    found = manager.get_metadata()["metadata"]
    for name in key.split("."):
        found = found[name]
    assert found == value
    manager.delete_metadata([key])


def test_very_many_keys(manager: MongoDBSessionManager) -> None:
    plain = {f"many.k{number}": number for number in range(20_000)}
    manager.update_metadata(plain)
    manager.update_metadata({f"many.k{number}.1": 1 for number in range(20_000, 22_000)})

    assert len(manager.get_metadata()["metadata"]["many"]) == 22_000
    with pytest.raises(UnstorableValueError) as refused:
        manager.update_metadata({**{f"numbers.{number}": 1 for number in range(0, 40_000, 2)}, "tags.9": 1})
    assert len(str(refused.value)) < 1_000


def test_a_session_that_is_gone_is_told(manager: MongoDBSessionManager) -> None:
    manager.delete_session()

    with pytest.raises(SessionNotFoundError):
        manager.update_metadata({"tags.5": 1})
    with pytest.raises(SessionNotFoundError):
        manager.delete_metadata(["tags.5"])


@pytest.mark.parametrize("allowed_keys", [None, ["tags"], ["tags.900000"]])
def test_a_model_is_told(manager: MongoDBSessionManager, allowed_keys: list[str] | None) -> None:
    tool = manager.get_metadata_tool(allowed_keys=allowed_keys)

    answer = tool(action="set", metadata={"tags.900000": 1})
    assert answer.startswith("Error: ")
    assert "'tags.900000'" in answer
    assert manager.get_metadata()["metadata"]["tags"] == LISTS["tags"]


def test_hooks_see_the_error_and_store_nothing(new_manager: NewManager) -> None:
    seen: list[BaseException] = []

    def watch(original_func: Any, action: str, session_id: str, **kwargs: Any) -> Any:
        try:
            return original_func(on_store=lambda stored: {"id": "1", "what": "never"})
        except ValueError as error:
            seen.append(error)
            raise

    manager = new_manager(metadata_hook=watch)
    manager.session_repository.update_metadata("s-1", {"tags": [1]})
    with pytest.raises(ValueError, match="'tags"):
        manager.update_metadata({"tags.5": 1})
    with pytest.raises(ValueError, match="'tags"):
        manager.delete_metadata(["tags.0"])

    assert len(seen) == 2
    assert new_manager().undelivered == ()


def test_lists_on_mongomock() -> None:
    client: Any = mongomock.MongoClient()
    manager = MongoDBSessionManager("s-1", client=client)
    manager.update_metadata({"tags": ["a"], "people": [{"name": "Ann"}]})

    manager.update_metadata({"tags.0": "b", "people.0.name": "Bob"})
    manager.update_metadata({"tags.1": "c"})
    manager.update_metadata({"plan.5": "e", "plan.x.7.y": "f"})
    with pytest.raises(UnstorableValueError):
        manager.update_metadata({"tags.9": "d"})
    with pytest.raises(ValueError, match="Set the list without it"):
        manager.delete_metadata(["tags.0"])
    manager.delete_metadata(["plan.5", "plan.x.7"])

    assert manager.get_metadata() == {"metadata": {"tags": ["b", "c"], "people": [{"name": "Bob"}], "plan": {"x": {}}}}
