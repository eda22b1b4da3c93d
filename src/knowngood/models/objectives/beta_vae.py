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
        given, kl = self.options, elbo.kl.mean()
        if given.capacity is None:
            penalty = given.beta * kl
        else:
            grown = min(1.0, ctx.step / max(1.0, given.capacity_share * ctx.total_steps))
            penalty = given.gamma * (kl - given.capacity * grown).abs()
        loss = elbo.reconstruction.mean() + penalty
        return {"model": loss}, {"reconstruction": elbo.reconstruction, "kl": elbo.kl}
