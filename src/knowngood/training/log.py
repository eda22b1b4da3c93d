"""What a run shows, and leaves beside weights: run.json, log.csv, and TensorBoard's files where it is installed."""

from __future__ import annotations

import csv
import importlib.util
import math
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from knowngood.config.version import __version__
from knowngood.data.progress import BAR, EVERY, FIRST, busy, in_words, live, shown_live
from knowngood.files import explained, whole, write_json
from knowngood.training.engine import Engine

Row = dict[str, Any]
TAKEN = 50  # characters of a line of progress, with the time left


class Meter:
    """Scalars of each step since the last look. Adding never waits for the device; looking does, once."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.pending: list[tuple[int, tuple[str, ...], Tensor]] = []

    def add(self, step: int, values: dict[str, Tensor]) -> None:
        """Take in the scalars of `step`; names may change from step to step."""
        self.pending.append((step, tuple(values), torch.stack([v.detach() for v in values.values()])))

    def state(self) -> list[tuple[int, list[str], list[float]]]:
        """The scalars since the last look as plain data, of this process."""
        return [(step, list(names), values.tolist()) for step, names, values in self.pending]

    def restore(self, state: list[tuple[int, list[str], list[float]]], device: torch.device) -> None:
        """Go on from what `state` gave."""
        self.pending = [(step, tuple(names), torch.tensor(values, device=device)) for step, names, values in state]

    def look(self) -> list[tuple[int, dict[str, float]]]:
        """The values of each step, means over processes; then forget them."""
        pending, self.pending = self.pending, []
        flat = torch.cat([values for _, _, values in pending]).float()
        self.engine.mean_([flat])
        numbers = iter(flat.tolist())
        return [(step, {name: next(numbers) for name in names}) for step, names, _ in pending]


def means(rows: list[dict[str, float]]) -> dict[str, float]:
    """Mean of each value over the rows that have it."""
    names = dict.fromkeys(name for row in rows for name in row)
    values = {name: [row[name] for row in rows if name in row] for name in names}
    return {name: math.fsum(some) / len(some) for name, some in values.items()}


def not_finite(values: dict[str, float]) -> str:
    """Which player and which values are not finite, and what may help; empty if all are."""
    bad = {name: value for name, value in values.items() if not math.isfinite(value)}
    players = [name.partition("/")[2] for name in bad if "/" in name]
    terms = [name for name in bad if "/" not in name] or list(bad)
    player = f", player '{players[0]}'" if players else ""
    listed = ", ".join(f"'{name}' = {bad[name]}" for name in terms)
    remedy = "a lower lr, a smaller clip or precision='float32' may mend it"
    return f"{player}: {listed} is not finite; {remedy}" if bad else ""


class RunLog:
    """Rows of one run, in memory and in `folder`/log.csv, written row by row.

    Without a folder they are in memory only. `keep` rows of an earlier part of the run count; those after them,
    written between the last checkpoint and the interruption, are dropped.
    """

    def __init__(self, folder: Path | None, keep: int = 0) -> None:
        self.path = None if folder is None else folder / "log.csv"
        self.rows: list[Row] = read_log(self.path)[:keep] if self.path and keep else []
        self.columns = list(dict.fromkeys(column for row in self.rows for column in row))
        self.board: Any = None
        if folder is not None:
            self._rewrite()
            if importlib.util.find_spec("tensorboard") is not None:
                from torch.utils.tensorboard import SummaryWriter

                after = self.rows[-1]["step"] + 1 if self.rows else None
                self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=after)

    def add(self, row: Row) -> None:
        """Append a row; it has `step`, `epoch` and `split`, all other values are numbers."""
        self.rows.append(row)
        if self.path is None:
            return
        if row.keys() <= set(self.columns):
            with explained(self.path), self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self.columns).writerow(row)
        else:
            self.columns += [column for column in row if column not in self.columns]
            self._rewrite()
        if self.board is not None:
            for name in [name for name in row if name not in ("step", "epoch", "split")]:
                self.board.add_scalar(f"{name}/{row['split']}", row[name], row["step"])

    def close(self) -> None:
        if self.board is not None:
            self.board.close()

    def _rewrite(self) -> None:
        assert self.path is not None
        with whole(self.path) as draft, draft.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(self.rows)


def read_log(path: Path) -> list[Row]:
    """Rows of a log.csv with numbers as numbers and without empty cells; [] if there is no such file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        read = {"step": int, "split": str}
        return [{k: read.get(k, float)(v) for k, v in row.items() if v} for row in csv.DictReader(file)]


def write_run(folder: Path, record: dict[str, Any]) -> None:
    """run.json: `record` and the versions and machine it ran on."""
    versions = {
        "knowngood": __version__,
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "numpy": version("numpy"),
    }
    machine = {"platform": platform.platform(), "threads": torch.get_num_threads()}
    write_json(folder / "run.json", {**record, "versions": versions, "machine": machine})


class Line:
    """How far a training is, redrawn with each logged row; where nothing can be redrawn, a line now and then."""

    def __init__(self, total_steps: int, wanted: bool) -> None:
        self.total, self.wanted, self.bar = total_steps, wanted and not busy(), None
        self.started = time.monotonic()
        self.said = self.started - EVERY + FIRST
        if not self.wanted or not shown_live():
            return
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(BAR),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeRemainingColumn(),
            TextColumn("left  {task.fields[rest]}"),
        )
        self.bar = live(*columns)
        self.task = self.bar.add_task("", total=total_steps, epoch=0, rest="")
        self.bar.start()

    def show(self, row: dict[str, Any]) -> None:
        speed, epoch = f"{row['images_per_s']:,.0f}", int(row["epoch"])
        if self.bar is not None:
            rest, room = f"{speed} images/s  {_terms(row)}", self.bar.console.width - TAKEN  # the end is cut
            rest = rest if len(rest) <= room else f"{rest[: room - 1]}…"
            self.bar.update(self.task, completed=row["step"], epoch=epoch, rest=rest)
            return
        now = time.monotonic()
        if self.wanted and now - self.said >= EVERY:
            self.said = now
            left = (now - self.started) * (self.total - row["step"]) / max(row["step"], 1)
            done = f"{row['step'] / self.total:.0%}".replace("%", " %")
            print(f"epoch {epoch}: {done}, {in_words(left)} left, {speed} images/s, {_terms(row)}", file=sys.stderr)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()


def _terms(row: dict[str, Any]) -> str:
    shown = {k: v for k, v in row.items() if k not in ("step", "epoch", "split", "lr", "images_per_s")}
    return "  ".join(f"{k.removeprefix('loss/')} {v:.4g}" for k, v in shown.items() if "gradient" not in k)
