"""`benchmark paper`: its cells, measures, tables and page; measurements side by side in several processes."""

from __future__ import annotations

import csv
import json
import os
import re
from html.parser import HTMLParser
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark_helpers import ALIVE, Unreadable, deadly, facts, stand_in
from benchmarks import paper, paper_page, paper_tables, protocols, remaining, runner, workers
from benchmarks.methods import Method, measure
from benchmarks.paper_measures import best_conditions, gap, look, total_correlation
from benchmarks.protocols import Cell, CellImages, resolve
from knowngood import Detector
from knowngood.config import VAEOptions, choices
from knowngood.data import ImageSet, open_dataset
from knowngood.detector.items import items_to_score
from knowngood.errors import KnowngoodError, SettingsError
from knowngood.evaluation.evaluate import evaluate

VAE = {"name": "vae", "net": {"name": "mlp", "hidden": [16]}, "latent_dim": 3}
TINY = {
    "representation": "pixels",
    "model": VAE,
    "training": {"epochs": 2, "precision": "float32"},
    "device": "cpu",
}
BETA = {"beta_vae": {"beta": 2.0}, "dcvae": {"beta": 2.0}}
LOW = Method("low contrast", baseline="low contrast")


@pytest.fixture
def tiny_config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(json.dumps({**TINY, "training": {**TINY["training"], "batch_size": 128, "lr": 1e-3}}))
    return path


# Processes -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_workers_share_the_cores_and_outlive_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "cores", lambda: 5)
    tasks = ["die", "a", "leave"]
    found = dict(workers.each(facts, tasks, 2))
    assert sorted(found) == [0, 1, 2]
    assert found[0] == workers.Died("was killed by SIGKILL, out of memory?")
    assert found[2] == workers.Died("ended with status 3")
    task, process, threads, variable = found[1]
    assert task == "a"
    assert process != os.getpid()
    assert (threads, variable) == (2, "2")


@pytest.mark.slow
def test_abandoned_workers_end() -> None:
    work = workers.each(facts, ["wait", "process"], 2)
    at, (_, process) = next(work)
    assert at == 1
    assert len(active_children()) == 2
    work.close()
    assert not active_children()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_a_process_that_cannot_begin_is_an_error_not_a_row(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KnowngoodError, match=r"could not begin \(ended with status 1\); use jobs=1"):
        list(workers.each(Unreadable(), ["a", "b"], 1))
    assert "no such file" in capfd.readouterr().err


@pytest.mark.slow
def test_parallel_numbers_are_serial_numbers_and_a_kill_costs_one_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ALIVE, str(os.getpid()))
    cells = [cell for name in "ab" for cell in protocols.leave_one_out(name, ["1"], classes=list("0123"))]
    settings = {**TINY, "model": {**VAE, "objective": "cvae"}, "conditioning": {"unknown": "infer"}}
    methods = [Method("cvae", settings, extra=paper.EXTRA)]
    serial = runner.run(cells, methods, tmp_path / "serial", opener=deadly)
    parallel = runner.run(cells, methods, tmp_path / "parallel", opener=deadly, jobs=2)
    assert [r.get("error") for r in parallel] == [None, "the process was killed by SIGKILL, out of memory?"]
    for name in ("metrics", "extra", "threshold", "key", "cell", "anomalous"):
        assert serial[0][name] == parallel[0][name]
    lines = (tmp_path / "parallel" / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["key"] for line in lines] == [serial[0]["key"]]
    again = runner.run(cells, methods, tmp_path / "parallel", opener=deadly)
    assert again[0] == parallel[0]
    assert again[1]["metrics"] == serial[1]["metrics"]


