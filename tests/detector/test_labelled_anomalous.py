"""What a source labels anomalous never calibrates: it is left out, counted in a warning."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from knowngood import Detector
from knowngood.data import ImageSet
from knowngood.data.image_folder import write_folder
from knowngood.detector.guarantee import normal_ones
from knowngood.errors import DataError, NotEnoughNormals

RNG = np.random.default_rng(0)
OLD, NEW = RNG.integers(0, 99, (40, 8, 8), np.uint8), RNG.integers(0, 99, (20, 8, 8), np.uint8)
MARKED = ImageSet.from_arrays(np.concatenate([NEW, 255 - NEW[:8]]), labels=np.repeat([0, 1], [20, 8]))
LEFT_OUT = "8 of 28 images are labelled anomalous; they are left out"


def fitted(**more: object) -> Detector:
    return Detector("hog", "memory_bank", alpha=0.1, calibration={"method": "split"}).fit(OLD, **more)  # type: ignore[arg-type]


def scores(detector: Detector) -> list[float]:
    assert detector.pipeline_.calibration is not None
    return sorted(detector.pipeline_.calibration.scores.tolist())


def test_a_folder_calibrates_by_its_normal_images_alone(tmp_path: Path) -> None:
    kinds = np.repeat(["good", "dent"], [20, 8])
    ids = np.array([f"test/{kind}/{i:02}.png" for i, kind in enumerate(kinds)])
    write_folder(MARKED.replace(ids=ids), tmp_path / "new")
    with pytest.warns(UserWarning, match=LEFT_OUT):
        found = fitted().calibrate(str(tmp_path / "new"))
    assert scores(found) == scores(fitted().calibrate(NEW))
    assert found.about_["history"][-1]["items"] == 20


def test_so_do_images_given_with_the_fit_or_for_a_group_of_their_own() -> None:
    with pytest.warns(UserWarning, match=LEFT_OUT):
        assert scores(fitted(calibration_set=MARKED)) == scores(fitted(calibration_set=NEW))
    with pytest.warns(UserWarning, match=LEFT_OUT):
        grouped = fitted().calibrate(MARKED, as_group={"camera": "B"})
    assert len(grouped.pipeline_.added[0].calibration) == 20


def test_so_does_an_update() -> None:
    more = RNG.integers(0, 99, (10, 8, 8), np.uint8)
    with pytest.warns(UserWarning, match=LEFT_OUT):
        assert len(fitted().update(more, calibration_set=MARKED).pipeline_.calibration or ()) == 20
    with pytest.warns(UserWarning, match=f"{LEFT_OUT} of the update"):
        assert fitted().update(MARKED).about_["history"][-1]["items"] == 10  # the other half calibrates


def test_too_few_normal_images_among_many_are_refused() -> None:
    with pytest.warns(UserWarning, match="8 of 16"), pytest.raises(NotEnoughNormals, match="8 normal items"):
        fitted().calibrate(MARKED[12:])
    with pytest.raises(DataError, match="8 of 8 images are labelled anomalous, so none is left to calibrate on"):
        fitted().calibrate(MARKED[20:])


def test_images_without_labels_are_all_normal_and_nothing_is_said() -> None:
    images = ImageSet.from_arrays(NEW)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(normal_ones(images)) == 20
