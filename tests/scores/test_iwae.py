"""The importance-weighted bound: its definition, its limits, and a model whose likelihood is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from helpers import vae
from knowngood.config import IWAE, MLP, Elbo, Gaussian
from knowngood.models.vae import ConditionalVAE
from knowngood.scores import elbo
from score_models import IMAGE, TABLE, items, small_model

SIGMA = 0.7


def at(model: ConditionalVAE, noise: Tensor, x: Tensor, c: Tensor | None) -> Tensor:
    """The score with the draws ε (K, D) given."""
    score = IWAE(samples=len(noise)).build()
    return score.score(model, {"noise": noise}, x, c, torch.zeros(len(x), dtype=torch.long)).values


@pytest.mark.parametrize("shape", [IMAGE, TABLE])
@pytest.mark.parametrize("samples", [1, 2, 7])
def test_it_is_its_definition_one_draw_at_a_time(shape: tuple[int, ...], samples: int) -> None:
    model, (x, c, stratum) = small_model(shape), items(6, shape)
    score = IWAE(samples=samples).build()
    state = score.fit(model, [])
    assert state["noise"].shape == (samples, 5)
    q, r = model.encode(x, c), model.prior(c, like=x.flatten(1))
    posterior, prior = (Normal(d.mean.double(), (0.5 * d.log_var.double()).exp()) for d in (q, r))
    weights = []
    for e in state["noise"]:
        z = q.mean + (0.5 * q.log_var).exp() * e
        log_p = model.likelihood.log_prob(x, model.decode(z, c)).flatten(1).double().sum(1)
        weights.append(log_p + prior.log_prob(z.double()).sum(1) - posterior.log_prob(z.double()).sum(1))
    expected = -torch.stack(weights).logsumexp(0) + math.log(samples)
    got = score.score(model, state, x, c, stratum, want_map=True)
    torch.testing.assert_close(got.values, expected, rtol=1e-5, atol=1e-5)
    assert got.map is None


def test_with_one_draw_it_is_the_elbo_of_that_draw() -> None:
    """Their difference is log q − log r at the draw instead of its mean, the KL."""
    model, (x, c, stratum) = small_model(), items(6)
    noise = torch.randn(1, 5, generator=torch.Generator().manual_seed(0))
    bound = Elbo(samples=1).build().score(model, {"noise": noise}, x, c, stratum)
    q, r = model.encode(x, c), model.prior(c, like=x.flatten(1))
    z = q.rsample(noise)
    kl_of_draw = (q.log_prob(z) - r.log_prob(z)).double().sum(1)
    torch.testing.assert_close(
        at(model, noise, x, c), bound.parts["elbo_reconstruction"] + kl_of_draw, rtol=1e-6, atol=1e-5
    )


@pytest.mark.slow
def test_in_expectation_it_falls_as_draws_are_added_and_starts_at_the_elbo() -> None:
    model, (x, c, stratum) = small_model(TABLE), items(8, TABLE)
    noise = torch.randn(6_000, 5, generator=torch.Generator().manual_seed(0))
    each = torch.stack([at(model, e[None], x, c) for e in noise[:2000]]).mean(0)
    bound = Elbo(samples=2000).build().score(model, {"noise": noise[:2000]}, x, c, stratum).values
    torch.testing.assert_close(each, bound, rtol=0.02, atol=0.05)
    means = [torch.stack([at(model, e, x, c) for e in noise.split(k)]).mean(0) for k in (16, 60, 600, 6000)]
    for looser, tighter in zip([each, *means[:-1]], means, strict=True):
        assert (tighter < looser).all()


class Linear(torch.nn.Module):
    """x = Wᵀz + noise, whose posterior is Gaussian; W has orthogonal rows, so its covariance is diagonal."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        draw = torch.randn(5, 3, generator=generator, dtype=torch.float64)
        values, vectors = torch.linalg.eigh(draw.t() @ draw)
        scale = torch.tensor([0.4, 1.0, 2.0], dtype=torch.float64)
        self.up = scale[:, None] * (draw @ (vectors * values.rsqrt())).t()  # (3, 5)
        self.precision = 1 + scale.square() / SIGMA**2

    def encode(self, x: Tensor, c: Tensor | None) -> Tensor:
        mean = x @ self.up.t() / SIGMA**2 / self.precision
        return torch.cat((mean, -self.precision.log().expand_as(mean)), 1)

    def decode(self, z: Tensor, c: Tensor | None) -> Tensor:
        return z @ self.up


@pytest.mark.parametrize("samples", [1, 2, 16])
def test_where_the_posterior_is_exact_it_is_the_likelihood_for_every_number_of_draws(samples: int) -> None:
    model = vae((5,), 3, 0, MLP(hidden=(2,)), Gaussian(sigma=SIGMA), "standard").double()
    model.net = net = Linear()
    x = 2 * torch.randn(9, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    covariance = net.up.t() @ net.up + SIGMA**2 * torch.eye(5, dtype=torch.float64)
    exact = -MultivariateNormal(torch.zeros(5, dtype=torch.float64), covariance).log_prob(x)
    score = IWAE(samples=samples).build()
    got = score.score(model, score.fit(model, []), x, None, torch.zeros(9, dtype=torch.long)).values
    torch.testing.assert_close(got, exact, rtol=1e-9, atol=0)


def test_chunks_of_draws_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (x, c, stratum) = small_model(), items(6)
    score = IWAE(samples=7).build()
    state = score.fit(model, [])
    whole = score.score(model, state, x, c, stratum).values
    for values_at_once in (1, 3 * x.numel()):
        monkeypatch.setattr(elbo, "AT_ONCE_CPU", values_at_once)
        torch.testing.assert_close(score.score(model, state, x, c, stratum).values, whole, rtol=1e-6, atol=0)


def test_the_mixture_over_conditions_may_be_taken() -> None:
    assert IWAE().build().is_likelihood
