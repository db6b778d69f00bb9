"""One thread of the load: visit after visit to sessions of its own, each with some operations."""

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

from histories import SEGMENTS, Document, Finding
from killing.script import HIDDEN
from pymongo.database import Database
from pymongo.errors import PyMongoError

from mongodb_session_manager import MongoDBSessionManagerFactory, SessionConflictError
from mongodb_session_manager.testing import Redaction
from mongodb_session_manager.types import Durability

from .expected import ExpectedSession
from .figures import Clock, Figures
from .talks import PATIENCE, PAUSE, Talk, tool_call, until_done

AGENTS = ("support", "sales.eu")
LONGEST_TEXT = 4_000
MOST_OPERATIONS = 8
# Most of the sessions that are longer than this are not deleted: they are to grow into segments.
SHORT = 40
KEPT = 0.9


class Visitor:
    """Works on its own sessions, so that it knows what must be stored.

    Args:
        factories: Whose managers it uses; the first of them mostly.
        database: Where the sessions are.
        sessions: Its sessions.
        choices: Decides what it does.
        figures: Takes what was done and found.
    """

    def __init__(
        self,
        factories: Sequence[MongoDBSessionManagerFactory],
        database: Database[Document],
        sessions: Sequence[ExpectedSession],
        choices: random.Random,
        figures: Figures,
    ) -> None:
        self._factories, self._database, self._sessions = factories, database, sessions
        self._choices, self._figures = choices, figures
        self._number = 0

    def run(self, clock: Clock) -> None:
        while not clock.is_over():
            self._visit(self._choose_session())

    def _choose_session(self) -> ExpectedSession:
        # Some sessions are visited much more than others, and get long.
        return self._sessions[int(len(self._sessions) * self._choices.random() ** 3)]

    def _visit(self, session: ExpectedSession) -> None:
        agent_id = self._choices.choice(AGENTS)
        talk = self._open(session, agent_id)
        self._figures.found(list(session.history(agent_id).compare(talk.live())))
        for _ in range(self._choices.randint(1, MOST_OPERATIONS)):
            name = self._choices.choices(list(OPERATIONS), [weight for weight, _ in OPERATIONS.values()])[0]
            self._number += 1
            ends = OPERATIONS[name][1](self, session, talk)
            self._figures.did(name)
            if ends:
                break
        talk.manager.close()

    def _open(self, session: ExpectedSession, agent_id: str) -> Talk:
        self._figures.did("open")
        durability: Durability = self._choices.choice(get_args(Durability))
        factory = self._choices.choices(self._factories, (9, 1))[0]

        def open_talk() -> Talk:
            manager = factory.create_session_manager(session.session_id, durability=durability)
            return Talk(manager, agent_id)

        return until_done(open_talk, self._figures)

    # Turns

    def _say(self, talk: Talk, prompt: str, *replies: Any) -> None:
        """Hold a turn; whatever goes wrong, in the end all that was said is stored."""
        talk.replies.clear()
        talk.replies.extend(replies)
        try:
            talk.agent(prompt)
        except PyMongoError as error:
            self._figures.failed(error)
            until_done(talk.manager.flush, self._figures)

    def _text(self) -> str:
        length = self._choices.randint(10, LONGEST_TEXT)
        return f"{self._number} " + "x" * length

    def turn(self, session: ExpectedSession, talk: Talk) -> None:
        self._say(talk, self._text(), self._text())
        self._acknowledge(session, talk)

    def tool_turn(self, session: ExpectedSession, talk: Talk) -> None:
        self._say(talk, self._text(), tool_call(self._number), self._text())
        self._acknowledge(session, talk)

    def _acknowledge(self, session: ExpectedSession, talk: Talk) -> None:
        until_done(talk.manager.flush, self._figures)
        session.history(talk.agent.agent_id).acknowledge(talk.live())

    def redaction(self, session: ExpectedSession, talk: Talk) -> None:
        secret = f"secret-{session.session_id}-{self._choices.getrandbits(64):x}"
        self._say(talk, f"My number is {secret}.", Redaction(user_message=HIDDEN, assistant_message=HIDDEN))
        live = talk.live()
        self._acknowledge(session, talk)
        if secret not in str(list(live.values())[-4:]):
            session.redacted.append(secret)

    def state(self, session: ExpectedSession, talk: Talk) -> None:
        talk.agent.state.set("note", self._number)
        try:
            talk.manager.sync_agent(talk.agent)
        except PyMongoError as error:
            self._figures.failed(error)
            until_done(talk.manager.flush, self._figures)

    def two_writers(self, session: ExpectedSession, talk: Talk) -> bool:
        """Two agents go on from the same history at once: one of them must be refused, and nothing mixed."""
        agent_id = talk.agent.agent_id
        until_done(talk.manager.flush, self._figures)
        writers = [self._open(session, agent_id) for _ in range(2)]
        prompts = [f"{self._number}, writer {number}" for number in range(2)]
        won: list[Talk] = []
        threads = [
            threading.Thread(target=self._compete, args=(*each, won)) for each in zip(writers, prompts, strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        history = session.history(agent_id)
        if len(won) != 1:
            self._figures.found([Finding("invalid", history.where, f"{len(won)} of two writers were accepted")])
        for writer in writers:
            if writer in won:
                history.acknowledge(writer.live())
        for writer in writers:
            if writer not in won:
                history.refuse(writer.live())
            writer.manager.close()
        return True  # the visitor's own agent is behind now

    def _compete(self, talk: Talk, prompt: str, won: list[Talk]) -> None:
        try:
            self._say(talk, prompt, "Accepted.")
            until_done(talk.manager.flush, self._figures)
        except SessionConflictError:
            return
        won.append(talk)

    # Around the conversation

    def set_metadata(self, session: ExpectedSession, talk: Talk) -> None:
        key, value = f"k{self._choices.randrange(6)}", self._number
        until_done(lambda: talk.manager.update_metadata({key: value, f"nested.{key}": [value]}), self._figures)
        session.metadata[key] = value
        session.metadata.setdefault("nested", {})[key] = [value]

    def delete_metadata(self, session: ExpectedSession, talk: Talk) -> None:
        key = f"k{self._choices.randrange(6)}"
        until_done(lambda: talk.manager.delete_metadata([key, f"nested.{key}"]), self._figures)
        session.metadata.pop(key, None)
        session.metadata.get("nested", {}).pop(key, None)

    def feedback(self, session: ExpectedSession, talk: Talk) -> None:
        given = {"rating": self._choices.choice(("up", "down", None)), "comment": self._text(), "number": self._number}
        try:
            talk.manager.add_feedback(given)
        except PyMongoError as error:  # it may have been stored, so it is not given again
            self._figures.failed(error)
            session.feedback.append((self._number, False))
        else:
            session.feedback.append((self._number, True))

    def configuration(self, session: ExpectedSession, talk: Talk) -> None:
        agent_id, value = talk.agent.agent_id, {"version": self._number}
        until_done(lambda: talk.manager.update_agent_config(agent_id, prompt_metadata=value), self._figures)
        session.prompts[agent_id] = value
        until_done(talk.manager.list_agents, self._figures)

    def listing(self, session: ExpectedSession, talk: Talk) -> None:
        history = session.history(talk.agent.agent_id)
        count = len(history.messages)
        offset, limit = self._choices.randint(0, count), self._choices.randint(0, 50)
        page = until_done(lambda: talk.manager.list_messages(talk.agent.agent_id, limit, offset), self._figures)
        ids = [message["message_id"] for message in page]
        wanted = list(range(count))[offset : offset + limit]
        if (
            ids != wanted
            or until_done(lambda: talk.manager.get_message_count(talk.agent.agent_id), self._figures) != count
        ):
            self._figures.found([Finding("invalid", history.where, f"listed {ids} instead of {wanted}")])

    def summary(self, session: ExpectedSession, talk: Talk) -> None:
        until_done(talk.manager.get_usage_summary, self._figures)

    def deletion(self, session: ExpectedSession, talk: Talk) -> bool:
        if self._choices.random() < KEPT * (session.longest() > SHORT):
            return False
        until_done(talk.manager.delete_session, self._figures)
        session.forget()
        # A move that was on its way removes its own segment.
        wanted = {"session_id": session.session_id}
        deadline = time.monotonic() + PATIENCE
        while until_done(lambda: self._database[SEGMENTS].count_documents(wanted), self._figures):
            if time.monotonic() > deadline:
                self._figures.found([Finding("invalid", session.session_id, "segments outlive the session")])
                break
            time.sleep(PAUSE)
        return True


Operation = Callable[[Visitor, ExpectedSession, Talk], bool | None]

# How often each is done, and how; one that returns True ends the visit.
OPERATIONS: Mapping[str, tuple[float, Operation]] = {
    "turn": (30, Visitor.turn),
    "turn with a tool": (10, Visitor.tool_turn),
    "turn with a redaction": (4, Visitor.redaction),
    "state": (6, Visitor.state),
    "two writers": (2, Visitor.two_writers),
    "metadata set": (14, Visitor.set_metadata),
    "metadata deleted": (5, Visitor.delete_metadata),
    "feedback": (9, Visitor.feedback),
    "configuration": (4, Visitor.configuration),
    "listing": (10, Visitor.listing),
    "usage": (2, Visitor.summary),
    "deletion": (1, Visitor.deletion),
}
