"""A batch that does not fit is said, with its likely cause; groups that only the calibration tells apart."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from knowngood import Detector, ImageSet
from knowngood.cli import main
from knowngood.errors import BatchWarning, DataError, NotEnoughNormals, SettingsError
from knowngood.evaluation.evaluate import evaluate
from knowngood.evaluation.report import report_inputs
from knowngood.evaluation.report.build import render

SIDE = 12
KNN: Any = {"representation": "pixels", "model": "memory_bank", "device": "cpu"}


def parts(n: int, seed: int, light: float = 1.0) -> np.ndarray:
    """Colour images (n, 12, 12, 3) uint8 of a checked part, noisy and under slightly varying light."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    part = (80 + 80.0 * ((y // 3 + x // 3) % 2))[..., None] * [1.0, 0.9, 0.7]
    images = part + rng.normal(0, 6, (n, SIDE, SIDE, 3)) + rng.normal(0, 3, (n, 1, 1, 1))
    return np.clip(light * images, 0, 255).astype(np.uint8)


def blurred(images: np.ndarray) -> np.ndarray:
    return ((images.astype(int) + np.roll(images, 1, 1) + np.roll(images, 1, 2)) // 3).astype(np.uint8)


def noisy(images: np.ndarray) -> np.ndarray:
    return np.clip(images + np.random.default_rng(9).normal(0, 25, images.shape), 0, 255).astype(np.uint8)


def tinted(images: np.ndarray) -> np.ndarray:
    return np.clip(images * [1.15, 1.0, 0.8], 0, 255).astype(np.uint8)


def reduced(images: np.ndarray) -> np.ndarray:
    """To 80 % of the size, in the middle of the picture."""
    small = [np.asarray(Image.fromarray(image).resize((10, 10), Image.Resampling.BILINEAR)) for image in images]
    return np.pad(np.array(small), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")


@pytest.fixture(scope="module")
def fitted() -> Detector:
    return Detector(**KNN).fit(parts(120, 0))


@pytest.fixture
def detector(fitted: Detector) -> Detector:
    return copy.deepcopy(fitted)


def remark(detector: Detector, images: Any, **given: Any) -> dict[str, Any] | None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = detector.detect(images, **given).attrs.get("batch")
    told = [str(one.message) for one in caught if one.category is BatchWarning]
    assert told == ([] if found is None else [found["sentence"]])
    return found


@pytest.mark.slow
def test_a_batch_like_the_calibration_images_passes_without_a_remark(fitted: Detector) -> None:
    assert all(remark(fitted, parts(20, seed)) is None for seed in range(1, 21))


@pytest.mark.parametrize(
    ("images", "name", "cause"),
    [
        (parts(20, 1, 0.85), "brightness", "the illumination or exposure"),
        (parts(20, 1, 1.15), "brightness", "the illumination or exposure"),
        (blurred(parts(20, 1)), "sharpness", "focus, scale or noise"),
        (noisy(parts(20, 1)), "sharpness", "focus, scale or noise"),
        (reduced(parts(20, 1)), "sharpness", "focus, scale or noise"),
        (tinted(parts(20, 1)), "red", "the colour of the light or another camera"),
    ],
    ids=["darker", "brighter", "blur", "noise", "scale", "tint"],
)
def test_what_changed_is_named_and_both_possibilities_where_there_are_no_labels(
    fitted: Detector, images: np.ndarray, name: str, cause: str
) -> None:
    found = remark(fitted, images)
    assert found is not None
    assert name in [change["name"] for change in found["changes"]]
    assert cause in found["sentence"]
    assert "most are anomalous, or the images changed: " in found["sentence"]
    assert found["sentence"].endswith("calibrate on images of this kind: detector.calibrate(normal_images)")
    assert len(found["sentence"]) < 360
    assert json.loads(json.dumps(found)) == found
    with pytest.warns(BatchWarning, match="20 of 20 images are flagged"):
        fitted.predict(images)


@pytest.mark.parametrize(("images", "sharper"), [(parts(40, 1, 0.6)[:, ::-1], False), (noisy(parts(40, 1, 0.6)), True)])
def test_what_the_representation_does_not_see_is_no_cause(images: np.ndarray, sharper: bool) -> None:
    hog = Detector(**{**KNN, "representation": {"name": "hog", "grey": True}}).fit(parts(120, 0))
    found = remark(hog, tinted(images))
    assert found is not None
    assert {"brightness", "red"} <= set(found["unseen"]) <= {change["name"] for change in found["changes"]}
    assert "illumination" not in found["sentence"]
    assert "colour of the light" not in found["sentence"]
    assert sharper == ("(focus, scale or noise)" in found["sentence"])
    assert sharper != ("sharpness, colours and size do not show" in found["sentence"])


def test_a_measured_condition_is_seen() -> None:
    measured = {"measure": ["brightness"], "unknown": "infer"}
    given = Detector("hog", "memory_bank", conditioning=measured).fit(parts(60, 0))
    assert given.pipeline_.unseen == ("contrast",)


def test_of_labelled_images_only_the_normal_ones_count(fitted: Detector) -> None:
    defects = 255 - parts(40, 3)
    joined, labels = np.concatenate([parts(20, 1), defects]), np.repeat([0, 1], [20, 40])
    assert remark(fitted, ImageSet.from_arrays(joined, labels=labels)) is None
    assert remark(fitted, ImageSet.from_arrays(defects, labels=np.ones(40))) is None
    assert remark(fitted, defects) is not None
    dark = np.concatenate([parts(20, 1, 0.85), defects])
    found = remark(fitted, ImageSet.from_arrays(dark, labels=labels))
    assert found is not None
    assert (found["items"], found["labelled"]) == (20, True)
    assert found["sentence"].startswith("20 of 20 images labelled normal are flagged at alpha = 0.05")
    assert "anomalous" not in found["sentence"]


def test_tables_are_said_too() -> None:
    rng = np.random.default_rng(0)
    detector = Detector(model="memory_bank", device="cpu").fit(rng.normal(size=(200, 4)))
    found = remark(detector, rng.normal(size=(30, 4)) + 6)
    assert found is not None
    assert "most are anomalous, or the data changed" in found["sentence"]
    assert remark(detector, rng.normal(size=(30, 4))) is None


@pytest.mark.slow
def test_an_evaluation_and_its_report_say_it(fitted: Detector) -> None:
    images = np.concatenate([parts(20, 1, 0.85), 255 - parts(10, 3)])
    labelled = ImageSet.from_arrays(images, labels=np.repeat([0, 1], [20, 10]))
    with pytest.warns(BatchWarning, match="brightness"):
        found = evaluate(fitted, labelled)
    page = render(report_inputs(fitted, found, title="t", command="c"))
    assert "20 of 20 images labelled normal are flagged" in page
    assert "the illumination or exposure" in page


# Added groups ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_items_of_an_added_group_are_compared_with_it_and_others_as_before(detector: Detector, tmp_path: Path) -> None:
    old, dark = parts(40, 1), parts(100, 2, 0.85)
    before = detector.detect(old)
    own = detector.score_samples(dark[60:])  # without the column the calibration of the fit decides
    assert detector.calibrate(dark[:60], as_group={"camera": "B"}) is detector
    for given in ({}, {"conditions": {"camera": np.full(40, "A")}}):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            same = detector.detect(old, **given)
        assert same["p_value"].tolist() == before["p_value"].tolist()
        assert same["anomaly_score"].tolist() == before["anomaly_score"].tolist()
    of_b = {"camera": np.full(40, "B")}
    table = detector.detect(dark[60:], conditions=of_b)
    reference = np.sort(-detector.score_samples(dark[:60]))
    expected = (1 + (reference[None] >= -own[:, None]).sum(axis=1)) / 61
    np.testing.assert_allclose(table["p_value"], expected, atol=1e-12)
    assert (table["condition"] == "camera=B").all()
    assert ((detector.decision_function(dark[60:], conditions=of_b) < 0) == table["is_anomalous"]).all()
    assert remark(detector, dark[60:], conditions=of_b) is None
    forgotten = remark(detector, dark[60:])
    assert forgotten is not None
    assert "If they are of camera=B, give conditions={'camera': 'B'}" in forgotten["sentence"]
    again = Detector.load(detector.save(tmp_path / "model"))
    assert again.detect(dark[60:], conditions=of_b).equals(table)
    assert "camera=B: compared with 60 items" in again.card_
    darker = remark(again, parts(30, 4, 0.7), conditions={"camera": np.full(30, "B")})
    assert darker is not None
    assert [change["name"] for change in darker["changes"]][:1] in (["brightness"], ["contrast"])
    change = darker["changes"][0]  # compared with the images of the group, which are darker than those of the fit
    assert change["high"] < again.pipeline_.statistics.values[change["name"]].min()


def test_a_missing_value_gets_the_largest_p_value_of_all_groups(detector: Detector) -> None:
    items = np.concatenate([parts(20, 1), parts(20, 5, 0.85), 255 - parts(5, 3)])
    before = detector.detect(items)["p_value"]
    detector.calibrate(parts(60, 2, 0.85), as_group={"camera": "B"})
    as_b = detector.detect(items, conditions={"camera": np.full(45, "B")})["p_value"]
    table = detector.detect(items, conditions={"camera": np.full(45, None)})
    assert table["p_value"].tolist() == np.maximum(before, as_b).tolist()
    assert (table["p_value"] <= 0.05).tolist() == (table["anomaly_score"] > -detector.offset_).tolist()
    assert table["condition"].str.endswith("(inferred)").all()


def test_a_value_without_calibration_is_named_unless_the_fit_had_it() -> None:
    detector = Detector(**KNN).fit(parts(60, 0), conditions={"camera": np.full(60, "A")})
    detector.calibrate(parts(30, 2, 0.85), as_group={"camera": "B"})
    with pytest.warns(UserWarning, match=r"no group of camera 'C' \(added: B\); these items are judged by the calib"):
        detector.detect(parts(2, 1), conditions={"camera": ["A", "C"]})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        detector.detect(parts(2, 1), conditions={"camera": ["A", "B"]})


@pytest.mark.slow
def test_a_group_of_a_column_that_the_model_knows(detector: Detector) -> None:
    """Its new value is unknown to the model, which infers; a value it knows gets a calibration of its own."""
    cameras = np.repeat(["A", "C"], 60)
    told = Detector(**KNN).fit(parts(120, 0), conditions={"camera": cameras})
    new = {"camera": np.full(30, "B")}
    with pytest.raises(DataError, match="has no value 'B'"):
        told.detect(parts(30, 3, 0.85), conditions=new)
    told.calibrate(parts(60, 2, 0.85), as_group={"camera": "B"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = told.detect(parts(30, 3, 0.85), conditions=new)
    assert table["is_anomalous"].mean() < 0.3
    assert (table["condition"] == "camera=B").all()
    with pytest.raises(DataError, match="has no value 'Z'"):
        told.detect(parts(2, 3), conditions={"camera": ["B", "Z"]})


def test_a_calibration_that_cannot_hold_is_refused_and_changes_nothing(detector: Detector) -> None:
    before = detector.pipeline_
    for given in ({}, {"as_group": {"camera": "B"}}):
        with pytest.raises(NotEnoughNormals, match=r"alpha = 0\.05 needs at least 19, 10 more") as refused:
            detector.calibrate(parts(9, 1), **given)
        assert refused.value.missing == 10
        with pytest.raises(DataError, match=r"60 of 60 images .* are ones that the model was fitted to"):
            detector.calibrate(parts(120, 0)[:60], **given)
    for wrong in ({}, {"camera": None}, "camera=B", {"group": "B"}):
        with pytest.raises(SettingsError, match="as_group"):
            detector.calibrate(parts(30, 1), as_group=wrong)  # type: ignore[arg-type]
    assert detector.pipeline_ is before
    mixed = np.concatenate([parts(120, 0)[:3], parts(30, 1)])
    with pytest.warns(UserWarning, match="3 of 33 images .* Leave them out"):
        detector.calibrate(mixed)


# The command line -----------------------------------------------------------------------------------------------------


def run(*words: Any) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    return int(left.value.code or 0)


def folder(path: Path, images: np.ndarray) -> Path:
    path.mkdir(parents=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(path / f"{i:03d}.png")
    return path


@pytest.mark.slow
def test_the_commands_say_it_add_a_group_and_refuse(
    fitted: Detector, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = fitted.save(tmp_path / "model")
    dark, more = folder(tmp_path / "dark", parts(25, 1, 0.85)), folder(tmp_path / "more", parts(40, 2, 0.85))
    assert run("score", model, dark, "--output", tmp_path / "table.json") == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "flagged at alpha" in line]
    assert len(told) == 1
    assert "the illumination or exposure" in told[0]
    assert told[0].endswith("knowngood calibrate MODEL NORMAL_IMAGES")
    assert "detector." not in told[0]
    assert all(
        told[0] == f"warning: {row['batch_warning']}".rstrip(".")
        for row in json.loads((tmp_path / "table.json").read_text())
    )
    few = folder(tmp_path / "few", parts(9, 3))
    assert run("calibrate", model, few) == 3
    assert "needs at least 19, 10 more" in capsys.readouterr().err
    assert run("calibrate", model, more, "--as", "camera=B") == 0
    assert "camera=B" in capsys.readouterr().out
    assert run("score", model, dark, "--as", "camera=B", "--output", tmp_path / "b.json") == 0
    assert "flagged at alpha" not in capsys.readouterr().err
    rows = json.loads((tmp_path / "b.json").read_text())
    assert {row["condition"] for row in rows} == {"camera=B"}
    assert run("calibrate", model, folder(tmp_path / "now", parts(30, 6))) == 0
    assert (
        "the calibration by 120 training images of array, and 40 images of more (camera=B)" in capsys.readouterr().err
    )
    assert run("calibrate", model, more, "--as", "camera") == 2