@pytest.mark.slow
def test_an_interrupt_leaves_what_was_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = protocols.leave_one_out("a", list("0123"), classes=list("0123"))
    made = 0

    def interrupted(*given: Any, **options: Any) -> Any:
        nonlocal made
        made += 1
        if made == 3:
            raise KeyboardInterrupt
        return measure(*given, **options)

    monkeypatch.setattr(runner, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        runner.run(cells, [LOW], tmp_path, opener=stand_in)
    assert len(runner.read_results(tmp_path / runner.RESULTS)) == 2
    shown = runner.run(cells, [LOW], tmp_path, opener=stand_in, measuring=False)
    assert [r.get("error") for r in shown] == [None, None, "not measured yet", "not measured yet"]
    assert len(runner.run(cells, [LOW], tmp_path, opener=stand_in)) == 4
    assert made == 5


@pytest.mark.slow
def test_any_failure_is_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(method: Method, cell: Cell, parts: CellImages, **options: Any) -> Any:
        if cell.anomalous == "2":
            raise MemoryError("too much")
        return measure(method, cell, parts, **options)

    monkeypatch.setattr(runner, "measure", failing)
    cells = protocols.leave_one_out("a", ["1", "2", "3"], classes=list("0123"))
    found = runner.run(cells, [LOW], tmp_path, opener=stand_in)
    assert [r.get("error") for r in found] == [None, "MemoryError: too much", None]
    with pytest.raises(SettingsError, match="jobs = 0; expected at least 1"):
        runner.run(cells, [LOW], tmp_path, opener=stand_in, jobs=0)


def test_time_left_is_that_of_the_same_method_and_data(capsys: pytest.CaptureFixture[str]) -> None:
    head = {"protocol": "p", "form": "test", "normal": "n", "seed": 0}
    records = [{**head, "dataset": d, "method": m} for d in "ab" for m in ("slow", "fast")]
    told = remaining.Remaining(6, jobs=2)
    told.waiting = [*records, *(dict(record) for record in records)]
    assert told.left() is None
    told.tell(records[0], "done", 100.0)  # a slow
    told.tell(records[1], "done", 10.0)  # a fast
    # To come on a: 100 + 10; on b, of which nothing is known: four times the mean of all, 55.
    assert told.left() == pytest.approx((100 + 10 + 4 * 55) / 2)
    assert (
        capsys.readouterr().err.splitlines()[1].startswith("[2/6] p test a, normal n, fast, seed 0: done, 10 s; about")
    )
    assert [remaining.duration(s) for s in (40, 700, 11100)] == ["40 s", "12 min", "3 h 05 min"]


# What is measured ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits_cell() -> tuple[Cell, CellImages]:
    cell = protocols.leave_one_out("digits", ["9"], train_size=500)[0]
    return cell, resolve(cell, open_dataset("digits"))


def fitted(objective: str, scoring: Any, parts: CellImages) -> Detector:
    return Detector(
        **{**TINY, "model": {**VAE, "objective": objective}, "score": scoring, "conditioning": {"unknown": "infer"}}
    ).fit(parts.train)


@pytest.mark.slow
def test_e_is_the_same_whichever_score_the_settings_name(digits_cell: tuple[Cell, CellImages]) -> None:
    """The ELBO of the pass under the best condition is the ELBO that judging gives for that condition."""
    detector = fitted("vae", "elbo", digits_cell[1])
    found = evaluate(detector, digits_cell[1].test, unknown="infer")
    items = items_to_score(detector, digits_cell[1].test)
    best = best_conditions(detector.pipeline_, items, found.table["condition"].to_numpy(object))
    e = look(detector.pipeline_, items, best, elbo=True).e
    assert np.allclose(e, found.table["elbo_reconstruction"] + found.table["elbo_kl"], rtol=1e-5)


@pytest.mark.slow
def test_other_benchmarks_do_not_pay(digits_cell: tuple[Cell, CellImages]) -> None:
    cell, parts = digits_cell
    settings = {**TINY, "model": {**VAE, "objective": "vae"}, "score": "elbo"}
    plain, more = Method("vae", settings), Method("vae", settings, extra=paper.EXTRA)
    found, further = measure(plain, cell, parts), measure(more, cell, parts)
    assert "extra" not in found
    assert found["fit_seconds"] > found["training_seconds"] > 0
    assert further["metrics"] == found["metrics"]
    assert further["extra"]["auroc_e"] == pytest.approx(found["metrics"]["auroc"])
    assert runner.key_of(cell, plain, "data") != runner.key_of(cell, more, "data")


def test_codes_that_say_nothing_have_no_number() -> None:
    codes = np.random.default_rng(0).normal(size=(200, 2))
    assert total_correlation(np.c_[codes, codes[:, 0]]) is None
    assert total_correlation(codes[:2]) is None
    assert total_correlation(codes) == pytest.approx(0, abs=0.02)
    assert gap(codes, np.full(200, "7")) is None
    assert gap(np.c_[np.repeat([0.0, 1.0], 100), codes[:, 0]], np.repeat(["a", "b"], 100)) > 0.7


# Cells and methods ---------------------------------------------------------------------------------------------------


def test_cells_are_in_a_balanced_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "open_whole", stand_in)
    sizes = {"train_size": 50, "test_size": None}
    cells, absent = paper.cells_of(["a", "gone", "b"], None, (0, 1), "test", sizes, most=2)
    assert absent == {"gone": "missing: gone: nothing here"}
    order = [(cell.seed, cell.anomalous, cell.dataset) for cell in cells]
    assert order == [(s, k, d) for s in (0, 1) for k in "01" for d in "ab"]
    assert cells[0].train[0].most == 50
    chosen, _ = paper.cells_of(["a"], ["3"], (0,), "dev", sizes, most=None)
    assert [(cell.anomalous, cell.form) for cell in chosen] == [("0", "dev")]


