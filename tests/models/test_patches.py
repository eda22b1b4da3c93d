"""The Gaussian of every place against its definition, PaDiM's among others; what pooling owes."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.inspection_baselines import Padim
from knowngood.config import OwnBackbone
from knowngood.data.conditions import ConditionSchema
from knowngood.detector.fit.patch_fitting import AT_ONCE, STEPS, continuous_entries, fit_patches, training_settings
from knowngood.errors import DataError
from knowngood.models.patch_gaussian import FEWEST, RIDGE, Patches, encode_positions, shrinkage, smooth
from knowngood.scores.patches import POOLINGS, TOP_SHARE, pool
from patch_models import SHAPE, F, H, W, features, fitted, one_cell
from training_helpers import settings


def moments(x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Mean (P, F) and covariance (P, F, F) over N − 1 of each place, in float64, by NumPy alone."""
    at = x.double().flatten(2).permute(2, 0, 1).numpy()  # (P, N, F)
    return at.mean(1), np.stack([np.cov(place.T) for place in at])


# PaDiM ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [4, 40])  # fewer images than features, and more
def test_without_a_latent_the_distances_are_padim(n: int) -> None:
    """½‖whitened‖² = ½ (x − μ)ᵀ (Σ + .01 I)⁻¹ (x − μ), Σ over N − 1: written out, and by the baseline."""
    good, judged = features(n), features(6, seed=1, scale=2)
    white = fitted(good).whiten(judged, one_cell(judged))
    found = white.double().square().sum(2).sqrt().unflatten(1, (H, W)).numpy()

    mean, covariance = moments(good)
    off = judged.double().flatten(2).permute(2, 0, 1).numpy() - mean[:, None]
    inverse = np.linalg.pinv(covariance + 0.01 * np.eye(F), hermitian=True)
    wanted = np.sqrt(np.einsum("pnf,pfg,png->np", off, inverse, off)).reshape(6, H, W)
    np.testing.assert_allclose(found, wanted, rtol=1e-4)
    np.testing.assert_allclose(found, Padim().fit(good.numpy()).score(judged.numpy())[1], rtol=1e-4)


# Whitening ------------------------------------------------------------------------------------------------------------


def test_whitened_patches_have_mean_0_and_covariance_i_at_every_place() -> None:
    """Up to the ridge: their covariance is I − .01 · root rootᵀ, and I where variances are large."""
    good = features(300, scale=20)
    patches = fitted(good)
    white = patches.whiten(good, one_cell(good))
    mean, covariance = moments(white.transpose(1, 2).unflatten(2, (H, W)))
    np.testing.assert_allclose(mean, 0, atol=1e-4)
    root = patches.root[0].double().numpy()
    np.testing.assert_allclose(covariance, np.eye(F) - RIDGE * root @ root.transpose(0, 2, 1), atol=1e-3)
    large = features(300, scale=200)
    _, covariance = moments(fitted(large).whiten(large, one_cell(large)).transpose(1, 2).unflatten(2, (H, W)))
    np.testing.assert_allclose(covariance, np.broadcast_to(np.eye(F), covariance.shape), atol=2e-3)


@pytest.mark.parametrize("shrink", [0.0, 0.3, 1.0, None])
def test_root_and_log_det_are_those_of_the_shrunk_covariance(shrink: float | None) -> None:
    good = features(20)
    patches = fitted(good, shrink)
    _, covariance = moments(good)
    share = shrinkage(20, F) if shrink is None else shrink
    wanted = (1 - share) * covariance + share * covariance.mean(0) + RIDGE * np.eye(F)
    root = patches.root[0].double().numpy()
    np.testing.assert_allclose(
        root @ wanted @ root.transpose(0, 2, 1), np.broadcast_to(np.eye(F), wanted.shape), atol=1e-4
    )
    assert (np.triu(root, 1) == 0).all()
    half_log_det = 0.5 * np.log(np.linalg.eigvalsh(wanted)).sum(1)
    log_det = -np.log(np.diagonal(root, axis1=1, axis2=2)).sum(1)
    np.testing.assert_allclose(log_det, half_log_det, rtol=1e-4, atol=1e-4)


