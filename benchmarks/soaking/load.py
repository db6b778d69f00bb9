"""The whole load: threads, faults, kills, and the check at the end."""

import logging
import random
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from histories import SEGMENTS, SESSIONS, Document
from killing.rounds import KILLS_EACH, kill_at_random
from killing.victim import Victim
from pymongo import MongoClient, common
from pymongo.database import Database
from rich.progress import Progress

from mongodb_session_manager import MongoDBSessionManagerFactory
from mongodb_session_manager.testing import Mongod

from .expected import ExpectedSession
from .faults import IMPATIENT, Injector, Restarts
from .figures import Clock, Figures, Memory
from .growth import Growth, measure_growth
from .requests import Service
from .verdict import judge
from .visits import Visitor


@dataclass(frozen=True)
class Settings:
    """How much, and how long.

    Attributes:
        seconds: How long at least.
        operations: How many MongoDB commands at least.
        sessions: How many sessions.
        threads: How many threads visit them.
        tasks: How many requests run in the event loop beside.
        faults: How many faults a second; they need a private mongod.
        kills: How many writers are killed.
        history: How many messages the long history has that is measured in the end; 0 for none.
        seed: Decides what is done.
    """

    seconds: float = 600
    operations: int = 100_000
    sessions: int = 1_000
    threads: int = 4
    tasks: int = 8
    faults: float = 4
    kills: int = 200
    history: int = 100_000
    seed: int = 0


