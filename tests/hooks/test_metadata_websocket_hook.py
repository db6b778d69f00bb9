"""Changed metadata at a real WebSocket client, by way of an emulated API Gateway and a proxy that breaks things."""

import json
import re
from collections.abc import Iterator
from typing import Any

import boto3  # type: ignore[import-untyped]
import pytest

from mongodb_session_manager import (
    create_metadata_sqs_hook,
    create_metadata_websocket_hook,
    is_metadata_websocket_hook_available,
)
from tests.aliases import NewManager
from tests.watching import eventually

SERVICE = "apigatewaymanagementapi"


@pytest.fixture
def browser(aws: Any) -> Iterator[tuple[Any, str]]:
    with aws.browser() as (client, connection_id):
        yield client, connection_id


@pytest.fixture
def hook(aws: Any) -> Any:
    return create_metadata_websocket_hook(aws.websocket_endpoint)


def received(client: Any, count: int) -> list[dict[str, Any]]:
    return [json.loads(client.recv(timeout=10)) for _ in range(count)]


def is_silent(client: Any) -> bool:
    try:
        client.recv(timeout=0.2)
    except TimeoutError:
        return True
    return False


def test_an_update_and_a_delete(browser: Any, hook: Any, new_manager: NewManager) -> None:
    client, connection_id = browser
    with new_manager(metadata_hook=hook) as manager:
        manager.update_metadata({"status": "waiting"})
        hook.flush(5)  # no browser is connected
        manager.update_metadata({"connection_id": connection_id})
        manager.update_metadata({"status": "open"})
        manager.delete_metadata(["status"])

    update, delete = received(client, 2)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00", update.pop("timestamp"))
    assert update == {
        "session_id": "s-1",
        "event": "metadata_update",
        "operation": "update",
        "metadata": {"status": "open"},
    }
    assert (delete["operation"], delete["metadata"]) == ("delete", {"status": None})
    assert is_silent(client)


def test_a_key_that_is_refused_sends_nothing(browser: Any, hook: Any, new_manager: NewManager) -> None:
    client, connection_id = browser
    with new_manager(metadata_hook=hook) as manager:
        manager.update_metadata({"connection_id": connection_id})
        manager.session_repository.update_metadata("s-1", {"tags": ["a"]})
        with pytest.raises(ValueError, match=r"'tags\.900000'"):
            manager.update_metadata({"tags.900000": "b"})
        hook.flush(5)
        assert is_silent(client)


def test_the_connection_of_an_earlier_process_is_used_and_never_sent(
    aws: Any, browser: Any, new_manager: NewManager
) -> None:
    client, connection_id = browser
    with new_manager() as manager:
        manager.update_metadata({"connection_id": connection_id})
    hook = create_metadata_websocket_hook(aws.websocket_endpoint, ["status", "connection_id"])
    with new_manager(metadata_hook=hook) as manager:
        manager.update_metadata({"status": 1, "connection_id": connection_id, "other": 2})
        manager.update_metadata({"connection_id": connection_id})

    assert [event["metadata"] for event in received(client, 1)] == [{"status": 1}]
    assert is_silent(client)


def test_a_connection_that_has_gone_is_removed(
    aws: Any, hook: Any, new_manager: NewManager, caplog: pytest.LogCaptureFixture
) -> None:
    with aws.browser() as (_, connection_id):
        pass
    assert eventually(lambda: has_gone(aws, connection_id))
    with new_manager(metadata_hook=hook) as manager:
        manager.update_metadata({"connection_id": connection_id, "status": 1})
        hook.flush(5)
        assert manager.get_metadata() == {"metadata": {"status": 1}}

    assert caplog.text == ""  # 410 is normal


def has_gone(aws: Any, connection_id: str) -> bool:
    endpoint = aws.websocket_endpoint.replace(aws.faulty_url, aws.url)
    client = boto3.client(SERVICE, region_name="eu-west-1", endpoint_url=endpoint)
    try:
        client.post_to_connection(ConnectionId=connection_id, Data=b"?")
    except client.exceptions.GoneException:
        return True
    return False


