"""Changed metadata in real SQS queues, through a proxy that breaks things."""

import asyncio
import base64
import json
import os
import resource
import sys
import threading
import time
from datetime import datetime, timezone
from typing import Any

import boto3  # type: ignore[import-untyped]
import pytest

from mongodb_session_manager import (
    MetadataSQSHook,
    MongoDBSessionManager,
    MongoDBSessionManagerFactory,
    create_metadata_sqs_hook,
    is_metadata_sqs_hook_available,
)
from mongodb_session_manager.hooks import _aws
from mongodb_session_manager.hooks.dispatcher import THREADS
from tests.aliases import NewManager

AWS_QUEUE = "https://sqs.eu-west-1.amazonaws.com/123456789012/changes"


@pytest.fixture
def queue(aws: Any) -> str:
    return str(aws.queue())


def test_an_update_and_a_delete(aws: Any, queue: str, new_manager: NewManager) -> None:
    with new_manager(metadata_hook=create_metadata_sqs_hook(queue)) as manager:
        manager.update_metadata({"status": "open", "customer.city": "Lisbon"})
        manager.delete_metadata(["status"])

    first, second = aws.received(queue, 2)

    assert _attributes(first) == {"session_id": "s-1", "event": "metadata_update", "operation": "update"}
    assert _attributes(second)["operation"] == "delete"
    body = _body(first)
    at = datetime.fromisoformat(body.pop("timestamp"))
    assert abs((datetime.now(timezone.utc) - at).total_seconds()) < 60
    assert body == {
        "session_id": "s-1",
        "event": "metadata_update",
        "operation": "update",
        "metadata": {"status": "open", "customer.city": "Lisbon"},
    }
    assert _body(second)["metadata"] == {"status": None}


def _attributes(message: dict[str, Any]) -> dict[str, str]:
    return {name: value["StringValue"] for name, value in message["MessageAttributes"].items()}


def _body(message: dict[str, Any]) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(message["Body"])
    return body


def test_named_fields_only(aws: Any, queue: str, new_manager: NewManager) -> None:
    hook = create_metadata_sqs_hook(queue, ["status", "customer.city"])
    with new_manager(metadata_hook=hook) as manager:
        manager.update_metadata({"status": "open", "secret": 1})
        manager.update_metadata({"secret": 2})
        manager.update_metadata({"customer": {"city": "Lisbon", "name": "Ada"}})
        manager.update_metadata({"customer.city": "Porto", "customer.name": "Bob"})
        manager.delete_metadata(["customer", "secret"])
        manager.delete_metadata(["secret"])
        manager.get_metadata()

    assert [event["metadata"] for event in aws.events(queue, 4)] == [
        {"status": "open"},
        {"customer.city": "Lisbon"},
        {"customer.city": "Porto"},
        {"customer.city": None},
    ]


def test_nothing_is_sent_of_what_was_not_stored(aws: Any, queue: str, new_manager: NewManager) -> None:
    with new_manager(metadata_hook=create_metadata_sqs_hook(queue)) as manager:
        manager.update_metadata({})
        for refused in ({"$bad": 1}, {"a": {1, 2}}, "no mapping"):
            with pytest.raises((TypeError, ValueError)):
                manager.update_metadata(refused)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            manager.delete_metadata("status")

    assert aws.received(queue) == []


def test_values_that_json_does_not_have(aws: Any, queue: str, new_manager: NewManager) -> None:
    at = datetime(2026, 5, 4, 3, 2, 1, tzinfo=timezone.utc)
    values = {"at": at, "bytes": b"\x00\xff", "nan": float("nan"), "text": "é 😀 \ufffe \x00", "list": [{"n": None}]}
    with new_manager(metadata_hook=create_metadata_sqs_hook(queue)) as manager:
        manager.update_metadata(values)

    (event,) = aws.events(queue, 1)
    assert event["metadata"] == {
        "at": "2026-05-04T03:02:01+00:00",
        "bytes": base64.b64encode(b"\x00\xff").decode(),
        "nan": None,
        "text": "é 😀 \ufffe \x00",
        "list": [{"n": None}],
    }


