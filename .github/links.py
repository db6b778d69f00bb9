"""Give a release its links. The sources do not name the repository: it is the one whose workflow releases.

python .github/links.py ADDRESS TAG
"""

import re
import sys
from pathlib import Path

URLS = """
[project.urls]
Documentation = "{files}/docs/README.md"
Changelog = "{files}/CHANGELOG.md"
Issues = "{address}/issues"
Source = "{address}"
"""


def main(address: str, tag: str) -> None:
    """Write the links into README.md and pyproject.toml of this folder."""
    files = f"{address}/blob/{tag}"
    readme, project = Path("README.md"), Path("pyproject.toml")
    # On PyPI a relative link leads nowhere.
    readme.write_text(re.sub(r"\]\((?![a-z]+:|#)", f"]({files}/", readme.read_text("utf-8")), "utf-8")
    project.write_text(project.read_text("utf-8") + URLS.format(files=files, address=address), "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
