"""Conditional variational autoencoder."""

from __future__ import annotations

from torch import Tensor

from knowngood.config import CVAE
from knowngood.objectives.base import Batch, Context, Objective, elbo_terms
from knowngood.vae import ConditionalVAE


class CVAEObjective(Objective):
    """−E log p(x|z,c) + KL(q(z|x,c) ‖ r(z|c)). Sohn et al. 2015, eq. 4. Without conditions it is the VAE."""

    def __init__(self, options: CVAE) -> None:
        super().__init__()

    def loss(self, model: ConditionalVAE, batch: Batch, ctx: Context) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        elbo = elbo_terms(model, batch, ctx)
        loss = (elbo.reconstruction + elbo.kl).mean()
        return {"model": loss}, {"reconstruction": elbo.reconstruction, "kl": elbo.kl}
