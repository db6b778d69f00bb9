"""Conversations that are opened again and again while the server is away."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import pytest
from pymongo import common

from mongodb_session_manager import MongoDBSessionManager
from mongodb_session_manager._schema.limits import Limits
from tests.aliases import Failing
from tests.faults.conversation import Conversation, Converse
from tests.faults.cutting_proxy import HOST, CuttingProxy, running_proxy
from tests.faults.fault import ALWAYS, Fault


@pytest.fixture(autouse=True)
def quick_recovery(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting is not what is tested here."""
    # The driver looks for a lost server again after 0.5 s at the earliest, and these tests lose many.
    monkeypatch.setattr(common, "MIN_HEARTBEAT_INTERVAL", 0.02)


@pytest.fixture
def limits(limits: Limits) -> Limits:
    """So long a write that nobody waits for is repeated."""
    return replace(limits, behind_timeout=0.2)


@pytest.fixture
def converse(mongodb_uri: str, database: str, limits: Limits) -> Iterator[Converse]:
    """Begin a conversation, on a client of its own."""
    with ExitStack() as stack:

        def begin(
            durability: str = "sync",
            on_error: str = "raise",
            *,
            uri: str = mongodb_uri,
            session_id: str = "s-1",
            **options: Any,
        ) -> Conversation:
            how: dict[str, Any] = {"durability": durability, "on_error": on_error, "minPoolSize": 0}
            options = {"heartbeatFrequencyMS": 20, **how, **options}

            def open_manager(**options: Any) -> MongoDBSessionManager:
                return MongoDBSessionManager(session_id, uri, database, _limits=limits, **options)

            conversation = Conversation(partial(open_manager, **options), open_manager, degrades=on_error == "degrade")
            stack.enter_context(closing(conversation.manager))
            return conversation

        yield begin


@pytest.fixture(scope="module")
def proxy(mongodb_uri: str) -> Iterator[CuttingProxy]:
    """A proxy in front of the server that may lose its replies."""
    server = urlsplit(mongodb_uri)
    with running_proxy((server.hostname or HOST, server.port or 27017)) as proxy:
        yield proxy


@pytest.fixture
def inject(failing: Failing, proxy: CuttingProxy) -> Callable[..., AbstractContextManager[None]]:
    """Inject a fault into one kind of command of this test, for the time of a ``with``; some command must meet it."""

    @contextmanager
    def inject(fault: Fault, command: str = "update", skip: int = 0, **where: Any) -> Iterator[None]:
        if fault.loses_replies:
            with proxy.cutting(command, times=fault.times):
                yield
            assert proxy.cuts
            return
        mode = {"skip": skip} if skip else "alwaysOn" if fault.times == ALWAYS else {"times": fault.times}
        with failing(command, mode=mode, **where, **fault.how) as met:
            yield
        assert met[0]

    return inject
