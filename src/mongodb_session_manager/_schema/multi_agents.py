"""The state of a Graph or Swarm <-> its stored form; pure functions, no I/O.

The stored form is the result of ``serialize_state()``, with bytes instead of the SDK's base64: ``encoded`` lists which
of all bytes these are, as numbers in the order of the fields. ``inner`` holds the states of orchestrators that were
interrupted inside of it, which the SDK leaves out, each with its path: the ids of the nodes that lead to it.
"""

import base64
import binascii
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from strands import Agent
from strands.agent.state import AgentState
from strands.multiagent.base import MultiAgentBase, Status
from strands.multiagent.graph import Graph
from strands.multiagent.swarm import Swarm

from .._override import override
from ..errors import MongoDBSessionError
from .messages import check_complete, without_odd_figures
from .values import Stored, decode, encode

_MARK = "__bytes_encoded__"
# The codec refuses deeper values.
_MAX_DEPTH = 256
_NODES = ("next_nodes_to_execute", "completed_nodes", "failed_nodes", "interrupted_nodes", "node_history")

Path = tuple[str, ...]


@dataclass(frozen=True)
class MultiAgentState:
    """A captured state, in its stored form.

    Attributes:
        multi_agent_id: The Graph or Swarm.
        fields: ``state``, and ``inner`` and ``encoded`` where there are any.
        is_activated: Whether an interrupt was raised, and the run that its answer started is not done.
        waits: Whether the run has stopped for the answer to an interrupt.
    """

    multi_agent_id: str
    fields: Stored = field(repr=False)
    is_activated: bool = False
    waits: bool = False


class StoredState(dict[str, Any]):
    """A serialised state, with the states of orchestrators interrupted inside of it, outer before inner.

    Attributes:
        inner: Their states by path.
    """

    def __init__(self, state: Mapping[str, Any], inner: Mapping[Path, dict[str, Any]]) -> None:
        super().__init__(state)
        self.inner = dict(inner)


def multi_agent_label(session_id: str, multi_agent_id: object) -> str:
    """Return the label of a Graph or Swarm for an error."""
    return f"Multi-agent {multi_agent_id!r} of session {session_id!r}"


def capture_multi_agent(session_id: str, source: MultiAgentBase) -> MultiAgentState:
    """Return a copy of a source's state, which later changes of the source do not reach.

    Raises:
        UnstorableValueError: It holds something that would not come back equal.
    """
    (_, state, live), *inner = _states(source)
    fields = _fields(multi_agent_label(session_id, source.id), state, live, inner)
    waits = state.get("status") == Status.INTERRUPTED.value
    return MultiAgentState(source.id, fields, bool(_interrupts(state).get("activated")), waits)


def encode_multi_agent(session_id: str, multi_agent_id: str, state: Mapping[str, Any]) -> MultiAgentState:
    """Return the stored form of a serialised state.

    Raises:
        UnstorableValueError: It holds something that would not come back equal.
    """
    inside = state.inner.items() if isinstance(state, StoredState) else ()
    inner = [(path, inner_state, None) for path, inner_state in inside]
    fields = _fields(multi_agent_label(session_id, multi_agent_id), dict(state), None, inner)
    return MultiAgentState(multi_agent_id, fields, waits=state.get("status") == Status.INTERRUPTED.value)


_State = tuple[Path, dict[str, Any], Any]


def _states(source: MultiAgentBase, path: Path = ()) -> Iterator[_State]:
    """Serialise a source and the orchestrators interrupted inside of it, outer before inner; with their live values."""
    state = source.serialize_state()
    yield path, state, _live(source, state)
    for node_id, executor in _interrupted(source, state):
        if isinstance(executor, MultiAgentBase):
            with suppress(NotImplementedError):  # an orchestrator of the user's own, without a state
                yield from _states(executor, (*path, node_id))


