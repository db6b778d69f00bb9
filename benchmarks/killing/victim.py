"""One session whose writers are killed, seen from outside: what they were told, and what is stored."""

import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

from histories import Document, Finding, numbering, pairing, traces
from processes import CONTEXT, warm_up
from pymongo import MongoClient
from strands.types.content import Message

from mongodb_session_manager import MongoDBSessionManager, MongoDBSessionRepository
from mongodb_session_manager.types import Durability

from .child import Moment, Plan, Report, delete, write
from .script import HIDDEN, SECRET, Conversation, Step, blocked, secret

_PARENT_SECRET = 1_000_000
# What multiprocessing gives where its fork server did not tell how a process ended.
_UNKNOWN = 255
PATIENCE = 120.0
PAUSE = 0.005


class Victim:
    """One session, written by processes that are killed, and resumed by this one after each of them.

    Args:
        client: A client that nobody kills.
        uri: The server.
        database: Where the session is stored.
        session_id: The session.
        durability: That of the writers.
    """

    def __init__(
        self, client: MongoClient[Document], uri: str, database: str, session_id: str, durability: Durability
    ) -> None:
        self._client, self._uri, self._name, self._session_id = client, uri, database, session_id
        self._durability: Durability = durability
        self._database = client[database]
        self._repository = MongoDBSessionRepository(client=client, database_name=database)
        self._told: dict[int, Message] = {}
        self._state: dict[str, Any] = {}
        self._redacted: set[str] = set()
        self._deaths = 0
        self._has_finished = False

    def run(self, kill_at: int, moment: Moment) -> bool:
        """Have a writer kill itself at a command; False when it came to its end instead."""
        child, reports = self._start(write, kill_at, moment)
        self._listen(reports)
        self._end(child)
        return not self._has_finished

    def run_deletion(self, kill_at: int, moment: Moment) -> bool:
        """Have a process kill itself while it deletes the session; False when it came to its end instead."""
        child, reports = self._start(delete, kill_at, moment)
        self._listen(reports)
        self._end(child)
        return not self._has_finished

    def run_for(self, seconds: float) -> None:
        """Kill a writer some time after it was told for the first time that something is stored."""
        child, reports = self._start(write)
        self._take(reports)
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 and reports.poll(left):
            if not self._take(reports):
                break
        child.kill()
        self._listen(reports)
        self._end(child)

    def _start(
        self, target: Callable[..., None], kill_at: int | None = None, moment: Moment = "started"
    ) -> tuple[Any, Any]:
        warm_up("killing.child")
        ours, theirs = CONTEXT.Pipe(duplex=False)
        first = 1_000 * self._deaths
        plan = Plan(self._uri, self._name, self._session_id, self._durability, kill_at, moment, first)
        self._has_finished = False
        child = CONTEXT.Process(target=target, args=(theirs, plan))
        child.start()
        theirs.close()
        return child, ours

    def _listen(self, reports: "Connection[None, Report]") -> None:
        while self._take(reports):
            pass
        reports.close()

    def _take(self, reports: "Connection[None, Report]") -> bool:
        if not reports.poll(PATIENCE):
            raise TimeoutError(f"the writer of session {self._session_id!r} says nothing")
        try:
            report = reports.recv()
        except (EOFError, OSError):  # the second when it was killed while it reported
            return False
        self._told |= report.messages
        if report.state is not None:
            self._state = report.state
        if report.redacted is not None:
            self._redacted.add(report.redacted)
        self._has_finished |= report.is_last
        return True

    def _end(self, child: Any) -> None:
        child.join()
        exitcode = child.exitcode
        child.close()
        if exitcode not in (0, -9, _UNKNOWN):
            raise RuntimeError(f"the writer of session {self._session_id!r} ended with {exitcode}")
        self._wait_for_the_last_command()
        self._deaths += 1

    def _wait_for_the_last_command(self) -> None:
        """What a writer had sent when it died is carried out all the same, perhaps while it is looked at."""
        stages: list[Document] = [{"$currentOp": {"idleConnections": True}}, {"$match": {"appName": self._session_id}}]
        deadline = time.monotonic() + PATIENCE
        while list(self._client.admin.aggregate(stages)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the server still serves the dead writer of session {self._session_id!r}")
            time.sleep(PAUSE)

    def findings(self) -> Iterator[Finding]:
        """Compare what is stored with what writers were told, before anybody resumes."""
        if not self._told:
            return
        records = self._repository.list_messages(self._session_id, "default")
        stored = {record.message_id: record.to_message() for record in records}
        for number, message in sorted(self._told.items()):
            if number not in stored:
                yield self._finding("lost", f"message {number} of {len(stored)}")
            elif not self._is_same(stored[number], message):
                yield self._finding("lost", f"message {number} is another one: {stored[number]} is not {message}")
        known = {message["tracking_id"] for message in self._told.values()}
        for number in stored.keys() - self._told.keys():
            tracking_id = stored[number]["tracking_id"]
            if tracking_id in known and not tracking_id.startswith(SECRET):
                yield self._finding("duplicated", f"message {number}")
        yield from self._common()

    def _is_same(self, stored: Message, told: Message) -> bool:
        text = told["content"][0].get("text", "")
        if not text.startswith(SECRET):
            return stored == told
        hidden: Message = {**told, "content": [{"text": HIDDEN}]}
        # A redaction that was not acknowledged may have arrived all the same.
        return stored == hidden or (stored == told and text not in self._redacted)

    def _common(self) -> Iterator[Finding]:
        yield from numbering(self._database, self._session_id)
        for text in self._redacted:
            yield from traces(self._database, text, {"session_id": self._session_id})

    def go_on(self) -> Iterator[Finding]:
        """Resume as the next process does: a turn, another restore, and a redaction that must reach every copy."""
        first = self._open()
        state = first.agent.state.get()
        if state.get("number", 0) < self._state.get("number", 0):
            yield self._finding("lost", f"state {self._state}, found {state}")
        first.hold(Step("And on"))
        first.close()
        again = self._open()
        if again.messages() != first.messages():
            yield self._finding("invalid", f"restored to {again.messages()}, not {first.messages()}")
        yield from pairing(self._session_id, again.agent.messages)
        told = self._last_secret()
        again.hold(blocked(told))
        again.close()
        self._redacted.add(told["content"][0]["text"])
        self._told |= first.messages() | again.messages()
        yield from self._whole()

    def delete(self) -> None:
        """Delete the session, or what a killed process left of it."""
        self._repository.delete_session(self._session_id)

    def remains(self) -> Iterator[Finding]:
        """Look for what is left of a deleted session."""
        yield from traces(self._database, self._session_id)

    def _whole(self) -> Iterator[Finding]:
        yield from self._common()
        records = self._repository.list_messages(self._session_id, "default")
        yield from pairing(self._session_id, [record.to_message() for record in records])

    def _last_secret(self) -> Message:
        """A prompt that is still stored as it was said; a client sends it again."""
        records = self._repository.list_messages(self._session_id, "default")
        for record in reversed(records):
            message = record.to_message()
            if message["content"][0].get("text", "").startswith(SECRET):
                return message
        return secret(_PARENT_SECRET)

    def _open(self) -> Conversation:
        manager = MongoDBSessionManager(self._session_id, client=self._client, database_name=self._name)
        return Conversation(manager)

    def _finding(self, kind: Any, what: str) -> Finding:
        return Finding(kind, self._session_id, what)
