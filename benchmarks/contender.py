"""What a contender is: it opens a conversation on a stored session and holds turns in it."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pymongo import AsyncMongoClient, MongoClient
from pymongo.monitoring import CommandListener
from strands import Agent
from workload import PROMPT

Document = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """Where contenders work: one client of each kind for all of them."""

    client: MongoClient[Document]
    async_client: AsyncMongoClient[Document]
    database: str
    folder: Path
    latency_ms: int = 0


@asynccontextmanager
async def open_place(
    uri: str, database: str, folder: Path, *listeners: CommandListener, latency_ms: int = 0
) -> AsyncIterator[Place]:
    # Heartbeats are kept out of the byte counts; a slow start of the machine must not fail a run.
    options: dict[str, Any] = {
        "heartbeatFrequencyMS": 3_600_000,
        "serverMonitoringMode": "poll",
        "event_listeners": listeners,
    }
    with MongoClient[Document](uri, **options) as client:
        async with AsyncMongoClient[Document](uri, **options) as async_client:
            yield Place(client, async_client, database, folder, latency_ms)


class Conversation(ABC):
    """A restored session, ready for turns."""

    @abstractmethod
    async def turn(self) -> None:
        """Hold one turn."""

    async def settle(self) -> None:  # noqa: B027 - most have nothing to wait for
        """Wait for what goes on behind; never part of a time."""

    async def leave(self) -> None:  # noqa: B027
        """Do what a request waits for before it answers."""

    async def close(self) -> None:  # noqa: B027
        """Give up what the conversation holds; never part of a time."""


class AgentConversation(Conversation):
    def __init__(self, agent: Agent) -> None:
        self.agent = agent

    async def turn(self) -> None:
        await self.agent.invoke_async(PROMPT)


class Contender(ABC):
    """One way to store conversations.

    Attributes:
        name: What it is called on the command line and in tables.
        has_agent: Whether a turn is an agent's, so that the agent's own time is to be taken off.
        uses_mongodb: Whether operations and bytes can be counted.
    """

    name: ClassVar[str]
    has_agent: ClassVar[bool] = True
    uses_mongodb: ClassVar[bool] = True

    def __init__(self, place: Place) -> None:
        self.place = place

    @abstractmethod
    async def fill(self, session_id: str, count: int) -> None:
        """Store a session with a history; without one it does not exist yet."""

    async def enter(self, session_id: str) -> Conversation | None:
        """Do the part of that which talks to the server, and does not block the loop; None where there is no such."""
        return None

    @abstractmethod
    async def open(self, session_id: str, with_tool: bool = False) -> Conversation:
        """Do what a stateless request does before its turn: restore the session, make the agent."""
