"""The overview names every module of the private folders, and the rule of imports as it is tested."""

import re
from pathlib import Path

import pytest

from tests.architecture.test_imports import FLOORS, FOLDERS, MODULES

PAGE = (Path(__file__).parents[2] / "docs/architecture/overview.md").read_text("utf-8")
PRIVATE = {folder for folder in FOLDERS if folder.startswith("_")}
UNTOLD = {"_version", "_override", "__init__", "__main__"}


def named_modules() -> list[str]:
    """The modules in the first cells; behind one with its folder, others of the same folder stand without it."""
    rows = re.findall(r"^\| `(_\w+)/(\w+)`((?:, `[\w/]+`)*) \|", PAGE, re.MULTILINE)
    return [
        f"{folder}.{name.rpartition('/')[2]}"
        for folder, first, more in rows
        for name in (first, *re.findall(r"`([\w/]+)`", more))
    ]


def test_each_private_module_is_named_once() -> None:
    private = [name for name in MODULES if name.split(".")[0] in PRIVATE and not name.endswith("__init__")]

    assert sorted(named_modules()) == sorted(private)


@pytest.mark.parametrize("part", sorted(name for name in MODULES if re.fullmatch(r"hooks\._[a-z]\w+", name)))
def test_each_part_of_the_hooks_is_named(part: str) -> None:
    assert f"`{part.removeprefix('hooks.')}`" in PAGE


def test_the_rule_of_imports_is_the_one_that_is_tested() -> None:
    block = next(text for text in re.findall(r"^```\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL) if "_schema" in text)
    told = [{*line.split(", ")} for line in block.splitlines()]

    assert told == [floor - UNTOLD for floor in FLOORS if floor - UNTOLD]
