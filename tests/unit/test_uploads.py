"""Values in flight: what is sent is used in the end, or removed, and nothing that is used is removed."""

import random
from collections import Counter

import pytest
from bson import ObjectId

from mongodb_session_manager._history.uploads import Removal, Uploads
from mongodb_session_manager._schema.histories import AgentWrite
from mongodb_session_manager._schema.messages import MessageEdit

STEPS = 500


class Walk:
    """Sends messages with values to a bucket, and edits them while they wait and when they are stored.

    Args:
        seed: For the dice.
    """

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.uploads = Uploads()
        self.bucket: set[str] = set()
        self.marks: dict[str, ObjectId] = {}
        # The digests that stored messages refer to, and those of messages that wait.
        self.stored: list[set[str]] = []
        self.waiting: list[set[str]] = []
        self.seen: Counter[str] = Counter()

    def some(self) -> set[str]:
        return set(self.dice.sample("abcdefgh", self.dice.choice([0, 0, 1, 2])))

    def append(self) -> None:
        self.waiting.append(self.some())

    def edit_waiting(self) -> None:
        if self.waiting:
            place = self.dice.randrange(len(self.waiting))
            before, self.waiting[place] = self.waiting[place], self.some()
            self.uploads.give_up([dict.fromkeys(before, b"")])
            self.seen["edited while it waits"] += 1

    def send(self) -> None:
        files = set[str]().union(*self.waiting)
        self.write(AgentWrite("a-1", files=dict.fromkeys(files, b"")), self.waiting, None)

    def edit_stored(self) -> None:
        if self.stored:
            place = self.dice.randrange(len(self.stored))
            edit, files = MessageEdit(place, {}, ()), self.some()
            self.write(AgentWrite("a-1", edited=edit, files=dict.fromkeys(files, b"")), [files], place)

    def write(self, write: AgentWrite, messages: list[set[str]], place: int | None) -> None:
        """Do what a history does around a write; one that fails is tried again later, as it is then."""
        if not (write.files or write.edited or self.uploads.in_flight):
            self.arrive(messages, place)
            return
        removal = self.uploads.begin(write)
        if removal is not None:
            self.announce(removal)
        self.bucket |= write.files.keys()
        if place is None and self.dice.random() < 0.3:
            self.seen["failed"] += 1
            return
        self.arrive(messages, place)
        self.bucket |= write.files.keys()  # kept, whoever has removed them meanwhile
        due = self.uploads.due()
        if due is not None:
            self.remove(due)
        self.uploads.finish(write.files, due)

    def arrive(self, messages: list[set[str]], place: int | None) -> None:
        if place is None:
            self.stored += map(set, messages)
            self.waiting = []
        else:
            self.stored[place] = set(messages[0])

    def announce(self, removal: Removal) -> None:
        taken_out = set() if removal.edit is None else self.stored[removal.edit.message_id]
        self.marks |= dict.fromkeys(taken_out | removal.unused, removal.id)

    def remove(self, removal: Removal) -> None:
        marked = {digest for digest, mark in self.marks.items() if mark == removal.id}
        self.marks = {digest: mark for digest, mark in self.marks.items() if mark != removal.id}
        gone = (marked | removal.unused) - self.used()
        self.seen["removed"] += len(gone & self.bucket)
        self.bucket -= gone

    def used(self) -> set[str]:
        return set[str]().union(*self.stored)

    def step(self) -> None:
        self.dice.choice([self.append, self.append, self.edit_waiting, self.send, self.edit_stored])()
        assert self.used() <= self.bucket
        assert self.uploads.in_flight == bool(self.uploads._sent or self.uploads.has_unused)

    def finish(self) -> None:
        """Have everything stored, and one more message, with which goes what the last edit has left."""
        while self.waiting or self.uploads.has_unused:
            self.append()
            self.send()


@pytest.mark.parametrize("seed", range(10))
def test_what_is_sent_is_used_or_removed(seed: int) -> None:
    walk = Walk(seed)
    for number in range(1, STEPS + 1):
        walk.step()
        if number % 50 == 0:
            walk.finish()
            assert walk.bucket == walk.used()
    assert set(walk.seen) == {"edited while it waits", "failed", "removed"}


@pytest.mark.parametrize("seed", range(10))
def test_what_was_sent_for_nothing_is_taken_back(seed: int) -> None:
    walk = Walk(seed)
    for _ in range(STEPS // 10):
        walk.step()

    taken = walk.uploads.take_back()
    if taken is not None:
        walk.remove(taken)

    assert walk.bucket == walk.used()
    assert walk.uploads.take_back() is None


def test_an_edit_looks_for_values_only_where_there_may_be_some() -> None:
    uploads = Uploads()
    edit = AgentWrite("a-1", edited=MessageEdit(0, {}, ()))

    assert uploads.begin(edit) is None
    uploads.has_files = True
    removal = uploads.begin(edit)

    assert removal is not None
    assert uploads.due() == Removal(removal.id, None, set())
