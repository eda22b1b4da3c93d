"""The Gaussian of every location against its definition in float64, PaDiM's among others."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from knowngood.config import PatchGaussianOptions
from knowngood.models.patch_gaussian import PatchGaussian, shrinkage
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


def test_cells_do_not_leak_into_each_other_and_pooled_cells_have_the_gaussians_of_all() -> None:
    one, two = features(20), features(30, seed=3, scale=4) + 10
    x, cell = torch.cat([one, two]), torch.arange(50).ge(20).long()
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    together = fitted(x[order], cell[order], shrinkage=None)
    for k, alone in enumerate((one, two)):
        own = fitted(alone, shrinkage=None)
        for name in ("mean", "lower"):
            torch.testing.assert_close(getattr(together, name)[k], getattr(own, name)[0], rtol=1e-3, atol=1e-4)
    options = PatchGaussianOptions(shrinkage=0, context=0, global_grid=0, few="pool")
    pooled = PatchGaussian(options, SHAPE, torch.eye(2).tolist(), [False, False], [False, True]).fit_grids(x, cell)
    every = fitted(x)
    torch.testing.assert_close(pooled.lower[1], every.lower[0], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(pooled.lower[0], fitted(one).lower[0], rtol=1e-3, atol=1e-4)


def test_ignored_locations_do_not_count_in_the_mean_covariance() -> None:
    normal, new = features(20), features(4, seed=1)
    ignored = torch.zeros(1, H, W, dtype=torch.bool)
    ignored[0, 0, :2] = True
    counted = ~ignored[0].flatten().numpy()
    found = fitted(normal, ignored=ignored, shrinkage=0.4).distances(new, one_cell(new)).flatten(1).numpy()
    wanted = by_hand(normal, new, 0.4, counted)
    np.testing.assert_allclose(found[:, counted], wanted[:, counted], rtol=2e-3)


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


@pytest.mark.parametrize("n", [8, 40])
@pytest.mark.parametrize("grid", [0, 2])
def test_leave_one_out_is_fitting_without_the_image(n: int, grid: int) -> None:
    """Exact but for the ridge without shrinkage and context, of locations and of the coarse grid."""
    x = features(n, scale=100)
    model = fitted(x, global_grid=grid)
    found = model.leave_one_out(x, one_cell(x))
    for i in (0, 3, n - 1):
        without = fitted(x[torch.arange(n) != i], global_grid=grid)
        own, cell = x[i : i + 1], one_cell(x[:1])
        torch.testing.assert_close(found[i : i + 1], without.distances(own, cell), rtol=0.02, atol=1e-3)
        if grid and n > 8:
            globally = model.global_distances(x, one_cell(x), leave_one_out=True)[i : i + 1]
            torch.testing.assert_close(globally, without.global_distances(own, cell), rtol=0.02, atol=1e-3)


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
    model = PatchGaussian(options, SHAPE, [[1.0, 0, 0], [0, 1, 0]], [False, False, True], [False, False])
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
