"""Gradients item by item with plain autograd, and what the two gradient scores must be on models worked by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers import vae
from knowngood.config import MLP, Bernoulli, EluPool, Gaussian, Gradient, GradientMap, StridedBatchNorm
from knowngood.errors import DataError
from knowngood.models.base import Batch
from knowngood.models.vae import ConditionalVAE
from knowngood.scores import gradient
from knowngood.scores.gradient import cosine, decoder_weights, item_gradients
from score_models import IMAGE, TABLE, batches, items, small_model

PREFIX = "mean_gradient."

CASES = [(IMAGE, "mlp", "bernoulli"), (IMAGE, "conv", "gaussian"), (TABLE, "mlp", "gaussian")]


def by_loop(model: ConditionalVAE, x: Tensor, c: Tensor | None) -> list[dict[str, Tensor]]:
    """∂(−log p(x|μ,c))/∂(every matrix and kernel), one item after the other."""
    named = {f"net.{name}": p for name, p in model.net.named_parameters() if p.ndim > 1}
    found = []
    for i in range(len(x)):
        given = None if c is None else c[i : i + 1]
        z = model.encode(x[i : i + 1], given).mean.detach()
        for p in named.values():
            p.requires_grad_(True)
        loss = -model.likelihood.log_prob(x[i : i + 1], model.decode(z, given)).sum()
        gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
        model.requires_grad_(False)
        found.append({name: g for name, g in zip(named, gradients, strict=True) if g is not None})
    return found


@pytest.mark.parametrize(("shape", "net", "likelihood"), CASES)
def test_gradients_of_all_items_at_once_are_those_of_a_loop(shape: tuple[int, ...], net: str, likelihood: str) -> None:
    model, (x, c, _) = small_model(shape, likelihood, net), items(5, shape)
    expected = by_loop(model, x, c)
    names = list(decoder_weights(model, x[:1], c[:1]))
    assert names == list(expected[0])
    assert not any("encoder" in name or "down" in name or "to_latent" in name for name in names)
    assert any("decoder" in name or "from_latent" in name for name in names)
    (got,) = item_gradients(model, names, x, c)
    for name in names:
        torch.testing.assert_close(got[name], torch.stack([e[name] for e in expected]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("shape", "net", "likelihood"), CASES)
def test_score_is_one_minus_the_mean_cosine_over_layers(shape: tuple[int, ...], net: str, likelihood: str) -> None:
    model, (x, c, stratum) = small_model(shape, likelihood, net), items(5, shape)
    fitted, score = batches(20, shape, size=8), Gradient().build()
    state = score.fit(model, fitted)
    of_normals = [one for b in fitted for one in by_loop(model, b.x, b.c)]
    means = {name: torch.stack([one[name] for one in of_normals]).mean(0) for name in of_normals[0]}
    assert state.keys() == {PREFIX + name for name in means}
    for name, mean in means.items():
        torch.testing.assert_close(state[PREFIX + name], mean, rtol=1e-3, atol=1e-4)
    expected = [
        1 - torch.stack([F.cosine_similarity(one[n].flatten(), means[n].flatten(), dim=0) for n in means]).mean()
        for one in by_loop(model, x, c)
    ]
    got = score.score(model, state, x, c, stratum).values
    torch.testing.assert_close(got, torch.stack(expected).double(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("net", [EluPool(), StridedBatchNorm()])
def test_every_net_can_be_asked(net: EluPool | StridedBatchNorm) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = vae((1, 16, 16), 3, 0, net, Bernoulli(), "standard").eval()
    x = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    expected = by_loop(model, x, None)
    (got,) = item_gradients(model, expected[0], x, None)
    for name, found in got.items():
        torch.testing.assert_close(found, torch.stack([e[name] for e in expected]), rtol=1e-3, atol=1e-4)


def test_items_that_pull_as_the_normals_do_score_0_and_those_that_pull_back_2() -> None:
    """x̂ = W z with z = 1: ∂ℓ/∂W = x̂ − x, so the score is 1 − cos(x̂ − x, x̂ − mean x)."""
    model = vae((2,), 1, 0, MLP(hidden=(2,)), Gaussian(sigma=1.0), "standard")

    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.Parameter(torch.zeros(2, 1))

        def encode(self, x: Tensor, c: Tensor | None) -> Tensor:
            return torch.cat((torch.ones(len(x), 1), torch.zeros(len(x), 1)), 1)

        def decode(self, z: Tensor, c: Tensor | None) -> Tensor:
            return z @ self.up.t()

    model.net = One()
    x = torch.tensor([[1.0, 1.0], [3.0, 3.0], [-1.0, -1.0], [2.0, -2.0], [0.0, 0.0]])
    zeros = torch.zeros(5, dtype=torch.long)
    score = Gradient().build()
    state = score.fit(model, [Batch(x[:2], None, zeros[:2], zeros[:2].float(), zeros[:2])])
    torch.testing.assert_close(state[PREFIX + "net.up"], torch.tensor([[-2.0], [-2.0]]))
    got = score.score(model, state, x, None, zeros).values
    torch.testing.assert_close(got, torch.tensor([0.0, 0, 2, 1, 1]).double(), rtol=0, atol=1e-6)


def test_cosines_of_zeros_are_zero() -> None:
    got = cosine(torch.tensor([[0.0, 0.0], [3.0, 0.0], [-1.0, 1.0]]), torch.tensor([2.0, 0.0]))
    assert got.tolist() == pytest.approx([0, 1, -(0.5**0.5)])
    assert cosine(torch.ones(1, 2), torch.zeros(2)).item() == 0


def test_chunks_of_items_change_nothing_and_no_gradient_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (x, c, stratum) = small_model(net="conv"), items(7)
    model.requires_grad_(True)
    score = Gradient().build()
    with torch.no_grad():
        state = score.fit(model, batches(20))
        whole = score.score(model, state, x, c, stratum).values
        monkeypatch.setattr(gradient, "AT_ONCE_CPU", 1)
        pieces = score.score(model, state, x, c, stratum).values
        GradientMap().build().score(model, {}, x, c, stratum)
    torch.testing.assert_close(pieces, whole, rtol=1e-5, atol=0)
    assert all(p.grad is None for p in model.parameters())
    assert not whole.requires_grad


def test_no_normals_is_an_error() -> None:
    with pytest.raises(DataError, match="no normals were given"):
        Gradient().build().fit(small_model(), [])


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "net", "likelihood"), CASES)
def test_gradient_map_is_its_definition_by_finite_differences(
    shape: tuple[int, ...], net: str, likelihood: str
) -> None:
    model, (x, c, stratum) = small_model(shape, likelihood, net).double(), items(3, shape)
    x, c = x.double(), c.double()

    def kl(x: Tensor, i: int) -> Tensor:
        q = model.encode(x, c[i : i + 1])
        return q.kl(model.prior(c[i : i + 1], like=q.mean)).sum()

    slope, h = torch.zeros_like(x), 1e-6
    for i in range(len(x)):
        for at in range(x[0].numel()):
            bump = torch.zeros_like(x[i]).flatten()
            bump[at] = h
            bump = bump.view_as(x[i])[None]
            slope[i].view(-1)[at] = (kl(x[i : i + 1] + bump, i) - kl(x[i : i + 1] - bump, i)) / (2 * h)
    made = model.likelihood.mean(model.decode(model.encode(x, c).mean, c))
    expected = (x - made).abs() * slope.abs()
    with torch.no_grad():
        got = GradientMap().build().score(model, {}, x, c, stratum, want_map=True)
    torch.testing.assert_close(got.values, expected.flatten(1).sum(1), rtol=1e-4, atol=1e-7)
    if got.map is not None:
        torch.testing.assert_close(got.map, expected.sum(1), rtol=1e-4, atol=1e-7)


def test_gradient_map_by_hand_pixels_that_no_code_reads_are_dark() -> None:
    """μ = 2·(first value), σ = 1, x̂ = 0: ∂KL/∂x = 4·x₁ for the first value, 0 for the second."""
    model = vae((2,), 1, 0, MLP(hidden=(2,)), Gaussian(sigma=1.0), "standard")

    class First(nn.Module):
        def encode(self, x: Tensor, c: Tensor | None) -> Tensor:
            return torch.cat((2 * x[:, :1], torch.zeros(len(x), 1)), 1)

        def decode(self, z: Tensor, c: Tensor | None) -> Tensor:
            return torch.zeros(len(z), 2)

    model.net = First()
    x = torch.tensor([[3.0, 5.0], [0.0, 7.0]])
    got = GradientMap().build().score(model, {}, x, None, torch.zeros(2, dtype=torch.long))
    assert got.values.tolist() == pytest.approx([3 * 4 * 3, 0])


def test_the_order_of_a_saved_state_does_not_round_the_score() -> None:
    model, (x, c, stratum), score = small_model(net="conv"), items(40), Gradient().build()
    state = score.fit(model, batches(60))
    turned = dict(reversed(state.items()))
    assert torch.equal(*(score.score(model, one, x, c, stratum).values for one in (state, turned)))
