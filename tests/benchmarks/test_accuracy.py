"""`benchmark accuracy`: its protocols and baselines, what it measures on them, its tables and the command."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark_helpers import stand_in
from benchmarks import accuracy, joined, protocols, runner, tracks
from benchmarks import accuracy_tables as tables
from benchmarks.accuracy_protocols import at_most, few_labels, out_of_distribution
from benchmarks.baselines import BASELINES, Forest, OneClassSVM
from benchmarks.methods import Method, baselines, measure
from benchmarks.protocols import CellImages, resolve
from benchmarks.recipes import RECIPES
from benchmarks.tracks import TRACKS, Asked, batches, sources
from knowngood.config import parse_settings
from knowngood.data import ImageSet
from knowngood.errors import DataError, SettingsError
from knowngood.metrics import roc_auc

TINY = {
    "representation": "pixels",
    "model": {"name": "vae", "objective": "vae", "net": {"name": "mlp", "hidden": [16]}, "latent_dim": 2},
    "training": {"epochs": 2, "precision": "float32"},
    "device": "cpu",
}
FOUR = list("0123")
LOW = Method("low contrast", baseline="low contrast")


def few(share: float, seed: int = 0, form: Any = "test", k: str = "3") -> CellImages:
    [cell] = few_labels("a", [k], classes=FOUR, shares=(share,), seeds=(seed,), form=form)
    return resolve(cell, stand_in("a"))


def classes(images: ImageSet) -> np.ndarray:
    whole = stand_in("a")
    of = dict(zip(whole.ids, whole.conditions["class"], strict=True))
    return np.array([of[name] for name in images.ids])


# Few labels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["test", "dev"])
@pytest.mark.parametrize("share", [0.01, 0.05, 0.1])
def test_labelled_anomalies_are_the_next_class_and_the_share_of_all(share: float, form: Any) -> None:
    found = few(share, form=form)
    taught = found.train.labels == 1
    assert set(classes(found.train)[taught]) == {"0"}, "after the last class comes the first"
    assert set(classes(found.train)[~taught]) == {"3"}
    n = len(taught)
    assert taught.sum() == round(share / (1 - share) * (~taught).sum()) >= 1
    assert abs(taught.sum() / n - share) < 1 / n


def test_greater_shares_hold_smaller_ones_and_seeds_differ() -> None:
    def taught(share: float, seed: int = 0) -> set[str]:
        train = few(share, seed).train
        return set(train.ids[train.labels == 1])

    assert taught(0.01) < taught(0.05) < taught(0.1)
    assert taught(0.1) == taught(0.1)
    assert taught(0.1) != taught(0.1, seed=1)


@pytest.mark.slow
def test_share_zero_is_one_versus_rest() -> None:
    [none] = few_labels("a", ["3"], classes=FOUR, shares=(0.0,))
    [same] = protocols.one_vs_rest("a", ["3"])
    [some] = few_labels("a", ["3"], classes=FOUR, shares=(0.05,))
    keys = [runner.key_of(cell, LOW, "data") for cell in (none, same, some)]
    assert keys[0] == keys[1] != keys[2]
    assert (resolve(some, stand_in("a")).test.ids == resolve(same, stand_in("a")).test.ids).all()


def test_few_labels_dev_form_judges_a_fifth_of_every_class() -> None:
    images = stand_in("a")
    assert images.splits is not None
    found, kind = few(0.1, form="dev", k="1"), images.conditions["class"]
    training = images.splits == "train"
    own, after = (images.ids[training & (kind == k)] for k in "12")
    rest = images.ids[training & np.isin(kind, ["0", "3"])]
    assert set(found.test.ids) == {*own[4::5], *after[4::5], *rest[4::5]}
    assert set(found.test.ids[found.test.labels == 0]) == set(own[4::5])
    assert set(found.train.ids[found.train.labels == 0]) == set(own) - set(own[4::5])


def test_too_few_anomalies_to_label_and_unknown_classes_are_refused() -> None:
    [cell] = few_labels("a", ["3"], classes=FOUR, shares=(0.9,))
    with pytest.raises(DataError, match=r"needs 1,134 labelled anomalies; there are 99$"):
        resolve(cell, stand_in("a"))
    with pytest.raises(SettingsError, match="a has no class '4'"):
        few_labels("a", ["4"], classes=FOUR)


# Other data sets -----------------------------------------------------------------------------------------------------


def test_joined_sets_keep_pixels_and_splits_and_are_named() -> None:
    both = joined.open_joined("ab", stand_in)
    one = stand_in("a")
    assert (both.name, len(both), len(set(both.ids))) == ("a+b", 1200, 1200)
    assert set(both.conditions) == {"class"}
    assert (both.conditions["class"] == np.repeat(["a", "b"], 600)).all()
    assert both.splits is not None
    assert one.splits is not None
    assert (both.splits == np.tile(one.splits, 2)).all()
    assert (both.read(601) == one.read(1)).all()
    assert both.ids[601] == f"b/{one.ids[1]}"
    copies = joined.open_joined("ab", lambda name: stand_in(name).replace(variant="half" if name == "b" else None))
    assert copies.variant == "b: half"


def test_sets_that_do_not_join_are_refused() -> None:
    def opener(name: str) -> ImageSet:
        images = stand_in(name)
        if name == "plain":
            return images.replace(splits=None)
        other = ImageSet.from_arrays(np.zeros((3, 9, 8), np.uint8)).replace(splits=np.array(["train"] * 3))
        return other if name == "large" else images

    with pytest.raises(DataError, match=r"differ in height.*a \(8, 8, 1, 'uint8'\); large \(9, 8, 1, 'uint8'\)"):
        joined.open_joined(["a", "large"], opener)
    with pytest.raises(DataError, match="plain has no splits"):
        joined.open_joined(["a", "plain"], opener)
    with pytest.raises(DataError, match="nothing here"):
        joined.open_joined(["a", "gone"], opener)
    with pytest.raises(SettingsError, match="at least two data sets"):
        out_of_distribution(["a"])


def test_each_set_is_normal_once_and_judges_all_others() -> None:
    images = joined.open_joined("abc", stand_in)
    cells = out_of_distribution("abc", seeds=(0, 1))
    assert [(c.seed, c.normal, c.anomalous) for c in cells[:4]] == [
        (0, "a", "b, c"), (0, "b", "a, c"), (0, "c", "a, b"), (1, "a", "b, c"),
    ]  # fmt: skip
    found = resolve(cells[1], images)
    assert len(found.train) == 440
    assert not found.train.conditions
    assert {name: int((found.test_classes == name).sum()) for name in "abc"} == dict.fromkeys("abc", 160)
    assert (found.test.labels == (found.test_classes != "b")).all()
    dev = resolve(out_of_distribution("abc", form="dev")[1], images)
    assert (len(dev.train), *((dev.test_classes == name).sum() for name in "abc")) == (352, 88, 88, 88)


def test_at_most_takes_the_first_of_every_pick() -> None:
    [cell] = few_labels("a", ["3"], classes=FOUR, shares=(0.1,))
    some, whole = resolve(at_most(cell, 40, 12), stand_in("a")), resolve(cell, stand_in("a"))
    normal = whole.train.labels == 0
    assert list(some.train.ids[some.train.labels == 0]) == list(whole.train.ids[normal][:40])
    assert (some.train.labels == 1).sum() == round(40 / 9)
    assert [(some.test.labels == label).sum() for label in (0, 1)] == [12, 12]
    assert at_most(at_most(cell, 5, 5), 40, 40) == at_most(cell, 5, 5)


# Baselines -----------------------------------------------------------------------------------------------------------


def ring(n: int, seed: int) -> np.ndarray:
    """(n, 6): points about a circle in the first two of six dimensions."""
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, 2 * np.pi, n)
    x = rng.normal(scale=0.05, size=(n, 6))
    x[:, :2] += np.c_[np.cos(angle), np.sin(angle)]
    return x.astype(np.float32)


def test_machine_finds_what_lies_outside_and_flags_its_share() -> None:
    x = ring(400, 0)
    fitted = OneClassSVM().fit(x)
    assert fitted.score(3 * x[:20]).min() > fitted.score(x).max()
    assert (fitted.score(x) > 0).mean() == pytest.approx(0.1, abs=0.02), "ν bounds the share of outliers"


def test_machine_does_not_care_how_pixels_are_turned_and_shifted() -> None:
    turn, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(6, 6)))
    x, new = ring(200, 0), ring(50, 1)
    turned = OneClassSVM().fit((x @ turn + 3).astype(np.float32)).score((new @ turn + 3).astype(np.float32))
    assert np.allclose(turned, OneClassSVM().fit(x).score(new), atol=0.02 * turned.std())


def test_machine_learns_from_as_many_as_it_may() -> None:
    x, new = ring(300, 0), ring(20, 1)
    drawn = np.sort(np.random.default_rng(5).permutation(300)[:100])
    some = OneClassSVM(seed=5, most=100).fit(x).score(new)
    assert (some == OneClassSVM().fit(x[drawn]).score(new)).all()
    assert (some != OneClassSVM(seed=6, most=100).fit(x).score(new)).any()
    assert (OneClassSVM(most=300).fit(x).score(new) == OneClassSVM(seed=6).fit(x).score(new)).all()


@pytest.mark.slow
def test_forest_isolates_what_lies_apart_in_any_unit() -> None:
    x, far = ring(300, 0), np.full((1, 6), 3, np.float32)
    fitted = Forest(seed=1).fit(x)
    assert fitted.score(far) > fitted.score(x).max()
    assert (fitted.score(x) == Forest(seed=1).fit(x).score(x)).all()
    assert (fitted.score(x) != Forest(seed=2).fit(x).score(x)).any()
    scaled = Forest(seed=1).fit(256 * x)  # a power of two, which rounds nothing
    assert np.allclose(scaled.score(256 * x), fitted.score(x))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["isolation forest", "one-class SVM"])
def test_few_and_constant_pixels_are_survived(name: str) -> None:
    x = np.zeros((4, 50), np.float32)
    x[:, 0] = [0, 0.2, 0.5, 1]
    assert np.isfinite(BASELINES[name]().fit(x).score(np.ones((2, 50), np.float32))).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", BASELINES)
def test_no_baseline_learns_from_labelled_anomalies(name: str) -> None:
    [without, taught] = few_labels("a", ["1"], classes=FOUR, shares=(0, 0.1), seeds=(3,))
    method, images = Method(name, baseline=name), stand_in("a")
    found = [measure(method, cell, resolve(cell, images)) for cell in (without, taught)]
    assert found[0]["metrics"] == found[1]["metrics"]
    assert found[0]["threshold"] == found[1]["threshold"]
    json.dumps(found)


# What is measured ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("method", [LOW, Method("vae", TINY)])
def test_each_anomalous_class_has_its_auroc(method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray] = []

    def watched(y: np.ndarray, scores: np.ndarray) -> float:
        seen.append(scores)
        return roc_auc(y, scores)

    monkeypatch.setattr("benchmarks.methods.roc_auc", watched)
    [cell] = protocols.one_vs_rest("a", ["1"])
    parts = resolve(cell, stand_in("a"))
    found = measure(method, cell, parts)
    assert set(found["auroc_of_anomalies"]) == {"0", "2", "3"}
    good = int((parts.test.labels == 0).sum())
    assert [len(s) for s in seen[-3:]] == [good + int((parts.test_classes == k).sum()) for k in "023"]
    shares = [(parts.test_classes == k).sum() for k in "023"]
    mean = np.average(list(found["auroc_of_anomalies"].values()), weights=shares)
    assert mean == pytest.approx(found["metrics"]["auroc"]), "AUROC is a mean over pairs of images"
    assert found["ms_image"] == pytest.approx(1000 * found["judge_seconds"] / len(parts.test))


@pytest.mark.slow
def test_a_measurement_is_known_under_the_name_it_is_asked_for(tmp_path: Path) -> None:
    cells = protocols.one_vs_rest("a", ["1"])
    runner.run(cells, [LOW], tmp_path, opener=stand_in)
    [none] = few_labels("a", ["1"], classes=FOUR, shares=(0.0,))
    [found] = runner.run([none], [replace(LOW, name="another")], tmp_path, opener=stand_in, measuring=False)
    assert (found["protocol"], found["method"]) == ("few-labels 0 %", "another")
    assert "metrics" in found


# Tracks --------------------------------------------------------------------------------------------------------------


def test_every_recipe_has_settings_that_can_be_and_ours_for_every_track() -> None:
    for name, recipe in RECIPES.items():
        assert set(recipe) <= set(TRACKS), name
        for settings in recipe.values():
            parse_settings(settings)
    assert set(RECIPES["ours"]) == set(TRACKS)


def test_data_sets_go_to_the_tracks_that_fit_them() -> None:
    assert sources("one-vs-rest", None) == ("mnist", "fashion-mnist", "kmnist")
    assert sources("few-labels", ("kmnist", "pneumoniamnist")) == ("kmnist",)
    assert sources("pneumonia", ("kmnist", "pneumoniamnist")) == ("pneumoniamnist",)


def test_cells_are_in_a_balanced_order() -> None:
    asked = Asked(seeds=(0, 1), methods=("ours", "knn"))
    [batch] = batches("leave-one-out", {"a": FOUR, "b": FOUR[:2]}, asked)
    order = [(cell.seed, cell.anomalous, cell.dataset) for cell in batch.cells]
    first = [("0", "a"), ("0", "b"), ("1", "a"), ("1", "b"), ("2", "a"), ("3", "a")]
    assert order == [(seed, *rest) for seed in (0, 1) for rest in first]
    assert [method.name for method in batch.methods] == ["ours", "pixel 5-NN"]
    assert batch.cells[0].conditions == ("class",)


def test_only_recipes_are_measured_with_labels() -> None:
    asked = Asked(methods=("ours", "vae", "ppca", "contrast", "forest", "svm"), seeds=(0,))
    without, taught = batches("few-labels", {"a": FOUR}, asked)
    assert [m.name for m in taught.methods] == ["ours"]
    assert [m.name for m in without.methods] == ["ours", "plain VAE", "PPCA 32", "isolation forest", "one-class SVM"]
    assert {cell.protocol for cell in taught.cells} == {"few-labels 1 %", "few-labels 5 %", "few-labels 10 %"}
    assert len(taught.cells) == 3 * len(without.cells) == 12
    assert "labelled" not in taught.methods[0].settings, "share 0 has none"
    assert taught.methods[0] == without.methods[0]


def test_quick_is_one_class_of_few_images() -> None:
    [batch] = batches("one-vs-rest", {"a": FOUR}, Asked(quick=True))
    assert [cell.normal for cell in batch.cells] == ["0"]
    assert {pick.most for pick in batch.cells[0].train} == {tracks.QUICK_TRAIN}


def test_the_worst_pair_needs_a_pair() -> None:
    assert not batches("ood", {"a": FOUR}, Asked())[0].cells
    assert len(batches("ood", {"a": FOUR, "b": FOUR}, Asked(seeds=(0, 1)))[0].cells) == 4


# Tables --------------------------------------------------------------------------------------------------------------


def result(
    auroc: float | None, case: str, seed: int = 0, protocol: str = "one-vs-rest", method: str = "ours", **more: Any
) -> dict[str, Any]:
    head = {"protocol": protocol, "form": "test", "dataset": "d", "normal": case, "anomalous": "the rest"}
    head |= {"method": method, "seed": seed}
    if auroc is None:
        return {**head, "error": "not measured yet"}
    metrics = {"auroc": auroc, "false_alarm_rate": 0.05 + seed / 100}
    return {**head, "metrics": metrics, "fit_seconds": 12.0, "ms_image": 0.25, **more}


def rows_of(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for one in results for row in tables.cell_rows(one)]


def test_first_over_classes_then_over_seeds() -> None:
    values = {0: (0.9, 0.7), 1: (0.8, 0.4), 2: (0.9, 0.5)}
    results = [result(v, k, seed) for seed, both in values.items() for k, v in zip("xy", both, strict=True)]
    [row] = tables.by_track(rows_of(results))
    assert row["auroc"] == pytest.approx((0.8 + 0.6 + 0.7) / 3)
    assert row["auroc_sd"] == pytest.approx(0.1), "of .8, .6 and .7; not of the six cells"
    assert (row["lowest"], row["lowest_auroc"]) == ("y", pytest.approx(1.6 / 3))
    assert row["false_alarm_rate"] == pytest.approx(0.06)
    assert (row["cells"], row["seeds"], row["complete"]) == (6, 3, True)
    classes = tables.by_class(rows_of(results))
    assert [(c["case"], c["auroc"]) for c in classes] == [("x", pytest.approx(2.6 / 3)), ("y", pytest.approx(1.6 / 3))]


def test_a_seed_counts_once_it_is_whole() -> None:
    both = [result(0.9, "x"), result(0.7, "y"), result(0.1, "x", 1), result(None, "y", 1)]
    [row] = tables.by_track(rows_of(both))
    assert (row["auroc"], row["auroc_sd"], row["seeds"], row["seeds_asked"]) == (pytest.approx(0.8), None, 1, 2)
    [part] = tables.by_track(rows_of(both[2:]))
    assert not part["complete"]
    assert "| (.100) |" in tables.markdown([part])


def test_the_figure_of_ood_is_the_worst_pair_of_each_seed() -> None:
    pairs = {("a", 0): {"b": 0.9, "c": 0.5}, ("b", 0): {"a": 0.8, "c": 0.95}}
    pairs |= {("a", 1): {"b": 0.6, "c": 0.9}, ("b", 1): {"a": 0.8, "c": 0.7}}
    results = [result(0.99, own, seed, "ood", auroc_of_anomalies=of) for (own, seed), of in pairs.items()]
    rows = rows_of(results)
    assert [row["case"] for row in rows[:4]] == ["a → b", "a → c", "b → a", "b → c"]
    [row] = tables.by_track(rows)
    assert row["auroc"] == pytest.approx((0.5 + 0.6) / 2)
    assert row["auroc_sd"] == pytest.approx(np.std([0.5, 0.6], ddof=1))
    assert (row["lowest"], row["lowest_auroc"]) == ("a → c", pytest.approx(0.7))
    assert len(tables.by_class(rows)) == 4


def test_the_class_held_out_names_a_cell_of_leave_one_out() -> None:
    [row] = tables.cell_rows({**result(0.5, "not 1", protocol="leave-one-out"), "anomalous": "1"})
    assert row["case"] == "1"


def test_labels_are_counted_against_the_same_cell_without() -> None:
    none, five = "few-labels 0 %", "few-labels 5 %"
    cells = [
        result(0.9, "x", 0, none),
        result(0.9, "y", 0, none),
        result(0.8, "x", 1, none),
        result(None, "y", 1, none),
    ]
    cells += [
        result(0.95, "x", 0, five),
        result(0.88, "y", 0, five),
        result(0.8, "x", 1, five),
        result(0.1, "y", 1, five),
    ]
    cells += [result(0.1, "x", 0, "few-labels 1 %", method="other")]
    found = tables.few_labels(rows_of(cells))
    ours = next(row for row in found if row["track"] == five)
    assert (ours["cells"], ours["below"]) == (3, 1), "equal is not below; where one is missing nothing is counted"
    assert ours["gain"] == pytest.approx((0.05 - 0.02) / 3)
    assert ours["worst"] == pytest.approx(-0.02)
    other = next(row for row in found if row["track"] == "few-labels 1 %")
    assert (other["cells"], other["below"], other["gain"]) == (0, 0, None)
    assert "| few-labels 5 % | d | ours | 3 | 1 | +0.0100 | -0.0200 |" in tables.labels_markdown(found)


def test_markdown_is_a_table() -> None:
    rows = tables.by_track(rows_of([result(0.9, "x"), result(0.7, "y"), result(1.0, "x", method="other")]))
    rows += tables.by_track(rows_of([{**result(None, "x", method="gone"), "error": "missing: a|b"}]))
    lines = tables.markdown(rows).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2] == "| one-vs-rest | d | ours | 1 | .800 | y: .700 | .050 | 12 | 0.25 |"
    assert "| 1.000 | – |" in lines[3]
    assert "missing: a/b" in lines[4]


# Command -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The measurements really made, on stand-ins."""
    made: list[str] = []

    def counting(method: Method, cell: Any, parts: CellImages, **options: Any) -> dict[str, Any]:
        if "stop" in made:
            raise KeyboardInterrupt
        made.append(f"{cell.protocol} {cell.dataset} {cell.normal} {method.name} {cell.seed}")
        return measure(method, cell, parts, **options)

    monkeypatch.setattr(runner, "measure", counting)
    monkeypatch.setattr(runner, "open_whole", stand_in)
    return made


