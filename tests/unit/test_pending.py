"""The queue of one agent's history beside a plain model of what is stored: nothing is lost, doubled or out of order."""

import os
import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from bson import ObjectId

from mongodb_session_manager import MongoDBSessionError
from mongodb_session_manager._history.changes import Change, NextWrite
from mongodb_session_manager._history.pending import PendingChanges
from mongodb_session_manager._schema.blobs import LargeValues
from mongodb_session_manager._schema.histories import AgentWrite, Guard
from mongodb_session_manager._schema.limits import Limits
from mongodb_session_manager._schema.messages import MessageEdit
from mongodb_session_manager.types import MessageDoc

HUGE = "huge"
LIMITS = Limits(pending=40, joined_bytes=100, shared_bytes=100)
STEPS = 600
# PENDING_WALKS=10000 for all that one has time for.
WALKS = int(os.environ.get("PENDING_WALKS", "20"))


def window(removed: int) -> dict[str, Any]:
    return {"conversation_manager_state": {"__name__": "Manager", "removed_message_count": removed}}


class Server:
    """What is stored of one agent, and how a guarded write changes it."""

    def __init__(self) -> None:
        self.guard: Guard | None = None
        self.messages: list[dict[str, Any]] = []
        self.data: dict[str, Any] = {}
        self.events: list[dict[str, Any]] = []

    @staticmethod
    def refuses(write: AgentWrite) -> bool:
        return HUGE in write.data.values() or any(message["content"] == HUGE for message in write.appended)

    def takes(self, following: NextWrite, *, is_new: bool) -> bool:
        return self.guard is None if is_new else following.guard == self.guard

    def apply(self, write: AgentWrite) -> None:
        assert [m["message_id"] for m in write.appended] == [len(self.messages) + n for n in range(len(write.appended))]
        if write.edited is not None:
            write.edited.apply(self.messages[write.edited.message_id])
        self.messages += map(dict, write.appended)
        self.data |= write.data
        self.events += write.guardrail_events
        self.guard = write.leads_to(self.guard or Guard(None, 0))


