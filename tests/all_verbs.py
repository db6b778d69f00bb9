"""A repository with the verbs of its stores, which the session manager calls beside the public ones."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from mongodb_session_manager import MongoDBSessionRepository
from mongodb_session_manager._stores.agent_config import AgentConfigStore
from mongodb_session_manager._stores.feedback import FeedbackStore
from mongodb_session_manager._stores.histories import HistoryStore
from mongodb_session_manager._stores.messages import MessageStore
from mongodb_session_manager._stores.metadata import MetadataStore
from mongodb_session_manager._stores.multi_agents import MultiAgentStore
from mongodb_session_manager._stores.outbox import OutboxStore
from mongodb_session_manager._stores.sessions import SessionStore
from mongodb_session_manager.mongodb_session_repository import stores_of

STORES: dict[str, type] = {
    "sessions": SessionStore,
    "histories": HistoryStore,
    "messages": MessageStore,
    "configs": AgentConfigStore,
    "metadata": MetadataStore,
    "feedback": FeedbackStore,
    "multi_agents": MultiAgentStore,
    "outbox": OutboxStore,
}
# What other stores build their verbs of.
PARTS = {"send", "undelivered", "write_unguarded"}


class WholeRepository(MongoDBSessionRepository):
    """Has each verb of a store that the repository does not have itself."""


def _through(name: str, verb: str) -> Callable[..., Any]:
    @functools.wraps(getattr(STORES[name], verb))
    def call(self: WholeRepository, *args: Any, **options: Any) -> Any:
        return getattr(getattr(stores_of(self), name), verb)(*args, **options)

    return call


for _name, _store in STORES.items():
    for _verb, _ in inspect.getmembers(_store, inspect.isfunction):
        if not (_verb.startswith("_") or _verb in PARTS or hasattr(WholeRepository, _verb)):
            setattr(WholeRepository, _verb, _through(_name, _verb))
