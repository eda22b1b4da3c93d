"""Moments of K groups, each shrunk towards those that all groups share, by how much the groups differ: empirical Bayes.

The means of the groups are taken as drawn around a common mean, their covariances around a common covariance. How far
the means lie apart is estimated from all groups, by moments (DerSimonian and Laird 1986): groups that do not differ get
the common mean, those with many images of their own get their own. Covariances borrow a fixed number of degrees of
freedom. Gelman and Hill, Data Analysis Using Regression and Multilevel Models, 2007, name this partial pooling.

Moments are (K, p, …) at p locations, counts (K, p) of the images that they are from, 0 where a group has none.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

BORROWED = 1 / 64  # degrees of freedom of the common covariance, in features


class Shares(NamedTuple):
    """Weights (K,) in the covariance of a group: of the common one in it, and of the mean over locations in its own.

    overall: of the mean over locations in the common one.
    """

    common: Tensor
    own: Tensor
    overall: float


def common_shares(images: Tensor, features: int) -> Tensor:
    """(K,) weights of the common covariance for groups of so many images: ν / (ν + n − 1), ν = features / 64.

    That is the mean of an inverse Wishart distribution with ν degrees of freedom around the common covariance. The ν of
    the largest likelihood is up to 16 times as large, and detects less where groups have little in common.
    """
    dof, borrowed = (images - 1).clamp_min(0).double(), BORROWED * features
    return torch.where(dof > 0, borrowed / (borrowed + dof), 1.0)


def within(moments: Tensor, counts: Tensor) -> Tensor:
    """(p, …): the mean of moments (K, p, …) weighted by degrees of freedom, n − 1 of each group."""
    return _weighted(moments, _dof_shares(counts))


def deviations(means: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Means (K, p, F) → the mean of all images (p, F), and how those of groups deviate from it (K, p, F)."""
    centre = _weighted(means, counts / counts.sum(0).clamp_min(1))
    return centre, (means - centre).where((counts > 0)[..., None], 0)


def mean_weights(off: Tensor, counts: Tensor, covariance: Tensor, metric: Tensor) -> tuple[Tensor, Tensor]:
    """What share of its deviation `off` (K, p, F) the mean of a group keeps (K, p), and how far the means lie apart.

    With s = tr(M Σ) for the common covariance Σ (p, F, F) and a metric M (F, F), and τ the same of the covariance B of
    the means, Σ nₖ |offₖ|² has the expectation (K − 1) s + (N − Σ nₖ² / N) τ. That gives τ, and the weight
    τ / (τ + s / nₖ). B is b · Σ nₖ offₖ offₖᵀ; b (p,) is the second result.
    """
    total, groups = counts.sum(0), (counts > 0).sum(0)
    noise = (covariance * metric).sum((1, 2)).double()
    spread = (counts * ((off @ metric) * off).sum(2)).sum(0).double()
    scale = total - counts.square().sum(0) / total.clamp_min(1)
    apart = ((spread - (groups - 1).clamp_min(0) * noise) / scale.clamp_min(1e-12)).clamp_min(0).where(scale > 0, 0)
    weight = counts * apart / (counts * apart + noise).clamp_min(1e-12)
    return weight.to(off), (apart / spread.clamp_min(1e-12)).to(off)


def scalar_weights(values: Tensor, counts: Tensor, noise: float) -> Tensor:
    """(K,) what share of the deviation of its values (K, …) from their mean a group keeps, one for all its values.

    noise: variance of the value of a group of one image. As `mean_weights`, of the mean over all values.
    """
    total = counts.sum(0).clamp_min(1)
    off = values - (counts * values).sum(0) / total
    spread = (counts * off.square()).sum(0) - ((counts > 0).sum(0) - 1).clamp_min(0) * noise
    scale = (total - counts.square().sum(0) / total).sum().clamp_min(1e-12)
    apart = counts.flatten(1).amax(1) * (spread.sum() / scale).clamp_min(0)
    return apart / (apart + noise).clamp_min(1e-12)


def scatter(off: Tensor, counts: Tensor) -> Tensor:
    """(p, F, F): Σ nₖ offₖ offₖᵀ over the groups."""
    weighted = off * counts.to(off)[..., None]
    return weighted.permute(1, 2, 0) @ off.transpose(0, 1)


