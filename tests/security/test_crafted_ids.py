"""Ids and keys are data: none becomes an operator or a path, and none reaches what belongs to another one.

The verbs are found by looking at the classes. A new one takes part by itself if its parameters are known here, and
fails the tests if they are not.
"""

import asyncio
import hashlib
import inspect
import json
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, is_dataclass, replace
from typing import Any

import pytest
from bson import ObjectId
from bson.raw_bson import RawBSONDocument
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pymongo import MongoClient
from strands import Agent
from strands.agent.conversation_manager import SlidingWindowConversationManager
from strands.hooks import HookRegistry
from strands.types.session import Session, SessionAgent, SessionMessage, SessionType

from mongodb_session_manager import (
    MessageNotFoundError,
    MongoDBConnectionPool,
    MongoDBSessionError,
    MongoDBSessionManager,
    MongoDBSessionManagerFactory,
)
from mongodb_session_manager._schema.histories import AgentWrite, Guard, guarded_update
from mongodb_session_manager._schema.lease import leased_update
from mongodb_session_manager._schema.listing import Listing
from mongodb_session_manager._schema.messages import aware, message_doc, replacement
from mongodb_session_manager._schema.values import escape_key, unescape_key
from mongodb_session_manager._stores.histories import PreparedWrite
from mongodb_session_manager.mongodb_session_repository import stores_of
from mongodb_session_manager.testing import CommandCounter, ScriptedModel
from tests.aliases import Client
from tests.all_verbs import WholeRepository

Documents = dict[tuple[str, str], Any]

IDS = [
    *(
        "s",
        "S",
        "s ",
        " s",
        "s\n",
        "s\t",
        "\u0455",
        "\uff53",
        "s\u200b",
    ),  # look-alikes: Cyrillic, full width, zero width
    *("\u00e9", "e\u0301", "\ufb01", "fi", "\u212b", "\u00c5"),  # twins under some form of Unicode normalisation
    *("$where", "$", "$ne", "$[]", "$[a]", "$$ROOT", '{"$ne": null}', "{$gt: ''}", "' || '1'=='1", "^.*$", "/.*/"),
    *(".", "..", "a.b", "a%2Eb", "a%252Eb", "%", "%%", "%2E", "%25", "%252E", "%empty", "%00", "%24where", "%int"),
    *("0", "00", "1e0", "-1", "messages.0", "agents.s", "agents.s.messages", "s.agent_data", "s.messages"),
    *("_id", "agents", "messages", "metadata", "session_id", "agent_data", "multi_agents", "null", "None", "undefined"),
    *("__proto__", "constructor", "__bytes_encoded__", "%5F_bytes_encoded__", "../../etc/passwd", "a/b", "x" * 1024),
]
AT = aware("2026-03-02T09:00:00+00:00")
BAD_IDS = [{"$ne": None}, {"$gt": ""}, None, 7, 0, True, b"s", ["s"], "", "s\0", "\0", "\ud800", "x" * 1025, "é" * 513]
BAD_NUMBERS = [{"$gte": 0}, {"$ne": None}, "0", "$role", None, 1.5, True, [0], 2**70]

# The places of an id among the arguments of a verb.
OF_ID = {
    "session_id": "session_id",
    "session": "session_id",
    "agent_id": "agent_id",
    "agent_ids": "agent_id",
    "session_agent": "agent_id",
    "write": "agent_id",
    "multi_agent_id": "multi_agent_id",
    "multi_agent": "multi_agent_id",
    "source": "multi_agent_id",
    "message_id": "message_id",
    "from_message_id": "message_id",
    "session_message": "message_id",
    "edit": "message_id",
    "tracking_id": "tracking_id",
    "tracking_ids": "tracking_id",
}
FIRST = ["create_session", "open_session", "create_agent", "create_message", "create_multi_agent"]
# What ends a session, or empties the history that the others work on.
LAST = ["delete_session", "close", "aclose"]
# Their clients, threads and collections are no data of a session; the catalog has its own tests of ids.
NO_VERBS = {"collection", "client", "handle", "health", "namespace", "sessions", "undelivered"}


