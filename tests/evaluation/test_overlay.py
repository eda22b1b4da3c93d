"""Maps over images: nothing up to the threshold, colour and an outline above it."""

from __future__ import annotations

import numpy as np
import pytest

from knowngood.calibration.map_scale import MapScale
from knowngood.evaluation.figures.overlay import colour_bar, overlay
from knowngood.evaluation.figures.pixels import reduced_map

SCALE = MapScale(1.0, 2.0)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_normal_image_stays_as_it_is(channels: int) -> None:
    image = np.random.default_rng(0).integers(0, 255, (20, 30, channels)).astype(np.uint8)
    drawn = overlay(image, np.linspace(-5, 1, 600).reshape(20, 30), SCALE)
    np.testing.assert_array_equal(drawn, np.broadcast_to(image, (20, 30, 3)))


def test_only_what_is_above_the_threshold_changes_and_it_has_an_outline() -> None:
    image, values = np.full((40, 60, 1), 100, np.uint8), np.zeros((40, 60))
    values[10:20, 30:45] = 1.5
    values[0, 0] = np.nan
    drawn = overlay(image, values, SCALE).astype(int)
    changed = (drawn != 100).any(axis=2)
    assert changed[9:21, 29:46].all()
    assert changed.sum() == 12 * 17
    assert (drawn[9, 29:46] == 255).all()  # around
    assert drawn[10, 30].tolist() == [122, 0, 25]  # the outline
    red, green, blue = drawn[15, 38]
    assert red > green > blue


def test_a_reduced_map_keeps_its_peak_and_ignored_regions() -> None:
    values = np.zeros((300, 200))
    values[177, 33], values[:150] = 7.0, np.nan
    small = reduced_map(values, 30)
    assert small.shape == (30, 20)
    assert np.nanmax(small) == 7.0
    assert np.isnan(small[:15]).all()
    assert reduced_map(small, 30) is small


def test_the_bar_says_what_colours_mean() -> None:
    assert "full from 2" in colour_bar("it is full from 2").axes[0].get_xlabel()