@pytest.mark.parametrize("form", ["test", "dev"])
def test_sizes_cap_what_trains_and_what_is_judged(form: Any) -> None:
    [cell] = protocols.leave_one_out("a", ["1"], classes=list("0123"), form=form, train_size=30, test_size=12)
    whole = resolve(protocols.leave_one_out("a", ["1"], classes=list("0123"), form=form)[0], stand_in("a"))
    found = resolve(cell, stand_in("a"))
    assert list(found.train.ids) == list(whole.train.ids[:30])
    for label in (0, 1):
        ids = whole.test.ids[whole.test.labels == label]
        assert list(found.test.ids[found.test.labels == label]) == list(ids[:12])
        assert len(ids) > 12
    classes = dict(zip(stand_in("a").ids, stand_in("a").conditions["class"], strict=True))
    assert list(found.test_classes) == [classes[name] for name in found.test.ids]


def test_classes_come_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    def opener(name: str, *, download: bool) -> ImageSet:
        assert not download
        return ImageSet.from_arrays(np.zeros((5, 8, 8), np.uint8), conditions={"class": ["b", "10", "9", "A", "9"]})

    monkeypatch.setattr(runner, "open_whole", opener)
    assert paper.class_names("x") == ["9", "10", "A", "b"]


def test_presets_share_all_but_the_objective(tiny_config: Path) -> None:
    methods, refused = paper.methods_of(
        ["vae", "beta_vae", "dcvae"], ["paper-mlp", "ours-mlp"], ["PPCA 32"], None, BETA, {}
    )
    assert [m.name for m in methods] == [
        f"{p}: {o}" for p in ("paper-mlp", "ours-mlp") for o in ("vae", "beta_vae", "dcvae")
    ] + ["PPCA 32"]
    assert not refused
    cell = protocols.leave_one_out("mnist", ["1"])[0]
    plain = [method.on(cell).model_dump() for method in methods[:6]]
    weights = [found["model"].pop("objective").get("beta") for found in plain]
    assert plain[0] == plain[1] == plain[2] != plain[3] == plain[4] == plain[5]
    assert plain[0]["representation"]["pad"] == 32
    assert plain[3]["model"]["net"]["name"] == "mlp"
    assert [weights[i] for i in (1, 2, 4, 5)] == [2.0] * 4
    [method] = paper.methods_of(["vae"], ["paper-mlp"], [], tiny_config, BETA, {"epochs": 9})[0]
    assert (method.settings["training"]["epochs"], method.settings["model"]["latent_dim"]) == (9, 3)


