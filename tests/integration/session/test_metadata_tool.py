"""The metadata tool: what a model may say to it, and the sentence that it answers with, errors too."""

import json
from collections.abc import Callable
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError  # type: ignore[import-untyped]
from bson import Binary, Decimal128, MinKey, ObjectId, Regex, Timestamp
from pymongo import MongoClient
from pymongo.errors import ServerSelectionTimeoutError
from strands.types.content import Message

from mongodb_session_manager import MongoDBSessionManager
from mongodb_session_manager.testing import CommandCounter
from tests.aliases import Hook, NewAgent, NewManager

STORED = {"name": "Alice", "prefs": {"theme": "dark", "font": 12}, "internal": "trusted"}


@pytest.fixture
def manager(new_manager: NewManager) -> MongoDBSessionManager:
    made = new_manager()
    made.update_metadata(STORED)
    return made


def use(**arguments: Any) -> dict[str, Any]:
    return {"toolUse": {"toolUseId": "t-1", "name": "manage_metadata", "input": arguments}}


def answers(messages: list[Message]) -> list[str]:
    """What tools answered."""
    results = [block["toolResult"] for message in messages for block in message["content"] if "toolResult" in block]
    return [result["content"][0]["text"] for result in results]


# Actions


@pytest.mark.parametrize(
    ("keys", "beginning", "found"),
    [
        (None, "All metadata: ", STORED),
        ([], "All metadata: ", STORED),
        (["name"], "Metadata retrieved: ", {"name": "Alice"}),
        (["name", "unknown"], "Metadata retrieved: ", {"name": "Alice"}),
        (["prefs.theme"], "Metadata retrieved: ", {"prefs.theme": "dark"}),
        (["prefs"], "Metadata retrieved: ", {"prefs": {"theme": "dark", "font": 12}}),
        (["prefs.theme.deeper"], "Metadata retrieved: ", {}),
        ('["name", "prefs.font"]', "Metadata retrieved: ", {"name": "Alice", "prefs.font": 12}),
        ('"name"', "Metadata retrieved: ", {"name": "Alice"}),
        ("name", "Metadata retrieved: ", {"name": "Alice"}),
    ],
)
def test_getting(manager: MongoDBSessionManager, keys: Any, beginning: str, found: dict[str, Any]) -> None:
    answer = manager.get_metadata_tool()(action="get", keys=keys)

    assert answer.startswith(beginning)
    assert json.loads(answer.removeprefix(beginning)) == found


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tags.1", "b"),
        ("tags.2", "new"),
        ("tags.01", "b"),
        ("pairs.1.0", 3),
        ("steps.0.name", "pay"),
        ("steps.1.name", "new"),
        ("numbered.1", "one"),
    ],
)
@pytest.mark.parametrize("allowed_keys", [None, ["tags", "pairs", "steps", "numbered"]])
def test_an_element_that_was_set_is_found(
    new_manager: NewManager, key: str, value: Any, allowed_keys: list[str] | None
) -> None:
    lists = {"tags": ["a", "b"], "pairs": [[1, 2], [3]], "steps": [{"name": "pay"}], "numbered": {"1": "one"}}
    tool = new_manager().get_metadata_tool(allowed_keys=allowed_keys)
    tool(action="set", metadata=lists)

    assert tool(action="set", metadata={key: value}).startswith("Successfully")

    assert json.loads(tool(action="get", keys=[key]).removeprefix("Metadata retrieved: ")) == {key: value}


@pytest.mark.parametrize("key", ["tags.2", "tags.-1", "tags.x", "tags.²", "tags.0.x", "tags.", "tags.9" * 50, "s.0"])
def test_an_element_that_is_not_there_is_not_found(new_manager: NewManager, key: str) -> None:
    manager = new_manager()
    manager.update_metadata({"tags": ["a", "b"], "s": "text"})

    assert manager.get_metadata_tool()(action="get", keys=[key]) == "Metadata retrieved: {}"


def test_an_element_may_be_all_that_a_model_sees(new_manager: NewManager) -> None:
    manager = new_manager()
    manager.update_metadata({"tags": ["a", "b"]})
    tool = manager.get_metadata_tool(allowed_keys=["tags.1"])

    assert tool(action="get") == 'All metadata: {"tags.1": "b"}'
    assert tool(action="get", keys=["tags.0"]).startswith("Error: ")


