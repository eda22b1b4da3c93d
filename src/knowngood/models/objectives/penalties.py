"""Penalties for any objective: codes that separate the conditions, and labelled anomalies away from normal items."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from knowngood.config import Shift
from knowngood.models.base import Batch
from knowngood.models.distributions import DiagonalGaussian
from knowngood.models.objectives.base import Context, Objective, Penalty
from knowngood.models.vae import ConditionalVAE


class ClassAware(Penalty):
    """weight · E[−log p(c|μ)], with p(c|z) = π_c r(z|c) / Σ_k π_k r(z|k), the Bayes classifier of the priors.

    It is taken at the posterior mean μ of x. The code of an image that fits no condition then lies between the priors,
    and its distance to the nearest one, the score `prior_distance`, is large.

    Args:
        vectors: (K, W) the encoded conditions there are; log_shares: (K,) log π.
    """

    vectors: Tensor
    log_shares: Tensor

    def __init__(self, weight: float, vectors: Tensor, log_shares: Tensor) -> None:
        super().__init__()
        self.weight = weight
        self.register_buffer("vectors", vectors.float(), persistent=False)
        self.register_buffer("log_shares", log_shares.float(), persistent=False)

    def forward(
        self, objective: Objective, model: ConditionalVAE, batch: Batch, ctx: Context
    ) -> tuple[Tensor, dict[str, Tensor]]:
        assert batch.c is not None
        mean = model.encode(batch.x, batch.c).mean
        error = -self.log_posterior(model, mean, batch.c)
        return self.weight * error.mean(), {"class_error": error}

    def log_posterior(self, model: ConditionalVAE, z: Tensor, c: Tensor) -> Tensor:
        """log p(c|z) (B,) of the given conditions (B, W)."""
        priors = model.prior(self.vectors, like=self.vectors)
        own = model.prior(c, like=z).log_prob(z).sum(1)
        each = DiagonalGaussian(priors.mean[:, None], priors.log_var[:, None]).log_prob(z).sum(2)  # (K, B)
        nearest = torch.cdist(c.to(self.vectors.dtype), self.vectors).argmin(1)  # which of the K it is, for its share
        return own + self.log_shares[nearest] - torch.logsumexp(each + self.log_shares[:, None], 0)


class Labelled(Penalty):
    """weight · (the objective's `anomaly_loss` of the labelled anomalies), once the warm-up on normal items is over.

    The codes of anomalies are drawn to N(shift·1, I) with the decoder held fixed (DAn-VAE, arXiv:1911.04971). Without
    anomalies in the context it is 0.
    """

    def __init__(self, options: Shift) -> None:
        super().__init__()
        self.options = options

    def forward(
        self, objective: Objective, model: ConditionalVAE, batch: Batch, ctx: Context
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if ctx.anomalies is None or ctx.step < self.options.warmup * ctx.total_steps:
            return batch.x.new_zeros(()), {}
        anomalies = under_known_conditions(ctx.anomalies, batch, ctx.generator)
        cost = objective.anomaly_loss(model, anomalies, ctx, self.options.shift)
        return self.options.weight * cost, {"labelled": cost.detach().expand(len(batch.x))}


def under_known_conditions(anomalies: Batch, normals: Batch, generator: torch.Generator) -> Batch:
    """Anomalies whose conditions are unknown (a row with NaN), under those of normal items drawn from the batch."""
    if anomalies.c is None or normals.c is None:
        return anomalies
    draw = torch.randint(len(normals.x), (len(anomalies.x),), generator=generator, device=anomalies.c.device)
    unknown = anomalies.c.isnan().any(1, keepdim=True)
    return replace(anomalies, c=torch.where(unknown, normals.c[draw], anomalies.c))
