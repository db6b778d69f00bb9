"""The live set at its seams: each exception, other conversation managers, old sessions, segments, other processes."""

import copy
import itertools
import logging
from collections.abc import Callable
from typing import Any, cast

import pytest
from strands import Agent, ToolContext, tool
from strands.agent.conversation_manager import (
    ConversationManager,
    NullConversationManager,
    SlidingWindowConversationManager,
    SummarizingConversationManager,
)
from strands.agent.conversation_manager.compression.pin_message import is_pinned, pin_message, unpin_message
from strands.hooks import (
    AfterInvocationEvent,
    AfterModelCallEvent,
    BeforeInvocationEvent,
    BeforeModelCallEvent,
    MessageAddedEvent,
)
from strands.types.content import Message
from strands.types.exceptions import ContextWindowOverflowException

from mongodb_session_manager import (
    MongoDBSessionManager,
    MongoDBSessionManagerFactory,
    SessionConflictError,
    UnstorableValueError,
)
from mongodb_session_manager._history.live_set import LiveMessages
from mongodb_session_manager.testing import CommandCounter, Redaction, ScriptedModel
from tests.aliases import Client, Failing, NewAgent, NewManager, Stored
from tests.first_version import element, legacy, legacy_agent
from tests.integration.history.live_agents import Notes
from tests.talking import LOOK, every_durability, look, look_up, texts, user, without_ids
from tests.watching import cost


def window(size: int = 4, **options: Any) -> SlidingWindowConversationManager:
    return SlidingWindowConversationManager(window_size=size, **options)


def summarizing(**options: Any) -> SummarizingConversationManager:
    return SummarizingConversationManager(summary_ratio=0.5, preserve_recent_messages=2, **options)


def talk(agent: Agent, *prompts: str) -> None:
    for prompt in prompts:
        agent(prompt)


def overflow(agent: Agent, summary: str) -> None:
    """Have the agent put a summary in the place of its oldest messages."""
    model = agent.model
    agent.model = ScriptedModel([ContextWindowOverflowException("too long"), summary], default="Okay.")
    agent("Too long")
    agent.model = model


def live_of(session: dict[str, Any]) -> Any:
    return session["agents"]["default"].get("live")


@pytest.fixture
def restart(new_manager: NewManager, new_agent: NewAgent) -> Callable[..., Agent]:
    """Go on with another manager and agent; the manager is the agent's ``_session_manager``."""

    def go_on(before: Agent | None = None, make: Callable[[], ConversationManager] = window, **options: Any) -> Agent:
        if before is not None:
            cast(MongoDBSessionManager, before._session_manager).close()
        how = {"on_error": options.pop("on_error")} if "on_error" in options else {}
        return new_agent(new_manager(**how), conversation_manager=make(), **options)

    return go_on


Restart = Callable[..., Agent]

# Exceptions: what is restored although it is not live, or the other way round


def test_a_message_that_nobody_announced_is_left_out(restart: Restart) -> None:
    agent = restart()
    agent.messages.append(user("Nobody announced this"))
    agent("Hi")

    assert texts(agent.messages) == ["Nobody announced this", "Hi", "Okay."]
    assert texts(restart(agent).messages) == ["Hi", "Okay."]


def test_a_message_that_only_append_message_told_is_present(restart: Restart) -> None:
    agent = restart()
    agent("Hi")
    cast(Any, agent._session_manager).append_message(user("Noted"), agent)

    assert texts(agent.messages) == ["Hi", "Okay."]
    assert texts(restart(agent).messages) == ["Hi", "Okay.", "Noted"]


def test_a_message_that_only_append_message_told_leaves_with_the_next_one(restart: Restart) -> None:
    agent = restart(make=lambda: window(2))
    cast(Any, agent._session_manager).append_message(user("Noted"), agent)
    talk(agent, "One", "Two")

    assert texts(restart(agent, lambda: window(2)).messages) == ["Two", "Okay."]


def test_a_message_that_a_tool_appends_does_not_part_its_call_from_its_result(restart: Restart, stored: Stored) -> None:
    @tool(context=True)
    def note(tool_context: ToolContext) -> str:
        """Take a note."""
        tool_context.agent._session_manager.append_message(user("Noted"), tool_context.agent)
        return "This is the result"

    agent = restart(tools=[note])
    use: Any = {"toolUse": {"toolUseId": "t-1", "name": "note", "input": {}}}
    agent.model = ScriptedModel([use], default="Okay.")
    agent("Hi")
    live = copy.deepcopy(agent.messages)

    again = restart(agent)
    order = [message["content"] for message in again.messages]

    assert without_ids(m for m in again.messages if m["content"] != [{"text": "Noted"}]) == without_ids(live)
    assert order.index([{"text": "Noted"}]) == 3
    again("Go on")
    assert restart(again).messages == again.messages
    assert [m["message_id"] for m in stored()["agents"]["default"]["messages"]] == list(range(7))


