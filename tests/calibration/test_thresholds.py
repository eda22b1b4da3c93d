from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from knowngood.calibration import Calibration, find_regions, largest_value, p_values, threshold
from knowngood.errors import DataError, NotEnoughNormals

pixels = st.floats(-1e4, 1e4, width=32, allow_subnormal=False)
some_maps = st.lists(hnp.arrays(np.float32, (3, 5), elements=pixels), min_size=1, max_size=6)


def map_with(maximum: float) -> np.ndarray:
    """(2, 3), the maximum in one corner, twice."""
    return np.array([[maximum, maximum, -9.0], [-9.0, -8.0, maximum - 3]])


def calibrated(maps: Iterable[np.ndarray], *strata: Any, alpha: float = 0.05) -> Calibration:
    return Calibration.fit([largest_value(one) for one in maps], *strata, alpha=alpha)


# Images -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("values", [(1, 2, 3, 4, 5), (1, 1, 2, 2, 3), (1, 2, 3, 3, 3), (7, 7, 7, 7, 7)])
def test_over_all_orders_at_most_a_share_alpha_of_normal_images_has_a_region(values: tuple[int, ...]) -> None:
    """Four normals and one more normal image, exchangeable: counted over all 120 orders, never by drawing."""
    smallest: list[float] = []
    flagged = dict.fromkeys((0.1, 0.2, 0.3, 0.4, 0.55, 0.8, 0.99), 0)
    for *normals, item in itertools.permutations(values):
        calibration = calibrated(map(map_with, normals), alpha=0.2)
        regions = find_regions(map_with(item), -100.0, maxima=calibration.reference())
        smallest.append(min(r.p_value for r in regions if r.p_value is not None))
        for alpha in flagged:
            found = find_regions(map_with(item), calibration.threshold(alpha), maxima=calibration.reference(alpha))
            assert all(r.p_value is not None and r.p_value <= alpha for r in found[:1])
            assert bool(found) == (smallest[-1] <= alpha)
            flagged[alpha] += bool(found)
    for alpha, count in flagged.items():
        assert Fraction(count, 120) <= alpha
    p = np.array(smallest)
    for j in range(1, 6):
        share = Fraction(int((p <= j / 5).sum()), 120)
        assert share == Fraction(j, 5) if len(set(values)) == 5 else share <= Fraction(j, 5)


@pytest.mark.slow
@settings(deadline=None)
@given(some_maps, st.sampled_from([0.05, 0.2, 0.3, 0.5, 0.9]))
def test_the_threshold_is_the_conformal_one_of_the_maxima(maps: list[np.ndarray], alpha: float) -> None:
    calibration = calibrated(maps, alpha=alpha)
    maxima = [float(one.max()) for one in maps]
    assert calibration.threshold() == calibration.threshold(stratum=0) == threshold(maxima, alpha)
    assert sorted(maxima) == calibration.reference().tolist()


def test_strata_have_their_own_thresholds_and_small_ones_the_pool() -> None:
    maxima = [1, 2, 3, 4, 10, 20, 30, 40, 100]
    strata = [0, 0, 0, 0, 1, 1, 1, 1, 2]
    calibration = calibrated(map(map_with, maxima), strata, ("a", "b", "c"), alpha=0.2)
    assert [calibration.threshold(stratum=s) for s in (0, 1, 2, -1)] == pytest.approx([4, 40, 40, 40], rel=2e-5)
    assert calibration.reference(stratum=1).tolist() == [10, 20, 30, 40]
    assert calibration.reference(stratum=2).tolist() == calibration.reference().tolist() == maxima
    assert calibration.reference(0.1, stratum=1).tolist() == maxima  # four are too few for .1
    by_hand = Calibration.fit(maxima, strata, ("a", "b", "c"), alpha=0.2)
    peaks, of = [5.0, 5.0, 35.0, 5.0], [0, 1, 2, -1]
    ours = [p_values(calibration.reference(stratum=s), [v])[0] for v, s in zip(peaks, of, strict=True)]
    assert ours == by_hand.p_values(peaks, of).tolist()


def test_too_few_normals_find_nothing() -> None:
    calibration = calibrated([map_with(1)], alpha=0.05)
    assert calibration.threshold() == math.inf
    assert find_regions(map_with(1e30), calibration.threshold()) == []


# What counts --------------------------------------------------------------------------------------------------------


def test_nan_pixels_do_not_count() -> None:
    one = np.random.default_rng(0).normal(size=(4, 5))
    assert largest_value(np.pad(one, 2, constant_values=np.nan)) == largest_value(one) == np.float32(one.max())


def test_what_cannot_calibrate_is_refused() -> None:
    with pytest.raises(NotEnoughNormals):
        calibrated([])
    with pytest.raises(DataError, match="an infinite value"):
        largest_value(map_with(np.inf))
    with pytest.raises(DataError, match="nothing but NaN"):
        largest_value(map_with(np.nan) * np.nan)
    with pytest.raises(DataError, match=r"expected shape \(H, W\)"):
        largest_value(np.zeros((1, 2, 2)))