class Source:
    """What a session manager needs of a Graph or Swarm."""

    def __init__(self, multi_agent_id: Any, mark: str) -> None:
        self.id, self._state = multi_agent_id, {"mark": mark, "$where": {"a.b": mark}}

    def serialize_state(self) -> dict[str, Any]:
        return self._state

    def deserialize_state(self, state: dict[str, Any]) -> None:
        self._state = state


@dataclass(frozen=True)
class Target:
    """Whose data a call is about. The mark is in all that is stored for it."""

    session_id: Any
    agent_id: Any
    multi_agent_id: Any
    mark: str
    message_id: Any = 0
    tracking_id: Any = "t-0"
    guard: Callable[[], Guard] = lambda: Guard(1, 0)
    agent: Any = None

    @classmethod
    def of(cls, session_id: str, agent_id: str) -> "Target":
        return cls(session_id, agent_id, agent_id, f"mark-{ObjectId()}")

    def message(self) -> Any:
        return {"role": "user", "content": [{"text": self.mark}], "tracking_id": self.tracking_id}

    def record(self) -> dict[str, Any]:
        return {"$ne": self.mark, "a.b": [self.mark]}


def prepared(target: Target) -> PreparedWrite:
    write = AgentWrite(target.agent_id, data={"model": target.mark})
    return PreparedWrite(
        target.session_id, write, leased_update(guarded_update(target.session_id, write, target.guard()), None)
    )


ARGUMENTS: dict[str, Callable[[Target], Any]] = {
    "session_id": lambda t: t.session_id,
    "session": lambda t: Session(session_id=t.session_id, session_type=SessionType.AGENT),
    "agent_id": lambda t: t.agent_id,
    "agent_ids": lambda t: [t.agent_id],
    "session_agent": lambda t: SessionAgent(
        agent_id=t.agent_id,
        state=t.record(),
        conversation_manager_state=SlidingWindowConversationManager().get_state(),
    ),
    "write": lambda t: AgentWrite(t.agent_id, data={"model": t.mark}),
    "guard": lambda t: t.guard(),
    "prepared": lambda t: [prepared(t)],
    "multi_agent_id": lambda t: t.multi_agent_id,
    "multi_agent": lambda t: Source(t.multi_agent_id, t.mark),
    "source": lambda t: Source(t.multi_agent_id, t.mark),
    "state": Target.record,
    "message_id": lambda t: t.message_id,
    "from_message_id": lambda t: t.message_id,
    "session_message": lambda t: SessionMessage(message=t.message(), message_id=t.message_id),
    "edit": lambda t: replacement(t.message(), t.message_id, AT, "here"),
    "tracking_id": lambda t: t.tracking_id,
    "tracking_ids": lambda t: [t.tracking_id],
    "removed": lambda t: 0,
    "messages": lambda t: [message_doc(t.message(), 0, AT, "here")],
    "message": Target.message,
    "redact_message": Target.message,
    "agent": lambda t: t.agent,
    "files": lambda t: {hashlib.sha256(t.mark.encode()).hexdigest(): t.mark.encode()},
    "digests": lambda t: [hashlib.sha256(t.mark.encode()).hexdigest()],
    "removal": lambda _: ObjectId(),
    "stored": lambda _: None,  # a lease; without one the verb has nothing to say
    "write_id": lambda _: ObjectId(),
    "kept_bytes": lambda _: 0,
    "data": lambda t: {"model": t.mark},
    "config": lambda t: {"model": t.mark, "$set": t.mark, "a.b": t.mark},
    "prompt_metadata": Target.record,
    "metadata": lambda t: {"mark": t.mark, "nested": t.record()},
    "keys": lambda _: ["nested"],
    "metadata_keys": lambda _: ["nested"],
    "feedback": lambda t: {"comment": t.mark, "tracking_id": t.tracking_id, **t.record()},
    "ids": lambda t: [t.mark],
    "registry": lambda _: HookRegistry(),
    "overrides": lambda _: None,
    "listing": lambda _: Listing(newest_first=True),
}


def verbs(kind: type) -> list[str]:
    names = [name for name, member in inspect.getmembers(kind) if not name.startswith("_") and callable(member)]
    others = {name for name, member in inspect.getmembers(kind) if isinstance(member, property)} - NO_VERBS
    assert all(name.startswith("_") for name in others), "a new property: does it take part?"
    return sorted(names, key=lambda name: (name in LAST, FIRST.index(name) if name in FIRST else len(FIRST), name))