def _interrupted(source: MultiAgentBase, state: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the nodes that were interrupted while they ran: their ids and executors."""
    nodes = getattr(source, "nodes", {})
    for node_id in sorted(state.get("interrupted_nodes") or (), key=str):
        if not _node_context(state, node_id).get("from_hook"):
            yield node_id, getattr(nodes.get(node_id), "executor", None)


def _node_context(state: Mapping[str, Any], node_id: str) -> dict[str, Any]:
    # The SDK keeps lists in the same dict, under names that a node may have too.
    found = _interrupts(state).get("context", {}).get(node_id)
    return found if isinstance(found, dict) else {}


def _interrupts(state: Mapping[str, Any]) -> dict[str, Any]:
    found = (state.get("_internal_state") or {}).get("interrupt_state")
    return found if isinstance(found, dict) else {}


def _live(source: MultiAgentBase, state: dict[str, Any]) -> Any:
    """Return the values before the SDK serialised them: bytes among them were encoded."""
    if not isinstance(source, Graph | Swarm):
        return None
    run = source.state
    return {**state, "current_task": run.task, "node_results": _live_results(run.results)}


def _live_results(results: Mapping[str, Any] | None) -> dict[str, Any]:
    live = {}
    for node_id, node in (results or {}).items():
        inner = getattr(node.result, "results", None)
        result = {"message": getattr(node.result, "message", None)}
        live[node_id] = {"result": result if inner is None else {"results": _live_results(inner)}}
    return live


def _fields(label: str, state: dict[str, Any], live: Any, inner: Sequence[_State]) -> Stored:
    try:
        return _encoded(label, state, live, inner)
    except Exception:  # noqa: BLE001 - figures may be anything, and cost no more than themselves
        rest = [(path, without_odd_figures(inner_state, label), inner_live) for path, inner_state, inner_live in inner]
        return _encoded(label, without_odd_figures(state, label), live, rest)


def _encoded(label: str, state: dict[str, Any], live: Any, inner: Sequence[_State]) -> Stored:
    bytes_out = _BytesOut()
    fields = {"state": encode(bytes_out.of(state, live), f"{label}, state")}
    found = []
    for path, inner_state, inner_live in inner:
        inside = f"{label}, state inside {'/'.join(map(str, path))}"
        found.append({"path": list(path), "state": bytes_out.of(inner_state, inner_live)})
        found[-1] = encode(found[-1], inside)
    if found:
        fields["inner"] = found
    if bytes_out.seen:
        fields["encoded"] = bytes_out.encoded
    return fields


def _is_mark(value: dict[Any, Any]) -> bool:
    """Tell whether the SDK would take a dict for encoded bytes."""
    return "data" in value and _MARK in value and value[_MARK] is True


class _BytesOut:
    """Decodes the SDK's base64 to bytes, and notes which bytes these are.

    A user's own dict may look like encoded bytes. It stays, since the live value is a dict.
    """

    def __init__(self) -> None:
        self.encoded: list[int] = []
        self.seen = False
        self._count = 0

    def of(self, value: Any, live: Any, depth: int = 0) -> Any:
        if depth > _MAX_DEPTH:
            return value  # the codec says so
        if isinstance(value, dict):
            return self._of_dict(value, live, depth)
        if isinstance(value, list | tuple):
            return self._of_list(value, live, depth)
        return self._counted(value) if isinstance(value, bytes | bytearray | memoryview) else value

    def _of_dict(self, value: dict[Any, Any], live: Any, depth: int) -> Any:
        if _is_mark(value):
            self.seen = True
            content = None if isinstance(live, dict) or isinstance(value, _OwnDict) else _content(value, live)
            if content is not None:
                self.encoded.append(self._count)
                return self._counted(content)
        behind = live if isinstance(live, dict) else {}
        taken = {}
        for key, item in value.items():  # a comprehension would take one more stack frame a level
            taken[key] = self.of(item, behind.get(key), depth + 1)
        return taken

    def _of_list(self, value: Any, live: Any, depth: int) -> list[Any]:
        behind = live if isinstance(live, list | tuple) and len(live) == len(value) else [None] * len(value)
        taken = []
        for item, item_behind in zip(value, behind, strict=True):
            taken.append(self.of(item, item_behind, depth + 1))
        return taken

    def _counted(self, content: Any) -> Any:
        self.seen = True
        self._count += 1
        return content


def _content(mark: dict[str, Any], live: Any) -> bytes | None:
    """Return the bytes of a mark; None if encoding them would not give the same mark."""
    if isinstance(live, bytes):
        return live
    try:
        content = base64.b64decode(mark["data"], validate=True)
    except (binascii.Error, TypeError, ValueError):
        return None
    return content if mark == _mark(content) else None


def _mark(content: bytes) -> dict[str, Any]:
    return {_MARK: True, "data": base64.b64encode(content).decode()}


def decode_multi_agent(fields: Mapping[str, Any]) -> StoredState:
    """Return the serialised states of stored fields."""
    bytes_in = _BytesIn(fields.get("encoded"))
    state = bytes_in.of(decode(fields["state"]))
    inner = [decode(one) for one in fields.get("inner", ())]
    return StoredState(state, {tuple(one["path"]): bytes_in.of(one["state"]) for one in inner})


class _OwnDict(dict[str, Any]):
    """A user's own dict that the SDK must not take for encoded bytes; the SDK copies it to a plain dict."""

    @override
    def get(self, key: Any, default: Any = None) -> Any:
        return default if key == _MARK else super().get(key, default)


class _BytesIn:
    """Encodes bytes as the SDK had done; a state without ``encoded`` is unchanged."""

    def __init__(self, encoded: Iterable[int] | None) -> None:
        self._is_as_serialised = encoded is None
        self._encoded = frozenset(encoded or ())
        self._count = 0

    def of(self, state: Any) -> Any:
        return state if self._is_as_serialised else self._value(state, is_decoded=False)

    def _value(self, value: Any, *, is_decoded: bool) -> Any:
        if isinstance(value, dict):
            return self._dict(value, is_decoded)
        if isinstance(value, list):
            items = []
            for item in value:
                items.append(self._value(item, is_decoded=is_decoded))
            return items
        if not isinstance(value, bytes):
            return value
        self._count += 1
        return _mark(value) if self._count - 1 in self._encoded else value

    def _dict(self, value: dict[str, Any], is_decoded: bool) -> dict[str, Any]:
        kind = value.get("type")
        put: dict[str, Any] = _OwnDict() if is_decoded and _is_mark(value) else {}
        for key, item in value.items():
            # In a state with encoded bytes, the SDK decodes every dict that looks like them.
            inside = is_decoded or key == "current_task" or (key == "message" and kind == "agent_result")
            put[key] = self._value(item, is_decoded=inside)
        return put


def restore_multi_agent(session_id: str, source: MultiAgentBase, stored: StoredState) -> None:
    """Restore a source from a stored state, and the orchestrators inside of it from theirs.

    Raises:
        MongoDBSessionError: A state does not fit.
    """
    label = multi_agent_label(session_id, source.id)
    try:
        for target, state in list(_targets(label, source, stored, ())):
            _deserialize(target, state)
    except MongoDBSessionError:
        raise
    except Exception as error:
        raise _UnfitStateError(label, (), f"Strands refuses its shape ({type(error).__name__})") from error


def _deserialize(target: MultiAgentBase, state: dict[str, Any]) -> None:
    if not isinstance(target, Graph):
        target.deserialize_state(state)
        return
    # The SDK counts a node that was interrupted at another visit as completed, and would begin anew.
    frontier = state.get("next_nodes_to_execute") or state.get("interrupted_nodes")
    target.deserialize_state({**state, "next_nodes_to_execute": frontier})
    for node in target.state.interrupted_nodes:
        node.execution_status = Status.INTERRUPTED


_Target = tuple[MultiAgentBase, dict[str, Any]]


def _targets(label: str, source: MultiAgentBase, stored: StoredState, path: Path) -> Iterator[_Target]:
    state = stored.inner[path] if path else stored
    unfit = _unfit(source, state)
    if unfit is not None:
        raise _UnfitStateError(label, path, unfit)
    yield source, state
    for node_id, executor in _interrupted(source, state):
        inside = (*path, node_id)
        if inside in stored.inner:
            if not isinstance(executor, MultiAgentBase):
                raise _UnfitStateError(
                    label, inside, "a Graph or Swarm was interrupted there, and the node now runs something else"
                )
            yield from _targets(label, executor, stored, inside)
        elif isinstance(executor, Graph | Swarm) and not _interrupts(executor.serialize_state()).get("activated"):
            # One with a session manager of its own may be restored already.
            raise _UnfitStateError(label, inside, "it was interrupted there, and what ran there is not stored with it")


def _unfit(source: MultiAgentBase, state: Mapping[str, Any]) -> str | None:
    """Return why a source cannot continue from a state; None if it can, or if it begins anew."""
    is_interrupted = isinstance(source, Graph) and _interrupts(state).get("activated")
    if not isinstance(source, Graph | Swarm) or not (state.get("next_nodes_to_execute") or is_interrupted):
        return None
    kind = "graph" if isinstance(source, Graph) else "swarm"
    if state.get("type") in {"graph", "swarm"} - {kind}:
        return f"it is that of a {state['type']}, and this is a {kind}"
    missing = sorted(_named_nodes(state) - source.nodes.keys(), key=str)
    if missing:
        return f"it needs nodes that are not there any more: {', '.join(map(repr, missing))}"
    unfit = _unfit_interrupt(source, state) if is_interrupted else None
    return unfit or _unfit_nodes(source, state)


def _named_nodes(state: Mapping[str, Any]) -> set[str]:
    named = {node_id for name in _NODES for node_id in state.get(name) or ()}
    return named | {*_interrupts(state).get("context", {}).get("completed_nodes", ())}


def _unfit_interrupt(source: MultiAgentBase, state: Mapping[str, Any]) -> str | None:
    context = _interrupts(state).get("context", {})
    if state.get("status") != Status.INTERRUPTED.value or "completed_nodes" not in context:
        return "its run ended while an interrupt was being raised or answered"
    for node_id, executor in _interrupted(source, state):
        if isinstance(executor, Agent) and "messages" not in _node_context(state, node_id):
            return f"it was interrupted in node {node_id!r}, which was no agent then"
    return None


def _unfit_nodes(source: Graph | Swarm, state: Mapping[str, Any]) -> str | None:
    """Return why the SDK could not read, when it is answered, what an interrupted node goes on from."""
    if not _interrupts(state).get("activated"):
        return None
    for node_id in state["interrupted_nodes"] if isinstance(source, Graph) else state["next_nodes_to_execute"][:1]:
        try:
            _read_context(source, source.nodes[node_id].executor, _node_context(state, node_id))
        except Exception as error:  # noqa: BLE001 - another version may have written anything
            return f"what it keeps of node {node_id!r} has another shape ({type(error).__name__})"
    return None


def _read_context(source: Graph | Swarm, executor: Any, context: Mapping[str, Any]) -> None:
    """Read what the SDK reads of it."""
    wanted = {"from_hook", "interrupt_ids"} if isinstance(source, Graph) else {"activated"}
    if missing := wanted - context.keys():
        raise KeyError(*missing)
    if isinstance(executor, Agent) and not context.get("from_hook"):
        type(source._interrupt_state).from_dict(context["interrupt_state"])
        AgentState(context["state"])
        for message in context["messages"]:
            check_complete(message, "messages")


class _UnfitStateError(MongoDBSessionError):
    """The stored state does not fit the Graph or Swarm that is to continue from it."""

    def __init__(self, label: str, path: Path, reason: str) -> None:
        inside = f", inside node {'/'.join(map(str, path))!r}" if path else ""
        super().__init__(
            f"{label} has a state that cannot be gone on from{inside}: {reason}. It stays stored. Build the same Graph "
            "or Swarm as before, with the same version of Strands, to go on; to begin anew, give it another id, or "
            "call the manager's sync_multi_agent() with one that was built without a session manager."
        )
