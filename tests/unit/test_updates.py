"""What is sent: that nothing forgets which session it is about, and touches what is not its own."""

import ast
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from mongodb_session_manager._schema import ids
from mongodb_session_manager._schema.data import multi_agent_pipeline, multi_agent_update, new_multi_agent_update
from mongodb_session_manager._schema.histories import (
    AgentWrite,
    Guard,
    guard_of,
    guarded_update,
    new_agent_update,
    unguarded_update,
)
from mongodb_session_manager._schema.messages import MessageEdit
from mongodb_session_manager._schema.reads import (
    agent_pipeline,
    message_pipeline,
    page_pipeline,
    removed_count,
    restore_pipeline,
)
from mongodb_session_manager._schema.sessions import OPENING_PROJECTION, SCHEMA_VERSION, new_session_doc, opening_update
from mongodb_session_manager._schema.values import Pipeline, escape_key

AT = datetime(2026, 1, 2, tzinfo=timezone.utc)
SESSION = "session.$1"
AGENT = "a.b"

# What is sent

EDIT = MessageEdit(3, {"content": []}, ("extra",))
GUARD = Guard(5, 8)
OLD_GUARD = Guard(None, 8)


def a_write(**changes: Any) -> AgentWrite:
    return AgentWrite(AGENT, **changes)


UPDATES: dict[str, Callable[[], Any]] = {
    "new_agent_update": lambda: new_agent_update(SESSION, a_write()),
    "new_agent_update with messages": lambda: new_agent_update(SESSION, a_write(appended=[{"message_id": 0}])),
    "guarded_update of data": lambda: guarded_update(SESSION, a_write(data={"state": {}}), GUARD),
    "guarded_update of append": lambda: guarded_update(SESSION, a_write(appended=[{"message_id": 8}]), GUARD),
    "guarded_update of edit": lambda: guarded_update(SESSION, a_write(edited=EDIT), GUARD),
    "guarded_update of edit of the first version": lambda: guarded_update(SESSION, a_write(edited=EDIT), OLD_GUARD),
    "unguarded_update of data": lambda: unguarded_update(SESSION, a_write(data={"state": {}})),
    "unguarded_update of append": lambda: unguarded_update(SESSION, a_write(appended=[{"message_id": 8}])),
    "unguarded_update of edit": lambda: unguarded_update(SESSION, a_write(edited=EDIT)),
    "new_multi_agent_update": lambda: new_multi_agent_update(SESSION, AGENT, {}),
    "multi_agent_update": lambda: multi_agent_update(SESSION, AGENT, {}),
}
PIPELINES: dict[str, Callable[[], Pipeline]] = {
    "agent_pipeline": lambda: agent_pipeline(SESSION, AGENT),
    "restore_pipeline": lambda: restore_pipeline(SESSION, AGENT),
    "page_pipeline": lambda: page_pipeline(SESSION, AGENT, 2, 3),
    "page_pipeline without limit": lambda: page_pipeline(SESSION, AGENT, 0, None),
    "page_pipeline of nothing": lambda: page_pipeline(SESSION, AGENT, 0, 0),
    "message_pipeline": lambda: message_pipeline(SESSION, AGENT, 3),
    "multi_agent_pipeline": lambda: multi_agent_pipeline(SESSION, AGENT),
}
OF_LIFE = {f"life.{name}" for name in ("children", "fields", "files", "own_files", "session_id")}
IDS = {"'_id'", "'session_id'", "'metadata.session_id'"}
NAMED = {"session_id", "check_id('session_id', session_id)"}
SCHEMA = sorted(Path(ids.__file__).parent.glob("*.py"))
RETURNED = {
    "FilterAndUpdate": "_update",
    "tuple[Stored, Update]": "_update",
    "tuple[Stored, dict[str, int]]": "_projection",
    "Pipeline": "_pipeline",
}
SENT = ("_filter", "_update", "_pipeline", "_projection", "_doc")
# Beside filters that stand elsewhere: the upsert that opens a session, and the insert.
WITHOUT_FILTER = {"new_session_doc", "opening_update"}


def functions() -> Iterator[ast.FunctionDef]:
    """All functions of the schema."""
    for path in SCHEMA:
        yield from (node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef))


@cache
def builders() -> dict[str, ast.FunctionDef]:
    """The functions that build something to send for one session."""
    return {
        function.name: function
        for function in functions()
        if [each.arg for each in function.args.args[:1]] in (["session_id"], ["life"])
        and function.name.startswith("_") | function.name.endswith(SENT)
        and function.name not in WITHOUT_FILTER
    }


@pytest.mark.parametrize("function", list(functions()), ids=lambda function: function.name)
def test_a_function_ends_in_what_it_returns(function: ast.FunctionDef) -> None:
    returned = "" if function.returns is None else ast.unparse(function.returns)

    assert function.name.startswith("_") or function.name.endswith(RETURNED.get(returned, ""))


def names_the_session(node: ast.AST) -> bool:
    """Whether it is ``{"_id": session_id, …}``, a segment's or file's ``session_id``, or another such builder."""
    if isinstance(node, ast.Call):
        names = [ast.unparse(node.func), *map(ast.unparse, node.args[:1])]
        return names[0] in builders() and names[1:] in (["session_id"], ["life"])
    if isinstance(node, ast.Attribute):
        return ast.unparse(node) in OF_LIFE
    keys = node.keys if isinstance(node, ast.Dict) else []
    values = node.values if isinstance(node, ast.Dict) else []
    return any(
        key is not None and ast.unparse(key) in IDS and ast.unparse(value) in NAMED
        for key, value in zip(keys, values, strict=True)
    )