@pytest.mark.parametrize("action", ["set", "update"])
@pytest.mark.parametrize(
    ("metadata", "fields", "expected"),
    [
        ({"name": "Bob"}, "['name']", {**STORED, "name": "Bob"}),
        ('{"name": "Bob", "age": 7}', "['name', 'age']", {**STORED, "name": "Bob", "age": 7}),
        ({"prefs.theme": "light"}, "['prefs.theme']", {**STORED, "prefs": {"theme": "light", "font": 12}}),
        ({"prefs": '{"x": 1}'}, "['prefs']", {**STORED, "prefs": '{"x": 1}'}),
    ],
)
def test_setting(
    manager: MongoDBSessionManager, action: str, metadata: Any, fields: str, expected: dict[str, Any]
) -> None:
    answer = manager.get_metadata_tool()(action=action, metadata=metadata)

    assert answer == f"Successfully updated metadata fields: {fields}"
    assert manager.get_metadata() == {"metadata": expected}


@pytest.mark.parametrize(
    ("keys", "fields", "left"),
    [
        (["name"], "['name']", {"prefs", "internal"}),
        (["name", "unknown"], "['name', 'unknown']", {"prefs", "internal"}),
        ('["name", "internal"]', "['name', 'internal']", {"prefs"}),
        ("name", "['name']", {"prefs", "internal"}),
    ],
)
def test_deleting(manager: MongoDBSessionManager, keys: Any, fields: str, left: set[str]) -> None:
    answer = manager.get_metadata_tool()(action="delete", keys=keys)

    assert answer == f"Successfully deleted metadata fields: {fields}"
    assert set(manager.get_metadata()["metadata"]) == left


def test_deleting_a_nested_field(manager: MongoDBSessionManager) -> None:
    manager.get_metadata_tool()(action="delete", keys=["prefs.theme"])

    assert manager.get_metadata()["metadata"]["prefs"] == {"font": 12}


def test_there_is_nothing_at_first(new_manager: NewManager) -> None:
    assert new_manager().get_metadata_tool()(action="get") == "All metadata: {}"


def test_arguments_may_be_given_by_position(manager: MongoDBSessionManager) -> None:
    tool = manager.get_metadata_tool()

    assert tool("set", {"name": "Bob"}) == "Successfully updated metadata fields: ['name']"
    assert tool("get", None, ["name"]) == 'Metadata retrieved: {"name": "Bob"}'


def test_what_json_cannot_hold_is_readable(new_manager: NewManager) -> None:
    manager = new_manager()
    at = datetime(2024, 1, 26, 10, 30, tzinfo=timezone.utc)
    manager.update_metadata({"at": at, "picture": b"\0" * 2000, "name": "Zoë 🦜"})

    answer = manager.get_metadata_tool()(action="get")

    found = json.loads(answer.removeprefix("All metadata: "))
    assert found == {"at": "2024-01-26T10:30:00+00:00", "picture": "<2000 bytes>", "name": "Zoë 🦜"}
    assert "Zoë 🦜" in answer


HALVES = ("\ud83d", "\udc00", "\udc00\ud83d")


@pytest.mark.parametrize("half", HALVES, ids=ascii)
@pytest.mark.parametrize("allowed_keys", [None, ["title", "\ud83d"]], ids=ascii)
def test_answers_are_valid_utf_8(new_manager: NewManager, half: str, allowed_keys: list[str] | None) -> None:
    manager = new_manager()
    tool = manager.get_metadata_tool(allowed_keys=allowed_keys)
    broken = f"broken {half} title"

    answers = [
        tool(action="set", metadata={"title": broken}),
        tool(action="get"),
        tool(action="get", keys=["title"]),
        tool(action="set", metadata={half: {half: 1}}),
        tool(action="get", keys=[half]),
        tool(action="set", metadata={f"$ {half}": 1}),
        tool(action=half),
        tool(action="delete", keys=[half]),
    ]

    assert manager.get_metadata()["metadata"]["title"] == broken
    assert [answer for answer in answers if not answer.encode()] == []
    assert json.loads(answers[1].removeprefix("All metadata: "))["title"].startswith("broken \ufffd")


def test_answers_are_json_whatever_is_stored(manager: MongoDBSessionManager) -> None:
    odd = {"nan": float("nan"), "inf": float("inf"), "id": ObjectId(), "price": Decimal128("1.5"), "big": 2**70}
    manager.update_metadata(odd)
    manager.session_repository.collection.update_one(
        {"_id": "s-1"}, {"$set": {"metadata.foreign": [Regex("a"), MinKey(), Timestamp(1, 1), Binary(b"a" * 16, 4)]}}
    )

    found = refusing_constants(manager.get_metadata_tool()(action="get").removeprefix("All metadata: "))

    assert found.keys() == {*STORED, *odd, "foreign"}
    assert (found["nan"], found["inf"], found["big"], found["price"]) == ("NaN", "Infinity", 2**70, "1.5")


