"""Partial pooling against its definitions: limits, an inverse, unbiased estimates, and cases by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from knowngood.models import partial_pooling
from knowngood.models.partial_pooling import Shares


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def covariances(groups: int, locations: int, features: int) -> Tensor:
    roots = torch.randn(groups, locations, features, 2 * features, generator=draw(), dtype=torch.float64)
    return roots @ roots.mT / (2 * features)


@pytest.mark.parametrize("features", [3, 176])
def test_separating_is_the_inverse_of_combining(features: int) -> None:
    moments, counts = covariances(3, 2, features), torch.tensor([[9.0, 9], [40, 0], [2, 2]])
    moments[1, 1] = 0  # a group has nothing of its own where none of its images counts
    everywhere = moments.mean(1)
    shares = Shares(torch.tensor([0.7, 0.2, 0.95]), torch.tensor([0.6, 0.1, 0.9]), 0.3)
    mixed = partial_pooling.combined(moments, everywhere, counts, shares)
    torch.testing.assert_close(partial_pooling.separated(mixed, everywhere, counts, shares), moments)


def test_shares_of_none_and_all_give_each_group_its_own_and_all_the_common_covariance() -> None:
    moments, counts = covariances(2, 3, 4), torch.tensor([[5.0] * 3, [13.0] * 3])
    own = partial_pooling.combined(moments, moments.mean(1), counts, Shares(torch.zeros(2), torch.zeros(2), 0.0))
    torch.testing.assert_close(own, moments)
    common = partial_pooling.combined(moments, moments.mean(1), counts, Shares(torch.ones(2), torch.zeros(2), 0.0))
    torch.testing.assert_close(common, ((4 * moments[0] + 12 * moments[1]) / 16).expand(2, -1, -1, -1))


def test_the_common_covariance_counts_less_with_every_image_and_alone_for_one() -> None:
    shares = partial_pooling.common_shares(torch.tensor([0.0, 1, 2, 11, 1e9]), 640)
    torch.testing.assert_close(shares, torch.tensor([1, 1, 10 / 11, 0.5, 0], dtype=torch.float64), rtol=1e-6, atol=1e-6)


def test_weights_of_two_groups_by_hand() -> None:
    """One feature, means ± 3 of 4 and 12 images, variance 2: Σ n d² = 16 · 27/16 · 4 …, worked out in fractions."""
    means, counts = torch.tensor([[[3.0]], [[-3.0]]]), torch.tensor([[4.0], [12.0]])
    centre, off = partial_pooling.deviations(means, counts)
    assert centre.item() == -1.5
    assert off.flatten().tolist() == [4.5, -1.5]
    weight, between = partial_pooling.mean_weights(off, counts, torch.tensor([[[2.0]]]), torch.ones(1, 1))
    spread, scale = 4 * 4.5**2 + 12 * 1.5**2, 16 - (4**2 + 12**2) / 16
    apart = (spread - 2) / scale
    torch.testing.assert_close(weight.flatten(), torch.tensor([apart / (apart + 2 / 4), apart / (apart + 2 / 12)]))
    torch.testing.assert_close((between[:, None, None] * partial_pooling.scatter(off, counts)).item(), apart)


@pytest.mark.parametrize("apart", [0.0, 0.05, 1.0])
def test_the_variance_of_means_is_estimated_without_bias_but_for_the_limit_at_zero(apart: float) -> None:
    """2,000 locations of 12 features and four groups of different size; equal groups get small weights."""
    counts = torch.tensor([3.0, 10, 10, 50])[:, None].expand(-1, 2000)
    truth = apart**0.5 * torch.randn(4, 2000, 12, generator=draw())
    means = truth + torch.randn(4, 2000, 12, generator=draw(1)) / counts[..., None].sqrt()
    _, off = partial_pooling.deviations(means, counts)
    weight, _ = partial_pooling.mean_weights(off, counts, torch.eye(12).expand(2000, -1, -1), torch.eye(12))
    wanted = counts[:, 0] * apart / (counts[:, 0] * apart + 1)
    torch.testing.assert_close(weight.mean(1), wanted, rtol=0.1, atol=0.2 if apart < 0.1 else 0.02)
    loss = [
        ((off * some[..., None] + (means - off) - truth) ** 2).mean() for some in (weight, 0 * weight, 0 * weight + 1)
    ]
    assert loss[0] < 1.1 * min(loss[1:])


def test_one_weight_for_all_values_of_a_group_tells_groups_apart_from_noise() -> None:
    counts = torch.tensor([10.0, 20, 40])[:, None, None].expand(-1, 30, 30)
    noise = torch.randn(3, 30, 30, generator=draw()) / counts.sqrt()
    assert partial_pooling.scalar_weights(noise, counts, 1.0).max() < 0.15
    moved = noise + torch.tensor([3.0, 0, -3])[:, None, None]
    assert partial_pooling.scalar_weights(moved, counts, 1.0).min() > 0.97


@pytest.mark.parametrize("common", [0.0, 0.4, 1.0])
def test_influence_is_that_of_one_image_on_the_covariance(common: float) -> None:
    """Σ − a·δδᵀ, up to the factors of the degrees of freedom, for the part of the group and for the common one."""
    x = torch.randn(2, 9, 3, generator=draw(), dtype=torch.float64)
    images, shares = torch.tensor([9.0, 9.0]), Shares(torch.full((2,), common), torch.zeros(2), 0.0)

    def parts(first: Tensor) -> tuple[Tensor, Tensor]:
        own = first.T.cov()
        return own, (own * (len(first) - 1) + x[1].T.cov() * 8) / (len(first) + 7)

    delta = x[0, 0] - x[0].mean(0)
    outer = torch.outer(delta, delta)
    (own, both), (own_left, both_left) = parts(x[0]), parts(x[0, 1:])
    a = float(partial_pooling.influence(images, shares)[0])
    removed = (1 - common) * (own - 7 / 8 * own_left) + common * (both - 15 / 16 * both_left)
    torch.testing.assert_close(a * outer, removed, rtol=1e-5, atol=1e-9)


def test_slopes_are_found_within_groups_and_are_zero_where_numbers_explain_nothing() -> None:
    """Groups that differ in the number and in the features, as bright and dark products do, give no slope."""
    generator, group = draw(), torch.arange(120) % 2
    c = torch.randn(120, 2, generator=generator) + 5 * group[:, None]
    c[:, 1] = 0.5 * c[:, 0] + c[:, 1]
    truth = torch.randn(20, 30, 2, generator=generator) * (torch.arange(20) < 10)[:, None, None]
    x = (
        torch.einsum("pfc,nc->nfp", truth, c)
        + torch.randn(120, 30, 20, generator=generator)
        + 40 * group[:, None, None]
    )
    found = partial_pooling.slopes(x, c, group)
    torch.testing.assert_close(found[:10], truth[:10], rtol=0.1, atol=0.45)
    assert (found[:10] - truth[:10]).square().mean().sqrt() < 0.15
    assert found[10:].abs().mean() < 0.03
    constant = partial_pooling.slopes(x, torch.cat([c, group[:, None] * 1.0], 1), group)
    torch.testing.assert_close(constant[..., :2], found, rtol=0.05, atol=0.02)
    assert constant[..., 2].abs().max() < 1e-4
