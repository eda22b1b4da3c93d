"""Progress lines: how many measurements are done, and an estimate of the remaining time."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np


class Remaining:
    """Counts finished measurements of `total`, of which `jobs` run at a time."""

    def __init__(self, total: int, jobs: int) -> None:
        self.total, self.jobs, self.done = total, jobs, 0
        self.waiting: list[dict[str, Any]] = []
        self.seconds: dict[tuple[str, str], list[float]] = {}

    def tell(self, record: dict[str, Any], what: str, seconds: float | None = None) -> None:
        """One line on stderr about one measurement; `seconds` if it was made now."""
        self.done += 1
        self.waiting = [other for other in self.waiting if other is not record]
        if seconds is not None:
            self.seconds.setdefault(_kind(record), []).append(seconds)
            what += f", {seconds:.0f} s"
        left = self.left()
        print(
            f"[{self.done}/{self.total}] {_named(record)}: {what}" + (f"; about {duration(left)} left" if left else ""),
            file=sys.stderr,
            flush=True,
        )

    def left(self) -> float | None:
        """Seconds: for each remaining measurement the mean of its method on its data set, or of all; None: unknown."""
        if not self.waiting or not self.seconds:
            return None
        everything = mean([second for some in self.seconds.values() for second in some])
        known = {kind: mean(some) for kind, some in self.seconds.items()}
        return sum(known.get(_kind(record), everything) for record in self.waiting) / min(self.jobs, len(self.waiting))


def mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def duration(seconds: float) -> str:
    """ "40 s", "12 min", "3 h 05 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def _kind(record: dict[str, Any]) -> tuple[str, str]:
    return record["dataset"], record["method"]


def _named(record: dict[str, Any]) -> str:
    return (
        f"{record['protocol']} {record['form']} {record['dataset']}, normal {record['normal']}, "
        f"{record['method']}, seed {record['seed']}"
    )