@pytest.mark.parametrize("session_id", ["s-1", "a" * 1024, "kunde 7/ä"])
def test_a_fifo_queue_keeps_the_order_of_a_session(aws: Any, new_manager: NewManager, session_id: str) -> None:
    queue = aws.queue(fifo=True)
    with new_manager(session_id, metadata_hook=create_metadata_sqs_hook(queue)) as manager:
        for number in range(5):
            manager.update_metadata({"number": number % 2})

    messages = aws.received(queue, 5)
    assert [_body(message)["metadata"]["number"] for message in messages] == [0, 1, 0, 1, 0]
    (group,) = {message["Attributes"]["MessageGroupId"] for message in messages}
    assert len(group) <= 128
    assert (group == session_id) is (session_id == "s-1")


def test_what_is_too_large_goes_without_its_largest_fields(
    aws: Any, queue: str, new_manager: NewManager, caplog: pytest.LogCaptureFixture
) -> None:
    with new_manager(metadata_hook=create_metadata_sqs_hook(queue)) as manager:
        manager.update_metadata({"status": "open", "text": "ä" * 200_000})

    (event,) = aws.events(queue, 1)
    assert (event["metadata"], event["omitted"]) == ({"status": "open"}, ["text"])
    assert "session_id=<s-1>" in caplog.text
    assert "omitted=<1>" in caplog.text
    assert "ää" not in caplog.text


def test_hooks_compose_and_tell_what_was_stored(aws: Any, queue: str, new_manager: NewManager) -> None:
    audit = []

    async def audit_hook(original_func: Any, action: str, session_id: str, **kwargs: Any) -> Any:
        audit.append((action, kwargs))
        return await original_func()

    def inner(original_func: Any, action: str, session_id: str, **kwargs: Any) -> Any:
        return original_func({**kwargs["metadata"], "by": "inner"}) if action == "update" else original_func()

    other = aws.queue()
    sqs_hooks = [create_metadata_sqs_hook(queue), create_metadata_sqs_hook(other, ["by"])]
    with new_manager(metadata_hook=[audit_hook, *sqs_hooks, inner]) as manager:
        manager.update_metadata({"status": "open"})
        assert manager.get_metadata() == {"metadata": {"status": "open", "by": "inner"}}
        asyncio.run(manager.aupdate_metadata({"status": "closed"}))

    assert [event["metadata"] for event in aws.events(queue, 2)] == [
        {"status": "open", "by": "inner"},
        {"status": "closed", "by": "inner"},
    ]
    assert [event["metadata"] for event in aws.events(other, 2)] == [{"by": "inner"}, {"by": "inner"}]
    assert audit[0] == ("update", {"metadata": {"status": "open"}, "session_manager": manager})


def test_a_hook_that_does_not_store_sends_nothing(aws: Any, queue: str, new_manager: NewManager) -> None:
    def swallow(original_func: Any, action: str, session_id: str, **kwargs: Any) -> None:
        return None

    with new_manager(metadata_hook=[create_metadata_sqs_hook(queue), swallow]) as manager:
        manager.update_metadata({"status": "open"})

    assert aws.received(queue) == []


def test_a_key_that_is_refused_sends_nothing(aws: Any, queue: str, new_manager: NewManager) -> None:
    with new_manager(metadata_hook=create_metadata_sqs_hook(queue)) as manager:
        manager.session_repository.update_metadata("s-1", {"tags": ["a"]})
        with pytest.raises(ValueError, match=r"'tags\.900000'"):
            manager.update_metadata({"tags.900000": "b"})
        with pytest.raises(ValueError, match=r"'tags\.0'"):
            manager.delete_metadata(["tags.0"])

    assert aws.received(queue) == []


