"""The SDK's expectations of a session repository, as a pytest suite that any repository can inherit."""
# ruff: noqa: S101 - these are tests, although they are shipped

import json
import uuid
from datetime import datetime, timedelta
from typing import Any, cast

import pytest
from strands.session import SessionRepository
from strands.types.content import Message
from strands.types.exceptions import SessionException
from strands.types.session import Session, SessionAgent, SessionMessage, SessionType

__all__ = ["SessionRepositoryContract"]

AGENT = "support"

IDS = [
    "a.b",
    "$x",
    "50%",
    "%2E",
    "with space",
    "日本",
    "ключ",
    "🙂",
    "a'b\"c",
    "UPPER",
    "0",
    "__proto__",
    "-",
]

AWKWARD_VALUES = {
    "reference": {"$ref": "#/$defs/Address", "$id": 1},
    "reference_with_database": {"$ref": "c", "$id": "i", "$db": "d"},
    "dollar_keys": {"$set": {"a": 1}, "$": 2, "$$ROOT": 3},
    "dotted_keys": {"a.b": 1, ".": 2, "a..b": 3, "..": 4},
    "percent_keys": {"50%": 1, "%2E": 2, "%24": 3},
    "empty_key": {"": 1},
    "nul": {"key\x00": "value\x00"},
    "unicode": {"日本": "ключ", "🙂": "e\u0301 é \u2028"},
    "null": None,
    "booleans": [True, False],
    "integers": [0, -1, 2**31, 2**53 + 1, 2**63 - 1],
    "large_integers": [2**63, 2**64, -(2**70), 10**40],
    "floats": [0.1, 1.0, -0.0, 1e300, 5e-324],
    "nested": {"a": [{"b": [[], {}, [[1]]]}]},
    "deep": json.loads("[" * 250 + "]" * 250),
    "order": {"z": 1, "a": 2, "m": {"y": 1, "b": 2}},
    "numeric_keys": {"0": "a", "10": "b", "2": "c"},
    "long": "x" * 100_000,
}


