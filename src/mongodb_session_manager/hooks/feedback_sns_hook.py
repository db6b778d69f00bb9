"""Sends feedback to SNS topics, one for each kind of rating."""

import re
import string
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from .._override import override
from .._schema.ids import shown
from . import _aws
from ._notifying import DeliveryMode, Message, Notice, NotifyingHook

if TYPE_CHECKING:
    from ..mongodb_session_repository import MongoDBSessionRepository

__all__ = ["FeedbackSNSHook", "create_feedback_sns_hook", "is_feedback_sns_hook_available"]

OFF = "none"
_SUBJECT_CHARACTERS = 100
# SNS takes 256 KiB, attributes among them.
_MESSAGE_BYTES = 256 * 1024 - 4 * 1024
_TRUNCATED = " […truncated]"
_FIELDS = ("session_id", "rating", "timestamp")
_NAMES = {"up": "positive", "down": "negative"}


@dataclass(frozen=True)
class _Route:
    """The topic of one rating, and the prefixes of its messages."""

    topic_arn: str
    subject_prefix: str
    body_prefix: str


class FeedbackSNSHook(NotifyingHook):
    """Publishes feedback to an SNS topic once it is stored: rating ``"up"`` to the first, ``"down"`` to the second.

    Args:
        topic_arn_good: For ``"up"``. ``"none"`` switches a rating off.
        topic_arn_bad: For ``"down"``.
        topic_arn_neutral: For every other rating.
        subject_prefix_good: Stands before the subject. A template with ``{session_id}``, ``{rating}`` (positive,
            negative or neutral) and ``{timestamp}``, as each of the following.
        subject_prefix_bad: See ``subject_prefix_good``.
        subject_prefix_neutral: See ``subject_prefix_good``.
        body_prefix_good: Stands before the text.
        body_prefix_bad: See ``body_prefix_good``.
        body_prefix_neutral: See ``body_prefix_good``.
        delivery: ``"best_effort"`` or ``"at_least_once"``.
        client: An SNS client, or a boto3 session.
        endpoint_url: The address of SNS, for emulators and private endpoints.

    Raises:
        ImportError: boto3 is missing, and no client was given.
        TypeError: ``client`` is neither a client of the service nor a boto3 session.
        ValueError: An argument is not valid.
    """

    kind = "feedback_sns"
    actions = {"add": "feedback"}  # noqa: RUF012 - a class variable in the base
    given_as = "feedback_hook"

    def __init__(
        self,
        topic_arn_good: str,
        topic_arn_bad: str,
        topic_arn_neutral: str,
        subject_prefix_good: str = "",
        subject_prefix_bad: str = "",
        subject_prefix_neutral: str = "",
        body_prefix_good: str = "",
        body_prefix_bad: str = "",
        body_prefix_neutral: str = "",
        *,
        delivery: DeliveryMode = "best_effort",
        client: Any = None,
        endpoint_url: str | None = None,
    ) -> None:
        self._routes = {
            "positive": _route("good", topic_arn_good, subject_prefix_good, body_prefix_good),
            "negative": _route("bad", topic_arn_bad, subject_prefix_bad, body_prefix_bad),
            "neutral": _route("neutral", topic_arn_neutral, subject_prefix_neutral, body_prefix_neutral),
        }
        if endpoint_url is not None:
            _aws.checked_url("endpoint_url", endpoint_url)
        topics = tuple(route.topic_arn for route in self._routes.values() if route.topic_arn != OFF)
        self._sources = {
            arn: _aws.ClientSource("sns", _aws.topic_region("topic_arn", arn), endpoint_url, client) for arn in topics
        }
        super().__init__(topics, delivery)

    @override
    def _compose(self, action: str, session_id: str, stored: Any, event_id: str) -> tuple[str, Message] | None:
        if not isinstance(stored, Mapping):
            return None
        given = stored.get("rating")
        rating = _NAMES.get(given, "neutral") if isinstance(given, str) else "neutral"
        route = self._routes[rating]
        if route.topic_arn == OFF:
            return None
        values = {"session_id": session_id, "rating": rating, "timestamp": datetime.now(timezone.utc).isoformat()}
        subject = f"{route.subject_prefix.format(**values)}Feedback {rating} on session {session_id}"
        comment = stored.get("comment")
        head = f"{route.body_prefix.format(**values)}Session: {session_id}\n\n"
        body, cut = _cut(_aws.clean(head + ("" if comment is None else str(comment))))
        return route.topic_arn, {
            "subject": _subject(subject),
            "body": body,
            "rating": rating,
            "truncated": "true" if cut else "",
            "event_id": event_id if self.at_least_once else "",
        }

    @override
    def _send(self, notice: Notice, repository: "MongoDBSessionRepository | None") -> None:
        message = notice.message
        _aws.call(
            self._sources[notice.target].client(),
            "publish",
            TopicArn=notice.target,
            Subject=message["subject"],
            Message=message["body"],
            MessageAttributes=_aws.attributes(
                session_id=notice.session_id,
                rating=message["rating"],
                truncated=message["truncated"],
                event_id=message["event_id"],
            ),
            **_aws.fifo(notice.target, notice.session_id, notice.id),
        )


def _route(name: str, topic_arn: Any, subject_prefix: Any, body_prefix: Any) -> _Route:
    if topic_arn != OFF:
        _aws.topic_region(f"topic_arn_{name}", topic_arn)
    _check_template(f"subject_prefix_{name}", subject_prefix)
    _check_template(f"body_prefix_{name}", body_prefix)
    return _Route(topic_arn, subject_prefix, body_prefix)


def _check_template(name: str, template: Any) -> None:
    known = ", ".join(f"{{{field}}}" for field in _FIELDS)
    try:
        fields = {field for _, field, _, _ in string.Formatter().parse(template) if field is not None}
        if fields <= set(_FIELDS):  # only plain names, without attributes or items
            template.format(**dict.fromkeys(_FIELDS, ""))
            return
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        pass
    raise ValueError(f"{name} must be a template with no other fields than {known}, got {shown(template)}")


def _subject(text: str) -> str:
    """Return a subject as SNS takes it: printable ASCII, no line breaks, at most 100 characters."""
    one_line = re.sub(r"[\x00-\x1f\x7f]+", " ", text)
    return one_line.encode("ascii", "replace").decode().strip()[:_SUBJECT_CHARACTERS].rstrip()


def _cut(text: str) -> tuple[str, bool]:
    """Return the text, cut to the limit of SNS, and whether it was cut."""
    encoded = text.encode()
    if len(encoded) <= _MESSAGE_BYTES:
        return text, False
    room = _MESSAGE_BYTES - len(_TRUNCATED.encode())
    return encoded[:room].decode("utf-8", "ignore") + _TRUNCATED, True


def create_feedback_sns_hook(
    topic_arn_good: str, topic_arn_bad: str, topic_arn_neutral: str, *prefixes: str, **options: Any
) -> FeedbackSNSHook:
    """Return ``FeedbackSNSHook(topic_arn_good, …)``; prefixes, options and errors are the same."""
    return FeedbackSNSHook(topic_arn_good, topic_arn_bad, topic_arn_neutral, *prefixes, **options)


def is_feedback_sns_hook_available() -> bool:
    """Return whether boto3, which the hook needs, can be imported."""
    return _aws.is_available()