class Walk:
    """Says and changes things at random, sends them over a line that loses answers, and knows what is to come of it.

    Args:
        seed: For the dice.
    """

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.queue = PendingChanges("s-1", "a-1", None, LIMITS)
        self.server = Server()
        # What is to be stored in the end: the messages, by tracking id in their order, fields, and events.
        self.messages: dict[str, str] = {}
        self.data: dict[str, Any] = {}
        self.events: list[dict[str, Any]] = []
        self.seen: Counter[str] = Counter()
        self.number = 0

    def next(self) -> int:
        self.number += 1
        return self.number

    def new_value(self) -> str:
        return HUGE if self.dice.random() < 0.05 else f"v-{self.next()}"

    def add(self, change: Change) -> None:
        if len(self.queue.changes) < LIMITS.pending:
            self.queue.add(change)
        else:
            with pytest.raises(MongoDBSessionError, match="no more are held"):
                self.queue.add(change)
            raise OverflowError

    # What is captured

    def append(self) -> None:
        tracking_id, content = f"t-{self.next()}", self.new_value()
        data = self.fields() if self.dice.random() < 0.3 else {}
        stored: MessageDoc = {"message_id": self.queue.next_message_id, "tracking_id": tracking_id, "content": content}
        self.add(Change(stored, data=data, size=self.dice.choice([10, 40, 120])))
        self.messages[tracking_id] = content
        self.expect(data)

    def fields(self) -> dict[str, Any]:
        return {name: self.new_value() for name in self.dice.sample(["state", "x", "y"], self.dice.randint(1, 2))}

    def expect(self, data: dict[str, Any]) -> None:
        self.data |= {name: value for name, value in data.items() if value != HUGE}

    def change(self) -> None:
        data = self.fields()
        self.add(Change(data=data))
        self.expect(data)

    def move_window(self) -> None:
        data = window(self.next())
        self.add(Change(data=data))
        self.data |= data

    def edit(self) -> None:
        self.put(redacts=False)

    def redact(self) -> None:
        self.put(redacts=True)

    def put(self, *, redacts: bool) -> None:
        if not self.messages or len(self.queue.changes) + 2 > LIMITS.pending:
            return
        tracking_id = self.dice.choice(list(self.messages)[-8:])
        message_id, content = list(self.messages).index(tracking_id), f"e-{self.next()}"
        fields: dict[str, Any] = {"content": content} | ({"redacted": True} if redacts else {})
        edit, event = MessageEdit(message_id, fields, ()), {"n": self.next()}
        along = Change(guardrail_events=[event] if redacts else [])
        values = LargeValues()
        is_done, _ = self.queue.edit(edit, values)
        if not is_done:
            self.queue.add(replace(along, edited=edit, values=values))
        elif redacts:
            self.queue.add(along)
        self.messages[tracking_id] = content
        self.events += along.guardrail_events
        waiting = [c.edited for c in self.queue.changes if c.edited and c.edited.message_id == message_id]
        assert not redacts or all(each.redacts for each in waiting)
        self.seen["edited while it waits" if is_done else "edited where it is stored"] += 1

    # What is sent

    def send(self) -> None:
        is_new = not self.queue.is_stored
        following = self.queue.next()
        if following is None:
            assert not self.queue.changes
            return
        self.check_limits(following, is_new)
        if self.server.refuses(following.write):
            self.make_smaller(following)
        elif not self.server.takes(following, is_new=is_new):
            self.reconcile(following)
        elif self.dice.random() < 0.6:
            self.server.apply(following.write)
            self.acknowledge(following.joined, following.after)
        elif self.dice.random() < 0.5:
            self.server.apply(following.write)
            self.seen["arrived without an answer"] += 1
        else:
            self.seen["did not arrive"] += 1

    def check_limits(self, following: NextWrite, is_new: bool) -> None:
        sizes = [change.size for change in self.queue.first(following.joined)]
        assert is_new or following.joined == 1 or sum(sizes) <= LIMITS.joined_bytes
        assert following.joined <= self.queue.limits.pending
        assert following.write.size == sum(sizes)
        assert following.after == following.write.leads_to(following.guard)

    def acknowledge(self, count: int, after: Guard) -> None:
        done = self.queue.acknowledge(count, after)
        assert len(done) == count
        self.seen["acknowledged"] += 1

    def reconcile(self, following: NextWrite) -> None:
        assert self.server.guard is not None
        assert not following.write.keeps_revision, "an unanswered write would be in doubt"
        tracking_ids = {message["message_id"]: message["tracking_id"] for message in self.server.messages}
        arrived = self.queue.arrived(self.server.guard.write_id, tracking_ids)
        assert arrived is not None, "nobody else writes"
        appended = sum(change.appended is not None for change in self.queue.first(arrived))
        self.acknowledge(arrived, self.queue.guard.after(appended, self.server.guard.write_id))
        self.seen["recognised"] += 1

    def make_smaller(self, following: NextWrite) -> None:
        self.queue.forget_write(following.write.write_id)
        if self.queue.make_smaller(following.joined):
            self.seen["made smaller"] += 1
            return
        dropped = self.queue.drop_head()
        assert dropped.appended is not None
        del self.messages[dropped.appended["tracking_id"]]
        self.seen["dropped"] += 1

    # What is to hold

    def step(self) -> None:
        act = self.dice.choice([self.append, self.append, self.change, self.move_window, self.edit, self.redact])
        try:
            (self.send if self.dice.random() < 0.55 else act)()
        except OverflowError:
            self.send()
        self.check()

    def check(self) -> None:
        ids = [change.appended["message_id"] for change in self.queue.changes if change.appended]
        first = self.queue.guard.next_message_id
        assert ids == list(range(first, first + len(ids)))
        assert self.queue.next_message_id == first + len(ids)
        assert len(self.queue.changes) <= LIMITS.pending

    def finish(self) -> None:
        for _ in range(1000):
            if not self.queue.changes:
                break
            self.send()
            self.check()
        stored = [(message["tracking_id"], message["content"]) for message in self.server.messages]
        assert stored == list(self.messages.items())
        assert [message["message_id"] for message in self.server.messages] == list(range(len(stored)))
        assert self.server.data == self.data
        assert self.server.events == self.events


