"""The Gaussian of every location against its definition in float64, PaDiM's among others."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from knowngood.config import PatchGaussianOptions
from knowngood.metrics import roc_auc
from knowngood.models.patch_gaussian import PatchGaussian, shrinkage
from knowngood.training import Source
from patch_models import SHAPE, F, H, W, empty, features, fitted, one_cell

RIDGE = 0.01


def moments(x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Mean (P, F) and covariance (P, F, F) over N − 1 of each location, in float64, by NumPy alone."""
    at = x.double().flatten(2).permute(2, 0, 1).numpy()  # (P, N, F)
    return at.mean(1), np.stack([np.cov(location.T) for location in at])


def by_hand(normal: Tensor, new: Tensor, share: float = 0.0, counted: np.ndarray | None = None) -> np.ndarray:
    """(B, P): ½ (x − μ)ᵀ Σ⁻¹ (x − μ), Σ the shrunk covariance and the ridge."""
    mean, covariance = moments(normal)
    everywhere = covariance[slice(None) if counted is None else counted].mean(0)
    covariance = (1 - share) * covariance + share * everywhere + RIDGE * np.eye(covariance.shape[1])
    off = new.double().flatten(2).permute(2, 0, 1).numpy() - mean[:, None]
    return 0.5 * np.einsum("pnf,pfg,png->np", off, np.linalg.inv(covariance), off)


