"""A session id that is deleted and created again, between any two operations of a deletion and of every writer."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from bson import ObjectId
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent
from strands import Agent
from strands.types.session import SessionAgent, SessionMessage

from mongodb_session_manager import MongoDBSessionManager, MongoDBSessionRepository
from mongodb_session_manager.errors import MongoDBSessionError, SessionNotFoundError
from mongodb_session_manager.mongodb_session_repository import stores_of
from mongodb_session_manager.testing import ScriptedModel
from tests.aliases import Client, Document, NewManager, Stored
from tests.talking import user

pytestmark = pytest.mark.limits(kept_messages=1)

SESSION = "s-1"
LARGE = 263_000
HOUSEKEEPING = {"hello", "isMaster", "endSessions", "killCursors", "createIndexes", "ping"}


class Interruption(CommandListener):
    """Does something just before a client sends one of its commands."""

    def __init__(self) -> None:
        self._left = 0
        self._act: Callable[[], Any] = list
        self.errors: list[BaseException] = []
        self.happened = False

    @contextmanager
    def before(self, number: int, act: Callable[[], Any]) -> Iterator[None]:
        """Act before this command, counted from 1, of those that are sent inside the block."""
        self._left, self._act, self.happened = number, act, False
        try:
            yield
        finally:
            self._left = 0
        assert self.errors == []

    def started(self, event: CommandStartedEvent) -> None:
        if event.command_name in HOUSEKEEPING or not self._left:
            return
        self._left -= 1
        if self._left:
            return
        self.happened = True
        try:
            self._act()
        except BaseException as error:  # noqa: BLE001 - the driver would swallow it
            self.errors.append(error)

    def succeeded(self, event: CommandSucceededEvent) -> None:
        pass

    def failed(self, event: CommandFailedEvent) -> None:
        pass


@pytest.fixture
def interruption() -> Interruption:
    return Interruption()


@pytest.fixture
def client(mongodb_uri: str, interruption: Interruption) -> Iterator[Client]:
    """The client of whoever is interrupted."""
    with Client(mongodb_uri, tz_aware=True, event_listeners=[interruption]) as client:
        yield client


@pytest.fixture
def repository(client: Client, database: str) -> MongoDBSessionRepository:
    return MongoDBSessionRepository(client=client, database_name=database)


@pytest.fixture
def children(observer: Client, database: str) -> Callable[[], set[Any]]:
    """The instances of all segments and files that there are; every chunk has its file."""

    def read() -> set[Any]:
        found = observer[database]
        files = list(found["agent_sessions_files.files"].find())
        assert set(found["agent_sessions_files.chunks"].distinct("files_id")) <= {file["_id"] for file in files}
        segments = found["agent_sessions_segments"].find()
        return {segment.get("instance") for segment in segments} | {file["metadata"].get("instance") for file in files}

    return read


def document(name: str) -> Any:
    return {"document": {"format": "pdf", "name": "report", "source": {"bytes": name.encode() * LARGE}}}


def store_graph(repository: MongoDBSessionRepository, name: str, *, create: bool = True) -> None:
    states = stores_of(repository).multi_agents
    states.write_multi_agent(SESSION, "graph", {"type": "graph", "large": name * 1_100_000}, create=create)


def make_agent(manager: MongoDBSessionManager, **options: Any) -> Agent:
    return Agent(model=ScriptedModel(default="Okay."), session_manager=manager, callback_handler=None, **options)


class Life:
    """A session with children of every kind, made by one manager."""

    def __init__(self, manager: MongoDBSessionManager, name: str) -> None:
        self.manager = manager
        self.agent = make_agent(manager, state={"large": name * LARGE})
        self.agent([document("same"), document(name), {"text": name}])
        self.move_oldest()
        self.agent(name)
        for size in (1, LARGE):
            manager.add_feedback({"comment": name * size})
        for number in range(2):
            outbox = [{"id": f"{name}-{number}", "body": name * 200_000}]
            manager.session_repository.update_metadata(SESSION, {"name": name}, outbox)
        store_graph(manager.session_repository, name)

    def move_oldest(self) -> None:
        assert self.manager._agents.live()[0].history.move_oldest()

    def is_whole(self, manager: MongoDBSessionManager) -> bool:
        """Tell whether a manager that was made since reads all of it."""
        restored = make_agent(manager)
        assert restored.messages == self.agent.messages
        assert restored.state.get() == self.agent.state.get()
        assert [message["content"] for message in manager.list_messages("default")] == [
            message["content"] for message in self.agent.messages
        ]
        name = self.agent.messages[-2]["content"][0]["text"]
        assert [feedback["comment"][:1] for feedback in manager.get_feedbacks()] == [name[:1]] * 2
        assert {record["id"] for record in manager.undelivered} == {f"{name}-0", f"{name}-1"}
        stored = manager.session_repository.read_multi_agent(SESSION, "graph")
        assert stored is not None
        assert stored["large"][0] == name[0]
        assert manager.get_metadata()["metadata"] == {"name": name}
        return True


Start = Callable[[str], Life]


@pytest.fixture
def start(new_manager: NewManager) -> Start:
    """Begin a life of the session; a life that is there already ends."""

    def begin(name: str) -> Life:
        new_manager().delete_session()
        return Life(new_manager(), name)

    return begin


def delete_by_repository(repository: MongoDBSessionRepository, manager: MongoDBSessionManager) -> None:
    repository.delete_session(SESSION)


def delete_by_manager(repository: MongoDBSessionRepository, manager: MongoDBSessionManager) -> None:
    manager.delete_session()


@pytest.mark.parametrize("delete", [delete_by_repository, delete_by_manager])
def test_a_deletion_and_a_new_life_at_each_step(
    delete: Callable[[MongoDBSessionRepository, MongoDBSessionManager], None],
    repository: MongoDBSessionRepository,
    new_manager: NewManager,
    client: Client,
    start: Start,
    interruption: Interruption,
    stored: Stored,
    children: Callable[[], set[Any]],
) -> None:
    # The first command of the repository asks which life is there; a life that began before it is the one that goes.
    for number in itertools.count(1 + (delete is delete_by_repository)):
        start("a")
        deleting = new_manager(client=client)
        newcomers: list[Life] = []

        with interruption.before(number, lambda: newcomers.append(start("b"))):  # noqa: B023 - called in this round
            delete(repository, deleting)

        if not newcomers:
            break
        assert newcomers[0].is_whole(new_manager())
        assert children() == {stored()["instance"]}

    assert children() == set()
    assert stored() is None
    assert number > 5


def large_turn(life: Life) -> None:
    life.agent([document("same"), document("late"), {"text": "late"}])


def large_state(life: Life) -> None:
    life.agent.state.set("large", "late" * LARGE)
    life.manager.sync_agent(life.agent)


def redact(life: Life) -> None:
    life.manager.redact_latest_message(user("[removed]"), life.agent)


def new_agent_with_much(life: Life) -> None:
    messages = [user("long" * 50_000) for _ in range(6)]
    make_agent(life.manager, agent_id="late", messages=[*messages, {"role": "user", "content": [document("late")]}])


def large_feedback(life: Life) -> None:
    life.manager.add_feedback({"comment": "late" * LARGE})


def large_notification(life: Life) -> None:
    life.manager.session_repository.update_metadata(SESSION, {"name": "late"}, [{"id": "late", "body": "x" * LARGE}])


def large_graph(life: Life) -> None:
    store_graph(life.manager.session_repository, "late", create=False)


def new_large_graph(life: Life) -> None:
    states = stores_of(life.manager.session_repository).multi_agents
    states.write_multi_agent(SESSION, "late", {"type": "graph", "large": "x" * 1_100_000}, create=True)


def make_room(life: Life) -> None:
    stores_of(life.manager.session_repository)._operations.sizes.make_room(SESSION)


def create_large_message(life: Life) -> None:
    message: Any = {"role": "user", "content": [document("late")]}
    life.manager.session_repository.create_message(SESSION, "default", SessionMessage.from_message(message, 99))


def replace_message(life: Life) -> None:
    message: Any = {"role": "user", "content": [document("late")]}
    life.manager.session_repository.update_message(SESSION, "default", SessionMessage.from_message(message, 0))


def acknowledge(life: Life) -> None:
    stores_of(life.manager.session_repository).outbox.acknowledge(SESSION, ["a-0", "a-1", "b-0", "b-1"])


WRITES = [
    large_turn,
    large_state,
    redact,
    Life.move_oldest,
    new_agent_with_much,
    large_feedback,
    large_notification,
    large_graph,
    new_large_graph,
    make_room,
    create_large_message,
    replace_message,
    acknowledge,
]


@pytest.mark.parametrize("write", WRITES)
def test_a_writer_of_an_earlier_life(
    write: Callable[[Life], None],
    new_manager: NewManager,
    client: Client,
    start: Start,
    interruption: Interruption,
    stored: Stored,
    children: Callable[[], set[Any]],
) -> None:
    for number in itertools.count(1):
        new_manager().delete_session()
        earlier = Life(new_manager(client=client), "a")
        newcomers: list[tuple[Life, Document]] = []

        def start_anew() -> None:
            newcomers.append((start("b"), stored()))  # noqa: B023 - called in this round

        with interruption.before(number, start_anew), suppress(MongoDBSessionError, AssertionError):
            write(earlier)

        if not newcomers:
            break
        newcomer, before = newcomers[0]
        assert stored() == before
        assert newcomer.is_whole(new_manager())
        assert children() == {before["instance"]}

    assert number > 1


REPOSITORY_WRITES = WRITES[-3:-1] + WRITES[5:9]


@pytest.mark.parametrize("write", REPOSITORY_WRITES)
def test_a_verb_of_the_repository_writes_one_life_only(
    write: Callable[[Any], None],
    repository: MongoDBSessionRepository,
    new_manager: NewManager,
    start: Start,
    interruption: Interruption,
    stored: Stored,
    children: Callable[[], set[Any]],
) -> None:
    class User:
        manager: Any = type("", (), {"session_repository": repository, "add_feedback": None})

    for number in itertools.count(1):
        start("a")
        User.manager.add_feedback = lambda feedback: repository.add_feedback(SESSION, feedback)
        newcomers: list[Life] = []

        with (
            interruption.before(number, lambda: newcomers.append(start("b"))),  # noqa: B023 - called in this round
            suppress(MongoDBSessionError),
        ):
            write(User())

        if not newcomers:
            break
        restored = make_agent(new_manager())
        assert restored.messages[: len(newcomers[0].agent.messages)][-2:] == newcomers[0].agent.messages[-2:]
        assert children() == {stored()["instance"]}

    assert number > 1


@pytest.mark.parametrize(
    "about", [{"agent_id": "default", "message_id": 0}, {"agent_id": "default", "tracking_id": "t"}]
)
def test_feedback_of_a_session_that_is_deleted_before_any_operation_is_not_taken_as_stored(
    about: Document, new_manager: NewManager, client: Client, interruption: Interruption
) -> None:
    for number in itertools.count(1):
        manager = new_manager(client=client)
        agent = make_agent(manager, messages=[{**user("Hi"), "tracking_id": "t"}])
        agent("And?")
        assert manager._agents.live()[0].history.move_oldest()

        with interruption.before(number, new_manager().delete_session), suppress(SessionNotFoundError):
            manager.add_feedback({"rating": "up", **about})
            assert not interruption.happened

        new_manager().delete_session()
        if not interruption.happened:
            break

    assert number > 3


# Left by deletions that ended halfway, and by older versions


@pytest.mark.parametrize("is_there", [False, True])
def test_what_a_deletion_left_goes_with_the_next_one(
    is_there: bool,
    start: Start,
    observer: Client,
    database: str,
    repository: MongoDBSessionRepository,
    new_manager: NewManager,
    children: Callable[[], set[Any]],
) -> None:
    start("a")
    observer[database]["agent_sessions"].delete_one({"_id": SESSION})
    if is_there:
        new_manager()
    assert len(children()) == 1

    assert repository.delete_session(SESSION) is is_there

    assert children() == set()


def old_ones(database: Any) -> list[str]:
    return sorted(segment["name"] for segment in database["agent_sessions_segments"].find({"instance": None}))


def put_old_ones(database: Any, session_id: str = SESSION) -> None:
    for name, age in {"young": timedelta(minutes=59), "old": timedelta(minutes=61)}.items():
        begin = ObjectId.from_datetime(datetime.now(timezone.utc) - age)
        made = ObjectId(begin.binary[:4] + ObjectId().binary[4:])
        database["agent_sessions_segments"].insert_one({"_id": made, "session_id": session_id, "name": name})
        metadata = {"session_id": session_id, "sha256": name}
        database["agent_sessions_files.files"].insert_one({"_id": made, "filename": name, "metadata": metadata})
        database["agent_sessions_files.chunks"].insert_one({"files_id": made, "n": 0, "data": b""})


def test_children_without_an_instance_go_an_hour_later(
    repository: MongoDBSessionRepository, observer: Client, database: str
) -> None:
    put_old_ones(observer[database])
    put_old_ones(observer[database], "another session")

    assert repository.delete_session(SESSION) is False

    assert old_ones(observer[database]) == ["old", "young", "young"]
    files = observer[database]["agent_sessions_files.files"].find({"metadata.session_id": SESSION})
    assert [file["filename"] for file in files] == ["young"]
    assert observer[database]["agent_sessions_files.chunks"].count_documents({}) == 3


def test_children_without_an_instance_stay_while_there_is_such_a_session(
    start: Start,
    observer: Client,
    database: str,
    repository: MongoDBSessionRepository,
    interruption: Interruption,
    new_manager: NewManager,
) -> None:
    start("a")
    put_old_ones(observer[database])

    with interruption.before(5, lambda: Life(new_manager(), "b")):  # before the deletion looks for what is left
        repository.delete_session(SESSION)

    assert interruption.happened
    assert old_ones(observer[database]) == ["old", "young"]


@pytest.fixture
def older(start: Start, observer: Client, database: str) -> Life:
    """A session that an older version has stored."""
    life = start("a")
    found = observer[database]
    found["agent_sessions"].update_one({}, {"$unset": {"instance": ""}})
    found["agent_sessions_segments"].update_many({}, {"$unset": {"instance": ""}})
    found["agent_sessions_files.files"].update_many({}, {"$unset": {"metadata.instance": ""}})
    return life


def test_an_older_session_gets_an_instance_when_it_is_opened(
    older: Life, new_manager: NewManager, stored: Stored, children: Callable[[], set[Any]]
) -> None:
    manager = new_manager()
    found = stored()["instance"]
    assert isinstance(found, ObjectId)
    assert children() == {found}
    assert older.is_whole(manager)
    assert older.is_whole(new_manager())
    assert stored()["instance"] == found

    manager.delete_session()

    assert children() == set()


def test_an_older_session_is_read_without_a_write(
    older: Life, new_manager: NewManager, stored: Stored, children: Callable[[], set[Any]]
) -> None:
    before = stored()

    assert older.is_whole(new_manager(create=False))

    assert stored() == before
    assert children() == {None}


def test_an_older_session_that_is_only_read_gets_an_instance_before_its_first_child(
    older: Life, new_manager: NewManager, stored: Stored, children: Callable[[], set[Any]]
) -> None:
    agent = make_agent(new_manager(create=False))

    agent([document("more")])

    assert children() == {stored()["instance"]}
    assert make_agent(new_manager()).messages == agent.messages


def test_an_older_session_is_deleted_whole(
    older: Life, repository: MongoDBSessionRepository, stored: Stored, children: Callable[[], set[Any]]
) -> None:
    assert repository.delete_session(SESSION) is True

    assert children() == set()
    assert stored() is None


def test_children_that_were_not_given_the_instance_are_read(
    older: Life, new_manager: NewManager, observer: Client, database: str
) -> None:
    """A process died between the two writes."""
    observer[database]["agent_sessions"].update_one({}, {"$set": {"instance": ObjectId()}})

    assert older.is_whole(new_manager())


@pytest.mark.parametrize("odd", ["text", 7, {"$ne": None}, [], None])
def test_an_instance_of_another_kind_is_replaced(
    odd: Any, new_manager: NewManager, observer: Client, database: str, stored: Stored
) -> None:
    make_agent(new_manager())("Hi")
    observer[database]["agent_sessions"].replace_one({}, {**stored(), "instance": odd})

    agent = make_agent(new_manager())
    agent("Again")

    assert isinstance(stored()["instance"], ObjectId)
    assert new_manager().delete_session() is True


def test_a_deletion_of_an_earlier_life_leaves_the_new_one(new_manager: NewManager, stored: Stored) -> None:
    earlier = new_manager()
    new_manager().delete_session()
    new_manager()

    assert earlier.delete_session() is False

    assert stored() is not None


SMALL_WRITES: dict[str, Callable[[MongoDBSessionManager], Any]] = {
    "metadata": lambda manager: manager.update_metadata({"name": "late"}),
    "no metadata": lambda manager: manager.delete_metadata(["name"]),
    "feedback": lambda manager: manager.add_feedback({"rating": "up"}),
    "agent": lambda manager: make_agent(manager, agent_id="late"),
    "configuration": lambda manager: manager.session_repository.update_agent_config(SESSION, "default", {"model": "m"}),
    "agent by verb": lambda manager: manager.session_repository.create_agent(SESSION, a_record("late")),
    "state by verb": lambda manager: manager.session_repository.update_agent(SESSION, a_record("default")),
    "message by verb": lambda manager: manager.session_repository.create_message(
        SESSION, "default", SessionMessage.from_message(user("late"), 99)
    ),
    "graph": lambda manager: store_graph(manager.session_repository, "x", create=False),
    "reading metadata": lambda manager: manager.get_metadata(),
    "reading messages": lambda manager: manager.list_messages("default"),
    "reading a graph": lambda manager: manager.session_repository.read_multi_agent(SESSION, "graph"),
    "restoring": lambda manager: make_agent(manager, agent_id="other"),
}


def a_record(agent_id: str) -> SessionAgent:
    return SessionAgent(agent_id=agent_id, state={}, conversation_manager_state={"removed_message_count": 0})


@pytest.mark.parametrize("act", SMALL_WRITES.values(), ids=SMALL_WRITES)
def test_a_manager_of_an_earlier_life_is_told(
    act: Callable[[MongoDBSessionManager], Any], new_manager: NewManager, stored: Stored
) -> None:
    earlier = new_manager()
    make_agent(new_manager(), agent_id="other")
    new_manager().delete_session()
    newcomer = new_manager()
    make_agent(newcomer)("Hi")
    make_agent(newcomer, agent_id="other")
    newcomer.update_metadata({"name": "new"})
    store_graph(newcomer.session_repository, "b")
    before = stored()

    with pytest.raises(SessionNotFoundError):
        act(earlier)

    assert stored() == before
