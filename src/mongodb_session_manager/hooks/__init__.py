"""Hooks that send feedback and metadata to AWS services once they are stored.

Importing this package does not import boto3.
"""

from .feedback_sns_hook import FeedbackSNSHook, create_feedback_sns_hook, is_feedback_sns_hook_available
from .metadata_sqs_hook import MetadataSQSHook, create_metadata_sqs_hook, is_metadata_sqs_hook_available
from .metadata_websocket_hook import (
    MetadataWebSocketHook,
    create_metadata_websocket_hook,
    is_metadata_websocket_hook_available,
)

__all__ = [
    "FeedbackSNSHook",
    "MetadataSQSHook",
    "MetadataWebSocketHook",
    "create_feedback_sns_hook",
    "create_metadata_sqs_hook",
    "create_metadata_websocket_hook",
    "is_feedback_sns_hook_available",
    "is_metadata_sqs_hook_available",
    "is_metadata_websocket_hook_available",
]
