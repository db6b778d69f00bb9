"""What of the live messages is to be stored with what is captured."""

from typing import Any

from strands.types.content import Message

from mongodb_session_manager._history.live_records import Record, View
from mongodb_session_manager._history.live_tracking import LiveTracking
from tests.talking import user


def test_an_own_message_that_cannot_be_stored_costs_no_other_message(caplog: Any) -> None:
    own: Any = {"role": "user", "content": [{"text": "Summary"}], "odd": {1, 2}}
    held: list[Message] = [own]
    live: list[Message] = [own, user("One")]
    tracking = LiveTracking("s-1", "a", [(0, live[1])])

    def view() -> View:
        return View(live, lambda: held, with_pins=False)

    tracking.begin(view(), [own], [], None, 1)
    held.clear()
    live.insert(1, user("Nobody announced this"))
    live.append(user("Two"))

    change = tracking.capture(view(), 1, Record(1, live[-1]))

    assert change.live is not None
    assert change.live.ids(2).kept == ()
    assert "is not kept" in caplog.text
    live.append(user("Three"))
    assert tracking.capture(view(), 2, Record(2, live[-1])).live is None
