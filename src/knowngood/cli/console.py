"""What the commands print: tables and lines, coloured on a terminal and plain everywhere else."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from knowngood.detector.results import Detected


def on_terminal() -> bool:
    """Whether a person is watching: progress bars are drawn only then."""
    return sys.stderr.isatty()


def say(text: str = "") -> None:
    """One line of result, on stdout."""
    print(text)


def note(text: str) -> None:
    """One line about what happens, on stderr, so that stdout stays clean for results."""
    print(text, file=sys.stderr)


def fail(text: str) -> None:
    """One readable block on stderr; further lines are indented under the first."""
    head = "\033[1;31merror:\033[0m" if sys.stderr.isatty() else "error:"
    print(f"{head} " + "\n       ".join(text.splitlines() or [""]), file=sys.stderr)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None) -> None:
    """A table on stdout. Off a terminal: columns padded with blanks, no lines, nothing cut."""
    cells = [[str(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        drawn = Table(*columns, title=title, title_justify="left")
        for row in cells:
            drawn.add_row(*(Text(cell) for cell in row))
        Console().print(drawn)
        return
    widths = [max(len(cell) for cell in column) for column in zip(columns, *cells, strict=True)]
    if title:
        print(title)
    for row in [list(columns), *cells]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def tracked(batches: Iterable[Detected], total: int, what: str) -> Iterator[Detected]:
    """The same batches, with a bar of items done and time left on stderr while a person watches."""
    if not on_terminal():
        yield from batches
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        for batch in batches:
            yield batch
            bar.advance(task, len(batch.index))