def test_a_message_that_was_changed_in_place_comes_back_as_captured(restart: Restart) -> None:
    agent = restart()
    agent("Hi")
    agent.messages[0]["content"] = [{"text": "Changed"}]
    agent("Ho")

    assert texts(restart(agent).messages) == ["Hi", "Okay.", "Ho", "Okay."]


def test_pins_are_no_exception(restart: Restart) -> None:
    agent = restart(make=lambda: window(2))
    agent("Pinned")
    pin_message(agent.messages, 0)
    talk(agent, "One", "Two")
    again = restart(agent, lambda: window(2))
    assert texts(again.messages) == texts(agent.messages) == ["Pinned", "Two", "Okay."]
    assert [is_pinned(again.messages, place) for place in range(3)] == [True, False, False]

    unpin_message(again.messages, 0)
    talk(again, "Three", "Four")

    assert texts(restart(again, lambda: window(2)).messages) == texts(again.messages) == ["Four", "Okay."]


def test_a_message_that_was_appended_pinned_is_pinned(restart: Restart) -> None:
    agent = restart()
    pinned = {**user("Noted"), "metadata": {"custom": {"pinned": True}}}
    cast(Any, agent._session_manager).append_message(pinned, agent)
    agent("Hi")

    assert [is_pinned(restart(agent).messages, place) for place in (0,)] == [True]


def test_what_a_context_manager_replaced_comes_back_in_the_original(restart: Restart) -> None:
    agent = restart(make=NullConversationManager)
    talk(agent, "One", "Two", "Three")
    agent.messages[1:4] = [{"role": "assistant", "content": [{"text": "[3 messages]"}]}]
    agent("Four")

    assert texts(agent.messages) == ["One", "[3 messages]", "Three", "Okay.", "Four", "Okay."]
    again = restart(agent, NullConversationManager)
    assert texts(again.messages) == ["One", "Okay.", "Two", "Okay.", "Three", "Okay.", "Four", "Okay."]


def test_originals_leave_with_what_replaced_them(restart: Restart) -> None:
    agent = restart(make=NullConversationManager)
    talk(agent, "One", "Two")
    agent.messages[1:3] = [{"role": "assistant", "content": [{"text": "[2 messages]"}]}]
    agent("Three")
    del agent.messages[1]
    agent("Four")

    assert texts(restart(agent, NullConversationManager).messages) == texts(agent.messages)


@pytest.mark.parametrize(
    "event", [BeforeInvocationEvent, BeforeModelCallEvent, AfterModelCallEvent, AfterInvocationEvent]
)
@pytest.mark.parametrize("make", [NullConversationManager, lambda: window(6), lambda: window(6, pin_first=2)])
def test_messages_that_are_made_anew_come_back_with_the_window(restart: Restart, make: Any, event: Any) -> None:
    """An application makes the list anew, as it does to leave out images or what a model thought."""

    def make_anew(event: Any) -> None:
        event.agent.messages = [{"role": m["role"], "content": list(m["content"])} for m in event.agent.messages]

    agent = None
    for number in range(6):
        agent = restart(agent, make, tools=[look_up], model=ScriptedModel([look("kiwi", number)], default="Okay."))
        agent.hooks.add_callback(event, make_anew)
        talk(agent, f"Kiwi {number}", f"Thanks {number}")
        live = copy.deepcopy(agent.messages)

        again = restart(agent, make, tools=[look_up])
        assert [m["content"] for m in again.messages] == [m["content"] for m in live]
        agent = again


def test_a_beginning_is_moved_back_to_a_users_message(restart: Restart) -> None:
    agent = restart(make=NullConversationManager)
    talk(agent, "One", "Two")
    cast(Any, agent._session_manager).sync_agent(agent)
    del agent.messages[0]
    cast(Any, agent._session_manager).sync_agent(agent)
    agent.messages.insert(0, user("Nobody announced this"))
    agent("Three")

    assert texts(restart(agent, NullConversationManager).messages) == ["One", "Okay.", "Two", "Okay.", "Three", "Okay."]


