"""Markdown of generated pages: cells and tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def cell(text: Any) -> str:
    """Text as a cell of a table: in one line, without what would be read as a mark."""
    marked = " ".join(str(text).split()).replace("|", "\\|")
    return "`".join(
        part if i % 2 else part.replace("<", "&lt;").replace("*", "\\*") for i, part in enumerate(marked.split("`"))
    )


def code(text: Any) -> str:
    """Text as code; a dash if there is none."""
    return f"`{text}`" if str(text) else "–"


def table(titles: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    return "\n".join(lines + [f"| {' | '.join(map(cell, row))} |" for row in rows])
