"""What the suite stores, and how it compares what comes back."""
# ruff: noqa: S101 - these are tests, although they are shipped

import json
import uuid
from datetime import datetime, timedelta
from typing import Any, cast

import pytest
from strands.session import SessionRepository
from strands.types.content import Message
from strands.types.session import Session, SessionAgent, SessionMessage, SessionType

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


class Stored:
    """The fixtures of a session and an agent that are stored."""

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
