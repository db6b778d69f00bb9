"""What of a live agent is stored beside its messages, and what of it changed since it was last captured.

A field that cannot be stored is left out, and the others go on without it.
"""

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import bson
from strands import Agent

from .._schema.blobs import MAX_BYTES
from .._schema.data import CONFIG_FIELDS
from .._schema.messages import AGENT_FIELDS, without_odd_figures
from .._schema.usage import not_observed, observed
from .._schema.values import Stored, encode, encode_noting, encode_tolerant
from ..errors import SessionTooLargeError, UnstorableValueError

if TYPE_CHECKING:
    from strands.types.agent import LocalAgent

# Where the SDK's providers keep the id of their model.
_MODEL_ID_NAMES = ("model_id", "model")
_UNKNOWN: Any = object()


class _Look(NamedTuple):
    """What an agent was found to be, before anything of it is encoded.

    Attributes:
        state: The state and its version; None if it has none, and so is always compared.
        config: Its model and prompt, as far as they can be read.
        values: The other fields, by name; empty if one of them cannot be read, or is nothing that BSON knows.
        digest: The digest of these values.
    """

    state: tuple[Any, int] | None
    config: dict[str, str | None]
    values: Stored
    digest: bytes | None


@dataclass
class _Capture:
    """The result of comparing an agent with its last capture.

    Attributes:
        has_version: Whether the state has a version; then it is compared only if that has changed.
        changed: The changed fields, as they are stored.
        digests: The digests of the compared fields in their stored form.
        plain: The compared fields whose stored form is the value itself.
        refused: Why a changed field cannot be stored, by field.
    """

    has_version: bool
    changed: Stored = field(default_factory=dict)
    digests: dict[str, bytes] = field(default_factory=dict)
    plain: set[str] = field(default_factory=set)
    refused: dict[str, Exception] = field(default_factory=dict)


