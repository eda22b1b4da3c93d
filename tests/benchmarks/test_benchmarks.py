"""Protocols on stand-ins, and their counts on the real data; baselines against closed forms; runs that resume."""

from __future__ import annotations

import csv
import importlib
import inspect
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from knowngood.cli.benchmark import keyword_arguments
from scipy import stats

from benchmarks import (
    BENCHMARKS,
    bare,
    leave_one_out,
    lineage,
    pneumonia,
    protocols,
    runner,
    speed,
    speed_objectives,
    tables,
)
from benchmarks.accuracy_protocols import few_labels, out_of_distribution
from benchmarks.baselines import PPCA, Contrast, Neighbours
from benchmarks.joined import open_joined
from benchmarks.methods import Method, baselines, chosen_settings, measure
from benchmarks.picks import Pick, patient
from benchmarks.protocols import Cell, CellImages, resolve
from knowngood.config import Settings, parse_settings
from knowngood.data import ImageSet, open_dataset
from knowngood.errors import DataError, SettingsError
from knowngood.models.objectives import Objective
from knowngood.models.vae import ConditionalVAE
from knowngood.training import Source

TINY = {"net": {"name": "mlp", "hidden": [16]}, "latent_dim": 2, "epochs": 2, "objective": "vae", "device": "cpu"}
SIZE = 20  # of the lineage's protocol on stand-ins


def classes_stand_in(train: int = 1000, test: int = 200, seed: int = 0) -> ImageSet:
    """Ten classes that follow no order, noise 8×8, training file first, as MNIST and its kin are opened."""
    rng = np.random.default_rng(seed)
    n = train + test
    images = ImageSet.from_arrays(
        rng.integers(0, 256, (n, 8, 8), dtype=np.uint8), conditions={"class": rng.integers(0, 10, n).astype(str)}
    )
    return images.replace(splits=np.repeat(["train", "test"], [train, test]), name="stand-in")


def x_ray_stand_in() -> ImageSet:
    """The folders' ids and classes: several images of most patients, "test" before "train" as sorted paths are."""
    ids, kinds, splits = [], [], []
    for split, patients in (("test", 6), ("train", 25)):
        for p in range(patients):
            for shot in range(1 + p % 3):
                ids += [
                    f"{split}/NORMAL/IM-{p:04d}-000{shot}.jpeg",
                    f"{split}/PNEUMONIA/person{p}_virus_{9 * p + shot}.jpeg",
                ]
                kinds += ["NORMAL", "PNEUMONIA"]
                splits += [split, split]
    order = np.argsort(ids)
    pixels = np.random.default_rng(1).integers(0, 256, (len(ids), 8, 8), dtype=np.uint8)
    images = ImageSet.from_arrays(pixels, conditions={"class": np.array(kinds)[order]}, ids=np.array(ids)[order])
    return images.replace(splits=np.array(splits)[order], name="x-rays")


def cells_of(protocol: str, form: Any) -> tuple[ImageSet, list[Cell]]:
    match protocol:
        case "one-vs-rest":
            return classes_stand_in(), protocols.one_vs_rest("stand-in", form=form)
        case "leave-one-out":
            return classes_stand_in(), protocols.leave_one_out("stand-in", form=form)
        case "ood":
            sets = {name: classes_stand_in(200, 50, seed=seed) for seed, name in enumerate("abc")}
            return open_joined("abc", sets.__getitem__), out_of_distribution("abc", form=form)
        case "few-labels":
            return classes_stand_in(), few_labels("stand-in", form=form)
        case "lineage":
            return classes_stand_in(), protocols.lineage("stand-in", "3", form=form, size=SIZE)
        case "pneumonia":
            return x_ray_stand_in(), protocols.pneumonia("chest-xray-224", form=form)
        case _:
            return x_ray_stand_in(), protocols.pneumonia("pneumoniamnist", form=form)


ALL = ["one-vs-rest", "leave-one-out", "ood", "few-labels", "lineage", "pneumonia", "pneumoniamnist"]


def parts_of(cell: Cell, images: ImageSet) -> list[ImageSet]:
    found = resolve(cell, images)
    return [part for part in (found.train, found.test, found.calibrate) if part is not None]


def contents(images: ImageSet) -> set[bytes]:
    return {images.read(i).tobytes() for i in range(len(images))}