def test_a_new_connection_is_not_removed_in_place_of_the_old_one(
    aws: Any, browser: Any, hook: Any, new_manager: NewManager, mongo_client: Any, database_name: str
) -> None:
    client, connection_id = browser
    sessions = mongo_client[database_name]["agent_sessions"]
    with new_manager(metadata_hook=hook) as manager:
        manager.update_metadata({"connection_id": "old"})
        aws.fail({"service": SERVICE, "times": 1, "latency": 1000})
        manager.update_metadata({"status": 1})
        assert eventually(aws.fired)  # the post to the old one is held up; the browser reconnects meanwhile
        sessions.update_one({"_id": "s-1"}, {"$set": {"metadata.connection_id": connection_id}})

    assert [event["metadata"] for event in received(client, 1)] == [{"status": 1}]
    assert sessions.find_one({"_id": "s-1"})["metadata"]["connection_id"] == connection_id


def test_a_connection_that_comes_while_the_old_one_is_removed_stays(
    browser: Any,
    hook: Any,
    new_manager: NewManager,
    mongo_client: Any,
    database_name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client, connection_id = browser
    sessions = mongo_client[database_name]["agent_sessions"]
    removed: list[bool] = []

    with new_manager(metadata_hook=hook) as manager:
        remove = manager.session_repository.delete_metadata

        def reconnect_first(*args: Any, **kwargs: Any) -> bool:
            sessions.update_one({"_id": "s-1"}, {"$set": {"metadata.connection_id": connection_id}})
            removed.append(remove(*args, **kwargs))
            return removed[-1]

        monkeypatch.setattr(manager.session_repository, "delete_metadata", reconnect_first)
        manager.update_metadata({"connection_id": "old", "status": 1})

        assert [event["metadata"] for event in received(client, 1)] == [{"status": 1}]
    assert removed == [False]
    assert sessions.find_one({"_id": "s-1"})["metadata"]["connection_id"] == connection_id


def test_a_connection_that_has_gone_is_removed_in_one_operation(
    aws: Any, hook: Any, new_manager: NewManager, command_counter: Any
) -> None:
    with new_manager(metadata_hook=hook) as manager:
        with command_counter.counting() as log:
            manager.update_metadata({"connection_id": "gone", "status": 1})
            hook.flush(10)
        assert manager.get_metadata() == {"metadata": {"status": 1}}

    assert log.names == ["update", "find", "update"]


def test_what_is_too_large_goes_without_its_largest_fields(browser: Any, hook: Any, new_manager: NewManager) -> None:
    client, connection_id = browser
    with new_manager(metadata_hook=hook) as manager:
        manager.update_metadata({"connection_id": connection_id})
        manager.update_metadata({"status": 1, "text": "x" * 130_000, **{f"f{n}": "y" * 30_000 for n in range(3)}})

    (event,) = received(client, 1)
    assert set(event["metadata"]) == {"status", "f0", "f1", "f2"}
    assert event["omitted"] == ["text"]


@pytest.mark.parametrize(
    ("fault", "level"),
    [
        ({"error": {"code": "PayloadTooLargeException", "status": 413}}, "ERROR"),
        ({"error": {"code": "ForbiddenException", "status": 403}}, "WARNING"),
    ],
    ids=["413", "403"],
)
def test_a_failed_notification_never_fails_the_call(
    aws: Any,
    browser: Any,
    hook: Any,
    new_manager: NewManager,
    fault: dict[str, Any],
    level: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    client, connection_id = browser
    with new_manager(metadata_hook=hook) as manager:
        manager.update_metadata({"connection_id": connection_id})
        aws.fail({"service": SERVICE, "times": 1, **fault})
        manager.update_metadata({"status": 1})
        manager.update_metadata({"status": 2})

    assert [event["metadata"] for event in received(client, 1)] == [{"status": 2}]
    (record,) = caplog.records
    assert record.levelname == level
    assert "session_id=<s-1>" in record.getMessage()
    assert connection_id not in caplog.text


def test_what_soon_ends_is_not_noticed(aws: Any, browser: Any, hook: Any, new_manager: NewManager) -> None:
    client, connection_id = browser
    with new_manager(metadata_hook=hook) as manager:
        manager.update_metadata({"connection_id": connection_id})
        aws.fail(
            {"service": SERVICE, "times": 1, "error": {"code": "LimitExceededException", "status": 429}},
            {"service": SERVICE, "times": 1, "reset": True},
        )
        for number in range(3):
            manager.update_metadata({"number": number})

    assert [event["metadata"]["number"] for event in received(client, 3)] == [0, 1, 2]
    assert len(aws.fired()) == 2


def test_composes_with_sqs(aws: Any, browser: Any, hook: Any, new_manager: NewManager) -> None:
    client, connection_id = browser
    queue = aws.queue()
    audit = []

    def audit_hook(original_func: Any, action: str, session_id: str, **kwargs: Any) -> Any:
        audit.append(action)
        return original_func()

    with new_manager(metadata_hook=[audit_hook, create_metadata_sqs_hook(queue, ["status"]), hook]) as manager:
        manager.update_metadata({"connection_id": connection_id})
        for number in range(10):
            manager.update_metadata({"status": number})

    assert [event["metadata"]["status"] for event in received(client, 10)] == list(range(10))
    assert [event["metadata"]["status"] for event in aws.events(queue, 10)] == list(range(10))
    assert audit == ["update"] * 11


def test_a_deleted_session_has_no_listener(browser: Any, hook: Any, new_manager: NewManager) -> None:
    client, connection_id = browser
    with new_manager(metadata_hook=hook) as manager:
        manager.update_metadata({"connection_id": connection_id})
        notice = hook._notice("update", "s-1", {"status": 1})
        manager.delete_session()
        hook._send(notice, manager.session_repository)

    assert is_silent(client)


def test_says_so_when_it_was_never_bound(hook: Any, caplog: pytest.LogCaptureFixture) -> None:
    hook(lambda metadata: None, "update", "s-1", metadata={"status": 1})
    hook.flush(5)

    assert "no bind() was called" in caplog.text


# Configuration


def test_is_available() -> None:
    assert is_metadata_websocket_hook_available() is True


@pytest.mark.parametrize(
    ("endpoint", "posted"),
    [
        ("https://a1.execute-api.eu-west-1.amazonaws.com/prod", "https://a1.execute-api.eu-west-1.amazonaws.com/prod"),
        ("wss://a1.execute-api.eu-west-1.amazonaws.com/prod/", "https://a1.execute-api.eu-west-1.amazonaws.com/prod"),
        (
            "https://a1.execute-api.eu-west-1.amazonaws.com/@connections",
            "https://a1.execute-api.eu-west-1.amazonaws.com",
        ),
    ],
)
def test_takes_whichever_url_is_at_hand(endpoint: str, posted: str) -> None:
    source = create_metadata_websocket_hook(endpoint, region="eu-north-1")._source

    assert (source.region, source.endpoint_url) == ("eu-west-1", posted)


@pytest.mark.parametrize("endpoint", [None, "", "a1.execute-api.eu-west-1.amazonaws.com", "arn:aws:x", 7])
def test_refuses_what_is_no_url(endpoint: Any) -> None:
    with pytest.raises(ValueError, match="api_gateway_endpoint"):
        create_metadata_websocket_hook(endpoint)


def test_a_name_of_ones_own_needs_a_region(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)

    with pytest.raises(ValueError, match="pass region="):
        create_metadata_websocket_hook("https://ws.example.com/prod")
    assert create_metadata_websocket_hook("https://ws.example.com", None, "eu-west-1")._source.region == "eu-west-1"
    assert create_metadata_websocket_hook("http://localhost:4566/prod")._source.region == "us-east-1"
    monkeypatch.setenv("AWS_REGION", "eu-west-2")
    assert create_metadata_websocket_hook("https://ws.example.com/prod")._source.region == "eu-west-2"
