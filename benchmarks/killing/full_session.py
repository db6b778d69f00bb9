"""One session that several processes fill, seen from outside: what they were told, and what is stored."""

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

import bson
from histories import SEGMENTS, SESSIONS, Document, Finding, numbering, pairing
from processes import CONTEXT, warm_up
from pymongo import MongoClient
from strands.types.content import Message

from mongodb_session_manager import MongoDBSessionManager, MongoDBSessionRepository

from .crowd import CrowdPlan, Ended, Speaker, Told, fill, print_of

if TYPE_CHECKING:
    from typing_extensions import Self

# Seconds.
PATIENCE = 60.0
PAUSE = 0.005
# Of a process that was killed; the second where the fork server did not tell how it ended.
_KILLED = (-9, 255)

# Of a message that is written without this library, and what it takes beside its text.
_MESSAGE_BYTES, _OVERHEAD_BYTES = 85_000, 300


class Process:
    """A process that fills a session, and what it tells.

    Args:
        plan: What it does.
    """

    def __init__(self, plan: CrowdPlan) -> None:
        warm_up("killing.crowd")
        self.plan = plan
        self.told: dict[tuple[str, int], str] = {}
        self.number: int | None = None
        self.moved: frozenset[str] | None = None
        self._has_begun, self._has_ended = Event(), False
        self._reports, theirs = CONTEXT.Pipe()
        self._child: Any = CONTEXT.Process(target=fill, args=(theirs, plan))
        self._child.start()
        theirs.close()
        self._listening = Thread(target=self._listen, name=plan.name)
        self._listening.start()

    def _listen(self) -> None:
        try:
            while True:
                self._take(self._reports.recv())
        except (EOFError, OSError):  # the second when it was killed while it reported
            self._has_begun.set()

    def _take(self, report: Told | Ended) -> None:
        if isinstance(report, Ended):
            self.moved = report.moved
            return
        self.told |= {(report.agent_id, number): told for number, told in enumerate(report.messages, report.first)}
        self.number = self.number if report.number is None else report.number
        self._has_begun.set()

    def wait_for_first(self) -> None:
        """Wait until it was told for the first time that something is stored."""
        if not self._has_begun.wait(PATIENCE):
            raise TimeoutError(f"{self.plan.name} says nothing")

    def kill(self) -> None:
        """Kill it, whatever it does just now; nothing where it has ended."""
        if not self._has_ended:
            self._child.kill()

    def stop(self) -> None:
        """Ask it to end after the present round of turns."""
        self._reports.send("stop")

    def end(self) -> bool:
        """Wait for its end; False where it was killed.

        Raises:
            RuntimeError: It ended with an error.
            TimeoutError: It does not end.
        """
        self._listening.join(PATIENCE)
        if self._listening.is_alive():
            self.kill()
            raise TimeoutError(f"{self.plan.name} does not end")
        self._child.join()
        self._has_ended, exitcode = True, self._child.exitcode
        self._child.close()
        self._reports.close()
        if self.moved is None and exitcode not in _KILLED:
            raise RuntimeError(f"{self.plan.name} ended with {exitcode}")
        return self.moved is not None


