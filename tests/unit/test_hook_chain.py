"""The chain of hooks by itself: what it accepts, what each hook is given, and what comes back."""

import asyncio
import functools
import threading
from collections.abc import Callable
from typing import Any
from unittest.mock import MagicMock

import pytest

from mongodb_session_manager._session.hook_chain import HookChain, as_hooks
from tests.aliases import Original


class Callback:
    def __call__(self, *args: Any, **kwargs: Any) -> str:
        return "called"


class IterableCallback(Callback):
    def __iter__(self) -> Any:
        raise AssertionError("a hook is called, not gone through")


async def coroutine(original_func: Original, action: str, session_id: str, **kwargs: Any) -> Any:
    return await original_func()


def function(original_func: Original, action: str, session_id: str, **kwargs: Any) -> Any:
    return original_func()


def echo(**own: Any) -> dict[str, Any]:
    """An operation that tells what it was given."""
    return own


async def in_thread(call: Callable[[], Any]) -> Any:
    return await asyncio.to_thread(call)


# What counts as hooks


CALLBACK, ITERABLE = Callback(), IterableCallback()


@pytest.mark.parametrize(
    ("given", "hooks"),
    [
        (None, ()),
        ([], ()),
        ((), ()),
        (print, (print,)),
        (CALLBACK, (CALLBACK,)),
        (ITERABLE, (ITERABLE,)),
        ([print, CALLBACK], (print, CALLBACK)),
        ((print, print), (print, print)),
        (iter([print, len]), (print, len)),
    ],
)
def test_hooks(given: Any, hooks: tuple[Any, ...]) -> None:
    assert as_hooks(given, "metadata_hook") == hooks


@pytest.mark.parametrize("given", [42, "print", b"x", ..., [print, None], [[print]], True, 0, False], ids=repr)
def test_what_is_no_hook(given: Any) -> None:
    with pytest.raises(TypeError, match=r"metadata_hook.*callable"):
        as_hooks(given, "metadata_hook")


class Bound(Callback):
    given_as = "feedback_hook"


@pytest.mark.parametrize("given", [Callback, [print, Callback]])
def test_a_class_of_hooks_is_no_hook(given: Any) -> None:
    with pytest.raises(TypeError, match="metadata_hook must be an instance of Callback, got the class"):
        as_hooks(given, "metadata_hook")


def test_a_class_that_is_called_as_a_function_is_a_hook() -> None:
    assert as_hooks(dict, "metadata_hook") == (dict,)


@pytest.mark.parametrize("given", [Bound(), [print, Bound()]])
def test_a_hook_of_the_other_argument(given: Any) -> None:
    with pytest.raises(TypeError, match=r"metadata_hook got a Bound.*pass it as feedback_hook="):
        as_hooks(given, "metadata_hook")

    assert as_hooks(given, "feedback_hook")


@pytest.mark.parametrize("name", ["metadata_hook", "feedback_hook"])
def test_a_mock_is_a_hook_of_either(name: str) -> None:
    mock = MagicMock()
    assert as_hooks(mock, name) == (mock,)


# What original_func accepts


