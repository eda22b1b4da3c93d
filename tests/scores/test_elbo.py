from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from helpers import vae
from knowngood.config import KL, MLP, Elbo, Gaussian
from knowngood.scores import elbo
from knowngood.scores.elbo import common_normals
from score_models import IMAGE, TABLE, items, small_model


@pytest.mark.parametrize("shape", [IMAGE, TABLE])
@pytest.mark.parametrize("samples", [0, 1, 5])
def test_elbo_is_its_definition_one_draw_at_a_time(shape: tuple[int, ...], samples: int) -> None:
    model, (x, c, stratum) = small_model(shape), items(6, shape)
    score = Elbo(samples=samples).build()
    state = score.fit(model, [])
    q = model.encode(x, c)
    draws = [q.mean + (0.5 * q.log_var).exp() * e for e in state["noise"]] if samples else [q.mean]
    log_p = sum(model.likelihood.log_prob(x, model.decode(z, c)).flatten(1).double().sum(1) for z in draws)
    prior = model.prior(c, like=q.mean)
    # KL from the library's normal distributions, not from our closed form.
    normals = [torch.distributions.Normal(d.mean.double(), (0.5 * d.log_var.double()).exp()) for d in (q, prior)]
    kl = torch.distributions.kl_divergence(*normals).sum(1)

    result = score.score(model, state, x, c, stratum)
    torch.testing.assert_close(result.parts["elbo_reconstruction"], -log_p / len(draws), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(result.parts["elbo_kl"], kl, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(result.values, sum(result.parts.values()), rtol=1e-12, atol=0)
    torch.testing.assert_close(KL().build().score(model, {}, x, c, stratum).values, kl, rtol=1e-5, atol=1e-6)


class Linear(torch.nn.Module):
    """A linear-Gaussian model, whose −ELBO has a closed form."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.up = torch.randn(3, 4, generator=generator)
        self.down = torch.randn(4, 3, generator=generator)

    def encode(self, x: Tensor, c: Tensor | None) -> Tensor:
        return torch.cat([x @ self.down, torch.full_like(x[:, :1], -1.0).expand(-1, 3)], 1)

    def decode(self, z: Tensor, c: Tensor | None) -> Tensor:
        return z @ self.up


def test_elbo_reaches_the_closed_form_of_a_linear_gaussian_model() -> None:
    model = vae((4,), 3, 0, MLP(hidden=(2,)), Gaussian(sigma=0.7), "standard")
    model.net = net = Linear()
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
    mean, var = x.double() @ net.down.double(), math.exp(-1)
    residual = (x.double() - mean @ net.up.double()).square().sum(1) + var * net.up.double().square().sum()
    rec = residual / (2 * 0.49) + 4 * (math.log(0.7) + 0.5 * math.log(2 * math.pi))
    kl = 0.5 * (mean.square() + var - 1 + 1).sum(1)

    score = Elbo(samples=256).build()
    got = score.score(model, score.fit(model, []), x, None, torch.zeros(8, dtype=torch.long)).parts
    torch.testing.assert_close(got["elbo_kl"], kl, rtol=1e-6, atol=0)
    torch.testing.assert_close(got["elbo_reconstruction"], rec, rtol=0.01, atol=0)


def test_common_normals_are_normal_even_and_always_the_same() -> None:
    noise = common_normals(256, 40)
    assert torch.equal(noise, common_normals(256, 40))
    assert noise.shape == (256, 40)
    assert noise.dtype == torch.float32
    # Far more even than 256 random draws, whose mean would be off by 1/16 and whose variance by 1/11.
    assert noise.mean(0).abs().max() < 0.01
    assert (noise.var(0) - 1).abs().max() < 0.05
    assert all(stats.kstest(column.numpy(), "norm").pvalue > 0.9 for column in noise.t())
    assert torch.isfinite(common_normals(1, 3)).all()


def test_chunks_of_draws_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (x, c, stratum) = small_model(), items(6)
    score = Elbo(samples=7).build()
    state = score.fit(model, [])
    whole = score.score(model, state, x, c, stratum, want_map=True)
    for values_at_once in (1, 3 * x.numel()):
        monkeypatch.setattr(elbo, "AT_ONCE_CPU", values_at_once)
        part = score.score(model, state, x, c, stratum, want_map=True)
        torch.testing.assert_close(part.values, whole.values, rtol=1e-6, atol=0)
        torch.testing.assert_close(part.map, whole.map, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_more_draws_agree_with_many_random_ones() -> None:
    model, (x, c, stratum) = small_model(), items(6)
    score = Elbo(samples=64).build()
    got = score.score(model, score.fit(model, []), x, c, stratum).parts["elbo_reconstruction"]
    many = {"noise": torch.randn(5000, 5, generator=torch.Generator().manual_seed(0))}
    expected = score.score(model, many, x, c, stratum).parts["elbo_reconstruction"]
    torch.testing.assert_close(got, expected, rtol=0.03, atol=0)
