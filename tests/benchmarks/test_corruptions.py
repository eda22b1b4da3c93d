"""The corruption benchmark: one threshold for all strengths, the same images held out for all methods, its tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks import corruptions
from benchmarks.corruption_kinds import KINDS
from benchmarks.corruptions import NONE, Bench, Shown
from benchmarks.inspection import OURS
from benchmarks.inspection_parts import InspectionSet
from knowngood.data import ImageSet
from knowngood.errors import SettingsError

TRAIN, TEST, SIDE = 30, 12, 16


def flat(values: np.ndarray) -> np.ndarray:
    """Grey images, each of one value."""
    return np.broadcast_to(values.astype(np.uint8)[:, None, None, None], (len(values), SIDE, SIDE, 1)).copy()


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Normal images have grey values near 100, defective ones 180; the only feature is the value."""
    rng = np.random.default_rng(0)
    train = ImageSet.from_arrays(flat(100 + rng.normal(0, 2, TRAIN)), np.zeros(TRAIN))
    labels = np.arange(TEST) % 2
    test = ImageSet.from_arrays(flat(np.where(labels, 180, 100)), labels)
    parts = InspectionSet("part", "dev", 0, train, test, (None,) * TEST, np.where(labels, "dent", "good"))

    def features(self: Bench, images: ImageSet) -> np.ndarray:
        return np.stack([images.read(i).mean() * np.ones((1, 2, 2)) for i in range(len(images))]).astype(np.float32)

    monkeypatch.setattr(Bench, "_features_of", features)
    return Bench(parts, {**OURS, "alpha": 0.2}, 0)


def test_a_threshold_stays_while_images_get_darker(bench: Bench) -> None:
    test = bench.chosen(4)
    found = corruptions.measure(bench, test, "darker", ["padim", "gaussian"])
    clean = corruptions.measure(bench, test, NONE, ["padim"])["padim"]["strengths"]
    assert clean == {"0": {"false_alarms": 0.0, "detected": 1.0, "image_auroc": 1.0}}
    rates = found["padim"]["strengths"]
    assert list(rates) == ["1", "2", "3", "4", "5"]
    assert rates["5"]["false_alarms"] == 1  # 70 of 100
    assert rates["5"]["detected"] == 1  # 126 of 180
    assert rates["5"]["image_auroc"] < 1  # those are now nearer to 100 than normal ones
    assert found["gaussian"]["calibration_normals"] == TRAIN // 5
    assert found["gaussian"]["alarms_low"] < 0.2 < found["gaussian"]["alarms_high"]


def test_all_methods_calibrate_on_the_same_images_that_none_was_fitted_to(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[list[str], list[str]]] = []

    class Watched:
        @classmethod
        def from_settings(cls, settings: Any) -> Watched:
            return cls()

        def fit(self, images: ImageSet, calibration_set: ImageSet) -> Watched:
            given.append((images.ids.tolist(), calibration_set.ids.tolist()))
            return self

        def decision_function(self, images: ImageSet) -> np.ndarray:
            return np.arange(len(images)) - 1.5

    monkeypatch.setattr(corruptions, "Detector", Watched)
    scores, flagged = bench.judge("ours")(Shown(bench.parts.test[np.arange(4)], lambda _: np.zeros(0)))
    assert scores.tolist() == [1.5, 0.5, -0.5, -1.5]
    assert flagged.tolist() == [True, True, False, False]
    ((fitted, calibrating),) = given
    assert calibrating == bench.parts.train.ids[bench.aside].tolist()
    assert sorted(fitted + calibrating) == sorted(bench.parts.train.ids.tolist())
    aside: list[list[int]] = []
    real = corruptions.calibrated
    monkeypatch.setattr(corruptions, "calibrated", lambda *a: aside.append(a[2].tolist()) or real(*a))
    for method in corruptions.BASELINES:
        bench.judge(method)
    assert aside == [bench.aside.tolist()] * 4


def test_chosen_images_are_spaced_over_both_labels(bench: Bench) -> None:
    assert bench.chosen(3).labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert len(bench.chosen(100)) == TEST
    ids = bench.parts.test.ids
    assert set(bench.chosen(2).ids) == {ids[0], ids[10], ids[1], ids[11]}


@pytest.mark.slow
def test_a_second_run_measures_nothing_again_and_kinds_without_a_meaning_are_left_out(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(corruptions, "inspection_set", lambda source, **_: bench.parts)
    given: dict[str, Any] = {"sets": ("part",), "methods": ("padim",), "kinds": ("blur", "colour-cast"), "images": 3}
    table = corruptions.main(**given, form="dev", alpha=0.2, out=tmp_path)
    assert [(row["kind"], row["strength"]) for row in table] == [(NONE, 0), *(("blur", s) for s in range(1, 6))]
    capsys.readouterr()
    monkeypatch.setattr(corruptions, "measure", None)
    assert corruptions.main(**given, form="dev", alpha=0.2, out=tmp_path) == table
    assert "part: false alarms by strength" in capsys.readouterr().out
    assert corruptions.main(**given, form="dev", alpha=0.1, show=True, out=tmp_path) == []


@pytest.mark.slow
def test_tables_and_curves_show_every_kind_and_method(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = []
    for seed in (0, 1):
        for kind in (NONE, *KINDS):
            rates = {"false_alarms": 0.1 + 0.2 * seed, "detected": 0.9, "image_auroc": 0.95}
            strengths = {str(s): rates for s in ((0,) if kind == NONE else range(1, 6))}
            head = {"form": "dev", "set": "bottle", "seed": seed, "kind": kind, "strengths": strengths, "alpha": 0.05}
            counts = {"normal": 40, "anomalous": 40, "calibration_normals": 28, "alarms_low": 0.0, "alarms_high": 0.1}
            records += [{**head, **counts, "method": method} for method in ("ours", "illumination")]
    table = corruptions.summary(records)
    assert len(table) == 2 * (1 + 5 * len(KINDS))
    assert {row["n"] for row in table} == {2}
    assert table[0]["false_alarms"] == pytest.approx(0.2)
    corruptions.print_tables(table)
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 120
    for kind in KINDS:
        assert sum(line.startswith(kind) for line in printed.splitlines()) == 2 * 3
    picture = Image.open(corruptions.write_curves(table, tmp_path / "curves.png"))
    assert picture.size[0] <= 1000
    assert len(picture.convert("RGB").getcolors(1 << 20)) > 10


def test_what_there_is_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="unknown 'padin'; did you mean 'padim'"):
        corruptions.main(methods=("padin",), out=tmp_path)
    with pytest.raises(SettingsError, match="unknown 'blurr'; did you mean 'blur'"):
        corruptions.main(kinds=("blurr",), out=tmp_path)
    with pytest.raises(SettingsError, match="images = 0"):
        corruptions.main(images=0, out=tmp_path)
