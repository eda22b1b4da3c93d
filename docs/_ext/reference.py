"""Reference pages that are made from the code: a line `<!-- generated: NAME -->` on a page becomes Markdown."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from of_commands import commands
from of_errors import errors
from of_server import routes
from of_settings import settings

ROOT = Path(__file__).parents[2]


def of_the_root(name: str) -> str:
    """A page from the root of the repository, with its links seen from a folder of the docs."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return re.sub(r"\]\((?:docs/)", "](../", text).replace("](CONTRIBUTING.md", "](contributing.md")


GENERATED: dict[str, Callable[[], str]] = {
    "changelog": partial(of_the_root, "CHANGELOG.md"),
    "commands": commands,
    "contributing": partial(of_the_root, "CONTRIBUTING.md"),
    "errors": errors,
    "routes": routes,
    "settings": settings,
}
MARK = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)


def _fill(app: Any, docname: str, source: list[str]) -> None:
    source[0] = MARK.sub(lambda found: GENERATED[found[1]](), source[0])


def setup(app: Any) -> dict[str, bool]:
    app.connect("source-read", _fill)
    return {"parallel_read_safe": True}
