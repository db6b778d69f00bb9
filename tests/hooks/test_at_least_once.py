"""Nothing is lost: notifications that are stored by the write that they tell of."""

import json
import signal
from collections.abc import Callable
from typing import Any

import pytest

from mongodb_session_manager import (
    create_feedback_sns_hook,
    create_metadata_sqs_hook,
    create_metadata_websocket_hook,
)
from tests.aliases import NewManager
from tests.watching import eventually

Outbox = Callable[..., list[dict[str, Any]]]
DENIED = {"error": {"code": "AccessDenied", "status": 403}}  # nothing that boto3 tries again


@pytest.fixture
def queue(aws: Any) -> str:
    return str(aws.queue())


def sqs_hook(queue: str, **options: Any) -> Any:
    return create_metadata_sqs_hook(queue, delivery="at_least_once", **options)


def test_the_record_is_in_the_write_and_goes_when_it_is_sent(
    aws: Any, queue: str, new_manager: NewManager, outbox: Outbox
) -> None:
    aws.fail({"service": "sqs", "operation": "SendMessage", "latency": 500})
    with new_manager(metadata_hook=sqs_hook(queue)) as manager:
        manager.update_metadata({"status": "open"})
        (record,) = outbox()
        assert (record["hook"], record["target"]) == ("metadata_sqs", queue)

    assert outbox() == []
    (message,) = aws.received(queue, 1)
    body = json.loads(message["Body"])
    assert body["id"] == record["id"] == message["MessageAttributes"]["event_id"]["StringValue"]
    assert body["metadata"] == {"status": "open"}


def test_best_effort_records_nothing(aws: Any, queue: str, new_manager: NewManager, outbox: Outbox) -> None:
    aws.fail({"service": "sqs", "operation": "SendMessage", "latency": 200})
    with new_manager(metadata_hook=create_metadata_sqs_hook(queue)) as manager:
        manager.update_metadata({"status": "open"})
        assert outbox() == []

    (message,) = aws.received(queue, 1)
    assert "event_id" not in message["MessageAttributes"]
    assert "id" not in json.loads(message["Body"])


