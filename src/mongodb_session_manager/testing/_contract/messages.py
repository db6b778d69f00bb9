"""Messages as the SDK expects them of a repository."""
# ruff: noqa: S101 - these are tests, although they are shipped

from typing import Any, cast

import pytest
from strands.session import SessionRepository
from strands.types.content import Message
from strands.types.exceptions import SessionException
from strands.types.session import SessionMessage

from .stored import (
    AGENT,
    AWKWARD_VALUES,
    Stored,
    a_message,
    an_agent,
    assert_identical,
    assert_same_time,
    new_session_id,
    restored,
    store_texts,
    text_message,
    texts,
)


class MessageContract(Stored):
    """Tests of messages."""

    def test_messages_come_back_in_order(self, repository: SessionRepository, session_id: str, agent_id: str) -> None:
        # More than ten, so that an order by the ids' text would show.
        messages = store_texts(repository, session_id, agent_id, 12)

        listed = repository.list_messages(session_id, agent_id)

        assert [message.message_id for message in listed] == list(range(12))
        assert [message.to_message() for message in listed] == [message.to_message() for message in messages]

    def test_a_new_agent_has_no_messages(self, repository: SessionRepository, session_id: str, agent_id: str) -> None:
        assert repository.list_messages(session_id, agent_id) == []

    @pytest.mark.parametrize(
        ("limit", "offset"),
        [
            (None, 0),
            (None, 2),
            (None, 5),
            (None, 9),
            (0, 0),
            (0, 2),
            (1, 0),
            (2, 1),
            (2, 4),
            (5, 0),
            (9, 0),
            (9, 3),
            (3, 9),
        ],
    )
    def test_pages_are_slices(
        self,
        repository: SessionRepository,
        session_id: str,
        agent_id: str,
        limit: int | None,
        offset: int,
    ) -> None:
        store_texts(repository, session_id, agent_id, 5)

        page = repository.list_messages(session_id, agent_id, limit=limit, offset=offset)

        end = None if limit is None else offset + limit
        assert [message.message_id for message in page] == list(range(5))[offset:end]

    def test_messages_of_an_unknown_agent_cannot_be_listed(
        self, repository: SessionRepository, session_id: str
    ) -> None:
        with pytest.raises(SessionException):
            repository.list_messages(session_id, "nobody")

    def test_messages_of_an_unknown_session_cannot_be_listed(self, repository: SessionRepository) -> None:
        with pytest.raises(SessionException):
            repository.list_messages(new_session_id(), AGENT)

    def test_one_message_can_be_read(self, repository: SessionRepository, session_id: str, agent_id: str) -> None:
        messages = store_texts(repository, session_id, agent_id, 3)

        read = repository.read_message(session_id, agent_id, 1)

        assert read is not None
        assert read.message_id == 1
        assert read.redact_message is None
        assert read.to_message() == messages[1].to_message()
        assert_same_time(read.created_at, messages[1].created_at)

    def test_a_missing_message_reads_as_none(
        self, repository: SessionRepository, session_id: str, agent_id: str
    ) -> None:
        store_texts(repository, session_id, agent_id, 1)

        assert repository.read_message(session_id, agent_id, 1) is None
        assert repository.read_message(session_id, "nobody", 0) is None
        assert repository.read_message(new_session_id(), agent_id, 0) is None

    def test_agents_keep_their_own_histories(self, repository: SessionRepository, session_id: str) -> None:
        for agent_id in ("first", "second"):
            repository.create_agent(session_id, an_agent(agent_id))
            for index in range(3):
                repository.create_message(session_id, agent_id, text_message(index, f"{agent_id} {index}"))

        repository.update_message(session_id, "first", text_message(1, "edited"))

        assert texts(repository.list_messages(session_id, "first")) == ["first 0", "edited", "first 2"]
        assert texts(repository.list_messages(session_id, "second")) == ["second 0", "second 1", "second 2"]

    def test_tool_use_and_its_result_come_back(
        self, repository: SessionRepository, session_id: str, agent_id: str
    ) -> None:
        use = {"toolUse": {"toolUseId": "t-1", "name": "weather", "input": {"city": "Köln", "days": 2}}}
        content = [{"text": "rain"}, {"json": {"mm": 1.5, "$ref": "#/x"}}]
        result = {"toolResult": {"toolUseId": "t-1", "status": "success", "content": content}}
        stored = [a_message("assistant", {"text": "Let me look."}, use), a_message("user", result)]
        for index, message in enumerate(stored):
            repository.create_message(session_id, agent_id, SessionMessage.from_message(message, index))

        listed = repository.list_messages(session_id, agent_id)

        assert [message.to_message() for message in listed] == stored

    @pytest.mark.parametrize(
        "data", [b"", b"\x00", bytes(range(256)) * 40, bytes(range(256)) * 2000], ids=["empty", "nul", "all", "large"]
    )
    def test_bytes_come_back_exactly(
        self, repository: SessionRepository, session_id: str, agent_id: str, data: bytes
    ) -> None:
        document = {"document": {"format": "pdf", "name": "bill", "source": {"bytes": data}}}
        reasoning = {"reasoningContent": {"redactedContent": data}}
        message = a_message("user", document, reasoning)

        repository.create_message(session_id, agent_id, SessionMessage.from_message(message, 0))

        assert restored(repository, session_id, agent_id) == message

    @pytest.mark.parametrize("value", AWKWARD_VALUES.values(), ids=AWKWARD_VALUES.keys())
    def test_message_content_comes_back_exactly(
        self, repository: SessionRepository, session_id: str, agent_id: str, value: Any
    ) -> None:
        use = {"toolUse": {"toolUseId": "t-1", "name": "any", "input": {"value": value}}}
        message = a_message("assistant", use)

        repository.create_message(session_id, agent_id, SessionMessage.from_message(message, 0))

        assert_identical(restored(repository, session_id, agent_id), message)

    @pytest.mark.parametrize(
        "text", ["日本語 🙂 ñ", "e\u0301", "\u202eright to left", "a\x00b", "\ufeff", "\r\n\t", ""]
    )
    def test_any_text_comes_back(
        self, repository: SessionRepository, session_id: str, agent_id: str, text: str
    ) -> None:
        repository.create_message(session_id, agent_id, text_message(0, text))

        assert restored(repository, session_id, agent_id) == a_message("user", {"text": text})

    def test_what_the_sdk_adds_to_a_message_comes_back(
        self, repository: SessionRepository, session_id: str, agent_id: str
    ) -> None:
        usage = {"inputTokens": 1, "outputTokens": 2, "totalTokens": 3}
        metadata = {"usage": usage, "metrics": {"latencyMs": 4}}
        message = cast(
            "Message", {**a_message("assistant", {"text": "hi"}), "tracking_id": "t-1", "metadata": metadata}
        )

        repository.create_message(session_id, agent_id, SessionMessage.from_message(message, 0))

        assert restored(repository, session_id, agent_id) == message

    def test_a_stored_message_does_not_follow_its_object(
        self, repository: SessionRepository, session_id: str, agent_id: str
    ) -> None:
        stored = text_message(0, "as it was")
        repository.create_message(session_id, agent_id, stored)
        stored.message["content"].append({"text": "added by the writer"})
        read = repository.read_message(session_id, agent_id, 0)
        assert read is not None
        read.message["content"].append({"text": "added by a reader"})

        assert restored(repository, session_id, agent_id) == a_message("user", {"text": "as it was"})

    def test_an_update_replaces_the_message(
        self, repository: SessionRepository, session_id: str, agent_id: str
    ) -> None:
        store_texts(repository, session_id, agent_id, 3)

        repository.update_message(session_id, agent_id, text_message(1, "edited"))

        assert texts(repository.list_messages(session_id, agent_id)) == ["text 0", "edited", "text 2"]

    def test_an_update_keeps_the_time_of_the_message(
        self, repository: SessionRepository, session_id: str, agent_id: str
    ) -> None:
        message = text_message(0, "first")
        created_at = message.created_at = "2024-01-02T03:04:05.678000+00:00"
        repository.create_message(session_id, agent_id, message)

        repository.update_message(session_id, agent_id, text_message(0, "edited"))

        read = repository.read_message(session_id, agent_id, 0)
        assert read is not None
        assert_same_time(read.created_at, created_at)

    def test_a_redacted_message_reads_as_its_redaction(
        self, repository: SessionRepository, session_id: str, agent_id: str
    ) -> None:
        store_texts(repository, session_id, agent_id, 2)
        redacted = text_message(1, "text 1")
        redacted.redact_message = a_message("user", {"text": "[redacted]"})

        repository.update_message(session_id, agent_id, redacted)

        assert restored(repository, session_id, agent_id, 1) == a_message("user", {"text": "[redacted]"})
        assert texts(repository.list_messages(session_id, agent_id)) == ["text 0", "[redacted]"]

    def test_a_missing_message_cannot_be_updated(
        self, repository: SessionRepository, session_id: str, agent_id: str
    ) -> None:
        store_texts(repository, session_id, agent_id, 1)

        with pytest.raises(SessionException):
            repository.update_message(session_id, agent_id, text_message(1, "new"))
        with pytest.raises(SessionException):
            repository.update_message(session_id, "nobody", text_message(0, "new"))
        assert texts(repository.list_messages(session_id, agent_id)) == ["text 0"]

    def test_an_agents_update_leaves_its_messages(
        self, repository: SessionRepository, session_id: str, agent_id: str
    ) -> None:
        store_texts(repository, session_id, agent_id, 2)

        repository.update_agent(session_id, an_agent(agent_id, state={"changed": True}))

        assert texts(repository.list_messages(session_id, agent_id)) == ["text 0", "text 1"]

    # The SDK passes arguments by name, so the names are part of the interface.

    def test_message_calls_take_the_sdks_names(
        self, repository: SessionRepository, session_id: str, agent_id: str
    ) -> None:
        first, edited = text_message(0, "first"), text_message(0, "edited")

        repository.create_message(session_id=session_id, agent_id=agent_id, session_message=first)
        repository.update_message(session_id=session_id, agent_id=agent_id, session_message=edited)

        listed = repository.list_messages(session_id=session_id, agent_id=agent_id, limit=1, offset=0)
        assert texts(listed) == ["edited"]
        assert repository.read_message(session_id=session_id, agent_id=agent_id, message_id=0) is not None
