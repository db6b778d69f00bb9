"""The least that storing a conversation in MongoDB can cost, and one document for each message."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from typing import Any, cast

from contender import AgentConversation, Contender, Conversation, Document
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.collection import Collection
from strands import Agent
from strands.hooks import HookProvider, HookRegistry, MessageAddedEvent
from strands.types.content import Message
from workload import WINDOW, history, new_agent

NEWEST: Document = {"messages": {"$slice": -WINDOW}}


def stored(message: Message, number: int) -> Document:
    return {"message_id": number, **message, "created_at": datetime.now(timezone.utc)}


def append(message: Message, number: int) -> Document:
    """The update of the floor: the message, and the time of it on the session."""
    return {"$push": {"messages": stored(message, number)}, "$set": {"updated_at": datetime.now(timezone.utc)}}


class Floor(Contender):
    """Bare pymongo without an agent: one find, then one update for each message."""

    name = "floor"
    has_agent = False

    @property
    def collection(self) -> Collection[Document]:
        return self.place.client[self.place.database]["floor"]

    async def fill(self, session_id: str, count: int) -> None:
        if count:
            messages = [stored(message, number) for number, message in enumerate(history(count))]
            document = {"_id": session_id, "updated_at": datetime.now(timezone.utc), "messages": messages}
            self.collection.insert_one(document)

    async def open(self, session_id: str, with_tool: bool = False) -> Conversation:
        self.restore(session_id)
        return _FloorConversation(self.collection, session_id, 4 if with_tool else 2)

    def restore(self, session_id: str) -> list[Message]:
        return _messages(self.collection.find_one({"_id": session_id}, NEWEST))


class AsyncFloor(Floor):
    """The same through AsyncMongoClient."""

    name = "floor async"

    @property
    def async_collection(self) -> AsyncCollection[Document]:
        return self.place.async_client[self.place.database]["floor"]

    async def open(self, session_id: str, with_tool: bool = False) -> Conversation:
        await self.restore_async(session_id)
        return _AsyncFloorConversation(self.async_collection, session_id, 4 if with_tool else 2)

    async def enter(self, session_id: str) -> Conversation:
        await self.restore_async(session_id)
        return _AsyncFloorConversation(self.async_collection, session_id, 2)

    async def restore_async(self, session_id: str) -> list[Message]:
        return _messages(await self.async_collection.find_one({"_id": session_id}, NEWEST))


class FloorInAgent(Floor):
    """The floor's calls from the hooks of an agent; they block the event loop."""

    name = "floor in agent"
    has_agent = True

    async def open(self, session_id: str, with_tool: bool = False) -> Conversation:
        collection, messages = self.collection, self.restore(session_id)

        def write(message: Message, number: int) -> None:
            collection.update_one({"_id": session_id}, append(message, number), upsert=True)

        hook = _OnMessage(write, len(messages))
        agent = new_agent(messages, hooks=[hook], with_tool=with_tool, latency_ms=self.place.latency_ms)
        return AgentConversation(agent)


class GuardedFloorInAgent(Floor):
    """The floor's calls from the hooks of an agent, on a thread, so that the event loop goes on; each is guarded.

    What no session manager can save that keeps two writers apart and does not block: a filter with more than ``_id``,
    a revision, and two changes of threads for the opening and for each message.
    """

    name = "guarded floor off loop"
    has_agent = True

    async def open(self, session_id: str, with_tool: bool = False) -> Conversation:
        collection, threads = self.collection, ThreadPoolExecutor(1)

        def restore() -> list[Message]:
            found = self.restore(session_id)
            collection.update_one({"_id": session_id}, {"$set": {"revision": len(found)}}, upsert=True)
            return found

        messages = await asyncio.get_running_loop().run_in_executor(threads, restore)

        def send(message: Message, number: int) -> None:
            change = append(message, number)
            change["$set"]["revision"] = number + 1
            found = collection.update_one({"_id": session_id, "revision": number}, change)
            assert found.matched_count == 1

        async def write(message: Message, number: int) -> None:
            await asyncio.get_running_loop().run_in_executor(threads, send, message, number)

        hook = _OnMessage(write, len(messages))
        agent = new_agent(messages, hooks=[hook], with_tool=with_tool, latency_ms=self.place.latency_ms)
        return _ThreadedConversation(agent, threads)


