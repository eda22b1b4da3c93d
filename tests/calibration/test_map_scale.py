"""Where the colour of an anomaly map begins: at its threshold, so that normal images have none."""

from __future__ import annotations

import numpy as np
import pytest

from knowngood.calibration import Calibration
from knowngood.calibration.map_scale import MapScale, legend, own_scale, scale_of


def test_colour_begins_at_the_threshold_and_is_full_at_twice_it() -> None:
    maxima = np.arange(1.0, 100.0)  # α = .05: the fifth largest of 99
    scale = scale_of(Calibration.fit(maxima, alpha=0.05))
    assert scale[:2] == pytest.approx((95.0, 190.0), rel=1e-4)
    assert scale[2:] == ("threshold", 0.05, 99)
    shares = MapScale(95, 190).share(np.array([[0.0, 95.0, 142.5, 190.0, 1e9, np.nan]]))
    np.testing.assert_allclose(shares, [[0, 0, 0.5, 1, 1, 0]])


def test_at_most_a_share_alpha_of_normal_maps_has_colour() -> None:
    rng = np.random.default_rng(0)
    scale = scale_of(Calibration.fit(rng.gumbel(size=2000), alpha=0.1))
    assert (scale.share(rng.gumbel(size=(4000, 1))) > 0).mean() == pytest.approx(0.1, abs=0.02)


def test_each_mondrian_group_has_its_own_threshold_and_the_legend_names_both() -> None:
    maxima, strata = np.r_[np.arange(1.0, 20.0), 10 * np.arange(1.0, 20.0)], np.repeat([0, 1], 19)
    known = Calibration.fit(maxima, strata, ("camera=A", "camera=B"), alpha=0.05)
    scales = [scale_of(known, stratum=stratum) for stratum in (0, 1)]
    assert [one.begins for one in scales] == pytest.approx([19.0, 190.0], rel=1e-4)
    assert "19 to 190 by condition, which at most 5 % of normal images exceed" in legend(scales)


def test_too_few_normals_for_a_threshold_give_their_largest_value() -> None:
    scale = scale_of(Calibration.fit([3.0, 5.0, 4.0], alpha=0.05))
    assert (scale.begins, scale.by, scale.n) == (5.0, "normals", 3)
    assert "the largest value in maps of normal images (too few for a threshold: 3)" in legend([scale, None])


@pytest.mark.parametrize(("largest", "full"), [(-4.0, 0.0), (-0.5, 0.5), (0.0, 1.0)])
def test_maps_of_nats_may_be_negative(largest: float, full: float) -> None:
    scale = scale_of(Calibration.fit(np.full(19, largest), alpha=0.05))
    assert (scale.begins, scale.full) == pytest.approx((largest, full), rel=1e-4, abs=1e-4)


def test_without_a_calibration_a_map_has_a_scale_of_its_own_and_says_so() -> None:
    scale = own_scale(np.array([[0.0, 1.0, 2.0, 9.0, 3.0]]))
    assert scale[:3] == (2.0, 9.0, "map")
    assert "maps of this model have no threshold" in legend([scale])
    assert own_scale(np.full((2, 2), np.nan))[:2] == own_scale(np.zeros((2, 2)))[:2] == (0.0, 1.0)
    assert legend([]) == ""
