"""Agents with a session manager, the SDK's and ours, and the agent alone."""

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import ClassVar

from contender import AgentConversation, Contender, Conversation, Place
from snapshot_storage import MongoStorage
from strands import Agent
from strands.session.file_session_manager import FileSessionManager
from strands.session.snapshot_session_manager import SnapshotSessionManager
from workload import WINDOW, history, history_of, new_agent, removed_of

from mongodb_session_manager import MongoDBSessionManager, MongoDBSessionManagerFactory
from mongodb_session_manager.types import Durability

# A history that is not moved in part, and how often to look whether a longer one was.
SHORT = 100
MOST_LOOKS = 250


class BareAgent(Contender):
    """An agent that stores nothing; its times are taken off those of the others."""

    name = "agent alone"
    uses_mongodb = False

    async def fill(self, session_id: str, count: int) -> None:
        pass

    async def open(self, session_id: str, with_tool: bool = False) -> Conversation:
        messages = history(min(history_of(session_id), WINDOW))
        return AgentConversation(new_agent(messages, with_tool=with_tool, latency_ms=self.place.latency_ms))


class File(Contender):
    """The SDK's FileSessionManager."""

    name = "file"
    uses_mongodb = False

    def _manager(self, session_id: str) -> FileSessionManager:
        return FileSessionManager(session_id, storage_dir=str(self.place.folder))

    async def fill(self, session_id: str, count: int) -> None:
        if count:
            new_agent(history(count), removed=removed_of(count), session_manager=self._manager(session_id))

    async def open(self, session_id: str, with_tool: bool = False) -> Conversation:
        manager = self._manager(session_id)
        agent = new_agent(session_manager=manager, with_tool=with_tool, latency_ms=self.place.latency_ms)
        return AgentConversation(agent)


class Snapshot(Contender):
    """The SDK's SnapshotSessionManager as it is by default: one write at the end of an invocation.

    It stores what the agent holds, so of a long history only the sliding window.
    """

    name = "snapshot"

    def _manager(self, session_id: str) -> SnapshotSessionManager:
        storage = MongoStorage(self.place.client[self.place.database]["snapshots"])
        return SnapshotSessionManager(session_id, storage=storage)

    async def fill(self, session_id: str, count: int) -> None:
        if count:
            agent = new_agent(history(min(count, WINDOW)), removed=removed_of(count))
            await self._manager(session_id).save_snapshot(agent, is_latest=True)

    async def open(self, session_id: str, with_tool: bool = False) -> Conversation:
        manager = self._manager(session_id)
        agent = new_agent(session_manager=manager, with_tool=with_tool, latency_ms=self.place.latency_ms)
        return AgentConversation(agent)


class Ours(Contender):
    """MongoDBSessionManager, made by a factory."""

    durability: ClassVar[Durability] = "sync"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.factory = MongoDBSessionManagerFactory(
            client=place.client, database_name=place.database, durability=self.durability
        )

    async def fill(self, session_id: str, count: int) -> None:
        if count:
            with self.factory.create_session_manager(session_id) as manager:
                agent = new_agent(history(count), session_manager=manager)
                # The window stands where it would by now, as in the sessions of the others.
                agent.conversation_manager.apply_management(agent)
                manager.sync_agent(agent)
        if count > SHORT:
            await self._let_old_messages_move(session_id, count)

    async def _let_old_messages_move(self, session_id: str, count: int) -> None:
        """Bring a long history into the form that it would have by now; it gets that behind a turn."""
        sessions = self.place.client[self.place.database]["agent_sessions"]
        conversation = await self.open(session_id)
        await conversation.turn()
        long = {"_id": session_id, f"agents.default.messages.{SHORT}": {"$exists": True}}
        for _ in range(MOST_LOOKS):
            if sessions.find_one(long, {"_id": 1}) is None:
                break
            await asyncio.sleep(0.02)
        await conversation.close()

    async def open(self, session_id: str, with_tool: bool = False) -> Conversation:
        return self.converse(self.factory.create_session_manager(session_id), with_tool)

    def converse(self, manager: MongoDBSessionManager, with_tool: bool) -> "_OurConversation":
        agent = new_agent(session_manager=manager, with_tool=with_tool, latency_ms=self.place.latency_ms)
        return _OurConversation(agent, manager)


class OursSync(Ours):
    name = "ours sync"


class OursAsync(Ours):
    name = "ours async"
    durability = "async"


class OursExit(Ours):
    name = "ours exit"
    durability = "exit"


class OursInService(Ours):
    """As a web service opens it, off the event loop; a request ends with the manager closed."""

    name = "ours in service"

    async def open(self, session_id: str, with_tool: bool = False) -> Conversation:
        session = self.factory.session(session_id, agent_ids=["default"])
        conversation = self.converse(await session.__aenter__(), with_tool)
        conversation.session = session
        return conversation

    async def enter(self, session_id: str) -> Conversation:
        session = self.factory.session(session_id, agent_ids=["default"])
        await session.__aenter__()
        return _EnteredSession(session)


class _EnteredSession(Conversation):
    def __init__(self, session: AbstractAsyncContextManager[MongoDBSessionManager]) -> None:
        self._session = session

    async def turn(self) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        await self._session.__aexit__(None, None, None)


class _OurConversation(AgentConversation):
    def __init__(self, agent: Agent, manager: MongoDBSessionManager) -> None:
        super().__init__(agent)
        self._manager = manager
        self.session: AbstractAsyncContextManager[MongoDBSessionManager] | None = None

    async def settle(self) -> None:
        if self._manager.health["pending"]:
            await self._manager.aflush()

    async def leave(self) -> None:
        if self.session:
            await self.session.__aexit__(None, None, None)
            self.session = None

    async def close(self) -> None:
        await self.leave()
        await self.settle()
        await self._manager.aclose()