def test_a_beginning_with_an_answer_comes_back_where_the_live_one_did(restart: Restart) -> None:
    agent = restart(make=NullConversationManager)
    talk(agent, "One", "Two")
    del agent.messages[0]
    agent("Three")

    assert texts(restart(agent, NullConversationManager).messages) == texts(agent.messages)
    assert agent.messages[0]["role"] == "assistant"


# A list that the application changes


@pytest.mark.parametrize("anew", [True, False])
@pytest.mark.parametrize("make", [NullConversationManager, window, summarizing, Notes])
def test_a_cleared_list_stays_cleared(restart: Restart, make: Callable[[], ConversationManager], anew: bool) -> None:
    agent = restart(make=make)
    talk(agent, *"12345")
    if make is summarizing:
        overflow(agent, "In short")
    if anew:
        agent.messages = []
    else:
        agent.messages.clear()
    cast(Any, agent._session_manager).sync_agent(agent)

    again = restart(agent, make)
    assert again.messages == []
    again("Hi")
    last = restart(again, make)
    assert texts(last.messages) == texts(again.messages) == ["Hi", "Okay."]


def test_what_the_conversation_begins_with_stays_away_after_it_was_cleared(restart: Restart) -> None:
    agent = restart()
    agent("Forget this")
    agent.messages.clear()
    cast(Any, agent._session_manager).sync_agent(agent)
    greeting: Message = {"role": "assistant", "content": [{"text": "Hello again"}]}
    cast(Any, agent._session_manager).append_message(greeting, agent)
    agent.messages.append(user("Nobody announced this"))
    cast(Any, agent._session_manager).sync_agent(agent)

    assert texts(restart(agent).messages) == ["Hello again"]


def test_undo_and_restarts(restart: Restart) -> None:
    agent = restart(make=NullConversationManager)
    agent("One")
    snapshot = agent.take_snapshot(preset="session")
    talk(agent, "Two", "Three")
    agent.load_snapshot(snapshot)
    cast(Any, agent._session_manager).sync_agent(agent)
    agent = restart(agent, NullConversationManager)
    assert texts(agent.messages) == ["One", "Okay."]
    later = agent.take_snapshot(preset="session")
    agent("Four")
    agent.load_snapshot(later)
    agent("Five")
    agent = restart(agent, NullConversationManager)
    assert texts(agent.messages) == ["One", "Okay.", "Five", "Okay."]


def test_an_undone_turn_stays_undone_beside_what_nobody_announced(restart: Restart) -> None:
    agent = restart(make=NullConversationManager)
    agent.messages.append(user("Nobody announced this"))
    agent("One")
    snapshot = agent.take_snapshot(preset="session")
    agent("Two")
    agent.load_snapshot(snapshot)
    agent("Three")

    assert texts(restart(agent, NullConversationManager).messages) == ["One", "Okay.", "Three", "Okay."]


def test_what_was_looked_up_in_vain_is_not_looked_up_again(restart: Restart, command_counter: CommandCounter) -> None:
    """An intervention's guidance has a tracking id, and is not stored."""
    agent = restart(make=lambda: window(6))
    talk(agent, "One", "Two", "Three", "Four")
    guidance = {**user("Be kind."), "tracking_id": "guidance"}
    agent.messages.insert(-1, cast(Message, guidance))
    snapshot = agent.take_snapshot(preset="session")
    agent("Five")
    agent.load_snapshot(snapshot)
    memory = user("(I like tea.)")
    agent.hooks.add_callback(BeforeInvocationEvent, lambda event: event.agent.messages.append(memory))
    with command_counter.counting() as log:
        agent("Six")

    assert log.reads == 2  # for the guidance, and for the memory, which the SDK gives a tracking id
    assert texts(restart(agent).messages) == [text for text in texts(agent.messages) if text[0] not in "B("]
    assert "Five" not in texts(agent.messages)


def test_a_copy_that_was_put_in_is_looked_up_once(restart: Restart, command_counter: CommandCounter) -> None:
    agent = restart(make=lambda: window(6))
    talk(agent, "One", "Two", "Three", "Four")
    agent.messages += copy.deepcopy(agent.messages[-2:])
    with command_counter.counting() as log:
        agent("Five")

    assert log.reads == 1
    assert texts(restart(agent).messages)[-4:] == ["Four", "Okay.", "Five", "Okay."]


def test_an_undo_keeps_what_a_context_manager_replaced(restart: Restart) -> None:
    agent = restart(make=NullConversationManager)
    talk(agent, "One", "Two", "Three")
    agent.messages[1:4] = [{"role": "assistant", "content": [{"text": "[3 messages]"}]}]
    agent("Four")
    agent.load_snapshot(agent.take_snapshot(preset="session"))
    agent("Five")

    said = ["One", "Two", "Three", "Four", "Five"]
    assert texts(restart(agent, NullConversationManager).messages)[::2] == said


