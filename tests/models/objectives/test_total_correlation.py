"""TC as a penalty at the sizes in use: the gradient of each estimate against that of Gaussian codes, in closed form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.factor_metrics import gaussian_total_correlation
from benchmarks.total_correlation import Codes, Fitting, gradient
from forms import model_for
from helpers import prepared, toy_batch, toy_context
from knowngood.config import DCVAE, TCVAE, Options
from knowngood.models.distributions import DiagonalGaussian
from knowngood.models.objectives.moment_ratio import GaussianRatio
from knowngood.models.objectives.total_correlation import permuted_within

LARGE = [2, 8, *(pytest.param(dims, marks=pytest.mark.slow) for dims in (20, 32, 64))]
MOMENTS, GAUSSIAN, SAMPLED = DCVAE(), DCVAE(tc="gaussian"), DCVAE(tc="sampled")
LEARNED = DCVAE(tc="discriminator")


# Gradient -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("dims", LARGE)
@pytest.mark.parametrize("options", [MOMENTS, GAUSSIAN], ids=["moments", "gaussian"])
def test_gradient_is_that_of_tc_at_every_size(options: DCVAE, dims: int) -> None:
    assert_gradient_of_tc(options, 24, dims)


@pytest.mark.slow
@pytest.mark.parametrize("dims", [2, 20, 64])  # seconds each
def test_gradient_of_the_discriminator_is_that_of_tc_at_the_least_a_usual_and_the_largest_size(dims: int) -> None:
    assert_gradient_of_tc(LEARNED, 75, dims)  # in which it learns most of what it will, see `Bent`


def assert_gradient_of_tc(options: DCVAE, steps: int, dims: int) -> None:
    """Groups of 32 in batches of 128: by log σ 0 where dimensions are independent, by ρ r/(1 − r²)·(1 − σ²) a pair."""
    assert abs(gradient(options, Codes(dims, 0.0), steps, 10)[0]) < 0.1
    correlated = Codes(dims, 0.8)
    assert gradient(options, correlated, steps, 20)[1] == pytest.approx(correlated.slope, rel=0.3)


@pytest.mark.parametrize("density", ["mss", "mws"])
@pytest.mark.parametrize("dims", [8, pytest.param(32, marks=pytest.mark.slow)])
def test_gradient_of_sampled_tc_is_that_of_another_kl_from_8_dimensions_on(dims: int, density: Any) -> None:
    """What docs/methods/dcvae.md says of it: −1 a dimension is that of −I(z_j; x), and there is no other."""
    sampled, correlated = DCVAE(tc="sampled", density=density), Codes(dims, 0.8)
    assert gradient(sampled, Codes(dims, 0.0), 0, 10)[0] < -0.6
    assert gradient(sampled, correlated, 0, 10)[1] < 0.4 * correlated.slope


def test_gradient_of_sampled_tc_is_that_of_tc_in_two_dimensions() -> None:
    correlated = Codes(2, 0.8)
    assert gradient(SAMPLED, correlated, 0, 20)[1] == pytest.approx(correlated.slope, rel=0.3)


class Bent(Codes):
    """Pairs that are not correlated: the mean of the second dimension bends with the square of that of the first."""

    def draw(self) -> tuple[Tensor, DiagonalGaussian, Tensor]:
        z, q, group = super().draw()
        own = (q.mean - self.centre[group]).detach()
        bend = (own[:, ::2].square() - own[:, ::2].square().mean(0)) / 1.3
        mean = torch.stack((own[:, ::2], self.rho * bend + (1 - self.rho**2).sqrt() * own[:, 1::2]), 2).flatten(1)
        q = DiagonalGaussian(mean + self.centre[group], q.log_var)
        return q.rsample(torch.randn(z.shape, generator=self.generator)), q, group


@pytest.mark.slow
def test_gradient_of_dependence_without_correlation_is_seen_by_moments_and_discriminator_alone() -> None:
    blind = gradient(GAUSSIAN, Bent(4, 0.6), 24, 40)[1]
    assert blind < 0.1
    assert gradient(MOMENTS, Bent(4, 0.6), 24, 40)[1] > blind + 0.3
    assert gradient(LEARNED, Bent(4, 0.6), 150, 20)[1] > blind + 0.3


# The Gaussian log ratio ---------------------------------------------------------------------------------------------


def batches(sizes: tuple[int, ...], dims: int = 3, strata: int = 3) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(dims, dims, generator=generator, dtype=torch.float64)
    shift = 5 * torch.randn(strata, dims, generator=generator, dtype=torch.float64)
    found = []
    for n in sizes:
        stratum = torch.randint(strata, (n,), generator=generator)
        z = torch.randn(n, dims, generator=generator, dtype=torch.float64) @ mixing
        found.append((z + shift[stratum], stratum))
    return found


def fed(counts: list[int], parts: list[tuple[Tensor, Tensor]]) -> GaussianRatio:
    ratio = GaussianRatio(3, torch.tensor(counts)).double()
    for part in parts:
        ratio.update(*part)
    return ratio


def test_running_moments_are_those_of_all_codes_until_the_memory_is_full() -> None:
    parts = batches((40, 7, 60))
    ratio = fed([500, 500, 500], parts)
    z, stratum = (torch.cat(each) for each in zip(*parts, strict=True))
    for k in range(3):
        own = z[stratum == k]
        torch.testing.assert_close(ratio.codes.mean[k], own.mean(0))
        torch.testing.assert_close(ratio.codes.covariance[k], own.t().cov(correction=0))


def test_running_moments_forget_what_is_old() -> None:
    parts = batches((256,) * 40, strata=1)
    old = [(100 * z + 1000, stratum) for z, stratum in parts[:4]]
    kept, fresh = fed([500], [*old, *parts[4:]]), fed([500], parts[4:])
    torch.testing.assert_close(kept.codes.covariance, fresh.codes.covariance, rtol=0.2, atol=0.1)


def test_small_strata_share_one_covariance_each_about_its_own_mean() -> None:
    parts = batches((60,))
    ratio = fed([500, 11, 11], parts)  # 4·D is 12
    assert ratio.codes.slot.tolist() == [0, 1, 1]
    z, stratum = parts[0]
    centred = torch.cat([z[stratum == k] - z[stratum == k].mean(0) for k in (1, 2)])
    torch.testing.assert_close(ratio.codes.covariance[1], centred.t() @ centred / len(centred))


def test_density_ratio_of_a_gaussian_and_its_mean_is_tc() -> None:
    """With so many codes that the corrections for their number vanish: log N(z; m, Σ) − Σ_d log N(z_d; m_d, Σ_dd)."""
    ratio, (z, stratum) = fed([500] * 3, batches((60,))), batches((60, 9))[1]
    ratio.codes.memory = 10**9
    ratio.codes.seen.fill_(1e9)
    found, known = ratio(z, stratum)
    assert known.all()
    for value, point, k in zip(found, z, stratum, strict=True):
        covariance = ratio.codes.covariance[k]
        joint = torch.distributions.MultivariateNormal(ratio.codes.mean[k], covariance).log_prob(point)
        each = torch.distributions.Normal(ratio.codes.mean[k], covariance.diagonal().sqrt()).log_prob(point)
        assert value.item() == pytest.approx((joint - each.sum()).item(), rel=0.02, abs=0.05)
    moments = ratio.codes.mean[0].numpy(), ratio.codes.covariance[0].numpy()
    own = torch.from_numpy(np.random.default_rng(0).multivariate_normal(*moments, 20_000))
    tc = gaussian_total_correlation(own)
    assert ratio(own, torch.zeros(len(own), dtype=torch.int64))[0].mean().item() == pytest.approx(tc, abs=0.05)


def test_a_stratum_with_too_few_codes_adds_nothing_yet() -> None:
    ratio = fed([500] * 3, batches((60,), strata=2))
    z, stratum = batches((30,))[0]
    found, known = ratio(z, stratum)
    assert torch.equal(known, stratum < 2)
    assert not found[stratum == 2].any()
    assert found[stratum < 2].all()


# In use -------------------------------------------------------------------------------------------------------------


def test_permutation_keeps_every_dimension_within_its_stratum_and_breaks_rows() -> None:
    stratum = torch.tensor([2, 0, 1, 0, 2, 2, 1] * 12)
    z = torch.arange(len(stratum))[:, None].repeat(1, 4).double()
    found = permuted_within(z, stratum, torch.Generator().manual_seed(0))
    assert torch.equal(stratum[found.long()], stratum[:, None].expand_as(found))
    assert torch.equal(found.sort(0).values, z)
    assert (found[:, :1] == found[:, 1:]).double().mean() < 0.2


@pytest.mark.parametrize("options", [MOMENTS, GAUSSIAN, LEARNED, TCVAE(), TCVAE(tc="discriminator")])
def test_an_evaluation_leaves_the_running_moments_as_they_are(options: Options) -> None:
    model = model_for(options)
    objective, batch = prepared(options, model), toy_batch(model)
    objective.loss(model, batch, toy_context(batch))
    before = {name: t.clone() for name, t in objective.named_buffers()}
    objective.eval()
    objective.loss(model, toy_batch(model, seed=5), toy_context(batch))
    after = dict(objective.named_buffers())
    assert before["estimate.ratio.codes.seen"].sum() == 40
    assert all(torch.equal(after[name], t) for name, t in before.items())


def test_a_stratum_with_few_items_in_the_batch_is_left_out_by_the_discriminator() -> None:
    fitting = Fitting(LEARNED, 4, torch.full((4,), 1000), 0)
    codes = Codes(4, 0.8)
    for _ in range(2):
        fitting(*codes.draw())
    z, q, group = codes.draw()
    some = torch.cat([(group == k).nonzero().flatten()[:n] for k, n in enumerate((16, 15, 32, 3))])
    part = DiagonalGaussian(q.mean[some], q.log_var[some])
    tc, known, _ = fitting.estimate(z[some], part, group[some], fitting.counts, fitting.generator)
    assert torch.equal(known, (group[some] == 0) | (group[some] == 2))
    assert torch.equal(tc != 0, known)