def refusing_constants(text: str) -> Any:
    """Parse JSON as strictly as other languages do."""

    def refuse(name: str) -> None:
        raise AssertionError(name)

    return json.loads(text, parse_constant=refuse)


# Errors


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"action": "drop"}, "action must be one of get, set, update, delete"),
        ({"action": None}, "action must be one of"),
        ({"action": ["get"]}, "action must be one of"),
        ({"action": "set"}, "metadata"),
        ({"action": "set", "metadata": {}}, "metadata is needed"),
        ({"action": "set", "metadata": "{not json"}, "not valid JSON"),
        ({"action": "set", "metadata": '{"a":' * 100_000}, "not valid JSON: it is nested too deep"),
        ({"action": "set", "metadata": "[1]"}, "metadata must be an object"),
        ({"action": "set", "metadata": 5}, "metadata must be an object"),
        ({"action": "set", "metadata": {"$bad": 1}}, r"'$bad'"),
        ({"action": "set", "metadata": {"a": 1, "a.b": 2}}, "overlap"),
        ({"action": "set", "metadata": {"name.first": "Bob"}}, "not an object"),
        ({"action": "set", "metadata": {"a": Decimal(1)}}, "Decimal"),
        ({"action": "delete"}, "keys is needed"),
        ({"action": "delete", "keys": []}, "keys is needed"),
        ({"action": "delete", "keys": "[1"}, "not valid JSON"),
        ({"action": "delete", "keys": [1]}, "keys must be a list of field names"),
        ({"action": "delete", "keys": {"a": 1}}, "keys must be a list of field names"),
        ({"action": "delete", "keys": ["a..b"]}, "'a..b'"),
        ({"action": "get", "keys": 5}, "keys must be a list of field names"),
    ],
    ids=str,
)
def test_errors_are_answers(manager: MongoDBSessionManager, arguments: dict[str, Any], told: str) -> None:
    answer = manager.get_metadata_tool()(**arguments)

    assert answer.startswith("Error: ")
    assert told in answer
    assert manager.get_metadata() == {"metadata": STORED}


@pytest.mark.parametrize(
    "arguments",
    [{"action": "get"}, {"action": "set", "metadata": {"a": 1}}, {"action": "delete", "keys": ["a"]}],
    ids=str,
)
def test_a_deleted_session_is_an_answer(manager: MongoDBSessionManager, arguments: dict[str, Any]) -> None:
    tool = manager.get_metadata_tool()
    manager.delete_session()

    assert tool(**arguments).startswith("Error: Session 's-1' is not stored")


def test_a_refusing_server_is_an_answer(
    manager: MongoDBSessionManager, failing: Callable[..., Any], command_counter: CommandCounter
) -> None:
    with failing("update", errorCode=13):
        answer = manager.get_metadata_tool()(action="set", metadata={"a": 1})

    assert answer == OUT_OF_ORDER


OUT_OF_ORDER = "Error: the notebook cannot be reached right now. Go on without it, and try again later."


@pytest.mark.parametrize(
    "arguments",
    [{"action": "get"}, {"action": "set", "metadata": {"a": 1}}, {"action": "delete", "keys": ["a"]}],
    ids=str,
)
def test_a_model_learns_nothing_of_the_servers(
    mongodb_uri: str, database: str, nobodys_port: int, caplog: pytest.LogCaptureFixture, arguments: dict[str, Any]
) -> None:
    away = MongoClient[dict[str, Any]](f"mongodb://127.0.0.1:{nobodys_port}", serverSelectionTimeoutMS=50)
    with away, MongoClient[dict[str, Any]](mongodb_uri) as client:
        manager = MongoDBSessionManager("s-1", client=client, database_name=database)
        collection = away[database].agent_sessions
        manager._stores.metadata._operations.sessions = collection

        answer = manager.get_metadata_tool()(**arguments)

    assert answer == OUT_OF_ORDER
    assert "the metadata tool failed" in caplog.text
    assert str(nobodys_port) not in caplog.text


def _from_the_driver() -> None:
    raise ServerSelectionTimeoutError("10.1.2.3:27017: timed out, Topology Description: …")


def _from_the_system() -> None:
    raise ConnectionRefusedError(111, "Connect call failed ('10.1.2.3', 27017)")


