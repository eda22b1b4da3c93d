"""Variational autoencoder."""

from __future__ import annotations

from torch import Tensor

from knowngood.models.base import Batch
from knowngood.models.objectives.base import Context, Objective, elbo_terms
from knowngood.models.vae import ConditionalVAE


class VAEObjective(Objective):
    """−E log p(x|z) + KL(q(z|x) ‖ r(z)): minus the variational lower bound of arXiv:1312.6114."""

    conditional = False

    def loss(self, model: ConditionalVAE, batch: Batch, ctx: Context) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        elbo = elbo_terms(model, batch, ctx)
        loss = (elbo.reconstruction + elbo.kl).mean()
        return {"model": loss}, {"reconstruction": elbo.reconstruction, "kl": elbo.kl}
