"""Aggregate posterior and total correlation: exhaustive small cases, closed forms, invariances, precision."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from knowngood.models.distributions import DiagonalGaussian
from knowngood.models.objectives import densities
from knowngood.models.objectives.densities import (
    SMALLEST_GROUP,
    aggregate_posterior,
    log_weights,
    spans_of,
    total_correlation,
)

Estimator = Callable[[Tensor, DiagonalGaussian, int], tuple[Tensor, Tensor]]


def posterior(n: int, dims: int = 3, seed: int = 0, log_var: float = -1.0) -> tuple[Tensor, DiagonalGaussian]:
    """n overlapping posteriors and one draw from each, in float64."""
    generator = torch.Generator().manual_seed(seed)
    mean, spread, noise = torch.randn(3, n, dims, generator=generator, dtype=torch.float64)
    q = DiagonalGaussian(mean, log_var + 0.3 * spread)
    return q.rsample(noise), q


def rows(q: DiagonalGaussian, index: Tensor | list[int]) -> DiagonalGaussian:
    return DiagonalGaussian(q.mean[index], q.log_var[index])


def one_stratum(n: int) -> Tensor:
    return torch.zeros(n, dtype=torch.int64)


def pairwise(z: Tensor, q: DiagonalGaussian) -> Tensor:
    """log q(z_id | n_j) by plain broadcasting, (B, B, D)."""
    return rows(q, [*range(len(z))]).log_prob(z[:, None, :])


def true_density(z: Tensor, q: DiagonalGaussian) -> tuple[Tensor, Tensor]:
    """q(z_i) and q(z_id) of the aggregate over all of q's rows: the exhaustive sums."""
    pairs = pairwise(z, q)
    return pairs.sum(2).exp().mean(1), pairs.exp().mean(1)


# Unbiasedness, by going through every batch -------------------------------------------------------------------------


def ours(z: Tensor, q: DiagonalGaussian, n: int) -> tuple[Tensor, Tensor]:
    joint, marginals, _ = aggregate_posterior(z, q, one_stratum(len(z)), torch.tensor([n]), "mss")
    return joint, marginals


def own_weight_on_the_first_column(z: Tensor, q: DiagonalGaussian, n: int) -> tuple[Tensor, Tensor]:
    """A known mistake: the stride that should walk the diagonal walks down a column."""
    b = len(z)
    weights = torch.full((b, b), 1 / (b - 1), dtype=z.dtype)
    weights.view(-1)[::b] = 1 / n
    weights.view(-1)[1::b] = (n - b + 1) / (n * (b - 1))
    weights[b - 2, 0] = (n - b + 1) / (n * (b - 1))
    pairs, weights = pairwise(z, q), weights.log()
    return torch.logsumexp(pairs.sum(2) + weights, 1), torch.logsumexp(pairs + weights[:, :, None], 1)


def weights_once_per_dimension(z: Tensor, q: DiagonalGaussian, n: int) -> tuple[Tensor, Tensor]:
    """A known mistake: the log weights join before the sum over dimensions, so the joint has them D times."""
    weights, _ = log_weights(one_stratum(len(z)), torch.tensor([n]), "mss", z.dtype)
    pairs = pairwise(z, q) + weights[:, :, None]
    return torch.logsumexp(pairs.sum(2), 1), torch.logsumexp(pairs, 1)


def worst_bias(estimator: Estimator, n: int, b: int) -> tuple[float, float]:
    """Largest |E q̂(z_i) / q(z_i) − 1| over items, for the joint and the marginals.

    The expectation runs over all batches of b out of n items that hold item i, at every position in the batch: no
    sampling error.
    """
    z, q = posterior(n)
    joint, marginals = true_density(z, q)
    sums, count = [torch.zeros_like(joint), torch.zeros_like(marginals)], torch.zeros(n, 1)
    for chosen in itertools.permutations(range(n), b):
        index = torch.tensor(chosen)
        found = estimator(z[index], rows(q, index), n)
        for total, part in zip(sums, found, strict=True):
            total[index] += part.exp()
        count[index] += 1
    ratios = [s.view(n, -1) / count / t.view(n, -1) for s, t in zip(sums, (joint, marginals), strict=True)]
    return float((ratios[0] - 1).abs().max()), float((ratios[1] - 1).abs().max())


@pytest.mark.parametrize("b", [2, 3, 4, 5])
def test_density_mss_is_unbiased_for_the_joint_and_for_each_marginal_at_any_batch_size(b: int) -> None:
    joint, marginals = worst_bias(ours, n=5, b=b)
    assert joint < 1e-12
    assert marginals < 1e-12


