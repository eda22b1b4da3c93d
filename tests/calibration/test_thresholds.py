from __future__ import annotations

import itertools
import json
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load, save

from knowngood.calibration import Calibration, p_values, threshold
from knowngood.calibration.map_thresholds import RATES, MapCalibration
from knowngood.calibration.regions import find_regions
from knowngood.errors import ArtifactError, DataError, NotEnoughNormals, SettingsError

pixels = st.floats(-1e4, 1e4, width=32, allow_subnormal=False)
some_maps = st.lists(hnp.arrays(np.float32, (3, 5), elements=pixels), min_size=1, max_size=6)


def map_with(maximum: float) -> np.ndarray:
    """(2, 3), the maximum in one corner, twice."""
    return np.array([[maximum, maximum, -9.0], [-9.0, -8.0, maximum - 3]])


def saved(calibration: MapCalibration) -> tuple[dict[str, np.ndarray], dict]:
    return load(save(calibration.to_tensors())), json.loads(json.dumps(calibration.metadata()))


# Images -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [(1, 2, 3, 4, 5), (1, 1, 2, 2, 3), (1, 2, 3, 3, 3), (7, 7, 7, 7, 7)])
def test_over_all_orders_at_most_a_share_alpha_of_normal_images_has_a_region(values: tuple[int, ...]) -> None:
    """Four normals and one more normal image, exchangeable: counted over all 120 orders, never by drawing."""
    smallest: list[float] = []
    flagged = dict.fromkeys((0.1, 0.2, 0.3, 0.4, 0.55, 0.8, 0.99), 0)
    for *normals, item in itertools.permutations(values):
        calibration = MapCalibration.fit(map(map_with, normals), alpha=0.2)
        regions = find_regions(map_with(item), -100.0, maxima=calibration.maxima())
        smallest.append(min(r.p_value for r in regions if r.p_value is not None))
        for alpha in flagged:
            found = find_regions(map_with(item), calibration.threshold(alpha), maxima=calibration.maxima(alpha))
            assert all(r.p_value is not None and r.p_value <= alpha for r in found[:1])
            assert bool(found) == (smallest[-1] <= alpha)
            flagged[alpha] += bool(found)
    for alpha, count in flagged.items():
        assert Fraction(count, 120) <= alpha
    p = np.array(smallest)
    for j in range(1, 6):
        share = Fraction(int((p <= j / 5).sum()), 120)
        assert share == Fraction(j, 5) if len(set(values)) == 5 else share <= Fraction(j, 5)


@settings(deadline=None)
@given(some_maps, st.sampled_from([0.05, 0.2, 0.3, 0.5, 0.9]))
def test_the_threshold_is_the_conformal_one_of_the_maxima(maps: list[np.ndarray], alpha: float) -> None:
    calibration = MapCalibration.fit(maps, alpha=alpha)
    maxima = [float(one.max()) for one in maps]
    assert calibration.threshold() == calibration.threshold(stratum=0) == threshold(maxima, alpha)
    assert sorted(maxima) == calibration.maxima().tolist()


def test_strata_have_their_own_thresholds_and_small_ones_the_pool() -> None:
    maxima = [1, 2, 3, 4, 10, 20, 30, 40, 100]
    strata = [0, 0, 0, 0, 1, 1, 1, 1, 2]
    calibration = MapCalibration.fit(map(map_with, maxima), strata, ("a", "b", "c"), alpha=0.2)
    assert [calibration.threshold(stratum=s) for s in (0, 1, 2, -1)] == [4, 40, 40, 40]
    assert calibration.maxima(stratum=1).tolist() == [10, 20, 30, 40]
    assert calibration.maxima(stratum=2).tolist() == calibration.maxima().tolist() == maxima
    assert calibration.maxima(0.1, stratum=1).tolist() == maxima  # four are too few for .1
    by_hand = Calibration.fit(maxima, strata, ("a", "b", "c"), alpha=0.2)
    peaks, of = [5.0, 5.0, 35.0, 5.0], [0, 1, 2, -1]
    ours = [p_values(calibration.maxima(stratum=s), [v])[0] for v, s in zip(peaks, of, strict=True)]
    assert ours == by_hand.p_values(peaks, of).tolist()


def test_too_few_normals_find_nothing() -> None:
    calibration = MapCalibration.fit([map_with(1)], alpha=0.05)
    assert calibration.threshold() == math.inf
    assert find_regions(map_with(1e30), calibration.threshold()) == []


# Pixels -------------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(some_maps, st.sampled_from([0.01, 0.05, 0.1, 0.25, 0.5, 0.99]))
def test_pixel_threshold_is_the_quantile_up_to_a_bin(maps: list[np.ndarray], rate: float) -> None:
    values = np.sort(np.concatenate([one.ravel() for one in maps])).astype(np.float64)
    share_above = np.array([(values > v).mean() for v in values])
    exact = values[share_above <= rate].min()
    found = MapCalibration.fit(maps).pixel_threshold(rate)
    assert (values > found).mean() <= rate
    assert exact <= found <= exact + abs(exact) / 2048 + 1e-40
    assert found <= values[-1]


