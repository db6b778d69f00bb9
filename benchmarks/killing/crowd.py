"""Processes that fill one session together: each has agents of its own, and moves the messages of all."""

import hashlib
import itertools
import json
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Literal

from pymongo import MongoClient
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent
from strands import Agent, tool
from strands.agent.conversation_manager import NullConversationManager
from strands.types.content import Message

from mongodb_session_manager import MongoDBSessionManager
from mongodb_session_manager.testing import ScriptedModel

from .child import Moment

# The steps of a move.
Step = Literal["inserted", "lengthened", "recorded", "taken back"]

SESSIONS = "agent_sessions"
SEGMENTS = "agent_sessions_segments"


@dataclass(frozen=True)
class CrowdPlan:
    """What a process does, and when it kills itself.

    Attributes:
        uri: The server.
        database: Where the session is stored.
        session_id: The session.
        name: Of the process; the server knows it by that.
        agent_ids: Its agents, which take turns.
        sizes: Bytes of tool results, one after the other.
        turns: How many turns each agent has; None to go on until it is asked to stop.
        first: What the first turn is called.
        kill_in: The step of a move in which it kills itself.
        moment: Just before the command of that step is sent, or when its reply is there.
        linger: Seconds that a move waits before it is recorded.
    """

    uri: str
    database: str
    session_id: str
    name: str
    agent_ids: tuple[str, ...]
    sizes: tuple[int, ...] = (85_000,)
    turns: int | None = None
    first: int = 0
    kill_in: Step | None = None
    moment: Moment = "succeeded"
    linger: float = 0


@dataclass(frozen=True)
class Told:
    """What a process was told is stored.

    Attributes:
        agent_id: One of its agents.
        first: The id of the first message in ``messages``.
        messages: Prints of messages that came since the last report.
        number: The metadata of the process, and the number of its latest feedback.
    """

    agent_id: str
    first: int
    messages: tuple[str, ...]
    number: int | None = None


@dataclass(frozen=True)
class Ended:
    """The last report of a process that nobody killed.

    Attributes:
        moved: The agents whose messages it has moved.
    """

    moved: frozenset[str]


def print_of(message: Mapping[str, Any]) -> str:
    """Return what tells a message, with all of its content, from others."""
    told = {name: message.get(name) for name in ("role", "content", "tracking_id")}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def fill(reports: "Connection[Told | Ended, Any]", plan: CrowdPlan) -> None:
    """Hold the conversations of all agents, in turns; the target of a process."""
    watcher = MoveWatcher(plan)
    with (
        MongoClient[dict[str, Any]](plan.uri, appname=plan.name, event_listeners=[watcher]) as client,
        MongoDBSessionManager(plan.session_id, client=client, database_name=plan.database) as manager,
    ):
        speakers = [Speaker(manager, agent_id, plan.sizes) for agent_id in plan.agent_ids]
        for number in _numbers(reports, plan):
            for speaker in speakers:
                reports.send(speaker.say(number))
            manager.update_metadata({plan.name: number})
            manager.add_feedback({"by": plan.name, "number": number})
            reports.send(Told(plan.agent_ids[0], 0, (), number))
    reports.send(Ended(frozenset(watcher.moved)))


def _numbers(reports: "Connection[Told | Ended, Any]", plan: CrowdPlan) -> Iterator[int]:
    numbers = itertools.count(plan.first)
    return itertools.takewhile(lambda _: not reports.poll(), itertools.islice(numbers, plan.turns))


class MoveWatcher(CommandListener):
    """Notes whose messages move, and kills its own process in a step of a move.

    Args:
        plan: Which step.
    """

    def __init__(self, plan: CrowdPlan) -> None:
        self.moved: set[str] = set()
        self._plan = plan
        self._steps: dict[int, tuple[Step | None, set[str], int]] = {}

    def started(self, event: CommandStartedEvent) -> None:
        step = step_of(event.command)
        self._steps[event.request_id] = step, _moving(event.command), len(event.command.get("updates", ()))
        if step == "recorded":
            time.sleep(self._plan.linger)
        self._meet("started", step)

    def succeeded(self, event: CommandSucceededEvent) -> None:
        step, agents, updates = self._steps.pop(event.request_id)
        if event.reply.get("n") == updates:
            self.moved |= agents
        self._meet("succeeded", step)

    def failed(self, event: CommandFailedEvent) -> None:
        self._steps.pop(event.request_id)

    def _meet(self, moment: Moment, step: Step | None) -> None:
        if step and (step, moment) == (self._plan.kill_in, self._plan.moment):
            os.kill(os.getpid(), signal.SIGKILL)


def step_of(command: Mapping[str, Any]) -> Step | None:
    """Tell which step of a move a command is; None where it is none."""
    if command.get("insert") == SEGMENTS:
        return "inserted"
    if command.get("delete") == SEGMENTS:
        return "taken back"
    if command.get("update") == SEGMENTS:
        return "lengthened" if "$push" in command["updates"][0]["u"] else "taken back"
    return "recorded" if _moving(command) else None


def _moving(command: Mapping[str, Any]) -> set[str]:
    """Return the agents whose messages a command takes out of the session document."""
    updates = command.get("updates", ()) if command.get("update") == SESSIONS else ()
    paths = (path for each in updates for path in each["u"].get("$pull", ()))
    return {path.split(".")[1] for path in paths if path.endswith(".messages")}


class Speaker:
    """An agent whose tool gives large results.

    Args:
        manager: The manager.
        agent_id: The agent.
        sizes: How large they are, one after the other.
    """

    def __init__(self, manager: MongoDBSessionManager, agent_id: str, sizes: Sequence[int] = (85_000,)) -> None:
        self._agent_id, self._sizes = agent_id, itertools.cycle(sizes)

        @tool
        def fetch(number: int) -> str:
            """Fetch much.

            Args:
                number: What it begins with.
            """
            return f"{number} ".ljust(next(self._sizes), "x")

        self.agent = Agent(
            model=ScriptedModel(default=_answer, latency_ms=0),
            agent_id=agent_id,
            tools=[fetch],
            conversation_manager=NullConversationManager(),
            session_manager=manager,
            callback_handler=None,
        )
        self._told = 0

    def say(self, number: int) -> Told:
        """Hold a turn, and tell what is stored then."""
        self.agent(str(number))
        first, self._told = self._told, len(self.agent.messages)
        return Told(self._agent_id, first, tuple(map(print_of, self.agent.messages[first:])))


def _answer(messages: list[Message]) -> Any:
    block = messages[-1]["content"][0]
    if "toolResult" in block:
        return "Very well."
    number = int(block["text"])
    return {"toolUse": {"toolUseId": f"t-{number}", "name": "fetch", "input": {"number": number}}}
