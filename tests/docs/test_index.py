"""The index of the documentation leads to every page, and every promise about packaging holds."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mongodb_session_manager import __version__

ROOT = Path(__file__).parents[2]
INDEX = (ROOT / "docs/README.md").read_text("utf-8")
LINKS = {path.partition("#")[0] for path in re.findall(r"\]\(([^)]+)\)", INDEX)}
# Pages and places that readers have kept from the documentation of the first version.
PLACES = {
    "../CHANGELOG.md",
    "api-reference/hooks.md",
    "api-reference/hooks.md#metadata-hooks",
    "api-reference/mongodb-connection-pool.md",
    "api-reference/mongodb-session-factory.md",
    "api-reference/mongodb-session-manager.md",
    "api-reference/mongodb-session-repository.md",
    "architecture/data-model.md",
    "architecture/design-decisions.md",
    "architecture/overview.md",
    "architecture/performance.md",
    "development/contributing.md",
    "development/releasing.md",
    "development/setup.md",
    "development/testing.md",
    "examples/aws-patterns.md",
    "examples/basic-usage.md",
    "examples/fastapi-integration.md",
    "examples/feedback-patterns.md",
    "examples/metadata-patterns.md",
    "faq.md",
    "getting-started/basic-concepts.md",
    "getting-started/installation.md",
    "getting-started/quickstart.md",
    "user-guide/async-streaming.md",
    "user-guide/aws-integrations.md",
    "user-guide/connection-pooling.md",
    "user-guide/factory-pattern.md",
    "user-guide/feedback-system.md",
    "user-guide/metadata-management.md",
    "user-guide/session-management.md",
    "getting-started/quickstart.md#creating-a-session-manager",
    "user-guide/async-streaming.md#streaming-responses",
    "user-guide/aws-integrations.md#sns-feedback-notifications",
    "user-guide/factory-pattern.md#global-factory-initialization",
    "user-guide/feedback-system.md#adding-feedback",
    "user-guide/metadata-management.md#updating-metadata",
    "user-guide/session-management.md#session-persistence",
}


@pytest.mark.parametrize("page", sorted(path.relative_to(ROOT / "docs") for path in ROOT.glob("docs/**/*.md")), ids=str)
def test_each_page_is_in_the_index(page: Path) -> None:
    assert page.as_posix() in LINKS | {"README.md"}


@pytest.mark.parametrize("example", sorted(path.name for path in ROOT.glob("examples/*.py")))
def test_each_example_is_in_the_index(example: str) -> None:
    assert f"../examples/{example}" in LINKS


@pytest.mark.parametrize("place", sorted(PLACES))
def test_places_that_readers_know_are_in_the_index(place: str) -> None:
    assert f"]({place})" in INDEX  # that they lead somewhere is tested with the other links


@pytest.mark.parametrize("example", sorted(path.name for path in ROOT.glob("examples/*.py")))
def test_each_example_has_a_page(example: str) -> None:
    page = re.search(rf"\({re.escape(f'../examples/{example}')}\) \| \[.+?\]\(([^)#]+)", INDEX)

    assert page
    assert f"examples/{example}" in (ROOT / "docs" / page[1]).read_text("utf-8")


def test_the_index_is_of_this_version() -> None:
    assert f"version {__version__}." in INDEX


@pytest.mark.parametrize("page", sorted(path.relative_to(ROOT) for path in ROOT.glob("docs/**/*.md")), ids=str)
def test_a_list_of_contents_is_whole(page: Path) -> None:
    """A page that begins with a list of its sections names all of them, in their order."""
    text = re.sub(r"^```.*?^```$", "", (ROOT / page).read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    listed = re.findall(r"^- \[(.+?)\]\(#", text.split("\n## ")[0], re.MULTILINE)

    assert not listed or listed == [title.replace("`", "") for title in re.findall(r"^## (.+)$", text, re.MULTILINE)]


# Packaging


def test_ci_runs_on_every_version_of_python_that_is_promised() -> None:
    promised = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', (ROOT / "pyproject.toml").read_text("utf-8"))
    matrix = re.search(r"python: \[(.+)\]", _workflow("ci"))

    assert matrix
    assert re.findall(r'"(.+?)"', matrix[1]) == promised


def test_ci_does_what_has_to_pass() -> None:
    local = (ROOT / ".ci/run").read_text("utf-8")
    commands = [
        "--require-mongod --require-browser --cov --cov-fail-under=95",
        ".venv/bin/ruff check .",
        ".venv/bin/ruff format --check .",
        "bin/mypy",
    ]

    assert [command for command in commands if command not in _workflow("ci") or command not in local] == []


def test_a_release_needs_no_secret() -> None:
    workflow = _workflow("release")

    assert "id-token: write" in workflow
    assert not re.search(r"secrets\.|password|token:(?! write)", workflow.replace("no password exists", ""))


def test_a_release_has_links_that_lead_somewhere(tmp_path: Path) -> None:
    address, files = "https://github.com/someone/sessions", "https://github.com/someone/sessions/blob/v9"
    for name in ("README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)

    subprocess.run([sys.executable, ROOT / ".github/links.py", address, "v9"], cwd=tmp_path, check=True, timeout=60)

    project = (tmp_path / "pyproject.toml").read_text("utf-8").partition("[project.urls]\n")[2]
    readme = (tmp_path / "README.md").read_text("utf-8")
    links = [*re.findall(r"\]\((.+?)\)", readme), *re.findall(r'= "(.+?)"', project)]
    paths = [link.partition("#")[0].removeprefix(f"{files}/") for link in links if link.startswith(files)]
    assert len(paths) > 20
    assert [path for path in paths if not (ROOT / path).is_file()] == []
    assert [link for link in links if not link.startswith("https://")] == []
    blocks = re.compile(r"^```python.*?^```$", re.M | re.S)
    assert blocks.findall(readme) == blocks.findall((ROOT / "README.md").read_text("utf-8"))


def test_no_page_names_an_address_of_the_repository() -> None:
    texts = [path.read_text("utf-8") for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))]

    assert [text for text in texts if re.search(r"github\.com/[^/\s]+/mongodb-session-manager", text)] == []


def _workflow(name: str) -> str:
    return (ROOT / ".github/workflows" / f"{name}.yml").read_text("utf-8")