def test_an_undo_brings_back_a_prompt_that_was_sent_twice(restart: Restart) -> None:
    """Both stored messages have one tracking id, and one of them may be known still when the list comes back."""
    prompt = user("Hi")
    agent = restart(make=NullConversationManager, model=ScriptedModel(["Okay.", OSError("no answer")], default="Okay."))
    agent([prompt])
    with pytest.raises(OSError, match="no answer"):
        agent([prompt])
    assert texts(agent.messages) == ["Hi", "Okay.", "Hi"]
    before = copy.deepcopy(agent.messages)
    agent.messages.clear()
    cast(MongoDBSessionManager, agent._session_manager).sync_agent(agent)
    agent.messages[:] = before
    agent("Go on")

    agent = restart(agent, make=NullConversationManager)
    assert texts(agent.messages) == ["Hi", "Okay.", "Hi", "Go on", "Okay."]


def test_an_undo_that_is_older_than_the_window_brings_each_message_once(restart: Restart) -> None:
    agent = restart(make=lambda: window(2))
    prompt = [{**user("Sent twice"), "tracking_id": "t-1"}]
    agent(cast(Any, prompt))
    snapshot = agent.take_snapshot(preset="session")
    agent(cast(Any, copy.deepcopy(prompt)))
    talk(agent, "One", "Two")
    agent.load_snapshot(snapshot)
    cast(Any, agent._session_manager).sync_agent(agent)

    assert texts(restart(agent, lambda: window(2)).messages) == texts(agent.messages) == ["Sent twice", "Okay."]


def test_a_look_that_failed_is_tried_again(restart: Restart, failing: Failing) -> None:
    agent = restart(make=lambda: window(2), on_error="degrade")
    agent("One")
    snapshot = agent.take_snapshot(preset="session")
    talk(agent, "Two", "Three")
    agent.conversation_manager.window_size = 40  # type: ignore[attr-defined]
    agent.load_snapshot(snapshot)
    with failing("aggregate", mode={"times": 1}, errorCode=8000) as met:
        agent("Four")

    assert met == [1]
    assert texts(restart(agent).messages) == texts(agent.messages) == ["One", "Okay.", "Four", "Okay."]


@pytest.mark.parametrize("odd", [None, object(), "text", 5], ids=["none", "object", "text", "number"])
def test_what_is_no_message_costs_no_message(restart: Restart, odd: Any) -> None:
    """The SDK refuses such a list at the next call of its model; what was said until then is stored."""
    before = restart(None, lambda: window(2))
    talk(before, "One", "Two")
    agent = restart(before, NullConversationManager)
    agent.hooks.add_callback(AfterModelCallEvent, lambda event: event.agent.messages.insert(0, odd))

    agent("Three")

    assert texts(restart(agent, NullConversationManager).messages)[-2:] == ["Three", "Okay."]


def test_a_list_in_another_order_comes_back_in_that_order(restart: Restart) -> None:
    agent = restart(make=NullConversationManager)
    talk(agent, "One", "Two", "Three")
    agent.messages = agent.messages[2:4] + agent.messages[:2] + agent.messages[4:]
    agent("Four")
    again = restart(agent, NullConversationManager)
    assert texts(again.messages) == texts(agent.messages)

    again("Five")

    assert texts(restart(again, NullConversationManager).messages) == texts(again.messages)


# The conversation manager's own messages


