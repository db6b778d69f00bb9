"""Three hooks around the metadata of a session: an audit trail, a check of what is written, and a cache.

A hook wraps every metadata call, also those of an agent's tool. Run it as it is: it needs no account and no network.
"""

import copy
from typing import Any
from uuid import uuid4

from pymongo import MongoClient

from mongodb_session_manager import MongoDBSessionManager
from mongodb_session_manager.testing import CommandCounter, MongodNotFoundError, MongodStartError, running_mongodb
from mongodb_session_manager.types import MetadataHook

STATUSES = {"open", "waiting", "solved"}


class AuditTrail:
    """Records each change after it was stored."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, original_func: Any, action: str, session_id: str, **kwargs: Any) -> Any:
        """Make the call, then record it."""
        result = original_func()  # no argument: use the caller's arguments
        if action != "get":
            fields = list(kwargs["metadata"]) if action == "update" else kwargs["keys"]
            self.lines.append(f"{action} {fields}")
        return result


def check_status(original_func: Any, action: str, session_id: str, **kwargs: Any) -> Any:
    """Refuse an unknown status, and write a known status in lower case."""
    if action != "update" or "status" not in kwargs["metadata"]:
        return original_func()
    metadata = kwargs["metadata"]  # a copy, which may be changed
    metadata["status"] = metadata["status"].lower()
    if metadata["status"] not in STATUSES:
        raise ValueError(f"status must be one of {sorted(STATUSES)}, got {metadata['status']!r}")
    return original_func(metadata)


class Cache:
    """Reads once and remembers. Use it only if one process alone writes these sessions."""

    def __init__(self) -> None:
        self._known: dict[str, Any] = {}

    def __call__(self, original_func: Any, action: str, session_id: str, **kwargs: Any) -> Any:
        """Answer a read from memory; clear the memory when something is written."""
        if action != "get":
            try:
                return original_func()
            finally:
                self._known.pop(session_id, None)
        if session_id not in self._known:
            self._known[session_id] = original_func()
        return copy.deepcopy(self._known[session_id])


def main() -> None:
    commands = CommandCounter()
    with running_mongodb() as uri, MongoClient[dict[str, Any]](uri, event_listeners=[commands]) as client:

        def open_session(hook: MetadataHook | list[MetadataHook]) -> MongoDBSessionManager:
            return MongoDBSessionManager(f"hooks-{uuid4()}", client=client, metadata_hook=hook)

        audit = AuditTrail()
        with open_session(audit) as manager:
            manager.update_metadata({"status": "open", "priority": 2})
            manager.delete_metadata(["priority"])
            print(f"audit:      {audit.lines}")
            manager.delete_session()

        with open_session(check_status) as manager:
            manager.update_metadata({"status": "SOLVED"})
            try:
                manager.update_metadata({"status": "forgotten", "priority": 1})
            except ValueError as error:
                print(f"validation: {error}")
            print(f"validation: {manager.get_metadata()['metadata']}")
            manager.delete_session()

        # In a list the first hook is the outermost, so the audit trail holds only changes that passed the check.
        audit = AuditTrail()
        with open_session([audit, check_status, Cache()]) as manager, commands.counting() as log:
            manager.update_metadata({"status": "Waiting"})
            found = [manager.get_metadata() for _ in range(3)]
            print(f"all three:  {audit.lines}, {found[-1]['metadata']}")
            print(f"caching:    {len(found)} calls of get_metadata, {log.reads} read")
            manager.delete_session()


if __name__ == "__main__":
    try:
        main()
    except (MongodNotFoundError, MongodStartError) as error:
        raise SystemExit(str(error)) from None