def test_names_that_are_not_known_are_refused() -> None:
    with pytest.raises(SettingsError, match="did you mean 'dcvae'"):
        paper.methods_of(["dcvea"], ["ours"], [], None, BETA, {})
    with pytest.raises(SettingsError, match="did you mean 'paper-mlp'"):
        paper.methods_of(["vae"], ["paper-mpl"], [], None, BETA, {})
    with pytest.raises(SettingsError, match="beta"):
        paper.methods_of(["dcvae"], ["ours"], [], None, {"dcvae": {"beta": -1.0}}, {})
    refused = paper.methods_of(["vae", "dcvae"], ["ours"], [], None, {"dcvae": {"beta": -1.0}}, {})[1]
    assert list(refused) == ["ours: dcvae"]


# Tables --------------------------------------------------------------------------------------------------------------


def result(
    auroc: float | None,
    seed: int = 0,
    anomalous: str = "1",
    method: str = "ours: vae",
    dataset: str = "d",
    **extra: Any,
) -> dict[str, Any]:
    head = {"protocol": "leave-one-out", "form": "test", "dataset": dataset, "normal": f"not {anomalous}"}
    head |= {"anomalous": anomalous, "method": method, "seed": seed}
    if auroc is None:
        return {**head, "error": "not measured yet"}
    return {**head, "metrics": {"auroc": auroc}, "extra": extra, "code": "c0de"}


