"""Sends changed metadata to the browser, over a WebSocket API of Amazon API Gateway."""

import logging
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from .._override import override
from ..errors import SessionNotFoundError
from . import _aws
from ._delivery import DeliveryError, DeliveryRefusedError
from ._metadata_events import MetadataEventHook
from ._notifying import DeliveryMode, Notice, database_time

if TYPE_CHECKING:
    from ..mongodb_session_repository import MongoDBSessionRepository

__all__ = ["MetadataWebSocketHook", "create_metadata_websocket_hook", "is_metadata_websocket_hook_available"]

logger = logging.getLogger(__name__)

CONNECTION_ID = "connection_id"
# A browser that reconnects faster than this gets the next message.
_MOST_CONNECTIONS = 5


class MetadataWebSocketHook(MetadataEventHook):
    """Posts a JSON message to the session's WebSocket connection for each update or deletion of metadata.

    The metadata field ``connection_id`` names the connection, and is read when the message is sent. Without it nothing
    is sent; the id of a closed connection is removed from the metadata. The field itself is never sent.

    Args:
        api_gateway_endpoint: The ``@connections`` URL or the ``wss://`` URL of the API's stage.
        metadata_fields: The fields to send; all by default.
        region: The region, if the URL names none; by default that of ``AWS_REGION`` or ``AWS_DEFAULT_REGION``.
        delivery: ``"best_effort"`` or ``"at_least_once"``.
        client: A client of ``apigatewaymanagementapi``, or a boto3 session.
        endpoint_url: The address of the API, for emulators.

    Raises:
        ImportError: boto3 is missing, and no client was given.
        TypeError: ``client`` is neither a client of the service nor a boto3 session.
        ValueError: An argument is not valid.
    """

    kind = "metadata_websocket"
    limit = 128 * 1000
    unsent = frozenset({CONNECTION_ID})

    def __init__(
        self,
        api_gateway_endpoint: str,
        metadata_fields: Collection[str] | None = None,
        region: str | None = None,
        *,
        delivery: DeliveryMode = "best_effort",
        client: Any = None,
        endpoint_url: str | None = None,
    ) -> None:
        endpoint = _management_url(api_gateway_endpoint)
        super().__init__(endpoint, metadata_fields, delivery)
        parts = _aws.checked_url("api_gateway_endpoint", endpoint)
        if endpoint_url is not None:
            _aws.checked_url("endpoint_url", endpoint_url)
        self._source = _aws.ClientSource(
            "apigatewaymanagementapi",
            _aws.url_region("api_gateway_endpoint", parts, region, client),
            endpoint_url or endpoint,
            client,
        )

    @override
    def _send(self, notice: Notice, repository: "MongoDBSessionRepository | None") -> None:
        if repository is None:
            raise DeliveryRefusedError("no bind() was called, so the stored connection_id is out of reach")
        # If a new connection has replaced a closed one, the new one gets the message.
        for _ in range(_MOST_CONNECTIONS):
            connection = _stored_connection(repository, notice.session_id)
            if connection is None:
                logger.debug("session_id=<%s> | no browser is connected, nothing is sent", notice.session_id)
                return
            if self._posted(connection, notice.message["body"]):
                return
            if _removed(repository, notice.session_id, connection):
                logger.info("session_id=<%s> | the connection has gone, its id is removed", notice.session_id)
                return
        raise DeliveryError("each connection had gone")

    def _posted(self, connection: str, body: str) -> bool:
        """Post; False if the connection is closed."""
        client = self._source.client()
        try:
            _aws.call(client, "post_to_connection", ConnectionId=connection, Data=body.encode())
        except DeliveryRefusedError as error:
            if _aws.http_status(error.__cause__) != _aws.GONE:
                raise
            return False
        return True


def _management_url(endpoint: Any) -> Any:
    """Return the URL to post to, from any of the URLs that API Gateway shows."""
    if not isinstance(endpoint, str):
        return endpoint
    for scheme, posted in (("wss://", "https://"), ("ws://", "http://")):
        if endpoint.startswith(scheme):
            endpoint = posted + endpoint.removeprefix(scheme)
    return endpoint.rstrip("/").removesuffix("/@connections")


def _stored_connection(repository: "MongoDBSessionRepository", session_id: str) -> str | None:
    try:
        with database_time():
            connection = repository.get_metadata(session_id).get("metadata", {}).get(CONNECTION_ID)
    except SessionNotFoundError:
        return None
    return connection if isinstance(connection, str) and connection else None


def _removed(repository: "MongoDBSessionRepository", session_id: str, connection: str) -> bool:
    """Remove the stored connection; False if another one has replaced it."""
    with database_time():
        return repository.delete_metadata(session_id, [CONNECTION_ID], held={CONNECTION_ID: connection})


def create_metadata_websocket_hook(
    api_gateway_endpoint: str,
    metadata_fields: Collection[str] | None = None,
    region: str | None = None,
    **options: Any,
) -> MetadataWebSocketHook:
    """Return ``MetadataWebSocketHook(api_gateway_endpoint, …)``; options and errors are the same."""
    return MetadataWebSocketHook(api_gateway_endpoint, metadata_fields, region, **options)


def is_metadata_websocket_hook_available() -> bool:
    """Return whether boto3, which the hook needs, can be imported."""
    return _aws.is_available()