class FullSession:
    """One session, and the processes that fill it.

    Args:
        client: A client that nobody kills.
        uri: The server.
        database: Where the session is stored.
        session_id: The session.
    """

    def __init__(self, client: MongoClient[Document], uri: str, database: str, session_id: str) -> None:
        self._client, self._uri, self._name, self._session_id = client, uri, database, session_id
        self.database = client[database]
        self._repository = MongoDBSessionRepository(client=client, database_name=database)
        self._processes: list[Process] = []
        self._told: dict[str, dict[int, str]] = defaultdict(dict)

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()

    def begin(self, agent_ids: Sequence[str]) -> None:
        """Make the session with agents that have had a turn each."""
        with self.new_manager() as manager:
            for agent_id in agent_ids:
                Speaker(manager, agent_id, (100,)).say(0)

    def delete(self) -> None:
        """Delete the session."""
        self._repository.delete_session(self._session_id)

    def start(self, name: str, agent_ids: Sequence[str], **options: Any) -> Process:
        """Start a process that writes the messages of some agents; ``options`` are those of its plan."""
        name = f"{self._session_id}, {name}"
        process = Process(CrowdPlan(self._uri, self._name, self._session_id, name, tuple(agent_ids), **options))
        self._processes.append(process)
        return process

    def end(self, process: Process) -> bool:
        """Wait for the end of a process, and for all that it had sent; False where it was killed."""
        has_finished = process.end()
        # What it had sent when it was killed is carried out all the same, perhaps while it is looked at.
        match = {"$match": {"appName": process.plan.name}}
        deadline = time.monotonic() + PATIENCE
        while list(self._client.admin.aggregate([{"$currentOp": {"idleConnections": True}}, match])):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the server still serves {process.plan.name}, which has ended")
            time.sleep(PAUSE)
        return has_finished

    def findings(self) -> Iterator[Finding]:
        """Compare what is stored with what the processes were told; nobody writes meanwhile."""
        for process in self._processes:
            for (agent_id, number), message in process.told.items():
                self._told[agent_id][number] = message
            yield from self._data(process)
        for agent_id, messages in self._told.items():
            yield from self._messages(agent_id, messages)
        yield from numbering(self.database, self._session_id)

    def _messages(self, agent_id: str, told: dict[int, str]) -> Iterator[Finding]:
        where = f"{self._session_id}, {agent_id}"
        stored = self.stored(agent_id)
        prints = dict(enumerate(map(print_of, stored)))
        lost = [number for number, message in told.items() if prints.get(number) != message]
        if lost:
            yield Finding("lost", where, f"messages {lost} of {len(stored)}")
        tracking_ids = [message["tracking_id"] for message in stored if "tracking_id" in message]
        if len(set(tracking_ids)) < len(tracking_ids):
            yield Finding("duplicated", where, f"{len(stored)} messages")

    def _data(self, process: Process) -> Iterator[Finding]:
        name, told = process.plan.name, process.number
        if told is None:
            return
        metadata = self._repository.get_metadata(self._session_id)["metadata"]
        feedback = [each["number"] for each in self._repository.get_feedbacks(self._session_id) if each["by"] == name]
        if metadata.get(name, -1) < told:
            yield Finding("lost", name, f"metadata {told}, found {metadata.get(name)}")
        if feedback != list(range(process.plan.first, process.plan.first + len(feedback))) or feedback[-1] < told:
            yield Finding("lost", name, f"feedback {told}, found {feedback}")

    def stored(self, agent_id: str) -> list[Message]:
        """Return all messages of an agent, as the SDK has them."""
        return [record.to_message() for record in self._repository.list_messages(self._session_id, agent_id)]

    def size(self) -> int:
        """Return the bytes of the session document."""
        return len(bson.encode(self.database[SESSIONS].find_one({"_id": self._session_id}) or {}))

    def go_on(self, agent_ids: Sequence[str]) -> Iterator[Finding]:
        """Resume as the next process does: each agent restores and says more, also one that is new."""
        said = {agent_id: self._say_more(agent_id) for agent_id in (*agent_ids, f"new {self.size()}")}
        for agent_id, messages in said.items():
            restored = self._restored(agent_id)
            if restored != messages:
                yield Finding("invalid", agent_id, f"{len(restored)} messages restored, not the {len(messages)} it had")
            yield from pairing(agent_id, restored)
        yield from self.findings()

    def _say_more(self, agent_id: str) -> list[Message]:
        with self.new_manager() as manager:
            speaker = Speaker(manager, agent_id)
            speaker.say(1_000_000)
            return speaker.agent.messages

    def _restored(self, agent_id: str) -> list[Message]:
        with self.new_manager() as manager:
            return Speaker(manager, agent_id).agent.messages

    def new_manager(self) -> MongoDBSessionManager:
        """Return a manager of this process."""
        return MongoDBSessionManager(self._session_id, client=self._client, database_name=self._name)

    def left_over(self) -> dict[str, list[Document]]:
        """Return by agent what killed processes left in segments: messages that no reference names."""
        session = self.database[SESSIONS].find_one({"_id": self._session_id}) or {}
        agents = session.get("agents", {}).values()
        last_ids = {reference["_id"]: reference["last_id"] for each in agents for reference in each.get("segments", ())}
        found: dict[str, list[Document]] = defaultdict(list)
        for segment in self.database[SEGMENTS].find({"session_id": self._session_id, "kind": "messages"}):
            last_id = last_ids.get(segment["_id"], -1)
            left = [message for message in segment["messages"] if message["message_id"] > last_id]
            found[segment["agent_id"]] += left
        return {agent_id: messages for agent_id, messages in found.items() if messages}

    def crowd(self, agent_ids: Sequence[str], size: int) -> None:
        """Leave the session document with so many bytes, by messages of its agents, without this library."""
        session = self.database[SESSIONS].find_one({"_id": self._session_id}) or {}
        each = (size - self.size()) // len(agent_ids)
        for agent_id in agent_ids:
            _enlarge(session["agents"][agent_id], each)
        last = session["agents"][agent_ids[-1]]["messages"][-1]
        last["content"][0]["text"] += "y" * (size - len(bson.encode(session)))
        self.database[SESSIONS].replace_one({"_id": self._session_id}, session)
        for agent_id in agent_ids:
            self._told[agent_id] = dict(enumerate(map(print_of, session["agents"][agent_id]["messages"])))


def _enlarge(agent: Document, size: int) -> None:
    first = len(agent["messages"])
    template = agent["messages"][0]
    count, rest = divmod(size, _MESSAGE_BYTES)
    for number, length in enumerate([_MESSAGE_BYTES] * count + [rest], first):
        text = f"{number} ".ljust(length - _OVERHEAD_BYTES, "y")
        told = {"message_id": number, "tracking_id": f"raw-{number}", "content": [{"text": text}]}
        agent["messages"].append({**template, **told})
    agent["guard"]["next_message_id"] = len(agent["messages"])
