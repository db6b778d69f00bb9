"""Every fault that the driver and the server know of a single write, under every durability."""

import time

import pytest

from tests.aliases import Inject
from tests.faults.conversation import LONGEST_WAIT, Conversation, Converse
from tests.faults.cutting_proxy import CuttingProxy
from tests.faults.fault import ALWAYS, FAULTS, TOLD, Fault
from tests.talking import every_durability

# Those whose outcome depends on which write of a turn they hit.
ANYWHERE = [fault for fault in TOLD if fault.name.startswith(("connection dropped, until", "write concern 64, until"))]

# The codes differ in nothing that a durability could see.
CASES = [
    pytest.param(durability, fault, id=f"{durability}-{fault}")
    for durability in ("sync", "async", "exit")
    for fault in FAULTS
    if durability == "sync" or not fault.name.startswith("code") or fault.error
]


@pytest.fixture
def begin(converse: Converse, proxy: CuttingProxy) -> Converse:
    """Begin a conversation that can meet a fault."""

    def begin(fault: Fault, durability: str, on_error: str = "raise") -> Conversation:
        where = {"uri": proxy.uri} if fault.loses_replies else {}
        conversation = converse(durability, on_error, **where, **fault.options)
        conversation.talk_until_acknowledged(with_tool=True)
        conversation.talk_until_acknowledged()
        return conversation

    return begin


def go_on(conversation: Conversation) -> None:
    conversation.talk_until_acknowledged()
    conversation.talk_until_acknowledged(with_tool=True)
    conversation.check()


def stored(conversation: Conversation, expected: int = 0) -> int:
    """Return how many messages are stored; a write whose caller gave up may arrive late."""
    deadline = time.monotonic() + LONGEST_WAIT
    while (count := conversation.manager.get_message_count("default")) < expected and time.monotonic() < deadline:
        time.sleep(0.02)
    return count


@pytest.mark.parametrize(("durability", "fault"), CASES)
def test_nothing_is_lost(begin: Converse, inject: Inject, fault: Fault, durability: str) -> None:
    conversation = begin(fault, durability)
    before = stored(conversation)

    with inject(fault):
        error = conversation.turn(with_tool=True)
        # With "async" it is the last of several attempts that is told.
        if durability != "async":
            assert isinstance(error, fault.error or type(None))
        if error is not None and durability != "async":
            # With "sync" the prompt is what failed, with "exit" the whole turn.
            written = {"sync": 1, "exit": 4}[durability] if fault.applied else 0
            assert stored(conversation, before + written) == before + written
        elif fault.times == ALWAYS:
            assert (error is not None) == (fault.error is not None)
        conversation.turn()

    go_on(conversation)


@pytest.mark.parametrize("fault", TOLD, ids=str)
@every_durability
def test_the_conversation_goes_on(begin: Converse, inject: Inject, fault: Fault, durability: str) -> None:
    conversation = begin(fault, durability, "degrade")

    with inject(fault):
        conversation.turn(with_tool=True)
        conversation.turn()

    assert conversation.errors == []
    go_on(conversation)


@pytest.mark.parametrize("fault", ANYWHERE, ids=str)
@pytest.mark.parametrize("written_before", [1, 2, 3])
@pytest.mark.parametrize(("durability", "on_error"), [("sync", "degrade"), ("async", "raise"), ("async", "degrade")])
def test_it_may_begin_in_mid_turn(
    begin: Converse,
    inject: Inject,
    fault: Fault,
    durability: str,
    on_error: str,
    written_before: int,
) -> None:
    conversation = begin(fault, durability, on_error)

    with inject(fault, skip=written_before):
        conversation.turn(with_tool=True)
        conversation.turn(with_tool=True)

    go_on(conversation)
