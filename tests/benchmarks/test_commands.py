"""`python -m benchmarks NAME`: options, errors of the command line, and the protocols run on stand-ins."""

from __future__ import annotations

import importlib
import inspect
import json
import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import benchmarks
from benchmarks import __main__ as command
from benchmarks import leave_one_out, lineage, one_vs_rest, paper, pneumonia, protocols, runner
from benchmarks.commands import command_line
from benchmarks.option_help import argument_texts
from benchmarks.outcome import check_measured
from knowngood.data import ImageSet
from knowngood.errors import DataError, KnowngoodError, SettingsError
from protocol_cells import SIZE, TINY, ten_classes, x_rays

NAMES = sorted(benchmarks.BENCHMARKS)


def function_of(name: str) -> Callable[..., Any]:
    module, _, function = benchmarks.BENCHMARKS[name][0].partition(":")
    return getattr(importlib.import_module(module), function)


# Options -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_is_a_command_with_a_folder(name: str) -> None:
    run = function_of(name)
    options = inspect.signature(run).parameters
    assert command.keyword_arguments(run, ["--out", "here"], name) == {"out": Path("here")}
    if "baselines" in options:
        assert not command.keyword_arguments(run, ["--baselines", ""], name)["baselines"]
    if "quick" in options:
        found = command.keyword_arguments(run, ["--quick", "--out", "here"], name)
        assert found == {"quick": True, "out": Path("here")}
    if "form" in options:
        assert command.keyword_arguments(run, ["--form", "dev"], name) == {"form": "dev"}
        with pytest.raises(SettingsError, match="--form"):
            command.keyword_arguments(run, ["--form", "train"], name)
    if "seeds" in options:
        assert command.keyword_arguments(run, ["--seeds=0, 1"], name) == {"seeds": (0, 1)}


@pytest.mark.parametrize("name", NAMES)
def test_every_option_has_a_default_that_its_own_type_takes(name: str) -> None:
    """The words of a command line made of the defaults are read as the defaults."""
    run = function_of(name)
    for option, parameter in inspect.signature(run).parameters.items():
        value = parameter.default
        assert value is not inspect.Parameter.empty
        if value is None or isinstance(value, bool):
            continue
        word = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        flag = "--" + option.replace("_", "-")
        assert command.keyword_arguments(run, [flag, word], name) == {option: value}


