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
LOGGING = {"warning", "error", "_warn", "_log"}


def _section(title: str) -> str:
    return PAGE.split(f"## {title}\n")[1].split("\n## ")[0]


def _first_cells(title: str) -> list[str]:
    rows = re.findall(r"^\| (`.+?) \|", _section(title), re.MULTILINE)
    return [text for row in rows for text in re.findall(r"`([^`]+)`", row)]


def _logged() -> Iterator[str]:
    """What a line of the log says after its fields, wherever the library logs a warning or an error."""
    for path in sorted((ROOT / "src/mongodb_session_manager").rglob("*.py")):
        if "testing" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
                name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
                yield from _texts(node) if name in LOGGING else ()


def _texts(call: ast.Call) -> Iterator[str]:
    for argument in call.args:
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str) and " " in argument.value:
            text = argument.value.rpartition(" | ")[2]
            if text != "%s":
                yield text


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