def test_density_the_known_mistakes_do_not_pass_for_unbiased() -> None:
    """The guard of the test above: two mistakes from well-known libraries are far from it."""
    joint, marginals = worst_bias(own_weight_on_the_first_column, n=5, b=3)
    assert min(joint, marginals) > 0.05
    joint, marginals = worst_bias(weights_once_per_dimension, n=5, b=3)
    assert joint > 0.05
    assert marginals < 1e-12  # this one is wrong in the joint alone


def test_density_mss_is_unbiased_within_each_stratum() -> None:
    """Two strata of 3 and 4 items, batches of 2 and 3 of them: all 12 batches, each item against its own stratum."""
    z, q = posterior(7)
    stratum, counts = torch.tensor([0, 0, 0, 1, 1, 1, 1]), torch.tensor([3, 4])
    total, seen = torch.zeros(7, dtype=z.dtype), torch.zeros(7)
    for first in itertools.combinations(range(3), 2):
        for second in itertools.combinations(range(3, 7), 3):
            index = torch.tensor(first + second)
            joint, _, group = aggregate_posterior(z[index], rows(q, index), stratum[index], counts)
            assert group.tolist() == [2, 2, 3, 3, 3]
            total[index] += joint.exp()
            seen[index] += 1
    expected = torch.cat([true_density(z[part], rows(q, part))[0] for part in (torch.arange(3), torch.arange(3, 7))])
    torch.testing.assert_close(total / seen, expected, rtol=1e-12, atol=0)


# Exactness at B = N -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [1, 2, 5])
def test_limit_everything_is_exact_when_the_batch_is_the_whole_set(dims: int) -> None:
    n = 20
    z, q = posterior(n, dims)
    joint, marginals = (t.log() for t in true_density(z, q))
    found = aggregate_posterior(z, q, one_stratum(n), torch.tensor([n]), "mss")
    torch.testing.assert_close(found[0], joint, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found[1], marginals, rtol=1e-12, atol=1e-12)
    tc, estimated = total_correlation(z, q, one_stratum(n), torch.tensor([n]), "mss")
    torch.testing.assert_close(tc, joint - marginals.sum(1), rtol=1e-12, atol=1e-12)
    assert estimated.all()
    if dims == 1:
        assert tc.abs().max() < 1e-12  # one dimension has nothing to correlate with