def parameters(verb: Callable[..., Any]) -> list[str]:
    """The parameters that a test passes: all that must be passed, and all that hold an id."""
    found = list(inspect.signature(verb).parameters.values())
    named = [p for p in found if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and p.name != "self"]
    return [p.name for p in named if p.default is p.empty or p.name in OF_ID or p.name == "kept_bytes"]


def call(owner: object, verb: str, target: Target) -> Any:
    method = getattr(owner, verb)
    result = method(**{name: ARGUMENTS[name](target) for name in parameters(method)})
    if inspect.isawaitable(result):
        return asyncio.run(_awaited(result))
    asynchronous = hasattr(result, "__aenter__") and not hasattr(result, "__enter__")
    return asyncio.run(_entered(result)) if asynchronous else result


async def _awaited(result: Any) -> Any:
    return await result


async def _entered(session: Any) -> Any:
    async with session as manager:
        return manager.list_agents()


def text(value: Any) -> str:
    """All that is in a value, also what its repr leaves out."""
    if is_dataclass(value) and not isinstance(value, type):
        return text(vars(value))
    if isinstance(value, dict):
        return " ".join(f"{name} {text(item)}" for name, item in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return " ".join(map(text, value))
    return str(value)


def everything(owner: object, target: Target, done: set[str], *, but: Iterable[str] = ()) -> str:
    """Call all verbs of an object for a target, and return all that they say; errors of the library say much too."""
    said = []
    for verb in verbs(type(owner)):
        if verb in but:
            continue
        try:
            said.append(text(call(owner, verb, target)))
            done.add(verb)
        except MongoDBSessionError as error:
            said.append(f"{error}")
    return "\n".join(said)


def session_of(document: Any) -> str:
    """The session that a document belongs to: its own, a segment's, a file's."""
    metadata = document.get("metadata") or {}
    of: str = document.get("session_id") or metadata.get("session_id") or str(document["_id"])
    return of


class World:
    """Sessions side by side in one collection, which are read as bytes."""

    def __init__(self, client: Client, raw: "MongoClient[RawBSONDocument]", database: str) -> None:
        self.client, self.name, self._raw = client, database, raw[database]
        self.repository = WholeRepository(client=client, database_name=database)

    def clear(self) -> None:
        for name in self._raw.list_collection_names():
            self._raw[name].delete_many({})

    def store(self, target: Target) -> None:
        """Store something of each kind, also a message that has moved into a segment."""
        repository = self.repository
        for verb in (*FIRST[1:], "move_oldest", "update_metadata", "add_feedback", "update_agent_config"):
            if verb not in ("create_multi_agent",) or target.multi_agent_id:
                call(repository, verb, self.guarded(target))
        call(repository, "create_message", replace(target, message_id=1, tracking_id="t-1"))

    def guarded(self, target: Target) -> Target:
        return replace(
            target,
            guard=lambda: stores_of(self.repository).histories.locate_agent(target.session_id, target.agent_id).guard,
        )

    def act(self, target: Target, done: dict[type, set[str]]) -> str:
        """Do everything with a target but ending its session."""
        return self._with_repository(target, done, ()) + self._with_manager(target, done, ())

    def _with_repository(self, target: Target, done: dict[type, set[str]], but: Iterable[str]) -> str:
        kind = WholeRepository
        repository = kind(client=self.client, database_name=self.name)
        with closing(repository):
            return everything(
                repository, self.guarded(target), done.setdefault(kind, set()), but={*but, "delete_session"}
            )

    def _with_manager(self, target: Target, done: dict[type, set[str]], but: Iterable[str]) -> str:
        kind = MongoDBSessionManager
        manager = kind(target.session_id, client=self.client, database_name=self.name)
        with closing(manager):
            agent = make_agent(manager, target.agent_id)
            if agent is None:  # the SDK itself refuses such an id for an agent
                return ""
            agent(target.mark)
            at_work = replace(target, agent=agent)
            return everything(manager, at_work, done.setdefault(kind, set()), but={*but, "delete_session"})

    def end(self, target: Target, done: dict[type, set[str]]) -> None:
        """End a session in both ways, and work with what is not there any more."""
        with closing(MongoDBSessionManager(target.session_id, client=self.client, database_name=self.name)) as manager:
            assert manager.delete_session()
        done.setdefault(MongoDBSessionManager, set()).add("delete_session")
        call(self.repository, "open_session", target)
        assert self.repository.delete_session(target.session_id)
        done[WholeRepository].add("delete_session")
        everything(self.repository, target, set(), but={"create_session", "open_session", "close"})

    def documents(self, *, but: str) -> Documents:
        """All documents as bytes, without those of one session."""
        everything = [(name, one) for name in self._raw.list_collection_names() for one in self._raw[name].find()]
        own_files = {one["_id"] for _, one in everything if but == session_of(one)}
        return {
            (name, repr(one["_id"])): one.raw
            for name, one in everything
            if session_of(one) != but and one.get("files_id") not in own_files
        }

    def siblings(self, target: Target) -> Documents:
        """The other agents and multi-agents of a session, as bytes."""
        session = self._raw["agent_sessions"].find_one({"_id": {"$eq": target.session_id}})
        assert session is not None
        found = {
            (kind, name): value.raw
            for kind in ("agents", "multi_agents")
            for name, value in session[kind].items()
            if name != escape_key(target.agent_id)
        }
        segments = self._raw["agent_sessions_segments"].find({"session_id": {"$eq": target.session_id}})
        moved = {("segments", repr(s["_id"])): s.raw for s in segments if s.get("agent_id") != target.agent_id}
        # Feedback is of the whole session.
        return found | {key: raw for key, raw in moved.items() if b"agent_id" in raw}


def make_agent(manager: MongoDBSessionManager, agent_id: str) -> Agent | None:
    try:
        return Agent(
            model=ScriptedModel(default="Okay."), agent_id=agent_id, session_manager=manager, callback_handler=None
        )
    except ValueError:
        assert "/" in agent_id
        return None


@pytest.fixture(scope="module")
def worlds(mongodb_uri: str) -> Iterator[Callable[[], World]]:
    """Make databases for worlds, which are dropped in the end."""
    with (
        MongoClient[dict[str, Any]](mongodb_uri, tz_aware=True) as client,
        MongoClient(mongodb_uri, document_class=RawBSONDocument) as raw,
    ):
        made: list[World] = []

        def make() -> World:
            made.append(World(client, raw, f"crafted_{ObjectId()}"))
            return made[-1]

        yield make
        for world in made:
            client.drop_database(world.name)


@pytest.fixture(scope="module")
def world(worlds: Callable[[], World]) -> World:
    """A world that each test clears for itself."""
    return worlds()


# Ids side by side


Crowd = tuple[World, dict[str, Target]]


@pytest.fixture(scope="module")
def sessions(worlds: Callable[[], World]) -> Crowd:
    """A session under each of the ids, with an agent of that id."""
    return stored_in(worlds(), {one: Target.of(one, one) for one in IDS})


@pytest.fixture(scope="module")
def agents(worlds: Callable[[], World]) -> Crowd:
    """An agent under each of the ids, in one session."""
    return stored_in(worlds(), {one: Target.of("s", one) for one in IDS})


def stored_in(world: World, targets: dict[str, Target]) -> Crowd:
    for target in targets.values():
        world.store(target)
    return world, targets


@pytest.fixture(scope="module")
def done() -> dict[type, set[str]]:
    """The verbs that have worked for some id, by class."""
    return {}


@pytest.mark.parametrize("session_id", IDS, ids=ascii)
def test_a_session_among_others(sessions: Crowd, done: dict[type, set[str]], session_id: str) -> None:
    world, crowd = sessions
    target = crowd[session_id]
    others = world.documents(but=session_id)

    said = world.act(target, done)
    world.end(target, done)

    assert world.documents(but=session_id) == others
    assert target.mark in said
    assert [one for one in crowd.values() if one is not target and one.mark in said] == []
    world.store(target)  # for the others


@pytest.mark.parametrize("agent_id", IDS, ids=ascii)
def test_an_agent_among_others(agents: Crowd, done: dict[type, set[str]], agent_id: str) -> None:
    world, targets = agents
    before = world.siblings(targets[agent_id])

    world.act(targets[agent_id], done)

    after = world.siblings(targets[agent_id])
    assert len(before) >= 2 * (len(IDS) - 1)
    assert after == before


def test_every_verb_has_worked(world: World, done: dict[type, set[str]]) -> None:
    target = Target.of("once", "once")
    world.act(target, done)
    world.end(target, done)

    for kind in (WholeRepository, MongoDBSessionManager):
        assert sorted(done[kind]) == sorted(verbs(kind))


def twins(one: str) -> list[str]:
    """Other ids that somebody might take for this one."""
    forms = [unicodedata.normalize(form, one) for form in ("NFC", "NFD", "NFKC", "NFKD")]
    spellings = [escape_key(one), unescape_key(one), one.casefold(), one.upper(), one.strip(), f"{one} "]
    paths = [f"{one}.messages", f"{one}.0", f"agents.{one}", f"${one}", one.partition(".")[0]]
    return [twin for twin in (*forms, *spellings, *paths) if twin != one]


def is_id(one: str) -> bool:
    return bool(one) and "\0" not in one and len(one.encode()) <= 1024


ids = st.one_of(
    st.sampled_from(IDS),
    st.text("./$%{}[]\"'ab0_2E5é\u0301 ", min_size=1, max_size=10),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=30),
)
pairs = st.one_of(
    st.tuples(ids, ids), ids.flatmap(lambda one: st.tuples(st.just(one), st.sampled_from(twins(one) or ["s"])))
).filter(lambda pair: pair[0] != pair[1] and all(map(is_id, pair)))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pair=pairs)
@example(pair=(".", "%2E"))
@example(pair=("e\u0301", "é"))
@example(pair=("a", "a.messages"))
def test_two_ids_never_meet(world: World, pair: tuple[str, str]) -> None:
    one, other = pair
    world.clear()
    targets = [Target.of(session_id, agent_id) for session_id in pair for agent_id in pair]
    for target in targets:
        world.store(target)
    acting, *bystanders = targets
    others, siblings = world.documents(but=one), world.siblings(acting)
    done: dict[type, set[str]] = {}

    said = world.act(acting, done)
    assert world.siblings(acting) == siblings
    world.end(acting, done)

    assert world.documents(but=one) == others
    assert acting.mark in said
    # A session's own lists name its other agent; a stranger's session is never in them.
    assert [target for target in bystanders if target.session_id == other and target.mark in said] == []