class Remembering(ConversationManager):
    """Holds some of the live messages in its state, and gives them back."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[Message] = []

    def apply_management(self, agent: Agent, **kwargs: Any) -> None:
        self.held = agent.messages[2:3]

    def reduce_context(self, agent: Agent, e: Exception | None = None, **kwargs: Any) -> None: ...

    def get_state(self) -> dict[str, Any]:
        return {**super().get_state(), "held": self.held}

    def restore_from_session(self, state: dict[str, Any]) -> list[Message] | None:
        super().restore_from_session(state)
        self.held = state["held"]
        return self.held


def test_live_messages_that_the_manager_holds_stay_at_their_place(restart: Restart) -> None:
    agent = restart(make=Remembering)
    talk(agent, "One", "Two", "Three")

    again = restart(agent, Remembering)

    assert texts(again.messages) == texts(agent.messages)
    assert again.messages[2] is again.conversation_manager.held[0]  # type: ignore[attr-defined]


def in_pairs(notes: list[Message]) -> Any:
    return list(enumerate(notes))


def in_records(notes: list[Message]) -> Any:
    return {"long": {"notes": [{"at": place, "message": note} for place, note in enumerate(notes)]}}


@pytest.mark.parametrize("keep", [in_pairs, in_records])
def test_messages_that_a_managers_state_holds_further_inside_are_its_own(restart: Restart, keep: Any) -> None:
    class Keeping(Notes):
        def get_state(self) -> dict[str, Any]:
            return {**ConversationManager.get_state(self), "memory": keep(self.notes)}

        def restore_from_session(self, state: dict[str, Any]) -> list[Message] | None:
            ConversationManager.restore_from_session(self, state)
            kept = state["memory"]["long"]["notes"] if keep is in_records else state["memory"]
            self.notes = [each["message"] if keep is in_records else each[1] for each in kept]
            return self.notes

    agent = restart(make=Keeping)
    for number in range(3):
        talk(agent, *(f"{number}.{place}" for place in range(5)))
        again = restart(agent, Keeping)
        assert again.messages == agent.messages
        agent = again
    assert texts(agent.messages)[0].startswith("Note")


def test_a_managers_state_may_hold_copies_without_tracking_ids(restart: Restart) -> None:
    class Copying(Notes):
        def reduce_context(self, agent: Agent, e: Exception | None = None, **kwargs: Any) -> None:
            super().reduce_context(agent, e, **kwargs)
            for note in self.notes:
                note.pop("tracking_id", None)

        def get_state(self) -> dict[str, Any]:
            notes = [{"role": note["role"], "content": list(note["content"])} for note in self.notes]
            return {**ConversationManager.get_state(self), "notes": notes}

    agent = restart(make=Copying)
    for number in range(3):
        talk(agent, *(f"{number}.{place}" for place in range(5)))
        again = restart(agent, Copying)
        assert [message["content"] for message in again.messages] == [message["content"] for message in agent.messages]
        agent = again
    assert texts(agent.messages)[0].startswith("Note")


def test_a_summary_stands_behind_the_pinned_messages(restart: Restart) -> None:
    agent = restart(make=lambda: summarizing(pin_first=1))
    talk(agent, "Pinned", "One", "Two")
    overflow(agent, "In short")
    assert texts(agent.messages)[:2] == ["Pinned", "In short"]

    again = restart(agent, lambda: summarizing(pin_first=1))

    assert again.messages == agent.messages


MANAGERS: dict[str, Callable[[], ConversationManager]] = {
    "null": NullConversationManager,
    "window": lambda: window(40),
    "summary": summarizing,
    "notes": Notes,
}


@pytest.mark.parametrize(("before", "after"), list(itertools.permutations(MANAGERS, 2)))
def test_another_conversation_manager_goes_on_with_the_same_messages(
    restart: Restart, caplog: pytest.LogCaptureFixture, before: str, after: str
) -> None:
    agent = restart(make=MANAGERS[before])
    talk(agent, *"123")
    if before == "summary":
        overflow(agent, "In short")
    with caplog.at_level(logging.WARNING, "mongodb_session_manager"):
        again = restart(agent, MANAGERS[after])

    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert texts(again.messages) == texts(agent.messages)
    again("Go on")
    caplog.clear()
    last = restart(again, MANAGERS[after])
    assert texts(last.messages) == texts(again.messages)
    assert caplog.records == []


def test_an_old_summary_is_kept_until_the_list_drops_it(restart: Restart, stored: Stored) -> None:
    agent = restart(make=summarizing)
    talk(agent, *"123")
    overflow(agent, "In short")
    for _ in range(3):
        agent = restart(agent, lambda: window(40))
        agent("Go on")
        assert texts(agent.messages)[0] == "In short"
    assert [message["content"] for message in live_of(stored())["kept"]] == [[{"text": "In short"}]]

    del agent.messages[0]
    agent("Without it")

    assert "kept" not in live_of(stored())
    assert texts(restart(agent, lambda: window(40)).messages) == texts(agent.messages)


def test_a_pin_on_an_old_summary_comes_back(restart: Restart) -> None:
    agent = restart(make=summarizing)
    talk(agent, *"123")
    overflow(agent, "In short")
    agent = restart(agent, window)
    pin_message(agent.messages, 0)
    talk(agent, *"456")
    assert texts(agent.messages)[0] == "In short"

    again = restart(agent, window)
    assert again.messages == agent.messages
    unpin_message(again.messages, 0)
    cast(MongoDBSessionManager, again._session_manager).sync_agent(again)

    assert restart(again, window).messages == again.messages != agent.messages


@pytest.mark.parametrize("make", [summarizing, lambda: window(40)], ids=["summarizing", "window"])
def test_a_summary_is_kept_when_a_living_agent_gets_another_manager(
    restart: Restart, make: Callable[[], ConversationManager]
) -> None:
    agent = restart(make=summarizing)
    talk(agent, *"123")
    overflow(agent, "In short")

    agent.conversation_manager = make()
    agent("Go on")

    assert texts(agent.messages)[0] == "In short"
    assert texts(restart(agent, make).messages) == texts(agent.messages)


class Listing(NullConversationManager):
    """Has a state that is a list, and messages of its own in a tuple."""

    def get_state(self) -> Any:
        return ["a", "state"]

    def restore_from_session(self, state: dict[str, Any]) -> Any:
        return (user("Of its own"),)


def test_a_conversation_managers_state_is_an_object(new_manager: NewManager, new_agent: NewAgent) -> None:
    agent = new_agent(new_manager())
    agent("Hi")

    agent.conversation_manager = Listing()
    with pytest.raises(UnstorableValueError, match=r"'default' of session 's-1', conversation_manager_state.*list"):
        agent("And?")
    agent("Again")

    assert new_agent(new_manager()).messages == agent.messages


def test_a_conversation_manager_may_give_messages_in_anything(new_manager: NewManager, new_agent: NewAgent) -> None:
    new_agent(new_manager(), conversation_manager=window())("Hi")

    again = new_agent(new_manager(), conversation_manager=Listing())

    assert texts(again.messages) == ["Of its own", "Hi", "Okay."]


# Sessions without a live set


def old_session(count: int, removed: int, roles: tuple[str, ...] = ("user", "assistant")) -> dict[str, Any]:
    agent = legacy_agent()
    agent["messages"] = [element(n, roles[n % len(roles)], [{"text": f"m{n}"}]) for n in range(count)]
    agent["agent_data"]["conversation_manager_state"]["removed_message_count"] = removed
    return legacy({"default": agent})


@pytest.mark.parametrize(
    ("removed", "first"), [(0, 0), (4, 4), (5, 4), (7, 6), (9, 0), (8, None)], ids=lambda value: str(value)
)
def test_without_a_live_set_the_count_tells(
    observer: Client, database: str, restart: Restart, removed: int, first: int | None
) -> None:
    observer[database].agent_sessions.insert_one(old_session(8, removed))

    agent = restart()
    assert texts(agent.messages) == ([] if first is None else [f"m{n}" for n in range(first, 8)])
    live = texts(agent.messages)
    agent("Hi")

    assert texts(agent.messages) == [*live, "Hi", "Okay."][-4:]
    assert texts(restart(agent).messages) == texts(agent.messages)


def test_the_count_holds_for_another_conversation_manager_too(
    observer: Client, database: str, restart: Restart
) -> None:
    observer[database].agent_sessions.insert_one(old_session(8, 4))

    agent = restart(make=NullConversationManager)

    assert texts(agent.messages) == ["m4", "m5", "m6", "m7"]


@pytest.mark.parametrize("ids", [[0, 1, 1, 2], [0, 1, 2, 0, 1], [3, 1, 2, 0], [0, 0, 0, 0]], ids=str)
def test_a_history_whose_ids_are_mixed_up_comes_back_whole(
    observer: Client, database: str, restart: Restart, ids: list[int]
) -> None:
    document = old_session(len(ids), 0)
    for number, message in zip(ids, document["agents"]["default"]["messages"], strict=True):
        message["message_id"] = number
    observer[database].agent_sessions.insert_one(document)

    agent = restart(make=NullConversationManager)
    for prompt in ("Hi", "Ho"):
        agent(prompt)
        said = texts(agent.messages)
        agent = restart(agent, NullConversationManager)
        assert texts(agent.messages) == said
    assert texts(agent.messages)[: len(ids)] == [f"m{n}" for n in range(len(ids))]


class StatefulModel(ScriptedModel):
    @property
    def stateful(self) -> bool:
        return True


def test_a_stateful_model_has_no_live_set(new_manager: NewManager, new_agent: NewAgent, stored: Stored) -> None:
    talk(new_agent(new_manager(), model=StatefulModel(default="Okay.")), "One", "Two")

    assert live_of(stored()) is None
    agent = new_agent(new_manager(), conversation_manager=NullConversationManager())
    assert texts(agent.messages) == ["One", "Okay.", "Two", "Okay."]


# Odd messages


@pytest.mark.parametrize("tracking_id", [["x"], {"a": 1}, 5, "", "$role", "\ud800"], ids=repr)
def test_any_tracking_id_will_do(restart: Restart, tracking_id: Any) -> None:
    agent = restart(make=summarizing)
    talk(agent, "One", "Two")
    overflow(agent, "In short")
    agent(cast(Any, [{**user("Three"), "tracking_id": tracking_id}]))
    agent("Four")

    assert texts(restart(agent, summarizing).messages) == texts(agent.messages)


def test_a_refused_message_is_not_live_later(restart: Restart) -> None:
    agent = restart(make=lambda: window(40))
    agent("One")
    with pytest.raises(UnstorableValueError):
        agent(cast(Any, [{"text": "Two", "cannot": {"be", "stored"}}]))
    agent("Three")

    assert texts(restart(agent, lambda: window(40)).messages) == ["One", "Okay.", "Three", "Okay."]


# Costs


def test_a_set_that_only_grows_is_not_written(
    restart: Restart, stored: Stored, command_counter: CommandCounter
) -> None:
    agent = restart(make=lambda: window(40), tools=[look_up])
    agent("One")
    assert live_of(stored()) == {"from": 0}
    agent.model = ScriptedModel([LOOK], default="Okay.")

    with command_counter.counting() as log:
        agent("Two")

    assert cost(log) == (4, 0, 0)
    assert "live" not in str(log.commands)
    assert live_of(stored()) == {"from": 0}


def test_restarts_without_a_turn_write_nothing(
    restart: Restart, stored: Stored, command_counter: CommandCounter
) -> None:
    agent = restart()
    talk(agent, *"1234")
    cast(Any, agent._session_manager).close()
    before = stored()["agents"]

    with command_counter.counting() as log:
        for _ in range(3):
            agent = restart()
            cast(Any, agent._session_manager).sync_agent(agent)
            cast(Any, agent._session_manager).close()

    assert cost(log) == (3, 3, 0)  # each opening is an upsert
    assert stored()["agents"] == before


def test_a_moved_window_costs_one_write(restart: Restart, command_counter: CommandCounter) -> None:
    agent = restart()
    talk(agent, "One", "Two")

    with command_counter.counting() as log:
        agent("Three")
        cast(Any, agent._session_manager).flush()

    assert cost(log) == (3, 0, 0)


def test_imported_messages_are_not_gone_through_for_each_other(
    restart: Restart, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look at all of them for each would make an import of many quadratic."""
    agent = restart(make=NullConversationManager)
    manager = cast(Any, agent._session_manager)
    with monkeypatch.context() as patch:
        patch.setattr(LiveMessages, "_match", None)
        for number in range(20):
            manager.append_message(user(str(number)), agent)

    assert texts(restart(agent, NullConversationManager).messages) == [str(number) for number in range(20)]