class SessionRepositoryContract:
    """Tests of a ``strands.session.SessionRepository``; the SDK's ``FileSessionManager`` passes them all.

    Inherit from it in a class whose name begins with ``Test`` and give it a fixture named ``repository``.
    Every test uses a session id of its own, so the repository may be shared and need not be empty.

    Example:
        class TestMyRepository(SessionRepositoryContract):
            @pytest.fixture
            def repository(self) -> MyRepository:
                return MyRepository()
    """

    @pytest.fixture
    def session_id(self, repository: SessionRepository) -> str:
        """The id of a session that is stored."""
        session_id = new_session_id()
        repository.create_session(Session(session_id=session_id, session_type=SessionType.AGENT))
        return session_id

    @pytest.fixture
    def agent_id(self, repository: SessionRepository, session_id: str) -> str:
        """The id of an agent that is stored in the session."""
        repository.create_agent(session_id, an_agent(AGENT))
        return AGENT

    # Sessions

    def test_a_session_comes_back(self, repository: SessionRepository) -> None:
        session = Session(session_id=new_session_id(), session_type=SessionType.AGENT)

        created = repository.create_session(session)
        read = repository.read_session(session.session_id)

        assert created.session_id == session.session_id
        assert read is not None
        assert (read.session_id, read.session_type) == (session.session_id, SessionType.AGENT)
        assert_same_time(read.created_at, session.created_at)
        assert_same_time(read.updated_at, session.updated_at)

    def test_a_missing_session_reads_as_none(self, repository: SessionRepository) -> None:
        assert repository.read_session(new_session_id()) is None

    def test_a_session_is_created_once(self, repository: SessionRepository, session_id: str) -> None:
        with pytest.raises(SessionException):
            repository.create_session(Session(session_id=session_id, session_type=SessionType.AGENT))

    @pytest.mark.parametrize("suffix", IDS)
    def test_session_ids_are_plain_text(self, repository: SessionRepository, suffix: str) -> None:
        session_id = new_session_id() + suffix

        repository.create_session(Session(session_id=session_id, session_type=SessionType.AGENT))
        repository.create_agent(session_id, an_agent(AGENT))

        read = repository.read_session(session_id)
        assert read is not None
        assert read.session_id == session_id
        assert repository.read_agent(session_id, AGENT) is not None

    def test_sessions_are_separate(self, repository: SessionRepository, session_id: str, agent_id: str) -> None:
        other = new_session_id()
        repository.create_session(Session(session_id=other, session_type=SessionType.AGENT))

        assert repository.read_agent(other, agent_id) is None

    # Agents

    def test_an_agent_comes_back(self, repository: SessionRepository, session_id: str) -> None:
        agent = an_agent(AGENT, state={"language": "en", "visits": 3})

        repository.create_agent(session_id, agent)
        read = repository.read_agent(session_id, AGENT)

        assert_same_agent(read, agent)
        assert read is not None
        assert_same_time(read.created_at, agent.created_at)

    def test_a_missing_agent_reads_as_none(self, repository: SessionRepository, session_id: str) -> None:
        assert repository.read_agent(session_id, "nobody") is None

    def test_an_agent_of_a_missing_session_reads_as_none(self, repository: SessionRepository) -> None:
        assert repository.read_agent(new_session_id(), AGENT) is None

    def test_an_update_replaces_all_state(self, repository: SessionRepository, session_id: str) -> None:
        repository.create_agent(session_id, an_agent(AGENT, state={"old": {"a": 1}, "kept": 1}))
        changed = an_agent(AGENT, state={"kept": 2, "old": {"b": 2}})
        changed.conversation_manager_state = {"removed_message_count": 7}
        changed._internal_state = {"model_state": {"response_id": "r-1"}}

        repository.update_agent(session_id, changed)

        assert_same_agent(repository.read_agent(session_id, AGENT), changed)

    def test_an_update_keeps_the_time_of_creation(self, repository: SessionRepository, session_id: str) -> None:
        agent = an_agent(AGENT)
        created_at = agent.created_at = "2024-01-02T03:04:05.678000+00:00"
        repository.create_agent(session_id, agent)

        repository.update_agent(session_id, an_agent(AGENT, state={"changed": True}))

        read = repository.read_agent(session_id, AGENT)
        assert read is not None
        assert_same_time(read.created_at, created_at)

    def test_a_missing_agent_cannot_be_updated(self, repository: SessionRepository, session_id: str) -> None:
        with pytest.raises(SessionException):
            repository.update_agent(session_id, an_agent("nobody"))
        assert repository.read_agent(session_id, "nobody") is None

    def test_an_agent_of_a_missing_session_cannot_be_updated(self, repository: SessionRepository) -> None:
        session_id = new_session_id()
        with pytest.raises(SessionException):
            repository.update_agent(session_id, an_agent(AGENT))
        assert repository.read_session(session_id) is None

    @pytest.mark.parametrize("agent_id", IDS)
    def test_agent_ids_are_plain_text(self, repository: SessionRepository, session_id: str, agent_id: str) -> None:
        repository.create_agent(session_id, an_agent(agent_id, state={"id": agent_id}))
        repository.create_message(session_id, agent_id, text_message(0, "first"))
        repository.update_agent(session_id, an_agent(agent_id, state={"id": agent_id, "updated": True}))
        repository.update_message(session_id, agent_id, text_message(0, "edited"))

        read = repository.read_agent(session_id, agent_id)
        assert_same_agent(read, an_agent(agent_id, state={"id": agent_id, "updated": True}))
        assert texts(repository.list_messages(session_id, agent_id)) == ["edited"]

    def test_all_odd_agent_ids_live_side_by_side(self, repository: SessionRepository, session_id: str) -> None:
        for agent_id in IDS:
            repository.create_agent(session_id, an_agent(agent_id, state={"id": agent_id}))

        for agent_id in IDS:
            assert_same_agent(repository.read_agent(session_id, agent_id), an_agent(agent_id, state={"id": agent_id}))

    @pytest.mark.parametrize("value", AWKWARD_VALUES.values(), ids=AWKWARD_VALUES.keys())
    def test_state_comes_back_exactly(self, repository: SessionRepository, session_id: str, value: Any) -> None:
        repository.create_agent(session_id, an_agent(AGENT, state={"value": value}))
        created = repository.read_agent(session_id, AGENT)
        repository.update_agent(session_id, an_agent(AGENT, state={"updated": value}))
        updated = repository.read_agent(session_id, AGENT)

        assert created is not None
        assert updated is not None
        assert_identical(created.state, {"value": value})
        assert_identical(updated.state, {"updated": value})

    def test_bytes_in_state_come_back_exactly(self, repository: SessionRepository, session_id: str) -> None:
        state = {"blob": bytes(range(256)), "list": [b"", {"inner": b"\x00"}]}

        repository.create_agent(session_id, an_agent(AGENT, state=state))

        read = repository.read_agent(session_id, AGENT)
        assert read is not None
        assert read.state == state

    def test_a_stored_agent_does_not_follow_its_object(self, repository: SessionRepository, session_id: str) -> None:
        agent = an_agent(AGENT, state={"list": [1]})
        repository.create_agent(session_id, agent)
        agent.state["list"].append(2)
        read = repository.read_agent(session_id, AGENT)
        assert read is not None
        read.state["list"].append(3)

        assert_same_agent(repository.read_agent(session_id, AGENT), an_agent(AGENT, state={"list": [1]}))

    # Messages

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

    # Multi-agents

    def test_a_multi_agent_comes_back(self, repository: SessionRepository, session_id: str) -> None:
        graph = MultiAgentStub("graph", {"type": "graph", "completed_nodes": ["a"], "status": "executing"})

        repository.create_multi_agent(session_id, as_multi_agent(graph))

        assert repository.read_multi_agent(session_id, "graph") == graph.state

    def test_a_missing_multi_agent_reads_as_none(self, repository: SessionRepository, session_id: str) -> None:
        assert repository.read_multi_agent(session_id, "nobody") is None

    def test_an_update_replaces_a_multi_agents_state(self, repository: SessionRepository, session_id: str) -> None:
        repository.create_multi_agent(session_id, as_multi_agent(MultiAgentStub("graph", {"a": {"b": 1}})))

        repository.update_multi_agent(session_id, as_multi_agent(MultiAgentStub("graph", {"a": {"c": 2}})))

        assert repository.read_multi_agent(session_id, "graph") == {"a": {"c": 2}}

    def test_a_missing_multi_agent_cannot_be_updated(self, repository: SessionRepository, session_id: str) -> None:
        with pytest.raises(SessionException):
            repository.update_multi_agent(session_id, as_multi_agent(MultiAgentStub("nobody", {})))
        assert repository.read_multi_agent(session_id, "nobody") is None

    @pytest.mark.parametrize("multi_agent_id", IDS)
    def test_multi_agent_ids_are_plain_text(
        self, repository: SessionRepository, session_id: str, multi_agent_id: str
    ) -> None:
        repository.create_multi_agent(session_id, as_multi_agent(MultiAgentStub(multi_agent_id, {"n": 1})))
        repository.update_multi_agent(session_id, as_multi_agent(MultiAgentStub(multi_agent_id, {"n": 2})))

        assert repository.read_multi_agent(session_id, multi_agent_id) == {"n": 2}

    @pytest.mark.parametrize("value", AWKWARD_VALUES.values(), ids=AWKWARD_VALUES.keys())
    def test_multi_agent_state_comes_back_exactly(
        self, repository: SessionRepository, session_id: str, value: Any
    ) -> None:
        repository.create_multi_agent(session_id, as_multi_agent(MultiAgentStub("graph", {"value": value})))

        assert_identical(repository.read_multi_agent(session_id, "graph"), {"value": value})

    def test_an_agent_and_a_multi_agent_may_share_an_id(self, repository: SessionRepository, session_id: str) -> None:
        repository.create_agent(session_id, an_agent("same", state={"kind": "agent"}))
        repository.create_multi_agent(session_id, as_multi_agent(MultiAgentStub("same", {"kind": "graph"})))

        assert_same_agent(repository.read_agent(session_id, "same"), an_agent("same", state={"kind": "agent"}))
        assert repository.read_multi_agent(session_id, "same") == {"kind": "graph"}

    # The SDK passes arguments by name, so the names are part of the interface.

    def test_session_and_agent_calls_take_the_sdks_names(self, repository: SessionRepository) -> None:
        session_id = new_session_id()

        repository.create_session(session=Session(session_id=session_id, session_type=SessionType.AGENT))
        repository.create_agent(session_id=session_id, session_agent=an_agent(AGENT))
        repository.update_agent(session_id=session_id, session_agent=an_agent(AGENT, state={"n": 1}))

        assert repository.read_session(session_id=session_id) is not None
        assert_same_agent(repository.read_agent(session_id=session_id, agent_id=AGENT), an_agent(AGENT, state={"n": 1}))

    def test_message_calls_take_the_sdks_names(
        self, repository: SessionRepository, session_id: str, agent_id: str
    ) -> None:
        first, edited = text_message(0, "first"), text_message(0, "edited")

        repository.create_message(session_id=session_id, agent_id=agent_id, session_message=first)
        repository.update_message(session_id=session_id, agent_id=agent_id, session_message=edited)

        listed = repository.list_messages(session_id=session_id, agent_id=agent_id, limit=1, offset=0)
        assert texts(listed) == ["edited"]
        assert repository.read_message(session_id=session_id, agent_id=agent_id, message_id=0) is not None

    def test_multi_agent_calls_take_the_sdks_names(self, repository: SessionRepository, session_id: str) -> None:
        before, after = (as_multi_agent(MultiAgentStub("graph", {"n": number})) for number in (1, 2))

        repository.create_multi_agent(session_id=session_id, multi_agent=before)
        repository.update_multi_agent(session_id=session_id, multi_agent=after)

        assert repository.read_multi_agent(session_id=session_id, multi_agent_id="graph") == {"n": 2}