# Through the factory


@pytest.mark.parametrize("session_id", IDS, ids=ascii)
def test_a_session_of_the_factory(world: World, session_id: str) -> None:
    world.clear()
    neighbours = [Target.of(one, one) for one in twins(session_id) if is_id(one)]
    for target in {target.session_id: target for target in neighbours}.values():
        world.store(target)
    others = world.documents(but=session_id)
    done: set[str] = set()

    factory = MongoDBSessionManagerFactory(client=world.client, database_name=world.name)
    with closing(factory):
        everything(factory, Target.of(session_id, session_id), done)

    assert done == set(verbs(MongoDBSessionManagerFactory))
    assert world.documents(but=session_id) == others
    assert world.repository.read_session(session_id) is not None


def test_the_pool_takes_no_ids() -> None:
    taken = {name for verb in verbs(MongoDBConnectionPool) for name in parameters(getattr(MongoDBConnectionPool, verb))}
    assert taken == {"connection_string"}


# What is no id


def places(kind: type) -> list[Any]:
    """Each place where a verb of the class takes an id."""
    found = [(verb, name) for verb in verbs(kind) for name in parameters(getattr(kind, verb)) if name in OF_ID]
    return [pytest.param(verb, OF_ID[name], id=f"{verb}-{name}") for verb, name in found]


