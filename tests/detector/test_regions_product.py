"""Regions of a fitted detector: thresholds and p-values by what good images' maps exceed anywhere."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from feature_cells import Cells, detector, noise
from knowngood.calibration import p_values
from knowngood.calibration.regions import find_regions
from knowngood.cli import main
from knowngood.cli import score as score_command
from knowngood.detector.estimator import Detector
from knowngood.errors import NotEnoughNormals, SettingsError

COLUMNS = [
    "id",
    "region",
    "area",
    "peak",
    "p_value",
    "peak_row",
    "peak_column",
    "top",
    "left",
    "bottom",
    "right",
    "centroid_row",
    "centroid_column",
    "mean",
]


def told(n: int) -> dict[str, list[str]]:
    return {"kind": ["A", "B"] * (n // 2)}


@pytest.fixture(scope="module")
def fitted() -> Detector:
    return detector(alpha=0.1, image_size=64).fit(noise(120, 64, 64), conditions=told(120), backbone=Cells())


@pytest.fixture(scope="module")
def damaged() -> np.ndarray:
    """Four images: the second has one spot, the third has two."""
    images = noise(4, 64, 64, seed=1)
    images[1, 8:16, 40:48] = 255
    images[2, 48:56, 8:16] = 0
    images[2, 8:16, 48:56] = 255
    return images


def test_one_row_a_region_and_none_for_images_without(fitted: Detector, damaged: np.ndarray) -> None:
    table = fitted.regions(damaged, conditions=told(4), alpha=0.05)
    assert list(table.columns) == COLUMNS
    assert table["id"].tolist() == ["1", "2", "2"]
    assert table["region"].tolist() == [1, 1, 2]
    assert (table["p_value"] <= 0.05).all()
    spot = table.iloc[0]
    assert spot["top"] <= 8 < 16 <= spot["bottom"]
    assert spot["left"] <= 40 < 48 <= spot["right"]
    assert 8 <= spot["peak_row"] < 16
    assert 40 <= spot["peak_column"] < 48


def test_regions_are_those_of_the_maps_by_stratum(fitted: Detector, damaged: np.ndarray) -> None:
    known = fitted.pipeline_.maps_of_normals
    assert known is not None
    table = fitted.regions(damaged, conditions=told(4), alpha=0.2, min_area=3)
    for i, one in enumerate(fitted.anomaly_maps(damaged, conditions=told(4))):
        stratum = i % 2  # of A and B
        expected = find_regions(one, known.threshold(0.2, stratum), min_area=3, maxima=known.maxima(0.2, stratum))
        found = table[table["id"] == str(i)]
        assert found["peak"].tolist() == [region.peak for region in expected]
        assert found["p_value"].tolist() == [region.p_value for region in expected]
        assert found["area"].tolist() == [region.area for region in expected]
        assert found[["top", "left", "bottom", "right"]].to_numpy().tolist() == [list(r.box) for r in expected]
    assert known.threshold(0.2, 0) != known.threshold(0.2, 1)


def test_maps_are_calibrated_on_the_largest_values_of_the_calibration_images(fitted: Detector) -> None:
    chosen = fitted.split_["calibrate"]
    maps = fitted.anomaly_maps(noise(120, 64, 64)[chosen], conditions={"kind": np.array(told(120)["kind"])[chosen]})
    known = fitted.pipeline_.maps_of_normals
    assert known is not None
    np.testing.assert_allclose(np.sort(known.calibration.scores), np.sort([one.max() for one in maps]), rtol=1e-6)
    assert len(fitted.pipeline_.calibration or ()) == len(known.calibration) == len(chosen)


def test_few_good_images_have_a_region(fitted: Detector) -> None:
    fresh = noise(200, 64, 64, seed=2)
    with_region = fitted.regions(fresh, conditions=told(200), alpha=0.1)["id"].nunique()
    assert with_region <= 0.1 * 200 + 4 * np.sqrt(0.1 * 0.9 * 200)


def test_the_smallest_p_value_is_that_of_the_map(fitted: Detector, damaged: np.ndarray) -> None:
    known = fitted.pipeline_.maps_of_normals
    assert known is not None
    table = fitted.regions(damaged, conditions=told(4), alpha=0.3)
    for i, one in enumerate(fitted.anomaly_maps(damaged, conditions=told(4))):
        p = p_values(known.maxima(0.3, i % 2), [float(one.max())])[0]
        found = table["p_value"][table["id"] == str(i)]
        assert found.min() == p if p <= 0.3 else found.empty


def test_a_saved_model_finds_the_same_regions(fitted: Detector, damaged: np.ndarray, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    loaded = Detector.load(tmp_path, backbone=Cells())
    expected = fitted.regions(damaged, conditions=told(4), alpha=0.2)
    assert loaded.regions(damaged, conditions=told(4), alpha=0.2).equals(expected)


def test_calibrating_anew_moves_the_thresholds_of_maps_too(
    fitted: Detector, damaged: np.ndarray, tmp_path: Path
) -> None:
    fitted.save(tmp_path)
    other = Detector.load(tmp_path, backbone=Cells())
    darker = noise(60, 64, 64, seed=3) // 2  # further off than any defect
    other.calibrate(darker, conditions=told(60))
    old, new = fitted.pipeline_.maps_of_normals, other.pipeline_.maps_of_normals
    assert old is not None
    assert new is not None
    assert len(new.calibration) == 60
    assert new.threshold() > 2 * old.threshold()
    assert len(other.regions(noise(4, 64, 64, seed=1), conditions=told(4))) == 0


def test_an_unknown_condition_has_the_regions_of_its_best_one(damaged: np.ndarray) -> None:
    images = noise(120, 64, 64)
    images[1::2] //= 2  # B is darker
    both = detector(alpha=0.1, image_size=64, unknown="infer").fit(images, conditions=told(120), backbone=Cells())
    new = damaged // np.array([1, 2, 1, 2], dtype=np.uint8)[:, None, None, None]
    nothing = {"kind": [None] * 4}
    found = both.detect(new, conditions=nothing)["condition"].str.extract(r"kind=(\w) \(inferred\)")[0].tolist()
    assert found[0] == "A"
    assert found[3] == "B"
    expected = both.regions(new, conditions={"kind": found})
    assert both.regions(new, conditions=nothing).equals(expected)
    assert set(expected["id"]) == {"1", "2"}


def test_refusals(fitted: Detector) -> None:
    with pytest.raises(NotEnoughNormals, match=r"alpha = 0\.001"):
        fitted.regions(noise(2, 64, 64), conditions=told(2), alpha=0.001)
    pixels = Detector(epochs=1, device="cpu").fit(noise(30, 16, 16))
    assert pixels.pipeline_.maps_of_normals is None
    with pytest.raises(SettingsError, match="regions need a model on features"):
        pixels.regions(noise(2, 16, 16))


def test_the_command_writes_regions_and_maps(
    fitted: Detector,
    damaged: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = ["path,kind"]
    for i, (image, kind) in enumerate(zip(damaged, told(4)["kind"], strict=True)):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,{kind}")
    (tmp_path / "new.csv").write_text("\n".join(rows))
    monkeypatch.setattr(score_command, "load", lambda *_: fitted)

    def run(*words: str) -> int:
        with pytest.raises(SystemExit) as left:
            main(["score", "model", str(tmp_path / "new.csv"), *words])
        return int(left.value.code or 0)

    files = {name: str(tmp_path / name) for name in ("table.csv", "regions.csv", "maps")}
    options = ("--output", files["table.csv"], "--regions", files["regions.csv"], "--maps", files["maps"])
    assert run(*options, "--alpha", "0.05") == 0
    found = pd.read_csv(files["regions.csv"], dtype={"id": str})
    expected = fitted.regions(damaged, conditions=told(4), alpha=0.05)
    expected["id"] += ".png"
    pd.testing.assert_frame_equal(found, expected, check_dtype=False)
    assert f"{len(expected)} in {expected['id'].nunique()} images" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "maps" / "maps.json").read_text())["maps"]) == 4
    assert run("--regions", "regions.txt") == 2
    assert "unknown format '.txt'" in capsys.readouterr().err
