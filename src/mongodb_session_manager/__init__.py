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
from .mongodb_connection_pool import MongoDBConnectionPool
from .mongodb_session_factory import (
    MongoDBSessionManagerFactory,
    close_global_factory,
    get_global_factory,
    initialize_global_factory,
)
from .mongodb_session_manager import MongoDBSessionManager, create_mongodb_session_manager
from .mongodb_session_repository import MongoDBSessionRepository

__all__ = [
    "AgentNotFoundError",
    "FactoryNotInitializedError",
    "MessageNotFoundError",
    "MongoDBConnectionPool",
    "MongoDBSessionError",
    "MongoDBSessionManager",
    "MongoDBSessionManagerFactory",
    "MongoDBSessionRepository",
    "SchemaVersionError",
    "SessionConflictError",
    "SessionLockedError",
    "SessionNotFoundError",
    "SessionTooLargeError",
    "UnstorableValueError",
    "__version__",
    "close_global_factory",
    "create_mongodb_session_manager",
    "get_global_factory",
    "initialize_global_factory",
]

__version__ = "0.6.0"
