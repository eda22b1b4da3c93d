"""Restoration: its total variation, the minimum it finds where that is known, and its promises item by item."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from helpers import vae
from knowngood.config import MLP, Elbo, Gaussian, Restoration
from knowngood.errors import DataError, SettingsError
from knowngood.scores.restoration import differences, restore, smoothed, total_variation
from score_models import IMAGE, TABLE, batches, items, small_model


def image(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_total_variation_is_the_sum_over_neighbours_with_zero_around() -> None:
    r = image(2, 3, 4, 5)
    padded = np.pad(r.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)))
    expected = [
        sum(
            abs(one[c, i, j] - one[c, i + 1, j]) * (0 < j < 6) + abs(one[c, i, j] - one[c, i, j + 1]) * (0 < i < 5)
            for c in range(3)
            for i in range(5)
            for j in range(6)
        )
        for one in padded
    ]
    np.testing.assert_allclose(total_variation(r), expected)
    assert total_variation(torch.full((1, 1, 4, 5), 2.0)).item() == 2 * (4 + 4 + 5 + 5)  # the outline of a constant


@pytest.mark.slow
def test_smoothing_is_the_proximal_map_of_total_variation() -> None:
    v, weight = 2 * image(3, 1, 4, 5) - 1, torch.tensor([0.02, 0.2, 5.0], dtype=torch.float64)[:, None, None, None]
    got, dual = smoothed(v, weight, differences(torch.zeros_like(v)), iterations=2000)
    assert all((d.abs() <= weight + 1e-12).all() for d in dual)
    gap = got - v  # optimal: v − r = Dᵀp with |p| ≤ weight and ⟨p, Dr⟩ = weight·TV(r)
    reached = sum((p * d).sum((1, 2, 3)) for p, d in zip(dual, differences(got), strict=True))
    torch.testing.assert_close(reached, weight.flatten() * total_variation(got), rtol=1e-5, atol=1e-6)
    value = 0.5 * gap.square().sum((1, 2, 3)) + weight.flatten() * total_variation(got)
    for seed in range(20):
        other = got + 0.01 * torch.randn(got.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        worse = 0.5 * (other - v).square().sum((1, 2, 3)) + weight.flatten() * total_variation(other)
        assert (value <= worse + 1e-9).all()
    torch.testing.assert_close(got[2], torch.zeros_like(got[2]), rtol=0, atol=1e-6)


def quadratic(target: Tensor):
    """½·8·‖x − target‖², and its gradient."""
    return lambda x: (4 * (x - target).square().sum((1, 2, 3)), 8 * (x - target))


@pytest.mark.slow
def test_restoring_reaches_the_minimum_of_a_convex_problem() -> None:
    x, target, weight = image(2, 1, 3, 3), image(2, 1, 3, 3, seed=1), 0.6
    restored, value = restore(quadratic(target), x, weight, steps=200)
    for i in range(2):
        # Smooth form for a general solver: r = x̂ − x and bounds u on |Dr|.
        grad_count = sum(d[0].numel() for d in differences(x))

        def split(v: np.ndarray) -> tuple[Tensor, np.ndarray]:
            return torch.from_numpy(v[:9]).view(1, 1, 3, 3), v[9:]

        def objective(v: np.ndarray, i: int = i) -> float:
            r, u = split(v)
            return float(4 * (x[i] + r[0] - target[i]).square().sum() + weight * u.sum())

        def slack(v: np.ndarray, sign: int) -> np.ndarray:
            r, u = split(v)
            return u + sign * torch.cat([d.flatten() for d in differences(r)]).numpy()

        solved = minimize(
            objective,
            np.concatenate([np.zeros(9), np.ones(grad_count)]),
            method="SLSQP",
            constraints=[{"type": "ineq", "fun": slack, "args": (sign,)} for sign in (1, -1)],
            options={"maxiter": 500, "ftol": 1e-12},
        )
        assert float(value[i]) == pytest.approx(solved.fun, rel=1e-4)
        np.testing.assert_allclose(restored[i].flatten() - x[i].flatten(), solved.x[:9], atol=5e-3)


@pytest.mark.slow
@pytest.mark.parametrize("weight", [1e-3, 0.1, 3.0])
@pytest.mark.parametrize("steps", [1, 7, 40])
def test_the_objective_never_ends_above_its_start(weight: float, steps: int) -> None:
    x, target = image(6, 2, 5, 4), image(6, 2, 5, 4, seed=1)

    def rugged(x: Tensor) -> tuple[Tensor, Tensor]:  # many minima, and a slope that misleads
        value, slope = quadratic(target)(x)
        return value + (40 * x).sin().sum((1, 2, 3)), slope + 40 * (40 * x).cos()

    start, _ = rugged(x)
    restored, value = restore(rugged, x, weight, steps)
    assert (value <= start).all()
    assert steps == 1 or (value < start).any()
    torch.testing.assert_close(value, rugged(restored)[0] + weight * total_variation(restored - x))
    assert restored.min() >= 0
    assert restored.max() <= 1


def test_values_beyond_the_range_may_stay_but_go_no_further() -> None:
    x = torch.tensor([[[[1.5, 0.5], [-0.25, 0.5]]]], dtype=torch.float64)
    away, _ = restore(quadratic(x * 0 + torch.tensor([[3.0, 3], [-3, -3]]).double()), x, 1e-4, steps=50)
    torch.testing.assert_close(away, torch.tensor([[[[1.5, 1], [-0.25, 0]]]]).double(), rtol=0, atol=1e-3)


@pytest.mark.slow
def test_large_weights_leave_images_as_they_are_and_small_ones_restore_them() -> None:
    model, (x, c, stratum) = small_model(likelihood="gaussian"), items(4)
    free, tied = (Restoration(weight=w, steps=30).build() for w in (1e-3, 1e6))
    state = free.fit(model, batches(30))
    moved, stayed = (s.score(model, state, x, c, stratum).values for s in (free, tied))
    assert (stayed <= 1e-9).all()
    assert (moved > 1).all()


@pytest.mark.slow
def test_elbo_rises_and_every_item_goes_its_own_way() -> None:
    model, (x, c, stratum) = small_model(net="conv"), items(5)
    score = Restoration(weight=0.02, steps=15, samples=2).build()
    state = score.fit(model, batches(30))
    whole = score.score(model, state, x, c, stratum, want_map=True)
    assert whole.map is not None
    for i in range(5):
        alone = score.score(model, state, x[i : i + 1], c[i : i + 1], stratum[i : i + 1], want_map=True)
        torch.testing.assert_close(alone.values, whole.values[i : i + 1], rtol=1e-7, atol=0)
        torch.testing.assert_close(alone.map, whole.map[i : i + 1], rtol=1e-6, atol=1e-9)
    assert (whole.values > 0.1).all()
    assert all(p.dtype == torch.float32 and p.grad is None for p in model.parameters())


class Flat(nn.Module):
    """A decoder that always draws grey ½, and a code that is always 0."""

    def encode(self, x: Tensor, c: Tensor | None) -> Tensor:
        return x.new_zeros(len(x), 2)

    def decode(self, z: Tensor, c: Tensor | None) -> Tensor:
        return z.new_full((len(z), 1, 8, 8), 0.5)


@pytest.mark.slow
def test_a_defect_is_taken_back_and_noise_is_left() -> None:
    model = vae((1, 8, 8), 1, 0, MLP(hidden=(2,)), Gaussian(sigma=0.05), "standard")
    model.net = Flat()
    noise = 0.05 * torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    x = (0.5 + noise).clamp(0, 1)
    x[1, 0, 2:5, 3:6] += 0.4
    score = Restoration(weight=0.5, steps=60).build()
    state = {"residual": torch.tensor(0.05, dtype=torch.float64)}
    found = score.score(model, state, x, None, torch.zeros(2, dtype=torch.long), want_map=True)
    assert found.map is not None
    inside = found.map[1, 2:5, 3:6]
    assert (inside > 0.25).all()
    assert inside.sum() > 0.8 * found.map[1].sum()
    assert found.values[1] > 5 * found.values[0]


def test_scale_is_the_residual_of_normals() -> None:
    model, fitted = small_model(), batches(30)
    state = Restoration(samples=3).build().fit(model, fitted)
    x, c = (torch.cat(column) for column in ([b.x for b in fitted], [b.c for b in fitted]))
    expected = (x - model.reconstruct(x, c)).square().mean().sqrt()
    assert float(state["residual"]) == pytest.approx(float(expected), rel=1e-5)
    assert torch.equal(state["noise"], Elbo(samples=3).build().fit(model, [])["noise"])


def test_tables_and_no_normals_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"'restoration' needs images, for .* have 6 features"):
        Restoration().build().check(small_model(TABLE))
    Restoration().build().check(small_model(IMAGE))
    with pytest.raises(DataError, match="no normals were given"):
        Restoration().build().fit(small_model(), [])
