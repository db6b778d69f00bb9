"""Users' hooks around metadata and feedback: every way to write one, and every way to call what it wraps."""

import asyncio
import contextvars
import functools
import inspect
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import mongomock
import pytest
from pymongo.monitoring import ConnectionPoolListener

from mongodb_session_manager import (
    MongoDBSessionManager,
    MongoDBSessionManagerFactory,
    create_mongodb_session_manager,
)
from mongodb_session_manager.errors import SessionNotFoundError, UnstorableValueError
from mongodb_session_manager.testing import CommandCounter
from mongodb_session_manager.types import FeedbackHook, MetadataHook
from tests.aliases import Client, Hook, NewManager, Original, Stored

Form = Callable[[Original, dict[str, Any]], Any]

callers = pytest.mark.parametrize("caller", ["sync", "async"])
hooks = pytest.mark.parametrize(
    "kind", ["function", "coroutine", "object", "async object", "async partial", "async method"]
)

both_kinds = pytest.mark.parametrize("kind", ["function", "coroutine"])


def made(kind: str, form: Form, seen: list[Any] | None = None) -> Hook:
    """A hook of some kind that calls ``original_func`` in some form, and notes what it was given."""

    def note(action: str, session_id: str, kwargs: dict[str, Any]) -> None:
        if seen is not None:
            seen.append((action, session_id, kwargs))

    def function(original_func: Original, action: str, session_id: str, **kwargs: Any) -> Any:
        note(action, session_id, kwargs)
        return form(original_func, kwargs)

    async def coroutine(original_func: Original, action: str, session_id: str, **kwargs: Any) -> Any:
        note(action, session_id, kwargs)
        await asyncio.sleep(0)
        result = form(original_func, kwargs)
        return await result if inspect.isawaitable(result) else result

    async def prefixed(prefix: str, *args: Any, **kwargs: Any) -> Any:
        return await coroutine(*args, **kwargs)

    class Object:
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

    class AsyncObject:
        async def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return await coroutine(*args, **kwargs)

        async def method(self, *args: Any, **kwargs: Any) -> Any:
            return await coroutine(*args, **kwargs)

    kinds: dict[str, Hook] = {
        "function": function,
        "coroutine": coroutine,
        "object": Object(),
        "async object": AsyncObject(),
        "async partial": functools.partial(prefixed, "audit"),
        "async method": AsyncObject().method,
    }
    return kinds[kind]


async def call(manager: MongoDBSessionManager, caller: str, method: str, *args: Any) -> Any:
    if caller == "async":
        return await getattr(manager, f"a{method}")(*args)
    return getattr(manager, method)(*args)


def go_on(original_func: Original, kwargs: dict[str, Any]) -> Any:
    return original_func()


# Every accepted form of original_func


@callers
@both_kinds
@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (lambda f, kw: f(), {"a": 1}),
        (lambda f, kw: f(kw["metadata"]), {"a": 1}),
        (lambda f, kw: f(metadata=kw["metadata"]), {"a": 1}),
        (lambda f, kw: f(**kw), {"a": 1}),
        (lambda f, kw: f(kw.get("metadata"), kw.get("keys")), {"a": 1}),
        (lambda f, kw: f(metadata=kw.get("metadata"), keys=kw.get("keys")), {"a": 1}),
        (lambda f, kw: f(kw["metadata"], session_manager=None), {"a": 1}),
        (lambda f, kw: f(session_manager=None), {"a": 1}),
        (lambda f, kw: f({"b": 2}), {"b": 2}),
        (lambda f, kw: f(metadata={"b": 2}), {"b": 2}),
        (lambda f, kw: f({"b": 2}, None), {"b": 2}),
        (lambda f, kw: f({**kw["metadata"], "b": 2}), {"a": 1, "b": 2}),
        (lambda f, kw: f({}), {}),
    ],
    ids=[
        "nothing",
        "position",
        "keyword",
        "kwargs",
        "both",
        "both by keyword",
        "more",
        "only more",
        "another",
        "another by keyword",
        "another, both",
        "added",
        "empty",
    ],
)
async def test_forms_of_an_update(
    new_manager: NewManager, stored: Stored, caller: str, kind: str, form: Form, expected: dict[str, Any]
) -> None:
    seen: list[Any] = []
    manager = new_manager(metadata_hook=made(kind, form, seen))

    await call(manager, caller, "update_metadata", {"a": 1})

    assert stored()["metadata"] == expected
    assert seen == [("update", "s-1", {"metadata": {"a": 1}, "session_manager": manager})]


