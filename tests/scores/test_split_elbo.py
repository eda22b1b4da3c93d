"""The split ELBO by its definition, by hand, and what it leaves out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from helpers import vae
from knowngood.config import DANVAE, MLP, Elbo, Gaussian, ScoreChoice, SplitElbo, parse
from knowngood.errors import SettingsError
from knowngood.models.vae import ConditionalVAE
from score_models import IMAGE, TABLE, batches, items, small_model

NUISANCE = 2


def split_model(shape: tuple[int, ...] = IMAGE, likelihood: str = "gaussian", net: str = "mlp") -> ConditionalVAE:
    model = small_model(shape, likelihood, net)
    model.nuisance_dim = NUISANCE
    return model


@pytest.mark.parametrize("shape", [IMAGE, TABLE])
def test_split_elbo_is_its_definition(shape: tuple[int, ...]) -> None:
    model, (x, c, stratum) = split_model(shape), items(6, shape)
    q = model.encode(x, c)
    prior = model.prior(c, like=q.mean)
    normals = [Normal(d.mean.double(), (0.5 * d.log_var.double()).exp()) for d in (q, prior)]
    kl = kl_divergence(*normals)
    log_p = model.likelihood.log_prob(x, model.decode(q.mean, c)).flatten(1).double().sum(1)

    result = SplitElbo().build().score(model, {}, x, c, stratum)
    torch.testing.assert_close(result.values, -log_p + kl[:, :3].sum(1), rtol=1e-5, atol=1e-5)
    assert list(result.parts) == ["split_reconstruction", "split_kl", "nuisance_kl"]
    torch.testing.assert_close(result.parts["split_reconstruction"], -log_p, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(result.parts["split_kl"], kl[:, :3].sum(1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(result.parts["nuisance_kl"], kl[:, 3:].sum(1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_with_the_nuisance_kl_it_is_the_elbo_at_the_mean(likelihood: str) -> None:
    model, (x, c, stratum) = split_model(likelihood=likelihood), items(6)
    ours = SplitElbo().build().score(model, {}, x, c, stratum, want_map=True)
    theirs = Elbo(samples=0).build().score(model, {}, x, c, stratum, want_map=True)
    torch.testing.assert_close(ours.values + ours.parts["nuisance_kl"], theirs.values, rtol=1e-6, atol=0)
    torch.testing.assert_close(ours.map, theirs.map, rtol=1e-6, atol=1e-9)


class Codes(torch.nn.Module):
    """x = (a, b, noise) with z_a = a, z_n = b, and a decoder that adds them up."""

    def encode(self, x: Tensor, c: Tensor | None) -> Tensor:
        return torch.cat((x[:, :2], torch.zeros(len(x), 2)), 1)  # log variance 0

    def decode(self, z: Tensor, c: Tensor | None) -> Tensor:
        return torch.cat((z, torch.zeros(len(z), 1)), 1)


def test_worked_by_hand_an_unusual_nuisance_costs_nothing_and_an_anomalous_code_does() -> None:
    model = vae((3,), 2, 0, MLP(hidden=(2,)), Gaussian(sigma=0.5), "standard", nuisance_dim=1)
    model.net = Codes()
    x = torch.tensor([[0.0, 0.0, 0.0], [0.0, 4.0, 0.0], [4.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    result = SplitElbo().build().score(model, {}, x, None, torch.zeros(4, dtype=torch.long))
    base = 3 * (math.log(0.5) + 0.5 * math.log(2 * math.pi))
    assert result.values.tolist() == pytest.approx([base, base, base + 8, base + 2], rel=1e-6)
    assert result.parts["nuisance_kl"].tolist() == pytest.approx([0, 8, 0, 0], abs=1e-6)


@pytest.mark.parametrize("net", ["mlp", "conv"])
def test_map_adds_up_and_values_depend_on_neither_batch_nor_call(net: str) -> None:
    model, (x, c, stratum), score = split_model(net=net), items(20), SplitElbo().build()
    state = score.fit(model, batches(10))
    assert state == {}
    before = torch.random.get_rng_state()
    whole = score.score(model, state, x, c, stratum, want_map=True)
    assert torch.equal(before, torch.random.get_rng_state())
    assert whole.values.dtype == torch.float64
    assert whole.map.shape == (20, 9, 12)
    torch.testing.assert_close(whole.map.sum((1, 2)), whole.parts["split_reconstruction"], rtol=1e-9, atol=0)
    assert torch.equal(whole.values, score.score(model, state, x, c, stratum, want_map=True).values)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(3))
    for piece in order.split([1, 2, 17]):
        part = score.score(model, state, x[piece], c[piece], stratum[piece])
        assert part.map is None
        torch.testing.assert_close(part.values, whole.values[piece], rtol=1e-5, atol=0)


def test_tables_have_no_map() -> None:
    assert SplitElbo().build().score(split_model(TABLE), {}, *items(3, TABLE), want_map=True).map is None


def test_a_model_without_nuisance_dimensions_is_refused_by_name() -> None:
    model, score = small_model(), SplitElbo().build()
    model.nuisance_dim = 0
    for ask in (lambda: score.check(model), lambda: score.fit(model, [])):
        with pytest.raises(
            SettingsError, match=r"score 'split_elbo' needs .*keeps none \(nuisance_dim = 0\); fit with"
        ):
            ask()
    score.check(split_model())


def test_it_is_what_dan_vae_is_scored_by_and_no_likelihood() -> None:
    scoring = parse(ScoreChoice, DANVAE().build().score)
    assert scoring == SplitElbo()
    assert not scoring.build().is_likelihood
