from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knowngood.data.tiling.plan import Tile, TileMerger, plan_tiles
from knowngood.errors import DataError, SettingsError


@st.composite
def plans(draw: st.DrawFn) -> tuple[int, int, int, int]:
    side = draw(st.integers(1, 12))
    return draw(st.integers(1, 40)), draw(st.integers(1, 40)), side, draw(st.integers(0, side - 1))


def cut(whole: np.ndarray, tiles: list[Tile]) -> list[np.ndarray]:
    return [whole[one.slices] for one in tiles]


def merge(maps: Iterable[np.ndarray], *plan: int) -> np.ndarray:
    merger = TileMerger(*plan)
    for tile, values in zip(merger.tiles, maps, strict=True):
        merger.add(tile, values)
    return merger.result()


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


# Merging ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@settings(deadline=None)
@given(plans(), st.integers(0, 2**32 - 1))
def test_tiles_cut_from_a_map_give_it_again(plan: tuple, seed: int) -> None:
    height, width, *_ = plan
    rng = np.random.default_rng(seed)
    whole = rng.uniform(-1, 1, (height, width))
    tiles = plan_tiles(*plan)
    merged = merge(cut(whole, tiles), *plan)
    assert merged.dtype == np.float32
    assert np.abs(merged - whole).max() <= 1e-6
    assert np.abs(merge(cut(np.full((height, width), 1e3), tiles), *plan) - 1e3).max() <= 1e-3
    merger = TileMerger(*plan)
    for i in rng.permutation(len(tiles)):
        merger.add(tiles[i], whole[tiles[i].slices])
    assert np.abs(merger.result() - whole).max() <= 1e-6


@pytest.mark.slow
@settings(deadline=None)
@given(plans(), st.integers(0, 2**32 - 1))
def test_a_merged_pixel_lies_between_the_values_of_its_tiles(plan: tuple, seed: int) -> None:
    values = np.random.default_rng(seed).uniform(-1, 1, len(plan_tiles(*plan)))
    low, high = np.full(plan[:2], np.inf), np.full(plan[:2], -np.inf)
    tiles = plan_tiles(*plan)
    for one, value in zip(tiles, values, strict=True):
        low[one.slices], high[one.slices] = np.minimum(low[one.slices], value), np.maximum(high[one.slices], value)
    merged = merge([np.full((t.height, t.width), v) for t, v in zip(tiles, values, strict=True)], *plan)
    assert (merged >= low - 1e-6).all()
    assert (merged <= high + 1e-6).all()


def test_two_tiles_blend_as_sine_squared() -> None:
    merged = merge([np.zeros((1, 8)), np.ones((1, 8))], 1, 12, 8, 4)
    rise = np.sin(np.pi / 2 * (np.arange(4) + 0.5) / 4) ** 2
    assert merged[0] == pytest.approx([*np.zeros(4), *rise, *np.ones(4)], abs=1e-7)


def test_weights_are_separable() -> None:
    plan = (12, 12, 8, 4)
    alone = merge([np.full((8, 8), float(i == 3)) for i in range(4)], *plan)
    along = merge([np.zeros((1, 8)), np.ones((1, 8))], 1, 12, 8, 4)[0]
    assert alone == pytest.approx(np.outer(along, along), abs=1e-7)


def test_ignored_pixels_stay_ignored() -> None:
    whole = np.ones((9, 9))
    whole[3:6, 4] = np.nan
    merged = merge(cut(whole, plan_tiles(9, 9, 5, 2)), 9, 9, 5, 2)
    assert np.array_equal(np.isnan(merged), np.isnan(whole))
    assert merged[~np.isnan(merged)] == pytest.approx(1)


def test_tiles_are_added_once_each() -> None:
    merger = TileMerger(4, 6, 4)
    first, second = merger.tiles
    merger.add(first, np.zeros((4, 4)))
    with pytest.raises(DataError, match="was added before"):
        merger.add(first, np.zeros((4, 4)))
    with pytest.raises(DataError, match="is not in the plan"):
        merger.add(Tile(0, 1, 4, 4), np.zeros((4, 4)))
    with pytest.raises(DataError, match=r"expected shape \(4, 4\), got \(4, 3\)"):
        merger.add(second, np.zeros((4, 3)))
    with pytest.raises(DataError, match="1 of 2 tiles are missing"):
        merger.result()
    merger.add(second, np.zeros((4, 4)))
    assert merger.result().shape == (4, 6)


def test_memory_is_the_map_and_one_tile() -> None:
    height, width = 1500, 2000
    tracemalloc.start()
    maps = (np.ones((256, 256)) for _ in plan_tiles(height, width, 256, 32))
    merged = merge(maps, height, width, 256, 32)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert merged.nbytes == 4 * height * width
    assert peak < merged.nbytes + 8 * 256 * 256 * 8