# Protocols -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ALL)
def test_no_dev_cell_holds_a_test_image(protocol: str) -> None:
    images, cells = cells_of(protocol, "test")
    tested = [resolve(cell, images).test for cell in cells]
    ids = {name for part in tested for name in part.ids}
    pixels = set.union(*map(contents, tested))
    assert len(pixels) == len(ids)
    for cell in cells_of(protocol, "dev")[1]:
        for part in parts_of(cell, images):
            assert not ids & set(part.ids)
            assert not pixels & contents(part)


@pytest.mark.parametrize("protocol", ALL)
def test_dev_cells_take_training_images_only(protocol: str) -> None:
    images, cells = cells_of(protocol, "dev")
    assert images.splits is not None
    training = set(images.ids[images.splits == "train"])
    assert all(set(part.ids) <= training for cell in cells for part in parts_of(cell, images))


@pytest.mark.parametrize("form", ["test", "dev"])
@pytest.mark.parametrize("protocol", ALL)
def test_parts_are_disjoint_labelled_and_in_file_order(protocol: str, form: str) -> None:
    images, cells = cells_of(protocol, form)
    position = {name: i for i, name in enumerate(images.ids)}
    for cell in cells:
        found = resolve(cell, images)
        ids = [set(part.ids) for part in parts_of(cell, images)]
        assert sum(map(len, ids)) == len(set.union(*ids))
        assert set(found.train.labels) == ({0, 1} if cell.labelled else {0})
        assert set(found.test.labels) == {0, 1}
        assert not found.test.conditions
        assert list(found.train.conditions) == list(cell.conditions)
        for part in parts_of(cell, images):
            assert part.splits is None
            assert np.all(np.diff([position[name] for name in part.ids]) > 0)


def test_one_vs_rest_tests_everything_and_dev_keeps_a_fifth() -> None:
    images = classes_stand_in()
    kind, split = images.conditions["class"], images.splits
    found = resolve(protocols.one_vs_rest("stand-in", ["4"])[0], images)
    assert list(found.train.ids) == list(images.ids[(kind == "4") & (split == "train")])
    assert list(found.test.ids) == list(images.ids[split == "test"])
    assert np.array_equal(found.test.labels, (kind[split == "test"] != "4").astype(float))

    dev = resolve(protocols.one_vs_rest("stand-in", ["4"], form="dev")[0], images)
    mine, rest = (images.ids[(split == "train") & ((kind == "4") == wanted)] for wanted in (True, False))
    assert sorted([*dev.train.ids, *dev.test.ids[dev.test.labels == 0]]) == sorted(mine)
    assert list(dev.test.ids[dev.test.labels == 0]) == list(mine[4::5])
    assert list(dev.test.ids[dev.test.labels == 1]) == list(rest[4::5])


def test_leave_one_out_gives_the_class_in_training_only() -> None:
    images = classes_stand_in()
    kinds = dict(zip(images.ids, images.conditions["class"], strict=True))
    found = resolve(protocols.leave_one_out("stand-in", ["9"])[0], images)
    assert set(found.train.conditions["class"]) == set("012345678")
    assert [kinds[name] == "9" for name in found.test.ids] == (found.test.labels == 1).tolist()


def test_leave_one_out_dev_never_sees_the_class_held_out() -> None:
    images = classes_stand_in()
    kinds = dict(zip(images.ids, images.conditions["class"], strict=True))
    cell = protocols.leave_one_out("stand-in", ["9"], form="dev")[0]
    assert (cell.anomalous, cell.normal) == ("0", "not 9, 0")
    found = resolve(cell, images)
    assert {kinds[name] for name in found.train.ids} == set("12345678")
    assert {kinds[name] for name in found.test.ids} == set("012345678")
    assert {kinds[name] for name in found.test.ids[found.test.labels == 1]} == {"0"}


def test_lineage_counts_and_order() -> None:
    images = classes_stand_in()
    train = images.split("train")
    mine, rest = (train.ids[(train.conditions["class"] == "3") == wanted] for wanted in (True, False))
    found = resolve(protocols.lineage("stand-in", "3", size=SIZE)[0], images)
    assert found.calibrate is not None
    assert list(found.train.ids) == list(mine[:SIZE])
    assert list(found.test.ids[found.test.labels == 0]) == list(mine[SIZE : 2 * SIZE])
    assert list(found.test.ids[found.test.labels == 1]) == list(rest[:SIZE])
    assert list(found.calibrate.ids) == list(mine[2 * SIZE :])