def unfit(name: str) -> list[Any]:
    if name == "message_id":
        return BAD_NUMBERS
    return [bad for bad in BAD_IDS if name != "tracking_id" or not isinstance(bad, str)]  # any string may be one


def refuses(owner: object, verb: str, name: str) -> None:
    for bad in unfit(name):
        with pytest.raises((TypeError, ValueError)) as caught:
            call(owner, verb, replace(Target.of("s", "s"), **{name: bad}))
        assert not isinstance(caught.value, MongoDBSessionError), bad


@pytest.mark.parametrize(("verb", "name"), places(WholeRepository))
def test_repositories_refuse_what_is_no_id(
    mongo_client: Client, command_counter: CommandCounter, verb: str, name: str
) -> None:
    refuses(WholeRepository(client=mongo_client), verb, name)

    assert command_counter.commands == []


@pytest.mark.parametrize(("verb", "name"), places(MongoDBSessionManager))
def test_managers_refuse_what_is_no_id(
    new_manager: Callable[..., MongoDBSessionManager], command_counter: CommandCounter, verb: str, name: str
) -> None:
    manager = new_manager()

    with command_counter.counting() as log:
        refuses(manager, verb, name)

    assert log.commands == []


@pytest.mark.parametrize(("verb", "name"), places(MongoDBSessionManagerFactory))
def test_factories_refuse_what_is_no_id(
    mongo_client: Client, command_counter: CommandCounter, verb: str, name: str
) -> None:
    with closing(MongoDBSessionManagerFactory(client=mongo_client)) as factory:
        refuses(factory, verb, name)

    assert command_counter.commands == []


