"""Densities of the aggregate posterior q(z|c) = 1/N_c Σ_n q(z|n) from a batch, and the total correlation they give.

Two estimators (arXiv:1802.04942): MWS (eq. 3) weighs every item of the batch alike; minibatch stratified sampling,
MSS, here in its symmetrised form, weighs an item's own posterior by 1/N and the others by (N−1)/(N(B−1)), which makes
the estimate of q(z) unbiased.
Both are computed within strata: N and B are those of the item's own stratum, and other strata have weight 0.
The logarithm makes log q(z), and so TC, biased all the same: read a TC together with the size of the batch.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from knowngood.models.distributions import LOG_2PI, DiagonalGaussian, full_precision_region

SMALLEST_GROUP = 16
SMALLEST_SPAN = 32
LN_2 = math.log(2)
ROOT = math.sqrt(0.5 / LN_2)  # exp(−½u²) = 2^−(ROOT·u)²

Spans = list[tuple[int, int]]


class LogMixture(torch.autograd.Function):
    """log Σ_j w_ij q(z_i|n_j), (B,), and log Σ_j w_ij q(z_id|n_j), (B, D), for j in the span of i.

    Arguments: z, μ and log σ², (B, D); log w, (B, B), a constant; the spans. With s = 1/σ and u_ij = s_j (z_i − μ_j), a
    dimension's term is log s_j − ½u_ij² − ½log 2π. All logarithms are to base 2, since powers of 2 are quick also where
    they underflow. The gradient is the closed form: that of log q(z_id|n_j) is a term's share of its sum.
    """

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, mean: Tensor, log_var: Tensor, weights: Tensor, spans: Spans
    ) -> tuple[Tensor, Tensor]:
        points, log_s = z.t().contiguous(), log_var.t().contiguous() * (-0.5 / LN_2)  # (D, B)
        s = log_s.exp2()
        scale = s * ROOT
        offset = -mean.t() * scale  # z·s − μ·s is off by what the rounding of z is worth: as good as (z − μ)·s
        weights = weights / LN_2
        joint, marginals, kept = torch.empty_like(points[0]), torch.empty_like(points), []
        for a, b in spans:
            w, own = weights[a:b, a:b], log_s[:, None, a:b]
            u = torch.addcmul(offset[:, None, a:b], points[:, a:b, None], scale[:, None, a:b])  # (D, M, M), times ROOT
            terms = u.square()
            joint[a:b], *of_joint = log_sum_(w + own.sum(0) - terms.sum(0))
            marginals[:, a:b], *of_each = log_sum_(torch.sub(w, terms, out=terms).add_(own))
            kept += [u, *of_joint, *of_each]
        ctx.save_for_backward(s, *kept)
        ctx.spans = spans
        return LN_2 * joint - 0.5 * LOG_2PI * len(points), (LN_2 * marginals - 0.5 * LOG_2PI).t()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_joint: Tensor, of_marginals: Tensor) -> tuple[Tensor | None, ...]:
        s, *kept = ctx.saved_tensors
        of_each = of_marginals.t()
        of_z, of_mean, of_log_var = (torch.empty_like(s) for _ in range(3))
        for k, (a, b) in enumerate(ctx.spans):
            u, together, whole, each, total = kept[5 * k : 5 * k + 5]
            g = together * (of_joint[a:b] / whole)[:, None]
            g = torch.addcmul(g, each, (of_each[:, a:b] / total)[:, :, None])  # of log q(z_id|n_j), (D, M, M)
            of_log_var[:, a:b] = -g.sum(1)
            g *= u
            of_mean[:, a:b] = g.sum(1)
            of_z[:, a:b] = (g * s[:, None, a:b]).sum(2)
            of_log_var[:, a:b] += g.mul_(u).sum(1) / ROOT**2
        return (of_z / -ROOT).t(), (of_mean * s / ROOT).t(), (0.5 * of_log_var).t(), None, None


def log_sum_(bits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log₂ Σ 2^bits over the last dimension, then each term and their sum, both as parts of the largest term.

    The terms take the place of `bits`.
    """
    largest = bits.amax(-1, keepdim=True)
    terms = bits.sub_(largest).exp2_()
    total = terms.sum(-1)
    return total.log2() + largest.squeeze(-1), terms, total


def spans_of(stratum: Tensor) -> tuple[Tensor | None, Spans]:
    """An order of the batch, or None for its own, and the spans of it that hold whole strata.

    On the CPU each stratum is a span, and small ones share one. Elsewhere all is one span: to look at the strata would
    make every step wait for the device, which has the arithmetic to spare.
    """
    if stratum.device.type != "cpu":
        return None, [(0, len(stratum))]
    order = stratum.argsort(stable=True)
    sizes = torch.unique_consecutive(stratum[order], return_counts=True)[1].tolist()
    if len(sizes) < 2:
        return None, [(0, len(stratum))]
    spans, start, end = [], 0, 0
    for size in sizes:
        end += size
        if end - start >= SMALLEST_SPAN or end == len(stratum):
            spans.append((start, end))
            start = end
    return order, spans


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
        order, spans = spans_of(stratum)
        if order is not None:
            z, stratum = z[order], stratum[order]
            q = DiagonalGaussian(q.mean[order], q.log_var[order])
        weights, group = log_weights(stratum, counts, density, z.dtype)
        joint, marginals = LogMixture.apply(z, *q, weights, spans)
        if order is not None:
            back = order.argsort()
            joint, marginals, group = joint[back], marginals[back], group[back]
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
