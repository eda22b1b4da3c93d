"""DIP-VAE: the VAE with the covariance of the aggregate posterior drawn towards the identity."""

from __future__ import annotations

import torch
from torch import Tensor

from knowngood.models.base import Batch
from knowngood.models.distributions import DiagonalGaussian, full_precision_region
from knowngood.models.objectives.base import Context, Objective, elbo_terms
from knowngood.models.vae import ConditionalVAE


class DIPVAEObjective(Objective):
    """rec + KL + λ_od·Σ_{i≠j} C_ij² + λ_d·Σ_i (C_ii − 1)². arXiv:1711.00848, eq. 6 (I) and 7 (II).

    C = Cov(μ) in form I, and Cov(μ) + E[diag σ²], the covariance of z itself, in form II; both over the batch.
    """

    conditional = False

    @property
    def diagonal(self) -> float:
        """λ_d, by default that published for the form."""
        default = self.options.lambda_od * (1 if self.options.form == "II" else 10)
        return default if self.options.lambda_d is None else self.options.lambda_d

    def loss(self, model: ConditionalVAE, batch: Batch, ctx: Context) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        elbo, given = elbo_terms(model, batch, ctx), self.options
        c = covariance(elbo.posterior, with_noise=given.form == "II")
        diagonal = c.diagonal()
        dependence = c.square().sum() - diagonal.square().sum()
        spread = (diagonal - 1).square().sum()
        loss = (elbo.reconstruction + elbo.kl).mean() + given.lambda_od * dependence + self.diagonal * spread
        terms = {"reconstruction": elbo.reconstruction, "kl": elbo.kl}
        n = len(elbo.z)
        return {"model": loss}, {**terms, "off_diagonal": dependence.expand(n), "diagonal": spread.expand(n)}


def covariance(q: DiagonalGaussian, with_noise: bool) -> Tensor:
    """Cov(μ) over the batch (D, D), divided by B, so that one item has 0; `with_noise` adds the mean of diag σ²."""
    centred = q.mean - q.mean.mean(0)
    with full_precision_region(centred):
        c = centred.t() @ centred / len(centred)
    return c + torch.diag(q.log_var.exp().mean(0)) if with_noise else c
