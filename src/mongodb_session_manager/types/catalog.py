"""What the catalog of sessions takes and returns."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any, Final, Generic, Literal, TypeAlias, TypeVar

__all__ = [
    "UNSET",
    "AgentSummary",
    "FeedbackCounts",
    "ForkOrigin",
    "LeaseSummary",
    "MultiAgentSummary",
    "Page",
    "Redaction",
    "Scalar",
    "SessionDetails",
    "SessionFilter",
    "SessionSort",
    "SessionSummary",
    "Unset",
    "UsageFigures",
    "UsageKey",
    "UsageRow",
]

_T = TypeVar("_T")

Scalar: TypeAlias = str | int | float | bool | datetime
"""A metadata value that a filter can ask for; a datetime has a time zone."""

SessionSort: TypeAlias = Literal["session_id", "created_at", "-created_at", "updated_at", "-updated_at"]
"""The order of a list; ``-`` is descending, and equal times are ordered by the session id."""

UsageKey: TypeAlias = Literal["application_name", "agent_id", "model", "day", "month", "session_id"]
"""What the rows of a usage report are made by."""


class Unset(Enum):
    """The type of ``UNSET``, which says that a field of a filter is not given."""

    UNSET = "UNSET"

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = Unset.UNSET
"""A field of a filter that is not given, where None is a value."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionFilter:
    """Which sessions are meant: those for which all the given fields hold; by default every living session.

    Attributes:
        application_name: The name in the session; None for sessions without one.
        metadata: Values by key; a dot reaches into a nested field. A field is equal to the value, or to one of a
            list, tuple or set of values, 4 MiB at most. A stored list matches if one of its items does. At most
            8 levels of a key may be numbers.
        agent_id: An agent that the session holds.
        id_prefix: How the session id begins.
        created_since: With a time zone; that time or later.
        created_until: With a time zone; before that time.
        updated_since: With a time zone; that time or later.
        updated_until: With a time zone; before that time.
        feedback: Sessions with any feedback, with an up-vote or with a down-vote.
        interrupted: Whether an agent, Graph or Swarm waits for the answer to an interrupt.
        text: A text of 1 to 256 characters that a message has, in upper or lower case. Only ``list()`` and
            ``iterate()`` take it.
        everything: Says to ``delete_many()``, ``set_ttl()`` and ``within()`` that no condition is meant.
        allow_missing: Whether None is meant as a metadata value: sessions without that field.
    """

    application_name: str | Unset | None = UNSET
    metadata: "Mapping[str, Scalar | Collection[Scalar | None] | None]" = field(default_factory=dict)
    agent_id: str | None = None
    id_prefix: str | None = None
    created_since: datetime | None = None
    created_until: datetime | None = None
    updated_since: datetime | None = None
    updated_until: datetime | None = None
    feedback: Literal["any", "up", "down"] | None = None
    interrupted: bool | None = None
    text: str | None = None
    everything: bool = False
    allow_missing: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Page(Generic[_T]):
    """A part of a list.

    Attributes:
        items: In the order of the list.
        next_cursor: What ``cursor=`` takes to go on; None at the end.
        examined: How many sessions a search for ``text`` has looked through; otherwise the number of items.
    """

    items: list[_T]
    next_cursor: str | None = None
    examined: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class UsageFigures:
    """Sums over model calls.

    Attributes:
        calls: The number of calls.
        input: Tokens that the models read.
        output: Tokens that the models wrote.
        total: Tokens together, as the models' providers count them.
        cache_read: Tokens that were read from the prompt cache.
        cache_write: Tokens that were written into the prompt cache.
        latency_ms: Milliseconds until the end of the answers.
    """

    calls: int = 0
    input: int = 0
    output: int = 0
    total: int = 0
    cache_read: int = 0
    cache_write: int = 0
    latency_ms: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class UsageRow(UsageFigures):
    """The usage of one combination of what ``by`` names; the other fields are None.

    Attributes:
        application_name: None also for sessions without one.
        agent_id: The agent.
        model: The model id; None also for calls whose model was not recorded.
        day: ``"2026-01-31"``, in UTC; None also for calls whose time is not known.
        month: ``"2026-01"``, in UTC; None also for calls whose time is not known.
        session_id: The session.
    """

    application_name: str | None = None
    agent_id: str | None = None
    model: str | None = None
    day: str | None = None
    month: str | None = None
    session_id: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class AgentSummary:
    """An agent of a session.

    Attributes:
        agent_id: The agent.
        model: The model that it has now; None if it is not known.
        messages: The number of its messages.
        usage: Of its model calls.
    """

    agent_id: str
    model: str | None = None
    messages: int = 0
    usage: UsageFigures = field(default_factory=UsageFigures)