class AsyncFloorInAgent(AsyncFloor):
    """The asynchronous floor's calls from the hooks of an agent."""

    name = "floor async in agent"
    has_agent = True

    async def open(self, session_id: str, with_tool: bool = False) -> Conversation:
        collection, messages = self.async_collection, await self.restore_async(session_id)

        async def write(message: Message, number: int) -> None:
            await collection.update_one({"_id": session_id}, append(message, number), upsert=True)

        hook = _OnMessage(write, len(messages))
        agent = new_agent(messages, hooks=[hook], with_tool=with_tool, latency_ms=self.place.latency_ms)
        return AgentConversation(agent)


class MessageDocuments(Contender):
    """One document for each message, and the time of it on the session; AsyncMongoClient, from an agent's hooks."""

    name = "document per message"

    async def fill(self, session_id: str, count: int) -> None:
        database = self.place.client[self.place.database]
        database["messages"].create_index([("session_id", 1), ("message_id", 1)], unique=True)
        if count:
            messages = [{"session_id": session_id, **stored(m, number)} for number, m in enumerate(history(count))]
            database["messages"].insert_many(messages)

    async def open(self, session_id: str, with_tool: bool = False) -> Conversation:
        database = self.place.async_client[self.place.database]
        newest = database["messages"].find({"session_id": session_id}).sort("message_id", -1).limit(WINDOW)
        messages = [_numbered(document) for document in reversed(await newest.to_list())]

        async def write(message: Message, number: int) -> None:
            await database["messages"].insert_one({"session_id": session_id, **stored(message, number)})
            touch = {"$set": {"updated_at": datetime.now(timezone.utc)}}
            await database["sessions"].update_one({"_id": session_id}, touch, upsert=True)

        next_number = messages[-1][0] + 1 if messages else 0
        hook = _OnMessage(write, next_number)
        restored = [message for _, message in messages]
        agent = new_agent(restored, hooks=[hook], with_tool=with_tool, latency_ms=self.place.latency_ms)
        return AgentConversation(agent)


def _numbered(document: Document) -> tuple[int, Message]:
    return document["message_id"], _message(document)


def _messages(document: Document | None) -> list[Message]:
    return [_message(element) for element in document["messages"]] if document else []


def _message(element: Document) -> Message:
    names = ("role", "content", "tracking_id", "metadata")
    return cast(Message, {name: element[name] for name in names if name in element})


class _ThreadedConversation(AgentConversation):
    def __init__(self, agent: Agent, threads: ThreadPoolExecutor) -> None:
        super().__init__(agent)
        self._threads = threads

    async def close(self) -> None:
        self._threads.shutdown()


class _FloorConversation(Conversation):
    def __init__(self, collection: Collection[Document], session_id: str, writes: int) -> None:
        self._collection, self._wanted = collection, {"_id": session_id}
        self._messages = history(writes)

    async def turn(self) -> None:
        for number, message in enumerate(self._messages):
            self._collection.update_one(self._wanted, append(message, number), upsert=True)


class _AsyncFloorConversation(Conversation):
    def __init__(self, collection: AsyncCollection[Document], session_id: str, writes: int) -> None:
        self._collection, self._wanted = collection, {"_id": session_id}
        self._messages = history(writes)

    async def turn(self) -> None:
        for number, message in enumerate(self._messages):
            await self._collection.update_one(self._wanted, append(message, number), upsert=True)


class _OnMessage(HookProvider):
    def __init__(self, write: Callable[[Message, int], Coroutine[Any, Any, None] | None], number: int) -> None:
        self._write, self._number = write, number

    def register_hooks(self, registry: HookRegistry, **kwargs: Any) -> None:
        registry.add_callback(MessageAddedEvent, self._on_message)

    async def _on_message(self, event: MessageAddedEvent) -> None:
        written = self._write(event.message, self._number)
        self._number += 1
        if written is not None:
            await written
