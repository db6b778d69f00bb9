from concurrent.futures import ThreadPoolExecutor

import pytest
from pymongo import ASCENDING, DeleteOne, InsertOne, MongoClient, UpdateOne
from pymongo.collection import Collection

from mongodb_session_manager.testing import Command, CommandCounter, session_ids
from tests.aliases import Document


@pytest.fixture
def things(mongo_client: MongoClient[Document], database_name: str) -> Collection[Document]:
    return mongo_client[database_name].things


def sent(counter: CommandCounter) -> Command:
    (command,) = counter.commands
    return command


def test_records_what_was_sent(
    things: Collection[Document], database_name: str, command_counter: CommandCounter
) -> None:
    things.insert_one({"_id": "s-1"})

    command = sent(command_counter)
    assert (command.name, command.database, command.collection) == ("insert", database_name, "things")
    assert command.document["documents"] == [{"_id": "s-1"}]


def test_the_drivers_own_commands_are_left_out(
    mongo_client: MongoClient[Document], command_counter: CommandCounter
) -> None:
    with mongo_client.start_session():
        mongo_client.admin.command("hello")
    mongo_client.admin.command("ping")
    mongo_client.close()

    assert command_counter.names == ["ping"]


def test_counts_by_kind(things: Collection[Document], command_counter: CommandCounter) -> None:
    things.insert_many([{"_id": number} for number in range(5)])
    things.update_one({"_id": 1}, {"$set": {"a": 1}})
    things.delete_one({"_id": 2})
    things.find_one_and_update({"_id": 3}, {"$set": {"a": 1}})
    things.create_index([("a", ASCENDING)])
    things.find_one({"_id": 3})
    list(things.find({}, batch_size=2))  # four documents: a last getMore finds out that there are no more
    things.count_documents({"_id": 3})
    things.estimated_document_count()
    things.distinct("a", {"_id": 3})

    writes = ["insert", "update", "delete", "findAndModify"]
    reads = ["find", "find", "getMore", "getMore", "aggregate", "count", "distinct"]
    assert command_counter.names == [*writes, "createIndexes", *reads]
    assert (command_counter.writes, command_counter.reads, command_counter.index_builds) == (4, 7, 1)
    assert {command.collection for command in command_counter.commands} == {"things"}


def test_can_be_cleared(things: Collection[Document], command_counter: CommandCounter) -> None:
    things.find_one()
    command_counter.clear()
    things.insert_one({})

    assert command_counter.names == ["insert"]


def test_a_block_has_a_count_of_its_own(things: Collection[Document], command_counter: CommandCounter) -> None:
    things.insert_one({"_id": 1})
    with command_counter.counting() as outer:
        things.find_one()
        with command_counter.counting() as inner:
            things.update_one({"_id": 1}, {"$set": {"a": 1}})
        command_counter.clear()
    things.delete_one({"_id": 1})

    assert outer.names == ["find", "update"]
    assert (inner.writes, inner.reads) == (1, 0)
    assert command_counter.names == ["delete"]


def test_a_retry_of_the_driver_counts(
    things: Collection[Document], mongo_client: MongoClient[Document], command_counter: CommandCounter
) -> None:
    things.insert_one({"_id": 1})
    fault = {"failCommands": ["update"], "closeConnection": True}
    mongo_client.admin.command("configureFailPoint", "failCommand", mode={"times": 1}, data=fault)

    with command_counter.counting() as counted:
        things.update_one({"_id": 1}, {"$inc": {"n": 1}})

    assert counted.names == ["update", "update"]
    assert things.find_one() == {"_id": 1, "n": 1}


def test_threads_may_share_it(things: Collection[Document], command_counter: CommandCounter) -> None:
    with ThreadPoolExecutor(8) as executor:
        list(executor.map(lambda number: things.insert_one({"_id": number}), range(200)))

    assert command_counter.writes == 200


def test_names_the_ids_of_writes(things: Collection[Document], command_counter: CommandCounter) -> None:
    things.insert_many([{"_id": "a"}, {"_id": "b"}])
    things.update_one({"_id": "a", "n": 1}, {"$set": {"m": 1}})
    things.update_one({"_id": {"$eq": "a"}}, {"$set": {"m": 1}})
    things.find_one_and_update({"_id": "a"}, {"$set": {"m": 1}}, upsert=True)
    things.delete_many({"_id": {"$in": ["a", "b"]}})
    things.update_many({"m": 1}, {"$set": {"m": 2}})
    things.delete_many({"_id": {"$gt": "a"}})
    things.delete_many({})

    named = [session_ids(command) for command in command_counter.commands]
    assert named == [["a", "b"], ["a"], ["a"], ["a"], ["a", "b"], [None], [None], [None]]


def test_names_the_ids_of_a_bulk_write(things: Collection[Document], command_counter: CommandCounter) -> None:
    things.bulk_write(
        [
            InsertOne({"_id": "a"}),
            UpdateOne({"_id": "a"}, {"$set": {"n": 1}}),
            UpdateOne({"n": 1}, {"$set": {"n": 2}}),
            DeleteOne({"_id": "a"}),
        ]
    )

    assert [session_ids(command) for command in command_counter.commands] == [["a"], ["a", None], ["a"]]


def test_names_the_ids_of_reads(things: Collection[Document], command_counter: CommandCounter) -> None:
    things.find_one({"_id": "a"})
    things.find_one({"$and": [{"n": 1}, {"_id": "a"}]})
    things.find_one({"_id": {"session": "a", "part": 1}})
    things.count_documents({"_id": "a"})
    things.distinct("n", {"_id": "a"})
    list(things.aggregate([{"$match": {"_id": "a"}}, {"$project": {"n": 1}}]))
    list(things.aggregate([{"$project": {"n": 1}}, {"$match": {"_id": "a"}}]))
    list(things.aggregate([]))
    things.find_one()
    things.estimated_document_count()

    named = [session_ids(command) for command in command_counter.commands]
    compound = {"session": "a", "part": 1}
    assert named == [["a"], ["a"], [compound], ["a"], ["a"], ["a"], [None], [None], [None], [None]]


def test_a_command_without_a_filter_names_nothing(
    things: Collection[Document], command_counter: CommandCounter
) -> None:
    things.create_index("n")

    assert session_ids(sent(command_counter)) == []


def test_names_the_ids_of_a_client_bulk_write() -> None:
    # Servers from 8 on know this command; there is none to test on.
    operations = [
        {"insert": 0, "document": {"_id": "a"}},
        {"update": 0, "filter": {"_id": "b"}, "updateMods": {"$set": {"n": 1}}},
        {"delete": 0, "filter": {"n": 1}},
    ]

    assert session_ids(Command("bulkWrite", "admin", "", {"bulkWrite": 1, "ops": operations})) == ["a", "b", None]