class Load:
    """A load on one server.

    Args:
        uri: The server.
        settings: How much.
        mongod: The server, if it is a private one that may fail.
    """

    def __init__(self, uri: str, settings: Settings, mongod: Mongod | None = None) -> None:
        self._uri, self._settings, self._mongod = uri, settings, mongod
        self.name = f"soak_{uuid.uuid4().hex}"
        self.figures = Figures()
        self.memory = Memory()
        self.sessions = [ExpectedSession(f"session-{number}") for number in range(settings.sessions)]
        self.kills = self.messages = self.moved = self.unreferenced = 0
        self.seconds = 0.0
        self.growth: Growth | None = None
        self._away = threading.Lock()

    def run(self, progress: Progress) -> None:
        """Run it, and check what is stored then."""
        with self._clients() as (client, factories):
            with self.memory:
                self._run(client, factories, progress)
            self.check(factories[0], client, progress)
            self._count(client[self.name])
            if self._settings.history:
                self.growth = measure_growth(factories[0], self._settings.history, progress)

    def drop(self) -> None:
        """Remove what it stored."""
        with MongoClient[Document](self._uri) as client:
            for name in (self.name, self._killed):
                client.drop_database(name)

    @property
    def _killed(self) -> str:
        return f"{self.name}_killed"

    @contextmanager
    def _clients(self) -> Iterator[tuple[MongoClient[Document], Sequence[MongoDBSessionManagerFactory]]]:
        # The driver looks for a lost server again after half a second at the earliest; here that happens all the time.
        common.MIN_HEARTBEAT_INTERVAL = 0.02
        options: dict[str, Any] = {"heartbeatFrequencyMS": 50, "event_listeners": [self.figures.commands]}
        with ExitStack() as stack:
            client = stack.enter_context(MongoClient[Document](self._uri, tz_aware=True))
            factories = [
                stack.enter_context(MongoDBSessionManagerFactory(self._uri, self.name, **options)),
                stack.enter_context(MongoDBSessionManagerFactory(self._uri, self.name, **options, timeoutMS=IMPATIENT)),
            ]
            yield client, factories

    def _run(
        self, client: MongoClient[Document], factories: Sequence[MongoDBSessionManagerFactory], progress: Progress
    ) -> None:
        settings = self._settings
        clock = Clock(settings.seconds, settings.operations, self.figures.commands)
        with self._showing(progress, clock), _Threads(clock) as threads:
            for worker in self._workers(client, factories):
                threads.start(worker, clock)
            if self._mongod is not None and settings.faults:
                injector = Injector(client, self.name, self._choices("faults"), settings.faults, self.figures)
                threads.start(injector.run, clock)
                threads.start(Restarts(self._mongod, self._away, self.figures).run, clock, settings.seconds)
            threads.start(self._kill, client, clock)
        self.seconds = clock.elapsed

    def _workers(
        self, client: MongoClient[Document], factories: Sequence[MongoDBSessionManagerFactory]
    ) -> Iterator[Callable[[Clock], None]]:
        settings = self._settings
        parts = [self.sessions[number :: settings.threads + 1] for number in range(settings.threads + 1)]
        for number, part in enumerate(parts[:-1]):
            if part:
                choices = self._choices(f"visitor {number}")
                yield Visitor(factories, client[self.name], part, choices, self.figures).run
        if parts[-1]:
            yield Service(factories[0], parts[-1], self._choices("service"), self.figures, settings.tasks).run

    def _choices(self, name: str) -> random.Random:
        return random.Random(f"{self._settings.seed}, {name}")

    def _kill(self, client: MongoClient[Document], clock: Clock) -> None:
        def new_victim(*arguments: Any) -> Victim:
            return Victim(client, self._uri, self._killed, *arguments)

        choices = self._choices("kills")
        while self.kills < self._settings.kills and not clock.stopped:
            count = min(KILLS_EACH, self._settings.kills - self.kills)
            with self._away:  # writers that cannot reach a server say nothing
                self.figures.found(list(kill_at_random(choices, new_victim, count)))
            self.kills += count

    @contextmanager
    def _showing(self, progress: Progress, clock: Clock) -> Iterator[None]:
        time = progress.add_task("seconds", total=self._settings.seconds)
        commands = progress.add_task("MongoDB commands", total=self._settings.operations or None)
        kills = progress.add_task("writers killed", total=self._settings.kills)
        faults = progress.add_task("faults", total=None)
        done = threading.Event()

        def show() -> None:
            while not done.wait(0.5):
                progress.update(time, completed=int(clock.elapsed))
                progress.update(commands, completed=self.figures.commands.sent)
                progress.update(kills, completed=self.kills)
                progress.update(faults, completed=sum(self.figures.faults.values()))

        thread = threading.Thread(target=show, name="progress")
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def check(self, factory: MongoDBSessionManagerFactory, client: MongoClient[Document], progress: Progress) -> None:
        """Compare everything that is stored with what must be."""
        for session in progress.track(self.sessions, description="checking"):
            self.figures.found(list(judge(factory, client[self.name], session)))

    def _count(self, database: Database[Document]) -> None:
        """Count the messages, and the segments that no session refers to: a move left them that was cut off."""
        referred = set()
        for session in database[SESSIONS].find({}, {"agents": 1, "feedback_segments": 1}):
            agents = session["agents"].values()
            references = [reference for agent in agents for reference in agent.get("segments", ())]
            referred |= {each["_id"] for each in (*references, *session.get("feedback_segments", ()))}
            self.messages += sum(agent["guard"]["next_message_id"] for agent in agents)
            self.moved += sum(agent.get("moved_count", 0) for agent in agents)
        self.unreferenced = sum(each["_id"] not in referred for each in database[SEGMENTS].find({}, {"_id": 1}))


class _Threads:
    """Threads that end together; what one of them raises ends the load and is raised in the end."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._threads: list[threading.Thread] = []
        self._errors: list[BaseException] = []

    def __enter__(self) -> "_Threads":
        return self

    def start(self, target: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=self._run, args=(target, *arguments), name=str(target))
        self._threads.append(thread)
        thread.start()

    def _run(self, target: Callable[..., None], *arguments: Any) -> None:
        try:
            target(*arguments)
        except BaseException as error:  # noqa: BLE001 - raised by the thread that waits
            self._errors.append(error)
            self._clock.stop()

    def __exit__(self, *error: object) -> None:
        for thread in self._threads:
            thread.join()
        for raised in self._errors:
            raise raised


def quiet() -> None:
    """Keep the warnings of the library, which faults bring about, out of the progress."""
    for name in ("mongodb_session_manager", "strands", "opentelemetry"):
        logger = logging.getLogger(name)
        logger.addHandler(logging.NullHandler())
        logger.propagate = False
