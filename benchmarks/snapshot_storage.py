"""The least that the SDK's Storage protocol asks for, on a MongoDB collection."""

import asyncio
import builtins
import re
from typing import Any

from pymongo.collection import Collection
from strands.storage.storage import StorageSearchResult


class MongoStorage:
    """One document for each key.

    The SDK restores in a temporary event loop, where an AsyncMongoClient fails; like the SDK's S3Storage this uses
    a synchronous client and threads.
    """

    def __init__(self, collection: Collection[dict[str, Any]]) -> None:
        self._collection = collection

    async def write(self, key: str, data: bytes) -> None:
        await asyncio.to_thread(self._collection.replace_one, {"_id": key}, {"data": data}, upsert=True)

    async def read(self, key: str) -> bytes | None:
        found = await asyncio.to_thread(self._collection.find_one, {"_id": key})
        return found["data"] if found else None

    async def delete(self, key: str) -> None:
        await asyncio.to_thread(self._collection.delete_one, {"_id": key})

    async def list(self, query: str) -> list[str]:
        wanted = {"_id": {"$regex": f"^{re.escape(query)}"}}
        return await asyncio.to_thread(lambda: [found["_id"] for found in self._collection.find(wanted).sort("_id")])

    async def search(self, query: str) -> "builtins.list[StorageSearchResult]":
        raise NotImplementedError