@callers
@both_kinds
@pytest.mark.parametrize(
    ("form", "left"),
    [
        (lambda f, kw: f(), {"b"}),
        (lambda f, kw: f(kw["keys"]), {"b"}),
        (lambda f, kw: f(keys=kw["keys"]), {"b"}),
        (lambda f, kw: f(**kw), {"b"}),
        (lambda f, kw: f(kw.get("metadata"), kw.get("keys")), {"b"}),
        (lambda f, kw: f(None, kw["keys"]), {"b"}),
        (lambda f, kw: f(metadata=None, keys=kw["keys"]), {"b"}),
        (lambda f, kw: f(kw["keys"], session_manager=None), {"b"}),
        (lambda f, kw: f(["b"]), {"a"}),
        (lambda f, kw: f(keys=["b"]), {"a"}),
        (lambda f, kw: f([]), {"a", "b"}),
    ],
    ids=[
        "nothing",
        "position",
        "keyword",
        "kwargs",
        "both",
        "none and keys",
        "both by keyword",
        "more",
        "another",
        "another by keyword",
        "empty",
    ],
)
async def test_forms_of_a_deletion(
    new_manager: NewManager, stored: Stored, caller: str, kind: str, form: Form, left: set[str]
) -> None:
    new_manager().update_metadata({"a": 1, "b": 2})
    seen: list[Any] = []
    manager = new_manager(metadata_hook=made(kind, form, seen))

    await call(manager, caller, "delete_metadata", ["a"])

    assert set(stored()["metadata"]) == left
    assert seen == [("delete", "s-1", {"keys": ["a"], "session_manager": manager})]


@callers
@both_kinds
@pytest.mark.parametrize(
    "form",
    [
        lambda f, kw: f(),
        lambda f, kw: f(None),
        lambda f, kw: f(None, None),
        lambda f, kw: f(**kw),
        lambda f, kw: f(kw.get("metadata"), kw.get("keys")),
        lambda f, kw: f(metadata=None, keys=None),
        lambda f, kw: f(session_manager=None),
    ],
    ids=["nothing", "none", "two nones", "kwargs", "both", "both by keyword", "more"],
)
async def test_forms_of_a_reading(new_manager: NewManager, caller: str, kind: str, form: Form) -> None:
    new_manager().update_metadata({"a": 1})
    seen: list[Any] = []
    manager = new_manager(metadata_hook=made(kind, form, seen))

    assert await call(manager, caller, "get_metadata") == {"metadata": {"a": 1}}
    assert seen == [("get", "s-1", {"session_manager": manager})]


@callers
@both_kinds
@pytest.mark.parametrize(
    ("form", "rating"),
    [
        (lambda f, kw: f(), "up"),
        (lambda f, kw: f(kw["feedback"]), "up"),
        (lambda f, kw: f(feedback=kw["feedback"]), "up"),
        (lambda f, kw: f(**kw), "up"),
        (lambda f, kw: f(kw["feedback"], session_manager=kw["session_manager"]), "up"),
        (lambda f, kw: f(session_manager=kw["session_manager"]), "up"),
        (lambda f, kw: f({"rating": "down"}), "down"),
        (lambda f, kw: f(feedback={"rating": "down"}), "down"),
    ],
    ids=["nothing", "position", "keyword", "kwargs", "more", "only more", "another", "another by keyword"],
)
async def test_forms_of_feedback(new_manager: NewManager, caller: str, kind: str, form: Form, rating: str) -> None:
    seen: list[Any] = []
    manager = new_manager(feedback_hook=made(kind, form, seen))

    await call(manager, caller, "add_feedback", {"rating": "up"})

    assert [feedback["rating"] for feedback in manager.get_feedbacks()] == [rating]
    assert seen == [("add", "s-1", {"feedback": {"rating": "up"}, "session_manager": manager})]


