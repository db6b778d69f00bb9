"""Makes started mongods a replica set."""

from collections.abc import Sequence
from typing import Any

from pymongo import MongoClient
from pymongo.errors import OperationFailure

__all__ = ["REPLICA_SET", "ensure_configured", "initiate", "is_primary"]

REPLICA_SET = "rs0"
_NOT_YET_INITIALIZED = 94
# A lost primary is replaced in 2 seconds; it takes 11 with the server's own settings.
_SETTINGS = {"electionTimeoutMillis": 1_000, "heartbeatIntervalMillis": 500, "heartbeatTimeoutSecs": 1}


def ensure_configured(client: MongoClient[dict[str, Any]], host: str) -> None:
    """Initiate the set on a fresh data folder, or correct the address that a used one remembers."""
    config = _stored_config(client)
    if config is None:
        initiate(client, [host])
    elif [member["host"] for member in config["members"]] != [host]:
        # The folder was last served on another port. No member is left to vote on the change, hence `force`.
        moved = {**config, "version": config["version"] + 1, "members": _members([host])}
        client.admin.command("replSetReconfig", moved, force=True)


def initiate(client: MongoClient[dict[str, Any]], hosts: Sequence[str]) -> None:
    """Make the connected server and the others a replica set."""
    config = {"_id": REPLICA_SET, "members": _members(hosts), "settings": _SETTINGS}
    client.admin.command("replSetInitiate", config)


def is_primary(client: MongoClient[dict[str, Any]]) -> bool:
    """Tell whether the node takes writes."""
    return bool(client.admin.command("hello").get("isWritablePrimary"))


def _members(hosts: Sequence[str]) -> list[dict[str, Any]]:
    return [{"_id": number, "host": host} for number, host in enumerate(hosts)]


def _stored_config(client: MongoClient[dict[str, Any]]) -> dict[str, Any] | None:
    try:
        reply: dict[str, Any] = client.admin.command("replSetGetConfig")
    except OperationFailure as error:
        if error.code == _NOT_YET_INITIALIZED:
            return None
        raise
    config: dict[str, Any] = reply["config"]
    return config
