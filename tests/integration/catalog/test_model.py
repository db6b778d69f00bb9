"""Random steps beside a plain dict: what lives is not lost, and what was deleted neither comes back nor stays.

Several writers, deletions, holds, expiries and sweeps; deletions are killed between their steps, and new lives of the
same ids begin there. ``MODEL_STEPS`` sets the number of steps.
"""

import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from strands import Agent

from mongodb_session_manager import (
    MongoDBSessionManager,
    SessionCatalog,
    SessionConflictError,
    SessionFilter,
    SessionHeldError,
    SessionNotFoundError,
)
from mongodb_session_manager._schema.expiry import Lifetime
from mongodb_session_manager._stores.deleting import DeletionStore
from mongodb_session_manager._stores.deleting_many import ManyDeletions
from mongodb_session_manager._stores.sweeping import Sweeper
from mongodb_session_manager.testing import ScriptedModel
from tests.aliases import Client, Document
from tests.conftest import COLLECTION
from tests.expiring import HOUR, in_time, without_ttl_monitor
from tests.integration.stores.test_new_lives import Interruption, document
from tests.watching import wait_for_indexes

STEPS = int(os.environ.get("MODEL_STEPS", "120"))
IDS = [f"s-{number}" for number in range(4)]
AGENTS = ["one", "two"]
AT_ONCE = timedelta(0)
WINDOW = 18


class Killed(BaseException):
    """The process ends here."""


class MortalCollection:
    """A collection for a process that ends after so many operations."""

    def __init__(self, real: Any, left: list[int]) -> None:
        self._real, self._left = real, left

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._real, name)
        if name == "database":
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            if self._left[0] <= 0:
                raise Killed
            self._left[0] -= 1
            return found(*args, **kwargs)

        return call


class MortalCollections:
    """The collections of such a process."""

    def __init__(self, real: Any, operations: int) -> None:
        left, self.can_compute, self.lives = [operations], True, real.lives
        for name in ("sessions", "segments", "files", "chunks"):
            setattr(self, name, MortalCollection(getattr(real, name), left))


@dataclass
class Expected:
    """A session as it must be.

    Attributes:
        messages: The texts of the prompts, by agent.
        instance: Of its life.
        ttl: Whether it has one.
        held: Whether it is held.
        expired: Whether its date is over.
    """

    instance: Any
    messages: dict[str, list[str]] = field(default_factory=dict)
    ttl: bool = False
    held: bool = False
    expired: bool = False


@dataclass
class Writer:
    """A manager with an agent, and what it has seen."""

    session_id: str
    instance: Any
    manager: MongoDBSessionManager
    agent: Agent
    seen: list[str]

    @property
    def agent_id(self) -> str:
        return str(self.agent.agent_id)