# What comes out


EVERY_METHOD: list[tuple[str, tuple[Any, ...]]] = [
    ("update_metadata", ({"a": 1},)),
    ("get_metadata", ()),
    ("delete_metadata", (["a"],)),
    ("add_feedback", ({"rating": "up"},)),
]
every_method = pytest.mark.parametrize(("method", "args"), EVERY_METHOD, ids=[name for name, _ in EVERY_METHOD])


def around(hook: Any) -> dict[str, Any]:
    return {"metadata_hook": hook, "feedback_hook": hook}


@callers
@hooks
@every_method
async def test_what_a_hook_returns_is_what_the_method_returns(
    new_manager: NewManager, caller: str, kind: str, method: str, args: tuple[Any, ...]
) -> None:
    manager = new_manager(**around(made(kind, lambda f, kw: "mine")))

    assert await call(manager, caller, method, *args) == "mine"


@callers
@hooks
@every_method
async def test_a_hook_that_never_goes_on(
    new_manager: NewManager,
    stored: Stored,
    command_counter: CommandCounter,
    caller: str,
    kind: str,
    method: str,
    args: tuple[Any, ...],
) -> None:
    manager = new_manager(**around(made(kind, lambda f, kw: None)))
    before = stored()

    with command_counter.counting() as log:
        assert await call(manager, caller, method, *args) is None

    assert log.commands == []
    assert stored() == before


@callers
@hooks
@every_method
async def test_what_a_hook_raises_reaches_the_caller(
    new_manager: NewManager,
    command_counter: CommandCounter,
    caller: str,
    kind: str,
    method: str,
    args: tuple[Any, ...],
) -> None:
    refused = PermissionError("not on my watch")

    def refuse(original_func: Original, kwargs: dict[str, Any]) -> Any:
        raise refused

    manager = new_manager(**around(made(kind, refuse)))

    with command_counter.counting() as log, pytest.raises(PermissionError) as caught:
        await call(manager, caller, method, *args)

    assert caught.value is refused
    assert log.commands == []


@callers
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_what_was_stored_before_a_hook_raised_stays(
    new_manager: NewManager, stored: Stored, caller: str, asynchronous: bool
) -> None:
    def late(original_func: Original, action: str, session_id: str, **kwargs: Any) -> Any:
        original_func()
        raise RuntimeError("too late")

    async def late_coroutine(original_func: Original, action: str, session_id: str, **kwargs: Any) -> Any:
        await original_func()
        raise RuntimeError("too late")

    manager = new_manager(metadata_hook=late_coroutine if asynchronous else late)

    with pytest.raises(RuntimeError, match="too late"):
        await call(manager, caller, "update_metadata", {"a": 1})

    assert stored()["metadata"] == {"a": 1}


@callers
@hooks
async def test_errors_of_the_operation_pass_through_a_hook(new_manager: NewManager, caller: str, kind: str) -> None:
    manager = new_manager(**around(made(kind, go_on)))

    for method, args, error in (
        ("update_metadata", ({"$a": 1},), ValueError),
        ("update_metadata", (None,), TypeError),
        ("update_metadata", ({"a": {1}},), UnstorableValueError),
        ("delete_metadata", ("a",), TypeError),
        ("add_feedback", (None,), TypeError),
    ):
        with pytest.raises(error):
            await call(manager, caller, method, *args)
    manager.delete_session()
    with pytest.raises(SessionNotFoundError):
        await call(manager, caller, "get_metadata")


@callers
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_hook_may_go_on_twice(new_manager: NewManager, caller: str, asynchronous: bool) -> None:
    def twice(original_func: Original, action: str, session_id: str, **kwargs: Any) -> None:
        original_func()
        original_func({"rating": "second"})

    async def twice_coroutine(original_func: Original, action: str, session_id: str, **kwargs: Any) -> None:
        await original_func()
        await original_func({"rating": "second"})

    manager = new_manager(feedback_hook=twice_coroutine if asynchronous else twice)

    await call(manager, caller, "add_feedback", {"rating": "first"})

    assert [feedback["rating"] for feedback in manager.get_feedbacks()] == ["first", "second"]


