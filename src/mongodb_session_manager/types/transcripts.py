"""Messages and feedback, as the catalog of sessions shows them."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from .catalog import UsageFigures

__all__ = [
    "FeedbackEntry",
    "Part",
    "PartMark",
    "Transcript",
    "TranscriptMessage",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class PartMark:
    """Stands for a large content block in a transcript; ``part()`` reads it.

    Attributes:
        n: The number of the block in its message, from 0.
        kind: Such as ``"text"``, ``"image"`` or ``"toolResult"``; ``"content"`` for the blocks of a message that is
            stored as one value, of which this is the first.
        media_type: Such as ``"image/png"``.
        name: Of a document; None otherwise.
        size: Bytes, as they are stored.
    """

    n: int
    kind: str
    media_type: str
    name: str | None = None
    size: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class TranscriptMessage:
    """A message of a transcript.

    Attributes:
        message_id: Its number in the agent's history.
        role: ``"user"`` or ``"assistant"``.
        content: Blocks of Strands; a ``PartMark`` in the place of a large one.
        created_at: When it was first stored.
        updated_at: When it was last stored, redacted or replaced.
        redacted: Whether a redaction replaced its content.
        tracking_id: The SDK's id of the message; None if it has none.
        usage: Of the model call that made it; None for other messages.
        model: The model that made it; None if that is not known.
        readable: Whether it has the shape of a message; otherwise its content is left empty.
    """

    message_id: int
    role: str = ""
    content: "list[dict[str, Any] | PartMark]" = field(default_factory=list)
    created_at: datetime | None = None
    updated_at: datetime | None = None
    redacted: bool = False
    tracking_id: str | None = None
    usage: UsageFigures | None = None
    model: str | None = None
    readable: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Transcript:
    """A page of an agent's history.

    Attributes:
        messages: Oldest first.
        before: What ``before=`` takes for the next older page; None at the beginning of the history.
    """

    messages: list[TranscriptMessage]
    before: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A whole content block.

    Attributes:
        media_type: Such as ``"image/png"`` or ``"text/plain"``; ``"application/json"`` for blocks of tools.
        name: Of a document; None otherwise.
        data: The bytes of a file; the text of a text block; JSON of another block.
    """

    media_type: str
    name: str | None = None
    data: bytes | str


@dataclass(frozen=True, kw_only=True, slots=True)
class FeedbackEntry:
    """A piece of feedback, with the turn that it is about.

    Attributes:
        session_id: The session.
        agent_id: The agent with the message; None if it is not about one.
        message_id: The message; None if it is not about one, or that message is not found.
        feedback: The fields that the application gave.
        created_at: When it was stored; None if that is not a valid time.
        prompt: The beginning of the user's text that began the turn, at most 1,000 characters; None if there is none.
        answer: The beginning of the rated answer, at most 1,000 characters; None if there is none.
    """

    session_id: str
    agent_id: str | None = None
    message_id: int | None = None
    feedback: dict[str, Any] = field(default_factory=dict)
    created_at: datetime | None = None
    prompt: str | None = None
    answer: str | None = None
