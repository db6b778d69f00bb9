from collections.abc import Iterator
from typing import Any

import pytest
from pymongo import MongoClient

from mongodb_session_manager.testing import MongodSet, find_mongod

pytestmark = pytest.mark.skipif(find_mongod() is None, reason="there is no mongod to run")


@pytest.fixture(scope="module")
def mongods() -> Iterator[MongodSet]:
    with MongodSet() as mongods:
        yield mongods


def client_of(mongods: MongodSet) -> MongoClient[dict[str, Any]]:
    return MongoClient(mongods.uri, w="majority")


def test_one_member_takes_writes_and_the_others_follow(mongods: MongodSet) -> None:
    with client_of(mongods) as client:
        client.get_database("test").things.insert_one({"_id": 1})

    assert len(mongods.secondaries()) == 2
    assert mongods.primary() in mongods.members
    assert mongods.primary() not in mongods.secondaries()


def test_a_killed_primary_is_replaced_and_comes_back(mongods: MongodSet) -> None:
    killed = mongods.primary()
    killed.kill()

    assert mongods.primary() is not killed
    with client_of(mongods) as client:
        client.get_database("test").things.insert_one({"_id": 2})

    killed.restart()
    mongods.wait_until_complete()
    with client_of(mongods) as client:
        assert client.get_database("test").things.count_documents({"_id": 2}) == 1


def test_a_frozen_primary_is_replaced_and_follows_afterwards(mongods: MongodSet) -> None:
    frozen = mongods.primary()
    frozen.pause()
    try:
        assert mongods.primary() is not frozen
    finally:
        frozen.resume()
    mongods.wait_until_complete()


def test_frozen_members_are_stopped_too() -> None:
    with MongodSet(2) as mongods:
        folders = [member.data_path for member in mongods.members]
        mongods.members[0].pause()

    assert not any(folder.exists() for folder in folders)
    with pytest.raises(RuntimeError, match="not running"):
        mongods.members[0].pause()


def test_it_may_be_stopped_twice() -> None:
    mongods = MongodSet(1)
    mongods.stop()
    mongods.stop()