@hooks
def test_outside_of_any_event_loop(new_manager: NewManager, kind: str) -> None:
    manager = new_manager(**around(made(kind, go_on)))

    manager.update_metadata({"a": 1, "b": 2})
    manager.delete_metadata(["a"])
    manager.add_feedback({"rating": "up"})

    assert manager.get_metadata() == {"metadata": {"b": 2}}
    assert len(manager.get_feedbacks()) == 1


@hooks
def test_on_mongomock(kind: str) -> None:
    client: Any = mongomock.MongoClient()
    manager = MongoDBSessionManager("s-1", client=client, **around(made(kind, lambda f, kw: f(**kw))))

    manager.update_metadata({"a": 1})
    manager.add_feedback({"rating": "up"})

    assert manager.get_metadata() == {"metadata": {"a": 1}}
    assert len(manager.get_feedbacks()) == 1


@callers
async def test_a_call_through_a_hook_is_one_operation(
    new_manager: NewManager, command_counter: CommandCounter, caller: str
) -> None:
    manager = new_manager(**around([made("function", go_on), made("coroutine", go_on)]))

    for method, args in EVERY_METHOD:
        with command_counter.counting() as log:
            await call(manager, caller, method, *args)
        assert len(log.commands) == 1


# Copies


@callers
@hooks
async def test_hooks_get_copies(new_manager: NewManager, stored: Stored, caller: str, kind: str) -> None:
    def spoil(original_func: Original, kwargs: dict[str, Any]) -> Any:
        for given in kwargs.values():
            if isinstance(given, list):
                given.clear()
            elif isinstance(given, dict):
                given["nested"].append("spoilt")
                given["more"] = "spoilt"
        return original_func()

    manager = new_manager(**around(made(kind, spoil)))
    metadata, keys, feedback = {"nested": [1]}, ["nested"], {"nested": [1]}

    await call(manager, caller, "update_metadata", metadata)
    assert stored()["metadata"] == metadata == {"nested": [1]}

    await call(manager, caller, "add_feedback", feedback)
    assert manager.get_feedbacks()[0]["nested"] == [1]
    assert feedback == {"nested": [1]}

    await call(manager, caller, "delete_metadata", keys)
    assert stored()["metadata"] == {}
    assert keys == ["nested"]


@pytest.mark.parametrize(
    "keys", [{"a": 1}.keys(), (key for key in ("a",)), ("a",), {"a"}, iter(["a"])], ids=lambda k: type(k).__name__
)
@pytest.mark.parametrize("hooked", [False, True])
def test_keys_of_any_iterable(new_manager: NewManager, stored: Stored, keys: Any, hooked: bool) -> None:
    keys = (key for key in ("a",)) if inspect.isgenerator(keys) else keys
    keys = iter(["a"]) if hasattr(keys, "__length_hint__") else keys
    new_manager().update_metadata({"a": 1, "b": 2})
    manager = new_manager(metadata_hook=made("function", lambda f, kw: f(**kw)) if hooked else None)

    manager.delete_metadata(keys)

    assert stored()["metadata"] == {"b": 2}


@pytest.mark.parametrize("hooked", [False, True])
def test_any_mapping(new_manager: NewManager, stored: Stored, hooked: bool) -> None:
    hook = made("function", lambda f, kw: f(**kw)) if hooked else None
    manager = new_manager(metadata_hook=hook, feedback_hook=hook)

    manager.update_metadata(MappingProxyType({"a": 1}))
    manager.add_feedback(MappingProxyType({"rating": "up"}))

    assert stored()["metadata"] == {"a": 1}
    assert manager.get_feedbacks()[0]["rating"] == "up"


ENDLESS: list[Any] = []
ENDLESS.append(ENDLESS)


@pytest.mark.parametrize("hooked", [False, True])
@pytest.mark.parametrize("value", [threading.Lock(), ENDLESS], ids=["lock", "endless"])
def test_a_value_that_cannot_be_copied_is_told_as_one_that_cannot_be_stored(
    new_manager: NewManager, hooked: bool, value: Any
) -> None:
    hook = made("function", go_on) if hooked else None
    manager = new_manager(metadata_hook=hook, feedback_hook=hook)

    with pytest.raises(UnstorableValueError, match="'s-1'"):
        manager.update_metadata({"bad": value})
    with pytest.raises(UnstorableValueError, match="'s-1'"):
        manager.add_feedback({"bad": value})


