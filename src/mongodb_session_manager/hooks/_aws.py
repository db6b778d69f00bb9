"""Everything about AWS: clients, regions, limits and errors. Only this module imports boto3, when it is needed."""

import hashlib
import os
import re
import threading
import weakref
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, urlsplit

from .._schema.ids import shown
from ._delivery import DeliveryError, DeliveryRefusedError

CONNECT_TIMEOUT = 3
READ_TIMEOUT = 5
ATTEMPTS = 3

_REGION = re.compile(r"[a-z]{2,4}(?:-[a-z]+)+-\d{1,2}")
_TOPIC = re.compile(r"arn:aws[a-z-]*:sns:(?P<region>[^:]+):\d+:[A-Za-z0-9_-]{1,256}(?:\.fifo)?")
_AWS_HOST = re.compile(r"\.(?:amazonaws\.(?:com(?:\.cn)?|eu)|api\.aws|c2s\.ic\.gov|sc2s\.sgov\.gov)$")
_LOOPBACK = re.compile(r"localhost|127\.[\d.]+|::1|.*\.localhost")
# The form of a message group id.
_GROUP_ID = re.compile(r"[!-~]{1,128}")
# Characters that the services refuse: those that are not valid in XML 1.0.
_NOT_TEXT = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

# What a hook calls of each service.
_OPERATIONS = {"apigatewaymanagementapi": "post_to_connection", "sns": "publish", "sqs": "send_message"}

# Error codes after which every further attempt would fail too. Denials and missing topics or queues are not among
# them, since an operator can mend these.
_REFUSALS = {
    *("InvalidParameter", "InvalidParameterValue", "ParameterValueInvalid", "ValidationError", "ValidationException"),
    *("InvalidMessageContents", "InvalidAttributeValue", "MissingParameter", "MessageTooLong", "BatchRequestTooLong"),
    *("BadRequestException", "GoneException", "PayloadTooLargeException", "RequestEntityTooLargeException"),
}
GONE = 410
_TOO_LARGE = 413


def is_available() -> bool:
    """Return whether boto3 can be imported."""
    try:
        import boto3  # type: ignore[import-untyped]  # noqa: F401
    except Exception:  # noqa: BLE001 - a broken installation counts as missing
        return False
    return True


class ClientSource:
    """The source of a hook's client, which is made once.

    Args:
        service: The name of the service in boto3.
        region: Of the resource; the given session's where it is None.
        endpoint_url: Instead of the region's own.
        given: A client, or a boto3 session to make one from; by default a session that all hooks share.

    Raises:
        ImportError: boto3 is missing, and nothing was given.
        TypeError: What was given is neither a session nor a client of the service.
    """

    def __init__(self, service: str, region: str | None, endpoint_url: str | None, given: Any) -> None:
        if given is None and not is_available():
            raise ImportError("this hook needs boto3: pip install 'mongodb-session-manager[aws]'")
        self.service, self.region, self.endpoint_url = service, region, endpoint_url
        self._session = given if _can(given, "client") else None
        if given is not None and self._session is None and not _can(given, _OPERATIONS[service]):
            raise TypeError(f"client must be a boto3 client of {service}, or a boto3 session, got {_kind(given)}")
        self._client = None if self._session is not None else given

    def client(self) -> Any:
        """Return the client."""
        if self._client is not None:
            return self._client
        if self._session is None:
            return self._shared_client()
        with _lock:  # making clients from one session is not thread-safe
            if self not in _of_sessions:
                _of_sessions[self] = self._new_client(self._session)
            return _of_sessions[self]

    def _shared_client(self) -> Any:
        import boto3

        key = (self.service, self.region, self.endpoint_url)
        with _lock:
            if key not in _clients:
                # A session of our own: making clients from boto3's default session is not thread-safe.
                _clients[key] = self._new_client(boto3.session.Session())
            return _clients[key]

    def _new_client(self, session: Any) -> Any:
        from botocore.config import Config  # type: ignore[import-untyped]

        config = Config(
            connect_timeout=CONNECT_TIMEOUT,
            read_timeout=READ_TIMEOUT,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        )
        return session.client(self.service, region_name=self.region, endpoint_url=self.endpoint_url, config=config)


def _can(given: object, operation: str) -> bool:
    # Objects of pymongo have attributes of any name.
    may_be = not isinstance(given, type) and not type(given).__module__.startswith("pymongo.")
    return may_be and callable(getattr(given, operation, None))


def _kind(given: object) -> str:
    return f"{type(given).__module__}.{type(given).__qualname__}"


_lock = threading.Lock()
_clients: dict[tuple[str, str | None, str | None], Any] = {}
# Those that were made from sessions that were given.
_of_sessions: "weakref.WeakKeyDictionary[ClientSource, Any]" = weakref.WeakKeyDictionary()


