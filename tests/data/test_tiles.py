from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knowngood.data.tiling.plan import Tile, cores, plan_tiles
from knowngood.errors import SettingsError


@st.composite
def plans(draw: st.DrawFn) -> tuple[int, int, int, int]:
    side = draw(st.integers(1, 12))
    return draw(st.integers(1, 40)), draw(st.integers(1, 40)), side, draw(st.integers(0, side - 1))


# The plan -----------------------------------------------------------------------------------------------------------


def test_every_short_axis_is_covered_evenly_by_the_fewest_tiles() -> None:
    for length, tile in itertools.product(range(1, 25), range(1, 10)):
        for overlap in range(tile):
            starts = [t.top for t in plan_tiles(length, 1, tile, overlap)]
            size = min(tile, length)
            assert starts[0] == 0
            assert starts[-1] + size == length
            steps = np.diff(starts)
            assert all(steps > 0)
            assert all(size - steps >= overlap)
            assert len(steps) == 0 or steps.max() - steps.min() <= 1
            n = len(starts)  # with one tile fewer, the end is out of reach
            assert n == 1 or (n - 1) * tile - (n - 2) * overlap < length


@settings(deadline=None)
@given(plans())
def test_tiles_cover_the_image_in_reading_order(plan: tuple) -> None:
    height, width, side, overlap = plan
    tiles = plan_tiles(height, width, side, overlap)
    seen = np.zeros((height, width), dtype=int)
    for one in tiles:
        assert (one.height, one.width) == (min(side, height), min(side, width))
        assert one.top >= 0
        assert one.left >= 0
        assert seen[one.slices].shape == (one.height, one.width)  # nothing hangs over
        seen[one.slices] += 1
    assert seen.min() >= 1
    assert [(t.top, t.left) for t in tiles] == sorted({(t.top, t.left) for t in tiles})


def test_an_image_smaller_than_the_tile_is_one_tile() -> None:
    assert plan_tiles(5, 7, 16, 4) == [Tile(0, 0, 5, 7)]
    assert plan_tiles(5, 20, 16, 4) == [Tile(0, 0, 5, 16), Tile(0, 4, 5, 16)]


def test_settings_that_make_no_plan_are_refused() -> None:
    with pytest.raises(SettingsError, match="overlap = 4 of tiles of 4 pixels"):
        plan_tiles(9, 9, 4, 4)
    with pytest.raises(SettingsError, match="overlap = -1"):
        plan_tiles(9, 9, 4, -1)


# Cores --------------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(plans())
def test_cores_partition_the_image_and_lie_within_their_tiles(plan: tuple) -> None:
    tiles = plan_tiles(*plan)
    owner = np.zeros(plan[:2], dtype=int)
    for tile, core in zip(tiles, cores(tiles), strict=True):
        owner[core.slices] += 1
        inside = np.zeros(plan[:2], dtype=bool)
        inside[tile.slices] = True
        assert inside[core.slices].all()
    assert (owner == 1).all()


def test_a_pixel_of_an_overlap_belongs_to_the_tile_whose_end_is_farther() -> None:
    assert cores(plan_tiles(4, 12, 8, 4)) == [Tile(0, 0, 4, 6), Tile(0, 6, 4, 6)]
