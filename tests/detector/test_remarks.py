"""What is said of a batch beside whether it fits: another aspect ratio, and images that were trained on."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from knowngood import Detector, ImageSet
from knowngood.cli import main
from knowngood.data.pixel_source import ListPixels
from knowngood.errors import BatchWarning

RESIZED: Any = {"representation": {"name": "pixels", "image_size": 12}, "model": "memory_bank", "device": "cpu"}


def pictures(sizes: list[tuple[int, int]], seed: int) -> ImageSet:
    """Grey images of these heights and widths."""
    rng = np.random.default_rng(seed)
    found = [rng.integers(90, 110, (height, width, 1)).astype(np.uint8) for height, width in sizes]
    ids = np.array([f"{seed}-{i}" for i in range(len(found))])
    return ImageSet(ListPixels(found), ids, np.full(len(found), np.nan), {})


@pytest.fixture(scope="module")
def fitted() -> Detector:
    return Detector(**RESIZED).fit(pictures([(20, 20), (20, 22)] * 30, 0))


def warned(detector: Detector, images: ImageSet) -> tuple[list[str], Any]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        table = detector.detect(images)
    return [str(one.message) for one in caught if one.category is BatchWarning], table


@pytest.mark.parametrize("size", [(20, 36), (30, 20)], ids=["wide", "tall"])
def test_images_of_another_aspect_ratio_are_judged_and_named(
    fitted: Detector, size: tuple[int, int], tmp_path: Path
) -> None:
    images = pictures([(20, 20), size, (20, 22), *[size] * 4], 1)
    again = Detector.load(fitted.save(tmp_path / "model"))
    for detector in (fitted, again):
        said, table = warned(detector, images)
        found = table.attrs["aspect"]
        assert found["sentence"] in said
        assert found["sentence"].startswith("5 of 7 images have another aspect ratio")
        assert f"{size[1] / size[0]:.3g} instead of 1 to 1.1" in found["sentence"]
        assert "1-1, 1-3, 1-4 … and 2 more. Crop or pad" in found["sentence"]
        assert found["ids"] == ["1-1", "1-3", "1-4", "1-5", "1-6"]
        assert table["note"].notna().tolist() == [False, True, False, True, True, True, True]
        assert table["p_value"].notna().all()


def test_of_images_of_nearly_the_same_aspect_ratio_nothing_is_said(fitted: Detector) -> None:
    said, table = warned(fitted, pictures([(20, 23), (40, 40), (21, 20)], 1))
    assert not said
    assert "note" not in table
    assert not table.attrs


def test_images_that_are_far_smaller_are_judged_and_named(fitted: Detector) -> None:
    said, table = warned(fitted, pictures([(20, 20), (9, 9), (11, 11), (6, 14)], 1))
    assert table.attrs["small"]["ids"] == ["1-1", "1-3"]
    assert table.attrs["small"]["sentence"] in said
    assert "2 of 4 images have far fewer pixels than the normal images, 9 a side instead of 20 or more" in said[-1]
    assert table["note"].fillna("").tolist()[:3] == ["", "9 px a side, expected 20 or more", ""]
    assert table["note"][3] == "aspect ratio 2.33, expected 1 to 1.1; 9 px a side, expected 20 or more"
    assert table["p_value"].notna().all()


@pytest.mark.slow
def test_a_calibration_on_images_of_another_aspect_ratio_makes_it_expected() -> None:
    detector = Detector(**RESIZED).fit(pictures([(20, 20)] * 60, 0))
    detector.calibrate(pictures([(20, 40)] * 30, 2))
    assert "aspect" not in warned(detector, pictures([(20, 40)] * 3, 3))[1].attrs


def test_images_that_were_trained_on_are_said_to_be(fitted: Detector) -> None:
    images = pictures([(20, 20), (20, 22)] * 30, 0)
    said, table = warned(fitted, images)
    assert table.attrs["fitted"]["items"] == 60
    assert table.attrs["fitted"]["fitted"] >= 48
    assert any("of 60 images were trained on" in sentence for sentence in said)
    with pytest.warns(BatchWarning, match="were trained on"):
        fitted.predict(images)
    assert not any("trained on" in sentence for sentence in warned(fitted, pictures([(20, 20)] * 60, 5))[0])


@pytest.mark.slow
def test_who_asks_to_predict_what_is_fitted_to_is_not_told_so() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", BatchWarning)
        Detector(**RESIZED).fit_predict(pictures([(20, 20)] * 40, 0))


def joined(*sets: ImageSet, labels: np.ndarray | None = None) -> ImageSet:
    every = [one.read(i) for one in sets for i in range(len(one))]
    labels = np.full(len(every), np.nan) if labels is None else labels
    return ImageSet(ListPixels(every), np.concatenate([one.ids for one in sets]), labels, {})


def test_images_that_were_trained_on_do_not_count_for_a_change_of_the_batch(fitted: Detector) -> None:
    old, new = pictures([(20, 20), (20, 22)] * 30, 0), pictures([(20, 20)] * 40, 8)
    darker = ImageSet(ListPixels([new.read(i) // 2 for i in range(40)]), new.ids, new.labels, {})
    said, table = warned(fitted, joined(old, darker))
    assert len(said) == 2
    assert table.attrs["batch"]["items"] == 100 - table.attrs["fitted"]["fitted"]


def test_labelled_anomalies_do_not_hide_that_the_normal_ones_were_trained_on(fitted: Detector) -> None:
    normals, others = pictures([(20, 20), (20, 22)] * 30, 0), pictures([(20, 20)] * 90, 7)
    every = joined(normals, others, labels=np.repeat([0.0, 1.0], [60, 90]))
    assert any("of 60 images labelled normal were trained on" in sentence for sentence in warned(fitted, every)[0])


def test_the_command_line_says_both_and_notes_them_in_the_table(
    fitted: Detector, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = fitted.save(tmp_path / "model")
    (tmp_path / "new").mkdir()
    for i, width in enumerate((20, 20, 40)):
        Image.fromarray(np.full((20, width), 100 + i, np.uint8)).save(tmp_path / "new" / f"{i}.png")
    with pytest.raises(SystemExit) as left:
        main(["score", str(model), str(tmp_path / "new"), "--output", str(tmp_path / "table.csv")])
    assert not left.value.code
    err = capsys.readouterr().err
    assert err.count("another aspect ratio") == 1
    with (tmp_path / "table.csv").open() as file:
        notes = [row["note"] for row in csv.DictReader(file)]
    assert notes == ["", "", "aspect ratio 2, expected 1 to 1.1"]
