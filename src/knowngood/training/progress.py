"""A progress line on standard error; nothing where that is not a terminal."""

from __future__ import annotations

import sys
from typing import Any


class Line:
    """Bar, epoch, terms, images/s and time left, redrawn with each logged row."""

    def __init__(self, total_steps: int, wanted: bool) -> None:
        self.bar = None
        if not (wanted and sys.stderr.isatty()):
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[terms]}"),
            TextColumn("{task.fields[speed]} images/s"),
            TimeRemainingColumn(),
        )
        self.bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self.task = self.bar.add_task("", total=total_steps, epoch=0, terms="", speed="–")
        self.bar.start()

    def show(self, row: dict[str, Any]) -> None:
        """Bring the line up to date with a logged training row."""
        if self.bar is None:
            return
        shown = {k: v for k, v in row.items() if k not in ("step", "epoch", "split", "lr", "images_per_s")}
        terms = "  ".join(f"{k.removeprefix('loss/')} {v:.4g}" for k, v in shown.items() if "gradient" not in k)
        self.bar.update(
            self.task,
            completed=row["step"],
            epoch=int(row["epoch"]),
            terms=terms,
            speed=f"{row['images_per_s']:,.0f}",
        )

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
