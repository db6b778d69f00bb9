"""The page on troubleshooting knows every error of the library and every warning of its log, and no others."""

import ast
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from mongodb_session_manager import errors

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/troubleshooting.md").read_text("utf-8")
LOGGING = {"warning", "error"}
# Functions of the library that put fields before a text.
PLAIN = {"_warn", "_log"}


def _section(title: str) -> str:
    return PAGE.split(f"## {title}\n")[1].split("\n## ")[0]


def _first_cells(title: str) -> list[str]:
    rows = re.findall(r"^\| (`.+?) \|", _section(title), re.MULTILINE)
    return [text for row in rows for text in re.findall(r"`([^`]+)`", row)]


def _logged() -> Iterator[str]:
    """What a line of the log says after its fields, wherever the library logs a warning or an error."""
    for path in sorted((ROOT / "src/mongodb_session_manager").rglob("*.py")):
        if "testing" not in path.parts:
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                yield from _logged_by(node) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else ()


def _logged_by(function: ast.AST) -> Iterator[str]:
    nodes = list(ast.walk(function))
    # A line that is too long for the call stands in a name before it.
    named = {node.targets[0].id: node.value for node in nodes if _is_named(node)}  # type: ignore[attr-defined]
    for call in (node for node in nodes if isinstance(node, ast.Call)):
        name = getattr(call.func, "id", None) or getattr(call.func, "attr", None)
        texts = [_text(named.get(getattr(argument, "id", ""), argument)) for argument in call.args]
        if name in PLAIN:
            yield from (text for text in texts if " " in text)
        elif name in LOGGING:
            yield from (text.rpartition(" | ")[2] for text in texts if " | " in text and not text.endswith("| %s"))


def _is_named(node: ast.AST) -> bool:
    return isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)


def _text(node: ast.AST) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


LOGGED = sorted(set(_logged()))


def _is_shown(text: str, shown: str) -> bool:
    return fnmatchcase(text, shown.replace("…", "*"))


@pytest.mark.parametrize("name", sorted(set(errors.__all__) - {"MongoDBSessionError"}))
def test_each_error_is_explained(name: str) -> None:
    assert name in _first_cells("Errors of the library")


@pytest.mark.parametrize("text", LOGGED)
def test_each_warning_is_explained(text: str) -> None:
    assert [shown for shown in _first_cells("Warnings of the log") if _is_shown(text, shown)]


@pytest.mark.parametrize("shown", _first_cells("Warnings of the log"))
def test_each_explained_warning_exists(shown: str) -> None:
    assert [text for text in LOGGED if _is_shown(text, shown)]


@pytest.mark.parametrize("shown", _first_cells("MongoDBSessionError itself"))
def test_each_text_of_an_error_exists(shown: str) -> None:
    sources = (path.read_text("utf-8") for path in (ROOT / "src/mongodb_session_manager").rglob("*.py"))
    # Sentences run over several literals and lines.
    plain = re.sub(r'"\s*\n\s*f?"', "", "\n".join(sources))

    assert all(part.strip() in plain for part in shown.split("…"))
