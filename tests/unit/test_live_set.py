"""Which stored messages are live is followed through whatever happens to a list."""

import copy
import itertools
import os
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strands.types.content import Message

from mongodb_session_manager._history.live_records import Record, View
from mongodb_session_manager._history.live_set import LiveMessages
from tests.live_lists import ACTS, Lists

# Some hundred examples each time; LIVE_SET_EXAMPLES=10000 for all that one has time for.
EXAMPLES = int(os.environ.get("LIVE_SET_EXAMPLES", "300"))


# The same examples in each run, so that a change is judged by what it changes; LIVE_SET_SEARCH=1 looks for new ones.
SEARCH = "LIVE_SET_SEARCH" in os.environ


@settings(deadline=None, max_examples=EXAMPLES, derandomize=not SEARCH, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**16), st.booleans(), st.lists(st.sampled_from(sorted(ACTS)), max_size=25))
def test_what_stood_in_the_list_comes_back(seed: int, gives_copies: bool, acts: list[str]) -> None:
    lists = Lists(seed)
    for act in acts:
        ACTS[act](lists)
        if act in ("look", "restart"):
            lists.check()
    lists.look()
    lists.check()
    lists.restart()
    lists.check()


@pytest.mark.parametrize(
    "acts",
    [
        # Copies that got their tracking ids later are like new messages, and tell of what left.
        "give_up_summary tool_turn tool_turn give_up_summary give_up_summary append_message append_message mark copy "
        "cut track",
        "give_up_summary say_together tool_turn give_up_summary give_up_summary append_message append_message mark "
        "copy track",
        # Of a prompt that was stored twice one record was forgotten, and both come back.
        "tool_turn say_again snapshot clear look undo",
        "turn say_again say_again snapshot clear look undo",
        # What a context manager merges into a summary stays the summary.
        "refuse tool_turn summarize turn give_up_summary mark",
    ],
)
@pytest.mark.parametrize("seed", [0, 133, 446])
def test_what_was_found(seed: int, acts: str) -> None:
    lists = Lists(seed)
    for act in acts.split():
        ACTS[act](lists)
    lists.look()
    lists.check()
    lists.restart()
    lists.check()


def test_a_copy_of_what_others_were_merged_into_stands_for_them_too() -> None:
    use: Any = {"toolUse": {"toolUseId": "t-1", "name": "x", "input": {}}}
    result: Any = {"toolResult": {"toolUseId": "t-1", "status": "success", "content": []}}
    said: list[Any] = [
        {"role": "assistant", "content": [{"text": "Okay."}], "tracking_id": "a"},
        {"role": "assistant", "content": [use], "tracking_id": "b"},
        {"role": "user", "content": [result], "tracking_id": "c"},
    ]
    followed = LiveMessages(itertools.starmap(Record, enumerate(said)))
    followed.begin(view_of(said))

    merged = [{**said[0], "content": [*said[0]["content"], use]}, said[2]]
    followed.look(view_of(merged))
    for _ in range(2):
        merged = copy.deepcopy(merged)
        followed.look(view_of(merged))
        assert [record.message_id for record in followed.snapshot.records] == [0, 1, 2]

    followed.look(view_of(copy.deepcopy([said[0]])))
    assert [record.message_id for record in followed.snapshot.records] == [0]


def view_of(messages: list[Any]) -> View:
    return View(messages, list, False)


# Applications make messages anew that have no tracking ids, to leave out images or what a model thought


def made_anew(messages: Iterable[Message]) -> list[Message]:
    return [{"role": message["role"], "content": [*message["content"], {"text": "…"}]} for message in messages]


def stripped(messages: Iterable[Message]) -> list[Message]:
    return [{"role": message["role"], "content": copy.deepcopy(message["content"])} for message in messages]


def ids(followed: LiveMessages) -> list[int]:
    return [record.message_id for record in followed.snapshot.records]


def followed_turns(count: int) -> tuple[LiveMessages, list[Message]]:
    lists = Lists()
    for _ in range(count):
        lists.turn()
    return lists.followed, lists.live


@pytest.mark.parametrize("make", [made_anew, stripped])
def test_messages_that_are_made_anew_stand_each_for_itself(make: Any) -> None:
    followed, live = followed_turns(4)

    while live:
        live = make(live)
        followed.look(view_of(live))
        assert ids(followed) == list(range(8 - len(live), 8))
        live = live[2:]
        followed.look(view_of(live))


def test_one_that_is_made_anew_says_nothing_of_a_window_that_moved() -> None:
    followed, live = followed_turns(4)

    followed.look(view_of([*live[4:7], *stripped(live[7:])]))

    assert ids(followed) == [4, 5, 6, 7]


def test_a_summary_stands_for_what_is_not_made_anew_behind_it() -> None:
    followed, live = followed_turns(4)
    summary: Message = {"role": "user", "content": [{"text": "In short: …"}]}

    live = [summary, *stripped(live[4:])]
    followed.look(view_of(live))
    assert ids(followed) == list(range(8))

    followed.look(view_of(live[1:]))
    assert ids(followed) == [4, 5, 6, 7]


class Counted(dict[str, Any]):
    """A block that counts how often it is compared."""

    compared = 0
    __hash__ = None

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        return super().__eq__(other)


def tool_use(number: int) -> Any:
    return {"role": "assistant", "content": [Counted(toolUse={"toolUseId": f"t-{number}"})]}


@pytest.mark.parametrize("make", [lambda number: {"role": "user", "content": [Counted(text=str(number))]}, tool_use])
def test_messages_that_are_not_stored_are_not_compared_with_each_other_one(make: Any) -> None:
    followed, stored = followed_turns(2)
    followed.look(view_of([*stored, *map(make, range(100))]))
    Counted.compared = 0

    followed.look(view_of([*stored, *map(make, range(150, 50, -1))]))

    assert 0 < Counted.compared < 300
