"""The page of questions has what users of the first version asked, with answers that can be checked."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/faq.md").read_text("utf-8")
# Question and answer, without the text before the first question and the headings of the groups.
ANSWERS = dict(re.findall(r"^### (.+?)\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL))
# What was asked, in the order of the first version's page: words that the question has today.
ASKED = [
    *("what is mongodb-session-manager", "why mongodb", "requirements", "production", "licence"),
    *("install it", "need a mongodb", "aws hooks need", "update"),
    *("resume a conversation", "several agents", "metrics", "metadata and messages", "delete a session"),
    *("agent manage metadata", "connection pooling", "factory", "concurrent", "benchmarks"),
    *("fastapi", "another web framework", "asyncio"),
    *("connection fails", "session is not found", "does not remember", "pool is exhausted", "import fails"),
    *("aws hooks are not available", "write a hook", "aws integrations", "tenants", "sensitive data", "monitor"),
    *("report a bug", "feature", "contribute", "help", "tutorials", "roadmap", "stable", "commercially"),
]


def test_every_question_is_asked_in_its_place() -> None:
    assert len(ANSWERS) == len(ASKED)
    assert [words for words, question in zip(ASKED, ANSWERS, strict=True) if words not in question.lower()] == []


@pytest.mark.parametrize("question", ANSWERS)
def test_an_answer_can_be_checked(question: str) -> None:
    """Code and links are run and followed by the other tests; a file that is named exists."""
    answer = ANSWERS[question]
    named = re.findall(r"`((?:tests|benchmarks|examples|docs|src)/[\w./]+)`", answer)

    assert "```" in answer or "](" in answer or named
    assert [path for path in named if not (ROOT / path).exists()] == []