@pytest.mark.parametrize("awaited", [False, True])
def test_may_be_called_by_a_hook_of_ones_own(aws: Any, queue: str, new_manager: NewManager, awaited: bool) -> None:
    sqs = create_metadata_sqs_hook(queue)

    def plain(original_func: Any, action: str, session_id: str, **kwargs: Any) -> Any:
        return sqs(original_func, action, session_id, metadata={"changed": True})

    async def coroutine(original_func: Any, action: str, session_id: str, **kwargs: Any) -> Any:
        return await sqs(original_func, action, session_id, metadata={"changed": True})

    with new_manager(metadata_hook=coroutine if awaited else plain) as manager:
        manager.update_metadata({"status": "open"})
        assert manager.session_repository.get_metadata("s-1") == {"metadata": {"changed": True}}
    sqs.flush(5)

    assert [event["metadata"] for event in aws.events(queue, 1)] == [{"changed": True}]


def test_a_function_of_ones_own_may_store(aws: Any, queue: str) -> None:
    stored = []
    sqs = create_metadata_sqs_hook(queue)

    sqs(lambda metadata: stored.append(metadata), "update", "s-1", metadata={"a": 1})
    sqs(lambda: stored.append("read"), "get", "s-1")
    sqs.flush(5)

    assert stored == [{"a": 1}, "read"]
    assert [event["metadata"] for event in aws.events(queue, 1)] == [{"a": 1}]


def test_a_value_that_holds_itself_is_refused_by_the_operation_alone(
    aws: Any, queue: str, new_manager: NewManager, caplog: pytest.LogCaptureFixture
) -> None:
    loop: dict[str, Any] = {}
    loop["self"] = loop
    manager = new_manager(metadata_hook=create_metadata_sqs_hook(queue))
    with pytest.raises(ValueError, match="cannot be stored"):
        manager.update_metadata({"loop": loop})
    manager.close()

    assert aws.received(queue) == []
    assert "error=<RecursionError> | no notification could be made" in caplog.text


def test_a_function_that_tells_nothing_of_itself(aws: Any, queue: str) -> None:
    sqs = create_metadata_sqs_hook(queue)

    assert sqs(max, "update", "s-1", metadata={"a": 1, "b": 2}) == "b"
    sqs.flush(5)

    assert [event["metadata"] for event in aws.events(queue, 1)] == [{"a": 1, "b": 2}]


