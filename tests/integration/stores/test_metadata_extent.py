"""Metadata keys that would keep a server or a process busy are refused, and nothing is sent."""

from typing import Any

import pytest

from mongodb_session_manager import SessionCatalog, SessionFilter, UnstorableValueError
from mongodb_session_manager._schema.data import has_message_filter
from mongodb_session_manager.testing import CommandCounter
from tests.aliases import NewManager

DEEP = ".".join([*"0z" * 30, *"q" * 39])


def crafted(levels: int) -> Any:
    """Return a value in which each number of a path is an index and a name."""
    value: Any = 1
    for _ in range(levels):
        value = [{"0": value}]
    return value


@pytest.mark.parametrize(
    "keys",
    [
        [f"k{number}.x" for number in range(10_000)],
        [f"list.{number}.x" for number in range(10_000)],
        [f"k{number}.0.x" for number in range(10_000)],
        [f"k{number}.{DEEP}" for number in range(1_000)],
        [".".join(["x" * 10_000] * 100)],
        ["list." + "0" * zeros + "1" for zeros in range(300)],
        ["list.0", *("list." + "0" * zeros + ".x" for zeros in range(2, 300))],
    ],
    ids=["names", "elements", "lists", "deep", "long", "spellings", "spellings below"],
)
def test_keys_that_take_a_server_too_long_are_refused(
    new_manager: NewManager, command_counter: CommandCounter, keys: list[str]
) -> None:
    manager = new_manager()
    manager.update_metadata({"list": [{}]})

    with command_counter.counting() as log, pytest.raises(ValueError, match="Metadata of session 's-1': ") as refused:
        manager.update_metadata(dict.fromkeys(keys, 1))

    assert log.commands == []
    assert len(str(refused.value)) < 1_000
    assert manager.get_metadata() == {"metadata": {"list": [{}]}}


def test_elements_that_take_a_server_too_long_are_not_removed(
    new_manager: NewManager, command_counter: CommandCounter
) -> None:
    manager = new_manager()

    with command_counter.counting() as log, pytest.raises(ValueError, match="'s-1': the keys lead through too many"):
        manager.delete_metadata([f"k{number}." + "z.0." * 29 + "0" for number in range(1_000)])

    assert log.commands == []


def test_many_keys_and_a_few_spellings_are_set(new_manager: NewManager) -> None:
    manager = new_manager()
    keys = [f"flat{number}" for number in range(10_000)] + [f"one.k{number}" for number in range(10_000)]
    keys += [f"nested{number}.x.y" for number in range(1_000)] + ["codes." + "0" * zeros + "7" for zeros in range(10)]

    manager.update_metadata(dict.fromkeys(keys, 1))

    assert len(manager.get_metadata()["metadata"]) == 11_002
    assert len(manager.get_metadata()["metadata"]["codes"]) == 10


def test_nobody_looks_for_what_is_deep_in_lists(new_manager: NewManager, command_counter: CommandCounter) -> None:
    manager = new_manager()
    manager.update_metadata({"a": crafted(60)})
    repository, path = manager.session_repository, ".".join(["a", *"0" * 9])
    catalog = SessionCatalog(
        client=repository.client, database_name=repository.collection.database.name, collection_name="c"
    )

    with command_counter.counting() as log:
        for look in (
            lambda: catalog.count(SessionFilter(metadata={path: 1})),
            lambda: catalog.set_ttl(SessionFilter(metadata={path: 1}), None),
            lambda: catalog.delete_many(SessionFilter(metadata={path: 1})),
            lambda: catalog.create_indexes([path]),
            lambda: repository.delete_metadata("s-1", ["b"], held={path: 1}),
        ):
            with pytest.raises(ValueError, match="more than 8 levels that are numbers"):
                look()

    assert log.commands == []


def test_an_agent_id_with_many_numbers_is_only_one_name() -> None:
    nested = has_message_filter(".".join(["a", *"0" * 8]), 1)
    crafted_id = has_message_filter(".".join(["a", *"0" * 9]), 1)

    assert len(nested["$or"]) == 2
    assert list(crafted_id) == ["agents." + "%2E".join(["a", *"0" * 9]) + ".messages.message_id"]


def test_a_value_that_an_index_reads_in_two_ways_is_refused(new_manager: NewManager) -> None:
    manager = new_manager()
    manager.session_repository.collection.create_index("metadata.a.0")

    with pytest.raises(UnstorableValueError, match=r"'s-1', one of \['a', 'b'\] cannot be stored: .*drop that index"):
        manager.update_metadata({"a": [{"0": 1}], "b": 1})

    assert manager.get_metadata() == {}
