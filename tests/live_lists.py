"""What is done to an agent's list of messages, and what of it must come back after a restart.

Each message bears a label that its copies share, so that a test knows what stands where without asking the code.
"""

import copy
import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

from strands._context_manager.strategies.offload import base
from strands.types.content import Message

from mongodb_session_manager._history.live_records import Record, Snapshot, View, is_pinned
from mongodb_session_manager._history.live_set import LiveMessages
from mongodb_session_manager._schema.messages import is_plain_user

# What comes back


def without(more: Sequence[str], fewer: Sequence[str]) -> list[str] | None:
    """Return what is more than a part in the same order; None where it is no such part."""
    rest, wanted = [], list(fewer)
    for label in reversed(more):
        if wanted and label == wanted[-1]:
            wanted.pop()
        else:
            rest.append(label)
    return None if wanted else rest[::-1]


def label_of(message: Message) -> str:
    return str(cast(Any, message)["label"])


def labels_of(messages: Iterable[Message]) -> list[str]:
    return [label_of(message) for message in messages]


class Lists:
    """An agent's list, the stored messages, and what of the list a restart must bring back.

    Args:
        seed: Chooses the places at which something happens.
    """

    def __init__(self, seed: int = 0) -> None:
        self.chosen = random.Random(seed)
        self.numbers = itertools.count()
        self.made: list[Message] = []
        self.live: list[Message] = []
        self.stored: dict[int, Message] = {}
        self.next_id = 0
        self.followed = LiveMessages()
        # What the conversation manager's state holds, and whether it gives copies.
        self.held: list[Message] = []
        self.gives_copies = False
        self.own: set[str] = set()
        self.stood: set[str] = set()
        self.seen_own: set[str] = set()
        self.snapshots: list[list[Message]] = []
        self.is_unsure = False
        # Labels that may come back without being live: of messages that only append_message() told; for each
        # stranger, of what left when it came.
        self.never_stood: set[str] = set()
        self.told_by: dict[str, Counter[str]] = {}
        self.seen: list[Message] = []
        self.latest = Snapshot([])

    # Messages

    def message(self, role: str = "user", *, tracked: bool = True, **block: Any) -> Message:
        label = f"m{next(self.numbers)}"
        more = {"tracking_id": f"t-{label}"} if tracked else {}
        made = cast(Message, {"role": role, "content": [block or {"text": label}], "label": label, **more})
        self.made.append(made)
        return made

    @property
    def place(self) -> int:
        return self.chosen.randrange(len(self.live)) if self.live else 0

    def view(self) -> View:
        return View(self.live, lambda: copy.deepcopy(self.held) if self.gives_copies else self.held, True)

    # What the session manager does

    def announce(self, message: Message, given: Message | None = None) -> None:
        """Store a message as the SDK announces it."""
        record = Record(self.next_id, message, given)
        self.stored[self.next_id] = copy.deepcopy(message)
        self.next_id += 1
        self.look_up(message)
        view = self.view().until(record)
        if not self.followed.append(record, view):
            self.followed.look(view, closely=True)
            self.note(view.messages)
        elif view.messages and view.messages[-1] is message:
            self.seen.append(message)  # a glance sees no more

    def look(self) -> None:
        """Look at the list as it is."""
        self.look_up()
        if self.followed.look(self.view()):
            self.note(self.live)

    def look_up(self, announced: Message | None = None) -> None:
        unknown = self.followed.unknown(self.live, announced)
        if unknown:
            ids = {
                tracking_id: [number for number, m in self.stored.items() if m.get("tracking_id") == tracking_id]
                for tracking_id in unknown
            }
            self.followed.recover(ids, self.live)

    def note(self, live: Sequence[Message]) -> None:
        """Follow what may come back although it is not live."""
        before, now = {id(message) for message in self.seen}, labels_of(live)
        left = Counter(labels_of(self.seen)) - Counter(now)
        for label in [label for label in left if label in self.told_by]:
            left += self.told_by.pop(label)
        known, is_anew = set(labels_of(self.seen)), before.isdisjoint(map(id, live))
        stored = labels_of(self.stored.values())
        tracked = {message["tracking_id"] for message in cast(Any, self.seen) if "tracking_id" in message}
        for message in live:
            is_copy = label_of(message) in known and (is_anew or label_of(message) not in stored)
            # A copy that got its tracking id later is like any new message.
            if id(message) not in before and left and not (is_copy and message.get("tracking_id") in tracked):
                told = self.told_by.get(label_of(message), Counter())
                self.told_by[label_of(message)] = told + left
        self.never_stood -= set(now)
        self.own = {label for label in self.own if label in now}
        self.seen_own |= {label_of(m) for m in self.held if label_of(m) in now}
        self.own |= {label_of(m) for m in self.held if label_of(m) in now}
        self.seen = list(live)

    # What happens to the list

    def turn(self) -> None:
        for role in ("user", "assistant"):
            self.say(self.message(role))

    def tool_turn(self) -> None:
        self.say(self.message("user"))
        tool_use_id = f"u{next(self.numbers)}"
        self.say(self.message("assistant", toolUse={"toolUseId": tool_use_id, "name": "x", "input": {}}))
        self.say(self.message("user", toolResult={"toolUseId": tool_use_id, "status": "success", "content": []}))
        self.say(self.message("assistant"))

    def say(self, message: Message) -> None:
        self.live.append(message)
        self.announce(message)

    def say_together(self) -> None:
        """Append several before any is announced, as a continuation does."""
        said = [self.message(role) for role in ("user", "assistant", "user")]
        self.live += said
        for message in said:
            self.announce(message)

    def say_again(self) -> None:
        """Send a prompt again: one object, stored twice."""
        self.look()
        if self.live and label_of(self.live[-1]) in labels_of(self.stored.values()):
            self.say(self.live[-1])

    def grow_longer(self) -> None:
        """Merge a continuation into the last message, which is announced again as another object."""
        record = self.followed.records[-1] if self.followed.records else None
        if record is None or not self.live or not record.is_same(self.live[-1]):
            return
        longer = copy.copy(self.live[-1])
        longer["content"] = [*longer["content"], {"text": "and"}]
        self.live[-1] = longer
        record.message, record.given = longer, None
        self.stored[record.message_id] = copy.deepcopy(longer)
        self.look()

    def append_message(self) -> None:
        """Store a message that does not stand in the list."""
        message = self.message(self.chosen.choice(["user", "assistant"]))
        self.never_stood.add(label_of(message))
        self.announce(message)

    def remember(self) -> None:
        """Have somebody put in a message that nobody announces."""
        message = self.message(self.chosen.choice(["user", "assistant"]), tracked=self.chosen.random() < 0.5)
        self.live.insert(self.chosen.choice([0, self.place, len(self.live)]), message)

    def track(self) -> None:
        """Give each message a tracking id, as the SDK does at a prompt."""
        for message in self.live:
            message.setdefault("tracking_id", f"late-{next(self.numbers)}")

    def cut(self) -> None:
        """Move a window: what is pinned stays."""
        count = self.place
        self.live[:count] = [message for message in self.live[:count] if is_pinned(message)]

    def pin(self) -> None:
        if self.live:
            custom = cast(Any, self.live[self.place]).setdefault("metadata", {}).setdefault("custom", {})
            custom["pinned"] = not custom.get("pinned")

    def summarize(self) -> None:
        """Put a summary that the manager's state holds in the place of the oldest."""
        own = [place for place, label in enumerate(labels_of(self.live), start=1) if label in self.stood]
        count = max(self.place, *own, 0)
        summary = self.message("user")
        pinned = [m for m in self.live[:count] if is_pinned(m) and label_of(m) not in self.stood]
        self.held = [summary]
        self.stood.add(label_of(summary))
        self.live[:] = [*pinned, summary, *self.live[count:]]

    def give_up_summary(self) -> None:
        """Have the manager's state forget what stands in the list."""
        self.held = []

    def mark(self) -> None:
        """Remove some and tell it in a message of its own or a neighbour's, as the SDK's context managers do."""
        if len(self.live) > 3:
            first = 1 + self.chosen.randrange(len(self.live) - 2)
            gone = self.live[first : first + self.chosen.randrange(1, 4)]
            removed, lowest = base._splice_with_pairs(self.live, gone)
            if removed:
                base._insert_marker(self.live, lowest, f"[{removed} messages]")
                if self.chosen.random() < 0.5:
                    base._repair_alternation(self.live)
                self.label()

    def condense(self) -> None:
        """Put one that nobody announces in the place of the oldest, as the agentic tools do."""
        count = self.place
        if count:
            self.live[:count] = [*self.live[:1], self.message("user")]

    def label(self) -> None:
        """Give what the SDK has merged into a message the label of that message."""
        for message in self.live:
            if "label" not in message:
                labels = {m.get("tracking_id"): label_of(m) for m in (*self.stored.values(), *self.made)}
                label = labels.get(message.get("tracking_id") or "")
                cast(Any, message)["label"] = label or f"m{next(self.numbers)}"

    def snapshot(self) -> None:
        self.snapshots.append(copy.deepcopy(self.live))

    def undo(self) -> None:
        if self.snapshots:
            self.live = copy.deepcopy(self.chosen.choice(self.snapshots))

    def copy(self) -> None:
        """Put copies in the place of some."""
        place = self.place
        self.live[place:] = copy.deepcopy(self.live[place:])

    def clear(self) -> None:
        self.live.clear()

    def replace_list(self) -> None:
        self.live = list(self.live[self.place :])

    def take_out(self) -> None:
        if self.live:
            del self.live[self.place]

    def reorder(self) -> None:
        if self.live:
            self.live.insert(self.place, self.live.pop(self.place))

    def refuse(self) -> None:
        """Have a message stand in the list that could not be stored."""
        self.live.append(self.message("user"))
        self.look()

    def drop(self) -> None:
        """Have the server refuse a message that waits: those after it move up."""
        stored = labels_of(self.stored.values())
        latest = [record for record in self.followed.records if record.message_id >= self.next_id - 3]
        # What was sent twice has one size.
        waiting = [record for record in latest if stored.count(label_of(record.message)) == 1]
        if waiting:
            dropped = self.chosen.choice(waiting).message_id
            for record in {*self.followed.records, *self.followed.snapshot.records}:
                record.is_gone |= record.message_id == dropped
                record.message_id -= record.message_id > dropped
            self.followed.records = [record for record in self.followed.records if not record.is_gone]
            label = label_of(self.stored[dropped])
            self.stored = {n - (n > dropped): m for n, m in self.stored.items() if n != dropped}
            self.next_id -= 1
            if label not in {label_of(m) for m in self.stored.values()}:
                self.never_stood.discard(label)

    def redact(self) -> None:
        if self.followed.records and self.live:
            self.followed.records[-1].message["content"] = [{"text": "redacted"}]

    # After a restart

    def restored(self) -> tuple[list[Message], list[int]]:
        """Return the messages and ids that a restart brings back now."""
        live_ids = self.followed.snapshot.ids(self.next_id)
        again = type(live_ids).of(live_ids.stored)
        assert again == live_ids
        assert not live_ids.missing(sorted(self.stored))
        numbers = live_ids.choose(sorted(self.stored))
        kept = [cast(Message, copy.deepcopy(dict(message))) for message in live_ids.kept]
        given = [] if live_ids.at is None else copy.deepcopy(self.held)
        known = {message.get("tracking_id") for message in given} - {None}
        found = [(n, copy.deepcopy(self.stored[n])) for n in numbers if self.stored[n].get("tracking_id") not in known]
        self._pin(found, live_ids.pinned)
        own = [(-1, message) for message in (*kept, *given)]
        placed = found if live_ids.at is None else [*found[: live_ids.at], *own, *found[live_ids.at :]]
        self.again = kept, given, live_ids.at is None
        return [message for _, message in placed], [number for number, _ in placed]

    def _pin(self, found: Iterable[tuple[int, Message]], pinned: Sequence[int]) -> None:
        for number, message in found:
            cast(Any, message).setdefault("metadata", {}).setdefault("custom", {})["pinned"] = number in pinned

    def restart(self) -> None:
        self.look()
        messages, numbers = self.restored()
        kept, given, own_have_left = self.again
        pairs = [(n, m) for n, m in zip(numbers, messages, strict=True) if n >= 0]
        self.followed = LiveMessages(Record(n, m) for n, m in sorted(pairs, key=lambda pair: pair[0]))
        self.live, self.held = messages, given or self.held
        self.own = {label_of(m) for m in (*kept, *given)}
        self.never_stood, self.told_by, self.seen = set(), {}, []
        self.followed.begin(self.view(), [*kept, *given], kept, own_have_left)
        self.seen = list(self.live)

    def check(self) -> None:
        """Compare what a restart brings back with the list that was seen last."""
        messages, _ = self.restored()
        came = [label_of(m) for m in messages]
        live = [label_of(m) for m in self.seen]
        labels = set(labels_of(self.stored.values()))
        free = Counter(labels_of(self.stored.values()))
        # Of a prompt that was sent again the latest is taken.
        wanted = [label for label in reversed(live) if self._comes_back(label, free)][::-1]
        more = without(came, wanted)
        assert more is not None, (came, wanted)
        allowed = sum((self.told_by.get(label, Counter()) for label in set(live)), Counter(self.never_stood))
        if any(label not in labels for label in live) or not self.seen_own.intersection(labels_of(self.held)):
            # The manager gives what it holds, unless that was seen to leave.
            allowed += Counter(labels_of(self.held))
            first = next((n for n, label in enumerate(came) if label in live or label not in labels_of(self.held)), 0)
            came, messages, more = came[first:], messages[first:], more[first:]
        if more and more[0] == came[0] and more[0] not in allowed:
            # A beginning that is moved back to a user's message.
            assert is_plain_user(messages[0]), (came, wanted)
            assert live, came
            assert live[0] not in labels or came[1:].count(live[0]) != 1 or live[0] != came[1], (came, wanted)
            more = more[1:]
        assert Counter(more) <= allowed, (came, wanted, allowed)
        self._check_pins(messages)

    def _comes_back(self, label: str, labels: Counter[str]) -> bool:
        if label in self.own:
            return True
        labels[label] -= 1
        return labels[label] >= 0

    def _check_pins(self, messages: Sequence[Message]) -> None:
        pinned = Counter(label_of(message) for message in self.seen if is_pinned(message))
        for label, count in Counter(labels_of(self.seen)).items():
            came = [is_pinned(message) for message in messages if label_of(message) == label]
            if len(came) == count and label not in self.own:
                assert sum(came) == pinned[label], (label, came, pinned)


Act = Callable[[Lists], None]
_OTHERS = {"message", "view", "announce", "note", "look_up", "say", "label", "restored", "check", "place"}
ACTS: dict[str, Act] = {
    name: act for name, act in vars(Lists).items() if callable(act) and name not in _OTHERS and not name.startswith("_")
}