# Segments


def test_live_messages_in_segments_cost_two_reads(restart: Restart, command_counter: CommandCounter) -> None:
    agent = restart(make=lambda: window(6))
    agent("Pinned")
    pin_message(agent.messages, 0)
    for number in range(60):
        agent(f"{number} " + "x" * 2000)
    manager = cast(Any, agent._session_manager)
    manager.flush()
    manager._agents.by_id["default"].history.move_oldest(kept_bytes=5000)

    with command_counter.counting() as log:
        again = restart(make=lambda: window(6))

    assert again.messages == agent.messages
    assert texts(again.messages)[0] == "Pinned"
    assert cost(log)[1] == 2
    again("Go on")
    assert restart(again, lambda: window(6)).messages == again.messages


def test_a_window_that_reaches_into_segments_comes_back(restart: Restart) -> None:
    agent = restart(make=lambda: window(100))
    for number in range(60):
        agent(f"{number} " + "x" * 2000)
    manager = cast(Any, agent._session_manager)
    manager.flush()
    manager._agents.by_id["default"].history.move_oldest(kept_bytes=5000)

    again = restart(make=lambda: window(100))

    assert again.messages == agent.messages
    assert len(again.messages) == 100


# Several processes


def test_a_second_process_goes_on_from_a_change_of_the_list(restart: Restart) -> None:
    first = restart(make=NullConversationManager)
    talk(first, "One", "Two")
    second = restart(make=NullConversationManager)
    first.messages.clear()
    cast(Any, first._session_manager).sync_agent(first)

    with pytest.raises(SessionConflictError):
        second("Three")
    assert restart(make=NullConversationManager).messages == []


