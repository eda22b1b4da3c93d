"""InfoVAE: less of the KL, and the aggregate posterior drawn to the prior by a kernel distance instead."""

from __future__ import annotations

import torch
from torch import Tensor

from knowngood.models.base import Batch
from knowngood.models.distributions import full_precision_region
from knowngood.models.objectives.base import Context, Objective, elbo_terms
from knowngood.models.vae import ConditionalVAE


class InfoVAEObjective(Objective):
    """rec + (1−α)·KL + (α+λ−1)·MMD²(q(z), r(z)): InfoVAE with MMD as its divergence, arXiv:1706.02262."""

    conditional = False

    def loss(self, model: ConditionalVAE, batch: Batch, ctx: Context) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        elbo, given = elbo_terms(model, batch, ctx), self.options
        noise = torch.empty_like(elbo.z).normal_(generator=ctx.generator)
        target = model.prior(batch.c, like=elbo.z).rsample(noise)
        mmd = squared_mmd(elbo.z, target, given.kernel)
        loss = (elbo.reconstruction + (1 - given.alpha) * elbo.kl).mean()
        loss = loss + (given.alpha + given.lambda_mmd - 1) * mmd
        return {"model": loss}, {"reconstruction": elbo.reconstruction, "kl": elbo.kl, "mmd": mmd.expand(len(elbo.z))}


def squared_mmd(x: Tensor, y: Tensor, kernel: str) -> Tensor:
    """MMD² between draws x (A, D) and y (B, D), a scalar: the U-statistic, unbiased and so below 0 at times.

    k(x, y) = C/(C + |x−y|²) for "imq" and exp(−|x−y|²/C) for "rbf", with C = 2D, what |x−y|² is on average for two
    draws of N(0, I). Gretton et al., JMLR 2012, lemma 6.
    """
    return _pair_mean(x, kernel) + _pair_mean(y, kernel) - 2 * _kernel(x, y, kernel).mean()


def _pair_mean(x: Tensor, kernel: str) -> Tensor:
    """Mean of k over pairs of different rows; 0 for a single row."""
    values = _kernel(x, x, kernel)
    own = torch.eye(len(x), dtype=torch.bool, device=x.device)
    return values.masked_fill(own, 0).sum() / max(1, len(x) * (len(x) - 1))


def _kernel(x: Tensor, y: Tensor, kernel: str) -> Tensor:
    with full_precision_region(x):
        squared = x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.t()  # (A, B)
    scale = 2 * x.shape[1]
    return (-squared / scale).exp() if kernel == "rbf" else scale / (scale + squared)