def test_a_data_set_too_small_for_a_protocol_is_refused() -> None:
    with pytest.raises(DataError, match=r"needs 1,000 images of class 3; there are \d+$"):
        resolve(protocols.lineage("stand-in", "3")[0], classes_stand_in())


def test_limit_takes_the_first_images_if_there_are_more() -> None:
    images = classes_stand_in()
    full = resolve(protocols.leave_one_out("stand-in", ["1"])[0], images).train
    some = resolve(protocols.leave_one_out("stand-in", ["1"], train_size=50)[0], images).train
    assert list(some.ids) == list(full.ids[:50])
    assert len(resolve(protocols.leave_one_out("stand-in", ["1"], train_size=10**6)[0], images).train) == len(full)


def test_x_ray_dev_form_keeps_patients_together() -> None:
    images = x_ray_stand_in()
    found = resolve(protocols.pneumonia("chest-xray-224", form="dev")[0], images)
    learnt, judged = ({patient(name) for name in part.ids} for part in (found.train, found.test))
    assert not learnt & judged
    normal = [name for name in judged if name.startswith("IM")]
    assert len(normal) == 5
    assert len(learnt) == 20


@pytest.mark.parametrize(
    ("name", "who"),
    [
        ("train/PNEUMONIA/person12_virus_3.jpeg", "person12_virus"),
        ("train/NORMAL/IM-0115-0001.jpeg", "IM-0115"),
        ("test/NORMAL/IM-0011-0001-0002.jpeg", "IM-0011"),
        ("train/NORMAL/NORMAL2-IM-0516-0001.jpeg", "NORMAL2-IM-0516"),
        ("a/other.png", "other"),
    ],
)
def test_patient(name: str, who: str) -> None:
    assert patient(name) == who


def test_resolve_refuses_what_makes_no_test() -> None:
    images = classes_stand_in()
    good, bad = Pick(("1",), 0, split="test"), Pick(("2",), 1, split="test")
    cell = partial(Cell, "made up", "test", "stand-in", 0, "1", "2")
    with pytest.raises(DataError, match="are in two parts"):
        resolve(cell(train=(good,), test=(good, bad)), images)
    with pytest.raises(DataError, match="needs good and anomalous"):
        resolve(cell(train=(good,), test=(bad,)), images)
    with pytest.raises(DataError, match="no image to train"):
        resolve(cell(train=(Pick(("x",), 0),), test=(good, bad)), images)
    with pytest.raises(DataError, match="no split 'val'"):
        resolve(cell(train=(Pick(("1",), 0, split="val"),), test=(good, bad)), images)
    with pytest.raises(SettingsError, match="did you mean 'test'"):
        protocols.one_vs_rest("mnist", form="tests")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="no class 'z'"):
        protocols.leave_one_out("mnist", ["z"])


def test_cells_are_plain_data() -> None:
    for protocol in ALL:
        for cell in cells_of(protocol, "dev")[1]:
            assert json.loads(json.dumps(cell.to_record()))["train"][0]["label"] == 0


REAL = {  # data set, form: train, good and anomalous in the test, calibrate
    ("lineage", "mnist", "test"): (1000, 1000, 1000, 4742),
    ("lineage", "mnist", "dev"): (1000, 1000, 1000, 3742),
    ("lineage", "fashion-mnist", "test"): (1000, 1000, 1000, 4000),
    ("lineage", "fashion-mnist", "dev"): (1000, 1000, 1000, 3000),
    ("one-vs-rest", "mnist", "test"): (6742, 1135, 8865, 0),
    ("one-vs-rest", "kmnist", "test"): (499, 501, 4499, 0),
    ("leave-one-out", "mnist", "test"): (53258, 8865, 1135, 0),
    ("pneumonia", "pneumoniamnist", "test"): (1214, 234, 390, 0),
    ("pneumonia", "chest-xray-224", "test"): (1341, 234, 390, 0),
}


