from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knowngood.data.tiling.plan import Tile, TileMerger, merge, plan_tiles, reader_of, score_tiles
from knowngood.errors import DataError, SettingsError


@st.composite
def plans(draw: st.DrawFn) -> tuple[int, int, tuple[int, int], tuple[int, int]]:
    tile = draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    overlap = draw(st.tuples(st.integers(0, tile[0] - 1), st.integers(0, tile[1] - 1)))
    return draw(st.integers(1, 40)), draw(st.integers(1, 40)), tile, overlap


def cut(whole: np.ndarray, tiles: list[Tile]) -> list[np.ndarray]:
    return [whole[one.slices] for one in tiles]


# The plan -----------------------------------------------------------------------------------------------------------


def test_every_short_axis_is_covered_evenly_by_the_fewest_tiles() -> None:
    for length, tile in itertools.product(range(1, 25), range(1, 10)):
        for overlap in range(tile):
            starts = [t.top for t in plan_tiles(length, 1, (tile, 1), (overlap, 0))]
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
    height, width, tile, overlap = plan
    tiles = plan_tiles(height, width, tile, overlap)
    seen = np.zeros((height, width), dtype=int)
    for one in tiles:
        assert (one.height, one.width) == (min(tile[0], height), min(tile[1], width))
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
    for tile in (0, (4, 4, 4), 2.5, "ab"):
        with pytest.raises(SettingsError, match="tile = "):
            plan_tiles(9, 9, tile, 0)  # pyright: ignore[reportArgumentType]
    with pytest.raises(SettingsError, match="overlap = -1"):
        plan_tiles(9, 9, 4, -1)
    with pytest.raises(DataError, match="0 × 9"):
        plan_tiles(0, 9, 4)


# Merging ------------------------------------------------------------------------------------------------------------


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
    merged = merge([np.zeros((1, 8)), np.ones((1, 8))], 1, 12, (1, 8), (0, 4))
    rise = np.sin(np.pi / 2 * (np.arange(4) + 0.5) / 4) ** 2
    assert merged[0] == pytest.approx([*np.zeros(4), *rise, *np.ones(4)], abs=1e-7)


def test_weights_are_separable() -> None:
    plan = (12, 12, 8, 4)
    alone = merge([np.full((8, 8), float(i == 3)) for i in range(4)], *plan)
    along = merge([np.zeros((1, 8)), np.ones((1, 8))], 1, 12, (1, 8), (0, 4))[0]
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
    with pytest.raises(DataError, match="more maps than the 2 tiles"):
        merge([np.zeros((4, 4))] * 3, 4, 6, 4)


def test_memory_is_the_map_and_one_tile() -> None:
    height, width = 1500, 2000
    tracemalloc.start()
    maps = (np.ones((256, 256)) for _ in plan_tiles(height, width, 256, 32))
    merged = merge(maps, height, width, 256, 32)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert merged.nbytes == 4 * height * width
    assert peak < merged.nbytes + 8 * 256 * 256 * 8


# Scoring ------------------------------------------------------------------------------------------------------------


def brightness(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    maps = pixels.mean(axis=-1)
    return maps, np.array([np.nan if np.isnan(one).all() else np.nanmax(one) for one in maps])


@pytest.mark.parametrize("batch", [1, 4, 100])
def test_scores_of_tiles_are_those_of_the_whole(batch: int) -> None:
    image = np.random.default_rng(0).uniform(size=(23, 31, 3))
    tiled = score_tiles(reader_of(image), (23, 31), 10, 3, brightness, batch=batch)
    assert np.abs(tiled.map - image.mean(axis=-1)).max() <= 1e-6
    tiles = plan_tiles(23, 31, 10, 3)
    assert tiled.scores.tolist() == [image.mean(axis=-1)[t.slices].max() for t in tiles]
    assert tiled.score == image.mean(axis=-1).max()
    map_, scores = tiled
    assert map_ is tiled.map
    assert scores is tiled.scores


def test_at_most_a_batch_of_tiles_is_read_at_a_time() -> None:
    asked: list[int] = []
    image, read = np.zeros((8, 40, 1)), []

    def counting(top: int, left: int, height: int, width: int) -> np.ndarray:
        read.append((top, left))
        return image[top : top + height, left : left + width]

    def score(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        asked.append(len(read))
        return brightness(pixels)

    score_tiles(counting, (8, 40), 8, 0, score, batch=2)
    assert asked == [2, 4, 5]


def test_ignored_tiles_do_not_count() -> None:
    image = np.arange(16.0).reshape(4, 4, 1)
    image[:, 2:] = np.nan
    assert score_tiles(reader_of(image), (4, 4), 2, 0, brightness).score == 13
    image[:] = np.nan
    with pytest.raises(DataError, match="every tile of the image is ignored"):
        _ = score_tiles(reader_of(image), (4, 4), 2, 0, brightness).score


def test_readers_and_scores_that_do_not_fit_are_refused() -> None:
    image = np.zeros((4, 4, 1))
    with pytest.raises(DataError, match=r"expected 4 × 4 pixels, got shape \(4, 2, 1\)"):
        score_tiles(reader_of(image), (4, 6), 4, 0, brightness)
    with pytest.raises(DataError, match="maps and scores of 1 tiles"):
        score_tiles(reader_of(image), (4, 4), 4, 0, lambda pixels: (pixels[..., 0], 1.0))
    with pytest.raises(SettingsError, match="batch = 0"):
        score_tiles(reader_of(image), (4, 4), 4, 0, brightness, batch=0)
