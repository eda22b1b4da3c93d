"""Densities of the aggregate posterior q(z|c) = 1/N_c Σ_n q(z|n) from a batch, and the total correlation they give.

Two estimators (arXiv:1802.04942, App. C): MWS weighs every item of the batch alike; MSS, here in its symmetrised form,
weighs an item's own posterior by 1/N and the others by (N−1)/(N(B−1)), which makes the estimate of q(z) unbiased.
Both are computed within strata: N and B are those of the item's own stratum, and other strata have weight 0.
The logarithm makes log q(z), and so TC, biased all the same: read a TC together with the size of the batch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from knowngood.vae import LOG_2PI, DiagonalGaussian, full_precision_region

SMALLEST_GROUP = 16


def log_joint(z: Tensor, q: DiagonalGaussian) -> Tensor:
    """log q(z_i | n_j) over all D dimensions together, (B, B), row i and column j.

    Expanding the square turns it into matrix products. These cancel badly where σ is small and z_i was drawn from
    column i itself, so the diagonal is put in by the direct form.
    """
    inverse = (-q.log_var).exp()
    weighted = q.mean * inverse
    constant = (q.mean * weighted + q.log_var).sum(1) + z.shape[1] * LOG_2PI
    pairs = -0.5 * (z.square() @ inverse.t() - 2 * z @ weighted.t() + constant)
    own = torch.eye(len(z), dtype=torch.bool, device=z.device)
    return torch.where(own, q.log_prob(z).sum(1), pairs)


def log_marginals(z: Tensor, q: DiagonalGaussian) -> Tensor:
    """log q(z_id | n_j) of each dimension d by itself, (D, B, B)."""
    columns = DiagonalGaussian(q.mean.t().unsqueeze(1), q.log_var.t().unsqueeze(1))  # (D, 1, B)
    return columns.log_prob(z.t().unsqueeze(2))


def log_weights(stratum: Tensor, counts: Tensor, density: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Log weight of item j in the estimate at z_i, (B, B), −inf across strata; and each item's group size, (B,)."""
    same = stratum[:, None] == stratum[None, :]
    group = same.sum(1)
    n = torch.maximum(counts.to(stratum.device)[stratum], group).to(dtype)  # (B,)
    if density == "mws":
        weights = -(n * group).log()[:, None].expand(same.shape)
    else:
        own = torch.eye(len(stratum), dtype=torch.bool, device=stratum.device)
        others = ((n - 1) / (n * (group - 1).clamp(min=1))).log()
        weights = torch.where(own, -n.log()[:, None], others[:, None])
    return weights.masked_fill(~same, -math.inf), group


def aggregate_posterior(
    z: Tensor, q: DiagonalGaussian, stratum: Tensor, counts: Tensor, density: str = "mss"
) -> tuple[Tensor, Tensor, Tensor]:
    """log q̂(z_i|c_i) (B,), log q̂(z_id|c_i) (B, D), and group sizes (B,).

    Args:
        z: (B, D), z_i a draw from q's row i.
        stratum: (B,) int64; counts: (S,) training items of each stratum.
        density: "mss" or "mws".
    """
    with full_precision_region(z):
        weights, group = log_weights(stratum, counts, density, z.dtype)
        joint = torch.logsumexp(log_joint(z, q) + weights, dim=1)
        marginals = torch.logsumexp(log_marginals(z, q) + weights, dim=2).t()
    return joint, marginals, group


def total_correlation(
    z: Tensor, q: DiagonalGaussian, stratum: Tensor, counts: Tensor, density: str = "mss"
) -> tuple[Tensor, Tensor]:
    """log q̂(z|c) − Σ_d log q̂(z_d|c) of each item in nats, (B,): its mean estimates TC(z|c).

    Items whose stratum has fewer than 16 items in the batch get 0; the second result, (B,) bool, is False for them.
    """
    joint, marginals, group = aggregate_posterior(z, q, stratum, counts, density)
    estimated = group >= SMALLEST_GROUP
    return torch.where(estimated, joint - marginals.sum(1), 0.0), estimated
