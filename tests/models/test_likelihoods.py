"""Likelihoods against scipy and torch.distributions, and what a learned σ settles at."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from knowngood.config import Bernoulli, Gaussian
from knowngood.models.likelihoods import GaussianLikelihood

SMALLEST_SIGMA = 0.01

SHAPE = (2, 3, 4)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian(shape: tuple[int, ...] = SHAPE, **options: Any) -> GaussianLikelihood:
    return Gaussian(**options).build(shape).double()


def set_sigma(likelihood: GaussianLikelihood, sigma: torch.Tensor) -> None:
    """Put a learned σ (above the floor) where it is wanted, by bisection: independent of how it is parametrised."""
    assert likelihood.raw is not None
    low, high = torch.full_like(likelihood.raw, -50), torch.full_like(likelihood.raw, 50)
    for _ in range(80):
        with torch.no_grad():
            likelihood.raw.copy_((low + high) / 2)
            above = likelihood.log_sigma(sigma) > sigma.log()
            low, high = torch.where(above, low, likelihood.raw), torch.where(above, likelihood.raw, high)


# Bernoulli ----------------------------------------------------------------------------------------------------------


def test_bernoulli_is_the_torch_distribution_on_binary_values_and_sums_to_one() -> None:
    likelihood = Bernoulli().build(SHAPE)
    logits = 4 * draw(5, *SHAPE)
    black, white = torch.zeros_like(logits), torch.ones_like(logits)
    for x in (black, white):
        expected = torch.distributions.Bernoulli(logits=logits).log_prob(x)
        torch.testing.assert_close(likelihood.log_prob(x, logits), expected, rtol=1e-12, atol=1e-12)
    total = likelihood.log_prob(black, logits).exp() + likelihood.log_prob(white, logits).exp()
    torch.testing.assert_close(total, white, rtol=1e-12, atol=1e-12)


def test_bernoulli_of_grey_values_is_the_cross_entropy_and_best_at_the_value_itself() -> None:
    likelihood = Bernoulli().build(SHAPE)
    x = torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    logits = draw(5, *SHAPE, seed=2).requires_grad_()
    p = likelihood.mean(logits)
    expected = x * p.log() + (1 - x) * (1 - p).log()
    torch.testing.assert_close(likelihood.log_prob(x, logits), expected, rtol=1e-10, atol=1e-10)
    best = torch.logit(x).requires_grad_()
    (slope,) = torch.autograd.grad(likelihood.log_prob(x, best).sum(), best)
    assert slope.abs().max() < 1e-12
    assert (likelihood.log_prob(x, best) > likelihood.log_prob(x, best + 0.1)).all()
    assert (likelihood.log_prob(x, best) > likelihood.log_prob(x, best - 0.1)).all()


def test_bernoulli_stays_finite_at_extreme_logits() -> None:
    likelihood = Bernoulli().build((1,))
    logits = torch.tensor([[-500.0], [500.0]])
    wrong, right = torch.tensor([[1.0], [0.0]]), torch.tensor([[0.0], [1.0]])
    assert likelihood.log_prob(wrong, logits).tolist() == [[-500.0], [-500.0]]
    assert likelihood.log_prob(right, logits).tolist() == [[0.0], [0.0]]


# Gaussian -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("squash", [False, True])
@pytest.mark.parametrize("sigma", [0.3, 1, "scalar", "pixel", "input"])
@pytest.mark.parametrize("shape", [SHAPE, (6,)])
def test_gaussian_agrees_with_scipy(shape: tuple[int, ...], sigma: Any, squash: bool) -> None:
    likelihood = gaussian(shape, sigma=sigma, squash=squash)
    if likelihood.raw is not None:
        with torch.no_grad():
            likelihood.raw += 0.1 * draw(*likelihood.raw.shape, seed=3)
    params = draw(5, likelihood.outputs * shape[0], *shape[1:], seed=4)
    x = draw(5, *shape, seed=5)

    location = params[:, : shape[0]]
    location = location.sigmoid() if squash else location
    torch.testing.assert_close(likelihood.mean(params), location)
    if sigma == "input":
        raw = params[:, shape[0] :]
        scale = SMALLEST_SIGMA * torch.exp(torch.log1p((raw - math.log(SMALLEST_SIGMA)).exp()))
    else:
        scale = likelihood.log_sigma(params).exp().expand(5, *shape)
    if isinstance(sigma, (int, float)):
        assert scale.flatten()[0].item() == pytest.approx(sigma)
    expected = stats.norm.logpdf(x.numpy(), location.numpy(), scale.detach().numpy())
    found = likelihood.log_prob(x, params)
    assert found.shape == x.shape
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize(
    ("sigma", "outputs", "free"), [(0.5, 1, None), ("scalar", 1, 1), ("pixel", 1, 2 * 3 * 4), ("input", 2, None)]
)
def test_each_kind_of_sigma_has_the_freedom_its_name_says(sigma: Any, outputs: int, free: int | None) -> None:
    likelihood = gaussian(sigma=sigma)
    assert likelihood.outputs == outputs
    assert sum(parameter.numel() for parameter in likelihood.parameters()) == (free or 0)
    start = likelihood.log_sigma(torch.zeros(1, outputs * 2, 3, 4)).exp()
    if free:
        assert start.min() == start.max()
        assert start.max().item() == pytest.approx(0.2, abs=0.02)  # starts near .2 of the value range


@pytest.mark.slow
def test_gaussian_gradients_are_right() -> None:
    x, params = draw(3, *SHAPE), draw(3, 4, 3, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: gaussian(sigma="input", squash=True).log_prob(x, p), (params,))
    likelihood = gaussian(sigma="pixel")
    assert likelihood.raw is not None
    raw = likelihood.raw.detach().clone().requires_grad_()

    def with_raw(value: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(_LogProb(likelihood), {"likelihood.raw": value}, (x, params[:, :2].detach()))

    assert torch.autograd.gradcheck(with_raw, (raw,))


class _LogProb(torch.nn.Module):
    def __init__(self, likelihood: GaussianLikelihood) -> None:
        super().__init__()
        self.likelihood = likelihood

    def forward(self, x: torch.Tensor, params: torch.Tensor) -> torch.Tensor:
        return self.likelihood.log_prob(x, params)


# Learned σ ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sigma", "axes"), [("scalar", (0, 1, 2, 3)), ("pixel", (0,))])
def test_learned_sigma_is_best_at_the_root_mean_square_error(sigma: Any, axes: tuple[int, ...]) -> None:
    likelihood = gaussian(sigma=sigma)
    params, x = draw(50, *SHAPE), draw(50, *SHAPE) + 0.3 * draw(50, *SHAPE, seed=1)
    rms = (x - params).square().mean(axes, keepdim=True).sqrt()[0]
    assert likelihood.raw is not None

    optimiser = torch.optim.LBFGS([likelihood.raw], max_iter=200, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = -likelihood.log_prob(x, params).sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    torch.testing.assert_close(likelihood.log_sigma(params).exp(), rms, rtol=1e-5, atol=0)


def test_at_the_best_sigma_the_loss_is_the_log_of_the_error() -> None:
    """−log p summed over n values is n·(log RMS + ½ + ½ log 2π): the constant is kept, and σ weighs the KL."""
    likelihood = gaussian()
    params, x = draw(50, *SHAPE), draw(50, *SHAPE, seed=1)
    rms = (x - params).square().mean().sqrt()
    set_sigma(likelihood, rms)
    loss = -likelihood.log_prob(x, params).sum().item()
    assert loss == pytest.approx(x.numel() * (math.log(rms.item()) + 0.5 + 0.5 * math.log(2 * math.pi)), rel=1e-10)


@pytest.mark.parametrize("sigma", ["scalar", "pixel"])
def test_learned_sigma_never_falls_below_its_floor(sigma: Any) -> None:
    likelihood = gaussian(sigma=sigma)
    assert likelihood.raw is not None
    x = draw(8, *SHAPE)
    with torch.no_grad():
        likelihood.raw.fill_(-1e6)
    assert likelihood.log_sigma(x).exp().min().item() == pytest.approx(SMALLEST_SIGMA, rel=1e-12)
    perfect = likelihood.log_prob(x, x)  # pixels that never vary keep a finite density
    assert perfect.max().item() == pytest.approx(-math.log(SMALLEST_SIGMA) - 0.5 * math.log(2 * math.pi), rel=1e-10)


def test_sigma_for_each_input_has_the_same_floor_and_its_own_values() -> None:
    likelihood = gaussian(sigma="input")
    params = draw(2, 4, 3, 4)
    params[0, 2:] = -1e6
    scale = likelihood.log_sigma(params).exp()
    assert scale.shape == (2, *SHAPE)
    assert scale[0].max().item() == pytest.approx(SMALLEST_SIGMA, rel=1e-12)
    assert scale[1].unique().numel() == 24
    assert scale.min() >= SMALLEST_SIGMA * (1 - 1e-12)
