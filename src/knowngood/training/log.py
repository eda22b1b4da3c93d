"""What a run leaves behind beside weights: run.json, log.csv, and TensorBoard's files where it is installed."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import knowngood

Row = dict[str, Any]


class RunLog:
    """Rows of one run, in memory and in `folder`/log.csv, flushed row by row.

    Args:
        folder: None keeps rows in memory only.
        keep: rows of an earlier part of the run that count; those after them, written between the last checkpoint and
            the interruption, are dropped.
    """

    def __init__(self, folder: Path | None, keep: int = 0) -> None:
        self.folder = folder
        self.rows: list[Row] = []
        self.columns: list[str] = []
        self.file = self.board = None
        if folder is not None:
            if keep:
                self.rows = read_log(folder / "log.csv")[:keep]
            self.columns = list(dict.fromkeys(column for row in self.rows for column in row))
            self._rewrite()
            self.board = _tensorboard(folder, self.rows[-1]["step"] if self.rows else 0)

    def add(self, row: Row) -> None:
        """Append a row; it has `step`, `epoch` and `split`, all other values are numbers."""
        self.rows.append(row)
        if self.folder is None:
            return
        if not row.keys() <= set(self.columns):
            self.columns += [column for column in row if column not in self.columns]
            self._rewrite()
        else:
            self._write(row)
            self.file.flush()  # type: ignore[union-attr]
        if self.board is not None:
            for name, value in row.items():
                if isinstance(value, float) and name != "epoch":
                    self.board.add_scalar(f"{name}/{row['split']}", value, row["step"])

    def close(self) -> None:
        for sink in (self.file, self.board):
            if sink is not None:
                sink.close()

    def _write(self, row: Row) -> None:
        csv.DictWriter(self.file, self.columns).writerow(  # type: ignore[arg-type]
            {name: repr(value) if isinstance(value, float) else value for name, value in row.items()}
        )

    def _rewrite(self) -> None:
        if self.file is not None:
            self.file.close()
        path = self.folder / "log.csv"  # type: ignore[operator]
        draft = path.with_suffix(".part")
        self.file = draft.open("w", newline="", encoding="utf-8")
        csv.DictWriter(self.file, self.columns).writeheader()
        for row in self.rows:
            self._write(row)
        self.file.flush()
        os.replace(draft, path)


def read_log(path: Path) -> list[Row]:
    """Rows of a log.csv with numbers as numbers and without empty cells; [] if there is no such file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [{k: _number(k, v) for k, v in row.items() if v} for row in csv.DictReader(file)]


def _number(column: str, text: str) -> Any:
    if column == "split":
        return text
    return int(text) if column == "step" else float(text)


def _tensorboard(folder: Path, step: int) -> Any:
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)


def write_run(folder: Path, record: dict[str, Any]) -> None:
    """run.json: `record` and the versions and machine it ran on."""
    versions = {
        "knowngood": knowngood.__version__,
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "numpy": version("numpy"),
        "lightning-fabric": version("lightning-fabric"),
    }
    machine = {"platform": platform.platform(), "threads": torch.get_num_threads()}
    text = json.dumps({**record, "versions": versions, "machine": machine}, indent=2, ensure_ascii=False)
    draft = folder / "run.json.part"
    draft.write_text(text + "\n", encoding="utf-8")
    os.replace(draft, folder / "run.json")
