"""Runs that resume, keys of what numbers depend on, failures as rows; and the tables made of results."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import protocols, runner, tables
from benchmarks.methods import Method, measure
from benchmarks.protocols import Cell, CellImages
from knowngood.data import ImageSet
from knowngood.errors import DataError, SettingsError
from protocol_cells import TINY, ten_classes

LOW = Method("low contrast", baseline="low contrast")
HIGH = Method("high contrast", baseline="high contrast")


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The measurements really made, in order."""
    made: list[str] = []

    def counting(method: Method, cell: Cell, parts: CellImages, **options: Any) -> dict[str, Any]:
        made.append(f"{method.name} {cell.normal} {cell.seed}")
        return measure(method, cell, parts, **options)

    monkeypatch.setattr(runner, "measure", counting)
    return made


def stand_in(name: str) -> ImageSet:
    if name == "gone":
        raise DataError("gone: nothing here")
    return ten_classes()


@pytest.mark.slow
def test_a_second_run_measures_nothing_again(tmp_path: Path, counted: list[str]) -> None:
    cells = protocols.one_vs_rest("stand-in", ["1", "2"], seeds=(0, 1))
    first = runner.run(cells, [LOW, HIGH], tmp_path, opener=stand_in)
    assert len(first) == len(counted) == 8
    assert runner.run(cells, [LOW, HIGH], tmp_path, opener=stand_in) == first
    assert len(counted) == 8
    runner.run([*cells, *protocols.one_vs_rest("stand-in", ["3"])], [LOW], tmp_path, opener=stand_in)
    assert counted[8:] == ["low contrast 3 0"]


@pytest.mark.slow
def test_other_data_are_measured_again(tmp_path: Path, counted: list[str]) -> None:
    cells = protocols.one_vs_rest("stand-in", ["1"])
    for seed in (0, 1, 0):
        runner.run(cells, [LOW], tmp_path, opener=lambda name, seed=seed: ten_classes(seed=seed))
    assert len(counted) == 2


@pytest.mark.slow
def test_a_run_goes_on_after_a_kill_in_the_middle_of_a_line(tmp_path: Path, counted: list[str]) -> None:
    cells = protocols.one_vs_rest("stand-in", ["1", "2"])
    full = runner.run(cells, [LOW], tmp_path, opener=stand_in)
    file = tmp_path / "results.jsonl"
    file.write_bytes(file.read_bytes()[:-100])
    again = runner.run(cells, [LOW], tmp_path, opener=stand_in)
    assert counted == ["low contrast 1 0", "low contrast 2 0", "low contrast 2 0"]
    assert [r["metrics"] for r in again] == [r["metrics"] for r in full]
    assert runner.run(cells, [LOW], tmp_path, opener=stand_in) == again
    assert len(counted) == 3


def test_what_is_done_is_read_without_measuring(tmp_path: Path, counted: list[str]) -> None:
    cells = protocols.one_vs_rest("stand-in", ["1", "2"])
    first = runner.run(cells[:1], [LOW], tmp_path, opener=stand_in)
    known, other = runner.run(cells, [LOW], tmp_path, opener=stand_in, measuring=False)
    assert [known] == first
    assert other["error"] == "not measured yet"
    assert counted == ["low contrast 1 0"]


def test_keys_tell_apart_what_changes_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    def key(
        settings: Any = TINY, seed: int = 0, form: Any = "test", data: str = "a", baseline: str | None = None
    ) -> str:
        [cell] = protocols.one_vs_rest("stand-in", ["1"], seeds=(seed,), form=form)
        return runner.key_of(cell, Method("name", settings, baseline), data)

    training = {**TINY["training"], "epochs": 3}
    keys = [key(), key({**TINY, "training": training}), key(seed=1), key(form="dev"), key(data="b")]
    keys.append(key(baseline="PPCA 32"))
    assert len(set(keys)) == len(keys)
    written_out = {**TINY, "training": {**TINY["training"], "batch_size": 32}}
    assert key() == key(written_out), "a default written out is the same setting"
    before = key()
    monkeypatch.setattr(runner, "code_version", lambda: "other")
    assert key() != before


def test_comments_do_not_make_a_new_version_of_the_code() -> None:
    code = "def f(x):\n    return x + 1\n"
    commented = '"""Page."""\n\n# why\ndef f(x):\n    """What."""\n    return (x + 1)  # how\n'
    assert runner.essence(code) == runner.essence(commented)
    assert runner.essence(code) != runner.essence(code.replace("1", "2"))


@pytest.mark.slow
def test_missing_data_and_failed_cells_are_rows_and_tried_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], counted: list[str]
) -> None:
    cells = [
        *protocols.one_vs_rest("gone", ["1"]),
        *protocols.lineage("stand-in", "1"),
        *protocols.one_vs_rest("stand-in", ["1"]),
    ]
    results = runner.run(cells, [LOW], tmp_path, opener=stand_in)
    assert [("metrics" in r, "error" in r) for r in results] == [(False, True), (False, True), (True, False)]
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 1
    rows = tables.write_tables(results, tmp_path)
    assert [row["n"] for row in rows] == [0, 0, 1]
    tables.print_summary(rows, "title")
    shown = capsys.readouterr().out
    assert "missing: gone: nothing here" in shown
    assert "needs 1,000 images" in shown

    whole = runner.run(cells, [LOW], tmp_path, opener=lambda name: ten_classes())
    assert ["metrics" in r for r in whole] == [True, False, True]
    assert whole[0]["metrics"] == whole[2]["metrics"], "it is the same cell of the same data now"


