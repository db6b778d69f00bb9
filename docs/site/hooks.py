"""Makes a site of the pages: the menu from the index, files of the repository as pages, the script for diagrams."""

import hashlib
import posixpath
import re
from collections.abc import Iterator
from importlib.resources import files as resources
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

SITE = Path(__file__).parent
DOCS = SITE.parent
ROOT = DOCS.parent
INDEX = "README.md"
# Where the site has the files that pages link to and that are not in docs/.
OUTSIDE = "repository"
LINK = re.compile(r"\]\((?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?\)")
CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LANGUAGES = {".py": "python", ".toml": "toml", ".yml": "yaml", ".html": "html", "": "text"}
DIAGRAMS = "assets/mermaid.min.js"
# That of mermaid.min.js in the release 11.16.0 of Mermaid.
DIGEST = "74d7c46dabca328c2294733910a8aa1ed0c37451776e8d5295da38a2b758fb9b"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Take the navigation from the index, so that the two are one list."""
    seen = {INDEX}
    config.nav = [{"Home": INDEX}]
    for section in re.split(r"^## ", (DOCS / INDEX).read_text("utf-8"), flags=re.MULTILINE)[1:]:
        title, _, text = section.partition("\n")
        links = [(name, _source(_target(f"docs/{INDEX}", path))) for name, path in _plain_links(text)]
        entries = {path: name for name, path in links if path not in seen}
        seen |= set(entries)
        config.nav += [{title: [{name: path} for path, name in entries.items()]}] if entries else []
    return config


def _plain_links(text: str) -> list[tuple[str, str]]:
    """Return names and paths of the links to whole pages."""
    return re.findall(r"\[([^\]]+)\]\(([^)#:]+\.md)\)", text)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what the pages need from elsewhere."""
    files.append(File.generated(config, "assets/site.css", abs_src_path=str(SITE / "site.css")))
    files.append(File.generated(config, DIAGRAMS, content=_script()))
    for path in sorted(_outside(ROOT / "docs" / file.src_uri for file in files.documentation_pages())):
        files.append(File.generated(config, _source(path), content=_as_page(path)))
    return files


def _script() -> bytes:
    script = (resources("mermaidx") / "assets" / "mermaid.js").read_bytes()
    if hashlib.sha256(script).hexdigest() != DIGEST:
        raise RuntimeError("mermaidx brings another script than that of Mermaid 11.16.0. Check it, and set its DIGEST.")
    return script


def _outside(pages: Iterator[Path]) -> set[str]:
    """Return the files outside of docs/ that pages link to, or that such files link to."""
    found: set[str] = set()
    waiting = [page.relative_to(ROOT).as_posix() for page in pages]
    while waiting:
        path = waiting.pop()
        links = LINK.findall(CODE.sub("", (ROOT / path).read_text("utf-8"))) if path.endswith(".md") else []
        linked = {_target(path, link) for link, _ in links}
        new = {link for link in linked - found if not _is_page(link) and (ROOT / link).is_file()}
        found |= new
        waiting += new
    return found


def _is_page(path: str) -> bool:
    return path.startswith("docs/") and not path.startswith("docs/site/")


def _target(page: str, link: str) -> str:
    """Return where a link leads, as a path in the repository."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), link))


def _source(path: str) -> str:
    """Return where the site has a file of the repository."""
    if _is_page(path):
        return path.removeprefix("docs/")
    return f"{OUTSIDE}/{path}" if path.endswith(".md") else f"{OUTSIDE}/{path.lstrip('.')}.md"


def _as_page(path: str) -> str:
    text = (ROOT / path).read_text("utf-8")
    if path.endswith(".md"):
        return text
    language = LANGUAGES.get(Path(path).suffix, "text")
    return f"---\nsearch:\n  exclude: true\n---\n# {path}\n\n````{language}\n{text.rstrip()}\n````\n"


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to files of the repository to their pages in the site; a folder has none."""
    uri = page.file.src_uri
    here = uri.removeprefix(f"{OUTSIDE}/") if uri.startswith(f"{OUTSIDE}/") else f"docs/{uri}"

    def moved(link: re.Match[str]) -> str:
        target = _target(here, link[1])
        if not (ROOT / target).is_file():
            return f"]({link[1]}{link[2] or ''})"
        return f"]({posixpath.relpath(_source(target), posixpath.dirname(uri) or '.')}{link[2] or ''})"

    return LINK.sub(moved, markdown)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Load the script for diagrams where there are any: the theme would fetch it from elsewhere."""
    if 'class="mermaid"' not in output:
        return output
    return output.replace("</head>", f'<script src="{get_relative_url(DIAGRAMS, page.url)}"></script></head>')