@pytest.mark.parametrize(
    ("own", "args", "kwargs", "expected"),
    [
        ({"metadata": 1}, (), {}, {"metadata": 1}),
        ({"metadata": 1}, (2,), {}, {"metadata": 2}),
        ({"metadata": 1}, (), {"metadata": 2}, {"metadata": 2}),
        ({"metadata": 1}, (2, None), {}, {"metadata": 2}),
        ({"metadata": 1}, (), {"metadata": 2, "keys": None}, {"metadata": 2}),
        ({"metadata": 1}, (), {"session_manager": 3}, {"metadata": 1}),
        ({"metadata": 1}, (2,), {"session_manager": 3}, {"metadata": 2}),
        ({"keys": 1}, (), {}, {"keys": 1}),
        ({"keys": 1}, (2,), {}, {"keys": 2}),
        ({"keys": 1}, (), {"keys": 2}, {"keys": 2}),
        ({"keys": 1}, (None, 2), {}, {"keys": 2}),
        ({"keys": 1}, (), {"metadata": None, "keys": 2}, {"keys": 2}),
        ({"feedback": 1}, (), {}, {"feedback": 1}),
        ({"feedback": 1}, (2,), {}, {"feedback": 2}),
        ({"feedback": 1}, (), {"feedback": 2, "session_manager": 3}, {"feedback": 2}),
        ({}, (), {}, {}),
        ({}, (None,), {}, {}),
        ({}, (None, None), {}, {}),
        ({}, (), {"metadata": None, "keys": None}, {}),
    ],
)
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_forms(own: Any, args: Any, kwargs: Any, expected: Any, asynchronous: bool) -> None:
    def sync_hook(original_func: Original, *_: Any, **__: Any) -> Any:
        return original_func(*args, **kwargs)

    async def async_hook(original_func: Original, *_: Any, **__: Any) -> Any:
        return await original_func(*args, **kwargs)

    chain = HookChain((async_hook if asynchronous else sync_hook,), "s-1")

    assert chain.call(echo, "do", **own) == expected
    assert await chain.acall(echo, in_thread, "do", **own) == expected


@pytest.mark.parametrize("own", [{"metadata": 1}, {"keys": 1}, {"feedback": 1}], ids=str)
def test_too_many_arguments(own: dict[str, Any]) -> None:
    chain = HookChain((lambda original_func, *_, **__: original_func(1, 2, 3),), "s-1")

    with pytest.raises(TypeError, match=rf"{next(iter(own))}.*3 arguments"):
        chain.call(echo, "do", **own)


# What hooks are given


@pytest.mark.parametrize("hooks", [(), (function,), (coroutine,), (function, coroutine), (coroutine, function)])
async def test_the_operation_is_reached(hooks: Any) -> None:
    chain = HookChain(hooks, "s-1")

    assert chain.call(echo, "do", metadata={"a": 1}) == {"metadata": {"a": 1}}
    assert await chain.acall(echo, in_thread, "do", metadata={"a": 1}) == {"metadata": {"a": 1}}


def test_each_hook_gets_a_copy_of_what_the_one_before_passed_on() -> None:
    seen: list[Any] = []
    passed = {"by": ["outer"]}

    def outer(original_func: Original, action: str, session_id: str, **kwargs: Any) -> Any:
        seen.append((action, session_id, kwargs))
        return original_func(passed)

    def inner(original_func: Original, action: str, session_id: str, **kwargs: Any) -> Any:
        seen.append((action, session_id, kwargs))
        assert kwargs["metadata"] is not passed
        kwargs["metadata"]["by"].append("spoilt")
        return original_func()

    chain = HookChain((outer, inner), "s-1", session_manager="manager")

    assert chain.call(echo, "update", metadata={"by": []}) == {"metadata": {"by": ["outer"]}}
    assert seen == [
        ("update", "s-1", {"metadata": {"by": []}, "session_manager": "manager"}),
        ("update", "s-1", {"metadata": {"by": ["outer", "spoilt"]}, "session_manager": "manager"}),
    ]


def test_the_context_is_passed_as_it_is() -> None:
    lock = threading.Lock()
    seen: list[Any] = []
    chain = HookChain((lambda f, a, s, **kwargs: seen.append(kwargs["session_manager"]),), "s-1", session_manager=lock)

    chain.call(echo, "add", feedback={})

    assert seen == [lock]


# What comes back


async def test_a_coroutine_that_forgets_to_await_is_awaited() -> None:
    async def forgetful(original_func: Original, *_: Any, **__: Any) -> Any:
        return original_func()

    chain = HookChain((forgetful,), "s-1")

    assert chain.call(echo, "do", keys=[1]) == {"keys": [1]}
    assert await chain.acall(echo, in_thread, "do", keys=[1]) == {"keys": [1]}