@pytest.mark.slow
def test_any_error_of_a_measurement_is_a_row_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(method: Method, cell: Cell, parts: CellImages, **options: Any) -> dict[str, Any]:
        if cell.normal == "1":
            raise ZeroDivisionError("by nothing")
        return measure(method, cell, parts, **options)

    monkeypatch.setattr(runner, "measure", failing)
    cells = protocols.one_vs_rest("stand-in", ["1", "2"])
    failed, fine = runner.run(cells, [LOW], tmp_path, opener=stand_in)
    assert failed["error"] == "ZeroDivisionError: by nothing"
    assert (failed["normal"], failed["method"], "metrics" in failed) == ("1", "low contrast", False)
    assert fine["metrics"]["auroc"] > 0
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setattr(runner, "measure", measure)
    assert all("metrics" in r for r in runner.run(cells, [LOW], tmp_path, opener=stand_in))


def test_no_jobs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="jobs = 0; expected at least 1"):
        runner.run([], [LOW], tmp_path, opener=stand_in, jobs=0)


def test_a_data_set_is_opened_whole_or_what_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KNOWNGOOD_DATA", str(tmp_path))
    with pytest.raises(DataError, match="no folder chest-xray-224 here"):
        runner.open_whole("chest-xray-224")
    with pytest.raises(DataError, match=re.escape(f"put it at {tmp_path / 'mvtec/bottle'}")) as refused:
        runner.open_whole("mvtec/bottle")
    assert "https://www.mvtec.com" in str(refused.value)
    monkeypatch.delenv("KNOWNGOOD_DATA")
    with pytest.raises(DataError, match="or set KNOWNGOOD_DATA to the folder that holds parts"):
        runner.open_whole("parts")
    assert set(runner.open_whole("digits").splits.tolist()) == {"train", "test"}  # type: ignore[union-attr]


# Tables --------------------------------------------------------------------------------------------------------------


def result(auroc: float, seed: int = 0, method: str = "vae", anomalous: str = "9") -> dict[str, Any]:
    metrics = {"auroc": auroc, "auroc_interval": [auroc - 0.1, auroc + 0.1], "false_alarm_rate": 0.05}
    return {
        "protocol": "p", "form": "test", "dataset": "d", "normal": "n", "anomalous": anomalous, "method": method,
        "seed": seed, "metrics": metrics, "alpha": 0.05, "threshold": 1.0, "fit_seconds": 10.0,
    }  # fmt: skip


def failed(why: str, **of: Any) -> dict[str, Any]:
    known = result(0, **of)
    return {name: known[name] for name in ("protocol", "form", "dataset", "normal", "anomalous", "method", "seed")} | {
        "error": why
    }


def test_summary_is_mean_and_sample_deviation() -> None:
    rows = tables.summary([result(0.8, 0), result(0.9, 1), result(0.5, method="other")])
    assert [(row["method"], row["n"]) for row in rows] == [("vae", 2), ("other", 1)]
    assert rows[0]["auroc"] == pytest.approx(0.85)
    assert rows[0]["auroc_sd"] == pytest.approx(np.std([0.8, 0.9], ddof=1))
    assert rows[1]["auroc_sd"] is None


def test_what_failed_counts_for_no_mean_and_says_why() -> None:
    [row] = tables.summary([result(0.8, 0), failed("out of memory", seed=1), failed("again", seed=2), result(0.6, 3)])
    assert (row["n"], row["error"]) == (2, "out of memory")
    assert row["auroc"] == pytest.approx(0.7)
    [row] = tables.summary([failed("out of memory")])
    assert (row["n"], row["auroc"], row["auroc_sd"], row["alpha"]) == (0, None, None, None)


def test_tables_as_csv_and_across(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = tables.write_tables([result(0.8), result(0.6, anomalous="1"), result(0.5, method="half")], tmp_path)
    with (tmp_path / "cells.csv").open() as file:
        assert [row["auroc"] for row in csv.DictReader(file)] == ["0.8", "0.6", "0.5"]
    with (tmp_path / "table.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 3
    tables.print_pivot(rows, "anomalous", "title")
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["method", "9", "1", "mean", "fit,", "s"]
    assert lines[2].split() == ["vae", "0.800", "0.600", "0.700", "10"]
    assert lines[3].split() == ["half", "0.500", "–", "–", "10"]
    assert tables.spread(0.98765, 0.0021) == "0.988 ± 0.002"


def test_results_are_plain_data_on_disk(tmp_path: Path) -> None:
    [found] = runner.run(protocols.one_vs_rest("stand-in", ["1"]), [LOW], tmp_path, opener=stand_in)
    assert json.loads((tmp_path / "results.jsonl").read_text()) == found


def test_a_misspelt_data_set_is_suggested_and_an_absent_one_says_where_it_belongs() -> None:
    with pytest.raises(DataError, match="no data set and no folder mnst here; did you mean mnist"):
        runner.open_whole("mnst")
    with pytest.raises(DataError, match="no folder of-my-own here; put it at"):
        runner.open_whole("of-my-own")
