"""What of a live agent is stored beside its messages, and what of it changed since it was last captured."""

import functools
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from strands import Agent

from ._codec import AGENT_FIELDS, Stored, encode, encode_noting
from ._telemetry import model_id

if TYPE_CHECKING:
    from strands.types.agent import LocalAgent


class AgentStateTracker:
    """Compares an agent with what was captured of it last.

    Args:
        place: What the agent is called in errors.
    """

    def __init__(self, place: str) -> None:
        self._place = place
        self._known: Stored = {}
        # The fields whose stored form is the value itself, so that one need not be made to be compared.
        self._plain: set[str] = set()
        self._seen: tuple[Any, int] | None = None
        self._config: tuple[str | None, str | None] | None = None

    def adopt(self, agent: "LocalAgent", stored: Stored, *, rewrite: bool = False) -> None:
        """Take the stored ``agent_data``, from which the agent was just restored, as captured.

        Args:
            agent: The agent.
            stored: What it was restored from.
            rewrite: Whether it is in the form of the first version, which the next write is to replace.
        """
        if rewrite:
            self._known = {"captured": _captured(stored)}
            return
        self._known = {name: stored[name] for name in AGENT_FIELDS if name in stored}
        self._known["captured"] = stored.get("captured") or _captured(stored)
        self._seen = _state_version(agent)

    @contextmanager
    def capturing(self, agent: "LocalAgent") -> Iterator[Stored]:
        """Give the changed fields in their stored form; they count as captured if the block succeeds.

        Raises:
            UnstorableValueError: A field holds something that would not come back equal.
        """
        seen = _state_version(agent)
        current = _other_fields(agent)
        if seen != self._seen:
            current["state"] = agent.state.get()
        changed, plain = self._changed_fields(current)
        config = (model_id(agent), agent.system_prompt)
        if config != self._config:
            changed |= self._changed_config(*config)
        yield changed
        self._known |= changed
        self._plain = self._plain - current.keys() | plain
        self._seen, self._config = seen, config

    def _changed_fields(self, current: dict[str, Any]) -> tuple[Stored, set[str]]:
        """Return what changed, and which of the fields are stored as they are."""
        changed: Stored = {}
        plain = set()
        for name, value in current.items():
            known = self._known.get(name)
            if name in self._plain and value == known:
                plain.add(name)
                continue
            encoded, differs = encode_noting(value, f"{self._place}, {name}")
            if encoded != known:
                changed[name] = encoded
            if not differs:
                plain.add(name)
        return changed, plain

    def _changed_config(self, model: str | None, system_prompt: str | None) -> Stored:
        """Model and prompt, where the agent's own differ from what an agent last wrote.

        That is kept apart under ``captured``, since users may change what is stored and expect it to stay.
        """
        config = {"model": model, "system_prompt": system_prompt}
        captured, known = _captured(config), self._known.get("captured", {})
        changed = {name: config[name] for name in config if name not in known or known[name] != captured[name]}
        if not changed:
            return {}
        return {**encode(changed, f"{self._place}, configuration"), "captured": captured}


def _captured(config: Stored) -> Stored:
    return {"model": config.get("model"), "system_prompt": _digest(config.get("system_prompt"))}


@functools.lru_cache(maxsize=64)
def _digest(prompt: str | None) -> str | None:
    """Prompts are long, and to see whether one changed its digest is enough."""
    if prompt is None:
        return None
    return hashlib.blake2b(prompt.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _state_version(agent: "LocalAgent") -> tuple[Any, int]:
    # Copying the whole state for each message would be slow, so it is compared by its version. The object
    # belongs to the comparison since users may put another one in its place.
    return agent.state, agent.state._get_version()


def _other_fields(agent: "LocalAgent") -> dict[str, Any]:
    if not isinstance(agent, Agent):
        return {"conversation_manager_state": {}, "_internal_state": {}}
    return {
        "conversation_manager_state": agent.conversation_manager.get_state(),
        "_internal_state": {
            "interrupt_state": agent._interrupt_state.to_dict(),
            "model_state": agent._model_state,
        },
    }