def test_the_factory_waits_for_what_is_queued(
    aws: Any, queue: str, mongo_client: Any, database_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    hook = create_metadata_sqs_hook(queue)
    aws.fail({"service": "sqs", "operation": "SendMessage", "latency": 300})
    factory = MongoDBSessionManagerFactory(client=mongo_client, database_name=database_name, metadata_hook=hook)
    managers = [factory.create_session_manager(f"s-{number}") for number in range(2)]
    for manager in managers:
        manager.update_metadata({"status": "open"})

    hook.flush(0.01)
    assert "notifications=<2> | not sent in time" in caplog.text
    factory.close()
    assert [event["session_id"] for event in aws.events(queue)] == ["s-0", "s-1"]


# Faults


@pytest.mark.parametrize(
    "fault",
    [
        {"error": {"code": "ServiceUnavailable", "status": 503}},
        {"error": {"code": "InternalError", "status": 500}},
        {"reset": True},
    ],
    ids=["503", "500", "reset"],
)
def test_what_soon_ends_is_not_noticed(aws: Any, queue: str, new_manager: NewManager, fault: dict[str, Any]) -> None:
    with new_manager(metadata_hook=create_metadata_sqs_hook(queue)) as manager:
        aws.fail({"service": "sqs", "operation": "SendMessage", "times": 1, **fault})
        for number in range(3):
            manager.update_metadata({"number": number})

    assert [event["metadata"]["number"] for event in aws.events(queue, 3)] == [0, 1, 2]
    assert len(aws.fired()) == 1


def test_a_failed_notification_never_fails_the_call(
    aws: Any, queue: str, new_manager: NewManager, caplog: pytest.LogCaptureFixture
) -> None:
    with new_manager(metadata_hook=create_metadata_sqs_hook(queue)) as manager:
        aws.fail({"service": "sqs", "times": 1, "error": {"code": "AccessDenied", "status": 403}})
        manager.update_metadata({"status": "content"})
        manager.update_metadata({"status": "next"})

    assert [event["metadata"] for event in aws.events(queue, 1)] == [{"status": "next"}]
    (record,) = [record.getMessage() for record in caplog.records]
    assert record.startswith("session_id=<s-1>, id=<")
    assert "error=<send_message: AccessDenied (HTTP 403)> | a notification failed and was dropped" in record
    assert "content" not in caplog.text
    assert "testing" not in caplog.text


def test_a_slow_service_holds_up_neither_caller_nor_loop(aws: Any, queue: str, new_manager: NewManager) -> None:
    async def main(manager: MongoDBSessionManager) -> tuple[float, float]:
        started = time.perf_counter()
        ticks = asyncio.create_task(_longest_tick())
        for number in range(4):
            await manager.aupdate_metadata({"number": number})
        took = time.perf_counter() - started
        return took, await ticks

    with new_manager(metadata_hook=create_metadata_sqs_hook(queue)) as manager:
        manager.update_metadata({"number": -1})  # makes the client
        aws.fail({"service": "sqs", "operation": "SendMessage", "latency": 1000})
        took, tick = asyncio.run(main(manager))

    assert took < 3  # of four seconds, if it waited for the service
    assert tick < 0.8
    assert [event["metadata"]["number"] for event in aws.events(queue, 5)] == [-1, 0, 1, 2, 3]


async def _longest_tick() -> float:
    longest = 0.0
    for _ in range(50):
        before = time.perf_counter()
        await asyncio.sleep(0.01)
        longest = max(longest, time.perf_counter() - before)
    return longest


def test_a_thousand_events_keep_their_order_in_bounded_memory_and_threads(aws: Any, new_manager: NewManager) -> None:
    queue = aws.direct(aws.queue())
    hook = create_metadata_sqs_hook(queue)
    managers = [new_manager(f"s-{number}", metadata_hook=hook) for number in range(4)]
    managers[0].update_metadata({"number": -1})
    hook.flush(5)
    aws.received(queue, 1)
    threads, memory = threading.active_count(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    for number in range(1000):
        managers[number % 4].update_metadata({"number": number})
    assert threading.active_count() <= threads + THREADS // 2
    hook.flush(30)

    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 64 * 1024
    events = aws.events(queue, 1000)
    for manager in managers:
        numbers = [event["metadata"]["number"] for event in events if event["session_id"] == manager.session_id]
        assert (len(numbers), numbers) == (250, sorted(numbers))


@pytest.mark.parametrize("delivery", ["best_effort", "at_least_once"])
def test_the_end_of_the_process_drains(
    aws: Any, queue: str, run_child: Any, mongo_client: Any, database_name: str, delivery: str
) -> None:
    done = run_child(
        "from mongodb_session_manager import MongoDBSessionManager, create_metadata_sqs_hook\n"
        "hook = create_metadata_sqs_hook(QUEUE, delivery=DELIVERY)\n"
        "manager = MongoDBSessionManager('s-1', URI, DATABASE, metadata_hook=hook)\n"
        "for number in range(30): manager.update_metadata({'number': number})\n",
        QUEUE=queue,
        DELIVERY=delivery,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [event["metadata"]["number"] for event in aws.events(queue, 30)] == list(range(30))
    assert not mongo_client[database_name]["agent_sessions"].find_one({"_id": "s-1"}).get("outbox")


# Configuration


def test_is_available() -> None:
    assert is_metadata_sqs_hook_available() is True


def test_tells_when_there_is_no_boto3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)

    assert is_metadata_sqs_hook_available() is False
    with pytest.raises(ImportError, match=r"pip install 'mongodb-session-manager\[aws\]'"):
        create_metadata_sqs_hook(AWS_QUEUE)


@pytest.mark.parametrize(
    "queue_url",
    [
        *(None, "", "changes", "arn:aws:sqs:eu-west-1:123456789012:changes", "ftp://sqs/1/q", "https://", 7),
        *("https://sqs.eu-west-1.amazonaws.com/", "https://sqs.eu-west-1.amazonaws.com:0/1/q"),
        *("https://queues.example.com/1/q", "https://me:secret@sqs.eu-west-1.amazonaws.com/1/q", "https://[::/q"),
    ],
)
def test_refuses_what_is_no_queue(queue_url: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)

    with pytest.raises(ValueError, match="queue_url") as raised:
        create_metadata_sqs_hook(queue_url)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "options",
    [
        *({"metadata_fields": "status"}, {"metadata_fields": [""]}, {"metadata_fields": [1]}, {"metadata_fields": 1}),
        *({"delivery": "exactly_once"}, {"region": "Europe"}, {"region": ""}, {"endpoint_url": "localhost:4566"}),
    ],
    ids=str,
)
def test_refuses_options_that_are_not_fit(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"metadata_fields|delivery|region|endpoint_url"):
        create_metadata_sqs_hook(AWS_QUEUE, **options)


@pytest.mark.parametrize(
    ("url", "region", "endpoint"),
    [
        (AWS_QUEUE, "eu-west-1", None),
        ("https://sqs.cn-north-1.amazonaws.com.cn/123456789012/q", "cn-north-1", None),
        ("https://sqs.us-gov-west-1.amazonaws.com/123456789012/q", "us-gov-west-1", None),
        ("https://vpce-1-a.sqs.ap-southeast-2.vpce.amazonaws.com/123456789012/q", "ap-southeast-2", None),
        ("https://queues.example.com/123456789012/q", "eu-north-1", "https://queues.example.com"),
        ("http://127.0.0.1:4566/000000000000/q", "eu-north-1", "http://127.0.0.1:4566"),
    ],
)
def test_the_region_comes_from_the_url(url: str, region: str, endpoint: str | None) -> None:
    source = create_metadata_sqs_hook(url, region="eu-north-1")._source

    assert (source.service, source.region, source.endpoint_url) == ("sqs", region, endpoint)


def test_a_client_is_shared_and_may_be_given(aws: Any, queue: str, new_manager: NewManager) -> None:
    hooks = [create_metadata_sqs_hook(queue), create_metadata_sqs_hook(queue)]
    assert hooks[0]._source.client() is hooks[1]._source.client()
    assert hooks[0]._source.client().meta.config.retries == {"mode": "standard", "total_max_attempts": 3}
    _aws._forget_clients()
    assert hooks[0]._source.client() is hooks[1]._source.client()

    client = aws.client("sqs")
    given = create_metadata_sqs_hook(AWS_QUEUE, client=client)
    assert given._source.client() is client
    session = boto3.session.Session("a", "b", region_name="eu-west-3")
    source = MetadataSQSHook("https://sqs.eu-north-1.amazonaws.com/1/q", client=session)._source
    assert source.client().meta.region_name == "eu-north-1"
    assert source.client() is source.client()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on Windows")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_connections_of_its_own() -> None:
    session = boto3.session.Session("a", "b", region_name="eu-west-3")
    hooks = [create_metadata_sqs_hook(AWS_QUEUE), create_metadata_sqs_hook(AWS_QUEUE, client=session)]
    of_parent = [hook._source.client() for hook in hooks]

    child = os.fork()
    if child == 0:
        shared = [hook._source.client() is client for hook, client in zip(hooks, of_parent, strict=True)]
        os._exit(sum(shared))

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert [hook._source.client() for hook in hooks] == of_parent


def test_a_given_session_knows_its_region(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    session = boto3.session.Session("a", "b", region_name="eu-west-3")
    for url in ("http://127.0.0.1:4566/1/q", "http://localhost:4566/1/q"):
        monkeypatch.setenv("AWS_REGION", "us-west-2")
        source = create_metadata_sqs_hook(url, client=session)._source
        assert source.client().meta.region_name == "eu-west-3"
        assert create_metadata_sqs_hook(url, client=session, region="eu-north-1")._source.region == "eu-north-1"
        monkeypatch.delenv("AWS_REGION")
    nowhere = boto3.session.Session("a", "b")
    with pytest.raises(ValueError, match="pass region="):
        create_metadata_sqs_hook("https://queues.example.com/1/q", client=nowhere)
    assert create_metadata_sqs_hook("http://localhost:4566/1/q", client=nowhere)._source.region == "us-east-1"
    source = create_metadata_sqs_hook("https://queues.example.com/1/q", client=session)._source

    assert source.client().meta.region_name == "eu-west-3"
