"""Every fault of a single write, met by a command that several sessions share."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import partial

import pytest
from pymongo.errors import PyMongoError

from mongodb_session_manager import MongoDBSessionManager
from tests.aliases import Client, Inject
from tests.faults.conversation import Conversation
from tests.faults.cutting_proxy import CuttingProxy
from tests.faults.fault import ALWAYS, FAULTS, TOLD, Fault
from tests.gathering import held_up
from tests.watching import eventually

SESSIONS = ("s-1", "s-2", "s-3")

Begin = Callable[..., "Group"]


class Group:
    """Conversations on one client, each on a thread of its own."""

    def __init__(self, client: Client, conversations: list[Conversation]) -> None:
        self._client, self.conversations = client, conversations

    def turn(self) -> list[PyMongoError | None]:
        """Have all talk, and the prompts wait at one moment; return what went wrong with each."""
        with ThreadPoolExecutor(len(self.conversations)) as threads:
            with held_up(self._client) as waiting:
                turns = [threads.submit(conversation.turn, with_tool=True) for conversation in self.conversations]
                assert eventually(lambda: waiting() == len(turns))
            return [turn.result() for turn in turns]


@pytest.fixture
def begin(mongodb_uri: str, proxy: CuttingProxy, database: str) -> Iterator[Begin]:
    """Begin conversations that can meet a fault together."""
    with ExitStack() as stack:

        def begin(fault: Fault, on_error: str) -> Group:
            uri = proxy.uri if fault.loses_replies else mongodb_uri
            client = stack.enter_context(Client(uri, tz_aware=True, heartbeatFrequencyMS=20, **fault.options))

            def converse(session_id: str) -> Conversation:
                on_client = partial(MongoDBSessionManager, session_id, client=client, database_name=database)
                reopen = partial(MongoDBSessionManager, session_id, mongodb_uri, database)
                conversation = Conversation(
                    partial(on_client, on_error=on_error), reopen, degrades=on_error == "degrade"
                )
                stack.enter_context(closing(conversation.manager))
                return conversation

            group = Group(client, [converse(session_id) for session_id in SESSIONS])
            for conversation in group.conversations:
                conversation.talk_until_acknowledged()
            return group

        yield begin


def assert_told(fault: Fault, error: PyMongoError | None, session_id: str) -> None:
    """Each is told what it is when it is alone, and nothing of the others."""
    if fault.times == ALWAYS or error is not None:
        assert isinstance(error, fault.error or type(None))
    if error is not None:
        assert {session_id in note for note in error.__notes__} == {True}


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_nothing_is_lost(begin: Begin, inject: Inject, fault: Fault) -> None:
    group = begin(fault, "raise")

    with inject(fault):
        for session_id, error in zip(SESSIONS, group.turn(), strict=True):
            assert_told(fault, error, session_id)

    for conversation in group.conversations:
        conversation.talk_until_acknowledged()
        conversation.check()


@pytest.mark.parametrize("fault", TOLD, ids=str)
def test_the_conversations_go_on(begin: Begin, inject: Inject, fault: Fault) -> None:
    group = begin(fault, "degrade")

    with inject(fault):
        assert group.turn() == [None] * len(SESSIONS)

    assert group.turn() == [None] * len(SESSIONS)
    for conversation in group.conversations:
        conversation.talk_until_acknowledged()
        conversation.check()
