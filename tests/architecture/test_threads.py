"""Who may run blocking calls where: asyncio's default executor belongs to the application and its tools."""

import ast
from pathlib import Path

import pytest

import mongodb_session_manager

PACKAGE = Path(mongodb_session_manager.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))


def uses(tree: ast.AST) -> list[int]:
    """The lines that give work to the default executor of a loop."""
    found = (node for node in ast.walk(tree) if _is_use(node))
    return [node.lineno for node in found if isinstance(node, ast.expr | ast.stmt)]


def _is_use(node: ast.AST) -> bool:
    if isinstance(node, ast.ImportFrom):
        return any(alias.name == "to_thread" for alias in node.names)
    if isinstance(node, ast.Attribute):
        return node.attr in {"to_thread", "getaddrinfo", "getnameinfo"}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "run_in_executor":
        return not node.args or (isinstance(node.args[0], ast.Constant) and node.args[0].value is None)
    return False


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_nothing_uses_the_default_executor(path: Path) -> None:
    assert uses(ast.parse(path.read_text())) == []


@pytest.mark.parametrize(
    "code",
    [
        "asyncio.to_thread(f)",
        "from asyncio import to_thread",
        "loop.run_in_executor(None, f)",
        "call = asyncio.to_thread",
    ],
)
def test_the_rule_sees_its_uses(code: str) -> None:
    assert uses(ast.parse(code)) == [1]


def test_the_rule_lets_through_executors_of_ones_own() -> None:
    assert uses(ast.parse("loop.run_in_executor(threads, f)")) == []
