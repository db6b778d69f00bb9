"""When something is persisted: the session manager that a Strands agent holds.

No Mongo operator stands here: what is to be stored is captured on the caller's thread, handed to the agent's
history, and sent by the repository, off the event loop wherever the SDK allows it.
"""

import asyncio
import atexit
import functools
import logging
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from contextvars import ContextVar
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

import pymongo
from pymongo.errors import PyMongoError
from strands import Agent
from strands.bidi.hooks.events import BidiAgentStopEvent
from strands.hooks import HookOrder
from strands.hooks.events import (
    AfterInvocationEvent,
    AfterMultiAgentInvocationEvent,
    AfterNodeCallEvent,
    AgentInitializedEvent,
    BeforeInvocationEvent,
    BeforeMultiAgentInvocationEvent,
    BeforeToolCallEvent,
    MessageAddedEvent,
    MessageUpdatedEvent,
    MultiAgentInitializedEvent,
)
from strands.session.repository_session_manager import RepositorySessionManager
from strands.session.session_repository import SessionRepository
from strands.types.content import Message
from strands.types.session import Session

from ._client.failures import Failures
from ._client.heartbeat import Heartbeat
from ._client.not_copied import NotCopied
from ._client.off_loop import Run, Steps, all_done, go_through, go_through_off_loop, here, in_thread, run_off_loop
from ._client.outage import outage_of
from ._history.agents import LiveAgents
from ._history.binder import AgentBinder
from ._history.binding import AgentBinding, Announcement
from ._history.call_metrics import ends_invocation
from ._history.sending import Sending
from ._history.unsent import flush_unsent
from ._history.writer import AgentHistory
from ._override import override
from ._schema.expiry import check_ttl
from ._schema.given import check_names, index_fields
from ._schema.ids import agent_label, check_id
from ._schema.lease import LEASE_DURATION, LEASE_TIMEOUT, UNUSED_LEASE_TIMEOUT, Lease
from ._schema.limits import LIMITS, Limits
from ._schema.messages import with_blocks, with_tracking_id
from ._schema.sessions import OpenedDoc
from ._session.arguments import NotAsynchronous, check_agent_ids, check_choices, check_message, with_new_spellings
from ._session.data import SessionData
from ._session.deliveries import flush_hooks
from ._session.guardrail_trace import guardrail_event
from ._session.hook_chain import as_hooks
from ._session.multi_agents import MultiAgents
from ._stores.contents import SessionContents
from ._stores.sessions import OpenedSession, SessionStore
from .errors import SessionConflictError, SessionNotFoundError
from .mongodb_session_repository import MongoDBSessionRepository, stores_of
from .types import Durability, FeedbackHook, Health, MetadataHook, OnError

if TYPE_CHECKING:
    from pymongo import MongoClient
    from strands.hooks.registry import HookRegistry
    from strands.multiagent.base import MultiAgentBase
    from strands.types.agent import LocalAgent
    from typing_extensions import Unpack

    from .types import ManagerOptions, OtherOptions

logger = logging.getLogger(__name__)

# The agent that one of our handlers captures on this thread, and what was announced of it.
_capturing: ContextVar[tuple[AgentBinding, Announcement | None] | None] = ContextVar("_capturing", default=None)


