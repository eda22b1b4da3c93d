"""How far a long run is: a bar with the time left on a terminal or in a notebook; elsewhere a line after 5 seconds, and
one every half minute.

Loops over items pass through `track`. They say nothing unless `reporting` is on, as the command line and
`fit(progress=True)` have it. Of loops within loops the outermost is shown.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

Item = TypeVar("Item")

AFTER = 1.0  # seconds that a loop takes before it is shown
FIRST = 5.0  # seconds to the first line
EVERY = 30.0  # seconds from line to line
BAR = 16  # characters


class Reporter:
    """Shows one loop at a time on standard error. clock: seconds, for tests."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock, self.busy = clock, False
        self.said = clock() - EVERY + FIRST
        self._bar: Any = None

    def begin(self, what: str, total: int, unit: str) -> None:
        self.what, self.total, self.unit, self.done = what, total, unit, 0
        self.started = self.clock()
        self.busy = True

    def advance(self, n: int) -> None:
        self.done += n
        now = self.clock()
        if now - self.started < AFTER:
            return
        if shown_live():
            self._draw()
        elif now - self.said >= EVERY and self.done < self.total:
            self.said = now
            left = (now - self.started) * (self.total - self.done) / max(self.done, 1)
            print(f"{self.what}: {counts(self.done, self.total, self.unit)}, {in_words(left)} left", file=sys.stderr)

    def end(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar, self.busy = None, False

    def _draw(self) -> None:
        if self._bar is None:
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

            columns = (
                TextColumn("{task.description}"),
                BarColumn(BAR),
                TextColumn("{task.fields[counts]}"),
                TimeRemainingColumn(),
                TextColumn("left"),
            )
            self._bar = live(*columns)
            self._task = self._bar.add_task(self.what, total=self.total, counts="")
            self._bar.start()
        self._bar.update(self._task, completed=self.done, counts=counts(self.done, self.total, self.unit))


_current: ContextVar[Reporter | None] = ContextVar("reporter", default=None)


@contextmanager
def reporting(wanted: bool = True) -> Iterator[None]:
    """Within, loops that pass through `track` are shown."""
    if not wanted or _current.get() is not None:
        yield
        return
    token = _current.set(Reporter())
    try:
        yield
    finally:
        _current.reset(token)


def busy() -> bool:
    """Whether a loop is shown now, so that nothing else may draw."""
    reporter = _current.get()
    return reporter is not None and reporter.busy


def track(
    items: Iterable[Item], what: str, total: int, unit: str = "images", size: Callable[[Item], int] = lambda _: 1
) -> Iterator[Item]:
    """The same items; while they are consumed it is shown how far the loop is.

    Args:
        what: what is done, in a word or two. total: in `unit`s, of which each item has `size(item)`.
    """
    with counting(what, total, unit) as advance:
        for item in items:
            yield item
            advance(size(item))


@contextmanager
def counting(what: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """As `track`, for work that is no loop: what it gives is called with how many `unit`s were done."""
    reporter = _current.get()
    if reporter is None or reporter.busy or not total:
        yield lambda n: None
        return
    reporter.begin(what, total, unit)
    try:
        yield reporter.advance
    finally:
        reporter.end()


def shown_live() -> bool:
    """Whether a bar can be redrawn: on a terminal, or in a notebook."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


def live(*columns: Any) -> Any:
    """A bar of rich with these columns on standard error, which goes when it ends."""
    from rich.console import Console
    from rich.progress import Progress

    return Progress(*columns, console=Console(stderr=True), transient=True)


def counts(done: int, total: int, unit: str) -> str:
    """'34 of 1,200 images'."""
    return f"{min(done, total):,} of {total:,} {unit}"


def in_words(seconds: float) -> str:
    """'40 s', '12 min', '3 h 20 min'."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