@pytest.mark.data
@pytest.mark.parametrize(("protocol", "dataset", "form"), REAL)
def test_counts_on_real_data(protocol: str, dataset: str, form: Any, data_root: Path) -> None:
    make: dict[str, Any] = {
        "lineage": protocols.lineage,
        "one-vs-rest": partial(protocols.one_vs_rest, normal=["1"]),
        "leave-one-out": partial(protocols.leave_one_out, held_out=["1"]),
        "pneumonia": protocols.pneumonia,
    }
    found = resolve(make[protocol](dataset, form=form)[0], runner.open_whole(dataset))
    counts = (
        len(found.train),
        int((found.test.labels == 0).sum()),
        int((found.test.labels == 1).sum()),
        0 if found.calibrate is None else len(found.calibrate),
    )
    assert counts == REAL[protocol, dataset, form]


@pytest.mark.data
@pytest.mark.parametrize("dataset", ["pneumoniamnist", "chest-xray-224"])
def test_x_ray_dev_form_on_real_data(dataset: str, data_root: Path) -> None:
    images = runner.open_whole(dataset)
    dev = resolve(protocols.pneumonia(dataset, form="dev")[0], images)
    test = resolve(protocols.pneumonia(dataset)[0], images)
    assert set(dev.train.ids) | set(dev.test.ids[dev.test.labels == 0]) == set(test.train.ids)
    assert not set(test.test.ids) & {*dev.train.ids, *dev.test.ids}
    assert 0.15 < (dev.test.labels == 0).sum() / len(test.train) < 0.25


# Baselines -----------------------------------------------------------------------------------------------------------


def test_contrast_directions() -> None:
    good = np.array([[0.4, 0.6], [0.3, 0.7], [0.2, 0.8]], np.float32)  # contrasts .1, .2, .3
    flat, steep = np.full((1, 2), 0.5, np.float32), np.array([[0.0, 1.0]], np.float32)
    low, high, odd = (Contrast(sign).fit(good) for sign in (-1, 1, 0))
    assert low.score(flat) > low.score(good).max() > low.score(steep)
    assert high.score(steep) > high.score(good).max() > high.score(flat)
    assert np.allclose(odd.score(np.concatenate([good, flat, steep])), [0.1, 0, 0.1, 0.2, 0.3], atol=1e-6)


def test_neighbours_is_the_mean_distance_to_the_nearest() -> None:
    line = np.arange(5, dtype=np.float32)[:, None]
    assert Neighbours(2).fit(line).score(np.array([[6.0], [1.5]], np.float32)) == pytest.approx([2.5, 0.5])
    assert Neighbours(9).fit(line).score(line[:1]) == pytest.approx([2.0])


def correlated(n: int, seed: int, f: int = 6) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, f)) @ rng.normal(size=(f, f)) + rng.normal(size=f)


def test_ppca_with_all_components_is_the_gaussian_of_the_data() -> None:
    x, new = correlated(200, 0), correlated(20, 1)
    exact = stats.multivariate_normal(x.mean(0), np.cov(x.T, bias=True)).logpdf(new)
    assert np.allclose(PPCA(x.shape[1] - 1).fit(x).score(new), -exact)


def test_ppca_spreads_the_rest_evenly() -> None:
    x, new = correlated(200, 0), correlated(20, 1)
    values, vectors = np.linalg.eigh(np.cov(x.T, bias=True))
    values[:4] = values[:4].mean()
    exact = stats.multivariate_normal(x.mean(0), vectors * values @ vectors.T).logpdf(new)
    assert np.allclose(PPCA(2).fit(x).score(new), -exact)


def test_ppca_sums_classes_out() -> None:
    a, b, new = correlated(90, 0), correlated(30, 1), correlated(10, 2)
    mixed = PPCA(3).fit(np.concatenate([a, b]), np.repeat(["a", "b"], [90, 30])).score(new)
    density = 0.75 * np.exp(-PPCA(3).fit(a).score(new)) + 0.25 * np.exp(-PPCA(3).fit(b).score(new))
    assert np.allclose(mixed, -np.log(density))


def test_ppca_survives_few_and_constant_pixels() -> None:
    x = np.zeros((3, 50), np.float32)
    x[:, 0] = [0, 0.5, 1]
    scores = PPCA().fit(x).score(np.vstack([x, np.ones((1, 50), np.float32)]))
    assert np.isfinite(scores).all()
    assert scores.argmax() == 3


# Methods -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits_cell() -> tuple[Cell, CellImages]:
    cell = protocols.leave_one_out("digits", ["9"], train_size=400)[0]
    return cell, resolve(cell, open_dataset("digits"))


