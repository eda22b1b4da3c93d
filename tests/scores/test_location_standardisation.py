"""Distances standardised per location given the level of the image: statistics, slopes, and what is taken out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from knowngood.scores.location_standardisation import (
    fit_standardisation,
    fourth_root,
    level_slope,
    levels,
    location_statistics,
    standardised,
)
from knowngood.scores.patch_distance import pool
from patch_models import one_cell

SIDE, FEATURES = 32, 176  # of the default recipe


ENOUGH = 100


def maps_of(n: int, height: int = 9, width: int = 10, seed: int = 0) -> Tensor:
    """(n, h, w) float64, as skewed as squared distances are, and wider to the right."""
    draw = torch.Generator().manual_seed(seed)
    wide = torch.linspace(1, 30, width, dtype=torch.float64)
    return wide * torch.randn(n, height, width, 4, generator=draw, dtype=torch.float64).square().mean(3)


def moments(maps: Tensor, ignored: Tensor, reach: int) -> tuple[Tensor, Tensor]:
    """Mean and deviation (h, w) of all distances within `reach` of each location that are not `ignored` (N, h, w)."""
    mean, spread = torch.zeros(maps.shape[1:]).double(), torch.ones(maps.shape[1:]).double()
    for i in range(maps.shape[1]):
        for j in range(maps.shape[2]):
            at = slice(max(0, i - reach), i + reach + 1), slice(max(0, j - reach), j + reach + 1)
            some = maps[:, *at][~ignored[:, *at]]
            if len(some):
                mean[i, j], spread[i, j] = some.mean(), some.std(correction=0)
    return mean, spread


def corner(height: int, width: int) -> Tensor:
    ignored = torch.zeros(height, width, dtype=torch.bool)
    ignored[:6, :5] = True
    ignored[7, 8] = True
    return ignored


# Statistics of locations ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize(
    ("n", "reach"), [(ENOUGH, 0), (ENOUGH - 1, 1), (12, 1), (11, 2), (4, 2), (3, 3), (2, 4), (1, 5)]
)
def test_statistics_are_of_the_smallest_squares_with_a_hundred_distances(n: int, reach: int, hidden: bool) -> None:
    maps = maps_of(n, 11, 13)
    ignored = corner(11, 13) if hidden else torch.zeros(11, 13, dtype=torch.bool)
    found = location_statistics(maps.masked_fill(ignored, torch.nan), one_cell(maps), ignored[None])
    mean, spread = moments(maps, ignored.expand(n, -1, -1), reach)
    torch.testing.assert_close(found[0][0], mean)
    torch.testing.assert_close(found[1][0], spread.clamp_min(1e-6))


def test_cells_that_differ_have_their_own_statistics_and_those_that_do_not_nearly_those_of_all() -> None:
    cell, ignored = torch.tensor([0] * 20 + [1] * 7), torch.zeros(2, 9, 10, dtype=torch.bool)
    maps = maps_of(27)
    apart = location_statistics(maps + 50 * cell[:, None, None], cell, ignored)[0]
    torch.testing.assert_close(apart[0], moments(maps[:20], ignored[cell[:20]], 1)[0], rtol=0.02, atol=0.02)
    alike = location_statistics(maps, cell, ignored)[0][1]
    of_all, own = moments(maps, ignored[cell], 1)[0], moments(maps[20:], ignored[cell[20:]], 2)[0]
    assert (alike - of_all).abs().mean() < 0.4 * (own - of_all).abs().mean()


def test_normal_images_are_standardised_to_mean_0_and_deviation_1() -> None:
    maps = maps_of(ENOUGH)
    found = location_statistics(maps, one_cell(maps), torch.zeros(1, 9, 10, dtype=torch.bool))
    values = (maps - found[0]) / found[1]
    torch.testing.assert_close(values.mean(0), torch.zeros(9, 10, dtype=torch.float64))
    torch.testing.assert_close(values.std(0, correction=0), torch.ones(9, 10, dtype=torch.float64))


# The level of an image ------------------------------------------------------------------------------------------------


def normal_maps(n: int, slopes: Tensor | float, level: float = 0.5, seed: int = 0) -> Tensor:
    """(n, 32, 32) ≥ 0: fourth roots are 4 + slope · f + noise, with f of deviation `level` common to an image."""
    draw = torch.Generator().manual_seed(seed)
    common = level * torch.randn(n, 1, 1, generator=draw, dtype=torch.float64)
    noise = torch.randn(n, SIDE, SIDE, generator=draw, dtype=torch.float64)
    return (4 + 0.3 * (slopes * common + noise)).clamp_min(0) ** 4


def nothing(n: int = 1) -> Tensor:
    return torch.zeros(n, SIDE, SIDE, dtype=torch.bool)


def steps() -> Tensor:
    """(32, 32) slopes: the left half of an image does not move with its level, the right half moves by 2."""
    return torch.tensor([0.0, 2.0], dtype=torch.float64).repeat_interleave(SIDE // 2).expand(SIDE, SIDE)


def test_the_fourth_root_of_a_squared_distance_is_nearly_normal() -> None:
    """Skewness of χ² with 176 degrees of freedom is √(8 / 176); of its fourth root a fifth of that, and less."""
    draw = torch.Generator().manual_seed(0)
    squares = torch.randn(20_000, FEATURES, generator=draw, dtype=torch.float64).square().sum(1)

    def skewness(values: Tensor) -> float:
        off = values - values.mean()
        return float(off.pow(3).mean() / off.square().mean().pow(1.5))

    assert skewness(squares) == pytest.approx(math.sqrt(8 / FEATURES), abs=0.05)
    assert abs(skewness(fourth_root(squares))) < 0.06
    assert fourth_root(torch.tensor([-1e-12, 0.0, 16.0])).tolist() == [0, 0, 2]


def test_levels_are_means_of_all_other_locations_and_of_all() -> None:
    values = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found, whole = levels(values, None)
    torch.testing.assert_close(whole, values.mean((1, 2)))
    for i in range(4):
        for j in range(5):
            rest = torch.ones(4, 5, dtype=torch.bool)
            rest[i, j] = False
            torch.testing.assert_close(found[:, i, j], values[:, rest].mean(1))
    hidden = torch.zeros(3, 4, 5, dtype=torch.bool)
    hidden[:, :, 3:] = True
    part, of_part = levels(values[:, :, :3], None)
    found, whole = levels(values.masked_fill(hidden, torch.nan), hidden)
    torch.testing.assert_close(found[:, :, :3], part)
    torch.testing.assert_close(whole, of_part)
    assert levels(values[:, :1, :1], None)[0].tolist() == [[[0]]] * 3


@pytest.mark.parametrize("n", [150, 600])
def test_values_of_normal_images_do_not_move_with_the_level(n: int) -> None:
    maps = normal_maps(n, steps())
    state = fit_standardisation(maps, one_cell(maps), nothing())
    new = normal_maps(300, steps(), seed=1)
    values = standardised(new, one_cell(new), None, state).scored
    level = fourth_root(new).mean((1, 2))
    both = torch.corrcoef(torch.stack([level, *values[:, ::7, ::7].flatten(1).T]))[0, 1:]
    before = torch.corrcoef(torch.stack([level, *fourth_root(new)[:, ::7, ::7].flatten(1).T]))[0, 1:]
    assert float(before.square().mean()) > 0.2
    assert float(both.square().mean()) < 3 / 300 + 4 / n
    assert float(values.std()) == pytest.approx(1, abs=0.05)
    left, right = state["level_slope"][0, :, : SIDE // 2], state["level_slope"][0, :, SIDE // 2 :]
    assert abs(float(left.mean())) < 0.15
    assert float(right.mean()) == pytest.approx(2, abs=0.15)


def test_a_defect_scores_above_an_image_that_is_a_little_unusual_everywhere() -> None:
    """By what each location has on its own it is the other way round."""
    maps = normal_maps(150, 1.0, level=1.5)
    state = fit_standardisation(maps, one_cell(maps), nothing())
    roots = fourth_root(normal_maps(2, 1.0, level=0, seed=1))
    roots[0, 10:13, 20:26] += 1.2  # 18 of 1,024 locations
    roots[1] += 1.2  # 2.7 standard deviations of the level
    new = roots.pow(4)
    defect, unusual = pool(standardised(new, one_cell(new), None, state).scored, "top").tolist()
    assert defect > unusual + 1
    defect, unusual = pool((roots - state["location_mean"]) / state["location_spread"], "top").tolist()
    assert defect < unusual


def test_values_that_move_alike_by_the_same_amount_are_the_same() -> None:
    """With slopes of 1 what is added to every value of an image is taken out, exactly."""
    maps = normal_maps(20, 1.0)
    state = fit_standardisation(maps, one_cell(maps), nothing())
    state["level_slope"] = torch.ones_like(state["level_slope"])
    values = fourth_root(maps)
    moved = (values + 0.7 * state["location_spread"]).pow(4)
    cell = one_cell(maps)
    torch.testing.assert_close(
        standardised(moved, cell, None, state).scored, standardised(maps, cell, None, state).scored
    )


@pytest.mark.parametrize("n", [1, 2, 8, 24, 150])
def test_without_a_common_level_nearly_nothing_is_taken_out(n: int) -> None:
    maps = normal_maps(n, 0.0)
    state = fit_standardisation(maps, one_cell(maps), nothing())
    new = normal_maps(50, 0.0, seed=1)
    values = standardised(new, one_cell(new), None, state).scored
    alone = (fourth_root(new) - state["location_mean"]) / state["location_spread"]
    scaled = (values * state["rest_spread"] + state["rest_mean"] - alone).std() / alone.std()
    assert float(scaled) < 0.1


def test_slopes_of_few_images_are_those_of_all_locations_and_of_many_images_their_own() -> None:
    draw = torch.Generator().manual_seed(0)
    level = torch.randn(400, 1, 1, generator=draw, dtype=torch.float64).expand(400, SIDE, SIDE)
    values = steps() * level + 3 * torch.randn(400, SIDE, SIDE, generator=draw, dtype=torch.float64)
    hidden = nothing()[0]
    assert (level_slope(values[:2], level[:2], hidden) == 1).all()
    assert (level_slope(values[:9], level[:9], hidden) - 1).abs().mean() < 0.5
    many = level_slope(values, level, hidden)
    assert (many - steps()).abs().mean() < (level_slope(values[:30], level[:30], hidden) - steps()).abs().mean()
    assert float((many - steps()).abs().mean()) < 0.2


def test_of_one_location_the_distance_counts_alone() -> None:
    maps = normal_maps(120, 1.0)[:, :1, :1]
    state = fit_standardisation(maps, one_cell(maps), torch.zeros(1, 1, 1, dtype=torch.bool))
    values = standardised(maps, one_cell(maps), None, state).scored
    roots = fourth_root(maps)
    torch.testing.assert_close(values, (roots - roots.mean()) / roots.std(correction=0))


@pytest.mark.parametrize("value", [math.nan, 0.0, 1e9])
def test_what_is_ignored_does_not_count(value: float) -> None:
    maps, hidden = normal_maps(40, steps()), nothing()
    hidden[:, 20:] = True
    cell = one_cell(maps)
    part = fit_standardisation(maps[:, :20], cell, hidden[:, :20])
    state = fit_standardisation(maps.masked_fill(hidden, value), cell, hidden)
    found = standardised(maps.masked_fill(hidden, value), cell, hidden.expand(40, -1, -1), state).scored
    inner = slice(0, 19)  # the last row's square is cut at what is ignored or at the border
    expected = standardised(maps[:, :20], cell, None, part).scored
    torch.testing.assert_close(found[:, inner], expected[:, inner], rtol=1e-6, atol=1e-6)


def test_cells_have_levels_of_their_own() -> None:
    """A cell whose level moves other locations than that of the other cell is standardised by its own slopes."""
    first, second = normal_maps(150, steps()), normal_maps(150, steps().flip(1), seed=1)
    maps, cell = torch.cat([first, second]), torch.arange(2).repeat_interleave(150)
    state = fit_standardisation(maps, cell, nothing(2))
    alone = fit_standardisation(second, one_cell(second), nothing())
    torch.testing.assert_close(state["level_slope"][1], alone["level_slope"][0], rtol=0.05, atol=0.05)


def test_in_maps_a_defect_that_covers_most_of_an_image_is_not_its_level() -> None:
    """What is scored takes the level of any image out; what is shown, up to half a deviation of normal images."""
    maps = normal_maps(200, 1.0)
    state = fit_standardisation(maps, one_cell(maps), nothing())
    normal = standardised(maps, one_cell(maps), None, state)
    same = (normal.scored - normal.shown).abs().amax((1, 2)) < 1e-9
    assert float(same.double().mean()) == pytest.approx(0.69, abs=0.08)  # the share below, of a normal distribution
    roots = fourth_root(normal_maps(1, 1.0, level=0, seed=1))
    roots[:, :24] += 1.5  # three quarters, by 4.5 standard deviations
    scored, shown, level = standardised(roots.pow(4), torch.tensor([0]), None, state)
    assert float(level) > 3
    assert float(scored[:, :24].mean()) < 2 < float(shown[:, :24].mean())
    assert float(shown[:, 24:].mean()) < 0.5
