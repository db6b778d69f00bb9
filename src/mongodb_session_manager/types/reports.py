"""What deletions, sweeps and other work across sessions report."""

from dataclasses import dataclass, field
from datetime import datetime

__all__ = [
    "DeletionReceipt",
    "DeletionReport",
    "Finding",
    "IndexReport",
    "SweepReport",
    "UpgradeReport",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class DeletionReceipt:
    """What was deleted of a session, without any content.

    Attributes:
        session_id: The session.
        deleted: Whether there was one. What was left of it is removed all the same.
        instance: The life of the session id that ended; None if it is not known.
        at: When.
        messages: The number of messages.
        feedback: The number of pieces of feedback.
        segments: The number of segments.
        files: The number of files.
        bytes: The size of document, segments and files.
        undelivered: The number of notifications that were not delivered.
    """

    session_id: str
    deleted: bool
    instance: str | None = None
    at: datetime
    messages: int = 0
    feedback: int = 0
    segments: int = 0
    files: int = 0
    bytes: int = 0
    undelivered: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class DeletionReport:
    """The outcome of ``delete_many()``.

    Attributes:
        matched: Sessions for which the filter held, without held ones.
        deleted: Sessions that were deleted; 0 in a dry run.
        held: Sessions for which the filter held and that are held.
        failed: Sessions whose deletion failed.
        remaining: Sessions, without held ones, for which the filter held in the end.
        errors: The kinds of the failures, by session id.
    """

    matched: int = 0
    deleted: int = 0
    held: int = 0
    failed: int = 0
    remaining: int = 0
    errors: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepReport:
    """What a sweep removed.

    Attributes:
        sessions: Expired sessions.
        segments: Segments without a session.
        files: Files without a session.
    """

    sessions: int = 0
    segments: int = 0
    files: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexReport:
    """The outcome of ``create_indexes()``; indexes are given by their names.

    Attributes:
        created: Indexes that were not there.
        existing: Indexes that were there.
        dropped: Single-field indexes that others have replaced.
        failed: The kinds of failures, by index.
    """

    created: list[str] = field(default_factory=list)
    existing: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class UpgradeReport:
    """The outcome of ``upgrade()``.

    Attributes:
        matched: Sessions with something to bring up to date.
        upgraded: Sessions that were brought up to date.
        left: Sessions that were not, since they cannot be read, or have no room.
    """

    matched: int = 0
    upgraded: int = 0
    left: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Something that ``check()`` found.

    Attributes:
        code: Its kind, such as ``"text_times"``.
        count: How many documents have it; None where that is not a number of documents.
        detail: A sentence with the remedy.
    """

    code: str
    count: int | None = None
    detail: str = ""
