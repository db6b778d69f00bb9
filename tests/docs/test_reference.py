"""The pages of the API reference are those that the docstrings make, and no public name is missing."""

import importlib
import inspect
import re
from pathlib import Path
from types import ModuleType

import pytest

import mongodb_session_manager
from docs.site import reference

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs/api-reference"
PAGES = reference.pages()
MODULES = reference.modules()


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"mongodb_session_manager.{name}")


def _headings(page: str) -> list[str]:
    return re.findall(r"^#+ (.+)$", PAGES[page], re.MULTILINE)


@pytest.mark.parametrize("page", sorted({*PAGES, *(path.name for path in FOLDER.glob("*.md"))}))
def test_a_page_is_what_the_docstrings_say(page: str) -> None:
    stored = (FOLDER / page).read_text("utf-8") if (FOLDER / page).exists() else None

    assert stored == PAGES.get(page), f"docs/api-reference/{page} is old: run {reference.COMMAND}"


@pytest.mark.parametrize("name", sorted(set(mongodb_session_manager.__all__) - {"__version__"}))
def test_each_name_of_the_package_has_its_place(name: str) -> None:
    page, _, anchor = reference.places()[name].partition("#")

    assert name in _headings(page)
    assert anchor == name.lower()


@pytest.mark.parametrize("module", MODULES)
def test_each_name_of_a_public_module_has_its_place(module: str) -> None:
    assert [name for name in getattr(_module(module), "__all__", ()) if name not in reference.places()] == []


def test_each_public_module_has_its_page() -> None:
    folder = Path(inspect.getfile(mongodb_session_manager)).parent
    public = {path.stem for path in (*folder.glob("*.py"), *(file.parent for file in folder.glob("*/__init__.py")))}

    assert set(MODULES) == {name for name in public if not name.startswith("_")}


@pytest.mark.parametrize("module", MODULES)
def test_each_public_method_is_described(module: str) -> None:
    page = f"{reference.page_of(module)}.md"
    found = [getattr(_module(path.rpartition(".")[0]), path.rpartition(".")[2]) for path in reference.names_of(module)]

    for each in filter(inspect.isclass, found):
        own = [method for method in inspect.getmembers(each) if _is_own(*method)]
        assert {name for name, _ in own} <= {*_headings(page)}, each


def _is_own(name: str, member: object) -> bool:
    """Whether it is a public method or property that this library describes, and not one of a base from elsewhere."""
    function = member.fget if isinstance(member, property) else member
    source = getattr(function, "__module__", None) or ""
    described = inspect.isroutine(function) and bool(getattr(function, "__doc__", None))
    return not name.startswith("_") and described and source.startswith("mongodb_session_manager")


def test_an_argument_is_shown_with_type_default_and_meaning() -> None:
    page = PAGES["mongodb-session-manager.md"]

    assert 'durability="sync",\n' in page
    assert "lease_timeout=10.0,\n" in page
    assert "| `durability` | [`Durability`](types.md#durability) | " in page
    assert "_agent_ids" not in page


def test_where_the_index_of_the_first_version_leads() -> None:
    assert "Metadata hooks" in _headings("hooks.md")


def test_each_fixture_for_users_has_its_line() -> None:
    plugin = (ROOT / "src/mongodb_session_manager/testing/pytest_plugin.py").read_text("utf-8")
    fixtures = set(re.findall(r"^@pytest\.fixture.*\ndef (\w+)", plugin, re.MULTILINE))
    page = (ROOT / "docs/user-guide/testing-your-code.md").read_text("utf-8")

    assert fixtures == set(re.findall(r"^\| `(\w+)` \|", page.partition("## Fixtures")[2], re.MULTILINE))
