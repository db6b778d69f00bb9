"""A fault in each of the operations: what is told, and that a repetition ends well."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
from pymongo.errors import AutoReconnect, OperationFailure, PyMongoError, WriteConcernError
from strands import Agent
from strands.types.content import Message

from mongodb_session_manager.testing import ScriptedModel
from tests.aliases import Client, Inject
from tests.faults.conversation import Conversation, Converse, make_agent
from tests.faults.cutting_proxy import CuttingProxy
from tests.faults.fault import CLOSED, LOST, UNCONFIRMED, Fault
from tests.watching import wait_for_indexes

SESSIONS, SEGMENTS = "agent_sessions", "agent_sessions_segments"
few_embedded = pytest.mark.limits(kept_messages=3)
SECRET = "my number is 555-0199"

FAULTS = [
    Fault("dropped once", CLOSED, times=1),
    Fault("dropped", CLOSED, AutoReconnect),
    Fault("refused", {"errorCode": 13}, OperationFailure),
    Fault("not applied in time", {"errorCode": 50}, OperationFailure),
    Fault("unconfirmed", UNCONFIRMED, WriteConcernError, applied=True),
    Fault("reply lost", LOST, AutoReconnect, applied=True),
]
READ_FAULTS = [fault for fault in FAULTS if fault.name != "unconfirmed"]


@dataclass(frozen=True)
class Operation:
    """Something that users, or the library behind their back, do.

    Attributes:
        name: What it is called in the documents.
        command: What the server gets.
        act: Does it.
        expect: Looks whether it was done; gets the conversation, and whether the failed attempt was applied too.
        again: What the user does after an error; the same once more by default.
        collection: Where it goes.
        reads: Whether it changes nothing.
        quiet: Whether a failure is only logged.
        retried: Whether the driver repeats it once.
    """

    name: str
    command: str
    act: Callable[[Conversation], object]
    expect: Callable[[Conversation, bool], bool] = lambda conversation, twice: True
    again: Callable[[Conversation], object] | None = None
    collection: str = SESSIONS
    reads: bool = False
    quiet: bool = False
    retried: bool = True

    def told(self, fault: Fault) -> type[PyMongoError] | None:
        """Return the error that reaches the user."""
        if self.quiet:
            return None
        return fault.error or (None if self.retried else AutoReconnect)


def open_manager(conversation: Conversation) -> None:
    conversation.open().close()


def index(conversation: Conversation) -> None:
    with conversation.open():
        wait_for_indexes()


def restore(conversation: Conversation) -> None:
    with conversation.open() as manager:
        make_agent(manager)


def start_agent(conversation: Conversation) -> None:
    agent = Agent(
        model=ScriptedModel(default="Okay."),
        agent_id="other",
        messages=[{"role": "user", "content": [{"text": "One"}]}],
        session_manager=conversation.manager,
        callback_handler=None,
    )
    assert len(agent.messages) == 1


def other_agents_messages(conversation: Conversation, twice: bool) -> bool:
    return [message["message_id"] for message in conversation.manager.list_messages("other")] == [0]


def append(conversation: Conversation, text: str = "by hand") -> None:
    message: Message = {
        "role": "user",
        "content": [{"text": text}],
        "tracking_id": f"own-{len(conversation.agent.messages)}",
    }
    conversation.agent.messages.append(message)
    conversation.manager.append_message(message, conversation.agent)


def flush(conversation: Conversation) -> None:
    conversation.manager.flush()


def sync(conversation: Conversation) -> None:
    conversation.agent.state.set("changed", True)
    conversation.manager.sync_agent(conversation.agent)


def redact(conversation: Conversation) -> None:
    agent = conversation.agent
    agent.messages[-1]["content"] = [{"text": "[removed]"}]
    conversation.manager.redact_latest_message(agent.messages[-1], agent)


def outgrow(conversation: Conversation) -> None:
    """Have all but the latest messages move next."""
    conversation.manager._agents.live()[0].history.rollover.set_document_size(100, 200_000)


def move(conversation: Conversation) -> None:
    history = conversation.manager._agents.live()[0].history
    history.rollover.move_quietly(history.move_oldest)
    wait_for_indexes()


def metadata(conversation: Conversation) -> Any:
    return conversation.manager.get_metadata().get("metadata", {})


def feedback(conversation: Conversation, twice: bool) -> bool:
    # Feedback has no identity of its own: what was applied without an answer stands there as well.
    return [each["comment"] for each in conversation.manager.get_feedbacks()] == ["Good"] * (1 + twice)


OPERATIONS = [
    Operation("opening a session", "findAndModify", open_manager),
    Operation("creating the indexes", "createIndexes", index, quiet=True),
    Operation("restoring an agent", "aggregate", restore, reads=True),
    Operation("a new agent", "update", start_agent, other_agents_messages),
    Operation("append_message", "update", append, again=flush),
    Operation("sync_agent", "update", sync),
    Operation("redaction", "update", redact, again=flush),
    Operation("redaction, looking for copies", "aggregate", redact, again=flush, reads=True),
    Operation("redaction, in segments", "update", redact, again=flush, collection=SEGMENTS, retried=False),
    Operation(
        "update_metadata", "update", lambda c: c.manager.update_metadata({"a": 1}), lambda c, _: metadata(c)["a"] == 1
    ),
    Operation("get_metadata", "find", metadata, reads=True),
    Operation(
        "delete_metadata", "update", lambda c: c.manager.delete_metadata(["topic"]), lambda c, _: metadata(c) == {}
    ),
    Operation("add_feedback", "update", lambda c: c.manager.add_feedback({"comment": "Good"}), feedback),
    Operation("get_feedbacks", "find", lambda c: c.manager.get_feedbacks(), reads=True),
    Operation("list_messages", "aggregate", lambda c: c.manager.list_messages("default"), reads=True),
    Operation(
        "update_agent_config",
        "update",
        lambda c: c.manager.update_agent_config("default", prompt_metadata={"version": 2}),
        lambda c, _: c.manager.get_agent_config("default")["prompt_metadata"] == {"version": 2},  # type: ignore[index]
    ),
    Operation("moving messages, the segment", "insert", move, collection=SEGMENTS, quiet=True),
    Operation("moving messages, its index", "createIndexes", move, collection=SEGMENTS, quiet=True),
    Operation("moving messages, the reference", "update", move, quiet=True),
    Operation("moving messages, reading them", "aggregate", move, reads=True, quiet=True),
]
CASES = [
    pytest.param(operation, fault, id=f"{operation.name}-{fault}")
    for operation in OPERATIONS
    for fault in (READ_FAULTS if operation.reads else FAULTS)
]


@pytest.fixture
def conversation(converse: Converse, proxy: CuttingProxy, operation: Operation, fault: Fault) -> Conversation:
    conversation = converse(**({"uri": proxy.uri} if fault.loses_replies else {}))
    conversation.manager.update_metadata({"topic": "orders"})
    conversation.talk_until_acknowledged(with_tool=True)
    conversation.talk_until_acknowledged(with_tool=True)
    append(conversation, SECRET)
    if operation.act is move:
        outgrow(conversation)
    return conversation


@few_embedded
@pytest.mark.parametrize(("operation", "fault"), CASES)
def test_an_operation_fails_and_is_repeated(
    conversation: Conversation,
    inject: Inject,
    operation: Operation,
    fault: Fault,
    everything: Callable[[], bytes],
) -> None:
    error = None
    with inject(fault, operation.command, collection=operation.collection):
        try:
            operation.act(conversation)
        except PyMongoError as caught:
            error = caught
    assert isinstance(error, operation.told(fault) or type(None))

    if error is not None:
        (operation.again or operation.act)(conversation)
    assert operation.expect(conversation, error is not None and fault.applied)
    conversation.talk_until_acknowledged(with_tool=True)
    conversation.check()
    if operation.act is redact:
        assert SECRET.encode() not in everything()


@few_embedded
@pytest.mark.parametrize("collection", [SESSIONS, SEGMENTS])
@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_deleting_a_session_can_be_repeated(
    converse: Converse,
    proxy: CuttingProxy,
    inject: Inject,
    observer: Client,
    database: str,
    fault: Fault,
    collection: str,
) -> None:
    conversation = converse(**({"uri": proxy.uri} if fault.loses_replies else {}))
    for _ in range(2):
        conversation.talk_until_acknowledged(with_tool=True)
    outgrow(conversation)
    move(conversation)

    with inject(fault, "delete", collection=collection), suppress(PyMongoError):
        conversation.manager.delete_session()
    conversation.manager.delete_session()

    assert not any(observer[database][name].count_documents({}) for name in (SESSIONS, SEGMENTS))
