"""Input complexity: a code that can be decoded, probabilities that add up to 1, and the two in one unit."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from helpers import vae
from knowngood.config import MLP, Bernoulli, Elbo, Gaussian, InputComplexity
from knowngood.errors import SettingsError
from knowngood.models.likelihoods import GaussianLikelihood
from knowngood.scores.input_complexity import code_length, log_level_probability, symbols
from score_models import IMAGE, items, small_model


def smooth_and_rough(n: int, shape: tuple[int, ...] = (2, 6, 7)) -> Tensor:
    """(n, *shape) levels: ramps with more and more noise on them."""
    rng = np.random.default_rng(0)
    ramp = np.add.outer(9 * np.arange(shape[-2]), 5 * np.arange(shape[-1])) + rng.integers(0, 150, (n, 1, 1, 1))
    noise = rng.integers(-1, 2, (n, *shape)) * (3 * np.arange(n) ** 2)[:, None, None, None]
    return torch.from_numpy((ramp + noise).clip(0, 255).astype(np.int64))


def code_by_code(image: np.ndarray) -> float:
    """−log₂ of the probability of each symbol given those before it, one at a time."""
    counts, bits = np.zeros((4, 256)), 0.0
    symbol, context = (t[0].numpy() for t in symbols(torch.from_numpy(image)[None]))
    for k, at in zip(symbol.ravel(), context.ravel(), strict=True):
        bits -= math.log2((counts[at, k] + 1 / 16) / (counts[at].sum() + 16))
        counts[at, k] += 1
    return bits


def test_the_closed_form_is_what_an_adaptive_coder_sends() -> None:
    images = smooth_and_rough(6)
    assert code_length(images).tolist() == pytest.approx([code_by_code(i.numpy()) for i in images], rel=1e-12)


def test_a_decoder_that_has_only_seen_what_came_before_gets_the_image_back() -> None:
    images = smooth_and_rough(6)
    sent, context = (t.numpy() for t in symbols(images))
    got = np.zeros_like(sent)
    for n, channel, i, j in itertools.product(*map(range, sent.shape)):
        plane = got[n, channel]
        above = plane[i - 1, j] if i else 0
        left = plane[i, j - 1] if j else above
        corner = plane[i - 1, j - 1] if i and j else above
        activity = abs(left - corner) + abs(above - corner)
        assert context[n, channel, i, j] == sum(activity >= edge for edge in (1, 9, 33))
        plane[i, j] = (sorted((left, above, left + above - corner))[1] + sent[n, channel, i, j]) % 256
    assert (got == images.numpy()).all()
    assert len(np.unique(context)) == 4


@pytest.mark.slow
def test_lengths_of_all_images_of_two_pixels_are_those_of_a_code() -> None:
    """Σ 2^−L = 1 over all 65,536: no bits are given away, none are wasted."""
    first = torch.arange(256)
    total = 0.0
    for some in first.split(16):
        pairs = torch.cartesian_prod(some, first).view(-1, 1, 1, 2)
        total += (-code_length(pairs)).exp2().sum().item()
    assert total == pytest.approx(1, rel=1e-9)


def test_simple_images_are_short_and_noise_takes_eight_bits() -> None:
    noise = torch.randint(256, (1, 1, 64, 64), generator=torch.Generator().manual_seed(0))
    ramp = (torch.arange(64)[:, None] + 2 * torch.arange(64)).expand(1, 1, 64, 64)
    flat, photo = torch.full_like(ramp, 40), ramp + noise % 8
    bits = code_length(torch.cat((flat, ramp, photo, noise))) / 64**2
    assert bits.tolist() == sorted(bits.tolist())
    assert bits[1] < 0.2
    assert 3 < bits[2] < 5  # three bits of noise, which its neighbours cannot predict and their noise adds to
    assert 8 < bits[3] < 8.7


def test_an_image_is_coded_by_itself() -> None:
    images = smooth_and_rough(6)
    alone = torch.cat([code_length(images[i : i + 1]) for i in range(6)])
    assert torch.equal(code_length(images), alone)


# The probability of a level -------------------------------------------------------------------------------------------


def gaussian(sigma: float) -> GaussianLikelihood:
    return GaussianLikelihood(Gaussian(sigma=sigma), (1,))


@pytest.mark.parametrize("sigma", [0.01, 0.1, 1.0, 30.0])
@pytest.mark.parametrize("mean", [-0.5, 0.0, 0.3, 1.0, 2.0])
def test_probabilities_of_all_levels_add_up_to_one(mean: float, sigma: float) -> None:
    levels = (torch.arange(256, dtype=torch.float64) / 255)[:, None]
    log_p = log_level_probability(gaussian(sigma), levels, torch.full_like(levels, mean))
    assert log_p.exp().sum().item() == pytest.approx(1, rel=1e-12)
    edges = (np.arange(257) - 0.5) / 255
    edges[0], edges[-1] = -np.inf, np.inf
    expected = np.diff(stats.norm.cdf(edges, mean, sigma))
    np.testing.assert_allclose(log_p.exp()[:, 0].numpy(), expected, rtol=1e-6, atol=1e-14)


def test_far_from_the_mean_the_logarithm_keeps_its_digits() -> None:
    """Against a sum of densities over the level, in logarithms: σ = .01, up to 100 σ away."""
    levels = (torch.arange(1, 255, dtype=torch.float64) / 255)[:, None]
    for mean in (0.0, 1.0):
        got = log_level_probability(gaussian(0.01), levels, torch.full_like(levels, mean))[:, 0]
        inside = levels + (torch.arange(2000, dtype=torch.float64) + 0.5 - 1000) / 2000 / 255
        expected = torch.distributions.Normal(mean, 0.01).log_prob(inside).logsumexp(1) - math.log(2000 * 255)
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


# The score ------------------------------------------------------------------------------------------------------------


def images_of_levels(n: int) -> tuple[Tensor, Tensor, Tensor]:
    x, c, stratum = items(n)
    return (x * 255).round() / 255, c, stratum


def test_it_is_bits_of_the_model_less_bits_of_the_code() -> None:
    model, (x, c, stratum) = small_model(), images_of_levels(6)
    score = InputComplexity(samples=3).build()
    state = score.fit(model, [])
    q = model.encode(x, c)
    log_p = []
    for e in state["noise"]:
        params = model.decode(q.mean + (0.5 * q.log_var).exp() * e, c)
        log_p.append(log_level_probability(model.likelihood, x, params).flatten(1).sum(1))
    kl = q.kl(model.prior(c, like=x.flatten(1))).double().sum(1)
    values = math.prod(IMAGE)
    of_model = (kl - torch.stack(log_p).mean(0)) / math.log(2) / values
    of_code = torch.tensor([code_by_code(i) / values for i in (x * 255).round().long().numpy()], dtype=torch.float64)

    got = score.score(model, state, x, c, stratum, want_map=True)
    torch.testing.assert_close(got.parts["complexity_model"], of_model, rtol=1e-5, atol=0)
    torch.testing.assert_close(got.parts["complexity_code"], of_code, rtol=1e-9, atol=0)
    torch.testing.assert_close(got.values, of_model - of_code, rtol=1e-5, atol=1e-6)
    assert got.map is None


@pytest.mark.parametrize("samples", [0, 4])
def test_where_levels_are_fine_the_model_part_is_the_elbo_and_the_width_of_a_level(samples: int) -> None:
    model, (x, c, stratum) = small_model(), images_of_levels(6)
    model.likelihood = GaussianLikelihood(Gaussian(sigma=0.5), IMAGE)
    decode = model.decode
    model.decode = lambda z, c=None: decode(z, c).chunk(2, dim=1)[0]
    x = x.clamp(1 / 255, 254 / 255)  # the first and the last level have more than their width
    score, bound = InputComplexity(samples=samples).build(), Elbo(samples=samples).build()
    nats = bound.score(model, bound.fit(model, []), x, c, stratum).values
    got = score.score(model, score.fit(model, []), x, c, stratum).parts["complexity_model"]
    torch.testing.assert_close(got, nats / math.log(2) / math.prod(IMAGE) + math.log2(255), rtol=1e-5, atol=0)


def test_images_are_seen_in_256_levels_from_0_to_1() -> None:
    model, (x, c, stratum) = small_model(), images_of_levels(6)
    score = InputComplexity().build()
    state = score.fit(model, [])
    x[:, :, 0, 0], x[:, :, 0, 1] = 0.0, 1.0
    given = score.score(model, state, x, c, stratum)
    moved = x + 0.4 / 255
    moved[:, :, 0, 0], moved[:, :, 0, 1] = -3.0, 1.7
    torch.testing.assert_close(score.score(model, state, moved, c, stratum).values, given.values, rtol=1e-6, atol=0)


def test_tables_and_likelihoods_without_levels_are_refused() -> None:
    score = InputComplexity().build()
    table = vae((6,), 2, 0, MLP(hidden=(3,)), Gaussian(), "standard")
    with pytest.raises(SettingsError, match=r"lossless code of images, and items here have 6 features; take scoring="):
        score.check(table)
    binary = vae((1, 4, 4), 2, 0, MLP(hidden=(3,)), Bernoulli(), "standard")
    with pytest.raises(SettingsError, match=r"likelihood 'bernoulli' gives none; fit with likelihood='gaussian'"):
        score.check(binary)
    score.check(vae((1, 4, 4), 2, 0, MLP(hidden=(3,)), Gaussian(), "standard"))


def test_it_is_no_likelihood() -> None:
    assert not InputComplexity().build().is_likelihood
