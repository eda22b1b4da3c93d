"""Items that are learned from and never calibrate: what was chosen by its score."""

from __future__ import annotations

import numpy as np
import pytest

from knowngood import Detector
from knowngood.calibration.splits import folds
from knowngood.data import ImageSet, TableSet
from knowngood.data.joined import joined

ALPHA = 0.1


def rows(n: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1, (n, 4))


def bank(method: str, **given: object) -> Detector:
    options = {"model": {"name": "memory_bank", "coreset": None}, "alpha": ALPHA, "calibration": {"method": method}}
    return Detector(**options).fit(rows(60, 0), **given)  # type: ignore[arg-type]


def test_they_are_fitted_to_and_the_same_items_calibrate_as_without_them() -> None:
    plain, found = bank("split"), bank("split", fit_only=rows(10, 1, 3))
    assert len(found.model_.bank) == len(plain.model_.bank) + 10
    np.testing.assert_array_equal(found.split_["calibrate"], plain.split_["calibrate"])
    np.testing.assert_array_equal(found.split_["fit"][-10:], np.arange(60, 70))
    assert len(found.pipeline_.calibration) == len(plain.pipeline_.calibration)  # type: ignore[arg-type]
    assert found.out_of_fold_ == {}


def test_cross_conformal_they_are_in_folds_of_their_own_and_their_p_values_are_held_out() -> None:
    chosen = rows(10, 1, 3)
    found = bank("cross", fit_only=chosen)
    assert len(found.pipeline_.calibration) == 60  # type: ignore[arg-type]
    every = np.concatenate([rows(60, 0), chosen])
    part = next(some for some in folds(70, np.arange(70) >= 60, 5, 0) if 60 in some)
    assert (part >= 60).sum() == 2
    rest = np.setdiff1d(np.arange(70), part)
    others = Detector(**found.get_params()).fit(every[rest])
    raw = -others.score_samples(every[[60]])[0] + others.pipeline_.calibration.offsets[0]  # type: ignore[union-attr]
    p = found.pipeline_.calibration.p_values([raw], [0])[0]  # type: ignore[union-attr]
    assert len(found.out_of_fold_) == 10
    assert found.out_of_fold_["0"] == pytest.approx(p)


def test_what_is_fitted_to_already_is_not_taken_twice() -> None:
    old = rows(60, 0)
    found = bank("split", fit_only=old[:5])
    assert len(found.model_.bank) == len(bank("split").model_.bank)


@pytest.mark.slow
def test_calibration_on_what_was_flagged_would_raise_thresholds_and_fit_only_does_not() -> None:
    """False alarms, added as normal items, are most of the upper tail: then the rate of alarms falls far below α."""
    detector = bank("cross")
    stream = rows(3000, 5)
    flagged = stream[detector.predict(stream) < 0][:40]
    new = rows(2000, 6)
    apart = bank("cross", fit_only=flagged).predict(new) < 0
    options = detector.get_params()
    mixed = Detector(**options).fit(np.concatenate([rows(60, 0), flagged])).predict(new) < 0
    assert mixed.mean() < 0.6 * apart.mean()
    assert apart.mean() == pytest.approx(ALPHA, abs=0.05)


def test_no_id_of_joined_images_comes_twice() -> None:
    first, second = (ImageSet.from_arrays(np.zeros((3, 8, 8), np.uint8)) for _ in range(2))
    first = first.replace(ids=np.array(["a", "new/a", "b"]))
    second = second.replace(ids=np.array(["a", "new/b", "b"]))
    assert joined(first, second).ids.tolist() == ["a", "new/a", "b", "new/new/a", "new/b", "new/new/b"]


def test_joined_images_keep_their_masks() -> None:
    images = [ImageSet.from_arrays(np.zeros((n, 8, 8), np.uint8)) for n in (2, 3)]
    mask = np.eye(8, dtype=bool)
    both = joined(images[0], images[1].replace(masks=(None, lambda: mask, None)))
    assert [both.mask(i) is None for i in range(5)] == [True, True, True, False, True]
    assert both.mask(3) is mask
    assert joined(*images).masks is None
    assert len(joined(TableSet.from_array(rows(2, 0)), TableSet.from_array(rows(3, 1)))) == 5
