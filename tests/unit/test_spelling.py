"""The options that type checkers know are those that there are."""

import inspect
from typing import Any, get_type_hints

import pytest
from pymongo import common

from mongodb_session_manager import MongoDBSessionManager, create_mongodb_session_manager, types
from mongodb_session_manager._client.spelling import OPTIONS, spelling_hint
from mongodb_session_manager._schema.catalog_arguments import check_limit
from mongodb_session_manager._schema.ids import check_message_id, shown
from mongodb_session_manager.mongodb_session_factory import _LEASE_ARGUMENTS

PARAMETERS = inspect.signature(MongoDBSessionManager.__init__).parameters
OF_THE_MANAGER = {name for name in PARAMETERS if not name.startswith("_")} - {
    *("self", "session_id", "connection_string", "client", "client_options")
}


def keys(options: Any) -> set[str]:
    return set(get_type_hints(options))


def test_every_option_of_pymongo_is_known() -> None:
    # "appName" is the connection string's spelling; an older pymongo knows fewer options.
    known = {name.lower() for name in keys(types.ClientOptions)} - {"host", "port"}
    own_spellings = {"authoidcallowedhosts", "enableoverloadretargeting", "maxadaptiveretries"}

    assert {*common.VALIDATORS} - known <= own_spellings


def test_no_option_of_ours_is_one_of_pymongo() -> None:
    assert not {name.lower() for name in OPTIONS} & {*common.VALIDATORS}


def test_the_options_are_those_of_the_manager() -> None:
    assert set(OPTIONS) == OF_THE_MANAGER
    assert keys(types.SessionOverrides) == OF_THE_MANAGER | keys(types.OldSpellings)
    assert {*_LEASE_ARGUMENTS} <= keys(types.SessionOptions)
    named = set(inspect.signature(create_mongodb_session_manager).parameters)
    assert (named | keys(types.SessionOptions)) & set(OPTIONS) == OF_THE_MANAGER
    assert keys(types.FactoryOptions) - keys(types.ClientOptions) - keys(types.OldSpellings) == OF_THE_MANAGER - {
        *("database_name", "collection_name", "metadata_fields", "application_name")
    }


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("durabilty", "durability"),
        ("Durability", "durability"),
        ("onerror", "on_error"),
        ("TTL", "ttl"),
        ("t_tl", "ttl"),
        ("exclusve", "exclusive"),
        ("lease_time_out", "lease_timeout"),
        ("databaseName", "database_name"),
        ("collection", "collection_name"),
        ("metadata_hooks", "metadata_hook"),
        ("metadata_field", "metadata_fields"),
        ("application", "application_name"),
        ("connection_sting", "connection_string"),
    ],
)
def test_what_was_meant(given: str, meant: str) -> None:
    assert spelling_hint([given]).startswith(f"Did you mean {meant}? ")


def test_something_else_is_not_guessed_at() -> None:
    assert spelling_hint(["xyz"]).startswith("The library's own options are database_name, ")


@pytest.mark.parametrize(
    "value",
    [
        "mongodb://u:s3cr3t@h/db",
        "MongoDB+SRV://u:s3cr3t@h",
        " mongodb://u:s3cr3t@h",
        "u:s3cr3t@h:27017",
        "x" * 60 + "u:s3cr3t@h",
        ["mongodb://u:s3cr3t@h/db"],
        {"uri": "mongodb://u:s3cr3t@h/db"},
    ],
)
def test_what_may_be_a_connection_string_is_not_shown(value: object) -> None:
    assert "s3cr3t" not in shown(value)


def test_other_values_are_shown_shortened() -> None:
    assert shown("s-1") == "'s-1'"
    assert len(shown("s" * 5000)) < 60
    assert len(shown(list(range(5000)))) < 60
    assert shown(5) == "5"


@pytest.mark.parametrize("number", [10**5000, -(10**5000)], ids=["positive", "negative"])
def test_a_number_of_any_size_is_shown_shortened(number: int) -> None:
    assert len(shown(number)) < 60
    with pytest.raises(ValueError, match=r"must be a number of 8 bytes, got '?-?0x") as refused:
        check_message_id(number)
    assert len(str(refused.value)) < 120
    with pytest.raises(ValueError, match="limit must be between"):
        check_limit(number)
