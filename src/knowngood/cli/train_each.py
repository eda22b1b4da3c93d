"""`knowngood train … --each COLUMN`: a model for each value of a column, many fits beside each other."""

from __future__ import annotations

import os
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING

from knowngood.cli.console import emit, note, say, table
from knowngood.cli.findings import counted_lines
from knowngood.config import Settings, counted
from knowngood.errors import DataError

if TYPE_CHECKING:
    from knowngood.data import ImageSet


def train_each(
    images: ImageSet, settings: Settings, column: str, folder: Path, *, workers: int | None, address: str | None
) -> None:
    """Fit the models and say what came of each.

    Raises:
        DataError: there is no such column; or products could not be fitted, once all others are.
    """
    from knowngood.deploy.fleet import fit_each, products

    some = products(images, column, folder)
    workers = workers or max(
        1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    note(f"{counted(len(some), 'product')}, {counted(workers, 'fit')} at a time; output in {folder}")
    found, started = [], time.perf_counter()
    for one in fit_each(some, settings, workers=workers, address=address):
        found.append(one)
        left = (time.perf_counter() - started) / len(found) * (len(some) - len(found))
        outcome = f"not fitted: {one.error.splitlines()[0]}" if one.error else counted(one.images, "image")
        note(f"{len(found):,} of {len(some):,}, about {left:,.0f} s left: {one.name}: {outcome}")
    found.sort(key=lambda one: one.name)
    table([column, "images", "false alarms"], [[one.name, one.images, one.alarms] for one in found if not one.error])
    for one in found:
        for line in counted_lines(one.findings):
            note(f"{one.name}: {line}")
    say(f"models  {folder}")
    folders = {one.name: str(one.folder) for one in some}
    emit([{**one._asdict(), "folder": folders[one.name]} for one in found])
    failed = [one for one in found if one.error]
    if failed:
        lines = "\n".join(f"{one.name}: {one.error}" for one in failed)
        again = f"the same command with --out {shlex.quote(str(folder))} fits them"
        raise DataError(f"{len(failed)} of {len(found)} products have no model; {again}:\n{lines}")
