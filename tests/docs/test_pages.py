"""Every Python block of README and docs runs, page by page, against a real MongoDB."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bson import json_util
from pymongo import MongoClient

ROOT = Path(__file__).parents[2]
PAGES = sorted(str(page.relative_to(ROOT)) for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")))
DIFFERENT_EACH_TIME = {
    *("created_at", "updated_at", "tracking_id", "write_id", "instance"),
    *("latencyMs", "timeToFirstByteMs", "seconds"),
}
DATA_MODEL = "docs/architecture/data-model.md"

RunBlocks = Callable[[str], dict[str, Any]]


@pytest.mark.parametrize("page", PAGES)
def test_blocks_run(page: str, run_blocks: RunBlocks) -> None:
    run_blocks(page)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    links = re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", text)

    for path, anchor in links:
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), path
        assert not anchor or anchor in _anchors(target), anchor


def _anchors(page: Path) -> set[str]:
    # A comment in code is no heading.
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    places = re.findall(r'<a id="([^"]+)"></a>', text)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings} | {*places}


def test_the_annotated_session_is_the_stored_one(
    run_blocks: RunBlocks, mongo_client: MongoClient[dict[str, Any]], database_name: str
) -> None:
    run_blocks(DATA_MODEL)
    stored = mongo_client[database_name]["agent_sessions"].find_one({"_id": "customer-42"})

    assert _shape(_annotated_session()) == _shape(stored)


def _annotated_session() -> Any:
    block = re.search(r"```js\n(.*?)```", (ROOT / DATA_MODEL).read_text("utf-8"), re.DOTALL)
    assert block
    plain = re.sub(r"//.*", "", block[1])
    plain = re.sub(r'ISODate\((".*?")\)', r'{"$date": \1}', plain)
    plain = re.sub(r'ObjectId\((".*?")\)', r'{"$oid": \1}', plain)
    plain = re.sub(r'BinData\(0, (".*?")\)', r'{"$binary": {"base64": \1, "subType": "00"}}', plain)
    return json.loads(plain, object_hook=json_util.object_hook)


def _shape(value: Any) -> dict[str, Any]:
    """What a document looks like: paths with the values, or with their types where each run has others."""
    return dict(_leaves("", value))


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in items:
        yield from _leaves(f"{path}/{name}", item)
    if not items:
        yield path, type(value) if path.rpartition("/")[2] in DIFFERENT_EACH_TIME else value
