"""Real agents to which everything happens that changes their lists of messages, and what must come back of it."""

import copy
import random
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, cast

from pydantic import BaseModel
from strands import Agent, ToolContext, tool
from strands._context_manager.strategies.offload import Offload
from strands.agent.conversation_manager import (
    ConversationManager,
    NullConversationManager,
    SlidingWindowConversationManager,
    SummarizingConversationManager,
)
from strands.agent.conversation_manager.compression.pin_message import is_pinned, pin_message, unpin_message
from strands.hooks import AfterInvocationEvent, BeforeInvocationEvent, BeforeModelCallEvent, MessageAddedEvent
from strands.interventions import Guide, InterventionHandler, Proceed
from strands.plugins import Plugin
from strands.types.content import Message
from strands.types.exceptions import (
    ContextWindowOverflowException,
    EventLoopException,
    StructuredOutputException,
)

from mongodb_session_manager import MongoDBSessionManager, UnstorableValueError
from mongodb_session_manager.testing import Redaction, ScriptedModel
from tests.live_lists import without
from tests.talking import ask, look, look_up, take_note, user

# Conversation managers


class Notes(ConversationManager):
    """Keeps a note of its own in front of the latest messages, and tells nobody.

    Args:
        copies: Whether its state holds copies of the notes.
    """

    def __init__(self, copies: bool = False) -> None:
        super().__init__()
        self.copies, self.notes, self.count = copies, cast("list[Message]", []), 0

    def apply_management(self, agent: Agent, **kwargs: Any) -> None:
        if len(agent.messages) > 7:
            self.reduce_context(agent)

    def reduce_context(self, agent: Agent, e: Exception | None = None, **kwargs: Any) -> None:
        first = next(
            (n for n, m in enumerate(agent.messages) if n > 3 and "text" in m["content"][0] and m["role"] == "user"), 0
        )
        if first:
            self.count += 1
            self.removed_message_count += first - len(self.notes)
            self.notes = [
                {
                    "role": "user",
                    "content": [{"text": f"Note {self.count}"}],
                    "tracking_id": f"n-{id(agent)}-{self.count}",
                }
            ]
            agent.messages[:first] = self.notes

    def get_state(self) -> dict[str, Any]:
        return {**super().get_state(), "notes": copy.deepcopy(self.notes) if self.copies else list(self.notes)}

    def restore_from_session(self, state: dict[str, Any]) -> list[Message] | None:
        super().restore_from_session(state)
        self.notes = list(state["notes"])
        return self.notes


def summarizing(**options: Any) -> SummarizingConversationManager:
    return SummarizingConversationManager(summary_ratio=0.5, preserve_recent_messages=2, **options)


def managing(make: Callable[[], ConversationManager], **model: Any) -> Callable[[], dict[str, Any]]:
    return lambda: {"conversation_manager": make(), "limits": model}


KINDS: dict[str, Callable[[], dict[str, Any]]] = {
    "null": managing(NullConversationManager),
    "window": managing(lambda: SlidingWindowConversationManager(window_size=4)),
    "window per turn": managing(lambda: SlidingWindowConversationManager(window_size=4, per_turn=True)),
    "pinned window": managing(lambda: SlidingWindowConversationManager(window_size=4, pin_first=2)),
    "no window": managing(lambda: SlidingWindowConversationManager(window_size=0)),
    "summary": managing(summarizing),
    "pinned summary": managing(lambda: summarizing(pin_first=1)),
    "proactive summary": managing(
        lambda: summarizing(proactive_compression={"compression_threshold": 0.5}), context_window_limit=60
    ),
    "notes": managing(Notes),
    "copied notes": managing(lambda: Notes(copies=True)),
    "auto": lambda: {"context_manager": "auto", "limits": {"context_window_limit": 80}},
    "agentic": lambda: {"context_manager": "agentic", "limits": {"context_window_limit": 80}},
    "truncation": lambda: {
        "context_manager": {"strategies": [Offload.truncate("*").when(utilization=0.5, preserve_recent=2)]},
        "limits": {"context_window_limit": 60},
    },
    "dropping": lambda: {
        "context_manager": {"strategies": [Offload.drop("tool_results").when(utilization=0.3, preserve_recent=1)]},
        "limits": {"context_window_limit": 60},
    },
}
# Whose own doings leave strangers behind that stand for what they took out.
REPLACING = {"auto", "agentic", "truncation", "dropping", "notes", "copied notes"}

# Tools


@tool(context=True)
def stop(tool_context: ToolContext) -> str:
    """Stop the agent."""
    tool_context.agent.cancel()
    return "stopping"


@tool
def errand(word: str) -> str:
    """Run an errand, while the conversation goes on."""
    return word


class Fruit(BaseModel):
    """A fruit."""

    name: str


class Guidance(InterventionHandler):
    name = "guidance"

    def __init__(self) -> None:
        self.wanted = False

    def before_model_call(self, event: Any, **kwargs: Any) -> Any:
        wanted, self.wanted = self.wanted, False
        return Guide(feedback="Be kind.") if wanted else Proceed()