def test_a_change_that_came_second_is_told(restart: Restart) -> None:
    first, second = restart(make=NullConversationManager), restart(make=NullConversationManager)
    first("One")
    second.messages.append(user("Nobody announced this"))

    with pytest.raises(SessionConflictError):
        second("Two")
    assert texts(restart(make=NullConversationManager).messages) == ["One", "Okay."]


async def test_what_was_read_ahead_is_restored_alike(
    factory: MongoDBSessionManagerFactory, new_agent: NewAgent
) -> None:
    async with factory.session("s-1", agent_ids=["default"]) as manager:
        agent = new_agent(manager, conversation_manager=window(2, pin_first=1))
        for prompt in ("Pinned", "One", "Two"):
            await agent.invoke_async(prompt)

    async with factory.session("s-1", agent_ids=["default"]) as manager:
        again = new_agent(manager, conversation_manager=window(2, pin_first=1))
        assert again.messages == agent.messages


def test_a_stranger_at_the_windows_edge(restart: Restart) -> None:
    """A memory that is put in front at each prompt is neither restored, nor does it bring back what left."""

    def remember(event: BeforeInvocationEvent) -> None:
        event.agent.messages.insert(0, user("A memory"))

    agent = restart(make=lambda: window(4))
    agent.hooks.add_callback(BeforeInvocationEvent, remember)
    talk(agent, *"12345")
    said = [text for text in texts(agent.messages) if text != "A memory"]

    assert texts(restart(agent, lambda: window(4)).messages) == said