class World:
    """The database, the writers, and the plain dict."""

    def __init__(
        self, client: Client, interrupted: Client, interruption: Interruption, database: str, seed: int
    ) -> None:
        self.random, self.client, self.database = random.Random(seed), client, database
        self.interruption = interruption
        self.catalog = SessionCatalog(client=client, database_name=database)
        self.interrupting, self.interrupted = interrupted, SessionCatalog(client=interrupted, database_name=database)
        self.sessions = client[database][COLLECTION]
        self.expected: dict[str, Expected] = {}
        self.writers: list[Writer] = []
        self.said = 0
        self.counts: Counter[str] = Counter()

    def step(self) -> None:
        steps: dict[Callable[[], None], int] = {
            self.open: 6,
            self.turn: 12,
            self.large_turn: 3,
            self.note: 3,
            self.delete: 3,
            self.delete_killed: 4,
            self.delete_interrupted: 4,
            self.delete_many: 1,
            self.delete_many_killed: 2,
            self.delete_many_interrupted: 2,
            self.open_interrupted: 3,
            self.sweep_interrupted: 2,
            self.hold: 2,
            self.release: 3,
            self.expire: 5,
            self.monitor: 2,
            self.sweep: 2,
            self.sweep_killed: 2,
            self.fork: 2,
            self.check: 1,
        }
        step = self.random.choices(list(steps), list(steps.values()))[0]
        self.counts[step.__name__] += 1
        step()

    # What is there

    def any_id(self) -> str:
        return self.random.choice(IDS)

    def living(self, session_id: str) -> Expected | None:
        found = self.expected.get(session_id)
        return None if found is None or found.expired else found

    def instance(self, session_id: str) -> Any:
        found = self.sessions.find_one({"_id": session_id}, {"instance": 1})
        return found and found["instance"]

    def stored(self, session_id: str) -> Document:
        return self.sessions.find_one({"_id": session_id}) or {}

    # Writers

    def open(self) -> None:
        self.open_one(self.any_id())

    def open_one(self, session_id: str) -> Writer:
        ways: list[dict[str, Any]] = [{}, {"ttl": HOUR}, {"ttl": HOUR}, {"ttl": HOUR, "exclusive": True}]
        options = self.random.choice(ways)
        if any(writer.session_id == session_id and writer.manager._heartbeat for writer in self.writers):
            self.close_all(session_id)
        if options.get("exclusive"):
            self.close_all(session_id)
        manager = MongoDBSessionManager(
            session_id, client=self.client, database_name=self.database, lease_timeout=0, **options
        )
        instance = self.instance(session_id)
        expected = self.living(session_id)
        if expected is None:
            self.expected[session_id] = expected = Expected(instance)
            assert ("expires_at" in self.stored(session_id)) is ("ttl" in options)
        assert instance == expected.instance, "another life than the one that must be there"
        expected.ttl = "ttl_seconds" in self.stored(session_id)
        assert expected.ttl or expected.held or "ttl" not in options
        agent_id = self.random.choice(AGENTS)
        agent = Agent(
            model=ScriptedModel(default="Okay."), agent_id=agent_id, session_manager=manager, callback_handler=None
        )
        prompts = [said(message) for message in agent.messages if message["role"] == "user"]
        stored = expected.messages.setdefault(agent_id, [])
        # The SDK's window keeps 40 messages, or a few less.
        assert prompts == stored[-len(prompts) or len(stored) :], "a restore differs"
        assert len(prompts) >= min(len(stored), WINDOW), "a restore lacks messages"
        writer = Writer(session_id, instance, manager, agent, [*stored])
        self.writers.append(writer)
        if len(self.writers) > 8:
            self.writers.pop(0).manager.close()
        return writer

    def close_all(self, session_id: str) -> None:
        for writer in [writer for writer in self.writers if writer.session_id == session_id]:
            writer.manager.close()
            self.writers.remove(writer)

    def turn(self, *blocks: Any) -> None:
        if not self.writers:
            return
        writer = self.random.choice(self.writers)
        self.said += 1
        text = f"Prompt {self.said}"
        expected = self.expected.get(writer.session_id)
        is_there = expected is not None and expected.instance == writer.instance
        try:
            writer.agent([*blocks, {"text": text}])
        except SessionNotFoundError:
            assert not is_there, "a living session was not found"
            self.drop(writer)
        except SessionConflictError:
            assert expected is not None
            assert not is_there or expected.messages[writer.agent_id] != writer.seen, "a conflict with nobody"
            self.drop(writer)
        else:
            assert is_there, "a life that was over was written"
            assert expected is not None
            assert expected.messages[writer.agent_id] == writer.seen, "another writer was overwritten"
            writer.seen.append(text)
            expected.messages[writer.agent_id] = [*writer.seen]
            self.written(writer)

    def large_turn(self) -> None:
        before = self.said
        self.turn(document(str(before % 10)))
        for writer in self.writers:
            if f"Prompt {self.said}" in writer.seen[-1:]:
                writer.manager._agents.live()[0].history.move_oldest()

    def note(self) -> None:
        if not self.writers:
            return
        writer = self.random.choice(self.writers)
        expected = self.expected.get(writer.session_id)
        is_there = expected is not None and expected.instance == writer.instance
        try:
            writer.manager.update_metadata({"said": self.said})
        except SessionNotFoundError:
            assert not is_there, "a living session was not found"
            self.drop(writer)
        else:
            assert is_there, "a life that was over was written"
            self.written(writer)

    def written(self, writer: Writer) -> None:
        """A write by somebody who knows a ttl revives what has expired."""
        self.expected[writer.session_id].expired = False

    def drop(self, writer: Writer) -> None:
        self.writers.remove(writer)
        writer.manager.close()

    # Deletions

    def delete(self) -> None:
        session_id, even_held = self.any_id(), self.random.random() < 0.3
        expected = self.expected.get(session_id)
        try:
            deleted = self.catalog.delete(session_id, even_held=even_held).deleted
        except SessionHeldError:
            assert expected is not None
            assert expected.held
            return
        assert deleted is (expected is not None)
        assert expected is None or even_held or not expected.held, "a held session was deleted"
        self.expected.pop(session_id, None)

    def mortal(self) -> Any:
        return MortalCollections(self.catalog._stores.collections, self.random.randrange(8))

    def delete_killed(self) -> None:
        session_id = self.any_id()
        try:
            DeletionStore(self.mortal(), 30_000).delete(session_id)
        except Killed:
            pass
        except SessionHeldError:
            assert self.expected[session_id].held
        self.look(session_id)

    def delete_interrupted(self) -> None:
        session_id, number = self.any_id(), self.random.randrange(1, 8)
        before = self.instance(session_id)

        def delete() -> None:
            with suppress(SessionHeldError):
                self.interrupted.delete(session_id)

        came = self.interrupted_by_writer(number, session_id, delete)
        # What comes before the first look at the session is meant by the deletion.
        self.check_new_life(session_id, before, came if number > 1 else None)

    def delete_many_interrupted(self) -> None:
        session_id, number = self.any_id(), self.random.randrange(1, 8)
        before, wanted = self.instance(session_id), SessionFilter(id_prefix=session_id)
        came = self.interrupted_by_writer(number, session_id, lambda: self.interrupted.delete_many(wanted))
        self.check_new_life(session_id, before, came if number > 2 else None)

    def sweep_interrupted(self) -> None:
        session_id = self.any_id()
        before = self.instance(session_id)
        came = self.interrupted_by_writer(
            self.random.randrange(1, 12), session_id, lambda: self.interrupted.sweep(older_than=AT_ONCE)
        )
        self.look_at_expired()
        self.check_new_life(session_id, before, came)

    def open_interrupted(self) -> None:
        """Two openings at once, often of a session that has expired."""
        session_id = self.any_id()
        self.close_all(session_id)
        before = self.instance(session_id)

        def open_another() -> None:
            MongoDBSessionManager(session_id, client=self.interrupting, database_name=self.database).close()

        came = self.interrupted_by_writer(self.random.randrange(1, 5), session_id, open_another)
        if came is None and self.living(session_id) is None:
            self.expected[session_id] = Expected(self.instance(session_id))
        self.check_new_life(session_id, before, came)

    def interrupted_by_writer(self, number: int, session_id: str, act: Callable[[], object]) -> Writer | None:
        """Between two operations somebody opens the session, also a new life of it, and stores a file; return that."""
        came: list[Writer] = []

        def come() -> None:
            self.look(session_id)
            writer = self.open_one(session_id)
            writer.agent([document("c"), {"text": "I came"}])
            writer.seen.append("I came")
            self.expected[session_id].messages[writer.agent_id] = [*writer.seen]
            self.written(writer)
            came.append(writer)

        with self.interruption.before(number, come):
            act()
        return came[0] if came else None

    def check_new_life(self, session_id: str, before: Any, came: Writer | None) -> None:
        self.look(session_id)
        if came is not None and came.instance != before:
            found = self.expected.get(session_id)
            assert found is not None, "a new life was lost with the one before"
            assert found.instance == came.instance

    def delete_many(self) -> None:
        wanted = self.random.choice([SessionFilter(id_prefix=self.any_id()), SessionFilter(everything=True)])
        ids = [name for name in self.expected if wanted.everything or name == wanted.id_prefix]
        living = [name for name in ids if self.living(name)]
        held = [name for name in living if self.expected[name].held]
        report = self.catalog.delete_many(wanted)
        assert (report.matched, report.deleted, report.held) == (len(living) - len(held),) * 2 + (len(held),)
        for name in ids:
            if not self.expected[name].held:
                del self.expected[name]

    def delete_many_killed(self) -> None:
        with suppress(Killed):
            ManyDeletions(self.mortal(), 30_000).delete(SessionFilter(id_prefix=self.any_id()))
        for session_id in IDS:
            self.look(session_id)

    def look(self, session_id: str) -> None:
        """A deletion that may not have come to its end: the document says whether it is over."""
        expected, instance = self.expected.get(session_id), self.instance(session_id)
        if expected is not None and instance is None:
            assert not expected.held, "a held session was deleted"
            del self.expected[session_id]
        assert instance is None or expected is not None, "what was deleted came back"
        assert instance is None or (expected and expected.instance == instance)

    # Time

    def hold(self) -> None:
        session_id = self.any_id()
        if expected := self.living(session_id):
            self.catalog.hold(session_id)
            expected.held = True
        else:
            with pytest.raises(SessionNotFoundError):
                self.catalog.hold(session_id)

    def release(self) -> None:
        session_id = self.any_id()
        if expected := self.living(session_id):
            self.catalog.release(session_id)
            assert ("expires_at" in self.stored(session_id)) is expected.ttl
            expected.held = False
        else:
            with pytest.raises(SessionNotFoundError):
                self.catalog.release(session_id)

    def expire(self) -> None:
        """The time of a session is over, for its writers too."""
        session_id = self.any_id()
        past = {"$set": {"expires_at": in_time(-timedelta(minutes=self.random.choice([1, 6])))}}
        dated = {"_id": session_id, "expires_at": {"$exists": True}}
        if self.sessions.update_one(dated, past).matched_count:
            assert not self.expected[session_id].held, "a held session has a date"
            self.expected[session_id].expired = True
            for writer in self.writers:
                if writer.session_id == session_id:
                    self.let_time_pass(writer)

    def let_time_pass(self, writer: Writer) -> None:
        """Have the next write of a manager know that the date is over."""
        dates = writer.manager._stores._operations.dates
        lifetime = dates.lifetimes.setdefault(writer.session_id, Lifetime())
        if lifetime.until is None:  # it was opened when there was no ttl; the next opening would know
            lifetime.found(self.stored(writer.session_id), in_time(AT_ONCE))
        lifetime.until = in_time(-HOUR)

    def monitor(self) -> None:
        """The server deletes what has expired, and nothing that belongs to it."""
        for session_id, expected in list(self.expected.items()):
            if expected.expired:
                self.sessions.delete_one({"_id": session_id})
                del self.expected[session_id]

    def sweep(self) -> None:
        self.catalog.sweep(older_than=AT_ONCE)
        self.look_at_expired()

    def sweep_killed(self) -> None:
        with suppress(Killed):
            Sweeper(self.mortal()).sweep(AT_ONCE)
        self.look_at_expired()

    def look_at_expired(self) -> None:
        for session_id, expected in list(self.expected.items()):
            if expected.expired:
                self.look(session_id)

    def fork(self) -> None:
        source, target = self.any_id(), self.any_id()
        if not hasattr(self.catalog, "fork"):
            return
        expected = self.living(source)
        if expected is None or self.living(target):
            return
        self.catalog.fork(source, target)
        messages = {name: [*prompts] for name, prompts in expected.messages.items()}
        self.expected[target] = Expected(self.instance(target), messages, "ttl_seconds" in self.stored(target))

    # Looking

    def check(self) -> None:
        listed = {found.session_id for found in self.catalog.iterate()}
        assert listed == {name for name in self.expected if self.living(name)}
        for session_id in IDS:
            self.look(session_id)
            if self.living(session_id):
                self.check_one(session_id)

    def check_one(self, session_id: str) -> None:
        expected = self.expected[session_id]
        details = self.catalog.get(session_id)
        assert (details.held, details.expires_at is not None) == (expected.held, expected.ttl and not expected.held)
        for agent_id, prompts in expected.messages.items():
            manager = MongoDBSessionManager(session_id, client=self.client, database_name=self.database, create=False)
            found = [message for message in manager.list_messages(agent_id) if message["role"] == "user"]
            assert [said(message) for message in found] == prompts, "messages differ"
            manager.close()

    def end(self) -> None:
        """Everything that belongs to no life is swept, and nothing else."""
        time.sleep(1.1)  # ids count seconds
        for session_id in IDS:
            self.look(session_id)
        self.monitor()
        self.catalog.sweep(older_than=AT_ONCE)
        self.check()
        instances = {expected.instance for expected in self.expected.values()}
        found = self.client[self.database]
        segments = {each["instance"] for each in found[f"{COLLECTION}_segments"].find({"session_id": {"$ne": ""}})}
        files = list(found[f"{COLLECTION}_files.files"].find())
        assert segments | {file["metadata"]["instance"] for file in files} <= instances, "children were left"
        assert {file["_id"] for file in files} >= set(found[f"{COLLECTION}_files.chunks"].distinct("files_id"))
        for writer in self.writers:
            writer.manager.close()


def said(message: Any) -> str:
    return str(message["content"][-1]["text"])


@pytest.fixture
def world(request: pytest.FixtureRequest, mongodb_uri: str, observer: Client, database: str) -> Iterator[World]:
    interruption = Interruption()
    with (
        without_ttl_monitor(observer),
        Client(mongodb_uri, tz_aware=True) as client,
        Client(mongodb_uri, tz_aware=True, event_listeners=[interruption]) as interrupted,
    ):
        MongoDBSessionManager("warm", client=client, database_name=database).delete_session()
        wait_for_indexes()
        yield World(client, interrupted, interruption, database, request.param)


@pytest.mark.limits(kept_messages=1)
@pytest.mark.parametrize("world", [1, 2, 3], indirect=True)
def test_nothing_that_lives_is_lost_and_nothing_that_was_deleted_stays(world: World) -> None:
    for _ in range(STEPS):
        world.step()
    world.end()
