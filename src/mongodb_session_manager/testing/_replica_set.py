"""Makes a started mongod the primary of a replica set of its own."""

from typing import Any

from pymongo import MongoClient
from pymongo.errors import OperationFailure

__all__ = ["REPLICA_SET", "ensure_configured", "is_primary"]

REPLICA_SET = "rs0"
_NOT_YET_INITIALIZED = 94


def ensure_configured(client: MongoClient[dict[str, Any]], host: str) -> None:
    """Initiate the set on a fresh data folder, or correct the address that a used one remembers."""
    config = _stored_config(client)
    if config is None:
        client.admin.command("replSetInitiate", {"_id": REPLICA_SET, "members": [_member(host)]})
    elif [member["host"] for member in config["members"]] != [host]:
        # The folder was last served on another port. Nobody is left to vote on the change, hence `force`.
        moved = {**config, "version": config["version"] + 1, "members": [_member(host)]}
        client.admin.command("replSetReconfig", moved, force=True)


def is_primary(client: MongoClient[dict[str, Any]]) -> bool:
    """Tell whether the node takes writes."""
    return bool(client.admin.command("hello").get("isWritablePrimary"))


def _member(host: str) -> dict[str, Any]:
    return {"_id": 0, "host": host}


def _stored_config(client: MongoClient[dict[str, Any]]) -> dict[str, Any] | None:
    try:
        reply: dict[str, Any] = client.admin.command("replSetGetConfig")
    except OperationFailure as error:
        if error.code == _NOT_YET_INITIALIZED:
            return None
        raise
    config: dict[str, Any] = reply["config"]
    return config
