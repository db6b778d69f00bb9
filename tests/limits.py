"""Lower limits of what a session document holds, so that few messages show what many do."""

import pytest

from mongodb_session_manager._stores import segments


def embed_at_most(monkeypatch: pytest.MonkeyPatch, messages: int, size: int | None = None) -> None:
    """Have a document keep so many messages of an agent when older ones move, and move them beyond so many bytes."""
    monkeypatch.setattr(segments, "KEPT_MESSAGES", messages)
    if size is not None:
        monkeypatch.setattr(segments, "EMBEDDED_BYTES", size)