def slopes(x: Tensor, c: Tensor, group: Tensor) -> Tensor:
    """(p, F, C): how the mean of features x (N, F, p) moves with numbers c (N, C) within groups (N,), shrunk.

    Least squares along the principal components of c; of a component j the slope keeps the share
    1 − s / (D · |gⱼ|²) at a location, at least 0, with D degrees of freedom and s the variance that c leaves, in sums
    over features in units of their mean variance (James and Stein 1961). So it is 0 where c explains nothing.
    """
    off, x = c.double().clone(), x.clone()
    for k in group.unique().tolist():
        mine = group == k
        off[mine] -= off[mine].mean(0)
        x[mine] -= x[mine].mean(0)
    dof = max(1, len(x) - len(group.unique()) - c.shape[1])
    variance, axes = torch.linalg.eigh(off.T @ off / dof)
    whitening = axes * torch.where(variance > 1e-9, variance.clamp_min(1e-9).rsqrt(), 0)  # (C, C)
    found = torch.einsum("nfp,nc->pfc", x, (off @ whitening).to(x)) / dof
    left = (x.square().sum(0).T / dof - found.square().sum(2)).clamp_min(0)
    unit = left.mean(0).clamp_min(1e-12)
    explained = (found.square() / unit[:, None]).sum(1)  # (p, C)
    share = (1 - (left / unit).sum(1, keepdim=True) / (dof * explained).clamp_min(1e-12)).clamp_min(0)
    return (found * share[:, None]) @ whitening.T.to(x)


def combined(moments: Tensor, everywhere: Tensor, counts: Tensor, shares: Shares) -> Tensor:
    """Moments (K, p, …) shrunk towards their mean over locations `everywhere` (K, …), then towards the common ones."""
    common, own, mean = _wide(shares.common, moments), _wide(shares.own, moments), everywhere[:, None]
    alone = torch.lerp(moments, mean.to(moments), own)
    if len(moments) == 1:
        return alone
    lent = torch.lerp(within(moments, counts), within(mean, counts).to(moments), shares.overall)
    return alone.lerp_(lent, common)


def separated(mixed: Tensor, everywhere: Tensor, counts: Tensor, shares: Shares) -> Tensor:
    """The inverse of `combined`; where nothing is left of the moments of a group, their mean over locations."""
    common, own, mean = _wide(shares.common, mixed), _wide(shares.own, mixed), everywhere[:, None].to(mixed)
    kept, lent = (1 - common) * (1 - own), common * (1 - shares.overall)
    rest = mixed - (1 - common) * own * mean - common * shares.overall * within(mean, counts)
    known = kept > 0
    kept = kept.where(known, 1)
    whole = within(torch.where(known, rest / kept, mean), counts)
    whole /= 1 + within((lent / kept).where(known, 0).expand(*counts.shape, *lent.shape[2:]), counts)
    found = torch.where(known, (rest - lent * whole) / kept, mean)
    return found.where(_wide(counts, mixed) > 1, 0)


def influence(images: Tensor, shares: Shares) -> Tensor:
    """(K,) a: the covariance of a group without one of its images is Σ − a·δδᵀ up to a factor.

    δ is the deviation of the image from the mean of the group, with it.
    """
    dof = (images - 1).clamp_min(1)
    alone = (1 - shares.common) * (1 - shares.own) / dof
    lent = shares.common * (1 - shares.overall) / (images - 1).clamp_min(0).sum().clamp_min(1)
    return (alone + (lent if len(images) > 1 else 0)) * images / dof


def _weighted(values: Tensor, weights: Tensor) -> Tensor:
    """(p, …): the sum of values (K, p, …) times weights (K, p), ten times as fast as by `einsum`."""
    weights = _wide(weights, values)
    total = values[0] * weights[0]
    for value, weight in zip(values[1:], weights[1:], strict=True):
        total.addcmul_(value, weight)
    return total


def _dof_shares(counts: Tensor) -> Tensor:
    dof = (counts - 1).clamp_min(0)
    return dof / dof.sum(0).clamp_min(1)


def _wide(values: Tensor, like: Tensor) -> Tensor:
    """Values (K,) or (K, p) with as many dimensions as moments (K, p, …), and of their type."""
    return values.to(like).reshape(*values.shape, *[1] * (like.ndim - values.ndim))