def test_a_printed_command_is_read_back_as_what_was_given() -> None:
    defaults = {name: p.default for name, p in inspect.signature(paper.main).parameters.items()}
    changed = {"datasets": ("a", "two words"), "config": Path("a b.yaml"), "quick": True, "seeds": (3, 5)}
    line = command_line("paper", paper.main, {**defaults, **changed, "jobs": 9, "out": Path("x"), "show": True})
    python, _, module, name, *words = shlex.split(line)
    assert (python, module, name) == ("python", "benchmarks", "paper")
    assert command.keyword_arguments(paper.main, words, "paper") == changed


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["leave-one-oot"], 2, "unknown benchmark 'leave-one-oot'; did you mean 'leave-one-out'"),
        (["one-vs-rest", "--sedes", "0"], 2, "benchmark one-vs-rest takes no '--sedes'; did you mean '--seeds'"),
        (["one-vs-rest", "mnist"], 2, "benchmark one-vs-rest takes no 'mnist'"),
        (["one-vs-rest", "--seeds"], 2, "benchmark one-vs-rest: --seeds needs a value"),
        (["one-vs-rest", "--seeds", "--quick"], 2, "benchmark one-vs-rest: --seeds needs a value"),
        (["one-vs-rest", "--seeds", "0,x"], 2, "benchmark one-vs-rest: --seeds 0,x: "),
        (["one-vs-rest", "--form", "train"], 2, "benchmark one-vs-rest: --form train: "),
        (["leave-one-out", "--dataset", "digits", "--digits", "z"], 2, "digits has no class 'z'"),
        (["lineage", "--config", "no-such-file.yaml"], 2, "no-such-file.yaml"),
    ],
)
def test_errors_of_the_command_line(
    words: list[str],
    status: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        command.main(words)
    shown = capsys.readouterr()
    assert ended.value.code == status
    assert shown.err.startswith("error: ")
    assert said in shown.err
    assert "Traceback" not in shown.err
    assert not shown.out
    assert not list(tmp_path.iterdir())


def test_with_debug_an_error_is_raised() -> None:
    with pytest.raises(SettingsError, match="unknown benchmark"):
        command.main(["--debug", "nothing"])


@pytest.mark.parametrize("words", [[], ["--help"]])
def test_without_a_name_all_are_listed(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    command.main(words)
    shown = capsys.readouterr().out
    for name, (_, what) in benchmarks.BENCHMARKS.items():
        assert f"\n{name} " in shown
        assert what in shown


@pytest.mark.parametrize("name", NAMES)
def test_help_names_every_option_and_says_what_the_docstring_says(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command.main([name, "--help"])
    shown = capsys.readouterr().out
    run = function_of(name)
    text = inspect.getdoc(run) or ""
    assert " ".join(text.partition("\n\n")[0].split()) in " ".join(shown.split())
    for option in inspect.signature(run).parameters:
        assert f"\n  --{option.replace('_', '-')}" in shown
    said = argument_texts(text, inspect.signature(run).parameters)
    assert bool(said) == ("Args:" in text)
    for meaning in said.values():
        assert meaning in " ".join(shown.split())


def test_help_shows_type_and_default_of_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    command.main(["lineage", "--normal", "3", "-h"])
    lines = capsys.readouterr().out.splitlines()
    assert "  --seeds INT,…  (default: 0,1,2)" in lines
    assert "  --form test|dev  (default: test)" in lines
    assert "  --config PATH" in lines
    assert (
        lines[lines.index("  --jobs INT  (default: 1)") + 1]
        == "      number of processes that measure at the same time."
    )


def test_an_argument_is_explained_wherever_its_entry_stands() -> None:
    text = "Do.\n\nArgs:\n    a: first: of all,\n        and more. b, c: both.\n    d: last.\n\nRaises:\n    Error: e."
    assert argument_texts(text, ["a", "b", "c", "d"]) == {
        "a": "first: of all, and more.",
        "b": "b, c: both.",
        "c": "b, c: both.",
        "d": "last.",
    }


# What was measured ---------------------------------------------------------------------------------------------------


def row(method: str, n: int, error: str | None = None) -> dict[str, Any]:
    return {"method": method, "n": n, "error": error}


@pytest.mark.parametrize(
    "rows",
    [
        [row("ours", 1), row("all", 0, "missing: no folder")],
        [row("ours", 1, "one of several failed"), row("knn", 2)],
        [row("ours", 1), {**row("other", 0, "does not fit"), "cells": 0, "cells_asked": 0}],
        [row("ours", 0, "not measured yet"), row("knn", 1)],
        [{"set": "bottle", "n": 0}],
        [["a", "row", "of text"]],
        {"rate": 3.0},
        None,
    ],
)
def test_what_was_measured_passes(rows: Any) -> None:
    check_measured(rows)


@pytest.mark.parametrize(
    ("rows", "status", "said"),
    [
        ([row("all", 0, "missing: no folder a"), row("all", 0, "missing: no folder b")], 3, "no folder a\nno folder b"),
        ([row("ours", 0, "missing: no folder"), row("knn", 0, "diverged")], 4, "nothing was measured"),
        ([row("ours", 0, "diverged"), row("ours", 0, "diverged"), row("knn", 3)], 4, "ours: every .* failed: diverged"),
        ([], 3, "nothing was measured"),
    ],
)
def test_nothing_measured_is_an_error(rows: Any, status: int, said: str) -> None:
    with pytest.raises(KnowngoodError, match=said) as refused:
        check_measured(rows)
    assert refused.value.exit_code == status


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["paper", "--datasets", "mnist", "--objectives", "vae"], "knowngood data get mnist"),
        (["inspection", "--sets", "bottle,bottle+tile", "--methods", "ours"], "mvtec/bottle"),
        (["corruptions", "--sets", "bottle"], "bottle: missing: "),
        (["false-alarms", "--sets", "bottle"], "bottle: missing: "),
        (
            ["accuracy", "--tracks", "pneumonia", "--datasets", "chest-xray-224", "--methods", "contrast"],
            "chest-xray-224",
        ),
    ],
)
def test_a_run_without_data_does_not_end_well(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KNOWNGOOD_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("KNOWNGOOD_CACHE", str(tmp_path / "cache"))
    with pytest.raises(SystemExit) as ended:
        command.main(words)
    shown = capsys.readouterr()
    assert ended.value.code in (3, 4)
    assert said in shown.err
    assert "nothing was measured" in shown.err


def test_tables_of_nothing_are_shown_without_an_error(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KNOWNGOOD_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("KNOWNGOOD_CACHE", str(tmp_path / "cache"))
    command.main(["inspection", "--sets", "bottle", "--show", "--out", str(tmp_path)])
    assert "no folder mvtec/bottle" in capsys.readouterr().out


# Protocols run -------------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny_config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(json.dumps(TINY))
    return path


def settings_in(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line)["settings"] for line in (out / "results.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_leave_one_out(tmp_path: Path, tiny_config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = leave_one_out.main(
        dataset="digits", digits=("9",), objectives=("vae", "cvae"), config=tiny_config, quick=True, out=tmp_path
    )
    assert [row["method"] for row in rows] == ["vae", "cvae", "pixel 5-NN", "PPCA 32"]
    assert all(0 <= row["auroc"] <= 1 and row["fit_seconds"] > 0 for row in rows)
    settings = settings_in(tmp_path)
    assert [s["model"]["objective"]["name"] for s in settings[:2]] == ["vae", "cvae"]
    assert settings[0]["model"]["net"]["hidden"] == TINY["model"]["net"]["hidden"]
    assert settings[1]["conditioning"]["unknown"] == "infer"
    assert "AUROC by the class held out" in capsys.readouterr().out


@pytest.mark.slow
def test_one_vs_rest(
    tmp_path: Path, tiny_config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner, "open_whole", lambda name: ten_classes())
    words = f"one-vs-rest --dataset stand-in --normal 3,4 --config {tiny_config} --epochs 1 --out {tmp_path / 'out'}"
    command.main(words.split())
    shown = capsys.readouterr()
    assert "AUROC by normal class" in shown.out
    assert len(settings_in(tmp_path / "out")) == 12
    assert settings_in(tmp_path / "out")[0]["training"]["epochs"] == 1
    again = one_vs_rest.main("stand-in", ("3", "4"), config=tiny_config, epochs=1, out=tmp_path / "out")
    assert [row["normal"] for row in again] == ["3"] * 6 + ["4"] * 6
    assert len(settings_in(tmp_path / "out")) == 12


@pytest.mark.slow
def test_lineage_writes_reports(
    tmp_path: Path, tiny_config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner, "open_whole", lambda name: ten_classes())
    monkeypatch.setattr(protocols, "lineage", partial(protocols.lineage, size=SIZE))
    rows = lineage.main(("stand-in",), ("one-class-conv",), seeds=(0,), config=tiny_config, out=tmp_path)
    assert (rows[0]["method"], rows[0]["n"]) == ("one-class-conv", 1)
    assert len(list((tmp_path / "reports").glob("stand-in-1-one-class-conv-*.html"))) == 1
    assert capsys.readouterr().out.startswith("Class 1 normal")


def test_lineage_has_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, list[str]]] = []

    def looked_at(cells: Any, methods: Any, *rest: Any, **options: Any) -> list[dict[str, Any]]:
        asked.append((cells[0].protocol, [method.name for method in methods]))
        return []

    monkeypatch.setattr(lineage, "run", looked_at)
    lineage.main(part="all", out=tmp_path)
    (first, ours), (second, x_ray) = asked
    assert (first, second) == ("lineage", "pneumonia")
    assert ours[:3] == ["one-class-conv", "one-class-conv-z2", "our defaults, ELBO"]
    assert x_ray[:2] == ["chest-xray", "our defaults, ELBO"]
    assert ours[3:] == x_ray[2:]
    lineage.main(part="chest-xray", out=tmp_path)
    assert asked[2:] == asked[1:2]


@pytest.mark.slow
def test_pneumonia(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_config: Path) -> None:
    def opener(name: str) -> ImageSet:
        if name == "chest-xray-224":
            raise DataError("not here")
        return x_rays()

    monkeypatch.setattr(runner, "open_whole", opener)
    monkeypatch.setattr("knowngood.evaluation.report.write_report", lambda path, inputs: None)
    rows = pneumonia.main(config=tiny_config, quick=True, out=tmp_path)
    found = {(row["dataset"], row["method"]): row for row in rows}
    assert found["pneumoniamnist", "knowngood, ELBO"]["n"] == found["pneumoniamnist", "low contrast"]["n"] == 1
    assert "not here" in found["chest-xray-224", "chest-xray preset"]["error"]