KILLED = """
import os, signal
from mongodb_session_manager import MongoDBSessionManager, create_metadata_sqs_hook
hook = create_metadata_sqs_hook(QUEUE, delivery="at_least_once")
manager = MongoDBSessionManager("s-1", URI, DATABASE, metadata_hook=hook)
for number in range(5):
    manager.update_metadata({"number": number})
print("stored", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_loses_nothing(
    aws: Any, queue: str, new_manager: NewManager, outbox: Outbox, run_child: Any
) -> None:
    aws.fail({"service": "sqs", "operation": "SendMessage", "timeout_ms": 5_000})  # it is held up, and never sent
    done = run_child(KILLED, QUEUE=queue)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "stored\n")
    ids = [record["id"] for record in outbox()]
    assert len(ids) == 5
    aws.fail()

    with new_manager(metadata_hook=sqs_hook(queue)) as manager:
        manager.update_metadata({"number": 5})

    events = aws.events(queue, 6)
    assert [event["metadata"]["number"] for event in events] == [0, 1, 2, 3, 4, 5]
    assert [event["id"] for event in events][:5] == ids
    assert outbox() == []


def test_a_storm_of_faults_loses_nothing_and_keeps_the_order(
    aws: Any, queue: str, new_manager: NewManager, outbox: Outbox, impatient: Any
) -> None:
    hook = impatient(sqs_hook(queue))
    managers = [new_manager(f"s-{number}", metadata_hook=hook) for number in range(3)]
    aws.fail(
        {"service": "sqs", "operation": "SendMessage", "probability": 0.2, **DENIED},
        {"service": "sqs", "operation": "SendMessage", "probability": 0.1, "reset": True},
    )
    for number in range(60):
        managers[number % 3].update_metadata({"number": number})
    hook.flush(20)
    aws.fail()
    assert eventually(lambda: len(hook._dispatcher) == 0, 20)

    seen: dict[str, dict[str, Any]] = {}
    for event in aws.events(queue, 60):
        seen.setdefault(event["id"], event)
    for manager in managers:
        told = [event["metadata"]["number"] for event in seen.values() if event["session_id"] == manager.session_id]
        assert told == list(range(int(manager.session_id[-1]), 60, 3))
        assert outbox(manager.session_id) == []


def test_an_outage_is_made_up_for_by_whoever_opens_the_session_next(
    aws: Any, queue: str, new_manager: NewManager, outbox: Outbox, impatient: Any
) -> None:
    aws.fail({"service": "sqs", "operation": "SendMessage", **DENIED})
    hook = impatient(sqs_hook(queue))
    with new_manager(metadata_hook=hook) as manager:
        for number in range(3):
            manager.update_metadata({"number": number})
    assert eventually(lambda: len(hook._dispatcher) == 0)  # it has given up
    assert len(outbox()) == 3
    aws.fail()

    new_manager(metadata_hook=sqs_hook("http://127.0.0.1:1/0/another")).close()
    assert len(outbox()) == 3  # those of another queue are none of its business
    new_manager(metadata_hook=create_metadata_sqs_hook(queue)).close()  # best effort by now

    assert [event["metadata"]["number"] for event in aws.events(queue, 3)] == [0, 1, 2]
    assert outbox() == []


def test_what_can_never_be_sent_does_not_stay(
    aws: Any, queue: str, new_manager: NewManager, outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    aws.fail({"service": "sqs", "times": 1, "error": {"code": "InvalidMessageContents", "status": 400}})
    with new_manager(metadata_hook=sqs_hook(queue)) as manager:
        manager.update_metadata({"number": 1})
        manager.update_metadata({"number": 2})

    assert outbox() == []
    assert [event["metadata"]["number"] for event in aws.events(queue, 1)] == [2]
    assert "session_id=<s-1>" in caplog.text
    assert "can never be delivered" in caplog.text


def test_feedback(aws: Any, new_manager: NewManager, outbox: Outbox, impatient: Any) -> None:
    topic, queue = aws.topic()
    arns = (topic, topic, "none")
    aws.fail({"service": "sns", "operation": "Publish", **DENIED})
    hook = impatient(create_feedback_sns_hook(*arns, delivery="at_least_once", endpoint_url=aws.faulty_url))
    with new_manager(feedback_hook=hook) as manager:
        manager.add_feedback({"rating": "up", "comment": "1"})
        manager.add_feedback({"rating": "down", "comment": "2"})
        manager.add_feedback({"rating": None, "comment": "3"})
    assert eventually(lambda: len(hook._dispatcher) == 0)
    ids = [record["id"] for record in outbox()]
    assert len(ids) == 2
    aws.fail()

    again = create_feedback_sns_hook(*arns, delivery="at_least_once", endpoint_url=aws.faulty_url)
    new_manager(feedback_hook=again).close()

    told = [json.loads(message["Body"]) for message in aws.received(queue, 2)]
    assert [each["Message"][-1] for each in told] == ["1", "2"]
    assert [each["MessageAttributes"]["event_id"]["Value"] for each in told] == ids
    assert outbox() == []


def test_websocket(aws: Any, new_manager: NewManager, outbox: Outbox, impatient: Any) -> None:
    hook = create_metadata_websocket_hook(aws.websocket_endpoint, delivery="at_least_once")
    with aws.browser() as (client, connection_id):
        with new_manager(metadata_hook=hook) as manager:
            manager.update_metadata({"connection_id": connection_id})
            manager.update_metadata({"status": 1})
            hook.flush(5)
        event = json.loads(client.recv(timeout=5))

    assert event["metadata"] == {"status": 1}
    assert event["id"]
    assert outbox() == []


def test_two_kinds_on_one_manager(aws: Any, queue: str, new_manager: NewManager, outbox: Outbox) -> None:
    other = str(aws.queue(fifo=True))
    with new_manager(metadata_hook=[sqs_hook(queue), sqs_hook(other, metadata_fields=["a"])]) as manager:
        manager.update_metadata({"a": 1, "b": 2})
        manager.delete_metadata(["b"])

    assert [event["metadata"] for event in aws.events(queue, 2)] == [{"a": 1, "b": 2}, {"b": None}]
    assert [event["metadata"] for event in aws.events(other, 1)] == [{"a": 1}]
    assert outbox() == []


def test_who_passes_the_manager_on_needs_no_bind(
    aws: Any, queue: str, new_manager: NewManager, outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    sqs = sqs_hook(queue)

    def wrapped(original_func: Any, action: str, session_id: str, **kwargs: Any) -> Any:
        return sqs(original_func, action, session_id, **kwargs)

    aws.fail({"service": "sqs", "operation": "SendMessage", "latency": 500})
    with new_manager(metadata_hook=wrapped) as manager:
        manager.update_metadata({"a": 1})
        assert len(outbox()) == 1
        sqs.flush(5)

    assert outbox() == []
    assert caplog.text == ""


class Wrapped:
    """Passes nothing on but what it has to."""

    def __init__(self, hook: Any) -> None:
        self._hook = hook
        self.bind = hook.bind

    def __call__(self, original_func: Any, action: str, session_id: str, metadata: Any = None) -> Any:
        return self._hook(original_func, action, session_id, metadata=metadata)


def test_who_passes_bind_on_needs_not_pass_the_manager(
    aws: Any, queue: str, new_manager: NewManager, outbox: Outbox
) -> None:
    hook = Wrapped(sqs_hook(queue))
    new_manager(metadata_hook=hook)  # another of the same session
    aws.fail({"service": "sqs", "operation": "SendMessage", "latency": 500})
    with new_manager(metadata_hook=hook) as manager:
        manager.update_metadata({"a": 1})
        assert len(outbox()) == 1

    assert outbox() == []


def test_without_the_manager_nobody_guesses_between_two_places(
    aws: Any, queue: str, new_manager: NewManager, outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    hook = Wrapped(sqs_hook(queue))
    new_manager(metadata_hook=hook, collection_name="others")
    manager = new_manager(metadata_hook=hook)

    manager.update_metadata({"a": 1})

    assert outbox() == []
    assert "several places have such a session: delivered as best effort" in caplog.text
    assert [event["metadata"] for event in aws.events(queue, 1)] == [{"a": 1}]


def test_without_bind_it_is_best_effort(
    aws: Any, queue: str, new_manager: NewManager, outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    sqs = sqs_hook(queue)

    def wrapped(original_func: Any, action: str, session_id: str, metadata: Any = None) -> Any:
        return sqs(original_func, action, session_id, metadata=metadata)

    with new_manager(metadata_hook=wrapped) as manager:
        manager.update_metadata({"a": 1})
        assert outbox() == []
        sqs.flush(5)

    assert [event["metadata"] for event in aws.events(queue, 1)] == [{"a": 1}]
    assert "no bind() was called" in caplog.text