@pytest.mark.parametrize("function", builders().values(), ids=builders().keys())
def test_every_builder_names_the_session(function: ast.FunctionDef) -> None:
    """By its text, so that it holds for the builders of later issues too."""
    assert any(names_the_session(node) for node in ast.walk(function))


def test_the_known_builders_are_found() -> None:
    assert {name.split()[0] for name in [*UPDATES, *PIPELINES]} <= set(builders())


@pytest.mark.parametrize("build", UPDATES.values(), ids=UPDATES.keys())
def test_every_update_names_the_session_and_its_time(build: Callable[[], Any]) -> None:
    wanted, update = build()

    assert wanted["_id"] == SESSION
    assert "updated_at" in update["$set"]
    assert not any("_id" in fields for fields in update.values())


@pytest.mark.parametrize("build", PIPELINES.values(), ids=PIPELINES.keys())
def test_every_pipeline_begins_with_the_session(build: Callable[[], Pipeline]) -> None:
    assert build()[0] == {"$match": {"_id": SESSION}}


@pytest.mark.parametrize("build", UPDATES.values(), ids=UPDATES.keys())
def test_no_update_touches_another_agent(build: Callable[[], Any]) -> None:
    _, update = build()
    paths = [path for fields in update.values() for path in fields if path.startswith(("agents", "multi_agents"))]

    assert paths
    for path in paths:
        assert path.split(".")[1] == escape_key(AGENT)


@pytest.mark.parametrize("build", UPDATES.values(), ids=UPDATES.keys())
def test_no_update_has_conflicting_paths(build: Callable[[], Any]) -> None:
    """A server refuses these; mongomock does not."""
    _, update = build()
    paths = sorted(path for fields in update.values() for path in fields)

    assert len(paths) == len(set(paths))
    assert not [one for one in paths for other in paths if other.startswith(f"{one}.")]


@pytest.mark.parametrize("name", ["guarded_update of data", "guarded_update of append", "guarded_update of edit"])
def test_a_guarded_write_checks_and_moves_the_guard(name: str) -> None:
    wanted, update = UPDATES[name]()
    moved = GUARD.next_message_id + (name == "guarded_update of append")

    assert wanted["agents.a%2Eb.guard"] == {"revision": 5, "next_message_id": 8, "write_id": GUARD.write_id}
    assert list(wanted["agents.a%2Eb.guard"]) == list(update["$set"]["agents.a%2Eb.guard"])
    after = update["$set"]["agents.a%2Eb.guard"]
    assert (after["revision"], after["next_message_id"]) == (6, moved)
    assert after["write_id"] != GUARD.write_id


def test_a_guard_is_compared_as_it_was_found() -> None:
    found = {"write_id": "w", "revision": 5}

    wanted, _ = guarded_update(SESSION, a_write(), guard_of({"guard": found, "last_message_id": 7}))

    assert list(wanted["agents.a%2Eb.guard"].items()) == list(found.items())


def test_an_edit_names_its_message() -> None:
    for name in ("guarded_update of edit", "unguarded_update of edit"):
        wanted, _ = UPDATES[name]()
        condition = wanted["agents.a%2Eb.messages.message_id"]
        assert condition in (3, {"$eq": 3})


def test_each_write_has_an_id_of_its_own() -> None:
    assert a_write().write_id != a_write().write_id


def test_a_new_session_has_every_part() -> None:
    fresh = new_session_doc(SESSION, "AGENT", "app", AT)

    assert list(fresh)[:2] == ["session_id", "session_type"]
    assert (fresh["metadata"], fresh["feedbacks"], fresh["agents"], fresh["multi_agents"]) == ({}, [], {}, {})
    assert (fresh["application_name"], fresh["created_at"], fresh["updated_at"]) == ("app", AT, AT)


def test_opening_changes_nothing_of_an_existing_session() -> None:
    fresh, update = opening_update(SESSION, "AGENT", None)

    assert update == {"$setOnInsert": {"schema_version": SCHEMA_VERSION, **fresh}}


def test_opening_never_reads_the_history() -> None:
    assert not {"agents", "messages", "multi_agents", "feedbacks"} & set(OPENING_PROJECTION)


# What was read


@pytest.mark.parametrize(
    ("agent", "guard"),
    [
        ({"guard": {"revision": 4, "next_message_id": 9, "write_id": "w"}, "last_message_id": 8}, Guard(4, 9, "w")),
        ({"guard": {"revision": 1, "next_message_id": 0}}, Guard(1, 0)),
        ({"guard": {"revision": 1, "write_id": "w"}, "last_message_id": 8}, Guard(1, 9, "w")),
        ({"last_message_id": 8}, Guard(None, 9)),
        ({"guard": None, "last_message_id": None}, Guard(None, 0)),
        ({}, Guard(None, 0)),
    ],
    ids=["counted", "new", "first_version_written", "first_version", "null", "empty"],
)
def test_the_guard_of_an_agent(agent: dict[str, Any], guard: Guard) -> None:
    assert guard_of(agent) == guard


@pytest.mark.parametrize(
    ("state", "count"),
    [
        ({"removed_message_count": 3}, 3),
        ({"removed_message_count": -1}, 0),
        ({"removed_message_count": True}, 0),
        ({"removed_message_count": "3"}, 0),
        ({"removed_message_count": None}, 0),
        ({}, 0),
        (None, 0),
        ([], 0),
    ],
    ids=str,
)
def test_what_a_conversation_manager_had_removed(state: Any, count: int) -> None:
    assert removed_count({"conversation_manager_state": state}) == count
