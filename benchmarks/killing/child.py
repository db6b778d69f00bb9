"""The writer that is killed: a process of its own, which tells what was acknowledged."""

import itertools
import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Literal

from pymongo import MongoClient
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent
from strands.hooks import BeforeModelCallEvent
from strands.types.content import Message

from mongodb_session_manager import MongoDBSessionManager
from mongodb_session_manager.types import Durability

from .script import SMALL_DOCUMENTS, Conversation, Step, endless, every_kind

Moment = Literal["started", "succeeded"]

# Of the driver's own accord, when it leaves; no write of ours.
_FAREWELL = "endSessions"


@dataclass(frozen=True)
class Plan:
    """What a writer does, and when it kills itself.

    Attributes:
        uri: The server.
        database: Where the session is stored.
        session_id: The session; the server knows the writer by it.
        durability: That of its managers.
        kill_at: The number of the command, from 1 on; None to go on until somebody else kills it.
        moment: Just before that command is sent, or when its reply is there.
        first: Without ``kill_at``: what the first turn is called.
    """

    uri: str
    database: str
    session_id: str
    durability: Durability
    kill_at: int | None = None
    moment: Moment = "started"
    first: int = 0


@dataclass(frozen=True)
class Report:
    """What a writer was told is stored.

    Attributes:
        messages: The messages that its agent holds, by id.
        state: The agent's state.
        redacted: What a guardrail took out.
        is_last: Whether the process has come to its end.
    """

    messages: dict[int, Message]
    state: dict[str, Any] | None = None
    redacted: str | None = None
    is_last: bool = False


def write(reports: "Connection[Report, None]", plan: Plan) -> None:
    """Hold the conversation; the target of a process."""
    killer = Killer(plan.moment, plan.kill_at)
    with MongoClient[dict[str, Any]](plan.uri, appname=plan.session_id, event_listeners=[killer]) as client:
        steps = every_kind() if plan.kill_at else endless(plan.first)
        Writer(plan, client, reports).hold(steps)
    reports.send(Report({}, is_last=True))


def delete(reports: "Connection[Report, None]", plan: Plan) -> None:
    """Delete the session; the target of a process."""
    killer = Killer(plan.moment, plan.kill_at)
    with (
        MongoClient[dict[str, Any]](plan.uri, appname=plan.session_id, event_listeners=[killer]) as client,
        MongoDBSessionManager(plan.session_id, client=client, database_name=plan.database) as manager,
    ):
        manager.delete_session()
    reports.send(Report({}, is_last=True))


class Killer(CommandListener):
    """Kills its own process at one of the commands that it sends.

    Args:
        moment: Before it is sent, or after its reply.
        number: Which one; None for none of them.
    """

    def __init__(self, moment: Moment, number: int | None) -> None:
        self._moment, self._number = moment, number
        self._numbers = itertools.count(1)

    def started(self, event: CommandStartedEvent) -> None:
        self._meet("started", event.command_name)

    def succeeded(self, event: CommandSucceededEvent) -> None:
        self._meet("succeeded", event.command_name)

    def failed(self, event: CommandFailedEvent) -> None:
        self._meet("succeeded", event.command_name)

    def _meet(self, moment: Moment, command: str) -> None:
        if moment == self._moment and command != _FAREWELL and next(self._numbers) == self._number:
            os.kill(os.getpid(), signal.SIGKILL)


class Writer:
    """Takes step after step, and reports after each."""

    def __init__(self, plan: Plan, client: MongoClient[dict[str, Any]], reports: "Connection[Report, None]") -> None:
        self._plan, self._client, self._reports = plan, client, reports

    def hold(self, steps: Iterable[Step]) -> None:
        conversation: Conversation | None = None
        for step in steps:
            if conversation is None or step.reopened:
                if conversation is not None:
                    conversation.close()
                conversation = self._open()
            conversation.hold(step)
            state = conversation.agent.state.get()
            self._reports.send(Report(conversation.messages(), state, step.redacts))
        if conversation is not None:
            conversation.close()

    def _open(self) -> Conversation:
        plan = self._plan
        manager = MongoDBSessionManager(
            plan.session_id,
            client=self._client,
            database_name=plan.database,
            durability=plan.durability,
            _limits=SMALL_DOCUMENTS,
        )
        conversation = Conversation(manager)
        self._reports.send(Report(conversation.messages()))
        if plan.durability == "sync":
            # Whatever the model is asked with is stored already.
            conversation.agent.hooks.add_callback(
                BeforeModelCallEvent, lambda _: self._reports.send(Report(conversation.messages()))
            )
        return conversation
