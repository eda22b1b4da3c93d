"""Likelihood regret: an optimum that is known, items that do not touch each other, a model that stays as it was."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from helpers import vae
from knowngood.config import MLP, Elbo, Gaussian, LikelihoodRegret
from knowngood.models.distributions import DiagonalGaussian
from knowngood.models.vae import ConditionalVAE
from knowngood.scores import likelihood_regret
from knowngood.scores.elbo import common_normals
from knowngood.scores.likelihood_regret import elbo, elbo_of_prior, fitted
from score_models import IMAGE, TABLE, items, small_model

SIGMA = 0.7
ANTITHETIC = torch.tensor([[1.0], [-1.0]]).expand(2, 3)  # mean 0 and variance 1: the expectation of a quadratic, exact


class Linear(torch.nn.Module):
    """x = Wᵀz + noise with orthogonal rows of W. `error` is how far the encoder is off the exact posterior."""

    def __init__(self, error: float) -> None:
        super().__init__()
        draw = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        values, vectors = torch.linalg.eigh(draw.t() @ draw)
        scale = torch.tensor([0.4, 1.0, 2.0], dtype=torch.float64)
        self.up = scale[:, None] * (draw @ (vectors * values.rsqrt())).t()  # (3, 5)
        self.precision, self.error = 1 + scale.square() / SIGMA**2, error

    def encode(self, x: Tensor, c: Tensor | None) -> Tensor:
        mean = x @ self.up.t() / SIGMA**2 / self.precision
        return torch.cat((mean + self.error, self.error - self.precision.log().expand_as(mean)), 1)

    def decode(self, z: Tensor, c: Tensor | None) -> Tensor:
        return z @ self.up


def linear_model(error: float) -> ConditionalVAE:
    model = vae((5,), 3, 0, MLP(hidden=(2,)), Gaussian(sigma=SIGMA), "standard").double()
    model.net = Linear(error)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("error", [0.5, -1.5])
def test_where_the_posterior_is_gaussian_the_best_elbo_is_the_likelihood(error: float) -> None:
    model = linear_model(error)
    x = 2 * torch.randn(9, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    covariance = model.net.up.t() @ model.net.up + SIGMA**2 * torch.eye(5, dtype=torch.float64)
    exact = -MultivariateNormal(torch.zeros(5, dtype=torch.float64), covariance).log_prob(x)
    score = LikelihoodRegret(steps=30).build()
    noise = ANTITHETIC.repeat(60, 1)  # 60 pairs, by which what the encoder said of σ is forgotten
    got = score.score(model, {"noise": noise}, x, None, torch.zeros(9, dtype=torch.long), want_map=True)
    torch.testing.assert_close(got.parts["regret_optimised"], exact, rtol=1e-4, atol=0)
    assert (got.parts["regret_amortised"] > exact + 0.1).all()
    assert got.map is None


@pytest.mark.parametrize("draws", ["of mean 0 and variance 1", "any"])
def test_an_encoder_that_is_exact_leaves_nothing_to_regret(draws: str) -> None:
    """Under draws that are few and lopsided as well, to which (μ, σ²) could be fitted instead of to the item."""
    model = linear_model(0.0)
    x = 2 * torch.randn(9, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    lopsided = torch.tensor([[0.3, 1.4, -0.2], [0.8, 0.1, -1.1]])
    noise = lopsided if draws == "any" else ANTITHETIC
    score = LikelihoodRegret().build()
    values = score.score(model, {"noise": noise}, x, None, torch.zeros(9, dtype=torch.long)).values
    torch.testing.assert_close(values, torch.zeros(9, dtype=torch.float64), rtol=0, atol=1e-9)


@pytest.mark.parametrize("shape", [IMAGE, TABLE])
def test_it_starts_at_the_elbo_and_is_the_gain(shape: tuple[int, ...]) -> None:
    model, (x, c, stratum) = small_model(shape), items(6, shape)
    score = LikelihoodRegret(samples=3).build()
    got = score.score(model, score.fit(model, []), x, c, stratum)
    bound = Elbo(samples=3).build()
    expected = bound.score(model, bound.fit(model, []), x, c, stratum).values
    torch.testing.assert_close(got.parts["regret_amortised"], expected, rtol=1e-6, atol=1e-6)
    parts = got.parts["regret_amortised"] - got.parts["regret_optimised"]
    torch.testing.assert_close(got.values, parts, rtol=1e-12, atol=1e-12)
    assert (got.values > 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_it_is_never_negative(likelihood: str) -> None:
    model, (x, c, stratum) = small_model(likelihood=likelihood), items(6)
    for scale in (0.0, 1.0, 10.0):
        for steps in (1, 2, 5):
            score = LikelihoodRegret(steps=steps).build()
            values = score.score(model, score.fit(model, []), scale * x, c, stratum).values
            assert (values >= 0).all()
            assert torch.isfinite(values).all()


def test_more_steps_and_draws_come_nearer_to_the_best() -> None:
    """By the ELBO over many draws, which are not those of the score."""
    model, (x, c, _) = small_model(IMAGE, "bernoulli"), items(12)
    many, prior = common_normals(256, 5), model.prior(c, like=torch.zeros(12, 5))
    start = model.encode(x, c)
    first = elbo(model, start, prior, many, x, c)
    gains = []
    for steps, pairs in ((2, 1), (5, 2), (20, 16)):
        own, _ = fitted(model, start, prior, common_normals(2 * pairs, 5)[::2].sign(), steps, x, c)
        gains.append((elbo(model, own, prior, many, x, c) - first).mean())
    assert 0 < gains[0] < gains[1] < gains[2] * 1.001


def test_a_second_try_gains_or_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (x, c, stratum) = small_model(), items(12)
    score = LikelihoodRegret(steps=3).build()
    state = score.fit(model, [])
    values = []
    for narrower in (0.0, math.inf):  # of no item, of every item

        def narrowed(*given: Any, narrower: float = narrower, **options: Any) -> tuple[DiagonalGaussian, Tensor]:
            return fitted(*given, **options)[0], torch.full((len(given[1].mean),), narrower)

        monkeypatch.setattr(likelihood_regret, "fitted", narrowed)
        values.append(score.score(model, state, x, c, stratum).values)
    once, twice = values
    assert (twice >= once - 1e-9).all()
    assert (twice > once + 1e-3).any()


@pytest.mark.parametrize("repeated", [True, False])
def test_the_prior_of_a_condition_is_decoded_once_and_right_for_every_item(repeated: bool) -> None:
    model, (x, c, _) = small_model(), items(7)
    c = c if repeated else torch.rand(7, 3, generator=torch.Generator().manual_seed(4))
    noise, prior = common_normals(3, 5), model.prior(c, like=x)
    expected = elbo(model, prior, prior, noise, x, c)
    decode, rows = model.net.decode, []
    model.net.decode = lambda z, c: rows.append(len(z)) or decode(z, c)
    torch.testing.assert_close(elbo_of_prior(model, noise, x, c), expected, rtol=1e-6, atol=1e-6)
    assert rows == 3 * [len(torch.unique(c, dim=0))]


@pytest.mark.slow
@pytest.mark.parametrize(("net", "likelihood"), [("mlp", "gaussian"), ("conv", "gaussian"), ("conv", "bernoulli")])
def test_all_at_once_is_one_at_a_time(net: str, likelihood: str) -> None:
    model, (x, c, stratum) = small_model(IMAGE, likelihood, net), items(8)
    score = LikelihoodRegret(steps=30).build()
    state = score.fit(model, [])
    whole = score.score(model, state, x, c, stratum)
    alone = [score.score(model, state, x[i : i + 1], c[i : i + 1], stratum[i : i + 1]).values for i in range(8)]
    torch.testing.assert_close(whole.values, torch.cat(alone), rtol=1e-5, atol=0)


@pytest.mark.slow
def test_an_item_far_off_leaves_the_steps_of_the_others_as_they_are() -> None:
    """A bound on the norm of the gradients of all items together would not."""
    model, (x, c, stratum) = small_model(), items(6)
    score = LikelihoodRegret().build()
    state = score.fit(model, [])
    before = score.score(model, state, x, c, stratum).values
    x[3] = 1000.0
    after = score.score(model, state, x, c, stratum).values
    others = torch.arange(6) != 3
    torch.testing.assert_close(after[others], before[others], rtol=1e-5, atol=0)
    assert after[3] > 100 * before[3]


def test_where_the_encoder_is_lost_it_climbs_from_the_prior() -> None:
    """No 5 steps lead back from a posterior that is hundreds of standard deviations off."""
    model = linear_model(300.0)
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    score = LikelihoodRegret(steps=5).build()
    got = score.score(model, {"noise": ANTITHETIC}, x, None, torch.zeros(4, dtype=torch.long)).parts
    # Under the prior: E|x − Wᵀz|² = |x|² + |W|².
    expected = x.square().sum(1) + model.net.up.square().sum()
    at_prior = expected / (2 * SIGMA**2) + 5 * (math.log(SIGMA) + 0.5 * math.log(2 * math.pi))
    assert (got["regret_optimised"] < at_prior - 0.1).all()
    assert (got["regret_amortised"] > 1e4).all()


@pytest.mark.slow
def test_chunks_of_items_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (x, c, stratum) = small_model(), items(7)
    score = LikelihoodRegret().build()
    state = score.fit(model, [])
    whole = score.score(model, state, x, c, stratum).values
    for values_at_once in (1, 3 * 4 * x[0].numel()):
        monkeypatch.setattr(likelihood_regret, "AT_ONCE_CPU", values_at_once)
        torch.testing.assert_close(score.score(model, state, x, c, stratum).values, whole, rtol=1e-5, atol=0)


@torch.no_grad()
def test_the_model_keeps_its_weights_and_gets_no_gradients() -> None:
    model, (x, c, stratum) = small_model(), items(4)
    model.requires_grad_(True)
    model.net.decoder[0].bias.grad = marked = torch.full_like(model.net.decoder[0].bias, 7.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    score = LikelihoodRegret(steps=3).build()
    result = score.score(model, score.fit(model, []), x, c, stratum)
    assert not result.values.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert (marked == 7).all()
    assert [name for name, p in model.named_parameters() if p.grad is not None] == ["net.decoder.0.bias"]


def test_it_is_no_likelihood() -> None:
    assert not LikelihoodRegret().build().is_likelihood