def rows_of(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return paper_tables.by_dataset([paper_tables.cell_row(r) for r in results])


def test_first_over_classes_then_over_seeds() -> None:
    values = {0: (0.9, 0.7), 1: (0.8, 0.4), 2: (0.9, 0.5)}
    results = [result(v, seed, k, tc=2 * v) for seed, both in values.items() for k, v in zip("12", both, strict=True)]
    [row] = rows_of(results)
    assert row["auroc"] == pytest.approx((0.8 + 0.6 + 0.7) / 3)
    assert row["auroc_sd"] == pytest.approx(0.1), "of .8, .6 and .7; not of the six cells"
    assert row["tc"] == pytest.approx(1.4)
    assert row["mig"] is None
    assert (row["cells"], row["cells_asked"], row["seeds"], row["seeds_asked"]) == (6, 6, 3, 3)
    assert (row["preset"], row["objective"]) == ("ours", "vae")


def test_a_seed_counts_once_it_is_whole() -> None:
    [row] = rows_of([result(0.9, 0, "1"), result(0.7, 0, "2"), result(0.1, 1, "1"), result(None, 1, "2")])
    assert (row["auroc"], row["auroc_sd"]) == (pytest.approx(0.8), None)
    assert (row["cells"], row["cells_asked"], row["seeds"], row["seeds_asked"]) == (3, 4, 1, 2)
    assert row["complete"]
    assert row["error"] == "not measured yet"
    [row] = rows_of([result(0.9, 0, "1"), result(None, 0, "2"), result(0.1, 1, "1"), result(None, 1, "2")])
    assert not row["complete"]
    assert row["auroc"] == pytest.approx(0.5)
    assert paper_tables.written(row, paper_tables.MEASURES[0]) == "(0.500)"
    [row] = rows_of([result(None)])
    assert (row["auroc"], row["cells"], row["complete"]) == (None, 0, False)
    [row] = rows_of([result(0.9, 0, "1", tc=1.0), result(0.7, 0, "2", tc=None)])
    assert row["tc"] is None, "no mean of what one of the classes lacks"


def test_by_class_over_seeds() -> None:
    results = [
        result(v, seed, k) for k, both in {"1": (0.9, 0.7), "2": (0.5, None)}.items() for seed, v in enumerate(both)
    ]
    rows = paper_tables.by_class([paper_tables.cell_row(r) for r in results])
    assert [(r["anomalous"], r["seeds"], r["seeds_asked"]) for r in rows] == [("1", 2, 2), ("2", 1, 2)]
    assert rows[0]["auroc"] == pytest.approx(0.8)
    assert rows[0]["auroc_sd"] == pytest.approx(0.02**0.5)
    assert (rows[1]["auroc"], rows[1]["auroc_sd"]) == (0.5, None)


def many() -> list[dict[str, Any]]:
    """Two presets, two objectives and a baseline on two data sets, one of them unfinished; a third is missing."""
    aurocs = {
        "p: vae": (0.6, 0.8),
        "p: cvae": (0.7, 0.9),
        "o: vae": (0.9, None),
        "o: cvae": (0.7, 0.9),
        "PPCA 32": (0.5, 0.5),
    }
    found = [
        result(v, method=m, dataset=d, a_normal=1.0)
        for m, both in aurocs.items()
        for d, v in zip("xy", both, strict=True)
    ]
    return found + [paper.gone("test", "z", m, "missing: z is not here") for m in aurocs]


def test_ranking_over_data_sets() -> None:
    half = result(0.99, anomalous="2", method="o: vae", dataset="y")
    ranking = {row["method"]: row for row in paper_tables.over_datasets(rows_of([*many(), half]))}
    assert list(ranking["p: vae"]) == ["preset", "objective", "method", "x", "y", "mean", "rank", "rank_in_preset"]
    assert ranking["p: cvae"]["mean"] == pytest.approx(0.8)
    assert [row["rank"] for row in ranking.values()] == [3, 1, None, 1, 4]
    assert [row["rank_in_preset"] for row in ranking.values()] == [2, 1, None, 1, 1]
    assert ranking["o: vae"]["y"] is ranking["o: vae"]["mean"] is None, "one of its data sets is not finished"


class Parsed(HTMLParser):
    """Every address a page names, and whether its tags match."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.open: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "action", "srcset", "data")]
        if tag not in ("meta", "link", "rect", "circle", "br", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("rect", "circle"):
            assert self.open.pop() == tag


def page(results: list[dict[str, Any]], **about: Any) -> str:
    cells = [paper_tables.cell_row(r) for r in results]
    rows = paper_tables.by_dataset(cells)
    given = {"command": "python -m benchmarks paper", "form": "test", "quick": False, "codes": ["c0de"]}
    given |= {"train_size": None, "test_size": 1000, **about}
    return paper_page.render(rows, paper_tables.by_class(cells), paper_tables.over_datasets(rows), given)


def test_the_page_asks_for_nothing_and_marks_the_best() -> None:
    html = page(many())
    parsed = Parsed()
    parsed.feed(html)
    assert not parsed.open
    assert parsed.addresses == ["data:,"]
    assert not {"script", "iframe", "object"} & set(parsed.tags)
    assert not re.search(r"url\(|@import|https?://", html)
    for words in ("9 of 10", "Not finished", "missing: z is not here", "c0de", "python -m benchmarks paper", "1,000"):
        assert words in html
    section = html.split("<h2>x</h2>")[1].split("<h2>y</h2>")[0]
    assert section.count('best">0.900') == 2, "o: vae in both tables of x"
    assert section.count('best">0.700') == 2, "p: cvae in both"
    assert 'best">0.600' not in section
    assert 'best">0.500' not in section, "a row alone in its group is not the best of anything"


def test_the_lowest_is_best_where_lower_is_better() -> None:
    few = [result(0.5, a_normal=2.0, a_anomalous=3.0), result(0.5, method="ours: cvae", a_normal=4.0, a_anomalous=5.0)]
    assert set(re.findall('class="n best">([^<]+)', page(few))) == {"0.500", "2.00", "5.00"}


def test_the_page_escapes_and_says_what_it_is() -> None:
    html = page([result(0.5), {**result(None, 1), "error": "<b>no</b>"}], quick=True, command="a <script>")
    assert "<b>no</b>" not in html
    assert "a &lt;script&gt;" in html
    assert "no number here means anything" in html
    assert page([]).count("0 of 0")


# Command -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_paper_command(
    tmp_path: Path, tiny_config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner, "open_whole", stand_in)
    given: dict[str, Any] = {
        "datasets": ("a", "gone"),
        "objectives": ("vae", "cvae"),
        "config": tiny_config,
        "quick": True,
    }
    rows = paper.main(**given, jobs=1, out=tmp_path)
    methods = [f"{preset}: {name}" for preset in ("paper-mlp", "ours-mlp") for name in ("vae", "cvae")] + ["PPCA 32"]
    assert [(row["dataset"], row["method"], row["cells"]) for row in rows] == [
        *(("a", method, 3) for method in methods),
        *(("gone", method, 0) for method in methods),
    ]
    for row in rows[:4]:
        assert row["complete"]
        told = {"wrong_a", "wrong_e", "wrong_mismatch", "released"} if row["objective"] == "vae" else set()
        assert {name for name in paper_tables.NAMES if row[name] is None} == told
        assert row["e_normal"] != row["a_normal"] > 0
    assert rows[0]["auroc"] == rows[0]["auroc_a"], "the paper's settings score by A"
    assert rows[2]["auroc"] == rows[2]["auroc_e"], "without conditions the ELBO is what it is"
    with (tmp_path / "cells.csv").open() as file:
        cells = list(csv.DictReader(file))
    assert len(cells) == 20
    assert cells[0]["auroc_e"]
    assert {path.name for path in tmp_path.glob("*.csv")} == {"cells.csv", "table.csv", "classes.csv", "ranking.csv"}
    html = (tmp_path / "paper.html").read_text()
    assert "no number here means anything" in html
    assert f"--datasets a,gone --objectives vae,cvae --config {tiny_config} --quick" in html
    shown = capsys.readouterr()
    assert "missing: gone: nothing here" in shown.out
    assert "about" in shown.err
    assert paper.main(**given, show=True, out=tmp_path) == rows
    assert (tmp_path / "paper.html").read_text() == html


@pytest.mark.slow
def test_methods_that_cannot_be_are_rows(tmp_path: Path, tiny_config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hiding(settings: Any) -> Any:
        if settings["model"]["objective"]["name"] == "cvae":
            raise SettingsError("cvae needs what is not there")
        return None

    def failing(method: Method, cell: Cell, parts: CellImages, **options: Any) -> Any:
        if method.name == "ours-mlp: corex":
            raise SettingsError("corex needs labels")
        return measure(LOW, cell, parts)

    monkeypatch.setattr(runner, "open_whole", stand_in)
    monkeypatch.setattr(runner, "measure", failing)
    monkeypatch.setattr(paper, "parse_settings", hiding)
    given: dict[str, Any] = {"datasets": ("a",), "presets": ("ours-mlp",), "baselines": (), "seeds": (0,)}
    given |= {"held_out": ("1",), "config": tiny_config, "jobs": 1, "out": tmp_path}
    rows = {row["method"]: row for row in paper.main(**given, all=True)}
    assert {name.removeprefix("ours-mlp: ") for name in rows} == set(choices(VAEOptions, "objective"))
    assert rows["ours-mlp: cvae"]["error"] == "cvae needs what is not there"
    assert rows["ours-mlp: corex"]["error"] == "corex needs labels"
    assert rows["ours-mlp: vae"]["auroc"] is not None


@pytest.mark.slow
def test_an_interrupted_command_leaves_its_tables(
    tmp_path: Path, tiny_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(method: Method, cell: Cell, parts: CellImages, **options: Any) -> Any:
        if cell.seed == 1:
            raise KeyboardInterrupt
        return measure(LOW, cell, parts)

    monkeypatch.setattr(runner, "open_whole", stand_in)
    monkeypatch.setattr(runner, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        paper.main(("a",), ("vae",), presets=("ours-mlp",), baselines=(), config=tiny_config, jobs=1, out=tmp_path)
    assert "Not finished: 4 of 12 cells" in (tmp_path / "paper.html").read_text()


def test_jobs_are_one_a_core_unless_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def seeing(*given: Any, jobs: int, **options: Any) -> list[dict[str, Any]]:
        seen.append(jobs)
        return []

    monkeypatch.setattr(runner, "open_whole", stand_in)
    monkeypatch.setattr(runner, "run", seeing)
    monkeypatch.setattr(paper, "cores", lambda: 7)
    for jobs in (None, 3):
        paper.main(("a",), ("vae",), presets=("ours",), jobs=jobs, out=tmp_path)
    assert seen == [7, 3]
