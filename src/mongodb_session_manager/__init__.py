"""MongoDB session manager for Strands Agents."""

from ._version import __version__
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
from .hooks import (
    FeedbackSNSHook,
    MetadataSQSHook,
    MetadataWebSocketHook,
    create_feedback_sns_hook,
    create_metadata_sqs_hook,
    create_metadata_websocket_hook,
    is_feedback_sns_hook_available,
    is_metadata_sqs_hook_available,
    is_metadata_websocket_hook_available,
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
    "FeedbackSNSHook",
    "MessageNotFoundError",
    "MetadataSQSHook",
    "MetadataWebSocketHook",
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
    "create_feedback_sns_hook",
    "create_metadata_sqs_hook",
    "create_metadata_websocket_hook",
    "create_mongodb_session_manager",
    "get_global_factory",
    "initialize_global_factory",
    "is_feedback_sns_hook_available",
    "is_metadata_sqs_hook_available",
    "is_metadata_websocket_hook_available",
]
