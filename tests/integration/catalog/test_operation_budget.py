"""How many operations each method of a catalog sends."""

import secrets
from collections.abc import Callable
from typing import Any

import pytest

from mongodb_session_manager import SessionCatalog, SessionFilter
from mongodb_session_manager._stores.feedback import FEEDBACK_BYTES
from mongodb_session_manager.testing import CommandCounter
from tests.aliases import NewAgent, NewManager
from tests.integration.catalog.moving import move
from tests.integration.catalog.sessions import at, call, message, session, with_agent


@pytest.fixture(autouse=True)
def sessions(put: Callable[..., None]) -> None:
    turn = [message(0, "user", "Hi"), message(1, "assistant", "Ho", event_loop_metrics=call(3))]
    feedback = [{"rating": "up", "agent_id": "a", "message_id": 1, "created_at": at(1)}]
    put(*(with_agent(f"s-{n:03}", *turn, feedbacks=feedback) for n in range(250)))


@pytest.mark.parametrize(
    ("operations", "read"),
    [
        (1, lambda catalog: catalog.list()),
        (1, lambda catalog: catalog.list(limit=240)),
        (1, lambda catalog: catalog.list(sort="updated_at")),
        (0, lambda catalog: catalog.list(limit=0)),
        (2, lambda catalog: catalog.list(SessionFilter(text="hi"))),
        (2, lambda catalog: catalog.list(SessionFilter(text="nobody says this"))),
        (1, lambda catalog: catalog.list(SessionFilter(text="hi", id_prefix="t"))),
        (1, lambda catalog: catalog.count()),
        (1, lambda catalog: catalog.usage(by=["session_id"])),
        (1, lambda catalog: catalog.usage(by=["day", "model"])),
        (1, lambda catalog: catalog.feedback(limit=240)),
        (3, lambda catalog: catalog.get("s-001")),
        (1, lambda catalog: catalog.transcript("s-001", "a")),
        (1, lambda catalog: catalog.part("s-001", "a", 0, 0)),
        (3, lambda catalog: list(catalog.iterate(batch=100))),
        (1, lambda catalog: list(catalog.iterate(batch=250))),
        (0, lambda catalog: catalog.iterate()),
        (0, lambda catalog: catalog.within(SessionFilter(agent_id="a"))),
    ],
)
def test_operations(
    catalog: SessionCatalog, command_counter: CommandCounter, operations: int, read: Callable[[SessionCatalog], Any]
) -> None:
    with command_counter.counting() as log:
        read(catalog)

    assert len(log.commands) == operations, log.names


def test_operations_in_segments_and_files(
    catalog: SessionCatalog, new_manager: NewManager, new_agent: NewAgent, command_counter: CommandCounter
) -> None:
    picture = {"image": {"format": "png", "source": {"bytes": secrets.token_bytes(300_000)}}}
    messages: list[Any] = [{"role": "user", "content": [{"text": f"{n}"}]} for n in range(120)]
    messages[5]["content"].append(picture)
    manager = new_manager()
    new_agent(manager, agent_id="a", messages=messages)
    move(manager)
    manager.add_feedback({"rating": "up", "agent_id": "a", "message_id": 3})

    assert operations(command_counter, lambda: catalog.transcript("s-1", "a", limit=40)) == 1
    assert operations(command_counter, lambda: catalog.transcript("s-1", "a", limit=100)) == 2
    assert operations(command_counter, lambda: catalog.transcript("s-1", "a", limit=10, before=20)) == 2
    assert operations(command_counter, lambda: catalog.part("s-1", "a", 5, 0)) == 2
    assert operations(command_counter, lambda: catalog.part("s-1", "a", 5, 1)) == 4
    assert operations(command_counter, lambda: catalog.feedback(SessionFilter(id_prefix="s-1"))) == 2


def test_operations_with_moved_feedback(
    catalog: SessionCatalog, new_manager: NewManager, command_counter: CommandCounter
) -> None:
    manager = new_manager()
    for _ in range(2):
        manager.add_feedback({"comment": "x" * FEEDBACK_BYTES})

    assert operations(command_counter, lambda: catalog.feedback(SessionFilter(id_prefix="s-1"))) == 2


def test_expired_sessions_cost_no_further_operation(
    catalog: SessionCatalog, put: Callable[..., None], command_counter: CommandCounter
) -> None:
    put(*(session(f"t-{n}", expires_at=at(0).replace(year=2000)) for n in range(200)))

    assert operations(command_counter, lambda: catalog.list(SessionFilter(id_prefix="t"))) == 1


def operations(counter: CommandCounter, read: Callable[[], Any]) -> int:
    with counter.counting() as log:
        read()
    return len(log.commands)
