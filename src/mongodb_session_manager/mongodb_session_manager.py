"""When something is persisted: the session manager that a Strands agent holds.

No Mongo operator stands here: what is to be stored is captured on the caller's thread, handed to the agent's
history, and sent by the repository, off the event loop wherever the SDK allows it.
"""

import asyncio
import atexit
import functools
import logging
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, cast, get_args

import pymongo
from pymongo.errors import InvalidOperation, PyMongoError
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

from ._client.handle import CLOSE_TIMEOUT, THREAD_NAME
from ._client.heartbeat import Heartbeat
from ._client.not_copied import NotCopied
from ._client.off_loop import Run, Steps, all_done, go_through, go_through_off_loop, here, in_thread, run_off_loop
from ._client.outage import Sender, outage_of
from ._history.binding import AgentBinder, AgentBinding, Announcement
from ._history.call_metrics import ends_invocation
from ._history.changes import MAX_PENDING
from ._history.contents import SessionContents
from ._history.group_commit import flush_off_loop, send_behind
from ._history.unsent import flush_unsent
from ._history.writer import AgentHistory
from ._override import override
from ._schema.given import check_names, index_fields
from ._schema.ids import check_id, now, shown
from ._schema.lease import LEASE_DURATION, LEASE_TIMEOUT, Lease
from ._schema.messages import with_blocks, with_tracking_id
from ._schema.multi_agents import MultiAgentState, StoredState, capture_multi_agent, restore_multi_agent
from ._schema.values import Stored, encode
from ._session.arguments import NotAsynchronous, check_message, with_new_spellings
from ._session.data import SessionData
from ._session.deliveries import flush_hooks
from ._session.guardrail_trace import policies_triggered
from ._session.hook_chain import as_hooks
from ._session.multi_agent_writer import MultiAgentWriter
from ._stores.sessions import OpenedSession, SessionStore
from .errors import MongoDBSessionError, SessionConflictError, SessionLockedError, SessionNotFoundError
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

# Seconds that a conversation which goes on without the server waits for it, before it does.
LONGEST_WAIT = 10.0
# Seconds to give back a lease whose manager could not be made.
UNUSED_LEASE_TIMEOUT = 1.0


# The agent that one of our handlers captures on this thread, and what was announced of it.
_capturing: ContextVar[tuple[AgentBinding, Announcement | None] | None] = ContextVar("_capturing", default=None)