def test_whole_numbers_give_exact_pixel_rates() -> None:
    calibration = MapCalibration.fit(np.arange(1000).reshape(2, 20, 25))
    for rate in (0.001, 0.012, 0.1, 0.37, 0.5):
        assert (np.arange(1000) > calibration.pixel_threshold(rate)).sum() == round(rate * 1000)
    assert calibration.pixel_threshold(0.0129) == calibration.pixel_threshold(0.012)
    assert calibration.pixel_threshold(1e-9) == calibration.pixel_threshold(1e-6) == 999


def test_minus_zero_is_zero() -> None:
    calibration = MapCalibration.fit([[[-0.0, -0.0, 0.0, 1.0]]])
    found = [calibration.pixel_threshold(rate) for rate in (0.2, 0.25, 0.5, 0.99)]
    assert found == pytest.approx([1, 0, 0, 0], abs=1e-40)


def test_rates_fall_and_have_two_digits() -> None:
    assert (np.diff(RATES) < 0).all()
    assert RATES[-1] == 1e-6
    assert set(RATES[1:].tolist()) == {float(f"{m}e-{k}") for m in range(10, 100) for k in range(2, 8)}


def test_pixel_thresholds_by_stratum() -> None:
    maps = [v + np.arange(4).reshape(2, 2) for v in (0, 0, 0, 100, 100, 100, 500)]
    calibration = MapCalibration.fit(maps, [0, 0, 0, 1, 1, 1, 2], ("a", "b", "c"), alpha=0.25)
    for stratum, expected in {0: 1, 1: 101, 2: 100, -1: 100}.items():  # the third is too small: pooled
        assert calibration.pixel_threshold(0.5, stratum) == pytest.approx(expected, rel=1 / 2048)
    assert calibration.pixel_threshold(1e-7, 1) == 103


def test_maps_of_no_stratum_count_in_the_pool_alone() -> None:
    calibration = MapCalibration.fit([np.zeros((1, 1)), np.ones((1, 3))], [0, -1], alpha=0.5)
    assert calibration.pixel_threshold(0.74) == 1
    assert calibration.pixel_threshold(0.74, stratum=0) == 0


def test_nan_pixels_do_not_count() -> None:
    rng = np.random.default_rng(0)
    maps = [rng.normal(size=(4, 5)) for _ in range(20)]
    framed = [np.pad(one, 2, constant_values=np.nan) for one in maps]
    a, b = MapCalibration.fit(maps), MapCalibration.fit(framed)
    assert np.array_equal(a.pixels, b.pixels)
    assert a.threshold() == b.threshold()


def test_the_order_and_sizes_of_maps_do_not_matter_to_pixels() -> None:
    values = np.random.default_rng(1).normal(size=60)
    a = MapCalibration.fit(one for one in values.reshape(5, 3, 4))
    b = MapCalibration.fit([values[40:].reshape(4, 5), values[:40].reshape(40, 1)])
    assert np.array_equal(a.pixels, b.pixels)


# Saving and errors --------------------------------------------------------------------------------------------------


def test_state_survives_saving() -> None:
    rng = np.random.default_rng(2)
    calibration = MapCalibration.fit(rng.normal(size=(12, 3, 3)), [0] * 8 + [2] * 4, ("a", "b", "c"), alpha=0.15)
    again = MapCalibration.from_tensors(*saved(calibration))
    assert again.calibration.alpha == 0.15
    assert np.array_equal(again.pixels, calibration.pixels, equal_nan=True)
    for s in (-1, 0, 1, 2):
        assert again.threshold(stratum=s) == calibration.threshold(stratum=s)
        assert again.pixel_threshold(0.01, s) == calibration.pixel_threshold(0.01, s)


def test_the_state_of_pixels_does_not_grow_with_the_maps() -> None:
    rng = np.random.default_rng(3)
    small, large = (MapCalibration.fit(rng.normal(size=(n, 8, 8))).to_tensors() for n in (2, 200))
    assert small["pixels"].shape == large["pixels"].shape == (2, 541)


def test_damaged_states_are_refused() -> None:
    tensors, metadata = saved(MapCalibration.fit([map_with(1)]))
    with pytest.raises(ArtifactError, match="no 'pixels'"):
        MapCalibration.from_tensors({k: v for k, v in tensors.items() if k != "pixels"}, metadata)
    with pytest.raises(ArtifactError, match=r"shape \(1, 541\), expected \(2, 541\)"):
        MapCalibration.from_tensors({**tensors, "pixels": tensors["pixels"][:1]}, metadata)


def test_what_cannot_calibrate_is_refused() -> None:
    with pytest.raises(NotEnoughNormals):
        MapCalibration.fit([])
    with pytest.raises(DataError, match=r"map 1 .* an infinite value"):
        MapCalibration.fit([map_with(1), map_with(np.inf)])
    with pytest.raises(DataError, match=r"map 0 .* nothing but NaN"):
        MapCalibration.fit([map_with(np.nan) * np.nan])
    with pytest.raises(DataError, match=r"expected shape \(H, W\)"):
        MapCalibration.fit([np.zeros((1, 2, 2))])
    with pytest.raises(DataError, match="got 1 and more maps"):
        MapCalibration.fit([map_with(1)] * 2, [0])
    with pytest.raises(DataError, match="expected shape"):
        MapCalibration.fit([map_with(1)], [0, 0])
    for rate in (0, 1, -0.1, math.nan):
        with pytest.raises(SettingsError, match="pixel rate"):
            MapCalibration.fit([map_with(1)]).pixel_threshold(rate)