def walked(seed: int) -> Walk:
    walk = Walk(seed)
    for number in range(1, STEPS + 1):
        walk.step()
        if number % 100 == 0:
            walk.finish()
    return walk


@pytest.mark.parametrize("seed", range(WALKS))
def test_what_is_stored_in_the_end_is_what_was_said(seed: int) -> None:
    walked(seed)


def test_the_walks_meet_all_that_may_happen() -> None:
    seen = Counter[str]()
    for seed in range(3):
        seen += walked(seed).seen

    assert min(seen.values()) > 1
    assert len(seen) == 8


# Single steps


def said(queue: PendingChanges, *contents: str) -> None:
    for content in contents:
        message_id = queue.next_message_id
        queue.add(Change({"message_id": message_id, "tracking_id": f"t-{message_id}", "content": content}, size=10))


def stored(queue: PendingChanges) -> list[dict[str, Any]]:
    """Send everything, and return what the server holds then."""
    server = Server()
    while (following := queue.next()) is not None:
        server.apply(following.write)
        queue.acknowledge(following.joined, following.after)
    return server.messages


def test_an_older_edit_does_not_undo_a_newer_one() -> None:
    queue = PendingChanges("s-1", "a-1", None, replace(LIMITS, pending=5))
    said(queue, "zero", "one")
    queue.make_smaller(2)  # one message at a time
    first = queue.next()
    assert first is not None
    for content in ("older", "newer"):
        edit, values = MessageEdit(1, {"content": content}, ()), LargeValues()
        is_done, _ = queue.edit(edit, values)
        if not is_done:
            queue.add(Change(edited=edit, values=values))
        queue.forget_write(first.write.write_id)  # it is known that it did not arrive

    assert [message["content"] for message in stored(queue)] == ["zero", "newer"]


def test_a_message_is_recognised_by_its_id_and_tracking_id() -> None:
    queue = PendingChanges("s-1", "a-1", Guard(3, 7), LIMITS)
    said(queue, "seven", "eight", "nine")

    assert queue.arrived(ObjectId(), {7: "t-7", 8: "t-8"}) == 2
    assert queue.arrived(ObjectId(), {7: "t-7", 8: "somebody's"}) == 1
    assert queue.arrived(ObjectId(), {7: "somebody's", 8: "t-8"}) is None
    assert queue.arrived(None, {}) is None


def test_a_moved_window_may_come_late_unless_something_is_in_doubt() -> None:
    queue = PendingChanges("s-1", "a-1", Guard(3, 7), LIMITS)
    found = [queue.has_only_window_state]
    queue.add(Change(data=window(1)))
    found.append(queue.has_only_window_state)
    following = queue.next()
    assert following is not None
    assert (following.write.keeps_revision, following.after) == (True, Guard(3, 7))

    said(queue, "seven")
    assert [*found, queue.has_only_window_state] == [False, True, False]
    following = queue.next()
    assert following is not None
    assert not following.write.keeps_revision
    assert queue.next_plain() is None, "it may have arrived"
    queue.forget_write(following.write.write_id)
    assert queue.next_plain() is not None


def test_what_ended_takes_nothing_more() -> None:
    queue = PendingChanges("s-1", "a-1", Guard(3, 7), LIMITS)
    said(queue, "seven")
    queue.invalidate(MongoDBSessionError("gone"))

    assert not queue.changes
    for refused in (queue.check_open, queue.check_room):
        with pytest.raises(MongoDBSessionError, match="gone"):
            refused()