@contextmanager
def _capturing_for(binding: AgentBinding, announced: Announcement | None = None) -> Iterator[None]:
    token = _capturing.set((binding, announced))
    try:
        yield
    finally:
        _capturing.reset(token)


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
        exclusive: Whether to be the only writer of the session, from here to ``close()``. Others may read it; what
            they write to its histories and states is refused with ``SessionLockedError``. Metadata and feedback are
            everybody's.
        lease_timeout: With ``exclusive``, seconds to wait for another such manager.
        lease_duration: With ``exclusive``, seconds without a write after which others may take over, as from a
            process that has died. What this one writes afterwards is refused then.
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
        create: bool = True,
        _agent_ids: Sequence[str] = (),
        _found: Stored | None = None,
        **client_options: "Unpack[OtherOptions]",
    ) -> None:
        check_id("session_id", session_id)
        _check_choices(durability, on_error)
        self._durability = durability
        self._degrades = on_error == "degrade"
        self._is_exclusive = exclusive
        _check_create(create)
        lease = Lease.wanted(exclusive, lease_timeout, lease_duration)
        options = with_new_spellings({**client_options, "metadata_hook": metadata_hook, "feedback_hook": feedback_hook})
        hooks = [as_hooks(options.pop(name), name) for name in ("metadata_hook", "feedback_hook")]
        repository = MongoDBSessionRepository(
            connection_string,
            database_name,
            collection_name,
            client,
            metadata_fields,
            application_name,
            **options,
        )
        sessions = stores_of(repository).sessions
        try:
            opened = sessions.open_session(session_id, lease=lease, create=create, agent_ids=_agent_ids, found=_found)
            self._adopt(session_id, repository, opened, lease)
            self._set_hooks(*hooks)
        except BaseException:
            _release_lease(sessions, session_id, UNUSED_LEASE_TIMEOUT)
            repository.close()
            raise

    def _adopt(
        self, session_id: str, repository: MongoDBSessionRepository, opened: OpenedSession, lease: Lease | None
    ) -> None:
        super().__init__(session_id, cast(SessionRepository, _OpenedRepository(opened.session)))
        self.session_repository, self._stores = repository, stores_of(repository)
        self._application_name = opened.application_name
        self._contents = SessionContents(opened.agent_ids, opened.created)
        self._outbox = opened.outbox
        self._binder = AgentBinder(
            self._stores.histories,
            session_id,
            self._contents,
            opened.agents,
            self._fix_broken_tool_use,
            self._announce if self._is_overridden("append_message") or self._is_overridden("sync_agent") else None,
            syncs_apart=self._is_overridden("sync_agent"),
        )
        self._bindings: dict[str, AgentBinding | None] = {}
        self._multi_agents: dict[str, MultiAgentWriter] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._outage = outage_of(self._stores.handle)
        # Graphs and Swarms that run, by id.
        self._running: set[str] = set()
        self._heartbeat = None if lease is None else self._new_heartbeat(lease)

    def _new_heartbeat(self, lease: Lease) -> Heartbeat:
        stores = self._stores
        renew = functools.partial(stores.sessions.renew_lease, self.session_id)
        return Heartbeat(lease, self._is_at_work, renew, lambda: stores.handle.executor)

    def _is_at_work(self) -> bool:
        return not self._closed and (bool(self._running) or any(binding.at_work for binding in self._live_bindings()))

    def _show_life(self) -> None:
        if self._heartbeat is not None:
            self._heartbeat.begin()

    def __repr__(self) -> str:
        if "_closed" not in vars(self):  # in the traceback of a constructor that failed
            return "MongoDBSessionManager(not open)"
        state = "closed" if self._closed else "open"
        return f"MongoDBSessionManager({self.session_id!r}, {self.session_repository.namespace!r}, {state})"

    @override
    def register_hooks(self, registry: "HookRegistry", **kwargs: Any) -> None:
        """Register for every event of an agent, a bidirectional agent, a Graph or a Swarm that is to be stored."""
        registry.add_callback(AgentInitializedEvent, self._on_agent_initialized)
        # Before everybody else's, who may put messages of their own into the agent's list.
        registry.add_callback(BeforeInvocationEvent, self._on_invocation_start, order=HookOrder.SDK_FIRST)
        registry.add_callback(BeforeToolCallEvent, self._on_tool_call)
        registry.add_callback(MessageAddedEvent, self._on_message_added)
        registry.add_callback(MessageUpdatedEvent, self._on_message_updated)
        registry.add_callback(AfterInvocationEvent, self._on_invocation_ending, order=HookOrder.SDK_FIRST)
        # After everybody else's, so that what their callbacks changed is captured too.
        registry.add_callback(AfterInvocationEvent, self._on_invocation_end, order=HookOrder.SDK_LAST + 1)
        registry.add_callback(BidiAgentStopEvent, self._on_invocation_end, order=HookOrder.SDK_LAST + 1)
        registry.add_callback(MultiAgentInitializedEvent, self._on_multi_agent_initialized)
        registry.add_callback(BeforeMultiAgentInvocationEvent, self._on_multi_agent_start)
        registry.add_callback(AfterNodeCallEvent, self._on_multi_agent_step)
        registry.add_callback(AfterMultiAgentInvocationEvent, self._on_multi_agent_end)

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
        agent_id = check_id("agent_id", _agent_id(agent))
        if not self._reserve(agent_id, agent):
            return
        try:
            self._bindings[agent_id] = self._binder.bind(agent)
        except BaseException:
            del self._bindings[agent_id]
            raise

    def _reserve(self, agent_id: str, agent: "LocalAgent") -> bool:
        """Take an id for an agent; False where it is this agent's already."""
        with self._lock:
            bound = self._bindings.get(agent_id)
            if bound is not None and bound.matches(agent):
                return False
            self._check_open()
            if agent_id in self._bindings and (bound is None or not bound.is_left()):
                raise self._in_use(agent_id)
            self._bindings[agent_id] = None
        if bound is not None:
            self._send_what_is_left(agent_id, bound)
        return True

    def _send_what_is_left(self, agent_id: str, bound: AgentBinding) -> None:
        """Let the successor of an agent that nobody holds any more restore all that it said."""
        try:
            if bound.history.pending:
                bound.history.flush()
        except BaseException:
            self._bindings[agent_id] = bound
            raise

    def _in_use(self, agent_id: str) -> MongoDBSessionError:
        return MongoDBSessionError(
            f"Session {self.session_id!r} is in use by another agent object with agent_id {agent_id!r}. Give each "
            "agent of a session its own agent_id, or make a new manager for the new object. In a notebook, drop the "
            "former agent first (del agent)."
        )

    @override
    def _known_agents(self) -> set[str]:
        return self._contents.agent_ids

    @override
    def _store_new(self, agent_id: str | None = None) -> None:
        """Store one agent, or all, that would come with its first message only; the others cost nothing."""
        self._check_open()
        for binding in self._live_bindings():
            if agent_id in (None, binding.history.agent_id):
                binding.store_new()

    def prefetch(self, agent_ids: Iterable[str]) -> None:
        """Read agents ahead, so that making them performs no I/O; a new one is stored with its first message.

        Raises:
            SessionNotFoundError: The session was deleted.
        """
        self._check_open()
        self._binder.prefetch(agent_ids)

    def _bound(self, agent: "LocalAgent") -> AgentBinding:
        self._check_open()
        binding = self._bindings.get(_agent_id(agent))
        if binding is None or not binding.matches(agent):
            raise MongoDBSessionError(
                f"{self._binder.label(agent.agent_id)} is not bound to this manager. Pass session_manager=… when "
                "making the Agent, or call initialize(agent)."
            )
        return binding

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
            SessionConflictError: Somebody else wrote this agent's history meanwhile.
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
        binding = self._bound(agent)
        if not binding.is_pending(message):  # else it is tried again
            self._look_up(binding, agent)
            binding.capture_message(agent, with_tracking_id(with_blocks(message)), message)
        binding.history.flush()
        _tell_outside(binding)

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

        The original content is in the database no longer when this returns; times, metrics and tracking id stay.
        The redaction is recorded on the message (``guardrail_event``) and on the session (``guardrail_events``).
        This call blocks the thread.

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
            SessionConflictError: Somebody else wrote this agent's history meanwhile.
            TypeError: The message is no mapping, or the agent no agent.
            ValueError: The message has another role than "user" or "assistant", or no content.
        """
        check_message(redact_message)
        binding = self._bound(agent)
        event: dict[str, Any] = {"action": action, "timestamp": now()}
        if stop_reason is not None:
            event["stop_reason"] = stop_reason
        if guardrail_trace is not None:
            event["policies_triggered"] = policies_triggered(guardrail_trace)
        label = f"{self._binder.label(agent.agent_id)}, guardrail event"
        binding.history.check_open()
        copies: set[int] = set()
        try:
            with self._degrading(binding.history):
                copies = self._copies(binding, agent.agent_id)
        finally:  # without a look at the server, what is known here is redacted all the same
            binding.redact_latest(with_blocks(redact_message), encode(event, label), copies)
        with self._degrading(binding.history):
            binding.history.flush()

    def _copies(self, binding: AgentBinding, agent_id: str) -> set[int]:
        """Find the messages that a prompt which was sent again is stored as; some may have left the live history."""
        latest = binding.history.live.latest
        tracking_id = latest.message.get("tracking_id") if latest else None
        if not isinstance(tracking_id, str):
            return set()
        return self._stores.histories.tracked_ids(self.session_id, agent_id, tracking_id)

    @contextmanager
    def _degrading(self, sender: Sender) -> Iterator[None]:
        """Let the conversation go on without the server, where that was asked for."""
        started = time.monotonic()
        try:
            yield
        except PyMongoError as error:
            if not self._degrades:
                raise
            sender.hold(type(error).__name__)
            self._outage.failed(sender, error, time.monotonic() - started)
            self._log_error(error)

    def _is_held(self, sender: Sender) -> bool:
        """Tell whether nothing is sent for now, since the server is away and the conversation goes on without it."""
        return self._degrades and self._outage.holds(sender)

    def _is_away(self) -> bool:
        return self._degrades and self._outage.is_on

    @override
    def sync_agent(self, agent: "LocalAgent", **kwargs: Any) -> None:
        """Store the agent's state as far as it changed, and what is still pending; else write nothing.

        This call blocks the thread.

        Raises:
            PyMongoError: The write failed; the change stays queued and goes out first with the next one.
            SessionConflictError: Somebody else wrote this agent's history meanwhile.
            SessionNotFoundError: The session was deleted.
        """
        captured, _ = self._captured_now(agent)
        if captured is not None:
            captured.capture_state(agent)
            return
        binding = self._bound(agent)
        self._look_up(binding, agent)
        binding.capture_state(agent)
        if not self._is_held(binding.history):
            with self._degrading(binding.history):
                binding.history.flush()
        _tell_outside(binding)

    def _look_up(self, binding: AgentBinding, agent: "LocalAgent") -> None:
        """Find live messages in storage that this process has not seen there: an application has put them back."""
        unknown = binding.unknown(agent)
        if unknown and not self._is_away():
            binding.history.look_up(unknown, agent.messages)

    async def _alook_up(self, binding: AgentBinding, agent: "LocalAgent", announced: Message | None = None) -> None:
        unknown = binding.unknown(agent, announced)
        if unknown and not self._is_away():
            live = list(agent.messages)
            await self._off_loop(lambda: binding.history.look_up(unknown, live))

    # Events

    def _on_agent_initialized(self, event: AgentInitializedEvent) -> None:
        self.initialize(event.agent)

    async def _on_invocation_start(self, event: BeforeInvocationEvent) -> None:
        binding = self._bound(event.agent)
        binding.invoked, binding.failure = True, None
        await self._alook_up(binding, event.agent)
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
        return captured if captured is not None and captured[0].matches(agent) else (None, None)

    def _announce(self, binding: AgentBinding, agent: "LocalAgent", *messages: Message, replaces: bool = False) -> None:
        for message in messages:
            with _capturing_for(binding, Announcement(message, replaces)):
                self.append_message(message, agent)
        if binding.syncs_apart:
            self._capture_state(binding, agent)

    def _capture_state(self, binding: AgentBinding, agent: "LocalAgent") -> None:
        with _capturing_for(binding):
            self.sync_agent(agent)

    def _is_overridden(self, name: str) -> bool:
        return getattr(getattr(self, name), "__func__", None) is not getattr(MongoDBSessionManager, name)

    async def _on_message_added(self, event: MessageAddedEvent) -> None:
        binding = self._bound(event.agent)
        self._note_stream(binding, event.agent)
        await self._store(binding, event)

    def _note_stream(self, binding: AgentBinding, agent: "LocalAgent") -> None:
        """A bidirectional agent tells when it stops, and not when it starts."""
        if not isinstance(agent, Agent):
            binding.invoked = True
            self._show_life()

    async def _on_message_updated(self, event: MessageUpdatedEvent) -> None:
        await self._store(self._bound(event.agent), event, replaces=True)

    async def _on_invocation_ending(self, event: AfterInvocationEvent) -> None:
        """Send what there is before the callbacks of others, any of which may raise and so keep the last from us."""
        if self._closed:
            return
        binding = self._bound(event.agent)
        binding.end_invocation(event)
        if isinstance(binding.failure, PyMongoError | SessionConflictError):
            return
        try:
            await self._alook_up(binding, event.agent)
            await self._send_rest(binding, event.agent)
        except Exception as error:  # noqa: BLE001 - told at the end, when the others have had their turn
            binding.failure = binding.failure or error

    async def _on_invocation_end(self, event: AfterInvocationEvent | BidiAgentStopEvent) -> None:
        if self._closed:  # a stream that was left behind ends late; what was said is stored
            return
        binding = self._bound(event.agent)
        failure, binding.failure = binding.failure, None
        binding.end_invocation()
        if failure is not None:
            await self._end_of_failed(binding, event.agent, failure)
        await self._alook_up(binding, event.agent)
        self._capture_state(binding, event.agent)
        if binding.history.has_only_window_state:
            # Nobody needs to wait for a moved window: an older one restores to the same conversation. It goes out
            # when the caller has the answer, so as not to compete with that for the interpreter.
            asyncio.get_running_loop().call_soon(self._send_left, binding.history)
        else:
            await self._flush(binding, ends=True)
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
            if not binding.history.has_only_window_state:
                await self._flush(binding)

    async def _store(
        self,
        binding: AgentBinding,
        event: MessageAddedEvent | MessageUpdatedEvent,
        *,
        replaces: bool = False,
    ) -> None:
        try:
            await self._alook_up(binding, event.agent, event.message)
            self._announce(binding, event.agent, event.message, replaces=replaces)
            await self._flush_as_agreed(binding, event.agent)
            if isinstance(event.agent, Agent) and ends_invocation(event.message):
                _tell_outside(binding)  # the last message of a direct tool call
        except Exception as error:
            binding.failure = error
            raise

    async def _flush_as_agreed(self, binding: AgentBinding, agent: "LocalAgent") -> None:
        """Send, or leave it to the end of the invocation; a message outside of one is sent at once."""
        ends_later = binding.invoked or not isinstance(agent, Agent)
        if self._durability == "sync" or not ends_later:
            await self._flush(binding)
        elif self._durability == "async" or binding.history.pending >= MAX_PENDING // 2:
            self._send_behind(binding.history)

    def _send_behind(self, history: AgentHistory) -> None:
        """Send without waiting; what fails is met by the flush at the end of the invocation, where there is one."""
        if not self._is_held(history):
            send_behind(self._stores.handle, history)

    async def _flush(self, binding: AgentBinding, *, ends: bool = False) -> None:
        binding.history.check_open()
        if not binding.history.pending:
            return
        if self._is_held(binding.history) and not await self._outage.ends_soon(patiently=ends):
            return
        with self._degrading(binding.history):
            longest = LONGEST_WAIT if self._degrades else None
            await flush_off_loop(self._stores.handle, binding.history, longest)

    def _send_left(self, history: AgentHistory) -> "Future[None] | None":
        # By now close(), or the next message, may have taken it along.
        if not history.pending or self._closed or self._is_held(history):
            return None
        try:
            sent = self._stores.handle.executor.submit(history.send_behind)
        except (InvalidOperation, RuntimeError) as error:  # somebody closed the client
            self._log_error(error)
            return None
        sent.add_done_callback(self._log_failure)
        return sent

    def _log_failure(self, sent: "Future[None]") -> None:
        if not sent.cancelled() and (error := sent.exception()) is not None:
            (self._log_unstored if self._closed else self._log_error)(error)

    def _log_error(self, error: BaseException) -> None:
        logger.warning(
            "session_id=<%s>, pending=<%d>, error=<%s> | a write failed, its changes stay pending",
            self.session_id,
            self._pending(),
            type(error).__name__,
        )

    @override
    async def _off_loop(self, call: Callable[[], Any]) -> Any:
        """Run a blocking call on the client's threads; a cancelled caller does not tear it."""
        self._check_open()
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
        self._restore_multi_agent(source, self._stored_multi_agent(capture_multi_agent(self.session_id, source)))

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

    def _stored_multi_agent(self, state: MultiAgentState) -> StoredState | None:
        """Return the stored state; where there is none, store the given one and return None."""
        multi_agents = self._stores.multi_agents
        if not self._contents.seems_new_multi_agent(state.multi_agent_id):
            stored = multi_agents.read_multi_agent(self.session_id, state.multi_agent_id)
            if stored is not None:
                return stored
        self._contents.add_multi_agent(state.multi_agent_id)
        try:
            multi_agents.write_multi_agent(self.session_id, state.multi_agent_id, state, create=True)
        except SessionLockedError:
            raise
        except SessionConflictError:  # another process was faster
            return multi_agents.read_multi_agent(self.session_id, state.multi_agent_id)
        return None

    def _restore_multi_agent(self, source: "MultiAgentBase", stored: StoredState | None) -> None:
        if stored is not None:
            restore_multi_agent(self.session_id, source, stored)

    async def _on_multi_agent_initialized(self, event: MultiAgentInitializedEvent) -> None:
        state = capture_multi_agent(self.session_id, event.source)
        self._restore_multi_agent(event.source, await self._off_loop(lambda: self._stored_multi_agent(state)))

    async def _on_multi_agent_start(self, event: BeforeMultiAgentInvocationEvent) -> None:
        self._running.add(event.source.id)
        self._show_life()
        self._multi_agent_writer(event.source).failure = None

    async def _on_multi_agent_step(self, event: AfterNodeCallEvent) -> None:
        if self._durability == "exit":
            return
        writer = self._multi_agent_writer(event.source)
        try:
            await self._write_multi_agent(writer, writer.capture(event.source, ends=False))
        except Exception as error:
            writer.failure = error
            raise

    async def _on_multi_agent_end(self, event: AfterMultiAgentInvocationEvent) -> None:
        self._running.discard(event.source.id)
        writer = self._multi_agent_writer(event.source)
        if writer.failure is None:
            await self._write_multi_agent(writer, writer.capture(event.source, ends=True))
        elif sys.exc_info()[1] is None:  # a Swarm has kept it to itself
            raise writer.failure

    def _multi_agent_writer(self, source: "MultiAgentBase") -> MultiAgentWriter:
        writer = MultiAgentWriter(self._stores.multi_agents, self.session_id)
        return self._multi_agents.setdefault(source.id, writer)

    async def _write_multi_agent(self, writer: MultiAgentWriter, write: "functools.partial[None] | None") -> None:
        if write is None:
            return
        if self._degrades:
            writer.keep(write)  # as long as it is not stored
        if self._is_held(writer) and not await self._outage.ends_soon():
            return
        with self._degrading(writer):
            await self._off_loop(write)

    # The session

    def get_application_name(self) -> str | None:
        """Return the application name that the session was created with."""
        return self._application_name

    @property
    def health(self) -> Health:
        """How the writes are doing, without any content."""
        bindings, multi_agents = self._live_bindings(), list(self._multi_agents.values())
        errors = [writer.error for writer in multi_agents if writer.pending]
        errors += [binding.history.error or _name(binding.left_out) for binding in bindings]
        failed = [error for error in errors if error is not None]
        return {"ok": not failed, "pending": self._pending(), "last_error": failed[-1] if failed else None}

    def delete_session(self) -> bool:
        """Delete the session and everything that belongs to it; False where it was gone already.

        Later calls raise ``SessionNotFoundError``.
        """
        self._check_open()
        for binding in self._live_bindings():
            binding.history.invalidate(SessionNotFoundError(self.session_id))
        return self.session_repository.delete_session(self.session_id)

    def flush(self, timeout: float | None = None) -> None:
        """Return when everything captured so far is acknowledged.

        A moved window is left out where somebody else has written since; the next message, if one comes, is refused.

        Args:
            timeout: Seconds to wait at most; without end by default.

        Raises:
            PyMongoError: A write failed; what it held stays queued.
            SessionConflictError: Somebody else wrote an agent's history meanwhile.
            TimeoutError: Not everything was acknowledged in time.
        """
        sent = self._send(self._unsent()) + self._send_states()
        wait(sent, timeout)
        self._check_flushed(sent)

    async def aflush(self, timeout: float | None = None) -> None:
        """Do what ``flush`` does, off the event loop."""
        sent = self._send(self._unsent()) + self._send_states()
        await all_done(sent, timeout)
        self._check_flushed(sent)

    def _check_flushed(self, sent: "Sequence[Future[None]]") -> None:
        self._check_sent(sent)
        for binding in self._live_bindings():
            binding.history.check_open()
            _tell_outside(binding)

    def _unsent(self) -> list[AgentHistory]:
        return [binding.history for binding in self._live_bindings() if binding.history.pending]

    def _send(
        self, histories: Iterable[AgentHistory], how: Callable[[AgentHistory], None] = AgentHistory.flush
    ) -> "list[Future[None]]":
        return self._call([functools.partial(how, history) for history in histories])

    def _send_states(self) -> "list[Future[None]]":
        """Send the states of Graphs and Swarms that wait, for as long as closing waits."""
        waiting = [writer for writer in list(self._multi_agents.values()) if writer.pending]
        return self._call([functools.partial(_bounded, writer.send_if_idle) for writer in waiting])

    def _call(self, calls: "Iterable[functools.partial[None]]") -> "list[Future[None]]":
        if threading.current_thread().name.startswith(f"{THREAD_NAME}_"):
            # Waiting here for another of the client's threads could wait for ever.
            return [here(call) for call in calls]
        return [self._stores.handle.executor.submit(call) for call in calls]

    def _check_sent(self, sent: "Sequence[Future[None]]") -> None:
        done = [future for future in sent if future.done()]
        for future in done:
            future.result()
        if len(done) < len(sent):
            raise TimeoutError(f"{self._pending()} changes of session {self.session_id!r} are not stored yet")

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
        left = [] if self._is_exclusive else [history for history in self._unsent() if history.has_only_window_state]
        for history in left:
            sent = self._send_left(history)
            if sent is not None:
                leave(sent)
        yield from self._closing(in_thread, left)

    def _closing(self, run: Run, left: Collection[AgentHistory] = ()) -> Steps:
        """Close step by step; ``run`` makes a blocking call that must not be made by the client's threads."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        deadline = time.monotonic() + CLOSE_TIMEOUT
        yield from self._sending_last(left)
        if self._is_exclusive:
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

    def _sending_last(self, left: Collection[AgentHistory]) -> Steps:
        waiting = [history for history in self._unsent() if not (history in left and history.has_only_window_state)]
        until = functools.partial(AgentHistory.send_until, deadline=time.monotonic() + CLOSE_TIMEOUT)
        try:
            sent = self._send(waiting, until if self._degrades else AgentHistory.flush) + self._send_states()
            yield sent, CLOSE_TIMEOUT
            self._check_sent(sent)
        except Exception as error:  # noqa: BLE001 - closing must not keep the client
            self._log_unstored(error)
        for writer in list(self._multi_agents.values()):
            self._outage.forget(writer)
        for binding in self._live_bindings():
            self._outage.forget(binding.history)
            binding.history.unregister()
            if binding.left_out is not None:
                self._log_unstored(binding.left_out)

    def _log_unstored(self, error: BaseException) -> None:
        logger.warning(
            "session_id=<%s>, pending=<%d>, error=<%s> | closed with changes that are not stored",
            self.session_id,
            self._pending(),
            type(error).__name__,
        )

    def __enter__(self) -> "MongoDBSessionManager":
        self._check_open()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _live_bindings(self) -> list[AgentBinding]:
        return [binding for binding in list(self._bindings.values()) if binding is not None]

    def _pending(self) -> int:
        states = sum(writer.pending for writer in list(self._multi_agents.values()))
        return states + sum(binding.history.pending for binding in self._live_bindings())

    @override
    def _check_open(self) -> None:
        if self._closed:
            raise MongoDBSessionError(
                f"The manager of session {self.session_id!r} is closed; make a new one to go on with the session."
            )


def _bounded(call: Callable[[], None]) -> None:
    with pymongo.timeout(CLOSE_TIMEOUT):
        call()


def _name(error: Exception | None) -> str | None:
    return None if error is None else type(error).__name__


def _tell_outside(binding: AgentBinding) -> None:
    """Outside of an invocation a call itself tells what was left out; in one, its end does."""
    if not binding.invoked:
        binding.tell_left_out()


def _release_lease(sessions: SessionStore, session_id: str, timeout: float) -> None:
    """Let others write the session; where that fails, they may when the lease expires."""
    try:
        with pymongo.timeout(max(timeout, 0.001)):
            sessions.release_lease(session_id)
    except PyMongoError as error:
        logger.warning(
            "session_id=<%s>, error=<%s> | the lease was not released, it expires", session_id, type(error).__name__
        )


def _agent_id(agent: object) -> Any:
    try:
        return agent.agent_id  # type: ignore[attr-defined]
    except AttributeError:
        raise TypeError(f"agent must be a strands.Agent, got {type(agent).__name__}") from None


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
    _check_choices(given.get("durability", "sync"), given.get("on_error", "raise"))
    _check_create(given.get("create", True))
    Lease.wanted(**{name: given[name] for name in ("exclusive", "lease_timeout", "lease_duration") if name in given})


def _check_choices(durability: object, on_error: object) -> None:
    for name, value, choices in (
        ("durability", durability, get_args(Durability)),
        ("on_error", on_error, get_args(OnError)),
    ):
        if value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {shown(value)}")


def _check_create(create: object) -> None:
    if not isinstance(create, bool):
        raise TypeError(f"create must be True or False, got {shown(create)}")


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
