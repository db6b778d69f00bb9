"""MongoDB session manager for Strands Agents."""

from .errors import (
    AgentNotFoundError,
    FactoryNotInitializedError,
    MessageNotFoundError,
    MongoDBSessionError,
    SchemaVersionError,
    SessionConflictError,
    SessionLockedError,
    SessionNotFoundError,
    SessionTooLargeError,
    UnstorableValueError,
)
from .mongodb_session_manager import MongoDBSessionManager, create_mongodb_session_manager
from .mongodb_session_repository import MongoDBSessionRepository

__all__ = [
    "AgentNotFoundError",
    "FactoryNotInitializedError",
    "MessageNotFoundError",
    "MongoDBSessionError",
    "MongoDBSessionManager",
    "MongoDBSessionRepository",
    "SchemaVersionError",
    "SessionConflictError",
    "SessionLockedError",
    "SessionNotFoundError",
    "SessionTooLargeError",
    "UnstorableValueError",
    "__version__",
    "create_mongodb_session_manager",
]

__version__ = "0.6.0"
