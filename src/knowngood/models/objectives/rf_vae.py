"""Relevance-FactorVAE: FactorVAE that learns which dimensions are relevant, and leaves the others to the prior."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from knowngood.models.base import Batch
from knowngood.models.objectives.base import Context, elbo_terms
from knowngood.models.objectives.factor_vae import FactorVAEObjective
from knowngood.models.vae import ConditionalVAE

SPEED = 30.0


class RFVAEObjective(FactorVAEObjective):
    """rec + Σ_d λ(r_d)·KL_d + γ·TC(r⊙z) + η_S·Σ_d r_d + η_H·Σ_d H(r_d). arXiv:1902.01568.

    λ(r) = λ_max − (λ_max − λ_min)·r, H the binary entropy in nats, r = sigmoid(ρ) the relevance of each dimension. The
    model and the player "relevance" follow the same loss, each at its own rate; the discriminator sees r⊙z.

    At its default weight H outweighs all other terms, so that r would end where it began. Hence three stages. r stays
    where λ is about 1, and the model learns its codes; r moves, up for dimensions with more than η_S/(λ_max − λ_min)
    nats and down for the others; η_H rises and makes the choice final. With `relevance_from` and `entropy_from` 0 the
    first two stages are skipped.
    """

    raw_relevance: nn.Parameter  # (D,), made by `prepare`

    def prepare(self, model: ConditionalVAE) -> None:
        super().prepare(model)
        if not hasattr(self, "raw_relevance"):
            start = math.log(self.options.relevance_start / (1 - self.options.relevance_start)) / SPEED
            self.raw_relevance = nn.Parameter(next(model.parameters()).new_full((model.latent_dim,), start))

    def players(self, model: ConditionalVAE) -> dict[str, list[nn.Parameter]]:
        return {**super().players(model), "relevance": [self.raw_relevance]}

    def kept_state(self) -> dict[str, Tensor]:
        return {"raw_relevance": self.raw_relevance}

    @property
    def logits(self) -> Tensor:
        """ρ (D,). One number a dimension learns slowly beside a whole net: SPEED multiplies its learning rate."""
        return self.raw_relevance * SPEED

    @property
    def relevance(self) -> Tensor:
        """r (D,), from 0, a dimension left to the prior, to 1, one that carries what varies."""
        return self.logits.sigmoid()

    def loss(self, model: ConditionalVAE, batch: Batch, ctx: Context) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        given, done = self.options, ctx.step / max(1, ctx.total_steps)
        logits = self.logits if done >= given.relevance_from else self.logits.detach()
        r = logits.sigmoid()
        elbo = elbo_terms(model, batch, ctx)
        kl = elbo.posterior.kl(model.prior(batch.c, like=elbo.z))  # (B, D)
        weighted = (kl * (given.lambda_max - (given.lambda_max - given.lambda_min) * r)).sum(1)
        tc, against = self.discriminator.odds_and_loss(r * elbo.z, r * self.product_draw(model, ctx))
        relevant, entropy = r.sum(), binary_entropy(logits).sum()
        grown = max(0.0, done - given.entropy_from) / (1 - given.entropy_from)
        loss = (elbo.reconstruction + weighted + given.gamma * tc).mean()
        loss = loss + given.eta_s * relevant + given.eta_h * grown * entropy
        terms = {"reconstruction": elbo.reconstruction, "kl": elbo.kl, "weighted_kl": weighted, "tc": tc}
        terms |= {"relevant": relevant.expand(len(kl)), "relevance_entropy": entropy.expand(len(kl))}
        return {"model": loss, "discriminator": against, "relevance": loss}, terms


def binary_entropy(logits: Tensor) -> Tensor:
    """H(sigmoid(logits)) in nats, elementwise; right also where the sigmoid rounds to 0 or 1."""
    r = logits.sigmoid()
    return r * F.softplus(-logits) + (1 - r) * F.softplus(logits)