def test_a_detector_is_measured_as_a_user_would(digits_cell: tuple[Cell, CellImages]) -> None:
    from knowngood import Detector
    from knowngood.evaluation.evaluate import evaluate

    cell, parts = digits_cell
    method = Method("cvae", {**TINY, "objective": "cvae", "unknown": "infer"})
    found = measure(method, cell, parts)
    detector = Detector.from_settings(method.on(cell)).fit(parts.train)
    by_hand = evaluate(detector, parts.test, unknown="infer")
    assert found["metrics"] == by_hand.metrics
    assert found["threshold"] == detector.pipeline_.limit
    assert (found["metrics"]["normals"], found["metrics"]["anomalies"]) == (403, 46)
    assert found["calibration_normals"] == len(detector.split_["calibrate"])
    json.dumps(found)


def test_the_class_of_a_test_image_is_never_told(digits_cell: tuple[Cell, CellImages]) -> None:
    cell, parts = digits_cell
    told = parts._replace(test=parts.test.replace(conditions={"class": np.full(len(parts.test), "0")}))
    method = Method("cvae", {**TINY, "objective": "cvae", "unknown": "infer"})
    assert "class" not in parts.test.conditions
    assert measure(method, cell, told)["metrics"] != measure(method, cell, parts)["metrics"]


def test_calibration_images_replace_those_set_aside() -> None:
    cell = protocols.lineage("stand-in", "3", size=SIZE)[0]
    parts = resolve(cell, classes_stand_in())
    assert parts.calibrate is not None
    n = len(parts.calibrate)
    learnt = measure(Method("vae", TINY), cell, parts)
    assert learnt["calibration_normals"] == n
    assert learnt["fit"]["data"]["fit"] == SIZE
    for method in baselines(names=("low contrast", "PPCA 32")):
        assert measure(method, cell, parts)["calibration_normals"] == n


@pytest.mark.parametrize("name", ["low contrast", "unusual contrast", "pixel 5-NN", "PPCA 32"])
def test_baselines_are_calibrated_on_normals_they_did_not_see(name: str, digits_cell: tuple[Cell, CellImages]) -> None:
    cell, parts = digits_cell
    found = measure(Method(name, baseline=name), cell, parts)
    assert found["calibration_normals"] == 80
    assert 0 < found["metrics"]["false_alarm_rate"] < 0.2
    assert found["metrics"]["auroc"] > {"pixel 5-NN": 0.9, "PPCA 32": 0.7}.get(name, 0)
    json.dumps(found)


def test_settings_stack_up(tmp_path: Path) -> None:
    config = tmp_path / "settings.yaml"
    config.write_text("epochs: 3\nlatent_dim: 7\n")
    found = chosen_settings("one-class-conv", config, epochs=5, device=None)
    assert (found["epochs"], found["latent_dim"], found["batch_size"]) == (5, 7, 32)
    assert "device" not in found
    with pytest.raises(SettingsError, match="did you mean 'PPCA 32'"):
        Method("x", baseline="PPCA 23")


# Runner --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The measurements really made, in order."""
    made: list[str] = []

    def counting(method: Method, cell: Cell, parts: CellImages, **options: Any) -> dict[str, Any]:
        made.append(f"{method.name} {cell.normal} {cell.seed}")
        return measure(method, cell, parts, **options)

    monkeypatch.setattr(runner, "measure", counting)
    return made


LOW = Method("low contrast", baseline="low contrast")
HIGH = Method("high contrast", baseline="high contrast")


def stand_in(name: str) -> ImageSet:
    return classes_stand_in()


def test_a_second_run_measures_nothing_again(tmp_path: Path, counted: list[str]) -> None:
    cells = protocols.one_vs_rest("stand-in", ["1", "2"], seeds=(0, 1))
    first = runner.run(cells, [LOW, HIGH], tmp_path, opener=stand_in)
    assert len(first) == len(counted) == 8
    assert runner.run(cells, [LOW, HIGH], tmp_path, opener=stand_in) == first
    assert len(counted) == 8
    runner.run([*cells, *protocols.one_vs_rest("stand-in", ["3"])], [LOW], tmp_path, opener=stand_in)
    assert counted[8:] == ["low contrast 3 0"]


