"""All sessions of one person are deleted, with the segments and files that belong to them.

The owner of a session stands in its metadata, which ``metadata_fields`` indexes. What a deletion does not reach:

- sessions without that owner: your service sets ``user_id`` before the first message, never a tool of the model;
- what others say of the person in their own sessions;
- backups, and the oplog of the replica set, until they have gone through;
- what hooks have sent elsewhere, and what your own code has copied.

Run it as it is: it needs no account and no network.
"""

from typing import Any
from uuid import uuid4

from pymongo import MongoClient
from pymongo.database import Database
from strands import Agent

from mongodb_session_manager import MongoDBSessionManagerFactory, SessionCatalog, SessionFilter
from mongodb_session_manager.testing import MongodNotFoundError, MongodStartError, ScriptedModel, running_mongodb

PDF: Any = {"document": {"format": "pdf", "name": "contract", "source": {"bytes": bytes(1_000_000)}}}
LONG_TEXT = "Once upon a time. " * 10_000


def main() -> None:
    run = uuid4()
    ada, grace = f"ada-{run}", f"grace-{run}"
    with (
        running_mongodb() as uri,
        MongoClient[dict[str, Any]](uri) as client,
        MongoDBSessionManagerFactory(client=client, metadata_fields=["user_id"]) as factory,
    ):
        # A short session; one with a file; one whose oldest messages have moved to segments; one of somebody else.
        talk(factory, f"{run}-1", ada, "Hello")
        talk(factory, f"{run}-2", ada, [PDF, {"text": "What does it say?"}])
        talk(factory, f"{run}-3", ada, *[LONG_TEXT] * 6)
        talk(factory, f"{run}-4", grace, "Ada lives in London.")
        database = client.get_default_database("database_name")
        print("stored:  ", counts(database, run))

        print("erased:  ", erase(factory.sessions, ada))
        print("left:    ", counts(database, run))
        print("again:   ", erase(factory.sessions, ada))

        # What somebody else has said of her is not hers.
        print("not hers:", factory.sessions.part(f"{run}-4", "assistant", message_id=0, n=0).data)
        erase(factory.sessions, grace)


def erase(catalog: SessionCatalog, user_id: str) -> str:
    """Delete the sessions of a person; a request that is being answered loses its session too, and gets an error.

    Stop new requests of the person first. Sessions that began meanwhile are remaining: it is safe to repeat.
    """
    if not user_id:
        raise ValueError("user_id must not be empty")
    report = catalog.delete_many(SessionFilter(metadata={"user_id": user_id}))
    return f"{report.deleted} sessions; held {report.held}, failed {report.failed}, remaining {report.remaining}"


def talk(factory: MongoDBSessionManagerFactory, session_id: str, user_id: str, *prompts: Any) -> None:
    with factory.create_session_manager(session_id) as manager:
        manager.update_metadata({"user_id": user_id})
        model = ScriptedModel(default="I see.")
        agent = Agent(model=model, agent_id="assistant", session_manager=manager, callback_handler=None)
        for prompt in prompts:
            agent(prompt)


def counts(database: Database[dict[str, Any]], run: object) -> dict[str, int]:
    """Count the sessions of this run, and what belongs to them."""
    prefix = {"$regex": f"^{run}"}
    return {
        "sessions": database["agent_sessions"].count_documents({"_id": prefix}),
        "segments": database["agent_sessions_segments"].count_documents({"session_id": prefix}),
        "files": database["agent_sessions_files.files"].count_documents({"metadata.session_id": prefix}),
    }


if __name__ == "__main__":
    try:
        main()
    except (MongodNotFoundError, MongodStartError) as error:
        raise SystemExit(str(error)) from None
