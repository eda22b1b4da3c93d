"""The light benchmark: who trains, calibrates and is judged, what is swept, and its tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import light
from knowngood.data import ImageSet
from knowngood.errors import SettingsError

COUNTS = {("NORMAL", "train"): 150, ("PNEUMONIA", "train"): 60, ("NORMAL", "val"): 10}
COUNTS |= {("NORMAL", "test"): 20, ("PNEUMONIA", "test"): 20}


def scans(name: str = "pneumoniamnist", **_: Any) -> ImageSet:
    """Each image tells its place: no two are alike, also after dimming."""
    kind, split = (np.repeat([key[i] for key in COUNTS], list(COUNTS.values())) for i in (0, 1))
    pixels = np.random.default_rng(0).integers(0, 255, (len(kind), 12, 12), dtype=np.uint8)
    return ImageSet.from_arrays(pixels, conditions={"class": kind}).replace(splits=split)


def contents(images: np.ndarray) -> set[bytes]:
    return {image.tobytes() for image in images}


@pytest.mark.parametrize("form", ["test", "dev"])
def test_no_image_has_two_parts(form: Any) -> None:
    parts = light.parts_of(scans(), form)
    apart = [contents(part) for part in (parts.train, parts.calibrate, parts.judged, parts.anomalies)]
    assert len(set().union(*apart)) == sum(map(len, apart))
    assert not contents(parts.test) & (apart[0] | apart[1] | apart[3])
    assert set(parts.truth) == {0, 1}
    assert max(part.max() for part in parts[:5]) <= 255 / 1.3 + 0.5


def test_the_dev_form_sees_nothing_that_the_test_form_judges() -> None:
    test, dev = (light.parts_of(scans(), form) for form in ("test", "dev"))
    seen = set().union(*(contents(part) for part in dev[:5]))
    assert not seen & (contents(test.judged) | contents(test.test))


def test_only_what_learns_from_labels_is_swept_over_them_and_seeds_come_one_by_one() -> None:
    runs = list(light.grid(("vae", "dan_vae-steady"), (24,), (0.0, 0.1), (0.0, 0.5), (0, 1)))
    assert len(runs) == len(set(runs)) == 2 * 2 * (1 + 2)
    assert {run.labelled for run in runs if run.model == "vae"} == {0.0}
    assert [run.seed for run in runs] == [0] * 6 + [1] * 6


def test_dimmed_images_are_rounded_and_stay_in_range() -> None:
    found = light.dimmed(np.array([[0, 101, 200]], np.uint8), 1.5)
    assert found.tolist() == [[0, 152, 255]]
    assert found.dtype == np.uint8


def test_tables_are_means_over_runs() -> None:
    rates = {f"{factor:.2f}": 0.1 for factor in light.FACTORS}
    rows = [
        {"model": "vae", "dark": 0.0, "z_a": 24, "labelled": labelled, "auroc": auroc, "taught": 0, "false_alarms": r}
        for labelled, auroc, r in ((0.0, 0.5, rates), (0.0, 0.7, {**rates, "0.70": 0.3}), (0.1, 0.9, rates))
    ]
    (alarms,) = light.false_alarms(rows)
    assert (alarms["n"], alarms["at_0.70"], alarms["at_1.30"]) == (2, pytest.approx(0.2), pytest.approx(0.1))
    assert alarms["at_0.70_sd"] == pytest.approx(0.02**0.5)
    none, tenth = light.anomalies(rows)
    assert (none["auroc"], tenth["auroc"], tenth["auroc_sd"]) == (pytest.approx(0.6), 0.9, None)


@pytest.mark.slow
def test_a_second_run_measures_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(light, "open_whole", scans)
    measured = []
    real = light.measure
    monkeypatch.setattr(light, "measure", lambda run, *rest: measured.append(run) or real(run, *rest))
    config = tmp_path / "small.yaml"
    config.write_text("model: {name: vae, net: {name: mlp, hidden: [8]}}\ntraining: {precision: float32}\n")
    given: dict[str, Any] = {"models": ("vae", "dan_vae-steady"), "quick": True, "config": config, "out": tmp_path}
    first = light.main(**given)
    assert [(run.model, run.labelled, run.dark) for run in measured] == [("vae", 0, 0.5), ("dan_vae-steady", 0.1, 0.5)]
    assert light.main(**given) == first
    assert len(measured) == 2


def test_an_unknown_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="unknown model 'vea'; did you mean 'vae'"):
        light.main(models=("vea",), out=tmp_path)
