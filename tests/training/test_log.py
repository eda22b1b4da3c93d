"""log.csv, run.json, TensorBoard and the progress line."""

from __future__ import annotations

import csv
import io
import json
import sys
from types import SimpleNamespace

import pytest
import torch

from knowngood.training import log
from knowngood.training.log import Line, RunLog, read_log, write_run

ROWS = [
    {"step": 1, "epoch": 0.5, "split": "train", "loss/model": 1 / 3, "lr": 1e-3},
    {"step": 2, "epoch": 1.0, "split": "train", "loss/model": 0.1 + 0.2, "lr": 1e-4},
    {"step": 2, "epoch": 1.0, "split": "held_out", "loss/model": -1e-30},
]


def write(folder, rows, keep=0):
    run = RunLog(folder, keep)
    for row in rows:
        run.add(row)
    run.close()
    return run.rows


def test_rows_come_back_to_the_last_bit(tmp_path):
    write(tmp_path, ROWS)
    assert read_log(tmp_path / "log.csv") == ROWS


def test_a_row_is_on_disk_as_soon_as_it_is_added(tmp_path):
    run = RunLog(tmp_path)
    for i, row in enumerate(ROWS, start=1):
        run.add(row)
        assert len(read_log(tmp_path / "log.csv")) == i


def test_a_new_column_is_added(tmp_path):
    later = {"step": 3, "epoch": 1.5, "split": "train", "loss/model": 1.0, "lr": 1.0, "tc": 2.0}
    write(tmp_path, [*ROWS, later])
    with (tmp_path / "log.csv").open() as file:
        assert next(csv.reader(file)) == ["step", "epoch", "split", "loss/model", "lr", "tc"]
    assert read_log(tmp_path / "log.csv") == [*ROWS, later]


@pytest.mark.parametrize("keep", [0, 2])
def test_rows_after_the_checkpoint_are_dropped(tmp_path, keep):
    write(tmp_path, ROWS)
    other = {"step": 9, "epoch": 2.0, "split": "train", "loss/model": 5.0}
    assert write(tmp_path, [other], keep=keep) == [*ROWS[:keep], other]
    assert read_log(tmp_path / "log.csv") == [*ROWS[:keep], other]


def test_without_a_folder_rows_stay_in_memory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert write(None, ROWS) == ROWS
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_gets_the_numbers_where_it_is_installed(tmp_path, monkeypatch):
    seen = []

    class SummaryWriter:
        def __init__(self, folder, purge_step):
            seen.append((folder, purge_step))

        def add_scalar(self, name, value, step):
            seen.append((name, value, step))

        def close(self):
            seen.append("closed")

    monkeypatch.setattr(log.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=SummaryWriter))
    write(tmp_path, ROWS[:1])
    folder = str(tmp_path / "tensorboard")
    assert seen == [(folder, None), ("loss/model/train", 1 / 3, 1), ("lr/train", 1e-3, 1), "closed"]
    seen.clear()
    write(tmp_path, [], keep=1)
    assert seen == [(folder, 2), "closed"]  # a resumed run goes on after the last row kept


def test_run_json_says_what_ran(tmp_path):
    write_run(tmp_path, {"seed": 3, "settings": {"epochs": None}})
    record = json.loads((tmp_path / "run.json").read_text())
    assert (record["seed"], record["settings"]) == (3, {"epochs": None})
    assert record["versions"]["torch"] == torch.__version__
    assert {"knowngood", "python", "numpy"} <= record["versions"].keys()
    assert record["machine"]["threads"] == torch.get_num_threads()


class Screen(io.StringIO):
    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.mark.slow
@pytest.mark.parametrize(("terminal", "wanted"), [(False, True), (True, False), (True, True)])
def test_progress_is_shown_on_a_terminal_only(monkeypatch, terminal, wanted):
    screen = Screen(terminal)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    line = Line(100, wanted)
    line.show({**ROWS[0], "step": 50, "kl": 12.5, "gradient_norm/model": 77.0, "images_per_s": 4321.0})
    line.close()
    text = screen.getvalue()
    if terminal and wanted:
        assert all(part in text for part in ("50 %", "left", "4,321 images/s", "model 0.3333", "kl 12.5"))
        assert "77" not in text
    else:
        assert text == ""


@pytest.mark.slow
def test_on_a_narrow_terminal_the_time_left_is_not_cut(monkeypatch):
    screen = Screen(True)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    line = Line(100_000, True)
    row = {f"loss/term_with_a_long_name_{i}": 1234.5678 for i in range(9)}
    line.show({**row, "step": 99_000, "epoch": 123, "split": "train", "images_per_s": 123456.0})
    line.close()
    assert all(part in screen.getvalue() for part in ("epoch 123", "99 %", "left", "123,456 images/s"))


def test_elsewhere_there_is_a_line_every_half_minute(monkeypatch):
    screen, now = Screen(False), [0.0]
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr("knowngood.training.log.time.monotonic", lambda: now[0])
    line = Line(100, True)
    for step in range(1, 71):
        now[0] += 1
        line.show({"step": step, "epoch": 2, "split": "train", "loss/model": 0.25, "images_per_s": 400.0})
    line.close()
    assert screen.getvalue().splitlines() == [
        "epoch 2: 5 %, 2 min left, 400 images/s, model 0.25",
        "epoch 2: 35 %, 65 s left, 400 images/s, model 0.25",
        "epoch 2: 65 %, 35 s left, 400 images/s, model 0.25",
    ]
