"""The examples of what is stored of a person's words, and what is not any more."""

import re
from typing import Any

import pytest
from pymongo import MongoClient

from tests.examples.test_examples import Output
from tests.watching import eventually


def test_guardrails(output: Output) -> None:
    lines = output("example_guardrails.py")
    secrets = [line.strip() for line in lines if "secrets" in line]

    assert secrets == [
        "secrets in the session: ['swordfish']",
        "secrets in the session: []",
        "secrets in the session: ['mellon']",
        "secrets in the session: []",
    ]
    after = lines[lines.index("after the guardrail of the model:") :]
    assert after[4:7] == [
        "  3 assistant: [removed] (blocked)",
        "  4 user: [prompt removed] (blocked)",
        "  5 assistant: [answer removed]",
    ]
    assert lines[-3] == (
        "restored: ['Hello', 'Welcome to the house.', 'How do I get in?', "
        "'[removed]', '[prompt removed]', '[answer removed]']"
    )
    assert lines[-2:] == [
        "event BLOCKED on concierge 3: guardrail_intervened {'sensitiveInformationPolicy': ['password']}",
        "event BLOCKED on concierge 4: None None",
    ]


def test_masking(output: Output) -> None:
    assert output("example_masking.py") == [
        "in memory: My card is 4111111111111111. Your card is 4111111111111111.",
        "stored:    My card is [card 1111]. Your card is [card 1111].",
        "state:     {'card': '4111111111111111'}",
        "restored:  My card is [card 1111]. Your card is [card 1111].",
        "state:     {'card': '[card 1111]'}",
        "goes on:   Your card is [card 1111].",
    ]


def test_masking_never_sends_what_it_masks(
    output: Output, observer: MongoClient[dict[str, Any]], database_name: str
) -> None:
    oplog = observer["local"]["oplog.rs"]
    if oplog.find_one() is None:
        pytest.skip("the server is no replica set: it has no oplog that shows what was written")

    output("example_masking.py")

    written = str(list(oplog.find({"ns": {"$regex": f"^{database_name}\\."}})))
    assert "[card 1111]" in written
    assert "4111111111111111" not in written


def test_erasing_a_person(output: Output, observer: MongoClient[dict[str, Any]], database_name: str) -> None:
    stored, *rest = output("example_erasing_a_person.py")

    assert re.fullmatch(r"stored:   \{'sessions': 4, 'segments': [1-9], 'files': 1\}", stored)
    assert rest == [
        "erased:   3 sessions; held 0, failed 0, remaining 0",
        "left:     {'sessions': 1, 'segments': 0, 'files': 0}",
        "again:    0 sessions; held 0, failed 0, remaining 0",
        "not hers: Ada lives in London.",
    ]
    indexes = observer[database_name]["agent_sessions"].list_indexes
    assert eventually(lambda: "metadata.user_id" in {next(iter(index["key"])) for index in indexes()})
