"""β-VAE, with a constant weight or with a growing capacity."""

from __future__ import annotations

from torch import Tensor

from knowngood.models.base import Batch
from knowngood.models.objectives.base import Context, Objective, elbo_terms
from knowngood.models.vae import ConditionalVAE


class BetaVAEObjective(Objective):
    """rec + β·KL (Higgins et al. 2017, eq. 4), or rec + γ·|KL − C_t| (arXiv:1804.03599, eq. 8).

    KL in the capacity form is the batch mean; C_t = C·min(1, step / (capacity_share · total steps)).
    """

    conditional = False

    def loss(self, model: ConditionalVAE, batch: Batch, ctx: Context) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        elbo = elbo_terms(model, batch, ctx)
        loss = elbo.reconstruction.mean() + self.penalty(elbo.kl.mean(), ctx)
        return {"model": loss}, {"reconstruction": elbo.reconstruction, "kl": elbo.kl}

    def penalty(self, kl: Tensor, ctx: Context) -> Tensor:
        if self.options.capacity is None:
            return self.options.beta * kl
        grown = min(1.0, ctx.step / max(1.0, self.options.capacity_share * ctx.total_steps))
        return self.options.gamma * (kl - self.options.capacity * grown).abs()