def test_fully_shrunk_all_places_have_one_shape_and_means_of_their_own() -> None:
    good = features(30)
    patches = fitted(good, shrink=1.0)
    torch.testing.assert_close(patches.root[0], patches.root[0, :1].expand(H * W, -1, -1))
    np.testing.assert_allclose(patches.mean[0].numpy(), moments(good)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n", [4, 40])
def test_unwhitening_is_the_way_back(n: int) -> None:
    good, cell = features(2 * n), torch.arange(2 * n) % 2
    good[cell == 1] = good[cell == 1] * 3 + 1
    patches = fitted(good, cell=cell)
    x, c = features(6, seed=1), torch.eye(2)[[0, 1, 1, 0, 1, 0]]
    rows, conditions = patches.split(x, c)
    assert rows.shape == (6 * H * W, F)
    assert conditions.shape == (6 * H * W, patches.condition_width)
    torch.testing.assert_close(patches.unwhiten(rows, c, x), x, rtol=1e-4, atol=1e-3)


def test_a_feature_that_never_changes_is_held_by_the_ridge() -> None:
    good = features(20)
    good[:, 2] = 7.0
    patches = fitted(good)
    other = good[:1].clone()
    other[:, 2] += 0.5
    moved = patches.whiten(other, one_cell(other)) - patches.whiten(good[:1], one_cell(other))
    torch.testing.assert_close(moved.norm(dim=2), torch.full((1, H * W), 0.5 / math.sqrt(RIDGE)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("at_once", [1, 7, 64])
def test_chunks_do_not_matter(at_once: int) -> None:
    good, cell = features(40), torch.arange(40) % 2
    whole, parts = fitted(good, None, cell), fitted(good, None, cell, at_once)
    for name in ("mean", "root"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), rtol=1e-4, atol=1e-5)


def test_more_places_than_are_whitened_together() -> None:
    """9×9 places, 64 at a time: each place has the Gaussian that it has alone."""
    x = torch.randn(20, 2, 9, 9, generator=torch.Generator().manual_seed(0))
    whole = fitted(x)
    white = whole.whiten(x, one_cell(x))
    for place in (0, 63, 64, 80):
        alone = x[:, :, place // 9, place % 9][..., None, None]
        torch.testing.assert_close(
            white[:, place], fitted(alone).whiten(alone, one_cell(x))[:, 0], rtol=1e-4, atol=1e-5
        )


def test_whitening_takes_half_precision_and_leaves_its_input_alone() -> None:
    good = features(20)
    patches, kept = fitted(good), good.half().clone()
    half = good.half()
    white = patches.whiten(half, one_cell(half))
    assert white.dtype == torch.float32
    assert torch.equal(half, kept)
    torch.testing.assert_close(white, patches.whiten(half.float(), one_cell(half)))


# Each image left out --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [8, 40])
def test_leaving_an_image_out_is_fitting_without_it(n: int) -> None:
    """Patches are those by Gaussians refitted to the other N − 1, of the image itself and of another."""
    good, other = features(n, scale=100), features(n, seed=1, scale=100)
    patches = fitted(good)
    cell = one_cell(good)
    found = patches.left_out(good, cell)
    of_others = patches.left_out(other, cell, good)
    for i in (0, 3, n - 1):
        kept = torch.arange(n) != i
        without = fitted(good[kept])
        for white, x in ((found, good), (of_others, other)):
            wanted = without.whiten(x[i : i + 1], cell[:1])[0]
            torch.testing.assert_close(white[i], wanted, rtol=0.01, atol=1e-3)


def test_an_image_left_out_is_farther_than_it_seems() -> None:
    """Farther than among those that were learned from; less so, the more of them there are; and so with shrinkage."""
    gains = []
    for n in (10, 40, 400):
        good = features(n, scale=100)
        for shrink in (0.0, None):
            patches = fitted(good, shrink)
            own = patches.whiten(good, one_cell(good))
            out = patches.left_out(good, one_cell(good))
            assert (out.square().sum(2) > own.square().sum(2)).all()
            assert out.shape == own.shape
        gains.append(float(out.square().mean() / own.square().mean()))
    assert gains[0] > gains[1] > gains[2]
    assert gains[2] == pytest.approx(1, abs=0.05)


def test_leaving_out_knows_the_cell_of_each_image() -> None:
    """Cells of 8 and of 42 images, shrunk by different shares."""
    one, two = features(8, scale=100), features(42, seed=3, scale=400)
    cell = torch.arange(50).ge(8).long()
    both = fitted(torch.cat([one, two]), None, cell)
    found = both.left_out(torch.cat([one, two]), cell)
    for k, alone in enumerate((one, two)):
        patches = fitted(alone, None)
        wanted = patches.left_out(alone, one_cell(alone))
        torch.testing.assert_close(found[cell == k], wanted, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("coarse", [False, True])
def test_a_saved_state_comes_back_whole(coarse: bool) -> None:
    """Roots travel as lower triangles, and no tensor shares its memory with another."""
    x, cell = large(40), torch.arange(40) % 2
    patches = fitted(x, None, cell, coarse=coarse)
    state = patches.state_dict()
    assert "root" not in state
    assert len({t.untyped_storage().data_ptr() for t in state.values()}) == len(state)
    assert ("coarse.mean" in state) == coarse
    other = Patches((3, 9, 10), torch.eye(2), coarse=coarse)
    other.load_state_dict(state)
    assert len(dict(other.named_buffers())) == (1 + coarse) * 8
    for name, kept in patches.named_buffers():
        assert torch.equal(dict(other.named_buffers())[name], kept)


# Cells ----------------------------------------------------------------------------------------------------------------


def test_cells_do_not_leak_into_each_other() -> None:
    """Two products in one model have the Gaussians that each has in a model of its own, whatever the order."""
    one, two = features(20), features(30, seed=3, scale=4) + 10
    both, cell = torch.cat([one, two]), torch.cat([torch.zeros(20), torch.ones(30)]).long()
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    together = fitted(both[order], None, cell[order], at_once=8)
    for k, alone in enumerate((one, two)):
        own = fitted(alone, None)
        for name in ("mean", "root"):
            torch.testing.assert_close(getattr(together, name)[k], getattr(own, name)[0], rtol=1e-4, atol=1e-5)
    x = features(4, seed=5)
    mixed = together.whiten(x, torch.tensor([0, 1, 1, 0]))
    torch.testing.assert_close(
        mixed[[0, 3]], fitted(one, None).whiten(x[[0, 3]], one_cell(x[:2])), rtol=1e-3, atol=1e-3
    )
    torch.testing.assert_close(
        mixed[[1, 2]], fitted(two, None).whiten(x[[1, 2]], one_cell(x[:2])), rtol=1e-3, atol=1e-3
    )


def test_the_cell_is_that_of_the_categorical_conditions() -> None:
    keys = torch.tensor([[1.0, 0, 0], [0, 1, 0]])
    patches = Patches(SHAPE, keys, torch.tensor([False, False, True]))
    for light in (-40.0, 0.0, 40.0):
        c = torch.tensor([[0, 1, light], [1, 0, light], [0, 1, -light]])
        assert patches.cell(c, 3).tolist() == [1, 0, 1]
        assert c[0, 2] == light  # untouched
    assert patches.condition_width == 3 + patches.position.shape[1]
    assert Patches(SHAPE).cell(None, 4).tolist() == [0] * 4
    assert Patches(SHAPE).cell(torch.randn(4, 2), 4).tolist() == [0] * 4


def test_conditions_are_the_images_then_the_places() -> None:
    patches = Patches(SHAPE, torch.eye(2))
    c = torch.tensor([[1.0, 0], [0, 1]])
    told = patches.conditions(c, 2)
    assert torch.equal(told[:, :2], c.repeat_interleave(H * W, 0))
    assert torch.equal(told[:, 2:], patches.position.repeat(2, 1))
    assert torch.equal(Patches(SHAPE).conditions(None, 2), patches.position.repeat(2, 1))


def test_joining_undoes_splitting() -> None:
    """The map has at (i, j) what the patch of row i·w + j has, of each image."""
    x = torch.zeros(2, F, H, W)
    x[1, :, 2, 1] = 1.0
    rows, _ = Patches(SHAPE).split(x, None)
    found = Patches(SHAPE).join(rows.sum(1))
    assert found.shape == (2, H, W)
    assert found.nonzero().tolist() == [[1, 2, 1]]


# A coarse grid --------------------------------------------------------------------------------------------------------


def large(n: int, seed: int = 0, height: int = 9, width: int = 10) -> Tensor:
    """(n, 3, h, w): noise with a level and a width of its own at each place."""
    draw, fixed = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(99)
    level, scale = 5 * torch.randn(3, height, width, generator=fixed), torch.rand(3, height, width, generator=fixed)
    return level + (1 + 9 * scale) * torch.randn(n, 3, height, width, generator=draw)


def mostly(height: int = 9, width: int = 10) -> Tensor:
    """(2, h, w): of one cell nothing counts in the first part and beside it; of the other the right third does not."""
    ignored = torch.zeros(2, height, width, dtype=torch.bool)
    ignored[0, : -(-height // 4), : -(-width // 4) + 1] = True
    ignored[0, -2, width // 3] = True
    ignored[1, :, -max(1, width * 3 // 10) :] = True
    return ignored


@pytest.mark.parametrize(("height", "width"), [(9, 10), (8, 12), (4, 4), (3, 7), (5, 1)])
@pytest.mark.parametrize("some", [False, True])
def test_the_coarse_grid_has_means_of_what_counts_in_each_part(height: int, width: int, some: bool) -> None:
    """Written out; parts are as adaptive pooling cuts them, from ⌊i·h/4⌋ to ⌈(i + 1)·h/4⌉."""
    patches = Patches((3, height, width), torch.eye(2), coarse=True)
    assert patches.coarse is not None
    if some:
        patches.ignored.copy_(mostly(height, width).flatten(1))
    x, cell = large(6, height=height, width=width).half(), torch.arange(6) % 2
    kept = x.clone()
    down, across = min(4, height), min(4, width)
    assert patches.coarse.shape == (3, down, across)
    found = patches.coarsen(x, cell)
    assert found.dtype == torch.float32
    assert found.shape == (6, 3, down, across)
    empty = 0
    for b, k in enumerate(cell.tolist()):
        for i in range(down):
            for j in range(across):
                rows = slice(i * height // down, -(-(i + 1) * height // down))
                columns = slice(j * width // across, -(-(j + 1) * width // across))
                counted = ~patches.ignored_grid[k, rows, columns]
                part = x[b, :, rows, columns].double()[:, counted]
                wanted = part.mean(1) if counted.any() else torch.zeros(3).double()
                empty += not counted.any()
                torch.testing.assert_close(found[b, :, i, j].double(), wanted, rtol=1e-4, atol=1e-4)
    assert (empty > 0) == some
    assert torch.equal(x, kept)


@pytest.mark.parametrize("shrink", [0.0, None])
def test_coarse_gaussians_are_those_of_the_coarse_features(shrink: float | None) -> None:
    """By cells, some at a time, with places ignored where nothing of a part counts, and only there."""
    x, cell, ignored = large(50), torch.arange(50).lt(20).long(), mostly()
    whole = fitted(x, shrink, cell, at_once=7, coarse=True, ignored=ignored)
    assert whole.coarse is not None
    assert whole.coarse.coarse is None
    hidden = torch.zeros(2, 4, 4, dtype=torch.bool)
    hidden[0, 0, 0] = True
    hidden[1, :, 3] = True
    assert torch.equal(whole.coarse.ignored_grid, hidden)
    alone = fitted(whole.coarsen(x, cell), shrink, cell, ignored=hidden)
    for name in ("mean", "root", "images", "own", "ignored", "keys", "continuous", "position"):
        torch.testing.assert_close(getattr(whole.coarse, name), getattr(alone, name), rtol=1e-3, atol=1e-5)
    plain = fitted(x, shrink, cell, ignored=ignored)
    for name in ("mean", "root"):
        torch.testing.assert_close(getattr(whole, name), getattr(plain, name), rtol=1e-4, atol=1e-5)


def test_what_is_ignored_changes_nothing_of_the_coarse_grid() -> None:
    x, cell, ignored = large(50), torch.arange(50) % 2, mostly()
    other = x.masked_fill(ignored[cell][:, None], 500.0)
    one, same = (fitted(f, None, cell, coarse=True, ignored=ignored) for f in (x, other))
    assert one.coarse is not None
    assert same.coarse is not None
    assert torch.equal(one.coarsen(other, cell), one.coarsen(x, cell))
    counted = ~one.coarse.ignored
    assert torch.equal(one.coarse.mean[counted], same.coarse.mean[counted])
    assert torch.equal(one.coarse.root[counted], same.coarse.root[counted])


def test_leaving_an_image_out_of_the_coarse_grid_is_fitting_without_it() -> None:
    x, cell = 30 * large(40), torch.zeros(40, dtype=torch.int64)
    coarse = fitted(x, coarse=True).coarse
    assert coarse is not None
    seen = fitted(x, coarse=True).coarsen(x, cell)
    found = coarse.left_out(seen, cell)
    for i in (0, 39):
        without = fitted(x[torch.arange(40) != i], coarse=True)
        assert without.coarse is not None
        wanted = without.coarse.whiten(without.coarsen(x[i : i + 1], cell[:1]), cell[:1])
        torch.testing.assert_close(found[i : i + 1], wanted, rtol=0.01, atol=1e-3)


# Few images -----------------------------------------------------------------------------------------------------------


def schema_of(**columns: np.ndarray) -> tuple[ConditionSchema, np.ndarray, list[str]]:
    n = len(next(iter(columns.values())))
    schema = ConditionSchema.fit(columns, n)
    told = schema.expand(columns, n)
    return schema, told.c, list(told.label)


def test_a_product_with_few_images_is_refused_by_name_or_has_what_all_have() -> None:
    product = np.array(["cap"] * 20 + ["rare"] * (FEWEST - 1))
    schema, c, labels = schema_of(product=product)
    x = features(len(product)).numpy()
    with pytest.raises(DataError, match=rf"{FEWEST - 1} good images of .*rare.*at least {FEWEST}.*few='pool'"):
        fit_patches([x], np.arange(len(x)), c, schema, labels, OwnBackbone())
    pooled = fit_patches([x], np.arange(len(x)), c, schema, labels, OwnBackbone(few="pool", context=0))
    everything = fitted(torch.from_numpy(x), None)
    cap, rare = pooled.cell(torch.from_numpy(c[[0, -1]]), 2).tolist()
    torch.testing.assert_close(pooled.mean[rare], everything.mean[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(pooled.root[rare], everything.root[0], rtol=1e-3, atol=1e-4)
    own = fitted(torch.from_numpy(x[:20]), None)
    torch.testing.assert_close(pooled.mean[cap], own.mean[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(pooled.root[cap], own.root[0], rtol=1e-3, atol=1e-4)
    enough = np.array(["cap"] * 20 + ["rare"] * FEWEST)
    schema, c, labels = schema_of(product=enough)
    x = features(len(enough)).numpy()
    assert len(fit_patches([x], np.arange(len(x)), c, schema, labels, OwnBackbone()).keys) == 2


def test_conditions_that_only_others_have_are_refused_or_pooled_too() -> None:
    """The features are of those at `index`; the last product is among the images that calibrate, say."""
    product = np.array(["cap"] * 20 + ["nut"] * 20 + ["rare"] * 30)
    schema, c, labels = schema_of(product=product)
    index = np.r_[np.arange(5, 20), np.arange(22, 40)]
    x = features(70).numpy()[index]
    with pytest.raises(DataError, match=rf"^0 good images of .*rare.*at least {FEWEST}"):
        fit_patches([x], index, c, schema, labels, OwnBackbone())
    pooled = fit_patches([x], index, c, schema, labels, OwnBackbone(few="pool", context=0))
    cells = pooled.cell(torch.from_numpy(c), 70).tolist()
    assert cells == [cells[0]] * 20 + [cells[20]] * 20 + [cells[40]] * 30
    assert len(set(cells)) == 3
    for k, own in ((cells[0], x[:15]), (cells[20], x[15:]), (cells[40], x)):
        alone = fitted(torch.from_numpy(own), None)
        torch.testing.assert_close(pooled.mean[k], alone.mean[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(pooled.root[k], alone.root[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("few", ["refuse", "pool"])
def test_too_few_images_in_all_are_refused_either_way(few: str) -> None:
    n = FEWEST - 1
    none = np.zeros((n, 0)), ConditionSchema(), [""] * n
    with pytest.raises(DataError, match=f"^{n} good images to fit on; .* at least {FEWEST}"):
        fit_patches([features(n).numpy()], np.arange(n), *none, OwnBackbone(few=few))  # type: ignore[arg-type]


def test_a_measured_light_is_no_cell_of_its_own() -> None:
    rng = np.random.default_rng(0)
    product, light = np.array(["cap", "nut"])[np.arange(40) % 2], rng.normal(100, 20, 40)
    schema, c, labels = schema_of(product=product, light=light)
    assert continuous_entries(schema).tolist() == [False, False, True]
    x = features(40)
    patches = fit_patches([x.numpy()], np.arange(len(x)), c, schema, labels, OwnBackbone(shrink=0.0, context=0))
    assert len(patches.keys) == 2
    assert (patches.keys[:, 2] == 0).all()
    white = patches.whiten(x, patches.cell(torch.from_numpy(c), 40))
    own = torch.from_numpy(product == "nut")
    alone = fitted(x[own]).whiten(x[own], one_cell(x[own]))
    torch.testing.assert_close(white[own], alone, rtol=1e-3, atol=1e-3)


def test_fitting_reads_features_some_at_a_time_from_any_arrays() -> None:
    """More images than are read together, half precision, read-only: the Gaussians of one pass over all."""
    n = AT_ONCE + 20
    x = features(n).half()
    array = x.numpy()
    array.flags.writeable = False
    parts = [array[:11], array[11:11], array[11:]]
    patches = fit_patches(parts, np.arange(n), np.zeros((n, 0)), ConditionSchema(), [""] * n, OwnBackbone(context=0))
    whole = fitted(x.float(), None)
    torch.testing.assert_close(patches.mean, whole.mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(patches.root, whole.root, rtol=1e-3, atol=1e-4)


def test_shrinkage_falls_with_the_images_and_stays_a_share() -> None:
    for f in (1, 2, 152, 1000):
        shares = [shrinkage(n, f) for n in range(1, 4 * f + 50)]
        assert all(0 < s <= 1 for s in shares)
        assert all(a > b for a, b in pairwise(shares))
        assert shrinkage(f, f) == pytest.approx(1 / 11)
        assert shrinkage(200 * f, f) == pytest.approx(shrinkage(100 * f, f) / 8, rel=0.01)  # as 1 / n³


def test_training_settings_count_in_patches() -> None:
    chosen = settings(batch_size=32, epochs=None)
    batch = training_settings(chosen, 1000).batch_size
    assert batch > 32
    found = training_settings(chosen, 10 * batch)
    assert found.epochs == STEPS // 10
    assert training_settings(chosen, 10**9).epochs == 1
    assert training_settings(settings(epochs=3), 1000).epochs == 3


# Positions ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 4), (32, 32), (28, 5), (64, 64)])
def test_positions_are_bounded_and_tell_every_place_apart(height: int, width: int) -> None:
    found = encode_positions(height, width)
    assert found.shape == (height * width, 26)
    assert found.abs().max() <= 1
    if height * width > 1:
        distance = torch.cdist(found.double(), found.double())
        assert distance.fill_diagonal_(torch.inf).min() > 1e-3


def test_positions_mirror_as_cosines_do() -> None:
    """Mirrored, y and x change their sign; a product of cosines of frequencies i and j changes it by (−1)ⁱ or (−1)ʲ."""
    found = encode_positions(6, 5).unflatten(0, (6, 5))
    orders = [(i, j) for i in range(5) for j in range(5) if i or j]
    down = torch.tensor([-1.0, 1.0, *((-1.0) ** i for i, _ in orders)])
    across = torch.tensor([1.0, -1.0, *((-1.0) ** j for _, j in orders)])
    torch.testing.assert_close(found.flip(0), found * down, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.flip(1), found * across, rtol=0, atol=1e-6)
    turned = encode_positions(5, 6).unflatten(0, (5, 6)).transpose(0, 1)
    torch.testing.assert_close(turned[..., :2], found[..., :2].flip(-1))
    swapped = [2 + orders.index((j, i)) for i, j in orders]
    torch.testing.assert_close(turned[..., 2:], found[..., swapped])


def test_a_place_has_the_same_code_on_a_finer_grid() -> None:
    """Cell (i, j) of a coarse grid has its centre where cell (3i + 1, 3j + 1) of one three times as fine has it."""
    fine = encode_positions(9, 12).unflatten(0, (9, 12))[1::3, 1::3]
    torch.testing.assert_close(encode_positions(3, 4).unflatten(0, (3, 4)), fine, rtol=0, atol=1e-6)


# Smoothing ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.0])
def test_smoothing_keeps_constants_and_mass_and_no_order(sigma: float) -> None:
    constant = torch.full((2, 5, 7), 3.25, dtype=torch.float64)
    torch.testing.assert_close(smooth(constant, sigma), constant)
    maps = torch.zeros(1, 41, 41, dtype=torch.float64)
    maps[0, 20, 18] = 2.0
    found = smooth(maps, sigma)
    assert float(found.sum()) == pytest.approx(2.0)
    assert int(found.argmax()) == 20 * 41 + 18
    torch.testing.assert_close(smooth(maps.mT, sigma), found.mT)
    y = torch.arange(41.0, dtype=torch.float64) - 20
    variance = (found[0].sum(1) * y.square()).sum() / 2
    assert float(variance) == pytest.approx(sigma**2, rel=0.06 if sigma >= 1 else 0.15)
    random = torch.rand(3, 6, 5, generator=torch.Generator().manual_seed(0))
    assert smooth(random, sigma).amax() <= random.amax()
    torch.testing.assert_close(smooth(random, sigma)[1:2], smooth(random[1:2], sigma))


def test_no_smoothing_is_the_map() -> None:
    maps = torch.rand(2, 4, 4)
    assert smooth(maps, 0.0) is maps


# Pooling --------------------------------------------------------------------------------------------------------------


def random_maps(n: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(n, 12, 15, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).exp()


def test_pooling_by_its_definitions() -> None:
    maps = random_maps()
    for i, one in enumerate(maps.flatten(1).numpy()):
        assert float(pool(maps, "max")[i]) == one.max()
        taken = round(TOP_SHARE * one.size)
        assert taken == 4
        assert float(pool(maps, "top")[i]) == pytest.approx(np.sort(one)[-taken:].mean())
        t = one.std() / math.sqrt(2 * math.log(one.size))
        assert float(pool(maps, "soft")[i]) == pytest.approx(t * math.log(np.exp(one / t).mean()))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooling_lies_between_the_mean_and_the_largest(pooling: str) -> None:
    maps = random_maps()
    found = pool(maps, pooling)  # type: ignore[arg-type]
    assert (found <= maps.amax((1, 2)) + 1e-12).all()
    assert (found >= maps.mean((1, 2)) - 1e-12).all()
    constant = torch.full((2, 4, 4), -7.5, dtype=torch.float64)
    torch.testing.assert_close(pool(constant, pooling), torch.full((2,), -7.5, dtype=torch.float64))  # type: ignore[arg-type]
    torch.testing.assert_close(pool(constant[:, :1, :1], pooling), constant[:, 0, 0])  # type: ignore[arg-type]


@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooling_does_not_know_the_order_the_unit_or_the_zero(pooling: str) -> None:
    maps = random_maps()
    found = pool(maps, pooling)  # type: ignore[arg-type]
    order = torch.randperm(12 * 15, generator=torch.Generator().manual_seed(1))
    mixed = maps.flatten(1)[:, order].unflatten(1, (12, 15))
    torch.testing.assert_close(pool(mixed, pooling), found)  # type: ignore[arg-type]
    for unit in (1e-3, 250.0):
        torch.testing.assert_close(pool(unit * maps - 3, pooling), unit * found - 3)  # type: ignore[arg-type]
    torch.testing.assert_close(pool(maps[2:3], pooling), found[2:3])  # type: ignore[arg-type]


@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooling_rises_with_a_defect(pooling: str) -> None:
    maps = random_maps()
    worse = maps.clone()
    worse[:, 3:5, 3:5] += 20
    assert (pool(worse, pooling) > pool(maps, pooling)).all()  # type: ignore[arg-type]


@pytest.mark.parametrize("pooling", POOLINGS)
def test_ignored_places_never_matter(pooling: str) -> None:
    """Pooling with places ignored is pooling without them, whatever they hold."""
    maps = random_maps()
    ignored = torch.zeros(6, 12, 15, dtype=torch.bool)
    ignored[:, :, 10:] = True
    wanted = pool(maps[:, :, :10], pooling)  # type: ignore[arg-type]
    for value in (0.0, 1e6, -1e6):
        filled = maps.masked_fill(ignored, value)
        torch.testing.assert_close(pool(filled, pooling, ignored), wanted)  # type: ignore[arg-type]
    ignored[0] = False  # each image has its own
    found = pool(maps, pooling, ignored)  # type: ignore[arg-type]
    torch.testing.assert_close(found[:1], pool(maps[:1], pooling))  # type: ignore[arg-type]
    torch.testing.assert_close(found[1:], wanted[1:])