# Lists


@callers
@pytest.mark.parametrize(
    "kinds",
    [
        ("function", "function", "function"),
        ("coroutine", "coroutine", "coroutine"),
        ("function", "coroutine", "function"),
        ("coroutine", "function", "coroutine"),
        ("async object", "object", "async partial"),
    ],
    ids="-".join,
)
@pytest.mark.parametrize("as_list", [list, tuple])
async def test_the_first_of_a_list_is_the_outermost(
    new_manager: NewManager, stored: Stored, caller: str, kinds: tuple[str, ...], as_list: type
) -> None:
    order: list[str] = []

    def adding(name: str) -> Form:
        def form(original_func: Original, kwargs: dict[str, Any]) -> Any:
            order.append(name)
            return original_func({"by": [*kwargs["metadata"]["by"], name]})

        return form

    chain = as_list(made(kind, adding(name)) for kind, name in zip(kinds, "abc", strict=True))
    manager = new_manager(metadata_hook=chain)

    await call(manager, caller, "update_metadata", {"by": []})

    assert order == ["a", "b", "c"]
    assert stored()["metadata"] == {"by": ["a", "b", "c"]}


@callers
@pytest.mark.parametrize("outer", ["function", "coroutine"])
@pytest.mark.parametrize("inner", ["function", "coroutine"])
async def test_an_outer_hook_sees_what_an_inner_one_returns_and_raises(
    new_manager: NewManager, stored: Stored, caller: str, outer: str, inner: str
) -> None:
    def answer(original_func: Original, kwargs: dict[str, Any]) -> Any:
        if kwargs.get("metadata") == {"bad": 1}:
            raise ValueError("bad")
        return "inner"

    def function(original_func: Original, action: str, session_id: str, **kwargs: Any) -> Any:
        try:
            return f"outer of {original_func()}"
        except ValueError as error:
            return f"outer of an error: {error}"

    async def coroutine(original_func: Original, action: str, session_id: str, **kwargs: Any) -> Any:
        try:
            return f"outer of {await original_func()}"
        except ValueError as error:
            return f"outer of an error: {error}"

    outermost = function if outer == "function" else coroutine
    manager = new_manager(metadata_hook=[outermost, made(inner, answer)])

    assert await call(manager, caller, "get_metadata") == "outer of inner"
    await call(manager, caller, "update_metadata", {"bad": 1})
    assert stored()["metadata"] == {}


@pytest.mark.parametrize("none", [None, [], ()], ids=repr)
def test_no_hooks(new_manager: NewManager, none: Any) -> None:
    manager = new_manager(**around(none))

    manager.update_metadata({"a": 1})

    assert manager.get_metadata() == {"metadata": {"a": 1}}


# Threads and event loops


async def test_coroutines_run_on_the_callers_loop_and_functions_off_it(new_manager: NewManager) -> None:
    here = threading.current_thread(), asyncio.get_running_loop()
    seen: list[tuple[threading.Thread, Any]] = []

    async def coroutine(original_func: Original, action: str, session_id: str, **kwargs: Any) -> Any:
        seen.append((threading.current_thread(), asyncio.get_running_loop()))
        return await original_func()

    def function(original_func: Original, action: str, session_id: str, **kwargs: Any) -> Any:
        seen.append((threading.current_thread(), None))
        return original_func()

    manager = new_manager(**around([coroutine, coroutine, function]))

    for method, args in EVERY_METHOD:
        seen.clear()
        await call(manager, "async", method, *args)
        assert seen[:2] == [here, here]
        assert seen[2][0] is not here[0]


async def test_a_blocking_hook_does_not_block_the_loop(new_manager: NewManager) -> None:
    release = threading.Event()

    def function(original_func: Original, action: str, session_id: str, **kwargs: Any) -> Any:
        assert release.wait(5)
        return original_func()

    manager = new_manager(metadata_hook=function)

    updating = asyncio.create_task(manager.aupdate_metadata({"a": 1}))
    await asyncio.sleep(0.02)
    assert not updating.done()
    release.set()
    await updating

    assert manager.session_repository.get_metadata("s-1") == {"metadata": {"a": 1}}