@pytest.mark.parametrize("n", [4, 40])  # fewer images than features, and more
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0, None])
def test_distances_are_half_the_squared_mahalanobis_distance(n: int, share: float | None) -> None:
    """Without shrinkage, context and coarse grid they are those of PaDiM."""
    normal, new = features(n), features(6, seed=1, scale=2)
    model = fitted(normal, shrinkage=share)
    found = model.distances(new, one_cell(new))
    wanted = by_hand(normal, new, shrinkage(n, F) if share is None else share)
    np.testing.assert_allclose(found.flatten(1).numpy(), wanted, rtol=2e-3)
    white = model.whiten(new, one_cell(new)).double()
    torch.testing.assert_close(0.5 * white.square().sum(2).unflatten(1, (H, W)), found, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_factor_is_that_of_the_shrunk_covariance(share: float) -> None:
    normal = features(20)
    lower = fitted(normal, shrinkage=share).lower[0].double().numpy()
    _, covariance = moments(normal)
    wanted = (1 - share) * covariance + share * covariance.mean(0) + RIDGE * np.eye(F)
    np.testing.assert_allclose(lower @ lower.transpose(0, 2, 1), wanted, atol=1e-4 * abs(wanted).max())
    assert (np.triu(lower, 1) == 0).all()


def products(n: tuple[int, int], apart: float) -> tuple[Tensor, Tensor]:
    """Two cells of so many images; the second differs in scale and mean by `apart`."""
    x = torch.cat([features(n[0]), features(n[1], seed=3, scale=1 + apart) + 10 * apart])
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return x[order], (torch.arange(len(x)) >= n[0]).long()[order]


def test_cells_with_many_images_that_differ_have_nearly_the_gaussians_of_each_alone() -> None:
    x, cell = products((2000, 2000), 3.0)
    together = fitted(x, cell)
    for k in (0, 1):
        alone = fitted(x[cell == k])
        torch.testing.assert_close(together.mean[k], alone.mean[0], rtol=1e-3, atol=1e-3)
        assert (together.lower[k] - alone.lower[0]).norm() < 0.02 * alone.lower[0].norm()


@pytest.mark.slow
@pytest.mark.parametrize("dimension", [64, 176])
@pytest.mark.parametrize("gain", [0.02, 1, 1e2, 1e4])
def test_features_of_any_scale_are_judged(gain: float, dimension: int) -> None:
    """As of a backbone of your own: the covariance has a factor, and one image is judged as among others."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(dimension, dimension, generator=generator) * torch.linspace(1, 0.02, dimension)
    x = torch.einsum("gf,nfhw->nghw", mixing / dimension**0.5, torch.randn(60, dimension, 4, 4, generator=generator))
    new = 1.5 * x[:8] + 0.2
    model = fitted(gain * x, shrinkage=None, global_grid=2)
    found = model.distances(gain * new, one_cell(new))
    alone = torch.cat([model.distances(gain * one[None], one_cell(x[:1])) for one in new])
    torch.testing.assert_close(alone, found, rtol=1e-5, atol=0)
    far = model.distances(gain * (new + 3), one_cell(new))
    assert float(far.min()) > float(found.median())
    assert torch.isfinite(model.global_distances(gain * x, one_cell(x), leave_one_out=True)).all()


WIDE, PLACES = 64, 4  # features and locations of `apart_by`


def apart_by(apart: float, n: int, cell: int, seed: int) -> Tensor:
    """(n, 64, 2, 2) of a cell: of its covariance and mean a part, larger with `apart`, is its own."""
    scale = np.geomspace(0.2, 2, WIDE)[:, None] / 8
    common, own = (np.random.default_rng(s).normal(size=(PLACES, WIDE, WIDE)) * scale for s in (99, cell))
    mixing = (common + apart * own) / np.sqrt(1 + apart**2)
    mean = apart * np.random.default_rng(50 + cell).normal(size=(WIDE, PLACES))
    drawn = np.random.default_rng(seed).normal(size=(n, WIDE, PLACES))
    x = np.einsum("pgf,nfp->ngp", mixing, drawn) + mean
    return torch.from_numpy(x.reshape(n, WIDE, 2, 2).astype(np.float32))


@pytest.mark.slow
@pytest.mark.parametrize("n", [(10, 30), (30, 30), (10, 200)])
@pytest.mark.parametrize("apart", [0.0, 0.1, 0.3, 1.0, 3.0])
def test_conditions_detect_nearly_as_well_as_the_better_of_none_and_apart(apart: float, n: tuple[int, int]) -> None:
    """Locations with noise added among those without: the AUROC, of 64 features as of a narrow backbone."""
    x = torch.cat([apart_by(apart, n[k], k, k) for k in (0, 1)])
    cell = torch.repeat_interleave(torch.arange(2), torch.tensor(n))
    together, pooled = fitted(x, cell, shrinkage=None), fitted(x, shrinkage=None)
    found = []
    for k in (0, 1):
        alone, new = fitted(x[cell == k], shrinkage=None), apart_by(apart, 300, k, 10 + k)
        odd = new + 0.5 * torch.randn(new.shape, generator=torch.Generator().manual_seed(k))
        shown, label = torch.cat([new, odd]), np.repeat([0, 1], 300 * PLACES)
        own = torch.full((len(shown),), k)
        models = [(together, own), (pooled, 0 * own), (alone, 0 * own)]
        found.append([roc_auc(label, model.distances(shown, c).flatten().numpy()) for model, c in models])
    by_condition, by_none, by_each = np.mean(found, 0)
    assert by_condition > max(by_none, by_each) - 0.02
    if apart <= 0.3 and n[0] == 10:  # most of what pooling gains is gained
        assert by_condition > by_each + 0.7 * (by_none - by_each)


def test_a_cell_without_images_has_the_gaussians_of_all() -> None:
    x, cell = products((300, 300), 1.0)
    model = empty(x, 3).fit_grids(x, cell)
    mean, covariance = moments(x)
    np.testing.assert_allclose(model.mean[2], mean, rtol=1e-3, atol=1e-3)
    found = model.lower[2].double() @ model.lower[2].mT.double()
    between = np.diagonal(covariance, axis1=1, axis2=2).sum()
    assert np.diagonal(found.numpy(), axis1=1, axis2=2).sum() == pytest.approx(between, rel=0.6)


@pytest.mark.parametrize("apart", [0.0, 0.3, 3.0])
def test_leave_one_out_of_several_cells_is_close_to_fitting_without_the_image(apart: float) -> None:
    x, cell = products((12, 20), apart)
    model = fitted(x, cell)
    some = torch.arange(0, len(x), 6)
    found, wanted = model.leave_one_out(x, cell)[some], []
    for i in some.tolist():
        rest = torch.arange(len(x)) != i
        without = empty(x, 2)
        wanted.append(without.fit_grids(x[rest], cell[rest]).distances(x[i : i + 1], cell[i : i + 1]))
    assert float((found / torch.cat(wanted)).log().abs().mean()) < 0.12
    assert float(found.mean() / torch.cat(wanted).mean()) == pytest.approx(1, abs=0.1)


def test_features_move_with_a_condition_that_is_a_number() -> None:
    """As at the mean of the numbers, within the range fitted to; what the number explains is no deviation."""
    draw = torch.Generator().manual_seed(1)
    slope = torch.randn(F, H, W, generator=draw)
    c = torch.cat([torch.eye(2)[torch.arange(80) % 2], 2 * torch.randn(80, 1, generator=draw)], 1)

    def moved(x: Tensor, c: Tensor) -> Tensor:
        return x + 5 * slope * c[:, 2, None, None, None]

    model = PatchGaussian(
        PatchGaussianOptions(context=0, global_grid=2, neighbours=50),
        SHAPE,
        [[1.0, 0, 0], [0, 1, 0]],
        [False, False, True],
    )
    model.fit(Source(moved(features(80), c), c=c))
    new, at = features(30, seed=5), c[:30]
    x, cell = model.given(moved(new, at), at)
    wanted = new + 5 * slope * c[:, 2].mean()
    assert (x - wanted).abs().mean() < 0.1 * (moved(new, at) - wanted).abs().mean()
    assert cell.tolist() == [0, 1] * 15
    wrong = at.clone()
    wrong[:, 2] = at[:, 2].flip(0)
    told = [model.gaussian_distances(*model.given(moved(new, at), some)).mean() for some in (at, wrong)]
    assert told[1] > 3 * told[0]
    beyond, limit = at.clone(), at.clone()
    beyond[:, 2], limit[:, 2] = 1e4, c[:, 2].max()
    torch.testing.assert_close(model.given(new, beyond)[0], model.given(new, limit)[0])
    loaded = PatchGaussian(model.options, **model.sizes())
    loaded.load_state_dict(model.state_dict())
    torch.testing.assert_close(loaded.given(new, at)[0], model.given(new, at)[0])


def test_ignored_locations_do_not_count_in_the_mean_covariance() -> None:
    normal, new = features(20), features(4, seed=1)
    ignored = torch.zeros(1, H, W, dtype=torch.bool)
    ignored[0, 0, :2] = True
    counted = ~ignored[0].flatten().numpy()
    found = fitted(normal, ignored=ignored, shrinkage=0.4).distances(new, one_cell(new)).flatten(1).numpy()
    wanted = by_hand(normal, new, 0.4, counted)
    np.testing.assert_allclose(found[:, counted], wanted[:, counted], rtol=2e-3)


def test_where_a_cell_ignores_a_location_the_others_there_have_the_context_of_their_own_images() -> None:
    cell, draw = torch.arange(160) % 2, torch.Generator().manual_seed(0)
    shared = 20 * torch.randn(160, generator=draw)[:, None, None, None] * torch.rand(SHAPE, generator=draw)
    x = (0.3 * features(160) + shared) * torch.tensor([0.01, 1.0])[cell][:, None, None, None]  # far apart in scale
    ignored = torch.zeros(2, H, W, dtype=torch.bool)
    ignored[0, 0, :2] = True
    x = x.masked_fill(ignored[cell][:, None], 0)
    options: dict[str, Any] = {"context": 3, "shrinkage": None}
    model = fitted(x, cell, ignored, **options)
    assert model.basis.shape[1] > 0
    model.update_grids(x[:8], cell[:8])
    whole = fitted(torch.cat([x, x[:8]]), torch.cat([cell, cell[:8]]), ignored, **options)
    counted = ~ignored[cell]
    found, wanted = model.distances(x, cell)[counted], whole.distances(x, cell)[counted]
    torch.testing.assert_close(found, wanted, rtol=1e-2, atol=3e-2)


@pytest.mark.parametrize("context", [1, 3])
def test_context_is_a_conditional_gaussian(context: int) -> None:
    """Features and context u are jointly Gaussian: the mean moves by Σ_xu u, the covariance is what u leaves."""
    draw = torch.Generator().manual_seed(0)
    normal = features(120) + 3 * torch.randn(120, F, 1, 1, generator=draw)
    new = features(5, seed=1) + 3 * torch.randn(5, F, 1, 1, generator=draw)
    model = fitted(normal, context=context)
    basis = model.basis[0].double().numpy()
    assert len(basis) == context
    average = normal.double().mean((2, 3)).numpy()
    u, v = ((some.double().mean((2, 3)).numpy() - average.mean(0)) @ basis.T for some in (normal, new))
    np.testing.assert_allclose(np.cov(u.T).reshape(context, context), np.eye(context) / 1.01, atol=1e-3)
    mean, covariance = moments(normal)
    at = normal.double().flatten(2).permute(2, 0, 1).numpy()
    found = model.distances(new, one_cell(new)).flatten(1).numpy()
    for p in range(H * W):
        slope = (at[p] - mean[p]).T @ u / 119
        off = new.double().flatten(2)[:, :, p].numpy() - mean[p] - v @ slope.T
        left = covariance[p] + RIDGE * np.eye(F) - slope @ slope.T
        wanted = 0.5 * np.einsum("nf,fg,ng->n", off, np.linalg.inv(left), off)
        np.testing.assert_allclose(found[:, p], wanted, rtol=5e-3)
    moved = model.expected(new, one_cell(new))[0].double().numpy()
    slope = np.einsum("pnf,nt->pft", at - mean[:, None], u) / 119
    np.testing.assert_allclose(moved, mean + slope @ v[0], rtol=1e-3, atol=1e-3)


def test_few_images_have_no_context() -> None:
    assert fitted(features(31), context=4).basis.shape[1] == 0
    assert fitted(features(64), context=4).basis.shape[1] == 2


@pytest.mark.slow
@pytest.mark.parametrize("n", [8, 40])
@pytest.mark.parametrize("grid", [0, 2])
def test_leave_one_out_is_fitting_without_the_image(n: int, grid: int) -> None:
    """Exact but for the ridge without shrinkage and context, of locations and of the coarse grid."""
    x, ridge = features(n, scale=100), torch.tensor(0.01)
    model = empty(x, global_grid=grid).fit_grids(x, one_cell(x), ridge)
    found = model.leave_one_out(x, one_cell(x))
    for i in (0, 3, n - 1):
        rest = x[torch.arange(n) != i]
        without = empty(x, global_grid=grid).fit_grids(rest, one_cell(rest), ridge)
        own, cell = x[i : i + 1], one_cell(x[:1])
        torch.testing.assert_close(found[i : i + 1], without.distances(own, cell), rtol=0.02, atol=1e-3)
        if grid and n > 8:
            globally = model.global_distances(x, one_cell(x), leave_one_out=True)[i : i + 1]
            torch.testing.assert_close(globally, without.global_distances(own, cell), rtol=0.03, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("n", [10, 20])
def test_with_few_images_the_coarse_grid_is_refitted_without_each(n: int) -> None:
    """With the product's features and shrinkage, where the formula gives a fraction of it."""
    generator = torch.Generator().manual_seed(n)
    mixing = torch.randn(176, 176, generator=generator) * torch.linspace(1, 0.02, 176)
    x = torch.einsum("gf,nfhw->nghw", mixing, torch.randn(n, 176, 4, 4, generator=generator))
    options = PatchGaussianOptions(neighbours=0, words=0)
    model = PatchGaussian(options, x.shape[1:]).fit_grids(x, one_cell(x))
    found = model.global_distances(x, one_cell(x), leave_one_out=True)
    for i in (0, n - 1):
        rest = x[torch.arange(n) != i]
        without = PatchGaussian(PatchGaussianOptions(neighbours=0, words=0), x.shape[1:]).fit_grids(
            rest, one_cell(rest)
        )
        torch.testing.assert_close(found[i : i + 1], without.global_distances(x[i : i + 1], one_cell(x[:1])))
    assert model.coarse is not None
    formula = model.coarse.leave_one_out(model.coarsen(x, one_cell(x)), one_cell(x)).mean((1, 2))
    assert float(formula.mean()) < 0.8 * float(found.mean())


def test_the_coarse_grid_is_the_same_model_of_averaged_features() -> None:
    x = features(40)
    model = fitted(x, global_grid=2)
    parts = [x[:, :, r, s].mean((2, 3)) for r in (slice(2), slice(1, 3)) for s in (slice(2), slice(2, 4))]
    coarse = torch.stack(parts, 2).unflatten(2, (2, 2))
    torch.testing.assert_close(model.coarsen(x, one_cell(x)), coarse, rtol=1e-5, atol=1e-5)
    wanted = by_hand(coarse, coarse).mean(1)
    np.testing.assert_allclose(model.global_distances(x, one_cell(x)).numpy(), wanted, rtol=2e-3)


def test_a_saved_state_comes_back_whole() -> None:
    """Cholesky factors travel as lower triangles, image counts among the sizes."""
    x, cell = features(70), torch.arange(70) % 2
    model = fitted(x, cell, shrinkage=None, context=1, global_grid=2)
    other = PatchGaussian(model.options, **model.sizes())
    other.load_state_dict(model.state_dict())
    for name, kept in model.named_buffers():
        assert torch.equal(dict(other.named_buffers())[name], kept), name


def test_the_cell_is_that_of_the_categorical_conditions() -> None:
    options = PatchGaussianOptions()
    model = PatchGaussian(options, SHAPE, [[1.0, 0, 0], [0, 1, 0]], [False, False, True])
    for value in (-40.0, 0.0, 40.0):
        c = torch.tensor([[0, 1, value], [1, 0, value], [0, 1, -value]])
        assert model.cell(c, 3).tolist() == [1, 0, 1]
    assert empty(features(1)).cell(None, 4).tolist() == [0] * 4


def test_spread_is_the_deviation_of_each_feature() -> None:
    x = features(50)
    wanted = np.sqrt(np.diagonal(moments(x)[1][3]) + RIDGE)
    np.testing.assert_allclose(fitted(x).spread(0, 3).numpy(), wanted, rtol=1e-3)


def test_whitening_takes_half_precision_and_leaves_its_input_alone() -> None:
    x = features(20)
    model, half = fitted(x), x.half()
    kept = half.clone()
    white = model.whiten(half, one_cell(half))
    assert white.dtype == torch.float32
    assert torch.equal(half, kept)
    torch.testing.assert_close(white, model.whiten(half.float(), one_cell(half)))


def test_shrinkage_falls_with_the_images_and_stays_a_share() -> None:
    for f in (1, 2, 152, 1000):
        shares = [shrinkage(n, f) for n in range(1, 4 * f + 50)]
        assert all(0 < s <= 1 for s in shares)
        assert all(a > b for a, b in pairwise(shares))
        assert shrinkage(f, f) == pytest.approx(1 / 11)
        assert shrinkage(200 * f, f) == pytest.approx(shrinkage(100 * f, f) / 8, rel=0.01)  # as 1 / n³


@pytest.mark.slow
def test_at_the_size_of_the_product() -> None:
    """176 features of 60 images, fewer than features, with more locations than are whitened together."""
    draw = torch.Generator().manual_seed(0)
    mixing = torch.randn(176, 176, generator=draw) / 13
    normal, new = (torch.einsum("gf,nfhw->nghw", mixing, torch.randn(n, 176, 9, 9, generator=draw)) for n in (60, 5))
    found = fitted(normal, shrinkage=None).distances(new, one_cell(new)).flatten(1).numpy()
    np.testing.assert_allclose(found, by_hand(normal, new, shrinkage(60, 176)), rtol=2e-3)


@pytest.mark.parametrize("context", [0, 2])
def test_energies_are_those_of_the_gaussian_of_the_features_alone(context: int) -> None:
    """½ (x − μ)ᵀ Σ⁻¹ (x − μ) + ½ log |Σ| with Σ = L Lᵀ + S Sᵀ, whatever the context; the mean over locations."""
    normal, new = features(80), features(6, seed=1, scale=2)
    model = fitted(normal, context=context)
    assert model.slope.shape[-1] == context
    lower, slope = model.lower[0].double().numpy(), model.slope[0].double().numpy()
    covariance = lower @ lower.swapaxes(1, 2) + slope @ slope.swapaxes(1, 2)
    off = new.double().flatten(2).permute(2, 0, 1).numpy() - model.mean[0].double().numpy()[:, None]
    square = np.einsum("pnf,pfg,png->np", off, np.linalg.inv(covariance), off)
    wanted = (0.5 * square + 0.5 * np.linalg.slogdet(covariance)[1]).mean(1)
    np.testing.assert_allclose(model.energies(new, one_cell(new)).numpy(), wanted, rtol=1e-3)


def test_energies_of_ignored_locations_do_not_count() -> None:
    normal, new = features(40), features(4, seed=1)
    model = fitted(normal, ignored=(torch.arange(H * W) % 2 == 0).reshape(1, H, W))
    moved = new.flatten(2).clone()
    moved[:, :, ::2] += 100
    before, after = (model.energies(x, one_cell(x)) for x in (new, moved.unflatten(2, (H, W))))
    torch.testing.assert_close(before, after)


@pytest.mark.parametrize("cell", [[0], [0, 0], [0, 0, 0], [1], [0, 1], [0, 0, 1]])
def test_one_image_and_cells_without_any_have_finite_distances(cell: list[int]) -> None:
    """As in a fold of few images, or of copies."""
    x, cells = features(len(cell)), torch.tensor(cell)
    model = empty(x, 2, shrinkage=None, context=16, global_grid=2, neighbours=50, words=4).fit_grids(x, cells)
    new = features(4, seed=1)
    for of in (torch.zeros(4, dtype=torch.int64), torch.ones(4, dtype=torch.int64)):
        assert model.distances(new, of).isfinite().all()
        assert model.image_distances(new, of).isfinite().all()
    assert model.leave_one_out(x, cells).isfinite().all()
    assert model.image_distances(x, cells, leave_one_out=True).isfinite().all()