@pytest.mark.parametrize(("n", "b"), [(20, 20), (500, 20)])
def test_mws_is_the_plain_mean_up_to_its_constant(n: int, b: int) -> None:
    """MWS: LSE_j − log(NB), so the mean over the batch less log N; TC is shifted by (D − 1)·log N."""
    dims = 3
    z, q = posterior(b, dims)
    joint, marginals = (t.log() for t in true_density(z, q))
    counts = torch.tensor([n])
    found = aggregate_posterior(z, q, one_stratum(b), counts, "mws")
    torch.testing.assert_close(found[0], joint - math.log(n), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found[1], marginals - math.log(n), rtol=1e-12, atol=1e-12)
    tc, _ = total_correlation(z, q, one_stratum(b), counts, "mws")
    torch.testing.assert_close(tc, joint - marginals.sum(1) + (dims - 1) * math.log(n), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("density", ["mss", "mws"])
def test_density_weights_are_those_of_the_papers(density: str) -> None:
    n, b = 50, 4
    weights, group = log_weights(one_stratum(b), torch.tensor([n]), density, torch.float64)
    assert group.tolist() == [b] * b
    own, other = (1 / n, (n - 1) / (n * (b - 1))) if density == "mss" else (1 / (n * b), 1 / (n * b))
    expected = torch.full((b, b), other, dtype=torch.float64).fill_diagonal_(own)
    torch.testing.assert_close(weights.exp(), expected, rtol=1e-12, atol=0)
    if density == "mss":  # weights of one row sum to 1, whatever N and B
        torch.testing.assert_close(weights.exp().sum(1), torch.ones(b, dtype=torch.float64), rtol=1e-12, atol=0)


def test_two_densities_differ_in_gradient_where_the_batch_is_a_part() -> None:
    z, q = posterior(20)
    slopes = []
    for density in ("mss", "mws"):
        mean = q.mean.clone().requires_grad_()
        tc, _ = total_correlation(z, DiagonalGaussian(mean, q.log_var), one_stratum(20), torch.tensor([500]), density)
        slopes += torch.autograd.grad(tc.mean(), mean)
    assert (slopes[0] - slopes[1]).abs().max() > 1e-4


# Against the definition ---------------------------------------------------------------------------------------------


def by_definition(
    z: Tensor, q: DiagonalGaussian, stratum: Tensor, counts: Tensor, density: str
) -> tuple[Tensor, Tensor]:
    """log q̂(z_i|c_i) and log q̂(z_id|c_i), one item after the other, from all pairs of its stratum."""
    joint, marginals = [], []
    for i, k in enumerate(stratum.tolist()):
        members = (stratum == k).nonzero()[:, 0]
        b = len(members)
        n = max(b, int(counts[k]))
        other = (n - 1) / (n * (b - 1)) if b > 1 else 0.0
        own, other = (1 / n, other) if density == "mss" else (1 / (n * b), 1 / (n * b))
        weights = z.new_full((b,), other).masked_fill(members == i, own).log()
        pairs = rows(q, members).log_prob(z[i])  # (b, D)
        joint.append(torch.logsumexp(pairs.sum(1) + weights, 0))
        marginals.append(torch.logsumexp(pairs + weights[:, None], 0))
    return torch.stack(joint), torch.stack(marginals)


SIZES = {
    "four groups": [64, 64, 64, 64],
    "ragged": [50, 3, 33, 1, 17, 40],
    "small ones together": [2, 1, 1, 5, 16, 15, 20],
    "all alone": [1] * 9,
    "alone, after a large one": [40, 1],
    "one stratum": [60],
    "one item": [1],
}


def mixed(sizes: list[int]) -> Tensor:
    """Strata of these sizes, their items in a random order."""
    stratum = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return stratum[torch.randperm(len(stratum), generator=torch.Generator().manual_seed(5))]


@pytest.mark.slow
@pytest.mark.parametrize("whole", [False, True], ids=["part of N", "B = N"])
@pytest.mark.parametrize("density", ["mss", "mws"])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("log_var", [0.0, -8.0])
def test_densities_and_their_gradient_are_those_of_the_definition(
    sizes: list[int], density: str, whole: bool, log_var: float
) -> None:
    stratum = mixed(sizes)
    counts = torch.tensor(sizes) if whole else torch.arange(len(sizes)) + 100
    z, q = posterior(len(stratum), 4, log_var=log_var)
    inputs = [t.clone().requires_grad_() for t in (z, *q)]
    given = inputs[0], DiagonalGaussian(*inputs[1:]), stratum, counts, density
    found, expected = aggregate_posterior(*given)[:2], by_definition(*given)
    generator = torch.Generator().manual_seed(2)
    pull = [torch.randn(t.shape, generator=generator, dtype=t.dtype) for t in expected]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)
    for a, b in zip(*(torch.autograd.grad(of, inputs, pull) for of in (found, expected)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("output", [0, 1], ids=["joint", "marginals"])
def test_gradient_is_right_across_spans_and_for_each_output_alone(output: int) -> None:
    stratum = mixed([33, 2, 35])
    z, q = posterior(70, 2)
    inputs = tuple(t.clone().requires_grad_() for t in (z, *q))
    counts = torch.tensor([100, 40, 35])
    assert torch.autograd.gradcheck(
        lambda z, m, v: aggregate_posterior(z, DiagonalGaussian(m, v), stratum, counts)[output], inputs, fast_mode=True
    )


def test_a_graph_that_is_kept_gives_the_same_gradient_twice() -> None:
    z, q = posterior(40)
    mean = q.mean.clone().requires_grad_()
    tc, _ = total_correlation(z, DiagonalGaussian(mean, q.log_var), mixed([20, 20]), torch.tensor([90, 90]))
    first, second = (torch.autograd.grad(tc.sum(), mean, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_spans_hold_whole_strata_and_small_ones_share() -> None:
    stratum = mixed([50, 3, 33, 1, 17, 40])
    order, spans = spans_of(stratum)
    assert order is not None
    assert spans == [(0, 50), (50, 86), (86, 144)]
    found = [set(stratum[order[a:b]].tolist()) for a, b in spans]
    assert found == [{0}, {1, 2}, {3, 4, 5}]
    assert spans_of(one_stratum(7)) == (None, [(0, 7)])


@pytest.mark.slow
def test_away_from_the_cpu_nothing_looks_at_the_strata() -> None:
    """A tensor without data refuses every look: there is one span, and its size is the batch's alone."""
    z, mean, log_var = (torch.zeros(40, 3, device="meta", requires_grad=True) for _ in range(3))
    stratum, counts = (torch.zeros(n, dtype=torch.int64, device="meta") for n in (40, 6))
    assert spans_of(stratum) == (None, [(0, 40)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(densities, "full_precision_region", lambda _: contextlib.nullcontext())  # meta has no autocast
        tc, _ = total_correlation(z, DiagonalGaussian(mean, log_var), stratum, counts)
    assert [g.shape for g in torch.autograd.grad(tc.sum(), (z, mean, log_var))] == [z.shape] * 3


@pytest.mark.parametrize("density", ["mss", "mws"])
def test_one_span_of_all_strata_gives_what_many_give(density: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stratum, counts = mixed([50, 3, 33, 1, 17, 40]), torch.arange(6) * 40
    z, q = posterior(144)
    inputs = [t.clone().requires_grad_() for t in (z, *q)]
    results = []
    for _ in range(2):
        tc, _ = total_correlation(inputs[0], DiagonalGaussian(*inputs[1:]), stratum, counts, density)
        results.append((tc, *torch.autograd.grad(tc.square().sum(), inputs)))
        monkeypatch.setattr(densities, "spans_of", lambda stratum: (None, [(0, len(stratum))]))
    for many, one in zip(*results, strict=True):
        torch.testing.assert_close(one, many, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("log_var", [-2.0, -10.0])
def test_float32_stays_close_also_at_small_sigma(log_var: float) -> None:
    z, q = posterior(128, 32, log_var=log_var)
    rounded = [t.float() for t in (z, *q)]
    arguments = mixed([64, 64]), torch.tensor([1000, 1000])
    results = []
    for dtype in (torch.float64, torch.float32):
        inputs = [t.to(dtype).requires_grad_() for t in rounded]
        joint, marginals, _ = aggregate_posterior(inputs[0], DiagonalGaussian(*inputs[1:]), *arguments)
        results.append((joint, marginals, *torch.autograd.grad(joint.sum() - marginals.sum(), inputs)))
    exact, found = results
    assert (found[0] - exact[0]).abs().max() < 1e-3
    assert (found[1] - exact[1]).abs().max() < 1e-4
    for a, b in zip(found[2:], exact[2:], strict=True):
        assert (a - b).abs().max() < 1e-4 * b.abs().max()


def test_float32_would_not_stay_close_with_the_square_expanded() -> None:
    """Why (z − μ)/σ is formed before it is squared, and no matrix product of z² and z does the work."""
    z, q = posterior(128, 32, log_var=-10.0)
    z, q = z.float(), DiagonalGaussian(q.mean.float(), q.log_var.float())
    inverse = (-q.log_var).exp()
    constant = (q.mean.square() * inverse + q.log_var + math.log(2 * math.pi)).sum(1)
    plain = -0.5 * (z.square() @ inverse.t() - 2 * z @ (q.mean * inverse).t() + constant)
    arguments = one_stratum(128), torch.tensor([1000])
    weights, _ = log_weights(*arguments, "mss", torch.float32)
    exact_q = DiagonalGaussian(q.mean.double(), q.log_var.double())
    exact, _, _ = aggregate_posterior(z.double(), exact_q, *arguments)
    assert (torch.logsumexp(plain + weights, 1) - exact).abs().max() > 1e-2


def test_what_underflows_neither_vanishes_nor_breaks() -> None:
    """Posteriors 1e6 σ apart, and draws far from their own: still the logarithm of the definition's sum."""
    q = DiagonalGaussian(torch.arange(20.0)[:, None] * torch.ones(1, 3), torch.full((20, 3), -27.0))
    z = (q.mean + 3e-4).requires_grad_()
    arguments = z, q, one_stratum(20), torch.tensor([50])
    joint, marginals, _ = aggregate_posterior(*arguments)
    expected = by_definition(z.double(), DiagonalGaussian(q.mean.double(), q.log_var.double()), *arguments[2:], "mss")
    torch.testing.assert_close(joint.double(), expected[0], rtol=1e-2, atol=0)
    torch.testing.assert_close(marginals.double(), expected[1], rtol=1e-2, atol=0)
    assert joint.max() < -1e4
    assert torch.autograd.grad(joint.sum() + marginals.sum(), z)[0].isfinite().all()


def test_bf16_autocast_changes_nothing() -> None:
    z, q = posterior(64, 8)
    z, q = z.float(), DiagonalGaussian(q.mean.float(), q.log_var.float())
    arguments = torch.arange(64) % 2, torch.tensor([100, 200])
    expected = aggregate_posterior(z, q, *arguments)
    tc, _ = total_correlation(z, q, *arguments)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (z @ z.t()).dtype == torch.bfloat16  # autocast is on
        found = aggregate_posterior(z, q, *arguments)
        found_tc, _ = total_correlation(z, q, *arguments)
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)
    assert torch.equal(found_tc, tc)


# Strata -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("density", ["mss", "mws"])
def test_strata_are_computed_as_if_alone_each_with_its_own_counts(density: str) -> None:
    z, q = posterior(75)
    stratum = torch.randint(3, (75,), generator=torch.Generator().manual_seed(1))
    counts = torch.tensor([200, 900, 50])
    assert torch.bincount(stratum).min() >= SMALLEST_GROUP
    joint, marginals, group = aggregate_posterior(z, q, stratum, counts, density)
    tc, _ = total_correlation(z, q, stratum, counts, density)
    for k in range(3):
        part = stratum == k
        alone = z[part], rows(q, part), one_stratum(int(part.sum())), counts[k : k + 1], density
        for whole, single in zip((joint, marginals, group), aggregate_posterior(*alone), strict=True):
            torch.testing.assert_close(whole[part], single, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(tc[part], total_correlation(*alone)[0], rtol=1e-12, atol=1e-12)


def test_a_stratum_is_blind_to_the_others() -> None:
    z, q = posterior(40)
    stratum, counts = torch.arange(40) % 2, torch.tensor([100, 100])
    mean = q.mean.clone().requires_grad_()
    tc, _ = total_correlation(z, DiagonalGaussian(mean, q.log_var), stratum, counts)
    (slope,) = torch.autograd.grad(tc[stratum == 0].sum(), mean)
    assert (slope[stratum == 0] != 0).all()
    assert not slope[stratum == 1].any()


def test_groups_below_sixteen_give_zero_no_gradient_and_say_so() -> None:
    assert SMALLEST_GROUP == 16
    stratum = torch.tensor([0] * 15 + [1] * 16 + [2])
    z, q = posterior(32)
    mean = q.mean.clone().requires_grad_()
    tc, estimated = total_correlation(z, DiagonalGaussian(mean, q.log_var), stratum, torch.tensor([90, 90, 90]))
    assert estimated.tolist() == [False] * 15 + [True] * 16 + [False]
    assert not tc[~estimated].any()
    assert (tc[estimated] != 0).all()
    (slope,) = torch.autograd.grad(tc.mean(), mean)
    assert not slope[~estimated].any()
    assert slope[estimated].any()
    assert torch.isfinite(slope).all()


def test_a_batch_larger_than_its_stratum_counts_as_the_whole_of_it() -> None:
    """Items drawn again to fill a batch: N is never below B, so weights stay positive and finite."""
    z, q = posterior(32)
    stated, whole = (total_correlation(z, q, one_stratum(32), torch.tensor([n]))[0] for n in (20, 32))
    assert torch.isfinite(stated).all()
    assert torch.equal(stated, whole)


def test_one_item_alone_in_its_stratum_has_its_own_density() -> None:
    z, q = posterior(2)
    joint, marginals, _ = aggregate_posterior(z, q, torch.tensor([0, 1]), torch.tensor([1, 1]))
    torch.testing.assert_close(joint, q.log_prob(z).sum(1))
    torch.testing.assert_close(marginals, q.log_prob(z))


# Closed forms -------------------------------------------------------------------------------------------------------


def correlated(n: int, rho: float, share: float = 0.5, seed: int = 3) -> tuple[Tensor, DiagonalGaussian]:
    """Posteriors of variance `share` whose aggregate is N(0, [[1, ρ], [ρ, 1]]); the first two moments are exact."""
    noise = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    noise = noise - noise.mean(0)
    noise = torch.linalg.solve_triangular(torch.linalg.cholesky(noise.t() @ noise / n), noise.t(), upper=False).t()
    scatter = torch.tensor([[1 - share, rho], [rho, 1 - share]], dtype=torch.float64)
    log_var = torch.full((n, 2), math.log(share), dtype=torch.float64)
    q = DiagonalGaussian(noise[:, :2] @ torch.linalg.cholesky(scatter).t(), log_var)
    return q.rsample(noise[:, 2:]), q


@pytest.mark.slow
@pytest.mark.parametrize(("rho", "share"), [(0.0, 0.5), (0.45, 0.5), (0.6, 0.35), (-0.8, 0.15)])
def test_density_tc_of_a_correlated_gaussian_is_its_closed_form(rho: float, share: float) -> None:
    """TC = −½ log(1 − ρ²), in the regime where the estimator is to be trusted: D = 2, and KL far below log N."""
    n = 2000
    z, q = correlated(n, rho, share)
    zeros = torch.zeros_like(q.mean)
    assert q.kl(DiagonalGaussian(zeros, zeros)).sum(1).mean() < 0.3 * math.log(n)
    tc, _ = total_correlation(z, q, one_stratum(n), torch.tensor([n]))
    assert tc.mean().item() == pytest.approx(-0.5 * math.log(1 - rho**2), abs=0.005)


@pytest.mark.slow
def test_tc_of_a_mixture_is_a_matter_of_the_strata() -> None:
    """Two conditions far apart along the diagonal: TC(z) = log 2 from the mixture alone, and TC(z|c) = 0."""
    n = 1000
    z, q = correlated(n, rho=0.0)
    stratum = torch.arange(n) % 2
    shift = 20.0 * stratum[:, None]
    z, q = z + shift, DiagonalGaussian(q.mean + shift, q.log_var)
    pooled, _ = total_correlation(z, q, one_stratum(n), torch.tensor([n]))
    within, _ = total_correlation(z, q, stratum, torch.tensor([n // 2, n // 2]))
    assert pooled.mean().item() == pytest.approx(math.log(2), abs=0.03)
    assert within.mean().item() == pytest.approx(0, abs=0.03)


def test_above_its_regime_the_estimate_is_the_information_less_log_n() -> None:
    """Many sharp dimensions: independent ones too read as Σ_j I_j − log N. No fault, but why B and N are stated."""
    n, dims = 64, 20
    z, q = posterior(n, dims, log_var=-3.0)
    joint, marginals = (t.log() for t in true_density(z, q))
    tc, _ = total_correlation(z, q, one_stratum(n), torch.tensor([n]))
    information = (q.log_prob(z) - marginals).sum(1)
    torch.testing.assert_close(tc, information - math.log(n), rtol=0, atol=1e-3)
    assert (q.log_prob(z).sum(1) - joint).mean().item() == pytest.approx(math.log(n), abs=1e-3)


# Invariances and gradients ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("density", ["mss", "mws"])
def test_tc_follows_a_permutation_of_items_and_ignores_one_of_dimensions(density: str) -> None:
    z, q = posterior(48, 4)
    stratum, counts = torch.arange(48) % 2, torch.tensor([100, 300])
    tc, _ = total_correlation(z, q, stratum, counts, density)
    items = torch.randperm(48, generator=torch.Generator().manual_seed(0))
    permuted, _ = total_correlation(z[items], rows(q, items), stratum[items], counts, density)
    torch.testing.assert_close(permuted, tc[items], rtol=1e-12, atol=1e-12)
    dims = [2, 0, 3, 1]
    turned_q = DiagonalGaussian(q.mean[:, dims], q.log_var[:, dims])
    turned, _ = total_correlation(z[:, dims], turned_q, stratum, counts, density)
    torch.testing.assert_close(turned, tc, rtol=1e-12, atol=1e-12)


def test_tc_ignores_units_and_origin_of_each_dimension() -> None:
    z, q = posterior(32)
    scale, shift = torch.tensor([0.1, 3.0, -20.0]).double(), torch.tensor([5.0, -2.0, 0.3]).double()
    arguments = one_stratum(32), torch.tensor([99])
    moved = DiagonalGaussian(q.mean * scale + shift, q.log_var + 2 * scale.abs().log())
    tc, _ = total_correlation(z, q, *arguments)
    found, _ = total_correlation(z * scale + shift, moved, *arguments)
    torch.testing.assert_close(found, tc, rtol=1e-8, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("density", ["mss", "mws"])
def test_gradient_of_tc_is_right(density: str) -> None:
    z, q = posterior(34, 2)
    stratum, counts = torch.arange(34) % 2, torch.tensor([100, 40])
    inputs = tuple(t.clone().requires_grad_() for t in (z, *q))
    assert torch.autograd.gradcheck(
        lambda z, m, v: total_correlation(z, DiagonalGaussian(m, v), stratum, counts, density)[0], inputs
    )