class _OpenedRepository:
    """Answers the base class's constructor from the upsert that has already opened the session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def read_session(self, session_id: str) -> Session:
        return self._session


class MongoDBSessionManager(NotCopied, NotAsynchronous, SessionData, RepositorySessionManager):
    """Keeps a Strands agent's conversation and state in MongoDB; pass it as ``Agent(session_manager=…)``.

    The session document exists once the constructor has returned. Several agents may share one manager, each with
    its own history, and one manager may be used from several threads.

    Args:
        session_id: Any string of 1 to 1,024 bytes in UTF-8 without NUL.
        connection_string: A MongoDB URI. The client made from it is closed by ``close()``.
        database_name: The database; by default the one that the URI (or the client's URI) names, else
            ``"database_name"``.
        collection_name: The collection; ``"agent_sessions"`` by default.
        client: A client to borrow instead: ``connection_string`` is ignored then, with a warning, and ``close()``
            leaves it open.
        metadata_fields: Metadata fields to index; nothing is written for them.
        metadata_hook: Called around metadata calls, also those of the metadata tool; of a list the first is the
            outermost.
        feedback_hook: Called around ``add_feedback``, likewise.
        application_name: Written when the session is created; it never changes afterwards.
        durability: ``"sync"``: a message is acknowledged before the agent goes on. ``"async"``: writes overlap with
            the model's calls and are acknowledged before the invocation returns. ``"exit"``: one write at the end of
            the invocation. A redaction is written at once under each.
        on_error: ``"raise"``: a failed write fails the invocation. ``"degrade"``: the conversation goes on, the log
            and ``health`` tell, and the next write catches up; a conflict is raised all the same.
        exclusive: Whether to be the only writer of the session, from here to ``close()``. Others may read it; their
            writes of histories and states raise ``SessionLockedError``. Metadata and feedback stay open to all.
        lease_timeout: With ``exclusive``, seconds to wait for another such manager.
        lease_duration: With ``exclusive``, seconds without a write after which others may take over, as from a
            process that has died. What this one writes afterwards is refused then.
        ttl: How long the session lives after its last write, 1 minute to 100 years; then it is deleted. It is stored
            with the session, where the longest one counts. By default what is stored is kept: a session without a
            ttl lives until it is deleted.
        create: Whether to create the session where it is not there. With False that is an error, and opening is a
            read: it writes nothing but the lease, where one is wanted.
        **client_options: Options for the ``MongoClient`` made from ``connection_string``; pymongo validates them.

    Raises:
        PyMongoError: The server did not answer within ``serverSelectionTimeoutMS``, or refused.
        SchemaVersionError: A newer version of this library wrote the session.
        SessionLockedError: Another manager was its only writer for all of ``lease_timeout``.
        SessionNotFoundError: The session is not there, and ``create`` is False.
        TypeError: An argument has the wrong type, or client options were given beside ``client``.
        ValueError: ``session_id``, a choice or a number is not fit, neither ``connection_string`` nor ``client`` was
            given, or the write concern is ``w=0``.
    """

    session_repository: MongoDBSessionRepository
    _agents: LiveAgents
    _instead = "Make a manager where it is used, from the session id; what it holds is stored in MongoDB."
    _instead_of_async = "Take 'with', or 'async with factory.session(…)', whose I/O is all off the event loop."

    def __init__(
        self,
        session_id: str,
        connection_string: str | None = None,
        database_name: str | None = None,
        collection_name: str | None = None,
        client: "MongoClient[dict[str, Any]] | None" = None,
        metadata_fields: Sequence[str] | None = None,
        metadata_hook: MetadataHook | Sequence[MetadataHook] | None = None,
        feedback_hook: FeedbackHook | Sequence[FeedbackHook] | None = None,
        application_name: str | None = None,
        *,
        durability: Durability = "sync",
        on_error: OnError = "raise",
        exclusive: bool = False,
        lease_timeout: float = LEASE_TIMEOUT,
        lease_duration: float = LEASE_DURATION,
        ttl: timedelta | None = None,
        create: bool = True,
        _agent_ids: Sequence[str] = (),
        _found: OpenedDoc | None = None,
        _limits: Limits = LIMITS,
        **client_options: "Unpack[OtherOptions]",
    ) -> None:
        check_id("session_id", session_id)
        check_choices(durability, on_error, create)
        check_ttl(ttl)
        lease = Lease.wanted(exclusive, lease_timeout, lease_duration)
        options = with_new_spellings({**client_options, "metadata_hook": metadata_hook, "feedback_hook": feedback_hook})
        hooks = [as_hooks(options.pop(name), name) for name in ("metadata_hook", "feedback_hook")]
        place = (connection_string, database_name, collection_name, client)
        repository = MongoDBSessionRepository(*place, metadata_fields, application_name, _limits=_limits, **options)
        store = stores_of(repository).sessions
        try:
            opened = store.open_session(session_id, lease, ttl=ttl, create=create, agent_ids=_agent_ids, found=_found)
            self._adopt(repository, opened, lease, durability, on_error)
            self._set_hooks(*hooks)
        except BaseException:
            _release_lease(store, session_id, UNUSED_LEASE_TIMEOUT)
            repository.close()
            raise

    def _adopt(
        self,
        repository: MongoDBSessionRepository,
        opened: OpenedSession,
        lease: Lease | None,
        durability: Durability,
        on_error: OnError,
    ) -> None:
        session_id, limits = opened.session.session_id, stores_of(repository).limits
        super().__init__(session_id, cast(SessionRepository, _OpenedRepository(opened.session)))
        self.session_repository, self._stores = repository, stores_of(repository)
        self._application_name, self._outbox = opened.application_name, opened.outbox
        contents = SessionContents(opened.agent_ids, opened.created)
        binder = AgentBinder(
            self._stores.histories,
            session_id,
            contents,
            opened.agents,
            self._fix_broken_tool_use,
            self._announce if self._is_overridden("append_message") or self._is_overridden("sync_agent") else None,
            syncs_apart=self._is_overridden("sync_agent"),
            limits=limits,
        )
        self._agents = LiveAgents(session_id, binder, contents)
        handle, steps = self._stores.handle, durability != "exit"
        self._failures = Failures(session_id, outage_of(handle, limits), on_error == "degrade", self._pending)
        self._multi_agents = MultiAgents(
            session_id, self._stores, contents, self._failures, self._off_loop, steps=steps
        )
        self._sending = Sending(handle, self._agents, self._multi_agents, self._failures, durability, limits)
        renew = functools.partial(self._stores.sessions.renew_lease, session_id)
        self._heartbeat = None if lease is None else Heartbeat(lease, self._is_at_work, renew, lambda: handle.executor)

    def _is_at_work(self) -> bool:
        return not self._agents.is_closed and (self._multi_agents.is_running or self._agents.at_work)

    def _show_life(self) -> None:
        if self._heartbeat is not None:
            self._heartbeat.begin()

    def __repr__(self) -> str:
        if "_agents" not in vars(self):  # in the traceback of a constructor that failed
            return "MongoDBSessionManager(not open)"
        state = "closed" if self._agents.is_closed else "open"
        return f"MongoDBSessionManager({self.session_id!r}, {self.session_repository.namespace!r}, {state})"

    @override
    def register_hooks(self, registry: "HookRegistry", **kwargs: Any) -> None:
        """Register for every event of an agent, a bidirectional agent, a Graph or a Swarm that is to be stored."""
        registry.add_callback(AgentInitializedEvent, self._on_agent_initialized)
        # Before all other callbacks, which may put messages of their own into the agent's list.
        registry.add_callback(BeforeInvocationEvent, self._on_invocation_start, order=HookOrder.SDK_FIRST)
        registry.add_callback(BeforeToolCallEvent, self._on_tool_call)
        registry.add_callback(MessageAddedEvent, self._on_message_added)
        registry.add_callback(MessageUpdatedEvent, self._on_message_updated)
        ends = [AfterInvocationEvent, BidiAgentStopEvent]
        registry.add_callback(ends, self._on_invocation_ending, order=HookOrder.SDK_FIRST)
        # After all other callbacks, so that their changes are captured too.
        registry.add_callback(ends, self._on_invocation_end, order=HookOrder.SDK_LAST + 1)
        registry.add_callback(MultiAgentInitializedEvent, self._multi_agents.on_initialized)
        registry.add_callback(BeforeMultiAgentInvocationEvent, self._on_multi_agent_start)
        registry.add_callback(AfterNodeCallEvent, self._multi_agents.on_step)
        registry.add_callback(AfterMultiAgentInvocationEvent, self._multi_agents.on_ending, order=HookOrder.SDK_FIRST)
        registry.add_callback(AfterMultiAgentInvocationEvent, self._multi_agents.on_end, order=HookOrder.SDK_LAST + 1)

    # Agents

    @override
    def initialize(self, agent: "LocalAgent", **kwargs: Any) -> None:
        """Bind an agent: restore it from the session, or store it as a new agent with its messages.

        ``Agent(session_manager=…)`` does this; calling it again for the same agent does nothing.

        Raises:
            MongoDBSessionError: Another agent object with this id uses the manager.
            SessionLockedError: It is new, and another manager is the only writer.
            SessionNotFoundError: The session was deleted.
        """
        self._agents.add(agent)

    def prefetch(self, agent_ids: Iterable[str]) -> None:
        """Read agents ahead, so that making them performs no I/O; a new one is stored with its first message.

        Raises:
            SessionNotFoundError: The session was deleted.
            TypeError: ``agent_ids`` is a string.
        """
        self._agents.prefetch(check_agent_ids(agent_ids))

    # Messages and state

    @override
    def append_message(self, message: Message, agent: "LocalAgent", **kwargs: Any) -> None:
        """Store a message, with the agent's state as far as it changed; returns when it is acknowledged.

        An agent's own messages are stored by themselves. This call blocks the thread.

        Args:
            message: A message; ``content`` may be a plain string or an ``AgentResult``, stored as one text block.
            agent: An agent that is bound to this manager.
            **kwargs: Ignored.

        Raises:
            PyMongoError: The write failed; the message stays queued and goes out first with the next one.
            SessionConflictError: Another writer wrote this agent's history meanwhile.
            SessionNotFoundError: The session was deleted.
            TypeError: The message is no mapping, or the agent no agent.
            UnstorableValueError: The message holds something that would not come back equal.
            ValueError: The message has another role than "user" or "assistant", or no content.
        """
        captured, announced = self._captured_now(agent)
        if captured is not None:
            captured.capture_announced(agent, message, announced or Announcement(message))
            return
        check_message(message)
        binding = self._agents.bound(agent)
        if not binding.is_pending(message):  # else it is tried again
            self._look_up(binding, agent)
            binding.capture_message(agent, with_tracking_id(with_blocks(message)), message)
        binding.history.flush()
        binding.tell_outside()

    @override
    def redact_latest_message(
        self,
        redact_message: Message,
        agent: "LocalAgent",
        *,
        action: str = "BLOCKED",
        stop_reason: str | None = None,
        guardrail_trace: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Put another message in the place of the latest one and of its copies, at once.

        The original content is in the database no longer when this returns; times, metrics and tracking id stay. The
        redaction is recorded on the message (``guardrail_event``) and on the session (``guardrail_events``). A live
        message that is not stored leaves stored ones as they are, unless the latest is of its kind. This call blocks.

        Args:
            redact_message: What stands there afterwards.
            agent: An agent that is bound to this manager.
            action: What the guardrail did.
            stop_reason: Why the model stopped; ``types.GUARDRAIL_STOP_REASONS`` has the known ones.
            guardrail_trace: Amazon Bedrock's trace. Only a summary of it is stored, since it quotes the content.
            **kwargs: Ignored.

        Raises:
            MongoDBSessionError: The agent has no message yet.
            PyMongoError: The write failed; the redaction stays queued and goes out first with the next write.
            SessionConflictError: Another writer wrote this agent's history meanwhile.
            TypeError: The message is no mapping, or the agent no agent.
            ValueError: The message has another role than "user" or "assistant", or no content.
        """
        check_message(redact_message)
        binding = self._agents.bound(agent)
        event = guardrail_event(action, stop_reason, guardrail_trace, agent_label(self.session_id, agent.agent_id))
        binding.redact_latest(agent, with_blocks(redact_message), event, self._failures.tolerated)

    @override
    def sync_agent(self, agent: "LocalAgent", **kwargs: Any) -> None:
        """Store the agent's state as far as it changed, and what is still pending; else write nothing.

        This call blocks the thread.

        Raises:
            PyMongoError: The write failed; the change stays queued and goes out first with the next one.
            SessionConflictError: Another writer wrote this agent's history meanwhile.
            SessionNotFoundError: The session was deleted.
        """
        captured, _ = self._captured_now(agent)
        if captured is not None:
            captured.capture_state(agent)
            return
        binding = self._agents.bound(agent)
        self._look_up(binding, agent)
        binding.capture_state(agent)
        if not self._failures.holds(binding.history):
            with self._failures.tolerated(binding.history):
                binding.history.flush()
        binding.tell_outside()

    def _look_up(self, binding: AgentBinding, agent: "LocalAgent") -> None:
        """Find live messages in storage that this process has not seen there: an application has put them back."""
        unknown = binding.unknown(agent)
        if unknown and not self._failures.is_away:
            binding.look_up(unknown, agent.messages)

    async def _alook_up(self, binding: AgentBinding, agent: "LocalAgent", unknown: set[str]) -> None:
        if unknown and not self._failures.is_away:
            live = list(agent.messages)
            await self._off_loop(lambda: binding.look_up(unknown, live))

    # Events

    def _on_agent_initialized(self, event: AgentInitializedEvent) -> None:
        self.initialize(event.agent)

    async def _on_invocation_start(self, event: BeforeInvocationEvent) -> None:
        binding = self._agents.bound(event.agent)
        binding.invoked, binding.failure = True, None
        if unknown := binding.look(event.agent):
            await self._alook_up(binding, event.agent, unknown)
            binding.look(event.agent)
        self._show_life()

    async def _on_tool_call(self, event: "BeforeToolCallEvent[Any]") -> None:
        """A tool that is called directly has no invocation around it."""
        self._show_life()

    # Subclasses may override append_message and sync_agent, to mask or encrypt what is stored. The handlers call them,
    # on the thread of the agent: there they capture only, and the handler sends and waits off the event loop.

    def _captured_now(self, agent: "LocalAgent") -> tuple[AgentBinding | None, Announcement | None]:
        """Return the agent's binding and what was announced, where one of our own handlers calls."""
        captured = _capturing.get()
        return captured if captured is not None and captured[0].agent() is agent else (None, None)

    def _announce(self, binding: AgentBinding, agent: "LocalAgent", *messages: Message, replaces: bool = False) -> None:
        for message in messages:
            captured = _capturing.set((binding, Announcement(message, replaces)))
            try:
                self.append_message(message, agent)
            finally:
                _capturing.reset(captured)
        if binding.syncs_apart:
            self._capture_state(binding, agent)

    def _capture_state(self, binding: AgentBinding, agent: "LocalAgent") -> None:
        captured = _capturing.set((binding, None))
        try:
            self.sync_agent(agent)
        finally:
            _capturing.reset(captured)

    def _is_overridden(self, name: str) -> bool:
        return getattr(getattr(self, name), "__func__", None) is not getattr(MongoDBSessionManager, name)

    async def _on_message_added(self, event: MessageAddedEvent) -> None:
        await self._store(event.agent, event.message)

    async def _on_message_updated(self, event: MessageUpdatedEvent) -> None:
        await self._store(event.agent, event.message, replaces=True)

    async def _on_invocation_ending(self, event: AfterInvocationEvent | BidiAgentStopEvent) -> None:
        """Send what there is before the callbacks of others, any of which may raise and so keep the last from us."""
        if self._agents.is_closed:
            return
        binding = self._agents.bound(event.agent)
        binding.end_invocation(event)
        if isinstance(binding.failure, PyMongoError | SessionConflictError):
            return
        try:
            await self._alook_up(binding, event.agent, binding.unknown(event.agent))
            await self._send_rest(binding, event.agent)
        except Exception as error:  # noqa: BLE001 - told at the end, when the others have had their turn
            binding.failure = binding.failure or error

    async def _on_invocation_end(self, event: AfterInvocationEvent | BidiAgentStopEvent) -> None:
        if self._agents.is_closed:  # a stream that was left behind ends late; what was said is stored
            return
        binding = self._agents.bound(event.agent)
        failure, binding.failure = binding.failure, None
        binding.end_invocation()
        if failure is not None:
            await self._end_of_failed(binding, event.agent, failure)
        await self._alook_up(binding, event.agent, binding.unknown(event.agent))
        self._capture_state(binding, event.agent)
        if binding.history.has_only_window_state:
            # A moved window needs no waiting: an older one restores to the same conversation. It goes out
            # when the caller has the answer, so as not to compete with that for the interpreter.
            asyncio.get_running_loop().call_soon(self._sending.send_left, binding.history)
        elif (sent := self._sending.flush(binding, ends=True)) is not None:
            await sent
        if getattr(event, "result", None) is not None or sys.exc_info()[1] is None:
            binding.tell_left_out()  # else the invocation's own error is told, and this at the end of another

    async def _end_of_failed(self, binding: AgentBinding, agent: "LocalAgent", failure: Exception) -> None:
        """Raise what failed in the invocation, as it was: in mid-turn the SDK wraps what a handler raises."""
        with suppress(Exception):  # what is raised now does not hide the failure
            if not isinstance(failure, PyMongoError | SessionConflictError):
                # One message was refused; the others wait for the end of the invocation.
                await self._send_rest(binding, agent)
        raise failure

    async def _send_rest(self, binding: AgentBinding, agent: "LocalAgent") -> None:
        try:
            self._capture_state(binding, agent)
        finally:  # an override may raise, and what was captured before goes out all the same
            if not binding.history.has_only_window_state and (sent := self._sending.flush(binding)) is not None:
                await sent

    async def _store(self, agent: "LocalAgent", message: Message, *, replaces: bool = False) -> None:
        binding = self._agents.bound(agent)
        if not (replaces or isinstance(agent, Agent)):
            # A bidirectional agent tells when it stops, and not when it starts.
            binding.invoked = True
            self._show_life()
        try:
            if unknown := binding.unknown(agent, message):
                await self._alook_up(binding, agent, unknown)
            self._announce(binding, agent, message, replaces=replaces)
            if (sent := self._sending.as_agreed(binding, agent)) is not None:
                await sent
            if not binding.invoked and isinstance(agent, Agent) and ends_invocation(message):
                binding.tell_left_out()  # the last message of a direct tool call
        except Exception as error:
            binding.failure = error
            raise

    @override
    async def _off_loop(self, call: Callable[[], Any]) -> Any:
        """Run a blocking call on the client's threads; a cancelled caller does not tear it."""
        self._agents.check_open()
        return await run_off_loop(self._stores.handle.executor, call)

    # Multi-agents

    @override
    def initialize_multi_agent(self, source: "MultiAgentBase", **kwargs: Any) -> None:
        """Restore a Graph or Swarm from the session, or store it as new.

        Raises:
            MongoDBSessionError: It is not built as it was when it stopped; what is stored stays as it is.
            SessionLockedError: It is new, and another manager is the session's only writer.
            SessionNotFoundError: The session was deleted.
        """
        self._multi_agents.restore(source)

    @override
    def sync_multi_agent(self, source: "MultiAgentBase", **kwargs: Any) -> None:
        """Store the state of a Graph or Swarm.

        Raises:
            AgentNotFoundError: It was never initialized with this session.
            SessionLockedError: Another manager is the session's only writer.
            SessionNotFoundError: The session was deleted.
            UnstorableValueError: The state holds something that would not come back equal.
        """
        self.session_repository.update_multi_agent(self.session_id, source)

    async def _on_multi_agent_start(self, event: BeforeMultiAgentInvocationEvent) -> None:
        self._multi_agents.begin(event.source)
        self._show_life()

    # The session

    def get_application_name(self) -> str | None:
        """Return the application name that the session was created with."""
        return self._application_name

    @property
    def health(self) -> Health:
        """How the writes are doing, without any content."""
        errors = [writer.error for writer in self._multi_agents.unsent]
        failed = [error for error in [*errors, *self._agents.errors] if error is not None]
        return {"ok": not failed, "pending": self._pending(), "last_error": failed[-1] if failed else None}

    def delete_session(self, *, even_held: bool = False) -> bool:
        """Delete the session and everything that belongs to it; False where it was gone already.

        Later calls raise ``SessionNotFoundError``.

        Args:
            even_held: Whether it is deleted also if it is held.

        Raises:
            SessionHeldError: It is held, and ``even_held`` is False; nothing was deleted.
        """
        self._agents.check_open()
        deleted = self.session_repository.delete_session(self.session_id, even_held=even_held)
        self._agents.invalidate(SessionNotFoundError(self.session_id))
        return deleted

    def flush(self, timeout: float | None = None) -> None:
        """Return when everything captured so far is acknowledged.

        A moved window is left out where another writer has written since; the next message, if one comes, is refused.

        Args:
            timeout: Seconds to wait at most; without end by default.

        Raises:
            PyMongoError: A write failed; what it held stays queued.
            SessionConflictError: Another writer wrote an agent's history meanwhile.
            TimeoutError: Not everything was acknowledged in time.
        """
        sent = self._sending.all()
        wait(sent, timeout)
        self._sending.check_flushed(sent)

    async def aflush(self, timeout: float | None = None) -> None:
        """Do what ``flush`` does, off the event loop."""
        sent = self._sending.all()
        await all_done(sent, timeout)
        self._sending.check_flushed(sent)

    def close(self) -> None:
        """Send what is pending, for at most 10 seconds, and release the lease and the client. Idempotent.

        Hooks that deliver behind the caller's back have what is left of these seconds; a manager that a factory made
        waits for none of them, the factory's ``close()`` does.
        """
        go_through(self._closing(here))

    async def aclose(self) -> None:
        """Do what ``close`` does, off the event loop."""
        await go_through_off_loop(self._closing(in_thread))

    def _leaving(self, leave: "Callable[[Future[None]], None]") -> Steps:
        """Do what ``aclose`` does, but leave a moved window to the client's threads, and tell of what they do."""
        left = [] if self._heartbeat is not None else self._sending.leave_windows(leave)
        yield from self._closing(in_thread, left)

    def _closing(self, run: Run, left: Collection[AgentHistory] = ()) -> Steps:
        """Close step by step; ``run`` makes a blocking call that must not be made by the client's threads."""
        if not self._agents.close():
            return
        deadline = time.monotonic() + self._stores.limits.close_timeout
        yield from self._sending.last(left, deadline)
        if self._heartbeat is not None:
            release = functools.partial(
                _release_lease, self._stores.sessions, self.session_id, deadline - time.monotonic()
            )
            yield [run(release)], deadline - time.monotonic()
        if self._waits_for_deliveries:
            yield from self._deliveries.waits(deadline)
        hooks = self._flushed_hooks
        flushed = [run(functools.partial(flush_hooks, hooks, deadline - time.monotonic()))] if hooks else []
        yield flushed, deadline - time.monotonic()
        finish = self._stores.use.end(max(deadline - time.monotonic(), 0.0))
        yield [run(finish)] if finish else [], None
        for future in flushed:
            if future.done():
                future.result()

    def __enter__(self) -> "MongoDBSessionManager":
        self._agents.check_open()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _pending(self) -> int:
        return self._multi_agents.pending + self._agents.pending


def _release_lease(sessions: SessionStore, session_id: str, timeout: float) -> None:
    """Let others write the session; where that fails, they may when the lease expires."""
    try:
        with pymongo.timeout(max(timeout, 0.001)):
            sessions.release_lease(session_id)
    except PyMongoError as error:
        logger.warning(
            "session_id=<%s>, error=<%s> | the lease was not released, it expires", session_id, type(error).__name__
        )


def check_defaults(arguments: Mapping[str, Any]) -> None:
    """Refuse what no manager would take, when it is given to all of them.

    Args:
        arguments: Of ``MongoDBSessionManager``, by name; None counts as not given.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: A name, a choice or a number is not fit.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    check_names(*(given.get(name) for name in ("database_name", "collection_name", "application_name")))
    index_fields(given.get("metadata_fields"))
    for hook in ("metadata_hook", "feedback_hook"):
        as_hooks(given.get(hook), hook)
    check_choices(given.get("durability", "sync"), given.get("on_error", "raise"), given.get("create", True))
    Lease.wanted(**{name: given[name] for name in ("exclusive", "lease_timeout", "lease_duration") if name in given})
    check_ttl(given.get("ttl"))


@atexit.register
def _flush_all_at_exit() -> None:
    flush_unsent()


def create_mongodb_session_manager(
    session_id: str,
    connection_string: str | None = None,
    database_name: str | None = None,
    collection_name: str | None = None,
    client: "MongoClient[dict[str, Any]] | None" = None,
    metadata_fields: Sequence[str] | None = None,
    metadata_hook: MetadataHook | Sequence[MetadataHook] | None = None,
    feedback_hook: FeedbackHook | Sequence[FeedbackHook] | None = None,
    application_name: str | None = None,
    **options: "Unpack[ManagerOptions]",
) -> MongoDBSessionManager:
    """Return ``MongoDBSessionManager(session_id, …)``; arguments and errors are the same."""
    hooks = {"metadata_hook": metadata_hook, "feedback_hook": feedback_hook}
    return MongoDBSessionManager(
        session_id,
        connection_string,
        database_name,
        collection_name,
        client,
        metadata_fields,
        application_name=application_name,
        **with_new_spellings({**hooks, **options}),
    )