def test_a_run_goes_on_after_a_kill_in_the_middle_of_a_line(tmp_path: Path, counted: list[str]) -> None:
    cells = protocols.one_vs_rest("stand-in", ["1", "2"])
    full = runner.run(cells, [LOW], tmp_path, opener=stand_in)
    file = tmp_path / runner.RESULTS
    file.write_bytes(file.read_bytes()[:-100])
    again = runner.run(cells, [LOW], tmp_path, opener=stand_in)
    assert counted == ["low contrast 1 0", "low contrast 2 0", "low contrast 2 0"]
    assert [r["metrics"] for r in again] == [r["metrics"] for r in full]
    assert runner.run(cells, [LOW], tmp_path, opener=stand_in) == again
    assert len(counted) == 3


def test_keys_tell_apart_what_changes_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    def key(
        settings: Any = TINY, seed: int = 0, form: Any = "test", data: str = "a", baseline: str | None = None
    ) -> str:
        cell = protocols.one_vs_rest("stand-in", ["1"], seeds=(seed,), form=form)[0]
        return runner.key_of(cell, Method("name", settings, baseline), data)

    keys = [key(), key({**TINY, "epochs": 3}), key(seed=1), key(form="dev"), key(data="b"), key(baseline="PPCA 32")]
    assert len(set(keys)) == len(keys)
    assert key() == key({**TINY, "batch_size": 128}), "a default written out is the same setting"
    before = key()
    monkeypatch.setattr(runner, "code_version", lambda: "other")
    assert key() != before


def test_comments_do_not_make_a_new_version_of_the_code() -> None:
    code = "def f(x):\n    return x + 1\n"
    commented = '"""Page."""\n\n# why\ndef f(x):\n    """What."""\n    return (x + 1)  # how\n'
    assert runner.essence(code) == runner.essence(commented)
    assert runner.essence(code) != runner.essence(code.replace("1", "2"))


def test_missing_data_and_failed_cells_are_rows_and_tried_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], counted: list[str]
) -> None:
    def opener(name: str) -> ImageSet:
        if name == "gone":
            raise DataError("gone: nothing here")
        return classes_stand_in()

    cells = [
        *protocols.one_vs_rest("gone", ["1"]),
        *protocols.lineage("stand-in", "1"),
        *protocols.one_vs_rest("stand-in", ["1"]),
    ]
    results = runner.run(cells, [LOW], tmp_path, opener=opener)
    assert [("metrics" in r, "error" in r) for r in results] == [(False, True), (False, True), (True, False)]
    assert len((tmp_path / runner.RESULTS).read_text().splitlines()) == 1
    rows = tables.write_tables(results, tmp_path)
    assert [row["n"] for row in rows] == [0, 0, 1]
    tables.print_summary(rows, "title")
    shown = capsys.readouterr().out
    assert "missing: gone: nothing here" in shown
    assert "needs 1,000 images" in shown


def test_open_whole_names_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KNOWNGOOD_DATA", str(tmp_path))
    with pytest.raises(DataError, match="no folder chest-xray-224 here"):
        runner.open_whole("chest-xray-224")
    assert set(runner.open_whole("digits").splits.tolist()) == {"train", "test"}  # type: ignore[union-attr]


# Tables --------------------------------------------------------------------------------------------------------------


def result(auroc: float, seed: int = 0, method: str = "vae", anomalous: str = "9") -> dict[str, Any]:
    metrics = {"auroc": auroc, "auroc_interval": [auroc - 0.1, auroc + 0.1], "false_alarm_rate": 0.05}
    return {
        "protocol": "p", "form": "test", "dataset": "d", "normal": "n", "anomalous": anomalous, "method": method,
        "seed": seed, "metrics": metrics, "alpha": 0.05, "threshold": 1.0, "fit_seconds": 10.0,
    }  # fmt: skip


def test_summary_is_mean_and_sample_deviation() -> None:
    rows = tables.summary([result(0.8, 0), result(0.9, 1), result(0.5, method="other")])
    assert [(row["method"], row["n"]) for row in rows] == [("vae", 2), ("other", 1)]
    assert rows[0]["auroc"] == pytest.approx(0.85)
    assert rows[0]["auroc_sd"] == pytest.approx(np.std([0.8, 0.9], ddof=1))
    assert rows[1]["auroc_sd"] is None