def _forget_clients() -> None:
    """Forget all clients after a fork, since a child must not share its parent's connections."""
    global _lock
    _lock = threading.Lock()
    _clients.clear()
    _of_sessions.clear()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forget_clients)


def call(client: Any, operation: str, **arguments: Any) -> Any:
    """Call an operation of a client.

    Raises:
        DeliveryRefusedError: The service will never take this; its cause says why.
        DeliveryError: The service did not take it now.
    """
    try:
        return getattr(client, operation)(**arguments)
    except Exception as error:
        status = http_status(error)
        code = _code(error)
        refused = code in _REFUSALS or status in (GONE, _TOO_LARGE) or code == "ParamValidationError"
        kind = DeliveryRefusedError if refused else DeliveryError
        raise kind(f"{operation}: {code}" + (f" (HTTP {status})" if status else "")) from error


def http_status(error: BaseException | None) -> int | None:
    """Return the HTTP status in a botocore error."""
    status = _response(error).get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status if isinstance(status, int) else None


def _code(error: Exception) -> str:
    code = str(_response(error).get("Error", {}).get("Code") or type(error).__name__)
    return code.removeprefix("AWS.SimpleQueueService.")


def _response(error: BaseException | None) -> Mapping[str, Any]:
    response = getattr(error, "response", None)
    return response if isinstance(response, Mapping) else {}


def topic_region(name: str, arn: object) -> str:
    """Return the region of an SNS topic.

    Raises:
        ValueError: It is not the ARN of a topic.
    """
    found = _TOPIC.fullmatch(arn) if isinstance(arn, str) else None
    if found is None:
        raise ValueError(f"{name} must be the ARN of an SNS topic (arn:aws:sns:REGION:ACCOUNT:NAME), got {shown(arn)}")
    return _checked_region(found["region"])


def checked_url(name: str, url: object) -> SplitResult:
    """Return the parts of an HTTP URL.

    Raises:
        ValueError: It is not a valid HTTP URL.
    """
    try:
        parts = urlsplit(url) if isinstance(url, str) else None
        port_is_fit = parts is not None and parts.port != 0
    except ValueError:
        parts, port_is_fit = None, False
    if parts is None or not port_is_fit or parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{name} must be an http:// or https:// URL, got {_shown(url)}")
    if parts.username or parts.password:
        raise ValueError(f"{name} must not hold credentials")
    return parts


def _shown(url: object) -> str:
    # Text before an @ may be a password.
    return repr(url) if isinstance(url, str) and "@" not in url else shown(url)


def url_region(name: str, parts: SplitResult, region: str | None, client: Any) -> str | None:
    """Return the region of a URL: the one it names, or the given one, a given session's, or the environment's.

    None if the client that was given knows it.

    Raises:
        ValueError: No region is known, or the given one is not valid.
    """
    given = None if region is None else _checked_region(region)
    host = parts.hostname or ""
    if is_aws_host(host):
        named = [label for label in host.split(".") if _REGION.fullmatch(label)]
        if named:
            return named[-1]
    of_session = getattr(client, "region_name", "")
    found = given or (of_session if isinstance(of_session, str) and of_session else _environment_region())
    if found is None and _LOOPBACK.fullmatch(host):
        found = "us-east-1"  # an emulator takes any region
    if found is None and (client is None or of_session is None):
        raise ValueError(f"{name} does not name a region: pass region=")
    return found


def is_aws_host(host: str) -> bool:
    """Return whether a host name is one of AWS's own."""
    return _AWS_HOST.search(host) is not None


def _checked_region(region: object) -> str:
    if not isinstance(region, str) or not _REGION.fullmatch(region):
        raise ValueError(f"region must be the name of an AWS region such as eu-west-1, got {shown(region)}")
    return region


def _environment_region() -> str | None:
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return _checked_region(region) if region else None


def clean(text: str) -> str:
    """Return the text without characters that the services refuse."""
    return _NOT_TEXT.sub("\ufffd", text)


def attributes(**values: str) -> dict[str, dict[str, str]]:
    """Return message attributes; empty values, which SNS refuses, are left out."""
    return {name: {"DataType": "String", "StringValue": clean(value)} for name, value in values.items() if value}


def fifo(target: str, session_id: str, event_id: str) -> dict[str, str]:
    """Return the further arguments for a FIFO queue or topic; an empty dict for another."""
    if not target.endswith(".fifo"):
        return {}
    fits = _GROUP_ID.fullmatch(session_id)
    group = session_id if fits else hashlib.sha256(session_id.encode()).hexdigest()
    return {"MessageGroupId": group, "MessageDeduplicationId": event_id}