# Keys of metadata

KEYS = [
    *("_id", "session_id", "agents", "messages", "metadata", "updated_at", "__proto__", "constructor", "length"),
    *("0", "00", "-1", "a", "A", "a ", " a", "é", "e\u0301", "a$b", "a$", "%", "%2E", "%24set", "%empty", "%int"),
    *("messages.0", "agents.s.messages", "[0]", "a/b", '{"a": 1}', "__bytes_encoded__", "x" * 1024),
]
BAD_KEYS = [
    "$where",
    "$set.a",
    "a.$b",
    "a.$",
    "",
    ".",
    "a.",
    ".a",
    "a..b",
    "a\0",
    None,
    5,
    b"a",
    ("a",),
    ["a"],
    {"$ne": 1},
]


def is_key(key: str) -> bool:
    parts = key.split(".")
    return "\0" not in key and all(parts) and not any(part.startswith("$") for part in parts)


keys = st.one_of(st.sampled_from(KEYS), ids, st.text(".$%a0_2E", min_size=1, max_size=8)).filter(is_key)


def overlap(one: str, other: str) -> bool:
    parts, others = one.split("."), other.split(".")
    return parts[: len(others)] == others or others[: len(parts)] == parts


def without_metadata(session: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in session.items() if name not in ("metadata", "updated_at")}


def found(metadata: Any, key: str) -> Any:
    for part in key.split("."):
        metadata = metadata[part]
    return metadata


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(one=keys, other=keys)
@example(one="%2E", other="%")
@example(one="e\u0301", other="é")
def test_two_keys_never_meet(world: World, one: str, other: str) -> None:
    if overlap(one, other):
        return
    world.clear()
    repository, sessions = world.repository, world.client[world.name]["agent_sessions"]
    world.store(Target.of("s", "s"))
    repository.update_metadata("s", {other: {"$where": "other's", "a.b": 1}})
    (before,) = sessions.find()

    repository.update_metadata("s", {one: {"$ne": "one's"}})
    both = repository.get_metadata("s")["metadata"]
    repository.delete_metadata("s", [one])

    (after,) = sessions.find()
    left = repository.get_metadata("s")["metadata"]
    assert found(both, one) == {"$ne": "one's"}
    assert found(both, other) == found(left, other) == {"$where": "other's", "a.b": 1}
    assert without_metadata(after) == without_metadata(before)


@pytest.mark.parametrize("key", KEYS, ids=ascii)
def test_a_key_among_others(world: World, key: str) -> None:
    world.clear()
    world.store(Target.of("s", "s"))
    others = {other: f"{other}'s" for other in KEYS if not overlap(key, other)}
    world.repository.delete_metadata("s", ["mark", "nested"])
    kept: dict[str, str] = {}
    for other, value in others.items():
        if not any(overlap(other, there) for there in kept):
            kept[other] = value
    world.repository.update_metadata("s", kept)
    before = world.repository.get_metadata("s")["metadata"]

    world.repository.update_metadata("s", {key: "mine"})
    assert found(world.repository.get_metadata("s")["metadata"], key) == "mine"
    world.repository.delete_metadata("s", [key])

    after = world.repository.get_metadata("s")["metadata"]
    assert {other: found(after, other) for other in kept} == kept
    assert before.items() <= after.items()