async def test_a_sync_caller_waits_for_a_coroutine(new_manager: NewManager, stored: Stored) -> None:
    async def slow(original_func: Original, action: str, session_id: str, **kwargs: Any) -> Any:
        await asyncio.sleep(0.02)
        result = await original_func()
        await asyncio.sleep(0.02)
        return result

    new_manager(metadata_hook=slow).update_metadata({"a": 1})

    assert stored()["metadata"] == {"a": 1}


@callers
@pytest.mark.parametrize("kind", ["function", "coroutine"])
async def test_hooks_see_the_callers_context(new_manager: NewManager, caller: str, kind: str) -> None:
    request_id.set("r-17")
    seen: list[str] = []

    def note(original_func: Original, kwargs: dict[str, Any]) -> Any:
        seen.append(request_id.get())
        return original_func()

    manager = new_manager(metadata_hook=[made(kind, note), made("function", note)])

    await call(manager, caller, "update_metadata", {"a": 1})

    assert seen == ["r-17", "r-17"]


request_id = contextvars.ContextVar("request_id", default="lost")


async def test_a_hook_may_use_the_manager(new_manager: NewManager) -> None:
    async def count(original_func: Original, action: str, session_id: str, **kwargs: Any) -> Any:
        await original_func()
        manager: MongoDBSessionManager = kwargs["session_manager"]
        feedbacks = await manager.aget_feedbacks()
        await manager.aupdate_metadata({"feedbacks": len(feedbacks)})

    manager = new_manager(feedback_hook=count)

    await asyncio.gather(*(manager.aadd_feedback({"rating": "up"}) for _ in range(5)))
    manager.add_feedback({"rating": "down"})

    assert manager.get_metadata() == {"metadata": {"feedbacks": 6}}


# Construction


@dataclass
class Bound:
    """A hook as users write them, with fields of its own; dataclasses are not hashable."""

    managers: list[Any] = field(default_factory=list)

    def bind(self, session_manager: MongoDBSessionManager) -> None:
        self.managers.append(session_manager)

    def __call__(self, original_func: Original, action: str, session_id: str, **kwargs: Any) -> Any:
        return original_func()


class HashableBound(Bound):
    __hash__ = object.__hash__


@pytest.mark.parametrize("kind", [Bound, HashableBound])
def test_each_hook_is_bound_once(new_manager: NewManager, kind: type[Bound]) -> None:
    first, second, both = kind(), kind(), kind()

    manager = new_manager(metadata_hook=[first, both, both], feedback_hook=(both, second))
    manager.update_metadata({"a": 1})

    assert [first.managers, second.managers, both.managers] == [[manager]] * 3
    new_manager(metadata_hook=first)
    assert len(first.managers) == 2


def test_a_hook_can_read_the_session_when_it_is_bound(new_manager: NewManager) -> None:
    found: list[Any] = []

    class Reader(HashableBound):
        def bind(self, session_manager: MongoDBSessionManager) -> None:
            found.append(session_manager.session_repository.get_metadata(session_manager.session_id))
            found.append(session_manager.get_application_name())

        def __call__(self, original_func: Original, action: str, session_id: str, **kwargs: Any) -> Any:
            raise AssertionError("reading did not go through the hook")

    new_manager(application_name="shop").update_metadata({"a": 1})

    new_manager(metadata_hook=Reader())

    assert found == [{"metadata": {"a": 1}}, "shop"]


@pytest.mark.parametrize("hook", [42, "print", ..., [print, 42], ["print"], True], ids=str)
@pytest.mark.parametrize("name", ["metadata_hook", "feedback_hook"])
def test_what_cannot_be_called_is_refused_before_anything_is_written(
    new_manager: NewManager, stored: Callable[[], Any], name: str, hook: Any
) -> None:
    with pytest.raises(TypeError, match=name):
        new_manager(**{name: hook})

    assert stored() is None