def _from_aws() -> None:
    raise EndpointConnectionError(endpoint_url="http://10.1.2.3/")


@pytest.mark.parametrize("fail", [_from_the_driver, _from_the_system, _from_aws])
@pytest.mark.parametrize("wrapped", [False, True])
def test_nor_by_what_a_hook_makes_of_it(new_manager: NewManager, fail: Callable[[], None], wrapped: bool) -> None:
    def failing_hook(original_func: Hook, action: str, session_id: str, **kwargs: Any) -> Any:
        if not wrapped:
            fail()
        try:
            fail()
        except Exception as error:
            raise RuntimeError(f"the CRM is away: {error}") from error

    answer = new_manager(metadata_hook=failing_hook).get_metadata_tool()(action="get")

    assert answer == OUT_OF_ORDER


# Hooks


@pytest.mark.parametrize(
    ("arguments", "seen"),
    [
        ({"action": "get"}, ("get", {})),
        ({"action": "get", "keys": ["name"]}, ("get", {})),
        ({"action": "set", "metadata": {"a": 1}}, ("update", {"metadata": {"a": 1}})),
        ({"action": "update", "metadata": '{"a": 1}'}, ("update", {"metadata": {"a": 1}})),
        ({"action": "delete", "keys": ["name"]}, ("delete", {"keys": ["name"]})),
    ],
    ids=str,
)
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
async def test_hooks_see_what_the_model_does(
    new_manager: NewManager, arguments: dict[str, Any], seen: tuple[str, dict[str, Any]], asynchronous: bool
) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    def audit(original_func: Hook, action: str, session_id: str, **kwargs: Any) -> Any:
        calls.append((action, kwargs))
        return original_func()

    async def audit_later(original_func: Hook, action: str, session_id: str, **kwargs: Any) -> Any:
        calls.append((action, kwargs))
        return await original_func()

    manager = new_manager(metadata_hook=audit_later if asynchronous else audit)

    answer = manager.get_metadata_tool()(**arguments)

    assert not answer.startswith("Error")
    assert all(given.pop("session_manager") is manager for _, given in calls)
    assert calls == [seen]


def test_a_hook_that_raises_is_an_answer(new_manager: NewManager) -> None:
    def refuse(original_func: Hook, action: str, session_id: str, **kwargs: Any) -> Any:
        if action == "get":
            return original_func()
        raise PermissionError("not on my watch")

    manager = new_manager(metadata_hook=refuse)
    tool = manager.get_metadata_tool()

    assert tool(action="set", metadata={"a": 1}) == "Error: not on my watch"
    assert tool(action="delete", keys=["a"]) == "Error: not on my watch"
    assert manager.get_metadata() == {}


@pytest.mark.parametrize("returned", [None, "text", {"metadata": None}, {}], ids=repr)
def test_a_hook_may_return_anything(new_manager: NewManager, returned: Any) -> None:
    def careless(original_func: Hook, action: str, session_id: str, **kwargs: Any) -> Any:
        original_func()
        return returned

    answer = new_manager(metadata_hook=careless).get_metadata_tool()(action="get")

    assert answer.startswith(("Error: ", "All metadata: "))


# Restrictions


@pytest.mark.parametrize(
    "arguments",
    [
        {"action": "get", "keys": ["internal"]},
        {"action": "get", "keys": ["prefs"]},
        {"action": "get", "keys": ["name", "internal"]},
        {"action": "set", "metadata": {"internal": 1}},
        {"action": "set", "metadata": {"name": 1, "internal": 1}},
        {"action": "update", "metadata": {"prefs": {"theme": 1}}},
        {"action": "update", "metadata": {"prefs.font": 1}},
        {"action": "update", "metadata": {"prefs.themes": 1}},
        {"action": "update", "metadata": {"names": 1}},
        {"action": "delete", "keys": ["internal"]},
        {"action": "delete", "keys": ["prefs"]},
    ],
    ids=str,
)
def test_other_fields_are_out_of_reach(manager: MongoDBSessionManager, arguments: dict[str, Any]) -> None:
    answer = manager.get_metadata_tool(allowed_keys=["name", "prefs.theme"])(**arguments)

    assert answer.startswith("Error: no access to ")
    assert "trusted" not in answer
    assert manager.get_metadata() == {"metadata": STORED}


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        ({"action": "get"}, 'All metadata: {"name": "Alice", "prefs.theme": "dark"}'),
        ({"action": "get", "keys": ["prefs.theme"]}, 'Metadata retrieved: {"prefs.theme": "dark"}'),
        ({"action": "set", "metadata": {"prefs.theme": "x"}}, "Successfully updated metadata fields: ['prefs.theme']"),
        ({"action": "set", "metadata": {"name.first": "x"}}, "Error: Metadata of session"),
        ({"action": "delete", "keys": ["name"]}, "Successfully deleted metadata fields: ['name']"),
    ],
    ids=str,
)
def test_allowed_fields_are_in_reach(manager: MongoDBSessionManager, arguments: dict[str, Any], answer: str) -> None:
    assert manager.get_metadata_tool(allowed_keys=["name", "prefs.theme"])(**arguments).startswith(answer)