class Minutes(Plugin):
    """Adds a word to the conversation when it is asked to, and tells nobody."""

    name = "minutes"

    def __init__(self) -> None:
        super().__init__()
        self.wanted = False

    def init_agent(self, agent: Agent) -> None:
        agent.hooks.add_callback(BeforeModelCallEvent, self._before_model_call)

    def _before_model_call(self, event: BeforeModelCallEvent) -> None:
        if self.wanted:
            event.agent.messages.append(user("For the minutes"))
        self.wanted = False


REFUSALS = (ContextWindowOverflowException, UnstorableValueError)


class Conversation:
    """An agent in a session, what happens to it, and a comparison after each restart.

    Args:
        new_manager: Makes managers of the session.
        kind: One of ``KINDS``.
        durability: As of the manager.
        seed: Chooses the places at which something happens.
    """

    def __init__(
        self, new_manager: Callable[[str], MongoDBSessionManager], kind: str, durability: str, seed: int = 0
    ) -> None:
        self._new_manager, self._kind, self._durability = new_manager, kind, durability
        self._chosen = random.Random(seed)
        self._number = 0
        # As they were announced; those that append_message() told.
        self.announced: dict[str, Message] = {}
        self.appended: set[str] = set()
        self.snapshots: list[Any] = []
        self.has_strangers = False
        self._start()

    def _start(self) -> None:
        self.script: deque[Any] = deque()
        self.guidance, self.minutes = Guidance(), Minutes()
        self.memory: Message | None = None
        self.resume: str | None = None
        options = KINDS[self._kind]()
        model = ScriptedModel(
            default=lambda _: self.script.popleft() if self.script else "Okay.", **options.pop("limits")
        )
        self.manager = self._new_manager(self._durability)
        if self._chosen.random() < 0.3:
            self.manager.prefetch(["default"])
        self.agent = Agent(
            session_manager=self.manager,
            model=model,
            tools=[
                *(look_up, take_note, ask, stop, errand),
                Agent(model=ScriptedModel(default="Done."), name="helper").as_tool(),
            ],
            interventions=[self.guidance],
            plugins=[self.minutes],
            background_tasks={"agentic": [], "always": ["errand"]},
            callback_handler=None,
            **options,
        )
        self.agent.hooks.add_callback(MessageAddedEvent, self._note)
        self.agent.hooks.add_callback(BeforeInvocationEvent, self._remember)
        self.agent.hooks.add_callback(AfterInvocationEvent, self._go_on)

    def _note(self, event: MessageAddedEvent) -> None:
        self.announced[event.message["tracking_id"]] = copy.deepcopy(event.message)

    def _remember(self, event: BeforeInvocationEvent) -> None:
        memory, self.memory = self.memory, None
        if memory is not None:
            event.agent.messages.insert(self._chosen.choice([0, len(event.agent.messages)]), memory)

    def _go_on(self, event: AfterInvocationEvent) -> None:
        event.resume, self.resume = self.resume, None

    def _word(self) -> str:
        self._number += 1
        return f"kiwi-{self._number}"

    def _say(self, prompt: Any = None, *script: Any, **options: Any) -> Any:
        self.script = deque(script)
        # What the SDK says of a conversation that cannot go on is nothing to us.
        with suppress(EventLoopException, RuntimeError, StructuredOutputException, *REFUSALS):
            return self.agent(prompt or f"Say {self._word()}", **options)

    # What happens

    def talk(self) -> None:
        self._say()

    def talk_at_length(self) -> None:
        for _ in range(4):
            self._say()

    def call_tool(self) -> None:
        self._say(None, look(self._word(), self._number))

    def call_tools(self) -> None:
        self._say(None, [look(self._word(), self._number), look(self._word(), self._number)])

    def structured(self) -> None:
        use = {"toolUse": {"toolUseId": self._word(), "name": "Fruit", "input": {"name": "kiwi"}}}
        self._say(None, use, structured_output_model=Fruit)

    def cancel(self) -> None:
        self._say(None, {"toolUse": {"toolUseId": self._word(), "name": "stop", "input": {}}})

    def delegate(self) -> None:
        use = {"toolUse": {"toolUseId": self._word(), "name": "helper", "input": {"input": "Help"}}}
        self._say(None, use)

    def send_on_an_errand(self) -> None:
        use = {"toolUse": {"toolUseId": self._word(), "name": "errand", "input": {"word": self._word()}}}
        self._say(None, use, "It is on its way.")

    def take_minutes(self) -> None:
        self.minutes.wanted = self.has_strangers = True
        self._say()

    def limit(self) -> None:
        self._say(None, look(self._word(), self._number), limits={"turns": 1})

    def call_directly(self) -> None:
        with suppress(Exception):
            self.agent.tool.look_up(word=self._word())

    def continue_(self) -> None:
        self.resume = f"And {self._word()}"
        self._say()

    def redact(self) -> None:
        self._say(None, Redaction())
        for message in self.agent.messages:
            if message["content"] == [{"text": "[User input redacted.]"}]:
                self.announced[message["tracking_id"]] = copy.deepcopy(message)

    def interrupt(self) -> None:
        result = self._say(None, {"toolUse": {"toolUseId": self._word(), "name": "ask", "input": {}}})
        if result is not None and result.interrupts:
            if self._chosen.random() < 0.5:
                self.restart()
            self._say([{"interruptResponse": {"interruptId": i.id, "response": "yes"}} for i in result.interrupts])

    def append(self) -> None:
        message = {**user(f"Noted {self._word()}"), "tracking_id": f"a-{self._number}"}
        self.appended.add(cast(str, message["tracking_id"]))
        self.announced[cast(str, message["tracking_id"])] = cast(Message, copy.deepcopy(message))
        self.manager.append_message(cast(Message, message), self.agent)

    def snapshot(self) -> None:
        self.snapshots.append(self.agent.take_snapshot(preset="session"))

    def undo(self) -> None:
        if self.snapshots and not self.agent._interrupt_state.activated:
            self.agent.load_snapshot(self._chosen.choice(self.snapshots))
            self._look()

    def clear(self) -> None:
        self.agent.messages.clear()
        self._look()

    def begin_anew(self) -> None:
        self.agent.messages = []
        self._look()

    def remember(self) -> None:
        self.has_strangers = True
        self.memory = user(f"Remember {self._word()}")
        self._say()

    def guide(self) -> None:
        self.has_strangers = self.guidance.wanted = True
        self._say()

    def refuse(self) -> None:
        self.has_strangers = True
        self._say([{"text": f"Refuse {self._word()}", "cannot": {"be", "stored"}}])

    def overflow(self) -> None:
        self._say(None, ContextWindowOverflowException("too long"), f"In short: {self._word()}")

    def fail_summary(self) -> None:
        self._say(None, ContextWindowOverflowException("too long"), RuntimeError("no summary"))

    def pin(self) -> None:
        if self.agent.messages:
            place = self._chosen.randrange(len(self.agent.messages))
            self._chosen.choice([pin_message, pin_message, unpin_message])(self.agent.messages, place)
            self._look()

    def _look(self) -> None:
        if self._chosen.random() < 0.5:
            self.manager.sync_agent(self.agent)

    # Restarts

    def restart(self) -> None:
        """Go on with another manager and agent, and compare."""
        self.manager.sync_agent(self.agent)
        self.manager.close()
        live, state = copy.deepcopy(self.agent.messages), self.agent.conversation_manager.get_state()
        own = {
            message.get("tracking_id") for message in [state.get("summary_message"), *state.get("notes", [])] if message
        }
        self._start()
        self.compare(live, self.agent.messages, own)

    def compare(self, live: Sequence[Message], restored: Sequence[Message], own: set[str]) -> None:
        tracked = {message.get("tracking_id") for message in restored}
        wanted = [m for m in live if m.get("tracking_id") in {*self.announced, *self.appended, *own}]
        wanted = [m for m in wanted if m.get("tracking_id") in own or self._is_stored(m)]
        more = without(_ids(restored), _ids(wanted))
        assert more is not None, (_ids(restored), _ids(wanted), live, restored)
        strangers = len(wanted) < len(live)
        allowed = set(self.appended)
        if strangers or self._kind in REPLACING:
            allowed |= self.announced.keys() | own
        assert set(more) <= allowed, (_ids(restored), _ids(wanted), live, restored)
        found = {m.get("tracking_id"): m for m in restored}
        for message in wanted:
            self._compare(message, found[message.get("tracking_id")])
        if restored and not _begins_well(restored[0]) and not (live and not _begins_well(live[0])):
            assert not any(map(_begins_well, self.announced.values())), (live, restored)
        assert len(tracked) == len(restored), restored

    def _is_stored(self, message: Message) -> bool:
        return not any("cannot" in block for block in message["content"])

    def _compare(self, live: Message, restored: Message) -> None:
        as_announced = self.announced.get(cast(str, live.get("tracking_id")), live)
        assert restored["content"] in (live["content"], as_announced["content"]), (live, restored)
        assert restored["role"] == live["role"]
        if self._kind != "null":  # which has no use for pins
            assert is_pinned([restored], 0) == is_pinned([live], 0), (live, restored)


def _ids(messages: Sequence[Message]) -> list[str]:
    return [message.get("tracking_id", "none") for message in messages]


def _begins_well(message: Message) -> bool:
    return message["role"] == "user" and not any("toolResult" in block for block in message["content"])


ACTS: dict[str, Callable[[Conversation], None]] = {
    name: act
    for name, act in vars(Conversation).items()
    if not name.startswith("_") and name != "compare" and callable(act)
}
