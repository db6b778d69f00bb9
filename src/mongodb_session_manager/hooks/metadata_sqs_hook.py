"""Sends changed metadata to an SQS queue."""

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from .._override import override
from . import _aws
from ._metadata_events import EVENT, MetadataEventHook
from ._notifying import DeliveryMode, Notice

if TYPE_CHECKING:
    from ..mongodb_session_repository import MongoDBSessionRepository

__all__ = ["MetadataSQSHook", "create_metadata_sqs_hook", "is_metadata_sqs_hook_available"]


class MetadataSQSHook(MetadataEventHook):
    """Sends a JSON message to an SQS queue for each update or deletion of metadata, once it is stored.

    A FIFO queue gets the session as the message group and the event's id for deduplication.

    Args:
        queue_url: The queue's URL. It names the region if its host is one of AWS's.
        metadata_fields: The fields to send; all by default.
        region: The region, if the URL names none; by default that of ``AWS_REGION`` or ``AWS_DEFAULT_REGION``.
        delivery: ``"best_effort"`` or ``"at_least_once"``.
        client: An SQS client, or a boto3 session.
        endpoint_url: The address of SQS, for emulators and private endpoints.

    Raises:
        ImportError: boto3 is missing, and no client was given.
        TypeError: ``client`` is neither a client of the service nor a boto3 session.
        ValueError: An argument is not valid.
    """

    kind = "metadata_sqs"
    limit = 256 * 1024 - 4 * 1024  # attributes count too

    def __init__(
        self,
        queue_url: str,
        metadata_fields: Collection[str] | None = None,
        *,
        region: str | None = None,
        delivery: DeliveryMode = "best_effort",
        client: Any = None,
        endpoint_url: str | None = None,
    ) -> None:
        super().__init__(queue_url, metadata_fields, delivery)
        parts = _aws.checked_url("queue_url", queue_url)
        if not parts.path.strip("/"):
            raise ValueError(f"queue_url must end with the name of a queue, got {queue_url!r}")
        if endpoint_url is not None:
            _aws.checked_url("endpoint_url", endpoint_url)
        elif not _aws.is_aws_host(parts.hostname or ""):
            endpoint_url = f"{parts.scheme}://{parts.netloc}"  # the host of an emulator, or a custom one
        self._source = _aws.ClientSource(
            "sqs", _aws.url_region("queue_url", parts, region, client), endpoint_url, client
        )

    @override
    def _send(self, notice: Notice, repository: "MongoDBSessionRepository | None") -> None:
        message = notice.message
        _aws.call(
            self._source.client(),
            "send_message",
            QueueUrl=notice.target,
            MessageBody=message["body"],
            MessageAttributes=_aws.attributes(
                session_id=notice.session_id,
                event=EVENT,
                operation=message["operation"],
                event_id=message["event_id"],
            ),
            **_aws.fifo(notice.target, notice.session_id, notice.id),
        )


def create_metadata_sqs_hook(
    queue_url: str, metadata_fields: Collection[str] | None = None, **options: Any
) -> MetadataSQSHook:
    """Return ``MetadataSQSHook(queue_url, metadata_fields, …)``; options and errors are the same."""
    return MetadataSQSHook(queue_url, metadata_fields, **options)


def is_metadata_sqs_hook_available() -> bool:
    """Return whether boto3, which the hook needs, can be imported."""
    return _aws.is_available()