@pytest.mark.slow
def test_an_interrupt_leaves_tables_of_what_is_done(tmp_path: Path, measured: list[str]) -> None:
    given: dict[str, Any] = {"tracks": ("one-vs-rest",), "datasets": ("a",), "methods": ("ppca",), "out": tmp_path}
    accuracy.main(**given, classes=("2",), seeds=(0,))
    measured.append("stop")
    with pytest.raises(KeyboardInterrupt):
        accuracy.main(**given, seeds=(0,))
    with (tmp_path / "table.csv").open(encoding="utf-8") as file:
        [row] = csv.DictReader(file)
    assert (row["cells"], row["cells_asked"], row["error"]) == ("1", "4", "not measured yet")


def test_what_cannot_be_measured_is_told(tmp_path: Path, measured: list[str]) -> None:
    with pytest.raises(SettingsError, match="unknown track 'one-vs-all'; did you mean 'one-vs-rest'"):
        accuracy.main(("one-vs-all",))
    with pytest.raises(SettingsError, match="unknown method 'our'; did you mean 'ours'"):
        accuracy.main(datasets=("a",), methods=("our",))
    with pytest.raises(SettingsError, match="nothing to measure on a in ood"):
        accuracy.main(("ood",), datasets=("a",))
    with pytest.raises(SettingsError, match="form = 'train'"):
        accuracy.main(form="train")  # type: ignore[arg-type]
    assert not measured


# Real data -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.data
def test_counts_on_real_data(data_root: Path) -> None:
    [cell] = few_labels("mnist", ["9"], shares=(0.1,))
    found = resolve(cell, runner.open_whole("mnist"))
    assert [(found.train.labels == label).sum() for label in (0, 1)] == [5949, 661]
    pairs = resolve(out_of_distribution(("mnist", "kmnist"))[1], joined.open_named("mnist+kmnist"))
    assert (len(pairs.train), len(pairs.test)) == (5000, 15000)


def test_default_baselines_of_other_benchmarks_take_seconds() -> None:
    assert "one-class SVM" not in [method.name for method in baselines()]