async def test_a_function_that_returns_a_coroutine_is_awaited() -> None:
    async def later() -> str:
        await asyncio.sleep(0)
        return "later"

    chain = HookChain((lambda *_, **__: later(),), "s-1")

    assert chain.call(echo, "do") == "later"
    assert await chain.acall(echo, in_thread, "do") == "later"


@pytest.mark.parametrize(
    ("wrapped", "expected"),
    [(functools.partial(coroutine), {"keys": [1]}), (Callback().__call__, "called")],
    ids=["partial", "method"],
)
async def test_wrapped_hooks(wrapped: Any, expected: Any) -> None:
    chain = HookChain((wrapped,), "s-1")

    assert chain.call(echo, "do", keys=[1]) == expected
    assert await chain.acall(echo, in_thread, "do", keys=[1]) == expected


@pytest.mark.parametrize("hooks", [(coroutine,), (function, coroutine), (coroutine, function), (coroutine,) * 3])
@pytest.mark.parametrize("error", [ValueError("bad"), KeyError("x"), StopIteration()], ids=repr)
async def test_errors_come_back_as_they_are(hooks: Any, error: Exception) -> None:
    def fail(**own: Any) -> Any:
        raise error

    chain = HookChain(hooks, "s-1")
    if isinstance(error, StopIteration):
        # Python turns it into a RuntimeError on its way out of a coroutine.
        with pytest.raises(RuntimeError):
            chain.call(fail, "do")
        return

    with pytest.raises(type(error)) as caught:
        chain.call(fail, "do")
    assert caught.value is error
    with pytest.raises(type(error)) as caught:
        await chain.acall(fail, in_thread, "do")
    assert caught.value is error


def test_chains_are_used_from_many_threads_at_once() -> None:
    chain = HookChain((coroutine, function), "s-1")
    found: list[Any] = []

    def run(number: int) -> None:
        found.append(chain.call(echo, "do", keys=number)["keys"])

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert sorted(found) == list(range(8))


# What a hook takes


def plain(original_func: Original, action: str, session_id: str, metadata: Any = None) -> Any:
    return original_func()


def by_name(original_func: Original, action: str, session_id: str, *, session_manager: Any, metadata: Any) -> Any:
    return session_manager


def by_kwargs(original_func: Original, action: str, session_id: str, **kwargs: Any) -> Any:
    return kwargs.get("session_manager")


def wrapping(hook: Any) -> Any:
    @functools.wraps(hook)
    def outer(*args: Any, **kwargs: Any) -> Any:
        return hook(*args, **kwargs)

    return outer


def narrowly_wrapping(hook: Any) -> Any:
    @functools.wraps(hook)
    def outer(original_func: Original, action: str, session_id: str, metadata: Any = None) -> Any:
        return hook(original_func, action, session_id, metadata=metadata)

    return outer


class Hooks:
    def __call__(self, original_func: Original, action: str, session_id: str, **kwargs: Any) -> Any:
        return kwargs.get("session_manager")

    def method(self, original_func: Original, action: str, session_id: str, metadata: Any, session_manager: Any) -> Any:
        return session_manager


@pytest.mark.parametrize(
    ("hook", "given"),
    [
        (plain, None),
        (by_name, "manager"),
        (by_kwargs, "manager"),
        (Hooks(), "manager"),
        (Hooks().method, "manager"),
        (functools.partial(by_kwargs), "manager"),
        (wrapping(by_kwargs), "manager"),
        (wrapping(plain), None),
        (wrapping(wrapping(plain)), None),
        (narrowly_wrapping(by_kwargs), None),
    ],
)
def test_what_is_offered_goes_to_those_that_take_it(hook: Any, given: Any) -> None:
    chain = HookChain((hook,), "s-1", {"session_manager": "manager"})

    result = chain.call(lambda metadata: None, "update", metadata={})

    assert result == given
