"""How the package is cut: ``python benchmarks/house.py [--against REF]``.

Sizes come from the syntax tree. The way of a message comes from a turn of an agent on a MongoDB, ``durability="sync"``:
the functions of the package that run from the moment when the agent announces its answer until it is acknowledged.
"""

import argparse
import ast
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
PACKAGE = Path("src/mongodb_session_manager")
LARGE_FILE = 400

ROWS = {
    "largest_file": "lines of the largest file",
    "in_large_files": f"share of lines in files over {LARGE_FILE}, %",
    "most_methods": "most methods of a class",
    "most_attributes": "most attributes of a class",
    "repository": "public members of the repository",
    "entries": "entries of ls src/mongodb_session_manager",
    "median_def": "median def, lines",
    "longest_def": "longest def, lines",
    "functions": "functions that a message passes",
    "files": "files that it passes",
    "changes": "changes of file on its way",
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how the package is cut.")
    parser.add_argument("--against", metavar="REF", help="a commit to compare with")
    parser.add_argument("--way", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(way_of_a_message(options.way)))
        return
    found = {"now": measure(ROOT)}
    if options.against:
        with checkout(options.against) as there:
            found = {options.against: measure(there), **found}
    show(found)


@contextmanager
def checkout(ref: str) -> Iterator[Path]:
    """Give a folder with another state of the project."""
    with tempfile.TemporaryDirectory() as folder:
        there = Path(folder) / "project"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", there, ref], cwd=ROOT, check=True)
        try:
            yield there
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", there], cwd=ROOT, check=True)


def measure(root: Path) -> dict[str, Any]:
    """Return all measures of a state of the project, by the names of ``ROWS``."""
    environment = {**os.environ, "PYTHONPATH": str(root / "src")}
    command = [sys.executable, __file__, "--way", str(root / PACKAGE)]
    way = subprocess.run(command, env=environment, cwd=root, check=True, capture_output=True, text=True)
    return {**sizes(root / PACKAGE), **json.loads(way.stdout.splitlines()[-1])}


def sizes(package: Path) -> dict[str, Any]:
    sources = {path: path.read_text() for path in sorted(package.rglob("*.py"))}
    lines = {path: len(text.splitlines()) for path, text in sources.items()}
    nodes = [node for text in sources.values() for node in ast.walk(ast.parse(text))]
    classes = [node for node in nodes if isinstance(node, ast.ClassDef)]
    defs = [length(node) for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    large = sum(count for count in lines.values() if count > LARGE_FILE)
    methods = max(classes, key=lambda each: len(methods_of(each)))
    attributes = max(classes, key=lambda each: len(attributes_of(each)))
    longest = max(lines, key=lambda path: lines[path])
    return {
        "largest_file": f"{lines[longest]:,} ({longest.name})",
        "in_large_files": round(100 * large / sum(lines.values())),
        "most_methods": f"{len(methods_of(methods))} ({methods.name})",
        "most_attributes": f"{len(attributes_of(attributes))} ({attributes.name})",
        "repository": len(public_members(classes, "MongoDBSessionRepository")),
        "entries": len([path for path in package.iterdir() if path.name != "__pycache__"]),
        "median_def": median(defs),
        "longest_def": max(defs),
    }


def length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the lines of a def without its docstring."""
    assert node.end_lineno is not None
    first = node.body[0]
    is_documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    docstring = (first.end_lineno or first.lineno) - first.lineno + 1 if is_documented else 0
    return node.end_lineno - node.lineno + 1 - docstring


def methods_of(node: ast.ClassDef) -> list[str]:
    return [each.name for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]


def attributes_of(node: ast.ClassDef) -> set[str]:
    """Return what a class sets on itself."""
    targets = [each for each in ast.walk(node) if isinstance(each, ast.Attribute) and isinstance(each.ctx, ast.Store)]
    return {each.attr for each in targets if isinstance(each.value, ast.Name) and each.value.id == "self"}


def public_members(classes: list[ast.ClassDef], name: str) -> set[str]:
    (found,) = (each for each in classes if each.name == name)
    own = set(methods_of(found)) | attributes_of(found)
    return {member for member in own if not member.startswith("_")}


def way_of_a_message(package: Path) -> dict[str, int]:
    """Follow the answer of an agent that has talked for a while, on all threads."""
    from tracing import traced_answer

    passed = traced_answer(package)
    files = [file for file, _ in passed]
    return {
        "functions": len(set(passed)),
        "files": len(set(files)),
        "changes": sum(one != other for one, other in itertools.pairwise(files)),
    }


def show(found: dict[str, dict[str, Any]]) -> None:
    table = Table("measure")
    for name in found:
        table.add_column(name, justify="right")
    for key, title in ROWS.items():
        table.add_row(title, *(str(measures[key]) for measures in found.values()))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
