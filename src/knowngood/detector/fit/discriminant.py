"""What tells labelled anomalies from good items: a direction, and how sure it is that held-out ones gain by it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

NEWTON = 50  # steps at most


def logistic(x: Tensor, sign: Tensor, weight: Tensor, ridge: float) -> tuple[Tensor, float]:
    """Direction d (F,) and intercept a that minimise Σ weight · log(1 + exp(−sign·(x·d + a))) + ridge/2 · |d|².

    By Newton's method with halved steps: the objective is convex. x is (M, F) float64, sign (M,) is 1 or −1, and
    weight (M,) adds up to 1; the minimum is reached to 1e-9 of the gradient's length, or in 50 steps.
    """
    x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
    bend = torch.full((x.shape[1],), ridge, dtype=x.dtype)
    bend[-1] = 1e-6 * ridge  # the intercept is all but free
    d = torch.zeros_like(bend)

    def cost(d: Tensor) -> float:
        return float(-(weight * logsigmoid(sign * (x @ d))).sum() + (bend * d.square()).sum() / 2)

    now = cost(d)
    for _ in range(NEWTON):
        wrong = torch.sigmoid(-sign * (x @ d))
        gradient = bend * d - (x * (weight * sign * wrong)[:, None]).sum(0)
        if float(gradient.norm()) < 1e-9:
            break
        curved = (x * (weight * wrong * (1 - wrong))[:, None]).T @ x + torch.diag(bend)
        step = torch.cholesky_solve(gradient[:, None], torch.linalg.cholesky(curved))[:, 0]
        size = 1.0
        while size > 1e-6 and cost(d - size * step) > now:
            size /= 2
        d = d - size * step
        now = cost(d)
    return d[:-1], float(d[-1])


def found_among(odd: Tensor, good: Tensor) -> Tensor:
    """(N,) of each odd item the share of good ones that score lower, ties half: their mean is the AUROC."""
    return (odd[:, None] > good).double().mean(1) + (odd[:, None] == good).double().mean(1) / 2


def gain(before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """How much higher the AUROC is `after` than `before`, both scores of (odd items, good items), and its error.

    The standard error is that of two AUROCs on the same items (DeLong et al. 1988).
    """
    odd = found_among(*after) - found_among(*before)
    good = found_among(before[1], before[0]) - found_among(after[1], after[0])
    error = (odd.var(correction=0) / len(odd) + good.var(correction=0) / len(good)).sqrt()
    return float(odd.mean()), float(error)


def harm(before: Tensor, after: Tensor) -> float:
    """The most AUROC that an anomaly can lose whose own score stays, wherever that is, as good items' scores (n,) rise.

    It is max_s of F(s) − G(s), F and G the shares of good items that score at most s, before and after.
    """
    levels = torch.cat([before, after]).sort().values
    below = [torch.searchsorted(scores.sort().values, levels, right=True) for scores in (before, after)]
    return float((below[0] - below[1]).max()) / len(before)