@dataclass(frozen=True, kw_only=True, slots=True)
class FeedbackCounts:
    """The number of pieces of feedback, by rating.

    Attributes:
        up: Rated ``"up"``.
        down: Rated ``"down"``.
        other: With another rating, or without one.
    """

    up: int = 0
    down: int = 0
    other: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class ForkOrigin:
    """Where a fork comes from.

    Attributes:
        session_id: The session that was forked.
        agent_id: The agent whose history was cut; None for a whole copy.
        message_id: The last message that was copied of it; None for a whole copy.
        at: When.
    """

    session_id: str
    agent_id: str | None = None
    message_id: int | None = None
    at: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionSummary:
    """A session in a list. It holds no messages, only the beginning of the last text.

    Attributes:
        session_id: The session.
        application_name: None if it has none.
        created_at: When it was created; None if that is not a valid time.
        updated_at: When it last changed; None if that is not a valid time.
        expires_at: When it expires; None for never.
        held: Whether it is held, so that it neither expires nor is deleted with others.
        metadata: Its metadata; empty if ``metadata_left_out``.
        metadata_left_out: Whether the metadata have more than 16 KiB, or cannot be read.
        agents: Its agents, at most 20.
        agent_count: The number of its agents.
        messages: The number of messages of all agents.
        usage: Of the model calls of all agents.
        feedback: The numbers of its feedback.
        redactions: The number of redactions.
        interrupted: What waits for the answer to an interrupt: ``"agent:<id>"`` or ``"multi:<id>"``.
        has_files: Whether a large value of a message was ever stored as a file.
        document_bytes: The size of the session document, without segments and files.
        forked_from: The origin of a fork; None otherwise.
        last_text: The beginning of the last text of the conversation, at most 200 characters; None if there is none.
        schema_version: The version of the stored shape; None for the first version.
        readable: Whether this version of the library can read the session. It cannot if a newer version wrote it, or
            if the document has another shape; what cannot be read of it is left empty here.
    """

    session_id: str
    application_name: str | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
    expires_at: datetime | None = None
    held: bool = False
    metadata: dict[str, Any] = field(default_factory=dict)
    metadata_left_out: bool = False
    agents: list[AgentSummary] = field(default_factory=list)
    agent_count: int = 0
    messages: int = 0
    usage: UsageFigures = field(default_factory=UsageFigures)
    feedback: FeedbackCounts = field(default_factory=FeedbackCounts)
    redactions: int = 0
    interrupted: list[str] = field(default_factory=list)
    has_files: bool = False
    document_bytes: int = 0
    forked_from: ForkOrigin | None = None
    last_text: str | None = None
    schema_version: int | None = None
    readable: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class MultiAgentSummary:
    """A Graph or Swarm of a session.

    Attributes:
        multi_agent_id: Its id.
        status: Such as ``"completed"`` or ``"interrupted"``; None if it is not known, or in a file with the state.
        updated_at: When its state last changed.
    """

    multi_agent_id: str
    status: str | None = None
    updated_at: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class LeaseSummary:
    """The claim of one manager to be the only writer.

    Attributes:
        owner: The id of the claim.
        expires_at: When it ends, unless it is renewed.
    """

    owner: str
    expires_at: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Redaction:
    """A redaction, without what was redacted.

    Attributes:
        agent_id: The agent.
        message_id: Its message.
        action: Such as ``"redacted"``.
        at: When.
    """

    agent_id: str | None = None
    message_id: int | None = None
    action: str | None = None
    at: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionDetails(SessionSummary):
    """The summary of a session with more fields, as ``get()`` returns it.

    Attributes:
        segments: The number of documents with older messages, older feedback or notifications.
        segment_bytes: Their size.
        files: The number of large values that are stored as files.
        file_bytes: Their size.
        multi_agents: Its Graphs and Swarms.
        lease: The claim of a manager to be the only writer; None if there is none.
        redaction_events: The redactions.
    """

    segments: int = 0
    segment_bytes: int = 0
    files: int = 0
    file_bytes: int = 0
    multi_agents: list[MultiAgentSummary] = field(default_factory=list)
    lease: LeaseSummary | None = None
    redaction_events: list[Redaction] = field(default_factory=list)
