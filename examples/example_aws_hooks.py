"""Feedback to SNS and changed metadata to SQS, sent in the background.

Run it as it is: a recorder takes the place of AWS, and the program prints what the hooks sent.

On an emulator of AWS on this machine the messages go through a real topic and real queues. Start the emulator in an
environment of its own, since it pins botocore. Then run the example in a second terminal:

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


class Recorder:
    """Takes the place of SNS and SQS: a client with the two methods that the hooks call."""

    topic = "arn:aws:sns:eu-west-1:123456789012:complaints"
    queue = "https://sqs.eu-west-1.amazonaws.com/123456789012/changes"

    def __init__(self) -> None:
        self.sender = self
        self.complaints: list[dict[str, Any]] = []
        self.changes: list[dict[str, Any]] = []

    def publish(self, **message: Any) -> None:
        """Keep what SNS would publish."""
        self.complaints.append(message)

    def send_message(self, **message: Any) -> None:
        """Keep what SQS would queue."""
        self.changes.append(json.loads(message["MessageBody"]))

    def delete(self) -> None:
        """There is nothing to delete."""


class Emulator:
    """A topic and two queues of the emulator that ``AWS_ENDPOINT_URL`` names."""

    def __init__(self) -> None:
        # A boto3 session, from which the hooks make their clients; its credentials are not valid anywhere else.
        self.sender = boto3.session.Session("testing", "testing", region_name="eu-west-1")
        self._sns, self._sqs = self.sender.client("sns"), self.sender.client("sqs")
        self.topic = self._sns.create_topic(Name=f"example-{uuid4().hex}")["TopicArn"]
        self.queue, self._inbox = self._make_queue(), self._make_queue()
        found = self._sqs.get_queue_attributes(QueueUrl=self._inbox, AttributeNames=["QueueArn"])
        self._sns.subscribe(TopicArn=self.topic, Protocol="sqs", Endpoint=found["Attributes"]["QueueArn"])

    def _make_queue(self) -> str:
        return str(self._sqs.create_queue(QueueName=f"example-{uuid4().hex}")["QueueUrl"])

    @property
    def complaints(self) -> list[dict[str, Any]]:
        """What the topic's subscriber received."""
        return self._received(self._inbox)

    @property
    def changes(self) -> list[dict[str, Any]]:
        """What the queue received."""
        return self._received(self.queue)

    def _received(self, queue: str) -> list[dict[str, Any]]:
        found = self._sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10)
        return [json.loads(message["Body"]) for message in found.get("Messages", [])]

    def delete(self) -> None:
        """Remove the topic and the queues."""
        self._sns.delete_topic(TopicArn=self.topic)
        for queue in (self.queue, self._inbox):
            self._sqs.delete_queue(QueueUrl=queue)


def main() -> None:
    with running_mongodb() as uri:
        aws = Emulator() if os.environ.get("AWS_ENDPOINT_URL") else Recorder()
        print("AWS:", "an emulator" if isinstance(aws, Emulator) else "a recorder in its place")
        # Only bad feedback is sent.
        feedback_hook = create_feedback_sns_hook(
            *("none", aws.topic, "none"),
            subject_prefix_bad="[URGENT] ",
            body_prefix_bad="At {timestamp}\n",
            client=aws.sender,
        )
        # Each notification is stored in the session until SQS has it, so that a crash loses none.
        metadata_hook = create_metadata_sqs_hook(
            aws.queue, metadata_fields=["status"], delivery="at_least_once", client=aws.sender
        )
        hooks: dict[str, Any] = {"feedback_hook": feedback_hook, "metadata_hook": metadata_hook}
        with MongoDBSessionManager("customer-42", uri, **hooks) as manager:
            manager.update_metadata({"status": "open", "internal": "not told of"})
            manager.add_feedback({"rating": "up", "comment": "Quick"})
            manager.add_feedback({"rating": "down", "comment": "That is wrong"})
            manager.delete_metadata(["status"])
        # close() has waited until everything was sent.

        for notification in aws.complaints:
            print(f"SNS: {notification['Subject']} | {notification['Message'].splitlines()[-1]}")
        for event in aws.changes:
            print(f"SQS: {event['operation']} {event['metadata']}, id of {len(event['id'])} characters")

        with MongoDBSessionManager("customer-42", uri) as manager:
            print(f"left in the outbox: {len(manager.undelivered)}")
            manager.delete_session()
        aws.delete()


if __name__ == "__main__":
    try:
        main()
    except (MongodNotFoundError, MongodStartError) as error:
        raise SystemExit(str(error)) from None