def test_csv_and_pivot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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


# Commands ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_is_a_command_with_a_folder(name: str) -> None:
    module, _, function = BENCHMARKS[name][0].partition(":")
    run = getattr(importlib.import_module(module), function)
    options = inspect.signature(run).parameters
    assert keyword_arguments(run, ["--quick", "--out", "here"] if "quick" in options else ["--out", "here"], name)
    if "form" in options:
        found = keyword_arguments(run, ["--form", "dev", "--seeds", "0,1", "--epochs", "3"], name)
        assert found == {"form": "dev", "seeds": (0, 1), "epochs": 3}
        with pytest.raises(SettingsError, match="--form"):
            keyword_arguments(run, ["--form", "train"], name)


@pytest.fixture
def tiny_config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(json.dumps({**TINY, "net": "mlp"}))
    return path


def test_leave_one_out_command(tmp_path: Path, tiny_config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = leave_one_out.main(
        dataset="digits", digits=("9",), objectives=("vae", "cvae"), config=tiny_config, quick=True, out=tmp_path
    )
    assert [row["method"] for row in rows] == ["vae", "cvae", "pixel 5-NN", "PPCA 32"]
    assert all(0 <= row["auroc"] <= 1 and row["fit_seconds"] > 0 for row in rows)
    settings = [json.loads(line)["settings"] for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [s["objective"]["name"] for s in settings[:2]] == ["vae", "cvae"]
    assert settings[0]["net"]["name"] == "mlp"
    assert "AUROC by the class held out" in capsys.readouterr().out


def test_lineage_command_writes_reports(
    tmp_path: Path, tiny_config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner, "open_whole", stand_in)
    monkeypatch.setattr(protocols, "lineage", partial(protocols.lineage, size=SIZE))
    rows = lineage.main(("stand-in",), ("one-class-conv",), seeds=(0, 1), config=tiny_config, out=tmp_path)
    assert (rows[0]["method"], rows[0]["n"]) == ("one-class-conv", 2)
    assert len(list((tmp_path / "reports").glob("stand-in-1-one-class-conv-*.html"))) == 2
    assert capsys.readouterr().out.startswith("Class 1 normal")


def test_pneumonia_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_config: Path) -> None:
    def opener(name: str) -> ImageSet:
        if name == pneumonia.FOLDERS:
            raise DataError("not here")
        return x_ray_stand_in()

    monkeypatch.setattr(runner, "open_whole", opener)
    rows = pneumonia.main(config=tiny_config, quick=True, out=tmp_path)
    found = {(row["dataset"], row["method"]): row for row in rows}
    assert found[pneumonia.SMALL, "knowngood, ELBO"]["n"] == found[pneumonia.SMALL, "low contrast"]["n"] == 1
    assert "not here" in found[pneumonia.FOLDERS, "chest-xray preset"]["error"]


# Speed ---------------------------------------------------------------------------------------------------------------


def test_flops_of_an_mlp_by_hand() -> None:
    settings = parse_settings({**speed.SHARED, "net": speed.NETS["MLP 784-512"]})
    encoder, decoder = 784 * 512 + 512 * 64, 32 * 512 + 512 * 784
    assert bare.forward_flops(settings, 16) == 2 * (encoder + 16 * decoder)
    # Backward: the gradient of every weight and of every layer's input, but none of the image.
    assert bare.training_flops(settings, 8) == 2 * (3 * (encoder + decoder) - 784 * 512)


def test_the_bare_loop_minimises_what_ours_does() -> None:
    from knowngood.models.objectives import Batch, Context

    settings = parse_settings({**speed.SHARED, "net": "mlp"})
    model, x = bare.make_model(settings), torch.rand(5, 1, 28, 28)
    zeros = torch.zeros(5)
    batch = Batch(x, None, zeros.long(), zeros, torch.arange(5))
    ctx = Context(0, 1, torch.Generator().manual_seed(3), 5, torch.tensor([5]))
    losses, _ = settings.objective.build().loss(model, batch, ctx)
    torch.testing.assert_close(bare.negative_elbo(model, x, torch.Generator().manual_seed(3)), losses["model"])


def test_speed_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(speed, "NETS", {"small": {"name": "mlp", "hidden": [8]}})
    monkeypatch.setattr(speed, "SCORINGS", {"reconstruction": 1})
    monkeypatch.setattr(bare, "matmul_rate", lambda device, dtype: 1e12)
    monkeypatch.setattr(speed_objectives, "NETS", {"small": {"name": "mlp", "hidden": [8]}})
    monkeypatch.setattr(speed_objectives, "IMAGES", 512)
    parts = ("training", "scoring", "objectives")
    rows = speed.main(batches=(8,), repetitions=1, seconds=1e-3, device="cpu", parts=parts, out=tmp_path)
    costs = [row for row in rows if "÷" in row["what"]]
    rows = [row for row in rows if "÷" not in row["what"]]
    assert {row["what"] for row in rows} == {"training", "scoring, reconstruction"}
    for row in rows:
        assert row["ratio"] == pytest.approx(row["images_per_second"] / row["bare_images_per_second"])
        assert row["share_of_matmul_rate"] == pytest.approx(row["images_per_second"] * row["flops_an_image"] / 1e12)
    assert {row["what"] for row in costs} == {f"{name} ÷ {of}" for name, of in speed_objectives.PARENTS.items()}
    assert {row["bar"] for row in costs if row["what"] == "dcvae ÷ cvae"} == {1.5}
    for row in costs:  # one turn: its ratio is that of its two times
        assert row["ratio"] == pytest.approx(row["milliseconds_a_step"] / row["parent_milliseconds_a_step"])
    shown = capsys.readouterr().out
    assert "peak memory of this process" in shown
    assert "1,000 GFLOP/s float32" in shown
    with (tmp_path / "speed.csv").open(encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == len(rows) + len(costs)


def test_each_cost_is_the_median_of_ratios_within_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each objective's step has a made-up time; a slow turn slows all objectives and no ratio."""
    times, order = {"vae": 2.0, "cvae": 4.0, "dcvae": 5.0, "tc_vae": 3.0, "factor_vae": 5.0, "rf_vae": 6.0}, []

    def rate(pixels: object, settings: Settings, device: object, classes: int) -> float:
        order.append(settings.objective.name)
        return settings.batch_size / times[settings.objective.name] / (1 + len(order) // len(times))

    monkeypatch.setattr(bare, "our_training", rate)
    monkeypatch.setattr(speed_objectives, "NETS", {"MLP": {"name": "mlp"}, "conv": {"name": "conv"}})
    rows = speed_objectives.compare(["float32"], 3, 1.0, torch.device("cpu"))
    found = {row["what"]: row["ratio"] for row in rows if row["net"] == "MLP"}
    expected = {"dcvae ÷ cvae": 1.25, "tc_vae ÷ vae": 1.5, "factor_vae ÷ vae": 2.5, "rf_vae ÷ vae": 3.0}
    assert found == pytest.approx(expected)
    assert sorted(order[:6]) == sorted(times)
    assert order[6:12] != order[12:18]
    bars = {(row["what"], row["net"]): row["bar"] for row in rows if row["bar"]}
    assert bars == {("dcvae ÷ cvae", "MLP"): 1.5, ("dcvae ÷ cvae", "conv"): 1.25, ("factor_vae ÷ vae", "conv"): 2.0}


def test_a_conditional_objective_is_timed_with_its_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    def look(
        model: ConditionalVAE, objective: Objective, source: Source, *_: object, on_step: Any, **__: object
    ) -> None:
        seen[type(objective).__name__] = model.condition_dim, source.facts.stratum_counts.tolist()
        on_step(1)
        on_step(4)

    monkeypatch.setattr(bare, "knowngood_train", look)
    for name in ("vae", "dcvae"):
        chosen = {**speed.SHARED, "objective": name, "net": "mlp", "batch_size": 5, "epochs": 2}
        assert bare.our_training(bare.noise_images(10), parse_settings(chosen), torch.device("cpu"), classes=5) > 0
    assert seen == {"VAEObjective": (0, [10]), "DCVAEObjective": (5, [2] * 5)}


def test_an_unknown_part_is_refused() -> None:
    with pytest.raises(SettingsError, match="parts has no 'scores'; known: training, scoring, objectives, regret"):
        speed.main(parts=("training", "scores"))


def test_matmul_rate_is_a_rate() -> None:
    assert bare.matmul_rate(torch.device("cpu"), torch.float32, n=64, repetitions=2) > 1e6
