"""The pages as a site: it builds strictly, is readable at any width, and asks nobody else for anything."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.examples.browser import Browser, Tab, browser_of_tests

ROOT = Path(__file__).parents[2]
PAGES = sorted(path.relative_to(ROOT / "docs") for path in ROOT.glob("docs/**/*.md"))
DIAGRAMS = [page for page in PAGES if "```mermaid" in (ROOT / "docs" / page).read_text("utf-8")]


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, as docs/development/testing.md builds it."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", "docs/site/mkdocs.yml", "-d", folder],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    # Quiet it would not count warnings, such as links that lead nowhere.
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(site))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser_of_tests(pytestconfig, tmp_path_factory.mktemp("browser")) as running:
        yield running


@pytest.fixture
def tab(browser: Browser, address: str) -> Iterator[Tab]:
    with browser.tab(f"{address}404.html") as tab:
        tab.call("Network.enable")
        yield tab


def _place(page: Path) -> str:
    """Return where the site has a page."""
    folder = page.parent if page.name == "README.md" else page.with_suffix("")
    return "" if folder == Path() else f"{folder.as_posix()}/"


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_each_page_is_in_the_site_and_its_menu(site: Path, page: Path) -> None:
    assert (site / _place(page) / "index.html").is_file()
    assert f'href="{_place(page) or "."}"' in (site / "index.html").read_text("utf-8")


def test_files_of_the_repository_are_pages_too(site: Path) -> None:
    assert "multi_agent" in (site / "repository/examples/example_multi_agent.py/index.html").read_text("utf-8")
    assert (site / "repository/CHANGELOG/index.html").is_file()
    assert not (site / "site").exists()


def test_lists_and_tables_are_no_plain_text(site: Path) -> None:
    """Python-Markdown wants an empty line before a list or a table, which other readers do not."""
    for page in PAGES:
        text = re.sub(r"<(pre|code).*?</\1>", "", (site / _place(page) / "index.html").read_text("utf-8"), flags=re.S)
        assert re.findall(r"<p>[^<]*\n(?:- |\d+\. |\|)[^\n]*", text) == [], page


def test_reading_asks_nobody_else_and_needs_no_wide_window(tab: Tab, address: str) -> None:
    wide: dict[tuple[str, int], int] = {}
    for place in (*map(_place, PAGES), "repository/", "repository/examples/quickstart.py/"):
        tab.visit(f"{address}{place}")
        if place in map(_place, DIAGRAMS):
            tab.wait_for("document.querySelector('div.mermaid')?.offsetHeight > 50")
        wide |= {(place, width): needed for width in (390, 1280) if (needed := _needed(tab, width)) > width}
    tab.run("new Promise((resolve) => setTimeout(resolve, 500))")

    asked = [each["params"]["request"]["url"] for each in tab.events if each["method"] == "Network.requestWillBeSent"]
    answered = [each["params"]["response"] for each in tab.events if each["method"] == "Network.responseReceived"]
    assert {urlsplit(url).hostname for url in asked if not url.startswith("data:")} == {"127.0.0.1"}
    assert [response["url"] for response in answered if response["status"] >= 400] == []
    assert f"{address}search/search_index.json" in asked
    assert f"{address}assets/mermaid.min.js" in asked
    assert wide == {}


def _needed(tab: Tab, width: int) -> int:
    """Return the width that the page takes in a window of this width."""
    tab.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 500)
    return int(tab.run("new Promise(requestAnimationFrame).then(() => document.querySelector('.md-main').scrollWidth)"))


@pytest.mark.parametrize(("scheme", "is_dark"), [("dark", True), ("light", False)])
def test_colours_are_those_of_the_system(tab: Tab, address: str, scheme: str, is_dark: bool) -> None:
    tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    tab.visit(address)
    channels = tab.run("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")

    assert (max(channels) < 100) == is_dark


def test_search_finds_a_page(tab: Tab, address: str) -> None:
    tab.visit(address)
    tab.run("document.querySelector('[data-md-component=search-query]').focus()")
    tab.call("Input.insertText", text="lease_duration")

    found = "document.querySelector('.md-search-result__link')?.href"
    assert tab.wait_for(found).startswith(address)
