"""Limits are arguments: no test, and no benchmark, patches a constant of the package."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(path for folder in ("tests", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
CONSTANT = re.compile(r"_*[A-Z][A-Z0-9_]*")
# The driver has no option for it.
OF_THE_DRIVER = {"MIN_HEARTBEAT_INTERVAL"}


def patched(source: str) -> Iterator[str]:
    """The names of all constants of other modules that are given another value."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("setattr"):
            given = [*node.args[:2], *(keyword.value for keyword in node.keywords)]
            texts = [each.value for each in given if isinstance(each, ast.Constant)]
            yield from (str(text).rpartition(".")[2] for text in texts)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


def constants(source: str) -> set[str]:
    return {name for name in patched(source) if CONSTANT.fullmatch(name)} - OF_THE_DRIVER


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_constant_is_patched(path: Path) -> None:
    assert constants(path.read_text()) == set()


@pytest.mark.parametrize(
    "line",
    [
        'monkeypatch.setattr(segments, "KEPT_MESSAGES", 4)',
        'monkeypatch.setattr("mongodb_session_manager._stores.large_values.KEPT_MESSAGES", ())',
        'patch.setattr(segments, name="KEPT_MESSAGES", value=4)',
        'setattr(segments, "KEPT_MESSAGES", 4)',
        "segments.KEPT_MESSAGES = 4",
        "segments.KEPT_MESSAGES, other = 4, 5",
    ],
)
def test_the_rule_sees_constants(line: str) -> None:
    assert constants(line) == {"KEPT_MESSAGES"}