@pytest.mark.parametrize("key", BAD_KEYS, ids=ascii)
def test_what_is_no_key(
    new_manager: Callable[..., MongoDBSessionManager], command_counter: CommandCounter, key: Any
) -> None:
    manager = new_manager()
    tool = manager.get_metadata_tool()

    with command_counter.counting() as log:
        if isinstance(key, str | int | bytes | tuple | None):
            with pytest.raises(ValueError, match="key"):
                manager.update_metadata({key: 1})  # type: ignore[dict-item]
        with pytest.raises(ValueError, match="key"):
            manager.delete_metadata([key])
        if isinstance(key, str):
            assert tool(action="update", metadata=json.dumps({key: 1})).startswith("Error: ")
        assert tool(action="delete", keys=[key]).startswith("Error: ")

    assert log.commands == []


# Fields of feedback, tracking ids, names


@pytest.mark.parametrize("field", [*IDS, "", "\0", "\ud800"], ids=ascii)
def test_a_field_of_feedback(
    new_manager: Callable[..., MongoDBSessionManager], stored: Callable[..., Any], field: str
) -> None:
    manager = new_manager()
    before = stored()
    feedback = {field: {field: [{field: "mine"}]}, "rating": field}

    manager.add_feedback(feedback)

    (came_back,) = manager.get_feedbacks()
    came_back.pop("created_at")
    assert came_back == feedback
    changed = {name for name, value in stored().items() if before.get(name) != value}
    assert changed <= {"feedbacks", "feedback_bytes", "feedback_counts", "updated_at"}


TRACKING_IDS = [*IDS, "$role", "$$message.tracking_id", "$$ROOT", "\0", "\ud800", "%text"]


@pytest.mark.parametrize("tracking_id", TRACKING_IDS, ids=ascii)
def test_a_redaction_by_tracking_id_reaches_its_own_message_only(
    new_manager: Callable[..., MongoDBSessionManager],
    new_agent: Callable[..., Agent],
    history: Callable[..., list[Any]],
    tracking_id: str,
) -> None:
    manager = new_manager()
    others = [a_message(one, "another's") for one in TRACKING_IDS if one != tracking_id]
    agent = new_agent(manager, messages=[a_message(tracking_id, "an earlier copy"), *others])
    manager.append_message(a_message(tracking_id, "the latest"), agent)

    manager.redact_latest_message(a_message(tracking_id, "redacted"), agent)

    redacted = a_message(tracking_id, "redacted")
    assert history() == [redacted, *others, redacted]


def a_message(tracking_id: str, said: str) -> Any:
    return {"role": "user", "content": [{"text": said}], "tracking_id": tracking_id}


@pytest.mark.parametrize("tracking_id", TRACKING_IDS, ids=ascii)
def test_feedback_by_tracking_id(
    new_manager: Callable[..., MongoDBSessionManager], new_agent: Callable[..., Agent], tracking_id: str
) -> None:
    manager = new_manager()
    others = [a_message(one, "another's") for one in TRACKING_IDS if one != tracking_id]
    agent = new_agent(manager, messages=others)

    with pytest.raises(MessageNotFoundError):
        manager.add_feedback({"rating": "up", "tracking_id": tracking_id})
    manager.append_message(a_message(tracking_id, "mine"), agent)
    manager.add_feedback({"rating": "up", "tracking_id": tracking_id})

    assert len(manager.get_feedbacks()) == 1


@pytest.mark.parametrize("name", IDS, ids=ascii)
def test_names_of_agents_and_applications(
    new_manager: Callable[..., MongoDBSessionManager], new_agent: Callable[..., Agent], name: str
) -> None:
    agent = new_agent(new_manager(application_name=name), name=name, state={name: name}, system_prompt=name)
    agent("Hello")

    manager = new_manager()
    again = new_agent(manager)

    assert manager.get_application_name() == name
    assert again.state.get() == {name: name}
    (config,) = manager.list_agents()
    assert config["system_prompt"] == name


@pytest.mark.parametrize("name", [{"$ne": None}, 5, ["a"], b"a"], ids=repr)
def test_what_is_no_name_of_an_application(
    new_manager: Callable[..., MongoDBSessionManager], command_counter: CommandCounter, name: Any
) -> None:
    with pytest.raises(TypeError, match="application_name"):
        new_manager(application_name=name)

    assert command_counter.commands == []
