"""How an agent's live messages come back: the stored ones, the conversation manager's own, and mended pairs."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from operator import itemgetter
from typing import Any, Literal, cast

from strands import Agent
from strands.agent.conversation_manager import ConversationManager
from strands.types.content import Message

from .._schema.values import decode
from .._stores.restored import RestoredAgent
from .._stores.restoring import Restoring
from .live_records import is_message, tracking_id_of

logger = logging.getLogger(__name__)

_Mend = Callable[[list[Message]], list[Message]]
_content_of = itemgetter("content")


@dataclass(frozen=True)
class OwnMessages:
    """A conversation manager's own messages.

    Attributes:
        kept: Messages that no manager's state holds any more.
        given: Messages that the manager gave when it was restored.
        removed: The number of messages that it had removed, as it says.
    """

    kept: list[Message] = field(default_factory=list, repr=False)
    given: list[Message] = field(default_factory=list, repr=False)
    removed: int = 0

    @property
    def messages(self) -> list[Message]:
        """All of them, in live order."""
        return self.kept + self.given


def restore_manager(agent: Agent, restored: RestoredAgent, label: str) -> OwnMessages:
    """Give the conversation manager its stored state, if the state is of its class.

    Args:
        agent: The agent.
        restored: The stored agent.
        label: The agent's label in the log.
    """
    manager, state = agent.conversation_manager, restored.agent.conversation_manager_state
    with Restoring(label, "live"):
        kept = _checked(decode(message) for message in (restored.live.kept if restored.live else ()))
    if not _is_foreign(manager, state):
        # One that says nothing could not be stored, or is of an agent that has no such manager.
        with Restoring(label, "conversation_manager_state"):
            given = _given(manager, state) if state else []
            return OwnMessages(kept, given, int(manager.removed_message_count))
    try:
        given = _given(manager, state)
    except Exception:  # noqa: BLE001 - a state of another class may be refused in any way
        logger.warning(
            "agent=<%s>, stored=<%s>, manager=<%s> | the stored state is of another conversation manager, which begins "
            "anew with the same messages",
            label,
            state.get("__name__"),
            type(manager).__name__,
        )
        summary: Any = state.get("summary_message")
        return OwnMessages([*kept, *([summary] if is_message(summary) else [])], removed=restored.removed)
    return OwnMessages(kept, given, int(manager.removed_message_count))


def _given(manager: ConversationManager, state: dict[str, Any]) -> list[Message]:
    """Restore a conversation manager, and return its own messages."""
    return _checked(manager.restore_from_session(state) or ())


def _checked(messages: Iterable[Any]) -> list[Message]:
    """Return messages; raise if one is no message that an agent can have."""
    found = list(messages)
    if not all(map(is_message, found)):
        raise TypeError("not a message")
    return found


def _is_foreign(manager: Any, state: Mapping[str, Any]) -> bool:
    return state.get("__name__") not in (None, type(manager).__name__)


def live_messages(restored: RestoredAgent, own: OwnMessages, mend: _Mend) -> list[Message]:
    """Return ``agent.messages``: stored and own messages in live order, pinned as they were, with whole pairs.

    Args:
        restored: The stored agent.
        own: The conversation manager's own messages.
        mend: The SDK's own way to make a history valid for a model; in memory only.
    """
    if restored.live is not None:
        _pin(restored.messages, frozenset(restored.live.pinned))
    at = 0 if restored.live is None else restored.live.at
    # A manager may hold, and give back, messages that are stored: each stands where it stood.
    given = {tracking_id_of(message): message for message in own.messages if tracking_id_of(message)}
    stored = [given.pop(tracking_id_of(message), message) if given else message for _, message in restored.messages]
    others = [message for message in own.messages if not any(message is placed for placed in stored)]
    messages = stored if at is None else [*stored[:at], *others, *stored[at:]]
    kinds = set(chain.from_iterable(chain.from_iterable(map(_content_of, messages))))
    if kinds.isdisjoint(("toolUse", "toolResult")):
        return messages
    return mend(_with_results(_paired(messages)) if "toolUse" in kinds else messages)


def _pin(messages: Sequence[tuple[int, Message]], pinned: frozenset[int]) -> None:
    for message_id, message in messages:
        metadata: Any = message.get("metadata")
        custom = metadata.get("custom") if isinstance(metadata, dict) else None
        if custom is None and message_id not in pinned:
            continue
        others = custom if isinstance(custom, dict) else {}
        if message_id in pinned:
            message["metadata"] = cast(Any, {**(metadata or {}), "custom": {**others, "pinned": True}})
        elif "pinned" in others:
            del others["pinned"]


def _paired(messages: list[Message]) -> list[Message]:
    """Put the results of tools right behind the calls: ``append_message()`` may have stored messages between them."""
    result = list(messages)
    for place, message in enumerate(messages):
        calls = _tool_use_ids(message, "toolUse")
        late = _late_results(calls, messages, place) if calls else None
        if late is not None:
            result = [each for each in result if each is not late]
            result.insert(next(n for n, each in enumerate(result, start=1) if each is message), late)
    return result


def _late_results(calls: set[str], messages: Sequence[Message], place: int) -> Message | None:
    """Return the message with the results of the calls at a place, if others stand before it."""
    for number in range(place + 1, len(messages)):
        if calls & _tool_use_ids(messages[number], "toolResult"):
            return messages[number] if number > place + 1 else None
        if _tool_use_ids(messages[number], "toolUse"):
            return None
    return None


def _has_calls(message: Message) -> bool:
    return any("toolUse" in block for block in message["content"])


def _tool_use_ids(message: Message, kind: Literal["toolUse", "toolResult"]) -> set[str]:
    return {block[kind]["toolUseId"] for block in message["content"] if kind in block}


def _with_results(messages: list[Message]) -> list[Message]:
    """Make room for the results of tools that another answer follows: the SDK would put them into that answer."""
    result: list[Message] = []
    for place, message in enumerate(messages, start=1):
        result.append(message)
        if _has_calls(message) and place < len(messages) and messages[place]["role"] != "user":
            result.append({"role": "user", "content": []})
    return result
