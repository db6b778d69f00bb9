"""What a next target takes: one small class."""

import json
import uuid
from collections.abc import Callable
from typing import Any

from mongodb_session_manager import MongoDBSessionManager
from mongodb_session_manager.hooks import _aws
from mongodb_session_manager.hooks._metadata_events import EVENT, MetadataEventHook
from mongodb_session_manager.hooks._notifying import DeliveryMode, Notice


class EventBridgeHook(MetadataEventHook):
    kind = "metadata_eventbridge"
    limit = 250 * 1024

    def __init__(self, bus: str, region: str, endpoint_url: str, delivery: DeliveryMode = "best_effort") -> None:
        super().__init__(bus, None, delivery)
        self._source = _aws.ClientSource("events", region, endpoint_url, None)

    def _send(self, notice: Notice, repository: Any) -> None:
        entry = {"Source": "sessions", "DetailType": EVENT, "Detail": notice.message["body"]}
        _aws.call(self._source.client(), "put_events", Entries=[{**entry, "EventBusName": notice.target}])


def test_eventbridge(aws: Any, new_manager: Callable[..., MongoDBSessionManager]) -> None:
    bus, queue = uuid.uuid4().hex, aws.queue()
    events = aws.client("events")
    events.create_event_bus(Name=bus)
    events.put_rule(Name="all", EventBusName=bus, EventPattern=json.dumps({"source": ["sessions"]}))
    wanted = {"QueueUrl": aws.direct(queue), "AttributeNames": ["QueueArn"]}
    arn = aws.client("sqs").get_queue_attributes(**wanted)["Attributes"]["QueueArn"]
    events.put_targets(Rule="all", EventBusName=bus, Targets=[{"Id": "queue", "Arn": arn}])

    with new_manager(metadata_hook=EventBridgeHook(bus, "eu-west-1", aws.url, "at_least_once")) as manager:
        manager.update_metadata({"status": "open"})

    (event,) = aws.events(queue, 1)
    assert (event["source"], event["detail"]["metadata"]) == ("sessions", {"status": "open"})