class MultiAgentStub:
    """The part of a multi-agent that a repository may use."""

    def __init__(self, multi_agent_id: str, state: dict[str, Any]) -> None:
        self.id = multi_agent_id
        self.state = state

    def serialize_state(self) -> dict[str, Any]:
        """Give the state to store."""
        return self.state


def as_multi_agent(stub: MultiAgentStub) -> Any:
    """Return the stub, typed as the SDK's own class."""
    return stub


def new_session_id() -> str:
    """Make a new session id."""
    return f"contract-{uuid.uuid4().hex}"


def an_agent(agent_id: str, state: dict[str, Any] | None = None) -> SessionAgent:
    """Make an agent to store."""
    return SessionAgent(
        agent_id=agent_id,
        state=state or {},
        conversation_manager_state={
            "__name__": "SlidingWindowConversationManager",
            "removed_message_count": 0,
        },
        _internal_state={"interrupt_state": {"interrupts": {}, "activated": False}},
    )


def a_message(role: str, *blocks: dict[str, Any]) -> Message:
    """Make a message out of content blocks."""
    return cast("Message", {"role": role, "content": list(blocks)})


def text_message(index: int, text: str) -> SessionMessage:
    """Make a user's text message to store."""
    return SessionMessage.from_message(a_message("user", {"text": text}), index)


