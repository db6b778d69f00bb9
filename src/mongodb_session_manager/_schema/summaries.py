"""What the catalog's pipelines gave -> summaries and details of sessions."""

import logging
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from bson import Decimal128

from ..types.catalog import (
    AgentSummary,
    FeedbackCounts,
    ForkOrigin,
    LeaseSummary,
    MultiAgentSummary,
    Redaction,
    SessionDetails,
    SessionSummary,
    UsageFigures,
)
from .agent_rows import FIGURES
from .catalog import TEXT_CHARACTERS
from .messages import aware
from .values import Stored, decode, unescape_key

logger = logging.getLogger(__name__)


def summary_of(row: Stored) -> SessionSummary:
    """Return the summary of a session; what cannot be read is left out of it."""
    return SessionSummary(**_fields(row))


def details_of(row: Stored, segments: Stored, files: Stored) -> SessionDetails:
    """Return the details of a session.

    Args:
        row: What ``details_pipeline`` gave.
        segments: What ``segments_size_pipeline`` gave; empty for nothing.
        files: What ``files_size_pipeline`` gave; empty for nothing.
    """
    return SessionDetails(
        **_fields(row),
        segments=number(segments.get("count")),
        segment_bytes=number(segments.get("bytes")),
        files=number(files.get("count")),
        file_bytes=number(files.get("bytes")),
        multi_agents=[_multi_agent(each) for each in row["multi_agents"] if each["key"] is not None],
        lease=_lease(row["lease"]),
        redaction_events=[_redaction(each) for each in row["redaction_events"]],
    )


def _fields(row: Stored) -> dict[str, Any]:
    times = {name: time(row[name]) for name in ("created_at", "updated_at")}
    metadata = _metadata(row["metadata"])
    is_held = row["held"]
    return {
        **times,
        "session_id": row["_id"],
        "application_name": row["application_name"],
        "expires_at": None if is_held else time(row["expires_at"]),
        "held": is_held,
        "metadata": metadata or {},
        "metadata_left_out": metadata is None and row["has_metadata"],
        "agents": [_agent(each) for each in row["agents"] if each["key"] is not None],
        "agent_count": row["agent_count"],
        "messages": number(row["messages"]),
        "usage": figures(row["usage"]),
        "feedback": FeedbackCounts(**{rating: number(count) for rating, count in row["feedback"].items()}),
        "redactions": row["redactions"],
        "interrupted": row["interrupted"],
        "has_files": row["has_files"],
        "document_bytes": row["bytes"],
        "forked_from": _origin(row["forked_from"]),
        "last_text": text((row["last"] or {}).get("text"), TEXT_CHARACTERS),
        "schema_version": row["schema_version"],
        "readable": row["readable"] and None not in times.values(),
    }


def figures(row: Mapping[str, Any]) -> UsageFigures:
    """Return the figures in a row."""
    return UsageFigures(**{name: number(row.get(name)) for name in ("calls", *FIGURES)})


def number(value: Any) -> int:
    """Return a whole number; 0 for another value."""
    if isinstance(value, Decimal128):
        value = value.to_decimal()
    try:
        return int(value) if isinstance(value, int | float | Decimal) else 0
    except (ValueError, OverflowError):  # of values that are not finite
        return 0


def time(value: Any) -> datetime | None:
    """Return a time, also from ISO 8601 text; None for another value."""
    try:
        return aware(value) if isinstance(value, datetime | str) else None
    except ValueError:
        return None


def text(value: Any, most: int) -> str | None:
    """Return the beginning of a text, also of one with lone surrogates; None for another value."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "surrogatepass")
    return value[:most] if isinstance(value, str) else None


def whole_number(value: Any) -> int | None:
    """Return an int as a plain one; None for another value."""
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else None


def _metadata(stored: Any) -> dict[str, Any] | None:
    """Return the metadata; None if there are none, or what looks like a mark in them is none."""
    try:
        return None if stored is None else {unescape_key(name): decode(value) for name, value in stored.items()}
    except Exception as error:  # noqa: BLE001 - put there by hand, they may be anything
        logger.debug("error=<%s> | metadata cannot be read", type(error).__name__)
        return None


def _agent(row: Stored) -> AgentSummary:
    return AgentSummary(
        agent_id=unescape_key(row["key"]),
        model=row["model"],
        messages=number(row["messages"]),
        usage=figures(row["usage"]),
    )


def _origin(stored: Stored | None) -> ForkOrigin | None:
    if stored is None or not isinstance(stored.get("session_id"), str):
        return None
    agent_id = stored.get("agent_id")
    return ForkOrigin(
        session_id=stored["session_id"],
        agent_id=agent_id if isinstance(agent_id, str) else None,
        message_id=whole_number(stored.get("message_id")),
        at=time(stored.get("at")),
    )


def _multi_agent(row: Stored) -> MultiAgentSummary:
    return MultiAgentSummary(
        multi_agent_id=unescape_key(row["key"]), status=row["status"], updated_at=time(row["updated_at"])
    )


def _lease(row: Stored) -> LeaseSummary | None:
    owner = row.get("owner")
    return None if owner is None else LeaseSummary(owner=str(owner), expires_at=time(row.get("expires_at")))


def _redaction(row: Stored) -> Redaction:
    return Redaction(
        agent_id=row["agent_id"],
        message_id=whole_number(row["message_id"]),
        action=row["action"],
        at=time(row["at"]),
    )