class AgentStateTracker:
    """Compares an agent with its last capture.

    Args:
        label: The agent's label in errors.

    Attributes:
        refused: Why fields are left out, by field, until that is told.
    """

    def __init__(self, label: str) -> None:
        self._label = label
        self._digests: dict[str, bytes] = {}
        self._plain: set[str] = set()
        self._captured: Stored = {}
        self._seen: tuple[Any, int] | None = None
        # The last look, if nothing but an equal one can be stored as that was.
        self._look: _Look | None = None
        self._config: dict[str, str | None] | None = None
        self.refused: dict[str, Exception] = {}

    def adopt(self, agent: "LocalAgent", stored: Mapping[str, Any], *, rewrite: bool = False) -> None:
        """Take the stored ``agent_data`` that the agent was just restored from as captured.

        Args:
            agent: The agent.
            stored: Its ``agent_data``.
            rewrite: Whether it is in the form of the first version, which the next write is to replace.
        """
        captured = None if rewrite else stored.get("captured")
        self._captured = captured if isinstance(captured, dict) else _captured(stored, ("model", "system_prompt"))
        if not rewrite:
            self._digests = {name: _digest(stored[name]) for name in AGENT_FIELDS if name in stored}
            self._seen = _state_version(agent)

    def capturing(self, agent: "LocalAgent") -> AbstractContextManager[Stored]:
        """Give the changed fields in their stored form; they count as captured if the block succeeds.

        A field that cannot be stored is left out, and not tried again before it changes.
        """
        look = _look_at(agent)
        # Most captures find what the one before them did, and encode nothing.
        return nullcontext({}) if self._is_as_before(look) else self._capturing(agent, look)

    def _is_as_before(self, look: _Look) -> bool:
        last = self._look
        if last is None or look.digest is None or not _is_same(look.state, last.state):
            return False
        return look.digest == last.digest and look.config == last.config

    @contextmanager
    def _capturing(self, agent: "LocalAgent", look: _Look) -> Iterator[Stored]:
        capture, config = _Capture(has_version=look.state is not None), look.config
        for name, field_of in _fields(agent, look.values).items():
            if name != "state" or not _is_same(look.state, self._seen):
                self._capture_field(capture, name, field_of)
        captured = self._captured
        if config != self._config:
            captured = captured | encode(_captured(config, config), self._label)
            capture.changed |= self._changed_config(config, captured)
        yield capture.changed
        self._plain = self._plain - capture.digests.keys() | capture.plain
        self._digests |= capture.digests
        self.refused = {name: e for name, e in self.refused.items() if name not in capture.changed} | capture.refused
        self._captured = captured
        self._seen, self._config = look.state, config
        self._look = look._replace(values={}) if self._plain.issuperset(look.values) else None

    def _capture_field(self, capture: _Capture, name: str, look: Callable[[], Any]) -> None:
        value: Any = None
        try:
            value = look()
            if self._is_unchanged(name, value):
                return
            self._check_object(name, value)
            stored, differs = self._encoded(name, value)
            digest = _digest(stored)
        except Exception as error:  # noqa: BLE001 - a conversation manager's own method may raise anything
            self._refuse(capture, name, value, error)
            return
        if digest != self._digests.get(name):
            capture.changed[name] = stored
        capture.digests[name] = digest
        if not differs:
            capture.plain.add(name)

    def _encoded(self, name: str, value: Any) -> tuple[Any, bool]:
        label = f"{self._label}, {name}"
        try:
            return encode_noting(value, label)
        except Exception:
            if name == "state":  # all of it is the application's own
                raise
            return encode(without_odd_figures(value, label), label), True

    def _check_object(self, name: str, value: Any) -> None:
        if not (value is None or isinstance(value, dict)):
            reason = f"it is of type {type(value).__name__}, and an agent is restored from an object"
            raise UnstorableValueError(f"{self._label}, {name}", reason)

    def _is_unchanged(self, name: str, value: Any) -> bool:
        """Tell whether a field is unchanged, without encoding it, if its stored form is the value itself."""
        if name not in self._plain:
            return False
        try:
            return _digest(value) == self._digests[name]
        except Exception:  # noqa: BLE001 - no value that BSON knows, and so it has changed
            return False

    def _refuse(self, capture: _Capture, name: str, value: Any, error: Exception) -> None:
        """Note why a field is left out; once, until the field changes."""
        rest, _ = encode_tolerant({name: value}, f"{self._label}, {name}")
        capture.digests[name] = _digest([type(error).__name__, observed("error", lambda: str(error), ""), rest])
        is_known_new = name == "state" and capture.has_version
        if is_known_new or capture.digests[name] != self._digests.get(name):
            capture.refused[name] = _detached(error)

    def _changed_config(self, config: Mapping[str, str | None], captured: Stored) -> Stored:
        """Return the model and prompt if they differ from those that an agent stored last.

        The latter are kept apart under ``captured``, since users may change the stored ones and expect them to stay.
        """
        known = self._captured
        changed = {name: config[name] for name in config if name not in known or known[name] != captured[name]}
        if not changed:
            return {}
        return {**encode(changed, f"{self._label}, configuration"), "captured": captured}


def _detached(error: Exception) -> Exception:
    """Return an error without its frames: these hold the agent, and the error may be kept for long."""
    each: BaseException | None = error
    while each is not None and each.__traceback__ is not None:
        each.__traceback__ = None
        each = each.__cause__ or each.__context__
    return error


def parts(data: Stored) -> list[tuple[str, Stored]]:
    """Return changed fields one by one, with their names; those of the configuration stay together."""
    config = {name: value for name, value in data.items() if name in (*CONFIG_FIELDS, "captured")}
    others: list[tuple[str, Stored]] = [(name, {name: value}) for name, value in data.items() if name not in config]
    return [*others, ("configuration", config)] if config else others


def fitting(data: Stored, session_id: str, agent_id: str) -> tuple[Stored, dict[str, SessionTooLargeError]]:
    """Return the changed fields that a document can hold, and why the others are left out."""
    kept: Stored = {}
    too_large = {}
    for name, part in parts(data):
        size = len(bson.encode(part))
        if size <= MAX_BYTES:
            kept |= part
        else:
            too_large[name] = SessionTooLargeError(session_id, agent_id, size=size, field=name)
    return kept, too_large


def _captured(config: Mapping[str, Any], names: Iterable[str]) -> Stored:
    prompt = config.get("system_prompt")
    values = {
        "model": config.get("model"),
        "system_prompt": _prompt_digest(prompt) if isinstance(prompt, str) else None,
    }
    return {name: values[name] for name in names}