def test_no_allowed_fields_are_none(manager: MongoDBSessionManager) -> None:
    tool = manager.get_metadata_tool(allowed_keys=[])

    assert tool(action="get") == "All metadata: {}"
    assert tool(action="set", metadata={"a": 1}).startswith("Error: no access")


@pytest.mark.parametrize("action", ["set", "update", "delete"])
def test_a_reader_changes_nothing(manager: MongoDBSessionManager, action: str) -> None:
    tool = manager.get_metadata_tool(read_only=True)

    assert tool(action=action, metadata={"a": 1}, keys=["name"]).startswith("Error: action must be one of get, got")
    assert tool(action="get", keys=["name"]) == 'Metadata retrieved: {"name": "Alice"}'
    assert manager.get_metadata() == {"metadata": STORED}


def test_allowed_keys_must_be_a_list(manager: MongoDBSessionManager) -> None:
    with pytest.raises(TypeError, match="list"):
        manager.get_metadata_tool(allowed_keys="name")


# The schema


@pytest.mark.parametrize(
    ("options", "actions", "names"),
    [
        ({}, ["get", "set", "update", "delete"], {"action", "metadata", "keys"}),
        ({"read_only": True}, ["get"], {"action", "keys"}),
    ],
)
def test_the_schema_tells_a_model_how_to_use_it(
    manager: MongoDBSessionManager, options: dict[str, Any], actions: list[str], names: set[str]
) -> None:
    spec = manager.get_metadata_tool(**options).tool_spec

    schema = spec["inputSchema"]["json"]
    assert spec["name"] == "manage_metadata"
    assert len(spec["description"]) > 80
    assert set(schema["properties"]) == names
    assert schema["properties"]["action"]["enum"] == actions
    assert all(len(part["description"]) > 20 for part in schema["properties"].values())
    assert schema["required"] == ["action"]


# In an agent


def test_an_agent_keeps_metadata_by_itself(new_manager: NewManager, new_agent: NewAgent) -> None:
    manager = new_manager()
    turns = [
        use(action="set", metadata={"prefs.theme": "dark"}),
        use(action="get", keys=["prefs.theme"]),
        use(action="update", metadata='{"name": "Alice"}'),
        use(action="delete", keys='["prefs"]'),
        use(action="get"),
        "Done.",
    ]
    agent = new_agent(manager, *turns, tools=[manager.get_metadata_tool()])

    agent("Remember things")

    assert answers(agent.messages) == [
        "Successfully updated metadata fields: ['prefs.theme']",
        'Metadata retrieved: {"prefs.theme": "dark"}',
        "Successfully updated metadata fields: ['name']",
        "Successfully deleted metadata fields: ['prefs']",
        'All metadata: {"name": "Alice"}',
    ]
    assert manager.get_metadata() == {"metadata": {"name": "Alice"}}


@pytest.mark.parametrize(
    "arguments",
    [{}, {"action": "drop"}, {"action": 5}, {"action": "set", "metadata": [1]}, {"action": "get", "keys": [1]}],
    ids=str,
)
async def test_a_confused_model_does_not_break_the_agent(
    new_manager: NewManager, new_agent: NewAgent, arguments: dict[str, Any]
) -> None:
    manager = new_manager()
    agent = new_agent(manager, use(**arguments), "Sorry.", tools=[manager.get_metadata_tool()])

    result = await agent.invoke_async("Remember things")

    assert result.stop_reason == "end_turn"
    assert [answer[:6] for answer in answers(agent.messages)] == ["Error:"]
    assert manager.get_metadata() == {}


def test_an_agent_can_be_asked_directly(new_manager: NewManager, new_agent: NewAgent) -> None:
    manager = new_manager()
    agent = new_agent(manager, tools=[manager.get_metadata_tool()])

    agent.tool.manage_metadata(action="set", metadata={"a": 1})

    assert manager.get_metadata() == {"metadata": {"a": 1}}
