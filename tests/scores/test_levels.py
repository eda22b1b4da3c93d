"""Levels against their definition, scores gathered place by place; and leaving an image out against fitting without."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from knowngood.models.patch_gaussian import FEWEST
from knowngood.scores.levels import ENOUGH, SMALLEST, Levels

SIZES = [20, 30, FEWEST - 1]  # images of cells; the last has the levels of all


def some_maps(n: int, height: int = 9, width: int = 10, seed: int = 0) -> Tensor:
    """(n, h, w) float64, as skewed as squared distances are, and wider to the right."""
    draw = torch.Generator().manual_seed(seed)
    wide = torch.linspace(1, 30, width, dtype=torch.float64)
    return wide * torch.randn(n, height, width, 4, generator=draw, dtype=torch.float64).square().mean(3)


def one_cell(maps: Tensor, ignored: Tensor | None = None) -> Levels:
    hidden = torch.zeros(1, *maps.shape[1:], dtype=torch.bool) if ignored is None else ignored[None]
    return Levels.fit(maps, torch.zeros(len(maps), dtype=torch.int64), hidden)


def by_hand(maps: Tensor, ignored: Tensor, reach: int) -> tuple[Tensor, Tensor]:
    """Mean and deviation (h, w) of all scores within `reach` of each place that are not `ignored` (N, h, w)."""
    mean, spread = torch.zeros(maps.shape[1:]).double(), torch.ones(maps.shape[1:]).double()
    for i in range(maps.shape[1]):
        for j in range(maps.shape[2]):
            at = slice(max(0, i - reach), i + reach + 1), slice(max(0, j - reach), j + reach + 1)
            told = maps[:, *at][~ignored[:, *at]]
            if len(told):
                mean[i, j], spread[i, j] = told.mean(), told.std(correction=0)
    return mean, spread


def corner(height: int, width: int) -> Tensor:
    """(h, w) all of the left upper part ignored, so that around its corner nothing counts; and a place elsewhere."""
    ignored = torch.zeros(height, width, dtype=torch.bool)
    ignored[:6, :5] = True
    ignored[7, 8] = True
    return ignored


# What they are --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "reach"), [(ENOUGH, 0), (ENOUGH - 1, 1), (12, 1), (11, 2), (4, 2), (3, 3), (2, 4), (1, 5)]
)
@pytest.mark.parametrize("hidden", [False, True])
def test_levels_are_moments_of_the_smallest_squares_with_a_hundred_scores(n: int, reach: int, hidden: bool) -> None:
    """n · (2r + 1)² ≥ 100 with the smallest r; squares are cut at the border, and ignored places left out."""
    maps, ignored = some_maps(n, 11, 13), torch.zeros(11, 13, dtype=torch.bool)
    if hidden:
        ignored = corner(11, 13)
    found = one_cell(maps.masked_fill(ignored, torch.nan), ignored)
    mean, spread = by_hand(maps, ignored.expand(n, -1, -1), reach)
    torch.testing.assert_close(found.mean[0], mean)
    torch.testing.assert_close(found.spread[0], spread.clamp_min(SMALLEST))


def test_squares_grow_no_larger_than_the_map() -> None:
    maps = some_maps(2, 3, 5)
    found = one_cell(maps)
    torch.testing.assert_close(found.mean[0], by_hand(maps, torch.zeros(2, 3, 5, dtype=torch.bool), 1)[0])


def test_where_nothing_counts_levels_change_nothing() -> None:
    ignored = corner(9, 10)
    found = one_cell(some_maps(20), ignored)  # reach 1
    assert (found.mean[0, :5, :4] == 0).all()
    assert (found.spread[0, :5, :4] == 1).all()
    assert (found.mean[0, :5, 4] > 0).all()


def test_of_constants_the_deviation_is_small_and_not_nothing() -> None:
    found = one_cell(torch.full((10, 6, 8), 4.1, dtype=torch.float64))
    torch.testing.assert_close(found.mean[0], torch.full((6, 8), 4.1, dtype=torch.float64))
    assert (found.spread <= 1e-5).all()
    assert (found.spread > 0).all()


def test_levels_scale_with_the_maps() -> None:
    maps = some_maps(20)
    one, other = one_cell(maps), one_cell(5 * maps + 2)
    torch.testing.assert_close(other.mean, 5 * one.mean + 2)
    torch.testing.assert_close(other.spread, 5 * one.spread)


def test_good_images_are_judged_to_have_mean_0_and_deviation_1() -> None:
    maps = some_maps(ENOUGH)
    judged = one_cell(maps).judged(maps, torch.zeros(ENOUGH, dtype=torch.int64))
    torch.testing.assert_close(judged.mean(0), torch.zeros(9, 10, dtype=torch.float64))
    torch.testing.assert_close(judged.std(0, correction=0), torch.ones(9, 10, dtype=torch.float64))


def test_none_changes_nothing() -> None:
    maps, cell = some_maps(12), torch.arange(12) % 3
    plain = Levels.none(torch.zeros(3, 9, 10, dtype=torch.bool))
    assert torch.equal(plain.judged(maps, cell), maps)
    assert torch.equal(plain.judged_without(maps, maps, cell), maps)


# Cells ----------------------------------------------------------------------------------------------------------------


def cells() -> tuple[Tensor, Tensor, Tensor]:
    """Maps (N, h, w) in cells (N,), mixed, each at a level of its own; and places (K, h, w) that each ignores.

    The first ignores the left upper part, the second all of the right half, the third nothing.
    """
    cell = torch.arange(len(SIZES)).repeat_interleave(torch.tensor(SIZES))
    cell = cell[torch.randperm(len(cell), generator=torch.Generator().manual_seed(1))]
    ignored = torch.zeros(len(SIZES), 9, 10, dtype=torch.bool)
    ignored[0], ignored[1, :, 5:] = corner(9, 10), True
    maps = some_maps(len(cell)) + 50 * cell[:, None, None]
    return maps, cell, ignored


def test_a_cell_has_its_own_levels_and_one_with_few_images_those_of_all() -> None:
    """Of all: at each place of those that do not ignore it."""
    maps, cell, ignored = cells()
    found = Levels.fit(maps, cell, ignored)
    for k in (0, 1):
        mine = cell == k
        alone = one_cell(maps[mine], ignored[k])
        torch.testing.assert_close(found.mean[k], alone.mean[0])
        torch.testing.assert_close(found.spread[k], alone.spread[0])
    mean, spread = by_hand(maps, ignored[cell], 1)  # 57 · 9 ≥ 100
    torch.testing.assert_close(found.mean[2], mean)
    torch.testing.assert_close(found.spread[2], spread)
    judged = found.judged(maps, cell)
    for i in range(len(maps)):
        torch.testing.assert_close(judged[i], (maps[i] - found.mean[cell[i]]) / found.spread[cell[i]])


def test_what_is_ignored_has_no_say_whatever_it_holds() -> None:
    maps, cell, ignored = cells()
    loud = maps.masked_fill(ignored[cell], 1e6)
    for name, kept in Levels.fit(maps, cell, ignored).state().items():
        torch.testing.assert_close(Levels.fit(loud, cell, ignored).state()[name], kept)


def test_a_state_holds_all_there_is() -> None:
    maps, cell, ignored = cells()
    one = Levels.fit(maps, cell, ignored)
    same = Levels.of_state({name: t.clone() for name, t in one.state().items()}, ignored)
    assert torch.equal(same.judged(maps, cell), one.judged(maps, cell))
    assert torch.equal(same.judged_without(maps, maps, cell), one.judged_without(maps, maps, cell))


# An image left out ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("n", [2, 8, 20, 99, ENOUGH + 1, 150])  # reach 4, 2, 1, 1, 0 and 0, with one image less too
def test_judging_without_an_image_is_by_levels_fitted_without_it(n: int, hidden: bool) -> None:
    """Of the image itself, and of another that stands for it; where its ignored places are NaN, too."""
    maps, others, cell = some_maps(n), some_maps(n, seed=1), torch.zeros(n, dtype=torch.int64)
    ignored = corner(9, 10) if hidden else torch.zeros(9, 10, dtype=torch.bool)
    own = maps.masked_fill(ignored, torch.nan)
    levels = one_cell(own, ignored)
    for shown in (maps, others):
        found = levels.judged_without(own, shown, cell)
        for i in {0, 1, n - 1}:
            without = one_cell(own[torch.arange(n) != i], ignored)
            torch.testing.assert_close(found[i : i + 1], without.judged(shown[i : i + 1], cell[:1]))


def test_judging_without_an_image_knows_its_cell_and_what_each_ignores() -> None:
    """Every image of three cells; that of the cell with few is left out of the levels of all."""
    maps, cell, ignored = cells()
    found = Levels.fit(maps, cell, ignored).judged_without(maps, maps, cell)
    assert cell.unique().tolist() == [0, 1, 2]
    for i in range(len(maps)):
        others = torch.arange(len(maps)) != i
        without = Levels.fit(maps[others], cell[others], ignored)
        torch.testing.assert_close(found[i : i + 1], without.judged(maps[i : i + 1], cell[i : i + 1]))


def test_of_a_place_that_only_one_image_tells_nothing_is_left_without_it() -> None:
    """In a cell of few, whose others ignore all of the left half."""
    cell = torch.tensor([0] * 200 + [1])
    ignored = torch.zeros(2, 9, 10, dtype=torch.bool)
    ignored[0, :, :5] = True
    maps = some_maps(201)
    levels = Levels.fit(maps, cell, ignored)
    torch.testing.assert_close(levels.mean[1, :, :5], maps[200, :, :5])
    found = levels.judged_without(maps[200:], maps[200:], cell[200:])
    assert torch.equal(found[0, :, :5], maps[200, :, :5])
    assert (found[0, :, 5:] != maps[200, :, 5:]).all()


def test_an_odd_image_cannot_hide_among_those_it_is_judged_by() -> None:
    """Among n scores none is more than √(n − 1) deviations off, however odd; left out it is."""
    n = ENOUGH + 1
    maps, cell = some_maps(n), torch.zeros(n, dtype=torch.int64)
    maps[0, 4, 4] = 1e4
    levels = one_cell(maps)
    within = levels.judged(maps, cell)[0, 4, 4]
    assert float(within) == pytest.approx(math.sqrt(n - 1), rel=1e-3)
    assert float(levels.judged_without(maps, maps, cell)[0, 4, 4]) > 100 * float(within)
