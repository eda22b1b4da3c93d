"""A latent that tells the conditions apart, on top of any objective."""

from __future__ import annotations

import torch
from torch import Tensor

from knowngood.models.objectives.base import Batch, Context, Objective
from knowngood.models.objectives.wrapped import Wrapped
from knowngood.models.vae import ConditionalVAE, DiagonalGaussian


class ClassAware(Wrapped):
    """An objective plus weight · E[−log p(c|μ)], p(c|z) = π_c r(z|c) / Σ_k π_k r(z|k) the priors' Bayes classifier.

    It is taken at the posterior mean μ of x. An image that fits no condition then has no place among the priors, and
    its distance to the nearest one, the score `prior_distance`, is large.

    Args:
        vectors: (K, W) the encoded conditions there are; log_shares: (K,) log π.
    """

    vectors: Tensor
    log_shares: Tensor

    def __init__(self, base: Objective, weight: float, vectors: Tensor, log_shares: Tensor) -> None:
        super().__init__(base)
        self.weight = weight
        self.register_buffer("vectors", vectors.float(), persistent=False)
        self.register_buffer("log_shares", log_shares.float(), persistent=False)

    def loss(self, model: ConditionalVAE, batch: Batch, ctx: Context) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        losses, terms = self.base.loss(model, batch, ctx)
        assert batch.c is not None
        mean = model.encode(batch.x, batch.c).mean
        cost = -self.log_posterior(model, mean, batch.c)
        return {**losses, "model": losses["model"] + self.weight * cost.mean()}, {**terms, "class_error": cost}

    def log_posterior(self, model: ConditionalVAE, z: Tensor, c: Tensor) -> Tensor:
        """log p(c|z) (B,) of the given conditions (B, W)."""
        priors = model.prior(self.vectors, like=self.vectors)
        own = model.prior(c, like=z).log_prob(z).sum(1)
        each = DiagonalGaussian(priors.mean[:, None], priors.log_var[:, None]).log_prob(z).sum(2)  # (K, B)
        nearest = torch.cdist(c.to(self.vectors.dtype), self.vectors).argmin(1)  # which of the K it is, for its share
        return own + self.log_shares[nearest] - torch.logsumexp(each + self.log_shares[:, None], 0)
