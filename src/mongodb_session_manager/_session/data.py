"""The data of an application beside the conversation: metadata, feedback, agents' configuration, figures."""

import functools
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol, cast, get_args

from strands.tools.decorator import DecoratedFunctionTool

from .._schema.ids import agent_label, shown
from .._schema.listing import Listing
from .._schema.parts import json_form
from .._schema.restorable import listed_message
from .._schema.usage import sum_of_totals, usage_totals
from .._stores.stores import Stores
from ..errors import AgentNotFoundError, SessionConflictError
from ..mongodb_session_repository import MongoDBSessionRepository
from ..types import AgentConfig, FeedbackHook, JsonSafe, MetadataHook, UsageTotals
from .deliveries import Deliveries, flushed_by_call
from .hook_chain import HookChain
from .metadata_tool import make_metadata_tool


class AgentsOfSession(Protocol):
    """The agents of one session that live in this process."""

    @property
    def known(self) -> set[str]:
        """The agents that the session surely holds, or is about to."""

    def store_new(self, agent_id: str | None = None) -> None:
        """Store one agent, or all, that would come with its first message only."""

    def check_open(self) -> None:
        """Raise if the manager is closed."""


class SessionData:
    """The part of a session manager that reads and writes around the agents' histories.

    Methods whose names begin with ``a`` do the same off the event loop.
    """

    session_id: str
    session_repository: MongoDBSessionRepository
    _stores: Stores
    _agents: AgentsOfSession
    _off_loop: Callable[[Callable[[], Any]], Awaitable[Any]]
    _outbox: tuple[dict[str, Any], ...]
    _waits_for_deliveries = True

    def _set_hooks(
        self,
        around_metadata: tuple[MetadataHook, ...],
        around_feedback: tuple[FeedbackHook, ...],
    ) -> None:
        self._deliveries = Deliveries()
        self._metadata_hooks = HookChain(around_metadata, self.session_id, {"session_manager": self})
        self._feedback_hooks = HookChain(around_feedback, self.session_id, session_manager=self)
        hooks = list({id(hook): hook for hook in (*around_metadata, *around_feedback)}.values())
        for hook in hooks:
            bind = getattr(hook, "bind", None)
            if bind is not None:
                bind(self)
        self._flushed_hooks = flushed_by_call(hooks)

    def _leave_deliveries_to(self, deliveries: Deliveries) -> None:
        """Have other deliveries take over those of this manager's hooks."""
        self._deliveries.hand_to(deliveries)
        deliveries.keep(self._flushed_hooks)
        self._deliveries, self._flushed_hooks = deliveries, []
        self._waits_for_deliveries = False

    @property
    def _repository(self) -> MongoDBSessionRepository:
        self._agents.check_open()
        return self.session_repository

    @property
    def _open_stores(self) -> Stores:
        self._agents.check_open()
        return self._stores

    @property
    def undelivered(self) -> tuple[dict[str, Any], ...]:
        """The outbox as it was when the session was opened: recorded notifications that are not delivered yet."""
        return self._outbox

    # Metadata

    def update_metadata(self, metadata: Mapping[str, Any]) -> None:
        """Set metadata fields; the others stay as they are.

        Args:
            metadata: Values by key. A dotted key reaches into a nested field; keys inside values are data.

        Raises:
            SessionNotFoundError: The session was deleted.
            TypeError: ``metadata`` is not a mapping.
            UnstorableValueError: A value would not come back equal, or a key reaches beyond the end of a list, which
                would be filled with nulls.
            ValueError: A key is not valid; nothing was written.
        """
        result: None = self._metadata_hooks.call(self._update_metadata, "update", metadata=metadata)
        return result

    def get_metadata(self) -> dict[str, Any]:
        """Return ``{"metadata": {…}}``, or ``{}`` if there is none.

        Raises:
            SessionNotFoundError: The session was deleted.
        """
        found: dict[str, Any] = self._metadata_hooks.call(self._get_metadata, "get")
        return found

    def delete_metadata(self, metadata_keys: Iterable[str]) -> None:
        """Remove metadata fields, also dotted ones; a missing field is ignored.

        Raises:
            SessionNotFoundError: The session was deleted.
            TypeError: ``metadata_keys`` is a string, or is not iterable.
            ValueError: A key is not valid, or is an element of a list, which would leave a null; nothing was removed.
        """
        keys = _as_list(metadata_keys)
        result: None = self._metadata_hooks.call(self._delete_metadata, "delete", keys=keys)
        return result

    async def aupdate_metadata(self, metadata: Mapping[str, Any]) -> None:
        """Do what ``update_metadata`` does, off the event loop."""
        chain = self._metadata_hooks
        result: None = await chain.acall(self._update_metadata, self._off_loop, "update", metadata=metadata)
        return result

    async def aget_metadata(self) -> dict[str, Any]:
        """Do what ``get_metadata`` does, off the event loop."""
        found: dict[str, Any] = await self._metadata_hooks.acall(self._get_metadata, self._off_loop, "get")
        return found

    async def adelete_metadata(self, metadata_keys: Iterable[str]) -> None:
        """Do what ``delete_metadata`` does, off the event loop."""
        keys = _as_list(metadata_keys)
        result: None = await self._metadata_hooks.acall(self._delete_metadata, self._off_loop, "delete", keys=keys)
        return result

    def get_metadata_tool(
        self, *, allowed_keys: Sequence[str] | None = None, read_only: bool = False
    ) -> DecoratedFunctionTool[..., str]:
        """Return the Strands tool ``manage_metadata``, with which an agent reads and writes this session's metadata.

        It goes through the metadata hooks, and answers in sentences, also about errors. It may be called directly:
        ``tool(action="get")``.

        Args:
            allowed_keys: The only fields, with all nested in them, that the model may see and change; all by
                default. Leave out fields that the application relies on.
            read_only: Whether the model may only read.
        """
        return make_metadata_tool(
            self.get_metadata, self.update_metadata, self.delete_metadata, allowed_keys, read_only
        )

    def _update_metadata(self, metadata: Any, outbox: Sequence[Mapping[str, Any]] = ()) -> None:
        self._repository.update_metadata(self.session_id, metadata, outbox)

    def _get_metadata(self) -> dict[str, Any]:
        return self._repository.get_metadata(self.session_id)

    def _delete_metadata(self, keys: Any, outbox: Sequence[Mapping[str, Any]] = ()) -> None:
        self._repository.delete_metadata(self.session_id, keys, outbox)

    # Feedback

    def add_feedback(self, feedback: Mapping[str, Any]) -> None:
        """Append feedback; ``created_at`` (UTC) is added.

        Args:
            feedback: Any fields, usually ``rating`` (``"up"``, ``"down"`` or None) and ``comment``. With
                ``message_id`` and ``agent_id``, or with ``tracking_id``, it is about a message, which must exist.

        Raises:
            MessageNotFoundError: The message that it is about is not stored.
            SessionNotFoundError: The session was deleted.
            TypeError: ``feedback`` is not a mapping.
            UnstorableValueError: A value would not come back equal.
            ValueError: It has a ``created_at``, or its ``message_id`` or ``tracking_id`` has a wrong type.
        """
        result: None = self._feedback_hooks.call(self._add_feedback, "add", feedback=feedback)
        return result

    def get_feedbacks(self) -> list[dict[str, Any]]:
        """Return all feedback, oldest first.

        Raises:
            SessionNotFoundError: The session was deleted.
        """
        return self._repository.get_feedbacks(self.session_id)

    async def aadd_feedback(self, feedback: Mapping[str, Any]) -> None:
        """Do what ``add_feedback`` does, off the event loop."""
        chain = self._feedback_hooks
        result: None = await chain.acall(self._add_feedback, self._off_loop, "add", feedback=feedback)
        return result

    async def aget_feedbacks(self) -> list[dict[str, Any]]:
        """Do what ``get_feedbacks`` does, off the event loop."""
        found: list[dict[str, Any]] = await self._off_loop(self.get_feedbacks)
        return found

    def _add_feedback(self, feedback: Any, outbox: Sequence[Mapping[str, Any]] = ()) -> None:
        if isinstance(feedback, Mapping) and not feedback.keys().isdisjoint(("message_id", "tracking_id")):
            self._agents.store_new()
        self._repository.add_feedback(self.session_id, feedback, self._agents.known, outbox)

    # Agents

    def get_agent_config(self, agent_id: str) -> AgentConfig | None:
        """Return how an agent is configured, or None for an unknown agent.

        Raises:
            SessionNotFoundError: The session was deleted.
        """
        with suppress(SessionConflictError):  # the next prompt raises it; the stored configuration can be read
            self._agents.store_new(agent_id)
        config: Any = self._repository.read_agent_config(self.session_id, agent_id)
        return config  # type: ignore[no-any-return]

    def update_agent_config(
        self,
        agent_id: str,
        model: str | None = None,
        system_prompt: str | None = None,
        prompt_metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Change the stored configuration of an agent; None leaves a field as it is.

        It stays through later turns and restarts, until the model or prompt of the running agent differs from the one
        that an agent last stored.

        Raises:
            AgentNotFoundError: The session holds no such agent (also a ValueError).
            SessionNotFoundError: The session was deleted.
            TypeError: An argument has the wrong type.
            UnstorableValueError: ``prompt_metadata`` holds something that would not come back equal.
        """
        for name, value, kind in (
            ("model", model, str),
            ("system_prompt", system_prompt, str),
            ("prompt_metadata", prompt_metadata, Mapping),
        ):
            if value is not None and not isinstance(value, kind):
                raise TypeError(f"{name} of agent {agent_id!r} must be a {kind.__name__}, got {type(value).__name__}")
        given = {"model": model, "system_prompt": system_prompt, "prompt_metadata": prompt_metadata}
        config = {name: value for name, value in given.items() if value is not None}
        self._agents.store_new(agent_id)
        self._repository.update_agent_config(self.session_id, agent_id, config)

    def set_prompt_metadata(self, agent_id: str, prompt_metadata: Mapping[str, Any]) -> None:
        """Store where an agent's prompt came from (its lineage); later turns keep it.

        Raises:
            AgentNotFoundError: The session holds no such agent (also a ValueError).
            SessionNotFoundError: The session was deleted.
            TypeError: ``prompt_metadata`` is not a mapping.
            UnstorableValueError: It holds something that would not come back equal.
        """
        if not isinstance(prompt_metadata, Mapping):
            raise TypeError(f"prompt_metadata must be a mapping, got {type(prompt_metadata).__name__}")
        self.update_agent_config(agent_id, prompt_metadata=prompt_metadata)

    def list_agents(self) -> list[AgentConfig]:
        """Return how each agent of the session is configured.

        Raises:
            SessionNotFoundError: The session was deleted.
        """
        with suppress(SessionConflictError):
            self._agents.store_new()
        configs: Any = self._repository.list_agent_configs(self.session_id)
        return configs  # type: ignore[no-any-return]

    # Messages and figures

    def list_messages(
        self,
        agent_id: str,
        limit: int | None = None,
        offset: int = 0,
        *,
        newest_first: bool = False,
        after: int | None = None,
        json_safe: JsonSafe = False,
    ) -> list[dict[str, Any]]:
        """Return an agent's messages, oldest first; an empty list for an unknown agent.

        Args:
            agent_id: The agent.
            limit: Messages at most; all by default.
            offset: Messages to skip at the beginning of the listing.
            newest_first: Whether it begins at the newest message and goes back in time.
            after: The ``message_id`` after which it begins, in its order, such as the last one of the page before.
            json_safe: ``"note"`` or ``"base64"``: values for ``json.dumps`` (also with ``allow_nan=False``) and UTF-8.
                Bytes become ``{"type": <media type>, "size": <bytes>}``, or text in base64.

        Returns:
            Each message with ``message_id``, ``role``, ``content``, ``created_at`` and ``updated_at`` (UTC), and,
            if stored, ``tracking_id``, ``metadata``, ``event_loop_metrics`` and ``guardrail_event``.

        Raises:
            SessionNotFoundError: The session was deleted.
            TypeError: An argument has the wrong type.
            ValueError: ``limit`` or ``offset`` is negative, or ``json_safe`` is not one of its values.
        """
        listing = Listing(limit, offset, newest_first, after)
        _check_json_safe(json_safe)
        try:
            sizes_only = json_safe == "note"
            stored = self._open_stores.messages.read_listing(self.session_id, agent_id, listing, sizes_only=sizes_only)
        except AgentNotFoundError:
            return []
        label = agent_label(self.session_id, agent_id)
        records = [listed_message(label, message) for message in stored]
        return cast("list[dict[str, Any]]", json_form(records, json_safe)) if json_safe else records

    async def alist_messages(
        self,
        agent_id: str,
        limit: int | None = None,
        offset: int = 0,
        *,
        newest_first: bool = False,
        after: int | None = None,
        json_safe: JsonSafe = False,
    ) -> list[dict[str, Any]]:
        """Do what ``list_messages`` does, off the event loop."""
        order: dict[str, Any] = {"newest_first": newest_first, "after": after, "json_safe": json_safe}
        listing = functools.partial(self.list_messages, agent_id, limit, offset, **order)
        found: list[dict[str, Any]] = await self._off_loop(listing)
        return found

    def get_message_count(self, agent_id: str) -> int:
        """Return the number of an agent's messages; 0 for an unknown agent.

        Raises:
            SessionNotFoundError: The session was deleted.
        """
        return self._repository.count_messages(self.session_id, agent_id)

    def get_usage_summary(self) -> dict[str, Any]:
        """Return token, latency and tool totals.

        They are sums over the model calls behind the stored messages, so that restarts and long-lived agents do not
        count twice.

        Returns:
            ``model_calls``, ``usage`` (tokens), ``metrics`` (``latencyMs``) and ``tools`` of the session, and the
            same for each agent under ``agents``.

        Raises:
            SessionNotFoundError: The session was deleted.
        """
        calls = self._open_stores.configs.read_calls(self.session_id)
        agents: dict[str, UsageTotals] = {agent_id: usage_totals(of_agent) for agent_id, of_agent in calls.items()}
        return {**sum_of_totals(list(agents.values())), "agents": agents}


def _check_json_safe(json_safe: object) -> None:
    if not isinstance(json_safe, str | bool):
        raise TypeError(f"json_safe must be False, 'note' or 'base64', got {type(json_safe).__name__}")
    if json_safe is not False and json_safe not in get_args(JsonSafe):
        raise ValueError(f"json_safe must be False, 'note' or 'base64', got {shown(json_safe)}")


def _as_list(keys: Any) -> Any:
    """Return the keys as a list, since hooks and the operation iterate over them; a wrong type is refused later."""
    return keys if isinstance(keys, str | bytes | Mapping) or not isinstance(keys, Iterable) else list(keys)
