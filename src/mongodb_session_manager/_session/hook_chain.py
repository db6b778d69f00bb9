"""Calls users' hooks around an operation, each with an ``original_func`` that goes one hook further in."""

import asyncio
import contextvars
import functools
import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

from .._client.off_loop import run_in_thread

Hook: TypeAlias = Callable[..., Any]
Operation: TypeAlias = Callable[..., Any]
OffLoop: TypeAlias = Callable[[Callable[[], Any]], Awaitable[Any]]
Own: TypeAlias = Mapping[str, Any]
# Called with the values to store, after all hooks; the record that it returns is stored in the same write.
Watcher: TypeAlias = Callable[[Any], Mapping[str, Any] | None]
Watchers: TypeAlias = tuple[Watcher, ...]

# The arguments of operations, in the order in which hooks pass them by position.
_NAMES = ("metadata", "keys")


def as_hooks(hook: Hook | Iterable[Hook] | None, name: str) -> tuple[Hook, ...]:
    """Return the hooks of one argument, outermost first.

    Raises:
        TypeError: One of them is not callable, is a class whose instances are hooks, or belongs to another argument.
    """
    if hook is None:
        return ()
    hooks = tuple(hook) if isinstance(hook, Iterable) and not callable(hook) else (hook,)
    for each in hooks:
        _check(each, name)
    return hooks


def _check(hook: Any, name: str) -> None:
    if not callable(hook):
        raise TypeError(f"{name} must be a callable or a list of callables, got {type(hook).__name__}")
    if isinstance(hook, type) and "__call__" in dir(hook):  # the class itself has it of its metaclass
        raise TypeError(f"{name} must be an instance of {hook.__name__}, got the class")
    belongs_to = getattr(hook, "given_as", name)
    if isinstance(belongs_to, str) and belongs_to != name:
        raise TypeError(f"{name} got a {type(hook).__name__}, which would never be told: pass it as {belongs_to}=")


class HookChain:
    """The hooks around the operations of one session.

    Args:
        hooks: The first is the outermost.
        session_id: Passed to each hook.
        offered: Further keyword arguments, for hooks that take them.
        **context: Further keyword arguments for each hook.
    """

    def __init__(self, hooks: tuple[Hook, ...], session_id: str, offered: Own | None = None, **context: Any) -> None:
        self._hooks, self._session_id = hooks, session_id
        self._contexts = [{**context, **_taken(hook, offered or {})} for hook in hooks]

    def call(self, operation: Operation, action: str, **own: Any) -> Any:
        """Run an operation with its argument, by keyword, through all hooks; a coroutine hook runs to its end."""
        return self._call(0, operation, action, own, ())

    async def acall(self, operation: Operation, off_loop: OffLoop, action: str, **own: Any) -> Any:
        """Do the same from an event loop: coroutine hooks run on it, everything else off it."""
        return await self._acall(0, operation, off_loop, action, own, ())

    def _call(self, index: int, operation: Operation, action: str, own: Own, watchers: Watchers) -> Any:
        if index == len(self._hooks):
            return _performed(operation, own, watchers)

        def original_func(*args: Any, on_store: Watcher | None = None, **kwargs: Any) -> Any:
            given = _arguments(own, args, kwargs)
            return self._call(index + 1, operation, action, given, _with(watchers, on_store))

        async def awaitable(*args: Any, **kwargs: Any) -> Any:
            return _unwrapped(await run_in_thread(lambda: _outcome(lambda: original_func(*args, **kwargs))))

        is_coroutine = _is_coroutine(self._hooks[index])
        result = self._invoke(index, awaitable if is_coroutine else original_func, action, own)
        return _finished(result) if inspect.isawaitable(result) else result

    async def _acall(
        self, index: int, operation: Operation, off_loop: OffLoop, action: str, own: Own, watchers: Watchers
    ) -> Any:
        if index == len(self._hooks) or not _is_coroutine(self._hooks[index]):
            rest = functools.partial(self._call, index, operation, action, own, watchers)
            return _unwrapped(await off_loop(lambda: _outcome(rest)))

        async def original_func(*args: Any, on_store: Watcher | None = None, **kwargs: Any) -> Any:
            given = _arguments(own, args, kwargs)
            return await self._acall(index + 1, operation, off_loop, action, given, _with(watchers, on_store))

        result = await self._invoke(index, original_func, action, own)
        return await result if inspect.isawaitable(result) else result

    def _invoke(self, index: int, original_func: Operation, action: str, own: Own) -> Any:
        # Hooks get copies: their changes reach the operation only through original_func.
        try:
            given = {name: _copied(value) for name, value in own.items()}
        except RecursionError:  # a value that holds itself, which the operation refuses by name
            given = dict(own)
        return self._hooks[index](original_func, action, self._session_id, **given, **self._contexts[index])


def _taken(hook: Hook, offered: Own) -> dict[str, Any]:
    return {name: value for name, value in offered.items() if _takes_throughout(hook, name)}


def _takes_throughout(hook: Hook, name: str) -> bool:
    """Tell whether a hook and every hook that it wraps take a keyword argument, since it may pass it on."""
    return _takes(inspect.unwrap(hook, stop=lambda outer: not _takes(outer, name)), name)


def _takes(hook: Hook, name: str) -> bool:
    try:
        parameters = inspect.signature(hook, follow_wrapped=False).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(
        p.kind is p.VAR_KEYWORD or (p.name == name and p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD))
        for p in parameters
    )


def _performed(operation: Operation, own: Own, watchers: Watchers) -> Any:
    records = [record for watch in watchers for value in own.values() if (record := watch(value)) is not None]
    return operation(**own, outbox=records) if records else operation(**own)


def _with(watchers: Watchers, watcher: Watcher | None) -> Watchers:
    return watchers if watcher is None else (*watchers, watcher)


def _copied(value: Any) -> Any:
    """Copy mappings and lists; other values cannot be changed, or cannot be stored."""
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list | tuple) else value


def _arguments(own: Mapping[str, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the operation's argument as a hook passed it to ``original_func``, else the caller's own."""
    if not own:
        return own
    (name,) = own
    if name in kwargs:
        return {name: kwargs[name]}
    if len(args) == len(_NAMES):
        return {name: args[_NAMES.index(name)] if name in _NAMES else args[0]}
    if len(args) > len(_NAMES):
        raise TypeError(f"original_func takes {name} alone, or (metadata, keys); got {len(args)} arguments")
    return {name: args[0]} if args else own


def _is_coroutine(hook: Hook) -> bool:
    return inspect.iscoroutinefunction(hook) or inspect.iscoroutinefunction(getattr(hook, "__call__", None))  # noqa: B004


def _outcome(call: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    # A future cannot hold every exception: with StopIteration it is never done.
    try:
        return call(), None
    except BaseException as error:  # noqa: BLE001 - raised again where the future is awaited
        return None, error


def _unwrapped(outcome: tuple[Any, BaseException | None]) -> Any:
    value, error = outcome
    if error is not None:
        raise error
    return value


def _finished(result: Awaitable[Any]) -> Any:
    """Run an awaitable to its end in a new event loop, whichever thread calls."""

    async def finish() -> Any:
        value = await result
        return await value if inspect.isawaitable(value) else value

    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(contextvars.copy_context().run, asyncio.run, finish()).result()
