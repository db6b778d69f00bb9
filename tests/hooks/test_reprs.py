"""What a hook says of itself."""

from typing import Any

import boto3  # type: ignore[import-untyped]

from mongodb_session_manager import create_feedback_sns_hook, create_metadata_sqs_hook, create_metadata_websocket_hook

TOPIC = "arn:aws:sns:eu-west-1:123456789012:bad"
QUEUE = "https://sqs.eu-west-1.amazonaws.com/123456789012/changes"
GATEWAY = "https://abc.execute-api.eu-west-1.amazonaws.com/prod"


def test_reprs() -> None:
    aws_session: Any = boto3.session.Session("testing", "testing", region_name="eu-west-1")
    made = [
        create_feedback_sns_hook("none", TOPIC, "none", client=aws_session),
        create_metadata_sqs_hook(QUEUE, delivery="at_least_once", client=aws_session),
        create_metadata_websocket_hook(GATEWAY, region="eu-west-1", client=aws_session),
    ]
    assert [repr(hook) for hook in made] == [
        f"FeedbackSNSHook({TOPIC}, best_effort)",
        f"MetadataSQSHook({QUEUE}, at_least_once)",
        f"MetadataWebSocketHook({GATEWAY}, best_effort)",
    ]
