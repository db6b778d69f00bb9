"""Feedback to SNS and changed metadata to SQS, sent in the background, on an emulator of AWS on this machine.

Start the emulator in an environment of its own, since it pins botocore. Then run the example in a second terminal:

    python3 -m venv .venv-aws && .venv-aws/bin/pip install -q ministack==1.5.33
    BIND_HOST=127.0.0.1 .venv-aws/bin/ministack
    AWS_ENDPOINT_URL=http://127.0.0.1:4566 python examples/example_aws_hooks.py
"""

import json
import os
from typing import Any
from uuid import uuid4

import boto3  # type: ignore[import-untyped]

from mongodb_session_manager import MongoDBSessionManager, create_feedback_sns_hook, create_metadata_sqs_hook
from mongodb_session_manager.testing import MongodNotFoundError, MongodStartError, running_mongodb

NO_EMULATOR = """AWS_ENDPOINT_URL does not name an emulator. Start one, and try again in a second terminal:
    python3 -m venv .venv-aws && .venv-aws/bin/pip install -q ministack==1.5.33
    BIND_HOST=127.0.0.1 .venv-aws/bin/ministack
    AWS_ENDPOINT_URL=http://127.0.0.1:4566 python examples/example_aws_hooks.py"""


def use_emulator() -> Any:
    """Return a boto3 session for the emulator; its credentials are not valid anywhere else."""
    if not os.environ.get("AWS_ENDPOINT_URL"):
        raise SystemExit(NO_EMULATOR)
    return boto3.session.Session("testing", "testing", region_name="eu-west-1")


class Inbox:
    """A queue, and the messages that it received."""

    def __init__(self, session: Any) -> None:
        self._sqs = session.client("sqs")
        self.url = self._sqs.create_queue(QueueName=f"example-{uuid4().hex}")["QueueUrl"]

    def subscribe(self, sns: Any, topic_arn: str) -> None:
        """Subscribe the queue to a topic."""
        found = self._sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=["QueueArn"])
        sns.subscribe(TopicArn=topic_arn, Protocol="sqs", Endpoint=found["Attributes"]["QueueArn"])

    def bodies(self) -> list[dict[str, Any]]:
        """Return the messages that the queue received."""
        found = self._sqs.receive_message(QueueUrl=self.url, MaxNumberOfMessages=10)
        return [json.loads(message["Body"]) for message in found.get("Messages", [])]

    def delete(self) -> None:
        """Remove the queue."""
        self._sqs.delete_queue(QueueUrl=self.url)


def main() -> None:
    with running_mongodb() as uri:
        session = use_emulator()
        sns = session.client("sns")
        topic = sns.create_topic(Name=f"example-{uuid4().hex}")["TopicArn"]
        complaints, changes = Inbox(session), Inbox(session)
        complaints.subscribe(sns, topic)

        # Only bad feedback is sent. With a boto3 session as client= the hook makes its client from it.
        feedback_hook = create_feedback_sns_hook(
            "none", topic, "none", subject_prefix_bad="[URGENT] ", body_prefix_bad="At {timestamp}\n", client=session
        )
        # Each notification is stored in the session until SQS has it, so that a crash loses none.
        metadata_hook = create_metadata_sqs_hook(
            changes.url, metadata_fields=["status"], delivery="at_least_once", client=session
        )
        hooks: dict[str, Any] = {"feedback_hook": feedback_hook, "metadata_hook": metadata_hook}
        with MongoDBSessionManager("customer-42", uri, **hooks) as manager:
            manager.update_metadata({"status": "open", "internal": "not told of"})
            manager.add_feedback({"rating": "up", "comment": "Quick"})
            manager.add_feedback({"rating": "down", "comment": "That is wrong"})
            manager.delete_metadata(["status"])
        # close() has waited until everything was sent.

        for notification in complaints.bodies():
            print(f"SNS: {notification['Subject']} | {notification['Message'].splitlines()[-1]}")
        for event in changes.bodies():
            print(f"SQS: {event['operation']} {event['metadata']}, id of {len(event['id'])} characters")

        with MongoDBSessionManager("customer-42", uri) as manager:
            print(f"left in the outbox: {len(manager.undelivered)}")
            manager.delete_session()
        sns.delete_topic(TopicArn=topic)
        complaints.delete()
        changes.delete()


if __name__ == "__main__":
    try:
        main()
    except (MongodNotFoundError, MongodStartError) as error:
        raise SystemExit(str(error)) from None
