"""Every block of code in README and docs runs, or a marker before it says why not.

Blocks of Python run in test_pages.py. Here commands run in a copy of the repository, and print what the page shows. A
command that installs or downloads something never runs here: it needs a marker. ``-ra`` lists the blocks with markers.
"""

import doctest
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from mongodb_session_manager.testing import find_mongod

ROOT = Path(__file__).parents[2]
PAGES = sorted(str(page.relative_to(ROOT)) for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")))
BLOCK = re.compile(r"(?:^<!-- not run: (?P<reason>.+?) -->\n+)?^ *```(?P<kind>\w*)\n(?P<text>.*?)^ *```$", re.M | re.S)
COMMANDS = {"sh", "console"}
SHOWN = {"", "js", "json", "mermaid", "text", "yaml"}
# What would change the environment of these tests, or ask somebody else for something.
OUTWARD = re.compile(r"\b(?:pip|pipx|uvx?|docker|apt|apt-get|git|curl|mongosh)\b|-m (?:venv|build)\b")
TOOLS = {
    "python": (),
    "pytest": ("-m", "pytest"),
    "ruff": ("-m", "ruff"),
    "mypy": ("-m", "mypy"),
    "mkdocs": ("-m", "mkdocs"),
}


@dataclass(frozen=True)
class Block:
    page: str
    kind: str
    text: str
    reason: str | None

    @property
    def is_outward(self) -> bool:
        return self.kind in COMMANDS and OUTWARD.search(self.text) is not None

    @property
    def runs(self) -> bool:
        return self.kind in COMMANDS and self.reason is None and not self.is_outward


BLOCKS = [
    Block(page, found["kind"], found["text"], found["reason"])
    for page in PAGES
    for found in BLOCK.finditer((ROOT / page).read_text("utf-8"))
]
NOT_RUN = [block for block in BLOCKS if block.reason is not None]
WITH_COMMANDS = sorted({block.page for block in BLOCKS if block.runs})


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A copy of the repository whose ``.venv`` has the tools of this environment, and no way to change it."""
    ignored = shutil.ignore_patterns(".venv*", ".git", ".*_cache", "__pycache__", "*-data")
    folder = shutil.copytree(ROOT, tmp_path / "clone", ignore=ignored)
    tools = folder / ".venv" / "bin"
    tools.mkdir(parents=True)
    for name, arguments in TOOLS.items():
        (tools / name).write_text(f'#!/bin/sh\nexec {" ".join([sys.executable, *arguments])} "$@"\n')
        (tools / name).chmod(0o755)
    return folder


@pytest.mark.skipif(
    find_mongod() is None and "MONGODB_URI" in os.environ, reason="there is a MongoDB, but no mongod to start"
)
@pytest.mark.usefixtures("mongodb_uri")
@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_commands_run(page: str, clone: Path) -> None:
    for block in (block for block in BLOCKS if block.page == page and block.runs):
        for command, shown in _commands(block):
            printed = _output(command, clone)
            assert not shown or doctest.OutputChecker().check_output(shown, printed, doctest.ELLIPSIS), printed


def _commands(block: Block) -> list[tuple[str, str]]:
    """Return each command with the output that the page shows for it."""
    if block.kind == "sh":
        return [(block.text, "")]
    text = re.sub(r"^$", "<BLANKLINE>", block.text.rstrip("\n"), flags=re.MULTILINE) + "\n"
    return re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", text, re.MULTILINE)


def _output(command: str, clone: Path) -> str:
    inherited = {name: value for name, value in os.environ.items() if name != "MONGODB_URI"}
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", command],
        cwd=clone,
        env=inherited | {"PATH": f"{clone}/.venv/bin{os.pathsep}{os.environ['PATH']}", "PIP_DRY_RUN": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("page", PAGES)
def test_blocks_are_of_a_kind_that_runs_or_is_no_code(page: str) -> None:
    kinds = {block.kind for block in BLOCKS if block.page == page}

    assert kinds <= {"python", *COMMANDS, *SHOWN}
    # No block is hidden from the tests by a fence that is spelt in another way.
    assert len(re.findall(r"^ *(?:```|~~~)", (ROOT / page).read_text("utf-8"), re.MULTILINE)) == 2 * len(
        [block for block in BLOCKS if block.page == page]
    )


def test_commands_that_install_or_download_are_marked() -> None:
    assert [block for block in BLOCKS if block.is_outward and block.reason is None] == []


def test_only_commands_are_marked() -> None:
    assert {block.kind for block in NOT_RUN} <= COMMANDS


@pytest.mark.parametrize("number", range(1, len(NOT_RUN) + 1))
def test_blocks_that_do_not_run(number: int) -> None:
    block = NOT_RUN[number - 1]

    pytest.skip(f"block {number} of the {len(NOT_RUN)} that do not run, in {block.page}: {block.reason}")
