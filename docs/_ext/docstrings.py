"""Docstrings are written for `help()`: names that end in `_`, bars and stars are meant as they stand."""

from __future__ import annotations

import re
from typing import Any

MARK = re.compile(r"(`[^`\n]*`)|(?<![\\\w])(\*+|\|)(?=\S)|(?<=\w)_(?!\w)|\|")


def _plain(found: re.Match[str]) -> str:
    return found[0] if found[1] else "\\" + found[0]


def _as_it_stands(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Escape what reStructuredText would take for marks."""
    lines[:] = [line if line.lstrip().startswith(">>>") else MARK.sub(_plain, line) for line in lines]


def setup(app: Any) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", _as_it_stands, priority=400)  # before napoleon
    return {"parallel_read_safe": True}
