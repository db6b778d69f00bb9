"""What the catalog's pipelines gave -> summaries and details of sessions."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from functools import reduce
from typing import Any, Final

from bson import Decimal128

from ..types import UsageTotals
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
from .call_rows import SUMMED
from .catalog import TEXT_CHARACTERS
from .catalog_filter import RATINGS
from .ids import is_integer
from .messages import aware
from .not_utf8 import NOT_UTF8
from .sessions import SCHEMA_VERSION
from .usage import CALL_FIGURES, as_mapping, usage_totals
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
    plain: Stored = row["plain"] or {}
    created_at, updated_at = time(plain.get("created_at")), time(plain.get("updated_at"))
    metadata, interrupted = _metadata(row), plain.get("interrupted")
    agents = [_agent(each) for each in row["agents"] if each["key"] is not None]
    rest: Stored = row["rest"] or {}
    is_held = plain.get("held") is True
    return {
        "session_id": row["_id"],
        "application_name": _text(plain.get("application_name")),
        "created_at": created_at,
        "updated_at": updated_at,
        "expires_at": None if is_held else _date(plain.get("expires_at")),
        "held": is_held,
        "metadata": metadata or {},
        "metadata_left_out": metadata is None,
        "agents": agents,
        "agent_count": row["agent_count"],
        "messages": sum([agent.messages for agent in agents], number(rest.get("messages", 0))),
        "usage": _usage_of_all(agents, rest),
        "feedback": _feedback(plain.get("feedback_counts"), row["feedback"] or {}),
        "redactions": row["redactions"],
        "interrupted": [each for each in interrupted if isinstance(each, str)] if isinstance(interrupted, list) else [],
        "has_files": plain.get("has_files") is True,
        "document_bytes": row["bytes"],
        "forked_from": _origin(plain.get("forked_from")),
        "last_text": text(row.get("last"), TEXT_CHARACTERS),
        "schema_version": whole_number(plain.get("schema_version")),
        "readable": _is_readable(row) and created_at is not None and updated_at is not None,
    }


# The types of fields that this version reads.
_SHAPES: Final = {
    ("agents", "object"),
    *(("metadata", kind) for kind in ("object", "missing")),
    *(("feedbacks", kind) for kind in ("array", "missing")),
    *(("multi_agents", kind) for kind in ("object", "missing")),
}


def _is_readable(row: Stored) -> bool:
    version = (row["plain"] or {"schema_version": False}).get("schema_version")
    is_known = version is None or (is_integer(version) and version <= SCHEMA_VERSION)
    is_odd = row["others"] or row["odd_messages"] or NOT_UTF8 in row
    return is_known and row["types"].items() <= _SHAPES and not is_odd


def figures(row: Mapping[str, Any]) -> UsageFigures:
    """Return the figures in a row."""
    return UsageFigures(**{name: number(row.get(name, 0)) for name in SUMMED})


def _added(one: UsageFigures, other: UsageFigures) -> UsageFigures:
    return UsageFigures(**{name: getattr(one, name) + getattr(other, name) for name in SUMMED})


def _usage_of_all(agents: Iterable[AgentSummary], rest: Stored) -> UsageFigures:
    usages = [agent.usage for agent in agents]
    if rest:
        usages.append(_usage(rest))
    return reduce(_added, usages) if usages else UsageFigures()


def _usage(row: Stored) -> UsageFigures:
    """Return the figures of an agent, with those of calls that have accumulated figures only."""
    quick, moved, uncounted = figures(row), row["moved"], row.get("uncounted")
    if moved:
        quick = _added(quick, figures(moved))
    return _counted_again(quick, list(map(as_mapping, uncounted))) if uncounted else quick


def _counted_again(quick: UsageFigures, calls: Sequence[Mapping[str, Any]]) -> UsageFigures:
    own = [call for call in calls if as_mapping(call.get("usage")) or as_mapping(call.get("metrics"))]
    both = _totals(usage_totals(call for call in calls if call))
    return UsageFigures(
        **{name: getattr(quick, name) + both[name] - _totals(usage_totals(own))[name] for name in SUMMED}
    )


def _totals(totals: UsageTotals) -> dict[str, int]:
    found: dict[str, Mapping[str, Any]] = {"usage": totals["usage"], "metrics": totals["metrics"]}
    sums = {name: number(found[place].get(figure)) for name, (place, figure) in CALL_FIGURES.items()}
    return {"calls": totals["model_calls"], **sums}


def number(value: Any) -> int:
    """Return a whole number; 0 for another value."""
    if type(value) is int:
        return value
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
    return int(value) if is_integer(value) else None


def _metadata(row: Stored) -> dict[str, Any] | None:
    """Return the metadata; None if they are too large, or what looks like a mark in them is none."""
    stored = (row["metadata"] or {"metadata": None}).get("metadata", {})
    try:
        return {unescape_key(name): decode(value) for name, value in stored.items()}
    except Exception as error:  # noqa: BLE001 - put there by hand, they may be anything
        logger.debug("error=<%s> | metadata cannot be read", type(error).__name__)
        return None


def _agent(row: Stored) -> AgentSummary:
    return AgentSummary(
        agent_id=unescape_key(row["key"]),
        model=row["model"],
        messages=number(row["messages"]),
        usage=_usage(row),
    )


def _feedback(counts: Any, embedded: Mapping[str, Any]) -> FeedbackCounts:
    """Return the numbers of feedback: the counts if there are some, or those in the document."""
    counted = counts if isinstance(counts, dict) else {}
    found = {each: max(0, number(counted.get(each, 0)), number(embedded.get(each, 0))) for each in RATINGS}
    return FeedbackCounts(**found)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _date(value: Any) -> datetime | None:
    return value if isinstance(value, datetime) else None


def _origin(stored: Any) -> ForkOrigin | None:
    if not isinstance(stored, dict) or not isinstance(stored.get("session_id"), str):
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
