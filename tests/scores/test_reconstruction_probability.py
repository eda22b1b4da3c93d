"""Reconstruction probability: what learned variances do to it, and models that have none."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from helpers import vae
from knowngood.config import MLP, Bernoulli, Gaussian, ReconstructionProbability
from knowngood.errors import SettingsError
from knowngood.models.vae import ConditionalVAE
from score_models import IMAGE, TABLE, items, small_model


def model_with(likelihood: Bernoulli | Gaussian) -> ConditionalVAE:
    return vae((4,), 2, 0, MLP(hidden=(3,)), likelihood, "standard")


@pytest.mark.parametrize("shape", [IMAGE, TABLE])
def test_it_is_its_definition_one_draw_at_a_time(shape: tuple[int, ...]) -> None:
    model, (x, c, stratum) = small_model(shape), items(6, shape)
    score = ReconstructionProbability(samples=3).build()
    state = score.fit(model, [])
    q, log_p = model.encode(x, c), []
    for e in state["noise"]:
        params = model.decode(q.mean + (0.5 * q.log_var).exp() * e, c)
        normal = Normal(model.likelihood.mean(params).double(), model.likelihood.log_sigma(params).double().exp())
        log_p.append(normal.log_prob(x.double()).flatten(1).sum(1))
    got = score.score(model, state, x, c, stratum, want_map=True)
    torch.testing.assert_close(got.values, -torch.stack(log_p).mean(0), rtol=1e-5, atol=1e-5)
    assert got.parts == {}
    if shape == TABLE:
        assert got.map is None
    else:
        torch.testing.assert_close(got.map.sum((1, 2)), got.values, rtol=1e-9, atol=0)


class Varies(torch.nn.Module):
    """Expects 0 everywhere, with a larger σ at the first of two values."""

    def encode(self, x: Tensor, c: Tensor | None) -> Tensor:
        return torch.zeros(len(x), 2)

    def decode(self, z: Tensor, c: Tensor | None) -> Tensor:
        raw = torch.tensor([0.0, 0.0, math.log(1.0), math.log(0.1)])
        return raw.expand(len(z), 4)


def test_worked_by_hand_the_same_error_counts_by_the_variance_learned_for_it() -> None:
    model = vae((2,), 1, 0, MLP(hidden=(2,)), Gaussian(sigma="input"), "standard")
    model.net = Varies()
    x = torch.tensor([[0.0, 0.0], [0.5, 0.0], [0.0, 0.5]])
    score = ReconstructionProbability().build()
    values = score.score(model, score.fit(model, []), x, None, torch.zeros(3, dtype=torch.long)).values
    floor = math.log(0.01)  # σ = floor + softplus(raw − floor) on the log scale
    sigma = [math.exp(floor + math.log1p(s / 0.01)) for s in (1.0, 0.1)]
    extra = (values - values[0]).tolist()
    assert extra == pytest.approx([0, 0.125 / sigma[0] ** 2, 0.125 / sigma[1] ** 2], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("sigma", ["scalar", "pixel", "input"])
def test_every_learned_variance_is_taken(sigma: str) -> None:
    ReconstructionProbability().build().check(model_with(Gaussian(sigma=sigma)))


@pytest.mark.parametrize(
    ("likelihood", "given"),
    [(Bernoulli(), "likelihood 'bernoulli' learns none"), (Gaussian(sigma=0.1), "'gaussian' with sigma = 0.1 fixed")],
)
def test_a_model_without_learned_variance_is_refused_with_the_way_out(
    likelihood: Bernoulli | Gaussian, given: str
) -> None:
    with pytest.raises(SettingsError, match=given) as error:
        ReconstructionProbability().build().check(model_with(likelihood))
    assert "'sigma': 'input'" in str(error.value)
    assert "or score by 'reconstruction'" in str(error.value)


def test_without_the_kl_it_is_no_likelihood() -> None:
    assert not ReconstructionProbability().build().is_likelihood