def _digest(stored: Any) -> bytes:
    """Return a digest of the stored form: types, signs of zeros and the order of keys count, and NaN equals NaN."""
    return hashlib.blake2b(bson.encode({"": stored}), digest_size=16).digest()


@functools.lru_cache(maxsize=64)
def _prompt_digest(prompt: str) -> str:
    """Return the digest of a prompt: prompts are long, and a digest tells whether one changed."""
    return hashlib.blake2b(prompt.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _state_version(agent: "LocalAgent") -> tuple[Any, int] | None:
    # Copying the whole state for each message would be slow, so it is compared by its version. The object
    # belongs to the comparison since users may put another one in its place.
    try:
        return agent.state, agent.state._get_version()
    except Exception as error:  # noqa: BLE001 - users may put any object in its place
        not_observed("version of the state", error)
        return None


def _is_same(seen: tuple[Any, int] | None, known: tuple[Any, int] | None) -> bool:
    return seen is not None and known is not None and seen[0] is known[0] and seen[1] == known[1]


def _look_at(agent: "LocalAgent") -> _Look:
    state, config = _state_version(agent), _configuration(agent)
    try:
        values = {name: field_of(agent) for name, field_of in _FIELDS_OF_AGENT.items()}
        return _Look(state, config, values, _digest(values))
    except Exception:  # noqa: BLE001 - a foreign object; each field is looked at by itself then
        return _Look(state, config, {}, None)


_FIELDS_OF_AGENT: dict[str, Callable[[Any], Any]] = {
    "conversation_manager_state": lambda agent: agent.conversation_manager.get_state(),
    "_internal_state": lambda agent: {
        "interrupt_state": agent._interrupt_state.to_dict(),
        "model_state": agent._model_state,
    },
}


def _fields(agent: "LocalAgent", values: Stored) -> dict[str, Callable[[], Any]]:
    """Return how to look at each field, if it was not read already."""
    if not isinstance(agent, Agent):
        others: dict[str, Callable[[], Any]] = dict.fromkeys(_FIELDS_OF_AGENT, dict)
    elif values:
        others = {name: functools.partial(values.__getitem__, name) for name in values}
    else:
        others = {name: functools.partial(field_of, agent) for name, field_of in _FIELDS_OF_AGENT.items()}
    return {"state": lambda: agent.state.get(), **others}


def _configuration(agent: "LocalAgent") -> dict[str, str | None]:
    """Return ``model`` (its id, or None) and ``system_prompt``, without those that cannot be read."""
    try:
        return {"model": model_id(agent.model), "system_prompt": _text(agent.system_prompt)}
    except Exception:  # noqa: BLE001 - each by itself then
        return _told_configuration(agent)


def _told_configuration(agent: "LocalAgent") -> dict[str, str | None]:
    looks: dict[str, Callable[[], str | None]] = {
        "model": lambda: model_id(agent.model),
        "system_prompt": lambda: _text(agent.system_prompt),
    }
    found = {name: observed(name, look, _UNKNOWN) for name, look in looks.items()}
    return {name: value for name, value in found.items() if value is not _UNKNOWN}


def _text(value: Any) -> str | None:
    # A subclass of str may have methods of its own.
    return None if value is None else str.__str__(value)


def model_id(model: Any) -> str | None:
    """Return the id of a model; None if it has none."""
    try:
        found = _first_text(_configured_ids(model))
    except Exception:
        found = _first_text(_own_ids(model))
        if found is None:
            raise
    return found or _first_text(_own_ids(model))


def _own_ids(model: Any) -> list[Any]:
    return [observed("model", functools.partial(getattr, model, name, None), None) for name in _MODEL_ID_NAMES]


def _configured_ids(model: Any) -> list[Any]:
    try:
        config = getattr(model, "config", None)
    except Exception:  # noqa: BLE001 - a foreign object; it may tell another way
        config = None
    if not isinstance(config, Mapping):
        config = model.get_config() if hasattr(model, "get_config") else {}
    return [config.get(name) for name in _MODEL_ID_NAMES] if isinstance(config, Mapping) else []


def _first_text(values: Iterable[Any]) -> str | None:
    for value in values:
        if issubclass(type(value), str) and (text := str.__str__(value)):
            return text
    return None