def test_a_client_of_its_own_is_closed_when_a_hook_is_refused(new_manager: NewManager, mongodb_uri: str) -> None:
    pools: list[str] = []

    class Pools(ConnectionPoolListener):
        def __getattribute__(self, name: str) -> Any:
            return (
                (lambda event: pools.append(name))
                if name.startswith(("pool_", "connection_"))
                else object.__getattribute__(self, name)
            )

    with pytest.raises(TypeError, match="metadata_hook"):
        new_manager(connection_string=mongodb_uri, metadata_hook=42, event_listeners=[Pools()])

    assert ("pool_closed" in pools) == ("pool_created" in pools)


def by_class(client: Client, database: str, **options: Any) -> MongoDBSessionManager:
    return MongoDBSessionManager("s-1", client=client, database_name=database, **options)


def by_function(client: Client, database: str, **options: Any) -> MongoDBSessionManager:
    return create_mongodb_session_manager("s-1", client=client, database_name=database, **options)


def by_factory(client: Client, database: str, **options: Any) -> MongoDBSessionManager:
    return MongoDBSessionManagerFactory(client=client, database_name=database).create_session_manager("s-1", **options)


def by_factory_default(client: Client, database: str, **options: Any) -> MongoDBSessionManager:
    return MongoDBSessionManagerFactory(client=client, database_name=database, **options).create_session_manager("s-1")


every_way = pytest.mark.parametrize("make", [by_class, by_function, by_factory, by_factory_default])


@every_way
def test_hooks_are_taken_everywhere(mongo_client: Client, database: str, make: Callable[..., Any]) -> None:
    seen: list[Any] = []

    with make(mongo_client, database, **around(made("function", go_on, seen))) as manager:
        manager.update_metadata({"a": 1})
        manager.add_feedback({"rating": "up"})

    assert [action for action, *_ in seen] == ["update", "add"]


@every_way
def test_the_old_spellings_work_and_warn_their_user(
    mongo_client: Client, database: str, make: Callable[..., Any]
) -> None:
    seen: list[Any] = []
    hook = made("function", go_on, seen)

    with pytest.warns(DeprecationWarning, match=r"metadataHook|feedbackHook") as warned:
        manager = make(mongo_client, database, metadataHook=hook, feedbackHook=hook)
    with manager:
        manager.update_metadata({"a": 1})
        manager.add_feedback({"rating": "up"})

    assert [action for action, *_ in seen] == ["update", "add"]
    assert len(warned) == 2
    assert {warning.filename for warning in warned} == {__file__}


@every_way
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("old", "new"), [("metadataHook", "metadata_hook"), ("feedbackHook", "feedback_hook")])
def test_both_spellings_at_once_are_refused(
    mongo_client: Client, database: str, stored: Callable[[], Any], make: Callable[..., Any], old: str, new: str
) -> None:
    with pytest.raises(TypeError, match=f"{new}.*{old}"):
        make(mongo_client, database, **{old: print, new: print})

    assert stored() is None


def test_methods_stay_methods(new_manager: NewManager) -> None:
    manager = new_manager(**around(made("function", go_on)))

    for method, _ in EVERY_METHOD:
        assert method not in vars(manager)
        assert inspect.ismethod(getattr(manager, method))


def test_methods_can_be_overridden(mongo_client: Client, database: str, stored: Stored) -> None:
    class Mine(MongoDBSessionManager):
        def update_metadata(self, metadata: Any) -> None:
            super().update_metadata({**metadata, "mine": True})

    with Mine("s-1", client=mongo_client, database_name=database, **around(made("function", go_on))) as manager:
        manager.get_metadata_tool()(action="set", metadata={"a": 1})

    assert stored()["metadata"] == {"a": 1, "mine": True}


def test_the_protocols_name_what_users_write() -> None:
    def function(original_func: Callable[..., Any], action: str, session_id: str, **kwargs: Any) -> Any:
        return original_func()

    class Object:
        async def __call__(self, original_func: Callable[..., Any], action: str, session_id: str, **kwargs: Any) -> Any:
            return await original_func()

    # For the type checker.
    of_metadata: list[MetadataHook] = [function, Object()]
    of_feedback: list[FeedbackHook] = [function, Object()]
    assert len(of_metadata) == len(of_feedback)
