"""Patch distances as maps and one value an image: standardisation, smoothing, pooling, the global score."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from knowngood.config import MemoryBankOptions, PatchDistance
from knowngood.errors import SettingsError
from knowngood.models.base import Batch
from knowngood.models.patch_gaussian import PatchGaussian
from knowngood.scores.location_standardisation import fit_standardisation, standardised
from knowngood.scores.patch_distance import PatchDistanceScore, pool, smooth
from patch_models import SHAPE, H, W, features, fitted, one_cell, product_features

POOLINGS = ["top", "max", "soft"]


# Smoothing and pooling ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.0])
def test_smoothing_keeps_constants_and_mass(sigma: float) -> None:
    constant = torch.full((2, 5, 7), 3.25, dtype=torch.float64)
    torch.testing.assert_close(smooth(constant, sigma), constant)
    maps = torch.zeros(1, 41, 41, dtype=torch.float64)
    maps[0, 20, 18] = 2.0
    found = smooth(maps, sigma)
    assert float(found.sum()) == pytest.approx(2.0)
    assert int(found.argmax()) == 20 * 41 + 18
    torch.testing.assert_close(smooth(maps.mT, sigma), found.mT)
    assert smooth(maps, 0.0) is maps


def random_maps(n: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(n, 12, 15, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).exp()


def test_pooling_by_its_definitions() -> None:
    maps = random_maps()
    for i, one in enumerate(maps.flatten(1).numpy()):
        assert float(pool(maps, "max")[i]) == one.max()
        assert float(pool(maps, "top")[i]) == pytest.approx(np.sort(one)[-4:].mean())  # 2 % of 180
        t = one.std() / math.sqrt(2 * math.log(one.size))
        assert float(pool(maps, "soft")[i]) == pytest.approx(t * math.log(np.exp(one / t).mean()))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooling_ignores_order_unit_zero_and_what_is_ignored(pooling: str) -> None:
    maps = random_maps()
    found = pool(maps, pooling)
    order = torch.randperm(180, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(pool(maps.flatten(1)[:, order].unflatten(1, (12, 15)), pooling), found)
    torch.testing.assert_close(pool(250 * maps - 3, pooling), 250 * found - 3)
    assert (found <= maps.amax((1, 2)) + 1e-12).all()
    assert (found >= maps.mean((1, 2)) - 1e-12).all()
    ignored = torch.zeros(6, 12, 15, dtype=torch.bool)
    ignored[:, :, 10:] = True
    for value in (0.0, 1e6, -1e6):
        hidden = pool(maps.masked_fill(ignored, value), pooling, ignored)
        torch.testing.assert_close(hidden, pool(maps[:, :, :10], pooling))


# The score ------------------------------------------------------------------------------------------------------------


def batch(products: int, each: int, seed: int = 7) -> Batch:
    x = torch.cat([product_features(k, each, seed) for k in range(products)])
    stratum = torch.arange(products).repeat_interleave(each)
    c = torch.eye(products)[stratum] if products > 1 else None
    return Batch(x, c, stratum, torch.zeros(len(x)), torch.arange(len(x)))


def made(products: int = 1, ignored: Tensor | None = None, **options) -> tuple[PatchGaussian, PatchDistanceScore, dict]:
    """A model of 30 images of each product, a score, and its state."""
    grid = options.pop("global_grid", 2)
    normal = batch(products, 30, 0)
    model = fitted(normal.x, normal.stratum, ignored, shrinkage=0.1, global_grid=grid)
    score = PatchDistanceScore(PatchDistance(**options))
    return model, score, score.fit(model, [normal])


@pytest.mark.slow
@pytest.mark.parametrize("products", [1, 2])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_the_score_is_written_out(pooling: str, products: int) -> None:
    """z(v) + max(0, z(g) − ½): v of the standardised and smoothed map, g the mean over the coarse grid."""
    model, score, state = made(products, pooling=pooling, smoothing=0.7)
    new = batch(products, 5)
    found = score.score(model, state, new.x, new.c, new.stratum, want_map=True)
    maps, globally = model.distances(new.x, new.stratum), model.global_distances(new.x, new.stratum)
    relative, shown = (smooth(some, 0.7) for some in standardised(maps, new.stratum, None, state)[:2])
    torch.testing.assert_close(found.map, (2 * smooth(maps, 0.7)).sqrt() / (1 + (-shown).exp()))
    for i, k in enumerate(new.stratum.tolist()):
        v = pool(relative, pooling)[i]
        z, g = (
            (value - state[name][k, 0]) / state[name][k, 1]
            for value, name in ((v, "pooled_moments"), (globally[i], "global_moments"))
        )
        torch.testing.assert_close(found.parts["global"][i], g)
        torch.testing.assert_close(found.values[i], z + max(0.0, float(g) - 0.5))


@pytest.mark.slow
def test_counts_add_to_the_score_as_the_global_score_does() -> None:
    normal, new = batch(1, 30, 0), batch(1, 5)
    model = fitted(normal.x, global_grid=2, words=4)
    score = PatchDistanceScore(PatchDistance())
    state = score.fit(model, [normal])
    found = score.score(model, state, new.x, None, new.stratum)
    left_out = model.image_distances(normal.x, normal.stratum, leave_one_out=True)[:, 1]
    torch.testing.assert_close(state["counts_moments"][0], torch.stack([left_out.mean(), left_out.std(correction=0)]))
    counts = (model.image_distances(new.x, new.stratum)[:, 1] - left_out.mean()) / left_out.std(correction=0)
    torch.testing.assert_close(found.parts["counts"], counts)
    without = {name: value for name, value in state.items() if name != "counts_moments"}
    plain = PatchDistanceScore(PatchDistance()).score(
        fitted(normal.x, global_grid=2), without, new.x, None, new.stratum
    )
    torch.testing.assert_close(found.values, plain.values + (counts - 0.5).clamp_min(0))


def test_moments_are_those_of_images_left_out() -> None:
    model, _, state = made()
    normal = batch(1, 30, 0)
    globally = model.global_distances(normal.x, normal.stratum, leave_one_out=True)
    torch.testing.assert_close(state["global_moments"][0], torch.stack([globally.mean(), globally.std(correction=0)]))
    maps = model.leave_one_out(normal.x, normal.stratum)
    for name, expected in fit_standardisation(maps, normal.stratum, model.ignored_grid).items():
        torch.testing.assert_close(state[name], expected)


def test_without_standardisation_and_coarse_grid_the_value_is_the_pooled_map() -> None:
    model, score, state = made(standardise=False, global_grid=0, pooling="max")
    assert state == {}
    new = batch(1, 4)
    found = score.score(model, state, new.x, None, new.stratum, want_map=True)
    torch.testing.assert_close(found.values, pool(found.map.square() / 2, "max"))


@pytest.mark.slow
@pytest.mark.parametrize("pooling", POOLINGS)
def test_what_is_ignored_changes_nothing(pooling: str) -> None:
    """Neither by itself nor through the smoothing of its neighbours; and the map is NaN there."""
    ignored = torch.zeros(2, H, W, dtype=torch.bool)
    ignored[0, 1, 1:3] = ignored[1, 0, 0] = True
    model, score, state = made(2, ignored, pooling=pooling, smoothing=0.5)
    new = batch(2, 4)
    found = score.score(model, state, new.x, new.c, new.stratum, want_map=True)
    other = new.x.masked_fill(ignored[new.stratum][:, None], 500.0)
    changed = score.score(model, state, other, new.c, new.stratum, want_map=True)
    torch.testing.assert_close(changed.values, found.values)
    assert torch.equal(changed.map.isnan(), ignored[new.stratum])
    torch.testing.assert_close(changed.map, found.map, equal_nan=True)


def test_a_defect_is_where_it_was_put() -> None:
    model, score, state = made()
    new = batch(1, 3)
    clean = score.score(model, state, new.x, None, new.stratum)
    for i in range(H):
        for j in range(W):
            bad = new.x.clone()
            bad[:, :, i, j] += 15
            found = score.score(model, state, bad, None, new.stratum, want_map=True)
            assert (found.map.flatten(1).argmax(1) == i * W + j).all()
            assert (found.values > clean.values).all()


def test_of_a_memory_bank_the_map_is_the_distance_to_the_nearest_patch() -> None:
    normal, new = features(20), features(3, seed=1)
    bank = MemoryBankOptions(coreset=None).build(SHAPE, patches=True)
    rows = bank.rows(normal)
    bank.bank, bank.stratum = rows, torch.zeros(len(rows), dtype=torch.int64)
    score = PatchDistanceScore(PatchDistance(smoothing=0, pooling="max"))
    found = score.score(bank, score.fit(bank, []), new, None, one_cell(new), want_map=True)
    wanted = torch.cdist(new.flatten(2).mT.double(), rows.double()[None]).amin(2).unflatten(1, (H, W))
    torch.testing.assert_close(found.map.double(), wanted, rtol=1e-4, atol=1e-4)
    with pytest.raises(SettingsError, match="needs model 'patch_gaussian'"):
        PatchDistanceScore(PatchDistance(standardise=True)).check(bank)


def test_the_nearest_patches_count_sixteen_times_as_much_in_maps() -> None:
    normal, new = batch(1, 30, 0), batch(1, 5)
    model, score = fitted(normal.x, neighbours=40), PatchDistanceScore(PatchDistance())
    state = score.fit(model, [normal])
    assert model.bank is not None
    near = model.bank.nearest(new.x, new.stratum, model.ignored)
    distances = model.gaussian_distances(new.x, new.stratum) + near
    relative = standardised(distances, new.stratum, None, state).shown
    found = score.score(model, state, new.x, None, new.stratum, want_map=True)
    torch.testing.assert_close(found.map, (2 * (distances + 15 * near)).sqrt() * relative.sigmoid())


def test_without_a_coarse_grid_the_level_of_an_image_judges_it_as_a_whole() -> None:
    model, score, state = made(global_grid=0)
    new = batch(1, 5)
    maps = model.distances(new.x, new.stratum)
    relative, _, level = standardised(maps, new.stratum, None, state)
    mean, spread = state["level_moments"][0]
    found = score.score(model, state, new.x, None, new.stratum)
    torch.testing.assert_close(found.parts["level"], (level - mean) / spread)
    mean, spread = state["pooled_moments"][0]
    pooled = (pool(relative, "top") - mean) / spread
    torch.testing.assert_close(found.values, pooled + (found.parts["level"] - 0.5).clamp_min(0))
    hazy = score.score(model, state, new.x + 3 * new.x.std(), None, new.stratum)
    assert float((hazy.values - found.values).min()) > 3
