"""The commands of docs/install.md, or of another page, that a test runs: those below `<!-- test: NAME -->`."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "install.md"


def blocks(name: str, page: Path = PAGE) -> list[str]:
    """Shell texts in the page's order."""
    return re.findall(rf"<!-- test: {name} -->\n```sh\n(.*?)```", page.read_text(), re.DOTALL)