def test_a_redaction_reaches_what_is_live_after_a_restart(restart: Restart, everything: Callable[[], bytes]) -> None:
    agent = restart(make=NullConversationManager, model=ScriptedModel([Redaction()], default="Okay."))
    agent("A secret")

    again = restart(agent, NullConversationManager)

    assert again.messages == agent.messages
    assert b"A secret" not in everything()


@pytest.mark.parametrize(
    "damaged",
    [
        [],
        "all",
        5,
        {},
        {"from": "2"},
        {"from": True},
        {"from": None},
        {"from": 2, "ranges": 5},
        {"from": 2, "ranges": [5]},
        {"from": 2, "ranges": [["0", 1]]},
        {"from": 2, "ranges": [[0]]},
        {"from": 2, "pinned": "0"},
        {"from": float("inf")},
    ],
    ids=str,
)
def test_a_live_set_that_cannot_be_read_is_as_if_there_were_none(
    restart: Restart, observer: Client, database: str, caplog: pytest.LogCaptureFixture, damaged: Any
) -> None:
    agent = restart(make=NullConversationManager)
    talk(agent, "One", "Two")
    sessions = observer[database].agent_sessions
    sessions.update_one({"_id": "s-1"}, {"$set": {"agents.default.live": damaged}})

    again = restart(agent, NullConversationManager)

    assert again.messages == agent.messages
    assert any("cannot be read" in record.getMessage() for record in caplog.records)
    again("Three")
    assert live_of(sessions.find_one({"_id": "s-1"}) or {}) == {"from": 0}


def test_live_messages_that_are_not_stored_are_told(
    restart: Restart, observer: Client, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    agent = restart(make=lambda: window(2, pin_first=2))
    talk(agent, *"123")
    sessions = observer[database].agent_sessions
    sessions.update_one({"_id": "s-1"}, {"$pull": {"agents.default.messages": {"message_id": 0}}})

    again = restart(agent, lambda: window(2, pin_first=2))

    assert again.messages == agent.messages[1:]
    assert any("not stored" in record.getMessage() for record in caplog.records)


@every_durability
@pytest.mark.parametrize("turns", [1, 2])
def test_what_is_put_back_before_it_is_sent_comes_back(
    new_manager: NewManager, new_agent: NewAgent, durability: str, turns: int
) -> None:
    manager = new_manager(durability=durability)
    new_agent(manager, "Hello.")("Hi")
    manager.close()
    manager = new_manager(durability=durability)
    agent = new_agent(manager, look("kiwi"), look("kiwi", 2), "Done.", tools=[look_up])
    taken: list[Message] = []
    added = 0

    def swap(event: MessageAddedEvent) -> None:
        nonlocal added, taken
        added += 1
        if added == 3:
            taken = copy.deepcopy(agent.messages[:-1])
            del agent.messages[:-1]
        elif added == 3 + turns:
            agent.messages[:0] = taken

    agent.hooks.add_callback(MessageAddedEvent, swap)
    agent("Look")
    live = copy.deepcopy(agent.messages)
    manager.close()

    assert len(live) == 8
    assert new_agent(new_manager()).messages == live
