"""What the commands print: tables and lines, coloured on a terminal and plain everywhere else; or JSON for machines."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from knowngood.data.findings import printable
from knowngood.files import plain, write_json

# What a command is for goes to stdout; when that is JSON, lines for people go beside the messages.
_for_machines: ContextVar[bool] = ContextVar("for_machines", default=False)
_silent: ContextVar[bool] = ContextVar("silent", default=False)

STDOUT = Path("-")  # in place of a file

AsJson = Annotated[
    bool, typer.Option("--json", help="print the results as JSON on stdout; lines for people go to stderr")
]


def coloured(stream: TextIO) -> bool:
    """Whether a stream takes colours: a terminal, unless NO_COLOR is set (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


@contextmanager
def for_machines(wanted: bool) -> Iterator[None]:
    """Within, stdout is left to `emit`."""
    token = _for_machines.set(wanted)
    try:
        yield
    finally:
        _for_machines.reset(token)


def emit(record: Any) -> None:
    """The results as JSON on stdout, if that was asked for. What is no finite number is null."""
    if _for_machines.get():
        print(json.dumps(plain(record), indent=1, ensure_ascii=False))


def write_records(path: Path, records: Any) -> None:
    """The results as JSON in a file, or alone on stdout where that is asked for."""
    if path == STDOUT:
        emit(records)
    else:
        write_json(path, records)


def _harmless(text: str) -> str:
    """Without what moves the cursor or sets colours: names and values of the data may hold it."""
    return "\n".join(map(printable, text.split("\n")))


@contextmanager
def silent() -> Iterator[None]:
    """Within, nothing is said but errors: another process of the same run says it."""
    before = _silent.set(True)
    try:
        yield
    finally:
        _silent.reset(before)


def say(text: str = "") -> None:
    """Lines of a result, on stdout."""
    if _silent.get():
        return
    print(_harmless(text), file=sys.stderr if _for_machines.get() else sys.stdout)


def note(text: str) -> None:
    """One line about what happens, on stderr, so that stdout stays clean for results."""
    if _silent.get():
        return
    print(_harmless(text), file=sys.stderr)


def fail(text: str) -> None:
    """One readable block on stderr; further lines are indented under the first."""
    head = "\033[1;31merror:\033[0m" if coloured(sys.stderr) else "error:"
    print(f"{head} " + "\n       ".join(_harmless(text).split("\n")), file=sys.stderr)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None) -> None:
    """A table on stdout. Off a terminal: columns padded with blanks, no lines, nothing cut."""
    cells = [[printable(str(cell)) for cell in row] for row in rows]
    stream = sys.stderr if _for_machines.get() else sys.stdout
    if stream.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        drawn = Table(*columns, title=title, title_justify="left")
        for row in cells:
            drawn.add_row(*(Text(cell) for cell in row))
        Console(file=stream).print(drawn)
        return
    widths = [max(len(cell) for cell in column) for column in zip(columns, *cells, strict=True)]
    if title:
        print(title, file=stream)
    for row in [list(columns), *cells]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip(), file=stream)
