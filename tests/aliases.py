"""The types of fixtures, and of what they give."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from pymongo import MongoClient
from strands import Agent
from strands.types.content import Message

from mongodb_session_manager import MongoDBSessionManager

Client = MongoClient[dict[str, Any]]
Document = dict[str, Any]

# Fixtures of the whole suite
Everything = Callable[[], bytes]
Failing = Callable[..., AbstractContextManager[list[int]]]
History = Callable[..., list[Message]]
Insert = Callable[[Document], None]
NewAgent = Callable[..., Agent]
NewManager = Callable[..., MongoDBSessionManager]
Stored = Callable[..., Document]

# Fixtures of a folder
Inject = Callable[..., AbstractContextManager[None]]

# A user's hook, and the function that it is given to go on with
Hook = Callable[..., Any]
Original = Callable[..., Any]