def store_texts(repository: SessionRepository, session_id: str, agent_id: str, count: int) -> list[SessionMessage]:
    """Store so many messages, with ids from 0 on."""
    messages = [text_message(index, f"text {index}") for index in range(count)]
    for message in messages:
        repository.create_message(session_id, agent_id, message)
    return messages


def restored(repository: SessionRepository, session_id: str, agent_id: str, message_id: int = 0) -> Message:
    """Read a stored message as the agent would get it."""
    message = repository.read_message(session_id, agent_id, message_id)
    assert message is not None
    return message.to_message()


def texts(messages: list[SessionMessage]) -> list[str]:
    """Give the first text of each message."""
    return [message.to_message()["content"][0]["text"] for message in messages]


def assert_identical(found: Any, expected: Any) -> None:
    """Compare as JSON: also the order of fields, and 1 with 1.0 and True."""
    assert json.dumps(found) == json.dumps(expected)


def assert_same_agent(found: SessionAgent | None, expected: SessionAgent) -> None:
    """Compare two agents but for their times."""
    assert found is not None
    assert found.agent_id == expected.agent_id
    assert found.state == expected.state
    assert found.conversation_manager_state == expected.conversation_manager_state
    assert found._internal_state == expected._internal_state


def assert_same_time(found: str, expected: str) -> None:
    """Compare two ISO times; a store may keep milliseconds only."""
    difference = datetime.fromisoformat(found) - datetime.fromisoformat(expected)
    assert abs(difference) < timedelta(milliseconds=1)
